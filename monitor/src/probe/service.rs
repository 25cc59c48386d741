//! Looks at the process that serves a card to others: what it holds, and whether it gets to run.
//!
//! Who it is, is (pid, start time). The directory `/proc/PID` is opened once and belongs to the
//! process it was opened for: whoever gets the number later is not seen through it. What has ended
//! is absent.
//!
//! What other users' processes hold is for the privileged. Being denied that leaves the rest seen.
//!
//! Lists cost most when they are longest, in a process that leaks what is listed. So descriptors
//! are counted at each look, but told apart only every five seconds, and more rarely in proportion
//! when there are many. Sockets are looked up every thirty, and as long as they are the same every
//! two minutes: to list them the kernel walks its whole hash table, which takes milliseconds on a host
//! with much memory and no sockets at all. What its network has turned away is read with them.
//!
//! ```text
//! /proc/PID/fd:  3 -> socket:[50001]          /proc/PID/net/tcp:  0: 0100007F:1F90 ... 50001
//!                            \_____________________ is that inode ________________________/
//! ```

use super::file::{self, Directory, TextFile, bare};
use super::host::kibibytes;
use super::process::{DescriptorCount, OwnerId, Stat};
use super::{Probe, ProbeError};
use hwshim::clock::Instant;
use rustix::fs::{Dir, readlinkat};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Time between two looks at what the process holds, if that is little.
const HOLDINGS_INTERVAL: Duration = Duration::from_secs(5);
/// Descriptors that are told apart for each such interval.
const DESCRIPTORS_PER_INTERVAL: u64 = 4096;
/// Time between two looks at the tables of sockets, if they are short.
const SOCKETS_INTERVAL: Duration = Duration::from_secs(30);
/// The same, as long as the process has the same sockets as before: what it leaks are others. In which
/// states they are is for people to read, and may be as old as this.
const SAME_SOCKETS_INTERVAL: Duration = Duration::from_secs(120);
/// Bytes of them that are read for each such interval: about 10,000 sockets.
const TABLE_BYTES_PER_INTERVAL: u64 = 3 << 19;
/// Descriptors that are told apart at all.
const DESCRIPTORS_MAX: u64 = 1 << 16;
/// Longest table of sockets: about 400,000.
const TABLE_LEN_MAX: u64 = 64 << 20;

/// A living service.
#[derive(Debug)]
pub struct Service {
    /// Which process.
    pub id: OwnerId,
    /// State letter, e.g. `S` sleeping, `D` in uninterruptible sleep, `T` stopped
    /// (proc_pid_stat(5) field 3).
    pub state: char,
    /// Threads.
    pub threads: u64,
    /// Open descriptors.
    pub descriptor_count: Result<u64, ProbeError>,
    /// Its memory, and what the kernel holds for it.
    pub memory: Result<ServiceMemory, ProbeError>,
    /// What it holds, and when that was read.
    pub holdings: Arc<Holdings>,
}

/// Memory of a process (proc_pid_status(5)). `None` is what this kernel does not count, or what a
/// thread of the kernel does not have.
///
/// Its share of what it has in common with others (`Pss`) is read for who asks for it and at no look, as it
/// is dear ([`RollupProbe`](super::RollupProbe)). What it leaks is its own, and stands in `RssAnon`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ServiceMemory {
    /// In memory now (`VmRSS`).
    pub rss_bytes: Option<u64>,
    /// Of that, what is no file (`RssAnon`).
    pub rss_anon_bytes: Option<u64>,
    /// Pinned for devices (`VmPin`).
    pub pinned_bytes: Option<u64>,
    /// Locked (`VmLck`).
    pub locked_bytes: Option<u64>,
    /// Page tables (`VmPTE`).
    pub page_tables_bytes: Option<u64>,
    /// Swapped out (`VmSwap`).
    pub swapped_bytes: Option<u64>,
}

/// What a service holds, and how much it may.
#[derive(Debug)]
pub struct Holdings {
    /// When this was read.
    pub read_at: Instant,
    /// How much it may hold.
    pub limits: Result<ServiceLimits, ProbeError>,
    /// Its descriptors, by kind.
    pub descriptors: Result<Descriptors, ProbeError>,
    /// Its sockets, by state.
    pub sockets: Result<Sockets, ProbeError>,
    /// When these were read, and what follows.
    pub sockets_read_at: Instant,
    /// All sockets of its network namespace.
    pub network: Result<Network, ProbeError>,
    /// What its network namespace turned away.
    pub rejects: Result<NetworkRejects, ProbeError>,
}

