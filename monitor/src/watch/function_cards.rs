//! Cards of which no owner publishes a page, by their PCI functions: how the link of each does, what its
//! driver measures, and whether it is there at all.
//!
//! Those that only their vendor's service drives, as an nShield, are found here, once a minute, by what
//! the kernel says of every function; no function is asked for that. QAT cards are found where their
//! driver is asked, and watched as functions here. One that has been found and is pulled out is
//! remembered as absent until it is back or this program ends: nobody else would tell of it.

use super::function::Function;
use crate::attribution::{Counter, Dossier, RecentChanges};
use crate::checks::{self, CardSight};
use crate::diagnosis::function::{FunctionDiagnosis, FunctionLook, Told};
use crate::status::{
    FunctionFigures, LinkFigures, SensorFigures, VendorCardFigures, warnings_of_sensors,
};
use crate::verdict::Evidence;
use card_spec::pci::Bdf;
use hwshim::clock::Instant;
use hwshim::pci::{DrivenBy, Family, Identity};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Time between two searches for cards.
const SEARCH_INTERVAL: Duration = Duration::from_secs(60);
/// Cards of a host that are looked at: more than any has slots.
const CARDS_MAX: usize = 32;

/// A card that is watched by its function.
#[derive(Debug)]
pub(super) struct FunctionCard {
    bdf: Bdf,
    name: String,
    function: Function,
    diagnosis: FunctionDiagnosis,
}

/// What whoever drives a card tells of it besides.
#[derive(Debug, Default)]
pub(super) struct Besides {
    /// A counter that the card moves by itself.
    pub(super) counter: Counter,
    /// What is at fault by that alone.
    pub(super) told: Option<Told>,
    /// What is no fault, and to be known.
    pub(super) noted: Vec<Evidence>,
}

impl FunctionCard {
    pub(super) fn new(bdf: Bdf, now: Instant) -> Self {
        Self {
            bdf,
            name: format!("pci:{bdf}"),
            function: Function::new(),
            diagnosis: FunctionDiagnosis::new(now),
        }
    }

    /// Looks and judges, by what else is told of it as well.
    pub(super) fn poll(
        &mut self,
        besides: Besides,
        root: &Path,
        changes: &RecentChanges,
        now: Instant,
    ) -> FunctionFigures {
        let seen = self.function.look(self.bdf, root, now);
        self.diagnosis.weigh_changes(changes, &self.name, now);
        self.diagnosis.poll(&FunctionLook {
            at: now,
            link: seen.link.as_deref(),
            sensors: seen.sensors.as_deref(),
            counter: besides.counter,
        });
        let (cause, mut evidence) = self.diagnosis.verdict(besides.told, seen.link.as_deref());
        evidence.extend(besides.noted);
        let assessment = self.diagnosis.assessment();
        let codes = checks::of_card(&CardSight {
            evidence: &evidence,
            breaker: None,
            assessment: Some(&assessment),
            page: None,
            fatal_on_link: seen.fatal_on_link,
        });
        let sensors = seen.sensors.as_deref().and_then(|it| it.as_ref().ok());
        FunctionFigures {
            card: self.name.clone(),
            driver: self.function.driver(self.bdf, root, now),
            cause,
            // Who is drained is known where orders are.
            drained: None,
            evidence,
            advice: checks::advice(&codes),
            codes,
            link: LinkFigures::of(seen.link.as_deref()),
            sensors: sensors.map_or_else(Vec::new, SensorFigures::of),
            warnings: sensors.map_or_else(Vec::new, warnings_of_sensors),
            assessment: Some(assessment),
        }
    }

    /// What is known of it, for who knows more.
    pub(super) const fn dossier(&mut self) -> &mut Dossier {
        self.diagnosis.dossier()
    }

    #[cfg(test)]
    pub(super) fn wait(&self) {
        self.function.wait();
    }
}

/// The cards of this host that only the services of their vendors drive.
#[derive(Debug, Default)]
pub(super) struct FunctionCards {
    searched_at: Option<Instant>,
    cards: BTreeMap<Bdf, (Family, FunctionCard)>,
}

