//! What is recorded, read back; and who is told of it.

use crate::support::{Layout, check_all, event, scratch};
use hwshim::clock::Instant;
use monitor::history::{
    Anchor, AnchorSink, Event, Events, Filter, HistoryError, Place, Seq, Severity,
};
use rusqlite::Connection;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Remembers anchors, unless it is told to take none.
#[derive(Clone, Default)]
struct Memory {
    anchors: Arc<Mutex<Vec<Anchor>>>,
    deaf: Arc<AtomicBool>,
}

impl AnchorSink for Memory {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    fn write(&mut self, anchor: &Anchor) -> std::io::Result<()> {
        if self.deaf.load(Ordering::Relaxed) {
            return Err(std::io::ErrorKind::ConnectionRefused.into());
        }
        self.anchors.lock().unwrap().push(*anchor);
        Ok(())
    }
}

fn at(event: Event, monotonic: Duration) -> Event {
    let mut event = event;
    event.stamp.monotonic = Instant::ORIGIN.plus(monotonic);
    event
}

#[test]
fn the_head_is_anchored_every_hundred_events_and_every_five_minutes() {
    let root = scratch();
    let memory = Memory::default();
    let place = Place::new(root.path().join("history"));
    let mut events = Events::open(&place, vec![Box::new(memory.clone())]).unwrap();
    for seq in 1..=250 {
        events.append(&[at(event(seq), Duration::ZERO)]).unwrap();
    }
    let five_minutes = Duration::from_secs(300);
    events.anchor_if_due(Instant::ORIGIN.plus(five_minutes - Duration::from_nanos(1)));
    events.anchor_if_due(Instant::ORIGIN.plus(five_minutes));
    events.anchor_if_due(Instant::ORIGIN.plus(five_minutes * 3));
    let seqs = || {
        let anchors = memory.anchors.lock().unwrap();
        anchors
            .iter()
            .map(|anchor| anchor.seq.0)
            .collect::<Vec<_>>()
    };
    assert_eq!(seqs(), [1, 101, 201, 250]);
    events.append(&[at(event(251), five_minutes)]).unwrap();
    drop(events);
    assert_eq!(seqs(), [1, 101, 201, 250, 251]);
}

#[test]
fn a_sink_that_takes_nothing_is_told_of_and_stops_nothing() {
    let root = scratch();
    let deaf = Memory::default();
    deaf.deaf.store(true, Ordering::Relaxed);
    let hears = Memory::default();
    let place = Place::new(root.path().join("history"));
    let sinks: Vec<Box<dyn AnchorSink>> = vec![Box::new(deaf.clone()), Box::new(hears.clone())];
    let mut events = Events::open(&place, sinks).unwrap();
    let second = |seconds| Instant::ORIGIN.plus(Duration::from_secs(seconds));
    events
        .append(&[at(event(1), Duration::from_secs(10))])
        .unwrap();
    let names = |events: &Events| -> Vec<_> {
        let troubles = events.anchor_troubles();
        troubles.map(|trouble| trouble.sink.clone()).collect()
    };
    // It stays so until it is told, which is tried every few seconds, and for it alone.
    for now in [10, 12, 15, 19] {
        events.anchor_if_due(second(now));
        assert_eq!(names(&events), ["memory"]);
    }
    deaf.deaf.store(false, Ordering::Relaxed);
    events.anchor_if_due(second(19));
    assert_eq!(names(&events), ["memory"], "it was tried a moment ago");
    events.anchor_if_due(second(20));
    assert!(names(&events).is_empty());
    for memory in [deaf, hears] {
        assert_eq!(memory.anchors.lock().unwrap().len(), 1);
    }
}

#[test]
fn events_are_found_by_what_they_are() {
    let root = scratch();
    let events = Layout::below(root.path()).fill(60);
    let seqs = |filter: &Filter| -> Vec<u64> {
        let found = events.query(filter).unwrap();
        found.iter().map(|event| event.seq.0).collect()
    };
    let some = Filter {
        from: Some(Seq(10)),
        until: Some(Seq(40)),
        subject: Some("pci:0000:3b:00.3".to_owned()),
        kinds: vec!["transition".to_owned(), "other".to_owned()],
        ..Filter::default()
    };
    assert_eq!(seqs(&some), [11, 19, 27, 35]);
    let alerts = Filter {
        severity_min: Some(Severity::Alert),
        latest_first: true,
        limit: Some(3),
        ..Filter::default()
    };
    assert_eq!(seqs(&alerts), [59, 56, 53]);
    let wall = |seq| Some(event(seq).stamp.wall);
    let hour = Filter {
        from_wall: wall(20),
        until_wall: wall(23),
        ..Filter::default()
    };
    assert_eq!(seqs(&hour), [20, 21, 22]);
    let none = Filter {
        kinds: vec!["' OR 1 --".to_owned()],
        ..Filter::default()
    };
    assert_eq!(seqs(&none), [0; 0]);
}

#[test]
fn no_statement_changes_or_removes_an_event() {
    let root = scratch();
    let layout = Layout::below(root.path());
    drop(layout.fill(5));
    let other = Connection::open(layout.history.join("events.db")).unwrap();
    for (statement, words) in [
        ("UPDATE event SET body = 'x' WHERE seq = 3", "never changed"),
        ("DELETE FROM event WHERE seq = 5", "never deleted"),
        ("DELETE FROM event", "never deleted"),
        ("UPDATE boot SET uuid = uuid", "never changed"),
        ("DELETE FROM boot", "never deleted"),
        (
            "INSERT INTO event SELECT 9, wall_ns, monotonic_ns, boot, severity, kind, subject,
             refers_to, body, prev, hash FROM event WHERE seq = 5",
            "without gaps",
        ),
    ] {
        let error = other.execute_batch(statement).unwrap_err().to_string();
        assert!(error.contains(words), "{statement}: {error}");
    }
    assert_eq!(
        check_all(&layout.reader().unwrap(), &layout.anchors(), 5),
        5
    );
}

#[test]
fn somebody_else_who_appends_is_noticed() {
    let root = scratch();
    let layout = Layout::below(root.path());
    let mut events = layout.fill(5);
    let other = Connection::open(layout.history.join("events.db")).unwrap();
    let planted = "INSERT INTO event SELECT 6, wall_ns, monotonic_ns, boot, severity, kind,
                   subject, refers_to, body, prev, hash FROM event WHERE seq = 5";
    other.execute_batch(planted).unwrap();
    let error = events.append(&[event(6)]).unwrap_err();
    assert!(
        matches!(error, HistoryError::Tampered { seq: Seq(6), .. }),
        "{error}"
    );
}

#[test]
fn an_event_that_says_too_much_or_refers_to_nothing_is_refused_alone() {
    let root = scratch();
    let mut events = Layout::below(root.path()).fill(2);
    let long = Event::new(event(3).stamp, "k", "s", &"x".repeat(Event::BODY_LEN_MAX));
    let error = events.append(&[event(3), long]).unwrap_err().to_string();
    assert!(
        error.contains("body has 65538 bytes, and 65536 are kept"),
        "{error}"
    );
    events.append(&[event(3).about(Seq(9))]).unwrap_err();
    assert_eq!(events.append(&[event(3)]).unwrap(), Seq(3));
    check_all(&events, &[], 3);
}
