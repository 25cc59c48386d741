//! Every kind of handshake, with the signature made by an accelerator.

use crate::base::base;
use crate::certificates::{Identity, Kind, NAME, identity, identity_for};
use crate::scripted::{Behaviour, Script};
use crate::server::{
    PATIENT, Server, TLS12, TLS13, builder, client, client_of, client_with, config, resolving,
    roots, router_with, server_name,
};
use hwshim::acceptor::Options;
use hwshim::clock::{Clock, SystemClock};
use hwshim::provider::Provider;
use hwshim::router::core::Offload;
use rustls::client::Resumption;
use rustls::compress::{
    CertCompressor, CertDecompressor, CompressionFailed, CompressionLevel, DecompressionFailed,
};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring};
use rustls::server::{ClientHello, ResolvesServerCert, ResolvesServerCertUsingSni};
use rustls::server::{ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateCompressionAlgorithm, ClientConfig, ClientConnection, HandshakeKind, SignatureScheme,
};
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter, duplex};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

#[tokio::test]
async fn every_rsa_key_in_every_version_is_signed_for_by_the_accelerator() {
    for kind in Kind::RSA {
        for versions in [TLS12, TLS13] {
            let server = Server::honest(kind).await;
            server.serve(&client_of(kind, versions)).await;
            assert_eq!(server.signatures(), (1, 0, 0), "{kind:?} {versions:?}");
            assert_eq!(server.router.requests().card, 1);
        }
    }
}

#[tokio::test]
async fn the_client_chooses_among_all_rsa_schemes() {
    use SignatureScheme as S;
    let (pkcs1, pss) = (
        [
            S::RSA_PKCS1_SHA256,
            S::RSA_PKCS1_SHA384,
            S::RSA_PKCS1_SHA512,
        ],
        [S::RSA_PSS_SHA256, S::RSA_PSS_SHA384, S::RSA_PSS_SHA512],
    );
    let cases = pkcs1
        .map(|scheme| (TLS12, scheme))
        .into_iter()
        .chain(pss.map(|scheme| (TLS12, scheme)))
        .chain(pss.map(|scheme| (TLS13, scheme)));
    let server = Server::honest(Kind::Rsa2048).await;
    let mut signed = 0;
    for (versions, scheme) in cases {
        let mut provider = ring::default_provider();
        let all = provider.signature_verification_algorithms;
        // The certificate itself is believed, and so never verified by one of these.
        let only: Vec<_> = all
            .mapping
            .iter()
            .filter(|(one, _)| *one == scheme)
            .copied()
            .collect();
        provider.signature_verification_algorithms = WebPkiSupportedAlgorithms {
            all: all.all,
            mapping: Box::leak(only.into_boxed_slice()),
        };
        let trusted = [identity(Kind::Rsa2048).certificate];
        let client = Arc::new(client_with(provider, versions, &trusted));
        server.serve(&client).await;
        signed += 1;
        assert_eq!(
            server.signatures(),
            (signed, 0, 0),
            "{versions:?} {scheme:?}"
        );
    }
    assert_eq!(server.router.requests().card, 9);
}

#[tokio::test]
async fn keys_that_software_signs_with_sooner_stay_there() {
    for kind in Kind::OTHERS {
        let identity = identity(kind);
        let trusted = [identity.certificate.clone()];
        let server = Server::start(Behaviour::Honest, |provider| config(provider, &identity)).await;
        for versions in [TLS12, TLS13] {
            server.serve(&client(versions, &trusted)).await;
        }
        assert_eq!(server.router.requests().submitted, 0, "{kind:?}");
    }
}

#[tokio::test]
async fn a_handshake_alone_is_signed_by_software_at_once_whoever_else_is_connected() {
    const OTHERS: u64 = 1000;
    let server = server_that_asks_what_pays(Behaviour::Slow).await;
    let client = client_for_full_handshakes();
    // Connections that have not said anything, and may never do.
    let (mut clients, others): (Vec<_>, Vec<_>) = (0..OTHERS)
        .map(|_| {
            let (client, theirs) = duplex(64);
            let acceptor = server.acceptor.clone();
            let accepting = async move { acceptor.accept(theirs).await.map(drop) };
            (client, tokio::spawn(accepting))
        })
        .unzip();
    while server.acceptor.handshakes().under_way < OTHERS {
        tokio::task::yield_now().await;
    }
    server.serve(&client).await;
    assert_eq!(server.signatures(), (0, 1, 0));

    // Nor do those who have begun to speak, and say no more: none of them wants a core.
    for client in &mut clients {
        client.write_all(&[HANDSHAKE_RECORD]).await.unwrap();
    }
    // On this one thread all of them have taken that in long before.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    server.serve(&client).await;
    assert_eq!(server.signatures(), (0, 2, 0));
    assert_eq!(server.router.requests().submitted, 0);
    drop(clients);
    for handshake in others {
        handshake.await.unwrap().unwrap_err();
    }
}

