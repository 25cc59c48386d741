//! Looks at the temperatures and voltages that a card's driver measures.
//!
//! They stand below the PCI function, as numbers of thousandths (Linux
//! `Documentation/hwmon/sysfs-interface.rst`, "Naming and data format standards for sysfs files").
//! What there is to measure is looked up once a minute, or when a sensor has gone; the limits that
//! the driver states are read then, too.

use super::file::{TextFile, number, printable};
use super::{Probe, ProbeError};
use card_spec::pci::Bdf;
use hwshim::clock::Instant;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time between two looks at what there is to measure.
const SURVEY_INTERVAL: Duration = Duration::from_secs(60);
/// Sensors of one kind that are looked for on a chip; drivers number them without gaps, but for
/// some that hide those not fitted.
const SENSORS_MAX: u32 = 32;
/// Chips below one function.
const CHIPS_MAX: usize = 8;
/// Alarms that are more than a limit passed; those of `min` and `max` say what the number says.
const ALARMS: [&str; 4] = ["alarm", "crit_alarm", "lcrit_alarm", "emergency_alarm"];

/// What a card's driver measures.
#[derive(Clone, Debug)]
pub struct Sensors {
    /// By chip. There may be none.
    pub chips: Vec<Chip>,
}

/// What one chip measures.
#[derive(Clone, Debug)]
pub struct Chip {
    /// As its driver calls it.
    pub name: String,
    /// Temperatures in thousandths of a degree Celsius.
    pub temperatures: Vec<Sensor>,
    /// Voltages in millivolts.
    pub voltages: Vec<Sensor>,
}

/// One thing that is measured, in thousandths of its unit.
#[derive(Clone, Debug)]
pub struct Sensor {
    /// What it measures, as the driver says, or else the name of its file.
    pub label: String,
    /// What it is now.
    pub milli: Result<i64, ProbeError>,
    /// Below that something is wrong (`min`).
    pub milli_min: Option<i64>,
    /// Above that something is wrong (`max`).
    pub milli_max: Option<i64>,
    /// From there on damage is near (`crit`).
    pub milli_critical: Option<i64>,
    /// Whether its chip raises an alarm for more than a limit passed; `None` if it knows none.
    pub alarm: Option<bool>,
}

/// Where what is measured is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// Where it may be, as far as the driver states limits.
    InRange,
    /// Below `min` or above `max`.
    PastLimit,
    /// At `crit` or above, or its chip raises an alarm.
    Critical,
}

impl Sensor {
    /// Where it is. What could not be read is where it may be unless an alarm says otherwise.
    ///
    /// A limit of zero, or less, from above is none: it is what chips give of which nobody has set one.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let milli = self.milli.as_ref().ok().copied();
        let is = |past: fn(i64, i64) -> bool, limit: Option<i64>| {
            milli
                .zip(limit)
                .is_some_and(|(milli, limit)| past(milli, limit))
        };
        let set = |limit: Option<i64>| limit.filter(|&limit| limit > 0);
        if self.alarm == Some(true) || is(|is, limit| is >= limit, set(self.milli_critical)) {
            Standing::Critical
        } else if is(|is, limit| is > limit, set(self.milli_max))
            || is(|is, limit| is < limit, self.milli_min)
        {
            Standing::PastLimit
        } else {
            Standing::InRange
        }
    }
}

/// Looks at the temperatures and voltages that a card's driver measures.
#[derive(Debug)]
pub struct HwmonProbe {
    devices: PathBuf,
    survey: Option<Survey>,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Survey {
    bdf: Bdf,
    at: Instant,
    chips: Vec<ChipFiles>,
}

#[derive(Debug)]
struct ChipFiles {
    name: String,
    temperatures: Vec<SensorFile>,
    voltages: Vec<SensorFile>,
}

#[derive(Debug)]
struct SensorFile {
    label: String,
    input: TextFile,
    milli_min: Option<i64>,
    milli_max: Option<i64>,
    milli_critical: Option<i64>,
    alarms: Vec<TextFile>,
}

impl HwmonProbe {
    /// Looks under `root`: `/` is this host, anything else a captured tree.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            devices: root.join("sys/bus/pci/devices"),
            survey: None,
            buffer: Vec::new(),
        }
    }

    fn survey(&mut self, bdf: Bdf, now: Instant) -> Result<Survey, ProbeError> {
        let function = self.devices.join(bdf.to_string());
        if !function.is_dir() {
            return Err(ProbeError::Absent {
                what: format!("PCI function {bdf}"),
            });
        }
        let mut chips = Vec::new();
        for directory in chips_below(&function.join("hwmon"))? {
            chips.push(self.survey_chip(&directory));
        }
        Ok(Survey {
            bdf,
            at: now,
            chips,
        })
    }

    fn survey_chip(&mut self, directory: &Path) -> ChipFiles {
        ChipFiles {
            name: self.text(directory.join("name")).unwrap_or_default(),
            temperatures: self.survey_kind(directory, "temp", 1),
            voltages: self.survey_kind(directory, "in", 0),
        }
    }

    /// Finds the sensors of one kind, which are numbered from `first`.
    fn survey_kind(&mut self, directory: &Path, kind: &str, first: u32) -> Vec<SensorFile> {
        let mut sensors = Vec::new();
        for index in first..first + SENSORS_MAX {
            let stem = format!("{kind}{index}");
            let path = |what| directory.join(format!("{stem}_{what}"));
            let input = TextFile::new(path("input"));
            if !input.exists() {
                continue;
            }
            let label = self.text(path("label"));
            let alarms = ALARMS.map(|alarm| TextFile::new(path(alarm)));
            sensors.push(SensorFile {
                input,
                milli_min: self.limit(path("min")),
                milli_max: self.limit(path("max")),
                milli_critical: self.limit(path("crit")),
                alarms: alarms.into_iter().filter(TextFile::exists).collect(),
                label: label.unwrap_or(stem),
            });
        }
        sensors
    }

    fn text(&mut self, path: PathBuf) -> Option<String> {
        let mut file = TextFile::new(path);
        Some(printable(&file.read(&mut self.buffer).ok()?))
    }

    /// A limit that cannot be read is none: only the driver knows one.
    fn limit(&mut self, path: PathBuf) -> Option<i64> {
        number(&TextFile::new(path).read(&mut self.buffer).ok()?)
    }
}

