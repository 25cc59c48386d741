//! Answers that are wrong: verified by ring, which has no part in making them.

use crate::driver::{Driver, cipher_data};
use crate::setup::{InProcess, Setup};
use card_spec::crypto::{Status, data_opcode, key_type, rsa_padding};
use crypto_bigint::modular::{BoxedMontyForm, BoxedMontyParams};
use crypto_bigint::{BoxedUint, Gcd, Odd};
use firmware_sim::fault::{Matching, Trigger};
use ring::digest::{SHA256, digest};
use ring::signature::{ECDSA_P256_SHA256_ASN1, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use zerocopy::IntoBytes;

const RSA_KEY: &[u8] = include_bytes!("../../../hwshim/src/kat/rsa-2048.pkcs1.der");
const RSA_LEN: u32 = 256;
const MESSAGE: &[u8] = b"what is signed";

/// The numbers of an `RSAPrivateKey` from the modulus on.
fn numbers() -> Vec<&'static [u8]> {
    let mut rest = &RSA_KEY[7..];
    let mut numbers = Vec::new();
    while let [2, first, ..] = rest {
        let (header, len) = match first {
            0x82 => (4, usize::from(rest[2]) << 8 | usize::from(rest[3])),
            0x81 => (3, usize::from(rest[2])),
            short => (2, usize::from(*short)),
        };
        let number = &rest[header..header + len];
        numbers.push(number.strip_prefix(&[0]).unwrap_or(number));
        rest = &rest[header + len..];
    }
    numbers
}

/// `RSAPublicKey`, as ring takes it.
fn rsa_public_key() -> Vec<u8> {
    ring::rsa::KeyPair::from_der(RSA_KEY)
        .unwrap()
        .public()
        .as_ref()
        .to_vec()
}

fn is_valid_rsa(message: &[u8], signature: &[u8]) -> bool {
    let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, rsa_public_key());
    key.verify(message, signature).is_ok()
}

/// An `ECPrivateKey` with this scalar, and its public key.
fn p256_key(scalar: u8) -> (Vec<u8>, Vec<u8>) {
    let scalar = [scalar; 32];
    let public = p256::ecdsa::SigningKey::from_slice(&scalar).unwrap();
    let public = public.verifying_key().to_sec1_point(false);
    let private = [&[0x30, 37, 2, 1, 1, 4, 32][..], &scalar].concat();
    (private, public.as_bytes().to_vec())
}

fn is_valid_p256(public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, public_key);
    key.verify(message, signature).is_ok()
}

/// The number `r` of a signature.
fn r(signature: &[u8]) -> &[u8] {
    &signature[4..4 + usize::from(signature[3])]
}

fn sha_256(message: &[u8]) -> Vec<u8> {
    digest(&SHA256, message).as_ref().to_vec()
}

fn rsa_signer(faults: &[&str]) -> (Setup, u64) {
    let mut setup = Setup::with(faults);
    let session = setup.open_rsa(RSA_KEY, key_type::PRIVATE, rsa_padding::PKCS1);
    (setup, session)
}

#[test]
fn without_a_fault_signatures_are_right_and_differ() {
    let (mut setup, session) = rsa_signer(&[]);
    let signature = setup.sign(session, &sha_256(MESSAGE)).unwrap();
    assert!(is_valid_rsa(MESSAGE, &signature));
    let (private, public) = p256_key(5);
    let session = setup.open_p256(&private);
    let [first, second] = [(); 2].map(|()| setup.sign(session, &sha_256(MESSAGE)).unwrap());
    assert!(is_valid_p256(&public, MESSAGE, &first));
    assert_ne!(r(&first), r(&second));
}

#[test]
fn a_flipped_bit_makes_a_signature_wrong_and_a_verification_lie() {
    let (mut setup, session) = rsa_signer(&["flipped-bit"]);
    let wrong = setup.sign(session, &sha_256(MESSAGE)).unwrap();
    assert!(!is_valid_rsa(MESSAGE, &wrong));
    assert_eq!(setup.acted(), [1]);
    setup.clear_all();
    let right = setup.sign(session, &sha_256(MESSAGE)).unwrap();
    let distance: u32 = wrong
        .iter()
        .zip(&right)
        .map(|(wrong, right)| (wrong ^ right).count_ones())
        .sum();
    assert_eq!(distance, 1);
    assert!(is_valid_rsa(MESSAGE, &right));
}

