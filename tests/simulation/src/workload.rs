//! What callers ask, and what the right answer is.
//!
//! There are a few hundred questions, made once with their truths by software before anything is
//! simulated. So looking whether an answer is right is a comparison, which does not go through
//! what the router verifies with; signatures that differ each time are verified by ring.

use fastrand::Rng;
use hwshim::accelerator::software::{self, OperationError};
use hwshim::accelerator::{Direction, Operation, Secret};
use hwshim::key::{AeadKey, CipherKey, Curve, HashAlgorithm, MacKey, SignatureScheme, SigningKey};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use std::collections::HashSet;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// Every message of a caller begins with this, and no known-answer test does.
pub(crate) const CALLERS_MARK: &[u8] = b"a caller's ";

/// Different questions of each kind.
const VARIANTS: usize = 32;
/// Made for this, and protects nothing.
const RSA_KEY: &[u8] = include_bytes!("../keys/rsa-2048.pkcs1.der");
/// Made for this, and protects nothing.
const P256_KEY: &[u8] = include_bytes!("../keys/p256.sec1.der");

/// What is asked.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Kind {
    SignRsa,
    SignP256,
    Seal,
    Open,
    /// The caller's own mistake, which card and software both find.
    OpenForged,
    Encrypt,
    Decrypt,
    Digest,
    Mac,
}

impl Kind {
    /// All, and how often each is asked, in a hundred. RSA is dear when software does it.
    const MIX: [(Self, usize); 9] = [
        (Self::SignRsa, 2),
        (Self::SignP256, 8),
        (Self::Seal, 20),
        (Self::Open, 18),
        (Self::OpenForged, 2),
        (Self::Encrypt, 12),
        (Self::Decrypt, 12),
        (Self::Digest, 13),
        (Self::Mac, 13),
    ];

    /// Those that a card can answer.
    pub(crate) fn answerable() -> impl Iterator<Item = Self> {
        let all = Self::MIX.into_iter().map(|(kind, _)| kind);
        all.filter(|kind| *kind != Self::OpenForged)
    }
}

/// Names a question.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Question {
    pub(crate) kind: Kind,
    variant: usize,
}

impl Question {
    /// Draws one.
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let mut at = rng.usize(0..100);
        for (kind, weight) in Kind::MIX {
            if at < weight {
                return Self::of(kind, rng);
            }
            at -= weight;
        }
        unreachable!("the weights add up to a hundred")
    }

    /// Draws one of a kind.
    pub(crate) fn of(kind: Kind, rng: &mut Rng) -> Self {
        let variant = rng.usize(0..VARIANTS);
        Self { kind, variant }
    }
}

/// What the right answer is.
enum Truth {
    Exactly(Result<Vec<u8>, OperationError>),
    /// Whatever verifies.
    SignatureOf(Vec<u8>),
}

/// The keys that are the same in every run, and all truths.
struct Library {
    rsa: Arc<SigningKey>,
    aead: Arc<AeadKey>,
    cipher: Arc<CipherKey>,
    mac: Arc<MacKey>,
    truths: Vec<(Question, Truth)>,
    /// ECDSA signatures that ring has verified, and of what: cards repeat theirs.
    verified: Mutex<HashSet<(usize, Vec<u8>)>>,
}

static LIBRARY: LazyLock<Library> = LazyLock::new(Library::new);

impl Library {
    fn new() -> Self {
        let mut library = Self {
            rsa: Arc::new(SigningKey::from_pkcs1(RSA_KEY).expect("it is an RSA key")),
            aead: Arc::new(AeadKey::new(&[0x5a; 32]).expect("32 bytes are an AES key")),
            cipher: Arc::new(CipherKey::new(&[0xc3; 16]).expect("16 bytes are an AES key")),
            mac: Arc::new(MacKey::new(HashAlgorithm::Sha256, b"a caller's key")),
            truths: Vec::new(),
            verified: Mutex::default(),
        };
        for (kind, _) in Kind::MIX {
            for variant in 0..VARIANTS {
                let truth = library.truth(Question { kind, variant });
                library.truths.push(truth);
            }
        }
        library
    }

    fn truth(&self, question: Question) -> (Question, Truth) {
        let truth = match question.kind {
            Kind::SignP256 => Truth::SignatureOf(message(question.variant)),
            _ => Truth::Exactly(software::perform(&self.operation(question, None))),
        };
        (question, truth)
    }

