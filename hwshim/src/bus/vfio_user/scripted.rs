//! The other end of the socket, as tests want it: a peer that says what it is told to, and a card
//! that answers honestly unless told otherwise.

use super::{IO_FDS_LEN_MAX, IO_FDS_STRAY_ID};
use crate::spec::vfio::{DeviceInfo, IrqInfo, IrqSet, RegionInfo, device, irq, region};
use crate::spec::vfio_user::{
    DmaMap, DmaUnmap, Header, IOEVENTFD_DATAMATCH, RegionAccess, RegionIoFds, SubRegionIoFd,
    Version, command, flag,
};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::io::{IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use zerocopy::{FromBytes, IntoBytes};

/// A timeout for conversations that must not meet it, however busy the host.
pub(super) const PATIENT: Duration = Duration::from_secs(60);
/// A timeout for conversations that must meet it.
pub(super) const SHORT: Duration = Duration::from_millis(20);

const ANCILLARY_LEN: usize = rustix::cmsg_space!(ScmRights(16));

/// One end of a socket. It blocks.
pub(super) struct Peer(UnixStream);

/// A command as it arrived.
pub(super) struct Received {
    pub(super) header: Header,
    pub(super) body: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
}

impl Peer {
    pub(super) fn pair() -> (OwnedFd, Self) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (ours.into(), Self(theirs))
    }

    /// The next command, or `None` when the other end hung up.
    pub(super) fn receive(&self) -> Option<Received> {
        let mut space = [MaybeUninit::uninit(); ANCILLARY_LEN];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut header = Header::default();
        let mut buffers = [IoSliceMut::new(header.as_mut_bytes())];
        let flags = RecvFlags::WAITALL | RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(&self.0, &mut buffers, &mut ancillary, flags).ok()?;
        if received.bytes < size_of::<Header>() {
            return None;
        }
        let mut fds = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                fds.extend(received);
            }
        }
        let len = usize::try_from(header.message_size.get()).unwrap();
        let mut body = vec![0; len.saturating_sub(size_of::<Header>())];
        (&self.0).read_exact(&mut body).ok()?;
        Some(Received { header, body, fds })
    }

    /// Sends a message with the header's id and command.
    pub(super) fn send(
        &self,
        mut header: Header,
        flags: u32,
        error: u32,
        body: &[u8],
        fds: &[BorrowedFd<'_>],
    ) {
        let len = size_of::<Header>() + body.len();
        header.message_size = u32::try_from(len).unwrap().into();
        header.flags = flags.into();
        header.error = error.into();
        self.send_bytes(&[header.as_bytes(), body].concat(), fds);
    }

    pub(super) fn send_raw(&self, bytes: &[u8]) {
        self.send_bytes(bytes, &[]);
    }

    /// Says whether anybody is there to send to.
    pub(super) fn try_send_raw(&self, bytes: &[u8]) -> bool {
        rustix::net::send(&self.0, bytes, SendFlags::NOSIGNAL).is_ok()
    }

    /// The other end may have hung up on us; that is for the test to find out there.
    pub(super) fn send_bytes(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); ANCILLARY_LEN];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(fds));
        }
        let _ = sendmsg(
            &self.0,
            &[IoSlice::new(bytes)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        );
    }
}

/// How a command that is not known is refused.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Refuse {
    Properly,
    /// As the `vfio_user` crate does: what follows the header is taken for a header.
    LeavingTheBody,
}

type Corruption = Box<dyn FnMut(&mut Vec<u8>) + Send>;

