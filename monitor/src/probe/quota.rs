//! Looks at how long the control groups of a process were held up because they had used up their quota of
//! processor time.
//!
//! A group with a quota may run for so long in each period, of a tenth of a second as a rule, and then
//! waits for the next. Whoever is in it and has more to do looks as if it hung. The quota of each group
//! above holds as well, so all of them are looked at (Linux `Documentation/admin-guide/cgroup-v2.rst`,
//! "CPU Interface Files", and `Documentation/scheduler/sched-bwc.rst`, "Statistics").

use super::cgroup::{MOUNT, Membership, v2_mount};
use super::file::TextFile;
use super::process::OwnerId;
use super::{Probe, ProbeError};
use hwshim::clock::Instant;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where version 1 has the controller of processor time: by itself, or by a link (systemd's).
const V1_CPU: &str = "cpu";
/// Time between two looks at which groups a process is in, which it may be moved to another of.
const GROUPS_INTERVAL: Duration = Duration::from_secs(60);

/// What a group with a quota has counted since it was made.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CpuPeriods {
    /// Path of the group in its hierarchy.
    pub group: PathBuf,
    /// Periods in which somebody of it ran, or wanted to.
    pub periods: u64,
    /// Those in which it had used up its quota.
    pub throttled: u64,
    /// For how long it was held up by that, summed up over CPUs.
    pub throttled_for: Duration,
}

impl CpuPeriods {
    /// `Some(None)` of a group that has no quota and never had one.
    fn parse(group: &Path, text: &str) -> Option<Option<Self>> {
        let (mut periods, mut throttled, mut throttled_for) = (0, 0, Duration::ZERO);
        for line in text.lines() {
            let (name, value) = line.split_once(' ')?;
            let value = value.parse().ok()?;
            match name {
                "nr_periods" => periods = value,
                "nr_throttled" => throttled = value,
                "throttled_usec" => throttled_for = Duration::from_micros(value),
                // Of version 1.
                "throttled_time" => throttled_for = Duration::from_nanos(value),
                _ => {}
            }
        }
        Some((periods > 0).then(|| Self {
            group: group.to_owned(),
            periods,
            throttled,
            throttled_for,
        }))
    }
}

/// Looks at the quotas that hold for a process.
#[derive(Debug)]
pub struct QuotaProbe {
    root: PathBuf,
    followed: Option<Followed>,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Followed {
    id: OwnerId,
    again_at: Instant,
    /// Its own group and all above, each with its file.
    groups: Vec<(PathBuf, TextFile)>,
}

impl QuotaProbe {
    /// Looks under `root`: `/` is this host, anything else a captured tree.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            followed: None,
            buffer: Vec::new(),
        }
    }
}

impl Followed {
    fn open(root: &Path, id: OwnerId, now: Instant) -> Result<Self, ProbeError> {
        let own = Membership::accounting_for("cpu", root, id)?;
        let mount = root.join(MOUNT);
        let mount = match own.is_v2() {
            true => v2_mount(&mount),
            false => mount.join(V1_CPU),
        };
        let group = |path: &Path| {
            let file = mount.join(path).join("cpu.stat");
            (path.to_owned(), TextFile::new(file))
        };
        Ok(Self {
            id,
            again_at: now.plus(GROUPS_INTERVAL),
            groups: own.path.ancestors().map(group).collect(),
        })
    }
}

impl Probe for QuotaProbe {
    type Subject = OwnerId;
    type Observation = Vec<CpuPeriods>;

    fn name(&self) -> &'static str {
        "quota"
    }

    fn observe(&mut self, &id: &OwnerId, now: Instant) -> Result<Vec<CpuPeriods>, ProbeError> {
        let is_known = |known: &Followed| known.id == id && now < known.again_at;
        let mut followed = match self.followed.take().filter(is_known) {
            Some(known) => known,
            None => Followed::open(&self.root, id, now)?,
        };
        let mut seen = Vec::new();
        for (group, file) in &mut followed.groups {
            let buffer = &mut self.buffer;
            let parse = |text: &str| CpuPeriods::parse(group, text);
            match file.parse(buffer, "counters of processor time", parse) {
                Ok(periods) => seen.extend(periods),
                // Seen from a container, those above are not there.
                Err(ProbeError::Absent { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.followed = Some(followed);
        Ok(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::Tree;
    use super::*;

    const ID: OwnerId = OwnerId {
        pid: 4321,
        start_time_ticks: 987_654,
    };

    fn look(tree: &Tree) -> Vec<CpuPeriods> {
        QuotaProbe::new(tree.root())
            .observe(&ID, Instant::ORIGIN)
            .unwrap()
    }

    #[test]
    fn each_group_with_a_quota_above_a_process_tells_how_long_it_was_held_up() {
        let tree = Tree::captured("cgroup-v2");
        let own = CpuPeriods {
            group: "system.slice/hardserver.service".into(),
            periods: 40,
            throttled: 12,
            throttled_for: Duration::from_millis(340),
        };
        assert_eq!(look(&tree), std::slice::from_ref(&own));
        let slice = "nr_periods 7\nnr_throttled 7\nthrottled_usec 1\n";
        tree.write("sys/fs/cgroup/system.slice/cpu.stat", slice);
        // As the root has it.
        tree.write("sys/fs/cgroup/cpu.stat", "usage_usec 9\n");
        let seen = look(&tree);
        assert_eq!(seen[0], own);
        assert_eq!(seen[1].group, Path::new("system.slice"));
        assert_eq!(seen[1].throttled, 7);
        assert_eq!(seen.len(), 2);
    }

    #[test]
    fn a_process_that_was_moved_to_another_group_is_looked_for_there_within_a_minute() {
        let tree = Tree::captured("cgroup-v2");
        let mut probe = QuotaProbe::new(tree.root());
        let mut group_at = |seconds| {
            let now = Instant::ORIGIN.plus(Duration::from_secs(seconds));
            probe.observe(&ID, now).unwrap()[0].group.clone()
        };
        let before = PathBuf::from("system.slice/hardserver.service");
        assert_eq!(group_at(0), before);
        tree.write("proc/4321/cgroup", "0::/elsewhere\n");
        let stat = "nr_periods 4\nnr_throttled 3\nthrottled_usec 5\n";
        tree.write("sys/fs/cgroup/elsewhere/cpu.stat", stat);
        assert_eq!(group_at(59), before);
        assert_eq!(group_at(60), PathBuf::from("elsewhere"));
    }

    #[test]
    fn version_1_has_it_in_a_hierarchy_of_its_own_and_in_nanoseconds() {
        let tree = Tree::captured("cgroup-v2");
        let groups = "5:memory:/elsewhere\n3:cpu,cpuacct:/services/web\n0::/\n";
        tree.write("proc/4321/cgroup", groups);
        let stat = "nr_periods 4\nnr_throttled 3\nthrottled_time 5000\n";
        tree.write("sys/fs/cgroup/cpu/services/web/cpu.stat", stat);
        let seen = look(&tree);
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].group, Path::new("services/web"));
        assert_eq!(seen[0].throttled_for, Duration::from_micros(5));
    }

    #[test]
    fn counters_that_are_none_are_nonsense() {
        let tree = Tree::captured("cgroup-v2");
        let file = "sys/fs/cgroup/system.slice/hardserver.service/cpu.stat";
        tree.write(file, "nr_periods many\n");
        let error = QuotaProbe::new(tree.root())
            .observe(&ID, Instant::ORIGIN)
            .unwrap_err();
        assert_eq!(error.kind(), "nonsense");
    }
}
