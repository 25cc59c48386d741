//! Keys: parsed once, held in memory, usable by software and loadable onto a card.
//!
//! A key knows the algorithm it is for, signs or encrypts nothing by itself, and never shows what
//! it is: `Debug` prints its kind and its number. What a card needs of it (DER, or the bare
//! bytes) is zeroised when the key is dropped.

use crate::router::verify::NonceFilter;
#[cfg(any(test, feature = "aws-lc-rs"))]
use crate::router::verify::parsed::ParsedRsaKey;
use ::multi_buffer::RsaPublicKey;
use aes::cipher::KeyInit;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1,
    ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaKeyPair, VerificationAlgorithm,
};
use ring::{aead, digest, hmac};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use zeroize::Zeroizing;

/// Names a key for as long as the process lives; numbers are not used twice.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct KeyId(u64);

impl KeyId {
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// The number itself.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// Bytes are not a key this program can use.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not the encoding it should be.
    #[error("not a {expected} key: {reason}")]
    Encoding {
        /// Which encoding was expected.
        expected: &'static str,
        /// What the parser said.
        reason: String,
    },
    /// A key for something else.
    #[error("a key of algorithm {found} is not supported; RSA, P-256 and P-384 are")]
    UnsupportedAlgorithm {
        /// Its object identifier.
        found: String,
    },
    /// A key that the software will not use, and so must not be given to a card either.
    #[error("the key was rejected: {reason}")]
    Rejected {
        /// Why.
        reason: String,
    },
    /// Not a length the algorithm has.
    #[error("a key of {found} bytes is not possible here; {expected}")]
    Length {
        /// Which lengths are possible.
        expected: &'static str,
        /// What it is.
        found: usize,
    },
}

/// How a message is hashed, padded and signed. Names as in TLS 1.3 (RFC 8446 §4.2.3 "Signature
/// Algorithms").
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum SignatureScheme {
    RsaPkcs1Sha256,
    RsaPkcs1Sha384,
    RsaPkcs1Sha512,
    RsaPssSha256,
    RsaPssSha384,
    RsaPssSha512,
    EcdsaP256Sha256,
    EcdsaP384Sha384,
}

/// What a scheme asks of a key.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum SignatureAlgorithm {
    /// RSASSA-PKCS1-v1_5.
    RsaPkcs1,
    /// RSASSA-PSS, salt as long as the digest.
    RsaPss,
    /// ECDSA, signature in DER.
    Ecdsa(Curve),
}

/// An elliptic curve.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Curve {
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
}

