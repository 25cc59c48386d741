//! What becomes an incident, with whom in it, and what of that is on record.

use super::*;
use crate::history::{BootId, Seq};
use crate::status::{CardStatus, HostFigures, Standing, WeighingFigures};
use crate::verdict::{Evidence, State};
use crate::watch::{Settings, Watch};
use std::path::Path;

const CARD: &str = "pci:0000:3b:00.0";

fn at(seconds: u64) -> Stamp {
    Stamp {
        wall: WallTime::from_unix_millis(1_000_000_000).plus(Duration::from_secs(seconds)),
        monotonic: Instant::from_nanos(seconds * 1_000_000_000),
        boot: BootId::of_this_boot(),
    }
}

/// A host with a card whose page cannot be read, and two services.
fn status() -> Status {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("card.telemetry"), "").unwrap();
    let named = |name: &str| {
        let program = crate::probe::Whereabouts::PidFile(format!("/nonexistent/{name}").into());
        crate::services::ServiceSettings::new(name, program)
    };
    let mut watch = Watch::new(Settings {
        services: vec![named("hardserver"), named("web")],
        ..Settings::of(directory.path(), Path::new("/"))
    });
    let mut status = watch.poll(Instant::ORIGIN).status;
    status.cards[0].card = CARD.to_owned();
    becomes(&mut status.cards[0], State::Connected, Cause::None);
    for index in 0..2 {
        is(
            &mut status.services[index],
            Standing::Answers,
            Cause::None,
            &[],
        );
    }
    let host = status.host.as_mut().unwrap();
    (host.cause, host.oom_kills) = (Cause::None, 0);
    host.codes.clear();
    host.evidence.clear();
    status
}

fn evidence(code: &'static str) -> Vec<Evidence> {
    vec![Evidence {
        code: code.into(),
        detail: "why".to_owned(),
    }]
}

fn becomes(card: &mut CardStatus, state: State, cause: Cause) {
    (card.state, card.cause, card.for_seconds) = (state, cause, 0.0);
    card.evidence = evidence("wrong-answer");
    card.codes = vec![16];
}

fn is(service: &mut ServiceStatus, standing: Standing, cause: Cause, codes: &[u8]) {
    (service.standing, service.cause, service.for_seconds) = (standing, cause, 0.0);
    service.evidence = evidence("leak");
    service.codes = codes.to_vec();
}

fn leaks_now(service: &mut ServiceStatus) {
    is(service, Standing::Answers, Cause::ServiceLeak, &[24]);
}

fn is_gone(service: &mut ServiceStatus) {
    is(service, Standing::Gone, Cause::ServiceGone, &[]);
}

fn harmed(service: &mut ServiceStatus, harm: Harm, of: Option<&str>) {
    let of = of.map(str::to_owned);
    service.victim = Some(crate::status::VictimOf { harm, of });
}

fn killed(status: &mut Status, kills: u64) {
    let host: &mut HostFigures = status.host.as_mut().unwrap();
    host.oom_kills = kills;
    host.codes = vec![6];
    host.cause = Cause::Undetermined;
    host.evidence = evidence("oom-kill");
}

struct Case {
    casebook: Casebook,
    drained: BTreeSet<&'static str>,
    second: u64,
}

impl Case {
    /// With nothing on record.
    fn new() -> Self {
        let mut case = Self::unread(0);
        assert_eq!(case.casebook.remember(&Past::default(), at(0)), []);
        case
    }

    /// Begun then, without knowing what is on record.
    fn unread(second: u64) -> Self {
        Self {
            casebook: Casebook::new(at(second)),
            drained: BTreeSet::new(),
            second,
        }
    }

    /// The events of the next poll, by kind.
    fn poll(&mut self, status: &Status) -> Vec<Event> {
        self.second += 1;
        self.casebook.poll(status, &self.drained, at(self.second))
    }

    fn kinds(&mut self, status: &Status) -> String {
        let events = self.poll(status);
        let kinds: Vec<_> = events.iter().map(|event| &*event.kind).collect();
        kinds.join(",")
    }

    fn open(&self) -> Vec<IncidentFigures> {
        let figures = self.casebook.figures(at(self.second).monotonic);
        figures.into_iter().filter(|it| it.open).collect()
    }
}

