//! A TLS server over a scripted accelerator, and clients that believe its certificate and nothing
//! else.

use crate::certificates::{Identity, Kind, NAME, identity};
use crate::scripted::{Behaviour, Script, Scripted};
use hwshim::acceptor::{Handshakes, OffloadAcceptor, Options};
use hwshim::provider::Provider;
use hwshim::router::breaker::{Limits, State};
use hwshim::router::core::Offload;
use hwshim::router::{self, Router};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ResolvesServerCert;
use rustls::{
    ClientConfig, ConfigBuilder, RootCertStore, ServerConfig, SupportedProtocolVersion,
    WantsVerifier, version,
};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsConnector, client, server};

/// Far longer than anything takes; only a mistake meets it.
pub(crate) const PATIENT: Duration = Duration::from_secs(60);

pub(crate) const TLS12: &[&SupportedProtocolVersion] = &[&version::TLS12];
pub(crate) const TLS13: &[&SupportedProtocolVersion] = &[&version::TLS13];

/// A router that offloads whatever it can to an accelerator that does as `script` says.
pub(crate) fn router(script: &Script, timeout: Duration) -> Router {
    router_with(script, timeout, Offload::EVERYTHING)
}

pub(crate) fn router_with(script: &Script, timeout: Duration, offload: Offload) -> Router {
    let options = router::core::Options {
        timeout,
        limits: Limits {
            // As often as it is given up, it is tried again: faults are to be met, not avoided.
            backoff: Duration::from_millis(5),
            backoff_max: Duration::from_millis(5),
            ..Limits::default()
        },
        offload,
        // Whatever machine this is, its cores are not what is tested.
        cores: 1,
        ..router::core::Options::default()
    };
    Router::start(vec![Box::new(Scripted::new(script.clone()))], options).unwrap()
}

/// A server under test.
pub(crate) struct Server {
    pub(crate) acceptor: OffloadAcceptor,
    pub(crate) router: Router,
    pub(crate) script: Script,
}

impl Server {
    /// One that has `kind` of certificate, behind an honest accelerator.
    pub(crate) async fn honest(kind: Kind) -> Self {
        Self::start(Behaviour::Honest, |provider| {
            config(provider, &identity(kind))
        })
        .await
    }

    pub(crate) async fn start(
        behaviour: Behaviour,
        config: impl FnOnce(&Provider) -> ServerConfig,
    ) -> Self {
        let script = Script::new(behaviour);
        let router = router(&script, PATIENT);
        Self::over(router, script, Options::default(), config).await
    }

    /// One whose provider leaves to `base` what is not RSA.
    pub(crate) async fn over_base(
        base: CryptoProvider,
        config: impl FnOnce(&Provider) -> ServerConfig,
    ) -> Self {
        let script = Script::new(Behaviour::Honest);
        let router = router(&script, PATIENT);
        Self::over_base_with(base, router, script, config).await
    }

    pub(crate) async fn over_base_with(
        base: CryptoProvider,
        router: Router,
        script: Script,
        config: impl FnOnce(&Provider) -> ServerConfig,
    ) -> Self {
        let provider = Provider::over(base, router);
        Self::of(&provider, script, config(&provider), Options::default()).await
    }

    pub(crate) async fn over(
        router: Router,
        script: Script,
        options: Options,
        config: impl FnOnce(&Provider) -> ServerConfig,
    ) -> Self {
        let provider = Provider::new(router);
        Self::of(&provider, script, config(&provider), options).await
    }

    async fn of(
        provider: &Provider,
        script: Script,
        config: ServerConfig,
        options: Options,
    ) -> Self {
        let server = Self {
            acceptor: OffloadAcceptor::new(Arc::new(config), options),
            router: provider.router().clone(),
            script,
        };
        server.wait_for_accelerator().await;
        server
    }

    pub(crate) async fn wait_for_accelerator(&self) {
        let in_use = || matches!(self.router.status()[0].breaker, State::Closed { .. });
        let waiting = async {
            while !in_use() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENT, waiting).await.unwrap();
    }

    /// A handshake, and data both ways.
    pub(crate) async fn serve(&self, client: &Arc<ClientConfig>) -> Connection {
        let connection = self.try_serve(client).await.unwrap();
        connection.exchange().await
    }

    pub(crate) async fn try_serve(&self, client: &Arc<ClientConfig>) -> io::Result<Connection> {
        let (ours, theirs) = duplex(4096);
        let connector = TlsConnector::from(Arc::clone(client));
        let (server, client) = tokio::join!(
            self.acceptor.accept(theirs),
            connector.connect(server_name(), ours)
        );
        Ok(Connection {
            server: server?,
            client: client?,
        })
    }

    /// Signatures so far: of the router, of software, of the router in vain.
    pub(crate) fn signatures(&self) -> (u64, u64, u64) {
        let Handshakes {
            offloaded,
            software,
            mismatched,
            ..
        } = self.acceptor.handshakes();
        (offloaded, software, mismatched)
    }
}

pub(crate) fn server_name() -> ServerName<'static> {
    ServerName::try_from(NAME).unwrap()
}

/// Both ends of a connection.
pub(crate) struct Connection {
    pub(crate) server: server::TlsStream<DuplexStream>,
    pub(crate) client: client::TlsStream<DuplexStream>,
}

impl Connection {
    /// Sends data both ways, which shows that both ends have the same keys.
    pub(crate) async fn exchange(mut self) -> Self {
        tokio::join!(
            send(&mut self.client, b"question"),
            expect(&mut self.server, b"question")
        );
        tokio::join!(
            send(&mut self.server, b"answer"),
            expect(&mut self.client, b"answer")
        );
        self
    }
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
}

async fn expect(stream: &mut (impl AsyncRead + Unpin), bytes: &[u8]) {
    let mut received = vec![0; bytes.len()];
    stream.read_exact(&mut received).await.unwrap();
    assert_eq!(received, bytes);
}

pub(crate) fn config(provider: &Provider, identity: &Identity) -> ServerConfig {
    builder(provider)
        .with_no_client_auth()
        .with_single_cert(vec![identity.certificate.clone()], identity.key.clone_key())
        .unwrap()
}

pub(crate) fn resolving(
    provider: &Provider,
    resolver: Arc<dyn ResolvesServerCert>,
) -> ServerConfig {
    builder(provider)
        .with_no_client_auth()
        .with_cert_resolver(resolver)
}

pub(crate) fn builder(provider: &Provider) -> ConfigBuilder<ServerConfig, WantsVerifier> {
    ServerConfig::builder_with_provider(provider.rustls())
        .with_safe_default_protocol_versions()
        .unwrap()
}

/// A client that speaks `versions`.
pub(crate) fn client(
    versions: &[&'static SupportedProtocolVersion],
    trusted: &[CertificateDer<'static>],
) -> Arc<ClientConfig> {
    Arc::new(client_with(ring::default_provider(), versions, trusted))
}

pub(crate) fn client_with(
    provider: CryptoProvider,
    versions: &[&'static SupportedProtocolVersion],
    trusted: &[CertificateDer<'static>],
) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots(trusted))
        .with_no_client_auth()
}

pub(crate) fn roots(trusted: &[CertificateDer<'static>]) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for certificate in trusted {
        roots.add(certificate.clone()).unwrap();
    }
    roots
}

/// A client of a server with `kind` of certificate.
pub(crate) fn client_of(
    kind: Kind,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    client(versions, &[identity(kind).certificate])
}
