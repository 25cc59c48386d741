//! One thing that computes: a card, or this CPU.
//!
//! **Seam.** Submission and completion are separate calls because hardware cannot answer at once;
//! one that can (software) simply completes at the next poll. A request is always in exactly one
//! place: with the caller, in flight, or handed back; every way out of an accelerator gives the
//! request back with it.

pub mod class;
pub(crate) mod least;
pub mod multi_buffer;
pub(crate) mod pkcs1;
pub(crate) mod pss;
pub mod software;

use self::class::Class;
use self::software::{OperationError, TAG_LEN};
use crate::clock::Instant;
use crate::key::{
    AeadKey, CipherKey, HashAlgorithm, MacKey, SignatureAlgorithm, SignatureScheme, SigningKey,
};
use crate::spec::crypto::Status;
use std::fmt;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

/// Something that executes requests.
#[cfg_attr(test, mockall::automock)]
pub trait Accelerator: Send + fmt::Debug {
    /// Names the accelerator in verdicts and metrics, by its address: `pci:0000:3b:00.0`.
    fn name(&self) -> &str;

    /// Whether it can do operations of this kind. May change with a reset.
    fn offers(&self, algorithm: Algorithm) -> bool;

    /// Queues `request`.
    ///
    /// # Errors
    ///
    /// [`Rejected`] gives the request back untouched, so that the caller can send it elsewhere.
    fn submit(&mut self, request: Request, now: Instant) -> Result<(), Rejected>;

    /// Sees to it that what was submitted is being worked on. One call may serve many
    /// submissions; [`Accelerator::poll`] includes it.
    fn flush(&mut self);

    /// Moves finished work into `completions`, and work whose deadline has passed. It waits for no work; a
    /// device may be asked how it is, now and then, and each question has a bound.
    fn poll(&mut self, now: Instant, completions: &mut Vec<Completion>);

    /// Returns the earliest deadline of a request in flight, or [`Instant::NEVER`].
    fn next_deadline(&self) -> Instant;

    /// Number of requests in flight.
    fn in_flight(&self) -> usize;

    /// Hands back all work in flight and returns the accelerator to its initial state. Takes
    /// up to the accelerator's own bound, a few seconds at most.
    ///
    /// # Errors
    ///
    /// Why it cannot be used; the next reset may succeed.
    fn reset(&mut self, completions: &mut Vec<Completion>) -> Result<(), DeviceError>;

    /// Hands back all work in flight, without asking the accelerator. Whatever it still answers is
    /// discarded.
    fn hand_back(&mut self, completions: &mut Vec<Completion>);

    /// Says, once, why it stopped being [ready](State::Ready) by itself. Requests that were in
    /// flight then come back as abandoned or gone; this is what they were the victims of.
    fn take_fault(&mut self) -> Option<DeviceError>;

    /// Asks for an event on [`Accelerator::events`] when there is something to poll.
    ///
    /// Returns false if there already is: then nothing may be waited for.
    fn arm(&mut self) -> bool;

    /// Descriptors on which any event means that a poll is worth while.
    fn events<'a>(&'a self) -> Vec<BorrowedFd<'a>>;

    /// How many requests of one kind it executes together, in the time of one. Where that is more than
    /// one, one alone costs as much as all: whoever has only one does better elsewhere.
    fn batch_size(&self) -> NonZeroUsize {
        NonZeroUsize::MIN
    }

    /// The batch that one more request of `class` would be in, where the accelerator has timed such
    /// batches itself. Unlike a latency, that has nothing in it of how late anybody looked for answers.
    fn next_batch(&self, _class: Class) -> Option<Batch> {
        None
    }

    /// Whether it can take requests.
    fn state(&self) -> State;

    /// Figures for the record.
    fn counters(&self) -> Counters;
}

/// A batch that is yet to be executed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Batch {
    /// What it takes, however full it is.
    pub takes: Duration,
    /// What those before it take.
    pub before: Duration,
}

/// Figures of an accelerator since it was made.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// Doorbells rung.
    pub doorbells: u64,
    /// Completions of requests that had been given up; discarded.
    pub stragglers: u64,
    /// Sessions open now.
    pub sessions_open: u64,
    /// Sessions that the card had forgotten when they were used, without a reset.
    pub sessions_lost: u64,
    /// Interrupts that arrived.
    pub interrupts: u64,
    /// Completions found after an interrupt had been asked for.
    pub completions_due: u64,
    /// Of those, found when none had arrived. A few are normal: whoever looks for another reason
    /// may find a completion before its interrupt.
    pub completions_unannounced: u64,
}

