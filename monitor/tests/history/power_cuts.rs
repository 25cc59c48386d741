//! A power cut at any moment: what was acknowledged is there, whatever the disk had not yet written.
//!
//! A writer is watched by `strace`, and what it did to its files is played back onto a disk that
//! exists in this test only. Cut off anywhere, that disk keeps what was synced. Of the rest it keeps
//! what it likes: all, nothing, some writes, some sectors of some writes; and of names that were
//! made, changed or removed, as many as it likes, in their order.
//!
//! The file of shared memory that belongs to a write-ahead log is left out: nothing in it outlives
//! the processes that share it.

use crate::support::{
    ARCHIVE_AT_BYTES, Layout, WITH_SAMPLES, acknowledged, appended, check_all, check_samples,
    event, scratch, seeds, traced_writer,
};
use fastrand::Rng;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What a disk writes at once or not at all.
const SECTOR: usize = 512;

/// What a writer did, in the order in which it did it.
#[derive(Debug)]
enum Step {
    Create(PathBuf),
    Link(PathBuf, PathBuf),
    Rename(PathBuf, PathBuf),
    Unlink(PathBuf),
    Write(PathBuf, Option<usize>, Vec<u8>),
    Truncate(PathBuf, usize),
    Sync(PathBuf),
    Acknowledge(u64),
}

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

/// A file as the disk has it, and what it has been asked to do to it since.
#[derive(Debug, Default)]
struct File {
    durable: Vec<u8>,
    pending: Vec<Change>,
    len: usize,
}

#[derive(Clone, Debug)]
enum Naming {
    Name(PathBuf, usize),
    Link(PathBuf, PathBuf),
    Rename(PathBuf, PathBuf),
    Unlink(PathBuf),
}

/// A disk: files, their names, and what is not yet certain.
#[derive(Debug, Default)]
struct Disk {
    files: Vec<File>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    pending_names: Vec<Naming>,
    acknowledged: u64,
}

impl Disk {
    fn play(&mut self, step: &Step) {
        match step {
            Step::Create(path) if !self.names.contains_key(path) => {
                self.files.push(File::default());
                self.name(Naming::Name(path.clone(), self.files.len() - 1));
            }
            Step::Create(_) => {}
            Step::Link(from, to) => self.name(Naming::Link(from.clone(), to.clone())),
            Step::Rename(from, to) => self.name(Naming::Rename(from.clone(), to.clone())),
            Step::Unlink(path) => self.name(Naming::Unlink(path.clone())),
            Step::Write(path, offset, bytes) => {
                let file = self.file(path);
                let offset = offset.unwrap_or(file.len);
                file.len = file.len.max(offset + bytes.len());
                file.pending.push(Change::Write(offset, bytes.clone()));
            }
            Step::Truncate(path, len) => {
                let file = self.file(path);
                file.len = *len;
                file.pending.push(Change::Truncate(*len));
            }
            Step::Sync(path) if self.names.contains_key(path) => {
                let file = self.file(path);
                for change in std::mem::take(&mut file.pending) {
                    change.apply(&mut file.durable);
                }
            }
            Step::Sync(directory) => {
                let (synced, pending) = std::mem::take(&mut self.pending_names)
                    .into_iter()
                    .partition(|naming| naming.path().parent() == Some(directory));
                self.pending_names = pending;
                let synced: Vec<Naming> = synced;
                for naming in synced {
                    naming.apply(&mut self.durable_names);
                }
            }
            Step::Acknowledge(seq) => self.acknowledged = *seq,
        }
    }

    fn name(&mut self, naming: Naming) {
        naming.apply(&mut self.names);
        self.pending_names.push(naming);
    }

    fn file(&mut self, path: &Path) -> &mut File {
        let index = self.names.get(path);
        &mut self.files[*index.unwrap_or_else(|| panic!("{} was never made", path.display()))]
    }

    /// What is left after the power was cut now: files, with all their names.
    fn cut(&self, rng: &mut Rng) -> Vec<(Vec<PathBuf>, Vec<u8>)> {
        let mut names = self.durable_names.clone();
        let kept = rng.usize(..=self.pending_names.len());
        for naming in &self.pending_names[..kept] {
            naming.apply(&mut names);
        }
        let mood = rng.u8(..4);
        let mut files: BTreeMap<usize, Vec<PathBuf>> = BTreeMap::new();
        for (path, index) in names {
            files.entry(index).or_default().push(path);
        }
        let content = |(index, paths): (usize, Vec<PathBuf>)| {
            let file = &self.files[index];
            let mut bytes = file.durable.clone();
            for change in &file.pending {
                change.apply_in_part(&mut bytes, mood, rng);
            }
            (paths, bytes)
        };
        files.into_iter().map(content).collect()
    }
}

