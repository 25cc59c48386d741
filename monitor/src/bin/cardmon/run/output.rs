//! What is shown or said, on its way to whoever reads it, who may stop reading and must not stop the watch.
//!
//! A terminal that was halted, a pager that waits and a connection that hangs all take nothing for as
//! long as they like. A thread of its own waits for them; what comes meanwhile waits for it, and where
//! there is no more room it is dropped, and the number of that is said.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

/// Pieces that wait: a minute of polls, usually.
const ROOM: usize = 64;

/// Where it is put.
#[derive(Debug)]
pub(super) struct Output {
    pieces: SyncSender<Piece>,
    /// Tells, by being closed, that the thread has ended.
    ended: Receiver<()>,
    /// Pieces for which there was no room, since that was said.
    dropped: u64,
    /// Those of them that no piece came after.
    dropped_last: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Piece {
    text: String,
    dropped_before: u64,
}

/// What the pieces are.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// What is wrong with these is a complaint.
    Polls,
    /// What is wrong with these can be said only among them.
    Complaints,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Polls => "output",
            Self::Complaints => "complaints",
        }
    }

    fn tell_of_dropped(self, dropped: u64, sink: &mut impl Write) {
        match self {
            Self::Polls => crate::complain(&format!(
                "nobody took what was shown: {dropped} polls are not in it"
            )),
            // If that fails, so does what comes next, which is noticed.
            Self::Complaints => {
                let _ = writeln!(
                    sink,
                    "cardmon: nobody took what was said here: {dropped} messages are missing"
                );
            }
        }
    }

    fn tell_of_failure(self, error: &io::Error) {
        match self {
            Self::Polls => crate::complain(&format!("the status could not be printed: {error}")),
            Self::Complaints => {}
        }
    }
}

/// What became of a piece.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Put {
    /// It is on its way.
    OnItsWay,
    /// There was no room for it.
    Dropped,
    /// Nobody will ever read it.
    NobodyReads,
}

impl Output {
    /// Writes polls to standard output.
    pub(super) fn start() -> io::Result<Self> {
        Self::to(io::stdout(), ROOM, Kind::Polls)
    }

    /// Writes complaints to wherever those go.
    pub(super) fn of_complaints(sink: impl Write + Send + 'static) -> io::Result<Self> {
        Self::to(sink, ROOM, Kind::Complaints)
    }

    fn to(sink: impl Write + Send + 'static, room: usize, kind: Kind) -> io::Result<Self> {
        let (pieces, queue) = sync_channel(room);
        let (ends, ended) = sync_channel(0);
        let dropped_last = Arc::new(AtomicU64::new(0));
        let last = Arc::clone(&dropped_last);
        thread::Builder::new()
            .name(kind.name().to_owned())
            .spawn(move || {
                write_all(sink, &queue, &last, kind);
                drop(ends);
            })?;
        Ok(Self {
            pieces,
            ended,
            dropped: 0,
            dropped_last,
        })
    }

    /// Has a piece written, if there is room, and waits for nothing.
    pub(super) fn put(&mut self, text: String) -> Put {
        let dropped_before = self.dropped;
        let piece = Piece {
            text,
            dropped_before,
        };
        match self.pieces.try_send(piece) {
            Ok(()) => {
                self.dropped = 0;
                Put::OnItsWay
            }
            Err(TrySendError::Full(_)) => {
                self.dropped += 1;
                Put::Dropped
            }
            Err(TrySendError::Disconnected(_)) => Put::NobodyReads,
        }
    }

    /// Waits until all is written, or for so long.
    pub(super) fn end(self, patience: Duration) {
        let Self {
            pieces,
            ended,
            dropped,
            dropped_last,
        } = self;
        // The end of the queue, which its closing makes seen, comes after this.
        dropped_last.store(dropped, Ordering::Release);
        drop(pieces);
        // Either way this is all that can be done.
        let _ = ended.recv_timeout(patience);
    }
}

