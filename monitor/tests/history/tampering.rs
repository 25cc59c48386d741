//! Whoever can write the file can change it, and cannot hide it.

use crate::support::{Layout, event, scratch, seeds};
use fastrand::Rng;
use monitor::history::{Anchor, Filter, Reader, Recorded, Tampering};
use ring::digest::{SHA256, digest};
use rusqlite::{Connection, params};
use std::fs;
use std::path::{Path, PathBuf};

const EVENTS: u64 = 350;
/// Where an older copy was kept.
const OLDER: u64 = 220;

/// A history that was closed, an older copy of it, and its anchors.
struct Original {
    bytes: Vec<u8>,
    older: Vec<u8>,
    anchors: Vec<Anchor>,
    events: Vec<Recorded>,
}

impl Original {
    fn make() -> Self {
        let root = scratch();
        let layout = Layout::below(root.path());
        let file = layout.history.join("events.db");
        drop(layout.fill(OLDER));
        let older = fs::read(&file).unwrap();
        let mut events = layout.fill(EVENTS);
        events.anchor(event(EVENTS).stamp.monotonic);
        drop(events);
        Self {
            bytes: fs::read(&file).unwrap(),
            older,
            anchors: layout.anchors(),
            events: layout.reader().unwrap().query(&Filter::default()).unwrap(),
        }
    }
}

/// What should be found: the event that is wrong first, and in which way.
type Expected = Option<(u64, Tampering)>;

/// A way to change a file, with what is to be found then; nothing if whatever is found will do.
type Mutation = fn(&Path, &Original, &mut Rng) -> Expected;

const MUTATIONS: [(&str, Mutation); 16] = [
    ("edit", edit),
    ("edit a figure", edit_a_figure),
    ("edit and hash anew", edit_and_hash),
    ("edit and chain anew", edit_and_chain),
    ("edit a boot", edit_a_boot),
    ("delete", delete),
    ("delete and renumber", delete_and_renumber),
    ("swap", swap),
    ("swap bodies", swap_bodies),
    ("cut off", cut_off),
    ("put back", put_back),
    ("put back and go on", put_back_and_go_on),
    ("take a trigger away", drop_a_trigger),
    ("flip bits", flip_bits),
    ("swap pages", swap_pages),
    ("shorten the file", shorten),
];

#[test]
fn whatever_is_changed_is_found_where_it_begins() {
    let original = Original::make();
    let mut harmless = 0;
    for seed in seeds(1_000) {
        let index = usize::try_from(seed).unwrap() % MUTATIONS.len();
        let (name, mutate) = MUTATIONS[index];
        let directory = scratch();
        let file = directory.path().join("events.db");
        fs::write(&file, &original.bytes).unwrap();
        let expected = mutate(&file, &original, &mut Rng::with_seed(seed));
        let context = format!("seed {seed}: {name}");
        match (look(directory.path(), &original), expected) {
            (Found::Finding(seq, what), Some(expected)) => {
                assert_eq!((seq, what), expected, "{context}")
            }
            (Found::Finding(..) | Found::Refused, None) => {}
            (Found::Nothing(events), None) => {
                // A bit that nobody reads: every event is as it was.
                assert!(events == original.events, "{context}: was not found");
                harmless += 1;
            }
            (found, expected) => panic!("{context}: {} and not {expected:?}", found.name()),
        }
    }
    eprintln!("{harmless} changes were of bytes that mean nothing");
}

enum Found {
    Refused,
    Finding(u64, Tampering),
    Nothing(Vec<Recorded>),
}

impl Found {
    fn name(&self) -> String {
        match self {
            Self::Refused => "the file was refused".to_owned(),
            Self::Finding(seq, what) => format!("event {seq} {what}"),
            Self::Nothing(_) => "nothing was found".to_owned(),
        }
    }
}

