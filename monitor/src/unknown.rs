//! Says whether what a monitor answers can be believed, and what is known if it does not answer: a
//! dead monitor must not look well, and one that is not reached must not look dead.
//!
//! ```text
//!   answers, of a recent poll -------------------------> what it says
//!   answers, of an old poll ---+
//!   does not answer            |    sign of life
//!        +---------------------+--> fresh:    it lives, and is not reached  --+
//!                              +--> stale:    it is dead                      +--> unknown, with age
//!                              +--> stopped:  somebody had it stopped         |    and what to do
//!                              +--> absent:   there was none                --+
//! ```
//!
//! It is told what was answered and read, and asks nobody.

use crate::client::ClientError;
use crate::dead_man::{DeadManError, Freshness, SignOfLife};
use crate::history::Stamp;
use crate::probe::OwnerId;
use crate::status::Status;
use crate::text::spoken;
use serde::Serialize;
use std::time::Duration;

/// Nothing is known about any card.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Unknown {
    /// Always `unknown`.
    pub state: &'static str,
    /// Why.
    pub why: String,
    /// What to do.
    pub what_to_do: String,
    /// Age of the last that was known; `null` if nothing ever was, or nobody knows when.
    pub age_seconds: Option<f64>,
    /// Process of the monitor that knew it.
    pub monitor_pid: Option<u32>,
    /// How many cards it knew, all of which are unknown now.
    pub cards: u64,
}

impl std::fmt::Display for Unknown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; {}", self.why, self.what_to_do)
    }
}

/// Believes an answer, or says why nothing is known. `sign` is what was read of the monitor's sign of
/// life; `None` if it is not known where that would be. `has_ended` is asked of the process of a sign that
/// is fresh, which may have ended since.
///
/// # Errors
///
/// What is known instead.
pub fn believe(
    asked: Result<Status, ClientError>,
    sign: Option<Result<SignOfLife, DeadManError>>,
    has_ended: impl Fn(OwnerId) -> bool,
    now: Stamp,
) -> Result<Status, Box<Unknown>> {
    match asked {
        Ok(status) => match status.age_seconds {
            Some(age) if status.is_stale() => Err(Box::new(old(&status, age))),
            _ => Ok(status),
        },
        Err(error) => Err(Box::new(unasked(&error, sign, has_ended, now))),
    }
}

fn old(status: &Status, age: f64) -> Unknown {
    Unknown {
        state: "unknown",
        why: format!(
            "the monitor answers with a poll of {age:.1} s ago, though it polls every {:.1} s; nothing is known since",
            status.interval_seconds
        ),
        what_to_do: "see with `cardmon dead-man` what keeps it; if it does not go on, start it again: systemctl restart cardmon, or `cardmon run`".to_owned(),
        age_seconds: Some(age),
        monitor_pid: status.monitor.as_ref().map(|monitor| monitor.pid),
        cards: u64::try_from(status.states().count()).unwrap_or(u64::MAX),
    }
}

fn unasked(
    error: &ClientError,
    sign: Option<Result<SignOfLife, DeadManError>>,
    has_ended: impl Fn(OwnerId) -> bool,
    now: Stamp,
) -> Unknown {
    let unknown = |why: String, what_to_do: &str| Unknown {
        state: "unknown",
        why,
        what_to_do: what_to_do.to_owned(),
        age_seconds: None,
        monitor_pid: None,
        cards: 0,
    };
    match sign {
        Some(Ok(sign)) => of_sign(error, &sign, has_ended, now),
        Some(Err(DeadManError::Absent { path })) => unknown(
            format!("{error}; there is no sign of life at {}", path.display()),
            "nothing is known about any card until one runs",
        ),
        Some(Err(unreadable)) => unknown(
            format!("{error}; {unreadable}"),
            "see who may read it, and whether a monitor runs: systemctl status cardmon",
        ),
        None => unknown(
            error.to_string(),
            "whether it is alive is not known here: name its sign of life with --sign-of-life",
        ),
    }
}

