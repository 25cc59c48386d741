//! Says what is wrong with a service, if anything is: one function of what was seen of it.
//!
//! | seen | standing | cause |
//! |---|---|---|
//! | no process | gone | service-gone |
//! | no process, and something answers | answers | configuration: another process is looked for |
//! | nobody listens | refused | service-gone |
//! | silence, hung up, a full queue | silent | service-hang from the second time on |
//! | the same, or answers, and more to do than is done | silent or answers | overload |
//! | answers, and commands of which none is done | answers | service-hang from the second time on |
//! | answers, and known-answer tests that get no answer | answers | service-hang from the second time on, or overload |
//! | a known-answer test with another answer | answers | undetermined: its card, or itself |
//! | a known-answer test that is refused | answers | undetermined from the second time on |
//! | any of silence, no work, and tests without an answer at a quota of processor time | silent or answers | overload, and service-hang from the fourth time on |
//! | a leak, at least leaking | answers or runs | service-leak |
//! | it may not be looked at | unknown | undetermined |
//! | none of that | answers, declines or runs | none |
//!
//! The first line that fits names the cause; what else was found is told as evidence. Processes
//! that were killed for want of memory are victims: they are told where memory leaks, and are never
//! the cause of anything.

use super::{LedgerFacts, Throttled};
use crate::checks;
use crate::leak::Level;
use crate::probe::{ProbeError, Reach, Refused};
use crate::status::{LeakFigures, Standing, Unit};
use crate::text;
use crate::verdict::{Cause, Evidence};

/// Looks in a row without an answer before it is held to hang: one may have met a pause.
const SILENT_MIN: u32 = 2;

/// Looks in a row that a starved host may explain which tell as much as one that nothing does. A starved
/// host lets everybody run now and then, so a service that is well answers at least sometimes, and does
/// something of what waits.
const EXCUSED_FOR_ONE: u32 = 2;

/// What was seen of a service.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Its process.
    pub process: Found<'a>,
    /// What came of asking it; `None` if it was not asked, or is being asked for the first time.
    pub reach: Option<&'a Result<Reach, ProbeError>>,
    /// Looks in a row, the last one included, in which it did not answer and nothing explains that.
    pub silent_in_a_row: u32,
    /// Looks in a row in which it did not answer and a starved host may be why, or a quota.
    pub excused_in_a_row: u32,
    /// What becomes of the commands given to it, as its last answers tell.
    pub work: Work,
    /// What becomes of known-answer tests through it.
    pub tests: Tests<'a>,
    /// The control group that had used up its quota of processor time of late, if one had.
    pub throttled: Option<&'a Throttled>,
    /// What is believed of each resource.
    pub leaks: &'a [LeakFigures],
    /// Whether its ledgers agree.
    pub ledgers: LedgerFacts<'a>,
    /// Processes of the host that were killed for want of memory since it is watched.
    pub oom_kills: u64,
}

impl Facts<'_> {
    /// How surely it hangs by the silences in a row, from 0 to 1.
    pub(super) fn silence(&self) -> f64 {
        sureness(self.silent_in_a_row, self.excused_in_a_row)
    }

    /// Who held it up, if it gives no answer or does no work.
    pub(super) fn held_up_by(&self) -> Option<&Throttled> {
        let is_idle = standing(self) == Standing::Silent
            || matches!(self.work, Work::Stuck { .. } | Work::Overrun { .. })
            || matches!(self.tests, Tests::Lost { .. });
        self.throttled.filter(|_| is_idle)
    }
}

/// That a group was held up, for people.
pub(super) fn sentence_of(throttled: &Throttled) -> String {
    format!(
        "the control group /{} had used up its quota of processor time in {:.0} % of its periods \
         (cpu.max; CPUQuota= of a unit)",
        throttled.group.display(),
        throttled.share * 100.0
    )
}

