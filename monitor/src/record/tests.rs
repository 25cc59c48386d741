//! Which changes are on record, and how loudly.

use super::*;
use crate::history::{BootId, WallTime};
use crate::status::{ProbeErrorCount, SCHEMA};
use crate::watch::{Settings, Watch};
use std::path::Path;

const CARD: &str = "pci:0000:3b:00.0";

fn at(seconds: u64) -> Stamp {
    Stamp {
        wall: WallTime::from_unix_millis(1_000_000).plus(Duration::from_secs(seconds)),
        monotonic: Instant::from_nanos(seconds * 1_000_000_000),
        boot: BootId::of_this_boot(),
    }
}

/// A recorder on a host of which nothing can be seen but our own lateness.
fn recorder() -> Recorder {
    let host = HostWatch::new(Duration::from_secs(1), Instant::ORIGIN);
    let mut recorder = Recorder::new(host, Vec::new(), at(0));
    assert_eq!(recorder.remember(&Past::default(), at(0)), []);
    recorder
}

const NONE: BTreeMap<String, Drained> = BTreeMap::new();

/// Of transitions, blindness and time: the host that runs this test may have trouble of its own.
fn recorded_of(
    recorder: &mut Recorder,
    poll: &mut Poll,
    late: Duration,
    drained: &BTreeMap<String, Drained>,
    now: Stamp,
) -> Vec<Event> {
    let beside = Beside {
        late,
        drained,
        window: false,
        history: None,
        history_codes: &[],
        orders: &[],
    };
    let mut events = recorder.poll(poll, &beside, now);
    events.retain(|event| !event.kind.starts_with("incident-"));
    events
}

fn drained() -> BTreeMap<String, Drained> {
    let order = Drained {
        event: Seq(3),
        by: "uid=0 pid=7".to_owned(),
        since: at(0),
    };
    BTreeMap::from([(CARD.to_owned(), order)])
}

fn poll() -> Poll {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("card.telemetry"), "").unwrap();
    let mut watch = Watch::new(Settings::of(directory.path(), Path::new("/")));
    let mut poll = watch.poll(Instant::ORIGIN);
    assert_eq!(poll.status.schema, SCHEMA);
    poll.status.cards[0].card = CARD.to_owned();
    poll.status.cards[0].probe_errors.clear();
    poll.status.host = None;
    poll.transitions.clear();
    poll
}

fn with_errors(count: u64) -> Poll {
    let mut poll = poll();
    poll.status.cards[0].probe_errors = vec![ProbeErrorCount {
        probe: "page".to_owned(),
        kind: "torn".to_owned(),
        count,
    }];
    poll
}

fn transition(to: State, detail: &str) -> Poll {
    let mut poll = poll();
    let transition = Transition {
        at: Instant::ORIGIN,
        from: State::Connected,
        to,
        cause: Cause::Card,
        evidence: vec![
            Evidence {
                code: "gone".into(),
                detail: detail.to_owned(),
            };
            40
        ],
    };
    poll.transitions = vec![(CARD.to_owned(), transition)];
    poll
}

fn kinds(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| &*event.kind).collect()
}

#[test]
fn a_transition_is_as_loud_as_what_it_leads_to_and_quiet_if_the_card_is_drained() {
    let drained = drained();
    for (to, severity) in [
        (State::Unavailable, Severity::Alert),
        (State::Unreachable, Severity::Alert),
        (State::Unknown, Severity::Warning),
        (State::Connected, Severity::Notice),
    ] {
        let mut poll = transition(to, "why");
        let event = &recorded_of(&mut recorder(), &mut poll, Duration::ZERO, &NONE, at(1))[0];
        assert_eq!((&*event.kind, event.severity), (TRANSITION, severity));
        assert_eq!(event.subject, CARD);
        let quiet = &recorded_of(&mut recorder(), &mut poll, Duration::ZERO, &drained, at(1))[0];
        assert_eq!(quiet.severity, Severity::Notice);
        let body: TransitionBody = serde_json::from_str(&quiet.body).unwrap();
        assert_eq!((body.to, body.cause, body.drained), (to, Cause::Card, true));
    }
}

#[test]
fn whatever_a_page_says_fits_into_an_event() {
    let detail = "\u{1}é".repeat(100_000);
    let mut poll = transition(State::Unavailable, &detail);
    poll.transitions[0].0 = "é".repeat(1_000);
    let events = recorded_of(&mut recorder(), &mut poll, Duration::ZERO, &NONE, at(1));
    assert!(events[0].body.len() <= Event::BODY_LEN_MAX);
    assert!(events[0].subject.len() <= Event::SUBJECT_LEN_MAX);
}

