//! An engine that remembers its answers, for benchmarks of everything around it.
//!
//! The first time a session is asked something, the engine behind executes it; from then on the
//! answer is a look-up. Every answer is one that an honest card gave, but an ECDSA signature is
//! given again with the nonce it had, which an honest card never does.

use card_device::engine::{Direction, Engine, Offer, Operation, Session, SessionSpec};
use card_spec::crypto::Status;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, PoisonError, RwLock};

/// Answers remembered per session. A benchmark asks few different things; one that asks more
/// than this measures the engine behind.
const ANSWERS_MAX: usize = 4096;
/// Bytes at either end of each field that choose where to look; all are compared there. Padding
/// makes the start of a field the same for many, and counters the end.
const SAMPLE_LEN: usize = 32;

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
            hasher: RandomState::new(),
            answers: RwLock::default(),
        }))
    }
}

struct MemoisedSession {
    inner: Arc<dyn Session>,
    hasher: RandomState,
    answers: RwLock<HashMap<u64, Answer>>,
}

/// A question and the answer to it.
struct Answer {
    kind: u8,
    fields: [Vec<u8>; 3],
    result: Vec<u8>,
}

impl Session for MemoisedSession {
    fn execute(&self, operation: &Operation<'_>, output: &mut [u8]) -> Result<usize, Status> {
        let (kind, fields) = parts(operation);
        let samples = fields.map(|field| {
            let len = field.len().min(SAMPLE_LEN);
            (field.len(), &field[..len], &field[field.len() - len..])
        });
        let place = self.hasher.hash_one((kind, samples));
        {
            let answers = self.answers.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(answer) = answers.get(&place)
                && answer.kind == kind
                && answer.fields == fields
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
