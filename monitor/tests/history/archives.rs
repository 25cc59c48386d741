//! Events go to archives when their file is full, and are found there, each once, as they were.

use crate::support::{
    ARCHIVE_AT_BYTES, Layout, acknowledged, appended, check_all, event, scratch, seeds,
    traced_writer,
};
use crate::tampering::with_tables;
use fastrand::Rng;
use hwshim::clock::{Instant, SystemClock};
use hwshim::telemetry;
use monitor::history::{
    Absent, Anchor, ArchivedBody, Elsewhere, Event, Events, Filter, HISTORY_ARCHIVED, Place,
    Reader, Recorded, Samples, Seq, Source, Tampering, WallTime, restore_verify, snapshot,
};
use monitor::lock::{self, Change};
use monitor::report::redact::Redactor;
use monitor::report::{self, Now, Sources};
use rusqlite::Connection;
use serde_json::{Value, json};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

/// About eighty events.
const ARCHIVE_BYTES: u64 = 60_000;
/// Events, besides those about archives.
const EVENTS: u64 = 350;

fn layout(root: &Path) -> Layout {
    Layout::below(root).with_archives_of(ARCHIVE_BYTES)
}

fn seqs(events: &Reader, filter: &Filter) -> Vec<u64> {
    let found = events.query(filter).unwrap();
    found.iter().map(|event| event.seq.0).collect()
}

/// The first and the last event of an archive, by its name.
fn numbers(path: &Path) -> (u64, u64) {
    let name = path.file_stem().unwrap().to_str().unwrap();
    let (first, last) = name["events-".len()..].split_once('-').unwrap();
    (first.parse().unwrap(), last.parse().unwrap())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|it| format!("{it:02x}")).collect()
}

#[test]
fn a_file_that_is_full_becomes_an_archive_from_which_the_next_goes_on() {
    let root = scratch();
    let layout = layout(root.path());
    let mut events = layout.fill(EVENTS);
    let archives = layout.archives();
    assert!(archives.len() > 2, "{archives:?}");
    let before: Vec<_> = archives
        .iter()
        .map(|path| fs::read(path).unwrap())
        .collect();
    let mut next = 1;
    for (path, bytes) in archives.iter().zip(&before) {
        let (first, last) = numbers(path);
        assert_eq!(first, next);
        next = last + 1;
        let mode = fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o400);
        assert!(bytes.len() as u64 >= ARCHIVE_BYTES);
        // What comes next says what it is, and somebody else was told so at once.
        let said = events.get(Seq(next)).unwrap().unwrap();
        assert_eq!(said.event.kind, HISTORY_ARCHIVED);
        let body: ArchivedBody = serde_json::from_str(&said.event.body).unwrap();
        assert_eq!(body.file, path.file_name().unwrap().to_str().unwrap());
        assert_eq!((body.first, body.last), (first, last));
        let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
        assert_eq!(body.sha256, hex(digest.as_ref()));
        let anchors = layout.anchors();
        assert!(
            anchors
                .iter()
                .any(|it| (it.seq, it.hash) == (said.seq, said.hash))
        );
    }
    let total = EVENTS + archives.len() as u64;
    assert_eq!(check_all(&events, &layout.anchors(), total), total);
    // One event refers to another wherever that is.
    let about = event(EVENTS + 1).about(Seq(3));
    events.append(std::slice::from_ref(&about)).unwrap();
    events
        .append(&[event(EVENTS + 2).about(Seq(0))])
        .unwrap_err();
    drop(events);
    let reader = layout.reader().unwrap();
    assert_eq!(reader.get(Seq(total + 1)).unwrap().unwrap().event, about);
    assert!(reader.verify(&layout.anchors()).unwrap().is_proven());
    // Whoever goes on later leaves them as they are.
    drop(reader);
    drop(layout.open().unwrap());
    let after: Vec<_> = archives
        .iter()
        .map(|path| fs::read(path).unwrap())
        .collect();
    assert!(before == after);
}

#[test]
fn what_lies_in_archives_is_found_as_if_it_lay_in_the_file() {
    let root = scratch();
    drop(layout(root.path()).fill(EVENTS));
    let reader = layout(root.path()).reader().unwrap();
    let all = reader.query(&Filter::default()).unwrap();
    let matching = |filter: &Filter, fits: &dyn Fn(&Recorded) -> bool| {
        let mut expected: Vec<_> = all
            .iter()
            .filter(|it| fits(it))
            .map(|it| it.seq.0)
            .collect();
        if filter.latest_first {
            expected.reverse();
        }
        expected.truncate(filter.limit.map_or(usize::MAX, |limit| limit as usize));
        assert!(!expected.is_empty());
        assert_eq!(seqs(&reader, filter), expected, "{filter:?}");
    };
    let card = "pci:0000:3b:00.3".to_owned();
    let is_of_card = |it: &Recorded| it.event.subject == "pci:0000:3b:00.3";
    for latest_first in [false, true] {
        for limit in [None, Some(1), Some(7), Some(40)] {
            let filter = Filter {
                subject: Some(card.clone()),
                latest_first,
                limit,
                ..Filter::default()
            };
            matching(&filter, &is_of_card);
        }
    }
    let (from, until) = (Seq(70), Seq(200));
    let some = Filter {
        from: Some(from),
        until: Some(until),
        ..Filter::default()
    };
    matching(&some, &|it| (from..=until).contains(&it.seq));
    let archived = Filter {
        kinds: vec![HISTORY_ARCHIVED.to_owned()],
        ..Filter::default()
    };
    matching(&archived, &|it| it.event.kind == HISTORY_ARCHIVED);
    for seq in [1, 90, 300, 350] {
        let wall = event(seq).stamp.wall;
        let since = Filter {
            from_wall: Some(wall),
            ..Filter::default()
        };
        matching(&since, &|it| it.event.stamp.wall >= wall);
    }
    assert_eq!(reader.kinds().unwrap(), [HISTORY_ARCHIVED, "transition"]);
}

