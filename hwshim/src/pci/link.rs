//! Speed and width of a PCI Express link, against what both of its ends can do.
//!
//! Reads and compares; does not say why a link is slow.

use super::reading::Reading;
use super::sysfs::Directory;
use card_spec::pci::{Capability, ExpressCapability, LinkCapabilities, LinkStatus};
use serde::{Serialize, Serializer};
use std::fmt;

/// Link speed in a direction, coded as the Link Capabilities register codes it (PCIe Base §7.5.3.6
/// "Link Capabilities Register"): 1 = 2.5 GT/s up to 6 = 64 GT/s.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct LinkSpeed(u8);

impl LinkSpeed {
    const NAMES: [&'static str; 6] = ["2.5", "5.0", "8.0", "16.0", "32.0", "64.0"];

    fn from_code(code: u8) -> Option<Self> {
        (1..=Self::NAMES.len())
            .contains(&usize::from(code))
            .then_some(Self(code))
    }

    /// In billions of transfers a second.
    #[must_use]
    pub fn gigatransfers(self) -> f64 {
        const SPEEDS: [f64; LinkSpeed::NAMES.len()] = [2.5, 5.0, 8.0, 16.0, 32.0, 64.0];
        SPEEDS[usize::from(self.0) - 1]
    }

    /// Reads `16.0 GT/s PCIe`; kernels before 5.7 wrote `16 GT/s`.
    fn from_text(text: &str) -> Option<Self> {
        let number = text
            .strip_suffix(" PCIe")
            .unwrap_or(text)
            .strip_suffix(" GT/s")?;
        let code = (1..).zip(Self::NAMES).find_map(|(code, name)| {
            (name == number || name.strip_suffix(".0") == Some(number)).then_some(code)
        })?;
        Some(Self(code))
    }
}

impl fmt::Display for LinkSpeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES[usize::from(self.0) - 1];
        write!(f, "{name} GT/s")
    }
}

impl Serialize for LinkSpeed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Speed and width together.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct LinkRate {
    /// Per lane.
    pub speed: LinkSpeed,
    /// In lanes.
    pub width: u8,
}

impl LinkRate {
    /// What a link between two such ends can do.
    #[must_use]
    pub fn common(self, other: Self) -> Self {
        Self {
            speed: self.speed.min(other.speed),
            width: self.width.min(other.width),
        }
    }

    fn reaches(self, other: Self) -> bool {
        self.speed >= other.speed && self.width >= other.width
    }
}

impl fmt::Display for LinkRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x{}", self.speed, self.width)
    }
}

/// One end of a link.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Link {
    /// What is in use; `None` when the link is down.
    pub current: Option<LinkRate>,
    /// What this end can do.
    pub maximum: LinkRate,
}

/// How a link runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkState {
    /// At the maximum of the function.
    Full,
    /// Below the maximum of the function, at that of the port it is plugged into.
    LimitedByPort,
    /// Below what both ends can do.
    Downtrained,
    /// Not at all.
    Down,
}

impl Link {
    /// Compares the link with what it could be. Without a `port_maximum`, the function's own
    /// maximum is expected.
    #[must_use]
    pub fn state(&self, port_maximum: Option<LinkRate>) -> LinkState {
        let Self { current, maximum } = *self;
        let expected = port_maximum.map_or(maximum, |port| maximum.common(port));
        match current {
            None => LinkState::Down,
            Some(current) if current.reaches(maximum) => LinkState::Full,
            Some(current) if current.reaches(expected) => LinkState::LimitedByPort,
            Some(_) => LinkState::Downtrained,
        }
    }

    /// Reads the attributes, or where a kernel has none (before 4.13) the `express` capability.
    pub(super) fn read(
        directory: Directory<'_>,
        express: Option<&Capability<'_>>,
    ) -> Reading<Self> {
        let maximum = read_rate(directory, "max_link_speed", "max_link_width");
        if maximum == Reading::Absent {
            return express
                .and_then(Self::from_capability)
                .map_or(Reading::Absent, Reading::Known);
        }
        maximum.and_then(|maximum| {
            // Virtual functions and endpoints integrated in the root complex have the registers,
            // but no link.
            let Some(maximum) = maximum else {
                return Reading::Absent;
            };
            read_rate(directory, "current_link_speed", "current_link_width")
                .map(|current| Self { current, maximum })
        })
    }

