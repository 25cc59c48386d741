//! Models of the router's policy: callers, a driver, a card and resets, each taking the lock as they
//! do in [`super`], in any order.

use super::admission;
use super::breaker::{Breaker, Limits, Outcome, Permit, State};
use super::core::{Arrival, Core, Ending, Offload, Options, Placed};
use super::hedge;
use crate::accelerator::software::perform;
use crate::accelerator::{
    Accelerator, Algorithm, Completion, Counters, DeviceError, Operation, Rejected, Request,
    RequestId, Secret, State as AcceleratorState, Unverified,
};
use crate::clock::Instant;
use crate::key::HashAlgorithm;
use crate::model;
use rustix::event::{EventfdFlags, eventfd};
use shuttle::future::block_on;
use shuttle::thread;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::oneshot::{self, Receiver, Sender};

pub(super) const TICK: Duration = Duration::from_secs(1);

/// What callers ask for; each request says something else.
pub(super) fn digest(message: u8) -> Operation {
    Operation::Digest {
        hash: HashAlgorithm::Sha256,
        message: Secret::from(&[message; 4][..]),
    }
}

fn message(operation: &Operation) -> u8 {
    match operation {
        Operation::Digest { message, .. } => message[0],
        other => panic!("nobody asked for {other:?}"),
    }
}

/// A card as the router sees it, with the device at its other end played by the model. Neither end
/// ever waits for the other, so its own lock is no scheduling point.
#[derive(Debug)]
pub(super) struct Card {
    wire: Arc<Wire>,
}

#[derive(Debug)]
pub(super) struct Wire {
    queues: Mutex<Queues>,
    event: OwnedFd,
}

#[derive(Debug, Default)]
pub(super) struct Queues {
    /// Submitted, and the device has not been told.
    posted: VecDeque<Request>,
    /// With the device.
    held: VecDeque<Request>,
    done: Vec<Completion>,
    /// Taken back before the device had answered.
    taken_back: Vec<RequestId>,
    armed: bool,
}

impl Card {
    pub(super) fn new() -> (Self, Arc<Wire>) {
        let wire = Arc::new(Wire {
            queues: Mutex::default(),
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap(),
        });
        let card = Self {
            wire: Arc::clone(&wire),
        };
        (card, wire)
    }
}

impl Wire {
    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap()
    }

    /// Where a request is, if it is here: once or not at all.
    fn count(&self, id: RequestId) -> usize {
        let queues = self.queues();
        let requests = queues.posted.iter().chain(&queues.held);
        let done = queues.done.iter().map(|completion| &completion.request);
        requests.chain(done).filter(|one| one.id == id).count()
    }

    /// The device answers the request it has had longest. Returns whether it had one.
    pub(super) fn answer(&self, answer: impl FnOnce(&Operation) -> Vec<u8>) -> bool {
        let mut queues = self.queues();
        let Some(request) = queues.held.pop_front() else {
            return false;
        };
        let output = Ok(Unverified::new(answer(&request.operation)));
        queues.done.push(Completion { request, output });
        true
    }

    /// The device answers once more a request that has ended, and the driver of the card does not
    /// notice.
    fn answer_late(&self, has_ended: impl Fn(RequestId) -> bool) {
        let mut queues = self.queues();
        let Some(index) = queues.taken_back.iter().position(|&id| has_ended(id)) else {
            return;
        };
        let request = Request {
            id: queues.taken_back.swap_remove(index),
            operation: Arc::new(digest(0xff)),
            deadline: Instant::NEVER,
        };
        let output = Ok(Unverified::new(b"late".to_vec()));
        queues.done.push(Completion { request, output });
    }

    /// The device interrupts if that was asked for.
    pub(super) fn interrupt(&self) {
        if std::mem::take(&mut self.queues().armed) {
            rustix::io::write(&self.event, &1_u64.to_ne_bytes()).unwrap();
        }
    }
}

