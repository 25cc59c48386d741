//! The faults there are: their names, what they take, and what is true while one acts.
//!
//! A catalogue, as data. When a fault acts is [`script`]'s and [`trigger`]'s, how a card lies is
//! [`liar`]'s. Faults of a service or of a host are listed here by name, so that there is one list,
//! and played elsewhere.

mod catalogue;
mod forgery;
pub mod led;
pub mod liar;
pub mod script;
pub mod trigger;
mod value;

pub use catalogue::CATALOGUE;
pub use liar::beset;
pub use script::{Injection, InjectionError, InjectionId, Record, Script, SharedScript};
pub use trigger::{Matching, Trigger};

use crate::nearest::nearest;
use card_device::Card;
use card_spec::crypto::Status;
use script::Acts;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use value::Value;

/// Pause between two writes of garbage.
const GARBAGE_PERIOD: Duration = Duration::from_millis(100);

/// A fault that a card, its link or its light can have.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    missing_docs,
    reason = "CATALOGUE says what each is, and each parameter"
)]
pub enum Fault {
    Hang { until: HangEnd },
    Slow { factor: f64 },
    FlippedBit,
    CrtFault,
    WrongMessage,
    RepeatedNonce,
    ShortResult { bytes: u32 },
    OverlongResult { bytes: u32 },
    DuplicateCompletion { copies: u8 },
    LateCompletion { delay: Duration },
    ReorderedCompletion,
    DroppedCompletion,
    UnknownCompletion { head: u16 },
    DmaGarbage { bytes: u32 },
    HeartbeatStops,
    WorkStops,
    SilentReboot,
    ResetLoop { period: Duration },
    ResetHangs,
    SessionsExhausted,
    KeysLost,
    OverTemperature { celsius: u16, rate: f64 },
    SelfTestFailure { test: u32 },
    RngStuck,
    ErrorStatus { status: Status },
    Maintenance,
    SurpriseRemoval,
    AllOnes,
    Downtrained { width: u8, speed: u8 },
    CorrectableStorm { rate: f64 },
    LostInterrupt,
    InterruptStorm { rate: f64, vector: u16 },
    LedIrregular,
    LedStuckOn,
    LedStuckOff,
    LedSos { code: String },
    LedMaintenance,
    LedInitialization,
}

/// What ends a hang, besides its duration and whoever clears it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HangEnd {
    /// Nothing.
    Cleared,
    /// A reset.
    Reset,
}

/// What is known of a fault.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    /// What has it.
    pub group: Group,
    /// What happens, in one line.
    pub summary: &'static str,
    /// What it takes, the most important first.
    pub parameters: &'static [Parameter],
    /// What a monitor should find.
    pub truth: Truth,
    /// Who plays it.
    pub played_by: Player,
}

/// Something a fault takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// What it means, and in which unit.
    pub summary: &'static str,
}

/// What is true while a fault acts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Truth {
    /// What is at fault.
    pub cause: Cause,
    /// The earliest instant at which somebody can see it.
    pub observable: Observable,
}

/// What is at fault.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cause {
    /// Nothing: whoever is irritated by it is wrong.
    None,
    /// The card.
    Card,
    /// The card is not there.
    CardAbsent,
    /// The link between card and host.
    Link,
    /// The card's service process on the host.
    Service,
    /// The host.
    Host,
}

/// The earliest instant at which a fault can be seen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Observable {
    /// By whoever looks.
    AtOnce,
    /// When the next beat is due.
    NextHeartbeat,
    /// When the next request that it concerns is, or should have been, answered.
    NextRequest,
    /// When the next session is opened.
    NextSession,
    /// When the next interrupt is due.
    NextInterrupt,
    /// When the next register is read.
    NextRead,
    /// When the card is reset the next time.
    NextReset,
    /// When the light should have changed, or does.
    NextEdge,
    /// When enough samples show a trend.
    Trend,
}

/// What has a fault.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Group {
    /// The card.
    Card,
    /// The link.
    Link,
    /// The light of the card.
    Led,
    /// The service process.
    Service,
    /// The host.
    Host,
}

/// Who plays a fault.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Player {
    /// The simulated card.
    Card,
    /// The stand-in service process.
    StandIn,
    /// The simulation of a host.
    Simulation,
}

