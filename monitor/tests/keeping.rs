//! The program itself keeps its history and takes orders, against pages that the test publishes.
//!
//! Nothing here waits for time to pass: that a poll has ended is heard where systemd would hear it.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

#[path = "../../hwshim/tests/until/mod.rs"]
mod until;

use card_spec::health::{self, Summary};
use card_spec::telemetry::{Page, card_state, check_result, padded};
use hwshim::clock::{Clock, SystemClock};
use hwshim::telemetry::{self, Publisher};
use monitor::control::{self, Order};
use monitor::history::{
    BootId, EVENTS_FILE, Event, Events, FileAnchors, Filter, Place, Reader, SAMPLES_FILE,
    SampleReader, Stamp,
};
use rusqlite::Connection;
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tempfile::TempDir;
use until::wait_until;
use zerocopy::{FromZeros, IntoBytes};

const CARDMON: &str = env!("CARGO_BIN_EXE_cardmon");
const ADDRESS: &str = "vfio-user:/run/card.sock";
/// Longer than any poll takes on a loaded machine: a monitor that has ended says nothing more.
const PATIENCE: Option<Duration> = Some(Duration::from_secs(60));
const UNLOCK: [&str; 7] = [
    "unlock", "--ticket", "CHG1", "--for", "30m", "--reason", "fan",
];

/// A card's page, a history, and what listens to a monitor of both.
struct Site {
    root: TempDir,
    publisher: Publisher,
    page: Page,
    card: Summary,
    manager: UnixDatagram,
}

