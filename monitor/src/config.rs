//! The configuration file: parsed once into types, and refused whole if any of it is wrong.
//!
//! One table, `KEYS`, says which keys there are, what they mean and what they are unless
//! somebody says otherwise; the commented default file is printed from it, so the two cannot
//! disagree.

use crate::led::Profile;
use crate::verdict::Limits;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What the configuration says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// Directory of the telemetry pages; `None` for the one owners use unless told otherwise.
    pub telemetry: Option<PathBuf>,
    /// How patient to be.
    pub limits: Limits,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Whether `listen` may be an address that other hosts can reach.
    pub allow_remote: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            telemetry: None,
            limits: Limits::default(),
            // Loopback: what the monitor knows is nobody else's business unless the operator says
            // so. The port is free in Prometheus' list of exporters' ports.
            listen: SocketAddr::from(([127, 0, 0, 1], 9180)),
            allow_remote: false,
        }
    }
}

/// One key.
struct Key {
    /// Table and name.
    path: (&'static str, &'static str),
    /// What it means, one line of the default file each.
    help: &'static [&'static str],
    /// Its default as written in TOML.
    default: &'static str,
    /// Written behind a `#`, because the default depends on the user.
    commented: bool,
    /// Takes a value over, or says what it should be instead.
    set: fn(&mut Config, &DeValue<'_>) -> Result<(), String>,
}

const KEYS: [Key; 7] = [
    Key {
        path: ("watch", "telemetry"),
        help: &[
            "Directory of the telemetry pages, one per card. Unless set: /run/hwshim for root,",
            "else hwshim in XDG_RUNTIME_DIR, as the owners of cards choose it too.",
        ],
        default: r#""/run/hwshim""#,
        commented: true,
        set: |config, value| {
            let path = Path::new(string(value)?);
            if !path.is_absolute() {
                return Err(format!("{} is not an absolute path", path.display()));
            }
            config.telemetry = Some(path.to_owned());
            Ok(())
        },
    },
    Key {
        path: ("watch", "interval"),
        help: &[
            "Time between polls, 200ms to 60s. A card that is gone is noticed at the next poll, one",
            "that hangs after `frozen_polls` of them.",
        ],
        default: r#""1s""#,
        commented: false,
        set: |config, value| {
            config.limits.poll_interval = poll_interval(string(value)?)?;
            Ok(())
        },
    },
    Key {
        path: ("watch", "light"),
        help: &[
            "How the cards' status lights are read: \"nfast-500\" (a blink every 3 to 4 seconds),",
            "\"nshield\" (lit, pulses and Morse code), or \"none\".",
        ],
        default: r#""none""#,
        commented: false,
        set: |config, value| {
            config.limits.light = light(string(value)?)?;
            Ok(())
        },
    },
    Key {
        path: ("judge", "frozen_polls"),
        help: &[
            "Polls in a row, each on time, that must find a card's heartbeat unmoved before the",
            "card is unavailable, 2 to 60.",
        ],
        default: "3",
        commented: false,
        set: |config, value| {
            config.limits.frozen_polls = integer(value, 2, 60)?;
            Ok(())
        },
    },
    Key {
        path: ("judge", "stale_publications"),
        help: &[
            "A page is stale when this many publications are missing, or polls if those are rarer,",
            "2 to 60.",
        ],
        default: "3",
        commented: false,
        set: |config, value| {
            config.limits.stale_publications = integer(value, 2, 60)?;
            Ok(())
        },
    },
    Key {
        path: ("http", "listen"),
        help: &["Address and port of /metrics and /api/v1/status."],
        default: r#""127.0.0.1:9180""#,
        commented: false,
        set: |config, value| {
            let text = string(value)?;
            config.listen = text.parse().map_err(|_| {
                format!("{text:?} is not an IP address and port, such as 127.0.0.1:9180")
            })?;
            Ok(())
        },
    },
    Key {
        path: ("http", "allow_remote"),
        help: &[
            "Whether `listen` may be an address that other hosts can reach. There is neither",
            "encryption nor a password.",
        ],
        default: "false",
        commented: false,
        set: |config, value| {
            config.allow_remote = value
                .as_bool()
                .ok_or_else(|| wanted("true or false", value))?;
            Ok(())
        },
    },
];

