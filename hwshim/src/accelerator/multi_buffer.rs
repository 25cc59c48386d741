//! This CPU as an accelerator of its own kind, `software:multi-buffer`: eight signatures in the
//! time of one, by Intel's crypto_mb.
//!
//! A thread gathers what is asked and executes it eight at a time (see the package
//! `multi-buffer`); what stands around it here are requests, deadlines and completions. It signs,
//! by RSA of 2048, 3072 and 4096 bits and on P-256 and P-384, and offers nothing else. One request
//! alone takes as long as eight, which [`Accelerator::batch_size`] says: it pays under load, and costs
//! a core.
//!
//! Nothing is checked here, any more than a card's answers are: the router verifies each before it
//! is released, by another formula. That may be these lanes' public-key operation: it is not told what
//! should come out, so a unit that multiplies wrongly cannot make a wrong signature right.

mod gather;
mod work;
mod worker;

use super::class::Class;
use super::{
    Accelerator, Algorithm, Batch, Completion, Counters, DeviceError, RejectReason, Rejected,
    Request, State,
};
use crate::clock::Instant;
use ::multi_buffer::LANES;
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use work::Work;
use worker::{Done, Takes, Ticket, Worker};

pub use ::multi_buffer::{ENVIRONMENT_VARIABLE, LoadError};

/// The address of this accelerator.
pub const NAME: &str = "software:multi-buffer";

/// Requests in flight at most: 64 batches, 60 ms of RSA-2048. Whoever is behind them is done
/// sooner by other means.
const IN_FLIGHT_MAX: usize = 512;

/// The accelerator. The library is loaded by the first reset.
#[derive(Debug)]
pub struct MultiBuffer {
    /// Where the library is, if not where it is looked for.
    path: Option<PathBuf>,
    worker: Option<Worker>,
    in_flight: BTreeMap<Ticket, Request>,
    /// How many of them are of which class.
    by_class: [usize; Class::ALL.len()],
    /// The same, by deadline.
    deadlines: BTreeSet<(Instant, Ticket)>,
    next_ticket: u64,
    /// Something was pushed that the worker may not have seen.
    unflushed: bool,
    fault: Option<DeviceError>,
    stragglers: u64,
    done: Vec<Done>,
    /// What batches took when results were last taken out.
    takes: Takes,
}

/// Whether this host can use the library at `path`, or wherever it is found: what it calls itself and
/// where it is, or why not.
///
/// # Errors
///
/// See [`LoadError`]; [`LoadError::is_absence`] tells what this host merely lacks from what is wrong.
pub fn look(path: Option<&Path>) -> Result<String, LoadError> {
    let library = ::multi_buffer::MultiBuffer::load(path)?;
    let found_as = library.found_as().display();
    Ok(format!(
        "{}, {found_as}, {}",
        library.version(),
        library.place()
    ))
}

