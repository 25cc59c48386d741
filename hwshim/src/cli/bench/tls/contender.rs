//! Who is compared: rustls with each library by itself, and with each accelerator under it.

use super::{Args, Key, cannot};
use crate::cli::bench::distinct;
use crate::cli::output::{Failure, Output, with_causes};
use crate::cli::selftest;
use hwshim::accelerator::multi_buffer;
use hwshim::acceptor::OffloadAcceptor;
use hwshim::address::{self, Address, Software};
use hwshim::clock::{Clock, SystemClock};
use hwshim::provider::Provider;
use hwshim::router::core::{LaneStatus, Offload, Options, Requests};
use hwshim::router::verify::eights::Eights;
use hwshim::router::{Router, breaker};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivateSec1KeyDer};
use rustls::server::ServerSessionMemoryCache;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

/// Time an accelerator has to become usable.
const BRING_UP: Duration = Duration::from_secs(10);
/// Sessions that a server remembers: two for each handshake of those under way, and to spare.
const SESSIONS: usize = 1 << 16;

/// What does for rustls what no accelerator does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Library {
    /// ring.
    Ring,
    /// AWS-LC.
    #[cfg(feature = "aws-lc-rs")]
    AwsLcRs,
}

impl Library {
    const ALL: &[Self] = &[
        Self::Ring,
        #[cfg(feature = "aws-lc-rs")]
        Self::AwsLcRs,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            #[cfg(feature = "aws-lc-rs")]
            Self::AwsLcRs => "aws-lc-rs",
        }
    }

    fn provider(self) -> CryptoProvider {
        match self {
            Self::Ring => rustls::crypto::ring::default_provider(),
            #[cfg(feature = "aws-lc-rs")]
            Self::AwsLcRs => rustls::crypto::aws_lc_rs::default_provider(),
        }
    }
}

impl FromStr for Library {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(library) = Self::ALL.iter().find(|library| library.name() == text) {
            return Ok(*library);
        }
        let names: Vec<_> = Self::ALL.iter().map(|library| library.name()).collect();
        Err(match text {
            "aws-lc-rs" => {
                "it is not built in: build this program with --features aws-lc-rs".to_owned()
            }
            _ => format!("it is not a library that is built in: {}", names.join(", ")),
        })
    }
}

/// Accepts as its kind does.
#[derive(Clone)]
enum Acceptor {
    Plain(TlsAcceptor),
    Offload(OffloadAcceptor),
}

impl Acceptor {
    /// Performs a handshake, and sends a byte for the client to see that it is over.
    async fn serve(self, io: DuplexStream) {
        // Who does not get the byte says so: the client.
        let accepted = match self {
            Self::Plain(acceptor) => acceptor.accept(io).await,
            Self::Offload(acceptor) => acceptor.accept(io).await,
        };
        if let Ok(mut stream) = accepted
            && stream.write_all(b".").await.is_ok()
        {
            let _ = stream.flush().await;
        }
    }
}

/// One of those that are compared.
pub(super) struct Contender {
    pub(super) name: String,
    acceptors: Vec<(Key, Acceptor)>,
    pub(super) router: Option<Router>,
}

/// The server's end of a connection, on its way there.
pub(super) struct Connection {
    acceptor: Acceptor,
    io: DuplexStream,
}

/// Makes connections to one contender.
pub(super) struct Connect(Acceptor);

impl Connect {
    /// One whose server's end is `io`.
    pub(super) fn connection(&self, io: DuplexStream) -> Connection {
        let Self(acceptor) = self;
        Connection {
            acceptor: acceptor.clone(),
            io,
        }
    }
}

impl Contender {
    /// How to connect to the server with `key`.
    ///
    /// # Panics
    ///
    /// If the bench was not started with that key.
    pub(super) fn connect(&self, key: Key) -> Connect {
        let of_key = self.acceptors.iter().find(|(of, _)| *of == key);
        let (_, acceptor) = of_key.expect("there is an acceptor for every key that is measured");
        Connect(acceptor.clone())
    }

    /// Where requests of its accelerator went so far.
    pub(super) fn requests(&self) -> Requests {
        self.router
            .as_ref()
            .map(Router::requests)
            .unwrap_or_default()
    }

    /// Signatures by `key` that software has made so far, if that is counted: by acceptor and router,
    /// of keys that may be offloaded.
    pub(super) fn signed_in_software(&self, key: Key) -> Option<u64> {
        let of_key = self.acceptors.iter().find(|(of, _)| *of == key);
        match of_key {
            Some((Key::Rsa2048, Acceptor::Offload(acceptor))) => {
                let handshakes = acceptor.handshakes();
                Some(handshakes.software + handshakes.mismatched + self.requests().software)
            }
            _ => None,
        }
    }

