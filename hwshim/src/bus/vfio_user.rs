//! A PCI function in another process, reached over the vfio-user protocol: a simulated card, or
//! a virtual card of `hwshim serve`.
//!
//! This module knows what the messages mean; `link` carries them. It maps no BAR: every access
//! is a message, so that a function which died reads as an error and not as stale memory.
//!
//! Known to work with servers built on libvfio-user and on the `vfio_user` crate. The crate does
//! not read the body of a command it does not know, but takes it for the next header. The one
//! optional command sent here ([`command::DEVICE_GET_REGION_IO_FDS`]) has a body exactly as long
//! as a header, so such a server is back in step after one more error reply, which is expected
//! (see `IO_FDS_STRAY_ID`).

mod link;
#[cfg(test)]
mod scripted;

use super::dma::{Iova, Memory};
use super::iova::IovaSpace;
use super::{Access, BusError, Doorbell, Function};
use crate::spec::pci::BAR_COUNT;
use crate::spec::vfio::{DeviceInfo, IrqInfo, IrqSet, RegionInfo, device, dma, irq, region};
use crate::spec::vfio_user::{
    DmaMap, DmaUnmap, IOEVENTFD_DATAMATCH, RegionAccess, RegionIoFds, SubRegionIoFd, VERSION_MAJOR,
    VERSION_MINOR, Version, command, io_fd_type,
};
use link::{DATA_LEN_MAX, FDS_MAX, Link, Question, Reply};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt,
};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use zerocopy::{FromBytes, Immutable, IntoBytes, transmute};

/// Most vectors an MSI-X table has (PCI Local Bus 3.0 §6.8.2 "MSI-X Capability and Table
/// Structure").
const VECTORS_MAX: u32 = 2048;

/// Sub-regions there is room for in a reply: as many as descriptors can come with it.
const SUB_REGIONS_MAX: usize = FDS_MAX;
const IO_FDS_LEN_MAX: usize =
    size_of::<RegionIoFds>() + SUB_REGIONS_MAX * size_of::<SubRegionIoFd>();
/// What a server that takes our [`RegionIoFds`] for a header takes for its id: the low half of
/// `argsz`.
const IO_FDS_STRAY_ID: u16 = {
    assert!(IO_FDS_LEN_MAX <= u16::MAX as usize);
    assert!(size_of::<RegionIoFds>() == size_of::<crate::spec::vfio_user::Header>());
    #[expect(clippy::cast_possible_truncation, reason = "asserted above")]
    let id = IO_FDS_LEN_MAX as u16;
    id
};

/// How to talk to a server.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long one command may take. 100 ms by default: a thousand times what a server needs on
    /// a busy host, and still short for whoever waits for the answer in software instead.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: Duration::from_millis(100),
        }
    }
}

/// A PCI function behind a vfio-user socket.
///
/// Once the server hung up, or broke a rule of the protocol, the function is gone for good; a
/// card that comes back is a new connection.
#[derive(Debug)]
pub struct VfioUserFunction {
    link: Arc<Link>,
    limits: Limits,
    resettable: bool,
    /// Length of each BAR, then that of configuration space.
    bar_lens: [u64; BAR_COUNT],
    config_len: u64,
    vector_count: u16,
    /// Held over the messages that change it, so that two callers cannot mix their vectors.
    vectors_connected: Mutex<bool>,
    shared: Mutex<IovaSpace<Arc<Memory>>>,
    io_fds_refused: AtomicBool,
}

/// What the server takes in one message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Limits {
    fd_count_max: usize,
    data_len_max: usize,
}

impl VfioUserFunction {
    /// Connects to the server at `path`, agrees on a version and asks what the function has.
    ///
    /// # Errors
    ///
    /// [`BusError::NotUsable`] if nobody serves a function there, and what each message may end
    /// with.
    pub fn connect(path: &Path, options: Options) -> Result<Arc<Self>, BusError> {
        let name = format!("vfio-user:{}", path.display());
        let socket = connect_socket(path, &name, options.timeout)?;
        Self::from_socket(name, socket, options)
    }

    fn from_socket(name: String, socket: OwnedFd, options: Options) -> Result<Arc<Self>, BusError> {
        let link = Arc::new(Link::new(name, socket, options.timeout)?);
        let limits = negotiate(&link)?;
        let info = device_info(&link)?;
        let mut bar_lens = [0; BAR_COUNT];
        for (index, len) in (0..).zip(&mut bar_lens) {
            *len = region_len(&link, index)?;
        }
        let config_len = region_len(&link, region::CONFIG)?;
        let vector_count = vector_count(&link, &info)?;
        Ok(Arc::new(Self {
            link,
            limits,
            resettable: info.flags.get() & device::RESET != 0,
            bar_lens,
            config_len,
            vector_count,
            vectors_connected: Mutex::new(false),
            shared: Mutex::new(IovaSpace::new()),
            io_fds_refused: AtomicBool::new(false),
        }))
    }

