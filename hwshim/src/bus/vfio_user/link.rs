//! The conversation with a vfio-user server: frames, message ids, deadlines, descriptors.
//!
//! Not what any message means; that is [`super`]'s business. Whatever the server does, a call
//! returns by its deadline, nothing is allocated in a size the server chose, and every descriptor
//! that was not asked for is closed.
//!
//! One command is outstanding at a time. If its reply does not come in time the id is abandoned:
//! the reply may still come, and is then recognised and dropped.
//!
//! ```text
//!            ask            reply with the id                    ask
//!   idle ---------> waiting -----------------> idle     idle <---------- owing
//!                      |                                 ^ late reply, dropped |
//!                      | deadline                        +---------------------+
//!                      +-------------------------------------------> owing
//!   any  -- end of stream, rule broken --> gone, for good
//! ```
//!
//! A server that breaks the rules is disconnected: where its next message starts is anybody's
//! guess, and the guess would be used as data.

use crate::bus::BusError;
use crate::clock::{Clock, Instant, SystemClock};
use crate::spec::vfio_user::{DATA_TRANSFER_LEN_MAX, Header, RegionAccess, flag};
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, recvmsg, sendmsg, shutdown,
};
use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use zerocopy::{FromBytes, IntoBytes};

/// Most data moved by one region access, in bytes. A card's registers fit many times over.
pub(super) const DATA_LEN_MAX: usize = 64 * 1024;
const _: () = assert!(DATA_LEN_MAX <= DATA_TRANSFER_LEN_MAX as usize);

/// Most descriptors in one message, either way. Servers in use take 1 to 16.
pub(super) const FDS_MAX: usize = 16;

/// Replies that may be owed before nothing more is sent. Enough to ride out a few lost ones,
/// few enough that a stopped server does not find minutes of stale commands when it wakes.
const ABANDONED_MAX: usize = 16;

/// Id of every command that wants no reply. Some servers reply all the same when it fails.
const POSTED_ID: u16 = u16::MAX;

const HEADER_LEN: usize = size_of::<Header>();
const MESSAGE_LEN_MAX: usize = HEADER_LEN + size_of::<RegionAccess>() + DATA_LEN_MAX;
const ANCILLARY_LEN: usize = rustix::cmsg_space!(ScmRights(FDS_MAX));

/// A connection to a server.
pub(super) struct Link {
    name: String,
    socket: OwnedFd,
    timeout: Duration,
    gone: AtomicBool,
    /// An epoll instance, readable once the socket hung up: unlike the socket, it does not become
    /// readable for every reply.
    removal: OwnedFd,
    inbox: Mutex<Inbox>,
    /// A lock of its own, so that ringing a doorbell does not wait for somebody else's reply.
    /// Taken after `inbox` where both are.
    outbox: Mutex<Outbox>,
}

/// A command that wants a reply.
#[derive(Debug)]
pub(super) struct Question<'a> {
    pub(super) action: &'static str,
    pub(super) command: u16,
    /// Concatenated.
    pub(super) body: [&'a [u8]; 2],
    pub(super) fds: &'a [BorrowedFd<'a>],
    /// Length of the reply's body, in bytes.
    pub(super) reply_len: RangeInclusive<usize>,
}

/// What a server said, of the length that was asked for.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) body: Vec<u8>,
    /// Descriptors that came along; dropped, and so closed, unless somebody wants them.
    pub(super) fds: Vec<OwnedFd>,
}

/// The message being received.
struct Inbox {
    /// Allocated once, in the size of the longest message there may be.
    bytes: Box<[u8]>,
    len: usize,
    fds: Vec<OwnedFd>,
    next_id: u16,
    abandoned: Vec<u16>,
}

/// What of the last message did not fit into the socket. The server waits for the rest of it, so
/// it goes before everything else.
#[derive(Default)]
struct Outbox {
    unsent: Vec<u8>,
}

/// How much of a message left before the deadline.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Sent {
    Nothing,
    Partly,
    Whole,
}

