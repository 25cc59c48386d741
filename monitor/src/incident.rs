//! Puts together what belongs together: symptoms and victims of one time, under one cause.
//!
//! Whoever is killed for want of memory is a victim and seldom the culprit; whoever leaked it shows
//! no symptom of its own. So both go into one incident, with what was changed in the day before, and
//! the cause that attribution came to. Causes are not found here, and nothing is repaired.
//!
//! ```text
//!     a symptom or victim that      one that overlaps in time, of the
//!     overlaps with no incident     same cause or of none known: grew
//!   ------------------------> OPEN <---------+
//!                              | |           |
//!        a cause becomes known | +-----------+
//!        (and incidents that   |
//!        turn out to be one    |  nothing for five minutes
//!        become one: merged)   v
//!                           CLOSED: given away, and not kept
//! ```

use crate::code::{self, ImmediateAction};
use crate::verdict::Cause;
use hwshim::clock::Instant;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// What is this far apart in time does not belong together.
const QUIET: Duration = Duration::from_secs(5 * 60);
/// Changes are remembered for so long.
const CHANGES_FOR: Duration = Duration::from_secs(24 * 3600);
/// Changes that are remembered at once. The latest are likelier to matter.
const CHANGES_MAX: usize = 256;
/// Symptoms, and victims, that one incident lists; the rest is counted.
const LISTED_MAX: usize = 64;
/// Symptoms that are told apart beyond those that are listed.
const UNLISTED_MAX: usize = 1_024;

/// Names an incident. No other in the same history has its number.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct IncidentId(pub u64);

/// Something that is wrong.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Symptom {
    /// When.
    pub at: Instant,
    /// What has it: a card, a service.
    pub subject: String,
    /// Code of the evidence.
    pub code: Cow<'static, str>,
    /// Number of the health check that failed, see [`code`].
    pub check: Option<u8>,
    /// What was seen.
    pub detail: String,
    /// How often it was seen.
    pub times: u64,
}

/// What happened to somebody who is not at fault.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Harm {
    /// Killed for want of memory.
    OomKilled,
    /// Refused memory (ENOMEM).
    NoMemory,
    /// Refused a descriptor (EMFILE, ENFILE).
    NoDescriptors,
    /// Refused a port (EADDRNOTAVAIL).
    NoPorts,
    /// Could not start.
    CouldNotStart,
    /// Was not answered.
    NotAnswered,
}

impl Harm {
    /// In words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OomKilled => "killed for want of memory",
            Self::NoMemory => "refused memory",
            Self::NoDescriptors => "refused a descriptor",
            Self::NoPorts => "refused a port",
            Self::CouldNotStart => "could not start",
            Self::NotAnswered => "was not answered",
        }
    }
}

/// Somebody who was harmed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Victim {
    /// When.
    pub at: Instant,
    /// Who, by name and pid.
    pub process: String,
    /// By what.
    pub harm: Harm,
    /// What was seen.
    pub detail: String,
}

/// Something that was changed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// When.
    pub at: Instant,
    /// By whom.
    pub who: String,
    /// What.
    pub what: String,
}

/// What belongs together.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Incident {
    /// Its name.
    pub id: IncidentId,
    /// What is at fault, as far as known.
    pub cause: Cause,
    /// When its first symptom was seen.
    pub opened_at: Instant,
    /// When its last symptom or victim was seen.
    pub last_at: Instant,
    /// What is wrong, in the order first seen.
    pub symptoms: Vec<Symptom>,
    /// Who was harmed.
    pub victims: Vec<Victim>,
    /// What was changed in the 24 hours before it was opened, and since.
    pub changes: Vec<Change>,
    /// Symptoms and victims that there was no room to list.
    pub not_listed: u64,
    /// The checks that failed by any symptom, also by one that now fails another.
    checks: BTreeSet<u8>,
    /// Which symptoms those are: what lasts is seen in every poll, and is one.
    unlisted: BTreeSet<Kind>,
}

