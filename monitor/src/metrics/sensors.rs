//! What the drivers of cards measure, as metrics.

use super::{Families, Labels};
use crate::status::{SensorFigures, SensorUnit, Status};
use prometheus_client::registry::Unit;
use std::fmt;

/// Temperatures and voltages, each with its critical limit where the driver states one.
pub(super) fn encode(to: &mut Families<'_>, status: &Status) -> fmt::Result {
    let celsius = (SensorUnit::Celsius, Unit::Celsius);
    let volts = (SensorUnit::Volts, Unit::Volts);
    for (unit, suffix) in [celsius, volts] {
        to.gauge(
            "cardmon_card_sensor",
            "What a sensor of the card reads",
            Some(&suffix),
            samples(status, unit, |sensor| sensor.value),
        )?;
        to.gauge(
            "cardmon_card_sensor_critical",
            "From what reading on the card's driver holds damage to be near",
            Some(&suffix),
            samples(status, unit, |sensor| sensor.critical),
        )?;
    }
    Ok(())
}

fn samples<'a>(
    status: &'a Status,
    unit: SensorUnit,
    value: impl Fn(&SensorFigures) -> Option<f64> + Copy,
) -> impl Iterator<Item = (Labels<'a>, f64)> {
    let cards = status.cards.iter().map(|it| (&*it.card, &it.sensors));
    let others = status.without_pages().map(|it| (&*it.card, &it.sensors));
    cards.chain(others).flat_map(move |(card, sensors)| {
        let sensors = sensors.iter().filter(move |it| it.unit == unit);
        sensors.filter_map(move |sensor| {
            let labels = vec![("card", card), ("sensor", &*sensor.sensor)];
            Some((labels, value(sensor)?))
        })
    })
}
