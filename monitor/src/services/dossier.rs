//! Turns what was seen of one service into evidence, and has it weighed, as the evidence about a
//! card is. It judges by the same facts as [`judge`](super::judge), and says how sure that is.
//!
//! A service that does not answer on a host that is starved looks just like one that hangs; that is
//! why the host is weighed here too. That its card is away is not: it explains what a service leaks,
//! and excuses nobody.

use super::judge::sentence_of;
use super::{CardFacts, Facts, Found, LedgerFacts, Tests, Work};
use crate::attribution::{Circumstances, Counter, Dossier, Kind, Priors, RecentChanges, Scales};
use crate::leak::{Level, Scope};
use crate::local_health::{Limits, Sample};
use crate::probe::Reach;
use crate::status::{AssessmentFigures, LeakFigures};
use hwshim::clock::Instant;

/// A rise that is no more than suspected tells half.
const SUSPECTED: f64 = 0.5;
/// One that the service's own account has not: what it does not know that it holds it will not give
/// back.
const UNACCOUNTED: f64 = 0.75;
/// That its card failed and was started again, by the service's count: it may have been told to.
const DEVICE_FAILED: f64 = 0.5;
/// Once may have met a pause.
const SILENT_ONCE: f64 = 0.3;
/// That a test through a service had another answer tells as much as one of the card's own, but for
/// that the service may have computed it: nobody is sure of a card by that alone.
const WRONG_BY_EITHER: f64 = 0.7;
/// That something would not be done may be for want of permission, or of time.
const DECLINED: f64 = 0.5;

/// The evidence about one service, and what is believed by it.
#[derive(Debug)]
pub(super) struct Evidences {
    scales: Scales,
}

impl Evidences {
    pub(super) fn new() -> Self {
        Self {
            scales: Scales::new(Priors::default(), Instant::ORIGIN),
        }
    }

    /// What was seen of another process says nothing about this one.
    pub(super) fn forget(&mut self) {
        self.scales.dossier = Dossier::new();
    }

    /// Takes in what was changed in the last day of any of `subjects`.
    pub(super) fn changes(&mut self, changes: &RecentChanges, subjects: &[&str], now: Instant) {
        changes.weigh(subjects, &mut self.scales.dossier, now);
    }

    /// Takes in what a poll saw, and weighs it.
    pub(super) fn poll(
        &mut self,
        facts: &Facts<'_>,
        card: Option<CardFacts>,
        host: Option<&Sample>,
        now: Instant,
    ) {
        self.process(facts, now);
        self.answers(facts, now);
        self.work(facts.work, now);
        self.tests(facts.tests, now);
        self.quota(facts, now);
        self.leaks(facts.leaks, &facts.ledgers, now);
        self.devices(&facts.ledgers, now);
        self.host(host, now);
        if let Some(card) = card {
            let dossier = &mut self.scales.dossier;
            if card.moves {
                dossier.counter_moved("the card's heartbeat moves", now);
            }
            if card.are_counted() {
                dossier.in_flight(card.in_flight, now);
            }
        }
        let circumstances = Circumstances {
            local_health: 0,
            is_no_matter_of_time: false,
            counter: match card {
                Some(card) if card.moves => Counter::Moved,
                _ => Counter::Unread,
            },
            is_warming_up: is_warming_up(facts.leaks),
        };
        self.scales.weigh(&circumstances, now);
    }

    /// What was weighed in the last poll.
    pub(super) fn figures(&self) -> AssessmentFigures {
        let Self { scales } = self;
        let (weighings, prospects) = (scales.weighings(), scales.prospects());
        AssessmentFigures::new(scales.assessment(), weighings, prospects)
    }

    fn process(&mut self, facts: &Facts<'_>, now: Instant) {
        let answered = matches!(facts.reach, Some(Ok(Reach::Answered(_))));
        match facts.process {
            // Somebody serves: not the process that is looked for.
            Found::Gone(error) if answered => {
                let detail = format!("something answers, and yet {error}");
                self.scales.dossier.seen(Kind::Permission, 1.0, detail, now);
                let detail = "something answers";
                self.scales.dossier.not_seen(Kind::OwnerGone, detail, now);
            }
            Found::Gone(error) => {
                let detail = error.to_string();
                self.scales.dossier.seen(Kind::OwnerGone, 1.0, detail, now);
            }
            Found::Running => {
                let detail = "its process is there";
                self.scales.dossier.not_seen(Kind::OwnerGone, detail, now);
            }
            Found::NotYet | Found::Unseen(_) => {}
        }
    }

