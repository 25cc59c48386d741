//! What an operator does to a terminator, and what its limits do to clients: reload, drain, limits,
//! backends that are away, statistics.

use crate::authority::{Key, replace};
use crate::backend::{self, Kind};
use crate::common::{CardProcess, program};
use crate::serving::{ANYWHERE, Serving};
use crate::{Site, load, serving};
use card_spec::telemetry::card_state;
use hwshim::telemetry::{Publisher, Reader, file_name, router_pages};
use rustix::process::{Pid, Signal, kill_process};
use rustls::AlertDescription;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::version::TLS12;
use serde_json::Value;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// Long enough for whatever is not to happen to have happened.
const A_WHILE: Duration = Duration::from_millis(300);
/// A limit that one client is to meet, and that others have time enough to keep on a busy machine.
const BRIEF: &str = "3s";

pub(crate) fn send(serving: &Serving, signal: Signal) {
    let pid = Pid::from_raw(serving.id().cast_signed()).unwrap();
    kill_process(pid, signal).unwrap();
}

pub(crate) fn exchange(stream: &mut (impl Read + Write), text: &[u8]) {
    stream.write_all(text).unwrap();
    stream.flush().unwrap();
    let mut received = vec![0; text.len()];
    stream.read_exact(&mut received).unwrap();
    assert_eq!(received, text);
}

/// Whether a connection, on which nothing more comes, is reset: an end would be a FIN, or a
/// close_notify and a FIN.
pub(crate) fn is_reset(stream: &mut impl Read) -> bool {
    matches!(stream.read(&mut [0]), Err(error) if error.kind() == ErrorKind::ConnectionReset)
}

/// The certificate that a new connection gets.
pub(crate) fn served(site: &Site, serving: &Serving) -> CertificateDer<'static> {
    let stream = site.connect(serving);
    stream.conn.peer_certificates().unwrap()[0].clone()
}

pub(crate) fn in_file(path: &std::path::Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).unwrap()
}

#[test]
fn a_certificate_is_exchanged_on_sighup_and_a_bad_one_leaves_the_old() {
    let site = Site::new();
    let serving = site.before_echo(&[]);
    let first = in_file(&site.identity.certificate);
    assert_eq!(served(&site, &serving), first);
    let mut kept = site.connect(&serving);

    let renewed = site.authority.issue("new", Key::P256, "renewed").unwrap();
    replace(&site.identity, &renewed).unwrap();
    assert_eq!(served(&site, &serving), first, "before it was told");
    send(&serving, Signal::HUP);
    serving
        .wait_for_error("1 certificates were read again")
        .unwrap();
    assert_eq!(served(&site, &serving), in_file(&renewed.certificate));

    let other = site.authority.issue("other", Key::P256, "other").unwrap();
    fs::copy(&other.certificate, &site.identity.certificate).unwrap();
    send(&serving, Signal::HUP);
    let errors = serving.wait_for_error("then send SIGHUP again").unwrap();
    for wanted in [
        "site.pem",
        "site.key",
        "the certificates in use stay",
        "hint: ",
    ] {
        assert!(errors.contains(wanted), "{wanted}: {errors}");
    }
    fs::write(&site.identity.key, "no key\n").unwrap();
    fs::copy(&renewed.certificate, &site.identity.certificate).unwrap();
    send(&serving, Signal::HUP);
    serving.wait_for_error("there is no private key").unwrap();
    assert_eq!(served(&site, &serving), in_file(&renewed.certificate));

    // Nobody's connection was touched by any of it.
    exchange(&mut kept, b"still here");
}

