//! The telemetry page: what the owner of a card knows of it, for everybody else on the host.
//!
//! An owner writes [`Page`] to a file of [`PAGE_LEN`] bytes a few times a second, under a sequence
//! lock; readers read the file and never make the owner wait. Whoever judges a
//! card does so from here, so that looking cannot hang it. A page whose `sequence` stands still
//! is itself evidence.
//!
//! ```text
//! 000 +----------------------+
//!     | magic, version       |  written once
//! 008 | sequence             |  odd while the rest is being written
//! 010 +----------------------+
//!     | owner, card, breaker |
//!     | counters, checks     |  u64 each
//! 200 +----------------------+
//!     | first 0x200 bytes of |  as last read from the card
//!     | the health page      |
//! 400 +----------------------+
//!     | TLS by the owner     |  u64 each
//! 4a0 +----------------------+
//!     | overload             |  u64 each
//! 4b0 +----------------------+
//!     | reserved, zero       |
//! 1000+----------------------+
//! ```
//!
//! Instants are nanoseconds of `CLOCK_MONOTONIC`; zero means never.

use crate::health;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// "HWT1", first word of the page.
pub const MAGIC: u32 = u32::from_le_bytes(*b"HWT1");
/// Major version: another one cannot be read.
pub const VERSION_MAJOR: u16 = 1;
/// Minor version: a larger one has filled some of what is reserved here.
pub const VERSION_MINOR: u16 = 3;
/// Length of the file, in bytes.
pub const PAGE_LEN: usize = 4096;
/// Where the part under the sequence lock starts.
pub const BODY_OFFSET: usize = 0x10;
/// Bytes for the address of the accelerator.
pub const ADDRESS_LEN: usize = 96;
/// Bytes for an evidence code.
pub const CODE_LEN: usize = 32;
/// File name extension of pages.
pub const FILE_EXTENSION: &str = "telemetry";
/// The same of pages of routers that have no card: another one, so that a reader who knows cards only
/// takes none of them for a card.
pub const ROUTER_FILE_EXTENSION: &str = "router";

/// The whole page.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Page {
    /// [`MAGIC`].
    pub magic: U32,
    /// [`VERSION_MAJOR`].
    pub version_major: U16,
    /// [`VERSION_MINOR`].
    pub version_minor: U16,
    /// Grows by two with every publication; odd while one is under way.
    pub sequence: U64,
    /// Who owns the card.
    pub owner: Owner,
    /// How the card is.
    pub card: Card,
    /// Whether the router gives it work.
    pub breaker: Breaker,
    /// Where requests went.
    pub requests: Requests,
    /// Known-answer tests on a schedule.
    pub checks: Checks,
    /// How the card makes itself heard. Since minor version 1.
    pub interrupts: Interrupts,
    /// Sessions that the card had forgotten when they were used, without a reset. Since minor
    /// version 1.
    pub sessions_lost: U64,
    /// Algorithm that the last known-answer test was of, ASCII, padded with NUL. Since minor version 1.
    pub checked: [u8; CODE_LEN],
    /// Reserved.
    pub reserved: [U64; 1],
    /// First bytes of the card's health page, as last read. Meaningful if `card.health_reads` is
    /// not zero; parse with [`health::Summary::parse`].
    pub health: [u8; health::SUMMARY_LEN],
    /// TLS that the owner's process terminates. Since minor version 2; see [`Page::tls`].
    pub tls: Tls,
    /// Requests that were too many. Since minor version 3; see [`Page::overload`].
    pub overload: Overload,
    /// Reserved.
    pub reserved_end: [u8; PAGE_LEN - 0x4b0],
}

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<Page>() == PAGE_LEN);
    assert!(offset_of!(Page, owner) == BODY_OFFSET);
    assert!(offset_of!(Page, health) == 0x200);
    assert!(offset_of!(Page, tls) == 0x400);
    assert!(offset_of!(Page, overload) == 0x4a0);
};

