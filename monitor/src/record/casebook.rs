//! Keeps the incidents of a host: takes what each poll found for symptoms and victims, and what was
//! changed for what may explain them, and says what of that is to be on record.
//!
//! Who is at fault, and whose victim somebody is, was found out elsewhere, and here it is only put
//! together: whoever leaks is told of it in one incident with those whom it harmed.
//!
//! | kind | severity | when |
//! |---|---|---|
//! | `incident-opened` | warning: what it is about alarms by itself | something is wrong that belongs to nothing known |
//! | `incident-grew` | notice | another symptom or victim belongs to it |
//! | `incident-attributed` | notice | what is at fault became known, or turned out to be something else |
//! | `incident-closed` | notice | nothing of it was seen for five minutes, it is part of another, or nobody watched any more |

mod symptoms;

use super::changes::age;
use super::{CLOCK_STEP, DETAIL_LEN_MAX, FirmwareBody, Past, SoftwareBody, StepBody, cut};
use super::{FIRMWARE, OWNER_CHANGED, SERVICE_RESTARTED, SOFTWARE};
use crate::attribution::{CHANGES_FOR, Changed, HOST};
use crate::control::TUNE;
use crate::history::{Event, Recorded, Severity, Stamp, WallTime};
use crate::incident::{
    Change, Harm, Incident, IncidentEvent, IncidentId, Incidents, Symptom, Victim,
};
use crate::lock;
use crate::services::{harm, leaks};
use crate::status::{IncidentFigures, ServiceStatus, Status};
use crate::verdict::Cause;
use hwshim::clock::Instant;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use symptoms::Shown;

/// There is a new incident.
pub const INCIDENT_OPENED: &str = "incident-opened";
/// Something new belongs to one.
pub const INCIDENT_GREW: &str = "incident-grew";
/// It became known who is at fault.
pub const INCIDENT_ATTRIBUTED: &str = "incident-attributed";
/// One is over.
pub const INCIDENT_CLOSED: &str = "incident-closed";

/// Kinds of events that tell of incidents.
pub const KINDS: [&str; 4] = [
    INCIDENT_OPENED,
    INCIDENT_GREW,
    INCIDENT_ATTRIBUTED,
    INCIDENT_CLOSED,
];

/// Kinds of events that tell of a change, to be given to a casebook that begins.
pub const CHANGES: [&str; 7] = [
    lock::UNLOCK,
    lock::CHANGE,
    FIRMWARE,
    SOFTWARE,
    OWNER_CHANGED,
    SERVICE_RESTARTED,
    CLOCK_STEP,
];

/// What is not known for less than that may be known in a moment: a monitor that has just started
/// knows nothing.
const UNKNOWN_FOR: f64 = 10.0;
/// From here on, incidents are numbered by the time at which nobody knew the numbers on record.
const NUMBERED_BY_TIME: u64 = 1_000_000_000;
/// Events on record that are looked through for incidents that are still open, and for their numbers.
pub(super) const LOOKED_THROUGH_MAX: u32 = 256;
/// Closed incidents that are still shown.
const CLOSED_MAX: usize = 16;
/// Symptoms, victims and changes on record of one incident: an event has an end.
const RECORDED_MAX: usize = 6;
/// Host time begins with its boot, and what was changed before that has a time too.
const BEFORE_BOOT: Duration = Duration::from_secs(2 * 24 * 3600);

/// What is on record of an incident.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct IncidentBody {
    /// How it is.
    #[serde(flatten)]
    pub figures: IncidentFigures,
    /// Who was believed to be at fault, if that is another now.
    #[serde(default)]
    pub attributed_before: Option<Cause>,
    /// The incident that has all of it from now on, if it was part of that.
    #[serde(default)]
    pub merged_into: Option<u64>,
    /// Whether it was closed only because nobody watched any more.
    #[serde(default)]
    pub not_watched: bool,
}

