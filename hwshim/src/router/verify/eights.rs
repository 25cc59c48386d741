//! RSA signatures verified eight at a time, by crypto_mb.
//!
//! Eight cost little more than one does by itself, and an accelerator under load has done several
//! requests between two looks at it. What arrives by one look is opened together, by whoever wants to know
//! first:
//!
//! ```text
//!   arrivals of one look --share--> Share, Share, Share ... of one batch
//!                                     |
//!                                     |  the first that is asked: s^e mod n of all of them
//!                                     v
//!                                   blocks, each of which must encode the message it was asked for
//! ```
//!
//! This only ever finds answers right. One that it does not is verified again by itself, and if it
//! is right after all, it is the lanes that are wrong, and they are not asked any more.
//!
//! They may be the lanes that have signed. A processor that multiplies wrongly would be its own witness, but
//! not one that could lie: it opens a signature without being told what should come out, and by
//! mistake it would have to hit the one number of 2048 bits that encodes the message.

use crate::accelerator::{Operation, pkcs1, pss};
use crate::clock::Clock;
use crate::kat;
use crate::key::{SignatureAlgorithm, SigningKey};
use crate::router::core::Arrival;
use ::multi_buffer::{LANES, LoadError, MultiBuffer, RsaLen};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Fewer than this many are verified one by one: a call costs the same however many lanes it fills.
const WORTH_A_CALL: usize = 2;

/// Verifies signatures eight at a time.
pub struct Eights {
    library: MultiBuffer,
    /// It has called a signature wrong that is right.
    mistaken: AtomicBool,
    calls: AtomicU64,
    signatures: AtomicU64,
}

/// What it was asked for so far.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Counts {
    /// Calls of the library.
    pub calls: u64,
    /// Signatures that were opened by them: up to eight each.
    pub signatures: u64,
}

/// The library is not there, or does not compute what it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EightsError {
    /// It cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// It has opened a known signature to something else.
    #[error("crypto_mb miscalculates: it opened a known signature to another block")]
    WrongAnswer,
}

impl EightsError {
    /// Whether the host merely lacks something, processor or library.
    #[must_use]
    pub const fn is_absence(&self) -> bool {
        matches!(self, Self::Load(error) if error.is_absence())
    }
}

impl Eights {
    /// Finds the library and tries it with known answers. It is loaded once for the process, and never
    /// unloaded.
    ///
    /// # Errors
    ///
    /// See [`EightsError`]; [`EightsError::is_absence`] tells what is merely not there.
    pub fn load() -> Result<&'static Self, EightsError> {
        static LOADED: OnceLock<Eights> = OnceLock::new();
        if let Some(loaded) = LOADED.get() {
            return Ok(loaded);
        }
        let eights = Self::over(MultiBuffer::load(None)?);
        eights.try_known_answers()?;
        Ok(LOADED.get_or_init(|| eights))
    }

    const fn over(library: MultiBuffer) -> Self {
        Self {
            library,
            mistaken: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            signatures: AtomicU64::new(0),
        }
    }

    /// Whether it has been caught calling a right signature wrong, after which it is not asked.
    #[must_use]
    pub fn is_mistaken(&self) -> bool {
        self.mistaken.load(Ordering::Relaxed)
    }

    /// What it was asked for so far, in this process.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            calls: self.calls.load(Ordering::Relaxed),
            signatures: self.signatures.load(Ordering::Relaxed),
        }
    }

    fn try_known_answers(&self) -> Result<(), EightsError> {
        for test in &kat::ALL {
            let (Operation::Sign { key, .. }, Some(signature)) =
                (&test.operation(), test.exact_answer())
            else {
                continue;
            };
            let signatures = vec![(Arc::clone(key), signature.to_vec()); LANES];
            let blocks = self.open(RsaLen::Bits2048, &signatures);
            let right = |block: &Option<Vec<u8>>| {
                block
                    .as_ref()
                    .is_some_and(|block| encodes(&test.operation(), block))
            };
            if !blocks.iter().all(right) {
                return Err(EightsError::WrongAnswer);
            }
        }
        Ok(())
    }

    /// Has those of `arrivals` that can be verified together share a call.
    pub(in crate::router) fn share(&'static self, arrivals: &mut [Arrival]) {
        if arrivals.len() < WORTH_A_CALL || self.is_mistaken() {
            return;
        }
        for len in RsaLen::ALL {
            let mut alike: Vec<_> = arrivals
                .iter_mut()
                .filter(|arrival| rsa_len(arrival) == Some(len))
                .collect();
            for arrivals in alike.chunks_mut(LANES) {
                if arrivals.len() >= WORTH_A_CALL {
                    self.share_call(len, arrivals);
                }
            }
        }
    }

    fn share_call(&'static self, len: RsaLen, arrivals: &mut [&mut Arrival]) {
        let signatures = arrivals.iter().filter_map(|arrival| signature(arrival));
        let batch = Arc::new(Batch {
            eights: self,
            len,
            signatures: signatures.collect(),
            opened: OnceLock::new(),
        });
        for (place, arrival) in arrivals.iter_mut().enumerate() {
            arrival.share = Some(Share {
                batch: Arc::clone(&batch),
                place,
            });
        }
    }

    /// What each signature is of, `None` where it is of nothing: too long, or no number below its
    /// modulus.
    fn open(&self, len: RsaLen, signatures: &[(Arc<SigningKey>, Vec<u8>)]) -> Vec<Option<Vec<u8>>> {
        let lanes: Vec<_> = signatures
            .iter()
            .filter_map(|(key, signature)| Some((key.for_eights()?, signature.as_slice())))
            .collect();
        let blocks = self.library.rsa_public(len, &lanes);
        blocks.into_iter().map(Result::ok).collect()
    }
}

