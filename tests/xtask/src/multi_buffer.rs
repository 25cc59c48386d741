//! `cargo xtask multi-buffer`: gets Intel's crypto_mb, for the accelerator `software:multi-buffer`.
//!
//! ```text
//! target/multi-buffer/wheel/              the archive, exactly the one whose sum is below
//! target/multi-buffer/libcrypto_mb.so.13  where .cargo/config.toml has whatever cargo runs look
//! target/multi-buffer/LICENSE.txt         what it may be used for
//! ```
//!
//! Intel publishes the library as packages of Python. The one with a shared library asks for the
//! runtime of Intel's compiler, of which it uses nothing; the one with a static library does not,
//! so a shared library is linked from that. It exports what is called, and OpenSSL is left out.

use crate::outcome::{Outcome, Unavailable};
use crate::process::{answers, program, root, run as run_command};
use anyhow::{Context, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// The version that figures and tests are of.
const PACKAGE: &str = "ipp-crypto-static==2026.2.0";
const WHEEL: &str = "ipp_crypto_static-2026.2.0-py2.py3-none-manylinux_2_28_x86_64.whl";
/// SHA-256 of the wheel: what runs in our process is what was looked at.
const WHEEL_SHA256: &str = "b4b952a9435f7aab3d1684822f644d586ce5f6bda874e4bfb8c008ee674ca5c5";
const ARCHIVE: &str = "ipp_crypto_static-2026.2.0.data/data/lib/libcrypto_mb.a";
const LICENCE: &str = "ipp_crypto_static-2026.2.0.dist-info/LICENSE.txt";
/// Named for the interface, as Intel's own is.
const LIBRARY: &str = "libcrypto_mb.so.13";

const EXPORTS: &str = include_str!("multi_buffer/exports.map");
const NO_OPENSSL: &str = include_str!("multi_buffer/no_openssl.c");

/// Gets the library and says where it is.
///
/// # Errors
///
/// [`Unavailable`] if it is not for this machine or cannot be fetched; anything else is a failure.
pub(crate) fn run() -> anyhow::Result<()> {
    let directory = root().join("target/multi-buffer");
    let library = directory.join(LIBRARY);
    println!("{}", get(&directory)?);
    println!("The library is {}", library.display());
    println!("Elsewhere, name it in HWSHIM_MULTI_BUFFER. Try it with: hwshim list");
    Ok(())
}

/// The step of `cargo xtask test`.
pub(crate) fn step() -> anyhow::Result<Outcome> {
    let got = get(&root().join("target/multi-buffer"))?;
    Ok(if can_run() {
        Outcome::Passed(got)
    } else {
        // The tests themselves say so where nobody looks, as they pass.
        let why = "this processor lacks AVX512-IFMA, so the tests of what it does are skipped";
        Outcome::Skipped(format!("{got} is there; {why}"))
    })
}

/// Whether this processor can run it, by what nobody who has it lacks of the rest.
#[cfg(target_arch = "x86_64")]
fn can_run() -> bool {
    std::arch::is_x86_feature_detected!("avx512ifma")
}

#[cfg(not(target_arch = "x86_64"))]
fn can_run() -> bool {
    false
}

/// Gets it into `directory`, and says what it is and under which licence.
fn get(directory: &Path) -> anyhow::Result<String> {
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        return Err(Unavailable("crypto_mb is for Linux on x86-64".to_owned()).into());
    }
    let wheels = directory.join("wheel");
    fs::create_dir_all(&wheels).with_context(|| format!("{} is needed", wheels.display()))?;
    let wheel = fetch(&wheels)?;
    unpack(&wheel, &wheels)?;
    let licence = licence(&wheels.join(LICENCE))?;
    link(&wheels.join(ARCHIVE), directory)?;
    let copy = directory.join("LICENSE.txt");
    fs::copy(wheels.join(LICENCE), &copy)
        .with_context(|| format!("{} could not be written", copy.display()))?;
    Ok(format!("{PACKAGE}, Intel's crypto_mb, {licence}"))
}

