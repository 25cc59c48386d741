//! Drives the router's core: polls, resets, delivers, and waits for events in between.
//!
//! The waiting is done on one epoll descriptor that holds every accelerator's events and the
//! router's own, so a thread and a tokio task wait for the same thing.

#[cfg(test)]
mod models;

use super::Shared;
use super::core::{Arrival, Core, Reset};
use super::events::Events;
use super::waiting::Waiting;
use crate::clock::Instant;
use rustix::event::{EventfdFlags, eventfd};
use std::cell::Cell;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Longest wait between two looks at accelerators: bounds what a lost event can cost.
const WAIT_MAX: Duration = Duration::from_millis(100);

/// Time between two looks when no descriptor can be had to wait on.
const BLIND_WAIT: Duration = Duration::from_millis(5);

/// The core and what drives it, under one lock.
pub(super) struct Inner {
    pub(super) core: Core,
    pub(super) stopping: bool,
    /// When the driver wakes up by itself. `ORIGIN` while it is awake.
    pub(super) sleeping_until: Instant,
    /// Who waits for what is in flight, and what has arrived for them.
    pub(super) waiting: Waiting,
    arrivals: Vec<Arrival>,
}

/// The core and what drives it, for who holds the lock. What is left to be done outside of it is done when
/// this is dropped.
pub(super) struct Locked<'a>(Option<MutexGuard<'a, Inner>>);

impl<'a> Locked<'a> {
    pub(super) fn new(inner: &'a Mutex<Inner>) -> Self {
        // The core's own invariants hold between statements that can panic; there are none.
        Self(Some(inner.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// Why there is always something in it.
const HELD: &str = "it is held until it is dropped";

impl Deref for Locked<'_> {
    type Target = Inner;

    #[inline]
    fn deref(&self) -> &Inner {
        self.0.as_ref().expect(HELD)
    }
}

impl DerefMut for Locked<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Inner {
        self.0.as_mut().expect(HELD)
    }
}

impl Drop for Locked<'_> {
    #[inline]
    fn drop(&mut self) {
        let left = self.waiting.take_left();
        self.0 = None;
        if let Some(left) = left {
            left.finish();
        }
    }
}

/// Wakes the driver from any thread.
pub(super) struct Wake(Option<OwnedFd>);

impl Wake {
    pub(super) fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Some(event)))
    }

    /// For a router that has no driver.
    pub(super) const fn unused() -> Self {
        Self(None)
    }

    pub(super) fn wake(&self) {
        #[cfg(test)]
        crate::model::step();
        if let Some(event) = &self.0 {
            // Nobody reads the counter: what waits is told of each write, see `Events::gather`.
            // So it fails only after as many wake-ups as fit into 64 bits.
            let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
        }
    }
}

impl Inner {
    pub(super) const fn new(core: Core) -> Self {
        Self {
            core,
            stopping: false,
            sleeping_until: Instant::ORIGIN,
            waiting: Waiting::new(),
            arrivals: Vec::new(),
        }
    }

    /// Whether the driver sleeps longer than it may now.
    pub(super) fn oversleeps(&self) -> bool {
        // While it is awake there is nothing to look for.
        self.sleeping_until != Instant::ORIGIN && self.core.next_wake() < self.sleeping_until
    }

    /// Returns whether anything has arrived.
    pub(super) fn poll(&mut self, now: Instant) -> bool {
        self.core.poll(now, &mut self.arrivals);
        let arrived = !self.arrivals.is_empty();
        self.deliver();
        arrived
    }

    fn take_due_reset(&mut self, now: Instant) -> Option<Reset> {
        let reset = self.core.take_due_reset(now, &mut self.arrivals);
        self.deliver();
        reset
    }

    fn restore(&mut self, reset: Reset, now: Instant) {
        self.core.restore(reset, now, &mut self.arrivals);
        self.deliver();
    }

    fn deliver(&mut self) {
        let mut arrivals = std::mem::take(&mut self.arrivals);
        for arrival in arrivals.drain(..) {
            let id = arrival.id;
            if !self.waiting.deliver(arrival) {
                self.core.abandon(id, true);
            }
        }
        self.arrivals = arrivals;
    }
}

/// What the driver is to do next.
enum Turn {
    Stop,
    Reset(Reset),
    /// Until there is an event, but no longer than this.
    Wait(Duration),
    Again,
}