/// A fault was asked for that there is not.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FaultError {
    /// Nothing has this name.
    #[error(
        "there is no fault {name}{}; `firmware-sim faults` lists them",
        hint(nearest)
    )]
    Unknown {
        /// The name.
        name: String,
        /// The name most like it.
        nearest: Option<&'static str>,
    },
    /// The card cannot play it.
    #[error("{name} is a fault of the {group}, which a card cannot have")]
    NotOfTheCard {
        /// The fault.
        name: &'static str,
        /// Whose fault it is.
        group: Group,
    },
    /// It does not take this parameter.
    #[error("{fault} takes no {parameter}; it takes {}", or_nothing(takes))]
    UnknownParameter {
        /// The fault.
        fault: &'static str,
        /// The parameter.
        parameter: String,
        /// What it does take.
        takes: Vec<&'static str>,
    },
    /// The parameter cannot have this value.
    #[error("{fault}: {parameter} cannot be {value:?}: it must be {expected}")]
    BadValue {
        /// The fault.
        fault: &'static str,
        /// The parameter.
        parameter: &'static str,
        /// The value.
        value: String,
        /// What it could be.
        expected: &'static str,
    },
}

fn hint(nearest: &Option<&'static str>) -> String {
    nearest.map_or_else(String::new, |nearest| format!(" (did you mean {nearest}?)"))
}

