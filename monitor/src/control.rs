//! Orders to a monitor that runs: a change window is opened and closed, a card drained.
//!
//! One JSON object a line, and one in answer. Nothing is done that is not on record first: the
//! [`Desk`] says what is to be recorded, and changes only when it is told that this was done. It
//! does no I/O, and the monitor drives no card: to drain one is an operator's wish, which is
//! recorded and shown.
//!
//! | line | answer |
//! |---|---|
//! | `{"unlock": {"ticket": "CHG1", "reason": "...", "seconds": 1800}}` | `{"ok": true, "event": 7, ...}` |
//! | `{"lock": {}}` | the same |
//! | `{"drain": {"card": "pci:..."}}`, `{"undrain": {"card": "pci:..."}}` | the same; refused and recorded while locked |
//! | `{"tune": {"what": "...", "old": "...", "new": "..."}}` | the same; who gives the order makes the change |
//! | `{"snapshot": {"to": "/absolute/path"}}` | for root and the monitor's own user |
//! | `{"memory": {"service": "..."}}` | `{"ok": true, "memory": {...}}`: what it has by `smaps_rollup`, read now |
//! | `{"standing": {}}` | `{"ok": true, "standing": {...}}` |
//! | anything else | `{"ok": false, "error": "..."}` |
//!
//! Whoever may write to the socket may give orders; who that was is asked of the kernel, not of
//! them (unix(7), `SO_PEERCRED`).

use crate::access::who_may;
use crate::history::{Event, Recorded, Seq, Stamp};
use crate::lock::{self, Answer, Change, ChangeLock, Settings, Unlock};
use crate::text::clean;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// No order is longer, in bytes.
pub const LINE_LEN_MAX: usize = 4096;
/// Longest answer, in bytes.
const ANSWER_LEN_MAX: u64 = 256 * 1024;
/// How long to wait for an answer that only tells.
const TOLD_WITHIN: Duration = Duration::from_secs(5);
/// For one that comes when the disk has the record.
const RECORDED_WITHIN: Duration = Duration::from_secs(10);
/// For one that comes when much was read or copied.
const WORKED_WITHIN: Duration = Duration::from_secs(60);

/// What somebody wants a card to do.
const DRAIN: &str = "drain";
const UNDRAIN: &str = "undrain";
/// Something of the host is given another value.
pub const TUNE: &str = "tune";
/// It could not be.
pub const TUNE_FAILED: &str = "tune-failed";

/// Kinds of events that a desk is to be told of when it begins.
pub const KINDS: [&str; 3] = [lock::UNLOCK, lock::RELOCK, lock::CHANGE];

/// What is to be done.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Order {
    /// Opens a change window.
    Unlock {
        /// What permits the change elsewhere.
        ticket: String,
        /// What is going to be changed, and why.
        reason: String,
        /// For how long.
        seconds: u32,
    },
    /// Closes it.
    Lock {},
    /// Wants a card without work, and nobody alarmed by it.
    Drain {
        /// Which.
        card: String,
    },
    /// No longer.
    Undrain {
        /// Which.
        card: String,
    },
    /// Puts on record that something of the host gets another value, which who says so sees to.
    Tune {
        /// What, as a path or a limit.
        what: String,
        /// What it was.
        old: String,
        /// What it becomes.
        new: String,
        /// Why it did not, if that is what is to be on record.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failed: Option<String>,
    },
    /// Makes a snapshot while nothing is written.
    Snapshot {
        /// A directory that is not there yet, as an absolute path.
        to: PathBuf,
    },
    /// Has what the process of a service has in memory added up, which is dear and no poll does.
    Memory {
        /// Its name in the configuration.
        service: String,
    },
    /// Tells what is open and drained.
    Standing {},
}

impl Order {
    /// How to find out what became of it without an answer.
    fn trace(&self) -> String {
        match self {
            Self::Unlock { .. }
            | Self::Lock {}
            | Self::Drain { .. }
            | Self::Undrain { .. }
            | Self::Tune { .. } => {
                "whether the order was followed is on record: cardmon history".to_owned()
            }
            Self::Snapshot { to } => format!(
                "it may be at work: the snapshot is made when it is at {to}, and until then at {to}.partial, \
                 which can be removed if that does not change any more",
                to = to.display()
            ),
            Self::Memory { .. } | Self::Standing {} => {
                "nothing was to be changed: ask again".to_owned()
            }
        }
    }
}