#[test]
fn an_archive_is_put_off_as_long_as_somebody_reads() {
    let root = scratch();
    let layout = layout(root.path());
    drop(layout.fill(20));
    let reader = layout.reader().unwrap();
    let mut events = layout.fill(EVENTS);
    assert_eq!(layout.archives(), Vec::<PathBuf>::new());
    assert_eq!(reader.query(&Filter::default()).unwrap().len(), 350);
    drop(reader);
    events.append(&[event(EVENTS + 1)]).unwrap();
    assert_eq!(layout.archives().len(), 1);
    assert!(events.archive_trouble().is_none());
    check_all(&events, &layout.anchors(), EVENTS + 1);
}

#[test]
fn who_has_the_file_open_with_another_tool_puts_an_archive_off_and_that_is_said() {
    let root = scratch();
    let layout = layout(root.path());
    let mut events = layout.fill(60);
    let other = Connection::open(layout.history.join("events.db")).unwrap();
    let count = |other: &Connection| -> i64 {
        let text = "SELECT count(*) FROM event";
        other.query_row(text, [], |row| row.get(0)).unwrap()
    };
    assert_eq!(count(&other), 60);
    let mut seq = 60;
    while events.archive_trouble().is_none() {
        seq += 1;
        events.append(&[event(seq)]).unwrap();
    }
    let trouble = events.archive_trouble().unwrap().to_string();
    assert!(
        trouble.contains("is in use by another process"),
        "{trouble}"
    );
    assert_eq!(layout.archives(), Vec::<PathBuf>::new());
    assert_eq!(count(&other), seq.cast_signed());
    check_all(&events, &layout.anchors(), seq);
    drop(other);
    // Tried again when a minute has passed.
    while events.archive_trouble().is_some() {
        let mut late = event(seq + 1);
        late.stamp.monotonic = late.stamp.monotonic.plus(Duration::from_secs(60));
        seq += 1;
        events.append(&[late]).unwrap();
    }
    assert_eq!(layout.archives().len(), 1);
    assert!(events.verify(&layout.anchors()).unwrap().is_proven());
}

/// The calls with which files and names are changed, and of how many of them one is tried: where there
/// are many, most are SQLite's own.
const CALLS: [(&str, usize); 9] = [
    ("linkat", 1),
    ("rename", 1),
    ("chmod", 1),
    ("unlink", 1),
    ("fsync", 1),
    ("fdatasync", 1),
    ("ftruncate", 1),
    ("openat", 5),
    ("pwrite64", 9),
];

/// Has the `n`-th call do this instead, in a writer whose every append makes an archive; what it said,
/// or nothing if it cannot be traced.
fn at_the_nth(root: &Path, call: &str, n: usize, instead: &str) -> Option<String> {
    let inject = format!("inject={call}:{instead}:when={n}");
    let arguments = ["-f", "-o", "/dev/null", "-e", &inject];
    let mut child = traced_writer(&arguments, root, 3)?;
    let output = child.env(ARCHIVE_AT_BYTES, "1").output().unwrap();
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn no_event_is_lost_or_twice_wherever_a_kill_meets_the_making_of_an_archive() {
    let mut killed = 0;
    for (call, step) in CALLS {
        let mut ended_well = 0;
        // Beyond its last call, a writer ends as it would.
        for n in (1..1_000).step_by(step) {
            let root = scratch();
            let Some(said) = at_the_nth(root.path(), call, n, "signal=KILL") else {
                return;
            };
            if said.contains("1 passed") {
                ended_well = n;
                break;
            }
            killed += 1;
            let context = format!("{call} {n}");
            whole_after(root.path(), &said, &context);
        }
        assert!(ended_well > 1, "{call} was called {ended_well} times");
    }
    eprintln!("{killed} kills");
}

/// Checks what a writer left, and that another can go on.
fn whole_after(root: &Path, said: &str, context: &str) {
    let last = said.lines().filter_map(acknowledged).max().unwrap_or(0);
    let layout = Layout::below(root).with_archives_of(1);
    let mut events = layout
        .open()
        .unwrap_or_else(|error| panic!("{context}: {error}\n{said}"));
    let count = check_all(&events, &layout.anchors(), last);
    for _ in 0..3 {
        events.append(&[event(appended(&events) + 1)]).unwrap();
    }
    assert!(events.archive_trouble().is_none(), "{context}");
    check_all(&events, &layout.anchors(), count + 3);
    for path in layout.archives() {
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o400, "{context}: {}", path.display());
    }
}

#[test]
fn no_event_is_lost_or_twice_whichever_call_fails_in_the_making_of_an_archive() {
    for (call, error, step) in [
        ("linkat", "EPERM", 1),
        ("rename", "EIO", 1),
        ("chmod", "EPERM", 1),
        ("unlink", "EIO", 3),
        ("fsync", "EIO", 2),
        ("pwrite64", "ENOSPC", 9),
        ("openat", "EMFILE", 7),
    ] {
        let calls = if step == 1 { 4 } else { 100 };
        for n in (1..=calls).step_by(step) {
            let root = scratch();
            let instead = format!("error={error}");
            let Some(said) = at_the_nth(root.path(), call, n, &instead) else {
                return;
            };
            if !said.contains("ack ") {
                // It did not come so far as to open anything.
                continue;
            }
            whole_after(root.path(), &said, &format!("{call} {n} {error}"));
        }
    }
}

