//! The vfio-user wire against an implementation that nobody here wrote: the crate `vfio_user`,
//! which Cloud Hypervisor uses.
//!
//! ```text
//! their_server    our driver and its client   --socket-->   their server, our card behind it
//! their_client    their client                --socket-->   our server, in firmware-sim
//! ```
//!
//! Two halves by one hand can agree on a mistake. These cannot, as far as the wire goes; the
//! virtqueues above it are judged by QEMU and Linux. The crate has habits of its own, and what
//! ours do about each of them is held here, too. Its version is pinned, so that a habit it loses
//! is noticed when the pin moves.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "whatever fails here fails the test, and its numbers are small"
)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../../firmware-sim/device/tests/device/driver.rs"]
#[expect(dead_code, reason = "tests of the card itself use more of it")]
mod driver;
mod their_client;
mod their_server;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Far longer than anything takes; only a mistake meets it.
const PATIENT: Duration = Duration::from_secs(60);

fn new_eventfd() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

/// How often an eventfd has been signalled since it was last asked.
fn signals(eventfd: &OwnedFd) -> u64 {
    let mut count = [0; 8];
    match rustix::io::read(eventfd, &mut count) {
        Ok(_) => u64::from_ne_bytes(count),
        Err(errno) => {
            assert_eq!(errno, Errno::AGAIN);
            0
        }
    }
}

#[track_caller]
fn wait_for_any(fds: &[BorrowedFd<'_>]) {
    let mut fds: Vec<_> = fds
        .iter()
        .map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN))
        .collect();
    let timeout = Timespec::try_from(PATIENT).unwrap();
    assert_ne!(poll(&mut fds, Some(&timeout)), Ok(0), "nothing happened");
}
