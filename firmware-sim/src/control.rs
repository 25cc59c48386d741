//! Orders to a card that runs: faults are injected, cleared and asked about over a socket.
//!
//! One JSON object a line, and one in answer. The script is locked for as long as it takes to note
//! an order down, so the card does not wait for whoever gives one. The socket is for its owner
//! alone.
//!
//! | line | answer |
//! |---|---|
//! | `{"inject": {"fault": "slow=10", "lasting": "5s"}}` | `{"ok": true, "id": 3}` |
//! | `{"clear": 3}`, `{"clear": "all"}` | `{"ok": true}` |
//! | `{"status": {}}` | `{"ok": true, "status": {...}}`, the ground truth |
//! | anything else | `{"ok": false, "error": "..."}` |
//!
//! An injection has the keys of [`scenario`](crate::scenario).

use crate::fault::{InjectionId, Record, Script, SharedScript};
use crate::scenario::injection::InjectionText;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::Duration;

/// No order is longer, in bytes.
const LINE_LEN_MAX: usize = 4096;
/// Everything that was ever injected is on record, and told to whoever asks.
const RECORDS_MAX: usize = 4096;
/// How long somebody who says nothing keeps the others waiting.
const PATIENCE: Timespec = Timespec {
    tv_sec: 2,
    tv_nsec: 0,
};
/// With no descriptor left, accepting is tried again after this.
const NO_DESCRIPTOR_RETRY: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};
/// How long somebody may take to accept an answer, and a card to give one.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What is to be done.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Order {
    /// Injects a fault.
    Inject(InjectionText),
    /// Ends what an injection does.
    Clear(Which),
    /// Tells what is true.
    Status {},
}

/// Which injections.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(untagged, expecting = "must be the ID of an injection, or \"all\"")]
pub enum Which {
    /// One.
    One(usize),
    /// All.
    All(All),
}

/// The word `all`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum All {
    /// That word.
    All,
}

impl std::str::FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All(All::All)),
            text => text
                .parse()
                .map(Self::One)
                .map_err(|_| format!("{text:?} is neither the ID of an injection nor `all`")),
        }
    }
}

/// An order was not followed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// Nobody listens.
    #[error(
        "no card takes orders on {}; start one with `firmware-sim run --control`",
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
    #[error("this user may not give orders on {}; {whose}", path.display())]
    Forbidden {
        /// The socket.
        path: PathBuf,
        /// Who may.
        whose: String,
    },
    /// There was no answer, or none that can be understood.
    #[error("the card at {} did not answer", path.display())]
    Silent {
        /// The socket.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The card refused.
    #[error("{reason}")]
    Refused {
        /// Its reason.
        reason: String,
    },
}

/// Gives an order to the card whose control socket is at `path`, and returns its answer.
///
/// # Errors
///
/// See [`ControlError`].
pub fn send(path: &Path, order: &Order) -> Result<Value, ControlError> {
    let silent = |source| ControlError::Silent {
        path: path.to_owned(),
        source,
    };
    let stream = UnixStream::connect(path).map_err(|source| refused_at(path, source))?;
    let answer = ask(stream, order).map_err(silent)?;
    match answer["error"].as_str() {
        Some(reason) => Err(ControlError::Refused {
            reason: reason.to_owned(),
        }),
        None => Ok(answer),
    }
}

/// Why nobody was reached at `path`.
fn refused_at(path: &Path, source: io::Error) -> ControlError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::PermissionDenied => ControlError::Forbidden {
            whose: whose(&path),
            path,
        },
        _ => ControlError::Unreachable { path, source },
    }
}

/// Who may, as far as this user can see.
fn whose(path: &Path) -> String {
    path.metadata().map_or_else(
        |_| "a directory above it is closed to it".to_owned(),
        |found| {
            format!(
                "it belongs to user {} and group {}, with mode {:04o}",
                found.uid(),
                found.gid(),
                found.mode() & 0o7777
            )
        },
    )
}

fn ask(mut stream: UnixStream, order: &Order) -> io::Result<Value> {
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let line = serde_json::to_string(order)?;
    writeln!(stream, "{line}")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}

