//! Asks the owner of a card to test it now.
//!
//! Who watches opens no card, so the owner must be asked, on a Unix socket beside the telemetry page.
//! One line is sent, one comes back. What an owner answers is on its page by then: asking renews
//! what everybody reads.
//!
//! ```text
//!   asks     check\n
//!   owner    {"answer":"tested","algorithm":"rsa-2048-...","result":"passed", ...}\n
//! ```
//!
//! Neither end trusts the other. An owner takes few clients, few of one user, a few bytes of each and
//! never waits for one; its socket is for its user and group (mode 0660). Who asks waits for no owner
//! longer than it said, not even to be connected, and believes only the user who writes the page: in
//! a directory that others may write, anybody could listen.

use crate::clock::{Clock, Instant, SystemClock};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::fs::{Mode, OFlags, open, stat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What is asked, with its line's end.
pub const QUESTION: &[u8] = b"check\n";
/// No answer is longer, in bytes.
pub const ANSWER_LEN_MAX: usize = 1024;
/// File name extension of owners' sockets.
const EXTENSION: &str = "owner";
/// Characters of the address in a socket's name: the path of a socket has 107 bytes (unix(7)).
const NAME_LEN_MAX: usize = 40;

/// What an owner says.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "answer")]
pub enum Answer {
    /// The card was tested after it was asked for.
    Tested {
        /// Of what.
        algorithm: String,
        /// `passed`, or the evidence code of what went wrong.
        result: String,
        /// How long it took, in nanoseconds.
        latency_ns: u64,
        /// When it ended, in nanoseconds of `CLOCK_MONOTONIC`.
        ended_at_ns: u64,
    },
    /// The owner gives the card no work at present, so there is nothing to test; its page says why.
    NotInUse {},
    /// The last test was too dear to have another already.
    TooSoon {
        /// When to ask again, in milliseconds.
        retry_after_ms: u64,
    },
    /// No test has ended in time.
    NoEnd {
        /// Whether one has begun. If not, others of this host are testing.
        began: bool,
    },
    /// The owner has more clients than it takes, or does not understand.
    Refused {
        /// What to do.
        why: String,
    },
}

/// An owner could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// There is no socket: an owner of an older version, or none.
    #[error("{} does not exist: the owner of this card takes no questions", path.display())]
    NoSocket {
        /// Where it would be.
        path: PathBuf,
    },
    /// Nobody listens any more.
    #[error("nobody listens on {}: its owner has ended", path.display())]
    NobodyListens {
        /// The socket.
        path: PathBuf,
    },
    /// This user may not ask.
    #[error(
        "{} may not be written to by this user; ask as its owner, its group or root",
        path.display()
    )]
    Denied {
        /// The socket.
        path: PathBuf,
    },
    /// It is not the owner who listens.
    #[error(
        "{} is served by user {uid}, and the page is written by user {owner}: what is said there is \
         not believed", path.display()
    )]
    Impostor {
        /// The socket.
        path: PathBuf,
        /// Who listens.
        uid: u32,
        /// Whose the page is.
        owner: u32,
    },
    /// It does not answer.
    #[error("the owner at {} has not answered in {:.1} s", path.display(), patience.as_secs_f64())]
    Silent {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        patience: Duration,
    },
    /// It hung up without an answer.
    #[error("the owner at {} hung up without an answer", path.display())]
    HungUp {
        /// The socket.
        path: PathBuf,
    },
    /// What it answered is none.
    #[error("what {} answered is not understood; update the older of owner and monitor", path.display())]
    Nonsense {
        /// The socket.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("{} could not be asked", path.display())]
    Os {
        /// The socket.
        path: PathBuf,
        /// Its reason.
        #[source]
        source: io::Error,
    },
}

/// The name of the socket on which the owner of `address` is asked, beside its page.
#[must_use]
pub fn socket_name(address: &str) -> String {
    let page = super::file_name(address);
    let stem = page
        .trim_end_matches(super::FILE_EXTENSION)
        .trim_end_matches('.');
    // All of it is ASCII; the hash at its end tells apart what is cut.
    let (safe, hash) = stem.rsplit_once('-').unwrap_or((stem, ""));
    let safe = &safe[..safe.len().min(NAME_LEN_MAX)];
    format!("{safe}-{hash}.{EXTENSION}")
}

/// The socket `name` in an open directory: however deep that is, the path is short enough.
pub(crate) fn socket_address(
    directory: BorrowedFd<'_>,
    name: &str,
) -> Result<SocketAddrUnix, Errno> {
    SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}

/// Asks the owner of `address`, whose page is in `directory`, to test its card, and waits for the end
/// of that, `patience` at most.
///
/// # Errors
///
/// See [`AskError`].
pub fn ask(directory: &Path, address: &str, patience: Duration) -> Result<Answer, AskError> {
    let clock = SystemClock;
    let deadline = clock.now().plus(patience);
    let path = directory.join(socket_name(address));
    let page = directory.join(super::file_name(address));
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => AskError::Silent {
            path: path.clone(),
            patience,
        },
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            AskError::HungUp { path: path.clone() }
        }
        _ => AskError::Os {
            path: path.clone(),
            source,
        },
    };
    let stream = connected(directory, address).map_err(|errno| match errno {
        Errno::NOENT => AskError::NoSocket { path: path.clone() },
        Errno::CONNREFUSED => AskError::NobodyListens { path: path.clone() },
        Errno::ACCESS | Errno::PERM => AskError::Denied { path: path.clone() },
        errno => failed(errno.into()),
    })?;
    let uid = uid_of_peer(&stream).map_err(failed)?;
    let owner = stat(&page).map_err(|errno| failed(errno.into()))?.st_uid;
    if uid != owner && uid != 0 {
        return Err(AskError::Impostor { path, uid, owner });
    }
    let line = exchange(stream, deadline, &clock).map_err(failed)?;
    if line.is_empty() {
        return Err(AskError::HungUp { path });
    }
    serde_json::from_slice(&line).map_err(|_| AskError::Nonsense { path })
}

