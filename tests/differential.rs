//! Three implementations, one answer: the simulated card (RustCrypto), software (ring) and
//! AWS-LC, on random keys and messages.
//!
//! What is deterministic must be equal to the byte; what is not (PSS, ECDSA) must be accepted by
//! the others; what was damaged must be refused by all. A disagreement does not say who is wrong,
//! and two of the three agreeing usually does.
//!
//! Every case has a seed of its own, and a failure prints the command that runs it again. A
//! campaign takes more of them, or others:
//!
//! ```text
//! HWSHIM_CASES=100000 HWSHIM_SEED=1000 cargo test --release --test differential
//! ```

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that cannot be set up has failed, and says how to run it again"
)]

#[path = "differential/aws_lc.rs"]
mod aws_lc;
mod common;
#[path = "differential/der.rs"]
mod der;
#[path = "differential/draw.rs"]
mod draw;
#[path = "differential/keys.rs"]
mod keys;
#[path = "common/subject.rs"]
mod subject;

use draw::{Draw, for_each_seed};
use hwshim::accelerator::software::{self, OperationError, TAG_LEN};
use hwshim::accelerator::{
    Algorithm, Completion, DeviceError, Direction, Operation, RejectReason, Request, RequestId,
    Secret,
};
use hwshim::clock::{Clock, Instant, SystemClock};
use hwshim::key::{
    AeadKey, CipherKey, Curve, HashAlgorithm, MacKey, SignatureAlgorithm, SignatureScheme,
};
use hwshim::router::verify;
use hwshim::spec::crypto::Status;
use keys::{Keys, RSA_BITS};
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use subject::{Patience, Subject, on_every_accelerator, on_multi_buffer};

/// Longest HMAC key and additional data, in bytes: a few blocks of any hash or cipher.
const BLOCKS_LEN_MAX: usize = 300;
/// Messages that each case signs by each scheme.
const MESSAGES: usize = 2;
/// Ways in which each signature is damaged.
const DAMAGES: usize = 40;

on_every_accelerator!(
    every_algorithm_in_flight_at_once_gets_the_answers_of_the_others,
    digests_macs_and_ciphers_are_equal_to_the_byte,
    what_was_damaged_is_opened_by_none,
    rsa_signatures_are_equal_or_accepted_by_the_others,
    ecdsa_signatures_are_accepted_by_the_others_and_repeat_no_nonce,
);

on_multi_buffer!(
    rsa_signatures_are_equal_or_accepted_by_the_others,
    ecdsa_signatures_are_accepted_by_the_others_and_repeat_no_nonce,
);

/// One thing to ask, and what AWS-LC says to it.
struct Case {
    operation: Operation,
    expected: Expected,
}

enum Expected {
    /// These bytes and no others.
    Bytes(Vec<u8>),
    /// That the tag is wrong.
    BadTag,
    /// A signature of this key, another one each time.
    SignatureBy(Rc<Keys>),
}

fn every_algorithm_in_flight_at_once_gets_the_answers_of_the_others(mut subject: Subject) {
    let test = "every_algorithm_in_flight_at_once";
    for_each_seed(test, 10, |draw| {
        let rsa = Rc::new(Keys::rsa(draw, 2048));
        let ecdsa = [Curve::P256, Curve::P384].map(|curve| Rc::new(Keys::ecdsa(draw, curve)));
        let mut cases: Vec<_> = Algorithm::all()
            .flat_map(|algorithm| [algorithm; 4])
            .map(|algorithm| match algorithm {
                Algorithm::Sign(scheme) => {
                    let keys = match scheme.algorithm() {
                        SignatureAlgorithm::Ecdsa(Curve::P256) => &ecdsa[0],
                        SignatureAlgorithm::Ecdsa(Curve::P384) => &ecdsa[1],
                        SignatureAlgorithm::RsaPkcs1 | SignatureAlgorithm::RsaPss => &rsa,
                    };
                    signature_case(draw, keys, scheme)
                }
                _ => symmetric_case(draw, algorithm),
            })
            .collect();
        draw.rng.shuffle(&mut cases);
        assert_agreement(&mut subject, cases);
    });
}

