//! Operations done by this CPU, with ring.
//!
//! This is what answers when no card does, and the measure that a card's answers are held to.
//! ring has no CBC mode, so that one comes from RustCrypto's `aes` and `cbc`.

use super::{
    Accelerator, Algorithm, Completion, Counters, DeviceError, Direction, Operation, Rejected,
    Request, State, Unverified,
};
use crate::clock::Instant;
use crate::key::{AeadKey, CipherKey, SignatureScheme, SigningKey};
use crate::spec::crypto::Status;
use aes::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use ring::aead::{Aad, NONCE_LEN, Nonce};
use ring::rand::SystemRandom;
use ring::signature::RsaEncoding;
use ring::{hmac, signature};
use std::os::fd::BorrowedFd;

/// This CPU as an accelerator, `software:ring`: for tests that compare, and benchmarks.
///
/// It completes at the next poll what was submitted before. The router needs none of this; it
/// calls [`perform`].
#[derive(Debug, Default)]
pub struct Ring(Vec<Request>);

impl Accelerator for Ring {
    fn name(&self) -> &'static str {
        "software:ring"
    }

    fn offers(&self, _algorithm: Algorithm) -> bool {
        true
    }

    fn submit(&mut self, request: Request, _now: Instant) -> Result<(), Rejected> {
        self.0.push(request);
        Ok(())
    }

    fn flush(&mut self) {}

    fn poll(&mut self, _now: Instant, completions: &mut Vec<Completion>) {
        completions.extend(self.0.drain(..).map(|request| {
            Completion {
                output: perform(&request.operation)
                    .map(Unverified)
                    .map_err(|error| DeviceError::Failed(error.status())),
                request,
            }
        }));
    }

    fn next_deadline(&self) -> Instant {
        if self.0.is_empty() {
            Instant::NEVER
        } else {
            Instant::ORIGIN
        }
    }

    fn in_flight(&self) -> usize {
        self.0.len()
    }

    fn reset(&mut self, completions: &mut Vec<Completion>) -> Result<(), DeviceError> {
        self.hand_back(completions);
        Ok(())
    }

    fn hand_back(&mut self, completions: &mut Vec<Completion>) {
        completions.extend(self.0.drain(..).map(|request| Completion {
            request,
            output: Err(DeviceError::Abandoned),
        }));
    }

    fn take_fault(&mut self) -> Option<DeviceError> {
        None
    }

    fn arm(&mut self) -> bool {
        self.0.is_empty()
    }

    fn events(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    fn state(&self) -> State {
        State::Ready
    }

    fn counters(&self) -> Counters {
        Counters::default()
    }
}

impl OperationError {
    /// What a card would say.
    const fn status(self) -> Status {
        match self {
            Self::BadTag => Status::BADMSG,
            _ => Status::ERR,
        }
    }
}

/// Software would not do it either. These are the caller's errors, never a device's.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum OperationError {
    /// The key is not one that signs by the scheme.
    #[error("the key cannot sign by {}", .0.name())]
    WrongKey(SignatureScheme),
    /// The tag is not that of this ciphertext, key, nonce and additional data.
    #[error("the tag does not authenticate the message")]
    BadTag,
    /// CBC takes whole blocks.
    #[error("{0} bytes are not a multiple of the cipher's 16")]
    PartialBlock(usize),
    /// More data than the algorithm may be given at once.
    #[error("too much data for one operation")]
    TooLong,
    /// The system gives no random numbers, or the key is unusable.
    #[error("software could not sign: no random numbers, or a key that fails its own check")]
    SigningFailed,
    /// Only an accelerator has the private key.
    #[error("the private key is in an accelerator, and none that has it has answered")]
    KeyElsewhere,
    /// Accelerators and this CPU have so much to do already that the answer would come too late.
    #[error(
        "overloaded: accelerators are full, and so is the queue for software; try again later, or \
         raise the router's limits of admission"
    )]
    Overloaded,
    /// The router's driver has ended, with the tokio runtime that it ran on.
    #[error("the router was stopped while the operation was in flight")]
    RouterStopped,
}