    fn answers(&mut self, facts: &Facts<'_>, now: Instant) {
        let dossier = &mut self.scales.dossier;
        match facts.reach {
            Some(Ok(Reach::Answered(_))) => {
                let detail = "it answers";
                dossier.not_seen(Kind::CounterMovesNoReply, detail, now);
                dossier.not_seen(Kind::Permission, detail, now);
            }
            Some(Ok(Reach::Declined { .. })) => {
                let detail = "it answers that it would not";
                dossier.not_seen(Kind::CounterMovesNoReply, "it answers", now);
                dossier.seen(Kind::Permission, DECLINED, detail, now);
            }
            Some(Ok(Reach::Silent { .. } | Reach::HungUp { .. } | Reach::Unreachable { .. })) => {
                let times = facts.silent_in_a_row + facts.excused_in_a_row;
                let strength = facts.silence().max(SILENT_ONCE);
                if !matches!(facts.reach, Some(Ok(Reach::Unreachable { .. }))) {
                    let detail = "whoever asks is let in";
                    dossier.not_seen(Kind::Permission, detail, now);
                }
                let detail = format!("it gave no answer, {times} times in a row");
                dossier.seen(Kind::CounterMovesNoReply, strength, detail, now);
            }
            Some(Ok(Reach::Refused)) => {
                let detail = "nobody listens where it is asked";
                dossier.seen(Kind::OwnerGone, 1.0, detail, now);
            }
            Some(Err(_)) | None => {}
        }
    }

    fn work(&mut self, work: Work, now: Instant) {
        let dossier = &mut self.scales.dossier;
        match work {
            Work::Unknown => {}
            Work::Done => {
                dossier.not_seen(Kind::QueueLong, "it does what it is asked", now);
            }
            Work::Stuck { times, excused } => {
                let strength = work.stuck().max(SILENT_ONCE);
                let times = times.saturating_add(excused);
                let detail = format!("it did none of what waits, {times} times in a row");
                dossier.seen(Kind::CounterMovesNoReply, strength, detail, now);
            }
            Work::Overrun { outstanding } => {
                let detail = format!("{outstanding} commands wait, and more come than are done");
                dossier.seen(Kind::QueueLong, 1.0, detail, now);
            }
        }
    }

    fn tests(&mut self, tests: Tests<'_>, now: Instant) {
        let dossier = &mut self.scales.dossier;
        match tests {
            Tests::Unknown => {}
            Tests::Right => {
                let detail = "known-answer tests through it are right";
                dossier.not_seen(Kind::WrongAnswer, detail, now);
                dossier.not_seen(Kind::CheckFailed, detail, now);
            }
            Tests::Wrong { .. } => {
                let detail = "a known-answer test through it had another answer";
                dossier.seen(Kind::WrongAnswer, WRONG_BY_EITHER, detail, now);
            }
            // One may have met a moment in which there was nothing to be had.
            Tests::Refused { times: 0 | 1, .. } => {}
            // That its card is away is not weighed here.
            Tests::Refused { refused, .. } if refused.code == "no-card" => {}
            Tests::Refused { refused, .. } if refused.code == "resources" => {
                let detail = "it has nothing left to do a known-answer test with";
                dossier.seen(Kind::FailedOpens, DECLINED, detail, now);
            }
            Tests::Refused { refused, .. } if refused.command == "open" => {
                let detail = "it opens no session for a known-answer test";
                dossier.seen(Kind::Permission, DECLINED, detail, now);
            }
            Tests::Refused { .. } => {
                let detail = "a known-answer test through it was answered with an error";
                dossier.seen(Kind::CheckFailed, DECLINED, detail, now);
            }
            Tests::Lost { times, excused, .. } => {
                let strength = tests.lost().max(SILENT_ONCE);
                let times = times.saturating_add(excused);
                let detail =
                    format!("it gave no answer to a known-answer test, {times} times in a row");
                dossier.seen(Kind::CounterMovesNoReply, strength, detail, now);
            }
        }
    }

