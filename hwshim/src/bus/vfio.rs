//! A PCI function of this host, driven through Linux VFIO.
//!
//! Uses the group interface (`/dev/vfio/GROUP` in a container of type 1 version 2), which every
//! kernel with VFIO has; distributions do not all build the newer `/dev/iommu`. No-IOMMU mode is
//! refused: it would take away the only thing that keeps a card out of memory it was not given.
//!
//! Registers are read and written through the kernel, which reports a function that left the bus;
//! all-ones from a register are data here, and for the driver to judge. Only a doorbell is mapped.

#![expect(
    unsafe_code,
    reason = "VFIO is a set of ioctls, and a safe interface to them has to be written somewhere"
)]

mod host;

use super::dma::{Iova, Memory};
use super::iova::IovaSpace;
use super::mmio::MappedRegisters;
use super::{Access, BusError, Doorbell, Function};
use crate::spec::pci::{
    BAR_COUNT, Bdf, COMMAND_OFFSET, Command, REVISION_AND_CLASS_LEN as CLASS_LEN,
    REVISION_AND_CLASS_OFFSET as CLASS_OFFSET,
};
use crate::spec::vfio::{
    API_VERSION, DeviceInfo, DmaMap, DmaUnmap, GROUP_VIABLE, GroupStatus, InfoCapability, IrqInfo,
    IrqSet, RegionInfo, SparseArea, SparseMmap, TYPE1V2_IOMMU, device, dma, ioctl, irq, region,
};
use host::{Group, not_usable};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, pread, pwrite, retry_on_intr};
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode};
use rustix::process::{Resource, getrlimit};
use std::ffi::{CString, c_void};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, IntoBytes};

/// Longest description of a region, its capabilities included, in bytes. The kernel's have a
/// hundred.
const REGION_INFO_LEN_MAX: usize = 4096;

/// A function bound to `vfio-pci`, owned by this process.
///
/// Memory space and bus mastering are enabled. Dropping it takes all memory back from the device
/// and hands the function back to the kernel.
#[derive(Debug)]
pub struct VfioFunction {
    bdf: Bdf,
    device: Arc<Device>,
    resettable: bool,
    bars: [Region; BAR_COUNT],
    vector_count: u16,
    /// Held over the calls that change it, so that two callers cannot mix their vectors.
    vectors_connected: Mutex<bool>,
    // The kernel keeps the IOMMU's tables as long as these are open. They come before the memory
    // because fields are dropped in order.
    _group: OwnedFd,
    container: OwnedFd,
    shared: Mutex<IovaSpace<Arc<Memory>>>,
}

/// The part that doorbells need as well, and that therefore may outlive the function.
#[derive(Debug)]
struct Device {
    name: String,
    file: OwnedFd,
    config: Region,
    /// Signalled by the kernel when it wants the function back.
    removal: OwnedFd,
    /// Signalled by the kernel on an uncorrectable error.
    errors: OwnedFd,
    gone: AtomicBool,
}

/// A BAR or configuration space, as a part of the device's file.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Region {
    len: u64,
    file_offset: u64,
    mappable: Mappable,
}

/// What of a region may be mapped.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
enum Mappable {
    #[default]
    Nothing,
    Everything,
    Areas(Vec<Range<u64>>),
}

impl VfioFunction {
    /// Takes over the function at `bdf`. `sysfs` and `dev` are `/sys` and `/dev`.
    ///
    /// # Errors
    ///
    /// [`BusError::NotUsable`] if the host does not let it be driven, with what to do about it;
    /// [`BusError::Os`] if the kernel fails in a way for which there is no advice.
    pub fn open(bdf: Bdf, sysfs: &Path, dev: &Path) -> Result<Arc<Self>, BusError> {
        let group = Group::of(bdf, sysfs)?;
        let container = open_container(bdf, &group, dev)?;
        let group_file = open_group(&group, dev)?;
        // Opening resets it, and whoever resets a function that does not answer waits for it.
        host::check_present(bdf, sysfs)?;
        attach(bdf, &group_file, &container)?;
        let file = open_device(bdf, &group_file)?;
        let question = DeviceInfo {
            argsz: argsz::<DeviceInfo>(),
            ..DeviceInfo::default()
        };
        let info = query(&file, ioctl::DEVICE_GET_INFO, question)
            .map_err(BusError::os("asking what the device is"))?;
        let regions = Regions::of(&file, &info)?;
        let vector_count = irq_count(&file, &info, irq::MSIX)?;
        let device = Arc::new(Device::new(bdf, file, regions.config)?);
        device.watch(&info)?;
        device.enable()?;
        Ok(Arc::new(Self {
            bdf,
            device,
            resettable: info.flags.get() & device::RESET != 0,
            bars: regions.bars,
            vector_count: u16::try_from(vector_count).unwrap_or(u16::MAX),
            vectors_connected: Mutex::new(false),
            _group: group_file,
            container,
            shared: Mutex::new(IovaSpace::new()),
        }))
    }

