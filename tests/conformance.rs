//! One suite, every accelerator: software, a simulated card in this process, a simulated card
//! behind a socket, software that signs eight at a time. What one of them answers differently is a
//! fault of one of them.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod common;
#[path = "common/subject.rs"]
mod subject;

use card_device::engine::{Engine, Offer, Session, SessionSpec};
use firmware_sim::engine::RustCrypto;
use hwshim::accelerator::software;
use hwshim::accelerator::{
    Algorithm, Completion, DeviceError, Direction, Operation, RejectReason, Request, RequestId,
    Secret,
};
use hwshim::clock::{Clock, Instant, SystemClock};
use hwshim::kat::{self, KnownAnswer};
use hwshim::key::{AeadKey, CipherKey, HashAlgorithm, MacKey, SignatureScheme};
use hwshim::router::verify;
use hwshim::spec::crypto::Status;
use std::sync::Arc;
use subject::{Patience, Subject, on_every_accelerator, on_multi_buffer};

on_every_accelerator!(
    every_known_answer_is_given,
    every_algorithm_is_offered,
    answers_to_many_lengths_are_those_of_software,
    answers_to_keys_and_additional_data_of_many_lengths_are_those_of_software,
    what_is_too_long_is_handed_back_untouched,
    lengths_that_cannot_be_are_never_answered,
    rsa_of_every_length_signs_by_every_scheme,
    a_wrong_tag_is_refused_with_its_own_status,
    many_requests_in_flight_all_come_back_once,
    a_deadline_in_the_past_hands_the_request_back,
    work_that_is_called_back_is_back_at_once_and_its_answers_go_to_nobody,
    a_reset_hands_everything_back_and_work_goes_on,
);

// What it offers it does as the others do.
on_multi_buffer!(
    every_known_answer_is_given,
    rsa_of_every_length_signs_by_every_scheme,
    many_requests_in_flight_all_come_back_once,
    a_deadline_in_the_past_hands_the_request_back,
    work_that_is_called_back_is_back_at_once_and_its_answers_go_to_nobody,
    a_reset_hands_everything_back_and_work_goes_on,
);

/// A card whose engine is given requests side by side, whatever sessions they are of.
mod card_with_lanes {
    use super::{SideBySide, Subject};
    use std::sync::Arc;

    #[test]
    fn every_known_answer_is_given() {
        super::every_known_answer_is_given(Subject::in_process_with(Arc::new(SideBySide)));
    }

    #[test]
    fn answers_to_many_lengths_are_those_of_software() {
        let subject = Subject::in_process_with(Arc::new(SideBySide));
        super::answers_to_many_lengths_are_those_of_software(subject);
    }

    #[test]
    fn lengths_that_cannot_be_are_never_answered() {
        let subject = Subject::in_process_with(Arc::new(SideBySide));
        super::lengths_that_cannot_be_are_never_answered(subject);
    }

    #[test]
    fn many_requests_of_every_kind_in_flight_all_get_their_own_answers() {
        let mut subject = Subject::in_process_with(Arc::new(SideBySide));
        super::every_known_answer_is_given_at_once(&mut subject);
    }
}

#[test]
fn a_card_with_the_library_for_an_engine_signs_what_the_others_sign() {
    let engine = match firmware_sim::engine::MultiBuffer::load() {
        Ok(engine) => engine,
        Err(error) if error.is_absence() => return println!("skipped: {error}"),
        Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
    };
    let mut subject = Subject::in_process_with(Arc::new(engine));
    every_known_answer_is_given_at_once(&mut subject);
    rsa_of_every_length_signs_by_every_scheme(subject);
}

fn request(index: u32, operation: Operation) -> Request {
    Request {
        id: RequestId {
            index,
            generation: 0,
        },
        operation: Arc::new(operation),
        deadline: Instant::NEVER,
    }
}

fn sha256_of(message: &[u8]) -> Operation {
    Operation::Digest {
        hash: HashAlgorithm::Sha256,
        message: Secret::from(message),
    }
}

fn signature_of(message: &[u8]) -> Operation {
    Operation::Sign {
        key: kat::rsa_2048_key(),
        scheme: SignatureScheme::RsaPssSha256,
        message: Secret::from(message),
    }
}

fn every_known_answer_is_given(mut subject: Subject) {
    for test in offered(&subject) {
        let Completion { request, output } = subject.perform(test.operation());
        assert!(
            test.accepts(&request.operation, output.unwrap()),
            "{test:?}"
        );
    }
}

/// Known answers of what the accelerator offers; there are some of each.
fn offered(subject: &Subject) -> Vec<&'static KnownAnswer> {
    let all = kat::ALL.iter();
    let offered = all.filter(|test| subject.accelerator.offers(test.algorithm()));
    let offered: Vec<_> = offered.collect();
    assert!(!offered.is_empty());
    offered
}