    /// The longer nothing comes of it, the less a quota explains.
    fn quota(&mut self, facts: &Facts<'_>, now: Instant) {
        let dossier = &mut self.scales.dossier;
        let idle = facts.silence().max(facts.work.stuck());
        let strength = 1.0 - idle.max(facts.tests.lost());
        let answers = matches!(facts.reach, Some(Ok(Reach::Answered(_))));
        match facts.held_up_by() {
            Some(throttled) if strength > 0.0 => {
                let detail = sentence_of(throttled);
                dossier.seen(Kind::QueueLong, strength, detail, now);
            }
            None if answers && !matches!(facts.work, Work::Overrun { .. }) => {
                dossier.not_seen(Kind::QueueLong, "it answers", now);
            }
            _ => {}
        }
    }

    fn devices(&mut self, ledgers: &LedgerFacts<'_>, now: Instant) {
        if let Some(devices) = ledgers.devices {
            let detail = devices.sentence();
            let dossier = &mut self.scales.dossier;
            dossier.seen(Kind::SilentReboot, DEVICE_FAILED, detail, now);
        }
    }

    fn leaks(&mut self, leaks: &[LeakFigures], ledgers: &LedgerFacts<'_>, now: Instant) {
        let own = leaks.iter().filter(|leak| leak.scope == Scope::Service);
        let worst = own.clone().max_by_key(|leak| leak.level);
        let Some(worst) = worst else {
            return;
        };
        let strength = match worst.level {
            Level::Watching => 0.0,
            Level::Suspected => {
                let mut unaccounted = ledgers.unaccounted.iter();
                match unaccounted.any(|it| it.resource == worst.resource) {
                    true => UNACCOUNTED,
                    false => SUSPECTED,
                }
            }
            Level::Leaking | Level::Page => 1.0,
        };
        let dossier = &mut self.scales.dossier;
        if strength > 0.0 {
            let detail = crate::text::leak_sentence(worst);
            dossier.seen(Kind::FloorTrend, strength, detail, now);
        } else if !is_warming_up(leaks) {
            let detail = "nothing that it holds only ever grows";
            dossier.not_seen(Kind::FloorTrend, detail, now);
        }
        let mut rising = own.filter(|leak| leak.level > Level::Watching);
        let is_seen = |each: Option<f64>| each.is_some_and(|each| each > 0.0);
        let explained =
            rising.find(|leak| is_seen(leak.per_failed_open) || is_seen(leak.per_hour_absent));
        if let Some(leak) = explained {
            let resource = &leak.resource;
            let detail = if is_seen(leak.per_failed_open) {
                format!("{resource}: more is held with each open that fails")
            } else {
                format!("{resource}: more is held the longer the card is away")
            };
            dossier.seen(Kind::FailedOpens, strength, detail, now);
        }
    }

    fn host(&mut self, sample: Option<&Sample>, now: Instant) {
        let Some(sample) = sample else {
            return;
        };
        let signs = sample.signs(&Limits::default());
        let dossier = &mut self.scales.dossier;
        if signs.is_empty() {
            let detail = "the host has time and memory";
            dossier.not_seen(Kind::HostPressure, detail, now);
            dossier.not_seen(Kind::OwnLateness, detail, now);
        } else {
            let names: Vec<_> = signs.iter().map(|sign| sign.name()).collect();
            let detail = names.join(", ");
            dossier.seen(Kind::HostPressure, 1.0, detail, now);
        }
    }
}

