//! Who may stand between an honest card and everything outside it.
//!
//! **Seam.** As a PCI Express interposer sits between card and slot, an [`Interposer`] sits between
//! [`Card`] and whoever looks at it: it sees register accesses, answers and interrupts pass, and
//! decides what gets through. What only firmware can do, it does by [`Hands`]. This module knows how
//! an answer is late, doubled or lost, and not why.
//!
//! ```text
//!   driver ---- registers ----> [write] ----> card           [tick] --- Hands ---> card
//!   driver <--- registers ----- [read] <----- card
//!   driver ---- requests -----> [admit] ----> engines
//!   driver <--- answers ------- [deliver] <-- engines         Now | At(later) | Never
//!   driver <--- interrupts ---- [interrupt] - card            any number of times
//! ```

use crate::batch::{Answer, Batch, Origin, write_answer};
use crate::card::Card;
use crate::dma::{DmaFault, DmaMap};
use crate::health::Incident;
use crate::virtqueue::Segment;
use card_spec::crypto::Status;
use card_spec::health::Summary;
use std::fmt;
use std::time::Duration;

/// Sees everything that passes between a card and the outside.
///
/// Every method that is not written down lets things pass. All are called under whatever lock
/// guards the card.
pub trait Interposer: Send + fmt::Debug {
    /// Time passes.
    fn tick(&mut self, now: Duration, hands: &mut Hands<'_>) {
        let _ = (now, hands);
    }

    /// When it has to be told the time next. `None` if it need not be.
    fn next_tick(&self) -> Option<Duration> {
        None
    }

    /// Whether the firmware runs: whether it beats, takes requests and answers those it has. What
    /// it has not answered when it stops it answers when it goes on.
    fn firmware_runs(&self) -> bool {
        true
    }

    /// Whether the firmware beats.
    fn firmware_beats(&self) -> bool {
        self.firmware_runs()
    }

    /// How many of `waiting` requests the firmware may take now.
    fn admit(&mut self, waiting: usize) -> usize {
        waiting
    }

    /// `buf` is what the card lets somebody read at `offset` in `place`.
    fn read(&mut self, place: Place, offset: u64, buf: &mut [u8]) {
        let _ = (place, offset, buf);
    }

    /// Whether a write of `bytes` at `offset` in `place` reaches the card.
    fn write(&mut self, place: Place, offset: u64, bytes: &[u8]) -> bool {
        let _ = (place, offset, bytes);
        true
    }

    /// The driver, or by function the bus, has reset the card.
    fn reset(&mut self, by_function: bool) {
        let _ = by_function;
    }

    /// How an answer gets to the driver.
    fn deliver(&mut self, now: Duration, answer: &Answered) -> Delivery {
        let _ = (now, answer);
        Delivery::HONEST
    }

    /// How often an interrupt that is due is raised.
    fn interrupt(&mut self, vector: u16) -> u32 {
        let _ = vector;
        1
    }
}

/// Where a register is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// Configuration space.
    Configuration,
    /// The BAR of this index.
    Bar(u8),
}

/// A request that has been executed.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// The queue it came from.
    pub queue_index: u16,
    /// Whether that is the control queue.
    pub is_control: bool,
    /// What was asked, see [`card_spec::crypto::data_opcode`] and `control_opcode`.
    pub opcode: u32,
    /// The session it was for, or has opened; 0 for none.
    pub session_id: u64,
    /// First descriptor of its chain.
    pub head: u16,
    /// How it ended.
    pub status: Status,
    /// Length of the result in bytes.
    pub result_len: usize,
}

/// What becomes of an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Delivery {
    /// When it gets into the used ring.
    pub when: When,
    /// How many used elements name it. An honest card gives one.
    pub copies: u8,
    /// The first descriptor that the used element names, if not its own.
    pub head: Option<u16>,
    /// The length that the used element claims, if not what was written.
    pub written: Option<u32>,
}

impl Delivery {
    /// At once, once, as it is.
    pub const HONEST: Self = Self {
        when: When::Now,
        copies: 1,
        head: None,
        written: None,
    };
}

/// When an answer is delivered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum When {
    /// At once.
    Now,
    /// At the first tick from this time on.
    At(Duration),
    /// Never.
    Never,
}

