//! The schedule of faults, and the record of what they have done.
//!
//! Watches time and requests, and says which faults act; what they do then is the
//! [liar](super::liar)'s. There is one generator of random numbers, so the same calls with the same
//! seed have the same consequences.
//!
//! ```text
//!              at, or a matching request            lasting, cleared, (a reset)
//!   injected -------------------------> acting -----------------------------> over
//!                                         | a state of the card acts until it is over
//!                                         | a pulse acts at once, and again after each period
//!                                         | a lie acts on each request that is drawn
//! ```

use super::trigger::{Seen, Trigger};
use super::{Fault, FaultError, HangEnd, led::Profile};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A script, and whoever injects into it while a card follows it.
pub type SharedScript = Arc<Mutex<Script>>;

/// A fault, and when it acts.
#[derive(Clone, Debug, PartialEq)]
pub struct Injection {
    /// What.
    pub fault: Fault,
    /// When.
    pub trigger: Trigger,
}

/// Names an injection of one script.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct InjectionId(pub usize);

/// What became of an injection: the truth that a monitor's verdict is held against.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Which.
    pub id: InjectionId,
    /// What.
    pub fault: Fault,
    /// When it was injected. All times are since the card started.
    pub injected_at: Duration,
    /// When it first acted.
    pub first_acted_at: Option<Duration>,
    /// When it last acted.
    pub last_acted_at: Option<Duration>,
    /// When it was over: cleared, or ended by its duration, its number of times or a reset.
    pub cleared_at: Option<Duration>,
    /// How often it has acted: a state each time it began, everything else each time.
    pub times: u64,
}

/// How a fault acts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Acts {
    /// On requests to open a session.
    OnSessions,
    /// On data requests, as they are executed.
    OnRequests,
    /// On answers, as they are delivered.
    OnAnswers,
    /// On interrupts.
    OnInterrupts,
    /// Once, or again and again.
    Pulse(Option<Duration>),
    /// All the while.
    While,
}

/// What has begun and what is left of an injection.
#[derive(Debug)]
struct Progress {
    trigger: Trigger,
    acts: Acts,
    /// Matching requests so far.
    seen: u64,
    /// Since when it acts, for a state or repeated pulse.
    since: Option<Duration>,
    /// When it does something next.
    next_pulse: Option<Duration>,
}

/// The schedule.
#[derive(Debug)]
pub struct Script {
    random: fastrand::Rng,
    profile: Profile,
    now: Duration,
    records: Vec<Record>,
    progress: Vec<Progress>,
    /// Which of them may still act, in their order: what is over costs no time any more.
    live: Vec<usize>,
    /// Pulses that requests have set off.
    due: Vec<Fault>,
    /// Answers that lies have made wrong.
    spoiled: u64,
}

