//! Adds up what a process has in memory, when somebody asks for it.
//!
//! `/proc/PID/smaps_rollup` tells a process's share of what it has in common with others, which no other
//! file does. It is dear: the kernel walks all page tables of the process for it, which cannot map
//! memory meanwhile. So nothing is judged by it and no poll reads it, and who asks for the same process again
//! within ten seconds of the end of a reading gets what was read, with that time. It is no [`Probe`](super::Probe),
//! which is told the time before it looks: this one may take longer than the ten seconds.

use super::ProbeError;
use super::file::{Directory, TextFile};
use super::host::kibibytes;
use super::process::{OwnerId, Stat};
use super::service::absent;
use hwshim::clock::{Clock, Instant};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Time from the end of a reading of one process to the next reading.
const INTERVAL: Duration = Duration::from_secs(10);

/// What a process has in memory (proc_pid_smaps(5), "smaps_rollup"). `None` is what this kernel does not
/// tell, or tells in a way that is not understood.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MemoryRollup {
    /// When this had been read.
    pub read_at: Instant,
    /// In memory (`Rss`).
    pub rss_bytes: Option<u64>,
    /// Its share of that (`Pss`): of a page that several have, each has a part.
    pub pss_bytes: Option<u64>,
    /// Of that share, what is no file (`Pss_Anon`).
    pub pss_anon_bytes: Option<u64>,
    /// What it alone has and has written to (`Private_Dirty`).
    pub private_dirty_bytes: Option<u64>,
    /// Swapped out (`Swap`).
    pub swapped_bytes: Option<u64>,
    /// Locked (`Locked`).
    pub locked_bytes: Option<u64>,
}

/// Adds up what processes have in memory.
#[derive(Debug)]
pub struct RollupProbe {
    proc: PathBuf,
    buffer: Vec<u8>,
    /// What was read of each process within the interval, by its number.
    last: BTreeMap<u32, (OwnerId, Arc<MemoryRollup>)>,
}

impl RollupProbe {
    /// Looks under `root`: `/` is this host, anything else a captured tree.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            proc: root.join("proc"),
            buffer: Vec::new(),
            last: BTreeMap::new(),
        }
    }

    /// What a process has.
    ///
    /// # Errors
    ///
    /// What kept it from seeing.
    pub fn observe(
        &mut self,
        id: OwnerId,
        clock: &dyn Clock,
    ) -> Result<Arc<MemoryRollup>, ProbeError> {
        let now = clock.now();
        self.last
            .retain(|_, (_, seen)| now.since(seen.read_at) < INTERVAL);
        let Self { proc, buffer, last } = self;
        let directory = Directory::open(&proc.join(id.pid.to_string()))?;
        let mut stat = directory.file("stat");
        is_there(&mut stat, id, buffer)?;
        if let Some((known, seen)) = last.get(&id.pid)
            && *known == id
        {
            return Ok(Arc::clone(seen));
        }
        let read = directory
            .file("smaps_rollup")
            .parse(buffer, "a sum of mappings", |text| {
                MemoryRollup::parse(text, clock.now())
            });
        // Why nothing could be read is told best by that it has ended meanwhile, if it has.
        is_there(&mut stat, id, buffer)?;
        let seen = Arc::new(read?);
        last.insert(id.pid, (id, Arc::clone(&seen)));
        Ok(seen)
    }
}

/// Whether the process is the one that is meant, and has not ended.
fn is_there(stat: &mut TextFile, id: OwnerId, buffer: &mut Vec<u8>) -> Result<(), ProbeError> {
    let found = stat.parse(buffer, "the status of a process", Stat::parse)?;
    match found.state {
        'Z' | 'X' => Err(absent(id, "it has ended")),
        _ if found.start_time_ticks != id.start_time_ticks => {
            Err(absent(id, "another process has that number"))
        }
        _ => Ok(()),
    }
}

