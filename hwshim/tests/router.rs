//! The router with its thread or task, over accelerators that hold still where a test wants them to.

use hwshim::accelerator::software::Ring;
use hwshim::accelerator::{
    Accelerator, Algorithm, Completion, Counters, DeviceError, Operation, Rejected, Request,
    Secret, State as AcceleratorState,
};
use hwshim::clock::{Clock, Instant, ManualClock};
use hwshim::kat;
use hwshim::key::{HashAlgorithm, SignatureScheme};
use hwshim::router::Router;
use hwshim::router::breaker::State;
use hwshim::router::core::{Core, LaneStatus, Offload, Options};
use hwshim::router::direct::Direct;
use hwshim::spec::crypto::Status;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Far longer than anything takes; only a mistake meets it.
const PATIENT: Duration = Duration::from_secs(60);

/// Software that takes its time: to be reset, or to answer anything after its trial.
#[derive(Debug)]
struct Held {
    ring: Ring,
    reset_gate: Option<Receiver<()>>,
    /// Requests still answered; the others stay in flight.
    answers_left: usize,
    submitted: Sender<()>,
}

impl Accelerator for Held {
    fn name(&self) -> &'static str {
        "held"
    }

    fn offers(&self, algorithm: Algorithm) -> bool {
        self.ring.offers(algorithm)
    }

    fn submit(&mut self, request: Request, now: Instant) -> Result<(), Rejected> {
        let _ = self.submitted.send(());
        self.ring.submit(request, now)
    }

    fn flush(&mut self) {}

    fn poll(&mut self, now: Instant, completions: &mut Vec<Completion>) {
        if self.answers_left > 0 {
            self.ring.poll(now, completions);
            self.answers_left = self.answers_left.saturating_sub(completions.len());
        }
    }

    fn next_deadline(&self) -> Instant {
        Instant::NEVER
    }

    fn in_flight(&self) -> usize {
        self.ring.in_flight()
    }

    fn reset(&mut self, completions: &mut Vec<Completion>) -> Result<(), DeviceError> {
        if let Some(gate) = &self.reset_gate {
            // Ends when the test lets it, or has ended itself.
            let _ = gate.recv();
        }
        self.ring.reset(completions)
    }

    fn hand_back(&mut self, completions: &mut Vec<Completion>) {
        self.ring.hand_back(completions);
    }

    fn take_fault(&mut self) -> Option<DeviceError> {
        None
    }

    fn arm(&mut self) -> bool {
        self.answers_left == 0 || self.ring.arm()
    }

    fn events(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    fn state(&self) -> AcceleratorState {
        AcceleratorState::Ready
    }

    fn counters(&self) -> Counters {
        Counters::default()
    }
}

/// Software that answers PSS with an error status while it is told to.
#[derive(Debug)]
struct WithoutPss {
    ring: Ring,
    refuses: Arc<AtomicBool>,
    refused: Vec<Request>,
}

impl Accelerator for WithoutPss {
    fn name(&self) -> &'static str {
        "without-pss"
    }

    fn offers(&self, algorithm: Algorithm) -> bool {
        self.ring.offers(algorithm)
    }

    fn submit(&mut self, request: Request, now: Instant) -> Result<(), Rejected> {
        let is_pss = request.operation.algorithm().name().contains("pss");
        if is_pss && self.refuses.load(Ordering::Relaxed) {
            self.refused.push(request);
            return Ok(());
        }
        self.ring.submit(request, now)
    }

    fn flush(&mut self) {}

    fn poll(&mut self, now: Instant, completions: &mut Vec<Completion>) {
        completions.extend(self.refused.drain(..).map(|request| Completion {
            request,
            output: Err(DeviceError::Failed(Status::ERR)),
        }));
        self.ring.poll(now, completions);
    }

    fn next_deadline(&self) -> Instant {
        Instant::NEVER
    }

    fn in_flight(&self) -> usize {
        self.ring.in_flight() + self.refused.len()
    }

    fn reset(&mut self, completions: &mut Vec<Completion>) -> Result<(), DeviceError> {
        self.ring.reset(completions)
    }

    fn hand_back(&mut self, completions: &mut Vec<Completion>) {
        self.ring.hand_back(completions);
    }

    fn take_fault(&mut self) -> Option<DeviceError> {
        None
    }

    fn arm(&mut self) -> bool {
        true
    }

    fn events(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    fn state(&self) -> AcceleratorState {
        AcceleratorState::Ready
    }

    fn counters(&self) -> Counters {
        Counters::default()
    }
}

