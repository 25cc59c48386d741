//! `hwshim stats`: what the owners of this host's cards have published, as it stands.
//!
//! It shows and does not judge: whether a card is well is for cardmon to say.

use super::output::{Cell, Failure, Output, Style, Table};
use card_spec::health::Summary;
use card_spec::telemetry::{self as telemetry_page, Page, breaker_state, card_state, check_result};
use hwshim::address::Address;
use hwshim::clock::{Clock, Instant, SystemClock};
use hwshim::telemetry::{self, ForgetError, ReadError, Reader};
use serde::Serialize;
use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Show the telemetry pages of this host: state, breaker and counters of each owned card.
///
/// A card that was let go of, or whose owner has ended, stays until it is owned again or forgotten
/// (--forget). A router without a card is shown as long as its process is there.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory of the telemetry pages [default: /run/hwshim for root, else one of the user's own]
    #[arg(long, value_name = "DIR")]
    telemetry: Option<PathBuf>,
    /// Print one JSON document for programs.
    #[arg(long)]
    json: bool,
    /// Remove the page of a card that nobody owns any more, as of a mistyped address; refused if it is owned
    #[arg(long, value_name = "ADDRESS", conflicts_with = "json")]
    forget: Option<Address>,
}

#[derive(Serialize)]
struct Document {
    schema: u32,
    cards: Vec<CardStats>,
    /// Those without a card.
    routers: Vec<RouterStats>,
    problems: Vec<String>,
}

#[derive(Serialize)]
struct CardStats {
    address: String,
    state: &'static str,
    /// Nobody publishes the page any more: what it says was so when it was published.
    stale: bool,
    owner_pid: u64,
    /// It publishes nothing more, and its process is not there.
    owner_ended: bool,
    /// Time since the page was published, in milliseconds.
    age_ms: u64,
    breaker: &'static str,
    breaker_opened: u64,
    breaker_opened_by: String,
    requests: Requests,
    checks: Checks,
    resets: u64,
    silent_reboots: u64,
    sessions_open: u64,
    health: Option<Health>,
    /// What the owner does besides; `null` if it does not, or is too old to say so.
    tls: Option<Tls>,
}

/// A router by itself: there is no card to tell of.
#[derive(Serialize)]
struct RouterStats {
    name: String,
    /// It has ended in an orderly way.
    ended: bool,
    /// Nobody publishes the page any more: what it says was so when it was published.
    stale: bool,
    owner_pid: u64,
    /// Time since the page was published, in milliseconds.
    age_ms: u64,
    requests: Requests,
    tls: Option<Tls>,
}

#[derive(Serialize)]
struct Requests {
    submitted: u64,
    card: u64,
    software: u64,
    refused: u64,
    in_flight: u64,
    fallbacks: u64,
    timed_out: u64,
    failed: u64,
    misbehaved: u64,
    wrong_answers: u64,
    /// Of those in software: cards had too much to do. `null`, as what follows, if the owner is too old
    /// to say so.
    shed: Option<u64>,
    /// Of those refused: software had too much to do as well.
    overloaded: Option<u64>,
}

#[derive(Serialize)]
struct Checks {
    started: u64,
    passed: u64,
    failed: u64,
    last: &'static str,
    last_latency_us: u64,
}

#[derive(Serialize)]
struct Health {
    model: String,
    serial_number: String,
    firmware: String,
    heartbeat_count: u32,
    uptime_ms: u64,
    temperature_c: Option<i32>,
    requests_ok: u64,
    requests_failed: u64,
}

/// TLS that the owner terminates, with all of its cards.
#[derive(Serialize)]
struct Tls {
    connections: TlsConnections,
    handshakes: TlsHandshakes,
}

#[derive(Serialize)]
struct TlsConnections {
    accepted: u64,
    active: u64,
    closed: u64,
    idle: u64,
    broken: u64,
    unreachable: u64,
    not_accepted: u64,
}

#[derive(Serialize)]
struct TlsHandshakes {
    accepted: u64,
    completed: u64,
    tls12: u64,
    tls13: u64,
    resumed: u64,
    failed: u64,
    timed_out: u64,
    cancelled: u64,
    under_way: u64,
    offloaded: u64,
    software: u64,
    mismatched: u64,
}

