//! Accelerators that fail, lie and fall silent, and callers who give up: a client sees none of it.

use crate::certificates::{Kind, identity};
use crate::scripted::{Behaviour, Script};
use crate::server::{PATIENT, Server, TLS12, TLS13, client_of, config, router, server_name};
use hwshim::acceptor::Options;
use hwshim::clock::{Clock, SystemClock};
use rustls::ClientConfig;
use rustls::client::Resumption;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncReadExt, duplex};
use tokio_rustls::TlsConnector;

/// Time an accelerator has for an answer, where it is to run out.
const SHORT: Duration = Duration::from_millis(30);

async fn faulty(behaviour: Behaviour) -> Server {
    faulty_within(behaviour, SHORT).await
}

async fn faulty_within(behaviour: Behaviour, timeout: Duration) -> Server {
    let script = Script::new(behaviour);
    let router = router(&script, timeout);
    Server::over(router, script, Options::default(), |provider| {
        config(provider, &identity(Kind::Rsa2048))
    })
    .await
}

#[tokio::test]
async fn wrong_answers_never_reach_a_client() {
    for behaviour in [Behaviour::Lying, Behaviour::Empty] {
        for versions in [TLS12, TLS13] {
            let server = faulty(behaviour).await;
            server.serve(&client_of(Kind::Rsa2048, versions)).await;
            let requests = server.router.requests();
            assert_eq!((requests.card, requests.wrong_answers), (0, 1));
            assert_eq!(server.signatures(), (1, 0, 0), "by the router, in software");
        }
    }
}

#[tokio::test]
async fn a_card_that_never_answers_costs_its_deadline_and_no_handshake() {
    let server = faulty(Behaviour::Silent).await;
    let begun = SystemClock.now();
    server.serve(&client_of(Kind::Rsa2048, TLS13)).await;
    let took = SystemClock.now().since(begun);
    assert!(took >= SHORT, "{took:?}");
    let requests = server.router.requests();
    assert_eq!((requests.timed_out, requests.card), (1, 0));
}

#[tokio::test]
async fn of_thousands_of_handshakes_under_changing_faults_none_fails() {
    const HANDSHAKES: usize = 2000;
    const AT_ONCE: usize = 20;
    let server = faulty(Behaviour::Honest).await;
    let mut clients = [TLS12, TLS13].map(|versions| {
        let mut client = Arc::unwrap_or_clone(client_of(Kind::Rsa2048, versions));
        client.resumption = Resumption::disabled();
        Arc::new(client)
    });
    for round in 0..HANDSHAKES / AT_ONCE {
        server.script.set(match round % 5 {
            0 | 1 => Behaviour::Honest,
            2 => Behaviour::Lying,
            3 => Behaviour::Silent,
            _ => Behaviour::Empty,
        });
        let handshakes = (0..AT_ONCE).map(|index| server.serve(&clients[index % 2]));
        all(handshakes).await;
        clients.swap(0, 1);
    }
    let requests = server.router.requests();
    assert!(requests.add_up(), "{requests:?}");
    let met = [requests.card, requests.wrong_answers, requests.timed_out];
    assert!(met.iter().all(|count| *count > 0), "{requests:?}");
    let handshakes = server.acceptor.handshakes();
    assert_eq!(handshakes.completed, HANDSHAKES as u64);
    assert_eq!((handshakes.failed, handshakes.mismatched), (0, 0));
}

/// Lets all of them go on at once.
async fn all<T>(futures: impl Iterator<Item = impl Future<Output = T>>) {
    let mut futures: Vec<_> = futures.map(|future| Some(Box::pin(future))).collect();
    poll_fn(|context| {
        for slot in &mut futures {
            if let Some(future) = slot
                && future.as_mut().poll(context).is_ready()
            {
                *slot = None;
            }
        }
        match futures.iter().all(Option::is_none) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
}

#[tokio::test]
async fn a_handshake_can_be_given_up_wherever_it_waits() {
    for versions in [TLS12, TLS13] {
        let server = faulty(Behaviour::Honest).await;
        let client = client_of(Kind::Rsa2048, versions);
        let mut given_up = 0;
        while !gives_up_after(&server, &client, given_up).await {
            given_up += 1;
            let handshakes = server.acceptor.handshakes();
            assert_eq!(handshakes.cancelled, given_up, "{handshakes:?}");
            assert_eq!(handshakes.under_way, 0, "{handshakes:?}");
        }
        assert!(given_up > 20, "it waited {given_up} times only");
        nothing_in_flight(&server).await;
        server.serve(&client).await;
    }
}

#[tokio::test]
async fn a_handshake_that_waits_for_its_signature_can_be_given_up() {
    // Long enough to be found waiting, however busy the machine.
    let server = faulty_within(Behaviour::Silent, Duration::from_secs(3)).await;
    let client = client_of(Kind::Rsa2048, TLS13);
    let (ours, theirs) = duplex(4096);
    let connector = TlsConnector::from(client);
    let connecting = tokio::spawn(async move { connector.connect(server_name(), ours).await });
    {
        let mut accepting = pin!(server.acceptor.accept(theirs));
        while server.router.requests().in_flight == 0 {
            let poll = poll_fn(|context| Poll::Ready(accepting.as_mut().poll(context)));
            assert!(poll.await.is_pending());
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(server.acceptor.handshakes().cancelled, 1);
    let _ = connecting.await.unwrap().unwrap_err();
    nothing_in_flight(&server).await;
    assert_eq!(server.router.requests().refused, 1, "it was given up");
}

/// Polls an accept `polls` times, over a line that takes a few bytes at once, and drops it. Returns
/// whether it was over by then.
async fn gives_up_after(server: &Server, client: &Arc<ClientConfig>, polls: u64) -> bool {
    let (ours, theirs) = duplex(48);
    let connector = TlsConnector::from(Arc::clone(client));
    let connecting = tokio::spawn(async move {
        let mut stream = connector.connect(server_name(), ours).await?;
        // The server sends tickets, which have to go somewhere.
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        io::Result::Ok(())
    });
    let mut accepting = Box::pin(server.acceptor.accept(theirs));
    let mut left = polls;
    let outcome = poll_fn(|context| {
        if let Poll::Ready(outcome) = accepting.as_mut().poll(context) {
            return Poll::Ready(Some(outcome));
        }
        match left.checked_sub(1) {
            Some(fewer) => left = fewer,
            None => return Poll::Ready(None),
        }
        Poll::Pending
    })
    .await;
    drop(accepting);
    match outcome {
        Some(outcome) => {
            drop(outcome.unwrap());
            connecting.await.unwrap().unwrap();
            true
        }
        None => {
            connecting.abort();
            false
        }
    }
}

async fn nothing_in_flight(server: &Server) {
    let waiting = async {
        while server.router.requests().in_flight > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENT, waiting).await.unwrap();
    let requests = server.router.requests();
    assert!(requests.add_up(), "{requests:?}");
}
