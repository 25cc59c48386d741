//! Finds the PCI functions of a host, and says what each is, how its link does and how it can be
//! used.
//!
//! Reads sysfs and nothing else: it opens no device, binds no driver and changes nothing. Each
//! attribute is a [`Reading`], so that what is absent, what cannot be seen and what is nonsense
//! stay three different findings, and one bad function never hides the others.
//!
//! ```text
//! <sysfs>/bus/pci/devices/0000:3b:00.0 -> devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0
//!                                                            upstream port  the function
//! ```
//!
//! Of configuration space only the 64 bytes of the header are read, and of accelerators the
//! conventional 256: there are old cards that hang when undefined registers are read. Reading it
//! wakes a sleeping function.

mod aer;
mod family;
mod function;
mod link;
mod reading;
mod sysfs;
mod usability;

pub use aer::AerTotals;
pub use family::{DrivenBy, Family, Identity};
pub use function::{ClassCode, IommuGroup, PciFunction, PowerState, Presence, UpstreamPort};
pub use link::{Link, LinkRate, LinkSpeed, LinkState};
pub use reading::{PathText, Problem, Reading};
pub(crate) use usability::binding_commands;
pub use usability::{Advice, Usability};

use card_spec::pci::Bdf;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Enumerates the functions under `sysfs`, which is `/sys` except in tests.
///
/// A host without a PCI bus has an empty inventory.
///
/// # Errors
///
/// [`PciError`] if there is no telling what functions there are. What is wrong with a single
/// function is in [`Inventory::warnings`].
pub fn enumerate(sysfs: &Path) -> Result<Inventory, PciError> {
    if !sysfs.join("bus").is_dir() {
        return Err(PciError::NotSysfs {
            path: sysfs.to_owned(),
        });
    }
    let mut inventory = Inventory {
        functions: Vec::new(),
        problems: Vec::new(),
    };
    let devices = sysfs.join("bus/pci/devices");
    let unreadable = |source| PciError::Unreadable {
        path: devices.clone(),
        source,
    };
    let entries = match fs::read_dir(&devices) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(inventory),
        entries => entries.map_err(unreadable)?,
    };
    for entry in entries {
        match identify_entry(&entry.map_err(unreadable)?) {
            Ok((bdf, directory)) => inventory.functions.push(PciFunction::read(bdf, &directory)),
            Err(problem) => inventory.problems.push(problem),
        }
    }
    inventory.functions.sort_by_key(|function| function.bdf);
    inventory
        .problems
        .sort_by(|one, other| one.file().cmp(other.file()));
    Ok(inventory)
}

/// Takes one entry of `bus/pci/devices`, a link into the tree of devices, for a function.
fn identify_entry(entry: &fs::DirEntry) -> Result<(Bdf, PathBuf), Problem> {
    let path = entry.path();
    let name = entry.file_name();
    let bdf = name
        .to_str()
        .and_then(|name| name.parse().ok())
        .ok_or_else(|| Problem::invalid(&path, "its name is not a PCI address"))?;
    match fs::metadata(&path) {
        Ok(_) => Ok((bdf, path)),
        Err(error) => Err(Problem::unreadable(&path, &error)),
    }
}

