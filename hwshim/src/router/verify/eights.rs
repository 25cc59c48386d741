//! RSA signatures verified eight at a time, by crypto_mb.
//!
//! Eight cost little more than one does by itself, and an accelerator under load has done several
//! requests between two looks at it. What arrives by one look is opened together, by whoever wants to know
//! first; who wants to know meanwhile verifies its own:
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
use crate::kat;
use crate::key::{KeyId, SignatureAlgorithm, SigningKey};
use crate::router::core::Arrival;
use ::multi_buffer::{LANES, LoadError, MultiBuffer, RsaLen, RsaPublicKey};
use std::fmt;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use zeroize::Zeroizing;

/// Fewer than this many are verified one by one. A call costs the same however many lanes it fills: as
/// much as 1.2 to 1.6 verifications by ring, and as 1.7 to 2.1 by AWS-LC with a key that is parsed.
const WORTH_A_CALL: usize = if cfg!(feature = "aws-lc-rs") { 3 } else { 2 };

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
    /// Finds the library and tries it with known answers of 2048 bits. It is loaded once for the process,
    /// and never unloaded.
    ///
    /// # Errors
    ///
    /// See [`EightsError`]; [`EightsError::is_absence`] tells what is merely not there.
    pub fn load() -> Result<&'static Self, EightsError> {
        Self::load_from(None)
    }

    /// The same with the library at `path`, if there is a path. Once one was loaded, it is that one for
    /// the whole process.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn load_from(path: Option<&Path>) -> Result<&'static Self, EightsError> {
        static LOADED: OnceLock<Eights> = OnceLock::new();
        if let Some(loaded) = LOADED.get() {
            return Ok(loaded);
        }
        let eights = Self::over(MultiBuffer::load(path)?);
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

    /// Tries each lane, with answers that differ from those of its neighbours.
    fn try_known_answers(&self) -> Result<(), EightsError> {
        const LEN: RsaLen = RsaLen::Bits2048;
        let known = kat::ALL.iter().filter_map(|test| {
            let operation = test.operation();
            let signature = test.exact_answer()?;
            let signed = Signed::new(&operation, signature, LEN)?;
            Some((operation, signed))
        });
        let known: Vec<_> = known.collect();
        let known: Vec<_> = known.iter().cycle().take(LANES).collect();
        let signed: Vec<_> = known.iter().map(|(_, signed)| signed.clone()).collect();
        let blocks = self.open(LEN, &signed);
        let right = known.iter().zip(&blocks).filter(|((operation, _), block)| {
            (block.as_ref()).is_some_and(|block| encodes(operation, block))
        });
        if right.count() == LANES {
            Ok(())
        } else {
            Err(EightsError::WrongAnswer)
        }
    }

    /// Has those of `arrivals` that can be verified together share a call.
    pub(in crate::router) fn share(&'static self, arrivals: &mut [Arrival]) {
        if arrivals.len() < WORTH_A_CALL || self.is_mistaken() {
            return;
        }
        for len in RsaLen::ALL {
            let signed = arrivals.iter_mut().filter_map(|arrival| {
                let signature = arrival.answer.as_ref().ok()?;
                let signed = Signed::new(&arrival.operation, &signature.0, len)?;
                Some((signed, &mut arrival.share))
            });
            let mut signed = signed.peekable();
            while signed.peek().is_some() {
                let (some, shares): (Vec<_>, Vec<_>) = signed.by_ref().take(LANES).unzip();
                if some.len() >= WORTH_A_CALL {
                    self.share_call(len, some, shares);
                }
            }
        }
    }

    fn share_call(
        &'static self,
        len: RsaLen,
        signed: Vec<Signed>,
        shares: Vec<&mut Option<Share>>,
    ) {
        let batch = Arc::new(Batch {
            eights: self,
            len,
            signed,
            claimed: AtomicBool::new(false),
            blocks: OnceLock::new(),
        });
        for (place, share) in shares.into_iter().enumerate() {
            *share = Some(Share {
                batch: Arc::clone(&batch),
                place,
            });
        }
    }

    /// What each signature is of, `None` where it is of nothing: too long, or no number below its
    /// modulus.
    fn open(&self, len: RsaLen, signed: &[Signed]) -> Vec<Option<Vec<u8>>> {
        let lanes: Vec<_> = signed
            .iter()
            .map(|Signed { key, signature, .. }| (&**key, signature.as_slice()))
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

/// A signature, and who is said to have made it.
#[derive(Clone)]
struct Signed {
    /// Nothing of the private half, which must not live as long as the slowest who shares.
    by: KeyId,
    key: Arc<RsaPublicKey>,
    /// One that is wrong may give a key away.
    signature: Zeroizing<Vec<u8>>,
}

impl Signed {
    /// An answer to `operation`, if that is to sign by RSA with a key of `len` that is possible here.
    fn new(operation: &Operation, signature: &[u8], len: RsaLen) -> Option<Self> {
        let Operation::Sign { key, scheme, .. } = operation else {
            return None;
        };
        let public = key.for_eights().filter(|public| public.len() == len)?;
        key.supports(*scheme).then(|| Self {
            by: key.id(),
            key: Arc::clone(public),
            signature: Zeroizing::new(signature.to_vec()),
        })
    }

    fn is(&self, key: &SigningKey, signature: &[u8]) -> bool {
        self.by == key.id() && *self.signature == signature
    }
}

/// Signatures that are opened by one call.
struct Batch {
    eights: &'static Eights,
    len: RsaLen,
    signed: Vec<Signed>,
    /// Somebody is opening it, or has.
    claimed: AtomicBool,
    blocks: OnceLock<Vec<Option<Vec<u8>>>>,
}

/// One signature of a batch.
pub struct Share {
    batch: Arc<Batch>,
    place: usize,
}

/// Who has done what a share needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::router) enum OpenedBy {
    /// Whoever asked, for so many.
    Caller(NonZeroU32),
    /// Somebody before.
    Companion,
    /// Nobody yet: another is at it, or the lanes are not asked any more.
    Nobody,
}

