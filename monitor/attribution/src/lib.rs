//! Weighs evidence, and says what is at fault, how sure that is, and what would tell more.
//!
//! Each [`Cause`] is a hypothesis that starts with a prior probability. Each thing that was seen, or
//! looked for and not seen, multiplies the odds of every hypothesis by what the table in
//! [`table`] has for it; what is left after dividing by the sum is how sure we are. Evidence fades
//! when it is not seen again, so that a short symptom does not blame for ever. Who is not sure enough
//! says so, and names the cheapest test that would help.
//!
//! ```text
//!   seen, not seen, tried --> weights, faded --> softmax --> vetoes --+--> sure:   the cause
//!         [`Dossier`]          [`table`]       [`Balance`]            +--> unsure: undetermined,
//!                                                                          and the next test
//! ```
//!
//! A veto takes a hypothesis out of the question whatever speaks for it. What it was given goes to
//! nobody else: where all that was seen is explained by what cannot be, nothing is known.
//!
//! Nothing here looks at anything, and nothing is done about a cause. It does not say how a card is,
//! either; that is the module `verdict` of the monitor.

mod balance;
mod calibration;
mod cause;
mod inquiry;
mod joint;
mod scales;
pub mod table;
mod weighing;

pub use balance::Balance;
pub use calibration::{Calibration, brier};
pub use cause::Cause;
pub use inquiry::{TESTS, Test};
pub use joint::joint;
pub use scales::Scales;
pub use table::{Action, Kind};
pub use weighing::{Prospect, Weighing};

use hwshim::clock::Instant;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;
use table::{HYPOTHESES, Weights};

/// Less sure than that is not sure.
const CONFIDENCE_MIN: f64 = 0.8;
/// The runner-up must be that far behind, which it is: it has no more than what is left.
const LEAD_MIN: f64 = 0.3;
const _: () = assert!(CONFIDENCE_MIN - (1.0 - CONFIDENCE_MIN) >= LEAD_MIN);
/// What has faded to less counts no more.
const STRENGTH_MIN: f64 = 0.05;
/// Weights smaller than that, in nats, are not worth a line.
const WORTH_TELLING: f64 = 0.1;
/// What was tried half a day ago tells half as much: it may have been another fault.
const TRIED_HALF_LIFE: Duration = Duration::from_secs(12 * 3600);
/// With fewer requests in flight, no queue is long.
const QUEUE_LONG: u64 = 64;
/// Polls on time in a row that must find a counter unmoved before it is frozen.
const FROZEN_POLLS: u32 = 3;

/// How likely each cause is before anything is known of the case.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Priors(Weights);

impl Default for Priors {
    /// For a fleet that nothing is known of: mostly nothing is wrong, and of what is, hosts, load
    /// and settings more often than cards.
    fn default() -> Self {
        Self(table::PRIORS)
    }
}

impl Priors {
    /// From how often each cause was found to be the true one. A cause that has never been keeps a
    /// chance, as if it had been found half a time.
    #[must_use]
    pub fn counted(found: impl Fn(Cause) -> u32) -> Self {
        let counts = HYPOTHESES.map(|cause| f64::from(found(cause)) + 0.5);
        let sum: f64 = counts.iter().sum();
        Self(counts.map(|count| count / sum))
    }
}

/// Everything that is known of one case. Another case needs another: what was tried is not forgotten
/// when a fault is.
#[derive(Clone, Debug, Default)]
pub struct Dossier {
    seen: BTreeMap<Kind, Sight>,
    not_seen: BTreeMap<Kind, Sight>,
    interventions: BTreeMap<Action, Intervention>,
}

/// That something was there, or was not.
#[derive(Clone, Debug, PartialEq)]
struct Sight {
    at: Instant,
    /// From 0 to 1.
    strength: f64,
    /// The same words in most polls, of which no copy is made.
    detail: Cow<'static, str>,
}

/// Something was done to find out, and how it was before and after.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Intervention {
    /// What was done.
    pub action: Action,
    /// When.
    pub at: Instant,
    /// Whether the fault was there before.
    pub before: bool,
    /// Whether it was there after.
    pub after: bool,
    /// What exactly was seen.
    pub detail: String,
}