fn or_nothing(takes: &[&'static str]) -> String {
    match takes {
        [] => "nothing".to_owned(),
        takes => takes.join(", "),
    }
}

impl Fault {
    /// Every fault a card can play, with the parameters it has if nobody says otherwise.
    #[must_use]
    pub fn all() -> Vec<Self> {
        vec![
            Self::Hang {
                until: HangEnd::Cleared,
            },
            Self::Slow { factor: 10.0 },
            Self::FlippedBit,
            Self::CrtFault,
            Self::WrongMessage,
            Self::RepeatedNonce,
            Self::ShortResult { bytes: 1 },
            Self::OverlongResult { bytes: 4096 },
            Self::DuplicateCompletion { copies: 1 },
            Self::LateCompletion {
                delay: Duration::from_secs(2),
            },
            Self::ReorderedCompletion,
            Self::DroppedCompletion,
            Self::UnknownCompletion { head: u16::MAX },
            Self::DmaGarbage { bytes: 64 },
            Self::HeartbeatStops,
            Self::WorkStops,
            Self::SilentReboot,
            Self::ResetLoop {
                period: Duration::from_secs(3),
            },
            Self::ResetHangs,
            Self::SessionsExhausted,
            Self::KeysLost,
            Self::OverTemperature {
                celsius: 105,
                rate: 2.0,
            },
            Self::SelfTestFailure { test: 1 },
            Self::RngStuck,
            Self::ErrorStatus {
                status: Status::ERR,
            },
            Self::Maintenance,
            Self::SurpriseRemoval,
            Self::AllOnes,
            Self::Downtrained { width: 1, speed: 1 },
            Self::CorrectableStorm { rate: 100.0 },
            Self::LostInterrupt,
            Self::InterruptStorm {
                rate: 10_000.0,
                vector: 1,
            },
            Self::LedIrregular,
            Self::LedStuckOn,
            Self::LedStuckOff,
            Self::LedSos {
                code: "B1".to_owned(),
            },
            Self::LedMaintenance,
            Self::LedInitialization,
        ]
    }

    /// The fault of this name, with the parameters it has if nobody says otherwise.
    ///
    /// # Errors
    ///
    /// If there is none, or a card cannot play it.
    pub fn named(name: &str) -> Result<Self, FaultError> {
        let named = Self::all().into_iter().find(|fault| fault.name() == name);
        named.ok_or_else(|| match CATALOGUE.iter().find(|entry| entry.name == name) {
            Some(entry) => FaultError::NotOfTheCard {
                name: entry.name,
                group: entry.group,
            },
            None => FaultError::Unknown {
                name: name.to_owned(),
                nearest: nearest(name, CATALOGUE.iter().map(|entry| entry.name)),
            },
        })
    }

    /// Sets a parameter from text.
    ///
    /// # Errors
    ///
    /// If the fault does not take it, or it cannot have this value, or would do nothing with it; then
    /// it is as it was.
    pub fn set(&mut self, parameter: &str, value: &str) -> Result<(), FaultError> {
        let fault = self.name();
        let mut changed = self.clone();
        let mut parameters = changed.parameters_mut();
        let takes = parameters.iter().map(|(name, _)| *name).collect();
        let found = parameters.iter_mut().find(|(name, _)| *name == parameter);
        let Some((parameter, place)) = found else {
            return Err(FaultError::UnknownParameter {
                fault,
                parameter: parameter.to_owned(),
                takes,
            });
        };
        let parameter = *parameter;
        let read = place.read(value);
        match (read, changed.range(parameter)) {
            (Err(_), Some((_, expected)))
            | (Ok(()), Some((false, expected)))
            | (Err(expected), None) => Err(FaultError::BadValue {
                fault,
                parameter,
                value: value.to_owned(),
                expected,
            }),
            (Ok(()), _) => {
                *self = changed;
                Ok(())
            }
        }
    }

    /// What a parameter has to be for the fault to do something, where not every value of its kind
    /// does, and whether it is.
    fn range(&self, parameter: &str) -> Option<(bool, &'static str)> {
        let (best_width, best_speed) = Card::best_link();
        match (self, parameter) {
            (Self::Slow { factor }, _) => Some((*factor > 1.0, "a number above 1, up to 1000000")),
            (Self::DuplicateCompletion { copies }, _) => {
                Some(((1..=254).contains(copies), "a number from 1 to 254"))
            }
            (Self::Downtrained { width, speed }, _) => Some((
                (1..=best_width).contains(width)
                    && (1..=best_speed).contains(speed)
                    && (*width, *speed) != (best_width, best_speed),
                "a width from 1 to 8 and a speed from 1 to 4, and one of them less than that",
            )),
            (Self::OverTemperature { celsius, .. }, "celsius") => Some((
                liar::kelvin(f64::from(*celsius)) > Card::warning_temperature_k(),
                "a temperature above 85, where a card warns, up to 65535",
            )),
            (Self::InterruptStorm { vector, .. }, "vector") => Some((
                *vector < Card::vectors_max(),
                "a number up to 61, the last vector that a card can have",
            )),
            _ => None,
        }
    }

    /// What is known of it.
    #[must_use]
    pub fn entry(&self) -> &'static Entry {
        let entry = CATALOGUE.iter().find(|entry| entry.name == self.name());
        entry.expect("every fault is in the catalogue, which a test holds")
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Hang { .. } => "hang",
            Self::Slow { .. } => "slow",
            Self::FlippedBit => "flipped-bit",
            Self::CrtFault => "crt-fault",
            Self::WrongMessage => "wrong-message",
            Self::RepeatedNonce => "repeated-nonce",
            Self::ShortResult { .. } => "short-result",
            Self::OverlongResult { .. } => "overlong-result",
            Self::DuplicateCompletion { .. } => "duplicate-completion",
            Self::LateCompletion { .. } => "late-completion",
            Self::ReorderedCompletion => "reordered-completion",
            Self::DroppedCompletion => "dropped-completion",
            Self::UnknownCompletion { .. } => "unknown-completion",
            Self::DmaGarbage { .. } => "dma-garbage",
            Self::HeartbeatStops => "heartbeat-stops",
            Self::WorkStops => "work-stops",
            Self::SilentReboot => "silent-reboot",
            Self::ResetLoop { .. } => "reset-loop",
            Self::ResetHangs => "reset-hangs",
            Self::SessionsExhausted => "sessions-exhausted",
            Self::KeysLost => "keys-lost",
            Self::OverTemperature { .. } => "over-temperature",
            Self::SelfTestFailure { .. } => "self-test-failure",
            Self::RngStuck => "rng-stuck",
            Self::ErrorStatus { .. } => "error-status",
            Self::Maintenance => "maintenance",
            Self::SurpriseRemoval => "surprise-removal",
            Self::AllOnes => "all-ones",
            Self::Downtrained { .. } => "downtrained",
            Self::CorrectableStorm { .. } => "correctable-storm",
            Self::LostInterrupt => "lost-interrupt",
            Self::InterruptStorm { .. } => "interrupt-storm",
            Self::LedIrregular => "led-irregular",
            Self::LedStuckOn => "led-stuck-on",
            Self::LedStuckOff => "led-stuck-off",
            Self::LedSos { .. } => "led-sos",
            Self::LedMaintenance => "led-maintenance",
            Self::LedInitialization => "led-initialization",
        }
    }

    /// The values of its parameters by name, the most important first.
    #[must_use]
    pub fn values(&self) -> Vec<(&'static str, String)> {
        let mut fault = self.clone();
        let parameters = fault.parameters_mut().into_iter();
        parameters
            .map(|(name, value)| (name, value.show()))
            .collect()
    }

    /// Its parameters by name, the most important first.
    fn parameters_mut(&mut self) -> Vec<(&'static str, &mut dyn Value)> {
        match self {
            Self::Hang { until } => vec![("until", until)],
            Self::Slow { factor } => vec![("factor", factor)],
            Self::ShortResult { bytes }
            | Self::OverlongResult { bytes }
            | Self::DmaGarbage { bytes } => vec![("bytes", bytes)],
            Self::DuplicateCompletion { copies } => vec![("copies", copies)],
            Self::LateCompletion { delay } => vec![("delay", delay)],
            Self::UnknownCompletion { head } => vec![("head", head)],
            Self::ResetLoop { period } => vec![("period", period)],
            Self::OverTemperature { celsius, rate } => {
                vec![("celsius", celsius), ("rate", rate)]
            }
            Self::SelfTestFailure { test } => vec![("test", test)],
            Self::ErrorStatus { status } => vec![("status", status)],
            Self::Downtrained { width, speed } => vec![("width", width), ("speed", speed)],
            Self::CorrectableStorm { rate } => vec![("rate", rate)],
            Self::InterruptStorm { rate, vector } => vec![("rate", rate), ("vector", vector)],
            Self::LedSos { code } => vec![("code", code)],
            _ => Vec::new(),
        }
    }

    /// How it acts.
    pub(crate) fn acts(&self) -> Acts {
        let every = |rate: f64| Acts::Pulse(Some(Duration::from_secs_f64(1.0 / rate)));
        match self {
            Self::SessionsExhausted => Acts::OnSessions,
            Self::FlippedBit
            | Self::CrtFault
            | Self::WrongMessage
            | Self::RepeatedNonce
            | Self::ShortResult { .. }
            | Self::RngStuck
            | Self::ErrorStatus { .. } => Acts::OnRequests,
            Self::OverlongResult { .. }
            | Self::DuplicateCompletion { .. }
            | Self::LateCompletion { .. }
            | Self::ReorderedCompletion
            | Self::DroppedCompletion
            | Self::UnknownCompletion { .. } => Acts::OnAnswers,
            Self::LostInterrupt => Acts::OnInterrupts,
            Self::SilentReboot | Self::KeysLost => Acts::Pulse(None),
            Self::ResetLoop { period } => Acts::Pulse(Some(*period)),
            Self::DmaGarbage { .. } => Acts::Pulse(Some(GARBAGE_PERIOD)),
            Self::CorrectableStorm { rate } | Self::InterruptStorm { rate, .. } => every(*rate),
            _ => Acts::While,
        }
    }
}