    fn read_region(&self, region: u32, offset: u64, buf: &mut [u8]) -> Result<(), BusError> {
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let len = access_len(at, buf.len() - done, self.limits.data_len_max);
            let access = region_access(region, at, len);
            let reply = self.link.ask(&Question {
                action: "reading a region",
                command: command::REGION_READ,
                body: [access.as_bytes(), &[]],
                fds: &[],
                reply_len: exactly(size_of::<RegionAccess>() + len),
            })?;
            let (echo, data) = reply.body.split_at(size_of::<RegionAccess>());
            self.check_echo(&access, echo)?;
            buf[done..done + len].copy_from_slice(data);
            done += len;
        }
        Ok(())
    }

    fn write_region(&self, region: u32, offset: u64, bytes: &[u8]) -> Result<(), BusError> {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let len = access_len(at, bytes.len() - done, self.limits.data_len_max);
            let access = region_access(region, at, len);
            let reply = self.link.ask(&Question {
                action: "writing a region",
                command: command::REGION_WRITE,
                body: [access.as_bytes(), &bytes[done..done + len]],
                fds: &[],
                reply_len: exactly(size_of::<RegionAccess>()),
            })?;
            self.check_echo(&access, &reply.body)?;
            done += len;
        }
        Ok(())
    }

    /// A reply about another register, or another number of bytes, is no answer.
    fn check_echo(&self, access: &RegionAccess, echo: &[u8]) -> Result<(), BusError> {
        if access.as_bytes() != echo {
            return Err(self.link.violated("a reply is about another access"));
        }
        Ok(())
    }

    fn check_bar(&self, bar: u8, offset: u64, len: usize) -> Result<(), BusError> {
        let len = len as u64;
        let bar_len = self.bar_len(bar)?;
        if offset.checked_add(len).is_none_or(|end| end > bar_len) {
            return Err(BusError::OutOfRange { bar, offset, len });
        }
        Ok(())
    }

    /// The part of configuration space that exists, of `len` bytes at `offset`.
    fn config_part(&self, offset: u16, len: usize) -> usize {
        let left = self.config_len.saturating_sub(offset.into());
        usize::try_from(left).map_or(len, |left| left.min(len))
    }

    /// The eventfd that stands for writing `value` to a register, if the server offers one.
    fn io_eventfd(&self, bar: u8, offset: u64, value: u16) -> Result<Option<OwnedFd>, BusError> {
        if self.io_fds_refused.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let question = RegionIoFds {
            argsz: size_u32(IO_FDS_LEN_MAX).into(),
            index: u32::from(bar).into(),
            ..RegionIoFds::default()
        };
        let reply = self.link.ask(&Question {
            action: "asking for doorbell descriptors",
            command: command::DEVICE_GET_REGION_IO_FDS,
            body: [question.as_bytes(), &[]],
            fds: &[],
            reply_len: size_of::<RegionIoFds>()..=IO_FDS_LEN_MAX,
        });
        match reply {
            Ok(reply) => self.pick_io_eventfd(reply, offset, value),
            Err(BusError::Refused { .. }) => {
                self.io_fds_refused.store(true, Ordering::Relaxed);
                self.link.expect_stray(IO_FDS_STRAY_ID);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn pick_io_eventfd(
        &self,
        reply: Reply,
        offset: u64,
        value: u16,
    ) -> Result<Option<OwnedFd>, BusError> {
        let Reply { body, mut fds } = reply;
        let sub_regions = &body[size_of::<RegionIoFds>()..];
        let (sub_regions, _) = sub_regions.as_chunks::<{ size_of::<SubRegionIoFd>() }>();
        for bytes in sub_regions {
            let sub_region: SubRegionIoFd = transmute!(*bytes);
            if !stands_for(&sub_region, offset, value) {
                continue;
            }
            let index = usize::try_from(sub_region.fd_index.get()).unwrap_or(usize::MAX);
            if index >= fds.len() {
                return Err(self
                    .link
                    .violated("a doorbell names a descriptor that is not there"));
            }
            let fd = fds.swap_remove(index);
            return Ok(make_nonblocking(&fd).then_some(fd));
        }
        Ok(None)
    }

    fn set_vectors(
        &self,
        flags: u32,
        start: usize,
        count: usize,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), BusError> {
        let set = IrqSet {
            argsz: size_u32(size_of::<IrqSet>()).into(),
            flags: (flags | irq::SET_ACTION_TRIGGER).into(),
            index: irq::MSIX.into(),
            start: size_u32(start).into(),
            count: size_u32(count).into(),
        };
        self.link.ask(&Question {
            action: "connecting interrupts",
            command: command::DEVICE_SET_IRQS,
            body: [set.as_bytes(), &[]],
            fds,
            reply_len: exactly(0),
        })?;
        Ok(())
    }
}

impl Function for VfioUserFunction {
    fn name(&self) -> &str {
        self.link.name()
    }

    fn read_config(&self, offset: u16, buf: &mut [u8]) -> Result<(), BusError> {
        self.link.check_present()?;
        let (present, absent) = buf.split_at_mut(self.config_part(offset, buf.len()));
        absent.fill(0xff);
        self.read_region(region::CONFIG, offset.into(), present)
    }

    fn write_config(&self, offset: u16, bytes: &[u8]) -> Result<(), BusError> {
        self.link.check_present()?;
        let present = &bytes[..self.config_part(offset, bytes.len())];
        self.write_region(region::CONFIG, offset.into(), present)
    }

    fn bar_len(&self, bar: u8) -> Result<u64, BusError> {
        Ok(self.bar_lens.get(usize::from(bar)).copied().unwrap_or(0))
    }

    fn read_bar(&self, bar: u8, offset: u64, buf: &mut [u8]) -> Result<(), BusError> {
        self.check_bar(bar, offset, buf.len())?;
        self.read_region(bar.into(), offset, buf)
    }

    fn write_bar(&self, bar: u8, offset: u64, bytes: &[u8]) -> Result<(), BusError> {
        self.check_bar(bar, offset, bytes.len())?;
        self.write_region(bar.into(), offset, bytes)
    }

    fn doorbell(&self, bar: u8, offset: u64, value: u16) -> Result<Doorbell, BusError> {
        let value_bytes = value.to_le_bytes();
        self.check_bar(bar, offset, value_bytes.len())?;
        let link = Arc::clone(&self.link);
        if let Some(eventfd) = self.io_eventfd(bar, offset, value)? {
            return Ok(Doorbell::new(move || {
                link.check_present()?;
                signal(&eventfd)
            }));
        }
        let access = region_access(bar.into(), offset, value_bytes.len());
        Ok(Doorbell::new(move || {
            let body = [access.as_bytes(), &value_bytes];
            link.post("ringing a doorbell", command::REGION_WRITE, body)
        }))
    }

    fn share(&self, memory: &Arc<Memory>, access: Access) -> Result<Iova, BusError> {
        let action = "sharing memory";
        let iova = lock(&self.shared)
            .reserve(memory.len(), Arc::clone(memory))
            .ok_or_else(|| BusError::Refused {
                action,
                reason: "no addresses are left for it".to_owned(),
            })?;
        let map = DmaMap {
            argsz: size_u32(size_of::<DmaMap>()).into(),
            flags: match access {
                Access::DeviceReads => dma::READ,
                Access::DeviceWrites => dma::READ | dma::WRITE,
            }
            .into(),
            offset: 0.into(),
            address: iova.0.into(),
            size: (memory.len() as u64).into(),
        };
        let reply = self.link.ask(&Question {
            action,
            command: command::DMA_MAP,
            body: [map.as_bytes(), &[]],
            fds: &[memory.memfd()],
            reply_len: exactly(0),
        });
        match reply {
            Ok(_) => Ok(iova),
            Err(error) => {
                // A map without an answer may still be made, so only a refused one frees the
                // address.
                if matches!(error, BusError::Refused { .. }) {
                    lock(&self.shared).release(iova);
                }
                Err(error)
            }
        }
    }

    fn unshare(&self, iova: Iova) -> Result<(), BusError> {
        let action = "taking back memory";
        let len = lock(&self.shared)
            .len_of(iova)
            .ok_or_else(|| BusError::Refused {
                action,
                reason: format!("nothing is shared at {iova}"),
            })?;
        let unmap = DmaUnmap {
            argsz: size_u32(size_of::<DmaUnmap>()).into(),
            flags: 0.into(),
            address: iova.0.into(),
            size: len.into(),
        };
        let reply = self.link.ask(&Question {
            action,
            command: command::DMA_UNMAP,
            body: [unmap.as_bytes(), &[]],
            fds: &[],
            reply_len: exactly(size_of::<DmaUnmap>()),
        })?;
        let echo = DmaUnmap::read_from_bytes(&reply.body);
        if echo.is_ok_and(|echo| echo.address != unmap.address || echo.size != unmap.size) {
            return Err(self
                .link
                .violated("other memory was unmapped than was asked"));
        }
        lock(&self.shared).release(iova);
        Ok(())
    }

    fn vector_count(&self) -> Result<u16, BusError> {
        Ok(self.vector_count)
    }

    fn connect_vectors<'a>(&self, eventfds: &[BorrowedFd<'a>]) -> Result<(), BusError> {
        if eventfds.len() > usize::from(self.vector_count) {
            return Err(BusError::Refused {
                action: "connecting interrupts",
                reason: format!(
                    "{} MSI-X vectors were asked for, the function has {}",
                    eventfds.len(),
                    self.vector_count
                ),
            });
        }
        let mut connected = lock(&self.vectors_connected);
        if *connected {
            self.set_vectors(irq::SET_DATA_NONE, 0, 0, &[])?;
            *connected = false;
        }
        let chunk_len = self.limits.fd_count_max;
        for (index, fds) in eventfds.chunks(chunk_len).enumerate() {
            *connected = true;
            self.set_vectors(irq::SET_DATA_EVENTFD, index * chunk_len, fds.len(), fds)?;
        }
        Ok(())
    }

    fn reset(&self) -> Result<(), BusError> {
        let action = "resetting the function";
        if !self.resettable {
            return Err(BusError::Refused {
                action,
                reason: "the function offers no reset".to_owned(),
            });
        }
        self.link.ask(&Question {
            action,
            command: command::DEVICE_RESET,
            body: [&[], &[]],
            fds: &[],
            reply_len: exactly(0),
        })?;
        Ok(())
    }

    fn removal_fd<'a>(&'a self) -> Option<BorrowedFd<'a>> {
        Some(self.link.removal_fd())
    }

    fn is_gone(&self) -> bool {
        self.link.is_gone()
    }
}

