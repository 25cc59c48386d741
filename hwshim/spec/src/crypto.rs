//! Virtio crypto device, session mode, in the padded layout that QEMU and Linux speak.
//!
//! Sections are of virtio 1.3 §5.9 "Crypto Device". The standard writes each request as a
//! header, a fixed part whose length depends on the service, and a variable part. Everybody
//! who has implemented it pads the fixed part to one size, so that every request starts with
//! 72 bytes: a control request has 16 of header and 56 of parameters, a data request 24 and 48.
//! Only that layout is described here.
//!
//! ```text
//! control  | header 16 | parameters 56 | key ...      || session id 8 | status 4 | pad 4 |
//! data     | header 24 | parameters 48 | iv, src, aad || result ...   | status 1 |
//!            device reads                                device writes
//! ```

use bitfield_struct::bitfield;
use std::fmt;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Virtio device ID of a crypto device (§5.9.1 "Device ID").
pub const DEVICE_ID: u16 = 20;
/// PCI device ID of a crypto device.
pub const PCI_DEVICE_ID: u16 = crate::virtio_pci::DEVICE_ID_BASE + DEVICE_ID;

/// `struct virtio_crypto_config` (§5.9.5 "Device configuration layout").
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Config {
    /// See [`ConfigStatus`].
    pub status: U32,
    /// Number of data queues; the control queue has this index.
    pub max_dataqueues: U32,
    /// Services offered: bit N is service number N, see [`service`].
    pub crypto_services: U32,
    /// Cipher algorithms, bits 0-31.
    pub cipher_algo_l: U32,
    /// Cipher algorithms, bits 32-63.
    pub cipher_algo_h: U32,
    /// Hash algorithms.
    pub hash_algo: U32,
    /// MAC algorithms, bits 0-31.
    pub mac_algo_l: U32,
    /// MAC algorithms, bits 32-63.
    pub mac_algo_h: U32,
    /// AEAD algorithms.
    pub aead_algo: U32,
    /// Longest cipher key, in bytes.
    pub max_cipher_key_len: U32,
    /// Longest authentication key, in bytes.
    pub max_auth_key_len: U32,
    /// Asymmetric algorithms.
    pub akcipher_algo: U32,
    /// Largest content of one data request, in bytes.
    pub max_size: U64,
}

const _: () = assert!(size_of::<Config>() == 56);

/// `virtio_crypto_config.status`. Linux breaks the device on any other bit.
#[bitfield(u32)]
pub struct ConfigStatus {
    /// `VIRTIO_CRYPTO_S_HW_READY`: requests may be submitted.
    pub hw_ready: bool,
    #[bits(31)]
    __: u32,
}

/// Service numbers (§5.9.4 "Supported crypto services").
pub mod service {
    /// Symmetric ciphers.
    pub const CIPHER: u32 = 0;
    /// Hashes.
    pub const HASH: u32 = 1;
    /// Message authentication codes.
    pub const MAC: u32 = 2;
    /// Authenticated encryption.
    pub const AEAD: u32 = 3;
    /// Asymmetric algorithms.
    pub const AKCIPHER: u32 = 4;
}

/// Control opcodes (§5.9.7.2 "Control Virtqueue").
pub mod control_opcode {
    /// Creates a cipher session.
    pub const CIPHER_CREATE: u32 = 0x0002;
    /// Destroys a cipher session.
    pub const CIPHER_DESTROY: u32 = 0x0003;
    /// Creates a hash session.
    pub const HASH_CREATE: u32 = 0x0102;
    /// Destroys a hash session.
    pub const HASH_DESTROY: u32 = 0x0103;
    /// Creates a MAC session.
    pub const MAC_CREATE: u32 = 0x0202;
    /// Destroys a MAC session.
    pub const MAC_DESTROY: u32 = 0x0203;
    /// Creates an AEAD session.
    pub const AEAD_CREATE: u32 = 0x0302;
    /// Destroys an AEAD session.
    pub const AEAD_DESTROY: u32 = 0x0303;
    /// Creates an asymmetric session.
    pub const AKCIPHER_CREATE: u32 = 0x0404;
    /// Destroys an asymmetric session.
    pub const AKCIPHER_DESTROY: u32 = 0x0405;
}

