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

/// What becomes of a caller's request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Behaviour {
    /// It is answered.
    Honest,
    /// It is answered with one bit wrong.
    Lying,
    /// It is not answered.
    Silent,
    /// It is answered with nothing.
    Empty,
}

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
    requests: Vec<Request>,
}

impl Scripted {
    pub(crate) const fn new(script: Script) -> Self {
        Self {
            script,
            requests: Vec::new(),
        }
    }

    /// What it does with `request` by `now`; `None` if it keeps it.
    fn answer(
        &self,
        request: &Request,
        now: Instant,
    ) -> Option<Result<Unverified<Vec<u8>>, DeviceError>> {
        let behaviour = if is_test(&request.operation) {
            Behaviour::Honest
        } else {
            self.script.behaviour()
        };
        let mut bytes = match behaviour {
            Behaviour::Silent if now >= request.deadline => {
                return Some(Err(DeviceError::TimedOut));
            }
            Behaviour::Silent => return None,
            Behaviour::Empty => return Some(Ok(Unverified::new(Vec::new()))),
            Behaviour::Honest | Behaviour::Lying => software::perform(&request.operation).unwrap(),
        };
        if behaviour == Behaviour::Lying {
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
        }
        Some(Ok(Unverified::new(bytes)))
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

    fn submit(&mut self, request: Request, _now: Instant) -> Result<(), Rejected> {
        self.requests.push(request);
        Ok(())
    }

    fn flush(&mut self) {}

    fn poll(&mut self, now: Instant, completions: &mut Vec<Completion>) {
        for request in std::mem::take(&mut self.requests) {
            match self.answer(&request, now) {
                Some(output) => completions.push(Completion { request, output }),
                None => self.requests.push(request),
            }
        }
    }

    fn next_deadline(&self) -> Instant {
        let keeps = self.script.behaviour() == Behaviour::Silent;
        let due = |request: &Request| match keeps && !is_test(&request.operation) {
            true => request.deadline,
            false => Instant::ORIGIN,
        };
        self.requests
            .iter()
            .map(due)
            .min()
            .unwrap_or(Instant::NEVER)
    }

    fn in_flight(&self) -> usize {
        self.requests.len()
    }

    fn reset(&mut self, completions: &mut Vec<Completion>) -> Result<(), DeviceError> {
        self.hand_back(completions);
        Ok(())
    }

    fn hand_back(&mut self, completions: &mut Vec<Completion>) {
        completions.extend(self.requests.drain(..).map(|request| Completion {
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