#[test]
fn an_archive_that_was_taken_elsewhere_is_missing_and_only_that() {
    let root = scratch();
    let layout = layout(root.path());
    drop(layout.fill(EVENTS));
    let anchors = layout.anchors();
    let archives = layout.archives();
    let whole = layout.reader().unwrap().query(&Filter::default()).unwrap();
    for taken in [0, 1] {
        let (first, last) = numbers(&archives[taken]);
        let elsewhere = root.path().join("elsewhere.db");
        fs::rename(&archives[taken], &elsewhere).unwrap();
        let reader = layout.reader().unwrap();
        let total = reader.head().unwrap().unwrap().seq.0;
        let absent = Absent {
            first: Seq(first),
            last: Seq(last),
        };
        let elsewhere_now = Elsewhere {
            events: absent,
            archive: Some(
                archives[taken]
                    .file_name()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned(),
            ),
            is_one: true,
        };
        // Of what is in it nothing is proven, and the others are checked.
        let found = reader.verify(&anchors).unwrap();
        assert_eq!(found.finding, None);
        assert!(!found.is_proven());
        assert_eq!(found.events, total - absent.count());
        assert_eq!(found.archives, archives.len() as u64 - 1);
        assert_eq!(found.anchored, anchors.last().map(|last| last.seq));
        let [unproven] = &*found.unproven else {
            panic!("{:?}", found.unproven);
        };
        assert_eq!(unproven.elsewhere, elsewhere_now);
        let hash_of = |seq| whole.iter().find(|it| it.seq.0 == seq).map(|it| it.hash);
        assert_eq!(unproven.before.map(|it| it.hash), hash_of(first - 1));
        assert_eq!(Some(unproven.end.hash), hash_of(last));
        let vouched = anchors.iter().map(|it| it.seq).filter(|seq| seq.0 < first);
        assert_eq!(unproven.anchored, vouched.max());
        // It is told what is not read, where that was asked for.
        assert_eq!(
            reader.elsewhere(&Filter::default()).unwrap(),
            [elsewhere_now]
        );
        let later = Filter {
            from: Some(Seq(last + 1)),
            ..Filter::default()
        };
        assert_eq!(reader.elsewhere(&later).unwrap(), []);
        let read = reader.query(&Filter::default()).unwrap().len() as u64;
        assert_eq!(read, total - absent.count());
        drop(reader);
        // It keeps nobody from recording.
        let mut events = layout.open().unwrap();
        events.append(&[event(EVENTS + 1)]).unwrap();
        drop(events);
        fs::rename(&elsewhere, &archives[taken]).unwrap();
        drop(layout.open().unwrap());
        let again = layout.reader().unwrap().verify(&anchors).unwrap();
        assert!(again.is_proven(), "{again:?}");
    }
}

/// `cardmon` of the history below `root`; its exit status, and what it said.
fn cardmon(root: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let layout = Layout::below(root);
    let output = Command::new(env!("CARGO_BIN_EXE_cardmon"))
        .args(arguments)
        .arg("--history")
        .arg(layout.history)
        .arg("--anchors")
        .arg(layout.anchors)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].map(|it| String::from_utf8(it).unwrap());
    (output.status.code(), said.concat())
}