impl Link {
    /// Takes over a connected stream socket. `name` names the function in messages.
    pub(super) fn new(name: String, socket: OwnedFd, timeout: Duration) -> Result<Self, BusError> {
        let action = "watching the connection";
        let removal = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(BusError::os(action))?;
        let data = epoll::EventData::new_u64(0);
        epoll::add(&removal, &socket, data, epoll::EventFlags::RDHUP)
            .map_err(BusError::os(action))?;
        Ok(Self {
            name,
            socket,
            timeout,
            gone: AtomicBool::new(false),
            removal,
            inbox: Mutex::new(Inbox::new()),
            outbox: Mutex::default(),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Readable once the server hung up.
    pub(super) fn removal_fd(&self) -> BorrowedFd<'_> {
        self.removal.as_fd()
    }

    /// Whether the server hung up, or was hung up on. Does not block, and reads nothing.
    pub(super) fn is_gone(&self) -> bool {
        if !self.gone.load(Ordering::Acquire) && self.hung_up() {
            self.gone.store(true, Ordering::Release);
        }
        self.gone.load(Ordering::Acquire)
    }

    fn hung_up(&self) -> bool {
        let mut fds = [PollFd::new(&self.socket, PollFlags::RDHUP)];
        let ready = poll(&mut fds, Some(&Timespec::default()));
        ready.is_ok() && !fds[0].revents().is_empty()
    }

    /// Sends a command and waits for its reply.
    pub(super) fn ask(&self, question: &Question<'_>) -> Result<Reply, BusError> {
        let deadline = self.deadline();
        let mut inbox = lock(&self.inbox);
        self.check_present()?;
        if !self.catch_up(&mut inbox, deadline)? {
            return Err(self.timed_out(question.action));
        }
        let id = inbox.fresh_id();
        let message = message(id, question.command, flag::TYPE_COMMAND, question.body);
        match self.send(question.action, &message, question.fds, deadline)? {
            Sent::Nothing => return Err(self.timed_out(question.action)),
            Sent::Partly => {
                inbox.abandoned.push(id);
                return Err(self.timed_out(question.action));
            }
            Sent::Whole => {}
        }
        self.await_reply(&mut inbox, id, question, deadline)
    }

    /// Sends a command that wants no reply. Waits only for room in the socket, and that not
    /// longer than a reply would be waited for.
    pub(super) fn post(
        &self,
        action: &'static str,
        command: u16,
        body: [&[u8]; 2],
    ) -> Result<(), BusError> {
        let deadline = self.deadline();
        self.check_present()?;
        let flags = flag::TYPE_COMMAND | flag::NO_REPLY;
        let message = message(POSTED_ID, command, flags, body);
        match self.send(action, &message, &[], deadline)? {
            Sent::Whole => Ok(()),
            Sent::Nothing | Sent::Partly => Err(self.timed_out(action)),
        }
    }

    /// Lets one reply with this id pass unheeded, should it ever come.
    pub(super) fn expect_stray(&self, id: u16) {
        lock(&self.inbox).abandoned.push(id);
    }

    /// Hangs up on a server that broke a rule of the protocol.
    pub(super) fn violated(&self, rule: &'static str) -> BusError {
        self.gone.store(true, Ordering::Release);
        // Fails only if the server hung up first.
        let _ = shutdown(&self.socket, Shutdown::Both);
        BusError::Protocol { rule }
    }

    /// The error of everything after the end. Cheap enough for every ring of a doorbell.
    pub(super) fn check_present(&self) -> Result<(), BusError> {
        if self.gone.load(Ordering::Acquire) {
            return Err(self.gone());
        }
        Ok(())
    }

    fn gone(&self) -> BusError {
        self.gone.store(true, Ordering::Release);
        BusError::Gone {
            name: self.name.clone(),
        }
    }

    fn timed_out(&self, action: &'static str) -> BusError {
        BusError::TimedOut {
            action,
            timeout: self.timeout,
        }
    }

    fn deadline(&self) -> Instant {
        SystemClock.now().plus(self.timeout)
    }

    /// Drops replies that came too late. Says whether another command may be sent.
    ///
    /// Without this, a server that woke up could be stuck sending old replies to us, while we are
    /// stuck sending new commands to it.
    fn catch_up(&self, inbox: &mut Inbox, deadline: Instant) -> Result<bool, BusError> {
        loop {
            let may_send = inbox.abandoned.len() < ABANDONED_MAX;
            let Some(header) = self.receive(inbox, deadline, !may_send)? else {
                return Ok(may_send);
            };
            self.drop_stray(inbox, header)?;
        }
    }

    fn await_reply(
        &self,
        inbox: &mut Inbox,
        id: u16,
        question: &Question<'_>,
        deadline: Instant,
    ) -> Result<Reply, BusError> {
        loop {
            let Some(header) = self.receive(inbox, deadline, true)? else {
                inbox.abandoned.push(id);
                return Err(self.timed_out(question.action));
            };
            if header.message_id.get() == id {
                return self.check_reply(header, inbox.take(), question);
            }
            self.drop_stray(inbox, header)?;
        }
    }

    fn check_reply(
        &self,
        header: Header,
        reply: Reply,
        question: &Question<'_>,
    ) -> Result<Reply, BusError> {
        if header.command.get() != question.command {
            return Err(self.violated("a reply names another command than was sent"));
        }
        if header.flags.get() & flag::ERROR != 0 {
            return Err(BusError::Refused {
                action: question.action,
                reason: reason(header.error.get()),
            });
        }
        if !question.reply_len.contains(&reply.body.len()) {
            return Err(self.violated("a reply has the wrong length"));
        }
        Ok(reply)
    }

    fn drop_stray(&self, inbox: &mut Inbox, header: Header) -> Result<(), BusError> {
        let id = header.message_id.get();
        let known = inbox
            .abandoned
            .iter()
            .position(|&abandoned| abandoned == id);
        if let Some(index) = known {
            inbox.abandoned.swap_remove(index);
        } else if id != POSTED_ID {
            return Err(self.violated("a reply has the id of no command"));
        }
        inbox.take();
        Ok(())
    }

    /// Receives until a whole message is in the inbox, and says which. `None` at the deadline, or
    /// when there is nothing more and the caller does not want to `wait`.
    fn receive(
        &self,
        inbox: &mut Inbox,
        deadline: Instant,
        wait: bool,
    ) -> Result<Option<Header>, BusError> {
        loop {
            let header = inbox.header();
            let expected_len = header.map_or(Ok(HEADER_LEN), |header| self.check_header(header))?;
            if let Some(header) = header
                && inbox.len == expected_len
            {
                return Ok(Some(header));
            }
            // Looked at even while bytes keep coming: a trickle must not outlast the deadline.
            if SystemClock.now() >= deadline {
                return Ok(None);
            }
            match inbox.fill(&self.socket, expected_len) {
                Ok(0) => return Err(self.gone()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) if !wait => return Ok(None),
                Err(Errno::WOULDBLOCK) => {
                    if !self.wait_for(PollFlags::IN, deadline)? {
                        return Ok(None);
                    }
                }
                Err(Errno::CONNRESET) => return Err(self.gone()),
                Err(errno) => return Err(BusError::os("receiving from the device side")(errno)),
            }
        }
    }

    /// Length of the message with this header, in bytes, if there may be such a message.
    fn check_header(&self, header: Header) -> Result<usize, BusError> {
        if header.flags.get() & flag::TYPE_MASK != flag::TYPE_REPLY {
            // All memory is shared by descriptor, so a server never has to ask for any.
            return Err(self.violated("a message is not a reply"));
        }
        match usize::try_from(header.message_size.get()) {
            Ok(len @ HEADER_LEN..=MESSAGE_LEN_MAX) => Ok(len),
            _ => Err(self.violated("a message has an impossible size")),
        }
    }

    fn send(
        &self,
        action: &'static str,
        message: &[u8],
        fds: &[BorrowedFd<'_>],
        deadline: Instant,
    ) -> Result<Sent, BusError> {
        let Outbox { unsent } = &mut *lock(&self.outbox);
        let flushed = self.push(action, unsent, &[], deadline)?;
        unsent.drain(..flushed);
        if !unsent.is_empty() {
            return Ok(Sent::Nothing);
        }
        let sent = self.push(action, message, fds, deadline)?;
        if sent == 0 {
            return Ok(Sent::Nothing);
        }
        unsent.extend_from_slice(&message[sent..]);
        if unsent.is_empty() {
            Ok(Sent::Whole)
        } else {
            Ok(Sent::Partly)
        }
    }

    /// Sends what the socket takes until the deadline; descriptors go with the first byte.
    fn push(
        &self,
        action: &'static str,
        bytes: &[u8],
        mut fds: &[BorrowedFd<'_>],
        deadline: Instant,
    ) -> Result<usize, BusError> {
        let mut sent = 0;
        while sent < bytes.len() {
            match send_some(&self.socket, &bytes[sent..], fds) {
                Ok(count) => {
                    sent += count;
                    fds = &[];
                }
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => {
                    if !self.wait_for(PollFlags::OUT, deadline)? {
                        break;
                    }
                }
                Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => return Err(self.gone()),
                Err(errno) => return Err(BusError::os(action)(errno)),
            }
        }
        Ok(sent)
    }

    /// Waits for the socket; `false` if the deadline came first.
    fn wait_for(&self, events: PollFlags, deadline: Instant) -> Result<bool, BusError> {
        loop {
            let left = deadline.since(SystemClock.now());
            if left.is_zero() {
                return Ok(false);
            }
            let timeout = Timespec::try_from(left).ok();
            let mut fds = [PollFd::new(&self.socket, events)];
            match poll(&mut fds, timeout.as_ref()) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(true),
                Err(errno) => return Err(BusError::os("waiting for the device side")(errno)),
            }
        }
    }
}

impl Inbox {
    fn new() -> Self {
        Self {
            bytes: vec![0; MESSAGE_LEN_MAX].into_boxed_slice(),
            len: 0,
            fds: Vec::new(),
            next_id: 0,
            abandoned: Vec::new(),
        }
    }

    /// An id that no reply still to come can have.
    fn fresh_id(&mut self) -> u16 {
        loop {
            let id = self.next_id;
            self.next_id = id.wrapping_add(1);
            if id != POSTED_ID && !self.abandoned.contains(&id) {
                return id;
            }
        }
    }

    fn header(&self) -> Option<Header> {
        let received = &self.bytes[..self.len];
        Header::read_from_prefix(received)
            .ok()
            .map(|(header, _)| header)
    }

    /// Receives at most up to `expected_len`, so never a byte of the next message.
    fn fill(&mut self, socket: &OwnedFd, expected_len: usize) -> Result<usize, Errno> {
        let mut space = [MaybeUninit::uninit(); ANCILLARY_LEN];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut buffers = [IoSliceMut::new(&mut self.bytes[self.len..expected_len])];
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(socket, &mut buffers, &mut ancillary, flags)?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                // What exceeds the bound is dropped here, and so closed.
                let room = FDS_MAX - self.fds.len();
                self.fds.extend(fds.take(room));
            }
        }
        self.len += received.bytes;
        Ok(received.bytes)
    }

    /// Takes the message out, to make room for the next one.
    fn take(&mut self) -> Reply {
        let body = self.bytes[HEADER_LEN..self.len].to_vec();
        self.len = 0;
        Reply {
            body,
            fds: std::mem::take(&mut self.fds),
        }
    }
}

/// Without the messages: they are long, and hold what was written to registers.
impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("name", &self.name)
            .field("gone", &self.gone)
            .finish_non_exhaustive()
    }
}

