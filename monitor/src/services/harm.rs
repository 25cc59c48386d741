//! Who suffers from others: a service that was killed for want of memory, or is away while another
//! leaks memory that is short, is a victim, and not at fault for being away.
//!
//! Two misfortunes at one time are not enough for that: whom an operator has stopped is away as well,
//! most leaks take nothing that others need, and whoever is killed at the limit of a group suffers from
//! nobody outside of it.
//!
//! | harm | when |
//! |---|---|
//! | killed | its process went away soon after the kernel had killed somebody of its control group; where that does not tell, of the host. So it stays until the service is back |
//! | could not start | it is away, another takes more and more memory, and lately the host was short of it, or the group that both are charged to |
//!
//! Who takes more and more memory by itself is nobody's victim.

use super::Surroundings;
use super::groups::{Groups, KILL_NEAR, Rises};
use super::judge::Found;
use super::resources::is_of_group;
use crate::incident::Harm;
use crate::leak::{Level, Scope};
use crate::local_health;
use crate::number::lossy;
use crate::probe::Cgroup;
use crate::status::{LeakFigures, ServiceStatus, Standing, Unit, VictimOf};
use crate::verdict::Cause;
use hwshim::clock::Instant;
use std::time::Duration;

/// The code of what cannot be had any more.
const CANNOT_SPAWN: u8 = 6;
/// For so long memory is said to be short: what wanted it needs some time to come back.
const SHORT_FOR: Duration = Duration::from_secs(5 * 60);
/// With a smaller share of a host's memory available, it is short: earlyoom(1) begins to end programs
/// there.
const AVAILABLE_MIN: f64 = 0.1;
/// From that share of a limit on, others of the same group do not get what they need at once.
const FULL: f64 = 0.9;

/// How a service was harmed by others, or cannot help but be by itself, if it is.
pub(crate) fn harm(service: &ServiceStatus) -> Option<Harm> {
    let by_others = service.victim.as_ref().map(|it| it.harm);
    let by_itself = service.codes.contains(&CANNOT_SPAWN);
    by_others.or_else(|| by_itself.then_some(Harm::NoDescriptors))
}

/// Whether a service takes more and more.
pub(crate) fn leaks(service: &ServiceStatus) -> bool {
    service.cause == Cause::ServiceLeak
}

/// A service, as it matters to whose victim anybody is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Party<'a> {
    pub(super) status: &'a ServiceStatus,
    pub(super) absence: &'a Absence,
    pub(super) groups: &'a Groups,
}

/// Whose victim a service is, if it is one.
pub(super) fn victim(
    service: &Party<'_>,
    all: &[Party<'_>],
    memory: &Memory,
    now: Instant,
) -> Option<VictimOf> {
    let is_away = matches!(service.status.standing, Standing::Gone | Standing::Refused);
    if !is_away || memory_leaks(service.status).next().is_some() {
        return None;
    }
    let mut leakers = all.iter().filter(|other| {
        other.status.service != service.status.service
            && memory_leaks(other.status).next().is_some()
    });
    let of = |leaker: &Party<'_>| leaker.status.service.clone();
    if let Some(killed) = &service.absence.killed {
        // At the limit of a group only those count that are charged to it.
        let is_charged = |leaker: &&Party<'_>| {
            let limit = killed.at_limit_of.as_ref();
            limit.is_none_or(|group| leaker.groups.are_within(group))
        };
        return Some(VictimOf {
            harm: Harm::OomKilled,
            of: leakers.find(is_charged).map(of),
        });
    }
    let is_short = memory.was_short(now);
    let takes = |leaker: &&Party<'_>| is_short || fills_group_of(leaker, service.groups);
    leakers.find(takes).map(|leaker| VictimOf {
        harm: Harm::CouldNotStart,
        of: Some(of(leaker)),
    })
}

/// What a service takes more and more of, of what others need as well. A card's memory is no such.
fn memory_leaks(service: &ServiceStatus) -> impl Iterator<Item = &LeakFigures> {
    service.leaks.iter().filter(|leak| {
        leak.level >= Level::Leaking
            && leak.scope == Scope::Service
            && leak.unit == Unit::Bytes
            && leak.resource != "card-memory"
    })
}

/// Whether one has filled a control group to which another is charged too.
fn fills_group_of(leaker: &Party<'_>, other: &Groups) -> bool {
    let is_full = |leak: &LeakFigures| {
        let limit = leak.limit.as_ref().filter(|limit| is_of_group(limit));
        limit.is_some_and(|limit| leak.held >= FULL * limit.value)
    };
    let is_shared = |(group, _): (&Cgroup, u64)| other.are_within(group);
    leaker.groups.limit().is_some_and(is_shared) && memory_leaks(leaker.status).any(is_full)
}

