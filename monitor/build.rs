//! How the programs are linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // A program that can be loaded anywhere has a table of all its pointers, which the loader reads
    // when it starts and which stays in memory: more than a megabyte of cardmon's, if it is not packed.
    // A linker that cannot pack it warns and goes on; a loader that could not read it is older than
    // the C library that it was linked with.
    if std::env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|it| it == "gnu") {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
