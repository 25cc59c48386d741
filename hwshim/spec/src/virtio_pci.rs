//! Virtio over PCI, modern interface only (virtio 1.3 §4.1 "Virtio Over PCI Bus").

use crate::pci::CapabilityHeader;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// PCI vendor ID of every virtio device.
pub const VENDOR_ID: u16 = 0x1af4;
/// PCI device ID of a modern virtio device is this plus its virtio device ID (§4.1.2 "PCI
/// Device Discovery").
pub const DEVICE_ID_BASE: u16 = 0x1040;

/// `virtio_pci_cap.cfg_type` (§4.1.4 "Virtio Structure PCI Capabilities").
pub mod structure {
    /// Common configuration.
    pub const COMMON: u8 = 1;
    /// Notifications.
    pub const NOTIFY: u8 = 2;
    /// ISR status.
    pub const ISR: u8 = 3;
    /// Device-specific configuration.
    pub const DEVICE: u8 = 4;
    /// Access to the others through configuration space.
    pub const PCI: u8 = 5;
    /// Shared memory region.
    pub const SHARED_MEMORY: u8 = 8;
    /// Vendor-specific data.
    pub const VENDOR: u8 = 9;
}

/// `struct virtio_pci_cap` (§4.1.4 "Virtio Structure PCI Capabilities").
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Capability {
    /// ID is [`crate::pci::capability::VENDOR_SPECIFIC`].
    pub header: CapabilityHeader,
    /// Length of the whole capability, in bytes.
    pub cap_len: u8,
    /// See [`structure`].
    pub cfg_type: u8,
    /// Index of the BAR that holds the structure; values above 5 are reserved.
    pub bar: u8,
    /// Tells structures of the same type apart.
    pub id: u8,
    /// Padding.
    pub padding: [u8; 2],
    /// Where the structure starts in the BAR, in bytes.
    pub offset: U32,
    /// Length of the structure, in bytes.
    pub length: U32,
}

const _: () = assert!(size_of::<Capability>() == 16);

/// `struct virtio_pci_notify_cap` (§4.1.4.4 "Notification structure layout").
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct NotifyCapability {
    /// The common part.
    pub cap: Capability,
    /// Multiplied with a queue's `queue_notify_off` to find its doorbell.
    pub notify_off_multiplier: U32,
}

const _: () = assert!(size_of::<NotifyCapability>() == 20);

/// `struct virtio_pci_common_cfg` (§4.1.4.3 "Common configuration structure layout"), without
/// the two fields of administration virtqueues at its end, which nothing here negotiates.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CommonConfig {
    /// Selects which 32 feature bits `device_feature` shows.
    pub device_feature_select: U32,
    /// Feature bits the device offers.
    pub device_feature: U32,
    /// Selects which 32 feature bits `driver_feature` takes.
    pub driver_feature_select: U32,
    /// Feature bits the driver accepts.
    pub driver_feature: U32,
    /// MSI-X vector of configuration changes.
    pub config_msix_vector: U16,
    /// Number of virtqueues.
    pub num_queues: U16,
    /// See [`status`].
    pub device_status: u8,
    /// Changes when the configuration may have been read half old, half new.
    pub config_generation: u8,
    /// Selects the queue the following fields speak of.
    pub queue_select: U16,
    /// Queue size, in descriptors; 0 means the queue is not available.
    pub queue_size: U16,
    /// MSI-X vector of the queue.
    pub queue_msix_vector: U16,
    /// 1 when the device may execute requests from the queue.
    pub queue_enable: U16,
    /// Index of the queue's doorbell.
    pub queue_notify_off: U16,
    /// IOVA of the descriptor area.
    pub queue_desc: U64,
    /// IOVA of the driver area (available ring).
    pub queue_driver: U64,
    /// IOVA of the device area (used ring).
    pub queue_device: U64,
    /// Value to write to the doorbell, if `VIRTIO_F_NOTIF_CONFIG_DATA`.
    pub queue_notify_data: U16,
    /// 1 resets the queue, if [`feature::RING_RESET`].
    pub queue_reset: U16,
}

const _: () = assert!(size_of::<CommonConfig>() == 60);

