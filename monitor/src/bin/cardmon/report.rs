//! `cardmon report`: bundles what whoever takes a card back needs to know.

use crate::history::{TAMPERED, UNPROVEN, anchors_of, escaped, time};
use crate::page;
use crate::places::ReadPlace;
use anyhow::Context as _;
use hwshim::clock::SystemClock;
use monitor::config::Config;
use monitor::history::{BootId, Stamp, WallTime};
use monitor::record::said;
use monitor::report::bundle::{self, BundleError};
use monitor::report::redact::Redactor;
use monitor::report::{self, Now, Part, Report, Sources};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub(crate) const HELP: &str = "\
The bundle holds report.html (for people, needs no other file), report.json, events.jsonl,
held.svg and MANIFEST.sha256 (sha256sum -c). It is made from the card's telemetry page, /sys and
the history; no monitor need run, and what could not be had says why. Keys, the environment,
this host's name and network addresses are not in it; reasons that operators gave for changes
are.

Exit status:
  0  it is written
  1  it is not, or what is in it could not be told
  2  the command line was wrong
  3  it is written, and the record is not what was recorded, as the report says too
  4  it is written, and not all of the record could be proven, as an archive is elsewhere; so says
     the report";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Address of the card, e.g. pci:0000:3b:00.0.
    card: String,
    /// Directory to make, or archive if the name ends in .tar; neither may be there yet
    /// [default: report-TIME.tar here].
    #[arg(long, value_name = "DIR|FILE.tar")]
    out: Option<PathBuf>,
    /// Directory of the telemetry pages [default: that of the configuration, /run/hwshim for root, or
    /// one of the user's own].
    #[arg(long, value_name = "DIR")]
    telemetry: Option<PathBuf>,
    /// Look at the /sys and /proc below this directory.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Print one JSON document for programs.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: ReadPlace,
}

/// Makes the bundle.
pub(crate) fn make(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let config = arguments.place.config()?;
    let found = arguments.place.find()?;
    let telemetry = arguments
        .telemetry
        .clone()
        .unwrap_or_else(|| config.telemetry());
    let stamp = Stamp::now(&SystemClock, BootId::of_this_boot());
    let name = fs::read_to_string(arguments.root.join("proc/sys/kernel/hostname"));
    // Without them there is no audit, and all the rest.
    let anchors = anchors_of(&found.anchors).map_err(|error| format!("{error:#}"));
    let (anchors, not_there) = anchors.map_or_else(|why| (Err(why), None), |it| (Ok(it.0), it.1));
    let sources = Sources {
        telemetry: &telemetry,
        root: &arguments.root,
        history: &found.directory,
        anchors: anchors.as_deref().map_err(|why| &**why),
        light: config.light_of(&arguments.card),
        redactor: &Redactor::new(name),
        services: &services_of(&config, &arguments.card),
    };
    let now = Now {
        monotonic: stamp.monotonic,
        wall: stamp.wall,
    };
    let report = report::collect(&arguments.card, &sources, now);
    let is_on_record = report.events.known().is_some_and(|events| {
        let mut subjects = events.iter().map(|event| &event.subject);
        subjects.any(|subject| *subject == report.card)
    });
    if report.identity.known().is_none() && !is_on_record {
        anyhow::bail!(
            "nothing is known of {}: no page in {} and nothing on record in {}; `cardmon status` and `cardmon history` name the cards there are",
            arguments.card,
            telemetry.display(),
            found.directory.display()
        );
    }
    not_there.iter().for_each(|it| crate::complain(it));
    let out = arguments
        .out
        .clone()
        .unwrap_or_else(|| default_name(stamp.wall));
    let files = bundle::files(&report).map_err(in_short)?;
    bundle::write(&files, &out, report.made_unix_ms).map_err(in_short)?;
    let code = match report.audit.known() {
        Some(audit) if audit.finding.is_some() => TAMPERED,
        Some(audit) if !audit.unproven.is_empty() => UNPROVEN,
        Some(_) | None => 0,
    };
    let printed = match arguments.json {
        true => page::json(&as_json(&report, &out, code)),
        false => summary(&report, &out).map_err(anyhow::Error::from),
    };
    match printed {
        // It is written all the same, and whoever has seen enough closes the pipe.
        Err(error) if crate::nobody_reads(&error) => {}
        printed => printed.with_context(|| {
            format!(
                "{} is written, and what is in it could not be told",
                out.display()
            )
        })?,
    }
    Ok(ExitCode::from(code))
}

fn in_short(error: BundleError) -> anyhow::Error {
    anyhow::anyhow!(said(&error))
}

fn services_of(config: &Config, card: &str) -> Vec<String> {
    let of_card = config
        .services
        .iter()
        .filter(|service| service.card.as_deref() == Some(card));
    of_card.map(|service| service.name.clone()).collect()
}

fn default_name(now: WallTime) -> PathBuf {
    let time = time(now).replace([':', '.'], "-");
    PathBuf::from(format!("report-{time}.tar"))
}

/// What is in it, and what is not.
fn summary(report: &Report, out: &Path) -> io::Result<()> {
    let mut print = anstream::stdout();
    writeln!(
        print,
        "{}: report on {}",
        out.display(),
        escaped(&report.card)
    )?;
    for (name, why) in parts(report) {
        let said = why.map_or_else(
            || "included".to_owned(),
            |why| format!("not available: {why}"),
        );
        writeln!(print, "  {name:<11} {}", escaped(&said))?;
    }
    for elsewhere in &report.elsewhere {
        writeln!(
            print,
            "NOT ALL THAT IS ON RECORD IS IN IT: {}, and make it anew",
            escaped(elsewhere)
        )?;
    }
    let Some(audit) = report.audit.known() else {
        return Ok(());
    };
    for unproven in &audit.unproven {
        let unproven = escaped(unproven);
        writeln!(print, "NOT ALL OF THE RECORD IS PROVEN: {unproven}")?;
    }
    if let Some(finding) = &audit.finding {
        let finding = escaped(finding);
        writeln!(print, "THE RECORD IS NOT WHAT WAS RECORDED: {finding}")?;
    }
    Ok(())
}

/// The same for programs.
fn as_json(report: &Report, out: &Path, code: u8) -> Value {
    let audit = report.audit.known();
    let not_included = parts(report).into_iter();
    let not_included = not_included.filter_map(|(name, why)| Some((name, why?)));
    json!({
        "schema": 1,
        "exit_status": code,
        "written": out.to_string_lossy(),
        "card": report.card,
        "not_included": not_included.collect::<BTreeMap<_, _>>(),
        "elsewhere": report.elsewhere,
        "unproven": audit.map(|audit| &audit.unproven),
        "finding": audit.map(|audit| &audit.finding),
    })
}

/// The parts of a report, and why one is not in it.
fn parts(report: &Report) -> [(&'static str, Option<&str>); 8] {
    [
        ("card", missing(&report.identity)),
        ("assessment", missing(&report.assessment)),
        ("owner", missing(&report.owner)),
        ("light", missing(&report.light)),
        ("pci", missing(&report.pci)),
        ("held", missing(&report.held)),
        ("record", missing(&report.events)),
        ("audit", missing(&report.audit)),
    ]
}

fn missing<T>(part: &Part<T>) -> Option<&str> {
    match part {
        Part::Known(_) => None,
        Part::Missing(why) => Some(why),
    }
}
