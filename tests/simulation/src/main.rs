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
use hwshim::router::verify::eights::Eights;
use indicatif::{ProgressBar, ProgressStyle};
use simulation::campaign::Campaign;
use simulation::matrix::{Matrix, Pairs};
use simulation::{Failure, Filter, Incident, LASTING_MIN, Phase, Trouble, Troubles};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Lives through runs with a faulty card, and checks at each step what must be true.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask simulate",
    bin_name = "cargo xtask simulate",
    after_help = "Exit status: 0 if everything held in every run; 1 if something did not, after ten \
                  such runs at the latest; 2 if the command line is wrong."
)]
struct Arguments {
    /// How many runs; with --minutes, at most so many [default: 1000, or no end with --minutes]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    runs: Option<u64>,
    /// Seed of the first run; the next run has the next seed
    #[arg(long, value_name = "S", default_value = "1")]
    seed: u64,
    /// End after so many minutes
    #[arg(long, value_name = "M", value_parser = minutes)]
    minutes: Option<f64>,
    /// Only these faults, as `firmware-sim faults` has them and separated by commas; parameters of
    /// a fault, as in downtrained=2,speed=3, stay with it [default: all]
    #[arg(long, value_name = "FAULTS")]
    faults: Option<Troubles>,
    /// Faults only in this phase [default: any]
    #[arg(long, value_name = "PHASE")]
    phase: Option<Phase>,
    /// Only faults that make answers wrong, in sixteen peaks of cheap operations one after the
    /// other: as many wrong answers as can be had
    #[arg(long, conflicts_with_all = ["faults", "phase", "pairs"])]
    lies: bool,
    /// This goes wrong, and nothing else; may be given more than once. A run that failed prints it
    #[arg(long, value_name = "FAULT@PHASE+OFFSET+LASTING[*PROBABILITY]",
        conflicts_with_all = ["faults", "phase", "lies", "healthy", "lasting_max", "scenario", "matrix", "pairs"])]
    incident: Vec<Incident>,
    /// No fault at all: whatever opens the breaker is a false alarm
    #[arg(long, conflicts_with_all = ["faults", "phase", "lies"])]
    healthy: bool,
    /// Callers ask for no RSA signatures, which are dear, unless a fault is only about those
    #[arg(long, conflicts_with = "pairs")]
    cheap: bool,
    /// In every run the router offloads only what pays, as in production; without, in an eighth of
    /// them
    #[arg(long, conflicts_with_all = ["matrix", "pairs", "scenario"])]
    weighed: bool,
    /// Verify RSA signatures eight at a time, as a server does that has crypto_mb
    #[arg(long, conflicts_with_all = ["matrix", "pairs", "scenario"])]
    eights: bool,
    /// So many peaks, each until the card has its work again, instead of the phases of a day
    #[arg(long, value_name = "N", conflicts_with_all = ["matrix", "pairs", "scenario"])]
    peaks: Option<usize>,
    /// Have a monitor watch, days being minutes
    #[arg(long)]
    watched: bool,
    /// Instead, every fault in every phase with so many seeds each, watched: what is said to be at
    /// fault, held against the truth
    #[arg(long, value_name = "SEEDS", conflicts_with_all = ["runs", "minutes", "healthy", "lasting_max", "scenario", "trace", "lies", "cheap"])]
    matrix: Option<u64>,
    /// Instead, every two faults of which different things are at fault, with so many seeds each:
    /// whether both are among the two causes most believed
    #[arg(long, value_name = "SEEDS", conflicts_with_all = ["matrix", "runs", "minutes", "healthy", "lasting_max", "scenario", "trace"])]
    pairs: Option<u64>,
    /// This scenario of `firmware-sim scenarios`, or of a file, under its own load
    #[arg(long, value_name = "NAME", conflicts_with_all = ["faults", "phase", "lies", "healthy", "lasting_max", "cheap"])]
    scenario: Option<Scenario>,
    /// No fault lasts longer, such as 60s; 10 ms at least [default: 20 minutes]
    #[arg(long, value_name = "TIME", value_parser = lasting_max)]
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
    let is_json = arguments.json;
    if let Some(seeds) = arguments.matrix {
        return run_matrix(seeds, arguments);
    }
    if let Some(seeds) = arguments.pairs {
        return run_pairs(seeds, arguments);
    }
    if arguments.eights
        && let Err(error) = Eights::load().map_err(anyhow::Error::from)
    {
        eprintln!("simulate: signatures cannot be verified eight at a time: {error:#}");
        return ExitCode::FAILURE;
    }
    let minutes = arguments.minutes;
    let endless = if arguments.minutes.is_some() {
        u64::MAX
    } else {
        1000
    };
    let campaign = Campaign {
        seed: arguments.seed,
        runs: arguments.runs.unwrap_or(endless),
        jobs: arguments.jobs.unwrap_or_else(all_cpus),
        listener: arguments.trace.then_some(|line| println!("{line}")),
        filter: filter(arguments),
    };
    let clock = SystemClock;
    let started = clock.now();
    let limit = minutes.map(|minutes| Duration::from_secs_f64((minutes * 60.0).clamp(0.0, 1e9)));
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
    if is_json {
        println!("{:#}", report::json(&report, took));
    } else {
        print!("{}", report::table(&report, took));
    }
    for failure in &report.failures {
        eprint!("{}", report::failure(failure));
    }
    if report.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What may be drawn.
