//! `hwshim bench ADDRESS`: single operations, an accelerator against this CPU, slice by slice in one
//! run.
//!
//! Slices of both alternate, so that a busy moment of the host hits both. What is measured is
//! what an application gets: answers verified before they are released, and done in software
//! when the accelerator does not answer.

mod measure;
mod page;

use super::machine::Machine;
use super::{PageFile, hand_over};
use crate::cli::crypto_mb::CryptoMb;
use crate::cli::output::{Failure, Output, Table};
use crate::cli::{selftest, serve};
use hwshim::accelerator::{Operation, Secret, State};
use hwshim::address::{Address, Opened};
use hwshim::clock::{Clock, SystemClock};
use hwshim::kat;
use hwshim::key::{AeadKey, CipherKey, HashAlgorithm, MacKey, SignatureScheme, SigningKey};
use hwshim::router::breaker;
use hwshim::router::core::{Core, LaneStatus, Offload, Options, Requests};
use hwshim::router::direct::Direct;
use indicatif::{ProgressBar, ProgressStyle};
use measure::{Measured, measure_accelerator, measure_software};
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What is to be measured.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Address of the accelerator, e.g. vfio-user:./card.sock
    #[arg(required = true)]
    address: Option<Address>,
    /// Operations, separated by commas.
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        value_enum,
        default_value = "rsa-2048-sign,p256-sign,aes-256-gcm-1k"
    )]
    ops: Vec<Op>,
    /// Operations in flight at the accelerator, which takes 256 at most.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=256))]
    depth: u16,
    /// Time for each operation of the list, shared by accelerator and software.
    #[arg(long = "for", value_name = "TIME", default_value = "5s", value_parser = serve::positive_duration)]
    duration: Duration,
    /// Time the accelerator has for one operation before software does it.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = serve::positive_duration)]
    timeout: Duration,
    #[command(flatten)]
    crypto_mb: CryptoMb,
    /// Print one JSON document for programs.
    #[arg(long)]
    json: bool,
    /// Also write a page with plots, which needs nothing else to be read.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Op {
    /// RSASSA-PSS with SHA-256, 2048 bits.
    #[value(name = "rsa-2048-sign")]
    Rsa2048Sign,
    /// RSASSA-PSS with SHA-256, 3072 bits.
    #[value(name = "rsa-3072-sign")]
    Rsa3072Sign,
    /// RSASSA-PSS with SHA-256, 4096 bits.
    #[value(name = "rsa-4096-sign")]
    Rsa4096Sign,
    /// ECDSA with P-256 and SHA-256.
    #[value(name = "p256-sign")]
    P256Sign,
    /// ECDSA with P-384 and SHA-384.
    #[value(name = "p384-sign")]
    P384Sign,
    /// AES-256-GCM of 1 KiB.
    #[value(name = "aes-256-gcm-1k")]
    Gcm1k,
    /// AES-256-GCM of 16 KiB.
    #[value(name = "aes-256-gcm-16k")]
    Gcm16k,
    /// AES-256-CBC of 1 KiB.
    #[value(name = "aes-256-cbc-1k")]
    Cbc1k,
    /// SHA-256 of 1 KiB.
    #[value(name = "sha256-1k")]
    Sha256,
    /// HMAC-SHA-256 of 1 KiB.
    #[value(name = "hmac-sha256-1k")]
    HmacSha256,
}

