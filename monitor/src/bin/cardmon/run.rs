//! `cardmon run`: polls, answers over HTTP and shows, until it is told to stop.
//!
//! One thread does all of it: a poll takes tens of microseconds, and nothing that is asked over
//! HTTP can hold it up.

mod screen;

use crate::simulation::Simulation;
use anyhow::Context as _;
use hwshim::clock::{Clock, SystemClock};
use monitor::api::{self, Published, Source};
use monitor::config::{self, Config};
use monitor::watch::{Settings, Watch};
use screen::Screen;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{self, MissedTickBehavior};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Configuration file; `cardmon config default` prints one. What is given here prevails.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of the telemetry pages, where the owners of cards publish.
    #[arg(long, value_name = "DIR")]
    telemetry: Option<PathBuf>,
    /// Address and port of /metrics and /api/v1/status [default: 127.0.0.1:9180; port 0: any].
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Time between polls, e.g. 500ms [default: 1s].
    #[arg(long, value_name = "TIME", value_parser = config::poll_interval)]
    interval: Option<Duration>,
    /// Stop after this time, e.g. 30s.
    #[arg(long = "for", value_name = "TIME", value_parser = config::duration)]
    run_for: Option<Duration>,
    /// Print one JSON object per poll; the last line is the final status.
    #[arg(long)]
    json: bool,
    /// Start a simulated card and watch that, to see what this is like. Nothing else is needed.
    #[arg(long, conflicts_with = "telemetry")]
    simulated_card: bool,
}

impl Arguments {
    fn config(&self) -> anyhow::Result<Config> {
        let mut config = match &self.config {
            Some(path) => Config::read(path)?,
            None => Config::default(),
        };
        if let Some(telemetry) = &self.telemetry {
            let absolute = std::path::absolute(telemetry);
            config.telemetry = Some(absolute.context("--telemetry names no directory")?);
        }
        config.listen = self.listen.unwrap_or(config.listen);
        let limits = &mut config.limits;
        limits.poll_interval = self.interval.unwrap_or(limits.poll_interval);
        Ok(config)
    }
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let config = arguments.config()?;
    if config.is_remote()? {
        crate::complain(&format!(
            "warning: {} can be reached from other hosts, without encryption or password",
            config.listen
        ));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the program could not start its event loop")?;
    runtime.block_on(watch(arguments, &config))?;
    Ok(ExitCode::SUCCESS)
}

async fn watch(arguments: &Arguments, config: &Config) -> anyhow::Result<()> {
    // First of all: from here on a signal ends this in an orderly way, children included.
    let stop_signals = StopSignals::catch()?;
    let listener = listen(config.listen).await?;
    let mut simulation = arguments
        .simulated_card
        .then(Simulation::start)
        .transpose()?;
    let settings = Settings {
        telemetry: simulation
            .as_ref()
            .map_or_else(|| config.telemetry(), Simulation::telemetry),
        root: Path::new("/").to_owned(),
        limits: config.limits,
        listen: listener.local_addr()?,
        simulation: simulation.as_ref().map(Simulation::describe),
        services: config.services.clone(),
    };
    let mut screen = Screen::new(arguments.json, &settings)?;
    let (publish, latest) = watch::channel(None);
    let clock = Arc::new(SystemClock);
    let source = Source {
        latest,
        clock: Arc::<SystemClock>::clone(&clock),
        poll_interval: config.limits.poll_interval,
    };
    let mut watch = Watch::new(settings);
    let polls = async {
        let mut ticks = time::interval(config.limits.poll_interval);
        // A poll that was missed is not made up for: two looks in a row show nothing new.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Some(simulation) = &mut simulation {
                simulation.reap();
            }
            let at = clock.now();
            let poll = watch.poll(at);
            let status = Arc::new(poll.status);
            publish.send_replace(Some(Published {
                status: Arc::clone(&status),
                at,
            }));
            if let Err(error) = screen.show(&status, &poll.transitions) {
                break anyhow::Error::from(error).context("the status could not be printed");
            }
        }
    };
    tokio::select! {
        error = polls => Err(error),
        outcome = api::serve(listener, source) => outcome.context("HTTP could not be served"),
        () = stop_signals.told() => Ok(()),
        () = time_is_up(arguments.run_for) => Ok(()),
    }
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!(
            "{address} cannot be listened on; another monitor may have it: try --listen 127.0.0.1:0"
        )
    })
}

/// The signals that ask for an end.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    fn catch() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).context("SIGINT cannot be caught")?,
            terminate: signal(SignalKind::terminate()).context("SIGTERM cannot be caught")?,
        })
    }

    async fn told(mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

async fn time_is_up(run_for: Option<Duration>) {
    match run_for {
        Some(time) => time::sleep(time).await,
        None => std::future::pending().await,
    }
}