/// Who gives an order, by the kernel's word.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Peer {
    /// User.
    pub uid: u32,
    /// Process; 0 if it is of another PID namespace, as one in a container, or outside of ours.
    pub pid: i32,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { uid, pid } = self;
        write!(f, "uid={uid} pid={pid}")
    }
}

/// What an order comes to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Decision {
    /// It is done when this event is on record and was applied.
    Record(Event),
    /// It is not done. The event, if there is one, is to be recorded all the same.
    Refuse {
        /// Of the attempt.
        event: Option<Event>,
        /// Why, and what to do.
        why: String,
    },
    /// There is nothing to record.
    Done,
    /// A snapshot is to be made here.
    Snapshot(PathBuf),
    /// What this service has in memory is to be added up.
    Memory(String),
}

/// Takes orders: the change lock, and who is drained.
#[derive(Debug)]
pub struct Desk {
    lock: ChangeLock,
    drained: BTreeMap<String, Drained>,
    /// Cards that are watched.
    cards: BTreeSet<String>,
    /// What was recorded since somebody asked.
    news: Vec<Event>,
    /// Attempts that were refused and could not be recorded.
    unrecorded: Vec<Event>,
    own_uid: u32,
}

/// A card without work, by an operator's wish.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Drained {
    /// The order.
    pub event: Seq,
    /// Who gave it.
    pub by: String,
    /// When.
    #[serde(rename = "since_unix_ms", serialize_with = "as_unix_millis")]
    pub since: Stamp,
}

fn as_unix_millis<S: Serializer>(stamp: &Stamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(stamp.wall.unix_millis())
}

impl Desk {
    /// Goes on from what is on record, of [`KINDS`] and in order. The monitor runs as `own_uid`.
    #[must_use]
    pub fn new(settings: Settings, recorded: &[Recorded], own_uid: u32) -> Self {
        let mut desk = Self {
            lock: ChangeLock::new(settings),
            drained: BTreeMap::new(),
            cards: BTreeSet::new(),
            news: Vec::new(),
            unrecorded: Vec::new(),
            own_uid,
        };
        for Recorded { seq, event, .. } in recorded {
            desk.apply(*seq, event);
        }
        desk.news.clear();
        desk
    }

    /// Goes on from what is on record, which could not be read when this began: all of [`KINDS`], what
    /// was recorded since included.
    pub fn begin_anew(&mut self, recorded: &[Recorded]) {
        self.lock.begin_anew();
        self.drained.clear();
        let news = self.news.len();
        for Recorded { seq, event, .. } in recorded {
            self.apply(*seq, event);
        }
        self.news.truncate(news);
    }

    /// Takes in an event that is on record.
    pub fn apply(&mut self, seq: Seq, event: &Event) {
        self.lock.apply(seq, event);
        if KINDS.contains(&&*event.kind) {
            self.news.push(event.clone());
        }
        let Some((change, is_drained)) = wish(event) else {
            return;
        };
        if is_drained {
            let drained = Drained {
                event: seq,
                by: change.by,
                since: event.stamp,
            };
            self.drained.insert(change.subject, drained);
        } else {
            self.drained.remove(&change.subject);
        }
    }