/// What a TLS client sends first of all.
const HANDSHAKE_RECORD: u8 = 0x16;

/// With an RSA key, before a card that does so.
async fn server_that_asks_what_pays(behaviour: Behaviour) -> Server {
    let script = Script::new(behaviour);
    let router = router_with(&script, PATIENT, Offload::default());
    Server::over(router, script, Options::default(), |provider| {
        config(provider, &identity(Kind::Rsa2048))
    })
    .await
}

fn client_for_full_handshakes() -> Arc<ClientConfig> {
    let mut client = Arc::unwrap_or_clone(client_of(Kind::Rsa2048, TLS13));
    client.resumption = Resumption::disabled();
    Arc::new(client)
}

#[tokio::test]
async fn hellos_that_come_together_are_a_crowd_on_one_thread_too() {
    let server = server_that_asks_what_pays(Behaviour::Slow).await;
    let client = client_for_full_handshakes();
    // Both keep their ends until all are through: a pipe whose other end has gone is broken.
    let (mut accepted, mut connected) = (JoinSet::new(), JoinSet::new());
    for _ in 0..100 {
        let (ours, theirs) = duplex(4096);
        let acceptor = server.acceptor.clone();
        accepted.spawn(async move { acceptor.accept(theirs).await });
        let connector = TlsConnector::from(Arc::clone(&client));
        connected.spawn(async move { connector.connect(server_name(), ours).await });
    }
    let (connected, accepted) = (connected.join_all().await, accepted.join_all().await);
    assert!(connected.iter().all(Result::is_ok), "a client");
    assert!(accepted.iter().all(Result::is_ok), "a server");
    assert!(server.signatures().0 > 0, "{:?}", server.acceptor);
}

#[tokio::test]
async fn a_handshake_does_not_take_itself_for_another_that_waits() {
    let server = server_that_asks_what_pays(Behaviour::Brisk).await;
    server.serve(&client_for_full_handshakes()).await;
    assert_eq!(server.signatures(), (0, 1, 0));
    assert_eq!(server.router.requests().submitted, 0);
}

#[tokio::test]
async fn handshakes_that_come_alone_find_out_that_a_card_has_become_fast() {
    let server = server_that_asks_what_pays(Behaviour::Slow).await;
    let client = client_for_full_handshakes();
    server.serve(&client).await;
    assert_eq!(server.signatures(), (0, 1, 0));
    server.script.set(Behaviour::Honest);
    for _ in 0..2_000 {
        server.serve(&client).await;
        if server.router.requests().card > 0 {
            break;
        }
    }
    assert_eq!(server.router.requests().card, 1, "{:?}", server.acceptor);
    assert_eq!(server.signatures().0, 1, "what was asked for is released");
}

#[tokio::test]
async fn what_software_takes_is_measured_where_it_signs() {
    const DEAR: Duration = Duration::from_millis(60);
    let script = Script::new(Behaviour::Slow);
    let router = router_with(&script, PATIENT, Offload::default());
    let base = base(|| {
        let begun = SystemClock.now();
        while SystemClock.now().since(begun) < DEAR {
            std::hint::spin_loop();
        }
    });
    let server = Server::over_base_with(base, router, script, |provider| {
        config(provider, &identity(Kind::Rsa2048))
    })
    .await;
    let client = client_for_full_handshakes();
    server.serve(&client).await;
    assert_eq!(server.signatures(), (0, 1, 0), "nothing is known yet");
    server.serve(&client).await;
    assert_eq!(server.signatures(), (1, 1, 0));
}

/// A client whose first guess at a group is one that the server does not have.
fn wrong_guess() -> Arc<ClientConfig> {
    let mut provider = ring::default_provider();
    provider.kx_groups = vec![ring::kx_group::SECP384R1, ring::kx_group::X25519];
    let trusted = [identity(Kind::Rsa2048).certificate];
    Arc::new(client_with(provider, TLS13, &trusted))
}

