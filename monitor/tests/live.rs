//! `cardmon check --live` against real owners of a simulated card, each in a process of its own.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use card_spec::telemetry::{Page, card_state, check_result, padded};
use hwshim::clock::{Clock, SystemClock};
use hwshim::telemetry::{self, Publisher, Reader, live};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const CARDMON: &str = env!("CARGO_BIN_EXE_cardmon");
/// Far longer than anything takes; only a mistake meets it.
const PATIENT: Duration = Duration::from_secs(90);

/// A child that ends with the test.
struct Process(Child);

impl Process {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    fn end(&mut self, signal: Signal) {
        self.signal(signal);
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A card, its owner, and where their page is.
struct Site {
    root: TempDir,
    card: Process,
    owner: Process,
}

fn child(command: &str) -> Command {
    let mut child = Command::new(CARDMON);
    let parent = std::process::id().to_string();
    child.args([command, "--parent", &parent]);
    child
}

impl Site {
    fn start(faults: &[&str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let card = start_card(root.path(), faults);
        let owner = child("simulated-owner")
            .args(["--card", &address(root.path()), "--telemetry"])
            .arg(root.path().join("pages"))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let site = Self {
            root,
            card,
            owner: Process(owner),
        };
        // Until it publishes, and can be asked.
        site.wait(|| site.page().exists() && site.socket().exists());
        site
    }

    fn address(&self) -> String {
        address(self.root.path())
    }

    fn page(&self) -> PathBuf {
        self.root
            .path()
            .join("pages")
            .join(telemetry::file_name(&self.address()))
    }

    fn socket(&self) -> PathBuf {
        self.root
            .path()
            .join("pages")
            .join(live::socket_name(&self.address()))
    }

    fn published(&self) -> Page {
        Reader::open(&self.page()).unwrap().read().unwrap()
    }

    fn check(&self, more: &[&str]) -> (Option<i32>, String) {
        // A host that starves answers late.
        let patient: &[&str] = match more.contains(&"--late") {
            true => &[],
            false => &["--late", "90s"],
        };
        let output = Command::new(CARDMON)
            .args(["check", "--live", &self.address(), "--telemetry"])
            .arg(self.root.path().join("pages"))
            .arg("--history")
            .arg(self.root.path().join("history"))
            .args(patient)
            .args(more)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), text)
    }

    fn json(&self, more: &[&str]) -> (Option<i32>, Value) {
        let (code, text) = self.check(&[&["--json"], more].concat());
        let document: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"));
        (code, document["cards"][0].clone())
    }

    /// Checks until the card is as wanted.
    fn until(&self, wanted: impl Fn(&Value) -> bool) -> (Option<i32>, Value) {
        let deadline = SystemClock.now().plus(PATIENT);
        loop {
            let (code, found) = self.json(&[]);
            if wanted(&found) {
                return (code, found);
            }
            assert!(SystemClock.now() < deadline, "{found:#}");
        }
    }

