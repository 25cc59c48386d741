//! Which operations go together, and when.
//!
//! Operations of one kind wait until there are eight. Fewer go when the oldest has waited for its
//! window, which is short, and there is one only while it is likely to bring somebody:
//!
//! ```text
//!   eight are there                                        go now
//!   the next is expected within a quarter of a batch       wait for it, a quarter of a batch at most
//!   otherwise                                              go now
//! ```
//!
//! Under load none of this matters: while one batch is executed the next one fills.

use crate::clock::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// Longest window there is, whatever a batch takes.
const WINDOW_MAX: Duration = Duration::from_millis(2);
/// A window is this part of what a batch takes: one more lane saves an eighth of a batch, and the
/// others pay for it by waiting.
const WINDOW_DIVISOR: u32 = 4;
/// How much one arrival moves the estimate of the time between two.
const GAP_WEIGHT: u32 = 8;

/// Operations that wait, by kind.
#[derive(Debug)]
pub(super) struct Gather<K, T> {
    size: usize,
    queues: Vec<Queue<K, T>>,
}

#[derive(Debug)]
struct Queue<K, T> {
    kind: K,
    waiting: VecDeque<(Instant, T)>,
    /// When the last one came.
    arrived: Option<Instant>,
    /// Mean time between two, if there ever were two.
    gap: Option<Duration>,
    /// What the last batch took.
    cost: Duration,
}

impl<K: Copy + Eq, T> Gather<K, T> {
    /// Batches of `size`.
    pub(super) const fn new(size: usize) -> Self {
        Self {
            size,
            queues: Vec::new(),
        }
    }

    /// Has an operation wait.
    pub(super) fn push(&mut self, kind: K, operation: T, now: Instant) {
        let queue = self.queue(kind);
        if let Some(arrived) = queue.arrived {
            let gap = now.since(arrived);
            queue.gap = Some(queue.gap.map_or(gap, |mean| {
                (mean * (GAP_WEIGHT - 1)).saturating_add(gap) / GAP_WEIGHT
            }));
        }
        queue.arrived = Some(now);
        queue.waiting.push_back((now, operation));
    }

    /// Operations that go together now; of the kind whose oldest has waited longest.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<(K, Vec<T>)> {
        let size = self.size;
        let due = self
            .queues
            .iter_mut()
            .filter(|queue| queue.due(size) <= now);
        let queue = due.min_by_key(|queue| queue.waiting.front().map(|(since, _)| *since))?;
        let count = queue.waiting.len().min(size);
        let taken = queue.waiting.drain(..count).map(|(_, operation)| operation);
        Some((queue.kind, taken.collect()))
    }

    /// When there will be something to take if nothing else comes, or [`Instant::NEVER`].
    pub(super) fn next_due(&self) -> Instant {
        let due = self.queues.iter().map(|queue| queue.due(self.size));
        due.min().unwrap_or(Instant::NEVER)
    }

    /// A batch has been executed.
    pub(super) fn executed(&mut self, kind: K, took: Duration) {
        self.queue(kind).cost = took;
    }

    /// Lets go of what nobody wants any more.
    pub(super) fn retain(&mut self, mut is_wanted: impl FnMut(&T) -> bool) {
        for queue in &mut self.queues {
            queue.waiting.retain(|(_, operation)| is_wanted(operation));
        }
    }

    fn queue(&mut self, kind: K) -> &mut Queue<K, T> {
        let index = self.queues.iter().position(|queue| queue.kind == kind);
        let index = index.unwrap_or_else(|| {
            self.queues.push(Queue::new(kind));
            self.queues.len() - 1
        });
        &mut self.queues[index]
    }
}

impl<K, T> Queue<K, T> {
    const fn new(kind: K) -> Self {
        Self {
            kind,
            waiting: VecDeque::new(),
            arrived: None,
            gap: None,
            cost: Duration::ZERO,
        }
    }

