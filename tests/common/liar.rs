//! An accelerator that lies when it is told to, and a router over it on a manual clock.

use hwshim::accelerator::software::Ring;
use hwshim::accelerator::{
    Accelerator, Algorithm, Completion, Counters, DeviceError, Operation, Rejected, Request, State,
    Unverified,
};
use hwshim::clock::{Clock, Instant, ManualClock};
use hwshim::router::breaker::{self, Limits};
use hwshim::router::core::{Core, LaneStatus, Offload, Options};
use hwshim::router::direct::{Direct, Done, Submitted};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The answer to give instead of the next one.
type Lie = Arc<Mutex<Option<Vec<u8>>>>;

/// Software that gives one answer that it has not computed.
#[derive(Debug)]
struct Liar {
    truth: Ring,
    lie: Lie,
}

impl Accelerator for Liar {
    fn name(&self) -> &'static str {
        "liar"
    }

    fn offers(&self, algorithm: Algorithm) -> bool {
        self.truth.offers(algorithm)
    }

    fn submit(&mut self, request: Request, now: Instant) -> Result<(), Rejected> {
        self.truth.submit(request, now)
    }

    fn flush(&mut self) {
        self.truth.flush();
    }

    fn poll(&mut self, now: Instant, completions: &mut Vec<Completion>) {
        let earlier = completions.len();
        self.truth.poll(now, completions);
        if let Some(completion) = completions.get_mut(earlier)
            && let Some(lie) = take(&self.lie)
        {
            completion.output = Ok(Unverified::new(lie));
        }
    }

    fn next_deadline(&self) -> Instant {
        self.truth.next_deadline()
    }

    fn in_flight(&self) -> usize {
        self.truth.in_flight()
    }

    fn reset(&mut self, completions: &mut Vec<Completion>) -> Result<(), DeviceError> {
        self.truth.reset(completions)
    }

    fn hand_back(&mut self, completions: &mut Vec<Completion>) {
        self.truth.hand_back(completions);
    }

    fn take_fault(&mut self) -> Option<DeviceError> {
        self.truth.take_fault()
    }

    fn arm(&mut self) -> bool {
        self.truth.arm()
    }

    fn events(&self) -> Vec<BorrowedFd<'_>> {
        self.truth.events()
    }

    fn state(&self) -> State {
        self.truth.state()
    }

    fn counters(&self) -> Counters {
        self.truth.counters()
    }
}

fn take(lie: &Lie) -> Option<Vec<u8>> {
    lie.lock().unwrap_or_else(PoisonError::into_inner).take()
}

const BACKOFF: Duration = Duration::from_secs(5);

/// A router whose only accelerator is a liar.
pub(crate) struct Deceived {
    router: Direct,
    clock: Arc<ManualClock>,
    lie: Lie,
}

impl Deceived {
    pub(crate) fn new() -> Self {
        let lie = Lie::default();
        let liar = Liar {
            truth: Ring::default(),
            lie: Arc::clone(&lie),
        };
        let options = Options {
            limits: Limits {
                backoff: BACKOFF,
                backoff_max: BACKOFF,
                ..Limits::default()
            },
            offload: Offload::EVERYTHING,
            ..Options::default()
        };
        let clock = Arc::new(ManualClock::new());
        let core = Core::new(vec![Box::new(liar)], options);
        let router = Direct::new(core, Arc::clone(&clock) as Arc<dyn Clock>);
        Self { router, clock, lie }
    }

    /// Has `operation` performed by an accelerator that has earned trust and answers it with `lie`.
    pub(crate) fn perform(&mut self, operation: Operation, lie: &[u8]) -> Done {
        self.earn_trust();
        *self.lie.lock().unwrap_or_else(PoisonError::into_inner) = Some(lie.to_vec());
        let submitted = self.router.submit(operation);
        let Submitted::InFlight(_) = submitted else {
            panic!("not given to the accelerator: {submitted:?}");
        };
        let mut ended = None;
        self.router.turn(|done| ended = Some(done));
        assert!(take(&self.lie).is_none(), "the lie was not told");
        ended.expect("software completes at the next poll")
    }

    pub(crate) fn status(&self) -> LaneStatus {
        self.router.core().status(0)
    }

    fn earn_trust(&mut self) {
        for _ in 0..10 {
            if matches!(self.status().breaker, breaker::State::Closed { .. }) {
                return;
            }
            self.clock.advance(BACKOFF);
            self.router.turn(|_| {});
        }
        panic!("not trusted again: {:?}", self.status());
    }
}
