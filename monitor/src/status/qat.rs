//! A QAT card, which Intel's kernel driver owns, as it is shown.

use crate::checks::Advice;
use crate::verdict::{Cause, Evidence};
use serde::{Deserialize, Serialize};

/// A QAT card without work, by an operator's order.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct QatDrained {
    /// Who ordered it.
    pub by: String,
    /// How long ago, by the calendar.
    pub for_seconds: f64,
    /// What would be at fault without the order.
    pub otherwise_cause: Cause,
}

/// What its driver says of a QAT card; `null` is what it does not, or not to us.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct QatFigures {
    /// Its address, as of any other card.
    pub card: String,
    /// The module of its driver, e.g. `qat_4xxx`.
    pub module: String,
    /// Its kernel driver with its version.
    #[serde(default)]
    pub driver: Option<String>,
    /// `up` or `down`.
    pub state: Option<String>,
    /// Whether the firmware gave a sign of life when the driver last asked it.
    pub responds: Option<bool>,
    /// How often the driver has asked, whoever wanted to know.
    pub queries_sent: Option<u64>,
    /// How often the firmware gave no sign.
    pub queries_failed: Option<u64>,
    /// Requests to its engines since it started.
    pub requests: Option<u64>,
    /// Responses of them.
    pub responses: Option<u64>,
    /// Errors that were corrected. These three begin again at zero whenever the device is stopped.
    pub errors_correctable: Option<u64>,
    /// Errors after which it could go on.
    pub errors_nonfatal: Option<u64>,
    /// Errors after which it could not.
    pub errors_fatal: Option<u64>,
    /// What is at fault; nothing if it is drained.
    pub cause: Cause,
    /// That an operator wants it without work; `null` if nobody does.
    #[serde(default)]
    pub drained: Option<QatDrained>,
    /// Why, or why that is not known.
    pub evidence: Vec<Evidence>,
    /// Codes that fit, ascending.
    pub codes: Vec<u8>,
    /// What each of them means, and what to do.
    pub advice: Vec<Advice>,
}

impl QatFigures {
    /// Shows that an operator wants it without work, and what would be at fault otherwise.
    pub fn drain(&mut self, by: String, for_seconds: f64) {
        self.drained = Some(QatDrained {
            by,
            for_seconds,
            otherwise_cause: self.cause,
        });
        self.cause = Cause::None;
    }
}
