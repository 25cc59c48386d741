//! The split virtqueue (virtio 1.3 §2.7 "Split Virtqueues").
//!
//! ```text
//!  descriptor area          driver area (available ring)   device area (used ring)
//!  driver writes            driver writes                  device writes
//!  +------------------+     +-------+-------+--------+     +-------+-------+----------+
//!  | addr len flags   |     | flags | idx   | ring[] |     | flags | idx   | ring[]   |
//!  | next       x N   |     | u16   | u16   | u16 xN |     | u16   | u16   | id,len xN|
//!  +------------------+     +-------+-------+--------+     +-------+-------+----------+
//! ```

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `struct virtq_desc` (§2.7.5 "The Virtqueue Descriptor Table").
#[derive(
    Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq, Unaligned,
)]
#[repr(C)]
pub struct Descriptor {
    /// IOVA of the buffer.
    pub addr: U64,
    /// Length of the buffer, in bytes.
    pub len: U32,
    /// See [`descriptor_flag`].
    pub flags: U16,
    /// Next descriptor of the chain, if [`descriptor_flag::NEXT`].
    pub next: U16,
}

const _: () = assert!(size_of::<Descriptor>() == 16);

/// Bits of [`Descriptor::flags`].
pub mod descriptor_flag {
    /// The chain goes on at `next`.
    pub const NEXT: u16 = 1;
    /// The device writes the buffer (otherwise it reads it).
    pub const WRITE: u16 = 2;
    /// The buffer is a table of descriptors.
    pub const INDIRECT: u16 = 4;
}

/// `struct virtq_used_elem` (§2.7.8 "The Virtqueue Used Ring").
#[derive(
    Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq, Unaligned,
)]
#[repr(C)]
pub struct UsedElement {
    /// Index of the first descriptor of the chain.
    pub id: U32,
    /// Bytes written to the device-writable part.
    pub len: U32,
}

const _: () = assert!(size_of::<UsedElement>() == 8);

/// `VIRTQ_AVAIL_F_NO_INTERRUPT`: the driver does not want interrupts (§2.7.6 "The Virtqueue
/// Available Ring").
pub const AVAILABLE_NO_INTERRUPT: u16 = 1;
/// `VIRTQ_USED_F_NO_NOTIFY`: the device does not want doorbells (§2.7.8 "The Virtqueue Used
/// Ring").
pub const USED_NO_NOTIFY: u16 = 1;

/// Largest queue size (§2.7 "Split Virtqueues").
pub const QUEUE_SIZE_MAX: u16 = 32768;

/// Offset of `flags` in either ring.
pub const RING_FLAGS: usize = 0;
/// Offset of `idx` in either ring.
pub const RING_INDEX: usize = 2;
/// Offset of the first ring entry in either ring.
pub const RING_ENTRIES: usize = 4;

/// Alignment of the descriptor area, in bytes (§2.7 "Split Virtqueues").
pub const DESCRIPTOR_ALIGN: usize = 16;
/// Alignment of the driver area, in bytes.
pub const AVAILABLE_ALIGN: usize = 2;
/// Alignment of the device area, in bytes.
pub const USED_ALIGN: usize = 4;

/// Bytes of the descriptor area of a queue of `queue_size` descriptors.
#[must_use]
pub const fn descriptor_area_len(queue_size: u16) -> usize {
    16 * queue_size as usize
}

/// Bytes of the driver area, `used_event` included.
#[must_use]
pub const fn available_ring_len(queue_size: u16) -> usize {
    6 + 2 * queue_size as usize
}

/// Bytes of the device area, `avail_event` included.
#[must_use]
pub const fn used_ring_len(queue_size: u16) -> usize {
    6 + 8 * queue_size as usize
}
