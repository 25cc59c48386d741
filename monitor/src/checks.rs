//! Which codes of [`crate::code`] fit what was seen of a card or of the host, and what each
//! advises. Services are given theirs where they are judged.
//!
//! | code | seen |
//! |---|---|
//! | 0 | what is to be read or written may not be |
//! | 1 | the kernel has no room for what is to be written |
//! | 3 | the history's file system is full |
//! | 4 | the card refuses sessions |
//! | 6 | processes were killed for want of memory, or nothing more can be opened |
//! | 16 to 22, 25, 26 | the evidence of that name |
//! | 23 | the firmware was changed, and no change window was open |
//!
//! Codes 2 and 5 are for whoever loads blobs and opens privileged sessions; nothing that is seen
//! from outside tells of either.

use crate::code::{self, Entry};
use crate::probe::ProbeError;
use crate::status::{AssessmentFigures, BreakerFigures};
use crate::verdict::Evidence;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io;

/// A health check that fails, and what to do.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Advice {
    /// Its number.
    pub code: u8,
    /// What it means.
    pub meaning: Cow<'static, str>,
    /// What to do at once, as in [`ImmediateAction`](crate::code::ImmediateAction).
    pub at_once: Cow<'static, str>,
    /// What to look into.
    pub investigate: Cow<'static, str>,
}

impl From<&'static Entry> for Advice {
    fn from(entry: &'static Entry) -> Self {
        Self {
            code: entry.code,
            meaning: entry.meaning.into(),
            at_once: entry.immediate.name().into(),
            investigate: entry.investigate.into(),
        }
    }
}

/// What the codes advise, in their order.
#[must_use]
pub fn advice(codes: &[u8]) -> Vec<Advice> {
    let entries = codes.iter().filter_map(|code| code::lookup(*code));
    entries.map(Advice::from).collect()
}

/// What of a card bears on its codes.
#[derive(Clone, Copy, Debug)]
pub struct CardSight<'a> {
    /// The evidence of its verdict.
    pub evidence: &'a [Evidence],
    /// Whether its router gives it work.
    pub breaker: Option<&'a BreakerFigures>,
    /// What was weighed.
    pub assessment: Option<&'a AssessmentFigures>,
    /// Why its page was not seen, if it was not.
    pub page: Option<&'a ProbeError>,
    /// Whether the link reported a fatal error of late.
    pub fatal_on_link: bool,
}

/// The codes that fit a card, ascending.
#[must_use]
pub fn of_card(sight: &CardSight<'_>) -> Vec<u8> {
    let CardSight {
        evidence,
        breaker,
        assessment,
        page,
        fatal_on_link,
    } = *sight;
    let said = evidence.iter().map(|piece| &*piece.code);
    // What opened a breaker that has closed again is over.
    let open = breaker.filter(|breaker| breaker.state != "closed");
    let opened_by = open.and_then(|breaker| breaker.opened_by.as_deref());
    let weighed = assessment.into_iter().flat_map(|it| &it.evidence);
    let weighed = weighed.filter(|it| it.seen).map(|it| &*it.code);
    let mut codes: BTreeSet<u8> = said.chain(opened_by).filter_map(of_evidence).collect();
    codes.extend(weighed.filter_map(of_evidence));
    codes.extend(page.and_then(of_refusal));
    codes.extend(fatal_on_link.then_some(21));
    codes.into_iter().collect()
}

/// The code of a piece of evidence, if it is a check that failed.
fn of_evidence(code: &str) -> Option<u8> {
    Some(match code {
        "session-refused" => 4,
        "wrong-answer" => 16,
        "timed-out" | "ring-stuck" | "no-answer" => 17,
        "heartbeat-frozen" | "engine-frozen" | "counter-frozen" => 18,
        "led-fault" => 19,
        "degraded-link" => 20,
        "bus-error" => 21,
        "out-of-range" => 22,
        "repeated-nonce" => 25,
        "fatal-error" => 26,
        _ => return None,
    })
}

