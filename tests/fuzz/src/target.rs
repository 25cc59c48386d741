//! The targets, one module each: `run` and the honest inputs it starts from, `seeds`.

pub(crate) mod health;
pub(crate) mod pci;
pub(crate) mod telemetry;

/// Text that goes to a terminal or a log must not steer either.
fn assert_harmless(text: &str) {
    assert!(
        text.bytes().all(|byte| matches!(byte, b' '..=b'~')),
        "{text:?} would reach a terminal"
    );
}
