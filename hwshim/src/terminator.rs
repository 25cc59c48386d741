//! A TLS server before one that speaks TCP: it shakes hands, with signatures that may come from an
//! accelerator, and passes bytes on both ways.
//!
//! What passes is not looked at, so whatever runs over TCP runs over this; nothing is added either,
//! and a backend does not learn who its client is. When to stop, and when to load certificates
//! again, is told from outside.
//!
//! ```text
//!              limit reached: waits in the backlog
//!    accept -------------------> handshake -> connect to backend -> relay -> ended
//!      |                            |                |                |
//!      | told to drain              | timeout        | timeout        | idle
//!      v                            v                v                v
//!    no more; the rest has until the drain's deadline, then it is cut off
//! ```

mod certificates;
mod counts;
mod page;
mod relay;

pub use self::certificates::{CertificateError, Certificates, ExposedKey, Files, Pairs};
pub use self::counts::Connections;
use self::counts::Counts;
use crate::acceptor::{self, Handshakes, OffloadAcceptor};
use crate::clock::{Clock as _, Instant, SystemClock};
use rustls::ServerConfig;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinSet;

/// How long to leave a system alone that has no descriptor for another connection, as some connection has
/// to end first; and for those to end that are about to.
const PAUSE: Duration = Duration::from_millis(100);
/// Lookups of the backend's name at once, each with a thread; others wait. Enough for any server that
/// answers, and few enough for the system if none does.
const LOOKUPS_MAX: usize = 64;

/// What a terminator does, and what clients may take of time and memory.
#[derive(Clone, Debug)]
pub struct Options {
    /// Host and port of the backend.
    pub backend: String,
    /// Connections at once; others wait in the backlog.
    pub connections_max: usize,
    /// Connections that the system keeps waiting.
    pub backlog: u32,
    /// For a whole handshake.
    pub handshake_timeout: Duration,
    /// For connecting to the backend.
    pub connect_timeout: Duration,
    /// Without a byte either way.
    pub idle_timeout: Duration,
    /// For connections to end in when no more are accepted.
    pub drain_timeout: Duration,
}

/// What a terminator is to do.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Phase {
    /// Accept connections.
    Serving,
    /// Accept no more, and let those that are there end.
    Draining,
    /// End.
    Ending,
}

/// A TLS server that listens.
#[derive(Debug)]
pub struct Terminator {
    listener: TcpListener,
    shared: Arc<Shared>,
}

/// What connections and whoever watches them share.
#[derive(Debug)]
struct Shared {
    acceptor: OffloadAcceptor,
    options: Options,
    counts: Counts,
    began: Instant,
    lookups: Arc<Semaphore>,
}

/// Shows what a terminator does, also when it has ended.
#[derive(Clone, Debug)]
pub struct Watch(Arc<Shared>);