/// Reads the function at `bdf`; absent if the kernel has none there. Cheaper than [`enumerate`] for
/// who looks at one card again and again.
#[must_use]
pub fn find(sysfs: &Path, bdf: Bdf) -> Reading<PciFunction> {
    let path = sysfs.join("bus/pci/devices").join(bdf.to_string());
    match fs::metadata(&path) {
        Ok(_) => Reading::Known(PciFunction::read(bdf, &path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Reading::Absent,
        Err(error) => Reading::Failed(Problem::unreadable(&path, &error)),
    }
}

/// There is no telling what functions this host has.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PciError {
    /// The directory is not a sysfs.
    #[error("{} is not a sysfs: it has no directory \"bus\"", path.display())]
    NotSysfs {
        /// The directory.
        path: PathBuf,
    },
    /// The kernel's list of functions cannot be read.
    #[error("{} cannot be read", path.display())]
    Unreadable {
        /// The directory.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
}

/// The PCI functions of a host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Inventory {
    /// All functions, by address.
    pub functions: Vec<PciFunction>,
    /// What is wrong with entries that could not even be taken for a function.
    pub problems: Vec<Problem>,
}

impl Inventory {
    /// Everything that could not be read or makes no sense, and of which function.
    pub fn warnings(&self) -> impl Iterator<Item = (Option<Bdf>, &Problem)> {
        let of_functions = self.functions.iter().flat_map(|function| {
            let problems = function.problems().into_iter();
            problems.map(|problem| (Some(function.bdf), problem))
        });
        let of_bus = self.problems.iter().map(|problem| (None, problem));
        of_bus.chain(of_functions)
    }

    /// Says how `function`, one of this inventory, can be used; `None` if it is no accelerator.
    #[must_use]
    pub fn advice(&self, function: &PciFunction) -> Option<Advice> {
        let family = function.family?;
        Some(usability::judge(function, family, &self.functions))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::symlink;

    /// A sysfs with one function, `0000:00:01.0`, that has `files`.
    fn machine_with(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let sysfs = tempfile::tempdir().unwrap();
        let function = sysfs.path().join("devices/pci0000:00/0000:00:01.0");
        fs::create_dir_all(&function).unwrap();
        fs::create_dir_all(sysfs.path().join("bus/pci/devices")).unwrap();
        for (name, content) in files {
            fs::write(function.join(name), content).unwrap();
        }
        let entry = sysfs.path().join("bus/pci/devices/0000:00:01.0");
        symlink("../../../devices/pci0000:00/0000:00:01.0", entry).unwrap();
        sysfs
    }

    fn function_with(files: &[(&str, &[u8])]) -> PciFunction {
        let sysfs = machine_with(files);
        let mut inventory = enumerate(sysfs.path()).unwrap();
        inventory.functions.remove(0)
    }

    /// Header of 8086:4941, class 0b4000, subsystem 1234:5678.
    fn header() -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..4].copy_from_slice(&[0x86, 0x80, 0x41, 0x49]);
        bytes[9..12].copy_from_slice(&[0x00, 0x40, 0x0b]);
        bytes[0x2c..0x30].copy_from_slice(&[0x34, 0x12, 0x78, 0x56]);
        bytes
    }

    #[test]
    fn configuration_space_stands_in_for_missing_attributes() {
        let function = function_with(&[("config", &header())]);
        assert_eq!(function.presence, Presence::Present);
        assert_eq!(function.vendor, Reading::Known(0x8086));
        assert_eq!(function.device, Reading::Known(0x4941));
        assert_eq!(function.subsystem_vendor, Reading::Known(0x1234));
        assert_eq!(function.subsystem_device, Reading::Known(0x5678));
        assert_eq!(function.class, Reading::Known(ClassCode(0x000b_4000)));
        assert_eq!(function.family, Some(Family::Qat));
        assert_eq!(function.problems(), Vec::<&Problem>::new());
    }

    #[test]
    fn one_function_is_found_without_the_others() {
        let sysfs = machine_with(&[("config", &header())]);
        let inventory = enumerate(sysfs.path()).unwrap();
        let function = &inventory.functions[0];
        assert_eq!(
            find(sysfs.path(), function.bdf),
            Reading::Known(function.clone())
        );
        let elsewhere = Bdf {
            device: 2,
            ..function.bdf
        };
        assert_eq!(find(sysfs.path(), elsewhere), Reading::Absent);
    }

    #[test]
    fn a_bridge_has_no_subsystem_where_an_endpoint_has_it() {
        let mut bridge = header();
        bridge[0x0e] = 0x81;
        let function = function_with(&[("config", &bridge)]);
        assert_eq!(function.subsystem_vendor, Reading::Absent);
    }

    #[test]
    fn a_virtual_function_is_not_gone_although_its_ids_read_all_ones() {
        let mut config = header();
        config[..4].fill(0xff);
        let ids: [(&str, &[u8]); 3] = [
            ("config", &config),
            ("vendor", b"0x8086\n"),
            ("device", b"0x4941\n"),
        ];
        let function = function_with(&ids);
        assert_eq!(function.presence, Presence::Present);
        assert_eq!(function.device, Reading::Known(0x4941));
        assert_eq!(function.problems(), Vec::<&Problem>::new());
        let answered_by_a_virtual_machine = [[0xff; 16], [0x5a; 16], [0; 16], [0xff; 16]].concat();
        let config = ("config", &*answered_by_a_virtual_machine);
        assert_eq!(function_with(&[config]).presence, Presence::Gone);
        let gone = function_with(&[("config", &[0xff; 64]), ids[1], ids[2]]);
        assert_eq!(gone.presence, Presence::Gone);
        assert_eq!(gone.family, Some(Family::Qat));
    }

    #[test]
    fn a_function_that_says_nothing_is_unidentified_and_warned_about() {
        let function = function_with(&[]);
        assert!(function.is_unidentified());
        assert_eq!(function.presence, Presence::Unknown);
        assert_eq!(function.problems().len(), 2);
    }

    #[test]
    fn the_root_complex_is_no_upstream_port() {
        assert_eq!(function_with(&[]).upstream, Reading::Absent);
    }

    #[test]
    fn an_entry_whose_name_is_not_text_is_a_warning() {
        let sysfs = machine_with(&[("config", &header())]);
        let entry = OsStr::from_bytes(b"0000:00:\xff2.0");
        symlink(
            "../../../devices",
            sysfs.path().join("bus/pci/devices").join(entry),
        )
        .unwrap();
        let inventory = enumerate(sysfs.path()).unwrap();
        assert_eq!(inventory.functions.len(), 1);
        assert_eq!(inventory.warnings().count(), 1);
    }

    #[test]
    fn a_host_without_pci_is_empty_and_a_directory_without_a_bus_is_an_error() {
        let sysfs = tempfile::tempdir().unwrap();
        let error = enumerate(sysfs.path()).unwrap_err();
        assert!(matches!(error, PciError::NotSysfs { .. }));
        fs::create_dir(sysfs.path().join("bus")).unwrap();
        let inventory = enumerate(sysfs.path()).unwrap();
        assert_eq!(inventory.functions, []);
    }

    /// Text of the sort that attributes hold, and anything else.
    fn attribute() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..80),
            "(0x)?[0-9a-f]{0,8}\n?".prop_map(String::into_bytes),
            "(TOTAL_ERR_(COR|FATAL)|RxErr)? ?[0-9x -]{0,24}\n?".prop_map(String::into_bytes),
            "[0-9.]{0,5} GT/s( PCIe)?\n?".prop_map(String::into_bytes),
        ]
    }

    /// Configuration space of a known card with a capability list that leads anywhere.
    fn config() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(any::<u8>(), 0..300).prop_map(|mut bytes| {
            let is_card = bytes.get(5).is_some_and(|byte| byte & 1 == 1);
            if let Some(ids) = bytes.get_mut(..8).filter(|_| is_card) {
                ids.copy_from_slice(&[0x86, 0x80, 0x40, 0x49, 0, 0, 0x10, 0]);
            }
            bytes
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn whatever_files_hold_is_a_reading_never_a_panic(
            config in config(),
            texts in proptest::collection::vec(attribute(), 16),
        ) {
            const NAMES: [&str; 16] = [
                "vendor", "device", "subsystem_vendor", "subsystem_device", "class", "numa_node",
                "power_state", "current_link_speed", "current_link_width", "max_link_speed",
                "max_link_width", "aer_dev_correctable", "aer_dev_nonfatal", "aer_dev_fatal",
                "driver", "iommu_group",
            ];
            let texts = NAMES.iter().zip(&texts).map(|(name, text)| (*name, text.as_slice()));
            let files: Vec<_> = texts.chain([("config", config.as_slice())]).collect();
            let function = function_with(&files);
            prop_assert!(!function.problems().is_empty(), "a file is no driver");
            let _ = (function.link_state(), function.device_name(), function.class_name());
        }
    }
}