impl Site {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut card = Summary::new_zeroed();
        card.magic = health::MAGIC.into();
        card.version = health::VERSION.into();
        card.heartbeat_period_ms = 100.into();
        let mut page = Page::new();
        page.owner.address = padded(ADDRESS);
        page.owner.publish_interval_ns = 250_000_000.into();
        page.card.state = card_state::READY.into();
        page.checks.last_result = check_result::PASSED.into();
        let pid = std::process::id();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let start: u64 = fields.split_whitespace().nth(19).unwrap().parse().unwrap();
        page.owner.pid = u64::from(pid).into();
        page.owner.start_time_ticks = start.into();
        let publisher = Publisher::create(&root.path().join("pages"), ADDRESS).unwrap();
        let manager = UnixDatagram::bind(root.path().join("notify")).unwrap();
        manager.set_read_timeout(PATIENCE).unwrap();
        Self {
            root,
            publisher,
            page,
            card,
            manager,
        }
    }

    fn publish(&mut self) {
        let now = SystemClock.now().as_nanos();
        self.card.heartbeat_count += 1;
        self.page.health.copy_from_slice(self.card.as_bytes());
        self.page.card.health_reads += 1;
        self.page.card.health_read_at_ns = now.into();
        self.page.owner.published_at_ns = now.into();
        self.publisher.publish(&self.page).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// A configuration in which the process is that of the service to watch.
    fn with_service(&self, pid: u32) -> String {
        fs::write(self.path("pid"), pid.to_string()).unwrap();
        let pid_file = self.text("pid");
        let text = format!("[[service]]\nname = 'hardserver'\npid_file = '{pid_file}'\n");
        fs::write(self.path("cardmon.toml"), text).unwrap();
        self.text("cardmon.toml")
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn run(&self) -> Command {
        let mut command = self.run_with("control", "alive");
        command.env("NOTIFY_SOCKET", self.path("notify"));
        command
    }

    /// A monitor with a control socket and a sign of life of these names.
    fn run_with(&self, control: &str, alive: &str) -> Command {
        let mut command = Command::new(CARDMON);
        command
            .args(["run", "--json", "--interval", "200ms", "--for", "120s"])
            .args(["--listen", "127.0.0.1:0"])
            .args(["--telemetry", &self.text("pages")])
            .args(["--history", &self.text("history")])
            .args(["--control", &self.text(control)])
            .args(["--dead-man", &self.text(alive)])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn start(&self) -> Monitor {
        self.start_with(&[])
    }

    /// Starts another on the same history, which nobody hears.
    fn start_beside(&self) -> Monitor {
        Monitor::of(&mut self.run_with("control2", "alive2"))
    }

    fn start_with(&self, more: &[&str]) -> Monitor {
        Monitor::of(self.run().args(more))
    }

    /// Publishes, and waits until a poll has ended that began after that.
    fn poll(&mut self) {
        while takes_one(&self.manager) {}
        self.publish();
        // The first may have looked before.
        for _ in 0..2 {
            self.hear();
        }
    }

    fn hear(&self) -> String {
        let mut message = [0; 64];
        let heard = self.manager.recv(&mut message);
        let len = heard.expect("a poll ends");
        String::from_utf8(message[..len].to_vec()).unwrap()
    }

    /// Polls until something is on record.
    fn poll_until(&mut self, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        loop {
            self.poll();
            let events = self.events();
            if wanted(&events) {
                return events;
            }
        }
    }

    /// Polls until `check`, a program that is run after each poll and comes too late now and then on a
    /// busy machine, ends with `wanted`. Returns what it says then.
    fn poll_until_code(&mut self, wanted: i32, check: impl Fn(&Self) -> (i32, String)) -> String {
        let mut said = String::new();
        let is_found = (0..100).any(|_| {
            self.poll();
            let (code, text) = check(self);
            said = text;
            code == wanted
        });
        assert!(is_found, "{said}");
        said
    }

    /// What `cardmon history --json` shows; nothing while there is no file.
    fn events(&self) -> Vec<Value> {
        let output = self.cardmon(&["history", "--json"]);
        String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Unlocks, and drains the card.
    fn drain(&self) {
        for order in [&UNLOCK[..], &["drain", ADDRESS]] {
            assert!(self.cardmon(order).status.success(), "{order:?}");
        }
    }

    fn cardmon(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(CARDMON);
        command.args(arguments);
        match arguments[0] {
            "history" | "explain" | "audit" | "restore" => {
                command.args(["--history", &self.text("history")]);
            }
            "snapshot" => {
                command.args(["--history", &self.text("history")]);
                command.args(["--control", &self.text("control")]);
            }
            "status" | "check" | "diagnose" => {}
            "incidents" => {
                command.args(["--history", &self.text("history")]);
            }
            "dead-man" => {
                command.args(["--file", &self.text("alive")]);
            }
            _ => {
                command.args(["--control", &self.text("control")]);
            }
        }
        command.output().unwrap()
    }
}

/// A monitor that runs. What it prints is read, or it would stand still when the pipe is full.
struct Monitor {
    child: Child,
    printed: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

fn read_all(stdout: ChildStdout, printed: &Mutex<String>) {
    let mut stdout = BufReader::new(stdout);
    let mut line = String::new();
    while matches!(stdout.read_line(&mut line), Ok(len) if len > 0) {
        printed.lock().unwrap().push_str(&line);
        line.clear();
    }
}

impl Monitor {
    fn of(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let printed = Arc::new(Mutex::new(String::new()));
        let reader = thread::spawn({
            let printed = Arc::clone(&printed);
            move || read_all(stdout, &printed)
        });
        Self {
            child,
            printed,
            reader: Some(reader),
        }
    }

    /// The status that it printed last.
    fn status(&self) -> Value {
        let printed = self.printed.lock().unwrap();
        serde_json::from_str(printed.lines().last().unwrap()).unwrap()
    }

    /// Waits until it has shown so many polls.
    fn printed_lines(&self, count: usize) {
        wait_until("polls are shown", || {
            self.printed.lock().unwrap().lines().count() >= count
        });
    }

    fn url(&self) -> String {
        format!("http://{}", self.status()["listen"].as_str().unwrap())
    }

    /// Ends it with a signal, and returns what it had printed, and its exit status if it has one.
    fn end(mut self, signal: Signal) -> (String, String, Option<i32>) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        let mut err = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut err).unwrap();
        self.reader.take().unwrap().join().unwrap();
        let out = self.printed.lock().unwrap().clone();
        (out, err, self.child.wait().unwrap().code())
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn of_kind<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events
        .iter()
        .filter(|event| event["kind"] == kind)
        .collect()
}

fn became(state: &str) -> impl Fn(&[Value]) -> bool {
    move |events| {
        let last = of_kind(events, "transition").pop();
        last.is_some_and(|last| last["body"]["to"] == state)
    }
}

/// The last whole line that a monitor printed.
fn last_shown(out: &str) -> Value {
    let whole = out.rfind('\n').map_or("", |end| &out[..end]);
    serde_json::from_str(whole.lines().last().unwrap()).unwrap()
}

/// A site whose monitor has seen its card go, could not record it and was killed; with what it had
/// printed, and how many transitions were on record before. `None` if it had given an alarm by then.
fn is_killed_while_the_disk_takes_nothing() -> Option<(Site, String, usize)> {
    let mut site = Site::new();
    let monitor = site.start();
    let events = site.poll_until(became("connected"));
    let before = of_kind(&events, "transition").len();
    // From here on the disk takes nothing.
    let slow = Connection::open(site.path("history").join(EVENTS_FILE)).unwrap();
    slow.execute_batch("BEGIN IMMEDIATE").unwrap();
    site.page.card.state = card_state::GONE.into();
    site.poll();
    let (out, ..) = monitor.end(Signal::KILL);
    let is_silent = last_shown(&out)["history"]["kept"] == true;
    is_silent.then_some((site, out, before))
}

#[test]
fn a_transition_that_is_shown_is_on_record_whenever_the_monitor_is_killed() {
    // On a busy machine a poll may take longer than the time after which an alarm is given.
    let tried = (0..20).find_map(|_| is_killed_while_the_disk_takes_nothing());
    let (site, out, before) = tried.expect("a poll ends before the alarm");
    let shown = last_shown(&out)["transitions"].as_array().unwrap().len();
    assert_eq!(shown, before, "shown, and not on record");
    let reader = Reader::open(&site.path("history")).unwrap();
    let anchors = FileAnchors::read(&site.path("history.anchors")).unwrap();
    assert!(reader.verify(&anchors).unwrap().is_proven());
    let kinds = vec!["transition".to_owned()];
    let filter = Filter {
        kinds,
        ..Filter::default()
    };
    assert_eq!(reader.query(&filter).unwrap().len(), before);
}

#[test]
fn a_run_is_on_record_from_its_start_to_its_stop_and_a_kill_is_noticed_by_the_next() {
    let mut site = Site::new();
    let monitor = site.start();
    site.poll_until(became("connected"));
    site.page.card.state = card_state::GONE.into();
    let events = site.poll_until(became("unreachable"));
    let last = of_kind(&events, "transition").pop().unwrap();
    assert_eq!(last["severity"], "alert");
    assert_eq!(last["subject"], ADDRESS);
    assert_eq!(last["body"]["cause"], "card-absent");
    assert_eq!(last["body"]["evidence"][0]["code"], "gone");
    assert_eq!(monitor.end(Signal::TERM).2, Some(0));
    assert_eq!(site.events().last().unwrap()["kind"], "stop");

    let killed = site.start();
    site.poll();
    killed.end(Signal::KILL);
    let again = site.start();
    site.poll();
    again.end(Signal::TERM);
    let events = site.events();
    let starts = of_kind(&events, "start");
    let before: Vec<_> = starts
        .iter()
        .map(|start| &start["body"]["previous_was_stopped"])
        .collect();
    assert_eq!(before, [&Value::Null, &true.into(), &false.into()]);

    let text = site.cardmon(&["history", "--kind", "transition"]).stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.contains("connected -> unreachable (card-absent): gone"),
        "{text}"
    );
    let mistyped = site.cardmon(&["history", "--kind", "transitions"]);
    let said = String::from_utf8(mistyped.stderr).unwrap();
    assert!(mistyped.stdout.is_empty());
    let named = "no event of the kind transitions is on record; of these kinds there are: ";
    let known = said.trim_end().strip_prefix(named).expect(&said);
    assert!(known.split(", ").any(|kind| kind == "transition"), "{said}");
    let audit = site.cardmon(&["audit", "verify"]);
    assert_eq!(audit.status.code(), Some(0));
}

#[test]
fn a_history_that_cannot_be_kept_stops_no_watching_and_is_said_with_what_to_do() {
    let mut site = Site::new();
    let first = site.start();
    site.poll();
    // The same history, a second time.
    let mut second = site.run();
    second
        .args(["--control", &site.text("control2")])
        .args(["--dead-man", &site.text("alive2")])
        .args(["--for", "5s"]);
    let mut arguments: Vec<_> = second.get_args().map(ToOwned::to_owned).collect();
    // What is given twice is refused: the later of each stands.
    for name in ["--control", "--dead-man", "--for"] {
        let at = arguments.iter().position(|it| it == name).unwrap();
        arguments.drain(at..at + 2);
    }
    let output = Command::new(CARDMON).args(arguments).output().unwrap();
    let (out, err) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    assert!(out.lines().count() >= 3, "it went on watching");
    assert!(err.contains("nothing is being recorded"), "{err}");
    assert!(err.contains("is in use by process"), "{err}");
    assert_eq!(output.status.code(), Some(3));
    first.end(Signal::TERM);

    // Something that is no history is left as it is.
    fs::write(site.path("history").join(EVENTS_FILE), "not a database").unwrap();
    let third = site.start();
    site.poll();
    let alive = fs::read_to_string(site.path("alive")).unwrap();
    assert!(alive.contains("is not ours"), "{alive}");
    let (_, err, code) = third.end(Signal::TERM);
    assert!(err.contains("is not ours"), "{err}");
    assert_eq!(code, Some(3));
    let left = fs::read(site.path("history").join(EVENTS_FILE)).unwrap();
    assert_eq!(left, b"not a database");
}

#[test]
fn what_is_wrong_with_the_history_is_told_by_the_status_and_the_metrics_while_it_is() {
    let told = |monitor: &Monitor| {
        let url = monitor.url();
        let output = Command::new(CARDMON)
            .args(["status", "--url", &url])
            .output()
            .unwrap();
        let metrics = http_get(&url, "/metrics");
        let metrics = metrics
            .lines()
            .filter(|it| it.starts_with("cardmon_history_"));
        let metrics: Vec<_> = metrics.map(str::to_owned).collect();
        (String::from_utf8(output.stdout).unwrap(), metrics.join(" "))
    };
    let is_a_failed_check =
        |status: &Value| status["host"].to_string().contains("history-not-kept");
    let site = Site::new();
    let first = site.start();
    first.printed_lines(1);
    // One that another has.
    let second = site.start_beside();
    second.printed_lines(3);
    let status = second.status();
    assert_eq!(status["history"]["kept"], false);
    assert!(is_a_failed_check(&status), "{status}");
    let (shown, metrics) = told(&second);
    assert!(
        shown.contains("ALARM: the history: nothing is being recorded: ")
            && shown.contains("in use"),
        "{shown}"
    );
    assert_eq!(
        metrics,
        "cardmon_history_kept 0.0 cardmon_history_troubles 1.0"
    );
    first.end(Signal::TERM);
    wait_until("the history is kept", || {
        second.status()["history"]["kept"] == true
    });
    assert_eq!(second.status()["history"]["troubles"], Value::Array(vec![]));
    second.end(Signal::TERM);

    // One that is kept, and whose end nobody else is told.
    fs::create_dir(site.path("no-file")).unwrap();
    let third = site.start_with(&["--anchors", &site.text("no-file")]);
    third.printed_lines(1);
    // On a disk that is slow to sync it is not kept yet.
    wait_until("the history is kept", || {
        third.status()["history"]["kept"] == true
    });
    let status = third.status();
    assert!(!is_a_failed_check(&status), "{status}");
    let (shown, metrics) = told(&third);
    assert!(shown.contains("the history: no anchors: "), "{shown}");
    assert!(!shown.contains("ALARM"), "{shown}");
    assert_eq!(
        metrics,
        "cardmon_history_kept 1.0 cardmon_history_troubles 1.0"
    );
    third.end(Signal::TERM);

    // One that is none.
    fs::write(site.path("history").join(EVENTS_FILE), "not a database").unwrap();
    let fourth = site.start();
    fourth.printed_lines(1);
    let (shown, metrics) = told(&fourth);
    assert!(shown.contains("is not ours"), "{shown}");
    assert!(metrics.starts_with("cardmon_history_kept 0"), "{metrics}");
    fourth.end(Signal::TERM);
}

#[test]
fn what_is_drained_stays_so_where_the_history_is_opened_late() {
    let mut site = Site::new();
    let first = site.start();
    site.poll_until(became("connected"));
    site.drain();
    // One that is started while another still has the history, and gets it when that ends.
    let second = site.start_beside();
    second.printed_lines(2);
    assert_eq!(second.status()["cards"][0]["drained"], Value::Null);
    first.end(Signal::TERM);
    wait_until("it is drained", || {
        site.publish();
        second.status()["cards"][0]["drained"] != Value::Null
    });
    let shown = Command::new(CARDMON)
        .args(["lock", "--show", "--control", &site.text("control2")])
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("CHG1"), "{shown}");
    second.end(Signal::TERM);
}

#[test]
fn incidents_and_firmware_are_gone_on_from_where_the_history_is_opened_late() {
    let mut site = Site::new();
    site.card.firmware_revision = *b"1.0.0   ";
    let first = site.start();
    site.poll_until(became("connected"));
    site.page.card.state = card_state::GONE.into();
    let events = site.poll_until(|events| !of_kind(events, "incident-opened").is_empty());
    let number = of_kind(&events, "incident-opened")[0]["body"]["incident"].clone();
    // It has the history, and sees and records nothing more.
    let pid = Pid::from_child(&first.child);
    kill_process(pid, Signal::STOP).unwrap();
    site.card.firmware_revision = *b"2.0.0   ";
    site.page.card.state = card_state::READY.into();
    let second = site.start_beside();
    wait_until("polls are shown", || {
        site.publish();
        second.printed.lock().unwrap().lines().count() >= 4
    });
    drop(first);
    let mut events = Vec::new();
    wait_until("the firmware is on record", || {
        site.publish();
        events = site.events();
        of_kind(&events, "firmware").len() == 3
    });
    let closed = of_kind(&events, "incident-closed");
    assert_eq!(closed[0]["body"]["incident"], number);
    assert_eq!(closed[0]["body"]["not_watched"], true);
    let change = &of_kind(&events, "firmware")[2]["body"];
    assert_eq!(
        (&change["from"], &change["to"], &change["expected"]),
        (&"1.0.0".into(), &"2.0.0".into(), &false.into())
    );
    second.end(Signal::TERM);
}

#[test]
fn what_waits_while_the_disk_takes_nothing_is_recorded_when_it_does() {
    let mut site = Site::new();
    let monitor = site.start();
    site.poll_until(became("connected"));
    let slow = Connection::open(site.path("history").join(EVENTS_FILE)).unwrap();
    slow.execute_batch("BEGIN IMMEDIATE").unwrap();
    site.page.card.state = card_state::GONE.into();
    // Until it has given up waiting for the disk, and says so.
    loop {
        site.poll();
        let alive = fs::read_to_string(site.path("alive")).unwrap();
        if alive.contains("nothing is being recorded") {
            break;
        }
    }
    slow.execute_batch("ROLLBACK").unwrap();
    let events = site.poll_until(became("unreachable"));
    let gap = of_kind(&events, "history-gap").pop().unwrap();
    assert_eq!(
        (&gap["severity"], &gap["body"]["lost"]),
        (&"alert".into(), &0.into())
    );
    let (_, err, code) = monitor.end(Signal::TERM);
    assert!(err.contains("recorded again"), "{err}");
    assert_eq!(code, Some(0));
}

#[test]
fn who_is_refused_from_another_pid_namespace_is_on_record_by_user() {
    let mut site = Site::new();
    let inside = |program: &str| {
        let mut command = Command::new("unshare");
        let own = ["--user", "--map-root-user", "--pid", "--fork"];
        command.args(own).args(["--kill-child", program]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    if !inside("true").status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: this user may have no PID namespace of their own");
        return;
    }
    let run = site.run();
    let mut command = inside(CARDMON);
    command.args(run.get_args());
    command.env("NOTIFY_SOCKET", site.path("notify"));
    let _monitor = Monitor::of(&mut command);
    site.poll_until(became("connected"));
    let refused = site.cardmon(&["drain", ADDRESS]);
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(text.contains("changes are locked"), "{text}");
    let events = site.poll_until(|events| !of_kind(events, "change-attempt").is_empty());
    let attempt = of_kind(&events, "change-attempt").pop().unwrap();
    assert_eq!(attempt["body"]["by"], "uid=0 pid=0");
}

#[test]
fn what_services_held_before_is_read_without_taking_away_the_locks_of_who_writes() {
    let mut site = Site::new();
    let config = site.with_service(std::process::id());
    let monitor = site.start_with(&["--config", &config]);
    site.poll();
    let locks = fs::read_to_string("/proc/locks").unwrap();
    let pid = monitor.child.id().to_string();
    for file in [EVENTS_FILE, SAMPLES_FILE] {
        let found = fs::metadata(site.path("history").join(file)).unwrap();
        let inode = format!(":{}", found.ino());
        // As long as its log is used, SQLite has a shared lock on the file itself.
        let is_locked = locks.lines().any(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            fields[1] == "POSIX" && fields[4] == pid && fields[5].ends_with(&inode)
        });
        assert!(is_locked, "{file} of {pid}:\n{locks}");
    }
}

#[test]
fn a_card_is_drained_in_a_window_only_and_then_alarms_nobody() {
    let mut site = Site::new();
    let monitor = site.start();
    site.poll_until(became("connected"));
    let mode = fs::metadata(site.path("control"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660);

    let refused = site.cardmon(&["drain", ADDRESS]);
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(text.contains("cardmon unlock"), "{text}");
    assert!(site.cardmon(&UNLOCK).status.success());
    assert!(
        !site.cardmon(&UNLOCK).status.success(),
        "it was open already"
    );
    assert!(!site.cardmon(&["drain", "pci:nowhere"]).status.success());
    let drained = site.cardmon(&["drain", ADDRESS]);
    let text = String::from_utf8(drained.stdout).unwrap();
    assert!(text.contains("drained: vfio-user:"), "{text}");
    assert!(site.cardmon(&["lock"]).status.success());
    assert!(!site.cardmon(&["undrain", ADDRESS]).status.success());

    site.page.card.state = card_state::GONE.into();
    let events = site.poll_until(became("unreachable"));
    let attempts = of_kind(&events, "change-attempt");
    assert_eq!(attempts.len(), 2);
    let uid = rustix::process::geteuid().as_raw();
    for attempt in attempts {
        let by = attempt["body"]["by"].as_str().unwrap();
        assert!(by.starts_with(&format!("uid={uid} pid=")), "{by}");
        assert_eq!(attempt["severity"], "alert");
    }
    let change = of_kind(&events, "change").pop().unwrap();
    let window = of_kind(&events, "change-unlock").pop().unwrap();
    assert_eq!(change["refers_to"], window["seq"]);
    let last = of_kind(&events, "transition").pop().unwrap();
    assert_eq!(
        (&last["severity"], &last["body"]["drained"]),
        (&"notice".into(), &true.into())
    );
    monitor.end(Signal::KILL);

    // It is on record, so it is so after a restart.
    let again = site.start();
    site.poll();
    let shown = site.cardmon(&["lock", "--show"]).stdout;
    assert!(
        String::from_utf8(shown)
            .unwrap()
            .contains("drained: vfio-user:")
    );
    again.end(Signal::TERM);
    assert!(!site.path("control").exists());
}

#[test]
fn who_give_orders_at_once_get_events_of_their_own() {
    let mut site = Site::new();
    let monitor = site.start();
    site.poll_until(became("connected"));
    assert!(site.cardmon(&UNLOCK).status.success());
    let control = site.path("control");
    let orders = |thread: u32| {
        let order = move |number: u32| Order::Tune {
            what: format!("{thread}/{number}"),
            old: "1".to_owned(),
            new: "2".to_owned(),
            failed: None,
        };
        let control = &control;
        move || {
            let numbers = 0..10;
            let give = |number: u32| {
                let answer = control::send(control, &order(number)).unwrap();
                (
                    answer["event"].as_u64().unwrap(),
                    format!("{thread}/{number}"),
                )
            };
            numbers.map(give).collect::<Vec<_>>()
        }
    };
    let given: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|thread| scope.spawn(orders(thread))).collect();
        let ended = threads.into_iter().map(|thread| thread.join().unwrap());
        ended.flatten().collect()
    });
    let events = site.events();
    for (seq, what) in &given {
        let event = events.iter().find(|event| event["seq"] == *seq).unwrap();
        assert_eq!(event["subject"], **what);
    }
    let recorded = of_kind(&events, "change").len();
    assert_eq!((given.len(), recorded), (40, 40));
    monitor.end(Signal::TERM);
}

