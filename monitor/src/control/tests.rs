//! Nothing is done that is not on record, and nothing is changed while locked.

use super::*;
use crate::history::{BootId, WallTime};
use hwshim::clock::Instant;

const CARD: &str = "pci:0000:3b:00.0";
const ALICE: Peer = Peer { uid: 1000, pid: 71 };

fn at(seconds: u64) -> Stamp {
    Stamp {
        wall: WallTime::from_unix_millis(1_000_000).plus(Duration::from_secs(seconds)),
        monotonic: Instant::from_nanos(seconds * 1_000_000_000),
        boot: BootId::of_this_boot(),
    }
}

fn desk() -> Desk {
    let mut desk = Desk::new(Settings::default(), &[], 0);
    desk.watched([CARD].into_iter());
    desk
}

fn order(line: &str) -> Order {
    serde_json::from_str(line).unwrap()
}

fn unlock() -> Order {
    order(r#"{"unlock": {"ticket": "CHG1", "reason": "firmware", "seconds": 1800}}"#)
}

fn drain() -> Order {
    Order::Drain {
        card: CARD.to_owned(),
    }
}

#[test]
fn a_change_while_locked_is_refused_and_recorded_with_who_tried() {
    let mut desk = desk();
    let Decision::Refuse {
        event: Some(event),
        why,
    } = desk.decide(drain(), ALICE, at(0))
    else {
        panic!("it was followed, or not recorded");
    };
    assert_eq!(event.kind, lock::ATTEMPT);
    assert!(event.body.contains("uid=1000 pid=71"), "{}", event.body);
    assert!(why.contains("cardmon unlock"), "{why}");
    assert!(desk.drained().is_empty());
}

#[test]
fn nothing_is_open_or_drained_before_it_is_on_record() {
    let mut desk = desk();
    let Decision::Record(event) = desk.decide(unlock(), ALICE, at(0)) else {
        panic!("no window");
    };
    assert_eq!(desk.standing(at(0))["window"], Value::Null);
    desk.apply(Seq(1), &event);
    let Decision::Record(event) = desk.decide(drain(), ALICE, at(1)) else {
        panic!("it was refused in a window");
    };
    assert_eq!(event.refers_to, Some(Seq(1)));
    assert!(desk.drained().is_empty());
    desk.apply(Seq(2), &event);
    assert!(desk.drained().keys().eq([CARD]));
    assert_eq!(desk.notes(at(2)).len(), 2);
}

#[test]
fn what_is_on_record_is_drained_and_open_after_a_restart_too() {
    let mut first = desk();
    let mut recorded = Vec::new();
    for (seq, order) in [(1, unlock()), (2, drain())] {
        let Decision::Record(event) = first.decide(order, ALICE, at(seq)) else {
            panic!("it was refused");
        };
        first.apply(Seq(seq), &event);
        recorded.push(Recorded {
            seq: Seq(seq),
            event,
            prev: [0; 32],
            hash: [0; 32],
        });
    }
    let second = Desk::new(Settings::default(), &recorded, 0);
    assert_eq!(second.standing(at(3)), first.standing(at(3)));
    assert_eq!(second.drained(), first.drained());
}

#[test]
fn a_qat_card_is_drained_as_any_other_and_then_at_fault_for_nothing() {
    let card: crate::status::QatFigures = serde_json::from_value(serde_json::json!({
        "card": CARD, "module": "qat_4xxx", "responds": false, "cause": "card",
        "evidence": [{"code": "heartbeat-frozen", "detail": "no sign of life for 3 s"}],
        "codes": [18], "advice": [],
    }))
    .unwrap();
    let nowhere = tempfile::tempdir().unwrap();
    let settings = crate::watch::Settings::of(nowhere.path(), nowhere.path());
    let mut poll = crate::watch::Watch::new(settings).poll(Instant::ORIGIN);
    poll.status.qat = vec![card];
    let mut desk = Desk::new(Settings::default(), &[], 0);
    desk.watched(poll.status.cards_by_name());
    for (seq, order) in [(1, unlock()), (2, drain())] {
        let Decision::Record(event) = desk.decide(order, ALICE, at(1)) else {
            panic!("it was not followed");
        };
        desk.apply(Seq(seq), &event);
    }
    let host = crate::record::HostWatch::new(Duration::from_secs(1), Instant::ORIGIN);
    let mut recorder = crate::record::Recorder::new(host, Vec::new(), at(0));
    let beside = crate::record::Beside {
        late: Duration::ZERO,
        drained: desk.drained(),
        window: false,
        history: None,
        history_codes: &[],
        orders: &[],
    };
    let events = recorder.poll(&mut poll, &beside, at(31));
    assert!(
        events
            .iter()
            .all(|it| it.kind != crate::record::casebook::INCIDENT_OPENED),
        "{events:?}"
    );
    let card = &poll.status.qat[0].function;
    let drained = card.drained.as_ref().unwrap();
    assert_eq!(
        (&*drained.by, drained.for_seconds),
        ("uid=1000 pid=71", 30.0)
    );
    assert_eq!(card.cause, crate::verdict::Cause::None);
    assert_eq!(drained.otherwise_cause, crate::verdict::Cause::Card);
    let shown = crate::text::block(&poll.status).join("\n");
    assert!(
        shown.contains("drained by uid=1000 pid=71 30s ago; otherwise at fault: card"),
        "{shown}"
    );
}

#[test]
fn a_card_that_is_not_watched_is_a_slip_and_undraining_it_is_not() {
    let mut desk = desk();
    let typo = order(r#"{"drain": {"card": "pci:0000:3b:00.1\u001b[2J"}}"#);
    let Decision::Refuse { event: None, why } = desk.decide(typo, ALICE, at(0)) else {
        panic!("it was followed");
    };
    assert!(why.contains(CARD) && !why.contains('\x1b'), "{why}");
}

#[test]
fn where_to_write_is_told_by_root_and_the_monitors_user_alone() {
    let mut desk = Desk::new(Settings::default(), &[], 990);
    let to = |path: &str| Order::Snapshot { to: path.into() };
    let mut by = |uid, path| desk.decide(to(path), Peer { uid, pid: 1 }, at(0));
    assert!(matches!(by(1000, "/srv/copy"), Decision::Refuse { .. }));
    assert!(matches!(by(0, "copy"), Decision::Refuse { .. }));
    assert!(matches!(by(0, "/srv/copy"), Decision::Snapshot(_)));
    assert!(matches!(by(990, "/srv/copy"), Decision::Snapshot(_)));
}

#[test]
fn what_is_no_order_is_refused() {
    for line in [
        "",
        "{}",
        r#"{"unlock": {"ticket": "x"}}"#,
        r#"{"lock": {}, "drain": {"card": "x"}}"#,
        r#"{"reset": {}}"#,
        r#"{"lock": {"force": true}}"#,
    ] {
        assert!(serde_json::from_str::<Order>(line).is_err(), "{line}");
    }
}

#[test]
fn whatever_is_tuned_its_attempt_can_be_recorded_the_second_time_too() {
    let mut desk = desk();
    let tune = |len: usize| Order::Tune {
        what: "\u{e9}".repeat(len / 2),
        old: String::new(),
        new: String::new(),
        failed: None,
    };
    let Decision::Refuse { event: None, why } = desk.decide(tune(300), ALICE, at(0)) else {
        panic!("a name that no event can have was taken");
    };
    assert!(why.contains("256 bytes at most"), "{why}");
    // A card's name is as long as its page's; what is watched is not refused for that.
    let card = "\u{e9}".repeat(200);
    desk.watched([&*card].into_iter());
    let mut events = Vec::new();
    for second in 0..3 {
        let order = Order::Drain { card: card.clone() };
        let Decision::Refuse { event, .. } = desk.decide(order, ALICE, at(second)) else {
            panic!("it was followed while locked");
        };
        events.extend(event);
    }
    events.extend(desk.tick(at(61), false));
    assert_eq!(events.len(), 2);
    for event in events {
        event.check().unwrap();
        assert!(event.body.contains(&card), "{}", event.body);
    }
}

#[test]
fn who_gets_no_answer_is_told_where_the_order_leaves_a_trace() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let hangs_up = std::thread::spawn(move || {
        for _ in 0..3 {
            let (client, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(client).read_line(&mut line).unwrap();
        }
    });
    let to = PathBuf::from("/srv/copy");
    for (order, trace) in [
        (drain(), "on record: cardmon history"),
        (Order::Snapshot { to }, "at /srv/copy.partial"),
        (Order::Standing {}, "ask again"),
    ] {
        let told = send(&path, &order).unwrap_err().to_string();
        assert!(told.contains(trace), "{told}");
        assert_eq!(
            told.contains("on record"),
            matches!(order, Order::Drain { .. })
        );
    }
    hangs_up.join().unwrap();
}
