//! The router's policy: which accelerator gets a request, and what follows from how it ends.
//!
//! It reads no clock, waits for nothing, starts no thread and computes no answer: it is told the
//! time, and whoever drives it fetches arrivals, verifies them and does in software what is left.
//!
//! ```text
//!            submit                 poll                     settle
//!  caller  --------->  in flight  -------->  arrived  ----------------------->  card
//!             |        on a card             (answer, or      |  verified
//!             |                               device error,   |
//!             |                               or it is late)  |
//!             +------------------------------> software ------+-------------->  software
//!             | no card takes it, or it pays not    caller's own error ----->  refused
//!             +-------------------------------------------------------------->  refused
//!               nobody has room
//! ```
//!
//! Each request is in one of these places, and one counter or the other counts it:
//! `submitted = card + software + refused + in_flight` at any instant.
//!
//! A signature that a card refuses may be the fault of the card, of the algorithm (masks say RSA and
//! leave open which paddings), or of the key. A known answer, under a key that the card has not seen,
//! tells; meanwhile software signs, and the refusal itself counts against nobody:
//!
//! ```text
//!   a caller is refused a session, or
//!   a request that has never worked
//!               |
//!               v                right
//!   known answer of the same  ----------->  the card will not have this KEY
//!   algorithm
//!               | refused                   not so, or the first has worked before
//!               v                      +--------------------------------------------> a failure
//!   known answer of an RSA variant  ---+                                            of the CARD
//!   that has worked                    +--> the card lacks the ALGORITHM
//!                                    right
//! ```
//!
//! What is refused or lacking goes to software until the next reset, which forgets all of this. A
//! card that refuses everything also refuses the known answers, and those count.

mod placing;

use super::admission;
use super::breaker::{self, Breaker, Limits, Outcome, Permit};
use super::hedge::{self, Budget};
use super::speed::{Costs, Speed};
use super::verify::eights::{Eights, Share};
use crate::accelerator::class::Class;
use crate::accelerator::software::OperationError;
use crate::accelerator::{
    Accelerator, Algorithm, Completion, Counters, DeviceError, DeviceMisbehaved, Operation,
    RejectReason, Rejected, Request, RequestId, State, Unverified,
};
use crate::clock::Instant;
use crate::kat::{self, KnownAnswer};
use crate::key::KeyId;
use placing::{Candidate, Place};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// How the router decides.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Time an accelerator has to answer a request before software does. Long enough for a
    /// queue of RSA operations, short enough that a client does not notice one that hangs.
    pub timeout: Duration,
    /// When an accelerator is given up, and when it is tried again.
    pub limits: Limits,
    /// What is offloaded at all.
    pub offload: Offload,
    /// When software is asked as well, because an accelerator is late.
    pub hedge: hedge::Limits,
    /// How much may be under way at once.
    pub admission: admission::Limits,
    /// Cores that software can have: what it takes of them is what offloading saves. By default
    /// those that the system gives this process; on a tokio runtime, no more than it has threads.
    pub cores: usize,
    /// What verifies RSA signatures that arrive together, if it is there; else each is verified
    /// by itself. See [`Eights::load`].
    pub eights: Option<&'static Eights>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: Duration::from_millis(200),
            limits: Limits::default(),
            offload: Offload::default(),
            hedge: hedge::Limits::DEFAULT,
            admission: admission::Limits::DEFAULT,
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            eights: None,
        }
    }
}

/// Which algorithms go to accelerators; the others are done in software where they are asked for.
///
/// Of those that are included, a request goes to an accelerator if that pays at the time, see
/// [`choice`](super::choice), unless they go there [always](Offload::always).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Offload {
    algorithms: u32,
    always: bool,
}

impl Offload {
    /// Nothing.
    pub const NOTHING: Self = Self {
        algorithms: 0,
        always: false,
    };

    /// Everything an accelerator offers, always: for tests of the accelerator.
    pub const EVERYTHING: Self = Self {
        algorithms: u32::MAX,
        always: true,
    };

    /// This and `algorithm`.
    #[must_use]
    pub fn with(self, algorithm: Algorithm) -> Self {
        Self {
            algorithms: self.algorithms | Self::bit(algorithm),
            ..self
        }
    }

    /// The same algorithms, whether it pays or not: software answers only what no accelerator takes,
    /// or has not answered by its deadline. For tests of accelerators, and where a core is
    /// worth more than time.
    #[must_use]
    pub const fn always(self) -> Self {
        Self {
            always: true,
            ..self
        }
    }

    /// Whether it is not asked what pays.
    #[must_use]
    pub const fn is_always(self) -> bool {
        self.always
    }

    /// Whether `algorithm` goes to accelerators.
    #[must_use]
    #[inline]
    pub fn includes(self, algorithm: Algorithm) -> bool {
        self.algorithms & Self::bit(algorithm) != 0
    }

    /// How many bits [`Offload::bit`] makes use of.
    pub(super) const BITS: usize = 16;