/// Takes orders until `over` hangs up. A client at a time, the next one waits.
pub(crate) fn serve(listener: impl AsFd, over: BorrowedFd<'_>, script: &SharedScript) {
    while wait(listener.as_fd(), over, None) {
        match accept_with(&listener, SocketFlags::CLOEXEC) {
            Ok(client) => {
                let _ = attend(client.into(), over, script);
            }
            // Whoever has gone away again is none of our business.
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
            // Without descriptors whoever waits goes on waiting, and asking at once finds the same.
            Err(_) => {
                if is_over_within(over, &NO_DESCRIPTOR_RETRY) {
                    return;
                }
            }
        }
    }
}

/// Waits for so long, or until it is over, and returns whether it is.
fn is_over_within(over: BorrowedFd<'_>, time: &Timespec) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(over, PollFlags::IN)];
    match poll(&mut fds, Some(time)) {
        Ok(_) => !fds[0].revents().is_empty(),
        Err(errno) => errno != Errno::INTR,
    }
}

/// Waits for something to read, and returns whether there is; not when it is over.
fn wait(for_what: BorrowedFd<'_>, over: BorrowedFd<'_>, timeout: Option<&Timespec>) -> bool {
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(over, PollFlags::IN),
            PollFd::from_borrowed_fd(for_what, PollFlags::IN),
        ];
        match poll(&mut fds, timeout) {
            Ok(_) => return fds[0].revents().is_empty() && !fds[1].revents().is_empty(),
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Follows the orders of one client until it hangs up, is silent for too long, or talks too much.
fn attend(mut client: UnixStream, over: BorrowedFd<'_>, script: &SharedScript) -> io::Result<()> {
    client.set_nonblocking(false)?;
    client.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    let mut said = Vec::new();
    while wait(client.as_fd(), over, Some(&PATIENCE)) {
        let mut buf = [0; LINE_LEN_MAX];
        let len = rustix::io::read(&client, &mut buf)?;
        if len == 0 {
            break;
        }
        said.extend_from_slice(&buf[..len]);
        while let Some(end) = said.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = said.drain(..=end).collect();
            writeln!(client, "{}", follow(&line, script))?;
        }
        if said.len() > LINE_LEN_MAX {
            let error = format!("an order has no more than {LINE_LEN_MAX} bytes");
            writeln!(client, "{}", refused(&error))?;
            break;
        }
    }
    Ok(())
}

/// Follows an order.
fn follow(line: &[u8], script: &SharedScript) -> Value {
    let order = match serde_json::from_slice(line) {
        Ok(order) => order,
        Err(error) => return refused(&error.to_string()),
    };
    let mut script = script.lock().unwrap_or_else(PoisonError::into_inner);
    match order {
        Order::Inject(_) if script.record().len() >= RECORDS_MAX => refused(&format!(
            "there have been {RECORDS_MAX} injections, and no more are kept on record; start the \
             card again"
        )),
        Order::Inject(text) => {
            let InjectionId(id) = script.add(text.into());
            json!({ "ok": true, "id": id })
        }
        Order::Clear(Which::All(All::All)) => {
            script.clear_all();
            json!({ "ok": true })
        }
        Order::Clear(Which::One(id)) if script.clear(InjectionId(id)) => json!({ "ok": true }),
        Order::Clear(Which::One(id)) => refused(&format!(
            "nothing to clear: there is no injection {id}, or it is over; `firmware-sim status` lists them"
        )),
        Order::Status {} => {
            let (now, records) = (script.now(), script.record().to_vec());
            drop(script);
            json!({ "ok": true, "status": status(now, &records) })
        }
    }
}

fn refused(error: &str) -> Value {
    json!({ "ok": false, "error": error })
}

/// The ground truth of a script, as JSON.
#[must_use]
pub fn truth(script: &Script) -> Value {
    status(script.now(), script.record())
}

