//! One card under one judge, poll after poll, in a time that the tests make.

use super::*;
use crate::probe::{HeartbeatProbe, OwnerId, Probe, Process};
use card_spec::health::{self, ControllerStatus, CriticalWarning, Summary};
use card_spec::telemetry::{breaker_state, card_state, check_result, padded};
use hwshim::clock::nanos;
use std::io;
use zerocopy::{FromZeros, IntoBytes};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// A card and its owner as they would look from outside.
struct Scene {
    judge: Judge,
    now: Instant,
    page: Page,
    card: Summary,
    owner: Watched,
    card_beats: bool,
    owner_publishes: bool,
    owner_reads_card: bool,
    host: Option<Sample>,
}

#[derive(Clone, Copy)]
enum Watched {
    Alive(char),
    Ended,
    Hidden,
}

impl Scene {
    fn new() -> Self {
        let now = Instant::from_nanos(1_000_000_000_000);
        let mut page = Page::new();
        page.owner.pid = 7.into();
        page.owner.publish_interval_ns = 250_000_000.into();
        page.owner.address = padded("software:ring");
        page.card.state = card_state::READY.into();
        page.checks.last_result = check_result::PASSED.into();
        let mut card = Summary::new_zeroed();
        card.magic = health::MAGIC.into();
        card.version = health::VERSION.into();
        card.heartbeat_period_ms = 500.into();
        card.heartbeat_count = 100.into();
        card.capabilities = (1 << 8).into();
        Self {
            judge: Judge::new(Limits::default(), now),
            now,
            page,
            card,
            owner: Watched::Alive('S'),
            card_beats: true,
            owner_publishes: true,
            owner_reads_card: true,
            host: None,
        }
    }

    /// A card that has been connected for a while.
    fn connected() -> Self {
        let mut scene = Self::new();
        scene.polls(3);
        assert_eq!(scene.verdict(), (State::Connected, Cause::None));
        scene
    }

    /// Lets the world go on for `time`.
    fn pass(&mut self, time: Duration) {
        self.now = self.now.plus(time);
        if self.card_beats {
            let beats = self.card.heartbeat_count.get() + 2;
            self.card.heartbeat_count = beats.into();
        }
        if self.owner_publishes {
            self.publish();
        }
    }

    fn publish(&mut self) {
        let now = self.now.as_nanos();
        self.page.sequence += 2;
        self.page.owner.published_at_ns = now.into();
        if self.owner_reads_card {
            self.page.card.health_reads += 1;
            self.page.card.health_read_at_ns = now.into();
            self.page.health.copy_from_slice(self.card.as_bytes());
        }
    }

    fn look(&mut self, page: Result<Box<Page>, ProbeError>) -> Option<Transition> {
        let id = OwnerId {
            pid: 7,
            start_time_ticks: 0,
        };
        let owner = match self.owner {
            Watched::Alive(state) => Ok(Owner::Alive(Process {
                id,
                state,
                threads: 1,
                fds: None,
                cpu_time: Duration::ZERO,
                rss_bytes: None,
            })),
            Watched::Ended => Ok(Owner::Ended),
            Watched::Hidden => Err(ProbeError::Absent {
                what: "process 7".to_owned(),
            }),
        };
        let heartbeat = page
            .as_ref()
            .ok()
            .map(|page| HeartbeatProbe.observe(page, self.now));
        self.judge.poll(&Look {
            at: self.now,
            page,
            heartbeat,
            owner: Some(owner),
            host: self.host,
            link: None,
            sensors: None,
        })
    }

    /// Polls once after `time`.
    fn poll_after(&mut self, time: Duration) -> Option<Transition> {
        self.pass(time);
        let page = Box::new(self.page);
        self.look(Ok(page))
    }

    /// Polls once, after the owner has published so many times, so far apart.
    fn poll_late(&mut self, publications: u32, interval: Duration) {
        for _ in 0..publications {
            self.pass(interval);
        }
        let page = Box::new(self.page);
        self.look(Ok(page));
    }

    /// Polls once, blind to the page.
    fn poll_blind(&mut self, error: ProbeError) {
        self.pass(SECOND);
        self.look(Err(error));
    }

    /// Polls `count` times, on time.
    fn polls(&mut self, count: u32) {
        for _ in 0..count {
            self.poll_after(SECOND);
        }
    }

    fn verdict(&self) -> (State, Cause) {
        let verdict = self.judge.verdict();
        (verdict.state, verdict.cause)
    }

    /// The code of what decided.
    fn code(&self) -> &str {
        &self.judge.verdict().evidence[0].code
    }

    fn has_evidence(&self, code: &str) -> bool {
        let evidence = &self.judge.verdict().evidence;
        evidence.iter().any(|evidence| evidence.code == code)
    }
}

/// A host that is watched, as it is wherever a card is, and where some task waited for CPU in that
/// share of the time.
fn pressed(psi_cpu_some: f64) -> Sample {
    Sample {
        psi_cpu_some: Some(psi_cpu_some),
        ..Sample::QUIET
    }
}

fn torn() -> ProbeError {
    ProbeError::Torn {
        path: "page".into(),
    }
}

fn unreadable(kind: io::ErrorKind) -> ProbeError {
    ProbeError::Unreadable {
        path: "page".into(),
        source: kind.into(),
    }
}

// Beginning

#[test]
fn a_card_is_unknown_until_its_heartbeat_has_been_seen_to_move() {
    let mut scene = Scene::new();
    scene.polls(1);
    assert_eq!(scene.verdict(), (State::Unknown, Cause::Undetermined));
    assert_eq!(scene.code(), "just-started");
    let transition = scene.poll_after(SECOND).unwrap();
    assert_eq!(
        (transition.from, transition.to),
        (State::Unknown, State::Connected)
    );
    assert_eq!(scene.code(), "heartbeat-moving");
}

