//! Says what of the host and of the configuration would make verdicts or fallbacks better, each with
//! what it is, what it would be, why, on what evidence, and how to go back.
//!
//! [`look`] gathers facts, [`recommend`] is one function of them, and [`apply`] changes what may be
//! changed. That is little: what is at once effective, safe and can be undone by writing the old value
//! back. Everything else is said as a command, for somebody who knows the host to give.
//!
//! | id | looks at | applied |
//! |---|---|---|
//! | `ports` | ports that connections are made from, against those that leak or are in use | if nobody listens on those that are added |
//! | `descriptors` | the soft limit of a service's descriptors against what it holds | up to its hard limit |
//! | `receive-packets` | one CPU that does all softirqs while others are idle | yes |
//! | `memory-ceiling` | the limit of a service's control group against what it uses | if one is raised; never if one is set where none was |
//! | `poll-interval` | the monitor's polls against the cards' heartbeats | no: the configuration is the operator's |
//! | `priority` | polls of the monitor that came late | no: its unit is the operator's |
//!
//! More room for what leaks is time, and no repair; where that is so it is said.

pub mod apply;
pub mod look;

use crate::leak::Level;
use apply::Action;
use look::{Cpu, Facts, Group, Queue, Service};
use serde::Serialize;

/// A service that uses more than this share of a limit is near it.
const NEAR: f64 = 0.6;
/// The same for memory: reclaim begins to hurt there.
const NEAR_MEMORY: f64 = 0.8;
/// Longest page of the kernels we run on. They round limits of memory down to whole pages, and what
/// is recommended is to stand there afterwards.
const PAGE_LEN_MAX: u64 = 64 << 10;
/// Of one CPU's time; as the monitor has it for a starved one.
const SOFTIRQ_HIGH: f64 = 0.30;
/// Other CPUs must do less than this part of that, or there is nobody to share with.
const SOFTIRQ_OTHERS: f64 = 0.2;
/// Polls of the monitor that may come late.
const LATE: f64 = 0.01;
/// The lowest and highest port that is recommended: below are many registered services' ports.
const PORT_LOW: u16 = 10_240;
const PORT_HIGH: u16 = 65_535;
/// A heartbeat should be looked at this often or less: more finds most counters unmoved.
const BEATS_MIN: f64 = 1.0;
/// And this often or more, or a frozen one is noticed late.
const BEATS_MAX: f64 = 4.0;

/// Something that would be better otherwise.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recommendation {
    /// What of: a stable word.
    pub id: &'static str,
    /// Of which service, queue or file.
    pub subject: String,
    /// What is.
    pub current: String,
    /// What would be.
    pub recommended: String,
    /// Why.
    pub why: String,
    /// By which formula the value was chosen.
    pub formula: String,
    /// What was seen, in figures.
    pub evidence: Vec<String>,
    /// What somebody would do by hand.
    pub by_hand: String,
    /// How to go back.
    pub undo: String,
    /// Whether it only buys time.
    pub mitigation: bool,
    /// What `-s` does; `null` if that leaves it to the operator.
    pub action: Option<Action>,
    /// Why `-s` leaves it, if it does.
    pub left_because: Option<&'static str>,
}

/// All that would be better, in the order of the table above.
#[must_use]
pub fn recommend(facts: &Facts) -> Vec<Recommendation> {
    let mut all: Vec<_> = ports(facts).into_iter().collect();
    all.extend(facts.services.iter().filter_map(descriptors));
    all.extend(receive_packets(facts));
    all.extend(
        facts
            .services
            .iter()
            .filter_map(|service| memory(service, facts)),
    );
    all.extend(poll_interval(facts));
    all.extend(priority(facts));
    all
}

/// How many hours `room` lasts at `rate_per_hour`, in words.
fn buys(room: f64, rate_per_hour: Option<f64>) -> Option<String> {
    let rate = rate_per_hour.filter(|rate| *rate > 0.0)?;
    Some(format!(
        "buys {:.1} h at the current leak rate of {rate:.1} an hour: a mitigation, not a fix",
        room / rate
    ))
}

