//! rustls with ring and nothing of ours, configured as `hwshim serve-tls` is, which sends back what it
//! is sent: the measure for what the terminator makes of a client.

use crate::tls_stage::authority::Identity;
use anyhow::Context as _;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// As `--handshake-timeout`, though for each read.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Listens on loopback, and returns where. It ends with the process.
pub(super) fn start(identity: &Identity) -> anyhow::Result<SocketAddr> {
    let config = Arc::new(config(identity)?);
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    thread::Builder::new().spawn(move || {
        for stream in listener.incoming().flatten() {
            let config = Arc::clone(&config);
            // What a client did wrong is what the client is told.
            let _ = thread::Builder::new().spawn(move || echo(config, stream));
        }
    })?;
    Ok(address)
}

fn config(identity: &Identity) -> anyhow::Result<ServerConfig> {
    let certificates = CertificateDer::pem_file_iter(&identity.certificate)?;
    let certificates = certificates.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(&identity.key)?;
    let provider = Arc::new(ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .context("the certificate cannot be used")?;
    config.ticketer = ring::Ticketer::new()?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn echo(config: Arc<ServerConfig>, stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_nodelay(true)?;
    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, stream);
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let len = stream.read(&mut buffer)?;
        if len == 0 {
            stream.conn.send_close_notify();
            return stream.flush();
        }
        stream.write_all(&buffer[..len])?;
        stream.flush()?;
    }
}
