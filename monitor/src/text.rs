//! Lays out a status for people: an aligned table, and one line per transition.
//!
//! States carry colour as escape sequences; whoever prints strips them where they do not belong.
//! Everything else that reaches a terminal is cleaned of control characters: paths and addresses
//! are chosen by others.

mod diagnosis;
mod function;
mod incidents;
mod qat;
mod services;
mod wrap;

pub use diagnosis::{
    card as card_diagnosis, function as function_diagnosis, next_test, service as service_diagnosis,
};
pub use incidents::{incidents, members_counted};
pub(crate) use services::amount;
pub use services::{leak_sentence, leaks, memory, top};
pub use wrap::wrapped;

use crate::led::Agreement;
use crate::services::ServiceTransition;
use crate::status::{
    CardStatus, HistoryFigures, LightFigures, ProcessFigures, RouterFigures, SensorFigures,
    SensorUnit, Status,
};
use crate::verdict::{Cause, Evidence, State, Transition};
use anstyle::{AnsiColor, Style};
use std::time::Duration;

/// Heads of the table's columns.
const HEADS: [&str; 9] = [
    "CARD",
    "STATE",
    "CAUSE",
    "SINCE",
    "HEARTBEAT",
    "TEST",
    "BREAKER",
    "CARD/SOFTWARE/REFUSED",
    "OWNER",
];
/// Column of the state, which is coloured.
const STATE_COLUMN: usize = 1;
/// Shown for what was not seen.
const UNSEEN: &str = "-";

/// The whole block: what is watched, the cards, and why any of them is not connected.
#[must_use]
pub fn block(status: &Status) -> Vec<String> {
    block_within(status, None)
}

/// The same, with tables that are no wider than `width`, if there is one.
#[must_use]
pub fn block_within(status: &Status, width: Option<usize>) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(simulation) = &status.simulation {
        lines.push(painted(&clean(&simulation.notice), notice_style()));
    }
    lines.extend(drill(status));
    if let Some(error) = &status.telemetry_error {
        lines.push(painted(&clean(error), style(State::Unknown)));
    }
    lines.extend(status.history.iter().flat_map(history));
    if status.pages_not_watched > 0 {
        lines.push(format!(
            "{} more pages are not watched",
            status.pages_not_watched
        ));
    }
    if !status.cards.is_empty() {
        lines.extend(cards(&status.cards, width));
    } else if status.routers.is_empty() {
        lines.push(no_cards(status));
    }
    lines.extend(status.routers.iter().map(router));
    lines.extend(qat::table_of(&status.qat, width));
    lines.extend(function::table_of(&status.functions, width));
    if !status.services.is_empty() {
        lines.push(String::new());
        lines.extend(services::table_of(&status.services, width));
    }
    lines.extend(status.host.iter().flat_map(diagnosis::host));
    lines.extend(incidents::in_short(&status.incidents));
    lines
}

/// What is wrong with the history, if anything is.
fn history(history: &HistoryFigures) -> impl Iterator<Item = String> {
    let told = history.told();
    told.map(|line| painted(&clean(&line), style(State::Unknown)))
}

/// That services live faster than the clock, if they do: whoever reads figures must know.
fn drill(status: &Status) -> Option<String> {
    let drill = status.drill.as_ref()?;
    Some(painted(&clean(&drill.notice), notice_style()))
}

/// One line that says what became of a card.
#[must_use]
pub fn transition_line(card: &str, transition: &Transition) -> String {
    let Transition {
        at: _,
        from,
        to,
        cause,
        evidence,
    } = transition;
    let why = evidence.first().map_or_else(String::new, |first| {
        format!(": {}: {}", first.code, first.detail)
    });
    let blame = match cause {
        Cause::None => String::new(),
        cause => format!(" ({cause})"),
    };
    let to = painted(to.name(), style(*to));
    format!("{}: {from} -> {to}{blame}{}", clean(card), clean(&why))
}

/// One line that says what became of a service.
#[must_use]
pub fn service_transition_line(service: &str, transition: &ServiceTransition) -> String {
    let ServiceTransition {
        at: _,
        from,
        to,
        cause_before: _,
        cause,
        evidence,
    } = transition;
    let why = evidence.first().map_or_else(String::new, |first| {
        format!(": {}: {}", first.code, first.detail)
    });
    let blame = match cause {
        Cause::None => String::new(),
        cause => format!(" ({cause})"),
    };
    let (from, to) = (from.name(), to.name());
    format!("{}: {from} -> {to}{blame}{}", clean(service), clean(&why))
}

