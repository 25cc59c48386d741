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
        // Which one it is must not depend on who signs: the base decides.
        let base = self.base.choose_scheme(offered)?;
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