/// What only firmware can do to its card.
pub struct Hands<'a> {
    pub(crate) card: &'a mut Card,
}

impl Hands<'_> {
    /// The registers of the health page, as the card shows them from now on. What it counts itself
    /// it goes on counting: heartbeat, uptime and statistics are overwritten.
    pub fn health(&mut self) -> &mut Summary {
        self.card.health.registers_mut()
    }

    /// Configuration space, 4 KiB. The driver's writes go on changing what is writable.
    pub fn configuration(&mut self) -> &mut [u8] {
        self.card.config_space.bytes_mut()
    }

    /// Restarts the firmware without being asked: sessions, queues and what it was doing are gone,
    /// and uptime and heartbeat begin anew. What the host has set up, memory and interrupts, stays.
    pub fn restart(&mut self, boot_id: u32) {
        self.card.restart(boot_id);
    }

    /// Forgets every session, and with them the keys.
    pub fn forget_sessions(&mut self) {
        self.card.forget_sessions();
    }

    /// Adds an entry to the error log, and reports it by `uncorrectable`, bits of
    /// [`card_spec::health::uncorrectable`].
    pub fn log(&mut self, text: &str, uncorrectable: u32) {
        self.card.health.log(&Incident {
            queue_index: u16::MAX,
            head_index: 0,
            status: Status::ERR,
            session_id: 0,
            opcode: 0,
            text,
            uncorrectable,
        });
    }

    /// Asks the driver for a reset (`DEVICE_NEEDS_RESET`, virtio 1.3 §2.1.1), and does nothing
    /// until it gets one.
    pub fn ask_for_reset(&mut self) {
        self.card.ask_for_reset();
    }

    /// Takes the card out of its slot: it has no power, nothing reaches it, and what the host has
    /// set up for it is gone.
    pub fn remove(&mut self) {
        self.card.remove();
    }

    /// Puts the card back into its slot: it starts as it does after power-on.
    pub fn insert(&mut self, boot_id: u32) {
        self.card.insert(boot_id);
    }

    /// Turns the light on or off, as of `at`, which may be a moment ago. What it is already is no
    /// edge.
    pub fn light(&mut self, at: Duration, lit: bool) {
        self.card.health.light(at, lit);
    }

    /// Raises an interrupt that nothing has caused.
    pub fn interrupt(&mut self, vector: u16) {
        self.card.interrupts.trigger_msix(vector);
    }

    /// Puts an element into a queue's used ring that answers nothing, and says whether the driver
    /// has such a queue.
    pub fn give(&mut self, queue_index: u16, head: u16, written: u32) -> bool {
        self.card.give_unasked(queue_index, head, written)
    }

    /// Memory that the card may write: address and length in bytes of each piece.
    pub fn writable_memory(&self) -> Vec<(u64, u64)> {
        self.card.dma.writable()
    }

    /// Writes to the driver's memory where nothing was asked for.
    ///
    /// # Errors
    ///
    /// Where the driver does not let it.
    pub fn write_memory(&mut self, iova: u64, bytes: &[u8]) -> Result<(), DmaFault> {
        self.card.dma.write(iova, bytes)
    }
}

impl fmt::Debug for Hands<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hands").finish_non_exhaustive()
    }
}

/// An answer that is not there yet.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) due: Duration,
    pub(crate) origin: Origin,
    pub(crate) head: u16,
    pub(crate) delivery: Delivery,
    /// How the request ended.
    pub(crate) answer: Answer,
    result: Vec<u8>,
    status: Option<Status>,
    writable: Vec<Segment>,
}

impl Held {
    /// Keeps a copy of an answer, for the batch is needed again.
    pub(crate) fn new(batch: &Batch, index: usize, due: Duration, delivery: Delivery) -> Self {
        let slot = &batch.slots[index];
        let (result, status) = batch.answer(index);
        Self {
            due,
            origin: slot.origin,
            head: slot.head,
            delivery,
            answer: slot.answer.clone(),
            result: result.to_vec(),
            status,
            writable: batch.writable(index).to_vec(),
        }
    }

    /// Writes it, and returns the length for the used element.
    pub(crate) fn write_back(&self, dma: &DmaMap) -> Result<u32, DmaFault> {
        write_answer(dma, &self.writable, &self.result, self.status)
    }
}
