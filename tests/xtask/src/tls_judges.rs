//! `cargo xtask tls-judges`: clients that nobody here wrote hold conversations with `hwshim serve-tls`,
//! every signature of which comes from a (simulated) card.
//!
//! ```text
//!   Chromium ------------> hwshim serve-tls --> page      certificate, signature and page believed?
//!
//!   tlslite-ng, and  --+-> hwshim serve-tls --> echo      what does each make of unusual and of
//!   bytes by hand      +-> rustls, ring ------> echo      malformed handshakes? The same?
//! ```
//!
//! A browser's word is enough; of the conversations, it is compared what was seen on the wire.

mod chromium;
mod conversations;
mod plain;

use crate::outcome::{Step, run_all};

const STEPS: [Step; 2] = [
    Step {
        name: "chromium",
        run: chromium::judge,
    },
    Step {
        name: "conversations",
        run: conversations::judge,
    },
];

/// Has all of them judge.
///
/// # Errors
///
/// Names those that found something.
pub(crate) fn run() -> anyhow::Result<()> {
    run_all("judge", &STEPS)
}
