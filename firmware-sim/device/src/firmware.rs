//! The card at work: engine threads, and the thread that answers the bus.
//!
//! The thread of [`run`] answers vfio-user messages and beats. Cryptography never happens on it,
//! because a virtual CPU waits for each answer. Each engine thread takes a batch of requests,
//! executes it, and completes it; only taking and completing hold the card's lock.
//!
//! ```text
//!             finds requests
//!   +------+ ---------------> +-----------+
//!   | SPIN |                  | EXECUTING |
//!   +------+ <--------------- +-----------+
//!      |  ^    queues empty
//!      |  | doorbell
//!      v  |
//!   +--------+   one thread, the lookout, listens to the doorbell; the others queue
//!   | PARKED |   up behind it, and the next one listens when it finds work
//!   +--------+
//! ```

use crate::batch::Batch;
use crate::card::Card;
use crate::clock::{self, Pace};
use crate::interrupt::signal;
use crate::server::{Listener, ServeError, serve};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How long an engine that has just been busy keeps looking at the queues. A driver that has
/// its answer needs 15 to 40 us to come back with the next request when it has to be woken up,
/// and a wake-up of ours would cost it as much again.
const SPIN: Duration = Duration::from_micros(50);
/// Pauses between two looks at the queues.
const SPIN_PAUSES: usize = 4;
/// How long a batch should take at most: an answer in it waits for all the others.
const BATCH_DURATION: Duration = Duration::from_micros(50);
/// Most requests in a batch: enough that locks and clocks cost little, few enough that a driver
/// takes answers and brings requests while the next batch is executed.
const BATCH_LEN_MAX: usize = 16;

/// A card, and what its threads share.
#[derive(Debug)]
pub(crate) struct Firmware {
    card: Mutex<Card>,
    engine_count: usize,
    /// The card's time.
    pace: Pace,
    /// Rung by drivers and by threads of ours that leave work behind.
    doorbell: OwnedFd,
    /// Held by the thread that listens to the doorbell.
    lookout: Mutex<()>,
    /// Threads that only a doorbell wakes.
    parked_count: AtomicUsize,
    stopping: AtomicBool,
}

/// Serves `card` on `listener`, each engine in a thread, until `stop` becomes readable.
///
/// # Errors
///
/// [`ServeError`] if the operating system gives out. What a client does is never an error here.
pub fn run(card: Card, listener: &Listener, stop: BorrowedFd<'_>) -> Result<(), ServeError> {
    run_at_speed(card, listener, 1.0, stop)
}

/// The same for a card that is told that `speed` times as much time has passed as has.
///
/// # Errors
///
/// As for [`run`].
pub fn run_at_speed(
    card: Card,
    listener: &Listener,
    speed: f64,
    stop: BorrowedFd<'_>,
) -> Result<(), ServeError> {
    let firmware = Firmware::new(card, speed).map_err(ServeError::Start)?;
    thread::scope(|scope| {
        let started = (0..firmware.engine_count).try_for_each(|index| {
            let firmware = &firmware;
            thread::Builder::new()
                .name(format!("engine-{index}"))
                .spawn_scoped(scope, move || firmware.work(index))
                .map(|_| ())
        });
        let outcome = started
            .map_err(ServeError::Start)
            .and_then(|()| serve(&firmware, listener, stop));
        firmware.stop();
        outcome
    })
}

impl Firmware {
    fn new(card: Card, speed: f64) -> io::Result<Self> {
        Ok(Self {
            pace: Pace::start(speed),
            engine_count: card.engine_count(),
            card: Mutex::new(card),
            doorbell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            lookout: Mutex::new(()),
            parked_count: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
        })
    }

    pub(crate) fn card(&self) -> MutexGuard<'_, Card> {
        self.card.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The card's time.
    pub(crate) fn time(&self) -> Duration {
        self.pace.now()
    }

    /// How long the host has to wait for so much of the card's time.
    pub(crate) fn on_the_host(&self, timeout: Duration) -> Duration {
        self.pace.on_the_host(timeout)
    }

