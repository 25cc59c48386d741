//! Memory shared with a device.
//!
//! Memory is a sealed memfd, because a descriptor is what both ways of reaching a device can use:
//! VFIO maps it into the IOMMU, vfio-user passes it to the simulator. Nobody can resize it, so an
//! access inside `len` bytes can never fault.
//!
//! The device may read and write at any time. So there are no references into the memory, only
//! copies in and out; a caller that has to decide on a value copies it out first, and decides on
//! the copy.

#![expect(
    unsafe_code,
    reason = "memory that another process writes can only be reached through raw pointers"
)]

use super::BusError;
#[cfg(not(miri))]
use rustix::fs::{MemfdFlags, SealFlags, SeekFrom, fcntl_add_seals, ftruncate, memfd_create, seek};
#[cfg(not(miri))]
use rustix::io::Errno;
#[cfg(not(miri))]
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

/// Granularity of sharing, in bytes: what an IOMMU can map.
pub const PAGE_LEN: usize = 4096;

/// An address as the device sees it. Never a physical address, never a pointer.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Iova(pub u64);

impl Iova {
    /// The address `offset` bytes on.
    #[must_use]
    pub fn plus(self, offset: usize) -> Self {
        Self(self.0 + offset as u64)
    }
}

impl fmt::Display for Iova {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Memory that a device may read and write at any time.
///
/// # Panics
///
/// Every access panics if it is outside `0..self.len()`: offsets come from this code, never from
/// the device.
pub struct Memory {
    memfd: OwnedFd,
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone, and no method hands out a reference into it.
unsafe impl Send for Memory {}
// SAFETY: all accesses are volatile or atomic, so threads that race with each other, or with the
// device, read torn data at worst.
unsafe impl Sync for Memory {}

impl Memory {
    /// Allocates zeroed memory, `len` rounded up to whole pages.
    ///
    /// # Errors
    ///
    /// [`BusError::Os`] if the kernel has none to give.
    pub fn new(len: usize) -> Result<Self, BusError> {
        let len = len.max(1).next_multiple_of(PAGE_LEN);
        let (memfd, base) = map(len)?;
        Ok(Self { memfd, base, len })
    }

    /// Length in bytes, whole pages.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// The descriptor to hand to whoever serves the device.
    #[must_use]
    pub fn memfd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }

    /// Address of the memory in this process, for the kernel to map into the IOMMU.
    pub(super) fn address(&self) -> u64 {
        self.base.as_ptr().expose_provenance() as u64
    }

    /// Copies out. The device may be writing meanwhile; what was copied does not change any more.
    pub fn read(&self, offset: usize, buf: &mut [u8]) {
        let from = self.at(offset, buf.len());
        let (words, rest) = buf.as_chunks_mut::<8>();
        let rest_offset = words.len() * 8;
        for (index, word) in words.iter_mut().enumerate() {
            // SAFETY: inside the range that `at` checked.
            let source = unsafe { from.add(index * 8) }.cast::<u64>();
            // SAFETY: readable for eight bytes, as above; unaligned words are read as bytes.
            *word = unsafe { read_word(source) }.to_ne_bytes();
        }
        for (index, byte) in rest.iter_mut().enumerate() {
            // SAFETY: inside the range that `at` checked.
            let source = unsafe { from.add(rest_offset + index) };
            // SAFETY: readable for one byte, as above.
            *byte = unsafe { source.read_volatile() };
        }
    }

    /// Copies in.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        let to = self.at(offset, bytes.len());
        let (words, rest) = bytes.as_chunks::<8>();
        for (index, word) in words.iter().enumerate() {
            // SAFETY: inside the range that `at` checked.
            let target = unsafe { to.add(index * 8) }.cast::<u64>();
            // SAFETY: writable for eight bytes, as above; unaligned words are written as bytes.
            unsafe { write_word(target, u64::from_ne_bytes(*word)) };
        }
        for (index, byte) in rest.iter().enumerate() {
            // SAFETY: inside the range that `at` checked.
            let target = unsafe { to.add(words.len() * 8 + index) };
            // SAFETY: writable for one byte, as above.
            unsafe { target.write_volatile(*byte) };
        }
    }