/// Whether an accelerator can take requests.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// It can.
    Ready,
    /// Not before a reset.
    NeedsReset,
    /// It has left the bus. A reset looks whether it is back.
    Gone,
}

/// One operation to perform.
pub struct Request {
    /// Chosen by the submitter, and repeated in the completion.
    pub id: RequestId,
    /// What to do. It passes through many hands unchanged, and whoever waits may have to do it
    /// while an accelerator has it still.
    pub operation: Arc<Operation>,
    /// When the submitter stops waiting.
    pub deadline: Instant,
}

/// Shows what is asked for, never what it says.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("id", &self.id)
            .field("algorithm", &self.operation.algorithm())
            .finish_non_exhaustive()
    }
}

/// Names a request to its submitter.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct RequestId {
    /// Index into the submitter's table.
    pub index: u32,
    /// How often that entry has been used before.
    pub generation: u32,
}

/// What can be asked of an accelerator.
///
/// Inputs belong to the operation, so that it can be done again in software when the card has
/// failed it.
#[derive(Debug)]
pub enum Operation {
    /// Signs `message`.
    Sign {
        /// Key to sign with; must support `scheme`.
        key: Arc<SigningKey>,
        /// How.
        scheme: SignatureScheme,
        /// What. Not yet hashed.
        message: Secret,
    },
    /// Encrypts and authenticates. The output is ciphertext, then a tag of 16 bytes.
    Seal {
        /// Key to encrypt with.
        key: Arc<AeadKey>,
        /// Used once with this key.
        nonce: [u8; 12],
        /// Authenticated, not encrypted.
        aad: Vec<u8>,
        /// What to encrypt.
        plaintext: Secret,
    },
    /// Checks the tag and decrypts. The output is the plaintext.
    Open {
        /// Key to decrypt with.
        key: Arc<AeadKey>,
        /// As given to seal.
        nonce: [u8; 12],
        /// As given to seal.
        aad: Vec<u8>,
        /// Ciphertext, then a tag of 16 bytes.
        sealed: Vec<u8>,
    },
    /// Encrypts or decrypts with AES in CBC mode, whole blocks, no padding added or removed.
    Cbc {
        /// Key to use.
        key: Arc<CipherKey>,
        /// Which way.
        direction: Direction,
        /// Initialization vector.
        iv: [u8; 16],
        /// What; a multiple of 16 bytes.
        data: Secret,
    },
    /// Hashes.
    Digest {
        /// With which function.
        hash: HashAlgorithm,
        /// What.
        message: Secret,
    },
    /// Computes an HMAC.
    Mac {
        /// Key to use.
        key: Arc<MacKey>,
        /// Of what.
        message: Secret,
    },
}

/// Which way a cipher runs.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Direction {
    /// Plaintext to ciphertext.
    Encrypt,
    /// Ciphertext to plaintext.
    Decrypt,
}

impl Operation {
    /// Finds the caller's own mistakes, which no accelerator should be asked about.
    ///
    /// # Errors
    ///
    /// What software would refuse the operation for.
    pub fn check(&self) -> Result<(), OperationError> {
        match self {
            Self::Sign { key, scheme, .. } if !key.supports(*scheme) => {
                Err(OperationError::WrongKey(*scheme))
            }
            Self::Open { sealed, .. } if sealed.len() < TAG_LEN => Err(OperationError::BadTag),
            Self::Cbc { data, .. } if !data.len().is_multiple_of(16) => {
                Err(OperationError::PartialBlock(data.len()))
            }
            _ => Ok(()),
        }
    }

    /// Whether software cannot do it, because only an accelerator has the key.
    #[must_use]
    pub fn needs_accelerator(&self) -> bool {
        matches!(self, Self::Sign { key, .. } if key.is_elsewhere())
    }

    /// Whether input or output is somebody's plaintext.
    #[must_use]
    pub const fn is_confidential(&self) -> bool {
        matches!(
            self,
            Self::Seal { .. } | Self::Open { .. } | Self::Cbc { .. } | Self::Mac { .. }
        )
    }

    /// What kind of operation this is.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sign { scheme, .. } => Algorithm::Sign(*scheme),
            Self::Seal { .. } | Self::Open { .. } => Algorithm::AesGcm,
            Self::Cbc { .. } => Algorithm::AesCbc,
            Self::Digest { hash, .. } => Algorithm::Digest(*hash),
            Self::Mac { key, .. } => Algorithm::Hmac(key.hash()),
        }
    }
}

