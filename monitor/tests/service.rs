//! The program itself, against telemetry pages that the test publishes.
//!
//! Nothing here waits for time to pass: the test publishes, reads the line of the next poll, and
//! publishes again. `--for` bounds a run that never shows what is waited for.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use card_spec::health::{self, Summary};
use card_spec::telemetry::{Page, card_state, check_result, padded};
use hwshim::clock::{Clock, SystemClock};
use hwshim::telemetry::Publisher;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;
use zerocopy::{FromZeros, IntoBytes};

const CARDMON: &str = env!("CARGO_BIN_EXE_cardmon");
const ADDRESS: &str = "vfio-user:/run/card.sock";

/// An owner of a card that beats with each publication.
struct Owner {
    publisher: Publisher,
    page: Page,
    card: Summary,
}

impl Owner {
    fn new(directory: &Path) -> Self {
        let mut card = Summary::new_zeroed();
        card.magic = health::MAGIC.into();
        card.version = health::VERSION.into();
        card.heartbeat_period_ms = 100.into();
        let mut page = Page::new();
        page.owner.address = padded(ADDRESS);
        page.owner.publish_interval_ns = 250_000_000.into();
        page.card.state = card_state::READY.into();
        page.checks.last_result = check_result::PASSED.into();
        page.checks.last_at_ns = SystemClock.now().as_nanos().into();
        page.requests.submitted = 60.into();
        page.requests.card = 40.into();
        page.requests.software = 15.into();
        page.requests.refused = 5.into();
        let mut owner = Self {
            publisher: Publisher::create(directory, ADDRESS).unwrap(),
            page,
            card,
        };
        owner.is_process(std::process::id());
        owner
    }

    fn is_process(&mut self, pid: u32) {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let start: u64 = fields.split_whitespace().nth(19).unwrap().parse().unwrap();
        self.page.owner.pid = u64::from(pid).into();
        self.page.owner.start_time_ticks = start.into();
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

    /// Goes on publishing as long as `work` takes, which may be long on a busy machine: a page that
    /// stands still is judged, and rightly so.
    fn publish_during<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let (done, until) = mpsc::channel::<()>();
        thread::scope(|scope| {
            scope.spawn(move || {
                let period = Duration::from_millis(100);
                while until.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
                    self.publish();
                }
            });
            let result = work();
            drop(done);
            result
        })
    }
}

/// A monitor that runs.
struct Monitor {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Monitor {
    fn start(directory: &Path) -> Self {
        Self::start_with(directory, &[])
    }

    fn start_with(directory: &Path, more: &[&str]) -> Self {
        let mut child = Command::new(CARDMON)
            .args(["run", "--json", "--interval", "200ms", "--for", "120s"])
            .arg("--no-history")
            .args(more)
            .args(["--listen", "127.0.0.1:0", "--telemetry"])
            .arg(directory)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// The status of the next poll.
    fn poll(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
    }

    /// Polls, with `between` before each, until the first card satisfies `wanted`.
    fn card_until(&mut self, mut between: impl FnMut(), wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            between();
            let status = self.poll();
            if wanted(&status["cards"][0]) {
                return status;
            }
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is(state: &str) -> impl Fn(&Value) -> bool {
    move |card| card["state"] == state
}

/// Sends `request` as it stands, and returns the answer's status and body.
fn http(status: &Value, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(status["listen"].as_str().unwrap()).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, body.to_owned())
}

fn get(status: &Value, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    http(status, &request)
}

fn cardmon(arguments: &[&str]) -> Output {
    Command::new(CARDMON).args(arguments).output().unwrap()
}

fn ask(status: &Value, command: &str) -> (i32, String) {
    let url = format!("http://{}", status["listen"].as_str().unwrap());
    let output = cardmon(&[command, "--url", &url]);
    let text = String::from_utf8(output.stdout).unwrap();
    (output.status.code().unwrap(), text)
}

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_card_that_beats_is_connected_wherever_one_looks() {
    let directory = directory();
    let mut owner = Owner::new(directory.path());
    let mut monitor = Monitor::start(directory.path());
    let status = monitor.card_until(|| owner.publish(), is("connected"));
    let card = &status["cards"][0];
    assert_eq!(card["card"], ADDRESS);
    // The host that runs this test may be busy, and is told so.
    let cause = card["cause"].as_str().unwrap();
    assert!(["none", "host-starvation"].contains(&cause), "{cause}");
    assert_eq!(card["simulated"], false);
    assert_eq!(card["heartbeat"]["moving"], true);
    assert_eq!(card["requests"]["card"], 40);
    assert!(card["checks"]["last_age_seconds"].as_f64().unwrap() < 600.0);
    assert_eq!(card["owner"]["pid"], std::process::id());
    assert!(card["owner"]["rss_bytes"].as_u64().unwrap() > 0);
    assert!(card["owner"]["fds"].as_u64().unwrap() > 0);

    owner.publish_during(|| is_shown_everywhere(&status));
}

/// The connected card of `status` is connected wherever else one looks.
fn is_shown_everywhere(status: &Value) {
    let card = &status["cards"][0];
    let (code, metrics) = get(status, "/metrics");
    assert_eq!(code, 200);
    for line in [
        r#"cardmon_card_state{card="vfio-user:/run/card.sock",state="connected"} 1.0"#,
        r#"cardmon_card_state{card="vfio-user:/run/card.sock",state="unknown"} 0.0"#,
        r#"cardmon_requests_total{card="vfio-user:/run/card.sock",answered_by="software"} 15"#,
        r#"cardmon_breaker_state{card="vfio-user:/run/card.sock",state="closed"} 1.0"#,
        "# UNIT cardmon_card_state_duration_seconds seconds",
        "# TYPE process_resident_memory_bytes gauge",
        "# EOF",
    ] {
        assert!(metrics.lines().any(|found| found == line), "no {line}");
    }

    let (code, body) = get(status, "/api/v1/status");
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, &answer["cards"][0]["state"]), (200, &card["state"]));
    assert!(
        answer["age_seconds"].as_f64().unwrap() >= 0.0,
        "old answers can be told"
    );
    let (code, _) = get(status, &format!("/api/v1/status?card={ADDRESS}"));
    assert_eq!(code, 200);
    assert_eq!(get(status, "/healthz").0, 200);