#[test]
fn a_card_without_a_heartbeat_is_connected_once_a_check_has_passed() {
    let mut scene = Scene::new();
    scene.owner_reads_card = false;
    scene.page.checks.last_result = check_result::NONE.into();
    scene.polls(5);
    assert_eq!(scene.code(), "just-started");
    scene.page.checks.last_result = check_result::PASSED.into();
    scene.polls(1);
    assert_eq!(scene.verdict(), (State::Connected, Cause::None));
}

#[test]
fn a_page_that_was_created_and_not_published_is_unknown() {
    let mut scene = Scene::new();
    scene.owner_publishes = false;
    scene.polls(1);
    assert_eq!(scene.verdict(), (State::Unknown, Cause::Undetermined));
    assert_eq!(scene.code(), "page-empty");
}

#[test]
fn a_card_that_is_being_brought_up_is_unknown() {
    let mut scene = Scene::connected();
    scene.page.card.state = card_state::STARTING.into();
    scene.polls(1);
    assert_eq!(scene.code(), "card-starting");
    assert_eq!(scene.verdict(), (State::Unknown, Cause::Undetermined));
}

#[test]
fn a_card_state_from_the_future_is_unknown_and_not_a_guess() {
    let mut scene = Scene::connected();
    scene.page.card.state = 77.into();
    scene.polls(1);
    assert_eq!(scene.code(), "card-state-undefined");
    assert_eq!(scene.verdict().0, State::Unknown);
}

// The card

#[test]
fn surprise_removal_is_judged_at_the_next_poll() {
    let mut scene = Scene::connected();
    scene.page.card.state = card_state::GONE.into();
    let transition = scene.poll_after(SECOND).unwrap();
    assert_eq!(transition.to, State::Unreachable);
    assert_eq!(transition.cause, Cause::CardAbsent);
    assert_eq!(transition.evidence[0].code, "gone");
    assert_eq!(scene.judge.verdict().since, scene.now);
    assert!(!scene.has_evidence("heartbeat-moving"), "it did, before");
}

#[test]
fn a_heartbeat_that_is_no_longer_read_is_not_said_to_move() {
    let mut scene = Scene::connected();
    scene.owner_reads_card = false;
    scene.polls(2);
    assert!(scene.has_evidence("heartbeat-moving"));
    scene.polls(1);
    assert!(!scene.has_evidence("heartbeat-moving"));
}

#[test]
fn a_frozen_heartbeat_is_the_card_after_three_polls_on_time_and_not_before() {
    let mut scene = Scene::connected();
    scene.card_beats = false;
    scene.polls(2);
    assert_eq!(scene.verdict().0, State::Connected);
    assert!(scene.has_evidence("heartbeat-frozen"), "it is noted before");
    scene.polls(1);
    assert_eq!(scene.verdict(), (State::Unavailable, Cause::Card));
    scene.card_beats = true;
    scene.polls(1);
    assert_eq!(scene.verdict(), (State::Connected, Cause::None));
}

#[test]
fn a_card_that_hung_is_to_blame_until_it_has_work_again() {
    let mut scene = Scene::connected();
    scene.card_beats = false;
    scene.page.breaker.state = breaker_state::OPEN.into();
    scene.page.breaker.opened = 1.into();
    scene.page.breaker.opened_by = padded("timed-out");
    scene.polls(3);
    assert_eq!(scene.code(), "heartbeat-frozen");
    scene.card_beats = true;
    scene.polls(1);
    assert_eq!(scene.code(), "breaker-open");
    assert_eq!(scene.verdict(), (State::Unavailable, Cause::Card));
    // The same another time, when it had not hung.
    scene.page.breaker.state = breaker_state::CLOSED.into();
    scene.polls(1);
    scene.page.breaker.state = breaker_state::OPEN.into();
    scene.polls(1);
    assert_eq!(scene.verdict(), (State::Unavailable, Cause::Undetermined));
}

#[test]
fn a_heartbeat_that_never_moved_is_frozen_too() {
    let mut scene = Scene::new();
    scene.card_beats = false;
    scene.polls(4);
    assert_eq!(scene.verdict(), (State::Unavailable, Cause::Card));
}

#[test]
fn a_slow_heartbeat_is_waited_for() {
    let mut scene = Scene::new();
    scene.card.heartbeat_period_ms = 4_000.into();
    scene.polls(1);
    scene.card_beats = false;
    // Eleven seconds: not three periods of four seconds yet.
    scene.polls(11);
    assert_eq!(scene.verdict().0, State::Unknown);
    scene.polls(1);
    assert_eq!(scene.code(), "heartbeat-frozen");
    assert_eq!(scene.verdict(), (State::Unavailable, Cause::Card));
}

#[test]
fn a_card_cannot_put_its_watcher_to_sleep_with_an_endless_period() {
    let mut scene = Scene::new();
    scene.card.heartbeat_period_ms = u32::MAX.into();
    scene.card_beats = false;
    scene.polls(31);
    assert_eq!(scene.verdict(), (State::Unavailable, Cause::Card));
}

#[test]
fn late_polls_of_our_own_are_never_held_against_the_card() {
    let mut scene = Scene::connected();
    scene.card_beats = false;
    for _ in 0..5 {
        scene.polls(2);
        scene.poll_after(2 * SECOND);
        assert_eq!(scene.verdict().0, State::Connected);
    }
    scene.polls(3);
    assert_eq!(scene.verdict(), (State::Unavailable, Cause::Card));
}

