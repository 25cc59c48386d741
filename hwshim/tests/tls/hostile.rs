//! Clients that send in pieces, too much, too little, too late or nonsense.

use crate::certificates::{Kind, identity};
use crate::scripted::{Behaviour, Script};
use crate::server::{PATIENT, Server, TLS12, TLS13, client_of, config, router, server_name};
use hwshim::acceptor::Options;
use rustls::{ClientConnection, ServerConnection};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::TlsConnector;

/// What a client sends first.
fn client_hello() -> Vec<u8> {
    let config = client_of(Kind::Rsa2048, TLS13);
    let mut connection = ClientConnection::new(config, server_name()).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    hello
}

/// What the server says to a client that sends `bytes` and no more, and how it ends.
async fn answer(server: &Server, bytes: &[u8]) -> (Vec<u8>, ErrorKind) {
    let (mut client, theirs) = duplex(64 * 1024);
    client.write_all(bytes).await.unwrap();
    client.shutdown().await.unwrap();
    let error = server.acceptor.accept(theirs).await.err();
    let mut received = Vec::new();
    client.read_to_end(&mut received).await.unwrap();
    (received, error.expect("it is no handshake").kind())
}

#[tokio::test]
async fn a_hello_may_come_byte_by_byte() {
    for versions in [TLS12, TLS13] {
        let server = Server::honest(Kind::Rsa2048).await;
        let (ours, mut middle) = duplex(4096);
        // Takes no more than one byte at once.
        let (mut outer, theirs) = duplex(1);
        let connector = TlsConnector::from(client_of(Kind::Rsa2048, versions));
        let wire = async { tokio::io::copy_bidirectional(&mut middle, &mut outer).await };
        let both = async {
            tokio::join!(
                server.acceptor.accept(theirs),
                connector.connect(server_name(), ours)
            )
        };
        tokio::select! {
            (accepted, connected) = both => { accepted.unwrap(); connected.unwrap(); }
            _ = wire => panic!("the line broke"),
        }
        assert_eq!(server.signatures(), (1, 0, 0));
    }
}

#[tokio::test]
async fn a_hello_may_come_in_records_of_a_few_bytes() {
    let server = Server::honest(Kind::Rsa2048).await;
    let mut client = Arc::unwrap_or_clone(client_of(Kind::Rsa2048, TLS13));
    client.max_fragment_size = Some(40);
    server.serve(&Arc::new(client)).await;
    assert_eq!(server.signatures(), (1, 0, 0));
}

#[tokio::test]
async fn a_client_that_goes_in_the_middle_is_told_from_one_that_is_wrong() {
    let server = Server::honest(Kind::Rsa2048).await;
    let hello = client_hello();
    for len in [0, 1, 5, hello.len() / 2, hello.len() - 1] {
        let (received, error) = answer(&server, &hello[..len]).await;
        assert_eq!((received.len(), error), (0, ErrorKind::UnexpectedEof));
    }
    // It gets what it has asked for, signature and all, and is not there to end the handshake.
    let (received, error) = answer(&server, &hello).await;
    assert!(received.len() > 500, "{}", received.len());
    assert_eq!(error, ErrorKind::UnexpectedEof);
    assert_eq!(server.acceptor.handshakes().failed, 6);
}

#[tokio::test]
async fn nonsense_is_answered_as_rustls_answers_it() {
    const SEED: u64 = 20_261_128;
    let server = Server::honest(Kind::Rsa2048).await;
    let mut random = fastrand::Rng::with_seed(SEED);
    let hello = client_hello();
    let (mut refused, mut alerts) = (0, 0);
    for round in 0..500 {
        let mut bytes = hello.clone();
        for _ in 0..=random.usize(..4) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        if round % 5 == 0 {
            random.fill(&mut bytes);
        }
        let (received, error) = answer(&server, &bytes).await;
        if error == ErrorKind::InvalidData {
            refused += 1;
            let alert = alert_of_rustls(&server, &bytes);
            assert_eq!(received, alert, "round {round} of seed {SEED}");
            alerts += usize::from(!alert.is_empty());
        }
    }
    assert!(refused > 100 && alerts > 100, "{refused}, {alerts}");
    // It is as good as before.
    server.serve(&client_of(Kind::Rsa2048, TLS13)).await;
}

/// What rustls by itself says to `bytes` that it refuses.
fn alert_of_rustls(server: &Server, bytes: &[u8]) -> Vec<u8> {
    let config = Arc::clone(server.acceptor.config());
    let mut connection = ServerConnection::new(config).unwrap();
    connection.read_tls(&mut &bytes[..]).unwrap();
    connection.process_new_packets().unwrap_err();
    let mut alert = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut alert).unwrap();
    }
    alert
}

#[tokio::test]
async fn a_hello_longer_than_allowed_is_refused_before_it_is_whole() {
    let options = Options {
        client_hello_len_max: 100,
        ..Options::default()
    };
    let server = with(options).await;
    let (received, error) = answer(&server, &client_hello()[..120]).await;
    assert_eq!((received.len(), error), (0, ErrorKind::InvalidData));
}

#[tokio::test]
async fn a_hello_that_never_ends_is_refused() {
    // A handshake message of 16 MiB, in records of 16 KiB.
    let mut bytes = Vec::new();
    for record in 0..8 {
        bytes.extend([22, 3, 3, 0x40, 0]);
        let mut payload = vec![0; 0x4000];
        if record == 0 {
            payload[..4].copy_from_slice(&[1, 0xff, 0xff, 0xff]);
        }
        bytes.extend(payload);
    }
    let server = Server::honest(Kind::Rsa2048).await;
    let (mut client, theirs) = duplex(4096);
    let sending = async move {
        // It ends when the server has had enough.
        let _ = client.write_all(&bytes).await;
        client
    };
    let (accepted, _client): (_, DuplexStream) =
        tokio::join!(server.acceptor.accept(theirs), sending);
    assert_eq!(accepted.unwrap_err().kind(), ErrorKind::InvalidData);
}

#[tokio::test]
async fn a_client_that_says_nothing_is_given_up_in_time() {
    let options = Options {
        timeout: Duration::from_millis(20),
        ..Options::default()
    };
    let server = with(options).await;
    let (client, theirs) = duplex(64);
    let error = server.acceptor.accept(theirs).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(server.acceptor.handshakes().timed_out > 0);
    drop(client);
}

async fn with(options: Options) -> Server {
    let script = Script::new(Behaviour::Honest);
    let router = router(&script, PATIENT);
    Server::over(router, script, options, |provider| {
        config(provider, &identity(Kind::Rsa2048))
    })
    .await
}