/// Connects, or says at once that this cannot be done: a queue that is full is not waited for.
fn connected(directory: &Path, address: &str) -> Result<UnixStream, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = open(directory, flags, Mode::empty())?;
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    use std::os::fd::AsFd as _;
    connect(
        &socket,
        &socket_address(directory.as_fd(), &socket_name(address))?,
    )?;
    Ok(UnixStream::from(socket))
}

/// The user at the other end of a socket, who may be in another PID namespace, as in a container.
pub(crate) fn uid_of_peer(stream: &UnixStream) -> io::Result<u32> {
    Ok(getsockopt(stream, PeerCredentials)?.uid())
}

/// Sends the question, and returns the line that comes back.
fn exchange(mut stream: UnixStream, deadline: Instant, clock: &dyn Clock) -> io::Result<Vec<u8>> {
    stream.write_all(QUESTION)?;
    stream.set_nonblocking(false)?;
    let mut line = Vec::new();
    while !line.ends_with(b"\n") && line.len() < ANSWER_LEN_MAX {
        let left = deadline.since(clock.now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // From what is left each time, so that an owner who trickles is not waited for longer.
        stream.set_read_timeout(Some(left))?;
        let mut some = [0; ANSWER_LEN_MAX];
        match stream.read(&mut some) {
            Ok(0) => break,
            Ok(count) => line.extend_from_slice(&some[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sockets_name_is_short_is_no_pages_and_tells_addresses_apart() {
        let long = format!("vfio-user:/{}", "deep/".repeat(40));
        let other = format!("{long}x");
        for address in ["pci:0000:3b:00.0", &long, &other] {
            let name = socket_name(address);
            assert!(name.len() <= NAME_LEN_MAX + 15, "{name}");
            assert!(name.ends_with(".owner") && !name.contains('/'), "{name}");
        }
        assert_ne!(socket_name(&long), socket_name(&other));
    }

    #[test]
    fn an_owner_that_is_not_there_and_one_that_hangs_are_told_apart_and_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let ask = || ask(directory.path(), "software:ring", Duration::from_millis(50));
        assert!(matches!(ask(), Err(AskError::NoSocket { .. })));
        let path = directory.path().join(socket_name("software:ring"));
        std::fs::write(
            directory
                .path()
                .join(super::super::file_name("software:ring")),
            "",
        )
        .unwrap();
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        // It listens and never answers; the kernel takes connections until the queue is full.
        let mut held = Vec::new();
        for _ in 0..200 {
            match connected(directory.path(), "software:ring") {
                Ok(stream) => held.push(stream),
                Err(errno) => {
                    assert_eq!(errno, Errno::AGAIN);
                    break;
                }
            }
        }
        assert!(matches!(ask(), Err(AskError::Silent { .. })));
        drop(held);
        drop(listener);
        assert!(matches!(ask(), Err(AskError::NobodyListens { .. })));
    }

    #[test]
    fn who_asks_from_another_pid_namespace_has_a_user_all_the_same() {
        use std::os::fd::{AsFd, OwnedFd};
        use std::process::Command;
        const IS_INSIDE: &str = "HWSHIM_TEST_IN_PID_NAMESPACE";
        if std::env::var_os(IS_INSIDE).is_some() {
            // Whoever made this socket has no number in here.
            let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().unwrap());
            let own = rustix::process::geteuid().as_raw();
            assert_eq!(uid_of_peer(&stream).unwrap(), own);
            return;
        }
        let inside = |program: &str| {
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-root-user", "--pid", "--fork", program]);
            command
        };
        if !inside("true").status().is_ok_and(|status| status.success()) {
            eprintln!("skipped: this user may have no PID namespace of their own");
            return;
        }
        let (ours, theirs) = UnixStream::pair().unwrap();
        let this = std::env::current_exe().unwrap();
        let name =
            "telemetry::live::tests::who_asks_from_another_pid_namespace_has_a_user_all_the_same";
        let again = inside(this.to_str().unwrap())
            .args([name, "--exact", "--nocapture"])
            .env(IS_INSIDE, "1")
            .stdin(OwnedFd::from(theirs))
            .output()
            .unwrap();
        drop(ours);
        let said = String::from_utf8_lossy(&again.stdout);
        assert!(again.status.success(), "{said}");
        assert!(said.contains("1 passed"), "{said}");
    }

    #[test]
    fn an_answer_that_is_none_is_not_believed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(socket_name("software:ring"));
        std::fs::write(
            directory
                .path()
                .join(super::super::file_name("software:ring")),
            "",
        )
        .unwrap();
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let answers: [&[u8]; 4] = [b"", b"{}\n", b"\xff\n", &[b'x'; 5_000]];
        for answer in answers {
            let error = std::thread::scope(|scope| {
                scope.spawn(|| {
                    let (mut client, _) = listener.accept().unwrap();
                    let mut question = [0; QUESTION.len()];
                    client.read_exact(&mut question).unwrap();
                    // Who has read enough hangs up.
                    let _ = client.write_all(answer);
                });
                ask(directory.path(), "software:ring", Duration::from_secs(20)).unwrap_err()
            });
            let hung_up = answer.is_empty();
            assert_eq!(matches!(error, AskError::HungUp { .. }), hung_up, "{error}");
            assert_eq!(
                matches!(error, AskError::Nonsense { .. }),
                !hung_up,
                "{error}"
            );
        }
    }
}
