//! Clients that shake hands with a server, one connection after another, each verifying all there
//! is to verify, until they are told to stop.
//!
//! Nothing is resumed, so that each handshake has a signature. After it, eight bytes go to the
//! server and have to come back: both ends have the same keys.

use super::authority::NAME;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
};
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// A handshake that takes longer has failed: whatever a card does, software answers in a fraction.
const PATIENCE: Duration = Duration::from_secs(20);

/// A handshake that has ended.
#[derive(Debug)]
pub(crate) struct Handshake {
    /// When it ended, since the load began.
    pub(crate) ended: Duration,
    /// From before the TCP connection to after the client's Finished.
    pub(crate) took: Duration,
    /// Why it, or the bytes after it, failed.
    pub(crate) outcome: Result<(), String>,
}

/// A client that believes the authority at `trusted` and nobody else.
pub(crate) fn client(
    trusted: &Path,
    versions: &[&'static SupportedProtocolVersion],
) -> io::Result<Arc<ClientConfig>> {
    client_over(ring::default_provider(), trusted, versions)
}

/// The same, whose cryptography is `provider`'s.
pub(crate) fn client_over(
    provider: CryptoProvider,
    trusted: &Path,
    versions: &[&'static SupportedProtocolVersion],
) -> io::Result<Arc<ClientConfig>> {
    let authority = CertificateDer::from_pem_file(trusted).map_err(io::Error::other)?;
    let mut roots = RootCertStore::empty();
    roots.add(authority).map_err(io::Error::other)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Shakes hands, and returns the connection.
pub(crate) fn connect(
    server: SocketAddr,
    config: &Arc<ClientConfig>,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    finish(begin(server, config)?)
}

/// Sends a ClientHello, and waits for nothing.
pub(crate) fn begin(
    server: SocketAddr,
    config: &Arc<ClientConfig>,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let mut tcp = TcpStream::connect_timeout(&server, PATIENCE)?;
    tcp.set_nodelay(true)?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    tcp.set_write_timeout(Some(PATIENCE))?;
    let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
    let mut connection =
        ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    while connection.wants_write() {
        connection.write_tls(&mut tcp)?;
    }
    Ok(StreamOwned::new(connection, tcp))
}

/// Goes on from there until hands are shaken.
pub(crate) fn finish(
    mut begun: StreamOwned<ClientConnection, TcpStream>,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    while begun.conn.is_handshaking() || begun.conn.wants_write() {
        begun.conn.complete_io(&mut begun.sock)?;
    }
    Ok(begun)
}

/// Has `clients` at once shake hands with `server` until `each`, which sees every handshake that has
/// ended, has seen enough. Returns all of them.
pub(crate) fn run(
    server: SocketAddr,
    config: &Arc<ClientConfig>,
    clients: usize,
    mut each: impl FnMut(&Handshake) -> ControlFlow<()>,
) -> Vec<Handshake> {
    let began = now();
    let (stop, number) = (AtomicBool::new(false), AtomicU64::new(0));
    let (ended, handshakes) = mpsc::channel();
    let mut all = Vec::new();
    thread::scope(|scope| {
        for _ in 0..clients {
            let ended = ended.clone();
            let (stop, number) = (&stop, &number);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let number = number.fetch_add(1, Ordering::Relaxed);
                    // The receiver is there until all clients are gone.
                    let _ = ended.send(shake_hands(server, config, began, number));
                }
            });
        }
        drop(ended);
        for handshake in handshakes {
            if !stop.load(Ordering::Relaxed) && each(&handshake).is_break() {
                stop.store(true, Ordering::Relaxed);
            }
            all.push(handshake);
        }
    });
    all
}

fn shake_hands(
    server: SocketAddr,
    config: &Arc<ClientConfig>,
    began: Instant,
    number: u64,
) -> Handshake {
    let start = now();
    let connected = connect(server, config);
    let took = start.elapsed();
    let outcome = connected.and_then(|mut stream| {
        let sent = number.to_be_bytes();
        stream.write_all(&sent)?;
        let mut received = [0; 8];
        stream.read_exact(&mut received)?;
        if received != sent {
            return Err(io::Error::other("other bytes came back than were sent"));
        }
        stream.conn.send_close_notify();
        stream.flush()
    });
    Handshake {
        ended: began.elapsed(),
        took,
        outcome: outcome.map_err(|error| error.to_string()),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "measures real work and decides nothing by it"
)]
fn now() -> Instant {
    Instant::now()
}
