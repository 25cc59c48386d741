//! Models of who wakes whom: callers, the driver, its card, resets and the end of the router.
//!
//! What runs is [`super`] itself with its lock, its eventfd and its epoll descriptor; the model
//! stands in for the kernel only where it would block, and there it looks again and again whether
//! the kernel would go on. The timeout that bounds a lost event outside does not exist here: who
//! sleeps without a deadline sleeps until somebody wakes it.

use super::super::breaker::State;
use super::super::models::{OPTIONS, TICK, Wire, digest, ready_core};
use super::super::{Owner, Router};
use super::*;
use crate::accelerator::Operation;
use crate::accelerator::software::perform;
use crate::clock::ManualClock;
use crate::kat;
use crate::key::SignatureScheme;
use crate::model;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use shuttle::rand::Rng;
use shuttle::thread::{self, JoinHandle};
use std::future::Future;
use std::pin::pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

/// Looks of a sleeper, by which time everybody else has done what they had to.
const LOOKS_MAX: usize = 5_000;

/// A router with the threads around it.
struct World {
    router: Router,
    shared: Arc<Shared>,
    clock: Arc<ManualClock>,
    wire: Arc<Wire>,
    ended: Arc<AtomicBool>,
    driver: JoinHandle<()>,
}

impl World {
    fn new() -> Self {
        let (core, wire) = ready_core();
        let clock = Arc::new(ManualClock::new());
        let inner = Some(Mutex::new(Inner::new(core)));
        let mut shared = Shared::new(inner, OPTIONS, Wake::new().unwrap());
        shared.clock = Arc::clone(&clock) as _;
        shared.driver_is_a_task = true;
        let shared = Arc::new(shared);
        let driven = Arc::clone(&shared);
        let driver = thread::spawn(move || drive_model(&driven));
        let owner = Owner {
            shared: Arc::clone(&shared),
            thread: None,
        };
        Self {
            router: Router(Arc::new(owner)),
            shared,
            clock,
            wire,
            ended: Arc::default(),
            driver,
        }
    }

    /// Starts the device: it does with each request what `answer` says, and then interrupts.
    fn device(&self, answer: impl Fn(&Operation) -> Vec<u8> + Send + 'static) -> JoinHandle<()> {
        let (wire, ended) = (Arc::clone(&self.wire), Arc::clone(&self.ended));
        thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                if wire.answer(&answer) {
                    model::step();
                    wire.interrupt();
                }
                model::step();
            }
        })
    }

    fn caller(&self, message: u8) -> JoinHandle<()> {
        let router = self.router.clone();
        thread::spawn(move || {
            let output = shuttle::future::block_on(router.perform_async(digest(message)));
            assert_eq!(output, perform(&digest(message)));
        })
    }

    /// Signs in software, and looks for answers of the card after each signature.
    fn signer(&self) -> JoinHandle<()> {
        let router = self.router.clone();
        thread::spawn(move || {
            let key = kat::p256_key();
            for _ in 0..3 {
                let sign = || {
                    model::step();
                    Ok::<_, ()>(())
                };
                router
                    .sign_beside(SignatureScheme::EcdsaP256Sha256, &key, sign)
                    .unwrap();
            }
        })
    }

    /// Has time go on until the world ends.
    fn time(&self) -> JoinHandle<()> {
        let (clock, ended) = (Arc::clone(&self.clock), Arc::clone(&self.ended));
        thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                clock.advance(TICK / 4);
                model::step();
            }
        })
    }

    fn observer(&self) -> JoinHandle<()> {
        let router = self.router.clone();
        thread::spawn(move || {
            for _ in 0..3 {
                let requests = router.requests();
                assert!(requests.add_up(), "{requests:?}");
            }
        })
    }

    /// Drops the router, which must end the driver and leave nothing in flight.
    fn end(self, devices: impl IntoIterator<Item = JoinHandle<()>>) {
        drop(self.router);
        self.driver.join().unwrap();
        self.ended.store(true, Ordering::Relaxed);
        for device in devices {
            device.join().unwrap();
        }
        let requests = self.shared.lock().unwrap().core.requests();
        assert!(requests.add_up() && requests.in_flight == 0, "{requests:?}");
    }
}

/// [`drive`], which blocks where only the scheduler may.
fn drive_model(shared: &Arc<Shared>) {
    let _last = LastTurn(shared);
    let mut events = None;
    let mut resets = Vec::new();
    loop {
        match step(shared, &mut events, |events| events, Ok) {
            Turn::Stop => break,
            Turn::Again => model::step(),
            Turn::Reset(reset) => {
                let shared = Arc::clone(shared);
                resets.push(thread::spawn(move || run_reset(&shared, reset)));
            }
            Turn::Wait(timeout) => {
                let events = events.as_ref().expect("the host has descriptors");
                sleep(shared, events, timeout);
            }
        }
    }
    for reset in resets {
        reset.join().unwrap();
    }
}