/// The configuration is wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{} could not be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: std::io::Error,
    },
    /// A line of it is wrong.
    #[error("{} line {line}: {problem}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// The address is one that other hosts can reach, and nothing allows that.
    #[error(
        "{listen} can be reached from other hosts, and has neither encryption nor a password; \
         if that is meant, set allow_remote = true under [http] in the configuration file"
    )]
    NotAllowedRemote {
        /// The address.
        listen: SocketAddr,
    },
}

impl Config {
    /// Reads the file at `path`.
    ///
    /// # Errors
    ///
    /// See [`ConfigError`]; all but the last.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Parses `text`; `path` is for messages.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Wrong`], for the first thing that is.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let wrong = |at: usize, problem: String| ConfigError::Wrong {
            path: path.to_owned(),
            line: 1 + text[..at].matches('\n').count(),
            problem,
        };
        let document = DeTable::parse(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            wrong(at, error.message().to_owned())
        })?;
        let mut config = Self::default();
        for (table, keys) in document.get_ref() {
            check_table(table.get_ref(), keys)
                .map_err(|problem| wrong(table.span().start, problem))?;
            for (key, value) in keys.get_ref().as_table().into_iter().flatten() {
                config
                    .set(table.get_ref(), key.get_ref(), value)
                    .map_err(|problem| wrong(key.span().start, problem))?;
            }
        }
        Ok(config)
    }

    fn set(&mut self, table: &str, key: &str, value: &Spanned<DeValue<'_>>) -> Result<(), String> {
        let Some(known) = KEYS.iter().find(|known| known.path == (table, key)) else {
            let keys = KEYS.iter().filter(|known| known.path.0 == table);
            let nearest = nearest(key, keys.map(|known| known.path.1));
            // A key may also be right and stand under the wrong table.
            let elsewhere = KEYS.iter().find(|known| known.path.1 == key);
            let hint = match elsewhere {
                Some(Key { path, .. }) => format!("it belongs under [{}]", path.0),
                None => nearest,
            };
            return Err(format!("[{table}] has no key `{key}`; {hint}"));
        };
        (known.set)(self, value.get_ref()).map_err(|problem| format!("{table}.{key}: {problem}"))
    }

    /// Where to look for telemetry pages.
    #[must_use]
    pub fn telemetry(&self) -> PathBuf {
        self.telemetry
            .clone()
            .unwrap_or_else(hwshim::telemetry::default_directory)
    }

    /// Whether other hosts can reach the monitor.
    ///
    /// # Errors
    ///
    /// [`ConfigError::NotAllowedRemote`] if they can, and it was not said that they may.
    pub const fn is_remote(&self) -> Result<bool, ConfigError> {
        match (self.listen.ip().is_loopback(), self.allow_remote) {
            (true, _) => Ok(false),
            (false, true) => Ok(true),
            (false, false) => Err(ConfigError::NotAllowedRemote {
                listen: self.listen,
            }),
        }
    }
}

/// The default file, each key explained.
#[must_use]
pub fn default_file() -> String {
    let mut text = String::from(
        "# Configuration of cardmon. Every key is optional; what stands here is the default.\n",
    );
    let mut table = "";
    for key in &KEYS {
        if key.path.0 != table {
            table = key.path.0;
            let _ = write!(text, "\n[{table}]\n");
        } else {
            text.push('\n');
        }
        for line in key.help {
            let _ = writeln!(text, "# {line}");
        }
        let behind = if key.commented { "# " } else { "" };
        let _ = writeln!(text, "{behind}{} = {}", key.path.1, key.default);
    }
    text
}

