//! Turns what is seen of a card by its PCI function alone into evidence, and has it weighed.
//!
//! No owner publishes a page of such a card, so of answers, light and heartbeat nothing is known here but
//! what whoever drives it tells. How the host is, is not weighed: no starved host brings about what is
//! seen of a link or measured by a driver.

use super::link::LinkDeltas;
use super::sensors;
use crate::attribution::{
    Circumstances, Counter, Dossier, Kind, Priors, RecentChanges, Scales, Weighed,
};
use crate::probe::{Link, ProbeError, Sensors};
use crate::status::AssessmentFigures;
use crate::verdict::{Cause, Evidence};
use hwshim::clock::Instant;
use hwshim::pci::Presence;

/// Keeps the evidence about one card.
#[derive(Debug)]
pub(crate) struct FunctionDiagnosis {
    scales: Scales,
    link: LinkDeltas,
}

/// What was seen of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FunctionLook<'a> {
    /// When.
    pub(crate) at: Instant,
    /// How it is connected.
    pub(crate) link: Option<&'a Result<Link, ProbeError>>,
    /// What its driver measures.
    pub(crate) sensors: Option<&'a Result<Sensors, ProbeError>>,
    /// A counter that it moves by itself, if anybody reads one.
    pub(crate) counter: Counter,
}

/// Something that says by itself what is at fault, unless what was weighed names somebody else.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    /// What is at fault.
    pub(crate) cause: Cause,
    /// As what it is weighed.
    pub(crate) kind: Kind,
    /// In words.
    pub(crate) evidence: Evidence,
}

impl FunctionDiagnosis {
    /// Knows nothing.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            scales: Scales::new(Priors::default(), now),
            link: LinkDeltas::default(),
        }
    }

    /// What is known, for who knows more.
    pub(crate) const fn dossier(&mut self) -> &mut Dossier {
        &mut self.scales.dossier
    }

    /// Takes in what was changed in the last day of the card.
    pub(crate) fn weigh_changes(&mut self, changes: &RecentChanges, card: &str, now: Instant) {
        changes.weigh(&[card], &mut self.scales.dossier, now);
    }

    /// Takes in what a poll saw.
    pub(crate) fn poll(&mut self, look: &FunctionLook<'_>) {
        let dossier = &mut self.scales.dossier;
        self.link.poll_function(look.link, look.at, dossier);
        sensors::weigh(look.sensors, look.at, dossier);
        let circumstances = Circumstances {
            counter: look.counter,
            ..Circumstances::default()
        };
        self.scales.weigh(&circumstances, look.at);
    }

    /// What was weighed in the last poll.
    pub(crate) fn assessment(&self) -> AssessmentFigures {
        let Self { scales, link: _ } = self;
        let (weighings, prospects) = (scales.weighings(), scales.prospects());
        AssessmentFigures::new(scales.assessment(), weighings, prospects)
    }

    /// What is at fault, and why, what decided first. What was `told` holds where what was weighed names
    /// nobody.
    pub(crate) fn verdict(
        &self,
        told: Option<Told>,
        link: Option<&Result<Link, ProbeError>>,
    ) -> (Cause, Vec<Evidence>) {
        let told = gone(link).or(told);
        let assessment = self.scales.assessment();
        let is_named = !matches!(assessment.cause, Cause::None | Cause::Undetermined);
        let told_cause = told.as_ref().map_or(Cause::None, |it| it.cause);
        let cause = if is_named {
            assessment.cause
        } else {
            told_cause
        };
        let is_told = |it: &&Weighed| {
            told.as_ref()
                .is_some_and(|told| told.kind.name() == it.code)
        };
        let weighed = assessment.evidence_for.iter();
        let weighed = weighed.filter(|it| is_named && it.was_seen && !is_told(it));
        let mut evidence: Vec<_> = weighed.map(said).collect();
        if let Some(told) = &told {
            let at = if cause == told_cause {
                0
            } else {
                evidence.len()
            };
            evidence.insert(at, told.evidence.clone());
        }
        (cause, evidence)
    }
}

fn said(weighed: &Weighed) -> Evidence {
    Evidence {
        code: weighed.code.into(),
        detail: weighed.detail.clone(),
    }
}

/// What the bus says of a card that has gone, as rules say it of one with a page.
fn gone(link: Option<&Result<Link, ProbeError>>) -> Option<Told> {
    let (cause, kind, detail) = match link? {
        Err(ProbeError::Absent { .. }) => (
            Cause::CardAbsent,
            Kind::NotInSlot,
            "the kernel has no function there any more",
        ),
        // Hot-plug would have taken it away with the card.
        Ok(link) if link.presence == Presence::Gone => (
            Cause::Link,
            Kind::ConfigAllOnes,
            "the card no longer answers on the bus, though the kernel finds it in its slot",
        ),
        _ => return None,
    };
    let evidence = Evidence {
        code: "gone".into(),
        detail: detail.to_owned(),
    };
    Some(Told {
        cause,
        kind,
        evidence,
    })
}