    /// One bit for each algorithm.
    pub(super) fn bit(algorithm: Algorithm) -> u32 {
        use crate::key::{HashAlgorithm, SignatureScheme};
        let hash = |hash: HashAlgorithm| match hash {
            HashAlgorithm::Sha256 => 0,
            HashAlgorithm::Sha384 => 1,
            HashAlgorithm::Sha512 => 2,
        };
        1 << match algorithm {
            Algorithm::Sign(scheme) => match scheme {
                SignatureScheme::RsaPkcs1Sha256 => 0,
                SignatureScheme::RsaPkcs1Sha384 => 1,
                SignatureScheme::RsaPkcs1Sha512 => 2,
                SignatureScheme::RsaPssSha256 => 3,
                SignatureScheme::RsaPssSha384 => 4,
                SignatureScheme::RsaPssSha512 => 5,
                SignatureScheme::EcdsaP256Sha256 => 6,
                SignatureScheme::EcdsaP384Sha384 => 7,
            },
            Algorithm::AesGcm => 8,
            Algorithm::AesCbc => 9,
            Algorithm::Digest(of) => 10 + hash(of),
            Algorithm::Hmac(of) => 13 + hash(of),
        }
    }
}

impl Default for Offload {
    /// RSA signatures: the only operations here whose software costs more than handing them over
    /// and verifying what comes back.
    fn default() -> Self {
        use crate::key::SignatureAlgorithm;
        Algorithm::all()
            .filter(|algorithm| {
                matches!(algorithm, Algorithm::Sign(scheme)
                    if !matches!(scheme.algorithm(), SignatureAlgorithm::Ecdsa(_)))
            })
            .fold(Self::NOTHING, Self::with)
    }
}

/// Where requests went, for one accelerator. See the module's picture.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize)]
pub struct Requests {
    /// Requests accepted.
    pub submitted: u64,
    /// Answered by the accelerator, and verified.
    pub card: u64,
    /// Answered by software.
    pub software: u64,
    /// Ended with an error that is the caller's, or given up by the caller.
    pub refused: u64,
    /// Not ended yet.
    pub in_flight: u64,
    /// Of those in software: the accelerator had been given the request first.
    pub fallbacks: u64,
    /// The accelerator did not answer by the deadline.
    pub timed_out: u64,
    /// The accelerator answered with an error status.
    pub failed: u64,
    /// The accelerator broke a rule of the interface.
    pub misbehaved: u64,
    /// The accelerator's answer did not verify, and was not released.
    pub wrong_answers: u64,
    /// The accelerator was late, and software was asked as well.
    pub hedged: u64,
    /// Answers of the accelerator that came after software's, and were discarded.
    pub stragglers: u64,
    /// Of those in software: accelerators had too much to do.
    pub shed: u64,
    /// Of those refused: software had too much to do as well.
    pub overloaded: u64,
}

impl Requests {
    /// Whether the sum holds.
    #[must_use]
    pub const fn add_up(&self) -> bool {
        self.submitted == self.card + self.software + self.refused + self.in_flight
    }
}

impl Requests {
    /// Counts one that did not come back well.
    const fn count(&mut self, error: &DeviceError) {
        match error {
            DeviceError::Failed(_) | DeviceError::SessionRefused(_) => self.failed += 1,
            DeviceError::TimedOut => self.timed_out += 1,
            DeviceError::Misbehaved(_) => self.wrong_answers += 1,
            DeviceError::BusError
            | DeviceError::Gone
            | DeviceError::Abandoned
            | DeviceError::NotUsable(_) => {}
        }
    }
}

impl std::ops::AddAssign for Requests {
    fn add_assign(&mut self, other: Self) {
        let Self {
            submitted,
            card,
            software,
            refused,
            in_flight,
            fallbacks,
            timed_out,
            failed,
            misbehaved,
            wrong_answers,
            hedged,
            stragglers,
            shed,
            overloaded,
        } = other;
        self.submitted += submitted;
        self.card += card;
        self.software += software;
        self.refused += refused;
        self.in_flight += in_flight;
        self.fallbacks += fallbacks;
        self.timed_out += timed_out;
        self.failed += failed;
        self.misbehaved += misbehaved;
        self.wrong_answers += wrong_answers;
        self.hedged += hedged;
        self.stragglers += stragglers;
        self.shed += shed;
        self.overloaded += overloaded;
    }
}

/// Known-answer tests outside of trials, for one accelerator.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Checks {
    /// Tests begun.
    pub started: u64,
    /// Tests whose answer was right.
    pub passed: u64,
    /// Tests that ended otherwise.
    pub failed: u64,
    /// The one that ended last.
    pub last: Option<CheckEnd>,
}

/// How a known-answer test ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CheckEnd {
    /// Of what.
    pub algorithm: Algorithm,
    /// When.
    pub at: Instant,
    /// How long it took.
    pub latency: Duration,
    /// `None` if the answer was right, else an evidence code.
    pub failure: Option<&'static str>,
}

/// A request that an accelerator is done with, for the driver to settle.
#[derive(Debug)]
pub struct Arrival {
    /// Which request.
    pub id: RequestId,
    /// The operation, handed back.
    pub operation: Arc<Operation>,
    /// What the accelerator produced. One that is late, and is to be hedged, has
    /// [timed out](DeviceError::TimedOut) as far as whoever settles it is concerned.
    pub answer: Result<Unverified<Vec<u8>>, DeviceError>,
    /// Its part of a verification that it shares with others.
    pub share: Option<Share>,
}

