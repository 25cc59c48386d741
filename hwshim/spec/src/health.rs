//! The health page of a card: what it says of itself, in 4 KiB of a BAR.
//!
//! No standard has such a page, so this one borrows: names and meaning of the status registers
//! and the log are NVMe's (NVM Express Base 2.0, `CSTS`, SMART / Health Information), error bits
//! and header log are PCIe AER's (PCIe Base §7.8.4 "Advanced Error Reporting Extended
//! Capability"), LED bits are NPEM's (§7.9.19 "Native PCIe Enclosure Management"), the heartbeat
//! pairs are those of Intel QAT's firmware. A card announces it with
//! [`crate::virtio_pci::HealthCapability`].
//!
//! The page is meant to be *trapped*, not mapped into the reader: only then does a read of a
//! dead card give all-ones instead of the last values.
//!
//! ```text
//! 000 +-----------------------------+
//!     | identity, status, heartbeat |  single registers
//! 07c +-----------------------------+
//!     | STATS_GEN, statistics, ids  |  consistent while STATS_GEN is even and unchanged
//! 140 +-----------------------------+
//!     | errors                      |
//! 180 +-----------------------------+
//!     | LED, its last 29 edges      |
//! 200 +-----------------------------+
//!     | error log, 16 entries of 64 |
//! 640 +-----------------------------+
//! ```

use bitfield_struct::bitfield;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// "HWS1", first word of the page.
pub const MAGIC: u32 = u32::from_le_bytes(*b"HWS1");
/// What a trapped read of a card that is gone returns, in every word.
pub const GONE: u32 = u32::MAX;
/// Version of the layout, major in the upper half. Minor version 1 has added the log of the
/// light's edges.
pub const VERSION: u32 = 0x0001_0001;
/// Length of the page, in bytes.
pub const PAGE_LEN: usize = 4096;
/// Engines a page has heartbeat pairs for.
pub const ENGINES_MAX: usize = 19;
/// Temperature sensors a page has room for.
pub const TEMPERATURE_SENSORS_MAX: usize = 8;
/// Entries of the log of the light's edges.
pub const LED_EDGES_MAX: usize = 29;
/// Entries of the error log.
pub const ERROR_LOG_ENTRIES: usize = 16;
/// Where the error log's entries start.
pub const ERROR_LOG_OFFSET: usize = 0x240;
/// Bytes that hold everything but the error log.
pub const SUMMARY_LEN: usize = 0x200;

