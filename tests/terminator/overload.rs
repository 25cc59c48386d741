//! More clients than cards take, and than software has time for: what finds no room is signed where
//! there is some, no client is refused, and what waits is bounded.

use crate::authority::Key;
use crate::backend::{self, Kind};
use crate::common::{CardProcess, program};
use crate::operation::{exchange, pause, stats};
use crate::serving::Serving;
use crate::{Site, load};
use hwshim::accelerator::software::sign;
use hwshim::kat;
use hwshim::key::SignatureScheme;
use rustix::time::{ClockId, Timespec, clock_gettime};
use rustls::{ClientConnection, StreamOwned};
use serde_json::Value;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Queue of a card in which eight requests have room, of two descriptors each.
const SMALL: &[&str] = &["--queue-size", "16"];
const SMALL_ROOM: u64 = 8;
/// What a terminator gives a card whose queue has room for it.
const LARGE: &[&str] = &["--queue-size", "512"];

/// A terminator before cards that have signed, and say nothing any more.
struct Stage {
    site: Site,
    cards: Vec<CardProcess>,
    serving: Serving,
    /// What it had counted before.
    before: Value,
}

impl Stage {
    fn set(key: Key, cards: &[&[&str]]) -> Self {
        let site = Site::with(key);
        let directories: Vec<_> = (0..cards.len()).map(|it| directory(&site, it)).collect();
        let cards: Vec<_> = std::iter::zip(&directories, cards)
            .map(|(directory, options)| start(directory, options))
            .collect();
        let mut command = site.command(backend::start(Kind::Echo).unwrap());
        // What a card has, it has until it is gone.
        command.args(["--always", "--card-timeout", "1h"]);
        command.args(["--handshake-timeout", "1h"]);
        for card in &cards {
            command.args(["--card", &card.address().to_string()]);
        }
        // Software has one core, on whatever machine.
        command.env("TOKIO_WORKER_THREADS", "1");
        let serving = Serving::start(command).unwrap();
        let each = |report: &Value, wanted: fn(&Value) -> bool| {
            let mut cards = report["accelerators"].as_array().unwrap().iter();
            cards.all(wanted)
        };
        serving
            .wait_for_report(|it| each(it, |card| card["breaker"] == "closed"))
            .unwrap();
        // Each has a session for the key from then on. Of those that come alone one card has all.
        let client = site.client();
        let have_signed = (0..100).any(|_| {
            let begin = |_| load::begin(serving.address, &client).unwrap();
            let begun: Vec<_> = (0..16).map(begin).collect();
            for client in begun {
                exchange(&mut load::finish(client).unwrap(), b"before");
            }
            let report = serving.wait_for_report(|_| true).unwrap();
            each(&report, |card| card["requests"]["card"].as_u64() > Some(0))
        });
        assert!(have_signed);
        for directory in &directories {
            silence(directory);
        }
        let before = serving.wait_for_report(|_| true).unwrap();
        Self {
            site,
            cards,
            serving,
            before,
        }
    }

    /// Clients that have said that they want to shake hands.
    fn begin(&self, clients: usize) -> Vec<StreamOwned<ClientConnection, TcpStream>> {
        let (server, config) = (self.serving.address, self.site.client());
        let begin = |_| load::begin(server, &config).unwrap();
        (0..clients).map(begin).collect()
    }

    /// What it has counted under `name` since.
    fn since(&self, report: &Value, name: &str) -> u64 {
        signatures(report, name) - signatures(&self.before, name)
    }

    /// Has each of `begun` shake hands, which verifies what it is signed. Returns what was counted.
    fn finish(&self, begun: Vec<StreamOwned<ClientConnection, TcpStream>>) -> Value {
        let completed = |it: &Value| it["handshakes"]["completed"].as_u64().unwrap();
        let all = completed(&self.serving.wait_for_report(|_| true).unwrap());
        let all = all + u64::try_from(begun.len()).unwrap();
        for client in begun {
            exchange(&mut load::finish(client).unwrap(), b"served");
        }
        let is_over = |it: &Value| completed(it) == all && signatures(it, "in_flight") == 0;
        let report = self.serving.wait_for_report(is_over).unwrap();
        assert_eq!(report["handshakes"]["failed"], 0, "{report}");
        let ends = ["card", "software", "refused"].map(|name| signatures(&report, name));
        let ends = ends.iter().sum::<u64>();
        assert_eq!(signatures(&report, "submitted"), ends, "{report}");
        report
    }
}

fn directory(site: &Site, card: usize) -> PathBuf {
    site.directory.path().join(format!("card-{card}"))
}

fn start(directory: &Path, options: &[&str]) -> CardProcess {
    fs::create_dir_all(directory).unwrap();
    CardProcess::start_with(directory, &[options, &["--control"]].concat())
}

