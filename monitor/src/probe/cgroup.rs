//! Looks at one control group: the memory the kernel holds for it, its limits, and how often it hit
//! them.
//!
//! No counter of Linux says what the kernel holds for a process. Its control group comes nearest,
//! if a service has one of its own, as services of systemd do.
//!
//! Both hierarchies are understood: version 2 says what the kernel's memory is used for, version 1
//! only how much it is (Linux `Documentation/admin-guide/cgroup-v2.rst`, "Memory Interface Files",
//! and `cgroup-v1/memory.rst`).

use super::file::{Directory, TextFile, number};
use super::process::OwnerId;
use super::{Limit, Probe, ProbeError, file};
use hwshim::clock::Instant;
use std::fmt;
use std::path::{Path, PathBuf};

/// Where the hierarchies are mounted (systemd's and everybody's convention).
pub(super) const MOUNT: &str = "sys/fs/cgroup";
/// Where version 1 has the controller of memory, below that.
const V1_MEMORY: &str = "memory";
/// Where version 2 stands if version 1 has taken its place.
const V2_BESIDE_V1: &str = "unified";
/// Version 1 says "no limit" with the largest number of whole pages.
const V1_UNLIMITED: u64 = 1 << 62;

/// A control group that accounts for memory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Cgroup {
    /// By its path in the hierarchy of version 1 that has the controller of memory.
    V1(PathBuf),
    /// By its path in the hierarchy of version 2.
    V2(PathBuf),
}

impl Cgroup {
    /// The control group that accounts for a process.
    ///
    /// # Errors
    ///
    /// That there is no such process, or none of its groups can be seen from here.
    pub fn of(root: &Path, id: OwnerId) -> Result<Self, ProbeError> {
        Ok(Membership::accounting_for("memory", root, id)?.into())
    }

    /// The control group at `path` in whichever hierarchy has the controller of memory.
    ///
    /// # Errors
    ///
    /// That neither has such a group.
    pub fn at(root: &Path, path: &Path) -> Result<Self, ProbeError> {
        let path = path.strip_prefix("/").unwrap_or(path);
        let mount = root.join(MOUNT);
        if mount.join(V1_MEMORY).join(path).is_dir() {
            Ok(Self::V1(path.to_owned()))
        } else if mount.join(path).is_dir() || mount.join(V2_BESIDE_V1).join(path).is_dir() {
            Ok(Self::V2(path.to_owned()))
        } else {
            Err(ProbeError::Absent {
                what: format!("the control group {}", path.display()),
            })
        }
    }
}

impl From<Membership> for Cgroup {
    fn from(membership: Membership) -> Self {
        match membership.is_v2() {
            true => Self::V2(membership.path),
            false => Self::V1(membership.path),
        }
    }
}

/// A control group that a process is in, of one of the hierarchies.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Membership {
    /// Controllers of a hierarchy of version 1, with commas between them; none of version 2.
    controllers: String,
    /// Its path in the hierarchy.
    pub path: PathBuf,
}

impl Membership {
    /// That of a process in the hierarchy that has `controller`.
    pub(super) fn accounting_for(
        controller: &str,
        root: &Path,
        id: OwnerId,
    ) -> Result<Self, ProbeError> {
        let all = Self::all_of(root, id)?;
        Self::with(controller, all).ok_or_else(|| ProbeError::Absent {
            what: format!("a control group for {controller} of process {}", id.pid),
        })
    }

    /// The one of version 1 if that has the controller: where both are mounted, only one accounts.
    fn with(controller: &str, mut all: Vec<Self>) -> Option<Self> {
        let has = |one: &Self| one.controllers.split(',').any(|it| it == controller);
        let index = all.iter().position(has);
        let index = index.or_else(|| all.iter().position(Self::is_v2))?;
        Some(all.swap_remove(index))
    }

    /// Those of a process that can be seen from here.
    fn all_of(root: &Path, id: OwnerId) -> Result<Vec<Self>, ProbeError> {
        let directory = Directory::open(&root.join("proc").join(id.pid.to_string()))?;
        let mut buffer = Vec::new();
        let stat = directory.file("stat").parse(
            &mut buffer,
            "the status of a process",
            super::process::Stat::parse,
        )?;
        if stat.start_time_ticks != id.start_time_ticks {
            return Err(ProbeError::Absent {
                what: format!("process {} started then", id.pid),
            });
        }
        directory
            .file("cgroup")
            .parse(&mut buffer, "a list of control groups", Self::parse)
    }

