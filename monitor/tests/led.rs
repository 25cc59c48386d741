//! `cardmon led` against a simulated card with an owner, and against a page that the test publishes.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod served;

use card_spec::health::{self, LED_EDGES_MAX, LedEdge, Summary};
use card_spec::telemetry::{Page, padded};
use hwshim::clock::Instant;
use hwshim::telemetry::Publisher;
use monitor::config::Config;
use monitor::led::Agreement;
use monitor::services::ServiceTime;
use monitor::status::{LoadFigures, Status};
use monitor::watch::{Settings, Watch};
use serde_json::Value;
use served::serve;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use zerocopy::{FromZeros, IntoBytes};

const CARDMON: &str = env!("CARGO_BIN_EXE_cardmon");
const CARD: &str = "software:ring";

/// A card that has spelled SOS and letters, with dots of 200 ms.
struct Card {
    publisher: Publisher,
    page: Page,
    health: Summary,
}

impl Card {
    fn new(directory: &Path) -> Self {
        Self::at(directory, CARD)
    }

    fn at(directory: &Path, address: &str) -> Self {
        let mut health = Summary::new_zeroed();
        health.magic = health::MAGIC.into();
        health.version = health::VERSION.into();
        let mut page = Page::new();
        page.owner.address = padded(address);
        Self {
            publisher: Publisher::create(directory, address).unwrap(),
            page,
            health,
        }
    }

    fn change(&mut self, after_ms: u64) {
        let uptime_ms = self.health.uptime_ms.get() + after_ms;
        let count = self.health.led_edge_count.get();
        let edge = LedEdge::new()
            .with_uptime_ms(u32::try_from(uptime_ms).unwrap())
            .with_lit(count.is_multiple_of(2));
        self.health.led_edges[usize::try_from(count).unwrap() % LED_EDGES_MAX] =
            edge.into_bits().into();
        self.health.led_edge_count = (count + 1).into();
        self.health.uptime_ms = uptime_ms.into();
    }

    fn spell(&mut self, letters: &[&str]) {
        for letter in letters {
            for (index, mark) in letter.chars().enumerate() {
                self.change(if index == 0 { 600 } else { 200 });
                self.change(if mark == '.' { 200 } else { 600 });
            }
        }
    }

    fn publish(&mut self) {
        self.page.card.health_reads += 1;
        self.page.health.copy_from_slice(self.health.as_bytes());
        self.publisher.publish(&self.page).unwrap();
    }
}

fn led(directory: &Path, more: &[&str]) -> Output {
    Command::new(CARDMON)
        .args(["led", CARD, "--telemetry"])
        .arg(directory)
        .args(more)
        .output()
        .unwrap()
}

#[test]
fn edges_come_as_they_happen_and_a_light_is_drawn_and_read() {
    let directory = tempfile::tempdir().unwrap();
    let mut card = Card::new(directory.path());
    card.publish();
    let mut child = Command::new(CARDMON)
        .args([
            "led",
            CARD,
            "--trace",
            "--for",
            "120s",
            "--json",
            "--profile",
            "nfast-500",
            "--telemetry",
        ])
        .arg(directory.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    // It may look only after the first edges; all are in the log then.
    for _ in 0..4 {
        card.change(3_300);
        card.change(200);
        card.publish();
        let (on, off) = (next(), next());
        assert_eq!((&on["lit"], &off["lit"]), (&true.into(), &false.into()));
        let uptime = off["uptime_seconds"].as_f64().unwrap();
        assert_eq!(
            uptime,
            f64::from(u32::try_from(card.health.uptime_ms.get()).unwrap()) / 1e3
        );
        assert_eq!(off["after_seconds"], 0.2);
    }
    card.health.boot_id = 7.into();
    card.publish();
    assert_eq!(next()["event"], "gap");
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&child),
        rustix::process::Signal::INT,
    )
    .unwrap();
    let summary = loop {
        let line = next();
        if line["event"] == "summary" {
            break line;
        }
    };
    assert!(summary["gaps"].as_u64().unwrap() >= 1, "{summary}");
    assert_eq!(summary["read"][0]["profile"], "nfast-500");
    assert!(summary["blocks"].as_str().unwrap().contains('█'));
    assert!(child.wait().unwrap().success());
}

