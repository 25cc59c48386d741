//! What it takes to see what a waiting handshake holds: an accelerator that keeps it waiting, and the
//! memory of this process. For the test that bounds it, and the example that measures it.

use hwshim::accelerator::software::Ring;
use hwshim::accelerator::{
    Accelerator, Algorithm, Completion, Counters, DeviceError, Rejected, Request, State,
};
use hwshim::clock::Instant;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What this process has in memory.
pub(crate) fn resident_bytes() -> io::Result<usize> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages = statm.split_whitespace().nth(1).unwrap_or_default();
    let pages: usize = pages.parse().map_err(io::Error::other)?;
    Ok(pages * rustix::param::page_size())
}

/// Answers until it is told to be silent: its trial, and nothing else.
#[derive(Debug)]
pub(crate) struct Silent {
    is_silent: Arc<AtomicBool>,
    ring: Ring,
    requests: Vec<Request>,
}

impl Silent {
    /// Silent once `is_silent` says so.
    pub(crate) fn once(is_silent: &Arc<AtomicBool>) -> Self {
        Self {
            is_silent: Arc::clone(is_silent),
            ring: Ring::default(),
            requests: Vec::new(),
        }
    }
}

impl Accelerator for Silent {
    fn name(&self) -> &'static str {
        "silent"
    }

    fn offers(&self, algorithm: Algorithm) -> bool {
        matches!(algorithm, Algorithm::Sign(_))
    }

    fn submit(&mut self, request: Request, now: Instant) -> Result<(), Rejected> {
        if self.is_silent.load(Ordering::Relaxed) {
            self.requests.push(request);
            return Ok(());
        }
        self.ring.submit(request, now)
    }

    fn flush(&mut self) {}

    fn poll(&mut self, now: Instant, completions: &mut Vec<Completion>) {
        self.ring.poll(now, completions);
    }

    fn next_deadline(&self) -> Instant {
        self.ring.next_deadline()
    }

    fn in_flight(&self) -> usize {
        self.ring.in_flight() + self.requests.len()
    }

    fn reset(&mut self, completions: &mut Vec<Completion>) -> Result<(), DeviceError> {
        self.hand_back(completions);
        Ok(())
    }

    fn hand_back(&mut self, completions: &mut Vec<Completion>) {
        self.ring.hand_back(completions);
        completions.extend(self.requests.drain(..).map(|request| Completion {
            request,
            output: Err(DeviceError::Abandoned),
        }));
    }

    fn take_fault(&mut self) -> Option<DeviceError> {
        None
    }

    fn arm(&mut self) -> bool {
        self.ring.arm()
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
