//! Reads text files of `/proc` and `/sys` again and again, through descriptors it keeps.
//!
//! It knows when a file is absent, cannot be read or is too long, not what any file means. Whatever
//! a file holds, and whatever becomes of it between two looks, reading it ends in text or in a
//! [`ProbeError`].
//!
//! The kernel writes such a file anew for whoever reads it from its start, so one `pread` from
//! offset 0 is a look. A file of a device or process that is gone answers with an error for ever;
//! then it is opened again, once, in case there is another by now.

use super::ProbeError;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, statat};
use rustix::io::{Errno, pread};
use std::borrow::Cow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::str::{FromStr, SplitAsciiWhitespace};
use std::sync::Arc;

/// Longest file that is taken whole. `/proc/stat` of a host with 512 CPUs has about 100 KiB.
const TEXT_LEN_MAX: usize = 1 << 20;
/// Buffers start with this length and grow to what a file takes.
const BUFFER_LEN: usize = 4096;
/// The kernel writes a page at a time, and breaks off before its end only where the next record, a line
/// as a rule, no longer fits into it. No record of what is read here is longer than this, and so a first
/// read that leaves as much of its page has taken all of a file.
const RECORD_LEN_MAX: usize = 2048;
/// Files that are read line by line are taken in pieces of this length, which no line exceeds.
const PIECE_LEN: usize = 64 << 10;

/// A directory that stays the same one whatever comes to stand under its name, and its name.
#[derive(Clone, Debug)]
pub(super) struct Directory {
    descriptor: Arc<OwnedFd>,
    path: PathBuf,
}