/// Sleeps until there is an event, or for `timeout`.
fn sleep(shared: &Shared, events: &Events, timeout: Duration) {
    let until = shared.clock.now().plus(timeout);
    for _ in 0..LOOKS_MAX {
        let mut fds = [PollFd::new(events, PollFlags::IN)];
        if poll(&mut fds, Some(&Timespec::default())) == Ok(1) {
            return events.wait(Duration::ZERO);
        }
        if shared.clock.now() >= until {
            return;
        }
        model::step();
    }
    panic!("the driver sleeps, and nobody wakes it");
}

fn right(operation: &Operation) -> Vec<u8> {
    perform(operation).unwrap()
}

/// Time stands still, so nothing but an event gets a caller its answer.
#[test]
fn no_interleaving_loses_a_wake_up() {
    model::sample("driver: callers, a card and the end", 3_000, || {
        let world = World::new();
        let device = world.device(right);
        let callers = [world.caller(1), world.caller(2)];
        for other in callers
            .into_iter()
            .chain([world.signer(), world.observer()])
        {
            other.join().unwrap();
        }
        let requests = world.router.requests();
        assert_eq!((requests.card, requests.software), (2, 0), "{requests:?}");
        world.end([device]);
    });
}

/// The card never answers, so only the driver's own waking up gets a caller its answer: it may have
/// gone to sleep before there was a deadline.
#[test]
fn no_interleaving_sleeps_through_a_deadline() {
    model::sample("driver: callers and a silent card", 3_000, || {
        let world = World::new();
        let time = world.time();
        for caller in [world.caller(1), world.caller(2)] {
            caller.join().unwrap();
        }
        let requests = world.router.requests();
        assert_eq!(requests.timed_out, requests.fallbacks, "{requests:?}");
        assert_eq!((requests.card, requests.software), (0, 2), "{requests:?}");
        world.end([time]);
    });
}

/// A card that is back from its reset is used again, though nobody asks for anything.
#[test]
fn no_interleaving_leaves_a_card_out_that_is_back() {
    model::sample("driver: a reset and its trial", 3_000, || {
        let world = World::new();
        let others = [world.device(right), world.time()];
        world.router.report_silent_reboot(0);
        let closed = State::Closed { failures: 0 };
        let mut looks = 0..LOOKS_MAX;
        while world.router.status()[0].breaker != closed {
            looks.next().expect("the card comes back");
        }
        world.end(others);
    });
}

/// Whatever card, clock and callers do: each caller gets one answer, and the right one.
#[test]
fn no_interleaving_leaves_a_caller_without_the_right_answer() {
    model::sample(
        "driver: lies, silence, deadlines, resets, callers that leave",
        3_000,
        || {
            let world = World::new();
            let device = world.device(|operation| {
                let lies = shuttle::rand::thread_rng().gen_bool(0.2);
                if lies {
                    b"a lie".to_vec()
                } else {
                    right(operation)
                }
            });
            let clock = Arc::clone(&world.clock);
            let clock = thread::spawn(move || {
                for _ in 0..3 {
                    model::step();
                    clock.advance(TICK);
                }
            });
            let router = world.router.clone();
            let leaver = thread::spawn(move || {
                let mut performed = pin!(router.perform_async(digest(3)));
                let waker = std::task::Waker::noop();
                let mut context = std::task::Context::from_waker(waker);
                if let Poll::Ready(output) = performed.as_mut().poll(&mut context) {
                    assert_eq!(output, perform(&digest(3)));
                }
            });
            let router = world.router.clone();
            let reporter = thread::spawn(move || {
                router.report_silent_reboot(0);
                let _ = router.begin_check(0);
            });
            let shared = Arc::clone(&world.shared);
            let stops = shuttle::rand::thread_rng().gen_bool(0.2);
            // As where the runtime ends that the driver is a task of.
            let stopper = thread::spawn(move || {
                if stops {
                    shared.lock().unwrap().stopping = true;
                    shared.wake.wake();
                }
            });
            let callers = [world.caller(1), world.caller(2), world.observer()];
            for other in callers
                .into_iter()
                .chain([clock, leaver, reporter, stopper])
            {
                other.join().unwrap();
            }
            world.end([device]);
        },
    );
}
