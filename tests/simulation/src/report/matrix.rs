//! How a matrix is told: what was said of each fault, who was taken for whom, and of pairs.

use serde_json::{Value, json};
use simulation::Truth;
use simulation::matrix::{PairScores, Said, Score, Scores};
use std::fmt::Write as _;
use std::time::Duration;

fn said_name(said: Said) -> &'static str {
    match said {
        Said::Named(cause) => cause.name(),
        Said::Abstained => "(abstained)",
        Said::Nothing => "(nothing)",
    }
}

fn sum(scores: &Scores, of: impl Fn(&Score) -> u64) -> u64 {
    scores.troubles.values().map(of).sum()
}

/// By fault, and as a table of confusion.
pub(crate) fn table(scores: &Scores) -> String {
    let mut text = format!(
        "{:<28} {:<13} {:>5} {:>6} {:>9} {:>8} {:>8}  said instead\n",
        "fault", "truth", "runs", "right", "abstained", "p50", "p99"
    );
    for (name, score) in &scores.troubles {
        let _ = writeln!(text, "{}", line(name, score));
    }
    let (runs, right) = (sum(scores, Score::runs), sum(scores, Score::right));
    let abstained = sum(scores, Score::abstained);
    let _ = writeln!(
        text,
        "\n{runs} runs: {right} right, {abstained} abstained ({:.1} %); {:.1} % right of those that named",
        percent(abstained, runs),
        percent(right, runs - abstained)
    );
    let _ = writeln!(text, "Brier's score: {:.3}", brier(scores));
    for (truth, (runs, times)) in scores.card_blamed_for_others() {
        let of = truth.name();
        let _ = writeln!(text, "card blamed for {of}: in {times} of {runs} runs");
    }
    let idle = sum(scores, |score| score.idle);
    let _ = writeln!(text, "without effect, and not counted: {idle} runs");
    let _ = writeln!(text, "\n{:<14} {:<18} runs", "truth", "said");
    for ((truth, said), count) in scores.confusion() {
        let _ = writeln!(text, "{:<14} {:<18} {count}", truth.name(), said_name(said));
    }
    text
}

fn line(name: &str, score: &Score) -> String {
    let wrong = score.said.iter();
    let wrong = wrong.filter(|(said, _)| !said.is_right(score.truth));
    let wrong: Vec<_> = wrong
        .map(|(said, (count, replay))| format!("{} {count} [{replay}]", said_name(*said)))
        .collect();
    format!(
        "{name:<28} {:<13} {:>5} {:>6} {:>9} {:>8} {:>8}  {}",
        score.truth.name(),
        score.runs(),
        score.right(),
        score.abstained(),
        latency(score, 50),
        latency(score, 99),
        wrong.join(", ")
    )
}

/// Counts are far below 2^32.
fn float(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

fn percent(part: u64, whole: u64) -> f64 {
    100.0 * float(part) / float(whole.max(1))
}

/// The mean of Brier's scores.
fn brier(scores: &Scores) -> f64 {
    let sum_of_scores: f64 = scores.troubles.values().map(|score| score.brier).sum();
    sum_of_scores / float(sum(scores, Score::runs).max(1))
}

fn latency(score: &Score, percent: usize) -> String {
    const HOUR: f64 = 3600.0;
    match score.latency(percent).map(|it| it.as_secs_f64()) {
        None => "-".to_owned(),
        Some(seconds) if seconds >= HOUR => format!("{:.1} h", seconds / HOUR),
        Some(seconds) => format!("{seconds:.1} s"),
    }
}

/// The same as JSON.
pub(crate) fn json(scores: &Scores) -> Value {
    let seconds = |latency: Option<Duration>| latency.map(|it| it.as_secs_f64());
    let fault = |(name, score): (&String, &Score)| {
        let said = score.said.iter();
        let said = said.map(|(said, (count, replay))| {
            json!({ "said": said_name(*said), "runs": count, "first": replay })
        });
        json!({
            "fault": name,
            "truth": score.truth.name(),
            "runs": score.runs(),
            "right": score.right(),
            "abstained": score.abstained(),
            "card_blamed": score.card_blamed,
            "without_effect": score.idle,
            "brier_mean": score.brier / float(score.runs().max(1)),
            "latency_seconds": { "p50": seconds(score.latency(50)), "p99": seconds(score.latency(99)) },
            "said": said.collect::<Vec<_>>(),
        })
    };
    let blamed = |(truth, (runs, times)): (Truth, (u64, u64))| json!({ "truth": truth.name(), "runs": runs, "card_blamed": times });
    json!({
        "runs": sum(scores, Score::runs),
        "right": sum(scores, Score::right),
        "abstained": sum(scores, Score::abstained),
        "brier_mean": brier(scores),
        "card_blamed_for_others": scores.card_blamed_for_others().into_iter().map(blamed).collect::<Vec<_>>(),
        "faults": scores.troubles.iter().map(fault).collect::<Vec<_>>(),
        "failures": scores.failures.len(),
    })
}

/// What was said of two things at once.
pub(crate) fn pairs_table(scores: &PairScores) -> String {
    let mut text = format!(
        "{:<14} {:<14} {:>6} {:>13} {:>8}  missed first in\n",
        "truth", "and", "runs", "both on top", "share"
    );
    for ([one, other], (runs, right)) in &scores.truths {
        let missed = scores.missed.get(&[*one, *other]);
        let _ = writeln!(
            text,
            "{:<14} {:<14} {runs:>6} {right:>13} {:>6.1} %  {}",
            one.name(),
            other.name(),
            percent(*right, *runs),
            missed.map_or("", String::as_str)
        );
    }
    let (runs, right) = scores.sum();
    let _ = writeln!(
        text,
        "\n{runs} runs: both among the two most believed in {right} ({:.1} %), in {} ({:.1} %) if two names of one \
         truth count as two; in {} more, not both did anything at once",
        percent(right, runs),
        scores.by_name,
        percent(scores.by_name, runs),
        scores.idle
    );
    text
}

/// The same as JSON.
pub(crate) fn pairs_json(scores: &PairScores) -> Value {
    let pair = |([one, other], (runs, right)): (&[Truth; 2], &(u64, u64))| {
        let missed = scores.missed.get(&[*one, *other]);
        json!({ "truths": [one.name(), other.name()], "runs": runs, "both_on_top": right, "first_missed": missed })
    };
    let (runs, right) = scores.sum();
    json!({
        "runs": runs,
        "both_on_top": right,
        "both_on_top_by_name": scores.by_name,
        "without_effect": scores.idle,
        "pairs": scores.truths.iter().map(pair).collect::<Vec<_>>(),
        "failures": scores.failures.len(),
    })
}