#[test]
fn late_polls_of_our_own_excuse_no_card_whose_owner_was_on_time() {
    let mut scene = Scene::connected();
    scene.card_beats = false;
    scene.poll_late(12, 250 * MS);
    scene.poll_late(12, 250 * MS);
    assert_eq!(scene.verdict().0, State::Connected);
    scene.poll_late(12, 250 * MS);
    assert!(scene.has_evidence("poll-late"));
    assert_eq!(scene.code(), "heartbeat-frozen");
    assert_eq!(scene.verdict(), (State::Unavailable, Cause::Card));
}

#[test]
fn an_owner_that_was_late_now_and_then_or_publishes_seldom_was_not_seen_to_be_on_time() {
    // Who missed two in twelve may have been starved while nobody looked.
    let mut scene = Scene::connected();
    scene.card_beats = false;
    for _ in 0..10 {
        scene.poll_late(10, 300 * MS);
        assert_eq!(scene.verdict().0, State::Connected);
    }
    // And so may who says of itself that it does it seldom.
    let mut scene = Scene::connected();
    scene.page.owner.publish_interval_ns = 1_500_000_000.into();
    scene.card_beats = false;
    for _ in 0..10 {
        scene.poll_late(2, 1500 * MS);
        assert_eq!(scene.verdict().0, State::Connected);
    }
}

#[test]
fn what_a_card_did_not_answer_is_not_excused_by_our_own_lateness_if_its_owner_was_on_time() {
    let is_cleared = |publications, interval| {
        let mut scene = Scene::connected();
        scene.page.checks.last_result = check_result::TIMED_OUT.into();
        scene.poll_late(publications, interval);
        let vetoes = &scene.judge.diagnosis().assessment().vetoes;
        vetoes.contains(&crate::attribution::Veto::CounterMovedOnStarvedHost)
    };
    assert!(!is_cleared(12, 250 * MS));
    assert!(is_cleared(10, 300 * MS));
}

#[test]
fn an_owner_that_does_not_read_the_card_is_not_held_against_the_card() {
    let mut scene = Scene::connected();
    scene.card_beats = false;
    scene.owner_reads_card = false;
    scene.polls(10);
    assert_eq!(scene.code(), "heartbeat-unread");
    assert_eq!(scene.verdict(), (State::Unknown, Cause::Undetermined));
}

#[test]
fn an_engine_that_owes_answers_and_gives_none_is_the_card() {
    let mut scene = Scene::connected();
    scene.card.engines[0].requested = 9.into();
    scene.polls(4);
    assert_eq!(scene.code(), "engine-frozen");
    assert_eq!(scene.verdict(), (State::Unavailable, Cause::Card));
    // One that owes nothing may rest for as long as it likes.
    scene.card.engines[0].responded = 9.into();
    scene.polls(10);
    assert_eq!(scene.verdict(), (State::Connected, Cause::None));
}

#[test]
fn what_a_card_says_of_itself_counts() {
    let mut fatal = Scene::connected();
    fatal.card.controller_status = ControllerStatus::new().with_fatal(true).into_bits().into();
    fatal.polls(1);
    assert_eq!(fatal.code(), "card-fatal");
    assert_eq!(fatal.verdict(), (State::Unavailable, Cause::Card));

    let mut closed = Scene::connected();
    closed.card.critical_warning = CriticalWarning::new().with_fail_closed(true).into_bits();
    closed.polls(1);
    assert_eq!(closed.code(), "card-fail-closed");
}

#[test]
fn a_health_page_that_is_nonsense_is_no_sign_of_life() {
    let mut scene = Scene::connected();
    scene.card.magic = 0xbad.into();
    scene.polls(1);
    assert_eq!(scene.code(), "heartbeat-nonsense");
    assert_eq!(scene.verdict().0, State::Unknown);
}

#[test]
fn a_card_that_needs_a_reset_is_unavailable_and_to_blame_if_it_does_not_come_back() {
    let mut scene = Scene::connected();
    scene.page.card.state = card_state::NEEDS_RESET.into();
    scene.polls(1);
    assert_eq!(scene.code(), "needs-reset");
    assert_eq!(scene.verdict(), (State::Unavailable, Cause::Undetermined));
    scene.page.card.resets_failed = 1.into();
    scene.polls(1);
    assert_eq!(scene.verdict(), (State::Unavailable, Cause::Card));
    // It came back, and is reset another time.
    scene.page.card.state = card_state::READY.into();
    scene.page.card.resets = 1.into();
    scene.polls(1);
    scene.page.card.state = card_state::NEEDS_RESET.into();
    scene.polls(1);
    assert_eq!(scene.code(), "needs-reset");
    assert_eq!(scene.verdict(), (State::Unavailable, Cause::Undetermined));
}

#[test]
fn a_card_that_rebooted_silently_serves_and_is_to_blame() {
    let mut scene = Scene::connected();
    scene.page.card.silent_reboots = 1.into();
    let transition = scene.poll_after(SECOND).unwrap();
    assert!(scene.has_evidence("silent-reboot"));
    assert_eq!(scene.verdict(), (State::Connected, Cause::Card));
    // Why it is to blame comes before that it serves, and once.
    let codes: Vec<_> = transition.evidence.iter().map(|it| &*it.code).collect();
    assert_eq!(codes, ["silent-reboot", "heartbeat-moving"]);
}

#[test]
fn a_failed_check_blames_the_card_unless_the_host_may_have_held_it_up() {
    let table = [
        (check_result::FAILED, "check-failed", Cause::Card),
        (check_result::TIMED_OUT, "timed-out", Cause::Undetermined),
        (check_result::WRONG_ANSWER, "wrong-answer", Cause::Card),
        (check_result::MISBEHAVED, "check-misbehaved", Cause::Card),
        (99, "check-failed", Cause::Undetermined),
    ];
    for (result, code, cause) in table {
        let mut scene = Scene::connected();
        scene.page.checks.last_result = result.into();
        scene.polls(1);
        assert_eq!(scene.code(), code);
        assert_eq!(scene.verdict(), (State::Unavailable, cause), "{code}");
    }
}