/// Whether there is something that it holds, and no rule has enough to go by yet.
fn is_warming_up(leaks: &[LeakFigures]) -> bool {
    let mut own = leaks.iter().filter(|leak| leak.scope == Scope::Service);
    let watching = |leak: &LeakFigures| leak.rule.is_none() && leak.level == Level::Watching;
    !leaks.is_empty() && own.all(watching)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribution::Assessment;
    use crate::leak::Speed;
    use crate::probe::{Enquiry, ProbeError, Refused, ServiceAnswer, Statistics};
    use crate::services::{DeviceFailures, Throttled, Unaccounted, judge};
    use crate::status::Unit;
    use crate::verdict::Cause;
    use std::time::Duration;

    fn leak(level: Level) -> LeakFigures {
        LeakFigures {
            rule: Some(Speed::Medium),
            ..LeakFigures::bare("descriptors", Unit::Count, level, 800.0)
        }
    }

    fn assessed(facts: &Facts<'_>, host: &Sample) -> Assessment {
        let mut evidences = Evidences::new();
        let card = CardFacts {
            moves: true,
            ..CardFacts::default()
        };
        for second in 0..5 {
            let now = Instant::ORIGIN.plus(Duration::from_secs(second));
            evidences.poll(facts, Some(card), Some(host), now);
        }
        evidences.scales.assessment().clone()
    }

    #[test]
    fn the_assessment_of_a_service_names_whom_its_judgement_names() {
        let absent = ProbeError::Absent {
            what: "it".to_owned(),
        };
        let silent = Ok(Reach::Silent { received: 0 });
        let refused = Ok(Reach::Refused);
        let answered = Ok(Reach::Answered(Box::new(ServiceAnswer {
            enquiry: Enquiry::default(),
            statistics: Statistics::default(),
            took: Duration::ZERO,
            connected: None,
        })));
        let (watching, leaking) = ([leak(Level::Watching)], [leak(Level::Leaking)]);
        let facts = |process, reach, leaks| Facts {
            process,
            reach,
            silent_in_a_row: 3,
            excused_in_a_row: 0,
            work: Work::Unknown,
            tests: Tests::Unknown,
            throttled: None,
            leaks,
            ledgers: LedgerFacts::default(),
            oom_kills: 0,
        };
        for (facts, cause) in [
            (facts(Found::Running, None, &watching[..]), Cause::None),
            (
                facts(Found::Running, Some(&silent), &watching),
                Cause::ServiceHang,
            ),
            (
                facts(Found::Gone(&absent), None, &watching),
                Cause::ServiceGone,
            ),
            (
                facts(Found::Running, Some(&refused), &watching),
                Cause::ServiceGone,
            ),
        ] {
            let assessment = assessed(&facts, &Sample::QUIET);
            assert_eq!(judge(&facts).cause, cause);
            assert_eq!(assessment.cause, cause, "{assessment:#?}");
        }
        // A rise alone is one of the things that happen to services that are well.
        let rises = facts(Found::Running, Some(&answered), &leaking[..]);
        assert_eq!(judge(&rises).cause, Cause::ServiceLeak);
        assert_eq!(assessed(&rises, &Sample::QUIET).leading, Cause::ServiceLeak);
        let mut explained = leaking.clone();
        explained[0].per_hour_absent = Some(40.0);
        let explained = facts(Found::Running, Some(&answered), &explained);
        let assessment = assessed(&explained, &Sample::QUIET);
        assert_eq!(assessment.cause, Cause::ServiceLeak, "{assessment:#?}");
    }

    #[test]
    fn a_wrong_answer_through_a_service_makes_nobody_sure_and_the_card_the_likeliest() {
        let answered = Ok(Reach::Answered(Box::new(ServiceAnswer {
            enquiry: Enquiry::default(),
            statistics: Statistics::default(),
            took: Duration::ZERO,
            connected: None,
        })));
        let watching = [leak(Level::Watching)];
        let of = |tests| Facts {
            process: Found::Running,
            reach: Some(&answered),
            silent_in_a_row: 0,
            excused_in_a_row: 0,
            work: Work::Done,
            tests,
            throttled: None,
            leaks: &watching,
            ledgers: LedgerFacts::default(),
            oom_kills: 0,
        };
        let message = "status 9";
        let wrong = assessed(&of(Tests::Wrong { message }), &Sample::QUIET);
        assert_eq!(wrong.cause, Cause::Undetermined, "{wrong:#?}");
        assert_eq!(wrong.leading, Cause::Card);
        assert!(wrong.next_test.is_some());
        let right = assessed(&of(Tests::Right), &Sample::QUIET);
        assert_eq!(right.cause, Cause::None, "{right:#?}");
        let lost = Tests::Lost {
            command: "kat",
            times: 2,
            excused: 0,
        };
        let lost = assessed(&of(lost), &Sample::QUIET);
        assert_eq!(lost.cause, Cause::ServiceHang, "{lost:#?}");
    }

    #[test]
    fn a_refused_test_weighs_from_the_second_time_on_and_by_what_was_missing() {
        let watching = [leak(Level::Watching)];
        let of = |code: &str, times| {
            let refused = Refused {
                command: "open",
                code: code.to_owned(),
                message: "no".to_owned(),
            };
            let facts = Facts {
                process: Found::Running,
                reach: None,
                silent_in_a_row: 0,
                excused_in_a_row: 0,
                work: Work::Done,
                tests: Tests::Refused {
                    refused: &refused,
                    times,
                },
                throttled: None,
                leaks: &watching,
                ledgers: LedgerFacts::default(),
                oom_kills: 0,
            };
            assessed(&facts, &Sample::QUIET)
        };
        for code in ["resources", "denied"] {
            let once = of(code, 1);
            assert_eq!(
                once.confidence(Cause::None),
                of("no-card", 1).confidence(Cause::None)
            );
            assert!(of(code, 2).confidence(Cause::None) < once.confidence(Cause::None));
        }
        let (full, denied) = (of("resources", 2), of("denied", 2));
        for (cause, by_full) in [(Cause::ServiceLeak, true), (Cause::Configuration, false)] {
            let is_likelier = full.confidence(cause) > denied.confidence(cause);
            assert_eq!(is_likelier, by_full, "{cause:?}: {full:#?}");
        }
    }

    #[test]
    fn a_leak_that_is_not_in_the_services_own_account_is_the_likelier() {
        let suspected = [leak(Level::Suspected)];
        let unaccounted = [Unaccounted {
            resource: "descriptors",
            unit: Unit::Count,
            by_kernel: 480.0,
            by_itself: 0.0,
            account: "ObjectCount and ClientCount",
            within: Duration::from_secs(7200),
        }];
        let of = |ledgers| {
            let facts = Facts {
                process: Found::Running,
                reach: None,
                silent_in_a_row: 0,
                excused_in_a_row: 0,
                work: Work::Done,
                tests: Tests::Right,
                throttled: None,
                leaks: &suspected,
                ledgers,
                oom_kills: 0,
            };
            assessed(&facts, &Sample::QUIET)
        };
        let agree = of(LedgerFacts::default());
        let differ = of(LedgerFacts {
            unaccounted: &unaccounted,
            ..LedgerFacts::default()
        });
        let leak = |it: &Assessment| it.confidence(Cause::ServiceLeak);
        assert!(leak(&differ) > leak(&agree) + 0.2, "{differ:#?}");
        let lost_its_card = of(LedgerFacts {
            devices: Some(DeviceFailures {
                fails: 1,
                restarts: 1,
            }),
            ..LedgerFacts::default()
        });
        let card = |it: &Assessment| it.confidence(Cause::Card);
        assert!(
            card(&lost_its_card) > card(&agree) + 0.1,
            "{lost_its_card:#?}"
        );
    }

    #[test]
    fn silence_at_a_quota_is_too_much_to_do_until_it_has_lasted() {
        let silent = Ok(Reach::Silent { received: 0 });
        let throttled = Throttled {
            group: "web".into(),
            share: 0.9,
        };
        for (excused_in_a_row, cause) in [(1, Cause::Overload), (4, Cause::ServiceHang)] {
            let facts = Facts {
                process: Found::Running,
                reach: Some(&silent),
                silent_in_a_row: 0,
                excused_in_a_row,
                work: Work::Unknown,
                tests: Tests::Unknown,
                throttled: Some(&throttled),
                leaks: &[leak(Level::Watching)],
                ledgers: LedgerFacts::default(),
                oom_kills: 0,
            };
            let assessment = assessed(&facts, &Sample::QUIET);
            assert_eq!(judge(&facts).cause, cause);
            assert_eq!(assessment.cause, cause, "{assessment:#?}");
        }
    }

    #[test]
    fn silence_on_a_starved_host_is_not_surely_the_services() {
        let silent = Ok(Reach::Silent { received: 0 });
        let facts = Facts {
            process: Found::Running,
            reach: Some(&silent),
            silent_in_a_row: 3,
            excused_in_a_row: 0,
            work: Work::Unknown,
            tests: Tests::Unknown,
            throttled: None,
            leaks: &[leak(Level::Watching)],
            ledgers: LedgerFacts::default(),
            oom_kills: 0,
        };
        let starved = Sample {
            psi_cpu_some: Some(0.9),
            ..Sample::QUIET
        };
        let assessment = assessed(&facts, &starved);
        assert_ne!(assessment.cause, Cause::ServiceHang, "{assessment:#?}");
        assert_ne!(assessment.cause, Cause::Card);
    }

    #[test]
    fn no_leak_is_named_while_a_service_warms_up() {
        let mut young = leak(Level::Watching);
        young.rule = None;
        let facts = Facts {
            process: Found::Running,
            reach: None,
            silent_in_a_row: 0,
            excused_in_a_row: 0,
            work: Work::Unknown,
            tests: Tests::Unknown,
            throttled: None,
            leaks: &[young],
            ledgers: LedgerFacts::default(),
            oom_kills: 0,
        };
        let assessment = assessed(&facts, &Sample::QUIET);
        assert_eq!(assessment.confidence(Cause::ServiceLeak), 0.0);
        assert_eq!(assessment.cause, Cause::None, "{assessment:#?}");
    }
}