impl Accelerator for Card {
    fn name(&self) -> &'static str {
        "model"
    }

    fn offers(&self, algorithm: Algorithm) -> bool {
        algorithm == Algorithm::Digest(HashAlgorithm::Sha256)
    }

    fn submit(&mut self, request: Request, _now: Instant) -> Result<(), Rejected> {
        self.wire.queues().posted.push_back(request);
        Ok(())
    }

    fn flush(&mut self) {
        let queues = &mut *self.wire.queues();
        queues.held.append(&mut queues.posted);
    }

    fn poll(&mut self, now: Instant, completions: &mut Vec<Completion>) {
        self.flush();
        let mut queues = self.wire.queues();
        // Who polls wants no event any more, and takes one that has come.
        queues.armed = false;
        let _ = rustix::io::read(&self.wire.event, &mut [0; 8]);
        completions.append(&mut queues.done);
        let (late, held) = queues
            .held
            .drain(..)
            .partition::<VecDeque<_>, _>(|request| request.deadline <= now);
        queues.held = held;
        queues.give_back(late, &DeviceError::TimedOut, completions);
    }

    fn next_deadline(&self) -> Instant {
        let queues = self.wire.queues();
        let requests = queues.posted.iter().chain(&queues.held);
        let deadlines = requests.map(|request| request.deadline);
        deadlines.min().unwrap_or(Instant::NEVER)
    }

    fn in_flight(&self) -> usize {
        let queues = self.wire.queues();
        queues.posted.len() + queues.held.len() + queues.done.len()
    }

    fn reset(&mut self, completions: &mut Vec<Completion>) -> Result<(), DeviceError> {
        model::step();
        self.hand_back(completions);
        Ok(())
    }

    fn hand_back(&mut self, completions: &mut Vec<Completion>) {
        self.flush();
        let mut queues = self.wire.queues();
        completions.append(&mut queues.done);
        let held = std::mem::take(&mut queues.held);
        queues.give_back(held, &DeviceError::Abandoned, completions);
    }

    fn take_fault(&mut self) -> Option<DeviceError> {
        None
    }

    fn arm(&mut self) -> bool {
        let mut queues = self.wire.queues();
        queues.armed = true;
        queues.done.is_empty()
    }

    fn events(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.wire.event.as_fd()]
    }

    fn state(&self) -> AcceleratorState {
        AcceleratorState::Ready
    }

    fn counters(&self) -> Counters {
        Counters::default()
    }
}

impl Queues {
    fn give_back(
        &mut self,
        requests: VecDeque<Request>,
        why: &DeviceError,
        completions: &mut Vec<Completion>,
    ) {
        for request in requests {
            self.taken_back.push(request.id);
            completions.push(Completion {
                request,
                output: Err(why.clone()),
            });
        }
    }
}

pub(super) const OPTIONS: Options = Options {
    timeout: TICK,
    limits: Limits {
        failures_max: 3,
        backoff: TICK,
        backoff_max: TICK,
    },
    offload: Offload::EVERYTHING,
    hedge: hedge::Limits::NEVER,
    admission: admission::Limits::DEFAULT,
    cores: 1,
    eights: None,
};

/// A core whose card has passed its trial.
pub(super) fn ready_core() -> (Core, Arc<Wire>) {
    let (card, wire) = Card::new();
    let mut core = Core::new(vec![Box::new(card)], OPTIONS);
    let mut arrivals = Vec::new();
    let mut reset = core
        .take_due_reset(Instant::ORIGIN, &mut arrivals)
        .expect("a reset is due before the first trial");
    reset.run();
    core.restore(reset, Instant::ORIGIN, &mut arrivals);
    assert!(wire.answer(|operation| perform(operation).unwrap()));
    core.poll(Instant::ORIGIN, &mut arrivals);
    let closed = State::Closed { failures: 0 };
    assert_eq!(core.status(0).breaker, closed);
    (core, wire)
}

/// What the lock protects in these models: the core, and who has what.
struct Desk {
    core: Core,
    wire: Arc<Wire>,
    now: Instant,
    /// Requests that have not ended, as their callers see them.
    open: BTreeMap<(u32, u32), Open>,
    ended: u64,
}

/// A request that has not ended.
struct Open {
    id: RequestId,
    message: u8,
    /// Who waits for it, until it arrives.
    waiter: Option<Sender<Arrival>>,
    arrived: bool,
    given_up: bool,
}

const fn key(id: RequestId) -> (u32, u32) {
    (id.index, id.generation)
}

