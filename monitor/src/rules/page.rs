//! Rules about the telemetry page as such: whether it can be seen, and whether it is fresh.

use super::{Case, Finding, Says};
use crate::probe::ProbeError;
use crate::verdict::{Cause, State};
use card_spec::telemetry::Page;
use hwshim::clock::Instant;
use rustix::io::Errno;
use std::io;
use std::time::Duration;

/// A publication takes microseconds, but its writer may be interrupted in the middle. One poll
/// that meets it there is a coincidence, two are a finding.
const TORN_POLLS: u32 = 2;
/// Longest that own late polls excuse everything else.
const HOLD_MAX: Duration = Duration::from_secs(60);
/// An owner may state any publication interval; it must not be able to never become stale.
const PUBLISH_INTERVAL_MAX: Duration = Duration::from_secs(10);

/// There is no page that can be read.
pub(super) fn unseen(case: &Case<'_>) -> Option<Finding> {
    let error = case.look.page.as_ref().err()?;
    let unknown = |cause| Says::Is(State::Unknown, cause);
    let (code, says) = match error {
        ProbeError::Absent { .. } => ("page-absent", unknown(Cause::Undetermined)),
        ProbeError::Unreadable { source, .. } => {
            let cause = if is_ours(source) {
                Cause::Monitor
            } else {
                Cause::Undetermined
            };
            ("page-unreadable", unknown(cause))
        }
        ProbeError::Nonsense { .. } => ("page-nonsense", unknown(Cause::Undetermined)),
        ProbeError::Torn { .. } if case.memory.torn_polls() < TORN_POLLS => {
            ("page-torn", Says::Hold)
        }
        ProbeError::Torn { .. } => ("page-torn", unknown(Cause::Undetermined)),
    };
    Some(Finding::new(code, error.to_string(), says))
}

/// Whether it is this program that may not see, or has nothing left to see with.
fn is_ours(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    let nothing_left = [Errno::MFILE, Errno::NFILE, Errno::NOMEM];
    error.kind() == io::ErrorKind::PermissionDenied
        || errno.is_some_and(|errno| nothing_left.contains(&errno))
}

/// This program did not get to run in time.
pub(super) fn polled_late(case: &Case<'_>) -> Option<Finding> {
    let late = case.now().since(case.memory.late_since()?);
    let says = if late > HOLD_MAX {
        Says::Is(State::Unknown, Cause::Monitor)
    } else if case.memory.page_moved() {
        Says::Noted
    } else {
        Says::Hold
    };
    Some(Finding::new(
        "poll-late",
        format!(
            "the monitor itself has been running late for {:.1} s",
            late.as_secs_f64()
        ),
        says,
    ))
}

/// The owner is there, but has not published for too long.
pub(super) fn stale(case: &Case<'_>) -> Option<Finding> {
    let age = age(case)?;
    (is_stale(case) && case.memory.late_since().is_none()).then(|| {
        Finding::new(
            "page-stale",
            format!(
                "the owner last published {:.1} s ago, though it is there",
                age.as_secs_f64()
            ),
            Says::Is(State::Unknown, Cause::Undetermined),
        )
    })
}

/// The owner has created the page, and not published yet.
pub(super) fn empty(case: &Case<'_>) -> Option<Finding> {
    published_at(case.page()?).is_none().then(|| {
        Finding::new(
            "page-empty",
            "the owner has not published yet",
            Says::Is(State::Unknown, Cause::Undetermined),
        )
    })
}

/// Whether publications are missing. A page that cannot be read is as stale as the last that could.
pub(super) fn is_stale(case: &Case<'_>) -> bool {
    let limits = case.limits;
    let interval = case.page().map_or(Duration::ZERO, publish_interval);
    let after = interval.max(limits.poll_interval) * limits.stale_publications;
    age(case).unwrap_or_else(|| case.now().since(case.memory.page_moved_at())) > after
}

/// How old the page is: by its own account or by how long we have seen it unchanged, whichever is
/// longer, so that a time from another boot or another clock cannot keep it fresh.
pub(super) fn age(case: &Case<'_>) -> Option<Duration> {
    let by_its_own = case.now().since(published_at(case.page()?)?);
    Some(by_its_own.max(case.now().since(case.memory.page_moved_at())))
}

fn published_at(page: &Page) -> Option<Instant> {
    let at = page.owner.published_at_ns.get();
    (at != 0).then_some(Instant::from_nanos(at))
}

fn publish_interval(page: &Page) -> Duration {
    Duration::from_nanos(page.owner.publish_interval_ns.get()).min(PUBLISH_INTERVAL_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_not_read_or_has_no_descriptor_left_is_blind_by_its_own_fault() {
        let of = io::Error::from_raw_os_error;
        for errno in [Errno::ACCESS, Errno::MFILE, Errno::NFILE, Errno::NOMEM] {
            assert!(is_ours(&of(errno.raw_os_error())), "{errno}");
        }
        assert!(!is_ours(&of(Errno::IO.raw_os_error())));
        assert!(!is_ours(&io::Error::from(io::ErrorKind::UnexpectedEof)));
    }
}
