//! The thread that executes batches, and what it shares with the accelerator.
//!
//! ```text
//!   accelerator                      worker
//!     push, under the lock  ------>  take a batch, under the lock
//!     flush: wake                    execute it, without
//!     take results  <--------------  leave results, under the lock
//!          ^                         eventfd, if somebody waits
//!          +------------------------
//! ```

use super::super::class::Class;
use super::super::least::Least;
use super::super::{DeviceError, Unverified};
use super::gather::Gather;
use super::work::{self, Kind, Work};
use crate::clock::{Clock, Instant, SystemClock};
use ::multi_buffer::{LANES, MultiBuffer};
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Names a request to the worker; numbers are not used twice.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Ticket(pub(super) u64);

/// A request that has been executed.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) ticket: Ticket,
    pub(super) output: Result<Unverified<Vec<u8>>, DeviceError>,
}

/// What batches take, by class, if one was executed.
pub(super) type Takes = [Option<Duration>; Class::ALL.len()];

/// The thread. Ends when dropped, after the batch that it is at.
#[derive(Debug)]
pub(super) struct Worker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    /// Something was pushed, or it is time to end.
    wake: Condvar,
    /// Signalled when there are results, if somebody has asked for that.
    event: OwnedFd,
}

#[derive(Debug)]
struct Inner {
    gather: Gather<Kind, (Ticket, Work)>,
    done: Vec<Done>,
    takes: Takes,
    /// Somebody waits for results.
    armed: bool,
    /// The event has been signalled and not yet been taken.
    signalled: bool,
    stopping: bool,
    /// The thread has ended, by itself.
    ended: bool,
}

impl Worker {
    /// Starts the thread.
    pub(super) fn start(library: MultiBuffer) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            inner: Mutex::new(Inner {
                gather: Gather::new(LANES),
                done: Vec::new(),
                takes: [None; Class::ALL.len()],
                armed: false,
                signalled: false,
                stopping: false,
                ended: false,
            }),
            wake: Condvar::new(),
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        });
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("multi-buffer".to_owned())
            .spawn(move || run(&theirs, &library))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Hands over an operation. [`Worker::flush`] sees to it that it is looked at.
    pub(super) fn push(&self, ticket: Ticket, work: Work, now: Instant) {
        let kind = work.kind();
        self.shared.lock().gather.push(kind, (ticket, work), now);
    }

    /// Wakes the thread.
    pub(super) fn flush(&self) {
        self.shared.wake.notify_one();
    }

    /// Takes results out. Returns what batches take.
    pub(super) fn take_done(&self, done: &mut Vec<Done>) -> Takes {
        let mut inner = self.shared.lock();
        done.append(&mut inner.done);
        if std::mem::take(&mut inner.signalled) {
            // What it counted is of no interest, and that it counted is known.
            let _ = rustix::io::read(&self.shared.event, &mut [0; 8]);
        }
        inner.takes
    }

    /// Lets go of operations that have not begun and that nobody wants any more.
    pub(super) fn retain(&self, mut is_wanted: impl FnMut(Ticket) -> bool) {
        let mut inner = self.shared.lock();
        inner.gather.retain(|(ticket, _)| is_wanted(*ticket));
    }

    /// Asks for an event when there are results. Returns false if there are some now.
    pub(super) fn arm(&self) -> bool {
        let mut inner = self.shared.lock();
        inner.armed = inner.done.is_empty() && !inner.ended;
        inner.armed
    }

    /// Where the event comes.
    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.shared.event.as_fd()
    }

    /// Whether the thread has ended, which only a panic can make it do.
    pub(super) fn has_ended(&self) -> bool {
        self.shared.lock().ended
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.flush();
        if let Some(thread) = self.thread.take() {
            // One that has panicked has said so already.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Nothing panics while holding the lock, so what is behind it is whole.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn announce(&self, inner: &mut Inner) {
        if std::mem::take(&mut inner.armed) {
            inner.signalled = true;
            // Fails only when it has counted to 2^64.
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }
}

fn run(shared: &Shared, library: &MultiBuffer) {
    let _last = LastWord(shared);
    let clock = SystemClock;
    let mut times = [Least::NONE; Class::ALL.len()];
    let mut inner = shared.lock();
    while !inner.stopping {
        let now = clock.now();
        let Some((kind, batch)) = inner.gather.take_due(now) else {
            inner = wait(shared, inner, now);
            continue;
        };
        drop(inner);
        let outputs = work::execute(library, kind, batch.iter().map(|(_, work)| work));
        let took = clock.now().since(now);
        let class = kind.class().index();
        times[class].record(took);
        inner = shared.lock();
        inner.gather.executed(kind, took);
        inner.takes[class] = times[class].get();
        let tickets = batch.iter().map(|(ticket, _)| *ticket);
        let done = tickets.zip(outputs);
        inner.done.extend(done.map(|(ticket, output)| Done {
            ticket,
            output: output.map(Unverified::new),
        }));
        shared.announce(&mut inner);
    }
}

/// Waits until something is due or was pushed.
fn wait<'a>(
    shared: &'a Shared,
    inner: MutexGuard<'a, Inner>,
    now: Instant,
) -> MutexGuard<'a, Inner> {
    let due = inner.gather.next_due();
    if due == Instant::NEVER {
        let woken = shared.wake.wait(inner);
        return woken.unwrap_or_else(PoisonError::into_inner);
    }
    let woken = shared.wake.wait_timeout(inner, due.since(now));
    woken.unwrap_or_else(PoisonError::into_inner).0
}

/// However the thread ends, whoever waits for it is told.
struct LastWord<'a>(&'a Shared);

impl Drop for LastWord<'_> {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        inner.ended = !inner.stopping;
        self.0.announce(&mut inner);
    }
}
