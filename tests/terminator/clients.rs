//! Clients that nobody here wrote: `openssl s_client` and `s_time`, curl.

use crate::authority::{Key, NAME};
use crate::backend::{self, Kind, PAGE};
use crate::serving::{self, Serving};
use crate::{Site, load};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring};
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, ClientConfig, SignatureScheme, SupportedProtocolVersion};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Has OpenSSL verify all there is, ask for the page and wait for it.
fn s_client(site: &Site, port: u16, arguments: &[&str]) -> String {
    let mut client = Command::new("openssl")
        .args(["s_client", "-verify_return_error", "-verify_hostname", NAME])
        .args(["-servername", NAME, "-ign_eof", "-connect"])
        .arg(format!("127.0.0.1:{port}"))
        .arg("-CAfile")
        .arg(site.authority.certificate())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    client.stdin.take().unwrap().write_all(REQUEST).unwrap();
    let output = client.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}{complaints}");
    assert!(said.contains(PAGE), "{arguments:?}: {said}{complaints}");
    said
}

fn with_both_keys(site: &Site) -> Serving {
    let backend = backend::start(Kind::Http).unwrap();
    let p256 = site.authority.issue("p256", Key::P256, "second").unwrap();
    let identities = [site.identity.clone(), p256];
    let program = crate::program("hwshim");
    let directory = site.directory.path();
    let command = serving::command(&program, &identities, serving::ANYWHERE, backend, directory);
    Serving::start(command).unwrap()
}

#[test]
fn openssl_verifies_rsa_and_p256_in_both_versions() {
    let site = Site::with(Key::Rsa2048);
    let serving = with_both_keys(&site);
    for (version, algorithms, signed) in [
        ("-tls1_3", "RSA-PSS+SHA256", "Peer signature type: RSA-PSS"),
        ("-tls1_3", "ECDSA+SHA256", "Peer signature type: ECDSA"),
        ("-tls1_2", "RSA-PSS+SHA384", "Peer signature type: RSA-PSS"),
        ("-tls1_2", "RSA+SHA256", "Peer signature type: RSA\n"),
        ("-tls1_2", "ECDSA+SHA256", "Peer signature type: ECDSA"),
    ] {
        let arguments = [version, "-sigalgs", algorithms];
        let said = s_client(&site, serving.port(), &arguments);
        let name = version.replace("-tls1_", "New, TLSv1.");
        for wanted in [signed, "Verify return code: 0 (ok)", &name] {
            assert!(said.contains(wanted), "{arguments:?}: {wanted}: {said}");
        }
    }
}

#[test]
fn openssl_resumes_its_sessions() {
    let site = Site::with(Key::Rsa2048);
    let serving = with_both_keys(&site);
    let file = site.directory.path().join("session");
    let file = file.to_str().unwrap();
    for version in ["-tls1_3", "-tls1_2"] {
        let first = s_client(&site, serving.port(), &[version, "-sess_out", file]);
        assert!(first.contains("New, TLSv1."), "{first}");
        let second = s_client(&site, serving.port(), &[version, "-sess_in", file]);
        assert!(second.contains("Reused, TLSv1."), "{version}: {second}");
    }
}

/// A client of rustls that verifies signatures by `schemes` and by no other.
fn client_of_schemes(
    site: &Site,
    version: &'static SupportedProtocolVersion,
    schemes: &[SignatureScheme],
) -> Arc<ClientConfig> {
    let mut provider = ring::default_provider();
    let all = provider.signature_verification_algorithms;
    let mut mapping = all.mapping.to_vec();
    mapping.retain(|(scheme, _)| schemes.contains(scheme));
    assert_eq!(mapping.len(), schemes.len(), "it knows all of these");
    provider.signature_verification_algorithms = WebPkiSupportedAlgorithms {
        // Certificates are verified whoever signed them.
        all: all.all,
        mapping: Box::leak(mapping.into_boxed_slice()),
    };
    load::client_over(provider, &site.authority.certificate(), &[version]).unwrap()
}

const RSA: &[SignatureScheme] = &[
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PKCS1_SHA256,
];
const ECDSA: &[SignatureScheme] = &[SignatureScheme::ECDSA_NISTP256_SHA256];

/// A certificate, schemes that do not suit it, and the same for OpenSSL.
const UNSUITED: [(Key, &[SignatureScheme], &str); 2] = [
    (Key::P256, RSA, "RSA-PSS+SHA256:RSA+SHA256"),
    (Key::Rsa2048, ECDSA, "ECDSA+SHA256"),
];

