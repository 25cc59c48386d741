//! Operations as virtio-crypto requests, and results back (virtio 1.3 §5.9.7 "Device Operation").
//!
//! RSA-PSS is not in the standard: it becomes a decryption with a session without padding, of a
//! message that [`crate::accelerator::pss`] has encoded. AEAD decryption takes ciphertext and tag as its source.

use crate::accelerator::pss;
use crate::accelerator::software::TAG_LEN;
use crate::accelerator::{Algorithm, Direction, Operation};
use crate::key::{Curve, HashAlgorithm, KeyId, SignatureAlgorithm};
use card_spec::crypto::{
    AeadCreate, AeadData, AkcipherCreate, AkcipherData, CipherCreate, CipherData, Config,
    ControlHeader, DataHeader, DestroySession, HashCreate, HashData, MacCreate, REQUEST_LEN, aead,
    akcipher, cipher, control_opcode, curve, data_opcode, direction, hash, key_type, mac, rsa_hash,
    rsa_padding, service, symmetric_op_type,
};
use ring::rand::SystemRandom;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use zerocopy::{FromZeros, IntoBytes};

/// A session holds one key for one purpose.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct SessionKey {
    /// `None` for hashes, which have none.
    key: Option<KeyId>,
    pub(super) kind: SessionKind,
}

/// Finds sessions by their [`SessionKey`]. What it hashes are numbers of this program's own, which
/// nobody outside chooses, so it need only be quick and spread them.
pub(super) type SessionMap<T> = HashMap<SessionKey, T, BuildHasherDefault<NumberHasher>>;

#[derive(Debug, Default)]
pub(super) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(byte.into());
        }
    }

    fn write_u64(&mut self, number: u64) {
        /// Odd, with no pattern in its bits.
        const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
        self.0 = (self.0.rotate_left(29) ^ number).wrapping_mul(MULTIPLIER);
    }

    fn write_isize(&mut self, discriminant: isize) {
        self.write_u64(discriminant.cast_unsigned() as u64);
    }

    fn finish(&self) -> u64 {
        // A product mixes upwards; tables look at the lowest bits as well.
        self.0.rotate_left(32)
    }
}

/// What a session is for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum SessionKind {
    RsaRaw,
    RsaPkcs1(HashAlgorithm),
    Ecdsa(Curve),
    Gcm(Direction),
    Cbc(Direction),
    Digest(HashAlgorithm),
    Hmac(HashAlgorithm),
}

impl SessionKind {
    /// The session that operations of `algorithm` use; the encrypting one where there are two.
    pub(super) fn of(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sign(scheme) => match scheme.algorithm() {
                SignatureAlgorithm::RsaPkcs1 => Self::RsaPkcs1(scheme.hash()),
                SignatureAlgorithm::RsaPss => Self::RsaRaw,
                SignatureAlgorithm::Ecdsa(curve) => Self::Ecdsa(curve),
            },
            Algorithm::AesGcm => Self::Gcm(Direction::Encrypt),
            Algorithm::AesCbc => Self::Cbc(Direction::Encrypt),
            Algorithm::Digest(hash) => Self::Digest(hash),
            Algorithm::Hmac(hash) => Self::Hmac(hash),
        }
    }

    /// Whether a device with this configuration offers such sessions.
    pub(super) fn offered(self, config: &Config) -> bool {
        let (service, algorithms, number) = match self {
            Self::RsaRaw | Self::RsaPkcs1(_) => {
                (service::AKCIPHER, config.akcipher_algo, akcipher::RSA)
            }
            Self::Ecdsa(_) => (service::AKCIPHER, config.akcipher_algo, akcipher::ECDSA),
            Self::Gcm(_) => (service::AEAD, config.aead_algo, aead::GCM),
            Self::Cbc(_) => (service::CIPHER, config.cipher_algo_l, cipher::AES_CBC),
            Self::Digest(hash) => (service::HASH, config.hash_algo, hash_number(hash)),
            Self::Hmac(hash) => (service::MAC, config.mac_algo_l, mac_number(hash)),
        };
        config.crypto_services.get() & 1 << service != 0 && algorithms.get() & 1 << number != 0
    }

    /// Longest key that a device with this configuration takes for such sessions, in bytes. What
    /// it does with a longer one is undefined (virtio 1.3 §5.9.5 "Device configuration layout").
    pub(super) fn key_len_max(self, config: &Config) -> usize {
        match self {
            Self::Gcm(_) | Self::Cbc(_) => config.max_cipher_key_len.get() as usize,
            Self::Hmac(_) => config.max_auth_key_len.get() as usize,
            // There is no limit to read for these.
            Self::RsaRaw | Self::RsaPkcs1(_) | Self::Ecdsa(_) | Self::Digest(_) => usize::MAX,
        }
    }

    fn destroy_opcode(self) -> u32 {
        match self {
            Self::RsaRaw | Self::RsaPkcs1(_) | Self::Ecdsa(_) => control_opcode::AKCIPHER_DESTROY,
            Self::Gcm(_) => control_opcode::AEAD_DESTROY,
            Self::Cbc(_) => control_opcode::CIPHER_DESTROY,
            Self::Digest(_) => control_opcode::HASH_DESTROY,
            Self::Hmac(_) => control_opcode::MAC_DESTROY,
        }
    }
}