/// Does `operation` now, on this thread.
///
/// # Errors
///
/// See [`OperationError`].
pub fn perform(operation: &Operation) -> Result<Vec<u8>, OperationError> {
    match operation {
        Operation::Sign {
            key,
            scheme,
            message,
        } => sign(key, *scheme, message),
        Operation::Seal {
            key,
            nonce,
            aad,
            plaintext,
        } => {
            let mut sealed = Vec::with_capacity(plaintext.len() + TAG_LEN);
            sealed.extend_from_slice(plaintext);
            seal_in_place(key, *nonce, aad, &mut sealed)?;
            Ok(sealed)
        }
        Operation::Open {
            key,
            nonce,
            aad,
            sealed,
        } => {
            let mut opened = sealed.clone();
            open_in_place(key, *nonce, aad, &mut opened)?;
            Ok(opened)
        }
        Operation::Cbc {
            key,
            direction,
            iv,
            data,
        } => cbc(key, *direction, iv, data),
        Operation::Digest { hash, message } => Ok(hash.digest(message).as_ref().to_vec()),
        Operation::Mac { key, message } => Ok(hmac::sign(key.ring(), message).as_ref().to_vec()),
    }
}

/// Length of an AES-GCM tag, in bytes.
pub const TAG_LEN: usize = 16;

/// Signs `message`.
///
/// # Errors
///
/// [`OperationError::WrongKey`], [`OperationError::SigningFailed`].
pub fn sign(
    key: &SigningKey,
    scheme: SignatureScheme,
    message: &[u8],
) -> Result<Vec<u8>, OperationError> {
    if !key.supports(scheme) {
        return Err(OperationError::WrongKey(scheme));
    }
    let random = SystemRandom::new();
    if let Some(pair) = key.ecdsa() {
        return pair
            .sign(&random, message)
            .map(|signature| signature.as_ref().to_vec())
            .map_err(|_| OperationError::SigningFailed);
    }
    let Some(pair) = key.rsa() else {
        return Err(OperationError::KeyElsewhere);
    };
    let encoding: &'static dyn RsaEncoding = match scheme {
        SignatureScheme::RsaPkcs1Sha256 => &signature::RSA_PKCS1_SHA256,
        SignatureScheme::RsaPkcs1Sha384 => &signature::RSA_PKCS1_SHA384,
        SignatureScheme::RsaPkcs1Sha512 => &signature::RSA_PKCS1_SHA512,
        SignatureScheme::RsaPssSha256 => &signature::RSA_PSS_SHA256,
        SignatureScheme::RsaPssSha384 => &signature::RSA_PSS_SHA384,
        SignatureScheme::RsaPssSha512 => &signature::RSA_PSS_SHA512,
        SignatureScheme::EcdsaP256Sha256 | SignatureScheme::EcdsaP384Sha384 => {
            return Err(OperationError::WrongKey(scheme));
        }
    };
    let mut signature = vec![0; pair.public().modulus_len()];
    pair.sign(encoding, &random, message, &mut signature)
        .map_err(|_| OperationError::SigningFailed)?;
    Ok(signature)
}

/// Encrypts `buffer` and appends the tag.
///
/// # Errors
///
/// [`OperationError::TooLong`].
#[inline]
pub fn seal_in_place(
    key: &AeadKey,
    nonce: [u8; NONCE_LEN],
    aad: &[u8],
    buffer: &mut Vec<u8>,
) -> Result<(), OperationError> {
    let nonce = Nonce::assume_unique_for_key(nonce);
    key.ring()
        .seal_in_place_append_tag(nonce, Aad::from(aad), buffer)
        .map_err(|_| OperationError::TooLong)
}

