//! Gathers what recommendations are made from: files below a root, and what the monitor knows.
//!
//! What cannot be read is none, and nothing is recommended from it.

use crate::leak::Level;
use crate::probe::{HostProbe, Probe};
use crate::status::{ServiceStatus, Status};
use hwshim::clock::Instant;
use serde::Serialize;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Where control groups are.
const GROUPS: &str = "sys/fs/cgroup";
/// State of a socket that listens (Linux `include/net/tcp_states.h`, `TCP_LISTEN`).
const LISTEN: &str = "0A";

/// What is known of host, services and monitor.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Facts {
    /// First and last port that connections are made from.
    pub ports: Option<(u16, u16)>,
    /// TCP ports that programs listen on.
    pub listeners: Vec<u16>,
    /// How busy each CPU was with softirqs since boot.
    pub cpus: Vec<Cpu>,
    /// Packets lost since boot.
    pub softnet_dropped: u64,
    /// Turns cut short since boot.
    pub softnet_squeezed: u64,
    /// Queues on which network devices receive.
    pub queues: Vec<Queue>,
    /// All memory.
    pub memory_total_bytes: Option<u64>,
    /// Host services.
    pub services: Vec<Service>,
    /// Time between polls of the monitor.
    pub poll_interval_seconds: Option<f64>,
    /// Time between beats of each card.
    pub heartbeat_periods: Vec<f64>,
    /// Polls of the monitor, and those that came late.
    pub polls: Option<(u64, u64)>,
    /// How the monitor is scheduled.
    pub monitor_priority: Option<String>,
}

/// A CPU.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cpu {
    /// Its number.
    pub number: u32,
    /// Part of its time in softirqs.
    pub softirq_share: f64,
}

/// A queue on which a network device receives.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Queue {
    /// Its file of CPUs, below the root.
    pub path: PathBuf,
    /// What stands in it.
    pub mask: String,
    /// Whether that is no CPU at all.
    pub steers_nowhere: bool,
    /// Whether the device has no other.
    pub is_only: bool,
}

/// What is held of something, and whether that only grows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Held {
    /// So much.
    pub held: f64,
    /// How bad it is.
    pub level: Level,
    /// How fast it grows.
    pub rate_per_hour: Option<f64>,
}

/// A host service.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its process.
    pub pid: u32,
    /// When that began, in clock ticks since boot.
    pub start_time_ticks: u64,
    /// Descriptors.
    pub descriptors: Option<Held>,
    /// How many it may have: soft limit and hard limit.
    pub descriptors_max: Option<(u64, u64)>,
    /// TCP ports.
    pub ports: Option<Held>,
    /// Memory.
    pub memory: Option<Held>,
    /// Its control group.
    pub group: Option<Group>,
}

/// A control group.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
    /// Its directory, below the root.
    pub path: PathBuf,
    /// Memory it uses, in bytes.
    pub used: u64,
    /// How much it may; `None` for no limit.
    pub max: Option<u64>,
}

/// Looks at the host below `root`, and takes what the monitor knows from `status`.
#[must_use]
pub fn look(root: &Path, status: Option<&Status>) -> Facts {
    let mut facts = Facts {
        listeners: listeners(root),
        queues: queues(root),
        ..Facts::default()
    };
    if let Ok(host) = HostProbe::new(root).observe(&(), Instant::ORIGIN) {
        facts.ports = host
            .ephemeral_ports
            .ok()
            .map(|range| (*range.start(), *range.end()));
        facts.memory_total_bytes = host.memory.ok().map(|memory| memory.total_bytes);
        let cpus = host.cpus.unwrap_or_default();
        facts.cpus = cpus
            .iter()
            .filter(|cpu| cpu.total_ticks() > 0)
            .map(|cpu| Cpu {
                number: cpu.cpu,
                softirq_share: super::count(cpu.softirq_ticks) / super::count(cpu.total_ticks()),
            })
            .collect();
        for cpu in host.softnet.unwrap_or_default() {
            facts.softnet_dropped += u64::from(cpu.dropped);
            facts.softnet_squeezed += u64::from(cpu.squeezed);
        }
    }
    if let Some(status) = status {
        facts.poll_interval_seconds = Some(status.interval_seconds);
        facts.polls = Some((status.polls, status.polls_late));
        let beats = status
            .cards
            .iter()
            .filter_map(|card| card.heartbeat.as_ref());
        facts.heartbeat_periods = beats.map(|beat| beat.period_seconds).collect();
        let monitor = status.monitor.as_ref();
        facts.monitor_priority = monitor.and_then(|monitor| priority(root, monitor.pid));
        facts.services = status
            .services
            .iter()
            .filter_map(|one| service(root, one))
            .collect();
    }
    facts
}

