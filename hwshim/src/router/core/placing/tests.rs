//! The policy as a whole, over accelerators made of a service time and a number of engines, on a clock
//! that a test moves. No answer is computed but those of trials.

use super::*;
use crate::accelerator::{Accelerator, Completion, Counters, Rejected, State, software};
use crate::kat;
use crate::key::{SignatureScheme, SigningKey};
use crate::router::core::{Offload, Options};
use crate::router::{admission, breaker, hedge};
use std::collections::BinaryHeap;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard};

const fn micros(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

/// What the tests take RSA-2048 to cost.
const SOFTWARE: Duration = micros(620);
const VERIFY: Duration = micros(25);

/// An accelerator of some engines, each of which does one request after the other.
#[derive(Debug)]
struct Engines(Arc<Mutex<Works>>);

#[derive(Debug)]
struct Works {
    service: Duration,
    free_at: Vec<Instant>,
    queue: Vec<(Instant, Request)>,
    depth_max: usize,
    batch_size: NonZeroUsize,
    next_batch: Option<Batch>,
    /// It takes requests and answers none.
    hangs: bool,
    /// Requests whose answers are computed: that of the trial.
    honest: usize,
    given: usize,
}

impl Engines {
    fn build(service: Duration, engines: usize) -> (Box<dyn Accelerator>, Arc<Mutex<Works>>) {
        let works = Arc::new(Mutex::new(Works {
            service,
            free_at: vec![Instant::ORIGIN; engines],
            queue: Vec::new(),
            depth_max: usize::MAX,
            batch_size: NonZeroUsize::MIN,
            next_batch: None,
            hangs: false,
            honest: 1,
            given: 0,
        }));
        (Box::new(Self(Arc::clone(&works))), works)
    }

    fn works(&self) -> MutexGuard<'_, Works> {
        self.0.lock().unwrap()
    }
}

impl Accelerator for Engines {
    fn name(&self) -> &'static str {
        "engines"
    }

    fn offers(&self, _algorithm: Algorithm) -> bool {
        true
    }

    fn batch_size(&self) -> NonZeroUsize {
        self.works().batch_size
    }

    fn next_batch(&self, _class: Class) -> Option<Batch> {
        self.works().next_batch
    }

    fn submit(&mut self, request: Request, now: Instant) -> Result<(), Rejected> {
        let mut works = self.works();
        if works.queue.len() >= works.depth_max {
            return Err(Rejected {
                request,
                reason: RejectReason::Full,
            });
        }
        let (service, hangs) = (works.service, works.hangs);
        let engine = works.free_at.iter_mut().min().unwrap();
        let done = (*engine).max(now).plus(service);
        *engine = done;
        let done = if hangs { Instant::NEVER } else { done };
        works.queue.push((done, request));
        works.given += 1;
        Ok(())
    }

    fn flush(&mut self) {}

    fn poll(&mut self, now: Instant, completions: &mut Vec<Completion>) {
        let mut works = self.works();
        let is_out =
            |(done, request): &mut (Instant, Request)| *done <= now || request.deadline <= now;
        let out: Vec<_> = works.queue.extract_if(.., is_out).collect();
        for (done, request) in out {
            let output = if done > now {
                Err(DeviceError::TimedOut)
            } else if works.honest > 0 {
                works.honest -= 1;
                Ok(Unverified(software::perform(&request.operation).unwrap()))
            } else {
                Ok(Unverified(Vec::new()))
            };
            completions.push(Completion { request, output });
        }
    }

    fn next_deadline(&self) -> Instant {
        let works = self.works();
        let next = works
            .queue
            .iter()
            .map(|(done, request)| request.deadline.min(*done));
        next.min().unwrap_or(Instant::NEVER)
    }

    fn in_flight(&self) -> usize {
        self.works().queue.len()
    }

    fn reset(&mut self, completions: &mut Vec<Completion>) -> Result<(), DeviceError> {
        self.hand_back(completions);
        self.works().honest = 1;
        Ok(())
    }

    fn hand_back(&mut self, completions: &mut Vec<Completion>) {
        completions.extend(self.works().queue.drain(..).map(|(_, request)| Completion {
            request,
            output: Err(DeviceError::Abandoned),
        }));
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

    fn state(&self) -> State {
        State::Ready
    }

    fn counters(&self) -> Counters {
        Counters::default()
    }
}

