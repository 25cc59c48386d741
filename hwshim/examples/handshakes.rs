//! What the acceptor costs a server: processor time of a handshake that is offloaded and of one that
//! software signs, and memory of one that waits for its signature.
//!
//! ```text
//! cargo run --release --example handshakes
//! ```
//!
//! The accelerator is a thread that signs with ring, so processor time is that of the server's
//! thread alone. A client is a ClientHello, made once: all there is up to the server's first flight,
//! and nothing of what comes after, which is tokio-rustls's on both sides. Plain and offloaded
//! handshakes take turns, and the best of several rounds counts, since the others measure the
//! neighbours.

#![expect(clippy::print_stdout, reason = "it reports on standard output")]

#[path = "../tests/held/mod.rs"]
mod held;

use held::{Silent, resident_bytes};
use hwshim::accelerator::Accelerator;
use hwshim::accelerator::software::{self, Ring};
use hwshim::acceptor::{OffloadAcceptor, Options};
use hwshim::kat;
use hwshim::key::SignatureScheme;
use hwshim::provider::Provider;
use hwshim::router::breaker::State as Breaker;
use hwshim::router::core::Offload;
use hwshim::router::{self, Router, verify};
use rustix::time::{ClockId, clock_gettime};
use rustls::crypto::{aws_lc_rs, ring};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivateSec1KeyDer, ServerName,
};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig};
use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsAcceptor;

type Failure = Box<dyn Error>;

const ROUNDS: usize = 9;
const AT_ONCE: usize = 64;
/// Rounds of handshakes that come alone, and how many a round has.
const ROUNDS_ALONE: usize = 400;
const IN_A_ROW: usize = 8;
const WAITING: usize = 1000;

fn main() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let hello: Arc<[u8]> = client_hello()?.into();
    runtime.block_on(time(&hello))?;
    for key in [Key::Rsa2048, Key::P256] {
        runtime.block_on(alone(&hello, key))?;
    }
    runtime.block_on(memory(&hello))
}

/// Processor time of this thread for each handshake.
async fn time(hello: &Arc<[u8]>) -> Result<(), Failure> {
    let base = Arc::new(ring::default_provider());
    let plain = TlsAcceptor::from(config(base, Key::Rsa2048)?);
    let provider = Provider::new(router(Box::<Ring>::default(), Offload::EVERYTHING)?);
    let offloading = OffloadAcceptor::from(config(provider.rustls(), Key::Rsa2048)?);
    wait_until_in_use(provider.router()).await;
    let mut best = [Duration::MAX; 2];
    for _ in 0..ROUNDS {
        let software = of_each(async {
            together(|| plain.accept(Client::new(hello))).await;
        });
        best[0] = best[0].min(software.await);
        let offloaded = of_each(async {
            together(|| offloading.accept(Client::new(hello))).await;
        });
        best[1] = best[1].min(offloaded.await);
    }
    let [software, offloaded] = best.map(micros);
    let (sign, verify) = signature()?;
    println!("processor time of the server's thread, up to its first flight, RSA-2048, TLS 1.3:");
    println!("  rustls and ring          {software:7.1} us");
    println!(
        "  offloaded, verified      {offloaded:7.1} us  1/{:.1}",
        software / offloaded
    );
    println!("  a signature              {sign:7.1} us");
    println!("  a verification           {verify:7.1} us");
    let rest = offloaded - verify - (software - sign);
    println!("  replay and handing over  {rest:7.1} us");
    println!("  {:?}", offloading.handshakes());
    Ok(())
}

/// The same where software signs, since an accelerator that is as fast does not pay: what is left is
/// what the acceptor adds.
async fn alone(hello: &Arc<[u8]>, key: Key) -> Result<(), Failure> {
    let base = aws_lc_rs::default_provider();
    let plain = TlsAcceptor::from(config(Arc::new(base.clone()), key)?);
    let router = router(Box::<Ring>::default(), Offload::default())?;
    let provider = Provider::over(base, router);
    let offloading = OffloadAcceptor::from(config(provider.rustls(), key)?);
    wait_until_in_use(provider.router()).await;
    let mut taken = [const { Vec::new() }; 2];
    for _ in 0..ROUNDS_ALONE {
        let software = in_a_row(|| plain.accept(Client::new(hello)));
        taken[0].push(software.await);
        let before = offloading.handshakes().offloaded;
        let wrapped = in_a_row(|| offloading.accept(Client::new(hello)));
        let wrapped = wrapped.await;
        // Now and then the accelerator is tried all the same, and its thread's time is not ours.
        if offloading.handshakes().offloaded == before {
            taken[1].push(wrapped);
        }
    }
    let [plain, wrapped] = taken.map(|mut taken| {
        taken.sort_unstable();
        [0, taken.len() / 4].map(|index| taken.get(index).copied().map_or(f64::NAN, micros))
    });
    println!("signed in software, one at a time, {key:?}, TLS 1.3, best and lower quartile:");
    println!(
        "  rustls and AWS-LC        {:7.1} us {:7.1} us",
        plain[0], plain[1]
    );
    println!(
        "  behind the acceptor      {:7.1} us {:7.1} us",
        wrapped[0], wrapped[1]
    );
    println!(
        "  it adds                  {:7.1} us {:7.1} us",
        wrapped[0] - plain[0],
        wrapped[1] - plain[1]
    );
    Ok(())
}