/// Data opcodes (§5.9.7.3 "Data Virtqueue").
pub mod data_opcode {
    /// Encrypts with a cipher session.
    pub const CIPHER_ENCRYPT: u32 = 0x0000;
    /// Decrypts with a cipher session.
    pub const CIPHER_DECRYPT: u32 = 0x0001;
    /// Hashes.
    pub const HASH: u32 = 0x0100;
    /// Computes a MAC.
    pub const MAC: u32 = 0x0200;
    /// Encrypts and authenticates.
    pub const AEAD_ENCRYPT: u32 = 0x0300;
    /// Decrypts and checks the tag.
    pub const AEAD_DECRYPT: u32 = 0x0301;
    /// Asymmetric encryption (public key).
    pub const AKCIPHER_ENCRYPT: u32 = 0x0400;
    /// Asymmetric decryption (private key).
    pub const AKCIPHER_DECRYPT: u32 = 0x0401;
    /// Signs a digest.
    pub const AKCIPHER_SIGN: u32 = 0x0402;
    /// Verifies a signature of a digest.
    pub const AKCIPHER_VERIFY: u32 = 0x0403;
}

/// Cipher algorithm numbers (§5.9.4.1 "CIPHER services").
pub mod cipher {
    /// AES in ECB mode.
    pub const AES_ECB: u32 = 2;
    /// AES in CBC mode.
    pub const AES_CBC: u32 = 3;
    /// AES in counter mode.
    pub const AES_CTR: u32 = 4;
}

/// Hash algorithm numbers.
pub mod hash {
    /// SHA-1.
    pub const SHA_1: u32 = 2;
    /// SHA-256.
    pub const SHA_256: u32 = 4;
    /// SHA-384.
    pub const SHA_384: u32 = 5;
    /// SHA-512.
    pub const SHA_512: u32 = 6;
}

/// MAC algorithm numbers.
pub mod mac {
    /// HMAC with SHA-256.
    pub const HMAC_SHA_256: u32 = 4;
    /// HMAC with SHA-384.
    pub const HMAC_SHA_384: u32 = 5;
    /// HMAC with SHA-512.
    pub const HMAC_SHA_512: u32 = 6;
}

/// AEAD algorithm numbers.
pub mod aead {
    /// AES-GCM.
    pub const GCM: u32 = 1;
}

/// Asymmetric algorithm numbers.
pub mod akcipher {
    /// RSA.
    pub const RSA: u32 = 1;
    /// ECDSA, as the standard numbers it. `linux/virtio_crypto.h` gives 2 to DSA and 3 to ECDSA;
    /// neither Linux nor QEMU implements either, so the standard's number stands.
    pub const ECDSA: u32 = 2;
}

/// `virtio_crypto_rsa_session_para.padding_algo`.
pub mod rsa_padding {
    /// No padding: the bare RSA primitive.
    pub const RAW: u32 = 0;
    /// PKCS #1 v1.5.
    pub const PKCS1: u32 = 1;
}

/// `virtio_crypto_rsa_session_para.hash_algo`: which DigestInfo prefix PKCS #1 signatures take.
pub mod rsa_hash {
    /// No prefix.
    pub const NONE: u32 = 0;
    /// MD5.
    pub const MD5: u32 = 4;
    /// SHA-1.
    pub const SHA1: u32 = 5;
    /// SHA-256.
    pub const SHA256: u32 = 6;
    /// SHA-384.
    pub const SHA384: u32 = 7;
    /// SHA-512.
    pub const SHA512: u32 = 8;
    /// SHA-224.
    pub const SHA224: u32 = 9;
}

/// `virtio_crypto_ecdsa_session_para.curve_id`.
pub mod curve {
    /// NIST P-192.
    pub const P192: u32 = 1;
    /// NIST P-224.
    pub const P224: u32 = 2;
    /// NIST P-256.
    pub const P256: u32 = 3;
    /// NIST P-384.
    pub const P384: u32 = 4;
    /// NIST P-521.
    pub const P521: u32 = 5;
}

/// `key_type` of an asymmetric session.
pub mod key_type {
    /// Public key.
    pub const PUBLIC: u32 = 1;
    /// Private key.
    pub const PRIVATE: u32 = 2;
}

/// `op` of a cipher or AEAD session.
pub mod direction {
    /// The session encrypts.
    pub const ENCRYPT: u32 = 1;
    /// The session decrypts.
    pub const DECRYPT: u32 = 2;
}

/// `op_type` of a symmetric session: a cipher alone, or chained with a hash.
pub mod symmetric_op_type {
    /// A cipher alone.
    pub const CIPHER: u32 = 1;
    /// A cipher chained with a hash.
    pub const ALGORITHM_CHAINING: u32 = 2;
}