    fn operation(&self, question: Question, p256: Option<&Arc<SigningKey>>) -> Operation {
        let Question { kind, variant } = question;
        let message = message(variant);
        match kind {
            Kind::SignRsa => Operation::Sign {
                key: Arc::clone(&self.rsa),
                scheme: SignatureScheme::RsaPkcs1Sha256,
                message: Secret::from(message),
            },
            Kind::SignP256 => Operation::Sign {
                key: Arc::clone(p256.expect("runs have a key of their own")),
                scheme: SignatureScheme::EcdsaP256Sha256,
                message: Secret::from(message),
            },
            Kind::Seal => self.seal(variant, message),
            Kind::Open | Kind::OpenForged => {
                let sealed = software::perform(&self.seal(variant, message));
                let mut sealed = sealed.expect("a short message can be sealed");
                if kind == Kind::OpenForged {
                    sealed[variant] ^= 1;
                }
                Operation::Open {
                    key: Arc::clone(&self.aead),
                    nonce: nonce(variant),
                    aad: b"header".to_vec(),
                    sealed,
                }
            }
            Kind::Encrypt => self.cbc(Direction::Encrypt, variant, message),
            Kind::Decrypt => self.cbc(Direction::Decrypt, variant, message),
            Kind::Digest => Operation::Digest {
                hash: HashAlgorithm::Sha256,
                message: Secret::from(message),
            },
            Kind::Mac => Operation::Mac {
                key: Arc::clone(&self.mac),
                message: Secret::from(message),
            },
        }
    }

    fn seal(&self, variant: usize, message: Vec<u8>) -> Operation {
        Operation::Seal {
            key: Arc::clone(&self.aead),
            nonce: nonce(variant),
            aad: b"header".to_vec(),
            plaintext: Secret::from(message),
        }
    }

    fn cbc(&self, direction: Direction, variant: usize, mut message: Vec<u8>) -> Operation {
        message.truncate(message.len() / 16 * 16);
        let mut iv = [0x77; 16];
        iv[..12].copy_from_slice(&nonce(variant));
        Operation::Cbc {
            key: Arc::clone(&self.cipher),
            direction,
            iv,
            data: Secret::from(message),
        }
    }
}

/// No two are the same, and their lengths differ: 32 bytes and more.
fn message(variant: usize) -> Vec<u8> {
    let mut message = CALLERS_MARK.to_vec();
    message.extend(format!("message, number {variant:04} ").bytes());
    message.extend((0..variant * 5).map(|at| u8::try_from(at % 251).expect("below 251")));
    message
}

fn nonce(variant: usize) -> [u8; 12] {
    let mut nonce = [0x11; 12];
    nonce[..8].copy_from_slice(&(variant as u64).to_le_bytes());
    nonce
}

/// The callers of one run.
///
/// They have an ECDSA key object of their own: each remembers the nonces it has seen, and what
/// one run has shown it must not change another.
#[derive(Debug)]
pub(crate) struct Callers {
    p256: Arc<SigningKey>,
}

impl Callers {
    pub(crate) fn new() -> Self {
        let key = SigningKey::from_sec1(Curve::P256, P256_KEY).expect("it is a P-256 key");
        Self {
            p256: Arc::new(key),
        }
    }

    /// What to ask the router.
    pub(crate) fn operation(&self, question: Question) -> Operation {
        LIBRARY.operation(question, Some(&self.p256))
    }

    /// Whether `output` is the truth.
    pub(crate) fn is_true(
        &self,
        question: Question,
        output: &Result<Vec<u8>, OperationError>,
    ) -> bool {
        let index = question.kind as usize * VARIANTS + question.variant;
        let (asked, truth) = &LIBRARY.truths[index];
        assert_eq!(*asked, question, "truths stand in the order of the kinds");
        match (truth, output) {
            (Truth::Exactly(truth), output) => truth == output,
            (Truth::SignatureOf(message), Ok(signature)) => {
                self.signature_is_true(question.variant, message, signature)
            }
            (Truth::SignatureOf(_), Err(_)) => false,
        }
    }

    fn signature_is_true(&self, variant: usize, message: &[u8], signature: &[u8]) -> bool {
        /// Software's never come again, so there is no end to them.
        const REMEMBERED_MAX: usize = 10_000;
        let known = (variant, signature.to_vec());
        let mut verified = LIBRARY
            .verified
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if verified.contains(&known) {
            return true;
        }
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, self.p256.public_key());
        let is_true = key.verify(message, signature).is_ok();
        if is_true && verified.len() < REMEMBERED_MAX {
            verified.insert(known);
        }
        is_true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_tells_the_truth_and_any_flipped_bit_is_a_lie() {
        let callers = Callers::new();
        for (kind, _) in Kind::MIX {
            let question = Question { kind, variant: 3 };
            let mut output = software::perform(&callers.operation(question));
            assert!(callers.is_true(question, &output), "{kind:?}");
            if let Ok(bytes) = &mut output {
                bytes[9] ^= 4;
            } else {
                output = Ok(Vec::new());
            }
            assert!(!callers.is_true(question, &output), "{kind:?}");
        }
    }

    #[test]
    fn the_answer_to_another_question_is_a_lie() {
        let callers = Callers::new();
        for kind in Kind::answerable() {
            let [one, other] = [1, 2].map(|variant| Question { kind, variant });
            let output = software::perform(&callers.operation(one));
            assert!(!callers.is_true(other, &output), "{kind:?}");
        }
    }
}
