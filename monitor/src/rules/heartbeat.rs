//! Rules about the counters that the card itself owns.
//!
//! A counter that the card moves cannot be stopped by a host that is starved, as messages can: a
//! late reader finds it further on, not behind. So these may blame the card, and the conditions
//! under which a poll counts are those of [`Pulse`](super::Pulse).

use super::{Case, Finding, Says};
use crate::probe::ProbeError;
use crate::verdict::{Cause, State};
use card_spec::telemetry::{card_state, check_result};
use std::time::Duration;

/// Owners read the health page a few times a second; after this long, it is not being read.
const UNREAD_AFTER: Duration = Duration::from_secs(5);

/// The heartbeat counter stands still.
pub(super) fn frozen(case: &Case<'_>) -> Option<Finding> {
    let beat = case.beat()?;
    let polls = case.memory.pulse().unmoved_polls();
    let says = match polls {
        0 => return None,
        polls if polls < case.limits.frozen_polls => Says::Noted,
        _ => Says::Is(State::Unavailable, Cause::Card),
    };
    Some(Finding::new(
        "heartbeat-frozen",
        format!(
            "the card's heartbeat stood at {} in {polls} polls that were on time",
            beat.count
        ),
        says,
    ))
}

/// An engine owes answers and gives none.
pub(super) fn engine_frozen(case: &Case<'_>) -> Option<Finding> {
    let beat = case.beat()?;
    let (index, engine) = case
        .memory
        .engines()
        .iter()
        .zip(&beat.engines)
        .map(|(pulse, engine)| (pulse.unmoved_polls(), engine))
        .enumerate()
        .find(|(_, (polls, _))| *polls >= case.limits.frozen_polls)
        .map(|(index, (_, engine))| (index, engine))?;
    Some(Finding::new(
        "engine-frozen",
        format!(
            "engine {index} has answered {} of {} requests and no more",
            engine.responded, engine.requested
        ),
        Says::Is(State::Unavailable, Cause::Card),
    ))
}

/// The owner can no longer read the card's health page.
pub(super) fn unread(case: &Case<'_>) -> Option<Finding> {
    let unknown = Says::Is(State::Unknown, Cause::Undetermined);
    match case.look.heartbeat.as_ref()? {
        Ok(beat) => {
            let age = case.now().since(beat.read_at);
            let excused = case.memory.late_since().is_some();
            (age > UNREAD_AFTER && !excused).then(|| {
                let age = age.as_secs_f64();
                let detail = format!("the card's health page was last read {age:.1} s ago");
                Finding::new("heartbeat-unread", detail, unknown)
            })
        }
        // A card without a health page is judged by what it answers.
        Err(ProbeError::Absent { .. }) => None,
        Err(error) => Some(Finding::new(
            "heartbeat-nonsense",
            error.to_string(),
            unknown,
        )),
    }
}

/// Nothing speaks against the card, but nothing has spoken for it yet either.
pub(super) fn no_sign_of_life(case: &Case<'_>) -> Option<Finding> {
    let page = case.page()?;
    let (alive, detail) = match case.beat() {
        Some(_) => (
            case.memory.pulse().has_moved(),
            "its heartbeat has not been seen to move yet",
        ),
        None => (
            page.checks.last_result.get() == check_result::PASSED,
            "it has no heartbeat, and no known-answer test has passed yet",
        ),
    };
    (!alive).then(|| {
        Finding::new(
            "just-started",
            detail,
            Says::Is(State::Unknown, Cause::Undetermined),
        )
    })
}

/// The firmware has restarted unasked, at some time.
pub(super) fn silent_reboot(case: &Case<'_>) -> Option<Finding> {
    let reboots = case.page()?.card.silent_reboots.get();
    (reboots > 0).then(|| {
        Finding::new(
            "silent-reboot",
            format!("the firmware has restarted unasked {reboots} times"),
            Says::Noted,
        )
    })
}

/// Whether the heartbeat is seen to move now. What was read from a card before it went away does
/// not count any more, however recent.
pub(super) fn is_moving(case: &Case<'_>) -> bool {
    let ready = case
        .page()
        .is_some_and(|page| page.card.state.get() == card_state::READY);
    ready && case.memory.pulse().is_moving(case.now())
}

/// The heartbeat moves: what speaks for the card.
pub(super) fn alive(case: &Case<'_>) -> Option<Finding> {
    let beat = case.beat()?;
    is_moving(case).then(|| {
        Finding::new(
            "heartbeat-moving",
            format!("the card's heartbeat has moved to {}", beat.count),
            Says::Noted,
        )
    })
}
