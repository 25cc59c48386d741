//! What it costs to submit requests to a card and to take its answers, in one thread.
//!
//! The card is in this process, works where its doorbell rings and always gives the same answer,
//! so that there is no cryptography, no second process and no waiting: the figure repeats. It
//! includes the device side, which walks the queue and copies in and out, but no verification and
//! no router. `plumbing` measures the driver alone, and the way between two processes.

use card_device::engine::{Engine, Offer, Operation as CardOperation, Session, SessionSpec};
use card_device::{Card as Device, CardConfig};
use card_spec::crypto::{Status, hash};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hwshim::accelerator::{Accelerator, Completion, Operation, Request, RequestId, Secret};
use hwshim::bus::Function;
use hwshim::bus::loopback::LoopbackFunction;
use hwshim::clock::Instant;
use hwshim::key::HashAlgorithm;
use hwshim::virtio::{Card, Options};
use std::sync::{Arc, Mutex};

/// As long as a SHA-256 digest, and none.
const ANSWER: [u8; 32] = [0x5a; 32];

/// Takes no time to answer.
#[derive(Debug)]
struct Constant;

impl Engine for Constant {
    fn offer(&self) -> Offer {
        Offer {
            hashes: 1 << hash::SHA_256,
            ..Offer::default()
        }
    }

    fn open(&self, _spec: &SessionSpec, _key: &[u8]) -> Result<Arc<dyn Session>, Status> {
        Ok(Arc::new(Self))
    }
}

impl Session for Constant {
    fn execute(&self, _operation: &CardOperation<'_>, output: &mut [u8]) -> Result<usize, Status> {
        output[..ANSWER.len()].copy_from_slice(&ANSWER);
        Ok(ANSWER.len())
    }
}

fn card() -> Card {
    let device = Device::new(&CardConfig::default(), Arc::new(Constant))
        .expect("the default configuration is a card");
    let device = Arc::new(Mutex::new(device));
    let function =
        LoopbackFunction::inline("loopback", device).expect("the kernel gives an eventfd");
    let function = Arc::new(function);
    let connect = Box::new(move || Ok(Arc::clone(&function) as Arc<dyn Function>));
    let mut card = Card::new("loopback", connect, Options::default())
        .expect("the default options suit a card");
    card.reset(&mut Vec::new())
        .expect("a card in this process comes up");
    card
}

fn request(index: u32) -> Request {
    Request {
        id: RequestId {
            index,
            generation: 0,
        },
        operation: Arc::new(Operation::Digest {
            hash: HashAlgorithm::Sha256,
            message: Secret::from(&[0x20; 16][..]),
        }),
        deadline: Instant::NEVER,
    }
}

/// Submits all of `requests` and gets them back.
fn round(card: &mut Card, requests: &mut Vec<Request>, completions: &mut Vec<Completion>) {
    let depth = requests.len();
    for request in requests.drain(..) {
        card.submit(request, Instant::ORIGIN)
            .expect("the card has room");
    }
    card.flush();
    // The first request opens the session, which takes a few looks.
    while requests.len() < depth {
        card.poll(Instant::ORIGIN, completions);
        for Completion { request, output } in completions.drain(..) {
            output.expect("the card answers");
            requests.push(request);
        }
    }
}

fn submit_and_complete(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("submit-and-complete");
    for depth in [1, 64] {
        let mut card = card();
        let mut requests: Vec<_> = (0..depth).map(request).collect();
        let mut completions = Vec::new();
        group.throughput(Throughput::Elements(u64::from(depth)));
        group.bench_function(BenchmarkId::new("depth", depth), |bencher| {
            bencher.iter(|| round(&mut card, &mut requests, &mut completions));
        });
    }
    group.finish();
}

criterion_group!(benches, submit_and_complete);
criterion_main!(benches);
