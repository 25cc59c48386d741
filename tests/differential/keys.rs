//! Signing keys, drawn from a seed and read by all three implementations.
//!
//! AWS-LC would generate RSA keys faster, but not the same ones again, nor with the public
//! exponents that real keys have beside 65537.

use crate::aws_lc::Signer;
use crate::der;
use crate::draw::Draw;
use card_device::engine::{self, Engine, KeyType, RsaHash, RsaPadding, SessionSpec};
use card_spec::crypto::Status;
use crypto_bigint::modular::{BoxedMontyForm, BoxedMontyParams};
use crypto_bigint::{BoxedUint, ConcatenatingMul, Limb, NonZero, Odd, Resize};
use fastrand::Rng;
use firmware_sim::engine::RustCrypto;
use hwshim::accelerator::{DeviceMisbehaved, Operation, Secret, Unverified};
use hwshim::key::{Curve, HashAlgorithm, SignatureAlgorithm, SignatureScheme, SigningKey};
use hwshim::router::verify;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Lengths of an RSA modulus that hwshim takes, in bits.
pub(crate) const RSA_BITS: [u32; 3] = [2048, 3072, 4096];
/// Cases that share their primes, because finding one takes as long as hundreds of signatures.
const SEEDS_PER_POOL: u64 = 256;
/// Primes of each length in a pool: three make three moduli.
const POOL_LEN: usize = 3;
/// ring takes none below 65537, and nobody one of more than 33 bits.
const EXPONENT_MIN: u64 = 65_537;
const EXPONENT_MAX: u64 = (1 << 33) - 1;

/// One private key, in the hands of all three.
pub(crate) struct Keys {
    pub(crate) ours: Arc<SigningKey>,
    pub(crate) aws_lc: Signer,
    /// The RSA modulus, or the order of the curve's group.
    pub(crate) order: BoxedUint,
}

impl Keys {
    pub(crate) fn rsa(draw: &mut Draw, bits: u32) -> Self {
        let (pkcs1, modulus) = rsa_private_key(draw, bits);
        let aws_lc = Signer::rsa(&pkcs1);
        let ours = SigningKey::from_pkcs1(&pkcs1).unwrap();
        Self::new(ours, aws_lc, modulus)
    }

    pub(crate) fn ecdsa(draw: &mut Draw, curve: Curve) -> Self {
        let order = order(curve);
        let scalar = scalar(draw, &order);
        let aws_lc = Signer::ecdsa(curve, &der::ec_private_key(&scalar, None));
        let sec1 = der::ec_private_key(&scalar, Some(aws_lc.public_key()));
        let ours = SigningKey::from_sec1(curve, &sec1).unwrap();
        Self::new(ours, aws_lc, order)
    }

    fn new(ours: SigningKey, aws_lc: Signer, order: BoxedUint) -> Self {
        assert_eq!(ours.public_key(), aws_lc.public_key());
        let ours = Arc::new(ours);
        Self {
            ours,
            aws_lc,
            order,
        }
    }

    pub(crate) fn sign_operation(&self, scheme: SignatureScheme, message: &[u8]) -> Operation {
        Operation::Sign {
            key: Arc::clone(&self.ours),
            scheme,
            message: Secret::from(message),
        }
    }

    /// Whether the signature is valid, which all three must find alike.
    pub(crate) fn accept(&self, scheme: SignatureScheme, message: &[u8], signature: &[u8]) -> bool {
        let aws_lc = self.aws_lc.accepts(scheme, message, signature);
        let ring = self.router_releases(scheme, message, signature);
        let shown = || format!("{} by {:?}: {signature:02x?}", scheme.name(), self.ours);
        assert_eq!(ring, aws_lc, "ring and AWS-LC on {}", shown());
        if let Some(card) = self.card_accepts(scheme, message, signature) {
            assert_eq!(card, aws_lc, "the card and AWS-LC on {}", shown());
        }
        aws_lc
    }

