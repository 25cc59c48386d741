//! What the router adds to software: each operation through a router, against ring called directly.
//!
//! Read pairs: `rsa-2048-sign/router` over `rsa-2048-sign/ring`.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use hwshim::accelerator::software;
use hwshim::kat;
use hwshim::key::{AeadKey, SignatureScheme, SigningKey};
use hwshim::router::Router;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, RSA_PSS_SHA256, RsaKeyPair,
};
use std::hint::black_box;
use std::sync::Arc;

/// As long as what a TLS 1.3 server signs with SHA-256.
const MESSAGE: [u8; 130] = [0x20; 130];

fn rsa_2048_sign(criterion: &mut Criterion) {
    let router = Router::software();
    let key = kat::rsa_2048_key();
    let der = include_bytes!("../hwshim/src/kat/rsa-2048.pkcs1.der");
    let direct = RsaKeyPair::from_der(der).expect("the test key is well formed");
    let random = SystemRandom::new();
    let mut group = criterion.benchmark_group("rsa-2048-sign");
    group.bench_function("ring", |bencher| {
        bencher.iter(|| {
            let mut signature = vec![0; direct.public_key().modulus_len()];
            direct
                .sign(&RSA_PSS_SHA256, &random, &MESSAGE, &mut signature)
                .expect("ring signs with a good key");
            signature
        });
    });
    group.bench_function("router", |bencher| {
        bencher.iter(|| sign(&router, &key, SignatureScheme::RsaPssSha256));
    });
    group.finish();
}

fn p256_sign(criterion: &mut Criterion) {
    let router = Router::software();
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random)
        .expect("the system gives random numbers");
    let direct = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random)
        .expect("ring reads what it wrote");
    let key = SigningKey::from_pkcs8(pkcs8.as_ref()).expect("ring's key is well formed");
    let key = Arc::new(key);
    let mut group = criterion.benchmark_group("p256-sign");
    group.bench_function("ring", |bencher| {
        bencher.iter(|| {
            let signature = direct
                .sign(&random, &MESSAGE)
                .expect("ring signs with a good key");
            signature.as_ref().to_vec()
        });
    });
    group.bench_function("router", |bencher| {
        bencher.iter(|| sign(&router, &key, SignatureScheme::EcdsaP256Sha256));
    });
    group.finish();
}

fn aes_256_gcm_1k(criterion: &mut Criterion) {
    const KEY: [u8; 32] = [5; 32];
    let router = Router::software();
    let key = Arc::new(AeadKey::new(&KEY).expect("32 bytes are an AES-256 key"));
    let unbound = UnboundKey::new(&AES_256_GCM, &KEY).expect("32 bytes are an AES-256 key");
    let direct = LessSafeKey::new(unbound);
    let plaintext = || {
        let mut buffer = Vec::with_capacity(1024 + software::TAG_LEN);
        buffer.resize(1024, 0x55);
        buffer
    };
    let mut group = criterion.benchmark_group("aes-256-gcm-1k");
    group.bench_function("ring", |bencher| {
        bencher.iter_batched_ref(
            plaintext,
            |buffer| {
                let nonce = Nonce::assume_unique_for_key([1; 12]);
                direct
                    .seal_in_place_append_tag(nonce, Aad::from(b"header"), black_box(buffer))
                    .expect("1 KiB is not too much");
            },
            BatchSize::SmallInput,
        );
    });
    group.bench_function("router", |bencher| {
        bencher.iter_batched_ref(
            plaintext,
            |buffer| {
                router
                    .seal_in_place(&key, [1; 12], b"header", black_box(buffer))
                    .expect("1 KiB is not too much");
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn sign(router: &Router, key: &Arc<SigningKey>, scheme: SignatureScheme) -> Vec<u8> {
    router
        .sign(key, scheme, &MESSAGE)
        .expect("software signs with a good key")
}

criterion_group!(benches, rsa_2048_sign, p256_sign, aes_256_gcm_1k);
criterion_main!(benches);
