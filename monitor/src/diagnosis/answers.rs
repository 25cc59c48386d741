//! How long known-answer tests take, against how long they took while nothing was known to be wrong.

use crate::attribution::{Dossier, Kind};
use card_spec::telemetry::{Page, check_result};
use hwshim::clock::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// Tests from which it is learned how long they take.
const BASELINE: usize = 3;
/// Tests that are compared with it: their median, so that one that was held up tells nothing.
const COMPARED: usize = 3;
/// So many times as long is slow.
const SLOW_FACTOR: u32 = 5;
/// And so much longer: a scheduler's moods are no slowness.
const SLOW_MIN: Duration = Duration::from_millis(1);

/// What earlier tests took.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// Tests that had ended when the last was taken in.
    ended: u64,
    first: Vec<Duration>,
    latest: VecDeque<Duration>,
}

impl Answers {
    pub(super) fn poll(&mut self, page: &Page, now: Instant, dossier: &mut Dossier) {
        let checks = &page.checks;
        let ended = checks.passed.get().wrapping_add(checks.failed.get());
        let is_new = std::mem::replace(&mut self.ended, ended) != ended;
        if is_new && checks.last_result.get() == check_result::PASSED {
            self.record(Duration::from_nanos(checks.last_latency_ns.get()));
        }
        let Some((is_slow, detail)) = self.compared() else {
            return;
        };
        if is_slow {
            dossier.seen(Kind::AnswersSlow, 1.0, detail, now);
        } else {
            dossier.not_seen(Kind::AnswersSlow, detail, now);
        }
    }

    fn record(&mut self, latency: Duration) {
        if self.first.len() < BASELINE {
            self.first.push(latency);
            return;
        }
        if self.latest.len() == COMPARED {
            self.latest.pop_front();
        }
        self.latest.push_back(latency);
    }

    fn compared(&self) -> Option<(bool, String)> {
        if self.latest.len() < COMPARED {
            return None;
        }
        let before = median(self.first.iter().copied());
        let now = median(self.latest.iter().copied());
        let is_slow = now > before * SLOW_FACTOR && now > before + SLOW_MIN;
        let detail = format!("known-answer tests take {now:.1?}, and took {before:.1?}");
        Some((is_slow, detail))
    }
}

fn median(latencies: impl Iterator<Item = Duration>) -> Duration {
    let mut sorted: Vec<_> = latencies.collect();
    sorted.sort();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}