#[test]
fn cardmon_reads_and_checks_archives_and_says_which_is_missing_or_was_changed() {
    let root = scratch();
    let layout = layout(root.path());
    drop(layout.fill(EVENTS));
    let archives = layout.archives();
    let whole = layout.reader().unwrap().query(&Filter::default()).unwrap();
    let ran = |arguments: &[&str], status: i32, words: &str| {
        let (code, said) = cardmon(root.path(), arguments);
        assert_eq!(code, Some(status), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {words}: {said}");
    };
    let words = format!("with those of {} archives, are as", archives.len());
    ran(&["audit", "verify"], 0, &words);
    ran(&["history"], 0, "     1  ");
    ran(&["history", "--kind", HISTORY_ARCHIVED], 0, "sha256");
    let (first, last) = numbers(&archives[1]);
    let bytes = fs::read(&archives[1]).unwrap();
    fs::remove_file(&archives[1]).unwrap();
    let name = archives[1].file_name().unwrap().to_str().unwrap();
    let hash_of = |seq: u64| hex(&whole[usize::try_from(seq).unwrap() - 1].hash);
    let (before, end) = (hash_of(first - 1), hash_of(last));
    let directory = layout.history.display();
    let missing = format!(
        "events {first} to {last} are in the archive {name}, which is not in {directory}: put it back there"
    );
    for words in [
        &*format!("NOT PROVEN: {missing}"),
        &format!(
            "ends with event {} and the hash {before} (anchors",
            first - 1
        ),
        &format!("goes on from event {last} and the hash {end}, and has its SHA-256"),
        "--without-archives",
    ] {
        ran(&["audit", "verify"], 4, words);
    }
    let unchecked = format!("not checked: {missing}");
    ran(&["audit", "verify", "--without-archives"], 0, &unchecked);
    let not_shown = format!("not all is shown: events {first} to {last} are in the archive");
    ran(&["history"], 0, &not_shown);
    // One byte that no event is in: the header's application-defined version, which is none of ours.
    let mut changed = bytes;
    changed[95] ^= 1;
    fs::write(&archives[1], changed).unwrap();
    for arguments in [
        &["audit", "verify"][..],
        &["audit", "verify", "--without-archives"],
    ] {
        ran(arguments, 3, &format!("{name}: its SHA-256 is"));
    }
    // What is wrong beside one that is missing is worse than that.
    fs::remove_file(&archives[1]).unwrap();
    let seq = numbers(&archives[2]).0 + 1;
    change(
        &archives[2],
        &format!("UPDATE event SET body = 'x' WHERE seq = {seq}"),
    );
    let changed = format!("event {seq} was edited");
    for arguments in [
        &["audit", "verify"][..],
        &["audit", "verify", "--without-archives"],
    ] {
        ran(arguments, 3, &changed);
        ran(arguments, 3, &missing);
    }
}

#[test]
fn cardmon_tells_a_snapshot_without_an_archive_from_one_that_was_changed() {
    let root = scratch();
    let layout = layout(root.path());
    let mut events = layout.fill(EVENTS);
    let place = Place::new(&layout.history);
    let mut samples = Samples::open(&place, event(1).stamp.wall).unwrap().samples;
    let source = Source::Quiesced {
        events: &mut events,
        samples: &mut samples,
    };
    let target = root.path().join("copy");
    snapshot(source, &target, &SystemClock).unwrap();
    let verify = ["restore", "--verify", target.to_str().unwrap()];
    let told = |more: &[&str], status: i32, words: &str| {
        let (code, said) = cardmon(root.path(), &[&verify[..], more].concat());
        assert_eq!(code, Some(status), "{said}");
        assert!(said.contains(words), "{words}: {said}");
    };
    told(&[], 0, "are as they were recorded");
    let archive = target.join(layout.archives()[0].file_name().unwrap());
    fs::remove_file(&archive).unwrap();
    let (_, last) = numbers(&archive);
    let missing = format!("events 1 to {last} are in the archive");
    told(&[], 4, &format!("NOT PROVEN: {missing}"));
    told(&[], 4, &format!("not in {}: put it back", target.display()));
    told(
        &["--without-archives"],
        0,
        &format!("not checked: {missing}"),
    );
    change(
        &target.join("events.db"),
        "UPDATE event SET body = 'x' WHERE seq = (SELECT max(seq) FROM event)",
    );
    told(&[], 3, "was edited");
    told(&["--without-archives"], 3, "was edited");
}

#[test]
fn what_cannot_have_been_before_a_file_is_not_taken_for_an_archive_elsewhere() {
    let root = scratch();
    let found = |layout: &Layout| {
        let audit = layout.reader().unwrap().verify(&layout.anchors()).unwrap();
        let finding = audit.finding.unwrap_or_else(|| panic!("was not found"));
        (finding.seq.0, finding.what)
    };
    // The same events up to there, and not the archive that was gone on from.
    let layout = layout(root.path());
    drop(layout.fill(EVENTS));
    let root = scratch();
    let other = Layout::below(root.path()).with_archives_of(ARCHIVE_BYTES / 2);
    drop(other.fill(EVENTS));
    let (archive, shorter) = (&layout.archives()[0], &other.archives()[0]);
    assert!(numbers(shorter).1 < numbers(archive).1);
    fs::remove_file(archive).unwrap();
    fs::copy(shorter, layout.history.join(shorter.file_name().unwrap())).unwrap();
    assert_eq!(found(&layout), (1, Tampering::Replaced));

    // The beginning was taken away, as if it had been archived.
    let root = scratch();
    let layout = Layout::below(root.path());
    drop(layout.fill(20));
    change(
        &layout.history.join("events.db"),
        "INSERT INTO continued SELECT 1, seq, hash, wall_ns, wall_ns FROM event WHERE seq = 10;
         DELETE FROM event WHERE seq <= 10",
    );
    assert_eq!(found(&layout), (11, Tampering::Replaced));
}

#[test]
fn an_archive_is_not_missed_that_is_later_than_what_was_asked_for() {
    let root = scratch();
    let layout = layout(root.path());
    drop(layout.fill(EVENTS));
    let missed = |layout: &Layout, until_wall: WallTime| {
        let filter = Filter {
            until_wall: Some(until_wall),
            ..Filter::default()
        };
        let found = layout.reader().unwrap().elsewhere(&filter).unwrap();
        let firsts = found.iter().map(|it| it.events.first.0);
        firsts.collect::<Vec<_>>()
    };
    let archives = layout.archives();
    let whole = layout.reader().unwrap().query(&Filter::default()).unwrap();
    let (first, last) = numbers(&archives[1]);
    let wall = |seq: u64| whole[usize::try_from(seq).unwrap() - 1].event.stamp.wall;
    fs::remove_file(&archives[1]).unwrap();
    let after = |wall: WallTime| wall.plus(Duration::from_nanos(1));
    assert_eq!(missed(&layout, wall(first - 1)), [0; 0]);
    assert_eq!(missed(&layout, after(wall(first - 1))), [first]);
    assert_eq!(missed(&layout, after(wall(EVENTS))), [first]);
    // Of one before which nothing is here, nobody knows.
    fs::remove_file(&archives[0]).unwrap();
    assert_eq!(missed(&layout, wall(1)), [1]);

    // The calendar was a day ahead, and set right in the archive.
    let root = scratch();
    let layout = self::layout(root.path());
    let mut events = layout.open().unwrap();
    for seq in 1..=EVENTS {
        let mut event = event(seq);
        if seq < (first + last) / 2 {
            event.stamp.wall = event.stamp.wall.plus(Duration::from_secs(86_400));
        }
        events.append(&[event]).unwrap();
    }
    drop(events);
    assert_eq!(
        layout.archives()[1],
        layout.history.join(archives[1].file_name().unwrap())
    );
    fs::remove_file(&layout.archives()[1]).unwrap();
    assert_eq!(missed(&layout, wall(EVENTS)), [first]);
    assert_eq!(missed(&layout, wall(1)), [0; 0]);
}

#[test]
fn who_reads_is_told_what_of_it_is_in_an_archive_elsewhere() {
    let root = scratch();
    let layout = layout(root.path());
    let mut events = layout.fill(EVENTS);
    let archives = layout.archives();
    let time = |seq: u64| event(seq).stamp.wall;
    let shown = |wall: WallTime| {
        let millis = u64::try_from(wall.unix_millis()).unwrap();
        humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(millis)).to_string()
    };
    // A run began after all of these.
    let run = Event::new(event(EVENTS + 1).stamp, "start", "monitor", &());
    events.append(&[run]).unwrap();
    drop(events);
    let gap = |from, until| format!("{}..{}", shown(time(from)), shown(time(until)));
    let (before, after) = (gap(1, EVENTS), gap(EVENTS + 2, EVENTS + 3));
    let asked: [&[&str]; 4] = [
        &["explain", "--gap", &before],
        &["explain", "--json", "--gap", &before],
        &["incidents", "--recorded"],
        &["history"],
    ];
    let directory = layout.history.display();
    let reported = || {
        let sources = Sources {
            telemetry: root.path(),
            root: root.path(),
            history: &layout.history,
            anchors: Ok(&[]),
            light: None,
            redactor: &Redactor::new([]),
            services: &[],
        };
        let now = Now {
            monotonic: Instant::ORIGIN,
            wall: time(EVENTS),
        };
        let report = report::collect("pci:0000:3b:00.1", &sources, now);
        assert!(report.events.known().is_some());
        let page = report::page::html(&report, "");
        assert_eq!(
            page.contains("Not all that is on record"),
            !report.elsewhere.is_empty()
        );
        let audit = report.audit.known().unwrap();
        assert_eq!(audit.finding, None);
        for (unproven, elsewhere) in audit.unproven.iter().zip(&report.elsewhere) {
            assert!(unproven.starts_with(elsewhere), "{unproven}");
            assert!(page.contains(unproven), "{page}");
        }
        assert_eq!(audit.unproven.len(), report.elsewhere.len());
        report.elsewhere
    };
    let say = |told: &str, directory: &str| {
        for arguments in asked {
            let (_, said) = cardmon(root.path(), arguments);
            let told = format!("{told} not in {directory}: put ");
            assert!(said.contains(&told), "{arguments:?}: {told}: {said}");
        }
        let [reported] = &reported()[..] else {
            panic!("one place");
        };
        assert!(reported.starts_with(told), "{told}: {reported}");
    };
    let directory = directory.to_string();
    for arguments in asked {
        let (_, said) = cardmon(root.path(), arguments);
        assert!(!said.contains("back there"), "{arguments:?}: {said}");
    }
    assert_eq!(reported(), [""; 0]);

    let (first, last) = numbers(&archives[1]);
    let name = archives[1].file_name().unwrap().to_str().unwrap();
    fs::remove_file(&archives[1]).unwrap();
    say(
        &format!("events {first} to {last} are in the archive {name}, which is"),
        &directory,
    );
    fs::remove_file(&archives[0]).unwrap();
    say(
        &format!("events 1 to {last} are in archives up to {name}, which are"),
        &directory,
    );
    // A silence in a run that is here needs none of them.
    let (_, said) = cardmon(root.path(), &["explain", "--gap", &after]);
    assert!(
        said.contains("nobody looked") && !said.contains("back there"),
        "{said}"
    );
}

