//! Which addresses a device has been given.
//!
//! Only the book-keeping: telling an IOMMU or a server is for whoever owns the space. Addresses
//! are handed out in rising order and only reused after all others, with a gap behind each range,
//! so that a device which runs past the end of its memory, or uses an address it no longer has,
//! meets nothing at all instead of somebody else's memory.

use super::dma::{Iova, PAGE_LEN};
use std::collections::BTreeMap;

/// The first address. The 4 GiB below hold, on every platform there is, things that must not be
/// mapped over: message-signalled interrupts (x86: `0xfee0_0000`), reserved firmware regions.
const START: u64 = 1 << 32;
/// One past the last address. 39 bits is what the narrowest IOMMU in use can translate.
const END: u64 = 1 << 39;
/// Unmapped bytes behind every range.
const GAP_LEN: u64 = 16 * PAGE_LEN as u64;

/// The address space of one function. Each range carries a `T`, which is kept alive by it.
#[derive(Debug)]
pub(super) struct IovaSpace<T> {
    ranges: BTreeMap<u64, Range<T>>,
    next: u64,
}

#[derive(Debug)]
struct Range<T> {
    len: u64,
    _held: T,
}

impl<T> IovaSpace<T> {
    pub(super) const fn new() -> Self {
        Self {
            ranges: BTreeMap::new(),
            next: START,
        }
    }

    /// Reserves `len` bytes, a whole number of pages. `None` if no gap is large enough.
    pub(super) fn reserve(&mut self, len: usize, held: T) -> Option<Iova> {
        let len = len as u64;
        let start = self
            .gap(self.next, END, len)
            .or_else(|| self.gap(START, END, len))?;
        self.next = start + len + GAP_LEN;
        self.ranges.insert(start, Range { len, _held: held });
        Some(Iova(start))
    }

    /// Length of the range that starts at `iova`.
    pub(super) fn len_of(&self, iova: Iova) -> Option<u64> {
        self.ranges.get(&iova.0).map(|range| range.len)
    }

    /// Frees the range that starts at `iova`. Only for ranges the device cannot reach any more.
    pub(super) fn release(&mut self, iova: Iova) {
        self.ranges.remove(&iova.0);
    }

    /// Bytes in use.
    pub(super) fn reserved_bytes(&self) -> u64 {
        self.ranges.values().map(|range| range.len).sum()
    }

    /// The first address at or after `from` with `len` free bytes and a gap behind them.
    fn gap(&self, from: u64, end: u64, len: u64) -> Option<u64> {
        let needed = len.checked_add(GAP_LEN)?;
        let mut start = from;
        for (&taken, range) in &self.ranges {
            if taken >= start && taken - start >= needed {
                break;
            }
            start = start.max(taken + range.len + GAP_LEN);
        }
        (end.saturating_sub(start) >= needed).then_some(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_do_not_touch_and_stay_inside_the_space() {
        let mut space = IovaSpace::new();
        let mut end = START;
        for pages in 1..100 {
            let len = pages * PAGE_LEN;
            let iova = space.reserve(len, ()).unwrap();
            assert!(iova.0 >= end && iova.0.is_multiple_of(PAGE_LEN as u64));
            end = iova.0 + len as u64 + GAP_LEN;
            assert!(end <= END);
        }
    }

    #[test]
    fn a_released_address_is_reused_only_when_all_others_were() {
        let mut space = IovaSpace::new();
        let half = usize::try_from((END - START) / 2 - GAP_LEN).unwrap();
        let first = space.reserve(half, ()).unwrap();
        space.release(first);
        let second = space.reserve(half, ()).unwrap();
        assert_ne!(first, second);
        assert_eq!(space.reserve(half, ()), Some(first));
        assert_eq!(space.reserve(PAGE_LEN, ()), None);
        assert_eq!(space.reserved_bytes(), 2 * half as u64);
    }

    #[test]
    fn a_range_that_is_passed_over_keeps_its_gap() {
        let mut space = IovaSpace::new();
        let kept = space.reserve(PAGE_LEN, ()).unwrap();
        let rest = END - START - PAGE_LEN as u64 - 2 * GAP_LEN;
        let rest = space.reserve(usize::try_from(rest).unwrap(), ()).unwrap();
        space.release(rest);
        let next = space.reserve(PAGE_LEN, ()).unwrap();
        assert_eq!(next.0, kept.0 + PAGE_LEN as u64 + GAP_LEN);
    }

    #[test]
    fn a_length_that_overflows_has_no_place() {
        assert_eq!(IovaSpace::new().reserve(usize::MAX, ()), None);
    }

    #[test]
    fn a_range_is_known_by_its_start_alone() {
        let mut space = IovaSpace::new();
        let iova = space.reserve(2 * PAGE_LEN, ()).unwrap();
        assert_eq!(space.len_of(iova), Some(2 * PAGE_LEN as u64));
        assert_eq!(space.len_of(iova.plus(PAGE_LEN)), None);
    }
}