#[test]
fn an_open_breaker_blames_whom_its_code_names() {
    let table = [
        ("wrong-answer", Cause::Card),
        ("used-index-jumped", Cause::Card),
        ("ring-stuck", Cause::Undetermined),
        ("gone", Cause::CardAbsent),
        ("timed-out", Cause::Undetermined),
        ("bus-error", Cause::Link),
        ("", Cause::Undetermined),
    ];
    for (opened_by, cause) in table {
        for state in [breaker_state::OPEN, breaker_state::HALF_OPEN] {
            let mut scene = Scene::connected();
            scene.page.breaker.state = state.into();
            scene.page.breaker.opened = 1.into();
            scene.page.breaker.opened_by = padded(opened_by);
            scene.polls(1);
            assert_eq!(scene.code(), "breaker-open");
            assert_eq!(scene.verdict(), (State::Unavailable, cause), "{opened_by}");
        }
    }
}

#[test]
fn a_breaker_that_waits_for_its_first_answer_says_nothing_of_the_card() {
    let mut scene = Scene::connected();
    scene.page.breaker.state = breaker_state::HALF_OPEN.into();
    scene.polls(1);
    assert_eq!(scene.verdict(), (State::Connected, Cause::None));
    // One that has opened before waits for a trial, and the card is to be doubted until then.
    scene.page.breaker.opened = 1.into();
    scene.polls(1);
    assert_eq!(scene.code(), "breaker-open");
}

#[test]
fn a_weaker_finding_tells_the_cause_that_the_stronger_does_not() {
    let mut scene = Scene::connected();
    scene.page.checks.last_result = check_result::TIMED_OUT.into();
    scene.page.breaker.state = breaker_state::OPEN.into();
    scene.page.breaker.opened_by = padded("wrong-answer");
    scene.polls(1);
    assert_eq!(scene.code(), "timed-out");
    assert_eq!(scene.verdict(), (State::Unavailable, Cause::Card));
}

// The owner

#[test]
fn an_owner_that_died_makes_the_card_unreachable_at_the_next_poll() {
    let mut scene = Scene::connected();
    scene.owner = Watched::Ended;
    scene.owner_publishes = false;
    scene.polls(1);
    assert_eq!(scene.code(), "owner-gone");
    assert_eq!(scene.verdict(), (State::Unreachable, Cause::ServiceGone));
}

#[test]
fn an_owner_that_let_go_is_no_fault_even_when_it_has_ended() {
    let mut scene = Scene::connected();
    scene.page.card.state = card_state::RELEASED.into();
    scene.polls(1);
    scene.owner = Watched::Ended;
    scene.owner_publishes = false;
    scene.polls(100);
    assert_eq!(scene.verdict(), (State::Disconnected, Cause::None));
    // Nor is it weighed as one.
    assert!(!scene.has_evidence("owner-gone"));
    let assessment = scene.judge.diagnosis().assessment();
    assert_eq!(assessment.cause, Cause::None, "{assessment:#?}");
}

#[test]
fn a_card_that_was_gone_before_it_was_watched_is_weighed_as_gone_on_a_busy_host_too() {
    let mut scene = Scene::new();
    scene.host = Some(pressed(0.5));
    scene.card_beats = false;
    scene.page.card.state = card_state::GONE.into();
    scene.page.breaker.state = breaker_state::OPEN.into();
    scene.page.breaker.opened_by = padded("not-usable");
    scene.polls(10);
    assert_eq!(scene.verdict(), (State::Unreachable, Cause::CardAbsent));
    // Nobody has read its errors, so it may also be the link; and it is not the host.
    let assessment = scene.judge.diagnosis().assessment();
    let likely = [Cause::CardAbsent, Cause::Link];
    assert!(likely.contains(&assessment.leading), "{assessment:#?}");
    assert_eq!(assessment.cause, Cause::Undetermined, "{assessment:#?}");
}

#[test]
fn a_card_that_is_gone_is_blamed_before_the_owner_that_died_of_it() {
    let mut scene = Scene::connected();
    scene.page.card.state = card_state::GONE.into();
    scene.owner = Watched::Ended;
    scene.polls(1);
    assert_eq!(scene.verdict(), (State::Unreachable, Cause::CardAbsent));
    assert!(scene.has_evidence("owner-gone"));
}

#[test]
fn an_owner_that_cannot_be_seen_is_not_gone_while_it_publishes() {
    let mut scene = Scene::connected();
    scene.owner = Watched::Hidden;
    scene.polls(10);
    assert_eq!(scene.verdict(), (State::Connected, Cause::None));
    scene.owner_publishes = false;
    scene.polls(4);
    assert_eq!(scene.verdict(), (State::Unreachable, Cause::ServiceGone));
}

#[test]
fn an_owner_that_publishes_no_more_is_unknown_while_it_lives() {
    let mut scene = Scene::connected();
    scene.owner_publishes = false;
    scene.polls(3);
    assert_eq!(scene.verdict().0, State::Connected);
    scene.polls(1);
    assert_eq!(scene.code(), "page-stale");
    assert_eq!(scene.verdict(), (State::Unknown, Cause::Undetermined));
}

#[test]
fn an_owner_that_is_stopped_hangs() {
    let mut scene = Scene::connected();
    scene.owner = Watched::Alive('T');
    scene.owner_publishes = false;
    scene.polls(1);
    assert_eq!(scene.code(), "owner-stopped");
    assert_eq!(scene.verdict(), (State::Unknown, Cause::ServiceHang));
}

