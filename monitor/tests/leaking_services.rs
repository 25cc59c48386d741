//! A service that really leaks, in a process of its own, is found out: what it leaks is named and
//! explained, and nothing else is.
//!
//! Leaks take hours and a test may not, so the time is told: between two polls half a minute
//! passes, in which the process does as much as it would do then, and what it leaks goes by what
//! it is asked and not by time. What is looked at are the kernel's figures of a living process.
//!
//! ```text
//!   0 h                  1 h                                               4 h
//!   opens and closes     opens, while the card comes and goes every 20 min
//!   card there           those fail that find it gone, and each leaks
//! ```
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use clap::Parser;
use firmware_sim::service::{Service, ServiceConfig};
use hwshim::clock::{Clock, Instant, SystemClock};
use monitor::history::{BootId, Place, SAMPLES_FILE, Samples, Stamp, WallTime};
use monitor::leak::{Level, Scope};
use monitor::probe::{Host, HostProbe, Probe, ServiceAddress, Whereabouts};
use monitor::services::{
    self, CardFacts, ConfiguredLimits, Missing, Remembered, ServiceSettings, ServiceTime, Services,
    Surroundings,
};
use monitor::status::{KnownAnswerResult, LeakFigures, ServiceStatus, Standing};
use monitor::verdict::Cause;
use rustix::process::{Signal, set_parent_process_death_signal};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// Nothing waits as long as that unless something is broken.
const PATIENT: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_secs(30);
const STEPS_PER_HOUR: u32 = 120;
const CARD: &str = "pci:0000:3b:00.0";
const MIB: u64 = 1 << 20;
/// Names the arguments of a process that is to be the stand-in.
const ARGUMENTS: &str = "STAND_IN_ARGUMENTS";

/// How a stand-in is told what to play.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    service: ServiceConfig,
}

#[test]
#[ignore = "this is the process that the other tests start and watch"]
fn plays_the_stand_in() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else {
        return;
    };
    set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    let arguments = Arguments::parse_from(arguments.lines());
    let service = Service::listen(&arguments.service).unwrap();
    let mut out = std::io::stdout();
    writeln!(out, "\nlistening").unwrap();
    let (_stop, stopped) = UnixStream::pair().unwrap();
    service.serve(stopped.as_fd()).unwrap();
}

/// A stand-in in a process of its own, killed with the value.
struct StandIn {
    child: Child,
    directory: TempDir,
    client: Line,
    control: Line,
}

impl StandIn {
    fn start(fault: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let path = |name| directory.path().join(name);
        let (socket, control) = (path("service.sock"), path("control.sock"));
        let [socket_text, control_text] = [&socket, &control].map(|path| path.to_str().unwrap());
        let arguments = [
            "service",
            "--socket",
            socket_text,
            "--control",
            control_text,
            "--fault",
            fault,
        ];
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["plays_the_stand_in", "--exact", "--ignored", "--nocapture"])
            .args(["--test-threads", "1"])
            .env(ARGUMENTS, arguments.join("\n"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.as_mut().unwrap());
        assert!(out.lines().any(|line| line.unwrap() == "listening"));
        Self {
            client: Line::to(&socket),
            control: Line::to(&control),
            child,
            directory,
        }
    }

    fn settings(&self, limits: ConfiguredLimits) -> ServiceSettings {
        let pid_file = self.directory.path().join("pid");
        fs::write(&pid_file, format!("{}\n", self.child.id())).unwrap();
        let socket = self.directory.path().join("service.sock");
        ServiceSettings {
            address: Some(ServiceAddress::Unix(socket)),
            card: Some(CARD.to_owned()),
            limits,
            ..ServiceSettings::new("hardserver", Whereabouts::PidFile(pid_file))
        }
    }