/// Keeps incidents.
#[derive(Debug)]
pub struct Casebook {
    incidents: Incidents,
    /// Where the symptoms of each subject went, and whom they blamed.
    subjects: BTreeMap<String, (IncidentId, Cause)>,
    closed: VecDeque<Incident>,
    /// Who is harmed now, so that they are told of once.
    harmed: BTreeSet<(String, &'static str)>,
    oom_kills: u64,
}

impl Casebook {
    /// Begins without knowing what is on record. Until that is known, incidents are numbered by the
    /// seconds of the calendar, which no other in the same history has.
    #[must_use]
    pub fn new(now: Stamp) -> Self {
        let seconds = u64::try_from(now.wall.unix_millis() / 1_000).unwrap_or(0);
        Self {
            incidents: Incidents::numbered_from(seconds.max(NUMBERED_BY_TIME)),
            subjects: BTreeMap::new(),
            closed: VecDeque::new(),
            harmed: BTreeSet::new(),
            oom_kills: 0,
        }
    }

    /// Goes on after what is on record of runs before. Returns what is to be recorded: of incidents that
    /// were open when the last run ended, nobody knows when they were over.
    #[must_use]
    pub fn remember(&mut self, past: &Past, now: Stamp) -> Vec<Event> {
        let mut open = BTreeMap::new();
        let mut latest = Latest::default();
        for recorded in &past.incidents {
            let Ok(body) = serde_json::from_str::<IncidentBody>(&recorded.event.body) else {
                continue;
            };
            let number = body.figures.incident;
            let is_opened = recorded.event.kind == INCIDENT_OPENED;
            latest.take(number, is_opened && Some(recorded.seq) > past.unknown_until);
            if is_opened {
                open.insert(number, (recorded.event.clone(), body));
            } else {
                open.remove(&number);
            }
        }
        self.incidents
            .number_from(latest.next(past, self.incidents.next_number()));
        for recorded in &past.changes {
            self.changed(&recorded.event, now);
        }
        let events = open.into_values();
        events
            .map(|(event, body)| abandoned(&event, body, now))
            .collect()
    }

    /// Takes in an event that is on record, if it tells of a change.
    pub fn changed(&mut self, event: &Event, now: Stamp) {
        let age = age(event.stamp, now);
        if age >= CHANGES_FOR {
            return;
        }
        let at = shifted(now.monotonic).as_nanos() - hwshim::clock::nanos(age);
        if let Some((who, what)) = told(event) {
            self.incidents.changed(Change {
                at: Instant::from_nanos(at),
                who: cut(&who, DETAIL_LEN_MAX).to_owned(),
                what: cut(&what, DETAIL_LEN_MAX).to_owned(),
            });
        }
    }

    /// Takes in what a poll found. Of cards that are `drained`, and of their services, nobody is
    /// alarmed.
    pub fn poll(&mut self, status: &Status, drained: &BTreeSet<&str>, now: Stamp) -> Vec<Event> {
        let at = shifted(now.monotonic);
        let mut happened = Vec::new();
        let is_drained = |card: Option<&str>| card.is_some_and(|card| drained.contains(card));
        let cards = status.cards.iter().filter(|it| !is_drained(Some(&it.card)));
        for shown in cards.filter_map(|card| symptoms::of_card(card, at)) {
            self.take(shown, &mut happened);
        }
        let others = status.without_pages();
        let others = others.filter(|it| !is_drained(Some(&it.card)));
        for shown in others.filter_map(|card| symptoms::of_function(card, at)) {
            self.take(shown, &mut happened);
        }
        self.host(status, at, &mut happened);
        let services = status.services.iter();
        for service in services.filter(|it| !is_drained(it.card.as_deref())) {
            self.service(service, at, &mut happened);
        }
        self.blame_who_leaks(status, &mut happened);
        happened.extend(self.incidents.poll(at));
        told_once(&mut happened);
        let events = happened.into_iter();
        events.filter_map(|event| self.event(event, now)).collect()
    }

    /// All that is open, and what was closed last, the oldest first.
    #[must_use]
    pub fn figures(&self, now: Instant) -> Vec<IncidentFigures> {
        let now = shifted(now);
        let figures = |open: bool| move |it: &Incident| IncidentFigures::new(it, open, now);
        let closed = self.closed.iter().map(figures(false));
        closed
            .chain(self.incidents.open().iter().map(figures(true)))
            .collect()
    }

