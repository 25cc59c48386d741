//! What whoever takes a card back needs to know: who it is, what was seen of it, and why that is to be
//! believed.
//!
//! It is put together from the card's telemetry page, the kernel's view of its PCI function, and the
//! history; a monitor need not run, and each part that could not be had says why instead. Plain data:
//! [`page`] shows it to people, [`bundle`] packs it.
//!
//! Nothing in it is secret. Telemetry pages hold no keys; of the host it names kernel and size, and its
//! name and network addresses are struck out wherever others wrote them ([`redact`]). The environment
//! is not looked at.

pub mod bundle;
pub mod chart;
pub mod page;
pub mod redact;

use crate::history::{
    Anchor, Elsewhere, Filter, HistoryError, Point, Reader, Recorded, SampleReader,
};
use crate::history::{Severity, Tier, Value as Sampled, WallTime};
use crate::led::Profile;
use crate::led::trace::{Read, Trace};
use crate::lock;
use crate::probe::{ErrorTotals, LinkProbe, Probe, ProbeError};
use crate::record::{self, TRANSITION, TransitionBody, said};
use crate::status::{BreakerFigures, CheckFigures, RequestFigures};
use crate::verdict::{Cause, Evidence, State};
use card_spec::health::{Summary, printable};
use card_spec::pci::Bdf;
use card_spec::telemetry::{Page, card_state};
use chart::Line;
use hwshim::clock::Instant;
use hwshim::pci;
use hwshim::telemetry::Reader as PageReader;
use redact::Redactor;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// Version of this shape.
pub const SCHEMA: u32 = 1;
/// How far back it looks.
pub const SPAN: Duration = Duration::from_secs(30 * 86_400);
/// Blocks of the light that are drawn, and what each stands for.
const LIGHT_CELLS: u32 = 300;
const LIGHT_CELL: Duration = Duration::from_millis(100);
/// Points of a curve: more than a chart has pixels tells nobody more.
const POINTS_MAX: usize = 600;
/// Where a path of the host would tell whoever gets the report nothing.
const DIRECTORY: &str = "the directory of the history";
/// Events of the monitor and the host that bear on any card.
const COMMON: [&str; 9] = [
    lock::UNLOCK,
    lock::RELOCK,
    lock::ATTEMPT,
    lock::CHANGE,
    record::START,
    record::STOP,
    record::HOST_STARVED,
    record::CLOCK_STEP,
    record::HISTORY_GAP,
];

/// Something, or why it could not be had.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part<T> {
    /// It.
    Known(T),
    /// Why not.
    Missing(String),
}

impl<T> Part<T> {
    /// It, if it could be had.
    pub const fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Missing(_) => None,
        }
    }
}

impl<T, E: ToString> From<Result<T, E>> for Part<T> {
    fn from(result: Result<T, E>) -> Self {
        match result {
            Ok(value) => Self::Known(value),
            Err(error) => Self::Missing(error.to_string()),
        }
    }
}

/// The whole report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Which card.
    pub card: String,
    /// When it was made, in milliseconds since 1970 UTC.
    pub made_unix_ms: i64,
    /// The version of the program that made it.
    pub version: String,
    /// How far back it looks.
    pub span_days: u64,
    /// What of the host is in it.
    pub host: Host,
    /// Who the card says it is.
    pub identity: Part<Identity>,
    /// What the card's owner knew of it last.
    pub owner: Part<OwnerView>,
    /// Its PCI function.
    pub pci: Part<PciView>,
    /// Its light.
    pub light: Part<Light>,
    /// What was believed of it.
    pub assessment: Part<Assessment>,
    /// How often it became what.
    pub transitions: BTreeMap<String, u64>,
    /// All that is on record of it, and what was changed on its host.
    pub events: Part<Vec<EventView>>,
    /// What of the record of that time is not in it, since the archive is elsewhere.
    pub elsewhere: Vec<String>,
    /// What its service held.
    pub held: Part<Vec<Line>>,
    /// Whether the record is what was recorded.
    pub audit: Part<Audit>,
}

/// What of the host is said; its name and addresses are not.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Host {
    /// In words, what is included and what not.
    pub included: &'static str,
    /// Kernel, as it calls its release.
    pub kernel: String,
    /// Architecture.
    pub machine: String,
}

