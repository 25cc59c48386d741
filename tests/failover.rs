//! A card is killed, stopped and started again while threads and tasks use it through the router:
//! no caller sees an error, and every request is accounted for.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod common;

use common::CardProcess;
use hwshim::accelerator::{Operation, Secret, Unverified};
use hwshim::clock::{Clock, SystemClock};
use hwshim::kat;
use hwshim::key::SignatureScheme;
use hwshim::router::breaker::{Limits, State};
use hwshim::router::core::{Offload, Options};
use hwshim::router::{Router, verify};
use rustix::process::{Pid, Signal, kill_process};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Far longer than anything takes; only a mistake meets it.
const PATIENT: Duration = Duration::from_secs(60);

fn options() -> Options {
    Options {
        // A card on a busy machine may take its time; what is tested is not how long.
        timeout: Duration::from_secs(2),
        limits: Limits {
            backoff: Duration::from_millis(200),
            ..Limits::default()
        },
        // The card is what is tested, whether it pays or not.
        offload: Offload::default().always(),
        ..Options::default()
    }
}

/// Kills the card, as `kill -9` does.
fn kill(card: &mut CardProcess) {
    card.process.kill().unwrap();
    card.process.wait().unwrap();
}

fn router(card: &CardProcess) -> Router {
    router_with(card, options())
}

fn router_with(card: &CardProcess, options: Options) -> Router {
    let opened = card.address().open_accelerator().unwrap();
    Router::start(vec![opened.accelerator], options).unwrap()
}

/// Signs, and checks the signature as a client would.
fn sign(router: &Router, number: u64) {
    let key = kat::rsa_2048_key();
    let scheme = SignatureScheme::RsaPssSha256;
    let message = number.to_le_bytes();
    let signature = router.sign(&key, scheme, &message).unwrap();
    assert_valid(number, signature);
}

fn assert_valid(number: u64, signature: Vec<u8>) {
    let signed = Operation::Sign {
        key: kat::rsa_2048_key(),
        scheme: SignatureScheme::RsaPssSha256,
        message: Secret::from(&number.to_le_bytes()[..]),
    };
    verify::check(&signed, Unverified::new(signature)).unwrap();
}

/// Signs until `enough`.
fn sign_until(router: &Router, mut enough: impl FnMut() -> bool) {
    let clock = SystemClock;
    let deadline = clock.now().plus(PATIENT);
    let mut number = 0;
    while !enough() {
        sign(router, number);
        number += 1;
        assert!(clock.now() < deadline, "{:?}", router.status());
    }
}

fn is_in_use(router: &Router) -> bool {
    matches!(router.status()[0].breaker, State::Closed { .. })
}

#[test]
fn a_card_killed_under_load_loses_no_operation() {
    let directory = tempfile::tempdir().unwrap();
    let mut card = CardProcess::start(directory.path());
    let router = router(&card);
    let (stop, signed) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (router, stop, signed) = (&router, &stop, &signed);
            scope.spawn(move || {
                let mut number = thread << 32;
                while !stop.load(Ordering::Relaxed) {
                    sign(router, number);
                    number += 1;
                    signed.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        sign_until(&router, || router.requests().card >= 20);
        kill(&mut card);
        sign_until(&router, || router.status()[0].breaker_opened_by == "gone");
        let software = router.requests().software;
        sign_until(&router, || router.requests().software >= software + 20);
        stop.store(true, Ordering::Relaxed);
    });
    let requests = router.requests();
    assert!(requests.add_up(), "{requests:?}");
    assert_eq!((requests.in_flight, requests.refused), (0, 0));
    assert_eq!(requests.wrong_answers, 0);
    assert!(requests.submitted >= signed.load(Ordering::Relaxed));
}

#[test]
fn a_card_that_comes_back_is_used_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut card = CardProcess::start(directory.path());
    let router = router(&card);
    sign_until(&router, || router.requests().card >= 1);
    kill(&mut card);
    sign_until(&router, || !is_in_use(&router));
    let _card = CardProcess::start(directory.path());
    sign_until(&router, || is_in_use(&router));
    let before = router.requests().card;
    sign_until(&router, || router.requests().card > before);
    assert!(router.requests().add_up());
}

