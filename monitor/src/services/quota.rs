//! Whether a service is held up by a quota of processor time, its own group's or one's above: it looks
//! then as if it hung, and has only more to do than it may.

use super::senses::Senses;
use crate::number::lossy;
use crate::probe::{CpuPeriods, OwnerId};
use hwshim::clock::{Instant, nanos};
use std::path::PathBuf;
use std::time::Duration;

/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(5);
/// Whoever was held up in so much of the periods, and for so much of the time, summed up over CPUs as the
/// kernel has it, may have been silent for that.
const SHARE_MIN: f64 = 0.5;

/// A group that had used up its quota again and again.
#[derive(Clone, Debug, PartialEq)]
pub struct Throttled {
    /// Path of the group in its hierarchy.
    pub group: PathBuf,
    /// Share of the periods in which it had, from 0 to 1.
    pub share: f64,
}

/// What the quotas that hold for a service do to it.
#[derive(Debug, Default)]
pub(super) struct Quotas {
    /// What was counted, of which process and when.
    before: Option<(OwnerId, Instant, Vec<CpuPeriods>)>,
    throttled: Option<(Instant, Throttled)>,
}

impl Quotas {
    /// Looks, if it is time to.
    pub(super) fn poll(&mut self, id: Option<OwnerId>, senses: &mut dyn Senses, now: Instant) {
        let Some(id) = id else {
            *self = Self::default();
            return;
        };
        let before = self.before.take().filter(|(of, ..)| *of == id);
        if before.is_none() {
            // What held up another process says nothing of this one.
            self.throttled = None;
        }
        if let Some((_, at, _)) = &before
            && now < at.plus(INTERVAL)
        {
            self.before = before;
            return;
        }
        let counted = senses.look_at_quotas(id, now).unwrap_or_default();
        let held_up = before.and_then(|(_, at, before)| held_up(&before, &counted, now.since(at)));
        if let Some(throttled) = held_up {
            self.throttled = Some((now, throttled));
        }
        self.before = Some((id, now, counted));
    }

    /// The group that held it up within the last `time`, if one did.
    pub(super) fn throttled_within(&self, time: Duration, now: Instant) -> Option<&Throttled> {
        let (at, throttled) = self.throttled.as_ref()?;
        (now.since(*at) <= time).then_some(throttled)
    }
}

/// The group that was held up most, if one was for much of the time that `passed`.
fn held_up(before: &[CpuPeriods], now: &[CpuPeriods], passed: Duration) -> Option<Throttled> {
    let of_one = |now: &CpuPeriods| {
        let before = before.iter().find(|before| before.group == now.group)?;
        let periods = now.periods.checked_sub(before.periods)?;
        let throttled = now.throttled.checked_sub(before.throttled)?;
        let throttled_for = now.throttled_for.checked_sub(before.throttled_for)?;
        let share = ratio(throttled, periods);
        let of_time = ratio(nanos(throttled_for), nanos(passed));
        (share >= SHARE_MIN && of_time >= SHARE_MIN).then(|| Throttled {
            group: now.group.clone(),
            share,
        })
    };
    let throttled = now.iter().filter_map(of_one);
    throttled.max_by(|a, b| a.share.total_cmp(&b.share))
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        lossy(part) / lossy(whole)
    }
}

#[cfg(test)]
mod real;

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(group: &str, periods: u64, throttled: u64, millis: u64) -> CpuPeriods {
        CpuPeriods {
            group: group.into(),
            periods,
            throttled,
            throttled_for: Duration::from_millis(millis),
        }
    }

    #[test]
    fn a_group_is_named_that_was_held_up_for_half_of_its_periods_and_of_the_time() {
        let before = [counted("web", 100, 40, 9_000), counted("shop", 10, 1, 7)];
        let seconds = Duration::from_secs(5);
        let held_up = |web, shop| held_up(&before, &[web, shop], seconds);
        let quiet = || counted("shop", 60, 1, 7);
        let named = held_up(counted("web", 150, 90, 12_000), quiet());
        let web = Throttled {
            group: "web".into(),
            share: 1.0,
        };
        assert_eq!(named, Some(web));
        // For half of the time, and in less than half of the periods; and the other way round: what runs
        // seldom and is held up then has missed little.
        assert_eq!(held_up(counted("web", 150, 64, 12_000), quiet()), None);
        assert_eq!(held_up(counted("web", 104, 44, 9_300), quiet()), None);
        // Of two the one that is held up more.
        let shop = counted("shop", 60, 41, 3_007);
        let named = held_up(counted("web", 150, 75, 12_000), shop);
        assert_eq!(named.unwrap().group, PathBuf::from("shop"));
        // It was made anew, and began to count from nothing.
        assert_eq!(held_up(counted("web", 50, 50, 5_000), quiet()), None);
    }
}
