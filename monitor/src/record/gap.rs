//! Explains a silence: whether this host was starved while a card or a service was not heard.
//!
//! It judges no card, and acquits none that was found to be at fault within that time. It lays the
//! silence beside what this program knows of itself and of its host in that time, and measures how much
//! of it they share. Pressure alone starves nobody: tasks that
//! wait for a CPU are usual on a busy host whose timers come on time.
//!
//! ```text
//!   silence          |=====================|            from T1 to T2
//!   ticks late     |----------------------|             from when a poll was due until it came
//!   pressure            |----------|                    between two polls, over its limit
//!   host-starved   |-----------------------------|      events, kept for ever
//!   not seen                               |--|         no ticks: stopped, killed, not on record
//! ```

use crate::history::WallTime;
use crate::local_health::Limits;
use crate::verdict::Cause;
use serde::Serialize;
use std::time::Duration;

/// Lateness that is a tick's usual jitter: timers are kept to milliseconds, and this program is not
/// the only one.
const JITTER: Duration = Duration::from_millis(50);
/// How much of a silence must coincide with something to be explained by it.
const MOST: f64 = 0.5;
/// How little is nothing.
const HARDLY: f64 = 0.1;

/// A time by the calendar, from its first instant until before its last.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Span {
    /// First instant.
    pub from: WallTime,
    /// The instant after.
    pub until: WallTime,
}

impl Span {
    /// How long it is.
    #[must_use]
    pub fn len(&self) -> Duration {
        self.until.since(self.from)
    }

    /// Whether it has no length.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.until <= self.from
    }

    fn within(self, other: Self) -> Option<Self> {
        let (from, until) = (self.from.max(other.from), self.until.min(other.until));
        let both = Self { from, until };
        (!both.is_empty()).then_some(both)
    }
}

/// What was seen in one poll.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tick {
    /// When.
    pub at: WallTime,
    /// How much later than it was due.
    pub late: Duration,
}

/// What there is to explain a silence with.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Our own polls, in order, from the one before the silence until the one after it.
    pub ticks: Vec<Tick>,
    /// Series of the host, each with the time and value of its samples, in order.
    pub host: Vec<(Sign, Vec<(WallTime, f64)>)>,
    /// Times of starvation that are events, with more than pressure as their signs.
    pub starved: Vec<Span>,
    /// Those of which pressure was the only sign.
    pub pressed: Vec<Span>,
    /// Cards that were found to be at fault in the silence, or their links.
    pub accused: Vec<Accused>,
    /// Where events of that time are that were not looked at, and may accuse somebody.
    pub elsewhere: Vec<String>,
    /// Time between polls.
    pub interval: Duration,
}

/// A card that was found to be at fault, or its link: that stands on record.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Accused {
    /// Number of the event.
    pub event: u64,
    /// The card, as events name it.
    pub subject: String,
    /// What is at fault.
    pub cause: Cause,
}

/// A figure of the host that can show starvation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sign {
    /// Its series.
    pub series: &'static str,
    /// What it is called.
    pub name: &'static str,
    /// Whether it is pressure alone, while which everything may still run in time.
    pub is_pressure: bool,
}

/// The figures of the host that are looked at.
pub const SIGNS: [Sign; 4] = [
    sign("host/cpu-pressure", "tasks waited for a CPU", true),
    sign("host/memory-pressure", "tasks waited for memory", true),
    sign(
        "host/softirq-max",
        "a CPU was taken by soft interrupts",
        false,
    ),
    sign("host/steal", "the hypervisor took CPUs away", false),
];

const fn sign(series: &'static str, name: &'static str, is_pressure: bool) -> Sign {
    Sign {
        series,
        name,
        is_pressure,
    }
}

impl Sign {
    /// More than this is starvation.
    fn limit(self) -> f64 {
        let limits = Limits::default();
        match self.series {
            "host/softirq-max" => limits.softirq,
            "host/steal" => limits.steal,
            _ => limits.pressure,
        }
    }
}

/// What explains a silence.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The host was starved for most of it, and nobody else was found to be at fault, in all there is.
    HostStarved,
    /// We do not know: for most of it nobody looked.
    NotSeen,
    /// The host was well.
    HostWell,
    /// It was busy, and what had to run did: that explains nothing by itself.
    HostBusy,
    /// Some of it; or most, and somebody else was at fault as well, or may have been.
    Partly,
}

/// Something that a silence has time in common with.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Overlap {
    /// What.
    pub what: &'static str,
    /// For how much of the silence.
    pub seconds: f64,
}