#[test]
fn connections_end_whole_before_it_does_on_sigterm() {
    let site = Site::new();
    let serving = site.before_echo(&["--drain-timeout", "20s"]);
    let mut stream = site.connect(&serving);
    exchange(&mut stream, b"before");
    send(&serving, Signal::TERM);
    // No more are accepted from the moment that it drains, which is soon.
    let deadline = 200;
    let refused = (0..deadline).any(|_| {
        let again = TcpStream::connect(serving.address);
        // One that slipped into the backlog is reset when the listener closes.
        let kind = again.map_err(|error| error.kind()).err();
        let refused = kind == Some(ErrorKind::ConnectionRefused);
        if !refused {
            exchange(&mut stream, b"meanwhile");
            pause(Duration::from_millis(10));
        }
        refused
    });
    assert!(refused, "it accepts connections although it drains");
    exchange(&mut stream, &[7; 100_000]);
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    let mut rest = Vec::new();
    // An end without close_notify would be an error here.
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"");
    let (status, errors) = serving.end().unwrap();
    assert_eq!(status.code(), Some(0), "{errors}");
    assert!(
        errors.contains("handshakes") && !errors.contains("cut off"),
        "{errors}"
    );
}

#[test]
fn connections_that_do_not_end_are_cut_off_and_counted() {
    let site = Site::new();
    let serving = site.before_echo(&["--drain-timeout", "300ms"]);
    let mut stream = site.connect(&serving);
    exchange(&mut stream, b"before");
    send(&serving, Signal::TERM);
    let (status, errors) = serving.end().unwrap();
    assert_eq!(status.code(), Some(1), "{errors}");
    for wanted in ["1 connections were cut off", "300ms", "--drain-timeout"] {
        assert!(errors.contains(wanted), "{wanted}: {errors}");
    }
    assert!(is_reset(&mut stream));
}

#[test]
fn a_connection_that_its_client_keeps_for_later_is_not_cut_off_and_one_that_waits_for_an_answer_is()
{
    let site = Site::new();
    let (backend, answer) = slow_to_answer();
    let mut command = site.command(backend);
    command.args(["--drain-timeout", "300ms"]);
    let serving = Serving::start(command).unwrap();
    let mut waiting = site.connect(&serving);
    waiting.write_all(b"request").unwrap();
    let kept = site.before_echo(&["--drain-timeout", "300ms"]);
    let mut resting = site.connect(&kept);
    exchange(&mut resting, b"before");
    // Longer than anybody takes for a pause.
    pause(Duration::from_millis(5_100));
    for serving in [&serving, &kept] {
        send(serving, Signal::TERM);
        serving.wait_for_error("draining: 1 connections").unwrap();
    }
    let (status, errors) = serving.end().unwrap();
    assert_eq!(status.code(), Some(1), "{errors}");
    assert!(errors.contains("1 connections were cut off"), "{errors}");
    let (status, errors) = kept.end().unwrap();
    assert_eq!(status.code(), Some(0), "{errors}");
    assert!(!errors.contains("were cut off"), "{errors}");
    assert!(is_reset(&mut resting), "it cannot be taken for an end");
    drop(answer);
}

/// A backend that answers when it is told to, and keeps the connection.
fn slow_to_answer() -> (SocketAddr, mpsc::Sender<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 7]).unwrap();
        told.recv().unwrap();
        stream.write_all(b"answer").unwrap();
        let _ = stream.read(&mut [0]);
    });
    (address, tell)
}

/// A backend that says half of what it has to say, and how its connection ends then.
fn half_an_answer() -> (SocketAddr, mpsc::Receiver<bool>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let (ended, was_reset) = mpsc::channel();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 7]).unwrap();
        stream.write_all(&HALF).unwrap();
        ended.send(is_reset(&mut stream)).unwrap();
    });
    (address, was_reset)
}

static HALF: [u8; 50_000] = [7; 50_000];

#[test]
fn who_is_cut_off_in_the_middle_of_an_answer_cannot_take_that_for_its_end() {
    let site = Site::new();
    let cases: [(_, &[Signal]); 3] = [
        (["--idle-timeout", BRIEF], &[]),
        (["--drain-timeout", "300ms"], &[Signal::TERM]),
        (["--drain-timeout", "1h"], &[Signal::TERM, Signal::INT]),
    ];
    for (limit, signals) in cases {
        let (backend, was_reset) = half_an_answer();
        let mut command = site.command(backend);
        command.args(limit);
        let serving = Serving::start(command).unwrap();
        let mut stream = site.connect(&serving);
        stream.write_all(b"request").unwrap();
        let mut received = vec![0; HALF.len()];
        stream.read_exact(&mut received).unwrap();
        for signal in signals {
            send(&serving, *signal);
        }
        assert!(is_reset(&mut stream), "{limit:?}");
        let backend = was_reset.recv_timeout(Duration::from_secs(20));
        assert_eq!(backend, Ok(true), "{limit:?}");
    }
}

