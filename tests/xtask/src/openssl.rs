//! The program openssl, which some tests have for a client: the machine's own, or else Debian's
//! package, unpacked below target/tools. Nothing on the machine is changed.

use crate::process::{answers, program, root};
use crate::vm::apt::{Apt, Sources, Wanted};
use anyhow::Context;
use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Sees to it that what `tests` starts finds the program.
///
/// # Errors
///
/// If it is not there and cannot be had.
pub(crate) fn lend(tests: &mut Command) -> anyhow::Result<()> {
    let mut version = program("openssl");
    version.arg("version");
    if answers(version) {
        return Ok(());
    }
    let unpacked = root().join("target/tools/openssl");
    if !unpacked.is_dir() {
        unpack(&unpacked).context("tests need the program openssl; install it")?;
    }
    let libraries = unpacked.join(format!("usr/lib/{}-linux-gnu", env::consts::ARCH));
    tests
        .env("PATH", first("PATH", unpacked.join("usr/bin"))?)
        .env("LD_LIBRARY_PATH", first("LD_LIBRARY_PATH", libraries)?);
    Ok(())
}

/// The program and its library, whose name has a version in it.
fn unpack(to: &Path) -> anyhow::Result<()> {
    println!("downloading openssl");
    let apt = Apt::new(root().join("target/tools/apt"), Sources::Machine)?;
    let needed = apt.dependencies("openssl")?;
    let library = needed.iter().find(|name| name.starts_with("libssl"));
    let mut wanted = vec![Wanted::Alone("openssl")];
    wanted.extend(library.map(|name| Wanted::Alone(name)));
    apt.unpack(&wanted, to)
}

/// A list of directories as the environment has it, with another before all others.
fn first(variable: impl AsRef<OsStr>, directory: PathBuf) -> anyhow::Result<OsString> {
    let others = env::var_os(variable).unwrap_or_default();
    let others = env::split_paths(&others).filter(|path| !path.as_os_str().is_empty());
    env::join_paths([directory].into_iter().chain(others)).context("a directory has a colon")
}