impl SignatureScheme {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::RsaPkcs1Sha256,
        Self::RsaPkcs1Sha384,
        Self::RsaPkcs1Sha512,
        Self::RsaPssSha256,
        Self::RsaPssSha384,
        Self::RsaPssSha512,
        Self::EcdsaP256Sha256,
        Self::EcdsaP384Sha384,
    ];

    /// The algorithm, without the hash.
    #[must_use]
    pub const fn algorithm(self) -> SignatureAlgorithm {
        match self {
            Self::RsaPkcs1Sha256 | Self::RsaPkcs1Sha384 | Self::RsaPkcs1Sha512 => {
                SignatureAlgorithm::RsaPkcs1
            }
            Self::RsaPssSha256 | Self::RsaPssSha384 | Self::RsaPssSha512 => {
                SignatureAlgorithm::RsaPss
            }
            Self::EcdsaP256Sha256 => SignatureAlgorithm::Ecdsa(Curve::P256),
            Self::EcdsaP384Sha384 => SignatureAlgorithm::Ecdsa(Curve::P384),
        }
    }

    /// The hash.
    #[must_use]
    pub fn hash(self) -> HashAlgorithm {
        match self {
            Self::RsaPkcs1Sha256 | Self::RsaPssSha256 | Self::EcdsaP256Sha256 => {
                HashAlgorithm::Sha256
            }
            Self::RsaPkcs1Sha384 | Self::RsaPssSha384 | Self::EcdsaP384Sha384 => {
                HashAlgorithm::Sha384
            }
            Self::RsaPkcs1Sha512 | Self::RsaPssSha512 => HashAlgorithm::Sha512,
        }
    }

    /// The name used on command lines and in metrics, e.g. `rsa-pss-sha256`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RsaPkcs1Sha256 => "rsa-pkcs1-sha256",
            Self::RsaPkcs1Sha384 => "rsa-pkcs1-sha384",
            Self::RsaPkcs1Sha512 => "rsa-pkcs1-sha512",
            Self::RsaPssSha256 => "rsa-pss-sha256",
            Self::RsaPssSha384 => "rsa-pss-sha384",
            Self::RsaPssSha512 => "rsa-pss-sha512",
            Self::EcdsaP256Sha256 => "ecdsa-p256-sha256",
            Self::EcdsaP384Sha384 => "ecdsa-p384-sha384",
        }
    }

    pub(crate) fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::RsaPkcs1Sha256 => &RSA_PKCS1_2048_8192_SHA256,
            Self::RsaPkcs1Sha384 => &RSA_PKCS1_2048_8192_SHA384,
            Self::RsaPkcs1Sha512 => &RSA_PKCS1_2048_8192_SHA512,
            Self::RsaPssSha256 => &RSA_PSS_2048_8192_SHA256,
            Self::RsaPssSha384 => &RSA_PSS_2048_8192_SHA384,
            Self::RsaPssSha512 => &RSA_PSS_2048_8192_SHA512,
            Self::EcdsaP256Sha256 => &ECDSA_P256_SHA256_ASN1,
            Self::EcdsaP384Sha384 => &ECDSA_P384_SHA384_ASN1,
        }
    }
}

/// A hash function.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum HashAlgorithm {
    Sha256,
    Sha384,
    Sha512,
}

impl HashAlgorithm {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    /// Length of the digest, in bytes.
    #[must_use]
    pub const fn digest_len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    pub(crate) fn ring(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        }
    }

    pub(crate) fn ring_hmac(self) -> hmac::Algorithm {
        match self {
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha384 => hmac::HMAC_SHA384,
            Self::Sha512 => hmac::HMAC_SHA512,
        }
    }

    /// Hashes `message`.
    #[must_use]
    pub fn digest(self, message: &[u8]) -> digest::Digest {
        digest::digest(self.ring(), message)
    }
}

/// A private key that signs.
pub struct SigningKey {
    id: KeyId,
    pair: Pair,
    card_encoding: Zeroizing<Vec<u8>>,
    nonces: NonceFilter,
    #[cfg(any(test, feature = "aws-lc-rs"))]
    parsed: ParsedRsaKey,
    for_eights: OnceLock<Option<Arc<RsaPublicKey>>>,
}

enum Pair {
    Rsa(Box<RsaKeyPair>),
    Ecdsa(Curve, Box<EcdsaKeyPair>),
    /// An accelerator has the private half, and this process has not.
    Elsewhere(PublicKey),
}

struct PublicKey {
    kind: PublicKind,
    bytes: Vec<u8>,
}

enum PublicKind {
    Rsa { modulus_len: usize },
    Ecdsa(Curve),
}

