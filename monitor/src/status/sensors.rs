//! What a card's kernel driver measures of it, as it is shown.

use crate::diagnosis::sensors::{all, said, whole};
use crate::probe::{Sensor, SensorStanding, Sensors};
use crate::verdict::Evidence;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The code of a sensor that is past a limit which is not the critical one.
const PAST_LIMIT: &str = "sensor-past-limit";
/// The code of one that is critical.
const CRITICAL: &str = "sensor-critical";

/// One thing that is measured.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct SensorFigures {
    /// What is measured, as the driver calls it; of several of one name, all but the first are numbered.
    pub sensor: String,
    /// In what: degrees Celsius or volts.
    pub unit: SensorUnit,
    /// How much; `null` if it could not be read.
    pub value: Option<f64>,
    /// Below that something is wrong, as its driver says.
    pub min: Option<f64>,
    /// Above that something is wrong.
    pub max: Option<f64>,
    /// From there on damage is near.
    pub critical: Option<f64>,
    /// Whether its chip raises an alarm; `null` if it knows none.
    pub alarm: Option<bool>,
}

/// What is measured in.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SensorUnit {
    /// Degrees Celsius.
    Celsius,
    /// Volts.
    Volts,
}

impl SensorFigures {
    /// All that were seen.
    pub(crate) fn of(sensors: &Sensors) -> Vec<Self> {
        let mut names = BTreeMap::new();
        all(sensors)
            .map(|(unit, sensor)| {
                let unit = match unit {
                    "V" => SensorUnit::Volts,
                    _ => SensorUnit::Celsius,
                };
                let seen: &mut u32 = names.entry((unit, &*sensor.label)).or_default();
                *seen += 1;
                let sensor_name = match *seen {
                    1 => sensor.label.clone(),
                    nth => format!("{} #{nth}", sensor.label),
                };
                Self::new(sensor_name, unit, sensor)
            })
            .collect()
    }

    fn new(name: String, unit: SensorUnit, sensor: &Sensor) -> Self {
        Self {
            sensor: name,
            unit,
            value: sensor.milli.as_ref().ok().map(|&milli| whole(milli)),
            min: sensor.milli_min.map(whole),
            max: sensor.milli_max.map(whole),
            critical: sensor.milli_critical.map(whole),
            alarm: sensor.alarm,
        }
    }
}

/// What is to be warned of: at most one warning of each kind, which names all sensors.
pub(crate) fn warnings(sensors: &Sensors) -> Vec<Evidence> {
    let kinds = [
        (SensorStanding::Critical, CRITICAL),
        (SensorStanding::PastLimit, PAST_LIMIT),
    ];
    let warning = |(standing, code): (SensorStanding, &'static str)| {
        let named: Vec<_> = all(sensors)
            .filter(|(_, sensor)| sensor.standing() == standing)
            .map(|(unit, sensor)| said(unit, sensor))
            .collect();
        (!named.is_empty()).then(|| Evidence {
            code: code.into(),
            detail: named.join("; "),
        })
    };
    kinds.into_iter().filter_map(warning).collect()
}