    /// The region of a BAR, if the bytes are inside it.
    fn bar(&self, bar: u8, offset: u64, len: usize) -> Result<&Region, BusError> {
        let len = len as u64;
        let inside =
            |region: &&Region| offset.checked_add(len).is_some_and(|end| end <= region.len);
        let region = self.bars.get(usize::from(bar)).filter(inside);
        region.ok_or(BusError::OutOfRange { bar, offset, len })
    }

    fn map(&self, memory: &Memory, access: Access, iova: Iova) -> Result<(), Errno> {
        let mut map = DmaMap {
            argsz: argsz::<DmaMap>(),
            flags: match access {
                Access::DeviceReads => dma::READ,
                Access::DeviceWrites => dma::READ | dma::WRITE,
            }
            .into(),
            vaddr: memory.address().into(),
            iova: iova.0.into(),
            size: (memory.len() as u64).into(),
        };
        exchange(&self.container, ioctl::IOMMU_MAP_DMA, map.as_mut_bytes())?;
        Ok(())
    }

    /// Why memory could not be mapped.
    fn cannot_map(&self, errno: Errno, needed_bytes: u64) -> BusError {
        let limit = getrlimit(Resource::Memlock).current;
        match limit {
            Some(limit) if errno == Errno::NOMEM => not_usable(
                self.bdf,
                format!(
                    "memory shared with a card is locked, and this process may lock {} KiB but \
                     needs at least {} KiB; raise the limit (`ulimit -l`, in a service \
                     LimitMEMLOCK=)",
                    limit / 1024,
                    needed_bytes / 1024
                ),
            ),
            _ => BusError::os("sharing memory")(errno),
        }
    }

    fn set_vectors(&self, flags: u32, fds: &[BorrowedFd<'_>]) -> Result<(), BusError> {
        let action = "connecting interrupts";
        let flags = flags | irq::SET_ACTION_TRIGGER;
        match set_irqs(&self.device.file, irq::MSIX, flags, fds) {
            Ok(0) => Ok(()),
            Ok(available) => Err(BusError::Refused {
                action,
                reason: format!(
                    "the host has {available} interrupt vectors left, {} were asked for",
                    fds.len()
                ),
            }),
            Err(errno) => Err(BusError::os(action)(errno)),
        }
    }
}

impl Function for VfioFunction {
    fn name(&self) -> &str {
        &self.device.name
    }

    fn read_config(&self, offset: u16, buf: &mut [u8]) -> Result<(), BusError> {
        self.device.read_config(offset, buf)
    }

    fn write_config(&self, offset: u16, bytes: &[u8]) -> Result<(), BusError> {
        self.device.write_config(offset, bytes)
    }

    fn bar_len(&self, bar: u8) -> Result<u64, BusError> {
        Ok(self.bars.get(usize::from(bar)).map_or(0, |bar| bar.len))
    }

    fn read_bar(&self, bar: u8, offset: u64, buf: &mut [u8]) -> Result<(), BusError> {
        let region = self.bar(bar, offset, buf.len())?;
        self.device.read(region, offset, buf)
    }

    fn write_bar(&self, bar: u8, offset: u64, bytes: &[u8]) -> Result<(), BusError> {
        let region = self.bar(bar, offset, bytes.len())?;
        self.device.write(region, offset, bytes)
    }

    fn doorbell(&self, bar: u8, offset: u64, value: u16) -> Result<Doorbell, BusError> {
        let region = self.bar(bar, offset, size_of::<u16>())?.clone();
        let device = Arc::clone(&self.device);
        if let Some((registers, offset)) = map_register(&device, &region, offset) {
            return Ok(Doorbell::new(move || {
                device.check_present()?;
                registers.write_u16(offset, value);
                Ok(())
            }));
        }
        Ok(Doorbell::new(move || {
            device.write(&region, offset, &value.to_le_bytes())
        }))
    }

    fn share(&self, memory: &Arc<Memory>, access: Access) -> Result<Iova, BusError> {
        let mut shared = lock(&self.shared);
        let iova = shared
            .reserve(memory.len(), Arc::clone(memory))
            .ok_or_else(|| BusError::Refused {
                action: "sharing memory",
                reason: "no addresses are left for it".to_owned(),
            })?;
        match self.map(memory, access, iova) {
            Ok(()) => Ok(iova),
            Err(errno) => {
                let needed_bytes = shared.reserved_bytes();
                shared.release(iova);
                Err(self.cannot_map(errno, needed_bytes))
            }
        }
    }

