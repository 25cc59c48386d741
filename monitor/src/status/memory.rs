//! What a service has in memory, as it was added up for who asked.

use crate::probe::{MemoryRollup, OwnerId};
use hwshim::clock::Instant;
use serde::{Deserialize, Serialize};

/// What the process of a service has in memory by `/proc/PID/smaps_rollup`; `null` is what the kernel does
/// not tell.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct MemoryFigures {
    /// The service.
    pub service: String,
    /// Its process.
    pub pid: u32,
    /// When that started, in clock ticks since boot.
    pub start_time_ticks: u64,
    /// How long ago this was read.
    pub age_seconds: f64,
    /// In memory.
    pub rss_bytes: Option<u64>,
    /// Its share of that: of a page that several have, each has a part.
    pub pss_bytes: Option<u64>,
    /// Of that share, what is no file.
    pub pss_anon_bytes: Option<u64>,
    /// What it alone has and has written to.
    pub private_dirty_bytes: Option<u64>,
    /// Swapped out.
    pub swapped_bytes: Option<u64>,
    /// Locked in memory.
    pub locked_bytes: Option<u64>,
}

impl MemoryFigures {
    /// What was read of the process of a service.
    #[must_use]
    pub fn new(service: String, id: OwnerId, seen: &MemoryRollup, now: Instant) -> Self {
        let MemoryRollup {
            read_at,
            rss_bytes,
            pss_bytes,
            pss_anon_bytes,
            private_dirty_bytes,
            swapped_bytes,
            locked_bytes,
        } = *seen;
        Self {
            service,
            pid: id.pid,
            start_time_ticks: id.start_time_ticks,
            age_seconds: now.since(read_at).as_secs_f64(),
            rss_bytes,
            pss_bytes,
            pss_anon_bytes,
            private_dirty_bytes,
            swapped_bytes,
            locked_bytes,
        }
    }
}