/// A core, its time, and what drives it.
struct Desk {
    core: Core,
    now: Instant,
    key: Arc<SigningKey>,
    scheme: SignatureScheme,
    arrivals: Vec<Arrival>,
}

fn options() -> Options {
    Options {
        cores: 1,
        ..Options::default()
    }
}

impl Desk {
    /// Over accelerators that have passed their trials.
    fn new(accelerators: Vec<Box<dyn Accelerator>>, options: Options) -> Self {
        let mut desk = Self {
            core: Core::new(accelerators, options),
            now: Instant::ORIGIN.plus(Duration::from_secs(1)),
            key: kat::rsa_2048_key(),
            scheme: SignatureScheme::RsaPssSha256,
            arrivals: Vec::new(),
        };
        desk.bring_up();
        desk.core.costs.record_software(Class::Rsa2048, SOFTWARE);
        desk.core.costs.record_verify(Class::Rsa2048, VERIFY);
        desk
    }

    /// Over one accelerator.
    fn over(service: Duration, engines: usize) -> (Self, Arc<Mutex<Works>>) {
        let (accelerator, works) = Engines::build(service, engines);
        (Self::new(vec![accelerator], options()), works)
    }

    /// Resets what is due, and waits for the trials.
    fn bring_up(&mut self) {
        while let Some(mut reset) = self.core.take_due_reset(self.now, &mut self.arrivals) {
            reset.run();
            self.core.restore(reset, self.now, &mut self.arrivals);
        }
        while self.core.in_flight() > 0 {
            self.now = self.core.next_wake();
            self.core.poll(self.now, &mut self.arrivals);
        }
    }

    fn submit(&mut self) -> Placed {
        self.submit_for(Caller::Task)
    }

    fn submit_for(&mut self, caller: Caller) -> Placed {
        let operation = Operation::Sign {
            key: Arc::clone(&self.key),
            scheme: self.scheme,
            message: b"message"[..].into(),
        };
        let deadline = self.now.plus(self.core.options.timeout);
        let placed = self.core.submit_for(caller, operation, deadline, self.now);
        self.check();
        placed
    }

    /// Submits one that an accelerator is expected to take.
    fn submit_to_card(&mut self) -> RequestId {
        match self.submit() {
            Placed::OnCard(id) => id,
            placed => panic!("{placed:?}"),
        }
    }

    fn wait(&mut self, time: Duration) -> Vec<Arrival> {
        self.now = self.now.plus(time);
        self.core.poll(self.now, &mut self.arrivals);
        self.check();
        std::mem::take(&mut self.arrivals)
    }

    fn settle(&mut self, id: RequestId, ending: Ending) {
        self.core.settle(id, &ending);
        self.check();
    }

    /// Does in software what was placed there.
    fn do_in_software(&mut self, id: RequestId) {
        self.now = self.now.plus(SOFTWARE);
        self.core.took(id, Took::Software(SOFTWARE));
        self.settle(id, Ending::Software);
    }

    /// Ends what has arrived. Returns how many.
    fn end_all(&mut self, arrivals: Vec<Arrival>) -> usize {
        let count = arrivals.len();
        for arrival in arrivals {
            if arrival.answer.is_ok() {
                self.now = self.now.plus(VERIFY);
                self.core.took(arrival.id, Took::Verify(VERIFY));
                self.settle(arrival.id, Ending::Card);
            } else {
                self.do_in_software(arrival.id);
            }
        }
        count
    }

    /// Lets so many requests pass one after the other, in time, to any accelerator there is.
    fn warm_up(&mut self, count: usize) {
        let options = self.core.options;
        self.core.options.offload = options.offload.always();
        for _ in 0..count {
            self.submit_to_card();
            while self.core.in_flight() > 0 {
                self.now = self.now.max(self.core.next_wake());
                let arrivals = self.wait(Duration::ZERO);
                self.end_all(arrivals);
            }
        }
        self.core.options = options;
    }

    /// The invariant of sums, at any instant.
    fn check(&self) {
        for lane in 0..self.core.lane_count() {
            let requests = self.core.status(lane).requests;
            assert!(requests.add_up(), "{requests:?}");
        }
    }

    fn requests(&self) -> crate::router::core::Requests {
        self.core.requests()
    }
}

