//! The card as a vfio-user server ("vfio-user Protocol Specification", in QEMU's
//! `docs/interop/vfio-user.rst`).
//!
//! One client at a time; the next one waits in the socket's backlog. What a client sends is
//! bounded before it is stored, whatever is wrong with it is answered with an errno or ends the
//! connection, and neither it nor its disappearance affects the client after it.
//!
//! ```text
//!   listening ---accept---> connected ---VERSION---> negotiated
//!       ^                        |                       |
//!       +---- card forgets ------+------- hang-up -------+
//!             the client                 broken message
//!                                        card removed
//! ```
//!
//! While the card is out of its slot nobody is let in.

mod connection;
mod listener;

pub use listener::{BindError, Listener};

use crate::card::Card;
use crate::dma::{Access, Backing};
use crate::firmware::Firmware;
use crate::interrupt::IrqRequest;
use card_spec::vfio::{DeviceInfo, IrqInfo, IrqSet, RegionInfo, device, dma, irq, region};
use card_spec::vfio_user::{
    DATA_TRANSFER_LEN_MAX, DmaMap, DmaUnmap, RegionAccess, RegionIoFds, SubRegionIoFd,
    VERSION_MAJOR, VERSION_MINOR, Version, command, io_fd_type,
};
use connection::{Connection, FDS_MAX, Message};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `VFIO_DMA_UNMAP_FLAG_ALL`: take back everything, address and size are zero.
const UNMAP_ALL: u32 = 1 << 1;
/// Length of a doorbell register, in bytes (virtio 1.3 §4.1.5.2 "Available Buffer Notifications").
const DOORBELL_LEN: u64 = 2;

/// The server cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Threads or descriptors could not be had.
    #[error("the card could not be started")]
    Start(#[source] io::Error),
    /// The sockets can no longer be waited on.
    #[error("waiting for clients failed")]
    Wait(#[source] io::Error),
    /// No client can be accepted any more.
    #[error("accepting a client failed")]
    Accept(#[source] io::Error),
}

/// What a command is answered with.
#[derive(Debug, Default)]
struct Answer<'a> {
    body: Vec<u8>,
    fds: Vec<BorrowedFd<'a>>,
}

/// Answers clients until `stop` becomes readable.
pub(crate) fn serve(
    firmware: &Firmware,
    listener: &Listener,
    stop: BorrowedFd<'_>,
) -> Result<(), ServeError> {
    let mut client: Option<Connection> = None;
    // Whoever has connected to a card that has since been removed is not its client any more.
    let (_, mut power_cycles) = presence(firmware);
    loop {
        let timeout = let_time_pass(firmware);
        let (is_present, cycles) = presence(firmware);
        if !is_present || cycles != power_cycles {
            power_cycles = cycles;
            client = None;
        }
        let waiting_for = client.as_ref().map(Connection::as_fd);
        let waiting_for = waiting_for.or_else(|| is_present.then(|| listener.as_fd()));
        let ready = wait(waiting_for, stop, timeout)?;
        if ready.stop {
            firmware.card().disconnect();
            return Ok(());
        }
        if !ready.socket {
            continue;
        }
        match &mut client {
            None => client = listener.accept().map_err(ServeError::Accept)?,
            Some(connection) => {
                if !answer_all(firmware, connection) {
                    client = None;
                    firmware.card().disconnect();
                }
            }
        }
    }
}

/// Whether the card is in its slot, and how often it has been put there.
fn presence(firmware: &Firmware) -> (bool, u32) {
    let card = firmware.card();
    (card.is_present(), card.power_cycles())
}

/// Tells the card the time, and returns how long it need not be told again.
fn let_time_pass(firmware: &Firmware) -> Duration {
    /// Engines may at any moment finish what an interposer holds up until later.
    const INTERPOSED_TICK: Duration = Duration::from_millis(1);
    let mut card = firmware.card();
    let now = firmware.time();
    card.tick(now);
    if card.take_doorbell() {
        firmware.wake();
    }
    let timeout = firmware.on_the_host(card.until_next_tick(now));
    if card.is_interposed() {
        timeout.min(INTERPOSED_TICK)
    } else {
        timeout
    }
}

/// What has happened while waiting.
struct Ready {
    socket: bool,
    stop: bool,
}

fn wait(
    socket: Option<BorrowedFd<'_>>,
    stop: BorrowedFd<'_>,
    timeout: Duration,
) -> Result<Ready, ServeError> {
    let mut fds = vec![PollFd::from_borrowed_fd(stop, PollFlags::IN)];
    fds.extend(socket.map(|socket| PollFd::from_borrowed_fd(socket, PollFlags::IN)));
    let timeout = Timespec::try_from(timeout).ok();
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(Ready {
            stop: !fds[0].revents().is_empty(),
            socket: fds.get(1).is_some_and(|fd| !fd.revents().is_empty()),
        }),
        Err(errno) => Err(ServeError::Wait(errno.into())),
    }
}

