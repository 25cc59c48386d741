//! `cardmon run`: polls, answers over HTTP and shows, until it is told to stop.
//!
//! One thread does all of it but the history: a poll takes tens of microseconds, and nothing that
//! is asked over HTTP can hold it up. What a poll brought is shown when it is on record.

pub(crate) mod complaints;
mod keeping;
mod memory;
mod orders;
mod output;
mod publish;
mod screen;
mod ticks;

use crate::places::{self, Found, HistoryPlace};
use crate::simulation::Simulation;
use anyhow::Context as _;
use hwshim::clock::{Clock as _, SystemClock};
use keeping::Keeping;
use memory::Memory;
use monitor::api::{self, Published, Source};
use monitor::config::{self, Config};
use monitor::control::Desk;
use monitor::dead_man::systemd::Notify;
use monitor::dead_man::{DeadMan, SignOfLife};
use monitor::history::{BootId, Place, Stamp};
use monitor::lock;
use monitor::record::{self, HostWatch, Installed, Keeper, Past, Recorder, StartBody, said};
use monitor::services::{Missing, Remembered, ServiceSettings};
use monitor::watch::{Settings, Watch};
use orders::{Orders, Socket};
use publish::{OnRecord, Publisher, Record, Seen, Troubles};
use screen::Screen;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use ticks::Ticks;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time;

pub(crate) const HELP: &str = "\
Exit status:
  0  it was told to stop, its time was up, or nobody reads what it shows any more
  1  it could not start
  2  the command line was wrong
  3  it has run, and not all of that is on record; said is why";

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
    /// Start a simulated card and watch that, to see what this is like. Nothing else is needed, and
    /// nothing is kept unless you say where.
    #[arg(long, conflicts_with = "telemetry")]
    simulated_card: bool,
    #[command(flatten)]
    keep: Keep,
}

/// What is kept, and where orders are taken.
#[derive(Debug, clap::Args)]
struct Keep {
    #[command(flatten)]
    history: HistoryPlace,
    /// Keep no history, take no orders, and leave no sign of life.
    #[arg(long, conflicts_with_all = ["history", "anchors", "control"])]
    no_history: bool,
    /// Socket on which orders are taken from its owner and group [default: control.sock in
    /// /run/cardmon for root, else in cardmon in XDG_RUNTIME_DIR].
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// File that is replaced after each poll, for `cardmon dead-man` [default: alive.json beside the
    /// socket; where that is not the usual one, name it there and in `cardmon status`].
    #[arg(long, value_name = "FILE")]
    dead_man: Option<PathBuf>,
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
        if let Some(listen) = self.listen {
            (config.listen, config.listen_from) = (listen, None);
        }
        let limits = &mut config.limits;
        limits.poll_interval = self.interval.unwrap_or(limits.poll_interval);
        Ok(config)
    }
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    complaints::start();
    let config = arguments.config()?;
    if config.is_remote()? {
        crate::complain(&format!(
            "warning: {} can be reached from other hosts, without encryption or password",
            config.listen
        ));
    }
    for card in config.cards.iter().filter(|card| card.is_missing(root())) {
        crate::complain(&format!(
            "warning: {} of a [[card]] is no function of this host; if the card is not merely pulled out, correct the address",
            card.address
        ));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the program could not start its event loop")?;
    let recorded = runtime.block_on(watch(arguments, &config))?;
    Ok(if recorded {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(NOT_RECORDED)
    })
}

/// Root of the host that is watched.
fn root() -> &'static Path {
    Path::new("/")
}

