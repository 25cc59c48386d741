//! How a PCI function is reached.
//!
//! **Seam.** The driver above this line cannot tell a real card behind VFIO from a simulated one
//! behind vfio-user, or from one that lives in the same process.
//!
//! What comes from a function is data, never trusted: offsets a driver asks for are its own, and
//! whoever computes one from what a device said checks it against [`Function::bar_len`] first.

pub mod dma;
mod iova;
pub mod loopback;
mod mmio;
pub mod vfio;
pub mod vfio_user;

use dma::{Iova, Memory};
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

/// One PCI function, however it is reached.
///
/// Calls may come from several threads at once. Each call returns within the implementation's
/// own bound (100 ms for vfio-user unless configured otherwise; the kernel's for VFIO).
#[cfg_attr(test, mockall::automock)]
pub trait Function: Send + Sync + fmt::Debug {
    /// Names the function in messages, as its accelerator address does: `pci:0000:3b:00.0`.
    fn name(&self) -> &str;

    /// Reads configuration space. Bytes behind the end of a short space read as all-ones, as
    /// they do on a bus.
    fn read_config(&self, offset: u16, buf: &mut [u8]) -> Result<(), BusError>;

    /// Writes configuration space.
    fn write_config(&self, offset: u16, bytes: &[u8]) -> Result<(), BusError>;

    /// Length of a BAR in bytes, 0 if the function does not have it.
    fn bar_len(&self, bar: u8) -> Result<u64, BusError>;

    /// Reads from a BAR. 1, 2, 4 or 8 aligned bytes are one access; more are several.
    fn read_bar(&self, bar: u8, offset: u64, buf: &mut [u8]) -> Result<(), BusError>;

    /// Writes to a BAR, with accesses as in [`Function::read_bar`].
    fn write_bar(&self, bar: u8, offset: u64, bytes: &[u8]) -> Result<(), BusError>;

    /// Prepares the cheapest way to write `value` to one 16-bit register again and again.
    fn doorbell(&self, bar: u8, offset: u64, value: u16) -> Result<Doorbell, BusError>;

    /// Lets the device reach `memory`, and says at which address.
    fn share(&self, memory: &Arc<Memory>, access: Access) -> Result<Iova, BusError>;

    /// Takes away again what [`Function::share`] gave. When this returns, the device cannot
    /// reach the memory any more.
    fn unshare(&self, iova: Iova) -> Result<(), BusError>;

    /// Number of MSI-X vectors.
    fn vector_count(&self) -> Result<u16, BusError>;

    /// Has MSI-X vector N signal `eventfds[N]`. None at all disables MSI-X.
    fn connect_vectors<'a>(&self, eventfds: &[BorrowedFd<'a>]) -> Result<(), BusError>;

    /// Resets the function. What was shared stays shared; interrupts have to be connected again.
    fn reset(&self) -> Result<(), BusError>;

    /// A descriptor on which any event means that [`Function::is_gone`] is worth asking.
    fn removal_fd<'a>(&'a self) -> Option<BorrowedFd<'a>>;

    /// Whether the function has left the bus. Never blocks. Once true, it stays true.
    fn is_gone(&self) -> bool;

    /// A descriptor on which any event means that [`Function::take_error`] is worth asking. `None`
    /// where no errors are reported.
    fn error_fd<'a>(&'a self) -> Option<BorrowedFd<'a>> {
        None
    }

    /// Whether, since this was last asked, the bus has reported an error that transactions of this
    /// function did not survive (PCI Express 6.2.2.2 "Uncorrectable Errors"). Never blocks.
    fn take_error(&self) -> bool {
        false
    }
}

/// What a device may do with memory it is given.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// The driver writes, the device only reads.
    DeviceReads,
    /// The device writes, and may read.
    DeviceWrites,
}

/// Rings one doorbell register.
pub struct Doorbell(Box<dyn Fn() -> Result<(), BusError> + Send + Sync>);

impl Doorbell {
    /// Wraps the way to ring it.
    pub fn new(ring: impl Fn() -> Result<(), BusError> + Send + Sync + 'static) -> Self {
        Self(Box::new(ring))
    }

    /// Rings it.
    pub fn ring(&self) -> Result<(), BusError> {
        (self.0)()
    }
}

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Doorbell(..)")
    }
}

/// An operation on the bus failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BusError {
    /// The function left the bus.
    #[error("{name} no longer answers on the bus")]
    Gone {
        /// The function.
        name: String,
    },
    /// The other end did not answer in time.
    #[error("{action} got no answer within {timeout:?}")]
    TimedOut {
        /// What was being attempted.
        action: &'static str,
        /// How long it waited.
        timeout: Duration,
    },
    /// The other end answered that it will not.
    #[error("{action} was refused: {reason}")]
    Refused {
        /// What was being attempted.
        action: &'static str,
        /// Why, as far as it said.
        reason: String,
    },
    /// The other end broke the rules of the protocol.
    #[error("the device side broke the vfio-user protocol: {rule}")]
    Protocol {
        /// Which rule.
        rule: &'static str,
    },
    /// Access outside a region.
    #[error("{len} bytes at {offset:#x} of BAR {bar} are outside it")]
    OutOfRange {
        /// Which BAR.
        bar: u8,
        /// Where.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
    /// The function cannot be used through VFIO as the host stands.
    #[error("{name} cannot be driven: {reason}")]
    NotUsable {
        /// The function.
        name: String,
        /// Why, and what to do about it.
        reason: String,
    },
    /// The kernel refused.
    #[error("{action} failed")]
    Os {
        /// What was being attempted.
        action: &'static str,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
}

impl BusError {
    /// Turns a kernel error into one that says what was being attempted.
    pub(crate) fn os(action: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |errno| Self::Os {
            action,
            source: errno.into(),
        }
    }
}
