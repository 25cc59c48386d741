//! The example that a server is to be written after, as it stands in `examples/axum.rs`.

#[path = "../../examples/axum.rs"]
#[expect(dead_code, reason = "a program has a main, which is not called here")]
mod axum_server;

use crate::certificates::{Kind, identity};
use crate::openssl::{key_pem, pem};
use crate::server::{PATIENT, TLS13, client, server_name};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_serves_its_page() {
    // What may be offloaded, and what never is.
    for kind in [Kind::Rsa2048, Kind::P256] {
        serves_its_page_with(kind).await;
    }
}

async fn serves_its_page_with(kind: Kind) {
    let ours = identity(kind);
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (certificate, key) = (path("certificate.pem"), path("key.pem"));
    std::fs::write(&certificate, pem(&ours.certificate)).unwrap();
    std::fs::write(&key, key_pem(&ours.key)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let card = "software:ring".parse().unwrap();
        axum_server::serve(card, &certificate, &key, listener).await
    });
    let page = async {
        let tcp = TcpStream::connect(address).await.unwrap();
        let connector = TlsConnector::from(client(TLS13, &[ours.certificate]));
        let mut stream = connector.connect(server_name(), tcp).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: card.test\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = tokio::time::timeout(PATIENT, page).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n"),
        "{kind:?}: {answer}"
    );
    assert!(answer.ends_with("signed, sealed, delivered\n"), "{answer}");
}
