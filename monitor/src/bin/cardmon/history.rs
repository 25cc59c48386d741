//! `cardmon history`, `explain`, `audit`, `snapshot` and `restore`: read what is on record.
//!
//! They need no running monitor and change nothing. What is on record was said by others, so
//! everything is escaped on its way to a terminal.

mod gap;
mod when;

pub(crate) use gap::{EXPLAIN_HELP, ExplainArguments, explain};
pub(crate) use when::{now, time};

use crate::page;
use crate::places::{self, Found, ReadPlace, Roots};
use anyhow::Context as _;
use hwshim::clock::SystemClock;
use monitor::control::{self, ControlError, Order};
use monitor::history::{
    Anchor, AuditReport, Events, FileAnchors, Filter, HistoryError, Place, Reader, Recorded,
    SampleReader, Samples, Severity, Snapshot, Source, WallTime, restore_verify,
};
use monitor::record::casebook::{self, IncidentBody};
use monitor::record::{
    FIRMWARE, SERVICE_TRANSITION, SOFTWARE, ServiceTransitionBody, TRANSITION, TransitionBody, said,
};
use monitor::text::members_counted;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

pub(crate) const HELP: &str = "\
Exit status:
  0  shown is what is on record of that, if anything is
  1  the history could not be opened or read
  2  the command line was wrong";

pub(crate) const SNAPSHOT_HELP: &str = "\
Either way the copy is opened and audited before it has its name.
  ordered   the monitor goes on; what it records meanwhile is missing, and counted
  quiesce   nothing is written meanwhile, so nothing is missing; a monitor that runs is asked to
            do it, and writes where its unit lets it: ReadWritePaths=/backup in a drop-in of
            cardmon.service

Exit status:
  0  the snapshot is made, and is what was recorded
  1  none was made
  2  the command line was wrong";

pub(crate) const RESTORE_HELP: &str = "\
To go back to a snapshot: stop the monitor, move its directory of history aside (it is evidence),
copy the snapshot in its place as the same user, with its archives, and start the monitor. What was
recorded after the snapshot is only in the directory that was moved aside; the anchors will say that
the history was put back, so move the file of anchors aside as well.

Exit status:
  0  the snapshot can be gone back to
  1  it could not be opened or read
  2  the command line was wrong
  3  it is not what was recorded
  4  what is in it is as it was recorded, and an archive is not: that was not proven";

pub(crate) const AUDIT_HELP: &str = "\
Archives (events-FIRST-LAST.db) are checked with the file of events beside which they are, in their
order. Of one that is not there nothing can be proven: whether it was taken elsewhere, which you may
say, or removed. What is before it and after it is checked all the same. Keep those that you take
elsewhere, and check them by putting them back.

Exit status:
  0  all is as it was recorded; with --without-archives all that is here
  1  it could not be opened or read
  2  the command line was wrong
  3  something is not what was recorded
  4  all that is here is as it was recorded, and an archive is not here: not all was proven";

/// Exit status of an audit that found something.
pub(crate) const TAMPERED: u8 = 3;
/// Exit status of one that found nothing, and could not look at all.
pub(crate) const UNPROVEN: u8 = 4;

