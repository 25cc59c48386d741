//! Times as people write and read them: RFC 3339, always in UTC, or so long ago.

use hwshim::clock::SystemClock;
use monitor::history::{BootId, Stamp, WallTime};
use std::time::{Duration, UNIX_EPOCH};

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
pub(crate) fn at(text: &str) -> Result<WallTime, String> {
    humantime::parse_rfc3339_weak(text.trim())
        .map(WallTime::from)
        .map_err(|_| format!("{text:?} is no time, such as 2026-11-22T19:36:46.531Z (UTC)"))
}

/// A time that is named, or so long ago: `2h`, `7d`.
pub(crate) fn since(text: &str) -> Result<WallTime, String> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(now().minus(ago));
    }
    at(text).map_err(|error| format!("{error}, and no time ago, such as 30m or 7d"))
}
