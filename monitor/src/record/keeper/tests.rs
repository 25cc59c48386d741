//! Whatever goes wrong with one thing that is kept, the rest is kept, and what is lost is said.

use super::*;
use crate::history::{BootId, Reader, SAMPLES_FILE, SampleReader, Tier, Value, WallTime};
use crate::record::FirmwareBody;
use hwshim::clock::SystemClock;
use tempfile::TempDir;

fn at(seconds: u64) -> Stamp {
    Stamp {
        wall: WallTime::from_unix_millis(1_000_000).plus(Duration::from_secs(seconds)),
        monotonic: Instant::from_nanos(seconds * 1_000_000_000),
        boot: BootId::of_this_boot(),
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn event(kind: &'static str, subject: &str, seconds: u64) -> Event {
    Event::new(at(seconds), kind, subject, &"body")
}

fn keeper(root: &TempDir) -> Keeper {
    let place = Place::new(root.path().join("history"));
    Keeper::open(place, root.path().join("anchors"), at(0))
}

fn on_record(root: &TempDir) -> Vec<Event> {
    let reader = Reader::open(&root.path().join("history")).unwrap();
    let all = reader.query(&Filter::default()).unwrap();
    all.into_iter().map(|it| it.event).collect()
}

fn kinds(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| &*event.kind).collect()
}

#[test]
fn an_event_that_nobody_can_keep_is_lost_alone_and_said_to_be() {
    let root = tempfile::tempdir().unwrap();
    let mut keeper = keeper(&root);
    let too_long = "x".repeat(Event::SUBJECT_LEN_MAX + 1);
    let events = vec![
        event("one", "a", 1),
        event("two", &too_long, 1),
        event("three", "c", 1),
    ];
    let kept = keeper.keep(events, at(1));
    assert_eq!((kept.last, kept.lost), (Some(Seq(3)), 1));
    assert!(
        kept.troubles[0].starts_with("1 events are lost (two: an event's subject"),
        "{:?}",
        kept.troubles
    );
    // For as long as it takes whoever looks seldom to see it.
    assert_eq!(keeper.keep(vec![event("four", "d", 300)], at(300)).lost, 1);
    let kept = keeper.keep(Vec::new(), at(301));
    assert_eq!((kept.lost, kept.troubles), (0, Vec::new()));
    let events = on_record(&root);
    assert_eq!(kinds(&events), [HISTORY_GAP, "one", "three", "four"]);
    let gap: GapBody = serde_json::from_str(&events[0].body).unwrap();
    assert_eq!(gap.lost, 1);
    assert!(gap.why.contains("two: an event's subject"), "{}", gap.why);
}

#[test]
fn what_was_lost_and_said_to_be_is_counted_until_the_end_of_the_run() {
    let root = tempfile::tempdir().unwrap();
    let mut keeper = keeper(&root);
    keeper.lose(7, "there was no room", at(1));
    keeper.keep(vec![event("one", "a", 1)], at(1));
    assert_eq!(kinds(&on_record(&root)), [HISTORY_GAP, "one"]);
    keeper.keep(vec![event("two", "a", 1000)], at(1000));
    let closed = keeper.close(vec![event("stop", "a", 1000)], at(1000));
    assert_eq!((closed.kept, closed.lost), (false, 7));
    let why = "7 events are lost (there was no room); ";
    assert!(closed.troubles[0].starts_with(why), "{closed:?}");
    assert_eq!(
        kinds(&on_record(&root)),
        [HISTORY_GAP, "one", "two", "stop"]
    );
}

#[test]
fn figures_that_the_disk_does_not_take_at_once_wait_all_of_them() {
    let root = tempfile::tempdir().unwrap();
    let mut keeper = keeper(&root);
    let names = ["a", "b", "c"];
    let figures = |seconds| [figures(&names, seconds)];
    let samples = root.path().join("history").join(SAMPLES_FILE);
    let other = rusqlite::Connection::open(samples).unwrap();
    keeper.sample(&figures(0), SECOND);
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    // A commit is due, and cannot be had.
    keeper.sample(&figures(11), SECOND);
    assert!(
        keeper.lesser.iter().any(|it| it.starts_with("samples: ")),
        "{:?}",
        keeper.lesser
    );
    other.execute_batch("ROLLBACK").unwrap();
    keeper.close(Vec::new(), at(12));
    for name in names {
        assert_eq!(sampled(&root, name), 2, "{name}");
    }
}

#[test]
fn a_kill_takes_ten_seconds_of_figures_although_they_are_held_or_one_poll() {
    let of = |seconds| (20..=30).map(move |polls| (seconds, polls));
    for (seconds, polls) in [1, 2, 3, 5, 60].into_iter().flat_map(of) {
        let interval = Duration::from_secs(seconds);
        let root = tempfile::tempdir().unwrap();
        let mut keeper = keeper(&root);
        let mut held = Held::default();
        let mut given = 0;
        for poll in 0..polls {
            let now = at(poll * seconds);
            held.push(figures(&["a"], poll * seconds));
            if !held.may_wait(now.monotonic, interval) {
                keeper.sample(&held.take(), interval);
                given += 1;
            }
        }
        // Without `close`: what a killed process leaves.
        drop(keeper);
        let lost = polls - sampled(&root, "a") as u64;
        assert!(
            lost <= (10 / seconds).max(1),
            "{lost} of {polls} each {seconds} s"
        );
        let together = polls / given;
        assert_eq!(
            together > 1,
            seconds <= 8,
            "{together} together each {seconds} s"
        );
    }
}

fn figures(names: &[&str], seconds: u64) -> Figures {
    let of = |name: &&str| ((*name).to_owned(), 1.0);
    Figures {
        at: at(seconds),
        values: names.iter().map(of).collect(),
    }
}

/// How many samples of a series are on record.
fn sampled(root: &TempDir, name: &str) -> usize {
    let reader = SampleReader::open(&root.path().join("history")).unwrap();
    let mut count = 0;
    let found = reader.range(name, at(0).wall, at(10_000).wall, Tier::Second, |point| {
        count += usize::from(matches!(point.value, Value::Sample(_)));
        true
    });
    found.unwrap();
    count
}

#[test]
fn what_comes_while_a_snapshot_is_proven_is_recorded_and_not_in_it() {
    let root = tempfile::tempdir().unwrap();
    let mut keeper = keeper(&root);
    let before = keeper.keep(vec![event(START, "monitor", 1)], at(1));
    let target = root.path().join("snapshot");
    let copied = keeper.copy(&target, &SystemClock, at(2)).unwrap();
    assert!(!target.exists(), "nobody has looked at it yet");
    let since = keeper.keep(vec![event(STOP, "monitor", 3)], at(3));
    assert_eq!(since.last, before.last.map(Seq::next));
    let made = copied.proven(&SystemClock).unwrap();
    assert_eq!(made.head.map(|head| head.seq), before.last);
    assert!(made.restored.audit.is_proven() && target.exists());
}

#[test]
fn what_was_on_record_before_is_told_as_soon_as_it_can_be_read_and_without_what_came_since() {
    let root = tempfile::tempdir().unwrap();
    let mut first = keeper(&root);
    assert_eq!(first.look_up().unwrap().was_stopped, None);
    let firmware = |to: &str| FirmwareBody {
        from: None,
        to: to.to_owned(),
        expected: true,
    };
    let of_card = |to: &str, seconds| Event::new(at(seconds), FIRMWARE, "card", &firmware(to));
    let incident = event(INCIDENT_OPENED, "card", 1);
    let events = vec![event(START, "monitor", 1), of_card("1.0", 1), incident];
    first.keep(events, at(1));
    // The second comes while the first still has it.
    let mut second = keeper(&root);
    let why = second.look_up().unwrap_err();
    assert!(why.contains("in use"), "{why}");
    assert!(!second.keep(vec![of_card("2.0", 2)], at(2)).opened_late);
    first.close(vec![event(STOP, "monitor", 3)], at(3));
    let kept = second.keep(Vec::new(), at(10));
    assert!(kept.opened_late && kept.troubles.is_empty(), "{kept:?}");
    let past = second.look_up().unwrap();
    // Whoever asked first does not wait any more.
    second.put_back(past);
    assert!(second.keep(Vec::new(), at(10)).opened_late);
    let past = second.look_up().unwrap();
    assert_eq!(past.was_stopped, Some(true));
    assert_eq!((past.firmware.len(), past.incidents.len()), (1, 1));
    assert!(past.firmware[0].event.body.contains("1.0"), "{past:?}");
    assert_eq!(on_record(&root).len(), 6);
    assert!(!second.keep(Vec::new(), at(11)).opened_late);
}

#[test]
fn a_record_that_cannot_be_read_is_said_to_be_with_the_reason_and_added_to_only_when_it_can() {
    let root = tempfile::tempdir().unwrap();
    let mut first = keeper(&root);
    first.keep(vec![event(START, "monitor", 1)], at(1));
    first.close(Vec::new(), at(1));
    let mut keeper = keeper(&root);
    // As if it had not been read at the start, and something is wrong with the file since.
    keeper.before = Before::Unread;
    let file = root
        .path()
        .join("history")
        .join(crate::history::EVENTS_FILE);
    let other = rusqlite::Connection::open(&file).unwrap();
    other
        .execute_batch("ALTER TABLE event RENAME TO away")
        .unwrap();
    let kept = keeper.keep(vec![event("one", "a", 2)], at(2));
    assert_eq!(kept.last, None);
    assert!(kept.troubles[0].contains("no such table"), "{kept:?}");
    other
        .execute_batch("ALTER TABLE away RENAME TO event")
        .unwrap();
    let kept = keeper.keep(Vec::new(), at(20));
    assert!(kept.opened_late && kept.last.is_some(), "{kept:?}");
}

#[test]
fn what_is_needed_at_the_start_is_found_in_a_long_history_without_reading_all_of_it() {
    const EVENTS: u64 = 200_000;
    let root = tempfile::tempdir().unwrap();
    let mut first = keeper(&root);
    // One a second, for longer than two days.
    let kind = |number: u64| match number {
        number if number % 100 == 7 => INCIDENT_OPENED,
        number if number % 1_000 == 8 => control::KINDS[0],
        50 => FIRMWARE,
        51 => SOFTWARE,
        number if number == EVENTS - 1 => STOP,
        _ => "transition",
    };
    let events: Vec<_> = (0..EVENTS)
        .map(|number| event(kind(number), "card", number))
        .collect();
    first.events.as_mut().unwrap().append(&events).unwrap();
    first.close(Vec::new(), at(EVENTS));
    let place = Place::new(root.path().join("history"));
    let mut second = Keeper::open(place, root.path().join("anchors"), at(EVENTS));
    let past = second.look_up().unwrap();
    assert_eq!(past.was_stopped, Some(true));
    assert_eq!((past.firmware.len(), past.software.len()), (1, 1));
    let incidents = past.incidents.iter().map(|it| it.seq.0 - 1);
    let last_incidents = (0..EVENTS).filter(|number| number % 100 == 7);
    let last_incidents: Vec<_> = last_incidents.skip(2_000 - 256).collect();
    assert_eq!(incidents.collect::<Vec<_>>(), last_incidents);
    assert_eq!(past.orders.len(), 200);
    assert!(past.changes.iter().all(|it| it.seq.0 > EVENTS - 86_401));
    assert_eq!(past.changes.len(), 86, "those of the last day");
    let reader = second.events.as_ref().unwrap();
    for filter in look_ups(at(EVENTS)) {
        let steps = reader.steps(&filter);
        assert!(steps < EVENTS / 10, "{steps} for {filter:?}");
    }
}

#[test]
fn what_is_needed_at_the_start_is_found_in_archives_too_and_what_keeps_one_from_being_made_is_said()
{
    let root = tempfile::tempdir().unwrap();
    let history = root.path().join("history");
    // The smallest file there is holds more, so that each append makes an archive.
    let place = Place::new(&history).with_archives_of(1);
    let open = |now| Keeper::open(place.clone(), root.path().join("anchors"), at(now));
    let mut first = open(0);
    let kinds = [START, FIRMWARE, control::KINDS[0], INCIDENT_OPENED, STOP];
    for (second, kind) in (1..).zip(kinds) {
        let kept = first.keep(vec![event(kind, "card", second)], at(second));
        assert_eq!(kept.troubles, [""; 0]);
    }
    first.close(Vec::new(), at(9));
    let mut second = open(10);
    let past = second.look_up().unwrap();
    assert_eq!(past.was_stopped, Some(true));
    let found = [&past.firmware, &past.orders, &past.incidents, &past.changes].map(Vec::len);
    assert_eq!(found, [1, 1, 1, 2]);

    let other = rusqlite::Connection::open(history.join(crate::history::EVENTS_FILE)).unwrap();
    let text = "SELECT count(*) FROM event";
    let count: i64 = other.query_row(text, [], |row| row.get(0)).unwrap();
    assert_eq!(count, 2, "the others are in archives");
    let kept = second.keep(vec![event("one", "a", 20)], at(20));
    assert!(kept.last.is_some(), "{kept:?}");
    assert!(
        kept.troubles[0].starts_with("archive: the file of events is full"),
        "{kept:?}"
    );
    drop(other);
    let kept = second.keep(vec![event("two", "a", 90)], at(90));
    assert_eq!(kept.troubles, [""; 0]);
}

#[test]
fn what_of_incidents_is_elsewhere_when_a_run_begins_is_said_as_long_as_it_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let history = root.path().join("history");
    let place = Place::new(&history).with_archives_of(1);
    let open = |now| Keeper::open(place.clone(), root.path().join("anchors"), at(now));
    let mut first = open(0);
    for (second, kind) in (1..).zip([INCIDENT_OPENED, INCIDENT_CLOSED, STOP]) {
        first.keep(vec![event(kind, "card", second)], at(second));
    }
    assert_eq!(first.close(Vec::new(), at(9)).elsewhere, [""; 0]);
    let archive = history.join("events-000000002-000000003.db");
    let elsewhere = root.path().join("elsewhere");
    std::fs::rename(&archive, &elsewhere).unwrap();
    let mut second = open(10);
    let past = second.look_up().unwrap();
    let (found, until) = (past.incidents.len(), past.unknown_until);
    assert_eq!((found, until), (1, Some(Seq(3))));
    std::fs::rename(&elsewhere, &archive).unwrap();
    for now in [20, 30] {
        let kept = second.keep(Vec::new(), at(now));
        let [told] = &kept.elsewhere[..] else {
            panic!("{kept:?}");
        };
        let words = "events 2 to 3 are in the archive events-000000002-000000003.db";
        assert!(told.starts_with(words), "{told}");
        assert!(told.ends_with("start the monitor anew"), "{told}");
        assert_eq!(kept.troubles, [""; 0], "nothing is wrong");
    }
    second.close(Vec::new(), at(40));
    let mut third = open(50);
    let past = third.look_up().unwrap();
    assert_eq!((past.incidents.len(), past.unknown_until), (2, None));
    assert_eq!(third.keep(Vec::new(), at(60)).elsewhere, [""; 0]);
}