    pub(super) const fn is_v2(&self) -> bool {
        self.controllers.is_empty()
    }

    fn parse(text: &str) -> Option<Vec<Self>> {
        let mut found = Vec::new();
        for line in text.lines() {
            let mut parts = line.splitn(3, ':');
            let (hierarchy, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            hierarchy.parse::<u32>().ok()?;
            // A path that leads up is one outside of this namespace.
            if !path.split('/').any(|part| part == "..") {
                found.push(Self {
                    controllers: controllers.to_owned(),
                    path: PathBuf::from(path.trim_start_matches('/')),
                });
            }
        }
        Some(found)
    }
}

/// Where version 2 is mounted, given where all of them are.
pub(super) fn v2_mount(mount: &Path) -> PathBuf {
    let beside = mount.join(V2_BESIDE_V1);
    if beside.is_dir() {
        beside
    } else {
        mount.to_owned()
    }
}

impl fmt::Display for Cgroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::V1(path) | Self::V2(path)) = self;
        write!(f, "/{}", path.display())
    }
}

/// Memory of a control group and of all groups below it.
#[derive(Clone, Debug)]
pub struct CgroupMemory {
    /// It is another group of that name than at the look before, and has counted from nothing.
    pub is_another: bool,
    /// Everything it is charged for.
    pub used_bytes: Result<u64, ProbeError>,
    /// The most that ever was.
    pub peak_bytes: Result<u64, ProbeError>,
    /// How much it may be charged for.
    pub limit: Result<Limit, ProbeError>,
    /// What the kernel holds for it.
    pub kernel: Result<KernelMemory, ProbeError>,
    /// How often it hit its limits.
    pub events: Result<CgroupEvents, ProbeError>,
}

/// What the kernel holds for a control group. `None` is what this kernel does not say.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct KernelMemory {
    /// All of it; since Linux 5.18, and in version 1.
    pub total_bytes: Option<u64>,
    /// Stacks of threads.
    pub stack_bytes: Option<u64>,
    /// Page tables.
    pub page_tables_bytes: Option<u64>,
    /// Page tables of IOMMUs and virtual machines; since Linux 6.1.
    pub secondary_page_tables_bytes: Option<u64>,
    /// Memory that each CPU has for itself.
    pub percpu_bytes: Option<u64>,
    /// Buffers of sockets; in version 1, of TCP only.
    pub sockets_bytes: Option<u64>,
    /// Mapped piece by piece; since Linux 5.18.
    pub vmalloc_bytes: Option<u64>,
    /// Objects that it can give back.
    pub slab_reclaimable_bytes: Option<u64>,
    /// Objects that it cannot.
    pub slab_unreclaimable_bytes: Option<u64>,
}

impl KernelMemory {
    fn parse(text: &str) -> Option<Self> {
        let mut memory = Self::default();
        for line in text.lines() {
            let (name, value) = line.split_once(' ')?;
            let field = match name {
                "kernel" => &mut memory.total_bytes,
                "kernel_stack" => &mut memory.stack_bytes,
                "pagetables" => &mut memory.page_tables_bytes,
                "sec_pagetables" => &mut memory.secondary_page_tables_bytes,
                "percpu" => &mut memory.percpu_bytes,
                "sock" => &mut memory.sockets_bytes,
                "vmalloc" => &mut memory.vmalloc_bytes,
                "slab_reclaimable" => &mut memory.slab_reclaimable_bytes,
                "slab_unreclaimable" => &mut memory.slab_unreclaimable_bytes,
                _ => continue,
            };
            *field = Some(value.parse().ok()?);
        }
        Some(memory)
    }
}

/// How often a control group hit its limits. `None` is what this kernel does not count.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct CgroupEvents {
    /// Slowed down because it was above `memory.high`.
    pub high: Option<u64>,
    /// At its limit (`max`; in version 1 `memory.failcnt`, and `memory.memsw.failcnt` where swap is
    /// accounted for: who may have no swap is at that limit first, which Linux 6.18 does not count).
    pub max: Option<u64>,
    /// Could not get below its limit.
    pub oom: Option<u64>,
    /// Processes of it that were killed for that.
    pub oom_kills: Option<u64>,
}

