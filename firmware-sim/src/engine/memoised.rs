//! An engine that remembers its answers, for benchmarks of everything around it.
//!
//! The first time a session is asked something, the engine behind executes it; from then on the
//! answer is a look-up. Every answer is one that an honest card gave, but an ECDSA signature is
//! given again with the nonce it had, which an honest card never does.

use card_device::engine::{Direction, Engine, Offer, Operation, Session, SessionSpec};
use card_spec::crypto::Status;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// Answers remembered per session. A benchmark asks few different things; one that asks more
/// than this measures the engine behind.
const ANSWERS_MAX: usize = 4096;
/// Words at either end of each field that choose where to look; all are compared there. Padding
/// makes the start of a field the same for many, and counters the end.
const SAMPLE_WORDS: usize = 4;

/// Wraps an engine.
#[derive(Debug)]
pub struct Memoised {
    inner: Arc<dyn Engine>,
}

impl Memoised {
    /// Remembers the answers of `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Engine>) -> Self {
        Self { inner }
    }
}

impl Engine for Memoised {
    fn offer(&self) -> Offer {
        self.inner.offer()
    }

    fn open(&self, spec: &SessionSpec, key: &[u8]) -> Result<Arc<dyn Session>, Status> {
        Ok(Arc::new(MemoisedSession {
            inner: self.inner.open(spec, key)?,
            answers: RwLock::default(),
        }))
    }
}

struct MemoisedSession {
    inner: Arc<dyn Session>,
    answers: RwLock<BTreeMap<u64, Answer>>,
}

/// A question and the answer to it.
struct Answer {
    kind: u8,
    fields: [Vec<u8>; 3],
    result: Vec<u8>,
}

impl Answer {
    fn answers(&self, kind: u8, fields: [&[u8]; 3]) -> bool {
        // Most fields are empty, and are not even looked at: comparing no bytes at the address an
        // empty `Vec` has costs a fault inside the CPU where the C library uses masked loads.
        let same = |(ours, theirs): (&Vec<u8>, &[u8])| {
            ours.len() == theirs.len() && (ours.is_empty() || ours == theirs)
        };
        self.kind == kind && self.fields.iter().zip(fields).all(same)
    }
}

impl Session for MemoisedSession {
    fn execute(&self, operation: &Operation<'_>, output: &mut [u8]) -> Result<usize, Status> {
        let (kind, fields) = parts(operation);
        let place = place(kind, fields);
        {
            let answers = self.answers.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(answer) = answers.get(&place)
                && answer.answers(kind, fields)
            {
                return super::deliver(&answer.result, output);
            }
        }
        let len = self.inner.execute(operation, output)?;
        let mut answers = self.answers.write().unwrap_or_else(PoisonError::into_inner);
        if answers.len() < ANSWERS_MAX {
            answers.entry(place).or_insert_with(|| Answer {
                kind,
                fields: fields.map(<[u8]>::to_vec),
                result: output[..len].to_vec(),
            });
        }
        Ok(len)
    }
}

/// Everything that distinguishes an operation: a number for what it is, and its fields.
fn parts<'a>(operation: &Operation<'a>) -> (u8, [&'a [u8]; 3]) {
    let way = |direction: &Direction| u8::from(*direction == Direction::Decrypt);
    match operation {
        Operation::Cipher {
            direction,
            iv,
            source,
        } => (way(direction), [iv, source, &[]]),
        Operation::Aead {
            direction,
            nonce,
            aad,
            source,
        } => (2 + way(direction), [nonce, aad, source]),
        Operation::Hash { source } => (4, [source, &[], &[]]),
        Operation::Mac { source } => (5, [source, &[], &[]]),
        Operation::Encrypt { source } => (6, [source, &[], &[]]),
        Operation::Decrypt { source } => (7, [source, &[], &[]]),
        Operation::Sign { digest } => (8, [digest, &[], &[]]),
        Operation::Verify { signature, digest } => (9, [signature, digest, &[]]),
    }
}

/// Where to look for the answer. A place that two questions share costs the later one its
/// memory, so this need only be quick and spread what benchmarks ask.
fn place(kind: u8, fields: [&[u8]; 3]) -> u64 {
    /// Odd, with no pattern in its bits.
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut place = u64::from(kind);
    let mut mix = |word: u64| place = (place.rotate_left(29) ^ word).wrapping_mul(MULTIPLIER);
    for field in fields {
        let (words, rest) = field.as_chunks::<8>();
        let first = words.iter().take(SAMPLE_WORDS);
        let last = words.iter().rev().take(SAMPLE_WORDS);
        first
            .chain(last)
            .for_each(|word| mix(u64::from_le_bytes(*word)));
        rest.iter().for_each(|&byte| mix(byte.into()));
        mix(field.len() as u64);
    }
    place
}