/// Where a request went.
#[derive(Debug)]
pub enum Placed {
    /// It is in flight, and arrives by its deadline.
    OnCard(RequestId),
    /// No accelerator takes it, or none pays: do it in software.
    InSoftware(RequestId, Arc<Operation>),
    /// Nobody has room for it, or nobody can do it. It is over, and counted.
    Refused(RequestId, OperationError),
}

/// What it took of this host to end a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Took {
    /// To do it in software.
    Software(Duration),
    /// To verify the accelerator's answer, which was right.
    Verify(Duration),
}

/// How a request that arrived, or was placed in software, ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Ending {
    /// The accelerator's answer verified and was released.
    Card,
    /// Software answered.
    Software,
    /// It ended with an error that is the caller's own.
    Refused,
    /// Nobody waits for it any more; whatever the answer was, it was not looked at.
    Abandoned,
}

/// An accelerator on its way through a reset, away from the router.
#[derive(Debug)]
pub struct Reset {
    lane: usize,
    accelerator: Box<dyn Accelerator>,
    completions: Vec<Completion>,
    outcome: Option<Result<(), DeviceError>>,
    /// Why it is not run.
    given_up: Option<String>,
}

impl Reset {
    /// Resets the accelerator: the one thing here that takes time.
    pub fn run(&mut self) {
        self.outcome = Some(self.accelerator.reset(&mut self.completions));
    }

    /// Leaves the accelerator as it is, since this host has no thread for it: no fault of the
    /// accelerator's, and to be tried again.
    pub fn give_up(&mut self, error: &io::Error) {
        self.given_up = Some(format!("no thread can be started to reset it: {error}"));
    }

    /// Why the reset failed, if it has.
    #[must_use]
    pub fn failure(&self) -> Option<&DeviceError> {
        self.outcome.as_ref()?.as_ref().err()
    }
}

/// The router's policy and all its state.
#[derive(Debug)]
pub struct Core {
    options: Options,
    lanes: Vec<Lane>,
    pending: Vec<Slot>,
    free: Vec<u32>,
    completions: Vec<Completion>,
    events_version: u64,
    costs: Costs,
    hedges: Budget,
    /// When requests are to be hedged. Some have ended meanwhile; those at the front are dropped.
    hedges_due: BinaryHeap<Reverse<(Instant, u32, u32)>>,
    /// Requests in software, or on their way there, and what they take together.
    software_count: usize,
    software_work: Duration,
    /// Requests that callers have announced.
    announced: usize,
    /// Requests that software does now and that were never handed in.
    beside: usize,
    /// Kept for its memory.
    candidates: Vec<Candidate>,
}

/// One accelerator, and what is known of it.
struct Lane {
    name: String,
    /// Away while it is being reset.
    accelerator: Option<Box<dyn Accelerator>>,
    breaker: Breaker,
    requests: Requests,
    checks: Checks,
    resets: u64,
    resets_failed: u64,
    state: State,
    state_since: Instant,
    counters: Counters,
    failure: Option<DeviceError>,
    checks_begun: usize,
    /// What it has done right since its last reset.
    proven: Vec<Algorithm>,
    /// What it has shown to lack since then, although its masks offer it.
    lacking: Vec<Algorithm>,
    /// What a caller was refused, and a known answer is to tell why.
    in_question: Vec<Algorithm>,
    /// Keys it will not sign with, although it does the algorithm; the oldest first.
    refused_keys: VecDeque<(KeyId, Algorithm)>,
    /// How fast it has been since then, by class.
    speeds: [Speed; Class::ALL.len()],
}

/// Keys remembered as refused. One that is forgotten costs a request and a known answer to be found
/// again.
const REFUSED_KEYS_MAX: usize = 128;

#[derive(Debug)]
struct Slot {
    generation: u32,
    pending: Option<Pending>,
}

#[derive(Debug)]
enum Pending {
    Caller(Asked),
    /// A known-answer test of our own.
    Test {
        lane: usize,
        test: &'static KnownAnswer,
        purpose: Purpose,
        begun: Instant,
        /// Epoch of the breaker when it began; its end says nothing about another.
        epoch: u32,
        /// What the accelerator had in flight before.
        depth: usize,
    },
}

