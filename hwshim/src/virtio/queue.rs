//! Driver side of a split virtqueue that believes nothing the device writes (virtio 1.3 §2.7
//! "Split Virtqueues").
//!
//! Each slot owns two descriptors, one the device reads and one it writes, and two buffers. The
//! descriptor table and the available index are kept here and only ever written to shared memory;
//! of what the device writes, each used element is read once and checked before anything follows
//! from it.
//!
//! ```text
//!  memory the device may only read        memory the device may write
//!  +-----------------------------+        +--------------------+
//!  | descriptors | available ring|        | used ring          |
//!  +-----------------------------+        +--------------------+
//!  | request of slot 0           |        | result of slot 0   |
//!  | ...                         |        | ...                |
//!  | large requests              |        | large results      |
//!  +-----------------------------+        +--------------------+
//! ```

#[cfg(test)]
mod models;

use crate::accelerator::DeviceMisbehaved;
use crate::bus::dma::{Iova, Memory, PAGE_LEN};
use crate::bus::{Access, BusError, Doorbell, Function};
use card_spec::virtqueue::{
    AVAILABLE_NO_INTERRUPT, Descriptor, RING_ENTRIES, RING_FLAGS, RING_INDEX, USED_NO_NOTIFY,
    UsedElement, available_ring_len, descriptor_area_len, descriptor_flag, used_ring_len,
};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// What a queue is to hold.
#[derive(Clone, Copy, Debug)]
pub struct QueueSpec {
    /// Queue size in descriptors: a power of two, at least `2 * slots`.
    pub size: u16,
    /// Requests that can be in flight.
    pub slots: u16,
    /// Largest request of a slot, in bytes.
    pub request_len: usize,
    /// Largest result of a slot, in bytes.
    pub result_len: usize,
    /// Slots that can hold a large request at the same time.
    pub large_slots: u16,
    /// Largest request, in bytes.
    pub large_request_len: usize,
    /// Largest result, in bytes.
    pub large_result_len: usize,
}

/// A split virtqueue.
#[derive(Debug)]
pub struct Queue {
    spec: QueueSpec,
    device_reads: Shared,
    device_writes: Shared,
    available_offset: usize,
    slots: Vec<Slot>,
    free: Vec<u16>,
    free_large: Vec<u16>,
    in_flight: u16,
    /// Where the next entry goes. The device learns of it when requests are announced.
    available_index: u16,
    /// First used element not yet looked at.
    used_index: u16,
    /// How far the device had got when it was last asked.
    device_used_index: u16,
    unannounced: bool,
    doorbell: Option<Doorbell>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    in_flight: bool,
    request: usize,
    result: usize,
    /// Bytes the device may write.
    result_len: u32,
    /// Bytes of the request.
    request_len: u32,
    large: Option<u16>,
    /// What its descriptors say. They are written again only when that changes, so that in the
    /// steady state the device finds them in its cache.
    described: [Descriptor; 2],
}

/// A request the device has done with. Its slot stays taken until [`Queue::release`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Used {
    /// Which slot.
    pub slot: u16,
    /// Bytes the device says it wrote, no more than it may.
    pub len: u32,
}

/// The queue has no room for the request now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Full;

