//! Series out of the archives of pcp-testsuite: gauges of what hosts and processes hold.
//!
//! Nothing is resampled and nothing made up: what comes out is what was logged and when.

use crate::process::{output, program};
use crate::vm::apt::{Apt, Sources, Wanted};
use anyhow::Context;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The archives, the programs that read them, and the libraries of these.
const PACKAGES: [&str; 5] = ["pcp-testsuite", "pcp", "libpcp3", "libpcp-gui2", "pcp-conf"];

/// Gauges of the host, of each process where the last column says so, and bytes in their unit; 0
/// for what is counted. Of processes they are those that cardmon watches.
const GAUGES: [(&str, u32, Scope); 27] = {
    use Scope::{Host, Process};
    [
        ("mem.util.slabUnreclaimable", 1024, Host),
        ("mem.util.kernelStack", 1024, Host),
        ("mem.util.pageTables", 1024, Host),
        ("mem.util.anonpages", 1024, Host),
        ("mem.util.shmem", 1024, Host),
        ("mem.util.mlocked", 1024, Host),
        ("mem.util.unevictable", 1024, Host),
        ("mem.util.vmallocUsed", 1024, Host),
        ("mem.util.committed_AS", 1024, Host),
        ("swap.used", 1, Host),
        ("network.sockstat.tcp.inuse", 0, Host),
        ("network.sockstat.tcp.alloc", 0, Host),
        ("network.sockstat.udp.inuse", 0, Host),
        ("network.sockstat.total", 0, Host),
        ("network.tcpconn.established", 0, Host),
        ("network.tcpconn.time_wait", 0, Host),
        ("network.tcpconn.close_wait", 0, Host),
        ("network.tcp.currestab", 0, Host),
        ("vfs.files.count", 0, Host),
        ("vfs.inodes.count", 0, Host),
        ("kernel.all.nprocs", 0, Host),
        ("proc.nprocs", 0, Host),
        ("ipc.shm.tot", 0, Host),
        ("aconex.connections.inuse", 0, Host),
        (RESIDENT, 1024, Process),
        ("proc.psinfo.threads", 0, Process),
        ("proc.fd.count", 0, Process),
    ]
};

/// Whose a gauge is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Scope {
    Host,
    Process,
}

const RESIDENT: &str = "proc.memory.rss";
/// Of what is resident: files, and memory that is shared.
const SHARED: &str = "proc.memory.share";

/// Shorter series cannot show a leak of hours.
const LEAST_SECONDS: f64 = 3.0 * 3600.0;
/// Fewer samples, or fewer different ones, are no gauge that moves.
const LEAST_SAMPLES: usize = 36;
const LEAST_VALUES: usize = 5;

/// Reads every archive there is, as one series a line.
///
/// # Errors
///
/// [`Unavailable`](crate::outcome::Unavailable) if the packages cannot be had.
pub(super) fn series(directory: &Path) -> anyhow::Result<String> {
    let packages = directory.join("packages");
    if !packages.is_dir() {
        println!("downloading {}", PACKAGES.join(", "));
        let apt = Apt::new(directory.join("apt"), Sources::Machine)?;
        apt.unpack(&PACKAGES.map(Wanted::Alone), &packages)?;
    }
    let tools = Tools(packages);
    let mut lines = String::new();
    for archive in tools.archives()? {
        // Some are there to be refused, and others have nothing of what is asked for.
        let Ok(logged) = tools.logged(&archive) else {
            continue;
        };
        let name = archive.file_name().unwrap_or_default().to_string_lossy();
        let before = lines.len();
        for (gauge, unit, scope) in GAUGES.iter().filter(|(gauge, ..)| logged.contains(*gauge)) {
            let besides = (*gauge == RESIDENT && logged.contains(SHARED)).then_some(SHARED);
            let Ok(text) = tools.dump(&archive, gauge, besides) else {
                continue;
            };
            let mut gauges = parse(&text);
            let mut series = gauges.remove(*gauge).unwrap_or_default();
            if let Some(shared) = gauges.remove(SHARED) {
                series = less(series, &shared);
            }
            for (instance, points) in series {
                if is_gauge_that_moves(&points) {
                    let line = line(&name, gauge, &instance, *unit, *scope, &points);
                    writeln!(lines, "{line}").context("text can be written")?;
                }
            }
        }
        if lines.len() > before {
            let count = lines[before..].lines().count();
            println!("{name}: {count} series");
        }
    }
    Ok(lines)
}

