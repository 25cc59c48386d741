//! How a campaign is told: a table, JSON, and failures with what replays them.

pub(crate) mod matrix;

use serde_json::{Value, json};
use simulation::Failure;
use simulation::campaign::{Report, TroubleReport};
use std::fmt::Write as _;
use std::time::Duration;

const SECONDS_PER_YEAR: f64 = 365.25 * 24.0 * 60.0 * 60.0;

fn card_years(report: &Report) -> f64 {
    report.simulated.as_secs_f64() / SECONDS_PER_YEAR
}

/// The report as an aligned table.
pub(crate) fn table(report: &Report, took: Duration) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<28} {value}");
    };
    line("runs", report.runs.to_string());
    line("simulated card-years", format!("{:.1}", card_years(report)));
    line("events", report.steps.to_string());
    line("requests", report.requests.to_string());
    line("  answered by the card", report.by_card.to_string());
    line("  answered by software", report.by_software.to_string());
    line("  caller's own errors", report.refused.to_string());
    line("  lost", report.lost.to_string());
    line("wrong answers", report.wrong_answers_told.to_string());
    line("  to callers", report.wrong_answers_to_callers.to_string());
    line("    rejected", report.answers_rejected.to_string());
    line("    released", report.released.to_string());
    line("failed runs", report.failures.len().to_string());
    line("wall time", format!("{:.1} s", took.as_secs_f64()));
    if report.troubles.is_empty() {
        return text;
    }
    let _ = writeln!(
        text,
        "\n{:<28} {:>8} {:>8} {:>8} {:>11} {:>11}  breaker opened by",
        "fault", "injected", "acted", "opened", "p50", "p99"
    );
    for (name, trouble) in &report.troubles {
        let _ = writeln!(
            text,
            "{name:<28} {:>8} {:>8} {:>8} {:>11} {:>11}  {}",
            trouble.injected,
            trouble.acted,
            trouble.detection_us.len(),
            quantile(trouble, 0.5),
            quantile(trouble, 0.99),
            codes(trouble)
        );
    }
    text
}

fn codes(trouble: &TroubleReport) -> String {
    let codes: Vec<_> = trouble.opened_by.iter().copied().collect();
    codes.join(" ")
}

fn quantile(trouble: &TroubleReport, quantile: f64) -> String {
    if trouble.detection_us.is_empty() {
        return "-".to_owned();
    }
    let micros = trouble.detection_us.value_at_quantile(quantile);
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..1_000_000 => format!("{}.{} ms", micros / 1000, micros / 100 % 10),
        _ => format!("{}.{} s", micros / 1_000_000, micros / 100_000 % 10),
    }
}

/// The report as JSON.
pub(crate) fn json(report: &Report, took: Duration) -> Value {
    let troubles: serde_json::Map<_, _> = report
        .troubles
        .iter()
        .map(|(name, trouble)| {
            let quantile = |at| {
                let latency = &trouble.detection_us;
                (!latency.is_empty()).then(|| latency.value_at_quantile(at))
            };
            let value = json!({
                "injected": trouble.injected,
                "acted": trouble.acted,
                "breaker_opened": trouble.detection_us.len(),
                "breaker_opened_by": trouble.opened_by,
                "detection_us": { "p50": quantile(0.5), "p99": quantile(0.99) },
            });
            (name.clone(), value)
        })
        .collect();
    let failures: Vec<_> = report
        .failures
        .iter()
        .map(|failure| {
            json!({
                "seed": failure.plan.seed,
                "plan": failure.plan.to_string(),
                "phase": failure.phase,
                "step": failure.step,
                "at_ns": failure.at.as_nanos(),
                "invariant": failure.invariant,
                "detail": failure.detail,
                "replay": failure.replay(),
            })
        })
        .collect();
    json!({
        "runs": report.runs,
        "card_years": card_years(report),
        "events": report.steps,
        "requests": {
            "submitted": report.requests,
            "card": report.by_card,
            "software": report.by_software,
            "refused": report.refused,
            "lost": report.lost,
        },
        "wrong_answers": {
            "told": report.wrong_answers_told,
            "to_callers": report.wrong_answers_to_callers,
            "rejected": report.answers_rejected,
            "released": report.released,
        },
        "wall_s": took.as_secs_f64(),
        "faults": troubles,
        "failures": failures,
    })
}

/// A failed run: what was not true, what led to it, and how to see it again.
pub(crate) fn failure(failure: &Failure) -> String {
    let mut text = format!(
        "\nseed {}: {} does not hold\n",
        failure.plan.seed, failure.invariant
    );
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<8} {value}");
    };
    line("what", failure.detail.clone());
    line("plan", failure.plan.to_string());
    line("phase", failure.phase.to_string());
    let seconds = Duration::from_nanos(failure.at.as_nanos()).as_secs_f64();
    line("step", format!("{}, at {seconds:.6} s", failure.step));
    line("replay", failure.replay());
    let _ = writeln!(text, "  what happened last:");
    for last in &failure.last_lines {
        let _ = writeln!(text, "    {last}");
    }
    text
}
