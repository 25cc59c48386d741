//! Lays out QAT cards for people: how each is, and why.

use super::diagnosis::advised;
use super::{Rows, UNSEEN, clean, reason, seconds, spoken, style};
use crate::status::QatFigures;
use crate::verdict::{Cause, State};

/// Column of the heartbeat, which is coloured.
const HEARTBEAT_COLUMN: usize = 3;

/// The table; nothing where there are none.
pub(super) fn table_of(cards: &[QatFigures]) -> Vec<String> {
    if cards.is_empty() {
        return Vec::new();
    }
    let mut rows = Rows::new([
        "QAT CARD",
        "DRIVER",
        "STATE",
        "HEARTBEAT",
        "ANSWERED",
        "FATAL ERRORS",
    ]);
    for card in cards {
        let unseen = || UNSEEN.to_owned();
        let count = |count: Option<u64>| count.map_or_else(unseen, |count| count.to_string());
        let (heartbeat, colour) = match card.responds {
            Some(true) => ("responds", State::Connected),
            Some(false) => ("unresponsive", State::Unavailable),
            None => (UNSEEN, State::Disconnected),
        };
        let colour = match card.drained {
            Some(_) => State::Disconnected,
            None => colour,
        };
        let row = [
            clean(&card.card),
            clean(&card.module),
            card.state.as_deref().map_or_else(unseen, clean),
            heartbeat.to_owned(),
            format!("{}/{}", count(card.responses), count(card.requests)),
            count(card.errors_fatal),
        ];
        let mut below: Vec<_> = drained(card).into_iter().collect();
        below.extend(card.evidence.iter().map(reason));
        if card.cause != Cause::None {
            below.extend(advised(&card.advice));
        }
        rows.push(row, style(colour), below);
    }
    rows.lines(Some(HEARTBEAT_COLUMN))
}

/// That an operator wants it so, and what would be at fault otherwise.
fn drained(card: &QatFigures) -> Option<String> {
    let drained = card.drained.as_ref()?;
    let (by, since) = (clean(&drained.by), spoken(seconds(drained.for_seconds)));
    let cause = drained.otherwise_cause;
    Some(format!(
        "    drained by {by} {since} ago; otherwise at fault: {cause}: cardmon undrain ends it"
    ))
}