    fn new(
        name: String,
        base: CryptoProvider,
        router: Option<&Router>,
        keys: &[Key],
    ) -> Result<Self, Failure> {
        let provider = router.map(|router| Provider::over(base.clone(), router.clone()));
        let base = provider
            .as_ref()
            .map_or_else(|| Arc::new(base), Provider::rustls);
        let acceptor = |key: &Key| -> Result<_, Failure> {
            let config = server_config(&base, *key).map_err(|error| cannot("server", error))?;
            let config = Arc::new(config);
            Ok((
                *key,
                match &provider {
                    Some(_) => Acceptor::Offload(OffloadAcceptor::from(config)),
                    None => Acceptor::Plain(TlsAcceptor::from(config)),
                },
            ))
        };
        Ok(Self {
            acceptors: keys.iter().map(acceptor).collect::<Result<_, _>>()?,
            name,
            router: router.cloned(),
        })
    }
}

fn server_config(provider: &Arc<CryptoProvider>, key: Key) -> Result<ServerConfig, rustls::Error> {
    let private: PrivateKeyDer<'static> = match key {
        Key::Rsa2048 => {
            PrivatePkcs1KeyDer::from(&include_bytes!("../../../kat/rsa-2048.pkcs1.der")[..]).into()
        }
        Key::P256 => {
            PrivateSec1KeyDer::from(&include_bytes!("../../../kat/p256.sec1.der")[..]).into()
        }
    };
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate(key)], private)?;
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
    Ok(config)
}

/// The certificate of `key` for [`NAME`](super::client::NAME): signed by itself, no authority, valid
/// from 2020 to 2120, so that a clock that is wrong by years does not matter.
pub(super) fn certificate(key: Key) -> CertificateDer<'static> {
    CertificateDer::from(match key {
        Key::Rsa2048 => &include_bytes!("rsa-2048.crt.der")[..],
        Key::P256 => &include_bytes!("p256.crt.der")[..],
    })
}

/// The accelerator that every host might have.
const MULTI_BUFFER: Address = Address::Software(Software::MultiBuffer);

/// Who is asked to be compared.
#[derive(Debug)]
pub(super) struct Chosen {
    accelerators: Vec<Address>,
    libraries: Vec<Library>,
    /// Why [`MULTI_BUFFER`] is not among them, if none was named.
    absent: Option<String>,
}

impl Chosen {
    /// The accelerators and libraries that were named; of what was not, what can be had.
    ///
    /// # Errors
    ///
    /// If they come to one library by itself, and nobody asked for that.
    pub(super) fn look(args: &Args) -> Result<Self, Failure> {
        Self::of(&args.accelerators, &args.libraries, Library::ALL, || {
            multi_buffer::look(args.crypto_mb.path()).map_err(|error| with_causes(&error))
        })
    }

    fn of(
        accelerators: &[Address],
        libraries: &[Library],
        built_in: &[Library],
        look: impl FnOnce() -> Result<String, String>,
    ) -> Result<Self, Failure> {
        let (accelerators, absent) = match accelerators {
            [] => match look() {
                Ok(_) => (vec![MULTI_BUFFER], None),
                Err(reason) => (Vec::new(), Some(reason)),
            },
            named => (named.to_vec(), None),
        };
        if let (Some(reason), [], [only]) = (&absent, libraries, built_in) {
            return Err(Failure::new(
                format!("there is nothing to compare with: {MULTI_BUFFER} is absent"),
                reason.as_str(),
            )
            .hint(format!(
                "give the address of an accelerator (hwshim list shows those of this host), or \
                 --libraries {} to measure that by itself",
                only.name()
            )));
        }
        let libraries = match libraries {
            [] => built_in.to_vec(),
            named => distinct(named),
        };
        Ok(Self {
            accelerators,
            libraries,
            absent,
        })
    }

    /// Says that no accelerator will be compared, if so.
    pub(super) fn warn(&self, output: &mut Output) -> Result<(), Failure> {
        let Some(reason) = &self.absent else {
            return Ok(());
        };
        output.warn(format_args!(
            "no accelerator is compared: none was named, and {MULTI_BUFFER} is absent: {reason}"
        ))
    }
}

/// The server's thread, and all it may be asked to serve as.
pub(super) struct Bench {
    pub(super) contenders: Vec<Contender>,
    accelerators: Vec<(String, Router)>,
    pub(super) server: mpsc::UnboundedSender<Connection>,
}

