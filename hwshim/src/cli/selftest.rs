//! `hwshim selftest`: known-answer tests on one accelerator.
//!
//! The accelerator is driven directly, with no router to catch it: what fails here fails.

use super::crypto_mb::CryptoMb;
use super::output::{Cell, Failure, Output, Style, Table};
use super::{not_owned, serve};
use hwshim::accelerator::{
    Accelerator, Algorithm, Completion, DeviceError, DeviceMisbehaved, Request, RequestId,
};
use hwshim::address::{Address, Opened};
use hwshim::clock::{Clock, SystemClock};
use hwshim::kat::{self, KnownAnswer};
use serde::Serialize;
use std::time::Duration;

/// Test every algorithm of an accelerator against known answers.
///
/// What the accelerator does not offer is listed and not held against it. Exit code 1 if a test
/// failed, or none could be run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Address of the accelerator, e.g. vfio-user:./card.sock
    address: Address,
    /// Time the accelerator has for each test.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = serve::positive_duration)]
    timeout: Duration,
    #[command(flatten)]
    crypto_mb: CryptoMb,
    /// Print one JSON document for programs.
    #[arg(long)]
    json: bool,
}

/// What became of one algorithm.
#[derive(Serialize)]
struct Line {
    algorithm: &'static str,
    #[serde(flatten)]
    verdict: Verdict,
}

#[derive(Serialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
enum Verdict {
    Passed { latency_us: u64 },
    NotOffered,
    Failed { code: &'static str, reason: String },
}

#[derive(Serialize)]
struct Report {
    schema: u32,
    address: String,
    passed: usize,
    not_offered: usize,
    failed: usize,
    algorithms: Vec<Line>,
}

/// Runs the tests.
pub(crate) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    args.crypto_mb.check()?;
    not_owned(std::slice::from_ref(&args.address))?;
    let mut accelerator = open(&args.address, &args.crypto_mb)?;
    let mut lines = Vec::new();
    let mut rsa_works = false;
    for algorithm in Algorithm::all() {
        let verdict = test_algorithm(&mut *accelerator, algorithm, rsa_works, args.timeout);
        rsa_works |= algorithm.is_variant() && matches!(verdict, Verdict::Passed { .. });
        lines.push(Line {
            algorithm: algorithm.name(),
            verdict,
        });
    }
    let count =
        |wanted: fn(&Verdict) -> bool| lines.iter().filter(|line| wanted(&line.verdict)).count();
    let report = Report {
        schema: 1,
        address: args.address.to_string(),
        passed: count(|verdict| matches!(verdict, Verdict::Passed { .. })),
        not_offered: count(|verdict| matches!(verdict, Verdict::NotOffered)),
        failed: count(|verdict| matches!(verdict, Verdict::Failed { .. })),
        algorithms: lines,
    };
    if args.json {
        output.json(&report)?;
    } else {
        print(&report, output)?;
    }
    let Report { passed, failed, .. } = report;
    if failed > 0 {
        return Err(Failure::new(
            format!("{} failed its self-test", args.address),
            format!(
                "{failed} of {} algorithms gave no right answer",
                passed + failed
            ),
        )
        .hint("do not use this accelerator; note firmware and serial number for its maker"));
    }
    if passed == 0 {
        return Err(Failure::new(
            format!("{} could not be tested", args.address),
            "it offers none of the algorithms this program knows",
        ));
    }
    Ok(())
}

/// Opens the accelerator and brings it up.
fn open(address: &Address, crypto_mb: &CryptoMb) -> Result<Box<dyn Accelerator>, Failure> {
    let cannot = || format!("{address} cannot be brought up");
    let Opened {
        mut accelerator, ..
    } = address
        .open_accelerator_with(&crypto_mb.options())
        .map_err(|error| Failure::new(cannot(), error))?;
    accelerator
        .reset(&mut Vec::new())
        .map_err(|error| Failure::new(cannot(), error).hint(hint(address)))?;
    Ok(accelerator)
}