impl FunctionCards {
    /// Looks at every card but those of `owned` names, in the order of their addresses.
    pub(super) fn poll(
        &mut self,
        root: &Path,
        changes: &RecentChanges,
        owned: &[&str],
        now: Instant,
    ) -> Vec<VendorCardFigures> {
        let is_due = |at: Instant| now.since(at) >= SEARCH_INTERVAL;
        if self.searched_at.is_none_or(is_due) {
            self.searched_at = Some(now);
            self.search(root, now);
        }
        self.cards
            .retain(|_, (_, card)| !owned.contains(&&*card.name));
        let cards = self.cards.values_mut();
        let look = |(family, card): &mut (Family, FunctionCard)| VendorCardFigures {
            family: family.name().to_owned(),
            function: card.poll(Besides::default(), root, changes, now),
        };
        cards.map(look).collect()
    }

    fn search(&mut self, root: &Path, now: Instant) {
        for (bdf, family) in find(root) {
            if self.cards.len() < CARDS_MAX {
                let new = || (family, FunctionCard::new(bdf, now));
                self.cards.entry(bdf).or_insert_with(new);
            }
        }
    }

    #[cfg(test)]
    fn wait(&self) {
        self.cards.values().for_each(|(_, card)| card.wait());
    }
}

/// Functions of families that nothing but a library of their vendor's drives.
fn find(root: &Path) -> BTreeMap<Bdf, Family> {
    let Ok(entries) = fs::read_dir(root.join("sys/bus/pci/devices")) else {
        return BTreeMap::new();
    };
    let entries = entries.filter_map(Result::ok);
    let found = entries.filter_map(|entry| {
        let bdf = entry.file_name().to_str()?.parse().ok()?;
        let alias = fs::read_to_string(entry.path().join("modalias")).ok()?;
        let family = Family::of(identity(&alias)?)?;
        let is_vendors = matches!(family.driven_by(), DrivenBy::VendorPkcs11 { .. });
        is_vendors.then_some((bdf, family))
    });
    found.collect()
}