fn service(root: &Path, status: &ServiceStatus) -> Option<Service> {
    let process = status.process.as_ref()?;
    let held = |resource: &str| {
        let leak = status.leaks.iter().find(|leak| leak.resource == resource)?;
        Some(Held {
            held: leak.held,
            level: leak.level,
            rate_per_hour: leak.rate_per_hour.map(|rate| rate.middle),
        })
    };
    Some(Service {
        name: crate::text::clean(&status.service),
        pid: process.pid,
        start_time_ticks: process.start_time_ticks,
        descriptors: held("descriptors"),
        descriptors_max: limit(root, process.pid, "Max open files"),
        ports: held("tcp-ports"),
        memory: held("memory"),
        group: status
            .kernel
            .as_ref()
            .and_then(|kernel| group(root, &kernel.cgroup)),
    })
}

/// Soft and hard limit of a process (proc_pid_limits(5)); no limit is the largest number.
fn limit(root: &Path, pid: u32, name: &str) -> Option<(u64, u64)> {
    let text = fs::read_to_string(root.join(format!("proc/{pid}/limits"))).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let mut words = line.split_ascii_whitespace();
    let mut next = || match words.next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    };
    Some((next()?, next()?))
}

/// The control group of version 2 at `path`, which a monitor named.
fn group(root: &Path, path: &str) -> Option<Group> {
    let inside = Path::new(path.trim_start_matches('/'));
    // Nothing leads out of the hierarchy, and the root of it has no limit.
    let is_plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    if inside.as_os_str().is_empty() || !inside.components().all(is_plain) {
        return None;
    }
    let path = Path::new(GROUPS).join(inside);
    let read = |name: &str| fs::read_to_string(root.join(&path).join(name)).ok();
    let max = read("memory.max")?;
    Some(Group {
        used: read("memory.current")?.trim().parse().ok()?,
        max: match max.trim() {
            "max" => None,
            number => Some(number.parse().ok()?),
        },
        path,
    })
}

/// TCP ports that somebody listens on (proc_net_tcp(5)).
fn listeners(root: &Path) -> Vec<u16> {
    let mut ports = Vec::new();
    for name in ["proc/net/tcp", "proc/net/tcp6"] {
        let text = fs::read_to_string(root.join(name)).unwrap_or_default();
        ports.extend(text.lines().skip(1).filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let (_, port) = words.nth(1)?.rsplit_once(':')?;
            let listens = words.nth(1)? == LISTEN;
            u16::from_str_radix(port, 16).ok().filter(|_| listens)
        }));
    }
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// The queues of real network devices.
fn queues(root: &Path) -> Vec<Queue> {
    let names = |path: &Path| -> Vec<String> {
        let entries = fs::read_dir(root.join(path))
            .into_iter()
            .flatten()
            .flatten();
        let mut names: Vec<_> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    };
    let net = Path::new("sys/class/net");
    let mut queues = Vec::new();
    for device in names(net).iter().filter(|name| *name != "lo") {
        let directory = net.join(device).join("queues");
        let receiving: Vec<_> = names(&directory)
            .into_iter()
            .filter(|name| name.starts_with("rx-"))
            .collect();
        for name in &receiving {
            let path = directory.join(name).join("rps_cpus");
            let Ok(mask) = fs::read_to_string(root.join(&path)) else {
                continue;
            };
            let mask = mask.trim().to_owned();
            queues.push(Queue {
                path,
                steers_nowhere: mask.chars().all(|digit| matches!(digit, '0' | ',')),
                mask,
                is_only: receiving.len() == 1,
            });
        }
    }
    queues
}

/// How a process is scheduled (proc_pid_stat(5), fields 19 "nice", 40 "`rt_priority`", 41 "policy").
fn priority(root: &Path, pid: u32) -> Option<String> {
    let stat = fs::read_to_string(root.join(format!("proc/{pid}/stat"))).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<_> = fields.split_ascii_whitespace().collect();
    // The first of these is field 3.
    let field = |number: usize| fields.get(number - 3)?.parse::<i64>().ok();
    Some(match field(41)? {
        0 => format!("SCHED_OTHER, nice {}", field(19)?),
        1 => format!("SCHED_FIFO, priority {}", field(40)?),
        2 => format!("SCHED_RR, priority {}", field(40)?),
        other => format!("policy {other}"),
    })
}