impl Op {
    fn name(self) -> String {
        use clap::ValueEnum as _;
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Returns a source of operations. Each is different, so that nothing can answer from memory.
    fn operations(self) -> Box<dyn FnMut() -> Operation> {
        let mut number = 0_u64;
        let mut next = move || {
            number += 1;
            number
        };
        let sign = |key: Arc<SigningKey>, scheme| -> Box<dyn FnMut() -> Operation> {
            Box::new(move || Operation::Sign {
                key: Arc::clone(&key),
                scheme,
                // As long as what a TLS 1.3 server signs with SHA-256.
                message: numbered(next(), 130),
            })
        };
        match self {
            Self::Rsa2048Sign => sign(kat::rsa_2048_key(), SignatureScheme::RsaPssSha256),
            Self::Rsa3072Sign => sign(kat::rsa_3072_key(), SignatureScheme::RsaPssSha256),
            Self::Rsa4096Sign => sign(kat::rsa_4096_key(), SignatureScheme::RsaPssSha256),
            Self::P256Sign => sign(kat::p256_key(), SignatureScheme::EcdsaP256Sha256),
            Self::P384Sign => sign(kat::p384_key(), SignatureScheme::EcdsaP384Sha384),
            Self::Gcm1k => seal(1024),
            Self::Gcm16k => seal(16 * 1024),
            Self::Cbc1k => {
                let key = Arc::new(CipherKey::new(&[7; 32]).expect("32 bytes are an AES-256 key"));
                Box::new(move || Operation::Cbc {
                    key: Arc::clone(&key),
                    direction: hwshim::accelerator::Direction::Encrypt,
                    iv: [1; 16],
                    data: numbered(next(), 1024),
                })
            }
            Self::Sha256 => Box::new(move || Operation::Digest {
                hash: HashAlgorithm::Sha256,
                message: numbered(next(), 1024),
            }),
            Self::HmacSha256 => {
                let key = Arc::new(MacKey::new(HashAlgorithm::Sha256, &[9; 32]));
                Box::new(move || Operation::Mac {
                    key: Arc::clone(&key),
                    message: numbered(next(), 1024),
                })
            }
        }
    }
}

fn seal(len: usize) -> Box<dyn FnMut() -> Operation> {
    let key = Arc::new(AeadKey::new(&[5; 32]).expect("32 bytes are an AES-256 key"));
    let mut number = 0_u64;
    Box::new(move || {
        number += 1;
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&number.to_be_bytes());
        Operation::Seal {
            key: Arc::clone(&key),
            nonce,
            aad: Vec::new(),
            plaintext: numbered(number, len),
        }
    })
}

/// A message of `len` bytes that differs from all others.
fn numbered(number: u64, len: usize) -> Secret {
    let mut message = vec![0x20; len];
    message[..8].copy_from_slice(&number.to_le_bytes());
    Secret::from(message)
}

#[derive(Serialize)]
struct Report {
    schema: u32,
    machine: Machine,
    address: String,
    depth: u16,
    operations: Vec<Comparison>,
    /// Where the requests of the whole run went.
    requests: Sum,
    /// How the accelerator stood at the end: `ready`, `needs-reset`, or `gone`.
    state: &'static str,
    /// Times it was taken out of use.
    breaker_opened: u64,
    /// Algorithms that it offers and was found not to do.
    lacking: Vec<&'static str>,
    /// Keys that it refused although it does the algorithm.
    keys_refused: usize,
}

#[derive(Serialize)]
struct Comparison {
    operation: String,
    accelerator: Measured,
    software: Measured,
    /// Operations per second, accelerator against software.
    throughput_ratio: f64,
    /// Processor time of this process per operation, accelerator against software.
    cpu_ratio: f64,
}

#[derive(Serialize)]
struct Sum {
    #[serde(flatten)]
    requests: Requests,
    adds_up: bool,
}

/// Slices of each side; enough that a disturbance of a second does not decide.
const SLICES: u32 = 10;

/// Measures.
pub(super) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let Some(address) = &args.address else {
        return Err(
            Failure::new("nothing was measured", "no accelerator was named")
                .hint("give its address, as in: hwshim bench software:multi-buffer"),
        );
    };
    args.crypto_mb.check()?;
    let machine = Machine::look();
    let file = args.html.as_deref().map(PageFile::look).transpose()?;
    let mut router = bring_up(address, args)?;
    let bar = progress_bar(args);
    let mut comparisons = Vec::new();
    for op in &args.ops {
        bar.set_message(op.name());
        comparisons.push(compare(*op, args, &mut router, &bar));
    }
    bar.finish_and_clear();
    let status = router.core().status(0);
    let report = Report {
        schema: 1,
        machine,
        address: address.to_string(),
        depth: args.depth,
        operations: comparisons,
        requests: Sum {
            requests: status.requests,
            adds_up: status.requests.add_up(),
        },
        state: match status.state {
            Some(State::Ready) => "ready",
            Some(State::NeedsReset) | None => "needs-reset",
            Some(State::Gone) => "gone",
        },
        breaker_opened: status.breaker_opened,
        lacking: status.lacking.iter().map(|one| one.name()).collect(),
        keys_refused: status.keys_refused,
    };
    let page = || page::of(&report);
    hand_over(output, file, page, |output| match args.json {
        true => output.json(&report),
        false => print(&report, &status, output),
    })
}

