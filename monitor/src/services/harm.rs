//! Who suffers from others: a service that was killed for want of memory, or is away while another
//! leaks memory that is short, is a victim, and not at fault for being away.
//!
//! Two misfortunes at one time are not enough for that: whom an operator has stopped is away as well,
//! and most leaks take nothing that others need.
//!
//! | harm | when |
//! |---|---|
//! | killed | it was there, and went away soon after the kernel had killed somebody of its control group; where that does not tell, of the host. So it stays until the service is back |
//! | could not start | it is away, another takes more and more memory, and lately the host was short of it, or the group that both are charged to |
//!
//! Who takes more and more memory by itself is nobody's victim.

use super::Surroundings;
use super::resources::GROUP_LIMIT;
use crate::incident::Harm;
use crate::leak::{Level, Scope};
use crate::local_health;
use crate::probe::{Cgroup, CgroupMemory};
use crate::status::{LeakFigures, ServiceStatus, Standing, Unit, VictimOf};
use crate::verdict::Cause;
use hwshim::clock::Instant;
use std::path::Path;
use std::time::Duration;

/// The code of what cannot be had any more.
const CANNOT_SPAWN: u8 = 6;
/// Whoever was killed is seen to be away within that: it is asked each ten seconds, and given three
/// to answer.
const KILL_NEAR: Duration = Duration::from_secs(15);
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

