//! The provider in servers that know nothing of it, and the acceptor over configurations that know
//! nothing of the provider.

use crate::base::base;
use crate::certificates::{Kind, identity};
use crate::scripted::{Behaviour, Script};
use crate::server::{
    PATIENT, Server, TLS12, TLS13, client_of, config, router, router_with, server_name,
};
use crate::until::wait_until;
use hwshim::acceptor::OffloadAcceptor;
use hwshim::clock::{Clock, SystemClock};
use hwshim::provider::Provider;
use hwshim::router::Router;
use hwshim::router::breaker::State;
use hwshim::router::core::Offload;
use rustls::crypto::ring;
use rustls::{ClientConnection, ServerConfig, ServerConnection};
use std::io::{Read, Write};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::thread::ScopedJoinHandle;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Time an accelerator has for an answer, where it is to run out.
const SHORT: Duration = Duration::from_millis(30);

#[tokio::test]
async fn a_plain_acceptor_on_a_runtime_is_not_held_up_by_a_card() {
    let server = Server::start(Behaviour::Silent, |provider| {
        config(provider, &identity(Kind::Rsa2048))
    })
    .await;
    let acceptor = TlsAcceptor::from(Arc::clone(server.acceptor.config()));
    for versions in [TLS12, TLS13] {
        let (ours, theirs) = duplex(4096);
        let connector = TlsConnector::from(client_of(Kind::Rsa2048, versions));
        let (accepted, connected) = tokio::join!(
            acceptor.accept(theirs),
            connector.connect(server_name(), ours)
        );
        accepted.unwrap();
        connected.unwrap();
    }
    assert_eq!(server.router.requests().submitted, 0);
}

#[tokio::test]
async fn without_our_provider_steps_are_taken_in_the_pool() {
    let identity = identity(Kind::Rsa2048);
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![identity.certificate], identity.key)
        .unwrap();
    let acceptor = OffloadAcceptor::from(Arc::new(config));
    for versions in [TLS12, TLS13] {
        let (ours, theirs) = duplex(4096);
        let connector = TlsConnector::from(client_of(Kind::Rsa2048, versions));
        let (accepted, connected) = tokio::join!(
            acceptor.accept(theirs),
            connector.connect(server_name(), ours)
        );
        accepted.unwrap();
        connected.unwrap();
    }
    let handshakes = acceptor.handshakes();
    assert_eq!((handshakes.completed, handshakes.pooled), (2, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_future_of_the_acceptor_can_go_to_another_thread() {
    fn sent<T: Send>(value: T) -> T {
        value
    }
    let server = Server::honest(Kind::Rsa2048).await;
    let (ours, theirs) = duplex(4096);
    let acceptor = server.acceptor.clone();
    let accepting = tokio::spawn(sent(async move { acceptor.accept(theirs).await }));
    let connector = TlsConnector::from(client_of(Kind::Rsa2048, TLS13));
    let connected = connector.connect(server_name(), ours).await;
    let accepted = accepting.await.unwrap();
    // Of two errors the other one may say why.
    assert!(
        accepted.is_ok() && connected.is_ok(),
        "server: {:?}, client: {:?}",
        accepted.err(),
        connected.err()
    );
}

fn wait_for_accelerator(router: &Router) {
    wait_until("the trial is passed", || {
        matches!(router.status()[0].breaker, State::Closed { .. })
    });
}

/// A handshake between two connections, without a line between them.
fn shake_hands(config: &Arc<ServerConfig>) {
    let client = client_of(Kind::Rsa2048, TLS13);
    let mut client = ClientConnection::new(client, server_name()).unwrap();
    let mut server = ServerConnection::new(Arc::clone(config)).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        server.read_tls(&mut &wire[..]).unwrap();
        server.process_new_packets().unwrap();
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        client.read_tls(&mut &wire[..]).unwrap();
        client.process_new_packets().unwrap();
    }
    client.writer().write_all(b"question").unwrap();
    let mut wire = Vec::new();
    client.write_tls(&mut wire).unwrap();
    server.read_tls(&mut &wire[..]).unwrap();
    server.process_new_packets().unwrap();
    let mut received = [0; 8];
    server.reader().read_exact(&mut received).unwrap();
    assert_eq!(&received, b"question");
}

#[test]
fn a_thread_waits_for_the_card_no_longer_than_its_deadline() {
    for (behaviour, timeout) in [(Behaviour::Honest, PATIENT), (Behaviour::Silent, SHORT)] {
        let script = Script::new(behaviour);
        let router = router(&script, timeout);
        let provider = Provider::new(router.clone());
        let config = Arc::new(config(&provider, &identity(Kind::Rsa2048)));
        let begun = SystemClock.now();
        while router.requests().submitted == 0 {
            shake_hands(&config);
            assert!(SystemClock.now().since(begun) < PATIENT, "{router:?}");
        }
        let requests = router.requests();
        assert!(requests.add_up(), "{requests:?}");
        assert_eq!(requests.card, u64::from(behaviour == Behaviour::Honest));
        assert_eq!(
            requests.timed_out,
            u64::from(behaviour == Behaviour::Silent)
        );
    }
}

#[test]
fn a_thread_waits_for_the_card_where_that_pays() {
    const THREADS: usize = 64;
    let (signing, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(())));
    let held = gate.lock().unwrap();
    let base = {
        let (signing, gate) = (Arc::clone(&signing), Arc::clone(&gate));
        // The first are held up in the middle of a signature, as if each waited for a core.
        base(move || {
            if signing.fetch_add(1, Ordering::SeqCst) < THREADS {
                drop(gate.lock().unwrap());
            }
        })
    };
    let script = Script::new(Behaviour::Slow);
    let router = router_with(&script, PATIENT, Offload::default());
    let provider = Provider::over(base, router.clone());
    let config = Arc::new(config(&provider, &identity(Kind::Rsa2048)));
    wait_for_accelerator(&router);
    std::thread::scope(|scope| {
        let mut threads = vec![scope.spawn(|| shake_hands(&config))];
        while signing.load(Ordering::SeqCst) == 0 && !threads[0].is_finished() {
            std::thread::yield_now();
        }
        assert_eq!(router.requests().submitted, 0, "one alone signs by itself");
        threads.extend((1..THREADS).map(|_| scope.spawn(|| shake_hands(&config))));
        // As many of them as made the rest wait for the card.
        while router.requests().card == 0 && !threads.iter().all(ScopedJoinHandle::is_finished) {
            if signing.load(Ordering::SeqCst) == THREADS {
                break;
            }
            std::thread::yield_now();
        }
        drop(held);
    });
    let card = router.requests().card;
    assert!(card > 0, "{router:?}");
}

