//! Looks at how a card is connected: whether it answers, how its link does, and what errors were
//! counted at both ends of it.
//!
//! [`hwshim::pci`] reads; this only says it in a probe's terms. It opens the files anew for each
//! look: a function that was removed and found again has other files under the same names.
//!
//! Reading configuration space of a card that does not answer can block for as long as the root
//! complex waits, which may be a minute. So this is for a [`Runner`](super::Runner).

use super::{Probe, ProbeError};
use card_spec::pci::Bdf;
use hwshim::clock::Instant;
use hwshim::pci::{
    self, AerTotals, LinkState, PowerState, Presence, Problem, Reading, UpstreamPort,
};
use std::io;
use std::path::{Path, PathBuf};

/// How a card is connected.
#[derive(Clone, Debug)]
pub struct Link {
    /// Where.
    pub bdf: Bdf,
    /// Whether it answers. All-ones is what is read where nothing does.
    pub presence: Presence,
    /// Its end of the link: speed and width, now and at most. Absent without a link: conventional
    /// PCI, virtual functions, what is built into the root complex.
    pub link: Result<pci::Link, ProbeError>,
    /// How the link runs, held against what both ends can do; `None` without one.
    pub state: Option<LinkState>,
    /// Errors that the function itself counted.
    pub errors: ErrorTotals,
    /// The port above it, which often is the only one to count the errors of the link between
    /// them. Absent for functions of the root complex.
    pub port: Result<Port, ProbeError>,
    /// Its power state.
    pub power_state: Result<PowerState, ProbeError>,
    /// What is wrong with its configuration space, in words.
    pub problems: Vec<String>,
}

/// The port above a card.
#[derive(Clone, Debug)]
pub struct Port {
    /// Where.
    pub bdf: Bdf,
    /// Its end of the link.
    pub link: Result<pci::Link, ProbeError>,
    /// Errors that it counted.
    pub errors: ErrorTotals,
}

/// Errors counted at one end of a link since the kernel found it, by severity. Absent where the
/// kernel or the hardware counts none.
#[derive(Clone, Debug)]
pub struct ErrorTotals {
    /// Corrected by the link itself.
    pub correctable: Result<u64, ProbeError>,
    /// A transaction was lost.
    pub nonfatal: Result<u64, ProbeError>,
    /// The link is not to be trusted any more.
    pub fatal: Result<u64, ProbeError>,
}

/// Looks at how a card is connected.
#[derive(Debug)]
pub struct LinkProbe {
    sysfs: PathBuf,
}

impl LinkProbe {
    /// Looks under `root`: `/` is this host, anything else a captured tree.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            sysfs: root.join("sys"),
        }
    }
}

impl Probe for LinkProbe {
    type Subject = Bdf;
    type Observation = Link;

    fn name(&self) -> &'static str {
        "link"
    }

    fn observe(&mut self, &bdf: &Bdf, _now: Instant) -> Result<Link, ProbeError> {
        let what = format!("PCI function {bdf}");
        let function = seen(pci::find(&self.sysfs, bdf), &what)?;
        let state = function.link_state();
        let problems = function.config_problems.iter().map(Problem::to_string);
        Ok(Link {
            bdf,
            presence: function.presence,
            state,
            problems: problems.collect(),
            link: seen(function.link, "a link"),
            errors: function.aer.into(),
            port: seen(function.upstream, "a port above").map(Port::from),
            power_state: seen(function.power_state, "a power state"),
        })
    }
}

impl From<UpstreamPort> for Port {
    fn from(port: UpstreamPort) -> Self {
        Self {
            bdf: port.bdf,
            link: seen(port.link, "a link"),
            errors: port.aer.into(),
        }
    }
}

impl From<AerTotals> for ErrorTotals {
    fn from(totals: AerTotals) -> Self {
        let total = |total| seen(total, "a counter of errors");
        Self {
            correctable: total(totals.correctable),
            nonfatal: total(totals.nonfatal),
            fatal: total(totals.fatal),
        }
    }
}

fn seen<T>(reading: Reading<T>, what: &str) -> Result<T, ProbeError> {
    match reading {
        Reading::Known(value) => Ok(value),
        Reading::Absent => Err(ProbeError::Absent {
            what: what.to_owned(),
        }),
        Reading::Failed(problem) => Err(problem.into()),
    }
}

