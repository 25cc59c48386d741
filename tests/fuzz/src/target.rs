//! The targets, one module each: `run` and the honest inputs it starts from, `seeds`.

pub(crate) mod address;
pub(crate) mod config;
pub(crate) mod driver;
pub(crate) mod health;
pub(crate) mod history;
pub(crate) mod nshield;
pub(crate) mod pci;
pub(crate) mod procfs;
pub(crate) mod sysfs;
pub(crate) mod telemetry;
pub(crate) mod used_ring;
pub(crate) mod vfio_user_client;
pub(crate) mod vfio_user_server;

mod card;

use tempfile::TempDir;

/// Text that goes to a terminal or a log must not steer either.
fn assert_harmless(text: &str) {
    assert!(
        text.bytes().all(|byte| matches!(byte, b' '..=b'~')),
        "{text:?} would reach a terminal"
    );
}

/// A directory for one input; in memory if it can be, because thousands are made and removed.
fn scratch_directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("the temporary directory is writable")
}

/// An input read from front to back, as a script of what the other side does. Behind its end
/// there are zeros, so that a script cut short still means something.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn array<const LEN: usize>(&mut self) -> [u8; LEN] {
        let mut array = [0; LEN];
        let bytes = self.bytes(LEN);
        array[..bytes.len()].copy_from_slice(bytes);
        array
    }

    fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    fn word(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }
}