/// How surely a service hangs that so many looks in a row have found idle, and so many more that a
/// starved host or a quota may explain.
fn sureness(times: u32, excused: u32) -> f64 {
    let looks = f64::from(times) + f64::from(excused) / f64::from(EXCUSED_FOR_ONE);
    // The first may have met a pause, and each one after it makes that less likely.
    (looks / f64::from(SILENT_MIN)).powi(2).min(1.0)
}

/// What becomes of a service's commands, from one of its answers to the next.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Work {
    /// It has not said.
    #[default]
    Unknown,
    /// They are done.
    Done,
    /// They wait, and none is done.
    Stuck {
        /// Answers in a row of which that is so, and nothing explains it.
        times: u32,
        /// Those that a starved host or a quota may explain.
        excused: u32,
    },
    /// They are done, as fast as can be, and more and more wait.
    Overrun {
        /// So many.
        outstanding: u64,
    },
}

impl Work {
    /// How surely it hangs by that, from 0 to 1.
    pub(super) fn stuck(self) -> f64 {
        match self {
            Self::Stuck { times, excused } => sureness(times, excused),
            Self::Unknown | Self::Done | Self::Overrun { .. } => 0.0,
        }
    }
}

/// What becomes of known-answer tests through a service.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Tests<'a> {
    /// There are none, or none of late.
    #[default]
    Unknown,
    /// The answer is the known one.
    Right,
    /// It is another one.
    Wrong {
        /// What the service says.
        message: &'a str,
    },
    /// It is an error.
    Refused {
        /// Which.
        refused: &'a Refused,
        /// So often in a row.
        times: u32,
    },
    /// There is none, though it answers how it is.
    Lost {
        /// What it does not answer.
        command: &'a str,
        /// Tests in a row of which that is so, and nothing explains it.
        times: u32,
        /// Those that a starved host, a quota or others' work may explain.
        excused: u32,
    },
}

impl Tests<'_> {
    /// How surely it hangs by that, from 0 to 1.
    pub(super) fn lost(self) -> f64 {
        match self {
            Self::Lost { times, excused, .. } => sureness(times, excused),
            Self::Unknown | Self::Right | Self::Wrong { .. } | Self::Refused { .. } => 0.0,
        }
    }
}

/// What became of looking for a process.
#[derive(Clone, Copy, Debug)]
pub enum Found<'a> {
    /// It is there.
    Running,
    /// It has not been looked for yet.
    NotYet,
    /// It is not there.
    Gone(&'a ProbeError),
    /// Whether it is there could not be seen.
    Unseen(&'a ProbeError),
}

/// What is believed of a service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Judgement {
    /// How far one gets with it.
    pub standing: Standing,
    /// What is at fault.
    pub cause: Cause,
    /// Why, what decided first.
    pub evidence: Vec<Evidence>,
    /// Codes of [`code`](crate::code) that fit, ascending.
    pub codes: Vec<u8>,
}

/// Something that was found, with what it would mean were it all.
struct Finding {
    cause: Cause,
    code: Option<u8>,
    evidence: Evidence,
}

/// Judges.
#[must_use]
pub fn judge(facts: &Facts<'_>) -> Judgement {
    let mut findings = Vec::new();
    findings.extend(process(facts));
    findings.extend(reach(facts));
    findings.extend(work(facts));
    findings.extend(tests(facts));
    findings.extend(quota(facts));
    findings.extend(leaks(facts));
    findings.extend(ledgers(facts));
    // Who is known to be at fault comes before what could not be seen.
    findings.sort_by_key(|finding| match finding.cause {
        Cause::None => 2,
        Cause::Undetermined => 1,
        _ => 0,
    });
    let mut codes: Vec<_> = findings.iter().filter_map(|finding| finding.code).collect();
    codes.sort_unstable();
    codes.dedup();
    Judgement {
        standing: standing(facts),
        cause: findings.first().map_or(Cause::None, |first| first.cause),
        evidence: findings.into_iter().map(|it| it.evidence).collect(),
        codes,
    }
}

