//! Nothing leaves unverified.
//!
//! The only way to obtain a [`Verified`] value is [`check`], or `check_shared` in here, and callers of
//! the router are given nothing else, so "forgot to verify" does not compile. One faulty RSA-CRT signature gives the
//! private key away (Boneh, DeMillo and Lipton, "On the Importance of Checking Cryptographic
//! Protocols for Faults"); so do two ECDSA signatures that share a nonce, which verify perfectly.
//!
//! | operation | how it is checked | cost, as a share of doing it in software |
//! |---|---|---|
//! | RSA signature | with the public key, which AWS-LC keeps parsed where it is built in | 4 % |
//! | RSA signatures, eight that arrive together | with their public keys, in [`eights`] | 1 % |
//! | ECDSA signature | with the public key, and its `r` against earlier ones | about 300 % |
//! | everything else | done again in software and compared | 100 % |

pub mod eights;
#[cfg(any(test, feature = "aws-lc-rs"))]
pub(crate) mod parsed;

use crate::accelerator::{DeviceMisbehaved, Operation, Secret, Unverified, software};
use crate::key::{SignatureAlgorithm, SignatureScheme, SigningKey};
use eights::{Found, Share};
use ring::hmac;
use ring::signature::UnparsedPublicKey;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::ops::BitOr;
use std::sync::Mutex;
use subtle::ConstantTimeEq;

/// An answer that has been checked against the request it claims to answer.
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// Releases the answer.
    pub fn release(self) -> T {
        self.0
    }
}

impl<T> fmt::Debug for Verified<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verified(..)")
    }
}

/// Releases `answer` if it answers `operation`.
///
/// # Errors
///
/// [`DeviceMisbehaved::WrongAnswer`]; [`DeviceMisbehaved::RepeatedNonce`] for a signature that is
/// valid and still must not be seen.
pub fn check(
    operation: &Operation,
    answer: Unverified<Vec<u8>>,
) -> Result<Verified<Vec<u8>>, DeviceMisbehaved> {
    check_shared(operation, answer, None)
}

/// Like [`check`], of an answer that may have been [opened](Share::open) with others.
pub(super) fn check_shared(
    operation: &Operation,
    answer: Unverified<Vec<u8>>,
    share: Option<&Share>,
) -> Result<Verified<Vec<u8>>, DeviceMisbehaved> {
    let Unverified(bytes) = answer;
    let found = share.map_or(Found::Nothing, |share| share.find(operation, &bytes));
    if found == Found::Right {
        return Ok(Verified(bytes));
    }
    match operation {
        Operation::Sign {
            key,
            scheme,
            message,
        } => check_signature(key, *scheme, message, &bytes)?,
        // The software's answer is at hand then, but which of the two is released makes no
        // difference: they are equal.
        Operation::Seal { .. }
        | Operation::Open { .. }
        | Operation::Cbc { .. }
        | Operation::Digest { .. }
        | Operation::Mac { .. } => {
            if !software_agrees(operation, &bytes) {
                // It may be plaintext.
                drop(Secret::from(bytes));
                return Err(DeviceMisbehaved::WrongAnswer);
            }
        }
    }
    if let (Found::Wrong, Some(share)) = (found, share) {
        share.was_mistaken();
    }
    Ok(Verified(bytes))
}

/// Whether software, asked for the same, answers the same.
fn software_agrees(operation: &Operation, answer: &[u8]) -> bool {
    match operation {
        // Short, so that to keep them anywhere would take as long as to compute them.
        Operation::Digest { hash, message } => are_equal(hash.digest(message).as_ref(), answer),
        Operation::Mac { key, message } => hmac::verify(key.ring(), message, answer).is_ok(),
        // What software answers may be plaintext too.
        _ => software::perform(operation)
            .is_ok_and(|expected| are_equal(&Secret::from(expected), answer)),
    }
}

