//! The story of a card that is pulled and a service that leaks from then on, in a minute: a drill,
//! in which the service lives 300 times as fast as the clock, and cardmon says so wherever it is
//! asked.
//!
//! The program is the one that ships, and the service a process whose memory really grows. What
//! takes a control group, as the want of memory that follows, is for `cargo xtask replay s1`.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use card_spec::health::{self, Summary};
use card_spec::telemetry::{Page, card_state, check_result, padded};
use clap::Parser;
use firmware_sim::service::{Service, ServiceConfig};
use hwshim::clock::{Clock, SystemClock};
use hwshim::telemetry::Publisher;
use rustix::process::{Signal, set_parent_process_death_signal};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use tempfile::TempDir;
use zerocopy::{FromZeros, IntoBytes};

const CARD: &str = "vfio-user:/run/card.sock";
/// Names the arguments of a process that is to be the stand-in.
const ARGUMENTS: &str = "STAND_IN_ARGUMENTS";
/// Polls before the card is pulled: at 200 ms, more than the first hour of the service.
const BEFORE: u32 = 90;

/// How a stand-in is told what to play.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    service: ServiceConfig,
}

#[test]
#[ignore = "this is the process that the other test starts and watches"]
fn plays_the_service() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else {
        return;
    };
    set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    let arguments = Arguments::parse_from(arguments.lines());
    let service = Service::listen(&arguments.service).unwrap();
    writeln!(std::io::stdout(), "\nlistening").unwrap();
    let (_stop, stopped) = UnixStream::pair().unwrap();
    service.serve(stopped.as_fd()).unwrap();
}

/// A process that ends with the value.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A service that leaks 4 MiB of its own memory a second as long as there is no card.
fn start_service(directory: &Path) -> Process {
    let path = |name| directory.join(name).to_str().unwrap().to_owned();
    let (socket, control) = (path("service.sock"), path("control.sock"));
    let fault = "leak-while-absent=rate=4MiB/s,what=heap";
    let arguments = [
        "service",
        "--socket",
        &socket,
        "--control",
        &control,
        "--fault",
        fault,
    ];
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["plays_the_service", "--exact", "--ignored", "--nocapture"])
        .args(["--test-threads", "1"])
        .env(ARGUMENTS, arguments.join("\n"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.as_mut().unwrap());
    assert!(out.lines().any(|line| line.unwrap() == "listening"));
    fs::write(directory.join("pid"), child.id().to_string()).unwrap();
    Process(child)
}

/// Takes the card away from the service, as the page takes it away from the monitor.
fn pull_card(directory: &Path) {
    let mut control = UnixStream::connect(directory.join("control.sock")).unwrap();
    writeln!(control, r#"{{"card": "absent"}}"#).unwrap();
    let mut answer = String::new();
    BufReader::new(control).read_line(&mut answer).unwrap();
    assert!(answer.contains("true"), "{answer}");
}

/// An owner of a card, as far as its page goes.
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
        page.owner.address = padded(CARD);
        page.owner.publish_interval_ns = 250_000_000.into();
        page.card.state = card_state::READY.into();
        page.checks.last_result = check_result::PASSED.into();
        let pid = std::process::id();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let start: u64 = fields.split_whitespace().nth(19).unwrap().parse().unwrap();
        page.owner.pid = u64::from(pid).into();
        page.owner.start_time_ticks = start.into();
        Self {
            publisher: Publisher::create(directory, CARD).unwrap(),
            page,
            card,
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
}

fn start_monitor(directory: &Path) -> (Process, BufReader<ChildStdout>) {
    let at = directory.display();
    let config = format!(
        "[watch]\ntelemetry = \"{at}/pages\"\ninterval = \"200ms\"\n\
         [http]\nlisten = \"127.0.0.1:0\"\n\
         [drill]\nservice_time = 300\n\
         [[service]]\nname = \"hardserver\"\npid_file = \"{at}/pid\"\n\
         socket = \"{at}/service.sock\"\ncard = \"{CARD}\"\nmemory_max = \"128MiB\"\n"
    );
    let file = directory.join("cardmon.toml");
    fs::write(&file, config).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_cardmon"))
        // Far longer than it takes: only what is never shown meets it.
        .args(["run", "--json", "--no-history", "--for", "180s", "--config"])
        .arg(file)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap());
    (Process(child), lines)
}

fn ask(status: &Value, words: &[&str]) -> String {
    let url = format!("http://{}", status["listen"].as_str().unwrap());
    let output = Command::new(env!("CARGO_BIN_EXE_cardmon"))
        .args(words)
        .args(["--url", &url])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn leak(status: &Value) -> Option<&Value> {
    let leaks = status["services"][0]["leaks"].as_array().unwrap();
    leaks.iter().find(|leak| leak["resource"] == "memory")
}

#[test]
fn a_service_that_leaks_when_its_card_is_pulled_is_named_in_a_drill_that_says_it_is_one() {
    let directory = TempDir::new().unwrap();
    let pages = directory.path().join("pages");
    fs::create_dir(&pages).unwrap();
    let _service = start_service(directory.path());
    let mut owner = Owner::new(&pages);
    let (_monitor, mut lines) = start_monitor(directory.path());
    let mut poll = |owner: &mut Owner| -> Value {
        owner.publish();
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).expect("it is seen before the time is up")
    };
    for _ in 0..BEFORE {
        let status = poll(&mut owner);
        assert_ne!(status["services"][0]["cause"], "service-leak", "{status:#}");
    }
    pull_card(directory.path());
    owner.page.card.state = card_state::GONE.into();
    let status = loop {
        let status = poll(&mut owner);
        let grows = leak(&status).is_some_and(|leak| leak["per_hour_absent"].is_number());
        if status["services"][0]["cause"] == "service-leak" && grows {
            break status;
        }
    };
    let card = &status["cards"][0];
    assert_eq!(
        (&card["state"], &card["cause"]),
        (&"unreachable".into(), &"card-absent".into())
    );
    // 4 MiB a second of the clock, by the service's own hours of twelve seconds.
    let each = leak(&status).unwrap()["per_hour_absent"].as_f64().unwrap() / f64::from(1 << 20);
    assert!((24.0..96.0).contains(&each), "{each} MiB and not 48");
    assert_eq!(leak(&status).unwrap()["began_as_card_went"], true);
    assert_eq!(status["drill"]["service_time"], 300);
    for words in [&["status"][..], &["leaks", "--explain"]] {
        let told = ask(&status, words);
        assert!(told.starts_with("DRILL: "), "{told}");
        assert!(told.contains("memory"), "{told}");
    }
}
