//! OpenSSL's client, over TCP, which believes neither rustls nor us.

use crate::certificates::{Identity, Kind, NAME, identity};
use crate::scripted::Behaviour;
use crate::server::{PATIENT, Server, config};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use std::process::{Output, Stdio};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::process::Command;

/// Has OpenSSL shake hands with whoever listens at `port`, and verify all there is.
async fn s_client(port: u16, trusted: &Path, arguments: &[&str]) -> Output {
    let command = Command::new("openssl")
        .args(["s_client", "-verify_return_error", "-servername", NAME])
        .args(["-verify_hostname", NAME, "-connect"])
        .arg(format!("127.0.0.1:{port}"))
        .arg("-CAfile")
        .arg(trusted)
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    let output = tokio::time::timeout(PATIENT, command).await.unwrap();
    output.expect("openssl runs: install it (on Debian, apt install openssl)")
}

pub(crate) fn pem(certificate: &CertificateDer<'_>) -> Vec<u8> {
    encode("x509", certificate)
}

/// A private key in PEM, in the structure that it has.
pub(crate) fn key_pem(key: &PrivateKeyDer<'_>) -> Vec<u8> {
    let what = match key {
        PrivateKeyDer::Pkcs1(_) => "rsa",
        PrivateKeyDer::Sec1(_) => "ec",
        _ => "pkey",
    };
    encode(what, key.secret_der())
}

fn encode(what: &str, der: &[u8]) -> Vec<u8> {
    let mut encoder = std::process::Command::new("openssl")
        .args([what, "-inform", "DER"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("openssl runs: install it (on Debian, apt install openssl)");
    let mut input = encoder.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, der).unwrap();
    drop(input);
    encoder.wait_with_output().unwrap().stdout
}

#[tokio::test]
async fn openssl_accepts_what_the_accelerator_signs() {
    let ours: Identity = identity(Kind::Rsa2048);
    let directory = tempfile::tempdir().unwrap();
    let trusted = directory.path().join("trusted.pem");
    std::fs::write(&trusted, pem(&ours.certificate)).unwrap();
    let server = Server::start(Behaviour::Honest, |provider| config(provider, &ours)).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let cases: [&[&str]; 4] = [
        &["-tls1_3"],
        &["-tls1_2"],
        &["-tls1_2", "-sigalgs", "RSA+SHA256"],
        // A key share that is not among ours: HelloRetryRequest.
        &["-tls1_3", "-groups", "P-521:X25519"],
    ];
    for (done, arguments) in (1..).zip(cases) {
        let serving = async {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = server.acceptor.accept(stream).await.unwrap();
            stream.shutdown().await.unwrap();
        };
        let (output, ()) = tokio::join!(s_client(port, &trusted, arguments), serving);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("Verify return code: 0 (ok)"),
            "{arguments:?}: {said}"
        );
        assert_eq!(server.signatures(), (done, 0, 0), "{arguments:?}");
    }
}
