//! Understands what nShield's programs `stattree` and `enquiry` print, and the stand-in for its host
//! service as well.
//!
//! It takes text, wherever that comes from, and runs no program. Numbers that are not there are
//! `None`; lines that mean nothing to us are passed over, as each version prints more of them.
//!
//! Source: nShield Security World documentation, Utilities, "stattree" and "enquiry".

use super::file::{number, printable};
use std::collections::BTreeMap;

/// Longest text that is taken.
const TEXT_LEN_MAX: usize = 1 << 20;
/// Deepest branch; the vendor's trees have four levels.
const LEVELS_MAX: usize = 16;
/// Modules and their sensors, of which no host has as many.
const MODULES_MAX: usize = 64;
/// Connections that are counted, and sensors of a module.
const SENSORS_MAX: usize = 64;
/// Blanks by which `stattree` indents each level.
const INDENT: usize = 3;

/// The text is not what it should be.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("line {line} {what}")]
pub struct ParseError {
    /// Line, from 1; 0 if it is about the whole.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

impl ParseError {
    fn new(line: usize, what: impl Into<String>) -> Self {
        Self {
            line,
            what: what.into(),
        }
    }
}

/// What `stattree` says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Statistics {
    /// Of the service.
    pub server: ServerStatistics,
    /// Connections to it; `None` if the tree has no such branch.
    pub connections: Option<u64>,
    /// Of each card, by the number the service gave it.
    pub modules: BTreeMap<u32, ModuleStatistics>,
}

/// What the service counts (`ServerGlobals`). Counters grow until it is started anew.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ServerStatistics {
    /// Since it started (`Uptime`).
    pub uptime_seconds: Option<u64>,
    /// Commands of clients (`CmdCount`).
    pub commands: Option<u64>,
    /// Replies to them (`ReplyCount`).
    pub replies: Option<u64>,
    /// Clients now (`ClientCount`).
    pub clients: Option<u64>,
    /// Most clients at once (`MaxClients`).
    pub clients_max: Option<u64>,
    /// How often a card was lost (`DeviceFails`).
    pub device_fails: Option<u64>,
    /// How often one was started again (`DeviceRestarts`).
    pub device_restarts: Option<u64>,
}

/// What is counted of a card.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ModuleStatistics {
    /// Serial number.
    pub serial_number: Option<String>,
    /// Since its firmware started (`Uptime`).
    pub uptime_seconds: Option<u64>,
    /// Commands given to it (`CmdCount`).
    pub commands: Option<u64>,
    /// Replies it gave (`ReplyCount`).
    pub replies: Option<u64>,
    /// Under way (`JobsOutstanding`), as the service counts it.
    pub jobs_outstanding: Option<u64>,
    /// Objects it holds: keys, sessions, ... (`ObjectCount`).
    pub objects: Option<u64>,
    /// Objects created (`ObjectsCreated`).
    pub objects_created: Option<u64>,
    /// Objects destroyed (`ObjectsDestroyed`).
    pub objects_destroyed: Option<u64>,
    /// Its memory (`MemTotal`).
    pub memory_total_bytes: Option<u64>,
    /// Of that, held by its kernel (`MemAllocKernel`).
    pub memory_kernel_bytes: Option<u64>,
    /// Of that, held by programs on it (`MemAllocUser`).
    pub memory_user_bytes: Option<u64>,
    /// Reads from the host that failed (`HostReadErrors`).
    pub host_read_errors: Option<u64>,
    /// Writes to the host that failed (`HostWriteErrors`).
    pub host_write_errors: Option<u64>,
    /// How busy it is (`CPULoadPercent`).
    pub load_percent: Option<u64>,
    /// Temperatures in thousandths of a degree Celsius.
    pub temperatures: Vec<Measured>,
    /// Voltages in millivolts.
    pub voltages: Vec<Measured>,
}

impl ModuleStatistics {
    /// Commands under way: those given less those answered. `None` if either is not counted, or if
    /// more were answered than given, which is two numbers of different moments.
    #[must_use]
    pub fn outstanding(&self) -> Option<u64> {
        self.commands?.checked_sub(self.replies?)
    }
}

/// Something measured, in thousandths of its unit.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Measured {
    /// The vendor's name for it, e.g. `CurrentCPUTemp1`.
    pub name: String,
    /// What it is.
    pub milli: i64,
}

