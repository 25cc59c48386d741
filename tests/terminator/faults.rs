//! A card that fails while clients shake hands: each of them verifies what it is signed, and none
//! sees a handshake fail. `cargo xtask tls-faults` does the same thousands of times, and measures.

use crate::authority::Key;
use crate::backend::{self, Kind};
use crate::common::{CardProcess, program};
use crate::load::Handshake;
use crate::serving::Serving;
use crate::{Site, load::run};
use hwshim::clock::{Clock, SystemClock};
use serde_json::Value;
use std::fs;
use std::ops::ControlFlow;
use std::process::{Command, Stdio};
use std::time::Duration;

const CLIENTS: usize = 8;
/// So many at once that a card pays which is slower than a core.
const MANY: usize = 32;
/// Handshakes of one test.
const ENOUGH: usize = 240;
/// After so many of them, the card fails.
const FAILS_AT: usize = 60;

/// In time for a test that waits for it, and as ever.
const SOON: &str = "200ms";
/// However busy the machine is: what waits for a card is answered by software after 200 ms.
const PATIENT: Duration = Duration::from_secs(10);

/// Answers of a card after which it is known how late is late.
const KNOWN_AFTER: u64 = 200;
/// By then a card has answered so many, and was late, though on a loaded machine hardly more than trials
/// reach it: a limit for a test that would not end.
const LATE_WITHIN: Duration = Duration::from_secs(8 * 60);

struct Stage {
    site: Site,
    card: CardProcess,
    serving: Serving,
    /// At once.
    clients: usize,
    /// Handshakes before it began.
    connected: u64,
}

impl Stage {
    /// One whose card has `timeout` for a signature, gets each, and has made one.
    fn set(timeout: &str) -> Self {
        let mut stage = Self::open(CLIENTS, &["--always", "--card-timeout", timeout], &[]);
        stage.wait_for_signature_after(0);
        let before = stage.serving.wait_for_report(|_| true).unwrap();
        stage.connected = before["handshakes"]["completed"].as_u64().unwrap();
        stage
    }

    /// One whose card gets what pays, and has as long for it as it likes.
    fn weighed() -> Self {
        // Whatever machine this is, a core is what clients wait for, and the router knows of no other.
        let one_core = [("TOKIO_WORKER_THREADS", "1")];
        let stage = Self::open(MANY, &["--card-timeout", "1min"], &one_core);
        stage.wait_for_card();
        stage
    }

    fn open(clients: usize, options: &[&str], environment: &[(&str, &str)]) -> Self {
        let site = Site::with(Key::Rsa2048);
        let card = CardProcess::start_with(site.directory.path(), &["--control"]);
        let address = card.address().to_string();
        let mut command = site.command(backend::start(Kind::Echo).unwrap());
        command.args(options).args(["--card", &address]);
        command.envs(environment.iter().copied());
        let serving = Serving::start(command).unwrap();
        Self {
            site,
            card,
            serving,
            clients,
            connected: 0,
        }
    }

    fn wait_for_card(&self) {
        let ready = |it: &Value| it["accelerators"][0]["breaker"] == "closed";
        self.serving.wait_for_report(ready).unwrap();
    }

    /// Shakes hands until the card has made more signatures than `before`. On a busy machine it may be
    /// given up a few times, and comes back.
    fn wait_for_signature_after(&self, before: u64) {
        let signs = (0..30).any(|_| {
            self.wait_for_card();
            self.site.connect(&self.serving);
            count(&self.serving.wait_for_report(|_| true).unwrap(), "card") > before
        });
        assert!(signs, "the card never signs");
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
        let (report, all) = self.survive_until(|stage, count| {
            meddle(stage, count);
            if count < ENOUGH {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        let longest = all.iter().map(|it| it.took).max().unwrap();
        assert!(longest < PATIENT, "{longest:?}");
        let last = all.iter().map(|it| it.ended).max().unwrap();
        assert!(last < 4 * PATIENT, "they came to a standstill: {last:?}");
        report
    }

    /// The same until `meddle` has seen enough, however long that takes. Returns the handshakes as well.
    fn survive_until(
        &mut self,
        mut meddle: impl FnMut(&mut Self, usize) -> ControlFlow<()>,
    ) -> (Value, Vec<Handshake>) {
        let (server, client) = (self.serving.address, self.site.client());
        let mut count = 0;
        let all = run(server, &client, self.clients, |_| {
            count += 1;
            meddle(self, count)
        });
        let failed: Vec<&Handshake> = all.iter().filter(|it| it.outcome.is_err()).collect();
        assert!(failed.is_empty(), "{failed:?}");
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
        (report, all)
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
    stage.wait_for_signature_after(before);
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
fn a_card_that_gets_what_pays_and_is_late_now_and_then_is_hedged_and_costs_no_handshake() {
    // How many had been hedged before one was late on purpose.
    let mut late_from = None;
    let deadline = SystemClock.now().plus(LATE_WITHIN);
    let (report, all) = Stage::weighed().survive_until(|stage, number| {
        if !number.is_multiple_of(100) {
            return ControlFlow::Continue(());
        }
        let report = stage.serving.wait_for_report(|_| true).unwrap();
        let is_known = count(&report, "card") >= KNOWN_AFTER;
        let hedged = count(&report, "hedged");
        if hedged > late_from.unwrap_or(u64::MAX) || SystemClock.now() > deadline {
            return ControlFlow::Break(());
        }
        // Once it is known what answers take: one is later than all others by far, and than any client
        // would wait for.
        if is_known {
            late_from.get_or_insert(hedged);
            stage.order(&["inject", "late-completion=30s", "--times", "1"]);
        }
        ControlFlow::Continue(())
    });
    let longest = all.iter().map(|it| it.took).max().unwrap();
    assert!(longest < PATIENT, "{longest:?}");
    assert!(count(&report, "card") >= KNOWN_AFTER, "{report}");
    assert!(count(&report, "hedged") > 0, "{report}");
    // What pays is a part of all.
    assert!(count(&report, "submitted") < report["handshakes"]["completed"].as_u64().unwrap());
    for nothing in ["wrong_answers", "refused", "timed_out"] {
        assert_eq!(count(&report, nothing), 0, "{report}");
    }
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
    let socket = site.directory.path().join("card.sock");
    fs::write(&socket, "no socket").unwrap();
    let told = serving
        .wait_for_error(&format!("{address} is still not used: "))
        .unwrap();
    assert_eq!(told.matches("no such socket").count(), 1, "{told}");
    fs::remove_file(&socket).unwrap();
    let mut card = CardProcess::start(site.directory.path());
    serving
        .wait_for_error(&format!("hwshim: {address} is used again"))
        .unwrap();
    card.process.kill().unwrap();
    let is_twice = |errors: &str| errors.matches(&format!("{address} is not used: ")).count() == 2;
    serving.wait_for_errors(is_twice).unwrap();
}
