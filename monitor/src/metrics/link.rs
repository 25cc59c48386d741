//! How cards are connected, as metrics.

use super::{Families, Labels};
use crate::status::{LinkErrors, LinkFigures, Status};
use prometheus_client::registry::Unit;
use std::fmt;

/// Of each card on the bus, whoever drives it.
pub(super) fn encode(to: &mut Families<'_>, status: &Status) -> fmt::Result {
    let links: Vec<_> = links(status).collect();
    let gauge = |of| samples(&links, of);
    to.gauge(
        "cardmon_card_link_lanes",
        "Lanes of the card's link that are in use; none while it is down",
        None,
        gauge(|link| {
            // Of a card without a link, there are neither.
            link.maximum?;
            Some(f64::from(link.current.map_or(0, |rate| rate.width)))
        }),
    )?;
    to.gauge(
        "cardmon_card_link_lanes_max",
        "Lanes that the card's end of the link has",
        None,
        gauge(|link| Some(f64::from(link.maximum?.width))),
    )?;
    let per_second = Unit::Other("gigatransfers_per_second".to_owned());
    to.gauge(
        "cardmon_card_link_speed",
        "Speed of each lane of the card's link",
        Some(&per_second),
        gauge(|link| Some(link.current?.gigatransfers)),
    )?;
    to.gauge(
        "cardmon_card_link_speed_max",
        "Speed that the card's end of the link can have",
        Some(&per_second),
        gauge(|link| Some(link.maximum?.gigatransfers)),
    )?;
    to.counter(
        "cardmon_card_link_errors",
        "Errors of the card's link that were counted at the card, or at the port above it, by severity",
        None,
        links.iter().flat_map(|(card, link)| {
            let at_port = link.port.as_ref().map(|port| ("port", &port.errors));
            let ends = [Some(("card", &link.errors)), at_port];
            ends.into_iter().flatten().flat_map(|it| counts(card, it))
        }),
    )
}

fn links(status: &Status) -> impl Iterator<Item = (&str, &LinkFigures)> {
    let cards = status.cards.iter().map(|it| (&*it.card, &it.link));
    let others = status.without_pages().map(|it| (&*it.card, &it.link));
    cards
        .chain(others)
        .filter_map(|(card, link)| Some((card, link.as_ref()?)))
}

fn samples<'a>(
    links: &[(&'a str, &LinkFigures)],
    of: fn(&LinkFigures) -> Option<f64>,
) -> Vec<(Labels<'a>, f64)> {
    let sample = |it: &(&'a str, &LinkFigures)| Some((vec![("card", it.0)], of(it.1)?));
    links.iter().filter_map(sample).collect()
}

fn counts<'a>(
    card: &'a str,
    (end, errors): (&'static str, &LinkErrors),
) -> impl Iterator<Item = (Labels<'a>, u64)> {
    let counts = errors.by_severity().into_iter();
    counts.filter_map(move |(severity, count)| {
        let labels = vec![("card", card), ("end", end), ("severity", severity)];
        Some((labels, count?))
    })
}
