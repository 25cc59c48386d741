//! Looks at the host: whether it had processor time and memory to give, and whether packets or
//! pages were lost.
//!
//! All counters are as the kernel keeps them, most since boot; what they grew by is for whoever
//! sees more than one look. Each file of `/proc` stands for itself: one that is denied or that
//! this kernel does not have leaves the others seen.

use super::file::{TextFile, next};
use super::{Probe, ProbeError};
use hwshim::clock::Instant;
use rustix::time::{ClockId, clock_gettime};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

/// Time between two looks at the range of ports, which an administrator changes if anybody does.
const PORTS_INTERVAL: Duration = Duration::from_secs(60);

/// Time between two looks at who has the memory and how often it was short, while nobody waits for
/// memory. To write `/proc/vmstat` takes the kernel as long as all the rest.
const MEMORY_INTERVAL: Duration = Duration::from_secs(5);

/// What the host gave and lost.
#[derive(Debug)]
pub struct Host {
    /// Time of each CPU, by what it was spent on (`/proc/stat`).
    pub cpus: Result<Vec<CpuTimes>, ProbeError>,
    /// What each CPU received from the network (`/proc/net/softnet_stat`).
    pub softnet: Result<Vec<Softnet>, ProbeError>,
    /// Time somebody waited for a CPU (`/proc/pressure/cpu`).
    pub cpu_pressure: Result<Pressure, ProbeError>,
    /// Time somebody waited for memory (`/proc/pressure/memory`).
    pub memory_pressure: Result<Pressure, ProbeError>,
    /// Time somebody waited for storage (`/proc/pressure/io`).
    pub io_pressure: Result<Pressure, ProbeError>,
    /// Time that this program's main thread could have run, and had to wait for a CPU
    /// (`/proc/self/schedstat`, Linux `Documentation/scheduler/sched-stats.rst`). Read where the kernel
    /// does not tell the pressure on CPUs, which says more.
    pub own_wait: Option<Duration>,
    /// Who has the memory (`/proc/meminfo`).
    pub memory: Result<Memory, ProbeError>,
    /// How often memory was short (`/proc/vmstat`).
    pub shortages: Result<Shortages, ProbeError>,
    /// Ports that connections can be made from (`/proc/sys/net/ipv4/ip_local_port_range`).
    pub ephemeral_ports: Result<RangeInclusive<u16>, ProbeError>,
    /// How long the host has been suspended since boot: `CLOCK_BOOTTIME` less `CLOCK_MONOTONIC`.
    /// `None` in a captured tree.
    pub suspended: Option<Duration>,
}

/// Time of one CPU since boot in ticks, of which there are `sysconf(_SC_CLK_TCK)` a second: 100 on
/// every Linux of today (proc_stat(5)).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct CpuTimes {
    /// Number of the CPU. Those that are offline are not listed.
    pub cpu: u32,
    /// In programs.
    pub user_ticks: u64,
    /// In programs that gave way to others.
    pub nice_ticks: u64,
    /// In the kernel on behalf of programs.
    pub system_ticks: u64,
    /// With nothing to do.
    pub idle_ticks: u64,
    /// With nothing to do but to wait for storage. The kernel does not promise that it only grows.
    pub iowait_ticks: u64,
    /// In interrupts.
    pub irq_ticks: u64,
    /// In softirqs: what is left to do after an interrupt, packets above all.
    pub softirq_ticks: u64,
    /// Taken by the hypervisor for somebody else.
    pub steal_ticks: u64,
}

impl CpuTimes {
    /// All time that has passed on it.
    #[must_use]
    pub const fn total_ticks(&self) -> u64 {
        let Self {
            cpu: _,
            user_ticks,
            nice_ticks,
            system_ticks,
            idle_ticks,
            iowait_ticks,
            irq_ticks,
            softirq_ticks,
            steal_ticks,
        } = *self;
        user_ticks
            .saturating_add(nice_ticks)
            .saturating_add(system_ticks)
            .saturating_add(idle_ticks)
            .saturating_add(iowait_ticks)
            .saturating_add(irq_ticks)
            .saturating_add(softirq_ticks)
            .saturating_add(steal_ticks)
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("cpu")?.split_ascii_whitespace();
        Some(Self {
            cpu: next(&mut words)?,
            user_ticks: next(&mut words)?,
            nice_ticks: next(&mut words)?,
            system_ticks: next(&mut words)?,
            idle_ticks: next(&mut words)?,
            iowait_ticks: next(&mut words)?,
            irq_ticks: next(&mut words)?,
            softirq_ticks: next(&mut words)?,
            steal_ticks: next(&mut words)?,
        })
    }
}