/// `NAME`, `NAME=VALUE` for its first parameter, `NAME=VALUE,PARAMETER=VALUE`.
impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        let (name, values) = text.split_once('=').unwrap_or((text, ""));
        let mut fault = Self::named(name)?;
        let first = fault.parameters_mut().first().map(|(name, _)| *name);
        for value in values.split(',').filter(|value| !value.is_empty()) {
            let (parameter, value) = value
                .split_once('=')
                .unwrap_or_else(|| (first.unwrap_or("value"), value));
            fault.set(parameter, value)?;
        }
        Ok(fault)
    }
}

/// As [`Fault::from_str`] reads it.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        for (index, (name, value)) in self.values().into_iter().enumerate() {
            match index {
                0 => write!(f, "={value}")?,
                _ => write!(f, ",{name}={value}")?,
            }
        }
        Ok(())
    }
}

impl Group {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Card => "card",
            Self::Link => "link",
            Self::Led => "led",
            Self::Service => "service",
            Self::Host => "host",
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Player {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Card => "card",
            Self::StandIn => "stand-in service",
            Self::Simulation => "simulation",
        }
    }
}

impl Cause {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Card => "card",
            Self::CardAbsent => "card-absent",
            Self::Link => "link",
            Self::Service => "service",
            Self::Host => "host",
        }
    }
}

