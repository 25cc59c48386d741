//! A card that fails while clients shake hands: each of them verifies what it is signed, and none
//! sees a handshake fail. `cargo xtask tls-faults` does the same thousands of times, and measures.

use crate::authority::Key;
use crate::common::{CardProcess, program};
use crate::load::{self, Handshake};
use crate::serving::Serving;
use crate::{Site, load::run};
use serde_json::Value;
use std::ops::ControlFlow;
use std::process::{Command, Stdio};
use std::time::Duration;

const CLIENTS: usize = 8;
/// Handshakes of one test.
const ENOUGH: usize = 240;
/// After so many of them, the card fails.
const FAILS_AT: usize = 60;

/// In time for a test that waits for it, and as ever.
const SOON: &str = "200ms";
/// However busy the machine is: what waits for a card is answered by software after 200 ms.
const PATIENT: Duration = Duration::from_secs(10);

struct Stage {
    site: Site,
    card: CardProcess,
    serving: Serving,
    /// Handshakes before it began.
    connected: u64,
}

impl Stage {
    /// One whose card has `timeout` for a signature, and has made one.
    fn set(timeout: &str) -> Self {
        let site = Site::with(Key::Rsa2048);
        let card = CardProcess::start_with(site.directory.path(), &["--control"]);
        let address = card.address().to_string();
        let options = ["--always", "--card-timeout", timeout, "--card", &address];
        let serving = site.before_echo(&options);
        // On a busy machine a card may be given up a few times, and comes back.
        let signs = (0..30).any(|_| {
            let ready = |it: &Value| it["accelerators"][0]["breaker"] == "closed";
            serving.wait_for_report(ready).unwrap();
            site.connect(&serving);
            count(&serving.wait_for_report(|_| true).unwrap(), "card") > 0
        });
        assert!(signs, "the card never signs");
        let before = serving.wait_for_report(|_| true).unwrap();
        let connected = before["handshakes"]["completed"].as_u64().unwrap();
        Self {
            site,
            card,
            serving,
            connected,
        }
    }

    /// Tells the card what to do.
    fn order(&self, words: &[&str]) {
        let control = self.site.directory.path().join("card.sock.control");
        let status = Command::new(program("firmware-sim"))
            .args(words)
            .arg("--control")
            .arg(control)
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "{words:?}");
    }

    /// Has clients shake hands while `meddle` is told how many have. Nothing may fail. Returns what
    /// the terminator says of it.
    fn survive(&mut self, mut meddle: impl FnMut(&mut Self, usize)) -> Value {
        let (server, client) = (self.serving.address, self.site.client());
        let mut count = 0;
        let all = run(server, &client, CLIENTS, |_| {
            count += 1;
            meddle(self, count);
            if count < ENOUGH {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        let failed: Vec<&Handshake> = all.iter().filter(|it| it.outcome.is_err()).collect();
        assert!(failed.is_empty(), "{failed:?}");
        let longest = all.iter().map(|it| it.took).max().unwrap();
        assert!(longest < PATIENT, "{longest:?}");
        let last = all.iter().map(|it| it.ended).max().unwrap();
        assert!(last < 4 * PATIENT, "they came to a standstill: {last:?}");
        let done = u64::try_from(all.len()).unwrap();
        let done = self.connected + done;
        let report = self
            .serving
            .wait_for_report(|it| it["handshakes"]["completed"].as_u64() >= Some(done))
            .unwrap();
        let handshakes = &report["handshakes"];
        assert_eq!(handshakes["failed"], 0, "{report}");
        let signed = ["offloaded", "software", "mismatched"]
            .map(|name| handshakes[name].as_u64().unwrap())
            .iter()
            .sum::<u64>();
        assert_eq!(signed, done, "{report}");
        report
    }
}

fn count(report: &Value, name: &str) -> u64 {
    report["signatures"][name].as_u64().unwrap()
}

#[test]
fn a_card_that_is_killed_costs_no_handshake_and_is_used_when_it_is_back() {
    let mut stage = Stage::set(SOON);
    let report = stage.survive(|stage, count| {
        if count == FAILS_AT {
            stage.card.process.kill().unwrap();
            stage.card.process.wait().unwrap();
        }
    });
    assert!(count(&report, "card") > 0, "{report}");
    assert!(count(&report, "software") > 0, "{report}");
    let before = count(&report, "card");
    stage.card = CardProcess::start_with(stage.site.directory.path(), &["--control"]);
    let ready = |it: &Value| it["accelerators"][0]["breaker"] == "closed";
    stage.serving.wait_for_report(ready).unwrap();
    let client = stage.site.client();
    load::connect(stage.serving.address, &client).unwrap();
    let again = |it: &Value| count(it, "card") > before;
    stage.serving.wait_for_report(again).unwrap();
}

#[test]
fn a_card_that_hangs_costs_no_handshake() {
    let report = Stage::set(SOON).survive(|stage, count| {
        if count == FAILS_AT {
            stage.order(&["inject", "hang"]);
        }
    });
    assert!(count(&report, "card") > 0, "{report}");
    assert!(count(&report, "software") > 0, "{report}");
}

#[test]
fn no_answer_that_gives_the_key_away_leaves() {
    // One that is given up has no occasion to lie.
    let report = Stage::set("5s").survive(|stage, count| {
        if count == FAILS_AT {
            stage.order(&["inject", "crt-fault"]);
        }
    });
    assert!(count(&report, "wrong_answers") > 0, "{report}");
}

#[test]
fn a_card_that_becomes_slow_costs_no_handshake() {
    let report = Stage::set(SOON).survive(|stage, count| {
        if count == FAILS_AT {
            stage.order(&["inject", "slow=1000"]);
        }
    });
    assert!(count(&report, "card") > 0, "{report}");
    assert!(count(&report, "software") > 0, "{report}");
}

#[test]
fn a_card_that_hangs_and_recovers_again_and_again_costs_no_handshake() {
    let report = Stage::set(SOON).survive(|stage, count| match (count % 40, count / 40 % 2) {
        (0, 1) => stage.order(&["inject", "hang"]),
        (0, 0) => stage.order(&["clear"]),
        _ => {}
    });
    assert!(count(&report, "card") > 0, "{report}");
    assert!(count(&report, "software") > 0, "{report}");
}

#[test]
fn an_operator_is_told_when_a_card_is_not_used_why_and_when_it_is_again() {
    let site = Site::with(Key::Rsa2048);
    let address = format!(
        "vfio-user:{}",
        site.directory.path().join("card.sock").display()
    );
    let serving = site.before_echo(&["--card", &address, "--card", "software:multi-buffer"]);
    let told = serving
        .wait_for_error(&format!("{address} is not used: "))
        .unwrap();
    assert!(told.contains("no such socket"), "{told}");
    assert!(told.contains("others sign meanwhile"), "{told}");
    // Whoever comes is served.
    site.connect(&serving);
    let mut card = CardProcess::start(site.directory.path());
    serving
        .wait_for_error(&format!("hwshim: {address} is used again"))
        .unwrap();
    card.process.kill().unwrap();
    let is_twice = |errors: &str| errors.matches(&format!("{address} is not used: ")).count() == 2;
    serving.wait_for_errors(is_twice).unwrap();
}
