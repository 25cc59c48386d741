//! `hwshim serve-tls`: a TLS server before one that speaks TCP, whose RSA signatures cards make.
//!
//! What it does with connections is [`hwshim::terminator`]; here are what it is told, signals, and
//! what it tells.

mod cards;
mod reloads;
mod report;

use super::crypto_mb::CryptoMb;
use super::lines::Voice;
use super::output::{Failure, Output, with_causes};
use super::serve::{LIMITS, no_signals, no_voice, positive_duration};
use super::usable::News;
use super::verifying::Verifying;
use super::{each_once, misuse};
use cards::Cards;
use hwshim::address::Address;
use hwshim::clock::{Clock as _, SystemClock};
use hwshim::provider::Provider;
use hwshim::router::Router;
use hwshim::router::core::{self, Offload};
use hwshim::telemetry;
use hwshim::terminator::{
    CertificateError, Certificates, Files, Options, Pairs, Phase, Terminator, Watch,
};
use reloads::{Reloaded, Reloads};
use report::Reporter;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::ServerConfig;
use rustls::crypto::ring::Ticketer;
use std::io;
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

const AFTER_HELP: &str = "\
Signals:
  SIGTERM, SIGINT  accept no more, let connections end; a second one cuts them off at once
  SIGHUP           read certificates and keys again; if one is wrong, the old ones stay in use

Exit codes:
  0  it was told to stop, and by the drain timeout every connection had ended, or nothing had passed on
     it for 5 s since the server behind spoke last
  1  it could not start, or cut connections off; standard error says what, why and what to do next
  2  the command line was not understood

Examples:
  hwshim serve-tls --cert site.pem --key site.key --to 127.0.0.1:8080
  hwshim serve-tls --cert a.pem --key a.key --cert b.pem --key b.key --to 127.0.0.1:8080
  hwshim serve-tls --listen 0.0.0.0:443 --cert site.pem --key site.key --to 127.0.0.1:8080 \\
      --card pci:0000:3b:00.0 --card software:multi-buffer

A certificate to try it with, for clients that are told to believe it (curl --cacert site.pem):
  openssl req -x509 -newkey rsa:2048 -noenc -keyout site.key -out site.pem \\
      -subj /CN=localhost -addext subjectAltName=DNS:localhost

What passes is not looked at: HTTP/1.1 runs over it as any TCP does, no X-Forwarded-For is added,
and the server behind does not learn who its client is. Who is cut off gets a reset, never an end.

Without --card, this CPU signs. With cards, an RSA signature goes to one when that pays, which it
does not for one client alone; it is verified before it leaves, and comes from this CPU if the card
does not answer well. ECDSA and Ed25519 stay with this CPU. Each card has a telemetry page, with
what becomes of handshakes and connections: see hwshim stats, and let cardmon watch the card. Without
a card, or with software:multi-buffer alone, there is a page as well: of a router without a card.";

