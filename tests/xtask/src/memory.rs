//! `cargo xtask memory`: has tools watch each access to memory while tests run.
//!
//! | tool             | finds                                                  | over                |
//! |------------------|--------------------------------------------------------|---------------------|
//! | Miri             | undefined behaviour, also where it happens to work     | layouts, DMA memory |
//! | Valgrind         | decisions on memory nobody has written, by assembly too | queue, cryptography |
//! | AddressSanitizer | accesses outside of what is allocated, leaks           | driver, bus, card   |
//! | ThreadSanitizer  | data races                                             | the same            |
//!
//! The sanitizers are those of the compiler that the project is built with, which has them behind
//! `RUSTC_BOOTSTRAP=1`. ThreadSanitizer takes each mutex for a data race unless the standard
//! library is built for it as well, from its source. Nothing is suppressed. The models of
//! interleavings are left out: their threads are stacks that one thread switches between, which
//! none of these tools can follow.
//!
//! A tool that is not there is skipped, and the table says how to get it. The first run builds
//! everything twice more, so `cargo xtask test` does not include it.

use crate::outcome::{Outcome, Step, Unavailable, run_all};
use crate::process::{answers, cargo, host, output, program, root, typed};
use anyhow::{Context, bail};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// What is tested: code that handles memory of others, and what stands directly on it.
const PACKAGES: [&str; 6] = [
    "--package",
    "card-spec",
    "--package",
    "card-device",
    "--package",
    "hwshim",
];
/// Unit tests, and the driver over a simulated card in the same process.
const TARGETS: [&str; 5] = ["--lib", "--test", "device", "--test", "driver"];

/// What Miri can run: no system call but those of the heap.
const MIRI_FILTERS: [&str; 4] = [
    "bus::dma::",
    "bus::iova::",
    "virtio::queue::",
    "router::breaker::",
];
/// What Valgrind can run.
const VALGRIND_FILTERS: [&str; 7] = [
    "accelerator::",
    "bus::dma::",
    "bus::iova::",
    "bus::mmio::",
    "key::",
    "router::verify::",
    "virtio::queue::",
];
/// What Miri cannot follow, and what takes it hours.
const MIRI_SKIPS: [&str; 2] = ["models::", "indices_wrap"];

const TOOLS: [Step; 4] = [
    Step {
        name: "Miri",
        run: miri,
    },
    Step {
        name: "Valgrind",
        run: valgrind,
    },
    Step {
        name: "AddressSanitizer",
        run: address_sanitizer,
    },
    Step {
        name: "ThreadSanitizer",
        run: thread_sanitizer,
    },
];

/// Runs every tool there is.
///
/// # Errors
///
/// Names the tools that found something.
pub(crate) fn run() -> anyhow::Result<()> {
    run_all("tool", &TOOLS)
}

fn miri() -> anyhow::Result<Outcome> {
    const CARGO: [&str; 4] = ["run", "nightly", "cargo", "miri"];
    let mut version = program("rustup");
    version.args(CARGO).arg("--version");
    if !answers(version) {
        bail!(Unavailable(
            "has not been run here; rustup toolchain install nightly --component miri,rust-src"
                .to_owned()
        ));
    }
    let miri = |arguments: &[&str]| {
        let mut command = program("rustup");
        command.args(CARGO).arg("test").args(arguments);
        command.env("CARGO_TARGET_DIR", root().join("target/memory/miri"));
        // Tests that draw their cases draw few: each takes thousands of times as long.
        command.env("PROPTEST_CASES", "4");
        command.env("MIRIFLAGS", "-Zmiri-disable-isolation");
        command
    };
    let layouts = tests(miri(&["--package", "card-spec", "--lib"]))?;
    let mut driver = miri(&["--package", "hwshim", "--lib", "--"]);
    driver.args(MIRI_FILTERS);
    driver.args(MIRI_SKIPS.iter().flat_map(|skip| ["--skip", *skip]));
    Ok(passed(layouts + tests(driver)?))
}

fn address_sanitizer() -> anyhow::Result<Outcome> {
    sanitizer("address", "asan", &[])
}

