//! RSA public keys that are parsed once and verify often.
//!
//! ring takes a public key as bytes and makes its Montgomery constants anew for each verification;
//! AWS-LC keeps them with the key, and takes two thirds of the time. Only where AWS-LC is there
//! anyway, and only for RSA: of elliptic curves there is nothing to keep.

use crate::key::SignatureScheme;
use aws_lc_rs::signature as aws_lc;
use aws_lc_rs::signature::{ParsedPublicKey, RsaParameters};
use std::sync::OnceLock;

/// One public key, by scheme: AWS-LC ties padding and hash to it.
#[derive(Default)]
pub(crate) struct ParsedRsaKey {
    /// `None` once AWS-LC has turned the key down.
    by_scheme: Box<[OnceLock<Option<ParsedPublicKey>>; SCHEMES.len()]>,
}

const SCHEMES: [(SignatureScheme, &RsaParameters); 6] = [
    (
        SignatureScheme::RsaPkcs1Sha256,
        &aws_lc::RSA_PKCS1_2048_8192_SHA256,
    ),
    (
        SignatureScheme::RsaPkcs1Sha384,
        &aws_lc::RSA_PKCS1_2048_8192_SHA384,
    ),
    (
        SignatureScheme::RsaPkcs1Sha512,
        &aws_lc::RSA_PKCS1_2048_8192_SHA512,
    ),
    (
        SignatureScheme::RsaPssSha256,
        &aws_lc::RSA_PSS_2048_8192_SHA256,
    ),
    (
        SignatureScheme::RsaPssSha384,
        &aws_lc::RSA_PSS_2048_8192_SHA384,
    ),
    (
        SignatureScheme::RsaPssSha512,
        &aws_lc::RSA_PSS_2048_8192_SHA512,
    ),
];

impl ParsedRsaKey {
    /// Whether `signature` is that of `message` by `public_key` (PKCS #1 DER), which must be the
    /// same each time. `None` if ring has to be asked: another algorithm, or a key that AWS-LC does
    /// not take.
    pub(super) fn verifies(
        &self,
        public_key: &[u8],
        scheme: SignatureScheme,
        message: &[u8],
        signature: &[u8],
    ) -> Option<bool> {
        let index = SCHEMES.iter().position(|(known, _)| *known == scheme)?;
        let parse = || parse(SCHEMES[index].1, public_key);
        let parsed = self.by_scheme[index].get_or_init(parse).as_ref()?;
        Some(parsed.verify_sig(message, signature).is_ok())
    }
}

/// Parses a key of a length that AWS-LC verifies with: of any other it calls each signature wrong.
/// ring counts in whole bytes, and takes a few that are shorter.
fn parse(parameters: &'static RsaParameters, public_key: &[u8]) -> Option<ParsedPublicKey> {
    let bits = RsaParameters::public_modulus_len(public_key).ok()?;
    let lengths = parameters.min_modulus_len()..=parameters.max_modulus_len();
    lengths
        .contains(&bits)
        .then(|| ParsedPublicKey::new(parameters, public_key).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accelerator::{Operation, Secret, software};
    use crate::kat;

    fn sign(scheme: SignatureScheme, message: &[u8]) -> Vec<u8> {
        software::perform(&Operation::Sign {
            key: kat::rsa_2048_key(),
            scheme,
            message: Secret::from(message),
        })
        .unwrap()
    }

    #[test]
    fn says_of_each_scheme_what_ring_says() {
        let (key, parsed) = (kat::rsa_2048_key(), ParsedRsaKey::default());
        let public_key = key.public_key();
        let ring = |scheme, message: &[u8], signature: &[u8]| {
            super::super::signature(public_key, scheme, message, signature).is_ok()
        };
        for (scheme, _) in SCHEMES {
            let right = sign(scheme, b"message");
            // Twice: the second finds the key parsed.
            for _ in 0..2 {
                let verifies = parsed.verifies(public_key, scheme, b"message", &right);
                assert_eq!(verifies, Some(true), "{scheme:?}");
                assert!(ring(scheme, b"message", &right), "{scheme:?}");
            }
            let mut flipped = right.clone();
            flipped[100] ^= 1;
            let longer = [&[0], right.as_slice()].concat();
            for (message, signature) in [
                (&b"message"[..], flipped.as_slice()),
                (b"another", &right),
                (b"message", &right[1..]),
                (b"message", &longer),
                (b"message", &[]),
            ] {
                let verifies = parsed.verifies(public_key, scheme, message, signature);
                assert_eq!(verifies, Some(false), "{scheme:?}");
                assert!(!ring(scheme, message, signature), "{scheme:?}");
            }
            for (other, _) in SCHEMES.iter().filter(|(other, _)| *other != scheme) {
                let verifies = parsed.verifies(public_key, *other, b"message", &right);
                assert_eq!(verifies, Some(false), "{scheme:?} as {other:?}");
            }
        }
    }

    #[test]
    fn leaves_to_ring_what_is_not_rsa_and_what_cannot_be_parsed() {
        let ecdsa = kat::p256_key();
        let parsed = ParsedRsaKey::default();
        let scheme = SignatureScheme::EcdsaP256Sha256;
        assert_eq!(parsed.verifies(ecdsa.public_key(), scheme, b"", b""), None);
        let scheme = SignatureScheme::RsaPssSha256;
        assert_eq!(parsed.verifies(b"no key", scheme, b"", b""), None);
        // A modulus of 2047 bits, which ring takes for one of 256 bytes.
        let modulus = [&[0x02, 0x82, 0x01, 0x00, 0x7f], &[0xff; 255][..]].concat();
        let fields = [&modulus[..], &[0x02, 0x03, 0x01, 0x00, 0x01]].concat();
        let length = u16::try_from(fields.len()).unwrap().to_be_bytes();
        let short = [&[0x30, 0x82], &length[..], &fields].concat();
        ParsedPublicKey::new(SCHEMES[3].1, &short).unwrap();
        let parsed = ParsedRsaKey::default();
        assert_eq!(parsed.verifies(&short, scheme, b"", &[1; 256]), None);
    }
}
