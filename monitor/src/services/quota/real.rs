//! A quota as a real kernel enforces it, where groups can be made: as root, in either version of the
//! hierarchy.

use super::*;
use crate::probe::Whereabouts;
use crate::services::ServiceSettings;
use crate::services::senses::Kernel;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

/// A group that may have a tenth of a CPU, which is removed when dropped.
struct RealGroup {
    path: PathBuf,
    name: PathBuf,
    busy: Option<Child>,
}

impl RealGroup {
    /// Says so where none can be had.
    fn make() -> Option<Self> {
        Self::try_to_make()
            .map_err(|error| println!("skipped: no quota can be had here: {error}"))
            .ok()
    }

    fn try_to_make() -> io::Result<Self> {
        let mount = Path::new("/sys/fs/cgroup");
        let is_v2 = mount.join("cgroup.controllers").exists();
        let name = PathBuf::from(format!("cardmon-test-quota-{}", std::process::id()));
        let path = if is_v2 {
            mount.join(&name)
        } else {
            mount.join("cpu").join(&name)
        };
        fs::create_dir(&path)?;
        let group = Self {
            path,
            name,
            busy: None,
        };
        match is_v2 {
            true => group.write("cpu.max", "10000 100000")?,
            false => group.write("cpu.cfs_quota_us", "10000")?,
        }
        Ok(group)
    }

    /// Writes to a file that is there: where the controller is not, it would be made.
    fn write(&self, file: &str, value: &str) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(self.path.join(file))?;
        file.write_all(value.as_bytes())
    }

    /// Has somebody in it who never has enough; who that is.
    fn keep_busy(&mut self) -> OwnerId {
        let procs = self.path.join("cgroup.procs");
        let script = format!(
            "echo $$ > {} && echo && while :; do :; done",
            procs.display()
        );
        let mut child = Command::new("sh")
            .args(["-c", &script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // When it says something it is in the group.
        let mut said = [0];
        io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).unwrap();
        let pid = child.id();
        self.busy = Some(child);
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let start_time_ticks = fields.split_whitespace().nth(19).unwrap().parse().unwrap();
        OwnerId {
            pid,
            start_time_ticks,
        }
    }
}

impl Drop for RealGroup {
    fn drop(&mut self) {
        if let Some(mut busy) = self.busy.take() {
            let _ = busy.kill();
            let _ = busy.wait();
        }
        if let Err(error) = fs::remove_dir(&self.path) {
            eprintln!("{} is left behind: {error}", self.path.display());
        }
    }
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "nobody tells when a group is held up"
)]
fn a_real_kernel_holds_up_who_has_used_up_a_quota_and_the_group_is_named() {
    let Some(mut group) = RealGroup::make() else {
        return;
    };
    let id = Some(group.keep_busy());
    let process = Whereabouts::PidFile("/nonexistent".into());
    let mut senses = Kernel::new(&ServiceSettings::new("web", process), Path::new("/"));
    let mut quotas = Quotas::default();
    let mut now = Instant::ORIGIN;
    // Five seconds for what looks, and a good one for the kernel, of which it holds up nine tenths: on a
    // host that is busy itself, not in each of them.
    for _ in 0..30 {
        quotas.poll(id, &mut senses, now);
        if let Some(throttled) = quotas.throttled_within(INTERVAL, now) {
            assert_eq!(throttled.group, group.name);
            return assert!(throttled.share > 0.5, "{throttled:?}");
        }
        thread::sleep(INTERVAL);
        now = now.plus(INTERVAL);
    }
    panic!("{quotas:?}");
}