/// Whether the host has memory to give.
#[derive(Debug, Default)]
pub(super) struct Memory {
    kills: Rises,
    /// Who waited for the host's memory: the kernel does not count those who wait at the limit of a group
    /// (Linux `mm/vmscan.c`, `ALLOCSTALL`), though it does count them as waiting and as killed.
    stalls: Rises,
    short_at: Option<Instant>,
}

impl Memory {
    pub(super) fn poll(&mut self, around: &Surroundings<'_>, now: Instant) {
        self.kills.take(Some(around.oom_kills), now);
        let shortages = around.host.and_then(|host| host.shortages.as_ref().ok());
        let stalls = shortages.and_then(|shortages| shortages.allocation_stalls);
        self.stalls.take(stalls, now);
        let waits = around.host_sample.and_then(|sample| sample.psi_memory_some);
        let pressure = local_health::Limits::default().pressure;
        let is_waited_for = waits.is_some_and(|share| share > pressure);
        let is_of_host = !self.stalls.is_known() || self.stalls.was_within(KILL_NEAR, now);
        let is_wanted = (is_waited_for || self.kills.rose_at(now)) && is_of_host;
        if is_wanted || is_low(around) {
            self.short_at = Some(now);
        }
    }

    fn was_short(&self, now: Instant) -> bool {
        self.short_at.is_some_and(|at| now.since(at) < SHORT_FOR)
    }
}

fn is_low(around: &Surroundings<'_>) -> bool {
    let memory = around.host.and_then(|host| host.memory.as_ref().ok());
    memory.is_some_and(|memory| {
        let available = memory.available_bytes.map(lossy);
        let total = lossy(memory.total_bytes);
        available.is_some_and(|available| available < AVAILABLE_MIN * total)
    })
}

/// Whether the process of a service has gone, and whether it was killed for want of memory.
#[derive(Debug, Default)]
pub(super) struct Absence {
    process: Presence,
    killed: Option<Killed>,
}

/// It was killed for want of memory.
#[derive(Debug)]
struct Killed {
    /// At the limit of which group; none if it was the host's memory that was short, or that is not
    /// known.
    at_limit_of: Option<Cgroup>,
}

#[derive(Clone, Copy, Debug, Default)]
enum Presence {
    /// It was never seen to be there, so that it cannot be said to have gone.
    #[default]
    Unseen,
    There,
    Gone {
        polls: u32,
    },
}

impl Absence {
    /// Whether it is still worth asking if it was killed. The host's counter was read before the
    /// service was looked for, and knows the next time of a kill between the two; who is killed later
    /// than that is somebody else.
    pub(super) const fn is_fresh(&self) -> bool {
        matches!(self.process, Presence::There | Presence::Gone { polls: 0 })
    }

