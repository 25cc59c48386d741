//! Events that are the same each time, and a process that appends them.

use hwshim::clock::Instant;
use monitor::history::{
    Anchor, BootId, Event, Events, FileAnchors, Filter, HISTORY_ARCHIVED, HistoryError, Place,
    Reader, SAMPLES_FILE, SampleReader, Samples, Severity, Stamp, Tier, Value, WallTime,
};
use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// Boots, in the order in which they come.
const BOOTS: [&str; 2] = [
    "11111111-2222-4333-8444-555555555555",
    "66666666-7777-4888-9999-aaaaaaaaaaaa",
];

/// What is recorded as number `seq`: no two are alike, and lengths differ.
pub(crate) fn event(seq: u64) -> Event {
    let boot: BootId = BOOTS[usize::from(seq > 150)].parse().unwrap();
    let stamp = Stamp {
        wall: time(seq),
        monotonic: Instant::from_nanos(seq * 1_000_000),
        boot,
    };
    let words = "evidence ".repeat(usize::try_from(seq * 7 % 90).unwrap());
    let body = format!("{seq}: {words}");
    let severity = Severity::ALL[usize::try_from(seq % 3).unwrap()];
    Event::new(
        stamp,
        "transition",
        format!("pci:0000:3b:00.{}", seq % 8),
        &body,
    )
    .with_severity(severity)
}

/// When number `seq` is recorded.
fn time(seq: u64) -> WallTime {
    WallTime::from_unix_millis(1_795_000_000_000 + i64::try_from(seq).unwrap() * 977)
}

/// A directory in memory where there is one: what is tested is what a process leaves, or what is
/// made up of what it did, and neither depends on a disk.
pub(crate) fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

/// Places of one history below a directory: what is in one is not in the other.
pub(crate) struct Layout {
    pub(crate) history: PathBuf,
    pub(crate) anchors: PathBuf,
    archive_at_bytes: u64,
}

impl Layout {
    pub(crate) fn below(root: &Path) -> Self {
        Self {
            history: root.join("history"),
            anchors: root.join("anchors"),
            archive_at_bytes: Place::ARCHIVE_AT_BYTES,
        }
    }

    /// The same, with archives of that size.
    pub(crate) fn with_archives_of(self, archive_at_bytes: u64) -> Self {
        Self {
            archive_at_bytes,
            ..self
        }
    }

    fn place(&self) -> Place {
        Place::new(&self.history).with_archives_of(self.archive_at_bytes)
    }

    pub(crate) fn open(&self) -> Result<Events, HistoryError> {
        let sink = FileAnchors::open(&self.anchors).unwrap();
        Events::open(&self.place(), vec![Box::new(sink)])
    }

    /// The archives, in the order of their numbers.
    pub(crate) fn archives(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.history).unwrap();
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.to_str().unwrap().contains("/events-"));
        paths.sort();
        paths
    }

    pub(crate) fn reader(&self) -> Result<Reader, HistoryError> {
        Reader::open(&self.history)
    }

    pub(crate) fn anchors(&self) -> Vec<Anchor> {
        FileAnchors::read(&self.anchors).unwrap()
    }

    /// Appends until so many events are there, besides those that are about archives.
    pub(crate) fn fill(&self, count: u64) -> Events {
        let mut events = self.open().unwrap();
        for seq in appended(&events) + 1..=count {
            events.append(&[event(seq)]).unwrap();
        }
        events
    }
}

/// How many events are there, besides those that are about archives.
pub(crate) fn appended(events: &Reader) -> u64 {
    let about_archives = Filter {
        kinds: vec![HISTORY_ARCHIVED.to_owned()],
        ..Filter::default()
    };
    let head = events.head().unwrap().map_or(0, |head| head.seq.0);
    head - events.query(&about_archives).unwrap().len() as u64
}

/// How many cases a campaign has.
pub(crate) fn cases(count: u64) -> u64 {
    from_environment("HWSHIM_CASES").unwrap_or(count)
}

/// The seed of each case of a campaign.
pub(crate) fn seeds(count: u64) -> std::ops::Range<u64> {
    let first = from_environment("HWSHIM_SEED").unwrap_or(1);
    first..first + cases(count)
}

fn from_environment(name: &str) -> Option<u64> {
    let value = env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name}={value} is no number")),
    )
}

/// This program, to be a writer below `root` that appends `count` times.
pub(crate) fn writer(root: &Path, count: u64) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    as_writer(&mut command, root, count);
    command
}

/// This program under `strace` with these arguments, as such a writer; nothing where there is none.
pub(crate) fn traced_writer(arguments: &[&str], root: &Path, count: u64) -> Option<Command> {
    let strace = Command::new("strace")
        .args(["-f", "-o", "/dev/null", "true"])
        .stderr(Stdio::null())
        .status();
    if !strace.is_ok_and(|status| status.success()) {
        eprintln!("skipped: strace is not there, or may not trace; Debian: apt install strace");
        return None;
    }
    let mut command = Command::new("strace");
    command.args(arguments).arg(env::current_exe().unwrap());
    as_writer(&mut command, root, count);
    Some(command)
}