/// What a share says of an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Found {
    /// It is right.
    Right,
    /// It opens to something else than it should.
    Wrong,
    /// It has not been opened, or is not what was.
    Nothing,
}

impl Share {
    /// Opens the batch, unless another has or is just doing that: nobody waits for anybody.
    pub(in crate::router) fn open(&self) -> OpenedBy {
        let Batch {
            eights,
            len,
            signed,
            claimed,
            blocks,
        } = &*self.batch;
        if blocks.get().is_some() {
            return OpenedBy::Companion;
        }
        let count = u32::try_from(signed.len()).ok().and_then(NonZeroU32::new);
        let Some(count) = count.filter(|_| !eights.is_mistaken()) else {
            return OpenedBy::Nobody;
        };
        if claimed.swap(true, Ordering::Relaxed) {
            return OpenedBy::Nobody;
        }
        blocks.get_or_init(|| eights.open(*len, signed));
        eights.calls.fetch_add(1, Ordering::Relaxed);
        (eights.signatures).fetch_add(u64::from(count.get()), Ordering::Relaxed);
        OpenedBy::Caller(count)
    }

    /// What is known of `signature`, an answer to `operation`.
    pub(super) fn find(&self, operation: &Operation, signature: &[u8]) -> Found {
        let Batch { signed, blocks, .. } = &*self.batch;
        let Operation::Sign { key, .. } = operation else {
            return Found::Nothing;
        };
        let is_this = (signed.get(self.place)).is_some_and(|signed| signed.is(key, signature));
        let block = blocks.get().and_then(|blocks| blocks.get(self.place));
        match block.filter(|_| is_this) {
            Some(Some(block)) if encodes(operation, block) => Found::Right,
            Some(_) => Found::Wrong,
            None => Found::Nothing,
        }
    }