#[test]
fn a_card_that_is_stopped_is_given_up_at_the_deadline() {
    let directory = tempfile::tempdir().unwrap();
    let card = CardProcess::start(directory.path());
    let options = Options {
        // It is met several times; a card that is slow meanwhile is tried again.
        timeout: Duration::from_millis(300),
        ..options()
    };
    let router = router_with(&card, options);
    sign_until(&router, || router.requests().card >= 1);
    let pid = Pid::from_raw(i32::try_from(card.process.id()).unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    sign_until(&router, || !is_in_use(&router));
    let requests = router.requests();
    assert!(requests.timed_out >= 3, "{requests:?}");
    kill_process(pid, Signal::CONT).unwrap();
    sign_until(&router, || is_in_use(&router));
    assert!(router.requests().add_up());
}

#[test]
fn a_card_that_is_not_there_yet_is_used_when_it_comes() {
    let directory = tempfile::tempdir().unwrap();
    let mut card = CardProcess::start(directory.path());
    kill(&mut card);
    let router = router(&card);
    sign(&router, 1);
    assert_eq!(router.requests().card, 0);
    let _card = CardProcess::start(directory.path());
    sign_until(&router, || router.requests().card >= 1);
}

#[test]
fn tasks_wait_without_blocking_and_lose_nothing_when_the_card_is_killed() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut card = CardProcess::start(directory.path());
    runtime.block_on(async {
        let opened = card.address().open_accelerator().unwrap();
        let router = Router::start_on_tokio(vec![opened.accelerator], options()).unwrap();
        let sign = |number: u64| {
            let router = router.clone();
            async move {
                let key = kat::rsa_2048_key();
                let scheme = SignatureScheme::RsaPssSha256;
                let message = number.to_le_bytes();
                let signature = router.sign_async(&key, scheme, &message).await;
                assert_valid(number, signature.unwrap());
            }
        };
        let clock = SystemClock;
        let deadline = clock.now().plus(PATIENT);
        while router.requests().card == 0 {
            sign(0).await;
            tokio::task::yield_now().await;
            assert!(clock.now() < deadline, "{:?}", router.status());
        }
        // Many at once on one thread: if waiting blocked, the second would never be submitted.
        let tasks: Vec<_> = (0..64).map(|number| tokio::spawn(sign(number))).collect();
        tokio::task::yield_now().await;
        assert!(router.requests().in_flight > 1, "{:?}", router.requests());
        kill(&mut card);
        for task in tasks {
            task.await.unwrap();
        }
        let requests = router.requests();
        assert!(requests.add_up(), "{requests:?}");
        assert_eq!((requests.in_flight, requests.refused), (0, 0));
    });
}

#[test]
fn an_operation_that_is_given_up_is_counted_and_its_answer_discarded() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let card = CardProcess::start(directory.path());
    runtime.block_on(async {
        let opened = card.address().open_accelerator().unwrap();
        let router = Router::start_on_tokio(vec![opened.accelerator], options()).unwrap();
        let clock = SystemClock;
        let deadline = clock.now().plus(PATIENT);
        let key = kat::rsa_2048_key();
        let sign = || router.sign_async(&key, SignatureScheme::RsaPssSha256, b"message");
        while router.requests().card == 0 {
            sign().await.unwrap();
            tokio::task::yield_now().await;
            assert!(clock.now() < deadline, "{:?}", router.status());
        }
        {
            let mut given_up = Box::pin(sign());
            let waited = tokio::time::timeout(Duration::ZERO, &mut given_up).await;
            waited.unwrap_err();
            assert_eq!(router.requests().in_flight, 1);
        }
        while router.requests().in_flight > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert!(clock.now() < deadline, "{:?}", router.status());
        }
        let requests = router.requests();
        assert_eq!(requests.refused, 1);
        assert!(requests.add_up(), "{requests:?}");
    });
}