fn turn(shared: &Shared) -> Turn {
    let Some(mut inner) = shared.lock() else {
        return Turn::Stop;
    };
    if inner.stopping {
        return Turn::Stop;
    }
    inner.sleeping_until = Instant::ORIGIN;
    let now = shared.clock.now();
    let arrived = inner.poll(now);
    inner.core.publish(&shared.outlook);
    if let Some(reset) = inner.take_due_reset(now) {
        return Turn::Reset(reset);
    }
    // Where something has arrived more is likely to follow, and to be waited for costs the card an
    // interrupt and us a wake-up.
    if arrived || !inner.core.arm() {
        return Turn::Again;
    }
    let next = inner.core.next_wake();
    inner.sleeping_until = next;
    Turn::Wait(next.since(now))
}

/// Has a reset, which may take seconds, run beside the driver: other accelerators have deadlines. It
/// goes to the thread that `spawn` starts. A host without one must not end the driver, nor keep the
/// accelerator from being tried later.
fn begin_reset(
    shared: &Shared,
    mut reset: Reset,
    spawn: impl FnOnce(std::thread::Builder, Receiver<Reset>) -> io::Result<()>,
) {
    // Handed over when the thread is there: one that does not start takes along what it was given.
    let (give, given) = sync_channel(1);
    let thread = std::thread::Builder::new().name("hwshim-reset".to_owned());
    match spawn(thread, given) {
        Ok(()) => {
            // It waits for this, and there is room.
            let _ = give.send(reset);
        }
        Err(error) => {
            reset.give_up(&error);
            put_back(shared, reset);
        }
    }
}

fn run_reset(shared: &Shared, mut reset: Reset) {
    reset.run();
    put_back(shared, reset);
}

fn put_back(shared: &Shared, reset: Reset) {
    if let Some(mut inner) = shared.lock() {
        inner.restore(reset, shared.clock.now());
    }
    shared.wake.wake();
}

/// Whether there may be other events to wait for than `events`.
fn are_stale(shared: &Shared, events: Option<&Events>) -> bool {
    let Some(inner) = shared.lock() else {
        return false;
    };
    events.is_none_or(|events| events.are_stale(&inner.core))
}

/// Gathers the events there are now. Something may have happened before, so whoever has gathered
/// them looks once more before waiting.
fn gather(shared: &Shared) -> Option<Events> {
    let inner = shared.lock()?;
    let Wake(wake) = &shared.wake;
    Events::gather(&inner.core, wake.as_ref().map(AsFd::as_fd)).ok()
}

/// Decides what the driver does next. Where that is to wait, `events` are those there are now, and
/// it has looked since they are: they are gathered into whatever `register` makes of them, out of
/// which `gathered` gets them again.
fn step<E>(
    shared: &Shared,
    events: &mut Option<E>,
    gathered: impl Fn(&E) -> &Events,
    register: impl Fn(Events) -> io::Result<E>,
) -> Turn {
    let turn = turn(shared);
    if matches!(turn, Turn::Wait(_)) && are_stale(shared, events.as_ref().map(gathered)) {
        *events = gather(shared).and_then(|events| register(events).ok());
        if events.is_some() {
            return Turn::Again;
        }
    }
    turn
}

thread_local! {
    static IS_DRIVER: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is one that a router ends only when it has ended. The code of others that is run in
/// it, to wake them, must not wait for that.
pub(super) fn is_this_thread() -> bool {
    // A thread that is ending runs nobody's code any more.
    IS_DRIVER.try_with(Cell::get).unwrap_or_default()
}

/// Drives the router until it stops.
pub(super) fn run(shared: &Shared) {
    IS_DRIVER.set(true);
    // Ends when the resets under way have ended, so that whoever waits for it finds every
    // accelerator let go of.
    std::thread::scope(|scope| drive(shared, scope));
}

fn drive<'scope>(shared: &'scope Shared, scope: &'scope std::thread::Scope<'scope, '_>) {
    let _last = LastTurn(shared);
    let mut events = None;
    loop {
        match step(shared, &mut events, |events| events, Ok) {
            Turn::Stop => return,
            Turn::Again => {}
            Turn::Reset(reset) => {
                begin_reset(shared, reset, |thread, given| {
                    let run = move || {
                        IS_DRIVER.set(true);
                        given.iter().for_each(|reset| run_reset(shared, reset));
                    };
                    thread.spawn_scoped(scope, run).map(drop)
                });
            }
            Turn::Wait(timeout) => match &events {
                Some(events) => events.wait(timeout.min(WAIT_MAX)),
                // No descriptor to wait on: the host has run out of them.
                None => std::thread::park_timeout(timeout.min(BLIND_WAIT)),
            },
        }
    }
}