impl Desk {
    fn new() -> (Arc<Mutex<Self>>, Arc<Wire>) {
        let (core, wire) = ready_core();
        let desk = Self {
            core,
            wire: Arc::clone(&wire),
            now: Instant::ORIGIN,
            open: BTreeMap::new(),
            ended: 0,
        };
        (Arc::new(Mutex::new(desk)), wire)
    }

    /// Each request is in one place, and the sum says how many there are.
    fn check(&mut self) {
        let wire = &self.wire;
        // What was given up ends when the card is done with it.
        let before = self.open.len();
        self.open
            .retain(|_, open| !open.given_up || wire.count(open.id) > 0);
        self.ended += (before - self.open.len()) as u64;
        for open in self.open.values() {
            let on_card = wire.count(open.id);
            assert_eq!(on_card + usize::from(open.arrived), 1, "{:?}", open.id);
        }
        let requests = self.core.requests();
        assert!(requests.add_up(), "{requests:?}");
        assert_eq!(requests.in_flight, self.open.len() as u64, "{requests:?}");
        assert_eq!(requests.submitted - requests.in_flight, self.ended);
    }

    fn submit(&mut self, message: u8) -> (RequestId, Option<Receiver<Arrival>>) {
        let deadline = self.now.plus(TICK);
        let (sender, receiver) = oneshot::channel();
        let placed = self.core.submit(digest(message), deadline, self.now);
        let (id, waiter) = match placed {
            Placed::OnCard(id) => (id, Some(sender)),
            Placed::InSoftware(id, operation) => {
                assert_eq!(self::message(&operation), message);
                (id, None)
            }
            Placed::Refused(_, error) => panic!("nobody is overloaded: {error}"),
        };
        self.core.flush();
        let on_card = waiter.is_some();
        let open = Open {
            id,
            message,
            waiter,
            arrived: !on_card,
            given_up: false,
        };
        assert!(self.open.insert(key(id), open).is_none(), "a name twice");
        self.check();
        (id, on_card.then_some(receiver))
    }

    /// What the driver does with what has arrived.
    fn deliver(&mut self, arrivals: Vec<Arrival>) -> Vec<(Sender<Arrival>, Arrival)> {
        let mut deliveries = Vec::new();
        for arrival in arrivals {
            let open = self.open.get_mut(&key(arrival.id));
            let open = open.expect("what arrives is a request in flight");
            assert_eq!(message(&arrival.operation), open.message);
            assert!(!open.given_up && !open.arrived, "it arrives once");
            open.arrived = true;
            let waiter = open.waiter.take().expect("somebody waits for it");
            deliveries.push((waiter, arrival));
        }
        self.check();
        deliveries
    }

    fn answer_late(&self) {
        self.wire
            .answer_late(|id| !self.open.contains_key(&key(id)));
    }

    fn settle(&mut self, id: RequestId, ending: &Ending) {
        self.core.settle(id, ending);
        assert!(self.open.remove(&key(id)).is_some(), "it ends once");
        self.ended += 1;
        self.check();
    }

    fn give_up(&mut self, id: RequestId) {
        let open = self.open.get_mut(&key(id)).expect("it has not ended");
        if open.arrived {
            return self.settle(id, &Ending::Abandoned);
        }
        open.given_up = true;
        open.waiter = None;
        self.core.abandon(id, false);
        self.check();
    }
}

/// One operation, as [`super::Router::perform`] does it.
fn perform_one(desk: &Mutex<Desk>, message: u8) {
    let (id, receiver) = model::lock(desk).submit(message);
    let ending = match receiver {
        None => Ending::Software,
        Some(receiver) => {
            let arrival = block_on(receiver).expect("nobody is left waiting");
            assert_eq!(arrival.id, id);
            match arrival.answer {
                Ok(_) => Ending::Card,
                Err(_) => Ending::Software,
            }
        }
    };
    model::lock(desk).settle(id, &ending);
}

fn poll(desk: &Mutex<Desk>) {
    let mut desk = model::lock(desk);
    let (now, mut arrivals) = (desk.now, Vec::new());
    desk.core.poll(now, &mut arrivals);
    let deliveries = desk.deliver(arrivals);
    drop(desk);
    for (waiter, arrival) in deliveries {
        // Whoever has given up meanwhile has said so.
        let _ = waiter.send(arrival);
    }
}