/// A caller's request.
#[derive(Debug)]
struct Asked {
    lane: usize,
    algorithm: Algorithm,
    class: Class,
    place: Place,
    /// Present while the accelerator's answer is still to be judged.
    permit: Option<Permit>,
    /// The accelerator has been given it.
    tried: bool,
    submitted: Instant,
    /// What the accelerator had in flight before.
    depth: usize,
    /// What it adds to the work that software has.
    in_software: Option<Duration>,
    /// To be done in software, should the accelerator be late.
    copy: Option<Arc<Operation>>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Purpose {
    /// Decides whether the breaker closes.
    Trial,
    /// Asked for by the owner's schedule.
    Check,
    /// A caller was refused, with this key: does the card do the algorithm at all?
    Question(KeyId),
    /// The known answer of this algorithm was refused: does the card still do a sibling of it?
    Witness(Algorithm),
}

/// What is known of one accelerator, copied out.
#[derive(Clone, Debug)]
pub struct LaneStatus {
    /// Its address.
    pub name: String,
    /// Whether it can take requests, `None` while it is being reset.
    pub state: Option<State>,
    /// Since when.
    pub state_since: Instant,
    /// Why it cannot be used, in words, if a reset failed.
    pub failure: Option<DeviceError>,
    /// The breaker's state.
    pub breaker: breaker::State,
    /// Since when.
    pub breaker_since: Instant,
    /// Times the breaker has opened.
    pub breaker_opened: u64,
    /// Evidence code of what opened it last.
    pub breaker_opened_by: &'static str,
    /// Where requests went.
    pub requests: Requests,
    /// Known-answer tests.
    pub checks: Checks,
    /// Resets, and how many failed.
    pub resets: u64,
    /// Resets that failed.
    pub resets_failed: u64,
    /// What it offers and was found not to do since its last reset; software does it.
    pub lacking: Vec<Algorithm>,
    /// Keys that it refused since then, although it does the algorithm; software signs with them.
    pub keys_refused: usize,
    /// The accelerator's own figures.
    pub counters: Counters,
}

impl Core {
    /// A router over `accelerators`, most wanted first. None is used before it has been reset and
    /// has passed a trial.
    ///
    /// # Panics
    ///
    /// If there are none: then there is nothing to decide.
    #[must_use]
    pub fn new(accelerators: Vec<Box<dyn Accelerator>>, options: Options) -> Self {
        let lanes: Vec<_> = accelerators
            .into_iter()
            .map(|accelerator| Lane::new(accelerator, options.limits))
            .collect();
        assert!(
            !lanes.is_empty(),
            "a router without accelerators needs no policy"
        );
        Self {
            options,
            lanes,
            pending: Vec::new(),
            free: Vec::new(),
            completions: Vec::new(),
            events_version: 0,
            costs: Costs::new(),
            hedges: Budget::new(options.hedge),
            hedges_due: BinaryHeap::new(),
            software_count: 0,
            software_work: Duration::ZERO,
            announced: 0,
            beside: 0,
            candidates: Vec::new(),
        }
    }

    /// Collects what accelerators have done, and what they have not done in time.
    pub fn poll(&mut self, now: Instant, arrivals: &mut Vec<Arrival>) {
        let earlier = arrivals.len();
        for index in 0..self.lanes.len() {
            let mut completions = std::mem::take(&mut self.completions);
            self.lanes[index].poll(now, &mut completions);
            if let Some(fault) = self.lanes[index].take_fault() {
                self.blame(index, &fault, now);
            }
            for completion in completions.drain(..) {
                self.arrive(completion, now, arrivals);
            }
            self.completions = completions;
        }
        if let Some(eights) = self.options.eights {
            eights.share(&mut arrivals[earlier..]);
        }
        self.hedge_late(now, arrivals);
    }

    /// Ends a request that [arrived](Self::poll) or was placed in software.
    pub fn settle(&mut self, id: RequestId, ending: &Ending) {
        let Some(Pending::Caller(asked)) = self.get_mut(id) else {
            return;
        };
        let in_software = asked.in_software.take();
        let Asked {
            lane,
            algorithm,
            tried,
            ..
        } = *asked;
        let permit = match asked.place {
            // Settled before: its accelerator still has it, and nobody else.
            Place::Straggling => return,
            Place::Hedged => {
                asked.place = Place::Straggling;
                None
            }
            Place::InFlight | Place::GivenUp | Place::WithCaller => {
                let permit = asked.permit.take();
                self.remove(id);
                permit
            }
        };
        self.leave_software(in_software);
        let lane = &mut self.lanes[lane];
        lane.requests.in_flight -= 1;
        match ending {
            Ending::Card => lane.requests.card += 1,
            Ending::Software => {
                lane.requests.software += 1;
                lane.requests.fallbacks += u64::from(tried);
            }
            Ending::Refused | Ending::Abandoned => lane.requests.refused += 1,
        }
        // What was judged already has given its permit back. A caller's own error that the
        // accelerator found too speaks for it; an answer that nobody has looked at does not.
        if let Some(permit) = permit
            && matches!(ending, Ending::Card | Ending::Refused)
        {
            if *ending == Ending::Card && lane.breaker.is_current(&permit) {
                note(&mut lane.proven, algorithm);
            }
            lane.breaker.succeed(permit);
        }
    }

    /// Records that the answer to a request that arrived did not verify. The request stays open;
    /// software answers it.
    pub fn reject(&mut self, id: RequestId, rule: &DeviceMisbehaved, now: Instant) {
        if let Some(Pending::Caller(asked)) = self.get_mut(id) {
            let (lane, permit) = (asked.lane, asked.permit.take());
            let lane = &mut self.lanes[lane];
            lane.requests.wrong_answers += 1;
            if let Some(permit) = permit {
                let outcome = Outcome::Misbehaved(rule.code());
                lane.breaker.record(permit, outcome, now);
            }
        }
    }

    /// Says that nobody waits for a request any more. It is refused when the accelerator is done
    /// with it, or now if it is not there.
    pub fn abandon(&mut self, id: RequestId, arrived: bool) {
        if arrived {
            self.settle(id, &Ending::Abandoned);
        } else if let Some(Pending::Caller(asked)) = self.get_mut(id) {
            asked.place = Place::GivenUp;
            asked.copy = None;
        }
    }

