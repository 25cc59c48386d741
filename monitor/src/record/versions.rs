//! What is installed, as last seen: firmware of cards, drivers, the kernel. Says when it is another.

use super::{BLIND_POLLS, DETAIL_LEN_MAX, cut};
use crate::history::Stamp;
use std::collections::BTreeMap;

/// Versions, each by what has it and what it is the version of.
#[derive(Debug, Default)]
pub(super) struct Versions(BTreeMap<Key, Version>);

/// A card, a service or the host, and what of it.
pub(super) type Key = (String, String);

#[derive(Debug)]
struct Version {
    is: String,
    /// When it was changed with no change window open, if it was.
    unexpected_since: Option<Stamp>,
    /// Another one that is seen now, and in how many polls it was. A page that is damaged may say
    /// anything once.
    other: Option<(String, u32)>,
}

impl Version {
    const fn new(is: String, unexpected_since: Option<Stamp>) -> Self {
        Self {
            is,
            unexpected_since,
            other: None,
        }
    }
}

/// A version that is another than before, or the first that is known.
#[derive(Debug)]
pub(super) struct NewVersion {
    pub(super) from: Option<String>,
    pub(super) to: String,
    /// Whether a change window is open, or it is the first.
    pub(super) expected: bool,
}

impl Versions {
    /// Goes on from what is on record before this run, in order, each with when it was changed
    /// unexpectedly, if it was. What was taken for the first that is known, for want of the record,
    /// may be another.
    pub(super) fn remember(
        &mut self,
        recorded: impl Iterator<Item = (Key, String, Option<Stamp>)>,
    ) {
        let latest: BTreeMap<_, _> = recorded
            .map(|(key, is, unexpected_since)| (key, Version::new(is, unexpected_since)))
            .collect();
        for (key, version) in latest {
            let has_changed = |it: &Version| it.unexpected_since.is_some();
            if !self.0.get(&key).is_some_and(has_changed) {
                self.0.insert(key, version);
            }
        }
    }

    /// Takes in what a poll saw, with whether a change window is open, and says what is new.
    pub(super) fn take(
        &mut self,
        key: Key,
        seen: &str,
        window: bool,
        now: Stamp,
    ) -> Option<NewVersion> {
        let seen = cut(seen, DETAIL_LEN_MAX).to_owned();
        let Some(known) = self.0.get_mut(&key) else {
            self.0.insert(key, Version::new(seen.clone(), None));
            return Some(NewVersion {
                from: None,
                to: seen,
                expected: true,
            });
        };
        if known.is == seen {
            known.other = None;
            return None;
        }
        let polls = match &known.other {
            Some((other, polls)) if *other == seen => polls + 1,
            _ => 1,
        };
        if polls < BLIND_POLLS {
            known.other = Some((seen, polls));
            return None;
        }
        let unexpected_since = (!window).then_some(now);
        let before = std::mem::replace(known, Version::new(seen.clone(), unexpected_since));
        Some(NewVersion {
            from: Some(before.is),
            to: seen,
            expected: window,
        })
    }

    /// When it was changed with no change window open, if it was.
    pub(super) fn unexpected_since(&self, key: &Key) -> Option<Stamp> {
        self.0.get(key)?.unexpected_since
    }
}
