//! Every fault in every phase under a monitor that watches card, service, host and itself: what it
//! says is at fault, held against the truth that the simulation knows.
//!
//! `cargo xtask simulate --matrix SEEDS` runs more of the same and prints who was taken for whom,
//! and `--pairs SEEDS` does so for two faults at once. Seeds from 1000 on are for reports: nothing
//! is tuned on them, and no test uses them.

#![expect(
    clippy::print_stdout,
    reason = "which run to replay, which nobody sees unless a test fails"
)]

use simulation::Truth;
use simulation::matrix::{Matrix, Pairs, Score, Scores};

/// Runs of each fault in each phase.
const SEEDS: u64 = 5;

fn all() -> Scores {
    let matrix = Matrix {
        seed: 1,
        seeds: SEEDS,
        troubles: Vec::new(),
        phase: None,
        jobs: 2,
    };
    let scores = matrix.run(|| {});
    for failure in &scores.failures {
        println!("{} {}: {}", failure.plan, failure.invariant, failure.detail);
    }
    assert!(scores.failures.is_empty());
    for (name, score) in &scores.troubles {
        for (said, (count, replay)) in &score.said {
            if !said.is_right(score.truth) {
                println!("{name}: said {said:?} in {count} runs, first in {replay}");
            }
        }
    }
    scores
}

/// One test, since one set of runs tells all of it and takes minutes.
#[test]
fn the_monitor_names_the_culprit_and_blames_no_card_for_its_host_or_service() {
    let scores = all();
    let sum = |of: fn(&Score) -> u64| scores.troubles.values().map(of).sum::<u64>();
    let (runs, right, abstained) = (sum(Score::runs), sum(Score::right), sum(Score::abstained));
    println!("{runs} runs: {right} right, {abstained} abstained");
    assert!(
        runs > 480 * SEEDS,
        "faults do nothing any more: {runs} runs"
    );
    assert!(right * 100 >= (runs - abstained) * 95);
    assert!(abstained * 10 <= runs);
    let blamed = scores.card_blamed_for_others();
    let asked = [
        Truth::Service,
        Truth::Leak,
        Truth::Host,
        Truth::Overload,
        Truth::Configuration,
    ];
    for truth in asked {
        let (runs, times) = blamed.get(&truth).copied().unwrap_or_default();
        // In some phases a fault may be cut short by the end of the run.
        assert!(runs >= 7 * SEEDS, "{truth:?} was not asked about");
        assert_eq!(times, 0, "a card was blamed for {truth:?}");
    }
    for (name, seconds) in [("hang", 4.0), ("led-irregular", 45.0)] {
        let latency = scores.troubles[name].latency(99);
        let latency = latency.map_or(f64::INFINITY, |it| it.as_secs_f64());
        assert!(latency <= seconds, "{name}: {latency}");
    }
}

#[test]
fn of_two_that_are_wrong_at_once_both_are_believed_most() {
    let names = [
        "crt-fault",
        "downtrained",
        "hang-after-accept",
        "softirq-storm",
    ];
    let pairs = Pairs {
        seed: 1,
        seeds: 4,
        troubles: names.iter().filter_map(|name| name.parse().ok()).collect(),
        phase: None,
        jobs: 2,
    };
    assert_eq!(pairs.troubles.len(), names.len());
    let scores = pairs.run(|| {});
    assert!(scores.failures.is_empty());
    let (runs, right) = scores.sum();
    println!("{:?}", scores.truths);
    assert!(runs >= 20, "{runs} runs");
    // Whether or not another name of one of them may stand between.
    for right in [right, scores.by_name] {
        assert!(right * 100 >= runs * 85, "{right} of {runs}: {scores:?}");
    }
}
