//! From the bytes of a request to what it asks for.
//!
//! The padded session-mode layout of [`card_spec::crypto`], and nothing else. Every length a
//! request claims is checked against the bytes that came; whatever does not add up is the
//! [`Status`] the driver gets for it. Nothing here looks at a key.

use crate::engine::{
    Cipher, Curve, Direction, Hash, KeyType, Operation, RsaHash, RsaPadding, SessionSpec,
};
use card_spec::crypto::{
    AeadCreate, AeadData, AkcipherCreate, AkcipherData, CipherCreate, CipherData, ControlHeader,
    DataHeader, DestroySession, HashCreate, HashData, MacCreate, Status,
};
use card_spec::crypto::{
    aead, akcipher, cipher, control_opcode, curve, data_opcode, direction, hash, key_type, mac,
    rsa_hash, rsa_padding, service, symmetric_op_type,
};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// What a request on the control queue asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Control<'a> {
    /// A session.
    Open {
        /// What for.
        spec: SessionSpec,
        /// Its key.
        key: &'a [u8],
    },
    /// The end of a session.
    Close {
        /// Service number of the opcode.
        service: u32,
        /// Which.
        session_id: u64,
    },
}

/// What a request on a data queue asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Data<'a> {
    /// Session whose key to use.
    pub session_id: u64,
    /// What to do.
    pub operation: Operation<'a>,
    /// Room the driver gives the result, in bytes.
    pub result_len: usize,
}

/// Service number in an opcode.
#[must_use]
pub const fn service_of(opcode: u32) -> u32 {
    opcode >> 8
}

impl SessionSpec {
    /// Number of the service the session belongs to.
    #[must_use]
    pub const fn service(&self) -> u32 {
        match self {
            Self::Cipher { .. } => service::CIPHER,
            Self::Hash { .. } => service::HASH,
            Self::Mac { .. } => service::MAC,
            Self::AesGcm { .. } => service::AEAD,
            Self::Rsa { .. } | Self::Ecdsa { .. } => service::AKCIPHER,
        }
    }
}

/// Whether a control request is answered with a [`card_spec::crypto::SessionReply`]; the others
/// get a single status byte.
#[must_use]
pub const fn opens_session(opcode: u32) -> bool {
    matches!(
        opcode,
        control_opcode::CIPHER_CREATE
            | control_opcode::HASH_CREATE
            | control_opcode::MAC_CREATE
            | control_opcode::AEAD_CREATE
            | control_opcode::AKCIPHER_CREATE
    )
}

/// Reads a request of the control queue.
///
/// # Errors
///
/// [`Status::NOTSUPP`] for what has no meaning here, [`Status::ERR`] for lengths that do not add up.
pub fn parse_control(bytes: &[u8]) -> Result<Control<'_>, Status> {
    let (header, _) = split::<ControlHeader>(bytes)?;
    match header.opcode.get() {
        control_opcode::CIPHER_CREATE => open_cipher(bytes),
        control_opcode::HASH_CREATE => open_hash(bytes),
        control_opcode::MAC_CREATE => open_mac(bytes),
        control_opcode::AEAD_CREATE => open_aead(bytes),
        control_opcode::AKCIPHER_CREATE => open_akcipher(bytes),
        opcode @ (control_opcode::CIPHER_DESTROY
        | control_opcode::HASH_DESTROY
        | control_opcode::MAC_DESTROY
        | control_opcode::AEAD_DESTROY
        | control_opcode::AKCIPHER_DESTROY) => {
            let (request, _) = split::<DestroySession>(bytes)?;
            Ok(Control::Close {
                service: service_of(opcode),
                session_id: request.session_id.get(),
            })
        }
        _ => Err(Status::NOTSUPP),
    }
}

fn open_cipher(bytes: &[u8]) -> Result<Control<'_>, Status> {
    let (request, rest) = split::<CipherCreate>(bytes)?;
    if request.op_type.get() != symmetric_op_type::CIPHER {
        return Err(Status::NOTSUPP);
    }
    let cipher = match request.algo.get() {
        cipher::AES_ECB => Cipher::AesEcb,
        cipher::AES_CBC => Cipher::AesCbc,
        cipher::AES_CTR => Cipher::AesCtr,
        _ => return Err(Status::NOTSUPP),
    };
    let spec = SessionSpec::Cipher {
        cipher,
        direction: parse_direction(request.direction)?,
    };
    open(spec, request.key_len, rest)
}