/// The session that `operation` needs.
pub(super) fn session_of(operation: &Operation) -> SessionKey {
    let kind = SessionKind::of(operation.algorithm());
    match operation {
        Operation::Sign { key, .. } => SessionKey {
            key: Some(key.id()),
            kind,
        },
        Operation::Seal { key, .. } => SessionKey {
            key: Some(key.id()),
            kind: SessionKind::Gcm(Direction::Encrypt),
        },
        Operation::Open { key, .. } => SessionKey {
            key: Some(key.id()),
            kind: SessionKind::Gcm(Direction::Decrypt),
        },
        Operation::Cbc { key, direction, .. } => SessionKey {
            key: Some(key.id()),
            kind: SessionKind::Cbc(*direction),
        },
        Operation::Digest { .. } => SessionKey { key: None, kind },
        Operation::Mac { key, .. } => SessionKey {
            key: Some(key.id()),
            kind,
        },
    }
}

/// The control request that opens the session for `operation`: fixed part and key.
pub(super) fn create_session(operation: &Operation) -> ([u8; REQUEST_LEN], &[u8]) {
    let header = |opcode: u32, algo: u32| ControlHeader {
        opcode: opcode.into(),
        algo: algo.into(),
        ..ControlHeader::default()
    };
    match operation {
        Operation::Sign { key, scheme, .. } => {
            let kind = SessionKind::of(operation.algorithm());
            let (algo, padding_or_curve, hash_algo) = match kind {
                SessionKind::Ecdsa(curve) => (akcipher::ECDSA, curve_number(curve), 0),
                SessionKind::RsaPkcs1(hash) => {
                    (akcipher::RSA, rsa_padding::PKCS1, rsa_hash_number(hash))
                }
                _ => (akcipher::RSA, rsa_padding::RAW, rsa_hash::NONE),
            };
            debug_assert!(key.supports(*scheme));
            let create = AkcipherCreate {
                header: header(control_opcode::AKCIPHER_CREATE, algo),
                algo: algo.into(),
                key_type: key_type::PRIVATE.into(),
                key_len: to_u32(key.card_encoding().len()).into(),
                padding_or_curve: padding_or_curve.into(),
                hash_algo: hash_algo.into(),
                ..AkcipherCreate::default()
            };
            (bytes_of(&create), key.card_encoding())
        }
        Operation::Seal { key, .. } => gcm_session(key.card_encoding(), direction::ENCRYPT, header),
        Operation::Open { key, .. } => gcm_session(key.card_encoding(), direction::DECRYPT, header),
        Operation::Cbc { key, direction, .. } => {
            let create = CipherCreate {
                header: header(control_opcode::CIPHER_CREATE, cipher::AES_CBC),
                algo: cipher::AES_CBC.into(),
                key_len: to_u32(key.bytes().len()).into(),
                direction: direction_number(*direction).into(),
                op_type: symmetric_op_type::CIPHER.into(),
                ..CipherCreate::default()
            };
            (bytes_of(&create), key.bytes())
        }
        Operation::Digest { hash, .. } => {
            let create = HashCreate {
                header: header(control_opcode::HASH_CREATE, hash_number(*hash)),
                algo: hash_number(*hash).into(),
                result_len: to_u32(hash.digest_len()).into(),
                ..HashCreate::default()
            };
            (bytes_of(&create), &[])
        }
        Operation::Mac { key, .. } => {
            let create = MacCreate {
                header: header(control_opcode::MAC_CREATE, mac_number(key.hash())),
                algo: mac_number(key.hash()).into(),
                result_len: to_u32(key.hash().digest_len()).into(),
                key_len: to_u32(key.card_encoding().len()).into(),
                ..MacCreate::default()
            };
            (bytes_of(&create), key.card_encoding())
        }
    }
}