impl SigningKey {
    /// Reads a PKCS #8 private key (RFC 5208), which is what most tools write.
    ///
    /// # Errors
    ///
    /// See [`KeyError`]. An elliptic curve key must carry its public key, as OpenSSL's do.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        const RSA: &str = "1.2.840.113549.1.1.1";
        const EC: &str = "1.2.840.10045.2.1";
        const P256: &str = "1.2.840.10045.3.1.7";
        const P384: &str = "1.3.132.0.34";
        let info =
            pkcs8::PrivateKeyInfoRef::try_from(der).map_err(|error| encoding("PKCS #8", &error))?;
        let inner = info.private_key.as_bytes();
        let algorithm = info.algorithm.oid.to_string();
        if algorithm == RSA {
            return Self::from_pkcs1(inner);
        }
        if algorithm != EC {
            return Err(KeyError::UnsupportedAlgorithm { found: algorithm });
        }
        let curve = info
            .algorithm
            .parameters_oid()
            .map_err(|error| encoding("PKCS #8", &error))?
            .to_string();
        match curve.as_str() {
            P256 => Self::from_sec1(Curve::P256, inner),
            P384 => Self::from_sec1(Curve::P384, inner),
            _ => Err(KeyError::UnsupportedAlgorithm { found: curve }),
        }
    }

    /// Reads a PKCS #1 `RSAPrivateKey` (RFC 8017 §A.1.2 "RSA Private Key Syntax"), 2048 to 4096
    /// bits, a multiple of 512.
    ///
    /// # Errors
    ///
    /// [`KeyError::Rejected`] with ring's reason.
    pub fn from_pkcs1(der: &[u8]) -> Result<Self, KeyError> {
        let pair = RsaKeyPair::from_der(der).map_err(rejected)?;
        Ok(Self::new(Pair::Rsa(Box::new(pair)), der))
    }

    /// Reads a SEC 1 `ECPrivateKey` (RFC 5915 §3 "Elliptic Curve Private Key Format") that
    /// carries its public key.
    ///
    /// # Errors
    ///
    /// See [`KeyError`].
    pub fn from_sec1(curve: Curve, der: &[u8]) -> Result<Self, KeyError> {
        let key = sec1::EcPrivateKey::try_from(der).map_err(|error| encoding("SEC 1", &error))?;
        let public = key.public_key.ok_or_else(|| KeyError::Encoding {
            expected: "SEC 1",
            reason: "it does not carry its public key".to_owned(),
        })?;
        let algorithm = match curve {
            Curve::P256 => &ECDSA_P256_SHA256_ASN1_SIGNING,
            Curve::P384 => &ECDSA_P384_SHA384_ASN1_SIGNING,
        };
        let pair = EcdsaKeyPair::from_private_key_and_public_key(
            algorithm,
            key.private_key,
            public,
            &SystemRandom::new(),
        )
        .map_err(rejected)?;
        Ok(Self::new(Pair::Ecdsa(curve, Box::new(pair)), der))
    }

    /// An RSA key whose private half an accelerator has and does not give away, by its PKCS #1
    /// `RSAPublicKey`. The accelerator finds it by its [number](Self::id).
    ///
    /// # Errors
    ///
    /// [`KeyError::Encoding`]; [`KeyError::Length`] beyond 2048 to 4096 bits.
    pub fn elsewhere_rsa(public_key: &[u8]) -> Result<Self, KeyError> {
        use pkcs8::der::{Decode, Reader, SliceReader, asn1::UintRef};
        let parse = || {
            let mut reader = SliceReader::new(public_key)?;
            let modulus_len = reader.sequence(|fields| {
                let modulus = UintRef::decode(fields)?;
                UintRef::decode(fields)?;
                Ok::<_, pkcs8::der::Error>(modulus.as_bytes().len())
            })?;
            reader.finish()?;
            Ok::<_, pkcs8::der::Error>(modulus_len)
        };
        let modulus_len = parse().map_err(|error| encoding("PKCS #1 public", &error))?;
        if !(256..=512).contains(&modulus_len) {
            return Err(KeyError::Length {
                expected: "an RSA modulus has 256 to 512",
                found: modulus_len,
            });
        }
        Ok(Self::elsewhere(PublicKind::Rsa { modulus_len }, public_key))
    }

    /// An ECDSA key whose private half an accelerator has and does not give away, by its
    /// uncompressed point. The accelerator finds it by its [number](Self::id).
    ///
    /// # Errors
    ///
    /// [`KeyError::Length`], [`KeyError::Encoding`].
    pub fn elsewhere_ecdsa(curve: Curve, public_key: &[u8]) -> Result<Self, KeyError> {
        const UNCOMPRESSED: u8 = 4;
        let (len, expected) = match curve {
            Curve::P256 => (65, "an uncompressed point of P-256 has 65"),
            Curve::P384 => (97, "an uncompressed point of P-384 has 97"),
        };
        if public_key.len() != len {
            return Err(KeyError::Length {
                expected,
                found: public_key.len(),
            });
        }
        if public_key[0] != UNCOMPRESSED {
            return Err(KeyError::Encoding {
                expected: "SEC 1 public",
                reason: "the point is not an uncompressed one".to_owned(),
            });
        }
        Ok(Self::elsewhere(PublicKind::Ecdsa(curve), public_key))
    }

    fn elsewhere(kind: PublicKind, bytes: &[u8]) -> Self {
        let key = PublicKey {
            kind,
            bytes: bytes.to_vec(),
        };
        Self::new(Pair::Elsewhere(key), &[])
    }

    fn new(pair: Pair, card_encoding: &[u8]) -> Self {
        Self {
            id: KeyId::next(),
            pair,
            card_encoding: Zeroizing::new(card_encoding.to_vec()),
            nonces: NonceFilter::default(),
            #[cfg(any(test, feature = "aws-lc-rs"))]
            parsed: ParsedRsaKey::default(),
            for_eights: OnceLock::new(),
        }
    }

    /// Whether only an accelerator has the private half: then software cannot sign.
    #[must_use]
    pub const fn is_elsewhere(&self) -> bool {
        matches!(self.pair, Pair::Elsewhere(_))
    }

    /// The same key under a number of its own, so that no accelerator has a session for it.
    pub(crate) fn renumbered(&self) -> Self {
        let read = match &self.pair {
            Pair::Rsa(_) => Self::from_pkcs1(&self.card_encoding),
            Pair::Ecdsa(curve, _) => Self::from_sec1(*curve, &self.card_encoding),
            Pair::Elsewhere(key) => match key.kind {
                PublicKind::Rsa { .. } => Self::elsewhere_rsa(&key.bytes),
                PublicKind::Ecdsa(curve) => Self::elsewhere_ecdsa(curve, &key.bytes),
            },
        };
        read.expect("it has been read from these bytes before")
    }

    /// Which key this is.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// Whether the key can sign by `scheme`.
    #[must_use]
    pub const fn supports(&self, scheme: SignatureScheme) -> bool {
        matches!(
            (self.curve(), scheme.algorithm()),
            (
                None,
                SignatureAlgorithm::RsaPkcs1 | SignatureAlgorithm::RsaPss
            ) | (Some(Curve::P256), SignatureAlgorithm::Ecdsa(Curve::P256))
                | (Some(Curve::P384), SignatureAlgorithm::Ecdsa(Curve::P384))
        )
    }

    /// Its curve; `None` for RSA.
    const fn curve(&self) -> Option<Curve> {
        match &self.pair {
            Pair::Ecdsa(curve, _) => Some(*curve),
            Pair::Rsa(_) => None,
            Pair::Elsewhere(key) => match key.kind {
                PublicKind::Ecdsa(curve) => Some(curve),
                PublicKind::Rsa { .. } => None,
            },
        }
    }

    /// Length of the RSA modulus in bytes; `None` for other keys.
    #[must_use]
    pub fn modulus_len(&self) -> Option<usize> {
        match &self.pair {
            Pair::Rsa(pair) => Some(pair.public().modulus_len()),
            Pair::Ecdsa(..) => None,
            Pair::Elsewhere(key) => match key.kind {
                PublicKind::Rsa { modulus_len } => Some(modulus_len),
                PublicKind::Ecdsa(_) => None,
            },
        }
    }

    /// The public key as ring's verification takes it: PKCS #1 DER, or an uncompressed point.
    #[must_use]
    pub fn public_key(&self) -> &[u8] {
        match &self.pair {
            Pair::Rsa(pair) => pair.public_key().as_ref(),
            Pair::Ecdsa(_, pair) => pair.public_key().as_ref(),
            Pair::Elsewhere(key) => &key.bytes,
        }
    }

    /// The private key as a card takes it: PKCS #1 or SEC 1 DER. Nothing if it is
    /// [elsewhere](Self::is_elsewhere).
    pub(crate) fn card_encoding(&self) -> &[u8] {
        &self.card_encoding
    }

    /// The nonces that a card has used with this key.
    pub(crate) const fn nonces(&self) -> &NonceFilter {
        &self.nonces
    }

    /// The public key as AWS-LC keeps it.
    #[cfg(any(test, feature = "aws-lc-rs"))]
    pub(crate) const fn parsed(&self) -> &ParsedRsaKey {
        &self.parsed
    }

    /// The public key as crypto_mb takes it, if that is possible: of one of its lengths, with the usual
    /// exponent.
    pub(crate) fn for_eights(&self) -> Option<&Arc<RsaPublicKey>> {
        self.modulus_len()?;
        self.for_eights
            .get_or_init(|| {
                RsaPublicKey::from_pkcs1(self.public_key())
                    .ok()
                    .map(Arc::new)
            })
            .as_ref()
    }

    pub(crate) fn rsa(&self) -> Option<&RsaKeyPair> {
        match &self.pair {
            Pair::Rsa(pair) => Some(pair),
            Pair::Ecdsa(..) | Pair::Elsewhere(_) => None,
        }
    }

    pub(crate) fn ecdsa(&self) -> Option<&EcdsaKeyPair> {
        match &self.pair {
            Pair::Ecdsa(_, pair) => Some(pair),
            Pair::Rsa(_) | Pair::Elsewhere(_) => None,
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match (self.curve(), self.modulus_len()) {
            (Some(curve), _) => format!("{curve:?}"),
            (None, len) => format!("RSA-{}", len.unwrap_or_default() * 8),
        };
        write!(f, "SigningKey({kind}, #{})", self.id.0)
    }
}