impl Queue {
    /// Allocates a queue in memory shared with `function`, which is not told of it yet.
    ///
    /// # Errors
    ///
    /// [`BusError`] if there is no memory, or it cannot be shared.
    ///
    /// # Panics
    ///
    /// If the queue size is not a power of two that holds the slots.
    pub fn new(function: &Arc<dyn Function>, spec: QueueSpec) -> Result<Self, BusError> {
        let QueueSpec {
            size,
            slots,
            request_len,
            result_len,
            large_slots,
            large_request_len,
            large_result_len,
        } = spec;
        assert!(size.is_power_of_two() && usize::from(slots) * 2 <= usize::from(size));

        let available_offset = descriptor_area_len(size);
        let requests_start =
            (available_offset + available_ring_len(size)).next_multiple_of(PAGE_LEN);
        let request_stride = request_len.next_multiple_of(64);
        let large_requests_start =
            (requests_start + usize::from(slots) * request_stride).next_multiple_of(PAGE_LEN);
        let large_request_stride = large_request_len.next_multiple_of(PAGE_LEN);

        let results_start = used_ring_len(size).next_multiple_of(PAGE_LEN);
        let result_stride = result_len.next_multiple_of(64);
        let large_results_start =
            (results_start + usize::from(slots) * result_stride).next_multiple_of(PAGE_LEN);
        let large_result_stride = large_result_len.next_multiple_of(PAGE_LEN);

        let device_reads = Shared::new(
            function,
            large_requests_start + usize::from(large_slots) * large_request_stride,
            Access::DeviceReads,
        )?;
        let device_writes = Shared::new(
            function,
            large_results_start + usize::from(large_slots) * large_result_stride,
            Access::DeviceWrites,
        )?;
        // Until somebody waits for interrupts, nobody wants them.
        device_reads
            .memory
            .store_u16_release(available_offset + RING_FLAGS, AVAILABLE_NO_INTERRUPT);
        let layout = |index: u16| Slot {
            in_flight: false,
            request: requests_start + usize::from(index) * request_stride,
            result: results_start + usize::from(index) * result_stride,
            result_len: 0,
            request_len: 0,
            large: None,
            described: [Descriptor::new_zeroed(); 2],
        };
        Ok(Self {
            spec,
            device_reads,
            device_writes,
            available_offset,
            slots: (0..slots).map(layout).collect(),
            free: (0..slots).rev().collect(),
            free_large: (0..large_slots).rev().collect(),
            in_flight: 0,
            available_index: 0,
            used_index: 0,
            device_used_index: 0,
            unannounced: false,
            doorbell: None,
        })
    }

    /// Queue size, in descriptors.
    #[must_use]
    pub const fn size(&self) -> u16 {
        self.spec.size
    }

    /// Requests that can be in flight.
    #[must_use]
    pub const fn slots(&self) -> u16 {
        self.spec.slots
    }

    /// Where the descriptor area is.
    #[must_use]
    pub const fn descriptor_area(&self) -> Iova {
        self.device_reads.iova
    }

    /// Where the driver area is.
    #[must_use]
    pub fn driver_area(&self) -> Iova {
        self.device_reads.iova.plus(self.available_offset)
    }

    /// Where the device area is.
    #[must_use]
    pub const fn device_area(&self) -> Iova {
        self.device_writes.iova
    }

    /// Sets the doorbell that tells the device of new requests.
    pub fn connect(&mut self, doorbell: Doorbell) {
        self.doorbell = Some(doorbell);
    }

    /// Requests the device has not done with.
    #[must_use]
    pub const fn in_flight(&self) -> u16 {
        self.in_flight
    }

    /// Whether a request and result of these lengths can ever be posted.
    #[must_use]
    pub const fn fits(&self, request_len: usize, result_len: usize) -> bool {
        let spec = &self.spec;
        let large = spec.large_slots > 0
            && request_len <= spec.large_request_len
            && result_len <= spec.large_result_len;
        large || (request_len <= spec.request_len && result_len <= spec.result_len)
    }