/// Who owns the card, and whether it is alive.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Owner {
    /// Process ID.
    pub pid: U64,
    /// Start time of the process, in clock ticks since boot (`/proc/PID/stat` field 22), so that
    /// a process ID that is used again is noticed.
    pub start_time_ticks: U64,
    /// When the page was published last.
    pub published_at_ns: U64,
    /// Time between publications, in nanoseconds.
    pub publish_interval_ns: U64,
    /// Longest the owner's own loop was late since it started, in nanoseconds.
    pub lateness_ns_max: U64,
    /// Address of the accelerator, UTF-8, padded with NUL.
    pub address: [u8; ADDRESS_LEN],
}

/// How the card is, as its owner sees it.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Card {
    /// See [`card_state`].
    pub state: U64,
    /// When it got into this state.
    pub state_since_ns: U64,
    /// Health pages read whole.
    pub health_reads: U64,
    /// Health pages that could not be read, or were nonsense.
    pub health_errors: U64,
    /// When a health page was read last.
    pub health_read_at_ns: U64,
    /// When `HB_COUNT` was last seen to change.
    pub heartbeat_changed_at_ns: U64,
    /// Changes of `BOOT_ID` that the owner did not cause.
    pub silent_reboots: U64,
    /// Resets the owner caused.
    pub resets: U64,
    /// Resets that failed.
    pub resets_failed: U64,
    /// Sessions open on the card.
    pub sessions_open: U64,
    /// Doorbells rung.
    pub doorbells: U64,
    /// Completions that belonged to no request in flight; discarded.
    pub completions_discarded: U64,
}

/// Values of [`Card::state`].
pub mod card_state {
    /// Being brought up, or not yet tried.
    pub const STARTING: u64 = 0;
    /// Takes requests.
    pub const READY: u64 = 1;
    /// Does not take requests before a reset has succeeded.
    pub const NEEDS_RESET: u64 = 2;
    /// No longer answers on the bus.
    pub const GONE: u64 = 3;
    /// The owner has let go of it in an orderly way.
    pub const RELEASED: u64 = 4;
    /// There is none: the page is that of a router by itself, which has ended if it is
    /// [`RELEASED`]. Only [`requests`](super::Page::requests) and [`tls`](super::Page::tls) mean
    /// something then.
    pub const NONE: u64 = 5;
}

/// Whether the router gives the card work.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Breaker {
    /// See [`breaker_state`].
    pub state: U64,
    /// When it got into this state.
    pub state_since_ns: U64,
    /// Times it has opened.
    pub opened: U64,
    /// When a trial is due, while open.
    pub trial_at_ns: U64,
    /// Evidence code of what opened it last, ASCII, padded with NUL.
    pub opened_by: [u8; CODE_LEN],
}

/// Values of [`Breaker::state`].
pub mod breaker_state {
    /// Work flows.
    pub const CLOSED: u64 = 0;
    /// Work is refused.
    pub const OPEN: u64 = 1;
    /// One trial is under way.
    pub const HALF_OPEN: u64 = 2;
}

/// Where requests went. At any instant
/// `submitted = card + software + refused + in_flight`.
#[derive(
    Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq, Unaligned,
)]
#[repr(C)]
pub struct Requests {
    /// Requests the router accepted.
    pub submitted: U64,
    /// Answered by a card, and verified.
    pub card: U64,
    /// Answered by software.
    pub software: U64,
    /// Ended with an error to the caller, or given up by the caller.
    pub refused: U64,
    /// Not ended yet.
    pub in_flight: U64,
    /// Of those answered by software: requests that a card was given first.
    pub fallbacks: U64,
    /// Card did not answer by the deadline.
    pub timed_out: U64,
    /// Card answered with an error status.
    pub failed: U64,
    /// Card broke a rule of the interface.
    pub misbehaved: U64,
    /// Card's answer did not verify; it was not released.
    pub wrong_answers: U64,
}

/// Known-answer tests that the owner runs on a schedule.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Checks {
    /// Tests begun.
    pub started: U64,
    /// Tests whose answer was right.
    pub passed: U64,
    /// Tests whose answer was wrong, late or an error.
    pub failed: U64,
    /// When the last one ended.
    pub last_at_ns: U64,
    /// How long the last one took, in nanoseconds.
    pub last_latency_ns: U64,
    /// See [`check_result`].
    pub last_result: U64,
}

