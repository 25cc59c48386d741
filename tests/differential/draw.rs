//! What a seed decides: keys, lengths, messages, and how an answer is damaged.
//!
//! One seed is one case, so a case that fails is replayed by its seed alone. What the
//! implementations draw themselves (nonces, salts) is theirs and differs from run to run.

use crate::der;
use crypto_bigint::BoxedUint;
use fastrand::Rng;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Where padding, blocks and pages begin and end, for each of the hashes and ciphers.
const NOTABLE_LENGTHS: [usize; 33] = [
    0, 1, 15, 16, 17, 31, 32, 33, 47, 48, 49, 55, 56, 57, 63, 64, 65, 111, 112, 113, 119, 120, 127,
    128, 129, 255, 256, 257, 4095, 4096, 4097, 16_383, 16_384,
];
/// Longest message, in bytes.
const MESSAGE_LEN_MAX: usize = 16 * 1024;

/// Runs `case` for the seeds 0, 1, 2, and so on, `count` of them.
///
/// `HWSHIM_SEED` sets the first seed and `HWSHIM_CASES` the number of seeds.
pub(crate) fn for_each_seed(test: &str, count: u64, mut case: impl FnMut(&mut Draw)) {
    let first = from_environment("HWSHIM_SEED").unwrap_or(0);
    let count = from_environment("HWSHIM_CASES").unwrap_or(count);
    for seed in first..first + count {
        let run = AssertUnwindSafe(|| case(&mut Draw::new(seed)));
        if let Err(panic) = catch_unwind(run) {
            eprintln!(
                "again: HWSHIM_SEED={seed} HWSHIM_CASES=1 cargo test --test differential {test}"
            );
            resume_unwind(panic);
        }
    }
}

fn from_environment(name: &str) -> Option<u64> {
    let number = std::env::var(name).ok()?;
    Some(number.parse().unwrap_or_else(|_| {
        panic!("{name} is {number:?} and should be a decimal number");
    }))
}

/// Everything random about one case.
pub(crate) struct Draw {
    pub(crate) seed: u64,
    pub(crate) rng: Rng,
}

impl Draw {
    fn new(seed: u64) -> Self {
        let rng = Rng::with_seed(seed);
        Self { seed, rng }
    }

    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.rng.usize(..choices.len())]
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.rng.fill(&mut bytes);
        bytes
    }

    pub(crate) fn array<const LEN: usize>(&mut self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        self.rng.fill(&mut bytes);
        bytes
    }

    /// A length up to `max`: a notable one half of the time, else short rather than long.
    pub(crate) fn len(&mut self, max: usize) -> usize {
        let len = match self.rng.u8(..8) {
            0..4 => self.pick(&NOTABLE_LENGTHS),
            4..7 => self.rng.usize(..=300),
            _ => self.rng.usize(..=max),
        };
        len.min(max)
    }

    pub(crate) fn message(&mut self) -> Vec<u8> {
        let len = self.len(MESSAGE_LEN_MAX);
        self.bytes(len)
    }

    /// Damages `bytes`: never gives back what it was given.
    pub(crate) fn damaged(&mut self, bytes: &[u8]) -> Vec<u8> {
        loop {
            let mut damaged = bytes.to_vec();
            let at = self.rng.usize(..=bytes.len());
            match self.rng.u8(..12) {
                0 => damaged.truncate(at),
                1 => damaged.insert(at, self.rng.u8(..)),
                2 => damaged.fill(0),
                3 => damaged.fill(0xff),
                4 => damaged.insert(0, 0),
                5 => damaged[at..].reverse(),
                6 => damaged.rotate_left(at),
                7 if at < bytes.len() => damaged[at] = self.rng.u8(..),
                _ if at < bytes.len() => damaged[at] ^= 1 << self.rng.u32(..8),
                _ => {}
            }
            if damaged != bytes {
                return damaged;
            }
        }
    }

    /// Damages an RSA signature, sometimes into a number that is the same modulo `modulus`.
    pub(crate) fn damaged_rsa(&mut self, signature: &[u8], modulus: &BoxedUint) -> Vec<u8> {
        let len = signature.len();
        let number = BoxedUint::from_be_slice_vartime(signature);
        let other = match self.rng.u8(..4) {
            0 => number.concatenating_add(modulus),
            1 => modulus - &number,
            2 => modulus.clone(),
            _ => return self.damaged(signature),
        };
        let bytes = other.to_be_bytes_trimmed_vartime();
        // A sum that is longer than the modulus stays longer, which is damage as well.
        [vec![0; len.saturating_sub(bytes.len())], bytes.to_vec()].concat()
    }

    /// Damages an ECDSA signature, mostly in its numbers or in how they are written.
    ///
    /// One such change leaves it valid: `order - s` in the place of `s`.
    pub(crate) fn damaged_ecdsa(&mut self, signature: &[u8], order: &BoxedUint) -> Vec<u8> {
        let [r, s] = der::two_integers(signature);
        let (zero, one) = (BoxedUint::zero(), BoxedUint::one());
        let damaged = match self.rng.u8(..12) {
            0 => der::signature(&r, &(order - &s)),
            1 => der::signature(&(order - &r), &s),
            2 => der::signature(&s, &r),
            3 => der::signature(&zero, &s),
            4 => der::signature(&r, &zero),
            5 => der::signature(&one, &one),
            6 => der::signature(&r, order),
            7 => der::signature(&r.concatenating_add(order), &s),
            8 => der::signature_not_minimal(&r, &s),
            9 => der::signature_with_long_length(&r, &s),
            _ => self.damaged(signature),
        };
        assert_ne!(damaged, signature);
        damaged
    }
}