/// Parses a duration such as `500ms`, `1.5s` or `2m`.
///
/// # Errors
///
/// What it should look like.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration, such as 500ms, 1s or 2m");
    let digits = text
        .find(|character: char| !character.is_ascii_digit() && character != '.')
        .ok_or_else(|| format!("{text:?} has no unit; write 500ms, 1s or 2m"))?;
    let (number, unit) = text.split_at(digits);
    let seconds_per_unit = match unit.trim_start() {
        "ms" => 0.001,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(number * seconds_per_unit).map_err(|_| wrong())
}

/// Parses the time between polls.
///
/// # Errors
///
/// What it should look like.
pub fn poll_interval(text: &str) -> Result<Duration, String> {
    // Faster than cards beat tells nothing; slower than a minute is no watch.
    let range = Duration::from_millis(200)..=Duration::from_secs(60);
    let interval = duration(text)?;
    if range.contains(&interval) {
        Ok(interval)
    } else {
        Err(format!("{text:?} is not between 200ms and 60s"))
    }
}

fn light(text: &str) -> Result<Option<Profile>, String> {
    if text == "none" {
        return Ok(None);
    }
    let known = Profile::ALL.into_iter().find(|known| known.name() == text);
    known.map(Some).ok_or_else(|| {
        let names = Profile::ALL.map(Profile::name).join(", ");
        format!("no light is {text:?}; there are {names}, and none")
    })
}

fn check_table(table: &str, keys: &Spanned<DeValue<'_>>) -> Result<(), String> {
    let mut tables: Vec<_> = KEYS.iter().map(|key| key.path.0).collect();
    tables.dedup();
    let is_table = keys.get_ref().as_table().is_some();
    match (tables.contains(&table), is_table) {
        (true, true) => Ok(()),
        (true, false) => Err(format!("`{table}` is a table: write [{table}]")),
        (false, true) => Err(format!(
            "there is no table [{table}]; {}",
            nearest(table, tables.into_iter())
        )),
        (false, false) => {
            let hint = match KEYS.iter().find(|key| key.path.1 == table) {
                Some(Key { path, .. }) => format!("it belongs under [{}]", path.0),
                None => format!("keys stand under one of {}", list(tables.into_iter())),
            };
            Err(format!("`{table}` stands outside any table; {hint}"))
        }
    }
}

/// Names the candidate that `found` is probably a slip of, or else all.
fn nearest(found: &str, candidates: impl Iterator<Item = &'static str> + Clone) -> String {
    let likeness = |candidate: &&str| strsim::jaro_winkler(found, candidate);
    let best = candidates
        .clone()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
        .filter(|best| likeness(best) > 0.8);
    match best {
        Some(best) => format!("did you mean `{best}`?"),
        None => format!("there are {}", list(candidates)),
    }
}

