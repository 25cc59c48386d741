//! What the lights of cards say, as metrics.

use super::{Families, Labels, each, flag};
use crate::led::Agreement;
use crate::status::CardStatus;
use std::fmt;

/// Of each card whose light is read, what that says, and whether it blinks as busy as the card is.
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
    )?;
    let load = |card: &CardStatus| card.light.as_ref()?.load;
    to.gauge(
        "cardmon_card_load",
        "How busy the card is by what its service says, from 0 to 1; where its light is held against it",
        None,
        each(cards, |card| Some(load(card)?.share)),
    )?;
    to.gauge(
        "cardmon_card_light_disagrees",
        "Whether the light of the card blinks otherwise than the card is said to be busy; once that is known",
        None,
        each(cards, |card| match load(card)?.light {
            Agreement::Unknown => None,
            light => Some(flag(light == Agreement::Disagrees)),
        }),
    )
}
