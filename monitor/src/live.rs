//! Has a card tested now, by its owner, and says how the card is.
//!
//! A heartbeat shows that something beats; only an operation shows that operations work. Owners test
//! their cards on a schedule and keep the result on their pages, which is what everything else here
//! reads. This asks for a test now. It opens no card, and waits for no owner longer than it is told to.
//!
//! | state | when |
//! |---|---|
//! | connected | the answer was right |
//! | disconnected | the owner has let go of the card, or an operator has drained it: it is not tested |
//! | unavailable | the owner is there, and the test failed, did not end, or cannot be made as the card is in no use |
//! | unreachable | nobody listens where the owner should, or the card does not answer on the bus |
//! | unknown | there is no page that can be read, no answer that can be believed, and no result fresh enough |
//!
//! An owner that cannot be asked is judged by the last result on its page, with its age. A card that is
//! connected may still give cause for a [warning](LiveCheck::warnings).

mod warnings;

pub(crate) use warnings::too_hot;

use crate::probe::{OwnerId, Probe, ProcessProbe};
use crate::status::CheckFigures;
use crate::text::clean;
use crate::verdict::{Evidence, State};
use card_spec::telemetry::{Page, breaker_state, card_state, check_result};
use hwshim::clock::{Clock, Instant};
use hwshim::telemetry::live::{self, Answer, AskError};
use hwshim::telemetry::{ReadError, Reader};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The oldest result that says something of now: three times the minute at which a card should be
/// tested at the least.
const RESULT_AGE_MAX: Duration = Duration::from_secs(180);
/// Publications that may be missing before a page is stale, and how long that is at the least.
const STALE_PUBLICATIONS: u32 = 3;
const STALE_MIN: Duration = Duration::from_secs(1);

/// How a card is, and how that was found out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LiveCheck {
    /// Its address; the name of its page if that cannot be read.
    pub card: String,
    /// How it is.
    pub state: State,
    /// Whether an operator wants it without work, so that nobody is to be alarmed.
    pub drained: bool,
    /// Whether it was tested for this.
    pub tested_now: bool,
    /// How the last test ended that is known of, e.g. `passed`.
    pub result: Option<String>,
    /// What was tested.
    pub algorithm: Option<String>,
    /// How long the test took.
    pub latency_seconds: Option<f64>,
    /// How long ago it ended.
    pub age_seconds: Option<f64>,
    /// Why it is in that state, in words.
    pub why: String,
    /// What to be warned of though it is connected, one of each code: `late`, `on-trial`, `too-hot`,
    /// `downtrained`, and what its sensors show.
    pub warnings: Vec<Evidence>,
}

/// Why a drained card is not tested.
const DRAINED: &str = "an operator has drained it, so it is not tested";

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The card's telemetry page.
    pub page: &'a Path,
    /// Whether an operator wants the card without work.
    pub is_drained: bool,
    /// How long to wait for its owner.
    pub patience: Duration,
    /// An answer that takes longer is late.
    pub late: Duration,
    /// Root of `/sys`.
    pub root: &'a Path,
}

/// Has the card tested whose page is at `request.page`, and says how it is.
#[must_use]
pub fn check(request: &Request<'_>, clock: &dyn Clock) -> LiveCheck {
    let before = match read(request.page) {
        Ok(page) => page,
        Err(error) => return unseen(request, &error),
    };
    let address = before.address();
    if request.is_drained {
        let why = DRAINED.to_owned();
        return LiveCheck {
            drained: true,
            ..described(&before, State::Disconnected, why, clock.now())
        };
    }
    if before.card.state.get() == card_state::RELEASED {
        let why = "its owner has let go of it; nobody has it to test".to_owned();
        return described(&before, State::Disconnected, why, clock.now());
    }
    let directory = request.page.parent().unwrap_or_else(|| Path::new("."));
    let asked = live::ask(directory, &address, request.patience);
    // What the owner says is on its page by now.
    let after = read(request.page).unwrap_or(before);
    let is_owned = is_alive(&after, clock.now());
    let found = judged(&after, asked, is_owned, clock.now());
    if found.state != State::Connected {
        return found;
    }
    let latency = found.latency_seconds.filter(|_| found.tested_now);
    let latency = latency.and_then(|it| Duration::try_from_secs_f64(it).ok());
    LiveCheck {
        warnings: warnings::of(&after, latency, request.late, request.root, clock.now()),
        ..found
    }
}