/// The codes of which one may stand for a piece of evidence of a card, a service or the host. Whether
/// one does was decided where it was judged.
pub(crate) fn may_fail_by(evidence: &str) -> impl Iterator<Item = u8> {
    let depending: &[u8] = match evidence {
        "page-unreadable" | "telemetry-unreadable" | "reach-unseen" => &[0, 1, 6],
        "declined" => &[4],
        "known-answer-refused" => &[4, 6],
        "oom-kill" => &[6],
        "no-work" | "known-answer-lost" => &[17],
        "aer" => &[21],
        "leak" => &[24, 6],
        _ => &[],
    };
    of_evidence(evidence)
        .into_iter()
        .chain(depending.iter().copied())
}

/// The code of something that may not be read.
#[must_use]
pub fn of_refusal(error: &ProbeError) -> Option<u8> {
    match error {
        ProbeError::Unreadable { source, .. } => of_io(source),
        ProbeError::Absent { .. } | ProbeError::Nonsense { .. } | ProbeError::Torn { .. } => None,
    }
}

/// The code of what the kernel refused.
#[must_use]
pub fn of_io(error: &io::Error) -> Option<u8> {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Some(0),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some(1),
        io::ErrorKind::OutOfMemory => Some(6),
        _ if matches!(error.raw_os_error(), Some(code) if is_out_of_descriptors(code)) => Some(6),
        _ => None,
    }
}

fn is_out_of_descriptors(code: i32) -> bool {
    code == rustix::io::Errno::MFILE.raw_os_error()
        || code == rustix::io::Errno::NFILE.raw_os_error()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight(evidence: &[Evidence]) -> CardSight<'_> {
        CardSight {
            evidence,
            breaker: None,
            assessment: None,
            page: None,
            fatal_on_link: false,
        }
    }

    fn unreadable(source: io::Error) -> ProbeError {
        ProbeError::Unreadable {
            path: "/x".into(),
            source,
        }
    }

    #[test]
    fn every_sight_of_a_card_has_its_code_and_each_code_its_advice() {
        let seen = [
            ("session-refused", 4),
            ("wrong-answer", 16),
            ("timed-out", 17),
            ("heartbeat-frozen", 18),
            ("led-fault", 19),
            ("degraded-link", 20),
            ("bus-error", 21),
            ("out-of-range", 22),
            ("repeated-nonce", 25),
            ("fatal-error", 26),
        ];
        for (name, code) in seen {
            let evidence = [Evidence {
                code: name.into(),
                detail: String::new(),
            }];
            let codes = of_card(&sight(&evidence));
            assert_eq!(codes, [code], "{name}");
            let advice = advice(&codes);
            assert_eq!(advice[0].code, code);
            assert!(!advice[0].investigate.is_empty());
        }
        let moving = [Evidence {
            code: "heartbeat-moving".into(),
            detail: String::new(),
        }];
        assert!(of_card(&sight(&moving)).is_empty());
        let fatal = CardSight {
            fatal_on_link: true,
            ..sight(&moving)
        };
        assert_eq!(of_card(&fatal), [21]);
    }

    #[test]
    fn what_opened_a_breaker_counts_until_it_is_closed() {
        let breaker = |state: &str| BreakerFigures {
            state: state.to_owned(),
            opened: 1,
            opened_by: Some("wrong-answer".to_owned()),
        };
        let codes = |breaker: &BreakerFigures| {
            of_card(&CardSight {
                breaker: Some(breaker),
                ..sight(&[])
            })
        };
        assert_eq!(codes(&breaker("open")), [16]);
        assert_eq!(codes(&breaker("half-open")), [16]);
        assert!(codes(&breaker("closed")).is_empty());
    }

    #[test]
    fn what_may_not_be_read_is_told_from_what_is_not_there() {
        let denied = unreadable(io::ErrorKind::PermissionDenied.into());
        let page = CardSight {
            page: Some(&denied),
            ..sight(&[])
        };
        assert_eq!(of_card(&page), [0]);
        let too_many = rustix::io::Errno::MFILE.raw_os_error();
        let too_many = unreadable(io::Error::from_raw_os_error(too_many));
        assert_eq!(of_refusal(&too_many), Some(6));
        let absent = ProbeError::Absent {
            what: "it".to_owned(),
        };
        assert_eq!(of_refusal(&absent), None);
        assert_eq!(of_io(&io::ErrorKind::StorageFull.into()), Some(1));
    }
}