#[test]
fn a_silence_is_explained_without_archives_of_later_times_and_not_without_those_since_its_run_began()
 {
    let root = scratch();
    let layout = layout(root.path());
    let mut events = layout.open().unwrap();
    let record = |events: &mut Events, seq: u64, kind: &'static str, body: &Value| {
        let recorded = Event::new(event(seq).stamp, kind, "host", body);
        events.append(&[recorded]).unwrap();
    };
    let starved = json!({
        "seconds": 20.0, "score_max": 5, "signs": ["steal"], "tick_late_seconds_max": 9.0,
        "ended_seconds_ago": 0.0,
    });
    record(&mut events, 1, "start", &json!({}));
    record(&mut events, 20, "host-starved", &starved);
    drop(events);
    let mut events = layout.fill(EVENTS);
    record(&mut events, EVENTS, "host-starved", &starved);
    drop(events);
    let explained = |from: u64, until: u64| {
        let [from, until] = [from, until].map(|seq| {
            let millis = u64::try_from(event(seq).stamp.wall.unix_millis()).unwrap();
            humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(millis))
        });
        let gap = format!("{from}..{until}");
        let (code, said) = cardmon(root.path(), &["explain", "--gap", &gap]);
        (code, said.contains("back there"))
    };
    let both = || [explained(10, 19), explained(EVENTS - 10, EVENTS - 1)];
    let (whole, in_part) = ((Some(0), false), (Some(11), true));
    let archives = layout.archives();
    assert!(archives.len() > 3, "{archives:?}");
    assert_eq!(both(), [whole, whole]);
    // Two minutes after the first silence are here; another run may have begun before the second.
    fs::remove_file(&archives[3]).unwrap();
    assert_eq!(both(), [whole, in_part], "{archives:?}");
    fs::remove_file(&archives[1]).unwrap();
    assert_eq!(both(), [in_part, in_part]);
}

