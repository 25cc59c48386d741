//! A QAT card, which Intel's kernel driver owns, as it is shown.

use super::FunctionFigures;
use crate::verdict::State;
use serde::{Deserialize, Serialize};

/// What its driver says of a QAT card; `null` is what it does not, or not to us.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct QatFigures {
    /// What is seen of it as of any other.
    #[serde(flatten)]
    pub function: FunctionFigures,
    /// The module of its driver, e.g. `qat_4xxx`.
    pub module: String,
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
    /// Engines that owe answers and have given none in three looks.
    #[serde(default)]
    pub frozen_engines: Vec<u32>,
    /// Errors that were corrected. These three begin again at zero whenever the device is stopped.
    pub errors_correctable: Option<u64>,
    /// Errors after which it could go on.
    pub errors_nonfatal: Option<u64>,
    /// Errors after which it could not.
    pub errors_fatal: Option<u64>,
}

impl QatFigures {
    /// How it is: not known if nothing speaks against it, and nobody could ask whether it responds.
    #[must_use]
    pub fn state(&self) -> State {
        match self.function.state() {
            State::Connected if self.responds.is_none() => State::Unknown,
            state => state,
        }
    }
}