/// Terminate TLS before a server that speaks TCP, with signatures by cards.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// Where to listen; only this host can reach the default, 0.0.0.0:443 is for everybody
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8443", value_parser = ip_and_port)]
    listen: SocketAddr,
    /// Certificate, with those that lead to an authority after it (PEM); repeat it for more names, or
    /// for keys of another kind
    #[arg(long = "cert", value_name = "FILE", required = true)]
    certificates: Vec<PathBuf>,
    /// Its private key (PEM); as many as certificates, in the same order
    #[arg(long = "key", value_name = "FILE", required = true)]
    keys: Vec<PathBuf>,
    /// The server behind, which speaks plain TCP
    #[arg(long = "to", value_name = "HOST:PORT", value_parser = host_and_port)]
    backend: String,
    /// Card or software:multi-buffer to sign; repeat it for more
    #[arg(long = "card", value_name = "ADDRESS")]
    cards: Vec<Address>,
    /// Have cards sign whether it pays or not, and wait for each as long as it may take: to try a card
    #[arg(long)]
    always: bool,
    #[command(flatten)]
    verifying: Verifying,
    #[command(flatten)]
    crypto_mb: CryptoMb,
    /// Time a card has for one signature before this CPU makes it
    #[arg(long, value_name = "TIME", default_value = "200ms", value_parser = positive_duration)]
    card_timeout: Duration,
    /// Protocol that the server behind speaks (ALPN), as h2 if it takes HTTP/2 without TLS; repeat it
    /// for more, "none" to name none
    #[arg(long, value_name = "NAME", default_value = "http/1.1", value_parser = protocol)]
    alpn: Vec<String>,
    /// Connections at once; more wait in the backlog
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    connections_max: u32,
    /// Connections that wait to be accepted; the system may allow fewer
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=65_535))]
    backlog: u32,
    /// Time for a handshake
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = positive_duration)]
    handshake_timeout: Duration,
    /// Time for connecting to the server behind
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = positive_duration)]
    connect_timeout: Duration,
    /// Time without a byte either way after which a connection is cut off
    #[arg(long, value_name = "TIME", default_value = "5min", value_parser = positive_duration)]
    idle_timeout: Duration,
    /// Time for connections to end in after SIGTERM, before they are cut off
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = positive_duration)]
    drain_timeout: Duration,
    /// Directory for telemetry pages [default: /run/hwshim for root, else one of the user's own]
    #[arg(long, value_name = "DIR")]
    telemetry: Option<PathBuf>,
    /// Print a JSON document a second, each on a line of its own; what nobody reads is dropped
    #[arg(long)]
    json: bool,
}

/// Serves until a signal comes.
pub(crate) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let files = files(args)?;
    each_once(&args.cards, &["serve-tls"])?;
    let protocols = protocols(&args.alpn)?;
    make_room(args.connections_max)?;
    args.crypto_mb.check()?;
    // What can be known to be wrong is found out before a card is touched, and what may hang, as a disk
    // or whoever reads warnings, is done with before signals are caught, which end it until then.
    let pairs = Pairs::read(files).map_err(unusable)?;
    for key in pairs.exposed_keys() {
        output.warn(key)?;
    }
    let directory = args
        .telemetry
        .clone()
        .unwrap_or_else(telemetry::default_directory);
    let offload = Offload::default();
    let offload = if args.always {
        offload.always()
    } else {
        offload
    };
    // Nothing is verified where nothing is offloaded.
    let eights = if args.cards.is_empty() {
        None
    } else {
        args.verifying.eights(&args.crypto_mb, output)?
    };
    let options = core::Options {
        offload,
        timeout: args.card_timeout,
        eights,
        ..core::Options::default()
    };
    let runtime = runtime()?;
    // What signs in software does so in these threads.
    let cores = options.cores.min(runtime.metrics().num_workers());
    let options = core::Options { cores, ..options };
    // From here on there is something to let go of.
    let signals = {
        let _entered = runtime.enter();
        Signals::new().map_err(no_signals)?
    };
    with_cards(
        args, pairs, protocols, options, &directory, runtime, signals,
    )
    .map_err(said)
}