/// A device with one BAR and 256 bytes of configuration space, each byte its own offset.
pub(super) struct Card {
    pub(super) json: String,
    pub(super) resettable: bool,
    pub(super) config: Vec<u8>,
    pub(super) bar: Vec<u8>,
    pub(super) vectors: Vec<OwnedFd>,
    pub(super) maps: Vec<(DmaMap, OwnedFd)>,
    /// Offset and length of every access to the BAR.
    pub(super) accesses: Vec<(u64, u64)>,
    pub(super) posted: usize,
    pub(super) resets: usize,
    pub(super) questions_about_io_fds: usize,
    /// Offset, size, and value to match, of doorbells that `doorbell_fd` stands for.
    pub(super) doorbells: Vec<(u64, u64, Option<u64>)>,
    pub(super) doorbell_fd: Option<OwnedFd>,
    pub(super) refuse: Refuse,
    /// Posted writes fail, and an error reply says so.
    pub(super) answers_posted: bool,
    pub(super) dies: bool,
    /// Comes along with every reply.
    pub(super) unasked_fd: Option<OwnedFd>,
    /// Which reply to corrupt, counted down, and how.
    pub(super) corrupt: Option<(usize, Corruption)>,
}

type Answer = Result<(Vec<u8>, Vec<OwnedFd>), u32>;

const EINVAL: u32 = 22;

impl Card {
    pub(super) fn new() -> Self {
        Self {
            json: r#"{"capabilities":{"max_msg_fds":8}}"#.to_owned(),
            resettable: true,
            config: (0..=255).collect(),
            bar: vec![0; 0x2000],
            vectors: Vec::new(),
            maps: Vec::new(),
            accesses: Vec::new(),
            posted: 0,
            resets: 0,
            questions_about_io_fds: 0,
            doorbells: Vec::new(),
            doorbell_fd: None,
            refuse: Refuse::Properly,
            answers_posted: false,
            dies: false,
            unasked_fd: None,
            corrupt: None,
        }
    }

    pub(super) fn interrupt(&self, vector: usize) {
        rustix::io::write(&self.vectors[vector], &1_u64.to_ne_bytes()).unwrap();
    }

    fn answer(&mut self, received: Received) -> Answer {
        let Received { header, body, fds } = received;
        let reply = match header.command.get() {
            command::VERSION => {
                let version = Version::default();
                [version.as_bytes(), self.json.as_bytes(), &[0]].concat()
            }
            command::DEVICE_GET_INFO => self.device_info().as_bytes().to_vec(),
            command::DEVICE_GET_REGION_INFO => self.region_info(&body).as_bytes().to_vec(),
            command::DEVICE_GET_IRQ_INFO => {
                let mut info = IrqInfo::read_from_bytes(&body).unwrap();
                info.count = 8.into();
                info.as_bytes().to_vec()
            }
            command::DEVICE_SET_IRQS => self.set_irqs(&body, fds)?,
            command::REGION_READ | command::REGION_WRITE => self.access(&body)?,
            command::DMA_MAP => {
                let map = DmaMap::read_from_bytes(&body).unwrap();
                let memfd = fds.into_iter().next().ok_or(EINVAL)?;
                self.maps.push((map, memfd));
                Vec::new()
            }
            command::DMA_UNMAP => {
                let unmap = DmaUnmap::read_from_bytes(&body).unwrap();
                self.maps.retain(|(map, _)| map.address != unmap.address);
                body
            }
            command::DEVICE_RESET => {
                self.resets += 1;
                Vec::new()
            }
            command::DEVICE_GET_REGION_IO_FDS => return self.io_fds(&body),
            _ => return Err(EINVAL),
        };
        Ok((reply, Vec::new()))
    }

    fn device_info(&self) -> DeviceInfo {
        let reset = if self.resettable { device::RESET } else { 0 };
        DeviceInfo {
            argsz: 16.into(),
            flags: (device::PCI | reset).into(),
            num_regions: region::COUNT.into(),
            num_irqs: irq::COUNT.into(),
        }
    }

    fn region_info(&self, body: &[u8]) -> RegionInfo {
        let mut info = RegionInfo::read_from_bytes(body).unwrap();
        let len = match info.index.get() {
            0 => self.bar.len(),
            region::CONFIG => self.config.len(),
            _ => 0,
        };
        info.size = (len as u64).into();
        info
    }

    fn set_irqs(&mut self, body: &[u8], fds: Vec<OwnedFd>) -> Result<Vec<u8>, u32> {
        let set = IrqSet::read_from_bytes(body).unwrap();
        let start = usize::try_from(set.start.get()).unwrap();
        if set.flags == irq::SET_DATA_NONE | irq::SET_ACTION_TRIGGER {
            self.vectors.clear();
        } else if start != self.vectors.len() || set.count.get() as usize != fds.len() {
            return Err(EINVAL);
        }
        self.vectors.extend(fds);
        Ok(Vec::new())
    }