/// How the card makes itself heard. Zero in a page of minor version 0.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Interrupts {
    /// Interrupts that arrived.
    pub arrived: U64,
    /// Completions that the card announced, or should have: the driver had asked for an interrupt.
    pub completions_due: U64,
    /// Of those, completions that the driver found by looking, when no interrupt had arrived.
    pub completions_unannounced: U64,
}

/// Values of [`Checks::last_result`].
pub mod check_result {
    /// None has ended yet.
    pub const NONE: u64 = 0;
    /// The answer was right.
    pub const PASSED: u64 = 1;
    /// The card answered with an error status.
    pub const FAILED: u64 = 2;
    /// The card did not answer in time.
    pub const TIMED_OUT: u64 = 3;
    /// The answer was wrong.
    pub const WRONG_ANSWER: u64 = 4;
    /// The card broke a rule of the interface, or was gone.
    pub const MISBEHAVED: u64 = 5;
}

/// TLS that the owner's process terminates, for all of its cards together: each of its pages says
/// the same. All zero if it does not, and in a page of minor version 0 or 1.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Tls {
    /// When it began to.
    pub began_at_ns: U64,
    /// Connections of clients.
    pub connections: TlsConnections,
    /// Handshakes with them.
    pub handshakes: TlsHandshakes,
}

/// Connections of clients. Those accepted and in none of the other figures ended without a
/// handshake, or were cut off.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TlsConnections {
    /// Accepted.
    pub accepted: U64,
    /// Not ended yet.
    pub active: U64,
    /// Ended by both sides.
    pub closed: U64,
    /// Ended because nothing came for too long.
    pub idle: U64,
    /// Broken off by one side.
    pub broken: U64,
    /// Ended because the server behind could not be reached.
    pub unreachable: U64,
    /// Times that the system had no descriptor or memory for another one.
    pub not_accepted: U64,
}

/// Handshakes. `accepted = completed + failed + timed_out + cancelled + under_way`, and
/// `completed = tls12 + tls13`, where the figures are read one after the other.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TlsHandshakes {
    /// Begun.
    pub accepted: U64,
    /// Ended with a connection.
    pub completed: U64,
    /// Of those, by TLS 1.2.
    pub tls12: U64,
    /// Of those, by TLS 1.3.
    pub tls13: U64,
    /// Of those completed: of a session that the client had from before, without a signature.
    pub resumed: U64,
    /// Ended with an error.
    pub failed: U64,
    /// Not over by the time allowed.
    pub timed_out: U64,
    /// Given up because the owner ends.
    pub cancelled: U64,
    /// Not ended yet.
    pub under_way: U64,
    /// Signatures that the router made; [`Requests`] says which of them a card did.
    pub offloaded: U64,
    /// RSA signatures that software made at once, as the router was not worth it.
    pub software: U64,
    /// Signatures that the router made in vain.
    pub mismatched: U64,
}

/// Requests that were too many: a part of [`Requests`], told apart. Zero in a page of minor version 0
/// to 2, which does not say so.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Overload {
    /// Of those answered by software: cards had too much to do.
    pub shed: U64,
    /// Of those refused: software had too much to do as well.
    pub overloaded: U64,
}

/// Why bytes are not a telemetry page.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum PageError {
    /// The file has another length.
    WrongLength {
        /// Which.
        len: usize,
    },
    /// The first word is not the magic.
    WrongMagic {
        /// What it is.
        found: u32,
    },
    /// The layout has another major version.
    UnknownVersion {
        /// Which.
        found: u16,
    },
}

impl std::fmt::Display for PageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::WrongLength { len } => {
                write!(f, "is {len} bytes long; a telemetry page has {PAGE_LEN}")
            }
            Self::WrongMagic { found } => {
                write!(f, "starts with {found:#010x}, not with {MAGIC:#010x}")
            }
            Self::UnknownVersion { found } => write!(
                f,
                "has layout version {found}, this program knows {VERSION_MAJOR}; update the older of owner and reader"
            ),
        }
    }
}

impl std::error::Error for PageError {}

impl Page {
    /// An empty page that carries magic and version.
    #[must_use]
    pub fn new() -> Self {
        let mut page = Self::new_zeroed();
        page.magic = MAGIC.into();
        page.version_major = VERSION_MAJOR.into();
        page.version_minor = VERSION_MINOR.into();
        page
    }

