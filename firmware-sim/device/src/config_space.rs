//! PCI configuration space of the card.
//!
//! Bytes, which of them can be written, and which are cleared by writing ones: sizing a BAR by
//! writing ones and masking a vector follow from that. What a write sets off is told by
//! [`ConfigEffect`] and done by [`Card`](crate::Card). There is no power management capability:
//! the card has no power states to offer.
//!
//! ```text
//! 000 header              40 PCI Express   7c MSI-X   88 virtio: common, notify, ISR, device,
//! 100 AER                148 serial number                      PCI access, health page
//! ```

use crate::card::{BAR_LENS, Layout};
use card_spec::pci::{
    BARS_OFFSET, CONFIG_EXTENDED_LEN, CapabilityHeader, Command, ExpressCapability,
    ExtendedCapabilityHeader, Header, LinkCapabilities, LinkStatus, MsixCapability, MsixControl,
    STATUS_CAPABILITIES, capability, extended_capability,
};
use card_spec::virtio_pci::{
    Capability, HEALTH_VENDOR_ID, HealthCapability, NotifyCapability, VENDOR_ID, structure,
};
use card_spec::{crypto, health};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

const EXPRESS: usize = 0x40;
const MSIX: usize = 0x7c;
const COMMON: usize = 0x88;
const NOTIFY: usize = 0x98;
const ISR: usize = 0xac;
const DEVICE: usize = 0xbc;
const PCI_ACCESS: usize = 0xcc;
/// `pci_cfg_data`, the window of the PCI access capability (virtio 1.3 §4.1.4.9 "PCI
/// configuration access capability").
const PCI_ACCESS_WINDOW: usize = PCI_ACCESS + size_of::<Capability>();
const HEALTH: usize = 0xe0;
const AER: usize = 0x100;
const SERIAL_NUMBER: usize = 0x148;

/// Encryption controller, other (PCI Code and ID Assignment §1.17 "Base Class 10h").
const CLASS: [u8; 3] = [0x00, 0x80, 0x10];
const REVISION: u8 = 1;
/// Bit 15 of device control: initiate function level reset (PCIe Base §7.5.3.4 "Device Control
/// Register").
const INITIATE_FLR: u16 = 1 << 15;
/// Device capabilities: role-based error reporting and function level reset.
const DEVICE_CAPABILITIES: u32 = 1 << 15 | 1 << 28;
/// 16 GT/s, in the coding of the link registers.
pub(crate) const LINK_SPEED: u8 = 4;
pub(crate) const LINK_WIDTH: u8 = 8;

/// What a write to configuration space sets off.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct ConfigEffect {
    /// A function level reset was asked for.
    pub(crate) reset: bool,
    /// Bus mastering was turned on.
    pub(crate) may_have_work: bool,
    /// The function mask of MSI-X is now this.
    pub(crate) msix_masked: Option<bool>,
    /// The PCI access window was touched.
    pub(crate) window: Option<Window>,
}

/// An access to a BAR through configuration space.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Window {
    pub(crate) bar: u8,
    pub(crate) offset: u64,
    pub(crate) len: usize,
}

/// The 4 KiB of PCI Express configuration space.
#[derive(Debug)]
pub(crate) struct ConfigSpace {
    bytes: Vec<u8>,
    writable: Vec<u8>,
    write_1_to_clear: Vec<u8>,
}