/// Everything but the error log: bytes 0 to 0x1ff of the page.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Summary {
    /// `MAGIC`, see [`MAGIC`] and [`GONE`].
    pub magic: U32,
    /// `VS`, see [`VERSION`].
    pub version: U32,
    /// `CAP`, see [`Capabilities`].
    pub capabilities: U64,
    /// `CSTS`, see [`ControllerStatus`].
    pub controller_status: U32,
    /// `CC`: bit 0 enables reporting.
    pub controller_configuration: U32,
    /// `BOOT_ID`: drawn anew each time the firmware starts. Another value means that all
    /// sessions are gone.
    pub boot_id: U32,
    /// `RESET_CNT`: resets since power-on, whoever asked for them.
    pub reset_count: U32,
    /// `HB_PERIOD_MS`: time between two beats, in milliseconds.
    pub heartbeat_period_ms: U32,
    /// `HB_COUNT`: beats since the firmware started; never all-ones.
    pub heartbeat_count: U32,
    /// `UPTIME_MS`: time since the firmware started, in milliseconds.
    pub uptime_ms: U64,
    /// `HB_CTR`: one pair per engine.
    pub engines: [EngineHeartbeat; ENGINES_MAX],
    /// `STATS_GEN`: odd while the fields from here to [`Self::reserved_128`] are being changed.
    pub statistics_generation: U32,
    /// `critical_warning`, see [`CriticalWarning`].
    pub critical_warning: u8,
    /// Reserved.
    pub reserved_81: u8,
    /// Composite temperature, in kelvin; 0 means not measured.
    pub composite_temperature_k: U16,
    /// Temperature above which the card warns, in kelvin.
    pub warning_temperature_k: U16,
    /// Temperature above which the card stops, in kelvin.
    pub critical_temperature_k: U16,
    /// Single sensors, in kelvin; 0 means absent.
    pub temperature_sensors_k: [U16; TEMPERATURE_SENSORS_MAX],
    /// Power cycles.
    pub power_cycles: U32,
    /// Hours in operation.
    pub power_on_hours: U32,
    /// Power losses without notice.
    pub unsafe_shutdowns: U32,
    /// Entries ever written to the error log.
    pub error_log_entries: U32,
    /// Minutes above the warning temperature.
    pub warning_temperature_minutes: U32,
    /// Minutes above the critical temperature.
    pub critical_temperature_minutes: U32,
    /// Data requests answered with status OK.
    pub requests_ok: U64,
    /// Data requests answered with any other status.
    pub requests_failed: U64,
    /// Result of the self-test at start: 0 passed, otherwise the number of the failing test.
    pub selftest_status: U32,
    /// Reserved.
    pub reserved_c4: [u8; 12],
    /// Firmware revision, ASCII, padded with spaces.
    pub firmware_revision: [u8; 8],
    /// Firmware build number.
    pub firmware_build: U64,
    /// Serial number, ASCII, padded with spaces.
    pub serial_number: [u8; 20],
    /// Reserved.
    pub reserved_f4: [u8; 12],
    /// Model number, ASCII, padded with spaces.
    pub model_number: [u8; 40],
    /// Reserved.
    pub reserved_128: [u8; 24],
    /// `UNCOR_STATUS`: uncorrectable errors, see [`uncorrectable`]; write 1 to clear.
    pub uncorrectable_status: U32,
    /// `UNCOR_MASK`: errors not reported.
    pub uncorrectable_mask: U32,
    /// `UNCOR_SEVER`: errors that are fatal.
    pub uncorrectable_severity: U32,
    /// `COR_STATUS`: correctable errors; write 1 to clear.
    pub correctable_status: U32,
    /// `COR_MASK`: correctable errors not reported.
    pub correctable_mask: U32,
    /// First error pointer in bits 4:0.
    pub error_capabilities: U32,
    /// `HEADER_LOG`: head index, opcode, session and status of the request that met the first error.
    pub header_log: [U32; 4],
    /// Reserved.
    pub reserved_168: [u8; 24],
    /// `LED_CTL`: indicators asked for, see [`led`].
    pub led_control: U32,
    /// `LED_STS`: indicators lit now, see [`led`].
    pub led_status: U32,
    /// `LED_EDGES`: how often the light has gone on or off since the firmware started. A reader
    /// that comes once a second misses none of them as long as this has not moved on by more than
    /// [`LED_EDGES_MAX`] since.
    pub led_edge_count: U32,
    /// `LED_EDGE`: the last edges, see [`LedEdge`]. Edge number N, counted from 0, is in entry N
    /// modulo [`LED_EDGES_MAX`].
    pub led_edges: [U32; LED_EDGES_MAX],
}

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<Summary>() == SUMMARY_LEN);
    assert!(offset_of!(Summary, engines) == 0x030);
    assert!(offset_of!(Summary, statistics_generation) == 0x07c);
    assert!(offset_of!(Summary, critical_warning) == 0x080);
    assert!(offset_of!(Summary, temperature_sensors_k) == 0x088);
    assert!(offset_of!(Summary, power_cycles) == 0x098);
    assert!(offset_of!(Summary, requests_ok) == 0x0b0);
    assert!(offset_of!(Summary, selftest_status) == 0x0c0);
    assert!(offset_of!(Summary, firmware_revision) == 0x0d0);
    assert!(offset_of!(Summary, serial_number) == 0x0e0);
    assert!(offset_of!(Summary, model_number) == 0x100);
    assert!(offset_of!(Summary, uncorrectable_status) == 0x140);
    assert!(offset_of!(Summary, led_control) == 0x180);
    assert!(offset_of!(Summary, led_edge_count) == 0x188);
    assert!(offset_of!(Summary, led_edges) == 0x18c);
};

