//! What the router adds to software: each operation through a router, against ring called directly, in turns.
//!
//! ```text
//! cargo bench --bench router
//! ```
//!
//! A bench program rather than criterion, which measures one for seconds and then the other: in between, a shared
//! machine changes by more than a router adds. Here blocks of two milliseconds take turns, in the order ring,
//! router, router, ring, so that what goes up or down steadily is on both sides. Each such four gives one ratio;
//! their median is what is printed, with the interval in which it lies at 95 %, by order statistics.

#![expect(
    clippy::print_stdout,
    reason = "a bench program reports on standard output"
)]

use hwshim::accelerator::software;
use hwshim::clock::{Clock, SystemClock};
use hwshim::kat;
use hwshim::key::{AeadKey, SignatureScheme, SigningKey};
use hwshim::router::Router;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, RSA_PSS_SHA256, RsaKeyPair,
};
use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

/// As long as what a TLS 1.3 server signs with SHA-256.
const MESSAGE: [u8; 130] = [0x20; 130];
const BLOCK: Duration = Duration::from_millis(2);
const FOURS: usize = 2000;
/// So many ranks from the median at most is that of endlessly many, at 95 %: its rank is distributed binomially,
/// by half and half, with a standard deviation of 22.4.
const RANKS: usize = 44;

fn main() -> Result<(), Box<dyn Error>> {
    println!(
        "{:18} {:>12} {:>12} {:>9}  at 95 %",
        "operation", "ring", "router", "ratio"
    );
    rsa_2048_sign()?;
    p256_sign()?;
    aes_256_gcm_1k()
}

fn rsa_2048_sign() -> Result<(), Box<dyn Error>> {
    let router = Router::software();
    let key = kat::rsa_2048_key();
    let direct = RsaKeyPair::from_der(include_bytes!("../hwshim/src/kat/rsa-2048.pkcs1.der"))?;
    let random = SystemRandom::new();
    let ring = || {
        let mut signature = vec![0; direct.public_key().modulus_len()];
        direct
            .sign(&RSA_PSS_SHA256, &random, &MESSAGE, &mut signature)
            .expect("ring signs with a good key");
        signature
    };
    let router = || sign(&router, &key, SignatureScheme::RsaPssSha256);
    compare("RSA-2048 PSS sign", ring, router);
    Ok(())
}

fn p256_sign() -> Result<(), Box<dyn Error>> {
    let router = Router::software();
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random)?;
    let direct =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random)?;
    let key = Arc::new(SigningKey::from_pkcs8(pkcs8.as_ref())?);
    let ring = || {
        let signature = direct.sign(&random, &MESSAGE);
        signature
            .expect("ring signs with a good key")
            .as_ref()
            .to_vec()
    };
    let router = || sign(&router, &key, SignatureScheme::EcdsaP256Sha256);
    compare("P-256 sign", ring, router);
    Ok(())
}

fn aes_256_gcm_1k() -> Result<(), Box<dyn Error>> {
    const KEY: [u8; 32] = [5; 32];
    const NONCE: [u8; 12] = [1; 12];
    let router = Router::software();
    let key = Arc::new(AeadKey::new(&KEY)?);
    let direct = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &KEY)?);
    // What was sealed before is sealed again: it takes as long as any other kilobyte.
    let plaintext = || Vec::with_capacity(1024 + software::TAG_LEN);
    let (mut for_ring, mut for_router) = (plaintext(), plaintext());
    let ring = || {
        for_ring.resize(1024, 0x55);
        let nonce = Nonce::assume_unique_for_key(NONCE);
        direct
            .seal_in_place_append_tag(nonce, Aad::from(b"header"), black_box(&mut for_ring))
            .expect("1 KiB is not too much");
    };
    let router = || {
        for_router.resize(1024, 0x55);
        router
            .seal_in_place(&key, NONCE, b"header", black_box(&mut for_router))
            .expect("1 KiB is not too much");
    };
    compare("AES-256-GCM, 1 KiB", ring, router);
    Ok(())
}

fn sign(router: &Router, key: &Arc<SigningKey>, scheme: SignatureScheme) -> Vec<u8> {
    router
        .sign(key, scheme, &MESSAGE)
        .expect("software signs with a good key")
}

fn compare<T>(name: &str, mut ring: impl FnMut() -> T, mut router: impl FnMut() -> T) {
    let calls = calls_in_a_block(&mut ring);
    let (mut ratios, mut of_ring, mut of_router) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..FOURS {
        let first = block(calls, &mut ring);
        let by_router = block(calls, &mut router) + block(calls, &mut router);
        let by_ring = first + block(calls, &mut ring);
        ratios.push(by_router / by_ring);
        of_ring.push(by_ring / 2.0);
        of_router.push(by_router / 2.0);
    }
    let [(ring, ..), (router, ..), (ratio, low, high)] = [of_ring, of_router, ratios].map(median);
    println!(
        "{name:18} {:>9.1} ns {:>9.1} ns {ratio:>9.4}  {low:.4} to {high:.4}",
        ring * 1e9,
        router * 1e9
    );
}

/// How many calls take about as long as a block. One block is not counted: it warms up.
fn calls_in_a_block<T>(call: &mut impl FnMut() -> T) -> u32 {
    let mut calls = 1;
    while block(calls, call) * f64::from(calls) < BLOCK.as_secs_f64() / 2.0 {
        calls *= 2;
    }
    calls
}

/// Seconds a call took.
fn block<T>(calls: u32, call: &mut impl FnMut() -> T) -> f64 {
    let began = SystemClock.now();
    for _ in 0..calls {
        black_box(call());
    }
    let took = SystemClock.now().since(began);
    took.as_secs_f64() / f64::from(calls)
}

/// The median of as many as there are [`FOURS`], and the readings between which it lies.
fn median(mut readings: Vec<f64>) -> (f64, f64, f64) {
    readings.sort_by(f64::total_cmp);
    let at = |rank: usize| readings[rank];
    let middle = FOURS / 2;
    (at(middle), at(middle - RANKS), at(middle + RANKS))
}