#[test]
fn blindness_is_told_once_it_lasts_and_once_it_ends() {
    let mut recorder = recorder();
    let mut told = |mut poll: Poll, second| {
        let zero = Duration::ZERO;
        let events = recorded_of(&mut recorder, &mut poll, zero, &NONE, at(second));
        kinds(&events).join(",")
    };
    // Torn once is being written.
    assert_eq!(told(with_errors(1), 1), "");
    assert_eq!(told(with_errors(1), 2), "");
    assert_eq!(told(with_errors(2), 3), "");
    assert_eq!(told(with_errors(3), 4), BLIND);
    assert_eq!(told(with_errors(4), 5), "");
    assert_eq!(told(with_errors(4), 6), SEES_AGAIN);
    assert_eq!(told(with_errors(4), 7), "");
}

#[test]
fn a_calendar_that_is_set_is_told_before_what_follows_it() {
    let mut recorder = recorder();
    let mut later = at(1);
    later.wall = later.wall.plus(Duration::from_secs(3_600));
    let mut poll = transition(State::Unavailable, "why");
    let events = recorded_of(&mut recorder, &mut poll, Duration::ZERO, &NONE, later);
    assert_eq!(kinds(&events), [CLOCK_STEP, TRANSITION]);
    assert_eq!(events[0].body, r#"{"seconds":3600.0}"#);
}

#[test]
fn a_time_of_starvation_is_one_event_however_many_polls_were_late() {
    let mut recorder = recorder();
    let mut events = Vec::new();
    for second in 1..40 {
        let late = if (5..9).contains(&second) { 2_000 } else { 0 };
        let late = Duration::from_millis(late);
        events.extend(recorded_of(
            &mut recorder,
            &mut poll(),
            late,
            &NONE,
            at(second),
        ));
    }
    assert_eq!(kinds(&events), [HOST_STARVED]);
    let body: StarvedBody = serde_json::from_str(&events[0].body).unwrap();
    assert_eq!((body.seconds, body.ended_seconds_ago), (4.0, 10.0));
    assert_eq!(body.tick_late_seconds_max, 2.0);
    assert_eq!(body.signs, ["own-lateness"]);
}

#[test]
fn starvation_without_an_end_is_told_at_growing_intervals() {
    let mut recorder = recorder();
    let mut events = Vec::new();
    for second in 1..1_000 {
        let late = Duration::from_secs(1);
        events.extend(recorded_of(
            &mut recorder,
            &mut poll(),
            late,
            &NONE,
            at(second),
        ));
    }
    assert_eq!(events.len(), 5, "at 60, 120, 240, 480 and 960 seconds");
    assert_eq!(kinds(&recorder.end(7, at(1_000))), [HOST_STARVED, STOP]);
}

#[test]
fn a_run_after_one_that_did_not_stop_begins_with_a_warning() {
    let body = |previous_was_stopped| StartBody {
        version: String::new(),
        pid: 1,
        interval_seconds: 1.0,
        telemetry: String::new(),
        previous_was_stopped,
        drill_service_time: None,
    };
    let severity = |previous| started(&body(previous), at(0)).severity;
    assert_eq!(severity(Some(false)), Severity::Warning);
    assert_eq!(severity(Some(true)), Severity::Notice);
    assert_eq!(severity(None), Severity::Notice);
}

#[test]
fn what_becomes_of_the_host_is_on_record_with_its_cause() {
    let mut recorder = recorder();
    let mut told = |cause: Cause, kills: u64, second: u64| {
        let mut poll = host_poll(cause, kills);
        recorded_of(&mut recorder, &mut poll, Duration::ZERO, &NONE, at(second))
    };
    assert_eq!(kinds(&told(Cause::None, 0, 1)), [""; 0]);
    let events = told(Cause::HostStarvation, 3, 2);
    assert_eq!(kinds(&events), [OOM_KILL, HOST_TRANSITION]);
    assert_eq!(
        (events[0].severity, events[1].severity),
        (Severity::Alert, Severity::Warning)
    );
    let killed: OomKillBody = serde_json::from_str(&events[0].body).unwrap();
    assert_eq!((killed.killed, killed.since_watched), (3, 3));
    let body: HostTransitionBody = serde_json::from_str(&events[1].body).unwrap();
    assert_eq!((body.from, body.to), (Cause::None, Cause::HostStarvation));
    assert_eq!(body.evidence[0].code, "host-starved");
    assert_eq!(kinds(&told(Cause::HostStarvation, 3, 3)), [""; 0]);
    assert_eq!(kinds(&told(Cause::None, 3, 4)), [HOST_TRANSITION]);
}

/// Whatever is another than on record, and of what.
#[test]
fn a_configuration_a_monitor_and_a_service_that_are_another_are_on_record_and_told_as_changes() {
    let run = |monitor: &str, text: &str, service: &str, past: &Past| {
        let host = HostWatch::new(Duration::from_secs(1), Instant::ORIGIN);
        let installed = vec![
            Installed::new("monitor", "version", monitor),
            Installed::file("monitor", "configuration", text.as_bytes()),
        ];
        let mut recorder = Recorder::new(host, installed, at(0));
        assert_eq!(recorder.remember(past, at(0)), []);
        let mut software = Vec::new();
        for second in 1..4 {
            let mut poll = served();
            poll.status.services[0].version = Some(service.to_owned());
            let events = recorded_of(&mut recorder, &mut poll, Duration::ZERO, &NONE, at(second));
            software.extend(events.into_iter().filter(|event| event.kind == SOFTWARE));
        }
        (software, Arc::clone(recorder.recent_changes()))
    };
    let (first, _) = run("0.1.0", "[watch]", "12.40", &Past::default());
    let of = |event: &Event| {
        let body: SoftwareBody = serde_json::from_str(&event.body).unwrap();
        (event.subject.to_string(), body)
    };
    let named: Vec<_> = first.iter().map(of).collect();
    let named: Vec<_> = named.iter().map(|(of, it)| (&**of, &*it.what)).collect();
    let all = [
        ("monitor", "version"),
        ("monitor", "configuration"),
        ("web", "version"),
    ];
    assert_eq!(named, all);
    let recorded = |event: &Event| Recorded {
        seq: Seq(1),
        event: event.clone(),
        prev: [0; 32],
        hash: [0; 32],
    };
    let past = Past {
        software: first.iter().map(recorded).collect(),
        ..Past::default()
    };
    let (same, quiet) = run("0.1.0", "[watch]", "12.40", &past);
    assert_eq!(same, []);
    for (index, (monitor, text, service)) in [
        ("0.2.0", "[watch]", "12.40"),
        ("0.1.0", "[watch] ", "12.40"),
        ("0.1.0", "[watch]", "12.60"),
    ]
    .into_iter()
    .enumerate()
    {
        let (events, told) = run(monitor, text, service, &past);
        assert_eq!(events.len(), 1, "{events:?}");
        let (subject, body) = of(&events[0]);
        assert_eq!((&*subject, &*body.what), all[index]);
        assert_eq!(body.from, Some(of(&first[index]).1.to));
        assert_ne!(told, quiet, "it is evidence");
    }
}

/// A host with a service.
fn served() -> Poll {
    let directory = tempfile::tempdir().unwrap();
    let process = crate::probe::Whereabouts::PidFile("/nonexistent/web".into());
    let mut watch = Watch::new(Settings {
        services: vec![crate::services::ServiceSettings::new("web", process)],
        ..Settings::of(directory.path(), directory.path())
    });
    watch.poll(Instant::ORIGIN)
}

#[test]
fn a_history_that_cannot_be_written_is_a_failed_check_of_the_host() {
    let host_with = |kept, trouble: &str, codes: &[u8], cause| {
        let mut recorder = recorder();
        let mut poll = host_poll(cause, 0);
        let history = HistoryFigures {
            kept,
            lost: 0,
            troubles: vec![trouble.to_owned()],
            ..HistoryFigures::default()
        };
        let beside = Beside {
            late: Duration::ZERO,
            drained: &NONE,
            window: false,
            history: Some(&history),
            history_codes: codes,
            orders: &[],
        };
        recorder.poll(&mut poll, &beside, at(1));
        poll.status.host.unwrap()
    };
    let host = host_with(false, "there is no space left", &[3], Cause::None);
    assert_eq!((host.cause, host.codes), (Cause::Configuration, vec![3]));
    assert_eq!(host.advice[0].code, 3);
    assert_eq!(host.evidence[0].detail, "there is no space left");
    // One that another has, or that is damaged, has no code, and fails as well.
    let host = host_with(false, "is in use", &[], Cause::None);
    assert_eq!((host.cause, &*host.codes), (Cause::Configuration, &[][..]));
    assert_eq!(host.evidence[0].code, "history-not-kept");
    let host = host_with(false, "is in use", &[], Cause::HostStarvation);
    assert_eq!(host.cause, Cause::HostStarvation);
    assert_eq!(host.evidence[1].detail, "is in use");
    let host = host_with(true, "anchors: not told", &[], Cause::None);
    assert_eq!((host.cause, host.evidence.len()), (Cause::None, 1));
}

fn host_poll(cause: Cause, oom_kills: u64) -> Poll {
    let mut poll = poll();
    poll.status.host = Some(crate::status::HostFigures {
        memory_total_bytes: None,
        memory_available_bytes: Some(7),
        memory_unaccounted_bytes: None,
        driver_pages: None,
        oom_kills,
        cause,
        for_seconds: 0.0,
        starvation: Some(0),
        evidence: vec![Evidence {
            code: "host-starved".into(),
            detail: String::new(),
        }],
        codes: Vec::new(),
        advice: Vec::new(),
    });
    poll
}

#[test]
fn a_warning_is_on_record_when_it_begins_and_when_it_is_over() {
    let warned = |detail: &str| {
        let mut poll = poll();
        poll.status.cards[0].warnings = vec![Evidence {
            code: "sensor-past-limit".into(),
            detail: detail.to_owned(),
        }];
        poll
    };
    for (drained, severity) in [(NONE, Severity::Warning), (drained(), Severity::Notice)] {
        let mut recorder = recorder();
        let mut record = |mut poll: Poll, seconds| {
            recorded_of(
                &mut recorder,
                &mut poll,
                Duration::ZERO,
                &drained,
                at(seconds),
            )
        };
        let begins = record(warned("core reads 96 C"), 1);
        assert_eq!(kinds(&begins), [WARNING]);
        assert_eq!((&*begins[0].subject, begins[0].severity), (CARD, severity));
        let body: WarningBody = serde_json::from_str(&begins[0].body).unwrap();
        assert_eq!(body.detail.as_deref(), Some("core reads 96 C"));
        assert_eq!(record(warned("core reads 97 C"), 2), []);
        let over = record(poll(), 5);
        assert_eq!(kinds(&over), [WARNING_OVER]);
        let body: WarningBody = serde_json::from_str(&over[0].body).unwrap();
        assert_eq!(
            (&*body.code, body.seconds),
            ("sensor-past-limit", Some(4.0))
        );
        assert_eq!(record(poll(), 6), []);
    }
}

#[test]
fn a_driver_a_service_or_a_kernel_that_is_another_is_on_record_and_told_as_a_change() {
    let host = HostWatch::new(Duration::from_secs(1), Instant::ORIGIN);
    let kernel = |version| vec![Installed::new("host", "kernel", version)];
    let mut recorder = Recorder::new(host, kernel("6.1\n"), at(0));
    let told = |recorder: &mut Recorder, driver: &str, second: u64| {
        let mut poll = poll();
        poll.status.cards[0].driver = Some(driver.to_owned());
        let events = recorded_of(recorder, &mut poll, Duration::ZERO, &NONE, at(second));
        let bodies = events.iter().filter(|event| event.kind == SOFTWARE);
        bodies
            .map(|it| (it.clone(), serde_json::from_str(&it.body).unwrap()))
            .collect::<Vec<(Event, SoftwareBody)>>()
    };
    let first = told(&mut recorder, "vfio-pci 1", 1);
    let of = |it: &(Event, SoftwareBody)| (it.0.subject.clone(), it.1.to.clone());
    assert_eq!(
        first.iter().map(of).collect::<Vec<_>>(),
        [
            ("host".to_owned(), "6.1".to_owned()),
            (CARD.to_owned(), "vfio-pci 1".to_owned())
        ]
    );
    let quiet = Arc::clone(recorder.recent_changes());
    assert!(told(&mut recorder, "vfio-pci 2", 2).is_empty());
    let second = told(&mut recorder, "vfio-pci 2", 3);
    assert_eq!(second[0].1.from.as_deref(), Some("vfio-pci 1"));
    assert!(!second[0].1.expected);
    assert_ne!(quiet, *recorder.recent_changes());
    // Another run on another kernel, which has the record.
    let seq = Seq(1);
    let recorded = |(event, _): &(Event, SoftwareBody)| Recorded {
        seq,
        event: event.clone(),
        prev: [0; 32],
        hash: [0; 32],
    };
    let past = Past {
        software: first.iter().chain(&second).map(recorded).collect(),
        ..Past::default()
    };
    let host = HostWatch::new(Duration::from_secs(1), Instant::ORIGIN);
    let mut recorder = Recorder::new(host, kernel("6.2"), at(9));
    assert_eq!(recorder.remember(&past, at(9)), []);
    assert!(told(&mut recorder, "vfio-pci 2", 10).is_empty());
    let third = told(&mut recorder, "vfio-pci 2", 11);
    assert_eq!(third.len(), 1);
    assert_eq!(third[0].1.what, "kernel");
    assert_eq!(third[0].1.from.as_deref(), Some("6.1"));
}
