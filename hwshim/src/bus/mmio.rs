//! Writing to registers that are mapped into this process.
//!
//! Only doorbells are written this way. Everything else goes through the kernel or a socket,
//! which report that a function left the bus; a store to a mapped register cannot.

#![expect(
    unsafe_code,
    reason = "registers of a device are behind a mapping that only volatile accesses may touch"
)]

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::ffi::c_void;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{Ordering, fence};

/// Part of a BAR, mapped for writing.
#[derive(Debug)]
pub(super) struct MappedRegisters {
    base: NonNull<c_void>,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone, and no method hands out a reference into it.
unsafe impl Send for MappedRegisters {}
// SAFETY: every access is one volatile store; the device orders those that come at once.
unsafe impl Sync for MappedRegisters {}

impl MappedRegisters {
    /// Maps `len` bytes of a device's file, from `offset` on; both are multiples of the page size.
    pub(super) fn map(file: BorrowedFd<'_>, offset: u64, len: usize) -> Result<Self, Errno> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let anywhere = std::ptr::null_mut();
        // SAFETY: the kernel chooses an address that is free, so no memory in use is replaced.
        let base = unsafe { mmap(anywhere, len, protection, MapFlags::SHARED, file, offset) }?;
        let base = NonNull::new(base).expect("the kernel does not map address zero");
        Ok(Self { base, len })
    }

    /// Writes a 16-bit register, after everything written to memory before.
    ///
    /// # Panics
    ///
    /// If the register is not aligned, or not inside what is mapped: whoever mapped it checked.
    pub(super) fn write_u16(&self, offset: usize, value: u16) {
        assert!(
            offset.is_multiple_of(size_of::<u16>()) && self.len - size_of::<u16>() >= offset,
            "no 16-bit register at {offset} of {} mapped bytes",
            self.len
        );
        // SAFETY: `offset` is inside the mapping, as just asserted.
        let register = unsafe { self.base.byte_add(offset) }.cast::<u16>();
        // The device may look at the ring as soon as the register is written, so what is in the
        // ring has to be visible first. A release store would order memory, but not memory
        // against registers on every CPU.
        fence(Ordering::SeqCst);
        // SAFETY: inside the mapping, which lives as long as `self`; aligned, because the mapping
        // starts at a page and `offset` is even.
        unsafe { register.write_volatile(value.to_le()) };
    }
}

impl Drop for MappedRegisters {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this address and length, and nothing refers to it any
        // more. The kernel fails only for arguments that were never mapped.
        let _ = unsafe { munmap(self.base.as_ptr(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::dma::{Memory, PAGE_LEN};

    #[test]
    fn a_register_is_written_little_endian_where_it_was_asked_for() {
        let file = Memory::new(2 * PAGE_LEN).unwrap();
        let registers = MappedRegisters::map(file.memfd(), PAGE_LEN as u64, PAGE_LEN).unwrap();
        registers.write_u16(PAGE_LEN - 2, 0x0102);
        let mut bytes = [0; 2];
        file.read(2 * PAGE_LEN - 2, &mut bytes);
        assert_eq!(bytes, [2, 1]);
    }

    #[test]
    #[should_panic(expected = "no 16-bit register")]
    fn a_register_outside_the_mapping_is_our_own_mistake() {
        let file = Memory::new(PAGE_LEN).unwrap();
        let registers = MappedRegisters::map(file.memfd(), 0, PAGE_LEN).unwrap();
        registers.write_u16(PAGE_LEN, 0);
    }
}
