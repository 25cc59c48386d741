//! `hwshim serve`, as a program, on a host that has no more threads or descriptors for it, or no room
//! for its page; told to stop before it has begun; and what it tells of a card that it cannot use.
//!
//! Its card is away: that is no error, and what it lacks itself is the same with one.

#![expect(clippy::unwrap_used, reason = "a test")]

use card_spec::telemetry::{Page, card_state};
use hwshim::telemetry::{Reader, file_name};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const CARD: &str = "vfio-user:/nowhere/card.sock";

/// So much that the limit of a process's addresses counts its threads. None of it is ever touched.
const STACK_LEN: u64 = 512 << 20;
/// What it maps besides.
const REST_LEN: u64 = 256 << 20;

/// Owners that come one after the other.
struct Stage(TempDir);

impl Stage {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn page_path(&self) -> PathBuf {
        self.0.path().join(file_name(CARD))
    }

    /// The page, if there is one that is whole.
    fn page(&self) -> Option<Page> {
        let reader = Reader::open(&self.page_path()).ok()?;
        reader.read().ok()
    }

    /// Whether the card's page says that it was let go of.
    fn is_released(&self) -> bool {
        self.page().is_some_and(|page| {
            page.address() == CARD && page.card.state.get() == card_state::RELEASED
        })
    }

    /// Whether `owner` has published.
    fn is_owned_by(&self, owner: &Child) -> bool {
        self.page().is_some_and(|page| {
            page.owner.pid.get() == u64::from(owner.id())
                && page.card.state.get() != card_state::RELEASED
        })
    }

    /// One that is to sign as well, after the shell has done `before`.
    fn start(&self, before: &str) -> Child {
        Command::new("sh")
            .args(["-c", &format!("{before} && exec \"$@\""), "sh"])
            .arg(env!("CARGO_BIN_EXE_hwshim"))
            .args(["serve", "--card", CARD, "--load", "100/s", "--telemetry"])
            .arg(self.0.path())
            // Where that of addresses is limited: each thread would map some for its own memory as well.
            .env("MALLOC_ARENA_MAX", "1")
            .env("RUST_MIN_STACK", STACK_LEN.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// What it says if it cannot start with that done before; `None` if it serves, and then ends well.
    fn refusal(&self, before: &str) -> Option<Output> {
        let _ = std::fs::remove_file(self.page_path());
        let mut owner = self.start(before);
        while owner.try_wait().unwrap().is_none() {
            if self.is_owned_by(&owner) {
                stop(&owner);
                break;
            }
            pause();
        }
        let output = owner.wait_with_output().unwrap();
        if output.status.success() {
            assert!(self.is_released(), "{before}");
            return None;
        }
        Some(output)
    }
}

fn stop(owner: &Child) {
    kill_process(Pid::from_child(owner), Signal::TERM).unwrap();
}

#[expect(
    clippy::disallowed_methods,
    reason = "looks again at what another process does"
)]
fn pause() {
    std::thread::sleep(Duration::from_millis(1));
}

#[track_caller]
fn assert_says(output: &Output, wanted: &[&str]) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    let is_said = wanted.iter().all(|it| errors.contains(it));
    assert!(is_said && !errors.contains("panicked"), "{errors}");
}

#[test]
fn whichever_thread_cannot_be_started_it_says_what_to_do_and_lets_go_of_its_card() {
    let stage = Stage::new();
    let serves = |threads: &u64| {
        let kib = (REST_LEN + threads * STACK_LEN) >> 10;
        let Some(refusal) = stage.refusal(&format!("ulimit -v {kib}")) else {
            return true;
        };
        let wanted = ["Resource temporarily unavailable", "hint: ", "ulimit -a"];
        assert_says(&refusal, &wanted);
        // Without those that write what it says it has not come as far as to the page.
        let is_touched = *threads >= 2;
        assert_eq!(stage.page_path().exists(), is_touched, "{threads}");
        assert_eq!(stage.is_released(), is_touched, "{threads}");
        false
    };
    // One for each stream, one for the router and one for the load; and one in which the card is being
    // reset meanwhile, or not any more.
    let needed = (0..10).find(serves).unwrap();
    assert!((4..=5).contains(&needed), "{needed}");
}