fn line(
    archive: &str,
    gauge: &str,
    instance: &str,
    unit: u32,
    scope: Scope,
    points: &[(f64, f64)],
) -> serde_json::Value {
    let factor = f64::from(unit.max(1));
    let (at, values): (Vec<_>, Vec<_>) = points
        .iter()
        .map(|(at, value)| (*at, value * factor))
        .unzip();
    json!({
        "archive": archive,
        "gauge": gauge,
        "instance": instance,
        "bytes": unit > 0,
        "host": scope == Scope::Host,
        "at": at,
        "values": values,
    })
}

fn is_gauge_that_moves(points: &[(f64, f64)]) -> bool {
    let mut values: Vec<_> = points.iter().map(|(_, value)| *value).collect();
    values.sort_by(f64::total_cmp);
    values.dedup();
    let span = match (points.first(), points.last()) {
        (Some((first, _)), Some((last, _))) => last - first,
        _ => 0.0,
    };
    points.len() >= LEAST_SAMPLES && values.len() >= LEAST_VALUES && span >= LEAST_SECONDS
}

/// The unpacked packages.
struct Tools(PathBuf);

impl Tools {
    /// Archives without the ends of their names, sorted.
    fn archives(&self) -> anyhow::Result<Vec<PathBuf>> {
        let mut archives = Vec::new();
        for name in ["archives", "badarchives"] {
            let directory = self.0.join("var/lib/pcp/testsuite").join(name);
            let entries = fs::read_dir(&directory)
                .with_context(|| format!("{} could not be read", directory.display()))?;
            for entry in entries {
                let path = entry?.path();
                archives.extend(archive_of(&path));
            }
        }
        archives.sort();
        archives.dedup();
        Ok(archives)
    }

    /// Names of all that was logged, a line each.
    fn logged(&self, archive: &Path) -> anyhow::Result<String> {
        output(self.tool("pminfo").arg("-a").arg(archive))
    }

    /// What was logged of a gauge, and of another with it, at the times of both.
    fn dump(&self, archive: &Path, gauge: &str, besides: Option<&str>) -> anyhow::Result<String> {
        let mut dump = self.tool("pmdumplog");
        output(dump.arg("-z").arg(archive).arg(gauge).args(besides))
    }

    /// A program that is ended if it does not end, and whose complaints are not shown: archives are
    /// hostile by profession, and some are there to be complained about.
    fn tool(&self, name: &str) -> Command {
        let mut command = program("timeout");
        command
            .args(["--kill-after=5", "60"])
            .arg(self.0.join("usr/bin").join(name))
            .env("PCP_DIR", &self.0)
            .env("PCP_CONF", self.0.join("etc/pcp.conf"))
            .env("LD_LIBRARY_PATH", self.0.join("usr/lib"))
            .stderr(Stdio::null());
        command
    }
}

/// The archive that a file is the metadata of; those may be compressed.
fn archive_of(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let (archive, _) = name.split_once(".meta")?;
    Some(path.with_file_name(archive))
}

/// When, in seconds from the first sample of a dump, and what.
type Points = Vec<(f64, f64)>;
/// By instance, whose name is empty where there is but one.
type Instances = BTreeMap<String, Points>;

/// Samples of each gauge and instance, out of what pmdumplog prints:
///
/// ```text
/// 00:10:11.623840 1 metric
///     60.1.25 (mem.util.slab): value 62352
/// 00:15:11.004112 1 metric
///     3.9.1 (proc.memory.rss):
///         inst [1 or "000001 /sbin/init"] value 6000
/// ```
fn parse(text: &str) -> BTreeMap<String, Instances> {
    const DAY: f64 = 86_400.0;
    let mut series: BTreeMap<String, Instances> = BTreeMap::new();
    let (mut midnights, mut last, mut first) = (0.0, f64::NEG_INFINITY, None);
    let mut at = 0.0;
    let mut gauge = "";
    for line in text.lines() {
        if let Some(time) = line.split(' ').next().and_then(time_of_day) {
            // A clock that is put back by seconds has not passed midnight.
            if time < last - DAY / 2.0 {
                midnights += DAY;
            }
            last = time;
            at = midnights + time - *first.get_or_insert(time);
        }
        let instance = within(line, '"', '"');
        if instance.is_none() {
            gauge = within(line, '(', ')').unwrap_or(gauge);
        }
        let Some((_, value)) = line.rsplit_once(" value ") else {
            continue;
        };
        let Ok(value) = value.trim().parse() else {
            continue;
        };
        let instances = series.entry(gauge.to_owned()).or_default();
        let points = instances.entry(instance.unwrap_or_default().to_owned());
        points.or_default().push((at, value));
    }
    series
}