    fn unshare(&self, iova: Iova) -> Result<(), BusError> {
        let action = "taking back memory";
        let refused = |reason| BusError::Refused { action, reason };
        let mut shared = lock(&self.shared);
        let len = shared
            .len_of(iova)
            .ok_or_else(|| refused(format!("nothing is shared at {iova}")))?;
        let mut unmap = DmaUnmap {
            argsz: argsz::<DmaUnmap>(),
            flags: 0.into(),
            iova: iova.0.into(),
            size: len.into(),
        };
        exchange(
            &self.container,
            ioctl::IOMMU_UNMAP_DMA,
            unmap.as_mut_bytes(),
        )
        .map_err(BusError::os(action))?;
        if unmap.size != len {
            let unmapped = unmap.size;
            return Err(refused(format!(
                "the kernel unmapped {unmapped} of {len} bytes"
            )));
        }
        shared.release(iova);
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
        // The kernel neither adds vectors to those that are enabled, nor disables none.
        if *connected {
            self.set_vectors(irq::SET_DATA_NONE, &[])?;
            *connected = false;
        }
        if !eventfds.is_empty() {
            self.set_vectors(irq::SET_DATA_EVENTFD, eventfds)?;
            *connected = true;
        }
        Ok(())
    }

    fn reset(&self) -> Result<(), BusError> {
        let action = "resetting the function";
        if !self.resettable {
            return Err(BusError::Refused {
                action,
                reason: "neither the function nor its bus offers a reset".to_owned(),
            });
        }
        call(&self.device.file, ioctl::DEVICE_RESET, 0)
            .map_err(|errno| self.device.failed(action, errno))?;
        self.device.enable()
    }

    fn removal_fd<'a>(&'a self) -> Option<BorrowedFd<'a>> {
        Some(self.device.removal.as_fd())
    }

    fn is_gone(&self) -> bool {
        self.device.is_gone()
    }

    fn error_fd<'a>(&'a self) -> Option<BorrowedFd<'a>> {
        Some(self.device.errors.as_fd())
    }

    fn take_error(&self) -> bool {
        self.device.take_error()
    }
}

impl Device {
    fn new(bdf: Bdf, file: OwnedFd, config: Region) -> Result<Self, BusError> {
        let event = || {
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                .map_err(BusError::os("creating an eventfd"))
        };
        Ok(Self {
            name: format!("pci:{bdf}"),
            file,
            config,
            removal: event()?,
            errors: event()?,
            gone: AtomicBool::new(false),
        })
    }

    /// Has the kernel signal errors, and what is the end of the function.
    fn watch(&self, info: &DeviceInfo) -> Result<(), BusError> {
        let flags = irq::SET_DATA_EVENTFD | irq::SET_ACTION_TRIGGER;
        for (index, event) in [(irq::ERR, &self.errors), (irq::REQ, &self.removal)] {
            // A function that is not PCI Express reports no errors.
            if irq_count(&self.file, info, index)? > 0 {
                set_irqs(&self.file, index, flags, &[event.as_fd()])
                    .map_err(BusError::os("watching for errors and removal"))?;
            }
        }
        Ok(())
    }

    /// Lets the function answer to memory accesses, and make some of its own.
    fn enable(&self) -> Result<(), BusError> {
        let mut bytes = [0; 2];
        self.read_config(COMMAND_OFFSET, &mut bytes)?;
        let command = Command::from_bits(u16::from_le_bytes(bytes))
            .with_memory_space(true)
            .with_bus_master(true);
        self.write_config(COMMAND_OFFSET, &command.into_bits().to_le_bytes())
    }

    fn read_config(&self, offset: u16, buf: &mut [u8]) -> Result<(), BusError> {
        let (present, absent) = buf.split_at_mut(self.config.part(offset, buf.len()));
        absent.fill(0xff);
        self.read(&self.config, offset.into(), present)
    }

    fn write_config(&self, offset: u16, bytes: &[u8]) -> Result<(), BusError> {
        let present = &bytes[..self.config.part(offset, bytes.len())];
        self.write(&self.config, offset.into(), present)
    }

    fn read(&self, region: &Region, offset: u64, buf: &mut [u8]) -> Result<(), BusError> {
        let action = "reading a region";
        self.check_present()?;
        let position = region.file_offset + offset;
        match retry_on_intr(|| pread(&self.file, &mut *buf, position)) {
            Ok(count) => check_whole(action, count, buf.len()),
            Err(errno) => Err(self.failed(action, errno)),
        }
    }

    fn write(&self, region: &Region, offset: u64, bytes: &[u8]) -> Result<(), BusError> {
        let action = "writing a region";
        self.check_present()?;
        let position = region.file_offset + offset;
        match retry_on_intr(|| pwrite(&self.file, bytes, position)) {
            Ok(count) => check_whole(action, count, bytes.len()),
            Err(errno) => Err(self.failed(action, errno)),
        }
    }

