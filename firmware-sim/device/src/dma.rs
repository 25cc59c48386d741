//! The memory a driver has shared with the card: an interval map from IOVA to mapped files.
//!
//! It does not know what the memory means, and it never follows a pointer that the map does not
//! cover: an access outside it, or a write where the driver allowed only reads, is a
//! [`DmaFault`], as it would be in an IOMMU.
//!
//! Behind a virtual IOMMU a driver maps page by page, out of one file. So every distinct file is
//! mapped into this process once, as a whole, and a mapping is an offset into that:
//!
//! ```text
//!   IOVA      1000        2000        3000                 a000
//!             |--- A -----|--- B -----|                    |-- C --|   (no descriptor: unusable)
//!                  |            |
//!   file 1    [....|............v......................]   one mmap
//!                  v
//!   file 2    [.............]                              one mmap
//! ```
//!
//! A file that its owner shrinks afterwards takes this process down at the next access (SIGBUS):
//! drivers should seal theirs (`F_SEAL_SHRINK`), as ours and QEMU's memfd backend do.

use rustix::fs::{OFlags, fcntl_getfl, fstat};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

/// Most mappings a driver may have at once; the limit the kernel's VFIO has (`dma_entry_limit`).
pub const MAPPINGS_MAX: usize = 65_535;

/// What the driver allows the device to do with a mapping.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Access {
    /// The device may read.
    pub read: bool,
    /// The device may write.
    pub write: bool,
}

impl Access {
    const fn allows(self, write: bool) -> bool {
        if write { self.write } else { self.read }
    }
}

/// The file behind a mapping.
#[derive(Debug)]
pub struct Backing {
    /// The file.
    pub file: OwnedFd,
    /// Where in the file the mapping starts, in bytes.
    pub offset: u64,
}

/// A mapping was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// No bytes, or bytes beyond the end of the address space.
    #[error("{len:#x} bytes at {iova:#x} are no address range")]
    NoRange {
        /// First address.
        iova: u64,
        /// Length, in bytes.
        len: u64,
    },
    /// Part of the range is mapped already.
    #[error("{len:#x} bytes at {iova:#x} overlap an existing mapping")]
    Overlap {
        /// First address.
        iova: u64,
        /// Length, in bytes.
        len: u64,
    },
    /// The file is shorter than the mapping needs.
    #[error("the mapping ends at byte {end:#x} of a file of {file_len:#x} bytes")]
    BeyondFile {
        /// Where the mapping ends in the file.
        end: u64,
        /// Length of the file.
        file_len: u64,
    },
    /// The device may write, the descriptor may not.
    #[error("the device may write the mapping, but its descriptor is read-only")]
    ReadOnlyFile,
    /// [`MAPPINGS_MAX`] mappings exist.
    #[error("there are {MAPPINGS_MAX} mappings already")]
    TooMany,
    /// The kernel would not map the file.
    #[error("the descriptor cannot be mapped")]
    NotMappable(#[source] io::Error),
}

impl MapError {
    /// The errno that says the same to a client.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::NoRange { .. } | Self::BeyondFile { .. } => Errno::INVAL,
            Self::Overlap { .. } => Errno::EXIST,
            Self::ReadOnlyFile => Errno::ACCESS,
            Self::TooMany => Errno::NOSPC,
            Self::NotMappable(source) => Errno::from_io_error(source).unwrap_or(Errno::INVAL),
        }
    }
}

/// The device touched memory it was not given.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("DMA {} at {iova:#x} is not allowed by any mapping", if *.write { "write" } else { "read" })]
pub struct DmaFault {
    /// The first address that failed.
    pub iova: u64,
    /// Whether it was a write.
    pub write: bool,
}

#[derive(Debug)]
struct Mapping {
    iova: u64,
    len: u64,
    access: Access,
    /// What the mapping shows, and from where on; nothing if it came without a descriptor.
    memory: Option<(Arc<MmapRegion>, u64)>,
}

impl Mapping {
    /// The last address, which unlike the one behind it always fits.
    fn last(&self) -> u64 {
        self.iova + (self.len - 1)
    }

    /// Cuts off and returns what lies at and behind `iova`.
    fn split_off(&mut self, iova: u64) -> Self {
        let head_len = iova - self.iova;
        let tail = Self {
            iova,
            len: self.len - head_len,
            access: self.access,
            memory: self
                .memory
                .as_ref()
                .map(|(region, offset)| (Arc::clone(region), offset + head_len)),
        };
        self.len = head_len;
        tail
    }
}

