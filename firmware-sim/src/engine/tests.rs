//! Every algorithm against published known answers.

use super::vectors::{RSA_DIGEST, RSA_PRIVATE_KEY, RSA_SIGNATURE};
use super::*;
use card_device::engine::{
    Cipher, Curve, Direction, Hash, KeyType, Operation, RsaHash, RsaPadding,
};
use proptest::prelude::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.chars().filter(char::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap())
        .collect()
}

fn open(spec: SessionSpec, key: &[u8]) -> Arc<dyn Session> {
    RustCrypto
        .open(&spec, key)
        .unwrap_or_else(|status| panic!("{spec:?}: {status}"))
}

fn refused(spec: SessionSpec, key: &[u8]) -> Option<Status> {
    RustCrypto.open(&spec, key).err()
}

fn execute(session: &Arc<dyn Session>, operation: Operation<'_>) -> Result<Vec<u8>, Status> {
    let mut output = vec![0xee; 1024];
    let len = session.execute(&operation, &mut output)?;
    output.truncate(len);
    Ok(output)
}

const BOTH: [Direction; 2] = [Direction::Encrypt, Direction::Decrypt];

fn check_cipher(cipher: Cipher, key: &str, iv: &str, plaintext: &str, ciphertext: &str) {
    let (key, iv) = (hex(key), hex(iv));
    let (plaintext, ciphertext) = (hex(plaintext), hex(ciphertext));
    for direction in BOTH {
        let session = open(SessionSpec::Cipher { cipher, direction }, &key);
        let (source, expected) = match direction {
            Direction::Encrypt => (&plaintext, &ciphertext),
            Direction::Decrypt => (&ciphertext, &plaintext),
        };
        let operation = Operation::Cipher {
            direction,
            iv: &iv,
            source,
        };
        assert_eq!(
            execute(&session, operation).as_ref(),
            Ok(expected),
            "{cipher:?} {direction:?}"
        );
    }
}

/// Plaintext of NIST SP 800-38A appendix F "Example Vectors for Modes of Operation of the AES",
/// first two blocks.
const SP800_38A_PLAINTEXT: &str =
    "6bc1bee22e409f96e93d7e117393172a ae2d8a571e03ac9c9eb76fac45af8e51";
const SP800_38A_KEY_128: &str = "2b7e151628aed2a6abf7158809cf4f3c";
const SP800_38A_KEY_192: &str = "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b";
const SP800_38A_KEY_256: &str = "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4";

#[test]
fn aes_modes_give_the_answers_of_sp_800_38a() {
    let plaintext = SP800_38A_PLAINTEXT;
    let counting = "000102030405060708090a0b0c0d0e0f";
    for (key, ciphertext) in [
        // F.2.1, F.2.3, F.2.5
        (
            SP800_38A_KEY_128,
            "7649abac8119b246cee98e9b12e9197d 5086cb9b507219ee95db113a917678b2",
        ),
        (
            SP800_38A_KEY_192,
            "4f021db243bc633d7178183a9fa071e8 b4d9ada9ad7dedf4e5e738763f69145a",
        ),
        (
            SP800_38A_KEY_256,
            "f58c4c04d6e5f1ba779eabfb5f7bfbd6 9cfc4e967edb808d679f777bc6702c7d",
        ),
    ] {
        check_cipher(Cipher::AesCbc, key, counting, plaintext, ciphertext);
    }
    let counter = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff";
    for (key, ciphertext) in [
        // F.5.1, F.5.5; the second without its last three bytes
        (
            SP800_38A_KEY_128,
            "874d6191b620e3261bef6864990db6ce 9806f66b7970fdff8617187bb9fffdff",
        ),
        (
            SP800_38A_KEY_256,
            "601ec313775789a5b7a7f504bbf3d228 f443e3ca4d62b59aca84e990cacaf5c5",
        ),
    ] {
        check_cipher(Cipher::AesCtr, key, counter, plaintext, ciphertext);
        let odd = (
            &plaintext[..plaintext.len() - 6],
            &ciphertext[..ciphertext.len() - 6],
        );
        check_cipher(Cipher::AesCtr, key, counter, odd.0, odd.1);
    }
    // F.1.1, F.1.5
    for (key, ciphertext) in [
        (
            SP800_38A_KEY_128,
            "3ad77bb40d7a3660a89ecaf32466ef97 f5d3d58503b9699de785895a96fdbaaf",
        ),
        (
            SP800_38A_KEY_256,
            "f3eed1bdb5d2a03c064b5a7e3db181f8 591ccb10d410ed26dc5ba74a31362870",
        ),
    ] {
        check_cipher(Cipher::AesEcb, key, "", plaintext, ciphertext);
    }
}