impl fmt::Debug for Eights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Eights").field(&self.library).finish()
    }
}

/// Signatures that are opened by one call.
struct Batch {
    eights: &'static Eights,
    len: RsaLen,
    signatures: Vec<(Arc<SigningKey>, Vec<u8>)>,
    opened: OnceLock<Opened>,
}

struct Opened {
    blocks: Vec<Option<Vec<u8>>>,
    /// What each costs.
    each: Duration,
}

/// One signature of a batch.
pub struct Share {
    batch: Arc<Batch>,
    place: usize,
}

impl Share {
    /// Opens the batch, unless another share has, and returns what each share of that took. Whoever asks
    /// while another is at it waits for it, for no longer than opening takes.
    pub(in crate::router) fn open(&self, clock: &dyn Clock) -> Duration {
        let Batch {
            eights,
            len,
            signatures,
            opened,
        } = &*self.batch;
        let opened = opened.get_or_init(|| {
            let begun = clock.now();
            let blocks = eights.open(*len, signatures);
            let count = u32::try_from(signatures.len()).unwrap_or(u32::MAX);
            eights.calls.fetch_add(1, Ordering::Relaxed);
            eights
                .signatures
                .fetch_add(u64::from(count), Ordering::Relaxed);
            Opened {
                blocks,
                each: clock.now().since(begun) / count.max(1),
            }
        });
        opened.each
    }

    /// Whether `signature`, an answer to `operation`, has been opened and is right. If not, nothing is
    /// known of it.
    pub(super) fn proves(&self, operation: &Operation, signature: &[u8]) -> bool {
        let Operation::Sign { key, .. } = operation else {
            return false;
        };
        let is_this = self
            .batch
            .signatures
            .get(self.place)
            .is_some_and(|(signed_by, opened)| Arc::ptr_eq(signed_by, key) && opened == signature);
        let opened = self.batch.opened.get().filter(|_| is_this);
        let block = opened.and_then(|opened| opened.blocks.get(self.place)?.as_ref());
        block.is_some_and(|block| encodes(operation, block))
    }

