//! What is known of a case, weighed once: what each piece of evidence adds to each hypothesis, whether
//! it counts, and what that makes of them. All that is said of a case is read off this.

use super::inquiry;
use super::table::{self, Action, HYPOTHESES, Kind, Weights};
use super::{
    Assessment, CONFIDENCE_MIN, Circumstances, Dossier, Intervention, Priors, Prospect, Sight,
    TRIED_HALF_LIFE, Veto, WORTH_TELLING, Weighed, after, allowed, likeliest, ranked, softmax,
};
use crate::Cause;
use hwshim::clock::Instant;
use std::sync::OnceLock;

/// A case that was weighed. It has no words: those stand in the dossier.
#[derive(Clone, Debug)]
pub struct Balance {
    pub(super) contributions: Vec<Contribution>,
    /// How likely each hypothesis is.
    pub(super) posterior: Weights,
    /// Who is at fault besides, by what does not count for the cause.
    besides: Option<(Cause, f64)>,
    pub(super) vetoes: Vec<Veto>,
    priors: Priors,
    pub(super) at: Instant,
    /// What would tell more, once somebody has asked.
    prospects: OnceLock<Vec<Prospect>>,
}

/// What one piece of evidence adds to each hypothesis.
#[derive(Clone, Debug)]
pub(super) struct Contribution {
    pub(super) piece: Piece,
    pub(super) was_seen: bool,
    nats: Weights,
    /// Whether it has a say in who is at fault.
    pub(super) counts: bool,
    /// By how much it raises the odds of each hypothesis against all other faults.
    pub(super) against_all_others: Weights,
}

/// What was seen, or looked for, or done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Piece {
    Sight(Kind),
    Intervention(Action),
}

impl Contribution {
    pub(super) const fn code(&self) -> &'static str {
        match self.piece {
            Piece::Sight(kind) => kind.name(),
            Piece::Intervention(action) => action.name(),
        }
    }

    /// What exactly was seen.
    pub(super) fn detail<'a>(&self, dossier: &'a Dossier) -> &'a str {
        let sight = |sight: Option<&'a Sight>| sight.map(|it| &*it.detail);
        let found = match self.piece {
            Piece::Sight(kind) if self.was_seen => sight(dossier.seen.get(&kind)),
            Piece::Sight(kind) => sight(dossier.not_seen.get(&kind)),
            Piece::Intervention(action) => {
                let done = dossier.interventions.get(&action);
                done.map(|it| &*it.detail)
            }
        };
        found.unwrap_or_default()
    }

    /// When.
    pub(super) fn at(&self, dossier: &Dossier) -> Option<Instant> {
        let sight = |sight: Option<&Sight>| sight.map(|it| it.at);
        match self.piece {
            Piece::Sight(kind) if self.was_seen => sight(dossier.seen.get(&kind)),
            Piece::Sight(kind) => sight(dossier.not_seen.get(&kind)),
            Piece::Intervention(action) => dossier.interventions.get(&action).map(|it| it.at),
        }
    }

    fn is_of(&self, kinds: &[Kind]) -> bool {
        matches!(self.piece, Piece::Sight(kind) if kinds.contains(&kind))
    }

    fn is_change(&self) -> bool {
        self.is_of(&[Kind::RecentChange])
    }
}

impl Dossier {
    /// What each row of the table and each intervention adds to each hypothesis, in nats.
    pub(super) fn contributions(&self, now: Instant) -> Vec<Contribution> {
        let rows = table::ROWS.iter().zip(&*table::ABSENT);
        let rows = rows.filter_map(|(row, absent)| self.of_row(row, absent, now));
        let known = self.interventions.values().filter(|it| it.before);
        rows.chain(known.map(|it| of_intervention(it, now)))
            .collect()
    }

    /// Several sights in a row are sights of one thing: the strongest counts, and that one was not
    /// there only if none was.
    fn of_row(&self, row: &table::Row, absent: &Weights, now: Instant) -> Option<Contribution> {
        let strongest = |find: fn(&Self, Kind, Instant) -> Option<(f64, &Sight)>| {
            let kinds = row.kinds.iter();
            let found = kinds.filter_map(|kind| Some((*kind, find(self, *kind, now)?.0)));
            found.max_by(|(_, one), (_, other)| one.total_cmp(other))
        };
        let seen = strongest(Self::strength);
        let was_seen = seen.is_some();
        let (kind, strength) = seen.or_else(|| strongest(Self::looked_for))?;
        let weights = if was_seen { row.weights } else { *absent };
        Some(Contribution {
            piece: Piece::Sight(kind),
            was_seen,
            nats: weights.map(|weight| weight * strength),
            counts: true,
            against_all_others: [0.0; HYPOTHESES.len()],
        })
    }
}