fn ports(facts: &Facts) -> Option<Recommendation> {
    let (low, high) = facts.ports?;
    let range = f64::from(high.saturating_sub(low)) + 1.0;
    let uses = |service: &&Service| service.ports.is_some_and(|held| held.held > NEAR * range);
    let leaks = |service: &&Service| service.ports.is_some_and(|held| held.is_leaking());
    let service = facts
        .services
        .iter()
        .find(leaks)
        .or_else(|| facts.services.iter().find(uses))?;
    let held = service.ports?;
    let (new_low, new_high) = (low.min(PORT_LOW), PORT_HIGH);
    let added = f64::from(low - new_low) + f64::from(new_high - high);
    if added <= 0.0 {
        return None;
    }
    let rate = held.rate_per_hour.filter(|_| held.is_leaking());
    let taken: Vec<_> = facts
        .listeners
        .iter()
        .filter(|port| (new_low..low).contains(*port) || **port > high)
        .collect();
    let mut evidence = vec![format!(
        "{} holds {:.0} of {range:.0} ports",
        service.name, held.held
    )];
    evidence.extend(buys(added, rate));
    if !taken.is_empty() {
        evidence.push(format!(
            "programs listen on {taken:?}, which are among those added"
        ));
    }
    let path = "proc/sys/net/ipv4/ip_local_port_range";
    let (old, new) = (format!("{low}\t{high}"), format!("{new_low}\t{new_high}"));
    Some(Recommendation {
        id: "ports",
        subject: path.to_owned(),
        current: format!("{low} to {high}"),
        recommended: format!("{new_low} to {new_high}"),
        why: "a service that finds no free port hangs rather than fails".to_owned(),
        formula: format!("from min(first, {PORT_LOW}) to {PORT_HIGH}: {added:.0} more"),
        evidence,
        by_hand: format!("sysctl -w net.ipv4.ip_local_port_range='{new_low} {new_high}'"),
        undo: format!("sysctl -w net.ipv4.ip_local_port_range='{low} {high}'"),
        mitigation: rate.is_some(),
        left_because: (!taken.is_empty())
            .then_some("programs listen on ports that would be added; reserve those first (net.ipv4.ip_local_reserved_ports)"),
        action: taken.is_empty().then(|| Action::Write {
            path: path.into(),
            old,
            new,
        }),
    })
}

fn descriptors(service: &Service) -> Option<Recommendation> {
    let held = service.descriptors?;
    let (soft, hard) = service.descriptors_max?;
    let limit = count(soft);
    let near = held.held > NEAR * limit;
    if !near && !held.is_leaking() {
        return None;
    }
    // What it holds is to be no more than the near share of what it may.
    let wanted = soft.saturating_mul(4);
    let new = wanted.min(hard);
    if new <= soft {
        return None;
    }
    let rate = held.rate_per_hour.filter(|_| held.is_leaking());
    let mut evidence = vec![format!(
        "{} holds {:.0} of {soft} descriptors",
        service.name, held.held
    )];
    evidence.extend(buys(count(new - soft), rate));
    let pid = service.pid;
    Some(Recommendation {
        id: "descriptors",
        subject: service.name.clone(),
        current: soft.to_string(),
        recommended: new.to_string(),
        why: "without a free descriptor (EMFILE) a service takes no connection and opens no card"
            .to_owned(),
        formula: format!("min(4 x soft limit, hard limit {hard})"),
        evidence,
        by_hand: format!(
            "prlimit --pid {pid} --nofile={new}:{hard}; for good: LimitNOFILE={new} in its unit"
        ),
        undo: format!("prlimit --pid {pid} --nofile={soft}:{hard}"),
        mitigation: rate.is_some(),
        left_because: None,
        action: Some(Action::Descriptors {
            pid,
            start_time_ticks: service.start_time_ticks,
            old: soft,
            new,
            hard,
        }),
    })
}

