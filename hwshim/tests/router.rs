//! The router with its thread or task, over accelerators that hold still where a test wants them to.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod until;

use hwshim::accelerator::software::{self, OperationError, Ring};
use hwshim::accelerator::{
    Accelerator, Algorithm, Completion, Counters, DeviceError, Operation, Rejected, Request,
    Secret, State as AcceleratorState, Unverified,
};
use hwshim::clock::{Clock, Instant, ManualClock};
use hwshim::kat;
use hwshim::key::{Curve, HashAlgorithm, SignatureAlgorithm, SignatureScheme, SigningKey};
use hwshim::router::admission;
use hwshim::router::breaker::{Limits, State};
use hwshim::router::choice::{Caller, Choice, Reason};
use hwshim::router::core::{Core, Ending, LaneStatus, Offload, Options};
use hwshim::router::direct::{Direct, Submitted};
use hwshim::router::{Router, hedge, verify};
use hwshim::spec::crypto::Status;
use std::os::fd::BorrowedFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use until::wait_until;

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

/// What is refused, and how.
type Refusal = fn(&Operation) -> Option<DeviceError>;

/// Software that refuses what a test wants it to.
#[derive(Debug)]
struct Refusing {
    ring: Ring,
    refusal: Arc<Mutex<Refusal>>,
    refused: Vec<Completion>,
}

impl Accelerator for Refusing {
    fn name(&self) -> &'static str {
        "refusing"
    }

    fn offers(&self, algorithm: Algorithm) -> bool {
        self.ring.offers(algorithm)
    }

    fn submit(&mut self, request: Request, now: Instant) -> Result<(), Rejected> {
        let refusal = *self.refusal.lock().unwrap();
        let Some(error) = refusal(&request.operation) else {
            return self.ring.submit(request, now);
        };
        self.refused.push(Completion {
            request,
            output: Err(error),
        });
        Ok(())
    }

    fn flush(&mut self) {}

    fn poll(&mut self, now: Instant, completions: &mut Vec<Completion>) {
        completions.append(&mut self.refused);
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
        completions.append(&mut self.refused);
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
fn a_reset_under_way_holds_up_no_runtime_and_lets_go_of_its_accelerator_when_it_ends() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (open_gate, gate) = channel();
    let (submitted, is_submitted) = channel();
    let held = Held {
        ring: Ring::default(),
        reset_gate: Some(gate),
        answers_left: usize::MAX,
        submitted,
    };
    let router = runtime.block_on(async {
        let router = Router::start_on_tokio(vec![Box::new(held)], options()).unwrap();
        while router.status()[0].state.is_some() {
            tokio::task::yield_now().await;
        }
        router
    });
    drop(router);
    drop(runtime);
    assert_eq!(
        is_submitted.try_recv(),
        Err(TryRecvError::Empty),
        "it is held"
    );
    drop::<Sender<()>>(open_gate);
    // It may have been given its trial before.
    let end = std::iter::repeat_with(|| is_submitted.recv_timeout(PATIENT)).find_map(Result::err);
    assert_eq!(end, Some(RecvTimeoutError::Disconnected));
}

/// A router on a runtime with one thread, over an accelerator in use that answers so often, its trial
/// included; and word of each request that it is given.
fn on_one_thread(answers: usize) -> (tokio::runtime::Runtime, Router, Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (submitted, is_submitted) = channel();
    let held = Held {
        ring: Ring::default(),
        reset_gate: None,
        answers_left: answers,
        submitted,
    };
    let router = runtime.block_on(async {
        let router = Router::start_on_tokio(vec![Box::new(held)], options()).unwrap();
        while !matches!(router.status()[0].breaker, State::Closed { .. }) {
            tokio::task::yield_now().await;
        }
        router
    });
    (runtime, router, is_submitted)
}