/// Shows the pages.
pub(crate) fn run(args: &Args, output: &mut Output) -> Result<(), Failure> {
    let directory = args
        .telemetry
        .clone()
        .unwrap_or_else(telemetry::default_directory);
    if let Some(card) = &args.forget {
        return forget(card, &directory, output);
    }
    let unreadable = |error| {
        let whose = whose(&directory, &error);
        Failure::new(
            format!("{} cannot be read{whose}", directory.display()),
            error,
        )
        .hint("name another directory with --telemetry DIR, or run as its owner")
    };
    let pages = telemetry::pages(&directory).map_err(unreadable)?;
    let routers = telemetry::router_pages(&directory).map_err(unreadable)?;
    let mut document = Document {
        schema: 1,
        cards: Vec::new(),
        routers: Vec::new(),
        problems: Vec::new(),
    };
    for path in &pages {
        match Reader::open(path).and_then(|reader| reader.read()) {
            Ok(page) => document
                .cards
                .push(CardStats::new(&page, SystemClock.now())),
            Err(error) => document.problems.push(problem(&error)),
        }
    }
    for path in &routers {
        match Reader::open(path).and_then(|reader| reader.read()) {
            // It is nobody's, and there is no card whose owner it could have been.
            Ok(page) if telemetry::has_ended(&page, SystemClock.now()) => {}
            Ok(page) => document
                .routers
                .push(RouterStats::new(&page, SystemClock.now())),
            Err(error) => document.problems.push(problem(&error)),
        }
    }
    if args.json {
        return output.json(&document);
    }
    print(&document, args.telemetry.as_deref(), &directory, output)?;
    let nothing = document.cards.is_empty() && document.routers.is_empty();
    let roots = Path::new(telemetry::ROOTS_DIRECTORY);
    if nothing && args.telemetry.is_none() && directory != roots && roots.exists() {
        output.line(format_args!(
            "Those of root are shown by: hwshim stats --telemetry {}",
            roots.display()
        ))?;
    }
    Ok(())
}

/// Why a page could not be read, and who could.
fn problem(error: &ReadError) -> String {
    match error {
        ReadError::Unreadable { path, source } => {
            format!("{error}{}: {source}", whose(path, source))
        }
        _ => error.to_string(),
    }
}

/// Whose a file is, if this user may not read it.
fn whose(path: &Path, error: &io::Error) -> String {
    let denied = error.kind() == io::ErrorKind::PermissionDenied;
    let found = path.metadata().ok().filter(|_| denied);
    found.map_or_else(String::new, |found| {
        format!(
            " (it belongs to user {} and group {}, with mode {:04o})",
            found.uid(),
            found.gid(),
            found.mode() & 0o7777
        )
    })
}

/// Removes the page of a card that has no owner.
fn forget(card: &Address, directory: &Path, output: &mut Output) -> Result<(), Failure> {
    let name = card.to_string();
    telemetry::forget(directory, &name).map_err(|error| {
        let hint = match &error {
            ForgetError::Absent { .. } => {
                "write the address as hwshim stats shows it, and name its directory with --telemetry DIR"
                    .to_owned()
            }
            ForgetError::Owned { .. } => {
                match telemetry::owner_of(directory, &name, SystemClock.now()) {
                    Some(pid) => format!("stop its owner first, process {pid}"),
                    None => "stop its owner first".to_owned(),
                }
            }
            _ => "run as the user who may write there".to_owned(),
        };
        Failure::new(format!("{name} cannot be forgotten"), error).hint(hint)
    })?;
    output.line(format_args!(
        "{name} is forgotten: its page was removed from {}",
        directory.display()
    ))
}

fn print(
    document: &Document,
    named: Option<&Path>,
    directory: &Path,
    output: &mut Output,
) -> Result<(), Failure> {
    let Document {
        cards,
        routers,
        problems,
        ..
    } = document;
    if !cards.is_empty() {
        print_cards(cards, named, output)?;
    } else if problems.is_empty() {
        let why = match routers.is_empty() {
            true => format!(": there is no page of one in {}", directory.display()),
            false => String::new(),
        };
        output.line(format_args!("No card is owned on this host{why}."))?;
        output.line("Own one with: hwshim serve --card ADDRESS")?;
    }
    for router in routers {
        output.note(&format!("{}: ", router.name), &describe_router(router))?;
    }
    for problem in problems {
        output.warn(problem)?;
    }
    Ok(())
}

