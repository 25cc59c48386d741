//! Known-answer tests: one for each algorithm, small enough to run any time.
//!
//! A card proves with them that it works: when it is tested by hand, when the router tries it
//! again after a failure, and on its owner's schedule. The answers come from elsewhere: published
//! vectors where there are any, OpenSSL 3.0 for deterministic signatures; signatures that differ
//! each time are verified instead. The keys are for these tests only and protect nothing.

use crate::accelerator::{Algorithm, Direction, Operation, Secret, Unverified};
use crate::key::{AeadKey, CipherKey, Curve, HashAlgorithm, MacKey, SignatureScheme, SigningKey};
use crate::router::verify;
use std::fmt;
use std::sync::{Arc, LazyLock};

/// One test.
#[derive(Clone, Copy)]
pub struct KnownAnswer {
    algorithm: Algorithm,
    source: &'static str,
    operation: fn() -> Operation,
    answer: Answer,
}

#[derive(Clone, Copy)]
enum Answer {
    Exactly(&'static [u8]),
    /// Differs each time, so whatever verifies is right.
    Verifies,
}

impl KnownAnswer {
    /// What is tested.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Where the answer comes from.
    #[must_use]
    pub const fn source(&self) -> &'static str {
        self.source
    }

    /// The operation to perform.
    #[must_use]
    pub fn operation(&self) -> Operation {
        (self.operation)()
    }

    /// The same operation, under a key that no accelerator has met: it has to open a session for it.
    /// Only signatures have such a form.
    #[must_use]
    pub fn operation_with_new_key(&self) -> Operation {
        match self.operation() {
            Operation::Sign {
                key,
                scheme,
                message,
            } => Operation::Sign {
                key: Arc::new(key.renumbered()),
                scheme,
                message,
            },
            other => other,
        }
    }

    /// The one right answer, if there is but one.
    pub(crate) const fn exact_answer(&self) -> Option<&'static [u8]> {
        match self.answer {
            Answer::Exactly(answer) => Some(answer),
            Answer::Verifies => None,
        }
    }

    /// Whether `answer` answers `operation`, which [`KnownAnswer::operation`] made.
    #[must_use]
    pub fn accepts(&self, operation: &Operation, answer: Unverified<Vec<u8>>) -> bool {
        match self.answer {
            Answer::Exactly(expected) => answer.0 == expected,
            Answer::Verifies => verify::check(operation, answer).is_ok(),
        }
    }
}

impl fmt::Debug for KnownAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KnownAnswer({})", self.algorithm)
    }
}

/// Returns the tests of `algorithm`.
pub fn of(algorithm: Algorithm) -> impl Iterator<Item = &'static KnownAnswer> {
    ALL.iter().filter(move |test| test.algorithm == algorithm)
}