/// Soft limits of a process (getrlimit(2)).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ServiceLimits {
    /// Descriptors (`RLIMIT_NOFILE`).
    pub descriptors: Limit,
    /// Locked memory in bytes (`RLIMIT_MEMLOCK`).
    pub locked_bytes: Limit,
    /// Threads of its user (`RLIMIT_NPROC`).
    pub threads: Limit,
}

/// A limit, or none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Limit {
    /// No more than this.
    At(u64),
    /// As much as there is.
    Unlimited,
}

/// Open descriptors by what they are. A file is told from a device by where it stands: to ask
/// itself what it is could block.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Descriptors {
    /// Sockets.
    pub sockets: u64,
    /// Ends of pipes.
    pub pipes: u64,
    /// Eventfds.
    pub eventfds: u64,
    /// Files and directories, also those that were deleted.
    pub files: u64,
    /// Below `/dev`.
    pub devices: u64,
    /// Everything else: epoll, timers, VFIO groups, ...
    pub other: u64,
    /// Open, but too many to tell what they are.
    pub untold: u64,
}

impl Descriptors {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        let Self {
            sockets,
            pipes,
            eventfds,
            files,
            devices,
            other,
            untold,
        } = *self;
        sockets + pipes + eventfds + files + devices + other + untold
    }
}

/// Sockets that a process has open. The sockets of connections it has closed belong to nobody and
/// are in [`Network`].
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Sockets {
    /// TCP sockets by state; states without a socket are not in it.
    pub tcp: BTreeMap<TcpState, u64>,
    /// UDP sockets.
    pub udp: u64,
    /// Everything else: Unix, netlink, and sockets of another network namespace.
    pub other: u64,
    /// Local TCP ports held, each once, ascending.
    pub tcp_ports: Vec<u16>,
    /// Local UDP ports held, each once, ascending.
    pub udp_ports: Vec<u16>,
    /// Where it listens, and how many connections wait there to be accepted.
    pub listening: Vec<Listening>,
}

/// A TCP socket that takes connections.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Listening {
    /// Its port.
    pub port: u16,
    /// Connections that wait to be accepted.
    pub queued: u64,
}

/// State of a TCP socket, as the kernel numbers them (Linux `include/net/tcp_states.h`).
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum TcpState {
    /// Connected.
    Established,
    /// Connecting.
    SynSent,
    /// Being connected to.
    SynReceived,
    /// Closed here.
    FinWait1,
    /// Closed here, which the peer knows.
    FinWait2,
    /// Closed on both sides, kept until nothing of it is under way any more.
    TimeWait,
    /// Closed, or not used yet.
    Closed,
    /// Closed by the peer, and not here: what a program shows that forgets to close.
    CloseWait,
    /// Closed by the peer and then here.
    LastAck,
    /// Taking connections.
    Listen,
    /// Closed on both sides at once.
    Closing,
}

impl TcpState {
    /// Its name, as ss(8) has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Established => "estab",
            Self::SynSent => "syn-sent",
            Self::SynReceived => "syn-recv",
            Self::FinWait1 => "fin-wait-1",
            Self::FinWait2 => "fin-wait-2",
            Self::TimeWait => "time-wait",
            Self::Closed => "unconn",
            Self::CloseWait => "close-wait",
            Self::LastAck => "last-ack",
            Self::Listen => "listen",
            Self::Closing => "closing",
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Established,
            2 => Self::SynSent,
            // 12 is a request for a connection that has no socket of its own yet.
            3 | 12 => Self::SynReceived,
            4 => Self::FinWait1,
            5 => Self::FinWait2,
            6 => Self::TimeWait,
            7 => Self::Closed,
            8 => Self::CloseWait,
            9 => Self::LastAck,
            10 => Self::Listen,
            11 => Self::Closing,
            _ => return None,
        })
    }
}

/// All sockets of a network namespace (`/proc/PID/net/sockstat`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Network {
    /// TCP sockets in use.
    pub tcp_in_use: u64,
    /// Closed by their program, and not yet by the peer.
    pub tcp_orphans: u64,
    /// Connections that are over, whose ports are not free yet.
    pub tcp_time_wait: u64,
    /// Memory of all TCP sockets of the host, in pages.
    pub tcp_memory_pages: u64,
}