/// What one CPU received from the network. These counters have 32 bits and begin again at zero
/// after the last (Linux `net/core/net-procfs.c`, `softnet_seq_show`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Softnet {
    /// Number of the CPU; `None` before Linux 5.10, where offline ones make counting the lines
    /// mislead.
    pub cpu: Option<u32>,
    /// Packets taken.
    pub processed: u32,
    /// Packets lost because the queue was full.
    pub dropped: u32,
    /// How often there was more to do than one softirq may do.
    pub squeezed: u32,
}

impl Softnet {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let mut hex = || u32::from_str_radix(words.next()?, 16).ok();
        Some(Self {
            processed: hex()?,
            dropped: hex()?,
            squeezed: hex()?,
            // The column after the ten of Linux 2.6.36 and the flow limit's and backlog's.
            cpu: words
                .nth(9)
                .map(|word| u32::from_str_radix(word, 16).ok())
                .map_or(Some(None), |cpu| cpu.map(Some))?,
        })
    }
}

/// Time lost for want of one resource, since boot (Linux `Documentation/accounting/psi.rst`,
/// "Pressure interface").
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pressure {
    /// Time in which somebody waited.
    pub some: Duration,
    /// Time in which everybody did; `None` where the kernel does not say, for CPUs before 5.13.
    pub full: Option<Duration>,
}

impl Pressure {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let total = |kind| {
            let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
            let total = line
                .split_ascii_whitespace()
                .find_map(|word| word.strip_prefix("total="));
            Some(total?.parse().ok().map(Duration::from_micros))
        };
        Some(Self {
            some: total("some ")??,
            full: match total("full ") {
                None => None,
                Some(total) => Some(total?),
            },
        })
    }
}

/// Who has the memory of the host (proc_meminfo(5)). `None` is what this kernel does not count.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Memory {
    /// All that the kernel manages.
    pub total_bytes: u64,
    /// Not used at all.
    pub free_bytes: u64,
    /// That programs could be given without swapping, as the kernel estimates.
    pub available_bytes: Option<u64>,
    /// Blocks of storage.
    pub buffers_bytes: u64,
    /// Files, and memory shared through them.
    pub cached_bytes: u64,
    /// Swapped out and still here.
    pub swap_cached_bytes: Option<u64>,
    /// Memory of programs.
    pub anon_pages_bytes: Option<u64>,
    /// Objects of the kernel.
    pub slab_bytes: Option<u64>,
    /// Those of them it could not give back.
    pub slab_unreclaimable_bytes: Option<u64>,
    /// Stacks of threads in the kernel.
    pub kernel_stack_bytes: Option<u64>,
    /// Page tables.
    pub page_tables_bytes: Option<u64>,
    /// Page tables of IOMMUs and virtual machines; since Linux 6.1.
    pub secondary_page_tables_bytes: Option<u64>,
    /// Memory that each CPU has for itself.
    pub percpu_bytes: Option<u64>,
    /// Mapped by the kernel piece by piece.
    pub vmalloc_bytes: Option<u64>,
    /// Huge pages set aside.
    pub hugetlb_bytes: Option<u64>,
    /// Locked by programs.
    pub locked_bytes: Option<u64>,
    /// That cannot be taken from whoever has it.
    pub unevictable_bytes: Option<u64>,
}

impl Memory {
    /// What none of these counters accounts for: pages that drivers took for themselves, and the
    /// errors of all the others. Its level means little (stacks of threads may count twice), its
    /// growth does. `None` where the kernel does not count enough.
    #[must_use]
    pub fn unaccounted_bytes(&self) -> Option<i64> {
        let accounted = [
            self.free_bytes,
            self.buffers_bytes,
            self.cached_bytes,
            self.swap_cached_bytes.unwrap_or(0),
            self.anon_pages_bytes?,
            self.slab_bytes?,
            self.kernel_stack_bytes?,
            self.page_tables_bytes?,
            // Kernels that do not count these count them nowhere.
            self.secondary_page_tables_bytes.unwrap_or(0),
            self.percpu_bytes.unwrap_or(0),
            self.vmalloc_bytes?,
            self.hugetlb_bytes.unwrap_or(0),
        ];
        let accounted: i128 = accounted.into_iter().map(i128::from).sum();
        i64::try_from(i128::from(self.total_bytes) - accounted).ok()
    }

