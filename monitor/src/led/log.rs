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
        self.read(page).tell(decoder);
    }

    /// What is new in a health page. Times are of the firmware's uptime.
    pub fn read(&mut self, page: &Summary) -> NewEdges {
        let boot_id = page.boot_id.get();
        let count = page.led_edge_count.get();
        let new = match self.read {
            Some((same, before)) if same == boot_id => count.wrapping_sub(before),
            _ => u32::MAX,
        };
        let new = usize::try_from(new).unwrap_or(usize::MAX);
        self.read = Some((boot_id, count));
        let uptime_ms = page.uptime_ms.get();
        let edges: Vec<_> = page
            .led_edges()
            .map(|edge| (happened_at(edge, uptime_ms), edge.lit()))
            .collect();
        // `LED_STS` may have been read an edge later, and a firmware that has stopped counting its
        // uptime may still blink: the last edge knows better than either.
        let lit = page.led_status.get() & led::OK != 0;
        let (at_ms, lit) = edges.last().copied().unwrap_or((0, lit));
        let fresh = &edges[edges.len().saturating_sub(new)..];
        NewEdges {
            gap: new > LED_EDGES_MAX,
            edges: fresh.iter().map(|&(at, lit)| (instant(at), lit)).collect(),
            now: (instant(at_ms.max(uptime_ms)), lit),
        }
    }
}

/// What is new in a log of edges.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NewEdges {
    /// Whether edges may have been missed before these.
    pub gap: bool,
    /// When the light changed, and whether it is on since.
    pub edges: Vec<(Instant, bool)>,
    /// How it is now.
    pub now: (Instant, bool),
}

impl NewEdges {
    /// Tells all of it.
    pub fn tell(&self, decoder: &mut Decoder) {
        if self.gap {
            decoder.gap();
        }
        for &(at, lit) in &self.edges {
            decoder.edge(at, lit);
        }
        let (at, lit) = self.now;
        decoder.still(at, lit);
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
