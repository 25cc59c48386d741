//! Amounts as people write them: bytes, objects, and how many of either in what time.
//!
//! Nothing here knows what is counted, or does anything when it is due.

use std::fmt;
use std::time::Duration;

/// Suffixes of byte counts, largest first.
const SUFFIXES: [(&str, u64); 4] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];
/// What a rate can be per, in seconds.
const PERIODS: [(&str, u64); 3] = [("s", 1), ("min", 60), ("h", 3600)];
/// Instead of a period: per open that fails.
const FAILED_OPEN: &str = "failed-open";

/// What an amount counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Descriptors, threads, ports.
    Objects,
}

/// What a rate is per.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Per {
    /// As time passes.
    Period(Duration),
    /// At each open that fails, whatever the time.
    FailedOpen,
}

/// So much, per time or per failed open.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rate {
    /// How much; never zero.
    pub amount: u64,
    /// Of what.
    pub unit: Unit,
    /// Per what.
    pub per: Per,
}

impl Rate {
    /// Parses `1MiB/s`, `20/min`, `1/failed-open`.
    ///
    /// # Errors
    ///
    /// What a rate looks like.
    pub fn parse(text: &str, unit: Unit) -> Result<Self, String> {
        let parsed = || {
            let (amount, per) = text.split_once('/')?;
            let amount = parse_amount(amount, unit)
                .ok()
                .filter(|&amount| amount > 0)?;
            let per = if per == FAILED_OPEN {
                Per::FailedOpen
            } else {
                let (_, seconds) = PERIODS.iter().find(|(name, _)| *name == per)?;
                Per::Period(Duration::from_secs(*seconds))
            };
            Some(Self { amount, unit, per })
        };
        parsed().ok_or_else(|| {
            let amount = match unit {
                Unit::Bytes => "64KiB",
                Unit::Objects => "20",
            };
            format!("must be a rate such as {amount}/s, {amount}/min, {amount}/h or {amount}/{FAILED_OPEN}")
        })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.unit {
            Unit::Bytes => write_bytes(f, self.amount)?,
            Unit::Objects => write!(f, "{}", self.amount)?,
        }
        let per = match self.per {
            Per::FailedOpen => FAILED_OPEN,
            Per::Period(period) => PERIODS
                .iter()
                .find(|(_, seconds)| *seconds == period.as_secs())
                .map_or("?", |(name, _)| name),
        };
        write!(f, "/{per}")
    }
}

/// Parses a number of bytes, as in `4096` or `256MiB`.
///
/// # Errors
///
/// What it should look like.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    parse_amount(text, Unit::Bytes)
        .map_err(|()| "must be a number of bytes such as 4096, 64KiB or 256MiB".to_owned())
}

/// `()` because only the caller knows what else was possible.
fn parse_amount(text: &str, unit: Unit) -> Result<u64, ()> {
    let suffix = SUFFIXES
        .iter()
        .filter(|_| unit == Unit::Bytes)
        .find_map(|&(suffix, factor)| Some((text.strip_suffix(suffix)?, factor)));
    let (digits, factor) = suffix.unwrap_or((text, 1));
    // `parse` alone would take a sign.
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(());
    }
    let number: u64 = digits.parse().map_err(|_| ())?;
    number.checked_mul(factor).ok_or(())
}

/// In the largest unit that leaves a whole number.
fn write_bytes(f: &mut fmt::Formatter<'_>, bytes: u64) -> fmt::Result {
    let (suffix, factor) = SUFFIXES
        .iter()
        .find(|(_, factor)| bytes.is_multiple_of(*factor))
        .unwrap_or(&("B", 1));
    write!(f, "{}{suffix}", bytes / factor)
}

/// How much has become due of something that grows with time. Told the time, it reads no clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Accrual {
    amount: u64,
    period: Duration,
    /// It comes in whole multiples of this.
    grain: u64,
    since: Duration,
    taken: u64,
}

impl Accrual {
    /// `amount` per `period`, of which nothing is due yet.
    pub(super) fn new(amount: u64, period: Duration, grain: u64, now: Duration) -> Self {
        Self {
            amount,
            period,
            grain,
            since: now,
            taken: 0,
        }
    }

    /// What is due by now and was not taken before.
    pub(super) fn take(&mut self, now: Duration) -> u64 {
        let elapsed = now.saturating_sub(self.since).as_nanos();
        let due = elapsed.saturating_mul(self.amount.into()) / self.period.as_nanos().max(1);
        let due = u64::try_from(due).unwrap_or(u64::MAX);
        let due = due.saturating_sub(self.taken);
        let due = due - due % self.grain;
        self.taken += due;
        due
    }

    /// When there will be more to take.
    pub(super) fn next(&self) -> Duration {
        let wanted = u128::from(self.taken) + u128::from(self.grain);
        let elapsed = wanted
            .saturating_mul(self.period.as_nanos())
            .div_ceil(self.amount.max(1).into());
        let elapsed = u64::try_from(elapsed).map_or(Duration::MAX, Duration::from_nanos);
        self.since.saturating_add(elapsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_written_as_they_are_read() {
        for text in ["1MiB/s", "1025KiB/min", "7B/h", "64KiB/failed-open"] {
            assert_eq!(Rate::parse(text, Unit::Bytes).unwrap().to_string(), text);
        }
        for text in ["20/s", "1024/failed-open"] {
            assert_eq!(Rate::parse(text, Unit::Objects).unwrap().to_string(), text);
        }
        assert_eq!(parse_bytes("4096"), Ok(4096));
        assert_eq!(parse_bytes("256MiB"), Ok(256 << 20));
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        for text in [
            "",
            "1",
            "/s",
            "0/s",
            "-1/s",
            "+1/s",
            "1/day",
            "1 /s",
            "1MB/s",
            "1.5/s",
            "99999999999999GiB/s",
        ] {
            let error = Rate::parse(text, Unit::Bytes).unwrap_err();
            assert!(error.contains("64KiB/s"), "{text:?}: {error}");
        }
        Rate::parse("1MiB/s", Unit::Objects).unwrap_err();
    }

    #[test]
    fn what_is_due_grows_with_time_and_is_taken_once() {
        let second = Duration::from_secs(1);
        let mut accrual = Accrual::new(3, second, 1, 10 * second);
        assert_eq!(accrual.take(10 * second), 0);
        assert_eq!(accrual.take(11 * second), 3);
        assert_eq!(accrual.take(11 * second), 0);
        assert_eq!(accrual.take(14 * second), 9);
        assert_eq!(accrual.take(second), 0, "time does not run backwards");
        assert_eq!(accrual.take(15 * second), 3);
    }

    #[test]
    fn it_is_due_at_the_time_that_was_foretold_and_not_before() {
        let hour = Duration::from_secs(3600);
        for (amount, grain) in [(1, 1), (7, 1), (3600, 1), (1 << 20, 4096)] {
            let mut accrual = Accrual::new(amount, hour, grain, hour);
            for _ in 0..5 {
                let next = accrual.next();
                assert_eq!(accrual.take(next - Duration::from_nanos(1)), 0);
                assert_eq!(accrual.take(next), grain);
            }
        }
    }
}
