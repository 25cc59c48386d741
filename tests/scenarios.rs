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
use hwshim::router::core::Options;
use hwshim::router::{Router, verify};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
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
