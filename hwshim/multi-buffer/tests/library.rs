//! crypto_mb itself: its answers are right, in the lane they belong to, whichever lanes are empty.
//!
//! Where library or processor are missing each test says `skipped` and why.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot be set up has failed, and one that is skipped says why"
)]

use multi_buffer::{
    Curve, EcdsaPrivateKey, LANES, LaneError, LoadError, MultiBuffer, Place, RsaLen, RsaPrivateKey,
    RsaPublicKey,
};
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, KeyPair, RsaKeyPair, UnparsedPublicKey};
use std::path::Path;

const RSA: [(RsaLen, &[u8]); 3] = [
    (
        RsaLen::Bits2048,
        include_bytes!("../../src/kat/rsa-2048.pkcs1.der"),
    ),
    (
        RsaLen::Bits3072,
        include_bytes!("../../src/kat/rsa-3072.pkcs1.der"),
    ),
    (
        RsaLen::Bits4096,
        include_bytes!("../../src/kat/rsa-4096.pkcs1.der"),
    ),
];
const P256: &[u8] = include_bytes!("../../src/kat/p256.sec1.der");
const P384: &[u8] = include_bytes!("../../src/kat/p384.sec1.der");

/// The library, if this host has it. One that is there and does not work is a failure.
fn library() -> Option<MultiBuffer> {
    match MultiBuffer::load(None) {
        Ok(library) => Some(library),
        Err(error) if error.is_absence() => {
            println!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
    }
}

struct Rsa {
    len: RsaLen,
    private: RsaPrivateKey,
    public: RsaPublicKey,
    ring: RsaKeyPair,
}

fn rsa_keys() -> [Rsa; 3] {
    RSA.map(|(len, der)| {
        let ring = RsaKeyPair::from_der(der).unwrap();
        Rsa {
            len,
            private: RsaPrivateKey::from_pkcs1(der).unwrap(),
            public: RsaPublicKey::from_pkcs1(ring.public_key().as_ref()).unwrap(),
            ring,
        }
    })
}

/// A block below any modulus of its length, different for each `number`.
fn block(len: RsaLen, number: u8) -> Vec<u8> {
    let mut block: Vec<u8> = (0..=250).cycle().take(len.bytes()).collect();
    block[0] = 0;
    block[1] = number;
    block
}

#[test]
fn the_version_and_the_place_are_told() {
    let Some(library) = library() else { return };
    assert!(library.version().contains("crypto_mb"), "{library:?}");
    assert!(
        library
            .found_as()
            .to_string_lossy()
            .contains("libcrypto_mb")
    );
}

#[test]
fn what_the_private_key_does_the_public_key_undoes_in_every_lane() {
    let Some(library) = library() else { return };
    for Rsa {
        len,
        private,
        public,
        ..
    } in rsa_keys()
    {
        // One lane, some, all, and more than one call takes.
        for count in [1, 3, LANES, LANES + 3] {
            let blocks: Vec<_> = (0..count)
                .map(|n| block(len, u8::try_from(n).unwrap()))
                .collect();
            let batch: Vec<_> = blocks.iter().map(|block| (&private, &block[..])).collect();
            let signed: Vec<_> = library
                .rsa_private(len, &batch)
                .into_iter()
                .map(Result::unwrap)
                .collect();
            assert_eq!(signed.len(), count);
            let batch: Vec<_> = signed.iter().map(|block| (&public, &block[..])).collect();
            let undone: Vec<_> = library
                .rsa_public(len, &batch)
                .into_iter()
                .map(Result::unwrap)
                .collect();
            assert!(undone == blocks, "{len:?}, {count} operations");
        }
    }
}

#[test]
fn a_padded_digest_becomes_the_signature_that_ring_makes() {
    const PREFIX: [u8; 19] = [
        0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01,
        0x05, 0x00, 0x04, 0x20,
    ];
    let Some(library) = library() else { return };
    for Rsa {
        len, private, ring, ..
    } in rsa_keys()
    {
        let messages: Vec<[u8; 1]> = (0..8).map(|number| [number]).collect();
        let blocks: Vec<_> = messages
            .iter()
            .map(|message| {
                let digest = ring::digest::digest(&ring::digest::SHA256, message);
                let mut block = vec![0xff; len.bytes()];
                let content = len.bytes() - PREFIX.len() - 32;
                (block[0], block[1], block[content - 1]) = (0, 1, 0);
                block[content..content + PREFIX.len()].copy_from_slice(&PREFIX);
                block[content + PREFIX.len()..].copy_from_slice(digest.as_ref());
                block
            })
            .collect();
        let batch: Vec<_> = blocks.iter().map(|block| (&private, &block[..])).collect();
        for (message, signature) in messages.iter().zip(library.rsa_private(len, &batch)) {
            let mut expected = vec![0; len.bytes()];
            ring.sign(
                &signature::RSA_PKCS1_SHA256,
                &SystemRandom::new(),
                message,
                &mut expected,
            )
            .unwrap();
            assert!(signature.unwrap() == expected, "{len:?}");
        }
    }
}

#[test]
fn a_lane_that_cannot_be_used_is_refused_and_the_others_are_right() {
    let Some(library) = library() else { return };
    let [short, long, _] = rsa_keys();
    let len = short.len;
    let good = block(len, 9);
    let too_large = vec![0xff; len.bytes()];
    let batch: [(&RsaPrivateKey, &[u8]); LANES] = [
        (&short.private, &too_large),
        (&short.private, &good),
        (&long.private, &good),
        (&short.private, &good[1..]),
        (&short.private, &good),
        (&short.private, &[]),
        (&short.private, &too_large),
        (&short.private, &good),
    ];
    let results = library.rsa_private(len, &batch);
    let errors: Vec<_> = results
        .iter()
        .map(|result| result.as_ref().err().copied())
        .collect();
    let input = Some(LaneError::Input);
    let other_key = Some(LaneError::OtherKey);
    assert_eq!(
        errors,
        [input, None, other_key, input, None, input, input, None]
    );
    for signed in results.into_iter().flatten() {
        let undone = library.rsa_public(len, &[(&short.public, &signed)]);
        assert!(undone[0].as_ref().unwrap() == &good);
    }
}

#[test]
fn signatures_on_curves_are_accepted_by_ring_and_no_nonce_comes_twice() {
    let Some(library) = library() else { return };
    let random = SystemRandom::new();
    for (curve, der, signing, verification, digest) in [
        (
            Curve::P256,
            P256,
            &signature::ECDSA_P256_SHA256_ASN1_SIGNING,
            &signature::ECDSA_P256_SHA256_ASN1,
            &ring::digest::SHA256,
        ),
        (
            Curve::P384,
            P384,
            &signature::ECDSA_P384_SHA384_ASN1_SIGNING,
            &signature::ECDSA_P384_SHA384_ASN1,
            &ring::digest::SHA384,
        ),
    ] {
        let key = EcdsaPrivateKey::from_sec1(curve, der).unwrap();
        let sec1 = sec1::EcPrivateKey::try_from(der).unwrap();
        let public = sec1.public_key.unwrap();
        let ring = EcdsaKeyPair::from_private_key_and_public_key(
            signing,
            sec1.private_key,
            public,
            &random,
        )
        .unwrap();
        let messages: Vec<[u8; 2]> = (0..50).map(|number| [7, number]).collect();
        let digests: Vec<_> = messages
            .iter()
            .map(|message| ring::digest::digest(digest, message))
            .collect();
        let batch: Vec<_> = digests
            .iter()
            .map(|digest| (&key, digest.as_ref()))
            .collect();
        let signatures: Vec<_> = library
            .ecdsa_sign(curve, &batch)
            .into_iter()
            .map(Result::unwrap)
            .collect();
        let public = UnparsedPublicKey::new(verification, ring.public_key());
        for (message, signature) in messages.iter().zip(&signatures) {
            public.verify(message, &signature.to_der()).unwrap();
            assert!(public.verify(b"another", &signature.to_der()).is_err());
        }
        let mut nonces: Vec<_> = signatures
            .iter()
            .map(|signature| signature.numbers().0)
            .collect();
        nonces.sort_unstable();
        nonces.dedup();
        assert_eq!(nonces.len(), messages.len(), "{curve:?}");
    }
}

#[test]
fn keys_of_another_curve_sign_nothing() {
    let Some(library) = library() else { return };
    let p256 = EcdsaPrivateKey::from_sec1(Curve::P256, P256).unwrap();
    let results = library.ecdsa_sign(Curve::P384, &[(&p256, &[1; 48])]);
    assert_eq!(results, [Err(LaneError::OtherKey)]);
}

#[test]
fn x25519_gives_the_answers_of_its_standard_in_every_lane() {
    let Some(library) = library() else { return };
    // RFC 7748 §5.2 "Test Vectors": private key, public key, shared secret.
    let vectors = [
        [
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ],
        [
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ],
    ]
    .map(|vector| vector.map(bytes));
    let cycle: Vec<_> = vectors.iter().cycle().take(11).collect();
    let batch: Vec<_> = cycle
        .iter()
        .map(|[private, public, _]| (private, public))
        .collect();
    for ([.., expected], shared) in cycle.iter().zip(library.x25519(&batch)) {
        assert_eq!(*shared.unwrap(), *expected);
    }
    // The public key is the shared secret with the base point.
    let base = std::array::from_fn(|index| if index == 0 { 9 } else { 0 });
    let private = &vectors[0][0];
    let public = library.x25519_public(&[private])[0];
    assert_eq!(
        public.unwrap(),
        *library.x25519(&[(private, &base)])[0].as_deref().unwrap()
    );
    // A point of low order makes every shared secret zero.
    let results = library.x25519(&[(private, &[0; 32]), (private, &vectors[0][1])]);
    assert_eq!(results[0].as_deref(), Err(&LaneError::Refused(4)));
    assert_eq!(results[1].as_deref(), Ok(&vectors[0][2]));
}

fn bytes(hex: &str) -> [u8; 32] {
    let digits = hex.as_bytes().chunks(2);
    let bytes: Vec<u8> = digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
    bytes.try_into().unwrap()
}

#[test]
fn what_is_named_and_not_there_or_no_library_is_told_on_any_processor() {
    let load = |path| MultiBuffer::load(Some(Path::new(path))).unwrap_err();
    let missing = load("/nonexistent/libcrypto_mb.so.13");
    assert!(
        matches!(
            missing,
            LoadError::NotFound {
                place: Place::Named,
                ..
            }
        ),
        "{missing}"
    );
    assert!(!missing.is_absence(), "{missing}");
    let broken = load("/etc/passwd");
    assert!(matches!(broken, LoadError::NotLoadable { .. }), "{broken}");
    let other = load("libc.so.6");
    assert!(matches!(other, LoadError::NoFunction { .. }), "{other}");
}

#[test]
fn where_nobody_names_one_a_processor_that_cannot_use_it_has_none_looked_for() {
    match MultiBuffer::load(None) {
        Err(error @ LoadError::ProcessorLacks { .. }) => {
            let told = error.to_string();
            assert!(told.ends_with("so crypto_mb was not looked for"), "{told}");
        }
        Ok(library) => {
            let told = library.place();
            assert!(matches!(told, Place::Environment | Place::Usual), "{told}");
        }
        Err(error) => assert!(error.is_absence(), "{error}"),
    }
}
