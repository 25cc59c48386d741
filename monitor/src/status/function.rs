//! A card of which no owner publishes a page, by its PCI function, as it is shown.

use super::{AssessmentFigures, LinkFigures, SensorFigures};
use crate::checks::Advice;
use crate::verdict::{Cause, Evidence, State};
use serde::{Deserialize, Serialize};

/// A card without work, by an operator's order.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct FunctionDrained {
    /// Who ordered it.
    pub by: String,
    /// How long ago, by the calendar.
    pub for_seconds: f64,
    /// What would be at fault without the order.
    pub otherwise_cause: Cause,
}

/// What is seen of a card by its function, whoever drives it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct FunctionFigures {
    /// Its address, as of any other card.
    pub card: String,
    /// Its kernel driver with its version.
    #[serde(default)]
    pub driver: Option<String>,
    /// What is at fault; nothing if it is drained.
    pub cause: Cause,
    /// That an operator wants it without work; `null` if nobody does.
    #[serde(default)]
    pub drained: Option<FunctionDrained>,
    /// Why, or why that is not known.
    pub evidence: Vec<Evidence>,
    /// Codes that fit, ascending.
    pub codes: Vec<u8>,
    /// What each of them means, and what to do.
    pub advice: Vec<Advice>,
    /// How it is connected; `null` while it is not there.
    #[serde(default)]
    pub link: Option<LinkFigures>,
    /// What its kernel driver measures; empty where it measures nothing, or nobody could look.
    #[serde(default)]
    pub sensors: Vec<SensorFigures>,
    /// What to be warned of though it decides nothing by itself, one of each code.
    #[serde(default)]
    pub warnings: Vec<Evidence>,
    /// What was weighed; `null` from a monitor that does not tell.
    #[serde(default)]
    pub assessment: Option<AssessmentFigures>,
}

/// A card that only the service of its vendor drives, as an nShield.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct VendorCardFigures {
    /// What is seen of it.
    #[serde(flatten)]
    pub function: FunctionFigures,
    /// Its family, as `hwshim list` has it.
    pub family: String,
}

impl FunctionFigures {
    /// How it is, in the words for a card that has a page.
    #[must_use]
    pub const fn state(&self) -> State {
        match (&self.drained, self.cause) {
            (Some(_), _) => State::Disconnected,
            (None, Cause::None) => State::Connected,
            (None, Cause::CardAbsent) => State::Unreachable,
            (None, _) => State::Unavailable,
        }
    }

    /// Shows that an operator wants it without work, and what would be at fault otherwise.
    pub fn drain(&mut self, by: String, for_seconds: f64) {
        self.drained = Some(FunctionDrained {
            by,
            for_seconds,
            otherwise_cause: self.cause,
        });
        self.cause = Cause::None;
    }
}
