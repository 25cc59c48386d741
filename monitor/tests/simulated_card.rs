//! `cardmon run --simulated-card`: what a person sees who tries the program out, and that nothing
//! of it is left behind.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

const CARDMON: &str = env!("CARGO_BIN_EXE_cardmon");
/// Longer than anything here takes on a loaded machine.
const PATIENCE: Timespec = Timespec {
    tv_sec: 60,
    tv_nsec: 0,
};

/// A monitor with a card of its own.
struct Monitor {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Monitor {
    fn start(run_for: &str) -> Self {
        let mut child = Command::new(CARDMON)
            .args(["run", "--simulated-card", "--json", "--for", run_for])
            .args(["--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// The status of the next poll; `None` after the last.
    fn poll(&mut self) -> Option<Value> {
        let mut line = String::new();
        let len = self.lines.read_line(&mut line).unwrap();
        (len > 0).then(|| serde_json::from_str(&line).unwrap())
    }

    fn until(&mut self, state: &str) -> Value {
        loop {
            let status = self.poll().expect("it is seen before the time is up");
            if status["cards"][0]["state"] == state {
                return status;
            }
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // Not SIGKILL: it would leave its directory behind.
        let _ = kill_process(self.pid(), Signal::TERM);
        let _ = self.child.wait();
    }
}

fn pid(status: &Value, which: &str) -> Pid {
    let pid = status["simulation"][which].as_i64().unwrap();
    Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

/// Both children, by descriptors that become readable when they end.
fn children(status: &Value) -> [OwnedFd; 2] {
    ["card_pid", "owner_pid"]
        .map(|which| pidfd_open(pid(status, which), PidfdFlags::empty()).unwrap())
}

fn has_ended(process: &OwnedFd) -> bool {
    poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&PATIENCE)).unwrap() == 1
}

fn private_directory(status: &Value) -> PathBuf {
    let telemetry = Path::new(status["telemetry"].as_str().unwrap());
    telemetry.parent().unwrap().to_owned()
}

#[test]
fn a_simulated_card_is_connected_and_says_that_it_is_simulated() {
    let mut monitor = Monitor::start("120s");
    let mut statuses = Vec::new();
    let is_at_work = |status: &Value| {
        let card = &status["cards"][0];
        card["state"] == "connected" && card["requests"]["card"].as_u64() > Some(0)
    };
    while !statuses.last().is_some_and(is_at_work) {
        statuses.push(monitor.poll().expect("it is seen before the time is up"));
    }
    let last = statuses.last().unwrap();
    let card = &last["cards"][0];
    // The host that runs this test may be busy. It is told so then, and the card is never blamed.
    let is_blamed = |status: &Value| status["cards"][0]["cause"] == "card";
    assert!(!statuses.iter().any(is_blamed), "{statuses:#?}");
    let is_starved = |status: &Value| {
        status["polls_late"] != 0 || status["host"]["starvation"].as_u64() != Some(0)
    };
    if !statuses.iter().any(is_starved) {
        assert_eq!(card["cause"], "none", "{statuses:#?}");
        assert_eq!(card["heartbeat"]["moving"], true);
    }
    assert_eq!(card["simulated"], true);
    let notice = last["simulation"]["notice"].as_str().unwrap();
    assert!(notice.starts_with("SIMULATED CARD"), "{notice}");
    assert_eq!(card["owner"]["pid"], last["simulation"]["owner_pid"]);
    kill_process(monitor.pid(), Signal::TERM).unwrap();
    assert!(monitor.child.wait().unwrap().success());
    assert!(!private_directory(last).exists());
}

#[test]
fn a_simulated_card_that_is_killed_is_seen_to_be_absent_and_stays_so() {
    let mut monitor = Monitor::start("120s");
    let status = monitor.until("connected");
    kill_process(pid(&status, "card_pid"), Signal::KILL).unwrap();
    let status = monitor.until("unreachable");
    let card = &status["cards"][0];
    assert_eq!(card["cause"], "card-absent");
    assert_eq!(card["evidence"][0]["code"], "gone");
    // The owner lives, and the load is answered by software.
    assert_eq!(card["owner"]["alive"], true);
    for _ in 0..3 {
        let status = monitor.poll().unwrap();
        assert_eq!(status["cards"][0]["state"], "unreachable");
    }
}

#[test]
fn an_owner_that_is_killed_is_seen_to_be_gone() {
    let mut monitor = Monitor::start("120s");
    let status = monitor.until("connected");
    kill_process(pid(&status, "owner_pid"), Signal::KILL).unwrap();
    let status = monitor.until("unreachable");
    assert_eq!(status["cards"][0]["cause"], "service-gone");
}

#[test]
fn nothing_is_left_when_the_monitor_is_told_to_stop() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut monitor = Monitor::start("120s");
        let status = monitor.poll().unwrap();
        let children = children(&status);
        kill_process(monitor.pid(), signal).unwrap();
        assert!(monitor.child.wait().unwrap().success());
        assert!(children.iter().all(has_ended));
        assert!(!private_directory(&status).exists());
    }
}

#[test]
fn no_child_outlives_a_monitor_that_is_killed() {
    let mut monitor = Monitor::start("120s");
    let status = monitor.poll().unwrap();
    let children = children(&status);
    kill_process(monitor.pid(), Signal::KILL).unwrap();
    assert!(children.iter().all(has_ended));
    // Nobody was left to remove this.
    std::fs::remove_dir_all(private_directory(&status)).unwrap();
}
