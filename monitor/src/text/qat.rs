//! Lays out QAT cards for people: how each is, and why.

use super::diagnosis::advised;
use super::{Rows, UNSEEN, clean, reason, style};
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
        let (heartbeat, state) = match card.responds {
            Some(true) => ("responds", State::Connected),
            Some(false) => ("unresponsive", State::Unavailable),
            None => (UNSEEN, State::Disconnected),
        };
        let row = [
            clean(&card.card),
            clean(&card.module),
            card.state.as_deref().map_or_else(unseen, clean),
            heartbeat.to_owned(),
            format!("{}/{}", count(card.responses), count(card.requests)),
            count(card.errors_fatal),
        ];
        let mut below: Vec<_> = card.evidence.iter().map(reason).collect();
        if card.cause != Cause::None {
            below.extend(advised(&card.advice));
        }
        rows.push(row, style(state), below);
    }
    rows.lines(Some(HEARTBEAT_COLUMN))
}
