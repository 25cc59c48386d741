//! What a server says while it serves, written by threads of their own: a reader that is slow, stands
//! still or goes holds up neither connections nor signals.
//!
//! What there is no room for is dropped and counted; nothing is written twice or in part but the
//! last line before a stream ends.

use super::output::{Failure, complaint};
use rustix::event::{PollFd, PollFlags, poll};
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

/// A minute of reports. Who has not read for so long misses more by what is old than by what is lost.
const QUEUE_LEN: usize = 60;
/// For a reader that is there to take what is left. None is waited for longer: the program ends.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Both streams of the program.
pub(super) struct Voice {
    output: Lines,
    errors: Lines,
}

impl Voice {
    /// Speaks on standard output and standard error.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            output: Lines::to(duplicate(&io::stdout())?)?,
            errors: Lines::to(duplicate(&io::stderr())?)?,
        })
    }

    /// A line on standard output.
    pub(super) fn say(&mut self, line: impl fmt::Display) {
        self.output.push(line.to_string());
    }

    /// Something for the operator, on standard error.
    pub(super) fn tell(&mut self, text: impl fmt::Display) {
        self.errors.push(complaint(text));
    }

    /// Something that the operator should mend.
    pub(super) fn warn(&mut self, warning: impl fmt::Display) {
        self.tell(format_args!("warning: {warning}"));
    }

    /// Lines of standard output that were dropped, as nobody read.
    #[cfg(feature = "tls")]
    pub(super) const fn dropped(&self) -> u64 {
        self.output.dropped
    }

    /// Tells the operator, once, that nothing more comes on standard output.
    #[cfg(feature = "tls")]
    pub(super) fn mind(&mut self) {
        if let Some(error) = self.output.failed() {
            self.warn(format_args!(
                "nothing more comes on standard output, which cannot be written: {error}; \
                 connections are served all the same"
            ));
        }
    }

    /// Says why it failed, if it did: by itself, as who ends the program would wait for a reader. Waits
    /// until all is written, if somebody reads.
    pub(super) fn end_with<T>(mut self, outcome: Result<T, Failure>) -> Result<T, Failure> {
        let outcome = outcome.map_err(|failure| {
            self.tell(failure);
            Failure::Said
        });
        self.end();
        outcome
    }

    /// Waits until all is written, if somebody reads.
    pub(super) fn end(self) {
        let Self { output, errors } = self;
        output.end();
        errors.end();
    }
}

/// The same stream, without the lock that the rest of the program may hold while it writes.
fn duplicate(stream: &impl AsFd) -> io::Result<File> {
    stream.as_fd().try_clone_to_owned().map(File::from)
}

/// Also if the stream does not block, which whoever else has it may have asked of it.
fn write_all(stream: &mut (impl Write + AsFd), mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(len) => bytes = &bytes[len..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // Interrupted, it is tried too early, which does no harm.
                let _ = poll(&mut [PollFd::new(&*stream, PollFlags::OUT)], None);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Lines on their way to one stream.
struct Lines {
    queue: SyncSender<String>,
    ended: Receiver<io::Error>,
    dropped: u64,
}

impl Lines {
    fn to(mut stream: impl Write + AsFd + Send + 'static) -> io::Result<Self> {
        let (queue, lines) = sync_channel::<String>(QUEUE_LEN);
        let (end, ended) = sync_channel(1);
        let write = move || {
            let mut write = |line: String| write_all(&mut stream, format!("{line}\n").as_bytes());
            let error = lines.iter().find_map(|line| write(line).err());
            // Nothing is taken any more by the time that anybody knows why.
            drop(lines);
            if let Some(error) = error {
                // There is room for one, and nobody sends another.
                let _ = end.try_send(error);
            }
        };
        std::thread::Builder::new()
            .name("hwshim-lines".to_owned())
            .spawn(write)?;
        Ok(Self {
            queue,
            ended,
            dropped: 0,
        })
    }

    fn push(&mut self, line: String) {
        // A stream that has ended takes nothing, and says so by itself.
        if let Err(TrySendError::Full(_)) = self.queue.try_send(line) {
            self.dropped += 1;
        }
    }

    /// Why the stream has ended, the first time that this is asked after it has.
    #[cfg(any(feature = "tls", test))]
    fn failed(&self) -> Option<io::Error> {
        self.ended.try_recv().ok()
    }

    fn end(self) {
        let Self { queue, ended, .. } = self;
        drop(queue);
        // Either the thread ends, which hangs up, or it is left to end with the program.
        let _ = ended.recv_timeout(LAST_WORDS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader, PipeReader, pipe};

    fn lines() -> (Lines, PipeReader) {
        let (reader, writer) = pipe().unwrap();
        (Lines::to(writer).unwrap(), reader)
    }

    #[test]
    fn lines_that_nobody_reads_are_dropped_and_counted_and_the_rest_comes_in_order() {
        let (mut lines, reader) = lines();
        // Each fills the pipe.
        let text = "x".repeat(1 << 20);
        let count = QUEUE_LEN + 10;
        for number in 0..count {
            lines.push(format!("{number} {text}"));
        }
        // One may be with the thread already.
        let dropped = usize::try_from(lines.dropped).unwrap();
        assert!((9..=10).contains(&dropped), "{dropped}");
        let mut reader = BufReader::new(reader);
        for number in 0..count - dropped {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            assert_eq!(line, format!("{number} {text}\n"));
        }
        lines.end();
        assert_eq!(reader.read_line(&mut String::new()).unwrap(), 0);
    }

    #[test]
    fn a_stream_that_does_not_block_is_waited_for() {
        use rustix::fs::{OFlags, fcntl_setfl};
        let (reader, writer) = pipe().unwrap();
        fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
        let mut lines = Lines::to(writer).unwrap();
        // Each fills the pipe several times.
        let text = "x".repeat(1 << 20);
        lines.push(text.clone());
        lines.push(text.clone());
        let mut reader = BufReader::new(reader);
        for _ in 0..2 {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            assert!(line.strip_suffix('\n') == Some(&text));
        }
        assert!(lines.failed().is_none());
        lines.end();
    }

    #[test]
    fn a_reader_that_goes_is_noticed_once_and_costs_nothing() {
        let (mut lines, reader) = lines();
        drop(reader);
        lines.push("for nobody".to_owned());
        let why = lines.ended.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(why.kind(), io::ErrorKind::BrokenPipe);
        for _ in 0..2 * QUEUE_LEN {
            lines.push("for nobody".to_owned());
        }
        assert_eq!(lines.dropped, 0);
        assert!(lines.failed().is_none());
    }
}