fn receive_packets(facts: &Facts) -> Vec<Recommendation> {
    let busiest = facts
        .cpus
        .iter()
        .max_by(|a, b| a.softirq_share.total_cmp(&b.softirq_share));
    let Some(busiest) = busiest.filter(|cpu| cpu.softirq_share > SOFTIRQ_HIGH) else {
        return Vec::new();
    };
    let is_idle = |cpu: &&Cpu| cpu.softirq_share < SOFTIRQ_OTHERS * busiest.softirq_share;
    let idle: Vec<_> = facts
        .cpus
        .iter()
        .filter(|cpu| cpu.number != busiest.number)
        .collect();
    if idle.is_empty() || !idle.iter().all(is_idle) {
        return Vec::new();
    }
    let mask = idle
        .iter()
        .filter(|cpu| cpu.number < 32)
        .fold(0_u32, |mask, cpu| mask | 1 << cpu.number);
    if mask == 0 {
        return Vec::new();
    }
    let evidence = vec![
        format!(
            "CPU {} has spent {:.0} % of its time in softirqs, no other more than {:.0} %",
            busiest.number,
            busiest.softirq_share * 100.0,
            idle.iter().map(|cpu| cpu.softirq_share).fold(0.0, f64::max) * 100.0
        ),
        format!(
            "{} packets were lost and {} turns cut short for want of time",
            facts.softnet_dropped, facts.softnet_squeezed
        ),
    ];
    // A device with several queues has its interrupts to spread, which is for its driver's tools.
    let single = facts
        .queues
        .iter()
        .filter(|queue| queue.is_only && queue.steers_nowhere);
    single.map(|queue| steer(queue, mask, &evidence)).collect()
}

fn steer(queue: &Queue, mask: u32, evidence: &[String]) -> Recommendation {
    let path = queue.path.display();
    Recommendation {
        id: "receive-packets",
        subject: path.to_string(),
        current: queue.mask.clone(),
        recommended: format!("{mask:x}"),
        why: "a CPU that drowns in packets keeps owner and monitor from running, and the card is blamed".to_owned(),
        formula: "all CPUs but the one that takes the interrupts (RPS)".to_owned(),
        evidence: evidence.to_vec(),
        by_hand: format!("echo {mask:x} > /{path}; or spread the interrupts: /proc/irq/*/smp_affinity, irqbalance"),
        undo: format!("echo {} > /{path}", queue.mask),
        mitigation: false,
        left_because: None,
        action: Some(Action::Write {
            path: queue.path.clone(),
            old: queue.mask.clone(),
            new: format!("{mask:x}"),
        }),
    }
}

fn memory(service: &Service, facts: &Facts) -> Option<Recommendation> {
    let Group { path, used, max } = service.group.as_ref()?;
    let leak = service.memory.filter(|held| held.is_leaking());
    let rate = leak.and_then(|held| held.rate_per_hour);
    let total = facts.memory_total_bytes?;
    let (new, formula, left_because) = match *max {
        // Without a ceiling a leak takes the host, and others are killed for it.
        None if leak.is_some() => (
            used.saturating_mul(2).min(total / 2),
            "min(2 x used, half of the host's memory)",
            Some(
                "a limit where there was none can have the service killed; that is for its operator to decide",
            ),
        ),
        Some(max) if count(*used) > NEAR_MEMORY * count(max) => (
            max.saturating_add(max / 2).min(total / 4 * 3),
            "min(1.5 x limit, three quarters of the host's memory)",
            None,
        ),
        _ => return None,
    };
    let new = new / PAGE_LEN_MAX * PAGE_LEN_MAX;
    if max.is_some_and(|max| new <= max) || new <= *used {
        return None;
    }
    let current = max.map_or_else(|| "max".to_owned(), |max| max.to_string());
    let file = path.join("memory.max");
    let mut evidence = vec![format!("{} uses {used} of {current} bytes", service.name)];
    evidence.extend(max.and_then(|max| buys(count(new - max), rate)));
    Some(Recommendation {
        id: "memory-ceiling",
        subject: service.name.clone(),
        current: current.clone(),
        recommended: new.to_string(),
        why: "a control group at its limit is slowed down and then killed; one without leaves that to others".to_owned(),
        formula: formula.to_owned(),
        evidence,
        by_hand: format!("echo {new} > /{}; for good: MemoryMax={new} in its unit", file.display()),
        undo: format!("echo {current} > /{}", file.display()),
        mitigation: rate.is_some(),
        left_because,
        action: left_because.is_none().then(|| Action::Write {
            path: file,
            old: current,
            new: new.to_string(),
        }),
    })
}