impl ConfigSpace {
    pub(crate) fn new(layout: &Layout, vector_count: u16, serial_number: &str) -> Self {
        let zeros = || vec![0; CONFIG_EXTENDED_LEN];
        let mut space = Self {
            bytes: zeros(),
            writable: zeros(),
            write_1_to_clear: zeros(),
        };
        space.add_header();
        space.add_express();
        space.add_msix(layout, vector_count);
        space.add_virtio(layout);
        space.add_extended(serial_number);
        space
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    fn put(&mut self, offset: usize, value: &(impl IntoBytes + zerocopy::Immutable)) {
        let bytes = value.as_bytes();
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn allow(&mut self, offset: usize, mask: &[u8]) {
        self.writable[offset..offset + mask.len()].copy_from_slice(mask);
    }

    fn add_header(&mut self) {
        let mut header = Header::new_zeroed();
        header.vendor_id = U16::new(VENDOR_ID);
        header.device_id = U16::new(crypto::PCI_DEVICE_ID);
        header.status = U16::new(STATUS_CAPABILITIES);
        header.revision_id = REVISION;
        header.class_code = CLASS;
        header.subsystem_vendor_id = U16::new(VENDOR_ID);
        header.subsystem_id = U16::new(crypto::PCI_DEVICE_ID);
        header.capabilities_pointer = pointer(EXPRESS);
        self.put(0, &header);
        let command = Command::new()
            .with_memory_space(true)
            .with_bus_master(true)
            .with_interrupt_disable(true);
        self.allow(
            usize::from(card_spec::pci::COMMAND_OFFSET),
            &command.into_bits().to_le_bytes(),
        );
        for (index, len) in BAR_LENS.into_iter().enumerate() {
            let mask = card_spec::pci::bar::ADDRESS_MASK & 0_u32.wrapping_sub(len);
            self.allow(usize::from(BARS_OFFSET) + 4 * index, &mask.to_le_bytes());
        }
        // Cache line size and interrupt line are the system's notes.
        self.allow(0x0c, &[0xff]);
        self.allow(0x3c, &[0xff]);
    }

    fn add_express(&mut self) {
        /// Version 2, PCI Express endpoint.
        const CAPABILITIES: u16 = 0x0002;
        let link = LinkCapabilities::new()
            .with_max_link_speed(LINK_SPEED)
            .with_max_link_width(LINK_WIDTH);
        let link_status = LinkStatus::new()
            .with_current_link_speed(LINK_SPEED)
            .with_negotiated_link_width(LINK_WIDTH);
        let mut express = ExpressCapability::new_zeroed();
        express.header = listed(capability::PCI_EXPRESS, MSIX);
        express.capabilities = U16::new(CAPABILITIES);
        express.device_capabilities = U32::new(DEVICE_CAPABILITIES);
        express.link_capabilities = U32::new(link.into_bits());
        express.link_status = U16::new(link_status.into_bits());
        self.put(EXPRESS, &express);
        // Device control without the reset bit, which always reads zero; the error bits of
        // device status are cleared by writing ones.
        self.allow(EXPRESS + 8, &0x78ff_u16.to_le_bytes());
        self.write_1_to_clear[EXPRESS + 10] = 0x0f;
        // Link capabilities 2: speeds up to LINK_SPEED. Link control 2: the target speed.
        let supported_speeds = (2_u32 << LINK_SPEED) - 2;
        self.put(EXPRESS + 0x2c, &U32::new(supported_speeds));
        self.put(EXPRESS + 0x30, &U16::new(u16::from(LINK_SPEED)));
    }

    fn add_msix(&mut self, layout: &Layout, vector_count: u16) {
        let control = MsixControl::new().with_table_len_minus_one(vector_count - 1);
        self.put(
            MSIX,
            &MsixCapability {
                header: listed(capability::MSI_X, COMMON),
                control: U16::new(control.into_bits()),
                table: U32::new(layout.msix_table | u32::from(layout.msix_bar)),
                pending: U32::new(layout.msix_pending | u32::from(layout.msix_bar)),
            },
        );
        let writable = MsixControl::new()
            .with_enable(true)
            .with_function_mask(true);
        self.allow(MSIX + 2, &writable.into_bits().to_le_bytes());
    }

    fn add_virtio(&mut self, layout: &Layout) {
        let cap = |next: usize, cfg_type, offset: u32, length: u32| Capability {
            header: listed(capability::VENDOR_SPECIFIC, next),
            cap_len: u8::try_from(size_of::<Capability>()).expect("a capability is short"),
            cfg_type,
            bar: layout.virtio_bar,
            id: 0,
            padding: [0; 2],
            offset: U32::new(offset),
            length: U32::new(length),
        };
        let long = |mut cap: Capability| {
            cap.cap_len = u8::try_from(size_of::<NotifyCapability>()).expect("likewise");
            cap
        };
        self.put(
            COMMON,
            &cap(NOTIFY, structure::COMMON, layout.common, layout.common_len),
        );
        self.put(
            NOTIFY,
            &NotifyCapability {
                cap: long(cap(
                    ISR,
                    structure::NOTIFY,
                    layout.notify,
                    layout.notify_len,
                )),
                notify_off_multiplier: U32::new(layout.notify_multiplier),
            },
        );
        self.put(ISR, &cap(DEVICE, structure::ISR, layout.isr, 1));
        self.put(
            DEVICE,
            &cap(
                PCI_ACCESS,
                structure::DEVICE,
                layout.device,
                layout.device_len,
            ),
        );
        self.put(PCI_ACCESS, &long(cap(HEALTH, structure::PCI, 0, 0)));
        // BAR, offset and length of the window are the driver's to set.
        self.allow(PCI_ACCESS + 4, &[0xff]);
        self.allow(PCI_ACCESS + 8, &[0xff; 8]);
        self.put(
            HEALTH,
            &HealthCapability {
                header: listed(capability::VENDOR_SPECIFIC, 0),
                cap_len: u8::try_from(size_of::<HealthCapability>()).expect("likewise"),
                cfg_type: structure::VENDOR,
                vendor_id: U16::new(HEALTH_VENDOR_ID),
                bar: layout.health_bar,
                version: 1,
                offset: U32::new(0),
                length: U32::new(BAR_LENS[usize::from(layout.health_bar)]),
                magic: U32::new(health::MAGIC),
                reserved: U32::ZERO,
            },
        );
    }

    fn add_extended(&mut self, serial_number: &str) {
        let header = |id, next| {
            let header = ExtendedCapabilityHeader::new()
                .with_id(id)
                .with_version(1)
                .with_next(next);
            U32::new(header.into_bits())
        };
        let next = u16::try_from(SERIAL_NUMBER).expect("configuration space is small");
        self.put(AER, &header(extended_capability::AER, next));
        // PCIe Base §7.8.4 "Advanced Error Reporting": status registers clear by writing ones,
        // masks and severity are writable.
        for status in [AER + 0x04, AER + 0x10] {
            self.write_1_to_clear[status..status + 4].fill(0xff);
        }
        for register in [AER + 0x08, AER + 0x0c, AER + 0x14] {
            self.allow(register, &[0xff; 4]);
        }
        /// Severity after reset: link, flow control, overflow, malformed and internal are fatal.
        const SEVERITY: u32 = 0x0046_2030;
        self.put(AER + 0x0c, &U32::new(SEVERITY));
        self.put(
            SERIAL_NUMBER,
            &header(extended_capability::SERIAL_NUMBER, 0),
        );
        self.bytes[SERIAL_NUMBER + 4..SERIAL_NUMBER + 12]
            .copy_from_slice(&serial_as_eui64(serial_number));
    }

    fn field<T: FromBytes>(&self, offset: usize) -> T {
        let (value, _) = T::read_from_prefix(&self.bytes[offset..])
            .unwrap_or_else(|_| panic!("fields are inside configuration space"));
        value
    }

    /// Whether the function may read and write memory.
    pub(crate) fn is_bus_master(&self) -> bool {
        let command = self.field::<U16>(usize::from(card_spec::pci::COMMAND_OFFSET));
        Command::from_bits(command.get()).bus_master()
    }

    fn msix_control(&self) -> MsixControl {
        MsixControl::from_bits(self.field::<U16>(MSIX + 2).get())
    }

    /// Shows in MSI-X message control whether vectors are connected.
    pub(crate) fn set_msix_enabled(&mut self, enabled: bool) {
        let control = self.msix_control().with_enable(enabled);
        self.put(MSIX + 2, &U16::new(control.into_bits()));
    }

    /// Disables MSI-X, and lifts its function mask.
    pub(crate) fn reset_msix(&mut self) {
        let control = self.msix_control().with_enable(false);
        let control = control.with_function_mask(false);
        self.put(MSIX + 2, &U16::new(control.into_bits()));
    }

    /// Copies out; bytes behind the end read as all-ones.
    pub(crate) fn read(&self, offset: usize, buf: &mut [u8]) {
        buf.fill(0xff);
        crate::copy_overlap(0, &self.bytes, offset as u64, buf);
    }

    /// The BAR access that a read or write of `len` bytes at `offset` stands for, if it touches
    /// the window and the driver has set the window to something accessible.
    pub(crate) fn window(&self, offset: usize, len: usize) -> Option<Window> {
        let touched = offset < PCI_ACCESS_WINDOW + 4 && offset + len > PCI_ACCESS_WINDOW;
        let cap: Capability = self.field(PCI_ACCESS);
        let (at, width) = (cap.offset.get(), cap.length.get());
        let accessible = matches!(width, 1 | 2 | 4) && at.is_multiple_of(width);
        (touched && accessible).then(|| Window {
            bar: cap.bar,
            offset: u64::from(at),
            len: usize::try_from(width).expect("at most four"),
        })
    }

    /// Where the window is.
    pub(crate) const fn window_offset() -> usize {
        PCI_ACCESS_WINDOW
    }

    /// Writes what is writable.
    pub(crate) fn write(&mut self, offset: usize, bytes: &[u8]) -> ConfigEffect {
        let was_bus_master = self.is_bus_master();
        let mut reset = false;
        for (index, &byte) in bytes.iter().enumerate() {
            let at = offset.saturating_add(index);
            let Some(old) = self.bytes.get_mut(at) else {
                break;
            };
            let writable = self.writable[at];
            *old = *old & !writable | byte & writable;
            *old &= !(byte & self.write_1_to_clear[at]);
            let [_, flr] = INITIATE_FLR.to_le_bytes();
            reset |= at == EXPRESS + 9 && byte & flr != 0;
        }
        let msix = offset < MSIX + 4 && offset + bytes.len() > MSIX + 2;
        ConfigEffect {
            reset,
            may_have_work: self.is_bus_master() && !was_bus_master,
            msix_masked: msix.then(|| self.msix_control().function_mask()),
            window: self.window(offset, bytes.len()),
        }
    }
}

fn listed(id: u8, next: usize) -> CapabilityHeader {
    CapabilityHeader {
        id,
        next: pointer(next),
    }
}

fn pointer(offset: usize) -> u8 {
    u8::try_from(offset).expect("capabilities are in the first 256 bytes")
}

/// Eight bytes that differ between serial numbers, for the device serial number capability. It
/// holds an EUI-64 by rights, which takes an OUI that nobody here owns; so it is marked as
/// locally administered.
fn serial_as_eui64(serial_number: &str) -> [u8; 8] {
    // FNV-1a: any function that spreads well would do.
    let hash = serial_number
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    let mut bytes = hash.to_le_bytes();
    bytes[7] = bytes[7] & !0x01 | 0x02;
    bytes
}
