//! Answers that are right and delivered wrongly.

use crate::setup::{SECOND, Setup};
use card_device::Batch;
use card_spec::crypto::Status;
use card_spec::health::register;
use firmware_sim::fault::{Matching, Trigger};
use std::time::Duration;

const MILLISECOND: Duration = Duration::from_millis(1);

fn with_session(fault: &str) -> (Setup, u64) {
    let mut setup = Setup::honest();
    let session = setup.open_cipher();
    setup.inject(fault, Trigger::now());
    setup.pass(Duration::ZERO);
    (setup, session)
}

#[test]
fn a_used_element_claims_more_than_was_written() {
    let (mut setup, session) = with_session("overlong-result=1000");
    setup.submit_cipher(session, 0);
    setup.card().process();
    assert_eq!(setup.completed(), Some((0, 1017)));
}

#[test]
fn an_answer_comes_again() {
    let (mut setup, session) = with_session("duplicate-completion=2");
    setup.submit_cipher(session, 8);
    setup.card().process();
    let elements: Vec<_> = std::iter::from_fn(|| setup.completed()).collect();
    assert_eq!(elements, [(8, 17); 3]);
}

#[test]
fn an_answer_comes_late() {
    let (mut setup, session) = with_session("late-completion=2s");
    setup.submit_cipher(session, 0);
    setup.card().process();
    setup.pass(2 * SECOND - MILLISECOND);
    assert_eq!(setup.completed(), None);
    setup.pass(MILLISECOND);
    assert_eq!(setup.completed(), Some((0, 17)));
}

#[test]
fn answers_that_come_late_are_counted_and_their_errors_logged() {
    for fault in ["late-completion=2s", "slow=100000", "hang"] {
        let mut setup = Setup::honest();
        let session = setup.open_cipher();
        setup.submit_cipher(session, 0);
        // Nobody has opened that one.
        setup.submit_cipher(99, 8);
        // Taken before anything is wrong, for firmware that hangs takes none.
        let mut batch = Batch::new(0);
        assert_eq!(setup.card().take(&mut batch, 8), 2);
        setup.inject(fault, Trigger::now().lasting(4 * SECOND));
        setup.pass(Duration::ZERO);
        batch.execute();
        setup.card().complete(&mut batch);
        assert_eq!(setup.completed(), None, "{fault}");
        for _ in 0..6 {
            setup.pass(SECOND);
        }
        assert_eq!(std::iter::from_fn(|| setup.completed()).count(), 2);
        let summary = setup.summary();
        let counted = (summary.requests_ok.get(), summary.requests_failed.get());
        assert_eq!(counted, (1, 1), "{fault}");
        let logged = setup.driver.health(register::ERROR_LOG_WRITTEN);
        assert_eq!(logged, 1, "{fault}");
    }
}

#[test]
fn an_answer_comes_after_the_one_behind_it() {
    let mut setup = Setup::honest();
    let session = setup.open_cipher();
    setup.inject("reordered-completion", Trigger::now().times(1));
    setup.submit_cipher(session, 0);
    setup.submit_cipher(session, 8);
    setup.card().process();
    assert_eq!(setup.completed(), Some((8, 17)));
    assert_eq!(setup.completed(), None);
    setup.pass(MILLISECOND);
    assert_eq!(setup.completed(), Some((0, 17)));
}

#[test]
fn an_answer_never_comes() {
    let (mut setup, session) = with_session("dropped-completion");
    setup.submit_cipher(session, 0);
    setup.card().process();
    setup.pass(3600 * SECOND);
    assert_eq!(setup.completed(), None);
    setup.clear_all();
    assert!(setup.works(session), "the next one does");
}

#[test]
fn an_answer_names_a_request_that_nobody_made() {
    let (mut setup, session) = with_session("unknown-completion=777");
    setup.submit_cipher(session, 0);
    setup.card().process();
    assert_eq!(setup.completed(), Some((777, 17)));
}