impl CgroupEvents {
    fn parse(text: &str) -> Option<Self> {
        let mut events = Self::default();
        for line in text.lines() {
            let (name, value) = line.split_once(' ')?;
            let field = match name {
                "high" => &mut events.high,
                "max" => &mut events.max,
                "oom" => &mut events.oom,
                "oom_kill" => &mut events.oom_kills,
                _ => continue,
            };
            *field = Some(value.parse().ok()?);
        }
        Some(events)
    }
}

/// Looks at one control group.
#[derive(Debug)]
pub struct CgroupProbe {
    mount: PathBuf,
    files: Option<(Cgroup, Files)>,
    buffer: Vec<u8>,
}

#[derive(Debug)]
enum Files {
    V1(Box<FilesV1>),
    V2(Box<FilesV2>),
}

#[derive(Debug)]
struct FilesV1 {
    usage: TextFile,
    max_usage: TextFile,
    limit: TextFile,
    failcnt: TextFile,
    memsw_failcnt: TextFile,
    oom_control: TextFile,
    kmem_usage: TextFile,
    kmem_tcp_usage: TextFile,
}

#[derive(Debug)]
struct FilesV2 {
    current: TextFile,
    peak: TextFile,
    max: TextFile,
    stat: TextFile,
    events: TextFile,
}

impl CgroupProbe {
    /// Looks under `root`: `/` is this host, anything else a captured tree.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            mount: root.join(MOUNT),
            files: None,
            buffer: Vec::new(),
        }
    }

    fn open(&self, cgroup: &Cgroup) -> Result<Files, ProbeError> {
        Ok(match cgroup {
            Cgroup::V1(path) => {
                let directory = Directory::open(&self.mount.join(V1_MEMORY).join(path))?;
                Files::V1(Box::new(FilesV1::open(&directory)))
            }
            Cgroup::V2(path) => {
                let directory = Directory::open(&v2_mount(&self.mount).join(path))?;
                Files::V2(Box::new(FilesV2::open(&directory)))
            }
        })
    }
}

impl Probe for CgroupProbe {
    type Subject = Cgroup;
    type Observation = CgroupMemory;

    fn name(&self) -> &'static str {
        "cgroup"
    }

    fn observe(&mut self, subject: &Cgroup, _now: Instant) -> Result<CgroupMemory, ProbeError> {
        // The files belong to the group they were opened in. A service that is started again gets
        // another group of the same name, so files that have nothing to say any more are let go.
        let known = self.files.take().filter(|(known, _)| known == subject);
        let is_another = known.is_some();
        if let Some((_, mut files)) = known {
            let seen = files.read(&mut self.buffer);
            if !is_gone(&seen) {
                self.files = Some((subject.clone(), files));
                return Ok(seen);
            }
        }
        let mut files = self.open(subject)?;
        let seen = files.read(&mut self.buffer);
        self.files = Some((subject.clone(), files));
        Ok(CgroupMemory { is_another, ..seen })
    }
}

fn is_gone(seen: &CgroupMemory) -> bool {
    let is_absent = |error: Option<&ProbeError>| matches!(error, Some(ProbeError::Absent { .. }));
    is_absent(seen.used_bytes.as_ref().err()) && is_absent(seen.kernel.as_ref().err())
}

impl Files {
    fn read(&mut self, buffer: &mut Vec<u8>) -> CgroupMemory {
        match self {
            Self::V1(files) => files.read(buffer),
            Self::V2(files) => files.read(buffer),
        }
    }
}

impl FilesV1 {
    fn open(directory: &Directory) -> Self {
        Self {
            usage: directory.file("memory.usage_in_bytes"),
            max_usage: directory.file("memory.max_usage_in_bytes"),
            limit: directory.file("memory.limit_in_bytes"),
            failcnt: directory.file("memory.failcnt"),
            memsw_failcnt: directory.file("memory.memsw.failcnt"),
            oom_control: directory.file("memory.oom_control"),
            kmem_usage: directory.file("memory.kmem.usage_in_bytes"),
            kmem_tcp_usage: directory.file("memory.kmem.tcp.usage_in_bytes"),
        }
    }

