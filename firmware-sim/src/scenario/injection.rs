//! An injection as it is written, in a scenario and on the control socket alike.
//!
//! What it then means is said by [`Trigger`].

use crate::fault::{CATALOGUE, Fault, FaultError, Group, Injection, Matching, Trigger};
use crate::nearest::nearest;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A fault and when it acts, with the keys of a table.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct InjectionText {
    /// As [`Fault`] is read from a command line.
    #[serde(deserialize_with = "parsed", serialize_with = "shown")]
    pub fault: Fault,
    /// From when on, since the card started; what is over already means now.
    #[serde(default)]
    pub at: Span,
    /// For how long.
    #[serde(
        default,
        deserialize_with = "some_lasting",
        skip_serializing_if = "Option::is_none"
    )]
    pub lasting: Option<Span>,
    /// How many matching requests it leaves alone first.
    #[serde(default)]
    pub after_requests: u64,
    /// How often it may act.
    #[serde(
        default,
        deserialize_with = "some_times",
        skip_serializing_if = "Option::is_none"
    )]
    pub times: Option<u64>,
    /// Chance of each matching request that it acts.
    #[serde(default)]
    pub probability: Chance,
    /// On which requests it acts, as [`Matching`] is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matching: Option<MatchingText>,
}

impl From<InjectionText> for Injection {
    fn from(text: InjectionText) -> Self {
        let InjectionText {
            fault,
            at,
            lasting,
            after_requests,
            times,
            probability,
            matching,
        } = text;
        let trigger = Trigger {
            at: at.0,
            lasting: lasting.map(|span| span.0),
            after_requests,
            times,
            probability: probability.0,
            matching: matching.map(|text| text.matching),
        };
        Self { fault, trigger }
    }
}

/// A duration, such as `250ms`, `3s` or `1m 30s`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text)
            .map(Self)
            .map_err(|_| format!("{text:?} is not a duration, such as 250ms, 3s or 2m"))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// A probability above 0, up to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Chance(f64);

impl Chance {
    /// # Errors
    ///
    /// What it should be.
    pub fn new(probability: f64) -> Result<Self, String> {
        if probability > 0.0 && probability <= 1.0 {
            Ok(Self(probability))
        } else {
            Err(format!(
                "{probability} is not a probability: above 0, and 1 at most"
            ))
        }
    }
}

impl Default for Chance {
    fn default() -> Self {
        Self(1.0)
    }
}

impl FromStr for Chance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::new(
            text.parse()
                .map_err(|_| format!("{text:?} is not a number"))?,
        )
    }
}

/// Requests to match, with the text that says so.
#[derive(Clone, Debug, PartialEq)]
pub struct MatchingText {
    text: String,
    matching: Matching,
}

impl FromStr for MatchingText {
    type Err = <Matching as FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self {
            matching: text.parse()?,
            text: text.to_owned(),
        })
    }
}

impl fmt::Display for MatchingText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A value that is written as a string.
pub(crate) fn parsed<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: FromStr<Err: fmt::Display>,
    D: Deserializer<'de>,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(D::Error::custom)
}

/// A duration in which something can happen.
pub(super) fn some_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
    let span: Span = parsed(deserializer)?;
    if span.0.is_zero() {
        return Err(D::Error::custom(
            "no time at all is too short for anything to happen: say how long, such as 3s",
        ));
    }
    Ok(span)
}

fn some_lasting<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Span>, D::Error> {
    some_time(deserializer).map(Some)
}

fn some_times<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    match u64::deserialize(deserializer)? {
        0 => Err(D::Error::custom(
            "what may act 0 times never acts: say 1 or more, or leave it out for any number",
        )),
        times => Ok(Some(times)),
    }
}

fn shown<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// Types that are written as strings.
macro_rules! written_as_text {
    ($($text:ty),*) => {$(
        impl Serialize for $text {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                shown(self, serializer)
            }
        }

        impl<'de> Deserialize<'de> for $text {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                parsed(deserializer)
            }
        }
    )*};
}

written_as_text!(Span, MatchingText);

impl<'de> Deserialize<'de> for Chance {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(f64::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// A fault of the host, by name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HostFault(&'static str);

impl FromStr for HostFault {
    type Err = FaultError;

    fn from_str(name: &str) -> Result<Self, FaultError> {
        let hosts = CATALOGUE.iter().filter(|entry| entry.group == Group::Host);
        let mut names = hosts.map(|entry| entry.name);
        let found = names.clone().find(|known| *known == name);
        found.map(Self).ok_or_else(|| FaultError::Unknown {
            name: name.to_owned(),
            nearest: nearest(name, &mut names),
        })
    }
}

impl fmt::Display for HostFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}