/// What makes a symptom another: subject and code. Which check fails by it depends on what else is seen.
type Kind = (String, Cow<'static, str>);

/// What a cause asks for by itself: what has no check that fails, as nothing is there to be checked.
const fn asked_by(cause: Cause) -> ImmediateAction {
    match cause {
        // Nothing that is done here brings it back.
        Cause::CardAbsent => ImmediateAction::ContactSupport,
        Cause::ServiceGone | Cause::ServiceHang | Cause::Monitor => ImmediateAction::RestartApp,
        Cause::Card
        | Cause::Link
        | Cause::ServiceLeak
        | Cause::HostStarvation
        | Cause::Overload
        | Cause::Configuration
        | Cause::None
        | Cause::Undetermined => ImmediateAction::Ignore,
    }
}

impl Incident {
    /// What to do at once: the strongest that a failed check of the same cause asks for, or the cause
    /// itself. Checks that blame somebody else do not count once the cause is known.
    #[must_use]
    pub fn recommended(&self) -> ImmediateAction {
        let entries = self.checks.iter().copied().filter_map(code::lookup);
        let of_cause = entries.filter(|entry| {
            entry.cause == self.cause
                || self.cause == Cause::Undetermined
                || entry.cause == Cause::Undetermined
        });
        of_cause
            .map(|entry| entry.immediate)
            .fold(asked_by(self.cause), Ord::max)
    }

    fn takes(&self, cause: Cause, at: Instant) -> bool {
        let one = self.cause == cause
            || self.cause == Cause::Undetermined
            || cause == Cause::Undetermined;
        one && at.since(self.last_at) < QUIET && self.opened_at.since(at) < QUIET
    }

    fn extend_to(&mut self, cause: Cause, at: Instant) {
        if self.cause == Cause::Undetermined {
            self.cause = cause;
        }
        self.opened_at = self.opened_at.min(at);
        self.last_at = self.last_at.max(at);
    }

    fn add_symptom(&mut self, symptom: Symptom) {
        let same =
            |known: &&mut Symptom| known.subject == symptom.subject && known.code == symptom.code;
        self.checks.extend(symptom.check);
        // The check that blames who is to blame, and of those the one that asks for most.
        let tells = |check: Option<u8>| {
            let entry = check.and_then(code::lookup)?;
            Some((entry.cause == self.cause, entry.immediate))
        };
        if let Some(known) = self.symptoms.iter_mut().find(same) {
            known.times = known.times.saturating_add(symptom.times);
            known.detail = symptom.detail;
            if tells(known.check) < tells(symptom.check) {
                known.check = symptom.check;
            }
        } else if self.symptoms.len() < LISTED_MAX {
            self.symptoms.push(symptom);
        } else {
            self.leave_out((symptom.subject, symptom.code));
        }
    }

    fn leave_out(&mut self, kind: Kind) {
        if self.unlisted.len() < UNLISTED_MAX && self.unlisted.insert(kind) {
            self.not_listed += 1;
        }
    }

    fn add_victim(&mut self, victim: Victim) {
        if self.victims.len() < LISTED_MAX {
            self.victims.push(victim);
        } else {
            self.not_listed += 1;
        }
    }

    fn absorb(&mut self, other: Self) {
        let Self {
            id: _,
            cause,
            opened_at,
            last_at,
            symptoms,
            victims,
            changes,
            not_listed,
            checks,
            unlisted,
        } = other;
        self.extend_to(cause, opened_at);
        self.extend_to(cause, last_at);
        self.checks.extend(checks);
        for symptom in symptoms {
            self.add_symptom(symptom);
        }
        for victim in victims {
            self.add_victim(victim);
        }
        for change in changes {
            if !self.changes.contains(&change) {
                self.changes.push(change);
            }
        }
        self.changes.sort_by_key(|change| change.at);
        // Victims, and those symptoms that this one does not have as well.
        self.not_listed += not_listed - u64::try_from(unlisted.len()).unwrap_or(not_listed);
        for kind in unlisted {
            self.leave_out(kind);
        }
    }
}

/// What became of incidents.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum IncidentEvent {
    /// There is a new one.
    Opened(IncidentId),
    /// Something new belongs to it: a symptom or victim that it did not have.
    Grew(IncidentId),
    /// What is at fault became known, or turned out to be something else.
    Attributed {
        /// Which.
        id: IncidentId,
        /// What was believed.
        from: Cause,
        /// What is.
        to: Cause,
    },
    /// One turned out to be part of another, which has all of it now.
    Merged {
        /// The one that is no more, as it was.
        from: Box<Incident>,
        /// The one that has it.
        into: IncidentId,
    },
    /// It is over. This is all of it.
    Closed(Box<Incident>),
}