impl Script {
    /// A script without faults.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            profile: Profile::default(),
            now: Duration::ZERO,
            records: Vec::new(),
            progress: Vec::new(),
            live: Vec::new(),
            due: Vec::new(),
            spoiled: 0,
        }
    }

    /// Has the card's light shine as those of a vendor do.
    #[must_use]
    pub fn with_led_profile(mut self, profile: Profile) -> Self {
        self.profile = profile;
        self
    }

    /// To be shared with a card.
    #[must_use]
    pub fn shared(self) -> SharedScript {
        Arc::new(Mutex::new(self))
    }

    /// Injects a fault.
    pub fn add(&mut self, injection: Injection) -> InjectionId {
        let Injection { fault, trigger } = injection;
        let id = InjectionId(self.records.len());
        self.progress.push(Progress {
            acts: fault.acts(),
            trigger,
            seen: 0,
            since: None,
            next_pulse: None,
        });
        self.records.push(Record {
            id,
            fault,
            injected_at: self.now,
            first_acted_at: None,
            last_acted_at: None,
            cleared_at: None,
            times: 0,
        });
        self.live.push(id.0);
        id
    }

    /// Ends what an injection does, and says whether there was anything to end.
    pub fn clear(&mut self, id: InjectionId) -> bool {
        let now = self.now;
        let known = self.records.get(id.0).is_some_and(Record::is_live);
        if known {
            self.end(id.0, now);
        }
        known
    }

    /// Ends everything.
    pub fn clear_all(&mut self) {
        self.for_each_live(|script, index| script.end(index, script.now));
    }

    /// What became of each injection, in the order they were made.
    #[must_use]
    pub fn record(&self) -> &[Record] {
        &self.records
    }

    /// The time since the card started, as it was last told.
    #[must_use]
    pub const fn now(&self) -> Duration {
        self.now
    }

    /// How many answers lies have made wrong, whoever they were for: a lie that changes nothing is
    /// none of them, and neither is an error.
    #[must_use]
    pub const fn spoiled(&self) -> u64 {
        self.spoiled
    }

    pub(super) const fn note_spoiled(&mut self) {
        self.spoiled += 1;
    }

    /// Whether the card is in its slot.
    #[must_use]
    pub fn card_is_present(&self) -> bool {
        !self.acting().any(|fault| *fault == Fault::SurpriseRemoval)
    }

    /// How the light of the card shines.
    pub(super) const fn profile(&self) -> Profile {
        self.profile
    }

    /// The generator that everything random is drawn from.
    pub(super) fn random(&mut self) -> &mut fastrand::Rng {
        &mut self.random
    }

    /// Lets time pass, and returns the pulses that are due, each as often as it is. A card that is
    /// away does nothing, so there are none then, and none on record.
    pub(crate) fn advance(&mut self, now: Duration) -> Vec<Fault> {
        self.now = now;
        // States first, for one of them is that the card is away.
        self.for_each_live(|script, index| {
            if script.progress[index].acts == Acts::While {
                script.begin_by_time(index);
                script.end_by_time(index);
            }
        });
        let mut pulses = std::mem::take(&mut self.due);
        let is_present = self.card_is_present();
        self.for_each_live(|script, index| {
            if script.progress[index].acts == Acts::While {
                return;
            }
            script.begin_by_time(index);
            if is_present {
                script.pulse(index, &mut pulses);
            } else {
                script.miss_pulse(index);
            }
            script.end_by_time(index);
        });
        pulses
    }

    /// Does something with each injection that may still act, which may end that one.
    fn for_each_live(&mut self, mut then: impl FnMut(&mut Self, usize)) {
        let mut at = 0;
        while let Some(&index) = self.live.get(at) {
            then(self, index);
            // If it has ended, the next one has its place.
            at += usize::from(self.live.get(at) == Some(&index));
        }
    }

    fn begin_by_time(&mut self, index: usize) {
        let progress = &self.progress[index];
        let by_time = matches!(progress.acts, Acts::Pulse(_) | Acts::While)
            && !progress.trigger.waits_for_a_request();
        let record = &self.records[index];
        let is_new = record.is_live() && progress.since.is_none() && record.times == 0;
        if by_time && is_new && self.now >= progress.trigger.at {
            let at = progress.trigger.at.max(record.injected_at);
            self.begin(index, at);
        }
    }

    /// A state begins, or the first pulse is due.
    fn begin(&mut self, index: usize, at: Duration) {
        self.progress[index].since = Some(at);
        match self.progress[index].acts {
            Acts::Pulse(_) => self.progress[index].next_pulse = Some(at),
            _ => self.count(index, at),
        }
    }

    fn count(&mut self, index: usize, at: Duration) {
        let record = &mut self.records[index];
        record.first_acted_at.get_or_insert(at);
        record.last_acted_at = Some(at);
        record.times += 1;
    }

    fn pulse(&mut self, index: usize, pulses: &mut Vec<Fault>) {
        /// Whoever lets hours pass at once gets no more than this many of a storm.
        const PULSES_MAX: usize = 1000;
        let until = self.ends_at(index).unwrap_or(Duration::MAX).min(self.now);
        for _ in 0..PULSES_MAX {
            let Some(at) = self.progress[index].next_pulse.filter(|at| *at <= until) else {
                return;
            };
            pulses.push(self.records[index].fault.clone());
            self.count(index, at);
            let Acts::Pulse(period) = self.progress[index].acts else {
                return;
            };
            self.progress[index].next_pulse = period.map(|period| at.saturating_add(period));
            if period.is_none() && !self.progress[index].trigger.waits_for_a_request() {
                self.end(index, at);
            }
            self.end_if_spent(index);
        }
        // The rest is left out.
        let overtaken = self.progress[index].next_pulse.map(|at| at.max(self.now));
        self.progress[index].next_pulse = overtaken;
    }

    /// A pulse that would be due is not, and what comes once does not come any more.
    fn miss_pulse(&mut self, index: usize) {
        let Some(at) = self.progress[index].next_pulse.filter(|at| *at <= self.now) else {
            return;
        };
        match self.progress[index].acts {
            Acts::Pulse(Some(period)) => {
                self.progress[index].next_pulse = Some(self.now.saturating_add(period));
            }
            _ => self.end(index, at),
        }
    }

    /// When the duration of an injection is over, if it has one.
    fn ends_at(&self, index: usize) -> Option<Duration> {
        let Progress { trigger, since, .. } = &self.progress[index];
        let start = since.unwrap_or(trigger.at.max(self.records[index].injected_at));
        let is_waiting = since.is_none() && trigger.waits_for_a_request() && self.is_state(index);
        let lasting = trigger.lasting.filter(|_| !is_waiting);
        lasting.map(|lasting| start.saturating_add(lasting))
    }

    fn is_state(&self, index: usize) -> bool {
        matches!(self.progress[index].acts, Acts::Pulse(_) | Acts::While)
    }

    fn end_by_time(&mut self, index: usize) {
        let Some(end) = self.ends_at(index).filter(|end| *end <= self.now) else {
            return;
        };
        if !self.records[index].is_live() {
            return;
        }
        if self.is_state(index) && self.progress[index].trigger.waits_for_a_request() {
            // Another request may begin it again.
            self.progress[index].since = None;
            self.progress[index].next_pulse = None;
            self.end_if_spent(index);
        } else {
            self.end(index, end);
        }
    }

    fn end(&mut self, index: usize, at: Duration) {
        self.records[index].cleared_at = Some(at);
        if let Ok(place) = self.live.binary_search(&index) {
            self.live.remove(place);
        }
        self.progress[index].since = None;
        self.progress[index].next_pulse = None;
    }

    /// Ends an injection that has acted as often as it may, but not a state that still lasts.
    fn end_if_spent(&mut self, index: usize) {
        let limit = self.progress[index].trigger.times;
        let is_spent = limit.is_some_and(|limit| self.records[index].times >= limit);
        let lasts =
            self.progress[index].acts == Acts::While && self.progress[index].since.is_some();
        if is_spent && !lasts && self.records[index].is_live() {
            self.end(index, self.now);
        }
    }

    /// A request, answer or interrupt passes; returns the faults that act on it, of those that
    /// `applies` says could.
    pub(super) fn strike(
        &mut self,
        acts: Acts,
        seen: Option<&Seen>,
        applies: impl Fn(&Fault) -> bool,
    ) -> Vec<Fault> {
        let mut struck = Vec::new();
        self.for_each_live(|script, index| {
            let fault = &script.records[index].fault;
            let applies = script.progress[index].acts == acts && applies(fault);
            if applies && script.is_drawn(index, seen) {
                struck.push(script.records[index].fault.clone());
                script.count(index, script.now);
                script.end_if_spent(index);
            }
        });
        struck
    }

    /// A request has been answered, so states and pulses that wait for one may begin.
    pub(super) fn answered(&mut self, seen: &Seen) {
        self.for_each_live(|script, index| {
            let waits = script.is_state(index)
                && script.progress[index].since.is_none()
                && script.progress[index].trigger.waits_for_a_request();
            if !waits || !script.is_drawn(index, Some(seen)) {
                return;
            }
            if script.progress[index].acts == Acts::Pulse(None) {
                script.due.push(script.records[index].fault.clone());
                script.count(index, script.now);
                script.end_if_spent(index);
            } else {
                script.begin(index, script.now);
            }
        });
    }

    /// Whether an injection acts on this one.
    fn is_drawn(&mut self, index: usize, seen: Option<&Seen>) -> bool {
        let is_over = self.ends_at(index).is_some_and(|end| self.now >= end);
        let progress = &mut self.progress[index];
        let trigger = &progress.trigger;
        let matches = match (seen, &trigger.matching) {
            (Some(seen), Some(matching)) => matching.matches(seen),
            _ => true,
        };
        let is_open = self.records[index].is_live() && self.now >= trigger.at && !is_over;
        if !is_open || !matches {
            return false;
        }
        progress.seen += 1;
        if progress.seen <= trigger.after_requests {
            return false;
        }
        trigger.probability >= 1.0 || self.random.f64() < trigger.probability
    }

    /// States that act now.
    pub(super) fn acting(&self) -> impl Iterator<Item = &Fault> {
        let live = self.live.iter();
        live.filter(|&&index| {
            let progress = &self.progress[index];
            progress.acts == Acts::While && progress.since.is_some()
        })
        .map(|&index| &self.records[index].fault)
    }

    /// Whether there is nothing to follow.
    pub(super) fn is_idle(&self) -> bool {
        self.due.is_empty() && self.live.is_empty()
    }

    /// The card has been reset.
    pub(super) fn reset(&mut self) {
        const CURED: Fault = Fault::Hang {
            until: HangEnd::Reset,
        };
        self.for_each_live(|script, index| {
            if script.records[index].fault == CURED && script.progress[index].since.is_some() {
                script.end(index, script.now);
            }
        });
    }

    /// When something begins, ends or is due the next time.
    pub(super) fn next(&self) -> Option<Duration> {
        /// Storms come in gusts: nobody has to be woken for each single drop.
        const GUST: Duration = Duration::from_millis(1);
        let times = self.live.iter().flat_map(|&index| {
            let at = self.progress[index].trigger.at;
            [
                Some(at).filter(|at| *at > self.now),
                self.ends_at(index).filter(|end| *end > self.now),
                self.progress[index]
                    .next_pulse
                    .map(|at| at.max(self.now + GUST)),
            ]
        });
        times.flatten().min()
    }
}