    /// When what waits goes, or [`Instant::NEVER`] if nothing does.
    fn due(&self, size: usize) -> Instant {
        match self.waiting.front() {
            None => Instant::NEVER,
            Some(_) if self.waiting.len() >= size => Instant::ORIGIN,
            Some((since, _)) => since.plus(self.window()),
        }
    }

    fn window(&self) -> Duration {
        let window = (self.cost / WINDOW_DIVISOR).min(WINDOW_MAX);
        match self.gap {
            Some(gap) if gap <= window => window,
            _ => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: Duration = Duration::from_micros(800);

    fn at(micros: u64) -> Instant {
        Instant::ORIGIN.plus(Duration::from_micros(micros))
    }

    #[test]
    fn eight_go_at_once_and_the_ninth_waits_for_the_next_batch() {
        let mut gather = Gather::new(8);
        gather.executed('a', COST);
        for number in 0..9 {
            gather.push('a', number, at(1));
        }
        assert_eq!(gather.take_due(at(1)), Some(('a', (0..8).collect())));
        assert_eq!(gather.take_due(at(1)), None);
        assert_eq!(gather.take_due(gather.next_due()), Some(('a', vec![8])));
        assert_eq!(gather.next_due(), Instant::NEVER);
    }

    #[test]
    fn one_alone_goes_at_once() {
        let mut gather = Gather::new(8);
        gather.executed('a', COST);
        // The first ever, and one of a caller who waits for each answer.
        for micros in [0, 900, 1800, 2700] {
            gather.push('a', micros, at(micros));
            assert_eq!(gather.take_due(at(micros)), Some(('a', vec![micros])));
        }
    }

    #[test]
    fn where_the_next_is_expected_soon_it_is_waited_for_and_no_longer_than_a_quarter_of_a_batch() {
        let mut gather = Gather::new(8);
        gather.executed('a', COST);
        for micros in [0, 100, 200] {
            gather.push('a', micros, at(micros));
        }
        assert_eq!(gather.take_due(at(199)), None);
        assert_eq!(gather.next_due(), at(200));
        assert_eq!(gather.take_due(at(200)), Some(('a', vec![0, 100, 200])));
    }

    #[test]
    fn when_the_load_ends_so_does_the_window() {
        let mut gather = Gather::new(8);
        gather.executed('a', COST);
        for micros in 0..8 {
            gather.push('a', micros, at(micros));
        }
        assert!(gather.take_due(at(8)).is_some());
        gather.push('a', 8, at(1_000_000));
        assert_eq!(gather.take_due(at(1_000_000)), Some(('a', vec![8])));
    }

    #[test]
    fn the_window_of_a_slow_kind_is_bounded() {
        let mut gather = Gather::new(8);
        gather.executed('a', Duration::from_secs(1));
        gather.push('a', 0, at(0));
        gather.push('a', 1, at(0));
        assert_eq!(gather.next_due(), at(0).plus(WINDOW_MAX));
    }

    #[test]
    fn kinds_do_not_mix_and_the_one_that_waited_longest_goes_first() {
        let mut gather = Gather::new(8);
        gather.push('b', 1, at(1));
        gather.push('a', 2, at(2));
        gather.push('b', 3, at(3));
        assert_eq!(gather.take_due(at(9)), Some(('b', vec![1, 3])));
        assert_eq!(gather.take_due(at(9)), Some(('a', vec![2])));
        assert_eq!(gather.take_due(at(9)), None);
    }

    #[test]
    fn what_nobody_wants_is_not_executed() {
        let mut gather = Gather::new(8);
        for number in 0..4 {
            gather.push('a', number, at(0));
        }
        gather.retain(|number| number % 2 == 1);
        assert_eq!(gather.take_due(at(9)), Some(('a', vec![1, 3])));
        gather.retain(|_| false);
        assert_eq!(gather.next_due(), Instant::NEVER);
    }
}