impl Probe for HwmonProbe {
    type Subject = Bdf;
    type Observation = Sensors;

    fn name(&self) -> &'static str {
        "hwmon"
    }

    fn observe(&mut self, &bdf: &Bdf, now: Instant) -> Result<Sensors, ProbeError> {
        let known = self
            .survey
            .take()
            .filter(|known| known.bdf == bdf && now.since(known.at) < SURVEY_INTERVAL);
        if let Some(mut survey) = known {
            let sensors = survey.read(&mut self.buffer);
            if !sensors.lack_one() {
                self.survey = Some(survey);
                return Ok(sensors);
            }
        }
        let mut survey = self.survey(bdf, now)?;
        let sensors = survey.read(&mut self.buffer);
        self.survey = Some(survey);
        Ok(sensors)
    }
}

impl Sensors {
    fn lack_one(&self) -> bool {
        let sensors = |chip: &Chip| [&chip.temperatures[..], &chip.voltages[..]].concat();
        self.chips
            .iter()
            .flat_map(sensors)
            .any(|sensor| matches!(sensor.milli, Err(ProbeError::Absent { .. })))
    }
}

impl Survey {
    fn read(&mut self, buffer: &mut Vec<u8>) -> Sensors {
        let mut read = |sensors: &mut Vec<SensorFile>| {
            sensors
                .iter_mut()
                .map(|sensor| sensor.read(buffer))
                .collect()
        };
        let chips = self.chips.iter_mut().map(|chip| Chip {
            name: chip.name.clone(),
            temperatures: read(&mut chip.temperatures),
            voltages: read(&mut chip.voltages),
        });
        Sensors {
            chips: chips.collect(),
        }
    }
}

impl SensorFile {
    fn read(&mut self, buffer: &mut Vec<u8>) -> Sensor {
        let raised = |file: &mut TextFile| number::<u8>(&file.read(buffer).ok()?).map(|it| it != 0);
        let alarm = self
            .alarms
            .iter_mut()
            .filter_map(raised)
            .reduce(|a, b| a || b);
        Sensor {
            alarm,
            label: self.label.clone(),
            milli: self.input.parse(buffer, "a number of thousandths", number),
            milli_min: self.milli_min,
            milli_max: self.milli_max,
            milli_critical: self.milli_critical,
        }
    }
}

/// Directories of chips, by name; none if the driver measures nothing.
fn chips_below(hwmon: &Path) -> Result<Vec<PathBuf>, ProbeError> {
    let unreadable = |source| ProbeError::Unreadable {
        path: hwmon.to_owned(),
        source,
    };
    let entries = match fs::read_dir(hwmon) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(unreadable)?,
    };
    let mut chips = Vec::new();
    for entry in entries.take(CHIPS_MAX) {
        chips.push(entry.map_err(unreadable)?.path());
    }
    chips.sort();
    Ok(chips)
}

#[cfg(test)]
mod tests {
    use super::super::tree::{Mortal, Tree};
    use super::*;

    const CHIP: &str = "sys/bus/pci/devices/0000:3b:00.0/hwmon/hwmon3";