impl Dossier {
    /// Nothing is known.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Something was seen. `strength` says how clearly, from 0 to 1.
    pub fn seen(
        &mut self,
        kind: Kind,
        strength: f64,
        detail: impl Into<Cow<'static, str>>,
        at: Instant,
    ) {
        let strength = if strength.is_nan() { 0.0 } else { strength };
        let sight = Sight {
            at,
            strength: strength.clamp(0.0, 1.0),
            detail: detail.into(),
        };
        keep_latest(&mut self.seen, kind, sight);
    }

    /// Something was looked for and not seen, by who would have seen it.
    pub fn not_seen(&mut self, kind: Kind, detail: impl Into<Cow<'static, str>>, at: Instant) {
        let sight = Sight {
            at,
            strength: 1.0,
            detail: detail.into(),
        };
        keep_latest(&mut self.not_seen, kind, sight);
    }

    /// A card's counter was read twice, and has moved: it does not stand still, and is no all-ones.
    pub fn counter_moved(&mut self, detail: &'static str, at: Instant) {
        self.not_seen(Kind::CounterFrozen, detail, at);
        self.not_seen(Kind::ConfigAllOnes, detail, at);
    }

    /// A card has so many requests in flight. Many are no more than a sign that it is busy.
    pub fn in_flight(&mut self, requests: u64, at: Instant) {
        if requests < QUEUE_LONG {
            let detail = format!("{requests} requests are in flight");
            self.not_seen(Kind::QueueLong, detail, at);
        }
    }

    /// What is known of `kind` and still counts: whether it was seen, or else looked for in vain, and in
    /// which words.
    #[must_use]
    pub fn sight(&self, kind: Kind, now: Instant) -> Option<(bool, &str)> {
        let seen = self.strength(kind, now).map(|(_, sight)| (true, sight));
        let known = seen.or_else(|| Some((false, self.absence(kind, now)?.1)));
        known.map(|(was_seen, sight)| (was_seen, &*sight.detail))
    }

    /// Something was done to find out.
    pub fn intervened(&mut self, intervention: Intervention) {
        let rank = |it: &Intervention| (it.at, it.before, it.after, it.detail.clone());
        let latest = self.interventions.entry(intervention.action);
        latest
            .and_modify(|known| {
                if rank(known) < rank(&intervention) {
                    known.clone_from(&intervention);
                }
            })
            .or_insert(intervention);
    }

    /// Whether anything was seen after `then`, and is not over, that is
    /// [no matter of time](Kind::is_no_matter_of_time).
    #[must_use]
    pub fn shows_no_matter_of_time(&self, then: Instant) -> bool {
        self.seen.iter().any(|(kind, sight)| {
            kind.is_no_matter_of_time() && sight.at > then && !self.is_over(*kind, sight)
        })
    }

    /// Whether a sight of `kind` was of a state that was looked for since, and not seen.
    fn is_over(&self, kind: Kind, sight: &Sight) -> bool {
        let is_refuted = || self.not_seen.get(&kind).is_some_and(|it| it.at > sight.at);
        kind.is_state() && is_refuted()
    }

    /// How strong a sight of `kind` is now, if it is still any.
    fn strength(&self, kind: Kind, now: Instant) -> Option<(f64, &Sight)> {
        let sight = self.seen.get(&kind)?;
        let strength = faded(sight, kind, now);
        (strength >= STRENGTH_MIN && !self.is_over(kind, sight)).then_some((strength, sight))
    }

    /// How much it counts that `kind` was not seen, if it still does.
    fn absence(&self, kind: Kind, now: Instant) -> Option<(f64, &Sight)> {
        let looked_for = self.looked_for(kind, now)?;
        self.strength(kind, now).is_none().then_some(looked_for)
    }

    /// The same, whether or not it was seen meanwhile.
    fn looked_for(&self, kind: Kind, now: Instant) -> Option<(f64, &Sight)> {
        let sight = self.not_seen.get(&kind)?;
        let strength = faded(sight, kind, now);
        (strength >= STRENGTH_MIN).then_some((strength, sight))
    }