impl Statistics {
    /// Parses what `stattree` prints: the whole tree, or the part of it that was asked for.
    ///
    /// # Errors
    ///
    /// A line that is neither branch nor statistic, or a statistic that should be a number.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if text.len() > TEXT_LEN_MAX {
            let what = format!("1 begins a text of more than {TEXT_LEN_MAX} bytes");
            return Err(ParseError::new(0, what));
        }
        let mut statistics = Self::default();
        let mut path: Vec<&str> = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let wrong = |what: &str| ParseError::new(number, what);
            let node = line.trim_start_matches(' ');
            if node.is_empty() {
                continue;
            }
            let level = (line.len() - node.len()) / INDENT;
            if level > path.len() || level >= LEVELS_MAX {
                return Err(wrong("is deeper than the branch it is on"));
            }
            path.truncate(level);
            if let Some(branch) = node.strip_prefix('+') {
                let name = branch.trim_end().strip_suffix(':');
                path.push(name.ok_or_else(|| wrong("is a branch without a colon"))?);
                statistics.enter(&path);
            } else if let Some(leaf) = node.strip_prefix('-') {
                let (name, value) = leaf
                    .split_once(' ')
                    .ok_or_else(|| wrong("is a statistic without a value"))?;
                statistics
                    .take(&path, name, value.trim())
                    .ok_or_else(|| wrong("is a statistic that is not a number"))?;
            } else {
                return Err(wrong("is neither a branch nor a statistic"));
            }
        }
        Ok(statistics)
    }

    fn enter(&mut self, path: &[&str]) {
        match *path {
            ["Connections"] => self.connections = Some(0),
            ["Connections", _] => {
                self.connections = self.connections.map(|count| count.saturating_add(1));
            }
            _ => {}
        }
    }

    /// Takes a statistic, or passes it over. `None` if it should be a number and is none.
    fn take(&mut self, path: &[&str], name: &str, value: &str) -> Option<()> {
        match *path {
            ["ServerGlobals"] => self.server.take(name, value),
            // Where a statistic stands has moved between versions of the vendor's.
            ["PerModule" | "PerDevice", module, class] => {
                let Some(module) = module.strip_prefix('#').and_then(number) else {
                    return Some(());
                };
                if self.modules.len() == MODULES_MAX && !self.modules.contains_key(&module) {
                    return None;
                }
                self.modules
                    .entry(module)
                    .or_default()
                    .take(class, name, value)
            }
            _ => Some(()),
        }
    }
}

impl ServerStatistics {
    fn take(&mut self, name: &str, value: &str) -> Option<()> {
        let field = match name {
            "Uptime" => &mut self.uptime_seconds,
            "CmdCount" => &mut self.commands,
            "ReplyCount" => &mut self.replies,
            "ClientCount" => &mut self.clients,
            "MaxClients" => &mut self.clients_max,
            "DeviceFails" => &mut self.device_fails,
            "DeviceRestarts" => &mut self.device_restarts,
            _ => return Some(()),
        };
        *field = Some(value.parse().ok()?);
        Some(())
    }
}

impl ModuleStatistics {
    fn take(&mut self, class: &str, name: &str, value: &str) -> Option<()> {
        let field = match (class, name) {
            ("ModuleObjStats", "ObjectCount") => &mut self.objects,
            ("ModuleObjStats", "ObjectsCreated") => &mut self.objects_created,
            ("ModuleObjStats", "ObjectsDestroyed") => &mut self.objects_destroyed,
            ("ModuleEnvStats", "Uptime") => &mut self.uptime_seconds,
            ("ModuleEnvStats", "MemTotal") => &mut self.memory_total_bytes,
            ("ModuleEnvStats", "MemAllocKernel") => &mut self.memory_kernel_bytes,
            ("ModuleEnvStats", "MemAllocUser") => &mut self.memory_user_bytes,
            ("ModuleJobStats", "CmdCount") => &mut self.commands,
            ("ModuleJobStats", "ReplyCount") => &mut self.replies,
            ("ModuleJobStats", "HostReadErrors") => &mut self.host_read_errors,
            ("ModuleJobStats", "HostWriteErrors") => &mut self.host_write_errors,
            ("ModuleJobStats" | "ModuleEnvStats", "CPULoadPercent") => &mut self.load_percent,
            ("ModuleServerStats", "JobsOutstanding") => &mut self.jobs_outstanding,
            ("ModuleEnvStats", "SerialNumber") => {
                self.serial_number = Some(printable(value));
                return Some(());
            }
            ("ModuleEnvStats", name) => return self.measure(name, value),
            _ => return Some(()),
        };
        *field = Some(value.parse().ok()?);
        Some(())
    }

