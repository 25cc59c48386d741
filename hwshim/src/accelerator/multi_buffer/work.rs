//! An operation as the library takes it: a key and a block.
//!
//! Keys are prepared for each operation anew. That costs a hundredth of the operation, and no key
//! outlives in here the caller's own.

use super::super::class::Class;
use super::super::{DeviceError, Operation, pkcs1, pss};
use crate::key::{Curve, SignatureAlgorithm};
use crate::spec::crypto::Status;
use ::multi_buffer::{self as library, EcdsaPrivateKey, RsaLen, RsaPrivateKey};
use ring::rand::SystemRandom;

/// What can be executed together.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// RSA with a modulus of one length.
    Rsa(RsaLen),
    /// ECDSA on one curve.
    Ecdsa(library::Curve),
}

/// One operation.
#[derive(Debug)]
pub(super) struct Work {
    key: Key,
    /// A padded message, or a digest.
    block: Vec<u8>,
}

#[derive(Debug)]
enum Key {
    Rsa(RsaPrivateKey),
    Ecdsa(EcdsaPrivateKey),
}

impl Work {
    /// Prepares `operation`; `None` if the library has nothing for it.
    pub(super) fn prepare(operation: &Operation) -> Option<Self> {
        let Operation::Sign {
            key,
            scheme,
            message,
        } = operation
        else {
            return None;
        };
        let hash = scheme.hash();
        let (prepared, block) = match scheme.algorithm() {
            SignatureAlgorithm::RsaPkcs1 => (
                rsa_key(key.card_encoding())?,
                pkcs1::encode(hash, message, key.modulus_len()?)?,
            ),
            SignatureAlgorithm::RsaPss => {
                let mut block = vec![0; key.modulus_len()?];
                pss::encode(hash, message, &SystemRandom::new(), &mut block).ok()?;
                (rsa_key(key.card_encoding())?, block)
            }
            SignatureAlgorithm::Ecdsa(curve) if key.supports(*scheme) => {
                let key = EcdsaPrivateKey::from_sec1(curve_of(curve), key.card_encoding()).ok()?;
                (Key::Ecdsa(key), hash.digest(message).as_ref().to_vec())
            }
            SignatureAlgorithm::Ecdsa(_) => return None,
        };
        Some(Self {
            key: prepared,
            block,
        })
    }

    /// With which others it can be executed.
    pub(super) const fn kind(&self) -> Kind {
        match &self.key {
            Key::Rsa(key) => Kind::Rsa(key.len()),
            Key::Ecdsa(key) => Kind::Ecdsa(key.curve()),
        }
    }
}

impl Kind {
    /// Where all of this kind are counted.
    pub(super) const fn class(self) -> Class {
        match self {
            Self::Rsa(RsaLen::Bits2048) => Class::Rsa2048,
            Self::Rsa(RsaLen::Bits3072) => Class::Rsa3072,
            Self::Rsa(RsaLen::Bits4096) => Class::Rsa4096,
            Self::Ecdsa(library::Curve::P256) => Class::P256,
            Self::Ecdsa(library::Curve::P384) => Class::P384,
        }
    }
}

/// Executes operations of one kind, and returns a result for each, in order.
pub(super) fn execute<'a>(
    library: &library::MultiBuffer,
    kind: Kind,
    batch: impl Iterator<Item = &'a Work>,
) -> Vec<Result<Vec<u8>, DeviceError>> {
    let failed = |_| DeviceError::Failed(Status::ERR);
    match kind {
        Kind::Rsa(len) => {
            let batch: Vec<_> = batch.filter_map(Work::as_rsa).collect();
            let results = library.rsa_private(len, &batch).into_iter();
            results.map(|result| result.map_err(failed)).collect()
        }
        Kind::Ecdsa(curve) => {
            let batch: Vec<_> = batch.filter_map(Work::as_ecdsa).collect();
            let results = library.ecdsa_sign(curve, &batch).into_iter();
            let signed = results.map(|result| result.map(|signature| signature.to_der()));
            signed.map(|result| result.map_err(failed)).collect()
        }
    }
}

impl Work {
    fn as_rsa(&self) -> Option<(&RsaPrivateKey, &[u8])> {
        match &self.key {
            Key::Rsa(key) => Some((key, &self.block)),
            Key::Ecdsa(_) => None,
        }
    }

    fn as_ecdsa(&self) -> Option<(&EcdsaPrivateKey, &[u8])> {
        match &self.key {
            Key::Ecdsa(key) => Some((key, &self.block)),
            Key::Rsa(_) => None,
        }
    }
}

fn rsa_key(pkcs1: &[u8]) -> Option<Key> {
    RsaPrivateKey::from_pkcs1(pkcs1).ok().map(Key::Rsa)
}

const fn curve_of(curve: Curve) -> library::Curve {
    match curve {
        Curve::P256 => library::Curve::P256,
        Curve::P384 => library::Curve::P384,
    }
}