#[test]
fn a_drain_on_record_counts_where_an_older_archive_is_elsewhere() {
    let root = scratch();
    let layout = layout(root.path());
    let pages = root.path().join("pages");
    fs::create_dir(&pages).unwrap();
    let order = |events: &mut Events, action: &str, card: &str| {
        let change = Change {
            by: "uid=0 pid=7".to_owned(),
            action: action.to_owned(),
            subject: card.to_owned(),
            old: None,
            new: None,
        };
        let stamp = event(1).stamp;
        let order = Event::new(stamp, lock::CHANGE, format!("card/{card}"), &change);
        events.append(&[order]).unwrap();
    };
    let mut events = layout.fill(20);
    order(&mut events, "drain", "long-ago");
    drop(events);
    let mut events = layout.fill(EVENTS);
    order(&mut events, "drain", "lately");
    order(&mut events, "drain", "no-more");
    order(&mut events, "undrain", "no-more");
    drop(events);
    let wished = |card: &str| {
        fs::write(pages.join(telemetry::file_name(card)), "none").unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_cardmon"))
            .args([
                "check",
                "--live",
                card,
                "--json",
                "--url",
                "http://127.0.0.1:9",
            ])
            .arg("--telemetry")
            .arg(&pages)
            .arg("--history")
            .arg(&layout.history)
            .output()
            .unwrap();
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        let card = &document["cards"][0];
        let why = card["why"].as_str().unwrap();
        (card["drained"] == true, why.contains("is not known"))
    };
    let (drained, in_service, unknown) = ((true, false), (false, false), (false, true));
    let cards = ["long-ago", "lately", "no-more", "never"];
    assert_eq!(
        cards.map(wished),
        [drained, drained, in_service, in_service]
    );
    fs::remove_file(&layout.archives()[1]).unwrap();
    // It may have had work again since, by what is not here.
    assert_eq!(cards.map(wished), [unknown, drained, in_service, unknown]);
}

#[test]
fn a_history_whose_file_was_taken_away_from_its_archives_is_not_begun_anew() {
    let root = scratch();
    let layout = layout(root.path());
    drop(layout.fill(EVENTS));
    fs::remove_file(layout.history.join("events.db")).unwrap();
    let place = Place::new(&layout.history);
    let error = Events::open(&place, Vec::new()).unwrap_err();
    assert!(error.is_damage(), "{error}");
    assert!(error.to_string().contains("archives"), "{error}");
    assert!(!layout.history.join("events.db").exists());
}

#[test]
fn a_snapshot_takes_archives_along_and_says_so_if_one_is_taken_from_it() {
    let root = scratch();
    let layout = layout(root.path());
    let mut events = layout.fill(EVENTS);
    let now = event(1).stamp.wall;
    let mut samples = Samples::open(&Place::new(&layout.history), now)
        .unwrap()
        .samples;
    let archives = layout.archives();
    let total = EVENTS + archives.len() as u64;
    for mode in ["quiesced", "ordered"] {
        let target = root.path().join(mode);
        let reader = (mode == "ordered").then(|| layout.reader().unwrap());
        let figures = monitor::history::SampleReader::open(&layout.history).unwrap();
        let source = match &reader {
            Some(events) => Source::Ordered {
                events,
                samples: &figures,
            },
            None => Source::Quiesced {
                events: &mut events,
                samples: &mut samples,
            },
        };
        let made = snapshot(source, &target, &SystemClock).unwrap();
        assert_eq!(made.restored.audit.events, total);
        assert_eq!(made.restored.audit.archives, archives.len() as u64);
        assert!(made.bytes > ARCHIVE_BYTES * archives.len() as u64);
        let anchors = layout.anchors();
        let restored = restore_verify(&target, &anchors, &SystemClock).unwrap();
        assert!(restored.audit.is_proven(), "{:?}", restored.audit);
        fs::remove_file(target.join(archives[1].file_name().unwrap())).unwrap();
        let rest = restore_verify(&target, &anchors, &SystemClock).unwrap();
        assert_eq!((rest.audit.finding, rest.audit.unproven.len()), (None, 1));
        // It can be gone on with, as it is.
        let again = Layout::below(&root.path().join(format!("{mode} again")));
        fs::create_dir(root.path().join(format!("{mode} again"))).unwrap();
        fs::rename(&target, &again.history).unwrap();
        let mut events = again.open().unwrap();
        events.append(&[event(EVENTS + 1)]).unwrap();
        assert_eq!(events.head().unwrap().unwrap().seq, Seq(total + 1));
    }
    // What is missing from the history is missing from a snapshot, and keeps nobody from making one.
    fs::remove_file(&archives[0]).unwrap();
    let source = Source::Quiesced {
        events: &mut events,
        samples: &mut samples,
    };
    let made = snapshot(source, &root.path().join("less"), &SystemClock).unwrap();
    assert_eq!(made.restored.audit.unproven.len(), 1);
}