    /// Sets `len` bytes to `value`.
    pub fn fill(&self, offset: usize, len: usize, value: u8) {
        const CHUNK_LEN: usize = 64;
        let chunk = [value; CHUNK_LEN];
        for start in (0..len).step_by(CHUNK_LEN) {
            let chunk_len = (len - start).min(CHUNK_LEN);
            self.write(offset + start, &chunk[..chunk_len]);
        }
    }

    /// Sets all of it to zero. Pages that nobody has written to are zero, and are not made for
    /// that: most of a queue's memory is for requests that never come.
    pub fn wipe(&self) {
        let mut offset = 0;
        while let Some((start, end)) = self.written_from(offset) {
            self.fill(start, end - start, 0);
            offset = end;
        }
    }

    /// The next stretch at or after `offset` that somebody has written to.
    #[cfg(not(miri))]
    fn written_from(&self, offset: usize) -> Option<(usize, usize)> {
        let within = |found| usize::try_from(found).map_or(self.len, |found| found.min(self.len));
        let find = |from| seek(&self.memfd, from).map(within);
        let start = match find(SeekFrom::Data(offset as u64)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return None,
            // A kernel that cannot tell.
            Err(_) => offset,
        };
        // Whoever serves the device may have had the kernel take the page away meanwhile; then there
        // is a hole at `start`, and no telling where the next one is.
        let end = find(SeekFrom::Hole(start as u64)).ok();
        let end = end.filter(|end| *end > start).unwrap_or(self.len);
        (start < end).then_some((start, end))
    }

    #[cfg(miri)]
    fn written_from(&self, offset: usize) -> Option<(usize, usize)> {
        (offset < self.len).then_some((offset, self.len))
    }

    /// Reads a 16-bit index of a ring. What the device wrote before it stored the index is
    /// visible afterwards.
    #[must_use]
    pub fn load_u16_acquire(&self, offset: usize) -> u16 {
        u16::from_le(self.atomic(offset).load(Ordering::Acquire))
    }

    /// Writes a 16-bit index of a ring. What was written before is visible to a device that
    /// reads the index.
    pub fn store_u16_release(&self, offset: usize, value: u16) {
        self.atomic(offset).store(value.to_le(), Ordering::Release);
    }

    fn atomic(&self, offset: usize) -> &AtomicU16 {
        #[cfg(test)]
        crate::model::step();
        let pointer = self.at(offset, size_of::<u16>()).cast::<u16>();
        assert!(pointer.is_aligned(), "ring indices are aligned");
        // SAFETY: aligned and inside the mapping, which outlives `self`; nobody in this process
        // accesses ring indices except through atomics or volatile copies of whole rings.
        unsafe { AtomicU16::from_ptr(pointer.as_ptr()) }
    }

    fn at(&self, offset: usize, len: usize) -> NonNull<u8> {
        let end = offset.checked_add(len);
        assert!(
            end.is_some_and(|end| end <= self.len),
            "{len} bytes at {offset} are outside DMA memory of {} bytes",
            self.len
        );
        // SAFETY: `offset` is at most `len`, as just asserted, so this stays in the mapping.
        unsafe { self.base.add(offset) }
    }
}

/// Makes a sealed memfd of `len` bytes and maps it.
#[cfg(not(miri))]
fn map(len: usize) -> Result<(OwnedFd, NonNull<u8>), BusError> {
    let memfd = memfd_create(
        c"hwshim-dma",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )
    .map_err(BusError::os("creating DMA memory"))?;
    ftruncate(&memfd, len as u64).map_err(BusError::os("sizing DMA memory"))?;
    fcntl_add_seals(
        &memfd,
        SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    )
    .map_err(BusError::os("sealing DMA memory"))?;
    // SAFETY: the kernel chooses an address that is free; `memfd` is `len` bytes long and
    // sealed against shrinking.
    let base = unsafe {
        mmap(
            std::ptr::null_mut(),
            len,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
            &memfd,
            0,
        )
    }
    .map_err(BusError::os("mapping DMA memory"))?;
    let base = NonNull::new(base.cast()).expect("the kernel does not map address zero");
    Ok((memfd, base))
}

/// Miri knows neither memfds nor shared mappings, and is to watch what is done with the memory. So
/// it gets some of the heap, and a descriptor that leads nowhere.
#[cfg(miri)]
fn map(len: usize) -> Result<(OwnedFd, NonNull<u8>), BusError> {
    let nowhere = std::fs::File::open("/dev/null").expect("Miri's isolation is off");
    // SAFETY: `len` is a page at least.
    let base = unsafe { std::alloc::alloc_zeroed(heap_layout(len)) };
    let base = NonNull::new(base).expect("a test needs little memory");
    Ok((nowhere.into(), base))
}

