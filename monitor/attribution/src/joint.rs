//! What is at fault on a host, of several assessments: of its cards and of the services beside them.
//!
//! Each is made from evidence of its own, and one may be right that nothing is wrong with *its*
//! subject where another is right that something is. So a cause is at work if it is with any of them,
//! and nothing is only if nothing is anywhere. Of two things that are wrong at once, both then stand
//! at the top.

use crate::Cause;
use std::collections::BTreeMap;

/// How likely each cause is at work anywhere, the likeliest first; they sum up to 1.
#[must_use]
pub fn joint(assessments: &[Vec<(Cause, f64)>]) -> Vec<(Cause, f64)> {
    let mut without: BTreeMap<Cause, f64> = BTreeMap::new();
    let mut all_well = 1.0;
    for assessment in assessments {
        let chance = |cause| {
            let of = assessment.iter().find(|(it, _)| *it == cause);
            of.map_or(0.0, |(_, chance)| *chance)
        };
        all_well *= chance(Cause::None);
        for (cause, chance) in assessment {
            *without.entry(*cause).or_insert(1.0) *= 1.0 - chance;
        }
    }
    let mut joint: Vec<_> = without
        .into_iter()
        .map(|(cause, without)| match cause {
            Cause::None => (cause, all_well),
            _ => (cause, 1.0 - without),
        })
        .collect();
    let sum: f64 = joint.iter().map(|(_, chance)| chance).sum();
    if sum > 0.0 {
        for (_, chance) in &mut joint {
            *chance /= sum;
        }
    }
    joint.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    joint
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_anywhere_is_wrong_and_two_things_stand_at_the_top() {
        let well = vec![(Cause::None, 0.98), (Cause::Card, 0.02)];
        let card = vec![(Cause::Card, 0.9), (Cause::Link, 0.06), (Cause::None, 0.04)];
        let leak = vec![(Cause::ServiceLeak, 0.95), (Cause::None, 0.05)];
        assert_eq!(joint(&[well.clone(), well.clone()])[0].0, Cause::None);
        for pair in [[&well, &card], [&card, &well]] {
            let joint = joint(&pair.map(Clone::clone));
            assert_eq!(joint[0].0, Cause::Card, "{joint:?}");
            assert!(joint[0].1 > 0.85, "{joint:?}");
        }
        let both = joint(&[card, leak]);
        let mut top = [both[0].0, both[1].0];
        top.sort_unstable();
        assert_eq!(top, [Cause::Card, Cause::ServiceLeak], "{both:?}");
        let sum: f64 = both.iter().map(|(_, chance)| chance).sum();
        assert!((sum - 1.0).abs() < 1e-9);
        assert_eq!(joint(&[]), []);
    }
}