    /// The eventfd that a driver may write instead of a doorbell register.
    pub(crate) fn doorbell(&self) -> BorrowedFd<'_> {
        self.doorbell.as_fd()
    }

    /// Wakes an engine, if one has to be woken: a thread parks under the card's lock and after a
    /// last look at the queues, so whoever has held the lock since sees it counted.
    pub(crate) fn wake(&self) {
        if self.parked_count.load(Ordering::SeqCst) > 0 {
            signal(&self.doorbell);
        }
    }

    fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        signal(&self.doorbell);
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Runs one engine until [`Firmware::stop`].
    fn work(&self, engine_index: usize) {
        let mut engine = EngineThread {
            firmware: self,
            batch: Batch::new(engine_index),
            batch_len: 1,
            is_fast: false,
            attentive: false,
        };
        while !self.is_stopping() {
            if engine.turn() == 0 && !engine.spin() {
                engine.park();
            }
        }
        // Whoever is lookout next has to learn that it is over.
        signal(&self.doorbell);
    }
}

/// One engine thread.
struct EngineThread<'a> {
    firmware: &'a Firmware,
    batch: Batch,
    /// How many requests to take at once, so that a batch keeps to [`BATCH_DURATION`].
    batch_len: usize,
    /// Whether the last batch did.
    is_fast: bool,
    /// Whether the card counts on this thread to look at the queues without being told.
    attentive: bool,
}

impl EngineThread<'_> {
    /// Takes a batch, executes it and completes it. Returns how many requests there were.
    fn turn(&mut self) -> usize {
        let mut card = self.firmware.card();
        // Requests are shared out, because one that takes long holds up its batch. As many as there
        // are lanes take no longer than one.
        let lanes = card.lanes();
        let share = card.pending().div_ceil(self.firmware.engine_count);
        let count_max = share.min(self.batch_len).max(lanes);
        let taken = card.take(&mut self.batch, count_max);
        let leaves_work = card.pending() > 0;
        // An engine that is slow leaves the doorbell to those that are idle.
        let attentive = taken == 0 || self.is_fast;
        set_attentive(&mut self.attentive, &mut card, attentive);
        drop(card);
        if taken == 0 {
            return 0;
        }
        if leaves_work {
            self.firmware.wake();
        }
        let started = clock::now();
        self.batch.execute();
        self.adapt(clock::now().saturating_sub(started), taken);
        let mut card = self.firmware.card();
        if card.is_interposed() {
            // It may hold answers up, and has to know until when.
            card.tick(self.firmware.time());
        }
        card.complete(&mut self.batch);
        taken
    }

    fn adapt(&mut self, elapsed: Duration, taken: usize) {
        self.is_fast = elapsed <= BATCH_DURATION;
        if !self.is_fast {
            self.batch_len = (self.batch_len / 2).max(1);
        } else if taken == self.batch_len {
            self.batch_len = (self.batch_len * 2).min(BATCH_LEN_MAX);
        }
    }

    /// Looks at the queues for a little while. Returns whether there is work.
    fn spin(&self) -> bool {
        let end = clock::now() + SPIN;
        while clock::now() < end && !self.firmware.is_stopping() {
            if self.firmware.card().pending() > 0 {
                return true;
            }
            // Long enough that the thread that answers the bus gets the lock, and short: on
            // recent CPUs each of these takes 40 ns or more, and a lone request waits for it.
            for _ in 0..SPIN_PAUSES {
                std::hint::spin_loop();
            }
        }
        false
    }

    /// Waits for a doorbell.
    fn park(&mut self) {
        let firmware = self.firmware;
        {
            let mut card = firmware.card();
            set_attentive(&mut self.attentive, &mut card, false);
            // From here on drivers ring; what came before they could know is seen now.
            if card.pending() > 0 {
                return;
            }
            firmware.parked_count.fetch_add(1, Ordering::SeqCst);
        }
        {
            let _lookout = firmware
                .lookout
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if !firmware.is_stopping() {
                let mut fds = [PollFd::new(&firmware.doorbell, PollFlags::IN)];
                // Interrupted or failed, the queues are looked at all the same.
                let _ = poll(&mut fds, None);
                let _ = rustix::io::read(&firmware.doorbell, &mut [0; 8]);
            }
        }
        firmware.parked_count.fetch_sub(1, Ordering::SeqCst);
    }
}

fn set_attentive(is: &mut bool, card: &mut Card, attentive: bool) {
    if *is != attentive {
        *is = attentive;
        card.set_attentive(attentive);
    }
}
