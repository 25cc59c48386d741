//! The control groups that a service's memory is charged to: its own and each one above that. What
//! each may be charged for, and at whose limit somebody was killed.
//!
//! A limit of any of them holds for all that is below it. The kernel counts a kill in the group of who
//! was killed and in all above, and that a limit was hit in the group that has the limit and in all
//! above (Linux `Documentation/admin-guide/cgroup-v2.rst`, "Memory Interface Files", `oom_kill` and
//! `oom`). So the lowest group that counts both has the limit, and where none counts the second it was
//! the host's memory that was short:
//!
//! ```text
//!   /               nothing is counted here
//!   /shop           oom +1, oom_kill +1      limit 2 GiB: it was hit
//!   /shop/web       oom  0, oom_kill +1      its process was killed
//! ```
//!
//! Version 1 counts a kill and a limit where they are, and nothing above.

use super::senses::Senses;
use crate::probe::{Cgroup, CgroupMemory, Limit};
use hwshim::clock::Instant;
use std::time::Duration;

/// Whoever was killed is seen to be away within that: it is asked each ten seconds, and given three
/// to answer.
pub(super) const KILL_NEAR: Duration = Duration::from_secs(15);
/// Time between two looks at the groups above, whose limits hardly ever change.
const ABOVE_INTERVAL: Duration = Duration::from_secs(10);

/// The groups of one service, also when its last process has gone.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// Its own, and upwards.
    chain: Vec<Group>,
    looked_above_at: Option<Instant>,
}

#[derive(Debug)]
struct Group {
    cgroup: Cgroup,
    limit: Option<u64>,
    /// Whether it told its counters when it was looked at last, and before.
    tells: bool,
    kills: Rises,
    at_limit: Rises,
}

impl Groups {
    /// From now on the service is in that group.
    pub(super) fn follow(&mut self, own: Option<&Cgroup>) {
        if self.own() != own {
            *self = Self {
                chain: own.map(chain).unwrap_or_default(),
                looked_above_at: None,
            };
        }
    }

    /// The control group of its last process, whose counters may be read when that has gone.
    pub(super) fn own(&self) -> Option<&Cgroup> {
        self.chain.first().map(|own| &own.cgroup)
    }

    /// Takes in what its own has told, and looks at those above if it is time to, or if it `is_news`
    /// what they count.
    pub(super) fn poll(
        &mut self,
        own: Option<&CgroupMemory>,
        is_news: bool,
        senses: &dyn Senses,
        now: Instant,
    ) {
        let Some((first, above)) = self.chain.split_first_mut() else {
            return;
        };
        first.take(own, now);
        let is_due = |at: Instant| now >= at.plus(ABOVE_INTERVAL);
        if is_news || first.kills.rose_at(now) || self.looked_above_at.is_none_or(is_due) {
            self.looked_above_at = Some(now);
            for group in above {
                group.take(senses.look_above(&group.cgroup).as_ref(), now);
            }
        }
    }

    /// The least that any of them may be charged for, and which.
    pub(super) fn limit(&self) -> Option<(&Cgroup, u64)> {
        let limits = self.chain.iter();
        limits
            .filter_map(|group| Some((&group.cgroup, group.limit?)))
            .min_by_key(|(_, limit)| *limit)
    }

    /// Whether somebody of its group was killed lately, or of the lowest above it that tells: a group
    /// that has become empty is removed. `None` if none does.
    pub(super) fn counted_a_kill(&self, now: Instant) -> Option<bool> {
        let mut groups = self.chain.iter().enumerate();
        let (_, told) = groups.find(|(index, group)| {
            let counts_those_below = matches!(group.cgroup, Cgroup::V2(_));
            group.tells && (*index == 0 || counts_those_below)
        })?;
        Some(told.kills.was_within(KILL_NEAR, now))
    }

