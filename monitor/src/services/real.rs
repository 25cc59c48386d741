//! A control group of this host, for tests by what a real kernel does: as root, in either version of the
//! hierarchy.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// A group of this host, which is removed when dropped.
pub(super) struct RealGroup {
    path: PathBuf,
    /// Its path in its hierarchy.
    pub(super) name: PathBuf,
    pub(super) is_v2: bool,
}

impl RealGroup {
    /// One in the hierarchy that has `controller`, given by `limit` what it may have; says so where none
    /// can be had.
    pub(super) fn make(
        name: &str,
        controller: &str,
        limit: impl FnOnce(&Self) -> io::Result<()>,
    ) -> Option<Self> {
        let mount = Path::new("/sys/fs/cgroup");
        let is_v2 = mount.join("cgroup.controllers").exists();
        let mount = match is_v2 {
            true => mount.to_owned(),
            false => mount.join(controller),
        };
        let name = PathBuf::from(format!("cardmon-test-{name}-{}", std::process::id()));
        let path = mount.join(&name);
        let made = fs::create_dir(&path).and_then(|()| {
            let group = Self { path, name, is_v2 };
            limit(&group).map(|()| group)
        });
        made.map_err(|error| println!("skipped: no control group can be made here: {error}"))
            .ok()
    }

    /// Writes to a file that is there: where the controller is not, it would be made.
    pub(super) fn write(&self, file: &str, value: &str) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(self.path.join(file))?;
        file.write_all(value.as_bytes())
    }

    /// What a shell does in this group if it is given `command`.
    pub(super) fn script(&self, command: &str) -> String {
        let procs = self.path.join("cgroup.procs");
        format!("echo $$ > {} && {command}", procs.display())
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
