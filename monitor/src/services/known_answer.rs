//! What is remembered of the known-answer tests through a service, and when there should be none.
//!
//! ```text
//!              right                      another answer
//!   Unknown --------> Right               ---------------> Wrong
//!      |                                  an error
//!      | no such command                  ---------------> Refused, so often in a row
//!      v                                  no answer while it answers how it is
//!   declined: no more tests               ---------------> Lost, so often in a row
//!   of this process
//!
//!   any of the four leads to any other; what was found two intervals ago is unknown again
//! ```

use super::judge::{Tests, Work};
use super::senses::Tested;
use super::work::Excuse;
use crate::probe::{KnownAnswer, ServiceAnswer};
use crate::status::{KnownAnswerFigures, KnownAnswerResult};
use hwshim::clock::Instant;
use std::sync::Arc;
use std::time::Duration;

/// What was found so many intervals ago is not true any more.
const INTERVALS_FRESH: u32 = 2;

/// What a test has a service do: open, test, close.
const COMMANDS: u64 = 3;

/// Commands that a service has done for others. It has nothing to do while there are no more of them, however
/// often it is tested.
#[derive(Debug)]
pub(super) struct OthersCommands {
    all: u64,
    others: u64,
    /// Commands of our own that are yet to be counted. A test may be counted before its end is heard of, and so
    /// may be owed in advance.
    owed: u64,
}

impl Default for OthersCommands {
    fn default() -> Self {
        Self {
            all: 0,
            others: 0,
            owed: COMMANDS,
        }
    }
}

impl OthersCommands {
    /// A test has ended. What it had not done by then is not waited for beyond the next.
    pub(super) fn tested(&mut self) {
        self.owed = (self.owed + COMMANDS).min(2 * COMMANDS);
    }

    /// Of `all` that it has done.
    pub(super) fn of(&mut self, all: u64) -> u64 {
        let more = all.saturating_sub(self.all);
        let own = more.min(self.owed);
        self.owed -= own;
        self.others += more - own;
        self.all = all;
        self.others
    }
}

/// The tests of one process.
#[derive(Debug, Default)]
pub(super) struct KnownAnswers {
    /// The last one that was taken, whether or not it told anything.
    seen: Option<Tested>,
    /// The last one that told something.
    last: Option<Tested>,
    at: Option<Instant>,
    /// Tests in a row that were refused.
    refused_in_a_row: u32,
    /// Tests in a row without an answer, but for those that something else explains.
    lost_in_a_row: u32,
    /// Those.
    excused_in_a_row: u32,
}

impl KnownAnswers {
    /// Whether one may be done now. A service that has no card is not asked for what takes one:
    /// there are services that leak with each open that fails, and no test may make that worse.
    pub(super) fn may_begin(&self, answer: Option<&ServiceAnswer>, card_is_absent: bool) -> bool {
        let has_a_card = answer.is_none_or(|answer| !answer.enquiry.modules.is_empty());
        has_a_card && !card_is_absent && !self.are_declined()
    }

    fn are_declined(&self) -> bool {
        matches!(self.last.as_deref(), Some(Ok(KnownAnswer::Declined)))
    }

    /// Takes what came of the last test, once. `answers` is whether the service says how it is: one
    /// that says nothing at all has lost nothing of its own. That others' commands are done explains
    /// a loss as well as a starved host does: ours may have waited for its turn. Says whether it is news.
    pub(super) fn take(
        &mut self,
        seen: Tested,
        answers: bool,
        work: Work,
        excuse: Excuse,
        now: Instant,
    ) -> bool {
        let is_known = self.seen.as_ref().is_some_and(|it| Arc::ptr_eq(it, &seen));
        if is_known {
            return false;
        }
        // What tells nothing now tells nothing later either, when what explains it may be over.
        self.seen = Some(Arc::clone(&seen));
        let (mut refused, mut lost, mut excused) = (0, 0, 0);
        match seen.as_ref() {
            Ok(KnownAnswer::NotConnected) => return true,
            Ok(KnownAnswer::Lost { .. }) if !answers => return true,
            Ok(KnownAnswer::Lost { .. }) => {
                let is_excused = excuse.is_one() || matches!(work, Work::Done);
                lost = self.lost_in_a_row.saturating_add(u32::from(!is_excused));
                excused = self.excused_in_a_row.saturating_add(u32::from(is_excused));
            }
            Ok(KnownAnswer::Refused(_)) => refused = self.refused_in_a_row.saturating_add(1),
            _ => {}
        }
        *self = Self {
            seen: self.seen.take(),
            last: Some(seen),
            at: Some(now),
            refused_in_a_row: refused,
            lost_in_a_row: lost,
            excused_in_a_row: excused,
        };
        true
    }