fn connect_socket(path: &Path, name: &str, timeout: Duration) -> Result<OwnedFd, BusError> {
    let not_usable = |reason: String| BusError::NotUsable {
        name: name.to_owned(),
        reason,
    };
    let action = "connecting to the card's socket";
    let address = SocketAddrUnix::new(path).map_err(|_| {
        not_usable("the path is too long for a socket; choose a shorter one".into())
    })?;
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(BusError::os(action))?;
    // Bounds the wait in `connect` for a server that accepts nobody. Later waits are poll's.
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(timeout))
        .map_err(BusError::os(action))?;
    match connect(&socket, &address) {
        Ok(()) => Ok(socket),
        Err(Errno::WOULDBLOCK) => Err(BusError::TimedOut { action, timeout }),
        Err(Errno::NOENT) => Err(not_usable(
            "there is no such socket; start the card's server, or correct the path".into(),
        )),
        Err(Errno::CONNREFUSED) if is_no_socket(path) => Err(not_usable(
            "it is no socket but a file or directory; name the socket that the card's server made"
                .into(),
        )),
        Err(Errno::CONNREFUSED) => Err(not_usable(
            "nobody listens on the socket; the server has stopped, start it again".into(),
        )),
        Err(Errno::ACCESS) => Err(not_usable(
            "this user may not write to the socket; join the group that owns it".into(),
        )),
        Err(errno) => Err(BusError::os(action)(errno)),
    }
}