    /// The group whose limit was hit lately, the lowest if several were; none if it was not one of
    /// these. It is not asked for but after a kill.
    pub(super) fn limit_hit(&self, now: Instant) -> Option<&Cgroup> {
        let was_hit = |group: &Group| group.tells && group.at_limit.was_within(KILL_NEAR, now);
        let hit = self.chain.iter().position(was_hit)?;
        // One below that tells nothing any more may have been the one.
        let untold = self.chain[..hit].iter().rev();
        let untold = untold.take_while(|group| !group.tells).count();
        let mut candidates = self.chain[hit - untold..=hit].iter();
        let limited = candidates.find(|group| group.limit.is_some());
        // Without a limit of its own, it was one of a group within it.
        let within = || self.chain.first().filter(|_| hit == 0);
        limited.or_else(within).map(|group| &group.cgroup)
    }

    /// Whether what it is charged for is charged to `group`.
    pub(super) fn are_within(&self, group: &Cgroup) -> bool {
        self.chain.iter().any(|it| it.cgroup == *group)
    }
}

impl Group {
    fn take(&mut self, memory: Option<&CgroupMemory>, now: Instant) {
        match memory.map(|memory| &memory.limit) {
            Some(Ok(Limit::At(limit))) => self.limit = Some(*limit),
            Some(Ok(Limit::Unlimited)) => self.limit = None,
            // It was what it was before.
            Some(Err(_)) | None => {}
        }
        // The one before may have counted a kill when it was removed, which nobody can read any more.
        if memory.is_some_and(|memory| memory.is_another) {
            self.kills.counted = None;
            self.at_limit.counted = None;
        }
        let events = memory.and_then(|memory| memory.events.as_ref().ok());
        let kills = events.and_then(|events| events.oom_kills);
        self.tells = kills.is_some() && self.kills.counted.is_some();
        self.kills.take(kills, now);
        // Version 1 counts only that it was at its limit.
        let at_limit = events.and_then(|events| events.oom.or(events.max));
        self.at_limit.take(at_limit, now);
    }
}

/// A group and all above it, the lowest first. The root is among them: seen from a container, it is
/// the container's own group and may have a limit.
fn chain(own: &Cgroup) -> Vec<Group> {
    let (Cgroup::V1(path) | Cgroup::V2(path)) = own;
    let groups = path.ancestors().map(|path| Group {
        cgroup: match own {
            Cgroup::V1(_) => Cgroup::V1(path.to_owned()),
            Cgroup::V2(_) => Cgroup::V2(path.to_owned()),
        },
        limit: None,
        tells: false,
        kills: Rises::default(),
        at_limit: Rises::default(),
    });
    groups.collect()
}

/// A counter, and when it was last found to have risen.
#[derive(Debug, Default)]
pub(super) struct Rises {
    counted: Option<u64>,
    last_at: Option<Instant>,
}

impl Rises {
    pub(super) fn take(&mut self, counted: Option<u64>, now: Instant) {
        let Some(counted) = counted else {
            return;
        };
        if self.counted.is_some_and(|before| counted > before) {
            self.last_at = Some(now);
        }
        self.counted = Some(counted);
    }

    pub(super) fn was_within(&self, time: Duration, now: Instant) -> bool {
        self.last_at.is_some_and(|at| now.since(at) < time)
    }

    pub(super) fn rose_at(&self, now: Instant) -> bool {
        self.last_at == Some(now)
    }

    /// Whether it has ever been told.
    pub(super) const fn is_known(&self) -> bool {
        self.counted.is_some()
    }
}

#[cfg(test)]
mod real;

#[cfg(test)]
pub(super) mod tests {
    use super::super::ServiceSettings;
    use super::super::senses::Kernel;
    use super::*;
    use crate::probe::{ProbeError, Whereabouts};
    use std::fs;
    use std::path::PathBuf;
    use tempfile::TempDir;

    /// A host with control groups, in files.
    pub(in super::super) struct Site {
        tree: TempDir,
        senses: Kernel,
    }

    impl Site {
        pub(in super::super) fn new() -> Self {
            let tree = tempfile::tempdir().unwrap();
            Self {
                senses: senses(&tree),
                tree,
            }
        }