#[test]
fn ciphers_refuse_what_does_not_fit() {
    let spec = SessionSpec::Cipher {
        cipher: Cipher::AesCbc,
        direction: Direction::Encrypt,
    };
    assert_eq!(refused(spec, &[0; 17]), Some(Status::ERR));
    let session = open(spec, &[0; 16]);
    let operation = |direction, iv, source| Operation::Cipher {
        direction,
        iv,
        source,
    };
    let whole: &[u8] = &[0; 16];
    for wrong in [
        operation(Direction::Encrypt, whole, &whole[..15]),
        operation(Direction::Encrypt, &whole[..12], whole),
        operation(Direction::Decrypt, whole, whole),
    ] {
        assert_eq!(execute(&session, wrong), Err(Status::ERR));
    }
    let mut small = [0; 15];
    let good = operation(Direction::Encrypt, whole, whole);
    assert_eq!(session.execute(&good, &mut small), Err(Status::ERR));
    assert_eq!(
        execute(&session, Operation::Hash { source: whole }),
        Err(Status::NOTSUPP)
    );
}

/// Test cases 4 and 16 of "The Galois/Counter Mode of Operation (GCM)", McGrew and Viega,
/// appendix B "AES Test Vectors".
#[test]
fn aes_gcm_gives_the_answers_of_its_specification() {
    let nonce = hex("cafebabefacedbaddecaf888");
    let aad = hex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
    let plaintext = hex(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72
         1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
    );
    for (key, sealed) in [
        (
            "feffe9928665731c6d6a8f9467308308",
            "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e
             21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091
             5bc94fbc3221a5db94fae95ae7121a47",
        ),
        (
            "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa
             8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662
             76fc6ece0f4e1768cddf8853bb2d551b",
        ),
    ] {
        let (key, sealed) = (hex(key), hex(sealed));
        let [sealer, opener] = BOTH.map(|direction| {
            open(
                SessionSpec::AesGcm {
                    direction,
                    tag_len: 16,
                },
                &key,
            )
        });
        let seal = |source| Operation::Aead {
            direction: Direction::Encrypt,
            nonce: &nonce,
            aad: &aad,
            source,
        };
        let unseal = |nonce, aad, source| Operation::Aead {
            direction: Direction::Decrypt,
            nonce,
            aad,
            source,
        };
        assert_eq!(execute(&sealer, seal(&plaintext)).unwrap(), sealed);
        let opened = execute(&opener, unseal(&nonce, &aad, &sealed));
        assert_eq!(opened.unwrap(), plaintext);
        let mut wrong = sealed.clone();
        wrong[0] ^= 1;
        assert_eq!(
            execute(&opener, unseal(&nonce, &aad, &wrong)),
            Err(Status::BADMSG)
        );
        assert_eq!(
            execute(&opener, unseal(&nonce, &[], &sealed)),
            Err(Status::BADMSG)
        );
        assert_eq!(
            execute(&opener, unseal(&nonce, &aad, &sealed[..15])),
            Err(Status::BADMSG)
        );
        assert_eq!(
            execute(&opener, unseal(&[0; 16], &aad, &sealed)),
            Err(Status::NOTSUPP)
        );
    }
    let short_tag = SessionSpec::AesGcm {
        direction: Direction::Encrypt,
        tag_len: 8,
    };
    assert_eq!(refused(short_tag, &[0; 16]), Some(Status::NOTSUPP));
}