fn read(page: &Path) -> Result<Page, ReadError> {
    Reader::open(page)?.read()
}

/// Whether the process that wrote the page is there; `None` if that cannot be seen.
fn is_alive(page: &Page, now: Instant) -> Option<bool> {
    let owner = OwnerId::of(page)?;
    match ProcessProbe::new(Path::new("/")).observe(&owner, now) {
        Ok(crate::probe::Owner::Alive(_)) => Some(true),
        Ok(crate::probe::Owner::Ended) => Some(false),
        Err(error) if error.kind() == "absent" => Some(false),
        Err(_) => None,
    }
}

/// What an answer, or its absence, says of the card.
fn judged(
    page: &Page,
    asked: Result<Answer, AskError>,
    is_owned: Option<bool>,
    now: Instant,
) -> LiveCheck {
    match asked {
        Ok(Answer::Tested {
            algorithm,
            result,
            latency_ns,
            ended_at_ns,
        }) => tested(page, algorithm, result, latency_ns, ended_at_ns, now),
        Ok(Answer::NotInUse {}) => not_in_use(page, now),
        Ok(Answer::TooSoon { retry_after_ms }) => {
            let seconds = Duration::from_millis(retry_after_ms).as_secs_f64();
            let why = format!("a test takes so long that the next may begin in {seconds:.1} s");
            cached(page, &why, is_owned, now)
        }
        Ok(Answer::NoEnd { began: true }) => {
            let why = "its owner began a test that did not end in time".to_owned();
            described(page, State::Unavailable, why, now)
        }
        Ok(Answer::NoEnd { began: false }) => {
            let why = "no test could begin: other owners of this host are testing";
            cached(page, why, is_owned, now)
        }
        Ok(Answer::Refused { why }) => cached(page, &clean(&why), is_owned, now),
        Err(error @ AskError::NobodyListens { .. }) => {
            described(page, State::Unreachable, error.to_string(), now)
        }
        Err(error @ AskError::Silent { .. }) => {
            described(page, State::Unavailable, error.to_string(), now)
        }
        Err(error @ (AskError::NoSocket { .. } | AskError::Denied { .. })) => {
            cached(page, &error.to_string(), is_owned, now)
        }
        Err(_) if is_owned == Some(false) => {
            let why = "the process that owns it has ended".to_owned();
            described(page, State::Unreachable, why, now)
        }
        Err(error) => described(page, State::Unknown, error.to_string(), now),
    }
}

fn tested(
    page: &Page,
    algorithm: String,
    result: String,
    latency_ns: u64,
    ended_at_ns: u64,
    now: Instant,
) -> LiveCheck {
    let latency = Duration::from_nanos(latency_ns);
    let (algorithm, result) = (clean(&algorithm), clean(&result));
    let in_words = format!(
        "{algorithm} {result} in {:.1} ms",
        latency.as_secs_f64() * 1e3
    );
    let (state, why) = match &*result {
        "passed" => (State::Connected, in_words),
        _ if is_gone(page) => (
            State::Unreachable,
            format!("it does not answer on the bus ({in_words})"),
        ),
        _ => (State::Unavailable, in_words),
    };
    LiveCheck {
        tested_now: true,
        result: Some(result),
        algorithm: Some(algorithm),
        latency_seconds: Some(latency.as_secs_f64()),
        age_seconds: Some(now.since(Instant::from_nanos(ended_at_ns)).as_secs_f64()),
        ..described(page, state, why, now)
    }
}

