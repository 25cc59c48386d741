//! What becomes of the commands that a service is given: whether they are done, wait for ever, or are
//! more than it can do. It goes by what the service counts, from one answer to the next.

use super::judge::Work;
use super::resources::sum;
use crate::probe::Statistics;
use hwshim::clock::Instant;
use std::time::Duration;

/// With fewer commands under way, no queue is long.
const OUTSTANDING_LONG: u64 = 64;
/// A card that is less busy than that, in percent, could do more.
const BUSY: u64 = 90;
/// What was said so long ago is not true any more: a few questions that got no answer.
const AGE_MAX: Duration = Duration::from_secs(45);

/// What may be why a service did nothing, or less than it could.
#[derive(Clone, Copy, Debug)]
pub(super) struct Excuse {
    /// The host was starved.
    pub starved: bool,
    /// Its control group had used up its quota of processor time.
    pub throttled: bool,
}

impl Excuse {
    /// Whether there is one.
    pub(super) const fn is_one(self) -> bool {
        self.starved || self.throttled
    }
}

/// What was counted.
#[derive(Clone, Copy, Debug)]
struct Counts {
    commands: u64,
    replies: u64,
    load_percent: Option<u64>,
}

/// How counts go on.
#[derive(Debug, Default)]
pub(super) struct Progress {
    last: Option<(Instant, Counts)>,
    work: Work,
}

impl Progress {
    /// What is so, if it was said lately.
    pub(super) fn work(&self, now: Instant) -> Work {
        match self.last {
            Some((at, _)) if now.since(at) <= AGE_MAX => self.work,
            _ => Work::Unknown,
        }
    }

    /// Takes an answer. With an excuse, that nothing was done tells less; and at a quota of its own a
    /// service can do no more, however idle its card is.
    pub(super) fn take(&mut self, statistics: &Statistics, excuse: Excuse, now: Instant) {
        let Some(counts) = Counts::of(statistics) else {
            self.last = None;
            return;
        };
        let before = self.last.replace((now, counts));
        self.work = match before {
            Some((_, before)) if before.commands <= counts.commands => {
                self.between(&before, &counts, excuse)
            }
            // It was started anew, or tells for the first time.
            _ => Work::Unknown,
        };
    }

    fn between(&self, before: &Counts, now: &Counts, excuse: Excuse) -> Work {
        let outstanding = now.commands.saturating_sub(now.replies);
        let waited = before.commands.saturating_sub(before.replies);
        let done = now.replies.saturating_sub(before.replies);
        if done == 0 && waited > 0 {
            let (times, excused) = match self.work {
                Work::Stuck { times, excused } => (times, excused),
                _ => (0, 0),
            };
            return Work::Stuck {
                times: times.saturating_add(u32::from(!excuse.is_one())),
                excused: excused.saturating_add(u32::from(excuse.is_one())),
            };
        }
        let has_an_idle_card = now.load_percent.is_some_and(|load| load < BUSY);
        let could_do_more = has_an_idle_card && !excuse.throttled;
        if outstanding >= OUTSTANDING_LONG && outstanding >= waited && !could_do_more {
            return Work::Overrun { outstanding };
        }
        Work::Done
    }
}

impl Counts {
    fn of(statistics: &Statistics) -> Option<Self> {
        let modules = || statistics.modules.values();
        Some(Self {
            commands: sum(modules().map(|module| module.commands))?,
            replies: sum(modules().map(|module| module.replies))?,
            load_percent: modules().filter_map(|module| module.load_percent).max(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::ModuleStatistics;

    fn at(seconds: u64) -> Instant {
        Instant::ORIGIN.plus(Duration::from_secs(seconds))
    }

    fn counted(commands: u64, replies: u64, load_percent: u64) -> Statistics {
        let module = ModuleStatistics {
            commands: Some(commands),
            replies: Some(replies),
            load_percent: Some(load_percent),
            ..ModuleStatistics::default()
        };
        Statistics {
            modules: [(1, module)].into(),
            ..Statistics::default()
        }
    }

    const NONE: Excuse = Excuse {
        starved: false,
        throttled: false,
    };
    const STARVED: Excuse = Excuse {
        starved: true,
        ..NONE
    };
    const THROTTLED: Excuse = Excuse {
        throttled: true,
        ..NONE
    };

    #[test]
    fn what_waits_and_is_not_done_is_stuck_and_what_is_done_slower_than_it_comes_is_too_much() {
        let mut progress = Progress::default();
        assert_eq!(progress.work(at(0)), Work::Unknown);
        progress.take(&counted(100, 100, 10), NONE, at(0));
        progress.take(&counted(200, 199, 10), NONE, at(10));
        assert_eq!(progress.work(at(10)), Work::Done);
        progress.take(&counted(300, 199, 10), NONE, at(20));
        progress.take(&counted(400, 199, 10), NONE, at(30));
        let stuck = |times, excused| Work::Stuck { times, excused };
        assert_eq!(progress.work(at(30)), stuck(2, 0));
        progress.take(&counted(500, 199, 10), STARVED, at(40));
        let excused = stuck(2, 1);
        assert_eq!(progress.work(at(40)), excused, "a starved host may be why");
        progress.take(&counted(600, 500, 100), NONE, at(50));
        let outstanding = 100;
        assert_eq!(progress.work(at(50)), Work::Done, "less waits than did");
        progress.take(&counted(700, 600, 100), NONE, at(60));
        assert_eq!(progress.work(at(60)), Work::Overrun { outstanding });
        progress.take(&counted(800, 700, 89), NONE, at(70));
        assert_eq!(progress.work(at(70)), Work::Done, "it could do more");
        progress.take(&counted(900, 800, 12), THROTTLED, at(75));
        let throttled = Work::Overrun { outstanding };
        assert_eq!(progress.work(at(75)), throttled, "it may do no more");
        progress.take(&counted(1000, 900, 89), NONE, at(80));
        // What was said long ago, or before it was started anew, tells nothing.
        assert_eq!(progress.work(at(126)), Work::Unknown);
        progress.take(&counted(5, 0, 100), NONE, at(127));
        assert_eq!(progress.work(at(127)), Work::Unknown);
    }
}