/// What a network namespace turned away, since it began (`/proc/PID/net/netstat` and `snmp`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NetworkRejects {
    /// Connections that found a full accept queue (`ListenOverflows`).
    pub listen_overflows: u64,
    /// Connections turned away at a listening socket for whatever reason (`ListenDrops`).
    pub listen_drops: u64,
    /// UDP packets that found a full receive buffer (`RcvbufErrors`).
    pub udp_receive_buffer_errors: u64,
}

/// Looks at the process that serves a card.
#[derive(Debug)]
pub struct ServiceProbe {
    proc: PathBuf,
    followed: Option<Followed>,
    buffer: Vec<u8>,
}

impl ServiceProbe {
    /// Looks under `root`: `/` is this host, anything else a captured tree.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            proc: root.join("proc"),
            followed: None,
            buffer: Vec::new(),
        }
    }
}

impl Probe for ServiceProbe {
    type Subject = OwnerId;
    type Observation = Service;

    fn name(&self) -> &'static str {
        "service"
    }

    fn observe(&mut self, &id: &OwnerId, now: Instant) -> Result<Service, ProbeError> {
        let buffer = &mut self.buffer;
        let mut followed = match self.followed.take().filter(|known| known.id == id) {
            Some(known) => known,
            None => Followed::open(&self.proc, id, buffer)?,
        };
        // If this fails the process has ended, and is not followed any longer.
        let stat = followed.stat(buffer)?;
        let descriptor_count = followed.count_descriptors();
        let seen = Service {
            id,
            state: stat.state,
            threads: stat.threads,
            memory: followed
                .status
                .parse(buffer, "the status of a process", ServiceMemory::parse),
            holdings: followed.holdings(&descriptor_count, now, buffer),
            descriptor_count,
        };
        self.followed = Some(followed);
        Ok(seen)
    }
}

/// A process and its files.
#[derive(Debug)]
struct Followed {
    id: OwnerId,
    directory: Directory,
    descriptor_count: DescriptorCount,
    stat: TextFile,
    status: TextFile,
    limits: TextFile,
    tcp: [TextFile; 2],
    udp: [TextFile; 2],
    sockstat: TextFile,
    netstat: TextFile,
    snmp: TextFile,
    /// What it was seen to hold, and when to look again.
    holdings: Option<(Instant, Arc<Holdings>)>,
    /// When to look for its sockets again.
    sockets_again_at: Instant,
    /// The sockets that it had when they were looked for.
    known_inodes: Vec<u64>,
}

impl Followed {
    fn open(proc: &Path, id: OwnerId, buffer: &mut Vec<u8>) -> Result<Self, ProbeError> {
        let directory = Directory::open(&proc.join(id.pid.to_string()))?;
        let file = |name| directory.file(name);
        let mut followed = Self {
            id,
            stat: file("stat"),
            status: file("status"),
            limits: file("limits"),
            tcp: [file("net/tcp"), file("net/tcp6")],
            udp: [file("net/udp"), file("net/udp6")],
            sockstat: file("net/sockstat"),
            netstat: file("net/netstat"),
            snmp: file("net/snmp"),
            holdings: None,
            sockets_again_at: Instant::ORIGIN,
            known_inodes: Vec::new(),
            descriptor_count: DescriptorCount::default(),
            directory,
        };
        if followed.stat(buffer)?.start_time_ticks == id.start_time_ticks {
            Ok(followed)
        } else {
            Err(absent(id, "another process has that number"))
        }
    }

    fn stat(&mut self, buffer: &mut Vec<u8>) -> Result<Stat, ProbeError> {
        let stat = self
            .stat
            .parse(buffer, "the status of a process", Stat::parse)?;
        match stat.state {
            'Z' | 'X' => Err(absent(self.id, "it has ended")),
            _ => Ok(stat),
        }
    }

    fn count_descriptors(&mut self) -> Result<u64, ProbeError> {
        let Self {
            directory,
            descriptor_count,
            ..
        } = self;
        let failed = |errno| file::error(&directory.path().join("fd"), errno);
        descriptor_count.count(|| directory.list("fd"), failed)
    }