fn not_in_use(page: &Page, now: Instant) -> LiveCheck {
    let open = page.breaker.state.get() != breaker_state::CLOSED;
    let (state, why) = match page.card.state.get() {
        card_state::GONE => (
            State::Unreachable,
            "it does not answer on the bus".to_owned(),
        ),
        card_state::READY if open => {
            let by = page.opened_by();
            let is = match page.breaker.state.get() {
                breaker_state::HALF_OPEN => "half open",
                _ => "open",
            };
            let why = format!("its breaker is {is} ({by}); it is tried again by itself");
            (State::Unavailable, why)
        }
        card_state::STARTING => (State::Unavailable, "it is being brought up".to_owned()),
        _ => (
            State::Unavailable,
            "it takes no work before a reset has succeeded".to_owned(),
        ),
    };
    described(page, state, why, now)
}

/// How the card is by what its page says, since its owner cannot be asked for the reason given.
fn cached(page: &Page, reason: &str, is_owned: Option<bool>, now: Instant) -> LiveCheck {
    let published = Instant::from_nanos(page.owner.published_at_ns.get());
    let interval = Duration::from_nanos(page.owner.publish_interval_ns.get());
    let stale_after = interval
        .saturating_mul(STALE_PUBLICATIONS)
        // A page can say of itself that it is fresh for ever.
        .clamp(STALE_MIN, RESULT_AGE_MAX);
    let is_stale = published > now || now.since(published) > stale_after;
    let found = described(page, State::Unknown, String::new(), now);
    let age = found.age_seconds.unwrap_or(f64::INFINITY);
    let result = found.result.as_deref().unwrap_or("none");
    let last = match result {
        "none" => "it has not been tested yet".to_owned(),
        result => format!("the last test, {age:.0} s ago, {}", in_words(result)),
    };
    let (state, judgement) = match result {
        _ if is_owned == Some(false) => (
            State::Unreachable,
            "the process that owns it has ended".to_owned(),
        ),
        _ if is_stale => (
            State::Unknown,
            "nobody publishes its page any more".to_owned(),
        ),
        _ if is_gone(page) => (
            State::Unreachable,
            "it does not answer on the bus".to_owned(),
        ),
        "none" => (State::Unknown, last),
        _ if age > RESULT_AGE_MAX.as_secs_f64() => {
            (State::Unknown, format!("{last}, which says nothing of now"))
        }
        "passed" => (State::Connected, last),
        _ => (State::Unavailable, last),
    };
    LiveCheck {
        state,
        why: format!("not tested now ({reason}); {judgement}"),
        ..found
    }
}

fn in_words(result: &str) -> String {
    match result {
        "passed" => "passed".to_owned(),
        result => format!("ended with {result}"),
    }
}

fn is_gone(page: &Page) -> bool {
    page.card.state.get() == card_state::GONE
}

/// A state, with what the page says of the last test.
fn described(page: &Page, state: State, why: String, now: Instant) -> LiveCheck {
    let figures = CheckFigures::new(page.checks, now);
    let has_ended = page.checks.last_result.get() != check_result::NONE;
    let algorithm = card_spec::health::printable(&page.checked);
    LiveCheck {
        card: page.address(),
        state,
        drained: false,
        tested_now: false,
        result: has_ended.then(|| figures.last_result.clone()),
        algorithm: Some(algorithm).filter(|name| has_ended && !name.is_empty()),
        latency_seconds: has_ended.then_some(figures.last_latency_seconds),
        age_seconds: figures.last_age_seconds,
        why,
        warnings: Vec::new(),
    }
}

