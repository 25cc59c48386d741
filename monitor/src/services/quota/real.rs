//! A quota as a real kernel enforces it, where groups can be made: as root, in either version of the
//! hierarchy.

use super::*;
use crate::probe::Whereabouts;
use crate::services::ServiceSettings;
use crate::services::real::RealGroup;
use crate::services::senses::Kernel;
use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

/// Somebody in a group who never has enough. Ended when dropped, so that the group can be removed.
struct Busy(Child);

impl Busy {
    fn within(group: &RealGroup) -> Self {
        let script = group.script("echo && while :; do :; done");
        let mut child = Command::new("sh")
            .args(["-c", &script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // When it says something it is in the group.
        let mut said = [0];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut said)
            .unwrap();
        Self(child)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "nobody tells when a group is held up"
)]
fn a_real_kernel_holds_up_who_has_used_up_a_quota_and_the_group_is_named() {
    let a_tenth = |group: &RealGroup| match group.is_v2 {
        true => group.write("cpu.max", "10000 100000"),
        false => group.write("cpu.cfs_quota_us", "10000"),
    };
    let Some(group) = RealGroup::make("quota", "cpu", a_tenth) else {
        return;
    };
    let busy = Busy::within(&group);
    let id = OwnerId::of_process(busy.0.id());
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