    fn read(&mut self, buffer: &mut Vec<u8>) -> CgroupMemory {
        let kernel = bytes(&mut self.kmem_usage, buffer).and_then(|total| {
            Ok(KernelMemory {
                total_bytes: Some(total),
                sockets_bytes: if_there(bytes(&mut self.kmem_tcp_usage, buffer))?,
                ..KernelMemory::default()
            })
        });
        let events = self
            .oom_control
            .parse(buffer, "events of a control group", CgroupEvents::parse)
            .and_then(|events| {
                let with_swap = if_there(bytes(&mut self.memsw_failcnt, buffer))?;
                let of_memory = bytes(&mut self.failcnt, buffer)?;
                Ok(CgroupEvents {
                    max: Some(of_memory.saturating_add(with_swap.unwrap_or(0))),
                    ..events
                })
            });
        CgroupMemory {
            is_another: false,
            used_bytes: bytes(&mut self.usage, buffer),
            peak_bytes: bytes(&mut self.max_usage, buffer),
            limit: bytes(&mut self.limit, buffer).map(|limit| match limit {
                V1_UNLIMITED.. => Limit::Unlimited,
                limit => Limit::At(limit),
            }),
            kernel,
            events,
        }
    }
}

impl FilesV2 {
    fn open(directory: &Directory) -> Self {
        Self {
            current: directory.file("memory.current"),
            peak: directory.file("memory.peak"),
            max: directory.file("memory.max"),
            stat: directory.file("memory.stat"),
            events: directory.file("memory.events"),
        }
    }

    fn read(&mut self, buffer: &mut Vec<u8>) -> CgroupMemory {
        CgroupMemory {
            is_another: false,
            used_bytes: bytes(&mut self.current, buffer),
            peak_bytes: bytes(&mut self.peak, buffer),
            limit: self
                .max
                .parse(buffer, "a limit", |text| match file::bare(text) {
                    "max" => Some(Limit::Unlimited),
                    limit => limit.parse().ok().map(Limit::At),
                }),
            kernel: self
                .stat
                .parse(buffer, "memory of a control group", KernelMemory::parse),
            events: self
                .events
                .parse(buffer, "events of a control group", CgroupEvents::parse),
        }
    }
}

fn bytes(file: &mut TextFile, buffer: &mut Vec<u8>) -> Result<u64, ProbeError> {
    file.parse(buffer, "a number", number)
}

