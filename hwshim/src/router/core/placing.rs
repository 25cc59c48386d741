//! Where a request goes when it comes, and where it is until it ends.
//!
//! An accelerator is chosen by when its answer is to be expected, with what it has in flight now;
//! among those that answer about equally soon the one that has less to do. So a slow card among
//! fast ones gets work when the fast ones have so much that it would answer as soon, and a card whose
//! breaker opens leaves the choice until it is back. All of them are looked at: there are few, and
//! what makes others draw two at random, that looking is dear or out of date, does not hold here.
//!
//! Whether that one is better than software is for [`choice`] to say.

use super::{Arrival, Asked, Core, Ending, Lane, Pending, Placed, Took};
use crate::accelerator::class::Class;
use crate::accelerator::software::OperationError;
use crate::accelerator::{
    Algorithm, Batch, DeviceError, Operation, RejectReason, Rejected, Request, RequestId,
    Unverified,
};
use crate::clock::Instant;
use crate::router::choice::{
    Caller, Choice, Gathering, HANDLING, Prospect, Reason, Situation, TRIED_EVERY, tried_every,
};
use crate::router::outlook::{Interest, Outlook};
use crate::router::speed::Latency;
use crate::spec::crypto::Status;
use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

/// Where a caller's request is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Place {
    /// Its accelerator has it, and its caller waits.
    InFlight,
    /// Its accelerator has it, and nobody waits.
    GivenUp,
    /// Its accelerator has it, and its caller does it in software.
    Hedged,
    /// Its accelerator has it, and it has ended.
    Straggling,
    /// Only its caller has it.
    WithCaller,
}

/// An accelerator that would take a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    lane: usize,
    /// When its answer is to be expected, not yet verified.
    latency: Duration,
    /// When it may come at worst.
    at_worst: Duration,
    in_flight: usize,
    /// What the batch takes that it would be in, if its accelerator has timed such.
    batch_takes: Option<Duration>,
    /// No caller has had an answer since its trial, by which its latency is guessed.
    is_untried: bool,
}

/// Where a request is to go.
enum Route {
    Accelerator(Candidate),
    Software {
        /// Accelerators that would take it have too much to do.
        shed: bool,
    },
}

/// What the choice depends on, of a request.
#[derive(Clone, Copy)]
struct Wanted {
    algorithm: Algorithm,
    class: Class,
    caller: Caller,
    left: Duration,
    /// Software cannot do it.
    needs_accelerator: bool,
}

impl Core {
    /// Takes a request of a [task](Caller::Task) and finds a place for it.
    ///
    /// An accelerator has until `deadline`. The caller's own mistakes are not shown to one:
    /// software finds them as well, and nobody's breaker hears of them.
    pub fn submit(
        &mut self,
        operation: impl Into<Arc<Operation>>,
        deadline: Instant,
        now: Instant,
    ) -> Placed {
        self.submit_for(Caller::Task, operation, deadline, now)
    }

    /// Takes a request and finds a place for it, as [`Core::submit`] does.
    pub fn submit_for(
        &mut self,
        caller: Caller,
        operation: impl Into<Arc<Operation>>,
        deadline: Instant,
        now: Instant,
    ) -> Placed {
        let mut operation = operation.into();
        let wanted = Wanted {
            algorithm: operation.algorithm(),
            class: Class::of(&operation),
            caller,
            left: deadline.since(now),
            needs_accelerator: operation.needs_accelerator(),
        };
        self.hedges.earn();
        let offloaded = self.options.offload.includes(wanted.algorithm) || wanted.needs_accelerator;
        if !offloaded || operation.check().is_err() {
            return self.place_in_software(operation, wanted, false, now);
        }
        let mut candidates = std::mem::take(&mut self.candidates);
        let mut shed = self.gather(&operation, wanted.class, &mut candidates);
        let placed = loop {
            match self.route(wanted, &candidates) {
                Route::Accelerator(to) => {
                    match self.place_on_card(to, operation, wanted, deadline, now) {
                        Ok(id) => break Placed::OnCard(id),
                        Err(Rejected { request, reason }) => {
                            operation = request.operation;
                            shed |= reason == RejectReason::Full;
                        }
                    }
                    candidates.retain(|candidate| candidate.lane != to.lane);
                }
                Route::Software { shed: too_long } => {
                    break self.place_in_software(operation, wanted, shed || too_long, now);
                }
            }
        };
        candidates.clear();
        self.candidates = candidates;
        placed
    }

