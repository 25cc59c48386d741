//! The whole driver, against a card that lies in its registers, its rings and its results.
//!
//! Whatever it does, each request comes back exactly once, at the latest with a reset.

use super::Script;
use super::card::Liar;
use hwshim::accelerator::{Accelerator, Completion, Request, RequestId};
use hwshim::bus::{BusError, Function};
use hwshim::clock::Instant;
use hwshim::kat;
use hwshim::virtio::{Card, Options};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

const RESET: u8 = 0;
const SUBMIT: u8 = 1;
const PUMP: u8 = 2;
const POLL: u8 = 3;
const SCRIBBLE: u8 = 4;
const LIE: u8 = 5;
const WAIT: u8 = 6;
const REMOVE: u8 = 7;
const HEALTH: u8 = 8;
const STEPS: u8 = 9;

/// Time a request has, in ticks of [`WAIT`].
const DEADLINE: Duration = Duration::from_millis(20);

pub(crate) fn run(input: &[u8]) {
    let liar = Liar::new();
    let mut driver = Driver::new(&liar);
    let mut now = Instant::ORIGIN;
    let mut script = Script(input);
    while !script.is_over() {
        match script.byte() % STEPS {
            RESET => driver.reset(),
            SUBMIT => driver.submit(usize::from(script.byte()), now),
            PUMP => liar.pump(now),
            SCRIBBLE => {
                let which = script.byte();
                let offset = usize::from(script.word());
                let len = usize::from(script.byte());
                liar.scribble(which, offset, script.bytes(len));
            }
            LIE => {
                let len = usize::from(script.byte());
                liar.lie(script.bytes(len));
            }
            WAIT => now = now.plus(Duration::from_millis(u64::from(script.byte()))),
            REMOVE => liar.remove(),
            HEALTH => {
                let _ = driver.card.health().read();
            }
            _ => driver.poll(now),
        }
    }
    driver.reset();
    assert!(
        driver.outstanding.is_empty(),
        "a reset gives everything back"
    );
    assert_eq!(driver.card.in_flight(), 0);
}

struct Driver {
    card: Card,
    outstanding: BTreeSet<u32>,
    next: u32,
}

impl Driver {
    fn new(liar: &Arc<Liar>) -> Self {
        let liar = Arc::clone(liar);
        let connect = move || -> Result<Arc<dyn Function>, BusError> {
            if liar.is_gone() {
                return Err(BusError::Gone {
                    name: "fuzz".to_owned(),
                });
            }
            Ok(Arc::clone(&liar) as _)
        };
        let options = Options {
            depth: 4,
            sessions_max: 2,
            reset_timeout: Duration::from_millis(1),
        };
        let card = Card::new("fuzz", Box::new(connect), options);
        Self {
            card: card.expect("there are descriptors left"),
            outstanding: BTreeSet::new(),
            next: 0,
        }
    }

    fn submit(&mut self, which: usize, now: Instant) {
        let index = self.next;
        let id = RequestId {
            index,
            generation: 0,
        };
        let operation = kat::ALL[which % kat::ALL.len()].operation();
        let deadline = now.plus(DEADLINE);
        match self.card.submit(
            Request {
                id,
                operation: Arc::new(operation),
                deadline,
            },
            now,
        ) {
            Ok(()) => assert!(self.outstanding.insert(index)),
            Err(rejected) => assert_eq!(rejected.request.id, id),
        }
        self.next += 1;
    }

    fn poll(&mut self, now: Instant) {
        let mut completions = Vec::new();
        self.card.poll(now, &mut completions);
        self.settle(completions);
        let _ = self.card.take_fault();
        let _ = self.card.arm();
    }

    fn reset(&mut self) {
        let mut completions = Vec::new();
        let _ = self.card.reset(&mut completions);
        self.settle(completions);
    }

    fn settle(&mut self, completions: Vec<Completion>) {
        for completion in completions {
            let index = completion.request.id.index;
            assert!(self.outstanding.remove(&index), "{index} came back twice");
        }
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let all: Vec<u8> = (0..18)
        .flat_map(|test| [SUBMIT, test, PUMP, POLL, PUMP, POLL, PUMP, POLL])
        .collect();
    vec![
        [&[RESET][..], &all].concat(),
        vec![
            RESET, SUBMIT, 0, SUBMIT, 9, POLL, PUMP, POLL, WAIT, 30, POLL, RESET, HEALTH,
        ],
        vec![
            RESET, SUBMIT, 12, PUMP, POLL, SCRIBBLE, 1, 4, 0, 4, 9, 0, 0, 0, POLL, PUMP, POLL,
        ],
        vec![
            LIE, 3, 0, 0, 1, RESET, LIE, 2, 0, 64, SUBMIT, 3, POLL, REMOVE, POLL,
        ],
    ]
}