/// "abc", of FIPS 180-4's examples.
#[test]
fn hashes_give_the_answers_of_fips_180_4() {
    for (hash, result_len, expected) in [
        (Hash::Sha1, 20, "a9993e364706816aba3e25717850c26c9cd0d89d"),
        (
            Hash::Sha256,
            32,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        ),
        (
            Hash::Sha384,
            48,
            "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed
             8086072ba1e7cc2358baeca134c825a7",
        ),
        (
            Hash::Sha512,
            64,
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a
             2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        ),
    ] {
        let session = open(SessionSpec::Hash { hash, result_len }, &[]);
        let result = execute(&session, Operation::Hash { source: b"abc" });
        assert_eq!(result.unwrap(), hex(expected), "{hash:?}");
        let truncated = SessionSpec::Hash {
            hash,
            result_len: 16,
        };
        assert_eq!(refused(truncated, &[]), Some(Status::ERR));
    }
}

/// Test case 2 of RFC 4231 §4.3.
#[test]
fn hmacs_give_the_answers_of_rfc_4231() {
    for (hash, result_len, expected) in [
        (
            Hash::Sha256,
            32,
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        ),
        (
            Hash::Sha384,
            48,
            "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e
             8e2240ca5e69e2c78b3239ecfab21649",
        ),
        (
            Hash::Sha512,
            64,
            "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554
             9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
        ),
    ] {
        let session = open(SessionSpec::Mac { hash, result_len }, b"Jefe");
        let source = b"what do ya want for nothing?";
        let result = execute(&session, Operation::Mac { source });
        assert_eq!(result.unwrap(), hex(expected), "{hash:?}");
    }
}

const PKCS1_SHA256: RsaPadding = RsaPadding::Pkcs1 {
    hash: Some(RsaHash::Sha256),
};

fn rsa(key: KeyType, padding: RsaPadding) -> Arc<dyn Session> {
    let der = hex(RSA_PRIVATE_KEY);
    match key {
        KeyType::Private => open(SessionSpec::Rsa { key, padding }, &der),
        KeyType::Public => open(SessionSpec::Rsa { key, padding }, &public_half(&der)),
    }
}

/// `RSAPublicKey` out of the `RSAPrivateKey` in the vectors, whose fields have known places.
fn public_half(der: &[u8]) -> Vec<u8> {
    let fields = &der[7..7 + 4 + 257 + 5];
    [&[0x30, 0x82, 0x01, 0x0a][..], fields].concat()
}

#[test]
fn rsa_pkcs1_signatures_are_those_of_rfc_7515() {
    let (digest, signature) = (hex(RSA_DIGEST), hex(RSA_SIGNATURE));
    let private = rsa(KeyType::Private, PKCS1_SHA256);
    let signed = execute(&private, Operation::Sign { digest: &digest });
    assert_eq!(signed.unwrap(), signature);
    let public = rsa(KeyType::Public, PKCS1_SHA256);
    let verify = |signature, digest| Operation::Verify { signature, digest };
    assert_eq!(execute(&public, verify(&signature, &digest)), Ok(vec![]));
    let mut wrong = signature.clone();
    wrong[255] ^= 1;
    let same_number_longer = [&[0], &signature[..]].concat();
    for (signature, digest) in [
        (&wrong[..], &digest[..]),
        (&signature[1..], &digest),
        (&same_number_longer, &digest),
        (&[0xff; 256], &digest),
        (&signature, &[0; 32]),
    ] {
        let outcome = execute(&public, verify(signature, digest));
        assert_eq!(outcome, Err(Status::KEY_REJECTED));
    }
    assert_eq!(
        execute(&public, Operation::Sign { digest: &digest }),
        Err(Status::ERR)
    );
    assert_eq!(
        execute(&private, Operation::Sign { digest: &[0; 31] }),
        Err(Status::ERR)
    );
}