impl Record {
    /// Whether it may still act.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        self.cleared_at.is_none()
    }
}

impl From<Fault> for Injection {
    /// From now until it is cleared.
    fn from(fault: Fault) -> Self {
        Self {
            fault,
            trigger: Trigger::now(),
        }
    }
}

/// An injection was asked for that cannot be.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InjectionError {
    /// There is no such fault.
    #[error(transparent)]
    Fault(#[from] FaultError),
    /// A time is none.
    #[error("{text:?} is no time; write 5s, or 5s+500ms for a fault that lasts half a second")]
    Time {
        /// What stands for the time.
        text: String,
    },
}

/// `FAULT`, `FAULT@TIME` or `FAULT@TIME+DURATION`.
impl FromStr for Injection {
    type Err = InjectionError;

    fn from_str(text: &str) -> Result<Self, InjectionError> {
        let (fault, times) = text.split_once('@').unwrap_or((text, ""));
        let time = |text: &str| {
            humantime::parse_duration(text).map_err(|_| InjectionError::Time {
                text: text.to_owned(),
            })
        };
        let mut trigger = Trigger::now();
        if text.contains('@') {
            let (at, lasting) = times.split_once('+').unwrap_or((times, ""));
            trigger.at = time(at)?;
            if times.contains('+') {
                trigger.lasting = Some(time(lasting)?);
                if trigger.lasting == Some(Duration::ZERO) {
                    return Err(InjectionError::Time {
                        text: lasting.to_owned(),
                    });
                }
            }
        }
        let fault = fault.parse()?;
        Ok(Self { fault, trigger })
    }
}

