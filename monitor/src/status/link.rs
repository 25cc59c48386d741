//! How a card is connected, as it is shown.

use crate::probe::{ErrorTotals, Link, ProbeError};
use hwshim::pci::{LinkRate, LinkState, Presence};
use serde::{Deserialize, Serialize};

/// How a card is connected; `null` is what could not be read, or is not there.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct LinkFigures {
    /// Whether it answers on the bus.
    pub answers: Option<bool>,
    /// How its link runs, held against what both ends can do: `full`, `limited-by-port`, `downtrained`
    /// or `down`.
    pub state: Option<String>,
    /// How fast it is now.
    pub current: Option<LinkRateFigures>,
    /// How fast the card's end can be.
    pub maximum: Option<LinkRateFigures>,
    /// Errors that the card itself has counted since the kernel found it.
    pub errors: LinkErrors,
    /// The port above it, which often is the only one to count them.
    pub port: Option<PortFigures>,
}

/// How fast a link is.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct LinkRateFigures {
    /// Of each lane, in billions of transfers a second.
    pub gigatransfers: f64,
    /// Lanes.
    pub width: u8,
}

/// Errors of a link, by severity.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LinkErrors {
    /// Corrected by the link itself.
    pub correctable: Option<u64>,
    /// A transaction was lost.
    pub nonfatal: Option<u64>,
    /// The link is not to be trusted any more.
    pub fatal: Option<u64>,
}

/// The port above a card.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PortFigures {
    /// Where.
    pub address: String,
    /// Errors that it has counted.
    pub errors: LinkErrors,
}

impl LinkFigures {
    /// What the last look saw; `None` if nothing is known.
    pub(crate) fn of(seen: Option<&Result<Link, ProbeError>>) -> Option<Self> {
        let link = seen?.as_ref().ok()?;
        let own = link.link.as_ref().ok();
        let port = link.port.as_ref().ok();
        Some(Self {
            answers: match link.presence {
                Presence::Present => Some(true),
                Presence::Gone => Some(false),
                Presence::Unknown => None,
            },
            state: link.state.map(|state| name(state).to_owned()),
            current: own.and_then(|link| link.current).map(LinkRateFigures::from),
            maximum: own.map(|link| link.maximum.into()),
            errors: (&link.errors).into(),
            port: port.map(|port| PortFigures {
                address: format!("pci:{}", port.bdf),
                errors: (&port.errors).into(),
            }),
        })
    }

    /// Whether anything of it is not as it should be, now or since the kernel found it.
    #[must_use]
    pub fn is_remarkable(&self) -> bool {
        let is_slow = matches!(self.state.as_deref(), Some("downtrained" | "down"));
        let ends = [Some(&self.errors), self.port.as_ref().map(|it| &it.errors)];
        let has_errors = ends.into_iter().flatten().any(LinkErrors::are_any);
        is_slow || has_errors || self.answers == Some(false)
    }
}

impl LinkErrors {
    /// Each with the name of its severity.
    #[must_use]
    pub const fn by_severity(&self) -> [(&'static str, Option<u64>); 3] {
        [
            ("correctable", self.correctable),
            ("nonfatal", self.nonfatal),
            ("fatal", self.fatal),
        ]
    }

    fn are_any(&self) -> bool {
        let each = self.by_severity();
        each.iter().any(|(_, count)| count.is_some_and(|it| it > 0))
    }
}

impl From<&ErrorTotals> for LinkErrors {
    fn from(totals: &ErrorTotals) -> Self {
        let count = |total: &Result<u64, ProbeError>| total.as_ref().ok().copied();
        Self {
            correctable: count(&totals.correctable),
            nonfatal: count(&totals.nonfatal),
            fatal: count(&totals.fatal),
        }
    }
}

impl From<LinkRate> for LinkRateFigures {
    fn from(rate: LinkRate) -> Self {
        Self {
            gigatransfers: rate.speed.gigatransfers(),
            width: rate.width,
        }
    }
}

const fn name(state: LinkState) -> &'static str {
    match state {
        LinkState::Full => "full",
        LinkState::LimitedByPort => "limited-by-port",
        LinkState::Downtrained => "downtrained",
        LinkState::Down => "down",
    }
}
