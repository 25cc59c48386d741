//! Interrupts: eventfds that the function's owner has connected to vectors.
//!
//! As with VFIO, an owner connects and masks vectors with `SET_IRQS`; the MSI-X table in the BAR
//! is storage that nobody but the owner looks at. Only MSI-X carries the card's own interrupts.
//! The error and request vectors exist so that an owner can wait on them.

use card_spec::vfio::irq;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, write};
use std::os::fd::OwnedFd;

/// One `SET_IRQS` command, as VFIO and vfio-user mean it.
#[derive(Debug)]
pub struct IrqRequest<'a> {
    /// See [`card_spec::vfio::irq`].
    pub index: u32,
    /// One data flag and one action flag.
    pub flags: u32,
    /// First vector.
    pub start: u32,
    /// Number of vectors.
    pub count: u32,
    /// One byte per vector, for `SET_DATA_BOOL`.
    pub bools: &'a [u8],
    /// One descriptor per vector, or none to disconnect, for `SET_DATA_EVENTFD`.
    pub eventfds: Vec<OwnedFd>,
}

/// Whom to tell, and whether.
#[derive(Debug, Default)]
struct Vector {
    eventfd: Option<OwnedFd>,
    masked: bool,
    pending: bool,
}

impl Vector {
    fn trigger(&mut self, held_back: bool) {
        self.pending = held_back || self.masked;
        if let Some(eventfd) = self.eventfd.as_ref().filter(|_| !self.pending) {
            signal(eventfd);
        }
    }
}

/// All interrupts of the function.
#[derive(Debug)]
pub(crate) struct Interrupts {
    msix: Vec<Vector>,
    /// All MSI-X vectors are held back.
    function_masked: bool,
    error: Vec<Vector>,
    request: Vec<Vector>,
}

impl Interrupts {
    pub(crate) fn new(msix_count: u16) -> Self {
        let vectors = |count| {
            std::iter::repeat_with(Vector::default)
                .take(count)
                .collect()
        };
        Self {
            msix: vectors(usize::from(msix_count)),
            function_masked: false,
            error: vectors(1),
            request: vectors(1),
        }
    }

    /// Number of vectors of a kind.
    pub(crate) fn count(&self, index: u32) -> u32 {
        self.kind(index).map_or(0, |vectors| {
            u32::try_from(vectors.len()).unwrap_or(u32::MAX)
        })
    }

    /// Whether any MSI-X vector is connected.
    pub(crate) fn msix_connected(&self) -> bool {
        self.msix.iter().any(|vector| vector.eventfd.is_some())
    }

    /// Signals an MSI-X vector. One that does not exist, such as
    /// [`NO_VECTOR`](card_spec::virtio_pci::NO_VECTOR), is no vector.
    pub(crate) fn trigger_msix(&mut self, vector: u16) {
        if let Some(vector) = self.msix.get_mut(usize::from(vector)) {
            vector.trigger(self.function_masked);
        }
    }

    /// Which MSI-X vectors wait for being unmasked, as the pending bit array shows them.
    pub(crate) fn msix_pending(&self) -> u64 {
        self.msix
            .iter()
            .zip(0..u64::BITS)
            .filter(|(vector, _)| vector.pending)
            .fold(0, |bits, (_, bit)| bits | 1 << bit)
    }

    /// Holds back or lets go all MSI-X vectors.
    pub(crate) fn set_function_mask(&mut self, masked: bool) {
        self.function_masked = masked;
        self.deliver_pending();
    }

    fn deliver_pending(&mut self) {
        let held_back = self.function_masked;
        for vector in self.msix.iter_mut().filter(|vector| vector.pending) {
            vector.trigger(held_back);
        }
        let others = self.error.iter_mut().chain(&mut self.request);
        for vector in others.filter(|vector| vector.pending) {
            vector.trigger(false);
        }
    }

    /// Disconnects everything.
    pub(crate) fn disconnect(&mut self) {
        let Self {
            msix,
            function_masked,
            error,
            request,
        } = self;
        *function_masked = false;
        for vector in msix.iter_mut().chain(error).chain(request) {
            *vector = Vector::default();
        }
    }

