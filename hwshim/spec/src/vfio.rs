//! Regions, interrupts and DMA maps of a device, as `linux/vfio.h` (6.1) lays them out.
//!
//! vfio-user carries the same structures in its messages; see [`crate::vfio_user`].

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Region indices of a PCI device (`VFIO_PCI_*_REGION_INDEX`). 0 to 5 are the BARs.
pub mod region {
    /// Expansion ROM.
    pub const ROM: u32 = 6;
    /// Configuration space.
    pub const CONFIG: u32 = 7;
    /// Regions every PCI device has; VGA is the ninth.
    pub const COUNT: u32 = 9;

    /// `VFIO_REGION_INFO_FLAG_READ`
    pub const FLAG_READ: u32 = 1 << 0;
    /// `VFIO_REGION_INFO_FLAG_WRITE`
    pub const FLAG_WRITE: u32 = 1 << 1;
    /// `VFIO_REGION_INFO_FLAG_MMAP`
    pub const FLAG_MMAP: u32 = 1 << 2;
    /// `VFIO_REGION_INFO_FLAG_CAPS`
    pub const FLAG_CAPS: u32 = 1 << 3;

    /// `VFIO_REGION_INFO_CAP_SPARSE_MMAP`
    pub const CAP_SPARSE_MMAP: u16 = 1;
}

/// Interrupt indices of a PCI device (`VFIO_PCI_*_IRQ_INDEX`).
pub mod irq {
    /// INTx.
    pub const INTX: u32 = 0;
    /// MSI.
    pub const MSI: u32 = 1;
    /// MSI-X.
    pub const MSIX: u32 = 2;
    /// An uncorrectable error was reported for the device.
    pub const ERR: u32 = 3;
    /// The kernel asks for the device back, e.g. to unplug it.
    pub const REQ: u32 = 4;
    /// Interrupt kinds every PCI device has.
    pub const COUNT: u32 = 5;

    /// `VFIO_IRQ_INFO_EVENTFD`
    pub const FLAG_EVENTFD: u32 = 1 << 0;
    /// `VFIO_IRQ_INFO_NORESIZE`
    pub const FLAG_NORESIZE: u32 = 1 << 3;

    /// `VFIO_IRQ_SET_DATA_NONE`
    pub const SET_DATA_NONE: u32 = 1 << 0;
    /// `VFIO_IRQ_SET_DATA_BOOL`
    pub const SET_DATA_BOOL: u32 = 1 << 1;
    /// `VFIO_IRQ_SET_DATA_EVENTFD`
    pub const SET_DATA_EVENTFD: u32 = 1 << 2;
    /// `VFIO_IRQ_SET_ACTION_MASK`
    pub const SET_ACTION_MASK: u32 = 1 << 3;
    /// `VFIO_IRQ_SET_ACTION_UNMASK`
    pub const SET_ACTION_UNMASK: u32 = 1 << 4;
    /// `VFIO_IRQ_SET_ACTION_TRIGGER`
    pub const SET_ACTION_TRIGGER: u32 = 1 << 5;
}

/// Flags of a DMA map (`VFIO_DMA_MAP_FLAG_*`; vfio-user uses the same values).
pub mod dma {
    /// The device may read.
    pub const READ: u32 = 1 << 0;
    /// The device may write.
    pub const WRITE: u32 = 1 << 1;
}

/// Device flags (`VFIO_DEVICE_FLAGS_*`).
pub mod device {
    /// The device can be reset.
    pub const RESET: u32 = 1 << 0;
    /// The device is a PCI function.
    pub const PCI: u32 = 1 << 1;
}

/// Ioctl numbers, all `_IO(';', n)` without size or direction (`VFIO_TYPE` is `;`, `VFIO_BASE` 100).
pub mod ioctl {
    const fn vfio(number: u32) -> u32 {
        (b';' as u32) << 8 | number
    }
    /// `VFIO_GET_API_VERSION`
    pub const GET_API_VERSION: u32 = vfio(100);
    /// `VFIO_CHECK_EXTENSION`
    pub const CHECK_EXTENSION: u32 = vfio(101);
    /// `VFIO_SET_IOMMU`
    pub const SET_IOMMU: u32 = vfio(102);
    /// `VFIO_GROUP_GET_STATUS`
    pub const GROUP_GET_STATUS: u32 = vfio(103);
    /// `VFIO_GROUP_SET_CONTAINER`
    pub const GROUP_SET_CONTAINER: u32 = vfio(104);
    /// `VFIO_GROUP_UNSET_CONTAINER`
    pub const GROUP_UNSET_CONTAINER: u32 = vfio(105);
    /// `VFIO_GROUP_GET_DEVICE_FD`
    pub const GROUP_GET_DEVICE_FD: u32 = vfio(106);
    /// `VFIO_DEVICE_GET_INFO`
    pub const DEVICE_GET_INFO: u32 = vfio(107);
    /// `VFIO_DEVICE_GET_REGION_INFO`
    pub const DEVICE_GET_REGION_INFO: u32 = vfio(108);
    /// `VFIO_DEVICE_GET_IRQ_INFO`
    pub const DEVICE_GET_IRQ_INFO: u32 = vfio(109);
    /// `VFIO_DEVICE_SET_IRQS`
    pub const DEVICE_SET_IRQS: u32 = vfio(110);
    /// `VFIO_DEVICE_RESET`
    pub const DEVICE_RESET: u32 = vfio(111);
    /// `VFIO_IOMMU_MAP_DMA`
    pub const IOMMU_MAP_DMA: u32 = vfio(113);
    /// `VFIO_IOMMU_UNMAP_DMA`
    pub const IOMMU_UNMAP_DMA: u32 = vfio(114);
}

