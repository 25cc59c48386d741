//! Finds the process of a host service, by the way in which it can be known.
//!
//! Of several processes that fit, the one that has run the longest is taken: services start
//! helpers, and not the other way round. As long as the one that was found by its name is there under
//! that name, none that came later can take its place: then all processes are looked through once a
//! minute only, in case an older one has taken the name.

use super::file::{self, Directory, bare};
use super::process::Stat;
use super::{OwnerId, Probe, ProbeError};
use hwshim::clock::Instant;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The kernel keeps so many bytes of a program's name (`TASK_COMM_LEN` less the end).
const NAME_LEN_MAX: usize = 15;
/// More than a number and a line's end is none.
const PID_FILE_LEN_MAX: u64 = 32;
/// Where a hierarchy that has the processes of services may be mounted.
const HIERARCHIES: [&str; 4] = [
    "sys/fs/cgroup",
    "sys/fs/cgroup/unified",
    "sys/fs/cgroup/memory",
    "sys/fs/cgroup/systemd",
];

/// Time between two looks through all processes, as long as the one that was found by its name is there.
const SCAN_INTERVAL: Duration = Duration::from_secs(60);

/// How the process of a service can be known.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Whereabouts {
    /// A file has its number, as daemons write one.
    PidFile(PathBuf),
    /// It has this name, as in `/proc/PID/comm`.
    Program(String),
    /// It is in this control group, by its path in the hierarchy.
    Cgroup(PathBuf),
}

/// Finds the process of a host service.
#[derive(Debug)]
pub struct LocateProbe {
    root: PathBuf,
    /// Who was found by a name, and until when that holds as long as it lives.
    named: Option<(OwnerId, Instant)>,
    buffer: Vec<u8>,
}

impl LocateProbe {
    /// Looks under `root`: `/` is this host, anything else a captured tree.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            named: None,
            buffer: Vec::new(),
        }
    }

    fn proc(&self) -> PathBuf {
        self.root.join("proc")
    }

    fn by_pid_file(&mut self, path: &Path) -> Result<OwnerId, ProbeError> {
        let text = read_pid_file(path)?;
        // What it has instead is not repeated: whoever may write the file names any other in its
        // place, and what is said goes further than we may read.
        let pid = bare(&text)
            .parse()
            .map_err(|_| file::nonsense(path, "holds no number of a process"))?;
        let (id, _) = self.identify(pid)?;
        Ok(id)
    }

    fn by_name(&mut self, name: &str, now: Instant) -> Result<OwnerId, ProbeError> {
        // What the kernel has cut off cannot be compared.
        let name = name.as_bytes();
        let wanted = &name[..name.len().min(NAME_LEN_MAX)];
        if let Some((known, until)) = self.named
            && now < until
            && let Ok((id, name)) = self.identify(known.pid)
            && id == known
            && name.as_bytes() == wanted
        {
            return Ok(known);
        }
        let found = self.oldest_named(wanted)?;
        self.named = Some((found, now.plus(SCAN_INTERVAL)));
        Ok(found)
    }

    fn oldest_named(&mut self, wanted: &[u8]) -> Result<OwnerId, ProbeError> {
        let proc = self.proc();
        let entries = fs::read_dir(&proc).map_err(|source| unreadable(&proc, source))?;
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        // A process that ends meanwhile is none of those that are looked for.
        let found = pids.filter_map(|pid| self.identify(pid).ok());
        let oldest = found
            .filter(|(_, found)| found.as_bytes() == wanted)
            .map(|(id, _)| id)
            .min_by_key(|id| (id.start_time_ticks, id.pid));
        oldest.ok_or_else(|| ProbeError::Absent {
            what: format!("a process named {}", String::from_utf8_lossy(wanted)),
        })
    }

    fn by_cgroup(&mut self, path: &Path) -> Result<OwnerId, ProbeError> {
        let relative = path.strip_prefix("/").unwrap_or(path);
        let places = HIERARCHIES.map(|mount| self.root.join(mount).join(relative));
        let processes = places.map(|place| place.join("cgroup.procs"));
        let list = processes.iter().find(|path| path.exists());
        let absent = |what: &str| ProbeError::Absent {
            what: format!("{what} {}", path.display()),
        };
        let text = read(list.ok_or_else(|| absent("the control group"))?)?;
        let pids = text.lines().filter_map(|line| line.parse().ok());
        let oldest = pids
            .filter_map(|pid| Some(self.identify(pid).ok()?.0))
            .min_by_key(|id| (id.start_time_ticks, id.pid));
        oldest.ok_or_else(|| absent("a process in the control group"))
    }

    /// A living process, and its name.
    fn identify(&mut self, pid: u32) -> Result<(OwnerId, String), ProbeError> {
        let absent = || ProbeError::Absent {
            what: format!("process {pid}"),
        };
        let directory = Directory::open(&self.proc().join(pid.to_string()))?;
        let parse = |text: &str| Some((Stat::parse(text)?, name(text)?.to_owned()));
        let what = "the status of a process";
        let (stat, name) = directory
            .file("stat")
            .parse(&mut self.buffer, what, parse)?;
        if matches!(stat.state, 'Z' | 'X') {
            return Err(absent());
        }
        let id = OwnerId {
            pid,
            start_time_ticks: stat.start_time_ticks,
        };
        Ok((id, name))
    }
}