fn look(directory: &Path, original: &Original) -> Found {
    let Ok(reader) = Reader::open(directory) else {
        return Found::Refused;
    };
    let Ok(audit) = reader.verify(&original.anchors) else {
        return Found::Refused;
    };
    match audit.finding {
        Some(finding) => Found::Finding(finding.seq.0, finding.what),
        None => Found::Nothing(reader.query(&Filter::default()).unwrap()),
    }
}

/// Does to the tables what their triggers forbid, and puts the triggers back.
pub(crate) fn with_tables(file: &Path, change: impl FnOnce(&Connection) -> rusqlite::Result<()>) {
    let connection = Connection::open(file).unwrap();
    connection
        .pragma_update(None, "synchronous", "off")
        .unwrap();
    connection
        .pragma_update(None, "journal_mode", "memory")
        .unwrap();
    let triggers: Vec<(String, String)> = connection
        .prepare("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'")
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    connection
        .pragma_update(None, "foreign_keys", false)
        .unwrap();
    for (name, _) in &triggers {
        connection
            .execute_batch(&format!("DROP TRIGGER {name}"))
            .unwrap();
    }
    change(&connection).unwrap();
    for (_, sql) in &triggers {
        connection.execute_batch(sql).unwrap();
    }
}

fn any(rng: &mut Rng) -> u64 {
    rng.u64(1..=EVENTS)
}

fn edit(file: &Path, _: &Original, rng: &mut Rng) -> Expected {
    let seq = any(rng);
    let column = ["kind", "subject", "body"][rng.usize(..3)];
    with_tables(file, |tables| {
        let text = format!("UPDATE event SET {column} = {column} || 'x' WHERE seq = ?");
        tables.execute(&text, [seq.cast_signed()]).map(|_| ())
    });
    Some((seq, Tampering::Edited))
}

fn edit_a_figure(file: &Path, _: &Original, rng: &mut Rng) -> Expected {
    let seq = any(rng);
    let change = [
        "wall_ns = wall_ns + 1",
        "monotonic_ns = monotonic_ns - 1",
        "severity = (severity + 1) % 3",
        "boot = 3 - boot",
        "prev = randomblob(32)",
        "hash = randomblob(32)",
    ][rng.usize(..6)];
    with_tables(file, |tables| {
        let text = format!("UPDATE event SET {change} WHERE seq = ?");
        tables.execute(&text, [seq.cast_signed()]).map(|_| ())
    });
    Some((seq, Tampering::Edited))
}

/// The documented encoding, written once more.
fn hash(event: &Recorded, body: &str, prev: &[u8; 32]) -> [u8; 32] {
    let stamp = event.event.stamp;
    let mut bytes = b"cardmon event 1\0".to_vec();
    bytes.extend(prev);
    bytes.extend(event.seq.0.to_be_bytes());
    bytes.extend(stamp.wall.unix_nanos().to_be_bytes());
    bytes.extend(stamp.monotonic.as_nanos().to_be_bytes());
    bytes.extend([0; 8]);
    bytes.push(event.event.severity.number());
    let boot = stamp.boot.to_string();
    for text in [&*boot, &event.event.kind, &event.event.subject, body] {
        bytes.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        bytes.extend(text.as_bytes());
    }
    digest(&SHA256, &bytes).as_ref().try_into().unwrap()
}

/// Edits an event and hashes it and so many after it anew.
fn rewrite(file: &Path, original: &Original, seq: u64, count: usize) {
    let first = usize::try_from(seq).unwrap() - 1;
    let mut prev = original.events[first].prev;
    with_tables(file, |tables| {
        for event in original.events[first..].iter().take(count) {
            let body = if event.seq.0 == seq {
                "\"nothing\""
            } else {
                &event.event.body
            };
            let hash = hash(event, body, &prev);
            tables.execute(
                "UPDATE event SET body = ?, prev = ?, hash = ? WHERE seq = ?",
                params![body, prev, hash, event.seq.0.cast_signed()],
            )?;
            prev = hash;
        }
        Ok(())
    });
}