fn body(event: &Event) -> IncidentBody {
    serde_json::from_str(&event.body).unwrap()
}

fn past(incidents: &[Recorded], changes: &[Recorded]) -> Past {
    Past {
        incidents: incidents.to_vec(),
        changes: changes.to_vec(),
        ..Past::default()
    }
}

fn recorded(event: Event) -> Recorded {
    Recorded {
        seq: Seq(1),
        event,
        prev: [0; 32],
        hash: [0; 32],
    }
}

#[test]
fn what_is_well_drained_or_only_just_unknown_is_no_incident() {
    let mut case = Case::new();
    let mut status = status();
    assert_eq!(case.kinds(&status), "");
    becomes(
        &mut status.cards[0],
        State::Connected,
        Cause::HostStarvation,
    );
    assert_eq!(case.kinds(&status), "", "a busy host is its own matter");
    becomes(&mut status.cards[0], State::Unknown, Cause::Undetermined);
    assert_eq!(case.kinds(&status), "");
    becomes(&mut status.cards[0], State::Unreachable, Cause::CardAbsent);
    status.services[0].card = Some(CARD.to_owned());
    is(
        &mut status.services[0],
        Standing::Silent,
        Cause::ServiceHang,
        &[17],
    );
    case.drained.insert(CARD);
    assert_eq!(case.kinds(&status), "", "nobody is alarmed");
    case.drained.clear();
    assert_eq!(case.kinds(&status), "incident-opened,incident-opened");
    is(&mut status.services[0], Standing::Answers, Cause::None, &[]);
    status.cards[0].state = State::Unknown;
    status.cards[0].cause = Cause::Undetermined;
    status.cards[0].for_seconds = 20.0;
    assert_eq!(case.kinds(&status), "", "it belongs to what is known");
}

#[test]
fn an_incident_is_told_when_it_opens_and_when_it_is_over_and_counted_between() {
    let mut case = Case::new();
    let mut status = status();
    becomes(&mut status.cards[0], State::Unavailable, Cause::Card);
    let opened = case.poll(&status);
    assert_eq!(
        (&*opened[0].kind, &*opened[0].subject),
        (INCIDENT_OPENED, CARD)
    );
    for _ in 0..9 {
        assert_eq!(case.kinds(&status), "");
    }
    let open = case.open();
    assert_eq!(
        (open[0].symptoms[0].times, open[0].symptoms[0].check),
        (10, Some(16))
    );
    assert_eq!(open[0].at_once, "CONTACT_SUPPORT");
    becomes(&mut status.cards[0], State::Connected, Cause::None);
    let mut events = Vec::new();
    for _ in 0..300 {
        events.extend(case.poll(&status));
    }
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].kind, INCIDENT_CLOSED);
    let body = body(&events[0]);
    assert!(!body.figures.open && !body.not_watched);
    assert_eq!(body.figures.lasted_seconds(), 9.0);
    assert!(case.open().is_empty());
    let shown = case.casebook.figures(at(case.second).monotonic);
    assert_eq!(shown.len(), 1, "what was closed last is still shown");
}

#[test]
fn who_went_away_while_another_leaks_is_a_victim_in_the_incident_of_who_leaks() {
    let mut case = Case::new();
    let mut status = status();
    // The victim is seen first, and taken for a culprit.
    is_gone(&mut status.services[1]);
    assert_eq!(case.kinds(&status), "incident-opened");
    assert_eq!(case.open()[0].cause, Cause::ServiceGone);
    leaks_now(&mut status.services[0]);
    harmed(
        &mut status.services[1],
        Harm::CouldNotStart,
        Some("hardserver"),
    );
    case.poll(&status);
    let open = case.open();
    assert_eq!(open.len(), 1, "{open:#?}");
    assert_eq!(open[0].cause, Cause::ServiceLeak);
    assert_eq!(open[0].victims.len(), 1, "told once");
    assert_eq!(
        (&*open[0].victims[0].process, open[0].victims[0].harm),
        ("web", Harm::CouldNotStart)
    );
    assert_eq!(open[0].at_once, "RESTART_APP");
    assert_eq!(case.kinds(&status), "");
}

