//! Driver, policy and a simulated card in one thread on a manual clock: what happens to requests
//! when the card works, stops working, lies, is pulled out and comes back.
//!
//! The card's engine here only hashes, and its behaviour is switched by the test.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

use card_device::engine::{Engine, Offer, Operation as CardOperation, Session, SessionSpec};
use card_device::{Card as Device, CardConfig};
use card_spec::crypto::{Status, hash};
use hwshim::accelerator::{Accelerator, Operation, Secret};
use hwshim::bus::Function;
use hwshim::bus::loopback::LoopbackFunction;
use hwshim::clock::{Clock, ManualClock};
use hwshim::key::HashAlgorithm;
use hwshim::router::breaker::{Limits, State};
use hwshim::router::core::{Core, Ending, LaneStatus, Offload, Options};
use hwshim::router::direct::{Direct, Done, Submitted};
use hwshim::virtio::{self, Card};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the engine does with a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
enum Behaviour {
    Honest,
    FlipsABit,
    Fails,
    AnswersTooLittle,
    LosesSessions,
    RefusesSessions,
    RefusesKeys,
}

#[derive(Debug)]
struct TestEngine(Arc<AtomicU8>);

struct TestSession(Arc<AtomicU8>);

fn is(switch: &AtomicU8, behaviour: Behaviour) -> bool {
    switch.load(Ordering::Relaxed) == behaviour as u8
}

impl Engine for TestEngine {
    fn offer(&self) -> Offer {
        Offer {
            hashes: 1 << hash::SHA_256,
            ..Offer::default()
        }
    }

    fn open(&self, _spec: &SessionSpec, _key: &[u8]) -> Result<Arc<dyn Session>, Status> {
        if is(&self.0, Behaviour::RefusesSessions) {
            return Err(Status::NOTSUPP);
        }
        if is(&self.0, Behaviour::RefusesKeys) {
            return Err(Status::ERR);
        }
        Ok(Arc::new(TestSession(Arc::clone(&self.0))))
    }
}

impl Session for TestSession {
    fn execute(&self, operation: &CardOperation<'_>, output: &mut [u8]) -> Result<usize, Status> {
        let CardOperation::Hash { source } = operation else {
            return Err(Status::NOTSUPP);
        };
        if is(&self.0, Behaviour::Fails) {
            return Err(Status::ERR);
        }
        if is(&self.0, Behaviour::LosesSessions) {
            return Err(Status::INVSESS);
        }
        let digest = HashAlgorithm::Sha256.digest(source);
        output[..32].copy_from_slice(digest.as_ref());
        if is(&self.0, Behaviour::FlipsABit) {
            output[17] ^= 4;
        }
        let short = is(&self.0, Behaviour::AnswersTooLittle);
        Ok(if short { 31 } else { 32 })
    }
}

const TIMEOUT: Duration = Duration::from_millis(200);
const BACKOFF: Duration = Duration::from_secs(5);

struct Setup {
    clock: Arc<ManualClock>,
    switch: Arc<AtomicU8>,
    function: Arc<LoopbackFunction>,
    router: Direct,
}

impl Setup {
    /// A router over a card that has been brought up and has passed its trial.
    fn new() -> Self {
        let setup = Self::not_yet_up(Behaviour::Honest);
        setup.ready()
    }

    fn not_yet_up(behaviour: Behaviour) -> Self {
        let switch = Arc::new(AtomicU8::new(behaviour as u8));
        let engine = Arc::new(TestEngine(Arc::clone(&switch)));
        let device = Device::new(&CardConfig::default(), engine).unwrap();
        let device = Arc::new(Mutex::new(device));
        let function = Arc::new(LoopbackFunction::new("loopback", device).unwrap());
        let reached = Arc::clone(&function);
        let connect = Box::new(move || Ok(Arc::clone(&reached) as Arc<dyn Function>));
        let options = virtio::Options {
            depth: 8,
            ..virtio::Options::default()
        };
        let card = Card::new("loopback", connect, options).unwrap();
        let clock = Arc::new(ManualClock::new());
        clock.advance(Duration::from_secs(1));
        let options = Options {
            timeout: TIMEOUT,
            limits: Limits {
                failures_max: 3,
                backoff: BACKOFF,
                backoff_max: BACKOFF * 4,
            },
            offload: Offload::EVERYTHING,
            ..Options::default()
        };
        let core = Core::new(vec![Box::new(card) as Box<dyn Accelerator>], options);
        let router = Direct::new(core, Arc::clone(&clock) as Arc<dyn Clock>);
        Self {
            clock,
            switch,
            function,
            router,
        }
    }

