//! AWS-LC, as the third opinion: the same operations, from the same bytes.
//!
//! It shares no code that computes with the simulated card (RustCrypto), and with ring what both
//! took from BoringSSL, much of which either has since replaced.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{
    AES_128, AES_256, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext,
    UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    self, EcdsaKeyPair, KeyPair, RsaEncoding, RsaKeyPair, UnparsedPublicKey, VerificationAlgorithm,
};
use aws_lc_rs::{digest, hmac};
use hwshim::accelerator::Direction;
use hwshim::key::{Curve, HashAlgorithm, SignatureScheme};

/// A private key, read by AWS-LC.
pub(crate) enum Signer {
    Rsa(RsaKeyPair),
    Ecdsa(EcdsaKeyPair),
}

impl Signer {
    pub(crate) fn rsa(pkcs1: &[u8]) -> Self {
        Self::Rsa(RsaKeyPair::from_der(pkcs1).unwrap())
    }

    pub(crate) fn ecdsa(curve: Curve, sec1: &[u8]) -> Self {
        let algorithm = match curve {
            Curve::P256 => &signature::ECDSA_P256_SHA256_ASN1_SIGNING,
            Curve::P384 => &signature::ECDSA_P384_SHA384_ASN1_SIGNING,
        };
        Self::Ecdsa(EcdsaKeyPair::from_private_key_der(algorithm, sec1).unwrap())
    }

    /// As AWS-LC derives it from the private key.
    pub(crate) fn public_key(&self) -> &[u8] {
        match self {
            Self::Rsa(pair) => pair.public_key().as_ref(),
            Self::Ecdsa(pair) => pair.public_key().as_ref(),
        }
    }

    pub(crate) fn sign(&self, scheme: SignatureScheme, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(rsa_encoding(scheme), &random, message, &mut signature)
                    .unwrap();
                signature
            }
            Self::Ecdsa(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
        }
    }

    pub(crate) fn accepts(
        &self,
        scheme: SignatureScheme,
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        UnparsedPublicKey::new(verification(scheme), self.public_key())
            .verify(message, signature)
            .is_ok()
    }
}

fn rsa_encoding(scheme: SignatureScheme) -> &'static dyn RsaEncoding {
    match scheme {
        SignatureScheme::RsaPkcs1Sha256 => &signature::RSA_PKCS1_SHA256,
        SignatureScheme::RsaPkcs1Sha384 => &signature::RSA_PKCS1_SHA384,
        SignatureScheme::RsaPkcs1Sha512 => &signature::RSA_PKCS1_SHA512,
        SignatureScheme::RsaPssSha256 => &signature::RSA_PSS_SHA256,
        SignatureScheme::RsaPssSha384 => &signature::RSA_PSS_SHA384,
        SignatureScheme::RsaPssSha512 => &signature::RSA_PSS_SHA512,
        SignatureScheme::EcdsaP256Sha256 | SignatureScheme::EcdsaP384Sha384 => {
            panic!("{} is not for an RSA key", scheme.name())
        }
    }
}

fn verification(scheme: SignatureScheme) -> &'static dyn VerificationAlgorithm {
    match scheme {
        SignatureScheme::RsaPkcs1Sha256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        SignatureScheme::RsaPkcs1Sha384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        SignatureScheme::RsaPkcs1Sha512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        SignatureScheme::RsaPssSha256 => &signature::RSA_PSS_2048_8192_SHA256,
        SignatureScheme::RsaPssSha384 => &signature::RSA_PSS_2048_8192_SHA384,
        SignatureScheme::RsaPssSha512 => &signature::RSA_PSS_2048_8192_SHA512,
        SignatureScheme::EcdsaP256Sha256 => &signature::ECDSA_P256_SHA256_ASN1,
        SignatureScheme::EcdsaP384Sha384 => &signature::ECDSA_P384_SHA384_ASN1,
    }
}

/// Ciphertext, then the tag.
pub(crate) fn seal(key: &[u8], nonce: [u8; 12], aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let mut sealed = plaintext.to_vec();
    gcm(key)
        .seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(aad),
            &mut sealed,
        )
        .unwrap();
    sealed
}

/// The plaintext, if the tag is right.
pub(crate) fn open(key: &[u8], nonce: [u8; 12], aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let mut opened = sealed.to_vec();
    gcm(key)
        .open_in_place(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(aad),
            &mut opened,
        )
        .ok()
        .map(|plaintext| plaintext.to_vec())
}

fn gcm(key: &[u8]) -> LessSafeKey {
    let algorithm = match key.len() {
        16 => &AES_128_GCM,
        _ => &AES_256_GCM,
    };
    LessSafeKey::new(UnboundKey::new(algorithm, key).unwrap())
}

pub(crate) fn cbc(key: &[u8], direction: Direction, iv: [u8; 16], data: &[u8]) -> Vec<u8> {
    let algorithm = match key.len() {
        16 => &AES_128,
        _ => &AES_256,
    };
    let key = UnboundCipherKey::new(algorithm, key).unwrap();
    let iv = FixedLength::from(iv);
    let mut data = data.to_vec();
    match direction {
        Direction::Encrypt => {
            EncryptingKey::cbc(key)
                .unwrap()
                .less_safe_encrypt(&mut data, EncryptionContext::Iv128(iv))
                .unwrap();
        }
        Direction::Decrypt => {
            DecryptingKey::cbc(key)
                .unwrap()
                .decrypt(&mut data, DecryptionContext::Iv128(iv))
                .unwrap();
        }
    }
    data
}

pub(crate) fn digest(hash: HashAlgorithm, message: &[u8]) -> Vec<u8> {
    let algorithm = match hash {
        HashAlgorithm::Sha256 => &digest::SHA256,
        HashAlgorithm::Sha384 => &digest::SHA384,
        HashAlgorithm::Sha512 => &digest::SHA512,
    };
    digest::digest(algorithm, message).as_ref().to_vec()
}

pub(crate) fn mac(hash: HashAlgorithm, key: &[u8], message: &[u8]) -> Vec<u8> {
    let algorithm = match hash {
        HashAlgorithm::Sha256 => hmac::HMAC_SHA256,
        HashAlgorithm::Sha384 => hmac::HMAC_SHA384,
        HashAlgorithm::Sha512 => hmac::HMAC_SHA512,
    };
    hmac::sign(&hmac::Key::new(algorithm, key), message)
        .as_ref()
        .to_vec()
}
