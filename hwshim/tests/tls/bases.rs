//! The provider over each of the libraries that it may leave the rest to, ring and AWS-LC, whichever
//! of them the program is built with; and clients that use the other one.

use crate::certificates::{Kind, identity};
use crate::server::{Server, TLS12, TLS13, client_with, config};
use hwshim::provider::Provider;
use hwshim::router::Router;
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs, ring};
use rustls::{ClientConfig, HandshakeKind, NamedGroup, SupportedProtocolVersion};
use std::sync::Arc;

fn bases() -> [(&'static str, CryptoProvider); 2] {
    [
        ("ring", ring::default_provider()),
        ("AWS-LC", aws_lc_rs::default_provider()),
    ]
}

async fn server_over(base: &CryptoProvider, kind: Kind) -> Server {
    Server::over_base(base.clone(), |provider| config(provider, &identity(kind))).await
}

fn client_over(
    base: &CryptoProvider,
    kind: Kind,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ClientConfig> {
    let trusted = [identity(kind).certificate];
    Arc::new(client_with(base.clone(), versions, &trusted))
}

#[tokio::test]
async fn rsa_goes_to_the_accelerator_and_the_rest_stays_over_every_base() {
    for (ours, base) in bases() {
        for kind in [Kind::Rsa2048, Kind::P256, Kind::P384] {
            let server = server_over(&base, kind).await;
            for (theirs, client) in bases() {
                for versions in [TLS12, TLS13] {
                    let before = server.signatures();
                    server.serve(&client_over(&client, kind, versions)).await;
                    let by_card = u64::from(kind == Kind::Rsa2048);
                    let (offloaded, software, mismatched) = before;
                    assert_eq!(
                        server.signatures(),
                        (offloaded + by_card, software, mismatched),
                        "{kind:?} {versions:?}, {ours} for {theirs}"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn sessions_are_resumed_over_every_base() {
    for (name, base) in bases() {
        for versions in [TLS12, TLS13] {
            let server = server_over(&base, Kind::Rsa2048).await;
            let client = client_over(&base, Kind::Rsa2048, versions);
            for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
                let connection = server.serve(&client).await;
                let (_, server) = connection.server.get_ref();
                assert_eq!(server.handshake_kind(), Some(kind), "{name} {versions:?}");
            }
            assert_eq!(server.signatures(), (1, 0, 0), "{name} {versions:?}");
            let counted = server.acceptor.handshakes();
            let by_version = [counted.tls12, counted.tls13];
            let wanted = if versions == TLS12 { [2, 0] } else { [0, 2] };
            assert_eq!((by_version, counted.resumed), (wanted, 1), "{name}");
        }
    }
}

#[test]
fn the_default_base_is_ring_and_with_the_feature_aws_lc() {
    let provider = Provider::new(Router::software());
    let groups = &provider.rustls().kx_groups;
    let hybrid = groups.iter().any(|group| group.name() == HYBRID.name());
    assert_eq!(hybrid, cfg!(feature = "aws-lc-rs"));
}

/// What AWS-LC has and ring has not: secrets that are encapsulated, so that the server's part of the
/// exchange depends on the client's.
const HYBRID: &dyn SupportedKxGroup = aws_lc_rs::kx_group::X25519MLKEM768;

/// A server over AWS-LC that has the hybrid group only.
async fn hybrid_server() -> Server {
    let mut base = aws_lc_rs::default_provider();
    base.kx_groups = vec![HYBRID];
    server_over(&base, Kind::Rsa2048).await
}

#[tokio::test]
async fn a_hybrid_key_exchange_is_the_same_both_times() {
    // Whether the client guesses right, or is asked again.
    for (first, kind) in [
        (HYBRID, HandshakeKind::Full),
        (
            aws_lc_rs::kx_group::SECP384R1,
            HandshakeKind::FullWithHelloRetryRequest,
        ),
    ] {
        let server = hybrid_server().await;
        let mut provider = aws_lc_rs::default_provider();
        provider.kx_groups = vec![first, HYBRID];
        let client = client_over(&provider, Kind::Rsa2048, TLS13);
        let connection = server.serve(&client).await;
        let (_, client) = connection.client.get_ref();
        assert_eq!(client.handshake_kind(), Some(kind));
        let group = client.negotiated_key_exchange_group().unwrap();
        assert_eq!(group.name(), NamedGroup::X25519MLKEM768);
        assert_eq!(server.signatures(), (1, 0, 0), "{kind:?}");
    }
}