/// No answer of the card in `directory` comes any more.
fn silence(directory: &Path) {
    let status = Command::new(program("firmware-sim"))
        .args(["inject", "dropped-completion", "--control"])
        .arg(directory.join("card.sock.control"))
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
}

fn signatures(report: &Value, name: &str) -> u64 {
    report["signatures"][name].as_u64().unwrap()
}

#[test]
fn what_a_card_has_no_room_for_comes_from_software_and_so_does_what_it_never_answers() {
    const CLIENTS: usize = 40;
    let mut stage = Stage::set(Key::Rsa2048, &[SMALL]);
    let clients = stage.begin(CLIENTS);
    let all = u64::try_from(CLIENTS).unwrap();
    // What software has is in flight as well, until it is done.
    let is_full = |it: &Value| {
        let [submitted, shed, software] =
            ["submitted", "shed", "software"].map(|name| stage.since(it, name));
        submitted == all && software == shed
    };
    let full = stage.serving.wait_for_report(is_full).unwrap();
    let in_flight = signatures(&full, "in_flight");
    // A test of the card's may have taken one place.
    assert!((SMALL_ROOM - 1..=SMALL_ROOM).contains(&in_flight), "{full}");
    assert_eq!(stage.since(&full, "shed"), all - in_flight, "{full}");
    assert_eq!(stage.since(&full, "software"), all - in_flight, "{full}");

    stage.cards[0].process.kill().unwrap();
    stage.cards[0].process.wait().unwrap();
    let report = stage.finish(clients);
    assert_eq!(stage.since(&report, "fallbacks"), in_flight, "{report}");
    assert_eq!(signatures(&report, "refused"), 0, "{report}");
    let shed = signatures(&report, "shed");
    let is_published = (0..100).any(|_| {
        pause(Duration::from_millis(100));
        let requests = &stats(&stage.site)["requests"];
        requests["shed"] == shed && requests["overloaded"] == 0
    });
    assert!(is_published, "{report}");

    stage.cards[0] = start(&directory(&stage.site, 0), SMALL);
    let is_used = |it: &Value| it["accelerators"][0]["breaker"] == "closed";
    stage.serving.wait_for_report(is_used).unwrap();
    let report = stage.finish(stage.begin(1));
    assert!(stage.since(&report, "card") > 0, "{report}");
}

/// RSA-4096 signatures that are work for one core for twice as long as work may wait, or as many as cards
/// have room for. By the time of the processor, so that who else is busy decides nothing.
fn signatures_of_two_seconds() -> usize {
    const CLIENTS_MAX: usize = 640;
    let cpu_time = || {
        let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(tv_sec.cast_unsigned(), u32::try_from(tv_nsec).unwrap())
    };
    let took = |_| {
        let began = cpu_time();
        sign(&kat::rsa_4096_key(), SignatureScheme::RsaPssSha256, b"").unwrap();
        cpu_time() - began
    };
    // The first reads the key as well.
    let shortest = (0..8).map(took).min().unwrap();
    let count = Duration::from_secs(2).as_nanos() / shortest.as_nanos().max(1);
    usize::try_from(count).map_or(CLIENTS_MAX, |count| count.min(CLIENTS_MAX))
}

#[test]
fn what_software_has_no_time_for_either_is_counted_and_signed_all_the_same() {
    const IN_FLIGHT_MAX: u64 = 3 * 256 + SMALL_ROOM;
    let clients = signatures_of_two_seconds();
    let mut stage = Stage::set(Key::Rsa4096, &[SMALL, LARGE, LARGE, LARGE]);
    let all = u64::try_from(clients).unwrap();
    let mut clients = stage.begin(clients);
    let full = stage
        .serving
        .wait_for_report(|it| stage.since(it, "submitted") == all)
        .unwrap();
    let in_flight = signatures(&full, "in_flight");
    assert!(
        in_flight >= all - SMALL_ROOM && in_flight <= IN_FLIGHT_MAX,
        "{full}"
    );

    // All that three had comes back to software at once, and the fourth is in use, and full.
    for card in &mut stage.cards[1..] {
        card.process.kill().unwrap();
        card.process.wait().unwrap();
    }
    for _ in 0..64 {
        clients.append(&mut stage.begin(1));
        pause(Duration::from_millis(10));
    }
    let is_refused = |it: &Value| stage.since(it, "overloaded") > 0;
    stage.serving.wait_for_report(is_refused).unwrap();
    stage.cards[0].process.kill().unwrap();
    stage.cards[0].process.wait().unwrap();
    let report = stage.finish(clients);
    assert_eq!(
        signatures(&report, "refused"),
        signatures(&report, "overloaded"),
        "{report}"
    );
    exchange(&mut stage.site.connect(&stage.serving), b"serves on");
}
