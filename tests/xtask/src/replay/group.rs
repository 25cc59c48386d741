//! A control group of this host, made for a replay and removed with the value: the only way to give
//! real processes less than there is without taking it from everybody else.
//!
//! Both hierarchies are served, as cardmon reads both (Linux `Documentation/admin-guide/cgroup-v2.rst`
//! and `cgroup-v1/`).

use crate::outcome::Unavailable;
use anyhow::Context as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::thread;
use std::time::Duration;

const MOUNT: &str = "/sys/fs/cgroup";

/// What a group can be given less of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Controller {
    Memory,
    Cpu,
}

impl Controller {
    const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
        }
    }
}

/// A control group. Processes in it must have ended when it is dropped; else it is left behind,
/// and that is said.
#[derive(Debug)]
pub(super) struct Group {
    directory: PathBuf,
    mount: PathBuf,
    is_v2: bool,
}

impl Group {
    /// Makes a group of this process's own name.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] if nobody but another user may, or the controller is nowhere.
    pub(super) fn make(controller: Controller) -> anyhow::Result<Self> {
        let name = controller.name();
        let v1 = Path::new(MOUNT).join(name);
        let is_v2 = !v1.join("cgroup.procs").exists();
        let mount = if is_v2 { PathBuf::from(MOUNT) } else { v1 };
        let directory = mount.join(format!("hwshim-replay-{}", process::id()));
        let made = fs::create_dir(&directory).map_err(|error| {
            Unavailable(format!(
                "{} cannot be made ({error}); control groups take root, and a kernel that lets this \
                 container write them",
                directory.display()
            ))
        });
        made?;
        let group = Self {
            directory,
            mount,
            is_v2,
        };
        if is_v2 && !group.read("cgroup.controllers")?.contains(name) {
            let why =
                format!("the controller {name} is not enabled in {MOUNT}/cgroup.subtree_control");
            return Err(Unavailable(why).into());
        }
        Ok(group)
    }

    /// Makes a group inside this one, which then has no processes of its own.
    pub(super) fn inner(&self, name: &str) -> anyhow::Result<Self> {
        if self.is_v2 {
            self.write("cgroup.subtree_control", "+memory")?;
        }
        let directory = self.directory.join(name);
        fs::create_dir(&directory)
            .with_context(|| format!("{} cannot be made", directory.display()))?;
        Ok(Self {
            directory,
            mount: self.mount.clone(),
            is_v2: self.is_v2,
        })
    }

    /// Its path in its hierarchy, as cardmon's configuration has it.
    pub(super) fn path(&self) -> String {
        let path = self.directory.strip_prefix(&self.mount);
        format!("/{}", path.unwrap_or(&self.directory).display())
    }

    /// All processes in it together may hold so much, the kernel's memory for them included.
    pub(super) fn limit_memory(&self, bytes: u64) -> anyhow::Result<()> {
        let file = if self.is_v2 {
            "memory.max"
        } else {
            "memory.limit_in_bytes"
        };
        self.write(file, &bytes.to_string())
    }

    /// Its processes get `quota` of CPU time in each `period`, all together; `None` for all they
    /// want.
    pub(super) fn limit_cpu(
        &self,
        quota: Option<Duration>,
        period: Duration,
    ) -> anyhow::Result<()> {
        let quota = quota.map(|quota| quota.as_micros().to_string());
        let period = period.as_micros();
        if self.is_v2 {
            let quota = quota.unwrap_or_else(|| "max".to_owned());
            return self.write("cpu.max", &format!("{quota} {period}"));
        }
        self.write("cpu.cfs_period_us", &period.to_string())?;
        self.write(
            "cpu.cfs_quota_us",
            &quota.unwrap_or_else(|| "-1".to_owned()),
        )
    }

    /// The same command, started in this group.
    pub(super) fn within(&self, command: &Command) -> Command {
        let mut inside = crate::process::bound("sh");
        inside.arg("-c").arg("echo $$ > \"$0\" && exec \"$@\"");
        inside.arg(self.directory.join("cgroup.procs"));
        inside.arg(command.get_program()).args(command.get_args());
        inside
    }

    /// Has a process that is in it leave it; those that it has started stay.
    pub(super) fn release(&self, pid: u32) -> anyhow::Result<()> {
        let root = self.mount.join("cgroup.procs");
        fs::write(&root, pid.to_string())
            .with_context(|| format!("{pid} cannot be moved to {}", root.display()))
    }

    pub(super) fn read(&self, file: &str) -> anyhow::Result<String> {
        let path = self.directory.join(file);
        fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))
    }

    fn write(&self, file: &str, text: &str) -> anyhow::Result<()> {
        let path = self.directory.join(file);
        fs::write(&path, text)
            .with_context(|| format!("{text} cannot be written to {}", path.display()))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Who was killed is in it until the kernel has cleaned up.
        for _ in 0..50 {
            if fs::remove_dir(&self.directory).is_ok() || !self.directory.exists() {
                return;
            }
            #[expect(
                clippy::disallowed_methods,
                reason = "waits for the kernel, which tells nobody"
            )]
            thread::sleep(Duration::from_millis(20));
        }
        eprintln!("{} is left behind: rmdir it", self.directory.display());
    }
}
