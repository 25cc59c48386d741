//! The measuring loops: how many operations, how long each, at what cost to this process.
//!
//! To all of it, because an accelerator that is this CPU works in a thread of its own.

use crate::cli::bench::{PERCENTILES, process_cpu_time, to_f64};
use hdrhistogram::Histogram;
use hwshim::accelerator::{Operation, RequestId, software};
use hwshim::clock::{Clock, Instant, nanos};
use hwshim::router::core::Ending;
use hwshim::router::direct::{Direct, Done, Submitted};
use serde::Serialize;
use std::time::Duration;

/// What was measured on one side.
#[derive(Debug, Serialize)]
pub(super) struct Measured {
    pub(super) operations: u64,
    pub(super) operations_per_second: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    /// Processor time of this process, verification included.
    pub(super) cpu_us_per_operation: f64,
    pub(super) answered_by_card: u64,
    pub(super) answered_by_software: u64,
    pub(super) failed: u64,
    #[serde(skip)]
    latency_ns: Histogram<u64>,
    #[serde(skip)]
    wall: Duration,
    #[serde(skip)]
    cpu: Duration,
}

impl Measured {
    pub(super) fn new() -> Self {
        /// Longer than any deadline.
        const LATENCY_NS_MAX: u64 = 600_000_000_000;
        let latency_ns = Histogram::new_with_max(LATENCY_NS_MAX, 3)
            .expect("three digits up to ten minutes are possible");
        Self {
            operations: 0,
            operations_per_second: 0.0,
            p50_us: 0.0,
            p99_us: 0.0,
            cpu_us_per_operation: 0.0,
            answered_by_card: 0,
            answered_by_software: 0,
            failed: 0,
            latency_ns,
            wall: Duration::ZERO,
            cpu: Duration::ZERO,
        }
    }

    /// Computes what is reported from what was recorded.
    pub(super) fn summarize(&mut self) {
        let us = |quantile| to_f64(self.latency_ns.value_at_quantile(quantile)) / 1000.0;
        let operations = to_f64(self.operations.max(1));
        self.p50_us = us(0.5);
        self.p99_us = us(0.99);
        self.operations_per_second = to_f64(self.operations) / self.wall.as_secs_f64();
        self.cpu_us_per_operation = self.cpu.as_secs_f64() * 1e6 / operations;
    }

    /// At each of [`PERCENTILES`].
    pub(super) fn latency_us(&self) -> [f64; PERCENTILES.len()] {
        PERCENTILES
            .map(|(_, beyond)| 1.0 - to_f64(beyond) / 1000.0)
            .map(|quantile| to_f64(self.latency_ns.value_at_quantile(quantile)) / 1000.0)
    }

    fn record(&mut self, ending: &Ending, latency: Duration) {
        self.operations += 1;
        match ending {
            Ending::Card => self.answered_by_card += 1,
            Ending::Software => self.answered_by_software += 1,
            Ending::Refused | Ending::Abandoned => self.failed += 1,
        }
        self.latency_ns.saturating_record(nanos(latency));
    }
}

/// When each request in flight was submitted, by its index.
#[derive(Default)]
struct Begun(Vec<Instant>);

impl Begun {
    fn note(&mut self, id: RequestId, at: Instant) {
        let index = id.index as usize;
        if self.0.len() <= index {
            self.0.resize(index + 1, Instant::ORIGIN);
        }
        self.0[index] = at;
    }

    fn of(&self, id: RequestId) -> Instant {
        self.0[id.index as usize]
    }
}

/// Keeps `depth` operations in flight for `slice`, then waits for the rest.
pub(super) fn measure_accelerator(
    router: &mut Direct,
    operations: &mut dyn FnMut() -> Operation,
    depth: u16,
    slice: Duration,
    clock: &dyn Clock,
    measured: &mut Measured,
) {
    let mut begun = Begun::default();
    let mut in_flight = 0_usize;
    let (start, cpu_start) = (clock.now(), process_cpu_time());
    let end = start.plus(slice);
    loop {
        // Once a round: whether to submit and whether to stop must not be told different times.
        let over = clock.now() >= end;
        if over && in_flight == 0 {
            break;
        }
        while !over && in_flight < usize::from(depth) {
            let submitted_at = clock.now();
            match router.submit(operations()) {
                Submitted::InFlight(id) => {
                    begun.note(id, submitted_at);
                    in_flight += 1;
                }
                Submitted::Done(done) => {
                    measured.record(&done.ending, clock.now().since(submitted_at));
                    // That took its time; the accelerator may have room again.
                    break;
                }
            }
        }
        let done = |Done { id, ending, .. }| {
            measured.record(&ending, clock.now().since(begun.of(id)));
        };
        // Something is in flight in both cases that wait; with nothing in flight nothing would come.
        in_flight -= if over || in_flight == usize::from(depth) {
            router.turn_or_wait(Instant::NEVER, done)
        } else {
            router.turn(done)
        };
    }
    measured.wall += clock.now().since(start);
    measured.cpu += process_cpu_time().saturating_sub(cpu_start);
}

