//! Rules about the process that owns the card.

use super::{Case, Finding, Says, page};
use crate::probe::{Owner, ProbeError};
use crate::verdict::{Cause, State};
use card_spec::telemetry::card_state;

/// The owner let go of the card. That stands, whether or not the owner has ended since.
pub(super) fn released(case: &Case<'_>) -> Option<Finding> {
    has_released(case).then(|| {
        Finding::new(
            "card-released",
            "its owner let go of it in an orderly way",
            Says::Is(State::Disconnected, Cause::None),
        )
    })
}

/// Whether it has let go of the card in an orderly way.
pub(crate) fn has_released(case: &Case<'_>) -> bool {
    let page = case.page();
    page.is_some_and(|page| page.card.state.get() == card_state::RELEASED)
}

/// The owner's process is gone, and had the card.
pub(super) fn gone(case: &Case<'_>) -> Option<Finding> {
    if has_released(case) {
        return None;
    }
    let how = match case.look.owner.as_ref()? {
        Ok(Owner::Alive(_)) => return None,
        Ok(Owner::Ended) => "has ended without letting go of the card".to_owned(),
        // A process that was never seen may be hidden from us, or have another number in its
        // container; as long as its page is fresh, somebody is publishing.
        Err(ProbeError::Absent { what }) if page::is_stale(case) => {
            format!("is not there: {what} does not exist")
        }
        Err(_) => return None,
    };
    Some(Finding::new(
        "owner-gone",
        format!("the owner's process {how}"),
        Says::Is(State::Unreachable, Cause::ServiceGone),
    ))
}

/// The owner is there, but something stopped it.
pub(super) fn stopped(case: &Case<'_>) -> Option<Finding> {
    let Owner::Alive(process) = case.owner()? else {
        return None;
    };
    // A page that still moves refutes it: the process was continued before anybody waited for it.
    (process.is_stopped() && !case.memory.page_moved()).then(|| {
        Finding::new(
            "owner-stopped",
            format!(
                "the owner's process {} is stopped by a signal or a debugger",
                process.id.pid
            ),
            Says::Is(State::Unknown, Cause::ServiceHang),
        )
    })
}