impl Probe for LocateProbe {
    type Subject = Whereabouts;
    type Observation = OwnerId;

    fn name(&self) -> &'static str {
        "locate"
    }

    fn observe(&mut self, subject: &Whereabouts, now: Instant) -> Result<OwnerId, ProbeError> {
        match subject {
            Whereabouts::PidFile(path) => self.by_pid_file(path),
            Whereabouts::Program(name) => self.by_name(name, now),
            Whereabouts::Cgroup(path) => self.by_cgroup(path),
        }
    }
}

/// The name in `/proc/PID/stat`, which may have parentheses of its own.
fn name(stat: &str) -> Option<&str> {
    let (before, _) = stat.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    Some(name)
}

/// Reads a file that a service wrote, which may be anything: what is no plain file is not opened
/// through a link, not waited for, and not read to an end that it may not have.
fn read_pid_file(path: &Path) -> Result<String, ProbeError> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path);
    let file = opened.map_err(|source| match Errno::from_io_error(&source) {
        Some(Errno::LOOP) => {
            file::nonsense(path, "is a link; name the file that the service writes")
        }
        _ => unreadable(path, source),
    })?;
    let found = file.metadata().map_err(|source| unreadable(path, source))?;
    if !found.is_file() {
        return Err(file::nonsense(path, "is no plain file"));
    }
    let mut bytes = Vec::new();
    file.take(PID_FILE_LEN_MAX)
        .read_to_end(&mut bytes)
        .map_err(|source| unreadable(path, source))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn read(path: &Path) -> Result<String, ProbeError> {
    fs::read_to_string(path).map_err(|source| unreadable(path, source))
}