    /// Gives the device a request: the concatenation of `parts`, and room for `result_len` bytes,
    /// the last of which is set to a value that is no status, and the others to zero.
    ///
    /// # Errors
    ///
    /// [`Full`] until another request is released.
    ///
    /// # Panics
    ///
    /// If the request does not [fit](Self::fits).
    pub fn post(&mut self, parts: &[&[u8]], result_len: usize) -> Result<u16, Full> {
        let request_len = parts.iter().map(|part| part.len()).sum();
        assert!(self.fits(request_len, result_len) && result_len > 0);
        let large = request_len > self.spec.request_len || result_len > self.spec.result_len;
        if large && self.free_large.is_empty() {
            return Err(Full);
        }
        let index = self.free.pop().ok_or(Full)?;
        let mut slot = self.slots[usize::from(index)];
        slot.large = if large { self.free_large.pop() } else { None };
        slot.request_len = to_u32(request_len);
        slot.result_len = to_u32(result_len);
        slot.in_flight = true;

        let (request, result) = self.buffers(&slot);
        let mut end = request;
        for part in parts {
            self.device_reads.memory.write(end, part);
            end += part.len();
        }
        let status = result + result_len - 1;
        self.device_writes.memory.fill(result, result_len - 1, 0);
        self.device_writes.memory.write(status, &[UNWRITTEN_STATUS]);
        let descriptors =
            self.descriptors(index, request, to_u32(request_len), result, slot.result_len);
        if descriptors != slot.described {
            slot.described = descriptors;
            let offset = usize::from(index) * size_of_val(&descriptors);
            self.device_reads
                .memory
                .write(offset, descriptors.as_bytes());
        }
        self.slots[usize::from(index)] = slot;
        self.enqueue(index);
        Ok(index)
    }

    /// Shows the device what was posted, and rings unless it looks by itself. Until then it has
    /// not been told of it.
    ///
    /// # Errors
    ///
    /// [`BusError`] if the doorbell cannot be rung.
    pub fn announce(&mut self) -> Result<bool, BusError> {
        if !self.unannounced {
            return Ok(false);
        }
        // Once for all that was posted: each store takes the cache line away from a device that
        // looks at it. Released, so that a device that sees the index sees entries, descriptors
        // and requests as well.
        self.device_reads
            .memory
            .store_u16_release(self.available_offset + RING_INDEX, self.available_index);
        // The device clears its flag and then looks at the index once more; we store the index
        // and then look at the flag. Without a full barrier between the two, each could miss the
        // other (virtio 1.3 §2.7.10 "Available Buffer Notification Suppression").
        fence(Ordering::SeqCst);
        let flags = self.device_writes.memory.load_u16_acquire(RING_FLAGS);
        let wanted = flags & USED_NO_NOTIFY == 0;
        if wanted && let Some(doorbell) = &self.doorbell {
            doorbell.ring()?;
        }
        self.unannounced = false;
        Ok(wanted)
    }

    /// Takes the next request the device has done with.
    ///
    /// # Errors
    ///
    /// [`DeviceMisbehaved`] if the used ring says what cannot be. Nothing in it can be believed
    /// from then on.
    pub fn poll(&mut self) -> Result<Option<Used>, DeviceMisbehaved> {
        if self.used_index == self.device_used_index {
            self.device_used_index = self.device_writes.memory.load_u16_acquire(RING_INDEX);
            let moved = self.device_used_index.wrapping_sub(self.used_index);
            if moved > self.in_flight {
                return Err(DeviceMisbehaved::UsedIndexJumped {
                    moved,
                    in_flight: self.in_flight,
                });
            }
            if moved == 0 {
                return Ok(None);
            }
        }
        let element = self.used_element(self.used_index);
        let used = self.check(element)?;
        self.used_index = self.used_index.wrapping_add(1);
        self.slots[usize::from(used.slot)].in_flight = false;
        self.in_flight -= 1;
        Ok(Some(used))
    }

    /// Copies the start of a result out.
    ///
    /// # Panics
    ///
    /// If `buf` is longer than the result may be.
    pub fn read_result(&self, slot: u16, buf: &mut [u8]) {
        let slot = &self.slots[usize::from(slot)];
        assert!(to_u32(buf.len()) <= slot.result_len);
        let (_, result) = self.buffers(slot);
        self.device_writes.memory.read(result, buf);
    }