/// `fixtures/history/schema-2.db` was written by the version before there were archives.
#[test]
fn a_history_from_before_there_were_archives_goes_on_and_is_archived() {
    let root = scratch();
    let layout = layout(root.path());
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/history/schema-2.db");
    fs::create_dir(&layout.history).unwrap();
    let file = layout.history.join("events.db");
    fs::write(&file, fs::read(fixture).unwrap()).unwrap();
    let reader = layout.reader().unwrap();
    assert_eq!(check_all(&reader, &[], 8), 8);
    drop(reader);
    let events = layout.fill(EVENTS);
    let archives = layout.archives();
    assert!(archives.len() > 2, "{archives:?}");
    assert_eq!(numbers(&archives[0]).0, 1);
    let total = EVENTS + archives.len() as u64;
    assert_eq!(check_all(&events, &layout.anchors(), total), total);
}

/// A history with archives, the files by their names, and what is known of it.
struct Original {
    files: Vec<(String, Vec<u8>)>,
    anchors: Vec<Anchor>,
    events: Vec<Recorded>,
    /// Files of archives that hold other events, whole in themselves.
    others: Vec<Vec<u8>>,
}

impl Original {
    fn make() -> Self {
        let root = scratch();
        let layout = layout(root.path());
        let mut events = layout.fill(EVENTS);
        events.anchor(event(EVENTS).stamp.monotonic);
        drop(events);
        let mut paths = layout.archives();
        paths.push(layout.history.join("events.db"));
        let named = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read(path).unwrap())
        };
        let other = self::layout(&root.path().join("other"));
        fs::create_dir(root.path().join("other")).unwrap();
        let mut events = other.open().unwrap();
        for seq in 1..=EVENTS {
            events.append(&[event(seq + 1_000)]).unwrap();
        }
        drop(events);
        let others = other.archives();
        Self {
            files: paths.iter().map(named).collect(),
            anchors: layout.anchors(),
            events: layout.reader().unwrap().query(&Filter::default()).unwrap(),
            others: others.iter().map(|path| fs::read(path).unwrap()).collect(),
        }
    }

    /// An archive, and where it is in the order.
    fn any(&self, directory: &Path, rng: &mut Rng) -> (usize, PathBuf) {
        let index = rng.usize(..self.files.len() - 1);
        (index, directory.join(&self.files[index].0))
    }
}

/// What should be found: the event that is wrong first and in which way, or whatever; and whether the
/// archive is named. Only of one that is not there, nothing but that.
enum Expected {
    Finding(u64, Tampering),
    Unproven(u64, u64),
    Named,
    Any,
}

/// A way to change a history with archives.
type Mutation = fn(&Path, &Original, &mut Rng) -> (PathBuf, Expected);

const MUTATIONS: [(&str, Mutation); 15] = [
    ("edit", edit),
    ("edit and say nothing of it in the hash", edit_a_hash),
    ("delete events", delete),
    ("cut off events", cut_off),
    ("remove", remove),
    ("remove and put the one before in its place", shift),
    ("exchange two", exchange),
    ("put another in its place", put_another),
    ("rename", rename),
    ("copy", copy),
    ("flip bits", flip_bits),
    ("shorten", shorten),
    ("add to it", lengthen),
    ("say otherwise what it is gone on from", change_continued),
    ("put back the file that became the archive", put_back),
];

#[test]
fn whatever_is_changed_in_an_archive_or_with_it_is_found() {
    let original = Original::make();
    for seed in seeds(1_000) {
        let index = usize::try_from(seed).unwrap() % MUTATIONS.len();
        let (name, mutate) = MUTATIONS[index];
        let directory = scratch();
        for (name, bytes) in &original.files {
            fs::write(directory.path().join(name), bytes).unwrap();
        }
        let context = format!("seed {seed}: {name}");
        let (path, expected) = mutate(directory.path(), &original, &mut Rng::with_seed(seed));
        let reader = Reader::open(directory.path()).unwrap();
        let audit = reader.verify(&original.anchors).unwrap();
        assert!(!audit.is_proven(), "{context}: was not found");
        if let Expected::Unproven(first, last) = expected {
            let (first, last) = (Seq(first), Seq(last));
            let absent: Vec<_> = audit
                .unproven
                .iter()
                .map(|it| it.elsewhere.events)
                .collect();
            assert_eq!(audit.finding, None, "{context}");
            assert_eq!(absent, [Absent { first, last }], "{context}");
            continue;
        }
        let finding = audit
            .finding
            .unwrap_or_else(|| panic!("{context}: was taken for elsewhere"));
        let file = path.file_name().unwrap().to_str().unwrap();
        match expected {
            Expected::Finding(seq, what) => {
                assert_eq!((finding.seq.0, finding.what), (seq, what), "{context}");
            }
            Expected::Named => assert!(finding.detail.contains(file), "{context}: {finding}"),
            // What does not fit is not believed that something is before it.
            Expected::Any => assert_eq!(audit.unproven, [], "{context}"),
            Expected::Unproven(..) => {}
        }
    }
    // Nothing was wrong before.
    assert!(original.events.len() as u64 > EVENTS);
}

/// An event of the archive.
fn one_of(path: &Path, rng: &mut Rng) -> u64 {
    let (first, last) = numbers(path);
    rng.u64(first..=last)
}

fn change(path: &Path, text: &str) {
    with_tables(path, |tables| tables.execute_batch(text));
}

fn edit(directory: &Path, original: &Original, rng: &mut Rng) -> (PathBuf, Expected) {
    let (_, path) = original.any(directory, rng);
    let seq = one_of(&path, rng);
    change(
        &path,
        &format!("UPDATE event SET body = body || 'x' WHERE seq = {seq}"),
    );
    (path, Expected::Finding(seq, Tampering::Edited))
}