fn print_cards(
    cards: &[CardStats],
    named: Option<&Path>,
    output: &mut Output,
) -> Result<(), Failure> {
    /// Which card it is, and how it is.
    const COLUMNS_MIN: usize = 2;
    let header = [
        "CARD", "STATE", "AGE", "BREAKER", "BY CARD", "SOFTWARE", "REFUSED", "CHECKS",
    ];
    let mut table = Table::rigid(&header);
    for card in cards {
        table.push(vec![
            card.address.clone().into(),
            if card.stale {
                Cell::styled("stale", Style::Bad)
            } else {
                styled_when(card.state == "ready", card.state)
            },
            format!("{} ms", card.age_ms).into(),
            styled_when(card.breaker == "closed", card.breaker),
            card.requests.card.to_string().into(),
            card.requests.software.to_string().into(),
            card.requests.refused.to_string().into(),
            format!("{}/{}", card.checks.passed, card.checks.started).into(),
        ]);
    }
    let left_out = output.make_room(&mut table, COLUMNS_MIN);
    output.table(&table)?;
    if !left_out.is_empty() {
        let titles = left_out.join(", ");
        output.note(
            "",
            &format!("Without {titles}: a wider terminal has room for them."),
        )?;
    }
    let mut owners = BTreeSet::new();
    for card in cards {
        if let Some(left) = describe_left(card) {
            output.note(&format!("{}: ", card.address), &left)?;
        }
        if let Some(command) = forgetting(card, named) {
            output.line(format_args!("Own it again, or forget it with: {command}"))?;
        }
        if let Some(health) = &card.health {
            let lead = format!("{}: ", card.address);
            output.note(&lead, &describe(health))?;
        }
        if let Some(overload) = describe_overload(&card.requests) {
            output.note(&format!("{}: ", card.address), &overload)?;
        }
        // It is the same on the page of each of an owner's cards.
        let is_told = !owners.insert(card.owner_pid);
        if let Some(tls) = describe_tls(card).filter(|_| !is_told) {
            let lead = format!("{}: ", card.address);
            output.note(&lead, &tls)?;
        }
    }
    Ok(())
}

/// What became of a card's owner, if it publishes no more.
fn describe_left(card: &CardStats) -> Option<String> {
    let pid = card.owner_pid;
    match (card.stale, card.owner_ended) {
        (true, false) => Some(format!(
            "its owner, process {pid}, is there and publishes nothing: it is stopped, or starved"
        )),
        (true, true) => Some(format!(
            "its owner, process {pid}, has ended and did not let go of it"
        )),
        (false, _) => (card.state == RELEASED).then(|| format!("process {pid} has let go of it")),
    }
}

/// The command that forgets a card, if that is nobody's; on a line of its own, to be copied.
fn forgetting(card: &CardStats, named: Option<&Path>) -> Option<String> {
    let is_owned = card.state != RELEASED && !(card.stale && card.owner_ended);
    let directory = named.map_or_else(String::new, |it| format!(" --telemetry {}", it.display()));
    (!is_owned).then(|| format!("hwshim stats{directory} --forget {}", card.address))
}

fn describe(health: &Health) -> String {
    let temperature = health
        .temperature_c
        .map_or(String::new(), |celsius| format!(", {celsius} °C"));
    format!(
        "{} {} firmware {}, heartbeat {}, up {} s{temperature}",
        health.model,
        health.serial_number,
        health.firmware,
        health.heartbeat_count,
        health.uptime_ms / 1000,
    )
}

/// What became of a router without a card, and of what its process does.
fn describe_router(router: &RouterStats) -> String {
    let RouterStats {
        ended,
        stale,
        owner_pid,
        age_ms,
        requests,
        tls,
        ..
    } = router;
    let is = match (ended, stale) {
        (true, _) => "ended, a router".to_owned(),
        (false, true) => format!("stale for {} s, a router", age_ms / 1000),
        (false, false) => "a router".to_owned(),
    };
    let does = tls.as_ref().map_or_else(
        || format!("{} requests", requests.submitted),
        |tls| tls_in_words(tls, *ended || *stale),
    );
    let overload = describe_overload(requests).map_or_else(String::new, |it| format!("; {it}"));
    format!("{is} without a card (process {owner_pid}), and {does}{overload}")
}

/// What accelerators and software had no time for, if there was any of it.
fn describe_overload(requests: &Requests) -> Option<String> {
    let (shed, overloaded) = (requests.shed?, requests.overloaded?);
    (shed > 0 || overloaded > 0).then(|| {
        format!(
            "too much to do at times: {shed} requests went to software at once, {overloaded} were refused"
        )
    })
}