#[test]
fn what_a_service_has_in_memory_is_added_up_for_who_asks_and_said_if_it_cannot_be() {
    let mut site = Site::new();
    let mut process = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let pid = process.id();
    let config = site.with_service(pid);
    let monitor = site.start_with(&["--config", &config]);
    site.poll();
    monitor.printed_lines(1);
    let (url, own, other) = (monitor.url(), site.text("control"), site.text("other"));
    let asked = |service: &[&str], control: &str| {
        let output = Command::new(CARDMON)
            .args(["leaks", "--explain", "--url", &url, "--control", control])
            .args(service)
            .output()
            .unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    // What a poll has found is shown a little later.
    let mut asked_until = |wanted: &str| loop {
        site.poll();
        let said = asked(&["hardserver"], &own);
        if said.contains(wanted) {
            return said;
        }
    };
    let said = asked_until("memory of hardserver, added up ");
    let from = format!("ago from /proc/{pid}/smaps_rollup:\n    Rss  ");
    assert!(said.contains(&from), "{said}");
    let written = said.lines().find(|it| it.contains("Private_Dirty"));
    assert!(!written.unwrap().contains(" 0.0 MiB"), "{said}");
    // Nobody who asks of all of them has all of them added up.
    assert!(!asked(&[], &own).contains("added up"));
    let said = asked(&["softserver"], &own);
    assert!(said.contains("watched: hardserver"), "{said}");

    let said = asked(&["hardserver"], "/nonexistent");
    let why = "memory of hardserver was not added up: no monitor takes orders on /nonexistent";
    assert!(said.contains(why) && said.contains("descriptors"), "{said}");
    // Whoever answers there watches another process under that name.
    let listener = UnixListener::bind(&other).unwrap();
    let answers = thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut order = String::new();
        BufReader::new(&client).read_line(&mut order).unwrap();
        let memory =
            r#"{"service": "hardserver", "pid": 1, "start_time_ticks": 7, "age_seconds": 0}"#;
        writeln!(client, r#"{{"ok": true, "memory": {memory}}}"#).unwrap();
        order
    });
    let said = asked(&["hardserver"], &other);
    assert!(said.contains("has process 1 for it"), "{said}");
    let order = answers.join().unwrap();
    assert_eq!(order, "{\"memory\":{\"service\":\"hardserver\"}}\n");

    process.kill().unwrap();
    process.wait().unwrap();
    asked_until("memory of hardserver was not added up: it has no process");
    let order = Order::Memory {
        service: "hardserver".to_owned(),
    };
    let refused = control::send(Path::new(&own), &order).unwrap_err();
    assert_eq!(refused.to_string(), "hardserver has no process");
    monitor.end(Signal::TERM);
}