#[derive(Debug, clap::Args)]
pub(crate) struct HistoryArguments {
    /// Only what is about this card.
    #[arg(long, value_name = "ADDRESS")]
    card: Option<String>,
    /// Only events of this kind, e.g. transition.
    #[arg(long)]
    kind: Vec<String>,
    /// Only what was recorded since then: a time, so long ago, as 2h or 7d, or `today` or `yesterday`, which
    /// begin in UTC.
    #[arg(long, value_name = "TIME", value_parser = when::since)]
    since: Option<WallTime>,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: ReadPlace,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum AuditCommand {
    /// Check every event, the chain they are in, and the chain against its anchors. Exit status 3
    /// if something is not what was recorded, 4 if not all could be proven.
    #[command(after_help = page::help(AUDIT_HELP))]
    Verify {
        /// Archives may be missing, as they were taken elsewhere; those that are here are checked.
        #[arg(long)]
        without_archives: bool,
        /// Print one JSON document for programs.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: ReadPlace,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct SnapshotArguments {
    /// Directory to make, which must not be there yet.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// How.
    #[arg(long, value_enum, default_value_t = Mode::Ordered)]
    mode: Mode,
    /// Socket of the monitor, if one runs [default: as for `cardmon run`].
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Print one JSON document for programs.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: ReadPlace,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Mode {
    Ordered,
    Quiesce,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RestoreArguments {
    /// The snapshot to open and audit. Nothing is changed.
    #[arg(long, value_name = "DIR")]
    verify: PathBuf,
    /// Archives may be missing from it, as they are kept elsewhere.
    #[arg(long)]
    without_archives: bool,
    /// Print one JSON document for programs.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: ReadPlace,
}

pub(crate) fn history(arguments: &HistoryArguments) -> anyhow::Result<ExitCode> {
    let Found { directory, .. } = arguments.place.find()?;
    let reader = open(Reader::open(&directory))?;
    let filter = Filter {
        kinds: arguments.kind.clone(),
        subject: arguments.card.clone(),
        from_wall: arguments.since,
        ..Filter::default()
    };
    let mut out = anstream::stdout().lock();
    let mut written = Ok(());
    let mut is_empty = true;
    let read = reader.each(&filter, |event| {
        is_empty = false;
        written = if arguments.json {
            writeln!(out, "{}", plain_json(&as_json(&event)))
        } else {
            writeln!(out, "{}", line(&event))
        };
        written.is_ok()
    });
    // Whoever has seen enough closes the pipe.
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
        _ => {}
    }
    read.map_err(|error| anyhow::anyhow!(said(&error)))?;
    for elsewhere in elsewhere(&reader, &filter, &directory)? {
        crate::complain(&format!("not all is shown: {elsewhere}, and ask again"));
    }
    if is_empty {
        let kinds = reader.kinds();
        let kinds = kinds.map_err(|error| anyhow::anyhow!(said(&error)))?;
        anstream::eprintln!("{}", nothing(arguments, &kinds));
    }
    Ok(ExitCode::SUCCESS)
}

/// Where what was asked for is as well, of which there is nothing in the directory of the history.
pub(crate) fn elsewhere(
    reader: &Reader,
    filter: &Filter,
    directory: &Path,
) -> anyhow::Result<Vec<String>> {
    let found = reader.elsewhere(filter);
    let found = found.map_err(|error| anyhow::anyhow!(said(&error)))?;
    let directory = directory.to_string_lossy();
    Ok(found.iter().map(|it| it.told(&directory)).collect())
}

/// That nothing fits, so that a name that was mistyped does not look like good news.
fn nothing(arguments: &HistoryArguments, kinds: &[String]) -> String {
    let asked = arguments.kind.iter();
    let mut unknown = asked.filter(|kind| !kinds.contains(kind));
    let on_record = match kinds {
        [] => "nothing".to_owned(),
        kinds => escaped(&kinds.join(", ")),
    };
    match unknown.next() {
        Some(kind) => format!(
            "no event of the kind {} is on record; of these kinds there are: {on_record}",
            escaped(kind)
        ),
        None => "no event on record is what was asked for".to_owned(),
    }
}

/// One event for people: number, time, how loud, kind, subject, and what there is to say.
fn line(recorded: &Recorded) -> String {
    let Recorded { seq, event, .. } = recorded;
    let severity = match event.severity {
        Severity::Notice => "notice ",
        Severity::Warning => "WARNING",
        Severity::Alert => "ALERT  ",
    };
    let about = event
        .refers_to
        .map_or_else(String::new, |seq| format!(" (of event {seq})"));
    let said = match &*event.kind {
        TRANSITION => transition(&event.body),
        SERVICE_TRANSITION => service_transition(&event.body),
        FIRMWARE | SOFTWARE => version(&event.body),
        kind if casebook::KINDS.contains(&kind) => incident(&event.body),
        _ => fields(&event.body),
    };
    format!(
        "{seq:>6}  {}  {severity}  {}  {}: {}{about}",
        time(event.stamp.wall),
        escaped(&event.kind),
        escaped(&event.subject),
        escaped(&said)
    )
}

fn transition(body: &str) -> String {
    let Ok(body) = serde_json::from_str::<TransitionBody>(body) else {
        return body.to_owned();
    };
    let why = body.evidence.first().map_or_else(String::new, |first| {
        format!(": {}: {}", first.code, first.detail)
    });
    let drained = if body.drained { ", drained" } else { "" };
    let (from, to, cause) = (body.from, body.to, body.cause);
    format!("{from} -> {to} ({cause}{drained}){why}")
}

fn service_transition(body: &str) -> String {
    let Ok(body) = serde_json::from_str::<ServiceTransitionBody>(body) else {
        return body.to_owned();
    };
    let why = body.evidence.first().map_or_else(String::new, |first| {
        format!(": {}: {}", first.code, first.detail)
    });
    let drained = if body.drained { ", drained" } else { "" };
    let (from, to, cause) = (body.from.name(), body.to.name(), body.cause);
    format!("{from} -> {to} ({cause}{drained}){why}")
}

fn incident(body: &str) -> String {
    let Ok(body) = serde_json::from_str::<IncidentBody>(body) else {
        return body.to_owned();
    };
    let IncidentBody {
        figures,
        attributed_before,
        merged_into,
        not_watched,
    } = body;
    let before = attributed_before.map(|before| format!(", taken for {before} before"));
    let into = merged_into.map(|into| format!(", part of incident {into}"));
    let unseen = not_watched.then(|| ", nobody watched how it ended".to_owned());
    let first = figures.symptoms.first().map_or_else(String::new, |first| {
        format!(": {}: {}", first.code, first.detail)
    });
    format!(
        "incident {} ({}), {}{}{}{}{first}",
        figures.incident,
        figures.cause,
        members_counted(&figures),
        before.unwrap_or_default(),
        into.unwrap_or_default(),
        unseen.unwrap_or_default(),
    )
}

/// What is another version now, or was seen for the first time.
fn version(body: &str) -> String {
    let Ok(Value::Object(fields)) = serde_json::from_str(body) else {
        return body.to_owned();
    };
    let text = |name: &str| fields.get(name).and_then(Value::as_str);
    let what = text("what").map_or_else(String::new, |what| format!("{what} "));
    let to = text("to").unwrap_or("?");
    let unexpected = fields.get("expected") == Some(&Value::Bool(false));
    match text("from") {
        None => format!("{what}{to}, seen for the first time"),
        Some(from) if unexpected => format!("{what}{from} -> {to}, in no change window"),
        Some(from) => format!("{what}{from} -> {to}"),
    }
}

/// A body as `name=value` pairs; as it stands if it is something else.
fn fields(body: &str) -> String {
    let Ok(Value::Object(fields)) = serde_json::from_str(body) else {
        return body.to_owned();
    };
    let pairs = fields.iter().filter(|(_, value)| !value.is_null());
    let pairs: Vec<_> = pairs
        .map(
            |(name, value)| match value.as_f64().filter(|_| value.is_f64()) {
                Some(number) => format!("{name}={}", (number * 1e3).round() / 1e3),
                None => format!("{name}={value}"),
            },
        )
        .collect();
    pairs.join(" ")
}

fn as_json(recorded: &Recorded) -> Value {
    let Recorded {
        seq, event, hash, ..
    } = recorded;
    let body = serde_json::from_str(&event.body);
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    json!({
        "seq": seq,
        "time": time(event.stamp.wall),
        "wall_ns": event.stamp.wall.unix_nanos(),
        "monotonic_ns": event.stamp.monotonic.as_nanos(),
        "boot": event.stamp.boot.to_string(),
        "severity": event.severity,
        "kind": event.kind,
        "subject": event.subject,
        "refers_to": event.refers_to,
        "body": body.unwrap_or_else(|_| Value::String(event.body.clone())),
        "hash": hash,
    })
}

/// JSON in ASCII alone: JSON may hold characters as they are that a terminal acts upon.
fn plain_json(value: &Value) -> String {
    let mut plain = String::new();
    for character in value.to_string().chars() {
        if matches!(character, ' '..='~') {
            plain.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                plain.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    plain
}

/// A text for a terminal: what is no printable ASCII or letter is shown by its number, so that
/// nothing is acted upon, hidden, or put in another order.
pub(crate) fn escaped(text: &str) -> String {
    let shown = |character: char| matches!(character, ' '..='~') || character.is_alphanumeric();
    let mut escaped = String::new();
    for character in text.chars() {
        if shown(character) {
            escaped.push(character);
        } else {
            escaped.extend(character.escape_unicode());
        }
    }
    escaped
}

pub(crate) fn open<T>(opened: Result<T, HistoryError>) -> anyhow::Result<T> {
    opened.map_err(|error| {
        let roots = match error {
            HistoryError::Absent { .. } => places::roots(Roots::History),
            _ => String::new(),
        };
        let said = said(&error);
        anyhow::anyhow!("{said}; if the history is elsewhere, name it with --history{roots}")
    })
}

/// All anchors of a file; none, and what to say of it, if there is no file.
pub(crate) fn anchors_of(path: &Path) -> anyhow::Result<(Vec<Anchor>, Option<String>)> {
    match FileAnchors::read(path) {
        Ok(anchors) => Ok((anchors, None)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let not_there = format!(
                "{} is not there, so nobody remembers where the history ended; name the file with --anchors",
                path.display()
            );
            Ok((Vec::new(), Some(not_there)))
        }
        Err(error) => Err(error).with_context(|| {
            format!(
                "{} could not be read; run as its owner or root, or name another file with --anchors",
                path.display()
            )
        }),
    }
}

pub(crate) fn audit(command: &AuditCommand) -> anyhow::Result<ExitCode> {
    let AuditCommand::Verify {
        without_archives,
        json,
        place,
    } = command;
    let found = place.find()?;
    let (anchors, not_there) = anchors_of(&found.anchors)?;
    let reader = open(Reader::open(&found.directory))?;
    let report = reader.verify(&anchors);
    let report = report.map_err(|error| anyhow::anyhow!(said(&error)))?;
    not_there.iter().for_each(|it| crate::complain(it));
    let code = proven(&report, *without_archives);
    if *json {
        page::json(&audited(&report, &found.directory, reader.path(), code))?;
        return Ok(ExitCode::from(code));
    }
    let mut out = anstream::stdout();
    let vouched = report.anchored.map_or_else(
        || "no anchor".to_owned(),
        |seq| format!("anchors up to {seq}"),
    );
    writeln!(
        out,
        "{}: {} ({vouched}; the chain alone after that)",
        reader.path().display(),
        counted(&report)
    )?;
    judged(&mut out, &report, &found.directory, *without_archives)?;
    Ok(ExitCode::from(code))
}

/// Exit status for what an audit found.
const fn proven(report: &AuditReport, without_archives: bool) -> u8 {
    if report.finding.is_some() {
        TAMPERED
    } else if report.is_proven() || without_archives {
        0
    } else {
        UNPROVEN
    }
}

/// What was audited in `directory`, and what was found, for programs.
fn audited(report: &AuditReport, directory: &Path, audited: &Path, code: u8) -> Value {
    let directory = directory.to_string_lossy();
    let unproven = report.unproven.iter().map(|it| it.told(&directory));
    json!({
        "schema": 1,
        "exit_status": code,
        "audited": audited.to_string_lossy(),
        "events": report.events,
        "archives": report.archives,
        "anchored": report.anchored,
        "unproven": unproven.collect::<Vec<_>>(),
        "finding": report.finding.as_ref().map(ToString::to_string),
    })
}

/// Says what was not found to be as it was recorded, of a history in that directory.
fn judged(
    out: &mut impl Write,
    report: &AuditReport,
    directory: &Path,
    without_archives: bool,
) -> io::Result<()> {
    let directory = directory.to_string_lossy();
    let what = match without_archives {
        true => "not checked",
        false => "NOT PROVEN",
    };
    for unproven in &report.unproven {
        let told = escaped(&unproven.told(&directory));
        writeln!(out, "{what}: {told}")?;
    }
    if let Some(finding) = &report.finding {
        let finding = escaped(&finding.to_string());
        return writeln!(
            out,
            "NOT WHAT WAS RECORDED: {finding}\n\
             what follows it proves nothing; keep a copy of the directory as evidence"
        );
    }
    if proven(report, without_archives) == UNPROVEN {
        writeln!(
            out,
            "nothing else is wrong; check again with what was put back, or with --without-archives if it was taken elsewhere"
        )?;
    }
    Ok(())
}

/// How many events were found to be right, and in how many archives.
fn counted(report: &AuditReport) -> String {
    let events = report.events;
    match report.archives {
        0 => format!("{events} events are as they were recorded"),
        1 => format!("{events} events, with those of 1 archive, are as they were recorded"),
        archives => {
            format!("{events} events, with those of {archives} archives, are as they were recorded")
        }
    }
}

pub(crate) fn snapshot(arguments: &SnapshotArguments) -> anyhow::Result<ExitCode> {
    let found = arguments.place.find()?;
    let to = places::absolute(&arguments.to).context("--to names no directory")?;
    let made = match arguments.mode {
        Mode::Ordered => figures(&ordered(&found, &to)?),
        Mode::Quiesce => quiesced(&found, &to, arguments.control.as_deref())?,
    };
    if arguments.json {
        let mut document = json!({ "schema": 1, "to": to.to_string_lossy() });
        if let (Value::Object(document), Value::Object(made)) = (&mut document, made) {
            document.extend(made);
        }
        page::json(&document)?;
        return Ok(ExitCode::SUCCESS);
    }
    let text = |name: &str| made[name].to_string();
    writeln!(
        anstream::stdout(),
        "{}: {} events, {} bytes, copied in {} s\n\
         recovery point: {} events are missing; recovery time: {} s to open and audit",
        to.display(),
        text("events"),
        text("bytes"),
        text("copy_seconds"),
        text("missing_events"),
        text("verify_seconds"),
    )?;
    Ok(ExitCode::SUCCESS)
}

fn ordered(found: &Found, to: &Path) -> anyhow::Result<Snapshot> {
    let events = open(Reader::open(&found.directory))?;
    let samples = open(SampleReader::open(&found.directory))?;
    let source = Source::Ordered {
        events: &events,
        samples: &samples,
    };
    monitor::history::snapshot(source, to, &SystemClock)
        .map_err(|error| anyhow::anyhow!(said(&error)))
}

/// Copies while nothing is written: by the monitor that runs, or here if none does.
fn quiesced(found: &Found, to: &Path, control: Option<&Path>) -> anyhow::Result<Value> {
    let socket = control.map_or_else(places::control_socket, Path::to_owned);
    match control::send(&socket, &Order::Snapshot { to: to.to_owned() }) {
        Ok(answer) => return Ok(answer["snapshot"].clone()),
        Err(ControlError::Unreachable { .. }) => {}
        Err(error) => return Err(anyhow::anyhow!(said(&error))),
    }
    // Reading first: what is not there must not be made.
    open(Reader::open(&found.directory))?;
    let place = Place::new(&found.directory);
    let opened = FileAnchors::open(&found.anchors);
    let sinks = opened.map_err(|error| {
        anyhow::anyhow!("{} could not be opened: {error}", found.anchors.display())
    })?;
    let mut events = Events::open(&place, vec![Box::new(sinks)]).map_err(|error| {
        let hint = match error {
            HistoryError::Locked { .. } => {
                "; a monitor that takes orders elsewhere is named with --control"
            }
            _ => "",
        };
        anyhow::anyhow!("{}{hint}", said(&error))
    })?;
    let now = now();
    let mut samples = open(Samples::open(&place, now))?.samples;
    let source = Source::Quiesced {
        events: &mut events,
        samples: &mut samples,
    };
    let made = monitor::history::snapshot(source, to, &SystemClock);
    made.map(|made| figures(&made))
        .map_err(|error| anyhow::anyhow!(said(&error)))
}

/// To the millisecond.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e3).round() / 1e3
}

/// A snapshot in figures.
pub(crate) fn figures(made: &Snapshot) -> Value {
    json!({
        "events": made.restored.audit.events,
        "bytes": made.bytes,
        "missing_events": made.missing_events,
        "copy_seconds": seconds(made.took),
        "verify_seconds": seconds(made.restored.took),
    })
}

pub(crate) fn restore(arguments: &RestoreArguments) -> anyhow::Result<ExitCode> {
    let found = arguments.place.find()?;
    let (anchors, not_there) = anchors_of(&found.anchors)?;
    let restored = restore_verify(&arguments.verify, &anchors, &SystemClock);
    let restored = restored.map_err(|error| anyhow::anyhow!(said(&error)))?;
    not_there.iter().for_each(|it| crate::complain(it));
    let (directory, without) = (&arguments.verify, arguments.without_archives);
    let code = proven(&restored.audit, without);
    if arguments.json {
        let mut document = audited(&restored.audit, directory, directory, code);
        document["behind_events"] = json!(restored.behind_events);
        document["verify_seconds"] = json!(seconds(restored.took));
        page::json(&document)?;
        return Ok(ExitCode::from(code));
    }
    let mut out = anstream::stdout();
    writeln!(
        out,
        "{}: {}; {} later ones are known of and not in it; opened and audited in {:.3} s",
        arguments.verify.display(),
        counted(&restored.audit),
        restored.behind_events,
        restored.took.as_secs_f64()
    )?;
    judged(&mut out, &restored.audit, directory, without)?;
    Ok(ExitCode::from(code))
}