/// A server with one thread whose clients connect again as soon as they are served, as `count`
/// connections at a time. Returns the share of the last half that an accelerator answered.
fn share_of_card(desk: &mut Desk, count: usize, announces: bool) -> f64 {
    const HANDSHAKES: usize = 2_000;
    let round_trip = micros(400);
    let mut ready: BinaryHeap<_> = (0..count).map(|_| Reverse(desk.now)).collect();
    let mut before = desk.requests();
    for handshake in 0..HANDSHAKES {
        if handshake == HANDSHAKES / 2 {
            before = desk.requests();
        }
        while ready.peek().is_none_or(|Reverse(ready)| *ready > desk.now) {
            let connection = ready.peek().map_or(Instant::NEVER, |Reverse(ready)| *ready);
            let next = desk.core.next_wake().min(connection);
            desk.now = desk.now.max(next);
            let arrivals = desk.wait(Duration::ZERO);
            for _ in 0..desk.end_all(arrivals) {
                ready.push(Reverse(desk.now.plus(round_trip)));
            }
        }
        ready.pop();
        desk.now = desk.now.plus(micros(120));
        let waiting = ready.iter().filter(|Reverse(ready)| *ready <= desk.now);
        let waiting = waiting.count();
        desk.core.announce(if announces { waiting } else { 0 });
        if let Placed::InSoftware(id, _) = desk.submit() {
            desk.do_in_software(id);
            ready.push(Reverse(desk.now.plus(round_trip)));
        }
        // Who has signed looks for answers, as there may be no other time for it.
        let arrivals = desk.wait(Duration::ZERO);
        for _ in 0..desk.end_all(arrivals) {
            ready.push(Reverse(desk.now.plus(round_trip)));
        }
    }
    let after = desk.requests();
    let card = (after.card - before.card) as f64;
    card / (card + (after.software - before.software) as f64)
}

#[test]
fn a_server_with_one_connection_signs_in_software_and_one_with_sixteen_on_the_card() {
    let (mut desk, _) = Desk::over(micros(1_000), 64);
    let share = share_of_card(&mut desk, 1, false);
    assert!(share > 0.0, "what is known of the card must stay true");
    assert!(share < 0.05, "{share}");
    for announces in [false, true] {
        let (mut desk, _) = Desk::over(micros(1_000), 64);
        let share = share_of_card(&mut desk, 16, announces);
        assert!(share > 0.9, "{share}, announced: {announces}");
    }
}

#[test]
fn a_card_that_is_faster_than_a_core_gets_what_comes_alone() {
    let (mut desk, _) = Desk::over(micros(200), 1);
    assert!(share_of_card(&mut desk, 1, false) > 0.95);
}

#[test]
fn a_card_with_one_slow_engine_gets_what_it_can_do_and_no_queue() {
    let (mut desk, works) = Desk::over(micros(3_000), 1);
    let share = share_of_card(&mut desk, 16, true);
    assert!(share < 0.35, "{share}");
    assert!(works.lock().unwrap().queue.len() < 16);
    assert_eq!(desk.requests().timed_out, 0);
}

#[test]
fn a_crowd_that_comes_at_once_fills_no_card_up_to_where_answers_are_late() {
    // It answers 100 in the time that a request has.
    let (mut desk, _) = Desk::over(micros(2_000), 1);
    desk.warm_up(16);
    let mut waiting = 0;
    for left in (0..1_000).rev() {
        desk.core.announce(left);
        match desk.submit() {
            Placed::InSoftware(id, _) => desk.settle(id, Ending::Software),
            Placed::OnCard(_) => waiting += 1,
            refused @ Placed::Refused(..) => panic!("{refused:?}"),
        }
    }
    assert!(waiting > 8, "it is worth its while: {waiting}");
    while waiting > 0 {
        desk.now = desk.core.next_wake();
        let arrivals = desk.wait(Duration::ZERO);
        waiting -= desk.end_all(arrivals);
    }
    assert_eq!(desk.requests().timed_out, 0);
}

#[test]
fn what_software_has_no_room_for_is_refused_where_a_card_would_be_late() {
    let (mut desk, works) = Desk::over(micros(2_000), 1);
    desk.warm_up(16);
    let (mut waiting, mut refused) = (0, 0);
    for left in (0..3_000).rev() {
        desk.core.announce(left);
        match desk.submit() {
            // It takes its time.
            Placed::InSoftware(..) => {}
            Placed::OnCard(_) => waiting += 1,
            Placed::Refused(_, error) => {
                assert_eq!(error, OperationError::Overloaded);
                refused += 1;
            }
        }
    }
    assert!(refused > 1_000, "{refused}");
    assert_eq!(works.lock().unwrap().queue.len(), waiting);
    assert!((32..100).contains(&waiting), "{waiting}");
}

