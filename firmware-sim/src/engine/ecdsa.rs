//! ECDSA over P-256 and P-384: digests in, X9.62 DER signatures out.
//!
//! Nonces are random, as a card's are, so that a repeated one is always a fault.

use super::der;
use card_device::engine::{Curve, KeyType, Operation, Session};
use card_spec::crypto::Status;
use getrandom::SysRng;
use p256::ecdsa::signature::hazmat::{PrehashVerifier, RandomizedPrehashSigner};

/// An ECDSA key.
pub(super) enum Ecdsa {
    P256Private(p256::ecdsa::SigningKey),
    P256Public(p256::ecdsa::VerifyingKey),
    P384Private(p384::ecdsa::SigningKey),
    P384Public(p384::ecdsa::VerifyingKey),
}

impl Ecdsa {
    pub(super) fn open(key_type: KeyType, curve: Curve, key: &[u8]) -> Result<Self, Status> {
        let opened = match (curve, key_type) {
            (Curve::P256, KeyType::Public) => p256::ecdsa::VerifyingKey::from_sec1_bytes(key)
                .ok()
                .map(Self::P256Public),
            (Curve::P384, KeyType::Public) => p384::ecdsa::VerifyingKey::from_sec1_bytes(key)
                .ok()
                .map(Self::P384Public),
            (Curve::P256, KeyType::Private) => scalar::<32>(key)
                .and_then(|scalar| p256::ecdsa::SigningKey::from_slice(&scalar[..]).ok())
                .map(Self::P256Private),
            (Curve::P384, KeyType::Private) => scalar::<48>(key)
                .and_then(|scalar| p384::ecdsa::SigningKey::from_slice(&scalar[..]).ok())
                .map(Self::P384Private),
        };
        opened.ok_or(Status::ERR)
    }

    fn sign(&self, digest: &[u8], output: &mut [u8]) -> Result<usize, Status> {
        let failed = |_| Status::ERR;
        match self {
            Self::P256Private(key) => {
                let signature: p256::ecdsa::DerSignature = key
                    .sign_prehash_with_rng(&mut SysRng, digest)
                    .map_err(failed)?;
                super::deliver(signature.as_bytes(), output)
            }
            Self::P384Private(key) => {
                let signature: p384::ecdsa::DerSignature = key
                    .sign_prehash_with_rng(&mut SysRng, digest)
                    .map_err(failed)?;
                super::deliver(signature.as_bytes(), output)
            }
            Self::P256Public(_) | Self::P384Public(_) => Err(Status::ERR),
        }
    }

    fn verify(&self, signature: &[u8], digest: &[u8]) -> Result<(), Status> {
        let accepted = match self {
            Self::P256Private(key) => verify_p256(key.verifying_key(), signature, digest),
            Self::P256Public(key) => verify_p256(key, signature, digest),
            Self::P384Private(key) => verify_p384(key.verifying_key(), signature, digest),
            Self::P384Public(key) => verify_p384(key, signature, digest),
        };
        if accepted {
            Ok(())
        } else {
            Err(Status::KEY_REJECTED)
        }
    }
}

impl Session for Ecdsa {
    fn execute(&self, operation: &Operation<'_>, output: &mut [u8]) -> Result<usize, Status> {
        match operation {
            Operation::Sign { digest } => self.sign(digest, output),
            Operation::Verify { signature, digest } => self.verify(signature, digest).map(|()| 0),
            _ => Err(Status::NOTSUPP),
        }
    }
}

fn verify_p256(key: &p256::ecdsa::VerifyingKey, signature: &[u8], digest: &[u8]) -> bool {
    p256::ecdsa::Signature::from_der(signature)
        .is_ok_and(|signature| key.verify_prehash(digest, &signature).is_ok())
}

fn verify_p384(key: &p384::ecdsa::VerifyingKey, signature: &[u8], digest: &[u8]) -> bool {
    p384::ecdsa::Signature::from_der(signature)
        .is_ok_and(|signature| key.verify_prehash(digest, &signature).is_ok())
}

/// The private scalar in as many bytes as the curve has, whatever leading zeros it came with.
pub(crate) fn scalar<const LEN: usize>(der: &[u8]) -> Option<zeroize::Zeroizing<[u8; LEN]>> {
    let bytes = der::ec_private_key(der)?;
    let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
    let bytes = &bytes[zeros..];
    let mut scalar = zeroize::Zeroizing::new([0; LEN]);
    let start = LEN.checked_sub(bytes.len())?;
    scalar[start..].copy_from_slice(bytes);
    Some(scalar)
}
