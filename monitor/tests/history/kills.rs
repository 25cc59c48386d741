//! SIGKILL at any moment: what was acknowledged is there.

use crate::support::{Ended, Layout, acknowledged, cases, check_all, scratch, seeds, writer};
use fastrand::Rng;
use std::io::{BufRead, BufReader};

/// Cases between two audits of everything; after each case the end is looked at.
const AUDIT_EVERY: u64 = 100;
/// Cases after which a history is left alone and another begun, so that beginnings are killed too.
const FRESH_EVERY: u64 = 25;

#[test]
fn no_acknowledged_event_is_lost_to_a_kill() {
    let mut root = scratch();
    let (mut killed_early, mut unacknowledged, mut total) = (0, 0, 0);
    for seed in seeds(1_000) {
        if seed % FRESH_EVERY == 0 {
            audit(root.path());
            root = scratch();
        }
        let last = kill_one(root.path(), &mut Rng::with_seed(seed));
        let events = Layout::below(root.path()).open();
        let events = events.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let head = events.head().unwrap().map_or(0, |head| head.seq.0);
        assert!(
            head >= last.unwrap_or(0),
            "seed {seed}: {head} of {last:?} are there"
        );
        killed_early += u64::from(last.is_none());
        unacknowledged += last.map_or(0, |last| head - last);
        total += 1;
        if seed % AUDIT_EVERY == 0 {
            check_all(&events, &Layout::below(root.path()).anchors(), head);
        }
    }
    audit(root.path());
    eprintln!(
        "{total} kills, {killed_early} before the first acknowledgement; \
         {unacknowledged} events were there that had not been acknowledged"
    );
    assert_eq!(total, cases(1_000));
}

fn audit(root: &std::path::Path) {
    let layout = Layout::below(root);
    if let Ok(reader) = layout.reader() {
        check_all(&reader, &layout.anchors(), 0);
    }
}

/// Starts a writer, kills it somewhere, and returns what it acknowledged last.
fn kill_one(root: &std::path::Path, rng: &mut Rng) -> Option<u64> {
    let mut child = Ended(writer(root, 1_000_000).spawn().unwrap());
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let mut last = None;
    let mut next = || lines.next().map(|line| acknowledged(&line.unwrap()));
    // From before it has opened the file until it has appended for a while.
    let wanted = rng.u32(0..30);
    for _ in 0..wanted {
        last = next().expect("a writer writes until it is killed").or(last);
    }
    for _ in 0..rng.u32(0..60_000) {
        std::hint::spin_loop();
    }
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    while let Some(said) = next() {
        last = said.or(last);
    }
    last
}
