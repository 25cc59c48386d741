//! Takes new edges out of the log that a card's health page keeps of its light.
//!
//! The log is short and overwrites itself. Whoever reads it too late, or after the firmware has
//! started again, has missed edges, and a decoder is told so.

use super::Decoder;
use card_spec::health::{LED_EDGES_MAX, LedEdge, Summary, led};
use hwshim::clock::Instant;
use std::time::Duration;

/// Remembers how far a card's log of edges has been read.
#[derive(Clone, Copy, Debug, Default)]
pub struct EdgeLog {
    /// `BOOT_ID` and `LED_EDGES` of the page before.
    read: Option<(u32, u32)>,
}

impl EdgeLog {
    /// Has read nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { read: None }
    }

    /// Tells `decoder` what is new in a health page. Times are of the firmware's uptime.
    pub fn take(&mut self, page: &Summary, decoder: &mut Decoder) {
        let boot_id = page.boot_id.get();
        let count = page.led_edge_count.get();
        let new = match self.read {
            Some((same, before)) if same == boot_id => count.wrapping_sub(before),
            _ => u32::MAX,
        };
        let new = usize::try_from(new).unwrap_or(usize::MAX);
        self.read = Some((boot_id, count));
        let edges: Vec<_> = page.led_edges().collect();
        if new > LED_EDGES_MAX {
            decoder.gap();
        }
        let uptime_ms = page.uptime_ms.get();
        for edge in &edges[edges.len().saturating_sub(new)..] {
            decoder.edge(instant(happened_at(*edge, uptime_ms)), edge.lit());
        }
        // `LED_STS` may have been read an edge later, and a firmware that has stopped counting its
        // uptime may still blink: the last edge knows better than either.
        let (at_ms, lit) = edges.last().map_or_else(
            || (0, page.led_status.get() & led::OK != 0),
            |last| (happened_at(*last, uptime_ms), last.lit()),
        );
        decoder.still(instant(at_ms.max(uptime_ms)), lit);
    }
}

/// The uptime at which an edge happened. The log keeps it modulo 2^31 ms, which is 24 days; it is
/// taken for the one nearest to `uptime_ms`.
fn happened_at(edge: LedEdge, uptime_ms: u64) -> u64 {
    const MODULUS: u64 = 1 << 31;
    let age_ms = uptime_ms.wrapping_sub(edge.uptime_ms().into()) % MODULUS;
    if age_ms < MODULUS / 2 {
        uptime_ms.saturating_sub(age_ms)
    } else {
        uptime_ms.saturating_add(MODULUS - age_ms)
    }
}

fn instant(uptime_ms: u64) -> Instant {
    Instant::ORIGIN.plus(Duration::from_millis(uptime_ms))
}