    fn measure(&mut self, name: &str, value: &str) -> Option<()> {
        // `MaxTempC` and `MinTempC` are what was, not what is.
        let sensors = if name.contains("Temp") && !name.starts_with("M") {
            &mut self.temperatures
        } else if name.contains("Voltage") && !name.starts_with("M") {
            &mut self.voltages
        } else {
            return Some(());
        };
        let measured = Measured {
            name: printable(name),
            milli: thousandths(value)?,
        };
        if sensors.len() < SENSORS_MAX {
            sensors.push(measured);
        }
        Some(())
    }
}

/// Reads a decimal number such as `39.00` exactly.
fn thousandths(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let fraction: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    let whole: i64 = whole.parse().ok()?;
    whole
        .checked_mul(1000)?
        .checked_add(fraction)?
        .checked_mul(sign)
}

/// What `enquiry` says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Enquiry {
    /// Of the service itself; `None` if it does not say.
    pub server: Option<EnquiryModule>,
    /// Of each card that it sees, by the number it gave it.
    pub modules: BTreeMap<u32, EnquiryModule>,
}

/// What `enquiry` says of the service or of a card, in the vendor's words.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct EnquiryModule {
    /// `operational`, `pre-initialization`, `maintenance`, `failed`, ...
    pub mode: Option<String>,
    /// Version of the software.
    pub version: Option<String>,
    /// Serial number.
    pub serial_number: Option<String>,
    /// What is sold under.
    pub product_name: Option<String>,
    /// `OK`, or the error that the card's light blinks, e.g. `SOS-B1`.
    pub hardware_status: Option<String>,
}

impl Enquiry {
    /// Parses what `enquiry` prints.
    ///
    /// # Errors
    ///
    /// That it has no section at all.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if text.len() > TEXT_LEN_MAX {
            let what = format!("1 begins a text of more than {TEXT_LEN_MAX} bytes");
            return Err(ParseError::new(0, what));
        }
        let mut enquiry = Self::default();
        let mut section: Option<&mut EnquiryModule> = None;
        for (number, line) in (1..).zip(text.lines()) {
            if !line.starts_with(' ') && !line.trim().is_empty() {
                section = enquiry.section(line.trim_end(), number)?;
            } else if let Some(section) = &mut section {
                section.take(line.trim());
            }
        }
        if enquiry.server.is_none() && enquiry.modules.is_empty() {
            return Err(ParseError::new(0, "1 begins a text without a section"));
        }
        Ok(enquiry)
    }

    /// The section that a heading opens; `None` for one that is none of ours.
    fn section(
        &mut self,
        heading: &str,
        line: usize,
    ) -> Result<Option<&mut EnquiryModule>, ParseError> {
        let Some(name) = heading.strip_suffix(':') else {
            return Err(ParseError::new(
                line,
                "is neither a heading nor part of a section",
            ));
        };
        if name == "Server" {
            return Ok(Some(self.server.get_or_insert_default()));
        }
        let Some(module) = name.strip_prefix("Module #").and_then(number) else {
            return Ok(None);
        };
        if self.modules.len() == MODULES_MAX && !self.modules.contains_key(&module) {
            return Err(ParseError::new(line, "is one module too many"));
        }
        Ok(Some(self.modules.entry(module).or_default()))
    }
}