fn unreadable(path: &Path, source: io::Error) -> ProbeError {
    if source.kind() == io::ErrorKind::NotFound {
        return ProbeError::Absent {
            what: path.display().to_string(),
        };
    }
    ProbeError::Unreadable {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::Tree;
    use super::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use std::os::unix::fs::symlink;

    fn tree() -> Tree {
        let tree = Tree::empty();
        for (pid, name, state, start) in [
            (10, "hardserver", 'S', 500),
            (11, "hardserver", 'S', 400),
            (12, "hardserver", 'Z', 300),
            (13, "a (b) c", 'R', 200),
            (14, "a-name-of-15-by", 'R', 100),
        ] {
            let zeros = "0 ".repeat(16);
            let stat = format!("{pid} ({name}) {state} {zeros}1 0 {start} 0 0\n");
            tree.write(&format!("proc/{pid}/stat"), &stat);
        }
        tree.write("run/pid", "10\n");
        tree.write("run/gone", "99\n");
        tree.write("run/garbage", "ten\x1b[2J\n");
        tree.write(
            "sys/fs/cgroup/memory/system.slice/x/cgroup.procs",
            "10\n13\n",
        );
        tree.write("sys/fs/cgroup/memory/empty/cgroup.procs", "");
        tree
    }

    fn find(tree: &Tree, whereabouts: &Whereabouts) -> Result<(u32, u64), String> {
        LocateProbe::new(tree.root())
            .observe(whereabouts, Instant::ORIGIN)
            .map(|id| (id.pid, id.start_time_ticks))
            .map_err(|error| format!("{}: {error}", error.kind()))
    }

    #[test]
    fn a_process_is_found_in_each_way_and_of_several_the_oldest_that_lives() {
        let tree = tree();
        let pid_file = |name| Whereabouts::PidFile(tree.root().join("run").join(name));
        let program = |name: &str| Whereabouts::Program(name.to_owned());
        let cgroup = |path: &str| Whereabouts::Cgroup(path.into());
        for (whereabouts, expected) in [
            (pid_file("pid"), (10, 500)),
            (program("hardserver"), (11, 400)),
            (program("a (b) c"), (13, 200)),
            (program("a-name-of-15-bytes-and-more"), (14, 100)),
            (cgroup("/system.slice/x"), (13, 200)),
        ] {
            assert_eq!(find(&tree, &whereabouts), Ok(expected), "{whereabouts:?}");
        }
    }

    #[test]
    fn who_was_found_by_name_is_looked_for_among_all_once_a_minute_or_when_it_has_gone() {
        let tree = tree();
        let mut probe = LocateProbe::new(tree.root());
        let hardserver = Whereabouts::Program("hardserver".to_owned());
        let mut find = |second| {
            let now = Instant::ORIGIN.plus(Duration::from_secs(second));
            probe.observe(&hardserver, now).unwrap().pid
        };
        let is_named = |pid, name, start| {
            let zeros = "0 ".repeat(16);
            let stat = format!("{pid} ({name}) S {zeros}1 0 {start} 0 0\n");
            tree.write(&format!("proc/{pid}/stat"), &stat);
        };
        assert_eq!(find(0), 11);
        is_named(13, "hardserver", 200);
        assert_eq!(find(59), 11);
        assert_eq!(find(60), 13, "it is older");
        // It runs another program, and then its number is another's.
        is_named(13, "other", 200);
        assert_eq!(find(61), 11);
        is_named(11, "hardserver", 600);
        assert_eq!(find(62), 10);
    }

    #[test]
    fn what_is_not_there_is_absent_and_what_is_no_number_is_said_to_be_none() {
        let tree = tree();
        let pid_file = |name| Whereabouts::PidFile(tree.root().join("run").join(name));
        for whereabouts in [
            pid_file("none"),
            pid_file("gone"),
            Whereabouts::Program("hardserve".to_owned()),
            Whereabouts::Cgroup("/none".into()),
            Whereabouts::Cgroup("/empty".into()),
        ] {
            let error = find(&tree, &whereabouts).unwrap_err();
            assert!(error.starts_with("absent: "), "{whereabouts:?}: {error}");
        }
    }

    #[test]
    fn whatever_stands_for_a_pid_file_is_neither_repeated_nor_waited_for() {
        let tree = tree();
        let run = tree.root().join("run");
        let pid_file = |name| Whereabouts::PidFile(run.join(name));
        tree.write("run/secret", "root:$6$salt:19000:0:99999:7:::\n");
        tree.write("run/long", format!("{}10\n", " ".repeat(32)));
        symlink(run.join("secret"), run.join("link")).unwrap();
        symlink("/dev/zero", run.join("zero")).unwrap();
        symlink(run.join("pid"), run.join("same")).unwrap();
        let (fifo, mode) = (run.join("fifo"), Mode::RUSR | Mode::WUSR);
        mknodat(CWD, &fifo, FileType::Fifo, mode, 0).unwrap();
        for name in ["garbage", "secret", "long", "link", "zero", "same", "fifo"] {
            let error = find(&tree, &pid_file(name)).unwrap_err();
            assert!(error.starts_with("nonsense: "), "{name}: {error}");
            for repeated in ["ten", "root:", "\x1b"] {
                assert!(!error.contains(repeated), "{name}: {error}");
            }
        }
    }
}
