//! An accelerator that does with its callers' requests what it is told, and passes every known-answer
//! test: the worst kind there is.

use hwshim::accelerator::{
    Accelerator, Algorithm, Completion, Counters, DeviceError, Operation, Rejected, Request, State,
    Unverified, software,
};
use hwshim::clock::Instant;
use hwshim::kat;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What becomes of a caller's request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Behaviour {
    /// It is answered.
    Honest,
    /// It is answered with one bit wrong.
    Lying,
    /// It is answered after [`SLOW`], and so are tests.
    Slow,
    /// It is answered after [`BRISK`], and so are tests.
    Brisk,
    /// It is not answered.
    Silent,
    /// It is answered with nothing.
    Empty,
}

/// Several times what software takes.
const SLOW: Duration = Duration::from_millis(8);

/// More than software is taken to take for RSA-2048, and less than twice that.
const BRISK: Duration = Duration::from_micros(900);

/// Tells a scripted accelerator what to do.
#[derive(Clone, Debug)]
pub(crate) struct Script(Arc<Mutex<Behaviour>>);

impl Script {
    pub(crate) fn new(behaviour: Behaviour) -> Self {
        Self(Arc::new(Mutex::new(behaviour)))
    }

    pub(crate) fn set(&self, behaviour: Behaviour) {
        *self.0.lock().unwrap() = behaviour;
    }

    /// How many hold on to the script.
    pub(crate) fn users(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    fn behaviour(&self) -> Behaviour {
        *self.0.lock().unwrap()
    }
}

#[derive(Debug)]
pub(crate) struct Scripted {
    script: Script,
    /// With the times at which they came.
    requests: Vec<(Request, Instant)>,
}

impl Scripted {
    pub(crate) const fn new(script: Script) -> Self {
        Self {
            script,
            requests: Vec::new(),
        }
    }

    fn behaviour(&self, operation: &Operation) -> Behaviour {
        match self.script.behaviour() {
            timed @ (Behaviour::Slow | Behaviour::Brisk) => timed,
            _ if is_test(operation) => Behaviour::Honest,
            other => other,
        }
    }

    /// When it is done with a request.
    fn due(&self, request: &Request, submitted: Instant) -> Instant {
        match self.behaviour(&request.operation) {
            Behaviour::Slow => submitted.plus(SLOW),
            Behaviour::Brisk => submitted.plus(BRISK),
            Behaviour::Silent => request.deadline,
            Behaviour::Honest | Behaviour::Lying | Behaviour::Empty => Instant::ORIGIN,
        }
    }

    fn answer(&self, operation: &Operation) -> Result<Unverified<Vec<u8>>, DeviceError> {
        let behaviour = self.behaviour(operation);
        let mut bytes = match behaviour {
            Behaviour::Silent => return Err(DeviceError::TimedOut),
            Behaviour::Empty => return Ok(Unverified::new(Vec::new())),
            Behaviour::Honest | Behaviour::Slow | Behaviour::Brisk | Behaviour::Lying => {
                software::perform(operation).unwrap()
            }
        };
        if behaviour == Behaviour::Lying {
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
        }
        Ok(Unverified::new(bytes))
    }
}

/// Whether the router asks for itself.
fn is_test(operation: &Operation) -> bool {
    kat::ALL.iter().any(|test| {
        let test = test.operation();
        match (&test, operation) {
            (Operation::Sign { message, .. }, Operation::Sign { message: asked, .. }) => {
                **message == **asked
            }
            _ => test.algorithm() == operation.algorithm(),
        }
    })
}

impl Accelerator for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn offers(&self, algorithm: Algorithm) -> bool {
        matches!(algorithm, Algorithm::Sign(_))
    }

    fn submit(&mut self, request: Request, now: Instant) -> Result<(), Rejected> {
        self.requests.push((request, now));
        Ok(())
    }

    fn flush(&mut self) {}

    fn poll(&mut self, now: Instant, completions: &mut Vec<Completion>) {
        for (request, submitted) in std::mem::take(&mut self.requests) {
            if self.due(&request, submitted) > now {
                self.requests.push((request, submitted));
                continue;
            }
            completions.push(Completion {
                output: self.answer(&request.operation),
                request,
            });
        }
    }

    fn next_deadline(&self) -> Instant {
        let due = |(request, submitted): &(Request, Instant)| self.due(request, *submitted);
        let next = self.requests.iter().map(due).min();
        next.unwrap_or(Instant::NEVER)
    }

    fn in_flight(&self) -> usize {
        self.requests.len()
    }

    fn reset(&mut self, completions: &mut Vec<Completion>) -> Result<(), DeviceError> {
        self.hand_back(completions);
        Ok(())
    }

    fn hand_back(&mut self, completions: &mut Vec<Completion>) {
        completions.extend(self.requests.drain(..).map(|(request, _)| Completion {
            request,
            output: Err(DeviceError::Abandoned),
        }));
    }

    fn take_fault(&mut self) -> Option<DeviceError> {
        None
    }

    fn arm(&mut self) -> bool {
        self.next_deadline() > Instant::ORIGIN
    }

    fn events(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    fn state(&self) -> State {
        State::Ready
    }

    fn counters(&self) -> Counters {
        Counters::default()
    }
}
