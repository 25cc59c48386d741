//! Looks at a card by what the kernel has of its PCI function: begins when its address is known, and
//! begins anew when that is another.

use crate::probe::{Periodic, Probe, ProbeError};
use card_spec::pci::Bdf;
use hwshim::clock::Instant;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A probe of PCI functions, pointed at one card.
#[derive(Debug)]
pub(super) struct AtFunction<P: Probe<Subject = Bdf>> {
    make: fn(&Path) -> P,
    interval: Duration,
    timeout: Duration,
    running: Option<(Bdf, Result<Periodic<P>, ProbeError>)>,
}

impl<P> AtFunction<P>
where
    P: Probe<Subject = Bdf> + Send + 'static,
    P::Observation: Send + Sync,
{
    /// Looks every `interval`, with what `make` makes of the root; a look may take `timeout`.
    pub(super) const fn new(make: fn(&Path) -> P, interval: Duration, timeout: Duration) -> Self {
        Self {
            make,
            interval,
            timeout,
            running: None,
        }
    }

    /// Asks for a look at `bdf` if one is due, and gives what the last one saw.
    pub(super) fn poll(
        &mut self,
        bdf: Bdf,
        root: &Path,
        now: Instant,
    ) -> Option<Arc<Result<P::Observation, ProbeError>>> {
        if self.running.as_ref().is_none_or(|(known, _)| *known != bdf) {
            let place = root.join(format!("sys/bus/pci/devices/{bdf}"));
            let probe = (self.make)(root);
            let periodic = Periodic::start(probe, bdf, place, self.interval, self.timeout);
            self.running = Some((bdf, periodic));
        }
        match &mut self.running.as_mut()?.1 {
            Ok(periodic) => periodic.poll(now),
            Err(error) => Some(Arc::new(Err(error.clone()))),
        }
    }

    /// Looks no more.
    pub(super) fn stop(&mut self) {
        self.running = None;
    }

    /// Waits for the look under way; whether it has ended.
    #[cfg(test)]
    pub(super) fn wait(&self, patience: Duration) -> bool {
        let periodic = self.running.as_ref().and_then(|it| it.1.as_ref().ok());
        periodic.is_some_and(|it| it.wait(patience))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Settings, Watch};
    use crate::status::{CardStatus, Status};
    use crate::{metrics, text};
    use card_spec::telemetry::{Page, padded};
    use hwshim::clock::Instant;
    use hwshim::telemetry::Publisher;
    use std::fs;
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;
    use tempfile::TempDir;

    const CARD: &str = "pci:0000:3b:00.0";
    const CHIP: &str = "sys/bus/pci/devices/0000:3b:00.0/hwmon/hwmon3";

    /// A host with one card, the page of its owner, and who watches.
    struct Host {
        root: TempDir,
        _publisher: Publisher,
        watch: Watch,
    }

    impl Host {
        fn with(files: &[(&str, &str)]) -> Self {
            let root = tempfile::tempdir().unwrap();
            let pages = root.path().join("run/hwshim");
            fs::create_dir_all(&pages).unwrap();
            let mut publisher = Publisher::create(&pages, CARD).unwrap();
            let mut page = Page::new();
            page.owner.address = padded(CARD);
            publisher.publish(&page).unwrap();
            let watch = Watch::new(Settings::of(&pages, root.path()));
            let host = Self {
                root,
                _publisher: publisher,
                watch,
            };
            files
                .iter()
                .for_each(|(file, content)| host.write(file, content));
            host
        }

        fn write(&self, file: &str, content: &str) {
            let path = self.root.path().join(CHIP).join(Path::new(file));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }

        /// What is shown a second after sensors were looked at.
        fn look(&mut self, seconds: u64) -> Status {
            let at = |seconds| Instant::ORIGIN.plus(Duration::from_secs(seconds));
            self.watch.poll(at(seconds));
            for card in self.watch.cards.values() {
                card.function.wait();
            }
            self.watch.poll(at(seconds + 1)).status
        }
    }

    fn codes(card: &CardStatus) -> Vec<&str> {
        card.warnings.iter().map(|it| &*it.code).collect()
    }

    #[test]
    fn sensors_of_a_card_are_shown_and_warned_of_and_critical_ones_speak_against_it() {
        let mut host = Host::with(&[
            ("name", "nitrox\n"),
            ("temp1_input", "53000\n"),
            ("temp1_label", "core\n"),
            ("temp1_max", "95000\n"),
            ("temp1_crit", "105000\n"),
            ("in0_input", "998\n"),
        ]);
        let status = Arc::new(host.look(0));
        assert_eq!(codes(&status.cards[0]), Vec::<&str>::new());
        let shown = text::block(&status).join("\n");
        assert!(
            shown.contains("    sensors: core 53 C, in0 0.998 V"),
            "{shown}"
        );
        let metrics = metrics::text(&status);
        let labels = "card=\"pci:0000:3b:00.0\",sensor=\"core\"";
        for line in [
            format!("cardmon_card_sensor_celsius{{{labels}}} 53.0\n"),
            format!("cardmon_card_sensor_critical_celsius{{{labels}}} 105.0\n"),
        ] {
            assert!(metrics.contains(&line), "{line} in {metrics}");
        }

        host.write("temp1_input", "96500\n");
        let status = host.look(10);
        assert_eq!(codes(&status.cards[0]), ["sensor-past-limit"]);
        assert!(!status.cards[0].codes.contains(&22));
        let said = &status.cards[0].warnings[0].detail;
        assert_eq!(said, "core reads 96.5 C (max 95 C, critical 105 C)");

        host.write("temp1_input", "105000\n");
        let status = Arc::new(host.look(20));
        assert_eq!(codes(&status.cards[0]), ["sensor-critical"]);
        assert!(status.cards[0].codes.contains(&22), "{:?}", status.cards[0]);
        let metrics = metrics::text(&status);
        let warned = "card=\"pci:0000:3b:00.0\",warning=\"sensor-critical\"";
        assert!(metrics.contains(&format!("cardmon_card_warning{{{warned}}} 1.0\n")));

        host.write("temp1_input", "60000\n");
        let status = host.look(30);
        assert_eq!(codes(&status.cards[0]), Vec::<&str>::new());
        assert!(!status.cards[0].codes.contains(&22));
    }

    #[test]
    fn of_a_card_without_sensors_nothing_is_said() {
        let mut host = Host::with(&[("temp1_input", "53000\n")]);
        assert_eq!(host.look(0).cards[0].sensors.len(), 1);
        let hwmon = host.root.path().join(CHIP);
        fs::remove_dir_all(hwmon.parent().unwrap()).unwrap();
        let card = host.look(10).cards.remove(0);
        assert!(card.sensors.is_empty() && card.warnings.is_empty());
        let blind = card.probe_errors.iter().find(|it| it.probe == "hwmon");
        assert_eq!(blind, None);
    }
}
