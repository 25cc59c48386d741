//! Decides how a card is from what the rules found, and remembers since when.
//!
//! ```text
//!                          a card is first seen
//!                                   |
//!                                   v
//!     page stale, torn,        +---------+   sign of life, nothing against it
//!     unreadable, starting     | Unknown | -----------------------------+
//!        +-------------------> +---------+ ---------------+             |
//!        |                       |     |                  |             v
//!        |       owner gone,     |     | owner let go     |       +-----------+
//!        |       card gone       v     v of the card      |       | Connected |
//!        |         +-------------+   +--------------+     |       +-----------+
//!        |         | Unreachable |   | Disconnected |     v
//!        |         +-------------+   +--------------+  +-------------+
//!        |       heartbeat frozen, needs reset,        | Unavailable |
//!        |       check failed, breaker open            +-------------+
//!        |
//!     any state leads to any other: each poll is judged by itself, by the
//!     strongest finding (the order of the table in `rules`), and each
//!     transition has the cause and the evidence that led to it
//! ```
//!
//! A card that an operator has drained is shown as `Disconnected` whatever it is here, with how it
//! would be otherwise: that is no matter of evidence, so it is not decided here
//! (see [`CardStatus::drain`](crate::status::CardStatus::drain)).
//!
//! Two things carry over. A poll of our own that came late and saw nothing new changes nothing: it
//! says that this process was not running, which is no fault of the card. And what is at fault beside
//! a card that serves is said until it has not been seen for a while.
//!
//! This module does no I/O, reads no clock and cannot be surprised: it is told what was seen and
//! when.

mod concern;

pub use crate::attribution::Cause;

use crate::attribution::RecentChanges;
use crate::diagnosis::{Diagnosis, Others};
use crate::led::{Load, Profile};
use crate::local_health::Sample;
use crate::probe::{Heartbeat, Link, Owner, ProbeError, Sensors};
use crate::rules::{self, Case, Finding, Memory, Says};
use card_spec::telemetry::Page;
use concern::Concerns;
use hwshim::clock::Instant;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What every probe saw of one card in one poll.
#[derive(Debug)]
pub struct Look {
    /// When the poll began, before anything was read: ages reckoned from here are never too long.
    pub at: Instant,
    /// The telemetry page.
    pub page: Result<Box<Page>, ProbeError>,
    /// The card's heartbeat; `None` if there was no page to take it from.
    pub heartbeat: Option<Result<Heartbeat, ProbeError>>,
    /// The owner last named by a page; `None` if none has been.
    pub owner: Option<Result<Owner, ProbeError>>,
    /// What the host did since the poll before; `None` if nobody saw.
    pub host: Option<Sample>,
    /// How the card is connected; `None` if nobody has looked, as where there is no bus.
    pub link: Option<Arc<Result<Link, ProbeError>>>,
    /// What its kernel driver measures; `None` if nobody has looked, as where it measures nothing.
    pub sensors: Option<Arc<Result<Sensors, ProbeError>>>,
}

/// How a card is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It shows signs of life and nothing speaks against it.
    Connected,
    /// Its owner let go of it in an orderly way. Nothing is wrong, nothing is served.
    Disconnected,
    /// It is there, and does not serve.
    Unavailable,
    /// It is not there, or its owner is not.
    Unreachable,
    /// There is no fresh evidence.
    Unknown,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Connected,
        Self::Disconnected,
        Self::Unavailable,
        Self::Unreachable,
        Self::Unknown,
    ];

    /// Its name, the same in the terminal, in JSON and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::Unavailable => "unavailable",
            Self::Unreachable => "unreachable",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One finding that bears on a verdict.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Evidence {
    /// Its code: the words that drivers, metrics and logs use too.
    pub code: Cow<'static, str>,
    /// What was seen.
    pub detail: String,
}

/// What is believed about one card, and why.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Verdict {
    /// How it is.
    pub state: State,
    /// What is at fault.
    pub cause: Cause,
    /// Since when it is in this state.
    pub since: Instant,
    /// What the last poll found, what decided first.
    pub evidence: Vec<Evidence>,
}

/// A verdict gave way to another.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Transition {
    /// When.
    pub at: Instant,
    /// What the card was.
    pub from: State,
    /// What it is.
    pub to: State,
    /// What is at fault now.
    pub cause: Cause,
    /// What was found.
    pub evidence: Vec<Evidence>,
}