#[cfg(miri)]
fn heap_layout(len: usize) -> std::alloc::Layout {
    std::alloc::Layout::from_size_align(len, PAGE_LEN).expect("a page is a power of two")
}

/// # Safety
///
/// `source` must be readable for eight bytes.
unsafe fn read_word(source: NonNull<u64>) -> u64 {
    if source.is_aligned() {
        // SAFETY: aligned, and readable by this function's contract.
        return unsafe { source.read_volatile() };
    }
    // SAFETY: readable by this function's contract; a byte array needs no alignment.
    u64::from_ne_bytes(unsafe { source.cast::<[u8; 8]>().read_volatile() })
}

/// # Safety
///
/// `target` must be writable for eight bytes.
unsafe fn write_word(target: NonNull<u64>, value: u64) {
    if target.is_aligned() {
        // SAFETY: aligned, and writable by this function's contract.
        return unsafe { target.write_volatile(value) };
    }
    // SAFETY: writable by this function's contract; a byte array needs no alignment.
    unsafe {
        target.cast::<[u8; 8]>().write_volatile(value.to_ne_bytes());
    }
}

impl Drop for Memory {
    #[cfg(miri)]
    fn drop(&mut self) {
        // SAFETY: allocated by `map` with this layout, and nothing refers to it any more.
        unsafe { std::alloc::dealloc(self.base.as_ptr(), heap_layout(self.len)) };
    }

    #[cfg(not(miri))]
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this address and length, and nothing refers to it any
        // more. The kernel fails only for arguments that were never mapped.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_at_every_alignment() {
        let memory = Memory::new(1).unwrap();
        assert_eq!(memory.len(), PAGE_LEN);
        let pattern: Vec<u8> = (0..41).collect();
        for offset in 0..16 {
            memory.write(offset, &pattern);
            let mut read = vec![0; pattern.len()];
            memory.read(offset, &mut read);
            assert_eq!(read, pattern);
        }
        memory.fill(3, 100, 0xee);
        let mut read = [0; 102];
        memory.read(2, &mut read);
        assert_eq!((read[0], read[1], read[100], read[101]), (0, 0xee, 0xee, 0));
    }

    #[test]
    fn a_wipe_finds_what_was_written_wherever_it_is() {
        let memory = Memory::new(8 * PAGE_LEN).unwrap();
        let last = memory.len() - 1;
        let written = [1, 3 * PAGE_LEN - 1, 3 * PAGE_LEN, last];
        for offset in written {
            memory.write(offset, &[0xaa]);
        }
        memory.wipe();
        for offset in written {
            let mut byte = [0xff];
            memory.read(offset, &mut byte);
            assert_eq!(byte, [0], "at {offset}");
        }
        memory.wipe();
    }

    #[cfg(not(miri))]
    #[test]
    fn a_wipe_makes_no_page_that_was_not_there() {
        let pages = |memory: &Memory| rustix::fs::fstat(memory.memfd()).unwrap().st_blocks / 8;
        let memory = Memory::new(64 * PAGE_LEN).unwrap();
        memory.write(7 * PAGE_LEN, &[1]);
        let before = pages(&memory);
        memory.wipe();
        assert_eq!(pages(&memory), before);
    }

    #[test]
    fn ring_indices_are_little_endian() {
        let memory = Memory::new(1).unwrap();
        memory.store_u16_release(2, 0x1234);
        let mut bytes = [0; 2];
        memory.read(2, &mut bytes);
        assert_eq!(bytes, [0x34, 0x12]);
        assert_eq!(memory.load_u16_acquire(2), 0x1234);
    }

    #[cfg(not(miri))]
    #[test]
    fn nobody_can_shrink_it() {
        let memory = Memory::new(PAGE_LEN).unwrap();
        ftruncate(memory.memfd(), 0).unwrap_err();
    }

    #[test]
    #[should_panic(expected = "outside DMA memory")]
    fn an_access_past_the_end_is_our_own_mistake() {
        let memory = Memory::new(PAGE_LEN).unwrap();
        memory.read(PAGE_LEN - 1, &mut [0; 2]);
    }
}