    let (code, table) = ask(status, "status");
    assert_eq!(code, 0);
    assert!(table.contains("40/15/5"), "{table}");
    assert!(
        table.contains("passed ") && table.contains("s ago"),
        "{table}"
    );
    assert!(!table.contains('\x1b'), "no colour in a pipe: {table:?}");
    let (code, line) = ask(status, "check");
    assert_eq!(code, 0);
    assert!(line.starts_with("CARDMON OK - 1 of 1 cards connected | "));
}

#[test]
fn a_removed_card_is_unreachable_and_critical() {
    let directory = directory();
    let mut owner = Owner::new(directory.path());
    let mut monitor = Monitor::start(directory.path());
    monitor.card_until(|| owner.publish(), is("connected"));
    owner.page.card.state = card_state::GONE.into();
    let status = monitor.card_until(|| owner.publish(), is("unreachable"));
    let card = &status["cards"][0];
    assert_eq!(card["cause"], "card-absent");
    assert_eq!(card["evidence"][0]["code"], "gone");
    let last = status["transitions"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&last["from"], &last["to"]),
        (&"connected".into(), &"unreachable".into())
    );
    let (code, line) = ask(&status, "check");
    assert_eq!(code, 2);
    assert!(line.starts_with("CARDMON CRITICAL - 0 of 1"), "{line}");
}

#[test]
fn a_killed_owner_is_noticed_though_its_page_looks_fresh() {
    let directory = directory();
    let mut process = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let mut owner = Owner::new(directory.path());
    owner.is_process(process.id());
    let mut monitor = Monitor::start(directory.path());
    monitor.card_until(|| owner.publish(), is("connected"));
    process.kill().unwrap();
    process.wait().unwrap();
    let status = monitor.card_until(|| (), is("unreachable"));
    let card = &status["cards"][0];
    assert_eq!(card["cause"], "service-gone");
    assert_eq!(card["owner"]["alive"], false);
    assert_eq!(card["owner"]["rss_bytes"], Value::Null);
}