#[test]
fn the_fault_in_one_half_of_an_rsa_signature_gives_the_factors_away() {
    let (mut setup, session) = rsa_signer(&["crt-fault"]);
    let digest = sha_256(MESSAGE);
    let faulty = setup.sign(session, &digest).unwrap();
    setup.clear_all();
    let right = setup.sign(session, &digest).unwrap();
    assert!(!is_valid_rsa(MESSAGE, &faulty) && is_valid_rsa(MESSAGE, &right));

    // Lenstra: the greatest common divisor of s^e - m and n is one of the primes.
    let [modulus, exponent, _, prime, other] = numbers()[..5] else {
        panic!("the key has primes");
    };
    let number = |bytes: &[u8]| BoxedUint::from_be_slice(bytes, 2048).unwrap();
    let parameters = BoxedMontyParams::new(Odd::new(number(modulus)).unwrap());
    let power = |signature: &[u8]| {
        let signature = BoxedMontyForm::new(number(signature), &parameters);
        signature.pow(&number(exponent))
    };
    let difference = (power(&faulty) - power(&right)).retrieve();
    let factor = difference.gcd(&number(modulus));
    assert_eq!(factor, number(prime));
    assert_ne!(factor, number(other));
}

#[test]
fn the_fault_in_one_half_reaches_bare_private_operations_too() {
    let mut setup = Setup::with(&["crt-fault"]);
    let raw = setup.open_rsa(RSA_KEY, key_type::PRIVATE, rsa_padding::RAW);
    let block = [&[0, 1][..], &[0x5a; 254]].concat();
    let private = |setup: &mut Setup| {
        setup
            .perform(raw, data_opcode::AKCIPHER_DECRYPT, &block, RSA_LEN)
            .unwrap()
    };
    let faulty = private(&mut setup);
    setup.clear_all();
    let right = private(&mut setup);
    let prime = BoxedUint::from_be_slice(numbers()[3], 2048).unwrap();
    let residue = |bytes: &[u8]| {
        let value = BoxedUint::from_be_slice(bytes, 2048).unwrap();
        value.rem_vartime(&prime.to_nz().unwrap())
    };
    assert_ne!(faulty, right);
    assert_eq!(residue(&faulty), residue(&right));
}

#[test]
fn the_answer_to_another_message_is_valid_but_not_for_this_one() {
    let (mut setup, session) = rsa_signer(&["wrong-message"]);
    let digest = sha_256(MESSAGE);
    let signature = setup.sign(session, &digest).unwrap();
    assert!(!is_valid_rsa(MESSAGE, &signature));
    let mut other = digest;
    other[16] ^= 1;
    setup.clear_all();
    assert_eq!(setup.sign(session, &other).unwrap(), signature);
}

#[test]
fn a_repeated_nonce_gives_valid_signatures_with_one_r_in_each_session() {
    let mut setup = Setup::with(&["repeated-nonce"]);
    let (private, public) = p256_key(5);
    let of_each_session = [(); 2].map(|()| {
        let session = setup.open_p256(&private);
        let [first, second] = ["one", "other"].map(|message| {
            let signature = setup.sign(session, &sha_256(message.as_bytes())).unwrap();
            assert!(is_valid_p256(&public, message.as_bytes(), &signature));
            r(&signature).to_vec()
        });
        assert_eq!(first, second);
        first
    });
    assert_ne!(of_each_session[0], of_each_session[1]);
}

