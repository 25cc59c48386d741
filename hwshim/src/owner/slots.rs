//! Slots for tests: all owners of a host together run no more than a few at a time.
//!
//! A slot is a lock on a file beside the telemetry pages, so it ends with the process that has it,
//! however that ends, and owners need to know nothing of each other.

use rustix::fs::{FlockOperation, Mode, OFlags, flock, openat};
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// Tests at a time on one host.
pub(super) const SLOTS: usize = 20;

/// The slots of a host.
#[derive(Debug)]
pub(super) struct Slots {
    directory: OwnedFd,
    /// Where to look first, so that owners do not all begin with the same.
    first: usize,
}

/// A slot, until it is dropped; the one in it may be none if this user may lock no file there.
#[derive(Debug)]
pub(super) struct Slot {
    _lock: Option<OwnedFd>,
}

impl Slots {
    pub(super) const fn new(directory: OwnedFd, first: usize) -> Self {
        Self { directory, first }
    }

    /// A slot, unless others have them all. A host that lets nobody lock anything limits nobody.
    pub(super) fn take(&self) -> Option<Slot> {
        let mut others = false;
        for index in 0..SLOTS {
            match self.lock(self.first.wrapping_add(index) % SLOTS) {
                Ok(lock) => return Some(Slot { _lock: Some(lock) }),
                Err(Errno::WOULDBLOCK) => others = true,
                Err(_) => {}
            }
        }
        (!others).then_some(Slot { _lock: None })
    }

    fn lock(&self, index: usize) -> Result<OwnedFd, Errno> {
        let name = format!(".test-slot-{index:02}");
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP;
        let file = match openat(&self.directory, &*name, flags, Mode::empty()) {
            Err(Errno::NOENT) => openat(&self.directory, &*name, flags | OFlags::CREATE, mode)?,
            other => other?,
        };
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::open;

    #[test]
    fn a_host_has_so_many_slots_and_one_that_is_given_back_can_be_had_again() {
        let directory = tempfile::tempdir().unwrap();
        let opened = || {
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            open(directory.path(), flags, Mode::empty()).unwrap()
        };
        // Each owner looks from elsewhere, and all find the same slots.
        let owners = [0, 7, usize::MAX].map(|first| Slots::new(opened(), first));
        let mut taken: Vec<_> = (0..SLOTS).map(|n| owners[n % 3].take().unwrap()).collect();
        assert!(owners.iter().all(|owner| owner.take().is_none()));
        taken.swap_remove(4);
        let again = owners[1].take();
        assert!(again.is_some() && owners[2].take().is_none());
    }
}
