//! The driver on a card with each of the faults there are: in one thread, on a manual clock.
//!
//! What a router makes of it, and whom a monitor blames, is not looked at here.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

use card_device::{Card as Device, CardConfig};
use firmware_sim::engine::RustCrypto;
use firmware_sim::fault::{Fault, Injection, Script, SharedScript, Trigger, beset};
use hwshim::accelerator::{Accelerator, Completion, Request, RequestId, State};
use hwshim::bus::loopback::LoopbackFunction;
use hwshim::bus::{BusError, Function};
use hwshim::clock::{Clock, ManualClock};
use hwshim::kat::{self, KnownAnswer};
use hwshim::virtio::{Card, Options};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const STEP: Duration = Duration::from_millis(250);
/// Of each request. Long enough for a slow card, and short enough that a hang is met.
const DEADLINE: Duration = Duration::from_secs(1);

/// More than this many the driver does not open at once.
const SESSIONS_AT_ONCE: usize = 6;

/// Rounds of more than two seconds each.
const ROUNDS_TO_RECOVER: usize = 10;

/// A driver and a card that may lie.
struct Setup {
    device: Arc<Mutex<Device>>,
    script: SharedScript,
    card: Card,
    clock: ManualClock,
    /// Requests in flight.
    waiting: BTreeMap<u32, &'static KnownAnswer>,
    submitted: u32,
    right: u32,
}

impl Setup {
    fn new() -> Self {
        let script = Script::new(11).shared();
        let config = CardConfig::default();
        let device = beset(&config, Arc::new(RustCrypto), Arc::clone(&script)).unwrap();
        let device = Arc::new(Mutex::new(device));
        let slot = Arc::clone(&device);
        let connect = Box::new(move || {
            let function = LoopbackFunction::new("loopback", Arc::clone(&slot))?;
            // Nothing answers where no card is.
            function.read_config(0, &mut [0; 4])?;
            Ok(Arc::new(function) as Arc<dyn Function>)
        });
        let options = Options {
            reset_timeout: Duration::from_millis(10),
            ..Options::default()
        };
        Self {
            device,
            script,
            card: Card::new("loopback", connect, options).unwrap(),
            clock: ManualClock::new(),
            waiting: BTreeMap::new(),
            submitted: 0,
            right: 0,
        }
    }

    /// Submits one request of each kind, and gives the card until after their deadline. Returns how
    /// many were answered, and rightly.
    fn round(&mut self) -> u32 {
        self.right = 0;
        self.bring_up();
        for (index, test) in tests().enumerate() {
            self.submit(test);
            if (index + 1) % SESSIONS_AT_ONCE != 0 {
                continue;
            }
            self.card.flush();
            self.step();
        }
        self.card.flush();
        for _ in 0..DEADLINE.as_millis() / STEP.as_millis() + 2 {
            self.step();
        }
        assert_eq!(self.waiting.len(), 0, "requests past their deadline");
        self.right
    }

    fn bring_up(&mut self) {
        if self.card.state() != State::Ready {
            let mut completions = Vec::new();
            // It may not come up; then it refuses what is submitted.
            let _ = self.card.reset(&mut completions);
            self.take(completions);
        }
    }

    fn submit(&mut self, test: &'static KnownAnswer) {
        let now = self.clock.now();
        self.submitted += 1;
        let request = Request {
            id: RequestId {
                index: self.submitted,
                generation: 0,
            },
            operation: test.operation().into(),
            deadline: now.plus(DEADLINE),
        };
        if self.card.submit(request, now).is_ok() {
            self.waiting.insert(self.submitted, test);
        }
    }

    fn step(&mut self) {
        self.clock.advance(STEP);
        {
            let mut device = self.device.lock().unwrap();
            device.tick(Duration::from_nanos(self.clock.now().as_nanos()));
            device.process();
        }
        let mut completions = Vec::new();
        self.card.poll(self.clock.now(), &mut completions);
        // Sessions may be there now that requests have waited for.
        self.card.flush();
        // As one who waits does; without, nobody interrupts.
        self.card.arm();
        self.take(completions);
    }

    fn take(&mut self, completions: Vec<Completion>) {
        for Completion { request, output } in completions {
            let test = self.waiting.remove(&request.id.index);
            let test = test.expect("each request comes back once");
            if let Ok(output) = output {
                self.right += u32::from(test.accepts(&request.operation, output));
            }
        }
    }
}

/// Every other test, which leaves one of each kind.
fn tests() -> impl Iterator<Item = &'static KnownAnswer> {
    kat::ALL.iter().step_by(2)
}

fn all() -> u32 {
    u32::try_from(tests().count()).unwrap()
}

#[test]
fn no_fault_loses_a_request_or_keeps_the_card_from_recovering() {
    for fault in Fault::all() {
        let mut setup = Setup::new();
        assert_eq!(setup.round(), all(), "before {fault}");
        setup
            .script
            .lock()
            .unwrap()
            .add(Injection::from(fault.clone()));
        for _ in 0..4 {
            setup.round();
        }
        setup.script.lock().unwrap().clear_all();
        // What the card has lost is known to be lost only some time after its deadline.
        let recovers = (0..ROUNDS_TO_RECOVER).any(|_| setup.round() == all());
        assert!(recovers, "after {fault}");
        let script = setup.script.lock().unwrap();
        assert!(script.record()[0].times > 0, "{fault} has not acted");
    }
}

#[test]
fn a_card_that_is_removed_is_gone_for_its_driver_and_another_function_when_it_is_back() {
    let mut setup = Setup::new();
    setup.round();
    let function = LoopbackFunction::new("other", Arc::clone(&setup.device)).unwrap();
    let removal = Injection {
        fault: Fault::SurpriseRemoval,
        trigger: Trigger::now().lasting(Duration::from_secs(30)),
    };
    setup.script.lock().unwrap().add(removal);
    setup.step();
    setup.step();
    assert_eq!(setup.card.state(), State::Gone);
    let gone = |outcome| matches!(outcome, Err(BusError::Gone { .. }));
    assert!(gone(function.read_config(0, &mut [0; 4])));
    assert!(function.is_gone());
    setup.bring_up();
    assert_eq!(setup.card.state(), State::Gone);
    for _ in 0..120 {
        setup.step();
    }
    assert!(
        gone(function.read_config(0, &mut [0; 4])),
        "it is another one"
    );
    assert_eq!(setup.round(), all());
}