/// The wheel, downloaded unless it is there.
fn fetch(wheels: &Path) -> anyhow::Result<PathBuf> {
    let wheel = wheels.join(WHEEL);
    if !wheel.is_file() {
        let mut pip = program("python3");
        pip.args([
            "-m",
            "pip",
            "--quiet",
            "--disable-pip-version-check",
            "download",
        ])
        .args(["--no-deps", "--only-binary", ":all:", PACKAGE, "--dest"])
        .arg(wheels);
        if !answers(pip) || !wheel.is_file() {
            let why = format!("pip could not download {PACKAGE}");
            return Err(Unavailable(why).into());
        }
    }
    let sum = crate::process::output(program("sha256sum").arg(&wheel))?;
    if sum.split_whitespace().next() != Some(WHEEL_SHA256) {
        bail!(
            "{} is not the archive that was looked at: its SHA-256 is {sum}. Delete it and try again",
            wheel.display()
        );
    }
    Ok(wheel)
}

fn unpack(wheel: &Path, wheels: &Path) -> anyhow::Result<()> {
    let mut unzip = program("python3");
    unzip
        .args(["-m", "zipfile", "--extract"])
        .arg(wheel)
        .arg(wheels);
    run_command(&mut unzip)
}

/// The licence that the archive carries, which has to be the one we may use it under.
fn licence(path: &Path) -> anyhow::Result<&'static str> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("{} could not be read", path.display()))?;
    let words: Vec<_> = text.split_whitespace().take(4).collect();
    ensure!(
        words == ["Apache", "License", "Version", "2.0,"],
        "{} is no longer the Apache License 2.0: read it before using the library",
        path.display()
    );
    Ok("Apache-2.0")
}

/// Links the static library into a shared one.
fn link(archive: &Path, directory: &Path) -> anyhow::Result<()> {
    let source = directory.join("no_openssl.c");
    let exports = directory.join("exports.map");
    for (path, text) in [(&source, NO_OPENSSL), (&exports, EXPORTS)] {
        fs::write(path, text)
            .with_context(|| format!("{} could not be written", path.display()))?;
    }
    // Moved when it is whole: a process may have the old one mapped.
    let partial = directory.join("libcrypto_mb.partial");
    let mut cc = program(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
    cc.args(["-shared", "-fPIC", "-O2", "-o"])
        .arg(&partial)
        .arg(&source);
    // Nothing refers to them yet, and an archive gives only what is referred to.
    cc.args(exported().map(|name| format!("-Wl,-u,{name}")));
    cc.arg(archive)
        .arg(format!("-Wl,--version-script={}", exports.display()))
        .arg(format!("-Wl,-soname,{LIBRARY}"))
        .args([
            "-Wl,-z,defs",
            "-Wl,-z,now",
            "-Wl,-z,relro",
            "-Wl,-z,noexecstack",
        ]);
    run_command(&mut cc).context("a C compiler links the library")?;
    let library = directory.join(LIBRARY);
    fs::rename(&partial, &library)
        .with_context(|| format!("{} could not be written", library.display()))
}

/// Names of the functions that are called.
fn exported() -> impl Iterator<Item = &'static str> {
    EXPORTS.lines().filter_map(|line| {
        let name = line.trim().strip_suffix(';')?;
        name.starts_with("mbx_").then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_exported_is_what_is_called() {
        let ffi = root().join("hwshim/multi-buffer/src/ffi.rs");
        let ffi = fs::read_to_string(ffi).unwrap();
        let called: Vec<_> = ffi
            .split('"')
            .filter(|literal| literal.starts_with("mbx_") && !literal.contains(' '))
            .collect();
        assert!(called.len() > 5);
        for name in &called {
            assert!(exported().any(|exported| exported == *name), "{name}");
        }
        for name in exported() {
            assert!(called.contains(&name), "{name} is exported and not called");
        }
    }

    #[test]
    fn an_archive_with_another_sum_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(WHEEL), "something else").unwrap();
        let error = fetch(directory.path()).unwrap_err();
        assert!(error.downcast_ref::<Unavailable>().is_none());
        assert!(error.to_string().contains("not the archive"), "{error}");
    }

    #[test]
    fn another_licence_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("LICENSE.txt");
        fs::write(&path, "   Apache License\n   Version 2.0, January 2004\n").unwrap();
        assert_eq!(licence(&path).unwrap(), "Apache-2.0");
        fs::write(&path, "Intel Simplified Software License").unwrap();
        licence(&path).unwrap_err();
    }
}
