//! A stand-in for the host service of a card's vendor: a process that clients ask, and that goes
//! wrong as such processes do.
//!
//! Its descriptors, threads, ports and memory are real, so that whoever watches the host sees in
//! `/proc` what would be there. It drives no card. What a simulated card does wrong is not here
//! either.
//!
//! | module | what |
//! |---|---|
//! | [`fault`] | what can go wrong, with its parameters |
//! | [`quantity`] | bytes, objects, and rates of them |
//! | `state` | sessions, leaks and limits, as a value that is told the time |
//! | `hoard` | what a leak holds |
//! | `ledger` | what it says of itself, as `stattree` and `enquiry` |
//! | `protocol` | what clients say |
//! | `control` | what whoever controls it says |
//! | [`presence`] | whether there is a card |
//! | `workers` | the threads that do requests |
//! | `lines`, `server` | connections, and the loop |

pub(crate) mod control;
pub mod fault;
mod hoard;
mod ledger;
mod lines;
pub mod presence;
mod protocol;
pub mod quantity;
mod server;
mod state;
mod workers;

pub use fault::ServiceFault;
pub use presence::CardLink;
pub use server::FrontError;

use card_device::clock::Pace;
use card_device::server::{BindError, Listener};
use clap::Args;
use server::{Front, Server};
use state::{Limits, State};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use workers::Workers;

/// What kind of service to play, and where. Also the arguments that say so.
#[derive(Args, Clone, Debug)]
pub struct ServiceConfig {
    /// Socket for clients, for owner and group
    #[arg(long, value_name = "PATH")]
    pub socket: PathBuf,

    /// Socket for whoever injects faults, for the owner alone
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,

    /// TCP port of 127.0.0.1 for clients as well; 0 takes a free one
    #[arg(long, value_name = "PORT")]
    pub tcp: Option<u16>,

    /// Card: present, absent, or vfio-user:PATH, there as long as somebody listens on that socket
    #[arg(long, value_name = "CARD", default_value = "present")]
    pub card: CardLink,

    /// Threads that do what clients ask of the card
    #[arg(long, value_name = "N", default_value = "4")]
    pub workers: NonZeroUsize,

    /// Serial number of card and service
    #[arg(long, value_name = "SERIAL", default_value = "SIM-0001", value_parser = crate::parse_serial)]
    pub serial: String,

    /// How many times as fast as the host's its time passes, 0.1 to 1000: a leak of 1MiB/s leaks
    /// as many MiB in a second of the host
    #[arg(long, value_name = "X", default_value = "1", value_parser = crate::parse_speed)]
    pub speed: f64,

    /// Fault that is on from the start, one of those below; can be given more than once
    #[arg(long, value_name = "NAME[=VALUE][,PARAMETER=VALUE]")]
    pub fault: Vec<ServiceFault>,

    /// Memory of process and kernel that all leaks together may hold
    #[arg(long, value_name = "BYTES", default_value = "256MiB", value_parser = quantity::parse_bytes)]
    pub leak_bytes_max: u64,

    /// Descriptors, threads and ports that all leaks together may hold
    #[arg(long, value_name = "N", default_value = "1000")]
    pub leak_objects_max: u64,
}

/// The service cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// Clients cannot connect.
    #[error(transparent)]
    Front(#[from] FrontError),
    /// Whoever controls it cannot connect.
    #[error(transparent)]
    Control(#[from] BindError),
    /// Threads or descriptors could not be had.
    #[error("the workers could not be started")]
    Workers(#[source] io::Error),
    /// Serving came to an end by itself.
    #[error("the service cannot go on")]
    Serve(#[source] io::Error),
}

/// A service that listens, and serves once it is asked to.
#[derive(Debug)]
pub struct Service {
    server: Server,
}

impl Service {
    /// Listens on all sockets. Clients can connect from now on.
    ///
    /// # Errors
    ///
    /// See [`ServiceError`].
    pub fn listen(config: &ServiceConfig) -> Result<Self, ServiceError> {
        let pace = Pace::start(config.speed);
        let now = pace.now();
        let limits = Limits {
            bytes: config.leak_bytes_max,
            objects: config.leak_objects_max,
        };
        let mut state = State::new(config.serial.clone(), config.card.clone(), limits, now);
        for fault in &config.fault {
            state.inject(*fault, now);
        }
        let tcp = config
            .tcp
            .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let front = Front::listen(config.socket.clone(), tcp)?;
        let control = config
            .control
            .as_deref()
            .map(Listener::bind_for_owner)
            .transpose()?;
        let workers = Workers::start(config.workers).map_err(ServiceError::Workers)?;
        Ok(Self {
            server: Server::new(state, pace, workers, front, control),
        })
    }

    /// The socket for clients.
    #[must_use]
    pub fn socket(&self) -> &Path {
        self.server.front.path()
    }

    /// The socket for whoever controls it.
    #[must_use]
    pub fn control(&self) -> Option<&Path> {
        self.server.control.as_ref().map(Listener::path)
    }

    /// The TCP port for clients.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.server.front.tcp_address()
    }

    /// Serves until `stop` becomes readable: an eventfd, a pipe, a socket. The files of its
    /// sockets are gone when this returns, and so is everything that has leaked.
    ///
    /// # Errors
    ///
    /// See [`ServiceError`].
    pub fn serve(self, stop: BorrowedFd<'_>) -> Result<(), ServiceError> {
        self.server.serve(stop).map_err(ServiceError::Serve)
    }
}
