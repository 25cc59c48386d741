//! A router driven by the one thread that uses it: for benchmarks, tests and simulations.
//!
//! There is no lock and nobody else; the caller keeps as many requests in flight as it likes,
//! and the time is that of the clock it brings.

use super::choice::Caller;
use super::core::{Arrival, Core, Ending, Placed};
use super::events::Events;
use super::release::{Released, begin, in_software, release};
use crate::accelerator::software::OperationError;
use crate::accelerator::{Operation, RequestId};
use crate::clock::{Clock, Instant};
use std::sync::Arc;
use std::time::Duration;

/// A router without threads.
pub struct Direct {
    core: Core,
    clock: Arc<dyn Clock>,
    events: Option<Events>,
    arrivals: Vec<Arrival>,
}

/// Where a request went.
#[derive(Debug)]
pub enum Submitted {
    /// To an accelerator; a later turn hands it over.
    InFlight(RequestId),
    /// Nowhere: it is done.
    Done(Done),
}

/// A request that has ended.
pub struct Done {
    /// Which.
    pub id: RequestId,
    /// What the caller gets.
    pub output: Result<Vec<u8>, OperationError>,
    /// Who answered.
    pub ending: Ending,
}

impl std::fmt::Debug for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Done")
            .field("id", &self.id)
            .field("output_len", &self.output.as_ref().map(Vec::len))
            .field("ending", &self.ending)
            .finish()
    }
}

/// How long looking again and again is cheaper than being woken: a wake-up from another CPU
/// costs about as much.
const SPIN: Duration = Duration::from_micros(50);
/// Longest wait in one go.
const WAIT_MAX: Duration = Duration::from_millis(100);

impl Direct {
    /// Drives `core` by `clock`.
    #[must_use]
    pub fn new(core: Core, clock: Arc<dyn Clock>) -> Self {
        Self {
            core,
            clock,
            events: None,
            arrivals: Vec::new(),
        }
    }

    /// The policy, to look at.
    #[must_use]
    pub const fn core(&self) -> &Core {
        &self.core
    }

    /// As [`Core::begin_check`].
    pub fn begin_check(&mut self, lane: usize, now: Instant) -> bool {
        self.core.begin_check(lane, now)
    }

    /// As [`Core::arm`].
    pub fn arm(&mut self) -> bool {
        self.core.arm()
    }

    /// As [`Core::announce`].
    pub const fn announce(&mut self, count: usize) {
        self.core.announce(count);
    }

    /// As [`Core::report_silent_reboot`].
    pub fn report_silent_reboot(&mut self, lane: usize, now: Instant) {
        self.core.report_silent_reboot(lane, now);
    }

    /// Takes a request. If no accelerator takes it, or none pays, it is done in software at once.
    pub fn submit(&mut self, operation: Operation) -> Submitted {
        let now = self.clock.now();
        let deadline = now.plus(self.core.options().timeout);
        match self.core.submit_for(Caller::Task, operation, deadline, now) {
            Placed::OnCard(id) => Submitted::InFlight(id),
            Placed::InSoftware(id, operation) => {
                let begun = begin(&operation, &*self.clock);
                Submitted::Done(self.end(id, begun, in_software(&operation)))
            }
            Placed::Refused(id, error) => Submitted::Done(Done {
                id,
                output: Err(error),
                ending: Ending::Refused,
            }),
        }
    }

    fn end(&mut self, id: RequestId, begun: Option<Instant>, released: Released) -> Done {
        let took = begun.and_then(|begun| released.took(self.clock.now().since(begun)));
        if let Some(took) = took {
            self.core.took(id, took);
        }
        let Released { output, ending, .. } = released;
        self.core.settle(id, &ending);
        Done { id, output, ending }
    }

    /// Looks once: hands what has arrived to `done`, verified or done in software, and brings
    /// accelerators up that are due. Returns how many requests ended.
    pub fn turn(&mut self, done: impl FnMut(Done)) -> usize {
        let now = self.clock.now();
        let mut arrivals = std::mem::take(&mut self.arrivals);
        self.core.poll(now, &mut arrivals);
        while let Some(mut reset) = self.core.take_due_reset(now, &mut arrivals) {
            reset.run();
            let now = self.clock.now();
            self.core.restore(reset, now, &mut arrivals);
        }
        self.release_all(arrivals, done)
    }

    /// Takes everything in flight back and hands it to `done`, done in software: for whoever will
    /// not turn any more. Returns how many requests that was.
    pub fn hand_back(&mut self, done: impl FnMut(Done)) -> usize {
        let mut arrivals = std::mem::take(&mut self.arrivals);
        self.core.hand_back_all(self.clock.now(), &mut arrivals);
        self.release_all(arrivals, done)
    }

    fn release_all(&mut self, mut arrivals: Vec<Arrival>, mut done: impl FnMut(Done)) -> usize {
        let ended = arrivals.len();
        for Arrival {
            id,
            operation,
            answer,
            share,
        } in arrivals.drain(..)
        {
            let begun = begin(&operation, &*self.clock);
            let released = release(&operation, answer, share.as_ref(), |rule| {
                self.core.reject(id, rule, self.clock.now());
            });
            done(self.end(id, begun, released));
        }
        self.arrivals = arrivals;
        ended
    }

    /// Like [`Direct::turn`], but waits until `deadline` at the latest for something to arrive.
    pub fn turn_or_wait(&mut self, deadline: Instant, mut done: impl FnMut(Done)) -> usize {
        let begun = self.clock.now();
        loop {
            let ended = self.turn(&mut done);
            let now = self.clock.now();
            if ended > 0 || now >= deadline {
                return ended;
            }
            if now.since(begun) < SPIN {
                std::hint::spin_loop();
            } else {
                self.wait(now, deadline);
            }
        }
    }

    fn wait(&mut self, now: Instant, deadline: Instant) {
        if !self.core.arm() {
            return;
        }
        let stale = |events: &Events| events.are_stale(&self.core);
        if self.events.as_ref().is_none_or(stale) {
            self.events = Events::gather(&self.core, None).ok();
        }
        let next = self.core.next_wake().min(deadline);
        if let Some(events) = &self.events {
            events.wait(next.since(now).min(WAIT_MAX));
        }
    }

    /// Turns until no accelerator is on its way up any more, or `deadline`. Requests that arrive
    /// meanwhile go to `done`.
    pub fn settle_accelerators(&mut self, deadline: Instant) {
        use super::breaker::State;
        let under_way = |core: &Core| {
            (0..core.lane_count()).any(|lane| {
                let status = core.status(lane);
                match status.breaker {
                    State::HalfOpen => true,
                    State::Open { .. } => status.breaker_opened == 0,
                    State::Closed { .. } => false,
                }
            })
        };
        while under_way(&self.core) && self.clock.now() < deadline {
            self.turn_or_wait(deadline.min(self.clock.now().plus(SPIN)), |_| {});
        }
    }
}

impl std::fmt::Debug for Direct {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Direct")
            .field("core", &self.core)
            .finish_non_exhaustive()
    }
}