/// All of them in flight together, many times over.
fn every_known_answer_is_given_at_once(subject: &mut Subject) {
    let patience = Patience::new();
    let tests: Vec<_> = offered(subject).into_iter().cycle().take(200).collect();
    let mut completions = Vec::new();
    for (index, test) in (0..).zip(&tests) {
        let mut request = request(index, test.operation());
        // A card has no room while it opens the session.
        while let Err(rejected) = subject.accelerator.submit(request, SystemClock.now()) {
            patience.assert_left(&*subject.accelerator);
            assert_eq!(rejected.reason, RejectReason::Full);
            request = rejected.request;
            subject
                .accelerator
                .poll(SystemClock.now(), &mut completions);
        }
    }
    while subject.accelerator.in_flight() > 0 {
        patience.assert_left(&*subject.accelerator);
        subject
            .accelerator
            .poll(SystemClock.now(), &mut completions);
    }
    assert_eq!(completions.len(), tests.len());
    for Completion { request, output } in completions {
        let test = tests[request.id.index as usize];
        assert!(
            test.accepts(&request.operation, output.unwrap()),
            "{test:?}"
        );
    }
}

fn every_algorithm_is_offered(subject: Subject) {
    for algorithm in Algorithm::all() {
        assert!(subject.accelerator.offers(algorithm), "{algorithm}");
    }
}

fn answers_to_many_lengths_are_those_of_software(mut subject: Subject) {
    let aead = Arc::new(AeadKey::new(&[1; 16]).unwrap());
    let cipher = Arc::new(CipherKey::new(&[2; 16]).unwrap());
    let mac = Arc::new(MacKey::new(HashAlgorithm::Sha384, &[3; 100]));
    for len in [0, 1, 15, 16, 17, 255, 256, 1000, 1024, 4096, 16 * 1024] {
        let data = || {
            let bytes: Vec<u8> = (0..=250).cycle().take(len).collect();
            Secret::from(bytes)
        };
        let seal = || Operation::Seal {
            key: Arc::clone(&aead),
            nonce: [9; 12],
            aad: b"additional data".to_vec(),
            plaintext: data(),
        };
        let open = || Operation::Open {
            key: Arc::clone(&aead),
            nonce: [9; 12],
            aad: b"additional data".to_vec(),
            sealed: software::perform(&seal()).unwrap(),
        };
        let cbc = |direction| Operation::Cbc {
            key: Arc::clone(&cipher),
            direction,
            iv: [4; 16],
            data: Secret::from(&data()[..len / 16 * 16]),
        };
        let digest = |hash| Operation::Digest {
            hash,
            message: data(),
        };
        let mut operations = vec![seal(), open()];
        operations.extend([cbc(Direction::Encrypt), cbc(Direction::Decrypt)]);
        operations.extend(HashAlgorithm::ALL.map(digest));
        operations.push(Operation::Mac {
            key: Arc::clone(&mac),
            message: data(),
        });
        for operation in operations {
            let name = format!("{} of {len} bytes", operation.algorithm());
            assert_answered_as_software_would(&mut subject, operation, &name);
        }
    }
}

/// For symmetric operations, whose answers are compared with software's.
#[track_caller]
fn assert_answered_as_software_would(subject: &mut Subject, operation: Operation, name: &str) {
    let Completion { request, output } = subject.perform(operation);
    let output = output.unwrap_or_else(|error| panic!("{name}: {error}"));
    verify::check(&request.operation, output).unwrap_or_else(|_| panic!("{name}"));
}

fn answers_to_keys_and_additional_data_of_many_lengths_are_those_of_software(mut subject: Subject) {
    let bytes = |len| (0..=250).cycle().take(len).collect::<Vec<u8>>();
    // Around the blocks of the hash functions, where a key is used as it is, padded or hashed.
    for len in [0, 1, 63, 64, 65, 127, 128, 129, 5000] {
        for hash in HashAlgorithm::ALL {
            let operation = Operation::Mac {
                key: Arc::new(MacKey::new(hash, &bytes(len))),
                message: Secret::from(&b"message"[..]),
            };
            let name = format!("{} with a key of {len} bytes", operation.algorithm());
            assert_answered_as_software_would(&mut subject, operation, &name);
        }
    }
    for key_len in [16, 32] {
        let key = Arc::new(AeadKey::new(&bytes(key_len)).unwrap());
        for aad_len in [0, 1, 15, 16, 17, 255, 4096, 16 * 1024] {
            for len in [0, 1, 100] {
                let seal = || Operation::Seal {
                    key: Arc::clone(&key),
                    nonce: [9; 12],
                    aad: bytes(aad_len),
                    plaintext: Secret::from(bytes(len)),
                };
                let open = Operation::Open {
                    key: Arc::clone(&key),
                    nonce: [9; 12],
                    aad: bytes(aad_len),
                    sealed: software::perform(&seal()).unwrap(),
                };
                let name = format!("{len} bytes and {aad_len} more");
                assert_answered_as_software_would(&mut subject, seal(), &name);
                assert_answered_as_software_would(&mut subject, open, &name);
            }
        }
    }
}