    /// Says how many requests callers have announced, that have not come yet.
    pub const fn announce(&mut self, count: usize) {
        self.announced = count;
    }

    /// Says how many requests software does now that were never handed in.
    pub(in crate::router) const fn beside(&mut self, count: usize) {
        self.beside = count;
    }

    /// Takes note of what software took for a request that was never handed in.
    pub(in crate::router) fn took_beside(&mut self, class: Class, took: Duration) {
        self.costs.record_software(class, took);
    }

    /// Counts requests of `class` that were told beforehand to stay in software, and so never came.
    pub(in crate::router) fn pass_over(&mut self, class: Class, count: u32) {
        for lane in &mut self.lanes {
            let speed = &mut lane.speeds[class.index()];
            speed.passed_over = speed.passed_over.saturating_add(count);
        }
    }

    /// Takes note of what it took to end a request, which is about to be settled.
    pub fn took(&mut self, id: RequestId, took: Took) {
        let Some(Pending::Caller(asked)) = self.get_mut(id) else {
            return;
        };
        let class = asked.class;
        match took {
            Took::Software(took) => self.costs.record_software(class, took),
            Took::Verify(took) => self.costs.record_verify(class, took),
        }
    }

    /// Gathers the accelerators that would take `operation`. Returns whether one would if it had
    /// less to do.
    fn gather(&self, operation: &Operation, class: Class, into: &mut Vec<Candidate>) -> bool {
        let algorithm = operation.algorithm();
        let mut full = false;
        for (index, lane) in self.lanes.iter().enumerate() {
            if !lane.is_open_to(algorithm) || lane.will_refuse(operation) {
                continue;
            }
            match self.candidate(index, class) {
                Some(candidate) => into.push(candidate),
                None => full = true,
            }
        }
        full
    }

    /// What an accelerator in use would do to one more request, if it may have one.
    fn candidate(&self, index: usize, class: Class) -> Option<Candidate> {
        let lane = &self.lanes[index];
        let in_flight = lane.in_flight();
        let admits = self.options.admission.admits_to_accelerator(in_flight);
        admits.then(|| {
            let batch = lane.next_batch(class);
            let by_batch =
                batch.map(|Batch { takes, before }| Latency::certain(before.saturating_add(takes)));
            let Latency { expected, at_worst } =
                by_batch.unwrap_or_else(|| self.latency(lane, class, in_flight));
            Candidate {
                lane: index,
                latency: expected,
                at_worst,
                in_flight,
                batch_takes: batch.map(|batch| batch.takes),
                is_untried: lane.speeds[class.index()].is_a_guess(),
            }
        })
    }

    /// The latency of `lane`. A class it has not done yet is taken to take as much longer there than
    /// another as in software.
    fn latency(&self, lane: &Lane, class: Class, depth: usize) -> Latency {
        let known = |class: Class| lane.speeds[class.index()].at(depth);
        let software = |class: Class| self.costs.of(class).software;
        let scaled = || {
            let (other, latency) = Class::ALL
                .into_iter()
                .find_map(|other| Some((other, known(other)?)))?;
            Some(latency.map(|latency| {
                let nanos = latency.as_nanos() * software(class).as_nanos()
                    / software(other).as_nanos().max(1);
                Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
            }))
        };
        known(class)
            .or_else(scaled)
            .unwrap_or_else(|| Latency::certain(software(class)))
    }

