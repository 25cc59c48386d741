//! Asks a host service how it is, over its socket, and gives up at a deadline.
//!
//! It connects anew for each look, because whether that works is half of what is asked. It says
//! `enquiry` and `stattree`, a line each, and takes what their programs print, announced by
//! `ok lines N`. It asks the service to do nothing with the card: that is for
//! [`KnownAnswerProbe`], which connects by itself, so that a service that does no work says so all
//! the same.
//!
//! ```text
//!   connect ---- nobody listens --------------------------> refused
//!      |    ---- no room in the queue, no way there ------> unreachable
//!      v
//!   connected -- silence until the deadline, or the end --> no answer
//!      |      -- error CODE MESSAGE ----------------------> declined
//!      |      -- something else --------------------------> nonsense
//!      v
//!   answered
//! ```

mod connections;
mod known_answer;

pub use known_answer::{KnownAnswer, KnownAnswerProbe, Refused};

use super::file::printable;
use super::{Enquiry, ParseError, Probe, ProbeError, Statistics};
use connections::Connections;
use hwshim::clock::{Clock, Instant, SystemClock};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv,
    send, socket_with, sockopt,
};
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What is asked. It fits into any socket's buffer, as does everything else that is.
const QUESTION: &[u8] = b"enquiry\nstattree\n";
/// Texts that answer it.
const TEXTS: usize = 2;
/// Longest answer that is taken; a service with 1000 clients needs 100 KiB.
const ANSWER_LEN_MAX: usize = 1 << 20;
/// Read at once.
const PIECE_LEN: usize = 16 << 10;

/// Where a service listens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ServiceAddress {
    /// On a Unix socket.
    Unix(PathBuf),
    /// On a TCP port.
    Tcp(SocketAddr),
}

impl fmt::Display for ServiceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => path.display().fmt(f),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}

/// How far one gets with a service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reach {
    /// It answered.
    Answered(Box<ServiceAnswer>),
    /// It answered that it would not.
    Declined {
        /// In its words.
        message: String,
    },
    /// It was connected to, and did not answer until the deadline.
    Silent {
        /// Bytes of an answer that came all the same.
        received: usize,
    },
    /// It was connected to, and ended the connection before it had answered.
    HungUp {
        /// Bytes of an answer that came all the same.
        received: usize,
    },
    /// Its address is there, and nobody listens.
    Refused,
    /// No connection could be made until the deadline: the queue of those who want one is full, or
    /// there is no way there.
    Unreachable {
        /// The kernel's reason.
        why: String,
    },
}

/// What a service said of itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServiceAnswer {
    /// Who it is, and how its cards are.
    pub enquiry: Enquiry,
    /// What it has counted.
    pub statistics: Statistics,
    /// Time from the first step of connecting to the last byte of the answer.
    pub took: Duration,
    /// Connections to its address that it has accepted and not closed, by the kernel's account when it
    /// had answered; the one it was asked on is among them.
    pub connected: Option<u64>,
}

/// Asks a host service how it is.
#[derive(Debug)]
pub struct ReachProbe {
    timeout: Duration,
    answer: Answer,
    connections: Connections,
}

impl ReachProbe {
    /// A look takes no longer than `timeout`, but for reading the kernel's tables of sockets. `root` is
    /// `/`, or a captured tree.
    #[must_use]
    pub fn new(timeout: Duration, root: &Path) -> Self {
        Self {
            timeout,
            answer: Answer::new(),
            connections: Connections::new(root),
        }
    }

    fn ask(&mut self, address: &ServiceAddress) -> Result<Reach, Stop> {
        let attempt = Attempt::begin(self.timeout);
        let socket = attempt.connect(address)?;
        attempt.send(&socket, QUESTION)?;
        self.answer.clear();
        while !self.answer.advance()? {
            attempt.receive(&socket, &mut self.answer.bytes)?;
        }
        let mut reach = self.answer.understand(attempt.began)?;
        if let Reach::Answered(answer) = &mut reach {
            // As long as it is connected, so that both have it.
            answer.connected = self.connections.to(address);
        }
        Ok(reach)
    }
}

