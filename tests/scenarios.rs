//! A simulated card that goes wrong on purpose, live: it is told to over its control socket, or plays
//! a scenario, while a router uses it.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod common;

use common::{CardProcess, program};
use hwshim::accelerator::{Operation, Secret, Unverified};
use hwshim::clock::{Clock, SystemClock};
use hwshim::kat;
use hwshim::key::SignatureScheme;
use hwshim::router::breaker::{Limits, State};
use hwshim::router::core::{Offload, Options};
use hwshim::router::{Router, verify};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// Far longer than anything takes; only a mistake meets it.
const PATIENT: Duration = Duration::from_secs(60);

fn control_of(directory: &Path) -> PathBuf {
    directory.join("card.sock.control")
}

fn firmware_sim(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(program("firmware-sim"));
    command
        .args(arguments)
        .arg("--control")
        .arg(control_of(directory));
    command.output().unwrap()
}

/// Gives an order that has to be followed.
fn order(directory: &Path, arguments: &[&str]) -> String {
    let output = firmware_sim(directory, arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn injection(directory: &Path, index: usize) -> Value {
    let status: Value = serde_json::from_str(&order(directory, &["status", "--json"])).unwrap();
    status["injections"][index].clone()
}

fn router(card: &CardProcess) -> Router {
    let opened = card.address().open_accelerator().unwrap();
    let options = Options {
        timeout: Duration::from_millis(500),
        limits: Limits {
            backoff: Duration::from_millis(100),
            backoff_max: Duration::from_millis(400),
            ..Limits::default()
        },
        // The card is what is tested, whether it pays or not.
        offload: Offload::default().always(),
        ..Options::default()
    };
    Router::start(vec![opened.accelerator], options).unwrap()
}

/// Signs, and checks the signature as a client would, until `enough`.
fn sign_until(router: &Router, mut enough: impl FnMut() -> bool) {
    let deadline = SystemClock.now().plus(PATIENT);
    let mut number = 0_u64;
    while !enough() {
        let key = kat::rsa_2048_key();
        let scheme = SignatureScheme::RsaPkcs1Sha256;
        let message = number.to_le_bytes();
        let signature = router.sign(&key, scheme, &message).unwrap();
        let signed = Operation::Sign {
            key,
            scheme,
            message: Secret::from(&message[..]),
        };
        verify::check(&signed, Unverified::new(signature)).unwrap();
        number += 1;
        assert!(SystemClock.now() < deadline, "{:?}", router.status());
    }
}

fn is_in_use(router: &Router) -> bool {
    matches!(router.status()[0].breaker, State::Closed { .. })
}

#[test]
fn a_card_is_told_to_hang_and_to_recover() {
    let directory = tempfile::tempdir().unwrap();
    let card = CardProcess::start_with(directory.path(), &["--control"]);
    let router = router(&card);
    sign_until(&router, || router.requests().card >= 1);
    assert_eq!(order(directory.path(), &["inject", "hang"]), "0\n");
    sign_until(&router, || !is_in_use(&router));
    assert!(router.requests().timed_out >= 1, "{:?}", router.requests());
    let truth = injection(directory.path(), 0);
    assert_eq!(
        (&truth["fault"], &truth["cause"]),
        (&"hang=cleared".into(), &"card".into())
    );
    assert!(truth["first_acted_at_seconds"].is_number(), "{truth}");
    assert!(truth["over_at_seconds"].is_null(), "{truth}");
    order(directory.path(), &["clear", "0"]);
    sign_until(&router, || is_in_use(&router));
    let before = router.requests().card;
    sign_until(&router, || router.requests().card > before);
    assert!(injection(directory.path(), 0)["over_at_seconds"].is_number());
    let requests = router.requests();
    assert!(
        requests.add_up() && requests.wrong_answers == 0,
        "{requests:?}"
    );
}

#[test]
fn wrong_signatures_of_bellcore_are_stopped_and_counted_and_none_is_released() {
    let directory = tempfile::tempdir().unwrap();
    // Faster than it is told, as its first ten seconds are good ones.
    let arguments = ["--scenario", "bellcore", "--speed", "10"];
    let card = CardProcess::start_with(directory.path(), &arguments);
    let router = router(&card);
    sign_until(&router, || router.requests().wrong_answers >= 3);
    let requests = router.requests();
    assert!(requests.add_up(), "{requests:?}");
    let told = injection(directory.path(), 0)["times_acted"]
        .as_u64()
        .unwrap();
    assert!(told >= 3, "{told} lies were told");
}

#[test]
fn orders_are_for_the_owner_alone_and_refusals_are_explained() {
    let directory = tempfile::tempdir().unwrap();
    // One that is honest and has not been asked to take any.
    let card = CardProcess::start(directory.path());
    let nobody = firmware_sim(directory.path(), &["status"]);
    assert_eq!(nobody.status.code(), Some(1));
    let message = String::from_utf8(nobody.stderr).unwrap();
    assert!(message.contains("firmware-sim run --control"), "{message}");
    drop(card);

    let _card = CardProcess::start_with(directory.path(), &["--fault", "slow=2@1h"]);
    let mode = control_of(directory.path())
        .metadata()
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let table = order(directory.path(), &["status"]);
    assert!(table.contains("slow=2  waits, has not acted"), "{table}");
    for (arguments, code, expected) in [
        (&["inject", "hagn"][..], 2, "did you mean hang?"),
        (
            &["inject", "hang", "--probability", "2"],
            2,
            "is not a probability",
        ),
        (&["clear", "7"], 1, "there is no injection 7"),
        (
            &["clear", "most"],
            2,
            "neither the ID of an injection nor `all`",
        ),
    ] {
        let output = firmware_sim(directory.path(), arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
    order(directory.path(), &["clear"]);
    assert!(order(directory.path(), &["status"]).contains("over at"));
}

/// What a scenario's service holds between sockets of its own, in descriptors: what leaks there shows
/// in no other way.
fn in_flight(pid: u32) -> u64 {
    let directory = fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap();
    let infos = directory.filter_map(|entry| fs::read_to_string(entry.unwrap().path()).ok());
    let counts = infos.filter_map(|info| {
        let count = info
            .lines()
            .find_map(|line| line.strip_prefix("scm_fds:"))?;
        count.trim().parse::<u64>().ok()
    });
    counts.sum()
}

/// The ID of the process that plays the service, as that says.
fn pid_of_service(directory: &Path) -> Option<u32> {
    let mut stream = UnixStream::connect(directory.join("card.sock.service.control")).ok()?;
    stream.set_read_timeout(Some(PATIENT)).unwrap();
    writeln!(stream, r#"{{"status": true}}"#).unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    answer["status"]["pid"].as_u64()?.try_into().ok()
}

/// Looks again and again until something is so.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = SystemClock.now().plus(PATIENT);
    while !is_so() {
        assert!(SystemClock.now() < deadline, "{what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// A card with the scenario `hardserver-leak`, faster than it is told, and its service.
fn card_and_service(directory: &Path) -> (CardProcess, u32) {
    let arguments = ["--scenario", "hardserver-leak", "--speed", "20"];
    let card = CardProcess::start_with(directory, &arguments);
    let mut pid = None;
    wait_until("there is a service", || {
        pid = pid_of_service(directory);
        pid.is_some()
    });
    (card, pid.unwrap())
}

#[test]
fn a_scenarios_service_leaks_from_when_the_card_is_gone_and_not_before() {
    // On a busy machine the card may be gone before anybody has looked.
    assert!((0..10).any(|_| leaks_from_when_the_card_is_gone_and_not_before()));
}

/// Whether anybody has looked at the service before the card was gone; what was seen is as it should be.
fn leaks_from_when_the_card_is_gone_and_not_before() -> bool {
    let directory = tempfile::tempdir().unwrap();
    let (card, service) = card_and_service(directory.path());
    let mode = |name: &str| {
        let path = directory.path().join(name);
        path.metadata().unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode("card.sock.service"), 0o660);
    assert_eq!(mode("card.sock.service.control"), 0o600);
    // The card is in its slot as long as the fault has not acted, so look at the service first.
    let mut looks = 0;
    wait_until("the card is removed", || {
        let held = in_flight(service);
        let removed = injection(directory.path(), 1)["first_acted_at_seconds"].is_number();
        if !removed {
            assert_eq!(held, 0, "before the card was removed");
            looks += 1;
        }
        removed
    });
    wait_until("the service leaks", || in_flight(service) >= 8);
    drop(card);
    looks > 0
}

#[test]
fn a_card_that_is_stopped_or_killed_leaves_no_service_behind() {
    for signal in [Signal::TERM, Signal::KILL] {
        let directory = tempfile::tempdir().unwrap();
        let (mut card, service) = card_and_service(directory.path());
        assert!(Path::new(&format!("/proc/{service}")).exists());
        kill_process(Pid::from_child(&card.process), signal).unwrap();
        card.process.wait().unwrap();
        wait_until("the service has ended", || {
            !is_running(service) && !directory.path().join("card.sock.service").exists()
        });
    }
}

/// Whether a process is there and has not ended.
fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}