fn thread_sanitizer() -> anyhow::Result<Outcome> {
    if !sysroot()?.join("lib/rustlib/src/rust/library").is_dir() {
        bail!(Unavailable(
            "has not been run here, without the standard library's source; rustup component add \
             rust-src"
                .to_owned()
        ));
    }
    sanitizer("thread", "tsan", &["-Zbuild-std"])
}

fn sanitizer(name: &str, runtime: &str, options: &[&str]) -> anyhow::Result<Outcome> {
    let triple = host()?;
    let libraries = sysroot()?.join("lib/rustlib").join(&triple).join("lib");
    let suffix = format!("_rt.{runtime}.a");
    let there = std::fs::read_dir(&libraries)
        .with_context(|| format!("{} could not be read", libraries.display()))?
        .filter_map(Result::ok)
        .any(|entry| entry.file_name().to_string_lossy().ends_with(&suffix));
    if !there {
        bail!(Unavailable(format!(
            "the compiler for {triple} comes without it (no *{suffix}); rustup's for Linux has it"
        )));
    }
    // An explicit target keeps the flags away from build scripts and procedural macros.
    let mut command = cargo(["test", "--locked", "--no-fail-fast", "--target", &triple]);
    command
        .args(options)
        .args(PACKAGES)
        .args(TARGETS)
        .args(["--", "--skip", "models::"])
        .env("CARGO_TARGET_DIR", root().join("target/memory").join(name))
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", format!("-Zsanitizer={name}"));
    Ok(passed(tests(command)?))
}

fn sysroot() -> anyhow::Result<PathBuf> {
    let sysroot = output(program("rustc").args(["--print", "sysroot"]))?;
    Ok(PathBuf::from(sysroot.trim()))
}

/// Memcheck. It shows programs another vDSO than the kernel gave them, which rustix does not
/// survive; so it gets what never reads a clock.
fn valgrind() -> anyhow::Result<Outcome> {
    const VALGRIND: &str = "valgrind --quiet --error-exitcode=99 --leak-check=no --fair-sched=yes";
    let mut version = program("valgrind");
    version.arg("--version");
    if !answers(version) {
        bail!(Unavailable("on Debian, apt install valgrind".to_owned()));
    }
    let runner = host()?.to_uppercase().replace('-', "_");
    let mut command = cargo(["test", "--locked", "--package", "hwshim", "--lib", "--"]);
    command
        .args(VALGRIND_FILTERS)
        .args(["--skip", "models::"])
        .env(format!("CARGO_TARGET_{runner}_RUNNER"), VALGRIND)
        .env("PROPTEST_CASES", "16");
    Ok(passed(tests(command)?))
}

fn passed(tests: u64) -> Outcome {
    Outcome::Passed(format!("{tests} tests"))
}

/// Runs tests, whose report goes to the terminal as well, and counts those that passed.
fn tests(mut command: Command) -> anyhow::Result<u64> {
    let typed = typed(&command);
    println!("{typed}");
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("{typed} could not be started"))?;
    let report = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        println!("{report}");
        bail!("{typed} ended with {}", output.status);
    }
    let tests = tests_passed(&report);
    if tests == 0 {
        bail!("{typed} found no test to run");
    }
    Ok(tests)
}

/// Adds up what the test programs of a run say at their end.
fn tests_passed(report: &str) -> u64 {
    report
        .lines()
        .filter_map(|line| line.strip_prefix("test result: ok. "))
        .filter_map(|result| result.split(' ').next()?.parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_name_modules_that_there_are() {
        for filter in MIRI_FILTERS.iter().chain(&VALGRIND_FILTERS) {
            let module = filter.trim_end_matches("::").replace("::", "/");
            let file = root().join("hwshim/src").join(module + ".rs");
            assert!(file.is_file(), "no {} for {filter}", file.display());
        }
    }

    #[test]
    fn the_tests_of_all_programs_are_counted() {
        let report = "running 2 tests\n..\n\
            test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 9 filtered out\n\n\
            test result: ok. 40 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";
        assert_eq!(tests_passed(report), 42);
        assert_eq!(tests_passed("nonsense"), 0);
    }
}