    /// Begins a known-answer test on an accelerator that is in use. Returns false if there is
    /// none to be run now.
    pub fn begin_check(&mut self, lane: usize, now: Instant) -> bool {
        let closed = self
            .lanes
            .get(lane)
            .is_some_and(|lane| lane.breaker.admit().is_some());
        let begun = closed && self.begin_next_test(lane, Purpose::Check, now);
        if begun {
            self.lanes[lane].checks.started += 1;
        }
        begun
    }

    /// Reports that the accelerator has restarted without being asked: its sessions are gone.
    pub fn report_silent_reboot(&mut self, lane: usize, now: Instant) {
        self.blame(lane, &DeviceMisbehaved::SilentReboot.into(), now);
    }

    /// Takes an accelerator away whose reset is due. Run it, and [give it back](Self::restore).
    ///
    /// What it has in flight arrives now: nobody waits for a reset.
    pub fn take_due_reset(&mut self, now: Instant, arrivals: &mut Vec<Arrival>) -> Option<Reset> {
        let due = |lane: &Lane| lane.accelerator.is_some() && lane.breaker.trial_due(now);
        let index = self.lanes.iter().position(due)?;
        self.hand_back(index, now, arrivals);
        let lane = &mut self.lanes[index];
        lane.breaker.begin_trial(now);
        self.events_version += 1;
        Some(Reset {
            lane: index,
            accelerator: lane.accelerator.take()?,
            completions: Vec::new(),
            outcome: None,
            given_up: None,
        })
    }

    /// Takes everything in flight back from every accelerator, because nobody will poll any more.
    pub fn hand_back_all(&mut self, now: Instant, arrivals: &mut Vec<Arrival>) {
        for index in 0..self.lanes.len() {
            self.hand_back(index, now, arrivals);
        }
    }

    fn hand_back(&mut self, index: usize, now: Instant, arrivals: &mut Vec<Arrival>) {
        let mut completions = Vec::new();
        if let Some(accelerator) = &mut self.lanes[index].accelerator {
            accelerator.hand_back(&mut completions);
        }
        for completion in completions {
            self.arrive(completion, now, arrivals);
        }
    }

    /// Takes an accelerator back from its reset, and begins its trial.
    pub fn restore(&mut self, reset: Reset, now: Instant, arrivals: &mut Vec<Arrival>) {
        let Reset {
            lane: index,
            accelerator,
            completions,
            outcome,
            given_up,
        } = reset;
        let lane = &mut self.lanes[index];
        // What comes back may be healed, or another card.
        lane.proven.clear();
        lane.lacking.clear();
        lane.refused_keys.clear();
        lane.speeds = std::array::from_fn(|_| Speed::new());
        lane.accelerator = Some(accelerator);
        lane.note_state(now);
        self.events_version += 1;
        for completion in completions {
            self.arrive(completion, now, arrivals);
        }
        let lane = &mut self.lanes[index];
        match outcome {
            None => {
                lane.breaker.open("reset-not-run", now);
                lane.failure = given_up.map(DeviceError::NotUsable);
            }
            Some(Err(error)) => {
                lane.resets_failed += 1;
                lane.breaker.open(error.code(), now);
                lane.failure = Some(error);
            }
            Some(Ok(())) => {
                lane.resets += 1;
                lane.failure = None;
                if !self.begin_next_test(index, Purpose::Trial, now) {
                    let lane = &mut self.lanes[index];
                    lane.breaker.open("offers-nothing", now);
                    lane.failure = Some(DeviceError::NotUsable(
                        "it offers no algorithm that could be tested".to_owned(),
                    ));
                }
            }
        }
    }

    /// When [`Core::poll`] or [`Core::take_due_reset`] will have something to do, unless an event
    /// comes first.
    #[must_use]
    pub fn next_wake(&self) -> Instant {
        let lanes = self.lanes.iter().filter_map(|lane| {
            let accelerator = lane.accelerator.as_ref()?;
            let trial = match lane.breaker.state() {
                breaker::State::Open { until } => until,
                breaker::State::Closed { .. } | breaker::State::HalfOpen => Instant::NEVER,
            };
            Some(accelerator.next_deadline().min(trial))
        });
        let hedge = self.hedges_due.peek().map(|Reverse((due, ..))| *due);
        lanes.chain(hedge).min().unwrap_or(Instant::NEVER)
    }

    /// Asks every accelerator for an event when there is something to poll. Returns false if one
    /// already has something.
    pub fn arm(&mut self) -> bool {
        let mut armed = true;
        for accelerator in self
            .lanes
            .iter_mut()
            .filter_map(|lane| lane.accelerator.as_mut())
        {
            armed &= accelerator.arm();
        }
        armed
    }

    /// Sees to it that what was submitted is being worked on.
    pub fn flush(&mut self) {
        for lane in &mut self.lanes {
            if let Some(accelerator) = &mut lane.accelerator {
                accelerator.flush();
            }
        }
    }

    /// The accelerators that are here, to wait for their events.
    pub fn accelerators(&self) -> impl Iterator<Item = &dyn Accelerator> {
        self.lanes
            .iter()
            .filter_map(|lane| lane.accelerator.as_deref())
    }