    pub(crate) fn set(&mut self, request: IrqRequest<'_>) -> Result<(), Errno> {
        const DATA: u32 = irq::SET_DATA_NONE | irq::SET_DATA_BOOL | irq::SET_DATA_EVENTFD;
        let IrqRequest {
            index,
            flags,
            start,
            count,
            bools,
            eventfds,
        } = request;
        let (data, action) = (flags & DATA, flags & !DATA);
        if count == 0 && data == irq::SET_DATA_NONE && action == irq::SET_ACTION_TRIGGER {
            // Also for kinds that have no vectors: there is nothing to disable then.
            let all = self.kind_mut(index).ok_or(Errno::INVAL)?;
            all.fill_with(Vector::default);
            return Ok(());
        }
        let all = self.kind_mut(index).ok_or(Errno::INVAL)?;
        let vectors = slice(all, start, count).ok_or(Errno::INVAL)?;
        match (data, action) {
            (irq::SET_DATA_EVENTFD, irq::SET_ACTION_TRIGGER) => connect(vectors, eventfds)?,
            (irq::SET_DATA_NONE, _) => for_each(vectors, action, |_| true)?,
            (irq::SET_DATA_BOOL, _) if bools.len() == vectors.len() => {
                for_each(vectors, action, |index| bools[index] != 0)?;
            }
            _ => return Err(Errno::INVAL),
        }
        self.deliver_pending();
        Ok(())
    }

    fn kind(&self, index: u32) -> Option<&[Vector]> {
        match index {
            irq::INTX | irq::MSI => Some(&[]),
            irq::MSIX => Some(&self.msix),
            irq::ERR => Some(&self.error),
            irq::REQ => Some(&self.request),
            _ => None,
        }
    }

    fn kind_mut(&mut self, index: u32) -> Option<&mut [Vector]> {
        match index {
            irq::INTX | irq::MSI => Some(&mut []),
            irq::MSIX => Some(&mut self.msix),
            irq::ERR => Some(&mut self.error),
            irq::REQ => Some(&mut self.request),
            _ => None,
        }
    }
}

fn slice(vectors: &mut [Vector], start: u32, count: u32) -> Option<&mut [Vector]> {
    let start = usize::try_from(start).ok()?;
    let end = start.checked_add(usize::try_from(count).ok()?)?;
    (count > 0).then(|| vectors.get_mut(start..end))?
}

/// Connects vectors, or disconnects them when no descriptor came at all.
fn connect(vectors: &mut [Vector], eventfds: Vec<OwnedFd>) -> Result<(), Errno> {
    if eventfds.is_empty() {
        vectors.fill_with(Vector::default);
        return Ok(());
    }
    if eventfds.len() != vectors.len() {
        return Err(Errno::INVAL);
    }
    for (vector, eventfd) in vectors.iter_mut().zip(eventfds) {
        vector.eventfd = Some(eventfd);
    }
    Ok(())
}

fn for_each(
    vectors: &mut [Vector],
    action: u32,
    chosen: impl Fn(usize) -> bool,
) -> Result<(), Errno> {
    let act = match action {
        // Held back or not is decided when all of it is delivered.
        irq::SET_ACTION_TRIGGER => |vector: &mut Vector| vector.pending = true,
        irq::SET_ACTION_MASK => |vector: &mut Vector| vector.masked = true,
        irq::SET_ACTION_UNMASK => |vector: &mut Vector| vector.masked = false,
        _ => return Err(Errno::INVAL),
    };
    let chosen = vectors
        .iter_mut()
        .enumerate()
        .filter(|(index, _)| chosen(*index));
    for (_, vector) in chosen {
        act(vector);
    }
    Ok(())
}

/// Adds one to an eventfd, unless that would block: the descriptor is the client's, who may have
/// filled it up, or may have sent something that is no eventfd.
pub(crate) fn signal(eventfd: &OwnedFd) {
    const NOW: Timespec = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut ready = [PollFd::new(eventfd, PollFlags::OUT)];
    if poll(&mut ready, Some(&NOW)) == Ok(1) && ready[0].revents() == PollFlags::OUT {
        // An eventfd that cannot take one more has a wake-up pending already, and one that
        // fails otherwise has nobody behind it.
        let _ = write(eventfd, &1_u64.to_ne_bytes());
    }
}
