//! The measuring loops: how many operations, how long each, at what cost to this process.
//!
//! To all of it, because an accelerator that is this CPU works in a thread of its own.

use crate::cli::bench::process_cpu_time;
use hdrhistogram::Histogram;
use hwshim::accelerator::{Operation, RequestId, software};
use hwshim::clock::{Clock, Instant, nanos};
use hwshim::router::core::Ending;
use hwshim::router::direct::{Direct, Done, Submitted};
use std::time::Duration;

/// What was seen of one side in one window, and what it took.
#[derive(Debug)]
pub(super) struct Window {
    /// Of what was answered.
    pub(super) latency_ns: Histogram<u64>,
    /// Answered by the accelerator, and verified.
    pub(super) by_card: u64,
    /// Answered by software.
    pub(super) by_software: u64,
    /// Answered by nobody.
    pub(super) failed: u64,
    /// What the accelerator had been given and software answered.
    pub(super) fallbacks: u64,
    /// Wrong answers of the accelerator, stopped.
    pub(super) wrong_answers: u64,
    pub(super) wall: Duration,
    /// Processor time of this process, verification included.
    pub(super) cpu: Duration,
}

impl Window {
    /// Nothing yet.
    fn new() -> Self {
        Self {
            latency_ns: latencies(),
            by_card: 0,
            by_software: 0,
            failed: 0,
            fallbacks: 0,
            wrong_answers: 0,
            wall: Duration::ZERO,
            cpu: Duration::ZERO,
        }
    }

    fn record(&mut self, ending: &Ending, latency: Duration) {
        match ending {
            Ending::Card => self.by_card += 1,
            Ending::Software => self.by_software += 1,
            Ending::Refused | Ending::Abandoned => {
                self.failed += 1;
                return;
            }
        }
        self.latency_ns.saturating_record(nanos(latency));
    }
}

/// No latency yet, and room for any.
pub(super) fn latencies() -> Histogram<u64> {
    /// Longer than any deadline.
    const LATENCY_NS_MAX: u64 = 600_000_000_000;
    Histogram::new_with_max(LATENCY_NS_MAX, 3).expect("three digits up to ten minutes are possible")
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

/// Keeps `depth` operations in flight for `length`, then waits for the rest.
pub(super) fn measure_accelerator(
    router: &mut Direct,
    operations: &mut dyn FnMut() -> Operation,
    depth: u16,
    length: Duration,
    clock: &dyn Clock,
) -> Window {
    let mut window = Window::new();
    let mut begun = Begun::default();
    let mut in_flight = 0_usize;
    let before = router.core().status(0).requests;
    let (start, cpu_start) = (clock.now(), process_cpu_time());
    let end = start.plus(length);
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
                    window.record(&done.ending, clock.now().since(submitted_at));
                    // That took its time; the accelerator may have room again.
                    break;
                }
            }
        }
        let done = |Done { id, ending, .. }| {
            window.record(&ending, clock.now().since(begun.of(id)));
        };
        // Something is in flight in both cases that wait; with nothing in flight nothing would come.
        in_flight -= if over || in_flight == usize::from(depth) {
            router.turn_or_wait(Instant::NEVER, done)
        } else {
            router.turn(done)
        };
    }
    window.cpu = process_cpu_time().saturating_sub(cpu_start);
    window.wall = clock.now().since(start);
    let after = router.core().status(0).requests;
    window.fallbacks = after.fallbacks - before.fallbacks;
    window.wrong_answers = after.wrong_answers - before.wrong_answers;
    window
}

/// Does operations one after the other for `length`.
pub(super) fn measure_software(
    operations: &mut dyn FnMut() -> Operation,
    length: Duration,
    clock: &dyn Clock,
) -> Window {
    let mut window = Window::new();
    let (start, cpu_start) = (clock.now(), process_cpu_time());
    let end = start.plus(length);
    let mut now = start;
    while now < end {
        let ending = match software::perform(&operations()) {
            Ok(_) => Ending::Software,
            Err(_) => Ending::Refused,
        };
        let done = clock.now();
        window.record(&ending, done.since(now));
        now = done;
    }
    window.cpu = process_cpu_time().saturating_sub(cpu_start);
    window.wall = now.since(start);
    window
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
        for length in (1..=40).map(|ticks| TICK * ticks) {
            let clock = Arc::new(Ticking::default());
            let options = Options {
                offload: Offload::EVERYTHING,
                ..Options::default()
            };
            let ring: Box<dyn Accelerator> = Box::new(Ring::default());
            let core = Core::new(vec![ring], options);
            let mut router = Direct::new(core, Arc::clone(&clock) as Arc<dyn Clock>);
            let window = measure_accelerator(&mut router, &mut operation, 2, length, &*clock);
            let requests = router.core().status(0).requests;
            assert_eq!(requests.in_flight, 0);
            assert_eq!(window.by_card + window.by_software, requests.submitted);
            assert_eq!(window.latency_ns.len(), requests.submitted);
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
        let window = measure_accelerator(&mut router, &mut operation, 2, TICK * 20, &*clock);
        let took = Duration::from_nanos(took.load(Ordering::Relaxed));
        assert!(window.by_card > 0 && took > Duration::ZERO);
        assert!(window.cpu >= took, "{:?} of {took:?}", window.cpu);
    }
}