/// Processor time of this thread for each of some handshakes that come one after the other.
async fn in_a_row<F: Future>(handshake: impl Fn() -> F) -> Duration {
    let begun = processor_time();
    for _ in 0..IN_A_ROW {
        handshake().await;
    }
    (processor_time() - begun) / u32::try_from(IN_A_ROW).unwrap_or(u32::MAX)
}

/// Resident memory for each handshake that waits.
async fn memory(hello: &Arc<[u8]>) -> Result<(), Failure> {
    let is_silent = Arc::new(AtomicBool::new(false));
    let silent = Box::new(Silent::once(&is_silent));
    let provider = Provider::new(router(silent, Offload::EVERYTHING)?);
    let options = Options {
        timeout: Duration::from_secs(600),
        ..Options::default()
    };
    let acceptor = OffloadAcceptor::new(config(provider.rustls(), Key::Rsa2048)?, options);
    wait_until_in_use(provider.router()).await;
    is_silent.store(true, Ordering::Relaxed);
    let before = resident_bytes()?;
    let mut waiting: Vec<_> = (0..WAITING)
        .map(|_| Box::pin(acceptor.accept(Client::new(hello))))
        .collect();
    // By turns, as they would be on a runtime: a step that might be offloaded is put off once.
    while provider.router().requests().in_flight < WAITING as u64 {
        for handshake in &mut waiting {
            let look = poll_fn(|context| Poll::Ready(handshake.as_mut().poll(context)));
            if look.await.is_ready() {
                return Err("a handshake did not wait for its signature".into());
            }
        }
    }
    let each = (resident_bytes()? - before) / WAITING;
    println!("resident memory of each of {WAITING} handshakes that wait for their signature:");
    println!(
        "  {each} bytes, of which the future has {}",
        size_of_val(&*waiting[0])
    );
    println!("  {} are in flight", provider.router().requests().in_flight);
    Ok(())
}

fn signature() -> Result<(f64, f64), Failure> {
    const TIMES: u32 = 100;
    let (key, scheme) = (kat::rsa_2048_key(), SignatureScheme::RsaPssSha512);
    let signed = software::sign(&key, scheme, b"message")?;
    let mut best = [Duration::MAX; 2];
    for _ in 0..ROUNDS {
        let begun = processor_time();
        for _ in 0..TIMES {
            software::sign(&key, scheme, b"message")?;
        }
        let signing = processor_time() - begun;
        let begun = processor_time();
        for _ in 0..TIMES {
            verify::signature(key.public_key(), scheme, b"message", &signed)?;
        }
        let verifying = processor_time() - begun;
        best = [best[0].min(signing / TIMES), best[1].min(verifying / TIMES)];
    }
    Ok((micros(best[0]), micros(best[1])))
}

async fn of_each(work: impl Future<Output = ()>) -> Duration {
    let begun = processor_time();
    work.await;
    (processor_time() - begun) / u32::try_from(AT_ONCE).unwrap_or(u32::MAX)
}

async fn together<F: Future>(handshake: impl Fn() -> F) {
    let mut handshakes: Vec<_> = (0..AT_ONCE).map(|_| Some(Box::pin(handshake()))).collect();
    poll_fn(|context| {
        for slot in &mut handshakes {
            if slot
                .as_mut()
                .is_some_and(|one| one.as_mut().poll(context).is_ready())
            {
                *slot = None;
            }
        }
        match handshakes.iter().all(Option::is_none) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
}

fn router(
    accelerator: Box<dyn Accelerator>,
    offload: Offload,
) -> Result<Router, router::StartError> {
    let options = router::core::Options {
        timeout: Duration::from_secs(600),
        offload,
        ..router::core::Options::default()
    };
    Router::start(vec![accelerator], options)
}

async fn wait_until_in_use(router: &Router) {
    while !matches!(router.status()[0].breaker, Breaker::Closed { .. }) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The server's key.
#[derive(Clone, Copy, Debug)]
enum Key {
    Rsa2048,
    P256,
}

impl Key {
    fn der(self) -> PrivateKeyDer<'static> {
        match self {
            Self::Rsa2048 => {
                PrivatePkcs1KeyDer::from(&include_bytes!("../src/kat/rsa-2048.pkcs1.der")[..])
                    .into()
            }
            Self::P256 => {
                PrivateSec1KeyDer::from(&include_bytes!("../src/kat/p256.sec1.der")[..]).into()
            }
        }
    }
}

/// A server with `key`. Its certificate is none, which no client is here to see.
fn config(
    provider: Arc<rustls::crypto::CryptoProvider>,
    key: Key,
) -> Result<Arc<ServerConfig>, Failure> {
    let key = provider.key_provider.load_private_key(key.der())?;
    let certificate = CertificateDer::from(vec![0x30; 1000]);
    let certified = rustls::sign::CertifiedKey::new(vec![certificate], key);
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
    Ok(Arc::new(config))
}

fn client_hello() -> Result<Vec<u8>, Failure> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from("localhost")?;
    let mut hello = Vec::new();
    ClientConnection::new(Arc::new(config), name)?.write_tls(&mut hello)?;
    Ok(hello)
}

/// A client that says hello and hangs up.
struct Client {
    hello: Arc<[u8]>,
    read: usize,
}

impl Client {
    fn new(hello: &Arc<[u8]>) -> Self {
        Self {
            hello: Arc::clone(hello),
            read: 0,
        }
    }
}

impl AsyncRead for Client {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let end = self.hello.len().min(self.read + buffer.remaining());
        buffer.put_slice(&self.hello[self.read..end]);
        self.read = end;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client {
    fn poll_write(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