        fn path(&self, group: &str) -> PathBuf {
            self.tree.path().join("sys/fs/cgroup").join(group)
        }

        /// The group has that limit, and has counted so often that it was hit, and so many kills.
        pub(in super::super) fn group(&self, group: &str, limit: &str, oom: u64, kills: u64) {
            let path = self.path(group);
            fs::create_dir_all(&path).unwrap();
            let write = |name, text: String| fs::write(path.join(name), text).unwrap();
            write("memory.current", "1\n".to_owned());
            write("memory.max", format!("{limit}\n"));
            write(
                "memory.events",
                format!("high 0\nmax 9\noom {oom}\noom_kill {kills}\n"),
            );
        }

        /// Who has a file of the group open reads nothing more in it.
        pub(in super::super) fn remove(&mut self, group: &str) {
            fs::remove_dir_all(self.path(group)).unwrap();
            self.senses = senses(&self.tree);
        }

        pub(in super::super) fn poll(&mut self, groups: &mut Groups, is_news: bool, now: Instant) {
            let own = groups.own().unwrap();
            let memory = self.senses.look_at_cgroup(own, now);
            groups.poll(memory.as_ref(), is_news, &self.senses, now);
        }
    }

    fn senses(tree: &TempDir) -> Kernel {
        let process = Whereabouts::PidFile(tree.path().join("pid"));
        Kernel::new(&ServiceSettings::new("web", process), tree.path())
    }

    pub(in super::super) fn groups_of(own: &str) -> Groups {
        let mut groups = Groups::default();
        groups.follow(Some(&Cgroup::V2(own.into())));
        groups
    }

    /// A group of which nothing can be read.
    pub(in super::super) fn unread() -> CgroupMemory {
        let torn = || ProbeError::Torn { path: "/p".into() };
        CgroupMemory {
            is_another: false,
            used_bytes: Err(torn()),
            peak_bytes: Err(torn()),
            limit: Err(torn()),
            kernel: Err(torn()),
            events: Err(torn()),
        }
    }

    pub(in super::super) fn at(seconds: u64) -> Instant {
        Instant::ORIGIN.plus(Duration::from_secs(seconds))
    }

    fn v2(path: &str) -> Cgroup {
        Cgroup::V2(path.into())
    }

    /// What is known after a kill of a process of `shop/web`, where `shop` and `shop/web` had those
    /// limits and have counted these since, `None` for a group that has been removed.
    fn after_a_kill(
        limits: [&str; 2],
        [shop, web]: [Option<(u64, u64)>; 2],
    ) -> (Option<bool>, Option<Cgroup>) {
        let (mut site, mut groups) = (Site::new(), groups_of("shop/web"));
        for (group, limit) in ["shop", "shop/web"].into_iter().zip(limits) {
            site.group(group, limit, 3, 5);
        }
        site.poll(&mut groups, false, at(1));
        let counted = [("shop/web", limits[1], web), ("shop", limits[0], shop)];
        for (group, limit, counted) in counted {
            match counted {
                Some((oom, kills)) => site.group(group, limit, 3 + oom, 5 + kills),
                None => site.remove(group),
            }
        }
        site.poll(&mut groups, true, at(2));
        let limit = groups.limit_hit(at(2)).cloned();
        assert_eq!(groups.limit_hit(at(17)), None, "that was long ago");
        (groups.counted_a_kill(at(2)), limit)
    }

    #[test]
    fn the_lowest_group_that_counts_that_its_limit_was_hit_is_the_one() {
        let limits = ["4096", "1024"];
        let of = |limits, counted| after_a_kill(limits, counted);
        let shop = (Some(true), Some(v2("shop")));
        let web = (Some(true), Some(v2("shop/web")));
        assert_eq!(of(limits, [Some((1, 1)), Some((1, 1))]), web);
        assert_eq!(of(limits, [Some((1, 1)), Some((0, 1))]), shop);
        // It was the host that wanted memory.
        let by_host = (Some(true), None);
        assert_eq!(of(limits, [Some((0, 1)), Some((0, 1))]), by_host);
        // What happened in a group beside it.
        let beside = (Some(false), Some(v2("shop")));
        assert_eq!(of(limits, [Some((1, 1)), Some((0, 0))]), beside);
        // At the limit of a group without one, another within it was killed, or above it, beside it.
        assert_eq!(of(["4096", "max"], [Some((1, 1)), Some((1, 1))]), web);
        assert_eq!(of(["max", "1024"], [Some((1, 1)), Some((0, 1))]), by_host);
    }

