//! Runs the concurrent parts of this crate under a scheduler that tries their interleavings.
//!
//! A model is a test whose threads are shuttle's: only one runs at a time, and at each
//! [scheduling point](step) the scheduler decides which. The code between two points is what is
//! shipped, with the kernel's own files, eventfds and epoll descriptors; nothing is written again
//! for the model. What it does not show is how weaker memory orderings than sequential consistency
//! behave: shuttle knows none.
//!
//! `MODEL_ITERATIONS` and `MODEL_SEED` set how many interleavings are drawn, and which.

use shuttle::scheduler::{DfsScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// Drawn by a run that asks for no other, so that each run of the tests does the same.
const SEED: u64 = 1;
/// More than any model has to try: one that grows beyond is to be made smaller, not cut short.
const EXHAUSTIVE_MAX: usize = 2_000_000;
/// Steps of one interleaving, after which somebody runs in circles.
const STEPS_MAX: usize = 20_000;
/// Cryptography keeps its tables on the stack.
const STACK_LEN: usize = 512 * 1024;

/// A place where another thread may go on, if this one belongs to a model.
pub(crate) fn step() {
    if is_running() {
        // Time does not pass in a model, so this does nothing but let the scheduler choose. To
        // yield would wake this task as well, and hide a wake-up that it should have been given.
        shuttle::thread::sleep(Duration::ZERO);
    }
}

/// Takes a lock that is not held across a scheduling point, so that nobody ever waits for it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    step();
    let free = mutex.try_lock();
    free.expect("the lock is not held across a scheduling point")
}

/// Whether this thread belongs to a model.
pub(crate) fn is_running() -> bool {
    shuttle::current::try_get_current_task().is_some()
}

/// Tries every interleaving of `model`.
pub(crate) fn exhaust(name: &str, model: impl Fn() + Send + Sync + 'static) {
    let scheduler = DfsScheduler::new(Some(EXHAUSTIVE_MAX), false);
    let tried = explore(scheduler, model);
    assert!(
        tried < EXHAUSTIVE_MAX,
        "{name} has more interleavings than can be tried"
    );
    println!("{name}: all {tried} interleavings");
}

/// Tries interleavings of `model` drawn at random, `iterations` unless the environment says
/// otherwise.
pub(crate) fn sample(name: &str, iterations: usize, model: impl Fn() + Send + Sync + 'static) {
    let iterations = environment("MODEL_ITERATIONS").unwrap_or(iterations);
    let seed = environment("MODEL_SEED").unwrap_or(SEED);
    let tried = explore(RandomScheduler::new_from_seed(seed, iterations), model);
    println!("{name}: {tried} interleavings drawn with seed {seed}");
}

fn explore(scheduler: impl Scheduler + 'static, model: impl Fn() + Send + Sync + 'static) -> usize {
    let mut config = Config::new();
    config.stack_size = STACK_LEN;
    config.max_steps = shuttle::MaxSteps::FailAfter(STEPS_MAX);
    config.silence_warnings = true;
    Runner::new(scheduler, config).run(model)
}

fn environment<T: std::str::FromStr>(name: &str) -> Option<T> {
    let value = std::env::var(name).ok()?;
    let parsed = value.parse().ok();
    Some(parsed.unwrap_or_else(|| panic!("{name} is a whole number, not {value:?}")))
}
