//! A terminator whose host has no more descriptors or threads for it, or no room for its pages: it says
//! so, serves whom it can, and goes on when there are some.

use crate::Site;
use crate::authority::{Key, replace};
use crate::backend::{self, Kind};
use crate::common::CardProcess;
use crate::operation::{
    exchange, in_file, is_reset, pause, reload_until_it_still_reads, send, served, stats,
};
use crate::serving::Serving;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::net::TcpStream;
use std::os::unix::ffi::OsStrExt as _;
use std::process::Command;
use std::time::Duration;

/// So much that the limit of a process's addresses counts its threads. None of it is ever touched.
const STACK_LEN: u64 = 512 << 20;
/// What it maps besides.
const REST_LEN: u64 = 256 << 20;

/// Limits what a process that a test has started may have from now on; `None` is as much as the test.
pub(crate) fn limit(pid: u32, of: Resource, to: Option<u64>) {
    let maximum = getrlimit(of).maximum;
    let new = Rlimit {
        current: to.or(maximum),
        maximum,
    };
    prlimit(Pid::from_raw(pid.cast_signed()), of, new).unwrap();
}

fn count(report: &Value, of: &str, name: &str) -> u64 {
    report[of][name].as_u64().unwrap()
}

#[test]
fn without_descriptors_it_waits_and_tells_and_accepts_again_when_there_are_some() {
    let site = Site::new();
    let serving = site.before_echo(&[]);
    let mut kept = site.connect(&serving);
    exchange(&mut kept, b"before");
    let held = fs::read_dir(format!("/proc/{}/fd", serving.id())).unwrap();
    let held = u64::try_from(held.count()).unwrap();
    limit(serving.id(), Resource::Nofile, Some(held));
    // More than there are numbers left below the limit.
    let clients: Vec<_> = (0..32)
        .map(|_| TcpStream::connect(serving.address).unwrap())
        .collect();
    let lacks = |it: &Value| count(it, "connections", "not_accepted") > 0;
    let first = serving.wait_for_report(lacks).unwrap();
    let last = serving
        .wait_for_report(|it| count(it, "connections", "not_accepted") >= 10)
        .unwrap();
    // It tries again ten times a second, and does nothing but that. By its own clock, so that how long
    // anything takes here decides nothing.
    let times = count(&last, "connections", "not_accepted");
    let times = times - count(&first, "connections", "not_accepted");
    let millis = last["uptime_ms"].as_u64().unwrap() - first["uptime_ms"].as_u64().unwrap();
    assert!(times <= 10 + millis / 50, "{times} times in {millis} ms");
    let errors = serving.wait_for_error("cannot be accepted").unwrap();
    assert!(errors.contains("Too many open files"), "{errors}");
    assert_eq!(errors.matches("cannot be accepted").count(), 1, "{errors}");
    exchange(&mut kept, b"meanwhile");

    drop(clients);
    limit(serving.id(), Resource::Nofile, None);
    exchange(&mut site.connect(&serving), b"after");
    drop(kept);
    send(&serving, Signal::TERM);
    let (status, errors) = serving.end().unwrap();
    assert_eq!(status.code(), Some(0), "{errors}");
}

