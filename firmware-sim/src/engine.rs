//! The simulated card's cryptography, honest, from the RustCrypto crates.
//!
//! The driver verifies and falls back with `ring`, so the two sides check each other. What a
//! faulty card does is not here.

pub(crate) mod der;
mod digest;
mod ecdsa;
mod memoised;
mod multi_buffer;
mod rsa;
mod symmetric;

pub use self::multi_buffer::MultiBuffer;
pub(crate) use ecdsa::scalar;
pub use memoised::Memoised;

use card_device::engine::{Engine, Offer, Session, SessionSpec};
use card_spec::crypto::{Status, aead, akcipher, cipher, hash, mac};
use std::sync::Arc;

/// Longest HMAC key, in bytes. A longer one would be hashed first, by whoever has it.
const AUTH_KEY_LEN_MAX: u32 = 128;
/// Longest cipher key, in bytes.
const CIPHER_KEY_LEN_MAX: u32 = 32;

/// Executes everything the card offers.
#[derive(Clone, Copy, Debug, Default)]
pub struct RustCrypto;

impl Engine for RustCrypto {
    fn offer(&self) -> Offer {
        Offer {
            ciphers: 1 << cipher::AES_ECB | 1 << cipher::AES_CBC | 1 << cipher::AES_CTR,
            hashes: 1 << hash::SHA_1 | 1 << hash::SHA_256 | 1 << hash::SHA_384 | 1 << hash::SHA_512,
            macs: 1 << mac::HMAC_SHA_256 | 1 << mac::HMAC_SHA_384 | 1 << mac::HMAC_SHA_512,
            aeads: 1 << aead::GCM,
            akciphers: 1 << akcipher::RSA | 1 << akcipher::ECDSA,
            cipher_key_len_max: CIPHER_KEY_LEN_MAX,
            auth_key_len_max: AUTH_KEY_LEN_MAX,
        }
    }

    fn open(&self, spec: &SessionSpec, key: &[u8]) -> Result<Arc<dyn Session>, Status> {
        let session: Arc<dyn Session> = match *spec {
            SessionSpec::Cipher { cipher, direction } => {
                Arc::new(symmetric::Aes::open(cipher, direction, key)?)
            }
            SessionSpec::Hash { hash, result_len } => {
                Arc::new(digest::Hashing::open(hash, result_len)?)
            }
            SessionSpec::Mac { hash, result_len } => {
                Arc::new(digest::Hmacing::open(hash, result_len, key)?)
            }
            SessionSpec::AesGcm { direction, tag_len } => {
                Arc::new(symmetric::AesGcm::open(direction, tag_len, key)?)
            }
            SessionSpec::Rsa {
                key: key_type,
                padding,
            } => Arc::new(rsa::Rsa::open(key_type, padding, key)?),
            SessionSpec::Ecdsa {
                key: key_type,
                curve,
            } => Arc::new(ecdsa::Ecdsa::open(key_type, curve, key)?),
        };
        Ok(session)
    }
}

/// Copies a result to the start of the output, which must have room for it.
pub(crate) fn deliver(result: &[u8], output: &mut [u8]) -> Result<usize, Status> {
    let room = output.get_mut(..result.len()).ok_or(Status::ERR)?;
    room.copy_from_slice(result);
    Ok(result.len())
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;