    /// Changes whenever [`Core::accelerators`] may have other events to wait for.
    #[must_use]
    pub const fn events_version(&self) -> u64 {
        self.events_version
    }

    /// Whether the accelerator offers `algorithm` now.
    #[must_use]
    pub fn offers(&self, lane: usize, algorithm: Algorithm) -> bool {
        self.lanes
            .get(lane)
            .is_some_and(|lane| lane.offers(algorithm))
    }

    /// How the router decides.
    #[must_use]
    pub const fn options(&self) -> &Options {
        &self.options
    }

    /// Number of accelerators.
    #[must_use]
    pub fn lane_count(&self) -> usize {
        self.lanes.len()
    }

    /// What is known of an accelerator.
    ///
    /// # Panics
    ///
    /// If there are not so many.
    #[must_use]
    pub fn status(&self, lane: usize) -> LaneStatus {
        let lane = &self.lanes[lane];
        LaneStatus {
            name: lane.name.clone(),
            state: lane.accelerator.as_ref().map(|_| lane.state),
            state_since: lane.state_since,
            failure: lane.failure.clone(),
            breaker: lane.breaker.state(),
            breaker_since: lane.breaker.since(),
            breaker_opened: lane.breaker.opened(),
            breaker_opened_by: lane.breaker.opened_by(),
            requests: lane.requests,
            checks: lane.checks,
            resets: lane.resets,
            resets_failed: lane.resets_failed,
            lacking: lane.lacking.clone(),
            keys_refused: lane.refused_keys.len(),
            counters: lane
                .accelerator
                .as_ref()
                .map_or(lane.counters, |accelerator| accelerator.counters()),
        }
    }

    /// Where the requests to all accelerators went.
    #[must_use]
    pub fn requests(&self) -> Requests {
        self.lanes
            .iter()
            .fold(Requests::default(), |mut sum, lane| {
                sum += lane.requests;
                sum
            })
    }

    fn begin_next_test(&mut self, lane: usize, purpose: Purpose, now: Instant) -> bool {
        self.lanes[lane]
            .next_test(purpose)
            .is_some_and(|test| self.begin_test(lane, test, purpose, now))
    }

    fn begin_test(
        &mut self,
        lane: usize,
        test: &'static KnownAnswer,
        purpose: Purpose,
        now: Instant,
    ) -> bool {
        let operation = match purpose {
            Purpose::Trial | Purpose::Check => test.operation(),
            // An open session of before proves nothing to a caller who was refused one.
            Purpose::Question(_) | Purpose::Witness(_) => test.operation_with_new_key(),
        };
        let id = self.insert(Pending::Test {
            lane,
            test,
            purpose,
            begun: now,
            epoch: self.lanes[lane].breaker.epoch(),
            depth: self.lanes[lane].in_flight(),
        });
        let request = Request {
            id,
            operation: Arc::new(operation),
            deadline: now.plus(self.options.timeout),
        };
        if self.lanes[lane].submit(request, now).is_err() {
            self.remove(id);
            return false;
        }
        if let Some(accelerator) = &mut self.lanes[lane].accelerator {
            accelerator.flush();
        }
        true
    }

    fn arrive(&mut self, completion: Completion, now: Instant, arrivals: &mut Vec<Arrival>) {
        let Completion { request, output } = completion;
        let Request { id, operation, .. } = request;
        match self.get_mut(id) {
            Some(Pending::Caller(_)) => self.end_flight(id, operation, output, now, arrivals),
            Some(Pending::Test { .. }) => self.finish_test(id, &operation, output, now),
            None => {}
        }
    }

    fn finish_test(
        &mut self,
        id: RequestId,
        operation: &Operation,
        output: Result<Unverified<Vec<u8>>, DeviceError>,
        now: Instant,
    ) {
        let Some(Pending::Test {
            lane: index,
            test,
            purpose,
            begun,
            epoch,
            depth,
        }) = self.remove(id)
        else {
            return;
        };
        let failure = match output.map(|answer| test.accepts(operation, answer)) {
            Ok(true) => None,
            Ok(false) => Some(DeviceError::from(DeviceMisbehaved::WrongAnswer)),
            Err(error) => Some(error),
        };
        self.lanes[index].in_question.retain(|one| match purpose {
            Purpose::Question(_) => *one != test.algorithm(),
            Purpose::Witness(refused) => *one != refused,
            Purpose::Trial | Purpose::Check => true,
        });
        if let Some(error) = &failure
            && error.is_refusal()
            && self.ask_further(index, test.algorithm(), purpose, now)
        {
            return;
        }
        let lane = &mut self.lanes[index];
        if failure.is_none() && epoch == lane.breaker.epoch() {
            lane.learn(test.algorithm(), purpose);
            lane.time_test(Class::of(operation), purpose, depth, now.since(begun));
        }
        match (purpose, failure) {
            (Purpose::Trial, _) if epoch != lane.breaker.epoch() => {}
            (Purpose::Trial, None) => lane.breaker.pass_trial(now),
            (Purpose::Trial, Some(error)) => {
                lane.breaker.open(error.code(), now);
                lane.failure = Some(error);
            }
            (_, failure) => {
                lane.checks.passed += u64::from(failure.is_none());
                lane.checks.failed += u64::from(failure.is_some());
                lane.checks.last = Some(CheckEnd {
                    algorithm: test.algorithm(),
                    at: now,
                    latency: now.since(begun),
                    failure: failure.as_ref().map(DeviceError::code),
                });
                if let Some(outcome) = failure.as_ref().and_then(outcome_of)
                    && let Some(permit) = lane.breaker.admit()
                {
                    lane.breaker.record(permit, outcome, now);
                }
            }
        }
    }

