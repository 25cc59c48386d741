//! The accelerators that suites run against: software, a simulated card in this process, one behind
//! a socket, and, where this host has the library, software that signs eight at a time.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot be set up has failed, and one that is skipped says why"
)]

use crate::common::CardProcess;
use card_device::engine::Engine;
use card_device::{Card as Device, CardConfig};
use firmware_sim::engine::RustCrypto;
use hwshim::accelerator::multi_buffer::MultiBuffer;
use hwshim::accelerator::software::Ring;
use hwshim::accelerator::{Accelerator, Completion, Operation, Request, RequestId, State};
use hwshim::bus::Function;
use hwshim::bus::loopback::LoopbackFunction;
use hwshim::clock::{Clock, Instant, SystemClock};
use hwshim::virtio::{Card, Options};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;

/// Far longer than anything takes; only a mistake meets it.
const PATIENT: Duration = Duration::from_secs(60);

/// Ends a loop that waits for what does not come.
pub(crate) struct Patience(Instant);

impl Patience {
    pub(crate) fn new() -> Self {
        Self(SystemClock.now().plus(PATIENT))
    }

    #[track_caller]
    pub(crate) fn assert_left(&self, accelerator: &dyn Accelerator) {
        assert!(
            SystemClock.now() < self.0,
            "{} of the requests have not come back after {PATIENT:?}",
            accelerator.in_flight()
        );
    }
}

/// An accelerator under test, and what keeps it alive.
pub(crate) struct Subject {
    pub(crate) accelerator: Box<dyn Accelerator>,
    _process: Option<(CardProcess, TempDir)>,
}

impl Subject {
    pub(crate) fn software() -> Self {
        Self::up(Box::new(Ring::default()), None)
    }

    pub(crate) fn in_process() -> Self {
        Self::in_process_with(Arc::new(RustCrypto))
    }

    pub(crate) fn in_process_with(engine: Arc<dyn Engine>) -> Self {
        let device = Device::new(&CardConfig::default(), engine).unwrap();
        let device = Arc::new(Mutex::new(device));
        let function = Arc::new(LoopbackFunction::inline("loopback", device).unwrap());
        let connect = Box::new(move || Ok(Arc::clone(&function) as Arc<dyn Function>));
        let card = Card::new("loopback", connect, Options::default()).unwrap();
        Self::up(Box::new(card), None)
    }

    pub(crate) fn over_a_socket() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let process = CardProcess::start(directory.path());
        let opened = process.address().open_accelerator().unwrap();
        Self::up(opened.accelerator, Some((process, directory)))
    }

    /// `None` where library or processor are missing; what is there and does not work fails.
    pub(crate) fn multi_buffer() -> Option<Self> {
        match multi_buffer::MultiBuffer::load(None) {
            Ok(_) => Some(Self::up(Box::new(MultiBuffer::new(None)), None)),
            Err(error) if error.is_absence() => {
                println!("skipped: {error}");
                None
            }
            Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
        }
    }

    fn up(mut accelerator: Box<dyn Accelerator>, process: Option<(CardProcess, TempDir)>) -> Self {
        accelerator.reset(&mut Vec::new()).unwrap();
        assert_eq!(accelerator.state(), State::Ready);
        Self {
            accelerator,
            _process: process,
        }
    }

    pub(crate) fn perform(&mut self, operation: Operation) -> Completion {
        let id = RequestId {
            index: 7,
            generation: 3,
        };
        let now = SystemClock.now();
        let request = Request {
            id,
            operation: Arc::new(operation),
            deadline: Instant::NEVER,
        };
        self.accelerator.submit(request, now).unwrap();
        let completion = self.wait_for_one();
        assert_eq!(completion.request.id, id);
        completion
    }

    /// The completion of the only request in flight.
    pub(crate) fn wait_for_one(&mut self) -> Completion {
        let mut completions = Vec::new();
        let patience = Patience::new();
        while completions.is_empty() {
            patience.assert_left(&*self.accelerator);
            self.accelerator.poll(SystemClock.now(), &mut completions);
        }
        let completion = completions.pop().unwrap();
        assert!(completions.is_empty());
        completion
    }
}

/// Runs a suite against every accelerator.
macro_rules! on_every_accelerator {
    ($($suite:ident),* $(,)?) => {
        mod software_ring {
            $(#[test] fn $suite() { super::$suite($crate::subject::Subject::software()); })*
        }
        mod card_in_process {
            $(#[test] fn $suite() { super::$suite($crate::subject::Subject::in_process()); })*
        }
        mod card_over_a_socket {
            $(#[test] fn $suite() { super::$suite($crate::subject::Subject::over_a_socket()); })*
        }
    };
}
pub(crate) use on_every_accelerator;

/// Runs a suite about signatures, or about whatever is offered, against `software:multi-buffer`.
macro_rules! on_multi_buffer {
    ($($suite:ident),* $(,)?) => {
        mod software_multi_buffer {
            $(#[test] fn $suite() {
                if let Some(subject) = $crate::subject::Subject::multi_buffer() {
                    super::$suite(subject);
                }
            })*
        }
    };
}
pub(crate) use on_multi_buffer;
