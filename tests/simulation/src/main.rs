//! `cargo xtask simulate`: a campaign of simulated card-years.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line program reports on its standard streams"
)]

mod report;

use clap::Parser;
use firmware_sim::scenario::Scenario;
use hwshim::clock::{Clock, SystemClock};
use indicatif::{ProgressBar, ProgressStyle};
use simulation::campaign::Campaign;
use simulation::matrix::Matrix;
use simulation::{Filter, Phase, Trouble};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Lives through runs with a faulty card, and checks at each step what must be true.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask simulate", bin_name = "cargo xtask simulate")]
struct Arguments {
    /// How many runs; with --minutes, at most so many [default: 1000, or no end with --minutes]
    #[arg(long, value_name = "N")]
    runs: Option<u64>,
    /// Seed of the first run; the next run has the next seed
    #[arg(long, value_name = "S", default_value = "1")]
    seed: u64,
    /// End after so many minutes
    #[arg(long, value_name = "M")]
    minutes: Option<f64>,
    /// Only these faults, by name and separated by commas [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    faults: Vec<Trouble>,
    /// Faults only in this phase [default: any]
    #[arg(long, value_name = "PHASE")]
    phase: Option<Phase>,
    /// No fault at all: whatever opens the breaker is a false alarm
    #[arg(long, conflicts_with_all = ["faults", "phase"])]
    healthy: bool,
    /// Have a monitor watch, days being minutes
    #[arg(long)]
    watched: bool,
    /// Instead, every fault in every phase with so many seeds each, watched: what is said to be at
    /// fault, held against the truth
    #[arg(long, value_name = "SEEDS", conflicts_with_all = ["runs", "minutes", "healthy", "lasting_max", "scenario", "trace"])]
    matrix: Option<u64>,
    /// This scenario of `firmware-sim scenarios`, or of a file, under its own load
    #[arg(long, value_name = "NAME", conflicts_with_all = ["faults", "phase", "healthy", "lasting_max"])]
    scenario: Option<Scenario>,
    /// No fault lasts longer, such as 60s [default: 20 minutes]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    lasting_max: Option<Duration>,
    /// Runs at a time [default: one per CPU]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Print everything that happens, a line each
    #[arg(long)]
    trace: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(seeds) = arguments.matrix {
        return run_matrix(seeds, arguments);
    }
    let endless = if arguments.minutes.is_some() {
        u64::MAX
    } else {
        1000
    };
    let campaign = Campaign {
        seed: arguments.seed,
        runs: arguments.runs.unwrap_or(endless),
        filter: Filter {
            troubles: arguments.faults,
            phase: arguments.phase,
            healthy: arguments.healthy,
            watched: arguments.watched,
            lasting_max: arguments.lasting_max,
            scenario: arguments.scenario.map(Arc::new),
        },
        jobs: arguments.jobs.unwrap_or_else(all_cpus),
        listener: arguments.trace.then_some(|line| println!("{line}")),
    };
    let clock = SystemClock;
    let started = clock.now();
    let limit = arguments
        .minutes
        .map(|minutes| Duration::from_secs_f64((minutes * 60.0).clamp(0.0, 1e9)));
    let bar = progress_bar(campaign.runs);
    let report = campaign.run(|failures| {
        bar.inc(1);
        if failures > 0 {
            bar.set_message(format!("{failures} failed"));
        }
        limit.is_none_or(|limit| clock.now().since(started) < limit)
    });
    bar.finish_and_clear();
    let took = clock.now().since(started);
    if arguments.json {
        println!("{:#}", report::json(&report, &campaign.filter, took));
    } else {
        print!("{}", report::table(&report, took));
    }
    for failure in &report.failures {
        eprint!("{}", report::failure(failure, &campaign.filter));
    }
    if report.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn run_matrix(seeds: u64, arguments: Arguments) -> ExitCode {
    let matrix = Matrix {
        seed: arguments.seed,
        seeds,
        troubles: arguments.faults,
        phase: arguments.phase,
        jobs: arguments.jobs.unwrap_or_else(all_cpus),
    };
    let bar = progress_bar(matrix.runs());
    let scores = matrix.run(|| bar.inc(1));
    bar.finish_and_clear();
    if arguments.json {
        println!("{:#}", report::matrix_json(&scores));
    } else {
        print!("{}", report::matrix_table(&scores));
    }
    let filter = Filter {
        watched: true,
        ..Filter::default()
    };
    for failure in &scores.failures {
        eprint!("{}", report::failure(failure, &filter));
    }
    if scores.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn all_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// On standard error, and only if that is a terminal.
fn progress_bar(runs: u64) -> ProgressBar {
    if runs == u64::MAX {
        let style = ProgressStyle::with_template("{spinner} {pos} runs {elapsed} {msg}");
        return ProgressBar::new_spinner().with_style(style.expect("the template is one"));
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} runs {elapsed} {msg}");
    ProgressBar::new(runs).with_style(style.expect("the template is one"))
}