fn describe_tls(card: &CardStats) -> Option<String> {
    let is_over = card.stale || card.state == RELEASED;
    card.tls
        .as_ref()
        .map(|tls| format!("its owner {}", tls_in_words(tls, is_over)))
}

fn tls_in_words(tls: &Tls, is_over: bool) -> String {
    let Tls {
        connections,
        handshakes,
    } = tls;
    let terminates = if is_over { "terminated" } else { "terminates" };
    format!(
        "{terminates} TLS: {} handshakes ({} by TLS 1.3, {} by 1.2; {} resumed), {} failed, {} \
         timed out; {} signatures given to accelerators, {} made by the CPU at once; {} connections open, {} ended, {} for \
         which the server behind was not reached",
        handshakes.completed,
        handshakes.tls13,
        handshakes.tls12,
        handshakes.resumed,
        handshakes.failed,
        handshakes.timed_out,
        handshakes.offloaded,
        handshakes.software.saturating_add(handshakes.mismatched),
        connections.active,
        connections.accepted.saturating_sub(connections.active),
        connections.unreachable,
    )
}

fn styled_when(good: bool, text: &str) -> Cell {
    Cell::styled(text, if good { Style::Good } else { Style::Bad })
}

impl CardStats {
    fn new(page: &Page, now: Instant) -> Self {
        let Page {
            owner,
            card,
            breaker,
            checks,
            ..
        } = page;
        Self {
            address: page.address(),
            state: state_name(card.state.get()),
            stale: telemetry::is_stale(page, now),
            owner_pid: owner.pid.get(),
            owner_ended: telemetry::has_ended(page, now),
            age_ms: age_ms(page, now),
            breaker: match breaker.state.get() {
                breaker_state::CLOSED => "closed",
                breaker_state::OPEN => "open",
                breaker_state::HALF_OPEN => "half-open",
                _ => "undefined",
            },
            breaker_opened: breaker.opened.get(),
            breaker_opened_by: page.opened_by(),
            requests: Requests::new(page),
            checks: Checks {
                started: checks.started.get(),
                passed: checks.passed.get(),
                failed: checks.failed.get(),
                last: match checks.last_result.get() {
                    check_result::NONE => "none",
                    check_result::PASSED => "passed",
                    check_result::FAILED => "failed",
                    check_result::TIMED_OUT => "timed-out",
                    check_result::WRONG_ANSWER => "wrong-answer",
                    check_result::MISBEHAVED => "misbehaved",
                    _ => "undefined",
                },
                last_latency_us: checks.last_latency_ns.get() / 1000,
            },
            resets: card.resets.get(),
            silent_reboots: card.silent_reboots.get(),
            sessions_open: card.sessions_open.get(),
            health: (card.health_reads.get() > 0)
                .then(|| Summary::parse(&page.health).ok())
                .flatten()
                .map(|summary| Health::new(&summary)),
            tls: page.tls().map(Tls::new),
        }
    }
}

impl RouterStats {
    fn new(page: &Page, now: Instant) -> Self {
        Self {
            name: page.address(),
            ended: page.card.state.get() == card_state::RELEASED,
            stale: telemetry::is_stale(page, now),
            owner_pid: page.owner.pid.get(),
            age_ms: age_ms(page, now),
            requests: Requests::new(page),
            tls: page.tls().map(Tls::new),
        }
    }
}

impl Requests {
    fn new(page: &Page) -> Self {
        let (requests, overload) = (&page.requests, page.overload());
        Self {
            submitted: requests.submitted.get(),
            card: requests.card.get(),
            software: requests.software.get(),
            refused: requests.refused.get(),
            in_flight: requests.in_flight.get(),
            fallbacks: requests.fallbacks.get(),
            timed_out: requests.timed_out.get(),
            failed: requests.failed.get(),
            misbehaved: requests.misbehaved.get(),
            wrong_answers: requests.wrong_answers.get(),
            shed: overload.map(|it| it.shed.get()),
            overloaded: overload.map(|it| it.overloaded.get()),
        }
    }
}