    /// Reads the last byte of the room for the result.
    #[must_use]
    pub fn read_last(&self, slot: u16) -> u8 {
        let slot = &self.slots[usize::from(slot)];
        let (_, result) = self.buffers(slot);
        let mut last = [0];
        let offset = result + slot.result_len as usize - 1;
        self.device_writes.memory.read(offset, &mut last);
        last[0]
    }

    /// Overwrites a request and its result with zeros, because they hold a key or plaintext.
    pub fn wipe(&self, slot: u16) {
        let slot = &self.slots[usize::from(slot)];
        let (request, result) = self.buffers(slot);
        self.device_reads
            .memory
            .fill(request, slot.request_len as usize, 0);
        self.device_writes
            .memory
            .fill(result, slot.result_len as usize, 0);
    }

    /// Overwrites the requests of all slots, because the device will not be asked any more.
    pub fn wipe_requests(&self) {
        for slot in &self.slots {
            let (request, _) = self.buffers(slot);
            self.device_reads
                .memory
                .fill(request, slot.request_len as usize, 0);
        }
    }

    /// Frees the slot of a request that [`Queue::poll`] gave.
    ///
    /// # Panics
    ///
    /// If the device still has it.
    pub fn release(&mut self, slot: u16) {
        let entry = &mut self.slots[usize::from(slot)];
        assert!(!entry.in_flight, "the device may still write to its buffer");
        self.free_large.extend(entry.large.take());
        self.free.push(slot);
    }

    /// Asks the device for an interrupt when it has done with the next request. Returns false if
    /// it already has.
    pub fn arm(&mut self) -> bool {
        let flags = self.available_offset + RING_FLAGS;
        self.device_reads.memory.store_u16_release(flags, 0);
        // As in `announce`, with the roles changed: we clear our flag, then look once more.
        fence(Ordering::SeqCst);
        let index = self.device_writes.memory.load_u16_acquire(RING_INDEX);
        index == self.used_index
    }

    /// Asks the device not to interrupt any more.
    pub fn disarm(&mut self) {
        let flags = self.available_offset + RING_FLAGS;
        self.device_reads
            .memory
            .store_u16_release(flags, AVAILABLE_NO_INTERRUPT);
    }

    fn check(&self, element: UsedElement) -> Result<Used, DeviceMisbehaved> {
        let (id, claimed) = (element.id.get(), element.len.get());
        let unknown = DeviceMisbehaved::CompletedUnknownRequest { id };
        if id % 2 != 0 {
            return Err(unknown);
        }
        let Ok(slot) = u16::try_from(id / 2) else {
            return Err(unknown);
        };
        match self.slots.get(usize::from(slot)) {
            Some(entry) if entry.in_flight => {
                if claimed > entry.result_len {
                    return Err(DeviceMisbehaved::OverclaimedLength {
                        claimed,
                        capacity: entry.result_len,
                    });
                }
            }
            _ => return Err(unknown),
        }
        Ok(Used { slot, len: claimed })
    }

    fn used_element(&self, index: u16) -> UsedElement {
        let position = self.position(index);
        let mut bytes = [0; size_of::<UsedElement>()];
        let offset = RING_ENTRIES + position * bytes.len();
        self.device_writes.memory.read(offset, &mut bytes);
        UsedElement::read_from_bytes(&bytes).expect("the array has the length of the element")
    }

    fn descriptors(
        &self,
        slot: u16,
        request: usize,
        request_len: u32,
        result: usize,
        result_len: u32,
    ) -> [Descriptor; 2] {
        let head = slot * 2;
        [
            Descriptor {
                addr: self.device_reads.iova.plus(request).0.into(),
                len: request_len.into(),
                flags: descriptor_flag::NEXT.into(),
                next: (head + 1).into(),
            },
            Descriptor {
                addr: self.device_writes.iova.plus(result).0.into(),
                len: result_len.into(),
                flags: descriptor_flag::WRITE.into(),
                next: 0.into(),
            },
        ]
    }