/// An AES-GCM key of 16 or 32 bytes.
pub struct AeadKey {
    id: KeyId,
    ring: aead::LessSafeKey,
    bytes: Zeroizing<Vec<u8>>,
}

impl AeadKey {
    /// Takes key bytes.
    ///
    /// # Errors
    ///
    /// [`KeyError::Length`].
    pub fn new(bytes: &[u8]) -> Result<Self, KeyError> {
        let algorithm = match bytes.len() {
            16 => &aead::AES_128_GCM,
            32 => &aead::AES_256_GCM,
            found => {
                return Err(KeyError::Length {
                    expected: "AES-GCM keys here have 16 or 32",
                    found,
                });
            }
        };
        let unbound = aead::UnboundKey::new(algorithm, bytes)
            .expect("ring takes any bytes of the algorithm's own key length");
        Ok(Self {
            id: KeyId::next(),
            ring: aead::LessSafeKey::new(unbound),
            bytes: Zeroizing::new(bytes.to_vec()),
        })
    }

    /// Which key this is.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    pub(crate) fn card_encoding(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) const fn ring(&self) -> &aead::LessSafeKey {
        &self.ring
    }
}

impl fmt::Debug for AeadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "AeadKey(AES-{}-GCM, #{})",
            self.bytes.len() * 8,
            self.id.0
        )
    }
}