fn gcm_session(
    key: &[u8],
    direction: u32,
    header: impl Fn(u32, u32) -> ControlHeader,
) -> ([u8; REQUEST_LEN], &[u8]) {
    let create = AeadCreate {
        header: header(control_opcode::AEAD_CREATE, aead::GCM),
        algo: aead::GCM.into(),
        key_len: to_u32(key.len()).into(),
        tag_len: to_u32(TAG_LEN).into(),
        direction: direction.into(),
        ..AeadCreate::default()
    };
    (bytes_of(&create), key)
}

/// The control request that closes a session.
pub(super) fn destroy_session(session: SessionKey, session_id: u64) -> [u8; REQUEST_LEN] {
    let destroy = DestroySession {
        header: ControlHeader {
            opcode: session.kind.destroy_opcode().into(),
            ..ControlHeader::default()
        },
        session_id: session_id.into(),
        ..DestroySession::default()
    };
    bytes_of(&destroy)
}

/// How long the result of an operation may be, in bytes, the status byte not counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct ResultLen {
    pub(super) min: usize,
    pub(super) max: usize,
}

impl ResultLen {
    const fn exactly(len: usize) -> Self {
        Self { min: len, max: len }
    }
}

/// The lengths of the data request for `operation`: what the device reads, what it writes.
pub(super) fn lengths(operation: &Operation) -> (usize, ResultLen) {
    let (input, result) = match operation {
        Operation::Sign { key, scheme, .. } => match (scheme.algorithm(), key.modulus_len()) {
            (SignatureAlgorithm::RsaPkcs1, Some(modulus_len)) => {
                (scheme.hash().digest_len(), ResultLen::exactly(modulus_len))
            }
            (_, Some(modulus_len)) => (modulus_len, ResultLen::exactly(modulus_len)),
            (algorithm, None) => (scheme.hash().digest_len(), ecdsa_len(algorithm)),
        },
        Operation::Seal { aad, plaintext, .. } => (
            12 + plaintext.len() + aad.len(),
            ResultLen::exactly(plaintext.len() + TAG_LEN),
        ),
        Operation::Open { aad, sealed, .. } => (
            12 + sealed.len() + aad.len(),
            ResultLen::exactly(sealed.len().saturating_sub(TAG_LEN)),
        ),
        Operation::Cbc { data, .. } => (16 + data.len(), ResultLen::exactly(data.len())),
        Operation::Digest { hash, message } => {
            (message.len(), ResultLen::exactly(hash.digest_len()))
        }
        Operation::Mac { key, message } => {
            (message.len(), ResultLen::exactly(key.hash().digest_len()))
        }
    };
    (REQUEST_LEN + input, result)
}

/// DER `ECDSA-Sig-Value`: a sequence of two integers, each up to one byte longer than the group
/// order, each at least one byte.
const fn ecdsa_len(algorithm: SignatureAlgorithm) -> ResultLen {
    let max = match algorithm {
        SignatureAlgorithm::Ecdsa(Curve::P256) => 2 + 2 * (2 + 33),
        _ => 2 + 2 * (2 + 49),
    };
    ResultLen { min: 8, max }
}

/// Why a request cannot be written down: the caller's or the system's fault, not the device's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct CannotEncode;

