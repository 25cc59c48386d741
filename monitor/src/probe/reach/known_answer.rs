//! Has a known-answer test done through a host service: a request that is known to be good, on the
//! way that everybody's requests take. Whoever answers how it is need not be able to do anything.
//!
//! The service does the test and says whether it passed. So a wrong answer is its word, and who
//! computed wrongly, the card or it, is not seen from here. Session and connection are the test's
//! own, and end with it, however it ends: what is given up leaves nothing behind.
//!
//! ```text
//!   connect --- whatever keeps it from that, which is for the other probe ---> not connected
//!      |
//!      v
//!   open -----> kat SESSION -----> close SESSION -----> right
//!    |  |           |  |  +-- error kat-failed ----------------------------> wrong
//!    |  +-----------|--+------------+-- error CODE MESSAGE ----------------> refused
//!    |              +---------------+-- silence until the deadline, the end -> lost
//!    +-- error unknown-command ---> declined: it does not speak of such tests
//! ```

use super::super::file::printable;
use super::{Attempt, ProbeError, ServiceAddress, Stop};
use crate::probe::Probe;
use hwshim::clock::{Clock, Instant, SystemClock};
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

/// Longest line that is taken for an answer.
const LINE_LEN_MAX: usize = 4096;
/// What a service says that has no such command.
const UNKNOWN_COMMAND: &str = "unknown-command";
/// What a service says whose card, or who itself, has computed something else.
const KAT_FAILED: &str = "kat-failed";

/// What came of a known-answer test.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum KnownAnswer {
    /// The answer was the known one.
    Right {
        /// Time from the first step of connecting to the last answer.
        took: Duration,
    },
    /// It was another one.
    Wrong {
        /// In the service's words.
        message: String,
    },
    /// A step was answered with an error.
    Refused(Refused),
    /// A step was not answered.
    Lost {
        /// Which.
        command: &'static str,
        /// Whether the service ended the connection; else it said nothing until the deadline.
        hung_up: bool,
    },
    /// The service has no such test.
    Declined,
    /// There was no connection to ask on. Why not, whoever asks how the service is finds out.
    NotConnected,
}

/// A step that was answered with an error.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refused {
    /// The step.
    pub command: &'static str,
    /// The service's word for the kind of error, such as `no-card`.
    pub code: String,
    /// What it says besides.
    pub message: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            command,
            code,
            message,
        } = self;
        write!(
            f,
            "`{command}` was answered with the error {code}: {message}"
        )
    }
}

/// Has a known-answer test done.
#[derive(Debug)]
pub struct KnownAnswerProbe {
    timeout: Duration,
}

impl KnownAnswerProbe {
    /// A test takes no longer than `timeout`.
    #[must_use]
    pub const fn new(timeout: Duration) -> Self {
        Self { timeout }
    }
}

impl Probe for KnownAnswerProbe {
    type Subject = ServiceAddress;
    type Observation = KnownAnswer;

    fn name(&self) -> &'static str {
        "known-answer"
    }

    fn observe(
        &mut self,
        address: &ServiceAddress,
        _now: Instant,
    ) -> Result<KnownAnswer, ProbeError> {
        let attempt = Attempt::begin(self.timeout);
        let began = attempt.began;
        let Ok(socket) = attempt.connect(address) else {
            return Ok(KnownAnswer::NotConnected);
        };
        let conversation = Conversation {
            attempt,
            socket,
            received: Vec::new(),
        };
        let path = || PathBuf::from(address.to_string());
        match conversation.test() {
            Ok(()) => {
                let took = SystemClock.now().since(began);
                Ok(KnownAnswer::Right { took })
            }
            Err(End::Known(outcome)) => Ok(outcome),
            Err(End::Failed(source)) => Err(ProbeError::Unreadable {
                path: path(),
                source,
            }),
            Err(End::Nonsense(what)) => Err(ProbeError::Nonsense { path: path(), what }),
        }
    }
}