    fn wait(&self, wanted: impl Fn() -> bool) {
        let deadline = SystemClock.now().plus(PATIENT);
        while !wanted() {
            assert!(SystemClock.now() < deadline, "waited in vain");
            std::thread::yield_now();
        }
    }
}

fn address(root: &Path) -> String {
    format!("vfio-user:{}", root.join("card.sock").display())
}

fn start_card(root: &Path, faults: &[&str]) -> Process {
    let mut card = child("simulated-card");
    card.args(["--engines", "1", "--socket"])
        .arg(root.join("card.sock"));
    for fault in faults {
        card.args(["--fault", fault]);
    }
    let mut card = card.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(card.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(line.contains("listening"), "{line:?}");
    Process(card)
}

#[test]
fn a_card_that_answers_is_connected_and_the_page_has_what_was_said() {
    let site = Site::start(&[]);
    // A host that starves makes a test late, which is no fault of what is tested here.
    let passed = |found: &Value| found["tested_now"] == true && found["result"] == "passed";
    let (code, found) = site.until(passed);
    assert_eq!(
        (code, &found["state"]),
        (Some(0), &"connected".into()),
        "{found:#}"
    );
    assert_eq!(found["result"], "passed");
    assert!(found["age_seconds"].as_f64().unwrap() < 10.0);
    let page = site.published();
    assert_eq!(page.checks.last_result.get(), check_result::PASSED);
    let latency = Duration::from_nanos(page.checks.last_latency_ns.get()).as_secs_f64();
    assert_eq!(found["latency_seconds"].as_f64().unwrap(), latency);
    let mode = fs::metadata(site.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let deadline = SystemClock.now().plus(PATIENT);
    let line = loop {
        let (code, line) = site.check(&[]);
        // Too soon after a test that took long, the one before is told of.
        if code == Some(0) && !line.contains("not tested now") {
            break line;
        }
        assert!(SystemClock.now() < deadline, "{line}");
    };
    assert!(line.starts_with("CARDMON OK - vfio-user:"), "{line}");
    assert!(line.contains("| connected=1;;;0;1 latency="), "{line}");
}

#[test]
fn a_card_that_answers_and_is_late_is_a_warning_with_the_reason() {
    let site = Site::start(&[]);
    let deadline = SystemClock.now().plus(PATIENT);
    // Too soon after a test, the one before is told of, which was not timed now.
    let (code, found) = loop {
        let (code, found) = site.json(&["--late", "0.0001ms"]);
        if found["tested_now"] == true && found["state"] == "connected" {
            break (code, found);
        }
        assert!(SystemClock.now() < deadline, "{found:#}");
    };
    assert_eq!(code, Some(1), "{found:#}");
    assert_eq!(found["warnings"][0]["code"], "late");
    let line = loop {
        let (code, line) = site.check(&["--late", "0.0001ms"]);
        if code == Some(1) && line.contains("connected") {
            break line;
        }
        assert!(SystemClock.now() < deadline, "{line}");
    };
    assert!(line.starts_with("CARDMON WARNING - vfio-user:"), "{line}");
    assert!(line.contains("; late: its answer took "), "{line}");
}

#[test]
fn however_many_ask_the_card_is_tested_once_a_second_at_most() {
    let site = Site::start(&[]);
    site.until(|found| found["tested_now"] == true);
    let before = site.published().checks.started.get();
    let began = SystemClock.now();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..3 {
                    let (_, found) = site.json(&[]);
                    assert_ne!(found["state"], "unknown", "{found:#}");
                }
            });
        }
    });
    let seconds = SystemClock.now().since(began).as_secs();
    let tested = site.published().checks.started.get() - before;
    // One more for the schedule, and one for the second that has begun.
    assert!(
        (1..=seconds + 2).contains(&tested),
        "{tested} in {seconds} s"
    );
}

#[test]
fn a_card_that_answers_wrongly_is_unavailable() {
    let site = Site::start(&["flipped-bit"]);
    // On a host that starves an answer may be late before one is wrong.
    let is_wrong = |found: &Value| found["why"].as_str().unwrap().contains("wrong-answer");
    let (code, found) = site.until(is_wrong);
    assert_eq!((code, &found["state"]), (Some(1), &"unavailable".into()));
}

#[test]
fn an_owner_that_is_stopped_is_unavailable_and_not_waited_for_longer_than_was_said() {
    let site = Site::start(&[]);
    site.until(|found| found["tested_now"] == true);
    site.owner.signal(Signal::STOP);
    let began = SystemClock.now();
    let (code, found) = site.json(&["--timeout", "500ms"]);
    assert_eq!(
        (code, &found["state"]),
        (Some(1), &"unavailable".into()),
        "{found:#}"
    );
    assert!(found["why"].as_str().unwrap().contains("has not answered"));
    assert!(SystemClock.now().since(began) < Duration::from_secs(30));
}

#[test]
fn a_card_and_an_owner_that_are_killed_are_unreachable() {
    let mut site = Site::start(&[]);
    site.until(|found| found["tested_now"] == true);
    site.card.end(Signal::KILL);
    let (code, found) = site.until(|found| found["state"] == "unreachable");
    assert_eq!(code, Some(2));
    assert!(
        found["why"].as_str().unwrap().contains("on the bus"),
        "{found:#}"
    );
    site.owner.end(Signal::KILL);
    let (code, found) = site.json(&[]);
    assert_eq!((code, &found["state"]), (Some(2), &"unreachable".into()));
    assert!(
        found["why"].as_str().unwrap().contains("has ended"),
        "{found:#}"
    );
}

#[test]
fn a_card_that_was_let_go_of_is_disconnected_and_one_that_nobody_owned_unknown() {
    let mut site = Site::start(&[]);
    site.until(|found| found["tested_now"] == true);
    site.owner.end(Signal::TERM);
    assert!(
        !site.socket().exists(),
        "an owner that ends in order leaves no socket"
    );
    let (code, found) = site.json(&[]);
    assert_eq!((code, &found["state"]), (Some(3), &"disconnected".into()));
    fs::remove_file(site.page()).unwrap();
    let (code, found) = site.json(&[]);
    assert_eq!((code, &found["state"]), (Some(3), &"unknown".into()));
}