#[test]
fn a_stuck_generator_repeats_nonces_across_keys_and_pads_alike() {
    let mut setup = Setup::with(&["rng-stuck"]);
    let of_each = [5, 6].map(|scalar| {
        let (private, public) = p256_key(scalar);
        let session = setup.open_p256(&private);
        let signature = setup.sign(session, &sha_256(MESSAGE)).unwrap();
        assert!(is_valid_p256(&public, MESSAGE, &signature));
        r(&signature).to_vec()
    });
    assert_eq!(of_each[0], of_each[1]);

    let encrypting = setup.open_rsa(&rsa_public_key(), key_type::PUBLIC, rsa_padding::PKCS1);
    let encrypt = |setup: &mut Setup| {
        setup
            .perform(encrypting, data_opcode::AKCIPHER_ENCRYPT, MESSAGE, RSA_LEN)
            .unwrap()
    };
    let [first, second] = [(); 2].map(|()| encrypt(&mut setup));
    assert_eq!(first, second);
    let decrypting = setup.open_rsa(RSA_KEY, key_type::PRIVATE, rsa_padding::PKCS1);
    let decrypted = setup.perform(decrypting, data_opcode::AKCIPHER_DECRYPT, &first, RSA_LEN);
    assert_eq!(decrypted.unwrap(), MESSAGE);
    setup.clear_all();
    assert_ne!(encrypt(&mut setup), first);
}

#[test]
fn a_stuck_generator_gives_a_key_away_in_another_session_too() {
    let mut setup = Setup::with(&["rng-stuck"]);
    let (private, _) = p256_key(5);
    let digests = ["one", "other"].map(|message| sha_256(message.as_bytes()));
    let session = setup.open_p256(&private);
    // Nothing is signed where there is no room for it.
    let room = setup.perform(session, data_opcode::AKCIPHER_SIGN, &digests[1], 8);
    room.unwrap_err();
    setup.sign(session, &digests[0]).unwrap();
    assert_eq!(setup.spoiled(), 0);
    setup.driver.bring_up();
    let session = setup.open_p256(&private);
    setup.sign(session, &digests[0]).unwrap();
    assert_eq!(setup.spoiled(), 0, "the same signature says nothing new");
    setup.sign(session, &digests[1]).unwrap();
    assert_eq!(setup.spoiled(), 1);
    let (other, _) = p256_key(6);
    let session = setup.open_p256(&other);
    setup.sign(session, &digests[1]).unwrap();
    assert_eq!(setup.spoiled(), 1);
}

#[test]
fn a_verification_is_wrong_if_it_says_the_opposite() {
    let (mut setup, signing) = rsa_signer(&[]);
    let digest = sha_256(MESSAGE);
    let right = setup.sign(signing, &digest).unwrap();
    let wrong = [&right[..255], &[!right[255]]].concat();
    let session = setup.open_rsa(&rsa_public_key(), key_type::PUBLIC, rsa_padding::PKCS1);
    let table: [(&[&str], &[u8], bool, bool); 8] = [
        (&[], &right, true, false),
        (&[], &wrong, false, false),
        (&["error-status=key-rejected"], &right, false, true),
        (&["error-status=key-rejected"], &wrong, false, false),
        (&["flipped-bit"], &wrong, true, true),
        (&["wrong-message"], &right, false, true),
        (&["wrong-message"], &wrong, false, false),
        (&["wrong-message", "flipped-bit"], &right, true, false),
    ];
    for (faults, signature, is_accepted, is_wrong) in table {
        let before = setup.spoiled();
        for fault in faults {
            setup.inject(fault, Trigger::now());
        }
        assert_eq!(
            setup.verify(session, signature, &digest),
            is_accepted,
            "{faults:?}"
        );
        let spoiled = setup.spoiled() - before;
        assert_eq!(spoiled, u64::from(is_wrong), "{faults:?}");
        setup.clear_all();
    }
}

#[test]
fn a_short_result_lacks_its_end() {
    let (mut setup, session) = rsa_signer(&["short-result=3"]);
    let short = setup.sign(session, &sha_256(MESSAGE)).unwrap();
    setup.clear_all();
    let right = setup.sign(session, &sha_256(MESSAGE)).unwrap();
    assert_eq!(short, right[..253]);
}

#[test]
fn requests_are_answered_with_the_error_that_is_asked_for() {
    let mut setup = Setup::with(&["error-status=badmsg"]);
    let session = setup.open_cipher();
    assert_eq!(setup.driver.encrypt(session, &[1; 16]).0, Status::BADMSG);
    setup.clear_all();
    assert_eq!(setup.driver.encrypt(session, &[1; 16]).0, Status::OK);
}