    /// What is so, if it was found of late. `interval` is that between two tests.
    pub(super) fn tests(&self, interval: Option<Duration>, now: Instant) -> Tests<'_> {
        let (Some(at), Some(interval)) = (self.at, interval) else {
            return Tests::Unknown;
        };
        if now.since(at) > interval * INTERVALS_FRESH {
            return Tests::Unknown;
        }
        match self.last.as_deref() {
            Some(Ok(KnownAnswer::Right { .. })) => Tests::Right,
            Some(Ok(KnownAnswer::Wrong { message })) => Tests::Wrong { message },
            Some(Ok(KnownAnswer::Refused(refused))) => Tests::Refused {
                refused,
                times: self.refused_in_a_row,
            },
            Some(Ok(KnownAnswer::Lost { command, .. })) => Tests::Lost {
                command,
                times: self.lost_in_a_row,
                excused: self.excused_in_a_row,
            },
            Some(Ok(KnownAnswer::Declined | KnownAnswer::NotConnected) | Err(_)) | None => {
                Tests::Unknown
            }
        }
    }

    /// What is shown of the last one.
    pub(super) fn figures(&self, now: Instant) -> Option<KnownAnswerFigures> {
        use KnownAnswerResult as Is;
        let (result, took, detail) = match self.last.as_deref()? {
            Ok(KnownAnswer::Right { took }) => (Is::Right, Some(took.as_secs_f64()), None),
            Ok(KnownAnswer::Wrong { message }) => (Is::Wrong, None, Some(message.clone())),
            Ok(KnownAnswer::Refused(refused)) => (Is::Refused, None, Some(refused.to_string())),
            Ok(KnownAnswer::Lost { command, hung_up }) => {
                let how = match hung_up {
                    true => "the connection ended before the answer to",
                    false => "not answered in time:",
                };
                (Is::Lost, None, Some(format!("{how} `{command}`")))
            }
            Ok(KnownAnswer::Declined) => (Is::Declined, None, None),
            Ok(KnownAnswer::NotConnected) => return None,
            Err(error) => (Is::Unreadable, None, Some(error.to_string())),
        };
        Some(KnownAnswerFigures {
            result,
            age_seconds: now.since(self.at?).as_secs_f64(),
            took_seconds: took,
            detail,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::{Enquiry, EnquiryModule, Refused, Statistics};

    const INTERVAL: Option<Duration> = Some(Duration::from_secs(60));
    const NONE: Excuse = Excuse {
        starved: false,
        throttled: false,
    };

    fn at(seconds: u64) -> Instant {
        Instant::ORIGIN.plus(Duration::from_secs(seconds))
    }

    fn lost() -> Tested {
        Arc::new(Ok(KnownAnswer::Lost {
            command: "kat",
            hung_up: false,
        }))
    }

    fn right() -> Tested {
        let took = Duration::from_millis(3);
        Arc::new(Ok(KnownAnswer::Right { took }))
    }

    fn lost_so_often(tests: Tests<'_>) -> (u32, u32) {
        match tests {
            Tests::Lost { times, excused, .. } => (times, excused),
            _ => (0, 0),
        }
    }

    #[test]
    fn what_our_tests_have_a_service_do_is_nobody_elses_whenever_it_is_counted() {
        let mut others = OthersCommands::default();
        assert_eq!(others.of(1003), 1000);
        let before = 1000;
        others.tested();
        assert_eq!(others.of(1003), before, "nothing has been done");
        // The next is counted in part, in full, heard of, and after it another that is heard of at once.
        assert_eq!(others.of(1005), before);
        assert_eq!(others.of(1006), before);
        others.tested();
        others.tested();
        assert_eq!(others.of(1009), before);
        // One of somebody else's beside another of ours, and what was owed and not done is not saved up.
        others.tested();
        others.tested();
        others.tested();
        assert_eq!(others.of(1016), before + 1);
        // Counted anew by a service that was started again.
        assert_eq!(others.of(5), before + 1);
    }

    #[test]
    fn losses_are_counted_until_there_is_an_answer_and_are_unknown_when_they_are_old() {
        let mut tests = KnownAnswers::default();
        assert_eq!(tests.tests(INTERVAL, at(0)), Tests::Unknown);
        let starved = Excuse {
            starved: true,
            ..NONE
        };
        tests.take(lost(), true, Work::Unknown, NONE, at(0));
        tests.take(lost(), true, Work::Unknown, starved, at(60));
        tests.take(lost(), true, Work::Done, NONE, at(120));
        assert_eq!(lost_so_often(tests.tests(INTERVAL, at(120))), (1, 2));
        // The same one seen again, and one by somebody who answers nobody, are no news.
        let seen = lost();
        tests.take(Arc::clone(&seen), true, Work::Unknown, NONE, at(180));
        tests.take(seen, true, Work::Unknown, NONE, at(181));
        let of_silence = lost();
        tests.take(Arc::clone(&of_silence), false, Work::Unknown, NONE, at(240));
        // Nor is the latter when it answers again.
        tests.take(of_silence, true, Work::Unknown, NONE, at(241));
        assert_eq!(lost_so_often(tests.tests(INTERVAL, at(240))), (2, 2));
        assert_eq!(tests.tests(INTERVAL, at(301)), Tests::Unknown);
        tests.take(right(), true, Work::Unknown, NONE, at(310));
        assert_eq!(tests.tests(INTERVAL, at(310)), Tests::Right);
        tests.take(lost(), true, Work::Unknown, NONE, at(370));
        assert_eq!(lost_so_often(tests.tests(INTERVAL, at(370))), (1, 0));
    }

    #[test]
    fn who_has_no_such_command_is_not_asked_again_and_who_has_no_card_not_now() {
        let mut tests = KnownAnswers::default();
        let mut answer = ServiceAnswer {
            enquiry: Enquiry::default(),
            statistics: Statistics::default(),
            took: Duration::ZERO,
            connected: None,
        };
        assert!(tests.may_begin(None, false));
        assert!(!tests.may_begin(None, true));
        assert!(!tests.may_begin(Some(&answer), false));
        answer.enquiry.modules = [(1, EnquiryModule::default())].into();
        assert!(tests.may_begin(Some(&answer), false));
        let declined = Arc::new(Ok(KnownAnswer::Declined));
        tests.take(declined, true, Work::Done, NONE, at(5));
        assert!(!tests.may_begin(Some(&answer), false));
        assert_eq!(tests.tests(INTERVAL, at(6)), Tests::Unknown);
        let figures = tests.figures(at(7)).unwrap();
        let age = figures.age_seconds;
        assert_eq!(
            (figures.result, age),
            (KnownAnswerResult::Declined, 2.0),
            "it is told that there is none"
        );
    }

    #[test]
    fn each_result_is_shown_with_its_age_and_what_was_said() {
        let shown = |outcome: KnownAnswer| {
            let mut tests = KnownAnswers::default();
            tests.take(Arc::new(Ok(outcome)), true, Work::Done, NONE, at(5));
            let shown = tests.figures(at(17))?;
            assert_eq!(shown.age_seconds, 12.0);
            Some((shown.result, shown.detail.unwrap_or_default()))
        };
        let of = |result, detail: &str| Some((result, detail.to_owned()));
        use KnownAnswerResult as Is;
        let message = "status 9".to_owned();
        let wrong = KnownAnswer::Wrong { message };
        assert_eq!(shown(wrong), of(Is::Wrong, "status 9"));
        let refused = KnownAnswer::Refused(Refused {
            command: "open",
            code: "resources".to_owned(),
            message: "no port".to_owned(),
        });
        assert_eq!(
            shown(refused),
            of(
                Is::Refused,
                "`open` was answered with the error resources: no port"
            )
        );
        let lost = |hung_up| KnownAnswer::Lost {
            command: "kat",
            hung_up,
        };
        assert_eq!(
            shown(lost(false)),
            of(Is::Lost, "not answered in time: `kat`")
        );
        assert_eq!(
            shown(lost(true)),
            of(Is::Lost, "the connection ended before the answer to `kat`")
        );
        assert_eq!(shown(KnownAnswer::NotConnected), None);
    }
}