    fn ready(mut self) -> Self {
        // Reset, then the session and the test of the trial.
        for _ in 0..4 {
            self.step();
        }
        assert!(
            matches!(self.status().breaker, State::Closed { .. }),
            "{:?}",
            self.status()
        );
        self
    }

    fn behave(&self, behaviour: Behaviour) {
        self.switch.store(behaviour as u8, Ordering::Relaxed);
    }

    /// Lets the router announce what was submitted, the card work and the router look, without time
    /// passing.
    fn step(&mut self) -> Vec<Done> {
        let mut done = Vec::new();
        self.router.turn(|one| done.push(one));
        self.function.pump(self.clock.now());
        self.router.turn(|one| done.push(one));
        self.assert_sum();
        done
    }

    /// Lets the router look, while the card does nothing.
    fn stall(&mut self, time: Duration) -> Vec<Done> {
        self.clock.advance(time);
        let mut done = Vec::new();
        self.router.turn(|one| done.push(one));
        self.assert_sum();
        done
    }

    fn submit(&mut self, message: &[u8]) -> Submitted {
        let submitted = self.router.submit(digest(message));
        self.assert_sum();
        submitted
    }

    /// Submits, and lets card and router work until it is done.
    fn perform(&mut self, message: &[u8]) -> Done {
        if let Submitted::Done(done) = self.submit(message) {
            return done;
        }
        for _ in 0..4 {
            if let Some(done) = self.step().pop() {
                return done;
            }
        }
        panic!("not done after four rounds");
    }

    fn status(&self) -> LaneStatus {
        self.router.core().status(0)
    }

    fn assert_sum(&self) {
        let requests = self.status().requests;
        assert!(requests.add_up(), "{requests:?}");
    }

    fn assert_out_of_use(&self, code: &str) {
        let status = self.status();
        assert!(matches!(status.breaker, State::Open { .. }), "{status:?}");
        assert_eq!(status.breaker_opened_by, code);
    }
}

fn digest(message: &[u8]) -> Operation {
    Operation::Digest {
        hash: HashAlgorithm::Sha256,
        message: Secret::from(message),
    }
}

#[track_caller]
fn assert_answered(done: &Done, ending: &Ending, message: &[u8]) {
    let expected = HashAlgorithm::Sha256.digest(message);
    assert_eq!(done.output.as_deref(), Ok(expected.as_ref()));
    assert_eq!(done.ending, *ending);
}

#[test]
fn a_good_card_answers() {
    let mut setup = Setup::new();
    for number in 0..100_u8 {
        let done = setup.perform(&[number]);
        assert_answered(&done, &Ending::Card, &[number]);
    }
    assert_eq!(setup.status().requests.card, 100);
}

#[test]
fn software_answers_until_the_first_trial_is_passed() {
    let mut setup = Setup::not_yet_up(Behaviour::Honest);
    let done = setup.perform(b"early");
    assert_answered(&done, &Ending::Software, b"early");
    let mut setup = setup.ready();
    let done = setup.perform(b"later");
    assert_answered(&done, &Ending::Card, b"later");
}

#[test]
fn a_card_that_fails_its_trial_is_never_given_work() {
    let mut setup = Setup::not_yet_up(Behaviour::FlipsABit);
    for _ in 0..4 {
        setup.step();
    }
    setup.assert_out_of_use("wrong-answer");
    let done = setup.perform(b"work");
    assert_answered(&done, &Ending::Software, b"work");
    assert_eq!(setup.status().requests.fallbacks, 0);
}