/// Byte offsets of single registers, for readers and writers of one register at a time.
pub mod register {
    /// `MAGIC`
    pub const MAGIC: u64 = 0x000;
    /// `CSTS`
    pub const CONTROLLER_STATUS: u64 = 0x010;
    /// `CC`
    pub const CONTROLLER_CONFIGURATION: u64 = 0x014;
    /// `BOOT_ID`
    pub const BOOT_ID: u64 = 0x018;
    /// `HB_COUNT`
    pub const HEARTBEAT_COUNT: u64 = 0x024;
    /// `STATS_GEN`
    pub const STATISTICS_GENERATION: u64 = 0x07c;
    /// `UNCOR_STATUS`
    pub const UNCORRECTABLE_STATUS: u64 = 0x140;
    /// `COR_STATUS`
    pub const CORRECTABLE_STATUS: u64 = 0x14c;
    /// `LED_CTL`
    pub const LED_CONTROL: u64 = 0x180;
    /// `LED_STS`
    pub const LED_STATUS: u64 = 0x184;
    /// `LED_EDGES`
    pub const LED_EDGE_COUNT: u64 = 0x188;
    /// `LED_EDGE[0]`
    pub const LED_EDGES: u64 = 0x18c;
    /// `ELOG_WR`
    pub const ERROR_LOG_WRITTEN: u64 = 0x200;
    /// `ELOG_LOST`
    pub const ERROR_LOG_LOST: u64 = 0x204;
}

/// `CAP`: what the page holds.
#[bitfield(u64)]
pub struct Capabilities {
    /// Engines whose heartbeat pair is in use.
    #[bits(8)]
    __: u8,
    /// Number of engines.
    pub engine_count: u8,
    /// Entries of the error log.
    pub error_log_entries: u8,
    /// Temperature sensors in use.
    pub temperature_sensor_count: u8,
    #[bits(32)]
    __: u32,
}

/// `CSTS`: status of the card. Bits 31:8 read zero, so all-ones is never valid.
#[bitfield(u32)]
pub struct ControllerStatus {
    /// `RDY`: the firmware takes requests.
    pub ready: bool,
    /// `CFS`: the firmware has met a fatal error.
    pub fatal: bool,
    /// `SHST`: 0 running, 1 shutting down, 2 shut down.
    #[bits(2)]
    pub shutdown_status: u8,
    /// `NSSRO`: a reset has occurred; write 1 to clear.
    pub reset_occurred: bool,
    /// `PP`: processing is paused.
    pub processing_paused: bool,
    /// The card has slowed itself down because it is hot.
    pub throttled: bool,
    #[bits(25)]
    __: u32,
}

/// `critical_warning` (NVMe SMART / Health Information, byte 0).
#[bitfield(u8)]
pub struct CriticalWarning {
    __: bool,
    /// A temperature is outside its limits.
    pub temperature: bool,
    /// The card no longer trusts itself.
    pub reliability_degraded: bool,
    /// The card refuses private-key operations (NVMe: read only).
    pub fail_closed: bool,
    #[bits(4)]
    __: u8,
}

/// Heartbeat of one engine: requests seen and answered, modulo 2^16 (QAT's `hb_cnt_pair`).
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    Eq,
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout,
    PartialEq,
    Unaligned,
)]
#[repr(C)]
pub struct EngineHeartbeat {
    /// `req_heartbeat_cnt`
    pub requested: U16,
    /// `resp_heartbeat_cnt`
    pub responded: U16,
}

const _: () = assert!(size_of::<EngineHeartbeat>() == 4);

