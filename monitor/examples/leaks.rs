//! Measures how well leaks are found in recorded series; `cargo xtask leaks` fetches them and runs
//! this.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line program reports on its standard streams"
)]

#[path = "../tests/leaks/bench.rs"]
mod bench;

use bench::{Part, Report, Series, measure};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let Some(path) = arguments
        .iter()
        .find(|argument| !argument.starts_with("--"))
    else {
        eprintln!("leaks SERIES.jsonl [--json] [--tuning | --seen]");
        return ExitCode::FAILURE;
    };
    let part = if has("--tuning") {
        Part::Tuning
    } else if has("--seen") {
        Part::Seen
    } else {
        Part::Final
    };
    match read(path) {
        Ok(series) => report(&series, part, has("--json")),
        Err(error) => {
            eprintln!("{path}: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn read(path: &str) -> Result<Vec<Series>, Box<dyn std::error::Error>> {
    let text = std::fs::read_to_string(path)?;
    let series = text.lines().map(serde_json::from_str::<Series>);
    let series: Vec<_> = series.collect::<Result<_, _>>()?;
    Ok(series.into_iter().filter(Series::is_usable).collect())
}

fn report(series: &[Series], part: Part, json: bool) {
    let series = || series.iter().filter(move |it| it.part() == part);
    let reports = [
        ("processes", measure(series().filter(|it| !it.host))),
        ("hosts", measure(series().filter(|it| it.host))),
    ];
    if json {
        let reports: serde_json::Map<_, _> = reports
            .into_iter()
            .map(|(of, report)| (of.to_owned(), serde_json::json!(report)))
            .collect();
        println!("{:#}", serde_json::Value::from(reports));
        return;
    }
    println!(
        "{}\n",
        match part {
            Part::Tuning => "series that the rules were tuned on",
            Part::Seen => "series that were held out, and then looked at",
            Part::Final => "series that nothing was tuned on",
        }
    );
    println!("without a leak  series   days  suspected  leaking  pages  right");
    for (of, Report { quiet, .. }) in &reports {
        println!(
            "{of:<14} {:>7} {:>6.1} {:>10} {:>8} {:>6} {:>6}",
            quiet.series, quiet.days, quiet.suspected, quiet.leaking, quiet.pages, quiet.right
        );
    }
    for (of, report) in &reports {
        println!("\n{of:<9}  leaks  suspected  after h  exhausted  paged before  lead h");
        for leaks in &report.leaks {
            println!(
                "{:>6} %/h {:>6} {:>10} {:>8.1} {:>10} {:>13} {:>7.1}",
                leaks.percent_per_hour,
                leaks.leaks,
                share(leaks.suspected, leaks.leaks),
                leaks.median_hours_to_suspicion,
                leaks.exhausted,
                share(leaks.paged_before, leaks.exhausted),
                leaks.median_hours_of_lead
            );
        }
    }
    for (_, Report { quiet, .. }) in &reports {
        for name in &quiet.paged {
            println!("paged without a leak: {name}");
        }
    }
}

fn share(part: usize, whole: usize) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    format!("{:.1} %", 100.0 * part as f64 / whole as f64)
}