fn reset(desk: &Mutex<Desk>) {
    let mut held = model::lock(desk);
    let (now, mut arrivals) = (held.now, Vec::new());
    held.core.report_silent_reboot(0, now);
    held.now = held.now.plus(TICK);
    let now = held.now;
    let reset = held.core.take_due_reset(now, &mut arrivals);
    let deliveries = held.deliver(arrivals);
    drop(held);
    for (waiter, arrival) in deliveries {
        let _ = waiter.send(arrival);
    }
    let Some(mut reset) = reset else { return };
    reset.run();
    let mut held = model::lock(desk);
    let mut arrivals = Vec::new();
    let now = held.now;
    held.core.restore(reset, now, &mut arrivals);
    assert!(arrivals.is_empty(), "what it had was handed back before");
    held.check();
}

/// Answers and polls until `expected` requests have ended.
fn drive(desk: &Mutex<Desk>, wire: &Wire, expected: u64) {
    while model::lock(desk).ended < expected {
        wire.answer(|operation| perform(operation).unwrap());
        poll(desk);
        model::lock(desk).answer_late();
    }
}

#[test]
fn no_interleaving_loses_a_request_or_ends_it_twice() {
    model::sample(
        "router: callers, a canceller, a card and a reset",
        10_000,
        || {
            let (desk, wire) = Desk::new();
            let caller = Arc::clone(&desk);
            let caller = thread::spawn(move || {
                perform_one(&caller, 1);
                perform_one(&caller, 2);
            });
            let canceller = Arc::clone(&desk);
            let canceller = thread::spawn(move || {
                let (id, _receiver) = model::lock(&canceller).submit(3);
                model::lock(&canceller).give_up(id);
                perform_one(&canceller, 4);
            });
            let resetter = Arc::clone(&desk);
            let resetter = thread::spawn(move || reset(&resetter));
            drive(&desk, &wire, 4);
            for thread in [caller, canceller, resetter] {
                thread.join().unwrap();
            }
            let requests = model::lock(&desk).core.requests();
            assert_eq!((requests.submitted, requests.in_flight), (4, 0));
        },
    );
}

/// Deadlines pass, and what answers then answers a request that has ended.
#[test]
fn no_interleaving_lets_a_late_answer_end_another_request() {
    model::exhaust("router: late answers and a name used again", || {
        let (desk, _) = Desk::new();
        let (first, receiver) = model::lock(&desk).submit(1);
        let (late, user) = (Arc::clone(&desk), Arc::clone(&desk));
        let clock = thread::spawn(move || {
            model::lock(&late).now = Instant::ORIGIN.plus(TICK);
            poll(&late);
            model::lock(&late).answer_late();
            poll(&late);
        });
        let caller = thread::spawn(move || {
            let second = model::lock(&user).submit(2).0;
            assert_ne!(first, second);
            model::lock(&user).give_up(second);
        });
        let arrival = block_on(receiver.unwrap()).unwrap();
        assert!(arrival.answer.is_err(), "nobody has answered in time");
        model::lock(&desk).settle(first, &Ending::Software);
        let third = model::lock(&desk).submit(3).0;
        clock.join().unwrap();
        poll(&desk);
        let mut desk = model::lock(&desk);
        assert!(desk.open.contains_key(&key(third)), "nobody answered it");
        desk.give_up(third);
        drop(desk);
        caller.join().unwrap();
    });
}

/// A breaker, and what its picture says about each step of it.
struct Watched {
    breaker: Breaker,
    now: Instant,
    /// Transitions so far.
    transitions: u32,
}

const LIMITS: Limits = Limits {
    failures_max: 2,
    backoff: TICK,
    backoff_max: TICK,
};

/// The states of the picture, without what they hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Closed(u32),
    Open,
    HalfOpen,
}

impl Watched {
    fn closed() -> Self {
        let mut breaker = Breaker::new(LIMITS);
        breaker.begin_trial(Instant::ORIGIN);
        breaker.pass_trial(Instant::ORIGIN);
        Self {
            breaker,
            now: Instant::ORIGIN,
            transitions: 0,
        }
    }