impl Naming {
    fn path(&self) -> &Path {
        match self {
            Self::Name(path, _)
            | Self::Link(path, _)
            | Self::Rename(path, _)
            | Self::Unlink(path) => path,
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Name(path, index) => {
                names.insert(path.clone(), *index);
            }
            Self::Link(from, to) => {
                if let Some(index) = names.get(from) {
                    names.insert(to.clone(), *index);
                }
            }
            Self::Rename(from, to) => {
                if let Some(index) = names.remove(from) {
                    names.insert(to.clone(), index);
                }
            }
            Self::Unlink(path) => {
                names.remove(path);
            }
        }
    }
}

impl Change {
    fn apply(&self, file: &mut Vec<u8>) {
        match self {
            Self::Write(offset, bytes) => write(file, *offset, bytes),
            Self::Truncate(len) => file.resize(*len, 0),
        }
    }

    fn apply_in_part(&self, file: &mut Vec<u8>, mood: u8, rng: &mut Rng) {
        match (mood, self) {
            (0, _) => self.apply(file),
            (1, _) => {}
            (2, _) | (_, Self::Truncate(_)) => {
                if rng.bool() {
                    self.apply(file);
                }
            }
            (_, Self::Write(offset, bytes)) => {
                let mut start = 0;
                while start < bytes.len() {
                    let end = bytes.len().min(start + SECTOR - (offset + start) % SECTOR);
                    if rng.bool() {
                        write(file, offset + start, &bytes[start..end]);
                    }
                    start = end;
                }
            }
        }
    }
}

fn write(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    file.resize(file.len().max(end), 0);
    file[offset..end].copy_from_slice(bytes);
}

#[test]
fn a_power_cut_takes_no_acknowledged_event_and_of_samples_only_the_end() {
    let Some(steps) = record(300, None) else {
        return;
    };
    cut_off_anywhere(&steps, 1_000, None);
}

#[test]
fn a_power_cut_while_archives_are_made_takes_no_acknowledged_event_and_leaves_none_twice() {
    // The smallest file there is holds more, so that each append makes an archive.
    let archives = Some(1);
    let Some(steps) = record(16, archives) else {
        return;
    };
    let links = steps.iter().filter(|step| matches!(step, Step::Link(..)));
    assert!(links.count() > 10);
    cut_off_anywhere(&steps, 300, archives);
}

fn cut_off_anywhere(steps: &[Step], cuts: u64, archive_at_bytes: Option<u64>) {
    let mut cuts: Vec<_> = seeds(cuts)
        .map(|seed| {
            let mut rng = Rng::with_seed(seed);
            (rng.usize(..=steps.len()), seed, rng)
        })
        .collect();
    cuts.sort_by_key(|(cut, ..)| *cut);
    let mut disk = Disk::default();
    let mut played = 0;
    let mut unacknowledged = 0;
    let mut samples = Vec::new();
    for (cut, seed, mut rng) in cuts {
        for step in &steps[played..cut] {
            disk.play(step);
        }
        played = cut;
        let root = scratch();
        let layout = Layout::below(root.path());
        let layout = layout.with_archives_of(archive_at_bytes.unwrap_or(u64::MAX));
        fs::create_dir(&layout.history).unwrap();
        for (paths, bytes) in disk.cut(&mut rng) {
            let paths: Vec<_> = paths.iter().map(|path| root.path().join(path)).collect();
            fs::write(&paths[0], bytes).unwrap();
            for path in &paths[1..] {
                fs::hard_link(&paths[0], path).unwrap();
            }
        }
        let events = layout.open();
        let mut events = events.unwrap_or_else(|error| panic!("seed {seed}, cut {cut}: {error}"));
        let count = check_all(&events, &layout.anchors(), disk.acknowledged);
        unacknowledged += count - disk.acknowledged;
        samples.extend(check_samples(&layout));
        if archive_at_bytes.is_some() {
            // Whatever was left of an archive that was being made, the next is made.
            for _ in 0..2 {
                let next = event(appended(&events) + 1);
                events.append(&[next]).unwrap();
            }
            assert!(events.archive_trouble().is_none());
            check_all(&events, &layout.anchors(), count + 2);
        }
    }
    eprintln!(
        "{} steps; {unacknowledged} events were there that had not been acknowledged",
        steps.len()
    );
    // That something was there to be checked.
    let least = if archive_at_bytes.is_some() { 5 } else { 100 };
    assert!(samples.iter().max().is_some_and(|most| *most > least));
}