impl EnquiryModule {
    /// Takes a line of name and value. Names have blanks in them and values may, so that only names
    /// we know can be told from their values.
    fn take(&mut self, line: &str) {
        let fields = [
            ("mode", &mut self.mode),
            ("version", &mut self.version),
            ("serial number", &mut self.serial_number),
            ("product name", &mut self.product_name),
            ("hardware status", &mut self.hardware_status),
        ];
        for (name, field) in fields {
            if let Some(value) = line.strip_prefix(name)
                && (value.is_empty() || value.starts_with(' '))
            {
                *field = Some(printable(value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STATTREE: &str = include_str!("../../fixtures/nshield/stattree-solo.txt");
    const STATTREE_STAND_IN: &str = include_str!("../../fixtures/nshield/stattree-stand-in.txt");
    const ENQUIRY: &str = include_str!("../../fixtures/nshield/enquiry-failed.txt");
    const ENQUIRY_STAND_IN: &str = include_str!("../../fixtures/nshield/enquiry-stand-in.txt");

    #[test]
    fn a_tree_as_the_manual_shows_it_is_read() {
        let statistics = Statistics::parse(STATTREE).unwrap();
        assert_eq!(
            statistics.server,
            ServerStatistics {
                uptime_seconds: Some(17_577),
                commands: Some(1_240_357),
                replies: Some(1_240_351),
                clients: Some(9),
                clients_max: Some(17),
                device_fails: Some(1),
                device_restarts: Some(2),
            }
        );
        assert_eq!(statistics.connections, Some(2));
        let module = &statistics.modules[&1];
        assert_eq!(module.serial_number.as_deref(), Some("0000-1111-2222"));
        assert_eq!(
            (module.commands, module.replies),
            (Some(169_780), Some(169_778))
        );
        assert_eq!(module.outstanding(), Some(2));
        assert_eq!(module.jobs_outstanding, Some(2));
        assert_eq!(module.objects, Some(7));
        assert_eq!(module.objects_created, Some(51));
        assert_eq!(module.objects_destroyed, Some(44));
        assert_eq!(module.memory_kernel_bytes, Some(470_183_936));
        assert_eq!(module.memory_user_bytes, Some(0));
        assert_eq!(
            module.host_read_errors,
            Some(3),
            "of jobs, not of the serial line"
        );
        assert_eq!(module.load_percent, Some(12));
        let measured = |name: &str, milli| Measured {
            name: name.to_owned(),
            milli,
        };
        assert_eq!(
            module.temperatures,
            [
                measured("TempSP", 39_000),
                measured("CurrentCPUTemp1", 53_500)
            ]
        );
        assert_eq!(
            module.voltages,
            [measured("CPUVoltage1", 1000), measured("CPUVoltage2", 1805)]
        );
    }

    #[test]
    fn the_stand_in_is_understood() {
        let statistics = Statistics::parse(STATTREE_STAND_IN).unwrap();
        assert_eq!(statistics.connections, Some(1));
        let module = &statistics.modules[&1];
        assert_eq!(module.outstanding(), Some(3));
        assert_eq!(module.objects, Some(10));
        assert_eq!(module.host_read_errors, None, "it counts none");
        assert_eq!(module.temperatures, []);
        let enquiry = Enquiry::parse(ENQUIRY_STAND_IN).unwrap();
        let module = &enquiry.modules[&1];
        assert_eq!(module.hardware_status.as_deref(), Some("OK"));
        assert_eq!(module.serial_number.as_deref(), Some("SIM-7"));
    }

    #[test]
    fn a_part_of_the_tree_has_that_part_only() {
        let part = "+PerModule:\n   +#2:\n      +ModuleObjStats:\n         -ObjectCount 5\n";
        let statistics = Statistics::parse(part).unwrap();
        assert_eq!(statistics.modules[&2].objects, Some(5));
        assert_eq!(statistics.server, ServerStatistics::default());
        assert_eq!(statistics.connections, None);
    }

    #[test]
    fn a_failed_card_says_with_which_code() {
        let enquiry = Enquiry::parse(ENQUIRY).unwrap();
        let server = enquiry.server.unwrap();
        assert_eq!(server.mode.as_deref(), Some("operational"));
        assert_eq!(server.version.as_deref(), Some("12.40.2"));
        let module = &enquiry.modules[&1];
        assert_eq!(module.mode.as_deref(), Some("failed"));
        assert_eq!(module.hardware_status.as_deref(), Some("SOS-B1"));
        assert_eq!(
            module.product_name.as_deref(),
            Some("nC3025E/nC4035E/nC4335N")
        );
        assert_eq!(enquiry.modules[&2].hardware_status, None, "it says nothing");
    }

    #[test]
    fn what_is_wrong_is_named_by_its_line() {
        for (text, line) in [
            ("+ServerGlobals:\n   -CmdCount many\n", 2),
            ("+ServerGlobals:\n   -CmdCount\n", 2),
            ("+ServerGlobals\n", 1),
            ("+A:\n      -CmdCount 1\n", 2),
            ("error no-node there is no `x`\n", 1),
            (
                "+PerModule:\n   +#1:\n      +ModuleEnvStats:\n         -TempSP warm\n",
                4,
            ),
        ] {
            assert_eq!(Statistics::parse(text).unwrap_err().line, line, "{text}");
        }
        assert_eq!(Enquiry::parse("Server\n").unwrap_err().line, 1);
        assert_eq!(Enquiry::parse("").unwrap_err().line, 0);
    }

    #[test]
    fn thousandths_are_exact() {
        for (text, milli) in [
            ("39.00", Some(39_000)),
            ("1.8", Some(1800)),
            ("-0.5", Some(-500)),
            ("53", Some(53_000)),
            ("0.9999", Some(999)),
            ("9223372036854775807", None),
            ("1.", None),
            (".5", None),
            ("1e3", None),
            ("", None),
        ] {
            assert_eq!(thousandths(text), milli, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[+\\-# :.a-zA-Z0-9\n]{0,400}") {
            let _ = Statistics::parse(&text);
            let _ = Enquiry::parse(&text);
        }
    }
}