/// Whether something else than a socket is there, to which the kernel refuses connections all the same.
fn is_no_socket(path: &Path) -> bool {
    let status = rustix::fs::stat(path);
    status.is_ok_and(|status| !FileType::from_raw_mode(status.st_mode).is_socket())
}

fn negotiate(link: &Link) -> Result<Limits, BusError> {
    let version = Version {
        major: VERSION_MAJOR.into(),
        minor: VERSION_MINOR.into(),
    };
    let capabilities = serde_json::json!({
        "capabilities": { "max_msg_fds": FDS_MAX, "max_data_xfer_size": DATA_LEN_MAX }
    });
    let reply = link.ask(&Question {
        action: "agreeing on a protocol version",
        command: command::VERSION,
        body: [version.as_bytes(), format!("{capabilities}\0").as_bytes()],
        fds: &[],
        reply_len: size_of::<Version>()..=DATA_LEN_MAX,
    })?;
    let (fixed, json) = reply.body.split_at(size_of::<Version>());
    match Version::read_from_bytes(fixed) {
        Ok(version) if version.major == VERSION_MAJOR => Ok(Limits::parse(json)),
        _ => Err(link.violated("the server speaks another major version than 0")),
    }
}

impl Limits {
    /// Reads what the server takes. What it leaves out, or says in a way that makes no sense, is
    /// as the protocol has it by default (section "Versioning": one descriptor, 1 MiB).
    fn parse(json: &[u8]) -> Self {
        let text = json.split(|&byte| byte == 0).next().unwrap_or_default();
        let json = serde_json::from_slice(text).unwrap_or(serde_json::Value::Null);
        let limit = |key: &str, sensible: std::ops::RangeFrom<u64>| {
            let value = json.get("capabilities")?.get(key)?.as_u64()?;
            let value = sensible.contains(&value).then_some(value)?;
            Some(usize::try_from(value).unwrap_or(usize::MAX))
        };
        Self {
            fd_count_max: limit("max_msg_fds", 1..).map_or(1, |max| max.min(FDS_MAX)),
            // Less than the widest register could not be worked with.
            data_len_max: limit("max_data_xfer_size", 8..)
                .map_or(DATA_LEN_MAX, |max| max.min(DATA_LEN_MAX)),
        }
    }
}

fn device_info(link: &Link) -> Result<DeviceInfo, BusError> {
    let question = DeviceInfo {
        argsz: size_u32(size_of::<DeviceInfo>()).into(),
        ..DeviceInfo::default()
    };
    let action = "asking what the device is";
    let info: DeviceInfo = ask_info(link, action, command::DEVICE_GET_INFO, &question)?;
    if info.flags.get() & device::PCI == 0 || info.num_regions.get() <= region::CONFIG {
        return Err(BusError::NotUsable {
            name: link.name().to_owned(),
            reason: "what is served there is not a PCI function".to_owned(),
        });
    }
    Ok(info)
}

