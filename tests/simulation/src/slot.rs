//! A slot with a card in it: connecting to it, and the engines of its firmware.
//!
//! Engines take one request each, and complete it when as much virtual time has passed as a card
//! would have needed. They look at the queues when a doorbell tells them to, and as long as they
//! find something, as the firmware's threads do.

use crate::witness::Witness;
use card_device::{Batch, Card};
use firmware_sim::fault::SharedScript;
use hwshim::bus::loopback::LoopbackFunction;
use hwshim::bus::{BusError, Function};
use hwshim::clock::Instant;
use hwshim::virtio::Connect;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// The slot's name: the address of what is in it.
pub(crate) const NAME: &str = "loopback";

/// A slot.
pub(crate) struct Slot {
    card: Arc<Mutex<Card>>,
    /// How whoever connected last reaches the card, while he does.
    function: Arc<Mutex<Weak<LoopbackFunction>>>,
    engines: Vec<VirtualEngine>,
    witness: Arc<Witness>,
    /// Who counts the wrong answers.
    script: SharedScript,
    /// Wrong answers to callers, of those.
    spoiled_for_callers: u64,
    /// Some engine looks at the queues without being told.
    attentive: bool,
    /// When the card wants to be told the time next.
    next_tick: Instant,
}

struct VirtualEngine {
    batch: Batch,
    /// When it is done with its request, if it has one.
    done_at: Option<Instant>,
}

impl Slot {
    /// A slot with `card` in it, which lies as `script` says.
    pub(crate) fn new(card: Card, witness: Arc<Witness>, script: &SharedScript) -> Self {
        let engine = |index| VirtualEngine {
            batch: Batch::new(index),
            done_at: None,
        };
        Self {
            engines: (0..card.engine_count()).map(engine).collect(),
            card: Arc::new(Mutex::new(card)),
            function: Arc::default(),
            witness,
            script: Arc::clone(script),
            spoiled_for_callers: 0,
            attentive: false,
            next_tick: Instant::ORIGIN,
        }
    }

    /// How a driver reaches what is in the slot. As the kernel does, opening it resets it.
    pub(crate) fn connect(&self) -> Connect {
        let (card, function) = (Arc::clone(&self.card), Arc::clone(&self.function));
        Box::new(move || {
            if !lock(&card).is_present() {
                return Err(BusError::Gone {
                    name: NAME.to_owned(),
                });
            }
            // Nobody else has it open, so what the bus has reported before is nobody's any more.
            let opened = Arc::new(LoopbackFunction::new(NAME, Arc::clone(&card))?);
            *lock(&function) = Arc::downgrade(&opened);
            opened.reset()?;
            Ok(opened as Arc<dyn Function>)
        })
    }

    /// Whether there is a card in it.
    pub(crate) fn is_occupied(&self) -> bool {
        lock(&self.card).is_present()
    }

    /// Reads configuration space, as a kernel does beside the driver.
    pub(crate) fn read_config(&self, offset: u64, buf: &mut [u8]) {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        lock(&self.card).read_config(offset, buf);
    }

    /// Writes configuration space, as a kernel does beside the driver.
    pub(crate) fn write_config(&self, offset: u64, bytes: &[u8]) {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        lock(&self.card).write_config(offset, bytes);
    }

    /// Has the bus report an uncorrectable error of what is in the slot. Returns whether anybody
    /// is connected to be told.
    pub(crate) fn report_error(&self) -> bool {
        let function = lock(&self.function).upgrade();
        if let Some(function) = &function {
            function.report_error();
        }
        function.is_some()
    }

    /// Tells the card the time, due or not.
    pub(crate) fn tell_time(&mut self, now: Instant) {
        let card = Arc::clone(&self.card);
        let mut card = lock(&card);
        let time = Duration::from_nanos(now.as_nanos());
        card.tick(time);
        self.next_tick = now.plus(card.until_next_tick(time));
        let is_present = card.is_present();
        drop(card);
        if !is_present {
            for engine in &mut self.engines {
                engine.done_at = None;
            }
            self.notice_removal();
        }
    }

    /// Tells the card the time if it is due, and has its engines do what is due. Returns whether
    /// there was anything.
    pub(crate) fn work(&mut self, now: Instant) -> bool {
        let is_done = |engine: &VirtualEngine| engine.done_at.is_some_and(|done_at| done_at <= now);
        if now >= self.next_tick || self.engines.iter().any(is_done) {
            self.tell_time(now);
        }
        let card = Arc::clone(&self.card);
        let mut card = lock(&card);
        if !card.is_present() {
            return false;
        }
        let mut progress = false;
        self.attentive |= card.take_doorbell();
        for engine in &mut self.engines {
            if is_done(engine) {
                engine.done_at = None;
                card.complete(&mut engine.batch);
                self.attentive = true;
                progress = true;
            }
        }
        if progress {
            // Answers may have been held up.
            let time = Duration::from_nanos(now.as_nanos());
            self.next_tick = now.plus(card.until_next_tick(time));
        }
        if !self.attentive {
            return progress;
        }
        for engine in &mut self.engines {
            if engine.done_at.is_some() {
                continue;
            }
            if card.pending() == 0 || card.take(&mut engine.batch, 1) == 0 {
                self.attentive = false;
                break;
            }
            let (callers, spoiled) = (self.witness.callers(), lock(&self.script).spoiled());
            engine.batch.execute();
            // It has been one request, so it is known whose the wrong answer was.
            if self.witness.callers() > callers {
                self.spoiled_for_callers += lock(&self.script).spoiled() - spoiled;
            }
            engine.done_at = Some(now.plus(self.witness.take_cost()));
            progress = true;
        }
        progress
    }

    /// Looks at the function, which then knows that its card has gone, and says so.
    fn notice_removal(&self) {
        if let Some(function) = lock(&self.function).upgrade() {
            let gone = function.read_config(0, &mut [0; 2]);
            debug_assert!(gone.is_err(), "a card that is gone answers nobody");
        }
    }

    /// Wrong answers to callers so far.
    pub(crate) const fn spoiled_for_callers(&self) -> u64 {
        self.spoiled_for_callers
    }

    /// When an engine is done next.
    pub(crate) fn next_done(&self) -> Instant {
        let done = self.engines.iter().filter_map(|engine| engine.done_at);
        done.min().unwrap_or(Instant::NEVER)
    }

    /// When the card wants to be told the time next.
    pub(crate) const fn next_tick(&self) -> Instant {
        self.next_tick
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot")
            .field("card", &*lock(&self.card))
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
