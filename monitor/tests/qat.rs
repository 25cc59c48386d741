//! A QAT card whose firmware gives no sign of life, in a captured tree: what is said of it to people,
//! programs and plugins, and that an operator who wants it without work is alarmed by none of that.
//!
//! Nothing moves in a tree by itself, and who asks a driver which was not asked learns nothing; so a
//! thread counts its questions up, as a driver does that somebody else asks as well.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod served;

use hwshim::clock::{Clock, Instant, SystemClock};
use monitor::control::Drained;
use monitor::history::{BootId, Event, Seq, Stamp};
use monitor::record::{Beside, HostWatch, Recorder};
use monitor::services::ServiceTime;
use monitor::status::{IncidentFigures, Status};
use monitor::verdict::Limits;
use monitor::watch::{Poll, Settings, Watch};
use serde_json::Value;
use served::serve;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

const CARDMON: &str = env!("CARGO_BIN_EXE_cardmon");
const CARD: &str = "pci:0000:6b:00.0";
const HEARTBEAT: &str = "sys/kernel/debug/qat_4xxx_0000:6b:00.0/heartbeat";
/// Longer than anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Told time between two polls: more than between two looks.
const STEP: Duration = Duration::from_secs(6);

/// The captured tree, laid out in files.
fn tree() -> TempDir {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/trees/qat-4xxx");
    let text = fs::read_to_string(path).unwrap();
    let tree = tempfile::tempdir().unwrap();
    for part in text.split("== ").skip(1) {
        let (head, content) = part.split_once('\n').unwrap();
        let (path, target) = head.split_once(" -> ").unwrap_or((head, ""));
        let path = tree.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match target {
            "" => fs::write(path, content).unwrap(),
            target => symlink(target, path).unwrap(),
        }
    }
    tree
}

/// Who watches what is in the tree.
fn watch(tree: &TempDir) -> Watch {
    let nowhere = tree.path().join("pages");
    fs::create_dir(&nowhere).unwrap();
    Watch::new(Settings {
        telemetry: nowhere,
        root: tree.path().to_owned(),
        limits: Limits {
            poll_interval: STEP,
            ..Limits::default()
        },
        cards: Vec::new(),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        simulation: None,
        services: Vec::new(),
        service_time: ServiceTime::REAL,
    })
}

/// What is watched in the tree until the driver has said that the card gives no sign of life.
fn unresponsive(tree: &TempDir) -> Poll {
    let mut watch = watch(tree);
    let is_seen = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let counters = ["queries_sent", "queries_failed"].map(|name| {
                let path = tree.path().join(HEARTBEAT).join(name);
                File::options().write(true).open(path).unwrap()
            });
            for count in 100_u64.. {
                for counter in &counters {
                    let text = format!("{count:010}");
                    counter.write_all_at(text.as_bytes(), 0).unwrap();
                }
                if is_seen.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let (mut now, begun) = (Instant::ORIGIN, SystemClock.now());
        let poll = loop {
            now = now.plus(STEP);
            watch.poll(now);
            // By then it has looked, mostly; else the next time.
            let looks_until = SystemClock.now().plus(Duration::from_millis(10));
            while SystemClock.now() < looks_until {
                thread::yield_now();
            }
            let poll = watch.poll(now.plus(Duration::from_secs(1)));
            let responds = poll.status.qat.first().and_then(|card| card.responds);
            if responds == Some(false) || SystemClock.now().since(begun) > PATIENCE {
                break poll;
            }
        };
        is_seen.store(true, Ordering::Relaxed);
        poll
    })
}

/// What becomes of it where orders are known, and what is recorded.
fn with_orders(poll: &Poll, drained: &BTreeMap<String, Drained>) -> (Status, Vec<Event>) {
    let now = Stamp::now(&SystemClock, BootId::of_this_boot());
    let host = HostWatch::new(Duration::from_secs(1), now.monotonic);
    let mut recorder = Recorder::new(host, Vec::new(), now);
    let mut poll = poll.clone();
    let beside = Beside {
        late: Duration::ZERO,
        drained,
        window: false,
        history: None,
        history_codes: &[],
        orders: &[],
    };
    let events = recorder.poll(&mut poll, &beside, now);
    (poll.status, events)
}

/// What a subcommand prints, and its exit status.
fn cardmon(address: SocketAddr, arguments: &[&str]) -> (String, Option<i32>) {
    let output = Command::new(CARDMON)
        .args(arguments)
        .args(["--url", &format!("http://{address}")])
        .output()
        .unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    (out, output.status.code())
}

/// What is answered to who asks for one card.
fn get(address: SocketAddr, card: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let path = format!("/api/v1/status?card={card}");
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn metric(status: &Status, name: &str) -> String {
    let text = monitor::metrics::text(&Arc::new(status.clone()));
    let mut lines = text.lines();
    let line = lines.find(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with([' ', '{']))
    });
    let value = line.and_then(|line| line.rsplit_once(' '));
    value.unwrap_or_else(|| panic!("{text}")).1.to_owned()
}

fn kinds(events: &[Event]) -> Vec<(&str, String)> {
    let of_card = events.iter().filter(|event| event.subject == CARD);
    of_card
        .map(|event| (&*event.kind, format!("{:?}", event.severity)))
        .collect()
}