/// The incidents of one host.
#[derive(Clone, Debug, Default)]
pub struct Incidents {
    open: Vec<Incident>,
    changes: VecDeque<Change>,
    opened: u64,
}

impl Incidents {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// None yet, and `next` is the number of the first.
    #[must_use]
    pub fn numbered_from(next: u64) -> Self {
        Self {
            opened: next,
            ..Self::default()
        }
    }

    /// The next has this number; those that are open keep theirs.
    pub const fn number_from(&mut self, next: u64) {
        self.opened = next;
    }

    /// The number that the next will have.
    #[must_use]
    pub const fn next_number(&self) -> u64 {
        self.opened
    }

    /// The one of that name, while it is open.
    #[must_use]
    pub fn get(&self, id: IncidentId) -> Option<&Incident> {
        self.open.iter().find(|incident| incident.id == id)
    }

    /// Those that are not over, the oldest first.
    #[must_use]
    pub fn open(&self) -> &[Incident] {
        &self.open
    }

    /// Something was changed.
    pub fn changed(&mut self, change: Change) {
        if self.changes.len() == CHANGES_MAX {
            self.changes.pop_front();
        }
        for incident in &mut self.open {
            if incident.changes.len() < CHANGES_MAX {
                incident.changes.push(change.clone());
                incident.changes.sort_by_key(|change| change.at);
            }
        }
        self.changes.push_back(change);
        // A record that is read late tells of what was changed before.
        self.changes
            .make_contiguous()
            .sort_by_key(|change| change.at);
    }

    /// Something is wrong, and `cause` is at fault, as far as known. Returns what is new about
    /// that.
    pub fn symptom(&mut self, symptom: Symptom, cause: Cause) -> Option<IncidentEvent> {
        let (index, is_new) = self.place(cause, symptom.at);
        let incident = &mut self.open[index];
        let listed = incident.symptoms.len();
        incident.add_symptom(symptom);
        let grew = incident.symptoms.len() > listed;
        told(incident.id, is_new, grew)
    }

    /// Somebody was harmed. By whom is for others to find out: a victim joins the incident that is
    /// open, or opens one of unknown cause.
    pub fn victim(&mut self, victim: Victim) -> Option<IncidentEvent> {
        let (index, is_new) = self.place(Cause::Undetermined, victim.at);
        let incident = &mut self.open[index];
        incident.add_victim(victim);
        told(incident.id, is_new, true)
    }

    /// It has become known, or doubtful again, what is at fault. Incidents that turn out to have
    /// one cause and time become one.
    pub fn attribute(&mut self, id: IncidentId, cause: Cause) -> Vec<IncidentEvent> {
        let Some(index) = self.open.iter().position(|incident| incident.id == id) else {
            return Vec::new();
        };
        let from = std::mem::replace(&mut self.open[index].cause, cause);
        if from == cause {
            return Vec::new();
        }
        let mut events = vec![IncidentEvent::Attributed {
            id,
            from,
            to: cause,
        }];
        events.extend(self.merge(index));
        events
    }

    /// Lets time pass: what has been quiet for long enough is over.
    pub fn poll(&mut self, now: Instant) -> Vec<IncidentEvent> {
        self.changes
            .retain(|change| now.since(change.at) < CHANGES_FOR);
        let over = |incident: &mut Incident| now.since(incident.last_at) >= QUIET;
        let over = self.open.extract_if(.., over);
        over.map(|incident| IncidentEvent::Closed(Box::new(incident)))
            .collect()
    }