#[test]
fn a_page_dated_in_the_future_becomes_stale_all_the_same() {
    let mut scene = Scene::connected();
    scene.owner_publishes = false;
    scene.page.owner.published_at_ns = u64::MAX.into();
    scene.polls(5);
    assert_eq!(scene.code(), "page-stale");
}

#[test]
fn an_owner_cannot_state_an_interval_that_never_becomes_stale() {
    let mut scene = Scene::connected();
    scene.page.owner.publish_interval_ns = u64::MAX.into();
    scene.polls(1);
    scene.owner_publishes = false;
    scene.polls(31);
    assert_eq!(scene.code(), "page-stale");
}

// Blindness

#[test]
fn a_page_that_cannot_be_seen_is_unknown_for_the_reason_it_has() {
    let permission = unreadable(io::ErrorKind::PermissionDenied);
    let failing = unreadable(io::ErrorKind::Other);
    let absent = ProbeError::Absent {
        what: "page".to_owned(),
    };
    let nonsense = ProbeError::Nonsense {
        path: "page".into(),
        what: "is no page".to_owned(),
    };
    let table = [
        (permission, "page-unreadable", Cause::Monitor),
        (failing, "page-unreadable", Cause::Undetermined),
        (absent, "page-absent", Cause::Undetermined),
        (nonsense, "page-nonsense", Cause::Undetermined),
    ];
    for (error, code, cause) in table {
        let mut scene = Scene::connected();
        scene.poll_blind(error);
        assert_eq!(scene.code(), code);
        assert_eq!(scene.verdict(), (State::Unknown, cause));
    }
}

#[test]
fn one_torn_page_is_a_coincidence_and_two_are_a_finding() {
    let mut scene = Scene::connected();
    scene.poll_blind(torn());
    assert_eq!(scene.verdict(), (State::Connected, Cause::None));
    scene.polls(1);
    scene.poll_blind(torn());
    assert_eq!(scene.verdict(), (State::Connected, Cause::None));
    scene.poll_blind(torn());
    assert_eq!(scene.verdict(), (State::Unknown, Cause::Undetermined));
}

#[test]
fn an_owner_that_died_while_writing_is_gone_and_not_merely_unreadable() {
    let mut scene = Scene::connected();
    scene.owner = Watched::Ended;
    scene.poll_blind(torn());
    assert_eq!(scene.verdict(), (State::Unreachable, Cause::ServiceGone));
}

// Ourselves

#[test]
fn after_a_pause_of_the_whole_host_nothing_is_blamed() {
    let mut scene = Scene::connected();
    // Everybody stood still, and we are the first to run again.
    scene.owner_publishes = false;
    scene.card_beats = false;
    assert_eq!(scene.poll_after(11 * SECOND), None);
    assert_eq!(scene.code(), "poll-late");
    assert_eq!(scene.verdict(), (State::Connected, Cause::None));
    scene.owner_publishes = true;
    scene.card_beats = true;
    scene.polls(1);
    assert_eq!(scene.verdict(), (State::Connected, Cause::None));
}

#[test]
fn a_monitor_that_was_stopped_before_its_first_poll_says_that_it_was() {
    let first_after = |time| {
        let mut scene = Scene::new();
        scene.host = Some(pressed(0.1));
        scene.poll_after(time);
        scene.judge.diagnosis().assessment().cause
    };
    assert_ne!(first_after(90 * SECOND), Cause::None);
    assert_eq!(first_after(SECOND), Cause::None);
    // Who looks at once was not late for it.
    assert_eq!(first_after(Duration::ZERO), Cause::None);
}

#[test]
fn a_monitor_that_was_stopped_for_as_long_as_twenty_polls_says_so_and_of_a_shorter_pause_nothing() {
    let said_after = |time| {
        let mut scene = on_a_quiet_host();
        scene.poll_after(time);
        scene.verdict()
    };
    assert_eq!(said_after(11 * SECOND), (State::Connected, Cause::None));
    assert_eq!(said_after(59 * SECOND), (State::Connected, Cause::Monitor));
}

#[test]
fn a_late_poll_still_sees_what_is_written_down_for_good() {
    let mut scene = Scene::connected();
    scene.page.card.state = card_state::GONE.into();
    scene.poll_after(11 * SECOND);
    assert_eq!(scene.verdict(), (State::Unreachable, Cause::CardAbsent));
}

#[test]
fn a_late_poll_that_finds_a_newer_page_judges_by_it() {
    let mut scene = Scene::connected();
    scene.owner_publishes = false;
    scene.polls(5);
    assert_eq!(scene.verdict().0, State::Unknown);
    scene.owner_publishes = true;
    scene.poll_after(3 * SECOND);
    assert_eq!(scene.verdict(), (State::Connected, Cause::None));
}

#[test]
fn a_page_is_not_stale_for_having_waited_until_we_came() {
    let mut scene = Scene::connected();
    // Published in time, just before everybody stood still.
    scene.pass(100 * MS);
    scene.owner_publishes = false;
    scene.poll_after(10 * SECOND);
    assert_eq!(scene.verdict(), (State::Connected, Cause::None));
}

#[test]
fn a_monitor_that_is_late_for_a_minute_trusts_itself_no_more() {
    let mut scene = Scene::connected();
    for _ in 0..30 {
        scene.poll_after(2 * SECOND);
        assert_eq!(scene.verdict().0, State::Connected);
    }
    scene.poll_after(2 * SECOND);
    assert_eq!(scene.verdict(), (State::Unknown, Cause::Monitor));
    scene.polls(1);
    assert_eq!(scene.verdict(), (State::Connected, Cause::None));
}

