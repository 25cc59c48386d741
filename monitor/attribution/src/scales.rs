//! One case from poll to poll: what is known of it, and what was made of that when it was weighed last.
//! It is weighed once a poll, whatever is asked about it.

use super::{Assessment, Balance, Circumstances, Dossier, Priors, Prospect, Weighing};
use crate::Cause;
use hwshim::clock::Instant;

/// A case, with what was last made of it.
#[derive(Debug)]
pub struct Scales {
    /// What is known.
    pub dossier: Dossier,
    priors: Priors,
    balance: Balance,
    assessment: Assessment,
}

impl Scales {
    /// Nothing is known.
    #[must_use]
    pub fn new(priors: Priors, now: Instant) -> Self {
        let dossier = Dossier::new();
        let balance = Balance::of(&dossier, &Circumstances::default(), &priors, now);
        Self {
            assessment: balance.assessment(&dossier),
            dossier,
            priors,
            balance,
        }
    }

    /// Weighs what is known now.
    pub fn weigh(&mut self, circumstances: &Circumstances, now: Instant) {
        let before = Some(&self.balance);
        self.balance = Balance::after(before, &self.dossier, circumstances, &self.priors, now);
        self.assessment = self.balance.assessment(&self.dossier);
    }

    /// What was believed to be at fault when it was weighed last.
    #[must_use]
    pub const fn assessment(&self) -> &Assessment {
        &self.assessment
    }

    /// What each piece of evidence did to every hypothesis then.
    #[must_use]
    pub fn weighings(&self) -> Vec<Weighing> {
        self.balance.weighings(&self.dossier)
    }

    /// What would tell more, the cheapest for what it tells first; nothing where nothing is wrong.
    #[must_use]
    pub fn prospects(&self) -> &[Prospect] {
        match self.assessment.cause {
            Cause::None => &[],
            _ => self.balance.prospects(&self.dossier),
        }
    }
}
