//! Whether a signature is worth handing over: the one place that decides it for TLS.
//!
//! Handing over costs latency and saves CPU time. While there are no more handshakes than CPUs,
//! each has one to itself, and software answers soonest. When there are more they wait for a CPU
//! anyhow, and what the accelerator does meanwhile is gained.
//!
//! ```text
//!   handshakes <= CPUs ---> software
//!   else: no accelerator that the router would give it to ---> software
//!   else ---> the router, which has its own deadline and its own fallback
//! ```

use crate::router::Router;
use crate::router::breaker::State;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;

/// How much is going on where a signature is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Handshakes under way, this one included.
    pub(crate) handshakes: usize,
    /// Threads that could be at work on them.
    pub(crate) cpus: usize,
}

impl Load {
    /// Nothing goes on.
    pub(crate) const NONE: Self = Self {
        handshakes: 0,
        cpus: 0,
    };
}

/// Whether a signature should go to the router.
pub(super) fn pays(router: &Router, load: Load) -> bool {
    load.handshakes > load.cpus && has_accelerator(router)
}

fn has_accelerator(router: &Router) -> bool {
    let mut lanes = router.status().into_iter();
    lanes.any(|lane| matches!(lane.breaker, State::Closed { .. }))
}

/// Counts the threads that are signing, which is what is known of the load where nobody counts
/// handshakes.
#[derive(Debug, Default)]
pub(super) struct Signing(AtomicUsize);

/// One thread that is signing.
pub(super) struct Signer<'a>(&'a Signing);

impl Signing {
    pub(super) fn begin(&self) -> (Signer<'_>, Load) {
        static CPUS: LazyLock<usize> =
            LazyLock::new(|| available_parallelism().map_or(1, usize::from));
        let handshakes = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        let load = Load {
            handshakes,
            cpus: *CPUS,
        };
        (Signer(self), load)
    }
}

impl Drop for Signer<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