#[test]
fn a_poll_that_is_a_little_late_is_on_time() {
    let mut scene = Scene::connected();
    scene.poll_after(1_790 * MS);
    assert!(!scene.has_evidence("poll-late"));
    scene.poll_after(1_810 * MS);
    assert!(scene.has_evidence("poll-late"));
}

#[test]
fn since_is_when_the_state_began_and_not_when_it_was_last_seen() {
    let mut scene = Scene::connected();
    let since = scene.judge.verdict().since;
    scene.polls(5);
    assert_eq!(scene.judge.verdict().since, since);
    scene.page.checks.last_result = check_result::TIMED_OUT.into();
    let began = scene.poll_after(SECOND).unwrap().at;
    // Another cause is a transition of its own, in a state that goes on.
    scene.page.checks.last_result = check_result::WRONG_ANSWER.into();
    let transition = scene.poll_after(SECOND).unwrap();
    assert_eq!(transition.cause, Cause::Card);
    assert_eq!(scene.judge.verdict().since, began);
}

#[test]
fn names_of_states_and_causes_are_the_same_in_json() {
    for state in State::ALL {
        let json = serde_json::to_value(state).unwrap();
        assert_eq!(json, state.name());
    }
    for cause in Cause::ALL {
        let json = serde_json::to_value(cause).unwrap();
        assert_eq!(json, cause.name());
    }
}

#[test]
fn a_card_that_is_too_hot_is_named_and_what_was_read_long_ago_is_not_weighed_again() {
    let mut scene = Scene::connected();
    scene.host = Some(pressed(0.0));
    scene.card.warning_temperature_k = 358.into();
    scene.card.composite_temperature_k = 357.into();
    scene.polls(2);
    assert_eq!(scene.verdict(), (State::Connected, Cause::None));
    scene.card.composite_temperature_k = 358.into();
    scene.polls(2);
    let assessment = scene.judge.diagnosis().assessment();
    assert_eq!(assessment.cause, Cause::Card, "{assessment:#?}");
    // Nobody reads its health any more, and the page keeps what was read last.
    scene.owner_reads_card = false;
    scene.polls(600);
    let assessment = scene.judge.diagnosis().assessment();
    assert!(assessment.confidence(Cause::Card) < 0.5, "{assessment:#?}");
}

/// A card that paused by itself for ten polls, and what it was asked meanwhile has run out of its time.
fn after_a_pause() -> Scene {
    let mut scene = Scene::connected();
    let status = ControllerStatus::from_bits(scene.card.controller_status.get());
    scene.card.controller_status = status.with_processing_paused(true).into_bits().into();
    scene.polls(10);
    scene.card.controller_status = status.into_bits().into();
    stay_silent(&mut scene);
    scene.polls(1);
    scene
}

/// A breaker opens, and a known-answer test has no answer, now.
fn stay_silent(scene: &mut Scene) {
    let now = scene.now.as_nanos();
    scene.page.breaker.state = breaker_state::OPEN.into();
    scene.page.breaker.opened = 1.into();
    scene.page.breaker.opened_by = padded("timed-out");
    scene.page.breaker.state_since_ns = now.into();
    scene.page.checks.last_result = check_result::TIMED_OUT.into();
    scene.page.checks.last_at_ns = now.into();
}

#[test]
fn a_card_is_not_at_fault_for_what_it_did_not_answer_in_a_pause() {
    let mut scene = after_a_pause();
    scene.polls(30);
    assert_eq!(scene.verdict(), (State::Unavailable, Cause::None));
    let assessment = scene.judge.diagnosis().assessment();
    assert_eq!(assessment.cause, Cause::None, "{assessment:#?}");
}

#[test]
fn a_card_that_does_not_answer_after_its_pause_either_is_suspected() {
    let mut scene = after_a_pause();
    scene.polls(10);
    stay_silent(&mut scene);
    scene.polls(5);
    assert_eq!(scene.verdict(), (State::Unavailable, Cause::Undetermined));
    let assessment = scene.judge.diagnosis().assessment();
    assert!(assessment.confidence(Cause::Card) > 0.5, "{assessment:#?}");
}

#[test]
fn a_pause_in_which_a_card_is_first_looked_at_may_have_begun_at_any_time() {
    let mut scene = Scene::new();
    scene.host = Some(pressed(0.1));
    stay_silent(&mut scene);
    let status = ControllerStatus::from_bits(scene.card.controller_status.get());
    scene.card.controller_status = status.with_processing_paused(true).into_bits().into();
    scene.poll_after(10 * SECOND);
    scene.polls(5);
    scene.card.controller_status = status.into_bits().into();
    scene.polls(5);
    assert_eq!(scene.verdict(), (State::Unavailable, Cause::None));
    assert_eq!(scene.judge.diagnosis().assessment().cause, Cause::None);
}

/// A card that has just been silent, and was read since, but not a whole beat later.
fn just_silent() -> Scene {
    let mut scene = on_a_quiet_host();
    stay_silent(&mut scene);
    scene.poll_after(300 * MS);
    assert_eq!(scene.verdict(), (State::Unavailable, Cause::Undetermined));
    scene
}

#[test]
fn a_card_has_a_beat_to_say_that_it_paused_before_its_silence_is_held_against_it() {
    let mut scene = just_silent();
    let status = ControllerStatus::from_bits(scene.card.controller_status.get());
    scene.card.controller_status = status.with_processing_paused(true).into_bits().into();
    scene.polls(10);
    assert_eq!(scene.verdict(), (State::Unavailable, Cause::None));
    scene.card.controller_status = status.into_bits().into();
    scene.polls(30);
    assert_eq!(scene.verdict(), (State::Unavailable, Cause::None));
    assert_eq!(scene.judge.diagnosis().assessment().cause, Cause::None);
}