#[test]
fn a_wrong_answer_is_not_released_and_opens_the_breaker_at_once() {
    let mut setup = Setup::new();
    setup.behave(Behaviour::FlipsABit);
    let done = setup.perform(b"message");
    assert_answered(&done, &Ending::Software, b"message");
    setup.assert_out_of_use("wrong-answer");
    let requests = setup.status().requests;
    assert_eq!((requests.wrong_answers, requests.fallbacks), (1, 1));
}

#[test]
fn an_operation_on_a_hung_card_is_answered_by_software_at_its_deadline() {
    let mut setup = Setup::new();
    assert!(matches!(setup.submit(b"hung"), Submitted::InFlight(_)));
    assert!(setup.stall(TIMEOUT - Duration::from_nanos(1)).is_empty());
    let done = setup.stall(Duration::from_nanos(1)).pop().unwrap();
    assert_answered(&done, &Ending::Software, b"hung");
    assert_eq!(setup.status().requests.timed_out, 1);
}

#[test]
fn three_timeouts_in_a_row_open_the_breaker_and_a_trial_closes_it() {
    let mut setup = Setup::new();
    for _ in 0..3 {
        setup.submit(b"hung");
        setup.stall(TIMEOUT);
    }
    setup.assert_out_of_use("timed-out");
    let done = setup.perform(b"meanwhile");
    assert_answered(&done, &Ending::Software, b"meanwhile");
    setup.stall(BACKOFF);
    let mut setup = setup.ready();
    let done = setup.perform(b"again");
    assert_answered(&done, &Ending::Card, b"again");
    assert_eq!(setup.status().resets, 2);
}

#[test]
fn late_answers_are_discarded_and_counted() {
    let mut setup = Setup::new();
    setup.submit(b"late");
    let done = setup.stall(TIMEOUT).pop().unwrap();
    assert_answered(&done, &Ending::Software, b"late");
    assert!(setup.step().is_empty());
    assert_eq!(setup.status().counters.stragglers, 1);
    let done = setup.perform(b"next");
    assert_answered(&done, &Ending::Card, b"next");
}

#[test]
fn error_statuses_fall_back_and_three_open_the_breaker() {
    let mut setup = Setup::new();
    setup.behave(Behaviour::Fails);
    for _ in 0..3 {
        let done = setup.perform(b"message");
        assert_answered(&done, &Ending::Software, b"message");
    }
    setup.assert_out_of_use("status-err");
    assert_eq!(setup.status().requests.failed, 3);
}

#[test]
fn a_result_of_the_wrong_length_is_a_broken_rule() {
    let mut setup = Setup::new();
    setup.behave(Behaviour::AnswersTooLittle);
    setup.submit(b"one");
    setup.submit(b"two");
    let mut done = setup.step();
    assert_answered(&done.pop().unwrap(), &Ending::Software, b"two");
    assert_answered(&done.pop().unwrap(), &Ending::Software, b"one");
    setup.assert_out_of_use("wrong-length");
    assert_eq!(setup.status().requests.misbehaved, 1);
}

#[test]
fn a_lost_session_is_opened_again() {
    let mut setup = Setup::new();
    setup.behave(Behaviour::LosesSessions);
    let done = setup.perform(b"lost");
    assert_answered(&done, &Ending::Software, b"lost");
    setup.behave(Behaviour::Honest);
    let done = setup.perform(b"found");
    assert_answered(&done, &Ending::Card, b"found");
}

#[test]
fn a_card_that_offers_only_in_its_masks_is_out_of_use_and_says_why() {
    let mut setup = Setup::not_yet_up(Behaviour::RefusesSessions);
    for _ in 0..4 {
        setup.step();
    }
    setup.assert_out_of_use("session-refused");
}