#[test]
fn a_client_that_breaks_the_protocol_gets_an_alert_and_an_end() {
    let site = Site::new();
    let serving = site.before_echo(&[]);
    let mut stream = site.connect(&serving);
    exchange(&mut stream, b"before");
    // A record of application data, which nobody has encrypted.
    stream.sock.write_all(b"\x17\x03\x03\x00\x20").unwrap();
    stream.sock.write_all(&[0; 32]).unwrap();
    let error = stream.read(&mut [0]).unwrap_err();
    let error = error.downcast::<rustls::Error>().unwrap();
    let told = rustls::Error::AlertReceived(AlertDescription::BadRecordMac);
    assert_eq!(error, told);
    // A reset could have overtaken the alert.
    assert_eq!(stream.sock.read(&mut [0]).unwrap(), 0);
}

#[test]
fn why_a_handshake_failed_is_told_with_how_many_did() {
    let site = Site::new();
    let serving = site.before_echo(&[]);
    let first = serving.wait_for_report(|_| true).unwrap();
    assert_eq!(first["last_failure"], Value::Null, "{first}");
    let mut stream = TcpStream::connect(serving.address).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let report = serving
        .wait_for_report(|it| it["handshakes"]["failed"] == 1)
        .unwrap();
    let why = report["last_failure"].as_str().unwrap();
    assert!(why.contains("corrupt message"), "{why}");
    send(&serving, Signal::TERM);
    let (_, errors) = serving.end().unwrap();
    let told = format!("1 handshakes failed (the last: {why})");
    assert!(errors.contains(&told), "{errors}");
}

/// A backend that does `what` with one connection after the other.
fn before(what: impl Fn(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.incoming().flatten().for_each(what));
    address
}

/// How it ends, whatever comes before.
fn how_it_ends(mut tcp: &TcpStream) -> Result<u64, ErrorKind> {
    io::copy(&mut tcp, &mut io::sink()).map_err(|error| error.kind())
}

