//! One client: messages in, replies out.
//!
//! A message is read in two steps, header and body, and never beyond its own end, because
//! descriptors belong to the message whose bytes they came with. Nothing here blocks: a message
//! that has not arrived in full waits in its buffer, and a client that does not take its replies
//! is dropped. What a command means is not known here.

use card_spec::vfio_user::{DATA_TRANSFER_LEN_MAX, Header, flag};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use zerocopy::{FromZeros, IntoBytes};

/// Most descriptors a message may carry; QEMU's own limit.
pub(crate) const FDS_MAX: usize = 16;
/// Longest message: a region write of the largest size, with room to spare.
const MESSAGE_LEN_MAX: usize = DATA_TRANSFER_LEN_MAX as usize + 64;
/// Read at most this much at once, so that a length that is a lie costs nothing.
const CHUNK_LEN: usize = 64 * 1024;
const HEADER_LEN: usize = size_of::<Header>();

/// A message in full.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) header: Header,
    pub(crate) body: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}

impl Message {
    pub(crate) fn wants_reply(&self) -> bool {
        self.header.flags.get() & flag::NO_REPLY == 0
    }
}

/// The connection is of no use any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Closed;

impl From<Errno> for Closed {
    fn from(_: Errno) -> Self {
        Self
    }
}

/// A connected client.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    negotiated: bool,
    /// The message that is arriving.
    header: Header,
    arrived: usize,
    body: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Connection {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            negotiated: false,
            header: Header::default(),
            arrived: 0,
            body: Vec::new(),
            fds: Vec::new(),
        }
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(crate) const fn is_negotiated(&self) -> bool {
        self.negotiated
    }

    pub(crate) const fn set_negotiated(&mut self) {
        self.negotiated = true;
    }

    /// Returns the next message, or nothing if it has not arrived yet.
    pub(crate) fn receive(&mut self) -> Result<Option<Message>, Closed> {
        while self.arrived < HEADER_LEN {
            let mut header = Header::new_zeroed();
            header
                .as_mut_bytes()
                .copy_from_slice(self.header.as_bytes());
            let Some(len) = self.read(&mut header.as_mut_bytes()[self.arrived..])? else {
                return Ok(None);
            };
            self.header = header;
            self.arrived += len;
        }
        let message_len = self.message_len()?;
        while self.arrived < message_len {
            let start = self.arrived - HEADER_LEN;
            let mut body = std::mem::take(&mut self.body);
            body.resize(start + (message_len - self.arrived).min(CHUNK_LEN), 0);
            let read = self.read(&mut body[start..]);
            self.body = body;
            match read? {
                Some(len) => self.arrived += len,
                None => return Ok(None),
            }
        }
        self.body.truncate(message_len - HEADER_LEN);
        self.arrived = 0;
        Ok(Some(Message {
            header: self.header,
            body: std::mem::take(&mut self.body),
            fds: std::mem::take(&mut self.fds),
        }))
    }

    /// Length of the message whose header has arrived, if it can be a message at all. Where it
    /// ends is unknown otherwise, and so is where the next one starts.
    fn message_len(&self) -> Result<usize, Closed> {
        let len = usize::try_from(self.header.message_size.get()).unwrap_or(usize::MAX);
        let is_command = self.header.flags.get() & flag::TYPE_MASK == flag::TYPE_COMMAND;
        if (HEADER_LEN..=MESSAGE_LEN_MAX).contains(&len) && is_command {
            return Ok(len);
        }
        // Best effort: the connection ends in any case.
        let _ = self.refuse(&self.header, Errno::MSGSIZE);
        Err(Closed)
    }

    /// Reads some bytes, or nothing if none have arrived.
    fn read(&mut self, buf: &mut [u8]) -> Result<Option<usize>, Closed> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let mut buffers = [IoSliceMut::new(buf)];
        let received = loop {
            match recvmsg(&self.socket, &mut buffers, &mut ancillary, flags) {
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                outcome => break outcome?,
            }
        };
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        let too_many = self.fds.len() > FDS_MAX || received.flags.contains(ReturnFlags::CTRUNC);
        if received.bytes == 0 || too_many {
            return Err(Closed);
        }
        Ok(Some(received.bytes))
    }

    /// Answers a command.
    pub(crate) fn reply(
        &self,
        to: &Header,
        body: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), Closed> {
        self.send(to, flag::TYPE_REPLY, 0, body, fds)
    }

    /// Answers a command that failed.
    pub(crate) fn refuse(&self, to: &Header, errno: Errno) -> Result<(), Closed> {
        let error = u32::try_from(errno.raw_os_error()).unwrap_or(0);
        self.send(to, flag::TYPE_REPLY | flag::ERROR, error, &[], &[])
    }

    /// Sends a reply in one piece: QEMU takes a header that comes in two for a broken one.
    fn send(
        &self,
        to: &Header,
        flags: u32,
        error: u32,
        body: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), Closed> {
        let len = HEADER_LEN + body.len();
        let header = Header {
            message_id: to.message_id,
            command: to.command,
            message_size: u32::try_from(len).map_err(|_| Closed)?.into(),
            flags: flags.into(),
            error: error.into(),
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Closed);
        }
        let buffers = [IoSlice::new(header.as_bytes()), IoSlice::new(body)];
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = sendmsg(&self.socket, &buffers, &mut ancillary, flags)?;
        if sent == len { Ok(()) } else { Err(Closed) }
    }
}