impl Tls {
    fn new(tls: &telemetry_page::Tls) -> Self {
        let telemetry_page::Tls {
            began_at_ns: _,
            connections,
            handshakes,
        } = tls;
        Self {
            connections: TlsConnections {
                accepted: connections.accepted.get(),
                active: connections.active.get(),
                closed: connections.closed.get(),
                idle: connections.idle.get(),
                broken: connections.broken.get(),
                unreachable: connections.unreachable.get(),
                not_accepted: connections.not_accepted.get(),
            },
            handshakes: TlsHandshakes {
                accepted: handshakes.accepted.get(),
                completed: handshakes.completed.get(),
                tls12: handshakes.tls12.get(),
                tls13: handshakes.tls13.get(),
                resumed: handshakes.resumed.get(),
                failed: handshakes.failed.get(),
                timed_out: handshakes.timed_out.get(),
                cancelled: handshakes.cancelled.get(),
                under_way: handshakes.under_way.get(),
                offloaded: handshakes.offloaded.get(),
                software: handshakes.software.get(),
                mismatched: handshakes.mismatched.get(),
            },
        }
    }
}

fn age_ms(page: &Page, now: Instant) -> u64 {
    let published = Instant::from_nanos(page.owner.published_at_ns.get());
    u64::try_from(now.since(published).as_millis()).unwrap_or(u64::MAX)
}

/// What a card is when its owner has let go of it.
const RELEASED: &str = "released";

fn state_name(state: u64) -> &'static str {
    match state {
        card_state::STARTING => "starting",
        card_state::READY => "ready",
        card_state::NEEDS_RESET => "needs-reset",
        card_state::GONE => "gone",
        card_state::RELEASED => RELEASED,
        card_state::NONE => "none",
        _ => "undefined",
    }
}

impl Health {
    fn new(summary: &Summary) -> Self {
        let kelvin = i32::from(summary.composite_temperature_k.get());
        Self {
            model: summary.model_number(),
            serial_number: summary.serial_number(),
            firmware: summary.firmware_revision(),
            heartbeat_count: summary.heartbeat_count.get(),
            uptime_ms: summary.uptime_ms.get(),
            temperature_c: (kelvin != 0).then_some(kelvin - 273),
            requests_ok: summary.requests_ok.get(),
            requests_failed: summary.requests_failed.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    const PUBLISHED: u64 = 60_000_000_000;

    /// Whether a page published every `interval` is stale after `age`.
    fn stale_after(age: Duration, interval: Duration, state: u64) -> bool {
        let mut page = Page::new();
        page.card.state = state.into();
        page.owner.published_at_ns = PUBLISHED.into();
        page.owner.publish_interval_ns = hwshim::clock::nanos(interval).into();
        let stats = CardStats::new(&page, Instant::from_nanos(PUBLISHED).plus(age));
        assert_eq!(stats.state, state_name(state));
        stats.stale
    }

    #[test]
    fn who_could_read_what_was_denied_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.telemetry");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let said = |kind: io::ErrorKind| {
            problem(&ReadError::Unreadable {
                path: path.clone(),
                source: kind.into(),
            })
        };
        let denied = said(io::ErrorKind::PermissionDenied);
        assert!(
            denied.contains("with mode 0640): permission denied"),
            "{denied}"
        );
        assert!(!said(io::ErrorKind::Other).contains("belongs"));
    }

    #[test]
    fn a_page_is_stale_when_ten_publications_are_missing() {
        let interval = Duration::from_secs(1);
        let limit = interval * 10;
        assert!(!stale_after(limit, interval, card_state::READY));
        assert!(stale_after(
            limit + Duration::from_nanos(1),
            interval,
            card_state::READY
        ));
    }

    #[test]
    fn an_owner_in_a_hurry_is_given_two_seconds() {
        let limit = Duration::from_secs(2);
        for interval in [Duration::ZERO, Duration::from_millis(100)] {
            assert!(!stale_after(limit, interval, card_state::READY));
            assert!(stale_after(
                limit + Duration::from_nanos(1),
                interval,
                card_state::READY
            ));
        }
    }

    #[test]
    fn no_interval_keeps_a_page_fresh_for_ever() {
        let hour = Duration::from_secs(3600);
        assert!(stale_after(
            hour,
            Duration::from_nanos(u64::MAX),
            card_state::READY
        ));
    }

    #[test]
    fn a_card_that_was_released_stays_so() {
        let hour = Duration::from_secs(3600);
        assert!(!stale_after(
            hour,
            Duration::from_secs(1),
            card_state::RELEASED
        ));
    }

