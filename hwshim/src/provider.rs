//! A provider for rustls whose RSA signatures may come from an accelerator.
//!
//! It wraps another provider (ring's, unless the feature `aws-lc-rs` is on) and leaves to it all
//! that is cheaper in software than handing over: key exchange, records, hashes, and signatures
//! other than RSA. It works with rustls and whatever is built on it as it is. What it cannot do
//! there is wait: rustls signs in the middle of a step that must end before anything else happens.
//! So who waits, and how, depends on where `sign` is called:
//!
//! | called | what becomes of an RSA signature |
//! |---|---|
//! | in a step of [`OffloadAcceptor`](crate::acceptor::OffloadAcceptor) | the step is given up, and repeated when the signature is there |
//! | on a thread of a tokio runtime | software: waiting would hold up every other task of the thread |
//! | on any other thread | it waits, no longer than the router's deadline and software then take |
//!
//! In the first case and in the last, only if [it pays](Router::would_offload).

mod choice;
mod key;
mod replayable;
pub(crate) mod tape;

use self::key::OffloadKey;
pub(crate) use self::key::Parked;
use self::replayable::{ReplayableGroup, ReplayableRandom};
use crate::key::SigningKey;
use crate::router::Router;
use rustls::SignatureAlgorithm;
use rustls::crypto::{CryptoProvider, KeyProvider, SupportedKxGroup};
use rustls::pki_types::PrivateKeyDer;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use zeroize::Zeroizing;

/// Makes rustls sign through a [`Router`].
///
/// Keep it until keys are loaded, that is until a `ServerConfig` is built; each of those keys then
/// keeps the router.
///
/// rustls holds what a provider consists of by `&'static`, so a few hundred bytes are never freed:
/// make one provider for a process, not one for a connection. The router is not among them.
#[derive(Clone, Debug)]
pub struct Provider {
    offload: Arc<Offload>,
    rustls: Arc<CryptoProvider>,
}

/// What all keys of a provider share.
pub(crate) struct Offload {
    router: Router,
    /// Whether any key shares it, as only those of RSA do.
    has_keys: AtomicBool,
}

impl Provider {
    /// Signs through `router`, and leaves the rest to ring; to AWS-LC with the feature
    /// `aws-lc-rs`.
    #[must_use]
    pub fn new(router: Router) -> Self {
        Self::over(base(), router)
    }

    /// Signs through `router`, and leaves the rest to `base`.
    #[must_use]
    pub fn over(base: CryptoProvider, router: Router) -> Self {
        let offload = Arc::new(Offload {
            router,
            has_keys: AtomicBool::new(false),
        });
        let replayable = |group| -> &'static dyn SupportedKxGroup {
            Box::leak(Box::new(ReplayableGroup::new(group)))
        };
        let random = ReplayableRandom::new(base.secure_random, Arc::downgrade(&offload));
        let keys = Keys {
            base: base.key_provider,
            offload: Arc::downgrade(&offload),
        };
        let rustls = CryptoProvider {
            kx_groups: base.kx_groups.into_iter().map(replayable).collect(),
            secure_random: Box::leak(Box::new(random)),
            key_provider: Box::leak(Box::new(keys)),
            ..base
        };
        Self {
            offload,
            rustls: Arc::new(rustls),
        }
    }

    /// What `ServerConfig::builder_with_provider` takes.
    #[must_use]
    pub fn rustls(&self) -> Arc<CryptoProvider> {
        Arc::clone(&self.rustls)
    }

    /// The router.
    #[must_use]
    pub fn router(&self) -> &Router {
        &self.offload.router
    }
}

/// What everything is left to unless somebody says otherwise.
pub(crate) fn base() -> CryptoProvider {
    #[cfg(feature = "aws-lc-rs")]
    return rustls::crypto::aws_lc_rs::default_provider();
    #[cfg(not(feature = "aws-lc-rs"))]
    return rustls::crypto::ring::default_provider();
}

impl Offload {
    pub(crate) const fn router(&self) -> &Router {
        &self.router
    }

    /// Whether a signature may be asked of an accelerator: there is one, and a key for it.
    pub(crate) fn is_possible(&self) -> bool {
        self.router.has_accelerators() && self.has_keys.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Offload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offload")
            .field("router", &self.router)
            .finish_non_exhaustive()
    }
}

/// Loads keys. Never freed, so it must not be what keeps the router, and with it a card, in use.
#[derive(Debug)]
struct Keys {
    base: &'static dyn KeyProvider,
    offload: Weak<Offload>,
}

impl KeyProvider for Keys {
    fn load_private_key(
        &self,
        key_der: PrivateKeyDer<'static>,
    ) -> Result<Arc<dyn rustls::sign::SigningKey>, rustls::Error> {
        let offload = self.offload.upgrade().ok_or_else(|| {
            rustls::Error::General(
                "a key was loaded after the last hwshim::provider::Provider was dropped: keep it \
                 until the configuration is built"
                    .to_owned(),
            )
        })?;
        let encoded = Zeroizing::new(key_der.clone_key());
        let base = self.base.load_private_key(key_der)?;
        if base.algorithm() != SignatureAlgorithm::RSA {
            return Ok(base);
        }
        Ok(match read_rsa(&encoded) {
            Some(key) => {
                offload.has_keys.store(true, Ordering::Relaxed);
                Arc::new(OffloadKey::new(base, Arc::new(key), offload))
            }
            // A key that the base takes and we do not, as AWS-LC has some: it signs in software.
            None => base,
        })
    }

    fn fips(&self) -> bool {
        self.base.fips()
    }
}

fn read_rsa(der: &PrivateKeyDer<'_>) -> Option<SigningKey> {
    match der {
        PrivateKeyDer::Pkcs1(der) => SigningKey::from_pkcs1(der.secret_pkcs1_der()).ok(),
        PrivateKeyDer::Pkcs8(der) => SigningKey::from_pkcs8(der.secret_pkcs8_der()).ok(),
        _ => None,
    }
}
