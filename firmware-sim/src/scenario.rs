//! Stories of cards that fail, told in TOML: which faults, when, and what should come of it.
//!
//! A file is taken whole or refused, and what is wrong with it is named with its line. Playing a
//! scenario is the [script](crate::fault::Script)'s part for the card, the
//! [director](crate::director)'s for `[service]` and the simulation's for `[host]`; nothing is
//! judged here. All times, and all rates, are of the scenario's time.
//!
//! ```toml
//! name = "bellcore"
//! summary = "one line"
//! story = "a few sentences"
//! duration = "60s"
//!
//! [[inject]]
//! fault = "crt-fault"     # as on a command line, parameters and all: "slow=10"
//! at = "10s"              # since the card started; everything below is optional
//! lasting = "20s"
//! after_requests = 5
//! times = 3
//! probability = 0.1
//! matching = "algorithm=rsa,opcode=sign"
//!
//! [service]               # if there is one, it is played by the stand-in
//! failed_opens_per_second = 2.0   # optional: what clients do to it
//!
//! [[service.inject]]
//! fault = "leak-heap=1MiB/s"      # with `at` and `lasting` as above
//!
//! [expect]
//! cause = "card"
//! shim = "what it must do"
//! ```

mod effect;
pub mod injection;
mod listing;

pub use listing::{json, story, table};

use crate::fault::led::Profile;
use crate::fault::{Cause, Injection, Script};
use crate::nearest::{hint, nearest};
use crate::service::ServiceFault;
use clap::ValueEnum as _;
use injection::{HostFault, InjectionText, Span, parsed};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// A story, and what is needed to play it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Its name, which is that of its file if it is built in.
    pub name: String,
    /// What happens, in one line.
    pub summary: String,
    /// What happens, and where it happened before.
    pub story: String,
    /// How long there is something to see, since the card started.
    #[serde(deserialize_with = "some_time")]
    pub duration: Duration,
    /// Seed of everything random about it, unless somebody says otherwise.
    #[serde(default = "first_seed")]
    pub seed: u64,
    /// How the light of the card shines while all is well.
    #[serde(default, deserialize_with = "profile")]
    pub led: Profile,
    /// What the card has to do meanwhile, one phase after the other; as it comes if there is none.
    #[serde(default)]
    pub load: Vec<Phase>,
    /// What the card, its link and its light have, and when.
    #[serde(default, rename = "inject", deserialize_with = "injections")]
    pub injections: Vec<Injection>,
    /// What the host service has.
    pub service: Option<ServicePart>,
    /// What the host has.
    pub host: Option<HostPart>,
    /// What should come of it.
    pub expect: Expectation,
    /// The file it was read from, if it is not built in.
    #[serde(skip)]
    pub path: Option<PathBuf>,
}

/// A time with one kind of load.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// What it is called: idle, steady, peak.
    pub phase: String,
    /// How long it takes.
    #[serde(deserialize_with = "some_time")]
    pub lasting: Duration,
    /// How many operations a second are asked for.
    #[serde(deserialize_with = "operations_per_second")]
    pub operations_per_second: f64,
}

/// What the host service has.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServicePart {
    /// How many opens that cannot succeed it is asked for a second; none if `None`.
    #[serde(default, deserialize_with = "some_rate")]
    pub failed_opens_per_second: Option<f64>,
    /// Its faults.
    #[serde(rename = "inject")]
    pub faults: Vec<TimedFault<ServiceFault>>,
}

/// What the host has.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostPart {
    /// What brings that about.
    pub story: String,
    /// Its faults.
    #[serde(rename = "inject")]
    pub faults: Vec<TimedFault<HostFault>>,
}

/// A fault of the service or the host, for a time.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields, bound = "F: FromStr, F::Err: std::fmt::Display")]
pub struct TimedFault<F> {
    /// What.
    #[serde(deserialize_with = "parsed")]
    pub fault: F,
    /// From when on, since the card started.
    #[serde(default, deserialize_with = "duration")]
    pub at: Duration,
    /// For how long; to the end if `None`.
    #[serde(default, deserialize_with = "some_lasting")]
    pub lasting: Option<Duration>,
}