#[test]
fn a_key_loaded_too_late_says_what_to_do() {
    let provider = Provider::new(Router::software());
    let rustls = provider.rustls();
    drop(provider);
    let error = rustls
        .key_provider
        .load_private_key(identity(Kind::Rsa2048).key)
        .unwrap_err();
    assert!(error.to_string().contains("keep it"), "{error}");
}

#[test]
fn the_router_ends_with_the_last_key_though_its_provider_is_never_freed() {
    let script = Script::new(Behaviour::Honest);
    let provider = Provider::new(router(&script, PATIENT));
    let config = config(&provider, &identity(Kind::Rsa2048));
    drop(provider);
    assert_eq!(script.users(), 2, "the accelerator, and this test");
    drop(config);
    assert_eq!(script.users(), 1);
}

#[test]
fn a_server_without_a_card_is_a_server_of_the_base_provider() {
    let provider = Provider::new(Router::software());
    shake_hands(&Arc::new(config(&provider, &identity(Kind::Rsa2048))));
    assert_eq!(provider.router().requests().submitted, 0);
}

/// How many bytes of the flight of a server with `kind` of key there are after one look at a hello that
/// has come.
async fn flight_after_one_look(router: Router, kind: Kind) -> usize {
    let provider = Provider::new(router);
    let acceptor = OffloadAcceptor::from(Arc::new(config(&provider, &identity(kind))));
    let mut hello = Vec::new();
    let mut client = ClientConnection::new(client_of(kind, TLS13), server_name()).unwrap();
    client.write_tls(&mut hello).unwrap();
    let (mut ours, theirs) = duplex(1 << 14);
    ours.write_all(&hello).await.unwrap();
    let mut accepted = pin!(acceptor.accept(theirs));
    let mut context = Context::from_waker(Waker::noop());
    assert!(accepted.as_mut().poll(&mut context).is_pending());
    let mut flight = vec![0; 1 << 14];
    let mut flight = ReadBuf::new(&mut flight);
    let _ = Pin::new(&mut ours).poll_read(&mut context, &mut flight);
    flight.filled().len()
}

#[tokio::test]
async fn a_server_without_a_card_or_a_key_for_one_lets_nobody_announce_a_signature_first() {
    let with_a_card = || router(&Script::new(Behaviour::Honest), PATIENT);
    assert_ne!(
        flight_after_one_look(Router::software(), Kind::Rsa2048).await,
        0
    );
    assert_ne!(flight_after_one_look(with_a_card(), Kind::P256).await, 0);
    assert_eq!(flight_after_one_look(with_a_card(), Kind::Rsa2048).await, 0);
}