/// Opens the cards, serves with them until a signal comes, and lets go of them.
fn with_cards(
    args: &Args,
    pairs: Pairs,
    protocols: Vec<Vec<u8>>,
    options: core::Options,
    directory: &Path,
    runtime: Runtime,
    signals: Signals,
) -> Result<(), Failure> {
    let shown = Arc::default();
    // Dropped last, on whichever way out. Certificates have keys, and keys have the router: the cards
    // are free when all have gone.
    let (mut cards, router) =
        Cards::open(&args.cards, &args.crypto_mb, directory, options, &shown)?;
    let certificates =
        Certificates::load(pairs, Provider::new(router.clone())).map_err(unusable)?;
    let certificates = Arc::new(certificates);
    let config = Arc::new(config(protocols, &certificates)?);
    let outcome = runtime.block_on(serve(
        args,
        config,
        &certificates,
        signals,
        &mut cards,
        &router,
        (directory, shown),
    ));
    // Connections are over, and whatever a task still does is waited for no longer.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// Says why it failed: not by who ends the program, who would wait for a reader, when signals are caught
/// and end it no more.
fn said(failure: Failure) -> Failure {
    match (failure, Voice::new()) {
        (failure @ Failure::Reported { .. }, Ok(mut voice)) => {
            voice.tell(failure);
            voice.end();
            Failure::Said
        }
        // It has been said, or there are no threads for it.
        (failure, _) => failure,
    }
}

fn files(args: &Args) -> Result<Vec<Files>, Failure> {
    let (certificates, keys) = (&args.certificates, &args.keys);
    if certificates.len() != keys.len() {
        let (certificates, keys) = (certificates.len(), keys.len());
        return Err(misuse(
            &["serve-tls"],
            format_args!(
                "--cert is there {certificates} times and --key {keys} times; give each --cert FILE \
                 its --key FILE, in the same order"
            ),
        ));
    }
    let pair = |(certificate, key): (&PathBuf, &PathBuf)| Files {
        certificate: certificate.clone(),
        key: key.clone(),
    };
    Ok(certificates.iter().zip(keys).map(pair).collect())
}

/// What to offer by ALPN.
fn protocols(names: &[String]) -> Result<Vec<Vec<u8>>, Failure> {
    let refused = |why: String| {
        Failure::new("the protocols cannot be offered", why)
            .hint("name each that the server behind speaks once, or only --alpn none")
    };
    for (index, name) in names.iter().enumerate() {
        if names[..index].contains(name) {
            return Err(refused(format!("--alpn {name} stands there twice")));
        }
    }
    let none = names.iter().any(|name| name == NO_PROTOCOL);
    if let Some(other) = names.iter().find(|name| none && *name != NO_PROTOCOL) {
        return Err(refused(format!(
            "--alpn {NO_PROTOCOL} contradicts --alpn {other}"
        )));
    }
    let offered = names.iter().filter(|name| *name != NO_PROTOCOL);
    Ok(offered.map(|name| name.clone().into_bytes()).collect())
}

/// Sees to it that there are descriptors for so many connections, which have two each.
fn make_room(connections_max: u32) -> Result<(), Failure> {
    /// For files, cards, the runtime and standard streams.
    const BESIDES: u64 = 256;
    let needed = 2 * u64::from(connections_max) + BESIDES;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let raised = Rlimit {
        current: Some(needed),
        maximum,
    };
    setrlimit(Resource::Nofile, raised).map_err(|error| {
        Failure::new(
            format!("{connections_max} connections need {needed} descriptors, more than allowed"),
            io::Error::from(error),
        )
        .hint("raise the limit (ulimit -Hn), or take fewer with --connections-max N")
    })
}

/// With as many threads as tokio would take by itself: one a core, unless the environment has a number.
fn runtime() -> Result<Runtime, Failure> {
    let threads = match std::env::var_os(THREADS) {
        Some(text) => {
            // What is no Unicode is no number either, and is shown as well as it can be.
            let text = text.to_string_lossy();
            text.parse().map_err(|error| {
                Failure::new(format!("{THREADS}={text} cannot be used"), error)
                    .hint("give it the number of threads that serve, or leave it unset")
            })?
        }
        None => thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN),
    };
    can_start(threads).map_err(no_threads)?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.get())
        .enable_all()
        .build()
        .map_err(|error| Failure::new("connections cannot be waited for", error).hint(LIMITS))
}

/// What tokio reads, and panics at where it is no number.
const THREADS: &str = "TOKIO_WORKER_THREADS";

/// Starts as many threads at once and ends them: tokio panics where it gets none.
fn can_start(threads: NonZero<usize>) -> io::Result<()> {
    let gate = Mutex::new(());
    thread::scope(|scope| {
        let closed = gate.lock();
        let start = |_| thread::Builder::new().spawn_scoped(scope, || drop(gate.lock()));
        let started: Vec<_> = (0..threads.get()).map(start).collect();
        drop(closed);
        // Those that are only waited for have ended, and may still take room.
        started.into_iter().try_for_each(|thread| {
            // One that panicked has said so.
            let _ = thread?.join();
            Ok(())
        })
    })
}

