//! What was weighed and how it came out, in the shape in which it is shown.
//!
//! A weight is for a cause where it is above zero and against it below. Every piece of evidence
//! stands here once, with its weight for each cause that it bears on, so that whoever reads can
//! follow every hypothesis and not only the one that won.

use crate::attribution::{Assessment, Prospect, Test, Veto, Weighing};
use crate::verdict::Cause;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Tests that are listed at most: who has to choose among more has not been helped.
const TESTS_MAX: usize = 5;

/// What is believed to be at fault, and why.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct AssessmentFigures {
    /// What is at fault; `undetermined` if that is not sure.
    pub cause: Cause,
    /// How likely the likeliest hypothesis is, from 0 to 1.
    pub confidence: f64,
    /// What would be likeliest if nothing were out of the question.
    pub leading: Cause,
    /// What is at fault besides, which can neither explain the cause nor be explained by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub besides: Option<HypothesisFigures>,
    /// Every hypothesis, the likeliest first. `undetermined` has what was taken from a hypothesis
    /// that is out of the question.
    pub hypotheses: Vec<HypothesisFigures>,
    /// What was weighed, what bears most on the leading hypothesis first.
    pub evidence: Vec<WeighingFigures>,
    /// What is out of the question, and why.
    pub vetoes: Vec<VetoFigures>,
    /// What to find out next if the cause is not sure: what tells most for what it costs.
    pub next_test: Option<TestFigures>,
    /// What else would tell something, the cheapest for what it tells first.
    pub tests: Vec<TestFigures>,
}

/// A hypothesis.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct HypothesisFigures {
    /// That this is at fault.
    pub cause: Cause,
    /// How likely it is, from 0 to 1.
    pub probability: f64,
}

/// A piece of evidence.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct WeighingFigures {
    /// Its code.
    pub code: Cow<'static, str>,
    /// Whether it was seen; else it was looked for, and was not there.
    pub seen: bool,
    /// What exactly was seen.
    pub detail: String,
    /// How long ago.
    #[serde(default)]
    pub seconds_ago: f64,
    /// By how much it raises the odds of a cause against all other faults, in nats; nothing where
    /// it hardly does, and nothing at all if it did not count.
    pub weights: BTreeMap<Cause, f64>,
}

/// A hypothesis is out of the question.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct VetoFigures {
    /// Which.
    pub rules_out: Cause,
    /// Why.
    pub why: String,
}

/// A way to find something out.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct TestFigures {
    /// Its name.
    pub test: Cow<'static, str>,
    /// What to do.
    pub how: Cow<'static, str>,
    /// Code of the evidence that it shows, or shows not to be there.
    pub reveals: Cow<'static, str>,
    /// How long it takes, or how much patience.
    pub takes_seconds: f64,
    /// How much it is expected to tell; `null` if that was not reckoned.
    pub bits: Option<f64>,
}

impl AssessmentFigures {
    /// Puts together what was assessed with what it was assessed from.
    #[must_use]
    pub fn new(assessment: &Assessment, weighings: Vec<Weighing>, prospects: &[Prospect]) -> Self {
        let leading = assessment.leading;
        let mut evidence: Vec<_> = weighings.into_iter().map(WeighingFigures::from).collect();
        let weight = |it: &WeighingFigures| it.weight(leading).abs();
        evidence.sort_by(|one, other| weight(other).total_cmp(&weight(one)));
        let tests = prospects.iter().take(TESTS_MAX);
        Self {
            cause: assessment.cause,
            confidence: rounded(assessment.ranked.first().map_or(0.0, |first| first.1), 1e4),
            leading,
            besides: assessment.besides.map(HypothesisFigures::from),
            hypotheses: assessment
                .ranked
                .iter()
                .copied()
                .map(HypothesisFigures::from)
                .collect(),
            evidence,
            vetoes: assessment.vetoes.iter().map(VetoFigures::from).collect(),
            next_test: assessment.next_test.map(TestFigures::from),
            tests: tests.map(TestFigures::from).collect(),
        }
    }

    /// Whether nothing is sure.
    #[must_use]
    pub fn abstains(&self) -> bool {
        self.cause == Cause::Undetermined
    }

    /// What was seen, and did not count.
    pub fn uncounted(&self) -> impl Iterator<Item = &WeighingFigures> {
        self.evidence.iter().filter(|it| it.weights.is_empty())
    }

    /// What speaks for a cause and what against it, the strongest first.
    #[must_use]
    pub fn for_and_against(&self, cause: Cause) -> (Vec<&WeighingFigures>, Vec<&WeighingFigures>) {
        let bearing = self.evidence.iter().filter(|it| it.weight(cause) != 0.0);
        let mut bearing: Vec<_> = bearing.collect();
        bearing.sort_by(|one, other| {
            let (one, other) = (one.weight(cause).abs(), other.weight(cause).abs());
            other.total_cmp(&one)
        });
        bearing.into_iter().partition(|it| it.weight(cause) > 0.0)
    }
}

impl From<(Cause, f64)> for HypothesisFigures {
    fn from((cause, probability): (Cause, f64)) -> Self {
        Self {
            cause,
            probability: rounded(probability, 1e4),
        }
    }
}

impl WeighingFigures {
    /// What it does to a cause; zero if it hardly does anything.
    #[must_use]
    pub fn weight(&self, cause: Cause) -> f64 {
        self.weights.get(&cause).copied().unwrap_or(0.0)
    }
}

impl From<Weighing> for WeighingFigures {
    fn from(weighing: Weighing) -> Self {
        let weights = weighing.nats.into_iter();
        Self {
            code: weighing.code.into(),
            seen: weighing.was_seen,
            detail: weighing.detail,
            seconds_ago: rounded(weighing.age.as_secs_f64(), 10.0),
            weights: weights
                .map(|(cause, nats)| (cause, rounded(nats, 1e2)))
                .collect(),
        }
    }
}

impl From<&Veto> for VetoFigures {
    fn from(veto: &Veto) -> Self {
        Self {
            rules_out: veto.rules_out(),
            why: veto.to_string(),
        }
    }
}

impl From<&'static Test> for TestFigures {
    fn from(test: &'static Test) -> Self {
        Self {
            test: test.name.into(),
            how: test.how.into(),
            reveals: test.reveals.name().into(),
            takes_seconds: test.takes.as_secs_f64(),
            bits: None,
        }
    }
}

impl From<&Prospect> for TestFigures {
    fn from(prospect: &Prospect) -> Self {
        Self {
            bits: Some(rounded(prospect.bits, 1e3)),
            ..Self::from(prospect.test)
        }
    }
}

/// As many digits as mean something.
fn rounded(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}
