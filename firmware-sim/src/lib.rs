//! A simulated PCI crypto accelerator card in a process of its own.
//!
//! [`run`] makes a card and serves it on a vfio-user socket until it is told to stop;
//! [`RunConfig`] says what kind of card. The card itself is `card-device`'s, its cryptography is
//! in [`engine`]. [`service`] plays the host service that a card's vendor would have.

pub mod engine;
pub mod fault;
pub mod listing;
mod nearest;
pub mod service;

use card_device::firmware;
use card_device::server::{BindError, Listener, ServeError};
use card_device::{Card, CardConfig, CardConfigError, Engine};
use clap::{Args, ValueEnum};
use engine::{Memoised, RustCrypto};
use fault::led::Profile;
use fault::{Injection, Script};
use std::io;
use std::num::{NonZeroU16, NonZeroUsize};
use std::os::fd::{BorrowedFd, OwnedFd};
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

    /// Seed of everything random about the faults
    #[arg(long, value_name = "N", default_value = "1")]
    pub seed: u64,

    /// How the card's light shines
    #[arg(long, value_name = "PROFILE", default_value = "steady")]
    pub led: Profile,
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
}

impl SimulatedCard {
    /// Makes the card and listens on its socket. Clients can connect from now on.
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
        };
        let card = make_card(config, &card_config(config, engine_count)?, engine)?;
        Ok(Self {
            card,
            listener: Listener::bind(&config.socket)?,
            serial: config.serial.clone(),
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

    /// Serves clients, one after the other, until `stop` becomes readable: an eventfd, a pipe, a
    /// socket. The socket file is gone when this returns.
    ///
    /// # Errors
    ///
    /// See [`RunError`].
    pub fn serve(self, stop: BorrowedFd<'_>) -> Result<(), RunError> {
        let Self {
            card,
            listener,
            serial: _,
        } = self;
        Ok(firmware::run(card, &listener, stop)?)
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

/// An honest card; with a fault or a light that blinks, one that an interposer stands before.
fn make_card(
    run: &RunConfig,
    config: &CardConfig,
    engine: Arc<dyn Engine>,
) -> Result<Card, CardConfigError> {
    if run.faults.is_empty() && run.led == Profile::Steady {
        return Card::new(config, engine);
    }
    let mut script = Script::new(run.seed).with_led_profile(run.led);
    for injection in &run.faults {
        script.add(injection.clone());
    }
    fault::beset(config, engine, script.shared())
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
