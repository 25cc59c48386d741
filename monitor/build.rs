//! Says how cardmon is linked.

use std::env;
use std::process::Command;

/// The first glibc that starts a program whose relocations are told as a map; an older one refuses to.
const UNDERSTOOD_SINCE: (u32, u32) = (2, 36);

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|it| it == value);
    let is_for_this_host = env::var("HOST") == env::var("TARGET");
    let is_release = is("PROFILE", "release");
    if is_release && is_for_this_host && glibc().is_some_and(|it| it >= UNDERSTOOD_SINCE) {
        // The addresses that are filled in when the program begins take 1.3 MiB of its memory if each is
        // told with its place, and a few KiB as bits of a map.
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// The version of this host's glibc, if that is its C library.
fn glibc() -> Option<(u32, u32)> {
    let output = Command::new("getconf")
        .arg("GNU_LIBC_VERSION")
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