    fn card(&mut self, is: &str) {
        let answer = self.control.say(&format!(r#"{{"card": "{is}"}}"#));
        assert!(answer.contains("true"), "{answer}");
    }

    /// Opens a session, and closes it again if there is one; whether there is.
    fn open(&mut self) -> bool {
        let answer = self.client.say("open");
        let Some(session) = answer.trim().strip_prefix("ok session ") else {
            assert!(answer.starts_with("error no-card"), "{answer}");
            return false;
        };
        let answer = self.client.say(&format!("close {session}"));
        assert!(answer.starts_with("ok"), "{answer}");
        true
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection on which lines are answered with lines.
struct Line(BufReader<UnixStream>);

impl Line {
    fn to(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(PATIENT)).unwrap();
        Self(BufReader::new(stream))
    }

    fn say(&mut self, line: &str) -> String {
        writeln!(self.0.get_mut(), "{line}").unwrap();
        let mut answer = String::new();
        self.0.read_line(&mut answer).unwrap();
        answer
    }
}

/// A stand-in that is watched, on a clock of its own.
struct Watched {
    stand_in: StandIn,
    services: Services,
    host: Host,
    card: CardFacts,
    now: Instant,
}

impl Watched {
    fn new(stand_in: StandIn, settings: ServiceSettings) -> Self {
        let root = Path::new("/");
        Self {
            stand_in,
            services: Services::new(&[settings], root, ServiceTime::REAL),
            host: HostProbe::new(root).observe(&(), Instant::ORIGIN).unwrap(),
            card: CardFacts::default(),
            now: Instant::ORIGIN.plus(STEP),
        }
    }

    /// Lets half a minute pass and polls. What runs beside the poll ends before the next.
    fn poll(&mut self) -> ServiceStatus {
        self.now = self.now.plus(STEP);
        let around = Surroundings {
            host: Some(&self.host),
            host_sample: None,
            cards: BTreeMap::from([(CARD, self.card)]),
            oom_kills: 0,
        };
        let status = self.services.poll(&around, self.now).remove(0);
        assert!(self.services.settle(PATIENT));
        status
    }

    fn card(&mut self, present: bool) {
        if self.card.absent == present {
            self.stand_in
                .card(if present { "present" } else { "absent" });
            self.card.absent = !present;
        }
    }

    fn open(&mut self, opens: u32) {
        for _ in 0..opens {
            self.card.requests += 1;
            self.card.failed += u64::from(!self.stand_in.open());
        }
    }

    /// Plays the story above, with so many opens in each half minute.
    fn play(&mut self, opens: u32) -> ServiceStatus {
        for _ in 0..STEPS_PER_HOUR {
            self.open(opens);
            self.poll();
        }
        for step in 0..3 * STEPS_PER_HOUR {
            self.card(step / (STEPS_PER_HOUR / 3) % 2 == 1);
            self.open(opens);
            self.poll();
        }
        self.poll()
    }
}

/// What is said to leak of what is the service's own.
fn leaking(status: &ServiceStatus) -> Vec<&LeakFigures> {
    let leaks = status.leaks.iter();
    leaks
        .filter(|leak| leak.level >= Level::Leaking && leak.scope == Scope::Service)
        .collect()
}

/// This is said to leak, by this cause and for these reasons, and nothing else but what it takes
/// with it.
fn assert_named(status: &ServiceStatus, resource: &str, each: f64, takes_with_it: &[&str]) {
    let leaks = leaking(status);
    for leak in &leaks {
        let name = &*leak.resource;
        assert!(
            name == resource || takes_with_it.contains(&name),
            "{leak:#?}"
        );
    }
    let leak = leaks.iter().find(|leak| leak.resource == resource);
    let leak = leak.unwrap_or_else(|| panic!("{status:#?}"));
    assert_eq!(
        (status.standing, status.cause),
        (Standing::Answers, Cause::ServiceLeak)
    );
    assert!(status.codes.contains(&24));
    let per_failed_open = leak.per_failed_open.expect("it grows with opens that fail");
    assert!(
        (per_failed_open / each - 1.0).abs() < 0.25,
        "{per_failed_open} and not {each}"
    );
    assert!(leak.per_hour_absent.is_some(), "{leak:#?}");
    assert!(!leak.gates.is_empty() && leak.exhaustion.is_some());
    assert!(!leak.falsified_by.is_empty());
    let told = &status.evidence[0];
    assert!(
        told.code == "leak" && told.detail.starts_with(&format!("{resource}: ")),
        "{told:?}"
    );
}

const fn bounded() -> ConfiguredLimits {
    ConfiguredLimits {
        memory_bytes: Some(128 * MIB),
        kernel_memory_bytes: Some(128 * MIB),
        descriptors: Some(4000),
        threads: Some(1000),
        ports: Some(4000),
        sessions: Some(100_000),
        objects: Some(100_000),
    }
}

/// Plays a leak and says what is made of it.
fn story(fault: &str, opens: u32, limits: ConfiguredLimits) -> ServiceStatus {
    let stand_in = StandIn::start(fault);
    let settings = stand_in.settings(limits);
    Watched::new(stand_in, settings).play(opens)
}

#[test]
fn a_leak_of_memory_is_named_as_such() {
    let status = story("leak-heap=512KiB/failed-open", 1, bounded());
    assert_named(&status, "memory", 512.0 * 1024.0, &[]);
}

#[test]
fn a_leak_of_descriptors_is_named_as_such() {
    let limits = ConfiguredLimits {
        descriptors: Some(1000),
        ..bounded()
    };
    let status = story("leak-descriptors=1/failed-open", 4, limits);
    assert_named(&status, "descriptors", 1.0, &["objects"]);
}

#[test]
fn what_a_lying_ledger_does_not_have_is_told_with_both_numbers_and_an_honest_ones_is_not() {
    let limits = ConfiguredLimits {
        descriptors: Some(1000),
        ..bounded()
    };
    let told = |lies: bool| {
        let mut stand_in = StandIn::start("leak-descriptors=1/failed-open");
        if lies {
            let answer = stand_in.control.say(r#"{"inject": "ledger-lies"}"#);
            assert!(answer.contains("true"), "{answer}");
        }
        let settings = stand_in.settings(limits);
        let status = Watched::new(stand_in, settings).play(4);
        let named: Vec<_> = leaking(&status)
            .iter()
            .map(|leak| leak.resource.clone())
            .collect();
        assert!(named.contains(&"descriptors".to_owned()), "{status:#?}");
        let evidence = status.evidence.into_iter();
        evidence
            .filter(|it| it.code == "not-in-its-account" || it.code == "ledgers-disagree")
            .map(|it| it.detail)
            .collect::<Vec<_>>()
    };
    let of_liar = told(true);
    let [detail] = &of_liar[..] else {
        panic!("one thing is not in its account: {of_liar:?}");
    };
    assert!(detail.starts_with("descriptors: "), "{detail}");
    let own = detail.split_once("by its own (ObjectCount and ClientCount) ");
    let own: i64 = own.unwrap().1.parse().unwrap();
    // Whoever asks it something is a client for that time.
    assert!(own.abs() <= 2, "{detail}");
    assert_eq!(told(false), [""; 0]);
}

#[test]
fn a_leak_of_threads_is_named_as_such() {
    let limits = ConfiguredLimits {
        threads: Some(240),
        ..bounded()
    };
    let status = story("leak-threads=1/failed-open", 1, limits);
    // Each has a stack, and is an object in its own account.
    assert_named(&status, "threads", 1.0, &["memory", "objects"]);
}

#[test]
fn a_leak_of_ports_on_failure_is_named_as_such() {
    let limits = ConfiguredLimits {
        ports: Some(1000),
        ..bounded()
    };
    let status = story("leak-ports-on-failure=1", 4, limits);
    // Each is a socket, which is a descriptor, and an object in its own account.
    assert_named(&status, "tcp-ports", 1.0, &["descriptors", "objects"]);
}

#[test]
fn a_leak_while_the_card_is_away_is_told_to_be_one() {
    let limits = ConfiguredLimits {
        descriptors: Some(1000),
        ..bounded()
    };
    let fault = "leak-while-absent=rate=1/failed-open,what=descriptors";
    let status = story(fault, 4, limits);
    assert_named(&status, "descriptors", 1.0, &["objects"]);
    // It is away for half of the time, and then takes 8 a minute.
    let leaks = leaking(&status);
    let per_hour_absent = leaks[0].per_hour_absent.unwrap();
    assert!(
        (380.0..580.0).contains(&per_hour_absent),
        "{per_hour_absent}"
    );
}

#[test]
fn a_leak_of_kernel_memory_is_named_as_such() {
    let stand_in = StandIn::start("leak-kernel=128KiB/failed-open");
    let Some(group) = Group::around(&stand_in.child) else {
        eprintln!("skipped: no control group that accounts for kernel memory can be made here");
        return;
    };
    let settings = ServiceSettings {
        process: Whereabouts::Cgroup(group.path.clone()),
        ..stand_in.settings(ConfiguredLimits {
            kernel_memory_bytes: Some(64 * MIB),
            ..bounded()
        })
    };
    let status = Watched::new(stand_in, settings).play(1);
    // It knows, and says so.
    assert_named(&status, "kernel-memory", 128.0 * 1024.0, &["card-memory"]);
}

/// Records what polls saw, as the monitor does.
struct Recording {
    _history: TempDir,
    samples: Samples,
    began: Instant,
}

impl Recording {
    fn begin(began: Instant) -> Self {
        let history = TempDir::new().unwrap();
        let place = Place::new(history.path());
        let opened = Samples::open(&place, Self::wall(began, began)).unwrap();
        Self {
            samples: opened.samples,
            _history: history,
            began,
        }
    }

    fn wall(began: Instant, at: Instant) -> WallTime {
        const SOME_DAY: i64 = 1_760_000_000_000;
        WallTime::from_unix_millis(SOME_DAY).plus(at.since(began))
    }

    fn take(&mut self, status: &ServiceStatus, at: Instant) {
        let now = Self::wall(self.began, at);
        for (what, value) in services::figures(status) {
            let series = services::series(&status.service, what);
            self.samples.record(&series, now, value).unwrap();
        }
        self.samples.flush_if_due(now).unwrap();
    }

    fn remembered(&mut self, settings: &ServiceSettings, at: Instant) -> Remembered {
        let now = Stamp {
            wall: Self::wall(self.began, at),
            monotonic: at,
            boot: BootId::of_this_boot(),
        };
        let settings = std::slice::from_ref(settings);
        Remembered::read(&mut self.samples, settings, now, || true)
    }
}

#[test]
fn a_leak_is_known_to_a_monitor_that_is_started_again_and_that_of_another_process_is_not() {
    let stand_in = StandIn::start("leak-descriptors=1/failed-open");
    let limits = ConfiguredLimits {
        descriptors: Some(1000),
        ..bounded()
    };
    let settings = stand_in.settings(limits);
    // By the clock that says when the process was started.
    let began = SystemClock.now();
    let mut watched = Watched::new(stand_in, settings.clone());
    watched.now = began;
    let mut recording = Recording::begin(began);
    for step in 0..4 * STEPS_PER_HOUR {
        watched.card((step / (STEPS_PER_HOUR / 3)).is_multiple_of(2));
        watched.open(4);
        let status = watched.poll();
        recording.take(&status, watched.now);
    }
    let level = |status: &ServiceStatus| {
        let held = status
            .leaks
            .iter()
            .find(|leak| leak.resource == "descriptors");
        held.unwrap().level
    };
    assert!(level(&watched.poll()) >= Level::Leaking);

    let restart = |watched: &mut Watched, remembered: Option<Remembered>| {
        let settings = std::slice::from_ref(&settings);
        watched.services = Services::new(settings, Path::new("/"), ServiceTime::REAL);
        if let Some(remembered) = remembered {
            watched.services.remember(remembered);
        }
        for _ in 0..9 {
            watched.poll();
        }
        watched.poll()
    };
    assert_eq!(level(&restart(&mut watched, None)), Level::Watching);
    let remembered = recording.remembered(&settings, watched.now);
    let status = restart(&mut watched, Some(remembered));
    assert!(level(&status) >= Level::Leaking, "{status:#?}");
    let leaks = leaking(&status);
    let leak = leaks.iter().find(|leak| leak.resource == "descriptors");
    assert!(leak.unwrap().per_failed_open.is_some(), "{leak:#?}");

    let again = StandIn::start("ledger-lies");
    let pid_file = watched.stand_in.directory.path().join("pid");
    fs::write(pid_file, again.child.id().to_string()).unwrap();
    watched.stand_in.child.kill().unwrap();
    watched.stand_in.child.wait().unwrap();
    let remembered = recording.remembered(&settings, watched.now);
    let status = restart(&mut watched, Some(remembered));
    assert_eq!(status.process.as_ref().unwrap().pid, again.child.id());
    assert_eq!(level(&status), Level::Watching, "{status:#?}");
}

#[test]
fn samples_that_are_damaged_foreign_or_too_many_are_not_remembered_and_break_nothing() {
    let directory = TempDir::new().unwrap();
    let process = Whereabouts::Program("hardserver".to_owned());
    let settings = [ServiceSettings::new("hardserver", process)];
    let now = Stamp::now(&SystemClock, BootId::of_this_boot());
    fs::write(directory.path().join(SAMPLES_FILE), [0x5a; 9000]).unwrap();
    let opened = Samples::open(&Place::new(directory.path()), now.wall).unwrap();
    assert!(opened.moved_aside.is_some());
    let mut samples = opened.samples;
    let none = Remembered::read(&mut samples, &settings, now, || true);
    assert!(none.missing().is_none(), "there is nothing to read");
    for (what, value) in [
        ("pid", f64::MAX),
        ("start-ticks", -1.0),
        ("descriptors", 1e308),
    ] {
        let series = services::series("hardserver", what);
        samples.record(&series, now.wall, value).unwrap();
    }
    let read = Remembered::read(&mut samples, &settings, now, || true);
    assert!(read.missing().is_none(), "no process is remembered of that");
    let out_of_time = Remembered::read(&mut samples, &settings, now, || false);
    assert!(matches!(out_of_time.missing(), Some(Missing::Time)));
}

#[test]
fn a_service_that_does_as_much_and_leaks_nothing_is_well() {
    let status = story("ledger-lies", 4, bounded());
    assert_eq!(leaking(&status), [] as [&LeakFigures; 0]);
    assert_eq!(
        (status.standing, status.cause),
        (Standing::Answers, Cause::None)
    );
    let told: Vec<_> = status.evidence.iter().map(|it| &*it.code).collect();
    assert_eq!(told, [""; 0], "its ledgers agree: {status:#?}");
    let watched: Vec<_> = status.leaks.iter().map(|leak| &*leak.resource).collect();
    for resource in [
        "memory",
        "descriptors",
        "threads",
        "tcp-ports",
        "sessions",
        "objects",
    ] {
        assert!(watched.contains(&resource), "{watched:?}");
    }
}

#[test]
fn a_service_that_hangs_is_named_after_the_second_silence_and_one_that_refuses_at_once() {
    let order = |fault: &str| {
        let stand_in = StandIn::start("ledger-lies");
        let settings = stand_in.settings(bounded());
        let mut watched = Watched::new(stand_in, settings);
        for _ in 0..3 {
            watched.poll();
        }
        assert_eq!(watched.poll().standing, Standing::Answers);
        let answer = watched
            .stand_in
            .control
            .say(&format!(r#"{{"inject": "{fault}"}}"#));
        assert!(answer.contains("true"), "{answer}");
        watched
    };
    let mut hangs = order("hang-after-accept");
    let causes: Vec<_> = (0..4).map(|_| hangs.poll()).collect();
    let causes: Vec<_> = causes.iter().map(|it| (it.standing, it.cause)).collect();
    assert_eq!(
        causes,
        [
            // Asked before the fault, and told at the next poll.
            (Standing::Answers, Cause::None),
            (Standing::Silent, Cause::None),
            (Standing::Silent, Cause::ServiceHang),
            (Standing::Silent, Cause::ServiceHang),
        ]
    );
    let mut refuses = order("refuse");
    refuses.poll();
    let status = refuses.poll();
    assert_eq!(
        (status.standing, status.cause),
        (Standing::Refused, Cause::ServiceGone)
    );
}

/// Each poll has a test of its own.
fn tested_each_poll(settings: ServiceSettings) -> ServiceSettings {
    ServiceSettings {
        known_answer_interval: Some(STEP / 2),
        ..settings
    }
}

/// The result of the last test through a service, its cause and its codes, from poll to poll.
fn tested(watched: &mut Watched, polls: usize) -> Vec<(Option<KnownAnswerResult>, Cause, Vec<u8>)> {
    let polls = (0..polls).map(|_| watched.poll());
    polls
        .map(|it| {
            let result = it.known_answer.map(|test| test.result);
            (result, it.cause, it.codes)
        })
        .collect()
}

#[test]
fn a_service_that_does_no_test_and_says_how_it_is_hangs_and_a_wrong_answer_is_told_at_once() {
    let stand_in = StandIn::start("ledger-lies");
    let settings = tested_each_poll(stand_in.settings(bounded()));
    let mut watched = Watched::new(stand_in, settings);
    use KnownAnswerResult::{Lost, Right, Wrong};
    // The process is found, then asked, then told of.
    let before = tested(&mut watched, 4);
    let well = (Some(Right), Cause::None, vec![]);
    assert_eq!(before[3], well, "{before:?}");

    let order = |watched: &mut Watched, order: &str| {
        let answer = watched.stand_in.control.say(order);
        assert!(answer.contains("true"), "{answer}");
    };
    order(&mut watched, r#"{"inject": "wrong-answer"}"#);
    // Each poll asks again, and tells what was found before it, if it is not answered at once.
    let wrong = (Some(Wrong), Cause::Undetermined, vec![16]);
    let after = tested(&mut watched, 3);
    assert!([&well, &wrong].contains(&&after[0]), "{after:?}");
    assert_eq!(after[1..], [wrong.clone(), wrong.clone()]);
    order(&mut watched, r#"{"clear": "wrong-answer"}"#);
    let after = tested(&mut watched, 2);
    assert!([&well, &wrong].contains(&&after[0]), "{after:?}");
    assert_eq!(after[1], well, "{after:?}");

    order(&mut watched, r#"{"inject": "workers-exhausted"}"#);
    let lost = |cause| (Some(Lost), cause, vec![17]);
    let after = tested(&mut watched, 5);
    assert_eq!(after[..2], [well.clone(), lost(Cause::None)]);
    assert_eq!(after[4], lost(Cause::ServiceHang), "{after:?}");
    order(&mut watched, r#"{"clear": "workers-exhausted"}"#);
    let after = tested(&mut watched, 4);
    assert_eq!(after[3], well, "{after:?}");
}

#[test]
fn a_service_without_a_card_is_given_nothing_to_do_that_takes_one() {
    let stand_in = StandIn::start("leak-ports-on-failure=1");
    let settings = tested_each_poll(stand_in.settings(bounded()));
    let mut watched = Watched::new(stand_in, settings);
    tested(&mut watched, 4);
    watched.card(false);
    let failed = |watched: &mut Watched| {
        let status = watched.stand_in.control.say(r#"{"status": true}"#);
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        status["status"]["opens_failed"].as_u64().unwrap()
    };
    // One that was under way when the card went away may have met its absence.
    watched.poll();
    let before = failed(&mut watched);
    tested(&mut watched, 6);
    assert_eq!(failed(&mut watched), before);
    watched.card(true);
    let after = tested(&mut watched, 3);
    assert_eq!(after[2].0, Some(KnownAnswerResult::Right), "{after:?}");
}

#[test]
fn a_service_that_is_killed_is_gone_and_one_that_is_started_again_is_counted_and_watched_anew() {
    let stand_in = StandIn::start("ledger-lies");
    let settings = stand_in.settings(bounded());
    let pid_file = stand_in.directory.path().join("pid");
    let mut watched = Watched::new(stand_in, settings);
    watched.poll();
    let before = watched.poll();
    assert_eq!((before.restarts, before.cause), (0, Cause::None));
    watched.stand_in.child.kill().unwrap();
    watched.stand_in.child.wait().unwrap();
    let status = watched.poll();
    assert_eq!(
        (status.standing, status.cause),
        (Standing::Gone, Cause::ServiceGone)
    );
    assert_eq!(status.process, None);

    let again = StandIn::start("ledger-lies");
    fs::write(pid_file, again.child.id().to_string()).unwrap();
    watched.poll();
    let status = watched.poll();
    assert_eq!(status.restarts, 1);
    assert_eq!(status.process.unwrap().pid, again.child.id());
    let held = status
        .leaks
        .iter()
        .find(|leak| leak.resource == "descriptors");
    assert_eq!(
        held.unwrap().rate_per_hour,
        None,
        "nothing is known of the new one"
    );
}

/// A control group with one process in it, removed with the value.
struct Group {
    /// In the hierarchy.
    path: PathBuf,
    directory: PathBuf,
}

impl Group {
    fn around(child: &Child) -> Option<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
        let (mount, own) = groups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            match controllers {
                "memory" => Some(("/sys/fs/cgroup/memory", path)),
                "" => Some(("/sys/fs/cgroup", path)),
                _ => None,
            }
        })?;
        let path = Path::new(own).join(format!("leaking-service-{}", child.id()));
        let directory = Path::new(mount).join(path.strip_prefix("/").unwrap());
        fs::create_dir(&directory).ok()?;
        let group = Self { path, directory };
        fs::write(group.directory.join("cgroup.procs"), child.id().to_string()).ok()?;
        let accounts = ["memory.kmem.usage_in_bytes", "memory.stat"]
            .iter()
            .any(|file| group.directory.join(file).exists());
        accounts.then_some(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its process has ended before it.
        let _ = fs::remove_dir(&self.directory);
    }
}