    /// Tells a function that left the bus from one the kernel has another reason to complain of.
    fn failed(&self, action: &'static str, errno: Errno) -> BusError {
        let may_be_removal = matches!(errno, Errno::NODEV | Errno::NXIO | Errno::IO);
        if may_be_removal && self.is_absent() {
            self.gone.store(true, Ordering::Release);
            return self.gone();
        }
        BusError::os(action)(errno)
    }

    /// Whether not even the class and revision can be read. Vendor and device ID would not tell:
    /// VFIO answers for them itself.
    fn is_absent(&self) -> bool {
        let mut class = [0; CLASS_LEN];
        let position = self.config.file_offset + u64::from(CLASS_OFFSET);
        match pread(&self.file, &mut class, position) {
            Ok(count) => count < class.len() || class == [0xff; CLASS_LEN],
            Err(_) => true,
        }
    }

    fn is_gone(&self) -> bool {
        let mut fds = [PollFd::new(&self.removal, PollFlags::IN)];
        if poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0) {
            self.gone.store(true, Ordering::Release);
        }
        self.gone.load(Ordering::Acquire)
    }

    fn take_error(&self) -> bool {
        rustix::io::read(&self.errors, &mut [0; 8]).is_ok()
    }

    fn check_present(&self) -> Result<(), BusError> {
        if self.gone.load(Ordering::Acquire) {
            return Err(self.gone());
        }
        Ok(())
    }

    fn gone(&self) -> BusError {
        BusError::Gone {
            name: self.name.clone(),
        }
    }
}

impl Drop for Device {
    /// Hands the function back, which resets it. Kernels before 7 wait up to a minute for one that
    /// does not answer, in a call that cannot be interrupted; that must not keep whoever noticed
    /// from going on without it.
    fn drop(&mut self) {
        if !self.is_absent() {
            return;
        }
        // The thread gets the only descriptor: of two, whoever closes the last one waits.
        if let Ok(stand_in) = self.removal.try_clone() {
            let file = std::mem::replace(&mut self.file, stand_in);
            let closing = std::thread::Builder::new().name("vfio-close".to_owned());
            // If there can be no thread, the file goes with the closure, here and now.
            let _ = closing.spawn(move || drop(file));
        }
    }
}

fn check_whole(action: &'static str, count: usize, len: usize) -> Result<(), BusError> {
    if count < len {
        return Err(BusError::Refused {
            action,
            reason: format!("only {count} of {len} bytes were transferred"),
        });
    }
    Ok(())
}

/// What [`VfioFunction::open`] has to know about regions.
struct Regions {
    bars: [Region; BAR_COUNT],
    config: Region,
}

impl Regions {
    fn of(file: &OwnedFd, info: &DeviceInfo) -> Result<Self, BusError> {
        let action = "asking for a region";
        if info.flags.get() & device::PCI == 0 || info.num_regions.get() <= region::CONFIG {
            return Err(BusError::Refused {
                action,
                reason: "the kernel does not present it as a PCI function".to_owned(),
            });
        }
        let mut bars: [Region; BAR_COUNT] = Default::default();
        for (index, bar) in (0..).zip(&mut bars) {
            *bar = Region::of(file, index).map_err(BusError::os(action))?;
        }
        let config = Region::of(file, region::CONFIG).map_err(BusError::os(action))?;
        Ok(Self { bars, config })
    }
}

impl Region {
    fn of(file: &OwnedFd, index: u32) -> Result<Self, Errno> {
        let question = RegionInfo {
            argsz: argsz::<RegionInfo>(),
            index: index.into(),
            ..RegionInfo::default()
        };
        let info = query(file, ioctl::DEVICE_GET_REGION_INFO, question)?;
        let len = usize::try_from(info.argsz.get()).unwrap_or(usize::MAX);
        if len <= size_of::<RegionInfo>() {
            return Ok(Self::parse(&info, &[]));
        }
        // There are capabilities behind the structure; ask again, with room for them.
        let mut bytes = vec![0; len.min(REGION_INFO_LEN_MAX)];
        let question = RegionInfo {
            argsz: size_u32(bytes.len()).into(),
            ..question
        };
        bytes[..size_of::<RegionInfo>()].copy_from_slice(question.as_bytes());
        exchange(file, ioctl::DEVICE_GET_REGION_INFO, &mut bytes)?;
        let (info, _) = RegionInfo::read_from_prefix(&bytes).map_err(|_| Errno::INVAL)?;
        Ok(Self::parse(&info, &bytes))
    }

    /// `bytes` are the whole description, or nothing if there are no capabilities.
    fn parse(info: &RegionInfo, bytes: &[u8]) -> Self {
        let len = info.size.get();
        let flags = info.flags.get();
        let mappable = if flags & region::FLAG_MMAP == 0 {
            Mappable::Nothing
        } else if flags & region::FLAG_CAPS == 0 {
            Mappable::Everything
        } else {
            sparse_areas(bytes, info.cap_offset.get()).map_or(Mappable::Everything, Mappable::Areas)
        };
        Self {
            len,
            file_offset: info.offset.get(),
            mappable,
        }
    }