    #[test]
    fn a_group_that_was_removed_with_who_was_killed_is_spoken_for_by_the_one_above() {
        let of = |limits, shop| after_a_kill(limits, [Some(shop), None]);
        let (web, shop) = (Some(v2("shop/web")), Some(v2("shop")));
        assert_eq!(of(["4096", "1024"], (1, 1)), (Some(true), web));
        assert_eq!(of(["4096", "max"], (1, 1)), (Some(true), shop));
        assert_eq!(of(["4096", "1024"], (0, 1)), (Some(true), None));
        assert_eq!(of(["4096", "1024"], (0, 0)), (Some(false), None));
        let nobody_tells = after_a_kill(["4096", "1024"], [None, None]);
        assert_eq!(nobody_tells, (None, None));
    }

    #[test]
    fn a_group_that_was_made_again_is_spoken_for_by_the_one_above() {
        let (mut site, mut groups) = (Site::new(), groups_of("shop/web"));
        site.group("shop/web", "max", 0, 0);
        site.group("shop", "max", 3, 5);
        site.poll(&mut groups, false, at(1));
        site.group("shop", "max", 3, 6);
        let own = groups.own().unwrap().clone();
        let seen = site.senses.look_at_cgroup(&own, at(2)).unwrap();
        let made_again = CgroupMemory {
            is_another: true,
            ..seen
        };
        groups.poll(Some(&made_again), true, &site.senses, at(2));
        assert_eq!(groups.counted_a_kill(at(2)), Some(true));
    }

    #[test]
    fn the_least_limit_of_all_groups_holds_and_one_that_is_not_read_is_what_it_was() {
        let (mut site, mut groups) = (Site::new(), groups_of("shop/web"));
        site.group("shop/web", "max", 0, 0);
        site.poll(&mut groups, false, at(1));
        assert_eq!(groups.limit(), None);
        // Looked at each ten seconds.
        site.group("shop", "2048", 0, 0);
        site.poll(&mut groups, false, at(10));
        assert_eq!(groups.limit(), None);
        site.poll(&mut groups, false, at(11));
        assert_eq!(groups.limit(), Some((&v2("shop"), 2048)));
        site.group("shop/web", "4096", 0, 0);
        site.poll(&mut groups, false, at(12));
        assert_eq!(groups.limit(), Some((&v2("shop"), 2048)));
        site.group("shop/web", "1024", 0, 0);
        site.poll(&mut groups, false, at(13));
        assert_eq!(groups.limit(), Some((&v2("shop/web"), 1024)));
        site.remove("shop/web");
        site.poll(&mut groups, false, at(14));
        assert_eq!(groups.limit(), Some((&v2("shop/web"), 1024)));
    }

    #[test]
    fn of_version_1_only_the_group_itself_tells_of_a_kill() {
        let mut groups = Groups::default();
        groups.follow(Some(&Cgroup::V1("shop/web".into())));
        let kills = |groups: &mut Groups, index: usize, kills: u64, second| {
            let group = &mut groups.chain[index];
            group.tells = group.kills.counted.is_some();
            group.kills.take(Some(kills), at(second));
        };
        kills(&mut groups, 1, 3, 1);
        kills(&mut groups, 1, 3, 2);
        assert_eq!(groups.counted_a_kill(at(2)), None);
        kills(&mut groups, 0, 3, 1);
        kills(&mut groups, 0, 4, 2);
        assert_eq!(groups.counted_a_kill(at(2)), Some(true));
    }
}