fn filter(arguments: Arguments) -> Filter {
    let named = arguments.faults.map(|Troubles(troubles)| troubles);
    let (troubles, phase, peaks) = if arguments.lies {
        // Bursts have many requests in flight, and each is answered wrongly.
        let peaks = arguments.peaks.unwrap_or(16);
        (Trouble::lies(), Some(Phase::Peak), Some(peaks))
    } else {
        let troubles = named.unwrap_or_default();
        (troubles, arguments.phase, arguments.peaks)
    };
    Filter {
        troubles,
        phase,
        healthy: arguments.healthy,
        incidents: arguments.incident,
        watched: arguments.watched,
        cheap: arguments.cheap || arguments.lies,
        weighed: arguments.weighed,
        eights: arguments.eights,
        peaks,
        lasting_max: arguments.lasting_max,
        scenario: arguments.scenario.map(Arc::new),
    }
}

fn run_matrix(seeds: u64, arguments: Arguments) -> ExitCode {
    let matrix = Matrix {
        seed: arguments.seed,
        seeds,
        troubles: arguments.faults.map_or_else(Vec::new, |named| named.0),
        phase: arguments.phase,
        jobs: arguments.jobs.unwrap_or_else(all_cpus),
    };
    let bar = progress_bar(matrix.runs());
    let scores = matrix.run(|| bar.inc(1));
    bar.finish_and_clear();
    if arguments.json {
        println!("{:#}", report::matrix::json(&scores));
    } else {
        print!("{}", report::matrix::table(&scores));
    }
    end(&scores.failures)
}

fn run_pairs(seeds: u64, arguments: Arguments) -> ExitCode {
    let pairs = Pairs {
        seed: arguments.seed,
        seeds,
        troubles: arguments.faults.map_or_else(Vec::new, |named| named.0),
        phase: arguments.phase,
        jobs: arguments.jobs.unwrap_or_else(all_cpus),
    };
    let bar = progress_bar(pairs.runs());
    let scores = pairs.run(|| bar.inc(1));
    bar.finish_and_clear();
    if arguments.json {
        println!("{:#}", report::matrix::pairs_json(&scores));
    } else {
        print!("{}", report::matrix::pairs_table(&scores));
    }
    end(&scores.failures)
}

