//! Holds assessments against the truth, where that is known: in simulations, and after repairs.

use super::Assessment;
use crate::Cause;

/// Brier's score of a forecast (G. W. Brier, "Verification of forecasts expressed in terms of
/// probability", 1950): the sum of squared differences to what was true. 0 is certain and right, 2 is
/// certain and wrong.
#[must_use]
pub fn brier(forecast: &[(Cause, f64)], truth: Cause) -> f64 {
    let squared = |(cause, chance): &(Cause, f64)| {
        let outcome = f64::from(u8::from(*cause == truth));
        (chance - outcome).powi(2)
    };
    let unnamed = !forecast.iter().any(|(cause, _)| *cause == truth);
    forecast.iter().map(squared).sum::<f64>() + f64::from(u8::from(unnamed))
}

/// How good assessments have been.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Calibration {
    cases: u32,
    abstained: u32,
    right: u32,
    brier_sum: f64,
}

impl Calibration {
    /// Of nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What was at fault has become known.
    pub fn record(&mut self, assessment: &Assessment, truth: Cause) {
        self.cases += 1;
        self.abstained += u32::from(assessment.abstains());
        self.right += u32::from(assessment.cause == truth);
        self.brier_sum += brier(&assessment.ranked, truth);
    }

    /// How many cases there were.
    #[must_use]
    pub const fn cases(&self) -> u32 {
        self.cases
    }

    /// The mean of Brier's score.
    #[must_use]
    pub fn brier(&self) -> f64 {
        self.brier_sum / f64::from(self.cases.max(1))
    }

    /// The share of cases in which nothing was sure.
    #[must_use]
    pub fn abstained(&self) -> f64 {
        f64::from(self.abstained) / f64::from(self.cases.max(1))
    }

    /// The share of the others in which the cause was the true one.
    #[must_use]
    pub fn right(&self) -> f64 {
        f64::from(self.right) / f64::from((self.cases - self.abstained).max(1))
    }
}