    /// How much of `len` bytes at `offset` there is.
    fn part(&self, offset: u16, len: usize) -> usize {
        let left = self.len.saturating_sub(offset.into());
        usize::try_from(left).map_or(len, |left| left.min(len))
    }

    fn is_mappable(&self, part: &Range<u64>) -> bool {
        let covers = |area: &Range<u64>| area.start <= part.start && part.end <= area.end;
        match &self.mappable {
            Mappable::Nothing => false,
            Mappable::Everything => covers(&(0..self.len)),
            Mappable::Areas(areas) => areas.iter().any(covers),
        }
    }
}

/// The parts of a region that may be mapped. `None` if it does not say, which means all of it.
fn sparse_areas(bytes: &[u8], first: u32) -> Option<Vec<Range<u64>>> {
    let mut offset = usize::try_from(first).ok()?;
    while offset != 0 {
        let bytes = bytes.get(offset..)?;
        let (capability, _) = InfoCapability::read_from_prefix(bytes).ok()?;
        if capability.id == region::CAP_SPARSE_MMAP {
            let (fixed, areas) = SparseMmap::read_from_prefix(bytes).ok()?;
            let (areas, _) = areas.as_chunks::<{ size_of::<SparseArea>() }>();
            let count = usize::try_from(fixed.nr_areas.get()).ok()?;
            return Some(areas.iter().take(count).map(area_range).collect());
        }
        let next = usize::try_from(capability.next.get()).ok()?;
        // A list that does not lead on is no list.
        offset = if next > offset { next } else { 0 };
    }
    None
}

fn area_range(bytes: &[u8; size_of::<SparseArea>()]) -> Range<u64> {
    let area: SparseArea = zerocopy::transmute!(*bytes);
    let start = area.offset.get();
    start..start.saturating_add(area.size.get())
}

/// Maps the page with a 16-bit register, if it may be mapped; says where in the page it is.
fn map_register(device: &Device, region: &Region, offset: u64) -> Option<(MappedRegisters, usize)> {
    let page_len = rustix::param::page_size();
    let page_len_u64 = page_len as u64;
    let page = offset - offset % page_len_u64;
    let is_aligned = offset.is_multiple_of(size_of::<u16>() as u64);
    if !is_aligned || !region.is_mappable(&(page..page.checked_add(page_len_u64)?)) {
        return None;
    }
    // Where mapping fails all the same, writing through the kernel does the same more slowly.
    let file = device.file.as_fd();
    let registers = MappedRegisters::map(file, region.file_offset + page, page_len).ok()?;
    Some((registers, usize::try_from(offset - page).ok()?))
}

fn open_container(bdf: Bdf, group: &Group, dev: &Path) -> Result<OwnedFd, BusError> {
    let node = dev.join("vfio/vfio");
    let container = open_file(&node).map_err(|errno| group.cannot_open(&node, errno))?;
    let version = call(&container, ioctl::GET_API_VERSION, 0);
    let type1 = call(&container, ioctl::CHECK_EXTENSION, TYPE1V2_IOMMU);
    if version != Ok(API_VERSION.cast_signed()) || !type1.is_ok_and(|supported| supported > 0) {
        let reason = "this kernel's VFIO has no type 1 version 2 IOMMU; load the module: \
                      `modprobe vfio_iommu_type1`";
        return Err(not_usable(bdf, reason));
    }
    Ok(container)
}

fn open_group(group: &Group, dev: &Path) -> Result<OwnedFd, BusError> {
    let node = group.node(dev);
    let file = open_file(&node).map_err(|errno| group.cannot_open(&node, errno))?;
    let question = GroupStatus {
        argsz: argsz::<GroupStatus>(),
        flags: 0.into(),
    };
    let status = query(&file, ioctl::GROUP_GET_STATUS, question)
        .map_err(BusError::os("asking for the IOMMU group's status"))?;
    if status.flags.get() & GROUP_VIABLE == 0 {
        return Err(group.not_viable());
    }
    Ok(file)
}

