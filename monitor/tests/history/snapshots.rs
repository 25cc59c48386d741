//! Snapshots can be gone back to, and say what is missing.

use crate::support::{Layout, check_all, event, scratch};
use hwshim::clock::SystemClock;
use monitor::history::{
    Place, Point, SampleReader, Samples, Source, Tampering, Tier, Value, WallTime, restore_verify,
    snapshot,
};
use std::fs;
use std::path::Path;

fn samples(directory: &Path) -> Samples {
    let now = WallTime::from_unix_millis(1_795_000_000_000);
    let mut samples = Samples::open(&Place::new(directory), now).unwrap().samples;
    for second in 0..25 {
        let at = WallTime::from_unix_millis(1_795_000_000_000 + second * 1_000);
        samples.record("temperature", at, 41.5).unwrap();
    }
    samples
}

fn count(directory: &Path) -> usize {
    let mut count = 0;
    SampleReader::open(directory)
        .unwrap()
        .range(
            "temperature",
            WallTime::default(),
            WallTime::from_unix_nanos(i64::MAX),
            Tier::Second,
            |Point { value, .. }| {
                count += usize::from(value == Value::Sample(41.5));
                true
            },
        )
        .unwrap();
    count
}

#[test]
fn a_quiesced_snapshot_misses_nothing_and_can_be_gone_on_with() {
    let root = scratch();
    let layout = Layout::below(root.path());
    let mut events = layout.fill(130);
    let mut samples = samples(&layout.history);
    let target = root.path().join("snapshot");
    let source = Source::Quiesced {
        events: &mut events,
        samples: &mut samples,
    };
    let made = snapshot(source, &target, &SystemClock).unwrap();
    assert_eq!(
        (made.missing_events, made.head),
        (0, events.head().unwrap())
    );
    assert!(made.restored.audit.is_proven());
    // What was not committed before is in it.
    assert_eq!(count(&target), 25);

    events.append(&[event(131)]).unwrap();
    events.anchor(event(131).stamp.monotonic);
    let restored = restore_verify(&target, &layout.anchors(), &SystemClock).unwrap();
    assert!(restored.audit.is_proven());
    assert_eq!((restored.audit.events, restored.behind_events), (130, 1));

    // Gone back to: the files in another place, where others are told of its head.
    let again = Layout::below(&root.path().join("again"));
    fs::create_dir_all(root.path().join("again")).unwrap();
    fs::rename(&target, &again.history).unwrap();
    let mut events = again.open().unwrap();
    events.append(&[event(131)]).unwrap();
    assert_eq!(check_all(&events, &again.anchors(), 131), 131);
}

#[test]
fn an_ordered_snapshot_is_made_while_the_writer_has_the_file() {
    let root = scratch();
    let layout = Layout::below(root.path());
    let mut events = layout.fill(40);
    let mut samples = samples(&layout.history);
    samples.flush().unwrap();
    let target = root.path().join("snapshot");
    let source = Source::Ordered {
        events: &layout.reader().unwrap(),
        samples: &SampleReader::open(&layout.history).unwrap(),
    };
    let made = snapshot(source, &target, &SystemClock).unwrap();
    events.append(&[event(41)]).unwrap();
    assert_eq!((made.missing_events, made.restored.audit.events), (0, 40));
    assert_eq!(count(&target), 25);
    let files = fs::read_dir(&target).unwrap().count();
    assert_eq!(files, 3, "two files and a head, each whole in itself");
}

#[test]
fn a_snapshot_that_was_changed_is_found_out() {
    let root = scratch();
    let layout = Layout::below(root.path());
    let mut events = layout.fill(150);
    let mut samples = samples(&layout.history);
    let [older, target] = ["older", "snapshot"].map(|name| root.path().join(name));
    for (directory, last) in [(&older, 150), (&target, 260)] {
        for seq in 151..=last {
            events.append(&[event(seq)]).unwrap();
        }
        let source = Source::Quiesced {
            events: &mut events,
            samples: &mut samples,
        };
        snapshot(source, directory, &SystemClock).unwrap();
    }
    let again = Source::Quiesced {
        events: &mut events,
        samples: &mut samples,
    };
    let error = snapshot(again, &target, &SystemClock).unwrap_err();
    assert!(error.to_string().contains("is there already"), "{error}");
    // An older copy of one file beside a newer head.
    fs::copy(older.join("events.db"), target.join("events.db")).unwrap();
    let restored = restore_verify(&target, &layout.anchors(), &SystemClock).unwrap();
    let finding = restored.audit.finding.unwrap();
    assert_eq!((finding.seq.0, finding.what), (151, Tampering::Truncated));
    fs::remove_file(target.join("events.db")).unwrap();
    restore_verify(&target, &[], &SystemClock).unwrap_err();
}

#[test]
fn a_snapshot_does_not_choose_which_anchors_count() {
    let root = scratch();
    let layout = Layout::below(root.path());
    let mut events = layout.fill(120);
    let mut samples = samples(&layout.history);
    let target = root.path().join("snapshot");
    let source = Source::Quiesced {
        events: &mut events,
        samples: &mut samples,
    };
    snapshot(source, &target, &SystemClock).unwrap();
    let found = |anchors: &[_]| {
        let restored = restore_verify(&target, anchors, &SystemClock).unwrap();
        restored.audit.finding.map(|finding| finding.what)
    };
    assert_eq!(found(&layout.anchors()), None);
    // Its own word for where it ends is gone, and nobody else's is asked.
    fs::remove_file(target.join("head.anchor")).unwrap();
    assert_eq!(found(&[]), Some(Tampering::Replaced));
    // Another story of as many events, whole in itself.
    let other = Layout::below(&root.path().join("other"));
    fs::create_dir_all(root.path().join("other")).unwrap();
    let mut events = other.open().unwrap();
    for seq in 1..=120 {
        events.append(&[event(seq + 1)]).unwrap();
    }
    drop(events);
    fs::copy(other.history.join("events.db"), target.join("events.db")).unwrap();
    assert_eq!(found(&layout.anchors()), Some(Tampering::Replaced));
    assert_eq!(
        found(&other.anchors()),
        Some(Tampering::Replaced),
        "no head"
    );
}