    /// Reads a page.
    ///
    /// # Errors
    ///
    /// See [`PageError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, PageError> {
        let page = Self::read_from_bytes(bytes)
            .map_err(|_| PageError::WrongLength { len: bytes.len() })?;
        match (page.magic.get(), page.version_major.get()) {
            (MAGIC, VERSION_MAJOR) => Ok(page),
            (MAGIC, found) => Err(PageError::UnknownVersion { found }),
            (found, _) => Err(PageError::WrongMagic { found }),
        }
    }

    /// The accelerator's address, safe to print.
    #[must_use]
    pub fn address(&self) -> String {
        health::printable(&self.owner.address)
    }

    /// TLS that the owner terminates, if it does and its version of the page says so.
    #[must_use]
    pub fn tls(&self) -> Option<&Tls> {
        /// In which it came to be.
        const SINCE: u16 = 2;
        let said = self.version_minor.get() >= SINCE && self.tls.began_at_ns.get() != 0;
        said.then_some(&self.tls)
    }

    /// Requests that were too many, if its version of the page says so.
    #[must_use]
    pub fn overload(&self) -> Option<&Overload> {
        /// In which it came to be.
        const SINCE: u16 = 3;
        (self.version_minor.get() >= SINCE).then_some(&self.overload)
    }

    /// What opened the breaker last, safe to print.
    #[must_use]
    pub fn opened_by(&self) -> String {
        health::printable(&self.breaker.opened_by)
    }
}

/// Copies `text` into a padded field, cutting it at a character boundary if it is too long.
#[must_use]
pub fn padded<const LEN: usize>(text: &str) -> [u8; LEN] {
    let mut end = text.len().min(LEN);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut field = [0; LEN];
    field[..end].copy_from_slice(&text.as_bytes()[..end]);
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_reads_back() {
        let mut page = Page::new();
        page.owner.address = padded("pci:0000:3b:00.0");
        page.requests.card = 7.into();
        let read = Page::parse(page.as_bytes()).unwrap();
        assert_eq!(read.address(), "pci:0000:3b:00.0");
        assert_eq!(read.requests, page.requests);
    }

    #[test]
    fn foreign_bytes_are_refused() {
        let mut bytes = Page::new().as_bytes().to_vec();
        assert_eq!(
            Page::parse(&bytes[1..]).unwrap_err(),
            PageError::WrongLength { len: 4095 }
        );
        bytes[4] = 9;
        assert_eq!(
            Page::parse(&bytes).unwrap_err(),
            PageError::UnknownVersion { found: 9 }
        );
        bytes[0] = 0;
        assert!(matches!(
            Page::parse(&bytes),
            Err(PageError::WrongMagic { .. })
        ));
    }

    #[test]
    fn who_terminates_no_tls_or_is_too_old_to_say_so_has_none() {
        let mut page = Page::new();
        assert!(page.tls().is_none());
        page.tls.began_at_ns = 1.into();
        page.tls.handshakes.completed = 2.into();
        let read = Page::parse(page.as_bytes()).unwrap();
        assert_eq!(read.tls().unwrap().handshakes.completed, 2);
        // What was reserved then is not looked at.
        page.version_minor = 1.into();
        assert!(Page::parse(page.as_bytes()).unwrap().tls().is_none());
    }

    #[test]
    fn a_page_that_is_too_old_says_nothing_of_overload() {
        let mut page = Page::new();
        page.overload.shed = 1.into();
        page.overload.overloaded = 2.into();
        let read = Page::parse(page.as_bytes()).unwrap();
        let overload = read.overload().unwrap();
        assert_eq!((overload.shed.get(), overload.overloaded.get()), (1, 2));
        page.version_minor = 2.into();
        assert!(
            Page::parse(page.as_bytes()).unwrap().overload().is_none(),
            "what was reserved then is not looked at"
        );
        // Nor is what nobody here knows of yet a reason not to read the rest.
        page.version_minor = 4.into();
        assert!(Page::parse(page.as_bytes()).unwrap().overload().is_some());
    }

    #[test]
    fn padding_cuts_between_characters() {
        assert_eq!(padded::<4>("abcé"), *b"abc\0");
        assert_eq!(padded::<2>(""), [0, 0]);
    }
}