fn standing(facts: &Facts<'_>) -> Standing {
    match (facts.process, facts.reach) {
        (_, Some(Ok(Reach::Answered(_)))) => Standing::Answers,
        (_, Some(Ok(Reach::Declined { .. }))) => Standing::Declines,
        (Found::Gone(_), _) => Standing::Gone,
        (_, Some(Ok(Reach::Silent { .. } | Reach::HungUp { .. } | Reach::Unreachable { .. }))) => {
            Standing::Silent
        }
        (_, Some(Ok(Reach::Refused) | Err(ProbeError::Absent { .. }))) => Standing::Refused,
        (Found::Unseen(_) | Found::NotYet, _) | (_, Some(Err(_))) => Standing::Unknown,
        (Found::Running, None) => Standing::Runs,
    }
}

fn process(facts: &Facts<'_>) -> Option<Finding> {
    let answers = standing(facts) == Standing::Answers;
    Some(match facts.process {
        Found::Running | Found::NotYet => return None,
        Found::Gone(error) if answers => finding(
            Cause::Configuration,
            None,
            "other-process",
            format!(
                "something answers, and yet {error}: is another process looked for than serves?"
            ),
        ),
        Found::Gone(error) => finding(Cause::ServiceGone, None, "process-gone", error.to_string()),
        Found::Unseen(error) if answers => {
            finding(Cause::None, None, "process-unseen", error.to_string())
        }
        Found::Unseen(error) => finding(
            Cause::Undetermined,
            None,
            "process-unseen",
            error.to_string(),
        ),
    })
}

/// What to do about a socket that is for others.
const NOT_OURS: &str = "; its socket is for its owner and its group: have the monitor run with that \
    group (SupplementaryGroups= of its unit)";

fn is_denied(error: &ProbeError) -> bool {
    let ProbeError::Unreadable { source, .. } = error else {
        return false;
    };
    source.kind() == std::io::ErrorKind::PermissionDenied
}

fn reach(facts: &Facts<'_>) -> Option<Finding> {
    let reach = match facts.reach? {
        Ok(reach) => reach,
        Err(error @ ProbeError::Absent { .. }) => {
            return Some(finding(
                Cause::ServiceGone,
                None,
                "no-socket",
                error.to_string(),
            ));
        }
        Err(error) => {
            let code = checks::of_refusal(error);
            let mut detail = error.to_string();
            if is_denied(error) {
                detail.push_str(NOT_OURS);
            }
            return Some(finding(Cause::Undetermined, code, "reach-unseen", detail));
        }
    };
    let silent = |what: String| {
        let times = facts.silent_in_a_row + facts.excused_in_a_row;
        // Who is asked too much answers late as well, and is not the one that is broken.
        let is_busy = matches!(facts.work, Work::Overrun { .. });
        let cause = if facts.silence() >= 1.0 && !is_busy {
            Cause::ServiceHang
        } else {
            Cause::None
        };
        let times = in_a_row(times);
        finding(cause, Some(17), "no-answer", format!("{what}, {times}"))
    };
    Some(match reach {
        Reach::Answered(_) => return None,
        Reach::Declined { message } => {
            finding(Cause::None, Some(4), "declined", text::clean(message))
        }
        Reach::Silent { received } => silent(format!(
            "it took the connection and answered {received} bytes in time"
        )),
        Reach::HungUp { received } => silent(format!(
            "it ended the connection after {received} bytes of an answer"
        )),
        Reach::Unreachable { why } => silent(format!("it takes no connection: {why}")),
        Reach::Refused => {
            let detail = "nobody listens where it is asked".to_owned();
            finding(Cause::ServiceGone, None, "refused", detail)
        }
    })
}

/// What becomes of what it is asked to do.
fn work(facts: &Facts<'_>) -> Option<Finding> {
    match facts.work {
        Work::Unknown | Work::Done => None,
        Work::Stuck { times, excused } => {
            let cause = if facts.work.stuck() >= 1.0 {
                Cause::ServiceHang
            } else {
                Cause::None
            };
            let times = times.saturating_add(excused);
            let detail = format!("it answers, and did none of what waits, {times} times in a row");
            Some(finding(cause, Some(17), "no-work", detail))
        }
        Work::Overrun { outstanding } => {
            let detail = format!("{outstanding} commands wait, and more come than are done");
            Some(finding(Cause::Overload, None, "overrun", detail))
        }
    }
}

