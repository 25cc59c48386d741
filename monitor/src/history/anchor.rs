//! Where the head of the chain is written down outside the file that holds the chain.
//!
//! Whoever can write to a chain can cut off its end, or put an older copy in its place, and what is
//! left is a perfect chain. What was told to somebody else shows it.
//!
//! ```text
//!   cardmon-anchor v1 seq=100 wall=<nanoseconds since 1970> hash=<64 hexadecimal digits>
//! ```
//!
//! One line of text, the same for every sink, so that whatever a log kept of it can be read back.
//! The hash stands last and has one length, so a line that was cut short is told from a whole one.

use super::event::Seq;
use super::time::WallTime;
use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A point that the chain had reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Anchor {
    /// The last event then.
    pub seq: Seq,
    /// Its hash.
    pub hash: [u8; 32],
    /// When that event was.
    pub wall: WallTime,
}

const WORD: &str = "cardmon-anchor v1";

impl fmt::Display for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seq, hash, wall } = self;
        write!(f, "{WORD} seq={seq} wall={} hash=", wall.unix_nanos())?;
        hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A line that should be an anchor and is none.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is no anchor; one reads: {WORD} seq=1 wall=<nanoseconds> hash=<64 digits>")]
pub struct UnreadableAnchor(String);

impl FromStr for Anchor {
    type Err = UnreadableAnchor;

    /// Reads an anchor wherever it stands in a line, as the system's log puts words before it.
    fn from_str(line: &str) -> Result<Self, UnreadableAnchor> {
        parse(line).ok_or_else(|| UnreadableAnchor(line.chars().take(200).collect()))
    }
}

fn parse(line: &str) -> Option<Anchor> {
    let mut fields = line[line.find(WORD)? + WORD.len()..].split_ascii_whitespace();
    let mut field = |name: &str| fields.next()?.strip_prefix(name)?.strip_prefix('=');
    let seq = field("seq")?.parse().ok()?;
    let wall = field("wall")?.parse().ok()?;
    let hash = hash(field("hash")?)?;
    Some(Anchor {
        seq: Seq(seq),
        hash,
        wall: WallTime::from_unix_nanos(wall),
    })
}

fn hash(digits: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    let plain = digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    for (index, byte) in hash.iter_mut().enumerate().take_while(|_| plain) {
        *byte = u8::from_str_radix(&digits[2 * index..2 * index + 2], 16).ok()?;
    }
    plain.then_some(hash)
}

/// Somebody to tell.
///
/// **Seam.** A file elsewhere, the system's log; a test's own.
pub trait AnchorSink: Send {
    /// Names it in messages.
    fn name(&self) -> String;

    /// Writes an anchor down.
    ///
    /// # Errors
    ///
    /// What kept it. The history goes on, and says so; see [`super::Events::anchor_troubles`].
    fn write(&mut self, anchor: &Anchor) -> io::Result<()>;

    /// The last one that was written down, where that can be asked.
    ///
    /// # Errors
    ///
    /// What kept it from being read.
    fn last(&self) -> io::Result<Option<Anchor>> {
        Ok(None)
    }
}

/// A file that only grows, best in a directory where the history's writer may do nothing else.
///
/// An operator can make that hold for root too: `chattr +a`.
#[derive(Debug)]
pub struct FileAnchors {
    path: PathBuf,
    file: File,
}

impl FileAnchors {
    /// Opens the file for appending, and makes it if it is not there.
    ///
    /// # Errors
    ///
    /// If it cannot be opened, or holds something else.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)?;
        if let Some(directory) = path.parent().filter(|path| !path.as_os_str().is_empty()) {
            File::open(directory)?.sync_all()?;
        }
        Self::read(&path)?;
        Ok(Self { path, file })
    }

    /// All anchors of a file, in the order in which they were written.
    ///
    /// A last line without an end is a write that was cut short; it was never acknowledged.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or a line is no anchor.
    pub fn read(path: &Path) -> io::Result<Vec<Anchor>> {
        let mut text = String::new();
        File::open(path)?.read_to_string(&mut text)?;
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut anchors = Vec::new();
        for (index, line) in whole.lines().enumerate() {
            // What was cut short was ended by the next writer.
            match line.parse() {
                Ok(anchor) => anchors.push(anchor),
                Err(_) if line.is_empty() || cut_short(line) => {}
                Err(error) => {
                    let number = index + 1;
                    let what = format!("{}: line {number}: {error}", path.display());
                    return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                }
            }
        }
        Ok(anchors)
    }

    fn ends_in_the_middle(&self) -> io::Result<bool> {
        let Some(end) = self.file.metadata()?.len().checked_sub(1) else {
            return Ok(false);
        };
        let mut last = [0];
        self.file.read_exact_at(&mut last, end)?;
        Ok(last != *b"\n")
    }
}