impl Probe for ReachProbe {
    type Subject = ServiceAddress;
    type Observation = Reach;

    fn name(&self) -> &'static str {
        "reach"
    }

    fn observe(&mut self, address: &ServiceAddress, _now: Instant) -> Result<Reach, ProbeError> {
        let path = || PathBuf::from(address.to_string());
        let received = |answer: &Answer| answer.bytes.len();
        match self.ask(address) {
            Ok(reach) => Ok(reach),
            Err(Stop::Refused) => Ok(Reach::Refused),
            Err(Stop::Unreachable(why)) => Ok(Reach::Unreachable { why }),
            Err(Stop::Late) => Ok(Reach::Silent {
                received: received(&self.answer),
            }),
            Err(Stop::HungUp) => Ok(Reach::HungUp {
                received: received(&self.answer),
            }),
            Err(Stop::Absent) => Err(ProbeError::Absent {
                what: address.to_string(),
            }),
            Err(Stop::Failed(errno)) => Err(ProbeError::Unreadable {
                path: path(),
                source: errno.into(),
            }),
            Err(Stop::Nonsense(what)) => Err(ProbeError::Nonsense { path: path(), what }),
        }
    }
}

/// Why asking came to an end before there was an answer.
#[derive(Debug)]
enum Stop {
    Absent,
    Refused,
    Unreachable(String),
    Late,
    HungUp,
    Failed(Errno),
    Nonsense(String),
}

/// Asking once, within a deadline.
struct Attempt {
    began: Instant,
    deadline: Instant,
}

impl Attempt {
    fn begin(timeout: Duration) -> Self {
        let began = SystemClock.now();
        Self {
            began,
            deadline: began.plus(timeout),
        }
    }

    fn connect(&self, address: &ServiceAddress) -> Result<OwnedFd, Stop> {
        let family = match address {
            ServiceAddress::Unix(_) => AddressFamily::UNIX,
            ServiceAddress::Tcp(SocketAddr::V4(_)) => AddressFamily::INET,
            ServiceAddress::Tcp(SocketAddr::V6(_)) => AddressFamily::INET6,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::STREAM, flags, None).map_err(Stop::Failed)?;
        let outcome = match address {
            ServiceAddress::Unix(path) => {
                SocketAddrUnix::new(path.as_path()).and_then(|address| connect(&socket, &address))
            }
            ServiceAddress::Tcp(address) => connect(&socket, address),
        };
        match outcome {
            Ok(()) => Ok(socket),
            Err(Errno::INPROGRESS) => self.finish_connecting(socket),
            Err(errno) => Err(refusal(errno)),
        }
    }

    fn finish_connecting(&self, socket: OwnedFd) -> Result<OwnedFd, Stop> {
        self.wait(&socket, PollFlags::OUT)
            .map_err(|stop| match stop {
                Stop::Late => Stop::Unreachable("nobody answered in time".to_owned()),
                stop => stop,
            })?;
        match sockopt::socket_error(&socket).map_err(Stop::Failed)? {
            Ok(()) => Ok(socket),
            Err(errno) => Err(refusal(errno)),
        }
    }

    fn send(&self, socket: &OwnedFd, question: &[u8]) -> Result<(), Stop> {
        let mut rest = question;
        while !rest.is_empty() {
            match send(socket, rest, SendFlags::NOSIGNAL) {
                Ok(sent) => rest = &rest[sent..],
                Err(Errno::AGAIN) => self.wait(socket, PollFlags::OUT)?,
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(Stop::HungUp),
                Err(errno) => return Err(Stop::Failed(errno)),
            }
        }
        Ok(())
    }