fn no_threads(error: io::Error) -> Failure {
    Failure::new("threads cannot be started", error).hint(LIMITS)
}

fn unusable(error: CertificateError) -> Failure {
    let hint = hint(&error);
    Failure::new("TLS cannot be served", error).hint(hint)
}

fn hint(error: &CertificateError) -> &'static str {
    match error {
        CertificateError::Read { .. } => {
            "name files that this user may read: --cert FILE --key FILE"
        }
        CertificateError::Lacking { .. } => {
            "write it as PEM, which begins with -----BEGIN; decrypt a key with openssl pkey"
        }
        _ => {
            "give each --cert the --key it was made with, in the same order; an RSA key has 2048 bits or more"
        }
    }
}

fn config(
    protocols: Vec<Vec<u8>>,
    certificates: &Arc<Certificates>,
) -> Result<ServerConfig, Failure> {
    let failed = |error| Failure::new("TLS cannot be set up", error);
    let mut config = ServerConfig::builder_with_provider(certificates.provider().rustls())
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(certificates) as _);
    // Sessions are with the clients, encrypted, and take no memory here.
    config.ticketer = Ticketer::new().map_err(failed)?;
    config.alpn_protocols = protocols;
    Ok(config)
}

/// Signals that a server is told by.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Stop,
            _ = self.interrupt.recv() => Told::Stop,
            _ = self.hang_up.recv() => Told::Reload,
        }
    }
}

enum Told {
    Stop,
    Reload,
}

async fn serve(
    args: &Args,
    config: Arc<ServerConfig>,
    certificates: &Arc<Certificates>,
    signals: Signals,
    cards: &mut Cards,
    router: &Router,
    (directory, shown): (&Path, Arc<OnceLock<Watch>>),
) -> Result<(), Failure> {
    let terminator = Terminator::listen(args.listen, config, options(args))
        .map_err(|error| cannot_listen(args.listen, error))?;
    let address = terminator
        .address()
        .map_err(|error| cannot_listen(args.listen, error))?;
    // From here on it is on the pages of cards.
    let watch = shown.get_or_init(|| terminator.watch()).clone();
    cards
        .publish_without_a_card(router, address, directory, &watch)
        .map_err(no_threads)?;
    let mut voice = Voice::new().map_err(no_voice)?;
    let mut reporter = Reporter::new(address, watch, router.clone());
    let outcome = match greet(args, address, &mut reporter, &mut voice) {
        Ok(()) => {
            let reloads = Reloads::of(certificates);
            attend(
                args,
                terminator,
                signals,
                reloads,
                cards,
                &mut reporter,
                &mut voice,
            )
            .await
        }
        Err(failure) => Err(failure),
    };
    voice.end_with(outcome)
}

/// Lets `terminator` serve until it has ended, and says meanwhile how it does.
async fn attend(
    args: &Args,
    terminator: Terminator,
    mut signals: Signals,
    mut reloads: Reloads<'_>,
    cards: &Cards,
    reporter: &mut Reporter,
    voice: &mut Voice,
) -> Result<(), Failure> {
    let (tell, told) = watch::channel(Phase::Serving);
    // Not in this task: whatever happens here, connections are accepted meanwhile.
    let mut serving = tokio::spawn(terminator.serve(told));
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    // At once, which greet has done.
    seconds.tick().await;
    let cut_off = loop {
        tokio::select! {
            cut_off = &mut serving => break cut_off,
            told = signals.next() => match told {
                Told::Stop => {
                    tell.send_modify(|phase| *phase = later(*phase));
                    if *tell.borrow() == Phase::Draining {
                        say_draining(args, reporter, voice);
                    }
                }
                Told::Reload => reloads.ask(SystemClock.now(), voice),
            },
            reloaded = reloads.end() => say_reloaded(reloaded, voice),
            _ = seconds.tick() => {
                say_trouble(reporter, cards, voice);
                if args.json {
                    voice.say(reporter.line(voice.dropped())?);
                }
            }
        }
    };
    let cut_off = cut_off.map_err(|error| Failure::new("connections are served no more", error))?;
    // What came to pass in the last second.
    say_trouble(reporter, cards, voice);
    voice.tell(reporter.summary());
    if cut_off == 0 {
        return Ok(());
    }
    let timeout = humantime::format_duration(args.drain_timeout);
    Err(Failure::new(
        format!("{cut_off} connections were cut off"),
        format!("they had not ended {timeout} after the signal, or there was a second one"),
    )
    .hint("give them longer with --drain-timeout TIME"))
}

