//! Requests that cannot be done whoever does them: their callers have the wrong key, or the wrong
//! data, which is a setting and no fault of the card.

use crate::attribution::{Dossier, Kind};
use card_spec::telemetry::Page;
use hwshim::clock::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// Over so long.
const WINDOW: Duration = Duration::from_secs(30);
/// Fewer refusals are somebody's slip.
const REFUSED_MIN: u64 = 4;
/// Of so many requests one is always refused somewhere: peers send what does not verify.
const ONE_IN: u64 = 4;

/// What was counted at earlier looks, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Refusals(VecDeque<Counts>);

#[derive(Clone, Copy, Debug)]
struct Counts {
    at: Instant,
    submitted: u64,
    refused: u64,
}

impl Refusals {
    pub(super) fn poll(&mut self, page: &Page, now: Instant, dossier: &mut Dossier) {
        let counts = Counts {
            at: now,
            submitted: page.requests.submitted.get(),
            refused: page.requests.refused.get(),
        };
        let began_anew = |last: &Counts| last.submitted > counts.submitted;
        if self.0.back().is_some_and(began_anew) {
            self.0.clear();
        }
        self.0.push_back(counts);
        while self.0.len() > 2 && now.since(self.0[1].at) >= WINDOW {
            self.0.pop_front();
        }
        let first = self.0[0];
        let submitted = counts.submitted.saturating_sub(first.submitted);
        let refused = counts.refused.saturating_sub(first.refused);
        let detail = format!("{refused} of {submitted} requests were their callers' own errors");
        if refused >= REFUSED_MIN && refused > submitted / ONE_IN {
            dossier.seen(Kind::ErrorThenOk, 1.0, detail, now);
        } else if submitted >= REFUSED_MIN {
            dossier.not_seen(Kind::ErrorThenOk, detail, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribution::{Circumstances, Priors, assess};
    use crate::verdict::Cause;

    /// What is believed after so many requests a second, of which every so many are refused.
    fn believed(requests: u64, refused_one_in: u64) -> Cause {
        let (mut refusals, mut dossier) = (Refusals::default(), Dossier::new());
        let mut page = Page::new();
        let mut now = Instant::ORIGIN;
        for second in 1..=20 {
            now = Instant::ORIGIN.plus(Duration::from_secs(second));
            let submitted = second * requests;
            page.requests.submitted = submitted.into();
            page.requests.refused = (submitted / refused_one_in).into();
            refusals.poll(&page, now, &mut dossier);
        }
        let (circumstances, priors) = (Circumstances::default(), Priors::default());
        assess(&dossier, &circumstances, &priors, now).cause
    }

    #[test]
    fn callers_of_whom_every_second_has_a_wrong_key_have_a_wrong_setting() {
        assert_eq!(believed(10, 2), Cause::Configuration);
        assert_eq!(believed(10, 3), Cause::Configuration);
        // What does not verify comes from peers as well.
        assert_eq!(believed(10, 5), Cause::None);
        assert_eq!(believed(10, u64::MAX), Cause::None);
    }
}
