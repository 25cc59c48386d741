//! Follows one light for people: its edges as they come, what was seen of it drawn as blocks, and what
//! each decoder makes of it.
//!
//! It says what was read and no more: letters that were spelled are shown as spelled, once or twice,
//! whole or not, and what they mean only where that is known (see [`meaning`](super::meaning)).

use super::{Decoder, EdgeLog, Profile, Reading};
use card_spec::health::Summary;
use hwshim::clock::Instant;
use serde::Serialize;
use std::collections::VecDeque;
use std::time::Duration;

/// Stretches of light and dark that are remembered for drawing.
const STRETCHES_MAX: usize = 4096;

/// What became of a light.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Happened {
    /// It went on or off.
    Edge {
        /// At that uptime of the card's firmware.
        at: Instant,
        /// Whether it is on since.
        lit: bool,
        /// How long it was as it had been, if that was seen.
        after: Option<Duration>,
    },
    /// Edges may have been missed: the log was overwritten, or the firmware has started anew.
    Gap,
}

/// A stretch in which the light was one way.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    from: Instant,
    until: Instant,
    lit: bool,
}

/// What one decoder makes of a light.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Read {
    /// As whose light it is read.
    pub profile: Profile,
    /// What it says.
    #[serde(flatten)]
    pub reading: Reading,
    /// The same in words.
    pub words: String,
    /// Intervals between blinks that were too long or too short, of those that the rule looks back
    /// upon; `null` in a profile without a rhythm.
    pub outliers: Option<Outliers>,
    /// What was spelled after each SOS, oldest first, as read: `B1`, or `B..` where it broke off.
    pub letters: Vec<String>,
}

/// Intervals that are not as they should be.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Outliers {
    /// So many.
    pub outliers: u32,
    /// Of so many that were seen.
    pub among: u32,
    /// With so many the rhythm is lost.
    pub too_many: u32,
}

/// Follows one light.
#[derive(Debug)]
pub struct Trace {
    log: EdgeLog,
    decoders: Vec<(Profile, Decoder)>,
    stretches: VecDeque<Stretch>,
    /// When it last changed, since the last gap.
    changed_at: Option<Instant>,
    has_looked: bool,
    edges: u64,
    gaps: u64,
}

impl Trace {
    /// Reads as `profile`, or as each there is if nobody knows which.
    #[must_use]
    pub fn new(profile: Option<Profile>) -> Self {
        let profiles = profile.map_or_else(|| Profile::ALL.to_vec(), |one| vec![one]);
        Self {
            log: EdgeLog::new(),
            decoders: profiles
                .into_iter()
                .map(|profile| (profile, Decoder::new(profile)))
                .collect(),
            stretches: VecDeque::new(),
            changed_at: None,
            has_looked: false,
            edges: 0,
            gaps: 0,
        }
    }

    /// Takes in a health page, and tells what is new in it.
    pub fn look(&mut self, page: &Summary) -> Vec<Happened> {
        let new = self.log.read(page);
        for (_, decoder) in &mut self.decoders {
            new.tell(decoder);
        }
        let mut happened = Vec::new();
        // Before the first look nothing was seen that could have been missed.
        if new.gap && self.has_looked {
            self.gaps += 1;
            happened.push(Happened::Gap);
        }
        if new.gap {
            self.changed_at = None;
        }
        self.has_looked = true;
        for (at, lit) in new.edges {
            let after = self.changed_at.map(|before| at.since(before));
            self.see(at, !lit);
            self.begin(at, lit);
            self.changed_at = Some(at);
            self.edges += 1;
            happened.push(Happened::Edge { at, lit, after });
        }
        let (at, lit) = new.now;
        self.see(at, lit);
        happened
    }

    /// How often it went on or off.
    #[must_use]
    pub const fn edges(&self) -> u64 {
        self.edges
    }

    /// How often edges may have been missed.
    #[must_use]
    pub const fn gaps(&self) -> u64 {
        self.gaps
    }

    /// What was read.
    #[must_use]
    pub fn read(&self) -> Vec<Read> {
        let read = |(profile, decoder): &(Profile, Decoder)| {
            let reading = decoder.reading();
            Read {
                profile: *profile,
                words: reading.to_string(),
                reading,
                outliers: decoder.outliers(),
                letters: decoder.letters(),
            }
        };
        self.decoders.iter().map(read).collect()
    }

    /// The last of what was seen, `cells` blocks at most of `cell` each: `█` lit, `▂` dark, `?` not
    /// seen. A cell in which it was lit for a moment only is lit, for a blink is what there is to see.
    #[must_use]
    pub fn blocks(&self, cells: u32, cell: Duration) -> String {
        let Some(last) = self.stretches.back() else {
            return String::new();
        };
        let first = self.stretches.front().map_or(last.from, |first| first.from);
        let seen = last
            .until
            .since(first)
            .as_nanos()
            .div_ceil(cell.as_nanos().max(1));
        let count = u32::try_from(seen).unwrap_or(u32::MAX).clamp(1, cells);
        let end = last.until.as_nanos();
        let width = hwshim::clock::nanos(cell);
        (0..count)
            .map(|index| {
                let until = end.saturating_sub(width.saturating_mul((count - 1 - index).into()));
                self.block(
                    Instant::from_nanos(until.saturating_sub(width)),
                    Instant::from_nanos(until),
                )
            })
            .collect()
    }

    fn block(&self, from: Instant, until: Instant) -> char {
        let mut block = '?';
        for stretch in self.stretches.iter().rev() {
            if stretch.until <= from {
                break;
            }
            if stretch.from < until {
                if stretch.lit {
                    return '█';
                }
                block = '▂';
            }
        }
        block
    }