fn status(now: Duration, records: &[Record]) -> Value {
    let injections = records.iter().map(|record| {
        let seconds = |at: Option<Duration>| at.map(|at| at.as_secs_f64());
        let truth = record.fault.entry().truth;
        json!({
            "id": record.id.0,
            "fault": record.fault.to_string(),
            "cause": truth.cause.name(),
            "observable": truth.observable.name(),
            "injected_at_seconds": record.injected_at.as_secs_f64(),
            "first_acted_at_seconds": seconds(record.first_acted_at),
            "last_acted_at_seconds": seconds(record.last_acted_at),
            "over_at_seconds": seconds(record.cleared_at),
            "times_acted": record.times,
        })
    });
    json!({ "now_seconds": now.as_secs_f64(), "injections": injections.collect::<Vec<_>>() })
}

/// The `status` of an answer, one line for each injection.
#[must_use]
pub fn table(status: &Value) -> String {
    let empty = Vec::new();
    let injections = status["injections"].as_array().unwrap_or(&empty);
    let fault = |injection: &Value| injection["fault"].as_str().unwrap_or("?").to_owned();
    let width = injections.iter().map(|it| fault(it).len()).max();
    let width = width.unwrap_or(0);
    let mut text = format!(
        "{} since the card started\n",
        seconds(&status["now_seconds"])
    );
    for injection in injections {
        let state = match (&injection["over_at_seconds"], &injection["times_acted"]) {
            (Value::Null, Value::Number(times)) if times.as_u64() == Some(0) => "waits".to_owned(),
            (Value::Null, _) => "is on".to_owned(),
            (over, _) => format!("over at {}", seconds(over)),
        };
        let acted = match &injection["first_acted_at_seconds"] {
            Value::Null => "has not acted".to_owned(),
            first => format!(
                "acted {} times since {}",
                injection["times_acted"],
                seconds(first)
            ),
        };
        text += &format!(
            "{:>3}  {:width$}  {state}, {acted}\n",
            injection["id"].to_string(),
            fault(injection)
        );
    }
    text
}

