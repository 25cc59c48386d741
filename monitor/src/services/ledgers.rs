//! Holds what a service says that it holds against what the kernel says, and against itself: two
//! ledgers of one thing must agree.
//!
//! It blames nobody. That ledgers disagree is shown with both numbers; that what rises by the
//! kernel's account does not by the service's own makes a leak likelier, since what it knows of it
//! could still give back.
//!
//! ```text
//!   by the kernel              by the service                  is asked
//!   connections to it       >  ClientCount                     of each answer
//!   -                          created - destroyed = objects   of each answer
//!   -                          commands - replies = jobs       of each answer
//!   kernel memory, growth   >  MemAllocKernel                  of what is suspected to leak
//!   memory, growth          >  MemAllocUser                    "
//!   descriptors, ports,
//!   threads, growth         >  ObjectCount and ClientCount     "
//!   -                          DeviceFails, DeviceRestarts     that they stay as they are
//! ```
//!
//! A service may listen in several places, so clients that it counts beyond the connections to one of
//! them tell nothing. What the card's memory holds is no memory of the host: only whether both grow
//! is compared, never how much there is.

use super::resources::sum;
use crate::leak;
use crate::number::lossy;
use crate::probe::{ModuleStatistics, ServiceAnswer, Statistics};
use crate::status::Unit;
use crate::text;
use hwshim::clock::Instant;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Answers in a row that must disagree. The two numbers are not of one moment, and who comes and goes
/// between them is not there three times.
const LASTING: u32 = 3;
/// By how much two numbers may differ at a time: a few of what comes and goes, and a tenth of many.
const DIFFERENCE_FEW: u64 = 4;
const DIFFERENCE_SHARE: u64 = 10;
/// The same of commands, of which thousands go by in the time that one of two counters is read.
const COMMANDS_FEW: u64 = 64;
/// Time between two points of a growth, and how long they are kept: what the usual leak is judged by.
const GROWTH_INTERVAL: Duration = Duration::from_secs(300);
const GROWTH_KEPT: Duration = Duration::from_secs(6 * 3600);
/// A shorter growth is that of a start.
const GROWTH_LEAST: Duration = Duration::from_secs(3600);
/// A growth of which the service's own account has less than this share is not in it.
const ACCOUNTED_SHARE: f64 = 0.25;
/// How long it is told that a card failed.
const FAILURE_FRESH: Duration = Duration::from_secs(600);
/// A card that was away as lately as this may be counted as failed for that: answers are ten seconds
/// apart, and old for thirty.
const ABSENCE_EXPLAINS: Duration = Duration::from_secs(60);

/// What is told of a service's ledgers.
#[derive(Clone, Copy, Debug, Default)]
pub struct LedgerFacts<'a> {
    /// Numbers that have differed for some time.
    pub disagreements: &'a [Disagreement],
    /// Growth of what is suspected to leak which its own account has not.
    pub unaccounted: &'a [Unaccounted],
    /// Cards that it lost of late.
    pub devices: Option<DeviceFailures>,
}

/// Two numbers of one thing that differ.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Disagreement {
    /// What says the one, and the number.
    pub one: (&'static str, u64),
    /// What says the other.
    pub other: (&'static str, u64),
    /// In so many answers in a row.
    pub times: u32,
}

impl Disagreement {
    /// For people.
    #[must_use]
    pub fn sentence(&self) -> String {
        let ((one, is_one), (other, is_other)) = (self.one, self.other);
        let times = self.times;
        format!("{one}: {is_one}, and {other}: {is_other}, {times} answers in a row")
    }
}

/// Growth that the service's own account has not.
#[derive(Clone, Debug, PartialEq)]
pub struct Unaccounted {
    /// Of which resource.
    pub resource: &'static str,
    /// What it is counted in.
    pub unit: Unit,
    /// By the kernel's account.
    pub by_kernel: f64,
    /// By its own.
    pub by_itself: f64,
    /// What its own account is.
    pub account: &'static str,
    /// In how long.
    pub within: Duration,
}

impl Unaccounted {
    /// For people.
    #[must_use]
    pub fn sentence(&self) -> String {
        let amount = |value| text::amount(value, self.unit);
        format!(
            "{}: {} more than {} ago by the kernel's account, and by its own ({}) {}",
            self.resource,
            amount(self.by_kernel),
            text::spoken(self.within),
            self.account,
            amount(self.by_itself),
        )
    }
}

/// What a service says of its cards that fail.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DeviceFailures {
    /// How often it lost a card (`DeviceFails`) in the last ten minutes.
    pub fails: u64,
    /// How often it started one again (`DeviceRestarts`).
    pub restarts: u64,
}