/// Does operations one after the other for `slice`.
pub(super) fn measure_software(
    operations: &mut dyn FnMut() -> Operation,
    slice: Duration,
    clock: &dyn Clock,
    measured: &mut Measured,
) {
    let (start, cpu_start) = (clock.now(), process_cpu_time());
    let end = start.plus(slice);
    let mut now = start;
    while now < end {
        let ending = match software::perform(&operations()) {
            Ok(_) => Ending::Software,
            Err(_) => Ending::Refused,
        };
        let done = clock.now();
        measured.record(&ending, done.since(now));
        now = done;
    }
    measured.wall += now.since(start);
    measured.cpu += process_cpu_time().saturating_sub(cpu_start);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::thread_cpu_time;
    use hwshim::accelerator::software::Ring;
    use hwshim::accelerator::{
        Accelerator, Algorithm, Completion, Counters, DeviceError, Rejected, Request, Secret, State,
    };
    use hwshim::key::HashAlgorithm;
    use hwshim::router::core::{Core, Offload, Options};
    use std::os::fd::BorrowedFd;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    const TICK: Duration = Duration::from_millis(1);
    /// Far more looks at the clock than any measurement here takes.
    const READS_MAX: u64 = 1000;

    /// A clock that moves each time somebody looks, so that no two looks see the same time. It
    /// gives up on who looks for ever.
    #[derive(Default)]
    struct Ticking(AtomicU64);

    impl Clock for Ticking {
        fn now(&self) -> Instant {
            let reads = self.0.fetch_add(1, Ordering::Relaxed);
            assert!(reads < READS_MAX, "still measuring");
            Instant::from_nanos(reads * nanos(TICK))
        }
    }

    fn operation() -> Operation {
        Operation::Digest {
            hash: HashAlgorithm::Sha256,
            message: Secret::from(&b"message"[..]),
        }
    }

    #[test]
    fn a_measurement_ends_wherever_its_end_falls_between_two_looks_at_the_clock() {
        for slice in (1..=40).map(|ticks| TICK * ticks) {
            let clock = Arc::new(Ticking::default());
            let options = Options {
                offload: Offload::EVERYTHING,
                ..Options::default()
            };
            let ring: Box<dyn Accelerator> = Box::new(Ring::default());
            let core = Core::new(vec![ring], options);
            let mut router = Direct::new(core, Arc::clone(&clock) as Arc<dyn Clock>);
            let mut measured = Measured::new();
            measure_accelerator(
                &mut router,
                &mut operation,
                2,
                slice,
                &*clock,
                &mut measured,
            );
            let requests = router.core().status(0).requests;
            assert_eq!(requests.in_flight, 0);
            assert_eq!(measured.operations, requests.submitted);
        }
    }

    /// An accelerator that takes as much of a processor as it says, in a thread of its own.
    #[derive(Debug, Default)]
    struct Threaded {
        ring: Ring,
        took: Arc<AtomicU64>,
    }

    impl Threaded {
        const EACH: Duration = Duration::from_millis(20);

        fn work(&self) {
            let work = || {
                let start = thread_cpu_time();
                while thread_cpu_time() < start + Self::EACH {}
            };
            std::thread::scope(|scope| scope.spawn(work).join()).expect("it only counts");
            self.took.fetch_add(nanos(Self::EACH), Ordering::Relaxed);
        }
    }

    impl Accelerator for Threaded {
        fn name(&self) -> &'static str {
            "threaded"
        }
        fn offers(&self, algorithm: Algorithm) -> bool {
            self.ring.offers(algorithm)
        }
        fn submit(&mut self, request: Request, now: Instant) -> Result<(), Rejected> {
            self.ring.submit(request, now)
        }
        fn flush(&mut self) {
            self.ring.flush();
        }
        fn poll(&mut self, now: Instant, completions: &mut Vec<Completion>) {
            if self.in_flight() > 0 {
                self.work();
            }
            self.ring.poll(now, completions);
        }
        fn next_deadline(&self) -> Instant {
            self.ring.next_deadline()
        }
        fn in_flight(&self) -> usize {
            self.ring.in_flight()
        }
        fn reset(&mut self, completions: &mut Vec<Completion>) -> Result<(), DeviceError> {
            self.ring.reset(completions)
        }
        fn hand_back(&mut self, completions: &mut Vec<Completion>) {
            self.ring.hand_back(completions);
        }
        fn take_fault(&mut self) -> Option<DeviceError> {
            self.ring.take_fault()
        }
        fn arm(&mut self) -> bool {
            self.ring.arm()
        }
        fn events<'a>(&'a self) -> Vec<BorrowedFd<'a>> {
            self.ring.events()
        }
        fn state(&self) -> State {
            self.ring.state()
        }
        fn counters(&self) -> Counters {
            self.ring.counters()
        }
    }

    #[test]
    fn what_an_accelerator_takes_in_a_thread_of_its_own_is_counted() {
        let clock = Arc::new(Ticking::default());
        let threaded = Threaded::default();
        let took = Arc::clone(&threaded.took);
        let options = Options {
            offload: Offload::EVERYTHING,
            ..Options::default()
        };
        let core = Core::new(vec![Box::new(threaded)], options);
        let mut router = Direct::new(core, Arc::clone(&clock) as Arc<dyn Clock>);
        router.settle_accelerators(Instant::NEVER);
        took.store(0, Ordering::Relaxed);
        let mut measured = Measured::new();
        measure_accelerator(
            &mut router,
            &mut operation,
            2,
            TICK * 20,
            &*clock,
            &mut measured,
        );
        let took = Duration::from_nanos(took.load(Ordering::Relaxed));
        assert!(measured.answered_by_card > 0 && took > Duration::ZERO);
        assert!(measured.cpu >= took, "{:?} of {took:?}", measured.cpu);
    }
}
