//! Messages of the vfio-user protocol, major version 0 ("vfio-user Protocol Specification", in QEMU's
//! `docs/interop/vfio-user.rst`).
//!
//! Each message is a [`Header`] and a body. Bodies that VFIO has as ioctl arguments are in
//! [`crate::vfio`]; this module adds those that only the socket has. Both ends run on one host
//! and the protocol speaks its byte order, which this project supports as little-endian.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Major version spoken here.
pub const VERSION_MAJOR: u16 = 0;
/// Minor version spoken here, as by libvfio-user; QEMU proposes 0.0. A reply never has more than
/// was proposed.
pub const VERSION_MINOR: u16 = 1;

/// Commands (section "Commands").
pub mod command {
    /// Negotiates the version; the first message.
    pub const VERSION: u16 = 1;
    /// Gives the device access to memory.
    pub const DMA_MAP: u16 = 2;
    /// Takes it away again.
    pub const DMA_UNMAP: u16 = 3;
    /// Asks for [`crate::vfio::DeviceInfo`].
    pub const DEVICE_GET_INFO: u16 = 4;
    /// Asks for [`crate::vfio::RegionInfo`].
    pub const DEVICE_GET_REGION_INFO: u16 = 5;
    /// Asks for descriptors that stand for parts of a region.
    pub const DEVICE_GET_REGION_IO_FDS: u16 = 6;
    /// Asks for [`crate::vfio::IrqInfo`].
    pub const DEVICE_GET_IRQ_INFO: u16 = 7;
    /// Sets up interrupts.
    pub const DEVICE_SET_IRQS: u16 = 8;
    /// Reads from a region.
    pub const REGION_READ: u16 = 9;
    /// Writes to a region.
    pub const REGION_WRITE: u16 = 10;
    /// Resets the device.
    pub const DEVICE_RESET: u16 = 13;
}

/// Message header (section "Header").
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Chosen by the sender of a command, repeated in its reply.
    pub message_id: U16,
    /// See [`command`].
    pub command: U16,
    /// Length of the message, this header included.
    pub message_size: U32,
    /// See [`flag`].
    pub flags: U32,
    /// An errno, if [`flag::ERROR`]; may be zero all the same.
    pub error: U32,
}

const _: () = assert!(size_of::<Header>() == 16);

/// Bits of [`Header::flags`].
pub mod flag {
    /// Bits 0 to 3: the type of the message.
    pub const TYPE_MASK: u32 = 0xf;
    /// Type: a command.
    pub const TYPE_COMMAND: u32 = 0;
    /// Type: a reply.
    pub const TYPE_REPLY: u32 = 1;
    /// The sender of a command wants no reply.
    pub const NO_REPLY: u32 = 1 << 4;
    /// The command failed; the reply has no body.
    pub const ERROR: u32 = 1 << 5;
}

/// Fixed part of [`command::VERSION`]; JSON ending in NUL may follow.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Version {
    /// Major version.
    pub major: U16,
    /// Minor version.
    pub minor: U16,
}

const _: () = assert!(size_of::<Version>() == 4);

/// Largest `count` of a region access, unless negotiated otherwise, in bytes.
pub const DATA_TRANSFER_LEN_MAX: u32 = 1 << 20;

/// Body of [`command::DMA_MAP`]; the memory's descriptor comes along.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DmaMap {
    /// Size of this structure.
    pub argsz: U32,
    /// See [`crate::vfio::dma`].
    pub flags: U32,
    /// Where the memory starts in the descriptor, in bytes.
    pub offset: U64,
    /// Address the device is to use.
    pub address: U64,
    /// Length, in bytes.
    pub size: U64,
}

const _: () = assert!(size_of::<DmaMap>() == 32);

/// Body of [`command::DMA_UNMAP`], and of its reply.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DmaUnmap {
    /// Size of this structure.
    pub argsz: U32,
    /// Flags; zero.
    pub flags: U32,
    /// First address.
    pub address: U64,
    /// Length, in bytes.
    pub size: U64,
}

const _: () = assert!(size_of::<DmaUnmap>() == 24);

/// Fixed part of [`command::REGION_READ`] and [`command::REGION_WRITE`]; the data follows, in the
/// command of a write and in the reply of a read.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RegionAccess {
    /// Where in the region, in bytes.
    pub offset: U64,
    /// See [`crate::vfio::region`].
    pub region: U32,
    /// Number of bytes.
    pub count: U32,
}

const _: () = assert!(size_of::<RegionAccess>() == 16);

/// Fixed part of [`command::DEVICE_GET_REGION_IO_FDS`]; [`SubRegionIoFd`]s follow in the reply.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RegionIoFds {
    /// Size of the structure with its sub-regions, or of the room for it.
    pub argsz: U32,
    /// Flags; zero.
    pub flags: U32,
    /// See [`crate::vfio::region`].
    pub index: U32,
    /// Number of sub-regions.
    pub count: U32,
}

const _: () = assert!(size_of::<RegionIoFds>() == 16);

/// A part of a region that an eventfd stands for: to write there, write to the eventfd.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SubRegionIoFd {
    /// Where the part starts, in bytes.
    pub offset: U64,
    /// Length of the part, in bytes.
    pub size: U64,
    /// Which of the descriptors that came along.
    pub fd_index: U32,
    /// See [`io_fd_type`].
    pub kind: U32,
    /// Flags, as for `KVM_IOEVENTFD`; see [`IOEVENTFD_DATAMATCH`].
    pub flags: U32,
    /// Padding.
    pub padding: U32,
    /// The only value that counts as a write, if [`IOEVENTFD_DATAMATCH`].
    pub datamatch: U64,
}

const _: () = assert!(size_of::<SubRegionIoFd>() == 40);

/// [`SubRegionIoFd::flags`]: only writes of `datamatch` reach the eventfd (`KVM_IOEVENTFD_FLAG_DATAMATCH`).
pub const IOEVENTFD_DATAMATCH: u32 = 1 << 0;

/// [`SubRegionIoFd::kind`].
pub mod io_fd_type {
    /// An eventfd to be written instead of the region.
    pub const IOEVENTFD: u32 = 0;
    /// A descriptor that takes reads and writes as messages.
    pub const IOREGIONFD: u32 = 1;
}
