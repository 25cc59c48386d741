//! Looks at an Intel QAT card through its kernel driver.
//!
//! The kernel asks the firmware for a sign of life only when somebody reads `heartbeat/status`, and
//! not more often than its period allows: asked too early it answers "dead" without having asked.
//! So this probe keeps to the period, and believes "dead" only if the driver's own counters show
//! that it has asked and that it has failed. Everything else is not asked.
//!
//! ```text
//!   too early for the period, by our own clock ----------------------------> not asked
//!   status read:  0, queries_sent has moved -------------------------------> alive
//!                -1, queries_sent and queries_failed have moved -----------> unresponsive
//!                 anything else: stopping, restarting, another reader -----> not asked
//! ```
//!
//! Sources: Linux `Documentation/ABI/testing/debugfs-driver-qat`, `sysfs-driver-qat`,
//! `sysfs-driver-qat_ras`, and what the driver does (`qat_common/adf_heartbeat.c`). A completion
//! that comes late because the host is starved does not show here; an idle engine that has died does
//! neither.

use super::file::{self, TextFile, next, number, printable};
use super::{Probe, ProbeError};
use card_spec::pci::Bdf;
use hwshim::clock::Instant;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Period if the driver does not say (`ADF_CFG_HB_TIMER_DEFAULT_MS`).
const PERIOD_DEFAULT: Duration = Duration::from_millis(500);
/// Longest period that is believed.
const PERIOD_MAX: Duration = Duration::from_secs(60);
/// Kept to besides the period: the kernel counts in jiffies, and when we are told `now` is not
/// quite when we read.
const MARGIN: Duration = Duration::from_millis(50);

/// What the driver says of a QAT card. What debugfs has is for root.
#[derive(Clone, Debug)]
pub struct Qat {
    /// Whether the firmware gives signs of life.
    pub heartbeat: Result<QatHeartbeat, ProbeError>,
    /// How often the driver has asked, whoever wanted to know. Begins again at zero with the
    /// driver.
    pub queries_sent: Result<u32, ProbeError>,
    /// How often the firmware gave no sign.
    pub queries_failed: Result<u32, ProbeError>,
    /// Time between two signs of life (`heartbeat/config`).
    pub period: Result<Duration, ProbeError>,
    /// What each engine was asked and has answered.
    pub engines: Result<Vec<EngineCounters>, ProbeError>,
    /// Errors that were corrected. These three begin again at zero whenever the device is stopped.
    pub errors_correctable: Result<u64, ProbeError>,
    /// Errors after which it could go on.
    pub errors_nonfatal: Result<u64, ProbeError>,
    /// Errors after which it could not.
    pub errors_fatal: Result<u64, ProbeError>,
    /// `up` or `down`.
    pub state: Result<String, ProbeError>,
    /// What it is configured for, such as `sym;asym`.
    pub services: Result<String, ProbeError>,
    /// Whether the driver resets it by itself after a fatal error.
    pub auto_reset: Result<bool, ProbeError>,
}

/// Whether the firmware gives signs of life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum QatHeartbeat {
    /// It does.
    Alive,
    /// The driver has asked, and it does not.
    Unresponsive,
    /// The driver was not asked, or has not asked the firmware. Says nothing about the card.
    NotAsked(NotAsked),
}

/// Why the firmware was not asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NotAsked {
    /// The period since our last question is not over.
    TooEarly,
    /// The driver would not: the device is stopped or restarting, or somebody else asks as well.
    ByDriver,
}

/// What one engine was asked and has answered since the device started.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EngineCounters {
    /// Number of the engine.
    pub engine: u32,
    /// Requests to its firmware.
    pub requests: u64,
    /// Responses.
    pub responses: u64,
}

impl EngineCounters {
    /// Answers that it has not given.
    #[must_use]
    pub const fn owed(&self) -> u64 {
        self.requests.saturating_sub(self.responses)
    }
}

