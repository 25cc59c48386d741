//! What the kernel has of the PCI function of a card, whoever drives it: how its link does, what its
//! driver measures of it, and which driver that is. It judges nothing.

use super::at_function::AtFunction;
use super::driver::Driver;
use crate::diagnosis::link::growth;
use crate::probe::{HwmonProbe, Link, LinkProbe, ProbeError, Sensors};
use card_spec::pci::Bdf;
use hwshim::clock::Instant;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Time between two looks at how a card is connected: errors of a link are counted for good.
const LINK_INTERVAL: Duration = Duration::from_secs(5);
/// Time that such a look may take. Configuration space of a card that does not answer can block
/// for a minute.
const LINK_TIMEOUT: Duration = Duration::from_secs(3);
/// Time between two looks at what a card's driver measures. Chips are asked over slow buses, and what
/// they measure changes slowly.
const SENSORS_INTERVAL: Duration = Duration::from_secs(5);
/// Time that such a look may take. A bus that hangs holds up whoever reads for as long.
const SENSORS_TIMEOUT: Duration = Duration::from_secs(3);
/// A fatal error of a link is news for so long, as its evidence is.
const FATAL_FRESH: Duration = Duration::from_secs(10 * 60);

/// Looks at one function.
#[derive(Debug)]
pub(super) struct Function {
    link: AtFunction<LinkProbe>,
    sensors: AtFunction<HwmonProbe>,
    driver: Driver,
    fatal: FatalErrors,
}

/// What the last looks at it saw; `None` before the first, and of sensors where there are none.
#[derive(Clone, Debug)]
pub(super) struct FunctionSight {
    pub(super) link: Option<Arc<Result<Link, ProbeError>>>,
    pub(super) sensors: Option<Arc<Result<Sensors, ProbeError>>>,
    /// Whether it or the port above it has counted a fatal error of late.
    pub(super) fatal_on_link: bool,
}

impl Function {
    pub(super) fn new() -> Self {
        Self {
            link: AtFunction::new(LinkProbe::new, LINK_INTERVAL, LINK_TIMEOUT),
            sensors: AtFunction::new(HwmonProbe::new, SENSORS_INTERVAL, SENSORS_TIMEOUT),
            driver: Driver::default(),
            fatal: FatalErrors::default(),
        }
    }

    pub(super) fn look(&mut self, bdf: Bdf, root: &Path, now: Instant) -> FunctionSight {
        let link = self.link.poll(bdf, root, now);
        FunctionSight {
            fatal_on_link: self.fatal.poll(link.as_deref(), now),
            sensors: self.look_at_sensors(bdf, root, now),
            link,
        }
    }

    /// Its kernel driver with its version.
    pub(super) fn driver(&mut self, bdf: Bdf, root: &Path, now: Instant) -> Option<String> {
        self.driver.poll(root, bdf, now)
    }

    /// Looks while there are any: of a card without sensors, or that has gone, nothing is said.
    fn look_at_sensors(
        &mut self,
        bdf: Bdf,
        root: &Path,
        now: Instant,
    ) -> Option<Arc<Result<Sensors, ProbeError>>> {
        let place = format!("sys/bus/pci/devices/{bdf}/hwmon");
        if !root.join(place).is_dir() {
            self.sensors.stop();
            return None;
        }
        let seen = self.sensors.poll(bdf, root, now);
        seen.filter(|seen| !matches!(**seen, Err(ProbeError::Absent { .. })))
    }

    /// Waits for the looks under way; there is one at the link at least.
    #[cfg(test)]
    pub(super) fn wait(&self) {
        let patience = Duration::from_secs(60);
        assert!(self.link.wait(patience));
        self.sensors.wait(patience);
    }
}

/// Fatal errors that the card or the port above it has counted. They are counted for good, so what
/// tells is that there are more.
#[derive(Debug, Default)]
struct FatalErrors {
    /// At the function, and at the port.
    before: [Option<u64>; 2],
    seen_at: Option<Instant>,
}

impl FatalErrors {
    /// Whether there was one of late.
    fn poll(&mut self, link: Option<&Result<Link, ProbeError>>, now: Instant) -> bool {
        match link {
            Some(Ok(link)) => {
                let port = link.port.as_ref().ok().map(|port| &port.errors);
                let ends = [Some(&link.errors), port];
                let counts = ends.map(|end| end?.fatal.as_ref().ok().copied());
                let before = std::mem::replace(&mut self.before, counts);
                if growth(before, counts).is_some_and(|it| it > 0) {
                    self.seen_at = Some(now);
                }
            }
            // What comes next into its place counts for itself.
            Some(Err(ProbeError::Absent { .. })) => self.before = [None; 2],
            Some(Err(_)) | None => {}
        }
        self.seen_at.is_some_and(|at| now.since(at) < FATAL_FRESH)
    }
}