    /// Appends at least one byte to `answer`.
    fn receive(&self, socket: &OwnedFd, answer: &mut Vec<u8>) -> Result<(), Stop> {
        let len = answer.len();
        if len >= ANSWER_LEN_MAX {
            let what = format!("answers with more than {ANSWER_LEN_MAX} bytes");
            return Err(Stop::Nonsense(what));
        }
        answer.resize(len + PIECE_LEN, 0);
        let outcome = loop {
            match recv(socket, &mut answer[len..], RecvFlags::empty()) {
                Ok((0, _)) | Err(Errno::CONNRESET) => break Err(Stop::HungUp),
                Ok((received, _)) => break Ok(received),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if let Err(stop) = self.wait(socket, PollFlags::IN) {
                        break Err(stop);
                    }
                }
                Err(errno) => break Err(Stop::Failed(errno)),
            }
        };
        answer.truncate(len + outcome.as_ref().unwrap_or(&0));
        outcome.map(drop)
    }

    fn wait(&self, socket: &OwnedFd, flags: PollFlags) -> Result<(), Stop> {
        loop {
            let now = SystemClock.now();
            if now >= self.deadline {
                return Err(Stop::Late);
            }
            let timeout = Timespec::try_from(self.deadline.since(now)).ok();
            match poll(&mut [PollFd::new(socket, flags)], timeout.as_ref()) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(Stop::Failed(errno)),
            }
        }
    }
}

fn refusal(errno: Errno) -> Stop {
    match errno {
        Errno::NOENT => Stop::Absent,
        Errno::CONNREFUSED => Stop::Refused,
        // It was in the queue when whoever listened stopped, before we came to look.
        Errno::CONNRESET | Errno::PIPE => Stop::HungUp,
        // A Unix socket says at once that its queue is full, where TCP would keep trying.
        Errno::AGAIN => Stop::Unreachable("its queue of connections is full".to_owned()),
        Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::TIMEDOUT | Errno::ADDRNOTAVAIL => {
            Stop::Unreachable(errno.to_string())
        }
        errno => Stop::Failed(errno),
    }
}

/// What has been answered so far. Each byte is looked at once, however small the pieces are that
/// it comes in.
#[derive(Debug)]
struct Answer {
    bytes: Vec<u8>,
    /// Where the line begins that is looked at.
    line_start: usize,
    /// No newline stands between there and here.
    searched: usize,
    /// Lines that are still to come of the text that was announced.
    lines_left: usize,
    /// The texts that were announced.
    texts: Vec<Range<usize>>,
    /// The words of a service that would not.
    declined: Option<String>,
}

impl Answer {
    const fn new() -> Self {
        Self {
            bytes: Vec::new(),
            line_start: 0,
            searched: 0,
            lines_left: 0,
            texts: Vec::new(),
            declined: None,
        }
    }

    fn clear(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        *self = Self {
            bytes,
            ..Self::new()
        };
    }

    /// Takes the lines that have come; whether that was all that is needed.
    fn advance(&mut self) -> Result<bool, Stop> {
        while !self.is_over() {
            let unsearched = &self.bytes[self.searched..];
            let Some(len) = unsearched.iter().position(|&byte| byte == b'\n') else {
                self.searched = self.bytes.len();
                return Ok(false);
            };
            let line = self.line_start..self.searched + len;
            self.line_start = line.end + 1;
            self.searched = self.line_start;
            match self.texts.last_mut() {
                Some(text) if self.lines_left > 0 => {
                    self.lines_left -= 1;
                    text.end = self.line_start;
                }
                _ => self.begin_text(line)?,
            }
        }
        Ok(true)
    }

    fn is_over(&self) -> bool {
        self.declined.is_some() || self.texts.len() == TEXTS && self.lines_left == 0
    }

    /// Takes the line that announces a text, or declines to give it.
    fn begin_text(&mut self, line: Range<usize>) -> Result<(), Stop> {
        let head = String::from_utf8_lossy(&self.bytes[line]);
        if let Some(message) = head.strip_prefix("error ") {
            self.declined = Some(printable(message));
            return Ok(());
        }
        self.lines_left = head
            .strip_prefix("ok lines ")
            .and_then(|count| count.trim_end().parse().ok())
            .ok_or_else(|| Stop::Nonsense(format!("answers `{}`", printable(&head))))?;
        self.texts.push(self.line_start..self.line_start);
        Ok(())
    }

