//! The program as its users meet it: what it prints, how it ends.

#![expect(clippy::unwrap_used, reason = "whatever fails here fails the test")]

use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, Output, Stdio};
use tempfile::TempDir;

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_firmware-sim"));
    command.args(arguments);
    command
}

fn output(arguments: &[&str]) -> Output {
    program(arguments).output().unwrap()
}

/// A card that listens, killed with the test if it is not stopped before.
struct Running {
    child: Child,
    line: String,
}

impl Running {
    fn start(socket: &Path, more: &[&str]) -> Self {
        let mut child = program(&["run", "--socket", socket.to_str().unwrap()])
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.as_mut().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        Self { child, line }
    }

    fn stop(mut self, signal: Signal) -> Option<i32> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn it_says_where_it_listens_and_ends_orderly_on_either_signal() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("card.sock");
    for signal in [Signal::INT, Signal::TERM] {
        let card = Running::start(&socket, &["--serial", "SIM-7", "--engine", "memoised"]);
        let expected = format!(
            "firmware-sim: simulated card SIM-7 listening on {}; stop it with Ctrl-C\n",
            socket.display()
        );
        assert_eq!(card.line, expected);
        let _client = UnixStream::connect(&socket).unwrap();
        assert_eq!(card.stop(signal), Some(0));
        assert!(!socket.exists());
    }
}

#[test]
fn a_second_card_on_one_socket_is_refused_and_a_killed_one_is_replaced() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("card.sock");
    let first = Running::start(&socket, &[]);
    let second = output(&["run", "--socket", socket.to_str().unwrap()]);
    assert_eq!(second.status.code(), Some(1));
    let message = String::from_utf8(second.stderr).unwrap();
    let expected = format!(
        "firmware-sim: another process listens on {}; stop it, or choose another path\n",
        socket.display()
    );
    assert_eq!(message, expected);
    assert_eq!(first.stop(Signal::KILL), None);
    assert!(socket.exists(), "nobody could remove it");
    let third = Running::start(&socket, &[]);
    assert_eq!(third.stop(Signal::TERM), Some(0));
}

#[test]
fn what_it_cannot_do_it_explains() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("card.sock");
    let run = |arguments: &[&str]| {
        let arguments = [&["run", "--socket", socket.to_str().unwrap()], arguments].concat();
        let output = output(&arguments);
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, message) = run(&["--queue-size", "100"]);
    assert_eq!(code, Some(1));
    assert!(
        message.contains("queue size 100 is not a power of two"),
        "{message}"
    );
    for wrong in [
        ["--serial", "has a space"],
        ["--serial", "longer-than-twenty-characters"],
        ["--engines", "0"],
        ["--heartbeat-period", "0"],
        ["--engine", "magic"],
        ["--fault", "chaos"],
        ["--fault", "hang@noon"],
        ["--led", "rainbow"],
    ] {
        let (code, message) = run(&wrong);
        assert_eq!(code, Some(2), "{message}");
        assert!(message.contains(wrong[0]), "{message}");
    }
    assert!(!socket.exists());
    assert_eq!(output(&[]).status.code(), Some(2));
    let help = String::from_utf8(output(&["run", "--help"]).stdout).unwrap();
    assert!(
        help.contains("Exit codes:") && help.contains("vfio-user-pci"),
        "{help}"
    );
}

#[test]
fn every_fault_is_listed_on_a_line_of_its_own_and_can_be_had() {
    let table = String::from_utf8(output(&["faults"]).stdout).unwrap();
    let json = output(&["faults", "--json"]).stdout;
    let faults: Vec<serde_json::Value> = serde_json::from_slice(&json).unwrap();
    assert_eq!(table.lines().count(), faults.len());
    for (line, fault) in table.lines().zip(&faults) {
        let [group, name] = ["group", "name"].map(|key| fault[key].as_str().unwrap());
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(words[0], group);
        assert_eq!(words[1].split('=').next(), Some(name));
        assert!(
            fault["summary"]
                .as_str()
                .is_some_and(|text| !text.is_empty())
        );
    }
    let crt = faults
        .iter()
        .find(|fault| fault["name"] == "crt-fault")
        .unwrap();
    assert_eq!(crt["cause"], "card");
    assert_eq!(crt["observable"], "at the next request of that kind");
    assert_eq!(crt["played_by"], "card");
    for written in [
        "over-temperature=105,rate=2",
        "crash=0",
        "delayed-recycle=240s",
        "leak-heap=RATE",
        "leak-while-absent=RATE,what=kernel,via=pipes",
    ] {
        let mut words = table.split_whitespace();
        assert!(words.any(|word| word == written), "{written}: {table}");
    }
    let leak = faults.iter().find(|fault| fault["name"] == "leak-kernel");
    let [rate, via] = [0, 1].map(|index| &leak.unwrap()["parameters"][index]["default"]);
    assert_eq!((rate, via), (&serde_json::Value::Null, &"pipes".into()));
}