#[test]
fn hostile_pages_are_unknown_each_for_its_reason_and_never_a_crash() {
    let directory = directory();
    let at = |name: &str| directory.path().join(format!("{name}.telemetry"));
    let mut garbage = [0; 4096];
    fastrand::Rng::with_seed(7).fill(&mut garbage);
    fs::write(at("garbage"), garbage).unwrap();
    fs::write(at("empty"), []).unwrap();
    fs::create_dir(at("folder")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", at("symlink")).unwrap();
    let mode = rustix::fs::Mode::RUSR;
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), fifo, mode, 0).unwrap();
    let mut torn = Page::new();
    torn.sequence = 3.into();
    fs::write(at("torn"), torn.as_bytes()).unwrap();
    // A page that is right, but for every field that can hold nonsense.
    let mut wild = Page::new();
    wild.as_mut_bytes()[16..].fill(0xff);
    wild.sequence = 2.into();
    fs::write(at("wild"), wild.as_bytes()).unwrap();

    let mut monitor = Monitor::start(directory.path());
    monitor.poll();
    // Cut short while the monitor has it open.
    fs::write(at("wild"), &wild.as_bytes()[..100]).unwrap();
    let status = monitor.poll();
    let found: Vec<_> = status["cards"]
        .as_array()
        .unwrap()
        .iter()
        .map(|card| {
            assert_eq!(card["state"], "unknown", "{card}");
            let code = card["evidence"][0]["code"].as_str().unwrap();
            (card["card"].as_str().unwrap(), code)
        })
        .collect();
    let expected = [
        ("empty.telemetry", "page-nonsense"),
        ("fifo.telemetry", "page-unreadable"),
        ("folder.telemetry", "page-unreadable"),
        ("garbage.telemetry", "page-nonsense"),
        ("symlink.telemetry", "page-unreadable"),
        ("torn.telemetry", "page-torn"),
        ("wild.telemetry", "page-nonsense"),
    ];
    assert_eq!(found, expected);
    assert_eq!(get(&status, "/metrics").0, 200);
    assert_eq!(ask(&status, "check").0, 3);
}

#[test]
fn what_is_asked_wrongly_is_refused_in_json() {
    let directory = directory();
    let mut monitor = Monitor::start(directory.path());
    let status = monitor.poll();
    let long = "x".repeat(100_000);
    let table = [
        (404, "GET /nothing HTTP/1.1\r\n".to_owned()),
        (405, "POST /metrics HTTP/1.1\r\n".to_owned()),
        (400, "GET /api/v1/status?cart=x HTTP/1.1\r\n".to_owned()),
        (404, "GET /api/v1/status?card=x HTTP/1.1\r\n".to_owned()),
        (
            413,
            "GET /metrics HTTP/1.1\r\nContent-Length: 9\r\n".to_owned(),
        ),
    ];
    for (expected, request) in table {
        let request = format!("{request}Host: x\r\nConnection: close\r\n\r\n");
        let (code, body) = http(&status, &request);
        assert_eq!(code, expected, "{request}");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert!(body["error"].as_str().unwrap().len() > 5, "{body}");
    }
    // Refused by the HTTP library itself, which has no words for it.
    let head = format!("GET /metrics HTTP/1.1\r\nX: {long}\r\n\r\n");
    let mut stream = TcpStream::connect(status["listen"].as_str().unwrap()).unwrap();
    let _ = stream.write_all(head.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
    assert_eq!(get(&status, "/healthz").0, 200);
}

#[test]
fn it_stops_when_told_to_and_says_nothing_of_it() {
    for signal in [Signal::TERM, Signal::INT] {
        let directory = directory();
        let mut monitor = Monitor::start(directory.path());
        monitor.poll();
        kill_process(Pid::from_child(&monitor.child), signal).unwrap();
        assert!(monitor.child.wait().unwrap().success());
    }
}

#[test]
fn a_time_limit_ends_it_after_the_last_poll() {
    let directory = directory();
    let arguments = ["run", "--json", "--for", "300ms", "--listen", "127.0.0.1:0"];
    let telemetry = [
        "--no-history",
        "--telemetry",
        directory.path().to_str().unwrap(),
    ];
    let output = cardmon(&[&arguments[..], &telemetry].concat());
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last["cards"], Value::Array(vec![]));
}

#[test]
fn when_no_monitor_runs_it_is_said_what_to_do() {
    // Nothing can listen on port 1 here without being root, and nothing does.
    let url = "http://127.0.0.1:1";
    let status = cardmon(&["status", "--url", url]);
    assert_eq!(status.status.code(), Some(1));
    let text = String::from_utf8(status.stderr).unwrap();
    assert!(text.contains("start one with `cardmon run`"), "{text}");
    let check = cardmon(&["check", "--url", url]);
    assert_eq!(check.status.code(), Some(3));
    assert!(
        check
            .stdout
            .starts_with(b"CARDMON UNKNOWN - no monitor answers")
    );
    assert_eq!(
        cardmon(&["status", "--url", "ftp://x"]).status.code(),
        Some(1)
    );
}