/// A file mapped as a whole, for as long as a mapping shows part of it.
#[derive(Debug)]
struct MappedFile {
    device: u64,
    inode: u64,
    writable: bool,
    region: Weak<MmapRegion>,
}

/// All memory the driver has shared.
#[derive(Debug, Default)]
pub struct DmaMap {
    /// Sorted by address, without overlap.
    mappings: Vec<Mapping>,
    files: Vec<MappedFile>,
}

impl DmaMap {
    /// Starts with nothing shared.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of mappings.
    #[must_use]
    pub fn len(&self) -> usize {
        self.mappings.len()
    }

    /// Address and length of each piece of memory that may be written.
    pub(crate) fn writable(&self) -> Vec<(u64, u64)> {
        let writable = self.mappings.iter();
        let writable = writable.filter(|it| it.access.write && it.memory.is_some());
        writable.map(|it| (it.iova, it.len)).collect()
    }

    /// Shares `len` bytes at `iova`. Without a backing the range is taken but cannot be
    /// accessed; QEMU sends such mappings for ROMs.
    ///
    /// # Errors
    ///
    /// See [`MapError`]. Nothing is shared then.
    pub fn map(
        &mut self,
        iova: u64,
        len: u64,
        access: Access,
        backing: Option<Backing>,
    ) -> Result<(), MapError> {
        if len == 0 || iova.checked_add(len - 1).is_none() {
            return Err(MapError::NoRange { iova, len });
        }
        let last = iova + (len - 1);
        let index = self.first_ending_at_or_after(iova);
        if self
            .mappings
            .get(index)
            .is_some_and(|next| next.iova <= last)
        {
            return Err(MapError::Overlap { iova, len });
        }
        if self.mappings.len() >= MAPPINGS_MAX {
            return Err(MapError::TooMany);
        }
        let memory = match backing {
            None => None,
            Some(Backing { file, offset }) => Some((self.open(file, offset, len, access)?, offset)),
        };
        let mapping = Mapping {
            iova,
            len,
            access,
            memory,
        };
        self.mappings.insert(index, mapping);
        Ok(())
    }

    /// Takes back whatever is shared of `len` bytes at `iova`, in whatever pieces it was shared,
    /// and returns how many bytes that was.
    pub fn unmap(&mut self, iova: u64, len: u64) -> u64 {
        let Some(last) = len.checked_sub(1).map(|reach| iova.saturating_add(reach)) else {
            return 0;
        };
        self.split_at(iova);
        if let Some(behind) = last.checked_add(1) {
            self.split_at(behind);
        }
        let start = self.mappings.partition_point(|mapping| mapping.iova < iova);
        let end = self
            .mappings
            .partition_point(|mapping| mapping.iova <= last);
        self.mappings
            .drain(start..end)
            .map(|mapping| mapping.len)
            .fold(0, u64::saturating_add)
    }

    /// Takes everything back, and returns how many bytes that was.
    pub fn clear(&mut self) -> u64 {
        self.files.clear();
        self.mappings
            .drain(..)
            .map(|mapping| mapping.len)
            .fold(0, u64::saturating_add)
    }

    /// Reads memory.
    ///
    /// # Errors
    ///
    /// [`DmaFault`] where the driver does not allow it; what `buf` holds then is unspecified.
    pub fn read(&self, iova: u64, buf: &mut [u8]) -> Result<(), DmaFault> {
        let mut done = 0;
        while done < buf.len() {
            let at = iova.wrapping_add(done as u64);
            let piece = self.piece(at, buf.len() - done, false)?;
            done += piece.copy_to(&mut buf[done..]);
        }
        Ok(())
    }

    /// Writes memory.
    ///
    /// # Errors
    ///
    /// [`DmaFault`] where the driver does not allow it; bytes before that may have been written.
    pub fn write(&self, iova: u64, bytes: &[u8]) -> Result<(), DmaFault> {
        let mut done = 0;
        while done < bytes.len() {
            let at = iova.wrapping_add(done as u64);
            let piece = self.piece(at, bytes.len() - done, true)?;
            piece.copy_from(&bytes[done..]);
            done += piece.len();
        }
        Ok(())
    }

    /// Reads a ring index. What the driver wrote before it is visible afterwards.
    ///
    /// # Errors
    ///
    /// [`DmaFault`] if the driver does not allow it, or the address is odd.
    pub fn load_u16(&self, iova: u64) -> Result<u16, DmaFault> {
        let piece = self.piece(iova, size_of::<u16>(), false)?;
        let value: u16 = piece
            .load(0, Ordering::Acquire)
            .map_err(|_| DmaFault { iova, write: false })?;
        Ok(u16::from_le(value))
    }