fn edit_a_hash(directory: &Path, original: &Original, rng: &mut Rng) -> (PathBuf, Expected) {
    let (_, path) = original.any(directory, rng);
    let seq = one_of(&path, rng);
    change(
        &path,
        &format!("UPDATE event SET hash = randomblob(32) WHERE seq = {seq}"),
    );
    (path, Expected::Finding(seq, Tampering::Edited))
}

fn delete(directory: &Path, original: &Original, rng: &mut Rng) -> (PathBuf, Expected) {
    let (_, path) = original.any(directory, rng);
    let (_, last) = numbers(&path);
    let seq = one_of(&path, rng).min(last - 1);
    change(&path, &format!("DELETE FROM event WHERE seq = {seq}"));
    (path, Expected::Finding(seq, Tampering::Deleted))
}

fn cut_off(directory: &Path, original: &Original, rng: &mut Rng) -> (PathBuf, Expected) {
    let (_, path) = original.any(directory, rng);
    let seq = one_of(&path, rng);
    change(&path, &format!("DELETE FROM event WHERE seq >= {seq}"));
    (path, Expected::Finding(seq, Tampering::Truncated))
}

fn remove(directory: &Path, original: &Original, rng: &mut Rng) -> (PathBuf, Expected) {
    let (_, path) = original.any(directory, rng);
    fs::remove_file(&path).unwrap();
    let (first, last) = numbers(&path);
    (path, Expected::Unproven(first, last))
}

fn shift(directory: &Path, original: &Original, rng: &mut Rng) -> (PathBuf, Expected) {
    let index = rng.usize(1..original.files.len() - 1);
    let path = directory.join(&original.files[index].0);
    fs::write(&path, &original.files[index - 1].1).unwrap();
    (path, Expected::Named)
}

fn exchange(directory: &Path, original: &Original, rng: &mut Rng) -> (PathBuf, Expected) {
    let (one, path) = original.any(directory, rng);
    let other = (one + 1) % (original.files.len() - 1);
    fs::write(&path, &original.files[other].1).unwrap();
    fs::write(
        directory.join(&original.files[other].0),
        &original.files[one].1,
    )
    .unwrap();
    let first = directory.join(&original.files[one.min(other)].0);
    (first, Expected::Named)
}

fn put_another(directory: &Path, original: &Original, rng: &mut Rng) -> (PathBuf, Expected) {
    let (index, path) = original.any(directory, rng);
    fs::write(
        &path,
        &original.others[index.min(original.others.len() - 1)],
    )
    .unwrap();
    (path, Expected::Any)
}

fn rename(directory: &Path, original: &Original, rng: &mut Rng) -> (PathBuf, Expected) {
    let (_, path) = original.any(directory, rng);
    let (first, last) = numbers(&path);
    let (first, last) = match rng.bool() {
        true => (first + 1, last),
        false => (first, last + rng.u64(1..5)),
    };
    let other = directory.join(format!("events-{first:09}-{last:09}.db"));
    fs::rename(&path, &other).unwrap();
    (other, Expected::Named)
}

fn copy(directory: &Path, original: &Original, rng: &mut Rng) -> (PathBuf, Expected) {
    let (_, path) = original.any(directory, rng);
    let (first, last) = numbers(&path);
    let other = directory.join(format!("events-{first:09}-{:09}.db", last + rng.u64(1..5)));
    fs::copy(&path, &other).unwrap();
    (other, Expected::Named)
}

fn flip_bits(directory: &Path, original: &Original, rng: &mut Rng) -> (PathBuf, Expected) {
    let (index, path) = original.any(directory, rng);
    let mut bytes = original.files[index].1.clone();
    let at = rng.usize(..bytes.len());
    bytes[at] ^= 1 << rng.u32(..8);
    fs::write(&path, bytes).unwrap();
    (path, Expected::Named)
}

fn shorten(directory: &Path, original: &Original, rng: &mut Rng) -> (PathBuf, Expected) {
    let (index, path) = original.any(directory, rng);
    let bytes = &original.files[index].1;
    fs::write(&path, &bytes[..rng.usize(..bytes.len())]).unwrap();
    (path, Expected::Named)
}

fn lengthen(directory: &Path, original: &Original, rng: &mut Rng) -> (PathBuf, Expected) {
    let (_, path) = original.any(directory, rng);
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(&[7; 4_096][..rng.usize(1..=4_096)]).unwrap();
    (path, Expected::Named)
}

fn change_continued(directory: &Path, original: &Original, rng: &mut Rng) -> (PathBuf, Expected) {
    let index = rng.usize(1..original.files.len());
    let path = directory.join(&original.files[index].0);
    let change = [
        "seq = seq - 1",
        "seq = seq + 1",
        "hash = randomblob(32)",
        "wall_ns = wall_ns + 1",
        "latest_ns = latest_ns - 1",
    ][rng.usize(..5)];
    self::change(&path, &format!("UPDATE continued SET {change}"));
    (path, Expected::Any)
}

/// The file as it was when it was full, and no archive since.
fn put_back(directory: &Path, original: &Original, rng: &mut Rng) -> (PathBuf, Expected) {
    let (index, path) = original.any(directory, rng);
    for (name, _) in &original.files[index..original.files.len() - 1] {
        fs::remove_file(directory.join(name)).unwrap();
    }
    fs::write(directory.join("events.db"), &original.files[index].1).unwrap();
    let (_, last) = numbers(&path);
    (path, Expected::Finding(last + 1, Tampering::Truncated))
}