    /// The incident that something of `cause` belongs to, opened if need be. One of the very cause
    /// comes before one of unknown cause, and the latest before the others.
    fn place(&mut self, cause: Cause, at: Instant) -> (usize, bool) {
        let fitting = |exactly: bool| {
            self.open.iter().rposition(|incident| {
                incident.takes(cause, at) && (!exactly || incident.cause == cause)
            })
        };
        if let Some(index) = fitting(true).or_else(|| fitting(false)) {
            self.open[index].extend_to(cause, at);
            return (index, false);
        }
        self.open.push(Incident {
            id: IncidentId(self.opened),
            cause,
            opened_at: at,
            last_at: at,
            symptoms: Vec::new(),
            victims: Vec::new(),
            changes: self.changes_before(at),
            not_listed: 0,
            checks: BTreeSet::new(),
            unlisted: BTreeSet::new(),
        });
        self.opened += 1;
        (self.open.len() - 1, true)
    }

    fn changes_before(&self, at: Instant) -> Vec<Change> {
        let recent = |change: &&Change| at.since(change.at) < CHANGES_FOR;
        self.changes.iter().filter(recent).cloned().collect()
    }

    /// Joins the incident at `index` with another of its cause and time, the older of them staying.
    fn merge(&mut self, index: usize) -> Option<IncidentEvent> {
        let this = &self.open[index];
        let other = self.open.iter().position(|other| {
            let overlaps = this.opened_at.since(other.last_at) < QUIET
                && other.opened_at.since(this.last_at) < QUIET;
            other.id != this.id && other.cause == this.cause && overlaps
        })?;
        if self.open[index].cause == Cause::Undetermined {
            return None;
        }
        let (into, from) = (index.min(other), index.max(other));
        let absorbed = self.open.remove(from);
        self.open[into].absorb(absorbed.clone());
        Some(IncidentEvent::Merged {
            from: Box::new(absorbed),
            into: self.open[into].id,
        })
    }
}

