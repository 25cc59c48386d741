//! Each rule on the facts that it is for, and on those that it must leave alone.

use super::look::Held;
use super::*;
use std::path::PathBuf;

fn held(held: f64, level: Level, rate_per_hour: f64) -> Option<Held> {
    Some(Held {
        held,
        level,
        rate_per_hour: Some(rate_per_hour),
    })
}

fn service() -> Service {
    Service {
        name: "hardserver".to_owned(),
        pid: 4321,
        start_time_ticks: 99,
        descriptors: held(100.0, Level::Watching, 0.0),
        descriptors_max: Some((1_024, 524_288)),
        ports: held(50.0, Level::Watching, 0.0),
        memory: held(1e6, Level::Watching, 0.0),
        group: Some(Group {
            path: PathBuf::from("sys/fs/cgroup/system.slice/hardserver.service"),
            used: 100 << 20,
            max: Some(400 << 20),
        }),
    }
}

/// A host on which all is well.
fn well() -> Facts {
    let cpu = |number, softirq_share| Cpu {
        number,
        softirq_share,
    };
    Facts {
        ports: Some((32_768, 60_999)),
        listeners: vec![22, 9_004],
        cpus: vec![cpu(0, 0.02), cpu(1, 0.01)],
        softnet_dropped: 0,
        softnet_squeezed: 3,
        queues: vec![Queue {
            path: PathBuf::from("sys/class/net/eth0/queues/rx-0/rps_cpus"),
            mask: "0".to_owned(),
            steers_nowhere: true,
            is_only: true,
        }],
        memory_total_bytes: Some(8 << 30),
        services: vec![service()],
        poll_interval_seconds: Some(1.0),
        heartbeat_periods: vec![0.5],
        polls: Some((10_000, 3)),
        monitor_priority: Some("SCHED_OTHER, nice 0".to_owned()),
    }
}

/// The only recommendation there is with these facts.
fn only(facts: &Facts) -> Recommendation {
    let mut all = recommend(facts);
    assert_eq!(all.len(), 1, "{all:#?}");
    all.remove(0)
}

#[test]
fn where_all_is_well_or_nothing_is_known_nothing_is_recommended() {
    assert_eq!(recommend(&well()), []);
    assert_eq!(recommend(&Facts::default()), []);
}

#[test]
fn more_ports_buy_so_many_hours_and_are_no_fix() {
    let mut facts = well();
    facts.services[0].ports = held(9_000.0, Level::Leaking, 100.0);
    let found = only(&facts);
    // 32768 - 10240 below, 65535 - 60999 above.
    assert!(found.formula.contains("27064 more"), "{}", found.formula);
    assert!(
        found.evidence[1].starts_with("buys 270.6 h"),
        "{:?}",
        found.evidence
    );
    assert!(found.mitigation && found.evidence[1].contains("not a fix"));
    assert!(found.undo.contains("32768 60999"), "{}", found.undo);
    assert!(found.action.is_some());
    // In use, and no leak: room, and nothing about hours.
    facts.services[0].ports = held(20_000.0, Level::Watching, 100.0);
    let found = only(&facts);
    assert!(
        !found.mitigation && found.evidence.len() == 1,
        "{:?}",
        found.evidence
    );
    // Where somebody listens among those added, others would take the port.
    for port in [10_240, 32_767, 61_000, 65_535] {
        facts.listeners = vec![port];
        let found = only(&facts);
        assert!(
            found.action.is_none() && found.left_because.is_some(),
            "{port}"
        );
    }
    facts.listeners = vec![32_768, 60_999, 10_239];
    assert!(only(&facts).action.is_some());
    facts.ports = Some((10_000, 65_535));
    assert_eq!(recommend(&facts), [], "there are no more");
}

#[test]
fn descriptors_are_raised_to_the_hard_limit_at_most() {
    let mut facts = well();
    facts.services[0].descriptors = held(700.0, Level::Watching, 0.0);
    assert_eq!(only(&facts).recommended, "4096");
    facts.services[0].descriptors_max = Some((1_024, 2_000));
    assert_eq!(only(&facts).recommended, "2000");
    facts.services[0].descriptors_max = Some((1_024, 1_024));
    assert_eq!(recommend(&facts), []);
    facts.services[0].descriptors_max = Some((u64::MAX, u64::MAX));
    assert_eq!(recommend(&facts), [], "what has no limit is near none");
}

#[test]
fn packets_are_steered_away_from_a_cpu_that_drowns_if_others_are_idle() {
    let mut facts = well();
    facts.cpus[1].softirq_share = 0.4;
    let found = only(&facts);
    assert_eq!((found.id, &*found.recommended), ("receive-packets", "1"));
    assert!(
        found.evidence[0].contains("CPU 1 has spent 40 %"),
        "{:?}",
        found.evidence
    );
    facts.cpus[0].softirq_share = 0.1;
    assert_eq!(recommend(&facts), [], "all are busy");
    facts.cpus.remove(0);
    assert_eq!(recommend(&facts), [], "there is no other");
    let mut facts = well();
    facts.cpus[1].softirq_share = 0.4;
    facts.queues[0].is_only = false;
    assert_eq!(recommend(&facts), [], "several queues are for their driver");
}

#[test]
fn a_memory_limit_is_raised_and_never_set_by_itself() {
    let mut facts = well();
    let group = |used, max| {
        Some(Group {
            path: PathBuf::from("sys/fs/cgroup/s"),
            used,
            max,
        })
    };
    facts.services[0].group = group(350 << 20, Some(400 << 20));
    let found = only(&facts);
    assert_eq!(found.recommended, (600_u64 << 20).to_string());
    assert!(found.action.is_some());
    // A kernel rounds down to its pages, which have 64 KiB at most, and shows that.
    facts.services[0].group = group(900_000_000, Some(1_000_001_536));
    assert_eq!(only(&facts).recommended, (22_888_u64 << 16).to_string());
    facts.services[0].group = group(350 << 20, None);
    assert_eq!(recommend(&facts), []);
    facts.services[0].memory = held(3.5e8, Level::Suspected, 1e7);
    let found = only(&facts);
    assert!(found.action.is_none() && found.mitigation, "{found:#?}");
    // Where the host has no more to give.
    facts.services[0].group = group(7 << 30, Some(7 << 30));
    assert_eq!(recommend(&facts), []);
}

#[test]
fn polls_fit_the_heartbeat_and_a_late_monitor_is_told_to_be_more_important() {
    let mut facts = well();
    for (period, interval, new) in [(2.0, 1.0, "4 s"), (0.5, 10.0, "1 s")] {
        facts.heartbeat_periods = vec![period];
        facts.poll_interval_seconds = Some(interval);
        let found = only(&facts);
        assert_eq!((found.id, &*found.recommended), ("poll-interval", new));
        assert!(found.action.is_none());
    }
    // What suits one of two cards is not bought with the other.
    facts.heartbeat_periods = vec![0.5, 2.0];
    facts.poll_interval_seconds = Some(2.0);
    assert_eq!(recommend(&facts), []);
    let mut facts = well();
    facts.polls = Some((1_000, 30));
    assert_eq!(only(&facts).id, "priority");
    facts.monitor_priority = Some("SCHED_RR, priority 1".to_owned());
    assert_eq!(recommend(&facts), []);
}