fn of_intervention(intervention: &Intervention, now: Instant) -> Contribution {
    let effects = intervention.action.effects();
    let nats = match intervention.after {
        true => effects.unchanged,
        false => effects.cured,
    };
    let strength = after(now.since(intervention.at), TRIED_HALF_LIFE);
    Contribution {
        piece: Piece::Intervention(intervention.action),
        was_seen: true,
        nats: nats.map(|weight| weight * strength),
        counts: true,
        against_all_others: [0.0; HYPOTHESES.len()],
    }
}

impl Balance {
    /// Weighs what is known.
    #[must_use]
    pub fn of(
        dossier: &Dossier,
        circumstances: &Circumstances,
        priors: &Priors,
        now: Instant,
    ) -> Self {
        Self::after(None, dossier, circumstances, priors, now)
    }

    /// Weighs what is known, of which most is as it was `before`, a poll ago.
    pub(super) fn after(
        before: Option<&Self>,
        dossier: &Dossier,
        circumstances: &Circumstances,
        priors: &Priors,
        now: Instant,
    ) -> Self {
        let before = before.filter(|it| it.priors == *priors);
        let mut contributions = dossier.contributions(now);
        for (index, contribution) in contributions.iter_mut().enumerate() {
            let before = before.and_then(|it| it.contributions.get(index));
            let nats = &contribution.nats;
            contribution.against_all_others = match before {
                Some(same) if same.nats == *nats => same.against_all_others,
                _ => against_all_others(priors, nats),
            };
        }
        let vetoes = Veto::applying(circumstances);
        let all = Pieces {
            contributions: &contributions,
            vetoes: &vetoes,
            priors: priors.0.map(f64::ln),
        };
        let (part, besides) = match all.told_apart(circumstances) {
            Some((part, besides)) => (part, Some(besides)),
            None => (all.weigh(|_| true), None),
        };
        for (contribution, counts) in contributions.iter_mut().zip(part.counts) {
            contribution.counts = counts;
        }
        Self {
            contributions,
            posterior: part.posterior,
            besides,
            vetoes,
            priors: *priors,
            at: now,
            prospects: OnceLock::new(),
        }
    }

    /// What is believed to be at fault, and why, in the words of the dossier that was weighed.
    #[must_use]
    pub fn assessment(&self, dossier: &Dossier) -> Assessment {
        let (cause, _) = named(&self.posterior, &self.vetoes);
        let leading = likeliest(&self.posterior, &[]).0;
        let (evidence_for, evidence_against) = self.told(leading, dossier);
        let next_test = (cause == Cause::Undetermined).then(|| {
            let prospects = self.prospects(dossier);
            prospects.first().map(|prospect| prospect.test)
        });
        Assessment {
            cause,
            ranked: ranked(&self.posterior, &self.vetoes),
            leading,
            besides: self.besides,
            evidence_for,
            evidence_against,
            vetoes: self.vetoes.clone(),
            next_test: next_test.flatten(),
        }
    }

    /// What speaks for `cause` and what against it: the weight of evidence against all other faults.
    fn told(&self, cause: Cause, dossier: &Dossier) -> (Vec<Weighed>, Vec<Weighed>) {
        let Some(this) = HYPOTHESES.iter().position(|it| *it == cause) else {
            return (Vec::new(), Vec::new());
        };
        let counting = self.contributions.iter().filter(|it| it.counts);
        let weighed = counting.map(|it| (it, it.against_all_others[this]));
        let weighed = weighed.filter(|(_, nats)| nats.abs() >= WORTH_TELLING);
        let mut weighed: Vec<_> = weighed
            .map(|(contribution, nats)| Weighed {
                code: contribution.code(),
                was_seen: contribution.was_seen,
                detail: contribution.detail(dossier).to_owned(),
                nats,
            })
            .collect();
        weighed.sort_by(|one, other| other.nats.abs().total_cmp(&one.nats.abs()));
        weighed.into_iter().partition(|weighed| weighed.nats > 0.0)
    }

    /// The tests that would tell something, the one that tells most for what it costs first, by the
    /// dossier that was weighed.
    #[must_use]
    pub fn prospects(&self, dossier: &Dossier) -> &[Prospect] {
        self.prospects.get_or_init(|| {
            let open = allowed(&self.posterior, &self.vetoes);
            inquiry::open(dossier, &open, self.at)
        })
    }
}

