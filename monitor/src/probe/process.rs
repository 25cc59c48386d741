//! Looks at the process that owns a card.
//!
//! Identity (start time), state, threads and processor time come from `/proc/PID/stat`, descriptors
//! from `/proc/PID/fd`, both under the root directory; memory from `sysinfo`, which can look at this
//! host only.
//!
//! A process ID is used again after its process has ended. The descriptor of `stat` is kept from
//! look to look and belongs to the process it was opened on: once that has ended it answers
//! `ESRCH`, whoever has the number by then. Opening compares the start time with the page's.
//!
//! ```text
//!              opened, start time as in the page
//!   not seen ------------------------------------> seen alive ---> ended
//!      |                                            every look      ESRCH, or a zombie
//!      +--> absent: no such process, or another one under that number
//! ```

use super::{Probe, ProbeError};
use card_spec::telemetry::Page;
use hwshim::clock::Instant;
use rustix::fs::{Dir, Mode, OFlags, fstat, open};
use rustix::io::{Errno, pread};
use rustix::param::clock_ticks_per_second;
use rustix::process::test_kill_process;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// `f_type` of a mounted `/proc` (`PROC_SUPER_MAGIC`, statfs(2)).
const PROC_MAGIC: u64 = 0x9fa0;
/// Longest `stat` line that can be: 52 numbers of 20 digits and a name of 64 bytes.
const STAT_LEN_MAX: usize = 2048;
/// Time between two readings of memory. They take more than all the rest of a look together, and what
/// they are for, leaks, shows over minutes.
const MEMORY_INTERVAL: Duration = Duration::from_secs(10);

/// Which process: its number, and when it started so that the number cannot mislead.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OwnerId {
    /// Process ID.
    pub pid: u32,
    /// Start time in clock ticks since boot (`/proc/PID/stat` field 22).
    pub start_time_ticks: u64,
}

impl OwnerId {
    /// This very process, to watch what watching costs.
    #[must_use]
    pub fn of_this_process() -> Option<Self> {
        // It stays who it is, and is asked for at each poll.
        static FOUND: OnceLock<OwnerId> = OnceLock::new();
        if let Some(found) = FOUND.get() {
            return Some(*found);
        }
        let found = Self::of_process(std::process::id())?;
        Some(*FOUND.get_or_init(|| found))
    }

    /// Whatever process of this host has that number now.
    pub(crate) fn of_process(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(Self {
            pid,
            start_time_ticks: Stat::parse(&stat)?.start_time_ticks,
        })
    }

    /// Whether it is known to have ended, or to have only its parent to wait for. Seen from another PID
    /// namespace it seems so, too.
    #[must_use]
    pub fn has_ended(self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok();
        match stat.as_deref().and_then(Stat::parse) {
            Some(stat) => {
                stat.start_time_ticks != self.start_time_ticks || matches!(stat.state, 'Z' | 'X')
            }
            // It may be there and not be shown to this user (`hidepid`, proc(5)).
            None => {
                let pid = i32::try_from(self.pid).ok();
                let pid = pid.and_then(rustix::process::Pid::from_raw);
                pid.is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH))
            }
        }
    }

    /// The owner a page names, if it names one that can be.
    #[must_use]
    pub fn of(page: &Page) -> Option<Self> {
        let pid = u32::try_from(page.owner.pid.get()).ok()?;
        (pid != 0).then_some(Self {
            pid,
            start_time_ticks: page.owner.start_time_ticks.get(),
        })
    }
}

/// What became of an owner.
#[derive(Clone, Debug, PartialEq)]
pub enum Owner {
    /// It runs.
    Alive(Process),
    /// It was seen alive and has ended since, or is a zombie.
    Ended,
}

/// A living process.
#[derive(Clone, Debug, PartialEq)]
pub struct Process {
    /// Which.
    pub id: OwnerId,
    /// State letter, e.g. `S` sleeping, `R` running, `D` in uninterruptible sleep, `T` stopped
    /// (proc_pid_stat(5) field 3).
    pub state: char,
    /// Threads.
    pub threads: u64,
    /// Open descriptors; `None` if this user may not count them.
    pub fds: Option<u64>,
    /// Processor time since it started, user and system.
    pub cpu_time: Duration,
    /// Resident memory, as read within the last seconds; `None` if it could not be read, or in a
    /// captured tree.
    pub rss_bytes: Option<u64>,
}