    fn holdings(
        &mut self,
        count: &Result<u64, ProbeError>,
        now: Instant,
        buffer: &mut Vec<u8>,
    ) -> Arc<Holdings> {
        let last = match self.holdings.take() {
            Some((again_at, holdings)) if now < again_at => {
                self.holdings = Some((again_at, Arc::clone(&holdings)));
                return holdings;
            }
            last => last.map(|(_, holdings)| holdings),
        };
        let (descriptors, inodes) = match self.tell_descriptors() {
            Ok((descriptors, inodes)) => (Ok(descriptors), Ok(inodes)),
            // Without them nobody knows whose the sockets are.
            Err(error) => (Err(error.clone()), Err(error)),
        };
        let network = match last {
            Some(last) if now < self.sockets_due_at(&inodes, last.sockets_read_at) => {
                SocketsSeen::again(&last)
            }
            _ => self.look_at_sockets(inodes, now, buffer),
        };
        let holdings = Arc::new(Holdings {
            read_at: now,
            limits: self
                .limits
                .parse(buffer, "the limits of a process", ServiceLimits::parse),
            descriptors,
            sockets: network.sockets,
            sockets_read_at: network.read_at,
            network: network.network,
            rejects: network.rejects,
        });
        let count = *count.as_ref().unwrap_or(&0);
        let again_at = now.plus(stretched(
            HOLDINGS_INTERVAL,
            count,
            DESCRIPTORS_PER_INTERVAL,
        ));
        self.holdings = Some((again_at, Arc::clone(&holdings)));
        holdings
    }

    /// When to look for its sockets again, of which these are there now.
    fn sockets_due_at(&self, inodes: &Result<Vec<u64>, ProbeError>, read_at: Instant) -> Instant {
        let are_known = inodes.as_ref().is_ok_and(|it| *it == self.known_inodes);
        let same_again_at = read_at.plus(SAME_SOCKETS_INTERVAL);
        match are_known {
            true => self.sockets_again_at.max(same_again_at),
            false => self.sockets_again_at,
        }
    }

    fn look_at_sockets(
        &mut self,
        inodes: Result<Vec<u64>, ProbeError>,
        now: Instant,
        buffer: &mut Vec<u8>,
    ) -> SocketsSeen {
        let sockets = match inodes {
            Ok(inodes) => {
                self.sockets_again_at = now.plus(SOCKETS_INTERVAL);
                let sockets = self.sockets(&inodes, now, buffer);
                // What could not be read is not known to be the same.
                self.known_inodes = if sockets.is_ok() { inodes } else { Vec::new() };
                sockets
            }
            Err(error) => Err(error),
        };
        SocketsSeen {
            read_at: now,
            sockets,
            network: self
                .sockstat
                .parse(buffer, "totals of sockets", Network::parse),
            rejects: self.rejects(buffer),
        }
    }

    /// Tells what the descriptors are, and gives the inodes of the sockets.
    fn tell_descriptors(&self) -> Result<(Descriptors, Vec<u64>), ProbeError> {
        let (list, path) = (self.directory.list("fd")?, self.directory.path().join("fd"));
        let mut told = Descriptors::default();
        let mut inodes = Vec::new();
        entries(list, &path, |list, name| {
            if told.total() >= DESCRIPTORS_MAX {
                told.untold += 1;
                return;
            }
            // One that was closed meanwhile is none.
            let Ok(target) = readlinkat(list, name, Vec::new()) else {
                return;
            };
            let target = String::from_utf8_lossy(target.as_bytes()).into_owned();
            inodes.extend(told.tell(&target));
        })?;
        inodes.sort_unstable();
        Ok((told, inodes))
    }

    fn sockets(
        &mut self,
        inodes: &[u64],
        now: Instant,
        buffer: &mut Vec<u8>,
    ) -> Result<Sockets, ProbeError> {
        let mut sockets = Sockets::default();
        if inodes.is_empty() {
            return Ok(sockets);
        }
        let (mut found, mut table_bytes) = (0, 0);
        let Self { tcp, udp, .. } = self;
        for table in tcp {
            table_bytes += read_table(table, buffer, |row| {
                if inodes.binary_search(&row.inode).is_ok() {
                    found += 1;
                    sockets.take_tcp(row)?;
                }
                Some(())
            })?;
        }
        for table in udp {
            table_bytes += read_table(table, buffer, |row| {
                if inodes.binary_search(&row.inode).is_ok() {
                    found += 1;
                    sockets.udp += 1;
                    sockets.udp_ports.push(row.local_port);
                }
                Some(())
            })?;
        }
        self.sockets_again_at = now.plus(stretched(
            SOCKETS_INTERVAL,
            table_bytes,
            TABLE_BYTES_PER_INTERVAL,
        ));
        // A socket can be listed twice if the table changed while it was read.
        let all = u64::try_from(inodes.len()).unwrap_or(u64::MAX);
        sockets.other = all.saturating_sub(found);
        for ports in [&mut sockets.tcp_ports, &mut sockets.udp_ports] {
            ports.sort_unstable();
            ports.dedup();
        }
        Ok(sockets)
    }