#[test]
fn a_qat_card_that_gives_no_sign_of_life_alarms_everybody_but_who_has_drained_it() {
    let tree = tree();
    let poll = unresponsive(&tree);
    let (status, events) = with_orders(&poll, &BTreeMap::new());
    assert_eq!(metric(&status, "cardmon_qat_responds"), "0.0");
    assert_eq!(metric(&status, "cardmon_qat_drained"), "0.0");
    assert_eq!(metric(&status, "cardmon_qat_in_flight"), "1.0");
    let open = status.incidents.iter().filter(|it| it.open).count();
    assert_eq!(open, 1, "{:?}", status.incidents);
    let alarmed = ("warning", "Warning".to_owned());
    assert!(kinds(&events).contains(&alarmed), "{events:?}");
    let address = serve(status);
    let (shown, _) = cardmon(address, &["status"]);
    assert!(shown.contains("unresponsive"), "{shown}");
    assert!(!shown.contains("drained"), "{shown}");
    for arguments in [&["check"][..], &["check", "--card", CARD]] {
        let (line, code) = cardmon(address, arguments);
        assert!(line.starts_with("CARDMON WARNING - "), "{line}");
        assert!(line.contains("no sign of life"), "{line}");
        assert_eq!(code, Some(1));
    }

    let order = Drained {
        event: Seq(7),
        by: "user 0".to_owned(),
        since: Stamp::now(&SystemClock, BootId::of_this_boot()),
    };
    let (status, events) = with_orders(&poll, &BTreeMap::from([(CARD.to_owned(), order)]));
    assert_eq!(metric(&status, "cardmon_qat_responds"), "0.0");
    assert_eq!(metric(&status, "cardmon_qat_drained"), "1.0");
    assert!(status.incidents.is_empty(), "{:?}", status.incidents);
    let quiet = ("warning", "Notice".to_owned());
    assert!(kinds(&events).contains(&quiet), "{events:?}");
    let address = serve(status);
    let (shown, _) = cardmon(address, &["status"]);
    let says = "drained by user 0 ";
    assert!(
        shown.contains(says) && shown.contains("otherwise at fault: card"),
        "{shown}"
    );
    let (json, _) = cardmon(address, &["status", "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    let card = &json["qat"][0];
    assert_eq!(
        (&card["cause"], &card["responds"]),
        (&"none".into(), &false.into())
    );
    assert_eq!(card["drained"]["otherwise_cause"], "card");
    let of_card = get(address, CARD);
    assert!(of_card.starts_with("HTTP/1.1 200 "), "{of_card}");
    assert!(of_card.contains(r#""otherwise_cause":"card""#), "{of_card}");
    let of_another = get(address, "pci:0000:00:1f.6");
    assert!(of_another.starts_with("HTTP/1.1 404 "), "{of_another}");
    for arguments in [&["check"][..], &["check", "--card", CARD]] {
        let (line, code) = cardmon(address, arguments);
        assert!(line.starts_with("CARDMON OK - "), "{line}");
        assert!(line.contains(", 1 drained"), "{line}");
        assert_eq!(code, Some(0));
    }
}

/// What is watched in the tree from `now` on, until that is `seen`.
fn watched_until(watch: &mut Watch, now: &mut Instant, seen: impl Fn(&Status) -> bool) -> Poll {
    let begun = SystemClock.now();
    loop {
        *now = now.plus(STEP);
        let poll = watch.poll(*now);
        if seen(&poll.status) || SystemClock.now().since(begun) > PATIENCE {
            return poll;
        }
        // By the next poll it has looked, mostly; else the time after.
        let looks_until = SystemClock.now().plus(Duration::from_millis(10));
        while SystemClock.now() < looks_until {
            thread::yield_now();
        }
    }
}

#[test]
fn a_qat_card_whose_link_fails_is_not_blamed_for_it_and_check_warns() {
    let tree = tree();
    let totals = |fatal: u32| {
        let device = tree.path().join("sys/bus/pci/devices/0000:6b:00.0");
        for (file, text) in [
            ("aer_dev_correctable", "TOTAL_ERR_COR 0\n".to_owned()),
            ("aer_dev_nonfatal", "TOTAL_ERR_NONFATAL 0\n".to_owned()),
            ("aer_dev_fatal", format!("TOTAL_ERR_FATAL {fatal}\n")),
        ] {
            fs::write(device.join(file), text).unwrap();
        }
    };
    totals(0);
    let (mut watch, mut now) = (watch(&tree), Instant::ORIGIN);
    let card = |status: &Status| status.qat.first().map(|it| it.function.clone());
    let is_read = |status: &Status| card(status).is_some_and(|it| it.link.is_some());
    let well = watched_until(&mut watch, &mut now, is_read);
    assert_eq!(card(&well.status).unwrap().cause.name(), "none");
    totals(1);
    let is_named = |status: &Status| card(status).is_some_and(|it| it.cause.name() != "none");
    let poll = watched_until(&mut watch, &mut now, is_named);
    let (status, events) = with_orders(&poll, &BTreeMap::new());
    let found = card(&status).unwrap();
    assert_eq!((found.cause.name(), &found.codes[..]), ("link", &[21][..]));
    // Whatever else is, as on a host that is busy with other tests.
    let of_card = |it: &&IncidentFigures| it.symptoms.iter().any(|it| it.subject == CARD);
    let incidents: Vec<_> = status.incidents.iter().filter(of_card).collect();
    assert_eq!(incidents.len(), 1, "{incidents:?}");
    assert_eq!(incidents[0].cause.name(), "link");
    assert!(kinds(&events).contains(&("warning", "Warning".to_owned())));
    let address = serve(status);
    let (line, code) = cardmon(address, &["check"]);
    assert_eq!(code, Some(1), "{line}");
    assert!(line.contains(&format!("; {CARD} (link): ")), "{line}");
    let (why, _) = cardmon(address, &["diagnose", CARD]);
    assert!(why.starts_with(&format!("{CARD}: at fault: link")), "{why}");
}
