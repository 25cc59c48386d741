//! The router's policy: which accelerator gets a request, and what follows from how it ends.
//!
//! It reads no clock, waits for nothing, starts no thread and computes no answer: it is told the
//! time, and whoever drives it fetches arrivals, verifies them and does in software what is left.
//!
//! ```text
//!            submit                 poll                     settle
//!  caller  --------->  in flight  -------->  arrived  ----------------------->  card
//!             |        on a card             (answer, or      |  verified
//!             |                               device error)   |
//!             +------------------------------> software ------+-------------->  software
//!               no card takes it                    caller's own error ----->  refused
//! ```
//!
//! Each request is in one of these places, and one counter or the other counts it:
//! `submitted = card + software + refused + in_flight` at any instant.

use super::breaker::{self, Breaker, Limits, Outcome, Permit};
use crate::accelerator::{
    Accelerator, Algorithm, Completion, Counters, DeviceError, DeviceMisbehaved, Operation,
    Request, RequestId, State, Unverified,
};
use crate::clock::Instant;
use crate::kat::{self, KnownAnswer};
use crate::spec::crypto::Status;
use std::fmt;
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
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: Duration::from_millis(200),
            limits: Limits::default(),
            offload: Offload::default(),
        }
    }
}

/// Which algorithms go to accelerators; the others are done in software where they are asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Offload(u32);

impl Offload {
    /// Nothing.
    pub const NOTHING: Self = Self(0);

    /// Everything an accelerator offers: for tests of the accelerator.
    pub const EVERYTHING: Self = Self(u32::MAX);

    /// This and `algorithm`.
    #[must_use]
    pub fn with(self, algorithm: Algorithm) -> Self {
        Self(self.0 | Self::bit(algorithm))
    }

    /// Whether `algorithm` goes to accelerators.
    #[must_use]
    #[inline]
    pub fn includes(self, algorithm: Algorithm) -> bool {
        self.0 & Self::bit(algorithm) != 0
    }

    fn bit(algorithm: Algorithm) -> u32 {
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
}

impl Requests {
    /// Whether the sum holds.
    #[must_use]
    pub const fn add_up(&self) -> bool {
        self.submitted == self.card + self.software + self.refused + self.in_flight
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
    pub operation: Operation,
    /// What the accelerator produced.
    pub answer: Result<Unverified<Vec<u8>>, DeviceError>,
}

/// Where a request went.
#[derive(Debug)]
pub enum Placed {
    /// It is in flight, and arrives by its deadline.
    OnCard(RequestId),
    /// No accelerator takes it: do it in software.
    InSoftware(RequestId, Operation),
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
}

impl Reset {
    /// Resets the accelerator: the one thing here that takes time.
    pub fn run(&mut self) {
        self.outcome = Some(self.accelerator.reset(&mut self.completions));
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
    /// What known answers have shown it to do.
    proven: Vec<Algorithm>,
    /// What they have shown it to lack, although its masks offer it.
    lacking: Vec<Algorithm>,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    pending: Option<Pending>,
}

#[derive(Debug)]
enum Pending {
    /// A caller's request.
    Caller {
        lane: usize,
        /// Present while the accelerator's answer is still to be judged.
        permit: Option<Permit>,
        /// The accelerator has been given it.
        tried: bool,
        /// Nobody waits for it any more.
        abandoned: bool,
    },
    /// A known-answer test of our own.
    Test {
        lane: usize,
        test: &'static KnownAnswer,
        purpose: Purpose,
        begun: Instant,
        /// Epoch of the breaker when it began; its end says nothing about another.
        epoch: u32,
    },
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Purpose {
    Trial,
    Check,
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
        }
    }