/// What is known of a silence.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// In one word.
    pub answer: Answer,
    /// How long it was.
    pub seconds: f64,
    /// For how much of it the host was starved, by any sign but pressure.
    pub starved_seconds: f64,
    /// For how much of it the host was under pressure.
    pub pressed_seconds: f64,
    /// For how much of it nobody looked.
    pub not_seen_seconds: f64,
    /// Polls in it.
    pub ticks: usize,
    /// The latest of them.
    pub tick_late_seconds_max: f64,
    /// The signs, one by one. They may overlap each other.
    pub overlaps: Vec<Overlap>,
    /// Cards that were found to be at fault meanwhile, or their links.
    pub accused: Vec<Accused>,
    /// Where events of that time are that were not looked at.
    pub elsewhere: Vec<String>,
}

/// Explains a silence.
#[must_use]
pub fn explain(silence: Span, known: &Known) -> Explanation {
    let late = known.ticks.iter().filter_map(late).collect();
    let mut starved = vec![
        ("our own polls were late", late),
        ("on record as host-starved", known.starved.clone()),
    ];
    let mut pressed = vec![("on record as under pressure", known.pressed.clone())];
    for (sign, samples) in &known.host {
        let spans = over(samples, sign.limit(), known.interval);
        let signs = if sign.is_pressure {
            &mut pressed
        } else {
            &mut starved
        };
        signs.push((sign.name, spans));
    }
    let any = |signs: &[(_, Vec<Span>)]| {
        let all: Vec<_> = signs.iter().flat_map(|(_, spans)| spans).copied().collect();
        shared(silence, &all)
    };
    let (starved_for, pressed_for) = (any(&starved), any(&pressed));
    let unseen = shared(silence, &not_seen(silence, known));
    let within = |tick: &&Tick| silence.from <= tick.at && tick.at < silence.until;
    let lates = known
        .ticks
        .iter()
        .filter(|tick| late_span(tick).within(silence).is_some() || within(tick));
    Explanation {
        answer: match answer(silence.len(), starved_for, pressed_for, unseen) {
            Answer::HostStarved if !(known.accused.is_empty() && known.elsewhere.is_empty()) => {
                Answer::Partly
            }
            answer => answer,
        },
        seconds: silence.len().as_secs_f64(),
        starved_seconds: starved_for.as_secs_f64(),
        pressed_seconds: pressed_for.as_secs_f64(),
        not_seen_seconds: unseen.as_secs_f64(),
        ticks: known.ticks.iter().filter(within).count(),
        tick_late_seconds_max: lates
            .map(|tick| tick.late.as_secs_f64())
            .fold(0.0, f64::max),
        overlaps: starved
            .into_iter()
            .chain(pressed)
            .map(|(what, spans)| Overlap {
                what,
                seconds: shared(silence, &spans).as_secs_f64(),
            })
            .filter(|overlap| overlap.seconds > 0.0)
            .collect(),
        accused: known.accused.clone(),
        elsewhere: known.elsewhere.clone(),
    }
}

fn answer(silence: Duration, starved: Duration, pressed: Duration, unseen: Duration) -> Answer {
    let share = |part: Duration| part.as_secs_f64() / silence.as_secs_f64();
    if share(starved) >= MOST {
        Answer::HostStarved
    } else if share(unseen) >= MOST {
        Answer::NotSeen
    } else if share(starved) <= HARDLY && share(unseen) <= HARDLY {
        if share(pressed) >= MOST {
            Answer::HostBusy
        } else {
            Answer::HostWell
        }
    } else {
        Answer::Partly
    }
}

/// From when a poll was due until it came, if that was more than jitter.
fn late(tick: &Tick) -> Option<Span> {
    (tick.late > JITTER).then(|| late_span(tick))
}

fn late_span(tick: &Tick) -> Span {
    Span {
        from: tick.at.minus(tick.late),
        until: tick.at,
    }
}

/// Times in which a figure was over its limit: each sample speaks for the time since the one
/// before, and no longer than polls are apart if there is none.
fn over(samples: &[(WallTime, f64)], limit: f64, interval: Duration) -> Vec<Span> {
    let mut before: Option<WallTime> = None;
    let mut spans = Vec::new();
    for &(at, value) in samples {
        let from = before.unwrap_or_else(|| at.minus(interval));
        if value > limit {
            spans.push(Span { from, until: at });
        }
        before = Some(at);
    }
    spans
}

/// Times without a tick, beyond what their interval and their own lateness account for.
fn not_seen(silence: Span, known: &Known) -> Vec<Span> {
    let patience = known.interval.saturating_mul(2);
    let mut spans = Vec::new();
    let mut seen_until = silence.from.minus(patience);
    for tick in &known.ticks {
        let due = tick.at.minus(tick.late);
        if due.since(seen_until) > patience {
            spans.push(Span {
                from: seen_until.max(silence.from),
                until: due,
            });
        }
        seen_until = tick.at;
    }
    if silence.until.since(seen_until) > patience {
        spans.push(Span {
            from: seen_until.max(silence.from),
            until: silence.until,
        });
    }
    spans
}