/// Writes the data request for `operation` and hands its parts to `post`.
///
/// `scratch` only saves an allocation.
pub(super) fn with_data_request<T>(
    operation: &Operation,
    session_id: u64,
    scratch: &mut Vec<u8>,
    post: impl FnOnce(&[&[u8]], usize) -> T,
) -> Result<T, CannotEncode> {
    let (_, result) = lengths(operation);
    let room = result.max + 1;
    let header = |opcode: u32, algo: u32| DataHeader {
        opcode: opcode.into(),
        algo: algo.into(),
        session_id: session_id.into(),
        ..DataHeader::default()
    };
    let akcipher_data = |opcode: u32, algo: u32, src_len: usize| AkcipherData {
        header: header(opcode, algo),
        src_len: to_u32(src_len).into(),
        dst_len: to_u32(result.max).into(),
        ..AkcipherData::default()
    };
    Ok(match operation {
        Operation::Sign {
            key,
            scheme,
            message,
        } => match scheme.algorithm() {
            SignatureAlgorithm::RsaPss => {
                scratch.clear();
                scratch.resize(key.modulus_len().ok_or(CannotEncode)?, 0);
                pss::encode(scheme.hash(), message, &SystemRandom::new(), scratch)
                    .map_err(|pss::CannotEncode| CannotEncode)?;
                let request =
                    akcipher_data(data_opcode::AKCIPHER_DECRYPT, akcipher::RSA, scratch.len());
                post(&[request.as_bytes(), scratch], room)
            }
            SignatureAlgorithm::RsaPkcs1 | SignatureAlgorithm::Ecdsa(_) => {
                let algo = match scheme.algorithm() {
                    SignatureAlgorithm::Ecdsa(_) => akcipher::ECDSA,
                    _ => akcipher::RSA,
                };
                let digest = scheme.hash().digest(message);
                let digest = digest.as_ref();
                let request = akcipher_data(data_opcode::AKCIPHER_SIGN, algo, digest.len());
                post(&[request.as_bytes(), digest], room)
            }
        },
        Operation::Seal {
            nonce,
            aad,
            plaintext,
            ..
        } => {
            let request = AeadData {
                header: header(data_opcode::AEAD_ENCRYPT, aead::GCM),
                ..aead_lengths(plaintext.len(), aad.len(), result.max)
            };
            post(&[request.as_bytes(), nonce, plaintext, aad], room)
        }
        Operation::Open {
            nonce, aad, sealed, ..
        } => {
            let request = AeadData {
                header: header(data_opcode::AEAD_DECRYPT, aead::GCM),
                ..aead_lengths(sealed.len(), aad.len(), result.max)
            };
            post(&[request.as_bytes(), nonce, sealed, aad], room)
        }
        Operation::Cbc {
            direction,
            iv,
            data,
            ..
        } => {
            let opcode = match direction {
                Direction::Encrypt => data_opcode::CIPHER_ENCRYPT,
                Direction::Decrypt => data_opcode::CIPHER_DECRYPT,
            };
            let request = CipherData {
                header: header(opcode, cipher::AES_CBC),
                iv_len: to_u32(iv.len()).into(),
                src_len: to_u32(data.len()).into(),
                dst_len: to_u32(data.len()).into(),
                op_type: symmetric_op_type::CIPHER.into(),
                ..CipherData::default()
            };
            post(&[request.as_bytes(), iv, data], room)
        }
        Operation::Digest { hash, message } => {
            let request = HashData {
                header: header(data_opcode::HASH, hash_number(*hash)),
                src_len: to_u32(message.len()).into(),
                result_len: to_u32(result.max).into(),
                ..HashData::default()
            };
            post(&[request.as_bytes(), message], room)
        }
        Operation::Mac { key, message } => {
            let request = HashData {
                header: header(data_opcode::MAC, mac_number(key.hash())),
                src_len: to_u32(message.len()).into(),
                result_len: to_u32(result.max).into(),
                ..HashData::default()
            };
            post(&[request.as_bytes(), message], room)
        }
    })
}

fn aead_lengths(src_len: usize, aad_len: usize, dst_len: usize) -> AeadData {
    AeadData {
        iv_len: 12.into(),
        aad_len: to_u32(aad_len).into(),
        src_len: to_u32(src_len).into(),
        dst_len: to_u32(dst_len).into(),
        tag_len: to_u32(TAG_LEN).into(),
        ..AeadData::default()
    }
}

fn bytes_of<T: IntoBytes + zerocopy::Immutable>(request: &T) -> [u8; REQUEST_LEN] {
    let mut bytes = <[u8; REQUEST_LEN]>::new_zeroed();
    request
        .write_to(&mut bytes)
        .expect("every request starts with 72 bytes");
    bytes
}

fn to_u32(len: usize) -> u32 {
    u32::try_from(len).expect("lengths were checked against the queue's buffers")
}