#[test]
fn what_is_in_flight_when_the_driver_ends_is_done_in_software() {
    // The trial's, and nothing else.
    let (runtime, router, is_submitted) = on_one_thread(1);
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

#[test]
fn who_has_signed_looks_for_answers_that_the_driver_on_its_thread_could_not() {
    let (runtime, router, is_submitted) = on_one_thread(usize::MAX);
    runtime.block_on(async {
        let mut answer = std::pin::pin!(router.perform_async(digest()));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(answer.as_mut().poll(&mut context).is_pending());
        // From here on the driver's task has no turn.
        assert_eq!(is_submitted.iter().take(2).count(), 2, "trial and request");
        assert!(answer.as_mut().poll(&mut context).is_pending());
        router
            .sign_beside(PKCS1, &kat::rsa_2048_key(), || Ok::<_, ()>(()))
            .unwrap();
        let answered = answer.as_mut().poll(&mut context);
        assert!(answered.is_ready(), "{answered:?}");
    });
}

const PKCS1: SignatureScheme = SignatureScheme::RsaPkcs1Sha256;
const PSS: SignatureScheme = SignatureScheme::RsaPssSha256;

fn scheme_of(operation: &Operation) -> Option<SignatureScheme> {
    match operation {
        Operation::Sign { scheme, .. } => Some(*scheme),
        _ => None,
    }
}

fn nothing(_: &Operation) -> Option<DeviceError> {
    None
}

/// As QEMU's device does without a library that pads.
fn pss(operation: &Operation) -> Option<DeviceError> {
    let is_pss = scheme_of(operation)?.algorithm() == SignatureAlgorithm::RsaPss;
    is_pss.then_some(DeviceError::Failed(Status::ERR))
}

fn every_request(_: &Operation) -> Option<DeviceError> {
    Some(DeviceError::Failed(Status::ERR))
}

fn every_session(_: &Operation) -> Option<DeviceError> {
    Some(DeviceError::SessionRefused(Status::ERR))
}

fn long_keys(operation: &Operation) -> Option<DeviceError> {
    match operation {
        Operation::Sign { key, .. } if key.modulus_len() > Some(256) => {
            Some(DeviceError::SessionRefused(Status::ERR))
        }
        _ => None,
    }
}

fn requests_with_long_keys(operation: &Operation) -> Option<DeviceError> {
    long_keys(operation).and(Some(DeviceError::Failed(Status::ERR)))
}

/// A router over such an accelerator. Nobody owns it: no test is scheduled unless one is asked for.
struct Refused {
    router: Direct,
    clock: Arc<ManualClock>,
    refusal: Arc<Mutex<Refusal>>,
}

impl Refused {
    /// One that has passed its trial.
    fn new(refusal: Refusal) -> Self {
        let refusal = Arc::new(Mutex::new(refusal));
        let accelerator = Refusing {
            ring: Ring::default(),
            refusal: Arc::clone(&refusal),
            refused: Vec::new(),
        };
        let core = Core::new(
            vec![Box::new(accelerator) as Box<dyn Accelerator>],
            options(),
        );
        let clock = Arc::new(ManualClock::new());
        let router = Direct::new(core, Arc::clone(&clock) as Arc<dyn Clock>);
        let mut setup = Self {
            router,
            clock,
            refusal,
        };
        setup.settle();
        setup
    }

    fn refuse(&self, refusal: Refusal) {
        *self.refusal.lock().unwrap() = refusal;
    }

    /// Lets everything end that is under way.
    fn settle(&mut self) {
        for _ in 0..8 {
            self.router.turn(|_| {});
        }
    }

    /// Runs scheduled tests until each has had its turn.
    fn check_everything(&mut self) -> LaneStatus {
        for _ in kat::ALL.iter() {
            self.router.begin_check(0, Instant::ORIGIN);
            self.settle();
        }
        self.status()
    }

    /// Signs, and lets whatever follows from it end.
    fn sign(&mut self, key: &Arc<SigningKey>, scheme: SignatureScheme) -> Ending {
        let submitted = self.router.submit(sign(key, scheme));
        let mut ending = None;
        for _ in 0..8 {
            self.router.turn(|done| ending = Some(done));
        }
        let done = match submitted {
            Submitted::Done(done) => done,
            Submitted::InFlight(_) => ending.expect("it is answered within a few turns"),
        };
        verify_signature(key, scheme, &done.output.unwrap());
        done.ending
    }

    fn offers(&self, scheme: SignatureScheme) -> bool {
        self.router.core().offers(0, Algorithm::Sign(scheme))
    }

    fn status(&self) -> LaneStatus {
        let status = self.router.core().status(0);
        assert!(status.requests.add_up(), "{:?}", status.requests);
        status
    }

    fn assert_in_use(&self) {
        let status = self.status();
        let is_closed = matches!(status.breaker, State::Closed { .. });
        assert!(is_closed && status.breaker_opened == 0, "{status:?}");
        assert_eq!(status.checks.failed, 0, "{:?}", status.checks);
    }
}

fn sign(key: &Arc<SigningKey>, scheme: SignatureScheme) -> Operation {
    Operation::Sign {
        key: Arc::clone(key),
        scheme,
        message: Secret::from(&b"message"[..]),
    }
}

fn verify_signature(key: &Arc<SigningKey>, scheme: SignatureScheme, signature: &[u8]) {
    let answer = Unverified::new(signature.to_vec());
    verify::check(&sign(key, scheme), answer).unwrap();
}

/// A key of 4096 bits that is none of the others, to a card.
fn long_key() -> Arc<SigningKey> {
    let der = include_bytes!("../src/kat/rsa-4096.pkcs1.der");
    Arc::new(SigningKey::from_pkcs1(der).unwrap())
}

#[test]
fn a_padding_that_a_card_never_had_is_not_offered_and_is_no_failure() {
    let mut card = Refused::new(pss);
    assert!(card.offers(PSS), "masks know RSA as a whole");
    let checks = card.check_everything().checks;
    assert!(!card.offers(PSS) && card.offers(PKCS1));
    assert_eq!((checks.failed, checks.passed), (0, checks.started));
    card.assert_in_use();
}

#[test]
fn a_padding_that_worked_and_works_no_more_is_a_failure() {
    let mut card = Refused::new(nothing);
    assert_eq!(card.check_everything().checks.failed, 0);
    card.refuse(pss);
    let status = card.check_everything();
    assert!(status.checks.failed > 0, "{:?}", status.checks);
    assert!(card.offers(PSS));
}

#[test]
fn callers_who_want_a_padding_that_a_card_lacks_do_not_take_it_out_of_use() {
    let mut card = Refused::new(pss);
    let key = kat::rsa_2048_key();
    for _ in 0..10 {
        card.router.submit(sign(&key, PSS));
    }
    card.settle();
    for _ in 0..10 {
        assert_eq!(card.sign(&key, PSS), Ending::Software);
        assert_eq!(card.sign(&key, PKCS1), Ending::Card);
    }
    card.assert_in_use();
    let status = card.status();
    assert_eq!(status.lacking, [Algorithm::Sign(PSS)]);
    assert_eq!(status.requests.failed, 10, "only what was on its way");
    assert_eq!(status.checks.started, 1, "one known answer is for all");
}

#[test]
fn while_it_is_found_out_whether_a_card_lacks_a_padding_software_signs() {
    let mut card = Refused::new(pss);
    let key = kat::rsa_2048_key();
    let Submitted::InFlight(_) = card.router.submit(sign(&key, PSS)) else {
        panic!("not given to the card");
    };
    card.router.turn(|_| {});
    let another = card.router.submit(sign(&key, PSS));
    assert!(matches!(another, Submitted::Done(_)), "{another:?}");
    assert!(card.offers(PSS), "it is not known yet");
    card.settle();
    assert!(!card.offers(PSS));
}

#[test]
fn keys_that_a_card_refuses_do_not_take_it_out_of_use_and_are_asked_for_once() {
    for (scheme, refusal) in [
        (PKCS1, long_keys as Refusal),
        (PSS, long_keys),
        (PSS, requests_with_long_keys),
    ] {
        let mut card = Refused::new(refusal);
        // A request that fails where others succeed is a failure, so of these there is one.
        let keys: Vec<_> = match refusal(&sign(&long_key(), scheme)) {
            Some(DeviceError::SessionRefused(_)) => (0..5).map(|_| long_key()).collect(),
            _ => vec![long_key()],
        };
        for _ in 0..3 {
            for key in &keys {
                assert_eq!(card.sign(key, scheme), Ending::Software);
            }
        }
        assert_eq!(card.sign(&kat::rsa_2048_key(), scheme), Ending::Card);
        card.assert_in_use();
        let status = card.status();
        assert_eq!(status.requests.failed, keys.len() as u64);
        assert_eq!(status.keys_refused, keys.len());
        assert!(status.lacking.is_empty(), "{:?}", status.lacking);
    }
}

#[test]
fn a_card_that_has_come_to_refuse_everything_is_taken_out_of_use() {
    for (refusal, code) in [
        (every_request as Refusal, "status-err"),
        (every_session, "session-refused"),
    ] {
        for scheme in [PKCS1, PSS] {
            let mut card = Refused::new(nothing);
            card.refuse(refusal);
            for _ in 0..3 {
                assert_eq!(card.sign(&kat::rsa_2048_key(), scheme), Ending::Software);
            }
            let status = card.status();
            assert!(matches!(status.breaker, State::Open { .. }), "{status:?}");
            assert_eq!(status.breaker_opened_by, code);
            assert_eq!((status.lacking.len(), status.keys_refused), (0, 0));
        }
    }
}

#[test]
fn what_a_card_lacked_is_asked_anew_after_a_reset() {
    let mut card = Refused::new(pss);
    let (short, long) = (kat::rsa_2048_key(), long_key());
    card.sign(&short, PSS);
    card.refuse(long_keys);
    card.sign(&long, PKCS1);
    let status = card.status();
    assert_eq!((status.lacking.len(), status.keys_refused), (1, 1));

    card.refuse(nothing);
    assert_eq!(card.sign(&short, PSS), Ending::Software);
    card.router.report_silent_reboot(0, card.clock.now());
    card.clock.advance(options().limits.backoff);
    card.settle();
    let status = card.status();
    assert_eq!((status.lacking.len(), status.keys_refused), (0, 0));
    assert_eq!(card.sign(&short, PSS), Ending::Card);
    assert_eq!(card.sign(&long, PKCS1), Ending::Card);
}

/// Waits until the first accelerator is in use.
fn wait_for_trial(router: &Router) {
    wait_until("the trial is passed", || {
        matches!(router.status()[0].breaker, State::Closed { .. })
    });
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

/// Software that answers so many requests, its trial's among them, and then none.
fn hanging_after(answers: usize) -> Box<dyn Accelerator> {
    Box::new(Held {
        ring: Ring::default(),
        reset_gate: None,
        answers_left: answers,
        submitted: channel().0,
    })
}

#[test]
fn a_signature_that_is_late_comes_from_software_long_before_its_deadline() {
    const ANSWERED: u64 = 150;
    let options = Options {
        timeout: PATIENT,
        // On a busy machine one or the other of the first is late as well.
        hedge: hedge::Limits {
            per_thousand: 1_000,
            ..hedge::Limits::DEFAULT
        },
        cores: 1,
        ..Options::default()
    };
    let accelerator = hanging_after(1 + usize::try_from(ANSWERED).unwrap());
    let router = Router::start(vec![accelerator], options).unwrap();
    wait_for_trial(&router);
    // With so many to come the accelerator gets them all.
    let _announced: Vec<_> = (0..100_000).map(|_| router.announce()).collect();
    let key = kat::rsa_2048_key();
    let clock = hwshim::clock::SystemClock;
    runtime().block_on(async {
        let answered = || {
            let requests = router.requests();
            requests.card + requests.stragglers
        };
        while answered() < ANSWERED {
            router.sign_async(&key, PSS, b"message").await.unwrap();
        }
        let begun = clock.now();
        let signature = router.sign_async(&key, PSS, b"message").await.unwrap();
        verify_signature(&key, PSS, &signature);
        assert!(clock.now().since(begun) < PATIENT / 2);
    });
    let requests = router.requests();
    assert!(requests.hedged >= 1, "{requests:?}");
    assert!(requests.add_up(), "{requests:?}");
    assert_eq!((requests.in_flight, requests.timed_out), (0, 0));
}

#[test]
fn what_would_be_offloaded_can_be_asked_beforehand() {
    let options = Options {
        timeout: PATIENT,
        limits: Limits {
            backoff: PATIENT,
            ..Limits::default()
        },
        cores: 1,
        ..Options::default()
    };
    let (rsa, p256) = (kat::rsa_2048_key(), kat::p256_key());
    let nothing_there = Router::software().would_offload(PSS, &rsa, Caller::Task);
    assert_eq!(nothing_there, Choice::Software(Reason::NoAccelerator));

    let router = Router::start(vec![Box::<Ring>::default()], options).unwrap();
    wait_for_trial(&router);
    let would = |caller| router.would_offload(PSS, &rsa, caller);
    {
        let _announced: Vec<_> = (0..100_000).map(|_| router.announce()).collect();
        assert_eq!(would(Caller::Task), Choice::Accelerator);
        let software = router.would_offload(SignatureScheme::EcdsaP256Sha256, &p256, Caller::Task);
        assert_eq!(software, Choice::Software(Reason::NotOffloaded));
    }
    router.report_silent_reboot(0);
    wait_until("the accelerator is out", || {
        would(Caller::Task) == Choice::Software(Reason::NoAccelerator)
    });
}

#[test]
fn a_router_that_is_overloaded_refuses_at_once_and_does_what_it_has_accepted() {
    let options = Options {
        timeout: PATIENT,
        limits: Limits {
            backoff: Duration::from_millis(1),
            ..Limits::default()
        },
        admission: admission::Limits {
            software_wait_max: Duration::from_nanos(1),
            ..admission::Limits::DEFAULT
        },
        cores: 1,
        ..Options::default()
    };
    let router = Router::start(vec![hanging_after(1)], options).unwrap();
    wait_for_trial(&router);
    let key = kat::rsa_2048_key();
    runtime().block_on(async {
        let announced: Vec<_> = (0..100_000).map(|_| router.announce()).collect();
        let mut accepted = Box::pin(router.sign_async(&key, PSS, b"message"));
        let pending = tokio::time::timeout(Duration::ZERO, &mut accepted).await;
        pending.expect_err("the accelerator answers nothing but its trial");
        drop(announced);
        // The reset hands it back, and it waits for software from then on.
        router.report_silent_reboot(0);
        while router.status()[0].resets < 2 {
            tokio::task::yield_now().await;
        }
        let refused = router.sign_async(&key, PSS, b"message").await;
        assert_eq!(refused, Err(OperationError::Overloaded));
        let blocking = router.sign(&key, PSS, b"message");
        assert_eq!(blocking, Err(OperationError::Overloaded));
        verify_signature(&key, PSS, &accepted.await.unwrap());
        router.sign_async(&key, PSS, b"message").await.unwrap();
    });
    let requests = router.requests();
    assert!(requests.add_up(), "{requests:?}");
    assert_eq!((requests.overloaded, requests.refused), (2, 2));
    assert_eq!((requests.software, requests.in_flight), (2, 0));
}

/// An accelerator that has the private halves of keys that software has not.
#[derive(Debug)]
struct Vault {
    held: Held,
    keys: Vec<Arc<SigningKey>>,
}

impl Vault {
    /// What it does with a key of its own.
    fn unlocked(&self, operation: Operation) -> Operation {
        match operation {
            Operation::Sign {
                key,
                scheme,
                message,
            } if key.is_elsewhere() => {
                let own = |own: &&Arc<SigningKey>| own.public_key() == key.public_key();
                Operation::Sign {
                    key: Arc::clone(self.keys.iter().find(own).unwrap()),
                    scheme,
                    message,
                }
            }
            other => other,
        }
    }
}

impl Accelerator for Vault {
    fn name(&self) -> &'static str {
        "vault"
    }

    fn offers(&self, algorithm: Algorithm) -> bool {
        self.held.offers(algorithm)
    }

    fn submit(&mut self, request: Request, now: Instant) -> Result<(), Rejected> {
        self.held.submit(request, now)
    }

    fn flush(&mut self) {}

    fn poll(&mut self, _now: Instant, completions: &mut Vec<Completion>) {
        let mut taken = Vec::new();
        self.held.hand_back(&mut taken);
        for Completion { request, .. } in taken {
            let asked = copy(&request.operation);
            let output = software::perform(&self.unlocked(asked)).unwrap();
            completions.push(Completion {
                request,
                output: Ok(Unverified::new(output)),
            });
        }
    }

    fn next_deadline(&self) -> Instant {
        Instant::NEVER
    }

    fn in_flight(&self) -> usize {
        self.held.in_flight()
    }

    fn reset(&mut self, completions: &mut Vec<Completion>) -> Result<(), DeviceError> {
        self.held.reset(completions)
    }

    fn hand_back(&mut self, completions: &mut Vec<Completion>) {
        self.held.hand_back(completions);
    }

    fn take_fault(&mut self) -> Option<DeviceError> {
        None
    }

    fn arm(&mut self) -> bool {
        self.in_flight() == 0
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

fn copy(operation: &Operation) -> Operation {
    match operation {
        Operation::Sign {
            key,
            scheme,
            message,
        } => Operation::Sign {
            key: Arc::clone(key),
            scheme: *scheme,
            message: message.clone(),
        },
        other => panic!("nobody asks a vault for {other:?}"),
    }
}

#[test]
fn a_key_that_only_an_accelerator_has_is_never_tried_in_software() {
    let options = Options {
        timeout: PATIENT,
        limits: Limits {
            backoff: PATIENT,
            ..Limits::default()
        },
        ..Options::default()
    };
    let (rsa, p256) = (kat::rsa_2048_key(), kat::p256_key());
    let vault = Vault {
        held: Held {
            ring: Ring::default(),
            reset_gate: None,
            answers_left: 0,
            submitted: channel().0,
        },
        keys: vec![Arc::clone(&rsa), Arc::clone(&p256)],
    };
    let router = Router::start(vec![Box::new(vault)], options).unwrap();
    wait_for_trial(&router);
    let elsewhere = [
        (PSS, SigningKey::elsewhere_rsa(rsa.public_key()).unwrap()),
        (
            SignatureScheme::EcdsaP256Sha256,
            SigningKey::elsewhere_ecdsa(Curve::P256, p256.public_key()).unwrap(),
        ),
    ];
    let elsewhere = elsewhere.map(|(scheme, key)| (scheme, Arc::new(key)));
    for (scheme, key) in &elsewhere {
        let choice = router.would_offload(*scheme, key, Caller::Thread);
        assert_eq!(choice, Choice::Accelerator);
        // Alone and on a thread that waits: any other key would be used here.
        let signature = router.sign(key, *scheme, b"message").unwrap();
        verify_signature(key, *scheme, &signature);
    }
    let requests = router.requests();
    assert_eq!((requests.card, requests.software), (2, 0));

    router.report_silent_reboot(0);
    for (scheme, key) in &elsewhere {
        let refused = router.sign(key, *scheme, b"message");
        assert_eq!(refused, Err(OperationError::KeyElsewhere));
        let refused = runtime().block_on(router.sign_async(key, *scheme, b"message"));
        assert_eq!(refused, Err(OperationError::KeyElsewhere));
    }
    let requests = router.requests();
    assert!(requests.add_up(), "{requests:?}");
    assert_eq!((requests.card, requests.refused), (2, 4));
}
