//! A simulated PCI crypto accelerator card in a process of its own.
//!
//! [`run`] makes a card and serves it on a vfio-user socket until it is told to stop;
//! [`RunConfig`] says what kind of card. The card itself is `card-device`'s, its cryptography is
//! in [`engine`], its lies are in [`fault`], stories of them in [`scenario`], and who tells it to
//! lie while it runs talks to [`control`]. [`service`] plays the host service that a card's vendor
//! would have, and the [`director`] has it play its part of a story.

pub mod control;
pub mod director;
pub mod engine;
pub mod fault;
pub mod listing;
mod nearest;
pub mod scenario;
pub mod service;

use card_device::firmware;
use card_device::server::{BindError, Listener, ServeError};
use card_device::{Card, CardConfig, CardConfigError, Engine};
use clap::{Args, ValueEnum};
use engine::{Memoised, MultiBuffer, RustCrypto};
use fault::led::Profile;
use fault::{Injection, Script, SharedScript};
use scenario::Scenario;
use std::io;
use std::num::{NonZeroU16, NonZeroUsize};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// What kind of card to simulate, and where. Also the arguments that say so.
#[derive(Args, Clone, Debug)]
pub struct RunConfig {
    /// Socket to listen on; drivers reach the card as vfio-user:PATH
    #[arg(long, value_name = "PATH")]
    pub socket: PathBuf,

    /// Engines, each a thread that executes requests [default: one per CPU]
    #[arg(long, value_name = "N")]
    pub engines: Option<NonZeroUsize>,

    /// What executes requests
    #[arg(long, value_name = "ENGINE", default_value = "rustcrypto")]
    pub engine: EngineKind,

    /// Largest queue size, in descriptors; a power of two
    #[arg(long, value_name = "N", default_value = "1024")]
    pub queue_size: NonZeroU16,

    /// Sessions that may be open at once
    #[arg(long, value_name = "N", default_value = "1024")]
    pub sessions_max: NonZeroUsize,

    /// Time between two heartbeats, in milliseconds
    #[arg(long, value_name = "MS", default_value = "500", value_parser = clap::value_parser!(u32).range(1..))]
    pub heartbeat_period: u32,

    /// Serial number, up to 20 characters of ASCII
    #[arg(long, value_name = "SERIAL", default_value = "SIM-0001", value_parser = parse_serial)]
    pub serial: String,

    /// A fault that the card has, from TIME on and for DURATION if given; repeatable.
    /// `firmware-sim faults` lists them
    #[arg(long = "fault", value_name = "NAME[=VALUE][@TIME[+DURATION]]")]
    pub faults: Vec<Injection>,

    /// A story to play: a name, of which `firmware-sim scenarios` lists some, or a TOML file
    #[arg(long, value_name = "NAME|FILE")]
    pub scenario: Option<Scenario>,

    /// Seed of everything random about the faults [default: the scenario's, or 1]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// How many times as fast as the host's the card's time passes, 0.1 to 1000. It is the
    /// scenario's time as well: its rates are as much faster
    #[arg(long, value_name = "X", default_value = "1", value_parser = parse_speed)]
    pub speed: f64,

    /// How the card's light shines [default: as in the scenario, or steady]
    #[arg(long, value_name = "PROFILE")]
    pub led: Option<Profile>,

    /// Take orders on this socket, or SOCKET.control: see `firmware-sim inject --help`. With a
    /// fault or a scenario, that is done anyway
    #[arg(long, value_name = "PATH", num_args = 0..=1)]
    pub control: Option<Option<PathBuf>>,
}

/// What executes requests.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum EngineKind {
    /// Honest cryptography
    #[default]
    #[value(name = "rustcrypto")]
    RustCrypto,
    /// The same, remembering each answer: for benchmarks of everything else
    Memoised,
    /// RSA signatures eight at a time, by Intel's crypto_mb where this host has it; a spare core
    /// is then a card. Use one engine for each spare core: --engines 1
    MultiBuffer,
}

