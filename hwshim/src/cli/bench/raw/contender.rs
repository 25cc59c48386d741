//! Who is compared: software by itself, and each accelerator behind a router of its own.

use super::Args;
use super::measure::{Window, measure_accelerator, measure_software};
use crate::cli::output::Failure;
use crate::cli::selftest;
use hwshim::accelerator::Operation;
use hwshim::address::{Address, Opened};
use hwshim::clock::{Clock, SystemClock};
use hwshim::router::breaker;
use hwshim::router::core::{Core, LaneStatus, Offload, Options};
use hwshim::router::direct::Direct;
use std::sync::Arc;
use std::time::Duration;

/// What software by itself is called, which `software:ring` behind a router is not.
pub(super) const SOFTWARE: &str = "software";

/// One of those that are compared.
pub(super) struct Contender {
    pub(super) name: String,
    /// None of software.
    router: Option<Direct>,
}

impl Contender {
    /// Software by itself.
    pub(super) fn software() -> Self {
        Self {
            name: SOFTWARE.to_owned(),
            router: None,
        }
    }

    /// The accelerator at `address`, when it has passed its trial.
    pub(super) fn bring_up(address: &Address, args: &Args) -> Result<Self, Failure> {
        /// Time an accelerator has to become usable.
        const BRING_UP: Duration = Duration::from_secs(10);
        let cannot = || format!("{address} cannot be brought up");
        let Opened { accelerator, .. } = address
            .open_accelerator_with(&args.crypto_mb.options())
            .map_err(|error| Failure::new(cannot(), error))?;
        let options = Options {
            timeout: args.timeout,
            offload: Offload::EVERYTHING,
            ..Options::default()
        };
        let clock = Arc::new(SystemClock);
        let core = Core::new(vec![accelerator], options);
        let mut router = Direct::new(core, Arc::clone(&clock) as _);
        router.settle_accelerators(clock.now().plus(BRING_UP));
        let status = router.core().status(0);
        match (status.breaker, status.failure) {
            (breaker::State::Closed { .. }, _) => Ok(Self {
                name: address.to_string(),
                router: Some(router),
            }),
            (_, Some(error)) => Err(Failure::new(cannot(), error).hint(selftest::hint(address))),
            (_, None) => {
                let seconds = BRING_UP.as_secs();
                let cause = format!("it did not pass its trial in {seconds} s");
                Err(Failure::new(cannot(), cause))
            }
        }
    }

    /// Has it do `operations` for `length`: an accelerator `depth` at once, software one at a time.
    pub(super) fn run(
        &mut self,
        operations: &mut dyn FnMut() -> Operation,
        depth: u16,
        length: Duration,
    ) -> Window {
        match &mut self.router {
            Some(router) => measure_accelerator(router, operations, depth, length, &SystemClock),
            None => measure_software(operations, length, &SystemClock),
        }
    }

    /// How the accelerator stands.
    pub(super) fn status(&self) -> Option<LaneStatus> {
        self.router.as_ref().map(|router| router.core().status(0))
    }
}