    fn from_capability(capability: &Capability<'_>) -> Option<Self> {
        let registers: ExpressCapability = capability.read().ok()?;
        let maximum = LinkCapabilities::from_bits(registers.link_capabilities.get());
        let current = LinkStatus::from_bits(registers.link_status.get());
        Some(Self {
            current: rate(
                LinkSpeed::from_code(current.current_link_speed()),
                current.negotiated_link_width(),
            ),
            maximum: rate(
                LinkSpeed::from_code(maximum.max_link_speed()),
                maximum.max_link_width(),
            )?,
        })
    }
}

/// Reads a pair of attributes; known to be `None` when the kernel itself does not know.
fn read_rate(directory: Directory<'_>, speed: &str, width: &str) -> Reading<Option<LinkRate>> {
    let speed = directory.parsed(speed, "a link speed", |text| match text {
        "Unknown" | "Unknown speed" => Some(None),
        text => LinkSpeed::from_text(text).map(Some),
    });
    let width = directory.parsed(width, "a link width", |text| text.parse::<u8>().ok());
    speed.and_then(|speed| width.map(|width| rate(speed, width)))
}

/// Width 0 is a link that is not there, 63 is what the registers of an absent function read as, and
/// 255 is how the kernel says that it does not know.
fn rate(speed: Option<LinkSpeed>, width: u8) -> Option<LinkRate> {
    match width {
        1 | 2 | 4 | 8 | 12 | 16 | 32 => speed.map(|speed| LinkRate { speed, width }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gts(text: &str, width: u8) -> LinkRate {
        LinkRate {
            speed: LinkSpeed::from_text(text).unwrap(),
            width,
        }
    }

    #[test]
    fn speeds_are_read_as_old_and_new_kernels_write_them() {
        for (text, shown) in [
            ("2.5 GT/s PCIe", "2.5 GT/s"),
            ("5 GT/s", "5.0 GT/s"),
            ("5.0 GT/s PCIe", "5.0 GT/s"),
            ("64.0 GT/s PCIe", "64.0 GT/s"),
        ] {
            assert_eq!(LinkSpeed::from_text(text).unwrap().to_string(), shown);
        }
        for wrong in ["", "8.0", "8.00 GT/s", "7 GT/s", "8 GT/s PCI", " GT/s"] {
            assert_eq!(LinkSpeed::from_text(wrong), None, "{wrong}");
        }
        assert_eq!(LinkSpeed::from_code(0), None);
        assert_eq!(LinkSpeed::from_code(7), None);
    }

    #[test]
    fn faster_is_greater() {
        assert!(gts("16.0 GT/s", 1).speed > gts("8.0 GT/s", 1).speed);
    }

    #[test]
    fn a_link_is_held_against_both_of_its_ends() {
        let link = |current, maximum| Link {
            current: Some(current),
            maximum,
        };
        let (fast, slow) = (gts("16.0 GT/s", 8), gts("8.0 GT/s", 8));
        let narrow = gts("16.0 GT/s", 4);
        assert_eq!(link(fast, fast).state(Some(fast)), LinkState::Full);
        assert_eq!(link(slow, fast).state(Some(fast)), LinkState::Downtrained);
        assert_eq!(link(narrow, fast).state(Some(fast)), LinkState::Downtrained);
        assert_eq!(link(slow, fast).state(Some(slow)), LinkState::LimitedByPort);
        assert_eq!(link(narrow, fast).state(Some(slow)), LinkState::Downtrained);
        assert_eq!(link(slow, fast).state(None), LinkState::Downtrained);
        let down = Link {
            current: None,
            maximum: fast,
        };
        assert_eq!(down.state(Some(fast)), LinkState::Down);
    }

    #[test]
    fn the_capability_stands_in_for_missing_attributes() {
        // Express capability: link capabilities at 0x0c, link status at 0x12.
        let mut bytes = [0; 20];
        bytes[0] = 0x10;
        bytes[0x0c..0x0e].copy_from_slice(&[0x82, 0x00]);
        bytes[0x12..0x14].copy_from_slice(&[0x41, 0x00]);
        let directory = tempfile::tempdir().unwrap();
        let capability = |bytes| Capability {
            offset: 0x40,
            id: 0x10,
            bytes,
        };
        let link = Link::read(Directory(directory.path()), Some(&capability(&bytes)));
        assert_eq!(
            link,
            Reading::Known(Link {
                current: Some(gts("2.5 GT/s", 4)),
                maximum: gts("5.0 GT/s", 8),
            })
        );
        let cut = Link::read(Directory(directory.path()), Some(&capability(&bytes[..19])));
        assert_eq!(cut, Reading::Absent);
    }
}
