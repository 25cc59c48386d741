//! ring as a base provider, with something done before each RSA signature of its own.

use rustls::crypto::{CryptoProvider, KeyProvider, ring};
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::{Signer, SigningKey};
use rustls::{Error, SignatureAlgorithm, SignatureScheme};
use std::fmt;
use std::sync::Arc;

type Before = Arc<dyn Fn() + Send + Sync>;

/// A provider that does `before` in the thread that signs.
pub(crate) fn base(before: impl Fn() + Send + Sync + 'static) -> CryptoProvider {
    let ring = ring::default_provider();
    let keys = Wrapped(ring.key_provider, Arc::new(before));
    CryptoProvider {
        key_provider: Box::leak(Box::new(keys)),
        ..ring
    }
}

/// Something of ring's, and what comes before it.
struct Wrapped<T>(T, Before);

impl<T: fmt::Debug> fmt::Debug for Wrapped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl KeyProvider for Wrapped<&'static dyn KeyProvider> {
    fn load_private_key(&self, der: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, Error> {
        let key = self.0.load_private_key(der)?;
        Ok(Arc::new(Wrapped(key, Arc::clone(&self.1))))
    }
}

impl SigningKey for Wrapped<Arc<dyn SigningKey>> {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let signer = self.0.choose_scheme(offered)?;
        Some(Box::new(Wrapped(signer, Arc::clone(&self.1))))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl Signer for Wrapped<Box<dyn Signer>> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        (self.1)();
        self.0.sign(message)
    }

    fn scheme(&self) -> SignatureScheme {
        self.0.scheme()
    }
}