    fn take(&mut self, shown: Shown, happened: &mut Vec<IncidentEvent>) {
        for symptom in shown.symptoms {
            self.take_symptom(symptom, shown.cause, happened);
        }
    }

    fn take_symptom(&mut self, symptom: Symptom, cause: Cause, happened: &mut Vec<IncidentEvent>) {
        let subject = symptom.subject.clone();
        if let Some((id, before)) = self.subjects.get(&subject)
            && *before != cause
            && cause != Cause::Undetermined
            && self
                .incidents
                .get(*id)
                .is_some_and(|it| is_only_about(it, &subject))
        {
            happened.extend(self.incidents.attribute(*id, cause));
        }
        // What nobody can tell any more of it still belongs to what was known of it.
        let known = self.subjects.get(&subject);
        let known = known.and_then(|(id, _)| self.incidents.get(*id));
        let cause = match (cause, known) {
            (Cause::Undetermined, Some(incident)) => incident.cause,
            (cause, _) => cause,
        };
        happened.extend(self.incidents.symptom(symptom, cause));
        let has = |it: &&Incident| it.symptoms.iter().any(|symptom| symptom.subject == subject);
        let fitting =
            |it: &&Incident| has(it) && (it.cause == cause || cause == Cause::Undetermined);
        if let Some(incident) = self.incidents.open().iter().rfind(fitting) {
            self.subjects.insert(subject, (incident.id, cause));
        }
    }

    fn host(&mut self, status: &Status, at: Instant, happened: &mut Vec<IncidentEvent>) {
        let Some(host) = &status.host else {
            return;
        };
        if host.oom_kills > self.oom_kills {
            let kills = host.oom_kills - self.oom_kills;
            let victim = Victim {
                at,
                process: "processes of this host".to_owned(),
                harm: Harm::OomKilled,
                detail: format!("{kills} killed, {} since it is watched", host.oom_kills),
            };
            happened.extend(self.incidents.victim(victim));
        }
        self.oom_kills = host.oom_kills;
        if let Some(shown) = symptoms::of_host(host, at) {
            self.take(shown, happened);
        }
    }

    fn service(&mut self, service: &ServiceStatus, at: Instant, happened: &mut Vec<IncidentEvent>) {
        let harm = harm(service);
        for known in [Harm::OomKilled, Harm::CouldNotStart, Harm::NoDescriptors] {
            let name = (service.service.clone(), known.name());
            if harm != Some(known) {
                self.harmed.remove(&name);
            } else if self.harmed.insert(name) {
                let why = service.evidence.first();
                let victim = Victim {
                    at,
                    process: named(service),
                    harm: known,
                    detail: cut(why.map_or("", |why| &why.detail), DETAIL_LEN_MAX).to_owned(),
                };
                happened.extend(self.incidents.victim(victim));
            }
        }
        if let Some(shown) = symptoms::of_service(service, at) {
            self.take(shown, happened);
        }
    }

    /// A service that went away before it was known that it is a victim was taken for a culprit. Whose
    /// victim it is may become known later still.
    fn blame_who_leaks(&mut self, status: &Status, happened: &mut Vec<IncidentEvent>) {
        for service in &status.services {
            let Some(victim) = &service.victim else {
                continue;
            };
            let Some((id, Cause::ServiceGone)) = self.subjects.get(&service.service).copied()
            else {
                continue;
            };
            let Some(incident) = self.incidents.get(id) else {
                continue;
            };
            let mut services = status.services.iter();
            let cause = if services.any(|it| victim.of.as_ref() == Some(&it.service) && leaks(it)) {
                Cause::ServiceLeak
            } else if incident.cause == Cause::ServiceGone {
                Cause::Undetermined
            } else {
                continue;
            };
            if is_only_about(incident, &service.service) {
                happened.extend(self.incidents.attribute(id, cause));
            }
        }
    }