#[test]
fn processes_that_were_killed_are_victims_and_join_whoever_leaks() {
    let mut case = Case::new();
    let mut status = status();
    killed(&mut status, 2);
    is_gone(&mut status.services[1]);
    harmed(&mut status.services[1], Harm::OomKilled, None);
    assert_eq!(case.kinds(&status), "incident-opened");
    assert_eq!(case.open()[0].cause, Cause::Undetermined);
    leaks_now(&mut status.services[0]);
    assert_eq!(case.kinds(&status), "incident-grew");
    let open = case.open();
    assert_eq!((open.len(), open[0].cause), (1, Cause::ServiceLeak));
    let harms: Vec<_> = open[0]
        .victims
        .iter()
        .map(|it| (&*it.process, it.harm))
        .collect();
    assert_eq!(
        harms,
        [
            ("processes of this host", Harm::OomKilled),
            ("web", Harm::OomKilled)
        ]
    );
}

#[test]
fn who_turns_out_to_have_been_killed_is_blamed_no_more_and_by_whom_may_follow() {
    let mut case = Case::new();
    let mut status = status();
    is_gone(&mut status.services[1]);
    case.poll(&status);
    assert_eq!(case.open()[0].cause, Cause::ServiceGone);
    harmed(&mut status.services[1], Harm::OomKilled, None);
    case.poll(&status);
    assert_eq!(case.open()[0].cause, Cause::Undetermined);
    leaks_now(&mut status.services[0]);
    harmed(&mut status.services[1], Harm::OomKilled, Some("hardserver"));
    case.poll(&status);
    let open = case.open();
    assert_eq!((open.len(), open[0].cause), (1, Cause::ServiceLeak));
    // A leak that nobody is a victim of is an incident by itself.
    let mut case = Case::new();
    is_gone(&mut status.services[1]);
    status.services[1].victim = None;
    case.poll(&status);
    let mut causes: Vec<_> = case.open().iter().map(|it| it.cause.name()).collect();
    causes.sort_unstable();
    assert_eq!(causes, ["service-gone", "service-leak"]);
}

#[test]
fn who_has_used_up_descriptors_is_a_victim_of_its_own_leak() {
    let mut case = Case::new();
    let mut status = status();
    is(
        &mut status.services[0],
        Standing::Answers,
        Cause::ServiceLeak,
        &[6],
    );
    case.poll(&status);
    let open = case.open();
    assert_eq!(open.len(), 1);
    assert_eq!(open[0].victims[0].harm, Harm::NoDescriptors);
    assert_eq!(open[0].symptoms[0].subject, "hardserver");
}

#[test]
fn a_cause_that_turns_out_to_be_another_is_told_and_is_no_second_incident() {
    let mut case = Case::new();
    let mut status = status();
    becomes(&mut status.cards[0], State::Unavailable, Cause::Card);
    case.poll(&status);
    becomes(&mut status.cards[0], State::Unavailable, Cause::Link);
    let events = case.poll(&status);
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].kind, INCIDENT_ATTRIBUTED);
    assert_eq!(body(&events[0]).attributed_before, Some(Cause::Card));
    assert_eq!(case.open().len(), 1);
    assert_eq!(case.open()[0].cause, Cause::Link);
}

