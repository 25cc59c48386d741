//! AES in ECB, CBC and counter mode, and in GCM.

use aes::cipher::{
    BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt, BlockModeEncrypt, InnerIvInit,
    KeyInit, StreamCipher, StreamCipherCoreWrapper,
};
use aes::{Aes128, Aes192, Aes256, Block};
use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes128Gcm, Aes256Gcm, Nonce, Tag};
use card_device::engine::{Cipher, Direction, Operation, Session};
use card_spec::crypto::Status;

/// Length of an AES-GCM tag, in bytes. Shorter ones are allowed and a bad idea.
const TAG_LEN: usize = 16;

/// An AES key in one of the block modes.
pub(super) struct Aes {
    key: AesKey,
    cipher: Cipher,
    direction: Direction,
}

enum AesKey {
    Aes128(Aes128),
    Aes192(Aes192),
    Aes256(Aes256),
}

impl Aes {
    pub(super) fn open(cipher: Cipher, direction: Direction, key: &[u8]) -> Result<Self, Status> {
        let key = match key.len() {
            16 => Aes128::new_from_slice(key).map(AesKey::Aes128),
            24 => Aes192::new_from_slice(key).map(AesKey::Aes192),
            _ => Aes256::new_from_slice(key).map(AesKey::Aes256),
        };
        Ok(Self {
            key: key.map_err(|_| Status::ERR)?,
            cipher,
            direction,
        })
    }
}

impl Session for Aes {
    fn execute(&self, operation: &Operation<'_>, output: &mut [u8]) -> Result<usize, Status> {
        let Operation::Cipher {
            direction,
            iv,
            source,
        } = operation
        else {
            return Err(Status::NOTSUPP);
        };
        // A session is for one direction; QEMU does not care, and neither can a driver expect it.
        if *direction != self.direction {
            return Err(Status::ERR);
        }
        let len = super::deliver(source, output)?;
        let data = &mut output[..len];
        match &self.key {
            AesKey::Aes128(key) => transform(key, self.cipher, *direction, iv, data)?,
            AesKey::Aes192(key) => transform(key, self.cipher, *direction, iv, data)?,
            AesKey::Aes256(key) => transform(key, self.cipher, *direction, iv, data)?,
        }
        Ok(len)
    }
}

fn transform<C>(
    key: &C,
    cipher: Cipher,
    direction: Direction,
    iv: &[u8],
    data: &mut [u8],
) -> Result<(), Status>
where
    C: BlockCipherEncrypt<BlockSize = aes::cipher::consts::U16> + BlockCipherDecrypt + Clone,
{
    if cipher == Cipher::AesCtr {
        let core = ctr::CtrCore::<C, ctr::flavors::Ctr128BE>::inner_iv_slice_init(key.clone(), iv)
            .map_err(|_| Status::ERR)?;
        StreamCipherCoreWrapper::from_core(core).apply_keystream(data);
        return Ok(());
    }
    let (blocks, rest) = Block::slice_as_chunks_mut(data);
    if !rest.is_empty() {
        return Err(Status::ERR);
    }
    match (cipher, direction) {
        (Cipher::AesCbc, Direction::Encrypt) => {
            cbc::Encryptor::inner_iv_slice_init(key.clone(), iv)
                .map_err(|_| Status::ERR)?
                .encrypt_blocks(blocks);
        }
        (Cipher::AesCbc, Direction::Decrypt) => {
            cbc::Decryptor::inner_iv_slice_init(key.clone(), iv)
                .map_err(|_| Status::ERR)?
                .decrypt_blocks(blocks);
        }
        (_, Direction::Encrypt) => key.encrypt_blocks(blocks),
        (_, Direction::Decrypt) => key.decrypt_blocks(blocks),
    }
    Ok(())
}

/// An AES-GCM key.
pub(super) struct AesGcm {
    key: AesGcmKey,
    direction: Direction,
}

enum AesGcmKey {
    Aes128(Box<Aes128Gcm>),
    Aes256(Box<Aes256Gcm>),
}

impl AesGcm {
    pub(super) fn open(direction: Direction, tag_len: u32, key: &[u8]) -> Result<Self, Status> {
        if usize::try_from(tag_len) != Ok(TAG_LEN) {
            return Err(Status::NOTSUPP);
        }
        let key = match key.len() {
            16 => Aes128Gcm::new_from_slice(key).map(|key| AesGcmKey::Aes128(Box::new(key))),
            _ => Aes256Gcm::new_from_slice(key).map(|key| AesGcmKey::Aes256(Box::new(key))),
        };
        Ok(Self {
            key: key.map_err(|_| Status::ERR)?,
            direction,
        })
    }

    fn encrypt(&self, nonce: &[u8], aad: &[u8], data: &mut [u8]) -> Result<Tag, Status> {
        let nonce = Nonce::try_from(nonce).map_err(|_| Status::NOTSUPP)?;
        match &self.key {
            AesGcmKey::Aes128(key) => key.encrypt_inout_detached(&nonce, aad, data.into()),
            AesGcmKey::Aes256(key) => key.encrypt_inout_detached(&nonce, aad, data.into()),
        }
        .map_err(|_| Status::ERR)
    }

    fn decrypt(&self, nonce: &[u8], aad: &[u8], data: &mut [u8], tag: &Tag) -> Result<(), Status> {
        let nonce = Nonce::try_from(nonce).map_err(|_| Status::NOTSUPP)?;
        match &self.key {
            AesGcmKey::Aes128(key) => key.decrypt_inout_detached(&nonce, aad, data.into(), tag),
            AesGcmKey::Aes256(key) => key.decrypt_inout_detached(&nonce, aad, data.into(), tag),
        }
        .map_err(|_| Status::BADMSG)
    }
}

impl Session for AesGcm {
    fn execute(&self, operation: &Operation<'_>, output: &mut [u8]) -> Result<usize, Status> {
        let Operation::Aead {
            direction,
            nonce,
            aad,
            source,
        } = operation
        else {
            return Err(Status::NOTSUPP);
        };
        if *direction != self.direction {
            return Err(Status::ERR);
        }
        match direction {
            Direction::Encrypt => {
                let len = source.len() + TAG_LEN;
                if output.len() < len {
                    return Err(Status::ERR);
                }
                let (data, tag) = output[..len].split_at_mut(source.len());
                data.copy_from_slice(source);
                tag.copy_from_slice(&self.encrypt(nonce, aad, data)?);
                Ok(len)
            }
            Direction::Decrypt => {
                // Less than a tag cannot be authentic.
                let len = source.len().checked_sub(TAG_LEN).ok_or(Status::BADMSG)?;
                let (ciphertext, tag) = source.split_at(len);
                super::deliver(ciphertext, output)?;
                let tag = Tag::try_from(tag).map_err(|_| Status::BADMSG)?;
                self.decrypt(nonce, aad, &mut output[..len], &tag)?;
                Ok(len)
            }
        }
    }
}
