//! `cargo xtask fuzz`: libFuzzer on the stable toolchain.
//!
//! ```text
//! target/fuzz/corpus/TARGET/    inputs that reach something new; kept, so that runs add up
//! target/fuzz/crashes/TARGET-*  inputs that broke something
//! target/fuzz/build/            instrumented build
//! ```
//!
//! The instrumentation is LLVM's own pass, which stable rustc can be asked for. AddressSanitizer
//! would need another standard library; without it, what is found is panics, overflows, hangs and
//! memory that grows without bound.

use crate::process::{cargo, host, output, root, run as run_command};
use anyhow::{Context, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const RUSTFLAGS: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Clink-dead-code -Ccodegen-units=1 --cfg fuzzing";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How long to try each target, such as 30s, 10m or 2h.
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    time: Duration,
    /// Targets to try; all of them if none is named.
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
}

/// What libFuzzer said about one target.
#[derive(Debug, Default, Eq, PartialEq)]
struct Statistics {
    executions: u64,
    /// Edges of the control flow graph that some input of the corpus has taken.
    coverage: u64,
}

struct Report {
    target: String,
    statistics: Statistics,
    /// The input that broke something; libFuzzer stops at the first.
    crash: Option<String>,
}

/// Fuzzes.
///
/// # Errors
///
/// If a target is unknown, the build fails, or an input broke something.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let directory = root().join("target/fuzz");
    let known = write_seeds(&directory)?;
    let targets = chosen(&arguments.targets, &known)?;
    let crashes = directory.join("crashes");
    std::fs::create_dir_all(&crashes).context("target/fuzz/crashes could not be created")?;
    let binary = build(&directory)?;
    let mut reports = Vec::new();
    for target in targets {
        println!("fuzzing {target} for {:?}", arguments.time);
        reports.push(fuzz(&binary, &directory, target, arguments.time)?);
    }
    print_table(&reports);
    print_replays(&binary, &reports);
    if reports.iter().any(|report| report.crash.is_some()) {
        bail!("some input broke something");
    }
    Ok(())
}

/// Writes the honest inputs, and returns the names of all targets.
fn write_seeds(directory: &Path) -> anyhow::Result<Vec<String>> {
    let mut seeds = cargo([
        "run",
        "--quiet",
        "--package",
        "fuzz",
        "--bin",
        "fuzz-seeds",
        "--",
    ]);
    let names = output(seeds.arg(directory.join("corpus")))?;
    Ok(names.lines().map(str::to_owned).collect())
}

fn chosen<'a>(asked: &[String], known: &'a [String]) -> anyhow::Result<Vec<&'a String>> {
    for name in asked {
        if !known.contains(name) {
            bail!("{name} is no target; there are: {}", known.join(", "));
        }
    }
    let wanted = |name: &&String| asked.is_empty() || asked.contains(name);
    Ok(known.iter().filter(wanted).collect())
}