    fn access(&mut self, body: &[u8]) -> Result<Vec<u8>, u32> {
        let (access, data) = RegionAccess::read_from_prefix(body).unwrap();
        let region = match access.region.get() {
            0 => &mut self.bar,
            region::CONFIG => &mut self.config,
            _ => return Err(EINVAL),
        };
        let (offset, count) = (access.offset.get(), u64::from(access.count.get()));
        if access.region == 0 {
            self.accesses.push((offset, count));
        }
        let offset = usize::try_from(offset).unwrap();
        let part = region
            .get_mut(offset..offset + access.count.get() as usize)
            .ok_or(EINVAL)?;
        if data.is_empty() {
            return Ok([access.as_bytes(), part].concat());
        }
        part.copy_from_slice(data);
        Ok(access.as_bytes().to_vec())
    }

    fn io_fds(&mut self, body: &[u8]) -> Answer {
        self.questions_about_io_fds += 1;
        let mut fixed = RegionIoFds::read_from_bytes(body).unwrap();
        assert_eq!(fixed.argsz.get() as usize, IO_FDS_LEN_MAX);
        let fd = self.doorbell_fd.as_ref().ok_or(0_u32)?;
        fixed.count = u32::try_from(self.doorbells.len()).unwrap().into();
        let mut reply = fixed.as_bytes().to_vec();
        for (offset, size, datamatch) in &self.doorbells {
            let sub_region = SubRegionIoFd {
                offset: (*offset).into(),
                size: (*size).into(),
                flags: datamatch.map_or(0, |_| IOEVENTFD_DATAMATCH).into(),
                datamatch: datamatch.unwrap_or(0).into(),
                ..SubRegionIoFd::default()
            };
            reply.extend_from_slice(sub_region.as_bytes());
        }
        Ok((reply, vec![fd.try_clone().unwrap()]))
    }
}

/// Serves the card until the other end hangs up, in a thread of its own.
pub(super) fn serve(peer: Peer, card: Arc<Mutex<Card>>) {
    thread::spawn(move || {
        while let Some(received) = peer.receive() {
            if !reply(&peer, &mut card.lock().unwrap(), received) {
                return;
            }
        }
    });
}

/// Answers one command; `false` if the card died of it.
fn reply(peer: &Peer, card: &mut Card, received: Received) -> bool {
    if card.dies {
        return false;
    }
    let mut header = received.header;
    let posted = header.flags.get() & flag::NO_REPLY != 0;
    let answer = card.answer(received);
    if posted {
        card.posted += 1;
        if card.answers_posted {
            peer.send(header, flag::TYPE_REPLY | flag::ERROR, 5, &[], &[]);
        }
        return true;
    }
    let (mut flags, mut error) = (flag::TYPE_REPLY, 0);
    let (body, fds) = answer.unwrap_or_else(|errno| {
        flags |= flag::ERROR;
        error = errno;
        (Vec::new(), Vec::new())
    });
    let mut borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    borrowed.extend(card.unasked_fd.as_ref().map(AsFd::as_fd));
    header.message_size = u32::try_from(size_of::<Header>() + body.len())
        .unwrap()
        .into();
    header.flags = flags.into();
    header.error = error.into();
    let mut message = [header.as_bytes(), &body].concat();
    if let Some((_, mut corruption)) = card.corrupt.take_if(|(left, _)| *left == 0) {
        corruption(&mut message);
    } else if let Some((left, _)) = &mut card.corrupt {
        *left -= 1;
    }
    peer.send_bytes(&message, &borrowed);
    if flags & flag::ERROR != 0
        && header.command == command::DEVICE_GET_REGION_IO_FDS
        && card.refuse == Refuse::LeavingTheBody
    {
        header.message_id = IO_FDS_STRAY_ID.into();
        header.command = 0.into();
        peer.send(header, flags, 0, &[], &[]);
    }
    true
}
