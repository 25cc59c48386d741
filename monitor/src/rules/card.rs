//! Rules about the card as its owner and the router see it.

use super::memory::period;
use super::{Case, Finding, Says};
use crate::verdict::{Cause, State};
use card_spec::telemetry::{breaker_state, card_state, check_result};
use hwshim::clock::Instant;
use hwshim::pci::Presence;

/// Evidence codes that open a breaker and can only be the card's doing: it broke a rule of the
/// interface, or lied. A timeout or an error status may also be the host's or the caller's.
const CARDS_OWN_DOING: [&str; 9] = [
    "completed-unknown-request",
    "needs-reset",
    "overclaimed-length",
    "repeated-nonce",
    "silent-reboot",
    "undefined-status",
    "used-index-jumped",
    "wrong-answer",
    "wrong-length",
];

/// Whether a code can only be the card's doing.
pub(super) fn is_own_doing(code: &str) -> bool {
    CARDS_OWN_DOING.contains(&code)
}

/// Whether a code says that the card was lost to the bus, which is not its own doing.
pub(super) fn is_lost_to_the_bus(code: &str) -> bool {
    matches!(code, "gone" | "bus-error")
}

/// The card no longer answers on the bus.
pub(super) fn gone(case: &Case<'_>) -> Option<Finding> {
    if state(case)? != card_state::GONE {
        return None;
    }
    let (cause, detail) = match case.look.link.as_deref() {
        // Hot-plug would have taken it away with the card.
        Some(Ok(link)) if link.presence == Presence::Gone => (
            Cause::Link,
            "the card no longer answers on the bus, though the kernel finds it in its slot",
        ),
        _ => (Cause::CardAbsent, "the card no longer answers on the bus"),
    };
    Some(Finding::new(
        "gone",
        detail,
        Says::Is(State::Unreachable, cause),
    ))
}

/// The card takes no work for now, and says so: maintenance. Nothing is at fault then.
pub(super) fn paused(case: &Case<'_>) -> Option<Finding> {
    case.beat()?.status.processing_paused().then(|| {
        Finding::new(
            "card-paused",
            "the card has paused its work, as for maintenance (CSTS.PP)",
            Says::Is(State::Unavailable, Cause::None),
        )
    })
}

/// Whether the breaker was opened, or kept open, for what the card did not answer while it had paused,
/// and nobody has tried it since.
pub(super) fn is_out_for_a_pause(case: &Case<'_>) -> bool {
    out_in_silence_since(case).is_some_and(|since| case.memory.was_paused_at(since))
}

/// Whether it was, or the card has yet to say that it had paused.
pub(super) fn may_be_out_for_a_pause(case: &Case<'_>) -> bool {
    is_out_for_a_pause(case)
        || out_in_silence_since(case).is_some_and(|since| has_yet_to_tell(case, since))
}

/// Since when the breaker is open for what the card did not answer, if it is.
fn out_in_silence_since(case: &Case<'_>) -> Option<Instant> {
    let page = case.page()?;
    let breaker = &page.breaker;
    let is_out = breaker.state.get() != breaker_state::CLOSED && is_silence(&page.opened_by());
    is_out.then(|| Instant::from_nanos(breaker.state_since_ns.get()))
}

/// Whether the last known-answer test got no answer because the card had paused.
pub(super) fn was_tested_in_a_pause(case: &Case<'_>) -> bool {
    tested_in_silence_at(case).is_some_and(|at| case.memory.was_paused_at(at))
}

/// Whether it did, or the card has yet to say that it had paused.
pub(super) fn may_have_been_tested_in_a_pause(case: &Case<'_>) -> bool {
    was_tested_in_a_pause(case)
        || tested_in_silence_at(case).is_some_and(|at| has_yet_to_tell(case, at))
}

/// When the last known-answer test ended, if it got no answer.
fn tested_in_silence_at(case: &Case<'_>) -> Option<Instant> {
    let checks = &case.page()?.checks;
    let is_silent = checks.last_result.get() == check_result::TIMED_OUT;
    is_silent.then(|| Instant::from_nanos(checks.last_at_ns.get()))
}

/// Whether a card that did not answer by then may only say with its next beat that it has paused. Nobody
/// waits longer for a beat that is not read.
fn has_yet_to_tell(case: &Case<'_>, then: Instant) -> bool {
    case.beat().is_some_and(|beat| {
        let period = period(beat);
        let is_recent = then <= case.now() && case.now() < then.plus(period * 2);
        is_recent && beat.read_at < then.plus(period)
    })
}

/// Whether a code says that answers did not come, and nothing else.
pub(super) fn is_silence(code: &str) -> bool {
    matches!(code, "timed-out" | "ring-stuck")
}

