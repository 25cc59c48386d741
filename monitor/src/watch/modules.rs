//! Whether what a kernel module has allocated only ever grows: the books of `/proc/allocinfo`, where the
//! kernel keeps any, on the ladder that services' leaks climb.
//!
//! What a driver leaks is of the whole host, so it never pages; it names who holds the memory that
//! otherwise would merely be missing.

use crate::leak::{self, Limit, Resource, Sample, Scope};
use crate::number::lossy;
use crate::probe::{Allocations, AllocinfoProbe, Periodic, ProbeError};
use crate::status::{LeakFigures, ModuleFigures, Unit};
use hwshim::clock::Instant;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Time between two looks, and between two searches where there are no books.
const INTERVAL: Duration = Duration::from_secs(60);
/// Time that a look may take: thousands of lines, each of which the kernel adds up over all CPUs.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A module that has less when it is first seen is watched when it has more.
const BYTES_MIN: u64 = 1 << 20;
/// Modules that are watched, the first that had so much. Each takes about 25 KiB.
const WATCHED_MAX: usize = 64;

/// Watches what modules have allocated.
#[derive(Debug, Default)]
pub(super) struct Modules {
    probe: Option<Result<Periodic<AllocinfoProbe>, ProbeError>>,
    searched_at: Option<Instant>,
    taken_at: Option<Instant>,
    watched: BTreeMap<String, Watched>,
}

#[derive(Debug)]
struct Watched {
    watch: leak::Watch,
    held: f64,
}

impl Modules {
    /// Takes what was read, once; `None` where the kernel keeps no books. `memory` is all that the host
    /// has.
    pub(super) fn poll(
        &mut self,
        root: &Path,
        memory: Option<u64>,
        now: Instant,
    ) -> Option<ModuleFigures> {
        let seen = match self.probe(root, now)? {
            Ok(periodic) => periodic.poll(now)?,
            Err(error) => Arc::new(Err(error.clone())),
        };
        let error = match seen.as_ref() {
            Ok(seen) => {
                self.take(seen, memory);
                None
            }
            Err(ProbeError::Absent { .. }) => return None,
            Err(error) => Some(error.to_string()),
        };
        let figures = |it: &Watched| LeakFigures::new(it.watch.verdict(), Unit::Bytes, it.held);
        Some(ModuleFigures {
            leaks: self.watched.values().map(figures).collect(),
            error,
        })
    }

    fn probe(
        &mut self,
        root: &Path,
        now: Instant,
    ) -> Option<&mut Result<Periodic<AllocinfoProbe>, ProbeError>> {
        let place = root.join("proc/allocinfo");
        let is_due = self.searched_at.is_none_or(|at| now.since(at) >= INTERVAL);
        if self.probe.is_none() && is_due {
            self.searched_at = Some(now);
            let start = || Periodic::start(AllocinfoProbe::new(root), (), place, INTERVAL, TIMEOUT);
            self.probe = root.join("proc/allocinfo").exists().then(start);
        }
        self.probe.as_mut()
    }

    fn take(&mut self, seen: &Allocations, memory: Option<u64>) {
        if self.taken_at.replace(seen.read_at) == Some(seen.read_at) {
            return;
        }
        self.watched
            .retain(|name, _| seen.modules.contains_key(name));
        let all = seen.modules.values().map(|it| it.bytes);
        let all = lossy(all.fold(0, u64::saturating_add));
        let limit = memory.map(|bytes| Limit {
            value: lossy(bytes),
            source: Cow::Borrowed("MemTotal"),
        });
        for (name, allocated) in &seen.modules {
            let is_new = !self.watched.contains_key(name);
            if is_new && (allocated.bytes < BYTES_MIN || self.watched.len() == WATCHED_MAX) {
                continue;
            }
            let one = self.watched.entry(name.clone()).or_insert_with(|| Watched {
                watch: leak::Watch::new(resource(name)),
                held: 0.0,
            });
            one.held = lossy(allocated.bytes);
            one.watch.set_limit(limit.clone());
            let sample = Sample {
                held: one.held,
                host_total: Some(all),
                ..Sample::default()
            };
            one.watch.observe(seen.read_at, &sample);
        }
    }
}

