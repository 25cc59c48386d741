//! What all commands of `cardmon` have in common: how they end, what they print for programs, and what they
//! say where nobody answers or somebody may not.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use hwshim::clock::SystemClock;
use hwshim::telemetry;
use monitor::history::{BootId, Event, Events, FileAnchors, Place, Samples, Stamp};
use serde_json::{Value, json};
use std::fs::{self, Permissions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;

const CARDMON: &str = env!("CARGO_BIN_EXE_cardmon");

fn cardmon(arguments: &[&str]) -> Output {
    Command::new(CARDMON).args(arguments).output().unwrap()
}

/// The same for whoever is not root.
fn as_nobody(arguments: &[&str]) -> io::Result<Output> {
    let mut command = Command::new(CARDMON);
    command.args(arguments).env_remove("XDG_RUNTIME_DIR");
    if rustix::process::geteuid().is_root() {
        let nobody = 65534;
        command.uid(nobody).gid(nobody);
    }
    command.output()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Help of a command.
fn help(command: &[&str]) -> String {
    let output = cardmon(&[command, &["--help"]].concat());
    assert_eq!(output.status.code(), Some(0), "{command:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Every command that does something, with its help.
fn commands() -> Vec<(Vec<String>, String)> {
    let mut groups = vec![Vec::<String>::new()];
    let mut found = Vec::new();
    while let Some(group) = groups.pop() {
        let words: Vec<_> = group.iter().map(String::as_str).collect();
        let help = help(&words);
        let Some((_, listed)) = help.split_once("\nCommands:\n") else {
            found.push((group, help));
            continue;
        };
        let listed = listed.lines().take_while(|line| !line.is_empty());
        // What goes on over a second line is indented further.
        let names = listed.filter_map(|line| line.strip_prefix("  "));
        let names = names.filter(|line| !line.starts_with(' '));
        let names = names.filter_map(|line| line.split_whitespace().next());
        groups.extend(
            names
                .filter(|name| *name != "help")
                .map(|name| [&group[..], &[name.to_owned()]].concat()),
        );
    }
    assert!(found.len() > 20, "{found:?}");
    found
}

#[test]
fn every_command_says_what_its_exit_statuses_mean_the_one_for_a_wrong_command_line_included() {
    for (command, help) in commands() {
        let (_, statuses) = help.split_once("Exit status").expect(&help);
        let words: Vec<_> = command.iter().map(String::as_str).collect();
        let output = cardmon(&[&words[..], &["--no-such-option"]].concat());
        let code = output.status.code().unwrap();
        let documented = statuses.lines().any(|line| {
            let item = line.trim_start().strip_prefix(&code.to_string());
            item.is_some_and(|item| item.starts_with("  "))
        });
        assert!(documented, "{command:?} ends with {code}\n{help}");
        assert!(help.contains("command line was wrong"), "{help}");
    }
}

#[test]
fn every_command_but_those_about_configurations_prints_json() {
    for (command, help) in commands() {
        let is_about_configurations = command[0] == "config";
        assert_ne!(help.contains("--json"), is_about_configurations, "{help}");
    }
}

/// A socket on which one order is answered so, or none.
fn control(path: &Path, answer: Option<Value>) -> UnixListener {
    let listener = UnixListener::bind(path).unwrap();
    let taking = listener.try_clone().unwrap();
    if let Some(answer) = answer {
        thread::spawn(move || {
            let (mut client, _) = taking.accept().unwrap();
            let mut order = String::new();
            BufReader::new(&client).read_line(&mut order).unwrap();
            writeln!(client, "{answer}").unwrap();
        });
    }
    listener
}

#[test]
fn an_order_that_nobody_answers_is_not_waited_for_for_long_and_says_how_long() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let _stopped = control(&path, None);
    let output = cardmon(&["lock", "--show", "--control", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("nothing came within 5 s"), "{said}");
    assert!(!said.contains("os error"), "{said}");
}

#[test]
fn what_became_of_an_order_is_told_to_programs() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let standing = json!({ "window": null, "drained": {} });
    let answer = json!({ "ok": true, "event": 7, "standing": standing });
    let _monitor = control(&path, Some(answer));
    let output = cardmon(&["lock", "--json", "--control", path.to_str().unwrap()]);
    let expected = json!({ "schema": 1, "event": 7, "standing": standing });
    assert_eq!(document(&output), expected);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn who_may_not_is_told_who_may_and_not_that_there_is_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let open = Permissions::from_mode(0o755);
    fs::set_permissions(directory.path(), open).unwrap();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let _monitor = control(Path::new(&at("control.sock")), None);
    for name in ["alive.json", &telemetry::file_name("software:ring")] {
        fs::write(at(name), "").unwrap();
    }
    for entry in fs::read_dir(directory.path()).unwrap() {
        let path = entry.unwrap().path();
        fs::set_permissions(path, Permissions::from_mode(0o000)).unwrap();
    }
    if let Err(error) = as_nobody(&["--version"]) {
        eprintln!("skipped: nobody may not run this test: {error}");
        return;
    }
    let said = |arguments: &[&str]| {
        let output = as_nobody(arguments).unwrap();
        assert_ne!(output.status.code(), Some(0));
        let said =
            String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("it belongs to user "), "{said}");
        assert!(said.contains("with mode 0000"), "{said}");
        said
    };
    let lock = said(&["lock", "--show", "--control", &at("control.sock")]);
    assert!(!lock.contains("no monitor takes orders"), "{lock}");
    said(&["dead-man", "--file", &at("alive.json")]);
    let pages = directory.path().to_str().unwrap();
    said(&["led", "software:ring", "--telemetry", pages]);
}

#[test]
fn where_there_is_no_history_the_error_says_only_that() {
    let directory = tempfile::tempdir().unwrap();
    let nowhere = directory.path().join("history");
    let nowhere = nowhere.to_str().unwrap();
    let cases: [&[&str]; 3] = [
        &["audit", "verify"],
        &["restore", "--verify", nowhere],
        &["report", "software:ring", "--telemetry", nowhere],
    ];
    for command in cases {
        let output = cardmon(&[command, &["--history", nowhere]].concat());
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        let said = stderr(&output);
        assert!(!said.contains("--anchors"), "{command:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{command:?}: {said}");
    }
}

#[test]
fn what_a_check_comes_to_without_a_monitor_is_told_to_programs() {
    let directory = tempfile::tempdir().unwrap();
    let nowhere = directory.path().join("alive.json");
    let nowhere = nowhere.to_str().unwrap();
    let output = cardmon(&["dead-man", "--json", "--file", nowhere]);
    let told = document(&output);
    assert_eq!(
        (&told["state"], &told["exit_status"]),
        (&json!("absent"), &json!(4))
    );
    assert_eq!(output.status.code(), Some(4));
    // Nobody listens on the port of the multiplexer, and its scheme need not be said.
    let output = cardmon(&["check", "--json", "--url", "127.0.0.1:1"]);
    let told = document(&output);
    assert_eq!(
        (&told["word"], &told["exit_status"]),
        (&json!("UNKNOWN"), &json!(3))
    );
    let says = told["says"].as_str().unwrap();
    assert!(says.contains("no monitor answers at 127.0.0.1:1"), "{says}");
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn an_audit_and_copies_of_a_history_are_told_to_programs() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (history, anchors, copy) = (at("history"), at("anchors"), at("copy"));
    let opened = FileAnchors::open(Path::new(&anchors)).unwrap();
    let place = Place::new(Path::new(&history));
    let mut events = Events::open(&place, vec![Box::new(opened)]).unwrap();
    let now = Stamp::now(&SystemClock, BootId::of_this_boot());
    let event = Event::new(now, "test", "host", &json!({}));
    events.append(&[event]).unwrap();
    drop(Samples::open(&place, now.wall).unwrap());
    drop(events);
    let places = ["--json", "--history", &history, "--anchors", &anchors];
    let told = |arguments: &[&str]| {
        let output = cardmon(&[arguments, &places].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let told = document(&output);
        assert_eq!(told["schema"], 1);
        assert_eq!(told["events"], 1, "{told:#}");
        told
    };
    let audited = told(&["audit", "verify"]);
    assert_eq!(audited["anchored"], 1);
    assert_eq!(
        (&audited["unproven"], &audited["finding"]),
        (&json!([]), &json!(null))
    );
    let made = told(&["snapshot", "--to", &copy]);
    assert_eq!(
        (&made["to"], &made["missing_events"]),
        (&json!(copy), &json!(0))
    );
    let restored = told(&["restore", "--verify", &copy]);
    assert_eq!(
        (&restored["audited"], &restored["behind_events"]),
        (&json!(copy), &json!(0))
    );
}