impl DeviceFailures {
    /// For people.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Self { fails, restarts } = self;
        let minutes = FAILURE_FRESH.as_secs() / 60;
        format!(
            "in the last {minutes} minutes it lost a card {fails} times (DeviceFails) and started one \
             again {restarts} times (DeviceRestarts), by its own count"
        )
    }
}

/// The ledgers of one process.
#[derive(Debug, Default)]
pub(super) struct Ledgers {
    disagreements: BTreeMap<&'static str, Disagreement>,
    growth: BTreeMap<&'static str, Growth>,
    devices: Devices,
}

impl Ledgers {
    /// Takes an answer, once.
    pub(super) fn take(&mut self, answer: &ServiceAnswer, now: Instant) {
        for pair in pairs(answer) {
            match pair.differs() {
                Some((one, other)) => {
                    let times = self.disagreements.get(pair.what).map_or(0, |it| it.times);
                    let times = times.saturating_add(1);
                    let disagreement = Disagreement { one, other, times };
                    self.disagreements.insert(pair.what, disagreement);
                }
                None => {
                    self.disagreements.remove(pair.what);
                }
            }
        }
        self.devices.take(answer, now);
    }

    /// The card is away: what the service counts of that is no failure.
    pub(super) const fn card_is_absent(&mut self, now: Instant) {
        self.devices.absent_at = Some(now);
    }

    /// Takes what is held of a resource by the kernel's account, with what the service has said.
    pub(super) fn grow(
        &mut self,
        resource: &'static str,
        held: f64,
        answer: Option<&ServiceAnswer>,
        lived: Instant,
    ) {
        let own = answer.and_then(|it| own_account(resource)?.amount(&it.statistics));
        if let Some(own) = own {
            let growth = self.growth.entry(resource).or_default();
            growth.take(lived, held, lossy(own));
        }
    }

    /// Those that have lasted.
    pub(super) fn disagreements(&self) -> impl Iterator<Item = &Disagreement> {
        let all = self.disagreements.values();
        all.filter(|it| it.times >= LASTING)
    }

    /// Whether the growth of a resource is missing in the service's own account.
    pub(super) fn unaccounted(&self, resource: &str, unit: Unit) -> Option<Unaccounted> {
        let (&resource, growth) = self.growth.get_key_value(resource)?;
        growth.unaccounted(resource, unit, own_account(resource)?.name())
    }

    /// What it counts of its cards' failures, if that has grown of late.
    pub(super) fn device_failures(&self, now: Instant) -> Option<DeviceFailures> {
        self.devices.failures(now)
    }
}

