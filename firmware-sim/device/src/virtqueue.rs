//! Device side of a split virtqueue (virtio 1.3 §2.7 "Split Virtqueues").
//!
//! It takes descriptor chains and gives back used elements; it does not know what a chain holds
//! and does not interrupt anybody. Everything it reads was written by a driver that may be
//! wrong or worse, so each value is read once, bounded, and any broken rule is a [`QueueError`]:
//! the device then asks for a reset rather than guess.

use crate::dma::{DmaFault, DmaMap};
use card_spec::virtqueue::{AVAILABLE_ALIGN, DESCRIPTOR_ALIGN, USED_ALIGN};
use card_spec::virtqueue::{
    AVAILABLE_NO_INTERRUPT, Descriptor, QUEUE_SIZE_MAX, RING_ENTRIES, RING_FLAGS, RING_INDEX,
    USED_NO_NOTIFY, UsedElement, descriptor_flag,
};
use std::sync::atomic::{Ordering, fence};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, IntoBytes};

/// A rule of the queue was broken, or its memory cannot be reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// The available index moved by more than the queue has descriptors.
    #[error("available index jumped by {jump} in a queue of {queue_size}")]
    AvailableIndexJumped {
        /// How far.
        jump: u16,
        /// The most it may.
        queue_size: u16,
    },
    /// A descriptor index is outside its table.
    #[error("descriptor {index} of a table of {table_len}")]
    DescriptorOutOfRange {
        /// The index.
        index: u16,
        /// Descriptors in the table.
        table_len: u32,
    },
    /// A chain has more descriptors than the queue: it runs in a circle.
    #[error("chain of more than {queue_size} descriptors")]
    ChainTooLong {
        /// The most it may have.
        queue_size: u16,
    },
    /// A device-readable descriptor follows a device-writable one (§2.7.4.2 "Driver
    /// Requirements: Message Framing").
    #[error("readable descriptor behind a writable one")]
    ReadableBehindWritable,
    /// An indirect table where none may be, or of a length that is no table's.
    #[error("indirect descriptor that the rules do not allow")]
    IndirectNotAllowed,
    /// The chain has no room for even a status byte.
    #[error("chain without anything the device may write")]
    NothingWritable,
    /// The device was pointed at memory it was not given.
    #[error(transparent)]
    Dma(#[from] DmaFault),
}

/// One piece of a chain: where, and how many bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Segment {
    /// First address.
    pub iova: u64,
    /// Length, in bytes.
    pub len: u32,
}

/// A descriptor chain, taken apart. Kept and refilled, so that taking a chain allocates nothing.
#[derive(Debug, Default)]
pub struct Chain {
    /// Index of its first descriptor, by which it is given back.
    pub head: u16,
    /// What the device reads.
    pub readable: Vec<Segment>,
    /// What the device writes.
    pub writable: Vec<Segment>,
}

impl Chain {
    fn clear(&mut self) {
        self.readable.clear();
        self.writable.clear();
    }

    fn descriptor_count(&self) -> usize {
        self.readable.len() + self.writable.len()
    }

    fn push(&mut self, descriptor: &Descriptor) -> Result<(), QueueError> {
        let segment = Segment {
            iova: descriptor.addr.get(),
            len: descriptor.len.get(),
        };
        if descriptor.flags.get() & descriptor_flag::WRITE != 0 {
            self.writable.push(segment);
        } else if self.writable.is_empty() {
            self.readable.push(segment);
        } else {
            return Err(QueueError::ReadableBehindWritable);
        }
        Ok(())
    }
}

/// Bytes in `segments` together.
#[must_use]
pub fn segments_len(segments: &[Segment]) -> u64 {
    segments.iter().map(|segment| u64::from(segment.len)).sum()
}

/// A table of descriptors: the queue's own, or an indirect one.
#[derive(Clone, Copy)]
struct Table {
    iova: u64,
    len: u32,
}

impl Table {
    fn read(self, dma: &DmaMap, index: u16) -> Result<Descriptor, QueueError> {
        if u32::from(index) >= self.len {
            return Err(QueueError::DescriptorOutOfRange {
                index,
                table_len: self.len,
            });
        }
        let mut bytes = [0; size_of::<Descriptor>()];
        let offset = u64::from(index) * size_of::<Descriptor>() as u64;
        dma.read(self.iova.wrapping_add(offset), &mut bytes)?;
        Ok(Descriptor::read_from_bytes(&bytes).expect("the array has the length of the type"))
    }
}

/// One queue as the device keeps it.
#[derive(Clone, Debug)]
pub struct Queue {
    /// Number of descriptors.
    pub size: u16,
    /// IOVA of the descriptor area.
    pub descriptors: u64,
    /// IOVA of the driver area.
    pub driver_area: u64,
    /// IOVA of the device area.
    pub device_area: u64,
    /// MSI-X vector.
    pub vector: u16,
    enabled: bool,
    next_available: u16,
    next_used: u16,
    /// Counts resets, so that an answer to a chain of an earlier life is recognized.
    generation: u32,
}

impl Queue {
    /// A queue that is not in use yet.
    #[must_use]
    pub fn new(size: u16, vector: u16) -> Self {
        Self {
            size,
            descriptors: 0,
            driver_area: 0,
            device_area: 0,
            vector,
            enabled: false,
            next_available: 0,
            next_used: 0,
            generation: 0,
        }
    }

    /// Forgets everything but that it is another life than before.
    pub fn reset(&mut self, size: u16, vector: u16) {
        let generation = self.generation.wrapping_add(1);
        *self = Self {
            generation,
            ..Self::new(size, vector)
        };
    }

