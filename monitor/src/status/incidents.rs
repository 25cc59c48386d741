//! Incidents in the shape in which they are shown and kept.

use crate::incident::{Change, Harm, Incident, Symptom, Victim};
use crate::verdict::Cause;
use hwshim::clock::Instant;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// What belongs together: symptoms and victims of one time, under one cause.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct IncidentFigures {
    /// Its number, by which it stands in the history.
    pub incident: u64,
    /// What is at fault, as far as known.
    pub cause: Cause,
    /// Whether it goes on. It is over when nothing of it was seen for five minutes.
    pub open: bool,
    /// How long ago the first of it was seen.
    pub began_seconds_ago: f64,
    /// How long ago the last of it was.
    pub last_seconds_ago: f64,
    /// What to do at once.
    pub at_once: Cow<'static, str>,
    /// What is wrong, in the order first seen.
    pub symptoms: Vec<SymptomFigures>,
    /// Who was harmed, and is not at fault.
    pub victims: Vec<VictimFigures>,
    /// What was changed in the 24 hours before, and since.
    pub changes: Vec<ChangeFigures>,
    /// Symptoms and victims that are not listed.
    pub not_listed: u64,
}

/// Something that is wrong.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct SymptomFigures {
    /// What has it: a card, a service, the host.
    pub subject: String,
    /// Code of the evidence.
    pub code: Cow<'static, str>,
    /// Number of the health check that failed, if one did.
    pub check: Option<u8>,
    /// What was seen.
    pub detail: String,
    /// In how many polls.
    pub times: u64,
    /// How long ago it was seen first.
    pub began_seconds_ago: f64,
}

/// Somebody who was harmed.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct VictimFigures {
    /// Who.
    pub process: String,
    /// By what.
    pub harm: Harm,
    /// What was seen.
    pub detail: String,
    /// How long ago.
    pub seconds_ago: f64,
}

/// Something that was changed.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ChangeFigures {
    /// By whom.
    pub who: String,
    /// What.
    pub what: String,
    /// How long ago.
    pub seconds_ago: f64,
}

impl IncidentFigures {
    /// How an incident is `now`.
    #[must_use]
    pub fn new(incident: &Incident, open: bool, now: Instant) -> Self {
        let ago = |at: Instant| now.since(at).as_secs_f64();
        Self {
            incident: incident.id.0,
            cause: incident.cause,
            open,
            began_seconds_ago: ago(incident.opened_at),
            last_seconds_ago: ago(incident.last_at),
            at_once: incident.recommended().name().into(),
            symptoms: incident
                .symptoms
                .iter()
                .map(|symptom| SymptomFigures::new(symptom, ago(symptom.at)))
                .collect(),
            victims: incident
                .victims
                .iter()
                .map(|victim| VictimFigures::new(victim, ago(victim.at)))
                .collect(),
            changes: incident
                .changes
                .iter()
                .map(|change| ChangeFigures::new(change, ago(change.at)))
                .collect(),
            not_listed: incident.not_listed,
        }
    }

    /// Lets time pass: all of it is so much longer ago.
    pub(crate) fn age(&mut self, seconds: f64) {
        self.began_seconds_ago += seconds;
        self.last_seconds_ago += seconds;
        let symptoms = self.symptoms.iter_mut().map(|it| &mut it.began_seconds_ago);
        let victims = self.victims.iter_mut().map(|it| &mut it.seconds_ago);
        let changes = self.changes.iter_mut().map(|it| &mut it.seconds_ago);
        symptoms
            .chain(victims)
            .chain(changes)
            .for_each(|ago| *ago += seconds);
    }

    /// How long it lasted, from the first of it to the last.
    #[must_use]
    pub fn lasted_seconds(&self) -> f64 {
        self.began_seconds_ago - self.last_seconds_ago
    }
}

impl SymptomFigures {
    fn new(symptom: &Symptom, began_seconds_ago: f64) -> Self {
        Self {
            subject: symptom.subject.clone(),
            code: symptom.code.clone(),
            check: symptom.check,
            detail: symptom.detail.clone(),
            times: symptom.times,
            began_seconds_ago,
        }
    }
}

impl VictimFigures {
    fn new(victim: &Victim, seconds_ago: f64) -> Self {
        Self {
            process: victim.process.clone(),
            harm: victim.harm,
            detail: victim.detail.clone(),
            seconds_ago,
        }
    }
}

impl ChangeFigures {
    fn new(change: &Change, seconds_ago: f64) -> Self {
        Self {
            who: change.who.clone(),
            what: change.what.clone(),
            seconds_ago,
        }
    }
}