/// The command that has `command` run where it finds `threads`, and no more.
fn with_threads(command: &Command, threads: u64) -> Command {
    let kib = (REST_LEN + threads * STACK_LEN) >> 10;
    let mut limited = Command::new("sh");
    limited
        .args(["-c", &format!("ulimit -v {kib} && exec \"$@\""), "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    on_large_stacks(&mut limited);
    limited
}

fn on_large_stacks(command: &mut Command) {
    command
        .env("RUST_MIN_STACK", STACK_LEN.to_string())
        // Each thread would map addresses for its own memory as well.
        .env("MALLOC_ARENA_MAX", "1")
        .env("TOKIO_WORKER_THREADS", "1");
}

#[test]
fn whichever_thread_cannot_be_started_it_says_what_to_do_and_lets_go_of_its_card() {
    let site = Site::with(Key::Rsa2048);
    let card = CardProcess::start(site.directory.path());
    let mut command = site.command(backend::start(Kind::Echo).unwrap());
    command.args(["--card", &card.address().to_string()]);
    let starts = |threads: &u64| {
        let Err(error) = Serving::start(with_threads(&command, *threads)) else {
            return true;
        };
        let errors = error.to_string();
        let wanted = ["Resource temporarily unavailable", "hint: ", "ulimit -a"];
        let is_said = wanted.iter().all(|it| errors.contains(it)) && !errors.contains("panicked");
        assert!(is_said, "{threads}: {errors}");
        // Without one for itself it does not come as far as to the card.
        let state = (*threads > 0).then(|| "released".to_owned());
        assert_eq!(
            stats(&site)["state"],
            Value::from(state),
            "{threads}: {errors}"
        );
        false
    };
    // Its own, one for the owner of the card, one for the router and one for each stream; and one in
    // which the card is being reset meanwhile, or not any more.
    let needed = (0..10).find(starts).unwrap();
    assert!((5..=6).contains(&needed), "{needed}");
}

#[test]
fn a_number_of_threads_that_is_none_is_told_of() {
    let site = Site::new();
    let backend = backend::start(Kind::Echo).unwrap();
    for number in [&b"many"[..], b"0", b"", b"2\xff"] {
        let number = OsStr::from_bytes(number);
        let mut command = site.command(backend);
        command.env("TOKIO_WORKER_THREADS", number);
        let errors = Serving::start(command).unwrap_err().to_string();
        let told = format!("TOKIO_WORKER_THREADS={} cannot be used", number.display());
        for wanted in [&told, "hint: give it the number of threads"] {
            assert!(errors.contains(wanted), "{wanted}: {errors}");
        }
        assert!(!errors.contains("panicked"), "{errors}");
    }
}

/// Has `serving` find no thread from now on, or again.
fn starve_of_threads(serving: &Serving, is_starved: bool) {
    let status = fs::read_to_string(format!("/proc/{}/status", serving.id())).unwrap();
    let mapped = status.lines().find_map(|it| it.strip_prefix("VmSize:"));
    let kib: u64 = mapped
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    let limited = is_starved.then_some((kib << 10) + STACK_LEN / 2);
    limit(serving.id(), Resource::As, limited);
}

#[test]
fn without_a_thread_certificates_stay_and_are_read_when_it_is_told_once_more() {
    let site = Site::new();
    let mut command = site.command(backend::start(Kind::Echo).unwrap());
    on_large_stacks(&mut command);
    let serving = Serving::start(command).unwrap();
    let first = in_file(&site.identity.certificate);
    let renewed = site.authority.issue("new", Key::P256, "renewed").unwrap();
    replace(&site.identity, &renewed).unwrap();
    starve_of_threads(&serving, true);
    send(&serving, Signal::HUP);
    let errors = serving.wait_for_error("then send SIGHUP again").unwrap();
    assert!(errors.contains("no thread can be started"), "{errors}");
    assert_eq!(served(&site, &serving), first);
    starve_of_threads(&serving, false);
    send(&serving, Signal::HUP);
    serving
        .wait_for_error("1 certificates were read again")
        .unwrap();
    assert_eq!(served(&site, &serving), in_file(&renewed.certificate));
}

#[test]
fn without_a_thread_to_look_up_a_backend_its_client_is_reset_and_the_next_is_served() {
    let site = Site::new();
    let backend = backend::start(Kind::Echo).unwrap();
    let by_address = site.command(backend);
    let mut command = Command::new(by_address.get_program());
    let by_name = format!("localhost:{}", backend.port());
    command.args(by_address.get_args().map(|it| match it.to_str() {
        Some(it) if it == backend.to_string() => by_name.as_ref(),
        _ => it,
    }));
    on_large_stacks(&mut command);
    let serving = Serving::start(command).unwrap();
    starve_of_threads(&serving, true);
    assert!(is_reset(&mut site.connect(&serving)));
    let told = format!("the backend {by_name} cannot be reached: no thread can be started");
    serving.wait_for_error(&told).unwrap();
    let is_counted = |it: &Value| count(it, "connections", "unreachable") == 1;
    serving.wait_for_report(is_counted).unwrap();
    starve_of_threads(&serving, false);
    exchange(&mut site.connect(&serving), b"found");
}

#[test]
fn a_card_for_whose_reset_there_is_no_thread_is_out_and_its_clients_are_served() {
    let site = Site::with(Key::Rsa2048);
    let mut card = CardProcess::start(site.directory.path());
    let address = card.address().to_string();
    let mut command = site.command(backend::start(Kind::Echo).unwrap());
    command.args(["--always", "--card", &address]);
    on_large_stacks(&mut command);
    let serving = Serving::start(command).unwrap();
    let is_used = |it: &Value| it["accelerators"][0]["breaker"] == "closed";
    serving.wait_for_report(is_used).unwrap();
    // The C library keeps what a thread that has ended had, for another: so that one gets it that reads
    // certificates, and never will have.
    let file = &site.identity.certificate;
    fs::remove_file(file).unwrap();
    mknodat(CWD, file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    reload_until_it_still_reads(&serving);
    starve_of_threads(&serving, true);
    card.process.kill().unwrap();
    card.process.wait().unwrap();
    let card = CardProcess::start(site.directory.path());
    let is_not_reset = |it: &Value| it["accelerators"][0]["breaker_opened_by"] == "reset-not-run";
    serving.wait_for_report(is_not_reset).unwrap();
    exchange(&mut site.connect(&serving), b"served all the same");
    drop(card);
}

/// The command that has `command` run where nothing can be written beyond [`Resource::Fsize`]. By
/// itself the system ends who tries, where a full disk refuses.
pub(crate) fn refused_by_the_disk(command: &Command) -> Command {
    let mut refused = Command::new("sh");
    refused
        .args(["-c", "trap '' XFSZ && exec \"$@\"", "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    refused
}

#[test]
fn a_page_that_cannot_be_written_any_more_is_told_of_once_and_its_card_is_used() {
    let site = Site::with(Key::Rsa2048);
    let card = CardProcess::start(site.directory.path());
    let address = card.address().to_string();
    let mut command = site.command(backend::start(Kind::Echo).unwrap());
    // The only signature is to be the card's, however long it takes here.
    command.args(["--always", "--card-timeout", "1min", "--card", &address]);
    let serving = Serving::start(refused_by_the_disk(&command)).unwrap();
    let is_used = |it: &Value| it["accelerators"][0]["breaker"] == "closed";
    serving.wait_for_report(is_used).unwrap();
    limit(serving.id(), Resource::Fsize, Some(0));
    let told = format!("{address} is used, but its telemetry page cannot be published");
    serving.wait_for_error(&told).unwrap();
    exchange(&mut site.connect(&serving), b"signed by the card");
    let by_card = |it: &Value| count(it, "signatures", "card") > 0;
    serving.wait_for_report(by_card).unwrap();
    // It has tried again by then.
    for _ in 0..3 {
        serving.wait_for_report(|_| true).unwrap();
    }
    let errors = serving.wait_for_error(&told).unwrap();
    assert_eq!(errors.matches(&told).count(), 1, "{errors}");

    limit(serving.id(), Resource::Fsize, None);
    let is_published = (0..100).any(|_| {
        pause(Duration::from_millis(100));
        stats(&site)["tls"]["handshakes"]["completed"] == 1
    });
    assert!(is_published);
    send(&serving, Signal::TERM);
    let (status, errors) = serving.end().unwrap();
    assert_eq!(status.code(), Some(0), "{errors}");
    assert_eq!(stats(&site)["state"], "released");
}