/// Watches until told to stop; whether all that was to be recorded is on record.
async fn watch(arguments: &Arguments, config: &Config) -> anyhow::Result<bool> {
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
        root: root().to_owned(),
        limits: config.limits,
        cards: config.cards.clone(),
        listen: listener.local_addr()?,
        simulation: simulation.as_ref().map(Simulation::describe),
        services: config.services.clone(),
        service_time: config.service_time,
    };
    let clock = Arc::new(SystemClock);
    let (publish, latest) = watch::channel(None);
    let source = Source {
        latest: latest.clone(),
        clock: Arc::<SystemClock>::clone(&clock),
        poll_interval: config.limits.poll_interval,
    };
    let simulated = arguments.simulated_card;
    let mut remembered = Remembered::default();
    let history = match arguments.keep.history(config, simulated)? {
        Some(found) => {
            let installed = installed(arguments.config.as_deref());
            let memory = Memory::new(latest.clone());
            let (history, past) = History::begin(&found, installed, &settings, memory)?;
            remembered = past;
            Some(history)
        }
        None => None,
    };
    let socket = history
        .as_ref()
        .and_then(|_| arguments.keep.listen(simulated));
    let (tell, told) = watch::channel(OnRecord::default());
    let mut publisher = Publisher {
        screen: Screen::new(arguments.json, &settings)?,
        publish,
        troubles: Troubles::default(),
        record: history
            .as_ref()
            .map(|history| history.record(&settings, tell)),
    };
    let mut alive = Alive {
        dead_man: arguments.keep.dead_man(simulated),
        notify: notify().map(|notify| notify.every(config.limits.poll_interval)),
        ready: false,
        interval: config.limits.poll_interval,
        shown: latest,
        troubles: publisher.troubles.clone(),
        polls: 0,
        failed: false,
    };
    let boot = BootId::of_this_boot();
    let begun = Stamp::now(&*clock, boot).monotonic;
    let mut watch = Watch::new(settings).begun(begun).remembering(remembered);
    let (seen, polls) = mpsc::unbounded_channel();
    let mut ticks =
        Ticks::start(config.limits.poll_interval).context("there is no timer for polls")?;
    let watching = async {
        loop {
            let late = ticks.tick().await?;
            if let Some(simulation) = &mut simulation {
                simulation.reap();
            }
            let now = Stamp::now(&*clock, boot);
            let OnRecord { changes, drained } = told.borrow().clone();
            watch.were_changed(changes);
            watch.are_drained(drained, boot);
            let poll = watch.poll(now.monotonic);
            if seen.send(Seen { poll, now, late }).is_err() {
                return io::Result::Ok(());
            }
            alive.poll_has_ended(Stamp::now(&*clock, boot));
        }
    };
    let mut publishing = Box::pin(publisher.run(polls));
    let mut is_read = true;
    tokio::select! {
        outcome = watching => outcome.context("the timer of polls failed")?,
        () = &mut publishing => is_read = false,
        outcome = api::serve(listener, source) => outcome.context("HTTP could not be served")?,
        () = take_orders(socket.as_ref(), history.as_ref()) => {}
        () = stop_signals.told() => {}
        () = time_is_up(arguments.run_for) => {}
    }
    alive.stopping(Stamp::now(&*clock, boot));
    // What was seen is shown, unless the disk lets nothing be recorded.
    drop(seen);
    if is_read {
        let _ = time::timeout(PARTING, &mut publishing).await;
    }
    drop(publishing);
    let Publisher { screen, record, .. } = publisher;
    let recorded = match history {
        Some(history) => history.end(record, alive.polls).await,
        None => true,
    };
    screen.end(PARTING);
    Ok(recorded)
}

/// What services held before this monitor was started. Whatever keeps it from being read, they are watched
/// all the same.
fn remember(keeper: &mut Keeper, services: &[ServiceSettings], now: Stamp) -> Remembered {
    if services.is_empty() {
        return Remembered::default();
    }
    let deadline = SystemClock.now().plus(REMEMBERING);
    let may_go_on = || SystemClock.now() < deadline;
    let anew = "what services held before is not known, and leaks are looked for anew";
    let part =
        "not all that services held before is known, and leaks of the rest are looked for anew";
    let remembered = match keeper.remember(services, now, may_go_on) {
        Ok(remembered) => remembered,
        Err(why) => {
            crate::complain(&format!("{anew}: {why}"));
            return Remembered::default();
        }
    };
    match remembered.missing() {
        None => {}
        Some(Missing::Time) => {
            let seconds = REMEMBERING.as_secs();
            crate::complain(&format!("{part}: reading took longer than {seconds} s"));
        }
        Some(Missing::Unreadable(error)) => crate::complain(&format!("{part}: {}", said(error))),
    }
    remembered
}

async fn take_orders(socket: Option<&Socket>, history: Option<&History>) {
    match (socket, history) {
        (Some(socket), Some(history)) => socket.serve(&history.orders).await,
        _ => std::future::pending().await,
    }
}

