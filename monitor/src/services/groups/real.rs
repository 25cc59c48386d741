//! Kills and limits as a real kernel counts them, where groups can be made: as root, in either version of
//! the hierarchy. A kill is counted for the whole host as well, and a monitor of it will say so.

use super::super::ServiceSettings;
use super::super::senses::{Kernel, Senses};
use super::tests::at;
use super::*;
use crate::probe::Whereabouts;
use rustix::fs::statfs;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::thread;

const LIMIT: u64 = 32 << 20;
/// Of `tmpfs` (`linux/magic.h`).
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;

/// A group of this host, which is removed when dropped.
struct RealGroup {
    path: PathBuf,
    cgroup: Cgroup,
}

impl RealGroup {
    /// One with [`LIMIT`], and room for nothing beyond it; says so where none can be had.
    fn make(name: &str) -> Option<Self> {
        let name = PathBuf::from(format!("cardmon-test-{name}-{}", std::process::id()));
        let mount = Path::new("/sys/fs/cgroup");
        let made = if mount.join("cgroup.controllers").exists() {
            Self::make_v2(mount, name)
        } else {
            Self::make_v1(&mount.join("memory"), name)
        };
        made.map_err(|error| println!("skipped: no control group can be made here: {error}"))
            .ok()
    }

    fn make_v2(mount: &Path, name: PathBuf) -> io::Result<Self> {
        let group = Self::make_in(mount, Cgroup::V2(name.clone()), &name)?;
        group.write("memory.max", LIMIT)?;
        // Without swap there is no such file.
        let _ = group.write("memory.swap.max", 0);
        Ok(group)
    }

    fn make_v1(mount: &Path, name: PathBuf) -> io::Result<Self> {
        let group = Self::make_in(mount, Cgroup::V1(name.clone()), &name)?;
        group.write("memory.limit_in_bytes", LIMIT)?;
        // A limit of memory and swap together would be hit first, which not every kernel counts.
        group.write("memory.swappiness", 0)?;
        Ok(group)
    }

    fn make_in(mount: &Path, cgroup: Cgroup, name: &Path) -> io::Result<Self> {
        let path = mount.join(name);
        fs::create_dir(&path)?;
        Ok(Self { path, cgroup })
    }

    /// Writes to a file that is there: where the controller is not, it would be made.
    fn write(&self, file: &str, value: u64) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(self.path.join(file))?;
        file.write_all(value.to_string().as_bytes())
    }

    /// Has `command` executed by a shell in this group.
    fn run(&self, command: &str) -> ExitStatus {
        let procs = self.path.join("cgroup.procs");
        Command::new("sh")
            .args(["-c", &format!("echo $$ > {} && {command}", procs.display())])
            .status()
            .unwrap()
    }
}

impl Drop for RealGroup {
    #[expect(
        clippy::disallowed_methods,
        reason = "nobody tells when a group has become empty"
    )]
    fn drop(&mut self) {
        // Whoever was killed is in its group until the kernel has cleaned up, of which it tells nobody.
        for _ in 0..250 {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        eprintln!("{} is left behind: rmdir it", self.path.display());
    }
}

/// What is known of a real group before and after.
struct Watched {
    groups: Groups,
    senses: Kernel,
    own: Cgroup,
}

impl Watched {
    fn of(group: &RealGroup) -> Self {
        let process = Whereabouts::PidFile("/nonexistent".into());
        let mut groups = Groups::default();
        groups.follow(Some(&group.cgroup));
        let mut watched = Self {
            groups,
            senses: Kernel::new(&ServiceSettings::new("web", process), Path::new("/")),
            own: group.cgroup.clone(),
        };
        watched.poll(at(1));
        watched
    }

    fn poll(&mut self, now: Instant) {
        let memory = self.senses.look_at_cgroup(&self.own, now);
        assert!(memory.is_some(), "the group can be read");
        self.groups.poll(memory.as_ref(), true, &self.senses, now);
    }
}

#[test]
fn a_real_kernel_kills_at_a_limit_and_the_group_is_named() {
    let Some(group) = RealGroup::make("kill") else {
        return;
    };
    let mut watched = Watched::of(&group);
    assert_eq!(
        watched.groups.limit().map(|(_, limit)| limit),
        Some(LIMIT),
        "the least of all"
    );
    // Reads a line that has no end, and keeps it.
    let status = group.run("exec tail /dev/zero");
    assert_eq!(status.signal(), Some(9), "{status}");
    watched.poll(at(2));
    assert_eq!(watched.groups.counted_a_kill(at(2)), Some(true));
    assert_eq!(watched.groups.limit_hit(at(2)), Some(&group.cgroup));
}

#[test]
fn a_real_kernel_that_gets_below_a_limit_again_has_killed_nobody() {
    let Some(group) = RealGroup::make("reclaim") else {
        return;
    };
    let mut watched = Watched::of(&group);
    // On a disk, where what is written can be written out.
    let program = std::env::current_exe().unwrap();
    let directory = program.parent().unwrap();
    if statfs(directory).unwrap().f_type == TMPFS_MAGIC {
        return println!("skipped: {} is in memory", directory.display());
    }
    let file = tempfile::NamedTempFile::new_in(directory).unwrap();
    let path = file.path().display();
    // What the disk does not have yet cannot be let go of, and a disk that is busy would decide.
    let status = group.run(&format!(
        "exec dd if=/dev/zero of='{path}' bs=1M count=64 oflag=dsync status=none"
    ));
    assert!(status.success(), "{status}");
    watched.poll(at(2));
    let memory = watched.senses.look_at_cgroup(&watched.own, at(2)).unwrap();
    assert!(memory.events.unwrap().max > Some(0), "it was at its limit");
    assert_eq!(watched.groups.counted_a_kill(at(2)), Some(false));
}
