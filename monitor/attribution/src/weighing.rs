//! Lays an assessment open: what each piece of evidence does to every hypothesis, and what each test
//! that is left would tell. It weighs by the same numbers as the assessment, and decides nothing.

use super::balance::{Balance, Contribution};
use super::inquiry::Test;
use super::table::HYPOTHESES;
use super::{Dossier, WORTH_TELLING};
use crate::Cause;
use std::time::Duration;

/// A piece of evidence, with what it does to each hypothesis.
#[derive(Clone, Debug, PartialEq)]
pub struct Weighing {
    /// Its code.
    pub code: &'static str,
    /// Whether it was seen; else it was looked for, and was not there.
    pub was_seen: bool,
    /// What exactly was seen.
    pub detail: String,
    /// How long ago.
    pub age: Duration,
    /// By how much it raises the odds of a cause against all other faults, in nats. Where it hardly
    /// does, there is no number, and none at all if it did not count.
    pub nats: Vec<(Cause, f64)>,
}

/// A test that nobody has made yet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prospect {
    /// Which.
    pub test: &'static Test,
    /// How much it is expected to tell.
    pub bits: f64,
}

impl Balance {
    /// What each piece of evidence does, in the order of the table and in the words of the dossier that
    /// was weighed. What was seen and did not count, as a change of late may not, or a starved host
    /// where the card shows what no host can bring about, has no numbers.
    #[must_use]
    pub fn weighings(&self, dossier: &Dossier) -> Vec<Weighing> {
        let weighing = |contribution: &Contribution| {
            let weights = HYPOTHESES.into_iter().zip(contribution.against_all_others);
            let weights =
                weights.filter(|(_, nats)| contribution.counts && nats.abs() >= WORTH_TELLING);
            let nats: Vec<_> = weights.collect();
            let is_told = !nats.is_empty() || (contribution.was_seen && !contribution.counts);
            is_told.then(|| Weighing {
                code: contribution.code(),
                was_seen: contribution.was_seen,
                detail: contribution.detail(dossier).to_owned(),
                age: contribution
                    .at(dossier)
                    .map_or(Duration::ZERO, |at| self.at.since(at)),
                nats,
            })
        };
        self.contributions.iter().filter_map(weighing).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Assessment, Circumstances, Kind, Priors};
    use super::*;
    use hwshim::clock::Instant;

    fn dossier() -> Dossier {
        let mut dossier = Dossier::new();
        let now = Instant::ORIGIN;
        dossier.seen(Kind::CounterFrozen, 1.0, "it stands still", now);
        dossier.not_seen(Kind::HostPressure, "the host has time", now);
        dossier
    }

    fn weighed(dossier: &Dossier) -> (Balance, Assessment) {
        let (circumstances, priors) = (Circumstances::default(), Priors::default());
        let balance = Balance::of(dossier, &circumstances, &priors, Instant::ORIGIN);
        let assessment = balance.assessment(dossier);
        (balance, assessment)
    }

    #[test]
    fn evidence_weighs_for_the_leading_cause_as_in_its_assessment() {
        let dossier = dossier();
        let (balance, assessment) = weighed(&dossier);
        let weighings = balance.weighings(&dossier);
        let weight = |code: &str| {
            let of = weighings.iter().find(|it| it.code == code).unwrap();
            let nats = of
                .nats
                .iter()
                .find(|(cause, _)| *cause == assessment.leading);
            nats.unwrap().1
        };
        assert!(!assessment.evidence_for.is_empty());
        for weighed in assessment
            .evidence_for
            .iter()
            .chain(&assessment.evidence_against)
        {
            let difference = (weight(weighed.code) - weighed.nats).abs();
            assert!(difference < 1e-9, "{weighed:?}");
        }
        let frozen = &weighings
            .iter()
            .find(|it| it.code == "counter-frozen")
            .unwrap();
        let hang = frozen
            .nats
            .iter()
            .find(|(cause, _)| *cause == Cause::ServiceHang);
        assert!(
            hang.unwrap().1 < -1.0,
            "it speaks against a hanging service"
        );
    }

    #[test]
    fn a_change_weighs_only_where_it_counts_and_is_named_all_the_same() {
        let now = Instant::ORIGIN;
        let change_in = |dossier: &Dossier| {
            let (balance, assessment) = weighed(dossier);
            let mut weighings = balance.weighings(dossier).into_iter();
            let change = weighings.find(|it| it.code == "recent-change");
            (assessment, change)
        };
        let mut dossier = dossier();
        dossier.seen(Kind::RecentChange, 1.0, "the fan", now);
        let (assessment, change) = change_in(&dossier);
        assert!(assessment.abstains());
        assert!(!change.unwrap().nats.is_empty());
        dossier.seen(Kind::WrongAnswer, 1.0, "it was wrong", now);
        let (assessment, change) = change_in(&dossier);
        assert_eq!(assessment.cause, Cause::Card);
        let change = change.unwrap();
        assert_eq!((&*change.detail, &change.nats[..]), ("the fan", &[][..]));
        let (told_for, told_against) = (assessment.evidence_for, assessment.evidence_against);
        let told = told_for.iter().chain(&told_against);
        assert!(told.clone().all(|it| it.code != "recent-change"));
        // That there was none, which did not count, is not worth a line.
        let mut dossier = Dossier::new();
        dossier.seen(Kind::WrongAnswer, 1.0, "it was wrong", now);
        dossier.not_seen(Kind::RecentChange, "nothing was changed", now);
        assert_eq!(change_in(&dossier).1, None);
    }

    #[test]
    fn the_first_prospect_is_the_next_test_of_who_abstains() {
        let dossier = dossier();
        let (balance, assessment) = weighed(&dossier);
        assert!(assessment.abstains());
        let prospects = balance.prospects(&dossier);
        assert_eq!(Some(prospects[0].test), assessment.next_test);
        assert!(
            prospects
                .iter()
                .all(|it| it.test.reveals != Kind::CounterFrozen)
        );
    }
}