    /// Follows a known answer that was refused with another that tells why. Returns whether there is
    /// one: then that decides. The picture above shows the order.
    fn ask_further(
        &mut self,
        index: usize,
        algorithm: Algorithm,
        purpose: Purpose,
        now: Instant,
    ) -> bool {
        let lane = &mut self.lanes[index];
        if lane.proven.contains(&algorithm) {
            return false;
        }
        if !lane.offers(algorithm) {
            // The card offers it no more, and so has said itself that it lacks it.
            note(&mut lane.lacking, algorithm);
            let purpose = match purpose {
                Purpose::Trial => Purpose::Trial,
                _ => Purpose::Check,
            };
            return self.begin_next_test(index, purpose, now);
        }
        if purpose == Purpose::Trial || !algorithm.is_variant() {
            return false;
        }
        let begun = lane
            .witness()
            .is_some_and(|test| self.begin_test(index, test, Purpose::Witness(algorithm), now));
        if begun {
            note(&mut self.lanes[index].in_question, algorithm);
        }
        begun
    }

    /// Counts a caller's request that did not come back well, and tells the breaker or, where it may
    /// not be the card's fault, finds out whose it is.
    fn judge(
        &mut self,
        index: usize,
        permit: Option<Permit>,
        operation: &Operation,
        error: &DeviceError,
        now: Instant,
    ) {
        let lane = &mut self.lanes[index];
        lane.requests.count(error);
        if let Some(key) = lane.doubted_key(operation, error) {
            // The permit lapses: this is no outcome.
            self.question(index, operation.algorithm(), key, now);
        } else if let (Some(permit), Some(outcome)) = (permit, outcome_of(error)) {
            lane.breaker.record(permit, outcome, now);
        }
    }

    /// Asks an accelerator that has refused a caller for the known answer of the same algorithm.
    fn question(&mut self, index: usize, algorithm: Algorithm, key: KeyId, now: Instant) {
        let lane = &mut self.lanes[index];
        let is_known = lane.in_question.contains(&algorithm) || lane.has_refused(key, algorithm);
        if is_known || lane.breaker.admit().is_none() {
            return;
        }
        if !lane.offers(algorithm) {
            note(&mut lane.lacking, algorithm);
            return;
        }
        let mut tests = kat::of(algorithm);
        let begun = tests
            .next()
            .is_some_and(|test| self.begin_test(index, test, Purpose::Question(key), now));
        if begun {
            self.lanes[index].in_question.push(algorithm);
            self.lanes[index].checks.started += 1;
        }
    }

    /// Opens the breaker because of a fault of the accelerator as a whole.
    fn blame(&mut self, lane: usize, fault: &DeviceError, now: Instant) {
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.requests.misbehaved += u64::from(matches!(fault, DeviceError::Misbehaved(_)));
            lane.breaker.open(fault.code(), now);
            lane.note_state(now);
            self.events_version += 1;
        }
    }

    fn insert(&mut self, pending: Pending) -> RequestId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.pending.push(Slot {
                generation: 0,
                pending: None,
            });
            u32::try_from(self.pending.len() - 1)
                .expect("memory ends long before four billion requests")
        });
        let slot = &mut self.pending[index as usize];
        slot.pending = Some(pending);
        RequestId {
            index,
            generation: slot.generation,
        }
    }

    fn get_mut(&mut self, id: RequestId) -> Option<&mut Pending> {
        self.pending
            .get_mut(id.index as usize)
            .filter(|slot| slot.generation == id.generation)?
            .pending
            .as_mut()
    }

    fn remove(&mut self, id: RequestId) -> Option<Pending> {
        let slot = self
            .pending
            .get_mut(id.index as usize)
            .filter(|slot| slot.generation == id.generation)?;
        let pending = slot.pending.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id.index);
        Some(pending)
    }
}

impl Lane {
    fn new(accelerator: Box<dyn Accelerator>, limits: Limits) -> Self {
        Self {
            name: accelerator.name().to_owned(),
            state: accelerator.state(),
            state_since: Instant::ORIGIN,
            counters: Counters::default(),
            accelerator: Some(accelerator),
            breaker: Breaker::new(limits),
            requests: Requests::default(),
            checks: Checks::default(),
            resets: 0,
            resets_failed: 0,
            failure: None,
            checks_begun: 0,
            proven: Vec::new(),
            lacking: Vec::new(),
            in_question: Vec::new(),
            refused_keys: VecDeque::new(),
            speeds: std::array::from_fn(|_| Speed::new()),
        }
    }

    fn offers(&self, algorithm: Algorithm) -> bool {
        let accelerator = self.accelerator.as_ref();
        accelerator.is_some_and(|accelerator| accelerator.offers(algorithm))
            && !self.lacking.contains(&algorithm)
    }

