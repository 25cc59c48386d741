//! When a warning of a card begins, and when it is over: an event each, whatever it says in between.

use super::changes::recorded;
use super::{WARNING, WARNING_OVER, WarningBody, subject};
use crate::history::{Event, Severity, Stamp};
use crate::status::Status;
use crate::verdict::Evidence;
use hwshim::clock::Instant;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

/// The warnings there are.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    /// By card and code, with when it began.
    known: BTreeMap<(String, String), Instant>,
}

impl Warnings {
    /// What began and what is over. Of cards that an operator has drained it is told quietly.
    pub(super) fn poll(
        &mut self,
        status: &Status,
        drained: &BTreeSet<&str>,
        now: Stamp,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        let mut there_are = BTreeSet::new();
        let cards = status.cards.iter().map(|it| (&*it.card, &it.warnings));
        let others = status.without_pages();
        let others = others.flat_map(|it| [(&*it.card, &it.evidence), (&*it.card, &it.warnings)]);
        for (card, warnings) in cards.chain(others) {
            for warning in warnings {
                let at = (subject(card), warning.code.to_string());
                there_are.insert(at.clone());
                if let Entry::Vacant(new) = self.known.entry(at) {
                    let subject = &new.key().0;
                    events.push(begun(subject, warning, drained.contains(card), now));
                    new.insert(now.monotonic);
                }
            }
        }
        self.known.retain(|at, since| {
            let still = there_are.contains(at);
            if !still {
                let body = WarningBody {
                    code: at.1.clone(),
                    detail: None,
                    seconds: Some(now.monotonic.since(*since).as_secs_f64()),
                };
                events.push(Event::new(now, WARNING_OVER, at.0.clone(), &body));
            }
            still
        });
        events
    }
}

fn begun(card: &str, warning: &Evidence, drained: bool, now: Stamp) -> Event {
    let cut = recorded(std::slice::from_ref(warning)).pop();
    let body = WarningBody {
        code: warning.code.to_string(),
        detail: cut.map(|it| it.detail),
        seconds: None,
    };
    let severity = if drained {
        Severity::Notice
    } else {
        Severity::Warning
    };
    Event::new(now, WARNING, card, &body).with_severity(severity)
}