fn open_file(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

fn attach(bdf: Bdf, group: &OwnedFd, container: &OwnedFd) -> Result<(), BusError> {
    let mut descriptor = container.as_raw_fd().to_ne_bytes();
    exchange(group, ioctl::GROUP_SET_CONTAINER, &mut descriptor)
        .map_err(BusError::os("attaching the IOMMU group"))?;
    match call(container, ioctl::SET_IOMMU, TYPE1V2_IOMMU) {
        Ok(_) => Ok(()),
        Err(Errno::PERM) => {
            let reason = "the IOMMU does not remap interrupts, so a card could forge them; enable \
                          interrupt remapping (x2APIC) in the firmware's set-up";
            Err(not_usable(bdf, reason))
        }
        Err(errno) => Err(BusError::os("choosing the IOMMU")(errno)),
    }
}

fn open_device(bdf: Bdf, group: &OwnedFd) -> Result<OwnedFd, BusError> {
    let name = CString::new(bdf.to_string()).expect("an address has no NUL");
    let mut name = name.into_bytes_with_nul();
    let descriptor = exchange(group, ioctl::GROUP_GET_DEVICE_FD, &mut name)
        .map_err(BusError::os("opening the function"))?;
    // SAFETY: the kernel just made the descriptor for us (close-on-exec), and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn irq_count(file: &OwnedFd, info: &DeviceInfo, index: u32) -> Result<u32, BusError> {
    if index >= info.num_irqs.get() {
        return Ok(0);
    }
    let question = IrqInfo {
        argsz: argsz::<IrqInfo>(),
        index: index.into(),
        ..IrqInfo::default()
    };
    match query(file, ioctl::DEVICE_GET_IRQ_INFO, question) {
        Ok(info) if info.flags.get() & irq::FLAG_EVENTFD != 0 => Ok(info.count.get()),
        // The kernel refuses to describe what the function does not have.
        Ok(_) | Err(Errno::INVAL) => Ok(0),
        Err(errno) => Err(BusError::os("asking for interrupts")(errno)),
    }
}

/// Connects all `fds` from the first vector on. Returns 0, or how many vectors there would be.
fn set_irqs(file: &OwnedFd, index: u32, flags: u32, fds: &[BorrowedFd<'_>]) -> Result<i32, Errno> {
    let len = size_of::<IrqSet>() + size_of_val(fds);
    let set = IrqSet {
        argsz: size_u32(len).into(),
        flags: flags.into(),
        index: index.into(),
        start: 0.into(),
        count: size_u32(fds.len()).into(),
    };
    let mut bytes = set.as_bytes().to_vec();
    for fd in fds {
        bytes.extend_from_slice(&fd.as_raw_fd().to_ne_bytes());
    }
    exchange(file, ioctl::DEVICE_SET_IRQS, &mut bytes)
}

/// Has the kernel fill in a structure.
fn query<T: FromBytes + IntoBytes>(
    file: &OwnedFd,
    opcode: Opcode,
    mut info: T,
) -> Result<T, Errno> {
    exchange(file, opcode, info.as_mut_bytes())?;
    Ok(info)
}

/// Calls an ioctl that takes a number.
fn call(file: &OwnedFd, opcode: Opcode, number: u32) -> Result<i32, Errno> {
    let takes_number = matches!(
        opcode,
        ioctl::GET_API_VERSION | ioctl::CHECK_EXTENSION | ioctl::SET_IOMMU | ioctl::DEVICE_RESET
    );
    assert!(takes_number, "ioctl {opcode:#x} takes a pointer");
    // SAFETY: as just asserted, the kernel takes the argument for a number, or for nothing; it
    // touches no memory of this process.
    unsafe { rustix::ioctl::ioctl(file, Number { opcode, number }) }
}

/// Calls an ioctl that reads, and perhaps overwrites, `bytes`.
fn exchange(file: &OwnedFd, opcode: Opcode, bytes: &mut [u8]) -> Result<i32, Errno> {
    let is_bounded = match opcode {
        ioctl::GROUP_SET_CONTAINER => bytes.len() == size_of::<i32>(),
        ioctl::GROUP_GET_DEVICE_FD => bytes.last() == Some(&0),
        // Every other one starts with `argsz`.
        _ => bytes.starts_with(&size_u32(bytes.len()).to_le_bytes()),
    };
    assert!(
        is_bounded,
        "the argument of ioctl {opcode:#x} does not say how long it is"
    );
    // SAFETY: as just asserted, the kernel knows from the argument where it ends, so it stays in
    // `bytes`, which are borrowed for as long as the call takes. The memory a DMA map names
    // belongs to a `Memory`, into which nobody has references, and which outlives the map.
    unsafe { rustix::ioctl::ioctl(file, Bytes { opcode, bytes }) }
}

/// An ioctl that takes a number.
struct Number {
    opcode: Opcode,
    number: u32,
}

/// An ioctl that takes a pointer to bytes.
struct Bytes<'a> {
    opcode: Opcode,
    bytes: &'a mut [u8],
}

// SAFETY: the argument is no pointer, so nothing is read or written through it; the output is the
// number the kernel returns.
unsafe impl Ioctl for Number {
    type Output = i32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::without_provenance_mut(self.number as usize)
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _argument: *mut c_void) -> Result<i32, Errno> {
        Ok(output)
    }
}