/// Tells of watched runs that failed.
fn end(failures: &[Failure]) -> ExitCode {
    for failure in failures {
        eprint!("{}", report::failure(failure));
    }
    if failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn minutes(text: &str) -> Result<f64, String> {
    let minutes: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if minutes.is_finite() && minutes > 0.0 {
        Ok(minutes)
    } else {
        Err("a time has to be more than nothing, and to end".to_owned())
    }
}

fn lasting_max(text: &str) -> Result<Duration, String> {
    let longest = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if longest < LASTING_MIN {
        return Err(format!("nothing is over sooner than after {LASTING_MIN:?}"));
    }
    Ok(longest)
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

#[cfg(test)]
mod tests {
    use super::*;
    use simulation::Plan;

    /// Words as a shell takes them apart.
    fn words(command: &str) -> Vec<String> {
        let mut words = vec![String::new()];
        let mut is_quoted = false;
        for character in command.chars() {
            match character {
                '\'' => is_quoted = !is_quoted,
                ' ' if !is_quoted => words.push(String::new()),
                other => words.last_mut().expect("there is one").push(other),
            }
        }
        words
    }

    /// The plan that a replay command means to this program.
    fn replayed(command: &str) -> Plan {
        let words = words(command);
        assert_eq!(words[..3], ["cargo", "xtask", "simulate"]);
        let arguments = Arguments::try_parse_from(&words[2..]);
        let arguments = arguments.unwrap_or_else(|error| panic!("{command}: {error}"));
        assert_eq!(arguments.runs, Some(1));
        Plan::draw(arguments.seed, &filter(arguments))
    }

    #[track_caller]
    fn means_the_same(plan: &Plan) {
        let again = replayed(&plan.replay());
        assert_eq!(
            format!("{plan:?}"),
            format!("{again:?}"),
            "{}",
            plan.replay()
        );
    }

    fn drawn_from(command: &str) -> Vec<Plan> {
        let arguments = Arguments::parse_from(words(command));
        let filter = filter(arguments);
        (0..200).map(|seed| Plan::draw(seed, &filter)).collect()
    }

    #[test]
    fn what_a_failed_run_prints_is_the_same_run() {
        for command in [
            "simulate",
            "simulate --watched",
            "simulate --healthy",
            "simulate --healthy --watched",
            "simulate --lies",
            "simulate --weighed --peaks 3",
            "simulate --eights",
            "simulate --watched --faults leak-heap",
            "simulate --lasting-max 10ms",
            "simulate --cheap --lasting-max 60s --phase peak",
            "simulate --faults interrupt-storm=500,vector=1,downtrained=2,speed=3",
        ] {
            drawn_from(command).iter().for_each(means_the_same);
        }
        // As the table of faults has them.
        let incident = "hang@steady+5s+1m".parse().expect("it is an incident");
        means_the_same(&Plan::with(3, vec![incident]));
    }

    #[test]
    fn a_scenario_is_replayed_from_where_it_was_read() {
        let directory = tempfile::tempdir().expect("there is room");
        let path = directory.path().join("it's one.toml");
        let text = include_str!("../scenarios/healthy-hour.toml");
        std::fs::write(&path, text).expect("there is room");
        let of_a_file = Scenario::read(&path).expect("it is a scenario");
        let built_in = Scenario::builtin("bellcore").expect("it is a scenario");
        for scenario in [of_a_file, built_in].map(Arc::new) {
            for watched in [false, true] {
                let filter = Filter {
                    scenario: Some(Arc::clone(&scenario)),
                    watched,
                    ..Filter::default()
                };
                let plan = Plan::draw(7, &filter);
                // The quote in its name takes three more.
                let command = plan.replay().replace(r"'\''", "\u{1}");
                let words = words(&command).into_iter();
                let words = words.map(|word| word.replace('\u{1}', "'")).skip(2);
                let arguments = Arguments::parse_from(words);
                let again = Plan::draw(arguments.seed, &self::filter(arguments));
                assert_eq!(format!("{plan:?}"), format!("{again:?}"));
            }
        }
    }

    #[test]
    fn commas_inside_a_fault_do_not_split_it() {
        let plans = drawn_from("simulate --faults downtrained=2,speed=3");
        let troubles = plans.iter().flat_map(|plan| &plan.incidents);
        for incident in troubles {
            assert_eq!(incident.trouble.to_string(), "downtrained=2,speed=3");
        }
    }
}