#[test]
fn a_monitoring_plugin_that_is_called_wrongly_is_not_critical() {
    assert_eq!(cardmon(&["check", "--nothing"]).status.code(), Some(3));
    assert_eq!(cardmon(&["status", "--nothing"]).status.code(), Some(2));
    assert_eq!(cardmon(&["check", "--help"]).status.code(), Some(0));
}

#[test]
fn other_hosts_are_not_let_in_by_accident() {
    let output = cardmon(&["run", "--for", "1s", "--listen", "0.0.0.0:0"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("allow_remote = true"), "{text}");
}

#[test]
fn a_configuration_is_read_and_what_is_wrong_in_it_is_said() {
    let directory = directory();
    let file = directory.path().join("cardmon.toml");
    fs::write(&file, "[watch]\nintervall = \"1s\"\n").unwrap();
    let path = file.to_str().unwrap();
    for arguments in [
        ["run", "--config", path].as_slice(),
        &["config", "check", path],
    ] {
        let output = cardmon(arguments);
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(
            text.contains("line 2: [watch] has no key `intervall`"),
            "{text}"
        );
    }
    let default = cardmon(&["config", "default"]);
    fs::write(&file, default.stdout).unwrap();
    assert!(cardmon(&["config", "check", path]).status.success());
}

#[test]
fn a_released_card_is_forgotten_with_its_page() {
    let directory = directory();
    let mut owner = Owner::new(directory.path());
    let mut monitor = Monitor::start(directory.path());
    monitor.card_until(|| owner.publish(), is("connected"));
    owner.page.card.state = card_state::RELEASED.into();
    monitor.card_until(|| owner.publish(), is("disconnected"));
    fs::remove_file(owner.publisher.path()).unwrap();
    loop {
        if monitor.poll()["cards"].as_array().unwrap().is_empty() {
            break;
        }
    }
}

#[test]
fn services_are_shown_wherever_cards_are() {
    let directory = directory();
    let file = directory.path().join("cardmon.toml");
    let pid_file = directory.path().join("pid");
    fs::write(&pid_file, std::process::id().to_string()).unwrap();
    let gone = directory.path().join("gone");
    let text = format!(
        "[[service]]\nname = 'here'\npid_file = '{}'\n[[service]]\nname = 'gone'\npid_file = '{}'\n",
        pid_file.display(),
        gone.display()
    );
    fs::write(&file, text).unwrap();
    let mut owner = Owner::new(directory.path());
    let mut monitor = Monitor::start_with(directory.path(), &["--config", file.to_str().unwrap()]);
    monitor.card_until(|| owner.publish(), is("connected"));
    let status = loop {
        owner.publish();
        let status = monitor.poll();
        if status["services"][1]["standing"] == "gone"
            && !status["services"][0]["process"].is_null()
        {
            break status;
        }
    };
    let here = &status["services"][0];
    assert_eq!(
        (&here["standing"], &here["cause"]),
        (&"runs".into(), &"none".into())
    );
    assert_eq!(here["process"]["pid"], std::process::id());
    let leaks = here["leaks"].as_array().unwrap();
    assert!(
        leaks
            .iter()
            .any(|leak| leak["resource"] == "descriptors" && leak["level"] == "watching")
    );
    assert!(status["host"]["memory_total_bytes"].as_u64().unwrap() > 0);

    owner.publish_during(|| services_are_shown_everywhere(&status));
}

/// The services of `status`, one that runs and one that is gone, are shown wherever else one looks.
fn services_are_shown_everywhere(status: &Value) {
    let (code, metrics) = get(status, "/metrics");
    assert_eq!(code, 200);
    for line in [
        r#"cardmon_service_standing{service="here",standing="runs"} 1.0"#,
        r#"cardmon_service_cause{service="gone",cause="service-gone"} 1.0"#,
        r#"cardmon_service_leak_level{service="here",resource="descriptors",level="watching"} 1.0"#,
    ] {
        assert!(metrics.lines().any(|found| found == line), "no {line}");
    }
    assert!(!metrics.contains(r#"cardmon_service_threads{service="gone""#));

    let (_, table) = ask(status, "status");
    let column = |name: &str, cell: &str| {
        let line = table.lines().find(|line| line.starts_with(name));
        line.unwrap().find(cell).unwrap()
    };
    assert_eq!(
        column("here", "runs"),
        column("SERVICE", "STANDING"),
        "{table}"
    );
    assert!(table.contains("    process-gone: "), "{table}");
    let (_, table) = ask(status, "leaks");
    let is_watched = |line: &str| {
        let cells: Vec<_> = line.split_whitespace().collect();
        cells.starts_with(&["here", "descriptors", "watching"]) && cells[3] != "0"
    };
    assert!(table.lines().any(is_watched), "{table}");
    let (_, table) = ask(status, "top");
    assert!(table.contains(&std::process::id().to_string()), "{table}");
    let (code, line) = ask(status, "check");
    assert_eq!(code, 2);
    assert!(
        line.starts_with("CARDMON CRITICAL - 1 of 1 cards connected, 1 of 2 services well; gone gone (service-gone): "),
        "{line}"
    );
}

/// How a stand-in is told what to play.
#[derive(clap::Parser)]
struct StandIn {
    #[command(flatten)]
    service: firmware_sim::service::ServiceConfig,
}

#[test]
fn the_last_known_answer_test_through_a_service_is_shown_wherever_it_is() {
    let directory = directory();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (file, pid_file, socket) = (path("cardmon.toml"), path("pid"), path("service.sock"));
    let arguments = ["x", "--fault", "wrong-answer", "--socket", &socket];
    let stand_in = <StandIn as clap::Parser>::parse_from(arguments);
    let service = firmware_sim::service::Service::listen(&stand_in.service).unwrap();
    let (stop, stopped) = std::os::unix::net::UnixStream::pair().unwrap();
    let serving = thread::spawn(move || {
        let stopped = std::os::fd::AsFd::as_fd(&stopped);
        service.serve(stopped).unwrap();
    });
    fs::write(&pid_file, std::process::id().to_string()).unwrap();
    let text = format!(
        "[[service]]\nname = 'hardserver'\npid_file = '{pid_file}'\nsocket = '{socket}'\n\
         known_answer = '1s'\n"
    );
    fs::write(&file, text).unwrap();
    let mut monitor = Monitor::start_with(directory.path(), &["--config", &file]);
    let status = loop {
        let status = monitor.poll();
        if status["services"][0]["known_answer"]["result"] == "wrong" {
            break status;
        }
    };
    let service = &status["services"][0];
    let test = &service["known_answer"];
    assert!(test["age_seconds"].as_f64().unwrap() >= 0.0, "{test}");
    let detail = "the signature is not that of the test";
    assert_eq!(test["detail"], detail);
    let seen = (&service["standing"], &service["cause"]);
    assert_eq!(seen, (&"answers".into(), &"undetermined".into()));
    assert_eq!(service["codes"], serde_json::json!([16]));
    let (_, metrics) = get(&status, "/metrics");
    for line in [
        r#"cardmon_service_known_answer{service="hardserver",result="wrong"} 1.0"#,
        r#"cardmon_service_known_answer{service="hardserver",result="right"} 0.0"#,
        "# UNIT cardmon_service_known_answer_age_seconds seconds",
    ] {
        assert!(metrics.lines().any(|found| found == line), "no {line}");
    }
    let (_, table) = ask(&status, "status");
    let row = table.lines().find(|line| line.starts_with("hardserver"));
    let row = row.unwrap();
    assert!(row.contains("wrong ") && row.contains(" ago"), "{table}");
    assert!(table.contains("    wrong-answer: "), "{table}");
    // Whose it is is not known; that it is wrong is.
    let (code, line) = ask(&status, "check");
    assert_eq!(code, 2, "{line}");
    drop((monitor, stop));
    serving.join().unwrap();
}

#[test]
fn what_was_weighed_of_a_card_and_a_service_is_shown_with_what_to_do() {
    let directory = directory();
    let file = directory.path().join("cardmon.toml");
    let gone = directory.path().join("gone");
    let text = format!(
        "[[service]]\nname = 'hardserver'\npid_file = '{}'\n",
        gone.display()
    );
    fs::write(&file, text).unwrap();
    let mut owner = Owner::new(directory.path());
    let mut monitor = Monitor::start_with(directory.path(), &["--config", file.to_str().unwrap()]);
    monitor.card_until(|| owner.publish(), is("connected"));
    owner.page.checks.last_result = check_result::WRONG_ANSWER.into();
    // Whether the host that runs this test is busy or not: a busy one is a reason not to be sure.
    let named = |card: &Value| {
        let assessment = &card["assessment"];
        let vetoed = !assessment["vetoes"].as_array().unwrap().is_empty();
        assessment["leading"] == "card" && (assessment["cause"] == "card" || vetoed)
    };
    let status = monitor.card_until(|| owner.publish(), named);
    let card = &status["cards"][0];
    assert_eq!(card["cause"], "card");
    assert_eq!(card["codes"], serde_json::json!([16]));
    assert_eq!(card["advice"][0]["at_once"], "CONTACT_SUPPORT");
    let assessment = &card["assessment"];
    let is_sure = assessment["cause"] == "card";
    assert!(!is_sure || assessment["confidence"].as_f64().unwrap() >= 0.8);
    let evidence = assessment["evidence"].as_array().unwrap();
    let wrong = evidence
        .iter()
        .find(|it| it["code"] == "wrong-answer")
        .unwrap();
    assert_eq!(wrong["seen"], true);
    assert!(wrong["weights"]["card"].as_f64().unwrap() > 1.0, "{wrong}");
    assert!(
        wrong["weights"]["card-absent"].as_f64().unwrap() < -1.0,
        "{wrong}"
    );
    let sum: f64 = assessment["hypotheses"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["probability"].as_f64().unwrap())
        .sum();
    assert!((sum - 1.0).abs() < 0.01, "{sum}");

    let url = format!("http://{}", status["listen"].as_str().unwrap());
    let said = |arguments: &[&str]| {
        let output = cardmon(&[arguments, &["--url", &url]].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    for text in [
        said(&["diagnose", ADDRESS]),
        said(&["status", "--why", ADDRESS]),
    ] {
        assert!(
            text.contains("wrong-answer: the last known-answer test"),
            "{text}"
        );
        assert!(text.contains("code 16: "), "{text}");
    }
    let found: Value = serde_json::from_str(&said(&["diagnose", "--json", "hardserver"])).unwrap();
    assert_eq!(found["cause"], "service-gone");
    assert_eq!(found["assessment"]["cause"], "service-gone", "{found}");
    assert!(said(&["diagnose", "hardserver"]).contains("owner-gone"));
    assert!(said(&["status"]).contains("more: cardmon diagnose vfio-user:"));
    let next = said(&["diagnose", "--next-test", "hardserver"]);
    assert!(next.contains(": "), "{next}");
    let (_, metrics) = get(&status, "/metrics");
    let is_confidence =
        |line: &&str| line.starts_with(r#"cardmon_card_confidence{card="vfio-user:"#);
    assert!(
        metrics.lines().any(|line| is_confidence(&line)),
        "{metrics}"
    );
    let slip = cardmon(&["diagnose", "pci:nowhere", "--url", &url]);
    assert_eq!(slip.status.code(), Some(1));
    let text = String::from_utf8(slip.stderr).unwrap();
    assert!(
        text.contains("watched: vfio-user:/run/card.sock, hardserver"),
        "{text}"
    );
}

#[test]
fn who_is_not_sure_names_what_would_tell() {
    let directory = directory();
    let mut owner = Owner::new(directory.path());
    let mut monitor = Monitor::start(directory.path());
    monitor.card_until(|| owner.publish(), is("connected"));
    let mut publish_without_a_beat = || {
        owner.card.heartbeat_count -= 1;
        owner.publish();
    };
    let unsure = |card: &Value| {
        card["state"] == "unavailable" && card["assessment"]["cause"] == "undetermined"
    };
    let status = monitor.card_until(&mut publish_without_a_beat, unsure);
    let card = &status["cards"][0];
    assert_eq!(card["codes"], serde_json::json!([18]));
    let next = &card["assessment"]["next_test"];
    let how = next["how"].as_str().unwrap();
    let url = format!("http://{}", status["listen"].as_str().unwrap());
    // Of a page that goes on, so that what is asked is still so.
    let shown = loop {
        publish_without_a_beat();
        let output = cardmon(&["diagnose", ADDRESS, "--next-test", "--json", "--url", &url]);
        let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
        if !shown.is_null() {
            break shown;
        }
    };
    assert!(shown["how"].as_str().unwrap().len() > 10, "{shown}");
    let (_, table) = ask(&status, "status");
    assert!(
        table.contains("more: cardmon diagnose vfio-user:"),
        "{table}"
    );
    assert!(how.len() > 10 && next["takes_seconds"].as_f64().unwrap() > 0.0);
}