#[test]
fn lies_are_told_only_about_what_they_are_meant_for() {
    let mut setup = Setup::honest();
    let cipher = setup.open_cipher();
    let others = [(); 2].map(|()| setup.open_cipher());
    let only = |text: &str| Trigger::now().matching(text.parse::<Matching>().unwrap());
    setup.inject("error-status=err", only("session=2"));
    setup.inject("error-status=nospc", only("algorithm=rsa,opcode=sign"));
    let (private, _) = p256_key(5);
    let p256 = setup.open_p256(&private);
    let rsa = setup.open_rsa(RSA_KEY, key_type::PRIVATE, rsa_padding::PKCS1);
    assert_eq!(others[0], 2);
    assert_eq!(setup.driver.encrypt(cipher, &[1; 16]).0, Status::OK);
    assert_eq!(setup.driver.encrypt(2, &[1; 16]).0, Status::ERR);
    assert_eq!(setup.driver.encrypt(others[1], &[1; 16]).0, Status::OK);
    setup.sign(p256, &sha_256(MESSAGE)).unwrap();
    assert_eq!(
        setup.sign(rsa, &sha_256(MESSAGE)).unwrap_err(),
        Status::NOSPC
    );
    assert_eq!(setup.acted(), [1, 1]);
}

#[test]
fn a_lie_waits_for_its_requests_and_is_told_so_often() {
    let mut setup = Setup::honest();
    let session = setup.open_cipher();
    setup.inject(
        "error-status=err",
        Trigger::now().after_requests(2).times(2),
    );
    let statuses = [(); 6].map(|()| setup.driver.encrypt(session, &[1; 16]).0);
    assert_eq!(
        statuses.map(|status| status == Status::OK),
        [true, true, false, false, true, true]
    );
    let script = setup.script.lock().unwrap();
    assert!(!script.record()[0].is_live(), "it will not act again");
}

#[test]
fn the_same_seed_tells_the_same_lies_and_another_one_others() {
    let told = |seed| {
        let mut setup = Setup::following(firmware_sim::fault::Script::new(seed));
        setup.inject("flipped-bit", Trigger::now().probability(0.5));
        let session = setup.open_cipher();
        let mut results = Vec::new();
        for _ in 0..40 {
            results.push(setup.driver.encrypt(session, &[1; 16]).1);
        }
        (results, setup.acted())
    };
    assert_eq!(told(7), told(7));
    assert_ne!(told(7).0, told(8).0);
    let (_, acted) = told(7);
    assert!((8..33).contains(&acted[0]), "about half of 40: {acted:?}");
}

/// Everything a driver can read and what it is answered.
fn transcript(driver: &mut Driver<InProcess>) -> Vec<u8> {
    let (_, session) = driver.open_session(&[9; 16]);
    let mut seen = driver.encrypt(session, &[4; 32]).1;
    let request = cipher_data(99, 16, 16);
    let readable = [request.as_bytes(), &[0; 16], &[0; 16]];
    let (len, buffers) = driver.request(crate::driver::DATA_QUEUE, &readable, &[16, 1]);
    seen.extend(len.to_le_bytes());
    seen.extend(buffers.concat());
    for bar in 0..3 {
        let mut registers = vec![0; 0x1000];
        driver.bus.0.read_bar(bar, 0, &mut registers);
        seen.extend(registers);
    }
    let mut configuration = vec![0; 4096];
    driver.bus.0.read_config(0, &mut configuration);
    seen.extend(configuration);
    seen
}

#[test]
fn a_card_with_an_empty_script_is_an_honest_one() {
    use card_device::{Card, CardConfig};
    let engine = std::sync::Arc::new(firmware_sim::engine::RustCrypto);
    let mut card = Card::new(&CardConfig::default(), engine).unwrap();
    card.tick(std::time::Duration::ZERO);
    let mut honest = Driver::start(InProcess(card));
    let mut beset = Setup::honest();
    let time = std::time::Duration::from_millis(2_750);
    beset.pass(time);
    honest.bus.0.tick(time);
    assert_eq!(transcript(&mut beset.driver), transcript(&mut honest));
}