/// What to look at when an accelerator does not come up.
pub(super) fn hint(address: &Address) -> &'static str {
    match address {
        Address::VfioUser(_) => {
            "see that its server runs, what that says, and that no other process has the card; a simulated card is: firmware-sim run --socket PATH"
        }
        _ => "see how it can be used with: hwshim list",
    }
}

/// Runs the tests of one algorithm: all must pass.
fn test_algorithm(
    accelerator: &mut dyn Accelerator,
    algorithm: Algorithm,
    rsa_works: bool,
    timeout: Duration,
) -> Verdict {
    if !accelerator.offers(algorithm) {
        return Verdict::NotOffered;
    }
    let mut slowest = Duration::ZERO;
    for test in kat::of(algorithm) {
        match run_test(accelerator, test, timeout) {
            Ok(latency) => slowest = slowest.max(latency),
            // Masks say RSA and leave open which paddings and hashes; what the card then refuses a
            // session for is not offered. The same goes for what it calls unsupported. QEMU's
            // device opens sessions for PSS all the same, and refuses each request.
            Err(DeviceError::SessionRefused(_))
                if algorithm.is_variant() || !accelerator.offers(algorithm) =>
            {
                return Verdict::NotOffered;
            }
            Err(error) if error.is_refusal() && algorithm.is_variant() && rsa_works => {
                return Verdict::NotOffered;
            }
            Err(error) => {
                // Whatever it did, the next test gets a card that has been reset.
                let _ = accelerator.reset(&mut Vec::new());
                return Verdict::Failed {
                    code: error.code(),
                    reason: error.to_string(),
                };
            }
        }
    }
    Verdict::Passed {
        latency_us: u64::try_from(slowest.as_micros()).unwrap_or(u64::MAX),
    }
}

fn run_test(
    accelerator: &mut dyn Accelerator,
    test: &KnownAnswer,
    timeout: Duration,
) -> Result<Duration, DeviceError> {
    let clock = SystemClock;
    let begun = clock.now();
    let request = Request {
        id: RequestId {
            index: 0,
            generation: 0,
        },
        operation: test.operation().into(),
        deadline: begun.plus(timeout),
    };
    if let Err(rejected) = accelerator.submit(request, begun) {
        let reason = format!("the request was not taken: {:?}", rejected.reason);
        return Err(DeviceError::NotUsable(reason));
    }
    let mut completions = Vec::new();
    // Ends by the request's own deadline, at which the accelerator hands it back.
    while completions.is_empty() {
        accelerator.poll(clock.now(), &mut completions);
        std::hint::spin_loop();
    }
    if let Some(fault) = accelerator.take_fault() {
        return Err(fault);
    }
    let Completion { request, output } = completions.swap_remove(0);
    if test.accepts(&request.operation, output?) {
        Ok(clock.now().since(begun))
    } else {
        Err(DeviceMisbehaved::WrongAnswer.into())
    }
}

fn print(report: &Report, output: &mut Output) -> Result<(), Failure> {
    let mut table = Table::new(&["ALGORITHM", "RESULT", "TIME", "REASON"], 3);
    for Line { algorithm, verdict } in &report.algorithms {
        let (result, time, reason) = match verdict {
            Verdict::Passed { latency_us } => (
                Cell::styled("passed", Style::Good),
                format!("{latency_us} us"),
                String::new(),
            ),
            Verdict::NotOffered => (
                Cell::styled("not offered", Style::Caution),
                "-".to_owned(),
                String::new(),
            ),
            Verdict::Failed { code, reason } => (
                Cell::styled("FAILED", Style::Bad),
                "-".to_owned(),
                format!("{code}: {reason}"),
            ),
        };
        table.push(vec![
            (*algorithm).into(),
            result,
            time.into(),
            reason.into(),
        ]);
    }
    output.table(&table)?;
    output.line(format_args!(
        "\n{}: {} passed, {} not offered, {} failed",
        report.address, report.passed, report.not_offered, report.failed
    ))
}