    /// Takes note that what was found wrong is right.
    pub(super) fn was_mistaken(&self) {
        self.batch.eights.mistaken.store(true, Ordering::Relaxed);
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Share({} of {})", self.place, self.batch.signed.len())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accelerator::{
        DeviceError, DeviceMisbehaved, RequestId, Secret, Unverified, software,
    };
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
            operation: Arc::new(operation),
            share: None,
        }
    }

    /// As many as are worth a call, whatever is built in.
    fn three(key: &Arc<SigningKey>) -> [Arrival; 3] {
        [&b"one"[..], b"two", b"three"].map(|message| arrival(operation(key, PSS, message)))
    }

    fn check(arrival: Arrival) -> Result<(), DeviceMisbehaved> {
        let share = arrival.share.as_ref();
        share.map(Share::open);
        let answer = arrival.answer.unwrap();
        verify::check_shared(&arrival.operation, answer, share).map(|_| ())
    }

    /// The signatures that open to `blocks`, whatever those are; none for one that is no number below
    /// the modulus.
    fn sign_blocks(eights: &Eights, der: &[u8], blocks: &[Vec<u8>]) -> Vec<Option<Vec<u8>>> {
        let key = RsaPrivateKey::from_pkcs1(der).unwrap();
        let batch: Vec<_> = blocks.iter().map(|block| (&key, &block[..])).collect();
        let signed = eights.library.rsa_private(key.len(), &batch);
        signed.into_iter().map(Result::ok).collect()
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
        let usual = hash.digest_len();
        for salt_len in [0, 1, usual - 1, usual + 1, len - usual - 2] {
            let mut salted = vec![0; len];
            pss::encode_salted(hash, message, &vec![7; salt_len], &mut salted).unwrap();
            all.push(salted);
        }
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
            // Moved by a byte.
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
                kat::rsa_3072_key(),
                &include_bytes!("../../kat/rsa-3072.pkcs1.der")[..],
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
                let blocks = blocks(scheme.hash(), b"message", len.bytes());
                for (block, signature) in blocks.iter().zip(sign_blocks(eights, der, &blocks)) {
                    let Some(signature) = signature else {
                        continue;
                    };
                    let by_ring =
                        verify::signature(key.public_key(), scheme, b"message", &signature);
                    let operation = operation(&key, scheme, b"message");
                    let signed = Signed::new(&operation, &signature, len).unwrap();
                    let opened = eights.open(len, &[signed]).pop().unwrap().unwrap();
                    assert_eq!(opened, *block);
                    let here = encodes(&operation, &opened);
                    assert_eq!(here, by_ring.is_ok(), "{scheme:?} {block:02x?}");
                    right += u32::from(here);
                }
            }
        }
        assert_eq!(right, 3 * 6, "each scheme has one right block");
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
        let mut arrivals = three(&key);
        eights.share(&mut arrivals);
        let [one, two, _] = arrivals;
        let (share, signature) = (one.share.unwrap(), one.answer.unwrap().0);
        let found = |operation, signature: &[u8]| share.find(operation, signature);
        assert_eq!(found(&one.operation, &signature), Found::Nothing);
        share.open();
        assert_eq!(found(&one.operation, &signature), Found::Right);
        assert_eq!(found(&two.operation, &signature), Found::Wrong);
        let other = two.answer.unwrap().0;
        assert_eq!(found(&one.operation, &other), Found::Nothing);
        let renumbered = operation(&Arc::new(key.renumbered()), PSS, b"one");
        assert_eq!(found(&renumbered, &signature), Found::Nothing);
    }

    #[test]
    fn whoever_comes_first_opens_for_all_and_nobody_waits() {
        let Some(eights) = eights() else { return };
        let mut arrivals = three(&kat::rsa_2048_key());
        eights.share(&mut arrivals);
        let [one, two, three] = arrivals.map(|arrival| arrival.share.unwrap());
        // Another is at it.
        one.batch.claimed.store(true, Ordering::Relaxed);
        assert_eq!(two.open(), OpenedBy::Nobody);
        one.batch.claimed.store(false, Ordering::Relaxed);
        assert_eq!(one.open(), OpenedBy::Caller(NonZeroU32::new(3).unwrap()));
        assert_eq!(three.open(), OpenedBy::Companion);
        let opened = Counts {
            calls: 1,
            signatures: 3,
        };
        assert_eq!(eights.counts(), opened);
    }

    #[test]
    fn lanes_that_call_a_right_signature_wrong_are_not_asked_again() {
        let Some(eights) = eights() else { return };
        let key = kat::rsa_2048_key();
        let mut arrivals = three(&key);
        eights.share(&mut arrivals);
        let mut shared_before = three(&key);
        eights.share(&mut shared_before);
        // What lanes that miscalculate might leave.
        let batch = &arrivals[0].share.as_ref().unwrap().batch;
        let miscalculated = vec![Some(vec![0; 256]), None, Some(Vec::new())];
        batch.blocks.set(miscalculated).unwrap();
        for arrival in arrivals {
            check(arrival).unwrap();
        }
        assert!(eights.is_mistaken());
        for arrival in shared_before {
            assert_eq!(arrival.share.as_ref().unwrap().open(), OpenedBy::Nobody);
            check(arrival).unwrap();
        }
        let mut arrivals = three(&key);
        eights.share(&mut arrivals);
        assert!(arrivals.iter().all(|arrival| arrival.share.is_none()));
    }
}