    /// Writes a ring index. Whoever reads it sees what was written before.
    ///
    /// # Errors
    ///
    /// [`DmaFault`] if the driver does not allow it, or the address is odd.
    pub fn store_u16(&self, iova: u64, value: u16) -> Result<(), DmaFault> {
        let piece = self.piece(iova, size_of::<u16>(), true)?;
        piece
            .store(value.to_le(), 0, Ordering::Release)
            .map_err(|_| DmaFault { iova, write: true })
    }

    /// The memory at `iova`, as many of `len` bytes as are in one piece there, and at least one.
    fn piece(&self, iova: u64, len: usize, write: bool) -> Result<VolatileSlice<'_>, DmaFault> {
        let fault = DmaFault { iova, write };
        let mapping = self
            .mappings
            .get(self.first_ending_at_or_after(iova))
            .filter(|mapping| mapping.iova <= iova && mapping.access.allows(write))
            .ok_or(fault)?;
        let (region, start) = mapping.memory.as_ref().ok_or(fault)?;
        let into = iova - mapping.iova;
        let rest = usize::try_from(mapping.len - into).unwrap_or(usize::MAX);
        let offset = usize::try_from(start + into).map_err(|_| fault)?;
        region.get_slice(offset, len.min(rest)).map_err(|_| fault)
    }

    fn first_ending_at_or_after(&self, iova: u64) -> usize {
        self.mappings
            .partition_point(|mapping| mapping.last() < iova)
    }

    /// Makes sure that no mapping reaches across `iova`.
    fn split_at(&mut self, iova: u64) {
        let index = self.first_ending_at_or_after(iova);
        if let Some(mapping) = self.mappings.get_mut(index)
            && mapping.iova < iova
        {
            let tail = mapping.split_off(iova);
            self.mappings.insert(index + 1, tail);
        }
    }

    /// Finds the file among those mapped, or maps it.
    fn open(
        &mut self,
        file: OwnedFd,
        offset: u64,
        len: u64,
        access: Access,
    ) -> Result<Arc<MmapRegion>, MapError> {
        let os = |errno: Errno| MapError::NotMappable(errno.into());
        let stat = fstat(&file).map_err(os)?;
        let file_len = u64::try_from(stat.st_size).unwrap_or(0);
        let end = offset.saturating_add(len);
        if end > file_len {
            return Err(MapError::BeyondFile { end, file_len });
        }
        let mode = fcntl_getfl(file.as_fd()).map_err(os)? & OFlags::RWMODE;
        let writable = mode == OFlags::RDWR;
        if access.write && !writable {
            return Err(MapError::ReadOnlyFile);
        }
        self.files.retain(|known| known.region.strong_count() > 0);
        let known = self.files.iter().find_map(|known| {
            let same =
                (known.device, known.inode, known.writable) == (stat.st_dev, stat.st_ino, writable);
            // A file that has grown since is mapped anew, the old mapping lives with its users.
            let region = known.region.upgrade().filter(|_| same)?;
            (region.size() as u64 >= end).then_some(region)
        });
        if let Some(region) = known {
            return Ok(region);
        }
        let region = Arc::new(mmap(File::from(file), file_len, writable)?);
        self.files.push(MappedFile {
            device: stat.st_dev,
            inode: stat.st_ino,
            writable,
            region: Arc::downgrade(&region),
        });
        Ok(region)
    }
}