fn digests_macs_and_ciphers_are_equal_to_the_byte(mut subject: Subject) {
    let test = "digests_macs_and_ciphers_are_equal_to_the_byte";
    for_each_seed(test, 200, |draw| {
        let mut cases: Vec<_> = Algorithm::all()
            .filter(|algorithm| !matches!(algorithm, Algorithm::Sign(_)))
            .flat_map(|algorithm| [algorithm; 4])
            .map(|algorithm| symmetric_case(draw, algorithm))
            .collect();
        draw.rng.shuffle(&mut cases);
        assert_agreement(&mut subject, cases);
    });
}

fn what_was_damaged_is_opened_by_none(mut subject: Subject) {
    let test = "what_was_damaged_is_opened_by_none";
    for_each_seed(test, 500, |draw| {
        let Case {
            operation,
            expected,
        } = damaged_case(draw);
        let completion = subject.perform(operation);
        assert_agrees(&expected, completion);
    });
}

fn rsa_signatures_are_equal_or_accepted_by_the_others(mut subject: Subject) {
    let test = "rsa_signatures_are_equal_or_accepted_by_the_others";
    for_each_seed(test, 20, |draw| {
        let bits = draw.pick(&RSA_BITS);
        let keys = Rc::new(Keys::rsa(draw, bits));
        let cases = signature_cases(draw, &keys);
        assert_eq!(cases.len(), 6 * MESSAGES);
        assert_agreement(&mut subject, cases);
    });
}

fn ecdsa_signatures_are_accepted_by_the_others_and_repeat_no_nonce(mut subject: Subject) {
    let test = "ecdsa_signatures_are_accepted_by_the_others";
    for_each_seed(test, 60, |draw| {
        let curve = draw.pick(&[Curve::P256, Curve::P384]);
        let keys = Rc::new(Keys::ecdsa(draw, curve));
        let cases = signature_cases(draw, &keys);
        assert_eq!(cases.len(), MESSAGES);
        let released = assert_agreement(&mut subject, cases);
        let nonces: HashSet<_> = released
            .iter()
            .map(|signature| {
                let [r, s] = der::two_integers(signature);
                assert_eq!(*signature, der::signature(&r, &s), "not DER");
                r.to_be_bytes()
            })
            .collect();
        assert_eq!(nonces.len(), MESSAGES);
    });
}

#[test]
fn damaged_signatures_get_the_same_verdict_from_all() {
    let test = "damaged_signatures_get_the_same_verdict_from_all";
    for_each_seed(test, 60, |draw| {
        let scheme = draw.pick(&SignatureScheme::ALL);
        let keys = match scheme.algorithm() {
            SignatureAlgorithm::Ecdsa(curve) => Keys::ecdsa(draw, curve),
            SignatureAlgorithm::RsaPkcs1 | SignatureAlgorithm::RsaPss => {
                let bits = draw.pick(&RSA_BITS[..2]);
                Keys::rsa(draw, bits)
            }
        };
        let message = draw.message();
        let signature = keys.aws_lc.sign(scheme, &message);
        assert!(keys.accept(scheme, &message, &signature));
        let other_message = draw.damaged(&message);
        assert!(!keys.accept(scheme, &other_message, &signature));
        for _ in 0..DAMAGES {
            let damaged = match scheme.algorithm() {
                SignatureAlgorithm::Ecdsa(_) => draw.damaged_ecdsa(&signature, &keys.order),
                _ => draw.damaged_rsa(&signature, &keys.order),
            };
            if keys.accept(scheme, &message, &damaged) {
                assert!(is_mirrored(&keys, &signature, &damaged), "{damaged:02x?}");
            }
        }
    });
}

/// Whether one ECDSA signature is the other with `order - s` for `s`, which is as valid.
fn is_mirrored(keys: &Keys, signature: &[u8], other: &[u8]) -> bool {
    let [r, s] = der::two_integers(signature);
    other == der::signature(&r, &(&keys.order - &s))
}

fn signature_cases(draw: &mut Draw, keys: &Rc<Keys>) -> Vec<Case> {
    let mut cases: Vec<_> = SignatureScheme::ALL
        .into_iter()
        .filter(|scheme| keys.ours.supports(*scheme))
        .flat_map(|scheme| [scheme; MESSAGES])
        .map(|scheme| signature_case(draw, keys, scheme))
        .collect();
    draw.rng.shuffle(&mut cases);
    cases
}

