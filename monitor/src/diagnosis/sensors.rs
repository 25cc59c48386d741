//! What a card's kernel driver measures of it: a reading that is critical, or an alarm, speaks against
//! the card as its own word does.

use crate::attribution::{Dossier, Kind};
use crate::probe::{ProbeError, Sensor, SensorStanding, Sensors};
use hwshim::clock::Instant;

/// Weighs what was measured. Of a card that says itself that it is hot, the stronger word counts: the
/// dossier believes who has seen something before who has not.
pub(super) fn weigh(
    seen: Option<&Result<Sensors, ProbeError>>,
    now: Instant,
    dossier: &mut Dossier,
) {
    let Some(Ok(sensors)) = seen else {
        return;
    };
    let critical: Vec<_> = all(sensors)
        .filter(|(_, sensor)| sensor.standing() == SensorStanding::Critical)
        .map(|(unit, sensor)| said(unit, sensor))
        .collect();
    if !critical.is_empty() {
        dossier.seen(Kind::OutOfRange, 1.0, critical.join("; "), now);
    } else if all(sensors).any(|(_, sensor)| sensor.milli.is_ok()) {
        let detail = "its sensors are within their limits";
        dossier.not_seen(Kind::OutOfRange, detail, now);
    }
}

/// Each sensor with its unit.
pub(crate) fn all(sensors: &Sensors) -> impl Iterator<Item = (&'static str, &Sensor)> {
    sensors.chips.iter().flat_map(|chip| {
        let temperatures = chip.temperatures.iter().map(|sensor| ("C", sensor));
        temperatures.chain(chip.voltages.iter().map(|sensor| ("V", sensor)))
    })
}

/// A sensor in words: what it reads, and its limits.
pub(crate) fn said(unit: &str, sensor: &Sensor) -> String {
    let reads = match &sensor.milli {
        Ok(milli) => format!("{} reads {} {unit}", sensor.label, whole(*milli)),
        Err(_) => format!("{} cannot be read", sensor.label),
    };
    let limits = [
        ("min", sensor.milli_min),
        ("max", sensor.milli_max),
        ("critical", sensor.milli_critical),
    ];
    let named = |(name, limit): (&str, Option<i64>)| {
        let limit = whole(limit?);
        Some(format!("{name} {limit} {unit}"))
    };
    let mut about: Vec<_> = limits.into_iter().filter_map(named).collect();
    about.extend((sensor.alarm == Some(true)).then(|| "its chip raises an alarm".to_owned()));
    if about.is_empty() {
        reads
    } else {
        format!("{reads} ({})", about.join(", "))
    }
}

/// Thousandths as a number of the unit. What a driver says beyond two million is nonsense anyway.
pub(crate) fn whole(milli: i64) -> f64 {
    let milli = milli.clamp(i32::MIN.into(), i32::MAX.into());
    f64::from(i32::try_from(milli).unwrap_or_default()) / 1000.0
}