impl fmt::Display for InjectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::trigger::Matching;
    use card_spec::crypto::data_opcode;

    const SECOND: Duration = Duration::from_secs(1);
    const SEEN: Seen = Seen {
        opcode: data_opcode::AKCIPHER_SIGN,
        algorithm: None,
        session_id: 3,
    };

    fn script(fault: Fault, trigger: Trigger) -> Script {
        let mut script = Script::new(5);
        script.add(Injection { fault, trigger });
        script
    }

    fn is_acting(script: &Script) -> bool {
        script.acting().count() > 0
    }

    /// On which of `count` requests the script acts.
    fn struck(script: &mut Script, count: usize) -> Vec<bool> {
        let strike = |_| {
            !script
                .strike(Acts::OnRequests, Some(&SEEN), |_| true)
                .is_empty()
        };
        (0..count).map(strike).collect()
    }

    #[test]
    fn a_state_acts_from_its_time_on_for_as_long_as_it_lasts() {
        let trigger = Trigger::at(3 * SECOND).lasting(2 * SECOND);
        let mut script = script(Fault::WorkStops, trigger);
        for (now, acts, next) in [(1, false, Some(3)), (3, true, Some(5)), (5, false, None)] {
            assert!(script.advance(now * SECOND).is_empty());
            assert_eq!(is_acting(&script), acts, "{now}");
            assert_eq!(script.next(), next.map(|next| next * SECOND), "{now}");
        }
        let record = &script.record()[0];
        assert_eq!(record.first_acted_at, Some(3 * SECOND));
        assert_eq!(record.cleared_at, Some(5 * SECOND));
        assert_eq!(record.times, 1);
        assert!(script.is_idle());
    }

    #[test]
    fn a_state_that_was_slept_through_is_on_record_all_the_same() {
        let mut script = script(Fault::WorkStops, Trigger::at(SECOND).lasting(SECOND));
        script.advance(9 * SECOND);
        assert!(!is_acting(&script));
        let record = &script.record()[0];
        assert_eq!((record.times, record.cleared_at), (1, Some(2 * SECOND)));
    }

    #[test]
    fn a_state_may_begin_again_with_each_request_that_matches() {
        let matching = "session=3".parse::<Matching>().unwrap();
        let trigger = Trigger::now().matching(matching).lasting(SECOND).times(2);
        let mut script = script(Fault::WorkStops, trigger);
        let other = Seen {
            session_id: 4,
            ..SEEN
        };
        for (now, seen, acts) in [
            (0, &other, false),
            (1, &SEEN, true),
            (2, &other, false),
            (3, &SEEN, true),
            (5, &SEEN, false),
        ] {
            script.advance(now * SECOND);
            script.answered(seen);
            assert_eq!(is_acting(&script), acts, "{now}");
        }
        assert_eq!(script.record()[0].times, 2);
        assert!(script.is_idle());
    }

    #[test]
    fn pulses_keep_their_period_and_end_with_their_time() {
        let fault = Fault::ResetLoop { period: SECOND };
        let trigger = Trigger::at(SECOND).lasting(3 * SECOND + SECOND / 2);
        let mut script = script(fault, trigger);
        let counts = [0, 1, 4, 9].map(|now| script.advance(now * SECOND).len());
        assert_eq!(counts, [0, 1, 3, 0]);
        assert_eq!(script.record()[0].last_acted_at, Some(4 * SECOND));
    }

    #[test]
    fn pulses_that_are_due_while_the_card_is_away_are_not_on_record_as_done() {
        let away = Trigger::now().lasting(10 * SECOND);
        let mut script = script(Fault::SurpriseRemoval, away);
        let period = SECOND;
        for fault in [Fault::SilentReboot, Fault::ResetLoop { period }] {
            let trigger = Trigger::at(5 * SECOND);
            script.add(Injection { fault, trigger });
        }
        let counts = [0, 5, 7, 9, 10, 11].map(|now| script.advance(now * SECOND).len());
        assert_eq!(counts, [0, 0, 0, 0, 1, 1]);
        let record = script.record();
        assert_eq!((record[1].times, record[1].first_acted_at), (0, None));
        assert_eq!(
            record[1].cleared_at,
            Some(5 * SECOND),
            "it does not come later"
        );
        let first = record[2].first_acted_at;
        assert_eq!((record[2].times, first), (2, Some(10 * SECOND)));
    }

    #[test]
    fn a_storm_that_was_slept_through_does_not_come_down_all_at_once() {
        let fault = Fault::CorrectableStorm { rate: 1e6 };
        let mut script = script(fault, Trigger::now());
        let storm = script.advance(3600 * SECOND).len();
        assert!((1..=1000).contains(&storm), "{storm}");
        assert!(script.next().is_some_and(|next| next > script.now()));
        let later = script.now() + Duration::from_micros(20);
        assert!(script.advance(later).len() <= 21, "the rest is left out");
    }

    #[test]
    fn lies_are_told_within_their_time_and_not_after_it_is_cleared() {
        let trigger = Trigger::at(SECOND).lasting(2 * SECOND);
        let mut script = script(Fault::FlippedBit, trigger);
        for (now, acts) in [(0, false), (1, true), (2, true), (3, false)] {
            script.advance(now * SECOND);
            assert_eq!(struck(&mut script, 1), [acts], "{now}");
        }
        let id = script.add(Injection::from(Fault::FlippedBit));
        assert_eq!(struck(&mut script, 1), [true]);
        assert!(script.clear(id) && !script.clear(id));
        assert!(!script.clear(InjectionId(99)));
        assert_eq!(struck(&mut script, 1), [false]);
    }

    #[test]
    fn what_is_over_is_on_record_and_looked_at_no_more() {
        let mut script = Script::new(5);
        let ids = [2, 1, 2].map(|seconds| {
            let trigger = Trigger::now().lasting(seconds * SECOND);
            let fault = Fault::WorkStops;
            script.add(Injection { fault, trigger })
        });
        for (now, live) in [(0, vec![0, 1, 2]), (1, vec![0, 2]), (2, vec![])] {
            script.advance(now * SECOND);
            assert_eq!(script.acting().count(), live.len());
            assert_eq!(script.live, live);
        }
        assert!(script.is_idle());
        assert_eq!(script.record().len(), ids.len());
        script.add(Fault::WorkStops.into());
        script.clear_all();
        assert!(script.live.is_empty());
    }

    #[test]
    fn chance_follows_the_seed() {
        let drawn = || {
            let trigger = Trigger::now().probability(0.3);
            struck(&mut script(Fault::FlippedBit, trigger), 1000)
        };
        assert_eq!(drawn(), drawn());
        let count = drawn().into_iter().filter(|acts| *acts).count();
        assert!((250..350).contains(&count), "{count}");
    }

    #[test]
    fn an_injection_is_read_from_one_line() {
        let read = |text: &str| text.parse::<Injection>();
        let fault = Fault::Slow { factor: 3.0 };
        let trigger = Trigger::at(5 * SECOND).lasting(SECOND / 2);
        assert_eq!(read("slow=3@5s+500ms"), Ok(Injection { fault, trigger }));
        assert_eq!(
            read("led-sos"),
            Ok(Injection::from("led-sos".parse::<Fault>().unwrap()))
        );
        for wrong in ["slow@", "slow@soon", "slow@5s+", "slow@+5s", "slow@5s+0s"] {
            let error = read(wrong).unwrap_err();
            assert!(matches!(error, InjectionError::Time { .. }), "{wrong}");
        }
        assert!(matches!(read("slowly"), Err(InjectionError::Fault(_))));
    }
}