    /// It was so until `at`, unless a gap came between.
    fn see(&mut self, at: Instant, lit: bool) {
        match self.stretches.back_mut() {
            Some(last)
                if last.lit == lit && self.changed_at.is_some_and(|from| from == last.from) =>
            {
                last.until = last.until.max(at);
            }
            _ if self.changed_at.is_none() => self.begin(at, lit),
            _ => {}
        }
    }

    fn begin(&mut self, at: Instant, lit: bool) {
        // One that was seen at an instant only is extended by what follows without a gap.
        if self.stretches.len() == STRETCHES_MAX {
            self.stretches.pop_front();
        }
        self.stretches.push_back(Stretch {
            from: at,
            until: at,
            lit,
        });
        self.changed_at.get_or_insert(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use card_spec::health::{LED_EDGES_MAX, LedEdge};
    use zerocopy::FromZeros;

    /// A card whose light changes when it is told to.
    struct Card {
        page: Summary,
        lit: bool,
    }

    impl Card {
        fn new() -> Self {
            Self {
                page: Summary::new_zeroed(),
                lit: false,
            }
        }

        /// Stays as it is for so long, then changes.
        fn runs(&mut self, lens_ms: &[u64]) {
            for len_ms in lens_ms {
                let uptime_ms = self.page.uptime_ms.get() + len_ms;
                self.page.uptime_ms = uptime_ms.into();
                self.lit = !self.lit;
                let count = self.page.led_edge_count.get();
                let edge = LedEdge::new()
                    .with_uptime_ms(u32::try_from(uptime_ms).unwrap())
                    .with_lit(self.lit);
                let index = usize::try_from(count).unwrap() % LED_EDGES_MAX;
                self.page.led_edges[index] = edge.into_bits().into();
                self.page.led_edge_count = (count + 1).into();
            }
        }
    }

    #[test]
    fn edges_are_told_once_with_their_times_and_drawn() {
        let mut card = Card::new();
        let mut trace = Trace::new(Some(Profile::Nfast500));
        assert_eq!(trace.look(&card.page), []);
        card.runs(&[1_000, 200]);
        let told = trace.look(&card.page);
        let at = |millis| Instant::ORIGIN.plus(Duration::from_millis(millis));
        let [
            Happened::Edge {
                at: on, lit: true, ..
            },
            off,
        ] = told[..]
        else {
            panic!("{told:?}");
        };
        assert_eq!(on, at(1_000));
        let after = Some(Duration::from_millis(200));
        assert_eq!(
            off,
            Happened::Edge {
                at: at(1_200),
                lit: false,
                after
            }
        );
        assert_eq!(trace.look(&card.page), [], "told once");
        card.runs(&[600]);
        trace.look(&card.page);
        let drawn = trace.blocks(8, Duration::from_millis(200));
        assert_eq!(drawn, "▂▂▂▂▂█▂▂▂".chars().skip(1).collect::<String>());
        assert_eq!((trace.edges(), trace.gaps()), (3, 0));
    }

    #[test]
    fn what_was_missed_is_said_and_drawn_as_not_seen() {
        let mut card = Card::new();
        let mut trace = Trace::new(None);
        trace.look(&card.page);
        card.runs(&[500; 8]);
        trace.look(&card.page);
        card.runs(&[500; 40]);
        let told = trace.look(&card.page);
        assert_eq!(told[0], Happened::Gap);
        assert_eq!(told.len(), 1 + LED_EDGES_MAX);
        let drawn = trace.blocks(100, Duration::from_millis(250));
        assert!(drawn.contains('?') && drawn.contains('█'), "{drawn}");
        card.page.boot_id = 9.into();
        assert_eq!(trace.look(&card.page)[0], Happened::Gap);
        assert_eq!(trace.gaps(), 2);
    }

    #[test]
    fn outliers_are_counted_before_they_are_too_many() {
        let mut card = Card::new();
        let mut trace = Trace::new(Some(Profile::Nfast500));
        trace.look(&card.page);
        for dark in [3_300, 3_300, 900, 3_300, 900] {
            card.runs(&[dark, 200]);
            trace.look(&card.page);
        }
        let read = &trace.read()[0];
        let outliers = read.outliers.unwrap();
        assert_eq!(
            (outliers.outliers, outliers.among, outliers.too_many),
            (2, 4, 4)
        );
        assert_eq!(read.reading, Reading::Operational);
    }

    #[test]
    fn letters_are_shown_as_spelled_before_they_are_believed_and_mean_nothing_that_is_not_known() {
        let spell = |card: &mut Card, trace: &mut Trace, text: &[&str]| {
            for (number, letter) in text.iter().enumerate() {
                for (index, mark) in letter.chars().enumerate() {
                    let space = match (number, index) {
                        (0, 0) => 7,
                        (_, 0) => 3,
                        _ => 1,
                    };
                    let len = if mark == '.' { 1 } else { 3 };
                    card.runs(&[space * 200, len * 200]);
                    trace.look(&card.page);
                }
            }
        };
        let sos = ["...", "---", "..."];
        let mut card = Card::new();
        let mut trace = Trace::new(Some(Profile::Nshield));
        trace.look(&card.page);
        for (code, letters) in [(["-...", ".----"], "B1"), (["--.-", "--..."], "Q7")] {
            spell(&mut card, &mut trace, &sos);
            spell(&mut card, &mut trace, &code);
            spell(&mut card, &mut trace, &sos);
            let read = &trace.read()[0];
            assert!(read.letters.contains(&letters.to_owned()), "{read:?}");
            assert_eq!(read.reading, Reading::Error { code: None }, "read once");
        }
        spell(&mut card, &mut trace, &["--.-", "--..."]);
        spell(&mut card, &mut trace, &sos);
        let words = &trace.read()[0].words;
        assert_eq!(words, "SOS-Q7", "and nothing about what that means");
    }
}
