//! A simulated card in the same process, reached by calling it.
//!
//! For tests and benchmarks: no socket, no threads, no time but what it is told, so what happens
//! is the same each time. The card does its work where the driver's calls lead it to, which is
//! one of
//!
//! - [`LoopbackFunction::pump`], when the caller says so: requests wait in the queues until then,
//!   as they do on a card that is slow;
//! - the doorbell itself, for [`LoopbackFunction::inline`]: the answer is there when it returns.
//!
//! [`LoopbackFunction::remove`] takes the card out of its slot while it is in use, and so may the
//! card's own interposer. A card that is put back is another function.

use super::dma::{Iova, Memory};
use super::iova::IovaSpace;
use super::{Access, BusError, Doorbell, Function};
use crate::clock::Instant;
use card_device::Card;
use card_device::dma::Backing;
use card_device::interrupt::IrqRequest;
use card_spec::vfio::irq;
use rustix::event::{EventfdFlags, eventfd};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A [`Function`] whose device is a [`Card`] in this process.
pub struct LoopbackFunction {
    name: String,
    slot: Arc<Slot>,
    /// Memory the card may reach.
    shared: Mutex<IovaSpace<Arc<Memory>>>,
    /// Readable while there is an error that nobody has taken.
    errors: OwnedFd,
}

/// The card, and what both the function and its doorbells need of it.
struct Slot {
    card: Arc<Mutex<Card>>,
    inline: bool,
    /// What [`Card::power_cycles`] was: more of them, and this card has been removed meanwhile.
    power_cycles: u32,
    gone: AtomicBool,
    /// Readable once the card has been removed.
    removed: OwnedFd,
}

impl Slot {
    fn card(&self, name: &str) -> Result<MutexGuard<'_, Card>, BusError> {
        if self.gone.load(Ordering::Acquire) {
            return Err(BusError::Gone {
                name: name.to_owned(),
            });
        }
        let card = self.lock();
        if !self.holds(&card) {
            self.remove();
            return Err(BusError::Gone {
                name: name.to_owned(),
            });
        }
        Ok(card)
    }

    fn lock(&self) -> MutexGuard<'_, Card> {
        // A panic inside the card is a failed test; what the card holds is still memory-safe.
        self.card.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the card is the one that was in the slot at first, and has never left it.
    fn holds(&self, card: &Card) -> bool {
        card.is_present() && card.power_cycles() == self.power_cycles
    }

    fn remove(&self) {
        self.gone.store(true, Ordering::Release);
        // Fails only if it has been written 2^64 - 1 times.
        let _ = rustix::io::write(&self.removed, &1_u64.to_ne_bytes());
    }

    fn write_bar(&self, name: &str, bar: u8, offset: u64, bytes: &[u8]) -> Result<(), BusError> {
        let mut card = self.card(name)?;
        check_range(bar, offset, bytes.len())?;
        card.write_bar(bar, offset, bytes);
        self.work_if_inline(&mut card);
        Ok(())
    }

    fn work_if_inline(&self, card: &mut Card) {
        if self.inline && card.take_doorbell() {
            card.process();
        }
    }
}

impl LoopbackFunction {
    /// A function that works when it is [pumped](Self::pump).
    ///
    /// # Errors
    ///
    /// [`BusError::Os`] if the kernel gives no eventfd.
    pub fn new(name: &str, card: Arc<Mutex<Card>>) -> Result<Self, BusError> {
        Self::with_mode(name, card, false)
    }

    /// A function that has worked when a doorbell returns.
    ///
    /// # Errors
    ///
    /// As [`LoopbackFunction::new`].
    pub fn inline(name: &str, card: Arc<Mutex<Card>>) -> Result<Self, BusError> {
        Self::with_mode(name, card, true)
    }

    fn with_mode(name: &str, card: Arc<Mutex<Card>>, inline: bool) -> Result<Self, BusError> {
        let event = |action| {
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(BusError::os(action))
        };
        let power_cycles = {
            let card = card.lock().unwrap_or_else(PoisonError::into_inner);
            card.power_cycles()
        };
        Ok(Self {
            name: name.to_owned(),
            slot: Arc::new(Slot {
                card,
                inline,
                power_cycles,
                gone: AtomicBool::new(false),
                removed: event("making a removal eventfd")?,
            }),
            shared: Mutex::new(IovaSpace::new()),
            errors: event("making an error eventfd")?,
        })
    }

    /// Tells the card the time and lets it answer everything that waits. Returns how many
    /// requests that was. A card that is gone answers none.
    pub fn pump(&self, now: Instant) -> usize {
        let Ok(mut card) = self.slot.card(&self.name) else {
            return 0;
        };
        card.tick(Duration::from_nanos(now.as_nanos()));
        if !self.slot.holds(&card) {
            self.slot.remove();
            return 0;
        }
        card.take_doorbell();
        card.process()
    }

    /// Takes the card out of its slot: from now on nothing answers.
    pub fn remove(&self) {
        self.slot.remove();
    }

