//! Lays out cards of which no owner publishes a page for people, by their PCI functions: how each is
//! connected, and why anything is at fault.

use super::diagnosis::{advised, in_short};
use super::{Rows, UNSEEN, clean, reason, seconds, sensors, spoken, style, warning};
use crate::status::{FunctionFigures, LinkErrors, LinkFigures, LinkRateFigures, VendorCardFigures};
use crate::verdict::Cause;

/// Column of the cause, which is coloured.
const CAUSE_COLUMN: usize = 3;

/// The table; nothing where there are none.
pub(super) fn table_of(cards: &[VendorCardFigures], width: Option<usize>) -> Vec<String> {
    if cards.is_empty() {
        return Vec::new();
    }
    let mut rows = Rows::new(["CARD", "FAMILY", "DRIVER", "CAUSE", "LINK"]);
    for VendorCardFigures { function, family } in cards {
        let unseen = || UNSEEN.to_owned();
        let link = function.link.as_ref();
        let row = [
            clean(&function.card),
            clean(family),
            function.driver.as_deref().map_or_else(unseen, clean),
            function.cause.to_string(),
            link.and_then(speed).unwrap_or_else(unseen),
        ];
        rows.push(row, style(function.state()), below(function));
    }
    rows.lines(Some(CAUSE_COLUMN), width)
}

/// What belongs below the row of a card.
pub(super) fn below(card: &FunctionFigures) -> Vec<String> {
    let mut below: Vec<_> = drained(card).into_iter().collect();
    below.extend(card.evidence.iter().map(reason));
    below.extend(card.warnings.iter().map(warning));
    below.extend(card.link.as_ref().and_then(link));
    below.extend(sensors(&card.sensors));
    if card.drained.is_none() {
        below.extend(advised(&card.advice));
    }
    if card.cause != Cause::None {
        below.extend(in_short(card.assessment.as_ref(), &card.card));
    }
    below
}

/// How a link does, in one line; nothing where all is well.
pub(super) fn link(link: &LinkFigures) -> Option<String> {
    if !link.is_remarkable() {
        return None;
    }
    let speed = speed(link).map(|speed| format!(" {speed};"));
    let port = link.port.as_ref().map(|port| {
        let (address, errors) = (clean(&port.address), counted(&port.errors));
        format!(", {errors} at {address}")
    });
    Some(format!(
        "    link:{} errors (correctable/nonfatal/fatal): {} at the card{}",
        speed.unwrap_or_default(),
        counted(&link.errors),
        port.unwrap_or_default()
    ))
}

/// How fast it is, of how fast the card could be, and what that is called.
fn speed(link: &LinkFigures) -> Option<String> {
    let rate = |rate: LinkRateFigures| format!("{} GT/s x{}", rate.gigatransfers, rate.width);
    let maximum = rate(link.maximum?);
    let state = link.state.as_deref().map(clean);
    let state = state.map_or_else(String::new, |state| format!(" ({state})"));
    Some(match link.current.map(rate) {
        Some(current) if current == maximum => current,
        Some(current) => format!("{current} of {maximum}{state}"),
        None => format!("none of {maximum}{state}"),
    })
}

fn counted(errors: &LinkErrors) -> String {
    let count = |(_, count): (_, Option<u64>)| {
        count.map_or_else(|| UNSEEN.to_owned(), |count| count.to_string())
    };
    errors.by_severity().map(count).join("/")
}

/// That an operator wants it so, and what would be at fault otherwise.
fn drained(card: &FunctionFigures) -> Option<String> {
    let drained = card.drained.as_ref()?;
    let (by, since) = (clean(&drained.by), spoken(seconds(drained.for_seconds)));
    let cause = drained.otherwise_cause;
    Some(format!(
        "    drained by {by} {since} ago; otherwise at fault: {cause}: cardmon undrain ends it"
    ))
}