/// Who a card says it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Identity {
    /// Serial number.
    pub serial_number: String,
    /// Model.
    pub model: String,
    /// Firmware.
    pub firmware_revision: String,
    /// Its build.
    pub firmware_build: u64,
    /// Hours in operation.
    pub power_on_hours: u32,
    /// Resets since power-on.
    pub reset_count: u32,
    /// Entries ever written to its error log.
    pub error_log_entries: u32,
    /// `UNCOR_STATUS`.
    pub uncorrectable_status: u32,
    /// `COR_STATUS`.
    pub correctable_status: u32,
    /// Composite temperature in degrees Celsius; `null` if it is not measured.
    pub temperature_celsius: Option<i32>,
}

/// What the owner of a card knew of it when it last published.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OwnerView {
    /// How long ago that was, if it was since this host was started.
    pub age_seconds: Option<f64>,
    /// State, as the owner had it.
    pub state: &'static str,
    /// Where requests went.
    pub requests: RequestFigures,
    /// Known-answer tests.
    pub checks: CheckFigures,
    /// What was tested last.
    pub checked: String,
    /// Whether it had work.
    pub breaker: BreakerFigures,
    /// Resets that the owner caused, and those of them that failed.
    pub resets: (u64, u64),
    /// Restarts of the firmware that nobody asked for.
    pub silent_reboots: u64,
}

/// A PCI function.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PciView {
    /// Where.
    pub bdf: String,
    /// Vendor, device, and those of the subsystem.
    pub ids: [Part<u16>; 4],
    /// By name, if that is known.
    pub name: Option<String>,
    /// Who drives it.
    pub driver: Part<String>,
    /// Its link, in words.
    pub link: Part<String>,
    /// Errors counted at the function (AER).
    pub errors: Errors,
    /// The port above, and errors counted there: a faulty card may report none itself.
    pub port: Part<(String, Errors)>,
}

/// Errors of a link by severity; see AER.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Errors {
    /// Corrected.
    pub correctable: Part<u64>,
    /// Something was lost.
    pub nonfatal: Part<u64>,
    /// The link is not to be trusted.
    pub fatal: Part<u64>,
}

/// A light, as its edges are in the log of the card.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Light {
    /// Edges: when, in seconds of the firmware's uptime, and whether it was lit from then on.
    pub edges: Vec<(f64, bool)>,
    /// Drawn.
    pub blocks: String,
    /// What a block stands for.
    pub block_seconds: f64,
    /// What was read.
    pub read: Vec<Read>,
}

/// What was believed of a card when that last changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Assessment {
    /// The event on record.
    pub event: u64,
    /// When, in milliseconds since 1970 UTC.
    pub unix_ms: i64,
    /// How it is.
    pub state: State,
    /// What is at fault.
    pub cause: Cause,
    /// Why.
    pub evidence: Vec<Evidence>,
}

/// One event on record.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EventView {
    /// Its number.
    pub seq: u64,
    /// When, in milliseconds since 1970 UTC.
    pub unix_ms: i64,
    /// How loud.
    pub severity: Severity,
    /// What.
    pub kind: String,
    /// About whom.
    pub subject: String,
    /// The rest.
    pub body: Value,
    /// Its hash: with the record at hand, that it is this event can be shown.
    pub hash: String,
}

/// Whether the record is what was recorded.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Audit {
    /// Events that are here and as they were recorded.
    pub events: u64,
    /// What could not be proven, as an archive is elsewhere; what could all the same, and what to do.
    pub unproven: Vec<String>,
    /// The last that an anchor vouches for.
    pub anchored: Option<u64>,
    /// Hash of the last event.
    pub head: Option<String>,
    /// What is wrong, if something is.
    pub finding: Option<String>,
}

/// Where to look.
#[derive(Clone, Debug)]
pub struct Sources<'a> {
    /// Directory of the telemetry pages.
    pub telemetry: &'a Path,
    /// Root of `/sys`.
    pub root: &'a Path,
    /// Directory of the history.
    pub history: &'a Path,
    /// Anchors of the history.
    pub anchors: Result<&'a [Anchor], &'a str>,
    /// Whose light the card's shines like, if that is known.
    pub light: Option<Profile>,
    /// What is struck out.
    pub redactor: &'a Redactor,
    /// Services of the card, by the names their samples have.
    pub services: &'a [String],
}

