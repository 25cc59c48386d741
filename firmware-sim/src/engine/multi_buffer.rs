//! RSA with private keys eight at a time, by Intel's crypto_mb: a spare core as a card that signs
//! faster than a core does.
//!
//! Everything else, and keys that the library has no code for, is done as ever. Whoever wraps a
//! session, as the layers of faults do, gets at one request at a time, which costs what eight do.

use super::{RustCrypto, deliver, der, rsa};
use card_device::engine::{
    Engine, KeyType, Lane, Offer, Operation, RsaPadding, Session, SessionSpec,
};
use card_spec::crypto::Status;
use multi_buffer::{
    LANES, LoadError, MultiBuffer as Library, RsaComponents, RsaLen, RsaPrivateKey,
};
use std::any::Any;
use std::borrow::Cow;
use std::sync::Arc;

/// Executes everything the card offers, RSA signatures eight at a time.
#[derive(Clone, Debug)]
pub struct MultiBuffer {
    library: Library,
    rest: RustCrypto,
}

impl MultiBuffer {
    /// Loads the library.
    ///
    /// # Errors
    ///
    /// What this host lacks.
    pub fn load() -> Result<Self, LoadError> {
        Ok(Self {
            library: Library::load(None)?,
            rest: RustCrypto,
        })
    }
}

impl Engine for MultiBuffer {
    fn offer(&self) -> Offer {
        self.rest.offer()
    }

    fn open(&self, spec: &SessionSpec, key: &[u8]) -> Result<Arc<dyn Session>, Status> {
        let session = self.rest.open(spec, key)?;
        let SessionSpec::Rsa {
            key: KeyType::Private,
            padding,
        } = *spec
        else {
            return Ok(session);
        };
        // That the numbers belong together has been tried by opening the session above.
        Ok(match private_key(key) {
            Some(key) => Arc::new(Rsa {
                library: self.library.clone(),
                key,
                padding,
                rest: session,
            }),
            None => session,
        })
    }

    fn lanes(&self) -> usize {
        LANES
    }

    fn execute(&self, requests: &mut [Lane<'_>]) {
        for len in RsaLen::ALL {
            self.execute_rsa(len, requests);
        }
        for request in requests {
            if rsa_of(request.session).is_none_or(|rsa| rsa.block(&request.operation).is_none()) {
                request.execute();
            }
        }
    }
}

impl MultiBuffer {
    /// Executes those of the requests that are for keys of one length.
    fn execute_rsa(&self, len: RsaLen, requests: &mut [Lane<'_>]) {
        let mut lanes = Vec::with_capacity(requests.len());
        let mut batch = Vec::with_capacity(requests.len());
        for request in requests {
            let Some(rsa) = rsa_of(request.session).filter(|rsa| rsa.key.len() == len) else {
                continue;
            };
            match rsa.block(&request.operation) {
                None => {}
                Some(Err(status)) => request.outcome = Err(status),
                Some(Ok(block)) => {
                    batch.push((&rsa.key, block));
                    lanes.push(request);
                }
            }
        }
        let batch: Vec<_> = batch.iter().map(|(key, block)| (*key, &**block)).collect();
        for (lane, result) in lanes.into_iter().zip(self.library.rsa_private(len, &batch)) {
            lane.outcome = result
                .map_err(|_| Status::ERR)
                .and_then(|result| deliver(&result, lane.output));
        }
    }
}

/// A private key that the library has code for.
struct Rsa {
    library: Library,
    key: RsaPrivateKey,
    padding: RsaPadding,
    /// Does what is no bare private operation.
    rest: Arc<dyn Session>,
}

impl Rsa {
    /// The block that the private operation is to be applied to; `None` if `operation` is
    /// another, or its result is to be looked into.
    fn block<'a>(&self, operation: &Operation<'a>) -> Option<Result<Cow<'a, [u8]>, Status>> {
        match (operation, self.padding) {
            (Operation::Decrypt { source }, RsaPadding::Raw) => Some(Ok(Cow::Borrowed(source))),
            (Operation::Sign { digest }, RsaPadding::Pkcs1 { hash }) => {
                let block = rsa::pad_for_signature(hash, digest, self.key.len().bytes());
                Some(block.map(Cow::Owned).ok_or(Status::ERR))
            }
            _ => None,
        }
    }
}

impl Session for Rsa {
    fn execute(&self, operation: &Operation<'_>, output: &mut [u8]) -> Result<usize, Status> {
        let Some(block) = self.block(operation) else {
            return self.rest.execute(operation, output);
        };
        let batch = [(&self.key, &*block?)];
        let result = self.library.rsa_private(self.key.len(), &batch).pop();
        let result = result.and_then(Result::ok).ok_or(Status::ERR)?;
        deliver(&result, output)
    }
}

/// The session, if it is one of these.
fn rsa_of(session: &dyn Session) -> Option<&Rsa> {
    let session: &dyn Any = session;
    session.downcast_ref()
}

fn private_key(der: &[u8]) -> Option<RsaPrivateKey> {
    let key = der::rsa_private_key(der)?;
    let crt = key.crt?;
    let [p, q] = crt.primes;
    let [dp, dq] = crt.exponents;
    RsaPrivateKey::new(&RsaComponents {
        n: key.public.modulus,
        p,
        q,
        dp,
        dq,
        qinv: crt.coefficient,
    })
    .ok()
}
