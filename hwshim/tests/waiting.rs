//! What a handshake holds while it waits for its signature: little enough that a card may keep
//! thousands waiting.
//!
//! A test by itself in a process by itself, since what is looked at is the memory of that process.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod held;

use held::{Silent, resident_bytes};
use hwshim::acceptor::{OffloadAcceptor, Options};
use hwshim::provider::Provider;
use hwshim::router::Router;
use hwshim::router::breaker;
use hwshim::router::core::{self, Offload};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig};
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

/// Those that are counted, and those before them, which take what is made once, and what the process
/// has held before and given back. Together no more than a router gives to one accelerator.
const WAITING: usize = 500;
const BEFORE: usize = 500;
/// For each handshake, without its transport: the future, what the client has said, what it takes to
/// take the step again, and the request at router and accelerator.
const LEN_MAX: usize = 6 * 1024;
/// Far longer than anything takes; only a mistake meets it.
const PATIENT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_handshake_that_waits_for_its_signature_holds_6_kib_at_most() {
    let is_silent = Arc::new(AtomicBool::new(false));
    let router = router(&is_silent);
    wait_until(|| matches!(router.status()[0].breaker, breaker::State::Closed { .. })).await;
    is_silent.store(true, Ordering::Relaxed);
    let provider = Provider::new(router.clone());
    let options = Options {
        timeout: PATIENT,
        ..Options::default()
    };
    let acceptor = OffloadAcceptor::new(config(provider.rustls()), options);
    let hello = client_hello();
    let mut waiting = Vec::with_capacity(BEFORE + WAITING);
    let mut held_before = 0;
    for count in [BEFORE, WAITING] {
        held_before = resident_bytes().unwrap();
        waiting.extend((0..count).map(|_| {
            let client = tokio::io::join(&hello[..], tokio::io::sink());
            Box::pin(acceptor.accept(client))
        }));
        // By turns, as they would be on a runtime: a step that might be offloaded is put off once.
        while router.requests().in_flight < waiting.len() as u64 {
            for handshake in &mut waiting {
                let look = poll_fn(|context| Poll::Ready(handshake.as_mut().poll(context)));
                assert!(look.await.is_pending(), "it waits for its signature");
            }
        }
    }
    let each = (resident_bytes().unwrap() - held_before) / WAITING;
    println!(
        "{each} bytes, of which the future has {}",
        size_of_val(&*waiting[0])
    );
    assert!(each <= LEN_MAX, "{each} bytes");
    // Were it next to nothing, something else would have been measured.
    assert!(each > size_of_val(&*waiting[0]) / 2, "{each} bytes");
}

/// A router that gives everything to an accelerator which answers until it is told not to.
fn router(is_silent: &Arc<AtomicBool>) -> Router {
    let options = core::Options {
        timeout: PATIENT,
        offload: Offload::EVERYTHING,
        ..core::Options::default()
    };
    let silent = Silent::once(is_silent);
    Router::start(vec![Box::new(silent)], options).unwrap()
}

async fn wait_until(is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENT, waiting).await.unwrap();
}

/// A server whose certificate is none, which no client is here to see, and as long as one.
fn config(provider: Arc<CryptoProvider>) -> Arc<ServerConfig> {
    let key: PrivateKeyDer<'static> =
        PrivatePkcs1KeyDer::from(&include_bytes!("../src/kat/rsa-2048.pkcs1.der")[..]).into();
    let key = provider.key_provider.load_private_key(key).unwrap();
    let certified = CertifiedKey::new(vec![CertificateDer::from(vec![0x30; 1000])], key);
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    Arc::new(config)
}

fn client_hello() -> Vec<u8> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    // As long as a browser's, whose share of a hybrid key exchange takes more than a kilobyte.
    config.alpn_protocols = vec![vec![b'x'; 250]; 6];
    let name = ServerName::try_from("card.test").unwrap();
    let mut hello = Vec::new();
    ClientConnection::new(Arc::new(config), name)
        .unwrap()
        .write_tls(&mut hello)
        .unwrap();
    assert!(hello.len() > 1700, "{}", hello.len());
    hello
}
