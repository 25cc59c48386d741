//! The configuration file: parsed once into types, and refused whole if any of it is wrong.
//!
//! Three tables, `KEYS`, `CARD_KEYS` and `SERVICE_KEYS`, say which keys there are, what they mean and
//! what they are unless somebody says otherwise; the commented default file is printed from them, so
//! file and tables cannot disagree. All but the first are for what can stand there several times.

use crate::history::Place;
use crate::led::Profile;
use crate::probe::{ServiceAddress, Whereabouts};
use crate::services::{ConfiguredLimits, ServiceSettings, ServiceTime};
use crate::verdict::Limits;
use crate::watch::CardSettings;
use card_spec::pci::Bdf;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The key that says where to listen.
const LISTEN: (&str, &str) = ("http", "listen");

/// What the configuration says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    /// Directory of the telemetry pages; `None` for the one owners use unless told otherwise.
    pub telemetry: Option<PathBuf>,
    /// How patient to be.
    pub limits: Limits,
    /// Where to listen.
    pub listen: SocketAddr,
    /// File and line that say so, if any do.
    pub listen_from: Option<(PathBuf, usize)>,
    /// Whether `listen` may be an address that other hosts can reach.
    pub allow_remote: bool,
    /// Cards that are not watched as the others are.
    pub cards: Vec<CardSettings>,
    /// Host services to watch.
    pub services: Vec<ServiceSettings>,
    /// How fast those live: faster than the clock in a drill.
    pub service_time: ServiceTime,
    /// Directory of the history; `None` for the one of this user.
    pub history: Option<PathBuf>,
    /// File that is told where the history ends; `None` for one beside it.
    pub anchors: Option<PathBuf>,
    /// Size from which on the file of events becomes an archive.
    pub archive_at_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            telemetry: None,
            limits: Limits::default(),
            // Loopback: what the monitor knows is nobody else's business unless the operator says
            // so. The port is free in Prometheus' list of exporters' ports.
            listen: SocketAddr::from(([127, 0, 0, 1], 9180)),
            listen_from: None,
            allow_remote: false,
            cards: Vec::new(),
            services: Vec::new(),
            service_time: ServiceTime::REAL,
            history: None,
            anchors: None,
            archive_at_bytes: Place::ARCHIVE_AT_BYTES,
        }
    }
}

/// One key of a table that is read into a `T`.
struct Key<T> {
    /// Table and name.
    path: (&'static str, &'static str),
    /// What it means, one line of the default file each.
    help: &'static [&'static str],
    /// Its default as written in TOML.
    default: &'static str,
    /// Written behind a `#`, because the default depends on the user.
    commented: bool,
    /// Takes a value over, or says what it should be instead.
    set: fn(&mut T, &DeValue<'_>) -> Result<(), String>,
}

/// Archives of less would be so many that each start reads a directory full of them.
const ARCHIVE_AT_BYTES_MIN: u64 = 1 << 20;