#[test]
fn what_was_changed_in_the_day_before_is_told_with_who_did_it() {
    let unlock = lock::Unlock {
        ticket: "CHG1".to_owned(),
        reason: "fan".to_owned(),
        by: "uid=0 pid=7".to_owned(),
        duration: Duration::from_secs(60),
    };
    let firmware = |from: Option<&str>| FirmwareBody {
        from: from.map(str::to_owned),
        to: "2.0".to_owned(),
        expected: false,
    };
    let mut earlier = at(0);
    earlier.boot = "01234567-89ab-cdef-0123-456789abcdef".parse().unwrap();
    earlier.wall = earlier.wall.minus(Duration::from_secs(5 * 3600));
    let mut long_ago = earlier;
    long_ago.wall = long_ago.wall.minus(Duration::from_secs(20 * 3600));
    let changes = [
        Event::new(long_ago, lock::UNLOCK, "monitor", &unlock),
        Event::new(earlier, lock::UNLOCK, "monitor", &unlock),
        Event::new(at(0), FIRMWARE, CARD, &firmware(None)),
        Event::new(at(0), FIRMWARE, CARD, &firmware(Some("1.0"))),
    ];
    let changes = changes.map(recorded);
    let mut case = Case::new();
    let events = case.casebook.remember(&past(&[], &changes), at(0));
    assert!(events.is_empty(), "{events:?}");
    let mut status = status();
    becomes(&mut status.cards[0], State::Unavailable, Cause::Card);
    let events = case.poll(&status);
    let told = body(&events[0]).figures.changes;
    assert_eq!(told.len(), 2, "{told:#?}");
    assert_eq!(told[0].who, "uid=0 pid=7");
    assert!(told[0].what.contains("CHG1"), "{told:#?}");
    assert_eq!(told[0].seconds_ago.round(), 5.0 * 3600.0 + 1.0);
    assert!(
        told[1].what.contains("1.0 -> 2.0, in no change window"),
        "{told:#?}"
    );
}

#[test]
fn numbers_go_on_after_those_on_record_and_what_nobody_saw_the_end_of_is_closed() {
    let mut case = Case::new();
    let mut status = status();
    becomes(&mut status.cards[0], State::Unavailable, Cause::Card);
    let opened = recorded(case.poll(&status).remove(0));
    let mut case = Case::unread(3_600);
    let begun = past(std::slice::from_ref(&opened), &[]);
    let events = case.casebook.remember(&begun, at(3_600));
    assert_eq!(events.len(), 1);
    let end = body(&events[0]);
    assert!(end.not_watched && !end.figures.open);
    assert_eq!(end.figures.began_seconds_ago, 3_599.0);
    let shown = on_record(&[recorded(events[0].clone()), opened], at(7_200).wall);
    assert_eq!(shown.len(), 1);
    assert_eq!(shown[0].began_seconds_ago, 7_199.0);
    let opened = case.poll(&status);
    assert_eq!(body(&opened[0]).figures.incident, end.figures.incident + 1);
}

#[test]
fn a_qat_card_whose_firmware_gives_no_sign_of_life_is_an_incident_of_that_card() {
    let card: crate::status::QatFigures = serde_json::from_value(serde_json::json!({
        "card": "pci:0000:6b:00.0", "module": "qat_4xxx", "responds": false, "cause": "card",
        "evidence": [{"code": "heartbeat-frozen", "detail": "no sign of life for 3 s"}],
        "codes": [18], "advice": [],
    }))
    .unwrap();
    let mut status = status();
    let mut case = Case::new();
    let mut well = card.clone();
    well.function.cause = Cause::None;
    status.qat = vec![well];
    assert_eq!(case.poll(&status), []);
    status.qat = vec![card];
    let opened = case.poll(&status);
    assert_eq!(opened.len(), 1, "{opened:?}");
    assert_eq!(
        (&*opened[0].kind, &*opened[0].subject),
        (INCIDENT_OPENED, "pci:0000:6b:00.0")
    );
    let figures = body(&opened[0]).figures;
    assert_eq!(figures.cause, Cause::Card);
    let symptom = &figures.symptoms[0];
    assert_eq!(
        (&*symptom.code, symptom.check),
        ("heartbeat-frozen", Some(18))
    );
    assert_eq!(case.poll(&status), [], "it goes on");
    case.drained.insert("pci:0000:6b:00.0");
    case.second += 400;
    let closed = case.poll(&status);
    assert_eq!(closed[0].kind, INCIDENT_CLOSED, "{closed:?}");
}

