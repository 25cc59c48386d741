//! EMSA-PSS (RFC 8017 §9.1 "EMSA-PSS"), salt as long as the digest.
//!
//! virtio-crypto knows no PSS and crypto_mb no padding at all, so it is done here, and the accelerator
//! computes the bare RSA primitive.

use crate::key::HashAlgorithm;
use ring::digest;
use ring::rand::SecureRandom;

/// The modulus is too short for the hash, or there are no random numbers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct CannotEncode;

/// Writes the encoded message into `encoded`, which has the length of the modulus (RFC 8017 §9.1.1
/// "Encoding Operation").
///
/// `modulus_bits` is a multiple of eight, as ring requires of the keys it takes, so the encoding
/// is as long as the modulus and its topmost bit is clear.
pub(crate) fn encode(
    hash: HashAlgorithm,
    message: &[u8],
    random: &dyn SecureRandom,
    encoded: &mut [u8],
) -> Result<(), CannotEncode> {
    let mut salt = [0; 64];
    let salt = &mut salt[..hash.digest_len()];
    random.fill(salt).map_err(|_| CannotEncode)?;
    encode_salted(hash, message, salt, encoded)
}

/// The same with a salt that is given.
pub(crate) fn encode_salted(
    hash: HashAlgorithm,
    message: &[u8],
    salt: &[u8],
    encoded: &mut [u8],
) -> Result<(), CannotEncode> {
    let digest_len = hash.digest_len();
    let masked_len = encoded
        .len()
        .checked_sub(digest_len + 1)
        .ok_or(CannotEncode)?;
    // masked: PS (zeros) || 0x01 || salt
    let salt_start = masked_len.checked_sub(salt.len()).ok_or(CannotEncode)?;
    let separator = salt_start.checked_sub(1).ok_or(CannotEncode)?;
    let h = salted(hash, message, salt);
    let (masked, tail) = encoded.split_at_mut(masked_len);
    masked.fill(0);
    masked[separator] = 1;
    masked[salt_start..].copy_from_slice(salt);
    xor_mgf1(hash, h.as_ref(), masked);
    masked[0] &= 0x7f;
    tail[..digest_len].copy_from_slice(h.as_ref());
    tail[digest_len] = 0xbc;
    Ok(())
}

/// Whether `encoded`, which has the length of the modulus, encodes `message` (RFC 8017 §9.1.2
/// "Verification Operation"). The modulus has as many bits as `encoded`, so the topmost one must be clear.
pub(crate) fn is_encoding_of(hash: HashAlgorithm, message: &[u8], encoded: &[u8]) -> bool {
    let digest_len = hash.digest_len();
    let Some((&0xbc, rest)) = encoded.split_last() else {
        return false;
    };
    let Some((masked, h)) = split_tail(rest, digest_len) else {
        return false;
    };
    // The topmost bit was cleared after masking.
    if masked.first().is_none_or(|first| first & 0x80 != 0) {
        return false;
    }
    let mut unmasked = masked.to_vec();
    xor_mgf1(hash, h, &mut unmasked);
    unmasked[0] &= 0x7f;
    let Some((padding, salt)) = split_tail(&unmasked, digest_len) else {
        return false;
    };
    let is_padding = matches!(padding, [zeros @ .., 1] if zeros.iter().all(|&byte| byte == 0));
    is_padding && salted(hash, message, salt).as_ref() == h
}

/// What comes before the last `tail_len` bytes, and those; `None` if there are not so many.
fn split_tail(bytes: &[u8], tail_len: usize) -> Option<(&[u8], &[u8])> {
    bytes.split_at_checked(bytes.len().checked_sub(tail_len)?)
}

/// The hash of a message's hash and a salt, which is encoded.
fn salted(hash: HashAlgorithm, message: &[u8], salt: &[u8]) -> digest::Digest {
    let mut context = digest::Context::new(hash.ring());
    context.update(&[0; 8]);
    context.update(hash.digest(message).as_ref());
    context.update(salt);
    context.finish()
}

/// MGF1 (RFC 8017 §B.2.1 "MGF1"), applied in place.
fn xor_mgf1(hash: HashAlgorithm, seed: &[u8], target: &mut [u8]) {
    for (counter, chunk) in (0_u32..).zip(target.chunks_mut(hash.digest_len())) {
        let mut context = digest::Context::new(hash.ring());
        context.update(seed);
        context.update(&counter.to_be_bytes());
        let mask = context.finish();
        for (byte, mask) in chunk.iter_mut().zip(mask.as_ref()) {
            *byte ^= mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::rand::SystemRandom;

    #[test]
    fn the_encoding_has_its_fixed_parts() {
        for hash in HashAlgorithm::ALL {
            let mut encoded = [0xff; 256];
            encode(hash, b"message", &SystemRandom::new(), &mut encoded).unwrap();
            assert_eq!((encoded[0] & 0x80, encoded[255]), (0, 0xbc));
            // Unmasking gives zeros up to the separator.
            let masked_len = 255 - hash.digest_len();
            let h = encoded[masked_len..255].to_vec();
            xor_mgf1(hash, &h, &mut encoded[..masked_len]);
            encoded[0] &= 0x7f;
            let separator = masked_len - hash.digest_len() - 1;
            assert!(encoded[..separator].iter().all(|&byte| byte == 0));
            assert_eq!(encoded[separator], 1);
        }
    }

    #[test]
    fn what_was_encoded_is_recognised_and_no_flipped_bit_of_it_is() {
        for (hash, len) in HashAlgorithm::ALL.into_iter().zip([256, 384, 512]) {
            let mut encoded = vec![0; len];
            encode(hash, b"message", &SystemRandom::new(), &mut encoded).unwrap();
            assert!(is_encoding_of(hash, b"message", &encoded));
            assert!(!is_encoding_of(hash, b"massage", &encoded));
            for other in HashAlgorithm::ALL
                .into_iter()
                .filter(|other| *other != hash)
            {
                assert!(!is_encoding_of(other, b"message", &encoded), "{other:?}");
            }
            for bit in 0..8 * len {
                encoded[bit / 8] ^= 1 << (bit % 8);
                assert!(!is_encoding_of(hash, b"message", &encoded), "bit {bit}");
                encoded[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    #[test]
    fn what_is_too_short_encodes_nothing() {
        for hash in HashAlgorithm::ALL {
            for len in 0..=2 * hash.digest_len() + 2 {
                for byte in [0, 0x01, 0x7f] {
                    let mut encoded = vec![byte; len];
                    if let Some(last) = encoded.last_mut() {
                        *last = 0xbc;
                    }
                    assert!(!is_encoding_of(hash, b"message", &encoded), "{len}");
                }
            }
        }
    }

    #[test]
    fn a_modulus_too_short_for_the_hash_is_refused() {
        let random = SystemRandom::new();
        for len in [0, 1, 65, 129] {
            let mut encoded = vec![0; len];
            let outcome = encode(HashAlgorithm::Sha512, b"message", &random, &mut encoded);
            assert_eq!(outcome, Err(CannotEncode), "{len}");
        }
    }
}