    #[test]
    fn who_has_let_go_of_a_card_or_is_dead_terminates_no_tls_any_more() {
        let hour = Duration::from_secs(3600);
        for (state, age, wanted) in [
            (card_state::READY, Duration::ZERO, "terminates"),
            (card_state::RELEASED, Duration::ZERO, "terminated"),
            (card_state::READY, hour, "terminated"),
        ] {
            let mut page = Page::new();
            page.card.state = state.into();
            page.owner.published_at_ns = PUBLISHED.into();
            page.tls.began_at_ns = PUBLISHED.into();
            page.tls.handshakes.completed = 7.into();
            page.tls.handshakes.offloaded = 4.into();
            page.tls.handshakes.software = 2.into();
            page.tls.handshakes.mismatched = 1.into();
            let card = CardStats::new(&page, Instant::from_nanos(PUBLISHED).plus(age));
            let told = describe_tls(&card).unwrap();
            let wanted = format!("its owner {wanted} TLS: 7 handshakes");
            assert!(told.starts_with(&wanted), "{told}");
            let signed = "4 signatures given to accelerators, 3 made by the CPU at once";
            assert!(told.contains(signed), "{told}");
        }
    }

    #[test]
    fn of_a_card_whose_owner_publishes_no_more_it_says_what_became_of_that_and_what_to_do() {
        let hour = Duration::from_secs(3600);
        let this = std::process::id();
        for (state, age, pid, became, is_forgotten) in [
            (card_state::READY, Duration::ZERO, this, "", false),
            (
                card_state::READY,
                hour,
                this,
                "is there and publishes nothing",
                false,
            ),
            (
                card_state::READY,
                hour,
                0,
                "has ended and did not let go of it",
                true,
            ),
            (
                card_state::RELEASED,
                hour,
                0,
                "process 0 has let go of it",
                true,
            ),
        ] {
            let mut page = Page::new();
            page.owner.address = telemetry_page::padded("pci:0000:3b:00.0");
            page.owner.pid = u64::from(pid).into();
            page.owner.published_at_ns = PUBLISHED.into();
            page.card.state = state.into();
            let card = CardStats::new(&page, Instant::from_nanos(PUBLISHED).plus(age));
            let told = describe_left(&card).unwrap_or_default();
            assert!(told.contains(became), "{told}");
            assert_eq!(told.is_empty(), became.is_empty(), "{told}");
            let command = "hwshim stats --telemetry /pages --forget pci:0000:3b:00.0";
            let command = is_forgotten.then_some(command);
            assert_eq!(
                forgetting(&card, Some(Path::new("/pages"))).as_deref(),
                command
            );
        }
    }

    #[test]
    fn addresses_are_whole_on_a_narrow_terminal() {
        let cards = [
            "vfio-user:/run/cards/first.sock",
            "vfio-user:/run/cards/second.sock",
        ];
        let cards = cards.map(|address| {
            let mut page = Page::new();
            page.owner.address = telemetry_page::padded(address);
            page.owner.published_at_ns = PUBLISHED.into();
            CardStats::new(&page, Instant::from_nanos(PUBLISHED))
        });
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("output");
        let mut output = Output::to(fs::File::create(&path).unwrap(), Some(60));
        print_cards(&cards, None, &mut output).unwrap();
        output.finish().unwrap();
        let text = fs::read_to_string(path).unwrap();
        for card in &cards {
            assert!(text.contains(&card.address), "{text}");
        }
        assert!(
            text.contains("SOFTWARE, REFUSED, CHECKS: a wider"),
            "{text}"
        );
        assert!(
            text.lines().all(|line| line.chars().count() <= 60),
            "{text}"
        );
    }

    #[test]
    fn what_was_too_much_is_told_of_cards_and_routers_if_there_was_any_and_the_page_says_so() {
        let mut page = Page::new();
        let now = Instant::from_nanos(PUBLISHED);
        let told = |page: &Page| {
            let of_card = describe_overload(&CardStats::new(page, now).requests);
            let router = RouterStats::new(page, now);
            let of_router = describe_router(&router);
            assert_eq!(
                of_router.contains("too much to do"),
                of_card.is_some(),
                "{of_router}"
            );
            let json = serde_json::to_value(&router).unwrap();
            (
                of_card,
                ["shed", "overloaded"].map(|name| json["requests"][name].as_u64()),
            )
        };
        assert_eq!(told(&page), (None, [Some(0), Some(0)]));
        page.overload.shed = 3.into();
        page.overload.overloaded = 1.into();
        let (text, json) = told(&page);
        let wanted = "3 requests went to software at once, 1 were refused";
        assert!(text.is_some_and(|text| text.ends_with(wanted)));
        assert_eq!(json, [Some(3), Some(1)]);
        page.version_minor = 2.into();
        assert_eq!(told(&page), (None, [None, None]));
    }
}
