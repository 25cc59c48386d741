//! What is wrong with somebody in one poll, as symptoms, each with the check that fails by it.
//!
//! What decided comes first; what else was seen follows if a check fails by it, so that a card whose
//! light signals a fault and that is gone has two symptoms, and not one with the other's check.

use super::super::{DETAIL_LEN_MAX, cut, subject};
use super::UNKNOWN_FOR;
use crate::checks;
use crate::incident::Symptom;
use crate::status::{AssessmentFigures, CardStatus, FunctionFigures, HostFigures, ServiceStatus};
use crate::verdict::{Cause, Evidence, State};
use hwshim::clock::Instant;
use std::borrow::Cow;
use std::collections::BTreeSet;

/// What was weighed and seen longer ago than that belongs to what was wrong then.
const SEEN_WITHIN: f64 = 60.0;

/// What somebody shows, and who is to blame.
pub(super) struct Shown {
    pub(super) symptoms: Vec<Symptom>,
    pub(super) cause: Cause,
}

/// What was seen: its code, and in words.
type Sight<'a> = (&'a Cow<'static, str>, &'a str);

/// What is wrong with a card, if anything is.
pub(super) fn of_card(card: &CardStatus, at: Instant) -> Option<Shown> {
    let is_wrong = match card.state {
        // A host that is busy for a moment is its own matter as long as the card serves.
        State::Connected => !matches!(card.cause, Cause::None | Cause::HostStarvation),
        State::Unavailable | State::Unreachable => card.cause != Cause::None,
        State::Unknown => card.for_seconds >= UNKNOWN_FOR,
        State::Disconnected => false,
    };
    if !is_wrong {
        return None;
    }
    let assessment = card.assessment.as_ref();
    let weighed = assessment.into_iter().flat_map(|assessment| {
        let (speaks_for, against) = assessment.for_and_against(card.cause);
        let seen = speaks_for.into_iter().chain(against).filter(|it| it.seen);
        let fresh = seen.filter(|it| it.seconds_ago <= SEEN_WITHIN);
        fresh.map(|it| (&it.code, &*it.detail))
    });
    let sights: Vec<_> = match card.state {
        // What is at fault with a card that serves stands in what was weighed.
        State::Connected => weighed.chain(fresh(&card.evidence, assessment)).collect(),
        // What keeps a card out of use does so now, whenever it came to be.
        _ => card.evidence.iter().map(sight).chain(weighed).collect(),
    };
    shown(&card.card, &sights, &card.codes, card.cause, at)
}

/// What is wrong with a card of which nobody publishes a page, if anything is.
pub(super) fn of_function(card: &FunctionFigures, at: Instant) -> Option<Shown> {
    let sights = fresh(&card.evidence, card.assessment.as_ref());
    shown(&card.card, &sights, &card.codes, card.cause, at).filter(|_| card.cause != Cause::None)
}

/// What was seen of late, of a card that is judged by what is weighed. What was not weighed has no age: it
/// goes with what decided.
fn fresh<'a>(
    evidence: &'a [Evidence],
    assessment: Option<&'a AssessmentFigures>,
) -> Vec<Sight<'a>> {
    let age = |it: &Evidence| {
        let mut weighed = assessment?.evidence.iter();
        let found = weighed.find(|weighed| weighed.seen && weighed.code == it.code)?;
        Some(found.seconds_ago)
    };
    let decided = evidence.first().and_then(age).unwrap_or(0.0);
    let is_fresh = |it: &&Evidence| age(it).unwrap_or(decided) <= SEEN_WITHIN;
    evidence.iter().filter(is_fresh).map(sight).collect()
}

/// What is wrong with the host, if that is known.
pub(super) fn of_host(host: &HostFigures, at: Instant) -> Option<Shown> {
    let is_known = !matches!(host.cause, Cause::None | Cause::Undetermined);
    let sights: Vec<_> = host.evidence.iter().map(sight).collect();
    shown("host", &sights, &host.codes, host.cause, at).filter(|_| is_known)
}

/// What is wrong with a service, if anything is. A victim's own trouble is no symptom of its own fault;
/// that of who leaks is.
pub(super) fn of_service(service: &ServiceStatus, at: Instant) -> Option<Shown> {
    let is_known = service.cause != Cause::Undetermined || service.for_seconds >= UNKNOWN_FOR;
    if service.victim.is_some() || service.cause == Cause::None || !is_known {
        return None;
    }
    let sights: Vec<_> = service.evidence.iter().map(sight).collect();
    shown(&service.service, &sights, &service.codes, service.cause, at)
}

fn sight(evidence: &Evidence) -> Sight<'_> {
    (&evidence.code, &evidence.detail)
}

/// The first sight, and every other by which a check fails that none before it has. A check that
/// none of them tells of goes with the first, where that has none.
fn shown(
    who: &str,
    sights: &[Sight<'_>],
    codes: &[u8],
    cause: Cause,
    at: Instant,
) -> Option<Shown> {
    let mut left: BTreeSet<u8> = codes.iter().copied().collect();
    let mut symptoms = Vec::new();
    for (code, detail) in sights {
        let check = checks::may_fail_by(code).find(|check| left.remove(check));
        if symptoms.is_empty() || check.is_some() {
            symptoms.push(symptom(who, Cow::clone(code), check, detail, at));
        }
    }
    let first = symptoms.first_mut()?;
    first.check = first.check.or_else(|| most_telling(&left, cause));
    Some(Shown { symptoms, cause })
}

fn symptom(
    who: &str,
    code: Cow<'static, str>,
    check: Option<u8>,
    detail: &str,
    at: Instant,
) -> Symptom {
    Symptom {
        at,
        subject: subject(who),
        code: match code {
            Cow::Borrowed(code) => code.into(),
            Cow::Owned(code) => cut(&code, DETAIL_LEN_MAX).to_owned().into(),
        },
        check,
        detail: cut(detail, DETAIL_LEN_MAX).to_owned(),
        times: 1,
    }
}

/// The code that blames who is to blame, or the first.
fn most_telling(codes: &BTreeSet<u8>, cause: Cause) -> Option<u8> {
    let blames = |code: &&u8| crate::code::lookup(**code).is_some_and(|it| it.cause == cause);
    codes.iter().find(blames).or_else(|| codes.first()).copied()
}