/// A card whose page cannot be read. One that is drained would not be asked anyway, and whoever works on
/// it may well have ended its owner.
fn unseen(request: &Request<'_>, error: &ReadError) -> LiveCheck {
    let name = request.page.file_name();
    let name = name.map(PathBuf::from).unwrap_or_default();
    let error = clean(&error.to_string());
    let (state, why) = match request.is_drained {
        true => (State::Disconnected, format!("{DRAINED}; {error}")),
        false => (State::Unknown, error),
    };
    LiveCheck {
        card: clean(&name.to_string_lossy()),
        state,
        drained: request.is_drained,
        tested_now: false,
        result: None,
        algorithm: None,
        latency_seconds: None,
        age_seconds: None,
        why,
        warnings: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::from_nanos(1_000_000_000_000);

    /// A page that is fresh, of a card that passed a test 5 s ago.
    fn page() -> Page {
        let mut page = Page::new();
        let ago = |seconds: u64| NOW.as_nanos() - seconds * 1_000_000_000;
        page.owner.address = card_spec::telemetry::padded("software:ring");
        page.owner.publish_interval_ns = 100_000_000.into();
        page.owner.published_at_ns = ago(0).into();
        page.card.state = card_state::READY.into();
        page.checks.last_result = check_result::PASSED.into();
        page.checks.last_at_ns = ago(5).into();
        page
    }

    fn no_socket() -> Result<Answer, AskError> {
        Err(AskError::NoSocket {
            path: PathBuf::from("/run/x.owner"),
        })
    }

    #[test]
    fn an_owner_without_a_socket_is_judged_by_its_last_result_and_its_age() {
        let judge = |page: &Page, owned| judged(page, no_socket(), owned, NOW);
        let found = judge(&page(), Some(true));
        assert_eq!((found.state, found.tested_now), (State::Connected, false));
        assert_eq!(found.age_seconds, Some(5.0));
        assert!(found.why.contains("takes no questions") && found.why.contains("5 s ago"));
        assert_eq!(judge(&page(), Some(false)).state, State::Unreachable);
        let changed = |change: fn(&mut Page)| {
            let mut page = page();
            change(&mut page);
            judge(&page, None).state
        };
        assert_eq!(
            changed(|page| page.checks.last_result = check_result::WRONG_ANSWER.into()),
            State::Unavailable
        );
        assert_eq!(
            changed(|page| page.card.state = card_state::GONE.into()),
            State::Unreachable
        );
        assert_eq!(
            changed(|page| page.checks.last_result = 0.into()),
            State::Unknown
        );
        assert_eq!(
            changed(|page| page.checks.last_at_ns = 1.into()),
            State::Unknown
        );
        assert_eq!(
            changed(|page| page.owner.published_at_ns = 1.into()),
            State::Unknown
        );
        assert_eq!(
            changed(|page| {
                page.owner.published_at_ns = 1.into();
                page.owner.publish_interval_ns = u64::MAX.into();
            }),
            State::Unknown,
            "no page stays fresh because it says so"
        );
        assert_eq!(
            changed(|page| page.owner.published_at_ns = u64::MAX.into()),
            State::Unknown,
            "nor one from a time to come"
        );
    }

    #[test]
    fn a_card_that_is_in_no_use_is_unavailable_and_one_that_is_gone_unreachable() {
        let mut page = page();
        let judge = |page: &Page| judged(page, Ok(Answer::NotInUse {}), Some(true), NOW);
        page.breaker.state = breaker_state::OPEN.into();
        page.breaker.opened_by = card_spec::telemetry::padded("wrong-answer");
        assert_eq!(judge(&page).state, State::Unavailable);
        assert!(judge(&page).why.contains("wrong-answer"));
        page.card.state = card_state::NEEDS_RESET.into();
        assert_eq!(judge(&page).state, State::Unavailable);
        page.card.state = card_state::GONE.into();
        assert_eq!(judge(&page).state, State::Unreachable);
    }

    #[test]
    fn an_owner_that_hangs_is_unavailable_and_an_impostor_says_nothing() {
        let path = PathBuf::from("/run/x.owner");
        let silent = AskError::Silent {
            path: path.clone(),
            patience: Duration::from_secs(1),
        };
        assert_eq!(
            judged(&page(), Err(silent), Some(true), NOW).state,
            State::Unavailable
        );
        let impostor = AskError::Impostor {
            path,
            uid: 7,
            owner: 8,
        };
        assert_eq!(
            judged(&page(), Err(impostor), Some(true), NOW).state,
            State::Unknown
        );
        let began = Ok(Answer::NoEnd { began: true });
        assert_eq!(
            judged(&page(), began, Some(true), NOW).state,
            State::Unavailable
        );
        let others = judged(&page(), Ok(Answer::NoEnd { began: false }), Some(true), NOW);
        assert_eq!((others.state, others.tested_now), (State::Connected, false));
    }
}