    /// Whether it is known whether there is anything of the row that `kind` is in.
    fn is_answered(&self, kind: Kind, now: Instant) -> bool {
        let known = |kind: &Kind| {
            self.strength(*kind, now).is_some()
                || self
                    .absence(*kind, now)
                    .is_some_and(|(strength, _)| strength > 0.5)
        };
        kind.row().kinds.iter().any(known)
    }
}

fn keep_latest(sights: &mut BTreeMap<Kind, Sight>, kind: Kind, sight: Sight) {
    // A total order, so that it does not matter what is told first.
    fn rank(sight: &Sight) -> (Instant, f64, &str) {
        (sight.at, sight.strength, &sight.detail)
    }
    if sights
        .get(&kind)
        .is_none_or(|known| rank(&sight) > rank(known))
    {
        sights.insert(kind, sight);
    }
}

/// The strength of a sight halves with each half-life of its kind.
fn faded(sight: &Sight, kind: Kind, now: Instant) -> f64 {
    sight.strength * after(now.since(sight.at), kind.half_life())
}

/// What is left of 1 after `age`.
#[must_use]
pub fn after(age: Duration, half_life: Duration) -> f64 {
    // Most of what is known was seen in this very poll.
    if age.is_zero() {
        return 1.0;
    }
    (-age.as_secs_f64() / half_life.as_secs_f64()).exp2()
}

/// What decides about vetoes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Circumstances {
    /// The highest score of local health while nothing was heard of the card, see
    /// `LocalHealth::score_max_within` of the monitor.
    pub local_health: u8,
    /// The counter that the card itself moves.
    pub counter: Counter,
    /// Whether anything was seen of the card of late that no host can have caused, see
    /// [`Dossier::shows_no_matter_of_time`].
    pub is_no_matter_of_time: bool,
    /// Whether the service warms up, or what it gave back has not been recycled yet.
    pub is_warming_up: bool,
}

/// A counter that a card moves by itself.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Counter {
    /// Nobody could read it.
    #[default]
    Unread,
    /// It moved.
    Moved,
    /// It stood still.
    Still {
        /// In how many polls in a row, all of them on time.
        polls: u32,
    },
}

/// Why a cause is out of the question.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Veto {
    /// Not the card: the host was starved, and the card's counter moved all the same. That explains
    /// whatever came late, and nothing else: no wrong answer, no error, no light.
    CounterMovedOnStarvedHost,
    /// No leak: the service is still warming up, or waits for what it gave back.
    WarmingUp,
    /// Not the host: our polls were on time, and the card's counter stood still.
    CounterFrozenOnTime,
}

impl Veto {
    /// What it rules out.
    #[must_use]
    pub const fn rules_out(self) -> Cause {
        match self {
            Self::CounterMovedOnStarvedHost => Cause::Card,
            Self::WarmingUp => Cause::ServiceLeak,
            Self::CounterFrozenOnTime => Cause::HostStarvation,
        }
    }

    fn applying(circumstances: &Circumstances) -> Vec<Self> {
        let Circumstances {
            local_health,
            counter,
            is_no_matter_of_time,
            is_warming_up,
        } = *circumstances;
        let frozen = matches!(counter, Counter::Still { polls } if polls >= FROZEN_POLLS);
        [
            (
                local_health >= 1 && counter == Counter::Moved && !is_no_matter_of_time,
                Self::CounterMovedOnStarvedHost,
            ),
            (is_warming_up, Self::WarmingUp),
            (frozen, Self::CounterFrozenOnTime),
        ]
        .into_iter()
        .filter_map(|(applies, veto)| applies.then_some(veto))
        .collect()
    }
}

impl fmt::Display for Veto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CounterMovedOnStarvedHost => {
                "not the card: its counter moved while the host was starved"
            }
            Self::WarmingUp => "no leak: the service is warming up or recycling",
            Self::CounterFrozenOnTime => {
                "not the host: the card's counter stood still while polls were on time"
            }
        })
    }
}