impl Directory {
    pub(super) fn open(path: &Path) -> Result<Self, ProbeError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptor = openat(CWD, path, flags, Mode::empty());
        Ok(Self {
            descriptor: Arc::new(descriptor.map_err(|errno| error(path, errno))?),
            path: path.to_owned(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file `name` in it, or below it.
    pub(super) fn file(&self, name: &str) -> TextFile {
        TextFile {
            path: self.path.join(name),
            place: Some((self.clone(), name.to_owned())),
            open: None,
            record_len_max: RECORD_LEN_MAX,
        }
    }

    /// Opens a directory in it, to list what is there.
    pub(super) fn list(&self, name: &str) -> Result<OwnedFd, ProbeError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(self.as_fd(), name, flags, Mode::empty())
            .map_err(|errno| error(&self.path.join(name), errno))
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// A text file that is read again and again.
#[derive(Debug)]
pub(super) struct TextFile {
    path: PathBuf,
    /// The directory it is opened from, with its name there; `None` for what stays where it is.
    place: Option<(Directory, String)>,
    open: Option<OwnedFd>,
    record_len_max: usize,
}

impl TextFile {
    /// The file at `path`, which need not exist yet.
    pub(super) const fn new(path: PathBuf) -> Self {
        Self {
            path,
            place: None,
            open: None,
            record_len_max: RECORD_LEN_MAX,
        }
    }

    /// The same, which has no record longer than `len_max` bytes: so one is read once that nearly fills
    /// its page.
    pub(super) const fn with_records_up_to(mut self, len_max: usize) -> Self {
        self.record_len_max = len_max;
        self
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it exists now, whether or not it can be read.
    pub(super) fn exists(&self) -> bool {
        match &self.place {
            Some((directory, name)) => statat(directory, name.as_str(), AtFlags::empty()).is_ok(),
            None => self.path.exists(),
        }
    }

    /// Reads it whole.
    pub(super) fn read<'b>(&mut self, buffer: &'b mut Vec<u8>) -> Result<Cow<'b, str>, ProbeError> {
        let surely_all = BUFFER_LEN - self.record_len_max;
        self.retrying(|file| read_whole(file, buffer, surely_all))
            .and_then(|len| match len {
                Some(len) => Ok(text(&buffer[..len])),
                None => Err(nonsense(
                    &self.path,
                    format!("is longer than {TEXT_LEN_MAX} bytes"),
                )),
            })
    }

    /// Reads it whole, anew opened: for a file that shows what was there when it was opened.
    pub(super) fn read_anew<'b>(
        &mut self,
        buffer: &'b mut Vec<u8>,
    ) -> Result<Cow<'b, str>, ProbeError> {
        self.open = None;
        self.read(buffer)
    }

    /// Reads it and parses it; `expected` completes the sentence "is not ...".
    pub(super) fn parse<T>(
        &mut self,
        buffer: &mut Vec<u8>,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, ProbeError> {
        parse(&self.read(buffer)?).ok_or_else(|| nonsense(&self.path, format!("is not {expected}")))
    }

    /// Reads it line by line, up to `len_max` bytes, and returns how many bytes that were. `line`
    /// returns `None` for what is nonsense; `expected` as in [`parse`](Self::parse).
    pub(super) fn lines(
        &mut self,
        buffer: &mut Vec<u8>,
        len_max: u64,
        expected: &str,
        mut line: impl FnMut(&str) -> Option<()>,
    ) -> Result<u64, ProbeError> {
        grow(buffer, PIECE_LEN);
        let mut take = |bytes: &[u8]| line(&text(bytes));
        let (mut kept, mut offset) = (0, 0);
        loop {
            let got = self.retrying_at(offset, |file| {
                read_some(file, &mut buffer[kept..PIECE_LEN], offset)
            })?;
            offset += u64::try_from(got).expect("a piece is shorter than 2^64 bytes");
            let filled = kept + got;
            let end = buffer[..filled].iter().rposition(|&byte| byte == b'\n');
            let taken = match (end, got) {
                (_, 0) => filled,
                (Some(end), _) => end + 1,
                (None, _) => 0,
            };
            let whole = buffer[..taken].strip_suffix(b"\n");
            let whole = whole.unwrap_or(&buffer[..taken]);
            if taken > 0
                && whole
                    .split(|&byte| byte == b'\n')
                    .any(|line| take(line).is_none())
            {
                return Err(nonsense(&self.path, format!("is not {expected}")));
            }
            if got == 0 {
                return Ok(offset);
            }
            buffer.copy_within(taken..filled, 0);
            kept = filled - taken;
            if kept == PIECE_LEN || offset > len_max {
                return Err(nonsense(&self.path, "is too long, or has a line that is"));
            }
        }
    }

    fn retrying<T>(
        &mut self,
        read: impl FnMut(&OwnedFd) -> Result<T, Errno>,
    ) -> Result<T, ProbeError> {
        self.retrying_at(0, read)
    }

    /// Reads through the kept descriptor, or through a new one if that has become useless. In the
    /// middle of a file there is no starting again.
    fn retrying_at<T>(
        &mut self,
        offset: u64,
        mut read: impl FnMut(&OwnedFd) -> Result<T, Errno>,
    ) -> Result<T, ProbeError> {
        if let Some(file) = self.open.take() {
            match read(&file) {
                Ok(outcome) => {
                    self.open = Some(file);
                    return Ok(outcome);
                }
                Err(errno) if offset > 0 => return Err(error(&self.path, errno)),
                Err(_) => {}
            }
        }
        let file = self.open().map_err(|errno| error(&self.path, errno))?;
        let outcome = read(&file).map_err(|errno| error(&self.path, errno))?;
        self.open = Some(file);
        Ok(outcome)
    }

    fn open(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
        match &self.place {
            Some((directory, name)) => openat(directory, name.as_str(), flags, Mode::empty()),
            None => openat(CWD, &self.path, flags, Mode::empty()),
        }
    }
}

/// Reads until the end of the file and returns how much that was; `None` if it is too much. A first read
/// of no more than `surely_all` bytes was all of it.
fn read_whole(
    file: &OwnedFd,
    buffer: &mut Vec<u8>,
    surely_all: usize,
) -> Result<Option<usize>, Errno> {
    grow(buffer, BUFFER_LEN);
    let mut len = 0;
    loop {
        if len == buffer.len() {
            if len >= TEXT_LEN_MAX {
                return Ok(None);
            }
            grow(buffer, 2 * len);
        }
        let offset = u64::try_from(len).expect("a text is shorter than 2^64 bytes");
        match read_some(file, &mut buffer[len..], offset)? {
            0 => return Ok(Some(len)),
            all if len == 0 && all <= surely_all => return Ok(Some(all)),
            more => len += more,
        }
    }
}

fn read_some(file: &OwnedFd, into: &mut [u8], offset: u64) -> Result<usize, Errno> {
    loop {
        match pread(file, &mut *into, offset) {
            Err(Errno::INTR) => {}
            outcome => return outcome,
        }
    }
}

/// Bytes as text. Nearly all are, and to see that takes less than to look for what is not.
fn text(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => String::from_utf8_lossy(bytes),
    }
}

fn grow(buffer: &mut Vec<u8>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
}

/// What the kernel's reason means: that there is nothing, or that it cannot be seen.
pub(super) fn error(path: &Path, errno: Errno) -> ProbeError {
    match errno {
        // The last two are how a file says that its process has ended or its device is gone.
        Errno::NOENT | Errno::NOTDIR | Errno::SRCH | Errno::NODEV | Errno::NXIO => {
            ProbeError::Absent {
                what: path.display().to_string(),
            }
        }
        errno => ProbeError::Unreadable {
            path: path.to_owned(),
            source: errno.into(),
        },
    }
}

pub(super) fn nonsense(path: &Path, what: impl Into<String>) -> ProbeError {
    ProbeError::Nonsense {
        path: path.to_owned(),
        what: what.into(),
    }
}

/// The next word as a number.
pub(super) fn next<T: FromStr>(words: &mut SplitAsciiWhitespace<'_>) -> Option<T> {
    words.next()?.parse().ok()
}

/// A whole text as a number, without what surrounds it: some files of `/sys` end in a newline, and
/// some of debugfs in a NUL byte besides.
pub(super) fn number<T: FromStr>(text: &str) -> Option<T> {
    bare(text).parse().ok()
}

pub(super) fn bare(text: &str) -> &str {
    text.trim_matches(|character: char| character == '\0' || character.is_ascii_whitespace())
}

/// Text that can go to a terminal or a log: short, and without control characters.
pub(super) fn printable(text: &str) -> String {
    const SHOWN_MAX: usize = 64;
    bare(text)
        .chars()
        .take(SHOWN_MAX)
        .map(|character| match character {
            ' '..='~' => character,
            _ => '?',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tree::{Mortal, Tree};
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    fn read(file: &mut TextFile) -> Result<String, ProbeError> {
        let mut buffer = Vec::new();
        file.read(&mut buffer).map(Cow::into_owned)
    }

    #[test]
    fn a_kept_descriptor_shows_what_is_written_later() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let mut file = TextFile::new(path.clone());
        assert_eq!(read(&mut file).unwrap_err().kind(), "absent");
        fs::write(&path, "up\n").unwrap();
        assert_eq!(read(&mut file).unwrap(), "up\n");
        fs::write(&path, "down\n").unwrap();
        assert_eq!(read(&mut file).unwrap(), "down\n");
    }

    #[test]
    fn a_file_is_read_whole_in_one_piece_or_in_several() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("long");
        let mut file = TextFile::new(path.clone());
        for len in [0, 1, RECORD_LEN_MAX, RECORD_LEN_MAX + 1, BUFFER_LEN, 50_000] {
            let letters = (b'a'..=b'y').map(char::from).cycle();
            let text: String = letters.take(len).collect();
            fs::write(&path, &text).unwrap();
            assert_eq!(read(&mut file).unwrap(), text);
        }
        // This one is given out in pieces, a line or many at a time.
        let vmstat = TextFile::new("/proc/vmstat".into());
        let pieces = read(&mut vmstat.with_records_up_to(128)).unwrap();
        let names = |text: &str| -> Vec<String> {
            let lines = text.lines().filter_map(|line| line.split_once(' '));
            lines.map(|(name, _)| name.to_owned()).collect()
        };
        let whole = fs::read_to_string("/proc/vmstat").unwrap();
        assert_eq!(names(&pieces), names(&whole));
    }

    #[test]
    fn what_is_gone_is_opened_again_in_case_there_is_another() {
        let tree = Tree::empty();
        let mortal = Mortal::new();
        tree.link("state", &mortal.path());
        let mut file = TextFile::new(tree.root().join("state"));
        read(&mut file).unwrap();
        mortal.end();
        assert_eq!(read(&mut file).unwrap_err().kind(), "absent");

        let mortal = Mortal::new();
        tree.remove("state");
        tree.link("state", &mortal.path());
        read(&mut file).unwrap();
        mortal.end();
        tree.remove("state");
        tree.write("state", "another");
        assert_eq!(read(&mut file).unwrap(), "another");
    }

    #[test]
    fn a_directory_and_a_file_below_a_file_are_no_text() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = TextFile::new(directory.path().to_owned());
        assert_eq!(read(&mut file).unwrap_err().kind(), "unreadable");
        fs::write(directory.path().join("file"), "").unwrap();
        let mut file = TextFile::new(directory.path().join("file/below"));
        assert_eq!(read(&mut file).unwrap_err().kind(), "absent");
    }