impl Observable {
    /// In words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AtOnce => "at once",
            Self::NextHeartbeat => "at the next heartbeat",
            Self::NextRequest => "at the next request of that kind",
            Self::NextSession => "at the next session",
            Self::NextInterrupt => "at the next interrupt",
            Self::NextRead => "at the next register read",
            Self::NextReset => "at the next reset",
            Self::NextEdge => "at the next edge of the light",
            Self::Trend => "when a trend shows",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_has_every_fault_once_and_with_the_parameters_it_takes() {
        let mut played = 0;
        for (index, entry) in CATALOGUE.iter().enumerate() {
            let same = |other: &Entry| other.name == entry.name;
            assert_eq!(
                CATALOGUE.iter().position(same),
                Some(index),
                "{}",
                entry.name
            );
            let words = |character: char| character.is_ascii_lowercase() || character == '-';
            assert!(entry.name.chars().all(words), "{}", entry.name);
            if entry.played_by != Player::Card {
                assert!(matches!(
                    Fault::named(entry.name),
                    Err(FaultError::NotOfTheCard { .. })
                ));
                continue;
            }
            played += 1;
            let fault = Fault::named(entry.name).unwrap();
            let described: Vec<_> = entry.parameters.iter().map(|it| it.name).collect();
            let taken: Vec<_> = fault.values().into_iter().map(|(name, _)| name).collect();
            assert_eq!(described, taken, "{}", entry.name);
            assert_eq!(fault.entry().name, entry.name);
        }
        assert_eq!(played, Fault::all().len());
    }

    #[test]
    fn a_fault_is_read_as_it_is_written() {
        for fault in Fault::all() {
            assert_eq!(fault.to_string().parse(), Ok(fault));
        }
        let narrow: Fault = "downtrained=2,speed=3".parse().unwrap();
        assert_eq!(narrow, Fault::Downtrained { width: 2, speed: 3 });
        let status = Status::KEY_REJECTED;
        assert_eq!(
            "error-status=key-rejected".parse(),
            Ok(Fault::ErrorStatus { status })
        );
    }

    #[test]
    fn a_fault_that_would_do_nothing_is_refused_with_what_would() {
        let best = Card::best_link();
        let best = format!("downtrained={},speed={}", best.0, best.1);
        for (wrong, right) in [
            ("slow=1", "slow=1.1"),
            ("slow=0.5", "slow=1000000"),
            ("duplicate-completion=0", "duplicate-completion=254"),
            ("over-temperature=85", "over-temperature=86"),
            ("interrupt-storm=1,vector=62", "interrupt-storm=1,vector=0"),
            ("downtrained=0", "downtrained=1"),
            ("downtrained=2,speed=0", "downtrained=2,speed=2"),
            (&best, "downtrained=2,speed=3"),
        ] {
            let error = wrong.parse::<Fault>().unwrap_err();
            assert!(matches!(error, FaultError::BadValue { .. }), "{error}");
            let fault: Fault = right.parse().unwrap();
            assert_eq!(fault.to_string().split(',').next(), right.split(',').next());
        }
        let mut fault = Fault::Slow { factor: 7.0 };
        let error = fault.set("factor", "1").unwrap_err().to_string();
        assert_eq!(
            error,
            "slow: factor cannot be \"1\": it must be a number above 1, up to 1000000"
        );
        assert_eq!(fault, Fault::Slow { factor: 7.0 });
        // What is said of a card is so.
        let range = |fault: &str, parameter| fault.parse::<Fault>().unwrap().range(parameter);
        let (width, speed) = Card::best_link();
        let said = format!("a width from 1 to {width} and a speed from 1 to {speed}");
        assert!(range("downtrained", "width").unwrap().1.starts_with(&said));
        let warning = Card::warning_temperature_k() - 273;
        let said = format!("a temperature above {warning},");
        assert!(
            range("over-temperature", "celsius")
                .unwrap()
                .1
                .starts_with(&said)
        );
        let said = format!("a number up to {},", Card::vectors_max() - 1);
        assert!(
            range("interrupt-storm", "vector")
                .unwrap()
                .1
                .starts_with(&said)
        );
    }

    #[test]
    fn what_is_no_fault_is_explained() {
        let message = |text: &str| text.parse::<Fault>().unwrap_err().to_string();
        assert_eq!(
            message("crt-fualt"),
            "there is no fault crt-fualt (did you mean crt-fault?); `firmware-sim faults` lists them"
        );
        assert_eq!(
            message("slow=0"),
            "slow: factor cannot be \"0\": it must be a number above 1, up to 1000000"
        );
        assert_eq!(
            message("slow=2,speed=1"),
            "slow takes no speed; it takes factor"
        );
        assert_eq!(
            message("keys-lost=1"),
            "keys-lost takes no value; it takes nothing"
        );
        assert_eq!(
            message("steal"),
            "steal is a fault of the host, which a card cannot have"
        );
    }
}
