//! What a light signals by being on and off for long and short.
//!
//! A light that is well is dark for moments of one length. One that signals pauses, between letters
//! or between pairs of pulses, and in none of its signals is it lit for long. So a light that is lit
//! for long has nothing to say, one whose dark moments are alike neither, and the rest is read:
//!
//! ```text
//! two pulses, a pause, three times over     initialization if short, maintenance if long
//! ... --- ... in units of a dot             error; what follows is its code
//! nothing of that for a minute              irregular
//! ```

use super::{Reading, Run};
use std::time::Duration;

/// No signal has the light lit for so long.
const LIT_LONG: Duration = Duration::from_millis(1500);
/// A light that is well is never dark for so long.
const DARK_LONG: Duration = Duration::from_secs(1);
/// Dark moments differ by more than that factor in every signal: a dot is to the space between
/// letters as 1 to 3. Those of a light that is well differ by less even as seen ten times a second.
const DARK_RATIO: f64 = 2.2;
/// Every signal pauses within that time: a letter of Morse code, the longest stretch without a
/// pause, takes four seconds with dots of 200 ms.
const SIGNAL_WITHIN: Duration = Duration::from_secs(10);
/// How long a light must be watched until it is said to be well though it is never lit for long.
const WATCH_MIN: Duration = Duration::from_secs(5);
/// The longest message, SOS and eight letters, is repeated within that time.
const READ_WITHIN: Duration = Duration::from_secs(60);
/// A pulse is long from here on.
const PULSE_LONG: Duration = Duration::from_millis(500);
/// Between the two pulses of a pair the light is not dark for longer than that many pulses.
const PAIR_SPACE_MAX: f64 = 1.5;
/// Runs that are remembered: the longest message has 98, and three make two that are whole.
const RUNS_MAX: usize = 320;

/// Lengths of on and off in SOS, from its first dot to its last (ITU-R M.1677-1 "International
/// Morse code").
const SOS: [u32; 17] = [1, 1, 1, 1, 1, 3, 3, 1, 3, 1, 3, 3, 1, 1, 1, 1, 1];
/// Their sum.
const SOS_UNITS: u32 = 27;

/// What a light did since it last was lit for long.
#[derive(Clone, Debug, Default)]
pub(super) struct Signals {
    /// Alternately on and off.
    runs: Vec<Run>,
    /// So many of them, the first, led up to what could be read: only what came after says that
    /// nothing can be.
    read: usize,
    /// Whether it was lit for long before.
    was_lit: bool,
}

impl Signals {
    pub(super) fn add(&mut self, run: Run) {
        if run.lit && run.len >= LIT_LONG {
            self.forget(self.runs.len());
            self.was_lit = true;
            return;
        }
        if self.runs.len() == RUNS_MAX {
            self.forget(RUNS_MAX / 4);
        }
        self.runs.push(run);
        if pulses(&self.runs).is_some() {
            self.read = self.runs.len();
        }
        if total(&self.runs) > SIGNAL_WITHIN && !self.is_signalling(Duration::ZERO) {
            self.forget(self.runs.len() - recent(&self.runs).len());
        }
    }

    /// Forgets so many runs, the oldest.
    fn forget(&mut self, count: usize) {
        self.runs.drain(..count);
        self.read = self.read.saturating_sub(count);
    }

    pub(super) fn gap(&mut self) {
        *self = Self::default();
    }

    /// What it says, being as it is for `now.len`, and watched for `watched`.
    pub(super) fn reading(&self, now: Run, watched: Duration) -> Reading {
        let dark = if now.lit { Duration::ZERO } else { now.len };
        if now.lit && now.len >= LIT_LONG {
            Reading::Operational
        } else if !self.is_signalling(dark) {
            if self.was_lit || watched >= WATCH_MIN {
                Reading::Operational
            } else {
                Reading::Unknown
            }
        } else if let Some(reading) = pulses(&self.runs) {
            reading
        } else if let Some(code) = error(&[&self.runs[..], &[now]].concat()) {
            Reading::Error { code }
        } else if total(&self.runs[self.read..]) > READ_WITHIN {
            Reading::Irregular
        } else {
            Reading::Unknown
        }
    }

    /// What was spelled after each SOS, oldest first. What broke off ends with two dots.
    pub(super) fn letters(&self) -> Vec<String> {
        let runs = &self.runs;
        let messages = runs.windows(SOS.len()).enumerate();
        let spelled = messages.filter_map(|(start, window)| {
            let dot = dot_of_sos(window)?;
            let Spelled { letters, is_whole } = spell(&runs[start + SOS.len()..], dot)?;
            match is_whole {
                true => Some(letters).filter(|letters| letters != "SOS"),
                false => Some(format!("{letters}..")),
            }
        });
        spelled.collect()
    }

    /// Whether the dark moments of late, the last of them `dark` long so far, are none of a light
    /// that is well.
    fn is_signalling(&self, dark: Duration) -> bool {
        let moments = recent(&self.runs).iter().filter(|run| !run.lit);
        let moments = moments.map(|run| run.len);
        let shortest = moments.clone().min().unwrap_or(DARK_LONG);
        let longest = moments.max().unwrap_or_default().max(dark);
        longest >= DARK_LONG || longest > shortest.mul_f64(DARK_RATIO)
    }
}

fn total(runs: &[Run]) -> Duration {
    runs.iter().map(|run| run.len).sum()
}

/// The runs that ended in the last seconds.
fn recent(runs: &[Run]) -> &[Run] {
    let mut len = Duration::ZERO;
    let first = runs.iter().rposition(|run| {
        len += run.len;
        len > SIGNAL_WITHIN
    });
    &runs[first.unwrap_or(0)..]
}