    fn rejects(&mut self, buffer: &mut Vec<u8>) -> Result<NetworkRejects, ProbeError> {
        let [overflows, drops] =
            self.netstat
                .parse(buffer, "statistics of the network", |text| {
                    counters(text, "TcpExt:", ["ListenOverflows", "ListenDrops"])
                })?;
        let [udp] = self
            .snmp
            .parse(buffer, "statistics of the network", |text| {
                counters(text, "Udp:", ["RcvbufErrors"])
            })?;
        Ok(NetworkRejects {
            listen_overflows: overflows,
            listen_drops: drops,
            udp_receive_buffer_errors: udp,
        })
    }
}

impl ServiceMemory {
    fn parse(text: &str) -> Option<Self> {
        let mut memory = Self::default();
        let mut is_status = false;
        for line in text.lines() {
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            let field = match name {
                "Pid" => {
                    is_status = true;
                    continue;
                }
                "VmRSS" => &mut memory.rss_bytes,
                "RssAnon" => &mut memory.rss_anon_bytes,
                "VmPin" => &mut memory.pinned_bytes,
                "VmLck" => &mut memory.locked_bytes,
                "VmPTE" => &mut memory.page_tables_bytes,
                "VmSwap" => &mut memory.swapped_bytes,
                _ => continue,
            };
            *field = Some(kibibytes(value)?);
        }
        is_status.then_some(memory)
    }
}

impl ServiceLimits {
    fn parse(text: &str) -> Option<Self> {
        let soft = |name| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            match line.split_ascii_whitespace().next()? {
                "unlimited" => Some(Limit::Unlimited),
                number => number.parse().ok().map(Limit::At),
            }
        };
        Some(Self {
            descriptors: soft("Max open files ")?,
            locked_bytes: soft("Max locked memory ")?,
            threads: soft("Max processes ")?,
        })
    }
}

impl Descriptors {
    /// Counts one by what its link says, and returns the inode if it is a socket.
    fn tell(&mut self, target: &str) -> Option<u64> {
        let kind = match target {
            "anon_inode:[eventfd]" => &mut self.eventfds,
            _ if target.starts_with("socket:[") => &mut self.sockets,
            _ if target.starts_with("pipe:[") => &mut self.pipes,
            // Shared memory is files.
            _ if target.starts_with("/dev/shm/") => &mut self.files,
            _ if target.starts_with("/dev/") => &mut self.devices,
            _ if target.starts_with('/') => &mut self.files,
            _ => &mut self.other,
        };
        *kind += 1;
        target
            .strip_prefix("socket:[")?
            .strip_suffix(']')?
            .parse()
            .ok()
    }
}

impl Sockets {
    fn take_tcp(&mut self, row: Row) -> Option<()> {
        let state = TcpState::from_code(row.state)?;
        *self.tcp.entry(state).or_default() += 1;
        self.tcp_ports.push(row.local_port);
        if state == TcpState::Listen {
            self.listening.push(Listening {
                port: row.local_port,
                queued: row.receive_queue,
            });
        }
        Some(())
    }
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.strip_prefix("TCP: "))?;
        let value = |name| {
            let mut words = line.split_ascii_whitespace();
            words.find(|word| *word == name)?;
            file::next(&mut words)
        };
        Some(Self {
            tcp_in_use: value("inuse")?,
            tcp_orphans: value("orphan")?,
            tcp_time_wait: value("tw")?,
            tcp_memory_pages: value("mem")?,
        })
    }
}

/// What is looked at with the sockets.
struct SocketsSeen {
    read_at: Instant,
    sockets: Result<Sockets, ProbeError>,
    network: Result<Network, ProbeError>,
    rejects: Result<NetworkRejects, ProbeError>,
}

impl SocketsSeen {
    /// What was seen before.
    fn again(last: &Holdings) -> Self {
        Self {
            read_at: last.sockets_read_at,
            sockets: last.sockets.clone(),
            network: last.network.clone(),
            rejects: last.rejects.clone(),
        }
    }
}

