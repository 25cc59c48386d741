//! What the counters that a QAT card keeps of itself tell of how it is: errors of its units, and engines
//! that owe answers.
//!
//! Errors are counted from when the device was started, so that there are some is no news, and that there
//! are fewer is none either: it was started again. Only more are evidence.
//!
//! An engine that owes more answers than it has been seen to, and gives none over several looks, hangs:
//! also where the firmware's own thread still gives signs of life. How many it owes while it is idle is
//! not taken to be none, because what firmware counts is not said. So one that hung before it was first
//! looked at is found out when it gets more to do.

use crate::attribution::{Dossier, Kind};
use crate::probe::{EngineCounters, ProbeError, Qat};
use hwshim::clock::Instant;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Looks in a row, each on time, in which an engine that owes answers must have given none.
pub(super) const FROZEN_LOOKS: u32 = 3;
/// How much an error tells after which the card went on: requests that are nonsense bring some about.
const NONFATAL: f64 = 0.5;

/// What was counted at earlier looks.
#[derive(Debug)]
pub(super) struct QatCounters {
    /// A look that comes later than that after the one before counts for none in a row.
    on_time: Duration,
    seen: Option<(Arc<Result<Qat, ProbeError>>, Instant)>,
    nonfatal: Count,
    fatal: Count,
    engines: BTreeMap<u32, Engine>,
}

/// A counter that begins anew when the device does.
#[derive(Debug, Default)]
struct Count(Option<u64>);

#[derive(Debug)]
struct Engine {
    counters: EngineCounters,
    /// The fewest answers that it has owed at any look since it went on after it was taken to hang.
    owed_min: u64,
    /// Looks in a row in which it owed more and gave none.
    unmoved_looks: u32,
}

impl QatCounters {
    /// Has seen nothing. Looks are to be so far apart.
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            on_time: interval * 2,
            seen: None,
            nonfatal: Count::default(),
            fatal: Count::default(),
            engines: BTreeMap::new(),
        }
    }

    /// Takes in what a look saw, once; `is_down` while somebody has stopped the device.
    pub(super) fn take(
        &mut self,
        seen: &Arc<Result<Qat, ProbeError>>,
        is_down: bool,
        now: Instant,
        dossier: &mut Dossier,
    ) {
        let before = self.seen.as_ref();
        if before.is_some_and(|(before, _)| Arc::ptr_eq(before, seen)) {
            return;
        }
        let is_on_time = before.is_some_and(|(_, at)| now.since(*at) <= self.on_time);
        self.seen = Some((Arc::clone(seen), now));
        let qat = seen.as_ref().as_ref().ok();
        if let Some(qat) = qat {
            self.weigh_errors(qat, now, dossier);
        }
        let engines = qat.and_then(|qat| qat.engines.as_ref().ok());
        match engines.filter(|_| !is_down) {
            Some(engines) => self.take_engines(engines, is_on_time),
            None => self.engines.clear(),
        }
        if let Some(engines) = engines {
            let owed = engines.iter().map(EngineCounters::owed);
            dossier.in_flight(owed.fold(0, u64::saturating_add), now);
        }
    }

    /// Engines that owe answers and give none.
    pub(super) fn frozen(&self) -> impl Iterator<Item = &EngineCounters> {
        let engines = self.engines.values();
        let frozen = engines.filter(|engine| engine.is_frozen());
        frozen.map(|engine| &engine.counters)
    }

    /// Whether there are engines that could be seen to owe answers.
    pub(super) fn are_counted(&self) -> bool {
        !self.engines.is_empty()
    }

    fn weigh_errors(&mut self, qat: &Qat, now: Instant, dossier: &mut Dossier) {
        let kinds = [
            (
                Kind::FatalError,
                "fatal",
                1.0,
                &mut self.fatal,
                &qat.errors_fatal,
            ),
            (
                Kind::NonfatalError,
                "nonfatal",
                NONFATAL,
                &mut self.nonfatal,
                &qat.errors_nonfatal,
            ),
        ];
        for (kind, name, strength, count, seen) in kinds {
            let Ok(total) = *seen else {
                continue;
            };
            if let Some(more) = count.grows_to(total) {
                let detail = format!(
                    "the card has counted {more} {name} errors of its own since the look before, \
                     {total} since it was started"
                );
                dossier.seen(kind, strength, detail, now);
            } else if count.is_known() {
                dossier.not_seen(kind, "the card counts no more errors of its own", now);
            }
        }
    }

    fn take_engines(&mut self, seen: &[EngineCounters], is_on_time: bool) {
        self.engines
            .retain(|number, _| seen.iter().any(|it| it.engine == *number));
        for counters in seen {
            let new = || Engine::new(*counters);
            let engine = self.engines.entry(counters.engine).or_insert_with(new);
            engine.take(*counters, is_on_time);
        }
    }
}

impl Count {
    /// By how much it has grown; `None` if it has not, or was never seen before.
    fn grows_to(&mut self, total: u64) -> Option<u64> {
        let more = total.checked_sub(self.0.replace(total)?)?;
        (more > 0).then_some(more)
    }

    const fn is_known(&self) -> bool {
        self.0.is_some()
    }
}

impl Engine {
    const fn new(counters: EngineCounters) -> Self {
        Self {
            owed_min: counters.owed(),
            counters,
            unmoved_looks: 0,
        }
    }

    const fn is_frozen(&self) -> bool {
        self.unmoved_looks >= FROZEN_LOOKS
    }