    /// Takes in how the service stands, and what its groups have just told.
    pub(super) fn poll(
        &mut self,
        standing: Standing,
        process: Found<'_>,
        groups: &Groups,
        memory: &Memory,
        now: Instant,
    ) {
        if !matches!(
            standing,
            Standing::Gone | Standing::Refused | Standing::Unknown
        ) {
            self.killed = None;
        }
        let is_fresh = self.is_fresh();
        self.process = match (process, self.process) {
            (Found::Running, _) => Presence::There,
            (Found::Gone(_), Presence::There) => Presence::Gone { polls: 0 },
            (Found::Gone(_), Presence::Gone { polls }) => Presence::Gone {
                polls: polls.saturating_add(1),
            },
            (_, before) => before,
        };
        if !(is_fresh && matches!(process, Found::Gone(_))) {
            return;
        }
        let by_group = groups.counted_a_kill(now);
        let was_killed = by_group.unwrap_or_else(|| memory.kills.was_within(KILL_NEAR, now));
        if was_killed && self.killed.is_none() {
            self.killed = Some(Killed {
                at_limit_of: groups.limit_hit(now).cloned(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::{HostProbe, Probe, ProbeError, Shortages};
    use crate::services::groups::tests::{Site, groups_of};
    use crate::status::{LimitFigures, Status};
    use crate::verdict::Evidence;
    use crate::watch::{Settings, Watch};

    fn at(seconds: u64) -> Instant {
        Instant::ORIGIN.plus(Duration::from_secs(seconds))
    }

    /// A host with two services, of which one is away.
    fn status() -> Status {
        let tree = tempfile::tempdir().unwrap();
        let named = |name: &str| {
            let process = crate::probe::Whereabouts::PidFile(tree.path().join(name));
            crate::services::ServiceSettings::new(name, process)
        };
        let mut watch = Watch::new(Settings {
            services: vec![named("hardserver"), named("web")],
            ..Settings::of(tree.path(), tree.path())
        });
        let mut status = watch.poll(Instant::ORIGIN).status;
        for service in &mut status.services {
            (service.standing, service.cause) = (Standing::Answers, Cause::None);
            service.codes.clear();
            service.evidence.clear();
            // Neither has a process: how sure the monitor is of that depends on how busy its host is.
            service.assessment = None;
        }
        let web = &mut status.services[1];
        (web.standing, web.cause) = (Standing::Gone, Cause::ServiceGone);
        web.evidence.push(Evidence {
            code: "process-gone".into(),
            detail: "/proc/7 does not exist".to_owned(),
        });
        status
    }

    fn leak(resource: &str, unit: Unit, limit: &str) -> LeakFigures {
        LeakFigures {
            limit: Some(LimitFigures {
                value: 100.0,
                source: limit.to_owned(),
            }),
            ..LeakFigures::bare(resource, unit, Level::Page, 95.0)
        }
    }

    fn memory_leak() -> LeakFigures {
        leak("kernel-memory", Unit::Bytes, "kernel_memory_max")
    }

    /// Two services, of which one is away, and everything that tells why.
    struct Case {
        status: Status,
        hardserver: Groups,
        web: Groups,
        absence: Absence,
        memory: Memory,
    }

    impl Case {
        fn new() -> Self {
            Self {
                status: status(),
                hardserver: Groups::default(),
                web: Groups::default(),
                absence: Absence::default(),
                memory: Memory::default(),
            }
            .with(WELL, 0)
        }

        /// With a leak of `hardserver`.
        fn leaking(leak: LeakFigures) -> Self {
            let mut case = Self::new();
            case.status.services[0].leaks = vec![leak];
            case
        }

        fn with(mut self, host: Was, second: u64) -> Self {
            self.host(host, second);
            self
        }

        fn host(&mut self, host: Was, second: u64) {
            host.poll(&mut self.memory, second);
        }

        fn web(&mut self, standing: Standing, second: u64) -> Option<VictimOf> {
            let absent = ProbeError::Absent {
                what: "the process".to_owned(),
            };
            let process = match standing {
                Standing::Gone => Found::Gone(&absent),
                Standing::Unknown => Found::NotYet,
                _ => Found::Running,
            };
            self.status.services[1].standing = standing;
            let (groups, memory) = (&self.web, &self.memory);
            self.absence
                .poll(standing, process, groups, memory, at(second));
            self.victim(second)
        }

        /// Whose victim the one that is away is, at that second.
        fn victim(&self, second: u64) -> Option<VictimOf> {
            let nobody = Absence::default();
            let party = |index: usize, absence, groups| Party {
                status: &self.status.services[index],
                absence,
                groups,
            };
            let hardserver = party(0, &nobody, &self.hardserver);
            let web = party(1, &self.absence, &self.web);
            victim(&web, &[hardserver, web], &self.memory, at(second))
        }
    }

    fn of_hardserver(harm: Harm) -> Option<VictimOf> {
        Some(VictimOf {
            harm,
            of: Some("hardserver".to_owned()),
        })
    }

    /// How a host was since the poll before.
    #[derive(Clone, Copy)]
    struct Was {
        /// Share of the memory that is available, in percent.
        available: u64,
        /// Share of the time in which somebody waited for memory.
        waits: f64,
        /// Allocations that have waited for the host's memory, if it tells.
        stalls: Option<u64>,
        kills: u64,
    }

    const WELL: Was = Was {
        available: 50,
        waits: 0.0,
        stalls: Some(7),
        kills: 0,
    };

    impl Was {
        fn poll(self, memory: &mut Memory, second: u64) {
            let nowhere = tempfile::tempdir().unwrap();
            let mut host = HostProbe::new(nowhere.path()).observe(&(), at(0)).unwrap();
            host.memory = Ok(crate::probe::Memory {
                total_bytes: 100,
                available_bytes: Some(self.available),
                ..Default::default()
            });
            host.shortages = Ok(Shortages {
                allocation_stalls: self.stalls,
                oom_kills: Some(self.kills),
            });
            let around = Surroundings {
                host: Some(&host),
                host_sample: Some(local_health::Sample {
                    psi_memory_some: Some(self.waits),
                    ..Default::default()
                }),
                oom_kills: self.kills,
                ..Surroundings::default()
            };
            memory.poll(&around, at(second));
        }
    }

    fn killed(of: Option<&str>) -> Option<VictimOf> {
        Some(VictimOf {
            harm: Harm::OomKilled,
            of: of.map(str::to_owned),
        })
    }

    #[test]
    fn who_is_away_while_another_leaks_is_a_victim_only_if_memory_leaks_and_is_short() {
        let with = |leak: LeakFigures, host| Case::leaking(leak).with(host, 1).victim(2);
        let low = Was {
            available: 9,
            ..WELL
        };
        assert_eq!(with(memory_leak(), WELL), None);
        let victim = of_hardserver(Harm::CouldNotStart);
        assert_eq!(with(memory_leak(), low), victim);
        // What is not of the host's memory, or is only suspected, is none of its troubles.
        for other in [
            leak("descriptors", Unit::Count, "RLIMIT_NOFILE"),
            leak("card-memory", Unit::Bytes, "MemTotal of the card"),
            LeakFigures {
                level: Level::Suspected,
                ..memory_leak()
            },
        ] {
            assert_eq!(with(other, low), None);
        }
    }

    #[test]
    fn who_waits_or_is_killed_at_the_limit_of_a_group_makes_the_hosts_memory_not_short() {
        let victim = of_hardserver(Harm::CouldNotStart);
        let waiting = Was { waits: 0.3, ..WELL };
        let killing = Was { kills: 1, ..WELL };
        for was in [waiting, killing] {
            let of = |stalls| {
                let case = Case::leaking(memory_leak());
                case.with(Was { stalls, ..was }, 1).victim(2)
            };
            assert_eq!(of(Some(7)), None);
            assert_eq!(of(Some(8)), victim);
        }
        // Of a kernel that does not count who waited for what, it may have been the host's.
        let mut untold = Case::leaking(memory_leak());
        untold.memory = Memory::default();
        let stalls = None;
        untold.host(Was { stalls, ..WELL }, 1);
        untold.host(Was { stalls, ..killing }, 2);
        assert_eq!(untold.victim(3), victim);
    }

    #[test]
    fn memory_that_is_there_again_for_minutes_keeps_nobody_away() {
        let low = Was {
            available: 9,
            ..WELL
        };
        let case = Case::leaking(memory_leak()).with(low, 1).with(WELL, 2);
        assert_eq!(case.victim(300), of_hardserver(Harm::CouldNotStart));
        assert_eq!(case.victim(301), None);
    }

    #[test]
    fn who_fills_a_group_of_another_keeps_it_from_starting_and_who_fills_its_own_does_not() {
        let of = |limited: &str, held| {
            let mut site = Site::new();
            site.group(limited, "100", 0, 0);
            let limit = "memory.max of its control group";
            let mut case = Case::leaking(leak("memory", Unit::Bytes, limit));
            case.hardserver = groups_of("shop/hardserver");
            case.web = groups_of("shop/web");
            case.status.services[0].leaks[0].held = held;
            for groups in [&mut case.hardserver, &mut case.web] {
                site.poll(groups, true, at(1));
            }
            case.victim(1)
        };
        assert_eq!(of("shop", 95.0), of_hardserver(Harm::CouldNotStart));
        assert_eq!(of("shop", 80.0), None);
        assert_eq!(of("shop/hardserver", 95.0), None);
        // Who is limited by something else fills none.
        let mut case = Case::leaking(leak("memory", Unit::Bytes, "memory_max"));
        (case.hardserver, case.web) = (groups_of("shop"), groups_of("shop"));
        let mut site = Site::new();
        site.group("shop", "100", 0, 0);
        site.poll(&mut case.hardserver, true, at(1));
        assert_eq!(case.victim(1), None);
    }

    #[test]
    fn who_went_away_with_a_kill_was_killed_and_stays_a_victim_until_it_is_back() {
        let mut case = Case::new();
        let mut look = |standing, kills, second| {
            case.host(Was { kills, ..WELL }, second);
            case.web(standing, second)
        };
        look(Standing::Answers, 0, 1);
        assert_eq!(look(Standing::Gone, 1, 2), killed(None));
        assert_eq!(look(Standing::Unknown, 1, 3), None);
        assert_eq!(look(Standing::Gone, 1, 9_000), killed(None));
        // Its process is there again, and does not serve yet.
        assert_eq!(look(Standing::Refused, 1, 9_001), killed(None));
        look(Standing::Runs, 1, 9_002);
        // Stopped by hand, long after others were killed, and before others are.
        assert_eq!(look(Standing::Gone, 1, 9_003), None);
        assert_eq!(look(Standing::Gone, 1, 9_004), None);
        assert_eq!(look(Standing::Gone, 2, 9_005), None);
        // The host had counted already when the service was looked for.
        look(Standing::Runs, 2, 9_100);
        assert_eq!(look(Standing::Gone, 2, 9_101), None);
        assert_eq!(look(Standing::Gone, 3, 9_102), killed(None));
        case.status.services[0].leaks = vec![memory_leak()];
        assert_eq!(case.victim(9_103), killed(Some("hardserver")));
        // Who leaks itself is killed for that.
        case.status.services[1].leaks = vec![memory_leak()];
        assert_eq!(case.victim(9_103), None);
    }

    #[test]
    fn whose_process_runs_was_not_killed_though_nobody_listens_when_others_are() {
        let mut case = Case::new();
        let mut look = |standing, kills, second| {
            case.host(Was { kills, ..WELL }, second);
            case.web(standing, second)
        };
        look(Standing::Answers, 0, 1);
        assert_eq!(look(Standing::Refused, 1, 2), None);
        assert_eq!(look(Standing::Refused, 2, 3), None);
        // It took a while to end, with its socket closed.
        assert_eq!(look(Standing::Gone, 2, 4), killed(None));
    }

    #[test]
    fn who_was_never_seen_to_be_there_was_not_killed() {
        let mut case = Case::new();
        case.web(Standing::Gone, 1);
        case.host(Was { kills: 1, ..WELL }, 2);
        assert_eq!(case.web(Standing::Gone, 2), None);
    }

    #[test]
    fn a_control_group_knows_better_than_the_host_who_was_killed() {
        for (kills, victim) in [(3, None), (4, killed(None))] {
            let (mut case, mut site) = (Case::new(), Site::new());
            case.web = groups_of("web");
            site.group("web", "max", 0, 3);
            site.poll(&mut case.web, false, at(1));
            case.web(Standing::Runs, 1);
            case.host(Was { kills: 1, ..WELL }, 2);
            site.group("web", "max", 0, kills);
            site.poll(&mut case.web, false, at(2));
            assert_eq!(case.web(Standing::Gone, 2), victim);
        }
    }

    #[test]
    fn who_is_killed_at_the_limit_of_a_group_suffers_from_who_is_charged_to_it_alone() {
        // Where who leaks is, how often the limits of `shop` and `shop/web` were hit, and of whom who was
        // killed is the victim.
        let hardserver = Some("hardserver");
        for (leaker, shop, web, of) in [
            ("elsewhere", 1, 1, None),
            ("shop/hardserver", 1, 1, None),
            ("shop/web", 1, 1, hardserver),
            ("shop/web/worker", 1, 1, hardserver),
            ("elsewhere", 1, 0, None),
            ("shop/hardserver", 1, 0, hardserver),
            ("elsewhere", 0, 0, hardserver),
        ] {
            let (mut case, mut site) = (Case::leaking(memory_leak()), Site::new());
            (case.hardserver, case.web) = (groups_of(leaker), groups_of("shop/web"));
            site.group("shop", "4096", 0, 0);
            site.group("shop/web", "1024", 0, 0);
            site.poll(&mut case.web, false, at(1));
            case.web(Standing::Runs, 1);
            site.group("shop", "4096", shop, 1);
            site.group("shop/web", "1024", web, 1);
            site.poll(&mut case.web, true, at(2));
            let told = case.web(Standing::Gone, 2);
            assert_eq!(told, killed(of), "{leaker}, {shop}, {web}");
        }
    }

    #[test]
    fn who_has_used_up_its_own_descriptors_is_nobody_s_victim_and_harmed() {
        let mut status = status();
        let service = &mut status.services[0];
        service.codes = vec![CANNOT_SPAWN];
        assert_eq!(harm(service), Some(Harm::NoDescriptors));
        service.victim = of_hardserver(Harm::OomKilled);
        assert_eq!(harm(service), Some(Harm::OomKilled));
    }

    #[test]
    fn the_line_of_a_victim_says_whose_it_is_and_blames_it_for_nothing() {
        let mut status = status();
        let text = |status: &Status| crate::text::block(status).join("\n");
        assert!(text(&status).contains("service-gone"), "{}", text(&status));
        status.services[1].victim = of_hardserver(Harm::CouldNotStart);
        let shown = text(&status);
        assert!(
            shown.contains("victim of hardserver, which leaks: could not start"),
            "{shown}"
        );
        assert!(!shown.contains("service-gone"), "{shown}");
        let diagnosed = crate::text::service_diagnosis(&status.services[1]).join("\n");
        assert!(
            diagnosed.starts_with("web: gone (victim) since"),
            "{diagnosed}"
        );
        assert!(diagnosed.contains("does not blame it"), "{diagnosed}");
    }
}