/// Two numbers of one thing.
struct Pair {
    what: &'static str,
    one: (&'static str, Option<u64>),
    other: (&'static str, Option<u64>),
    /// How much they may differ, be they ever so small.
    few: u64,
    /// Whether the other may be more than the one.
    other_may_be_more: bool,
}

type Number = (&'static str, u64);

impl Pair {
    fn differs(&self) -> Option<(Number, Number)> {
        let (one, other) = (self.one.1?, self.other.1?);
        if other > one && self.other_may_be_more {
            return None;
        }
        let may = self.few.max(one.max(other) / DIFFERENCE_SHARE);
        (one.abs_diff(other) > may).then_some(((self.one.0, one), (self.other.0, other)))
    }
}

fn pairs(answer: &ServiceAnswer) -> [Pair; 3] {
    let statistics = &answer.statistics;
    let modules = || statistics.modules.values();
    let remaining = |it: &ModuleStatistics| {
        let (created, destroyed) = (it.objects_created?, it.objects_destroyed?);
        // More destroyed than created is nothing that is there, which the count then contradicts.
        Some(created.saturating_sub(destroyed))
    };
    [
        Pair {
            what: "clients",
            one: ("connections to it that the kernel has", answer.connected),
            other: ("clients that it counts", statistics.server.clients),
            few: DIFFERENCE_FEW,
            other_may_be_more: true,
        },
        Pair {
            what: "objects",
            one: (
                "objects created less those destroyed",
                sum(modules().map(remaining)),
            ),
            other: (
                "objects that it counts",
                sum(modules().map(|it| it.objects)),
            ),
            few: DIFFERENCE_FEW,
            other_may_be_more: false,
        },
        Pair {
            what: "jobs",
            one: (
                "commands less replies",
                sum(modules().map(ModuleStatistics::outstanding)),
            ),
            other: (
                "jobs outstanding that it counts",
                sum(modules().map(|it| it.jobs_outstanding)),
            ),
            few: COMMANDS_FEW,
            other_may_be_more: false,
        },
    ]
}

/// By what a service accounts for what it holds.
#[derive(Clone, Copy)]
enum Account {
    KernelMemory,
    UserMemory,
    /// Whatever else it holds it holds for a client, or for an object of one.
    Objects,
}

/// How a service accounts for what the kernel calls `resource`.
fn own_account(resource: &str) -> Option<Account> {
    Some(match resource {
        "kernel-memory" => Account::KernelMemory,
        "memory" => Account::UserMemory,
        "descriptors" | "tcp-ports" | "threads" => Account::Objects,
        _ => return None,
    })
}

impl Account {
    /// In the service's words.
    const fn name(self) -> &'static str {
        match self {
            Self::KernelMemory => "MemAllocKernel",
            Self::UserMemory => "MemAllocUser",
            Self::Objects => "ObjectCount and ClientCount",
        }
    }

    fn amount(self, statistics: &Statistics) -> Option<u64> {
        let modules = || statistics.modules.values();
        match self {
            Self::KernelMemory => sum(modules().map(|it| it.memory_kernel_bytes)),
            Self::UserMemory => sum(modules().map(|it| it.memory_user_bytes)),
            Self::Objects => {
                let objects = sum(modules().map(|it| it.objects))?;
                objects.checked_add(statistics.server.clients?)
            }
        }
    }
}

/// How much of a resource there was in the last hours, by either account.
#[derive(Debug, Default)]
struct Growth(VecDeque<(Instant, f64, f64)>);

impl Growth {
    fn take(&mut self, lived: Instant, held: f64, own: f64) {
        let is_due = |last: &(Instant, f64, f64)| lived >= last.0.plus(GROWTH_INTERVAL);
        if !self.0.back().is_none_or(is_due) {
            return;
        }
        let is_old = |first: &(Instant, f64, f64)| lived.since(first.0) > GROWTH_KEPT;
        while self.0.front().is_some_and(is_old) {
            self.0.pop_front();
        }
        self.0.push_back((lived, held, own));
    }

    fn unaccounted(
        &self,
        resource: &'static str,
        unit: Unit,
        account: &'static str,
    ) -> Option<Unaccounted> {
        let (&(began, held_before, own_before), &(ended, held, own)) =
            self.0.front().zip(self.0.back())?;
        let within = ended.since(began);
        let (by_kernel, by_itself) = (held - held_before, own - own_before);
        let negligible = match unit {
            Unit::Bytes => leak::Resource::BYTES,
            Unit::Count => leak::Resource::COUNT,
        };
        let is_one = within >= GROWTH_LEAST
            && by_kernel >= negligible
            && by_itself < ACCOUNTED_SHARE * by_kernel;
        is_one.then_some(Unaccounted {
            resource,
            unit,
            by_kernel,
            by_itself,
            account,
            within,
        })
    }
}

/// What a service counts of its cards' failures.
#[derive(Debug, Default)]
struct Devices {
    last: Option<(u64, u64)>,
    /// What was counted of late, and when.
    counted: VecDeque<(Instant, DeviceFailures)>,
    absent_at: Option<Instant>,
}

impl Devices {
    fn take(&mut self, answer: &ServiceAnswer, now: Instant) {
        if answer.enquiry.modules.is_empty() {
            self.absent_at = Some(now);
        }
        while let Some((at, _)) = self.counted.front()
            && now.since(*at) > FAILURE_FRESH
        {
            self.counted.pop_front();
        }
        let server = &answer.statistics.server;
        let (Some(fails), Some(restarts)) = (server.device_fails, server.device_restarts) else {
            return;
        };
        let before = self.last.replace((fails, restarts));
        let was_absent = |at: Instant| now.since(at) <= ABSENCE_EXPLAINS;
        if self.absent_at.is_some_and(was_absent) {
            return;
        }
        let grown = before.and_then(|(fails_before, restarts_before)| {
            Some(DeviceFailures {
                fails: fails.checked_sub(fails_before)?,
                restarts: restarts.checked_sub(restarts_before)?,
            })
        });
        let Some(grown) = grown.filter(|it| it.fails > 0 || it.restarts > 0) else {
            return;
        };
        self.counted.push_back((now, grown));
    }

    fn failures(&self, now: Instant) -> Option<DeviceFailures> {
        let fresh = self.counted.iter();
        let fresh = fresh.filter(|(at, _)| now.since(*at) <= FAILURE_FRESH);
        fresh
            .map(|(_, grown)| *grown)
            .reduce(|all, grown| DeviceFailures {
                fails: all.fails.saturating_add(grown.fails),
                restarts: all.restarts.saturating_add(grown.restarts),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::{Enquiry, EnquiryModule, ServerStatistics};

    const MIB: f64 = 1024.0 * 1024.0;

    fn at(seconds: u64) -> Instant {
        Instant::ORIGIN.plus(Duration::from_secs(seconds))
    }

    /// What a service says that has a card, and whose ledgers agree.
    fn said() -> ServiceAnswer {
        let module = ModuleStatistics {
            commands: Some(5000),
            replies: Some(4990),
            jobs_outstanding: Some(10),
            objects: Some(40),
            objects_created: Some(140),
            objects_destroyed: Some(100),
            ..ModuleStatistics::default()
        };
        ServiceAnswer {
            enquiry: Enquiry {
                modules: [(1, EnquiryModule::default())].into(),
                ..Enquiry::default()
            },
            statistics: Statistics {
                server: ServerStatistics {
                    clients: Some(12),
                    device_fails: Some(3),
                    device_restarts: Some(2),
                    ..ServerStatistics::default()
                },
                modules: [(1, module)].into(),
                ..Statistics::default()
            },
            took: Duration::ZERO,
            connected: Some(12),
        }
    }

    fn module(answer: &mut ServiceAnswer) -> &mut ModuleStatistics {
        answer.statistics.modules.get_mut(&1).unwrap()
    }

    /// What is told after so many answers like this.
    fn told(answer: &ServiceAnswer, answers: u64) -> Vec<String> {
        let mut ledgers = Ledgers::default();
        for second in 0..answers {
            ledgers.take(answer, at(second * 10));
        }
        ledgers
            .disagreements()
            .map(Disagreement::sentence)
            .collect()
    }

    #[test]
    fn ledgers_that_disagree_three_times_in_a_row_are_told_with_both_numbers() {
        assert_eq!(told(&said(), 9), [""; 0]);
        let mut forgets_clients = said();
        forgets_clients.connected = Some(30);
        assert_eq!(told(&forgets_clients, 2), [""; 0]);
        let expected = "connections to it that the kernel has: 30, and clients that it counts: 12, \
                        3 answers in a row";
        assert_eq!(told(&forgets_clients, 3), [expected]);
        let mut loses_objects = said();
        module(&mut loses_objects).objects = Some(7);
        let expected = "objects created less those destroyed: 40, and objects that it counts: 7, \
                        4 answers in a row";
        assert_eq!(told(&loses_objects, 4), [expected]);
        let mut loses_jobs = said();
        module(&mut loses_jobs).replies = Some(4000);
        let expected = "commands less replies: 1000, and jobs outstanding that it counts: 10, 3 \
                        answers in a row";
        assert_eq!(told(&loses_jobs, 3), [expected]);
    }

    #[test]
    fn what_is_read_at_two_moments_or_listens_elsewhere_too_is_no_disagreement() {
        let mut busy = said();
        // Four came, a tenth of many went, commands were under way between the two counters.
        busy.connected = Some(16);
        module(&mut busy).objects_created = Some(1140);
        module(&mut busy).objects = Some(960);
        module(&mut busy).jobs_outstanding = Some(74);
        assert_eq!(told(&busy, 9), [""; 0]);
        let mut elsewhere = said();
        elsewhere.connected = Some(1);
        assert_eq!(told(&elsewhere, 9), [""; 0]);
        let mut tells_little = said();
        tells_little.connected = None;
        module(&mut tells_little).objects_created = None;
        module(&mut tells_little).jobs_outstanding = None;
        assert_eq!(told(&tells_little, 9), [""; 0]);
        // Once it agrees, it begins anew.
        let mut ledgers = Ledgers::default();
        let mut forgets = said();
        forgets.connected = Some(30);
        for (index, answer) in [&forgets, &forgets, &said(), &forgets, &forgets]
            .iter()
            .enumerate()
        {
            ledgers.take(answer, at(index as u64 * 10));
        }
        assert_eq!(ledgers.disagreements().count(), 0);
    }

    /// What is made of two hours in which a resource grows by this much by either account.
    fn grown(resource: &'static str, unit: Unit, by_kernel: f64, own: u64) -> Option<String> {
        let mut ledgers = Ledgers::default();
        for minute in 0..=120_u32 {
            let mut answer = said();
            let share = f64::from(minute) / 120.0;
            let own = 40 + own * u64::from(minute) / 120;
            module(&mut answer).objects = Some(own);
            module(&mut answer).memory_kernel_bytes = Some(own);
            module(&mut answer).memory_user_bytes = Some(own);
            let held = 1000.0 + by_kernel * share;
            ledgers.grow(resource, held, Some(&answer), at(u64::from(minute) * 60));
        }
        ledgers.unaccounted(resource, unit).map(|it| it.sentence())
    }

    #[test]
    fn growth_that_is_not_in_the_services_own_account_is_told_with_both_numbers() {
        let told = grown("descriptors", Unit::Count, 480.0, 10).unwrap();
        assert_eq!(
            told,
            "descriptors: 480 more than 2h00m ago by the kernel's account, and by its own \
             (ObjectCount and ClientCount) 10"
        );
        let told = grown("kernel-memory", Unit::Bytes, 40.0 * MIB, 0).unwrap();
        assert!(told.ends_with("40.0 MiB more than 2h00m ago by the kernel's account, and by its own (MemAllocKernel) 0.0 B"), "{told}");
        assert!(grown("memory", Unit::Bytes, 40.0 * MIB, 0).is_some());
        // It knows of what it holds; or there is little; or nothing is said of it.
        assert_eq!(grown("descriptors", Unit::Count, 480.0, 200), None);
        assert_eq!(grown("descriptors", Unit::Count, 40.0, 0), None);
        assert_eq!(grown("sessions", Unit::Count, 480.0, 0), None);
        let mut young = Ledgers::default();
        young.grow("descriptors", 0.0, Some(&said()), at(0));
        young.grow("descriptors", 900.0, Some(&said()), at(3000));
        young.grow("descriptors", 999.0, None, at(9000));
        assert_eq!(young.unaccounted("descriptors", Unit::Count), None);
    }

    #[test]
    fn cards_that_a_service_lost_are_counted_for_ten_minutes_unless_they_were_away() {
        let counts = |fails, restarts| {
            let mut answer = said();
            answer.statistics.server.device_fails = Some(fails);
            answer.statistics.server.device_restarts = Some(restarts);
            answer
        };
        let mut ledgers = Ledgers::default();
        ledgers.take(&counts(3, 2), at(0));
        assert_eq!(ledgers.device_failures(at(0)), None, "that was before");
        ledgers.take(&counts(4, 2), at(10));
        ledgers.take(&counts(4, 3), at(20));
        let both = DeviceFailures {
            fails: 1,
            restarts: 1,
        };
        assert_eq!(ledgers.device_failures(at(30)), Some(both));
        assert_eq!(ledgers.device_failures(at(621)), None);
        // It was started anew.
        ledgers.take(&counts(0, 0), at(700));
        assert_eq!(ledgers.device_failures(at(700)), None);
        let mut gone = counts(1, 0);
        gone.enquiry.modules.clear();
        ledgers.take(&gone, at(710));
        ledgers.take(&counts(1, 1), at(720));
        assert_eq!(ledgers.device_failures(at(720)), None, "it was taken out");
        ledgers.card_is_absent(at(800));
        ledgers.take(&counts(2, 2), at(830));
        assert_eq!(ledgers.device_failures(at(830)), None);
    }
}