/// `VFIO_API_VERSION`
pub const API_VERSION: u32 = 0;
/// `VFIO_TYPE1v2_IOMMU`
pub const TYPE1V2_IOMMU: u32 = 3;
/// `VFIO_GROUP_FLAGS_VIABLE`: every device of the group is bound to VFIO or to nothing.
pub const GROUP_VIABLE: u32 = 1;

/// `struct vfio_group_status`
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct GroupStatus {
    /// Size of this structure.
    pub argsz: U32,
    /// See [`GROUP_VIABLE`].
    pub flags: U32,
}

const _: () = assert!(size_of::<GroupStatus>() == 8);

/// `struct vfio_device_info`, the part that vfio-user has too.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DeviceInfo {
    /// Size of the structure, or of the room for it.
    pub argsz: U32,
    /// See [`device`].
    pub flags: U32,
    /// Number of regions.
    pub num_regions: U32,
    /// Number of interrupt kinds.
    pub num_irqs: U32,
}

const _: () = assert!(size_of::<DeviceInfo>() == 16);

/// `struct vfio_region_info`
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RegionInfo {
    /// Size of the structure with its capabilities, or of the room for it.
    pub argsz: U32,
    /// See [`region`].
    pub flags: U32,
    /// See [`region`].
    pub index: U32,
    /// Where the first capability starts, from the start of this structure; 0 means none.
    pub cap_offset: U32,
    /// Length of the region, in bytes.
    pub size: U64,
    /// Where the region starts in the device's file.
    pub offset: U64,
}

const _: () = assert!(size_of::<RegionInfo>() == 32);

/// `struct vfio_info_cap_header`
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct InfoCapability {
    /// See [`region::CAP_SPARSE_MMAP`].
    pub id: U16,
    /// Version of the capability.
    pub version: U16,
    /// Where the next one starts; 0 means none.
    pub next: U32,
}

const _: () = assert!(size_of::<InfoCapability>() == 8);

/// Fixed part of `struct vfio_region_info_cap_sparse_mmap`; areas follow.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SparseMmap {
    /// Capability header, ID [`region::CAP_SPARSE_MMAP`], version 1.
    pub header: InfoCapability,
    /// Number of [`SparseArea`]s that follow.
    pub nr_areas: U32,
    /// Reserved.
    pub reserved: U32,
}

const _: () = assert!(size_of::<SparseMmap>() == 16);

/// `struct vfio_region_sparse_mmap_area`
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SparseArea {
    /// Where the area starts in the region, in bytes.
    pub offset: U64,
    /// Length of the area, in bytes.
    pub size: U64,
}

const _: () = assert!(size_of::<SparseArea>() == 16);

/// `struct vfio_irq_info`
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IrqInfo {
    /// Size of this structure.
    pub argsz: U32,
    /// See [`irq`].
    pub flags: U32,
    /// See [`irq`].
    pub index: U32,
    /// Number of vectors.
    pub count: U32,
}

const _: () = assert!(size_of::<IrqInfo>() == 16);

/// Fixed part of `struct vfio_irq_set`; the data, if any, follows.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IrqSet {
    /// Size of the structure with its data.
    pub argsz: U32,
    /// One data flag and one action flag, see [`irq`].
    pub flags: U32,
    /// See [`irq`].
    pub index: U32,
    /// First vector.
    pub start: U32,
    /// Number of vectors; 0 with no data disables the kind.
    pub count: U32,
}

const _: () = assert!(size_of::<IrqSet>() == 20);

/// `struct vfio_iommu_type1_dma_map`
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DmaMap {
    /// Size of this structure.
    pub argsz: U32,
    /// See [`dma`].
    pub flags: U32,
    /// Address of the memory in this process.
    pub vaddr: U64,
    /// Address the device is to use.
    pub iova: U64,
    /// Length, in bytes.
    pub size: U64,
}

const _: () = assert!(size_of::<DmaMap>() == 32);

/// `struct vfio_iommu_type1_dma_unmap`
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DmaUnmap {
    /// Size of this structure.
    pub argsz: U32,
    /// Flags; zero.
    pub flags: U32,
    /// First address.
    pub iova: U64,
    /// Length, in bytes; the kernel replies with what it unmapped.
    pub size: U64,
}

const _: () = assert!(size_of::<DmaUnmap>() == 24);