/// Looks at an Intel QAT card through its kernel driver.
#[derive(Debug)]
pub struct QatProbe {
    debugfs: PathBuf,
    devices: PathBuf,
    files: Option<(Bdf, Files)>,
    asked_at: Option<Instant>,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Files {
    /// What stands in debugfs, or why it cannot be found there.
    debug: Result<DebugFiles, ProbeError>,
    errors: [TextFile; 3],
    state: TextFile,
    services: TextFile,
    auto_reset: TextFile,
}

#[derive(Debug)]
struct DebugFiles {
    status: TextFile,
    queries_sent: TextFile,
    queries_failed: TextFile,
    config: TextFile,
    fw_counters: TextFile,
}

impl QatProbe {
    /// Looks under `root`: `/` is this host, anything else a captured tree.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            debugfs: root.join("sys/kernel/debug"),
            devices: root.join("sys/bus/pci/devices"),
            files: None,
            asked_at: None,
            buffer: Vec::new(),
        }
    }

    fn find(&self, bdf: Bdf) -> Result<Files, ProbeError> {
        let function = self.devices.join(bdf.to_string());
        let file = |name| TextFile::new(function.join(name));
        let files = Files {
            debug: find_directory(&self.debugfs, bdf).map(|found| DebugFiles::below(&found)),
            errors: [
                file("qat_ras/errors_correctable"),
                file("qat_ras/errors_nonfatal"),
                file("qat_ras/errors_fatal"),
            ],
            state: file("qat/state"),
            services: file("qat/cfg_services"),
            auto_reset: file("qat/auto_reset"),
        };
        let is_qat = files.debug.is_ok() || files.state.exists() || files.errors[0].exists();
        if is_qat {
            Ok(files)
        } else {
            Err(ProbeError::Absent {
                what: format!("a QAT driver at PCI function {bdf}"),
            })
        }
    }
}

impl Probe for QatProbe {
    type Subject = Bdf;
    type Observation = Qat;

    fn name(&self) -> &'static str {
        "qat"
    }

    fn observe(&mut self, &bdf: &Bdf, now: Instant) -> Result<Qat, ProbeError> {
        // Files that could not be found are looked for again; debugfs is mounted late on some
        // hosts, and drivers come and go.
        let known = self
            .files
            .take()
            .filter(|(known, files)| *known == bdf && files.debug.is_ok() && files.state.exists());
        let mut files = match known {
            Some((_, files)) => files,
            None => self.find(bdf)?,
        };
        let buffer = &mut self.buffer;
        let [correctable, nonfatal, fatal] = &mut files.errors;
        let mut total = |file: &mut TextFile| file.parse(buffer, "a count of errors", number);
        let mut seen = Qat {
            errors_correctable: total(correctable),
            errors_nonfatal: total(nonfatal),
            errors_fatal: total(fatal),
            state: files.state.read(buffer).map(|text| printable(&text)),
            services: files.services.read(buffer).map(|text| printable(&text)),
            auto_reset: files.auto_reset.parse(buffer, "on or off", |text| {
                match file::bare(text) {
                    "on" => Some(true),
                    "off" => Some(false),
                    _ => None,
                }
            }),
            ..Qat::without_debugfs(files.debug.as_ref().err())
        };
        if let Ok(debug) = &mut files.debug {
            debug.read(&mut seen, &mut self.asked_at, now, buffer);
        }
        self.files = Some((bdf, files));
        Ok(seen)
    }
}

impl Qat {
    fn without_debugfs(error: Option<&ProbeError>) -> Self {
        let error = error.cloned().unwrap_or_else(|| ProbeError::Absent {
            what: "debugfs of the QAT driver".to_owned(),
        });
        Self {
            heartbeat: Err(error.clone()),
            queries_sent: Err(error.clone()),
            queries_failed: Err(error.clone()),
            period: Err(error.clone()),
            engines: Err(error.clone()),
            errors_correctable: Err(error.clone()),
            errors_nonfatal: Err(error.clone()),
            errors_fatal: Err(error.clone()),
            state: Err(error.clone()),
            services: Err(error.clone()),
            auto_reset: Err(error),
        }
    }
}

impl DebugFiles {
    fn below(directory: &Path) -> Self {
        let file = |name| TextFile::new(directory.join(name));
        Self {
            status: file("heartbeat/status"),
            queries_sent: file("heartbeat/queries_sent"),
            queries_failed: file("heartbeat/queries_failed"),
            config: file("heartbeat/config"),
            fw_counters: file("fw_counters"),
        }
    }

