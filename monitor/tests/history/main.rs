//! The history against what happens to it: kills, power cuts, tampering, files that are not its own.
//!
//! Writers that are killed are this program itself, started again to do as [`a_writer`] does.
//! `HWSHIM_CASES` sets the number of cases of each campaign, `HWSHIM_SEED` where the first begins:
//!
//! ```sh
//! HWSHIM_CASES=10000 cargo test --release -p monitor --test history kill
//! ```

#![expect(
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "whatever fails here fails the test, and what was skipped is said"
)]

mod archives;
mod kept;
mod kills;
mod power_cuts;
mod refusals;
mod snapshots;
mod support;
mod tampering;

/// Not a test but what tests start: appends until it is told to stop, or is stopped.
#[test]
fn a_writer() {
    support::write_if_asked();
}