/// Bits of `UNCOR_STATUS`: AER's numbers where the meaning fits, then our own.
pub mod uncorrectable {
    /// A request's data was damaged on the way.
    pub const POISON: u32 = 1 << 12;
    /// A request took too long inside the card.
    pub const COMPLETION_TIMEOUT: u32 = 1 << 14;
    /// A request was given up.
    pub const COMPLETER_ABORT: u32 = 1 << 15;
    /// An engine answered a request that nobody made.
    pub const UNEXPECTED_COMPLETION: u32 = 1 << 16;
    /// A descriptor chain or request was malformed.
    pub const MALFORMED: u32 = 1 << 18;
    /// A request was not supported.
    pub const UNSUPPORTED: u32 = 1 << 20;
    /// An internal error.
    pub const INTERNAL: u32 = 1 << 22;
    /// A DMA access was refused.
    pub const DMA_FAULT: u32 = 1 << 28;
    /// The key store is damaged.
    pub const KEY_STORE: u32 = 1 << 29;
    /// A self-test failed.
    pub const SELF_TEST: u32 = 1 << 30;
}

/// Bits of `LED_CTL` and `LED_STS` (NPEM's indicators).
pub mod led {
    /// All is well.
    pub const OK: u32 = 1 << 2;
    /// Somebody is looking for this card.
    pub const LOCATE: u32 = 1 << 3;
    /// The card has failed.
    pub const FAIL: u32 = 1 << 4;
    /// The card expects to fail.
    pub const PREDICTED_FAILURE: u32 = 1 << 6;
}

/// One edge of the light.
#[bitfield(u32)]
pub struct LedEdge {
    /// `UPTIME_MS` when it happened, modulo 2^31.
    #[bits(31)]
    pub uptime_ms: u32,
    /// Whether the light is on since.
    pub lit: bool,
}

/// One entry of the error log (shape of NVMe's Error Information log).
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ErrorLogEntry {
    /// Number of the error since power-on; 0 marks an empty entry.
    pub error_count: U64,
    /// Queue of the request.
    pub queue_index: U16,
    /// Head descriptor of the request.
    pub head_index: U16,
    /// Status given, see [`crate::crypto::Status`].
    pub status: U16,
    /// Where in the request the error was found, in bytes from its start.
    pub location: U16,
    /// Session of the request.
    pub session_id: U64,
    /// Opcode of the request.
    pub opcode: U32,
    /// Reserved.
    pub reserved: U32,
    /// `UPTIME_MS` when it happened.
    pub uptime_ms: U64,
    /// What happened, ASCII, padded with NUL.
    pub text: [u8; 24],
}

const _: () = assert!(size_of::<ErrorLogEntry>() == 64);
const _: () =
    assert!(ERROR_LOG_OFFSET + ERROR_LOG_ENTRIES * size_of::<ErrorLogEntry>() <= PAGE_LEN);

/// Why bytes are not the health page of a working card.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum PageError {
    /// Everything reads as all-ones: nothing answers.
    Gone,
    /// The first word is neither the magic nor all-ones.
    WrongMagic {
        /// What it is.
        found: u32,
    },
    /// The layout has another major version.
    UnknownVersion {
        /// Which.
        found: u32,
    },
    /// Fewer bytes than a summary.
    Truncated {
        /// How many.
        len: usize,
    },
    /// `CSTS` has reserved bits set.
    ReservedStatusBits {
        /// The register.
        found: u32,
    },
}

impl std::fmt::Display for PageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gone => write!(f, "reads as all-ones, as a card does that is gone"),
            Self::WrongMagic { found } => {
                write!(f, "starts with {found:#010x}, not with {MAGIC:#010x}")
            }
            Self::UnknownVersion { found } => write!(
                f,
                "has layout version {found:#010x}, this program knows {VERSION:#010x}"
            ),
            Self::Truncated { len } => write!(f, "is {len} bytes long, shorter than {SUMMARY_LEN}"),
            Self::ReservedStatusBits { found } => {
                write!(f, "has reserved bits set in CSTS ({found:#010x})")
            }
        }
    }
}

impl std::error::Error for PageError {}

