//! `cargo xtask test`: every check there is, in an order that shows cheap mistakes first.
//!
//! All steps share one target directory and one set of features, so that nothing is compiled
//! twice: lints and documentation share what `cargo check` leaves, both kinds of tests what
//! `cargo build` leaves. The binary for libFuzzer is left to `cargo xtask fuzz`, because its
//! runtime changes how C is compiled for everybody. Benchmarks are linted, not run.

use crate::outcome::{Outcome, Step, Unavailable, again, run_all};
use crate::process::{answers, cargo, program, root, run as run_command, typed};
use crate::{multi_buffer, openssl, vm};
use anyhow::{anyhow, bail};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread;

/// Another version may know other rules; raise it together with deny.toml.
const CARGO_DENY_VERSION: &str = "0.20.2";

const STEPS: [Step; 9] = [
    Step {
        name: "format",
        run: format,
    },
    Step {
        name: "lints",
        run: lints,
    },
    Step {
        name: "documentation",
        run: documentation,
    },
    Step {
        name: "dependencies",
        run: dependencies,
    },
    Step {
        name: "advisories",
        run: advisories,
    },
    Step {
        name: "doc tests",
        run: doc_tests,
    },
    // Before the tests, which skip what needs the library where it is not.
    Step {
        name: "multi-buffer",
        run: multi_buffer::step,
    },
    Step {
        name: "tests",
        run: tests,
    },
    // Runs the programs that the tests have just been built with.
    Step {
        name: "vm",
        run: vm::step,
    },
];

/// Runs all steps.
///
/// # Errors
///
/// Names the steps that failed.
pub(crate) fn run() -> anyhow::Result<()> {
    thread::scope(|scope| {
        // What is downloaded, unpacked and built by one thread: to wait for it would keep the others idle.
        // Whatever comes of the steps, it is not left half done.
        scope.spawn(|| {
            vm::get_parts();
            // Who needs it is told what came of it.
            let _ = cargo_deny();
        });
        run_all("step", &STEPS)
    })?;
    println!("\nNo step failed.");
    Ok(())
}

fn format() -> anyhow::Result<Outcome> {
    passes(cargo(["fmt", "--all", "--check"]))
}

fn lints() -> anyhow::Result<Outcome> {
    passes(cargo([
        "clippy",
        "--locked",
        "--workspace",
        "--all-targets",
        // Tests are built without.
        "--features",
        "hwshim/aws-lc-rs",
        "--",
        "-D",
        "warnings",
    ]))
}

