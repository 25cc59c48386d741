//! Clients of the server that is measured. They believe its certificate and nothing else, verify its
//! signature, and are content only with the handshake that was asked for.

use super::contender::{self, Connection, Contender};
use super::{Case, Kind, Version};
use hwshim::clock::{Clock, Instant, SystemClock, nanos};
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{CipherSuite, ClientConfig, HandshakeKind, RootCertStore, version};
use std::error::Error;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, duplex};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;

/// Whom the certificates are for.
pub(super) const NAME: &str = "bench.hwshim.test";

/// As much as a kernel's socket takes at once, and more than any flight has.
const PIPE_LEN: usize = 16 * 1024;

/// The clients of one contender. Each has its own sessions, and keeps them from window to window.
pub(super) struct Clients(Vec<TlsConnector>);

/// What clients have seen in a window.
#[derive(Default)]
pub(super) struct Seen {
    /// From the ClientHello to the first byte of data.
    pub(super) latency_ns: Vec<u64>,
    pub(super) failed: u64,
    /// Of the first that failed.
    pub(super) error: Option<String>,
}

impl Clients {
    /// As many as `case` has at once.
    pub(super) fn new(case: Case) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let client = |_| Ok(TlsConnector::from(Arc::new(client_config(case)?)));
        (0..case.concurrency)
            .map(client)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Has each do one handshake after the other until `end`, and one at least.
    pub(super) async fn run(
        &self,
        contender: &Contender,
        server: &mpsc::UnboundedSender<Connection>,
        case: Case,
        end: Instant,
    ) -> Seen {
        let Self(connectors) = self;
        let mut clients = tokio::task::JoinSet::new();
        let mut seen = Seen::default();
        for connector in connectors {
            // The acceptor is found before, so that nothing of the contender is borrowed.
            let connect = contender.connect(case.key);
            let (connector, server) = (connector.clone(), server.clone());
            clients.spawn(async move {
                one_after_the_other(&connector, connect, &server, case, end).await
            });
        }
        while let Some(joined) = clients.join_next().await {
            match joined {
                Ok(one) => seen.add(one),
                Err(error) => seen.fail(error.to_string()),
            }
        }
        seen
    }
}

impl Seen {
    fn add(&mut self, other: Self) {
        let Self {
            latency_ns,
            failed,
            error,
        } = other;
        self.latency_ns.extend(latency_ns);
        self.failed += failed;
        self.error = self.error.take().or(error);
    }

    fn fail(&mut self, error: String) {
        self.failed += 1;
        self.error.get_or_insert(error);
    }
}

async fn one_after_the_other(
    connector: &TlsConnector,
    connect: contender::Connect,
    server: &mpsc::UnboundedSender<Connection>,
    case: Case,
    end: Instant,
) -> Seen {
    let clock = SystemClock;
    let mut seen = Seen::default();
    // The first of all has no session yet to go on with, in the window that is not counted.
    let mut begun = clock.now();
    loop {
        match handshake(connector, &connect, server, case).await {
            Ok(()) => {
                let now = clock.now();
                seen.latency_ns.push(nanos(now.since(begun)));
                begun = now;
            }
            Err(error) => {
                seen.fail(error.to_string());
                begun = clock.now();
                // Who fails at once would otherwise keep everybody else from their turn.
                tokio::task::yield_now().await;
            }
        }
        if begun >= end {
            return seen;
        }
    }
}

async fn handshake(
    connector: &TlsConnector,
    connect: &contender::Connect,
    server: &mpsc::UnboundedSender<Connection>,
    case: Case,
) -> io::Result<()> {
    let (ours, theirs) = duplex(PIPE_LEN);
    let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
    let sent = server.send(connect.connection(theirs));
    sent.map_err(|_| io::Error::other("the server has ended"))?;
    let mut stream = connector.connect(name, ours).await?;
    let mut byte = [0];
    // Sessions to go on with come before it.
    stream.read_exact(&mut byte).await?;
    let kind = stream.get_ref().1.handshake_kind();
    let asked = match case.kind {
        Kind::Full => HandshakeKind::Full,
        Kind::Resumed => HandshakeKind::Resumed,
    };
    if kind == Some(asked) {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "a {} handshake was asked for, and it was {kind:?}",
        case.kind.name()
    )))
}

/// Browsers offer AES-128-GCM with SHA-256 first, and rustls AES-256-GCM with SHA-384, which takes longer
/// where a processor has instructions for the other hash.
const fn is_first_with_browsers(suite: CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
    )
}

fn client_config(case: Case) -> Result<ClientConfig, rustls::Error> {
    // The same for every contender; AWS-LC's takes less of a machine that both sides share.
    #[cfg(feature = "aws-lc-rs")]
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    #[cfg(not(feature = "aws-lc-rs"))]
    let mut provider = rustls::crypto::ring::default_provider();
    provider
        .cipher_suites
        .sort_by_key(|suite| !is_first_with_browsers(suite.suite()));
    let mut roots = RootCertStore::empty();
    roots.add(contender::certificate(case.key))?;
    let versions = match case.version {
        Version::Tls12 => [&version::TLS12],
        Version::Tls13 => [&version::TLS13],
    };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&versions)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = match case.kind {
        Kind::Full => Resumption::disabled(),
        Kind::Resumed => Resumption::in_memory_sessions(8),
    };
    Ok(config)
}
