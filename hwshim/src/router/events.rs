//! The events of all accelerators of a router, to be waited for as one.

use super::core::Core;
use rustix::event::{Timespec, epoll};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// One epoll descriptor that stands for many events.
#[derive(Debug)]
pub(super) struct Events {
    epoll: OwnedFd,
    version: u64,
}

impl Events {
    /// Gathers the events of the accelerators that `core` has now, and `wake`.
    pub(super) fn gather(core: &Core, wake: Option<BorrowedFd<'_>>) -> io::Result<Self> {
        let gathered = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        // Edge-triggered: an event means "look again", and looking again is all that follows. A
        // socket that has hung up, or an eventfd nobody has read, would wake us for ever otherwise.
        let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        let events = core.accelerators().flat_map(|one| one.events());
        for event in events.chain(wake) {
            epoll::add(&gathered, event, epoll::EventData::new_u64(0), flags)?;
        }
        Ok(Self {
            epoll: gathered,
            version: core.events_version(),
        })
    }

    /// Whether the accelerators may have other events by now.
    pub(super) fn are_stale(&self, core: &Core) -> bool {
        core.events_version() != self.version
    }

    /// Waits for an event and takes note of it, which makes the descriptor quiet again.
    pub(super) fn wait(&self, timeout: Duration) {
        const EVENTS_MAX: usize = 16;
        let timeout = Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        let mut events = [const { MaybeUninit::uninit() }; EVENTS_MAX];
        // Interrupted or not, the next thing to do is to look again.
        let _ = epoll::wait(&self.epoll, &mut events, Some(&timeout));
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl std::os::fd::AsRawFd for Events {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.epoll.as_raw_fd()
    }
}
