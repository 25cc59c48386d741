//! What the light of a card shows, edge by edge.
//!
//! A light goes on and off as its vendor's cards do, or as a fault has it. Reading it is a monitor's
//! business.
//!
//! ```text
//! nfast-500        _#_______________#______________#____   a blink every 3 to 4 s
//! nshield          ######_##########_###_#####_#########   lit, off now and then, more under load
//! irregular        _#__#_________#_#____________________
//! initialization   _#_#_______#_#_______#_#_______#_#___
//! maintenance      _####__####________####__####________
//! SOS B            _#_#_#___###_###_###___#_#_#___###_#_#_#_______
//! ```

use std::collections::VecDeque;
use std::time::Duration;

/// How the lights of a vendor's cards shine while all is well.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum Profile {
    /// Lit
    #[default]
    Steady,
    /// One blink every 3 to 4 seconds
    #[value(name = "nfast-500")]
    Nfast500,
    /// Lit, and off for a moment now and then, more often under load
    Nshield,
}

impl Profile {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Nfast500 => "nfast-500",
            Self::Nshield => "nshield",
        }
    }
}

/// What the light says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Showing {
    Healthy,
    Irregular,
    StuckOn,
    StuckOff,
    Sos(String),
    Maintenance,
    Initialization,
}

/// A light: what it says, and how far it is with that.
#[derive(Debug)]
pub(super) struct Light {
    showing: Showing,
    random: fastrand::Rng,
    /// What comes next: on or off, and for how long.
    segments: VecDeque<(bool, Duration)>,
    /// Until when it stays as it is.
    until: Duration,
}

const BLINK: Duration = Duration::from_millis(150);
/// Morse code's unit: the length of a dot.
const DOT: Duration = Duration::from_millis(200);
/// Nothing changes before that.
const LONG: Duration = Duration::from_secs(3600);

/// Time for more changes than a card remembers, even of a light that blinks seldom.
const SHOWN_MAX: Duration = Duration::from_secs(10 * 60);

impl Light {
    /// A light that has not been looked at yet, and draws what is random from `random`.
    pub(super) fn new(random: fastrand::Rng) -> Self {
        Self {
            showing: Showing::Healthy,
            random,
            segments: VecDeque::new(),
            until: Duration::ZERO,
        }
    }

    /// Lets time pass, and returns what the light became meanwhile, and when. `load` is requests
    /// per second. Whoever lets days pass at once gets the end of them.
    pub(super) fn advance(
        &mut self,
        now: Duration,
        showing: &Showing,
        profile: Profile,
        load: f64,
    ) -> Vec<(Duration, bool)> {
        if self.showing != *showing {
            self.showing = showing.clone();
            self.segments.clear();
            self.until = now;
        }
        if now.saturating_sub(self.until) > SHOWN_MAX {
            self.segments.clear();
            self.until = now - SHOWN_MAX;
        }
        let mut changes = Vec::new();
        while self.until <= now {
            if let Some((lit, len)) = self.segments.pop_front() {
                changes.push((self.until, lit));
                self.until += len;
            } else {
                self.segments = self.pattern(profile, load).into();
            }
        }
        changes
    }

    /// When it changes the next time.
    pub(super) const fn next_edge(&self) -> Duration {
        self.until
    }

    /// One round of what it says.
    fn pattern(&mut self, profile: Profile, load: f64) -> Vec<(bool, Duration)> {
        match (&self.showing, profile) {
            (Showing::Healthy, Profile::Steady) | (Showing::StuckOn, _) => vec![(true, LONG)],
            (Showing::StuckOff, _) => vec![(false, LONG)],
            (Showing::Healthy, Profile::Nfast500) => {
                let interval = Duration::from_millis(self.random.u64(3000..=4000));
                blink(true, interval)
            }
            (Showing::Healthy, Profile::Nshield) => {
                let interval = Duration::from_millis(self.random.u64(2000..=5000));
                blink(false, interval.div_f64(1.0 + load / 10.0) + BLINK)
            }
            (Showing::Irregular, _) => {
                /// As often as a healthy one blinks, on average.
                const INTERVAL_MEAN: f64 = 3.5;
                let seconds = -INTERVAL_MEAN * (1.0 - self.random.f64()).ln();
                blink(true, BLINK + Duration::from_secs_f64(seconds))
            }
            (Showing::Sos(code), _) => morse(code),
            (Showing::Maintenance, _) => pulses(4 * DOT, 2 * DOT, 10 * DOT),
            (Showing::Initialization, _) => pulses(DOT, DOT, 7 * DOT),
        }
    }
}

/// The light is `lit` for a moment, and the contrary until `interval` is over.
fn blink(lit: bool, interval: Duration) -> Vec<(bool, Duration)> {
    vec![(lit, BLINK), (!lit, interval.saturating_sub(BLINK))]
}

fn pulses(on: Duration, between: Duration, pause: Duration) -> Vec<(bool, Duration)> {
    vec![(true, on), (false, between), (true, on), (false, pause)]
}

/// SOS and `code` in Morse code (ITU-R M.1677-1 "International Morse code"): a dash is three units
/// long, as is the space between letters; seven are between words.
fn morse(code: &str) -> Vec<(bool, Duration)> {
    let mut segments = Vec::new();
    for word in ["SOS", code] {
        for letter in word.chars() {
            for mark in marks(letter).unwrap_or_default().chars() {
                let units = if mark == '-' { 3 } else { 1 };
                segments.extend([(true, units * DOT), (false, DOT)]);
            }
            lengthen(&mut segments, 2 * DOT);
        }
        lengthen(&mut segments, 4 * DOT);
    }
    segments
}

/// Makes the last space longer.
fn lengthen(segments: &mut [(bool, Duration)], by: Duration) {
    if let Some((_, len)) = segments.last_mut() {
        *len += by;
    }
}

/// Whether a light can say it.
pub(super) fn is_morse(code: &str) -> bool {
    (1..=8).contains(&code.len()) && code.chars().all(|letter| marks(letter).is_some())
}

const fn marks(letter: char) -> Option<&'static str> {
    Some(match letter {
        'A' => ".-",
        'B' => "-...",
        'C' => "-.-.",
        'D' => "-..",
        'E' => ".",
        'F' => "..-.",
        'G' => "--.",
        'H' => "....",
        'I' => "..",
        'J' => ".---",
        'K' => "-.-",
        'L' => ".-..",
        'M' => "--",
        'N' => "-.",
        'O' => "---",
        'P' => ".--.",
        'Q' => "--.-",
        'R' => ".-.",
        'S' => "...",
        'T' => "-",
        'U' => "..-",
        'V' => "...-",
        'W' => ".--",
        'X' => "-..-",
        'Y' => "-.--",
        'Z' => "--..",
        '0' => "-----",
        '1' => ".----",
        '2' => "..---",
        '3' => "...--",
        '4' => "....-",
        '5' => ".....",
        '6' => "-....",
        '7' => "--...",
        '8' => "---..",
        '9' => "----.",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_days_that_pass_at_once_only_the_end_is_shown() {
        let mut light = Light::new(fastrand::Rng::with_seed(1));
        let now = Duration::from_secs(30 * 24 * 60 * 60);
        let changes = light.advance(now, &Showing::Healthy, Profile::Nfast500, 0.0);
        let remembered = card_spec::health::LED_EDGES_MAX;
        assert!(changes.len() > remembered, "{}", changes.len());
        assert!(changes.iter().all(|(at, _)| *at + SHOWN_MAX >= now));
        assert!(light.next_edge() > now);
    }
}