const KEYS: [Key<Config>; 11] = [
    Key {
        path: ("watch", "telemetry"),
        help: &[
            "Directory of the telemetry pages, one per card. Unless set: /run/hwshim for root,",
            "else hwshim in XDG_RUNTIME_DIR, as the owners of cards choose it too.",
        ],
        default: r#""/run/hwshim""#,
        commented: true,
        set: |config, value| {
            config.telemetry = Some(absolute(value)?);
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
            "\"nshield\" (lit, pulses and Morse code), or \"none\". A [[card]] may have another.",
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
        path: LISTEN,
        help: &["Address and port of /metrics, /api/v1/status and /healthz."],
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
    Key {
        path: ("history", "directory"),
        help: &[
            "Directory of the history. Unless set: /var/lib/cardmon for root, else cardmon in",
            "XDG_STATE_HOME.",
        ],
        default: r#""/var/lib/cardmon""#,
        commented: true,
        set: |config, value| {
            config.history = Some(absolute(value)?);
            Ok(())
        },
    },
    Key {
        path: ("history", "anchors"),
        help: &[
            "File that is told where the history ends, so that an end that is cut off is noticed.",
            "Best where this program may only append: `chattr +a`. Unless set: the directory's name",
            "with .anchors behind it.",
        ],
        default: r#""/var/log/cardmon/anchors""#,
        commented: true,
        set: |config, value| {
            config.anchors = Some(absolute(value)?);
            Ok(())
        },
    },
    Key {
        path: ("history", "archive_at"),
        help: &[
            "Size from which on the file of events is put away beside it as an archive, which nobody",
            "changes or deletes again, and another is begun; 1MiB or more.",
        ],
        default: r#""1GiB""#,
        commented: false,
        set: |config, value| {
            let text = string(value)?;
            let size = bytes(text)?;
            if size < ARCHIVE_AT_BYTES_MIN {
                return Err(format!("{text} is less than 1MiB"));
            }
            config.archive_at_bytes = size;
            Ok(())
        },
    },
    Key {
        path: ("drill", "service_time"),
        help: &[
            "For rehearsals only: how many times as fast as the clock services live, 1 to 300. What",
            "they hold is judged as if the time had passed, so hours of a leak are minutes. Everybody",
            "who asks is told that it is a drill.",
        ],
        default: "1",
        commented: false,
        set: |config, value| {
            let factor = integer(value, 1, ServiceTime::MAX)?;
            let service_time = ServiceTime::times_faster(factor);
            config.service_time = service_time.ok_or("is no factor")?;
            Ok(())
        },
    },
];

/// The tables of which there may be several.
const CARD: &str = "card";
const SERVICE: &str = "service";

/// A card as far as its keys have been read.
#[derive(Default)]
struct CardDraft {
    address: Option<String>,
    /// Of one whose light is not read, it is said that there is none.
    light: Option<Option<Profile>>,
}

const CARD_KEYS: [Key<CardDraft>; 2] = [
    Key {
        path: (CARD, "address"),
        help: &["Which card: its address, as `cardmon status` shows it."],
        default: r#""pci:0000:3b:00.0""#,
        commented: true,
        set: |card, value| {
            card.address = Some(address(string(value)?)?);
            Ok(())
        },
    },
    Key {
        path: (CARD, "light"),
        help: &["How its status light is read, whatever `light` under [watch] says of the others."],
        default: r#""nshield""#,
        commented: true,
        set: |card, value| {
            card.light = Some(light(string(value)?)?);
            Ok(())
        },
    },
];

/// A service as far as its keys have been read.
#[derive(Default)]
struct ServiceDraft {
    name: Option<String>,
    process: Vec<Whereabouts>,
    address: Vec<ServiceAddress>,
    known_answer_interval: Option<Option<Duration>>,
    card: Option<String>,
    recycle: Option<Duration>,
    limits: ConfiguredLimits,
}

const fn service_key(
    name: &'static str,
    help: &'static [&'static str],
    default: &'static str,
    set: fn(&mut ServiceDraft, &DeValue<'_>) -> Result<(), String>,
) -> Key<ServiceDraft> {
    Key {
        path: (SERVICE, name),
        help,
        default,
        commented: true,
        set,
    }
}

const SERVICE_KEYS: [Key<ServiceDraft>; 16] = [
    service_key(
        "name",
        &["What to call it."],
        r#""hardserver""#,
        |service, value| {
            let name = string(value)?;
            if name.is_empty() || name.chars().any(char::is_control) {
                return Err("is no name".to_owned());
            }
            service.name = Some(name.to_owned());
            Ok(())
        },
    ),
    service_key(
        "pid_file",
        &["Its process: the one whose number is in this file,"],
        r#""/run/hardserver.pid""#,
        |service, value| {
            let path = absolute(value)?;
            service.process.push(Whereabouts::PidFile(path));
            Ok(())
        },
    ),
    service_key(
        "process",
        &["or the oldest one of this name,"],
        r#""hardserver""#,
        |service, value| {
            let name = string(value)?.to_owned();
            service.process.push(Whereabouts::Program(name));
            Ok(())
        },
    ),
    service_key(
        "cgroup",
        &["or the oldest one in this control group, which then is the service's own."],
        r#""/system.slice/hardserver.service""#,
        |service, value| {
            let path = absolute(value)?;
            service.process.push(Whereabouts::Cgroup(path));
            Ok(())
        },
    ),
    service_key(
        "socket",
        &["Where it is asked how it is, if it speaks as nShield's programs do: a Unix socket,"],
        r#""/run/hardserver.sock""#,
        |service, value| {
            let path = absolute(value)?;
            service.address.push(ServiceAddress::Unix(path));
            Ok(())
        },
    ),
    service_key(
        "tcp",
        &["or an address and port of this host."],
        r#""127.0.0.1:9000""#,
        |service, value| {
            let text = string(value)?;
            let address: SocketAddr = text.parse().map_err(|_| {
                format!("{text:?} is not an IP address and port, such as 127.0.0.1:9000")
            })?;
            if !address.ip().is_loopback() {
                return Err(format!("{text:?} is not an address of this host"));
            }
            service.address.push(ServiceAddress::Tcp(address));
            Ok(())
        },
    ),
    service_key(
        "known_answer",
        &[
            "Time between two known-answer tests through it, 1s to 1h, or never: a session is opened,",
            "something signed, and the session closed. It says whether that was right; one that knows",
            "no such test is asked once. None is done while there is no card.",
        ],
        r#""60s""#,
        |service, value| {
            let text = string(value)?;
            if text == "never" {
                service.known_answer_interval = Some(None);
                return Ok(());
            }
            let range = Duration::from_secs(1)..=Duration::from_secs(3600);
            let interval = duration(text)?;
            if !range.contains(&interval) {
                return Err(format!("{text:?} is neither never nor between 1s and 1h"));
            }
            service.known_answer_interval = Some(Some(interval));
            Ok(())
        },
    ),
    service_key(
        "card",
        &["The card it serves, by its address."],
        r#""pci:0000:3b:00.0""#,
        |service, value| {
            service.card = Some(address(string(value)?)?);
            Ok(())
        },
    ),
    service_key(
        "recycle",
        &["How long what was closed may remain held, 1s to 1h."],
        r#""240s""#,
        |service, value| {
            let text = string(value)?;
            let range = Duration::from_secs(1)..=Duration::from_secs(3600);
            let recycle = duration(text)?;
            if !range.contains(&recycle) {
                return Err(format!("{text:?} is not between 1s and 1h"));
            }
            service.recycle = Some(recycle);
            Ok(())
        },
    ),
    service_key(
        "memory_max",
        &[
            "How much it may hold. Unless set: memory, what its control group may, or all there is;",
            "descriptors and threads, what the process may; ports, those there are. Memory of its own,",
        ],
        r#""1GiB""#,
        |service, value| {
            service.limits.memory_bytes = Some(bytes(string(value)?)?);
            Ok(())
        },
    ),
    service_key(
        "kernel_memory_max",
        &["of the kernel's memory,"],
        r#""256MiB""#,
        |service, value| {
            service.limits.kernel_memory_bytes = Some(bytes(string(value)?)?);
            Ok(())
        },
    ),
    service_key(
        "descriptors_max",
        &["of descriptors,"],
        "1024",
        |service, value| count(&mut service.limits.descriptors, value),
    ),
    service_key("threads_max", &["of threads,"], "256", |service, value| {
        count(&mut service.limits.threads, value)
    }),
    service_key("ports_max", &["of TCP ports,"], "4000", |service, value| {
        count(&mut service.limits.ports, value)
    }),
    service_key(
        "sessions_max",
        &["of sessions, by its own account,"],
        "1000",
        |service, value| count(&mut service.limits.sessions, value),
    ),
    service_key(
        "objects_max",
        &["and of objects on its cards."],
        "100000",
        |service, value| count(&mut service.limits.objects, value),
    ),
];

/// The configuration is wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{} could not be read", path.display())]
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
        "{}{listen} can be reached from other hosts, and has neither encryption nor a password; \
         if that is meant, set allow_remote = true under [http] in the configuration file",
        from.as_ref().map_or_else(String::new, |(path, line)| format!("{} line {line}: ", path.display()))
    )]
    NotAllowedRemote {
        /// File and line that name it; `None` if the command line does.
        from: Option<(PathBuf, usize)>,
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
        let line = |at: usize| 1 + text[..at].matches('\n').count();
        let wrong = |at: usize, problem: String| ConfigError::Wrong {
            path: path.to_owned(),
            line: line(at),
            problem,
        };
        let document = DeTable::parse(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            wrong(at, error.message().to_owned())
        })?;
        let mut config = Self::default();
        for (table, keys) in document.get_ref() {
            let at = table.span().start;
            let added = match &**table.get_ref() {
                CARD => Some(config.add_cards(at, keys)),
                SERVICE => Some(config.add_services(at, keys)),
                _ => None,
            };
            if let Some(added) = added {
                added.map_err(|(at, problem)| wrong(at, problem))?;
                continue;
            }
            check_table(table.get_ref(), keys)
                .map_err(|problem| wrong(table.span().start, problem))?;
            for (key, value) in keys.get_ref().as_table().into_iter().flatten() {
                config
                    .set(table.get_ref(), key.get_ref(), value)
                    .map_err(|problem| wrong(key.span().start, problem))?;
                if (&**table.get_ref(), &**key.get_ref()) == LISTEN {
                    config.listen_from = Some((path.to_owned(), line(key.span().start)));
                }
            }
        }
        Ok(config)
    }

    fn set(&mut self, table: &str, key: &str, value: &Spanned<DeValue<'_>>) -> Result<(), String> {
        set_by(&KEYS, self, (table, key), value)
    }

    /// Adds every card; an error says where.
    fn add_cards(
        &mut self,
        at: usize,
        cards: &Spanned<DeValue<'_>>,
    ) -> Result<(), (usize, String)> {
        for (at, draft) in drafts(CARD, &CARD_KEYS, at, cards)? {
            let card = draft.finish(&self.cards).map_err(|problem| (at, problem))?;
            self.cards.push(card);
        }
        Ok(())
    }

    /// Adds every service; an error says where.
    fn add_services(
        &mut self,
        at: usize,
        services: &Spanned<DeValue<'_>>,
    ) -> Result<(), (usize, String)> {
        for (at, draft) in drafts(SERVICE, &SERVICE_KEYS, at, services)? {
            let service = draft
                .finish(&self.services)
                .map_err(|problem| (at, problem))?;
            self.services.push(service);
        }
        Ok(())
    }

    /// Whose lights the light of the card at `address` shines like, if that is known.
    #[must_use]
    pub fn light_of(&self, address: &str) -> Option<Profile> {
        let card = self.cards.iter().find(|card| card.address == address);
        card.map_or(self.limits.light, |card| card.light)
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
    pub fn is_remote(&self) -> Result<bool, ConfigError> {
        match (self.listen.ip().is_loopback(), self.allow_remote) {
            (true, _) => Ok(false),
            (false, true) => Ok(true),
            (false, false) => Err(ConfigError::NotAllowedRemote {
                from: self.listen_from.clone(),
                listen: self.listen,
            }),
        }
    }
}