/// When it is: by the host's clock, and by the calendar.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Of `CLOCK_MONOTONIC`.
    pub monotonic: Instant,
    /// By the calendar.
    pub wall: WallTime,
}

/// Puts together what is known of `card`.
#[must_use]
pub fn collect(card: &str, sources: &Sources<'_>, now: Now) -> Report {
    let page = PageReader::open(&sources.telemetry.join(hwshim::telemetry::file_name(card)))
        .and_then(|reader| reader.read())
        .map_err(|error| error.to_string());
    let summary = page.as_ref().map_err(Clone::clone).and_then(|page| {
        if page.card.health_reads.get() == 0 {
            return Err("its owner has read no health page".to_owned());
        }
        Summary::parse(&page.health).map_err(|error| format!("its health page {error}"))
    });
    let from = now.wall.minus(SPAN);
    let (recorded, elsewhere) = match recorded(card, sources.history, from) {
        Ok((recorded, elsewhere)) => (Ok(recorded), elsewhere),
        Err(error) => (Err(error), Vec::new()),
    };
    let transitions = recorded.as_deref().unwrap_or_default().iter();
    let transitions: Vec<_> = transitions
        .filter_map(|one| transition(card, one))
        .collect();
    let mut counts = BTreeMap::new();
    for (_, body) in &transitions {
        *counts.entry(body.to.name().to_owned()).or_insert(0) += 1;
    }
    let mut report = Report {
        schema: SCHEMA,
        card: card.to_owned(),
        made_unix_ms: now.wall.unix_millis(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        span_days: SPAN.as_secs() / 86_400,
        host: Host {
            included: "of the host: kernel, architecture, the card's PCI function and the port above, \
                       user and process numbers of who gave orders, and what operators wrote as reasons; \
                       not: its name, network addresses, environment, keys, or anything that was signed",
            kernel: std::fs::read_to_string(sources.root.join("proc/sys/kernel/osrelease"))
                .map_or_else(
                    |_| "unknown".to_owned(),
                    |release| release.trim().to_owned(),
                ),
            machine: std::env::consts::ARCH.to_owned(),
        },
        identity: summary.as_ref().map(identity).map_err(Clone::clone).into(),
        owner: page
            .as_ref()
            .map(|page| owner(page, now))
            .map_err(Clone::clone)
            .into(),
        pci: pci_view(card, sources.root),
        light: summary.map(|summary| light(&summary, sources.light)).into(),
        assessment: last(&transitions).into(),
        transitions: counts,
        events: recorded
            .map(|all| all.iter().map(EventView::from).collect())
            .into(),
        elsewhere,
        held: held(card, sources, from, now.wall).into(),
        audit: audit(sources.history, sources.anchors).into(),
    };
    sources.redactor.strike(&mut report);
    report
}

fn identity(summary: &Summary) -> Identity {
    let kelvin = summary.composite_temperature_k.get();
    Identity {
        serial_number: printable(&summary.serial_number),
        model: printable(&summary.model_number),
        firmware_revision: printable(&summary.firmware_revision),
        firmware_build: summary.firmware_build.get(),
        power_on_hours: summary.power_on_hours.get(),
        reset_count: summary.reset_count.get(),
        error_log_entries: summary.error_log_entries.get(),
        uncorrectable_status: summary.uncorrectable_status.get(),
        correctable_status: summary.correctable_status.get(),
        temperature_celsius: (kelvin != 0).then(|| i32::from(kelvin) - 273),
    }
}

fn owner(page: &Page, now: Now) -> OwnerView {
    let published = Instant::from_nanos(page.owner.published_at_ns.get());
    OwnerView {
        // A page of a boot before this one has an age that nobody knows.
        age_seconds: (published <= now.monotonic)
            .then(|| now.monotonic.since(published).as_secs_f64()),
        state: match page.card.state.get() {
            card_state::STARTING => "starting",
            card_state::READY => "ready",
            card_state::NEEDS_RESET => "needs-reset",
            card_state::GONE => "gone",
            card_state::RELEASED => "released",
            _ => "undefined",
        },
        requests: page.requests.into(),
        checks: CheckFigures::new(page.checks, now.monotonic),
        checked: printable(&page.checked),
        breaker: BreakerFigures::from(page),
        resets: (page.card.resets.get(), page.card.resets_failed.get()),
        silent_reboots: page.card.silent_reboots.get(),
    }
}

fn light(summary: &Summary, profile: Option<Profile>) -> Light {
    let mut trace = Trace::new(profile);
    let edges = trace.look(summary);
    let seconds = |at: Instant| at.since(Instant::ORIGIN).as_secs_f64();
    use crate::led::trace::Happened;
    Light {
        edges: edges
            .iter()
            .filter_map(|one| match one {
                Happened::Edge { at, lit, .. } => Some((seconds(*at), *lit)),
                Happened::Gap => None,
            })
            .collect(),
        blocks: trace.blocks(LIGHT_CELLS, LIGHT_CELL),
        block_seconds: LIGHT_CELL.as_secs_f64(),
        read: trace.read(),
    }
}

fn pci_view(card: &str, root: &Path) -> Part<PciView> {
    let bdf: Bdf = match card.strip_prefix("pci:").and_then(|bdf| bdf.parse().ok()) {
        Some(bdf) => bdf,
        None => return Part::Missing(format!("{card} is no PCI function")),
    };
    let function = match pci::find(&root.join("sys"), bdf) {
        pci::Reading::Known(function) => function,
        pci::Reading::Absent => return Part::Missing(format!("{bdf} is not on the bus")),
        pci::Reading::Failed(problem) => return Part::Missing(problem.to_string()),
    };
    let link = match LinkProbe::new(root).observe(&bdf, Instant::ORIGIN) {
        Ok(link) => link,
        Err(error) => return Part::Missing(error.to_string()),
    };
    let names = [function.vendor_name(), function.device_name()];
    let name: Vec<_> = names.into_iter().flatten().collect();
    Part::Known(PciView {
        bdf: bdf.to_string(),
        ids: [
            function.vendor,
            function.device,
            function.subsystem_vendor,
            function.subsystem_device,
        ]
        .map(reading),
        name: (!name.is_empty()).then(|| name.join(" ")),
        driver: reading(function.driver),
        link: link.link.map(|link| in_words(&link)).into(),
        errors: Errors::new(&link.errors),
        port: link
            .port
            .map(|port| (port.bdf.to_string(), Errors::new(&port.errors)))
            .into(),
    })
}

fn in_words(link: &pci::Link) -> String {
    let rate = |rate: pci::LinkRate| format!("{} x{}", rate.speed, rate.width);
    let current = link.current.map_or_else(|| "down".to_owned(), rate);
    format!("{current}, of {} possible", rate(link.maximum))
}

fn reading<T>(reading: pci::Reading<T>) -> Part<T> {
    match reading {
        pci::Reading::Known(value) => Part::Known(value),
        pci::Reading::Absent => Part::Missing("not there".to_owned()),
        pci::Reading::Failed(problem) => Part::Missing(problem.to_string()),
    }
}

impl Errors {
    fn new(totals: &ErrorTotals) -> Self {
        let part = |total: &Result<u64, ProbeError>| match total {
            Ok(count) => Part::Known(*count),
            Err(error) => Part::Missing(error.to_string()),
        };
        Self {
            correctable: part(&totals.correctable),
            nonfatal: part(&totals.nonfatal),
            fatal: part(&totals.fatal),
        }
    }
}

/// What is on record of the card, and of what bears on any, since `from`; and where there is more.
fn recorded(
    card: &str,
    history: &Path,
    from: WallTime,
) -> Result<(Vec<Recorded>, Vec<String>), String> {
    let in_short = |error: HistoryError| said(&error);
    let reader = Reader::open(history).map_err(in_short)?;
    let filter = Filter {
        from_wall: Some(from),
        ..Filter::default()
    };
    let mut all = Vec::new();
    reader
        .each(&filter, |one| {
            let kind = &*one.event.kind;
            // A change of another card is none of this one's.
            let is_of_other = kind == lock::CHANGE && one.event.subject.contains(':');
            if one.event.subject == card || COMMON.contains(&kind) && !is_of_other {
                all.push(one);
            }
            true
        })
        .map_err(in_short)?;
    let elsewhere = reader.elsewhere(&filter).map_err(in_short)?;
    let told = |it: &Elsewhere| it.told(DIRECTORY);
    Ok((all, elsewhere.iter().map(told).collect()))
}

fn transition<'a>(card: &str, one: &'a Recorded) -> Option<(&'a Recorded, TransitionBody)> {
    let is_one = one.event.kind == TRANSITION && one.event.subject == card;
    let body = is_one.then(|| serde_json::from_str(&one.event.body).ok());
    Some((one, body??))
}