    fn read(
        &mut self,
        seen: &mut Qat,
        asked_at: &mut Option<Instant>,
        now: Instant,
        buffer: &mut Vec<u8>,
    ) {
        seen.period = self.config.parse(buffer, "a period", |text| {
            number(text).map(Duration::from_millis)
        });
        let period = seen.period.as_ref().copied().unwrap_or(PERIOD_DEFAULT);
        let due = period.min(PERIOD_MAX) + MARGIN;
        seen.heartbeat = if asked_at.is_some_and(|asked_at| now.since(asked_at) < due) {
            Ok(QatHeartbeat::NotAsked(NotAsked::TooEarly))
        } else {
            *asked_at = Some(now);
            self.ask(buffer)
        };
        seen.queries_sent = count(&mut self.queries_sent, buffer);
        seen.queries_failed = count(&mut self.queries_failed, buffer);
        // The driver asks the firmware for these when the file is opened, and never again.
        let counters = self.fw_counters.path().to_owned();
        seen.engines = self.fw_counters.read_anew(buffer).and_then(|text| {
            parse_engines(&text)
                .ok_or_else(|| file::nonsense(&counters, "is not the counters of engines"))
        });
    }

    fn ask(&mut self, buffer: &mut Vec<u8>) -> Result<QatHeartbeat, ProbeError> {
        let sent = count(&mut self.queries_sent, buffer)?;
        let failed = count(&mut self.queries_failed, buffer)?;
        let status: i32 = self.status.parse(buffer, "0 or -1", number)?;
        let has_asked = count(&mut self.queries_sent, buffer)? != sent;
        let has_failed = count(&mut self.queries_failed, buffer)? != failed;
        judge(status, has_asked, has_failed)
            .ok_or_else(|| file::nonsense(self.status.path(), "is not 0 or -1"))
    }
}

/// What a status means, by whether the driver's counters of queries sent and failed have moved.
const fn judge(status: i32, has_asked: bool, has_failed: bool) -> Option<QatHeartbeat> {
    match (status, has_asked, has_failed) {
        (0, true, _) => Some(QatHeartbeat::Alive),
        (-1, true, true) => Some(QatHeartbeat::Unresponsive),
        (0 | -1, _, _) => Some(QatHeartbeat::NotAsked(NotAsked::ByDriver)),
        _ => None,
    }
}

fn count(file: &mut TextFile, buffer: &mut Vec<u8>) -> Result<u32, ProbeError> {
    file.parse(buffer, "a count of queries", number)
}

/// Below the line of names, one line for each engine: `12:  requests  responses`.
fn parse_engines(text: &str) -> Option<Vec<EngineCounters>> {
    let mut lines = text.lines();
    lines.next()?.starts_with("AE").then_some(())?;
    let engine = |line: &str| {
        let (engine, counters) = line.split_once(':')?;
        let mut words = counters.split_ascii_whitespace();
        Some(EngineCounters {
            engine: number(engine)?,
            requests: next(&mut words)?,
            responses: next(&mut words)?,
        })
    };
    lines
        .filter(|line| !file::bare(line).is_empty())
        .map(engine)
        .collect()
}

/// Finds `qat_<device>_<BDF>`: which device it is, the address does not say.
fn find_directory(debugfs: &Path, bdf: Bdf) -> Result<PathBuf, ProbeError> {
    let unreadable = |source| ProbeError::Unreadable {
        path: debugfs.to_owned(),
        source,
    };
    let absent = || ProbeError::Absent {
        what: format!("{} for PCI function {bdf}", debugfs.join("qat_*").display()),
    };
    let entries = match fs::read_dir(debugfs) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(absent()),
        entries => entries.map_err(unreadable)?,
    };
    let ending = format!("_{bdf}");
    for entry in entries {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("qat_") && name.ends_with(&ending) {
            return Ok(entry.path());
        }
    }
    Err(absent())
}

#[cfg(test)]
mod tests {
    use super::super::tree::Tree;
    use super::*;

    const DEBUG: &str = "sys/kernel/debug/qat_4xxx_0000:6b:00.0";
    const FUNCTION: &str = "sys/bus/pci/devices/0000:6b:00.0";

    /// A driver of which nothing moves by itself, as it is for who asks too early.
    fn card() -> Tree {
        let tree = Tree::empty();
        for (file, content) in [
            ("heartbeat/status", "0\n\0"),
            ("heartbeat/queries_sent", "41\n\0"),
            ("heartbeat/queries_failed", "2\n\0"),
            ("heartbeat/config", "200\n\0"),
            (
                "fw_counters",
                "AE          Requests        Responses\n 0:               12               11\n\
                 \x20 1:                7                7\n",
            ),
        ] {
            tree.write(&format!("{DEBUG}/{file}"), content);
        }
        for (file, content) in [
            ("qat/state", "up\n"),
            ("qat/cfg_services", "sym;asym\n"),
            ("qat/auto_reset", "off\n"),
            ("qat_ras/errors_correctable", "3\n"),
            ("qat_ras/errors_nonfatal", "0\n"),
            ("qat_ras/errors_fatal", "1\n"),
        ] {
            tree.write(&format!("{FUNCTION}/{file}"), content);
        }
        tree
    }