#[test]
fn surprise_removal_loses_nothing_and_the_card_is_used_again_when_it_is_back() {
    let mut setup = Setup::new();
    for _ in 0..5 {
        setup.submit(b"in flight");
    }
    setup.function.remove();
    // Noticed at the next look after the presence check is due, long before the deadline.
    let done = setup.stall(Duration::from_millis(10));
    assert_eq!(done.len(), 5);
    for one in &done {
        assert_answered(one, &Ending::Software, b"in flight");
    }
    setup.assert_out_of_use("gone");
    let done = setup.perform(b"after");
    assert_answered(&done, &Ending::Software, b"after");
    // It stays away: tried again after each backoff, which grows.
    setup.stall(BACKOFF);
    assert_eq!(setup.status().resets_failed, 1);
    setup.stall(BACKOFF);
    assert_eq!(setup.status().resets_failed, 1);
    setup.stall(BACKOFF);
    assert_eq!(setup.status().resets_failed, 2);
}

#[test]
fn an_error_on_the_bus_takes_the_card_out_until_it_has_been_opened_anew() {
    let mut setup = Setup::new();
    setup.submit(b"in flight");
    setup.function.report_error();
    let done = setup.stall(Duration::from_millis(10)).pop().unwrap();
    assert_answered(&done, &Ending::Software, b"in flight");
    setup.assert_out_of_use("bus-error");
    setup.stall(BACKOFF);
    let mut setup = setup.ready();
    assert_eq!(setup.status().resets_failed, 0);
    assert_answered(&setup.perform(b"again"), &Ending::Card, b"again");
}

#[test]
fn more_requests_than_the_queue_holds_spill_to_software() {
    let mut setup = Setup::new();
    let mut spilled = 0;
    for _ in 0..20 {
        if let Submitted::Done(done) = setup.submit(b"burst") {
            assert_answered(&done, &Ending::Software, b"burst");
            spilled += 1;
        }
    }
    let by_card = setup.step();
    assert_eq!((by_card.len(), spilled), (8, 12));
    for done in &by_card {
        assert_answered(done, &Ending::Card, b"burst");
    }
    // Full is not a failure.
    assert!(matches!(setup.status().breaker, State::Closed { .. }));
}

#[test]
fn a_silent_reboot_takes_the_card_out_until_it_has_been_reset() {
    let mut setup = Setup::new();
    setup.submit(b"in flight");
    let now = setup.clock.now();
    setup.router.report_silent_reboot(0, now);
    setup.assert_out_of_use("silent-reboot");
    let done = setup.stall(TIMEOUT).pop().unwrap();
    assert_answered(&done, &Ending::Software, b"in flight");
    setup.stall(BACKOFF);
    let mut setup = setup.ready();
    assert_answered(&setup.perform(b"again"), &Ending::Card, b"again");
}

#[test]
fn scheduled_tests_are_counted_apart_from_requests() {
    let mut setup = Setup::new();
    let before = setup.status().requests;
    let now = setup.clock.now();
    assert!(setup.router.begin_check(0, now));
    setup.step();
    let status = setup.status();
    assert_eq!((status.checks.started, status.checks.passed), (1, 1));
    assert_eq!(status.requests, before);

    setup.behave(Behaviour::FlipsABit);
    assert!(setup.router.begin_check(0, now));
    setup.step();
    let last = setup.status().checks.last.unwrap();
    assert_eq!(last.failure, Some("wrong-answer"));
    setup.assert_out_of_use("wrong-answer");
    assert!(!setup.router.begin_check(0, now));
}

#[test]
fn a_card_that_was_given_up_leaves_the_driver_at_rest() {
    for behaviour in [Behaviour::AnswersTooLittle, Behaviour::FlipsABit] {
        let mut setup = Setup::new();
        setup.behave(behaviour);
        // One answer is read and breaks the rule; the others stay in the ring unread.
        for _ in 0..5 {
            setup.submit(b"message");
        }
        setup.step();
        assert!(matches!(setup.status().breaker, State::Open { .. }));
        assert!(
            setup.router.arm(),
            "{behaviour:?}: would look again for ever"
        );
    }
    let mut setup = Setup::new();
    setup.submit(b"message");
    setup.function.remove();
    setup.stall(Duration::from_millis(10));
    assert!(setup.router.arm());
}