fn resource(module: &str) -> Resource {
    Resource {
        name: Cow::Owned(format!("module {module}")),
        scope: Scope::Host,
        limit: None,
        negligible: Resource::BYTES,
        recycle: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leak::Level;
    use crate::status::Status;
    use crate::text;
    use crate::watch::Settings;
    use std::fs;

    const MIB: u64 = 1 << 20;

    /// Ten hours, a look each minute, in which one module takes `grows` bytes more a minute.
    fn ten_hours(grows: u64) -> ModuleFigures {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir(tree.path().join("proc")).unwrap();
        let mut modules = Modules::default();
        let mut last = None;
        for minute in 0..600 {
            let bytes = 64 * MIB + minute * grows;
            let text = format!(
                "allocinfo - version: 1.0\n\
                 4096 1 mm/slub.c:10 func:alloc_slab_page\n\
                 {bytes} 9 drivers/crypto/nitrox/a.c:7 [n5pf] func:alloc\n\
                 {} 2 fs/ext4/x.c:9 [ext4] func:f\n\
                 {} 2 fs/fat/x.c:9 [fat] func:f\n",
                32 * MIB,
                MIB / 2
            );
            fs::write(tree.path().join("proc/allocinfo"), text).unwrap();
            let at = |seconds| Instant::ORIGIN.plus(Duration::from_secs(60 * minute + seconds));
            modules.poll(tree.path(), Some(32 << 30), at(0));
            if let Some(Ok(periodic)) = &modules.probe {
                periodic.wait(Duration::from_secs(60));
            }
            last = modules.poll(tree.path(), Some(32 << 30), at(1));
        }
        last.unwrap()
    }

    #[test]
    fn a_module_whose_allocations_only_grow_climbs_the_ladder_and_never_pages() {
        let seen = ten_hours(2 * MIB);
        assert_eq!(seen.error, None);
        let names: Vec<_> = seen.leaks.iter().map(|it| &*it.resource).collect();
        assert_eq!(
            names,
            ["module ext4", "module n5pf"],
            "what has little is not watched"
        );
        let [other, leaks] = &seen.leaks[..] else {
            panic!("two: {seen:?}");
        };
        assert_eq!(other.level, Level::Watching);
        assert!(
            leaks.level > Level::Watching && leaks.level < Level::Page,
            "{leaks:?}"
        );
        assert_eq!(leaks.scope, Scope::Host);
        assert_eq!(leaks.limit.as_ref().unwrap().source, "MemTotal");

        let mut status = status();
        assert_eq!(
            text::leaks(&status, None, false, None).len(),
            1,
            "no service is watched"
        );
        status.modules = Some(seen);
        let shown = |explain| text::leaks(&status, None, explain, None).join("\n");
        assert!(shown(false).contains("module n5pf") && !shown(false).contains("ext4"));
        assert!(shown(true).contains("module ext4"));
        assert!(shown(true).contains("it is of the whole host, and never pages"));
    }

    /// What a monitor shows that has looked at an empty host.
    fn status() -> Status {
        let tree = tempfile::tempdir().unwrap();
        super::super::Watch::new(Settings::of(tree.path(), tree.path()))
            .poll(Instant::ORIGIN)
            .status
    }

    #[test]
    fn a_module_that_holds_what_it_holds_is_no_leak() {
        let seen = ten_hours(0);
        assert!(seen.leaks.iter().all(|it| it.level == Level::Watching));
    }

    #[test]
    fn a_kernel_without_books_is_not_named_and_one_whose_books_are_nonsense_is() {
        let tree = tempfile::tempdir().unwrap();
        let mut modules = Modules::default();
        let at = |seconds| Instant::ORIGIN.plus(Duration::from_secs(seconds));
        assert_eq!(modules.poll(tree.path(), None, at(0)), None);
        fs::create_dir(tree.path().join("proc")).unwrap();
        fs::write(tree.path().join("proc/allocinfo"), "what?\n").unwrap();
        assert_eq!(modules.poll(tree.path(), None, at(59)), None);
        modules.poll(tree.path(), None, at(60));
        let Some(Ok(periodic)) = &modules.probe else {
            panic!("it is looked at: {modules:?}");
        };
        periodic.wait(Duration::from_secs(60));
        let seen = modules.poll(tree.path(), None, at(61)).unwrap();
        assert!(seen.error.unwrap().contains("proc/allocinfo"));
    }
}