    fn take(&mut self, counters: EngineCounters, is_on_time: bool) {
        let before = self.counters;
        if counters.requests < before.requests || counters.responses < before.responses {
            // The device was started again.
            *self = Self::new(counters);
            return;
        }
        let has_answered = counters.responses != before.responses;
        // What one that was taken to hang owes when it goes on may never be counted. It must not make
        // it hang again whenever it is idle.
        self.owed_min = match has_answered && self.is_frozen() {
            true => counters.owed(),
            false => self.owed_min.min(counters.owed()),
        };
        let owes = counters.owed() > self.owed_min;
        self.unmoved_looks = match owes && !has_answered && is_on_time {
            true => self.unmoved_looks.saturating_add(1),
            false => 0,
        };
        self.counters = counters;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribution::{Circumstances, Priors, assess};
    use crate::verdict::Cause;

    const STEP: Duration = Duration::from_secs(5);
    const NONE: [u32; 0] = [];

    fn absent<T>() -> Result<T, ProbeError> {
        Err(ProbeError::Absent {
            what: "it".to_owned(),
        })
    }

    /// A card whose engines have these numbers of requests and responses, and so many nonfatal and fatal
    /// errors.
    fn qat(engines: &[(u64, u64)], nonfatal: u64, fatal: u64) -> Arc<Result<Qat, ProbeError>> {
        let engine = |(engine, &(requests, responses)): (u32, &(u64, u64))| EngineCounters {
            engine,
            requests,
            responses,
        };
        Arc::new(Ok(Qat {
            heartbeat: absent(),
            queries_sent: absent(),
            queries_failed: absent(),
            period: absent(),
            engines: Ok((0..).zip(engines).map(engine).collect()),
            errors_correctable: absent(),
            errors_nonfatal: Ok(nonfatal),
            errors_fatal: Ok(fatal),
            state: absent(),
            services: absent(),
            auto_reset: absent(),
        }))
    }

    /// Who takes looks in, one each five seconds.
    struct Taker {
        counters: QatCounters,
        dossier: Dossier,
        now: Instant,
    }

    impl Taker {
        fn new() -> Self {
            Self {
                counters: QatCounters::new(STEP),
                dossier: Dossier::new(),
                now: Instant::ORIGIN,
            }
        }

        fn take(&mut self, seen: &Arc<Result<Qat, ProbeError>>) -> Vec<u32> {
            self.now = self.now.plus(STEP);
            self.counters.take(seen, false, self.now, &mut self.dossier);
            self.counters.frozen().map(|it| it.engine).collect()
        }

        fn saw(&self, kind: Kind) -> bool {
            matches!(self.dossier.sight(kind, self.now), Some((true, _)))
        }

        fn names(&self) -> Cause {
            let circumstances = Circumstances::default();
            assess(&self.dossier, &circumstances, &Priors::default(), self.now).cause
        }
    }

    #[test]
    fn errors_that_grow_are_evidence_and_those_that_were_there_or_began_anew_are_not() {
        let mut taker = Taker::new();
        // They fall when the device is started again; what was counted between two looks since is growth.
        for (nonfatal, has_grown) in [(7, false), (7, false), (0, false), (2, true), (1, true)] {
            taker.take(&qat(&[], nonfatal, 3));
            assert!(!taker.saw(Kind::FatalError));
            assert_eq!(taker.saw(Kind::NonfatalError), has_grown, "{nonfatal}");
        }
        assert_ne!(taker.names(), Cause::Card, "it went on");
        taker.take(&qat(&[], 1, 4));
        assert!(taker.saw(Kind::FatalError));
        assert_eq!(taker.names(), Cause::Card);
    }

    #[test]
    fn an_engine_that_owes_answers_and_gives_none_in_three_looks_hangs() {
        let mut taker = Taker::new();
        // Idle, whatever the firmware counts, and busy.
        for requests in [10, 10, 10, 30, 50] {
            let responses = requests - 1;
            assert_eq!(
                taker.take(&qat(&[(requests, responses), (7, 7)], 0, 0)),
                NONE
            );
        }
        for (requests, hangs) in [(52, false), (52, false), (60, true), (60, true)] {
            let seen = qat(&[(requests, 49), (7, 7)], 0, 0);
            let expected = if hangs { vec![0] } else { vec![] };
            assert_eq!(taker.take(&seen), expected, "{requests}");
        }
        assert_eq!(
            taker.take(&qat(&[(60, 50), (7, 7)], 0, 0)),
            NONE,
            "it moves"
        );
    }

    #[test]
    fn an_engine_of_which_one_answer_is_never_counted_does_not_hang_in_every_pause() {
        let mut taker = Taker::new();
        let mut pause = |requests, responses| {
            let looks = (0..5).map(|_| taker.take(&qat(&[(requests, responses)], 0, 0)));
            looks.last().unwrap()
        };
        assert_eq!(pause(10, 10), NONE);
        assert_eq!(pause(20, 19), [0], "it may hang");
        assert_eq!(pause(30, 29), NONE);
        assert_eq!(pause(40, 39), NONE);
        assert_eq!(pause(42, 39), [0]);
    }

    #[test]
    fn a_look_that_is_late_missing_or_the_same_counts_for_none() {
        let owes = |requests| qat(&[(requests, 5)], 0, 0);
        let mut taker = Taker::new();
        taker.take(&owes(5));
        taker.take(&owes(9));
        taker.take(&owes(9));
        // Nobody looked for a minute.
        taker.now = taker.now.plus(Duration::from_secs(60));
        assert_eq!(taker.take(&owes(9)), NONE);
        taker.take(&owes(9));
        let third = owes(9);
        taker.take(&third);
        assert_eq!(taker.take(&third), NONE, "it is the same look");
        assert_eq!(taker.take(&owes(9)), [0]);
        // The device was started again, and then nothing could be read.
        assert_eq!(taker.take(&qat(&[(1, 0)], 0, 0)), NONE);
        assert_eq!(taker.take(&Arc::new(absent())), NONE);
        assert_eq!(taker.take(&owes(9)), NONE);
    }
}