/// Builds the instrumented binary. An explicit `--target` keeps the flags away from build scripts
/// and procedural macros, which could not be linked with them.
fn build(directory: &Path) -> anyhow::Result<PathBuf> {
    let triple = host()?;
    let build = directory.join("build");
    let mut command = cargo([
        "build",
        "--release",
        "--package",
        "fuzz",
        "--features",
        "link",
        "--bin",
        "fuzz-libfuzzer",
        "--target",
        &triple,
        "--target-dir",
    ]);
    command
        .arg(&build)
        .env("RUSTFLAGS", RUSTFLAGS)
        .env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true")
        .env("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "true")
        .env("CARGO_PROFILE_RELEASE_LTO", "off");
    run_command(&mut command).context("libFuzzer's runtime is C++; on Debian, install g++")?;
    Ok(build.join(triple).join("release/fuzz-libfuzzer"))
}

fn fuzz(binary: &Path, directory: &Path, target: &str, time: Duration) -> anyhow::Result<Report> {
    let crashes = directory.join("crashes");
    let mut command = Command::new(binary);
    command
        .env("FUZZ_TARGET", target)
        .arg(format!("-max_total_time={}", time.as_secs().max(1)))
        .arg("-print_final_stats=1")
        .arg("-timeout=10")
        .arg("-rss_limit_mb=2048")
        .arg("-max_len=8192")
        .arg(format!("-artifact_prefix={}/{target}-", crashes.display()))
        .arg(directory.join("corpus").join(target));
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{} could not be started", binary.display()))?;
    let log = String::from_utf8_lossy(&output.stderr);
    let mut crash = None;
    if !output.status.success() {
        let progress = |line: &&str| line.starts_with('#');
        log.lines()
            .filter(|line| !progress(line))
            .for_each(|line| println!("{line}"));
        crash = crash_file(&log).map(str::to_owned);
        if crash.is_none() {
            bail!("libFuzzer failed on {target} ({})", output.status);
        }
    }
    Ok(Report {
        target: target.to_owned(),
        statistics: statistics(&log),
        crash,
    })
}

/// Where libFuzzer says that it has put the input that broke something.
fn crash_file(log: &str) -> Option<&str> {
    log.lines()
        .find_map(|line| line.split_once("Test unit written to "))
        .map(|(_, path)| path)
}

/// Reads the numbers out of libFuzzer's log.
fn statistics(log: &str) -> Statistics {
    let mut statistics = Statistics::default();
    for line in log.lines() {
        let mut words = line.split_whitespace();
        if line.starts_with('#') {
            let coverage = words.skip_while(|word| *word != "cov:").nth(1);
            if let Some(coverage) = coverage.and_then(|word| word.parse().ok()) {
                statistics.coverage = coverage;
            }
        } else if words.next() == Some("stat::number_of_executed_units:") {
            let executions = words.next().and_then(|word| word.parse().ok());
            statistics.executions = executions.unwrap_or_default();
        }
    }
    statistics
}

fn print_table(reports: &[Report]) {
    println!(
        "\n{:<20} {:>12} {:>9}  result",
        "target", "executions", "coverage"
    );
    for Report {
        target,
        statistics,
        crash,
    } in reports
    {
        let result = if crash.is_some() { "CRASHED" } else { "ok" };
        let Statistics {
            executions,
            coverage,
        } = statistics;
        println!("{target:<20} {executions:>12} {coverage:>9}  {result}");
    }
}

fn print_replays(binary: &Path, reports: &[Report]) {
    for Report { target, crash, .. } in reports {
        if let Some(crash) = crash {
            println!("replay: FUZZ_TARGET={target} {} {crash}", binary.display());
        }
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        _ => None,
    };
    unit.zip(digits.parse::<u64>().ok())
        .and_then(|(unit, count)| count.checked_mul(unit))
        .map(Duration::from_secs)
        .ok_or_else(|| "write it as 30s, 10m or 2h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(parse_duration("2h"), Ok(Duration::from_secs(7200)));
        for wrong in ["", "s", "1d", "-1s", "1.5s", "99999999999999999999h"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_log_of_libfuzzer_is_understood() {
        let crashed = "artifact_prefix='c/pci-'; Test unit written to c/pci-crash-1f\nBase64: /w==";
        assert_eq!(crash_file(crashed), Some("c/pci-crash-1f"));
        let log = "INFO: seed corpora\n\
            #2\tINITED cov: 21 ft: 22 corp: 1/1b exec/s: 0 rss: 30Mb\n\
            #99\tNEW    cov: 130 ft: 301 corp: 9/3Kb lim: 4096 exec/s: 0 rss: 31Mb L: 12/64\n\
            stat::number_of_executed_units: 4321\n\
            stat::average_exec_per_sec:     100\n";
        let expected = Statistics {
            executions: 4321,
            coverage: 130,
        };
        assert_eq!(statistics(log), expected);
        assert_eq!(statistics("nonsense\n#\n"), Statistics::default());
    }
}