/// Every test, in the order reports list them.
pub static ALL: [KnownAnswer; 18] = [
    pkcs1(
        SignatureScheme::RsaPkcs1Sha256,
        || sign(rsa_2048_key(), SignatureScheme::RsaPkcs1Sha256),
        include_bytes!("kat/rsa-pkcs1-sha256.sig"),
    ),
    pkcs1(
        SignatureScheme::RsaPkcs1Sha384,
        || sign(rsa_2048_key(), SignatureScheme::RsaPkcs1Sha384),
        include_bytes!("kat/rsa-pkcs1-sha384.sig"),
    ),
    pkcs1(
        SignatureScheme::RsaPkcs1Sha512,
        || sign(rsa_2048_key(), SignatureScheme::RsaPkcs1Sha512),
        include_bytes!("kat/rsa-pkcs1-sha512.sig"),
    ),
    verified(SignatureScheme::RsaPssSha256, || {
        sign(rsa_2048_key(), SignatureScheme::RsaPssSha256)
    }),
    verified(SignatureScheme::RsaPssSha384, || {
        sign(rsa_2048_key(), SignatureScheme::RsaPssSha384)
    }),
    verified(SignatureScheme::RsaPssSha512, || {
        sign(rsa_2048_key(), SignatureScheme::RsaPssSha512)
    }),
    verified(SignatureScheme::EcdsaP256Sha256, || {
        sign(p256_key(), SignatureScheme::EcdsaP256Sha256)
    }),
    verified(SignatureScheme::EcdsaP384Sha384, || {
        sign(p384_key(), SignatureScheme::EcdsaP384Sha384)
    }),
    KnownAnswer {
        algorithm: Algorithm::AesGcm,
        source: "McGrew and Viega, \"The Galois/Counter Mode of Operation\", test case 16",
        operation: || Operation::Seal {
            key: Arc::new(AeadKey::new(&GCM_KEY).expect("32 bytes are an AES-256 key")),
            nonce: GCM_NONCE,
            aad: GCM_AAD.to_vec(),
            plaintext: Secret::from(&GCM_PLAINTEXT[..]),
        },
        answer: Answer::Exactly(&GCM_SEALED),
    },
    KnownAnswer {
        algorithm: Algorithm::AesGcm,
        source: "the same, decrypted",
        operation: || Operation::Open {
            key: Arc::new(AeadKey::new(&GCM_KEY).expect("32 bytes are an AES-256 key")),
            nonce: GCM_NONCE,
            aad: GCM_AAD.to_vec(),
            sealed: GCM_SEALED.to_vec(),
        },
        answer: Answer::Exactly(&GCM_PLAINTEXT),
    },
    KnownAnswer {
        algorithm: Algorithm::AesCbc,
        source: "NIST SP 800-38A §F.2.5 \"CBC-AES256.Encrypt\"",
        operation: || cbc(Direction::Encrypt, &CBC_PLAINTEXT),
        answer: Answer::Exactly(&CBC_CIPHERTEXT),
    },
    KnownAnswer {
        algorithm: Algorithm::AesCbc,
        source: "NIST SP 800-38A §F.2.6 \"CBC-AES256.Decrypt\"",
        operation: || cbc(Direction::Decrypt, &CBC_CIPHERTEXT),
        answer: Answer::Exactly(&CBC_PLAINTEXT),
    },
    KnownAnswer {
        algorithm: Algorithm::Digest(HashAlgorithm::Sha256),
        source: FIPS_180,
        operation: || digest(HashAlgorithm::Sha256),
        answer: Answer::Exactly(&hex::<32>(
            b"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        )),
    },
    KnownAnswer {
        algorithm: Algorithm::Digest(HashAlgorithm::Sha384),
        source: FIPS_180,
        operation: || digest(HashAlgorithm::Sha384),
        answer: Answer::Exactly(&hex::<48>(
            b"cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
        )),
    },
    KnownAnswer {
        algorithm: Algorithm::Digest(HashAlgorithm::Sha512),
        source: FIPS_180,
        operation: || digest(HashAlgorithm::Sha512),
        answer: Answer::Exactly(&hex::<64>(
            b"ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        )),
    },
    KnownAnswer {
        algorithm: Algorithm::Hmac(HashAlgorithm::Sha256),
        source: RFC_4231,
        operation: || mac(HashAlgorithm::Sha256),
        answer: Answer::Exactly(&hex::<32>(
            b"5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        )),
    },
    KnownAnswer {
        algorithm: Algorithm::Hmac(HashAlgorithm::Sha384),
        source: RFC_4231,
        operation: || mac(HashAlgorithm::Sha384),
        answer: Answer::Exactly(&hex::<48>(
            b"af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
        )),
    },
    KnownAnswer {
        algorithm: Algorithm::Hmac(HashAlgorithm::Sha512),
        source: RFC_4231,
        operation: || mac(HashAlgorithm::Sha512),
        answer: Answer::Exactly(&hex::<64>(
            b"164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
        )),
    },
];

const FIPS_180: &str = "FIPS 180 examples, \"abc\"";
const RFC_4231: &str = "RFC 4231 §4.3 \"Test Case 2\"";
const MESSAGE: &[u8] = b"hwshim known-answer test";

const GCM_KEY: [u8; 32] = hex(b"feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308");
const GCM_NONCE: [u8; 12] = hex(b"cafebabefacedbaddecaf888");
const GCM_AAD: [u8; 20] = hex(b"feedfacedeadbeeffeedfacedeadbeefabaddad2");
const GCM_PLAINTEXT: [u8; 60] = hex(
    b"d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
);
const GCM_SEALED: [u8; 76] = hex(
    b"522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f66276fc6ece0f4e1768cddf8853bb2d551b",
);

const CBC_KEY: [u8; 32] = hex(b"603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4");
const CBC_IV: [u8; 16] = hex(b"000102030405060708090a0b0c0d0e0f");
const CBC_PLAINTEXT: [u8; 64] = hex(
    b"6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710",
);
const CBC_CIPHERTEXT: [u8; 64] = hex(
    b"f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d39f23369a9d9bacfa530e26304231461b2eb05e2c39be9fcda6c19078c6a9d1b",
);

const fn pkcs1(
    scheme: SignatureScheme,
    operation: fn() -> Operation,
    answer: &'static [u8],
) -> KnownAnswer {
    KnownAnswer {
        algorithm: Algorithm::Sign(scheme),
        source: "OpenSSL 3.0",
        operation,
        answer: Answer::Exactly(answer),
    }
}

const fn verified(scheme: SignatureScheme, operation: fn() -> Operation) -> KnownAnswer {
    KnownAnswer {
        algorithm: Algorithm::Sign(scheme),
        source: "verified with the public key",
        operation,
        answer: Answer::Verifies,
    }
}

fn sign(key: Arc<SigningKey>, scheme: SignatureScheme) -> Operation {
    Operation::Sign {
        key,
        scheme,
        message: Secret::from(MESSAGE),
    }
}

fn cbc(direction: Direction, data: &[u8]) -> Operation {
    Operation::Cbc {
        key: Arc::new(CipherKey::new(&CBC_KEY).expect("32 bytes are an AES-256 key")),
        direction,
        iv: CBC_IV,
        data: Secret::from(data),
    }
}

fn digest(hash: HashAlgorithm) -> Operation {
    Operation::Digest {
        hash,
        message: Secret::from(&b"abc"[..]),
    }
}

fn mac(hash: HashAlgorithm) -> Operation {
    Operation::Mac {
        key: Arc::new(MacKey::new(hash, b"Jefe")),
        message: Secret::from(&b"what do ya want for nothing?"[..]),
    }
}

/// The RSA-2048 test key.
#[must_use]
pub fn rsa_2048_key() -> Arc<SigningKey> {
    static KEY: LazyLock<Arc<SigningKey>> =
        LazyLock::new(|| rsa(include_bytes!("kat/rsa-2048.pkcs1.der")));
    Arc::clone(&KEY)
}

/// The RSA-3072 test key.
#[must_use]
pub fn rsa_3072_key() -> Arc<SigningKey> {
    static KEY: LazyLock<Arc<SigningKey>> =
        LazyLock::new(|| rsa(include_bytes!("kat/rsa-3072.pkcs1.der")));
    Arc::clone(&KEY)
}

/// The RSA-4096 test key.
#[must_use]
pub fn rsa_4096_key() -> Arc<SigningKey> {
    static KEY: LazyLock<Arc<SigningKey>> =
        LazyLock::new(|| rsa(include_bytes!("kat/rsa-4096.pkcs1.der")));
    Arc::clone(&KEY)
}

/// The P-256 test key.
#[must_use]
pub fn p256_key() -> Arc<SigningKey> {
    static KEY: LazyLock<Arc<SigningKey>> =
        LazyLock::new(|| ecdsa(Curve::P256, include_bytes!("kat/p256.sec1.der")));
    Arc::clone(&KEY)
}

/// The P-384 test key.
#[must_use]
pub fn p384_key() -> Arc<SigningKey> {
    static KEY: LazyLock<Arc<SigningKey>> =
        LazyLock::new(|| ecdsa(Curve::P384, include_bytes!("kat/p384.sec1.der")));
    Arc::clone(&KEY)
}

fn rsa(der: &[u8]) -> Arc<SigningKey> {
    Arc::new(SigningKey::from_pkcs1(der).expect("the test key is well formed"))
}

fn ecdsa(curve: Curve, der: &[u8]) -> Arc<SigningKey> {
    Arc::new(SigningKey::from_sec1(curve, der).expect("the test key is well formed"))
}

const fn hex<const LEN: usize>(digits: &[u8]) -> [u8; LEN] {
    assert!(digits.len() == 2 * LEN);
    let mut bytes = [0; LEN];
    let mut index = 0;
    while index < LEN {
        bytes[index] = nibble(digits[2 * index]) << 4 | nibble(digits[2 * index + 1]);
        index += 1;
    }
    bytes
}

const fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => panic!("not a hexadecimal digit"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_algorithm_has_a_known_answer() {
        for algorithm in Algorithm::all() {
            assert!(of(algorithm).next().is_some(), "{algorithm}");
        }
    }

    #[test]
    fn a_new_key_is_another_to_a_card_and_has_the_same_answers() {
        let key_of = |operation: &Operation| match operation {
            Operation::Sign { key, .. } => Some(key.id()),
            _ => None,
        };
        for test in &ALL {
            let operation = test.operation_with_new_key();
            let (new, usual) = (key_of(&operation), key_of(&test.operation()));
            assert!(new.is_none() || new != usual, "{test:?}");
            let output = crate::accelerator::software::perform(&operation).unwrap();
            assert!(test.accepts(&operation, Unverified(output)), "{test:?}");
        }
    }

    #[test]
    fn a_wrong_answer_is_not_accepted() {
        for test in &ALL {
            let operation = test.operation();
            let mut output = crate::accelerator::software::perform(&operation).unwrap();
            output[5] ^= 0x10;
            assert!(!test.accepts(&operation, Unverified(output)), "{test:?}");
        }
    }
}