#[test]
fn an_archive_that_is_damaged_keeps_nothing_from_being_recorded_and_is_named() {
    let root = tempfile::tempdir().unwrap();
    let history = root.path().join("history");
    let place = Place::new(&history).with_archives_of(1);
    let open = |now| Keeper::open(place.clone(), root.path().join("anchors"), at(now));
    let mut first = open(0);
    for (second, kind) in (1..).zip([FIRMWARE, SOFTWARE, STOP]) {
        first.keep(vec![event(kind, "card", second)], at(second));
    }
    first.close(Vec::new(), at(9));
    let archive = history.join("events-000000002-000000003.db");
    let whole = std::fs::read(&archive).unwrap();
    let mut torn = whole.clone();
    torn[4_096..].fill(0xa5);
    for damaged in [b"nothing of ours".to_vec(), torn] {
        std::fs::remove_file(&archive).unwrap();
        std::fs::write(&archive, damaged).unwrap();
        let mut second = open(10);
        let past = second.look_up().unwrap();
        assert_eq!((past.firmware.len(), past.software.len()), (1, 0));
        let kept = second.keep(vec![event("one", "a", 20)], at(20));
        assert!(kept.last.is_some(), "{kept:?}");
        assert!(kept.codes.is_empty());
        let name = "events-000000002-000000003.db";
        assert!(kept.troubles[0].contains(name), "{kept:?}");
        // Whoever reads is told, and not shown less.
        let reader = Reader::open(&history).unwrap();
        let error = reader.query(&Filter::default()).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}