fn seconds(value: &Value) -> String {
    value
        .as_f64()
        .map_or_else(|| "?".to_owned(), |seconds| format!("{seconds:.3}s"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Fault;
    use card_device::clock;
    use rustix::pipe::pipe;
    use std::cell::Cell;
    use std::os::fd::OwnedFd;

    fn answer(line: &str, script: &SharedScript) -> Value {
        follow(line.as_bytes(), script)
    }

    #[test]
    fn who_may_not_give_orders_is_told_who_may() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("card.sock.control");
        std::fs::write(&path, "").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, mode).unwrap();
        let denied = refused_at(&path, io::ErrorKind::PermissionDenied.into()).to_string();
        assert!(denied.contains("it belongs to user "), "{denied}");
        assert!(denied.ends_with("with mode 0600"), "{denied}");
        let nobody = refused_at(&path, io::ErrorKind::ConnectionRefused.into());
        assert!(nobody.to_string().starts_with("no card takes orders on "));
    }

    #[test]
    fn orders_are_followed_and_told_of() {
        let script = Script::new(1).shared();
        let slow = r#"{"inject": {"fault": "slow=7", "lasting": "5s", "times": 2, "probability": 0.5,
                       "matching": "opcode=sign"}}"#;
        assert_eq!(answer(slow, &script), json!({ "ok": true, "id": 0 }));
        let hang = r#"{"inject": {"fault": "hang"}}"#;
        assert_eq!(answer(hang, &script)["id"], 1);
        assert_eq!(answer(r#"{"clear": 0}"#, &script), json!({ "ok": true }));
        let told = answer(r#"{"status": {}}"#, &script);
        let injections = &told["status"]["injections"];
        assert_eq!(injections[0]["fault"], "slow=7");
        assert_eq!(injections[0]["over_at_seconds"], 0.0);
        assert_eq!(injections[1]["over_at_seconds"], Value::Null);
        assert_eq!(injections[1]["cause"], "card");
        assert!(table(&told["status"]).contains("hang=cleared  waits, has not acted"));
        assert_eq!(answer(r#"{"clear": "all"}"#, &script)["ok"], true);
        let script = script.lock().unwrap();
        assert!(script.record().iter().all(|record| !record.is_live()));
        assert_eq!(script.record()[0].fault, Fault::Slow { factor: 7.0 });
    }

    /// Somebody always waits there, and cannot be accepted: a pipe is no socket.
    struct Unacceptable {
        pipe: [OwnedFd; 2],
        asked: Cell<u32>,
        running: Cell<Option<OwnedFd>>,
    }

    impl AsFd for Unacceptable {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.asked.set(self.asked.get() + 1);
            if self.asked.get() == 6 {
                drop(self.running.take());
            }
            self.pipe[0].as_fd()
        }
    }

    #[test]
    fn whoever_cannot_be_accepted_is_not_tried_again_at_once() {
        let (read, write) = pipe().unwrap();
        rustix::io::write(&write, &[1]).unwrap();
        let (over, running) = pipe().unwrap();
        let waiting = Unacceptable {
            pipe: [read, write],
            asked: Cell::new(0),
            running: Cell::new(Some(running)),
        };
        let started = clock::now();
        serve(&waiting, over.as_fd(), &Script::new(1).shared());
        assert_eq!(
            waiting.asked.get(),
            6,
            "it is tried again, until it is over"
        );
        let elapsed = clock::now() - started;
        assert!(elapsed >= Duration::from_millis(200), "{elapsed:?}");
    }

    #[test]
    fn ten_injections_and_more_stand_in_line() {
        let script = Script::new(1).shared();
        for _ in 0..11 {
            answer(r#"{"inject": {"fault": "hang"}}"#, &script);
        }
        let table = table(&answer(r#"{"status": {}}"#, &script)["status"]);
        let columns: Vec<_> = table
            .lines()
            .skip(1)
            .map(|line| line.find("hang"))
            .collect();
        assert_eq!(columns, [Some(5); 11], "{table}");
    }

    #[test]
    fn no_more_is_injected_than_is_kept_on_record() {
        let script = Script::new(1).shared();
        for _ in 0..RECORDS_MAX {
            assert_eq!(
                answer(r#"{"inject": {"fault": "hang"}}"#, &script)["ok"],
                true
            );
            assert_eq!(answer(r#"{"clear": "all"}"#, &script)["ok"], true);
        }
        let refused = answer(r#"{"inject": {"fault": "hang"}}"#, &script);
        let error = refused["error"].as_str().unwrap();
        assert!(error.contains("start the card again"), "{error}");
        assert_eq!(script.lock().unwrap().record().len(), RECORDS_MAX);
    }

    #[test]
    fn an_order_is_read_as_it_is_written() {
        for line in [
            r#"{"inject":{"fault":"hang=reset","at":"1s","lasting":"2s","after_requests":3,"times":4,"probability":0.5,"matching":"algorithm=rsa"}}"#,
            r#"{"clear":3}"#,
            r#"{"clear":"all"}"#,
            r#"{"status":{}}"#,
        ] {
            let order: Order = serde_json::from_str(line).unwrap();
            assert_eq!(serde_json::to_string(&order).unwrap(), line);
        }
    }

    #[test]
    fn what_is_no_order_is_explained_and_changes_nothing() {
        let script = Script::new(1).shared();
        for (line, expected) in [
            ("hang", "expected value"),
            (r#"{"explode": 1}"#, "unknown variant `explode`"),
            (r#"{"inject": {"fault": "hagn"}}"#, "did you mean hang?"),
            (
                r#"{"inject": {"fault": "hang", "for": "1s"}}"#,
                "unknown field `for`",
            ),
            (
                r#"{"inject": {"fault": "hang", "lasting": "long"}}"#,
                "is not a duration",
            ),
            (
                r#"{"inject": {"fault": "hang", "probability": 2}}"#,
                "is not a probability",
            ),
            (r#"{"clear": 7}"#, "there is no injection 7"),
            (r#"{"clear": "everything"}"#, "or \"all\""),
        ] {
            let answer = answer(line, &script);
            assert_eq!(answer["ok"], false, "{line}");
            let error = answer["error"].as_str().unwrap();
            assert!(error.contains(expected), "{line}: {error}");
        }
        assert!(script.lock().unwrap().record().is_empty());
    }
}