impl Summary {
    /// Reads a summary out of the first bytes of a page, and refuses what no working card writes.
    ///
    /// # Errors
    ///
    /// See [`PageError`]. One register may legitimately be all-ones, so [`PageError::Gone`] needs
    /// several to be.
    pub fn parse(page: &[u8]) -> Result<Self, PageError> {
        let (summary, _) =
            Self::read_from_prefix(page).map_err(|_| PageError::Truncated { len: page.len() })?;
        match summary.magic.get() {
            MAGIC => {}
            GONE if summary.version.get() == GONE && summary.controller_status.get() == GONE => {
                return Err(PageError::Gone);
            }
            found => return Err(PageError::WrongMagic { found }),
        }
        let version = summary.version.get();
        if version >> 16 != VERSION >> 16 {
            return Err(PageError::UnknownVersion { found: version });
        }
        let found = summary.controller_status.get();
        if found >> 8 != 0 {
            return Err(PageError::ReservedStatusBits { found });
        }
        Ok(summary)
    }

    /// The last edges of the light, oldest first, as far as they are still there.
    pub fn led_edges(&self) -> impl Iterator<Item = LedEdge> + '_ {
        let count = usize::try_from(self.led_edge_count.get()).unwrap_or(usize::MAX);
        let first = count.saturating_sub(LED_EDGES_MAX);
        (first..count).map(|edge| LedEdge::from_bits(self.led_edges[edge % LED_EDGES_MAX].get()))
    }

    /// The engines in use.
    #[must_use]
    pub fn engines(&self) -> &[EngineHeartbeat] {
        let count = Capabilities::from_bits(self.capabilities.get()).engine_count();
        &self.engines[..usize::from(count).min(ENGINES_MAX)]
    }

    /// Serial number without its padding; bytes that are not printable ASCII become `?`.
    #[must_use]
    pub fn serial_number(&self) -> String {
        printable(&self.serial_number)
    }

    /// Model number, likewise.
    #[must_use]
    pub fn model_number(&self) -> String {
        printable(&self.model_number)
    }

    /// Firmware revision, likewise.
    #[must_use]
    pub fn firmware_revision(&self) -> String {
        printable(&self.firmware_revision)
    }
}

/// Turns padded ASCII from a device into text that is safe to print.
#[must_use]
pub fn printable(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .rposition(|&byte| byte != b' ' && byte != 0)
        .map_or(0, |last| last + 1);
    bytes[..end]
        .iter()
        .map(|&byte| match byte {
            b' '..=b'~' => char::from(byte),
            _ => '?',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Vec<u8> {
        let mut page = vec![0; PAGE_LEN];
        page[..4].copy_from_slice(b"HWS1");
        page[6] = 1;
        page
    }

    #[test]
    fn a_dead_card_is_told_from_a_foreign_page() {
        Summary::parse(&page()).unwrap();
        assert_eq!(
            Summary::parse(&[0xff; PAGE_LEN]).unwrap_err(),
            PageError::Gone
        );
        let mut one_register = page();
        one_register[..4].fill(0xff);
        let foreign = Summary::parse(&one_register).unwrap_err();
        assert_eq!(foreign, PageError::WrongMagic { found: GONE });
        assert_eq!(
            Summary::parse(&page()[..511]).unwrap_err(),
            PageError::Truncated { len: 511 }
        );
    }

    #[test]
    fn reserved_status_bits_are_nonsense() {
        let mut page = page();
        page[0x11] = 1;
        let error = Summary::parse(&page).unwrap_err();
        assert_eq!(error, PageError::ReservedStatusBits { found: 0x100 });
    }

    #[test]
    fn an_engine_count_beyond_the_page_is_cut() {
        let mut page = page();
        page[0x09] = 0xff;
        assert_eq!(Summary::parse(&page).unwrap().engines().len(), ENGINES_MAX);
    }

    #[test]
    fn names_cannot_smuggle_control_characters() {
        assert_eq!(printable(b"SIM\x1b[31m  \0"), "SIM?[31m");
    }
}