impl Process {
    /// Whether a signal has stopped it, or a debugger.
    #[must_use]
    pub const fn is_stopped(&self) -> bool {
        matches!(self.state, 'T' | 't')
    }
}

/// Looks at the process that owns a card.
#[derive(Debug)]
pub struct ProcessProbe {
    proc: PathBuf,
    /// `None` when `proc` is a captured tree.
    system: Option<System>,
    followed: Option<Followed>,
}

#[derive(Debug)]
struct Followed {
    id: OwnerId,
    stat: OwnedFd,
    path: PathBuf,
    descriptors: DescriptorCount,
    /// Its memory, and when that was read.
    rss_bytes: Option<(Instant, u64)>,
}

impl ProcessProbe {
    /// Looks under `root`: `/` is this host, anything else a captured tree.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            proc: root.join("proc"),
            system: (root == Path::new("/"))
                .then(System::new)
                .and_then(Result::ok),
            followed: None,
        }
    }

    /// Opens the process that `id` names, or says that there is none such.
    fn follow(&mut self, id: OwnerId) -> Result<Stat, ProbeError> {
        let path = self.proc.join(id.pid.to_string()).join("stat");
        let stat = match open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(stat) => stat,
            Err(Errno::NOENT | Errno::SRCH) => return Err(absent(id, "no process")),
            Err(errno) => return Err(unreadable(&path, errno.into())),
        };
        let now = read_stat(&stat, &path)?.ok_or_else(|| absent(id, "no process"))?;
        if now.start_time_ticks != id.start_time_ticks {
            return Err(absent(id, "another process"));
        }
        self.followed = Some(Followed {
            id,
            stat,
            path,
            descriptors: DescriptorCount::default(),
            rss_bytes: None,
        });
        Ok(now)
    }

    /// Resident memory, read anew if that is due.
    fn rss_bytes(&mut self, pid: u32, now: Instant) -> Option<u64> {
        let followed = self.followed.as_mut()?;
        match followed.rss_bytes {
            Some((at, rss_bytes)) if now.since(at) < MEMORY_INTERVAL => Some(rss_bytes),
            _ => {
                let rss_bytes = read_rss(self.system.as_mut()?, pid);
                followed.rss_bytes = rss_bytes.map(|it| (now, it));
                rss_bytes
            }
        }
    }
}

impl Probe for ProcessProbe {
    type Subject = OwnerId;
    type Observation = Owner;

    fn name(&self) -> &'static str {
        "process"
    }

    fn observe(&mut self, &id: &OwnerId, now: Instant) -> Result<Owner, ProbeError> {
        if self.followed.as_ref().is_none_or(|known| known.id != id) {
            self.followed = None;
            self.follow(id)?;
        }
        let rss_bytes = self.rss_bytes(id.pid, now);
        let known = self
            .followed
            .as_mut()
            .expect("followed above, or the look has ended there");
        let directory = self.proc.join(id.pid.to_string()).join("fd");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = || open(&directory, flags, Mode::empty());
        let fds = known.descriptors.count(opened, |errno| errno).ok();
        // Read last: if the process is alive now, its number was its own all the while, and what
        // was read through that number above is of this process.
        match read_stat(&known.stat, &known.path)? {
            Some(stat) if !matches!(stat.state, 'Z' | 'X') => Ok(Owner::Alive(Process {
                id,
                state: stat.state,
                threads: stat.threads,
                fds,
                cpu_time: Duration::from_secs(stat.cpu_ticks) / ticks_per_second(),
                rss_bytes,
            })),
            _ => Ok(Owner::Ended),
        }
    }
}

/// What is wanted of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Stat {
    pub(super) state: char,
    pub(super) threads: u64,
    /// Processor time, user and system.
    pub(super) cpu_ticks: u64,
    pub(super) start_time_ticks: u64,
}