    fn parse(text: &str) -> Option<Self> {
        let mut memory = Self::default();
        let (mut total, mut free, mut buffers, mut cached) = (None, None, None, None);
        for line in text.lines() {
            let (name, value) = line.split_once(':')?;
            let field = match name {
                "MemTotal" => &mut total,
                "MemFree" => &mut free,
                "Buffers" => &mut buffers,
                "Cached" => &mut cached,
                "MemAvailable" => &mut memory.available_bytes,
                "SwapCached" => &mut memory.swap_cached_bytes,
                "AnonPages" => &mut memory.anon_pages_bytes,
                "Slab" => &mut memory.slab_bytes,
                "SUnreclaim" => &mut memory.slab_unreclaimable_bytes,
                "KernelStack" => &mut memory.kernel_stack_bytes,
                "PageTables" => &mut memory.page_tables_bytes,
                "SecPageTables" => &mut memory.secondary_page_tables_bytes,
                "Percpu" => &mut memory.percpu_bytes,
                "VmallocUsed" => &mut memory.vmalloc_bytes,
                "Hugetlb" => &mut memory.hugetlb_bytes,
                "Mlocked" => &mut memory.locked_bytes,
                "Unevictable" => &mut memory.unevictable_bytes,
                _ => continue,
            };
            *field = Some(kibibytes(value)?);
        }
        Some(Self {
            total_bytes: total?,
            free_bytes: free?,
            buffers_bytes: buffers?,
            cached_bytes: cached?,
            ..memory
        })
    }
}

/// Reads `1732 kB`, which the kernel means as KiB.
pub(super) fn kibibytes(text: &str) -> Option<u64> {
    let kibibytes: u64 = text.trim().strip_suffix(" kB")?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// How often memory was short, since boot.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Shortages {
    /// Allocations that had to wait until memory was freed; `None` if no zone counts them.
    pub allocation_stalls: Option<u64>,
    /// Processes that were killed; `None` before Linux 4.13.
    pub oom_kills: Option<u64>,
}

impl Shortages {
    fn parse(text: &str) -> Option<Self> {
        let mut shortages = Self::default();
        // There are two hundred lines, all of one kind, of which these few are looked into.
        let (_, first) = text.lines().next()?.split_once(' ')?;
        let _: u64 = first.parse().ok()?;
        for line in text.lines() {
            if let Some(value) = line.strip_prefix("oom_kill ") {
                shortages.oom_kills = Some(value.parse().ok()?);
            } else if line.starts_with("allocstall") {
                // One counter per zone, and before Linux 4.8 one for all.
                let (_, value) = line.split_once(' ')?;
                let stalls: u64 = value.parse().ok()?;
                let sum = shortages.allocation_stalls.unwrap_or(0);
                shortages.allocation_stalls = Some(sum.saturating_add(stalls));
            }
        }
        Some(shortages)
    }
}

/// Who has the memory and how often it was short.
#[derive(Clone, Debug)]
struct MemorySeen {
    memory: Result<Memory, ProbeError>,
    shortages: Result<Shortages, ProbeError>,
}

/// Looks at the host.
#[derive(Debug)]
pub struct HostProbe {
    stat: TextFile,
    softnet: TextFile,
    cpu_pressure: TextFile,
    memory_pressure: TextFile,
    io_pressure: TextFile,
    own_schedule: TextFile,
    meminfo: TextFile,
    vmstat: TextFile,
    port_range: TextFile,
    /// What it was, and until when that is taken for granted.
    ports: Option<(Instant, Result<RangeInclusive<u16>, ProbeError>)>,
    /// What was seen of memory, likewise, as long as this is the pressure on it.
    memory: Option<(Instant, Pressure, MemorySeen)>,
    is_live: bool,
    buffer: Vec<u8>,
}