    /// What a candidate promises all things considered.
    fn prospect(&self, candidate: &Candidate, class: Class) -> Prospect {
        let verify = self.costs.of(class).verify;
        let lane = &self.lanes[candidate.lane];
        // Only what computes on this CPU gathers. Who comes alone is kept back for nobody, so the
        // latency of one is what a batch takes.
        let batch = (lane.batch_size() > 1).then(|| Gathering {
            takes: candidate
                .batch_takes
                .unwrap_or_else(|| self.latency(lane, class, 0).expected),
            size: lane.batch_size(),
            in_flight: candidate.in_flight,
        });
        Prospect {
            latency: candidate.latency.saturating_add(verify),
            at_worst: candidate.at_worst.saturating_add(verify),
            host: HANDLING.saturating_add(verify),
            batch,
        }
    }

    fn situation(&self, wanted: Wanted) -> Situation {
        let Wanted {
            class,
            caller,
            left,
            ..
        } = wanted;
        Situation {
            caller,
            software: self.costs.of(class).software,
            running: self.software_count + self.beside,
            in_flight: self.in_flight(),
            announced: self.announced,
            cores: self.options.cores,
            left,
        }
    }

    /// Requests that accelerators have.
    fn in_flight(&self) -> usize {
        self.lanes.iter().map(Lane::in_flight).sum()
    }

    /// Decides, and remembers who was passed over.
    fn route(&mut self, wanted: Wanted, candidates: &[Candidate]) -> Route {
        let best = soonest(candidates.iter().copied(), wanted.left);
        let choice = match best {
            Some(_) if wanted.needs_accelerator || self.options.offload.is_always() => {
                Choice::Accelerator
            }
            _ => {
                let prospect = best.map(|best| self.prospect(&best, wanted.class));
                self.situation(wanted).choose(prospect)
            }
        };
        let chosen = match (choice, best) {
            (Choice::Accelerator, Some(best)) => best.latency,
            _ => self.costs.of(wanted.class).software,
        };
        let worth_trying = match choice {
            Choice::Accelerator
            | Choice::Software(Reason::SoonerInSoftware | Reason::QueueTooLong) => true,
            // Alone in its batch it does not pay, and how else should it come to have company?
            Choice::Software(Reason::CostsMoreHere) => {
                best.is_some_and(|best| self.lanes[best.lane].batch_size() > 1)
            }
            Choice::Software(_) => false,
        };
        let tried = worth_trying
            .then(|| {
                self.try_another(
                    wanted,
                    candidates,
                    best.filter(|_| choice.is_accelerator()),
                    chosen,
                )
            })
            .flatten();
        match (tried, choice, best) {
            (Some(tried), ..) => Route::Accelerator(tried),
            (None, Choice::Accelerator, Some(best)) => Route::Accelerator(best),
            (None, choice, _) => {
                // Better late than not at all, if it is not too late.
                let other = if self.has_software_room(wanted.class) {
                    None
                } else {
                    in_time(candidates.iter().copied(), wanted.left)
                };
                match other {
                    Some(other) => Route::Accelerator(other),
                    None => Route::Software {
                        shed: choice == Choice::Software(Reason::QueueTooLong),
                    },
                }
            }
        }
    }

    /// Counts those that were passed over, and returns one for which it is time to be tried.
    fn try_another(
        &mut self,
        wanted: Wanted,
        candidates: &[Candidate],
        best: Option<Candidate>,
        chosen: Duration,
    ) -> Option<Candidate> {
        let mut due = None;
        for candidate in candidates {
            let is_best = best.is_some_and(|best| best.lane == candidate.lane);
            let speed = &mut self.lanes[candidate.lane].speeds[wanted.class.index()];
            if is_best {
                speed.passed_over = 0;
                continue;
            }
            speed.passed_over = speed.passed_over.saturating_add(1);
            let every = candidate.tried_every(wanted.left, chosen);
            let is_due = every.is_some_and(|every| speed.passed_over >= every);
            if is_due && due.is_none() {
                due = Some(*candidate);
            }
        }
        due
    }