/// The card cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// There is no such card.
    #[error("no such card can be simulated")]
    Card(#[from] CardConfigError),
    /// The socket cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Serving came to an end by itself.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The thread that takes orders could not be started.
    #[error("nobody could be set to take orders")]
    Control(#[source] io::Error),
    /// What the engine needs is not there.
    #[error("there can be no engine multi-buffer")]
    MultiBuffer(#[from] multi_buffer::LoadError),
    /// The operating system gave no random numbers.
    #[error("no random boot ID could be had")]
    Random(#[source] io::Error),
}

/// A card that listens, and serves once it is asked to.
#[derive(Debug)]
pub struct SimulatedCard {
    card: Card,
    listener: Listener,
    serial: String,
    speed: f64,
    orders: Option<Orders>,
}

/// Where orders come from, and whom they are for.
#[derive(Debug)]
struct Orders {
    listener: Listener,
    script: SharedScript,
}

impl SimulatedCard {
    /// Makes the card and listens on its sockets. Clients can connect from now on.
    ///
    /// # Errors
    ///
    /// See [`RunError`].
    pub fn listen(config: &RunConfig) -> Result<Self, RunError> {
        let engine_count = config
            .engines
            .or_else(|| thread::available_parallelism().ok())
            .map_or(1, NonZeroUsize::get);
        let engine: Arc<dyn Engine> = match config.engine {
            EngineKind::RustCrypto => Arc::new(RustCrypto),
            EngineKind::Memoised => Arc::new(Memoised::new(Arc::new(RustCrypto))),
            EngineKind::MultiBuffer => Arc::new(MultiBuffer::load()?),
        };
        let card_config = card_config(config, engine_count)?;
        let (card, script) = match config.script().map(Script::shared) {
            None => (Card::new(&card_config, engine)?, None),
            Some(script) => (
                fault::beset(&card_config, engine, Arc::clone(&script))?,
                Some(script),
            ),
        };
        let listener = Listener::bind(&config.socket)?;
        let orders = match (config.control_socket(), script) {
            (Some(path), Some(script)) => Some(Orders {
                listener: Listener::bind_for_owner(&path)?,
                script,
            }),
            _ => None,
        };
        Ok(Self {
            card,
            listener,
            serial: config.serial.clone(),
            speed: config.speed,
            orders,
        })
    }

    /// Its serial number.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        self.listener.path()
    }

    /// Where it takes orders, if it does.
    #[must_use]
    pub fn control(&self) -> Option<&Path> {
        self.orders.as_ref().map(|orders| orders.listener.path())
    }

    /// What it lies about, if it may.
    #[must_use]
    pub fn script(&self) -> Option<SharedScript> {
        self.orders
            .as_ref()
            .map(|orders| Arc::clone(&orders.script))
    }

    /// Serves clients, one after the other, until `stop` becomes readable: an eventfd, a pipe, a
    /// socket. The files of its sockets are gone when this returns.
    ///
    /// # Errors
    ///
    /// See [`RunError`].
    pub fn serve(self, stop: BorrowedFd<'_>) -> Result<(), RunError> {
        let Self {
            card,
            listener,
            serial: _,
            speed,
            orders,
        } = self;
        let Some(Orders {
            listener: control,
            script,
        }) = orders
        else {
            return Ok(firmware::run_at_speed(card, &listener, speed, stop)?);
        };
        // Whoever takes orders goes home with the card, whatever that has stopped for.
        let (over, running) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|errno| RunError::Control(errno.into()))?;
        thread::scope(|scope| {
            thread::Builder::new()
                .name("control".to_owned())
                .spawn_scoped(scope, || control::serve(&control, over.as_fd(), &script))
                .map_err(RunError::Control)?;
            let outcome = firmware::run_at_speed(card, &listener, speed, stop);
            drop(running);
            Ok(outcome?)
        })
    }
}

/// Simulates a card until `stop` becomes readable.
///
/// # Errors
///
/// See [`RunError`].
pub fn run(config: &RunConfig, stop: BorrowedFd<'_>) -> Result<(), RunError> {
    SimulatedCard::listen(config)?.serve(stop)
}

/// A descriptor that becomes readable when this process is asked to end, by SIGINT or SIGTERM.
///
/// # Errors
///
/// If the operating system gives no pipe or does not let signals be handled.
pub fn stop_on_signals() -> io::Result<OwnedFd> {
    let (stop, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
    }
    Ok(stop)
}

impl RunConfig {
    /// What the card lies about; `None` if nothing can ever make it lie.
    fn script(&self) -> Option<Script> {
        let Self {
            scenario,
            faults,
            seed,
            led,
            ..
        } = self;
        let light = led.unwrap_or_default();
        if self.control_socket().is_none() && light == Profile::Steady {
            return None;
        }
        let mut script = match scenario {
            Some(scenario) => scenario.script(seed.unwrap_or(scenario.seed)),
            None => Script::new(seed.unwrap_or(1)),
        };
        if let Some(led) = led {
            script = script.with_led_profile(*led);
        }
        for injection in faults {
            script.add(injection.clone());
        }
        Some(script)
    }

    /// Where orders are taken, if they are: an honest card that nobody asked anything else of is
    /// left alone.
    fn control_socket(&self) -> Option<PathBuf> {
        let is_beset = !self.faults.is_empty() || self.scenario.is_some();
        match &self.control {
            Some(Some(path)) => Some(path.clone()),
            None if !is_beset => None,
            Some(None) | None => {
                let mut path = self.socket.clone().into_os_string();
                path.push(".control");
                Some(path.into())
            }
        }
    }
}

fn card_config(config: &RunConfig, engine_count: usize) -> Result<CardConfig, RunError> {
    let mut card = CardConfig {
        queue_size: config.queue_size.get(),
        sessions_max: config.sessions_max.get(),
        engine_count,
        heartbeat_period: Duration::from_millis(config.heartbeat_period.into()),
        boot_id: boot_id()?,
        ..CardConfig::default()
    };
    card.identity.serial_number.clone_from(&config.serial);
    Ok(card)
}

/// Drawn anew for each start; neither zero nor all-ones, which other things read as.
fn boot_id() -> Result<u32, RunError> {
    let random = getrandom::u32().map_err(|error| RunError::Random(error.into()))?;
    Ok(random.clamp(1, u32::MAX - 1))
}

fn parse_serial(text: &str) -> Result<String, String> {
    const LEN_MAX: usize = 20;
    let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
    if (1..=LEN_MAX).contains(&text.len()) && printable {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "must be 1 to {LEN_MAX} printable ASCII characters without spaces"
        ))
    }
}

fn parse_speed(text: &str) -> Result<f64, String> {
    /// Slower, a heartbeat looks stopped; faster, nothing else of a host keeps up.
    const SPEEDS: std::ops::RangeInclusive<f64> = 0.1..=1000.0;
    let speed = text.parse().ok().filter(|speed| SPEEDS.contains(speed));
    speed.ok_or_else(|| "must be a number from 0.1 to 1000".to_owned())
}