#[test]
fn a_drill_says_so_wherever_services_are_shown_and_on_record_and_nothing_else_does() {
    for factor in [Some(60), None] {
        let mut site = Site::new();
        let service = format!(
            "[[service]]\nname = 'web'\npid_file = '{}'\n",
            site.text("pid")
        );
        fs::write(site.path("pid"), std::process::id().to_string()).unwrap();
        let drill = factor.map(|factor| format!("[drill]\nservice_time = {factor}\n"));
        let text = drill.unwrap_or_default() + &service;
        fs::write(site.path("cardmon.toml"), text).unwrap();
        let config = site.text("cardmon.toml");
        let monitor = site.start_with(&["--config", &config]);
        let events = site.poll_until(became("connected"));
        let started = &of_kind(&events, "start")[0]["body"];
        assert_eq!(started["drill_service_time"], Value::from(factor));
        site.poll();
        let url = monitor.url();
        assert_eq!(
            monitor.status()["drill"]["service_time"],
            Value::from(factor)
        );
        let shown: [&[&str]; 5] = [
            &["status"],
            &["leaks"],
            &["leaks", "--explain"],
            &["top"],
            &["top", "--kernel"],
        ];
        for command in shown {
            let output = Command::new(CARDMON)
                .args(command)
                .args(["--url", &url])
                .output()
                .unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let first = text.lines().next().unwrap();
            assert_eq!(
                first.starts_with("DRILL: ") && first.contains(" 60 times as fast"),
                factor.is_some(),
                "{command:?}: {text}"
            );
        }
        let metrics = http_get(&url, "/metrics");
        let gauge = format!("cardmon_service_time {}.0\n", factor.unwrap_or(1));
        let plain = format!("cardmon_service_time {}\n", factor.unwrap_or(1));
        assert!(
            metrics.contains(&gauge) || metrics.contains(&plain),
            "{metrics}"
        );
        monitor.end(Signal::TERM);
    }
}