impl<F> TimedFault<F> {
    /// When it is over, if ever.
    #[must_use]
    pub fn end(&self) -> Option<Duration> {
        self.lasting.map(|lasting| self.at.saturating_add(lasting))
    }

    /// Whether it is on at a time.
    #[must_use]
    pub fn is_on(&self, time: Duration) -> bool {
        self.at <= time && self.end().is_none_or(|end| time < end)
    }
}

/// What should come of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    /// What is at fault.
    #[serde(deserialize_with = "cause")]
    pub cause: Cause,
    /// What the shim must do.
    pub shim: String,
    /// What a monitor must say, if that is not the cause alone.
    pub monitor: Option<String>,
}

/// There is no such scenario.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScenarioError {
    /// A file could not be read.
    #[error("{} could not be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// A line of a file is wrong.
    #[error("{file} line {line}: {problem}")]
    Wrong {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// None that is built in has this name.
    #[error(
        "there is no scenario {name}{}; `firmware-sim scenarios` lists them, and a file is written \
         with its directory, as in ./{name}.toml",
        nearest.map_or_else(String::new, |nearest| format!(" (did you mean {nearest}?)"))
    )]
    Unknown {
        /// The name.
        name: String,
        /// The name most like it.
        nearest: Option<&'static str>,
    },
}

/// Names the scenarios that are built in, each with its text.
macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../scenarios/", $name, ".toml")))),*]
    };
}

/// In the order in which they are listed: the card, its link, its light, its surroundings.
const BUILT_IN: &[(&str, &str)] = built_in![
    "healthy",
    "bellcore",
    "wrong-message",
    "repeated-nonce",
    "rng-stuck",
    "flipped-bits",
    "hang",
    "hang-until-reset",
    "stuck-reset",
    "slow-death",
    "flapping",
    "late-answers",
    "duplicates",
    "reordered",
    "dropped",
    "unknown-completion",
    "dma-garbage",
    "heart-without-hands",
    "hands-without-heart",
    "silent-reboot",
    "reset-loop",
    "session-exhaustion",
    "lost-keys",
    "overheating",
    "self-test-failure",
    "pulled-card",
    "reseated-card",
    "all-ones",
    "downtrained",
    "correctable-storm",
    "lost-interrupts",
    "interrupt-storm",
    "random-led",
    "sos-b1",
    "maintenance",
    "hardserver-leak",
    "rpc-port-leak",
    "dpc-heartbeat-gap",
];

impl Scenario {
    /// Parses `text`; `file` is for messages.
    ///
    /// # Errors
    ///
    /// [`ScenarioError::Wrong`], for the first thing that is.
    pub fn parse(text: &str, file: &str) -> Result<Self, ScenarioError> {
        let wrong = |at: usize, problem: String| ScenarioError::Wrong {
            file: file.to_owned(),
            line: 1 + text[..at].matches('\n').count(),
            problem,
        };
        let scenario: Self = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            wrong(at, explained(error.message()))
        })?;
        effect::check(&scenario, text).map_err(|it| wrong(it.at, it.problem))?;
        Ok(scenario)
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    ///
    /// [`ScenarioError::Unreadable`] or [`ScenarioError::Wrong`].
    pub fn read(path: &Path) -> Result<Self, ScenarioError> {
        let text = fs::read_to_string(path).map_err(|source| ScenarioError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        let scenario = Self::parse(&text, &path.display().to_string())?;
        Ok(Self {
            path: Some(path.to_owned()),
            ..scenario
        })
    }

    /// The one that is built in under this name.
    ///
    /// # Errors
    ///
    /// [`ScenarioError::Unknown`].
    pub fn builtin(name: &str) -> Result<Self, ScenarioError> {
        let found = BUILT_IN.iter().find(|(known, _)| *known == name);
        let Some((_, text)) = found else {
            return Err(ScenarioError::Unknown {
                name: name.to_owned(),
                nearest: nearest(name, BUILT_IN.iter().map(|(known, _)| *known)),
            });
        };
        Self::parse(text, &format!("{name}.toml"))
    }

    /// All that are built in.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let parsed = BUILT_IN.iter().map(|(name, _)| Self::builtin(name));
        parsed
            .map(|scenario| scenario.expect("every built-in scenario parses, which a test holds"))
            .collect()
    }

    /// What [`Scenario::from_str`] finds it under: its name, or its file.
    #[must_use]
    pub fn address(&self) -> String {
        let path = self.path.as_ref().map(|path| path.display().to_string());
        path.unwrap_or_else(|| self.name.clone())
    }

    /// The card's part of it.
    #[must_use]
    pub fn script(&self, seed: u64) -> Script {
        let mut script = Script::new(seed).with_led_profile(self.led);
        for injection in &self.injections {
            script.add(injection.clone());
        }
        script
    }
}