/// What the kernel has kept of a function since it found it, in the one line by which modules are chosen:
/// `pci:v00008086d0000B555sv00000100sd00000100bc10sc00i00`.
fn identity(alias: &str) -> Option<Identity> {
    let rest = alias.trim_end().strip_prefix("pci:v")?;
    let (vendor, rest) = rest.split_once('d')?;
    let (device, rest) = rest.split_once("sv")?;
    let (subsystem_vendor, rest) = rest.split_once("sd")?;
    let (_, class) = rest.split_once("bc")?;
    let number = |digits: &str| u16::try_from(u32::from_str_radix(digits, 16).ok()?).ok();
    Some(Identity {
        vendor: number(vendor),
        device: number(device),
        subsystem_vendor: number(subsystem_vendor),
        base_class: u8::from_str_radix(class.get(..2)?, 16).ok(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Settings, Watch};
    use super::*;
    use crate::probe::Tree;
    use crate::status::Status;
    use crate::verdict::Cause;
    use crate::{metrics, text};
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;
    use std::sync::Arc;

    const CARD: &str = "pci:0000:5e:00.0";
    const PORT: &str = "sys/devices/pci0000:5d/0000:5d:00.0";
    const FUNCTION: &str = "sys/devices/pci0000:5d/0000:5d:00.0/0000:5e:00.0";

    /// The captured tree, laid out in files, and who watches it.
    struct Host {
        tree: Tree,
        watch: Watch,
    }

    impl Host {
        fn new() -> Self {
            let tree = Tree::captured("nshield-xc");
            // Configuration space is no text.
            let mut config = [0; 64];
            config[..4].copy_from_slice(&[0x57, 0x19, 0x2c, 0x08]);
            config[9..12].copy_from_slice(&[0x00, 0x20, 0x0b]);
            config[0x2c..0x30].copy_from_slice(&[0x00, 0x01, 0x00, 0x01]);
            tree.write(&format!("{FUNCTION}/config"), config);
            let watch = Watch::new(Settings::of(&tree.root().join("pages"), tree.root()));
            Self { tree, watch }
        }

        fn path(&self, directory: &str, file: &str) -> PathBuf {
            self.tree.root().join(directory).join(file)
        }

        fn write(&self, directory: &str, file: &str, content: &str) {
            fs::write(self.path(directory, file), content).unwrap();
        }

        /// What is shown a second after all was looked at.
        fn look(&mut self, seconds: u64) -> Arc<Status> {
            let at = |seconds| Instant::ORIGIN.plus(Duration::from_secs(seconds));
            self.watch.poll(at(seconds));
            self.watch.functions.wait();
            Arc::new(self.watch.poll(at(seconds + 1)).status)
        }
    }

    fn only(status: &Status) -> &FunctionFigures {
        assert_eq!(status.functions.len(), 1, "{:?}", status.functions);
        assert_eq!(status.functions[0].family, "nCipher nShield");
        &status.functions[0].function
    }

    /// What its service is told of it.
    fn is_away(status: &Status) -> bool {
        let Status {
            cards,
            qat,
            functions,
            ..
        } = status;
        let facts = super::super::facts_of_all(cards, qat, functions);
        facts.get(CARD).is_some_and(|card| card.absent)
    }

    #[test]
    fn an_nshield_is_found_by_its_function_and_shown_with_its_link_and_sensors() {
        let mut host = Host::new();
        let status = host.look(0);
        let card = only(&status);
        assert_eq!((&*card.card, card.cause), (CARD, Cause::None));
        assert_eq!(card.driver.as_deref(), Some("nfp"));
        assert!(card.evidence.is_empty() && card.warnings.is_empty());
        let link = card.link.as_ref().unwrap();
        assert_eq!(
            (link.answers, link.state.as_deref()),
            (Some(true), Some("full"))
        );
        assert_eq!(link.port.as_ref().unwrap().address, "pci:0000:5d:00.0");
        assert!(status.cards_by_name().eq([CARD]), "it can be drained");
        let shown = text::block(&status).join("\n");
        assert!(shown.contains("5 GT/s x4"), "{shown}");
        assert!(shown.contains("    sensors: board 48 C"), "{shown}");
        assert!(!shown.contains("    link:"), "{shown}");
        let metrics = metrics::text(&status);
        let by_card = format!("card=\"{CARD}\"");
        for line in [
            format!("cardmon_card_cause{{{by_card},cause=\"none\"}} 1.0\n"),
            format!("cardmon_card_link_lanes{{{by_card}}} 4.0\n"),
            format!("cardmon_card_link_speed_gigatransfers_per_second{{{by_card}}} 5.0\n"),
            format!(
                "cardmon_card_link_errors_total{{{by_card},end=\"port\",severity=\"fatal\"}} 0\n"
            ),
            format!("cardmon_card_sensor_celsius{{{by_card},sensor=\"board\"}} 48.0\n"),
        ] {
            assert!(metrics.contains(&line), "{line} in {metrics}");
        }
    }

    #[test]
    fn a_link_that_fails_at_the_port_or_is_narrower_than_it_could_be_is_at_fault() {
        let mut host = Host::new();
        host.look(0);
        host.write(PORT, "aer_dev_correctable", "TOTAL_ERR_COR 4711\n");
        host.write(PORT, "aer_dev_fatal", "TOTAL_ERR_FATAL 1\n");
        let status = host.look(10);
        let card = only(&status);
        assert_eq!(card.cause, Cause::Link, "{card:?}");
        assert_eq!(card.evidence[0].code, "aer");
        assert_eq!(card.codes, [21]);
        let shown = text::block(&status).join("\n");
        let says = "    link: 5 GT/s x4; errors (correctable/nonfatal/fatal): 0/0/0 at the card, \
                    4711/0/1 at pci:0000:5d:00.0";
        assert!(shown.contains(says), "{shown}");

        let mut host = Host::new();
        host.write(FUNCTION, "current_link_width", "1\n");
        let status = host.look(0);
        let card = only(&status);
        assert_eq!((card.cause, &card.codes[..]), (Cause::Link, &[20][..]));
        let shown = text::block(&status).join("\n");
        assert!(
            shown.contains("5 GT/s x1 of 5 GT/s x4 (downtrained)"),
            "{shown}"
        );
    }

    #[test]
    fn errors_that_were_there_when_an_end_of_a_link_or_a_card_came_back_are_no_news() {
        let mut host = Host::new();
        host.look(0);
        for file in ["aer_dev_correctable", "aer_dev_fatal"] {
            fs::remove_file(host.path(PORT, file)).unwrap();
        }
        host.look(10);
        host.write(PORT, "aer_dev_correctable", "TOTAL_ERR_COR 4711\n");
        host.write(PORT, "aer_dev_fatal", "TOTAL_ERR_FATAL 1\n");
        let status = host.look(20);
        assert_eq!(only(&status).cause, Cause::None, "{status:?}");

        let link = host.path("sys/bus/pci/devices", "0000:5e:00.0");
        let target = fs::read_link(&link).unwrap();
        fs::remove_file(&link).unwrap();
        host.look(30);
        host.write(FUNCTION, "aer_dev_correctable", "TOTAL_ERR_COR 4711\n");
        host.write(FUNCTION, "aer_dev_fatal", "TOTAL_ERR_FATAL 1\n");
        symlink(target, link).unwrap();
        let status = host.look(40);
        assert_eq!(only(&status).cause, Cause::None, "{status:?}");
        assert!(only(&status).codes.is_empty(), "{status:?}");
    }

    #[test]
    fn one_that_is_pulled_out_is_absent_and_one_that_reads_as_all_ones_has_lost_its_link() {
        let mut host = Host::new();
        host.look(0);
        fs::write(host.path(FUNCTION, "config"), [0xff; 64]).unwrap();
        let status = host.look(10);
        assert_eq!(only(&status).cause, Cause::Link, "{status:?}");
        assert_eq!(only(&status).evidence[0].code, "gone");
        fs::remove_file(host.path("sys/bus/pci/devices", "0000:5e:00.0")).unwrap();
        for seconds in [20, 120] {
            let status = host.look(seconds);
            assert_eq!(only(&status).cause, Cause::CardAbsent, "{status:?}");
            assert_eq!(only(&status).link, None);
            assert!(is_away(&status), "its service is told");
        }
        let target = "../../../devices/pci0000:5d/0000:5d:00.0/0000:5e:00.0";
        symlink(target, host.path("sys/bus/pci/devices", "0000:5e:00.0")).unwrap();
        host.write(FUNCTION, "config", "");
        let status = host.look(130);
        assert_eq!(only(&status).cause, Cause::None, "{status:?}");
        assert!(!is_away(&status));
    }

    #[test]
    fn a_sensor_past_its_critical_limit_speaks_against_the_card() {
        let mut host = Host::new();
        host.write(FUNCTION, "hwmon/hwmon5/temp1_input", "91000\n");
        let status = host.look(0);
        let card = only(&status);
        assert_eq!(card.codes, [22]);
        assert_eq!(card.warnings[0].code, "sensor-critical");
        // How much it has to do, nobody tells: it is warned of, and likelier the card than not.
        let assessment = card.assessment.as_ref().unwrap();
        assert_eq!(assessment.leading, Cause::Card, "{assessment:?}");
        let shown = text::block(&status).join("\n");
        assert!(shown.contains("    code 22: temperature"), "{shown}");
    }

    #[test]
    fn a_card_whose_owner_publishes_is_not_watched_twice() {
        let host = Host::new();
        let mut cards = FunctionCards::default();
        let mut look = |owned: &[&str]| {
            let changes = RecentChanges::default();
            let root = host.tree.root();
            cards.poll(root, &changes, owned, Instant::ORIGIN).len()
        };
        assert_eq!(look(&[]), 1);
        assert_eq!(look(&[CARD]), 0);
    }

    #[test]
    fn what_the_kernel_keeps_of_a_function_is_read_and_nonsense_is_nothing() {
        let known = identity("pci:v00008086d0000B555sv00000100sd00000100bc10sc00i00\n").unwrap();
        let numbers = (known.vendor, known.device, known.subsystem_vendor);
        assert_eq!(numbers, (Some(0x8086), Some(0xb555), Some(0x0100)));
        assert_eq!(known.base_class, Some(0x10));
        for nonsense in ["", "usb:v1D6Bp0002", "pci:v", "pci:v00008086d0000B555"] {
            assert!(identity(nonsense).is_none(), "{nonsense:?}");
        }
        // `PCI_ANY_ID`, and what is no number, match nothing.
        let any = identity("pci:vFFFFFFFFdxsv00000100sd0bcé").unwrap();
        assert_eq!((any.vendor, any.device, any.base_class), (None, None, None));
    }
}