    fn look(probe: &mut QatProbe, millis: u64) -> Result<Qat, ProbeError> {
        let now = Instant::ORIGIN.plus(Duration::from_millis(millis));
        probe.observe(&"0000:6b:00.0".parse().unwrap(), now)
    }

    #[test]
    fn a_captured_card_is_read_with_the_nul_bytes_of_its_driver() {
        let tree = card();
        let qat = look(&mut QatProbe::new(tree.root()), 0).unwrap();
        assert_eq!(qat.queries_sent.unwrap(), 41);
        assert_eq!(qat.queries_failed.unwrap(), 2);
        assert_eq!(qat.period.unwrap(), Duration::from_millis(200));
        let counters = |engine, requests, responses| EngineCounters {
            engine,
            requests,
            responses,
        };
        assert_eq!(
            qat.engines.unwrap(),
            [counters(0, 12, 11), counters(1, 7, 7)]
        );
        assert_eq!(qat.errors_correctable.unwrap(), 3);
        assert_eq!(qat.errors_fatal.unwrap(), 1);
        assert_eq!(qat.state.unwrap(), "up");
        assert_eq!(qat.services.unwrap(), "sym;asym");
        assert!(!qat.auto_reset.unwrap());
    }

    #[test]
    fn the_counters_of_engines_are_opened_anew_for_each_look() {
        let tree = card();
        let mut probe = QatProbe::new(tree.root());
        look(&mut probe, 0).unwrap();
        // Another file under the name, as the kernel makes another list for who opens it.
        tree.remove(&format!("{DEBUG}/fw_counters"));
        tree.write(&format!("{DEBUG}/fw_counters"), "AE x\n 5: 13 12\n");
        let engines = look(&mut probe, 1000).unwrap().engines.unwrap();
        assert_eq!((engines[0].engine, engines[0].requests), (5, 13));
    }

    #[test]
    fn a_status_without_a_query_says_nothing_whatever_it_says() {
        let not_asked = QatHeartbeat::NotAsked(NotAsked::ByDriver);
        for status in ["0\n\0", "-1\n\0"] {
            let tree = card();
            tree.write(&format!("{DEBUG}/heartbeat/status"), status);
            let qat = look(&mut QatProbe::new(tree.root()), 0).unwrap();
            assert_eq!(qat.heartbeat.unwrap(), not_asked, "{status:?}");
        }
    }

    #[test]
    fn the_driver_is_not_asked_before_its_period_is_over() {
        let tree = card();
        let mut probe = QatProbe::new(tree.root());
        let too_early = QatHeartbeat::NotAsked(NotAsked::TooEarly);
        look(&mut probe, 1000).unwrap();
        tree.write(&format!("{DEBUG}/heartbeat/status"), "garbage");
        let heartbeat = look(&mut probe, 1249).unwrap().heartbeat;
        assert_eq!(heartbeat.unwrap(), too_early, "the status is not read");
        let heartbeat = look(&mut probe, 1250).unwrap().heartbeat;
        assert_eq!(heartbeat.unwrap_err().kind(), "nonsense");
    }

    #[test]
    fn dead_is_believed_only_if_the_driver_asked_and_failed() {
        use QatHeartbeat::{Alive, NotAsked as Not, Unresponsive};
        let by_driver = Not(NotAsked::ByDriver);
        for (status, has_asked, has_failed, expected) in [
            (0, true, false, Alive),
            (-1, true, true, Unresponsive),
            // Another reader was first; the answer to us is that of one who asks too early.
            (-1, true, false, by_driver),
            (-1, false, false, by_driver),
            (0, false, false, by_driver),
        ] {
            assert_eq!(judge(status, has_asked, has_failed), Some(expected));
        }
        assert_eq!(judge(7, true, true), None);
    }

    #[test]
    fn without_debugfs_the_rest_is_seen_and_without_a_driver_nothing() {
        let tree = card();
        tree.remove("sys/kernel/debug");
        let mut probe = QatProbe::new(tree.root());
        let qat = look(&mut probe, 0).unwrap();
        assert_eq!(qat.heartbeat.unwrap_err().kind(), "absent");
        assert_eq!(qat.errors_correctable.unwrap(), 3);
        tree.remove(FUNCTION);
        assert_eq!(look(&mut probe, 1000).unwrap_err().kind(), "absent");
    }
}