/// Sets what is at `path` as its key has it.
fn set_by<T>(
    keys: &[Key<T>],
    of: &mut T,
    path: (&str, &str),
    value: &Spanned<DeValue<'_>>,
) -> Result<(), String> {
    let (table, key) = path;
    let known = keys.iter().find(|known| known.path == path);
    let known = known.ok_or_else(|| unknown_key(table, key))?;
    (known.set)(of, value.get_ref()).map_err(|problem| format!("{table}.{key}: {problem}"))
}

/// What the tables of one name say, each with where it stands; an error says where, too.
fn drafts<T: Default>(
    table: &str,
    keys: &[Key<T>],
    at: usize,
    tables: &Spanned<DeValue<'_>>,
) -> Result<Vec<(usize, T)>, (usize, String)> {
    let not_a_list = || (at, format!("`{table}` is a list: write [[{table}]]"));
    let mut drafts = Vec::new();
    for one in tables.get_ref().as_array().ok_or_else(not_a_list)? {
        let mut draft = T::default();
        for (key, value) in one.get_ref().as_table().ok_or_else(not_a_list)? {
            set_by(keys, &mut draft, (table, key.get_ref()), value)
                .map_err(|problem| (key.span().start, problem))?;
        }
        drafts.push((one.span().start, draft));
    }
    Ok(drafts)
}