    /// Takes a request and finds a place for it.
    ///
    /// An accelerator has until `deadline`. The caller's own mistakes are not shown to one:
    /// software finds them as well, and nobody's breaker hears of them.
    pub fn submit(&mut self, operation: Operation, deadline: Instant, now: Instant) -> Placed {
        let algorithm = operation.algorithm();
        let offloaded = self.options.offload.includes(algorithm) && operation.check().is_ok();
        let mut operation = operation;
        let mut charged = None;
        for index in 0..self.lanes.len() {
            let lane = &mut self.lanes[index];
            if !offloaded || !lane.offers(algorithm) {
                continue;
            }
            charged = charged.or(Some(index));
            let Some(permit) = lane.breaker.admit() else {
                continue;
            };
            let id = self.insert(Pending::Caller {
                lane: index,
                permit: Some(permit),
                tried: true,
                abandoned: false,
            });
            let request = Request {
                id,
                operation,
                deadline,
            };
            match self.lanes[index].submit(request, now) {
                Ok(()) => {
                    self.lanes[index].requests.submitted += 1;
                    self.lanes[index].requests.in_flight += 1;
                    return Placed::OnCard(id);
                }
                Err(request) => {
                    self.remove(id);
                    operation = request.operation;
                }
            }
        }
        // Counted where it would have gone, so that the sum holds for each accelerator.
        let lane = charged.unwrap_or(0);
        let id = self.insert(Pending::Caller {
            lane,
            permit: None,
            tried: false,
            abandoned: false,
        });
        self.lanes[lane].requests.submitted += 1;
        self.lanes[lane].requests.in_flight += 1;
        Placed::InSoftware(id, operation)
    }

    /// Collects what accelerators have done, and what they have not done in time.
    pub fn poll(&mut self, now: Instant, arrivals: &mut Vec<Arrival>) {
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
    }

    /// Ends a request that [arrived](Self::poll) or was placed in software.
    pub fn settle(&mut self, id: RequestId, ending: &Ending, now: Instant) {
        let Some(Pending::Caller {
            lane,
            permit,
            tried,
            ..
        }) = self.remove(id)
        else {
            return;
        };
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
            lane.breaker.record(permit, Outcome::Success, now);
        }
    }