    /// Takes note that what it could not prove is right.
    pub(super) fn was_mistaken(&self) {
        if self.batch.opened.get().is_some() {
            self.batch.eights.mistaken.store(true, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Share({} of {})",
            self.place,
            self.batch.signatures.len()
        )
    }
}

/// Whether `block` encodes the message that `operation` is to sign, as it says.
fn encodes(operation: &Operation, block: &[u8]) -> bool {
    let Operation::Sign {
        scheme, message, ..
    } = operation
    else {
        return false;
    };
    match scheme.algorithm() {
        SignatureAlgorithm::RsaPkcs1 => {
            pkcs1::encode(scheme.hash(), message, block.len()).is_some_and(|right| right == block)
        }
        SignatureAlgorithm::RsaPss => pss::is_encoding_of(scheme.hash(), message, block),
        SignatureAlgorithm::Ecdsa(_) => false,
    }
}

/// Length of the modulus, if what has arrived is a signature that can be verified here.
fn rsa_len(arrival: &Arrival) -> Option<RsaLen> {
    let (Operation::Sign { key, scheme, .. }, Ok(_)) = (&arrival.operation, &arrival.answer) else {
        return None;
    };
    let is_possible = key.supports(*scheme);
    Some(key.for_eights().filter(|_| is_possible)?.len())
}

fn signature(arrival: &Arrival) -> Option<(Arc<SigningKey>, Vec<u8>)> {
    match (&arrival.operation, &arrival.answer) {
        (Operation::Sign { key, .. }, Ok(answer)) => Some((Arc::clone(key), answer.0.clone())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accelerator::{
        DeviceError, DeviceMisbehaved, RequestId, Secret, Unverified, software,
    };
    use crate::clock::SystemClock;
    use crate::key::{HashAlgorithm, SignatureScheme};
    use crate::router::verify;
    use ::multi_buffer::RsaPrivateKey;
    use ring::rand::{SecureRandom, SystemRandom};

    const PSS: SignatureScheme = SignatureScheme::RsaPssSha256;

    /// The library of this host, for one test alone.
    fn eights() -> Option<&'static Eights> {
        match MultiBuffer::load(None) {
            Ok(library) => Some(Box::leak(Box::new(Eights::over(library)))),
            Err(error) if error.is_absence() => {
                println!("skipped: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn operation(key: &Arc<SigningKey>, scheme: SignatureScheme, message: &[u8]) -> Operation {
        Operation::Sign {
            key: Arc::clone(key),
            scheme,
            message: Secret::from(message),
        }
    }

    fn arrival(operation: Operation) -> Arrival {
        Arrival {
            id: RequestId {
                index: 0,
                generation: 0,
            },
            answer: software::perform(&operation)
                .map(Unverified)
                .map_err(|_| DeviceError::Gone),
            operation,
            share: None,
        }
    }

    fn check(arrival: Arrival) -> Result<(), DeviceMisbehaved> {
        let share = arrival.share.as_ref();
        if let Some(share) = share {
            share.open(&SystemClock);
        }
        let answer = arrival.answer.unwrap();
        verify::check_shared(&arrival.operation, answer, share).map(|_| ())
    }

    /// A number in place of an encoding, from which the signature is made that opens to it.
    fn sign_block(eights: &Eights, der: &[u8], block: &[u8]) -> Option<Vec<u8>> {
        let key = RsaPrivateKey::from_pkcs1(der).unwrap();
        let mut signed = eights.library.rsa_private(key.len(), &[(&key, block)]);
        signed.pop()?.ok()
    }

    /// Encodings that are right, and what is nearly one.
    fn blocks(hash: HashAlgorithm, message: &[u8], len: usize) -> Vec<Vec<u8>> {
        let random = SystemRandom::new();
        let mut pss = vec![0; len];
        pss::encode(hash, message, &random, &mut pss).unwrap();
        let pkcs1 = pkcs1::encode(hash, message, len).unwrap();
        let mut noise = vec![0; len];
        random.fill(&mut noise).unwrap();
        noise[0] = 0;
        let mut all = vec![pss.clone(), pkcs1.clone(), noise, vec![0; len]];
        for right in [pss, pkcs1] {
            for place in [
                0,
                1,
                2,
                9,
                len - 100,
                len - 66,
                len - 52,
                len - 33,
                len - 2,
                len - 1,
            ] {
                for change in [1, 0x80] {
                    let mut wrong = right.clone();
                    wrong[place] ^= change;
                    all.push(wrong);
                }
            }
            // Moved by a byte, as a salt or padding of another length would be.
            all.push([&right[1..], &[0xbc]].concat());
            all.push([&[0], &right[..len - 1]].concat());
        }
        all
    }

    #[test]
    fn says_of_every_block_what_ring_says_of_its_signature() {
        let Some(eights) = eights() else { return };
        let keys = [
            (
                kat::rsa_2048_key(),
                &include_bytes!("../../kat/rsa-2048.pkcs1.der")[..],
            ),
            (
                kat::rsa_4096_key(),
                &include_bytes!("../../kat/rsa-4096.pkcs1.der")[..],
            ),
        ];
        let mut right = 0;
        for (key, der) in keys {
            let len = key.for_eights().unwrap().len();
            for scheme in SignatureScheme::ALL
                .into_iter()
                .filter(|scheme| key.supports(*scheme))
            {
                for block in blocks(scheme.hash(), b"message", len.bytes()) {
                    let Some(signature) = sign_block(eights, der, &block) else {
                        continue;
                    };
                    let by_ring =
                        verify::signature(key.public_key(), scheme, b"message", &signature);
                    let signatures = vec![(Arc::clone(&key), signature)];
                    let opened = eights.open(len, &signatures).pop().unwrap().unwrap();
                    assert_eq!(opened, block);
                    let here = encodes(&operation(&key, scheme, b"message"), &opened);
                    assert_eq!(here, by_ring.is_ok(), "{scheme:?} {block:02x?}");
                    right += u32::from(here);
                }
            }
        }
        assert_eq!(right, 2 * 6, "each scheme has one right block");
    }

    #[test]
    fn the_known_answers_are_right() {
        let Some(eights) = eights() else { return };
        eights.try_known_answers().unwrap();
    }

    #[test]
    fn what_arrives_together_is_shared_by_length_and_the_rest_is_not() {
        let Some(eights) = eights() else { return };
        let (short, long, curve) = (kat::rsa_2048_key(), kat::rsa_4096_key(), kat::p256_key());
        let mut arrivals: Vec<_> = (0..9_u8)
            .map(|number| arrival(operation(&short, PSS, &[number])))
            .collect();
        arrivals.push(arrival(operation(&long, PSS, b"alone of its length")));
        arrivals.push(arrival(operation(
            &curve,
            SignatureScheme::EcdsaP256Sha256,
            b"ECDSA",
        )));
        let mut failed = arrival(operation(&short, PSS, b"no answer"));
        failed.answer = Err(DeviceError::TimedOut);
        arrivals.insert(4, failed);
        eights.share(&mut arrivals);
        let shares: Vec<_> = arrivals
            .iter()
            .map(|arrival| arrival.share.as_ref().map(|share| share.place))
            .collect();
        let eight = [0, 1, 2, 3].map(Some).into_iter().chain([None]);
        let eight = eight.chain([4, 5, 6, 7].map(Some));
        // The ninth would have a call to itself.
        let expected: Vec<_> = eight.chain([None; 3]).collect();
        assert_eq!(shares, expected);
        arrivals.remove(4);
        for arrival in arrivals {
            check(arrival).unwrap();
        }
        assert!(!eights.is_mistaken());
    }

    #[test]
    fn a_wrong_answer_is_found_and_its_companions_are_right() {
        let Some(eights) = eights() else { return };
        let key = kat::rsa_2048_key();
        let mut arrivals: Vec<_> = (0..8_u8)
            .map(|number| arrival(operation(&key, PSS, &[number])))
            .collect();
        let spoil = |arrival: &mut Arrival, with: fn(&mut Vec<u8>)| {
            with(&mut arrival.answer.as_mut().unwrap().0);
        };
        spoil(&mut arrivals[1], |bytes| bytes[200] ^= 1);
        spoil(&mut arrivals[2], Vec::clear);
        spoil(&mut arrivals[4], |bytes| bytes.fill(0xff));
        spoil(&mut arrivals[5], |bytes| bytes.push(0));
        // The answer to another request.
        let other = arrivals[7].answer.as_ref().unwrap().0.clone();
        arrivals[6].answer = Ok(Unverified(other));
        eights.share(&mut arrivals);
        let found: Vec<_> = arrivals
            .into_iter()
            .map(|arrival| check(arrival).is_ok())
            .collect();
        assert_eq!(found, [true, false, false, true, false, false, false, true]);
        assert!(!eights.is_mistaken(), "wrong answers are the card's");
    }

    #[test]
    fn a_share_proves_nothing_of_another_signature_operation_or_key() {
        let Some(eights) = eights() else { return };
        let key = kat::rsa_2048_key();
        let mut arrivals = [b"one", b"two"].map(|message| arrival(operation(&key, PSS, message)));
        eights.share(&mut arrivals);
        let [one, two] = arrivals;
        let (share, signature) = (one.share.unwrap(), one.answer.unwrap().0);
        assert!(!share.proves(&one.operation, &signature), "not opened yet");
        share.open(&SystemClock);
        assert!(share.proves(&one.operation, &signature));
        assert!(!share.proves(&two.operation, &signature));
        assert!(!share.proves(&one.operation, &two.answer.unwrap().0));
        let renumbered = Arc::new(key.renumbered());
        assert!(!share.proves(&operation(&renumbered, PSS, b"one"), &signature));
    }

    #[test]
    fn lanes_that_call_a_right_signature_wrong_are_not_asked_again() {
        let Some(eights) = eights() else { return };
        let key = kat::rsa_2048_key();
        let two = || [b"one", b"two"].map(|message| arrival(operation(&key, PSS, message)));
        let mut arrivals = two();
        eights.share(&mut arrivals);
        // What lanes that miscalculate might leave.
        let batch = &arrivals[0].share.as_ref().unwrap().batch;
        let miscalculated = Opened {
            blocks: vec![Some(vec![0; 256]), None],
            each: Duration::ZERO,
        };
        assert!(batch.opened.set(miscalculated).is_ok());
        for arrival in arrivals {
            check(arrival).unwrap();
        }
        assert!(eights.is_mistaken());
        let mut arrivals = two();
        eights.share(&mut arrivals);
        assert!(arrivals.iter().all(|arrival| arrival.share.is_none()));
    }
}
