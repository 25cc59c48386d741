//! RSA: the bare operations, and PKCS #1 v1.5 around them (RFC 8017).
//!
//! The private operation goes through the Chinese remainder theorem. It is not blinded, and what
//! a session keeps of its key is not erased with it: a simulator's keys are test keys. Built on the big integers that the `rsa` crate is built on rather than on
//! that crate, because a card takes keys that it refuses (512 bits, in Linux's self-tests), and
//! because it sets up both primes anew for each operation.

use super::der::{self, RsaCrt};
use card_device::engine::{KeyType, Operation, RsaHash, RsaPadding, Session};
use card_spec::crypto::Status;
use crypto_bigint::modular::{BoxedMontyForm, BoxedMontyParams};
use crypto_bigint::{BoxedUint, ConcatenatingMul, NonZero, Odd, Resize};

/// Longest modulus, in bytes: 8192 bits, which takes a card tens of milliseconds.
const MODULUS_LEN_MAX: usize = 1024;
/// Shortest modulus, in bytes: 512 bits, of Linux's self-tests.
const MODULUS_LEN_MIN: usize = 64;
/// Bytes that PKCS #1 v1.5 padding takes at least (RFC 8017 §7.2.1 "Encryption Operation").
const PADDING_LEN_MIN: usize = 11;

/// An RSA key with the padding to apply.
pub(super) struct Rsa {
    public: PublicKey,
    private: Option<PrivateKey>,
    padding: RsaPadding,
}

struct PublicKey {
    modulus: BoxedMontyParams,
    exponent: BoxedUint,
    /// Length of the modulus, and of everything that goes in and out, in bytes.
    len: usize,
}

enum PrivateKey {
    /// Only the exponent is known.
    Plain(BoxedUint),
    /// The primes are known as well, which is three times as fast.
    Crt {
        primes: [Prime; 2],
        /// Inverse of the second prime modulo the first.
        coefficient: BoxedMontyForm,
    },
}

struct Prime {
    modulus: BoxedMontyParams,
    exponent: BoxedUint,
}

impl Rsa {
    pub(super) fn open(key_type: KeyType, padding: RsaPadding, der: &[u8]) -> Result<Self, Status> {
        let rsa = match key_type {
            KeyType::Public => Self::public(padding, der),
            KeyType::Private => Self::private(padding, der),
        };
        rsa.ok_or(Status::ERR)
    }

    fn public(padding: RsaPadding, der: &[u8]) -> Option<Self> {
        Some(Self {
            public: PublicKey::new(&der::rsa_public_key(der)?)?,
            private: None,
            padding,
        })
    }

    fn private(padding: RsaPadding, der: &[u8]) -> Option<Self> {
        let key = der::rsa_private_key(der)?;
        let public = PublicKey::new(&key.public)?;
        let private = match &key.crt {
            Some(crt) => PrivateKey::with_crt(crt, &public)?,
            None => PrivateKey::Plain(number(key.private_exponent)),
        };
        let rsa = Self {
            public,
            private: Some(private),
            padding,
        };
        rsa.is_consistent().then_some(rsa)
    }

    /// Whether the private half undoes the public half, tried on one number.
    fn is_consistent(&self) -> bool {
        let mut message = vec![0; self.public.len];
        message[1..].fill(0x5a);
        let Some(encrypted) = self.public.apply(&message) else {
            return false;
        };
        self.private_operation(&encrypted) == Ok(message)
    }

    /// The bare private operation (RFC 8017 §5.1.2 "RSADP"), on a whole block.
    fn private_operation(&self, input: &[u8]) -> Result<Vec<u8>, Status> {
        let private = self.private.as_ref().ok_or(Status::ERR)?;
        let input = self.public.representative(input).ok_or(Status::ERR)?;
        let output = private.apply(&self.public, &input).ok_or(Status::ERR)?;
        Ok(bytes(&output, self.public.len))
    }

    /// The bare public operation (RFC 8017 §5.1.1 "RSAEP"), on a whole block.
    fn public_operation(&self, input: &[u8]) -> Result<Vec<u8>, Status> {
        self.public.apply(input).ok_or(Status::ERR)
    }

    fn encrypt(&self, source: &[u8]) -> Result<Vec<u8>, Status> {
        match self.padding {
            RsaPadding::Raw => self.public_operation(source),
            RsaPadding::Pkcs1 { .. } => {
                self.public_operation(&pad_for_encryption(source, self.public.len)?)
            }
        }
    }