impl CardDraft {
    /// Says what is missing, or there already.
    fn finish(self, others: &[CardSettings]) -> Result<CardSettings, String> {
        let missing = |key| format!("this [[{CARD}]] has no `{key}`");
        let address = self.address.ok_or_else(|| missing("address"))?;
        if others.iter().any(|other| other.address == address) {
            return Err(format!("there are two cards at {address:?}"));
        }
        let light = self.light.ok_or_else(|| missing("light"))?;
        Ok(CardSettings { address, light })
    }
}

impl ServiceDraft {
    /// Says what is missing, or too much.
    fn finish(self, others: &[ServiceSettings]) -> Result<ServiceSettings, String> {
        let name = self
            .name
            .ok_or_else(|| format!("this [[{SERVICE}]] has no `name`"))?;
        if others.iter().any(|other| other.name == name) {
            return Err(format!("there are two services named {name:?}"));
        }
        let process = exactly_one(self.process).map_err(|count| match count {
            0 => format!(
                "it is not said how {name:?} is found; give one of `pid_file`, `process`, `cgroup`"
            ),
            _ => format!(
                "{name:?} is found in {count} ways; give one of `pid_file`, `process`, `cgroup`"
            ),
        })?;
        let address = match exactly_one(self.address) {
            Ok(address) => Some(address),
            Err(0) => None,
            Err(_) => return Err(format!("{name:?} has both `socket` and `tcp`; give one")),
        };
        let unless_said = ServiceSettings::new(name, process);
        Ok(ServiceSettings {
            address,
            known_answer_interval: self
                .known_answer_interval
                .unwrap_or(unless_said.known_answer_interval),
            card: self.card,
            recycle: self.recycle.unwrap_or(unless_said.recycle),
            limits: self.limits,
            ..unless_said
        })
    }
}