    /// Says which cards are watched, so that an order for another is noticed to be a slip.
    pub fn watched<'a>(&mut self, cards: impl Iterator<Item = &'a str>) {
        self.cards = cards.map(str::to_owned).collect();
    }

    /// Cards of which nobody is to be alarmed.
    #[must_use]
    pub const fn drained(&self) -> &BTreeMap<String, Drained> {
        &self.drained
    }

    /// Orders that were recorded since this was asked last, for whoever looks for what was changed.
    pub fn take_news(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.news)
    }

    /// Whether a change window is open.
    #[must_use]
    pub fn is_open(&self, now: Stamp) -> bool {
        self.lock.window(now).is_some()
    }

    /// Takes back the event of an attempt that could not be recorded, for [`Self::tick`] to tell.
    pub fn could_not_record(&mut self, attempt: Event) {
        self.unrecorded.push(attempt);
    }

    /// What time has brought, and what could not be recorded before; see [`ChangeLock::tick`]. Each is to
    /// be recorded, however long it has to wait, and none to be applied.
    pub fn tick(&mut self, now: Stamp, finally: bool) -> Vec<Event> {
        let mut events = std::mem::take(&mut self.unrecorded);
        events.extend(self.lock.tick(now, finally));
        events
    }

    /// What an order comes to.
    pub fn decide(&mut self, order: Order, peer: Peer, now: Stamp) -> Decision {
        match order {
            Order::Unlock {
                ticket,
                reason,
                seconds,
            } => {
                let unlock = Unlock {
                    ticket,
                    reason,
                    by: peer.to_string(),
                    duration: Duration::from_secs(seconds.into()),
                };
                match self.lock.unlock(unlock, now) {
                    Ok(event) => Decision::Record(event),
                    Err(refused) => refuse(refused.to_string()),
                }
            }
            Order::Lock {} => self
                .lock
                .relock(&peer.to_string(), now)
                .map_or(Decision::Done, Decision::Record),
            Order::Drain { card } if self.drained.contains_key(&card) => Decision::Done,
            Order::Undrain { card } if !self.drained.contains_key(&card) => {
                refuse(format!("{} is not drained", clean(&card)))
            }
            Order::Drain { card } if !self.cards.contains(&card) => refuse(self.no_such(&card)),
            Order::Drain { card } => self.change(change(DRAIN, card, peer), now),
            Order::Undrain { card } => self.change(change(UNDRAIN, card, peer), now),
            Order::Tune { what, .. } if what.is_empty() => refuse("of what is not said".to_owned()),
            Order::Tune { what, .. } if what.len() > Event::SUBJECT_LEN_MAX => refuse(format!(
                "what is tuned is named by {} bytes at most, and this has {}; name it shorter",
                Event::SUBJECT_LEN_MAX,
                what.len()
            )),
            Order::Tune {
                what,
                old,
                new,
                failed,
            } => {
                let action = if failed.is_some() { TUNE_FAILED } else { TUNE };
                let change = Change {
                    old: Some(old),
                    new: Some(failed.unwrap_or(new)),
                    ..change(action, what, peer)
                };
                self.change(change, now)
            }
            Order::Snapshot { to } => self.snapshot(to, peer),
            Order::Memory { service } => Decision::Memory(service),
            Order::Standing {} => Decision::Done,
        }
    }

    fn change(&mut self, change: Change, now: Stamp) -> Decision {
        match self.lock.attempt(&change, now) {
            Answer::Allowed(event) => Decision::Record(event),
            Answer::Refused(event) => Decision::Refuse {
                event,
                why: "changes are locked, and attempts are recorded; \
                      open a window first: cardmon unlock --ticket T --for 30m --reason R"
                    .to_owned(),
            },
        }
    }

    /// The monitor writes where its user may; nobody else tells it where.
    fn snapshot(&self, to: PathBuf, peer: Peer) -> Decision {
        if peer.uid != 0 && peer.uid != self.own_uid {
            return refuse(format!(
                "snapshots are for root and user {}; you are user {}",
                self.own_uid, peer.uid
            ));
        }
        if !to.is_absolute() {
            return refuse(format!("{} is not an absolute path", to.display()));
        }
        Decision::Snapshot(to)
    }

    fn no_such(&self, card: &str) -> String {
        let cards: Vec<_> = self.cards.iter().map(|card| clean(card)).collect();
        let cards = if cards.is_empty() {
            "no card is watched".to_owned()
        } else {
            format!("watched are {}", cards.join(", "))
        };
        format!("no card {} is watched; {cards}", clean(card))
    }

    /// What is open and drained, for programs.
    #[must_use]
    pub fn standing(&self, now: Stamp) -> Value {
        let window = self.lock.window(now).map(|window| {
            let unlock = &window.unlock;
            let until = window.opened.wall.plus(unlock.duration);
            json!({
                "event": window.seq,
                "ticket": unlock.ticket,
                "reason": unlock.reason,
                "by": unlock.by,
                "until_unix_ms": until.unix_millis(),
            })
        });
        json!({ "window": window, "drained": self.drained })
    }

    /// The same for people, one line each; nothing while all is locked and nobody drained.
    #[must_use]
    pub fn notes(&self, now: Stamp) -> Vec<String> {
        let window = self.lock.window(now).map(|window| {
            let Unlock { ticket, by, .. } = &window.unlock;
            let (ticket, by) = (clean(ticket), clean(by));
            format!("change window open: {ticket}, opened by {by}")
        });
        let drained = self.drained.iter().map(|(card, drained)| {
            let (card, by) = (clean(card), clean(&drained.by));
            format!("{card} is drained, by {by}: nobody is alarmed about it")
        });
        window.into_iter().chain(drained).collect()
    }
}