fn mmap(file: File, len: u64, writable: bool) -> Result<MmapRegion, MapError> {
    let too_long = |_| MapError::NotMappable(Errno::OVERFLOW.into());
    let len = usize::try_from(len).map_err(too_long)?;
    let protection = if writable {
        ProtFlags::READ | ProtFlags::WRITE
    } else {
        ProtFlags::READ
    };
    let flags = MapFlags::SHARED | MapFlags::NORESERVE;
    let bits = |bits: u32| i32::try_from(bits).expect("the kernel's flags are small");
    MmapRegion::build(
        Some(FileOffset::new(file, 0)),
        len,
        bits(protection.bits()),
        bits(flags.bits()),
    )
    .map_err(|error| MapError::NotMappable(io::Error::other(error)))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    pub(crate) const READ_WRITE: Access = Access {
        read: true,
        write: true,
    };
    const READ_ONLY: Access = Access {
        read: true,
        write: false,
    };

    pub(crate) fn memfd(len: u64) -> OwnedFd {
        let memfd = memfd_create(c"test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&memfd, len).unwrap();
        memfd
    }

    fn backing(file: &OwnedFd, offset: u64) -> Option<Backing> {
        Some(Backing {
            file: file.try_clone().unwrap(),
            offset,
        })
    }

    #[test]
    fn an_access_may_cross_mappings_that_touch() {
        let file = memfd(0x3000);
        let mut map = DmaMap::new();
        // The second page of IOVA space shows the first page of the file, and the other way round.
        map.map(0x1000, 0x1000, READ_WRITE, backing(&file, 0x1000))
            .unwrap();
        map.map(0x2000, 0x1000, READ_WRITE, backing(&file, 0))
            .unwrap();
        map.write(0x1ffe, &[1, 2, 3, 4]).unwrap();
        let mut read = [0; 4];
        map.read(0x1ffe, &mut read).unwrap();
        assert_eq!(read, [1, 2, 3, 4]);
        assert_eq!(map.load_u16(0x2000).unwrap(), 0x0403);
        assert_eq!(map.files.len(), 1, "one file is mapped once");
    }

    #[test]
    fn what_is_not_allowed_faults_at_the_first_bad_address() {
        let file = memfd(0x2000);
        let mut map = DmaMap::new();
        map.map(0x1000, 0x1000, READ_ONLY, backing(&file, 0))
            .unwrap();
        map.map(0x8000, 0x1000, READ_WRITE, None).unwrap();
        map.read(0x1000, &mut [0; 16]).unwrap();
        let fault = |iova, write| Err(DmaFault { iova, write });
        assert_eq!(map.write(0x1000, &[0]), fault(0x1000, true));
        assert_eq!(map.store_u16(0x1000, 1), fault(0x1000, true));
        assert_eq!(map.read(0x1ff8, &mut [0; 16]), fault(0x2000, false));
        assert_eq!(map.read(0x8000, &mut [0; 1]), fault(0x8000, false));
        assert_eq!(map.read(u64::MAX, &mut [0; 2]), fault(u64::MAX, false));
        assert!(map.load_u16(0x1001).is_err(), "odd address");
    }

    #[test]
    fn nonsense_is_refused_and_leaves_nothing_behind() {
        let file = memfd(0x1000);
        let mut map = DmaMap::new();
        let errno = |result: Result<(), MapError>| result.unwrap_err().errno();
        let mut try_map =
            |iova, len, offset| map.map(iova, len, READ_WRITE, backing(&file, offset));
        assert_eq!(errno(try_map(0, 0, 0)), Errno::INVAL);
        assert_eq!(errno(try_map(u64::MAX, 2, 0)), Errno::INVAL);
        assert_eq!(errno(try_map(0, 0x2000, 0)), Errno::INVAL);
        assert_eq!(errno(try_map(0, 0x1000, u64::MAX)), Errno::INVAL);
        try_map(0x1000, 0x1000, 0).unwrap();
        assert_eq!(errno(try_map(0x1fff, 1, 0)), Errno::EXIST);
        assert_eq!(errno(try_map(0xfff, 2, 0)), Errno::EXIST);
        try_map(0x2000, 1, 0).unwrap();
        assert_eq!(map.len(), 2);
    }

    #[test]
    fn a_read_only_descriptor_is_not_written_through() {
        let path = tempfile::NamedTempFile::new().unwrap();
        path.as_file().set_len(0x1000).unwrap();
        let file: OwnedFd = File::open(path.path()).unwrap().into();
        let mut map = DmaMap::new();
        let refused = map.map(0, 0x1000, READ_WRITE, backing(&file, 0));
        assert!(matches!(refused, Err(MapError::ReadOnlyFile)));
        map.map(0, 0x1000, READ_ONLY, backing(&file, 0)).unwrap();
        map.read(0, &mut [0; 8]).unwrap();
    }

    #[test]
    fn unmapping_may_cut_and_span_mappings() {
        let file = memfd(0x4000);
        let mut map = DmaMap::new();
        map.map(0x1000, 0x2000, READ_WRITE, backing(&file, 0))
            .unwrap();
        map.map(0x3000, 0x1000, READ_WRITE, backing(&file, 0x2000))
            .unwrap();
        map.write(0x2fff, &[7]).unwrap();
        assert_eq!(map.unmap(0x1800, 0x1000), 0x1000);
        assert_eq!(map.unmap(0x1800, 0x1000), 0);
        assert_eq!(
            map.read(0x1800, &mut [0]),
            Err(DmaFault {
                iova: 0x1800,
                write: false
            })
        );
        let mut kept = [0];
        map.read(0x2fff, &mut kept).unwrap();
        assert_eq!(kept, [7], "the tail still shows the same bytes");
        assert_eq!(map.unmap(0, u64::MAX), 0x2000);
        assert_eq!(map.len(), 0);
    }
}
