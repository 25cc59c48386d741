//! Hostile input: what a card, a peer or a file may contain, against the code that reads it.
//!
//! Each target is a plain function of bytes that may do anything but panic, and may panic only to
//! say that a promise was broken. It is run in two ways: `cargo test` mutates honest inputs for a
//! few seconds (`smoke`), and `cargo xtask fuzz` has libFuzzer look for more.
//!
//! To add a target, write a module with `run` and `seeds`, and add its line to the table below.

#[cfg(test)]
mod smoke;
mod target;

/// One thing that reads hostile input.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name on the command line, and of its corpus.
    pub name: &'static str,
    /// Feeds it one input.
    pub run: fn(&[u8]),
    /// Honest inputs to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Inputs that the smoke test tries, so that all targets together take a few seconds.
    pub smoke_inputs: u32,
}

macro_rules! targets {
    ($($name:ident: $smoke_inputs:literal,)+) => {
        /// All targets.
        pub const TARGETS: &[Target] = &[
            $(Target {
                name: stringify!($name),
                run: target::$name::run,
                seeds: target::$name::seeds,
                smoke_inputs: $smoke_inputs,
            },)+
        ];

        #[cfg(test)]
        mod survives {
            $(#[test]
            fn $name() {
                crate::smoke::run(stringify!($name));
            })+
        }
    };
}

targets! {
    pci: 50_000,
    health: 20_000,
    telemetry: 10_000,
    used_ring: 2_000,
    driver: 100,
    vfio_user_client: 500,
    vfio_user_server: 500,
    sysfs: 1_000,
    config: 10_000,
    address: 50_000,
    history: 300,
    nshield: 20_000,
    procfs: 500,
}