/// Ends when nobody can put anything any more, or nobody reads.
fn write_all(mut sink: impl Write, queue: &Receiver<Piece>, dropped_last: &AtomicU64, kind: Kind) {
    let mut failed = false;
    for piece in queue {
        if piece.dropped_before > 0 {
            kind.tell_of_dropped(piece.dropped_before, &mut sink);
        }
        let written = sink
            .write_all(piece.text.as_bytes())
            .and_then(|()| sink.flush());
        match written {
            Ok(()) => failed = false,
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return,
            // A full disk, say. Watching goes on, and so does showing when there is room again.
            Err(error) if !failed => {
                failed = true;
                kind.tell_of_failure(&error);
            }
            Err(_) => {}
        }
    }
    let dropped = dropped_last.load(Ordering::Acquire);
    if dropped > 0 {
        kind.tell_of_dropped(dropped, &mut sink);
        // If that fails there is nobody left to tell.
        let _ = sink.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Takes what it may, and then that its reader goes.
    struct Slow {
        may: Receiver<()>,
        took: Arc<Mutex<String>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.may.recv().is_err() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let text = std::str::from_utf8(bytes).unwrap();
            self.took.lock().unwrap().push_str(text);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// An output with room for one piece, whose reader takes no more than it is let, `ahead` at most,
    /// and what it took.
    fn read_slowly(ahead: usize) -> (Output, SyncSender<()>, Arc<Mutex<String>>) {
        let (lets, may) = sync_channel(ahead);
        let took = Arc::new(Mutex::new(String::new()));
        let sink = Slow {
            may,
            took: Arc::clone(&took),
        };
        (Output::to(sink, 1, Kind::Complaints).unwrap(), lets, took)
    }

    #[test]
    fn who_takes_nothing_holds_up_nobody_and_who_has_gone_is_noticed() {
        let (mut output, lets, took) = read_slowly(9);
        // One with the thread, one in the queue, and no room for more.
        while output.put("a".to_owned()) == Put::OnItsWay {}
        assert_eq!(output.put("b".to_owned()), Put::Dropped);
        assert_eq!(output.dropped, 2);
        lets.send(()).unwrap();
        while output.put("c".to_owned()) != Put::OnItsWay {
            thread::yield_now();
        }
        assert_eq!(output.dropped, 0, "it is said with this one");
        drop(lets);
        while output.put("d".to_owned()) != Put::NobodyReads {
            thread::yield_now();
        }
        output.end(Duration::MAX);
        assert!(!took.lock().unwrap().contains('b'));
    }

    #[test]
    fn what_there_is_no_room_for_is_counted_where_it_is_missing_and_at_the_end() {
        let (mut output, lets, took) = read_slowly(100);
        let mut dropped = 0;
        let mut put = |output: &mut Output, text: &str| {
            let put = output.put(text.to_owned());
            dropped += u64::from(put == Put::Dropped);
            put
        };
        while put(&mut output, "a\n") == Put::OnItsWay {}
        lets.send(()).unwrap();
        while put(&mut output, "c\n") != Put::OnItsWay {
            thread::yield_now();
        }
        // What comes last is missing, and nothing after it says so.
        while put(&mut output, "d\n") == Put::OnItsWay {}
        for _ in 0..90 {
            lets.send(()).unwrap();
        }
        output.end(Duration::MAX);
        let said = took.lock().unwrap().clone();
        let count = |line: &str| {
            let (_, tail) = line.split_once("said here: ")?;
            tail.split_once(' ')?.0.parse::<u64>().ok()
        };
        let counts: Vec<_> = said.lines().filter_map(count).collect();
        assert_eq!(counts.iter().sum::<u64>(), dropped, "{said}");
        assert!(said.lines().last().and_then(count).is_some(), "{said}");
        assert_eq!(counts.len(), 2, "{said}");
        let first = said.lines().position(|line| count(line).is_some());
        assert_eq!(
            first,
            said.lines().position(|line| line == "c").map(|it| it - 1)
        );
    }
}