    fn enqueue(&mut self, slot: u16) {
        let position = self.position(self.available_index);
        let entry = self.available_offset + RING_ENTRIES + 2 * position;
        let head = slot * 2;
        self.device_reads.memory.write(entry, &head.to_le_bytes());
        self.available_index = self.available_index.wrapping_add(1);
        self.in_flight += 1;
        self.unannounced = true;
    }

    /// Which entry of a ring a free-running index means: the queue size is a power of two.
    fn position(&self, index: u16) -> usize {
        usize::from(index & (self.spec.size - 1))
    }

    fn buffers(&self, slot: &Slot) -> (usize, usize) {
        let Some(large) = slot.large else {
            return (slot.request, slot.result);
        };
        // Large buffers lie at the end, in strides of whole pages.
        let from_end = usize::from(self.spec.large_slots - large);
        let request_stride = self.spec.large_request_len.next_multiple_of(PAGE_LEN);
        let result_stride = self.spec.large_result_len.next_multiple_of(PAGE_LEN);
        (
            self.device_reads.memory.len() - from_end * request_stride,
            self.device_writes.memory.len() - from_end * result_stride,
        )
    }
}

/// What the status byte holds before the device has written it: no status at all.
pub(super) const UNWRITTEN_STATUS: u8 = 0xee;

fn to_u32(len: usize) -> u32 {
    u32::try_from(len).expect("buffers of a queue are far below 4 GiB")
}

/// Memory that a function can reach until this is dropped.
#[derive(Debug)]
struct Shared {
    function: Arc<dyn Function>,
    memory: Arc<Memory>,
    iova: Iova,
}

