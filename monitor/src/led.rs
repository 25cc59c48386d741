//! Reads what the light of a card says, from when it went on and off.
//!
//! What a light says depends on who built the card, so there is a profile for each. A decoder is told
//! edges and the time; it watches no light itself, and what the card does about its light is not
//! judged here.
//!
//! ```text
//! nfast-500        _#_______________#______________#____   operational: a blink every 3 to 4 s
//!                  _#__#_________#_#____________________   irregular
//! nshield          ######_##########_###_#####_#########   operational: lit, off for a moment now and then
//!                  _#_#_______#_#_______#_#_______#_#___   initialization
//!                  _####__####________####__####________   maintenance
//!                  _#_#_#___###_###_###___#_#_#_______     error, and a code in Morse
//! ```
//!
//! Times are those of the light: whoever reads a card's own log of edges ([`EdgeLog`]) counts the
//! uptime of its firmware, so that no delay of the reader's makes an interval longer, and a card
//! that nobody has read says nothing new. What was not seen is not guessed: after a gap a decoder
//! starts from nothing.

mod blink;
mod load;
mod log;
mod signal;
pub mod trace;

pub use blink::Rule;
pub use load::{Agreement, Load, LoadCheck};
pub use log::{EdgeLog, NewEdges};

use hwshim::clock::Instant;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// A light of either profile that has not changed for so long is stuck, or off. The longest that
/// any healthy or signalling light stays as it is, save one that is simply lit, is a few seconds.
const STUCK_AFTER: Duration = Duration::from_secs(20);

/// Whose lights it shines like.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// nCipher nFast 500 and its generation: a blink every 3 to 4 seconds. Anything else is a
    /// fault.
    // As a configuration has it, which kebab-case would not.
    #[serde(rename = "nfast-500", alias = "nfast500")]
    Nfast500,
    /// nShield: lit, and off for a moment now and then, more often under load; two short or two
    /// long pulses for a mode; SOS for an error.
    Nshield,
}

/// What a light says.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "reading")]
pub enum Reading {
    /// Too little was seen, or what was seen cannot be read yet.
    Unknown,
    /// All is well.
    Operational,
    /// It blinks without a rhythm.
    Irregular,
    /// It is lit and does not blink any more.
    StuckOn,
    /// It is dark: stuck, or without power.
    Dark,
    /// The card starts, or waits to be initialized.
    Initialization,
    /// The card is in its maintenance mode.
    Maintenance,
    /// The card signals an error.
    Error {
        /// The code, once it has been read twice alike.
        code: Option<String>,
    },
}

impl Profile {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Nfast500, Self::Nshield];

    /// Its name, as a configuration has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nfast500 => "nfast-500",
            Self::Nshield => "nshield",
        }
    }
}

impl Reading {
    /// Whether the card is at fault, or without power.
    #[must_use]
    pub const fn is_fault(&self) -> bool {
        match self {
            Self::Irregular | Self::StuckOn | Self::Dark | Self::Error { .. } => true,
            Self::Unknown | Self::Operational | Self::Initialization | Self::Maintenance => false,
        }
    }
}

/// What a code that is signalled after SOS means, where that could be verified. The others are
/// shown as read.
#[must_use]
pub fn meaning(code: &str) -> Option<&'static str> {
    match code {
        "B1" => Some("the battery is below 2.46 V"),
        _ => None,
    }
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("unknown"),
            Self::Operational => f.write_str("operational"),
            Self::Irregular => f.write_str("blinks irregularly"),
            Self::StuckOn => f.write_str("lit, and does not blink"),
            Self::Dark => f.write_str("dark"),
            Self::Initialization => f.write_str("initialization"),
            Self::Maintenance => f.write_str("maintenance"),
            Self::Error { code: None } => f.write_str("SOS"),
            Self::Error { code: Some(code) } => {
                write!(f, "SOS-{code}")?;
                meaning(code).map_or(Ok(()), |meaning| write!(f, " ({meaning})"))
            }
        }
    }
}

/// How long the light was on, or off.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Run {
    lit: bool,
    len: Duration,
}