impl MemoryRollup {
    fn parse(text: &str, read_at: Instant) -> Option<Self> {
        let field = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(':'));
            let (_, value) = lines.find(|(found, _)| *found == name)?;
            kibibytes(value)
        };
        let seen = Self {
            read_at,
            rss_bytes: field("Rss"),
            pss_bytes: field("Pss"),
            pss_anon_bytes: field("Pss_Anon"),
            private_dirty_bytes: field("Private_Dirty"),
            swapped_bytes: field("Swap"),
            locked_bytes: field("Locked"),
        };
        // Every kernel that has the file tells these.
        seen.rss_bytes.or(seen.pss_bytes).map(|_| seen)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::Tree;
    use super::*;
    use hwshim::clock::{ManualClock, SystemClock};

    const ID: OwnerId = OwnerId {
        pid: 4321,
        start_time_ticks: 987_654,
    };
    /// It is always this late.
    struct At(Instant);

    impl Clock for At {
        fn now(&self) -> Instant {
            self.0
        }
    }

    /// Half a minute passes from each look at it to the next.
    struct Slow(ManualClock);

    impl Clock for Slow {
        fn now(&self) -> Instant {
            let now = self.0.now();
            self.0.advance(Duration::from_secs(30));
            now
        }
    }

    const FILE: &str = "proc/4321/smaps_rollup";

    fn at(seconds: u64) -> At {
        At(Instant::ORIGIN.plus(Duration::from_secs(seconds)))
    }

    fn file(tree: &Tree) -> String {
        std::fs::read_to_string(tree.root().join(FILE)).unwrap()
    }

    #[test]
    fn what_a_process_has_is_added_up_with_its_share_of_what_it_has_in_common() {
        let tree = Tree::captured("host-6.18");
        let seen = RollupProbe::new(tree.root()).observe(ID, &at(7)).unwrap();
        let expected = MemoryRollup {
            read_at: at(7).0,
            rss_bytes: Some(1732 << 10),
            pss_bytes: Some(281 << 10),
            pss_anon_bytes: Some(116 << 10),
            private_dirty_bytes: Some(112 << 10),
            swapped_bytes: Some(8 << 10),
            locked_bytes: Some(64 << 10),
        };
        assert_eq!(*seen, expected);
    }

    #[test]
    fn a_process_is_added_up_once_in_ten_seconds_whoever_asks_and_each_by_itself() {
        let tree = Tree::captured("host-6.18");
        let mut probe = RollupProbe::new(tree.root());
        probe.observe(ID, &at(0)).unwrap();
        tree.write(FILE, file(&tree).replace("281 kB", "282 kB"));
        let mut read = |id: OwnerId, second| {
            let seen = probe.observe(id, &at(second)).unwrap();
            (seen.read_at, seen.pss_bytes)
        };
        assert_eq!(read(ID, 9), (at(0).0, Some(281 << 10)));
        // Whoever has the number next is another process.
        let stat = std::fs::read_to_string(tree.root().join("proc/4321/stat")).unwrap();
        tree.write("proc/4321/stat", stat.replace("987654", "77"));
        let other = OwnerId {
            start_time_ticks: 77,
            ..ID
        };
        assert_eq!(read(other, 9), (at(9).0, Some(282 << 10)));
        tree.write("proc/4321/stat", stat);
        assert_eq!(read(ID, 10), (at(10).0, Some(282 << 10)));
    }

    #[test]
    fn what_took_longer_than_the_interval_to_read_is_there_for_who_asks_after_that() {
        let tree = Tree::captured("host-6.18");
        let mut probe = RollupProbe::new(tree.root());
        let slow = Slow(ManualClock::new());
        let seen = probe.observe(ID, &slow).unwrap();
        assert_eq!(seen.read_at, at(30).0, "when it had been read");
        tree.write(FILE, "Rss: 1 kB\n");
        assert_eq!(probe.observe(ID, &at(39)).unwrap(), seen);
        assert_ne!(probe.observe(ID, &at(40)).unwrap(), seen);
    }

    #[test]
    fn another_process_one_that_has_ended_and_one_that_may_not_be_looked_at_are_told_apart() {
        let tree = Tree::captured("host-6.18");
        let other = OwnerId {
            start_time_ticks: 1,
            ..ID
        };
        let mut probe = RollupProbe::new(tree.root());
        let mut error = |id: OwnerId| probe.observe(id, &at(0)).unwrap_err();
        assert!(error(other).to_string().contains("another process"));
        tree.remove(FILE);
        let too_old = error(ID);
        assert!(
            too_old.to_string().ends_with("smaps_rollup does not exist"),
            "{too_old}"
        );
        tree.write(&format!("{FILE}/x"), "");
        assert_eq!(error(ID).kind(), "unreadable");
        let stat = std::fs::read_to_string(tree.root().join("proc/4321/stat")).unwrap();
        tree.write("proc/4321/stat", stat.replace(") S ", ") Z "));
        assert!(error(ID).to_string().contains("it has ended"));
    }

    #[test]
    fn nonsense_in_a_line_leaves_the_rest_seen_and_a_file_of_nonsense_is_no_sum() {
        let tree = Tree::captured("host-6.18");
        let odd = file(&tree).replace("116 kB", "lots").replace("64 kB", "64");
        tree.write(FILE, odd + "Pss_Anon\n:\nLocked: 18446744073709551615 kB\n");
        let mut probe = RollupProbe::new(tree.root());
        let seen = probe.observe(ID, &at(0)).unwrap();
        assert_eq!((seen.pss_anon_bytes, seen.locked_bytes), (None, None));
        assert_eq!(seen.pss_bytes, Some(281 << 10));
        for nonsense in ["", "Locked: 1 kB\n", "Rss: 1\nPss: x kB\n", "\0"] {
            tree.write(FILE, nonsense);
            let kind = probe.observe(ID, &at(20)).unwrap_err().kind();
            assert_eq!(kind, "nonsense", "{nonsense:?}");
        }
    }

    #[test]
    fn this_process_has_something_that_is_its_own() {
        let id = OwnerId::of_this_process().unwrap();
        let seen = RollupProbe::new(Path::new("/")).observe(id, &SystemClock);
        let seen = seen.unwrap();
        assert!(seen.pss_bytes.unwrap() > 0);
        assert!(seen.rss_bytes >= seen.pss_bytes && seen.private_dirty_bytes > Some(0));
    }
}