/// Drives the router until it stops, as a task.
pub(super) async fn run_on_tokio(shared: Arc<Shared>) {
    let _last = LastTurn(&shared);
    let mut registered: Option<AsyncFd<Events>> = None;
    loop {
        match step(&shared, &mut registered, AsyncFd::get_ref, register) {
            Turn::Stop => return,
            Turn::Again => tokio::task::yield_now().await,
            Turn::Reset(reset) => {
                let for_thread = Arc::clone(&shared);
                // Nobody waits for it: it puts the accelerator back by itself. Not in the pool of the
                // runtime, which panics where there is no thread.
                begin_reset(&shared, reset, |thread, given| {
                    let run = move || given.iter().for_each(|it| run_reset(&for_thread, it));
                    thread.spawn(run).map(drop)
                });
            }
            Turn::Wait(timeout) => {
                let Some(registered) = &registered else {
                    tokio::time::sleep(timeout.min(BLIND_WAIT)).await;
                    continue;
                };
                let ready = registered.readable();
                let ready = tokio::time::timeout(timeout.min(WAIT_MAX), ready).await;
                if let Ok(Ok(mut ready)) = ready {
                    ready.get_inner().wait(Duration::ZERO);
                    ready.clear_ready();
                }
            }
        }
    }
}

#[expect(
    deprecated,
    reason = "deprecated for types whose descriptor may change; an epoll descriptor owned by the \
              value stays its own"
)]
fn register(events: Events) -> io::Result<AsyncFd<Events>> {
    AsyncFd::with_interest(events, Interest::READABLE)
}

/// When the driver ends, however it ends, nobody may be left waiting for it: what is in flight is
/// handed back, to be done in software.
struct LastTurn<'a>(&'a Shared);

impl Drop for LastTurn<'_> {
    fn drop(&mut self) {
        if let Some(mut inner) = self.0.lock() {
            inner.stopping = true;
            let now = self.0.clock.now();
            let mut arrivals = std::mem::take(&mut inner.arrivals);
            inner.core.hand_back_all(now, &mut arrivals);
            inner.arrivals = arrivals;
            inner.deliver();
            // Requests of an accelerator that is being reset were handed back before.
            inner.waiting.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::breaker::State;
    use super::super::models::{OPTIONS, TICK};
    use super::*;
    use crate::accelerator::software::Ring;
    use crate::clock::ManualClock;

    #[test]
    fn what_no_thread_is_there_to_reset_is_out_and_used_when_there_is_one() {
        let core = Core::new(vec![Box::new(Ring::default())], OPTIONS);
        let inner = Some(Mutex::new(Inner::new(core)));
        let mut shared = Shared::new(inner, OPTIONS, Wake::new().unwrap());
        let clock = Arc::new(ManualClock::new());
        shared.clock = Arc::clone(&clock) as _;
        let due_reset = || match turn(&shared) {
            Turn::Reset(reset) => Some(reset),
            _ => None,
        };
        let status = || shared.lock().unwrap().core.status(0);

        let refused = |_, _| Err(io::ErrorKind::WouldBlock.into());
        begin_reset(&shared, due_reset().unwrap(), refused);
        assert_eq!(status().breaker_opened_by, "reset-not-run");
        assert!(due_reset().is_none(), "it backs off");
        clock.advance(TICK);
        let reset = due_reset().expect("it is tried again");
        std::thread::scope(|scope| {
            begin_reset(&shared, reset, |thread, given| {
                let run = || given.into_iter().for_each(|it| run_reset(&shared, it));
                thread.spawn_scoped(scope, run).map(drop)
            });
        });
        // Its trial.
        assert!(due_reset().is_none());
        assert_eq!(status().breaker, State::Closed { failures: 0 });
    }
}
