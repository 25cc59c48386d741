//! Kinds of work that cost about the same wherever they are done.
//!
//! Hash and padding make no difference to what a signature costs; the length of the key makes all.
//! Everything that is checked by doing it again in software is one class, since no accelerator can
//! save that any work.

use super::Operation;
use crate::key::{Curve, SignatureAlgorithm, SignatureScheme, SigningKey};
use std::time::Duration;

/// A kind of work.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Class {
    /// RSA signatures by keys of up to 2048 bits.
    Rsa2048,
    /// RSA signatures by keys of up to 3072 bits.
    Rsa3072,
    /// RSA signatures by longer keys.
    Rsa4096,
    /// ECDSA signatures on P-256.
    P256,
    /// ECDSA signatures on P-384.
    P384,
    /// What is verified by doing it again.
    Repeated,
}

/// What one operation takes of a core.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cost {
    /// To do it in software.
    pub software: Duration,
    /// To verify an accelerator's answer.
    pub verify: Duration,
}

impl Class {
    /// Every class, in the order of [`Class::index`].
    pub const ALL: [Self; 6] = [
        Self::Rsa2048,
        Self::Rsa3072,
        Self::Rsa4096,
        Self::P256,
        Self::P384,
        Self::Repeated,
    ];

    /// The class of `operation`.
    #[must_use]
    pub fn of(operation: &Operation) -> Self {
        match operation {
            Operation::Sign { key, scheme, .. } => Self::of_signature(*scheme, key),
            Operation::Seal { .. }
            | Operation::Open { .. }
            | Operation::Cbc { .. }
            | Operation::Digest { .. }
            | Operation::Mac { .. } => Self::Repeated,
        }
    }

    /// The class of a signature by `key`.
    #[must_use]
    pub fn of_signature(scheme: SignatureScheme, key: &SigningKey) -> Self {
        match scheme.algorithm() {
            SignatureAlgorithm::Ecdsa(Curve::P256) => Self::P256,
            SignatureAlgorithm::Ecdsa(Curve::P384) => Self::P384,
            SignatureAlgorithm::RsaPkcs1 | SignatureAlgorithm::RsaPss => match key.modulus_len() {
                Some(..=256) => Self::Rsa2048,
                Some(257..=384) => Self::Rsa3072,
                _ => Self::Rsa4096,
            },
        }
    }

    /// Whether it is measured what one costs. What is verified by doing it again has no cost of its own:
    /// that depends on how long it is.
    #[must_use]
    pub(crate) const fn is_measured(self) -> bool {
        !matches!(self, Self::Repeated)
    }

    /// Its place in a table of all.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Rsa2048 => 0,
            Self::Rsa3072 => 1,
            Self::Rsa4096 => 2,
            Self::P256 => 3,
            Self::P384 => 4,
            Self::Repeated => 5,
        }
    }

    /// What is taken for its cost until it has been measured: ring on a server of 2023. Only the
    /// order of magnitude matters, since the first operation of each class corrects it.
    #[must_use]
    pub const fn prior(self) -> Cost {
        let (software, verify) = match self {
            Self::Rsa2048 => (620, 25),
            Self::Rsa3072 => (1_920, 50),
            Self::Rsa4096 => (4_400, 85),
            Self::P256 => (22, 67),
            Self::P384 => (374, 675),
            Self::Repeated => (10, 10),
        };
        Cost {
            software: Duration::from_micros(software),
            verify: Duration::from_micros(verify),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kat;

    #[test]
    fn a_class_is_told_by_curve_and_length_of_the_key() {
        use SignatureScheme::{EcdsaP256Sha256, EcdsaP384Sha384, RsaPkcs1Sha512, RsaPssSha256};
        for (scheme, key, class) in [
            (RsaPssSha256, kat::rsa_2048_key(), Class::Rsa2048),
            (RsaPkcs1Sha512, kat::rsa_3072_key(), Class::Rsa3072),
            (RsaPssSha256, kat::rsa_4096_key(), Class::Rsa4096),
            (EcdsaP256Sha256, kat::p256_key(), Class::P256),
            (EcdsaP384Sha384, kat::p384_key(), Class::P384),
        ] {
            assert_eq!(Class::of_signature(scheme, &key), class);
        }
        for (index, class) in Class::ALL.into_iter().enumerate() {
            assert_eq!(class.index(), index);
        }
    }
}