/// Of which card an event says that an operator wants it without work, or no longer does, and which.
#[must_use]
pub fn wish(event: &Event) -> Option<(Change, bool)> {
    if event.kind != lock::CHANGE {
        return None;
    }
    let change: Change = serde_json::from_str(&event.body).ok()?;
    let is_drained = match change.action.as_str() {
        DRAIN => true,
        UNDRAIN => false,
        _ => return None,
    };
    Some((change, is_drained))
}

fn change(action: &str, subject: String, peer: Peer) -> Change {
    Change {
        by: peer.to_string(),
        action: action.to_owned(),
        subject,
        old: None,
        new: None,
    }
}

const fn refuse(why: String) -> Decision {
    Decision::Refuse { event: None, why }
}

/// An order was not followed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// Nobody listens, or not to us.
    #[error(
        "no monitor takes orders on {}; start one with `cardmon run`, or name its socket with --control",
        path.display()
    )]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// Others may give orders there.
    #[error("this user may not give orders on {}: {who}", path.display())]
    Forbidden {
        /// The socket.
        path: PathBuf,
        /// Who may.
        who: String,
    },
    /// There was no answer, or none that can be understood.
    #[error("the monitor at {} did not answer; {}", path.display(), clean(hint))]
    Silent {
        /// The socket.
        path: PathBuf,
        /// How to find out what became of the order.
        hint: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The monitor refused.
    #[error("{reason}")]
    Refused {
        /// Its reason.
        reason: String,
    },
}

/// Gives an order to the monitor whose control socket is at `path`, and returns its answer.
///
/// # Errors
///
/// See [`ControlError`].
pub fn send(path: &Path, order: &Order) -> Result<Value, ControlError> {
    let stream = UnixStream::connect(path).map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => ControlError::Forbidden {
            path: path.to_owned(),
            who: who_may(path),
        },
        _ => ControlError::Unreachable {
            path: path.to_owned(),
            source,
        },
    })?;
    let answer = ask(stream, order).map_err(|source| ControlError::Silent {
        path: path.to_owned(),
        hint: order.trace(),
        source,
    })?;
    match answer["error"].as_str() {
        Some(reason) => Err(ControlError::Refused {
            reason: clean(reason),
        }),
        None => Ok(answer),
    }
}

fn ask(mut stream: UnixStream, order: &Order) -> io::Result<Value> {
    let patience = patience(order);
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let line = serde_json::to_string(order)?;
    let mut answer = String::new();
    writeln!(stream, "{line}")
        .and_then(|()| {
            BufReader::new(stream.take(ANSWER_LEN_MAX))
                .read_line(&mut answer)
                .map(drop)
        })
        .map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => io::Error::new(
                io::ErrorKind::TimedOut,
                format!("nothing came within {} s", patience.as_secs()),
            ),
            _ => error,
        })?;
    Ok(serde_json::from_str(&answer)?)
}

const fn patience(order: &Order) -> Duration {
    match order {
        Order::Standing {} => TOLD_WITHIN,
        Order::Unlock { .. }
        | Order::Lock {}
        | Order::Drain { .. }
        | Order::Undrain { .. }
        | Order::Tune { .. } => RECORDED_WITHIN,
        Order::Snapshot { .. } | Order::Memory { .. } => WORKED_WITHIN,
    }
}

#[cfg(test)]
mod tests;
