//! A card that can be made to lie: honest device side, and a hand in what the driver sees of it.

use card_device::engine::{Offer, Operation, Session, SessionSpec};
use card_device::{Card, CardConfig, Engine};
use card_spec::crypto::Status;
use hwshim::bus::dma::{Iova, Memory};
use hwshim::bus::loopback::LoopbackFunction;
use hwshim::bus::{Access, BusError, Doorbell, Function};
use hwshim::clock::Instant;
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};

/// An honest card in this process.
pub(super) fn honest() -> Card {
    Card::new(&CardConfig::default(), Arc::new(Zeros)).expect("the default can be made")
}

/// A function whose answers and memory the fuzzer can change.
#[derive(Debug)]
pub(super) struct Liar {
    card: LoopbackFunction,
    /// What the device may write.
    memories: Mutex<Vec<Arc<Memory>>>,
    /// Added to bytes of registers, one after the other as they are read.
    lies: Mutex<VecDeque<u8>>,
}

impl Liar {
    pub(super) fn new() -> Arc<Self> {
        let card = LoopbackFunction::new("fuzz", Arc::new(Mutex::new(honest())));
        Arc::new(Self {
            card: card.expect("there are descriptors left"),
            memories: Mutex::default(),
            lies: Mutex::default(),
        })
    }

    /// Lets the card answer what waits.
    pub(super) fn pump(&self, now: Instant) {
        self.card.pump(now);
    }

    pub(super) fn remove(&self) {
        self.card.remove();
    }

    /// Tells lies at the next reads of registers.
    pub(super) fn lie(&self, lies: &[u8]) {
        let mut pending = self.lies.lock().unwrap_or_else(PoisonError::into_inner);
        pending.extend(lies);
    }

    /// Writes into what the device may write, wherever that ends up.
    pub(super) fn scribble(&self, which: u8, offset: usize, bytes: &[u8]) {
        let memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(memory) = memories.get(usize::from(which) % memories.len().max(1)) else {
            return;
        };
        let offset = offset % memory.len();
        let len = bytes.len().min(memory.len() - offset);
        memory.write(offset, &bytes[..len]);
    }

    fn distort(&self, bytes: &mut [u8]) {
        let mut lies = self.lies.lock().unwrap_or_else(PoisonError::into_inner);
        for byte in bytes {
            *byte = byte.wrapping_add(lies.pop_front().unwrap_or_default());
        }
    }
}

impl Function for Liar {
    fn name(&self) -> &str {
        self.card.name()
    }

    fn read_config(&self, offset: u16, buf: &mut [u8]) -> Result<(), BusError> {
        self.card.read_config(offset, buf)?;
        self.distort(buf);
        Ok(())
    }

    fn write_config(&self, offset: u16, bytes: &[u8]) -> Result<(), BusError> {
        self.card.write_config(offset, bytes)
    }

    fn bar_len(&self, bar: u8) -> Result<u64, BusError> {
        self.card.bar_len(bar)
    }

    fn read_bar(&self, bar: u8, offset: u64, buf: &mut [u8]) -> Result<(), BusError> {
        self.card.read_bar(bar, offset, buf)?;
        self.distort(buf);
        Ok(())
    }

    fn write_bar(&self, bar: u8, offset: u64, bytes: &[u8]) -> Result<(), BusError> {
        self.card.write_bar(bar, offset, bytes)
    }

    fn doorbell(&self, bar: u8, offset: u64, value: u16) -> Result<Doorbell, BusError> {
        self.card.doorbell(bar, offset, value)
    }

    fn share(&self, memory: &Arc<Memory>, access: Access) -> Result<Iova, BusError> {
        if access == Access::DeviceWrites {
            let mut memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
            memories.push(Arc::clone(memory));
        }
        self.card.share(memory, access)
    }

    fn unshare(&self, iova: Iova) -> Result<(), BusError> {
        self.card.unshare(iova)
    }

    fn vector_count(&self) -> Result<u16, BusError> {
        self.card.vector_count()
    }

    fn connect_vectors<'a>(&self, eventfds: &[BorrowedFd<'a>]) -> Result<(), BusError> {
        self.card.connect_vectors(eventfds)
    }

    fn reset(&self) -> Result<(), BusError> {
        self.card.reset()
    }

    fn removal_fd<'a>(&'a self) -> Option<BorrowedFd<'a>> {
        self.card.removal_fd()
    }

    fn is_gone(&self) -> bool {
        self.card.is_gone()
    }
}

/// Offers everything, opens everything, and answers zeros: what is fuzzed is how answers are
/// taken, not whether they are right.
#[derive(Debug)]
struct Zeros;

impl Engine for Zeros {
    fn offer(&self) -> Offer {
        Offer {
            ciphers: u64::MAX,
            hashes: u32::MAX,
            macs: u64::MAX,
            aeads: u32::MAX,
            akciphers: u32::MAX,
            cipher_key_len_max: 64,
            auth_key_len_max: 256,
        }
    }

    fn open(&self, _spec: &SessionSpec, _key: &[u8]) -> Result<Arc<dyn Session>, Status> {
        Ok(Arc::new(Self))
    }
}

impl Session for Zeros {
    fn execute(&self, _operation: &Operation<'_>, output: &mut [u8]) -> Result<usize, Status> {
        output.fill(0);
        Ok(output.len())
    }
}
