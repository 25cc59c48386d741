//! Accepts TLS connections on tokio, and lets nothing wait for a signature but the handshake that
//! needs it.
//!
//! In place of `tokio_rustls::TlsAcceptor`, with what comes out the same. Up to the server's first
//! flight, in which the signature is, bytes pass through here; tokio-rustls has the connection
//! from there on.
//!
//! ```text
//!            ClientHello            no signature, or by software
//!   accept ---------------> step -----------------------------------> flight ---> tokio-rustls
//!                           ^  |                                        ^
//!         HelloRetryRequest |  | the accelerator is worth it            |
//!         sent, another     |  v                                        |
//!         ClientHello ------'  given up; signature ---> the same step --'
//!                              from the router          taken again
//! ```
//!
//! How a step is taken is an engine's matter: twice, as drawn, if the configuration has a
//! [`Provider`](crate::provider::Provider) of ours, else once, on a thread that may wait.

mod counts;
mod engine;
mod flight;
mod pool;
mod replay;

pub use self::counts::Handshakes;
use self::counts::{Counts, UnderWay};
use self::pool::Pool;
use self::replay::Replay;
use crate::provider::Offload;
use rustls::{ServerConfig, ServerConnection};
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// What a client may take, of time and of memory.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// For a whole handshake. Ten seconds: a client on a slow line needs three, and one that sends
    /// a byte now and then must not hold a connection for ever.
    pub timeout: Duration,
    /// For a ClientHello, with the records around it, in bytes. 64 KiB, which is what rustls takes;
    /// browsers send two at most, so that much less does as well.
    pub client_hello_len_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            client_hello_len_max: replay::HISTORY_MAX,
        }
    }
}

/// Accepts TLS connections whose signatures may come from an accelerator.
///
/// Cheap to clone; clones count together.
#[derive(Clone)]
pub struct OffloadAcceptor {
    config: Arc<ServerConfig>,
    handover: TlsAcceptor,
    options: Options,
    counts: Arc<Counts>,
    /// If steps can be repeated.
    provider: Option<Weak<Offload>>,
}

impl From<Arc<ServerConfig>> for OffloadAcceptor {
    fn from(config: Arc<ServerConfig>) -> Self {
        Self::new(config, Options::default())
    }
}

impl OffloadAcceptor {
    /// Accepts connections as `config` says.
    #[must_use]
    pub fn new(config: Arc<ServerConfig>, options: Options) -> Self {
        Self {
            handover: TlsAcceptor::from(Arc::clone(&config)),
            provider: replay::provider_of(&config),
            config,
            options,
            counts: Arc::default(),
        }
    }

    /// Performs a handshake with the client behind `io`. Dropping the future gives the handshake
    /// up, and with it the signature that it may be waiting for.
    ///
    /// # Errors
    ///
    /// As for `tokio_rustls::TlsAcceptor`; [`TimedOut`](io::ErrorKind::TimedOut) after
    /// [`Options::timeout`]. An accelerator's failure is never one of them.
    pub async fn accept<IO>(&self, io: IO) -> io::Result<TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let under_way = UnderWay::begin(&self.counts);
        let handshake = self.handshake(io);
        let outcome = match tokio::time::timeout(self.options.timeout, handshake).await {
            Ok(outcome) => outcome,
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!(
                    "the TLS handshake was not over after {:?}",
                    self.options.timeout
                ),
            )),
        };
        under_way.end(&outcome);
        outcome
    }

    async fn handshake<IO>(&self, mut io: IO) -> io::Result<TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let connection = self.first_flight(&mut io).await?;
        self.handover
            .accept_with(io, |made| *made = *connection)
            .await
    }

    async fn first_flight<IO>(&self, io: &mut IO) -> io::Result<Box<ServerConnection>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let config = &self.config;
        let len_max = self.options.client_hello_len_max;
        match &self.provider {
            Some(provider) => {
                let engine = Replay::new(config, &self.counts, provider);
                flight::first(io, engine, config, len_max).await
            }
            None => flight::first(io, Pool::new(&self.counts), config, len_max).await,
        }
    }

    /// What became of the handshakes so far.
    #[must_use]
    pub fn handshakes(&self) -> Handshakes {
        self.counts.read()
    }

    /// The configuration.
    #[must_use]
    pub const fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }
}

impl std::fmt::Debug for OffloadAcceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OffloadAcceptor")
            .field("options", &self.options)
            .field("replays", &self.provider.is_some())
            .field("handshakes", &self.handshakes())
            .finish_non_exhaustive()
    }
}