/// A kind of operation, as offered or not offered.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Algorithm {
    /// Signatures of one scheme.
    Sign(SignatureScheme),
    /// AES-GCM, both ways.
    AesGcm,
    /// AES-CBC, both ways.
    AesCbc,
    /// A hash function.
    Digest(HashAlgorithm),
    /// HMAC with a hash function.
    Hmac(HashAlgorithm),
}

/// Bytes that may be secret: `Debug` prints their length. Zeroized when dropped.
#[derive(Clone, Default, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Takes the bytes out.
    #[must_use]
    pub fn into_vec(mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

impl From<Vec<u8>> for Secret {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<&[u8]> for Secret {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl std::ops::Deref for Secret {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

/// A request that was not queued.
#[derive(Debug)]
pub struct Rejected {
    /// The request, returned to its owner.
    pub request: Request,
    /// Why it was refused.
    pub reason: RejectReason,
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RejectReason {
    /// No room; try again after a poll.
    Full,
    /// The accelerator does not offer this operation, or not for so much data.
    Unsupported,
    /// The accelerator needs a reset first.
    NotReady,
}

/// The outcome of one submission.
#[derive(Debug)]
pub struct Completion {
    /// The request, handed back.
    pub request: Request,
    /// What the accelerator produced.
    pub output: Result<Unverified<Vec<u8>>, DeviceError>,
}

/// Bytes that came from an accelerator, opaque until [`crate::router::verify`] has checked them.
pub struct Unverified<T>(pub(crate) T);

impl<T> Unverified<T> {
    /// Wraps what some accelerator says. Anybody may: it is taking it out that needs a check.
    pub const fn new(claimed: T) -> Self {
        Self(claimed)
    }
}

impl<T> fmt::Debug for Unverified<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unverified(..)")
    }
}

/// An accelerator failed, refused, or lied.
// Each answer is moved about in one of these or beside it. What follows a tag of one byte is copied across
// the words that it was written in, for which the processor has to wait.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[repr(u64)]
pub enum DeviceError {
    /// The device reported a failure of its own accord.
    #[error("the device answered with status {0}")]
    Failed(Status),
    /// The device broke the rules of the interface.
    #[error("the device misbehaved: {0}")]
    Misbehaved(#[from] DeviceMisbehaved),
    /// The device would not load the key, or not for this purpose.
    #[error("the device refused the session with status {0}")]
    SessionRefused(Status),
    /// Nothing came back before the deadline.
    #[error("no completion before the deadline")]
    TimedOut,
    /// The bus has reported an error that lost transactions of the device.
    #[error("the bus reported an uncorrectable error of the device")]
    BusError,
    /// The device has left the bus.
    #[error("the device is gone")]
    Gone,
    /// The device was reset while it had the request, for reasons that are not the request's.
    #[error("abandoned by a reset of the device")]
    Abandoned,
    /// The device cannot be brought up.
    #[error("{0}")]
    NotUsable(String),
}

impl DeviceError {
    /// Whether the device was asked for something and said no, for whatever reason but that it has
    /// no room.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        match self {
            Self::SessionRefused(status) => !matches!(*status, Status::NOSPC),
            Self::Failed(status) => matches!(*status, Status::ERR | Status::NOTSUPP),
            _ => false,
        }
    }

    /// Evidence code: the same word in verdicts, metrics and logs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Failed(status) => match *status {
                Status::BADMSG => "status-badmsg",
                Status::NOTSUPP => "status-notsupp",
                Status::INVSESS => "status-invsess",
                Status::NOSPC => "status-nospc",
                _ => "status-err",
            },
            Self::SessionRefused(_) => "session-refused",
            Self::Misbehaved(rule) => rule.code(),
            Self::TimedOut => "timed-out",
            Self::BusError => "bus-error",
            Self::Gone => "gone",
            Self::Abandoned => "abandoned",
            Self::NotUsable(_) => "not-usable",
        }
    }
}