/// One socket of a table (proc_pid_net(5), "tcp").
#[derive(Clone, Copy, Debug)]
struct Row {
    local_port: u16,
    state: u8,
    /// Of a listening TCP socket: connections that wait.
    receive_queue: u64,
    /// 0 if it belongs to no descriptor any more.
    inode: u64,
}

impl Row {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace().skip(1);
        let local = words.next()?;
        let state = words.nth(1)?;
        let queues = words.next()?;
        let inode = words.nth(4)?;
        Some(Self {
            local_port: u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?,
            state: u8::from_str_radix(state, 16).ok()?,
            receive_queue: u64::from_str_radix(queues.split_once(':')?.1, 16).ok()?,
            inode: inode.parse().ok()?,
        })
    }
}

/// An interval, once more for each `share` of an `amount` that took time to read.
fn stretched(interval: Duration, amount: u64, share: u64) -> Duration {
    let times = u32::try_from(1 + amount / share).unwrap_or(u32::MAX);
    interval.saturating_mul(times)
}

/// Reads a table of sockets and returns how long it was. One that this kernel does not have, for
/// want of IPv6, is empty.
fn read_table(
    table: &mut TextFile,
    buffer: &mut Vec<u8>,
    mut take: impl FnMut(Row) -> Option<()>,
) -> Result<u64, ProbeError> {
    let mut is_header = true;
    let read = table.lines(buffer, TABLE_LEN_MAX, "a table of sockets", |line| {
        if std::mem::replace(&mut is_header, false) {
            return bare(line).starts_with("sl").then_some(());
        }
        take(Row::parse(line)?)
    });
    match read {
        Err(ProbeError::Absent { .. }) if table.path().to_string_lossy().ends_with('6') => Ok(0),
        read => read,
    }
}

/// Finds counters in pairs of lines, names above values, as `netstat` and `snmp` have them.
fn counters<const N: usize>(text: &str, group: &str, wanted: [&str; N]) -> Option<[u64; N]> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(group));
    let (names, values) = (lines.next()?, lines.next()?);
    let mut found = [None; N];
    for (name, value) in names
        .split_ascii_whitespace()
        .zip(values.split_ascii_whitespace())
    {
        if let Some(index) = wanted.iter().position(|wanted| *wanted == name) {
            found[index] = value.parse().ok();
        }
    }
    let mut counters = [0; N];
    for (counter, found) in counters.iter_mut().zip(found) {
        *counter = found?;
    }
    Some(counters)
}

/// Calls `each` with the directory and the name of each entry.
fn entries(
    directory: OwnedFd,
    path: &Path,
    mut each: impl FnMut(&OwnedFd, &std::ffi::CStr),
) -> Result<(), ProbeError> {
    let failed = |errno: Errno| file::error(path, errno);
    for entry in Dir::read_from(directory.as_fd()).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !entry.file_name().to_bytes().starts_with(b".") {
            each(&directory, entry.file_name());
        }
    }
    Ok(())
}

