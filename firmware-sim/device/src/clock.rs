//! The monotonic time of this host, for loops at the edge, and time that passes faster than it.
//!
//! The card itself is told the time; the workspace's own clock is in a crate that builds on this
//! one.

use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Time since the host started.
#[must_use]
pub fn now() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanos)
}

/// Time that began as the host's, and since then passes `speed` times as fast.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    started: Duration,
    speed: f64,
}

impl Pace {
    /// Begins now.
    #[must_use]
    pub fn start(speed: f64) -> Self {
        Self {
            started: now(),
            speed,
        }
    }

    /// The time at this pace.
    #[must_use]
    pub fn now(&self) -> Duration {
        let elapsed = now().saturating_sub(self.started);
        self.started + elapsed.mul_f64(self.speed)
    }

    /// How long the host has to wait until so much time has passed at this pace.
    #[must_use]
    pub fn on_the_host(&self, timeout: Duration) -> Duration {
        // Who need not be told the time for years says so.
        let timeout = timeout.min(Duration::from_secs(3600));
        timeout.div_f64(self.speed)
    }
}