    /// Gives a request to an accelerator that admits work, or gets it back.
    fn place_on_card(
        &mut self,
        to: Candidate,
        operation: Arc<Operation>,
        wanted: Wanted,
        deadline: Instant,
        now: Instant,
    ) -> Result<RequestId, Rejected> {
        let Candidate {
            lane: index,
            latency,
            in_flight,
            ..
        } = to;
        let speed = &mut self.lanes[index].speeds[wanted.class.index()];
        speed.passed_over = 0;
        let may_be_hedged = is_worth_a_hedge(&operation) && !self.options.offload.is_always();
        let hedge_after = may_be_hedged
            .then(|| self.options.hedge.wait(speed.p99(), latency))
            .flatten();
        let copy = hedge_after.map(|_| Arc::clone(&operation));
        let id = self.insert(Pending::Caller(Asked {
            lane: index,
            algorithm: wanted.algorithm,
            class: wanted.class,
            place: Place::InFlight,
            permit: self.lanes[index].breaker.admit(),
            tried: true,
            submitted: now,
            depth: in_flight,
            in_software: None,
            copy,
        }));
        let request = Request {
            id,
            operation,
            deadline,
        };
        if let Err(rejected) = self.lanes[index].submit(request, now) {
            self.remove(id);
            return Err(rejected);
        }
        self.lanes[index].requests.submitted += 1;
        self.lanes[index].requests.in_flight += 1;
        if let Some(after) = hedge_after {
            let due = now.plus(after);
            self.hedges_due
                .push(Reverse((due, id.index, id.generation)));
        }
        Ok(id)
    }

    /// Counts a request where it would have gone, so that the sum holds for each accelerator.
    fn place_in_software(
        &mut self,
        operation: Arc<Operation>,
        wanted: Wanted,
        shed: bool,
        now: Instant,
    ) -> Placed {
        let Wanted {
            algorithm, class, ..
        } = wanted;
        let offered = self.lanes.iter().position(|lane| lane.offers(algorithm));
        let lane = offered.unwrap_or(0);
        let has_room = self.has_software_room(class);
        let id = self.insert(Pending::Caller(Asked {
            lane,
            algorithm,
            class,
            place: Place::WithCaller,
            permit: None,
            tried: false,
            submitted: now,
            depth: 0,
            in_software: None,
            copy: None,
        }));
        let requests = &mut self.lanes[lane].requests;
        requests.submitted += 1;
        requests.in_flight += 1;
        if !has_room {
            requests.overloaded += 1;
            self.settle(id, &Ending::Refused);
            return Placed::Refused(id, OperationError::Overloaded);
        }
        requests.shed += u64::from(shed);
        self.enter_software(id);
        Placed::InSoftware(id, operation)
    }

    fn has_software_room(&self, class: Class) -> bool {
        let cost = self.costs.of(class).software;
        let limits = &self.options.admission;
        limits.admits_to_software(self.software_work, cost, self.options.cores)
    }

    /// Adds a request to the work that software has.
    fn enter_software(&mut self, id: RequestId) {
        let Some(Pending::Caller(asked)) = self.get_mut(id) else {
            return;
        };
        let class = asked.class;
        let cost = self.costs.of(class).software;
        if let Some(Pending::Caller(asked)) = self.get_mut(id)
            && asked.in_software.replace(cost).is_none()
        {
            self.software_count += 1;
            self.software_work += cost;
        }
    }

    /// Takes off what [`Core::enter_software`] has added for a request.
    pub(super) fn leave_software(&mut self, cost: Option<Duration>) {
        if let Some(cost) = cost {
            self.software_count -= 1;
            self.software_work = self.software_work.saturating_sub(cost);
        }
    }