fn edit_and_hash(file: &Path, original: &Original, rng: &mut Rng) -> Expected {
    let seq = any(rng);
    rewrite(file, original, seq, 1);
    let anchored = original.anchors.iter().any(|anchor| anchor.seq.0 == seq);
    let before = anchored_before(original, seq);
    Some(if anchored {
        (before + 1, Tampering::Replaced)
    } else {
        (seq, Tampering::Edited)
    })
}

fn edit_and_chain(file: &Path, original: &Original, rng: &mut Rng) -> Expected {
    let seq = any(rng);
    rewrite(file, original, seq, usize::MAX);
    Some((anchored_before(original, seq) + 1, Tampering::Replaced))
}

/// The last event before `seq` that an anchor vouches for.
fn anchored_before(original: &Original, seq: u64) -> u64 {
    let anchored = original.anchors.iter().map(|anchor| anchor.seq.0);
    anchored
        .filter(|anchored| *anchored < seq)
        .max()
        .unwrap_or(0)
}

fn edit_a_boot(file: &Path, _: &Original, rng: &mut Rng) -> Expected {
    let boot = rng.u8(1..=2);
    with_tables(file, |tables| {
        let uuid = "00000000-0000-0000-0000-000000000000";
        tables.execute("UPDATE boot SET uuid = ? WHERE id = ?", params![uuid, boot])?;
        Ok(())
    });
    Some((if boot == 1 { 1 } else { 151 }, Tampering::Edited))
}

fn delete(file: &Path, _: &Original, rng: &mut Rng) -> Expected {
    let first = rng.u64(1..EVENTS);
    let last = rng.u64(first..EVENTS);
    with_tables(file, |tables| {
        let range = [first.cast_signed(), last.cast_signed()];
        tables.execute("DELETE FROM event WHERE seq BETWEEN ? AND ?", range)?;
        Ok(())
    });
    Some((first, Tampering::Deleted))
}

fn delete_and_renumber(file: &Path, _: &Original, rng: &mut Rng) -> Expected {
    let seq = rng.u64(1..EVENTS);
    with_tables(file, |tables| {
        tables.execute("DELETE FROM event WHERE seq = ?", [seq.cast_signed()])?;
        for later in seq + 1..=EVENTS {
            let [to, from] = [later - 1, later].map(u64::cast_signed);
            tables.execute("UPDATE event SET seq = ? WHERE seq = ?", [to, from])?;
        }
        Ok(())
    });
    Some((seq, Tampering::Deleted))
}

fn two(rng: &mut Rng) -> (u64, u64) {
    let one = rng.u64(1..EVENTS);
    (one, rng.u64(one + 1..=EVENTS))
}

fn swap(file: &Path, _: &Original, rng: &mut Rng) -> Expected {
    let (one, other) = two(rng);
    with_tables(file, |tables| {
        for (to, from) in [(0, one), (one, other), (other, 0)] {
            let [to, from] = [to, from].map(u64::cast_signed);
            tables.execute("UPDATE event SET seq = ? WHERE seq = ?", [to, from])?;
        }
        Ok(())
    });
    Some((one, Tampering::Swapped))
}

fn swap_bodies(file: &Path, original: &Original, rng: &mut Rng) -> Expected {
    let (one, other) = two(rng);
    with_tables(file, |tables| {
        for (seq, from) in [(one, other), (other, one)] {
            let body = &original.events[usize::try_from(from).unwrap() - 1]
                .event
                .body;
            let seq = seq.cast_signed();
            tables.execute(
                "UPDATE event SET body = ? WHERE seq = ?",
                params![body, seq],
            )?;
        }
        Ok(())
    });
    Some((one, Tampering::Edited))
}