    /// Whether an operation of a kind it offers would be refused, or it is being found out.
    fn will_refuse(&self, operation: &Operation) -> bool {
        let algorithm = operation.algorithm();
        let asked = self.in_question.contains(&algorithm) && !self.proven.contains(&algorithm);
        asked || signing_key(operation).is_some_and(|key| self.has_refused(key, algorithm))
    }

    fn has_refused(&self, key: KeyId, algorithm: Algorithm) -> bool {
        self.refused_keys.contains(&(key, algorithm))
    }

    /// The key of a refused operation, if the refusal may be the key's or the algorithm's fault: a
    /// session for the key was refused, or the algorithm has not worked since the last reset. What
    /// has worked, and is offered no more, is neither's.
    fn doubted_key(&self, operation: &Operation, error: &DeviceError) -> Option<KeyId> {
        let key = signing_key(operation).filter(|_| error.is_refusal())?;
        let algorithm = operation.algorithm();
        let doubted = if self.proven.contains(&algorithm) {
            self.has_refused(key, algorithm)
                || matches!(error, DeviceError::SessionRefused(_)) && self.offers(algorithm)
        } else {
            algorithm.is_variant() || matches!(error, DeviceError::SessionRefused(_))
        };
        doubted.then_some(key)
    }

    /// Takes note of what a known answer that was right says.
    fn learn(&mut self, algorithm: Algorithm, purpose: Purpose) {
        note(&mut self.proven, algorithm);
        match purpose {
            Purpose::Witness(refused) => note(&mut self.lacking, refused),
            Purpose::Question(key) => {
                if self.refused_keys.len() >= REFUSED_KEYS_MAX {
                    self.refused_keys.pop_front();
                }
                self.refused_keys.push_back((key, algorithm));
            }
            Purpose::Trial | Purpose::Check => {}
        }
    }

    /// Takes note of how long a known answer took that was right. One under a key of its own takes
    /// longer, and says nothing about others.
    fn time_test(&mut self, class: Class, purpose: Purpose, depth: usize, latency: Duration) {
        let speed = &mut self.speeds[class.index()];
        match purpose {
            Purpose::Trial => speed.guess(latency),
            Purpose::Check => speed.record(depth, latency),
            Purpose::Question(_) | Purpose::Witness(_) => {}
        }
    }

    /// The test of a variant that has worked.
    fn witness(&self) -> Option<&'static KnownAnswer> {
        kat::ALL.iter().find(|test| {
            let algorithm = test.algorithm();
            algorithm.is_variant() && self.proven.contains(&algorithm) && self.offers(algorithm)
        })
    }

    fn submit(&mut self, request: Request, now: Instant) -> Result<(), Rejected> {
        match &mut self.accelerator {
            Some(accelerator) => accelerator.submit(request, now),
            None => Err(Rejected {
                request,
                reason: RejectReason::NotReady,
            }),
        }
    }

    fn poll(&mut self, now: Instant, completions: &mut Vec<Completion>) {
        if let Some(accelerator) = &mut self.accelerator {
            accelerator.poll(now, completions);
        }
    }

    fn take_fault(&mut self) -> Option<DeviceError> {
        self.accelerator.as_mut()?.take_fault()
    }

    /// The test to run next: for a trial always the first that is offered, so that the most wanted
    /// algorithm decides; otherwise each in turn, so that none is broken unnoticed.
    fn next_test(&mut self, purpose: Purpose) -> Option<&'static KnownAnswer> {
        let offered: Vec<_> = kat::ALL
            .iter()
            .filter(|test| self.offers(test.algorithm()))
            .collect();
        let turn = match purpose {
            Purpose::Trial => 0,
            _ => {
                self.checks_begun += 1;
                self.checks_begun - 1
            }
        };
        offered.get(turn.checked_rem(offered.len())?).copied()
    }

    fn note_state(&mut self, now: Instant) {
        if let Some(accelerator) = &self.accelerator {
            let state = accelerator.state();
            if state != self.state {
                self.state = state;
                self.state_since = now;
            }
            self.counters = accelerator.counters();
        }
    }
}

/// The key that an operation signs with.
fn signing_key(operation: &Operation) -> Option<KeyId> {
    match operation {
        Operation::Sign { key, .. } => Some(key.id()),
        _ => None,
    }
}

/// Adds `algorithm` if it is not there.
fn note(algorithms: &mut Vec<Algorithm>, algorithm: Algorithm) {
    if !algorithms.contains(&algorithm) {
        algorithms.push(algorithm);
    }
}

/// What a request that did not come back well says about its accelerator.
const fn outcome_of(error: &DeviceError) -> Option<Outcome> {
    match error {
        DeviceError::Failed(_) | DeviceError::SessionRefused(_) | DeviceError::TimedOut => {
            Some(Outcome::Failure(error.code()))
        }
        DeviceError::Misbehaved(_) => Some(Outcome::Misbehaved(error.code())),
        // Victims of a fault that is reported by itself.
        DeviceError::BusError
        | DeviceError::Gone
        | DeviceError::Abandoned
        | DeviceError::NotUsable(_) => None,
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("name", &self.name)
            .field("breaker", &self.breaker)
            .field("requests", &self.requests)
            .finish_non_exhaustive()
    }
}