#[test]
fn a_card_that_keeps_a_request_long_past_its_deadline_is_given_up() {
    let mut setup = Setup::new();
    // The card never looks at it.
    setup.submit(b"lost");
    setup.stall(TIMEOUT);
    assert!(matches!(setup.status().breaker, State::Closed { .. }));
    setup.stall(Duration::from_secs(10));
    setup.assert_out_of_use("ring-stuck");
}

#[test]
fn a_trial_whose_session_is_never_opened_ends_by_its_deadline() {
    let mut setup = Setup::not_yet_up(Behaviour::Honest);
    // The trial's session is asked for, and the card does nothing from then on.
    setup.router.turn(|_| {});
    setup.stall(TIMEOUT);
    setup.assert_out_of_use("timed-out");
}

#[test]
fn a_card_that_refuses_the_trials_key_is_out_until_it_takes_it() {
    let mut setup = Setup::new();
    let now = setup.clock.now();
    setup.router.report_silent_reboot(0, now);
    setup.stall(BACKOFF);
    setup.behave(Behaviour::RefusesKeys);
    for _ in 0..4 {
        setup.step();
    }
    setup.assert_out_of_use("session-refused");
    setup.behave(Behaviour::Honest);
    setup.stall(BACKOFF * 2);
    let mut setup = setup.ready();
    assert_answered(&setup.perform(b"again"), &Ending::Card, b"again");
}

#[test]
fn nobody_holds_a_function_that_is_gone() {
    let device = || {
        let engine = Arc::new(TestEngine(Arc::new(AtomicU8::new(0))));
        Arc::new(Mutex::new(
            Device::new(&CardConfig::default(), engine).unwrap(),
        ))
    };
    let first = Arc::new(LoopbackFunction::inline("first", device()).unwrap());
    let (handle, pulled) = (Arc::downgrade(&first), Arc::downgrade(&first));
    let mut first = Some(first);
    let connect = Box::new(move || {
        if let Some(first) = first.take() {
            return Ok(first as Arc<dyn Function>);
        }
        // As a kernel does that lets a function be opened once.
        assert!(handle.upgrade().is_none(), "the function is still held");
        Ok(Arc::new(LoopbackFunction::inline("second", device()).unwrap()) as Arc<dyn Function>)
    });
    let mut card = Card::new("loopback", connect, virtio::Options::default()).unwrap();
    let health = card.health();
    card.reset(&mut Vec::new()).unwrap();
    health.read().unwrap();
    pulled.upgrade().unwrap().remove();
    card.poll(ManualClock::new().now(), &mut Vec::new());
    card.reset(&mut Vec::new()).unwrap();
    health.read().unwrap();
}

#[test]
fn a_callers_own_mistake_is_not_shown_to_a_card() {
    let mut setup = Setup::new();
    let key = Arc::new(hwshim::key::CipherKey::new(&[1; 16]).unwrap());
    let partial = Operation::Cbc {
        key,
        direction: hwshim::accelerator::Direction::Encrypt,
        iv: [0; 16],
        data: Secret::from(&[0; 17][..]),
    };
    let Submitted::Done(done) = setup.router.submit(partial) else {
        panic!("it went to the card");
    };
    assert_eq!(done.ending, Ending::Refused);
    done.output.unwrap_err();
    let requests = setup.status().requests;
    assert_eq!((requests.refused, requests.failed), (1, 0));
    setup.assert_sum();
}

#[test]
fn a_trial_of_before_does_not_decide_the_next() {
    let mut setup = Setup::not_yet_up(Behaviour::Honest);
    // Reset, and the first trial's request is under way.
    setup.router.turn(|_| {});
    let now = setup.clock.now();
    setup.router.report_silent_reboot(0, now);
    setup.assert_out_of_use("silent-reboot");
    // The reset that is due next hands the first trial's request back.
    setup.stall(BACKOFF);
    let setup = setup.ready();
    assert_eq!(setup.status().breaker_opened, 1);
}
