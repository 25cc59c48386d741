//! An RSA key whose signatures the router may make.

use super::Offload;
use super::choice;
use super::tape::{self, Turn};
use crate::accelerator::software::OperationError;
use crate::accelerator::{Operation, Secret};
use crate::key::{KeyId, SignatureScheme, SigningKey};
use crate::router::choice::Caller;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::{Error, SignatureAlgorithm};
use std::sync::Arc;

/// What is signed by, where the client takes it.
const PREFERRED: rustls::SignatureScheme = rustls::SignatureScheme::RSA_PSS_SHA256;

/// A key in two forms: the base provider's for software, ours for accelerators.
#[derive(Debug)]
pub(super) struct OffloadKey {
    base: Arc<dyn rustls::sign::SigningKey>,
    key: Arc<SigningKey>,
    offload: Arc<Offload>,
}

impl OffloadKey {
    pub(super) const fn new(
        base: Arc<dyn rustls::sign::SigningKey>,
        key: Arc<SigningKey>,
        offload: Arc<Offload>,
    ) -> Self {
        Self { base, key, offload }
    }
}

impl rustls::sign::SigningKey for OffloadKey {
    fn choose_scheme(
        &self,
        offered: &[rustls::SignatureScheme],
    ) -> Option<Box<dyn rustls::sign::Signer>> {
        // Which one it is must not depend on who signs: the base decides, but for the hash. rustls's
        // own providers prefer SHA-512, and most processors have instructions for SHA-256 alone, by which an
        // offloaded signature is padded and verified.
        let prefers = offered.contains(&PREFERRED).then_some(PREFERRED);
        let base = prefers.and_then(|preferred| self.base.choose_scheme(&[preferred]));
        let base = base.or_else(|| self.base.choose_scheme(offered))?;
        let Some(scheme) = scheme_of(base.scheme()) else {
            return Some(base);
        };
        Some(Box::new(OffloadSigner {
            base,
            scheme,
            key: Arc::clone(&self.key),
            offload: Arc::clone(&self.offload),
        }))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        self.base.public_key()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.base.algorithm()
    }
}

#[derive(Debug)]
struct OffloadSigner {
    base: Box<dyn rustls::sign::Signer>,
    scheme: SignatureScheme,
    key: Arc<SigningKey>,
    offload: Arc<Offload>,
}

impl rustls::sign::Signer for OffloadSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        match tape::turn(self.key.id(), self.scheme, message) {
            Turn::Release(signature) => Ok(signature),
            Turn::Park if self.pays(Caller::Task) => {
                tape::park(self.park(message));
                Err(Error::General(
                    "the step waits for its signature".to_owned(),
                ))
            }
            Turn::Park => {
                tape::sign_in_software();
                self.sign_by_base(message)
            }
            Turn::Software => self.sign_by_base(message),
            Turn::Unguided if tokio::runtime::Handle::try_current().is_ok() => {
                self.sign_by_base(message)
            }
            Turn::Wait | Turn::Unguided => self.sign_waiting(message),
        }
    }

    fn scheme(&self) -> rustls::SignatureScheme {
        self.base.scheme()
    }
}

impl OffloadSigner {
    /// Signs on a thread that has nothing else to do.
    fn sign_waiting(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let router = &self.offload.router;
        if !self.pays(Caller::Thread) {
            return self.sign_by_base(message);
        }
        router
            .sign(&self.key, self.scheme, message)
            // What the router would not do, the base may: what is refused for overload too, since whoever
            // accepts a connection has accepted its work.
            .or_else(|_| self.sign_by_base(message))
    }

    /// Signs in software; the router is told, as who signs keeps others from a core.
    fn sign_by_base(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let router = &self.offload.router;
        router.sign_beside(self.scheme, &self.key, || self.base.sign(message))
    }

    fn pays(&self, caller: Caller) -> bool {
        choice::pays(&self.offload.router, self.scheme, &self.key, caller)
    }

    fn park(&self, message: &[u8]) -> Parked {
        let (key, offload) = (Arc::clone(&self.key), Arc::clone(&self.offload));
        Parked::new(key, self.scheme, message, offload)
    }
}

/// A signature that a step waits for.
pub(crate) struct Parked {
    key: Arc<SigningKey>,
    scheme: SignatureScheme,
    message: Secret,
    offload: Arc<Offload>,
}

impl Parked {
    pub(super) fn new(
        key: Arc<SigningKey>,
        scheme: SignatureScheme,
        message: &[u8],
        offload: Arc<Offload>,
    ) -> Self {
        Self {
            key,
            scheme,
            message: Secret::from(message),
            offload,
        }
    }

    /// Has it signed. Dropping the future gives it up.
    ///
    /// # Errors
    ///
    /// What software would not do either.
    pub(crate) async fn sign(&self) -> Result<Vec<u8>, OperationError> {
        let operation = Operation::Sign {
            key: Arc::clone(&self.key),
            scheme: self.scheme,
            message: self.message.clone(),
        };
        self.offload.router().perform_async(operation).await
    }

    pub(super) fn is_of(&self, key: KeyId, scheme: SignatureScheme, message: &[u8]) -> bool {
        self.key.id() == key && self.scheme == scheme && *self.message == *message
    }
}

/// Our name for one of rustls's schemes, if an RSA key of ours signs by it.
fn scheme_of(scheme: rustls::SignatureScheme) -> Option<SignatureScheme> {
    use rustls::SignatureScheme as Theirs;
    Some(match scheme {
        Theirs::RSA_PKCS1_SHA256 => SignatureScheme::RsaPkcs1Sha256,
        Theirs::RSA_PKCS1_SHA384 => SignatureScheme::RsaPkcs1Sha384,
        Theirs::RSA_PKCS1_SHA512 => SignatureScheme::RsaPkcs1Sha512,
        Theirs::RSA_PSS_SHA256 => SignatureScheme::RsaPssSha256,
        Theirs::RSA_PSS_SHA384 => SignatureScheme::RsaPssSha384,
        Theirs::RSA_PSS_SHA512 => SignatureScheme::RsaPssSha512,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use crate::provider::Provider;
    use crate::router::Router;
    use rustls::SignatureScheme as Theirs;
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer};

    #[test]
    fn sha_256_is_preferred_and_what_a_client_does_not_take_is_not_signed_by() {
        let der = PrivatePkcs1KeyDer::from(&include_bytes!("../kat/rsa-2048.pkcs1.der")[..]);
        let provider = Provider::new(Router::software());
        let rustls = provider.rustls();
        let key = rustls
            .key_provider
            .load_private_key(PrivateKeyDer::from(der))
            .unwrap();
        for (offered, chosen) in [
            (
                &[
                    Theirs::ECDSA_NISTP256_SHA256,
                    Theirs::RSA_PSS_SHA512,
                    Theirs::RSA_PSS_SHA256,
                    Theirs::RSA_PKCS1_SHA256,
                ][..],
                Some(Theirs::RSA_PSS_SHA256),
            ),
            (&[Theirs::RSA_PSS_SHA384], Some(Theirs::RSA_PSS_SHA384)),
            (&[Theirs::RSA_PKCS1_SHA512], Some(Theirs::RSA_PKCS1_SHA512)),
            (&[Theirs::ECDSA_NISTP256_SHA256], None),
        ] {
            let signer = key.choose_scheme(offered);
            assert_eq!(signer.map(|signer| signer.scheme()), chosen, "{offered:?}");
        }
    }
}