/// Whether a line is the beginning of an anchor and no more.
fn cut_short(line: &str) -> bool {
    let hash = line.split_once(" hash=").map(|(_, digits)| digits);
    WORD.starts_with(line) || line.starts_with(WORD) && hash.is_none_or(|hash| hash.len() < 64)
}

impl AnchorSink for FileAnchors {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn write(&mut self, anchor: &Anchor) -> io::Result<()> {
        let mut line = String::new();
        if self.ends_in_the_middle()? {
            line.push('\n');
        }
        writeln!(line, "{anchor}").expect("text grows");
        self.file.write_all(line.as_bytes())?;
        self.file.sync_data()
    }

    fn last(&self) -> io::Result<Option<Anchor>> {
        Ok(Self::read(&self.path)?.last().copied())
    }
}

/// The system's log, which often leaves the host: `/dev/log`, read by journald or a syslog daemon.
#[derive(Debug)]
pub struct SyslogAnchors {
    path: PathBuf,
}

impl SyslogAnchors {
    /// Where systems listen.
    pub const SOCKET: &'static str = "/dev/log";
    /// Facility 10 (security messages that not everybody may read), severity 5 (notice)
    /// (RFC 3164 §4.1.1 "PRI Part").
    const PRIORITY: u8 = 10 * 8 + 5;

    /// Tells who listens on the socket at `path`, if something is there.
    #[must_use]
    pub fn find(path: impl Into<PathBuf>) -> Option<Self> {
        let path = path.into();
        path.exists().then_some(Self { path })
    }
}

impl AnchorSink for SyslogAnchors {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Connects anew each time: whoever listens may have been started anew.
    fn write(&mut self, anchor: &Anchor) -> io::Result<()> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(&self.path)?;
        // A log that takes nothing must not stop the history.
        socket.set_nonblocking(true)?;
        let pid = std::process::id();
        let message = format!("<{}>cardmon[{pid}]: {anchor}", Self::PRIORITY);
        socket.send(message.as_bytes()).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anchor(seq: u64) -> Anchor {
        let mut hash = [0; 32];
        hash[0] = 0xa5;
        hash[31] = u8::try_from(seq).unwrap();
        Anchor {
            seq: Seq(seq),
            hash,
            wall: WallTime::from_unix_nanos(-7),
        }
    }

    #[test]
    fn an_anchor_is_read_back_from_the_line_of_a_log() {
        let line = format!("Nov 22 01:00:00 host cardmon[7]: {} ", anchor(9));
        assert_eq!(line.parse(), Ok(anchor(9)));
        for wrong in [
            "",
            WORD,
            "cardmon-anchor v1 seq=x wall=0 hash=00",
            &anchor(9).to_string().replace("a5", "+5"),
            &anchor(9).to_string().replace("v1", "v2"),
        ] {
            wrong.parse::<Anchor>().unwrap_err();
        }
    }

    #[test]
    fn a_line_that_was_cut_short_costs_itself_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("anchors");
        let line = anchor(2).to_string();
        for end in 0..line.len() {
            let _ = std::fs::remove_file(&path);
            FileAnchors::open(&path).unwrap().write(&anchor(1)).unwrap();
            let mut file = OpenOptions::new().append(true).open(&path).unwrap();
            file.write_all(&line.as_bytes()[..end]).unwrap();
            let mut again = FileAnchors::open(&path).unwrap();
            assert_eq!(again.last().unwrap(), Some(anchor(1)));
            again.write(&anchor(3)).unwrap();
            assert_eq!(FileAnchors::read(&path).unwrap(), [anchor(1), anchor(3)]);
        }
    }

    #[test]
    fn a_file_of_something_else_is_not_appended_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("anchors");
        std::fs::write(&path, "root:x:0:0\n").unwrap();
        let error = FileAnchors::open(&path).unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
    }

    #[test]
    fn the_log_is_told_in_its_own_words() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        assert!(SyslogAnchors::find(&path).is_none());
        let log = UnixDatagram::bind(&path).unwrap();
        let mut sink = SyslogAnchors::find(&path).unwrap();
        sink.write(&anchor(3)).unwrap();
        let mut message = [0; 512];
        let len = log.recv(&mut message).unwrap();
        let message = std::str::from_utf8(&message[..len]).unwrap();
        assert!(message.starts_with("<85>cardmon["), "{message}");
        assert_eq!(message.parse(), Ok(anchor(3)));
        drop(log);
        sink.write(&anchor(4)).unwrap_err();
    }
}