    fn router_releases(&self, scheme: SignatureScheme, message: &[u8], signature: &[u8]) -> bool {
        let answer = Unverified::new(signature.to_vec());
        match verify::check(&self.sign_operation(scheme, message), answer) {
            // Valid, and held back because another signature has the same `r`.
            Ok(_) | Err(DeviceMisbehaved::RepeatedNonce) => true,
            Err(DeviceMisbehaved::WrongAnswer) => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// What the card's engine says when asked to verify; it knows no PSS.
    fn card_accepts(
        &self,
        scheme: SignatureScheme,
        message: &[u8],
        signature: &[u8],
    ) -> Option<bool> {
        let key = KeyType::Public;
        let spec = match scheme.algorithm() {
            SignatureAlgorithm::RsaPss => return None,
            SignatureAlgorithm::RsaPkcs1 => SessionSpec::Rsa {
                key,
                padding: RsaPadding::Pkcs1 {
                    hash: Some(rsa_hash(scheme.hash())),
                },
            },
            SignatureAlgorithm::Ecdsa(curve) => SessionSpec::Ecdsa {
                key,
                curve: match curve {
                    Curve::P256 => engine::Curve::P256,
                    Curve::P384 => engine::Curve::P384,
                },
            },
        };
        let session = RustCrypto.open(&spec, self.ours.public_key()).unwrap();
        let digest = scheme.hash().digest(message);
        let verify = engine::Operation::Verify {
            signature,
            digest: digest.as_ref(),
        };
        match session.execute(&verify, &mut []) {
            Ok(_) => Some(true),
            Err(Status::KEY_REJECTED) => Some(false),
            Err(status) => panic!("the card answers {status}"),
        }
    }
}

const fn rsa_hash(hash: HashAlgorithm) -> RsaHash {
    match hash {
        HashAlgorithm::Sha256 => RsaHash::Sha256,
        HashAlgorithm::Sha384 => RsaHash::Sha384,
        HashAlgorithm::Sha512 => RsaHash::Sha512,
    }
}

/// PKCS #1, and the modulus.
fn rsa_private_key(draw: &mut Draw, bits: u32) -> (Vec<u8>, BoxedUint) {
    let [p, q] = two_primes(draw, bits / 2);
    let minus_one = |prime: &BoxedUint| prime - &BoxedUint::one();
    let [p1, q1] = [minus_one(&p), minus_one(&q)];
    let modulus = p.concatenating_mul(&q);
    let phi = p1.concatenating_mul(&q1);
    let q_inverse = q.invert_odd_mod(&Odd::new(p.clone()).unwrap()).unwrap();
    loop {
        let exponent = match draw.rng.u8(..4) {
            0 => EXPONENT_MIN,
            1 => draw.pick(&[EXPONENT_MIN + 2, (1 << 32) + 1, EXPONENT_MAX]),
            _ => draw.rng.u64(EXPONENT_MIN..EXPONENT_MAX) | 1,
        };
        let exponent = BoxedUint::from(exponent);
        let inverse = |modulus: &BoxedUint| {
            let exponent = exponent.clone().resize(modulus.bits_precision());
            let modulus = NonZero::new(modulus.clone()).unwrap();
            exponent.invert_mod(&modulus).into_option()
        };
        // One that divides p - 1 or q - 1 has no inverse; there are others.
        if let (Some(d), Some(dp), Some(dq)) = (inverse(&phi), inverse(&p1), inverse(&q1)) {
            let numbers = [&modulus, &exponent, &d, &p, &q, &dp, &dq, &q_inverse];
            return (der::rsa_private_key(numbers), modulus);
        }
    }
}

/// Two primes of a pool, the larger one first.
fn two_primes(draw: &mut Draw, bits: u32) -> [BoxedUint; 2] {
    static POOLS: Mutex<BTreeMap<(u64, u32), Vec<BoxedUint>>> = Mutex::new(BTreeMap::new());
    let number = draw.seed / SEEDS_PER_POOL;
    let mut pools = POOLS
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let pool = pools.entry((number, bits)).or_insert_with(|| {
        let mut rng = Rng::with_seed(number << 32 | u64::from(bits));
        (0..POOL_LEN).map(|_| prime(&mut rng, bits)).collect()
    });
    let first = draw.rng.usize(..POOL_LEN);
    let second = (first + draw.rng.usize(1..POOL_LEN)) % POOL_LEN;
    let mut primes = [pool[first].clone(), pool[second].clone()];
    primes.sort_by(|one, other| other.cmp(one));
    primes
}

/// A prime whose two topmost bits are set, so that the product of two has twice as many bits.
fn prime(rng: &mut Rng, bits: u32) -> BoxedUint {
    let mut bytes = vec![0; bits as usize / 8];
    rng.fill(&mut bytes);
    bytes[0] |= 0xc0;
    *bytes.last_mut().unwrap() |= 1;
    let start = BoxedUint::from_be_slice(&bytes, bits).unwrap();
    let small_primes = (3..10_000_u64).step_by(2).filter(|&number| {
        (3..)
            .step_by(2)
            .take_while(|d| d * d <= number)
            .all(|d| number % d != 0)
    });
    let remainders: Vec<_> = small_primes
        .map(|small| {
            let remainder = start.rem_limb(NonZero::new(Limb::from(small)).unwrap());
            (small, remainder.0)
        })
        .collect();
    (0_u64..)
        .step_by(2)
        .filter(|offset| {
            let mut remainders = remainders.iter();
            remainders.all(|(small, remainder)| (remainder + offset) % small != 0)
        })
        .map(|offset| &start + offset)
        .find(is_prime)
        .unwrap()
}

/// Fermat's test. A random number of this length that passes it is prime but for one in far more
/// than there are atoms, and one that is not makes signatures that do not verify.
fn is_prime(number: &BoxedUint) -> bool {
    let parameters = BoxedMontyParams::new_vartime(Odd::new(number.clone()).unwrap());
    let two = BoxedUint::from(2_u8).resize(number.bits_precision());
    let power = BoxedMontyForm::new(two, &parameters).pow(&(number - &BoxedUint::one()));
    bool::from(power.retrieve().is_one())
}

/// The order of the curve's group (SEC 2 §2.4.2 and §2.5.1, "Recommended Parameters").
fn order(curve: Curve) -> BoxedUint {
    let hex = match curve {
        Curve::P256 => "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551",
        Curve::P384 => concat!(
            "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf",
            "581a0db248b0a77aecec196accc52973"
        ),
    };
    BoxedUint::from_str_radix_vartime(hex, 16).unwrap()
}

/// A private scalar, from 1 to `order - 1`; its bytes are as many as those of `order`.
fn scalar(draw: &mut Draw, order: &BoxedUint) -> Vec<u8> {
    let len = order.to_be_bytes().len();
    let small = BoxedUint::from(draw.rng.u8(1..4)).resize(order.bits_precision());
    match draw.rng.u8(..8) {
        0 => small.to_be_bytes().to_vec(),
        1 => (order - &small).to_be_bytes().to_vec(),
        choice => loop {
            let mut bytes = draw.bytes(len);
            if choice == 2 {
                bytes[..len / 4].fill(0);
            }
            let number = BoxedUint::from_be_slice_vartime(&bytes);
            if number < *order && !bool::from(number.is_zero()) {
                break bytes;
            }
        },
    }
}
