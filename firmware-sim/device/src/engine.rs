//! What executes a request.
//!
//! **Seam.** The simulator's own cryptography, the router of a card's service process, and
//! layers that wrap either. An engine never sees a descriptor, a header or a status byte: it is
//! given a [`SessionSpec`] with a key once, and [`Operation`]s after that.

use card_spec::crypto::Status;
use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// Opens sessions, and says for which algorithms it can.
pub trait Engine: Send + Sync + fmt::Debug {
    /// What the card may announce.
    fn offer(&self) -> Offer;

    /// Opens a session. The key is the caller's, who zeroizes it.
    ///
    /// # Errors
    ///
    /// [`Status::NOTSUPP`] for what is not in the offer, [`Status::ERR`] for a key that is none.
    fn open(&self, spec: &SessionSpec, key: &[u8]) -> Result<Arc<dyn Session>, Status>;

    /// How many requests it executes in the time of one, if it is given them at once.
    fn lanes(&self) -> usize {
        1
    }

    /// Executes several requests, each of a session of its own or of the same. Only asked for
    /// where there is more than one [lane](Engine::lanes).
    fn execute(&self, requests: &mut [Lane<'_>]) {
        for request in requests {
            request.execute();
        }
    }
}

/// A request among others, and how it ended.
pub struct Lane<'a> {
    /// The session it is for.
    pub session: &'a dyn Session,
    /// What to do.
    pub operation: Operation<'a>,
    /// Where the result goes.
    pub output: &'a mut [u8],
    /// What [`Session::execute`] would return.
    pub outcome: Result<usize, Status>,
}

impl Lane<'_> {
    /// Executes it alone.
    pub fn execute(&mut self) {
        self.outcome = self.session.execute(&self.operation, self.output);
    }
}

/// Shows what is asked for, never of what.
impl fmt::Debug for Lane<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("output_len", &self.output.len())
            .field("outcome", &self.outcome)
            .finish_non_exhaustive()
    }
}

/// A key with the algorithm it is for. Several threads may use it at once.
pub trait Session: Any + Send + Sync {
    /// The card has given the session this ID.
    fn opened(&self, session_id: u64) {
        let _ = session_id;
    }

    /// Executes one request: writes the result to the start of `output`, and returns its length.
    ///
    /// # Errors
    ///
    /// The status to answer with. `output` may hold anything then; it is not released.
    fn execute(&self, operation: &Operation<'_>, output: &mut [u8]) -> Result<usize, Status>;
}

/// Algorithms offered, as the masks of the device configuration (virtio 1.3 §5.9.5 "Device
/// configuration layout"): bit N is algorithm number N of [`card_spec::crypto`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Offer {
    /// Of [`card_spec::crypto::cipher`].
    pub ciphers: u64,
    /// Of [`card_spec::crypto::hash`].
    pub hashes: u32,
    /// Of [`card_spec::crypto::mac`].
    pub macs: u64,
    /// Of [`card_spec::crypto::aead`].
    pub aeads: u32,
    /// Of [`card_spec::crypto::akcipher`].
    pub akciphers: u32,
    /// Longest cipher or AEAD key, in bytes.
    pub cipher_key_len_max: u32,
    /// Longest MAC key, in bytes.
    pub auth_key_len_max: u32,
}

/// What a session is for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum SessionSpec {
    /// A symmetric cipher.
    Cipher {
        /// Which.
        cipher: Cipher,
        /// Which way.
        direction: Direction,
    },
    /// A hash.
    Hash {
        /// Which.
        hash: Hash,
        /// Length of the result, in bytes.
        result_len: u32,
    },
    /// HMAC.
    Mac {
        /// With which hash.
        hash: Hash,
        /// Length of the result, in bytes.
        result_len: u32,
    },
    /// AES-GCM.
    AesGcm {
        /// Which way.
        direction: Direction,
        /// Length of the tag, in bytes.
        tag_len: u32,
    },
    /// RSA.
    Rsa {
        /// Which half of the key.
        key: KeyType,
        /// Which padding the card adds and removes.
        padding: RsaPadding,
    },
    /// ECDSA.
    Ecdsa {
        /// Which half of the key.
        key: KeyType,
        /// On which curve.
        curve: Curve,
    },
}

/// One request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Operation<'a> {
    /// Encrypts or decrypts with a cipher.
    Cipher {
        /// Which way.
        direction: Direction,
        /// Initialization vector, or initial counter block.
        iv: &'a [u8],
        /// What to transform.
        source: &'a [u8],
    },
    /// Hashes.
    Hash {
        /// What to hash.
        source: &'a [u8],
    },
    /// Authenticates.
    Mac {
        /// What to authenticate.
        source: &'a [u8],
    },
    /// Encrypts and authenticates, or decrypts and checks.
    Aead {
        /// Which way.
        direction: Direction,
        /// Nonce.
        nonce: &'a [u8],
        /// Additional authenticated data.
        aad: &'a [u8],
        /// Plaintext; or ciphertext and behind it the tag.
        source: &'a [u8],
    },
    /// Asymmetric encryption, which takes the public key.
    Encrypt {
        /// What to encrypt.
        source: &'a [u8],
    },
    /// Asymmetric decryption, which takes the private key. Without padding this is the bare
    /// private operation, and so a signature as well.
    Decrypt {
        /// What to decrypt.
        source: &'a [u8],
    },
    /// Signs.
    Sign {
        /// The digest to sign.
        digest: &'a [u8],
    },
    /// Verifies; the result is the status alone.
    Verify {
        /// The signature.
        signature: &'a [u8],
        /// The digest it is said to sign.
        digest: &'a [u8],
    },
}

/// Symmetric ciphers.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Cipher {
    /// AES, electronic codebook.
    AesEcb,
    /// AES, cipher block chaining.
    AesCbc,
    /// AES, counter mode.
    AesCtr,
}

/// Which way a cipher works.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Direction {
    /// To ciphertext.
    Encrypt,
    /// To plaintext.
    Decrypt,
}

/// Hashes.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Hash {
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// Halves of an asymmetric key.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum KeyType {
    /// The public key.
    Public,
    /// The private key.
    Private,
}

/// What the card does around the bare RSA operation.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum RsaPadding {
    /// Nothing.
    Raw,
    /// PKCS #1 v1.5.
    Pkcs1 {
        /// The hash whose DigestInfo prefix signatures take; none for bare digests.
        hash: Option<RsaHash>,
    },
}

/// Hashes a PKCS #1 signature can name.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum RsaHash {
    /// MD5.
    Md5,
    /// SHA-1.
    Sha1,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// Elliptic curves.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Curve {
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
}