    fn decrypt(&self, source: &[u8]) -> Result<Vec<u8>, Status> {
        let block = self.private_operation(source)?;
        match self.padding {
            RsaPadding::Raw => Ok(block),
            RsaPadding::Pkcs1 { .. } => {
                Ok(unpad_after_decryption(&block).ok_or(Status::ERR)?.to_vec())
            }
        }
    }

    /// A raw session "MUST NOT be used for verification and signing" (virtio 1.3 §5.9.7.2.1
    /// "Session operation").
    fn signature_block(&self, digest: &[u8]) -> Result<Vec<u8>, Status> {
        match self.padding {
            RsaPadding::Raw => Err(Status::NOTSUPP),
            RsaPadding::Pkcs1 { hash } => {
                pad_for_signature(hash, digest, self.public.len).ok_or(Status::ERR)
            }
        }
    }

    fn verify(&self, signature: &[u8], digest: &[u8]) -> Result<(), Status> {
        let expected = self.signature_block(digest)?;
        if signature.len() == self.public.len
            && self
                .public
                .apply(signature)
                .is_some_and(|block| block == expected)
        {
            return Ok(());
        }
        Err(Status::KEY_REJECTED)
    }
}

impl Session for Rsa {
    fn execute(&self, operation: &Operation<'_>, output: &mut [u8]) -> Result<usize, Status> {
        let result = match operation {
            Operation::Encrypt { source } => self.encrypt(source)?,
            Operation::Decrypt { source } => self.decrypt(source)?,
            Operation::Sign { digest } => self.private_operation(&self.signature_block(digest)?)?,
            Operation::Verify { signature, digest } => {
                return self.verify(signature, digest).map(|()| 0);
            }
            _ => return Err(Status::NOTSUPP),
        };
        super::deliver(&result, output)
    }
}

impl PublicKey {
    fn new(key: &der::RsaPublicKey<'_>) -> Option<Self> {
        let len = key.modulus.len();
        if !(MODULUS_LEN_MIN..=MODULUS_LEN_MAX).contains(&len) || key.public_exponent.len() > len {
            return None;
        }
        let exponent = number(key.public_exponent);
        let usable = bool::from(exponent.to_odd().is_some()) && key.public_exponent != [1];
        Some(Self {
            modulus: montgomery(key.modulus).filter(|_| usable)?,
            exponent,
            len,
        })
    }

    /// Reads a number below the modulus.
    fn representative(&self, input: &[u8]) -> Option<BoxedUint> {
        let zeros = input.iter().take_while(|&&byte| byte == 0).count();
        let input = &input[zeros..];
        if input.len() > self.len {
            return None;
        }
        let value = BoxedUint::from_be_slice(input, self.modulus.bits_precision()).ok()?;
        (value < *self.modulus.modulus().as_ref()).then_some(value)
    }

    fn apply(&self, input: &[u8]) -> Option<Vec<u8>> {
        let base = BoxedMontyForm::new(self.representative(input)?, &self.modulus);
        let output = base.pow_bounded_exp(&self.exponent, self.exponent.bits());
        Some(bytes(&output.retrieve(), self.len))
    }
}

impl PrivateKey {
    fn with_crt(crt: &RsaCrt<'_>, public: &PublicKey) -> Option<Self> {
        let prime = |index: usize| {
            let len_max = public.len;
            let plausible =
                crt.primes[index].len() < len_max && crt.exponents[index].len() < len_max;
            Some(Prime {
                modulus: montgomery(crt.primes[index]).filter(|_| plausible)?,
                exponent: number(crt.exponents[index]),
            })
        };
        let primes = [prime(0)?, prime(1)?];
        let coefficient = primes[0].reduce(&number(crt.coefficient));
        Some(Self::Crt {
            primes,
            coefficient,
        })
    }

    fn apply(&self, public: &PublicKey, input: &BoxedUint) -> Option<BoxedUint> {
        match self {
            Self::Plain(exponent) => {
                let base = BoxedMontyForm::new(input.clone(), &public.modulus);
                Some(base.pow(exponent).retrieve())
            }
            Self::Crt {
                primes: [first, second],
                coefficient,
            } => {
                // RFC 8017 §5.1.2 "RSADP", step 2b.
                let m1 = first.reduce(input).pow(&first.exponent);
                let m2 = second.reduce(input).pow(&second.exponent).retrieve();
                let h = (&(&m1 - &first.reduce(&m2)) * coefficient).retrieve();
                let product = h.concatenating_mul(second.modulus.modulus().as_ref());
                let precision = public.modulus.bits_precision();
                let product = product.try_resize(precision)?;
                Some(product.wrapping_add(&m2.try_resize(precision)?))
            }
        }
    }
}

