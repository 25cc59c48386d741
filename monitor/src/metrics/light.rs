//! What the lights of cards say, as metrics.

use super::{Families, Labels, flag};
use crate::status::CardStatus;
use std::fmt;

/// Of each card whose light is read, as what it is read.
pub(super) fn encode(to: &mut Families<'_>, cards: &[CardStatus]) -> fmt::Result {
    to.gauge(
        "cardmon_card_light_fault",
        "Whether the light of the card signals a fault, or is dark, as those of its profile do",
        None,
        cards.iter().filter_map(|card| {
            let light = card.light.as_ref()?;
            let labels: Labels<'_> = vec![("card", &*card.card), ("profile", light.profile.name())];
            Some((labels, flag(light.is_fault)))
        }),
    )
}