/// The only one there is, or how many there are.
fn exactly_one<T>(mut all: Vec<T>) -> Result<T, usize> {
    match (all.pop(), all.len()) {
        (Some(one), 0) => Ok(one),
        (Some(_), more) => Err(more + 1),
        (None, _) => Err(0),
    }
}

/// Every key there is, with its table.
fn paths() -> impl Iterator<Item = (&'static str, &'static str)> + Clone {
    let keys = KEYS.iter().map(|key| key.path);
    keys.chain(CARD_KEYS.iter().map(|key| key.path))
        .chain(SERVICE_KEYS.iter().map(|key| key.path))
}

fn unknown_key(table: &str, key: &str) -> String {
    let nearest = nearest(
        key,
        paths().filter(|path| path.0 == table).map(|path| path.1),
    );
    // A key may also be right and stand under the wrong table.
    let hint = match paths().find(|path| path.1 == key) {
        Some((table, _)) => format!("it belongs under {}", heading(table)),
        None => nearest,
    };
    format!("{} has no key `{key}`; {hint}", heading(table))
}

fn heading(table: &str) -> String {
    if [CARD, SERVICE].contains(&table) {
        format!("[[{table}]]")
    } else {
        format!("[{table}]")
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
        print_key(&mut text, key);
    }
    text.push_str("\n# A card that is not as the others of this host; one such table each.\n");
    let _ = writeln!(text, "# [[{CARD}]]");
    for key in &CARD_KEYS {
        print_key(&mut text, key);
    }
    text.push_str(
        "\n# A host service to watch for leaks, and for whether it answers; one such table each.\n",
    );
    let _ = writeln!(text, "# [[{SERVICE}]]");
    for key in &SERVICE_KEYS {
        print_key(&mut text, key);
    }
    text
}