#[test]
fn a_card_as_fast_as_a_core_works_beside_it_and_not_in_its_place() {
    for (service, engines) in [(1_000, 1), (800, 1), (4_000, 4)] {
        for count in [16, 64] {
            let (mut desk, _) = Desk::over(micros(service), engines);
            let share = share_of_card(&mut desk, count, true);
            assert!(
                (0.2..0.8).contains(&share),
                "{share} with {engines} engines of {service} us, {count} connections"
            );
        }
    }
}

#[test]
fn a_card_that_is_slow_and_does_much_at_once_gets_much_at_once() {
    let (mut desk, works) = Desk::over(micros(60_000), 64);
    let mut most = 0;
    for _ in 0..40 {
        share_of_card(&mut desk, 256, true);
        most = most.max(works.lock().unwrap().queue.len());
    }
    assert!(most > 32, "{most}");
}

#[test]
fn p256_stays_here_although_it_is_offloaded_and_many_wait() {
    let algorithm = Algorithm::Sign(SignatureScheme::EcdsaP256Sha256);
    let (accelerator, works) = Engines::build(micros(1), 64);
    let options = Options {
        offload: Offload::default().with(algorithm),
        ..options()
    };
    let mut desk = Desk::new(vec![accelerator], options);
    (desk.key, desk.scheme) = (kat::p256_key(), SignatureScheme::EcdsaP256Sha256);
    let given = works.lock().unwrap().given;
    desk.core.announce(100);
    for _ in 0..1_000 {
        let placed = desk.submit();
        let Placed::InSoftware(id, _) = placed else {
            panic!("{placed:?}");
        };
        desk.settle(id, Ending::Software);
    }
    assert_eq!(works.lock().unwrap().given, given);
}

#[test]
fn a_batch_of_one_is_a_loss_and_a_batch_of_three_is_not() {
    // Sooner than software, even alone; what it costs decides.
    let (mut desk, works) = Desk::over(micros(590), 8);
    works.lock().unwrap().batch_size = NonZeroUsize::new(8).unwrap();
    let alone = desk.submit();
    let Placed::InSoftware(id, _) = alone else {
        panic!("{alone:?}");
    };
    desk.settle(id, Ending::Software);
    desk.core.announce(2);
    desk.submit_to_card();
    desk.core.announce(1);
    desk.submit_to_card();
}

#[test]
fn who_asks_beforehand_reckons_with_all_who_are_announced_by_then() {
    let (desk, works) = Desk::over(micros(590), 8);
    works.lock().unwrap().batch_size = NonZeroUsize::new(8).unwrap();
    let outlook = Outlook::new();
    let (algorithm, options) = (Algorithm::Sign(desk.scheme), options());
    // Written down when nobody was there.
    desk.core
        .publish_also(&outlook, Interest::of(algorithm, Class::Rsa2048));
    let choose = || outlook.choose(algorithm, Class::Rsa2048, Caller::Task, &options);
    assert_eq!(choose(), Choice::Software(Reason::CostsMoreHere));
    outlook.announce();
    outlook.announce();
    assert_eq!(choose(), Choice::Accelerator);
    outlook.withdraw();
    outlook.withdraw();
    assert_eq!(choose(), Choice::Software(Reason::CostsMoreHere));
}

#[test]
fn who_times_its_batches_itself_is_not_held_to_be_slow_by_who_looks_late() {
    // Answers are found after forty milliseconds, since software has kept everybody from looking.
    let (mut desk, works) = Desk::over(Duration::from_millis(40), 8);
    works.lock().unwrap().batch_size = NonZeroUsize::new(8).unwrap();
    desk.core.announce(60);
    let late = desk.submit();
    let Placed::InSoftware(id, _) = late else {
        panic!("{late:?}");
    };
    desk.settle(id, Ending::Software);
    let batch = |before| {
        let takes = micros(1_500);
        Some(Batch { takes, before })
    };
    for left in (0..60).rev() {
        works.lock().unwrap().next_batch = batch(micros(200) * (60 - left));
        desk.core.announce(left as usize);
        desk.submit_to_card();
    }
    // Its queue counts nevertheless.
    works.lock().unwrap().next_batch = batch(micros(90_000));
    let queued = desk.submit();
    assert!(matches!(queued, Placed::InSoftware(..)), "{queued:?}");
}

