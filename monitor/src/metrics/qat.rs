//! QAT cards, as metrics.

use super::{Families, Labels, count, flag};
use crate::number::lossy;
use crate::status::QatFigures;
use std::fmt;

pub(super) fn encode(to: &mut Families<'_>, cards: &[QatFigures]) -> fmt::Result {
    to.gauge(
        "cardmon_qat_responds",
        "Whether the firmware of the QAT card gave a sign of life when its driver last asked",
        None,
        each(cards, |card| Some(flag(card.responds?))),
    )?;
    to.gauge(
        "cardmon_qat_drained",
        "Whether an operator wants the QAT card without work",
        None,
        each(cards, |card| Some(flag(card.function.drained.is_some()))),
    )?;
    to.gauge(
        "cardmon_qat_in_flight",
        "Requests to the engines of the QAT card that are not answered",
        None,
        each(cards, |card| {
            Some(lossy(card.requests?.saturating_sub(card.responses?)))
        }),
    )?;
    to.counter(
        "cardmon_qat_queries",
        "Times that the driver asked the firmware for a sign of life",
        None,
        each(cards, |card| card.queries_sent),
    )?;
    to.counter(
        "cardmon_qat_queries_failed",
        "Times that the firmware gave none",
        None,
        each(cards, |card| card.queries_failed),
    )?;
    to.counter(
        "cardmon_qat_responses",
        "Responses of the engines of the QAT card since it started",
        None,
        each(cards, |card| card.responses),
    )?;
    to.gauge(
        "cardmon_qat_engines_frozen",
        "Engines of the QAT card that owe answers and give none",
        None,
        each(cards, |card| {
            card.requests?;
            Some(count(card.frozen_engines.len()))
        }),
    )?;
    to.counter(
        "cardmon_qat_errors",
        "Errors that the QAT card reported since it started, by severity",
        None,
        cards.iter().flat_map(|card| {
            let errors = [
                ("correctable", card.errors_correctable),
                ("nonfatal", card.errors_nonfatal),
                ("fatal", card.errors_fatal),
            ];
            errors.into_iter().filter_map(|(severity, count)| {
                let labels: Labels<'_> =
                    vec![("card", &*card.function.card), ("severity", severity)];
                Some((labels, count?))
            })
        }),
    )
}

/// One sample of each card that has it.
fn each<'a, T>(
    cards: &'a [QatFigures],
    value: impl Fn(&'a QatFigures) -> Option<T>,
) -> impl Iterator<Item = (Labels<'a>, T)> {
    cards
        .iter()
        .filter_map(move |card| Some((vec![("card", &*card.function.card)], value(card)?)))
}