fn as_writer(command: &mut Command, root: &Path, count: u64) {
    command
        .args(["--exact", "a_writer", "--nocapture", "--test-threads=1"])
        .env("HISTORY_ROOT", root)
        .env("HISTORY_COUNT", count.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
}

/// What a line of a writer says was acknowledged.
pub(crate) fn acknowledged(line: &str) -> Option<u64> {
    line.split_once("ack ")?.1.trim().parse().ok()
}

/// Appends, and says after each append what was acknowledged.
pub(crate) fn write_if_asked() {
    let Some(root) = env::var_os("HISTORY_ROOT") else {
        return;
    };
    let layout = Layout::below(Path::new(&root));
    let layout = match from_environment(ARCHIVE_AT_BYTES) {
        Some(archive_at_bytes) => layout.with_archives_of(archive_at_bytes),
        None => layout,
    };
    let mut events = match layout.open() {
        Ok(events) => events,
        Err(error) => return say(&format!("refused {error}")),
    };
    let mut samples = env::var_os(WITH_SAMPLES).map(|_| {
        let place = Place::new(&layout.history);
        Samples::open(&place, time(0)).unwrap().samples
    });
    let mut seq = appended(&events);
    for _ in 0..from_environment("HISTORY_COUNT").unwrap() {
        let count = appended_after(seq);
        let batch: Vec<_> = (seq + 1..=seq + count).map(event).collect();
        match events.append(&batch) {
            Ok(appended) => {
                seq += count;
                say(&format!("ack {appended}"));
            }
            Err(error) => say(&format!("refused {error}")),
        }
        if let Some(samples) = &mut samples {
            samples.record(SERIES, time(seq), seq as f64).unwrap();
            samples.flush().unwrap();
        }
    }
}

/// Has a writer write samples as well, one with each append.
pub(crate) const WITH_SAMPLES: &str = "HISTORY_SAMPLES";
const SERIES: &str = "number";
/// The size of a writer's archives.
pub(crate) const ARCHIVE_AT_BYTES: &str = "HISTORY_ARCHIVE_AT_BYTES";

/// Checks that the samples below a layout are the first of those that a writer recorded, without gaps
/// between them, and returns how many there are: `None` if there is no file of them yet.
pub(crate) fn check_samples(layout: &Layout) -> Option<usize> {
    layout.history.join(SAMPLES_FILE).exists().then(|| {
        let place = Place::new(&layout.history);
        // As the next run does, which moves aside what is damaged.
        let opened = Samples::open(&place, time(0)).unwrap();
        assert!(opened.damage.is_none(), "{:?}", opened.damage);
        drop(opened);
        let reader = SampleReader::open(&layout.history).unwrap();
        let mut numbers = Vec::new();
        let found = reader.range(SERIES, time(0), time(10_000), Tier::Second, |point| {
            match point.value {
                Value::Sample(number) => numbers.push(number),
                other => panic!("{other:?} after {numbers:?}"),
            }
            true
        });
        found.unwrap();
        let mut seq = 0;
        for number in &numbers {
            seq += appended_after(seq);
            assert_eq!(number.to_bits(), (seq as f64).to_bits(), "in {numbers:?}");
        }
        numbers.len()
    })
}

/// How many events are appended together: one at a time, and now and then several.
const fn appended_after(seq: u64) -> u64 {
    1 + (seq % 5 / 4) * 2
}

/// One line in one write, so that a line is there whole or not at all.
fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(format!("{line}\n").as_bytes()).unwrap();
    stdout.flush().unwrap();
}

/// Ends a child, whatever its test does.
pub(crate) struct Ended(pub(crate) Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Checks that the events below a layout are those that were to be recorded, without gaps, at
/// least up to `acknowledged`, and returns how many there are.
pub(crate) fn check_all(events: &Reader, anchors: &[Anchor], acknowledged: u64) -> u64 {
    let audit = events.verify(anchors).unwrap();
    assert!(audit.is_proven(), "{audit:?}");
    assert!(
        audit.events >= acknowledged,
        "{} < {acknowledged}",
        audit.events
    );
    let (mut next, mut about_archives) = (1, 0);
    events
        .each(&Filter::default(), |found| {
            assert_eq!(found.seq.0, next);
            if found.event.kind == HISTORY_ARCHIVED {
                about_archives += 1;
            } else {
                assert_eq!(found.event, event(next - about_archives));
            }
            next += 1;
            true
        })
        .unwrap();
    assert_eq!(next - 1, audit.events);
    assert_eq!(about_archives, audit.archives);
    audit.events
}