#[test]
fn a_thread_that_would_only_wait_signs_by_itself() {
    let (mut desk, _) = Desk::over(micros(1_000), 64);
    desk.core.announce(16);
    let placed = desk.submit_for(Caller::Thread);
    assert!(matches!(placed, Placed::InSoftware(..)), "{placed:?}");
    desk.submit_to_card();
}

#[test]
fn what_is_late_is_done_in_software_as_well_and_the_late_answer_is_discarded() {
    let (mut desk, works) = Desk::over(micros(200), 4);
    desk.warm_up(200);
    works.lock().unwrap().service = Duration::from_millis(50);
    let before = desk.requests();
    let id = desk.submit_to_card();
    assert!(
        desk.wait(Duration::from_millis(2)).is_empty(),
        "before the floor"
    );
    let arrivals = desk.wait(Duration::from_millis(1));
    assert_eq!((arrivals.len(), arrivals[0].id), (1, id));
    assert_eq!(desk.requests().hedged, 1);
    assert_eq!(desk.end_all(arrivals), 1);
    let requests = desk.requests();
    assert_eq!((requests.in_flight, requests.stragglers), (0, 0));
    assert_eq!(requests.software, before.software + 1);
    assert!(
        desk.wait(Duration::from_millis(60)).is_empty(),
        "nobody waits for it"
    );
    let requests = desk.requests();
    assert_eq!((requests.stragglers, requests.card), (1, before.card));
    assert_eq!(requests.submitted, before.submitted + 1);
    assert!(desk.core.get_mut(id).is_none(), "its entry is free");
}

#[test]
fn an_answer_that_comes_while_software_works_is_discarded_and_counted_once() {
    let (mut desk, works) = Desk::over(micros(200), 4);
    desk.warm_up(200);
    works.lock().unwrap().service = micros(3_300);
    let card = desk.requests().card;
    desk.submit_to_card();
    let arrivals = desk.wait(micros(3_000));
    assert_eq!(arrivals.len(), 1);
    assert!(desk.wait(micros(400)).is_empty());
    desk.end_all(arrivals);
    let requests = desk.requests();
    assert_eq!((requests.hedged, requests.stragglers), (1, 1));
    assert_eq!((requests.card, requests.in_flight), (card, 0));
}

#[test]
fn an_answer_in_time_is_not_hedged_and_one_given_up_neither() {
    let (mut desk, works) = Desk::over(micros(200), 4);
    desk.warm_up(200);
    desk.submit_to_card();
    let arrivals = desk.wait(micros(5_000));
    assert!(
        arrivals[0].answer.is_ok(),
        "both are due; the card's is there"
    );
    desk.end_all(arrivals);
    desk.warm_up(50);
    works.lock().unwrap().service = Duration::from_millis(50);
    let id = desk.submit_to_card();
    desk.core.abandon(id, false);
    assert!(desk.wait(Duration::from_millis(10)).is_empty());
    assert_eq!(desk.requests().hedged, 0);
    desk.wait(Duration::from_millis(60));
    assert_eq!((desk.requests().refused, desk.requests().in_flight), (1, 0));
}

#[test]
fn a_card_that_became_slow_does_not_double_the_load() {
    let (mut desk, works) = Desk::over(micros(200), 1_000);
    desk.warm_up(200);
    desk.core.options.offload = Offload::default();
    works.lock().unwrap().service = Duration::from_millis(20);
    let before = desk.requests();
    for _ in 0..2_000 {
        desk.core.announce(1_000);
        desk.submit();
        let arrivals = desk.wait(micros(100));
        for arrival in arrivals {
            let ending = match arrival.answer {
                Ok(_) => Ending::Card,
                Err(_) => Ending::Software,
            };
            desk.settle(arrival.id, ending);
        }
    }
    let hedged = desk.requests().hedged - before.hedged;
    assert!(hedged > 8, "{hedged}");
    assert!(hedged <= 2_200 / 20 + 8, "{hedged}");
}