impl Bench {
    /// Starts the server, and waits until every accelerator can be used.
    pub(super) fn start(
        args: &Args,
        chosen: Chosen,
        eights: Option<&'static Eights>,
    ) -> Result<Self, Failure> {
        let Chosen {
            accelerators: addresses,
            libraries,
            ..
        } = chosen;
        let (server, mut connections) = mpsc::unbounded_channel::<Connection>();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| cannot("server", error))?;
        let accelerators = {
            let _entered = runtime.enter();
            accelerators(addresses, &args.crypto_mb.options(), args.always, eights)?
        };
        std::thread::Builder::new()
            .name("server".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    while let Some(Connection { acceptor, io }) = connections.recv().await {
                        tokio::spawn(acceptor.serve(io));
                    }
                });
            })
            .map_err(|error| cannot("server", error))?;
        for (address, router) in &accelerators {
            wait_until_usable(address, router)?;
        }
        let routers: Vec<_> = accelerators
            .iter()
            .map(|(address, router)| (address.to_string(), router.clone()))
            .collect();
        Ok(Self {
            contenders: contenders(&libraries, &routers, &args.keys)?,
            accelerators: routers,
            server,
        })
    }

    /// How each accelerator stands.
    pub(super) fn states(&self) -> Vec<(String, LaneStatus)> {
        let status = |(name, router): &(String, Router)| {
            let first = router.status().into_iter().next();
            first.map(|status| (name.clone(), status))
        };
        self.accelerators.iter().filter_map(status).collect()
    }
}

fn contenders(
    libraries: &[Library],
    routers: &[(String, Router)],
    keys: &[Key],
) -> Result<Vec<Contender>, Failure> {
    let mut contenders = Vec::new();
    for library in libraries {
        let name = format!("rustls+{}", library.name());
        contenders.push(Contender::new(name, library.provider(), None, keys)?);
    }
    for (address, router) in routers {
        for library in libraries {
            let name = format!("{address} + {}", library.name());
            let base = library.provider();
            contenders.push(Contender::new(name, base, Some(router), keys)?);
        }
    }
    Ok(contenders)
}

/// A router for each accelerator, driven by the server's runtime.
fn accelerators(
    addresses: Vec<Address>,
    preparing: &address::Options,
    always: bool,
    eights: Option<&'static Eights>,
) -> Result<Vec<(Address, Router)>, Failure> {
    let offload = Offload::default();
    let options = Options {
        offload: if always { offload.always() } else { offload },
        eights,
        ..Options::default()
    };
    let open = |address: Address| {
        let cannot = |error| Failure::new(format!("{address} cannot be brought up"), error);
        let opened = address
            .open_accelerator_with(preparing)
            .map_err(|error| cannot(error.into()))?;
        let router = Router::start_on_tokio(vec![opened.accelerator], options).map_err(
            |error: hwshim::router::StartError| {
                cannot(Box::<dyn std::error::Error + Send + Sync>::from(error))
            },
        )?;
        Ok((address, router))
    };
    addresses.into_iter().map(open).collect()
}

fn wait_until_usable(address: &Address, router: &Router) -> Result<(), Failure> {
    /// Between two looks; there is nothing to wait for but time.
    const PAUSE: Duration = Duration::from_millis(2);
    let clock = SystemClock;
    let deadline = clock.now().plus(BRING_UP);
    loop {
        let Some(status) = router.status().into_iter().next() else {
            return Ok(());
        };
        if matches!(status.breaker, breaker::State::Closed { .. }) {
            return Ok(());
        }
        if clock.now() >= deadline {
            let cause = status.failure.map_or_else(
                || format!("it did not pass its trial in {} s", BRING_UP.as_secs()),
                |failure| failure.to_string(),
            );
            return Err(
                Failure::new(format!("{address} cannot be brought up"), cause)
                    .hint(selftest::hint(address)),
            );
        }
        std::thread::park_timeout(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABSENT: &str = "the processor lacks what it needs";

    fn absent() -> Result<String, String> {
        Err(ABSENT.to_owned())
    }

    #[test]
    fn one_library_and_no_accelerator_is_nothing_to_compare_and_says_why() {
        let failure = Chosen::of(&[], &[], &[Library::Ring], absent).unwrap_err();
        let said = failure.to_string();
        for wanted in [
            "software:multi-buffer is absent",
            ABSENT,
            "--libraries ring",
        ] {
            assert!(said.contains(wanted), "{said}");
        }
    }

    #[test]
    fn whoever_was_asked_for_is_measured_without_an_accelerator() {
        let two = [Library::Ring, Library::Ring];
        for (named, built_in) in [(&[Library::Ring][..], &two[..1]), (&[], &two)] {
            let chosen = Chosen::of(&[], named, built_in, absent).unwrap();
            assert_eq!(chosen.absent.as_deref(), Some(ABSENT));
            assert!(chosen.accelerators.is_empty() && !chosen.libraries.is_empty());
        }
    }

    #[test]
    fn eight_at_a_time_is_compared_where_it_is_found_and_nobody_else_was_named() {
        let found = || Ok("crypto_mb".to_owned());
        let chosen = Chosen::of(&[], &[], &[Library::Ring], found).unwrap();
        assert_eq!(
            chosen.accelerators,
            [Address::Software(Software::MultiBuffer)]
        );
        let ring = [Address::Software(Software::Ring)];
        let chosen = Chosen::of(&ring, &[], &[Library::Ring], || panic!("named")).unwrap();
        assert_eq!(chosen.accelerators, ring);
        assert_eq!(chosen.absent, None);
    }
}
