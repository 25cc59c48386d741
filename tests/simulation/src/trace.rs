//! What happened in a run: a hash of everything, and the last of it in words.
//!
//! Two runs of one seed have one hash. Nothing goes in that differs from process to process, such
//! as the bytes of a signature with a random nonce.

use hwshim::clock::Instant;
use std::collections::VecDeque;
use std::fmt::{self, Write as _};

/// Lines that a failure shows.
const LAST_LINES: usize = 30;

/// Everything that happened, as a hash; and the end of it.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    lines: VecDeque<String>,
    steps: u64,
    /// Who is told each line as it is noted.
    listener: Option<fn(&str)>,
}

impl Trace {
    pub(crate) fn new(listener: Option<fn(&str)>) -> Self {
        /// Where 64-bit FNV-1a starts.
        const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
        Self {
            hash: OFFSET_BASIS,
            lines: VecDeque::with_capacity(LAST_LINES),
            steps: 0,
            listener,
        }
    }

    /// Takes note of something that happened at `now`.
    pub(crate) fn note(&mut self, now: Instant, what: fmt::Arguments<'_>) {
        let mut line = if self.lines.len() == LAST_LINES {
            self.lines.pop_front().unwrap_or_default()
        } else {
            String::new()
        };
        line.clear();
        self.steps += 1;
        let _ = write!(line, "{:>6} {:>18} ", self.steps, Time(now));
        let _ = line.write_fmt(what);
        self.mix(&line);
        if let Some(listener) = self.listener {
            listener(&line);
        }
        self.lines.push_back(line);
    }

    fn mix(&mut self, line: &str) {
        const PRIME: u64 = 0x0000_0100_0000_01b3;
        for byte in line.bytes().chain([b'\n']) {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(PRIME);
        }
    }

    pub(crate) const fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) const fn steps(&self) -> u64 {
        self.steps
    }

    pub(crate) fn last_lines(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }
}

/// An instant in seconds, to the microsecond.
pub(crate) struct Time(pub(crate) Instant);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_nanos() / 1000;
        let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
        f.pad(&format!("{seconds}.{micros:06}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_when_and_in_which_order_is_in_the_hash() {
        let hash = |events: &[(u64, &str)]| {
            let mut trace = Trace::new(None);
            for (nanos, what) in events {
                trace.note(Instant::from_nanos(*nanos), format_args!("{what}"));
            }
            trace.hash()
        };
        let base = hash(&[(1000, "a"), (2000, "b")]);
        assert_eq!(base, hash(&[(1000, "a"), (2000, "b")]));
        assert_ne!(base, hash(&[(1000, "b"), (2000, "a")]));
        assert_ne!(base, hash(&[(1000, "a"), (3000, "b")]));
    }

    #[test]
    fn only_the_end_is_kept_in_words() {
        let mut trace = Trace::new(None);
        for number in 0..100 {
            trace.note(Instant::ORIGIN, format_args!("event {number}"));
        }
        let lines = trace.last_lines();
        assert_eq!((lines.len(), trace.steps()), (LAST_LINES, 100));
        assert!(lines.last().is_some_and(|line| line.ends_with("event 99")));
    }
}