fn send_some(socket: &OwnedFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); ANCILLARY_LEN];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        let fits = ancillary.push(SendAncillaryMessage::ScmRights(fds));
        assert!(fits, "callers send at most FDS_MAX descriptors");
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, flags)
}

fn message(id: u16, command: u16, flags: u32, body: [&[u8]; 2]) -> Vec<u8> {
    let len = HEADER_LEN + body[0].len() + body[1].len();
    assert!(len <= MESSAGE_LEN_MAX, "callers split what is longer");
    let header = Header {
        message_id: id.into(),
        command: command.into(),
        message_size: u32::try_from(len)
            .expect("bounded by MESSAGE_LEN_MAX")
            .into(),
        flags: flags.into(),
        error: 0.into(),
    };
    [header.as_bytes(), body[0], body[1]].concat()
}

/// The reason in an error reply; many servers leave it out.
fn reason(errno: u32) -> String {
    match i32::try_from(errno) {
        Ok(errno @ 1..=4095) => std::io::Error::from_raw_os_error(errno).to_string(),
        _ => "the device side gave no reason".to_owned(),
    }
}

/// A lock whose holder panicked guards nothing inconsistent: each step leaves a state from which
/// the stream can be continued.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::vfio_user::scripted::{PATIENT, Peer, SHORT};
    use crate::spec::vfio_user::command;
    use rustix::net::sockopt;
    use std::sync::Arc;
    use std::sync::mpsc;
    use std::thread;

    const READ: u16 = command::REGION_READ;
    const REPLY: u32 = flag::TYPE_REPLY;

    fn link(timeout: Duration) -> (Arc<Link>, Peer) {
        let (socket, peer) = Peer::pair();
        let link = Link::new("vfio-user:test".to_owned(), socket, timeout).unwrap();
        (Arc::new(link), peer)
    }

    fn question(reply_len: RangeInclusive<usize>) -> Question<'static> {
        Question {
            action: "asking",
            command: READ,
            body: [b"what", b"ever"],
            fds: &[],
            reply_len,
        }
    }

    fn ask(link: &Link) -> Result<Vec<u8>, BusError> {
        link.ask(&question(4..=4)).map(|reply| reply.body)
    }

    fn has_hung_up(link: &Link) -> bool {
        let removal = link.removal_fd();
        let mut fds = [PollFd::new(&removal, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
    }

    /// Asks one question, and has `answer` say what comes back for it.
    fn ask_and_answer(answer: impl FnOnce(&Peer, Header) + Send + 'static) -> BusError {
        let (link, peer) = link(PATIENT);
        let server = thread::spawn(move || {
            let header = peer.receive().unwrap().header;
            answer(&peer, header);
            peer
        });
        let error = ask(&link).unwrap_err();
        let _peer = server.join().unwrap();
        let gone = matches!(error, BusError::Protocol { .. } | BusError::Gone { .. });
        assert_eq!((link.is_gone(), has_hung_up(&link)), (gone, gone));
        assert_eq!(
            matches!(ask_again(&link), Some(BusError::Gone { .. })),
            gone
        );
        error
    }

    fn ask_again(link: &Link) -> Option<BusError> {
        link.is_gone().then(|| ask(link).unwrap_err())
    }

    #[track_caller]
    fn assert_violates(error: &BusError, rule: &str) {
        assert!(error.to_string().contains(rule), "{error}");
    }

    #[test]
    fn a_reply_answers_its_question_and_hanging_up_ends_everything() {
        let (link, peer) = link(PATIENT);
        let server = thread::spawn(move || {
            for _ in 0..3 {
                let question = peer.receive().unwrap();
                assert_eq!(question.body, b"whatever");
                peer.send(question.header, REPLY, 0, b"this", &[]);
            }
        });
        for _ in 0..3 {
            assert_eq!(ask(&link).unwrap(), b"this");
        }
        server.join().unwrap();
        assert!(has_hung_up(&link) && link.is_gone());
        assert!(matches!(ask(&link), Err(BusError::Gone { .. })));
        let posted = link.post("ringing", command::REGION_WRITE, [&[], &[]]);
        assert!(matches!(posted, Err(BusError::Gone { .. })));
    }

    #[test]
    fn an_error_reply_is_a_refusal_in_the_servers_words() {
        let error = ask_and_answer(|peer, header| {
            peer.send(header, REPLY | flag::ERROR, 22, b"", &[]);
        });
        assert_eq!(
            error.to_string(),
            "asking was refused: Invalid argument (os error 22)"
        );
        let error = ask_and_answer(|peer, header| {
            peer.send(header, REPLY | flag::ERROR, 0, b"and a body", &[]);
        });
        assert!(error.to_string().ends_with("gave no reason"), "{error}");
    }

    #[test]
    fn a_reply_to_nothing_that_was_asked_is_a_violation() {
        let error = ask_and_answer(|peer, mut header| {
            header.message_id += 1;
            peer.send(header, REPLY, 0, b"this", &[]);
        });
        assert_violates(&error, "id of no command");
        let error = ask_and_answer(|peer, mut header| {
            header.command = command::REGION_WRITE.into();
            peer.send(header, REPLY, 0, b"this", &[]);
        });
        assert_violates(&error, "another command");
    }

    #[test]
    fn a_command_from_the_server_is_a_violation() {
        let error = ask_and_answer(|peer, header| {
            peer.send(header, flag::TYPE_COMMAND, 0, b"this", &[]);
        });
        assert_violates(&error, "not a reply");
    }

    #[test]
    fn impossible_sizes_are_violations() {
        let too_long = u32::try_from(MESSAGE_LEN_MAX).unwrap() + 1;
        for size in [0, 15, too_long, u32::MAX] {
            let error = ask_and_answer(move |peer, mut header| {
                header.message_size = size.into();
                header.flags = REPLY.into();
                peer.send_raw(header.as_bytes());
            });
            assert_violates(&error, "impossible size");
        }
    }

    #[test]
    fn a_reply_of_another_length_than_asked_for_is_a_violation() {
        for body in [&b"sho"[..], b"longer", b""] {
            let error = ask_and_answer(move |peer, header| {
                peer.send(header, REPLY, 0, body, &[]);
            });
            assert_violates(&error, "wrong length");
        }
    }

    #[test]
    fn hanging_up_in_the_middle_of_a_reply_is_removal() {
        let (link, peer) = link(PATIENT);
        let server = thread::spawn(move || {
            let mut header = peer.receive().unwrap().header;
            header.message_size = 20.into();
            header.flags = REPLY.into();
            peer.send_raw(&[header.as_bytes(), b"th"].concat());
        });
        assert!(matches!(ask(&link), Err(BusError::Gone { .. })));
        server.join().unwrap();
        assert!(link.is_gone());
    }

    #[test]
    fn a_reply_that_comes_byte_by_byte_is_put_together() {
        let (link, peer) = link(PATIENT);
        let server = thread::spawn(move || {
            let mut header = peer.receive().unwrap().header;
            header.message_size = 20.into();
            header.flags = REPLY.into();
            for byte in [header.as_bytes(), b"this"].concat() {
                peer.send_raw(&[byte]);
            }
            peer
        });
        assert_eq!(ask(&link).unwrap(), b"this");
        server.join().unwrap();
    }

    #[test]
    fn bytes_that_never_stop_coming_do_not_outlast_the_deadline() {
        let (link, peer) = link(SHORT);
        let server = thread::spawn(move || {
            let mut header = peer.receive().unwrap().header;
            header.message_id = POSTED_ID.into();
            header.message_size = 16.into();
            header.flags = REPLY.into();
            // More at once than is received at once, so that there is always another byte.
            let replies = header.as_bytes().repeat(1000);
            while peer.try_send_raw(&replies) {}
        });
        assert!(matches!(ask(&link), Err(BusError::TimedOut { .. })));
        drop(link);
        server.join().unwrap();
    }

    #[test]
    fn what_has_arrived_is_not_worked_through_past_the_deadline() {
        let (link, peer) = link(Duration::ZERO);
        let mut header = Header {
            message_id: POSTED_ID.into(),
            command: READ.into(),
            message_size: 16.into(),
            flags: REPLY.into(),
            error: 0.into(),
        };
        peer.send_raw(&header.as_bytes().repeat(100));
        header.message_id = 0.into();
        peer.send(header, REPLY, 0, b"this", &[]);
        assert!(matches!(ask(&link), Err(BusError::TimedOut { .. })));
    }

    #[test]
    fn a_server_that_never_answers_does_not_hold_us_up() {
        let (link, _peer) = link(SHORT);
        let error = ask(&link).unwrap_err();
        assert_eq!(error.to_string(), "asking got no answer within 20ms");
        assert!(!link.is_gone());
    }

    #[test]
    fn a_late_reply_is_not_taken_for_the_next_one() {
        let (link, peer) = link(SHORT);
        assert!(matches!(ask(&link), Err(BusError::TimedOut { .. })));
        let first = peer.receive().unwrap().header;
        peer.send(first, REPLY, 0, b"late", &[]);
        let server = thread::spawn(move || {
            while let Some(question) = peer.receive() {
                peer.send(question.header, REPLY, 0, b"this", &[]);
            }
        });
        // On a busy host the second question may time out as well; then its reply is late too.
        let answer = loop {
            match ask(&link) {
                Err(BusError::TimedOut { .. }) => {}
                other => break other.unwrap(),
            }
        };
        assert_eq!(answer, b"this");
        drop(link);
        server.join().unwrap();
    }

    #[test]
    fn a_late_reply_that_comes_together_with_the_right_one_is_skipped() {
        let (socket, peer) = Peer::pair();
        let mut link = Link::new("vfio-user:test".to_owned(), socket, SHORT).unwrap();
        assert!(matches!(ask(&link), Err(BusError::TimedOut { .. })));
        link.timeout = PATIENT;
        let server = thread::spawn(move || {
            let first = peer.receive().unwrap().header;
            let second = peer.receive().unwrap().header;
            peer.send(first, REPLY, 0, b"late, and of another length", &[]);
            peer.send(second, REPLY, 0, b"this", &[]);
            peer
        });
        assert_eq!(ask(&link).unwrap(), b"this");
        server.join().unwrap();
    }

    #[test]
    fn a_stopped_server_is_not_buried_in_commands_and_is_spoken_to_again_when_it_wakes() {
        let (socket, peer) = Peer::pair();
        let mut link = Link::new(
            "vfio-user:test".to_owned(),
            socket,
            Duration::from_millis(1),
        )
        .unwrap();
        for _ in 0..2 * ABANDONED_MAX {
            assert!(matches!(ask(&link), Err(BusError::TimedOut { .. })));
        }
        link.timeout = PATIENT;
        let server = thread::spawn(move || {
            let mut count = 0;
            while let Some(question) = peer.receive() {
                peer.send(question.header, REPLY, 0, b"this", &[]);
                count += 1;
            }
            count
        });
        assert_eq!(ask(&link).unwrap(), b"this");
        drop(link);
        assert!(server.join().unwrap() <= ABANDONED_MAX + 1);
    }

    #[test]
    fn ringing_gives_up_on_a_full_socket_and_leaves_whole_messages_in_it() {
        let (socket, peer) = Peer::pair();
        // The kernel makes it as small as it can, which is smaller than a message here.
        sockopt::set_socket_send_buffer_size(&socket, 1).unwrap();
        let mut link = Link::new(
            "vfio-user:test".to_owned(),
            socket,
            Duration::from_millis(1),
        )
        .unwrap();
        let body = vec![7; 5000];
        let mut rung = 0;
        while link
            .post("ringing", command::REGION_WRITE, [&body, &[]])
            .is_ok()
        {
            rung += 1;
            assert!(rung < 100_000, "the socket never fills");
        }
        link.timeout = PATIENT;
        let server = thread::spawn(move || {
            let mut received = 0;
            loop {
                let message = peer.receive().unwrap();
                if message.header.command == READ {
                    peer.send(message.header, REPLY, 0, b"this", &[]);
                    return received;
                }
                assert_eq!(message.body, vec![7; 5000]);
                assert_eq!(message.header.flags, flag::NO_REPLY);
                received += 1;
            }
        });
        assert_eq!(ask(&link).unwrap(), b"this");
        let received = server.join().unwrap();
        assert!(
            received == rung || received == rung + 1,
            "{received} of {rung}"
        );
    }

    #[test]
    fn ringing_does_not_wait_for_somebody_elses_reply() {
        let (link, peer) = link(PATIENT);
        let (asked, was_asked) = mpsc::channel();
        let server = thread::spawn(move || {
            let question = peer.receive().unwrap();
            asked.send(()).unwrap();
            assert_eq!(
                peer.receive().unwrap().header.command,
                command::REGION_WRITE
            );
            peer.send(question.header, REPLY, 0, b"this", &[]);
        });
        let asking = thread::spawn({
            let link = Arc::clone(&link);
            move || ask(&link)
        });
        was_asked.recv().unwrap();
        link.post("ringing", command::REGION_WRITE, [b"", b""])
            .unwrap();
        assert_eq!(asking.join().unwrap().unwrap(), b"this");
        server.join().unwrap();
    }

    #[test]
    fn no_more_descriptors_are_kept_than_a_message_may_have() {
        let (link, peer) = link(PATIENT);
        let server = thread::spawn(move || {
            let mut header = peer.receive().unwrap().header;
            header.message_size = 20.into();
            header.flags = REPLY.into();
            let (reader, _writer) = std::io::pipe().unwrap();
            let fds = [reader.as_fd(); 10];
            for byte in [header.as_bytes(), b"this"].concat() {
                peer.send_bytes(&[byte], &fds);
            }
            peer
        });
        let reply = link.ask(&question(4..=4)).unwrap();
        assert_eq!(reply.fds.len(), FDS_MAX);
        server.join().unwrap();
    }

    #[test]
    fn random_bytes_never_panic() {
        proptest::proptest!(|(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 1..200))| {
            let (link, peer) = link(Duration::from_millis(2));
            peer.send_raw(&bytes);
            ask(&link).unwrap_err();
            drop(peer);
            let gone = matches!(ask(&link), Err(BusError::Gone { .. } | BusError::Protocol { .. }));
            proptest::prop_assert!(gone);
        });
    }
}