fn what_is_too_long_is_handed_back_untouched(mut subject: Subject) {
    let mut refused = false;
    for len in [32 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20] {
        let now = SystemClock.now();
        let message: Vec<u8> = (0..=250).cycle().take(len).collect();
        let request = request(1, sha256_of(&message));
        let Err(rejected) = subject.accelerator.submit(request, now) else {
            assert!(!refused, "{len} bytes are taken, and fewer are not");
            let completion = subject.wait_for_one();
            verify::check(&completion.request.operation, completion.output.unwrap()).unwrap();
            continue;
        };
        refused = true;
        assert_eq!(rejected.reason, RejectReason::Unsupported);
        let Operation::Digest { message: back, .. } = &*rejected.request.operation else {
            panic!("{rejected:?}");
        };
        assert!(**back == message, "{len} bytes came back changed");
        assert_eq!(subject.accelerator.in_flight(), 0);
    }
    let is_software = subject.accelerator.name() == "software:ring";
    assert_eq!(refused, !is_software, "only software takes any length");
    every_known_answer_is_given(subject);
}

fn lengths_that_cannot_be_are_never_answered(mut subject: Subject) {
    let aead = Arc::new(AeadKey::new(&[1; 16]).unwrap());
    let cipher = Arc::new(CipherKey::new(&[2; 16]).unwrap());
    let open = |len| Operation::Open {
        key: Arc::clone(&aead),
        nonce: [9; 12],
        aad: Vec::new(),
        sealed: vec![0x5a; len],
    };
    let cbc = |direction, len| Operation::Cbc {
        key: Arc::clone(&cipher),
        direction,
        iv: [4; 16],
        data: Secret::from(vec![0x5a; len]),
    };
    let mut operations: Vec<_> = [0, 1, 15].map(open).into();
    for len in [1, 15, 17, 31, 1000] {
        operations.extend([cbc(Direction::Encrypt, len), cbc(Direction::Decrypt, len)]);
    }
    for operation in operations {
        let name = format!("{operation:?}");
        // The router asks no accelerator for these; one that is asked all the same must stay sane.
        operation.check().unwrap_err();
        let request = request(1, operation);
        let Ok(()) = subject.accelerator.submit(request, SystemClock.now()) else {
            continue;
        };
        let Completion { request, output } = subject.wait_for_one();
        if let Ok(answer) = output {
            verify::check(&request.operation, answer).expect_err(&name);
        }
    }
    every_known_answer_is_given(subject);
}

fn rsa_of_every_length_signs_by_every_scheme(mut subject: Subject) {
    let keys = [
        kat::rsa_2048_key(),
        kat::rsa_3072_key(),
        kat::rsa_4096_key(),
    ];
    for key in keys {
        for scheme in SignatureScheme::ALL {
            if !key.supports(scheme) {
                continue;
            }
            let operation = Operation::Sign {
                key: Arc::clone(&key),
                scheme,
                message: Secret::from(scheme.name().as_bytes()),
            };
            let Completion { request, output } = subject.perform(operation);
            let signature = verify::check(&request.operation, output.unwrap()).unwrap();
            assert_eq!(Some(signature.release().len()), key.modulus_len());
        }
    }
}

fn a_wrong_tag_is_refused_with_its_own_status(mut subject: Subject) {
    let key = Arc::new(AeadKey::new(&[1; 32]).unwrap());
    let operation = Operation::Open {
        key,
        nonce: [9; 12],
        aad: Vec::new(),
        sealed: vec![0x5a; 48],
    };
    let Completion { output, .. } = subject.perform(operation);
    assert_eq!(output.unwrap_err(), DeviceError::Failed(Status::BADMSG));
}

