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
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// Every message of a caller begins with this, and no known-answer test does.
const CALLERS_MARK: &[u8] = b"a caller's ";

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

    /// Draws one that is cheap to answer in software, and to simulate.
    pub(crate) fn draw_cheap(rng: &mut Rng) -> Self {
        loop {
            let question = Self::draw(rng);
            if question.kind != Kind::SignRsa {
                return question;
            }
        }
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

/// Whether an engine that is given `source` has been given a caller's request: a message, a sealed
/// message or what a signature is of, even if a faulty card has changed its middle.
pub(crate) fn is_a_callers(source: &[u8]) -> bool {
    static MARKS: LazyLock<Marks> = LazyLock::new(Marks::new);
    source.starts_with(CALLERS_MARK)
        || source
            .first_chunk()
            .is_some_and(|start| MARKS.sealed.contains(start))
        || source
            .last_chunk()
            .is_some_and(|end| MARKS.digests.contains(end))
}

/// What callers' requests look like that show no message.
struct Marks {
    /// How sealed messages begin.
    sealed: HashSet<[u8; 8]>,
    /// How digests of messages end, and so do the blocks that RSA signs.
    digests: HashSet<[u8; 8]>,
}

impl Marks {
    fn new() -> Self {
        let messages = (0..VARIANTS).map(message);
        let digests = messages.map(|message| {
            let digest = ring::digest::digest(&ring::digest::SHA256, &message);
            *digest.as_ref().last_chunk().expect("a digest has 32 bytes")
        });
        let sealed = LIBRARY.truths.iter().filter_map(|(question, truth)| {
            let Truth::Exactly(Ok(sealed)) = truth else {
                return None;
            };
            (question.kind == Kind::Seal).then(|| sealed.first_chunk().copied())?
        });
        let mut sealed: HashSet<_> = sealed.collect();
        // A forgery differs in one bit, which may be one of the first.
        let forged = (0..VARIANTS).map(|variant| {
            let question = Question {
                kind: Kind::OpenForged,
                variant,
            };
            LIBRARY.operation(question, None)
        });
        sealed.extend(forged.filter_map(|operation| match operation {
            Operation::Open { sealed, .. } => sealed.first_chunk().copied(),
            _ => None,
        }));
        Self {
            sealed,
            digests: digests.collect(),
        }
    }
}

/// The callers of one run.
///
/// They have an ECDSA key object of their own: each remembers the nonces it has seen, and what
/// one run has shown it must not change another.
#[derive(Debug)]
pub(crate) struct Callers {
    p256: Arc<SigningKey>,
    /// Of which message the signature was that had this `r`, of all that were released: two
    /// messages with one nonce, and whoever has both signatures has the key.
    signed: HashMap<Vec<u8>, usize>,
}

impl Callers {
    pub(crate) fn new() -> Self {
        let key = SigningKey::from_sec1(Curve::P256, P256_KEY).expect("it is a P-256 key");
        Self {
            p256: Arc::new(key),
            signed: HashMap::new(),
        }
    }

    /// What to ask the router.
    pub(crate) fn operation(&self, question: Question) -> Operation {
        LIBRARY.operation(question, Some(&self.p256))
    }

    /// Takes what was released.
    ///
    /// # Errors
    ///
    /// What is wrong with it, if it is not the truth or gives the key away.
    pub(crate) fn judge(
        &mut self,
        question: Question,
        output: &Result<Vec<u8>, OperationError>,
    ) -> Result<(), &'static str> {
        if !self.is_true(question, output) {
            return Err("a wrong answer");
        }
        let (Kind::SignP256, Ok(signature)) = (question.kind, output) else {
            return Ok(());
        };
        let r = r_of(signature).ok_or("a wrong answer")?;
        match self.signed.insert(r.to_vec(), question.variant) {
            Some(other) if other != question.variant => Err("a nonce for the second time"),
            _ => Ok(()),
        }
    }

    /// Whether `output` is the truth.
    fn is_true(&self, question: Question, output: &Result<Vec<u8>, OperationError>) -> bool {
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

/// `r` of an ECDSA signature in DER, which has been verified (RFC 3279 §2.2.3 "ECDSA Signature
/// Algorithm"): `SEQUENCE { r INTEGER, s INTEGER }`, with lengths of one byte.
fn r_of(signature: &[u8]) -> Option<&[u8]> {
    let r = signature.strip_prefix(&[0x30])?.get(1..)?;
    let (len, r) = r.strip_prefix(&[0x02])?.split_first()?;
    r.get(..usize::from(*len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ecdsa::hazmat::sign_prehashed;
    use p256::NistP256;

    /// A signature of a caller's message with a nonce of one's choosing.
    fn signed_with(nonce: u8, variant: usize) -> Result<Vec<u8>, OperationError> {
        let parsed = sec1::EcPrivateKey::try_from(P256_KEY).unwrap();
        let key = p256::SecretKey::from_slice(parsed.private_key).unwrap();
        let nonce = p256::SecretKey::from_slice(&[nonce; 32]).unwrap();
        let digest = ring::digest::digest(&ring::digest::SHA256, &message(variant));
        let (signature, _) = sign_prehashed::<NistP256>(
            &key.to_nonzero_scalar(),
            &nonce.to_nonzero_scalar(),
            digest.as_ref(),
        )
        .unwrap();
        Ok(signature.to_der().as_bytes().to_vec())
    }

    #[test]
    fn a_nonce_that_comes_again_under_another_message_is_a_lie_although_both_verify() {
        let mut callers = Callers::new();
        let [one, other] = [1, 2].map(|variant| Question {
            kind: Kind::SignP256,
            variant,
        });
        assert_eq!(callers.judge(one, &signed_with(7, 1)), Ok(()));
        assert_eq!(
            callers.judge(one, &signed_with(7, 1)),
            Ok(()),
            "the same again"
        );
        assert_eq!(callers.judge(other, &signed_with(8, 2)), Ok(()));
        let repeated = signed_with(7, 2);
        assert!(callers.is_true(other, &repeated), "it verifies");
        assert_eq!(
            callers.judge(other, &repeated),
            Err("a nonce for the second time")
        );
        assert_eq!(
            callers.judge(one, &signed_with(9, 2)),
            Err("a wrong answer")
        );
    }

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