fn region_len(link: &Link, index: u32) -> Result<u64, BusError> {
    let question = RegionInfo {
        argsz: size_u32(size_of::<RegionInfo>()).into(),
        index: index.into(),
        ..RegionInfo::default()
    };
    let action = "asking for a region";
    let info: RegionInfo = ask_info(link, action, command::DEVICE_GET_REGION_INFO, &question)?;
    if info.index != question.index {
        return Err(link.violated("a reply is about another region"));
    }
    Ok(info.size.get())
}

fn vector_count(link: &Link, device: &DeviceInfo) -> Result<u16, BusError> {
    if device.num_irqs.get() <= irq::MSIX {
        return Ok(0);
    }
    let question = IrqInfo {
        argsz: size_u32(size_of::<IrqInfo>()).into(),
        index: irq::MSIX.into(),
        ..IrqInfo::default()
    };
    let action = "asking for interrupts";
    let info: IrqInfo = ask_info(link, action, command::DEVICE_GET_IRQ_INFO, &question)?;
    match u16::try_from(info.count.get()) {
        Ok(count) if u32::from(count) <= VECTORS_MAX => Ok(count),
        _ => Err(link.violated("more MSI-X vectors than there can be")),
    }
}

/// Asks a question that is answered by the same structure, filled in; a later version of the
/// protocol may add to its end.
fn ask_info<T: FromBytes + IntoBytes + Immutable>(
    link: &Link,
    action: &'static str,
    command: u16,
    question: &T,
) -> Result<T, BusError> {
    let reply = link.ask(&Question {
        action,
        command,
        body: [question.as_bytes(), &[]],
        fds: &[],
        reply_len: size_of::<T>()..=DATA_LEN_MAX,
    })?;
    let (info, _) = T::read_from_prefix(&reply.body)
        .map_err(|_| link.violated("a reply has the wrong length"))?;
    Ok(info)
}

fn region_access(region: u32, offset: u64, len: usize) -> RegionAccess {
    RegionAccess {
        offset: offset.into(),
        region: region.into(),
        count: size_u32(len).into(),
    }
}

/// How much of `left` bytes at `offset` goes into one message: a register of 1, 2, 4 or 8 aligned
/// bytes, or a run of aligned 8-byte words.
fn access_len(offset: u64, left: usize, len_max: usize) -> usize {
    const WORD_LEN: usize = 8;
    let offset_in_word = usize::try_from(offset % WORD_LEN as u64).expect("less than a word");
    if offset_in_word == 0 && left >= WORD_LEN {
        let len = left.min(len_max);
        return len - len % WORD_LEN;
    }
    let alignment = 1 << (offset_in_word | WORD_LEN).trailing_zeros();
    let widest = 1 << left.ilog2();
    alignment.min(widest)
}

/// Whether writing to the sub-region's descriptor does the same as writing `value` at `offset`.
fn stands_for(sub_region: &SubRegionIoFd, offset: u64, value: u16) -> bool {
    let start = sub_region.offset.get();
    // Length 0 stands for a write of any width, as with KVM_IOEVENTFD.
    let len = match sub_region.size.get() {
        0 => size_of::<u16>() as u64,
        len => len,
    };
    let covered = start <= offset && offset - start < len && len - (offset - start) >= 2;
    let matches_data = sub_region.flags.get() & IOEVENTFD_DATAMATCH == 0
        || sub_region.datamatch.get() == u64::from(value);
    sub_region.kind.get() == io_fd_type::IOEVENTFD && covered && matches_data
}

/// Makes sure that writing to a descriptor from a server returns. Only an eventfd will do:
/// anything else, e.g. a pipe that nobody reads, could be made to block.
fn make_nonblocking(fd: &OwnedFd) -> bool {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let is_eventfd = link.is_ok_and(|target| target.as_os_str() == "anon_inode:[eventfd]");
    is_eventfd
        && fcntl_getfl(fd).is_ok_and(|flags| fcntl_setfl(fd, flags | OFlags::NONBLOCK).is_ok())
}

/// Signals an eventfd. One that is full has not been looked at, so it needs no second signal.
fn signal(eventfd: &OwnedFd) -> Result<(), BusError> {
    let action = "ringing a doorbell";
    // The server shares the descriptor's flags and could make it block again.
    let mut fds = [PollFd::new(eventfd, PollFlags::OUT)];
    poll(&mut fds, Some(&Timespec::default())).map_err(BusError::os(action))?;
    if !fds[0].revents().contains(PollFlags::OUT) {
        return Ok(());
    }
    match rustix::io::write(eventfd, &1_u64.to_ne_bytes()) {
        Ok(_) | Err(Errno::WOULDBLOCK) => Ok(()),
        Err(errno) => Err(BusError::os(action)(errno)),
    }
}

const fn exactly(len: usize) -> std::ops::RangeInclusive<usize> {
    len..=len
}

fn size_u32(size: usize) -> u32 {
    u32::try_from(size).expect("sizes of messages and their parts are bounded far below 4 GiB")
}