impl Terminator {
    /// Listens on `listen`. To be called on a tokio runtime.
    ///
    /// # Errors
    ///
    /// The system's, if it does not let us listen there.
    pub fn listen(
        listen: SocketAddr,
        config: Arc<ServerConfig>,
        options: Options,
    ) -> io::Result<Self> {
        let socket = match listen {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        // A terminator that is started again must not wait for connections of the last one.
        socket.set_reuseaddr(true)?;
        socket.bind(listen)?;
        let listener = socket.listen(options.backlog)?;
        let limits = acceptor::Options {
            timeout: options.handshake_timeout,
            ..acceptor::Options::default()
        };
        let shared = Shared {
            acceptor: OffloadAcceptor::new(config, limits),
            options,
            counts: Counts::default(),
            began: SystemClock.now(),
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
        };
        Ok(Self {
            listener,
            shared: Arc::new(shared),
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// What it does, to be read at any time.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch(Arc::clone(&self.shared))
    }

    /// Serves until it is told to end, or to drain and has. Returns how many connections it cut
    /// off, but for those on which nothing was under way: the backend spoke last, and that was some time
    /// ago. If whoever tells is gone, it ends.
    pub async fn serve(self, mut told: watch::Receiver<Phase>) -> usize {
        let Self { listener, shared } = self;
        let mut connections = JoinSet::new();
        let (end, ending) = watch::channel(false);
        loop {
            let room = connections.len() < shared.options.connections_max;
            tokio::select! {
                () = reaches(&mut told, Phase::Draining) => break,
                Some(_ended) = connections.join_next() => {}
                accepted = listener.accept(), if room => match accepted {
                    Ok((client, _)) => {
                        connections.spawn(serve(Arc::clone(&shared), client, ending.clone()));
                    }
                    Err(error) => not_accepted(&shared, &error).await,
                },
            }
        }
        // Whoever comes now is told at once that nobody is there.
        drop(listener);
        let all_end = async { while connections.join_next().await.is_some() {} };
        tokio::select! {
            () = all_end => {}
            () = tokio::time::sleep(shared.options.drain_timeout) => {}
            () = reaches(&mut told, Phase::Ending) => {}
        }
        // Those on which nothing is under way end by themselves, which takes them no time.
        let _ = end.send(true);
        while let Ok(Some(_)) = tokio::time::timeout(PAUSE, connections.join_next()).await {}
        let cut_off = connections.len();
        connections.shutdown().await;
        cut_off
    }
}

async fn reaches(told: &mut watch::Receiver<Phase>, wanted: Phase) {
    // An error is that nobody is left to tell, which is told in the same way.
    let _ = told.wait_for(|phase| *phase >= wanted).await;
}

/// A client that went before it was accepted is nobody's trouble; a system without descriptors is.
async fn not_accepted(shared: &Shared, error: &io::Error) {
    let gone = [
        io::ErrorKind::ConnectionAborted,
        io::ErrorKind::ConnectionReset,
        io::ErrorKind::Interrupted,
    ];
    if !gone.contains(&error.kind()) {
        shared
            .counts
            .not_accepted(format!("connections cannot be accepted: {error}"));
        tokio::time::sleep(PAUSE).await;
    }
}

async fn serve(shared: Arc<Shared>, client: TcpStream, ending: watch::Receiver<bool>) {
    let Shared {
        acceptor,
        options,
        counts,
        began: _,
        lookups,
    } = &*shared;
    let _active = counts.accepted();
    // Records are written whole, and a handshake has nothing to gain by waiting for more.
    let _ = client.set_nodelay(true);
    let client = match acceptor.accept(client).await {
        Ok(client) => client,
        // The acceptor has counted it, and told the client.
        Err(error) => return counts.not_shaken(error.to_string()),
    };
    // From here on it must not take a failure for an end.
    let client = relay::Client::from(client);
    match connect(options, lookups).await {
        Ok(backend) => {
            counts.ended(&relay::relay(client, backend, options.idle_timeout, ending).await);
        }
        Err(error) => counts.unreachable(format!(
            "the backend {} cannot be reached: {error}",
            options.backend
        )),
    }
}

async fn connect(options: &Options, lookups: &Arc<Semaphore>) -> io::Result<TcpStream> {
    let connecting = async {
        let addresses = look_up(&options.backend, lookups).await?;
        TcpStream::connect(&addresses[..]).await
    };
    let backend = tokio::time::timeout(options.connect_timeout, connecting)
        .await
        .map_err(|_| {
            let text = format!("no answer in {:?}", options.connect_timeout);
            io::Error::new(io::ErrorKind::TimedOut, text)
        })??;
    let _ = backend.set_nodelay(true);
    Ok(backend)
}

/// Finds out where `backend` is, on a thread if it has a name. Not on one of the runtime's pool, which
/// panics where the system gives it none.
async fn look_up(backend: &str, lookups: &Arc<Semaphore>) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = backend.parse() {
        return Ok(vec![address]);
    }
    // Kept until the thread ends, as nobody can end a lookup before.
    let permit = Arc::clone(lookups).acquire_owned().await;
    let permit = permit.map_err(io::Error::other)?;
    let backend = backend.to_owned();
    let (tell, told) = oneshot::channel();
    let look = move || {
        // Whoever has given up meanwhile wants none.
        let _ = tell.send(backend.to_socket_addrs().map(Vec::from_iter));
        drop(permit);
    };
    let thread = std::thread::Builder::new().name("hwshim-lookup".to_owned());
    thread.spawn(look).map_err(|error| {
        let text = format!("no thread can be started to look up its name: {error}");
        io::Error::new(error.kind(), text)
    })?;
    told.await.map_err(io::Error::other)?
}

impl Watch {
    /// What became of connections so far.
    #[must_use]
    pub fn connections(&self) -> Connections {
        self.0.counts.read()
    }

    /// What became of handshakes so far.
    #[must_use]
    pub fn handshakes(&self) -> Handshakes {
        self.0.acceptor.handshakes()
    }

    /// Why the last handshake failed of those that did: of a client that went away as of one that speaks
    /// no TLS.
    #[must_use]
    pub fn last_failure(&self) -> Option<String> {
        self.0.counts.last_failure()
    }

    /// What an operator should know that has happened since this was last asked.
    #[must_use]
    pub fn take_trouble(&self) -> Option<String> {
        self.0.counts.take_trouble()
    }
}
