//! Kills and limits as a real kernel counts them, where groups can be made: as root, in either version of
//! the hierarchy. A kill is counted for the whole host as well, and a monitor of it will say so.

use super::super::ServiceSettings;
use super::super::real::RealGroup;
use super::super::senses::{Kernel, Senses};
use super::tests::at;
use super::*;
use crate::probe::Whereabouts;
use rustix::fs::statfs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};

const LIMIT: u64 = 32 << 20;
/// Of `tmpfs` (`linux/magic.h`).
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;

/// A group with [`LIMIT`], and room for nothing beyond it.
fn limited(name: &str) -> Option<RealGroup> {
    RealGroup::make(name, "memory", |group| {
        let limit = LIMIT.to_string();
        if group.is_v2 {
            group.write("memory.max", &limit)?;
            // Without swap there is no such file.
            let _ = group.write("memory.swap.max", "0");
            return Ok(());
        }
        group.write("memory.limit_in_bytes", &limit)?;
        // A limit of memory and swap together would be hit first, which not every kernel counts.
        group.write("memory.swappiness", "0")
    })
}

fn cgroup(group: &RealGroup) -> Cgroup {
    match group.is_v2 {
        true => Cgroup::V2(group.name.clone()),
        false => Cgroup::V1(group.name.clone()),
    }
}

/// Has `command` executed by a shell in a group.
fn run(group: &RealGroup, command: &str) -> ExitStatus {
    let script = group.script(command);
    Command::new("sh").args(["-c", &script]).status().unwrap()
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
        groups.follow(Some(&cgroup(group)));
        let mut watched = Self {
            groups,
            senses: Kernel::new(&ServiceSettings::new("web", process), Path::new("/")),
            own: cgroup(group),
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
    let Some(group) = limited("kill") else {
        return;
    };
    let mut watched = Watched::of(&group);
    assert_eq!(
        watched.groups.limit().map(|(_, limit)| limit),
        Some(LIMIT),
        "the least of all"
    );
    // Reads a line that has no end, and keeps it.
    let status = run(&group, "exec tail /dev/zero");
    assert_eq!(status.signal(), Some(9), "{status}");
    watched.poll(at(2));
    assert_eq!(watched.groups.counted_a_kill(at(2)), Some(true));
    assert_eq!(watched.groups.limit_hit(at(2)), Some(&cgroup(&group)));
}

#[test]
fn a_real_kernel_that_gets_below_a_limit_again_has_killed_nobody() {
    let Some(group) = limited("reclaim") else {
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
    let write = format!("exec dd if=/dev/zero of='{path}' bs=1M count=64 oflag=dsync status=none");
    let status = run(&group, &write);
    assert!(status.success(), "{status}");
    watched.poll(at(2));
    let memory = watched.senses.look_at_cgroup(&watched.own, at(2)).unwrap();
    assert!(memory.events.unwrap().max > Some(0), "it was at its limit");
    assert_eq!(watched.groups.counted_a_kill(at(2)), Some(false));
}