fn open_hash(bytes: &[u8]) -> Result<Control<'_>, Status> {
    let (request, _) = split::<HashCreate>(bytes)?;
    let hash = match request.algo.get() {
        hash::SHA_1 => Hash::Sha1,
        hash::SHA_256 => Hash::Sha256,
        hash::SHA_384 => Hash::Sha384,
        hash::SHA_512 => Hash::Sha512,
        _ => return Err(Status::NOTSUPP),
    };
    let spec = SessionSpec::Hash {
        hash,
        result_len: request.result_len.get(),
    };
    Ok(Control::Open { spec, key: &[] })
}

fn open_mac(bytes: &[u8]) -> Result<Control<'_>, Status> {
    let (request, rest) = split::<MacCreate>(bytes)?;
    let hash = match request.algo.get() {
        mac::HMAC_SHA_256 => Hash::Sha256,
        mac::HMAC_SHA_384 => Hash::Sha384,
        mac::HMAC_SHA_512 => Hash::Sha512,
        _ => return Err(Status::NOTSUPP),
    };
    let spec = SessionSpec::Mac {
        hash,
        result_len: request.result_len.get(),
    };
    open(spec, request.key_len, rest)
}

fn open_aead(bytes: &[u8]) -> Result<Control<'_>, Status> {
    let (request, rest) = split::<AeadCreate>(bytes)?;
    if request.algo.get() != aead::GCM {
        return Err(Status::NOTSUPP);
    }
    let spec = SessionSpec::AesGcm {
        direction: parse_direction(request.direction)?,
        tag_len: request.tag_len.get(),
    };
    open(spec, request.key_len, rest)
}

fn open_akcipher(bytes: &[u8]) -> Result<Control<'_>, Status> {
    let (request, rest) = split::<AkcipherCreate>(bytes)?;
    let key = match request.key_type.get() {
        key_type::PUBLIC => KeyType::Public,
        key_type::PRIVATE => KeyType::Private,
        _ => return Err(Status::ERR),
    };
    let variant = request.padding_or_curve.get();
    let spec = match request.algo.get() {
        akcipher::RSA => SessionSpec::Rsa {
            key,
            padding: parse_padding(variant, request.hash_algo.get())?,
        },
        akcipher::ECDSA => SessionSpec::Ecdsa {
            key,
            curve: match variant {
                curve::P256 => Curve::P256,
                curve::P384 => Curve::P384,
                _ => return Err(Status::NOTSUPP),
            },
        },
        _ => return Err(Status::NOTSUPP),
    };
    open(spec, request.key_len, rest)
}

fn parse_padding(padding: u32, hash: u32) -> Result<RsaPadding, Status> {
    let hash = match (padding, hash) {
        (rsa_padding::RAW, _) => return Ok(RsaPadding::Raw),
        (rsa_padding::PKCS1, rsa_hash::NONE) => None,
        (rsa_padding::PKCS1, rsa_hash::MD5) => Some(RsaHash::Md5),
        (rsa_padding::PKCS1, rsa_hash::SHA1) => Some(RsaHash::Sha1),
        (rsa_padding::PKCS1, rsa_hash::SHA224) => Some(RsaHash::Sha224),
        (rsa_padding::PKCS1, rsa_hash::SHA256) => Some(RsaHash::Sha256),
        (rsa_padding::PKCS1, rsa_hash::SHA384) => Some(RsaHash::Sha384),
        (rsa_padding::PKCS1, rsa_hash::SHA512) => Some(RsaHash::Sha512),
        _ => return Err(Status::NOTSUPP),
    };
    Ok(RsaPadding::Pkcs1 { hash })
}

fn parse_direction(value: U32) -> Result<Direction, Status> {
    match value.get() {
        direction::ENCRYPT => Ok(Direction::Encrypt),
        direction::DECRYPT => Ok(Direction::Decrypt),
        _ => Err(Status::ERR),
    }
}

fn open(spec: SessionSpec, key_len: U32, rest: &[u8]) -> Result<Control<'_>, Status> {
    let mut rest = rest;
    let key = take(&mut rest, key_len)?;
    Ok(Control::Open { spec, key })
}