fn told(id: IncidentId, is_new: bool, grew: bool) -> Option<IncidentEvent> {
    match (is_new, grew) {
        (true, _) => Some(IncidentEvent::Opened(id)),
        (false, true) => Some(IncidentEvent::Grew(id)),
        (false, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::ORIGIN.plus(Duration::from_secs(seconds))
    }

    fn symptom(seconds: u64, code: &'static str, check: Option<u8>) -> Symptom {
        Symptom {
            at: at(seconds),
            subject: "hardserver".to_owned(),
            code: code.into(),
            check,
            detail: String::new(),
            times: 1,
        }
    }

    fn victim(seconds: u64, process: &str, harm: Harm) -> Victim {
        Victim {
            at: at(seconds),
            process: process.to_owned(),
            harm,
            detail: String::new(),
        }
    }

    const FIRST: IncidentId = IncidentId(0);
    const SECOND: IncidentId = IncidentId(1);

    #[test]
    fn a_victim_and_the_leak_that_harmed_it_are_one_incident() {
        let mut incidents = Incidents::new();
        let web = victim(100, "nginx (77)", Harm::OomKilled);
        assert_eq!(incidents.victim(web), Some(IncidentEvent::Opened(FIRST)));
        assert_eq!(incidents.open()[0].cause, Cause::Undetermined);
        let leak = symptom(130, "floor-trend", Some(24));
        let grew = incidents.symptom(leak, Cause::ServiceLeak);
        assert_eq!(grew, Some(IncidentEvent::Grew(FIRST)));
        let incident = &incidents.open()[0];
        assert_eq!(incident.cause, Cause::ServiceLeak);
        assert_eq!(incident.victims[0].process, "nginx (77)");
        assert_eq!(incident.recommended(), ImmediateAction::RestartApp);
    }

    #[test]
    fn faults_of_two_causes_at_one_time_are_two_incidents() {
        let mut incidents = Incidents::new();
        incidents.symptom(symptom(0, "wrong-answer", Some(16)), Cause::Card);
        incidents.symptom(symptom(1, "degraded-link", Some(20)), Cause::Link);
        incidents.symptom(symptom(2, "led-fault", Some(19)), Cause::Card);
        let codes = |id: usize| incidents.open()[id].symptoms.len();
        assert_eq!((incidents.open().len(), codes(0), codes(1)), (2, 2, 1));
    }

    #[test]
    fn what_is_seen_again_is_counted_and_not_told_again() {
        let mut incidents = Incidents::new();
        incidents.symptom(symptom(0, "led-fault", None), Cause::Card);
        for second in 1..1000 {
            let again = incidents.symptom(symptom(second, "led-fault", None), Cause::Card);
            assert_eq!(again, None);
            assert_eq!(incidents.poll(at(second)), []);
        }
        assert_eq!(incidents.open()[0].symptoms[0].times, 1000);
        assert_eq!(incidents.open()[0].last_at, at(999));
    }

    #[test]
    fn an_incident_is_closed_after_five_quiet_minutes_and_the_next_is_another() {
        let mut incidents = Incidents::new();
        incidents.symptom(symptom(10, "led-fault", None), Cause::Card);
        assert_eq!(incidents.poll(at(309)), []);
        let events = incidents.poll(at(310));
        let [IncidentEvent::Closed(incident)] = &events[..] else {
            panic!("{events:?}");
        };
        assert_eq!((incident.id, incident.last_at), (FIRST, at(10)));
        assert!(incidents.open().is_empty());
        let next = incidents.symptom(symptom(320, "led-fault", None), Cause::Card);
        assert_eq!(next, Some(IncidentEvent::Opened(SECOND)));
        // Nor does it matter whether somebody has polled meanwhile.
        let third = incidents.symptom(symptom(620, "led-fault", None), Cause::Card);
        assert_eq!(third, Some(IncidentEvent::Opened(IncidentId(2))));
    }

    #[test]
    fn a_symptom_joins_the_incident_of_its_cause_before_one_of_unknown_cause() {
        let mut incidents = Incidents::new();
        incidents.symptom(symptom(0, "wrong-answer", None), Cause::Card);
        incidents.symptom(symptom(1, "degraded-link", None), Cause::Link);
        incidents.attribute(SECOND, Cause::Undetermined);
        let joined = incidents.symptom(symptom(2, "led-fault", None), Cause::Card);
        assert_eq!(joined, Some(IncidentEvent::Grew(FIRST)));
    }

    #[test]
    fn incidents_that_turn_out_to_be_one_become_one() {
        let mut incidents = Incidents::new();
        incidents.symptom(symptom(0, "degraded-link", Some(20)), Cause::Link);
        incidents.symptom(symptom(5, "wrong-answer", Some(16)), Cause::Card);
        incidents.changed(Change {
            at: at(6),
            who: "alice".to_owned(),
            what: "moved the card".to_owned(),
        });
        let events = incidents.attribute(SECOND, Cause::Link);
        let attributed = IncidentEvent::Attributed {
            id: SECOND,
            from: Cause::Card,
            to: Cause::Link,
        };
        assert_eq!(events[0], attributed);
        let [_, IncidentEvent::Merged { from, into }] = &events[..] else {
            panic!("{events:?}");
        };
        assert_eq!((from.id, *into), (SECOND, FIRST));
        let [incident] = incidents.open() else {
            panic!("one is left");
        };
        assert_eq!(incident.symptoms.len(), 2);
        assert_eq!(incident.changes.len(), 1, "not twice");
        assert_eq!((incident.opened_at, incident.last_at), (at(0), at(5)));
        assert_eq!(incidents.attribute(FIRST, Cause::Link), []);
        assert_eq!(
            incidents.attribute(SECOND, Cause::Card),
            [],
            "there is none"
        );
    }

    #[test]
    fn changes_of_the_day_before_are_told_and_older_ones_are_not() {
        const HOUR: u64 = 3600;
        let mut incidents = Incidents::new();
        for (hour, what) in [(1, "too old"), (20, "new firmware"), (30, "new limit")] {
            incidents.changed(Change {
                at: at(hour * HOUR),
                who: "alice".to_owned(),
                what: what.to_owned(),
            });
        }
        incidents.symptom(
            symptom(40 * HOUR, "permission", Some(0)),
            Cause::Configuration,
        );
        incidents.changed(Change {
            at: at(40 * HOUR + 1),
            who: "bob".to_owned(),
            what: "rolled back".to_owned(),
        });
        let changes = incidents.open()[0].changes.iter();
        let changes: Vec<_> = changes.map(|change| &*change.what).collect();
        assert_eq!(changes, ["new firmware", "new limit", "rolled back"]);
    }

    #[test]
    fn the_strongest_action_of_the_cause_is_recommended() {
        let mut incidents = Incidents::new();
        let later = |check: u8| symptom(u64::from(check), "check", Some(check));
        incidents.symptom(later(17), Cause::Undetermined);
        assert_eq!(incidents.open()[0].recommended(), ImmediateAction::Reset);
        incidents.symptom(later(16), Cause::Undetermined);
        let all = incidents.open()[0].recommended();
        assert_eq!(all, ImmediateAction::ContactSupport);
        incidents.attribute(FIRST, Cause::Link);
        // The wrong answer was not the card's.
        assert_eq!(incidents.open()[0].recommended(), ImmediateAction::Reset);
        incidents.attribute(FIRST, Cause::Overload);
        incidents.symptom(symptom(18, "queue-long", None), Cause::Overload);
        assert_eq!(incidents.open().len(), 1);
    }

    #[test]
    fn who_is_gone_asks_for_something_though_no_check_of_it_fails() {
        for (cause, wanted) in [
            (Cause::CardAbsent, ImmediateAction::ContactSupport),
            (Cause::ServiceGone, ImmediateAction::RestartApp),
            (Cause::Overload, ImmediateAction::Ignore),
        ] {
            let mut incidents = Incidents::new();
            incidents.symptom(symptom(1, "gone", None), cause);
            assert_eq!(incidents.open()[0].recommended(), wanted, "{cause}");
        }
    }

    #[test]
    fn what_is_seen_by_another_check_is_one_symptom_that_shows_the_more_telling() {
        let mut incidents = Incidents::new();
        let gone = |check: u8| symptom(u64::from(check), "gone", Some(check));
        let told = incidents.symptom(gone(24), Cause::Card);
        assert_eq!(told, Some(IncidentEvent::Opened(FIRST)));
        assert_eq!(incidents.symptom(gone(16), Cause::Card), None);
        assert_eq!(incidents.symptom(gone(24), Cause::Card), None);
        let symptoms = &incidents.open()[0].symptoms;
        assert_eq!((symptoms.len(), symptoms[0].times), (1, 3));
        assert_eq!(symptoms[0].check, Some(16));
    }

    #[test]
    fn what_is_not_listed_is_counted_once_however_often_it_is_seen() {
        let mut incidents = Incidents::new();
        for second in 0..10 {
            for number in 0..70 {
                let mut symptom = symptom(second, "queue-long", None);
                symptom.subject = format!("card {number}");
                incidents.symptom(symptom, Cause::Overload);
            }
        }
        let incident = &incidents.open()[0];
        assert_eq!((incident.symptoms.len(), incident.not_listed), (64, 6));
    }

    #[test]
    fn an_endless_incident_does_not_grow_without_end() {
        let mut incidents = Incidents::new();
        for second in 0..300 {
            incidents.victim(victim(second, "worker", Harm::NoDescriptors));
            incidents.changed(Change {
                at: at(second),
                who: String::new(),
                what: String::new(),
            });
        }
        let incident = &incidents.open()[0];
        assert_eq!((incident.victims.len(), incident.not_listed), (64, 236));
        assert!(incident.changes.len() <= CHANGES_MAX);
    }
}