fn say_draining(args: &Args, reporter: &Reporter, voice: &mut Voice) {
    let left = reporter.connections_left();
    if left > 0 {
        voice.tell(format_args!(
            "draining: {left} connections have {} to end; another signal cuts them off",
            humantime::format_duration(args.drain_timeout)
        ));
    }
}

fn say_trouble(reporter: &mut Reporter, cards: &Cards, voice: &mut Voice) {
    for news in reporter.news_of_accelerators() {
        match news {
            News::Bad(news) => voice.warn(news),
            News::Good(news) => voice.tell(news),
        }
    }
    if let Some(trouble) = reporter.trouble() {
        voice.warn(trouble);
    }
    if let Some(mistake) = reporter.mistake() {
        voice.warn(mistake);
    }
    for warning in cards.warnings() {
        voice.warn(warning);
    }
    voice.mind();
}

fn options(args: &Args) -> Options {
    Options {
        backend: args.backend.clone(),
        connections_max: usize::try_from(args.connections_max).unwrap_or(usize::MAX),
        backlog: args.backlog,
        handshake_timeout: args.handshake_timeout,
        connect_timeout: args.connect_timeout,
        idle_timeout: args.idle_timeout,
        drain_timeout: args.drain_timeout,
    }
}

fn greet(
    args: &Args,
    address: SocketAddr,
    reporter: &mut Reporter,
    voice: &mut Voice,
) -> Result<(), Failure> {
    if args.json {
        voice.say(reporter.line(0)?);
        return Ok(());
    }
    let signers = match &args.cards[..] {
        [] => "this CPU".to_owned(),
        cards => {
            let names: Vec<_> = cards.iter().map(ToString::to_string).collect();
            format!("{} or else this CPU", names.join(", "))
        }
    };
    voice.say(format_args!(
        "hwshim: TLS on {address} for {}, signed by {signers}; stop it with Ctrl-C",
        args.backend
    ));
    Ok(())
}

fn cannot_listen(address: SocketAddr, error: io::Error) -> Failure {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 take root or CAP_NET_BIND_SERVICE; --listen 127.0.0.1:8443 does not"
        }
        io::ErrorKind::AddrInUse => "another server listens there; choose a port with --listen",
        _ => "choose an address of this host with --listen",
    };
    Failure::new(format!("{address} cannot be listened on"), error).hint(hint)
}

const fn later(phase: Phase) -> Phase {
    match phase {
        Phase::Serving => Phase::Draining,
        Phase::Draining | Phase::Ending => Phase::Ending,
    }
}

fn say_reloaded(reloaded: io::Result<Reloaded>, voice: &mut Voice) {
    let Reloaded {
        count,
        exposed_keys,
    } = match reloaded {
        Ok(reloaded) => reloaded,
        Err(error) => {
            voice.warn(format_args!(
                "the certificates in use stay, reading them again failed: {error}\n\
                 hint: {LIMITS}; then send SIGHUP again"
            ));
            return;
        }
    };
    for key in exposed_keys {
        voice.warn(key);
    }
    match count {
        Ok(count) => voice.tell(format_args!("{count} certificates were read again")),
        Err(error) => {
            voice.warn(format_args!(
                "the certificates in use stay, the new ones cannot be used: {}\n\
                 hint: {}, then send SIGHUP again",
                with_causes(&error),
                hint(&error)
            ));
        }
    }
}