#[test]
fn rsa_without_padding_is_the_bare_operation_both_ways() {
    let (private, public) = (
        rsa(KeyType::Private, RsaPadding::Raw),
        rsa(KeyType::Public, RsaPadding::Raw),
    );
    let signature = hex(RSA_SIGNATURE);
    let block = execute(&public, Operation::Encrypt { source: &signature }).unwrap();
    assert_eq!(block[..4], [0, 1, 0xff, 0xff]);
    assert!(block.ends_with(&hex(RSA_DIGEST)));
    // Linux leaves leading zeros out.
    for source in [&block[..], &block[1..]] {
        assert_eq!(
            execute(&private, Operation::Decrypt { source }).unwrap(),
            signature
        );
    }
    let too_large = [0xff; 256];
    assert_eq!(
        execute(&public, Operation::Encrypt { source: &too_large }),
        Err(Status::ERR)
    );
    assert_eq!(
        execute(&private, Operation::Decrypt { source: &too_large }),
        Err(Status::ERR)
    );
    assert_eq!(
        execute(&public, Operation::Decrypt { source: &block }),
        Err(Status::ERR)
    );
    assert_eq!(
        execute(&private, Operation::Sign { digest: &block }),
        Err(Status::NOTSUPP)
    );
    let mut small = [0; 255];
    let operation = Operation::Encrypt { source: &block };
    assert_eq!(public.execute(&operation, &mut small), Err(Status::ERR));
}

#[test]
fn rsa_pkcs1_encryption_is_random_and_comes_back() {
    let padding = RsaPadding::Pkcs1 { hash: None };
    let (private, public) = (
        rsa(KeyType::Private, padding),
        rsa(KeyType::Public, padding),
    );
    for len in [0, 1, 32, 245] {
        let source = vec![0xa5; len];
        let encrypt = Operation::Encrypt { source: &source };
        let first = execute(&public, encrypt).unwrap();
        assert_ne!(first, execute(&public, encrypt).unwrap());
        assert_eq!(
            execute(&private, Operation::Decrypt { source: &first }).unwrap(),
            source
        );
    }
    let too_long = Operation::Encrypt { source: &[1; 246] };
    assert_eq!(execute(&public, too_long), Err(Status::ERR));
    // A signature is no ciphertext: its padding is of another type.
    let signature = execute(&private, Operation::Sign { digest: &[7; 32] }).unwrap();
    let block = execute(
        &rsa(KeyType::Public, RsaPadding::Raw),
        Operation::Encrypt { source: &signature },
    );
    let decrypt = Operation::Decrypt {
        source: &block.unwrap(),
    };
    assert_eq!(execute(&private, decrypt), Err(Status::ERR));
}

#[test]
fn rsa_keys_are_read_as_linux_writes_them() {
    let der = hex(RSA_PRIVATE_KEY);
    // The modulus without its leading zero, as in Linux's self-tests: one byte less in it, and
    // in the sequence.
    let mut negative = der.clone();
    negative.remove(11);
    negative[10] = 0;
    negative[9] = 1;
    let len = u16::from_be_bytes([der[2], der[3]]) - 1;
    negative[2..4].copy_from_slice(&len.to_be_bytes());
    let spec = SessionSpec::Rsa {
        key: KeyType::Private,
        padding: PKCS1_SHA256,
    };
    let session = open(spec, &negative);
    let digest = hex(RSA_DIGEST);
    let signed = execute(&session, Operation::Sign { digest: &digest });
    assert_eq!(signed.unwrap(), hex(RSA_SIGNATURE));
    // Without the primes it is slower and gives the same.
    let mut plain = der[..7 + 4 + 257 + 5 + 4 + 256].to_vec();
    let len = u16::try_from(plain.len() - 4).unwrap();
    plain[2..4].copy_from_slice(&len.to_be_bytes());
    let session = open(spec, &plain);
    let signed = execute(&session, Operation::Sign { digest: &digest });
    assert_eq!(signed.unwrap(), hex(RSA_SIGNATURE));
}