impl HostProbe {
    /// Looks under `root`: `/` is this host, anything else a captured tree.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        let file = |name| TextFile::new(root.join("proc").join(name));
        Self {
            stat: file("stat"),
            softnet: file("net/softnet_stat"),
            cpu_pressure: file("pressure/cpu"),
            memory_pressure: file("pressure/memory"),
            io_pressure: file("pressure/io"),
            own_schedule: file("self/schedstat"),
            meminfo: file("meminfo"),
            // A name and a number a line.
            vmstat: file("vmstat").with_records_up_to(128),
            port_range: file("sys/net/ipv4/ip_local_port_range"),
            ports: None,
            memory: None,
            is_live: root == Path::new("/"),
            buffer: Vec::new(),
        }
    }
}

impl HostProbe {
    fn ephemeral_ports(&mut self, now: Instant) -> Result<RangeInclusive<u16>, ProbeError> {
        if let Some((until, ports)) = &self.ports
            && now < *until
        {
            return ports.clone();
        }
        let ports = self
            .port_range
            .parse(&mut self.buffer, "a range of ports", |text| {
                let mut words = text.split_ascii_whitespace();
                Some(next(&mut words)?..=next(&mut words)?)
            });
        self.ports = Some((now.plus(PORTS_INTERVAL), ports.clone()));
        ports
    }

    /// Whoever has to wait for memory, or is killed for want of it, has waited first: while the
    /// `pressure` on it is what it was, there was no shortage, and who has it is of no hurry.
    fn memory(&mut self, pressure: Option<Pressure>, now: Instant) -> MemorySeen {
        if let Some((until, before, seen)) = &self.memory
            && now < *until
            && pressure == Some(*before)
        {
            return seen.clone();
        }
        let buffer = &mut self.buffer;
        let seen = MemorySeen {
            memory: self
                .meminfo
                .parse(buffer, "who has the memory", Memory::parse),
            shortages: self
                .vmstat
                .parse(buffer, "counters of memory", Shortages::parse),
        };
        let until = now.plus(MEMORY_INTERVAL);
        self.memory = pressure.map(|pressure| (until, pressure, seen.clone()));
        seen
    }
}

/// The second of three numbers, in nanoseconds.
fn parse_wait(text: &str) -> Option<Duration> {
    let mut words = text.split_ascii_whitespace();
    let (_ran, waited): (u64, u64) = (next(&mut words)?, next(&mut words)?);
    Some(Duration::from_nanos(waited))
}

impl Probe for HostProbe {
    type Subject = ();
    type Observation = Host;

    fn name(&self) -> &'static str {
        "host"
    }

    fn observe(&mut self, (): &(), now: Instant) -> Result<Host, ProbeError> {
        const PRESSURE: &str = "the pressure on a resource";
        let ephemeral_ports = self.ephemeral_ports(now);
        let memory_pressure =
            self.memory_pressure
                .parse(&mut self.buffer, PRESSURE, Pressure::parse);
        let MemorySeen { memory, shortages } =
            self.memory(memory_pressure.as_ref().ok().copied(), now);
        let buffer = &mut self.buffer;
        let cpu_pressure = self.cpu_pressure.parse(buffer, PRESSURE, Pressure::parse);
        let own_wait = match &cpu_pressure {
            Ok(_) => None,
            Err(_) => self
                .own_schedule
                .parse(buffer, "how a thread was scheduled", parse_wait)
                .ok(),
        };
        Ok(Host {
            cpus: self.stat.parse(buffer, "the times of CPUs", parse_cpus),
            softnet: self.softnet.parse(buffer, "what CPUs received", |text| {
                text.lines().map(Softnet::parse).collect()
            }),
            cpu_pressure,
            own_wait,
            memory_pressure,
            io_pressure: self.io_pressure.parse(buffer, PRESSURE, Pressure::parse),
            memory,
            shortages,
            ephemeral_ports,
            suspended: self.is_live.then(suspended),
        })
    }
}

/// The line of all CPUs together comes first and is passed over.
fn parse_cpus(text: &str) -> Option<Vec<CpuTimes>> {
    let cpus = text
        .lines()
        .take_while(|line| line.starts_with("cpu"))
        .skip(1)
        .map(CpuTimes::parse)
        .collect::<Option<Vec<_>>>()?;
    (!cpus.is_empty()).then_some(cpus)
}