/// Ways in which a device can break the interface, each naming the rule it broke.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[repr(u64)]
pub enum DeviceMisbehaved {
    /// The used index moved by more than there was in flight (virtio 1.3 §2.7.8 "The Virtqueue
    /// Used Ring").
    #[error("used index moved by {moved} with {in_flight} requests in flight")]
    UsedIndexJumped {
        /// By how much.
        moved: u16,
        /// How much it could have been.
        in_flight: u16,
    },
    /// A used element names no request in flight (virtio 1.3 §2.7.8).
    #[error("completed request {id}, which is not in flight")]
    CompletedUnknownRequest {
        /// Descriptor index in the used ring.
        id: u32,
    },
    /// A completion claimed more bytes than its buffer holds.
    #[error("claimed {claimed} bytes written into a buffer of {capacity}")]
    OverclaimedLength {
        /// Length in the used ring.
        claimed: u32,
        /// Length of the buffer.
        capacity: u32,
    },
    /// The result has another length than such results have.
    #[error("returned {found} bytes where {expected} were due")]
    WrongLength {
        /// Length of the result.
        found: usize,
        /// What it must be.
        expected: usize,
    },
    /// A status that no specification defines, or none at all.
    #[error("wrote status {0}")]
    UndefinedStatus(Status),
    /// The device asked for a reset (`DEVICE_NEEDS_RESET`, virtio 1.3 §2.1.1).
    #[error("asked to be reset")]
    NeedsReset,
    /// A request was kept long past its deadline.
    #[error("kept a request long past its deadline")]
    RingStuck,
    /// The firmware restarted and did not say so.
    #[error("restarted without being asked")]
    SilentReboot,
    /// The output does not verify.
    #[error("returned a wrong answer")]
    WrongAnswer,
    /// Two signatures of different messages share a nonce, which gives the key away.
    #[error("signed two messages with the same nonce")]
    RepeatedNonce,
}

impl DeviceMisbehaved {
    /// Evidence code of the rule.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UsedIndexJumped { .. } => "used-index-jumped",
            Self::CompletedUnknownRequest { .. } => "completed-unknown-request",
            Self::OverclaimedLength { .. } => "overclaimed-length",
            Self::WrongLength { .. } => "wrong-length",
            Self::UndefinedStatus(_) => "undefined-status",
            Self::NeedsReset => "needs-reset",
            Self::RingStuck => "ring-stuck",
            Self::SilentReboot => "silent-reboot",
            Self::WrongAnswer => "wrong-answer",
            Self::RepeatedNonce => "repeated-nonce",
        }
    }
}

impl Algorithm {
    /// Every algorithm, in the order reports list them.
    pub fn all() -> impl Iterator<Item = Self> {
        let signatures = SignatureScheme::ALL.into_iter().map(Self::Sign);
        let digests = HashAlgorithm::ALL.into_iter().map(Self::Digest);
        let macs = HashAlgorithm::ALL.into_iter().map(Self::Hmac);
        signatures
            .chain([Self::AesGcm, Self::AesCbc])
            .chain(digests)
            .chain(macs)
    }

    /// Whether the masks of a card cannot tell this algorithm from its siblings: they say RSA, and
    /// leave open which paddings and hashes.
    #[must_use]
    pub fn is_variant(self) -> bool {
        matches!(self, Self::Sign(scheme)
            if !matches!(scheme.algorithm(), SignatureAlgorithm::Ecdsa(_)))
    }

    /// The name used on command lines and in metrics, e.g. `rsa-pss-sha256`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sign(scheme) => scheme.name(),
            Self::AesGcm => "aes-gcm",
            Self::AesCbc => "aes-cbc",
            Self::Digest(HashAlgorithm::Sha256) => "sha256",
            Self::Digest(HashAlgorithm::Sha384) => "sha384",
            Self::Digest(HashAlgorithm::Sha512) => "sha512",
            Self::Hmac(HashAlgorithm::Sha256) => "hmac-sha256",
            Self::Hmac(HashAlgorithm::Sha384) => "hmac-sha384",
            Self::Hmac(HashAlgorithm::Sha512) => "hmac-sha512",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kat;

    #[test]
    fn debug_output_shows_no_key_and_no_message() {
        for test in &kat::ALL {
            let request = Request {
                id: RequestId {
                    index: 0,
                    generation: 0,
                },
                operation: Arc::new(test.operation()),
                deadline: Instant::NEVER,
            };
            let (request, operation) = (format!("{request:?}"), format!("{:?}", test.operation()));
            // A byte array would print as a list; what is not secret here is short.
            let longest_list = operation
                .split('[')
                .map(|part| part.matches(',').count())
                .max();
            assert!(longest_list < Some(100), "{operation}");
            assert!(
                !request.contains("Secret") && !request.contains('['),
                "{request}"
            );
        }
        let secret = Secret::from(&b"do not print"[..]);
        assert_eq!(format!("{secret:?}"), "Secret(12 bytes)");
        let answer = Unverified::new(b"do not print".to_vec());
        assert_eq!(format!("{answer:?}"), "Unverified(..)");
        assert_eq!(
            format!("{:?}", kat::p256_key()).split('#').next(),
            Some("SigningKey(P256, ")
        );
    }
}