    /// What is to be recorded of what became of an incident.
    fn event(&mut self, happened: IncidentEvent, now: Stamp) -> Option<Event> {
        let mut attributed_before = None;
        let mut merged_into = None;
        let (kind, incident) = match happened {
            IncidentEvent::Opened(id) => (INCIDENT_OPENED, self.incidents.get(id)?.clone()),
            IncidentEvent::Grew(id) => (INCIDENT_GREW, self.incidents.get(id)?.clone()),
            IncidentEvent::Attributed { id, from, .. } => {
                attributed_before = Some(from);
                (INCIDENT_ATTRIBUTED, self.incidents.get(id)?.clone())
            }
            IncidentEvent::Merged { from, into } => {
                merged_into = Some(into.0);
                (INCIDENT_CLOSED, *from)
            }
            IncidentEvent::Closed(incident) => {
                self.subjects.retain(|_, (id, _)| *id != incident.id);
                self.closed.push_back(Incident::clone(&incident));
                if self.closed.len() > CLOSED_MAX {
                    self.closed.pop_front();
                }
                (INCIDENT_CLOSED, *incident)
            }
        };
        let open = kind != INCIDENT_CLOSED;
        let figures = IncidentFigures::new(&incident, open, shifted(now.monotonic));
        let body = IncidentBody {
            figures: fitting(figures),
            attributed_before,
            merged_into,
            not_watched: false,
        };
        let severity = match kind {
            INCIDENT_OPENED => Severity::Warning,
            _ => Severity::Notice,
        };
        let about = subject(&incident);
        Some(Event::new(now, kind, about, &body).with_severity(severity))
    }
}

/// What becomes of an incident in one poll is told once: one that opens has all of it.
fn told_once(happened: &mut Vec<IncidentEvent>) {
    let mut told = BTreeSet::new();
    happened.retain(|event| match event {
        IncidentEvent::Opened(id) => {
            told.insert(*id);
            true
        }
        IncidentEvent::Grew(id) => told.insert(*id),
        IncidentEvent::Attributed { .. }
        | IncidentEvent::Merged { .. }
        | IncidentEvent::Closed(_) => true,
    });
}

/// The incidents that events of [`KINDS`] tell of, the latest event first, each as it was told last;
/// the oldest incident first. How long ago it all was is reckoned to `now`.
#[must_use]
pub fn on_record(events: &[Recorded], now: WallTime) -> Vec<IncidentFigures> {
    let mut incidents = BTreeMap::new();
    for recorded in events {
        let Ok(body) = serde_json::from_str::<IncidentBody>(&recorded.event.body) else {
            continue;
        };
        let since = now.since(recorded.event.stamp.wall).as_secs_f64();
        incidents.entry(body.figures.incident).or_insert_with(|| {
            let mut figures = body.figures;
            figures.age(since);
            figures
        });
    }
    incidents.into_values().collect()
}

/// The latest numbers of either kind that are on record.
#[derive(Debug, Default)]
struct Latest {
    counted: u64,
    /// Whether an incident with such a number was seen to be opened after all that is out of sight: none
    /// on record has a higher one then. One that is closed may be much older than others that are.
    was_opened: bool,
    by_time: u64,
}

impl Latest {
    fn take(&mut self, number: u64, was_opened: bool) {
        if number < NUMBERED_BY_TIME {
            self.counted = self.counted.max(number);
            self.was_opened |= was_opened;
        } else {
            self.by_time = self.by_time.max(number);
        }
    }