fn signature_case(draw: &mut Draw, keys: &Rc<Keys>, scheme: SignatureScheme) -> Case {
    let message = draw.message();
    let expected = match scheme.algorithm() {
        SignatureAlgorithm::RsaPkcs1 => Expected::Bytes(keys.aws_lc.sign(scheme, &message)),
        SignatureAlgorithm::RsaPss | SignatureAlgorithm::Ecdsa(_) => {
            Expected::SignatureBy(Rc::clone(keys))
        }
    };
    let operation = keys.sign_operation(scheme, &message);
    Case {
        operation,
        expected,
    }
}

fn symmetric_case(draw: &mut Draw, algorithm: Algorithm) -> Case {
    match algorithm {
        Algorithm::Sign(scheme) => panic!("{} takes a key pair", scheme.name()),
        Algorithm::AesGcm if draw.rng.bool() => seal_case(draw),
        Algorithm::AesGcm => open_case(draw),
        Algorithm::AesCbc => cbc_case(draw),
        Algorithm::Digest(hash) => digest_case(draw, hash),
        Algorithm::Hmac(hash) => mac_case(draw, hash),
    }
}

fn seal_case(draw: &mut Draw) -> Case {
    let Gcm {
        key,
        nonce,
        aad,
        plaintext,
        sealed,
    } = Gcm::draw(draw);
    Case {
        operation: Operation::Seal {
            key: Arc::new(AeadKey::new(&key).unwrap()),
            nonce,
            aad,
            plaintext: Secret::from(plaintext),
        },
        expected: Expected::Bytes(sealed),
    }
}

fn open_case(draw: &mut Draw) -> Case {
    let gcm = Gcm::draw(draw);
    gcm.open(&gcm.sealed)
}

/// Ciphertext, tag, nonce, additional data or key are not those of the rest.
fn damaged_case(draw: &mut Draw) -> Case {
    let mut gcm = Gcm::draw(draw);
    let mut sealed = gcm.sealed.clone();
    match draw.rng.u8(..8) {
        0 => gcm.nonce = draw.array(),
        1 => gcm.aad = draw.damaged(&gcm.aad),
        2 => gcm.key = draw.bytes(gcm.key.len()),
        3 => {
            let tag = sealed.split_off(sealed.len() - TAG_LEN);
            let tag = loop {
                let damaged = draw.damaged(&tag);
                if damaged.len() == TAG_LEN {
                    break damaged;
                }
            };
            sealed.extend(tag);
        }
        _ => {
            // Less than a tag is refused before it is given to anybody.
            sealed = loop {
                let damaged = draw.damaged(&sealed);
                if damaged.len() >= TAG_LEN {
                    break damaged;
                }
            };
        }
    }
    let case = gcm.open(&sealed);
    assert!(
        matches!(case.expected, Expected::BadTag),
        "AWS-LC opens what was damaged"
    );
    case
}

struct Gcm {
    key: Vec<u8>,
    nonce: [u8; 12],
    aad: Vec<u8>,
    plaintext: Vec<u8>,
    sealed: Vec<u8>,
}

impl Gcm {
    fn draw(draw: &mut Draw) -> Self {
        let key = aes_key(draw);
        let nonce = draw.array();
        let aad_len = draw.len(BLOCKS_LEN_MAX);
        let aad = draw.bytes(aad_len);
        let plaintext = draw.message();
        let sealed = aws_lc::seal(&key, nonce, &aad, &plaintext);
        Self {
            key,
            nonce,
            aad,
            plaintext,
            sealed,
        }
    }

    fn open(&self, sealed: &[u8]) -> Case {
        let opened = aws_lc::open(&self.key, self.nonce, &self.aad, sealed);
        Case {
            operation: Operation::Open {
                key: Arc::new(AeadKey::new(&self.key).unwrap()),
                nonce: self.nonce,
                aad: self.aad.clone(),
                sealed: sealed.to_vec(),
            },
            expected: opened.map_or(Expected::BadTag, Expected::Bytes),
        }
    }
}

fn cbc_case(draw: &mut Draw) -> Case {
    let key = aes_key(draw);
    let direction = draw.pick(&[Direction::Encrypt, Direction::Decrypt]);
    let iv = draw.array();
    let mut data = draw.message();
    data.truncate(data.len() / 16 * 16);
    let expected = aws_lc::cbc(&key, direction, iv, &data);
    Case {
        operation: Operation::Cbc {
            key: Arc::new(CipherKey::new(&key).unwrap()),
            direction,
            iv,
            data: Secret::from(data),
        },
        expected: Expected::Bytes(expected),
    }
}