const fn hash_number(algorithm: HashAlgorithm) -> u32 {
    match algorithm {
        HashAlgorithm::Sha256 => hash::SHA_256,
        HashAlgorithm::Sha384 => hash::SHA_384,
        HashAlgorithm::Sha512 => hash::SHA_512,
    }
}

const fn mac_number(algorithm: HashAlgorithm) -> u32 {
    match algorithm {
        HashAlgorithm::Sha256 => mac::HMAC_SHA_256,
        HashAlgorithm::Sha384 => mac::HMAC_SHA_384,
        HashAlgorithm::Sha512 => mac::HMAC_SHA_512,
    }
}

const fn rsa_hash_number(algorithm: HashAlgorithm) -> u32 {
    match algorithm {
        HashAlgorithm::Sha256 => rsa_hash::SHA256,
        HashAlgorithm::Sha384 => rsa_hash::SHA384,
        HashAlgorithm::Sha512 => rsa_hash::SHA512,
    }
}

const fn curve_number(of: Curve) -> u32 {
    match of {
        Curve::P256 => curve::P256,
        Curve::P384 => curve::P384,
    }
}

const fn direction_number(of: Direction) -> u32 {
    match of {
        Direction::Encrypt => direction::ENCRYPT,
        Direction::Decrypt => direction::DECRYPT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kat;
    use crate::key::{MacKey, SignatureScheme};

    #[test]
    fn announced_lengths_are_those_of_what_is_written() {
        for test in &kat::ALL {
            let operation = test.operation();
            let (request_len, result) = lengths(&operation);
            let mut scratch = Vec::new();
            let (written, room) = with_data_request(&operation, 7, &mut scratch, |parts, room| {
                (parts.concat().len(), room)
            })
            .unwrap();
            assert_eq!(written, request_len, "{test:?}");
            assert_eq!(room, result.max + 1);
            let output = crate::accelerator::software::perform(&operation).unwrap();
            assert!(
                (result.min..=result.max).contains(&output.len()),
                "{test:?}"
            );
        }
    }

    #[test]
    fn nothing_is_offered_without_its_service_bit() {
        let everything = Config {
            akcipher_algo: u32::MAX.into(),
            aead_algo: u32::MAX.into(),
            cipher_algo_l: u32::MAX.into(),
            hash_algo: u32::MAX.into(),
            mac_algo_l: u32::MAX.into(),
            ..Config::default()
        };
        let services = Config {
            crypto_services: u32::MAX.into(),
            ..everything
        };
        for algorithm in Algorithm::all() {
            let kind = SessionKind::of(algorithm);
            assert!(!kind.offered(&everything), "{algorithm}");
            assert!(kind.offered(&services), "{algorithm}");
        }
    }
    #[test]
    fn symmetric_keys_have_the_lengths_that_the_device_takes() {
        let config = Config {
            max_cipher_key_len: 16.into(),
            max_auth_key_len: 64.into(),
            ..Config::default()
        };
        let longest = |algorithm| SessionKind::of(algorithm).key_len_max(&config);
        assert_eq!(longest(Algorithm::AesGcm), 16);
        assert_eq!(longest(Algorithm::AesCbc), 16);
        assert_eq!(longest(Algorithm::Hmac(HashAlgorithm::Sha256)), 64);
        assert_eq!(
            longest(Algorithm::Digest(HashAlgorithm::Sha256)),
            usize::MAX
        );
        for scheme in SignatureScheme::ALL {
            assert_eq!(longest(Algorithm::Sign(scheme)), usize::MAX);
        }
    }
    #[test]
    fn no_hmac_key_that_a_card_gets_is_longer_than_a_block_of_its_hash() {
        for (hash, block_len) in [
            (HashAlgorithm::Sha256, 64),
            (HashAlgorithm::Sha384, 128),
            (HashAlgorithm::Sha512, 128),
        ] {
            let given = |len| {
                let operation = Operation::Mac {
                    key: std::sync::Arc::new(MacKey::new(hash, &vec![1; len])),
                    message: crate::accelerator::Secret::default(),
                };
                let (_, key) = create_session(&operation);
                key.to_vec()
            };
            assert!(given(0).is_empty());
            assert_eq!(given(block_len), vec![1; block_len]);
            assert_eq!(
                given(block_len + 1),
                hash.digest(&vec![1; block_len + 1]).as_ref()
            );
        }
    }
}
