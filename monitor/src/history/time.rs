//! Three times at once: what the calendar says, how long the host has run, and which run it was.
//!
//! Wall time can be set back and forth, and monotonic time begins anew with each boot. Only the
//! three together say how long ago something was; order is told by sequence numbers alone.

use hwshim::clock::{Clock, Instant};
use rustix::time::{ClockId, clock_gettime};
use std::fmt;
use std::fs;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Time by the calendar, in nanoseconds since 1970 UTC. For people, never for order.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct WallTime(i64);

impl WallTime {
    /// From nanoseconds since 1970 UTC.
    #[must_use]
    pub const fn from_unix_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// From milliseconds since 1970 UTC, saturating.
    #[must_use]
    pub const fn from_unix_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// Nanoseconds since 1970 UTC.
    #[must_use]
    pub const fn unix_nanos(self) -> i64 {
        self.0
    }

    /// Milliseconds since 1970 UTC, rounded down.
    #[must_use]
    pub const fn unix_millis(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// The time `after` this one, saturating.
    #[must_use]
    pub fn plus(self, after: Duration) -> Self {
        Self(self.0.saturating_add(signed_nanos(after)))
    }

    /// The time `before` this one, saturating.
    #[must_use]
    pub fn minus(self, before: Duration) -> Self {
        Self(self.0.saturating_sub(signed_nanos(before)))
    }

    /// Time between `earlier` and this, or zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        let nanos = self.0.saturating_sub(earlier.0);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
    }
}

impl From<SystemTime> for WallTime {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self(signed_nanos(after)),
            Err(before) => Self(-signed_nanos(before.duration())),
        }
    }
}

fn signed_nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// One run of the host's kernel: `/proc/sys/kernel/random/boot_id`.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct BootId(u128);

impl BootId {
    /// Asks the kernel; an id of zeros if it does not say.
    #[must_use]
    pub fn of_this_boot() -> Self {
        fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(Self(0))
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:032x}", self.0);
        let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &digits[part]);
        f.write_str(&parts.join("-"))
    }
}

impl fmt::Debug for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no boot id.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no boot id")]
pub struct NotABootId(String);

impl FromStr for BootId {
    type Err = NotABootId;

    /// Takes the one way in which ids are written, so that a text and its id stand for each other.
    fn from_str(text: &str) -> Result<Self, NotABootId> {
        u128::from_str_radix(&text.replace('-', ""), 16)
            .ok()
            .map(Self)
            .filter(|id| id.to_string() == text)
            .ok_or_else(|| NotABootId(text.to_owned()))
    }
}

/// When something was.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stamp {
    /// By the calendar.
    pub wall: WallTime,
    /// By the host's clock since it booted.
    pub monotonic: Instant,
    /// Which boot that was.
    pub boot: BootId,
}

impl Stamp {
    /// Now. For loops at the edge; everything else is told.
    #[must_use]
    pub fn now(clock: &dyn Clock, boot: BootId) -> Self {
        let wall = clock_gettime(ClockId::Realtime);
        let nanos = wall.tv_sec.saturating_mul(1_000_000_000);
        Self {
            wall: WallTime(nanos.saturating_add(wall.tv_nsec)),
            monotonic: clock.now(),
            boot,
        }
    }
}

/// Notices that the calendar was set: wall time moved, and monotonic time did not move as much.
///
/// Its finding is for the caller to record as an event of its own, before anything with the new
/// time is recorded.
#[derive(Debug)]
pub struct ClockSteps {
    last: Stamp,
    tolerance: Duration,
}

impl ClockSteps {
    /// Starts from `now`. `tolerance` is what slewing may do between two looks; half a second is
    /// what NTP slews before it steps.
    #[must_use]
    pub const fn new(now: Stamp, tolerance: Duration) -> Self {
        Self {
            last: now,
            tolerance,
        }
    }

    /// How far the calendar was set since the last look, in nanoseconds, if it was.
    pub fn look(&mut self, now: Stamp) -> Option<i64> {
        let last = std::mem::replace(&mut self.last, now);
        let passed = signed_nanos(now.monotonic.since(last.monotonic));
        let moved = now.wall.0.saturating_sub(last.wall.0);
        let step = moved.saturating_sub(passed);
        let same_boot = now.boot == last.boot;
        (same_boot
            && step.unsigned_abs() > self.tolerance.as_nanos().try_into().unwrap_or(u64::MAX))
        .then_some(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(wall_seconds: i64, monotonic_seconds: u64) -> Stamp {
        Stamp {
            wall: WallTime::from_unix_millis(wall_seconds * 1_000),
            monotonic: Instant::from_nanos(monotonic_seconds * 1_000_000_000),
            boot: BootId(1),
        }
    }

    #[test]
    fn a_clock_that_is_set_is_noticed_once_in_both_directions() {
        let mut steps = ClockSteps::new(stamp(100, 10), Duration::from_millis(500));
        assert_eq!(steps.look(stamp(101, 11)), None);
        assert_eq!(steps.look(stamp(3_702, 12)), Some(3_600_000_000_000));
        assert_eq!(steps.look(stamp(3_703, 13)), None);
        assert_eq!(steps.look(stamp(103, 13)), Some(-3_600_000_000_000));
        assert_eq!(steps.look(stamp(103, 13)), None);
    }

    #[test]
    fn boot_ids_are_read_as_they_are_written() {
        let text = "0f5e6a1c-0000-4b2d-8c3e-9a7b6c5d4e3f";
        assert_eq!(text.parse::<BootId>().unwrap().to_string(), text);
        text.to_uppercase().parse::<BootId>().unwrap_err();
        "0f5e6a1c".parse::<BootId>().unwrap_err();
    }

    #[test]
    fn times_before_1970_are_times_too() {
        let before = UNIX_EPOCH - Duration::from_millis(1);
        let wall = WallTime::from(before);
        assert_eq!((wall.unix_nanos(), wall.unix_millis()), (-1_000_000, -1));
    }
}