fn many_requests_in_flight_all_come_back_once(mut subject: Subject) {
    const REQUESTS: u32 = 2000;
    let patience = Patience::new();
    let mut completions = Vec::new();
    let mut seen = vec![false; REQUESTS as usize];
    let mut note = |completions: &mut Vec<Completion>| {
        for Completion { request, output } in completions.drain(..) {
            let index = request.id.index as usize;
            assert!(
                !std::mem::replace(&mut seen[index], true),
                "{index} came twice"
            );
            verify::check(&request.operation, output.unwrap()).unwrap();
        }
    };
    let signs_only = !subject
        .accelerator
        .offers(Algorithm::Digest(HashAlgorithm::Sha256));
    for index in 0..REQUESTS {
        let message = index.to_le_bytes();
        let mut request = request(
            index,
            if signs_only {
                signature_of(&message)
            } else {
                sha256_of(&message)
            },
        );
        loop {
            patience.assert_left(&*subject.accelerator);
            match subject.accelerator.submit(request, SystemClock.now()) {
                Ok(()) => break,
                Err(rejected) => {
                    assert_eq!(rejected.reason, RejectReason::Full);
                    request = rejected.request;
                }
            }
            subject
                .accelerator
                .poll(SystemClock.now(), &mut completions);
            note(&mut completions);
        }
    }
    while subject.accelerator.in_flight() > 0 {
        patience.assert_left(&*subject.accelerator);
        subject
            .accelerator
            .poll(SystemClock.now(), &mut completions);
        note(&mut completions);
    }
    assert!(seen.into_iter().all(|seen| seen));
}

fn a_deadline_in_the_past_hands_the_request_back(mut subject: Subject) {
    let now = SystemClock.now();
    let request = Request {
        deadline: now,
        ..request(1, offered(&subject)[0].operation())
    };
    subject.accelerator.submit(request, now).unwrap();
    let mut completions = Vec::new();
    subject.accelerator.poll(now, &mut completions);
    // Answered or timed out: either way it is back, once.
    assert_eq!(completions.len(), 1);
    assert_eq!(subject.accelerator.in_flight(), 0);
}

fn work_that_is_called_back_is_back_at_once_and_its_answers_go_to_nobody(mut subject: Subject) {
    let now = SystemClock.now();
    for index in 0..10 {
        let request = request(index, offered(&subject)[0].operation());
        subject.accelerator.submit(request, now).unwrap();
    }
    subject.accelerator.flush();
    let mut completions = Vec::new();
    subject.accelerator.hand_back(&mut completions);
    assert_eq!(
        (completions.len(), subject.accelerator.in_flight()),
        (10, 0)
    );
    assert_eq!(subject.accelerator.next_deadline(), Instant::NEVER);
    for Completion { output, .. } in completions {
        assert_eq!(output.unwrap_err(), DeviceError::Abandoned);
    }
    // Each of these must be answered by its own answer.
    every_known_answer_is_given(subject);
}

fn a_reset_hands_everything_back_and_work_goes_on(mut subject: Subject) {
    let now = SystemClock.now();
    for index in 0..10 {
        let request = request(index, offered(&subject)[0].operation());
        subject.accelerator.submit(request, now).unwrap();
    }
    let mut completions = Vec::new();
    subject.accelerator.reset(&mut completions).unwrap();
    assert_eq!(
        (completions.len(), subject.accelerator.in_flight()),
        (10, 0)
    );
    every_known_answer_is_given(subject);
}

/// An engine that says it gains by being given requests together.
#[derive(Debug)]
struct SideBySide;

impl Engine for SideBySide {
    fn offer(&self) -> Offer {
        RustCrypto.offer()
    }

    fn open(&self, spec: &SessionSpec, key: &[u8]) -> Result<Arc<dyn Session>, Status> {
        RustCrypto.open(spec, key)
    }

    fn lanes(&self) -> usize {
        8
    }
}

/// A card whose longest cipher key has 16 bytes.
#[derive(Debug)]
struct ShortKeys;

impl Engine for ShortKeys {
    fn offer(&self) -> Offer {
        Offer {
            cipher_key_len_max: 16,
            ..RustCrypto.offer()
        }
    }

    fn open(&self, spec: &SessionSpec, key: &[u8]) -> Result<Arc<dyn Session>, Status> {
        RustCrypto.open(spec, key)
    }
}

#[test]
fn a_card_is_given_no_key_longer_than_it_takes() {
    let mut subject = Subject::in_process_with(Arc::new(ShortKeys));
    for (len, taken) in [(16, true), (32, false)] {
        let seal = Operation::Seal {
            key: Arc::new(AeadKey::new(&vec![1; len]).unwrap()),
            nonce: [9; 12],
            aad: Vec::new(),
            plaintext: Secret::from(&b"plaintext"[..]),
        };
        let encrypt = Operation::Cbc {
            key: Arc::new(CipherKey::new(&vec![2; len]).unwrap()),
            direction: Direction::Encrypt,
            iv: [4; 16],
            data: Secret::from(&[3; 16][..]),
        };
        for operation in [seal, encrypt] {
            if taken {
                assert_answered_as_software_would(&mut subject, operation, "a short key");
                continue;
            }
            let request = request(1, operation);
            let submitted = subject.accelerator.submit(request, SystemClock.now());
            assert_eq!(submitted.unwrap_err().reason, RejectReason::Unsupported);
        }
    }
}
