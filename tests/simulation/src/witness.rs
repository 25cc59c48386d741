//! An honest engine that is quick to simulate, and says what it was asked.
//!
//! It remembers sessions and answers across runs, so that a run costs no RSA; it draws the nonces
//! of ECDSA by RFC 6979, so that runs repeat to the byte; and it adds up how long a card would
//! have taken, which is when the world has the answers delivered.

use crate::workload::is_a_callers;
use card_device::engine::{
    Curve, Engine, KeyType, Offer, Operation, RsaPadding, Session, SessionSpec,
};
use firmware_sim::engine::{Memoised, RustCrypto};
use hwshim::spec::crypto::Status;
use p256::ecdsa::signature::hazmat::PrehashSigner;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

/// How long a card takes to open a session.
const OPENING: Duration = Duration::from_micros(150);

/// What the engines of a run have been asked.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    /// Nanoseconds since this was last taken.
    cost_ns: AtomicU64,
    /// Callers' requests seen.
    callers: AtomicU64,
}

impl Witness {
    /// How long what was executed since the last call takes.
    pub(crate) fn take_cost(&self) -> Duration {
        Duration::from_nanos(self.cost_ns.swap(0, Ordering::Relaxed))
    }

    /// How many requests have been recognized as a caller's.
    pub(crate) fn callers(&self) -> u64 {
        self.callers.load(Ordering::Relaxed)
    }

    fn saw(&self, cost: Duration, is_a_callers: bool) {
        let nanos = u64::try_from(cost.as_nanos()).unwrap_or(u64::MAX);
        self.cost_ns.fetch_add(nanos, Ordering::Relaxed);
        self.callers
            .fetch_add(is_a_callers.into(), Ordering::Relaxed);
    }
}

/// The engine of a run.
#[derive(Debug)]
pub(crate) struct Witnessed {
    pub(crate) witness: Arc<Witness>,
    /// Whether it does RSA without padding, by which signatures with PSS are made, as not every card
    /// does. No two of those are alike, so that each costs what nothing else in a run does.
    pub(crate) has_pss: bool,
}

impl Engine for Witnessed {
    fn offer(&self) -> Offer {
        RustCrypto.offer()
    }

    fn open(&self, spec: &SessionSpec, key: &[u8]) -> Result<Arc<dyn Session>, Status> {
        let is_raw = matches!(
            spec,
            SessionSpec::Rsa {
                padding: RsaPadding::Raw,
                ..
            }
        );
        if is_raw && !self.has_pss {
            return Err(Status::NOTSUPP);
        }
        self.witness.saw(OPENING, false);
        Ok(Arc::new(WitnessedSession {
            inner: remembered(spec, key)?,
            spec: *spec,
            witness: Arc::clone(&self.witness),
        }))
    }
}

struct WitnessedSession {
    inner: Arc<dyn Session>,
    spec: SessionSpec,
    witness: Arc<Witness>,
}

impl Session for WitnessedSession {
    fn execute(&self, operation: &Operation<'_>, output: &mut [u8]) -> Result<usize, Status> {
        let source = source(operation);
        self.witness
            .saw(nominal(&self.spec, source.len()), is_a_callers(source));
        self.inner.execute(operation, output)
    }
}

fn source<'a>(operation: &Operation<'a>) -> &'a [u8] {
    match operation {
        Operation::Cipher { source, .. }
        | Operation::Hash { source }
        | Operation::Mac { source }
        | Operation::Aead { source, .. }
        | Operation::Encrypt { source }
        | Operation::Decrypt { source } => source,
        Operation::Sign { digest } | Operation::Verify { digest, .. } => digest,
    }
}

/// How long one engine of a card takes: orders of magnitude as vendors give them.
fn nominal(spec: &SessionSpec, len: usize) -> Duration {
    let fixed = match spec {
        SessionSpec::Rsa { .. } => 600,
        SessionSpec::Ecdsa { .. } => 150,
        SessionSpec::Cipher { .. }
        | SessionSpec::Hash { .. }
        | SessionSpec::Mac { .. }
        | SessionSpec::AesGcm { .. } => 15,
    };
    Duration::from_micros(fixed) + Duration::from_nanos(len as u64)
}

type Sessions = HashMap<(SessionSpec, Vec<u8>), Arc<dyn Session>>;

/// A session opened earlier in this process, or opened now. Sessions have no state but what they
/// remember, and they remember truths.
fn remembered(spec: &SessionSpec, key: &[u8]) -> Result<Arc<dyn Session>, Status> {
    static SESSIONS: LazyLock<Mutex<Sessions>> = LazyLock::new(Mutex::default);
    let mut sessions = SESSIONS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(session) = sessions.get(&(*spec, key.to_vec())) {
        return Ok(Arc::clone(session));
    }
    let session = Memoised::new(Arc::new(Repeatable)).open(spec, key)?;
    sessions.insert((*spec, key.to_vec()), Arc::clone(&session));
    Ok(session)
}

/// RustCrypto with ECDSA by RFC 6979.
#[derive(Debug)]
struct Repeatable;

impl Engine for Repeatable {
    fn offer(&self) -> Offer {
        RustCrypto.offer()
    }

    fn open(&self, spec: &SessionSpec, key: &[u8]) -> Result<Arc<dyn Session>, Status> {
        let SessionSpec::Ecdsa {
            key: KeyType::Private,
            curve,
        } = spec
        else {
            return RustCrypto.open(spec, key);
        };
        let parsed = sec1::EcPrivateKey::try_from(key).map_err(|_| Status::ERR)?;
        let signer: Box<dyn Signer> = match curve {
            Curve::P256 => Box::new(
                p256::ecdsa::SigningKey::from_slice(parsed.private_key).map_err(|_| Status::ERR)?,
            ),
            Curve::P384 => Box::new(
                p384::ecdsa::SigningKey::from_slice(parsed.private_key).map_err(|_| Status::ERR)?,
            ),
        };
        Ok(Arc::new(RepeatableSession(signer)))
    }
}

/// Signs the same digest the same way each time, as DER.
trait Signer: Send + Sync {
    fn sign(&self, digest: &[u8]) -> Option<Vec<u8>>;
}

impl Signer for p256::ecdsa::SigningKey {
    fn sign(&self, digest: &[u8]) -> Option<Vec<u8>> {
        let signature: p256::ecdsa::DerSignature = self.sign_prehash(digest).ok()?;
        Some(signature.as_bytes().to_vec())
    }
}

impl Signer for p384::ecdsa::SigningKey {
    fn sign(&self, digest: &[u8]) -> Option<Vec<u8>> {
        let signature: p384::ecdsa::DerSignature = self.sign_prehash(digest).ok()?;
        Some(signature.as_bytes().to_vec())
    }
}

struct RepeatableSession(Box<dyn Signer>);

impl fmt::Debug for RepeatableSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RepeatableSession")
    }
}

impl Session for RepeatableSession {
    fn execute(&self, operation: &Operation<'_>, output: &mut [u8]) -> Result<usize, Status> {
        let Operation::Sign { digest } = operation else {
            return Err(Status::NOTSUPP);
        };
        let signature = self.0.sign(digest).ok_or(Status::ERR)?;
        let room = output.get_mut(..signature.len()).ok_or(Status::ERR)?;
        room.copy_from_slice(&signature);
        Ok(signature.len())
    }
}