#[test]
fn a_card_that_did_not_say_with_its_next_beat_that_it_paused_is_blamed_for_its_silence() {
    let mut scene = just_silent();
    scene.polls(1);
    assert_eq!(scene.verdict(), (State::Unavailable, Cause::Card));
    // Nobody waits for a beat that is not read.
    let mut scene = just_silent();
    scene.owner_reads_card = false;
    scene.polls(1);
    assert_eq!(scene.verdict(), (State::Unavailable, Cause::Card));
}

#[test]
fn a_pause_excuses_silence_only() {
    let mut scene = after_a_pause();
    scene.page.breaker.opened_by = padded("wrong-answer");
    scene.polls(2);
    assert_eq!(scene.verdict(), (State::Unavailable, Cause::Card));
}

#[test]
fn a_starved_host_clears_no_card_that_answered_wrongly_within_a_minute() {
    let is_cleared = |scene: &Scene| {
        let vetoes = &scene.judge.diagnosis().assessment().vetoes;
        vetoes.contains(&crate::attribution::Veto::CounterMovedOnStarvedHost)
    };
    let mut scene = Scene::connected();
    // Each poll is late.
    let late = SECOND * 19 / 10;
    scene.poll_after(late);
    assert!(is_cleared(&scene), "of what came late");
    scene.page.checks.last_result = check_result::WRONG_ANSWER.into();
    scene.poll_after(late);
    assert!(!is_cleared(&scene));
    scene.page.checks.last_result = check_result::PASSED.into();
    for _ in 0..30 {
        scene.poll_after(late);
        assert!(!is_cleared(&scene));
    }
    for _ in 0..5 {
        scene.poll_after(late);
    }
    assert!(is_cleared(&scene), "what it said is long ago");
}

#[test]
fn a_busy_host_clears_no_card_that_stood_still_in_polls_on_time_until_it_has_its_work_again() {
    let mut scene = on_a_quiet_host();
    scene.host = Some(pressed(0.5));
    scene.polls(5);
    scene.card_beats = false;
    scene.page.breaker.state = breaker_state::OPEN.into();
    scene.page.breaker.opened_by = padded("timed-out");
    scene.polls(8);
    let cause = |scene: &Scene| scene.judge.diagnosis().assessment().cause;
    assert_eq!(cause(&scene), Cause::Card);
    // It moves again, and is not used yet.
    scene.card_beats = true;
    for second in 0..40 {
        scene.polls(1);
        assert_eq!(cause(&scene), Cause::Card, "after {second} s");
        let vetoes = &scene.judge.diagnosis().assessment().vetoes;
        assert_eq!(vetoes, &[]);
    }
    scene.page.breaker.state = breaker_state::CLOSED.into();
    scene.polls(40);
    assert_ne!(cause(&scene), Cause::Card);
}

/// Known-answer tests of a card take a millisecond, then a crowd comes and goes, and from then on tests
/// take a tenth of a second and so many of four completions a second are not announced. Returns who was
/// named each second.
fn named_for_slow_tests(unannounced: u64) -> Vec<Cause> {
    let mut scene = on_a_quiet_host();
    scene.page.checked = padded("rsa");
    let mut named = Vec::new();
    for second in 0..60_u64 {
        let is_over = second > 32;
        scene.page.interrupts.completions_due += if second == 30 { 300 } else { 4 };
        scene.page.interrupts.completions_unannounced += if is_over { unannounced } else { 0 };
        if second % 10 == 3 {
            let latency = if is_over { 100 * MS } else { MS };
            scene.page.checks.passed += 1;
            scene.page.checks.last_latency_ns = nanos(latency).into();
        }
        scene.polls(1);
        named.push(scene.verdict().1);
    }
    named
}

#[test]
fn a_card_is_not_slow_in_tests_that_waited_for_interrupts_which_did_not_come() {
    assert!(named_for_slow_tests(0).contains(&Cause::Card));
    let named = named_for_slow_tests(2);
    assert!(!named.contains(&Cause::Card), "{named:?}");
    assert!(named.contains(&Cause::Link), "{named:?}");
}

/// Who is at fault with a card that had forgotten a session when it was looked at first, and was brought
/// up so long before, as often.
fn at_fault_for_a_session_forgotten_before(age: Duration, resets: u64) -> Cause {
    let mut scene = Scene::new();
    scene.host = Some(pressed(0.1));
    scene.page.card.resets = resets.into();
    scene.page.card.state_since_ns = (scene.now.as_nanos() - nanos(age)).into();
    scene.page.sessions_lost = 1.into();
    scene.polls(5);
    scene.verdict().1
}

#[test]
fn what_a_card_forgot_before_it_was_first_looked_at_counts_if_that_cannot_be_long_ago() {
    let at_fault = at_fault_for_a_session_forgotten_before;
    assert_eq!(at_fault(SECOND, 1), Cause::Card);
    assert_eq!(at_fault(60 * SECOND, 1), Cause::Card);
    assert_eq!(at_fault(900 * SECOND, 1), Cause::None);
    // It was reset since, and may have forgotten it at any time before.
    assert_eq!(at_fault(SECOND, 2), Cause::None);
}