    /// Reports an uncorrectable error of the link, as a root port would. The card is not touched.
    pub fn report_error(&self) {
        // Fails only if it has been written 2^64 - 1 times.
        let _ = rustix::io::write(&self.errors, &1_u64.to_ne_bytes());
    }

    fn card(&self) -> Result<MutexGuard<'_, Card>, BusError> {
        self.slot.card(&self.name)
    }

    fn shared(&self) -> MutexGuard<'_, IovaSpace<Arc<Memory>>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Function for LoopbackFunction {
    fn name(&self) -> &str {
        &self.name
    }

    fn read_config(&self, offset: u16, buf: &mut [u8]) -> Result<(), BusError> {
        self.card()?.read_config(usize::from(offset), buf);
        Ok(())
    }

    fn write_config(&self, offset: u16, bytes: &[u8]) -> Result<(), BusError> {
        let mut card = self.card()?;
        card.write_config(usize::from(offset), bytes);
        self.slot.work_if_inline(&mut card);
        Ok(())
    }

    fn bar_len(&self, bar: u8) -> Result<u64, BusError> {
        self.card().map(|_| Card::bar_len(bar))
    }

    fn read_bar(&self, bar: u8, offset: u64, buf: &mut [u8]) -> Result<(), BusError> {
        let mut card = self.card()?;
        check_range(bar, offset, buf.len())?;
        card.read_bar(bar, offset, buf);
        Ok(())
    }

    fn write_bar(&self, bar: u8, offset: u64, bytes: &[u8]) -> Result<(), BusError> {
        self.slot.write_bar(&self.name, bar, offset, bytes)
    }

    fn doorbell(&self, bar: u8, offset: u64, value: u16) -> Result<Doorbell, BusError> {
        check_range(bar, offset, size_of::<u16>())?;
        let slot = Arc::clone(&self.slot);
        let name = self.name.clone();
        Ok(Doorbell::new(move || {
            slot.write_bar(&name, bar, offset, &value.to_le_bytes())
        }))
    }

    fn share(&self, memory: &Arc<Memory>, access: Access) -> Result<Iova, BusError> {
        let mut card = self.card()?;
        let file = memory
            .memfd()
            .try_clone_to_owned()
            .map_err(os("duplicating a DMA memory descriptor"))?;
        let mut shared = self.shared();
        let iova = shared
            .reserve(memory.len(), Arc::clone(memory))
            .ok_or_else(|| refused("sharing memory", &"no address is free"))?;
        let access = card_device::dma::Access {
            read: true,
            write: access == Access::DeviceWrites,
        };
        let backing = Some(Backing { file, offset: 0 });
        card.map(iova.0, memory.len() as u64, access, backing)
            .map_err(|error| {
                shared.release(iova);
                refused("sharing memory", &error)
            })?;
        Ok(iova)
    }

    fn unshare(&self, iova: Iova) -> Result<(), BusError> {
        let mut card = self.slot.lock();
        let mut shared = self.shared();
        let len = shared
            .len_of(iova)
            .ok_or_else(|| refused("taking memory back", &format!("nothing is at {iova}")))?;
        // Also of a card that is gone, so that it cannot reach the memory any more; but one that
        // has been removed reaches nothing, and what it is lent when it is back is not ours.
        if self.slot.holds(&card) {
            card.unmap(iova.0, len);
        }
        shared.release(iova);
        Ok(())
    }

    fn vector_count(&self) -> Result<u16, BusError> {
        let count = self.card()?.irq_count(irq::MSIX);
        Ok(u16::try_from(count).expect("MSI-X has at most 2048 vectors"))
    }

    fn connect_vectors<'a>(&self, eventfds: &[BorrowedFd<'a>]) -> Result<(), BusError> {
        let eventfds = eventfds
            .iter()
            .map(|eventfd| eventfd.try_clone_to_owned())
            .collect::<Result<Vec<_>, _>>()
            .map_err(os("duplicating an interrupt eventfd"))?;
        let data = if eventfds.is_empty() {
            irq::SET_DATA_NONE
        } else {
            irq::SET_DATA_EVENTFD
        };
        let request = IrqRequest {
            index: irq::MSIX,
            flags: data | irq::SET_ACTION_TRIGGER,
            start: 0,
            count: u32::try_from(eventfds.len()).unwrap_or(u32::MAX),
            bools: &[],
            eventfds,
        };
        self.card()?
            .set_irqs(request)
            .map_err(|errno| refused("connecting interrupts", &errno))
    }

    fn reset(&self) -> Result<(), BusError> {
        self.card()?.reset();
        Ok(())
    }

    fn removal_fd<'a>(&'a self) -> Option<BorrowedFd<'a>> {
        Some(self.slot.removed.as_fd())
    }

    fn is_gone(&self) -> bool {
        // Whoever holds the card finds out by himself.
        if let Ok(card) = self.slot.card.try_lock()
            && !self.slot.holds(&card)
        {
            self.slot.remove();
        }
        self.slot.gone.load(Ordering::Acquire)
    }

    fn error_fd<'a>(&'a self) -> Option<BorrowedFd<'a>> {
        Some(self.errors.as_fd())
    }

    fn take_error(&self) -> bool {
        rustix::io::read(&self.errors, &mut [0; 8]).is_ok()
    }
}