    /// Understands an answer that is over.
    fn understand(&self, began: Instant) -> Result<Reach, Stop> {
        if let Some(message) = &self.declined {
            let message = message.clone();
            return Ok(Reach::Declined { message });
        }
        let text = |index: usize| {
            let range = self.texts.get(index).cloned().unwrap_or_default();
            String::from_utf8_lossy(&self.bytes[range])
        };
        let wrong = |which| {
            move |error: ParseError| Stop::Nonsense(format!("answers {which} of which {error}"))
        };
        Ok(Reach::Answered(Box::new(ServiceAnswer {
            enquiry: Enquiry::parse(&text(0)).map_err(wrong("an enquiry"))?,
            statistics: Statistics::parse(&text(1)).map_err(wrong("statistics"))?,
            took: SystemClock.now().since(began),
            connected: None,
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;
    use std::thread;

    /// Long: nothing here waits for it but who must.
    const PATIENT: Duration = Duration::from_secs(30);
    const BRIEF: Duration = Duration::from_millis(30);

    fn look(address: &ServiceAddress, timeout: Duration) -> Result<Reach, ProbeError> {
        ReachProbe::new(timeout, Path::new("/")).observe(address, Instant::ORIGIN)
    }

    /// A service that takes one connection and says `answer` to the first line.
    fn service(answer: &'static [u8]) -> (ServiceAddress, thread::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = ServiceAddress::Tcp(listener.local_addr().unwrap());
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            assert_eq!(line, "enquiry\n");
            // Whoever has heard enough may hang up on us.
            let _ = stream.write_all(answer);
        });
        (address, thread)
    }

    #[test]
    fn an_answer_is_understood() {
        let (address, thread) = service(
            b"ok lines 2\nServer:\n mode                 operational\n\
            ok lines 2\n+ServerGlobals:\n   -CmdCount 7\nok bye\n",
        );
        let Ok(Reach::Answered(answer)) = look(&address, PATIENT) else {
            panic!("no answer");
        };
        assert_eq!(
            answer.enquiry.server.unwrap().mode.as_deref(),
            Some("operational")
        );
        assert_eq!(answer.statistics.server.commands, Some(7));
        assert!(answer.took > Duration::ZERO);
        thread.join().unwrap();
    }

    #[test]
    fn a_service_that_declines_hangs_up_or_talks_nonsense_is_told_apart() {
        let (address, thread) = service(b"error resources no thread left\n");
        assert_eq!(
            look(&address, PATIENT).unwrap(),
            Reach::Declined {
                message: "resources no thread left".to_owned()
            }
        );
        thread.join().unwrap();

        let (address, thread) = service(b"ok lines 9\nServer:\n");
        assert!(matches!(
            look(&address, PATIENT).unwrap(),
            Reach::HungUp { .. }
        ));
        thread.join().unwrap();

        for nonsense in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"ok lines 18446744073709551616\n",
            b"ok lines 1\nServer:\nok lines 1\nmany\n",
        ] {
            let (address, thread) = service(nonsense);
            assert_eq!(look(&address, PATIENT).unwrap_err().kind(), "nonsense");
            thread.join().unwrap();
        }
    }

    #[test]
    fn a_service_that_never_stops_talking_is_cut_off() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = ServiceAddress::Tcp(listener.local_addr().unwrap());
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.write_all(b"ok lines 99999999\n");
            while stream.write_all(&[b'\n'; 4096]).is_ok() {}
        });
        assert_eq!(look(&address, PATIENT).unwrap_err().kind(), "nonsense");
        thread.join().unwrap();
    }

    #[test]
    fn silence_refusal_a_full_queue_and_nobody_there_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("service.sock");
        let address = ServiceAddress::Unix(path.clone());
        assert_eq!(look(&address, BRIEF).unwrap_err().kind(), "absent");

        // Nobody accepts, and the connection stands all the same: that is the kernel's.
        let listener = UnixListener::bind(&path).unwrap();
        assert_eq!(
            look(&address, BRIEF).unwrap(),
            Reach::Silent { received: 0 }
        );
        // The one that was given up is still waiting to be accepted, and fills this queue.
        rustix::net::listen(&listener, 0).unwrap();
        assert!(matches!(
            look(&address, BRIEF).unwrap(),
            Reach::Unreachable { .. }
        ));
        drop(listener);
        assert_eq!(look(&address, BRIEF).unwrap(), Reach::Refused);
    }
}