#[test]
fn a_client_that_an_alert_does_not_reach_or_that_sends_one_is_reset() {
    let site = Site::new();
    let no_record: &[u8] = &[0; 64];

    let serving = site.before_echo(&[]);
    let mut alerting = site.connect(&serving);
    exchange(&mut alerting, b"before");
    alerting.conn.read_tls(&mut &no_record[..]).unwrap();
    alerting.conn.process_new_packets().unwrap_err();
    alerting.conn.write_tls(&mut alerting.sock).unwrap();
    assert_eq!(
        how_it_ends(&alerting.sock),
        Err(ErrorKind::ConnectionReset),
        "sends one"
    );

    let written = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&written);
    let endless = before(move |mut stream| {
        while stream.write(&HALF).is_ok() {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    let serving = Serving::start(site.command(endless)).unwrap();
    let mut full = site.connect(&serving);
    // Until there is no room for an alert any more: nobody takes anything for a second.
    let is_full = |_| {
        let before = written.load(Ordering::Relaxed);
        pause(Duration::from_secs(1));
        before > 0 && written.load(Ordering::Relaxed) == before
    };
    assert!((0..60).any(is_full), "there is room for ever");
    full.sock.write_all(no_record).unwrap();
    serving
        .wait_for_report(|it| it["connections"]["broken"] == 1)
        .unwrap();
    assert_eq!(
        how_it_ends(&full.sock),
        Err(ErrorKind::ConnectionReset),
        "is not reached"
    );
}

#[test]
fn an_answer_that_comes_before_the_end_of_its_request_reaches_the_client_whole() {
    let site = Site::new();
    let upload = vec![7; 4_000_000];
    // Closed with bytes unread, a connection is reset by the backend's system, also if it has ended.
    for ends in [false, true] {
        let backend = before(move |mut stream| {
            stream.read_exact(&mut vec![0; 100_000]).unwrap();
            stream.write_all(&HALF).unwrap();
            if ends {
                stream.shutdown(Shutdown::Write).unwrap();
            }
        });
        let serving = Serving::start(site.command(backend)).unwrap();
        for number in 0..5 {
            let mut stream = site.connect(&serving);
            stream.write_all(&upload).unwrap();
            stream.flush().unwrap();
            let mut answer = vec![0; HALF.len()];
            stream.read_exact(&mut answer).unwrap();
            assert!(answer == HALF, "{ends}, {number}");
            if ends {
                assert_eq!(stream.read(&mut [0]).unwrap(), 0, "{number}");
            } else if number == 0 {
                // It was not said that this is all, and will not be.
                assert!(is_reset(&mut stream));
            }
        }
    }
}

#[test]
fn a_second_signal_ends_what_the_first_lets_end() {
    let site = Site::new();
    let serving = site.before_echo(&["--drain-timeout", "1h"]);
    let mut stream = site.connect(&serving);
    exchange(&mut stream, b"before");
    send(&serving, Signal::INT);
    while TcpStream::connect(serving.address).is_ok() {
        pause(Duration::from_millis(10));
    }
    send(&serving, Signal::TERM);
    let (status, errors) = serving.end().unwrap();
    assert_eq!(status.code(), Some(1), "{errors}");
    assert!(errors.contains("there was a second one"), "{errors}");
}

#[test]
fn connections_beyond_the_limit_wait_until_one_has_ended() {
    let site = Site::new();
    let serving = site.before_echo(&["--connections-max", "1"]);
    let mut first = site.connect(&serving);
    exchange(&mut first, b"first");
    std::thread::scope(|scope| {
        let (ended, second) = mpsc::channel();
        let (site, serving) = (&site, &serving);
        scope.spawn(move || {
            let mut stream = site.connect(serving);
            ended.send(()).unwrap();
            exchange(&mut stream, b"second");
        });
        assert!(second.recv_timeout(A_WHILE).is_err(), "it did not wait");
        exchange(&mut first, b"still first");
        drop(first);
        second.recv_timeout(Duration::from_secs(20)).unwrap();
    });
    let report = serving.wait_for_report(|_| true).unwrap();
    assert_eq!(report["connections"]["accepted"], 2, "{report}");
}

#[test]
fn a_client_that_does_not_shake_hands_is_given_up_in_time() {
    let site = Site::new();
    let serving = site.before_echo(&["--handshake-timeout", BRIEF]);
    let mut silent = TcpStream::connect(serving.address).unwrap();
    silent
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    // The beginning of a record, whose rest never comes.
    silent.write_all(&[22, 3, 1, 2]).unwrap();
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
    let report = serving
        .wait_for_report(|it| it["connections"]["active"] == 0)
        .unwrap();
    assert_eq!(report["handshakes"]["timed_out"], 1, "{report}");
    // Others have their time from when they come.
    exchange(&mut site.connect(&serving), b"another");
}

#[test]
fn a_connection_on_which_nothing_comes_is_ended() {
    let site = Site::new();
    let serving = site.before_echo(&["--idle-timeout", BRIEF]);
    let mut stream = site.connect(&serving);
    exchange(&mut stream, b"a word");
    assert!(is_reset(&mut stream));
    let report = serving
        .wait_for_report(|it| it["connections"]["active"] == 0)
        .unwrap();
    assert_eq!(report["connections"]["idle"], 1, "{report}");
}

#[test]
fn a_backend_that_is_away_is_told_of_and_its_clients_see_no_end() {
    let site = Site::new();
    let address = TcpListener::bind(("127.0.0.1", 0))
        .unwrap()
        .local_addr()
        .unwrap();
    let serving = Serving::start(site.command(address)).unwrap();
    let mut stream = site.connect(&serving);
    assert!(is_reset(&mut stream));
    let errors = serving.wait_for_error("cannot be reached").unwrap();
    assert!(
        errors.contains(&address.to_string()) && errors.contains("refused"),
        "{errors}"
    );
    let report = serving
        .wait_for_report(|it| it["connections"]["active"] == 0)
        .unwrap();
    assert_eq!(report["connections"]["unreachable"], 1, "{report}");
}

/// A backend that has no room for another connection, so that connecting to it takes for ever; as long
/// as what comes with it is there.
fn a_full_backend() -> (SocketAddr, impl Sized) {
    use rustix::net;
    let flags = net::SocketFlags::CLOEXEC;
    let listener = net::socket_with(
        net::AddressFamily::INET,
        net::SocketType::STREAM,
        flags,
        None,
    );
    let listener = listener.unwrap();
    net::bind(&listener, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    net::listen(&listener, 0).unwrap();
    let address = net::getsockname(&listener).unwrap().try_into().unwrap();
    let connect = || TcpStream::connect_timeout(&address, A_WHILE).ok();
    let waiting: Vec<_> = std::iter::from_fn(connect).collect();
    (address, (listener, waiting))
}

#[test]
fn who_is_cut_off_before_a_backend_was_reached_is_reset() {
    let site = Site::new();
    let (backend, _full) = a_full_backend();
    let cases: [(_, &[Signal]); 2] = [
        (["--connect-timeout", "300ms"], &[]),
        (["--connect-timeout", "1h"], &[Signal::TERM, Signal::INT]),
    ];
    for (limit, signals) in cases {
        let mut command = site.command(backend);
        command.args(limit);
        let serving = Serving::start(command).unwrap();
        let mut stream = site.connect(&serving);
        for signal in signals {
            send(&serving, *signal);
        }
        assert!(is_reset(&mut stream), "{limit:?}");
    }
}

#[test]
fn bytes_pass_whole_both_ways_after_either_side_has_ended() {
    let site = Site::new();
    let serving = site.before_echo(&[]);
    let mut stream = site.connect(&serving);
    let sent: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut received = vec![0; sent.len()];
    // Fewer bytes than buffers between here and there hold, as nobody reads meanwhile.
    for (sent, received) in sent.chunks(40_000).zip(received.chunks_mut(40_000)) {
        stream.write_all(sent).unwrap();
        stream.flush().unwrap();
        stream.read_exact(received).unwrap();
    }
    assert!(sent == received);
    stream.write_all(b"the last words").unwrap();
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"the last words");
}

#[test]
fn what_cards_do_for_it_is_on_their_telemetry_pages() {
    let site = Site::with(Key::Rsa2048);
    let card = CardProcess::start(site.directory.path());
    let address = card.address().to_string();
    // Each signature is to be the card's, however long it takes here.
    let serving = site.before_echo(&["--always", "--card-timeout", "1min", "--card", &address]);
    let ready = |it: &Value| it["accelerators"][0]["breaker"] == "closed";
    serving.wait_for_report(ready).unwrap();
    for _ in 0..5 {
        exchange(&mut site.connect(&serving), b"hello");
    }
    let report = serving
        .wait_for_report(|it| it["handshakes"]["completed"] == 5)
        .unwrap();
    assert_eq!(report["handshakes"]["offloaded"], 5, "{report}");
    assert_eq!(report["accelerators"][0]["address"], *address);
    assert!(report["signatures"]["card"].as_u64() >= Some(5), "{report}");
    let old = load::client(&site.authority.certificate(), &[&TLS12]).unwrap();
    let mut open = load::connect(serving.address, &old).unwrap();
    exchange(&mut open, b"hello");
    let count = |page: &Value, name: &str| page["requests"][name].as_u64().unwrap();
    let page = (0..100)
        .map(|_| stats(&site))
        .inspect(|_| pause(Duration::from_millis(100)))
        .find(|page| page["tls"]["handshakes"]["completed"] == 6 && count(page, "card") >= 6)
        .unwrap();
    let handshakes = &page["tls"]["handshakes"];
    for (name, wanted) in [("tls13", 5), ("tls12", 1), ("resumed", 0), ("offloaded", 6)] {
        assert_eq!(handshakes[name], wanted, "{name}: {page}");
    }
    let connections = &page["tls"]["connections"];
    assert_eq!(connections["accepted"], 6, "{page}");
    assert!(connections["active"].as_u64() >= Some(1), "{page}");
    drop(open);
    assert_eq!(page["address"], *address);
    let ends = ["card", "software", "refused", "in_flight"].map(|name| count(&page, name));
    assert_eq!(
        count(&page, "submitted"),
        ends.iter().sum::<u64>(),
        "{page}"
    );
    send(&serving, Signal::TERM);
    let (status, errors) = serving.end().unwrap();
    assert_eq!(status.code(), Some(0), "{errors}");
    assert!(
        errors.contains("6 RSA signatures by accelerators"),
        "{errors}"
    );
    let last = stats(&site);
    assert_eq!(last["state"], "released", "{last}");
    assert_eq!(last["tls"]["connections"]["active"], 0, "{last}");
}

#[test]
fn what_it_does_without_a_card_is_on_the_page_of_a_router_that_has_none() {
    for arguments in [&[][..], &["--card", "software:multi-buffer"]] {
        let site = Site::new();
        let serving = site.before_echo(arguments);
        for _ in 0..3 {
            exchange(&mut site.connect(&serving), b"hello");
        }
        let seen = (0..100)
            .map(|_| all_stats(&site))
            .inspect(|_| pause(Duration::from_millis(100)))
            .find(|it| it["routers"][0]["tls"]["handshakes"]["completed"] == 3)
            .unwrap();
        assert_eq!(seen["cards"].as_array().map(Vec::len), Some(0), "{seen}");
        let router = &seen["routers"][0];
        assert_eq!(router["name"], format!("serve-tls:{}", serving.address));
        assert_eq!(router["owner_pid"], serving.id());
        assert_eq!(
            (&router["ended"], &router["stale"]),
            (&false.into(), &false.into())
        );
        let status = cardmon(&site);
        assert_eq!(
            status["cards"].as_array().map(Vec::len),
            Some(0),
            "{status}"
        );
        assert_eq!(
            status["routers"][0]["tls"]["handshakes_completed"], 3,
            "{status}"
        );
        send(&serving, Signal::TERM);
        let (status, errors) = serving.end().unwrap();
        assert_eq!(status.code(), Some(0), "{errors}");
        // Its page stays, for whoever looks there, until the next router comes; it is nobody's.
        let pages = router_pages(site.directory.path()).unwrap();
        let last = Reader::open(&pages[0])
            .and_then(|page| page.read())
            .unwrap();
        assert_eq!(last.card.state.get(), card_state::RELEASED);
        assert_eq!(last.tls.connections.active.get(), 0);
        let last = all_stats(&site);
        assert_eq!(last["routers"].as_array().map(Vec::len), Some(0), "{last}");
        let next = site.before_echo(arguments);
        let is_replaced = (0..100).any(|_| {
            pause(Duration::from_millis(100));
            let name = format!("serve-tls:{}", next.address);
            !pages[0].exists() && all_stats(&site)["routers"][0]["name"] == *name
        });
        assert!(is_replaced, "{}", all_stats(&site));
    }
}

#[test]
fn a_page_that_cannot_be_published_is_told_of_and_costs_no_handshake() {
    let site = Site::new();
    let nowhere = site.directory.path().join("file");
    fs::write(&nowhere, "no directory").unwrap();
    let command = serving::command(
        &program("hwshim"),
        std::slice::from_ref(&site.identity),
        ANYWHERE,
        backend::start(Kind::Echo).unwrap(),
        &nowhere,
    );
    let serving = Serving::start(command).unwrap();
    let told = serving
        .wait_for_error("what becomes of them is on no telemetry page")
        .unwrap();
    assert!(told.contains("--telemetry DIR"), "{told}");
    exchange(&mut site.connect(&serving), b"hello");
}

#[test]
fn a_page_that_one_who_drains_still_has_is_published_when_that_has_ended() {
    let site = Site::new();
    // A port that nobody has, as far as anybody can know.
    let address = TcpListener::bind(ANYWHERE).unwrap().local_addr().unwrap();
    let directory = site.directory.path();
    let held = Publisher::create_for_router(directory, &format!("serve-tls:{address}")).unwrap();
    let command = serving::command(
        &program("hwshim"),
        std::slice::from_ref(&site.identity),
        &address.to_string(),
        backend::start(Kind::Echo).unwrap(),
        directory,
    );
    let serving = Serving::start(command).unwrap();
    let told = serving
        .wait_for_error("what becomes of them is on no telemetry page")
        .unwrap();
    assert!(told.contains("as soon as the process ends"), "{told}");
    drop(held);
    let is_published = (0..100).any(|_| {
        pause(Duration::from_millis(100));
        all_stats(&site)["routers"][0]["owner_pid"] == serving.id()
    });
    assert!(is_published);
}

/// What cardmon makes of a site's pages.
fn cardmon(site: &Site) -> Value {
    let output = Command::new(program("cardmon"))
        .args(["run", "--json", "--no-history", "--for", "500ms"])
        .args(["--listen", ANYWHERE, "--telemetry"])
        .arg(site.directory.path())
        .output()
        .unwrap();
    let last = output
        .stdout
        .split(|byte| *byte == b'\n')
        .rfind(|line| !line.is_empty());
    serde_json::from_slice(last.unwrap()).unwrap()
}

pub(crate) fn stats(site: &Site) -> Value {
    all_stats(site)["cards"][0].clone()
}

fn all_stats(site: &Site) -> Value {
    let output = Command::new(program("hwshim"))
        .args(["stats", "--json", "--telemetry"])
        .arg(site.directory.path())
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn what_cannot_be_served_says_what_to_do() {
    let site = Site::new();
    let backend = backend::start(Kind::Echo).unwrap();
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let mut mixed = site.identity.clone();
    mixed.key = site
        .authority
        .issue("other", Key::P256, "other")
        .unwrap()
        .key;
    let mut missing = site.identity.clone();
    missing.certificate = "/nowhere/site.pem".into();
    for (identity, listen, wanted) in [
        (&site.identity, &*taken, "another server listens there"),
        (&mixed, "127.0.0.1:0", "the --key it was made with"),
        (&missing, "127.0.0.1:0", "/nowhere/site.pem cannot be read"),
    ] {
        let identities = std::slice::from_ref(identity);
        let directory = site.directory.path();
        let output = serving::command(&program("hwshim"), identities, listen, backend, directory)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(
            errors.contains(wanted) && errors.contains("hint: "),
            "{errors}"
        );
    }
}

#[test]
fn a_start_that_fails_lets_go_of_its_cards_and_touches_none_for_a_bad_certificate() {
    let site = Site::new();
    let card = CardProcess::start(site.directory.path());
    let card = card.address().to_string();
    let backend = backend::start(Kind::Echo).unwrap();
    let directory = site.directory.path();
    let fails = |identity, listen: &str, cards: &[&str], wanted: &str| {
        let identities = std::slice::from_ref(identity);
        let program = program("hwshim");
        let mut command = serving::command(&program, identities, listen, backend, directory);
        for card in cards {
            command.args(["--card", card]);
        }
        let output = command.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains(wanted), "{wanted}: {errors}");
    };
    let mut missing = site.identity.clone();
    missing.certificate = "/nowhere/site.pem".into();
    fails(&missing, ANYWHERE, &[&card], "cannot be read");
    assert_eq!(stats(&site), Value::Null, "the card was not touched");

    let released = |of: &str| {
        let page = stats(&site);
        let says = ["address", "state"].map(|name| page[name].as_str().unwrap());
        assert_eq!(says, [&*card, "released"], "{of}: {page}");
    };
    // Its page would come before that of the other, of which there is to be only one.
    let owned = "vfio-user:/nowhere/owned.sock";
    let owner = Publisher::create(directory, owned).unwrap();
    let owned_page = owner.path().to_owned();
    fails(&site.identity, ANYWHERE, &[&card, owned], "cannot be owned");
    drop(owner);
    fs::remove_file(owned_page).unwrap();
    released("one that had no owner yet");
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    fails(&site.identity, &taken, &[&card], "another server listens");
    released("one that had an owner");
}

#[test]
fn a_card_named_twice_and_keys_that_do_not_pair_up_are_misuse_and_nothing_is_touched() {
    let site = Site::new();
    let card = "vfio-user:/nowhere/card.sock";
    let key = site.identity.key.to_str().unwrap();
    for (arguments, wanted) in [
        (
            ["--card", card, "--card", card],
            "is accelerator 1 and accelerator 2; name it once",
        ),
        (
            ["--key", key, "--key", key],
            "--cert is there 1 times and --key 3 times",
        ),
    ] {
        let mut command = site.command(backend::start(Kind::Echo).unwrap());
        let output = command.args(arguments).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{errors}");
        assert!(errors.contains(wanted), "{errors}");
        assert!(errors.contains("Usage: hwshim serve-tls"), "{errors}");
    }
    assert_eq!(all_stats(&site)["cards"].as_array().map(Vec::len), Some(0));
}

#[test]
fn whoever_is_told_to_stop_while_it_starts_lets_go_of_its_cards() {
    let site = Site::new();
    let directory = site.directory.path();
    // Those who are away are opened as well.
    let cards = [1, 2, 3, 4].map(|card| format!("vfio-user:/nowhere/{card}.sock"));
    for _ in 0..16 {
        for card in &cards {
            let _ = fs::remove_file(directory.join(file_name(card)));
        }
        let mut command = site.command(backend::start(Kind::Echo).unwrap());
        command.args(cards.iter().flat_map(|card| ["--card", card]));
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        // As soon as there is anything to let go of.
        while !directory.join(file_name(&cards[0])).exists() {
            assert_eq!(process.try_wait().unwrap(), None);
        }
        kill_process(Pid::from_child(&process), Signal::TERM).unwrap();
        let output = process.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{errors}");
        let stats = all_stats(&site);
        let pages = stats["cards"].as_array().unwrap();
        assert_eq!(pages.len(), cards.len(), "{stats}");
        let are_released = pages.iter().all(|page| page["state"] == "released");
        assert!(are_released, "{stats}");
    }
}

#[test]
fn a_key_that_others_can_read_is_warned_of_each_time_that_it_is_read() {
    use std::os::unix::fs::PermissionsExt as _;
    let site = Site::new();
    let key = &site.identity.key;
    let set_mode = |mode| fs::set_permissions(key, fs::Permissions::from_mode(mode)).unwrap();
    set_mode(0o644);
    let serving = site.before_echo(&[]);
    let errors = serving.wait_for_error("everybody may read it").unwrap();
    assert!(
        errors.contains(&format!("chmod 0640 {}", key.display())),
        "{errors}"
    );
    exchange(&mut site.connect(&serving), b"served all the same");

    set_mode(0o660);
    send(&serving, Signal::HUP);
    serving.wait_for_error("its group may write it").unwrap();
    set_mode(0o640);
    fs::write(&site.identity.certificate, "no certificate\n").unwrap();
    send(&serving, Signal::HUP);
    let errors = serving.wait_for_error("then send SIGHUP again").unwrap();
    assert_eq!(errors.matches("has mode").count(), 2, "{errors}");
}

/// Has `serving` read its certificates again and again, until it says that it is still at it: two signals
/// that come before it has seen the first are one.
pub(crate) fn reload_until_it_still_reads(serving: &Serving) {
    let is_told = (0..200).any(|_| {
        send(serving, Signal::HUP);
        pause(Duration::from_millis(50));
        let errors = serving.wait_for_errors(|_| true).unwrap();
        errors.contains("still being read")
    });
    assert!(is_told, "that certificates are still being read");
}

#[expect(
    clippy::disallowed_methods,
    reason = "looks again at what another process does"
)]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}