#[test]
fn what_an_owner_has_counted_is_not_held_against_what_another_had() {
    let mut scene = on_a_quiet_host();
    scene.page.sessions_lost = 7.into();
    scene.polls(2);
    assert_eq!(scene.verdict().1, Cause::Card);
    // Another owner brings it up, long after.
    scene.polls(1200);
    assert_eq!(scene.verdict().1, Cause::None);
    scene.page.owner.pid = 8.into();
    scene.page.card.resets = 1.into();
    scene.page.card.state_since_ns = scene.now.as_nanos().into();
    scene.page.sessions_lost = 1.into();
    scene.polls(2);
    assert_eq!(scene.verdict().1, Cause::Card);
}

/// Who is at fault with a card on a starved host, and who besides.
fn at_fault_on_a_starved_host(ail: impl Fn(&mut Scene)) -> (Cause, Option<Cause>) {
    let mut scene = on_a_quiet_host();
    scene.host = Some(pressed(0.5));
    ail(&mut scene);
    scene.polls(3);
    let assessment = scene.judge.diagnosis().assessment();
    let besides = assessment.besides.map(|(cause, _)| cause);
    (assessment.cause, besides)
}

#[test]
fn a_starved_host_hides_no_fault_of_a_card_that_no_host_can_bring_about_and_is_named_besides() {
    let both = (Cause::Card, Some(Cause::HostStarvation));
    let hot = |scene: &mut Scene| {
        scene.card.warning_temperature_k = 358.into();
        scene.card.composite_temperature_k = 358.into();
    };
    assert_eq!(at_fault_on_a_starved_host(hot), both);
    let failed = |scene: &mut Scene| scene.page.checks.last_result = check_result::FAILED.into();
    assert_eq!(at_fault_on_a_starved_host(failed), both);
    let rebooted = |scene: &mut Scene| scene.page.card.silent_reboots = 1.into();
    assert_eq!(at_fault_on_a_starved_host(rebooted), both);
    let forgot = |scene: &mut Scene| scene.page.sessions_lost = 1.into();
    assert_eq!(at_fault_on_a_starved_host(forgot), both);
    // What came late is the host's as long as nothing else is known.
    let late = |scene: &mut Scene| scene.page.checks.last_result = check_result::TIMED_OUT.into();
    assert_ne!(at_fault_on_a_starved_host(late).0, Cause::Card);
    let well = |_: &mut Scene| {};
    assert_eq!(
        at_fault_on_a_starved_host(well),
        (Cause::HostStarvation, None)
    );
}

// What is at fault beside a card that serves

/// A card that serves on a host that is well.
fn on_a_quiet_host() -> Scene {
    let mut scene = Scene::new();
    scene.host = Some(pressed(0.1));
    scene.polls(5);
    assert_eq!(scene.verdict(), (State::Connected, Cause::None));
    scene
}

/// Polls once a second on a host that is so, and returns the causes that were said in turn.
fn said_in(scene: &mut Scene, seconds: u32, psi_cpu_some: f64) -> Vec<Cause> {
    scene.host = Some(pressed(psi_cpu_some));
    let polls = (0..seconds).filter_map(|_| scene.poll_after(SECOND));
    polls.map(|transition| transition.cause).collect()
}

#[test]
fn a_host_that_is_busy_now_and_then_is_said_to_be_once() {
    let mut scene = on_a_quiet_host();
    let mut said = Vec::new();
    for _ in 0..100 {
        said.extend(said_in(&mut scene, 2, 0.5));
        said.extend(said_in(&mut scene, 4, 0.1));
    }
    assert_eq!(said, [Cause::HostStarvation]);
    assert_eq!(scene.code(), "host-pressure");
    let detail = &scene.judge.verdict().evidence[0].detail;
    assert_eq!(detail, "pressure; first 9m59s ago, last 4s ago");
    // It is over when it has not been seen for a minute, and not before.
    assert_eq!(said_in(&mut scene, 55, 0.1), []);
    assert_eq!(said_in(&mut scene, 1, 0.1), [Cause::None]);
    assert_eq!(scene.code(), "heartbeat-moving");
}

#[test]
fn a_busy_host_that_comes_back_soon_is_held_for_twice_as_long_and_a_quarter_of_an_hour_at_most() {
    let mut scene = on_a_quiet_host();
    for held_for in [60, 120, 240, 480, 900, 900] {
        assert_eq!(said_in(&mut scene, 1, 0.5), [Cause::HostStarvation]);
        assert_eq!(said_in(&mut scene, held_for - 1, 0.1), []);
        assert_eq!(said_in(&mut scene, 1, 0.1), [Cause::None], "{held_for}");
    }
    // What comes back late is another matter.
    assert_eq!(said_in(&mut scene, 900, 0.1), []);
    assert_eq!(said_in(&mut scene, 1, 0.5), [Cause::HostStarvation]);
    assert_eq!(said_in(&mut scene, 60, 0.1), [Cause::None]);
}

#[test]
fn what_is_wrong_with_a_card_waits_for_no_busy_host_and_is_over_when_it_is() {
    let mut scene = on_a_quiet_host();
    said_in(&mut scene, 1, 0.5);
    scene.card.warning_temperature_k = 358.into();
    scene.card.composite_temperature_k = 358.into();
    // A score of one is forgiven after a clean second, and looked back upon for fifteen.
    let said = said_in(&mut scene, 30, 0.1);
    assert_eq!(said, [Cause::Card]);
    scene.card.composite_temperature_k = 330.into();
    assert_eq!(said_in(&mut scene, 1, 0.1), [Cause::HostStarvation]);
    assert_eq!(said_in(&mut scene, 40, 0.1), [Cause::None]);
    // Nobody holds that a card is at fault.
    scene.card.composite_temperature_k = 358.into();
    assert_eq!(said_in(&mut scene, 3, 0.1), [Cause::Card]);
    scene.card.composite_temperature_k = 330.into();
    assert_eq!(said_in(&mut scene, 1, 0.1), [Cause::None]);
}