#[test]
fn letters_are_shown_as_spelled_and_only_b1_has_a_meaning() {
    for (code, letters, meaning) in [
        (["-...", ".----"], "B1", "battery"),
        ([".-", ".-"], "AA", ""),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let mut card = Card::new(directory.path());
        card.publish();
        let mut child = Command::new(CARDMON)
            .args([
                "led",
                CARD,
                "--trace",
                "--for",
                "120s",
                "--profile",
                "nshield",
                "--telemetry",
            ])
            .arg(directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut told = 0;
        // The log holds 29 edges, so each word is published, and waited for until it was told.
        for _ in 0..3 {
            for word in [&["...", "---", "..."][..], &code] {
                card.change(1_400);
                card.change(if word[0].starts_with('.') { 200 } else { 600 });
                card.spell_rest(word);
                card.publish();
                while told < card.health.led_edge_count.get() {
                    let line = lines.next().unwrap().unwrap();
                    assert!(line.contains(" on") || line.contains(" off"), "{line}");
                    told += 1;
                }
            }
        }
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let rest: Vec<_> = lines.map(Result::unwrap).collect();
        let read = rest.last().unwrap();
        assert!(
            read.contains(&format!("nshield: SOS-{letters}")),
            "{rest:#?}"
        );
        assert!(
            read.contains(&format!("spelled after SOS: {letters}")),
            "{read}"
        );
        assert_eq!(read.contains("battery"), !meaning.is_empty(), "{read}");
        assert!(child.wait().unwrap().success());
    }
}

impl Card {
    /// A word whose first mark has been made.
    fn spell_rest(&mut self, word: &[&str]) {
        for mark in word[0].chars().skip(1) {
            self.change(200);
            self.change(if mark == '.' { 200 } else { 600 });
        }
        self.spell(&word[1..]);
    }
}

#[test]
fn what_is_in_the_log_is_read_at_once_as_each_light_there_is() {
    let directory = tempfile::tempdir().unwrap();
    let mut card = Card::new(directory.path());
    for _ in 0..6 {
        card.change(3_300);
        card.change(200);
    }
    card.publish();
    let output = led(directory.path(), &[]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("12 edges, 0 gaps"), "{text}");
    assert!(text.contains("nobody said"), "{text}");
    assert!(
        text.contains(
            "nfast-500: operational; 0 of the last 5 intervals are outliers, 4 are too many"
        ),
        "{text}"
    );
    assert!(text.contains("nshield: "), "{text}");
    let json = led(directory.path(), &["--json", "--profile", "nfast-500"]).stdout;
    let last = String::from_utf8(json)
        .unwrap()
        .lines()
        .last()
        .unwrap()
        .to_owned();
    let summary: Value = serde_json::from_str(&last).unwrap();
    assert_eq!(summary["read"][0]["reading"], "operational");
    assert_eq!(summary["edges"], 12);
}

#[test]
fn a_card_without_a_page_or_a_light_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let absent = led(directory.path(), &[]);
    assert_eq!(absent.status.code(), Some(1));
    assert!(
        String::from_utf8(absent.stderr)
            .unwrap()
            .contains("no owner of that card has run here")
    );
    let mut card = Card::new(directory.path());
    card.publisher.publish(&card.page).unwrap();
    let unread = led(directory.path(), &[]);
    assert!(
        String::from_utf8(unread.stderr)
            .unwrap()
            .contains("has read no health page yet")
    );
    card.publish();
    assert!(led(directory.path(), &[]).status.success());
}

/// Two cards of one host, of which one has a light of its own.
const LIGHTS: &str = "[watch]\nlight = 'nshield'\n\
    [[card]]\naddress = 'software:ring'\nlight = 'nfast-500'\n";

#[test]
fn each_card_is_led_and_shown_by_the_light_that_the_configuration_has_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("cardmon.toml");
    // Of a card on the bus it can be told that it is not there.
    let missing = "pci:fffe:ff:1f.7";
    let absent = format!("[[card]]\naddress = '{missing}'\nlight = 'none'\n");
    fs::write(&file, format!("{LIGHTS}{absent}")).unwrap();
    let pages = directory.path().join("pages");
    for address in [CARD, "software:other"] {
        let mut card = Card::at(&pages, address);
        for _ in 0..6 {
            card.change(3_300);
            card.change(200);
        }
        card.publish();
    }
    let cardmon = |arguments: &[&str]| {
        let output = Command::new(CARDMON)
            .args(arguments)
            .args(["--json", "--config"])
            .arg(&file)
            .arg("--telemetry")
            .arg(&pages)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let complaint = String::from_utf8(output.stderr).unwrap();
        let last = text.lines().last().unwrap_or_else(|| panic!("{complaint}"));
        (serde_json::from_str::<Value>(last).unwrap(), complaint)
    };
    for (address, profile) in [(CARD, "nfast-500"), ("software:other", "nshield")] {
        let (led, _) = cardmon(&["led", address]);
        let read = led["read"].as_array().unwrap();
        assert_eq!(read.len(), 1, "{led}");
        assert_eq!(read[0]["profile"], profile, "{led}");
    }
    let run = [
        "run",
        "--no-history",
        "--for",
        "1s",
        "--listen",
        "127.0.0.1:0",
    ];
    let (status, complaint) = cardmon(&run);
    let says = format!("warning: {missing} of a [[card]] is no function of this host");
    assert!(complaint.contains(&says), "{complaint}");
    assert!(!complaint.contains(CARD), "{complaint}");
    let lights = status["cards"].as_array().unwrap().iter();
    let lights: Vec<_> = lights
        .map(|it| (&it["card"], &it["light"]["profile"]))
        .collect();
    let (ring, other) = (&CARD.into(), &"software:other".into());
    let (nfast, nshield) = (&"nfast-500".into(), &"nshield".into());
    assert_eq!(lights, [(other, nshield), (ring, nfast)], "{status}");
}

