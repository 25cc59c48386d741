//! The short form of fuzzing: mutates honest inputs, the same way for the same seed.
//!
//! It does not look at coverage and so finds only what lies near an honest input; `cargo xtask
//! fuzz` is for the rest. `FUZZ_SEED` sets another seed, as the message of a failure does.

use crate::{TARGETS, Target};
use fastrand::Rng;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

const SEED: u64 = 1;
/// Mutations piled on one input: most bugs need one or two, the rest need many.
const MUTATIONS_MAX: u32 = 8;

/// Tries a target on honest inputs, then on mutations of them.
pub(crate) fn run(name: &str) {
    let target = TARGETS
        .iter()
        .find(|target| target.name == name)
        .expect("names come from the table");
    let seed = std::env::var("FUZZ_SEED").map_or(SEED, |seed| {
        seed.parse().expect("FUZZ_SEED is a decimal number")
    });
    let mut rng = Rng::with_seed(seed);
    let mut corpus = (target.seeds)();
    assert!(!corpus.is_empty(), "{name} has nothing to start from");
    for input in &corpus {
        attempt(target, input, seed);
    }
    corpus.push(Vec::new());
    for _ in 0..target.smoke_inputs {
        attempt(target, &mutated(&mut rng, &corpus), seed);
    }
}

fn attempt(target: &Target, input: &[u8], seed: u64) {
    let run = AssertUnwindSafe(|| (target.run)(input));
    if let Err(panic) = catch_unwind(run) {
        let name = target.name;
        eprintln!(
            "again: FUZZ_SEED={seed} cargo test -p fuzz {name}\ninput: {}",
            hex(input)
        );
        resume_unwind(panic);
    }
}

fn mutated(rng: &mut Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut input = corpus[rng.usize(..corpus.len())].clone();
    for _ in 0..rng.u32(1..=MUTATIONS_MAX) {
        mutate(rng, &mut input, corpus);
    }
    input
}

fn mutate(rng: &mut Rng, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    const NOTABLE: [u64; 8] = [0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, u64::MAX];
    let start = rng.usize(..=input.len());
    let len = rng.usize(..=(input.len() - start).min(16));
    let range = start..start + len;
    match rng.u8(..8) {
        0 => input.truncate(start),
        1 => input.extend((0..len).map(|_| rng.u8(..))),
        2 => input[range].iter_mut().for_each(|byte| *byte = rng.u8(..)),
        3 => {
            input.drain(range);
        }
        4 => {
            let other = &corpus[rng.usize(..corpus.len())];
            let from = rng.usize(..=other.len());
            input.truncate(start);
            input.extend_from_slice(&other[from..]);
        }
        5 => {
            let notable = NOTABLE[rng.usize(..NOTABLE.len())].to_le_bytes();
            let len = [1, 2, 4, 8][rng.usize(..4)];
            if let Some(word) = input.get_mut(start..start + len) {
                word.copy_from_slice(&notable[..len]);
            }
        }
        _ => {
            if let Some(byte) = input.get_mut(start) {
                *byte ^= 1 << rng.u32(..8);
            }
        }
    }
}

fn hex(input: &[u8]) -> String {
    input.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("strings take everything");
        text
    })
}
