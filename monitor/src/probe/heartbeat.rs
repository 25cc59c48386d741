//! Takes the heartbeat that the card itself owns out of a telemetry page.
//!
//! It reports counters as they stand. Whether they move is for rules to say, which see more than
//! one page.

use super::{Probe, ProbeError};
use card_spec::health::{ControllerStatus, CriticalWarning, EngineHeartbeat, PageError, Summary};
use card_spec::telemetry::Page;
use hwshim::clock::Instant;
use std::path::PathBuf;
use std::time::Duration;

/// Takes the heartbeat out of a telemetry page.
#[derive(Debug)]
pub struct HeartbeatProbe;

/// The card's own counters, as its owner last read them.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    /// `HB_COUNT`: beats since the firmware started.
    pub count: u32,
    /// `HB_PERIOD_MS`, as the card states it.
    pub period: Duration,
    /// `BOOT_ID`: drawn anew each time the firmware starts.
    pub boot_id: u32,
    /// `HB_CTR`: requests seen and answered by each engine, modulo 2^16.
    pub engines: Vec<EngineHeartbeat>,
    /// `CSTS`.
    pub status: ControllerStatus,
    /// `critical_warning`.
    pub warning: CriticalWarning,
    /// When the owner read all this from the card.
    pub read_at: Instant,
}

impl Probe for HeartbeatProbe {
    type Subject = Page;
    type Observation = Heartbeat;

    fn name(&self) -> &'static str {
        "heartbeat"
    }

    fn observe(&mut self, page: &Page, _now: Instant) -> Result<Heartbeat, ProbeError> {
        if page.card.health_reads.get() == 0 {
            return Err(never_read(page));
        }
        let summary = Summary::parse(&page.health).map_err(|error| nonsense(page, error))?;
        Ok(Heartbeat {
            count: summary.heartbeat_count.get(),
            period: Duration::from_millis(summary.heartbeat_period_ms.get().into()),
            boot_id: summary.boot_id.get(),
            engines: summary.engines().to_vec(),
            status: ControllerStatus::from_bits(summary.controller_status.get()),
            warning: CriticalWarning::from_bits(summary.critical_warning),
            read_at: Instant::from_nanos(page.card.health_read_at_ns.get()),
        })
    }
}

/// A card without a health page, or one whose health page its owner cannot read.
fn never_read(page: &Page) -> ProbeError {
    match page.card.health_errors.get() {
        0 => ProbeError::Absent {
            what: format!("a health page of {}", page.address()),
        },
        errors => ProbeError::Nonsense {
            path: health_page(page),
            what: format!("was never readable, {errors} times"),
        },
    }
}

fn nonsense(page: &Page, error: PageError) -> ProbeError {
    ProbeError::Nonsense {
        path: health_page(page),
        what: error.to_string(),
    }
}

/// Names the health page in messages; it is memory of the card and has no path of its own.
fn health_page(page: &Page) -> PathBuf {
    PathBuf::from(format!("the health page of {}", page.address()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;
    use zerocopy::IntoBytes;

    fn page() -> Page {
        let mut summary = Summary::new_zeroed();
        summary.magic = card_spec::health::MAGIC.into();
        summary.version = card_spec::health::VERSION.into();
        summary.capabilities = (2 << 8).into();
        summary.heartbeat_count = 0x0102_0304.into();
        summary.heartbeat_period_ms = 500.into();
        summary.boot_id = 0x0506_0708.into();
        summary.engines[1].requested = 9.into();
        summary.engines[1].responded = 8.into();
        let mut page = Page::new();
        page.card.health_reads = 1.into();
        page.card.health_read_at_ns = 77.into();
        page.health.copy_from_slice(summary.as_bytes());
        page
    }

    #[test]
    fn the_counters_are_reported_as_they_stand() {
        let beat = HeartbeatProbe.observe(&page(), Instant::ORIGIN).unwrap();
        assert_eq!((beat.count, beat.boot_id), (0x0102_0304, 0x0506_0708));
        assert_eq!(beat.period, Duration::from_millis(500));
        assert_eq!(beat.read_at, Instant::from_nanos(77));
        assert_eq!(beat.engines.len(), 2);
        assert_eq!(beat.engines[1].requested.get(), 9);
        assert_eq!(beat.engines[1].responded.get(), 8);
    }

    #[test]
    fn no_health_page_is_not_the_same_as_a_broken_one() {
        let mut none = page();
        none.card.health_reads = 0.into();
        assert_eq!(
            HeartbeatProbe
                .observe(&none, Instant::ORIGIN)
                .unwrap_err()
                .kind(),
            "absent"
        );
        none.card.health_errors = 3.into();
        assert_eq!(
            HeartbeatProbe
                .observe(&none, Instant::ORIGIN)
                .unwrap_err()
                .kind(),
            "nonsense"
        );
        let mut gone = page();
        gone.health.fill(0xff);
        let error = HeartbeatProbe.observe(&gone, Instant::ORIGIN).unwrap_err();
        assert_eq!(error.kind(), "nonsense");
        assert!(error.to_string().contains("all-ones"), "{error}");
    }
}