fn suspended() -> Duration {
    // In this order, so that what passes between the two is not negative.
    let monotonic = Duration::try_from(clock_gettime(ClockId::Monotonic));
    let boot = Duration::try_from(clock_gettime(ClockId::Boottime));
    boot.unwrap_or_default()
        .saturating_sub(monotonic.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::tree::Tree;
    use super::*;

    fn look(tree: &Tree) -> Host {
        HostProbe::new(tree.root())
            .observe(&(), Instant::ORIGIN)
            .unwrap()
    }

    #[test]
    fn a_captured_host_is_read() {
        let host = look(&Tree::captured("host-6.18"));
        let cpus = host.cpus.unwrap();
        assert_eq!(cpus.len(), 2);
        assert_eq!(
            cpus[1],
            CpuTimes {
                cpu: 1,
                user_ticks: 1_510_208,
                nice_ticks: 37_726,
                system_ticks: 247_132,
                idle_ticks: 437_548,
                iowait_ticks: 21_762,
                irq_ticks: 17,
                softirq_ticks: 3013,
                steal_ticks: 2283,
            }
        );
        assert_eq!(cpus[1].total_ticks(), 2_259_689);
        assert_eq!(
            host.softnet.unwrap()[1],
            Softnet {
                cpu: Some(1),
                processed: 0x19d3e,
                dropped: 5,
                squeezed: 2,
            }
        );
        assert_eq!(
            host.cpu_pressure.unwrap(),
            Pressure {
                some: Duration::from_micros(12_165_249_710),
                full: Some(Duration::ZERO),
            }
        );
        assert_eq!(
            host.memory_pressure.unwrap().some,
            Duration::from_micros(41)
        );
        let memory = host.memory.unwrap();
        assert_eq!(memory.total_bytes, 24_684_096 << 10);
        assert_eq!(memory.secondary_page_tables_bytes, Some(0));
        assert_eq!(memory.slab_unreclaimable_bytes, Some(105_168 << 10));
        assert_eq!(memory.unaccounted_bytes(), Some(72_156 << 10));
        assert_eq!(
            host.shortages.unwrap(),
            Shortages {
                allocation_stalls: Some(82 + 2556),
                oom_kills: Some(0),
            }
        );
        assert_eq!(host.ephemeral_ports.unwrap(), 32_768..=60_999);
        assert_eq!(host.suspended, None, "a tree has no clock");
        assert_eq!(host.own_wait, None, "pressure says more");
    }

    #[test]
    fn where_no_pressure_is_told_our_own_wait_is_read() {
        let tree = Tree::captured("host-3.10");
        tree.write("proc/self/schedstat", "208278 901 3\n");
        let (then, second) = (Instant::ORIGIN, Duration::from_secs(1));
        let mut changes = crate::local_health::HostChanges::default();
        let before = look(&tree);
        assert_eq!(before.own_wait, Some(Duration::from_nanos(901)));
        assert_eq!(changes.look(Some(before), then), None);
        tree.write("proc/self/schedstat", "208278 250000901 3\n");
        let sample = changes.look(Some(look(&tree)), then.plus(second));
        assert_eq!(sample.unwrap().own_wait_share, Some(0.25));
        tree.write("proc/self/schedstat", "208278\n");
        assert_eq!(look(&tree).own_wait, None);
        let tree = Tree::captured("host-6.18");
        tree.write("proc/self/schedstat", "208278 901 3\n");
        assert_eq!(look(&tree).own_wait, None);
    }

    /// Linux 3.10: no pressure, no oom_kill, no column of CPU numbers, one allocstall.
    #[test]
    fn what_an_old_kernel_does_not_count_is_not_zero() {
        let host = look(&Tree::captured("host-3.10"));
        assert_eq!(host.cpu_pressure.unwrap_err().kind(), "absent");
        assert_eq!(host.own_wait, None);
        assert_eq!(
            host.shortages.unwrap(),
            Shortages {
                allocation_stalls: Some(31),
                oom_kills: None,
            }
        );
        assert_eq!(host.softnet.unwrap()[0].cpu, None);
        let memory = host.memory.unwrap();
        assert_eq!(memory.secondary_page_tables_bytes, None);
        assert_eq!(memory.available_bytes, None);
        assert!(memory.unaccounted_bytes().is_some());
        let cpus: Vec<_> = host.cpus.unwrap().iter().map(|cpu| cpu.cpu).collect();
        assert_eq!(cpus, [0, 2], "the one between is offline");
    }

    #[test]
    fn one_file_of_nonsense_leaves_the_others_seen() {
        let tree = Tree::captured("host-6.18");
        for (file, garbage) in [
            ("proc/stat", "cpu  1 2 3\ncpu0 1 2 x\n"),
            ("proc/vmstat", "oom_kill\n"),
            ("proc/pressure/io", "some avg10=0.00 total=-1\n"),
            ("proc/net/softnet_stat", "0 0\n"),
        ] {
            tree.write(file, garbage);
        }
        let host = look(&tree);
        assert_eq!(host.cpus.unwrap_err().kind(), "nonsense");
        assert_eq!(host.shortages.unwrap_err().kind(), "nonsense");
        assert_eq!(host.io_pressure.unwrap_err().kind(), "nonsense");
        assert_eq!(host.softnet.unwrap_err().kind(), "nonsense");
        host.memory.unwrap();
        host.memory_pressure.unwrap();
    }

    #[test]
    fn memory_is_seen_at_once_under_pressure_and_else_within_its_time() {
        const SECOND: Duration = Duration::from_secs(1);
        let tree = Tree::captured("host-6.18");
        let mut probe = HostProbe::new(tree.root());
        let mut seen_at = |seconds| {
            let host = probe.observe(&(), Instant::ORIGIN.plus(seconds * SECOND));
            let host = host.unwrap();
            let kills = host.shortages.unwrap().oom_kills;
            (kills, host.memory.unwrap().free_bytes / 1024)
        };
        let is_now = |kills, free| {
            tree.write("proc/vmstat", format!("oom_kill {kills}\n"));
            let text =
                format!("MemTotal: 99 kB\nMemFree: {free} kB\nBuffers: 0 kB\nCached: 0 kB\n");
            tree.write("proc/meminfo", text);
        };
        let pressed = |micros| {
            let text = format!("some total={micros}\nfull total=0\n");
            tree.write("proc/pressure/memory", &text);
        };
        pressed(7);
        is_now(1, 90);
        assert_eq!(seen_at(0), (Some(1), 90));
        is_now(2, 80);
        assert_eq!(seen_at(1), (Some(1), 90), "nobody waited for memory");
        pressed(8);
        assert_eq!(seen_at(2), (Some(2), 80));
        is_now(3, 70);
        assert_eq!(seen_at(6), (Some(2), 80));
        assert_eq!(seen_at(7), (Some(3), 70));
        is_now(4, 60);
        tree.write("proc/pressure/memory", "");
        let unknown = "whether anybody waited is not known";
        assert_eq!(seen_at(8), (Some(4), 60), "{unknown}");
    }

    #[test]
    fn memory_that_is_counted_twice_makes_the_rest_negative() {
        let text = "MemTotal: 8 kB\nMemFree: 4 kB\nBuffers: 0 kB\nCached: 0 kB\nAnonPages: 0 kB\n\
            Slab: 4 kB\nKernelStack: 1 kB\nPageTables: 0 kB\nVmallocUsed: 1 kB\n";
        let memory = Memory::parse(text).unwrap();
        assert_eq!(memory.unaccounted_bytes(), Some(-2048));
        let no_slab = text.replace("Slab: 4 kB\n", "");
        assert_eq!(Memory::parse(&no_slab).unwrap().unaccounted_bytes(), None);
    }

    #[test]
    fn this_host_is_read_and_its_counters_grow() {
        let mut probe = HostProbe::new(Path::new("/"));
        let mut look = || probe.observe(&(), Instant::ORIGIN).unwrap();
        let total =
            |host: Host| -> u64 { host.cpus.unwrap().iter().map(CpuTimes::total_ticks).sum() };
        let first = look();
        assert!(first.memory.as_ref().unwrap().total_bytes > 1 << 20);
        assert!(first.suspended.is_some());
        let first = total(first);
        while total(look()) == first {}
    }
}
