//! How long known-answer tests take, against how long those of the same algorithm took at first.

use crate::attribution::{Dossier, Kind};
use card_spec::telemetry::{CODE_LEN, Page, check_result};
use hwshim::clock::Instant;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Tests that are looked at: most of them must be slow, so that one that was held up tells nothing.
const COMPARED: usize = 3;
/// So many times as long is slow.
const SLOW_FACTOR: u32 = 3;
/// And so much longer: a scheduler's moods are no slowness.
const SLOW_MIN: Duration = Duration::from_micros(200);
/// Algorithms that are remembered. Who owns a card could make up any number.
const ALGORITHMS_MAX: usize = 64;

/// What earlier tests took.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// Tests that had ended when the last was taken in.
    ended: u64,
    /// How long the quickest test of each algorithm took.
    quickest: BTreeMap<[u8; CODE_LEN], Duration>,
    /// Whether the latest tests were slow, the oldest first.
    latest: VecDeque<bool>,
}

impl Answers {
    /// Takes in the last test, if it is new.
    pub(super) fn poll(&mut self, page: &Page, now: Instant, dossier: &mut Dossier) {
        let checks = &page.checks;
        if !self.pass_over(page) || checks.last_result.get() != check_result::PASSED {
            return;
        }
        let latency = Duration::from_nanos(checks.last_latency_ns.get());
        let Some(quickest) = self.compare(page.checked, latency) else {
            return;
        };
        let detail = format!("a known-answer test took {latency:.1?}, and one took {quickest:.1?}");
        let slow = self.latest.iter().filter(|slow| **slow).count();
        if self.latest.len() < COMPARED {
        } else if slow * 2 > COMPARED {
            dossier.seen(Kind::AnswersSlow, 1.0, detail, now);
        } else {
            dossier.not_seen(Kind::AnswersSlow, detail, now);
        }
    }

    /// Leaves the last test out, however long it took. Returns whether it was new.
    pub(super) fn pass_over(&mut self, page: &Page) -> bool {
        let checks = &page.checks;
        let ended = checks.passed.get().wrapping_add(checks.failed.get());
        std::mem::replace(&mut self.ended, ended) != ended
    }

    /// Takes in how long a test took, and returns how long the quickest of its kind did.
    fn compare(&mut self, algorithm: [u8; CODE_LEN], latency: Duration) -> Option<Duration> {
        let is_known = self.quickest.contains_key(&algorithm);
        if !is_known && self.quickest.len() == ALGORITHMS_MAX {
            return None;
        }
        let quickest = self.quickest.entry(algorithm).or_insert(latency);
        *quickest = latency.min(*quickest);
        let quickest = *quickest;
        let is_slow = latency > quickest * SLOW_FACTOR && latency > quickest + SLOW_MIN;
        if is_known {
            if self.latest.len() == COMPARED {
                self.latest.pop_front();
            }
            self.latest.push_back(is_slow);
        }
        Some(quickest)
    }
}