fn bring_up(address: &Address, args: &Args) -> Result<Direct, Failure> {
    let cannot = || format!("{address} cannot be brought up");
    let Opened { accelerator, .. } = address
        .open_accelerator_with(&args.crypto_mb.options())
        .map_err(|error| Failure::new(cannot(), error))?;
    let options = Options {
        timeout: args.timeout,
        offload: Offload::EVERYTHING,
        ..Options::default()
    };
    let clock = Arc::new(SystemClock);
    let mut router = Direct::new(
        Core::new(vec![accelerator], options),
        Arc::clone(&clock) as _,
    );
    router.settle_accelerators(clock.now().plus(Duration::from_secs(10)));
    let status = router.core().status(0);
    match (status.breaker, status.failure) {
        (breaker::State::Closed { .. }, _) => Ok(router),
        (_, Some(error)) => Err(Failure::new(cannot(), error).hint(selftest::hint(address))),
        (_, None) => Err(Failure::new(cannot(), "it did not pass its trial in 10 s")),
    }
}

fn progress_bar(args: &Args) -> ProgressBar {
    let steps = u64::from(SLICES) * 2 * args.ops.len() as u64;
    let style = ProgressStyle::with_template("{msg:18} {bar:40} {percent:>3} %  {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    // Draws on standard error, and only if that is a terminal.
    ProgressBar::new(steps).with_style(style)
}

fn compare(op: Op, args: &Args, router: &mut Direct, bar: &ProgressBar) -> Comparison {
    let slice = args.duration / (2 * SLICES);
    let clock = SystemClock;
    let mut accelerator = Measured::new();
    let mut software = Measured::new();
    let mut operations = op.operations();
    for _ in 0..SLICES {
        measure_accelerator(
            router,
            &mut operations,
            args.depth,
            slice,
            &clock,
            &mut accelerator,
        );
        bar.inc(1);
        measure_software(&mut operations, slice, &clock, &mut software);
        bar.inc(1);
    }
    accelerator.summarize();
    software.summarize();
    Comparison {
        operation: op.name(),
        throughput_ratio: accelerator.operations_per_second / software.operations_per_second,
        cpu_ratio: accelerator.cpu_us_per_operation / software.cpu_us_per_operation,
        accelerator,
        software,
    }
}

fn print(report: &Report, status: &LaneStatus, output: &mut Output) -> Result<(), Failure> {
    let header = [
        "OPERATION",
        "WHERE",
        "OPS/S",
        "P50 us",
        "P99 us",
        "CPU us/OP",
        "BY CARD",
        "SOFTWARE",
    ];
    let mut table = Table::new(&header, 1);
    for comparison in &report.operations {
        let sides = [
            (report.address.as_str(), &comparison.accelerator),
            ("software:ring", &comparison.software),
        ];
        for (name, measured) in sides {
            table.push(vec![
                comparison.operation.clone().into(),
                name.to_owned().into(),
                format!("{:.0}", measured.operations_per_second).into(),
                format!("{:.1}", measured.p50_us).into(),
                format!("{:.1}", measured.p99_us).into(),
                format!("{:.2}", measured.cpu_us_per_operation).into(),
                measured.answered_by_card.to_string().into(),
                measured.answered_by_software.to_string().into(),
            ]);
        }
    }
    output.table(&table)?;
    output.line("")?;
    for comparison in &report.operations {
        output.line(format_args!(
            "{}: {:.2}x the operations/s of software, {:.2}x its processor time per operation",
            comparison.operation, comparison.throughput_ratio, comparison.cpu_ratio
        ))?;
    }
    let Requests {
        submitted,
        card,
        software,
        refused,
        wrong_answers,
        ..
    } = report.requests.requests;
    output.line(format_args!(
        "{submitted} operations: {card} answered by {}, {software} by software, {refused} failed; \
         {wrong_answers} wrong answers stopped",
        report.address
    ))?;
    let Report { address, state, .. } = report;
    if !report.lacking.is_empty() {
        let lacking = report.lacking.join(", ");
        output.warn(format_args!(
            "{address} lacks {lacking}, which it seemed to offer; software does that"
        ))?;
    }
    if report.keys_refused > 0 {
        let keys = report.keys_refused;
        output.warn(format_args!(
            "{address} refused {keys} of the keys; software signs with them"
        ))?;
    }
    if !matches!(status.breaker, breaker::State::Closed { .. }) {
        output.warn(format_args!(
            "{address} is out of use ({}) and {state}; software has taken over",
            status.breaker_opened_by
        ))?;
    }
    Ok(())
}
