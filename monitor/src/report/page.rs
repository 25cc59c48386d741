//! A report as a page for people, which needs nothing else: no script, no style sheet, no picture from
//! elsewhere. Everything that others wrote is escaped.

use super::{Errors, EventView, Identity, Light, OwnerView, Part, PciView, Report};
use crate::history::Severity;
use serde_json::Value;
use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

/// Events on the page; all are in the file beside it.
const EVENTS_MAX: usize = 500;

const HEAD: &str = "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
<style>body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}\
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em;border-bottom:1px solid #ccc}\
table{border-collapse:collapse}td,th{padding:.15em 1em .15em 0;text-align:left;vertical-align:top}\
th{font-weight:600}.missing{color:#888}.alert{color:#b00}.warning{color:#a60}\
.light{font:13px/1.2 monospace;white-space:pre-wrap;overflow-wrap:anywhere}td.body{overflow-wrap:anywhere}\
</style>";

/// The page.
#[must_use]
pub fn html(report: &Report, drawing: &str) -> String {
    let card = escaped(&report.card);
    let mut html =
        format!("{HEAD}<title>Report on {card}</title></head><body>\n<h1>Report on {card}</h1>\n");
    let _ = writeln!(
        html,
        "<p>Made {} by cardmon {}, of the last {} days. {}</p>",
        time(report.made_unix_ms),
        escaped(&report.version),
        report.span_days,
        escaped(&sentence(report))
    );
    for elsewhere in &report.elsewhere {
        let _ = writeln!(
            html,
            "<p class=\"warning\">Not all that is on record is in it: {}.</p>",
            escaped(elsewhere)
        );
    }
    section(&mut html, "Card", &report.identity, identity);
    section(&mut html, "Assessment", &report.assessment, |found| {
        let evidence = found
            .evidence
            .iter()
            .map(|piece| (piece.code.to_string(), piece.detail.clone()));
        let head = [
            ("state".to_owned(), found.state.to_string()),
            ("cause".to_owned(), found.cause.to_string()),
            (
                "since".to_owned(),
                format!("{} (event {})", time(found.unix_ms), found.event),
            ),
        ];
        table(head.into_iter().chain(evidence))
    });
    if !report.transitions.is_empty() {
        let counts = report.transitions.iter();
        html.push_str("<p>How often it became what:</p>");
        html.push_str(&table(
            counts.map(|(state, count)| (state.clone(), count.to_string())),
        ));
    }
    section(&mut html, "What its owner knew", &report.owner, owner);
    section(&mut html, "Light", &report.light, light);
    section(&mut html, "PCI function and errors (AER)", &report.pci, pci);
    section(&mut html, "What its service held", &report.held, |_| {
        drawing.to_owned()
    });
    section(&mut html, "On record", &report.events, |events| {
        on_record(events)
    });
    section(
        &mut html,
        "Whether the record is genuine",
        &report.audit,
        |audit| {
            let anchored = audit.anchored.map_or_else(
                || "nobody".to_owned(),
                |seq| format!("anchors, up to event {seq}"),
            );
            table(
                [
                    (
                        "events that are as they were recorded".to_owned(),
                        audit.events.to_string(),
                    ),
                    ("vouched for by".to_owned(), anchored),
                    (
                        "hash of the last".to_owned(),
                        audit.head.clone().unwrap_or_default(),
                    ),
                    (
                        "finding".to_owned(),
                        audit.finding.clone().unwrap_or_else(|| "none".to_owned()),
                    ),
                ]
                .into_iter()
                .chain(
                    audit
                        .unproven
                        .iter()
                        .map(|unproven| ("not proven".to_owned(), unproven.clone())),
                ),
            )
        },
    );
    let _ = writeln!(
        html,
        "<h2>About this bundle</h2><p>It holds {}. Kernel {}, {}. Check its files with \
        <code>sha256sum -c MANIFEST.sha256</code>.</p></body></html>",
        escaped(report.host.included),
        escaped(&report.host.kernel),
        escaped(&report.host.machine)
    );
    html
}

/// The report in one sentence.
fn sentence(report: &Report) -> String {
    report.assessment.known().map_or_else(
        || "Nothing is on record of how it was.".to_owned(),
        |found| {
            let why = found
                .evidence
                .first()
                .map_or_else(String::new, |piece| format!(": {}", piece.detail));
            format!("It was last found {} ({}){why}.", found.state, found.cause)
        },
    )
}

fn section<T>(html: &mut String, title: &str, part: &Part<T>, show: impl FnOnce(&T) -> String) {
    let _ = writeln!(html, "<h2>{title}</h2>");
    match part {
        Part::Known(known) => html.push_str(&show(known)),
        Part::Missing(why) => {
            let _ = write!(
                html,
                "<p class=\"missing\">not available: {}</p>",
                escaped(why)
            );
        }
    }
    html.push('\n');
}

fn table(rows: impl Iterator<Item = (String, String)>) -> String {
    let mut table = "<table>".to_owned();
    for (name, value) in rows {
        let _ = write!(
            table,
            "<tr><th>{}</th><td>{}</td></tr>",
            escaped(&name),
            escaped(&value)
        );
    }
    table + "</table>"
}

fn rows<const N: usize>(rows: [(&str, String); N]) -> String {
    table(
        rows.into_iter()
            .map(|(name, value)| (name.to_owned(), value)),
    )
}

fn identity(card: &Identity) -> String {
    rows([
        ("serial number", card.serial_number.clone()),
        ("model", card.model.clone()),
        (
            "firmware",
            format!("{} build {}", card.firmware_revision, card.firmware_build),
        ),
        ("hours in operation", card.power_on_hours.to_string()),
        ("resets since power-on", card.reset_count.to_string()),
        (
            "entries of its error log",
            card.error_log_entries.to_string(),
        ),
        (
            "uncorrectable errors",
            format!("{:#010x}", card.uncorrectable_status),
        ),
        (
            "correctable errors",
            format!("{:#010x}", card.correctable_status),
        ),
        (
            "temperature",
            card.temperature_celsius
                .map_or_else(|| "not measured".to_owned(), |c| format!("{c} °C")),
        ),
    ])
}

fn owner(owner: &OwnerView) -> String {
    let checks = &owner.checks;
    let requests = &owner.requests;
    rows([
        (
            "seen",
            owner.age_seconds.map_or_else(
                || "before this host was started".to_owned(),
                |age| format!("{age:.0} s before this report"),
            ),
        ),
        ("state", owner.state.to_owned()),
        (
            "known-answer tests",
            format!(
                "{} begun, {} passed, {} failed",
                checks.started, checks.passed, checks.failed
            ),
        ),
        (
            "the last of them",
            format!(
                "{} {} in {:.1} ms{}",
                owner.checked,
                checks.last_result,
                checks.last_latency_seconds * 1e3,
                checks
                    .last_age_seconds
                    .map_or_else(String::new, |age| format!(
                        ", {age:.0} s before this report"
                    ))
            ),
        ),
        (
            "requests",
            format!(
                "{} submitted: {} answered by the card, {} by software, {} refused",
                requests.submitted, requests.card, requests.software, requests.refused
            ),
        ),
        (
            "of the card's",
            format!(
                "{} late, {} failed, {} breaches, {} wrong answers (none released)",
                requests.timed_out, requests.failed, requests.misbehaved, requests.wrong_answers
            ),
        ),
        (
            "breaker",
            format!(
                "{}, opened {} times, last by {}",
                owner.breaker.state,
                owner.breaker.opened,
                owner.breaker.opened_by.as_deref().unwrap_or("nothing")
            ),
        ),
        (
            "resets",
            format!(
                "{} by its owner, {} of them failed; {} restarts nobody asked for",
                owner.resets.0, owner.resets.1, owner.silent_reboots
            ),
        ),
    ])
}

fn light(light: &Light) -> String {
    let mut shown = format!(
        "<p class=\"light\">{}</p><p>{} ms a block; █ lit, ▂ dark.</p><ul>",
        escaped(&light.blocks),
        light.block_seconds * 1e3
    );
    for read in &light.read {
        let letters = match &read.letters[..] {
            [] => String::new(),
            letters => format!("; spelled after SOS: {}", letters.join(", ")),
        };
        let _ = write!(
            shown,
            "<li>read as {}: {}</li>",
            read.profile.name(),
            escaped(&format!("{}{letters}", read.words))
        );
    }
    shown + "</ul>"
}

fn pci(pci: &PciView) -> String {
    let id = |part: &Part<u16>| {
        part.known()
            .map_or_else(|| "?".to_owned(), |id| format!("{id:04x}"))
    };
    let [vendor, device, sub_vendor, sub_device] = &pci.ids;
    let text = |part: &Part<String>| match part {
        Part::Known(text) | Part::Missing(text) => text.clone(),
    };
    let (port, at_port) = match &pci.port {
        Part::Known((bdf, errors)) => (bdf.clone(), counts(errors)),
        Part::Missing(why) => (why.clone(), String::new()),
    };
    rows([
        ("function", pci.bdf.clone()),
        (
            "identity",
            format!(
                "{}:{} subsystem {}:{} {}",
                id(vendor),
                id(device),
                id(sub_vendor),
                id(sub_device),
                pci.name.as_deref().unwrap_or("")
            ),
        ),
        ("driver", text(&pci.driver)),
        ("link", text(&pci.link)),
        ("errors at the function", counts(&pci.errors)),
        ("port above", port),
        ("errors at the port", at_port),
    ])
}

fn counts(errors: &Errors) -> String {
    let count = |part: &Part<u64>| {
        part.known()
            .map_or_else(|| "not counted".to_owned(), u64::to_string)
    };
    format!(
        "{} correctable, {} nonfatal, {} fatal",
        count(&errors.correctable),
        count(&errors.nonfatal),
        count(&errors.fatal)
    )
}

fn on_record(events: &[EventView]) -> String {
    let shown = &events[events.len().saturating_sub(EVENTS_MAX)..];
    let mut table = format!(
        "<p>The last {} of {} events; all are in events.jsonl.</p><table>",
        shown.len(),
        events.len()
    );
    for event in shown {
        let class = match event.severity {
            Severity::Notice => "notice",
            Severity::Warning => "warning",
            Severity::Alert => "alert",
        };
        let _ = write!(
            table,
            "<tr class=\"{class}\"><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"body\">{}</td></tr>",
            event.seq,
            time(event.unix_ms),
            escaped(&event.kind),
            escaped(&event.subject),
            escaped(&fields(&event.body))
        );
    }
    table + "</table>"
}

/// A body as `name=value` pairs; as it stands if it is something else.
fn fields(body: &Value) -> String {
    let Value::Object(fields) = body else {
        return body.to_string();
    };
    let pairs = fields.iter().filter(|(_, value)| !value.is_null());
    let pairs: Vec<_> = pairs
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    pairs.join(" ")
}

fn time(unix_ms: i64) -> String {
    let at = u64::try_from(unix_ms)
        .ok()
        .and_then(|ms| UNIX_EPOCH.checked_add(Duration::from_millis(ms)));
    // The formatter refuses years of more than four digits.
    match at.filter(|_| unix_ms < 253_402_300_800_000) {
        Some(at) => humantime::format_rfc3339_seconds(at).to_string(),
        None => format!("{unix_ms} ms"),
    }
}

/// A text that is text wherever it stands in HTML and SVG.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for character in crate::text::clean(text).chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}