/// Reads a request of a data queue, whose content may be `max_size` bytes at most.
///
/// # Errors
///
/// [`Status::NOTSUPP`] for what has no meaning here, [`Status::ERR`] for lengths that do not add up.
pub fn parse_data(bytes: &[u8], max_size: usize) -> Result<Data<'_>, Status> {
    let (header, _) = split::<DataHeader>(bytes)?;
    let (operation, result_len) = match header.opcode.get() {
        data_opcode::CIPHER_ENCRYPT => cipher_data(bytes, Direction::Encrypt)?,
        data_opcode::CIPHER_DECRYPT => cipher_data(bytes, Direction::Decrypt)?,
        data_opcode::HASH => hash_data(bytes, |source| Operation::Hash { source })?,
        data_opcode::MAC => hash_data(bytes, |source| Operation::Mac { source })?,
        data_opcode::AEAD_ENCRYPT => aead_data(bytes, Direction::Encrypt)?,
        data_opcode::AEAD_DECRYPT => aead_data(bytes, Direction::Decrypt)?,
        data_opcode::AKCIPHER_ENCRYPT => {
            akcipher_data(bytes, |source| Operation::Encrypt { source })?
        }
        data_opcode::AKCIPHER_DECRYPT => {
            akcipher_data(bytes, |source| Operation::Decrypt { source })?
        }
        data_opcode::AKCIPHER_SIGN => akcipher_data(bytes, |digest| Operation::Sign { digest })?,
        data_opcode::AKCIPHER_VERIFY => verify_data(bytes)?,
        _ => return Err(Status::NOTSUPP),
    };
    let result_len = to_usize(result_len);
    if bytes.len() > card_spec::crypto::REQUEST_LEN + max_size || result_len > max_size {
        return Err(Status::ERR);
    }
    Ok(Data {
        session_id: header.session_id.get(),
        operation,
        result_len,
    })
}

fn cipher_data(bytes: &[u8], direction: Direction) -> Result<(Operation<'_>, U32), Status> {
    let (request, mut rest) = split::<CipherData>(bytes)?;
    if request.op_type.get() != symmetric_op_type::CIPHER {
        return Err(Status::NOTSUPP);
    }
    let operation = Operation::Cipher {
        direction,
        iv: take(&mut rest, request.iv_len)?,
        source: take(&mut rest, request.src_len)?,
    };
    Ok((operation, request.dst_len))
}

fn hash_data<'a>(
    bytes: &'a [u8],
    operation: impl FnOnce(&'a [u8]) -> Operation<'a>,
) -> Result<(Operation<'a>, U32), Status> {
    let (request, mut rest) = split::<HashData>(bytes)?;
    let source = take(&mut rest, request.src_len)?;
    Ok((operation(source), request.result_len))
}

fn aead_data(bytes: &[u8], direction: Direction) -> Result<(Operation<'_>, U32), Status> {
    let (request, mut rest) = split::<AeadData>(bytes)?;
    let nonce = take(&mut rest, request.iv_len)?;
    let source = take(&mut rest, request.src_len)?;
    let aad = take(&mut rest, request.aad_len)?;
    let operation = Operation::Aead {
        direction,
        nonce,
        aad,
        source,
    };
    Ok((operation, request.dst_len))
}

fn akcipher_data<'a>(
    bytes: &'a [u8],
    operation: impl FnOnce(&'a [u8]) -> Operation<'a>,
) -> Result<(Operation<'a>, U32), Status> {
    let (request, mut rest) = split::<AkcipherData>(bytes)?;
    let source = take(&mut rest, request.src_len)?;
    Ok((operation(source), request.dst_len))
}

fn verify_data(bytes: &[u8]) -> Result<(Operation<'_>, U32), Status> {
    let (request, mut rest) = split::<AkcipherData>(bytes)?;
    let operation = Operation::Verify {
        signature: take(&mut rest, request.src_len)?,
        digest: take(&mut rest, request.dst_len)?,
    };
    Ok((operation, U32::new(0)))
}

fn split<T: FromBytes + Immutable + KnownLayout + Unaligned>(
    bytes: &[u8],
) -> Result<(&T, &[u8]), Status> {
    T::ref_from_prefix(bytes).map_err(|_| Status::ERR)
}

fn take<'a>(rest: &mut &'a [u8], len: U32) -> Result<&'a [u8], Status> {
    let (taken, behind) = rest.split_at_checked(to_usize(len)).ok_or(Status::ERR)?;
    *rest = behind;
    Ok(taken)
}

fn to_usize(value: U32) -> usize {
    usize::try_from(value.get()).unwrap_or(usize::MAX)
}