/// Whose victim a service is, if it is one.
pub(super) fn victim(
    service: &ServiceStatus,
    absence: &Absence,
    services: &[ServiceStatus],
    memory: &Memory,
    now: Instant,
) -> Option<VictimOf> {
    let is_away = matches!(service.standing, Standing::Gone | Standing::Refused);
    if !is_away || memory_leaks(service).next().is_some() {
        return None;
    }
    let mut others = services.iter().filter(|it| it.service != service.service);
    if absence.was_killed {
        let of = others.find(|it| memory_leaks(it).next().is_some());
        return Some(VictimOf {
            harm: Harm::OomKilled,
            of: of.map(|it| it.service.clone()),
        });
    }
    let is_short = memory.was_short(now);
    let takes = |it: &&ServiceStatus| match is_short {
        true => memory_leaks(it).next().is_some(),
        false => fills_group_of(it, absence),
    };
    others.find(takes).map(|it| VictimOf {
        harm: Harm::CouldNotStart,
        of: Some(it.service.clone()),
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

/// Whether one has filled the control group to which the other is charged too.
fn fills_group_of(leaker: &ServiceStatus, absence: &Absence) -> bool {
    let Some((group, Cgroup::V1(other) | Cgroup::V2(other))) =
        leaker.kernel.as_ref().zip(absence.group.as_ref())
    else {
        return false;
    };
    let is_full = |leak: &LeakFigures| {
        let limit = leak.limit.as_ref().filter(|it| it.source == GROUP_LIMIT);
        limit.is_some_and(|limit| leak.held >= FULL * limit.value)
    };
    Path::new("/").join(other).starts_with(&group.cgroup) && memory_leaks(leaker).any(is_full)
}

/// Counts who was killed for want of memory, and knows when the last was.
#[derive(Debug, Default)]
struct Kills {
    counted: Option<u64>,
    last_at: Option<Instant>,
}

impl Kills {
    fn take(&mut self, counted: u64, now: Instant) {
        if self.counted.is_some_and(|before| counted > before) {
            self.last_at = Some(now);
        }
        self.counted = Some(counted);
    }

    fn was_within(&self, time: Duration, now: Instant) -> bool {
        self.last_at.is_some_and(|at| now.since(at) < time)
    }
}

/// Whether the host has memory to give.
#[derive(Debug, Default)]
pub(super) struct Memory {
    kills: Kills,
    short_at: Option<Instant>,
}

impl Memory {
    pub(super) fn poll(&mut self, around: &Surroundings<'_>, now: Instant) {
        self.kills.take(around.oom_kills, now);
        let memory = around.host.and_then(|host| host.memory.as_ref().ok());
        let is_low = memory.is_some_and(|memory| {
            let available = memory.available_bytes.map(super::resources::lossy);
            let total = super::resources::lossy(memory.total_bytes);
            available.is_some_and(|available| available < AVAILABLE_MIN * total)
        });
        let waits = around.host_sample.and_then(|sample| sample.psi_memory_some);
        let pressure = local_health::Limits::default().pressure;
        if is_low || waits.is_some_and(|share| share > pressure) {
            self.short_at = Some(now);
        }
    }

    fn was_short(&self, now: Instant) -> bool {
        let was_low = self.short_at.is_some_and(|at| now.since(at) < SHORT_FOR);
        was_low || self.kills.was_within(SHORT_FOR, now)
    }
}

/// Whether a service is away, and whether it was killed for want of memory.
#[derive(Debug, Default)]
pub(super) struct Absence {
    is: Presence,
    was_killed: bool,
    /// The control group of its last process.
    group: Option<Cgroup>,
    kills_of_group: Kills,
}

#[derive(Clone, Copy, Debug, Default)]
enum Presence {
    /// It was never seen to be there, so that it cannot be said to have gone.
    #[default]
    Unseen,
    There,
    Away {
        polls: u32,
    },
}

impl Absence {
    /// The control group of its last process, whose counters may be read when that has gone.
    pub(super) const fn group(&self) -> Option<&Cgroup> {
        self.group.as_ref()
    }

    pub(super) fn follow(&mut self, group: Option<&Cgroup>) {
        if self.group.as_ref() != group {
            self.group = group.cloned();
            self.kills_of_group = Kills::default();
        }
    }

    /// Takes in how the service stands, and what its group has just told.
    pub(super) fn poll(
        &mut self,
        standing: Standing,
        group: Option<&CgroupMemory>,
        memory: &Memory,
        now: Instant,
    ) {
        let events = group.and_then(|memory| memory.events.as_ref().ok());
        let counted = events.and_then(|events| events.oom_kills);
        let group_tells = counted.is_some() && self.kills_of_group.counted.is_some();
        if let Some(counted) = counted {
            self.kills_of_group.take(counted, now);
        }
        let polls = match (standing, self.is) {
            (Standing::Unknown, _) | (Standing::Gone | Standing::Refused, Presence::Unseen) => {
                return;
            }
            (Standing::Gone | Standing::Refused, Presence::There) => 0,
            (Standing::Gone | Standing::Refused, Presence::Away { polls }) => {
                polls.saturating_add(1)
            }
            _ => {
                self.is = Presence::There;
                self.was_killed = false;
                return;
            }
        };
        self.is = Presence::Away { polls };
        // The host's counter was read before the service was looked for, and knows the next time of a
        // kill between the two. Who is killed later is somebody else.
        if polls <= 1 {
            let kills = match group_tells {
                true => &self.kills_of_group,
                false => &memory.kills,
            };
            self.was_killed |= kills.was_within(KILL_NEAR, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::{CgroupEvents, HostProbe, Probe, ProbeError};
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

    /// Whose victim the one that is away is, at that second.
    fn web(status: &Status, absence: &Absence, memory: &Memory, second: u64) -> Option<VictimOf> {
        let services = &status.services;
        victim(&services[1], absence, services, memory, at(second))
    }

    fn of_hardserver(harm: Harm) -> Option<VictimOf> {
        Some(VictimOf {
            harm,
            of: Some("hardserver".to_owned()),
        })
    }

    /// Takes in a host of which that share of the memory is available, in percent, and in which somebody
    /// waited for memory for that share of the time.
    fn poll(memory: &mut Memory, available: u64, waits: f64, oom_kills: u64, second: u64) {
        let nowhere = tempfile::tempdir().unwrap();
        let mut host = HostProbe::new(nowhere.path()).observe(&(), at(0)).unwrap();
        host.memory = Ok(crate::probe::Memory {
            total_bytes: 100,
            available_bytes: Some(available),
            ..Default::default()
        });
        let around = Surroundings {
            host: Some(&host),
            host_sample: Some(local_health::Sample {
                psi_memory_some: Some(waits),
                ..Default::default()
            }),
            oom_kills,
            ..Surroundings::default()
        };
        memory.poll(&around, at(second));
    }

    fn well() -> Memory {
        let mut memory = Memory::default();
        poll(&mut memory, 50, 0.0, 0, 0);
        memory
    }

    /// What a control group tells of which so many were killed.
    fn group(oom_kills: u64) -> CgroupMemory {
        let unread = || ProbeError::Torn { path: "/p".into() };
        CgroupMemory {
            used_bytes: Err(unread()),
            peak_bytes: Err(unread()),
            limit: Err(unread()),
            kernel: Err(unread()),
            events: Ok(CgroupEvents {
                oom_kills: Some(oom_kills),
                ..Default::default()
            }),
            pressure: Err(unread()),
            throttling: Err(unread()),
        }
    }

    #[test]
    fn who_is_away_while_another_leaks_is_a_victim_only_if_memory_leaks_and_is_short() {
        let mut status = status();
        let away = Absence::default();
        status.services[0].cause = Cause::ServiceLeak;
        status.services[0].leaks = vec![memory_leak()];
        let victim_with = |status: &Status, available, waits, kills| {
            let mut memory = well();
            poll(&mut memory, available, waits, kills, 1);
            web(status, &away, &memory, 2)
        };
        assert_eq!(victim_with(&status, 50, 0.0, 0), None);
        let victim = of_hardserver(Harm::CouldNotStart);
        assert_eq!(victim_with(&status, 9, 0.0, 0), victim);
        assert_eq!(victim_with(&status, 50, 0.3, 0), victim);
        assert_eq!(victim_with(&status, 50, 0.0, 1), victim);
        // What is not of the host's memory, or is only suspected, is none of its troubles.
        for other in [
            leak("descriptors", Unit::Count, "RLIMIT_NOFILE"),
            leak("card-memory", Unit::Bytes, "MemTotal of the card"),
            LeakFigures {
                level: Level::Suspected,
                ..memory_leak()
            },
        ] {
            status.services[0].leaks = vec![other];
            assert_eq!(victim_with(&status, 9, 0.3, 1), None);
        }
    }

    #[test]
    fn memory_that_is_there_again_for_minutes_keeps_nobody_away() {
        let mut status = status();
        status.services[0].leaks = vec![memory_leak()];
        let mut memory = well();
        poll(&mut memory, 9, 0.0, 0, 1);
        poll(&mut memory, 50, 0.0, 0, 2);
        let of = |second| web(&status, &Absence::default(), &memory, second);
        assert_eq!(of(300), of_hardserver(Harm::CouldNotStart));
        assert_eq!(of(301), None);
    }

    #[test]
    fn who_fills_the_group_of_another_keeps_it_from_starting_and_who_fills_its_own_does_not() {
        let mut status = status();
        status.services[0].leaks = vec![leak("memory", Unit::Bytes, GROUP_LIMIT)];
        let mut kernel = crate::status::KernelFigures {
            cgroup: "/shop".to_owned(),
            total_bytes: None,
            stack_bytes: None,
            page_tables_bytes: None,
            percpu_bytes: None,
            sockets_bytes: None,
            slab_reclaimable_bytes: None,
            slab_unreclaimable_bytes: None,
            vmalloc_bytes: None,
        };
        let mut absence = Absence::default();
        absence.follow(Some(&Cgroup::V2("shop/web".into())));
        let mut of = |group: &str, held| {
            group.clone_into(&mut kernel.cgroup);
            status.services[0].kernel = Some(kernel.clone());
            status.services[0].leaks[0].held = held;
            web(&status, &absence, &well(), 1)
        };
        assert_eq!(of("/shop", 95.0), of_hardserver(Harm::CouldNotStart));
        assert_eq!(of("/shop", 80.0), None);
        assert_eq!(of("/shop/hardserver", 95.0), None);
        assert_eq!(of("/sho", 95.0), None);
    }

    #[test]
    fn who_went_away_with_a_kill_was_killed_and_stays_a_victim_until_it_is_back() {
        let (mut status, mut memory, mut absence) = (status(), well(), Absence::default());
        let mut look = |standing, kills, second| {
            poll(&mut memory, 50, 0.0, kills, second);
            absence.poll(standing, None, &memory, at(second));
            web(&status, &absence, &memory, second)
        };
        let killed = Some(VictimOf {
            harm: Harm::OomKilled,
            of: None,
        });
        look(Standing::Answers, 0, 1);
        assert_eq!(look(Standing::Gone, 1, 2), killed);
        assert_eq!(look(Standing::Unknown, 1, 3), killed);
        assert_eq!(look(Standing::Gone, 1, 9_000), killed);
        look(Standing::Runs, 1, 9_001);
        // Stopped by hand, long after others were killed, and before others are.
        assert_eq!(look(Standing::Gone, 1, 9_002), None);
        assert_eq!(look(Standing::Gone, 1, 9_003), None);
        assert_eq!(look(Standing::Gone, 2, 9_004), None);
        // The host had counted already when the service was looked for.
        look(Standing::Runs, 2, 9_100);
        assert_eq!(look(Standing::Gone, 2, 9_101), None);
        assert_eq!(look(Standing::Gone, 3, 9_102), killed);
        status.services[0].leaks = vec![memory_leak()];
        let of_whom = web(&status, &absence, &memory, 9_103);
        assert_eq!(of_whom, of_hardserver(Harm::OomKilled));
        // Who leaks itself is killed for that.
        status.services[1].leaks = vec![memory_leak()];
        assert_eq!(web(&status, &absence, &memory, 9_103), None);
    }

    #[test]
    fn who_was_never_seen_to_be_there_was_not_killed() {
        let (status, mut memory, mut absence) = (status(), well(), Absence::default());
        absence.poll(Standing::Gone, None, &memory, at(1));
        poll(&mut memory, 50, 0.0, 1, 2);
        absence.poll(Standing::Gone, None, &memory, at(2));
        assert_eq!(web(&status, &absence, &memory, 2), None);
    }

    #[test]
    fn a_control_group_knows_better_than_the_host_who_was_killed() {
        let status = status();
        for (of_group, is_victim) in [(3, false), (4, true)] {
            let (mut memory, mut absence) = (well(), Absence::default());
            absence.follow(Some(&Cgroup::V2("web".into())));
            absence.poll(Standing::Runs, Some(&group(3)), &memory, at(1));
            poll(&mut memory, 50, 0.0, 1, 2);
            absence.poll(Standing::Gone, Some(&group(of_group)), &memory, at(2));
            let victim = web(&status, &absence, &memory, 2);
            assert_eq!(victim.is_some(), is_victim);
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
