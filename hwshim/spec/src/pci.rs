//! PCI configuration space, and how to walk its capability lists without being led in circles.
//!
//! Numbers are those of the PCI Local Bus specification 3.0 §6.1 "Configuration Space
//! Organization" and the PCI Express Base specification; names follow `linux/pci_regs.h`.
//! Parsing only: reading the bytes is somebody else's work.

use bitfield_struct::bitfield;
use std::fmt;
use std::str::FromStr;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of conventional configuration space.
pub const CONFIG_LEN: usize = 256;
/// Bytes of PCI Express extended configuration space, the first 256 included.
pub const CONFIG_EXTENDED_LEN: usize = 4096;
/// Number of base address registers of a type 0 header.
pub const BAR_COUNT: usize = 6;
/// What a read of an absent function returns.
pub const VENDOR_NONE: u16 = 0xffff;

/// Address of a function on this host, `domain:bus:device.function`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Bdf {
    /// PCI domain (segment). Linux hands out more than 16 bits for some virtual buses.
    pub domain: u32,
    /// Bus number.
    pub bus: u8,
    /// Device number, 0 to 31.
    pub device: u8,
    /// Function number, 0 to 7.
    pub function: u8,
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            domain,
            bus,
            device,
            function,
        } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function}")
    }
}

/// Text is not a PCI address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ParseBdfError(String);

impl fmt::Display for ParseBdfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not a PCI address; write it as 0000:3b:00.0 (domain:bus:device.function, hexadecimal)",
            self.0
        )
    }
}

impl std::error::Error for ParseBdfError {}

impl FromStr for Bdf {
    type Err = ParseBdfError;

    /// Accepts `0000:3b:00.0`, and `3b:00.0` for domain zero.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (address, function) = text.rsplit_once('.')?;
            let mut fields = address.rsplit(':');
            let device = hex(fields.next()?, 2)?;
            let bus = hex(fields.next()?, 2)?;
            let domain = fields.next().map_or(Some(0), |domain| hex(domain, 8))?;
            let function = hex(function, 1)?;
            (fields.next().is_none() && device < 32 && function < 8).then_some(())?;
            Some(Self {
                domain,
                bus: u8::try_from(bus).ok()?,
                device: u8::try_from(device).ok()?,
                function: u8::try_from(function).ok()?,
            })
        };
        parse().ok_or_else(|| ParseBdfError(text.to_owned()))
    }
}

fn hex(digits: &str, len_max: usize) -> Option<u32> {
    let plausible = !digits.is_empty()
        && digits.len() <= len_max
        && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    plausible.then(|| u32::from_str_radix(digits, 16).ok())?
}

/// Type 0 configuration space header (PCI 3.0 §6.1 "Configuration Space Organization").
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Vendor ID; [`VENDOR_NONE`] when nothing answers.
    pub vendor_id: U16,
    /// Device ID.
    pub device_id: U16,
    /// See [`Command`].
    pub command: U16,
    /// See [`STATUS_CAPABILITIES`].
    pub status: U16,
    /// Revision ID.
    pub revision_id: u8,
    /// Programming interface, subclass and base class, in this order.
    pub class_code: [u8; 3],
    /// Cache line size, in 32-bit words.
    pub cache_line_size: u8,
    /// Latency timer.
    pub latency_timer: u8,
    /// Header layout in bits 6:0; bit 7 says the device has several functions.
    pub header_type: u8,
    /// Built-in self test.
    pub bist: u8,
    /// Base address registers.
    pub bars: [U32; BAR_COUNT],
    /// CardBus CIS pointer.
    pub cardbus_cis_pointer: U32,
    /// Subsystem vendor ID.
    pub subsystem_vendor_id: U16,
    /// Subsystem ID.
    pub subsystem_id: U16,
    /// Expansion ROM base address.
    pub expansion_rom_base: U32,
    /// Offset of the first capability.
    pub capabilities_pointer: u8,
    /// Reserved.
    pub reserved: [u8; 7],
    /// Interrupt line.
    pub interrupt_line: u8,
    /// Interrupt pin; 0 means none.
    pub interrupt_pin: u8,
    /// Minimum grant.
    pub min_grant: u8,
    /// Maximum latency.
    pub max_latency: u8,
}

const _: () = assert!(size_of::<Header>() == 64);