fn of_sign(
    error: &ClientError,
    sign: &SignOfLife,
    has_ended: impl Fn(OwnerId) -> bool,
    now: Stamp,
) -> Unknown {
    let pid = sign.pid;
    let process = sign.start_time_ticks.map(|start_time_ticks| OwnerId {
        pid,
        start_time_ticks,
    });
    let (age, what_to_do) = match sign.freshness(now) {
        Freshness::Fresh { age } if process.is_some_and(has_ended) => (
            Some(age),
            "that process has ended since, unless it runs in another container; start it again: systemctl restart cardmon, or `cardmon run`"
                .to_owned(),
        ),
        Freshness::Fresh { age } => (
            Some(age),
            format!(
                "process {pid} is alive, so it answers elsewhere or not at all: give its address with --url, or see what holds it up"
            ),
        ),
        Freshness::Stale { age } => (
            age,
            "it is dead or held up; start it again: systemctl restart cardmon, or `cardmon run`"
                .to_owned(),
        ),
        Freshness::Stopped { age } => (
            Some(age),
            "it was stopped; start it when it is wanted: systemctl start cardmon, or `cardmon run`"
                .to_owned(),
        ),
    };
    let when = age.map_or_else(
        || "before this boot".to_owned(),
        |age: Duration| format!("{} ago", spoken(age)),
    );
    let cards: u64 = sign
        .cards
        .values()
        .fold(0, |sum, count| sum.saturating_add(*count));
    let theirs = match cards {
        1 => "its card is".to_owned(),
        cards => format!("its {cards} cards are"),
    };
    Unknown {
        state: "unknown",
        why: format!("{error}; process {pid} polled last {when}, and {theirs} unknown"),
        what_to_do,
        age_seconds: age.map(|age| age.as_secs_f64()),
        monitor_pid: Some(pid),
        cards,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{BootId, WallTime};
    use crate::watch::{Settings, Watch};
    use hwshim::clock::Instant;
    use std::collections::BTreeMap;
    use std::path::Path;

    fn at(seconds: u64) -> Stamp {
        Stamp {
            wall: WallTime::default(),
            monotonic: Instant::from_nanos(seconds * 1_000_000_000),
            boot: BootId::of_this_boot(),
        }
    }

    fn sign(seconds: u64) -> Option<Result<SignOfLife, DeadManError>> {
        let mut sign = SignOfLife::new(Duration::from_secs(1), 7, None, Vec::new(), at(seconds));
        sign.cards = BTreeMap::from([("connected".to_owned(), 3)]);
        Some(Ok(sign))
    }

    fn lives(_: OwnerId) -> bool {
        false
    }

    fn silent() -> Result<Status, ClientError> {
        Err(ClientError::TimedOut {
            address: "here".to_owned(),
        })
    }

    fn status(age_seconds: Option<f64>) -> Status {
        let nowhere = Path::new("/nonexistent");
        let mut watch = Watch::new(Settings::of(nowhere, Path::new("/")));
        let mut status = watch.poll(Instant::ORIGIN).status;
        status.age_seconds = age_seconds;
        status
    }

    #[test]
    fn an_answer_is_believed_for_three_polls() {
        for age in [None, Some(0.0), Some(2.9)] {
            assert!(
                believe(Ok(status(age)), None, lives, at(1)).is_ok(),
                "{age:?}"
            );
        }
        let old = believe(Ok(status(Some(3.1))), sign(1), lives, at(1)).unwrap_err();
        assert_eq!((old.state, old.age_seconds), ("unknown", Some(3.1)));
    }

    #[test]
    fn a_monitor_whose_process_has_ended_is_dead_however_fresh_its_sign() {
        let ended = |process: OwnerId| process.pid == std::process::id();
        let dead = believe(silent(), sign(100), ended, at(101)).unwrap_err();
        assert_eq!(dead.age_seconds, Some(1.0));
        let text = dead.to_string();
        assert!(text.contains("that process has ended since"), "{text}");
        assert!(!text.contains("is alive"), "{text}");
        let of_older_version = sign(100).unwrap().map(|it| SignOfLife {
            start_time_ticks: None,
            ..it
        });
        let alive = believe(silent(), Some(of_older_version), ended, at(101)).unwrap_err();
        assert!(alive.to_string().contains("is alive"), "{alive}");
    }

    #[test]
    fn a_monitor_that_is_dead_is_told_from_one_that_is_not_reached() {
        let dead = believe(silent(), sign(100), lives, at(134)).unwrap_err();
        assert_eq!((dead.age_seconds, dead.cards), (Some(34.0), 3));
        let text = dead.to_string();
        assert!(
            text.contains("34s ago") && text.contains("start it again"),
            "{text}"
        );
        let alive = believe(silent(), sign(100), lives, at(101)).unwrap_err();
        let text = alive.to_string();
        assert!(
            text.contains("is alive") && text.contains("--url"),
            "{text}"
        );
        assert!(!text.contains("connected"), "{text}");
        let last = sign(100).unwrap().map(SignOfLife::last);
        let stopped = believe(silent(), Some(last), lives, at(101)).unwrap_err();
        let text = stopped.to_string();
        assert!(text.contains("it was stopped"), "{text}");
        assert!(!text.contains("is alive"), "{text}");
        let absent = DeadManError::Absent { path: "/x".into() };
        let absent = believe(silent(), Some(Err(absent)), lives, at(1)).unwrap_err();
        assert_eq!(absent.age_seconds, None);
        assert!(absent.to_string().contains("no sign of life at /x"));
    }
}
