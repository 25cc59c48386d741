//! Takes the questions of those who want a card tested now, on a socket beside its telemetry page.
//!
//! It is looked after once a round and never waits: a client that is slow, silent or hostile costs a
//! few system calls and is sent away. What is said on the socket stands in
//! [`live`](crate::telemetry::live).

use crate::clock::Instant;
use crate::telemetry::live::{self, ANSWER_LEN_MAX, Answer, QUESTION};
use rustix::fs::{AtFlags, Mode, chmodat, renameat, unlinkat};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

/// Clients at a time.
const CLIENTS_MAX: usize = 8;
/// Of those, clients of one user, so that one does not keep all others out.
const CLIENTS_OF_USER_MAX: usize = 4;
/// Connections that the kernel holds meanwhile.
const BACKLOG: i32 = 16;
/// How long a client may be there: longer than a test waits to begin and takes to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// A socket on which an owner is asked.
#[derive(Debug)]
pub(super) struct Desk {
    listener: UnixListener,
    directory: OwnedFd,
    name: String,
    clients: Vec<Client>,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    uid: u32,
    said: Vec<u8>,
    until: Instant,
}

impl Client {
    fn asks(&self) -> bool {
        self.said == QUESTION
    }

    /// Reads what has come; false if that is no question, or nobody is there any more.
    fn listen(&mut self) -> bool {
        // One byte more than a question has shows that it is none.
        let mut some = [0; QUESTION.len() + 1];
        let room = some.len().saturating_sub(self.said.len());
        match self.stream.read(&mut some[..room]) {
            // The end of what somebody says who asks is no end of their wish.
            Ok(0) => self.asks(),
            Ok(count) => {
                self.said.extend_from_slice(&some[..count]);
                QUESTION.starts_with(&self.said)
            }
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }

    fn tell(&mut self, answer: &Answer) {
        let mut line = serde_json::to_vec(answer).unwrap_or_default();
        line.push(b'\n');
        debug_assert!(line.len() <= ANSWER_LEN_MAX, "who asks reads no more");
        // It fits into an empty buffer; a client that is gone needs none.
        let _ = self.stream.write_all(&line);
    }
}

impl Desk {
    /// Listens in `directory` for its user and group. Whoever publishes the page of `address` is alone
    /// in that, so what is there was left by an owner that was killed.
    pub(super) fn listen(directory: OwnedFd, address: &str) -> io::Result<Self> {
        let name = live::socket_name(address);
        // Made under another name: at its own it is never more open than it should be.
        let fresh = format!("{name}.new");
        let _ = unlinkat(&directory, &*fresh, AtFlags::empty());
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        bind(&socket, &live::socket_address(directory.as_fd(), &fresh)?)?;
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP;
        let ready = chmodat(&directory, &*fresh, mode, AtFlags::empty())
            .and_then(|()| listen(&socket, BACKLOG))
            .and_then(|()| renameat(&directory, &*fresh, &directory, &*name));
        if let Err(errno) = ready {
            let _ = unlinkat(&directory, &*fresh, AtFlags::empty());
            return Err(errno.into());
        }
        Ok(Self {
            listener: UnixListener::from(socket),
            directory,
            name,
            clients: Vec::new(),
        })
    }

    /// Hears who has come and what they say; whether somebody asks for a test who did not before.
    pub(super) fn attend(&mut self, now: Instant) -> bool {
        self.admit(now);
        let mut asked = false;
        self.clients.retain_mut(|client| {
            let asked_before = client.asks();
            let stays = client.listen();
            if !stays && !asked_before {
                client.tell(&refused("the only question is: check"));
            }
            asked |= stays && client.asks() && !asked_before;
            stays
        });
        asked
    }

    fn admit(&mut self, now: Instant) {
        // As many as come in one round at most: nobody keeps this busy.
        for _ in 0..CLIENTS_MAX {
            let Ok((stream, _)) = self.listener.accept() else {
                return;
            };
            let Some(mut client) = Client::new(stream, now) else {
                continue;
            };
            let of_user = self.clients.iter().filter(|one| one.uid == client.uid);
            if self.clients.len() >= CLIENTS_MAX || of_user.count() >= CLIENTS_OF_USER_MAX {
                client.tell(&refused("too many ask at once; ask again in a second"));
            } else {
                self.clients.push(client);
            }
        }
    }