fn http_get(url: &str, path: &str) -> String {
    let address = url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn the_unit_is_one_that_systemd_takes_and_that_lets_the_monitor_do_no_more_than_it_does() {
    let root = tempfile::tempdir().unwrap();
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/cardmon.service");
    let text = fs::read_to_string(unit).unwrap();
    let path = root.path().join("cardmon.service");
    let installed = text.replace("/usr/local/bin/cardmon", CARDMON);
    assert_ne!(text, installed);
    fs::write(&path, installed).unwrap();
    let analyze = |arguments: &[&str]| {
        let mut command = Command::new("systemd-analyze");
        command.args(arguments).arg(&path).output()
    };
    let Ok(output) = analyze(&["verify", "--man=no"]) else {
        eprintln!("skipped: there is no systemd-analyze");
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let about_it = said.lines().filter(|line| line.contains("cardmon.service"));
    assert_eq!(about_it.collect::<Vec<_>>(), [""; 0], "{said}");
    // Tenths of 10, which is a service that may do anything.
    let security = ["security", "--offline=true", "--threshold=30"];
    let output = analyze(&security).unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    // Those before version 250 judge none that are not loaded.
    if said.contains("Overall exposure") {
        assert!(output.status.success(), "{said}");
    }
}

/// The unit's bounds, which are the kernel's, without systemd: root that may read everything and write
/// what root may.
#[test]
fn as_its_unit_has_it_a_monitor_asks_at_sockets_of_others_only_with_their_group() {
    let site = Site::new();
    let unit = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/cardmon.service")).unwrap();
    let bounds = unit
        .lines()
        .find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let bounds: Vec<_> = bounds
        .unwrap()
        .split(' ')
        .map(|it| it.replace("CAP_", ",+").to_lowercase())
        .collect();
    let bounded = |groups: &str| {
        let mut command = Command::new("setpriv");
        command
            .arg(format!("--bounding-set=-all{}", bounds.concat()))
            .args(["--inh-caps=-all", "--no-new-privs", groups]);
        command
    };
    let is_bounded = bounded("--groups=4242").arg("true").output();
    if !is_bounded.is_ok_and(|it| it.status.success()) {
        eprintln!("skipped: it takes setpriv, and root that has the capabilities of the unit");
        return;
    }
    let socket = site.path("service.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    std::os::unix::fs::chown(&socket, Some(65_534), Some(4_242)).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o660)).unwrap();
    // It hangs up on whoever gets as far as that.
    thread::spawn(move || listener.incoming().for_each(drop));
    fs::write(site.path("pid"), std::process::id().to_string()).unwrap();
    let config = format!(
        "[[service]]\nname = 'web'\npid_file = '{}'\nsocket = '{}'\n",
        site.text("pid"),
        socket.display()
    );
    fs::write(site.path("cardmon.toml"), config).unwrap();
    for (groups, expected) in [
        ("--clear-groups", "reach-unseen"),
        ("--groups=4242", "no-answer"),
    ] {
        let run = site.run_with("control", "alive");
        let mut command = bounded(groups);
        command
            .arg(CARDMON)
            .args(run.get_args())
            .args(["--config", &site.text("cardmon.toml")])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let monitor = Monitor::of(&mut command);
        monitor.printed_lines(1);
        let mut found = None;
        wait_until("it has asked", || {
            let service = monitor.status()["services"][0].clone();
            let evidence = service["evidence"].as_array().unwrap().clone();
            let of_asking = ["reach-unseen", "no-answer"];
            let is_of_asking = |it: &Value| of_asking.iter().any(|code| it["code"] == *code);
            found = evidence.into_iter().find(is_of_asking);
            found.is_some()
        });
        let evidence = found.unwrap();
        assert_eq!(evidence["code"], expected, "{evidence}");
        let detail = evidence["detail"].as_str().unwrap();
        let says_how = detail.contains("SupplementaryGroups=");
        assert_eq!(says_how, expected == "reach-unseen", "{detail}");
        monitor.end(Signal::TERM);
    }
}

#[test]
fn a_snapshot_is_made_with_and_without_a_monitor_and_can_be_gone_back_to() {
    let mut site = Site::new();
    let monitor = site.start();
    site.poll_until(became("connected"));
    let copy = |site: &Site, name: &str, mode: &str| {
        let to = site.text(name);
        let made = site.cardmon(&["snapshot", "--to", &to, "--mode", mode]);
        let text = String::from_utf8_lossy(&made.stdout).into_owned();
        let missing = match mode {
            "quiesce" => "recovery point: 0 events",
            _ => "recovery point: ",
        };
        assert!(text.contains(missing), "{text} {made:?}");
        assert!(site.cardmon(&["restore", "--verify", &to]).status.success());
    };
    copy(&site, "by the monitor", "quiesce");
    copy(&site, "beside it", "ordered");
    monitor.end(Signal::TERM);
    copy(&site, "without one", "quiesce");
    let again = site.cardmon(&["snapshot", "--to", &site.text("beside it")]);
    let text = String::from_utf8(again.stderr).unwrap();
    assert!(text.contains("is there already"), "{text}");
    // An event of the copy, by somebody who covers up how.
    let file = site.path("beside it").join(EVENTS_FILE);
    let copy = Connection::open(&file).unwrap();
    let trigger = "SELECT sql FROM sqlite_schema WHERE name = 'event_stays'";
    let trigger: String = copy.query_row(trigger, [], |row| row.get(0)).unwrap();
    copy.execute_batch("DROP TRIGGER event_stays; UPDATE event SET body = '{}' WHERE seq = 2")
        .unwrap();
    copy.execute_batch(&trigger).unwrap();
    drop(copy);
    let found = site.cardmon(&["restore", "--verify", &site.text("beside it")]);
    assert_eq!(found.status.code(), Some(3), "{found:?}");
}

#[test]
fn a_history_that_is_not_there_is_said_to_be_absent() {
    let site = Site::new();
    let output = site.cardmon(&["history"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("there is no history at "), "{said}");
}

#[test]
fn a_dead_monitor_looks_dead() {
    let mut site = Site::new();
    let check = |site: &Site| {
        let output = site.cardmon(&["dead-man"]);
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code().unwrap(), text)
    };
    assert_eq!(check(&site).0, 4);
    let monitor = site.start();
    assert!(site.hear().starts_with("READY=1"));
    site.poll_until(became("connected"));
    let text = site.poll_until_code(0, check);
    assert!(text.contains("1 connected"), "{text}");
    monitor.end(Signal::KILL);
    // As it would be read three polls later.
    let alive = fs::read_to_string(site.path("alive")).unwrap();
    let mut alive: Value = serde_json::from_str(&alive).unwrap();
    let earlier = alive["monotonic_ns"].as_u64().unwrap() - 601_000_000;
    alive["monotonic_ns"] = earlier.into();
    fs::write(site.path("alive"), alive.to_string()).unwrap();
    let (code, text) = check(&site);
    assert_eq!(code, 3);
    assert!(
        text.contains("1 unknown") && !text.contains("connected"),
        "{text}"
    );
}

#[test]
fn a_service_manager_is_told_of_the_first_poll_of_each_and_of_the_end() {
    let site = Site::new();
    let monitor = site.start();
    assert_eq!(site.hear(), "READY=1\nWATCHDOG=1");
    assert_eq!(site.hear(), "WATCHDOG=1");
    // A monitor that does not run says nothing.
    let pid = Pid::from_child(&monitor.child);
    kill_process(pid, Signal::STOP).unwrap();
    while takes_one(&site.manager) {}
    kill_process(pid, Signal::CONT).unwrap();
    assert_eq!(site.hear(), "WATCHDOG=1");
    kill_process(pid, Signal::TERM).unwrap();
    while site.hear() != "STOPPING=1" {}
    // Nor does who asks find it alive, however soon.
    let output = site.cardmon(&["dead-man"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("STOPPED"), "{text}");
}

#[test]
fn a_service_manager_waits_for_polls_and_is_told_of_the_first_until_it_has_heard() {
    let site = Site::new();
    let late = site.path("late");
    let mut command = site.run();
    command
        .env("NOTIFY_SOCKET", &late)
        .env("WATCHDOG_USEC", "399999");
    let monitor = Monitor::of(&mut command);
    // It has polled before anybody listens.
    monitor.printed_lines(2);
    let listener = UnixDatagram::bind(&late).unwrap();
    listener.set_read_timeout(PATIENCE).unwrap();
    let hear = || {
        let mut message = [0; 64];
        let len = listener.recv(&mut message).unwrap();
        String::from_utf8(message[..len].to_vec()).unwrap()
    };
    assert_eq!(hear(), "READY=1\nWATCHDOG=1\nWATCHDOG_USEC=600000");
    assert_eq!(hear(), "WATCHDOG=1");
    monitor.end(Signal::TERM);

    // Who waits for longer anyway, or for another process, is asked for nothing.
    for (usec, pid) in [("400000", None), ("10000", Some("1"))] {
        let mut command = site.run();
        command.env("WATCHDOG_USEC", usec);
        if let Some(pid) = pid {
            command.env("WATCHDOG_PID", pid);
        }
        while takes_one(&site.manager) {}
        let monitor = Monitor::of(&mut command);
        assert_eq!(site.hear(), "READY=1\nWATCHDOG=1");
        monitor.end(Signal::TERM);
    }
}

/// Takes one message off, if one waits.
fn takes_one(listener: &UnixDatagram) -> bool {
    listener.set_nonblocking(true).unwrap();
    let heard = listener.recv(&mut [0; 64]).is_ok();
    listener.set_nonblocking(false).unwrap();
    heard
}

#[test]
fn output_that_nobody_takes_holds_up_no_poll_and_a_reader_that_goes_ends_the_run_on_record() {
    let site = Site::new();
    // A pipe that is full already, as after a reader that was halted.
    let (mut reader, mut writer) = io::pipe().unwrap();
    fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    while writer.write(&[b' '; 4096]).is_ok() {}
    fcntl_setfl(&writer, OFlags::empty()).unwrap();
    let mut monitor = site.run().stdout(writer).spawn().unwrap();
    assert_eq!(site.hear(), "READY=1\nWATCHDOG=1");
    for _ in 0..5 {
        assert_eq!(site.hear(), "WATCHDOG=1");
    }
    // It is read again, up to where the status begins, and then the reader goes.
    let mut byte = [0];
    while matches!(reader.read(&mut byte), Ok(1)) && byte == *b" " {}
    drop(reader);
    assert_eq!(monitor.wait().unwrap().code(), Some(0));
    assert_eq!(site.events().last().unwrap()["kind"], "stop");
}

#[test]
fn a_configuration_that_is_another_than_in_the_run_before_is_on_record() {
    let mut site = Site::new();
    let config = site.text("cardmon.toml");
    let mut run = |text: Option<&str>, many: usize| {
        let monitor = match text {
            Some(text) => {
                fs::write(&config, text).unwrap();
                site.start_with(&["--config", &config])
            }
            None => site.start(),
        };
        let of_it = |events: &[Value]| {
            let software = of_kind(events, "software");
            let of_it = software.into_iter().map(|it| it["body"].clone());
            of_it
                .filter(|it| it["what"] == "configuration")
                .collect::<Vec<_>>()
        };
        let events = site.poll_until(|events| of_it(events).len() == many);
        site.poll();
        monitor.end(Signal::TERM);
        assert_eq!(of_it(&site.events()).len(), many);
        of_it(&events).pop().unwrap()
    };
    let first = run(None, 1);
    assert_eq!(
        (&first["from"], &first["to"]),
        (&Value::Null, &"default".into())
    );
    let second = run(Some("[watch]\ninterval = '200ms'\n"), 2);
    assert_eq!(second["from"], "default");
    let third = run(Some("[watch]\ninterval = '201ms'\n"), 3);
    assert_eq!(third["from"], second["to"]);
    assert_eq!(run(Some("[watch]\ninterval = '201ms'\n"), 3), third);
}

#[test]
fn complaints_that_nobody_takes_hold_up_no_poll_and_are_said_when_they_are_taken() {
    let site = Site::new();
    // What it cannot keep, it complains of.
    fs::write(site.path("history"), "").unwrap();
    let (mut reader, mut writer) = io::pipe().unwrap();
    fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    while writer.write(&[b' '; 4096]).is_ok() {}
    fcntl_setfl(&writer, OFlags::empty()).unwrap();
    let mut monitor = site
        .run()
        .stdout(Stdio::null())
        .stderr(writer)
        .spawn()
        .unwrap();
    assert_eq!(site.hear(), "READY=1\nWATCHDOG=1");
    for _ in 0..5 {
        assert_eq!(site.hear(), "WATCHDOG=1");
    }
    let pid = Pid::from_child(&monitor);
    kill_process(pid, Signal::TERM).unwrap();
    let mut said = String::new();
    reader.read_to_string(&mut said).unwrap();
    assert!(said.contains("cardmon: ALARM: the history: "), "{said}");
    assert_eq!(monitor.wait().unwrap().code(), Some(3));
}

#[test]
fn what_others_wrote_reaches_a_terminal_escaped() {
    let mut site = Site::new();
    let monitor = site.start();
    site.poll_until(became("connected"));
    let reason = "fan\u{1b}[2J\u{202e}\u{9b}31m";
    let unlock = [
        "unlock", "--ticket", "CHG1", "--for", "1m", "--reason", reason,
    ];
    let said = site.cardmon(&unlock).stdout;
    monitor.end(Signal::TERM);
    for output in [
        said,
        site.cardmon(&["history"]).stdout,
        site.cardmon(&["history", "--json"]).stdout,
    ] {
        let text = String::from_utf8(output).unwrap();
        assert!(text.contains("fan"), "{text}");
        let bad = |character: char| character.is_control() && character != '\n';
        assert!(
            !text.contains(bad) && !text.contains('\u{202e}'),
            "{text:?}"
        );
    }
}

#[test]
fn what_a_page_or_an_answer_says_is_no_command_to_a_terminal_and_no_figure() {
    let mut site = Site::new();
    let address = "vfio-user:/run/a|b\u{1b}[2J.sock";
    site.publisher = Publisher::create(&site.path("pages"), address).unwrap();
    fs::remove_file(site.path("pages").join(telemetry::file_name(ADDRESS))).unwrap();
    site.page.owner.address = padded(address);
    site.page.card.state = card_state::GONE.into();
    let monitor = site.start();
    site.poll_until(became("unreachable"));
    let said = site.cardmon(&["check", "--url", &monitor.url()]);
    monitor.end(Signal::TERM);
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(text.contains("unreachable"), "{text}");
    assert_eq!(text.matches('|').count(), 1, "{text}");

    let (url, answers) = answers_once(r#"{"error":"mud\u001b[2J\u202e\u009b31m\n|"}"#);
    let refused = site.cardmon(&["status", "--url", &url]);
    answers.join().unwrap();
    let refused = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.contains("mud"), "{refused}");
    let bad = |character: char| character.is_control() || character == '\u{202e}';
    for text in [text, refused] {
        assert!(!text.trim_end().contains(bad), "{text:?}");
    }
}

/// Something that is no monitor: it answers one request with a refusal, in these words.
fn answers_once(body: &'static str) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answers = thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut request = BufReader::new(client.try_clone().unwrap());
        let mut line = String::new();
        while request.read_line(&mut line).unwrap() > 2 {
            line.clear();
        }
        let head = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json";
        let len = body.len();
        write!(client, "{head}\r\nContent-Length: {len}\r\n\r\n{body}").unwrap();
    });
    (url, answers)
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    for arguments in [&["config", "default"][..], &["--help"]] {
        let mut child = Command::new(CARDMON)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
        assert_eq!(output.status.code(), Some(0));
    }
}

#[test]
fn a_silence_is_laid_beside_our_own_ticks() {
    let mut site = Site::new();
    let monitor = site.start();
    site.poll_until(became("connected"));
    let events = site.events();
    let since = events[0]["time"].as_str().unwrap().to_owned();
    site.poll();
    monitor.end(Signal::TERM);
    let until = site.events().last().unwrap()["time"]
        .as_str()
        .unwrap()
        .to_owned();
    let explain = |gap: &str| {
        let output = site.cardmon(&["explain", "--json", "--gap", gap]);
        let text = String::from_utf8(output.stdout).unwrap();
        serde_json::from_str::<Value>(&text)
            .unwrap_or_else(|_| panic!("{gap}: {:?}", output.stderr))
    };
    let found = explain(&format!("{since}..{until}"));
    assert!(found["ticks"].as_u64().unwrap() >= 3, "{found}");
    let before = explain("2001-02-03 04:05:06..2001-02-03 04:05:16");
    assert_eq!(
        (&before["answer"], &before["seconds"]),
        (&"not-seen".into(), &10.0.into())
    );
    for wrong in ["now", "x..y", "2026-01-01..2025-01-01"] {
        let output = site.cardmon(&["explain", "--gap", wrong]);
        assert_eq!(output.status.code(), Some(2), "{wrong}");
    }
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn a_drained_card_reads_disconnected_by_an_operator_and_is_no_alarm() {
    let mut site = Site::new();
    let monitor = site.start();
    site.poll_until(became("connected"));
    site.drain();
    site.page.card.state = card_state::GONE.into();
    site.poll_until(became("unreachable"));
    let url = monitor.url();
    let card = json(&site.cardmon(&["status", "--json", "--url", &url]))["cards"][0].clone();
    assert_eq!(
        (&card["state"], &card["cause"]),
        (&"disconnected".into(), &"none".into())
    );
    assert_eq!(card["drained"]["otherwise"], "unreachable");
    assert!(card["drained"]["by"].as_str().unwrap().starts_with("uid="));
    let table = site.cardmon(&["status", "--url", &url]).stdout;
    let table = String::from_utf8(table).unwrap();
    assert!(table.contains("drained by uid="), "{table}");
    let check = site.cardmon(&["check", "--url", &url]);
    let line = String::from_utf8(check.stdout).unwrap();
    assert_eq!(check.status.code(), Some(0), "{line}");
    assert!(
        line.starts_with("CARDMON OK - 0 of 1 cards connected, 1 drained"),
        "{line}"
    );
    let opened = site.events();
    assert!(
        of_kind(&opened, "incident-opened").is_empty(),
        "nobody is alarmed"
    );
    assert!(site.cardmon(&["undrain", ADDRESS]).status.success());
    let events = site.poll_until(|events| !of_kind(events, "incident-opened").is_empty());
    let incident = of_kind(&events, "incident-opened").pop().unwrap();
    assert_eq!(incident["body"]["cause"], "card-absent");
    assert_eq!(
        site.cardmon(&["check", "--url", &url]).status.code(),
        Some(2)
    );
    monitor.end(Signal::TERM);
}

#[test]
fn a_monitor_that_runs_says_where_the_past_of_incidents_is_as_one_reads_it_of_the_record() {
    let mut site = Site::new();
    let place = Place::new(site.path("history")).with_archives_of(1);
    let mut events = Events::open(&place, Vec::new()).unwrap();
    let stamp = Stamp::now(&SystemClock, BootId::of_this_boot());
    for kind in ["incident-opened", "incident-closed"] {
        let event = Event::new(stamp, kind, ADDRESS, &"");
        events.append(&[event]).unwrap();
    }
    drop(events);
    let name = "events-000000001-000000001.db";
    let (archive, elsewhere) = (site.path("history").join(name), site.path(name));
    fs::rename(&archive, &elsewhere).unwrap();
    let told = |site: &Site, arguments: &[&str]| {
        let output = site.cardmon(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let directory = site.text("history");
    let words = format!(
        "cardmon: not all incidents are shown, or not whole: events 1 to 1 are in the archive {name}, which is not in {directory}: put it back there, "
    );
    let monitor = site.start();
    site.poll();
    let of_record = told(&site, &["incidents", "--recorded"]);
    assert_eq!(of_record, format!("{words}and ask again\n"));
    let of_monitor = told(&site, &["incidents", "--url", &monitor.url()]);
    assert_eq!(
        of_monitor,
        format!("{words}start the monitor anew, and ask again\n")
    );
    monitor.end(Signal::TERM);
    fs::rename(&elsewhere, &archive).unwrap();
    let monitor = site.start();
    site.poll();
    assert_eq!(told(&site, &["incidents", "--url", &monitor.url()]), "");
    monitor.end(Signal::TERM);
}

#[test]
fn an_incident_has_its_beginning_members_cause_and_what_was_changed_before() {
    let mut site = Site::new();
    let monitor = site.start();
    site.poll_until(became("connected"));
    let unlock = [
        "unlock", "--ticket", "CHG7", "--for", "30m", "--reason", "riser",
    ];
    assert!(site.cardmon(&unlock).status.success());
    site.poll();
    site.page.card.state = card_state::GONE.into();
    let events = site.poll_until(|events| !of_kind(events, "incident-opened").is_empty());
    let opened = of_kind(&events, "incident-opened").pop().unwrap();
    assert_eq!(
        (&opened["severity"], &opened["subject"]),
        (&"warning".into(), &ADDRESS.into())
    );
    let number = opened["body"]["incident"].as_u64().unwrap();
    site.poll();
    let url = monitor.url();
    let incidents = json(&site.cardmon(&["incidents", "--json", "--url", &url]));
    let incident = &incidents[0];
    assert_eq!(
        (&incident["open"], &incident["cause"]),
        (&true.into(), &"card-absent".into())
    );
    assert_eq!(incident["symptoms"][0]["code"], "gone");
    assert!(
        incident["changes"][0]["what"]
            .as_str()
            .unwrap()
            .contains("CHG7"),
        "{incident}"
    );
    let table = site.cardmon(&["incidents", "--url", &url]).stdout;
    let table = String::from_utf8(table).unwrap();
    assert!(
        table.contains("symptom  vfio-user:") && table.contains("CHG7: riser"),
        "{table}"
    );
    let table = String::from_utf8(site.cardmon(&["status", "--url", &url]).stdout).unwrap();
    assert!(
        table.contains(&format!("incident {number}: {ADDRESS} (card-absent)")),
        "{table}"
    );
    monitor.end(Signal::KILL);

    // Nobody answers: what is on record is shown, and that it is no more than that.
    let output = site.cardmon(&["incidents", "--json", "--url", &url]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("UNKNOWN") && said.contains("on record"),
        "{said}"
    );
    assert_eq!(json(&output)[0]["incident"], number);
    let again = site.start();
    let ended = site.poll_until(|events| !of_kind(events, "incident-closed").is_empty());
    let ended = of_kind(&ended, "incident-closed").pop().unwrap();
    let body = &ended["body"];
    assert_eq!(
        (&body["incident"], &body["not_watched"]),
        (&number.into(), &true.into())
    );
    again.end(Signal::TERM);
}

#[test]
fn what_is_on_record_of_changes_is_evidence_that_names_them_and_when_and_unseats_nobody() {
    let mut site = Site::new();
    fs::write(site.path("cardmon.toml"), "").unwrap();
    let config = site.text("cardmon.toml");
    let monitor = site.start_with(&["--config", &config]);
    site.poll_until(became("connected"));
    site.drain();
    assert!(site.cardmon(&["undrain", ADDRESS]).status.success());
    monitor.end(Signal::KILL);
    // Another run, which knows it from the record alone, with another configuration.
    fs::write(site.path("cardmon.toml"), "# another\n").unwrap();
    site.page.card.state = card_state::NEEDS_RESET.into();
    site.page.checks.last_result = check_result::WRONG_ANSWER.into();
    let monitor = site.start_with(&["--config", &config]);
    let configuration = |event: &&&Value| event["body"]["what"] == "configuration";
    site.poll_until(|events| {
        let software = of_kind(events, "software");
        software.iter().filter(configuration).count() == 2 && became("unavailable")(events)
    });
    site.poll();
    let card = monitor.status()["cards"][0].clone();
    let weighed = card["assessment"]["evidence"].as_array().unwrap();
    let change = weighed.iter().find(|it| it["code"] == "recent-change");
    let change = change.unwrap_or_else(|| panic!("{card:#}"));
    let detail = change["detail"].as_str().unwrap();
    assert_eq!(change["seen"], true);
    assert!(
        detail.starts_with("configuration of monitor: sha256 ") && detail.contains("Z; undrain of"),
        "{detail}"
    );
    assert!(
        detail.contains(", by uid=") && detail.ends_with("; and 1 more"),
        "{detail}"
    );
    assert_eq!(card["cause"], "card", "{card:#}");
    let shown = site.cardmon(&["diagnose", ADDRESS, "--url", &monitor.url()]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("recent-change"), "{shown}");
    let history = site.cardmon(&["history", "--kind", "software"]).stdout;
    let history = String::from_utf8(history).unwrap();
    let of_configuration = history.lines().filter(|it| it.contains(": configuration "));
    let told: Vec<_> = of_configuration.collect();
    assert!(told[0].ends_with(", seen for the first time"), "{history}");
    assert!(told[1].contains(" -> sha256 "), "{history}");
    monitor.end(Signal::TERM);
}

#[test]
fn what_services_held_is_read_back_when_the_monitor_is_started_again() {
    let mut site = Site::new();
    let config = site.with_service(std::process::id());
    let monitor = site.start_with(&["--config", &config]);
    let runs = |monitor: &Monitor| !monitor.status()["services"][0]["process"].is_null();
    site.poll();
    while !runs(&monitor) {
        site.poll();
    }
    assert_eq!(monitor.end(Signal::TERM).2, Some(0));
    let samples = SampleReader::open(&site.path("history")).unwrap();
    let kept = samples.series().unwrap();
    for what in [
        "pid",
        "start-ticks",
        "rss-anon-bytes",
        "descriptors",
        "threads",
    ] {
        let series = format!("service/hardserver/{what}");
        assert!(kept.contains(&series), "no {series} in {kept:?}");
    }
    drop(samples);
    let again = site.start_with(&["--config", &config]);
    site.poll();
    let (_, err, code) = again.end(Signal::TERM);
    assert_eq!(
        (&*err, code),
        ("", Some(0)),
        "there is nothing to complain of"
    );

    // Samples of another program, and no monitor of ours has to do with them.
    fs::remove_dir_all(site.path("history")).unwrap();
    fs::create_dir(site.path("history")).unwrap();
    let foreign = Connection::open(site.path("history").join(SAMPLES_FILE)).unwrap();
    let schema = "PRAGMA application_id = 7; CREATE TABLE theirs (x)";
    foreign.execute_batch(schema).unwrap();
    drop(foreign);
    let beside = site.start_with(&["--config", &config]);
    site.poll();
    while !runs(&beside) {
        site.poll();
    }
    let (_, err, _) = beside.end(Signal::TERM);
    assert!(err.contains("leaks are looked for anew: "), "{err}");
}

#[test]
fn what_becomes_of_a_service_is_on_record_with_its_cause() {
    let mut site = Site::new();
    let mut service = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let config = site.with_service(service.id());
    let monitor = site.start_with(&["--config", &config]);
    let last = |events: &[Value]| of_kind(events, "service-transition").pop().cloned();
    let runs = |events: &[Value]| last(events).is_some_and(|it| it["body"]["to"] == "runs");
    let events = site.poll_until(runs);
    let begun = last(&events).unwrap();
    assert_eq!(
        (&begun["severity"], &begun["body"]["cause"]),
        (&"notice".into(), &"none".into())
    );
    service.kill().unwrap();
    service.wait().unwrap();
    let gone = |events: &[Value]| last(events).is_some_and(|it| it["body"]["to"] == "gone");
    let events = site.poll_until(gone);
    let event = last(&events).unwrap();
    assert_eq!(
        (&event["severity"], &event["subject"]),
        (&"alert".into(), &"hardserver".into())
    );
    let body = &event["body"];
    assert_eq!(
        (&body["from"], &body["cause"]),
        (&"runs".into(), &"service-gone".into())
    );
    assert_eq!(body["evidence"][0]["code"], "process-gone");
    site.poll();
    let shown = monitor.status();
    let shown = shown["service_transitions"]
        .as_array()
        .unwrap()
        .last()
        .unwrap()
        .clone();
    assert_eq!(
        (&shown["service"], &shown["to"]),
        (&"hardserver".into(), &"gone".into())
    );
    let history = site
        .cardmon(&["history", "--kind", "service-transition"])
        .stdout;
    let history = String::from_utf8(history).unwrap();
    assert!(
        history.contains("runs -> gone (service-gone): process-gone"),
        "{history}"
    );
    monitor.end(Signal::TERM);
}

#[test]
fn firmware_that_changes_in_no_window_is_on_record_and_a_failed_check() {
    let mut site = Site::new();
    site.card.firmware_revision = *b"1.0.0   ";
    let monitor = site.start();
    let events = site.poll_until(|events| !of_kind(events, "firmware").is_empty());
    let first = of_kind(&events, "firmware").pop().unwrap();
    let body = &first["body"];
    assert_eq!(
        (&body["from"], &body["to"]),
        (&Value::Null, &"1.0.0".into())
    );
    monitor.end(Signal::TERM);
    site.card.firmware_revision = *b"2.0.0   ";
    // What it was is on record, so the next run knows.
    let monitor = site.start();
    let events = site.poll_until(|events| of_kind(events, "firmware").len() == 2);
    let second = of_kind(&events, "firmware").pop().unwrap();
    assert_eq!(
        (&second["severity"], &second["body"]["expected"]),
        (&"warning".into(), &false.into())
    );
    site.poll();
    let card = monitor.status()["cards"][0].clone();
    assert_eq!(card["codes"], serde_json::json!([23]));
    assert_eq!(card["advice"][0]["at_once"], "IGNORE");
    assert_eq!(card["identity"]["firmware"], "2.0.0");
    monitor.end(Signal::TERM);
}

#[test]
fn a_sign_of_life_is_beside_the_socket_and_of_a_card_that_nobody_knows_there_is_no_report() {
    let site = Site::new();
    fs::create_dir(site.path("run")).unwrap();
    let ran = Command::new(CARDMON)
        .args(["run", "--json", "--interval", "200ms", "--for", "600ms"])
        .args(["--listen", "127.0.0.1:0"])
        .args(["--telemetry", &site.text("nothing")])
        .args(["--history", &site.text("history")])
        .args(["--control", &site.text("run/control.sock")])
        .output()
        .unwrap();
    assert!(ran.status.success(), "{ran:?}");
    assert!(site.path("run/alive.json").exists());
    // Though that the monitor ran is on record.
    let report = Command::new(CARDMON)
        .args(["report", "pci:0000:99:00.0"])
        .args(["--telemetry", &site.text("nothing")])
        .args(["--history", &site.text("history")])
        .args(["--out", &site.text("report.tar")])
        .output()
        .unwrap();
    let said = String::from_utf8(report.stderr).unwrap();
    assert_eq!(report.status.code(), Some(1), "{said}");
    assert!(said.contains("nothing is known of"), "{said}");
    assert!(!site.path("report.tar").exists());
}

#[test]
fn a_card_that_serves_and_is_at_fault_is_a_warning() {
    let mut site = Site::new();
    let monitor = site.start();
    site.poll_until(became("connected"));
    site.poll();
    let url = monitor.url();
    let check = |site: &Site| {
        let check = site.cardmon(&["check", "--url", &url]);
        let line = String::from_utf8(check.stdout).unwrap();
        (check.status.code().unwrap(), line)
    };
    site.poll_until_code(0, check);
    // Past the limit that it sets itself.
    site.card.warning_temperature_k = 358.into();
    site.card.composite_temperature_k = 360.into();
    let is_told = (0..100).any(|_| {
        site.poll();
        let card = monitor.status()["cards"][0].clone();
        assert_eq!(card["state"], "connected", "{card}");
        card["cause"] == "card"
    });
    assert!(is_told);
    let line = site.poll_until_code(1, check);
    assert!(line.starts_with("CARDMON WARNING"), "{line}");
    assert!(line.contains("serves, and card is at fault"), "{line}");
    // Whether or not it can be tested now, that is told of it as well.
    let live = site.cardmon(&[
        "check",
        "--live",
        "--url",
        &url,
        "--telemetry",
        &site.text("pages"),
        "--timeout",
        "100ms",
    ]);
    let line = String::from_utf8(live.stdout).unwrap();
    let held = "monitor: it holds that card is at fault: ";
    assert!(line.contains(held), "{line}");
    monitor.end(Signal::TERM);
}

#[test]
fn a_monitor_that_is_dead_or_stands_still_reads_unknown_with_its_age() {
    let mut site = Site::new();
    let monitor = site.start();
    site.poll_until(became("connected"));
    site.poll();
    let (url, alive) = (monitor.url(), site.text("alive"));
    let asked = |site: &Site, command: &str| {
        site.cardmon(&[command, "--url", &url, "--sign-of-life", &alive])
    };
    site.poll_until_code(0, |site| {
        let check = asked(site, "check");
        (check.status.code().unwrap(), format!("{check:?}"))
    });
    let pid = Pid::from_child(&monitor.child);
    kill_process(pid, Signal::STOP).unwrap();
    let check = asked(&site, "check");
    let line = String::from_utf8(check.stdout).unwrap();
    assert_eq!(check.status.code(), Some(3), "{line}");
    assert!(
        line.contains("its card is unknown") && line.contains("start it again"),
        "{line}"
    );
    kill_process(pid, Signal::CONT).unwrap();
    monitor.end(Signal::KILL);
    let status = site.cardmon(&["status", "--json", "--url", &url, "--sign-of-life", &alive]);
    assert_eq!(status.status.code(), Some(1));
    let unknown = json(&status);
    assert_eq!(
        (&unknown["state"], &unknown["cards"]),
        (&"unknown".into(), &1.into())
    );
    assert!(unknown["age_seconds"].as_f64().unwrap() >= 0.0);
    let said = String::from_utf8(status.stderr).unwrap();
    assert!(said.contains("UNKNOWN: no monitor answers"), "{said}");
}
