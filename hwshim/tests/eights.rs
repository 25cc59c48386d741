//! What a card answers together is verified together: over a simulated card that sometimes lies.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]
#![expect(clippy::print_stdout, reason = "says that a test is skipped, and why")]

use card_device::CardConfig;
use firmware_sim::engine::RustCrypto;
use firmware_sim::fault::{Fault, Injection, Script, Trigger, beset};
use hwshim::accelerator::multi_buffer::MultiBuffer;
use hwshim::accelerator::{Accelerator, Operation, Secret};
use hwshim::bus::Function;
use hwshim::bus::loopback::LoopbackFunction;
use hwshim::clock::{Clock, ManualClock};
use hwshim::kat;
use hwshim::key::SignatureScheme;
use hwshim::router::Router;
use hwshim::router::breaker::State;
use hwshim::router::core::{Core, Ending, Offload, Options};
use hwshim::router::direct::{Direct, Done, Submitted};
use hwshim::router::verify::{self, eights::Eights};
use hwshim::virtio::{self, Card};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SCHEME: SignatureScheme = SignatureScheme::RsaPssSha256;
const TOGETHER: usize = 8;
const ROUNDS: usize = 24;

/// Has a card, one of whose signatures in twenty gives the key away, sign eight messages a round.
/// Returns how many of its answers were right, and wrong.
fn sign(eights: &'static Eights) -> (u64, u64) {
    let script = Script::new(7).shared();
    script.lock().unwrap().add(Injection {
        fault: Fault::CrtFault,
        trigger: Trigger::now().probability(0.05),
    });
    let device = beset(
        &CardConfig::default(),
        Arc::new(RustCrypto),
        Arc::clone(&script),
    )
    .unwrap();
    let device = Arc::new(Mutex::new(device));
    let slot = Arc::clone(&device);
    let connect = Box::new(move || {
        let function = LoopbackFunction::new("loopback", Arc::clone(&slot))?;
        Ok(Arc::new(function) as Arc<dyn Function>)
    });
    let card = Card::new("loopback", connect, virtio::Options::default()).unwrap();
    let options = Options {
        offload: Offload::EVERYTHING,
        eights: Some(eights),
        ..Options::default()
    };
    let clock = Arc::new(ManualClock::new());
    let core = Core::new(vec![Box::new(card)], options);
    let mut router = Direct::new(core, Arc::clone(&clock) as Arc<dyn Clock>);
    let key = kat::rsa_2048_key();
    let mut waiting = HashMap::new();
    for round in 0..ROUNDS {
        let over = |waiting: &mut HashMap<_, Vec<u8>>, Done { id, output, .. }| {
            let message = waiting.remove(&id).expect("each request ends once");
            verify::signature(key.public_key(), SCHEME, &message, &output.unwrap()).unwrap();
        };
        for number in 0..TOGETHER {
            let message = format!("message {number} of {round}").into_bytes();
            let operation = Operation::Sign {
                key: Arc::clone(&key),
                scheme: SCHEME,
                message: Secret::from(&message[..]),
            };
            match router.submit(operation) {
                Submitted::InFlight(id) => {
                    waiting.insert(id, message);
                }
                Submitted::Done(done) => {
                    assert_ne!(done.ending, Ending::Card);
                    waiting.insert(done.id, message);
                    over(&mut waiting, done);
                }
            }
        }
        // Enough for the longest delay before a card is tried again.
        for step in [1, 1, 1, 1, 1, 500, 5_000, 60_000].map(Duration::from_millis) {
            router.turn(|done| over(&mut waiting, done));
            clock.advance(step);
            let mut device = device.lock().unwrap();
            device.tick(Duration::from_nanos(clock.now().as_nanos()));
            device.process();
        }
        router.turn(|done| over(&mut waiting, done));
        assert_eq!(waiting.len(), 0, "requests that did not end");
    }
    let requests = router.core().status(0).requests;
    assert!(requests.add_up(), "{requests:?}");
    (requests.card, requests.wrong_answers)
}

fn eights() -> Option<&'static Eights> {
    match Eights::load() {
        Ok(eights) => Some(eights),
        Err(error) if error.is_absence() => {
            println!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn nothing_wrong_is_released_of_what_is_verified_together() {
    let Some(eights) = eights() else { return };
    let before = eights.counts();
    let (by_card, wrong) = sign(eights);
    assert!(by_card > 5 * TOGETHER as u64, "{by_card} by the card");
    assert!(wrong > 0, "the card has lied");
    let (calls, signatures) = (
        eights.counts().calls - before.calls,
        eights.counts().signatures - before.signatures,
    );
    assert!(signatures > by_card / 2, "{signatures} of {by_card}");
    assert!(signatures > 2 * calls, "{signatures} by {calls} calls");
    assert!(
        !eights.is_mistaken(),
        "the card was wrong, not this processor"
    );
}

#[test]
fn tasks_of_many_threads_share_what_a_batch_has_signed() {
    let Some(eights) = eights() else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .unwrap();
    let options = Options {
        offload: Offload::EVERYTHING,
        eights: Some(eights),
        timeout: Duration::from_secs(60),
        ..Options::default()
    };
    let before = eights.counts();
    let router = runtime.block_on(async {
        let accelerator: Box<dyn Accelerator> = Box::new(MultiBuffer::new(None));
        let router = Router::start_on_tokio(vec![accelerator], options).unwrap();
        while !matches!(router.status()[0].breaker, State::Closed { .. }) {
            tokio::task::yield_now().await;
        }
        let task = |number: u32| {
            let (router, key) = (router.clone(), kat::rsa_2048_key());
            tokio::spawn(async move {
                for round in 0..4 {
                    let message = format!("message {round} of {number}").into_bytes();
                    let signature = router.sign_async(&key, SCHEME, &message).await.unwrap();
                    verify::signature(key.public_key(), SCHEME, &message, &signature).unwrap();
                }
            })
        };
        // Some who lose interest, in what may have arrived already.
        for number in 0..8 {
            let lost = task(1000 + number);
            tokio::time::sleep(Duration::from_millis(1)).await;
            lost.abort();
        }
        for task in (0..64).map(task).collect::<Vec<_>>() {
            task.await.unwrap();
        }
        router
    });
    let requests = router.requests();
    assert!(requests.add_up(), "{requests:?}");
    assert!(requests.card >= 4 * 64, "{requests:?}");
    assert_eq!(requests.wrong_answers, 0);
    let signatures = eights.counts().signatures - before.signatures;
    assert!(signatures > 64, "{signatures} of {}", requests.card);
    assert!(!eights.is_mistaken());
}