/// `NAME`, or `FILE`: anything with a `/` or that ends with `.toml`.
impl FromStr for Scenario {
    type Err = ScenarioError;

    fn from_str(text: &str) -> Result<Self, ScenarioError> {
        if text.contains('/') || Path::new(text).extension().is_some_and(|it| it == "toml") {
            Self::read(Path::new(text))
        } else {
            Self::builtin(text)
        }
    }
}

/// What serde says of an unknown key, with the one that was probably meant.
fn explained(message: &str) -> String {
    if !message.starts_with("unknown field") {
        return message.trim_end().to_owned();
    }
    let mut quoted = message.split('`').skip(1).step_by(2);
    let key = quoted.next().unwrap_or_default();
    format!("there is no key `{key}`; {}", hint(key, quoted))
}

const fn first_seed() -> u64 {
    1
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parsed::<Span, D>(deserializer).map(|span| span.0)
}

fn some_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    injection::some_time(deserializer).map(|span| span.0)
}

fn some_lasting<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    some_time(deserializer).map(Some)
}

fn operations_per_second<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    /// A hundred times what cards do.
    const PER_SECOND_MAX: f64 = 1e7;
    let rate = f64::deserialize(deserializer)?;
    if (0.0..=PER_SECOND_MAX).contains(&rate) {
        Ok(rate)
    } else {
        Err(D::Error::custom(format!(
            "nobody can ask for {rate} operations a second: from 0 to {PER_SECOND_MAX}"
        )))
    }
}

fn profile<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Profile, D::Error> {
    let text = String::deserialize(deserializer)?;
    Profile::from_str(&text, false).map_err(|_| {
        let values = Profile::value_variants().iter();
        let values = values.filter_map(|profile| profile.to_possible_value());
        let names: Vec<_> = values.map(|value| value.get_name().to_owned()).collect();
        D::Error::custom(format!(
            "no light is {text:?}; there are {}",
            names.join(", ")
        ))
    })
}

fn injections<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Injection>, D::Error> {
    let texts = Vec::<InjectionText>::deserialize(deserializer)?;
    Ok(texts.into_iter().map(Injection::from).collect())
}

fn cause<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Cause, D::Error> {
    const CAUSES: [Cause; 6] = [
        Cause::None,
        Cause::Card,
        Cause::CardAbsent,
        Cause::Link,
        Cause::Service,
        Cause::Host,
    ];
    let text = String::deserialize(deserializer)?;
    let found = CAUSES.into_iter().find(|cause| cause.name() == text);
    found.ok_or_else(|| {
        let names = CAUSES.map(Cause::name).join(", ");
        D::Error::custom(format!("no cause is {text:?}; there are {names}"))
    })
}

fn some_rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    /// Who wants more has a benchmark in mind.
    const PER_SECOND_MAX: f64 = 1000.0;
    let rate = f64::deserialize(deserializer)?;
    if rate > 0.0 && rate <= PER_SECOND_MAX {
        Ok(Some(rate))
    } else {
        Err(D::Error::custom(format!(
            "{rate} is no such rate: above 0, and {PER_SECOND_MAX} at most"
        )))
    }
}

#[cfg(test)]
mod tests;