/// Result the device writes behind each answer (§5.9.7.1 "Operation Status").
///
/// Kept as a number rather than an enum: the device may write a value that no specification
/// defines, and the report must show what it wrote.
#[derive(
    Clone, Copy, Eq, FromBytes, Hash, Immutable, IntoBytes, KnownLayout, PartialEq, Unaligned,
)]
#[repr(transparent)]
pub struct Status(pub u8);

impl Status {
    /// Success.
    pub const OK: Self = Self(0);
    /// Any failure not listed below.
    pub const ERR: Self = Self(1);
    /// The message's tag is wrong.
    pub const BADMSG: Self = Self(2);
    /// Operation or algorithm not supported.
    pub const NOTSUPP: Self = Self(3);
    /// No such session.
    pub const INVSESS: Self = Self(4);
    /// No room for another session.
    pub const NOSPC: Self = Self(5);
    /// Signature verification failed.
    pub const KEY_REJECTED: Self = Self(6);

    /// The name the standard gives the value, if it gives one.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::OK => "OK",
            Self::ERR => "ERR",
            Self::BADMSG => "BADMSG",
            Self::NOTSUPP => "NOTSUPP",
            Self::INVSESS => "INVSESS",
            Self::NOSPC => "NOSPC",
            Self::KEY_REJECTED => "KEY_REJECTED",
            _ => return None,
        })
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name}"),
            None => write!(f, "undefined ({:#04x})", self.0),
        }
    }
}

/// Bytes that start every request: header and padded parameters.
pub const REQUEST_LEN: usize = 72;

/// `struct virtio_crypto_ctrl_header`, first 16 bytes of a control request.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ControlHeader {
    /// See [`control_opcode`].
    pub opcode: U32,
    /// Algorithm, in the numbering of the service.
    pub algo: U32,
    /// Flags; zero in session mode.
    pub flag: U32,
    /// Reserved.
    pub reserved: U32,
}

const _: () = assert!(size_of::<ControlHeader>() == 16);

/// Creates a cipher session; the key follows.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CipherCreate {
    /// Opcode [`control_opcode::CIPHER_CREATE`].
    pub header: ControlHeader,
    /// See [`cipher`].
    pub algo: U32,
    /// Key length, in bytes.
    pub key_len: U32,
    /// See [`direction`].
    pub direction: U32,
    /// Padding.
    pub padding: U32,
    /// Room for the parameters of algorithm chaining.
    pub unused: [U32; 8],
    /// [`symmetric_op_type::CIPHER`].
    pub op_type: U32,
    /// Padding.
    pub padding_end: U32,
}

const _: () = assert!(size_of::<CipherCreate>() == REQUEST_LEN);

/// Creates a hash session.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct HashCreate {
    /// Opcode [`control_opcode::HASH_CREATE`].
    pub header: ControlHeader,
    /// See [`hash`].
    pub algo: U32,
    /// Digest length, in bytes.
    pub result_len: U32,
    /// Padding.
    pub padding: [U32; 12],
}

const _: () = assert!(size_of::<HashCreate>() == REQUEST_LEN);

/// Creates a MAC session; the key follows.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct MacCreate {
    /// Opcode [`control_opcode::MAC_CREATE`].
    pub header: ControlHeader,
    /// See [`mac`].
    pub algo: U32,
    /// MAC length, in bytes.
    pub result_len: U32,
    /// Key length, in bytes.
    pub key_len: U32,
    /// Padding.
    pub padding: [U32; 11],
}

const _: () = assert!(size_of::<MacCreate>() == REQUEST_LEN);

/// Creates an AEAD session; the key follows.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct AeadCreate {
    /// Opcode [`control_opcode::AEAD_CREATE`].
    pub header: ControlHeader,
    /// See [`aead`].
    pub algo: U32,
    /// Key length, in bytes.
    pub key_len: U32,
    /// Tag length, in bytes.
    pub tag_len: U32,
    /// Length of the additional authenticated data, in bytes; 0 leaves it to each request.
    pub aad_len: U32,
    /// See [`direction`].
    pub direction: U32,
    /// Padding.
    pub padding: [U32; 9],
}

const _: () = assert!(size_of::<AeadCreate>() == REQUEST_LEN);