fn aes_key(draw: &mut Draw) -> Vec<u8> {
    let len = draw.pick(&[16, 32]);
    draw.bytes(len)
}

fn digest_case(draw: &mut Draw, hash: HashAlgorithm) -> Case {
    let message = draw.message();
    let expected = aws_lc::digest(hash, &message);
    Case {
        operation: Operation::Digest {
            hash,
            message: Secret::from(message),
        },
        expected: Expected::Bytes(expected),
    }
}

fn mac_case(draw: &mut Draw, hash: HashAlgorithm) -> Case {
    let key_len = draw.len(BLOCKS_LEN_MAX);
    let key = draw.bytes(key_len);
    let message = draw.message();
    let expected = aws_lc::mac(hash, &key, &message);
    Case {
        operation: Operation::Mac {
            key: Arc::new(MacKey::new(hash, &key)),
            message: Secret::from(message),
        },
        expected: Expected::Bytes(expected),
    }
}

/// Performs all of `cases` together, and returns what is released.
fn assert_agreement(subject: &mut Subject, cases: Vec<Case>) -> Vec<Vec<u8>> {
    let (operations, expected): (Vec<_>, Vec<_>) = cases
        .into_iter()
        .map(|case| (case.operation, case.expected))
        .unzip();
    let completions = perform_all(subject, operations);
    expected
        .iter()
        .zip(completions)
        .filter_map(|(expected, completion)| assert_agrees(expected, completion))
        .collect()
}

/// Performs everything at once, and returns the completions in the order of `operations`.
fn perform_all(subject: &mut Subject, operations: Vec<Operation>) -> Vec<Completion> {
    let patience = Patience::new();
    let accelerator = &mut subject.accelerator;
    let mut completions = Vec::new();
    for (index, operation) in (0..).zip(operations) {
        let mut request = Request {
            id: RequestId {
                index,
                generation: !index,
            },
            operation: Arc::new(operation),
            deadline: Instant::NEVER,
        };
        while let Err(rejected) = accelerator.submit(request, SystemClock.now()) {
            assert_eq!(rejected.reason, RejectReason::Full);
            patience.assert_left(&**accelerator);
            accelerator.poll(SystemClock.now(), &mut completions);
            request = rejected.request;
        }
    }
    while accelerator.in_flight() > 0 {
        patience.assert_left(&**accelerator);
        accelerator.poll(SystemClock.now(), &mut completions);
    }
    completions.sort_by_key(|completion| completion.request.id.index);
    for (index, completion) in (0..).zip(&completions) {
        let RequestId {
            index: found,
            generation,
        } = completion.request.id;
        assert_eq!((found, generation), (index, !index));
    }
    completions
}

/// Compares an accelerator's answer and software's with AWS-LC's, and returns what is released.
fn assert_agrees(expected: &Expected, completion: Completion) -> Option<Vec<u8>> {
    let Completion { request, output } = completion;
    let operation = &*request.operation;
    let name = operation.algorithm();
    let software = software::perform(operation);
    if let Expected::BadTag = expected {
        assert_eq!(software, Err(OperationError::BadTag));
        assert_eq!(output.unwrap_err(), DeviceError::Failed(Status::BADMSG));
        return None;
    }
    let software = software.unwrap();
    let output = output.unwrap_or_else(|error| panic!("{name}: {error}"));
    let released = verify::check(operation, output)
        .unwrap_or_else(|error| panic!("the accelerator and ring on {name}: {error}"))
        .release();
    match expected {
        Expected::BadTag => {}
        Expected::Bytes(bytes) => {
            assert!(software == *bytes, "ring and AWS-LC on {name}");
            assert!(released == *bytes, "the accelerator and AWS-LC on {name}");
        }
        Expected::SignatureBy(keys) => {
            let Operation::Sign {
                scheme, message, ..
            } = operation
            else {
                panic!("{name} does not sign");
            };
            let aws_lc = keys.aws_lc.sign(*scheme, message);
            for signature in [&released, &software, &aws_lc] {
                assert!(keys.accept(*scheme, message, signature), "{name}");
            }
        }
    }
    Some(released)
}