/// Answers every message that has arrived. Returns whether the connection lives on.
fn answer_all(firmware: &Firmware, connection: &mut Connection) -> bool {
    loop {
        let message = match connection.receive() {
            Ok(Some(message)) => message,
            Ok(None) => return true,
            Err(_) => return false,
        };
        let (header, wants_reply) = (message.header, message.wants_reply());
        let outcome = answer(firmware, connection, message);
        if firmware.card().take_doorbell() {
            firmware.wake();
        }
        if !wants_reply {
            continue;
        }
        let sent = match outcome {
            Ok(answer) => connection.reply(&header, &answer.body, &answer.fds),
            Err(errno) => connection.refuse(&header, errno),
        };
        if sent.is_err() {
            return false;
        }
    }
}

fn answer<'a>(
    firmware: &'a Firmware,
    connection: &mut Connection,
    message: Message,
) -> Result<Answer<'a>, Errno> {
    let Message {
        header, body, fds, ..
    } = message;
    let command = header.command.get();
    if (command == command::VERSION) == connection.is_negotiated() {
        return Err(Errno::PROTO);
    }
    let takes_fds = matches!(command, command::DMA_MAP | command::DEVICE_SET_IRQS);
    if !takes_fds && !fds.is_empty() {
        return Err(Errno::INVAL);
    }
    let card = || firmware.card();
    let body = match command {
        command::VERSION => {
            let body = negotiate(&body)?;
            connection.set_negotiated();
            body
        }
        command::DMA_MAP => map(&mut card(), &body, fds)?,
        command::DMA_UNMAP => unmap(&mut card(), &body)?,
        command::DEVICE_GET_INFO => device_info(&body)?,
        command::DEVICE_GET_REGION_INFO => region_info(&body)?,
        command::DEVICE_GET_REGION_IO_FDS => return region_io_fds(firmware, &body),
        command::DEVICE_GET_IRQ_INFO => irq_info(&card(), &body)?,
        command::DEVICE_SET_IRQS => set_irqs(&mut card(), &body, fds)?,
        command::REGION_READ => read_region(&mut card(), &body)?,
        command::REGION_WRITE => write_region(&mut card(), &body)?,
        command::DEVICE_RESET => {
            card().reset();
            Vec::new()
        }
        _ => return Err(Errno::OPNOTSUPP),
    };
    Ok(Answer {
        body,
        fds: Vec::new(),
    })
}

/// Agrees on version 0.x. What the client can do beyond the minimum is not made use of, so its
/// capabilities are only checked for being what they should: nothing, or JSON.
fn negotiate(body: &[u8]) -> Result<Vec<u8>, Errno> {
    let (version, json) = split::<Version>(body)?;
    if version.major.get() != VERSION_MAJOR {
        return Err(Errno::OPNOTSUPP);
    }
    let text = json.split(|&byte| byte == 0).next().unwrap_or_default();
    if !text.is_empty() {
        serde_json::from_slice::<serde::de::IgnoredAny>(text).map_err(|_| Errno::INVAL)?;
    }
    let agreed = Version {
        major: VERSION_MAJOR.into(),
        minor: version.minor.get().min(VERSION_MINOR).into(),
    };
    let capabilities = serde_json::json!({
        "capabilities": {
            "max_msg_fds": FDS_MAX,
            "max_data_xfer_size": DATA_TRANSFER_LEN_MAX,
        }
    });
    let mut body = agreed.as_bytes().to_vec();
    body.extend_from_slice(capabilities.to_string().as_bytes());
    body.push(0);
    Ok(body)
}