#[test]
fn a_card_that_hangs_is_taken_out_although_its_callers_are_hedged() {
    let (mut desk, works) = Desk::over(micros(200), 4);
    desk.warm_up(200);
    works.lock().unwrap().hangs = true;
    for _ in 0..3 {
        desk.submit_to_card();
    }
    let arrivals = desk.wait(Duration::from_millis(4));
    assert_eq!(desk.end_all(arrivals), 3);
    assert!(desk.core.lanes[0].breaker.admit().is_some());
    desk.wait(Duration::from_millis(200));
    let status = desk.core.status(0);
    assert!(
        matches!(status.breaker, breaker::State::Open { .. }),
        "{status:?}"
    );
    assert_eq!(status.breaker_opened_by, "timed-out");
    assert_eq!(status.requests.timed_out, 3);
}

#[test]
fn a_reset_takes_hedged_requests_back_once() {
    let (mut desk, works) = Desk::over(micros(200), 4);
    desk.warm_up(200);
    works.lock().unwrap().hangs = true;
    let ids = [desk.submit_to_card(), desk.submit_to_card()];
    let arrivals = desk.wait(Duration::from_millis(4));
    assert_eq!(arrivals.len(), 2);
    desk.do_in_software(ids[0]);
    let mut back = Vec::new();
    desk.core.hand_back_all(desk.now, &mut back);
    assert!(
        back.is_empty(),
        "one has ended, and the other's caller has it"
    );
    desk.do_in_software(ids[1]);
    desk.do_in_software(ids[1]);
    let requests = desk.requests();
    assert_eq!((requests.in_flight, requests.software), (0, 2));
    assert!(desk.core.pending.iter().all(|slot| slot.pending.is_none()));
}

#[test]
fn overload_goes_to_software_first_and_is_refused_when_that_has_a_second_of_work() {
    let (accelerator, works) = Engines::build(micros(200), 4);
    let options = Options {
        admission: admission::Limits {
            in_flight_max: 10,
            ..admission::Limits::DEFAULT
        },
        ..options()
    };
    let mut desk = Desk::new(vec![accelerator], options);
    works.lock().unwrap().hangs = true;
    desk.core.announce(10_000);
    for _ in 0..10 {
        desk.submit_to_card();
    }
    let mut in_software = Vec::new();
    let refused = loop {
        match desk.submit() {
            Placed::InSoftware(id, _) => in_software.push(id),
            Placed::Refused(_, error) => break error,
            placed @ Placed::OnCard(_) => panic!("{placed:?}"),
        }
        assert!(in_software.len() < 10_000);
    };
    assert_eq!(refused, OperationError::Overloaded);
    let second = usize::try_from(1_000_000 / SOFTWARE.as_micros()).unwrap();
    assert_eq!(in_software.len(), second);
    let requests = desk.requests();
    assert_eq!((requests.shed, requests.overloaded), (second as u64, 1));
    assert_eq!(requests.in_flight, 10 + second as u64);
    // One ends, and one is let in.
    desk.settle(in_software[0], Ending::Software);
    assert!(matches!(desk.submit(), Placed::InSoftware(..)));
    assert!(matches!(desk.submit(), Placed::Refused(..)));
}

#[test]
fn a_card_that_would_not_pay_gets_what_software_has_no_room_for() {
    let (accelerator, _) = Engines::build(micros(5_000), 64);
    let options = Options {
        admission: admission::Limits {
            software_wait_max: micros(1_000),
            ..admission::Limits::DEFAULT
        },
        ..options()
    };
    let mut desk = Desk::new(vec![accelerator], options);
    assert!(matches!(desk.submit(), Placed::InSoftware(..)));
    desk.submit_to_card();
}

#[test]
fn what_software_has_no_room_for_goes_to_the_card_that_cannot_be_late() {
    let (mut desk, works) = two((micros(10_000), 64), (micros(120_000), 64));
    let always = desk.core.options.offload;
    desk.core.options.admission.software_wait_max = micros(1_000);
    desk.core.options.offload = Offload::default();
    assert!(matches!(desk.submit(), Placed::InSoftware(..)));
    // So many at once nobody has seen it do: it may take 320 ms.
    desk.core.options.offload = always;
    for _ in 0..17 {
        desk.submit_to_card();
    }
    let given = || {
        works
            .each_ref()
            .map(|works| works.lock().unwrap().queue.len())
    };
    assert_eq!(given(), [17, 0]);
    desk.core.options.offload = Offload::default();
    desk.submit_to_card();
    assert_eq!(given(), [17, 1]);
}

