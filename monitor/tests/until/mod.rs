//! Waits for what another process or thread does.

use hwshim::clock::{Clock, SystemClock};
use std::thread;
use std::time::Duration;

/// Far longer than anything takes; only a mistake meets it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Looks again and again until `is_so`, and leaves the core to whom it waits for meanwhile.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = SystemClock.now().plus(PATIENCE);
    while !is_so() {
        assert!(SystemClock.now() < deadline, "waited in vain: {what}");
        thread::park_timeout(Duration::from_millis(5));
    }
}