impl fmt::Debug for LoopbackFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopbackFunction")
            .field("name", &self.name)
            .field("inline", &self.slot.inline)
            .field("gone", &self.is_gone())
            .field("shared", &*self.shared())
            .finish_non_exhaustive()
    }
}

fn check_range(bar: u8, offset: u64, len: usize) -> Result<(), BusError> {
    let len = len as u64;
    let inside = offset
        .checked_add(len)
        .is_some_and(|end| end <= Card::bar_len(bar));
    if inside {
        return Ok(());
    }
    Err(BusError::OutOfRange { bar, offset, len })
}

fn refused(action: &'static str, error: &dyn fmt::Display) -> BusError {
    BusError::Refused {
        action,
        reason: error.to_string(),
    }
}

fn os(action: &'static str) -> impl FnOnce(io::Error) -> BusError {
    move |source| BusError::Os { action, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use card_device::engine::{Offer, Session, SessionSpec};
    use card_device::{CardConfig, Engine};
    use card_spec::crypto::Status;
    use card_spec::health::register;
    use card_spec::virtio_pci::{common, status};
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    /// Registers are what is tested here; nobody asks for a session.
    #[derive(Debug)]
    struct NoEngine;

    impl Engine for NoEngine {
        fn offer(&self) -> Offer {
            Offer::default()
        }

        fn open(&self, _: &SessionSpec, _: &[u8]) -> Result<Arc<dyn Session>, Status> {
            Err(Status::NOTSUPP)
        }
    }

    fn function() -> LoopbackFunction {
        let card = Card::new(&CardConfig::default(), Arc::new(NoEngine)).unwrap();
        LoopbackFunction::new("loopback", Arc::new(Mutex::new(card))).unwrap()
    }

    fn is_readable(fd: BorrowedFd<'_>) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())) == Ok(1)
    }

    #[test]
    fn registers_are_reached_and_nothing_beside_them() {
        let function = function();
        let mut vendor = [0; 2];
        function.read_config(0, &mut vendor).unwrap();
        assert_eq!(vendor, [0xf4, 0x1a]);
        let found = status::ACKNOWLEDGE;
        function
            .write_bar(0, common::DEVICE_STATUS, &[found])
            .unwrap();
        let mut read = [0];
        function
            .read_bar(0, common::DEVICE_STATUS, &mut read)
            .unwrap();
        assert_eq!(read, [found]);
        assert_eq!(function.vector_count().unwrap(), 3);
        for (bar, offset) in [(0, 0x4000), (0, u64::MAX), (5, 0), (9, 0)] {
            let refused = function.read_bar(bar, offset, &mut read);
            assert!(
                matches!(refused, Err(BusError::OutOfRange { .. })),
                "{bar} {offset}"
            );
        }
    }

    #[test]
    fn time_is_what_the_pump_says() {
        let function = function();
        let start = Instant::ORIGIN.plus(Duration::from_secs(5));
        let beats = |now| {
            function.pump(now);
            let mut count = [0; 4];
            function
                .read_bar(2, register::HEARTBEAT_COUNT, &mut count)
                .unwrap();
            u32::from_le_bytes(count)
        };
        assert_eq!(beats(start), 0);
        assert_eq!(beats(start.plus(Duration::from_millis(1_250))), 2);
    }

    #[test]
    fn memory_is_shared_until_it_is_taken_back() {
        let function = function();
        let memory = Arc::new(Memory::new(1).unwrap());
        let iova = function.share(&memory, Access::DeviceWrites).unwrap();
        let other = function.share(&memory, Access::DeviceReads).unwrap();
        assert_ne!(iova, other);
        function.unshare(iova).unwrap();
        let again = function.unshare(iova);
        assert!(matches!(again, Err(BusError::Refused { .. })));
    }

    #[test]
    fn a_removed_card_answers_nobody_and_keeps_no_memory() {
        let function = function();
        let memory = Arc::new(Memory::new(1).unwrap());
        let iova = function.share(&memory, Access::DeviceWrites).unwrap();
        let doorbell = function.doorbell(0, 0x3000, 0).unwrap();
        doorbell.ring().unwrap();
        assert!(!is_readable(function.removal_fd().unwrap()) && !function.is_gone());
        function.remove();
        assert!(is_readable(function.removal_fd().unwrap()) && function.is_gone());
        let gone = |outcome| matches!(outcome, Err(BusError::Gone { name }) if name == "loopback");
        assert!(gone(doorbell.ring()));
        assert!(gone(function.read_bar(0, 0, &mut [0])));
        assert!(gone(function.write_config(4, &[0])));
        assert!(gone(function.reset()));
        assert_eq!(function.pump(Instant::ORIGIN), 0);
        function.unshare(iova).unwrap();
    }
}
