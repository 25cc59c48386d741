//! What libFuzzer drives: the target that the environment variable `FUZZ_TARGET` names.
//!
//! One binary serves all targets, so that a new one is a line in [`fuzz::TARGETS`] and no more.

#![no_main]

use fuzz::Target;
use std::sync::LazyLock;

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    fuzz::TARGETS
        .iter()
        .find(|target| target.name == name)
        .unwrap_or_else(|| panic!("FUZZ_TARGET is {name:?}, which is no target"))
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| (TARGET.run)(input));