fn map(card: &mut Card, body: &[u8], mut fds: Vec<OwnedFd>) -> Result<Vec<u8>, Errno> {
    let (request, _) = split::<DmaMap>(body)?;
    let flags = request.flags.get();
    if fds.len() > 1 || flags & !(dma::READ | dma::WRITE) != 0 {
        return Err(Errno::INVAL);
    }
    let access = Access {
        read: flags & dma::READ != 0,
        write: flags & dma::WRITE != 0,
    };
    let backing = fds.pop().map(|file| Backing {
        file,
        offset: request.offset.get(),
    });
    card.map(request.address.get(), request.size.get(), access, backing)
        .map_err(|error| error.errno())?;
    Ok(Vec::new())
}

fn unmap(card: &mut Card, body: &[u8]) -> Result<Vec<u8>, Errno> {
    let (request, _) = split::<DmaUnmap>(body)?;
    let mut reply = *request;
    let (address, size) = (request.address.get(), request.size.get());
    let unmapped = match request.flags.get() {
        0 if size > 0 => card.unmap(address, size),
        UNMAP_ALL if address == 0 && size == 0 => {
            reply.size = card.unmap_all().into();
            return Ok(reply.as_bytes().to_vec());
        }
        _ => return Err(Errno::INVAL),
    };
    if unmapped == 0 {
        return Err(Errno::NOENT);
    }
    reply.size = unmapped.into();
    Ok(reply.as_bytes().to_vec())
}

fn device_info(body: &[u8]) -> Result<Vec<u8>, Errno> {
    split::<DeviceInfo>(body)?;
    let info = DeviceInfo {
        argsz: len_of::<DeviceInfo>(),
        flags: (device::RESET | device::PCI).into(),
        num_regions: region::COUNT.into(),
        num_irqs: irq::COUNT.into(),
    };
    Ok(info.as_bytes().to_vec())
}

/// Length of a region; `None` for those that no PCI device has.
fn region_len(index: u32) -> Option<u64> {
    match index {
        region::CONFIG => Some(card_spec::pci::CONFIG_EXTENDED_LEN as u64),
        _ if index < region::COUNT => Some(u8::try_from(index).map_or(0, Card::bar_len)),
        _ => None,
    }
}

fn region_info(body: &[u8]) -> Result<Vec<u8>, Errno> {
    let (request, _) = split::<RegionInfo>(body)?;
    let index = request.index.get();
    let len = region_len(index).ok_or(Errno::INVAL)?;
    // No region can be mapped: only a trapped read of a dead card gives all-ones.
    let flags = if len == 0 {
        0
    } else {
        region::FLAG_READ | region::FLAG_WRITE
    };
    let info = RegionInfo {
        argsz: len_of::<RegionInfo>(),
        flags: flags.into(),
        index: index.into(),
        cap_offset: U32::ZERO,
        size: len.into(),
        offset: 0.into(),
    };
    Ok(info.as_bytes().to_vec())
}

/// Offers the doorbell eventfd for every doorbell register. One eventfd serves all of them,
/// because the firmware looks at all queues whichever was rung.
fn region_io_fds<'a>(firmware: &'a Firmware, body: &[u8]) -> Result<Answer<'a>, Errno> {
    let (request, _) = split::<RegionIoFds>(body)?;
    let index = request.index.get();
    if region_len(index).is_none() || request.flags.get() != 0 || request.count.get() != 0 {
        return Err(Errno::INVAL);
    }
    let doorbells: Vec<_> = if index == u32::from(Card::doorbell_bar()) {
        firmware.card().doorbells().collect()
    } else {
        Vec::new()
    };
    let len = size_of::<RegionIoFds>() + doorbells.len() * size_of::<SubRegionIoFd>();
    let room = usize::try_from(request.argsz.get()).unwrap_or(usize::MAX);
    let reply = RegionIoFds {
        argsz: u32::try_from(len).unwrap_or(u32::MAX).into(),
        flags: U32::ZERO,
        index: index.into(),
        count: u32::try_from(doorbells.len()).unwrap_or(u32::MAX).into(),
    };
    let mut body = reply.as_bytes().to_vec();
    if room < len || doorbells.is_empty() {
        // The reply says how much room it takes, and the client asks again.
        return Ok(Answer {
            body,
            fds: Vec::new(),
        });
    }
    for offset in doorbells {
        let part = SubRegionIoFd {
            offset: offset.into(),
            size: DOORBELL_LEN.into(),
            fd_index: U32::ZERO,
            kind: io_fd_type::IOEVENTFD.into(),
            ..SubRegionIoFd::default()
        };
        body.extend_from_slice(part.as_bytes());
    }
    Ok(Answer {
        body,
        fds: vec![firmware.doorbell()],
    })
}