/// Byte offsets of [`CommonConfig`]'s fields, named as there.
#[expect(
    missing_docs,
    reason = "each is documented at the field of the same name"
)]
pub mod common {
    pub const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub const DEVICE_FEATURE: u64 = 0x04;
    pub const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub const DRIVER_FEATURE: u64 = 0x0c;
    pub const CONFIG_MSIX_VECTOR: u64 = 0x10;
    pub const NUM_QUEUES: u64 = 0x12;
    pub const DEVICE_STATUS: u64 = 0x14;
    pub const CONFIG_GENERATION: u64 = 0x15;
    pub const QUEUE_SELECT: u64 = 0x16;
    pub const QUEUE_SIZE: u64 = 0x18;
    pub const QUEUE_MSIX_VECTOR: u64 = 0x1a;
    pub const QUEUE_ENABLE: u64 = 0x1c;
    pub const QUEUE_NOTIFY_OFF: u64 = 0x1e;
    pub const QUEUE_DESC: u64 = 0x20;
    pub const QUEUE_DRIVER: u64 = 0x28;
    pub const QUEUE_DEVICE: u64 = 0x30;
    pub const QUEUE_NOTIFY_DATA: u64 = 0x38;
    pub const QUEUE_RESET: u64 = 0x3a;
}

/// Vector number that means "no interrupt" (§4.1.5.1.2 "MSI-X Vector Configuration").
pub const NO_VECTOR: u16 = 0xffff;

/// Device status bits (§2.1 "Device Status Field").
pub mod status {
    /// The driver has seen the device.
    pub const ACKNOWLEDGE: u8 = 1;
    /// The driver knows how to drive it.
    pub const DRIVER: u8 = 2;
    /// The driver is set up.
    pub const DRIVER_OK: u8 = 4;
    /// The driver has accepted a set of features.
    pub const FEATURES_OK: u8 = 8;
    /// The device has met an error it cannot recover from.
    pub const DEVICE_NEEDS_RESET: u8 = 64;
    /// The driver has given up.
    pub const FAILED: u8 = 128;
}

/// Feature bits, by number (§6 "Reserved Feature Bits").
pub mod feature {
    /// Descriptors may point to tables of descriptors.
    pub const INDIRECT_DESC: u32 = 28;
    /// `used_event` and `avail_event` are in use.
    pub const EVENT_IDX: u32 = 29;
    /// The device follows virtio 1.0 or later.
    pub const VERSION_1: u32 = 32;
    /// The device's memory accesses are translated (by an IOMMU) and limited by the platform.
    pub const ACCESS_PLATFORM: u32 = 33;
    /// Memory accesses need the ordering of real hardware.
    pub const ORDER_PLATFORM: u32 = 36;
    /// The doorbell takes more than the queue index.
    pub const NOTIFICATION_DATA: u32 = 38;
    /// Queues can be reset one by one.
    pub const RING_RESET: u32 = 40;
}

/// ISR status bits (§4.1.4.5 "ISR status capability").
pub mod isr {
    /// A queue has news.
    pub const QUEUE: u8 = 1;
    /// The configuration has changed.
    pub const CONFIG: u8 = 2;
}

/// Vendor-specific data capability of a card that has a health page (§4.1.4.8 "Vendor data
/// capability").
///
/// The page itself is described in [`crate::health`].
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct HealthCapability {
    /// ID is [`crate::pci::capability::VENDOR_SPECIFIC`].
    pub header: CapabilityHeader,
    /// Length of the whole capability: 24.
    pub cap_len: u8,
    /// [`structure::VENDOR`].
    pub cfg_type: u8,
    /// [`HEALTH_VENDOR_ID`].
    pub vendor_id: U16,
    /// Index of the BAR that holds the page.
    pub bar: u8,
    /// Layout version of this capability: 1.
    pub version: u8,
    /// Where the page starts in the BAR, in bytes.
    pub offset: U32,
    /// Length of the page, in bytes.
    pub length: U32,
    /// [`crate::health::MAGIC`].
    pub magic: U32,
    /// Zero.
    pub reserved: U32,
}

const _: () = assert!(size_of::<HealthCapability>() == 24);

/// Vendor ID in [`HealthCapability`].
///
/// The project owns no PCI-SIG vendor ID. This value is not assigned to anybody, and a driver
/// compares the magic as well.
pub const HEALTH_VENDOR_ID: u16 = 0x4857;