// SAFETY: the argument points to bytes that may be overwritten, which is what is declared; the
// output is the number the kernel returns.
unsafe impl Ioctl for Bytes<'_> {
    type Output = i32;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.bytes.as_mut_ptr().cast()
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _argument: *mut c_void) -> Result<i32, Errno> {
        Ok(output)
    }
}

fn argsz<T>() -> U32 {
    size_u32(size_of::<T>()).into()
}

fn size_u32(size: usize) -> u32 {
    u32::try_from(size).expect("arguments of ioctls are bounded far below 4 GiB")
}

/// A lock whose holder panicked guards nothing inconsistent: each is changed in one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::dma::PAGE_LEN;

    const BDF: Bdf = Bdf {
        domain: 0,
        bus: 0x3b,
        device: 0,
        function: 0,
    };

    /// A device whose file is plain memory: configuration space in the first page.
    fn device(file: &Memory) -> Device {
        let config = Region {
            len: 256,
            file_offset: 0,
            mappable: Mappable::Nothing,
        };
        Device::new(BDF, file.memfd().try_clone_to_owned().unwrap(), config).unwrap()
    }

    fn bar(len: u64) -> Region {
        Region {
            len,
            file_offset: PAGE_LEN as u64,
            mappable: Mappable::Everything,
        }
    }

    fn region_info(flags: u32, capabilities: &[&[u8]]) -> Region {
        let info = RegionInfo {
            argsz: 0.into(),
            flags: flags.into(),
            index: 0.into(),
            cap_offset: 32.into(),
            size: 0x4000.into(),
            offset: 0x1_0000.into(),
        };
        let bytes = [&[info.as_bytes()], capabilities].concat().concat();
        Region::parse(&info, &bytes)
    }

    fn capability(id: u16, next: u32) -> InfoCapability {
        InfoCapability {
            id: id.into(),
            version: 1.into(),
            next: next.into(),
        }
    }

    fn sparse(next: u32, nr_areas: u32) -> SparseMmap {
        SparseMmap {
            header: capability(region::CAP_SPARSE_MMAP, next),
            nr_areas: nr_areas.into(),
            reserved: 0.into(),
        }
    }

    fn area(offset: u64, size: u64) -> SparseArea {
        SparseArea {
            offset: offset.into(),
            size: size.into(),
        }
    }

    const MMAP: u32 = region::FLAG_MMAP;
    const MMAP_CAPS: u32 = region::FLAG_MMAP | region::FLAG_CAPS;

    #[test]
    fn only_what_the_kernel_offers_is_mappable() {
        assert_eq!(region_info(0, &[]).mappable, Mappable::Nothing);
        assert_eq!(region_info(MMAP, &[]).mappable, Mappable::Everything);
        // After another capability, as the kernel does for a BAR with the MSI-X table in it.
        let other = [capability(3, 48).as_bytes(), &[0; 8]].concat();
        let areas = [area(0, 0x1000), area(0x3000, 0x1000)];
        let region = region_info(
            MMAP_CAPS,
            &[&other, sparse(0, 2).as_bytes(), areas.as_bytes()],
        );
        assert_eq!(
            region.mappable,
            Mappable::Areas(vec![0..0x1000, 0x3000..0x4000])
        );
        assert!(region.is_mappable(&(0x3000..0x4000)));
        assert!(!region.is_mappable(&(0x1000..0x2000)));
        assert!(!region.is_mappable(&(0..0x2000)));
        // A capability that says nothing about it leaves all of the region mappable.
        let other = capability(3, 0);
        assert_eq!(
            region_info(MMAP_CAPS, &[other.as_bytes()]).mappable,
            Mappable::Everything
        );
    }

    #[test]
    fn a_capability_list_that_leads_nowhere_ends() {
        let loops = capability(3, 32);
        assert_eq!(region_info(MMAP_CAPS, &[loops.as_bytes()]).len, 0x4000);
        let outside = capability(3, u32::MAX);
        assert_eq!(region_info(MMAP_CAPS, &[outside.as_bytes()]).len, 0x4000);
        // More areas announced than there are.
        let areas = [area(0, 0x1000), area(u64::MAX, u64::MAX)];
        let region = region_info(
            MMAP_CAPS,
            &[sparse(0, u32::MAX).as_bytes(), areas.as_bytes()],
        );
        assert_eq!(
            region.mappable,
            Mappable::Areas(vec![0..0x1000, u64::MAX..u64::MAX])
        );
    }

    #[test]
    fn a_short_transfer_is_an_error_and_not_data() {
        let file = Memory::new(2 * PAGE_LEN).unwrap();
        let device = device(&file);
        let bar = bar(2 * PAGE_LEN as u64);
        device.write(&bar, 8, &[1, 2, 3]).unwrap();
        let mut read = [0; 4];
        device.read(&bar, 8, &mut read).unwrap();
        assert_eq!(read, [1, 2, 3, 0]);
        let error = device
            .read(&bar, PAGE_LEN as u64 - 3, &mut read)
            .unwrap_err();
        assert!(error.to_string().contains("only 3 of 4 bytes"), "{error}");
    }

    #[test]
    fn configuration_space_reads_as_ones_behind_its_end() {
        let file = Memory::new(PAGE_LEN).unwrap();
        file.write(254, &[1, 2, 3]);
        let device = device(&file);
        let mut read = [0; 4];
        device.read_config(254, &mut read).unwrap();
        assert_eq!(read, [1, 2, 0xff, 0xff]);
        device.write_config(254, &[5, 6, 7]).unwrap();
        file.read(254, &mut read);
        assert_eq!(read, [5, 6, 3, 0]);
    }

    #[test]
    fn memory_space_and_bus_mastering_are_enabled_and_nothing_else_changed() {
        let file = Memory::new(PAGE_LEN).unwrap();
        file.write(usize::from(COMMAND_OFFSET), &[0x01, 0x04, 0x10, 0x00]);
        device(&file).enable().unwrap();
        let mut command = [0; 4];
        file.read(usize::from(COMMAND_OFFSET), &mut command);
        assert_eq!(command, [0x07, 0x04, 0x10, 0x00]);
    }

    #[test]
    fn a_function_that_is_gone_is_let_go_of_all_the_same() {
        // Nothing can be read at a position of a pipe, and its other end shows when it is closed.
        let (mut other, file) = std::io::pipe().unwrap();
        drop(Device::new(BDF, file.into(), Region::default()).unwrap());
        assert_eq!(std::io::Read::read(&mut other, &mut [0]).unwrap(), 0);
    }

    #[test]
    fn an_input_output_error_means_removal_only_if_the_class_is_gone_too() {
        let file = Memory::new(PAGE_LEN).unwrap();
        let device = device(&file);
        file.write(0, &[0xf4, 0x1a]);
        assert!(matches!(
            device.failed("reading", Errno::IO),
            BusError::Os { .. }
        ));
        assert!(!device.is_gone());
        file.write(usize::from(CLASS_OFFSET), &[0xff; CLASS_LEN]);
        assert!(matches!(
            device.failed("reading", Errno::INVAL),
            BusError::Os { .. }
        ));
        assert!(matches!(
            device.failed("reading", Errno::IO),
            BusError::Gone { .. }
        ));
        assert!(device.is_gone());
        file.write(usize::from(CLASS_OFFSET), &[0, 0, 0x80, 0x10]);
        let error = device.read_config(0, &mut [0; 2]).unwrap_err();
        assert!(matches!(error, BusError::Gone { .. }), "gone is for good");
    }

    #[test]
    fn a_signal_of_the_kernel_means_removal() {
        let file = Memory::new(PAGE_LEN).unwrap();
        let device = device(&file);
        assert!(!device.is_gone());
        rustix::io::write(&device.removal, &1_u64.to_ne_bytes()).unwrap();
        assert!(device.is_gone());
        assert!(matches!(
            device.read_config(0, &mut [0]),
            Err(BusError::Gone { .. })
        ));
    }

    #[test]
    fn an_error_is_taken_once_and_is_not_removal() {
        let file = Memory::new(PAGE_LEN).unwrap();
        let device = device(&file);
        assert!(!device.take_error());
        rustix::io::write(&device.errors, &2_u64.to_ne_bytes()).unwrap();
        assert!(!device.is_gone());
        assert!(device.take_error() && !device.take_error());
        device.read_config(0, &mut [0]).unwrap();
    }

    #[test]
    fn a_doorbell_is_mapped_where_it_may_be() {
        let file = Memory::new(3 * PAGE_LEN).unwrap();
        let device = device(&file);
        let mut bar = bar(2 * PAGE_LEN as u64);
        let page = PAGE_LEN as u64;
        let (registers, offset) = map_register(&device, &bar, page + 6).unwrap();
        registers.write_u16(offset, 0x0102);
        let mut bytes = [0; 2];
        file.read(2 * PAGE_LEN + 6, &mut bytes);
        assert_eq!(bytes, [2, 1]);
        assert!(map_register(&device, &bar, page + 5).is_none());
        bar.mappable = Mappable::Areas(vec![0..page, page + 8..2 * page]);
        assert!(map_register(&device, &bar, page + 10).is_none());
    }

    #[test]
    fn a_file_that_is_not_vfios_is_an_error() {
        let file = Memory::new(PAGE_LEN)
            .unwrap()
            .memfd()
            .try_clone_to_owned()
            .unwrap();
        assert_eq!(call(&file, ioctl::GET_API_VERSION, 0), Err(Errno::NOTTY));
        Region::of(&file, 0).unwrap_err();
    }
}