/// What stands for no protocol at all.
const NO_PROTOCOL: &str = "none";

/// Parses where to listen. A name is not looked up: it may have several addresses, and others tomorrow.
fn ip_and_port(text: &str) -> Result<SocketAddr, String> {
    let hint = "give an IP address of this host and a port, as 127.0.0.1:8443 or [::1]:8443 are";
    text.parse().map_err(|error| format!("{error}; {hint}"))
}

/// Parses the name of a protocol (RFC 7301 §3.1 "The Application-Layer Protocol Negotiation
/// Extension").
fn protocol(name: &str) -> Result<String, String> {
    /// One byte says how long it is.
    const LEN_MAX: usize = 255;
    match name.len() {
        0 => Err("a protocol has a name, as http/1.1 is".to_owned()),
        1..=LEN_MAX => Ok(name.to_owned()),
        len => Err(format!("it has {len} bytes, and may have {LEN_MAX}")),
    }
}

/// Parses `localhost:8080` or `[::1]:8080`.
fn host_and_port(text: &str) -> Result<String, String> {
    let wrong = || format!("{text:?} is not HOST:PORT, as 127.0.0.1:8080 is");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let bare_ipv6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    match port.parse::<u16>() {
        Ok(1..) if !host.is_empty() && !bare_ipv6 => Ok(text.to_owned()),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_has_a_host_and_a_port() {
        for right in ["localhost:80", "127.0.0.1:8080", "[::1]:8080"] {
            assert_eq!(host_and_port(right).as_deref(), Ok(right));
        }
        for wrong in [
            "",
            "localhost",
            ":80",
            "::1:80",
            "host:0",
            "host:70000",
            "8080",
        ] {
            host_and_port(wrong).unwrap_err();
        }
    }

    #[test]
    fn where_to_listen_is_an_address_and_who_gives_a_name_is_told_so() {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 8443));
        assert_eq!(ip_and_port("127.0.0.1:8443"), Ok(loopback));
        for wrong in ["localhost:8443", "8443", "127.0.0.1"] {
            let refused = ip_and_port(wrong).unwrap_err();
            assert!(refused.contains("give an IP address"), "{refused}");
        }
    }

    #[test]
    fn protocols_that_cannot_be_offered_are_refused_by_name() {
        let offered = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(ToString::to_string).collect();
            protocols(&names).map_err(|failure| failure.to_string())
        };
        let two = [b"h2".to_vec(), b"http/1.1".to_vec()];
        assert_eq!(offered(&["h2", "http/1.1"]).as_deref(), Ok(&two[..]));
        assert_eq!(offered(&["none"]), Ok(vec![]));
        for (names, wanted) in [
            (["none", "h2"], "--alpn none contradicts --alpn h2"),
            (["h2", "none"], "--alpn none contradicts --alpn h2"),
            (["h2", "h2"], "--alpn h2 stands there twice"),
        ] {
            let refused = offered(&names).unwrap_err();
            assert!(
                refused.contains(wanted) && refused.contains("hint: "),
                "{refused}"
            );
        }
        let longest = "x".repeat(255);
        assert_eq!(protocol(&longest).as_ref(), Ok(&longest));
        for (wrong, why) in [
            (String::new(), "a protocol has a name"),
            ("x".repeat(256), "it has 256 bytes, and may have 255"),
        ] {
            let refused = protocol(&wrong).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn the_second_signal_ends_what_the_first_lets_end() {
        assert_eq!(later(Phase::Serving), Phase::Draining);
        assert_eq!(later(Phase::Draining), Phase::Ending);
        assert_eq!(later(Phase::Ending), Phase::Ending);
    }
}