/// The weight of evidence for each hypothesis against all other faults together.
fn against_all_others(priors: &Priors, nats: &Weights) -> Weights {
    let Priors(priors) = priors;
    let odds: Weights = std::array::from_fn(|it| priors[it] * nats[it].exp());
    let is_fault = |index: usize| HYPOTHESES[index] != Cause::None;
    let of_faults = |of: &Weights| -> f64 {
        let faults = of.iter().enumerate().filter(|(index, _)| is_fault(*index));
        faults.map(|(_, number)| number).sum()
    };
    let all = (of_faults(&odds), of_faults(priors));
    // Odds in the table differ by a hundred thousand at most, so what is left after taking one off
    // the sum has digits enough.
    std::array::from_fn(|this| {
        let own = match is_fault(this) {
            true => (odds[this], priors[this]),
            false => (0.0, 0.0),
        };
        nats[this] - ((all.0 - own.0) / (all.1 - own.1)).ln()
    })
}

/// All that is known, to be weighed in parts.
#[derive(Clone, Copy)]
struct Pieces<'a> {
    contributions: &'a [Contribution],
    vetoes: &'a [Veto],
    /// In nats.
    priors: Weights,
}

/// A part of what is known, weighed by itself.
struct Part {
    /// Whether each piece counts.
    counts: Vec<bool>,
    posterior: Weights,
}

impl Pieces<'_> {
    /// Weighs what is in a part. Whom what was seen of the fault names, no change of late makes
    /// doubtful: then changes do not count.
    fn weigh(&self, is_in: impl Fn(&Contribution) -> bool) -> Part {
        let direct = self.count(|it| is_in(it) && !it.is_change());
        match named(&direct.posterior, self.vetoes).0 {
            Cause::Undetermined => self.count(is_in),
            _ => direct,
        }
    }

    fn count(&self, counts: impl Fn(&Contribution) -> bool) -> Part {
        let counting = self.contributions.iter().filter(|it| counts(it));
        Part {
            posterior: posterior(&self.priors, counting),
            counts: self.contributions.iter().map(&counts).collect(),
        }
    }

    /// Two faults, where neither can explain what was seen of the other: what a card shows that no host
    /// can bring about, beside a host that is starved; and whatever is wrong, beside callers whose
    /// requests nobody can do. Where there are all three, it is the callers that are not told.
    fn told_apart(&self, circumstances: &Circumstances) -> Option<(Part, (Cause, f64))> {
        if circumstances.is_no_matter_of_time
            && let Some(Apart { these, all_else }) =
                self.apart(&Kind::OF_THE_HOST, &Kind::OF_THE_CALLERS)
        {
            return Some((all_else.part, these.named));
        }
        let Apart { these, all_else } = self.apart(&Kind::OF_THE_CALLERS, &[])?;
        // What comes and goes with each burst of somebody's work takes no other's place.
        let (first, besides) = if all_else.named.0.is_light() {
            (these, all_else)
        } else {
            (all_else, these)
        };
        Some((first.part, besides.named))
    }

    /// What was seen of `kinds` weighed apart from all else that was, but for what is `left_out`, so that
    /// neither speaks for or against the other. Nothing if that does not name two.
    fn apart(&self, kinds: &[Kind], left_out: &[Kind]) -> Option<Apart> {
        let mut seen = self.contributions.iter().filter(|it| it.was_seen);
        if !seen.any(|it| it.is_of(kinds)) {
            return None;
        }
        let fault = |part: Part| {
            let named = named(&part.posterior, self.vetoes);
            let is_fault = !matches!(named.0, Cause::None | Cause::Undetermined);
            is_fault.then_some(Fault { part, named })
        };
        let is_else = |it: &Contribution| !it.is_of(kinds) && !it.is_of(left_out);
        let these = fault(self.weigh(|it| !it.was_seen || it.is_of(kinds)))?;
        let all_else = fault(self.weigh(|it| !it.was_seen || is_else(it)))?;
        (these.named.0 != all_else.named.0).then_some(Apart { these, all_else })
    }
}

/// Whom a part of what is known names, and how likely that is by it.
struct Fault {
    part: Part,
    named: (Cause, f64),
}

/// Whom some of what was seen names, and whom all else does.
struct Apart {
    these: Fault,
    all_else: Fault,
}

/// What is likely enough to be named, and how likely that is.
fn named(posterior: &Weights, vetoes: &[Veto]) -> (Cause, f64) {
    match likeliest(posterior, vetoes) {
        (top, confidence) if confidence >= CONFIDENCE_MIN => (top, confidence),
        (_, confidence) => (Cause::Undetermined, confidence),
    }
}

/// How likely each hypothesis is, with priors in nats.
pub(super) fn posterior<'a>(
    priors: &Weights,
    contributions: impl IntoIterator<Item = &'a Contribution>,
) -> Weights {
    let mut nats = *priors;
    for contribution in contributions {
        for (nats, more) in nats.iter_mut().zip(contribution.nats) {
            *nats += more;
        }
    }
    softmax(&nats)
}