#[test]
fn rsa_keys_that_do_not_fit_together_are_no_keys() {
    let der = hex(RSA_PRIVATE_KEY);
    let spec = SessionSpec::Rsa {
        key: KeyType::Private,
        padding: RsaPadding::Raw,
    };
    // One bit anywhere makes another key, if it makes one at all.
    for index in [20, 266, 600, 700, 900, 1100, der.len() - 1] {
        let mut wrong = der.clone();
        wrong[index] ^= 2;
        assert_eq!(refused(spec, &wrong), Some(Status::ERR), "{index}");
    }
    assert_eq!(refused(spec, &der[..der.len() / 2]), Some(Status::ERR));
    // A modulus that is plausible, and "primes" that are not.
    let public = &der[7..7 + 4 + 257 + 5];
    for prime in [1, 3, 4, 255] {
        let fields = [&[2, 1, 0], public, &[2, 1, 3], &[2, 1, prime].repeat(5)].concat();
        let len = u16::try_from(fields.len()).unwrap().to_be_bytes();
        let key = [&[0x30, 0x82][..], &len, &fields].concat();
        assert_eq!(refused(spec, &key), Some(Status::ERR), "{prime}");
    }
    assert_eq!(refused(spec, &[]), Some(Status::ERR));
}

/// RFC 6979 appendix A.2.5 "ECDSA, 256 Bits (Prime Field)" and A.2.6 "ECDSA, 384 Bits (Prime
/// Field)": message "sample" with the hash of the curve's size.
const ECDSA: [(Curve, &str, &str, &str, &str, Hash); 2] = [
    (
        Curve::P256,
        "C9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721",
        "60FED4BA255A9D31C961EB74C6356D68C049B8923B61FA6CE669622E60F29FB6
         7903FE1008B8BC99A41AE9E95628BC64F2F1B20C2D7E9F5177A3C294D4462299",
        "EFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716",
        "F7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8",
        Hash::Sha256,
    ),
    (
        Curve::P384,
        "6B9D3DAD2E1B8C1C05B19875B6659F4DE23C3B667BF297BA9AA47740787137D8
         96D5724E4C70A825F872C9EA60D2EDF5",
        "EC3A4E415B4E19A4568618029F427FA5DA9A8BC4AE92E02E06AAE5286B300C64
         DEF8F0EA9055866064A254515480BC13
         8015D9B72D7D57244EA8EF9AC0C621896708A59367F9DFB9F54CA84B3F1C9DB1
         288B231C3AE0D4FE7344FD2533264720",
        "94EDBB92A5ECB8AAD4736E56C691916B3F88140666CE9FA73D64C4EA95AD133C
         81A648152E44ACF96E36DD1E80FABE46",
        "99EF4AEB15F178CEA1FE40DB2603138F130E740A19624526203B6351D0A3A94F
         A329C145786E679E7B82C71A38628AC8",
        Hash::Sha384,
    ),
];

/// X9.62 signature of two numbers whose top bit is set.
fn der_signature(r: &[u8], s: &[u8]) -> Vec<u8> {
    let number = |bytes: &[u8]| [&[2, u8::try_from(bytes.len() + 1).unwrap(), 0], bytes].concat();
    let body = [number(r), number(s)].concat();
    [&[0x30, u8::try_from(body.len()).unwrap()], &body[..]].concat()
}

