//! What may be at fault.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What is at fault.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// Nothing is.
    None,
    /// The card: it is there and does wrong.
    Card,
    /// The card does not answer on the bus at all.
    CardAbsent,
    /// What is between card and host: slot, riser, switch, root port.
    Link,
    /// The process that owns the card has ended.
    ServiceGone,
    /// The process that owns the card is there and does not run.
    ServiceHang,
    /// The process that owns the card takes more and more and gives nothing back.
    ServiceLeak,
    /// The host: what should run on it does not get to.
    HostStarvation,
    /// Nothing is broken; more is asked for than can be given.
    Overload,
    /// A setting, or a permission.
    Configuration,
    /// This program: it may not see, or does not get to run.
    Monitor,
    /// The evidence does not tell.
    Undetermined,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::None,
        Self::Card,
        Self::CardAbsent,
        Self::Link,
        Self::ServiceGone,
        Self::ServiceHang,
        Self::ServiceLeak,
        Self::HostStarvation,
        Self::Overload,
        Self::Configuration,
        Self::Monitor,
        Self::Undetermined,
    ];

    /// Others take the time, which is theirs to take: wrong neither with the card nor with its link,
    /// its service or its settings, and it comes and goes.
    #[must_use]
    pub const fn is_light(self) -> bool {
        matches!(self, Self::HostStarvation | Self::Overload | Self::Monitor)
    }

    /// Its name, the same in the terminal, in JSON and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Card => "card",
            Self::CardAbsent => "card-absent",
            Self::Link => "link",
            Self::ServiceGone => "service-gone",
            Self::ServiceHang => "service-hang",
            Self::ServiceLeak => "service-leak",
            Self::HostStarvation => "host-starvation",
            Self::Overload => "overload",
            Self::Configuration => "configuration",
            Self::Monitor => "monitor",
            Self::Undetermined => "undetermined",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
