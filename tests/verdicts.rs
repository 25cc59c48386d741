//! Every fault in every phase under a monitor that watches: what it says is at fault, held against
//! the truth that the simulation knows.
//!
//! `cargo xtask simulate --matrix SEEDS` runs more of the same and prints who was taken for whom.

use firmware_sim::fault::Cause as Truth;
use simulation::matrix::{Matrix, Score};

/// Runs of each fault in each phase.
const SEEDS: u64 = 2;

#[test]
fn the_monitor_names_the_culprit_and_blames_no_card_for_its_host() {
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
    let sum = |of: fn(&Score) -> u64| scores.troubles.values().map(of).sum::<u64>();
    let (runs, right, abstained) = (sum(Score::runs), sum(Score::right), sum(Score::abstained));
    println!("{runs} runs: {right} right, {abstained} abstained");
    assert!(
        runs > 300 * SEEDS,
        "faults do nothing any more: {runs} runs"
    );
    assert!(right * 100 >= (runs - abstained) * 90);
    assert!(abstained * 10 <= runs);
    let hosts = scores.troubles.values();
    let hosts = hosts.filter(|score| score.truth == Truth::Host);
    assert_eq!(hosts.map(|score| score.card_blamed).sum::<u64>(), 0);
}