#[test]
fn a_slow_card_takes_as_many_times_as_long_and_is_busy_meanwhile() {
    let time_for = |factor: &str, requests: u16| {
        let (mut setup, session) = with_session(&format!("slow={factor}"));
        for index in 0..requests {
            setup.submit_cipher(session, 8 * index);
        }
        setup.card().process();
        let mut ticks = 0;
        let mut answered = 0;
        while answered < requests {
            setup.pass(MILLISECOND / 100);
            ticks += 1;
            answered += u16::from(setup.completed().is_some());
        }
        ticks
    };
    let [tenfold, hundredfold] = ["11", "101"].map(|factor| time_for(factor, 1));
    assert!(
        (9..=11).contains(&(hundredfold / tenfold)),
        "{hundredfold} {tenfold}"
    );
    let four = time_for("101", 4);
    assert!(
        (4 * hundredfold - 4..=4 * hundredfold).contains(&four),
        "{four}"
    );
}

#[test]
fn a_card_may_be_slower_than_any_time_there_is() {
    let (mut setup, session) = with_session("slow=1000000");
    for _ in 0..60 {
        setup.inject("slow=1000000", Trigger::now());
    }
    setup.pass(Duration::ZERO);
    assert!(!setup.works(session));
    setup.pass(1_000_000 * SECOND);
    assert_eq!(setup.completed(), None);
    setup.clear_all();
    setup.driver.bring_up();
    let session = setup.open_cipher();
    assert!(setup.works(session));
}

#[test]
fn no_session_can_be_opened_when_they_are_exhausted() {
    let (mut setup, session) = with_session("sessions-exhausted");
    assert_eq!(setup.driver.open_session(&[1; 16]).0, Status::NOSPC);
    assert!(setup.works(session), "what is open stays open");
    setup.clear_all();
    assert_eq!(setup.driver.open_session(&[1; 16]).0, Status::OK);
}

#[test]
fn keys_that_are_lost_have_to_be_sent_again() {
    let (mut setup, session) = with_session("keys-lost");
    assert_eq!(setup.driver.encrypt(session, &[1; 16]).0, Status::INVSESS);
    let session = setup.open_cipher();
    assert_eq!(setup.driver.encrypt(session, &[1; 16]).0, Status::OK);
    setup.pass(10 * SECOND);
    assert_eq!(setup.driver.encrypt(session, &[1; 16]).0, Status::OK);
    assert_eq!(setup.acted(), [1]);
    let script = setup.script.lock().unwrap();
    assert!(!script.record()[0].is_live(), "that was all");
}

#[test]
fn garbage_appears_in_memory_that_the_card_may_write() {
    let (mut setup, _) = with_session("dma-garbage=64");
    setup.clear_all();
    let memory = |setup: &Setup| setup.driver.read(0, 1 << 20);
    let before = memory(&setup);
    setup.inject("dma-garbage=64", Trigger::now());
    setup.pass(SECOND);
    let after = memory(&setup);
    let changed = before
        .iter()
        .zip(&after)
        .filter(|(before, after)| before != after);
    assert!((300..=11 * 64).contains(&changed.count()));
    assert_eq!(setup.acted(), [1, 11]);
}

#[test]
fn a_reset_ends_what_a_slow_card_was_busy_with() {
    let (mut setup, session) = with_session("slow=100001");
    for index in 0..8 {
        setup.submit_cipher(session, 8 * index);
    }
    setup.card().process();
    setup.driver.bring_up();
    setup.clear_all();
    let session = setup.open_cipher();
    setup.inject("slow=101", Trigger::now());
    setup.pass(Duration::ZERO);
    setup.submit_cipher(session, 0);
    setup.card().process();
    assert_eq!(setup.completed(), None);
    setup.pass(SECOND / 10);
    assert!(setup.completed().is_some());
}

#[test]
fn answers_are_told_apart_by_what_their_session_is_for() {
    let mut setup = Setup::honest();
    let session = setup.open_cipher();
    for (text, answered) in [("algorithm=aes-gcm", true), ("algorithm=aes-cbc", false)] {
        let matching = text.parse::<Matching>().unwrap();
        setup.inject("dropped-completion", Trigger::now().matching(matching));
        assert_eq!(setup.works(session), answered, "{text}");
    }
}
