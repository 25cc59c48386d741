//! A connection that carries lines of text, without waiting for whoever is at the other end.
//!
//! Both directions are bounded: a line that does not end is an error, and from a peer that does
//! not read its answers nothing more is taken.

use rustix::event::PollFlags;
use rustix::io::{Errno, read};
use rustix::net::{SendFlags, send};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Longest line, in bytes.
pub(super) const LINE_LEN_MAX: usize = 4096;
/// With more than that unsent, no further line is taken.
const OUTPUT_LEN_MAX: usize = 64 << 10;

/// A nonblocking stream socket.
#[derive(Debug)]
pub(super) struct Lines {
    socket: OwnedFd,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Nothing more will be read.
    ended: bool,
}

/// What came in.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Line {
    /// A line, without its end.
    Text(String),
    /// More bytes than a line has.
    TooLong,
}

/// The connection is of no use any more.
#[derive(Debug)]
pub(super) struct Broken;

impl Lines {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            input: Vec::new(),
            output: Vec::new(),
            ended: false,
        }
    }

    /// What to wait for: to read if `listening` and there is room for an answer, to write if there
    /// is one.
    pub(super) fn interest(&self, listening: bool) -> PollFlags {
        let mut flags = PollFlags::empty();
        if listening && !self.ended && self.output.len() < OUTPUT_LEN_MAX {
            flags |= PollFlags::IN;
        }
        if !self.output.is_empty() {
            flags |= PollFlags::OUT;
        }
        flags
    }

    /// Takes what has arrived.
    pub(super) fn receive(&mut self) -> Result<(), Broken> {
        let mut bytes = [0; LINE_LEN_MAX];
        match read(&self.socket, &mut bytes) {
            Ok(0) => self.ended = true,
            Ok(len) => self.input.extend_from_slice(&bytes[..len]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => return Err(Broken),
        }
        Ok(())
    }

    /// The next line, if a whole one is there. The last one may lack its end.
    pub(super) fn next(&mut self) -> Option<Line> {
        let end = match self.input.iter().position(|&byte| byte == b'\n') {
            Some(newline) => newline + 1,
            None if self.ended && !self.input.is_empty() => self.input.len(),
            None if self.input.len() <= LINE_LEN_MAX => return None,
            None => LINE_LEN_MAX + 1,
        };
        if end > LINE_LEN_MAX {
            // Where the next one starts cannot be known.
            self.end();
            return Some(Line::TooLong);
        }
        let line: Vec<_> = self.input.drain(..end).collect();
        Some(Line::Text(String::from_utf8_lossy(&line).trim().to_owned()))
    }

    /// Queues text, which ends in a newline.
    pub(super) fn push(&mut self, text: &str) {
        self.output.extend_from_slice(text.as_bytes());
    }

    /// Sends as much as the peer takes.
    pub(super) fn flush(&mut self) -> Result<(), Broken> {
        while !self.output.is_empty() {
            match send(&self.socket, &self.output, SendFlags::NOSIGNAL) {
                Ok(len) => drop(self.output.drain(..len)),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(_) => return Err(Broken),
            }
        }
        Ok(())
    }

    /// Takes nothing more; what is queued is still sent.
    pub(super) fn end(&mut self) {
        self.input.clear();
        self.ended = true;
    }

    /// Whether nothing is left to do: the peer has ended, and has its answers.
    pub(super) fn is_done(&self) -> bool {
        self.ended && self.input.is_empty() && self.output.is_empty()
    }
}

impl AsFd for Lines {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    fn lines_of(bytes: &[u8]) -> Vec<Line> {
        let (mut peer, ours) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        peer.write_all(bytes).unwrap();
        drop(peer);
        let mut lines = Lines::new(ours.into());
        let mut found = Vec::new();
        while !lines.ended {
            lines.receive().unwrap();
            found.extend(std::iter::from_fn(|| lines.next()));
        }
        assert!(lines.is_done());
        found
    }

    #[test]
    fn lines_end_with_a_newline_or_with_the_connection() {
        let text = |text: &str| Line::Text(text.to_owned());
        assert_eq!(
            lines_of(b"one\n\n two\r\nthree"),
            [text("one"), text(""), text("two"), text("three")]
        );
        assert_eq!(lines_of(b"\xff\n"), [text("\u{fffd}")]);
        assert_eq!(lines_of(b""), []);
    }

    #[test]
    fn a_line_that_does_not_end_is_an_error_and_the_last_of_its_connection() {
        let longest = [&[b'x'; LINE_LEN_MAX - 1][..], b"\n"].concat();
        assert_eq!(lines_of(&longest).len(), 1);
        let too_long = [&[b'x'; LINE_LEN_MAX][..], b"\nquit\n"].concat();
        assert_eq!(lines_of(&too_long), [Line::TooLong]);
        assert_eq!(lines_of(&[b'x'; LINE_LEN_MAX + 1]), [Line::TooLong]);
    }
}