#[test]
fn whichever_descriptor_it_lacks_it_says_what_to_do_and_lets_go_of_its_card() {
    let stage = Stage::new();
    let serves = |descriptors: &u64| {
        let Some(refusal) = stage.refusal(&format!("ulimit -n {descriptors}")) else {
            return true;
        };
        let wanted = ["Too many open files", "hint: ", "ulimit -a", "LimitNOFILE="];
        assert_says(&refusal, &wanted);
        // It may not have come as far as to the page.
        assert!(stage.is_released() || !stage.page_path().exists());
        false
    };
    // With fewer than four no program finds its libraries.
    let needed = (4..40).find(serves).unwrap();
    assert!(needed > 8, "it has some for each: {needed}");
}

#[test]
fn without_room_for_its_page_it_says_what_to_do_at_its_start_and_later() {
    let stage = Stage::new();
    // By itself the system ends who writes beyond that limit, where a full disk refuses.
    let refusal = stage.refusal("trap '' XFSZ && ulimit -f 0").unwrap();
    assert_says(&refusal, &["could not be written", "hint: make room there"]);

    let owner = stage.start("trap '' XFSZ");
    while !stage.is_owned_by(&owner) {
        pause();
    }
    let maximum = getrlimit(Resource::Fsize).maximum;
    let full = Rlimit {
        current: Some(0),
        maximum,
    };
    prlimit(Some(Pid::from_child(&owner)), Resource::Fsize, full).unwrap();
    let output = owner.wait_with_output().unwrap();
    assert_says(&output, &["could not be written", "hint: make room there"]);
}

#[test]
fn whoever_is_told_to_stop_while_it_starts_lets_go_of_its_card() {
    for _ in 0..16 {
        let stage = Stage::new();
        let mut owner = stage.start("true");
        while !stage.page_path().exists() {
            assert_eq!(owner.try_wait().unwrap(), None);
        }
        stop(&owner);
        let output = owner.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{errors}");
        assert!(stage.is_released());
    }
}

#[test]
fn each_reason_why_its_card_is_not_used_is_told_once_and_that_it_is_owned_when_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("card.sock");
    let address = format!("vfio-user:{}", socket.display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_hwshim"));
    command.args(["serve", "--card", &address, "--telemetry"]);
    command.arg(directory.path());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut owner = command.spawn().unwrap();
    let mut errors = BufReader::new(owner.stderr.take().unwrap());
    let mut next = || {
        let mut line = String::new();
        errors.read_line(&mut line).unwrap();
        line
    };
    assert_eq!(
        next(),
        format!(
            "hwshim: warning: {address} is not used: there is no such socket; start the card's server, or \
             correct the path; it is tried again\n"
        )
    );
    // No trial in between says so again.
    std::fs::write(&socket, "no socket").unwrap();
    let second = next();
    let still = format!("hwshim: warning: {address} is still not used: it is no socket");
    assert!(second.starts_with(&still), "{second}");

    let refused = command.output().unwrap();
    assert_says(&refused, &["another owner"]);
    assert_eq!(refused.stdout, b"", "it owns nothing");

    stop(&owner);
    let mut rest = String::new();
    errors.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
    let output = owner.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let owning = format!("hwshim: owning {address}, ");
    assert!(output.stdout.starts_with(owning.as_bytes()));
}

#[test]
fn a_directory_far_from_any_that_is_there_is_not_made() {
    let stage = Stage::new();
    let (near, far) = (stage.0.path().join("x"), stage.0.path().join("x/y"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_hwshim"));
    command.args(["serve", "--card", CARD, "--telemetry"]);
    command.arg(&far).stderr(Stdio::piped());
    let mut owner = command.spawn().unwrap();
    while owner.try_wait().unwrap().is_none() {
        if near.exists() {
            stop(&owner);
        }
        pause();
    }
    assert_says(
        &owner.wait_with_output().unwrap(),
        &[
            "could not be created",
            "hint: make the directory above it first",
        ],
    );
    assert!(!near.exists());
}