/// Why a test did not pass.
enum End {
    Known(KnownAnswer),
    Failed(std::io::Error),
    Nonsense(String),
}

/// One connection, on which a line is answered with a line.
struct Conversation {
    attempt: Attempt,
    socket: OwnedFd,
    received: Vec<u8>,
}

impl Conversation {
    fn test(mut self) -> Result<(), End> {
        let opened = self.say("open", "")?;
        let session = opened.strip_prefix("session ").map(str::trim);
        let session = session.filter(|id| !id.is_empty() && !id.contains(char::is_whitespace));
        let session = session.ok_or_else(|| nonsense("open", &opened))?.to_owned();
        let passed = self.say("kat", &session)?;
        let is_pass = passed.starts_with("kat ") && passed.ends_with(" passed");
        if !is_pass {
            return Err(nonsense("kat", &passed));
        }
        self.say("close", &session)?;
        Ok(())
    }

    /// What follows the `ok` of an answer.
    fn say(&mut self, command: &'static str, argument: &str) -> Result<String, End> {
        let lost = |stop| match stop {
            Stop::Late => End::Known(KnownAnswer::Lost {
                command,
                hung_up: false,
            }),
            Stop::HungUp => End::Known(KnownAnswer::Lost {
                command,
                hung_up: true,
            }),
            Stop::Failed(errno) => End::Failed(errno.into()),
            Stop::Nonsense(what) | Stop::Unreachable(what) => End::Nonsense(what),
            Stop::Absent | Stop::Refused => End::Known(KnownAnswer::NotConnected),
        };
        let line = format!("{command} {argument}");
        let line = format!("{}\n", line.trim_end());
        self.attempt
            .send(&self.socket, line.as_bytes())
            .map_err(lost)?;
        let answer = self.line().map_err(lost)?;
        if let Some(said) = answer.strip_prefix("ok ") {
            return Ok(said.to_owned());
        }
        let error = answer.strip_prefix("error ");
        let error = error.ok_or_else(|| nonsense(command, &answer))?;
        let (code, message) = error.split_once(' ').unwrap_or((error, ""));
        Err(End::Known(match code {
            UNKNOWN_COMMAND => KnownAnswer::Declined,
            KAT_FAILED => KnownAnswer::Wrong {
                message: message.to_owned(),
            },
            code => KnownAnswer::Refused(Refused {
                command,
                code: code.to_owned(),
                message: message.to_owned(),
            }),
        }))
    }

    fn line(&mut self) -> Result<String, Stop> {
        loop {
            let end = self.received.iter().position(|&byte| byte == b'\n');
            // More than a line's length may come at once, with its end or without.
            if end.unwrap_or(self.received.len()) >= LINE_LEN_MAX {
                let what = format!("answers with a line of more than {LINE_LEN_MAX} bytes");
                return Err(Stop::Nonsense(what));
            }
            if let Some(len) = end {
                let line: Vec<u8> = self.received.drain(..=len).collect();
                return Ok(printable(&String::from_utf8_lossy(&line[..len])));
            }
            self.attempt.receive(&self.socket, &mut self.received)?;
        }
    }
}

