//! Locked unless a window is on record and its time not up.

use super::*;
use crate::history::{BootId, WallTime};

const MINUTE: u64 = 60;

fn boot(digit: u8) -> BootId {
    let id = format!("00000000-0000-0000-0000-00000000000{digit}");
    id.parse().unwrap()
}

/// `seconds` after the host booted, with a calendar that agrees.
fn at(seconds: u64) -> Stamp {
    Stamp {
        wall: WallTime::from_unix_millis(1_000_000).plus(Duration::from_secs(seconds)),
        monotonic: Instant::from_nanos(seconds * 1_000_000_000),
        boot: boot(1),
    }
}

fn unlock(minutes: u64) -> Unlock {
    Unlock {
        ticket: "CHG123".to_owned(),
        reason: "new firmware".to_owned(),
        by: "alice".to_owned(),
        duration: Duration::from_secs(minutes * MINUTE),
    }
}

fn change(by: &str) -> Change {
    Change {
        by: by.to_owned(),
        action: "reset".to_owned(),
        subject: "pci:0000:3b:00.0".to_owned(),
        old: None,
        new: None,
    }
}

/// A lock with a window of half an hour, opened at 0 as event 7.
fn open() -> ChangeLock {
    let mut lock = ChangeLock::new(Settings::default());
    let event = lock.unlock(unlock(30), at(0)).unwrap();
    assert_eq!(lock.window(at(0)), None, "it was not on record yet");
    lock.apply(Seq(7), &event);
    lock
}

fn count(event: &Event) -> u64 {
    serde_json::from_str::<AttemptBody>(&event.body)
        .unwrap()
        .count
}

#[test]
fn it_is_locked_by_default_and_an_attempt_is_an_alert() {
    let mut lock = ChangeLock::new(Settings::default());
    let Answer::Refused(Some(event)) = lock.attempt(&change("bob"), at(0)) else {
        panic!("it was let through, or not told of");
    };
    assert_eq!((&*event.kind, event.severity), (ATTEMPT, Severity::Alert));
    assert_eq!(count(&event), 1);
}

#[test]
fn equal_attempts_are_counted_and_none_is_lost() {
    let mut lock = ChangeLock::new(Settings::default());
    let mut told = Vec::new();
    for second in 0..150 {
        told.extend(lock.tick(at(second), false));
        for by in ["bob", "eve"] {
            let Answer::Refused(event) = lock.attempt(&change(by), at(second)) else {
                panic!("it was let through");
            };
            told.extend(event);
        }
    }
    told.extend(lock.tick(at(150), true));
    assert_eq!(told.iter().map(count).sum::<u64>(), 300);
    assert_eq!(told.len(), 2 * (1 + 2 + 1));
}

#[test]
fn whoever_makes_up_names_fills_no_memory() {
    let mut lock = ChangeLock::new(Settings::default());
    let mut told = 0;
    for index in 0..10_000 {
        let answer = lock.attempt(&change(&index.to_string()), at(0));
        told += u64::from(matches!(answer, Answer::Refused(Some(_))));
    }
    assert_eq!(told, 65);
    let rest = lock.tick(at(60), false);
    assert_eq!(rest.iter().map(count).sum::<u64>() + told, 10_000);
}

#[test]
fn in_a_window_changes_are_allowed_and_name_it() {
    let mut lock = open();
    let Answer::Allowed(event) = lock.attempt(&change("bob"), at(29 * MINUTE)) else {
        panic!("it was refused");
    };
    assert_eq!((&*event.kind, event.refers_to), (CHANGE, Some(Seq(7))));
}

#[test]
fn it_locks_by_itself_when_the_time_is_up_recorded_or_not() {
    let mut lock = open();
    assert_eq!(lock.tick(at(30 * MINUTE - 1), false), []);
    let expired = at(30 * MINUTE);
    assert!(matches!(
        lock.attempt(&change("bob"), expired),
        Answer::Refused(_)
    ));
    let [event] = &lock.tick(expired, false)[..] else {
        panic!("its end was not told");
    };
    assert_eq!((&*event.kind, event.refers_to), (RELOCK, Some(Seq(7))));
    // It is told once, though it may be long until it is on record,
    assert_eq!(lock.tick(at(31 * MINUTE), false), []);
    assert_eq!(lock.relock("alice", at(31 * MINUTE)), None);
    // and closes no window that was opened meanwhile.
    let again = lock.unlock(unlock(30), at(32 * MINUTE)).unwrap();
    lock.apply(Seq(9), &again);
    lock.apply(Seq(10), event);
    assert!(lock.window(at(33 * MINUTE)).is_some());
}

#[test]
fn it_locks_by_hand() {
    let mut lock = open();
    let event = lock.relock("alice", at(MINUTE)).unwrap();
    lock.apply(Seq(8), &event);
    assert_eq!(lock.window(at(MINUTE)), None);
    assert_eq!(lock.relock("alice", at(MINUTE)), None);
}

#[test]
fn a_window_is_the_same_after_a_restart_and_by_the_calendar_after_a_reboot() {
    let lock = open();
    let event = lock.unlock(unlock(30), at(31 * MINUTE)).unwrap();
    let mut again = ChangeLock::new(Settings::default());
    again.apply(Seq(9), &event);
    let rebooted = |wall: u64| Stamp {
        monotonic: Instant::from_nanos(1),
        boot: boot(2),
        ..at(wall)
    };
    assert!(again.window(at(60 * MINUTE)).is_some());
    assert!(again.window(rebooted(60 * MINUTE)).is_some());
    assert!(again.window(rebooted(61 * MINUTE)).is_none());
    // Set back, the calendar lengthens nothing; on the same boot it is not asked.
    assert!(again.window(rebooted(30 * MINUTE)).is_none());
    let set_back = Stamp {
        wall: WallTime::default(),
        ..at(60 * MINUTE)
    };
    assert!(again.window(set_back).is_some());
}

#[test]
fn a_window_wants_a_ticket_a_reason_and_an_end() {
    let lock = ChangeLock::new(Settings::default());
    let refused = |change: fn(&mut Unlock)| {
        let mut wrong = unlock(30);
        change(&mut wrong);
        lock.unlock(wrong, at(0)).unwrap_err()
    };
    assert_eq!(
        refused(|unlock| unlock.ticket.clear()),
        UnlockRefused::NoTicket
    );
    assert_eq!(
        refused(|unlock| unlock.reason = " ".to_owned()),
        UnlockRefused::NoReason
    );
    assert_eq!(
        refused(|unlock| unlock.duration = Duration::ZERO),
        UnlockRefused::NoTime
    );
    let max = Settings::default().window_max;
    let too_long = refused(|unlock| unlock.duration = Duration::from_secs(9 * 3_600));
    assert_eq!(too_long, UnlockRefused::TooLong { max });
    let open = open().unlock(unlock(1), at(1)).unwrap_err();
    assert!(matches!(open, UnlockRefused::AlreadyOpen { .. }));
}

#[test]
fn an_unlock_that_cannot_be_read_opens_nothing() {
    let mut lock = open();
    lock.apply(Seq(8), &Event::new(at(1), UNLOCK, "monitor", &"nonsense"));
    assert_eq!(lock.window(at(2)), None);
}