#[test]
fn a_record_that_is_read_late_is_gone_on_from_and_no_number_is_given_twice() {
    let mut case = Case::new();
    let mut status = status();
    becomes(&mut status.cards[0], State::Unavailable, Cause::Card);
    let before = recorded(case.poll(&status).remove(0));
    let change = Event::new(at(3_000), OWNER_CHANGED, CARD, &"");
    let mut late = Case::unread(3_600);
    let unread = late.poll(&status);
    let number = body(&unread[0]).figures.incident;
    assert!(number >= NUMBERED_BY_TIME, "{number}");
    let (begun, changes) = ([before], [recorded(change)]);
    let ended = late.casebook.remember(&past(&begun, &changes), at(3_602));
    assert_eq!(body(&ended[0]).figures.incident, 1);
    // What is open keeps its number, and has what was changed before.
    let shown = late.casebook.figures(at(3_602).monotonic);
    assert_eq!((shown.len(), shown[0].incident), (1, number));
    assert_eq!(shown[0].changes.len(), 1, "{shown:?}");
    let mut next = recorded(unread[0].clone());
    next.event.kind = INCIDENT_CLOSED.into();
    let mut again = Case::unread(7_200);
    let on_record = [begun[0].clone(), next];
    let _ = again.casebook.remember(&past(&on_record, &[]), at(7_200));
    let opened = again.poll(&status);
    assert_eq!(body(&opened[0]).figures.incident, 2);
}

#[test]
fn no_number_is_given_twice_where_all_that_is_looked_through_was_numbered_by_time() {
    let mut status = status();
    becomes(&mut status.cards[0], State::Unavailable, Cause::Card);
    let opened = recorded(Case::new().poll(&status).remove(0));
    let numbered = |number: u64, kind: &'static str| {
        let mut body = body(&opened.event);
        body.figures.incident = number;
        recorded(Event::new(at(1), kind, CARD, &body))
    };
    let of_pairs = |first: u64| {
        let pairs = (0..128).map(move |more| first + more);
        pairs.flat_map(|number| {
            [INCIDENT_OPENED, INCIDENT_CLOSED].map(|kind| numbered(number, kind))
        })
    };
    let number_after_some = |record: Vec<Recorded>, unknown_until| {
        let mut case = Case::unread(3_600);
        let past = Past {
            unknown_until,
            ..past(&record, &[])
        };
        let _ = case.casebook.remember(&past, at(3_600));
        body(&case.poll(&status)[0]).figures.incident
    };
    let number_after = |record| number_after_some(record, None);
    // Those that were counted are further back than is looked.
    let by_time = NUMBERED_BY_TIME + 7_000;
    assert_eq!(number_after(of_pairs(by_time).collect()), by_time + 128);
    // As is an end of one that is much older than the rest.
    let mut late: Vec<_> = of_pairs(by_time).collect();
    late[1] = numbered(5, INCIDENT_CLOSED);
    assert_eq!(number_after(late), by_time + 128);
    let mut counted: Vec<_> = of_pairs(by_time).collect();
    counted[200] = numbered(9, INCIDENT_OPENED);
    assert_eq!(number_after(counted), 10);
    assert_eq!(number_after(of_pairs(by_time).take(200).collect()), 1);
    // Of an archive that is elsewhere nobody knows which are in it, unless one was counted since.
    let one = vec![numbered(9, INCIDENT_OPENED)];
    let (before, since) = (Some(Seq(0)), Some(one[0].seq));
    assert_eq!(number_after_some(one.clone(), before), 10);
    for record in [one, Vec::new()] {
        assert!(number_after_some(record, since) >= NUMBERED_BY_TIME);
    }
}

#[test]
fn whatever_others_say_an_incident_fits_into_an_event() {
    let mut case = Case::new();
    let mut status = status();
    let long = "\u{1}é".repeat(10_000);
    let mut services = Vec::new();
    for index in 0..80 {
        let mut service = status.services[0].clone();
        service.service = format!("{index}{long}");
        is(&mut service, Standing::Answers, Cause::ServiceLeak, &[6]);
        service.evidence = vec![Evidence {
            code: long.clone().into(),
            detail: long.clone(),
        }];
        services.push(service);
    }
    status.services = services;
    for index in 0..40 {
        let change = lock::Change {
            by: format!("{index}{long}"),
            action: long.clone(),
            subject: CARD.to_owned(),
            old: Some(long.clone()),
            new: None,
        };
        let event = Event::new(at(0), lock::CHANGE, CARD, &change);
        case.casebook.changed(&event, at(0));
    }
    for event in case.poll(&status) {
        assert!(
            event.body.len() <= Event::BODY_LEN_MAX,
            "{}",
            event.body.len()
        );
        assert!(event.subject.len() <= Event::SUBJECT_LEN_MAX);
    }
}

