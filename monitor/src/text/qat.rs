//! Lays out QAT cards for people: how each is, and why.

use super::function::below;
use super::{Rows, UNSEEN, clean, style};
use crate::status::QatFigures;
use crate::verdict::State;

/// Column of the heartbeat, which is coloured.
const HEARTBEAT_COLUMN: usize = 3;

/// The table; nothing where there are none.
pub(super) fn table_of(cards: &[QatFigures], width: Option<usize>) -> Vec<String> {
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
        let colour = match card.function.drained {
            Some(_) => State::Disconnected,
            None => colour,
        };
        let row = [
            clean(&card.function.card),
            clean(&card.module),
            card.state.as_deref().map_or_else(unseen, clean),
            heartbeat.to_owned(),
            format!("{}/{}", count(card.responses), count(card.requests)),
            count(card.errors_fatal),
        ];
        rows.push(row, style(colour), below(&card.function));
    }
    rows.lines(Some(HEARTBEAT_COLUMN), width)
}