    fn card() -> Tree {
        let tree = Tree::empty();
        for (file, content) in [
            ("name", "nitrox\n"),
            ("temp1_input", "53000\n"),
            ("temp1_label", "core\n"),
            ("temp1_max", "95000\n"),
            ("temp1_crit", "105000\n"),
            ("temp3_input", "-1250\n"),
            ("in0_input", "998\n"),
            ("in0_min", "900\n"),
        ] {
            tree.write(&format!("{CHIP}/{file}"), content);
        }
        tree
    }

    fn look(probe: &mut HwmonProbe, seconds: u64) -> Result<Sensors, ProbeError> {
        let now = Instant::ORIGIN.plus(Duration::from_secs(seconds));
        probe.observe(&"0000:3b:00.0".parse().unwrap(), now)
    }

    #[test]
    fn sensors_are_read_with_their_limits_and_names() {
        let tree = card();
        let mut probe = HwmonProbe::new(tree.root());
        let sensors = look(&mut probe, 0).unwrap();
        let [chip] = &sensors.chips[..] else {
            panic!("one chip: {sensors:?}");
        };
        assert_eq!(chip.name, "nitrox");
        let [core, unnamed] = &chip.temperatures[..] else {
            panic!("two temperatures: {chip:?}");
        };
        assert_eq!((&*core.label, &*unnamed.label), ("core", "temp3"));
        assert_eq!(*core.milli.as_ref().unwrap(), 53_000);
        assert_eq!(core.milli_max, Some(95_000));
        assert_eq!(core.milli_critical, Some(105_000));
        assert_eq!(*unnamed.milli.as_ref().unwrap(), -1250);
        assert_eq!(unnamed.milli_max, None);
        assert_eq!(chip.voltages[0].milli_min, Some(900));
    }

    #[test]
    fn a_sensor_that_fails_leaves_the_others_seen() {
        let tree = card();
        tree.write(&format!("{CHIP}/temp1_input"), "hot\n");
        let mut probe = HwmonProbe::new(tree.root());
        let chip = look(&mut probe, 0).unwrap().chips.remove(0);
        let error = chip.temperatures[0].milli.as_ref().unwrap_err();
        assert_eq!(error.kind(), "nonsense");
        assert_eq!(*chip.voltages[0].milli.as_ref().unwrap(), 998);
    }

    #[test]
    fn a_sensor_is_where_its_limits_and_alarms_say() {
        let tree = card();
        for (file, content, standing) in [
            ("temp1_input", "95000\n", Standing::InRange),
            ("temp1_input", "95001\n", Standing::PastLimit),
            ("temp1_input", "104999\n", Standing::PastLimit),
            ("temp1_input", "105000\n", Standing::Critical),
            ("temp1_input", "-5000\n", Standing::InRange),
            ("temp1_alarm", "0\n", Standing::InRange),
            ("temp1_crit_alarm", "1\n", Standing::Critical),
            ("temp1_input", "nonsense\n", Standing::Critical),
            ("temp1_crit_alarm", "0\n", Standing::InRange),
            ("temp1_input", "90000\n", Standing::InRange),
            ("temp1_max", "0\n", Standing::InRange),
            ("temp1_min", "90001\n", Standing::PastLimit),
        ] {
            tree.write(&format!("{CHIP}/{file}"), content);
            let chip = look(&mut HwmonProbe::new(tree.root()), 0)
                .unwrap()
                .chips
                .remove(0);
            assert_eq!(
                chip.temperatures[0].standing(),
                standing,
                "{file} {content}"
            );
        }
    }

    #[test]
    fn no_sensors_and_no_card_are_told_apart() {
        let tree = card();
        let mut probe = HwmonProbe::new(tree.root());
        look(&mut probe, 0).unwrap();
        tree.remove("sys/bus/pci/devices/0000:3b:00.0/hwmon");
        assert_eq!(look(&mut probe, 61).unwrap().chips.len(), 0);
        tree.remove("sys/bus/pci/devices/0000:3b:00.0");
        assert_eq!(look(&mut probe, 122).unwrap_err().kind(), "absent");
    }

    #[test]
    fn a_sensor_that_goes_makes_it_look_what_there_is_at_once() {
        let tree = card();
        let mortal = Mortal::new();
        tree.link(&format!("{CHIP}/in1_input"), &mortal.path());
        let mut probe = HwmonProbe::new(tree.root());
        assert_eq!(look(&mut probe, 0).unwrap().chips[0].voltages.len(), 2);
        mortal.end();
        assert_eq!(look(&mut probe, 1).unwrap().chips[0].voltages.len(), 1);
    }

    #[test]
    fn a_sensor_that_appears_is_seen_within_a_minute() {
        let tree = card();
        let mut probe = HwmonProbe::new(tree.root());
        look(&mut probe, 0).unwrap();
        tree.write(&format!("{CHIP}/in1_input"), "1800\n");
        assert_eq!(look(&mut probe, 59).unwrap().chips[0].voltages.len(), 1);
        assert_eq!(look(&mut probe, 60).unwrap().chips[0].voltages.len(), 2);
    }
}
