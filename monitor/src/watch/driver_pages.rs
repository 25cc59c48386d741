//! Whether memory that no counter of the kernel accounts for only ever grows: pages that drivers take
//! for themselves, which are in no slab, no page table and no process. It is on the ladder that
//! services' leaks climb, and blames nobody: which driver it is, `/proc/allocinfo` says where there is
//! one.
//!
//! Its level means little, as it has the errors of a dozen counters in it. Its growth means that
//! drivers hold more, or that a hypervisor has taken memory back (a balloon is a driver).

use crate::leak::{self, Limit, Resource, Sample, Scope};
use crate::probe::Memory;
use crate::status::{LeakFigures, Unit};
use hwshim::clock::Instant;
use std::borrow::Cow;

/// What it is called.
pub(crate) const NAME: &str = "driver pages";

/// Growth that is too little to care for. Twelve counters are subtracted that are not of one moment: on
/// a host that compiled all the time it went up and down by 220 MiB within a minute. The floors of
/// minutes, by which it is judged, still differed by 20 MiB; buffers of the network come to that.
const NEGLIGIBLE: f64 = 64.0 * 1024.0 * 1024.0;
/// The same of the memory of a large host, which has more CPUs and more of everything.
const NEGLIGIBLE_SHARE: f64 = 1.0 / 256.0;

/// Watches what is not accounted for.
#[derive(Debug, Default)]
pub(super) struct DriverPages {
    watch: Option<leak::Watch>,
}

impl DriverPages {
    /// Takes what the host has; `None` where the kernel counts too little to know.
    pub(super) fn poll(&mut self, memory: Option<&Memory>, now: Instant) -> Option<LeakFigures> {
        let memory = memory?;
        let held = lossy(memory.unaccounted_bytes()?);
        let total = lossy(i64::try_from(memory.total_bytes).ok()?);
        let watch = self
            .watch
            .get_or_insert_with(|| leak::Watch::new(resource(total)));
        let available = memory.available_bytes;
        let left = available.and_then(|bytes| i64::try_from(bytes).ok());
        watch.set_limit(left.map(|left| Limit {
            value: held + lossy(left),
            source: Cow::Borrowed("what it has, and MemAvailable"),
        }));
        let sample = Sample {
            held,
            ..Sample::default()
        };
        watch.observe(now, &sample);
        Some(LeakFigures::new(watch.verdict(), Unit::Bytes, held))
    }
}

fn resource(total: f64) -> Resource {
    Resource {
        name: Cow::Borrowed(NAME),
        scope: Scope::Host,
        limit: None,
        negligible: NEGLIGIBLE.max(total * NEGLIGIBLE_SHARE),
        recycle: None,
    }
}

/// Exact up to 2^53, which is nine petabytes.
#[expect(clippy::cast_precision_loss, reason = "see above")]
const fn lossy(bytes: i64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leak::Level;
    use std::time::Duration;

    const MIB: f64 = 1024.0 * 1024.0;
    const TOTAL: u64 = 16 << 30;

    /// What the kernel says of a host on which this many bytes are missing.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bytes of a host, made up"
    )]
    fn host(missing: f64) -> Memory {
        let anonymous = 4_u64 << 30;
        let free = TOTAL - anonymous - missing as u64;
        Memory {
            total_bytes: TOTAL,
            free_bytes: free,
            available_bytes: Some(free),
            anon_pages_bytes: Some(anonymous),
            slab_bytes: Some(0),
            kernel_stack_bytes: Some(0),
            page_tables_bytes: Some(0),
            vmalloc_bytes: Some(0),
            ..Memory::default()
        }
    }

    /// What is missing on a host that is well: errors of counters as they were seen, buffers that
    /// follow the load of the day, and one driver that takes what it needs once.
    fn well(seconds: f64, rng: &mut fastrand::Rng) -> f64 {
        let day = (seconds / 86_400.0 * std::f64::consts::TAU).sin();
        let buffers = 20.0 * MIB * (1.0 + day);
        let taken = if seconds > 30_000.0 { 96.0 * MIB } else { 0.0 };
        let (floor, above) = (20.0 * MIB * rng.f64(), 200.0 * MIB * rng.f64().powi(4));
        60.0 * MIB + floor + above + buffers + taken
    }

    /// The worst level in so many hours in which this many bytes an hour are leaked, and the end.
    fn judged(hours: u32, leaks: f64, seed: u64) -> (Level, LeakFigures) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut pages = DriverPages::default();
        let (mut worst, mut last) = (Level::Watching, None);
        for step in 0..hours * 360 {
            let seconds = f64::from(step) * 10.0;
            let memory = host(well(seconds, &mut rng) + leaks * seconds / 3600.0);
            let now = Instant::ORIGIN.plus(Duration::from_secs(u64::from(step) * 10));
            let figures = pages.poll(Some(&memory), now).unwrap();
            worst = worst.max(figures.level);
            last = Some(figures);
        }
        (worst, last.unwrap())
    }

    #[test]
    fn driver_pages_that_only_grow_climb_the_ladder_and_never_page() {
        for seed in 1..4 {
            let (worst, figures) = judged(24, 40.0 * MIB, seed);
            assert!(
                worst > Level::Watching && worst < Level::Page,
                "{worst} with seed {seed}: {figures:#?}"
            );
            assert_eq!(figures.scope, Scope::Host);
            assert_eq!(figures.resource, NAME);
        }
        let (worst, figures) = judged(8, 1024.0 * MIB, 5);
        assert_eq!(
            worst,
            Level::Leaking,
            "the last of it, and no page: {figures:#?}"
        );
    }

    #[test]
    fn driver_pages_that_come_and_go_with_noise_and_one_step_are_no_leak() {
        for seed in 1..6 {
            let (worst, figures) = judged(72, 0.0, seed);
            assert_eq!(worst, Level::Watching, "seed {seed}: {figures:#?}");
        }
    }

    #[test]
    fn a_host_that_does_not_say_enough_is_not_judged() {
        let mut pages = DriverPages::default();
        assert_eq!(pages.poll(None, Instant::ORIGIN), None);
        let no_slab = Memory {
            slab_bytes: None,
            ..host(MIB)
        };
        assert_eq!(pages.poll(Some(&no_slab), Instant::ORIGIN), None);
    }
}