fn within(line: &str, open: char, close: char) -> Option<&str> {
    let (_, after) = line.split_once(open)?;
    after.split_once(close).map(|(name, _)| name)
}

/// What each instance holds itself: samples without the part that `shared` says, of the same time.
/// It is what cardmon knows as RssAnon; mapped files come and go with the page cache.
fn less(all: Instances, shared: &Instances) -> Instances {
    let own = all.into_iter().filter_map(|(instance, points)| {
        let shared = shared.get(&instance)?.iter();
        let shared: BTreeMap<_, _> = shared.map(|(at, part)| (at.to_bits(), part)).collect();
        let own = points.into_iter().filter_map(|(at, whole)| {
            let part = shared.get(&at.to_bits())?;
            Some((at, (whole - **part).max(0.0)))
        });
        Some((instance, own.collect()))
    });
    own.collect()
}

/// Seconds since midnight of `00:10:11.623840`.
fn time_of_day(text: &str) -> Option<f64> {
    let mut parts = text.split(':').map(|part| part.parse::<f64>().ok());
    let (hours, minutes, seconds) = (parts.next()??, parts.next()??, parts.next()??);
    parts
        .next()
        .is_none()
        .then_some(hours * 3600.0 + minutes * 60.0 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_is_read_across_midnight_and_by_instance() {
        let text = "Note: timezone set to local timezone of host \"bozo\" from archive\n\n\
            23:59:30.500000 1 metric\n    3.9.1 (proc.memory.rss):\n\
            \x20       inst [1 or \"000001 /sbin/init\"] value 6000\n\
            \x20       inst [2 or \"000002 a \"] value -1.5e3\n\n\
            00:00:30.500000 1 metric\n    3.9.1 (proc.memory.rss):\n\
            \x20       inst [1 or \"000001 /sbin/init\"] value 7000\n\
            \x20       inst [2 or \"000002 a \"] value ?\n";
        let series = parse(text);
        let resident = &series[RESIDENT];
        assert_eq!(
            resident["000001 /sbin/init"],
            [(0.0, 6000.0), (60.0, 7000.0)]
        );
        assert_eq!(resident["000002 a "], [(0.0, -1500.0)]);
        let single = parse("10:00:00.0 1 metric\n    60.1.25 (mem.util.slab): value 62352\n");
        assert_eq!(single["mem.util.slab"][""], [(0.0, 62352.0)]);
        assert!(parse("value\n value x\n1:2 value 3").len() <= 1);
    }

    #[test]
    fn what_a_process_holds_itself_is_without_what_is_shared_at_that_time() {
        let text = "10:00:00.0 2 metrics\n    3.9.1 (proc.memory.rss):\n\
            \x20       inst [1 or \"000001 a (deleted)\"] value 6000\n\
            \x20   3.9.4 (proc.memory.share):\n\
            \x20       inst [1 or \"000001 a (deleted)\"] value 4000\n\n\
            10:01:00.0 1 metric\n    3.9.1 (proc.memory.rss):\n\
            \x20       inst [1 or \"000001 a (deleted)\"] value 7000\n";
        let mut series = parse(text);
        let shared = series.remove(SHARED).unwrap();
        let own = less(series.remove(RESIDENT).unwrap(), &shared);
        assert_eq!(own["000001 a (deleted)"], [(0.0, 2000.0)]);
        assert!(series.is_empty());
    }

    #[test]
    fn an_archive_is_found_by_its_metadata() {
        let archive = |name: &str| archive_of(Path::new(name));
        let expected = Some(PathBuf::from("a/bozo-20170904"));
        assert_eq!(archive("a/bozo-20170904.meta"), expected);
        assert_eq!(archive("a/bozo-20170904.meta.xz"), expected);
        assert_eq!(archive("a/bozo-20170904.0.xz"), None);
    }

    #[test]
    fn what_does_not_move_or_is_short_is_no_series() {
        let of = |count: u32, every: f64, values: u32| -> Vec<_> {
            (0..count)
                .map(|index| (f64::from(index) * every, f64::from(index % values)))
                .collect()
        };
        assert!(is_gauge_that_moves(&of(100, 300.0, 9)));
        assert!(!is_gauge_that_moves(&of(100, 300.0, 2)));
        assert!(!is_gauge_that_moves(&of(100, 1.0, 9)));
        assert!(!is_gauge_that_moves(&of(10, 3000.0, 9)));
    }
}
