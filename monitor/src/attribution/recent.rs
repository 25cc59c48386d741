//! What was changed in the last day, as evidence.
//!
//! Whoever looks for a fault first asks what was changed, so the changes are named, with their times.
//! They are weak evidence: most changes break nothing, and a service that fails is started again, which
//! is a change on record too. So they decide between those whom nothing else tells apart, and whom what
//! was seen of the fault itself names stays named (see [`assess`](super::assess)).

use super::{Dossier, Kind, after};
use crate::history::WallTime;
use hwshim::clock::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// Changes that are older explain nothing.
pub const CHANGES_FOR: Duration = Duration::from_secs(24 * 3600);
/// Changes of a host that are remembered. The latest are likelier to matter.
const CHANGES_MAX: usize = 64;
/// Changes that are named in one piece of evidence; the rest is counted.
const NAMED_MAX: usize = 3;
/// How clearly a change speaks when it was just made: half as clearly as what is typical of a cause, so
/// that it decides between equals and against nobody who is suspected more.
const STRENGTH_MAX: f64 = 0.5;

/// Something that was changed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Changed {
    /// Of what: a card, a service, or [`HOST`] for what all of them rest on.
    pub subject: String,
    /// What, and to what.
    pub what: String,
    /// When, by the calendar.
    pub wall: WallTime,
    /// How long before [`RecentChanges::take`] that was.
    pub age: Duration,
}

/// The subject of changes that concern everything on a host.
pub const HOST: &str = "host";

/// What was changed in the last day, as far as it is on record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RecentChanges {
    /// With the time at which each was told and its age then, the oldest first.
    changes: VecDeque<(Instant, Changed)>,
    /// Whether all that is on record of the last day was told: only then no change is none.
    is_whole: bool,
}

impl RecentChanges {
    /// Something was changed. The same thing once more, such as the start of a service that never
    /// stays, takes the place of what it was before, and pushes nothing else out.
    pub fn take(&mut self, changed: Changed, now: Instant) {
        let is_same = |it: &Changed| (&it.subject, &it.what) == (&changed.subject, &changed.what);
        self.changes.retain(|(told, it)| {
            let age = age(*told, it, now);
            age < CHANGES_FOR && !(is_same(it) && age >= changed.age)
        });
        if self.changes.iter().any(|(_, it)| is_same(it)) || changed.age >= CHANGES_FOR {
            return;
        }
        self.changes.push_back((now, changed));
        let by_age = |(told, it): &(Instant, Changed)| std::cmp::Reverse(age(*told, it, now));
        self.changes.make_contiguous().sort_by_key(by_age);
        let excess = self.changes.len().saturating_sub(CHANGES_MAX);
        self.changes.drain(..excess);
        if excess > 0 {
            self.is_whole = false;
        }
    }

    /// All that is on record of the day before was told.
    pub const fn is_whole(&mut self) {
        self.is_whole = true;
    }

    /// Tells `dossier` what was changed of any of `subjects`, or of what all rests on.
    pub(crate) fn weigh(&self, subjects: &[&str], dossier: &mut Dossier, now: Instant) {
        let concerns = |it: &Changed| it.subject == HOST || subjects.contains(&&*it.subject);
        let recent = self.changes.iter().rev().filter_map(|(told, it)| {
            let age = age(*told, it, now);
            (concerns(it) && age < CHANGES_FOR).then_some((age, it))
        });
        let recent: Vec<_> = recent.collect();
        let Some((youngest, _)) = recent.first() else {
            if self.is_whole {
                let detail = "nothing of it was changed in the last 24 hours";
                dossier.not_seen(Kind::RecentChange, detail, now);
            }
            return;
        };
        // It fades here, as what was changed before the host was started has no time of its clock.
        let strength = STRENGTH_MAX * after(*youngest, Kind::RecentChange.half_life());
        let named = recent.iter().take(NAMED_MAX).map(|(_, it)| said(it));
        let mut detail = named.collect::<Vec<_>>().join("; ");
        if recent.len() > NAMED_MAX {
            detail = format!("{detail}; and {} more", recent.len() - NAMED_MAX);
        }
        dossier.seen(Kind::RecentChange, strength, detail, now);
    }
}

fn age(told: Instant, changed: &Changed, now: Instant) -> Duration {
    now.since(told).saturating_add(changed.age)
}

/// A change in words, with the time by the calendar: how long ago that was is another in each poll.
fn said(changed: &Changed) -> String {
    // No calendar shows more than four digits of a year.
    let millis = changed.wall.unix_millis().clamp(0, 253_402_300_799_000);
    let since = Duration::from_millis(millis.unsigned_abs());
    let at = std::time::UNIX_EPOCH + since;
    format!(
        "{} at {}",
        changed.what,
        humantime::format_rfc3339_seconds(at)
    )
}

#[cfg(test)]
mod tests {
    use super::super::table::{HYPOTHESES, ROWS, Row};
    use super::super::{Circumstances, Counter, Priors, Veto, assess};
    use super::*;
    use crate::verdict::Cause;

    fn at(hours: u64) -> Instant {
        Instant::ORIGIN.plus(Duration::from_secs(hours * 3600))
    }

    fn changed(subject: &str, what: &str, hours_ago: u64) -> Changed {
        Changed {
            subject: subject.to_owned(),
            what: what.to_owned(),
            wall: WallTime::from_unix_millis(1_795_824_000_000),
            age: Duration::from_secs(hours_ago * 3600),
        }
    }