/// Compares in a time that only lengths have a part in. A word at a time: byte by byte it takes longer
/// than what is compared took to compute.
fn are_equal(one: &[u8], other: &[u8]) -> bool {
    let (words, rest) = one.as_chunks::<8>();
    let (other_words, other_rest) = other.as_chunks::<8>();
    let difference = words
        .iter()
        .zip(other_words)
        .map(|(&word, &other)| u64::from_ne_bytes(word) ^ u64::from_ne_bytes(other))
        .fold(0, BitOr::bitor);
    one.len() == other.len() && bool::from(difference.ct_eq(&0) & rest.ct_eq(other_rest))
}

/// Whether `signature` is that of `message`, and encoded as it must be, by a public key as
/// [`SigningKey::public_key`] gives it. [`check`] asks nothing else of an RSA signature; of an
/// ECDSA one, that its nonce is new as well.
///
/// # Errors
///
/// [`DeviceMisbehaved::WrongAnswer`].
pub fn signature(
    public_key: &[u8],
    scheme: SignatureScheme,
    message: &[u8],
    signature: &[u8],
) -> Result<(), DeviceMisbehaved> {
    UnparsedPublicKey::new(scheme.verification(), public_key)
        .verify(message, signature)
        .map_err(|_| DeviceMisbehaved::WrongAnswer)
}

fn check_signature(
    key: &SigningKey,
    scheme: SignatureScheme,
    message: &[u8],
    signature: &[u8],
) -> Result<(), DeviceMisbehaved> {
    if !key.supports(scheme) {
        return Err(DeviceMisbehaved::WrongAnswer);
    }
    signature_by(key, scheme, message, signature)?;
    match scheme.algorithm() {
        SignatureAlgorithm::Ecdsa(_) => {
            let r = ecdsa_r(signature).ok_or(DeviceMisbehaved::WrongAnswer)?;
            key.nonces().check(r, signature, scheme, message)
        }
        SignatureAlgorithm::RsaPkcs1 | SignatureAlgorithm::RsaPss => Ok(()),
    }
}

/// As [`signature`](self::signature), by a key that is parsed already where that can be had.
fn signature_by(
    key: &SigningKey,
    scheme: SignatureScheme,
    message: &[u8],
    signature: &[u8],
) -> Result<(), DeviceMisbehaved> {
    let public_key = key.public_key();
    #[cfg(any(test, feature = "aws-lc-rs"))]
    if let Some(verifies) = (key.parsed()).verifies(public_key, scheme, message, signature) {
        return verifies.then_some(()).ok_or(DeviceMisbehaved::WrongAnswer);
    }
    self::signature(public_key, scheme, message, signature)
}

/// Finds `r` in a DER `ECDSA-Sig-Value` that ring has verified, and so parsed, already.
fn ecdsa_r(signature: &[u8]) -> Option<&[u8]> {
    // SEQUENCE { INTEGER r, INTEGER s }: P-384 stays below 128 bytes, so lengths are one byte.
    let [0x30, _, 0x02, len, rest @ ..] = signature else {
        return None;
    };
    rest.get(..usize::from(*len))
}

/// Remembers the nonces of one key's latest signatures, by their public trace `r`.
#[derive(Default)]
pub(crate) struct NonceFilter(Mutex<RecentNonces>);

#[derive(Default)]
struct RecentNonces {
    /// Digest of message and scheme by digest of `r`.
    seen: HashMap<[u8; 16], [u8; 16]>,
    order: VecDeque<[u8; 16]>,
}

impl NonceFilter {
    /// A stuck generator repeats at once, a weak one within as many signatures as it has states:
    /// by the birthday bound this finds one of up to 24 bits.
    const REMEMBERED: usize = 4096;