/// How patient rules are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Time between polls.
    pub poll_interval: Duration,
    /// Polls that must find a counter unmoved before it is held to have stopped.
    pub frozen_polls: u32,
    /// Publications that must be missing before a page is stale.
    pub stale_publications: u32,
    /// Whose lights the cards' lights shine like, if that is known: else they are not read.
    pub light: Option<Profile>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            poll_interval: Duration::from_secs(1),
            // As Intel QAT's driver has it (ADF_CFG_HB_COUNT_THRESHOLD).
            frozen_polls: 3,
            stale_publications: 3,
            light: None,
        }
    }
}

/// Judges one card, poll after poll.
#[derive(Debug)]
pub struct Judge {
    limits: Limits,
    memory: Memory,
    diagnosis: Diagnosis,
    concerns: Concerns,
    verdict: Verdict,
}

impl Judge {
    /// Starts without an opinion.
    #[must_use]
    pub fn new(limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            memory: Memory::new(now),
            diagnosis: Diagnosis::new(limits.light, now),
            concerns: Concerns::new(),
            verdict: Verdict {
                state: State::Unknown,
                cause: Cause::Undetermined,
                since: now,
                evidence: Vec::new(),
            },
        }
    }

    /// What is believed.
    #[must_use]
    pub const fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// What is known of who is at fault.
    #[must_use]
    pub const fn diagnosis(&self) -> &Diagnosis {
        &self.diagnosis
    }

    /// What earlier polls left behind.
    #[must_use]
    pub const fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Takes in what was changed in the last day of any of `subjects`, which the next poll weighs.
    pub fn weigh_changes(&mut self, changes: &RecentChanges, subjects: &[&str], now: Instant) {
        self.diagnosis.weigh_changes(changes, subjects, now);
    }

    /// Takes in what became of the host's other cards when this one went wrong, which the next poll weighs.
    pub fn weigh_others(&mut self, others: Others, now: Instant) {
        self.diagnosis.weigh_others(others, now);
    }

    /// Takes in how busy the card is said to be, which the next poll holds its light against; `None` if
    /// nobody says so.
    pub fn hear_load(&mut self, load: Option<Load>) {
        self.diagnosis.hear_load(load);
    }

    /// Takes in what a poll saw, and returns the transition it caused.
    pub fn poll(&mut self, look: &Look) -> Option<Transition> {
        self.memory.record(look, &self.limits);
        let case = Case {
            look,
            memory: &self.memory,
            limits: &self.limits,
        };
        let mut findings = rules::apply(&case);
        self.diagnosis.poll(&case);
        // What decides is said first.
        let decides = |finding: &Finding| finding.says != Says::Noted;
        findings.sort_by_key(|finding| !decides(finding));
        let says = findings.first().map_or(Says::Noted, |first| first.says);
        let mut concern = None;
        let (state, cause) = match says {
            Says::Noted => {
                let assessment = self.diagnosis.assessment();
                let (cause, why) = self.concerns.poll(assessment, look.at);
                concern = why;
                (State::Connected, cause)
            }
            Says::Hold => (self.verdict.state, self.verdict.cause),
            Says::Is(state, Cause::Undetermined) => (state, self.told_apart(state, &findings)),
            Says::Is(state, cause) => (state, cause),
        };
        let mut evidence: Vec<_> = findings.into_iter().map(|it| it.evidence).collect();
        // Why somebody is at fault with a card that serves stands in what was weighed.
        if let Some(why) = concern {
            evidence.retain(|it| it.code != why.code);
            evidence.insert(0, why);
        }
        self.settle(state, cause, evidence, look.at)
    }

    /// The finding that decides may not tell the cause where a weaker one does: a card whose check
    /// timed out *and* whose heartbeat stands still is at fault itself. Else, what was seen before
    /// may tell.
    fn told_apart(&self, state: State, findings: &[Finding]) -> Cause {
        let told = findings.iter().find_map(|finding| match finding.says {
            Says::Is(same, cause) if same == state && cause != Cause::Undetermined => Some(cause),
            _ => None,
        });
        let assessed = self.diagnosis.assessment().cause;
        let names_somebody = state != State::Unknown && assessed != Cause::None;
        told.unwrap_or(if names_somebody {
            assessed
        } else {
            Cause::Undetermined
        })
    }

    fn settle(
        &mut self,
        state: State,
        cause: Cause,
        evidence: Vec<Evidence>,
        now: Instant,
    ) -> Option<Transition> {
        let from = self.verdict.state;
        let changed = (from, self.verdict.cause) != (state, cause);
        self.verdict = Verdict {
            state,
            cause,
            since: if from == state {
                self.verdict.since
            } else {
                now
            },
            evidence,
        };
        changed.then(|| Transition {
            at: now,
            from,
            to: state,
            cause,
            evidence: self.verdict.evidence.clone(),
        })
    }
}

#[cfg(test)]
mod tests;