/// Two pulses and a pause, three times over, at the end of `runs`.
fn pulses(runs: &[Run]) -> Option<Reading> {
    /// Three pairs and the two pauses between them.
    const RUNS: usize = 11;
    /// Runs from one pair to the next.
    const CYCLE: usize = 4;
    let ends = (0..CYCLE).filter_map(|back| runs.len().checked_sub(back));
    let mut len = ends.filter_map(|end| {
        let runs = &runs[end.checked_sub(RUNS)?..end];
        let of = |first: usize, step: usize| runs.iter().skip(first).step_by(step);
        let pulse = alike(of(0, 2), 0.5)?;
        let space = alike(of(1, CYCLE), 0.5)?;
        let pause = alike(of(3, CYCLE), 0.25)?;
        let is_pair = runs[0].lit && space <= pulse.mul_f64(PAIR_SPACE_MAX) && pause >= space * 4;
        is_pair.then_some(pulse)
    });
    len.next().map(|len| {
        if len >= PULSE_LONG {
            Reading::Maintenance
        } else {
            Reading::Initialization
        }
    })
}

/// The mean of lengths none of which differs from it by more than `tolerance`.
fn alike<'a>(runs: impl Iterator<Item = &'a Run> + Clone, tolerance: f64) -> Option<Duration> {
    let count = u32::try_from(runs.clone().count()).ok()?;
    let sum: Duration = runs.clone().map(|run| run.len).sum();
    let mean = sum.checked_div(count)?;
    let apart = mean.mul_f64(tolerance);
    let mut all = runs;
    all.all(|run| run.len.abs_diff(mean) <= apart)
        .then_some(mean)
}

/// Whether an error is signalled, and its code, if two messages one after the other are the same.
fn error(runs: &[Run]) -> Option<Option<String>> {
    let messages = runs.windows(SOS.len()).enumerate();
    let mut is_error = false;
    let mut codes = Vec::new();
    for (start, window) in messages {
        let Some(dot) = dot_of_sos(window) else {
            continue;
        };
        is_error = true;
        codes.extend(code(&runs[start + SOS.len()..], dot));
    }
    let twice = codes.windows(2).rev().find(|pair| pair[0] == pair[1]);
    is_error.then(|| twice.map(|pair| pair[0].clone()))
}

/// The length of a dot, if `runs` are SOS.
fn dot_of_sos(runs: &[Run]) -> Option<Duration> {
    let dot = total(runs).checked_div(SOS_UNITS)?;
    let fits = |(run, units): (&Run, &u32)| units_of(run.len, dot) == Some(*units);
    let is_sos = runs.first()?.lit && runs.iter().zip(&SOS).all(fits);
    is_sos.then_some(dot)
}

/// What is said after SOS until the next pause between words, if that is letters.
fn code(runs: &[Run], dot: Duration) -> Option<String> {
    let spelled = spell(runs, dot)?;
    // SOS after SOS has no code between.
    (spelled.is_whole && spelled.letters != "SOS").then_some(spelled.letters)
}

/// Letters as far as they could be read.
struct Spelled {
    letters: String,
    /// Whether the pause between words came after the last.
    is_whole: bool,
}

/// What is spelled after SOS; `None` if no word has begun.
fn spell(runs: &[Run], dot: Duration) -> Option<Spelled> {
    let (pause, word) = runs.split_first()?;
    if units_of(pause.len, dot)? != 7 || word.is_empty() {
        return None;
    }
    let mut letters = String::new();
    let mut marks = String::new();
    let is_whole = word.chunks_exact(2).find_map(|pair| {
        let mark = match units_of(pair[0].len, dot) {
            Some(1) => '.',
            Some(3) => '-',
            _ => return Some(false),
        };
        marks.push(mark);
        let Some(space) = units_of(pair[1].len, dot) else {
            return Some(false);
        };
        if space > 1 {
            let Some(letter) = letter(&marks) else {
                return Some(false);
            };
            letters.push(letter);
            marks.clear();
        }
        (space == 7).then_some(true)
    });
    Some(Spelled {
        letters,
        is_whole: is_whole.unwrap_or(false),
    })
}

/// 1, 3 or 7, whichever is meant; `None` for what is too short for any.
fn units_of(len: Duration, dot: Duration) -> Option<u32> {
    match len.as_secs_f64() / dot.as_secs_f64() {
        0.4..2.0 => Some(1),
        2.0..5.0 => Some(3),
        5.0.. => Some(7),
        _ => None,
    }
}

fn letter(marks: &str) -> Option<char> {
    const LETTERS: [(&str, char); 36] = [
        (".-", 'A'),
        ("-...", 'B'),
        ("-.-.", 'C'),
        ("-..", 'D'),
        (".", 'E'),
        ("..-.", 'F'),
        ("--.", 'G'),
        ("....", 'H'),
        ("..", 'I'),
        (".---", 'J'),
        ("-.-", 'K'),
        (".-..", 'L'),
        ("--", 'M'),
        ("-.", 'N'),
        ("---", 'O'),
        (".--.", 'P'),
        ("--.-", 'Q'),
        (".-.", 'R'),
        ("...", 'S'),
        ("-", 'T'),
        ("..-", 'U'),
        ("...-", 'V'),
        (".--", 'W'),
        ("-..-", 'X'),
        ("-.--", 'Y'),
        ("--..", 'Z'),
        ("-----", '0'),
        (".----", '1'),
        ("..---", '2'),
        ("...--", '3'),
        ("....-", '4'),
        (".....", '5'),
        ("-....", '6'),
        ("--...", '7'),
        ("---..", '8'),
        ("----.", '9'),
    ];
    let known = LETTERS.iter().find(|(known, _)| *known == marks);
    known.map(|(_, letter)| *letter)
}