/// Checks the tag at the end of `buffer`, decrypts and drops the tag.
///
/// # Errors
///
/// [`OperationError::BadTag`]; what is in `buffer` is then not plaintext.
#[inline]
pub fn open_in_place(
    key: &AeadKey,
    nonce: [u8; NONCE_LEN],
    aad: &[u8],
    buffer: &mut Vec<u8>,
) -> Result<(), OperationError> {
    let nonce = Nonce::assume_unique_for_key(nonce);
    let plaintext_len = key
        .ring()
        .open_in_place(nonce, Aad::from(aad), buffer)
        .map_err(|_| OperationError::BadTag)?
        .len();
    buffer.truncate(plaintext_len);
    Ok(())
}

fn cbc(
    key: &CipherKey,
    direction: Direction,
    iv: &[u8; 16],
    data: &[u8],
) -> Result<Vec<u8>, OperationError> {
    let mut output = data.to_vec();
    let (blocks, rest) = aes::Block::slice_as_chunks_mut(&mut output);
    if !rest.is_empty() {
        return Err(OperationError::PartialBlock(data.len()));
    }
    let wrong_length = "key lengths were checked when the key was made";
    let bytes = key.bytes();
    match (direction, bytes.len()) {
        (Direction::Encrypt, 16) => cbc::Encryptor::<aes::Aes128>::new_from_slices(bytes, iv)
            .expect(wrong_length)
            .encrypt_blocks(blocks),
        (Direction::Encrypt, _) => cbc::Encryptor::<aes::Aes256>::new_from_slices(bytes, iv)
            .expect(wrong_length)
            .encrypt_blocks(blocks),
        (Direction::Decrypt, 16) => cbc::Decryptor::<aes::Aes128>::new_from_slices(bytes, iv)
            .expect(wrong_length)
            .decrypt_blocks(blocks),
        (Direction::Decrypt, _) => cbc::Decryptor::<aes::Aes256>::new_from_slices(bytes, iv)
            .expect(wrong_length)
            .decrypt_blocks(blocks),
    }
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accelerator::Secret;
    use crate::kat;
    use std::sync::Arc;

    #[test]
    fn every_known_answer_is_found() {
        for test in kat::ALL {
            let operation = test.operation();
            let output = perform(&operation).unwrap();
            assert!(
                test.accepts(&operation, Unverified(output)),
                "{}",
                test.algorithm()
            );
        }
    }

    #[test]
    fn opening_what_was_sealed_gives_it_back_and_a_flipped_bit_does_not() {
        let key = Arc::new(AeadKey::new(&[7; 32]).unwrap());
        let sealed = perform(&Operation::Seal {
            key: Arc::clone(&key),
            nonce: [1; 12],
            aad: b"header".to_vec(),
            plaintext: Secret::from(&b"plaintext"[..]),
        })
        .unwrap();
        let open = |sealed: Vec<u8>| {
            perform(&Operation::Open {
                key: Arc::clone(&key),
                nonce: [1; 12],
                aad: b"header".to_vec(),
                sealed,
            })
        };
        assert_eq!(open(sealed.clone()).unwrap(), b"plaintext");
        let mut damaged = sealed;
        damaged[3] ^= 1;
        assert_eq!(open(damaged), Err(OperationError::BadTag));
    }

    #[test]
    fn a_key_does_not_sign_by_a_scheme_that_is_not_its_own() {
        let key = kat::p256_key();
        let scheme = SignatureScheme::EcdsaP384Sha384;
        assert_eq!(
            sign(&key, scheme, b"m"),
            Err(OperationError::WrongKey(scheme))
        );
    }

    #[test]
    fn cbc_takes_whole_blocks_only() {
        let operation = Operation::Cbc {
            key: Arc::new(CipherKey::new(&[0; 16]).unwrap()),
            direction: Direction::Encrypt,
            iv: [0; 16],
            data: Secret::from(&[0; 17][..]),
        };
        assert_eq!(perform(&operation), Err(OperationError::PartialBlock(17)));
    }
}