fn nonsense(command: &str, answer: &str) -> End {
    End::Nonsense(format!("answers `{command}` with `{answer}`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::thread;

    /// Long: nothing here waits for it but who must.
    const PATIENT: Duration = Duration::from_secs(30);
    const BRIEF: Duration = Duration::from_millis(30);
    /// Long enough to be answered first, and to wait for afterwards.
    const HEARD: Duration = Duration::from_secs(2);

    /// What comes of a test by a service that says these lines, each when it is told something.
    /// Then it says nothing, until whoever asks has gone.
    fn tested(answers: &'static [&'static str], timeout: Duration) -> Result<KnownAnswer, String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = ServiceAddress::Tcp(listener.local_addr().unwrap());
        let thread = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(&stream).lines();
            for answer in answers {
                let Some(Ok(_)) = lines.next() else { return };
                let _ = (&stream).write_all(answer.as_bytes());
            }
            // The end comes as a reset if what was said last was not heard.
            while let Some(Ok(_)) = lines.next() {}
        });
        let found = KnownAnswerProbe::new(timeout).observe(&address, Instant::ORIGIN);
        thread.join().unwrap();
        found.map_err(|error| error.kind().to_owned())
    }

    #[test]
    fn right_wrong_refused_lost_and_declined_are_told_apart() {
        const OPENED: &str = "ok session 7\n";
        const PASSED: &str = "ok kat ecdsa-p256-sha256 passed\n";
        let right = tested(&[OPENED, PASSED, "ok closed 7\n"], PATIENT);
        assert!(matches!(right, Ok(KnownAnswer::Right { .. })), "{right:?}");
        let wrong = tested(&[OPENED, "error kat-failed status 9\n"], PATIENT);
        let message = "status 9".to_owned();
        assert_eq!(wrong, Ok(KnownAnswer::Wrong { message }));
        let refused = |command, code: &str, message: &str| {
            Ok(KnownAnswer::Refused(Refused {
                command,
                code: code.to_owned(),
                message: message.to_owned(),
            }))
        };
        let no_card = tested(&["error no-card the card is absent\n"], PATIENT);
        assert_eq!(no_card, refused("open", "no-card", "the card is absent"));
        let bare = tested(&[OPENED, PASSED, "error broken\n"], PATIENT);
        assert_eq!(bare, refused("close", "broken", ""));
        let lost = |command, hung_up| Ok(KnownAnswer::Lost { command, hung_up });
        assert_eq!(tested(&[], BRIEF), lost("open", false));
        assert_eq!(tested(&[OPENED], HEARD), lost("kat", false));
        let declined = tested(&["error unknown-command what?\n"], PATIENT);
        assert_eq!(declined, Ok(KnownAnswer::Declined));
    }

    #[test]
    fn what_is_no_answer_is_nonsense_and_never_a_pass() {
        for answers in [
            &["ok session \n"][..],
            &["ok session 1 2\n"],
            &["HTTP/1.1 400 Bad Request\r\n"],
            &["ok session 1\n", "ok kat ecdsa-p256-sha256 failed\n"],
            &["ok session 1\n", "ok\n"],
        ] {
            let found = tested(answers, PATIENT);
            assert_eq!(found, Err("nonsense".to_owned()), "{answers:?}");
        }
    }

    #[test]
    fn a_line_without_end_is_cut_off() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = ServiceAddress::Tcp(listener.local_addr().unwrap());
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            while stream.write_all(&[b'x'; 4096]).is_ok() {}
        });
        let found = KnownAnswerProbe::new(PATIENT).observe(&address, Instant::ORIGIN);
        assert_eq!(found.unwrap_err().kind(), "nonsense");
        thread.join().unwrap();
    }

    #[test]
    fn a_line_that_is_too_long_is_no_answer_though_it_ends() {
        const LEN: usize = 5000;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = ServiceAddress::Tcp(listener.local_addr().unwrap());
        let thread = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(&stream).lines();
            let _ = lines.next();
            let mut line = b"error no-card ".to_vec();
            line.resize(LEN, b'x');
            line.push(b'\n');
            let _ = (&stream).write_all(&line);
            while let Some(Ok(_)) = lines.next() {}
        });
        let found = KnownAnswerProbe::new(PATIENT).observe(&address, Instant::ORIGIN);
        assert_eq!(found.unwrap_err().kind(), "nonsense");
        thread.join().unwrap();
    }

    #[test]
    fn nobody_there_is_for_who_asks_how_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let address = ServiceAddress::Unix(directory.path().join("service.sock"));
        let found = KnownAnswerProbe::new(BRIEF).observe(&address, Instant::ORIGIN);
        assert_eq!(found.unwrap(), KnownAnswer::NotConnected);
    }
}