impl From<Problem> for ProbeError {
    fn from(problem: Problem) -> Self {
        let path = problem.file().to_owned();
        match problem {
            Problem::Unreadable { reason, .. } => Self::Unreadable {
                path,
                source: io::Error::other(reason),
            },
            Problem::Invalid { reason, .. } => Self::Nonsense {
                path,
                what: format!("makes no sense: {reason}"),
            },
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::tree::Tree;
    use super::*;

    const CARD: &str = "0000:3b:00.0";
    const FUNCTION: &str = "sys/devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0";
    const PORT: &str = "sys/devices/pci0000:3a/0000:3a:00.0";

    /// A card at half its width, below a port that counts the errors.
    pub(crate) fn host() -> Tree {
        let tree = Tree::empty();
        tree.link(
            "sys/bus/pci/devices/0000:3b:00.0",
            "../../../devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0",
        );
        for directory in [FUNCTION, PORT] {
            for (file, content) in [
                ("max_link_speed", "16.0 GT/s PCIe\n"),
                ("max_link_width", "8\n"),
                ("current_link_speed", "16.0 GT/s PCIe\n"),
                ("current_link_width", "4\n"),
                ("aer_dev_nonfatal", "TOTAL_ERR_NONFATAL 0\n"),
                ("aer_dev_fatal", "TOTAL_ERR_FATAL 0\n"),
            ] {
                tree.write(&format!("{directory}/{file}"), content);
            }
        }
        let correctable = |count| format!("RxErr {count}\nTOTAL_ERR_COR {count}\n");
        tree.write(&format!("{FUNCTION}/aer_dev_correctable"), correctable(0));
        tree.write(&format!("{PORT}/aer_dev_correctable"), correctable(4711));
        tree.write(&format!("{FUNCTION}/power_state"), "D0\n");
        let mut config = [0; 64];
        config[..4].copy_from_slice(&[0x86, 0x80, 0x41, 0x49]);
        config[9..12].copy_from_slice(&[0x00, 0x40, 0x0b]);
        tree.write(&format!("{FUNCTION}/config"), config);
        tree
    }

    fn look(tree: &Tree) -> Result<Link, ProbeError> {
        let bdf = CARD.parse().unwrap();
        LinkProbe::new(tree.root()).observe(&bdf, Instant::ORIGIN)
    }

    #[test]
    fn errors_are_counted_at_both_ends_of_a_downtrained_link() {
        let link = look(&host()).unwrap();
        assert_eq!(link.presence, Presence::Present);
        assert_eq!(link.state, Some(LinkState::Downtrained));
        assert_eq!(link.link.unwrap().current.unwrap().width, 4);
        assert_eq!(link.errors.correctable.unwrap(), 0);
        let port = link.port.unwrap();
        assert_eq!(port.bdf.to_string(), "0000:3a:00.0");
        assert_eq!(port.errors.correctable.unwrap(), 4711);
        assert_eq!(link.power_state.unwrap(), PowerState::D0);
        assert_eq!(link.problems, Vec::<String>::new());
    }

    #[test]
    fn a_card_that_does_not_answer_and_one_that_is_not_there_are_told_apart() {
        let tree = host();
        tree.write(&format!("{FUNCTION}/config"), [0xff; 64]);
        assert_eq!(look(&tree).unwrap().presence, Presence::Gone);
        tree.remove(FUNCTION);
        assert_eq!(look(&tree).unwrap_err().kind(), "absent");
    }

    #[test]
    fn a_counter_that_is_missing_or_nonsense_is_not_zero() {
        let tree = host();
        tree.remove(&format!("{FUNCTION}/aer_dev_fatal"));
        tree.write(&format!("{FUNCTION}/aer_dev_correctable"), "RxErr 0\n");
        let errors = look(&tree).unwrap().errors;
        assert_eq!(errors.fatal.unwrap_err().kind(), "absent");
        assert_eq!(errors.correctable.unwrap_err().kind(), "nonsense");
        assert_eq!(errors.nonfatal.unwrap(), 0);
    }
}