#[test]
fn a_card_with_faults_runs_and_ends_like_any_other() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("card.sock");
    let faults = [
        "--fault",
        "slow=2@1s+1s",
        "--fault",
        "led-sos",
        "--seed",
        "7",
    ];
    let card = Running::start(&socket, &[&faults[..], &["--led", "nshield"]].concat());
    assert!(card.line.contains("listening"), "{}", card.line);
    assert_eq!(card.stop(Signal::TERM), Some(0));
}

/// A card with a scenario, whose output is read line by line.
struct Played {
    child: Child,
    said: BufReader<ChildStdout>,
    complained: BufReader<ChildStderr>,
}

impl Played {
    fn start(socket: &Path, scenario: &str) -> Self {
        Self::start_with(socket, scenario, &[])
    }

    fn start_with(socket: &Path, scenario: &str, more: &[&str]) -> Self {
        let mut child = program(&["run", "--socket", socket.to_str().unwrap()])
            .args(["--engines", "1", "--scenario", scenario])
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let complained = BufReader::new(child.stderr.take().unwrap());
        Self {
            child,
            said,
            complained,
        }
    }

    /// The first line it says with `text` in it.
    fn line_with(&mut self, text: &str) -> String {
        let mut lines = (&mut self.said).lines().map(Result::unwrap);
        lines.find(|line| line.contains(text)).unwrap()
    }

    fn stop(&mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Played {
    fn drop(&mut self) {
        // It has ended already, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_scenarios_service_that_dies_is_spoken_of_and_the_card_goes_on() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("card.sock");
    let mut card = Played::start(&socket, "rpc-port-leak");
    let line = card.line_with("its service");
    let pid = line
        .split("pid ")
        .nth(1)
        .unwrap()
        .split(',')
        .next()
        .unwrap();
    let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
    let service = directory.path().join("card.sock.service");
    let expected = format!(
        "firmware-sim: its service, pid {}, listening on {}, controlled through {1}.control",
        pid.as_raw_nonzero(),
        service.display(),
    );
    assert_eq!(line, expected);
    kill_process(pid, Signal::KILL).unwrap();
    let mut complaint = String::new();
    card.complained.read_line(&mut complaint).unwrap();
    let expected =
        "firmware-sim: the service has ended (signal: 9 (SIGKILL)); the card goes on without it\n";
    assert_eq!(complaint, expected);
    let _client = UnixStream::connect(&socket).unwrap();
    assert_eq!(card.stop(), Some(0));
    assert!(!socket.exists());
}

#[test]
fn a_scenario_whose_service_cannot_start_is_not_played_at_all() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("card.sock");
    fs::write(directory.path().join("card.sock.service"), "").unwrap();
    let socket = socket.to_str().unwrap();
    let output = output(&["run", "--socket", socket, "--scenario", "hardserver-leak"]);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("exists and is not a socket"), "{message}");
    let expected = "firmware-sim: the scenario's service could not start; it says why above\n";
    assert!(message.ends_with(expected), "{message}");
    assert!(!Path::new(socket).exists());
}

#[test]
fn the_story_of_a_scenario_has_the_seed_that_it_is_played_with() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("card.sock");
    let mut card = Played::start_with(&socket, "bellcore", &["--seed", "7"]);
    let line = card.line_with("Takes");
    assert!(line.contains("seed 7"), "{line}");
    assert_eq!(card.stop(), Some(0));
}

#[test]
fn what_of_a_scenario_is_not_played_is_said() {
    let directory = TempDir::new().unwrap();
    let mut card = Played::start(&directory.path().join("card.sock"), "dpc-heartbeat-gap");
    let line = card.line_with("not played");
    let expected = "firmware-sim: the host's part of it is not played live, only in simulation";
    assert_eq!(line, expected);
    assert_eq!(card.stop(), Some(0));
}

#[test]
fn what_was_injected_and_cleared_is_told_to_programs() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("card.sock");
    let running = Running::start(&socket, &["--control"]);
    let control = format!("{}.control", socket.display());
    let told = |arguments: &[&str]| -> serde_json::Value {
        let output = output(&[arguments, &["--json", "--control", &control]].concat());
        serde_json::from_slice(&output.stdout).unwrap()
    };
    assert_eq!(
        told(&["inject", "hang"]),
        serde_json::json!({ "schema": 1, "id": 0 })
    );
    assert_eq!(
        told(&["clear", "0"]),
        serde_json::json!({ "schema": 1, "cleared": 0 })
    );
    assert_eq!(
        told(&["clear"]),
        serde_json::json!({ "schema": 1, "cleared": "all" })
    );
    assert_eq!(running.stop(Signal::TERM), Some(0));
}