/// An error with its causes.
fn explain(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    let texts: Vec<_> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

impl MultiBuffer {
    /// Prepares it, for the library at `path`, or wherever it is found.
    #[must_use]
    pub const fn new(path: Option<PathBuf>) -> Self {
        Self {
            path,
            worker: None,
            in_flight: BTreeMap::new(),
            by_class: [0; Class::ALL.len()],
            deadlines: BTreeSet::new(),
            next_ticket: 0,
            unflushed: false,
            fault: None,
            stragglers: 0,
            done: Vec::new(),
            takes: [None; Class::ALL.len()],
        }
    }

    fn bring_up(&self) -> Result<Worker, DeviceError> {
        let library = ::multi_buffer::MultiBuffer::load(self.path.as_deref())
            .map_err(|error| DeviceError::NotUsable(explain(&error)))?;
        Worker::start(library)
            .map_err(|error| DeviceError::NotUsable(format!("its thread cannot start: {error}")))
    }

    fn take(&mut self, ticket: Ticket) -> Option<Request> {
        let request = self.in_flight.remove(&ticket)?;
        self.deadlines.remove(&(request.deadline, ticket));
        self.by_class[Class::of(&request.operation).index()] -= 1;
        Some(request)
    }

    fn collect(&mut self, completions: &mut Vec<Completion>) {
        let mut done = std::mem::take(&mut self.done);
        if let Some(worker) = &self.worker {
            self.takes = worker.take_done(&mut done);
        }
        for Done { ticket, output } in done.drain(..) {
            let Some(request) = self.take(ticket) else {
                self.stragglers += 1;
                continue;
            };
            completions.push(Completion { request, output });
        }
        self.done = done;
    }

    fn expire(&mut self, now: Instant, completions: &mut Vec<Completion>) {
        let mut expired = false;
        while let Some((deadline, ticket)) = self.deadlines.first().copied()
            && deadline <= now
        {
            self.deadlines.pop_first();
            expired = true;
            completions.extend(self.take(ticket).map(|request| Completion {
                request,
                output: Err(DeviceError::TimedOut),
            }));
        }
        if let (true, Some(worker)) = (expired, &self.worker) {
            worker.retain(|ticket| self.in_flight.contains_key(&ticket));
        }
    }

    /// Gives everything back whose thread is no more.
    fn notice_the_end(&mut self, completions: &mut Vec<Completion>) {
        if self.worker.as_ref().is_some_and(Worker::has_ended) {
            self.hand_back(completions);
            self.worker = None;
            let reason = "its thread has ended by a panic".to_owned();
            self.fault = Some(DeviceError::NotUsable(reason));
        }
    }
}

impl Accelerator for MultiBuffer {
    fn name(&self) -> &'static str {
        NAME
    }

    fn offers(&self, algorithm: Algorithm) -> bool {
        self.worker.is_some() && matches!(algorithm, Algorithm::Sign(_))
    }

    fn submit(&mut self, request: Request, now: Instant) -> Result<(), Rejected> {
        let rejected = |request, reason| Err(Rejected { request, reason });
        let Some(worker) = &self.worker else {
            return rejected(request, RejectReason::NotReady);
        };
        if self.in_flight.len() >= IN_FLIGHT_MAX {
            return rejected(request, RejectReason::Full);
        }
        // Keys of other lengths, or whose first prime is the smaller one.
        let Some(work) = Work::prepare(&request.operation) else {
            return rejected(request, RejectReason::Unsupported);
        };
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        worker.push(ticket, work, now);
        self.unflushed = true;
        self.deadlines.insert((request.deadline, ticket));
        self.by_class[Class::of(&request.operation).index()] += 1;
        self.in_flight.insert(ticket, request);
        Ok(())
    }

    fn flush(&mut self) {
        if std::mem::take(&mut self.unflushed)
            && let Some(worker) = &self.worker
        {
            worker.flush();
        }
    }

    fn poll(&mut self, now: Instant, completions: &mut Vec<Completion>) {
        self.flush();
        self.collect(completions);
        self.expire(now, completions);
        self.notice_the_end(completions);
    }

    fn next_deadline(&self) -> Instant {
        let first = self.deadlines.first();
        first.map_or(Instant::NEVER, |(deadline, _)| *deadline)
    }

    fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    fn reset(&mut self, completions: &mut Vec<Completion>) -> Result<(), DeviceError> {
        self.hand_back(completions);
        self.fault = None;
        if self.worker.as_ref().is_none_or(Worker::has_ended) {
            self.worker = None;
            self.worker = Some(self.bring_up()?);
        }
        Ok(())
    }

    fn hand_back(&mut self, completions: &mut Vec<Completion>) {
        if let Some(worker) = &self.worker {
            worker.retain(|_| false);
        }
        self.deadlines.clear();
        self.by_class = [0; Class::ALL.len()];
        let in_flight = std::mem::take(&mut self.in_flight);
        completions.extend(in_flight.into_values().map(|request| Completion {
            request,
            output: Err(DeviceError::Abandoned),
        }));
    }

    fn take_fault(&mut self) -> Option<DeviceError> {
        self.fault.take()
    }

    fn arm(&mut self) -> bool {
        self.worker.as_ref().is_none_or(Worker::arm)
    }

    fn events(&self) -> Vec<BorrowedFd<'_>> {
        self.worker.iter().map(Worker::event).collect()
    }

    fn batch_size(&self) -> NonZeroUsize {
        NonZeroUsize::new(LANES).expect("the library has eight lanes")
    }

    fn next_batch(&self, class: Class) -> Option<Batch> {
        let takes = self.takes[class.index()]?;
        let before = Class::ALL.into_iter().map(|other| {
            let count = self.by_class[other.index()];
            // Those of its own class that fill no batch are in its own.
            let batches = if other == class {
                count / LANES
            } else {
                count.div_ceil(LANES)
            };
            let each = self.takes[other.index()].unwrap_or(takes);
            each.saturating_mul(u32::try_from(batches).unwrap_or(u32::MAX))
        });
        let before = before.fold(Duration::ZERO, Duration::saturating_add);
        Some(Batch { takes, before })
    }

    fn state(&self) -> State {
        match &self.worker {
            Some(_) => State::Ready,
            None => State::NeedsReset,
        }
    }

    fn counters(&self) -> Counters {
        Counters {
            stragglers: self.stragglers,
            ..Counters::default()
        }
    }
}