/// Reads one light.
#[derive(Clone, Debug)]
pub struct Decoder {
    script: Script,
    /// When it was first looked at since the last gap.
    seen_from: Option<Instant>,
    /// When it was last known to be as it is.
    seen_until: Instant,
    lit: bool,
    /// When it became so; `None` if that was not seen.
    changed_at: Option<Instant>,
}

/// What is read in one profile.
#[derive(Clone, Debug)]
enum Script {
    Blinks(blink::Blinks),
    Signals(signal::Signals),
}

impl Decoder {
    /// Has seen nothing.
    #[must_use]
    pub fn new(profile: Profile) -> Self {
        Self::following(match profile {
            Profile::Nfast500 => Script::Blinks(blink::Blinks::new(Rule::FOUR_OF_TWELVE)),
            Profile::Nshield => Script::Signals(signal::Signals::default()),
        })
    }

    /// Reads a light of [`Profile::Nfast500`] by another rule.
    #[must_use]
    pub fn with_rule(rule: Rule) -> Self {
        Self::following(Script::Blinks(blink::Blinks::new(rule)))
    }

    fn following(script: Script) -> Self {
        Self {
            script,
            seen_from: None,
            seen_until: Instant::ORIGIN,
            lit: false,
            changed_at: None,
        }
    }

    /// The light went on or off.
    ///
    /// An edge that goes back in time, or to where the light was already, shows that others were
    /// missed, and is a [gap](Self::gap).
    pub fn edge(&mut self, at: Instant, lit: bool) {
        let after_the_last = self.changed_at.or(self.seen_from) <= Some(at);
        let follows = self.seen_from.is_none() || after_the_last && lit != self.lit;
        if !follows {
            self.gap();
        }
        if let Some(changed_at) = self.changed_at {
            let run = Run {
                lit: self.lit,
                len: at.since(changed_at),
            };
            match &mut self.script {
                Script::Blinks(_) => {}
                Script::Signals(signals) => signals.add(run),
            }
        }
        if let (Script::Blinks(blinks), true) = (&mut self.script, lit) {
            blinks.began(at);
        }
        self.see(at, lit);
        self.changed_at = Some(at);
    }

    /// The light is as it was; or it is not, and an edge was missed.
    pub fn still(&mut self, at: Instant, lit: bool) {
        let follows = self.seen_from.is_none() || (at >= self.seen_until && lit == self.lit);
        if !follows {
            self.gap();
        }
        self.see(at, lit);
    }

    fn see(&mut self, at: Instant, lit: bool) {
        self.seen_from.get_or_insert(at);
        self.seen_until = at;
        self.lit = lit;
    }

    /// Edges may have been missed: what was seen before does not go on after.
    pub fn gap(&mut self) {
        self.seen_from = None;
        self.changed_at = None;
        match &mut self.script {
            Script::Blinks(blinks) => blinks.gap(),
            Script::Signals(signals) => signals.gap(),
        }
    }

    /// Intervals of late that were too long or too short; `None` in a profile without a rhythm.
    #[must_use]
    pub fn outliers(&self) -> Option<trace::Outliers> {
        match &self.script {
            Script::Blinks(blinks) => Some(blinks.outliers(self.seen_until)),
            Script::Signals(_) => None,
        }
    }

    /// What was spelled after each SOS, oldest first, as read: once or twice, whole or not.
    #[must_use]
    pub fn letters(&self) -> Vec<String> {
        match &self.script {
            Script::Blinks(_) => Vec::new(),
            Script::Signals(signals) => signals.letters(),
        }
    }

    /// What it says, as far as it was seen.
    #[must_use]
    pub fn reading(&self) -> Reading {
        let Some(seen_from) = self.seen_from else {
            return Reading::Unknown;
        };
        let unchanged = self.seen_until.since(self.changed_at.unwrap_or(seen_from));
        let stuck = unchanged >= STUCK_AFTER;
        match &self.script {
            _ if stuck && !self.lit => Reading::Dark,
            Script::Blinks(_) if stuck => Reading::StuckOn,
            Script::Blinks(blinks) => blinks.reading(self.seen_until),
            Script::Signals(signals) => {
                let now = Run {
                    lit: self.lit,
                    len: unchanged,
                };
                signals.reading(now, self.seen_until.since(seen_from))
            }
        }
    }
}

#[cfg(test)]
mod tests;
