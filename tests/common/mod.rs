//! A simulated card in a process of its own, for tests that kill it.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

use hwshim::address::Address;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Far longer than it takes to listen; only a mistake meets it.
const PATIENT: Timespec = Timespec {
    tv_sec: 60,
    tv_nsec: 0,
};

/// A running `firmware-sim`.
pub(crate) struct CardProcess {
    pub(crate) process: Child,
    socket: PathBuf,
}

impl CardProcess {
    /// Starts a card and returns when it listens.
    pub(crate) fn start(directory: &Path) -> Self {
        Self::start_with(directory, &[])
    }

    /// The same, with further arguments.
    pub(crate) fn start_with(directory: &Path, arguments: &[&str]) -> Self {
        let socket = directory.join("card.sock");
        let process = Command::new(program("firmware-sim"))
            .args(["run", "--engines", "2", "--socket"])
            .arg(&socket)
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut card = Self { process, socket };
        let stdout = card.process.stdout.take().unwrap();
        let mut says = [PollFd::new(&stdout, PollFlags::IN)];
        let has_spoken = poll(&mut says, Some(&PATIENT)).unwrap() == 1;
        assert!(has_spoken, "the card says nothing");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        assert!(line.contains("listening"), "{line:?}");
        card
    }

    /// Where the card can be reached.
    pub(crate) fn address(&self) -> Address {
        Address::VfioUser(self.socket.clone())
    }
}

impl Drop for CardProcess {
    fn drop(&mut self) {
        // Killed already is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A program of this project, beside this test's own in the target directory. Building the
/// workspace builds it.
pub(crate) fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().unwrap().parent().unwrap();
    let program = profile.join(name);
    assert!(
        program.exists(),
        "{} is missing: run cargo build first, or cargo xtask test",
        program.display()
    );
    program
}
