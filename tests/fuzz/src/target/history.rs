//! The bytes of a history's files, as a failing disk or a stranger might leave them.

use super::{assert_harmless, scratch_directory};
use hwshim::clock::Instant;
use monitor::history::{
    Anchor, BootId, EVENTS_FILE, Event, Events, Filter, Place, Reader, SAMPLES_FILE, Samples,
    Stamp, Tier, WallTime,
};
use std::fs;
use std::path::Path;

/// Which file the rest of an input is.
const EVENTS: u8 = 0;
const SAMPLES: u8 = 1;
const ANCHOR: u8 = 2;

pub(crate) fn run(input: &[u8]) {
    let Some((which, bytes)) = input.split_first() else {
        return;
    };
    match which % 3 {
        EVENTS => events(bytes),
        SAMPLES => samples(bytes),
        _ => anchor(bytes),
    }
}

fn events(bytes: &[u8]) {
    let directory = scratch_directory();
    let file = directory.path().join(EVENTS_FILE);
    fs::write(&file, bytes).expect("the scratch directory is writable");
    if let Ok(reader) = Reader::open(directory.path()) {
        let audit = reader.verify(&[]);
        let read = reader.query(&Filter::default());
        match audit {
            Ok(audit) => match &audit.finding {
                Some(finding) => assert_harmless(&finding.to_string()),
                None => {
                    let unproven = audit.unproven.iter();
                    unproven.for_each(|it| assert_harmless(&it.told("here")));
                    let read = read.expect("what passes an audit can be read");
                    assert_eq!(read.len() as u64, audit.events);
                }
            },
            Err(error) => assert_harmless(&error.to_string()),
        }
    }
    match Events::open(&Place::new(directory.path()), Vec::new()) {
        Ok(mut events) => drop(events.append(&[event()])),
        Err(error) => {
            assert_harmless(&error.to_string());
            let left = fs::read(&file).expect("it is still there");
            assert!(
                !error.is_damage() || left == bytes,
                "a damaged file was changed"
            );
        }
    }
}

fn samples(bytes: &[u8]) {
    let directory = scratch_directory();
    let file = directory.path().join(SAMPLES_FILE);
    fs::write(&file, bytes).expect("the scratch directory is writable");
    let now = WallTime::from_unix_millis(1_795_000_000_000);
    match Samples::open(&Place::new(directory.path()), now) {
        Ok(opened) => {
            let mut samples = opened.samples;
            let _ = samples.record("s", now, 1.0);
            let mut left = 10_000;
            for tier in Tier::ALL {
                let (from, until) = (WallTime::from_unix_nanos(i64::MIN), now);
                let _ = samples.range("s", from, until, tier, |_| {
                    left -= 1;
                    left > 0
                });
            }
            let _ = samples.close();
        }
        Err(error) => assert_harmless(&error.to_string()),
    }
}

fn anchor(bytes: &[u8]) {
    let line = String::from_utf8_lossy(bytes);
    match line.parse::<Anchor>() {
        Ok(anchor) => assert_eq!(anchor.to_string().parse(), Ok(anchor)),
        Err(error) => drop(error.to_string()),
    }
}

fn event() -> Event {
    let boot: BootId = "11111111-2222-4333-8444-555555555555"
        .parse()
        .expect("this is how ids are written");
    let stamp = Stamp {
        wall: WallTime::from_unix_millis(1_795_000_000_000),
        monotonic: Instant::from_nanos(7),
        boot,
    };
    Event::new(stamp, "transition", "pci:0000:3b:00.0", &"heartbeat frozen")
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let directory = scratch_directory();
    let place = Place::new(directory.path());
    let mut events = Events::open(&place, Vec::new()).expect("the directory is empty");
    events.append(&[event(), event()]).expect("there is space");
    let head = events
        .head()
        .expect("it can be read")
        .expect("there are two");
    drop(events);
    let start = WallTime::from_unix_millis(1_795_000_000_000);
    let mut samples = Samples::open(&place, start)
        .expect("the directory is empty")
        .samples;
    for second in 0..7_300 {
        let at = WallTime::from_unix_millis(start.unix_millis() + second * 1_000);
        samples.record("s", at, 0.5).expect("there is space");
    }
    samples.close().expect("there is space");
    let file = |which, name: &str, path: &Path| {
        let bytes = fs::read(path.join(name)).expect("it was just made");
        [vec![which], bytes].concat()
    };
    vec![
        file(EVENTS, EVENTS_FILE, directory.path()),
        file(SAMPLES, SAMPLES_FILE, directory.path()),
        [vec![ANCHOR], head.to_string().into_bytes()].concat(),
    ]
}