/// Offset of [`Header::command`] in configuration space.
pub const COMMAND_OFFSET: u16 = 0x04;
/// Where configuration space has revision ID and class code, which together are never all-ones in a
/// function that answers (PCI Local Bus 3.0 §6.2.1 "Device Identification"). The IDs before them may
/// be: virtual functions have none, and VFIO answers for them itself.
pub const REVISION_AND_CLASS_OFFSET: u16 = 8;
/// Length of revision ID and class code in bytes.
pub const REVISION_AND_CLASS_LEN: usize = 4;
/// Offset of [`Header::bars`] in configuration space.
pub const BARS_OFFSET: u16 = 0x10;
/// Offset of [`Header::capabilities_pointer`] in configuration space.
pub const CAPABILITIES_POINTER_OFFSET: usize = 0x34;
/// First offset a capability may have: what lies before is the header.
pub const CAPABILITIES_START: usize = 0x40;
/// First offset of extended capabilities.
pub const EXTENDED_CAPABILITIES_START: usize = 0x100;

/// `PCI_STATUS_CAP_LIST`: the function has a capability list.
pub const STATUS_CAPABILITIES: u16 = 0x10;

/// Command register (PCI 3.0 §6.2.2 "Device Control").
#[bitfield(u16)]
pub struct Command {
    /// The function answers I/O space accesses.
    pub io_space: bool,
    /// The function answers memory space accesses.
    pub memory_space: bool,
    /// The function may master the bus, which is what DMA and MSI need.
    pub bus_master: bool,
    #[bits(7)]
    __: u8,
    /// The function must not assert INTx.
    pub interrupt_disable: bool,
    #[bits(5)]
    __: u8,
}

/// Bits of a memory base address register below the address.
pub mod bar {
    /// The register maps I/O space.
    pub const IO: u32 = 0x1;
    /// The memory type field.
    pub const TYPE_MASK: u32 = 0x6;
    /// Memory type: 64-bit, the next register holds the upper half.
    pub const TYPE_64: u32 = 0x4;
    /// Prefetchable.
    pub const PREFETCHABLE: u32 = 0x8;
    /// Address bits of a memory register.
    pub const ADDRESS_MASK: u32 = 0xffff_fff0;
}

/// Capability IDs (PCI Code and ID Assignment §2 "Capability IDs").
pub mod capability {
    /// Power management.
    pub const POWER_MANAGEMENT: u8 = 0x01;
    /// Vendor specific; virtio puts its structures here.
    pub const VENDOR_SPECIFIC: u8 = 0x09;
    /// PCI Express.
    pub const PCI_EXPRESS: u8 = 0x10;
    /// MSI-X.
    pub const MSI_X: u8 = 0x11;
}

/// Extended capability IDs (PCI Code and ID Assignment §3 "Extended Capability IDs").
pub mod extended_capability {
    /// Advanced error reporting.
    pub const AER: u16 = 0x0001;
    /// Device serial number.
    pub const SERIAL_NUMBER: u16 = 0x0003;
}

/// First two bytes of every capability.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CapabilityHeader {
    /// See [`capability`].
    pub id: u8,
    /// Offset of the next capability; 0 ends the list.
    pub next: u8,
}

const _: () = assert!(size_of::<CapabilityHeader>() == 2);

/// MSI-X capability (PCI 3.0 §6.8.2 "MSI-X Capability and Table Structures").
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct MsixCapability {
    /// Capability header, ID [`capability::MSI_X`].
    pub header: CapabilityHeader,
    /// See [`MsixControl`].
    pub control: U16,
    /// Table offset in bits 31:3, BAR index in bits 2:0.
    pub table: U32,
    /// Pending bit array offset in bits 31:3, BAR index in bits 2:0.
    pub pending: U32,
}

const _: () = assert!(size_of::<MsixCapability>() == 12);

/// MSI-X message control.
#[bitfield(u16)]
pub struct MsixControl {
    /// Number of vectors, less one.
    #[bits(11)]
    pub table_len_minus_one: u16,
    #[bits(3)]
    __: u8,
    /// All vectors are masked.
    pub function_mask: bool,
    /// MSI-X is in use.
    pub enable: bool,
}

/// One entry of the MSI-X table.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct MsixTableEntry {
    /// Message address.
    pub address_low: U32,
    /// Message address, upper half.
    pub address_high: U32,
    /// Message data.
    pub data: U32,
    /// Bit 0: masked.
    pub vector_control: U32,
}

const _: () = assert!(size_of::<MsixTableEntry>() == 16);

/// PCI Express capability up to the link registers (PCIe Base §7.5.3 "PCI Express Capability
/// Structure").
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ExpressCapability {
    /// Capability header, ID [`capability::PCI_EXPRESS`].
    pub header: CapabilityHeader,
    /// Version in bits 3:0, device/port type in bits 7:4.
    pub capabilities: U16,
    /// Device capabilities; bit 28 says function level reset is offered.
    pub device_capabilities: U32,
    /// Device control.
    pub device_control: U16,
    /// Device status.
    pub device_status: U16,
    /// See [`LinkCapabilities`].
    pub link_capabilities: U32,
    /// Link control.
    pub link_control: U16,
    /// See [`LinkStatus`].
    pub link_status: U16,
}