    /// Asks software as well for what is late, as far as there is credit for it.
    pub(super) fn hedge_late(&mut self, now: Instant, arrivals: &mut Vec<Arrival>) {
        while let Some(Reverse((due, index, generation))) = self.hedges_due.peek().copied() {
            let id = RequestId { index, generation };
            let is_in_flight = matches!(self.get_mut(id),
                Some(Pending::Caller(asked)) if asked.place == Place::InFlight);
            if is_in_flight && due > now {
                return;
            }
            self.hedges_due.pop();
            if is_in_flight && self.hedges.spend() {
                self.hedge(id, arrivals);
            }
        }
    }

    fn hedge(&mut self, id: RequestId, arrivals: &mut Vec<Arrival>) {
        let Some(Pending::Caller(asked)) = self.get_mut(id) else {
            return;
        };
        let Some(operation) = asked.copy.take() else {
            return;
        };
        asked.place = Place::Hedged;
        let lane = asked.lane;
        self.lanes[lane].requests.hedged += 1;
        self.enter_software(id);
        arrivals.push(Arrival {
            id,
            operation,
            answer: Err(DeviceError::TimedOut),
            share: None,
        });
    }

    /// Takes a caller's request back from its accelerator.
    pub(super) fn end_flight(
        &mut self,
        id: RequestId,
        operation: Arc<Operation>,
        output: Result<Unverified<Vec<u8>>, DeviceError>,
        now: Instant,
        arrivals: &mut Vec<Arrival>,
    ) {
        let Some(Pending::Caller(asked)) = self.get_mut(id) else {
            return;
        };
        asked.copy = None;
        let (lane, place) = (asked.lane, asked.place);
        let flight = (asked.class, asked.depth, now.since(asked.submitted));
        if !is_undecided(&operation, &output) {
            let permit = asked.permit.take_if(|_| output.is_err());
            if let Err(error) = &output {
                self.judge(lane, permit, &operation, error, now);
            }
        }
        self.lanes[lane].time_flight(flight, &output);
        match place {
            Place::InFlight => {
                self.is_with_caller(id);
                if output.is_err() {
                    self.enter_software(id);
                }
                arrivals.push(Arrival {
                    id,
                    operation,
                    answer: output,
                    share: None,
                });
            }
            Place::GivenUp => self.settle(id, &Ending::Abandoned),
            Place::Hedged => {
                self.lanes[lane].requests.stragglers += u64::from(output.is_ok());
                self.is_with_caller(id);
            }
            Place::Straggling => {
                self.lanes[lane].requests.stragglers += u64::from(output.is_ok());
                self.remove(id);
            }
            // It has come back before; an accelerator that says so twice is not believed.
            Place::WithCaller => {}
        }
    }

    /// The accelerator is done with it.
    fn is_with_caller(&mut self, id: RequestId) {
        if let Some(Pending::Caller(asked)) = self.get_mut(id) {
            asked.place = Place::WithCaller;
        }
    }

    /// Writes down what a request would meet now, for who asks without waiting for the lock.
    pub(in crate::router) fn publish(&self, outlook: &Outlook) {
        self.write_down(outlook, outlook.interest());
    }

    /// Writes down what somebody asks about for the first time too, from now on.
    pub(in crate::router) fn publish_also(&self, outlook: &Outlook, new: Interest) {
        let interest = outlook.interest().and(new);
        self.write_down(outlook, interest);
        outlook.set_interest(interest);
    }

    fn write_down(&self, outlook: &Outlook, interest: Interest) {
        outlook.write_present(self.software_count, self.in_flight());
        if interest.is_nothing() {
            return;
        }
        let is_taken =
            |algorithm: &Algorithm| self.lanes.iter().any(|lane| lane.is_open_to(*algorithm));
        outlook.write_taken(interest.algorithms().filter(is_taken));
        for class in interest.classes() {
            let in_use = |lane: &usize| self.lanes[*lane].breaker.admit().is_some();
            let candidates = (0..self.lanes.len())
                .filter(in_use)
                .filter_map(|lane| self.candidate(lane, class));
            let best = soonest(candidates, self.options.timeout);
            let software = self.costs.of(class).software;
            let prospect = best.map(|best| self.prospect(&best, class));
            let every = best.filter(|best| {
                let costs_less = prospect.is_some_and(|prospect| prospect.host < software);
                costs_less || self.lanes[best.lane].batch_size() > 1
            });
            let every = every.and_then(|best| best.tried_every(self.options.timeout, software));
            outlook.write(class, software, prospect, every);
        }
    }
}