/// A duration as people say it, rounded: `4s`, `3m12s`, `5h02m`, `9d04h`.
#[must_use]
pub fn spoken(duration: Duration) -> String {
    // Polls are never quite on the second; cutting off would show 0s, 0s, 2s.
    let seconds = duration
        .saturating_add(Duration::from_millis(500))
        .as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{:02}s", seconds % 60),
        3600..86400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// A number of things: `1 card`, `2 cards`.
#[must_use]
pub fn counted(count: u64, one: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {one}{plural}")
}

/// Replaces what a terminal would act upon, show in another order, or not show at all.
#[must_use]
pub fn clean(text: &str) -> String {
    let hidden = |character| matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    text.replace(
        |character: char| character.is_control() || hidden(character),
        "?",
    )
}

fn no_cards(status: &Status) -> String {
    if status.simulation.is_some() {
        return "the simulated card is starting".to_owned();
    }
    format!(
        "no card: nobody publishes a telemetry page in {}\n\
         start an owner there (hwshim serve), or try: cardmon run --simulated-card",
        clean(&status.telemetry.to_string_lossy())
    )
}

/// A router without a card: shown, and not judged.
fn router(router: &RouterFigures) -> String {
    let RouterFigures {
        router,
        pid,
        published_seconds_ago,
        stale,
        requests,
        overload: _,
        tls,
    } = router;
    let published = match published_seconds_ago {
        Some(seconds) => {
            let age = Duration::try_from_secs_f64(*seconds).unwrap_or_default();
            format!("published {} ago", spoken(age))
        }
        None => "published before this host was started".to_owned(),
    };
    let left = if *stale { "gone or stopped, " } else { "" };
    let does = match tls {
        Some(tls) => format!(
            "{}, {} failed; {} open",
            counted(tls.handshakes_completed, "TLS handshake"),
            tls.handshakes_failed
                .saturating_add(tls.handshakes_timed_out),
            counted(tls.connections_active, "connection"),
        ),
        None => counted(requests.submitted, "request"),
    };
    let router = clean(router);
    format!("{router}: a router without a card (process {pid}, {left}{published}): {does}")
}

fn cards(cards: &[CardStatus], width: Option<usize>) -> Vec<String> {
    let mut rows = Rows::new(HEADS);
    for card in cards {
        let unwell = card.state != State::Connected;
        let concerns = card.cause != Cause::None;
        let mut below: Vec<_> = drained(card).into_iter().collect();
        // Of a card that serves, what matters is why anybody is at fault.
        let reasons = match (unwell, concerns) {
            (true, _) => card.evidence.len(),
            (false, true) => 1,
            (false, false) => 0,
        };
        below.extend(card.evidence.iter().take(reasons).map(reason));
        below.extend(card.warnings.iter().map(warning));
        below.extend(card.link.as_ref().and_then(function::link));
        below.extend(sensors(&card.sensors));
        let light = card.light.as_ref().map(light);
        below.extend(light.map(|light| format!("    {light}")));
        if (unwell || concerns) && card.drained.is_none() {
            below.extend(diagnosis::advised(&card.advice));
            let assessment = card.assessment.as_ref();
            below.extend(diagnosis::in_short(assessment, &card.card));
        }
        rows.push(row(card), style(card.state), below);
    }
    rows.lines(Some(STATE_COLUMN), width)
}

/// That an operator wants it so, and how it would be otherwise.
fn drained(card: &CardStatus) -> Option<String> {
    let drained = card.drained.as_ref()?;
    let (by, since) = (clean(&drained.by), spoken(seconds(drained.for_seconds)));
    let (otherwise, cause) = (drained.otherwise, drained.otherwise_cause);
    Some(format!(
        "    drained by {by} {since} ago; otherwise {otherwise} ({cause}): cardmon undrain ends it"
    ))
}

fn warning(warning: &Evidence) -> String {
    let (code, detail) = (clean(&warning.code), clean(&warning.detail));
    painted(
        &format!("    warning: {code}: {detail}"),
        style(State::Unknown),
    )
}

/// What is measured, in one line; nothing where nothing is.
fn sensors(sensors: &[SensorFigures]) -> Option<String> {
    let reading = |sensor: &SensorFigures| {
        let unit = match sensor.unit {
            SensorUnit::Celsius => "C",
            SensorUnit::Volts => "V",
        };
        let value = sensor.value.map(|value| format!("{value} {unit}"));
        let value = value.unwrap_or_else(|| UNSEEN.to_owned());
        format!("{} {value}", clean(&sensor.sensor))
    };
    let readings: Vec<_> = sensors.iter().map(reading).collect();
    (!readings.is_empty()).then(|| format!("    sensors: {}", readings.join(", ")))
}

/// What the light says, as whose it was read, and whether it fits how busy the card is said to be.
#[must_use]
pub fn light(light: &LightFigures) -> String {
    let profile = light.profile.name();
    let load = light.load.map_or_else(String::new, |load| {
        let fits = match load.light {
            Agreement::Unknown => "",
            Agreement::Agrees => ", as which it blinks",
            Agreement::Disagrees => ", as which it does not blink",
        };
        format!(
            "; the card is said to be {:.0} % busy{fits}",
            load.share * 100.0
        )
    });
    format!("light ({profile}): {}{load}", clean(&light.says))
}

fn reason(evidence: &Evidence) -> String {
    format!("    {}: {}", clean(&evidence.code), clean(&evidence.detail))
}

/// Rows of a table, each with the lines that belong below it.
struct Rows<const N: usize> {
    heads: [&'static str; N],
    rows: Vec<([String; N], Style, Vec<String>)>,
}

impl<const N: usize> Rows<N> {
    const fn new(heads: [&'static str; N]) -> Self {
        Self {
            heads,
            rows: Vec::new(),
        }
    }

    fn push(&mut self, row: [String; N], style: Style, below: Vec<String>) {
        self.rows.push((row, style, below));
    }

    /// Aligned, with the style of each row on its cell of one column, and on several lines each where they
    /// would be wider than `within`.
    fn lines(&self, painted: Option<usize>, within: Option<usize>) -> Vec<String> {
        let width = |column: usize| {
            let cells = self
                .rows
                .iter()
                .map(|(row, ..)| row[column].chars().count());
            cells.chain([self.heads[column].len()]).max().unwrap_or(0)
        };
        let widths: [usize; N] = std::array::from_fn(width);
        let heads = self.heads.map(str::to_owned);
        let mut lines = row_lines(&heads, &widths, within, (painted, Style::new()));
        for (row, style, below) in &self.rows {
            lines.extend(row_lines(row, &widths, within, (painted, *style)));
            lines.extend(below.iter().cloned());
        }
        lines
    }
}

/// The lines of a row, of which the cell of one column may have a style.
fn row_lines(
    row: &[String],
    widths: &[usize],
    within: Option<usize>,
    (column_painted, style): (Option<usize>, Style),
) -> Vec<String> {
    let mut lines = Vec::new();
    for columns in wrap::columns(widths, within) {
        let mut line = match columns.start {
            0 => String::new(),
            _ => " ".repeat(wrap::ROW_INDENT),
        };
        for column in columns {
            // Padded before it is painted, since escape sequences have no width.
            let (cell, width) = (&row[column], widths[column]);
            let cell = format!("{cell:width$}");
            let is_painted = Some(column) == column_painted;
            let style = if is_painted { style } else { Style::new() };
            line.push_str(&painted(&cell, style));
            line.push_str(&" ".repeat(wrap::GAP));
        }
        line.truncate(line.trim_end().len());
        lines.push(line);
    }
    lines
}

fn row(card: &CardStatus) -> [String; HEADS.len()] {
    let requests = card.requests.map(|requests| {
        let (card, software, refused) = (requests.card, requests.software, requests.refused);
        format!("{card}/{software}/{refused}")
    });
    let heartbeat = card.heartbeat.as_ref().map(|beat| {
        let how = if beat.moving { "moving" } else { "still" };
        format!("{} {how}", beat.count)
    });
    let breaker = card.breaker.as_ref().map(|breaker| breaker.state.clone());
    let test = card.checks.as_ref().and_then(|checks| {
        let age = spoken(seconds(checks.last_age_seconds?));
        Some(format!("{} {age} ago", checks.last_result))
    });
    [
        Some(clean(&card.card)),
        Some(card.state.to_string()),
        Some(card.cause.to_string()),
        Some(spoken(seconds(card.for_seconds))),
        heartbeat,
        test,
        breaker,
        requests,
        card.owner.as_ref().map(owner),
    ]
    .map(|cell| cell.unwrap_or_else(|| UNSEEN.to_owned()))
}

fn owner(process: &ProcessFigures) -> String {
    if process.alive == Some(false) {
        return format!("pid {} gone", process.pid);
    }
    let rss = process
        .rss_bytes
        .map_or_else(String::new, |bytes| format!(", {}", mebibytes(bytes)));
    let fds = process
        .fds
        .map_or_else(String::new, |fds| format!(", {fds} fds"));
    format!("pid {}{rss}{fds}", process.pid)
}

fn mebibytes(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10) / (1 << 20);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

/// Seconds that a monitor told us; anything that is no duration counts as none.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::ZERO)
}

fn painted(text: &str, style: Style) -> String {
    format!("{style}{text}{style:#}")
}

fn style(state: State) -> Style {
    let colour = match state {
        State::Connected => AnsiColor::Green,
        State::Disconnected => return Style::new().dimmed(),
        State::Unknown => AnsiColor::Yellow,
        State::Unavailable | State::Unreachable => AnsiColor::Red,
    };
    Style::new().fg_color(Some(colour.into())).bold()
}

fn notice_style() -> Style {
    Style::new().fg_color(Some(AnsiColor::Cyan.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hwshim::clock::Instant;
    use zerocopy::FromZeros as _;

    #[test]
    fn a_router_without_a_card_is_called_that_and_nothing_is_said_of_a_card() {
        let tls = crate::status::TlsFigures {
            connections_active: 1,
            handshakes_completed: 5,
            handshakes_failed: 2,
            handshakes_timed_out: 1,
        };
        let figures = |tls| RouterFigures {
            router: "serve-tls:[::1]:8443".to_owned(),
            pid: 7,
            published_seconds_ago: Some(0.1),
            stale: false,
            requests: card_spec::telemetry::Requests::new_zeroed().into(),
            overload: None,
            tls,
        };
        assert_eq!(
            router(&figures(Some(tls))),
            "serve-tls:[::1]:8443: a router without a card (process 7, published 0s ago): \
             5 TLS handshakes, 3 failed; 1 connection open"
        );
        assert!(router(&figures(None)).ends_with("ago): 0 requests"));
        let left = RouterFigures {
            published_seconds_ago: None,
            stale: true,
            ..figures(None)
        };
        let says =
            "(process 7, gone or stopped, published before this host was started): 0 requests";
        assert!(router(&left).ends_with(says));
    }

    #[test]
    fn durations_are_short_at_every_length() {
        let spoken = |seconds| spoken(Duration::from_secs(seconds));
        assert_eq!(spoken(0), "0s");
        assert_eq!(spoken(59), "59s");
        assert_eq!(spoken(192), "3m12s");
        assert_eq!(spoken(5 * 3600 + 120), "5h02m");
        assert_eq!(spoken(9 * 86400 + 4 * 3600), "9d04h");
    }

    #[test]
    fn a_transition_names_card_cause_and_reason_and_nothing_else() {
        let transition = Transition {
            at: Instant::ORIGIN,
            from: State::Connected,
            to: State::Unreachable,
            cause: Cause::CardAbsent,
            evidence: vec![Evidence {
                code: "gone".into(),
                detail: "no answer\x1b[2J".to_owned(),
            }],
        };
        let line = transition_line("software:ring", &transition);
        let plain = anstream::adapter::strip_str(&line).to_string();
        assert_eq!(
            plain,
            "software:ring: connected -> unreachable (card-absent): gone: no answer?[2J"
        );
    }

    #[test]
    fn of_a_card_that_serves_it_is_told_why_anybody_is_at_fault() {
        let shown = |state, cause| {
            let card = serde_json::json!({
                "card": "software:ring",
                "simulated": false,
                "page": "/run/hwshim/a.page",
                "state": state,
                "cause": cause,
                "for_seconds": 90.0,
                "evidence": [
                    {"code": "host-pressure", "detail": "pressure; first 42s ago"},
                    {"code": "heartbeat-moving", "detail": "it moves"},
                ],
                "transitions": 2,
                "probe_errors": [],
            });
            cards(&[serde_json::from_value(card).unwrap()], None)[2..].to_vec()
        };
        let [why, moving] = [
            "    host-pressure: pressure; first 42s ago",
            "    heartbeat-moving: it moves",
        ];
        assert_eq!(shown(State::Connected, Cause::HostStarvation), [why]);
        assert!(shown(State::Connected, Cause::None).is_empty());
        let unwell = shown(State::Unavailable, Cause::Undetermined);
        assert_eq!(unwell, [why, moving]);
    }

    #[test]
    fn columns_stay_aligned_under_colour() {
        let widths = [3; HEADS.len()];
        let row: [String; HEADS.len()] = std::array::from_fn(|_| "x".to_owned());
        let style = style(State::Connected);
        let shown = |within| {
            let lines = row_lines(&row, &widths, within, (Some(STATE_COLUMN), style));
            let plain = |line: &String| anstream::adapter::strip_str(line).to_string();
            lines.iter().map(plain).collect::<Vec<_>>()
        };
        assert_eq!(shown(None), ["x    x    x    x    x    x    x    x    x"]);
        let narrow = ["x    x    x    x", "    x    x    x", "    x    x"];
        assert_eq!(shown(Some(20)), narrow);
    }
}