/// An AES key of 16 or 32 bytes for CBC.
pub struct CipherKey {
    id: KeyId,
    bytes: Zeroizing<Vec<u8>>,
}

impl CipherKey {
    /// Takes key bytes.
    ///
    /// # Errors
    ///
    /// [`KeyError::Length`].
    pub fn new(bytes: &[u8]) -> Result<Self, KeyError> {
        let possible = aes::Aes128::new_from_slice(bytes).is_ok()
            || aes::Aes256::new_from_slice(bytes).is_ok();
        if !possible {
            return Err(KeyError::Length {
                expected: "AES keys here have 16 or 32",
                found: bytes.len(),
            });
        }
        Ok(Self {
            id: KeyId::next(),
            bytes: Zeroizing::new(bytes.to_vec()),
        })
    }

    /// Which key this is.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for CipherKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CipherKey(AES-{}, #{})", self.bytes.len() * 8, self.id.0)
    }
}

/// An HMAC key of any length.
pub struct MacKey {
    id: KeyId,
    hash: HashAlgorithm,
    ring: hmac::Key,
    bytes: Zeroizing<Vec<u8>>,
}

impl MacKey {
    /// Takes key bytes.
    #[must_use]
    pub fn new(hash: HashAlgorithm, bytes: &[u8]) -> Self {
        // HMAC begins by hashing a key that is longer than a block (RFC 2104 §2 "Definition of
        // HMAC"). Done here, no key is too long for a card.
        let short = if bytes.len() > hash.ring().block_len() {
            hash.digest(bytes).as_ref().to_vec()
        } else {
            bytes.to_vec()
        };
        Self {
            id: KeyId::next(),
            hash,
            ring: hmac::Key::new(hash.ring_hmac(), bytes),
            bytes: Zeroizing::new(short),
        }
    }