#[test]
fn a_card_that_an_operator_has_drained_is_disconnected_and_not_tested() {
    let site = Site::start(&[]);
    site.until(|found| found["tested_now"] == true);
    let at = |name: &str| site.root.path().join(name);
    let _monitor = Process(
        Command::new(CARDMON)
            .args([
                "run",
                "--interval",
                "200ms",
                "--for",
                "120s",
                "--listen",
                "127.0.0.1:0",
            ])
            .args(["--json", "--telemetry"])
            .arg(at("pages"))
            .arg("--history")
            .arg(at("history"))
            .arg("--control")
            .arg(at("control"))
            .arg("--dead-man")
            .arg(at("alive"))
            .stdout(fs::File::create(at("printed")).unwrap())
            .spawn()
            .unwrap(),
    );
    let order = |arguments: &[&str]| {
        let mut order = Command::new(CARDMON);
        order.args(arguments).arg("--control").arg(at("control"));
        order.output().unwrap().status.success()
    };
    site.wait(|| order(&["unlock", "--ticket", "C1", "--for", "5m", "--reason", "fan"]));
    site.wait(|| order(&["drain", &site.address()]));
    let before = site.published().checks.started.get();
    let began = SystemClock.now();
    let (code, found) = site.json(&[]);
    assert_eq!(
        (code, &found["state"]),
        (Some(0), &"disconnected".into()),
        "{found:#}"
    );
    assert_eq!(found["drained"], true);
    assert_eq!(found["tested_now"], false);
    assert!(found["why"].as_str().unwrap().contains("drained"));
    // Who may not read the history asks the monitor.
    let alive = fs::read(at("printed")).unwrap();
    let alive = String::from_utf8(alive).unwrap();
    let status: Value = serde_json::from_str(alive.lines().next().unwrap()).unwrap();
    let url = format!("http://{}", status["listen"].as_str().unwrap());
    // The monitor says at its next poll what it was ordered.
    site.wait(|| {
        let mut status = Command::new(CARDMON);
        let output = status.args(["status", "--json", "--url", &url]).output();
        let status: Value = serde_json::from_slice(&output.unwrap().stdout).unwrap_or_default();
        !status["cards"][0]["drained"].is_null()
    });
    let nowhere = at("nowhere").display().to_string();
    let asked = |more: &[&str]| {
        let output = Command::new(CARDMON)
            .args(["check", "--live", &site.address(), "--json", "--telemetry"])
            .arg(at("pages"))
            .args(["--history", &nowhere])
            .args(more)
            .output()
            .unwrap();
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        document["cards"][0].clone()
    };
    let found = asked(&["--url", &url]);
    assert_eq!(found["state"], "disconnected", "{found:#}");
    assert_eq!(found["tested_now"], false);
    // But for what the schedule has, which is one in nine seconds at most.
    let tested = site.published().checks.started.get() - before;
    let seconds = SystemClock.now().since(began).as_secs();
    assert!(tested <= 1 + seconds / 9, "{tested} in {seconds} s");
    // Whoever works on it may have ended its owner, or removed its page.
    fs::write(site.page(), "none").unwrap();
    for _ in 0..2 {
        let (code, found) = site.json(&[]);
        assert_eq!(
            (code, &found["state"], &found["drained"]),
            (Some(0), &"disconnected".into(), &true.into()),
            "{found:#}"
        );
        let why = found["why"].as_str().unwrap();
        assert!(
            why.starts_with("an operator has drained it, so it is not tested; "),
            "{why}"
        );
        let _ = fs::remove_file(site.page());
    }
}

#[test]
fn an_owner_that_cannot_be_asked_is_judged_by_its_page_and_says_so() {
    let root = tempfile::tempdir().unwrap();
    let mut publisher = Publisher::create(root.path(), "pci:0000:3b:00.0").unwrap();
    let mut page = Page::new();
    page.owner.address = padded("pci:0000:3b:00.0");
    page.owner.publish_interval_ns = 60_000_000_000_u64.into();
    page.card.state = card_state::READY.into();
    let now = SystemClock.now().as_nanos();
    page.owner.published_at_ns = now.into();
    page.checks.last_result = check_result::TIMED_OUT.into();
    page.checks.last_at_ns = now.into();
    publisher.publish(&page).unwrap();
    let output = Command::new(CARDMON)
        .args(["check", "--live", "--telemetry"])
        .arg(root.path())
        .arg("--history")
        .arg(root.path().join("none"))
        .args(["--url", "http://127.0.0.1:9"])
        .output()
        .unwrap();
    let line = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{line}");
    assert!(line.contains("takes no questions"), "{line}");
    assert!(line.contains("drained it is not known"), "{line}");
    assert!(line.contains("s ago, ended with timed-out"), "{line}");
    // Of two the worse counts, and each has a line.
    let mut second = Publisher::create(root.path(), "software:ring").unwrap();
    page.owner.address = padded("software:ring");
    page.card.state = card_state::RELEASED.into();
    second.publish(&page).unwrap();
    let output = Command::new(CARDMON)
        .args(["check", "--live", "--telemetry"])
        .arg(root.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        (output.status.code(), text.lines().count()),
        (Some(1), 3),
        "{text}"
    );
}
