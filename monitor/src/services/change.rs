//! A service's standing or cause gave way to another: what is remembered of that, and shown.
//!
//! ```text
//!                    its process is there     it answers that it would not
//!   Unknown -------------> Runs ---------------------> Declines
//!      |                    |
//!      | not there          | it answers                gives no answer
//!      v                    v                          (a hang when twice in a row)
//!     Gone               Answers ---------------------> Silent
//!                           |     nobody listens
//!                           +-----------------> Refused
//!
//!   any standing leads to any other: each poll is judged by itself, see the table in `judge`
//! ```

use crate::status::Standing;
use crate::verdict::{Cause, Evidence};
use hwshim::clock::Instant;

/// What became of a service, and why.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServiceTransition {
    /// When.
    pub at: Instant,
    /// How far one got with it.
    pub from: Standing,
    /// How far one gets.
    pub to: Standing,
    /// What was at fault.
    pub cause_before: Cause,
    /// What is.
    pub cause: Cause,
    /// What was found, what decided first.
    pub evidence: Vec<Evidence>,
}