    fn kind(&self) -> Kind {
        match self.breaker.state() {
            State::Closed { failures } => Kind::Closed(failures),
            State::Open { .. } => Kind::Open,
            State::HalfOpen => Kind::HalfOpen,
        }
    }

    /// Takes a step, after which the breaker must be where the picture says.
    fn step(&mut self, expected: Kind, step: impl FnOnce(&mut Breaker, Instant)) {
        self.now = self.now.plus(TICK / 2);
        let before = self.kind();
        step(&mut self.breaker, self.now);
        assert_eq!(self.kind(), expected, "from {before:?}");
        let same = std::mem::discriminant(&before) == std::mem::discriminant(&expected);
        self.transitions += u32::from(!same);
    }

    fn admit(&self) -> Option<(Permit, u32)> {
        let permit = self.breaker.admit();
        let closed = matches!(self.kind(), Kind::Closed(_));
        assert_eq!(permit.is_some(), closed, "work flows while it is closed");
        permit.map(|permit| (permit, self.transitions))
    }

    fn record(&mut self, (permit, transitions): (Permit, u32), outcome: Outcome) {
        let straggler = transitions != self.transitions;
        let expected = match (self.kind(), outcome) {
            (_, Outcome::Misbehaved(_)) => Kind::Open,
            (kind, _) if straggler => kind,
            (Kind::Closed(_), Outcome::Success) => Kind::Closed(0),
            (Kind::Closed(failures), Outcome::Failure(_)) => {
                if failures + 1 < LIMITS.failures_max {
                    Kind::Closed(failures + 1)
                } else {
                    Kind::Open
                }
            }
            (kind, _) => panic!("admitted while {kind:?}"),
        };
        self.step(expected, |breaker, now| {
            breaker.record(permit, outcome, now);
        });
    }

    fn pass_trial(&mut self) {
        let expected = match self.kind() {
            Kind::HalfOpen => Kind::Closed(0),
            other => other,
        };
        self.step(expected, Breaker::pass_trial);
    }

    /// Begins a trial if the backoff is over.
    fn begin_trial(&mut self) -> bool {
        let due = match self.breaker.state() {
            State::Open { until } => until <= self.now.plus(TICK / 2),
            State::Closed { .. } | State::HalfOpen => false,
        };
        let expected = if due { Kind::HalfOpen } else { self.kind() };
        self.step(expected, Breaker::begin_trial);
        due
    }
}

/// Callers that send until they have had `outcomes`, beside a thread that begins and passes
/// `trials`.
fn breaker_model(outcomes: &'static [&'static [Outcome]], trials: usize) {
    let watched = Arc::new(Mutex::new(Watched::closed()));
    let callers: Vec<_> = outcomes
        .iter()
        .map(|outcomes| {
            let watched = Arc::clone(&watched);
            thread::spawn(move || {
                for &outcome in *outcomes {
                    let admitted = model::lock(&watched).admit();
                    if let Some(admitted) = admitted {
                        model::lock(&watched).record(admitted, outcome);
                    }
                }
            })
        })
        .collect();
    for _ in 0..trials {
        if model::lock(&watched).begin_trial() {
            model::lock(&watched).pass_trial();
        }
    }
    for caller in callers {
        caller.join().unwrap();
    }
}

#[test]
fn no_interleaving_takes_the_breaker_off_its_picture() {
    const FAILURE: Outcome = Outcome::Failure("timed-out");
    const LIE: Outcome = Outcome::Misbehaved("wrong-answer");
    model::exhaust("breaker: failures, a success and a trial", || {
        breaker_model(&[&[FAILURE, Outcome::Success], &[FAILURE]], 1);
    });
    model::exhaust("breaker: a failure, a lie and a trial", || {
        breaker_model(&[&[FAILURE], &[LIE]], 1);
    });
    model::sample("breaker: all of these and more trials", 20_000, || {
        let callers: &[&[Outcome]] = &[&[FAILURE, Outcome::Success, FAILURE], &[FAILURE], &[LIE]];
        breaker_model(callers, 3);
    });
}