#[test]
fn ecdsa_accepts_the_signatures_of_rfc_6979_and_its_own() {
    for (curve, scalar, point, r, s, hash) in ECDSA {
        let (scalar, point) = (hex(scalar), [&[4][..], &hex(point)].concat());
        let signature = der_signature(&hex(r), &hex(s));
        let result_len = u32::try_from(scalar.len()).unwrap();
        let hasher = open(SessionSpec::Hash { hash, result_len }, &[]);
        let digest = execute(&hasher, Operation::Hash { source: b"sample" }).unwrap();
        let spec = |key| SessionSpec::Ecdsa { key, curve };
        let public = open(spec(KeyType::Public), &point);
        let other_digest = vec![1; digest.len()];
        let verify = |signature, digest| Operation::Verify { signature, digest };
        assert_eq!(
            execute(&public, verify(&signature, &digest)),
            Ok(vec![]),
            "{curve:?}"
        );
        let rejected = Err(Status::KEY_REJECTED);
        assert_eq!(
            execute(&public, verify(&signature, &other_digest)),
            rejected
        );
        assert_eq!(execute(&public, verify(&signature[1..], &digest)), rejected);
        assert_eq!(execute(&public, verify(&[], &digest)), rejected);

        let len = u8::try_from(scalar.len()).unwrap();
        let der = [&[0x30, len + 5, 2, 1, 1, 4, len], &scalar[..]].concat();
        let private = open(spec(KeyType::Private), &der);
        let sign = Operation::Sign { digest: &digest };
        let first = execute(&private, sign).unwrap();
        let second = execute(&private, sign).unwrap();
        assert_ne!(first, second, "nonces are random");
        for signature in [&first, &second] {
            assert_eq!(execute(&public, verify(signature, &digest)), Ok(vec![]));
        }
        assert_eq!(execute(&public, sign), Err(Status::ERR));
        assert_eq!(
            refused(spec(KeyType::Public), &point[1..]),
            Some(Status::ERR)
        );
        assert_eq!(refused(spec(KeyType::Private), &scalar), Some(Status::ERR));
        let zero = [
            &[0x30, len + 5, 2, 1, 1, 4, len][..],
            &vec![0; scalar.len()],
        ]
        .concat();
        assert_eq!(refused(spec(KeyType::Private), &zero), Some(Status::ERR));
    }
}

#[test]
fn everything_offered_can_be_opened() {
    let offer = RustCrypto.offer();
    assert_eq!((offer.ciphers, offer.hashes), (0b1_1100, 0b111_0100));
    assert_eq!(
        (offer.macs, offer.aeads, offer.akciphers),
        (0b111_0000, 0b10, 0b110)
    );
}

#[test]
fn a_memoised_answer_is_the_one_given_before() {
    let engine = Memoised::new(Arc::new(RustCrypto));
    let spec = SessionSpec::Ecdsa {
        key: KeyType::Private,
        curve: Curve::P256,
    };
    let der = [&[0x30, 37, 2, 1, 1, 4, 32], &[7; 32][..]].concat();
    let session = engine.open(&spec, &der).unwrap();
    let sign = |digest| execute(&session, Operation::Sign { digest }).unwrap();
    let mut almost = [0; 96];
    almost[48] = 1;
    // Two digests that differ only behind what is sampled: neither may get the other's answer.
    let first = sign(&[0; 96]);
    assert_eq!(sign(&[0; 96]), first);
    let other = sign(&almost);
    assert_ne!(other, first);
    assert_eq!(sign(&[0; 96]), first);
    let mut small = [0; 8];
    let operation = Operation::Sign { digest: &[0; 96] };
    assert_eq!(session.execute(&operation, &mut small), Err(Status::ERR));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn no_key_makes_an_engine_panic(key in prop::collection::vec(any::<u8>(), 0..80)) {
        for curve in [Curve::P256, Curve::P384] {
            for key_type in [KeyType::Public, KeyType::Private] {
                let _ = RustCrypto.open(&SessionSpec::Ecdsa { key: key_type, curve }, &key);
                let spec = SessionSpec::Rsa { key: key_type, padding: RsaPadding::Raw };
                let _ = RustCrypto.open(&spec, &key);
            }
        }
        for direction in BOTH {
            let spec = SessionSpec::Cipher { cipher: Cipher::AesEcb, direction };
            let _ = RustCrypto.open(&spec, &key);
            let _ = RustCrypto.open(&SessionSpec::AesGcm { direction, tag_len: 16 }, &key);
        }
    }

    #[test]
    fn no_bit_flipped_in_an_rsa_key_makes_an_engine_panic(bit in 0..9_000_usize) {
        let mut der = hex(RSA_PRIVATE_KEY);
        let index = bit / 8 % der.len();
        der[index] ^= 1 << (bit % 8);
        let spec = SessionSpec::Rsa { key: KeyType::Private, padding: RsaPadding::Raw };
        let _ = RustCrypto.open(&spec, &der);
    }
}