    /// Whether the driver has enabled it.
    #[must_use]
    pub const fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Which life of the queue this is.
    #[must_use]
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// Starts to serve the queue, unless its size or one of its addresses is one that no queue
    /// can have; the driver sees that in `queue_enable`.
    pub fn enable(&mut self) {
        let aligned = |address: u64, align: usize| address.is_multiple_of(align as u64);
        self.enabled = is_queue_size(self.size)
            && aligned(self.descriptors, DESCRIPTOR_ALIGN)
            && aligned(self.driver_area, AVAILABLE_ALIGN)
            && aligned(self.device_area, USED_ALIGN);
    }

    /// Number of chains that wait to be taken.
    ///
    /// # Errors
    ///
    /// See [`QueueError`].
    pub fn pending(&self, dma: &DmaMap) -> Result<u16, QueueError> {
        let index = dma.load_u16(self.driver_area.wrapping_add(RING_INDEX as u64))?;
        let jump = index.wrapping_sub(self.next_available);
        if jump > self.size {
            return Err(QueueError::AvailableIndexJumped {
                jump,
                queue_size: self.size,
            });
        }
        Ok(jump)
    }

    /// Takes the next chain, which [`Queue::pending`] has said to be there.
    ///
    /// # Errors
    ///
    /// See [`QueueError`].
    pub fn take(
        &mut self,
        dma: &DmaMap,
        indirect_allowed: bool,
        chain: &mut Chain,
    ) -> Result<(), QueueError> {
        chain.clear();
        let slot = u64::from(self.next_available % self.size);
        let mut head = [0; 2];
        let entry = RING_ENTRIES as u64 + slot * size_of::<u16>() as u64;
        dma.read(self.driver_area.wrapping_add(entry), &mut head)?;
        chain.head = u16::from_le_bytes(head);
        self.walk(dma, indirect_allowed, chain)?;
        self.next_available = self.next_available.wrapping_add(1);
        Ok(())
    }

    fn walk(
        &self,
        dma: &DmaMap,
        indirect_allowed: bool,
        chain: &mut Chain,
    ) -> Result<(), QueueError> {
        let mut table = Table {
            iova: self.descriptors,
            len: u32::from(self.size),
        };
        let mut index = chain.head;
        let mut inside_indirect = false;
        loop {
            let descriptor = table.read(dma, index)?;
            let flags = descriptor.flags.get();
            if flags & descriptor_flag::INDIRECT != 0 {
                let allowed =
                    indirect_allowed && !inside_indirect && flags & descriptor_flag::NEXT == 0;
                table = indirect_table(&descriptor)
                    .filter(|_| allowed)
                    .ok_or(QueueError::IndirectNotAllowed)?;
                index = 0;
                inside_indirect = true;
                continue;
            }
            if chain.descriptor_count() >= usize::from(self.size) {
                return Err(QueueError::ChainTooLong {
                    queue_size: self.size,
                });
            }
            chain.push(&descriptor)?;
            if flags & descriptor_flag::NEXT == 0 {
                return Ok(());
            }
            index = descriptor.next.get();
        }
    }

    /// Gives back the chain that starts at `head`. The driver sees it with the next
    /// [`Queue::publish`].
    ///
    /// # Errors
    ///
    /// See [`QueueError`].
    pub fn give(&mut self, dma: &DmaMap, head: u16, written: u32) -> Result<(), QueueError> {
        let slot = u64::from(self.next_used % self.size);
        let element = UsedElement {
            id: U32::new(u32::from(head)),
            len: U32::new(written),
        };
        let entry = RING_ENTRIES as u64 + slot * size_of::<UsedElement>() as u64;
        dma.write(self.device_area.wrapping_add(entry), element.as_bytes())?;
        self.next_used = self.next_used.wrapping_add(1);
        Ok(())
    }

    /// Shows the driver what was given back, and says whether it wants an interrupt for that.
    ///
    /// # Errors
    ///
    /// See [`QueueError`].
    pub fn publish(&self, dma: &DmaMap) -> Result<bool, QueueError> {
        let index = self.device_area.wrapping_add(RING_INDEX as u64);
        dma.store_u16(index, self.next_used)?;
        // The driver turns interrupts on and then looks at the index; we store the index and
        // then look whether they are on. Without a full barrier both may see the old value.
        fence(Ordering::SeqCst);
        let flags = dma.load_u16(self.driver_area.wrapping_add(RING_FLAGS as u64))?;
        Ok(flags & AVAILABLE_NO_INTERRUPT == 0)
    }

    /// Tells the driver whether it has to ring the doorbell.
    ///
    /// # Errors
    ///
    /// See [`QueueError`].
    pub fn set_doorbell_wanted(&self, dma: &DmaMap, wanted: bool) -> Result<(), QueueError> {
        let flags = if wanted { 0 } else { USED_NO_NOTIFY };
        dma.store_u16(self.device_area.wrapping_add(RING_FLAGS as u64), flags)?;
        // Whoever asks for doorbells looks at the available index next, and must not see one
        // from before the driver could see the flag.
        fence(Ordering::SeqCst);
        Ok(())
    }
}

/// Whether a split virtqueue can have this many descriptors (§2.7 "Split Virtqueues").
#[must_use]
pub const fn is_queue_size(size: u16) -> bool {
    size.is_power_of_two() && size <= QUEUE_SIZE_MAX
}

fn indirect_table(descriptor: &Descriptor) -> Option<Table> {
    /// Length of a [`Descriptor`], in bytes.
    const ENTRY_LEN: u32 = 16;
    let len = descriptor.len.get();
    (len > 0 && len.is_multiple_of(ENTRY_LEN)).then_some(Table {
        iova: descriptor.addr.get(),
        len: len / ENTRY_LEN,
    })
}