fn options() -> Options {
    Options {
        timeout: PATIENT,
        offload: Offload::EVERYTHING,
        ..Options::default()
    }
}

fn digest() -> Operation {
    Operation::Digest {
        hash: HashAlgorithm::Sha256,
        message: Secret::from(&b"message"[..]),
    }
}

#[test]
fn a_reset_of_one_accelerator_does_not_hold_up_another() {
    let (open_gate, gate) = channel();
    let held = Held {
        ring: Ring::default(),
        reset_gate: Some(gate),
        answers_left: usize::MAX,
        submitted: channel().0,
    };
    let router = Router::start(vec![Box::<Ring>::default(), Box::new(held)], options()).unwrap();
    let (done, is_done) = channel();
    let user = router.clone();
    std::thread::spawn(move || {
        while user.status()[0].requests.card == 0 {
            user.perform(digest()).unwrap();
        }
        done.send(()).unwrap();
    });
    is_done
        .recv_timeout(PATIENT)
        .expect("the first accelerator answers while the second is being reset");
    assert_eq!(router.status()[1].state, None);
    drop(open_gate);
}

#[test]
fn what_is_in_flight_when_the_driver_ends_is_done_in_software() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (submitted, is_submitted) = channel();
    let held = Held {
        ring: Ring::default(),
        reset_gate: None,
        // The trial's, and nothing else.
        answers_left: 1,
        submitted,
    };
    let router = runtime.block_on(async {
        let router = Router::start_on_tokio(vec![Box::new(held)], options()).unwrap();
        while !matches!(router.status()[0].breaker, State::Closed { .. }) {
            tokio::task::yield_now().await;
        }
        router
    });
    is_submitted.recv_timeout(PATIENT).expect("the trial");
    let user = router.clone();
    let caller = std::thread::spawn(move || user.perform(digest()));
    is_submitted.recv_timeout(PATIENT).expect("the request");
    // The driver's task ends with its runtime.
    drop(runtime);
    let output = caller.join().unwrap().unwrap();
    assert_eq!(output, HashAlgorithm::Sha256.digest(b"message").as_ref());
    let requests = router.requests();
    assert!(requests.add_up(), "{requests:?}");
    assert_eq!((requests.software, requests.in_flight), (1, 0));
}

/// A router over such an accelerator, and the switch.
fn without_pss(refuses: bool) -> (Direct, Arc<AtomicBool>) {
    let switch = Arc::new(AtomicBool::new(refuses));
    let accelerator = WithoutPss {
        ring: Ring::default(),
        refuses: Arc::clone(&switch),
        refused: Vec::new(),
    };
    let core = Core::new(
        vec![Box::new(accelerator) as Box<dyn Accelerator>],
        options(),
    );
    let clock = Arc::new(ManualClock::new());
    let mut router = Direct::new(core, clock as Arc<dyn Clock>);
    // Reset and trial.
    for _ in 0..4 {
        router.turn(|_| {});
    }
    (router, switch)
}

/// Runs scheduled tests until each has had its turn.
fn check_everything(router: &mut Direct) -> LaneStatus {
    for _ in kat::ALL.iter() {
        router.begin_check(0, Instant::ORIGIN);
        for _ in 0..8 {
            router.turn(|_| {});
        }
    }
    router.core().status(0)
}

fn offers_pss(router: &Direct) -> bool {
    let pss = Algorithm::Sign(SignatureScheme::RsaPssSha256);
    router.core().offers(0, pss)
}

#[test]
fn a_padding_that_a_card_never_had_is_not_offered_and_is_no_failure() {
    let (mut router, _switch) = without_pss(true);
    assert!(offers_pss(&router), "masks know RSA as a whole");
    let status = check_everything(&mut router);
    assert!(!offers_pss(&router));
    let pkcs1 = Algorithm::Sign(SignatureScheme::RsaPkcs1Sha256);
    assert!(router.core().offers(0, pkcs1));
    let checks = status.checks;
    assert_eq!((checks.failed, checks.passed), (0, checks.started));
    assert_eq!(status.breaker_opened, 0);
}

#[test]
fn a_padding_that_worked_and_works_no_more_is_a_failure() {
    let (mut router, switch) = without_pss(false);
    assert_eq!(check_everything(&mut router).checks.failed, 0);
    switch.store(true, Ordering::Relaxed);
    let status = check_everything(&mut router);
    assert!(status.checks.failed > 0, "{:?}", status.checks);
    assert!(offers_pss(&router));
}
