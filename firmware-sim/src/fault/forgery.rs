//! Wrong answers that take the key to make.
//!
//! Each is what real hardware has returned, computed exactly, so that the attacks on it work. When
//! one is given is not decided here.

use crate::engine::{der, scalar};
use card_device::engine::{Curve, Operation};
use crypto_bigint::{BoxedUint, NonZero, Resize};
use ecdsa::hazmat::sign_prehashed;
use p256::NistP256;
use p384::NistP384;

/// Random bytes for a nonce of either curve.
pub(super) type NonceSeed = [u8; 48];

/// Spoils an RSA result in place so that it is right modulo the first prime and wrong modulo the
/// second, as when one half of the Chinese remainder theorem has gone wrong (Boneh, DeMillo and
/// Lipton, "On the Importance of Checking Cryptographic Protocols for Faults"). `false` if the key
/// has no primes, or this is no bare RSA result.
pub(super) fn spoil_crt(key: &[u8], multiple: u32, result: &mut [u8]) -> bool {
    spoiled(key, multiple, result).is_some_and(|spoiled| {
        result.copy_from_slice(&spoiled);
        true
    })
}

fn spoiled(key: &[u8], multiple: u32, result: &[u8]) -> Option<Vec<u8>> {
    let key = der::rsa_private_key(key)?;
    let [prime, _] = key.crt?.primes;
    let modulus = BoxedUint::from_be_slice_vartime(key.public.modulus);
    let precision = modulus.bits_precision();
    let value = BoxedUint::from_be_slice(result, precision).ok()?;
    if result.len() != key.public.modulus.len() || value >= modulus {
        return None;
    }
    let prime = BoxedUint::from_be_slice_vartime(prime).try_resize(precision)?;
    // Less than the modulus, for the other prime is larger than that.
    let error = prime.wrapping_mul(&BoxedUint::from(multiple).try_resize(precision)?);
    let modulus: NonZero<BoxedUint> = NonZero::new(modulus).into_option()?;
    let bytes = value.add_mod(&error, &modulus).to_be_bytes();
    Some(bytes[bytes.len() - result.len()..].to_vec())
}

/// An ECDSA signature, in DER, with the nonce that `seed` gives: valid, and an invitation to compute
/// the key if `seed` is ever the same again.
pub(super) fn sign_with_nonce(
    key: &[u8],
    curve: Curve,
    seed: &NonceSeed,
    digest: &[u8],
) -> Option<Vec<u8>> {
    // Below the order of either curve, whose first bits are ones, and not zero.
    let mut nonce = *seed;
    nonce[0] &= 0x7f;
    match curve {
        Curve::P256 => {
            nonce[31] |= 1;
            let key = p256::SecretKey::from_slice(&scalar::<32>(key)?[..]).ok()?;
            let nonce = p256::SecretKey::from_slice(&nonce[..32]).ok()?;
            let (key, nonce) = (key.to_nonzero_scalar(), nonce.to_nonzero_scalar());
            let (signature, _) = sign_prehashed::<NistP256>(&key, &nonce, digest).ok()?;
            Some(signature.to_der().as_bytes().to_vec())
        }
        Curve::P384 => {
            nonce[47] |= 1;
            let key = p384::SecretKey::from_slice(&scalar::<48>(key)?[..]).ok()?;
            let nonce = p384::SecretKey::from_slice(&nonce[..]).ok()?;
            let (key, nonce) = (key.to_nonzero_scalar(), nonce.to_nonzero_scalar());
            let (signature, _) = sign_prehashed::<NistP384>(&key, &nonce, digest).ok()?;
            Some(signature.to_der().as_bytes().to_vec())
        }
    }
}

/// The block that PKCS #1 v1.5 encrypts, with padding of one random byte again and again.
pub(super) fn pad_with(byte: u8, message: &[u8], len: usize) -> Option<Vec<u8>> {
    /// What is not message (RFC 8017 §7.2.1 "Encryption Operation").
    const PADDING_LEN_MIN: usize = 11;
    if message.len() + PADDING_LEN_MIN > len {
        return None;
    }
    let mut block = vec![byte.max(1); len];
    block[..2].copy_from_slice(&[0, 2]);
    block[len - message.len() - 1] = 0;
    block[len - message.len()..].copy_from_slice(message);
    Some(block)
}

/// Does with `then` an operation about the same bytes with one bit of them changed, and says whether
/// there was one: an empty message has no other.
pub(super) fn with_another_message<T>(
    operation: &Operation<'_>,
    then: impl FnOnce(&Operation<'_>) -> T,
) -> (T, bool) {
    let mut message = message(operation).to_vec();
    // In the middle: the start of an RSA block keeps it below the modulus, and the end tells paddings
    // apart.
    let middle = message.len() / 2;
    if let Some(byte) = message.get_mut(middle) {
        *byte ^= 1;
    }
    let source = &message[..];
    let altered = match *operation {
        Operation::Cipher { direction, iv, .. } => Operation::Cipher {
            direction,
            iv,
            source,
        },
        Operation::Hash { .. } => Operation::Hash { source },
        Operation::Mac { .. } => Operation::Mac { source },
        Operation::Aead {
            direction,
            nonce,
            aad,
            ..
        } => Operation::Aead {
            direction,
            nonce,
            aad,
            source,
        },
        Operation::Encrypt { .. } => Operation::Encrypt { source },
        Operation::Decrypt { .. } => Operation::Decrypt { source },
        Operation::Sign { .. } => Operation::Sign { digest: source },
        Operation::Verify { signature, .. } => Operation::Verify {
            signature,
            digest: source,
        },
    };
    (then(&altered), !source.is_empty())
}

const fn message<'a>(operation: &Operation<'a>) -> &'a [u8] {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_message_has_no_other() {
        for (source, has_another) in [(&[][..], false), (&[1], true), (&[1, 2], true)] {
            let operation = Operation::Hash { source };
            let told = with_another_message(&operation, |other| message(other) != source);
            assert_eq!(told, (has_another, has_another), "{source:?}");
        }
    }
}