/// What there need not be.
fn if_there<T>(seen: Result<T, ProbeError>) -> Result<Option<T>, ProbeError> {
    match seen {
        Ok(seen) => Ok(Some(seen)),
        Err(ProbeError::Absent { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::{Mortal, Tree};
    use super::*;

    const ID: OwnerId = OwnerId {
        pid: 4321,
        start_time_ticks: 987_654,
    };

    fn look(tree: &Tree, cgroup: &Cgroup) -> Result<CgroupMemory, ProbeError> {
        CgroupProbe::new(tree.root()).observe(cgroup, Instant::ORIGIN)
    }

    #[test]
    fn version_2_says_what_the_kernels_memory_is_used_for() {
        let tree = Tree::captured("cgroup-v2");
        let cgroup = Cgroup::of(tree.root(), ID).unwrap();
        assert_eq!(cgroup.to_string(), "/system.slice/hardserver.service");
        let memory = look(&tree, &cgroup).unwrap();
        assert_eq!(memory.used_bytes.unwrap(), 41_943_040);
        assert_eq!(memory.peak_bytes.unwrap(), 62_914_560);
        assert_eq!(memory.limit.unwrap(), Limit::At(67_108_864));
        assert_eq!(
            memory.kernel.unwrap(),
            KernelMemory {
                total_bytes: Some(13_736_346),
                stack_bytes: Some(114_688),
                page_tables_bytes: Some(221_184),
                secondary_page_tables_bytes: Some(4096),
                percpu_bytes: Some(1152),
                sockets_bytes: Some(8192),
                vmalloc_bytes: Some(32_768),
                slab_reclaimable_bytes: Some(1_048_576),
                slab_unreclaimable_bytes: Some(12_320_768),
            }
        );
        assert_eq!(
            memory.events.unwrap(),
            CgroupEvents {
                high: Some(2),
                max: Some(7),
                oom: Some(3),
                oom_kills: Some(1),
            }
        );
    }

    #[test]
    fn version_1_says_how_much_the_kernel_holds() {
        let tree = Tree::captured("host-6.18");
        let cgroup = Cgroup::of(tree.root(), ID).unwrap();
        assert_eq!(cgroup, Cgroup::V1(PathBuf::from("services/hardserver")));
        let memory = look(&tree, &cgroup).unwrap();
        assert_eq!(memory.used_bytes.unwrap(), 20_971_520);
        assert_eq!(memory.limit.unwrap(), Limit::Unlimited);
        let kernel = memory.kernel.unwrap();
        assert_eq!(kernel.total_bytes, Some(13_631_488));
        assert_eq!(kernel.sockets_bytes, Some(4096));
        assert_eq!(kernel.slab_unreclaimable_bytes, None, "it does not say");
        let events = memory.events.unwrap();
        assert_eq!((events.max, events.oom_kills), (Some(5), Some(1)));
        let with_swap = "sys/fs/cgroup/memory/services/hardserver/memory.memsw.failcnt";
        tree.write(with_swap, "2\n");
        let memory = look(&tree, &cgroup).unwrap();
        assert_eq!(memory.events.unwrap().max, Some(7), "of either limit");
    }

    #[test]
    fn a_group_of_the_same_name_is_seen_when_the_one_before_has_gone() {
        const GROUP: &str = "sys/fs/cgroup/system.slice/hardserver.service";
        let tree = Tree::captured("cgroup-v2");
        let cgroup = Cgroup::of(tree.root(), ID).unwrap();
        let mortal = Mortal::new();
        tree.remove(GROUP);
        tree.link(&format!("{GROUP}/memory.current"), &mortal.path());
        let mut probe = CgroupProbe::new(tree.root());
        probe.observe(&cgroup, Instant::ORIGIN).unwrap();
        mortal.end();
        tree.remove(GROUP);
        tree.write(&format!("{GROUP}/memory.current"), "7\n");
        let memory = probe.observe(&cgroup, Instant::ORIGIN).unwrap();
        assert_eq!(memory.used_bytes.unwrap(), 7);
    }

    #[test]
    fn a_group_that_is_not_there_is_absent_until_it_is() {
        const GROUP: &str = "sys/fs/cgroup/system.slice/hardserver.service";
        let tree = Tree::captured("cgroup-v2");
        let cgroup = Cgroup::of(tree.root(), ID).unwrap();
        let mut probe = CgroupProbe::new(tree.root());
        tree.remove(GROUP);
        let error = probe.observe(&cgroup, Instant::ORIGIN).unwrap_err();
        assert_eq!(error.kind(), "absent");
        tree.write(&format!("{GROUP}/memory.current"), "7\n");
        let memory = probe.observe(&cgroup, Instant::ORIGIN).unwrap();
        assert_eq!(memory.used_bytes.unwrap(), 7);
        assert_eq!(memory.kernel.unwrap_err().kind(), "absent");
    }

    #[test]
    fn a_list_of_groups_is_understood_or_said_to_be_none() {
        let parse = |text| {
            let all = Membership::parse(text)?;
            Some(Membership::with("memory", all).map(Cgroup::from))
        };
        let v2 = |path: &str| Some(Some(Cgroup::V2(PathBuf::from(path))));
        assert_eq!(parse("0::/a/b\n"), v2("a/b"));
        assert_eq!(parse("0::/\n1:cpu,cpuacct:/x\n"), v2(""));
        assert_eq!(
            parse("0::/a\n5:memory,hugetlb:/with:colon\n"),
            Some(Some(Cgroup::V1(PathBuf::from("with:colon"))))
        );
        assert_eq!(parse("0::/../outside\n"), Some(None));
        assert_eq!(parse("0:/a\n"), None);
        assert_eq!(parse("x::/a\n"), None);
    }

    #[test]
    fn a_process_of_that_number_that_started_at_another_time_has_none() {
        let tree = Tree::captured("cgroup-v2");
        let other = OwnerId {
            start_time_ticks: 1,
            ..ID
        };
        let error = Cgroup::of(tree.root(), other).unwrap_err();
        assert_eq!(error.kind(), "absent");
    }

    #[test]
    fn the_group_of_this_process_is_seen_where_this_host_lets_it() {
        let id = OwnerId::of_this_process().unwrap();
        match Cgroup::of(Path::new("/"), id) {
            Ok(cgroup) => {
                let seen = CgroupProbe::new(Path::new("/")).observe(&cgroup, Instant::ORIGIN);
                // A container may show the name of a group whose directory it does not.
                if let Err(error) = seen {
                    assert_eq!(error.kind(), "absent", "{error}");
                }
            }
            Err(error) => assert_eq!(error.kind(), "absent", "{error}"),
        }
    }
}