#[test]
fn a_rustls_client_whom_no_certificate_suits_is_told_handshake_failure() {
    let complete = Site::with(Key::Rsa2048);
    let both = with_both_keys(&complete);
    for (key, schemes, _) in UNSUITED {
        let site = Site::with(key);
        let serving = site.before_echo(&[]);
        for version in [&TLS12, &TLS13] {
            // It is not the client that could not.
            let client = client_of_schemes(&complete, version, schemes);
            load::connect(both.address, &client).unwrap();
            let client = client_of_schemes(&site, version, schemes);
            let error = load::connect(serving.address, &client).unwrap_err();
            let error = error.downcast::<rustls::Error>().unwrap();
            let told = rustls::Error::AlertReceived(AlertDescription::HandshakeFailure);
            assert_eq!(error, told, "{key:?} {version:?}");
        }
    }
}

#[test]
fn openssl_whom_no_certificate_suits_is_told_handshake_failure() {
    for (key, _, algorithms) in UNSUITED {
        let site = Site::with(key);
        let serving = site.before_echo(&[]);
        for version in ["-tls1_2", "-tls1_3"] {
            let output = Command::new("openssl")
                .args(["s_client", version, "-sigalgs", algorithms, "-connect"])
                .arg(format!("127.0.0.1:{}", serving.port()))
                .stdin(Stdio::null())
                .output()
                .unwrap();
            let complaints = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success(), "{key:?} {version}");
            // SSL_AD_HANDSHAKE_FAILURE, however this OpenSSL words it.
            let told = complaints.contains("SSL alert number 40");
            assert!(told, "{key:?} {version}: {complaints}");
        }
    }
}

/// Has OpenSSL shake hands for a second, and returns how often it did.
fn s_time(site: &Site, port: u16, mode: &str) -> u64 {
    let output = Command::new("openssl")
        .args(["s_time", "-time", "1", "-verify", "3", "-www", "/"])
        .args([mode, "-connect", &format!("127.0.0.1:{port}")])
        .arg("-CAfile")
        .arg(site.authority.certificate())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complaints}");
    let line = said
        .lines()
        .find(|line| line.contains("connections in") && line.contains("real seconds"));
    let count = line.and_then(|line| line.split(' ').next()?.parse().ok());
    count.unwrap_or_else(|| panic!("{said}{complaints}"))
}

#[test]
fn openssl_times_handshakes_and_none_fails() {
    let site = Site::with(Key::Rsa2048);
    let serving = with_both_keys(&site);
    let new = s_time(&site, serving.port(), "-new");
    let reused = s_time(&site, serving.port(), "-reuse");
    assert!(new > 0 && reused > 0, "{new} new, {reused} reused");
    let all = new + reused;
    let report = serving
        .wait_for_report(|it| it["handshakes"]["completed"].as_u64() >= Some(all))
        .unwrap();
    // It stops in the middle of the last connection of each round, when its second is over.
    assert!(
        report["handshakes"]["failed"].as_u64() <= Some(2),
        "{report}"
    );
}

#[expect(clippy::print_stdout, reason = "a test that is skipped says why")]
fn curl(trusted: &Path, port: u16, arguments: &[&str]) -> Option<Output> {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "20"])
        // Whatever the environment has for others: the server is here.
        .args(["--noproxy", "*", "--resolve"])
        .arg(format!("{NAME}:{port}:127.0.0.1"))
        .arg("--cacert")
        .arg(trusted)
        .args(arguments)
        .arg(format!("https://{NAME}:{port}/"))
        .stdin(Stdio::null())
        .output();
    match output {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped: there is no curl (on Debian, apt install curl)");
            None
        }
        output => Some(output.unwrap()),
    }
}

#[test]
fn curl_gets_the_page_and_refuses_a_certificate_that_it_should_not_believe() {
    let site = Site::with(Key::Rsa2048);
    let serving = with_both_keys(&site);
    let trusted = site.authority.certificate();
    for arguments in [&[][..], &["--tlsv1.3"], &["--tls-max", "1.2"], &["--http2"]] {
        let Some(output) = curl(&trusted, serving.port(), arguments) else {
            return;
        };
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {complaints}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), PAGE);
    }
    let other = tempfile::tempdir().unwrap();
    let stranger = crate::Authority::found(other.path()).unwrap();
    let output = curl(&stranger.certificate(), serving.port(), &[]).unwrap();
    assert!(!output.status.success() && output.stdout.is_empty());
}