fn documentation() -> anyhow::Result<Outcome> {
    let mut doc = cargo(["doc", "--locked", "--workspace", "--no-deps"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    passes(doc)
}

fn doc_tests() -> anyhow::Result<Outcome> {
    passes(cargo(["test", "--locked", "--workspace", "--doc"]))
}

/// Unit tests, tests across crates, and the short form of fuzzing.
fn tests() -> anyhow::Result<Outcome> {
    let nextest = answers(cargo(["nextest", "--version"]));
    // A quarter of the tests' time is spent waiting, for programs and for clocks.
    let threads = thread::available_parallelism().map_or(1, NonZero::get) + 1;
    let mut tests = if nextest {
        cargo([
            "nextest",
            "run",
            "--locked",
            "--workspace",
            "--no-fail-fast",
            "--test-threads",
            &threads.to_string(),
        ])
    } else {
        cargo([
            "test",
            "--locked",
            "--workspace",
            "--no-fail-fast",
            "--lib",
            "--bins",
            "--tests",
        ])
    };
    // Without it hardly any test would be left, and that must not look like a step that was skipped.
    openssl::lend(&mut tests).map_err(|error| anyhow!("{error:#}"))?;
    let mut curl = program("curl");
    curl.arg("--version");
    if !answers(curl) {
        // The test itself says so where nobody looks, as it passes.
        println!("there is no curl: the test of hwshim serve-tls with it is skipped");
    }
    passes(tests)
}

fn dependencies() -> anyhow::Result<Outcome> {
    let mut deny = program(cargo_deny()?);
    deny.args([
        "--workspace",
        "--locked",
        "check",
        "--hide-inclusion-graph",
        "bans",
        "licenses",
        "sources",
    ]);
    passes(deny)
}

/// Known vulnerabilities. Their database is fetched from its repository, which not every machine
/// may reach; that is no reason to fail. Nor is what was found: it was published since, and what passed
/// yesterday has not changed.
fn advisories() -> anyhow::Result<Outcome> {
    let mut fetch = program(cargo_deny()?);
    fetch.args(["fetch", "db"]);
    if !answers(fetch) {
        let why = "the advisory database could not be fetched";
        println!("{why}: nothing is known about vulnerable dependencies");
        return Ok(Outcome::Skipped(why.to_owned()));
    }
    let mut deny = program(cargo_deny()?);
    deny.args([
        "--workspace",
        "--locked",
        "check",
        "--disable-fetch",
        "advisories",
    ]);
    println!("{}", typed(&deny));
    let output = deny.stderr(Stdio::inherit()).output()?;
    let summary = String::from_utf8_lossy(&output.stdout);
    print!("{summary}");
    match judged(output.status.success(), &summary) {
        Some(outcome) => Ok(outcome),
        None => bail!("{} failed ({})", typed(&deny), output.status),
    }
}

/// What there is of advisories, by what cargo-deny says at its end; `None` if it could not look.
fn judged(has_passed: bool, summary: &str) -> Option<Outcome> {
    if has_passed {
        return Some(Outcome::passed());
    }
    let found = "there are advisories about dependencies; the step's output tells which";
    let is_found = summary.contains("advisories FAILED");
    is_found.then(|| Outcome::Warned(found.to_owned()))
}

/// Finds cargo-deny, or builds it, the first time.
fn cargo_deny() -> anyhow::Result<&'static Path> {
    static CARGO_DENY: OnceLock<anyhow::Result<PathBuf>> = OnceLock::new();
    let found = CARGO_DENY.get_or_init(find_cargo_deny).as_ref();
    found.map(PathBuf::as_path).map_err(again)
}

fn find_cargo_deny() -> anyhow::Result<PathBuf> {
    let tools = root().join("target/tools");
    for candidate in ["cargo-deny".into(), tools.join("bin/cargo-deny")] {
        let mut version = program(&candidate);
        version.arg("--version");
        if answers(version) {
            return Ok(candidate);
        }
    }
    println!("cargo-deny is not installed; building it into target/tools, which takes minutes");
    // It runs for seconds, and to optimise it takes minutes.
    let mut install = cargo(["install", "--locked", "--quiet", "--debug", "cargo-deny"]);
    install
        .args(["--version", CARGO_DENY_VERSION, "--root"])
        .arg(&tools)
        .env("CARGO_PROFILE_DEV_DEBUG", "false");
    // What it is built from is downloaded, which may fail once.
    let installed = run_command(&mut install).or_else(|_| run_command(&mut install));
    installed.map_err(|error| {
        let needed = "cargo-deny checks licences, sources and advisories of dependencies";
        Unavailable(format!("{needed}: {error:#}"))
    })?;
    Ok(tools.join("bin/cargo-deny"))
}

fn passes(mut command: Command) -> anyhow::Result<Outcome> {
    println!("{}", typed(&command));
    run_command(&mut command).map(|()| Outcome::passed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advisory_is_a_warning_and_what_could_not_be_looked_for_a_failure() {
        let passed = judged(true, "advisories ok\n").unwrap();
        assert_eq!(passed.to_string(), "ok");
        let found = judged(false, "advisories FAILED\n").unwrap();
        assert!(found.to_string().starts_with("WARNING: "), "{found}");
        assert!(!found.is_failed());
        assert!(judged(false, "").is_none());
    }
}