/// How much of a silence lies in any of some times.
fn shared(silence: Span, spans: &[Span]) -> Duration {
    let mut within: Vec<_> = spans
        .iter()
        .filter_map(|span| span.within(silence))
        .collect();
    within.sort_by_key(|span| span.from);
    let mut total = Duration::ZERO;
    let mut covered = silence.from;
    for span in within {
        total += span.until.since(span.from.max(covered));
        covered = covered.max(span.until);
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> WallTime {
        WallTime::from_unix_millis(1_000_000 + millis)
    }

    fn span(from: i64, until: i64) -> Span {
        Span {
            from: at(from),
            until: at(until),
        }
    }

    fn tick(millis: i64, late: u64) -> Tick {
        Tick {
            at: at(millis),
            late: Duration::from_millis(late),
        }
    }

    fn known(ticks: Vec<Tick>) -> Known {
        Known {
            ticks,
            interval: Duration::from_secs(1),
            ..Known::default()
        }
    }

    #[test]
    fn a_silence_in_which_we_did_not_run_either_is_the_hosts() {
        // Nothing between 1 s and 11.8 s; the poll that was due at 2 s came 9.8 s late.
        let known = known(vec![tick(0, 1), tick(1_000, 0), tick(11_800, 9_800)]);
        let found = explain(span(1_000, 11_800), &known);
        assert_eq!(found.answer, Answer::HostStarved);
        assert_eq!(found.seconds, 10.8);
        assert_eq!(found.starved_seconds, 9.8);
        assert_eq!(found.not_seen_seconds, 0.0);
        assert_eq!(found.tick_late_seconds_max, 9.8);
    }

    #[test]
    fn who_was_found_at_fault_meanwhile_is_not_acquitted() {
        let mut known = known(vec![tick(0, 1), tick(1_000, 0), tick(11_800, 9_800)]);
        known.accused = vec![Accused {
            event: 62,
            subject: "card/pci:0000:3b:00.0".to_owned(),
            cause: Cause::Card,
        }];
        let found = explain(span(1_000, 11_800), &known);
        assert_eq!(found.answer, Answer::Partly);
        assert_eq!((found.starved_seconds, found.accused.len()), (9.8, 1));
    }

    #[test]
    fn nobody_is_acquitted_by_a_record_of_which_a_part_is_elsewhere() {
        let mut known = known(vec![tick(0, 1), tick(1_000, 0), tick(11_800, 9_800)]);
        known.elsewhere = vec!["events 1 to 7 are elsewhere".to_owned()];
        let found = explain(span(1_000, 11_800), &known);
        assert_eq!(found.answer, Answer::Partly);
        assert_eq!(
            (found.starved_seconds, found.elsewhere),
            (9.8, known.elsewhere)
        );
    }

    #[test]
    fn a_silence_while_we_ran_on_time_is_not_the_hosts() {
        let known = known((0..12).map(|second| tick(second * 1_000, 2)).collect());
        let found = explain(span(1_000, 11_000), &known);
        assert_eq!((found.answer, found.ticks), (Answer::HostWell, 10));
        assert_eq!(found.starved_seconds, 0.0);
    }

    #[test]
    fn a_silence_that_nobody_watched_is_explained_by_nothing() {
        let nothing = explain(span(0, 10_000), &known(Vec::new()));
        assert_eq!(nothing.answer, Answer::NotSeen);
        assert_eq!(nothing.not_seen_seconds, 10.0);
        // Stopped in between, and started again: the first tick of a run is on time.
        let stopped = known(vec![tick(0, 0), tick(9_000, 0)]);
        assert_eq!(explain(span(0, 10_000), &stopped).answer, Answer::NotSeen);
    }

    #[test]
    fn signs_that_coincide_count_once() {
        let mut known = known((0..11).map(|second| tick(second * 1_000, 0)).collect());
        let interrupted = (1..11).map(|second| (at(second * 1_000), 0.9)).collect();
        let stolen = (1..11).map(|second| (at(second * 1_000), 0.5)).collect();
        known.host = vec![(SIGNS[2], interrupted), (SIGNS[3], stolen)];
        known.starved = vec![span(-5_000, 2_000)];
        let found = explain(span(0, 8_000), &known);
        assert_eq!(found.answer, Answer::HostStarved);
        assert_eq!(found.starved_seconds, 8.0);
        let seconds: Vec<_> = found.overlaps.iter().map(|it| it.seconds).collect();
        assert_eq!(seconds, [2.0, 8.0, 8.0]);
    }

    #[test]
    fn pressure_alone_excuses_no_card() {
        let mut known = known((0..11).map(|second| tick(second * 1_000, 2)).collect());
        let pressed = (1..11).map(|second| (at(second * 1_000), 0.9)).collect();
        known.host = vec![(SIGNS[0], pressed)];
        let found = explain(span(0, 8_000), &known);
        assert_eq!(found.answer, Answer::HostBusy);
        assert_eq!((found.starved_seconds, found.pressed_seconds), (0.0, 8.0));
    }
}