/// Creates an asymmetric session; the key follows, in DER.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct AkcipherCreate {
    /// Opcode [`control_opcode::AKCIPHER_CREATE`].
    pub header: ControlHeader,
    /// See [`akcipher`].
    pub algo: U32,
    /// See [`key_type`].
    pub key_type: U32,
    /// Key length, in bytes.
    pub key_len: U32,
    /// RSA: see [`rsa_padding`]. ECDSA: see [`curve`].
    pub padding_or_curve: U32,
    /// RSA: see [`rsa_hash`].
    pub hash_algo: U32,
    /// Padding.
    pub padding: [U32; 9],
}

const _: () = assert!(size_of::<AkcipherCreate>() == REQUEST_LEN);

/// Destroys a session of any service. The device answers with one [`Status`] byte.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DestroySession {
    /// The service's own destroy opcode.
    pub header: ControlHeader,
    /// Which session.
    pub session_id: U64,
    /// Padding.
    pub padding: [U32; 12],
}

const _: () = assert!(size_of::<DestroySession>() == REQUEST_LEN);

/// `struct virtio_crypto_create_session_input`: what the device writes when asked for a session.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SessionReply {
    /// Session ID, meaningful if the status is OK.
    pub session_id: U64,
    /// A [`Status`] in 32 bits.
    pub status: U32,
    /// Padding.
    pub padding: U32,
}

const _: () = assert!(size_of::<SessionReply>() == 16);

/// `struct virtio_crypto_op_header`, first 24 bytes of a data request.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DataHeader {
    /// See [`data_opcode`].
    pub opcode: U32,
    /// Algorithm, in the numbering of the service.
    pub algo: U32,
    /// Session whose key to use.
    pub session_id: U64,
    /// Flags; zero in session mode without `VIRTIO_CRYPTO_F_REVISION_1`.
    pub flag: U32,
    /// Padding.
    pub padding: U32,
}

const _: () = assert!(size_of::<DataHeader>() == 24);

/// Cipher request; iv and source follow. The device writes the result, then one status byte.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CipherData {
    /// Opcode [`data_opcode::CIPHER_ENCRYPT`] or [`data_opcode::CIPHER_DECRYPT`].
    pub header: DataHeader,
    /// Length of the iv, in bytes.
    pub iv_len: U32,
    /// Length of the source, in bytes.
    pub src_len: U32,
    /// Length of the result, in bytes.
    pub dst_len: U32,
    /// Padding.
    pub padding: U32,
    /// Room for the parameters of algorithm chaining.
    pub unused: [U32; 6],
    /// [`symmetric_op_type::CIPHER`].
    pub op_type: U32,
    /// Padding.
    pub padding_end: U32,
}

const _: () = assert!(size_of::<CipherData>() == REQUEST_LEN);

/// Hash or MAC request; the source follows.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct HashData {
    /// Opcode [`data_opcode::HASH`] or [`data_opcode::MAC`].
    pub header: DataHeader,
    /// Length of the source, in bytes.
    pub src_len: U32,
    /// Length of the result, in bytes.
    pub result_len: U32,
    /// Padding.
    pub padding: [U32; 10],
}

const _: () = assert!(size_of::<HashData>() == REQUEST_LEN);

/// AEAD request; iv, source and additional authenticated data follow.
///
/// Encrypting, the result is ciphertext then tag. Decrypting, the source is ciphertext then tag
/// (the standard leaves the tag's place open).
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct AeadData {
    /// Opcode [`data_opcode::AEAD_ENCRYPT`] or [`data_opcode::AEAD_DECRYPT`].
    pub header: DataHeader,
    /// Length of the nonce, in bytes: 12 or 16.
    pub iv_len: U32,
    /// Length of the additional authenticated data, in bytes.
    pub aad_len: U32,
    /// Length of the source, in bytes.
    pub src_len: U32,
    /// Length of the result, in bytes.
    pub dst_len: U32,
    /// Length of the tag, in bytes.
    pub tag_len: U32,
    /// Reserved.
    pub reserved: U32,
    /// Padding.
    pub padding: [U32; 6],
}

const _: () = assert!(size_of::<AeadData>() == REQUEST_LEN);

/// Asymmetric request; the source follows. To verify, the source is signature then digest,
/// `src_len` counts the signature and `dst_len` the digest.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub struct AkcipherData {
    /// Opcode [`data_opcode::AKCIPHER_ENCRYPT`] and following.
    pub header: DataHeader,
    /// Length of the source, in bytes.
    pub src_len: U32,
    /// Length of the room for the result, in bytes.
    pub dst_len: U32,
    /// Padding.
    pub padding: [U32; 10],
}

const _: () = assert!(size_of::<AkcipherData>() == REQUEST_LEN);