/// A lock whose holder panicked guards nothing inconsistent: each is changed in one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::scripted::{Card, PATIENT, Peer, Refuse, SHORT, serve};
    use super::*;
    use crate::bus::dma::PAGE_LEN;
    use rustix::event::{EventfdFlags, eventfd};
    use std::io::Read;
    use std::os::fd::AsFd;

    fn connected(card: &Arc<Mutex<Card>>) -> Arc<VfioUserFunction> {
        let (socket, peer) = Peer::pair();
        serve(peer, Arc::clone(card));
        let options = Options { timeout: PATIENT };
        VfioUserFunction::from_socket("vfio-user:test".to_owned(), socket, options).unwrap()
    }

    fn card() -> Arc<Mutex<Card>> {
        Arc::new(Mutex::new(Card::new()))
    }

    fn counter(eventfd: &OwnedFd) -> Option<u64> {
        let mut bytes = [0; 8];
        match rustix::io::read(eventfd, &mut bytes) {
            Ok(8) => Some(u64::from_ne_bytes(bytes)),
            Err(Errno::WOULDBLOCK) => None,
            other => panic!("{other:?}"),
        }
    }

    fn new_eventfd() -> OwnedFd {
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
    }

    #[test]
    fn registers_read_back_at_every_alignment_in_natural_accesses() {
        let card = card();
        let function = connected(&card);
        let pattern: Vec<u8> = (1..=41).collect();
        for offset in 0..8 {
            function.write_bar(0, offset, &pattern).unwrap();
            let mut read = vec![0; pattern.len()];
            function.read_bar(0, offset, &mut read).unwrap();
            assert_eq!(read, pattern);
        }
        let accesses = std::mem::take(&mut card.lock().unwrap().accesses);
        for (offset, len) in &accesses {
            let alignment = (*len).min(8);
            assert!(matches!(alignment, 1 | 2 | 4 | 8) && offset % alignment == 0);
            assert!(*len <= 8 || len % 8 == 0);
        }
        function.read_bar(0, 4, &mut [0; 20]).unwrap();
        assert_eq!(card.lock().unwrap().accesses, [(4, 4), (8, 16)]);
    }

    #[test]
    fn accesses_are_as_long_as_the_server_takes() {
        let card = card();
        card.lock().unwrap().json = r#"{"capabilities":{"max_data_xfer_size":24}}"#.to_owned();
        let function = connected(&card);
        function.read_bar(0, 0, &mut [0; 60]).unwrap();
        assert_eq!(
            card.lock().unwrap().accesses,
            [(0, 24), (24, 24), (48, 8), (56, 4)]
        );
    }

    #[test]
    fn an_access_outside_the_bar_is_not_sent() {
        let card = card();
        let function = connected(&card);
        let len = function.bar_len(0).unwrap();
        for (bar, offset) in [(0, len - 1), (0, u64::MAX), (1, 0), (6, 0)] {
            let error = function.read_bar(bar, offset, &mut [0; 2]).unwrap_err();
            assert!(matches!(error, BusError::OutOfRange { .. }), "{error}");
            function.write_bar(bar, offset, &[0; 2]).unwrap_err();
            function.doorbell(bar, offset, 0).unwrap_err();
        }
        assert_eq!(card.lock().unwrap().accesses, []);
    }

    #[test]
    fn configuration_space_reads_as_ones_behind_its_end() {
        let card = card();
        let function = connected(&card);
        let mut read = [0; 8];
        function.read_config(252, &mut read).unwrap();
        assert_eq!(read, [252, 253, 254, 255, 0xff, 0xff, 0xff, 0xff]);
        function.read_config(4095, &mut read).unwrap();
        assert_eq!(read, [0xff; 8]);
        function.write_config(254, &[7, 8, 9]).unwrap();
        assert_eq!(card.lock().unwrap().config[254..], [7, 8]);
    }

    #[test]
    fn memory_is_shared_with_the_rights_it_was_given_and_taken_back_whole() {
        let card = card();
        let function = connected(&card);
        let memory = Arc::new(Memory::new(2 * PAGE_LEN).unwrap());
        let read = function.share(&memory, Access::DeviceReads).unwrap();
        let write = function.share(&memory, Access::DeviceWrites).unwrap();
        memory.write(PAGE_LEN, b"for the card");
        {
            let maps = &card.lock().unwrap().maps;
            assert_eq!(maps[0].0.flags, dma::READ);
            assert_eq!(maps[1].0.flags, dma::READ | dma::WRITE);
            assert_eq!(
                (maps[0].0.address.get(), maps[0].0.size.get()),
                (read.0, 0x2000)
            );
            let mut bytes = [0; 12];
            rustix::io::pread(&maps[0].1, &mut bytes, PAGE_LEN as u64).unwrap();
            assert_eq!(&bytes, b"for the card");
        }
        assert!(
            write.0 > read.0 + memory.len() as u64,
            "no gap between {read} and {write}"
        );
        function.unshare(read).unwrap();
        assert_eq!(card.lock().unwrap().maps.len(), 1);
        assert!(matches!(
            function.unshare(read),
            Err(BusError::Refused { .. })
        ));
    }

    #[test]
    fn every_vector_arrives_at_its_own_index_however_few_fit_in_a_message() {
        for fd_count_max in [1, 3, 16] {
            let card = card();
            card.lock().unwrap().json =
                format!(r#"{{"capabilities":{{"max_msg_fds":{fd_count_max}}}}}"#);
            let function = connected(&card);
            let count = function.vector_count().unwrap();
            let eventfds: Vec<_> = (0..count).map(|_| new_eventfd()).collect();
            let borrowed: Vec<_> = eventfds.iter().map(AsFd::as_fd).collect();
            function.connect_vectors(&borrowed).unwrap();
            for (index, eventfd) in eventfds.iter().enumerate() {
                card.lock().unwrap().interrupt(index);
                assert_eq!(counter(eventfd), Some(1));
            }
            function.connect_vectors(&borrowed[..1]).unwrap();
            assert_eq!(card.lock().unwrap().vectors.len(), 1);
            function.connect_vectors(&[]).unwrap();
            assert_eq!(card.lock().unwrap().vectors.len(), 0);

            let too_many: Vec<_> = (0..=count).map(|_| borrowed[0]).collect();
            let error = function.connect_vectors(&too_many).unwrap_err();
            assert!(error.to_string().contains("8"), "{error}");
        }
    }

    #[test]
    fn a_doorbell_with_an_eventfd_sends_no_message() {
        let card = card();
        let eventfd = new_eventfd();
        card.lock().unwrap().doorbells = vec![(4, 0, None), (8, 2, Some(3))];
        card.lock().unwrap().doorbell_fd = Some(eventfd.try_clone().unwrap());
        let function = connected(&card);
        let doorbell = function.doorbell(0, 8, 3).unwrap();
        doorbell.ring().unwrap();
        doorbell.ring().unwrap();
        assert_eq!(counter(&eventfd), Some(2));
        function.doorbell(0, 4, 9).unwrap().ring().unwrap();
        assert_eq!(counter(&eventfd), Some(1));
        assert_eq!(card.lock().unwrap().accesses, []);
        // Another value is not what this eventfd stands for.
        function.doorbell(0, 8, 4).unwrap().ring().unwrap();
        assert_eq!(counter(&eventfd), None);
    }

    #[test]
    fn a_full_eventfd_does_not_stop_whoever_rings() {
        let card = card();
        let eventfd = new_eventfd();
        card.lock().unwrap().doorbells = vec![(4, 2, None)];
        card.lock().unwrap().doorbell_fd = Some(eventfd.try_clone().unwrap());
        let function = connected(&card);
        let doorbell = function.doorbell(0, 4, 0).unwrap();
        rustix::io::write(&eventfd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        fcntl_setfl(&eventfd, OFlags::empty()).unwrap();
        doorbell.ring().unwrap();
    }

    #[test]
    fn a_descriptor_that_is_no_eventfd_is_not_used_as_one() {
        let card = card();
        let (_reader, writer) = std::io::pipe().unwrap();
        card.lock().unwrap().doorbells = vec![(4, 2, None)];
        card.lock().unwrap().doorbell_fd = Some(writer.into());
        let function = connected(&card);
        function.doorbell(0, 4, 0x0102).unwrap().ring().unwrap();
        let mut read = [0; 2];
        function.read_bar(0, 4, &mut read).unwrap();
        assert_eq!(read, [2, 1]);
    }

    #[test]
    fn a_doorbell_without_an_eventfd_asks_for_no_reply() {
        let card = card();
        let function = connected(&card);
        let doorbell = function.doorbell(0, 6, 0x0102).unwrap();
        doorbell.ring().unwrap();
        // The server takes messages in order, so it has seen the ring when it answers this.
        function.read_bar(0, 0, &mut [0]).unwrap();
        let card = card.lock().unwrap();
        assert_eq!(card.posted, 1);
        assert_eq!(card.bar[6..8], [2, 1]);
        assert_eq!(card.questions_about_io_fds, 1);
    }

    #[test]
    fn a_server_that_takes_an_unknown_body_for_a_header_gets_back_in_step() {
        let card = card();
        card.lock().unwrap().refuse = Refuse::LeavingTheBody;
        let function = connected(&card);
        for _ in 0..3 {
            function.doorbell(0, 6, 0x0102).unwrap().ring().unwrap();
            let mut read = [0; 2];
            function.read_bar(0, 6, &mut read).unwrap();
            assert_eq!(read, [2, 1]);
        }
        assert_eq!(card.lock().unwrap().questions_about_io_fds, 1);
    }

    #[test]
    fn a_failed_doorbell_that_is_answered_all_the_same_does_no_harm() {
        let card = card();
        card.lock().unwrap().answers_posted = true;
        let function = connected(&card);
        let doorbell = function.doorbell(0, 6, 0x0102).unwrap();
        for _ in 0..3 {
            doorbell.ring().unwrap();
            function.read_bar(0, 6, &mut [0; 2]).unwrap();
        }
    }

    #[test]
    fn reset_is_refused_when_it_is_not_offered() {
        let card = card();
        connected(&card).reset().unwrap();
        assert_eq!(card.lock().unwrap().resets, 1);
        card.lock().unwrap().resettable = false;
        let error = connected(&card).reset().unwrap_err();
        assert!(matches!(error, BusError::Refused { .. }));
    }

    #[test]
    fn odd_or_missing_capabilities_mean_the_protocols_defaults() {
        let defaults = Limits {
            fd_count_max: 1,
            data_len_max: DATA_LEN_MAX,
        };
        for json in [
            "",
            "\0",
            "null\0",
            "[]",
            "{\"capabilities\":7}\0",
            "{\"capabilities\":{\"max_msg_fds\":\"many\",\"max_data_xfer_size\":-1}}",
            "{\"capabilities\":{\"max_msg_fds\":0,\"max_data_xfer_size\":1}}",
            "{\"capabilities\":{\"max_msg_fds\":1e300}}",
            "{\"capabilities\":{\"max_msg_fds\":5}",
        ] {
            assert_eq!(Limits::parse(json.as_bytes()), defaults, "{json}");
        }
        let json = "{\"capabilities\":{\"max_msg_fds\":9,\"max_data_xfer_size\":4096,\"x\":1}}\0z";
        let limits = Limits {
            fd_count_max: 9,
            data_len_max: 4096,
        };
        assert_eq!(Limits::parse(json.as_bytes()), limits);
        let json = "{\"capabilities\":{\"max_msg_fds\":99999,\"max_data_xfer_size\":9999999}}";
        let limits = Limits {
            fd_count_max: FDS_MAX,
            data_len_max: DATA_LEN_MAX,
        };
        assert_eq!(Limits::parse(json.as_bytes()), limits);
    }

    #[test]
    fn a_card_that_is_killed_is_gone_for_good() {
        let card = card();
        let function = connected(&card);
        let doorbell = function.doorbell(0, 0, 0).unwrap();
        assert!(!function.is_gone());
        card.lock().unwrap().dies = true;
        let error = function.read_bar(0, 0, &mut [0; 4]).unwrap_err();
        assert!(matches!(error, BusError::Gone { .. }), "{error}");
        assert!(function.is_gone());
        assert!(matches!(doorbell.ring(), Err(BusError::Gone { .. })));
        assert!(matches!(
            function.read_config(0, &mut [0]),
            Err(BusError::Gone { .. })
        ));
    }

    #[test]
    fn a_path_that_nobody_serves_is_said_to_be_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("card.sock");
        let connect = || VfioUserFunction::connect(&path, Options::default()).unwrap_err();
        assert!(connect().to_string().contains("no such socket"));
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(connect().to_string().contains("nobody listens"));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        assert!(connect().to_string().contains("it is no socket"));
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(connect().to_string().contains("it is no socket"));
    }

    #[test]
    fn a_server_that_accepts_nobody_does_not_hold_us_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("card.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let options = Options { timeout: SHORT };
        let error = VfioUserFunction::connect(&path, options).unwrap_err();
        assert!(matches!(error, BusError::TimedOut { .. }), "{error}");
    }

    #[test]
    fn descriptors_nobody_asked_for_are_closed() {
        let card = card();
        let (mut reader, writer) = std::io::pipe().unwrap();
        card.lock().unwrap().unasked_fd = Some(writer.into());
        let function = connected(&card);
        function.read_bar(0, 0, &mut [0; 4]).unwrap();
        card.lock().unwrap().unasked_fd = None;
        assert_eq!(
            reader.read(&mut [0]).unwrap(),
            0,
            "a copy of the descriptor is still open"
        );
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]
        /// One reply in the conversation, anywhere from the first, has some of its bytes changed,
        /// or its end cut off, or is followed by garbage.
        #[test]
        fn a_corrupted_reply_never_panics_and_never_outlasts_the_deadline(
            nth in 0_usize..16,
            changes in proptest::collection::vec((0_usize..96, proptest::prelude::any::<u8>()), 0..6),
            cut in proptest::option::of(0_usize..64),
            garbage in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64),
        ) {
            let (socket, peer) = Peer::pair();
            let card = card();
            card.lock().unwrap().corrupt = Some((nth, Box::new(move |message: &mut Vec<u8>| {
                for (index, value) in &changes {
                    let index = index % message.len();
                    message[index] = *value;
                }
                message.truncate(cut.unwrap_or(usize::MAX));
                message.extend_from_slice(&garbage);
            })));
            serve(peer, card);
            let options = Options { timeout: Duration::from_millis(3) };
            let function = VfioUserFunction::from_socket("vfio-user:test".to_owned(), socket, options);
            if let Ok(function) = function {
                let memory = Arc::new(Memory::new(1).unwrap());
                let _ = function.read_config(0, &mut [0; 64]);
                let _ = function.read_bar(0, 0, &mut [0; 100]);
                if let Ok(iova) = function.share(&memory, Access::DeviceWrites) {
                    let _ = function.unshare(iova);
                }
                let _ = function.doorbell(0, 0, 0).and_then(|doorbell| doorbell.ring());
                let _ = function.reset();
            }
        }
    }
}
