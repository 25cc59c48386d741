//! Times as people write and read them: RFC 3339, always in UTC, or so long ago.

use hwshim::clock::SystemClock;
use monitor::history::{BootId, Stamp, WallTime};
use std::time::{Duration, UNIX_EPOCH};

/// A day of UTC, in milliseconds.
const DAY_MS: i64 = 24 * 3600 * 1000;

/// Now, by the calendar.
pub(crate) fn now() -> WallTime {
    Stamp::now(&SystemClock, BootId::of_this_boot()).wall
}

/// A time, to the millisecond; the number of nanoseconds for what no calendar shows.
pub(crate) fn time(wall: WallTime) -> String {
    let millis = u64::try_from(wall.unix_millis()).ok();
    let time = millis.and_then(|millis| UNIX_EPOCH.checked_add(Duration::from_millis(millis)));
    // The formatter refuses years of more than four digits.
    let year_10000 = 253_402_300_800_000;
    match time.filter(|_| millis.is_some_and(|millis| millis < year_10000)) {
        Some(time) => humantime::format_rfc3339_millis(time).to_string(),
        None => format!("{}ns", wall.unix_nanos()),
    }
}

/// A time that is named: `2026-11-22T19:36:46.531Z`, with a blank for the T, and without the Z.
fn at(text: &str) -> Result<WallTime, String> {
    humantime::parse_rfc3339_weak(text.trim())
        .map(WallTime::from)
        .map_err(|_| format!("{text:?} is no time, such as 2026-11-22T19:36:46.531Z (UTC)"))
}

/// A time that is named, or so long ago: `2h`, `7d`; or when a day began in UTC: `today`, `yesterday`.
pub(crate) fn since(text: &str) -> Result<WallTime, String> {
    since_at(text, now())
}

fn since_at(text: &str, now: WallTime) -> Result<WallTime, String> {
    let text = text.trim();
    let days_ago = match text {
        "today" => Some(0),
        "yesterday" => Some(1),
        _ => None,
    };
    if let Some(days_ago) = days_ago {
        let today = now.unix_millis().div_euclid(DAY_MS);
        return Ok(WallTime::from_unix_millis((today - days_ago) * DAY_MS));
    }
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(now.minus(ago));
    }
    at(text).map_err(|error| {
        format!("{error}, no time ago, such as 30m or 7d, and neither today nor yesterday")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_named_or_ago_or_the_begin_of_a_day() {
        let now = at("2026-11-22T19:36:46Z").unwrap();
        for (text, expected) in [
            ("today", "2026-11-22T00:00:00.000Z"),
            ("yesterday", "2026-11-21T00:00:00.000Z"),
            ("30m", "2026-11-22T19:06:46.000Z"),
            ("2026-11-20 01:02:03", "2026-11-20T01:02:03.000Z"),
        ] {
            assert_eq!(time(since_at(text, now).unwrap()), expected, "{text}");
        }
        let refused = since_at("tomorrow", now).unwrap_err();
        assert!(refused.contains("30m or 7d"), "{refused}");
    }
}