    /// The number of the next incident: one more than all that were counted, or by time as until now
    /// where there is more on record than was looked through, and nothing of that tells.
    fn next(&self, past: &Past, by_time: u64) -> u64 {
        let len = u32::try_from(past.incidents.len());
        let is_whole = len.is_ok_and(|len| len < LOOKED_THROUGH_MAX);
        if is_whole && past.unknown_until.is_none() || self.was_opened {
            self.counted.saturating_add(1)
        } else {
            by_time.max(self.by_time.saturating_add(1))
        }
    }
}

/// Host time, later than any change that is remembered.
fn shifted(at: Instant) -> Instant {
    at.plus(BEFORE_BOOT)
}

fn is_only_about(incident: &Incident, subject: &str) -> bool {
    incident.symptoms.iter().all(|it| it.subject == subject)
}

fn subject(incident: &Incident) -> String {
    let first = incident.symptoms.first();
    let subject = first.map_or("host", |first| &first.subject);
    super::subject(subject)
}

fn named(service: &ServiceStatus) -> String {
    let name = super::subject(&service.service);
    match &service.process {
        Some(process) => format!("{name} ({})", process.pid),
        None => name,
    }
}

/// An event that tells of a change, for whoever weighs it.
pub(super) fn as_evidence(event: &Event, now: Stamp) -> Option<Changed> {
    let (who, what) = told(event)?;
    let change = (event.kind == lock::CHANGE)
        .then(|| serde_json::from_str::<lock::Change>(&event.body).ok());
    let is_tuned = change.flatten().is_some_and(|it| it.action == TUNE);
    let subject = match &*event.subject {
        "host" | "monitor" => HOST,
        _ if is_tuned => HOST,
        subject => subject,
    };
    let what = cut(&what, DETAIL_LEN_MAX);
    Some(Changed {
        subject: subject.to_owned(),
        what: match &*who {
            "unknown" => what.to_owned(),
            who => format!("{what}, by {}", cut(who, DETAIL_LEN_MAX)),
        },
        wall: event.stamp.wall,
        age: age(event.stamp, now),
    })
}

/// Who changed what, by an event.
fn told(event: &Event) -> Option<(String, String)> {
    let subject = &event.subject;
    Some(match &*event.kind {
        lock::UNLOCK => {
            let unlock: lock::Unlock = serde_json::from_str(&event.body).ok()?;
            let (ticket, reason) = (unlock.ticket, unlock.reason);
            (
                unlock.by,
                format!("opened a change window, {ticket}: {reason}"),
            )
        }
        lock::CHANGE => {
            let change: lock::Change = serde_json::from_str(&event.body).ok()?;
            let values = match (change.old, change.new) {
                (Some(old), Some(new)) => format!(": {old} -> {new}"),
                _ => String::new(),
            };
            let (action, subject) = (change.action, change.subject);
            (change.by, format!("{action} of {subject}{values}"))
        }
        FIRMWARE => {
            let body: FirmwareBody = serde_json::from_str(&event.body).ok()?;
            // What was seen for the first time was there before.
            let (from, to) = (body.from?, body.to);
            let whether = if body.expected {
                ""
            } else {
                ", in no change window"
            };
            let what = format!("firmware of {subject}: {from} -> {to}{whether}");
            ("unknown".to_owned(), what)
        }
        SOFTWARE => {
            let body: SoftwareBody = serde_json::from_str(&event.body).ok()?;
            let (from, to, what) = (body.from?, body.to, body.what);
            let what = format!("{what} of {subject}: {from} -> {to}");
            ("unknown".to_owned(), what)
        }
        OWNER_CHANGED => {
            let what = format!("{subject} has another process for its owner");
            ("unknown".to_owned(), what)
        }
        SERVICE_RESTARTED => ("unknown".to_owned(), format!("{subject} was started again")),
        CLOCK_STEP => {
            let body: StepBody = serde_json::from_str(&event.body).ok()?;
            let what = format!("the calendar was set by {:.1} s", body.seconds);
            ("unknown".to_owned(), what)
        }
        _ => return None,
    })
}

/// As much of an incident as goes into an event, the first of it.
fn fitting(mut figures: IncidentFigures) -> IncidentFigures {
    let listed = figures.symptoms.len() + figures.victims.len();
    figures.symptoms.truncate(RECORDED_MAX);
    figures.victims.truncate(RECORDED_MAX);
    let left = figures.symptoms.len() + figures.victims.len();
    figures.not_listed += u64::try_from(listed - left).unwrap_or(u64::MAX);
    // Of changes the latest are likelier to matter.
    let excess = figures.changes.len().saturating_sub(RECORDED_MAX);
    figures.changes.drain(..excess);
    figures
}

/// The end of an incident that nobody saw.
fn abandoned(opened: &Event, mut body: IncidentBody, now: Stamp) -> Event {
    let since = now.wall.since(opened.stamp.wall).as_secs_f64();
    body.figures.open = false;
    body.figures.age(since);
    body.not_watched = true;
    Event::new(now, INCIDENT_CLOSED, opened.subject.clone(), &body)
}

#[cfg(test)]
mod tests;
