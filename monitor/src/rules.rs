//! What is telling in a look at a card. Each rule is a function of what was seen; none reads
//! anything itself.
//!
//! The table below is the order of strength: the first rule that does not merely note something
//! decides. Facts that an owner wrote down for good come first, then blindness, then what needs a
//! page that is fresh.

mod card;
mod heartbeat;
mod memory;
mod owner;
mod page;

pub use memory::{Memory, Pulse};
pub(crate) use owner::has_released;

use crate::probe::{Heartbeat, Owner};
use crate::verdict::{Cause, Evidence, Limits, Look, State};
use card_spec::telemetry::Page;
use hwshim::clock::Instant;
use std::borrow::Cow;

/// Strongest first.
const RULES: [Rule; 20] = [
    owner::released,
    card::gone,
    owner::gone,
    page::unseen,
    page::polled_late,
    owner::stopped,
    page::stale,
    page::empty,
    heartbeat::frozen,
    heartbeat::engine_frozen,
    card::paused,
    card::needs_reset,
    card::says_it_failed,
    card::check_failed,
    card::breaker_open,
    card::starting,
    heartbeat::unread,
    heartbeat::no_sign_of_life,
    heartbeat::silent_reboot,
    heartbeat::alive,
];

/// One rule.
type Rule = fn(&Case<'_>) -> Option<Finding>;

/// What a rule judges by.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// What was seen now.
    pub look: &'a Look,
    /// What was seen before.
    pub memory: &'a Memory,
    /// How patient to be.
    pub limits: &'a Limits,
}

/// What a rule found.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Its code, and what was seen.
    pub evidence: Evidence,
    /// What follows.
    pub says: Says,
}

/// What follows from a finding.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Says {
    /// The card is so, and this is at fault.
    Is(State, Cause),
    /// This poll learned nothing; what was believed is believed still.
    Hold,
    /// Nothing by itself.
    Noted,
}

/// Asks every rule.
#[must_use]
pub fn apply(case: &Case<'_>) -> Vec<Finding> {
    RULES.iter().filter_map(|rule| rule(case)).collect()
}

impl Case<'_> {
    fn now(&self) -> Instant {
        self.look.at
    }

    fn page(&self) -> Option<&Page> {
        self.look.page.as_deref().ok()
    }

    fn beat(&self) -> Option<&Heartbeat> {
        self.look.heartbeat.as_ref()?.as_ref().ok()
    }

    fn owner(&self) -> Option<&Owner> {
        self.look.owner.as_ref()?.as_ref().ok()
    }
}

impl Finding {
    fn new(code: impl Into<Cow<'static, str>>, detail: impl Into<String>, says: Says) -> Self {
        Self {
            evidence: Evidence {
                code: code.into(),
                detail: detail.into(),
            },
            says,
        }
    }
}

/// How old the page is; `None` if there is none, or nothing was ever published in it.
#[must_use]
pub fn page_age(case: &Case<'_>) -> Option<std::time::Duration> {
    page::age(case)
}

/// Whether the card says that it takes no work for now, and means to.
#[must_use]
pub fn is_paused(case: &Case<'_>) -> bool {
    card::paused(case).is_some()
}

/// Whether the breaker is open for what the card did not answer while it had paused, or may be: it has
/// yet to say so.
#[must_use]
pub fn may_be_out_for_a_pause(case: &Case<'_>) -> bool {
    card::may_be_out_for_a_pause(case)
}

/// Whether the last known-answer test got no answer because the card had paused, or may have: it has yet
/// to say so.
#[must_use]
pub fn may_have_been_tested_in_a_pause(case: &Case<'_>) -> bool {
    card::may_have_been_tested_in_a_pause(case)
}

/// Whether a code says that answers did not come, and nothing else.
#[must_use]
pub fn is_silence(code: &str) -> bool {
    card::is_silence(code)
}

/// Whether a code says that the card was lost to the bus.
#[must_use]
pub fn is_lost_to_the_bus(code: &str) -> bool {
    card::is_lost_to_the_bus(code)
}

/// Whether a code names a rule of the interface that only a card can break.
#[must_use]
pub fn breaks_a_rule(code: &str) -> bool {
    card::is_own_doing(code)
}

/// Whether the card's heartbeat is seen to move now.
#[must_use]
pub fn heartbeat_is_moving(case: &Case<'_>) -> bool {
    heartbeat::is_moving(case)
}