    fn just_changed() -> RecentChanges {
        let mut changes = RecentChanges::default();
        changes.take(changed("card", "firmware of card: 1.0 -> 2.0", 0), at(0));
        changes
    }

    fn weighed(changes: &RecentChanges, subject: &str, now: Instant) -> Option<(bool, String)> {
        let mut dossier = Dossier::new();
        changes.weigh(&[subject], &mut dossier, now);
        let sight = dossier.sight(Kind::RecentChange, now);
        sight.map(|(was_seen, detail)| (was_seen, detail.to_owned()))
    }

    #[test]
    fn what_changes_again_and_again_pushes_nothing_out_and_what_is_pushed_out_is_not_denied() {
        let mut changes = just_changed();
        changes.is_whole();
        for _ in 0..2 * CHANGES_MAX {
            changes.take(changed("web", "web was started again", 0), at(1));
        }
        assert!(weighed(&changes, "card", at(1)).unwrap().0);
        // An older one of the same, told late, does not take the place of the younger.
        changes.take(changed("web", "web was started again", 5), at(1));
        assert!(weighed(&changes, "web", at(20)).unwrap().0);
        assert!(!weighed(&changes, "another", at(1)).unwrap().0);
        for number in 0..CHANGES_MAX {
            changes.take(changed("web", &format!("version {number}"), 0), at(2));
        }
        assert_eq!(weighed(&changes, "card", at(2)), None);
    }

    #[test]
    fn a_change_is_named_with_its_time_for_a_day_to_whom_it_concerns() {
        let mut changes = just_changed();
        changes.take(changed(HOST, "the calendar was set by 3.0 s", 23), at(0));
        let (_, detail) = weighed(&changes, "card", at(0)).unwrap();
        assert_eq!(
            detail,
            "firmware of card: 1.0 -> 2.0 at 2026-11-28T00:00:00Z; the calendar was set by 3.0 s \
             at 2026-11-28T00:00:00Z"
        );
        let (_, of_another) = weighed(&changes, "another", at(0)).unwrap();
        assert!(of_another.starts_with("the calendar"), "{of_another}");
        // The older one is over, and of who has not looked, nothing is known.
        assert_eq!(weighed(&changes, "another", at(2)), None);
        changes.is_whole();
        assert!(!weighed(&changes, "another", at(2)).unwrap().0);
        assert!(weighed(&changes, "card", at(23)).unwrap().0);
        assert!(!weighed(&changes, "card", at(25)).unwrap().0);
        for index in 0..200 {
            changes.take(changed("card", &format!("change {index}"), 0), at(1));
        }
        let (_, detail) = weighed(&changes, "card", at(1)).unwrap();
        assert!(detail.starts_with("change 199 at "), "{detail}");
        assert!(detail.ends_with("; and 61 more"), "{detail}");
    }

    #[test]
    fn a_change_by_itself_outweighs_nothing_that_is_typical_of_another_cause() {
        let (circumstances, priors) = (Circumstances::default(), Priors::default());
        let is_typical = |row: &&Row| row.weights.iter().any(|weight| *weight >= 3.0);
        let rows = ROWS.iter().filter(is_typical);
        for row in rows.filter(|row| row.kinds != [Kind::RecentChange]) {
            for kind in row.kinds {
                let mut dossier = Dossier::new();
                dossier.seen(*kind, 1.0, "", at(0));
                let before = assess(&dossier, &circumstances, &priors, at(0));
                just_changed().weigh(&["card"], &mut dossier, at(0));
                let after = assess(&dossier, &circumstances, &priors, at(0));
                // Of two that what was seen fits equally, it may decide.
                let fit = |cause: Cause| {
                    let index = HYPOTHESES.iter().position(|it| *it == cause).unwrap();
                    row.weights[index]
                };
                let (one, other) = (before.leading, after.leading);
                assert!(fit(other) >= fit(one), "{kind:?}: {one}, then {other}");
                let (before, after) = (before.cause, after.cause);
                assert!(
                    before == Cause::Undetermined || after == before,
                    "{kind:?}: {before}, then {after}"
                );
            }
        }
        // Where nothing is seen of a fault, a change is none.
        let mut dossier = Dossier::new();
        just_changed().weigh(&["card"], &mut dossier, at(0));
        let assessment = assess(&dossier, &circumstances, &priors, at(0));
        assert_eq!(assessment.cause, Cause::None);
    }

    #[test]
    fn of_equal_suspects_a_change_speaks_for_the_setting_and_lifts_no_veto() {
        let priors = Priors::default();
        let mut dossier = Dossier::new();
        dossier.seen(Kind::ErrorThenOk, 0.5, "", at(0));
        let of = |dossier: &Dossier| {
            let assessment = assess(dossier, &Circumstances::default(), &priors, at(0));
            assessment.confidence(Cause::Configuration)
        };
        let without = of(&dossier);
        just_changed().weigh(&["card"], &mut dossier, at(0));
        assert!(of(&dossier) > without, "{} and {without}", of(&dossier));
        let circumstances = Circumstances {
            local_health: 7,
            counter: Counter::Moved,
            is_warming_up: true,
            ..Circumstances::default()
        };
        let assessment = assess(&dossier, &circumstances, &priors, at(0));
        assert_eq!(
            assessment.vetoes,
            [Veto::CounterMovedOnStarvedHost, Veto::WarmingUp]
        );
        for veto in assessment.vetoes.clone() {
            assert_eq!(assessment.confidence(veto.rules_out()), 0.0);
        }
    }
}