fn poll_interval(facts: &Facts) -> Option<Recommendation> {
    let interval = facts.poll_interval_seconds?;
    let period = facts
        .heartbeat_periods
        .iter()
        .copied()
        .filter(|period| *period > 0.0);
    let (shortest, longest) = period.fold((f64::INFINITY, 0.0), |(low, high), period| {
        (f64::min(low, period), f64::max(high, period))
    });
    if longest == 0.0 {
        return None;
    }
    let new = if interval < BEATS_MIN * longest {
        2.0 * longest
    } else if interval > BEATS_MAX * shortest && 2.0 * shortest >= 0.2 {
        2.0 * shortest
    } else {
        return None;
    };
    // With several cards, what suits one may not suit another.
    let new = new
        .clamp(BEATS_MIN * longest, f64::max(BEATS_MAX * shortest, longest))
        .clamp(0.2, 60.0);
    if (new - interval).abs() < 0.05 {
        return None;
    }
    let why = if new > interval {
        "most polls find the counter unmoved, which then says little"
    } else {
        "a frozen counter is noticed after several polls, and those are rare"
    };
    Some(Recommendation {
        id: "poll-interval",
        subject: "cardmon".to_owned(),
        current: format!("{interval} s"),
        recommended: format!("{new} s"),
        why: why.to_owned(),
        formula: "two beats of the card a poll".to_owned(),
        evidence: vec![format!("the cards beat every {shortest} to {longest} s")],
        by_hand: format!(
            "[watch] interval = \"{:.0}ms\" in the configuration, then restart cardmon",
            new * 1e3
        ),
        undo: format!("[watch] interval = \"{:.0}ms\"", interval * 1e3),
        mitigation: false,
        action: None,
        left_because: Some("the configuration is its operator's, and is read at the start"),
    })
}

fn priority(facts: &Facts) -> Option<Recommendation> {
    let (polls, late) = facts.polls?;
    let share = count(late) / count(polls.max(1));
    if share <= LATE || facts.monitor_priority.as_deref() != Some("SCHED_OTHER, nice 0") {
        return None;
    }
    Some(Recommendation {
        id: "priority",
        subject: "cardmon".to_owned(),
        current: "SCHED_OTHER, nice 0".to_owned(),
        recommended: "SCHED_RR, priority 1".to_owned(),
        why: "a monitor that does not get to run can clear no card".to_owned(),
        formula: "the lowest real-time priority: it needs microseconds, on time".to_owned(),
        evidence: vec![format!(
            "{late} of {polls} polls came late ({:.1} %)",
            share * 100.0
        )],
        by_hand:
            "CPUSchedulingPolicy=rr and CPUSchedulingPriority=1 in cardmon.service, then restart it"
                .to_owned(),
        undo: "remove both lines, and restart it".to_owned(),
        mitigation: false,
        action: None,
        left_because: Some("its unit is its operator's"),
    })
}

impl look::Held {
    fn is_leaking(self) -> bool {
        self.level >= Level::Suspected
    }
}

#[expect(clippy::cast_precision_loss, reason = "shares, for people")]
const fn count(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests;