impl Candidate {
    /// After how many requests that went elsewhere it is to be tried, if it is to be at all, where the
    /// choice takes `chosen` and there is `left` until the deadline.
    fn tried_every(&self, left: Duration, chosen: Duration) -> Option<u32> {
        // A trial may have been slow because the host stood still; who has worked for callers was not.
        if self.is_untried {
            return Some(TRIED_EVERY);
        }
        // What has nothing to do and is that slow all the same may have got over it.
        let is_soon = self.latency <= left / 2 || self.in_flight == 0;
        is_soon.then(|| tried_every(self.latency, chosen))
    }
}

impl Lane {
    /// Whether it is in use and offers `algorithm`.
    fn is_open_to(&self, algorithm: Algorithm) -> bool {
        self.breaker.admit().is_some() && self.offers(algorithm)
    }

    pub(super) fn in_flight(&self) -> usize {
        let accelerator = self.accelerator.as_ref();
        accelerator.map_or(0, |accelerator| accelerator.in_flight())
    }

    fn batch_size(&self) -> usize {
        let accelerator = self.accelerator.as_ref();
        accelerator.map_or(1, |accelerator| accelerator.batch_size().get())
    }

    fn next_batch(&self, class: Class) -> Option<Batch> {
        self.accelerator.as_ref()?.next_batch(class)
    }

    /// Takes note of how long a request took. One that was refused says nothing about that.
    fn time_flight(
        &mut self,
        (class, depth, latency): (Class, usize, Duration),
        output: &Result<Unverified<Vec<u8>>, DeviceError>,
    ) {
        if matches!(output, Ok(_) | Err(DeviceError::TimedOut)) {
            self.speeds[class.index()].record(depth, latency);
        }
    }
}

/// The one to be preferred, which is one that is not late at worst if there is such.
fn soonest(
    candidates: impl Iterator<Item = Candidate> + Clone,
    left: Duration,
) -> Option<Candidate> {
    in_time(candidates.clone(), left / 2).or_else(|| candidates.reduce(sooner))
}

/// The one to be preferred, of those that take no more than `time` at worst.
fn in_time(candidates: impl Iterator<Item = Candidate>, time: Duration) -> Option<Candidate> {
    let in_time = candidates.filter(|candidate| candidate.at_worst <= time);
    in_time.reduce(sooner)
}

/// What is within an eighth is equal, as far as means can tell; then the one that has less to do, and
/// then the one that was named first.
fn sooner(first: Candidate, second: Candidate) -> Candidate {
    let clearly = |one: Duration, other: Duration| one.saturating_add(one / 8) < other;
    let second_is_sooner = clearly(second.latency, first.latency)
        || (!clearly(first.latency, second.latency) && second.in_flight < first.in_flight);
    if second_is_sooner { second } else { first }
}

/// A tag that does not fit is as likely the message's fault as the accelerator's; software tells.
fn is_undecided(operation: &Operation, output: &Result<Unverified<Vec<u8>>, DeviceError>) -> bool {
    matches!(
        (operation, output),
        (
            Operation::Open { .. },
            Err(DeviceError::Failed(Status::BADMSG))
        )
    )
}

/// Only signatures are, and only those that software can make.
fn is_worth_a_hedge(operation: &Operation) -> bool {
    matches!(operation, Operation::Sign { key, .. } if !key.is_elsewhere())
}

#[cfg(test)]
mod tests;