/// Whoever started us and wants to be told, if anybody does.
fn notify() -> Option<Notify> {
    Notify::from_environment().unwrap_or_else(|error| {
        crate::complain(&format!("NOTIFY_SOCKET cannot be told anything: {error}"));
        None
    })
}

impl Keep {
    /// Where to keep a history; `None` for nowhere.
    fn history(&self, config: &Config, simulated: bool) -> anyhow::Result<Option<Found>> {
        let found = self.history.find(config)?;
        // What a simulated card does is nobody's history unless somebody wants it to be.
        let wanted = !(self.no_history || simulated && found.by_default);
        Ok(wanted.then_some(found))
    }

    /// The socket on which orders are taken. Without one, watching goes on.
    fn listen(&self, simulated: bool) -> Option<Socket> {
        let path = match &self.control {
            Some(path) => path.clone(),
            None if simulated => return None,
            None => places::control_socket(),
        };
        let made = match &self.control {
            Some(_) => Ok(()),
            None => places::make_runtime_directory(),
        };
        match made.and_then(|()| Socket::listen(&path)) {
            Ok(socket) => Some(socket),
            Err(error) => {
                crate::complain(&format!("no orders are taken: {error:#}"));
                None
            }
        }
    }

    /// The dead man's file. Without one, watching goes on.
    fn dead_man(&self, simulated: bool) -> Option<DeadMan> {
        let (path, made) = match (&self.dead_man, &self.control) {
            (Some(path), _) => (path.clone(), Ok(())),
            (None, _) if simulated || self.no_history => return None,
            (None, Some(control)) => (places::sign_of_life_beside(control), Ok(())),
            (None, None) => (places::sign_of_life(), places::make_runtime_directory()),
        };
        match made.and_then(|()| Ok(DeadMan::begin(&path)?)) {
            Ok(dead_man) => Some(dead_man),
            Err(error) => {
                crate::complain(&format!("no sign of life is left: {error:#}"));
                None
            }
        }
    }
}

/// The history of this run.
#[derive(Debug)]
struct History {
    installed: Vec<Installed>,
    /// What is on record of runs before; `None` if that cannot be read yet.
    past: Option<Past>,
    keeping: Keeping,
    orders: Orders,
    boot: BootId,
}

impl History {
    /// Opens the history, and has the beginning of this run recorded; and what services held before. If it
    /// cannot be opened or written, the first poll says so.
    fn begin(
        found: &Found,
        installed: Vec<Installed>,
        settings: &Settings,
        memory: Memory,
    ) -> anyhow::Result<(Self, Remembered)> {
        let boot = BootId::of_this_boot();
        let now = Stamp::now(&SystemClock, boot);
        if let Some(parent) = found.directory.parent().filter(|_| found.by_default) {
            // If it cannot be made, opening says why.
            let _ = std::fs::create_dir_all(parent);
        }
        let place = Place::new(&found.directory).with_archives_of(found.archive_at_bytes);
        let mut keeper = Keeper::open(place, found.anchors.clone(), now);
        // If it cannot be read, the keeper says so until it can.
        let past = keeper.look_up().ok();
        let orders = past.as_ref().map_or(&[][..], |past| &past.orders);
        let own_uid = rustix::process::geteuid().as_raw();
        let desk = Desk::new(lock::Settings::default(), orders, own_uid);
        let body = StartBody {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            interval_seconds: settings.limits.poll_interval.as_secs_f64(),
            telemetry: settings.telemetry.to_string_lossy().into_owned(),
            previous_was_stopped: past.as_ref().and_then(|past| past.was_stopped),
            drill_service_time: settings.service_time.figures().map(|it| it.service_time),
        };
        let remembered = remember(&mut keeper, &settings.services, now);
        keeper.keep(vec![record::started(&body, now)], now);
        let interval = settings.limits.poll_interval;
        let keeping =
            Keeping::start(keeper, interval).context("there is no thread for the history")?;
        let orders = Orders {
            desk: Arc::new(Mutex::new(desk)),
            keeping: keeping.clone(),
            memory,
            boot,
        };
        let history = Self {
            installed,
            past,
            keeping,
            orders,
            boot,
        };
        Ok((history, remembered))
    }