    #[test]
    fn a_file_without_end_is_nonsense() {
        let mut file = TextFile::new(PathBuf::from("/dev/zero"));
        assert_eq!(read(&mut file).unwrap_err().kind(), "nonsense");
        let lines = file.lines(&mut Vec::new(), u64::MAX, "text", |_| Some(()));
        assert_eq!(lines.unwrap_err().kind(), "nonsense");
    }

    #[test]
    fn a_directory_stays_the_same_when_another_takes_its_name() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("7");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("stat"), "first").unwrap();
        let directory = Directory::open(&path).unwrap();
        fs::rename(&path, parent.path().join("old")).unwrap();
        fs::create_dir(&path).unwrap();
        fs::write(path.join("stat"), "second").unwrap();
        assert_eq!(read(&mut directory.file("stat")).unwrap(), "first");
    }

    #[test]
    fn what_is_shown_cannot_steer_a_terminal() {
        assert_eq!(printable("\x1b[31mred\0\n"), "?[31mred");
        assert_eq!(printable(&"x".repeat(1000)).len(), 64);
        assert_eq!(number::<i32>("-1\n\0"), Some(-1));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn lines_are_those_of_the_file_wherever_pieces_end(
            lines in prop::collection::vec("[a-z]{0,3000}", 1..80),
            ends_in_newline: bool,
        ) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("lines");
            let mut text = lines.join("\n");
            if ends_in_newline { text.push('\n'); }
            fs::write(&path, &text).unwrap();
            let mut seen = Vec::new();
            let len = TextFile::new(path).lines(&mut Vec::new(), u64::MAX, "text", |line| {
                seen.push(line.to_owned());
                Some(())
            }).unwrap();
            prop_assert_eq!(len, text.len() as u64);
            // An empty last line cannot be told from the end of the one before.
            let expected: Vec<_> = text.lines().collect();
            let seen: Vec<_> = seen.iter().map(String::as_str).collect();
            prop_assert_eq!(&seen[..expected.len().min(seen.len())], &expected[..]);
        }
    }
}