impl Prime {
    fn reduce(&self, value: &BoxedUint) -> BoxedMontyForm {
        let modulus: &NonZero<BoxedUint> = self.modulus.modulus().as_nz_ref();
        BoxedMontyForm::new(value.rem_vartime(modulus), &self.modulus)
    }
}

fn montgomery(modulus: &[u8]) -> Option<BoxedMontyParams> {
    let modulus: Option<Odd<BoxedUint>> = number(modulus).into_odd().into();
    modulus.map(BoxedMontyParams::new_vartime)
}

fn number(big_endian: &[u8]) -> BoxedUint {
    BoxedUint::from_be_slice_vartime(big_endian)
}

/// The number in exactly `len` bytes, which it is known to fit.
fn bytes(value: &BoxedUint, len: usize) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    match bytes.len().checked_sub(len) {
        Some(surplus) => bytes[surplus..].to_vec(),
        None => [vec![0; len - bytes.len()], bytes.to_vec()].concat(),
    }
}

/// `EME-PKCS1-v1_5` (RFC 8017 §7.2.1 "Encryption Operation").
fn pad_for_encryption(message: &[u8], len: usize) -> Result<Vec<u8>, Status> {
    if message.len() + PADDING_LEN_MIN > len {
        return Err(Status::ERR);
    }
    let mut block = vec![0; len];
    block[1] = 2;
    let padding_end = len - message.len() - 1;
    for byte in &mut block[2..padding_end] {
        while *byte == 0 {
            getrandom::fill(std::slice::from_mut(byte)).map_err(|_| Status::ERR)?;
        }
    }
    block[padding_end + 1..].copy_from_slice(message);
    Ok(block)
}

fn unpad_after_decryption(block: &[u8]) -> Option<&[u8]> {
    let padded = block.strip_prefix(&[0, 2])?;
    let end = padded.iter().position(|&byte| byte == 0)?;
    (end + 3 >= PADDING_LEN_MIN).then(|| &padded[end + 1..])
}

/// `EMSA-PKCS1-v1_5` (RFC 8017 §9.2 "EMSA-PKCS1-v1_5"), of a digest that is there already.
pub(super) fn pad_for_signature(
    hash: Option<RsaHash>,
    digest: &[u8],
    len: usize,
) -> Option<Vec<u8>> {
    let prefix = hash.map_or(&[][..], digest_info_prefix);
    let fits = hash.is_none_or(|hash| digest.len() == digest_len(hash));
    let content_len = prefix.len() + digest.len();
    if !fits || content_len + PADDING_LEN_MIN > len {
        return None;
    }
    let mut block = vec![0xff; len];
    block[0] = 0;
    block[1] = 1;
    let content = len - content_len;
    block[content - 1] = 0;
    block[content..content + prefix.len()].copy_from_slice(prefix);
    block[content + prefix.len()..].copy_from_slice(digest);
    Some(block)
}

const fn digest_len(hash: RsaHash) -> usize {
    match hash {
        RsaHash::Md5 => 16,
        RsaHash::Sha1 => 20,
        RsaHash::Sha224 => 28,
        RsaHash::Sha256 => 32,
        RsaHash::Sha384 => 48,
        RsaHash::Sha512 => 64,
    }
}

/// DER of `DigestInfo` up to the digest (RFC 8017 §9.2 "EMSA-PKCS1-v1_5", note 1).
const fn digest_info_prefix(hash: RsaHash) -> &'static [u8] {
    match hash {
        RsaHash::Md5 => b"\x30\x20\x30\x0c\x06\x08\x2a\x86\x48\x86\xf7\x0d\x02\x05\x05\x00\x04\x10",
        RsaHash::Sha1 => b"\x30\x21\x30\x09\x06\x05\x2b\x0e\x03\x02\x1a\x05\x00\x04\x14",
        RsaHash::Sha224 => {
            b"\x30\x2d\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x04\x05\x00\x04\x1c"
        }
        RsaHash::Sha256 => {
            b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20"
        }
        RsaHash::Sha384 => {
            b"\x30\x41\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x02\x05\x00\x04\x30"
        }
        RsaHash::Sha512 => {
            b"\x30\x51\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x03\x05\x00\x04\x40"
        }
    }
}