/// What was weighed, and seen so long ago.
fn weighed(code: &'static str, seconds_ago: f64) -> WeighingFigures {
    WeighingFigures {
        code: code.into(),
        seen: true,
        detail: "why".to_owned(),
        seconds_ago,
        weights: [(Cause::CardAbsent, 1.5)].into(),
    }
}

#[test]
fn each_symptom_has_the_check_that_fails_by_it_and_all_of_a_poll_are_told_once() {
    let mut case = Case::new();
    let mut status = status();
    let card = &mut status.cards[0];
    becomes(card, State::Unreachable, Cause::CardAbsent);
    card.evidence = evidence("gone");
    card.codes = vec![16, 19];
    let assessment = card.assessment.as_mut().unwrap();
    assessment.evidence = vec![
        weighed("led-fault", 2.0),
        // That it answered wrongly in the last hour is no news of its absence.
        weighed("wrong-answer", 1_200.0),
        weighed("config-all-ones", 0.0),
    ];
    assert_eq!(case.kinds(&status), "incident-opened");
    let open = case.open();
    let symptoms = open[0].symptoms.iter();
    let symptoms: Vec<_> = symptoms.map(|it| (&*it.code, it.check)).collect();
    // What no sight of this poll tells of goes with the first.
    assert_eq!(symptoms, [("gone", Some(16)), ("led-fault", Some(19))]);
    status.cards[0].codes = vec![19, 20];
    let assessment = status.cards[0].assessment.as_mut().unwrap();
    assessment.evidence.push(weighed("degraded-link", 0.0));
    assert_eq!(case.kinds(&status), "incident-grew");
    assert_eq!(case.open()[0].symptoms[2].check, Some(20));
}

#[test]
fn a_service_that_leaks_and_does_not_answer_has_both_for_symptoms() {
    let mut case = Case::new();
    let mut status = status();
    let service = &mut status.services[0];
    is(service, Standing::Silent, Cause::ServiceHang, &[17, 24]);
    service.evidence = [evidence("no-answer"), evidence("quota"), evidence("leak")].concat();
    assert_eq!(case.kinds(&status), "incident-opened");
    let open = case.open();
    let symptoms = open[0].symptoms.iter();
    let symptoms: Vec<_> = symptoms.map(|it| (&*it.code, it.check)).collect();
    assert_eq!(symptoms, [("no-answer", Some(17)), ("leak", Some(24))]);
}

#[test]
fn what_a_link_had_long_ago_is_no_symptom_of_now_though_it_is_at_fault_still() {
    let mut status = status();
    let mut link = weighed("aer", 5.0);
    link.weights = [(Cause::Link, 1.5)].into();
    let card = &mut status.cards[0];
    becomes(card, State::Connected, Cause::Link);
    (card.evidence, card.codes) = (evidence("aer"), vec![21]);
    card.evidence.extend(evidence("noted"));
    card.assessment.as_mut().unwrap().evidence = vec![link];
    let card = card.clone();
    let function = crate::status::FunctionFigures {
        card: card.card.clone(),
        driver: None,
        cause: card.cause,
        drained: None,
        evidence: card.evidence.clone(),
        codes: card.codes.clone(),
        advice: Vec::new(),
        link: None,
        sensors: Vec::new(),
        warnings: Vec::new(),
        assessment: card.assessment.clone(),
    };
    for (seconds_ago, symptoms) in [(5.0, Some(1)), (61.0, None)] {
        let (mut card, mut function) = (card.clone(), function.clone());
        for assessment in [&mut card.assessment, &mut function.assessment] {
            assessment.as_mut().unwrap().evidence[0].seconds_ago = seconds_ago;
        }
        let of_card = symptoms::of_card(&card, Instant::ORIGIN);
        let of_function = symptoms::of_function(&function, Instant::ORIGIN);
        assert_eq!(of_card.map(|it| it.symptoms.len()), symptoms);
        assert_eq!(of_function.map(|it| it.symptoms.len()), symptoms);
    }
}