/// What is shown after half a minute in which the lights of both cards were lit and nothing else.
fn lit_for_half_a_minute(directory: &Path) -> Status {
    let config = Config::parse(LIGHTS, Path::new("cardmon.toml")).unwrap();
    let mut watch = Watch::new(Settings {
        telemetry: directory.to_owned(),
        root: directory.to_owned(),
        limits: config.limits,
        cards: config.cards,
        listen: config.listen,
        simulation: None,
        services: Vec::new(),
        service_time: ServiceTime::REAL,
    });
    let mut cards = [CARD, "software:other"].map(|address| {
        let mut card = Card::at(directory, address);
        card.change(0);
        card
    });
    let poll = |second| {
        for card in &mut cards {
            card.health.uptime_ms += 1_000;
            card.publish();
        }
        let now = Instant::ORIGIN.plus(Duration::from_secs(second));
        watch.poll(now).status
    };
    (1..30).map(poll).last().unwrap()
}

#[test]
fn a_light_that_is_lit_and_does_not_blink_is_a_fault_of_the_card_whose_light_should() {
    let directory = tempfile::tempdir().unwrap();
    let status = lit_for_half_a_minute(directory.path());
    let [other, ring] = &status.cards[..] else {
        panic!("two cards: {status:?}");
    };
    for (card, is_fault, says) in [
        (ring, true, "lit, and does not blink"),
        (other, false, "operational"),
    ] {
        let light = card.light.as_ref().unwrap();
        assert_eq!((light.is_fault, &*light.says), (is_fault, says));
        let evidence = &card.assessment.as_ref().unwrap().evidence;
        let fault = evidence.iter().any(|it| it.code == "led-fault" && it.seen);
        assert_eq!(fault, is_fault, "{evidence:?}");
        assert_eq!(card.codes.contains(&19), is_fault, "{:?}", card.codes);
    }
    let shown = monitor::text::block(&status).join("\n");
    assert!(
        shown.contains("    light (nfast-500): lit, and does not blink"),
        "{shown}"
    );
    let metrics = monitor::metrics::text(&status.into());
    for line in [
        "cardmon_card_light_fault{card=\"software:ring\",profile=\"nfast-500\"} 1.0\n",
        "cardmon_card_light_fault{card=\"software:other\",profile=\"nshield\"} 0.0\n",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}

#[test]
fn what_a_monitor_makes_of_light_and_load_is_told_beside_what_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let mut status = lit_for_half_a_minute(directory.path());
    let light = status.cards[1].light.as_mut().unwrap();
    light.load = Some(LoadFigures {
        share: 0.73,
        light: Agreement::Disagrees,
    });
    let url = format!("http://{}", serve(status));
    let text = led(directory.path(), &["--url", &url]).stdout;
    let text = String::from_utf8(text).unwrap();
    let says = "the monitor: light (nfast-500): lit, and does not blink; \
                the card is said to be 73 % busy, as which it does not blink\n";
    assert!(text.ends_with(says), "{text}");
    let json = led(directory.path(), &["--json", "--url", &url]).stdout;
    let json = String::from_utf8(json).unwrap();
    let summary: Value = serde_json::from_str(json.lines().last().unwrap()).unwrap();
    assert_eq!(summary["monitor"]["load"]["light"], "disagrees");
    // Without one, the log is read as ever.
    let alone = led(directory.path(), &["--json", "--url", "http://127.0.0.1:1"]);
    assert!(alone.status.success(), "{alone:?}");
    assert!(
        String::from_utf8(alone.stdout)
            .unwrap()
            .contains("\"monitor\":null")
    );
}
