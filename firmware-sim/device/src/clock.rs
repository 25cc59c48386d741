//! The monotonic time of this host, for loops at the edge.
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
