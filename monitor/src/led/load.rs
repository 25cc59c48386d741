//! Holds how often a light blinks against how busy the card is said to be.
//!
//! An nShield blinks off more often the more it has to do. A light that does not, while the card
//! counts much work, or the reverse, contradicts the card's own figures. Which of the two lies is
//! not said here.

use hwshim::clock::Instant;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A card that does no more than this share of what it can is idle.
const IDLE_MAX: f64 = 0.2;
/// One that does this much is busy.
const BUSY_MIN: f64 = 0.6;
/// What is judged must have been seen for so long.
const SEEN_MIN: Duration = Duration::from_secs(60);
/// Older blinks count half.
const SEEN_MAX: Duration = Duration::from_secs(600);
/// A busy card blinks more often than an idle one by at least this factor.
const RATIO_MIN: f64 = 1.25;
/// Standard errors below that factor from which it is no accident.
const STANDARD_ERRORS: f64 = 3.0;

/// How busy a card is said to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Of what it can do, from 0 to 1.
    pub share: f64,
    /// When that was said.
    pub said_at: Instant,
}

/// Whether light and load agree.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Agreement {
    /// The card was not busy and idle for long enough.
    Unknown,
    /// They do.
    Agrees,
    /// The light does not blink as the load has it.
    Disagrees,
}

/// How often a light has blinked while the card was idle, and while it was busy.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadCheck {
    idle: Tally,
    busy: Tally,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    seen: Duration,
    blinks: f64,
}

impl LoadCheck {
    /// Has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The light has blinked so often in the last `elapsed`, while the card did `load` of what it
    /// can, from 0 to 1. Anything in between idle and busy is not counted; tells whether it was.
    pub fn add(&mut self, load: f64, blinks: u32, elapsed: Duration) -> bool {
        let tally = match load {
            ..=IDLE_MAX => &mut self.idle,
            BUSY_MIN.. => &mut self.busy,
            _ => return false,
        };
        tally.seen += elapsed;
        tally.blinks += f64::from(blinks);
        if tally.seen > SEEN_MAX {
            tally.seen /= 2;
            tally.blinks /= 2.0;
        }
        true
    }

    /// The same of a time at whose beginning the load was the one and at whose end the other. Only
    /// where it was idle or busy at both is it taken for that all the time.
    pub fn add_between(&mut self, loads: [f64; 2], blinks: u32, elapsed: Duration) -> bool {
        let [lower, upper] = [loads[0].min(loads[1]), loads[0].max(loads[1])];
        let is_one = upper <= IDLE_MAX || lower >= BUSY_MIN;
        is_one && self.add(lower, blinks, elapsed)
    }

    /// What was seen, in words.
    #[must_use]
    pub fn in_words(&self) -> String {
        let seen = |tally: &Tally| {
            let (blinks, seconds) = (tally.blinks.round(), tally.seen.as_secs());
            format!("{blinks} times in {seconds} s")
        };
        let (busy, idle) = (seen(&self.busy), seen(&self.idle));
        format!(
            "the light went off {busy} in which the card was busy, and {idle} in which it was idle"
        )
    }

    /// Whether the light blinks as the load has it.
    #[must_use]
    pub fn agreement(&self) -> Agreement {
        let Self { idle, busy } = self;
        if busy.seen < SEEN_MIN {
            return Agreement::Unknown;
        }
        if busy.blinks == 0.0 {
            return Agreement::Disagrees;
        }
        if idle.seen < SEEN_MIN {
            return Agreement::Unknown;
        }
        // Counts of blinks, taken for Poisson's, which the more regular real ones stay within.
        let scale = RATIO_MIN * busy.seen.as_secs_f64() / idle.seen.as_secs_f64();
        let lacking = scale * idle.blinks - busy.blinks;
        let standard_error = (busy.blinks + scale * scale * idle.blinks).sqrt();
        if lacking > STANDARD_ERRORS * standard_error {
            Agreement::Disagrees
        } else {
            Agreement::Agrees
        }
    }
}