/// A server that has one group only.
async fn server_with_one_group() -> Server {
    let mut base = ring::default_provider();
    base.kx_groups = vec![ring::kx_group::X25519];
    Server::over_base(base, |provider| config(provider, &identity(Kind::Rsa2048))).await
}

#[tokio::test]
async fn after_a_hello_retry_request_both_hellos_are_taken_in_again() {
    let server = server_with_one_group().await;
    let connection = server.serve(&wrong_guess()).await;
    assert_eq!(
        connection.client.get_ref().1.handshake_kind(),
        Some(HandshakeKind::FullWithHelloRetryRequest)
    );
    assert_eq!(server.signatures(), (1, 0, 0));
}

#[tokio::test]
async fn the_flight_after_a_hello_retry_request_gets_through_a_buffer() {
    let server = server_with_one_group().await;
    let (ours, theirs) = duplex(4096);
    // Far more room than a flight takes: nothing leaves it unless it is told to.
    let buffered = BufWriter::with_capacity(1 << 16, theirs);
    let connector = TlsConnector::from(wrong_guess());
    let (accepted, connected) = tokio::join!(
        server.acceptor.accept(buffered),
        connector.connect(server_name(), ours)
    );
    accepted.unwrap();
    connected.unwrap();
    assert_eq!(server.signatures(), (1, 0, 0));
}

/// It has tried before what it will be asked.
#[tokio::test]
async fn whoever_says_both_hellos_at_once_and_then_dawdles_is_one_handshake() {
    let server = server_with_one_group().await;
    let mut client = ClientConnection::new(wrong_guess(), server_name()).unwrap();
    let mut hellos = Vec::new();
    client.write_tls(&mut hellos).unwrap();
    let (mut ours, theirs) = duplex(1 << 16);
    ours.write_all(&hellos).await.unwrap();
    let mut request = [0; 1024];
    let ask = async {
        let len = ours.read(&mut request).await.unwrap();
        drop(ours);
        len
    };
    let (len, accepted) = tokio::join!(ask, server.acceptor.accept(theirs));
    accepted.expect_err("it went away");
    let request = &request[..len];
    client.read_tls(&mut &request[..]).unwrap();
    client.process_new_packets().unwrap();
    client.write_tls(&mut hellos).unwrap();

    let (mut ours, theirs) = duplex(1 << 16);
    let go_on = async {
        ours.write_all(&hellos).await.unwrap();
        let mut again = vec![0; len];
        ours.read_exact(&mut again).await.unwrap();
        assert_eq!(again, request);
        while client.is_handshaking() {
            let mut flight = [0; 4096];
            let len = ours.read(&mut flight).await.unwrap();
            client.read_tls(&mut &flight[..len]).unwrap();
            client.process_new_packets().unwrap();
        }
        let mut end = Vec::new();
        client.write_tls(&mut end).unwrap();
        for byte in end {
            ours.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        ours
    };
    let (_ours, accepted) = tokio::join!(go_on, server.acceptor.accept(theirs));
    accepted.unwrap();
    assert_eq!(server.signatures(), (1, 0, 0));
}

#[tokio::test]
async fn clients_with_certificates_are_asked_for_them() {
    let theirs = identity_for(Kind::P256, "client.test", 1);
    let anchors = [theirs.certificate.clone()];
    let server = Server::start(Behaviour::Honest, |provider| {
        let verifier = WebPkiClientVerifier::builder_with_provider(
            Arc::new(roots(&anchors)),
            provider.rustls(),
        )
        .build()
        .unwrap();
        let Identity { certificate, key } = identity(Kind::Rsa2048);
        builder(provider)
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate], key)
            .unwrap()
    })
    .await;
    for versions in [TLS12, TLS13] {
        let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots(&[identity(Kind::Rsa2048).certificate]))
            .with_client_auth_cert(vec![theirs.certificate.clone()], theirs.key.clone_key())
            .unwrap();
        let connection = server.serve(&Arc::new(client)).await;
        let shown = connection.server.get_ref().1.peer_certificates().unwrap();
        assert_eq!(shown, &anchors);
    }
    assert_eq!(server.signatures(), (2, 0, 0));
    server
        .try_serve(&client_of(Kind::Rsa2048, TLS12))
        .await
        .err()
        .expect("a client without a certificate is refused");
}

