//! Eight at a time against one at a time: crypto_mb, ring and AWS-LC on one core.
//!
//! ```text
//! cargo xtask multi-buffer && cargo bench -p multi-buffer
//! ```
//!
//! All columns of a row are measured in turns within one run, in processor time of this thread, so
//! that neighbours disturb them alike; what is shown is the median over the rounds. ring and AWS-LC
//! pad, and check what they have computed with the public key before they return it; crypto_mb does
//! neither. So its result is verified by ring in a column of its own, as the router does.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench program reports on standard output, and ends where it cannot measure"
)]

use aws_lc_rs::signature as aws;
use multi_buffer::{
    Curve, EcdsaPrivateKey, LANES, MultiBuffer, RsaLen, RsaPrivateKey, RsaPublicKey,
};
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, KeyPair, RsaKeyPair, UnparsedPublicKey};
use rustix::time::{ClockId, clock_gettime};

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
/// Turns that each column takes.
const ROUNDS: usize = 60;
/// As long as what a TLS 1.3 server signs with SHA-256.
const MESSAGE: [u8; 130] = [7; 130];

fn main() {
    let library = match MultiBuffer::load(None) {
        Ok(library) => library,
        Err(error) => return println!("skipped: {error}"),
    };
    println!("{}\n", library.version());
    println!("microseconds of one core per operation; in brackets the ratio to ring");
    for (len, der) in RSA {
        rsa(&library, len, der);
    }
    ecdsa(&library, Curve::P256, P256);
    ecdsa(&library, Curve::P384, P384);
}

fn rsa(library: &MultiBuffer, len: RsaLen, der: &[u8]) {
    let random = SystemRandom::new();
    let ring = RsaKeyPair::from_der(der).unwrap();
    let aws_key = aws::RsaKeyPair::from_der(der).unwrap();
    let aws_random = aws_lc_rs::rand::SystemRandom::new();
    let private = RsaPrivateKey::from_pkcs1(der).unwrap();
    let public = RsaPublicKey::from_pkcs1(ring.public_key().as_ref()).unwrap();
    let mut signed = vec![0; len.bytes()];
    ring.sign(&signature::RSA_PKCS1_SHA256, &random, &MESSAGE, &mut signed)
        .unwrap();
    let block = library
        .rsa_public(len, &[(&public, &signed)])
        .remove(0)
        .unwrap();
    let eight = [(&private, &block[..]); LANES];
    let undone = [(&public, &signed[..]); LANES];
    let ring_public =
        UnparsedPublicKey::new(&signature::RSA_PKCS1_2048_8192_SHA256, ring.public_key());
    let aws_public =
        aws::UnparsedPublicKey::new(&aws::RSA_PKCS1_2048_8192_SHA256, ring.public_key().as_ref());
    let aws_parsed = aws_public.parse().unwrap();
    let mut output = vec![0; len.bytes()];
    let mut aws_output = vec![0; len.bytes()];
    let name = format!("{len:?}").replace("Bits", "RSA-");
    report(
        &format!("{name} sign"),
        &mut [
            column("ring", 1, || {
                ring.sign(&signature::RSA_PKCS1_SHA256, &random, &MESSAGE, &mut output)
                    .unwrap()
            }),
            column("AWS-LC", 1, || {
                aws_key
                    .sign(
                        &aws::RSA_PKCS1_SHA256,
                        &aws_random,
                        &MESSAGE,
                        &mut aws_output,
                    )
                    .unwrap()
            }),
            column("eight lanes", LANES, || {
                assert!(
                    library
                        .rsa_private(len, &eight)
                        .iter()
                        .all(|result| result.as_ref() == Ok(&signed))
                );
            }),
            column("eight, each verified by ring", LANES, || {
                for result in library.rsa_private(len, &eight) {
                    ring_public.verify(&MESSAGE, &result.unwrap()).unwrap();
                }
            }),
            column("one lane alone", 1, || {
                assert!(library.rsa_private(len, &eight[..1])[0].as_ref() == Ok(&signed));
            }),
            column("preparing the key", 1, || {
                RsaPrivateKey::from_pkcs1(der).unwrap()
            }),
        ],
    );
    report(
        &format!("{name} verify"),
        &mut [
            column("ring", 1, || ring_public.verify(&MESSAGE, &signed).unwrap()),
            column("AWS-LC", 1, || {
                aws_public.verify(&MESSAGE, &signed).unwrap()
            }),
            column("AWS-LC, key kept parsed", 1, || {
                aws_parsed.verify_sig(&MESSAGE, &signed).unwrap()
            }),
            column("eight lanes", LANES, || {
                assert!(
                    library
                        .rsa_public(len, &undone)
                        .iter()
                        .all(|result| result.as_ref() == Ok(&block))
                );
            }),
        ],
    );
}