const _: () = assert!(size_of::<ExpressCapability>() == 20);

/// Link capabilities.
#[bitfield(u32)]
pub struct LinkCapabilities {
    /// Fastest speed: 1 = 2.5 GT/s, 2 = 5, 3 = 8, 4 = 16, 5 = 32, 6 = 64.
    #[bits(4)]
    pub max_link_speed: u8,
    /// Widest width, in lanes.
    #[bits(6)]
    pub max_link_width: u8,
    #[bits(22)]
    __: u32,
}

/// Link status.
#[bitfield(u16)]
pub struct LinkStatus {
    /// Speed in use, coded as in [`LinkCapabilities::max_link_speed`].
    #[bits(4)]
    pub current_link_speed: u8,
    /// Width in use, in lanes.
    #[bits(6)]
    pub negotiated_link_width: u8,
    #[bits(6)]
    __: u8,
}

/// First four bytes of every extended capability (PCIe Base §7.6.3 "PCI Express Extended
/// Capability Header").
#[bitfield(u32)]
pub struct ExtendedCapabilityHeader {
    /// See [`extended_capability`].
    pub id: u16,
    /// Version of the structure.
    #[bits(4)]
    pub version: u8,
    /// Offset of the next extended capability; 0 ends the list.
    #[bits(12)]
    pub next: u16,
}

/// Something is wrong with a capability list.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum CapabilityError {
    /// The list points into the header or behind the end of configuration space.
    OffsetOutOfRange {
        /// Where it points.
        offset: usize,
    },
    /// The list visits more entries than configuration space can hold.
    Loop {
        /// Where it was when the count ran out.
        offset: usize,
    },
    /// The entry ends behind configuration space.
    Truncated {
        /// Where the entry starts.
        offset: usize,
    },
}

impl fmt::Display for CapabilityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OffsetOutOfRange { offset } => {
                write!(
                    f,
                    "capability list points outside its space, at {offset:#05x}"
                )
            }
            Self::Loop { offset } => {
                write!(f, "capability list runs in a circle through {offset:#05x}")
            }
            Self::Truncated { offset } => {
                write!(
                    f,
                    "capability at {offset:#05x} is cut off by the end of configuration space"
                )
            }
        }
    }
}

impl std::error::Error for CapabilityError {}

/// One entry of a capability list: where it starts, its ID, and the bytes from there on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Capability<'a> {
    /// Offset in configuration space.
    pub offset: usize,
    /// Capability ID; extended lists have 16-bit IDs.
    pub id: u16,
    /// Bytes from the capability's own header to the end of its space.
    pub bytes: &'a [u8],
}

impl<'a> Capability<'a> {
    /// Reads the capability as a `T`.
    ///
    /// # Errors
    ///
    /// [`CapabilityError::Truncated`] if configuration space ends before `T` does.
    pub fn read<T: FromBytes>(&self) -> Result<T, CapabilityError> {
        T::read_from_prefix(self.bytes)
            .map(|(value, _)| value)
            .map_err(|_| CapabilityError::Truncated {
                offset: self.offset,
            })
    }
}

/// Walks the capability list of `config`, which may be shorter than 256 bytes.
///
/// Ends after the first error, and always ends: an entry is at least four bytes, so more
/// than 48 of them must be a loop.
pub fn capabilities(
    config: &[u8],
) -> impl Iterator<Item = Result<Capability<'_>, CapabilityError>> {
    const ENTRIES_MAX: usize = (CONFIG_LEN - CAPABILITIES_START) / 4;
    let space = &config[..config.len().min(CONFIG_LEN)];
    let listed = Header::read_from_prefix(space)
        .is_ok_and(|(header, _)| header.status.get() & STATUS_CAPABILITIES != 0);
    let first = match space.get(CAPABILITIES_POINTER_OFFSET) {
        Some(&pointer) if listed => usize::from(pointer & 0xfc),
        _ => 0,
    };
    let step = move |offset: usize| {
        if offset < CAPABILITIES_START {
            return Err(CapabilityError::OffsetOutOfRange { offset });
        }
        let bytes = space.get(offset..).unwrap_or_default();
        let (header, _) = CapabilityHeader::read_from_prefix(bytes)
            .map_err(|_| CapabilityError::Truncated { offset })?;
        let entry = Capability {
            offset,
            id: u16::from(header.id),
            bytes,
        };
        Ok((entry, usize::from(header.next & 0xfc)))
    };
    walk(first, ENTRIES_MAX, step)
}