    /// Tells all who have asked, and takes leave of them.
    pub(super) fn answer(&mut self, answer: &Answer) {
        self.clients.retain_mut(|client| {
            let asks = client.asks();
            if asks {
                client.tell(answer);
            }
            !asks
        });
    }

    /// Sends those away who have waited long enough, a test having begun for them or not; whether
    /// somebody still waits for an answer.
    pub(super) fn expire(&mut self, began: bool, now: Instant) -> bool {
        self.clients.retain_mut(|client| {
            let stays = now < client.until;
            if !stays {
                client.tell(&Answer::NoEnd { began });
            }
            stays
        });
        self.clients.iter().any(Client::asks)
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        // Left behind, it says that nobody listens, which is as true.
        let _ = unlinkat(&self.directory, &*self.name, AtFlags::empty());
    }
}

impl Client {
    fn new(stream: UnixStream, now: Instant) -> Option<Self> {
        stream.set_nonblocking(true).ok()?;
        Some(Self {
            uid: live::uid_of_peer(&stream).ok()?,
            stream,
            said: Vec::new(),
            until: now.plus(PATIENCE),
        })
    }
}

fn refused(why: &str) -> Answer {
    Answer::Refused {
        why: why.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{OFlags, open};
    use std::io::BufRead;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    const ADDRESS: &str = "software:ring";

    fn desk(directory: &Path) -> Desk {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let directory = open(directory, flags, Mode::empty()).unwrap();
        Desk::listen(directory, ADDRESS).unwrap()
    }

    fn client(directory: &Path, says: &[u8]) -> UnixStream {
        let mut stream = UnixStream::connect(directory.join(live::socket_name(ADDRESS))).unwrap();
        stream.write_all(says).unwrap();
        stream
    }

    fn hears(stream: UnixStream) -> Answer {
        // What never comes fails the test, and does not hang it.
        let patience = Some(Duration::from_secs(20));
        stream.set_read_timeout(patience).unwrap();
        let mut line = String::new();
        io::BufReader::new(stream).read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    fn at(seconds: u64) -> Instant {
        Instant::ORIGIN.plus(Duration::from_secs(seconds))
    }

    #[test]
    fn all_who_ask_are_told_the_same_once() {
        let directory = tempfile::tempdir().unwrap();
        let mut desk = desk(directory.path());
        let path = directory.path().join(live::socket_name(ADDRESS));
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o660);
        assert!(!desk.attend(at(0)));
        let whole = client(directory.path(), QUESTION);
        let mut slow = client(directory.path(), b"che");
        assert!(desk.attend(at(1)));
        slow.write_all(b"ck\n").unwrap();
        assert!(desk.attend(at(1)), "another asks");
        assert!(!desk.attend(at(1)), "and has asked before");
        let answer = Answer::NotInUse {};
        desk.answer(&answer);
        assert_eq!((hears(whole), hears(slow)), (answer.clone(), answer));
        assert!(!desk.expire(false, at(1)));
        drop(desk);
        assert!(!path.exists());
    }

    #[test]
    fn who_is_silent_talks_nonsense_or_comes_too_often_is_sent_away() {
        let directory = tempfile::tempdir().unwrap();
        let mut desk = desk(directory.path());
        for nonsense in [&b"hello"[..], b"check\nx", &[0xff; 4096]] {
            let talks = client(directory.path(), nonsense);
            assert!(!desk.attend(at(0)), "{nonsense:?}");
            if nonsense.len() < 10 {
                assert!(matches!(hears(talks), Answer::Refused { .. }));
            }
        }
        let silent = client(directory.path(), b"");
        let mut asks: Vec<_> = (0..CLIENTS_OF_USER_MAX)
            .map(|_| client(directory.path(), QUESTION))
            .collect();
        desk.attend(at(1));
        let too_many = asks.pop().unwrap();
        assert!(matches!(hears(too_many), Answer::Refused { .. }));
        assert!(desk.expire(true, at(5)));
        assert!(!desk.expire(true, at(6)));
        assert_eq!(hears(silent), Answer::NoEnd { began: true });
        // Who has hung up is no longer counted.
        drop(asks);
        assert!(desk.clients.is_empty());
    }

    #[test]
    fn what_a_killed_owner_left_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let left = directory.path().join(live::socket_name(ADDRESS));
        drop(UnixListener::bind(&left).unwrap());
        let mut desk = desk(directory.path());
        let _client = client(directory.path(), QUESTION);
        assert!(desk.attend(at(0)));
    }
}