/// The card takes no requests before a reset.
pub(super) fn needs_reset(case: &Case<'_>) -> Option<Finding> {
    let card = &case.page()?.card;
    // Drivers reset a card also when a starved host made it look slow. Only one that then does not
    // come back is to blame for that.
    let cause = match card.resets_failed.get() > case.memory.resets_failed_before() {
        false => Cause::Undetermined,
        true => Cause::Card,
    };
    (card.state.get() == card_state::NEEDS_RESET).then(|| {
        Finding::new(
            "needs-reset",
            format!(
                "the card takes no requests before a reset ({} done, {} failed)",
                card.resets, card.resets_failed
            ),
            Says::Is(State::Unavailable, cause),
        )
    })
}

/// The card says of itself that it has failed.
pub(super) fn says_it_failed(case: &Case<'_>) -> Option<Finding> {
    let beat = case.beat()?;
    let (code, detail) = if beat.status.fatal() {
        (
            "card-fatal",
            "the firmware reports a fatal error (CSTS.CFS)",
        )
    } else if beat.warning.fail_closed() {
        (
            "card-fail-closed",
            "the card refuses private-key operations (critical warning)",
        )
    } else {
        return None;
    };
    let says = Says::Is(State::Unavailable, Cause::Card);
    Some(Finding::new(code, detail, says))
}

/// The last known-answer test failed.
pub(super) fn check_failed(case: &Case<'_>) -> Option<Finding> {
    let checks = &case.page()?.checks;
    // What tells is whether it answers now, which the next test will say.
    if was_tested_in_a_pause(case) {
        return None;
    }
    let (code, what, cause) = match checks.last_result.get() {
        check_result::NONE | check_result::PASSED => return None,
        check_result::FAILED => ("check-failed", "an error status", Cause::Undetermined),
        check_result::TIMED_OUT => ("timed-out", "no answer in time", Cause::Undetermined),
        check_result::WRONG_ANSWER => ("wrong-answer", "a wrong answer", Cause::Card),
        // A test that was under way when the card was lost to the bus ended that way too.
        check_result::MISBEHAVED if is_lost_to_the_bus(&case.page()?.opened_by()) => (
            "check-misbehaved",
            "lost with the card",
            Cause::Undetermined,
        ),
        check_result::MISBEHAVED => ("check-misbehaved", "a breach of the interface", Cause::Card),
        _ => ("check-failed", "a result unknown here", Cause::Undetermined),
    };
    Some(Finding::new(
        code,
        format!(
            "the last known-answer test got {what} ({} of {} failed)",
            checks.failed, checks.started
        ),
        Says::Is(State::Unavailable, cause),
    ))
}

/// The router gives the card no work.
pub(super) fn breaker_open(case: &Case<'_>) -> Option<Finding> {
    let page = case.page()?;
    let state = match page.breaker.state.get() {
        breaker_state::CLOSED => return None,
        breaker_state::OPEN => "open",
        breaker_state::HALF_OPEN => "half-open",
        _ => "in a state unknown here",
    };
    let opened_by = page.opened_by();
    // Until its first request has been answered, a breaker is half-open without ever having opened.
    // That says that the owner has just begun, and nothing of the card.
    if state == "half-open" && page.breaker.opened.get() == 0 && opened_by.is_empty() {
        return None;
    }
    let cause = match opened_by.as_str() {
        _ if is_out_for_a_pause(case) => Cause::None,
        code if is_silence(code) && case.memory.is_out_for_a_hang() => Cause::Card,
        code if is_own_doing(code) => Cause::Card,
        "gone" => Cause::CardAbsent,
        "bus-error" => Cause::Link,
        _ => Cause::Undetermined,
    };
    let by = if opened_by.is_empty() {
        "no reason given".to_owned()
    } else {
        format!("by {opened_by}")
    };
    Some(Finding::new(
        "breaker-open",
        format!(
            "the breaker is {state}: {by}; opened {} times",
            page.breaker.opened
        ),
        Says::Is(State::Unavailable, cause),
    ))
}

/// The card is being brought up, or in a state that only a newer owner knows.
pub(super) fn starting(case: &Case<'_>) -> Option<Finding> {
    let (code, detail) = match state(case)? {
        card_state::STARTING => ("card-starting", "the card is being brought up".to_owned()),
        card_state::READY | card_state::NEEDS_RESET | card_state::GONE | card_state::RELEASED => {
            return None;
        }
        other => (
            "card-state-undefined",
            format!("the owner gives card state {other}, unknown here; update this program"),
        ),
    };
    let says = Says::Is(State::Unknown, Cause::Undetermined);
    Some(Finding::new(code, detail, says))
}

fn state(case: &Case<'_>) -> Option<u64> {
    Some(case.page()?.card.state.get())
}