/// What is believed to be at fault, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Assessment {
    /// What is at fault; [`Cause::Undetermined`] if that is not sure.
    pub cause: Cause,
    /// Every cause with how likely it is, the likeliest first. They sum up to 1;
    /// [`Cause::Undetermined`] is there with what was taken from a cause by a veto.
    pub ranked: Vec<(Cause, f64)>,
    /// What would be likeliest if there were no vetoes.
    pub leading: Cause,
    /// What is at fault besides, with how likely that is: the host or this program, or a setting of the
    /// callers, by what was seen of them, where [`cause`](Self::cause) is what they cannot have brought
    /// about.
    pub besides: Option<(Cause, f64)>,
    /// What speaks for that, the strongest first.
    pub evidence_for: Vec<Weighed>,
    /// What speaks against it.
    pub evidence_against: Vec<Weighed>,
    /// What is out of the question.
    pub vetoes: Vec<Veto>,
    /// What to find out next, if the cause is not sure.
    pub next_test: Option<&'static Test>,
}

/// A piece of evidence with its weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Weighed {
    /// Its code.
    pub code: &'static str,
    /// Whether it was seen; else it was looked for, and was not there.
    pub was_seen: bool,
    /// What exactly was seen.
    pub detail: String,
    /// By how much it raises the odds of the cause against all other faults, in nats.
    pub nats: f64,
}

impl Assessment {
    /// How likely `cause` is.
    #[must_use]
    pub fn confidence(&self, cause: Cause) -> f64 {
        let of = self.ranked.iter().find(|(ranked, _)| *ranked == cause);
        of.map_or(0.0, |(_, confidence)| *confidence)
    }

    /// Whether nothing is sure.
    #[must_use]
    pub fn abstains(&self) -> bool {
        self.cause == Cause::Undetermined
    }
}

/// Weighs what is known.
#[must_use]
pub fn assess(
    dossier: &Dossier,
    circumstances: &Circumstances,
    priors: &Priors,
    now: Instant,
) -> Assessment {
    Balance::of(dossier, circumstances, priors, now).assessment(dossier)
}

fn softmax(nats: &Weights) -> Weights {
    let max = nats.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let odds = nats.map(|nats| (nats - max).exp());
    let sum: f64 = odds.iter().sum();
    odds.map(|odds| odds / sum)
}

/// The first of [`ranked`].
fn likeliest(posterior: &Weights, vetoes: &[Veto]) -> (Cause, f64) {
    let is_vetoed = |cause: Cause| vetoes.iter().any(|veto| veto.rules_out() == cause);
    let mut taken = (Cause::Undetermined, 0.0);
    let mut first = (HYPOTHESES[0], f64::NEG_INFINITY);
    for (cause, confidence) in HYPOTHESES.into_iter().zip(*posterior) {
        if is_vetoed(cause) {
            taken.1 += confidence;
        } else if confidence > first.1 {
            first = (cause, confidence);
        }
    }
    if taken.1 > first.1 { taken } else { first }
}

/// Causes by likelihood, those that are out of the question left with none. Equals stay in the order
/// of the table.
fn ranked(posterior: &Weights, vetoes: &[Veto]) -> Vec<(Cause, f64)> {
    let mut ranked: Vec<_> = HYPOTHESES.into_iter().zip(*posterior).collect();
    let mut taken = 0.0;
    for veto in vetoes {
        for (_, confidence) in ranked
            .iter_mut()
            .filter(|(cause, _)| *cause == veto.rules_out())
        {
            taken += std::mem::take(confidence);
        }
    }
    if taken > 0.0 {
        ranked.push((Cause::Undetermined, taken));
    }
    ranked.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    ranked
}

/// How likely each hypothesis is if those that are out of the question never were in it.
fn allowed(posterior: &Weights, vetoes: &[Veto]) -> Weights {
    let is_vetoed = |cause: Cause| vetoes.iter().any(|veto| veto.rules_out() == cause);
    let nats = std::array::from_fn(|hypothesis| match HYPOTHESES[hypothesis] {
        cause if is_vetoed(cause) => f64::NEG_INFINITY,
        _ => posterior[hypothesis].ln(),
    });
    softmax(&nats)
}

/// Information in bits that is lacking.
fn entropy(posterior: &[f64]) -> f64 {
    let bits = posterior.iter().filter(|chance| **chance > 0.0);
    bits.map(|chance| -chance * chance.log2()).sum()
}

#[cfg(test)]
mod tests;