#[test]
fn requests_that_come_back_to_software_count_as_its_work() {
    let (mut desk, works) = Desk::over(micros(200), 4);
    desk.warm_up(1);
    works.lock().unwrap().hangs = true;
    // A router that weighs would not give a card so many before it has answered some.
    let offload = desk.core.options.offload;
    desk.core.options.offload = offload.always();
    for _ in 0..1_000 {
        desk.submit_to_card();
    }
    desk.core.options.offload = offload;
    desk.core.options.hedge = hedge::Limits::NEVER;
    works.lock().unwrap().depth_max = 0;
    assert!(matches!(desk.submit(), Placed::InSoftware(..)));
    let arrivals = desk.wait(Duration::from_millis(200));
    assert_eq!(arrivals.len(), 1_000);
    // 0.62 s of work are on their way to software, and another 0.38 s fit.
    let mut accepted = 0;
    while let Placed::InSoftware(..) = desk.submit() {
        accepted += 1;
        assert!(accepted < 10_000);
    }
    assert!((600..=613).contains(&accepted), "{accepted}");
}

fn two(first: (Duration, usize), second: (Duration, usize)) -> (Desk, [Arc<Mutex<Works>>; 2]) {
    let ((first, first_works), (second, second_works)) = (
        Engines::build(first.0, first.1),
        Engines::build(second.0, second.1),
    );
    let options = Options {
        offload: Offload::default().always(),
        ..options()
    };
    let desk = Desk::new(vec![first, second], options);
    (desk, [first_works, second_works])
}

/// Keeps `in_flight` requests on their way until `count` have ended, and returns how many each
/// accelerator was given.
fn keep_busy(desk: &mut Desk, works: &[Arc<Mutex<Works>>; 2], in_flight: usize) -> [usize; 2] {
    let given = || works.each_ref().map(|works| works.lock().unwrap().given);
    let before = given();
    for _ in 0..2_000 {
        while desk.core.in_flight() < in_flight {
            desk.submit_to_card();
        }
        desk.now = desk.now.max(desk.core.next_wake());
        for arrival in desk.wait(Duration::ZERO) {
            let ending = match arrival.answer {
                Ok(_) => Ending::Card,
                Err(_) => Ending::Software,
            };
            desk.settle(arrival.id, ending);
        }
    }
    let after = given();
    [after[0] - before[0], after[1] - before[1]]
}

#[test]
fn equal_cards_share_the_work() {
    let (mut desk, works) = two((micros(500), 4), (micros(500), 4));
    let [first, second] = keep_busy(&mut desk, &works, 8);
    let share = first as f64 / (first + second) as f64;
    assert!((0.4..0.6).contains(&share), "{first} and {second}");
}

#[test]
fn a_slow_card_among_fast_ones_gets_its_share_only() {
    let (mut desk, works) = two((micros(5_000), 1), (micros(500), 1));
    let [slow, fast] = keep_busy(&mut desk, &works, 4);
    let share = slow as f64 / (slow + fast) as f64;
    // Work in proportion to their speed would be a tenth; alone, the fast one answers sooner.
    assert!(share < 0.03, "{slow} and {fast}");
    let [slow, fast] = keep_busy(&mut desk, &works, 40);
    let share = slow as f64 / (slow + fast) as f64;
    assert!(
        share > 0.01,
        "with such a queue it has a share: {slow} and {fast}"
    );
    assert_eq!(desk.requests().timed_out, 0);
}

#[test]
fn a_card_that_recovers_its_speed_gets_its_work_back() {
    let (mut desk, works) = two((micros(500), 4), (micros(500), 4));
    works[0].lock().unwrap().service = micros(5_000);
    keep_busy(&mut desk, &works, 8);
    let [slow, fast] = keep_busy(&mut desk, &works, 8);
    assert!(slow * 5 < fast, "{slow} and {fast}");
    works[0].lock().unwrap().service = micros(500);
    keep_busy(&mut desk, &works, 8);
    let [first, second] = keep_busy(&mut desk, &works, 8);
    let share = first as f64 / (first + second) as f64;
    assert!(share > 0.35, "{first} and {second}");
}

#[test]
fn work_leaves_a_card_whose_breaker_opens_and_returns_after_its_trial() {
    let (mut desk, works) = two((micros(500), 4), (micros(500), 4));
    desk.core.report_silent_reboot(0, desk.now);
    let [out, other] = keep_busy(&mut desk, &works, 8);
    assert_eq!(out, 0);
    assert!(other > 0);
    desk.now = desk.now.plus(desk.core.options.limits.backoff);
    desk.bring_up();
    let [back, other] = keep_busy(&mut desk, &works, 8);
    let share = back as f64 / (back + other) as f64;
    assert!((0.4..0.6).contains(&share), "{back} and {other}");
}