fn irq_info(card: &Card, body: &[u8]) -> Result<Vec<u8>, Errno> {
    let (request, _) = split::<IrqInfo>(body)?;
    let index = request.index.get();
    if index >= irq::COUNT {
        return Err(Errno::INVAL);
    }
    let info = IrqInfo {
        argsz: len_of::<IrqInfo>(),
        flags: (irq::FLAG_EVENTFD | irq::FLAG_NORESIZE).into(),
        index: index.into(),
        count: card.irq_count(index).into(),
    };
    Ok(info.as_bytes().to_vec())
}

fn set_irqs(card: &mut Card, body: &[u8], eventfds: Vec<OwnedFd>) -> Result<Vec<u8>, Errno> {
    let (request, rest) = split::<IrqSet>(body)?;
    let flags = request.flags.get();
    let count = request.count.get();
    let bools = if flags & irq::SET_DATA_BOOL != 0 {
        let len = usize::try_from(count).map_err(|_| Errno::INVAL)?;
        rest.get(..len).ok_or(Errno::INVAL)?
    } else {
        &[]
    };
    if flags & irq::SET_DATA_EVENTFD == 0 && !eventfds.is_empty() {
        return Err(Errno::INVAL);
    }
    card.set_irqs(IrqRequest {
        index: request.index.get(),
        flags,
        start: request.start.get(),
        count,
        bools,
        eventfds,
    })?;
    Ok(Vec::new())
}

/// A region access that lies inside its region.
fn checked_access(request: &RegionAccess) -> Result<(u32, u64, usize), Errno> {
    let (index, offset) = (request.region.get(), request.offset.get());
    let len = region_len(index).ok_or(Errno::INVAL)?;
    let end = offset.checked_add(u64::from(request.count.get()));
    if end.is_none_or(|end| end > len) {
        return Err(Errno::INVAL);
    }
    let count = usize::try_from(request.count.get()).map_err(|_| Errno::INVAL)?;
    Ok((index, offset, count))
}

fn read_region(card: &mut Card, body: &[u8]) -> Result<Vec<u8>, Errno> {
    let (request, _) = split::<RegionAccess>(body)?;
    let (index, offset, count) = checked_access(request)?;
    let mut reply = request.as_bytes().to_vec();
    let data = reply.len();
    reply.resize(data + count, 0);
    match (index, u8::try_from(index)) {
        (region::CONFIG, _) => {
            let offset = usize::try_from(offset).map_err(|_| Errno::INVAL)?;
            card.read_config(offset, &mut reply[data..]);
        }
        (_, Ok(bar)) => card.read_bar(bar, offset, &mut reply[data..]),
        _ => return Err(Errno::INVAL),
    }
    Ok(reply)
}

fn write_region(card: &mut Card, body: &[u8]) -> Result<Vec<u8>, Errno> {
    let (request, data) = split::<RegionAccess>(body)?;
    let (index, offset, count) = checked_access(request)?;
    let data = data.get(..count).ok_or(Errno::INVAL)?;
    match (index, u8::try_from(index)) {
        (region::CONFIG, _) => {
            let offset = usize::try_from(offset).map_err(|_| Errno::INVAL)?;
            card.write_config(offset, data);
        }
        (_, Ok(bar)) => card.write_bar(bar, offset, data),
        _ => return Err(Errno::INVAL),
    }
    Ok(request.as_bytes().to_vec())
}

fn split<T: FromBytes + Immutable + KnownLayout + Unaligned>(
    body: &[u8],
) -> Result<(&T, &[u8]), Errno> {
    T::ref_from_prefix(body).map_err(|_| Errno::INVAL)
}

fn len_of<T>() -> U32 {
    U32::new(u32::try_from(size_of::<T>()).expect("wire structures are short"))
}