/// What a writer does, its files named from where they are below its root.
fn record(count: u64, archive_at_bytes: Option<u64>) -> Option<Vec<Step>> {
    let root = scratch();
    let log = scratch();
    let log = log.path().join("trace");
    let arguments = [
        "-f",
        "-y",
        "-xx",
        "-s",
        "1000000",
        "-e",
        "trace=openat,write,pwrite64,fsync,fdatasync,ftruncate,linkat,rename,unlink",
        "-o",
        log.to_str().unwrap(),
    ];
    let mut child = traced_writer(&arguments, root.path(), count)?;
    if let Some(archive_at_bytes) = archive_at_bytes {
        child.env(ARCHIVE_AT_BYTES, archive_at_bytes.to_string());
    }
    let output = child.env(WITH_SAMPLES, "1").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = fs::read_to_string(&log).unwrap();
    let steps: Vec<_> = text
        .lines()
        .filter_map(|line| step(line, root.path()))
        .collect();
    let acknowledged = |step: &&Step| matches!(step, Step::Acknowledge(_));
    assert_eq!(steps.iter().filter(acknowledged).count() as u64, count);
    // A log that was moved into its file is part of what is tried.
    let checkpoint =
        |step: &Step| matches!(step, Step::Write(path, ..) if path.ends_with("events.db"));
    assert!(steps.iter().any(checkpoint));
    Some(steps)
}

/// A line as `7 pwrite64(5</root/history/events.db>, "\x53...", 4096, 0) = 4096`.
fn step(line: &str, root: &Path) -> Option<Step> {
    let (_, line) = line.split_once(' ')?;
    let (name, rest) = line.trim_start().split_once('(')?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    if result.starts_with('-') {
        return None;
    }
    let result = result.split(['<', ' ']).next()?;
    let strings: Vec<_> = arguments.split('"').skip(1).step_by(2).map(unhex).collect();
    let ours = |path: &[u8]| {
        let path = PathBuf::from(std::str::from_utf8(path).ok()?);
        let path = path.strip_prefix(root).ok()?.to_owned();
        let name = path.to_str()?;
        (!name.ends_with("-shm") && !name.ends_with(".lock")).then_some(path)
    };
    let open_file = || {
        let (path, _) = arguments.split_once('<')?.1.split_once('>')?;
        ours(&unhex(path))
    };
    let last = || {
        arguments
            .trim_end_matches(')')
            .rsplit(", ")
            .next()?
            .parse()
            .ok()
    };
    match name {
        "openat" if arguments.contains("O_CREAT") => Some(Step::Create(ours(&strings[0])?)),
        "linkat" => Some(Step::Link(ours(&strings[0])?, ours(&strings[1])?)),
        "rename" => Some(Step::Rename(ours(&strings[0])?, ours(&strings[1])?)),
        "unlink" => Some(Step::Unlink(ours(&strings[0])?)),
        "fsync" | "fdatasync" => Some(Step::Sync(open_file()?)),
        "ftruncate" => Some(Step::Truncate(open_file()?, last()?)),
        "write" if arguments.starts_with("1<") => {
            let said = String::from_utf8_lossy(&strings[0]).into_owned();
            acknowledged(&said).map(Step::Acknowledge)
        }
        "write" | "pwrite64" => {
            let path = open_file()?;
            assert_eq!(
                result.parse(),
                Ok(strings[0].len()),
                "a write was cut short"
            );
            let offset = if name == "write" { None } else { Some(last()?) };
            Some(Step::Write(path, offset, strings[0].clone()))
        }
        _ => None,
    }
}

/// The bytes of `\x41\x42`, or of a text that has none of these.
fn unhex(text: &str) -> Vec<u8> {
    if !text.starts_with("\\x") {
        return text.as_bytes().to_vec();
    }
    let digits = |byte: &[u8]| u8::from_str_radix(std::str::from_utf8(&byte[2..]).unwrap(), 16);
    let bytes = text.as_bytes().chunks_exact(4);
    bytes.map(|byte| digits(byte).unwrap()).collect()
}
