//! `cargo xtask tls-faults`: a card fails in every way there is a lever for while clients shake hands
//! with `hwshim serve-tls`, thousands of times, and each verifies what it is signed.
//!
//! ```text
//!   clients --TLS--> hwshim serve-tls --TCP--> echo
//!                        |
//!                        +--vfio-user--> firmware-sim   killed, or told to fail, from a quarter of
//!                                                       the time on until five eighths
//! ```
//!
//! Clients, terminator and card share the machine's processors, so rates are no benchmark: what
//! counts is that nothing failed, and how long the unluckiest client waited.

mod graph;

use crate::process::root;
use crate::tls_stage::load::{self, Handshake};
use crate::tls_stage::{Card, Stage, backend, figure, pause};
use anyhow::{Context as _, bail, ensure};
use rustls::version::{TLS12, TLS13};
use serde_json::Value;
use std::fs;
use std::ops::ControlFlow;
use std::thread;
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Seconds for each fault.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(4..=120))]
    seconds: u64,
    /// Clients at once.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=256))]
    clients: u16,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fault {
    None,
    Killed,
    Hung,
    Lying,
    Slow,
    Flapping,
}

impl Fault {
    const ALL: [Self; 6] = [
        Self::None,
        Self::Killed,
        Self::Hung,
        Self::Lying,
        Self::Slow,
        Self::Flapping,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Killed => "killed (SIGKILL)",
            Self::Hung => "hung",
            Self::Lying => "lying (crt-fault)",
            Self::Slow => "slow (1000 times)",
            Self::Flapping => "flapping (hang)",
        }
    }

    /// Has the card fail, and recover.
    fn play(self, stage: &Stage, card: &mut Card, time: Duration) -> anyhow::Result<()> {
        let (before, during) = (time / 4, time * 3 / 8);
        pause(before);
        match self {
            Self::None => return Ok(()),
            Self::Killed => {
                card.kill();
                pause(during);
                *card = stage.card()?;
                return Ok(());
            }
            Self::Hung => stage.order(&["inject", "hang"])?,
            Self::Lying => stage.order(&["inject", "crt-fault", "--probability", "0.2"])?,
            Self::Slow => stage.order(&["inject", "slow=1000"])?,
            Self::Flapping => {
                let turn = Duration::from_millis(250);
                for _ in 0..during.as_millis() / (2 * turn.as_millis()) {
                    stage.order(&["inject", "hang"])?;
                    pause(turn);
                    stage.order(&["clear"])?;
                    pause(turn);
                }
                return Ok(());
            }
        }
        pause(during);
        stage.order(&["clear"])
    }
}

/// What became of it.
#[derive(Debug)]
struct Played {
    fault: Fault,
    handshakes: Vec<Handshake>,
    by_card: u64,
    by_software: u64,
    wrong_answers: u64,
}

/// Plays all faults.
///
/// # Errors
///
/// If a handshake failed, or a fault did not come to pass.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let stage = Stage::set(root().join("target/tls-faults"), true)?;
    let time = Duration::from_secs(arguments.seconds);
    let mut all = Vec::new();
    for fault in Fault::ALL {
        println!("{}: {} s", fault.name(), arguments.seconds);
        let played = play(&stage, fault, time, arguments.clients)
            .with_context(|| format!("with a card that is {}", fault.name()))?;
        if fault == Fault::Killed {
            let svg = graph::svg(&played.handshakes, time, time / 4, time * 5 / 8);
            let path = stage.directory.join("killed.svg");
            fs::write(&path, svg)
                .with_context(|| format!("{} cannot be written", path.display()))?;
        }
        all.push(played);
    }
    print(&all);
    println!(
        "\nHandshakes through the SIGKILL: {}",
        stage.directory.join("killed.svg").display()
    );
    all.iter().try_for_each(judge)
}

fn play(stage: &Stage, fault: Fault, time: Duration, clients: u16) -> anyhow::Result<Played> {
    let mut card = stage.card()?;
    let serving = stage.terminator(backend::start(backend::Kind::Echo)?)?;
    let client = load::client(&stage.authority.certificate(), &[&TLS13, &TLS12])?;
    let handshakes = thread::scope(|scope| {
        let player = scope.spawn(|| fault.play(stage, &mut card, time));
        let each = |handshake: &Handshake| {
            if handshake.ended < time {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        };
        let handshakes = load::run(serving.address, &client, usize::from(clients), each);
        match player.join() {
            Ok(outcome) => outcome.map(|()| handshakes),
            Err(_) => bail!("it could not be played"),
        }
    })?;
    let done = u64::try_from(handshakes.iter().filter(|it| it.outcome.is_ok()).count())?;
    let completed = |it: &Value| it["handshakes"]["completed"].as_u64() >= Some(done);
    let report = serving.wait_for_report(completed)?;
    let software = [
        "/signatures/software",
        "/handshakes/software",
        "/handshakes/mismatched",
    ];
    let by_software = software.map(|pointer| figure(&report, pointer));
    Ok(Played {
        fault,
        handshakes,
        by_card: figure(&report, "/signatures/card")?,
        by_software: by_software.into_iter().sum::<anyhow::Result<u64>>()?,
        wrong_answers: figure(&report, "/signatures/wrong_answers")?,
    })
}

fn print(all: &[Played]) {
    println!(
        "\n{:<18} {:>10} {:>7} {:>8} {:>11} {:>14} {:>9} {:>9}",
        "card",
        "handshakes",
        "failed",
        "by card",
        "by software",
        "wrong, stopped",
        "median",
        "longest"
    );
    for played in all {
        let mut took: Vec<_> = played.handshakes.iter().map(|it| it.took).collect();
        took.sort_unstable();
        let median = took.get(took.len() / 2).copied().unwrap_or_default();
        let longest = took.last().copied().unwrap_or_default();
        println!(
            "{:<18} {:>10} {:>7} {:>8} {:>11} {:>14} {:>6} ms {:>6} ms",
            played.fault.name(),
            played.handshakes.len(),
            failed(played).count(),
            played.by_card,
            played.by_software,
            played.wrong_answers,
            median.as_millis(),
            longest.as_millis(),
        );
    }
}

fn failed(played: &Played) -> impl Iterator<Item = &String> {
    let outcomes = played.handshakes.iter();
    outcomes.filter_map(|handshake| handshake.outcome.as_ref().err())
}

fn judge(played: &Played) -> anyhow::Result<()> {
    let name = played.fault.name();
    if let Some(first) = failed(played).next() {
        bail!(
            "{} handshakes failed, card {name}: {first}",
            failed(played).count()
        );
    }
    ensure!(played.by_card > 0, "card {name}: it never signed");
    let came_to_pass = match played.fault {
        Fault::None => true,
        Fault::Lying => played.wrong_answers > 0,
        _ => played.by_software > 0,
    };
    ensure!(came_to_pass, "card {name}: nothing came of it");
    Ok(())
}