fn ecdsa(library: &MultiBuffer, curve: Curve, der: &[u8]) {
    let random = SystemRandom::new();
    let aws_random = aws_lc_rs::rand::SystemRandom::new();
    let sec1 = sec1::EcPrivateKey::try_from(der).unwrap();
    let public = sec1.public_key.unwrap();
    let (ring_algorithm, aws_algorithm, digest) = match curve {
        Curve::P256 => (
            &signature::ECDSA_P256_SHA256_ASN1_SIGNING,
            &aws::ECDSA_P256_SHA256_ASN1_SIGNING,
            &ring::digest::SHA256,
        ),
        Curve::P384 => (
            &signature::ECDSA_P384_SHA384_ASN1_SIGNING,
            &aws::ECDSA_P384_SHA384_ASN1_SIGNING,
            &ring::digest::SHA384,
        ),
    };
    let ring = EcdsaKeyPair::from_private_key_and_public_key(
        ring_algorithm,
        sec1.private_key,
        public,
        &random,
    )
    .unwrap();
    let aws_key = aws::EcdsaKeyPair::from_private_key_der(aws_algorithm, der).unwrap();
    let key = EcdsaPrivateKey::from_sec1(curve, der).unwrap();
    let digest = ring::digest::digest(digest, &MESSAGE);
    let eight = [(&key, digest.as_ref()); LANES];
    report(
        &format!("{curve:?} sign"),
        &mut [
            column("ring", 1, || ring.sign(&random, &MESSAGE).unwrap()),
            column("AWS-LC", 1, || aws_key.sign(&aws_random, &MESSAGE).unwrap()),
            column("eight lanes", LANES, || {
                assert!(library.ecdsa_sign(curve, &eight).iter().all(Result::is_ok));
            }),
            column("one lane alone", 1, || {
                library.ecdsa_sign(curve, &eight[..1]).remove(0).unwrap()
            }),
        ],
    );
}

struct Column<'a> {
    name: &'static str,
    operations: usize,
    work: Box<dyn FnMut() + 'a>,
    /// Microseconds per operation, in each round.
    took: Vec<f64>,
}

fn column<'a, T>(
    name: &'static str,
    operations: usize,
    mut work: impl FnMut() -> T + 'a,
) -> Column<'a> {
    Column {
        name,
        operations,
        work: Box::new(move || {
            std::hint::black_box(work());
        }),
        took: Vec::new(),
    }
}

fn report(title: &str, columns: &mut [Column<'_>]) {
    for _ in 0..ROUNDS {
        for column in &mut *columns {
            // Long enough that what the clock costs does not count.
            const CALLS: usize = 4;
            let begun = processor_us();
            for _ in 0..CALLS {
                (column.work)();
            }
            let calls = f64::from(u32::try_from(CALLS * column.operations).unwrap());
            column.took.push((processor_us() - begun) / calls);
        }
    }
    println!("\n{title}");
    let mut ring = None;
    for column in columns {
        column.took.sort_by(f64::total_cmp);
        let median = column.took[ROUNDS / 2];
        let ring = *ring.get_or_insert(median);
        let [low, high] = [ROUNDS / 10, ROUNDS - 1 - ROUNDS / 10].map(|index| column.took[index]);
        println!(
            "  {:30} {median:9.2}  ({:5.2})   10 % to 90 %: {low:.2} to {high:.2}",
            column.name,
            ring / median
        );
    }
}

/// Processor time of this thread.
fn processor_us() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let nanos = u32::try_from(time.tv_nsec).unwrap();
    let seconds = u32::try_from(time.tv_sec).unwrap();
    f64::from(seconds) * 1e6 + f64::from(nanos) / 1e3
}