/// The code of a session that is not opened, and that of what the process can have no more of.
const NO_SESSION: u8 = 4;
const NO_RESOURCES: u8 = 6;

/// What becomes of a request that is known to be good.
fn tests(facts: &Facts<'_>) -> Option<Finding> {
    Some(match facts.tests {
        Tests::Unknown | Tests::Right => return None,
        Tests::Wrong { message } => {
            let detail = format!(
                "a known-answer test through it had another answer ({}); whether its card computed \
                 that or it did is not seen from here: test the card through another service, or \
                 another card through this one",
                text::clean(message)
            );
            finding(Cause::Undetermined, Some(16), "wrong-answer", detail)
        }
        Tests::Refused { refused, times } => {
            let code = match &*refused.code {
                "resources" => Some(NO_RESOURCES),
                _ if refused.command == "open" => Some(NO_SESSION),
                _ => None,
            };
            // One may have met a moment without a card, or a queue that was full, and makes nobody a
            // victim.
            let (cause, code) = match times {
                0 | 1 => (Cause::None, None),
                _ => (Cause::Undetermined, code),
            };
            let refused = text::clean(&refused.to_string());
            let detail = format!("of a known-answer test {refused}, {}", in_a_row(times));
            finding(cause, code, "known-answer-refused", detail)
        }
        Tests::Lost {
            command,
            times,
            excused,
        } => {
            let is_busy = matches!(facts.work, Work::Overrun { .. });
            let cause = if facts.tests.lost() >= 1.0 && !is_busy {
                Cause::ServiceHang
            } else {
                Cause::None
            };
            let times = in_a_row(times.saturating_add(excused));
            let detail = format!(
                "it answers how it is, and not `{command}` of a known-answer test, {times}"
            );
            finding(cause, Some(17), "known-answer-lost", detail)
        }
    })
}

fn in_a_row(times: u32) -> String {
    match times {
        0 | 1 => "once".to_owned(),
        times => format!("{times} times in a row"),
    }
}

/// What it may not do, although there is time for it.
fn quota(facts: &Facts<'_>) -> Option<Finding> {
    let cause = match facts.held_up_by() {
        Some(_) => Cause::Overload,
        None => Cause::None,
    };
    let detail = sentence_of(facts.throttled?);
    Some(finding(cause, None, "quota", detail))
}

/// What leaks, the most urgent first, and who suffers from it.
fn leaks(facts: &Facts<'_>) -> Vec<Finding> {
    let rises = facts
        .leaks
        .iter()
        .filter(|leak| leak.level >= Level::Suspected);
    let mut leaks: Vec<_> = rises.collect();
    let left = |leak: &LeakFigures| {
        leak.exhaustion
            .map_or(f64::INFINITY, |it| it.earliest_seconds)
    };
    leaks.sort_by(|a, b| b.level.cmp(&a.level).then(left(a).total_cmp(&left(b))));
    let takes_memory = leaks
        .iter()
        .any(|leak| names(leak) && leak.unit == Unit::Bytes);
    let mut findings: Vec<_> = leaks.into_iter().map(leak).collect();
    if takes_memory && facts.oom_kills > 0 {
        let detail = format!(
            "{} processes of this host were killed for want of memory since it is watched; they \
             are no cause of it",
            facts.oom_kills
        );
        findings.push(finding(Cause::None, None, "victims", detail));
    }
    findings
}

fn names(leak: &LeakFigures) -> bool {
    leak.level >= Level::Leaking && leak.scope == crate::leak::Scope::Service
}