impl Stat {
    /// Reads the fields after the name. The name may hold blanks and parentheses, so they start
    /// after the last `)`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (_, fields) = text.rsplit_once(')')?;
        let mut fields = fields.split_ascii_whitespace();
        // Fields 3, 14, 15, 20 and 22 of proc_pid_stat(5); `nth` counts on from the one before.
        let state = fields.next()?.chars().next()?;
        let user: u64 = fields.nth(10)?.parse().ok()?;
        let system: u64 = fields.next()?.parse().ok()?;
        let threads = fields.nth(4)?.parse().ok()?;
        let start_time_ticks = fields.nth(1)?.parse().ok()?;
        Some(Self {
            state,
            threads,
            cpu_ticks: user.saturating_add(system),
            start_time_ticks,
        })
    }
}

/// Reads an open `stat`, or `None` if its process has ended.
fn read_stat(stat: &OwnedFd, path: &Path) -> Result<Option<Stat>, ProbeError> {
    let mut buffer = [0; STAT_LEN_MAX];
    let len = loop {
        match pread(stat, &mut buffer, 0) {
            Ok(len) => break len,
            Err(Errno::INTR) => {}
            Err(Errno::SRCH) => return Ok(None),
            Err(errno) => return Err(unreadable(path, errno.into())),
        }
    };
    let text = String::from_utf8_lossy(&buffer[..len]);
    let stat = Stat::parse(&text).ok_or_else(|| ProbeError::Nonsense {
        path: path.to_owned(),
        what: "is not the status of a process".to_owned(),
    })?;
    Ok(Some(stat))
}

fn read_rss(system: &mut System, pid: u32) -> Option<u64> {
    let pid = Pid::from_u32(pid);
    system.refresh_processes_specifics(
        ProcessesToUpdate::Some(&[pid]),
        true,
        ProcessRefreshKind::nothing().with_memory().without_tasks(),
    );
    Some(system.process(pid)?.memory())
}

/// Of those in which the kernel counts processor time.
fn ticks_per_second() -> u32 {
    u32::try_from(clock_ticks_per_second()).map_or(1, |ticks| ticks.max(1))
}

/// Counts the descriptors of a process.
///
/// Since Linux 6.2 the size of its directory `fd` is their number. Counting them one by one would cost
/// most when there are most of them: in a process that leaks them. The directory is kept open, so that
/// a count is one question to the kernel and not four.
#[derive(Debug, Default)]
pub(super) struct DescriptorCount(Option<OwnedFd>);

impl DescriptorCount {
    /// How many there are in the directory that `open` opens, if it has to be; `failed` says what the
    /// kernel's reason means.
    pub(super) fn count<E>(
        &mut self,
        open: impl FnOnce() -> Result<OwnedFd, E>,
        failed: impl Fn(Errno) -> E,
    ) -> Result<u64, E> {
        if let Some(count) = self.0.as_ref().and_then(size) {
            return Ok(count);
        }
        self.0 = None;
        let opened = open()?;
        let on_proc = rustix::fs::fstatfs(&opened).is_ok_and(|fs| is_proc(&fs));
        if let Some(count) = size(&opened).filter(|_| on_proc) {
            self.0 = Some(opened);
            return Ok(count);
        }
        let mut count = 0;
        for entry in Dir::read_from(&opened).map_err(&failed)? {
            let entry = entry.map_err(&failed)?;
            count += u64::from(!entry.file_name().to_bytes().starts_with(b"."));
        }
        Ok(count)
    }
}

/// The size of a directory, if it has one.
fn size(directory: &OwnedFd) -> Option<u64> {
    let size = u64::try_from(fstat(directory).ok()?.st_size).ok()?;
    (size > 0).then_some(size)
}

fn is_proc(fs: &rustix::fs::StatFs) -> bool {
    u64::try_from(fs.f_type).is_ok_and(|kind| kind == PROC_MAGIC)
}

fn absent(id: OwnerId, found: &str) -> ProbeError {
    ProbeError::Absent {
        what: format!(
            "process {} started at tick {} ({found} has that number)",
            id.pid, id.start_time_ticks
        ),
    }
}