    /// Which key this is.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// The hash the MAC is built on.
    #[must_use]
    pub const fn hash(&self) -> HashAlgorithm {
        self.hash
    }

    pub(crate) fn card_encoding(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) const fn ring(&self) -> &hmac::Key {
        &self.ring
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MacKey(HMAC-{:?}, #{})", self.hash, self.id.0)
    }
}

fn encoding(expected: &'static str, error: &dyn fmt::Display) -> KeyError {
    KeyError::Encoding {
        expected,
        reason: error.to_string(),
    }
}

fn rejected(error: ring::error::KeyRejected) -> KeyError {
    KeyError::Rejected {
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kat;

    #[test]
    fn a_key_elsewhere_is_known_by_its_public_half() {
        let (rsa, p384) = (kat::rsa_4096_key(), kat::p384_key());
        let elsewhere = SigningKey::elsewhere_rsa(rsa.public_key()).unwrap();
        assert_eq!(elsewhere.modulus_len(), rsa.modulus_len());
        assert!(elsewhere.is_elsewhere() && !rsa.is_elsewhere());
        assert!(elsewhere.supports(SignatureScheme::RsaPssSha256));
        assert!(!elsewhere.supports(SignatureScheme::EcdsaP384Sha384));
        assert!(elsewhere.card_encoding().is_empty());
        assert_ne!(elsewhere.id(), elsewhere.renumbered().id());

        let elsewhere = SigningKey::elsewhere_ecdsa(Curve::P384, p384.public_key()).unwrap();
        assert_eq!(elsewhere.public_key(), p384.public_key());
        assert!(elsewhere.supports(SignatureScheme::EcdsaP384Sha384));
        assert!(!elsewhere.supports(SignatureScheme::EcdsaP256Sha256));
    }

    #[test]
    fn what_is_no_public_key_is_refused() {
        let rsa = kat::rsa_2048_key();
        let der = rsa.public_key();
        for len in 0..der.len() {
            SigningKey::elsewhere_rsa(&der[..len]).unwrap_err();
        }
        SigningKey::elsewhere_rsa(&[der, &[0]].concat()).unwrap_err();
        // SEQUENCE { INTEGER 5, INTEGER 3 }
        let short = [0x30, 6, 2, 1, 5, 2, 1, 3];
        let error = SigningKey::elsewhere_rsa(&short).unwrap_err();
        assert!(
            matches!(error, KeyError::Length { found: 1, .. }),
            "{error}"
        );

        let point = kat::p256_key().public_key().to_vec();
        SigningKey::elsewhere_ecdsa(Curve::P384, &point).unwrap_err();
        let compressed = [&[2], &point[1..]].concat();
        SigningKey::elsewhere_ecdsa(Curve::P256, &compressed).unwrap_err();
    }
}