/// Walks the extended capability list of `config`.
///
/// Yields nothing when `config` holds only conventional space, as sysfs gives an
/// unprivileged reader.
pub fn extended_capabilities(
    config: &[u8],
) -> impl Iterator<Item = Result<Capability<'_>, CapabilityError>> {
    const ENTRIES_MAX: usize = (CONFIG_EXTENDED_LEN - EXTENDED_CAPABILITIES_START) / 8;
    let space = &config[..config.len().min(CONFIG_EXTENDED_LEN)];
    let empty = matches!(
        space.get(EXTENDED_CAPABILITIES_START..EXTENDED_CAPABILITIES_START + 4),
        None | Some([0, 0, 0, 0] | [0xff, 0xff, 0xff, 0xff])
    );
    let first = if empty {
        0
    } else {
        EXTENDED_CAPABILITIES_START
    };
    let step = move |offset: usize| {
        if offset < EXTENDED_CAPABILITIES_START {
            return Err(CapabilityError::OffsetOutOfRange { offset });
        }
        let bytes = space.get(offset..).unwrap_or_default();
        let (header, _) =
            U32::read_from_prefix(bytes).map_err(|_| CapabilityError::Truncated { offset })?;
        let header = ExtendedCapabilityHeader::from_bits(header.get());
        let entry = Capability {
            offset,
            id: header.id(),
            bytes,
        };
        Ok((entry, usize::from(header.next() & 0xffc)))
    };
    walk(first, ENTRIES_MAX, step)
}

fn walk<'a>(
    first: usize,
    entries_max: usize,
    step: impl Fn(usize) -> Result<(Capability<'a>, usize), CapabilityError>,
) -> impl Iterator<Item = Result<Capability<'a>, CapabilityError>> {
    let mut next = first;
    let mut visited = 0;
    std::iter::from_fn(move || {
        let offset = next;
        if offset == 0 {
            return None;
        }
        visited += 1;
        let outcome = if visited > entries_max {
            Err(CapabilityError::Loop { offset })
        } else {
            step(offset)
        };
        next = outcome.as_ref().map_or(0, |(_, next)| *next);
        Some(outcome.map(|(entry, _)| entry))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config_with(entries: &[(usize, [u8; 4])]) -> Vec<u8> {
        let mut config = vec![0; CONFIG_LEN];
        config[0x06] = 0x10;
        config[0x34] = u8::try_from(entries[0].0).unwrap();
        for (offset, bytes) in entries {
            config[*offset..*offset + 4].copy_from_slice(bytes);
        }
        config
    }

    #[test]
    fn a_list_is_walked_in_its_own_order() {
        let config = config_with(&[(0x80, [0x11, 0x40, 1, 2]), (0x40, [0x09, 0, 3, 4])]);
        let found: Vec<_> = capabilities(&config)
            .map(|entry| entry.map(|entry| (entry.offset, entry.id)))
            .collect();
        assert_eq!(found, [Ok((0x80, 0x11)), Ok((0x40, 0x09))]);
    }

    #[test]
    fn a_circle_ends_with_an_error() {
        let config = config_with(&[(0x40, [0x09, 0x44, 0, 0]), (0x44, [0x09, 0x40, 0, 0])]);
        let last = capabilities(&config).last().unwrap();
        assert!(matches!(last, Err(CapabilityError::Loop { .. })));
        assert!(capabilities(&config).count() <= 49);
    }

    #[test]
    fn a_pointer_into_the_header_is_an_error() {
        let config = config_with(&[(0x20, [0; 4])]);
        let found: Vec<_> = capabilities(&config).collect();
        assert_eq!(
            found,
            [Err(CapabilityError::OffsetOutOfRange { offset: 0x20 })]
        );
    }

    #[test]
    fn a_truncated_space_is_an_error_not_a_panic() {
        let config = config_with(&[(0xfc, [0x11, 0, 0, 0])]);
        for len in 0..config.len() {
            let _ = capabilities(&config[..len]).count();
            let _ = extended_capabilities(&config[..len]).count();
        }
        let cut = capabilities(&config[..0xfd]).next().unwrap();
        assert_eq!(cut, Err(CapabilityError::Truncated { offset: 0xfc }));
    }

    #[test]
    fn addresses_are_read_and_written_as_linux_writes_them() {
        let bdf: Bdf = "0000:3b:00.1".parse().unwrap();
        assert_eq!((bdf.bus, bdf.function), (0x3b, 1));
        assert_eq!(bdf.to_string(), "0000:3b:00.1");
        assert_eq!("3b:00.1".parse(), Ok(bdf));
        assert_eq!(
            "10000:e1:1f.7".parse::<Bdf>().unwrap().to_string(),
            "10000:e1:1f.7"
        );
        for wrong in [
            "",
            "3b",
            "0000:3b:20.0",
            "0000:3b:00.8",
            "0000:3b:00.",
            "g:3b:00.0",
            "0:0:3b:00.0",
            "+1:00.0",
        ] {
            assert!(wrong.parse::<Bdf>().is_err(), "{wrong}");
        }
    }
}
