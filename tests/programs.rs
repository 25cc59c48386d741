//! The programs as a person or a script runs them, against a simulated card in its own process.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod common;

use common::{CardProcess, program};
use hwshim::clock::{Clock, SystemClock};
use serde_json::Value;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// Far longer than anything takes; only a mistake meets it.
const PATIENT: Duration = Duration::from_secs(60);

fn hwshim() -> Command {
    Command::new(program("hwshim"))
}

fn run(arguments: &[&str]) -> Output {
    hwshim().args(arguments).output().unwrap()
}

fn json(output: &Output) -> Value {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{}", stderr(output)))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A `hwshim serve` that ends with the test.
struct Owner(Child);

impl Owner {
    fn start(address: &str, telemetry: &Path) -> Self {
        let owner = hwshim()
            .args(["serve", "--card", address, "--load", "100/s"])
            .args(["--check-interval", "100ms", "--telemetry"])
            .arg(telemetry)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(owner)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks `hwshim stats` until the only card there is as `wanted`.
fn wait_for_stats(telemetry: &Path, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = SystemClock.now().plus(PATIENT);
    loop {
        let output = hwshim()
            .args(["stats", "--json", "--telemetry"])
            .arg(telemetry)
            .output()
            .unwrap();
        let document = json(&output);
        let card = &document["cards"][0];
        if card.is_object() && wanted(card) {
            return card.clone();
        }
        assert!(SystemClock.now() < deadline, "{document:#}");
    }
}

fn is_in_use(card: &Value) -> bool {
    card["state"] == "ready" && card["breaker"] == "closed"
}

fn adds_up(requests: &Value) -> bool {
    let count = |name: &str| requests[name].as_u64().unwrap();
    let ends = count("card") + count("software") + count("refused") + count("in_flight");
    count("submitted") == ends
}

#[test]
fn selftest_passes_every_algorithm_of_a_good_card() {
    let directory = tempfile::tempdir().unwrap();
    let card = CardProcess::start(directory.path());
    let output = run(&["selftest", &card.address().to_string(), "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let report = json(&output);
    let lines = report["algorithms"].as_array().unwrap();
    assert!(lines.len() >= 16);
    for line in lines {
        assert_eq!(line["result"], "passed", "{line}");
    }
    assert_eq!(report["passed"], lines.len());
    assert_eq!(report["failed"], 0);
}

#[test]
fn selftest_of_software_needs_no_card() {
    let output = run(&["selftest", "software:ring"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("software:ring: 16 passed, 0 not offered, 0 failed"),
        "{text}"
    );
}

#[test]
fn selftest_of_multi_buffer_passes_or_says_what_is_missing() {
    let output = run(&["selftest", "software:multi-buffer"]);
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    if output.status.success() {
        assert!(
            text.contains("software:multi-buffer: 8 passed, 8 not offered, 0 failed"),
            "{text}"
        );
        return;
    }
    let text = stderr(&output);
    println!("skipped: {text}");
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("cannot be brought up"), "{text}");
    assert!(
        text.contains("processor lacks") || text.contains("there is no "),
        "what is there and does not work is a failure: {text}"
    );
    assert!(text.contains("hint: "), "{text}");
}

#[test]
fn a_card_that_is_not_there_is_an_error_with_a_next_step() {
    for command in ["selftest", "bench"] {
        let output = run(&[command, "vfio-user:/nowhere/card.sock"]);
        assert_eq!(output.status.code(), Some(1));
        let text = stderr(&output);
        assert!(
            text.contains("/nowhere/card.sock cannot be brought up"),
            "{text}"
        );
        assert!(
            text.contains("hint: ") && text.contains("firmware-sim run"),
            "{text}"
        );
    }
}

#[test]
fn an_address_that_is_none_is_misuse() {
    for address in ["card.sock", "pci:zz", "software:rnig", ""] {
        let output = run(&["selftest", address]);
        assert_eq!(output.status.code(), Some(2), "{address}");
    }
}

#[test]
fn bench_compares_cards_and_software_in_one_run() {
    let directories = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let cards = directories
        .each_ref()
        .map(|directory| CardProcess::start(directory.path()));
    let addresses = cards.each_ref().map(|card| card.address().to_string());
    let ops = "rsa-2048-sign,p256-sign,aes-256-gcm-1k,aes-256-gcm-16k,sha256-1k";
    let output = hwshim()
        .arg("bench")
        .args(&addresses)
        .args(["--ops", ops, "--depth", "1,8", "--for", "300ms", "--json"])
        // A card that is slow here is to answer all the same.
        .arg("--timeout=60s")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let report = json(&output);
    let points = report["points"].as_array().unwrap();
    assert_eq!(points.len(), 10);
    for point in points {
        let sides = point["sides"].as_array().unwrap();
        let [software, cards @ ..] = sides.as_slice() else {
            panic!("{point}");
        };
        assert!(software["operations"].as_u64().unwrap() > 0, "{point}");
        assert_eq!(cards.len(), 2, "{point}");
        for (card, address) in cards.iter().zip(&addresses) {
            assert_eq!(&card["name"], address);
            assert!(card["answered"]["card"].as_u64().unwrap() > 0, "{point}");
            assert_eq!(card["failed"], 0, "{point}");
        }
    }
    for (accelerator, address) in report["accelerators"]
        .as_array()
        .unwrap()
        .iter()
        .zip(&addresses)
    {
        assert_eq!(&accelerator["address"], address);
        assert_eq!(accelerator["requests"]["adds_up"], true);
    }
}

/// Tells, when it is asked, whether the card in `directory` has had more than `requests` from now on: a
/// fault that nobody notices has begun then.
fn begins_after_requests(directory: &Path, requests: u32) -> impl Fn() -> bool {
    let control = directory.join("card.sock.control");
    let order = move |arguments: &[&str]| {
        let output = Command::new(program("firmware-sim"))
            .args(arguments)
            .arg("--control")
            .arg(&control)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        output
    };
    let requests = requests.to_string();
    order(&["inject", "slow=1.001", "--after-requests", &requests]);
    move || {
        let status = json(&order(&["status", "--json"]));
        status["injections"][0]["times_acted"].as_u64() > Some(0)
    }
}

#[test]
fn bench_finishes_in_software_when_a_card_is_killed_and_the_other_goes_on() {
    let directories = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let mut cards = directories
        .each_ref()
        .map(|directory| CardProcess::start_with(directory.path(), &["--control"]));
    let first_is_measured = begins_after_requests(directories[0].path(), 64);
    let bench = hwshim()
        .arg("bench")
        .args(cards.each_ref().map(|card| card.address().to_string()))
        .args(["--ops=rsa-2048-sign", "--depth=32", "--for=8s", "--json"])
        // Software is to answer for the card that is killed, and not for one that is slow here.
        .arg("--timeout=60s")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // In the middle, wherever that is: the card dies with requests in flight or without. That many it
    // has had after three of eleven windows at the latest.
    let deadline = SystemClock.now().plus(PATIENT);
    while !first_is_measured() {
        assert!(SystemClock.now() < deadline, "the card is not measured");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    cards[0].process.kill().unwrap();
    let output = bench.wait_with_output().unwrap();
    assert!(output.status.success());
    let report = json(&output);
    let [_, killed, other] = report["points"][0]["sides"].as_array().unwrap().as_slice() else {
        panic!("{report:#}");
    };
    assert_eq!(killed["failed"], 0, "{report:#}");
    assert!(
        killed["answered"]["software"].as_u64().unwrap() > 0,
        "{report:#}"
    );
    assert_eq!(other["answered"]["software"], 0, "{report:#}");
    let accelerators = report["accelerators"].as_array().unwrap();
    let in_use: Vec<_> = accelerators.iter().map(|one| &one["in_use"]).collect();
    assert_eq!(in_use, [false, true], "{report:#}");
    for accelerator in accelerators {
        let requests = &accelerator["requests"];
        assert!(adds_up(requests), "{requests}");
        assert_eq!(
            (&requests["refused"], &requests["in_flight"]),
            (&0.into(), &0.into())
        );
    }
}

#[test]
fn an_owner_publishes_what_it_knows_and_lets_go_in_an_orderly_way() {
    let directory = tempfile::tempdir().unwrap();
    let telemetry = directory.path().join("telemetry");
    let card = CardProcess::start(directory.path());
    let mut owner = Owner::start(&card.address().to_string(), &telemetry);
    let published = wait_for_stats(&telemetry, |card| {
        is_in_use(card)
            && card["requests"]["card"].as_u64() > Some(10)
            && card["checks"]["passed"].as_u64() > Some(1)
            && card["health"]["heartbeat_count"].as_u64() > Some(1)
    });
    assert!(adds_up(&published["requests"]), "{published:#}");

    let second = hwshim()
        .args([
            "serve",
            "--card",
            &card.address().to_string(),
            "--telemetry",
        ])
        .arg(&telemetry)
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(
        stderr(&second).contains("another owner"),
        "{}",
        stderr(&second)
    );

    let pid = i32::try_from(owner.0.id()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(owner.0.wait().unwrap().success());
    let released = wait_for_stats(&telemetry, |card| card["state"] == "released");
    assert_eq!(released["requests"]["in_flight"], 0, "{released:#}");
}

#[test]
fn an_owner_tells_of_a_card_that_was_killed_and_of_its_return() {
    let directory = tempfile::tempdir().unwrap();
    let telemetry = directory.path().join("telemetry");
    let mut card = CardProcess::start(directory.path());
    let _owner = Owner::start(&card.address().to_string(), &telemetry);
    wait_for_stats(&telemetry, is_in_use);
    card.process.kill().unwrap();
    card.process.wait().unwrap();
    // Something else may have opened the breaker just before.
    let gone = wait_for_stats(&telemetry, |card| {
        card["state"] == "gone"
            && card["requests"]["software"].as_u64() > Some(10)
            && (&card["breaker"], &card["breaker_opened_by"]) == (&"open".into(), &"gone".into())
    });
    assert!(adds_up(&gone["requests"]), "{gone:#}");
    let _card = CardProcess::start(directory.path());
    wait_for_stats(&telemetry, is_in_use);
}

#[test]
fn a_card_is_forgotten_when_nobody_owns_it_any_more_and_not_before() {
    let directory = tempfile::tempdir().unwrap();
    let telemetry = directory.path().join("telemetry");
    let typo = "vfio-user:/nowhere/card.sok";
    let stats = |arguments: &[&str]| {
        let mut command = hwshim();
        command.args(["stats", "--telemetry"]).arg(&telemetry);
        command.args(arguments).output().unwrap()
    };
    let forget = || stats(&["--forget", typo]);
    let refused = |why: &str| {
        let output = forget();
        assert_eq!(output.status.code(), Some(1));
        let text = stderr(&output);
        assert!(text.contains(why) && text.contains("hint: "), "{text}");
    };
    refused("does not exist");
    let mut owner = Owner::start(typo, &telemetry);
    let id = owner.0.id();
    wait_for_stats(&telemetry, |card| card["owner_pid"] == id);
    refused(&format!("stop its owner first, process {id}"));
    owner.0.kill().unwrap();
    owner.0.wait().unwrap();
    wait_for_stats(&telemetry, |card| card["stale"] == true);
    let text = String::from_utf8(stats(&[]).stdout).unwrap();
    let command = format!(
        "hwshim stats --telemetry {} --forget {typo}",
        telemetry.display()
    );
    assert!(text.contains(&command), "{text}");
    let said = String::from_utf8(forget().stdout).unwrap();
    assert!(said.starts_with(&format!("{typo} is forgotten")), "{said}");
    assert_eq!(json(&stats(&["--json"]))["cards"], serde_json::json!([]));
}

#[test]
fn without_an_owner_stats_says_how_to_become_one() {
    let directory = tempfile::tempdir().unwrap();
    let output = hwshim()
        .args(["stats", "--telemetry"])
        .arg(directory.path())
        .output()
        .unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("hwshim serve --card"), "{text}");
}