#[tokio::test]
async fn sessions_are_resumed_by_ticket_and_by_id_and_need_no_signature() {
    for tickets in [true, false] {
        for versions in [TLS12, TLS13] {
            let server = Server::start(Behaviour::Honest, |provider| {
                let mut config = config(provider, &identity(Kind::Rsa2048));
                if tickets {
                    config.ticketer = ring::Ticketer::new().unwrap();
                } else {
                    config.session_storage = ServerSessionMemoryCache::new(16);
                }
                config
            })
            .await;
            let client = client_of(Kind::Rsa2048, versions);
            let kinds = [HandshakeKind::Full, HandshakeKind::Resumed];
            for kind in kinds {
                let connection = server.serve(&client).await;
                let (_, server) = connection.server.get_ref();
                assert_eq!(server.handshake_kind(), Some(kind), "{versions:?}");
            }
            assert_eq!(server.signatures(), (1, 0, 0), "{versions:?}");
        }
    }
}

#[tokio::test]
async fn early_data_is_taken_when_resuming_and_left_when_not() {
    let server = Server::start(Behaviour::Honest, |provider| {
        let mut config = config(provider, &identity(Kind::Rsa2048));
        config.max_early_data_size = 1024;
        config
    })
    .await;
    let trusted = [identity(Kind::Rsa2048).certificate];
    let mut client = client_with(ring::default_provider(), TLS13, &trusted);
    client.enable_early_data = true;
    let client = Arc::new(client);
    server.serve(&client).await;
    assert_eq!(early_data(&server, &client).await, Some(b"early".to_vec()));
    assert_eq!(server.signatures(), (1, 0, 0));

    // Another server of the same name, which knows nothing of the session.
    let stranger = Server::start(Behaviour::Honest, |provider| {
        let mut config = config(provider, &identity(Kind::Rsa2048));
        config.max_early_data_size = 1024;
        config
    })
    .await;
    assert_eq!(early_data(&stranger, &client).await, None);
    assert_eq!(stranger.signatures(), (1, 0, 0));
}

/// A handshake with early data, and what of it the server got.
async fn early_data(server: &Server, client: &Arc<ClientConfig>) -> Option<Vec<u8>> {
    let (mut ours, theirs) = duplex(4096);
    let accepting = server.acceptor.accept(theirs);
    let client = Arc::clone(client);
    let connecting = async move {
        let name = server_name();
        let mut connection = ClientConnection::new(client, name).unwrap();
        let mut early = connection.early_data().expect("the session allows it");
        early.write_all(b"early").unwrap();
        while connection.is_handshaking() || connection.wants_write() {
            let mut output = Vec::new();
            while connection.wants_write() {
                connection.write_tls(&mut output).unwrap();
            }
            ours.write_all(&output).await.unwrap();
            if connection.is_handshaking() {
                let mut input = Vec::new();
                AsyncReadExt::read_buf(&mut ours, &mut input).await.unwrap();
                let mut input = &input[..];
                while !input.is_empty() {
                    connection.read_tls(&mut input).unwrap();
                    connection.process_new_packets().unwrap();
                }
            }
        }
        ours
    };
    let (accepted, _client) = tokio::join!(accepting, connecting);
    let mut accepted = accepted.unwrap();
    let (_, connection) = accepted.get_mut();
    let mut received = Vec::new();
    let mut early = connection.early_data()?;
    early.read_to_end(&mut received).unwrap();
    Some(received)
}

/// Stands for any algorithm: it puts the certificate behind one byte.
#[derive(Debug)]
struct Wrapped(AtomicUsize);

const WRAPPED: CertificateCompressionAlgorithm = CertificateCompressionAlgorithm::Unknown(0x7777);

impl CertCompressor for Wrapped {
    fn compress(
        &self,
        input: Vec<u8>,
        _level: CompressionLevel,
    ) -> Result<Vec<u8>, CompressionFailed> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok([&[0x77], &input[..]].concat())
    }

    fn algorithm(&self) -> CertificateCompressionAlgorithm {
        WRAPPED
    }
}