/// Asks among a thousand that wait until the accelerator was given `more`, in fewer than `most`
/// requests. Returns how many it took.
#[track_caller]
fn ask_until_given(desk: &mut Desk, works: &Mutex<Works>, more: usize, most: u32) -> u32 {
    desk.core.announce(1_000);
    let given = || works.lock().unwrap().given;
    let before = given();
    let mut asked = 0;
    while given() < before + more {
        if let Placed::InSoftware(id, _) = desk.submit() {
            desk.do_in_software(id);
        }
        let arrivals = desk.wait(micros(500));
        desk.end_all(arrivals);
        asked += 1;
        assert!(asked < most, "it was given {}", given() - before);
    }
    asked
}

#[test]
fn a_card_that_was_too_slow_for_any_deadline_gets_its_work_back() {
    let (mut desk, works) = Desk::over(Duration::from_millis(150), 1_000);
    desk.warm_up(16);
    works.lock().unwrap().service = micros(500);
    let asked = ask_until_given(&mut desk, &works, 32, 50_000);
    // Finding out was left to a few, although each would have been in time.
    assert!(asked > 5_000, "{asked}");
}

#[test]
fn who_asks_beforehand_and_stays_away_tries_a_card_now_and_then() {
    let (mut desk, works) = Desk::over(micros(5_000), 4);
    desk.warm_up(16);
    desk.core.options.offload = Offload::default();
    works.lock().unwrap().service = micros(200);
    let outlook = Outlook::new();
    let (algorithm, options) = (Algorithm::Sign(desk.scheme), options());
    let interest = Interest::of(algorithm, Class::Rsa2048);
    desk.core.publish_also(&outlook, interest);
    let (mut asked, mut in_a_row) = (0, 0);
    while in_a_row < 8 {
        asked += 1;
        assert!(asked < 50_000, "it does not get its work back");
        let choice = outlook.choose(algorithm, Class::Rsa2048, Caller::Task, &options);
        if !choice.is_accelerator() {
            in_a_row = 0;
            continue;
        }
        in_a_row += 1;
        let unheard = outlook.take_unheard(Class::Rsa2048);
        desk.core.pass_over(Class::Rsa2048, unheard);
        desk.submit_to_card();
        let arrivals = desk.wait(micros(200));
        desk.end_all(arrivals);
        desk.core.publish(&outlook);
    }
    // Finding out was left to a few.
    assert!(asked > 500, "{asked}");
}

#[test]
fn what_was_asked_about_once_is_written_down_as_if_asked_anew() {
    let (mut desk, works) = Desk::over(micros(1_000), 2);
    let rsa = Interest::of(Algorithm::Sign(desk.scheme), Class::Rsa2048);
    let p256 = SignatureScheme::EcdsaP256Sha256;
    let p256 = Interest::of(Algorithm::Sign(p256), Class::P256);
    let kept = Outlook::new();
    desk.core.publish_also(&kept, rsa);
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..200_u64 {
        if round == 100 {
            desk.core.publish_also(&kept, p256);
        }
        works.lock().unwrap().service = micros(200 * (round % 7 + 1));
        desk.core.announce((round % 40) as usize);
        if let Placed::InSoftware(id, _) = desk.submit() {
            desk.do_in_software(id);
        }
        let arrivals = desk.wait(micros(300));
        desk.end_all(arrivals);
        desk.core.publish(&kept);
        let anew = Outlook::new();
        let asked = if round < 100 { rsa } else { rsa.and(p256) };
        desk.core.publish_also(&anew, asked);
        let (kept, anew) = (format!("{kept:?}"), format!("{anew:?}"));
        assert_eq!(kept, anew, "round {round}");
        seen.insert(kept);
    }
    assert!(seen.len() > 100, "it changes: {}", seen.len());
}

#[test]
fn a_latency_that_only_a_trial_has_shown_is_soon_seen_again() {
    let (mut desk, works) = Desk::over(Duration::from_millis(150), 1_000);
    works.lock().unwrap().service = micros(500);
    // The host stood still during the trial, and the card does not pay for it.
    ask_until_given(&mut desk, &works, 8, 200);
}