    fn check(
        &self,
        r: &[u8],
        signature: &[u8],
        scheme: SignatureScheme,
        message: &[u8],
    ) -> Result<(), DeviceMisbehaved> {
        let trace = shortened(&[r]);
        // The same signature of the same message again gives nothing away: that is what a card
        // with deterministic nonces (RFC 6979) answers.
        let meaning = shortened(&[scheme.name().as_bytes(), message, signature]);
        let mut nonces = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match nonces.seen.get(&trace) {
            Some(earlier) if *earlier == meaning => return Ok(()),
            Some(_) => return Err(DeviceMisbehaved::RepeatedNonce),
            None => {}
        }
        if nonces.order.len() == Self::REMEMBERED
            && let Some(oldest) = nonces.order.pop_front()
        {
            nonces.seen.remove(&oldest);
        }
        nonces.order.push_back(trace);
        nonces.seen.insert(trace, meaning);
        Ok(())
    }
}

fn shortened(parts: &[&[u8]]) -> [u8; 16] {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let digest = context.finish();
    let (first, _) = digest
        .as_ref()
        .split_first_chunk()
        .expect("a SHA-256 digest has 32 bytes");
    *first
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kat;

    fn sign_operation(message: &[u8]) -> Operation {
        Operation::Sign {
            key: kat::p256_key(),
            scheme: SignatureScheme::EcdsaP256Sha256,
            message: Secret::from(message),
        }
    }

    #[test]
    fn right_answers_are_released_and_any_flipped_bit_is_not() {
        for test in &kat::ALL {
            let operation = test.operation();
            let output = software::perform(&operation).unwrap();
            let released = check(&operation, Unverified(output.clone())).unwrap();
            assert_eq!(released.release(), output);
            for bit in [0, 7, 8 * output.len() - 1] {
                let mut damaged = output.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                check(&operation, Unverified(damaged)).unwrap_err();
            }
        }
    }

    #[test]
    fn the_signature_of_another_message_is_a_wrong_answer() {
        let other = software::perform(&sign_operation(b"another")).unwrap();
        let error = check(&sign_operation(b"this"), Unverified(other)).unwrap_err();
        assert_eq!(error, DeviceMisbehaved::WrongAnswer);
    }

    #[test]
    fn a_nonce_used_for_two_messages_is_caught() {
        let filter = NonceFilter::default();
        let scheme = SignatureScheme::EcdsaP256Sha256;
        filter.check(b"r", b"signature 1", scheme, b"one").unwrap();
        filter.check(b"r", b"signature 1", scheme, b"one").unwrap();
        let repeated = filter.check(b"r", b"signature 2", scheme, b"two");
        assert_eq!(repeated, Err(DeviceMisbehaved::RepeatedNonce));
    }

    #[test]
    fn the_filter_forgets_the_oldest_and_stays_bounded() {
        let filter = NonceFilter::default();
        let scheme = SignatureScheme::EcdsaP256Sha256;
        for index in 0..=NonceFilter::REMEMBERED {
            let r = index.to_le_bytes();
            filter.check(&r, &r, scheme, b"message").unwrap();
        }
        assert_eq!(filter.0.lock().unwrap().seen.len(), NonceFilter::REMEMBERED);
        let first = 0_usize.to_le_bytes();
        filter.check(&first, b"new", scheme, b"other").unwrap();
    }

    #[test]
    fn one_bit_anywhere_makes_a_difference_and_so_does_a_byte_more_or_less() {
        let bytes: Vec<u8> = (0..40).collect();
        for len in 0..bytes.len() {
            let one = &bytes[..len];
            assert!(are_equal(one, one));
            assert!(!are_equal(one, &bytes[..=len]) && !are_equal(&bytes[..=len], one));
            for bit in 0..8 * len {
                let mut other = one.to_vec();
                other[bit / 8] ^= 1 << (bit % 8);
                assert!(!are_equal(one, &other), "bit {bit} of {len} bytes");
            }
        }
    }

    #[test]
    fn an_answer_of_no_bytes_or_far_too_many_is_wrong() {
        for test in &kat::ALL {
            let operation = test.operation();
            for len in [0, 1, 100_000] {
                check(&operation, Unverified(vec![0x30; len])).unwrap_err();
            }
        }
    }
}