fn leak(leak: &LeakFigures) -> Finding {
    let cause = if names(leak) {
        Cause::ServiceLeak
    } else {
        Cause::None
    };
    let code = if leak.resource == "descriptors" || leak.resource == "threads" {
        let full = leak
            .limit
            .as_ref()
            .is_some_and(|limit| leak.held >= limit.value);
        if full { 6 } else { 24 }
    } else {
        24
    };
    finding(cause, Some(code), "leak", text::leak_sentence(leak))
}

/// Ledgers that disagree, which blames nobody by itself.
fn ledgers<'a>(facts: &'a Facts<'_>) -> impl Iterator<Item = Finding> + 'a {
    let LedgerFacts {
        disagreements,
        unaccounted,
        devices,
    } = facts.ledgers;
    let told = |name, detail| finding(Cause::None, None, name, detail);
    let unaccounted = unaccounted.iter();
    let unaccounted = unaccounted.map(move |it| told("not-in-its-account", it.sentence()));
    let disagreements = disagreements.iter();
    let disagreements = disagreements.map(move |it| told("ledgers-disagree", it.sentence()));
    let devices = devices.map(|it| told("device-failures", it.sentence()));
    unaccounted.chain(disagreements).chain(devices)
}

fn finding(cause: Cause, code: Option<u8>, name: &'static str, detail: String) -> Finding {
    Finding {
        cause,
        code,
        evidence: Evidence {
            code: name.into(),
            detail,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leak::{Scope, Speed};
    use crate::probe::{Enquiry, ServiceAnswer, Statistics};
    use crate::services::{DeviceFailures, Disagreement};
    use crate::status::{ExhaustionFigures, LimitFigures, RateFigures};
    use std::time::Duration;

    fn answered() -> Result<Reach, ProbeError> {
        Ok(Reach::Answered(Box::new(ServiceAnswer {
            enquiry: Enquiry::default(),
            statistics: Statistics::default(),
            took: Duration::ZERO,
            connected: None,
        })))
    }

    fn absent() -> ProbeError {
        ProbeError::Absent {
            what: "it".to_owned(),
        }
    }

    fn denied() -> ProbeError {
        ProbeError::Torn { path: "/p".into() }
    }

    fn leak(resource: &str, level: Level, hours: f64) -> LeakFigures {
        LeakFigures {
            rule: Some(Speed::Fast),
            limit: Some(LimitFigures {
                value: 1024.0,
                source: "RLIMIT_NOFILE".to_owned(),
            }),
            rate_per_hour: Some(RateFigures {
                low: 300.0,
                middle: 350.0,
                high: 420.0,
            }),
            exhaustion: Some(ExhaustionFigures {
                earliest_seconds: hours * 3600.0,
                latest_seconds: None,
            }),
            ..LeakFigures::bare(resource, Unit::Count, level, 812.0)
        }
    }

    const WELL: Facts<'static> = Facts {
        process: Found::Running,
        reach: None,
        silent_in_a_row: 0,
        excused_in_a_row: 0,
        work: Work::Unknown,
        tests: Tests::Unknown,
        throttled: None,
        leaks: &[],
        ledgers: LedgerFacts {
            disagreements: &[],
            unaccounted: &[],
            devices: None,
        },
        oom_kills: 0,
    };

    #[test]
    fn ledgers_that_disagree_are_told_and_blame_nobody() {
        let disagreement = Disagreement {
            one: ("a", 30),
            other: ("b", 12),
            times: 3,
        };
        let judged = judge(&Facts {
            ledgers: LedgerFacts {
                disagreements: &[disagreement],
                devices: Some(DeviceFailures {
                    fails: 1,
                    restarts: 2,
                }),
                ..LedgerFacts::default()
            },
            ..WELL
        });
        assert_eq!((judged.cause, &judged.codes[..]), (Cause::None, &[][..]));
        let told = judged.evidence.iter();
        let told: Vec<_> = told
            .map(|it| format!("{}: {}", it.code, it.detail))
            .collect();
        assert_eq!(
            told,
            [
                "ledgers-disagree: a: 30, and b: 12, 3 answers in a row",
                "device-failures: in the last 10 minutes it lost a card 1 times (DeviceFails) and \
                 started one again 2 times (DeviceRestarts), by its own count",
            ]
        );
    }

    #[test]
    fn a_known_answer_test_that_is_wrong_refused_or_lost_is_told_each_for_what_it_is() {
        let answered = answered();
        let refused = |command, code: &str| Refused {
            command,
            code: code.to_owned(),
            message: "no".to_owned(),
        };
        let (no_session, no_port) = (refused("open", "no-card"), refused("open", "resources"));
        let of = |tests, work| {
            let judged = judge(&Facts {
                reach: Some(&answered),
                tests,
                work,
                ..WELL
            });
            assert_eq!(judged.standing, Standing::Answers);
            let first = judged
                .evidence
                .first()
                .map(|it| it.code.clone().into_owned());
            (judged.cause, judged.codes, first.unwrap_or_default())
        };
        let judged = |tests| of(tests, Work::Unknown);
        let expected = |cause, codes: &[u8], first: &str| (cause, codes.to_vec(), first.to_owned());
        assert_eq!(judged(Tests::Right), expected(Cause::None, &[], ""));
        let message = "status 9";
        let wrong = judged(Tests::Wrong { message });
        assert_eq!(wrong, expected(Cause::Undetermined, &[16], "wrong-answer"));
        let first = "known-answer-refused";
        let refused = &no_session;
        let once = judged(Tests::Refused { refused, times: 1 });
        assert_eq!(once, expected(Cause::None, &[], first));
        let twice = judged(Tests::Refused { refused, times: 2 });
        assert_eq!(twice, expected(Cause::Undetermined, &[4], first));
        let refused = &no_port;
        let once = judged(Tests::Refused { refused, times: 1 });
        assert_eq!(once, expected(Cause::None, &[], first));
        let twice = judged(Tests::Refused { refused, times: 2 });
        assert_eq!(twice, expected(Cause::Undetermined, &[6], first));
        let first = "known-answer-lost";
        for (times, excused, cause) in [
            (1, 0, Cause::None),
            (2, 0, Cause::ServiceHang),
            (0, 3, Cause::None),
            (0, 4, Cause::ServiceHang),
        ] {
            let lost = Tests::Lost {
                command: "kat",
                times,
                excused,
            };
            assert_eq!(judged(lost), expected(cause, &[17], first), "{lost:?}");
            let overrun = Work::Overrun { outstanding: 500 };
            assert_eq!(of(lost, overrun).0, Cause::Overload);
        }
    }

    #[test]
    fn who_is_silent_however_often_a_starved_host_lets_others_run_hangs_after_all() {
        let silent = Ok(Reach::Silent { received: 0 });
        let judged = |silent_in_a_row, excused_in_a_row| {
            let facts = Facts {
                reach: Some(&silent),
                silent_in_a_row,
                excused_in_a_row,
                ..WELL
            };
            judge(&facts).cause
        };
        assert_eq!(judged(0, 3), Cause::None);
        assert_eq!(judged(0, 4), Cause::ServiceHang);
        assert_eq!(judged(1, 1), Cause::None);
        assert_eq!(judged(1, 2), Cause::ServiceHang);
    }

    #[test]
    fn who_does_nothing_hangs_though_it_answers_and_who_does_all_it_can_does_not() {
        let (answered, silent) = (answered(), Ok(Reach::Silent { received: 0 }));
        let judged = |reach, silent_in_a_row, work| {
            let facts = Facts {
                reach: Some(reach),
                silent_in_a_row,
                work,
                ..WELL
            };
            judge(&facts).cause
        };
        assert_eq!(judged(&answered, 0, Work::Done), Cause::None);
        // Twice as often where a starved host may be why.
        for (times, excused, cause) in [
            (1, 0, Cause::None),
            (2, 0, Cause::ServiceHang),
            (0, 3, Cause::None),
            (0, 4, Cause::ServiceHang),
            (1, 2, Cause::ServiceHang),
        ] {
            let stuck = Work::Stuck { times, excused };
            assert_eq!(judged(&answered, 0, stuck), cause, "{stuck:?}");
        }
        let overrun = Work::Overrun { outstanding: 500 };
        assert_eq!(judged(&answered, 0, overrun), Cause::Overload);
        assert_eq!(judged(&silent, 3, overrun), Cause::Overload);
        assert_eq!(judged(&silent, 3, Work::Done), Cause::ServiceHang);
    }

    #[test]
    fn who_is_held_up_by_a_quota_has_too_much_to_do_unless_it_stays_silent() {
        let (answered, silent) = (answered(), Ok(Reach::Silent { received: 0 }));
        let throttled = Throttled {
            group: "shop/web".into(),
            share: 0.93,
        };
        let judged = |reach, excused_in_a_row, work| {
            judge(&Facts {
                reach: Some(reach),
                excused_in_a_row,
                work,
                throttled: Some(&throttled),
                ..WELL
            })
        };
        let well = judged(&answered, 0, Work::Done);
        assert_eq!(well.cause, Cause::None);
        assert_eq!(
            well.evidence[0].detail,
            "the control group /shop/web had used up its quota of processor time in 93 % of its \
             periods (cpu.max; CPUQuota= of a unit)"
        );
        assert_eq!(judged(&silent, 1, Work::Unknown).cause, Cause::Overload);
        assert_eq!(judged(&silent, 3, Work::Unknown).cause, Cause::Overload);
        // It has its share of the time, in which one that is well answers some of those who ask.
        assert_eq!(judged(&silent, 4, Work::Unknown).cause, Cause::ServiceHang);
        let stuck = |excused| Work::Stuck { times: 0, excused };
        assert_eq!(judged(&answered, 0, stuck(1)).cause, Cause::Overload);
        assert_eq!(judged(&answered, 0, stuck(4)).cause, Cause::ServiceHang);
    }

    #[test]
    fn standing_and_cause_follow_from_process_answers_and_leaks() {
        let (absent, denied) = (absent(), denied());
        let silent = Ok(Reach::Silent { received: 0 });
        let hung_up = Ok(Reach::HungUp { received: 3 });
        let full = Ok(Reach::Unreachable {
            why: "full".to_owned(),
        });
        let refused = Ok(Reach::Refused);
        let no_socket = Err(self::absent());
        let unseen = Err(self::denied());
        let declined = Ok(Reach::Declined {
            message: "no".to_owned(),
        });
        let answered = answered();
        let leaks = |level| vec![leak("descriptors", level, 2.0)];
        let (suspected, leaking) = (leaks(Level::Suspected), leaks(Level::Leaking));
        let pages = leaks(Level::Page);
        let host = [LeakFigures {
            scope: Scope::Host,
            ..leak("kernel-memory", Level::Leaking, 2.0)
        }];
        let running = |reach, silent_in_a_row| Facts {
            reach: Some(reach),
            silent_in_a_row,
            ..WELL
        };
        let found = |process| Facts { process, ..WELL };
        let with = |leaks| Facts { leaks, ..WELL };
        use Cause::{Configuration, None, ServiceGone, ServiceHang, ServiceLeak, Undetermined};
        use Standing::{Answers, Declines, Gone, Refused, Runs, Silent, Unknown};
        let none: &[u8] = &[];
        let table = [
            (WELL, Runs, None, "", none),
            (found(Found::NotYet), Unknown, None, "", none),
            (
                found(Found::Gone(&absent)),
                Gone,
                ServiceGone,
                "process-gone",
                none,
            ),
            (
                found(Found::Unseen(&denied)),
                Unknown,
                Undetermined,
                "process-unseen",
                none,
            ),
            (running(&answered, 0), Answers, None, "", none),
            (running(&declined, 0), Declines, None, "declined", &[4]),
            (running(&silent, 1), Silent, None, "no-answer", &[17]),
            (running(&silent, 2), Silent, ServiceHang, "no-answer", &[17]),
            (
                running(&hung_up, 2),
                Silent,
                ServiceHang,
                "no-answer",
                &[17],
            ),
            (running(&full, 2), Silent, ServiceHang, "no-answer", &[17]),
            (running(&refused, 0), Refused, ServiceGone, "refused", none),
            (
                running(&no_socket, 0),
                Refused,
                ServiceGone,
                "no-socket",
                none,
            ),
            (
                running(&unseen, 0),
                Unknown,
                Undetermined,
                "reach-unseen",
                none,
            ),
            (
                Facts {
                    process: Found::Gone(&absent),
                    ..running(&answered, 0)
                },
                Answers,
                Configuration,
                "other-process",
                none,
            ),
            (
                Facts {
                    process: Found::Unseen(&denied),
                    ..running(&answered, 0)
                },
                Answers,
                None,
                "process-unseen",
                none,
            ),
            (with(&suspected), Runs, None, "leak", &[24]),
            (with(&leaking), Runs, ServiceLeak, "leak", &[24]),
            (with(&pages), Runs, ServiceLeak, "leak", &[24]),
            (with(&host), Runs, None, "leak", &[24]),
            (
                Facts {
                    leaks: &pages,
                    ..running(&silent, 2)
                },
                Silent,
                ServiceHang,
                "no-answer",
                &[17, 24],
            ),
            (
                Facts {
                    leaks: &pages,
                    ..running(&unseen, 0)
                },
                Unknown,
                ServiceLeak,
                "leak",
                &[24],
            ),
        ];
        for (facts, standing, cause, first, codes) in table {
            let judged = judge(&facts);
            assert_eq!(
                (judged.standing, judged.cause),
                (standing, cause),
                "{facts:?}"
            );
            let evidence = judged.evidence.first();
            assert_eq!(evidence.map_or("", |first| &first.code), first, "{facts:?}");
            assert_eq!(judged.codes, codes, "{facts:?}");
        }
    }

    #[test]
    fn the_most_urgent_leak_is_told_first_and_in_full() {
        let leaks = [
            leak("threads", Level::Suspected, 1.0),
            leak("sessions", Level::Page, 9.0),
            leak("descriptors", Level::Page, 2.0),
        ];
        let judged = judge(&Facts {
            leaks: &leaks,
            ..WELL
        });
        let told: Vec<_> = judged
            .evidence
            .iter()
            .map(|it| it.detail.as_str())
            .collect();
        assert_eq!(
            told[0],
            "descriptors: 812 held of 1024 (RLIMIT_NOFILE), 300 to 420 more an hour, exhausted in \
             2h00m or never"
        );
        assert!(told[1].starts_with("sessions") && told[2].starts_with("threads"));
    }

    #[test]
    fn who_was_killed_for_want_of_memory_is_a_victim_where_memory_leaks_and_never_a_cause() {
        let judged = |leaks: &[LeakFigures]| {
            judge(&Facts {
                leaks,
                oom_kills: 3,
                ..WELL
            })
        };
        assert_eq!(judged(&[]).evidence, []);
        assert_eq!(
            judged(&[leak("threads", Level::Page, 1.0)]).evidence.len(),
            1
        );
        let memory = LeakFigures {
            unit: Unit::Bytes,
            ..leak("memory", Level::Page, 1.0)
        };
        let judged = judged(&[memory]);
        assert_eq!(judged.cause, Cause::ServiceLeak);
        let victims = &judged.evidence[1];
        assert_eq!(victims.code, "victims");
        assert!(
            victims.detail.starts_with("3 processes of this host"),
            "{victims:?}"
        );
    }

    #[test]
    fn descriptors_that_are_used_up_have_the_code_for_that() {
        let full = LeakFigures {
            held: 1024.0,
            ..leak("descriptors", Level::Page, 0.0)
        };
        let judged = judge(&Facts {
            leaks: &[full],
            ..WELL
        });
        assert_eq!(judged.codes, [6]);
    }
}