fn print_key<T>(text: &mut String, key: &Key<T>) {
    for line in key.help {
        let _ = writeln!(text, "# {line}");
    }
    let behind = if key.commented { "# " } else { "" };
    let _ = writeln!(text, "{behind}{} = {}", key.path.1, key.default);
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

/// Parses a size such as `64KiB`, `256MiB` or `1GiB`.
///
/// # Errors
///
/// What it should look like.
pub fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size, such as 64KiB, 256MiB or 1GiB");
    let digits = text
        .find(|character: char| !character.is_ascii_digit())
        .ok_or_else(|| format!("{text:?} has no unit; write 64KiB, 256MiB or 1GiB"))?;
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_start() {
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let size = number.checked_mul(1 << shift).filter(|&size| size > 0);
    size.ok_or_else(wrong)
}

/// An address of a card, in the form in which it is shown.
fn address(text: &str) -> Result<String, String> {
    let (scheme, rest) = text.split_once(':').unwrap_or_default();
    let known = match scheme {
        "pci" => rest.parse().ok().map(|bdf: Bdf| format!("pci:{bdf}")),
        "vfio-user" => Path::new(rest).is_absolute().then(|| text.to_owned()),
        "software" => (!rest.is_empty()).then(|| text.to_owned()),
        _ => None,
    };
    known.ok_or_else(|| {
        format!(
            "{text:?} is no address of a card, such as pci:0000:3b:00.0 or vfio-user:/run/card.sock"
        )
    })
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
    let mut tables: Vec<_> = paths().map(|path| path.0).collect();
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
            let hint = match paths().find(|path| path.1 == table) {
                Some((table, _)) => format!("it belongs under {}", heading(table)),
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

fn absolute(value: &DeValue<'_>) -> Result<PathBuf, String> {
    let path = Path::new(string(value)?);
    if !path.is_absolute() {
        return Err(format!("{} is not an absolute path", path.display()));
    }
    Ok(path.to_owned())
}

/// Sets a limit to a number of things.
fn count(limit: &mut Option<u64>, value: &DeValue<'_>) -> Result<(), String> {
    *limit = Some(u64::from(integer(value, 1, u32::MAX)?));
    Ok(())
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
        let config = Config {
            listen_from: None,
            ..parse(example).unwrap()
        };
        assert_eq!(config, Config::default());
        // The default of a key that stands there commented out must be right too.
        let telemetry = parse(&example.replace("# telemetry", "telemetry")).unwrap();
        assert_eq!(telemetry.telemetry, Some(PathBuf::from("/run/hwshim")));
    }

    #[test]
    fn each_way_to_describe_a_service_in_the_example_is_right() {
        let lines = default_file();
        let lines: Vec<_> = lines
            .lines()
            .map(|line| line.trim_start_matches("# "))
            .collect();
        for process in ["pid_file", "process", "cgroup"] {
            for address in ["socket", "tcp"] {
                let mut text = "[[service]]\n".to_owned();
                for key in SERVICE_KEYS.map(|key| key.path.1) {
                    let chosen = !["pid_file", "process", "cgroup", "socket", "tcp"].contains(&key)
                        || [process, address].contains(&key);
                    if chosen {
                        let begins = format!("{key} = ");
                        let line = lines.iter().find(|line| line.starts_with(&begins));
                        text += line.unwrap();
                        text.push('\n');
                    }
                }
                assert_eq!(parse(&text).unwrap().services.len(), 1, "{text}");
            }
        }
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
             [http]\nlisten = '[::1]:80'\nallow_remote = true\n\
             [history]\narchive_at = '64MiB'\n\
             [drill]\nservice_time = 60\n\
             [[card]]\naddress = 'pci:3b:00.0'\nlight = 'nfast-500'\n\
             [[card]]\naddress = 'vfio-user:/c'\nlight = 'none'\n\
             [[service]]\nname = 'a'\npid_file = '/p'\nsocket = '/s'\ncard = 'pci:0000:3b:00.0'\n\
             recycle = '60s'\nmemory_max = '1GiB'\nkernel_memory_max = '1MiB'\n\
             descriptors_max = 1\nthreads_max = 2\nports_max = 3\nsessions_max = 4\nobjects_max = 5\n\
             known_answer = '5s'\n\
             [[service]]\nname = 'b'\nprocess = 'p'\ntcp = '127.0.0.1:9'\nknown_answer = 'never'\n\
             [[service]]\nname = 'c'\ncgroup = '/c'\n",
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
            listen_from: Some(("cardmon.toml".into(), 9)),
            allow_remote: true,
            cards: vec![
                CardSettings {
                    address: "pci:0000:3b:00.0".to_owned(),
                    light: Some(Profile::Nfast500),
                },
                CardSettings {
                    address: "vfio-user:/c".to_owned(),
                    light: None,
                },
            ],
            services: vec![
                ServiceSettings {
                    name: "a".to_owned(),
                    process: Whereabouts::PidFile("/p".into()),
                    address: Some(ServiceAddress::Unix("/s".into())),
                    known_answer_interval: Some(Duration::from_secs(5)),
                    card: Some("pci:0000:3b:00.0".to_owned()),
                    recycle: Duration::from_secs(60),
                    limits: ConfiguredLimits {
                        memory_bytes: Some(1 << 30),
                        kernel_memory_bytes: Some(1 << 20),
                        descriptors: Some(1),
                        threads: Some(2),
                        ports: Some(3),
                        sessions: Some(4),
                        objects: Some(5),
                    },
                },
                ServiceSettings {
                    address: Some(ServiceAddress::Tcp("127.0.0.1:9".parse().unwrap())),
                    known_answer_interval: None,
                    ..ServiceSettings::new("b", Whereabouts::Program("p".to_owned()))
                },
                ServiceSettings::new("c", Whereabouts::Cgroup("/c".into())),
            ],
            service_time: ServiceTime::times_faster(60).unwrap(),
            history: None,
            anchors: None,
            archive_at_bytes: 64 << 20,
        };
        assert_eq!(config.unwrap(), expected);
    }

    #[test]
    fn a_card_has_its_own_light_and_all_others_have_that_of_the_watch() {
        let config = parse(
            "[watch]\nlight = 'nshield'\n\
             [[card]]\naddress = 'pci:0000:3b:00.0'\nlight = 'nfast-500'\n\
             [[card]]\naddress = 'software:ring'\nlight = 'none'\n",
        )
        .unwrap();
        let light = |address| config.light_of(address);
        assert_eq!(light("pci:0000:3b:00.0"), Some(Profile::Nfast500));
        assert_eq!(light("software:ring"), None);
        assert_eq!(light("pci:0000:3c:00.0"), Some(Profile::Nshield));
    }

    #[test]
    fn a_card_that_is_none_or_stands_twice_or_has_no_light_is_refused() {
        let no_address = |text: &str| {
            format!(
                "cardmon.toml line 2: card.address: {text:?} is no address of a card, such as \
                 pci:0000:3b:00.0 or vfio-user:/run/card.sock"
            )
        };
        for text in ["3b:00.0", "pci:3b", "vfio-user:card", "software:", "card"] {
            let said = parse(&format!("[[card]]\naddress = '{text}'")).unwrap_err();
            assert_eq!(said, no_address(text));
        }
        let one = "[[card]]\naddress = 'pci:0000:3b:00.0'\nlight = 'none'\n";
        for (text, expected) in [
            // The same function in another spelling.
            (
                format!("{one}[[card]]\naddress = 'pci:3b:00.0'\nlight = 'none'"),
                "line 4: there are two cards at \"pci:0000:3b:00.0\"",
            ),
            (
                "[card]\nlight = 'none'".to_owned(),
                "line 1: `card` is a list: write [[card]]",
            ),
            (
                "[[card]]\nlight = 'none'".to_owned(),
                "line 1: this [[card]] has no `address`",
            ),
            (
                "[[card]]\naddress = 'software:ring'".to_owned(),
                "line 1: this [[card]] has no `light`",
            ),
            (
                "[[card]]\nlight = 'red'".to_owned(),
                "line 2: card.light: no light is \"red\"; there are nfast-500, nshield, and none",
            ),
            (
                "[[card]]\naddres = 'software:ring'".to_owned(),
                "line 2: [[card]] has no key `addres`; did you mean `address`?",
            ),
            (
                "[http]\naddress = '::1'".to_owned(),
                "line 2: [http] has no key `address`; it belongs under [[card]]",
            ),
        ] {
            let said = parse(&text).unwrap_err();
            assert_eq!(said, format!("cardmon.toml {expected}"), "in {text:?}");
        }
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
        let services = [
            (
                "[[service]]\nknown_answer = '2h'",
                "cardmon.toml line 2: service.known_answer: \"2h\" is neither never nor between 1s and 1h",
            ),
            (
                "[service]\nname = 'a'",
                "cardmon.toml line 1: `service` is a list: write [[service]]",
            ),
            (
                "service = 1",
                "cardmon.toml line 1: `service` is a list: write [[service]]",
            ),
            (
                "[[service]]\nname = 'a'\npidfile = '/p'",
                "cardmon.toml line 3: [[service]] has no key `pidfile`; did you mean `pid_file`?",
            ),
            (
                "[http]\nmemory_max = '1GiB'",
                "cardmon.toml line 2: [http] has no key `memory_max`; it belongs under [[service]]",
            ),
            (
                "[[service]]\nname = 'a'\nprocess = 'p'\n[[service]]\nprocess = 'p'",
                "cardmon.toml line 4: this [[service]] has no `name`",
            ),
            (
                "[[service]]\nname = 'a'\nprocess = 'p'\n\n[[service]]\nname = 'a'\nprocess = 'q'",
                "cardmon.toml line 5: there are two services named \"a\"",
            ),
            (
                "[[service]]\nname = 'a'",
                "cardmon.toml line 1: it is not said how \"a\" is found; give one of `pid_file`, `process`, `cgroup`",
            ),
            (
                "[[service]]\nname = 'a'\nprocess = 'p'\nsocket = '/s'\ntcp = '127.0.0.1:1'",
                "cardmon.toml line 1: \"a\" has both `socket` and `tcp`; give one",
            ),
            (
                "[[service]]\ntcp = '10.0.0.1:1'",
                "cardmon.toml line 2: service.tcp: \"10.0.0.1:1\" is not an address of this host",
            ),
            (
                "[[service]]\nmemory_max = '1GB'",
                "cardmon.toml line 2: service.memory_max: \"1GB\" is not a size, such as 64KiB, 256MiB or 1GiB",
            ),
        ];
        for (text, expected) in services {
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
        let config = parse("[http]\n\nlisten = '0.0.0.0:9180'").unwrap();
        let refused = config.is_remote().unwrap_err().to_string();
        let expected = "cardmon.toml line 3: 0.0.0.0:9180 can be reached";
        assert!(refused.starts_with(expected), "{refused}");
    }

    #[test]
    fn the_card_of_a_service_is_an_address_in_the_form_in_which_it_is_shown() {
        let service =
            |card: &str| format!("[[service]]\nname = 'a'\nprocess = 'p'\ncard = '{card}'");
        let card = |text: &str| parse(&service(text)).map(|it| it.services[0].card.clone());
        assert_eq!(card("pci:3b:00.0"), Ok(Some("pci:0000:3b:00.0".to_owned())));
        let refused = card("foo").unwrap_err();
        let expected = "cardmon.toml line 4: service.card: \"foo\" is no address of a card";
        assert!(refused.starts_with(expected), "{refused}");
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