    fn record(&self, settings: &Settings, tell: watch::Sender<OnRecord>) -> Record {
        let now = Stamp::now(&SystemClock, self.boot);
        let interval = settings.limits.poll_interval;
        let host = HostWatch::new(interval, now.monotonic);
        let mut recorder = Recorder::new(host, self.installed.clone(), now);
        let past = self.past.as_ref();
        let of_last_run = past.map_or_else(Vec::new, |past| recorder.remember(past, now));
        let (keeping, orders) = (self.keeping.clone(), self.orders.clone());
        Record::new(recorder, keeping, orders, of_last_run, tell)
    }

    /// Has the end recorded; whether all of the run is.
    async fn end(self, record: Option<Record>, polls: u64) -> bool {
        let now = Stamp::now(&SystemClock, self.boot);
        let mut events = Vec::new();
        if let Ok(mut desk) = self.orders.desk.try_lock() {
            events.extend(desk.tick(now, true));
        }
        let (rest, lost) = record.map_or_else(Default::default, |record| record.end(polls, now));
        events.extend(rest);
        let closed = time::timeout(PARTING, self.keeping.close(events, lost, now)).await;
        let Ok(Ok(history)) = closed else {
            crate::complain(
                "ALARM: the history's disk does not answer; the end of this run is not on record",
            );
            return false;
        };
        for told in history.told() {
            crate::complain(&told);
        }
        history.lost == 0
    }
}

/// What is as it is while this runs, and may be another the next time.
fn installed(config: Option<&Path>) -> Vec<Installed> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok();
    let configuration = match config.map(std::fs::read) {
        Some(text) => text
            .ok()
            .map(|it| Installed::file("monitor", "configuration", &it)),
        None => Some(Installed::new("monitor", "configuration", "default")),
    };
    let kernel = kernel.map(|it| Installed::new("host", "kernel", &it));
    let this = Installed::new("monitor", "version", env!("CARGO_PKG_VERSION"));
    [Some(this), kernel, configuration]
        .into_iter()
        .flatten()
        .collect()
}

/// Tells others that polls go on.
#[derive(Debug)]
struct Alive {
    dead_man: Option<DeadMan>,
    notify: Option<Notify>,
    interval: Duration,
    shown: watch::Receiver<Option<Published>>,
    troubles: Troubles,
    polls: u64,
    /// Whether whoever started us took it that we are ready.
    ready: bool,
    /// Whether it was already said that the file cannot be written.
    failed: bool,
}

impl Alive {
    /// To be called when a poll has ended, and by nobody else.
    fn poll_has_ended(&mut self, now: Stamp) {
        self.polls += 1;
        let sign = self.sign_of_life(now);
        self.sign(&sign);
        if let Some(notify) = &self.notify {
            // A manager that hears nothing does what it is for. One that did not take the first
            // word, which it needs, is told again.
            if self.ready {
                let _ = notify.alive();
            } else {
                self.ready = notify.ready().is_ok();
            }
        }
    }

    fn sign_of_life(&self, now: Stamp) -> SignOfLife {
        let shown = self.shown.borrow();
        let shown = shown.as_ref().map(|it| (&*it.status, it.at));
        let troubles = self.troubles.list();
        SignOfLife::new(self.interval, self.polls, shown, troubles, now)
    }

    fn sign(&mut self, sign: &SignOfLife) {
        let signed = self.dead_man.as_mut().map_or(Ok(()), |it| it.sign(sign));
        if let Err(error) = &signed
            && !self.failed
        {
            crate::complain(&format!("the sign of life could not be written: {error}"));
        }
        self.failed = signed.is_err();
    }

    /// To be called when no poll will follow.
    fn stopping(&mut self, now: Stamp) {
        let last = self.sign_of_life(now).last();
        self.sign(&last);
        if let Some(notify) = &self.notify {
            let _ = notify.stopping();
        }
    }
}

/// Time that reading what services held before may take: a start that waits longer looks like one that
/// failed.
const REMEMBERING: Duration = Duration::from_secs(5);
/// How long the end of a run waits for what is still to be recorded and shown.
pub(crate) const PARTING: Duration = Duration::from_secs(6);
/// Exit status of a run of which not all is on record.
const NOT_RECORDED: u8 = 3;

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