impl CertDecompressor for Wrapped {
    fn decompress(&self, input: &[u8], output: &mut [u8]) -> Result<(), DecompressionFailed> {
        let (_, certificate) = input.split_first().ok_or(DecompressionFailed)?;
        self.0.fetch_add(1, Ordering::Relaxed);
        output.copy_from_slice(certificate);
        Ok(())
    }

    fn algorithm(&self) -> CertificateCompressionAlgorithm {
        WRAPPED
    }
}

#[tokio::test]
async fn compressed_certificates_are_the_same_both_times() {
    static HERE: Wrapped = Wrapped(AtomicUsize::new(0));
    static THERE: Wrapped = Wrapped(AtomicUsize::new(0));
    let server = Server::start(Behaviour::Honest, |provider| {
        let mut config = config(provider, &identity(Kind::Rsa2048));
        config.cert_compressors = vec![&HERE];
        config
    })
    .await;
    let trusted = [identity(Kind::Rsa2048).certificate];
    let mut client = client_with(ring::default_provider(), TLS13, &trusted);
    client.cert_decompressors = vec![&THERE];
    client.resumption = Resumption::disabled();
    let client = Arc::new(client);
    server.serve(&client).await;
    server.serve(&client).await;
    assert_eq!(THERE.0.load(Ordering::Relaxed), 2);
    assert!(HERE.0.load(Ordering::Relaxed) > 0);
    assert_eq!(server.signatures(), (2, 0, 0));
}

/// Gives each of two certificates in turn: the second time a step is taken, the other one.
#[derive(Debug)]
struct Alternating {
    keys: [Arc<CertifiedKey>; 2],
    asked: AtomicUsize,
}

impl ResolvesServerCert for Alternating {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        Some(Arc::clone(&self.keys[asked % 2]))
    }
}

fn certified(provider: &Provider, identity: &Identity) -> CertifiedKey {
    let Identity { certificate, key } = identity.clone();
    CertifiedKey::from_der(vec![certificate], key, &provider.rustls()).unwrap()
}

#[tokio::test]
async fn a_certificate_exchanged_while_the_card_signs_is_signed_for_by_software() {
    // Of one key first, where only the message differs; then of two.
    for other in [Kind::Rsa2048, Kind::Rsa3072, Kind::P256] {
        let identities = [
            identity_for(Kind::Rsa2048, NAME, 1),
            identity_for(other, NAME, 2),
        ];
        let trusted = identities
            .each_ref()
            .map(|identity| identity.certificate.clone());
        for versions in [TLS12, TLS13] {
            let server = Server::start(Behaviour::Honest, |provider| {
                let keys = [0, 1].map(|index| Arc::new(certified(provider, &identities[index])));
                let asked = AtomicUsize::new(0);
                resolving(provider, Arc::new(Alternating { keys, asked }))
            })
            .await;
            server.serve(&client(versions, &trusted)).await;
            let (offloaded, software, mismatched) = server.signatures();
            // A key that was loaded twice is two. One of P-256 does not even look at the tape, and is
            // found out all the same.
            assert_eq!((offloaded, mismatched), (0, 1), "{other:?} {versions:?}");
            assert_eq!(software, 0, "{other:?} {versions:?}");
            assert_eq!(server.router.requests().card, 1, "{other:?} {versions:?}");
        }
    }
}

#[tokio::test]
async fn certificates_by_name_and_protocols_by_choice() {
    let ours = identity(Kind::Rsa2048);
    let other = identity_for(Kind::Rsa3072, "other.test", 1);
    let server = Server::start(Behaviour::Honest, |provider| {
        let mut resolver = ResolvesServerCertUsingSni::new();
        resolver.add(NAME, certified(provider, &ours)).unwrap();
        resolver
            .add("other.test", certified(provider, &other))
            .unwrap();
        let mut config = resolving(provider, Arc::new(resolver));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    })
    .await;
    for versions in [TLS12, TLS13] {
        let trusted = [ours.certificate.clone()];
        let mut client = client_with(ring::default_provider(), versions, &trusted);
        client.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
        let connection = server.serve(&Arc::new(client)).await;
        let (_, server) = connection.server.get_ref();
        assert_eq!(server.alpn_protocol(), Some(&b"h2"[..]));
        assert_eq!(server.server_name(), Some(NAME));
        let (_, client) = connection.client.get_ref();
        let shown = client.peer_certificates().unwrap();
        assert_eq!(shown, &trusted);
    }
    assert_eq!(server.signatures(), (2, 0, 0));
}