impl Shared {
    fn new(function: &Arc<dyn Function>, len: usize, access: Access) -> Result<Self, BusError> {
        let memory = Arc::new(Memory::new(len)?);
        let iova = function.share(&memory, access)?;
        Ok(Self {
            function: Arc::clone(function),
            memory,
            iova,
        })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Requests and results may be secret, and the other end may keep the memory mapped.
        self.memory.wipe();
        // It fails only where the function is gone, or will not answer. What the device may still
        // write to then are pages of this memfd: pinned for an IOMMU, or mapped by a process, they
        // stay what they are, whoever else has let go of them.
        let _ = self.function.unshare(self.iova);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::MockFunction;
    use proptest::prelude::*;

    pub(super) const SPEC: QueueSpec = QueueSpec {
        size: 8,
        slots: 4,
        request_len: 128,
        result_len: 64,
        large_slots: 1,
        large_request_len: 5000,
        large_result_len: 5000,
    };

    pub(super) fn queue() -> Queue {
        let mut function = MockFunction::new();
        let mut next = 0x10_0000;
        function.expect_share().returning(move |memory, _| {
            let iova = Iova(next);
            next += memory.len() as u64;
            Ok(iova)
        });
        function.expect_unshare().returning(|_| Ok(()));
        let function: Arc<dyn Function> = Arc::new(function);
        Queue::new(&function, SPEC).unwrap()
    }

    /// What a device would write: `element` behind the last one.
    fn complete(queue: &Queue, device_index: &mut u16, id: u32, len: u32) {
        let element = UsedElement {
            id: id.into(),
            len: len.into(),
        };
        let position = usize::from(*device_index % SPEC.size);
        let memory = &queue.device_writes.memory;
        memory.write(RING_ENTRIES + 8 * position, element.as_bytes());
        *device_index = device_index.wrapping_add(1);
        memory.store_u16_release(RING_INDEX, *device_index);
    }

    #[test]
    fn requests_come_back_in_the_order_the_device_finishes_them() {
        let mut queue = queue();
        let first = queue.post(&[b"ab", b"c"], 10).unwrap();
        let second = queue.post(&[b"d"], 10).unwrap();
        let mut index = 0;
        complete(&queue, &mut index, u32::from(second) * 2, 3);
        complete(&queue, &mut index, u32::from(first) * 2, 10);
        assert_eq!(
            queue.poll(),
            Ok(Some(Used {
                slot: second,
                len: 3
            }))
        );
        assert_eq!(
            queue.poll(),
            Ok(Some(Used {
                slot: first,
                len: 10
            }))
        );
        assert_eq!(queue.poll(), Ok(None));
    }

    #[test]
    fn the_status_byte_and_the_result_are_reset_before_each_request() {
        let mut queue = queue();
        let slot = queue.post(&[b"x"], 10).unwrap();
        let (_, result) = queue.buffers(&queue.slots[usize::from(slot)]);
        queue.device_writes.memory.write(result, &[0x55; 10]);
        complete(&queue, &mut 0, u32::from(slot) * 2, 10);
        queue.poll().unwrap();
        queue.release(slot);
        let again = queue.post(&[b"x"], 10).unwrap();
        assert_eq!(again, slot);
        let mut bytes = [0x77; 10];
        queue.read_result(slot, &mut bytes);
        assert_eq!(bytes, [0, 0, 0, 0, 0, 0, 0, 0, 0, UNWRITTEN_STATUS]);
    }

    #[test]
    fn a_duplicate_completion_is_caught() {
        let mut queue = queue();
        let slot = queue.post(&[b"x"], 1).unwrap();
        let _other = queue.post(&[b"y"], 1).unwrap();
        let mut index = 0;
        complete(&queue, &mut index, u32::from(slot) * 2, 1);
        complete(&queue, &mut index, u32::from(slot) * 2, 1);
        queue.poll().unwrap();
        let caught = DeviceMisbehaved::CompletedUnknownRequest {
            id: u32::from(slot) * 2,
        };
        assert_eq!(queue.poll(), Err(caught));
    }

    #[test]
    fn more_completions_than_requests_are_caught() {
        let mut queue = queue();
        queue.post(&[b"x"], 1).unwrap();
        queue.device_writes.memory.store_u16_release(RING_INDEX, 2);
        let jumped = DeviceMisbehaved::UsedIndexJumped {
            moved: 2,
            in_flight: 1,
        };
        assert_eq!(queue.poll(), Err(jumped));
    }

    #[test]
    fn an_overclaimed_length_is_caught() {
        let mut queue = queue();
        let slot = queue.post(&[b"x"], 10).unwrap();
        complete(&queue, &mut 0, u32::from(slot) * 2, 11);
        let overclaimed = DeviceMisbehaved::OverclaimedLength {
            claimed: 11,
            capacity: 10,
        };
        assert_eq!(queue.poll(), Err(overclaimed));
    }

    #[test]
    fn a_full_queue_says_so_and_a_released_slot_makes_room() {
        let mut queue = queue();
        for _ in 0..4 {
            queue.post(&[b"x"], 1).unwrap();
        }
        assert_eq!(queue.post(&[b"x"], 1), Err(Full));
        complete(&queue, &mut 0, 2, 1);
        queue.poll().unwrap();
        assert_eq!(queue.post(&[b"x"], 1), Err(Full));
        queue.release(1);
        assert_eq!(queue.post(&[b"x"], 1), Ok(1));
    }

    #[test]
    fn large_requests_take_a_large_buffer_and_give_it_back() {
        let mut queue = queue();
        let data = vec![7; 5000];
        assert!(queue.fits(5000, 5000) && !queue.fits(5001, 1));
        let slot = queue.post(&[&data], 5000).unwrap();
        assert_eq!(queue.post(&[&data], 1), Err(Full));
        let small = queue.post(&[b"x"], 1).unwrap();
        assert_ne!(small, slot);
        complete(&queue, &mut 0, u32::from(slot) * 2, 5000);
        queue.poll().unwrap();
        queue.release(slot);
        queue.post(&[&data], 5000).unwrap();
    }

    #[test]
    fn the_device_is_shown_all_that_was_posted_when_it_is_announced() {
        let mut queue = queue();
        let shown = |queue: &Queue| {
            let offset = queue.available_offset + RING_INDEX;
            queue.device_reads.memory.load_u16_acquire(offset)
        };
        queue.post(&[b"x"], 1).unwrap();
        queue.post(&[b"y"], 1).unwrap();
        assert_eq!(shown(&queue), 0);
        assert!(queue.announce().unwrap());
        assert_eq!(shown(&queue), 2);
        assert!(
            !queue.announce().unwrap(),
            "there is nothing new to announce"
        );
    }

    #[test]
    fn descriptors_follow_the_request_when_a_slot_is_used_again() {
        let mut queue = queue();
        let mut index = 0;
        for (request_len, result_len) in [(3, 9), (3, 9), (4, 9), (4, 8), (5000, 9), (4, 8)] {
            let slot = queue.post(&[&vec![7; request_len]], result_len).unwrap();
            let (request, result) = queue.buffers(&queue.slots[usize::from(slot)]);
            let mut bytes = [0; 2 * size_of::<Descriptor>()];
            let offset = usize::from(slot) * bytes.len();
            queue.device_reads.memory.read(offset, &mut bytes);
            let [reads, writes] = <[Descriptor; 2]>::read_from_bytes(&bytes).unwrap();
            assert_eq!(reads.addr.get(), queue.device_reads.iova.plus(request).0);
            assert_eq!(reads.len.get() as usize, request_len);
            assert_eq!(reads.flags.get(), descriptor_flag::NEXT);
            assert_eq!(reads.next.get(), slot * 2 + 1);
            assert_eq!(writes.addr.get(), queue.device_writes.iova.plus(result).0);
            assert_eq!(writes.len.get() as usize, result_len);
            assert_eq!(writes.flags.get(), descriptor_flag::WRITE);
            complete(&queue, &mut index, u32::from(slot) * 2, 1);
            queue.poll().unwrap();
            queue.release(slot);
        }
    }

    #[test]
    fn indices_wrap() {
        let mut queue = queue();
        let mut index = 0;
        for _ in 0..70_000_u32 {
            let slot = queue.post(&[b"x"], 1).unwrap();
            complete(&queue, &mut index, u32::from(slot) * 2, 1);
            assert_eq!(queue.poll(), Ok(Some(Used { slot, len: 1 })));
            queue.release(slot);
        }
    }

    #[test]
    fn a_key_is_wiped_from_shared_memory() {
        let mut queue = queue();
        let slot = queue.post(&[b"secret"], 1).unwrap();
        queue.wipe(slot);
        let (request, _) = queue.buffers(&queue.slots[usize::from(slot)]);
        let mut bytes = [1; 6];
        queue.device_reads.memory.read(request, &mut bytes);
        assert_eq!(bytes, [0; 6]);
    }

    #[test]
    fn arming_sees_what_has_already_happened() {
        let mut queue = queue();
        let slot = queue.post(&[b"x"], 1).unwrap();
        assert!(queue.arm());
        complete(&queue, &mut 0, u32::from(slot) * 2, 1);
        assert!(!queue.arm());
    }

    proptest! {
        /// Nothing in a used ring may panic, or yield a request that is not in flight.
        #[test]
        fn no_used_ring_makes_the_queue_believe_nonsense(
            ring in proptest::collection::vec(any::<u8>(), used_ring_len(8)),
            posted in 0_usize..=4,
        ) {
            let mut queue = queue();
            let slots: Vec<_> = (0..posted).map(|_| queue.post(&[b"x"], 16).unwrap()).collect();
            queue.device_writes.memory.write(0, &ring);
            let mut seen = Vec::new();
            while let Ok(Some(used)) = queue.poll() {
                prop_assert!(slots.contains(&used.slot) && !seen.contains(&used.slot));
                prop_assert!(used.len <= 16);
                seen.push(used.slot);
            }
            prop_assert!(seen.len() <= posted);
        }
    }
}