    /// Records that the answer to a request that arrived did not verify. The request stays open;
    /// software answers it.
    pub fn reject(&mut self, id: RequestId, rule: &DeviceMisbehaved, now: Instant) {
        if let Some(Pending::Caller { lane, permit, .. }) = self.get_mut(id) {
            let (lane, permit) = (*lane, permit.take());
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
    pub fn abandon(&mut self, id: RequestId, arrived: bool, now: Instant) {
        if arrived {
            self.settle(id, &Ending::Abandoned, now);
        } else if let Some(Pending::Caller { abandoned, .. }) = self.get_mut(id) {
            *abandoned = true;
        }
    }

    /// Begins a known-answer test on an accelerator that is in use. Returns false if there is
    /// none to be run now.
    pub fn begin_check(&mut self, lane: usize, now: Instant) -> bool {
        let closed = self
            .lanes
            .get(lane)
            .is_some_and(|lane| lane.breaker.admit().is_some());
        let begun = closed && self.begin_test(lane, Purpose::Check, now);
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
        } = reset;
        let lane = &mut self.lanes[index];
        if lane.state == State::Gone {
            // What comes back may be another card.
            lane.proven.clear();
            lane.lacking.clear();
        }
        lane.accelerator = Some(accelerator);
        lane.note_state(now);
        self.events_version += 1;
        for completion in completions {
            self.arrive(completion, now, arrivals);
        }
        let lane = &mut self.lanes[index];
        match outcome {
            None => lane.breaker.open("reset-not-run", now),
            Some(Err(error)) => {
                lane.resets_failed += 1;
                lane.breaker.open(error.code(), now);
                lane.failure = Some(error);
            }
            Some(Ok(())) => {
                lane.resets += 1;
                lane.failure = None;
                if !self.begin_test(index, Purpose::Trial, now) {
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
        lanes.min().unwrap_or(Instant::NEVER)
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

    fn begin_test(&mut self, lane: usize, purpose: Purpose, now: Instant) -> bool {
        let Some(test) = self.lanes[lane].next_test(purpose) else {
            return false;
        };
        let id = self.insert(Pending::Test {
            lane,
            test,
            purpose,
            begun: now,
            epoch: self.lanes[lane].breaker.epoch(),
        });
        let request = Request {
            id,
            operation: test.operation(),
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
            Some(Pending::Caller {
                lane,
                permit,
                abandoned,
                ..
            }) => {
                let (lane, abandoned) = (*lane, *abandoned);
                // A tag that does not fit is as likely the message's fault; software tells.
                let undecided = matches!(
                    (&operation, &output),
                    (
                        Operation::Open { .. },
                        Err(DeviceError::Failed(Status::BADMSG))
                    )
                );
                if let Err(error) = &output
                    && !undecided
                {
                    let permit = permit.take();
                    self.lanes[lane].judge(permit, error, now);
                }
                if abandoned {
                    self.settle(id, &Ending::Abandoned, now);
                } else {
                    arrivals.push(Arrival {
                        id,
                        operation,
                        answer: output,
                    });
                }
            }
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
        }) = self.remove(id)
        else {
            return;
        };
        let failure = match output.map(|answer| test.accepts(operation, answer)) {
            Ok(true) => None,
            Ok(false) => Some(DeviceError::from(DeviceMisbehaved::WrongAnswer)),
            Err(error) => Some(error),
        };
        // The card refuses what its masks offer: that is "not offered", so another test decides.
        if let Some(error) = &failure
            && self.lanes[index].finds_lacking(test.algorithm(), error, purpose)
            && self.begin_test(index, purpose, now)
        {
            return;
        }
        let lane = &mut self.lanes[index];
        if failure.is_none() && !lane.proven.contains(&test.algorithm()) {
            lane.proven.push(test.algorithm());
        }
        match (purpose, failure) {
            (Purpose::Trial, _) if epoch != lane.breaker.epoch() => {}
            (Purpose::Trial, None) => lane.breaker.pass_trial(now),
            (Purpose::Trial, Some(error)) => {
                lane.breaker.open(error.code(), now);
                lane.failure = Some(error);
            }
            (Purpose::Check, failure) => {
                lane.checks.passed += u64::from(failure.is_none());
                lane.checks.failed += u64::from(failure.is_some());
                lane.checks.last = Some(CheckEnd {
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
        }
    }

    fn offers(&self, algorithm: Algorithm) -> bool {
        let accelerator = self.accelerator.as_ref();
        accelerator.is_some_and(|accelerator| accelerator.offers(algorithm))
            && !self.lacking.contains(&algorithm)
    }

    /// Whether the answer to a known-answer test says that the accelerator lacks the algorithm.
    ///
    /// One padding of RSA that is refused from the start, by a card that was well a moment ago, is
    /// lacking: masks know RSA as a whole, and QEMU's device opens sessions for what it then
    /// cannot do. What has worked before, or comes after another failure, is a failure.
    fn finds_lacking(
        &mut self,
        algorithm: Algorithm,
        error: &DeviceError,
        purpose: Purpose,
    ) -> bool {
        let was_well = self.checks.last.is_none_or(|last| last.failure.is_none());
        if purpose == Purpose::Check
            && error.is_refusal()
            && algorithm.is_variant()
            && was_well
            && !self.proven.contains(&algorithm)
        {
            self.lacking.push(algorithm);
        }
        error.is_refusal() && !self.offers(algorithm)
    }

    fn submit(&mut self, request: Request, now: Instant) -> Result<(), Request> {
        match &mut self.accelerator {
            Some(accelerator) => accelerator
                .submit(request, now)
                .map_err(|rejected| rejected.request),
            None => Err(request),
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

    /// Counts a request that did not come back well, and tells the breaker.
    fn judge(&mut self, permit: Option<Permit>, error: &DeviceError, now: Instant) {
        match error {
            DeviceError::Failed(_) | DeviceError::SessionRefused(_) => self.requests.failed += 1,
            DeviceError::TimedOut => self.requests.timed_out += 1,
            DeviceError::Misbehaved(_) => self.requests.wrong_answers += 1,
            DeviceError::BusError
            | DeviceError::Gone
            | DeviceError::Abandoned
            | DeviceError::NotUsable(_) => {}
        }
        if let (Some(permit), Some(outcome)) = (permit, outcome_of(error)) {
            self.breaker.record(permit, outcome, now);
        }
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
            Purpose::Check => {
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