fn last(transitions: &[(&Recorded, TransitionBody)]) -> Result<Assessment, String> {
    let (one, body) = transitions
        .last()
        .ok_or("no transition is on record in that time")?;
    Ok(Assessment {
        event: one.seq.0,
        unix_ms: one.event.stamp.wall.unix_millis(),
        state: body.to,
        cause: body.cause,
        evidence: body.evidence.clone(),
    })
}

/// What the card's owner, and its services, held.
fn held(
    card: &str,
    sources: &Sources<'_>,
    from: WallTime,
    until: WallTime,
) -> Result<Vec<Line>, String> {
    let samples = SampleReader::open(sources.history).map_err(|error| said(&error))?;
    let names = samples.series().map_err(|error| said(&error))?;
    let prefixes: Vec<_> = std::iter::once(format!("{card}/owner-"))
        .chain(
            sources
                .services
                .iter()
                .map(|name| format!("service/{name}/")),
        )
        .collect();
    let mut lines = Vec::new();
    for name in names {
        if !prefixes
            .iter()
            .any(|prefix| name.starts_with(prefix.as_str()))
        {
            continue;
        }
        let points = points(&samples, &name, from, until).map_err(|error| said(&error))?;
        let short = name.strip_prefix(&format!("{card}/")).unwrap_or(&name);
        if !points.is_empty() {
            lines.push(Line {
                name: short.to_owned(),
                points,
            });
        }
    }
    if lines.is_empty() {
        return Err("no figures of its service are on record".to_owned());
    }
    Ok(lines)
}