/// What a look for a process ends with that is not there.
pub(super) fn absent(id: OwnerId, why: &str) -> ProbeError {
    ProbeError::Absent {
        what: format!(
            "process {} started at tick {} ({why})",
            id.pid, id.start_time_ticks
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::Tree;
    use super::*;
    use std::fs;
    use std::io::{BufRead, BufReader, Write};
    use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
    use std::process::{Child, Command, Stdio};

    const ID: OwnerId = OwnerId {
        pid: 4321,
        start_time_ticks: 987_654,
    };

    fn at(seconds: u64) -> Instant {
        Instant::ORIGIN.plus(Duration::from_secs(seconds))
    }

    fn look(tree: &Tree) -> Result<Service, ProbeError> {
        ServiceProbe::new(tree.root()).observe(&ID, at(0))
    }

    #[test]
    fn a_captured_service_is_read() {
        let service = look(&Tree::captured("host-6.18")).unwrap();
        assert_eq!((service.state, service.threads), ('S', 7));
        assert_eq!(service.descriptor_count.unwrap(), 14);
        assert_eq!(
            service.memory.unwrap(),
            ServiceMemory {
                rss_bytes: Some(1732 << 10),
                rss_anon_bytes: Some(116 << 10),
                pinned_bytes: Some(2048 << 10),
                locked_bytes: Some(64 << 10),
                page_tables_bytes: Some(48 << 10),
                swapped_bytes: Some(8 << 10),
            }
        );
        let limits = *service.holdings.limits.as_ref().unwrap();
        assert_eq!(limits.descriptors, Limit::At(1024), "the soft one");
        assert_eq!(limits.locked_bytes, Limit::Unlimited);
        assert_eq!(limits.threads, Limit::At(96_365));
    }

    #[test]
    fn descriptors_are_told_apart_and_sockets_are_found_in_the_tables() {
        let service = look(&Tree::captured("host-6.18")).unwrap();
        let descriptors = *service.holdings.descriptors.as_ref().unwrap();
        assert_eq!(
            descriptors,
            Descriptors {
                sockets: 6,
                pipes: 1,
                eventfds: 1,
                files: 3,
                devices: 2,
                other: 1,
                untold: 0,
            }
        );
        assert_eq!(descriptors.total(), 14);
        let sockets = service.holdings.sockets.as_ref().unwrap();
        let tcp: Vec<_> = sockets
            .tcp
            .iter()
            .map(|(&state, &count)| (state, count))
            .collect();
        assert_eq!(
            tcp,
            [
                (TcpState::Established, 1),
                (TcpState::CloseWait, 1),
                (TcpState::Listen, 2)
            ]
        );
        assert_eq!((sockets.udp, sockets.other), (1, 1));
        assert_eq!(sockets.tcp_ports, [9000, 9001, 54_001]);
        assert_eq!(sockets.udp_ports, [9001]);
        assert_eq!(
            sockets.listening,
            [
                Listening {
                    port: 9000,
                    queued: 3
                },
                Listening {
                    port: 9001,
                    queued: 0
                }
            ]
        );
        let network = *service.holdings.network.as_ref().unwrap();
        assert_eq!((network.tcp_time_wait, network.tcp_orphans), (6, 1));
        assert_eq!(
            *service.holdings.rejects.as_ref().unwrap(),
            NetworkRejects {
                listen_overflows: 17,
                listen_drops: 19,
                udp_receive_buffer_errors: 23,
            }
        );
    }

    #[test]
    fn a_number_used_again_and_a_zombie_are_absent() {
        let tree = Tree::captured("host-6.18");
        let mut probe = ServiceProbe::new(tree.root());
        let other = OwnerId {
            start_time_ticks: 1,
            ..ID
        };
        let error = probe.observe(&other, at(0)).unwrap_err();
        assert_eq!(error.kind(), "absent");
        assert!(error.to_string().contains("another process"), "{error}");
        let stat = fs::read_to_string(tree.root().join("proc/4321/stat")).unwrap();
        tree.write("proc/4321/stat", stat.replace(") S ", ") Z "));
        assert_eq!(probe.observe(&ID, at(1)).unwrap_err().kind(), "absent");
    }

    #[test]
    fn what_is_missing_or_nonsense_leaves_the_rest_seen() {
        let tree = Tree::captured("host-6.18");
        tree.remove("proc/4321/fd");
        tree.remove("proc/4321/net/snmp");
        tree.write("proc/4321/limits", "Max open files lots\n");
        let service = look(&tree).unwrap();
        assert_eq!(service.descriptor_count.unwrap_err().kind(), "absent");
        let kind = |error: Option<&ProbeError>| error.unwrap().kind();
        let holdings = service.holdings;
        assert_eq!(kind(holdings.descriptors.as_ref().err()), "absent");
        assert_eq!(kind(holdings.sockets.as_ref().err()), "absent");
        assert_eq!(kind(holdings.rejects.as_ref().err()), "absent");
        assert_eq!(kind(holdings.limits.as_ref().err()), "nonsense");
        holdings.network.as_ref().unwrap();
        service.memory.unwrap();
    }

    #[test]
    fn a_host_without_ipv6_has_no_such_sockets_and_a_table_of_nonsense_is_no_table() {
        let tree = Tree::captured("host-6.18");
        tree.remove("proc/4321/net/tcp6");
        let service = look(&tree).unwrap();
        let sockets = service.holdings.sockets.as_ref().unwrap();
        assert_eq!(sockets.tcp[&TcpState::Listen], 1);
        assert_eq!(sockets.other, 2, "it cannot be found in any table");
        tree.write("proc/4321/net/tcp", "  sl  local_address\n 0: x y z\n");
        let error = look(&tree)
            .unwrap()
            .holdings
            .sockets
            .as_ref()
            .unwrap_err()
            .kind();
        assert_eq!(error, "nonsense");
    }

    #[test]
    fn holdings_are_looked_at_again_the_more_rarely_the_more_there_is() {
        let tree = Tree::captured("host-6.18");
        let mut probe = ServiceProbe::new(tree.root());
        let mut read_at = |seconds| {
            let holdings = probe.observe(&ID, at(seconds)).unwrap().holdings;
            (holdings.read_at, holdings.sockets_read_at)
        };
        assert_eq!(read_at(0), (at(0), at(0)));
        assert_eq!(read_at(4), (at(0), at(0)));
        assert_eq!(read_at(5), (at(5), at(0)));
        // The same sockets are there, and then one more.
        assert_eq!(read_at(119), (at(119), at(0)));
        assert_eq!(read_at(124), (at(124), at(124)));
        tree.link("proc/4321/fd/99", "socket:[777]");
        assert_eq!(read_at(153), (at(153), at(124)));
        assert_eq!(read_at(158), (at(158), at(158)));
        tree.link("proc/4321/fd/98", "socket:[778]");
        let tcp = fs::read_to_string(tree.root().join("proc/4321/net/tcp")).unwrap();
        let row = tcp.lines().last().unwrap();
        let rows = format!("{row}\n").repeat(12_000);
        tree.write("proc/4321/net/tcp", tcp.clone() + &rows);
        // 12,000 rows of 150 bytes are more than is read in an interval.
        assert_eq!(read_at(188), (at(188), at(188)));
        tree.link("proc/4321/fd/97", "socket:[779]");
        assert_eq!(read_at(247), (at(247), at(188)));
        assert_eq!(read_at(252), (at(252), at(252)));
    }

    /// A process that lives until its standard input ends, and is past its own start.
    struct Shell(Child, OwnerId);

    impl Shell {
        fn run(script: &str) -> Self {
            let mut child = Command::new("sh")
                .args(["-c", script])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut line = String::new();
            BufReader::new(child.stdout.as_mut().unwrap())
                .read_line(&mut line)
                .unwrap();
            assert_eq!(line, "ready\n");
            let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
            let id = OwnerId {
                pid: child.id(),
                start_time_ticks: Stat::parse(&stat).unwrap().start_time_ticks,
            };
            Self(child, id)
        }
    }

    impl Drop for Shell {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_living_process_shows_its_descriptors_and_limits_until_it_ends() {
        let mut shell = Shell::run(
            "exec 5</dev/null 6</dev/zero 7</proc/version; ulimit -n 77; echo ready; read line",
        );
        let mut probe = ServiceProbe::new(Path::new("/"));
        let service = probe.observe(&shell.1, at(0)).unwrap();
        let told = *service.holdings.descriptors.as_ref().unwrap();
        assert_eq!(service.descriptor_count.unwrap(), told.total());
        assert_eq!(service.threads, 1);
        assert!(
            told.devices >= 2 && told.files >= 1 && told.pipes >= 2,
            "{told:?}"
        );
        let limits = *service.holdings.limits.as_ref().unwrap();
        assert_eq!(limits.descriptors, Limit::At(77));
        assert!(service.memory.unwrap().rss_bytes.unwrap() > 100_000);

        shell.0.kill().unwrap();
        shell.0.wait().unwrap();
        assert_eq!(
            probe.observe(&shell.1, at(10)).unwrap_err().kind(),
            "absent"
        );
    }

    /// The sockets, threads and locked memory of this test process itself; other tests of it may
    /// hold more at the same time, but not less.
    #[test]
    fn this_process_shows_its_sockets_threads_and_locked_memory() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut waiting = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        waiting.write_all(b"x").unwrap();
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let idle = std::thread::spawn(move || stopped.recv());

        let id = OwnerId::of_this_process().unwrap();
        let service = ServiceProbe::new(Path::new("/"))
            .observe(&id, at(0))
            .unwrap();
        assert!(service.threads >= 2);
        assert!(service.memory.unwrap().locked_bytes.is_some());
        let sockets = service.holdings.sockets.as_ref().unwrap();
        let listening = sockets.listening.iter().find(|one| one.port == port);
        assert_eq!(listening.unwrap().queued, 1, "nobody has accepted");
        assert!(sockets.tcp[&TcpState::Established] >= 1);
        assert!(sockets.tcp_ports.contains(&port));
        assert!(
            sockets
                .udp_ports
                .contains(&udp.local_addr().unwrap().port())
        );
        drop(stop);
        let _ = idle.join();
    }
}