fn list(names: impl Iterator<Item = &'static str>) -> String {
    let names: Vec<_> = names.map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

fn string<'v>(value: &'v DeValue<'_>) -> Result<&'v str, String> {
    value.as_str().ok_or_else(|| wanted("a string", value))
}

fn integer(value: &DeValue<'_>, min: u32, max: u32) -> Result<u32, String> {
    let digits = value
        .as_integer()
        .ok_or_else(|| wanted("a whole number", value))?;
    u32::from_str_radix(digits.as_str(), digits.radix())
        .ok()
        .filter(|number| (min..=max).contains(number))
        .ok_or_else(|| format!("{digits} is not between {min} and {max}"))
}

fn wanted(what: &str, value: &DeValue<'_>) -> String {
    format!("must be {what}, not {}", value.type_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("cardmon.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn the_example_file_is_the_default() {
        let example = include_str!("../cardmon.example.toml");
        assert_eq!(example, default_file(), "print it anew");
        assert_eq!(parse(example).unwrap(), Config::default());
        // The default of a key that stands there commented out must be right too.
        let telemetry = parse(&example.replace("# telemetry", "telemetry")).unwrap();
        assert_eq!(telemetry.telemetry, Some(PathBuf::from("/run/hwshim")));
    }

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(parse("").unwrap(), Config::default());
    }

    #[test]
    fn every_key_takes_effect() {
        let config = parse(
            "[watch]\ntelemetry = '/t'\ninterval = '500ms'\nlight = 'nshield'\n\
             [judge]\nfrozen_polls = 4\nstale_publications = 5\n\
             [http]\nlisten = '[::1]:80'\nallow_remote = true\n",
        );
        let expected = Config {
            telemetry: Some("/t".into()),
            limits: Limits {
                poll_interval: Duration::from_millis(500),
                frozen_polls: 4,
                stale_publications: 5,
                light: Some(Profile::Nshield),
            },
            listen: "[::1]:80".parse().unwrap(),
            allow_remote: true,
        };
        assert_eq!(config.unwrap(), expected);
    }

    #[test]
    fn errors_name_file_line_key_and_what_would_be_right() {
        let table = [
            (
                "[watch]\n\nintervall = \"1s\"",
                "cardmon.toml line 3: [watch] has no key `intervall`; did you mean `interval`?",
            ),
            (
                "[watch]\nlisten = \"127.0.0.1:1\"",
                "cardmon.toml line 2: [watch] has no key `listen`; it belongs under [http]",
            ),
            (
                "[http]\nx = 1",
                "cardmon.toml line 2: [http] has no key `x`; there are `listen`, `allow_remote`",
            ),
            (
                "[wach]\n",
                "cardmon.toml line 1: there is no table [wach]; did you mean `watch`?",
            ),
            (
                "interval = \"1s\"",
                "cardmon.toml line 1: `interval` stands outside any table; it belongs under [watch]",
            ),
            (
                "watch = 1",
                "cardmon.toml line 1: `watch` is a table: write [watch]",
            ),
            (
                "[watch]\ninterval = 1",
                "cardmon.toml line 2: watch.interval: must be a string, not integer",
            ),
            (
                "[watch]\ninterval = \"1\"",
                "cardmon.toml line 2: watch.interval: \"1\" has no unit; write 500ms, 1s or 2m",
            ),
            (
                "[watch]\ninterval = \"1d\"",
                "cardmon.toml line 2: watch.interval: \"1d\" is not a duration, such as 500ms, 1s or 2m",
            ),
            (
                "[watch]\ninterval = \"2m\"",
                "cardmon.toml line 2: watch.interval: \"2m\" is not between 200ms and 60s",
            ),
            (
                "[watch]\ntelemetry = \"run\"",
                "cardmon.toml line 2: watch.telemetry: run is not an absolute path",
            ),
            (
                "[judge]\nfrozen_polls = 1",
                "cardmon.toml line 2: judge.frozen_polls: 1 is not between 2 and 60",
            ),
            (
                "[judge]\nfrozen_polls = -3",
                "cardmon.toml line 2: judge.frozen_polls: -3 is not between 2 and 60",
            ),
            (
                "[http]\nlisten = \"localhost:80\"",
                "cardmon.toml line 2: http.listen: \"localhost:80\" is not an IP address and port, such as 127.0.0.1:9180",
            ),
            (
                "[http]\nallow_remote = \"yes\"",
                "cardmon.toml line 2: http.allow_remote: must be true or false, not string",
            ),
        ];
        for (text, expected) in table {
            assert_eq!(parse(text).unwrap_err(), expected, "in {text:?}");
        }
        let syntax = parse("[watch]\ninterval = = 1").unwrap_err();
        assert!(syntax.starts_with("cardmon.toml line 2: "), "{syntax}");
    }

    #[test]
    fn other_hosts_are_let_in_only_when_that_is_said() {
        let mut config = Config::default();
        assert!(!config.is_remote().unwrap());
        config.listen = "0.0.0.0:9180".parse().unwrap();
        let refused = config.is_remote().unwrap_err().to_string();
        assert!(refused.contains("allow_remote = true"), "{refused}");
        config.allow_remote = true;
        assert!(config.is_remote().unwrap());
    }

    #[test]
    fn durations_are_read_with_their_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5 s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        for wrong in [
            "",
            "s",
            "1",
            "-1s",
            "1e9s",
            "1.2.3s",
            "99999999999999999999h",
        ] {
            duration(wrong).unwrap_err();
        }
    }
}