/// The floors of a series, from the coarsest tier that still has a hundred points of it: a leak shows in what is
/// never given back.
fn points(
    samples: &SampleReader,
    name: &str,
    from: WallTime,
    until: WallTime,
) -> Result<Vec<(i64, f64)>, HistoryError> {
    let mut best = Vec::new();
    for tier in Tier::ALL.into_iter().rev() {
        let mut points = Vec::new();
        let take = |Point { at, value }: Point| {
            match value {
                Sampled::Sample(value) => points.push((at.unix_millis(), value)),
                Sampled::Aggregate(aggregate) => points.push((at.unix_millis(), aggregate.floor)),
                Sampled::Gap { .. } => {}
            }
            true
        };
        samples.range(name, from, until, tier, take)?;
        if points.len() > best.len() {
            best = points;
        }
        if best.len() >= 100 {
            break;
        }
    }
    Ok(chart::thinned(best, POINTS_MAX))
}

fn audit(history: &Path, anchors: Result<&[Anchor], &str>) -> Result<Audit, String> {
    let reader = Reader::open(history).map_err(|error| said(&error))?;
    let found = reader.verify(anchors?).map_err(|error| said(&error))?;
    let unproven = found.unproven.iter();
    Ok(Audit {
        events: found.events,
        unproven: unproven.map(|it| it.told(DIRECTORY)).collect(),
        anchored: found.anchored.map(|seq| seq.0),
        head: found.head.map(|head| hex(&head.hash)),
        finding: found.finding.map(|finding| finding.to_string()),
    })
}

impl From<&Recorded> for EventView {
    fn from(recorded: &Recorded) -> Self {
        let Recorded {
            seq, event, hash, ..
        } = recorded;
        Self {
            seq: seq.0,
            unix_ms: event.stamp.wall.unix_millis(),
            severity: event.severity,
            kind: event.kind.clone().into_owned(),
            subject: event.subject.clone(),
            body: serde_json::from_str(&event.body)
                .unwrap_or_else(|_| Value::String(event.body.clone())),
            hash: hex(hash),
        }
    }
}

/// Bytes as people compare them.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