fn unreadable(path: &Path, source: io::Error) -> ProbeError {
    ProbeError::Unreadable {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{WaitId, WaitIdOptions};
    use std::io::{Read, Write};
    use std::process::{Child, Command, Stdio};

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fixtures")
            .join(name)
    }

    fn id(pid: u32, start_time_ticks: u64) -> OwnerId {
        OwnerId {
            pid,
            start_time_ticks,
        }
    }

    fn alive(owner: Owner) -> Process {
        match owner {
            Owner::Alive(process) => process,
            Owner::Ended => panic!("the process has ended"),
        }
    }

    /// A process of this host that lives until it is killed, and is past its own start.
    fn child() -> (Child, OwnerId) {
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        let mut echo = [0];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut echo)
            .unwrap();
        let id = OwnerId::of_process(child.id()).unwrap();
        (child, id)
    }

    #[test]
    fn a_process_has_ended_once_it_is_a_zombie_gone_or_another() {
        let (mut child, id) = child();
        assert!(!id.has_ended());
        let earlier = OwnerId {
            start_time_ticks: id.start_time_ticks - 1,
            ..id
        };
        assert!(earlier.has_ended(), "another has its number");
        child.kill().unwrap();
        // Waits until it can be reaped, and leaves it there.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::waitid(WaitId::Pid(pid), options).unwrap();
        assert!(id.has_ended(), "a zombie");
        child.wait().unwrap();
        assert!(id.has_ended(), "gone");
    }

    #[test]
    fn a_captured_process_is_read() {
        let mut probe = ProcessProbe::new(&fixture("host"));
        let process = alive(probe.observe(&id(4321, 987_654), Instant::ORIGIN).unwrap());
        assert_eq!((process.state, process.threads), ('S', 7));
        assert_eq!(process.fds, Some(3));
        assert_eq!(process.cpu_time, Duration::from_millis(580));
        assert_eq!(process.rss_bytes, None);
    }

    #[test]
    fn a_name_with_blanks_and_parentheses_does_not_shift_the_fields() {
        let mut probe = ProcessProbe::new(&fixture("host"));
        let process = alive(probe.observe(&id(4322, 55), Instant::ORIGIN).unwrap());
        assert_eq!((process.state, process.threads), ('T', 2));
        assert!(process.is_stopped());
        assert_eq!(process.fds, None, "its descriptors are not in the tree");
    }

    #[test]
    fn a_zombie_has_ended_and_a_number_used_again_is_absent() {
        let mut probe = ProcessProbe::new(&fixture("host"));
        assert_eq!(
            probe.observe(&id(4323, 66), Instant::ORIGIN).unwrap(),
            Owner::Ended
        );
        let reused = probe.observe(&id(4321, 1), Instant::ORIGIN).unwrap_err();
        assert_eq!(reused.kind(), "absent");
        assert!(reused.to_string().contains("another process"), "{reused}");
        assert_eq!(
            probe
                .observe(&id(9, 9), Instant::ORIGIN)
                .unwrap_err()
                .kind(),
            "absent"
        );
    }

    #[test]
    fn a_status_that_is_none_is_nonsense() {
        let mut probe = ProcessProbe::new(&fixture("host"));
        assert_eq!(
            probe
                .observe(&id(4324, 1), Instant::ORIGIN)
                .unwrap_err()
                .kind(),
            "nonsense"
        );
    }

    #[test]
    fn a_living_process_shows_what_it_uses_until_it_ends() {
        let (mut child, id) = child();
        let mut probe = ProcessProbe::new(Path::new("/"));
        let process = alive(probe.observe(&id, Instant::ORIGIN).unwrap());
        assert!(process.rss_bytes.unwrap() > 100_000);
        assert!(process.fds.unwrap() >= 3);
        assert_eq!(process.threads, 1);

        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(probe.observe(&id, Instant::ORIGIN).unwrap(), Owner::Ended);
        // A probe that never saw it alive cannot tell this from a process it may not see.
        let mut other = ProcessProbe::new(Path::new("/"));
        assert_eq!(
            other.observe(&id, Instant::ORIGIN).unwrap_err().kind(),
            "absent"
        );
    }

    #[test]
    fn a_page_without_a_possible_owner_names_none() {
        let mut page = Page::new();
        assert_eq!(OwnerId::of(&page), None);
        page.owner.pid = (u64::from(u32::MAX) + 1).into();
        assert_eq!(OwnerId::of(&page), None);
        page.owner.pid = 7.into();
        assert_eq!(OwnerId::of(&page), Some(id(7, 0)));
    }
}