fn cut_off(file: &Path, _: &Original, rng: &mut Rng) -> Expected {
    let first = any(rng);
    with_tables(file, |tables| {
        tables.execute("DELETE FROM event WHERE seq >= ?", [first.cast_signed()])?;
        Ok(())
    });
    Some((first, Tampering::Truncated))
}

fn put_back(file: &Path, original: &Original, _: &mut Rng) -> Expected {
    fs::write(file, &original.older).unwrap();
    Some((OLDER + 1, Tampering::Truncated))
}

/// An older copy, in which a writer that knows no anchors goes on.
fn put_back_and_go_on(file: &Path, original: &Original, rng: &mut Rng) -> Expected {
    fs::write(file, &original.older).unwrap();
    let last = rng.u64(OLDER + 1..EVENTS + 50);
    let place = monitor::history::Place::new(file.parent().unwrap());
    let mut events = monitor::history::Events::open(&place, Vec::new()).unwrap();
    let others: Vec<_> = (OLDER + 1..=last).map(|seq| event(seq + 1_000)).collect();
    events.append(&others).unwrap();
    let known = original.anchors.iter().map(|anchor| anchor.seq.0);
    let met = known.filter(|known| *known > OLDER).min().unwrap();
    Some(if last < met {
        (last + 1, Tampering::Truncated)
    } else {
        (anchored_before(original, met) + 1, Tampering::Replaced)
    })
}

fn drop_a_trigger(file: &Path, _: &Original, rng: &mut Rng) -> Expected {
    let triggers = [
        "event_is_next",
        "event_stays",
        "event_is_kept",
        "boot_stays",
        "boot_is_kept",
    ];
    let trigger = triggers[rng.usize(..triggers.len())];
    let connection = Connection::open(file).unwrap();
    connection
        .execute_batch(&format!("DROP TRIGGER {trigger}"))
        .unwrap();
    let refused = Reader::open(file.parent().unwrap()).unwrap_err();
    assert!(refused.to_string().contains(trigger), "{refused}");
    None
}

fn flip_bits(file: &Path, original: &Original, rng: &mut Rng) -> Expected {
    let mut bytes = original.bytes.clone();
    for _ in 0..rng.u32(1..=8) {
        let at = rng.usize(..bytes.len());
        bytes[at] ^= 1 << rng.u32(..8);
    }
    fs::write(file, bytes).unwrap();
    None
}

fn swap_pages(file: &Path, original: &Original, rng: &mut Rng) -> Expected {
    let mut bytes = original.bytes.clone();
    let pages = bytes.len() / 4_096;
    let one = rng.usize(..pages - 1);
    let other = rng.usize(one + 1..pages);
    let (head, tail) = bytes.split_at_mut(other * 4_096);
    head[one * 4_096..][..4_096].swap_with_slice(&mut tail[..4_096]);
    fs::write(file, bytes).unwrap();
    None
}

fn shorten(file: &Path, original: &Original, rng: &mut Rng) -> Expected {
    let len = rng.usize(..original.bytes.len());
    fs::write(file, &original.bytes[..len]).unwrap();
    None
}

#[test]
fn a_history_that_was_cut_off_put_back_or_removed_is_not_gone_on_with() {
    let root = scratch();
    let layout = Layout::below(root.path());
    let file: PathBuf = layout.history.join("events.db");
    drop(layout.fill(150));
    let older = fs::read(&file).unwrap();
    drop(layout.fill(350));
    for what in ["cut off", "put back", "removed"] {
        match what {
            "cut off" => with_tables(&file, |tables| {
                tables
                    .execute("DELETE FROM event WHERE seq > 290", [])
                    .map(|_| ())
            }),
            "put back" => fs::write(&file, &older).unwrap(),
            _ => fs::remove_file(&file).unwrap(),
        }
        let error = layout.open().unwrap_err();
        assert!(error.is_damage(), "{what}: {error}");
        assert!(
            error.to_string().contains("an anchor remembers"),
            "{what}: {error}"
        );
    }
}
