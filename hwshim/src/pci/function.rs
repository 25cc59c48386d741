//! One PCI function: who it is, who holds it, how its link does.
//!
//! Reads one directory of sysfs, and of configuration space no more than it must. What follows from
//! what it read, [`usability`](super::usability) says.

use super::reading::{Problem, Reading};
use super::sysfs::Directory;
use super::{AerTotals, Family, Identity, Link, LinkState};
use card_spec::pci::{
    Bdf, CONFIG_LEN, Capability, Header, REVISION_AND_CLASS_LEN, REVISION_AND_CLASS_OFFSET,
    capabilities, capability,
};
use card_spec::zerocopy::FromBytes;
use serde::{Serialize, Serializer};
use std::fmt;
use std::fs;
use std::path::Path;

/// One PCI function, as the kernel and its configuration space describe it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PciFunction {
    /// Its address.
    pub bdf: Bdf,
    /// Whether it answers.
    pub presence: Presence,
    /// Vendor ID.
    pub vendor: Reading<u16>,
    /// Device ID.
    pub device: Reading<u16>,
    /// Subsystem vendor ID.
    pub subsystem_vendor: Reading<u16>,
    /// Subsystem ID.
    pub subsystem_device: Reading<u16>,
    /// Class code.
    pub class: Reading<ClassCode>,
    /// Family of crypto accelerators it belongs to, if it is one.
    pub family: Option<Family>,
    /// Driver bound to it.
    pub driver: Reading<String>,
    /// IOMMU group; absent without an IOMMU.
    pub iommu_group: Reading<IommuGroup>,
    /// NUMA node; absent where the host does not say.
    pub numa_node: Reading<u32>,
    /// Link; absent for conventional PCI, virtual functions and integrated endpoints.
    pub link: Reading<Link>,
    /// Its error totals.
    pub aer: AerTotals,
    /// The port at the other end of its link; absent for functions of the root complex.
    pub upstream: Reading<UpstreamPort>,
    /// Power state.
    pub power_state: Reading<PowerState>,
    /// Feature bits that the kernel's virtio driver negotiated, while it holds the function.
    pub virtio_features: Reading<u64>,
    /// What is wrong with its configuration space.
    pub config_problems: Vec<Problem>,
}

/// Whether a function answers on the bus.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Presence {
    /// It answers.
    Present,
    /// Its configuration space reads all-ones, as it does when nothing answers.
    Gone,
    /// Its configuration space could not be read.
    Unknown,
}

/// Class code: base class, subclass and programming interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ClassCode(pub u32);

impl ClassCode {
    /// Base class.
    #[must_use]
    pub const fn base(self) -> u8 {
        self.0.to_be_bytes()[1]
    }

    /// Subclass.
    #[must_use]
    pub const fn subclass(self) -> u8 {
        self.0.to_be_bytes()[2]
    }
}

impl fmt::Display for ClassCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#08x}", self.0)
    }
}

/// The group of functions that an IOMMU cannot tell apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct IommuGroup {
    /// Its number.
    pub number: u32,
    /// Whether an IOMMU really stands between it and memory; `vfio-noiommu` groups have none.
    pub is_protected: bool,
}

/// The port a function hangs on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UpstreamPort {
    /// Its address.
    pub bdf: Bdf,
    /// Its end of the link.
    pub link: Reading<Link>,
    /// Its error totals: an endpoint in trouble often reports none itself.
    pub aer: AerTotals,
}

/// Device power state (PCI Power Management §5.4.1 "Power State Definitions").
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PowerState {
    /// On.
    D0,
    /// Light sleep.
    D1,
    /// Deeper sleep.
    D2,
    /// Off except for configuration space.
    D3Hot,
    /// Off.
    D3Cold,
}

impl PowerState {
    const NAMES: [(Self, &'static str); 5] = [
        (Self::D0, "D0"),
        (Self::D1, "D1"),
        (Self::D2, "D2"),
        (Self::D3Hot, "D3hot"),
        (Self::D3Cold, "D3cold"),
    ];
}

impl fmt::Display for PowerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(state, _)| state == self);
        f.write_str(name.expect("every state has its name").1)
    }
}

impl Serialize for PowerState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl PciFunction {
    /// Reads the function whose directory is `path`.
    pub(super) fn read(bdf: Bdf, path: &Path) -> Self {
        let directory = Directory(path);
        let mut function = Self {
            driver: directory.link_name("driver"),
            iommu_group: read_iommu_group(directory),
            numa_node: read_numa_node(directory),
            aer: AerTotals::read(directory),
            upstream: UpstreamPort::read(path),
            power_state: read_power_state(directory),
            ..Self::unseen(bdf)
        };
        let header = function.read_header(directory);
        function.identify(directory, header.as_ref());
        let config = match function.family {
            Some(_) if function.presence == Presence::Present => function.read_config(directory),
            _ => Vec::new(),
        };
        let express = function.walk(directory, &config);
        function.link = Link::read(directory, express.as_ref());
        if function.family == Some(Family::VirtioCrypto) {
            function.virtio_features = read_virtio_features(path);
        }
        function
    }

    /// A function of which nothing is known yet.
    pub(super) fn unseen(bdf: Bdf) -> Self {
        Self {
            bdf,
            presence: Presence::Unknown,
            vendor: Reading::Absent,
            device: Reading::Absent,
            subsystem_vendor: Reading::Absent,
            subsystem_device: Reading::Absent,
            class: Reading::Absent,
            family: None,
            driver: Reading::Absent,
            iommu_group: Reading::Absent,
            numa_node: Reading::Absent,
            link: Reading::Absent,
            aer: AerTotals {
                correctable: Reading::Absent,
                nonfatal: Reading::Absent,
                fatal: Reading::Absent,
            },
            upstream: Reading::Absent,
            power_state: Reading::Absent,
            virtio_features: Reading::Absent,
            config_problems: Vec::new(),
        }
    }

    /// Reads the configuration space header, and whether anything answers.
    ///
    /// Revision and class are looked at: the vendor ID reads as all-ones from every virtual function
    /// (PCIe Base §9.3.4.1.1 "Vendor ID Register Changes"), and a virtual machine may answer for
    /// the BARs of a function that is gone.
    fn read_header(&mut self, directory: Directory<'_>) -> Option<Header> {
        let bytes = match directory.bytes("config", size_of::<Header>()) {
            Reading::Known(bytes) => bytes,
            Reading::Absent => return None,
            Reading::Failed(problem) => {
                self.config_problems.push(problem);
                return None;
            }
        };
        let Ok(header) = Header::read_from_bytes(&bytes) else {
            let reason = format!("{} bytes are less than a header has", bytes.len());
            self.config_problems
                .push(Problem::invalid(&directory.file("config"), reason));
            return None;
        };
        let revision_and_class = &bytes[usize::from(REVISION_AND_CLASS_OFFSET)..];
        if revision_and_class.starts_with(&[0xff; REVISION_AND_CLASS_LEN]) {
            self.presence = Presence::Gone;
            return None;
        }
        self.presence = Presence::Present;
        Some(header)
    }

    /// Settles who it is. The attributes are what the kernel read when it found the function and
    /// chose its driver by; configuration space is what it says now.
    fn identify(&mut self, directory: Directory<'_>, header: Option<&Header>) {
        let endpoint = header.filter(|header| header.header_type & 0x7f == 0);
        let mut settle = |name, live: Option<u16>| {
            let recorded: Reading<u16> = directory.hex(name, 16);
            // All-ones is how a virtual function leaves it to the attribute.
            let live = live.filter(|live| *live != u16::MAX);
            match (recorded, live) {
                (Reading::Known(recorded), Some(live)) if recorded != live => {
                    self.config_problems.push(Problem::invalid(
                        &directory.file("config"),
                        format!("it says {name} {live:#06x}, but the kernel found {recorded:#06x}"),
                    ));
                    Reading::Known(recorded)
                }
                (Reading::Known(recorded), _) => Reading::Known(recorded),
                (Reading::Failed(problem), Some(live)) => {
                    self.config_problems.push(problem);
                    Reading::Known(live)
                }
                (Reading::Absent, Some(live)) => Reading::Known(live),
                (missing, None) => missing,
            }
        };
        self.vendor = settle("vendor", header.map(|header| header.vendor_id.get()));
        self.device = settle("device", header.map(|header| header.device_id.get()));
        for (name, reading) in [("vendor", &mut self.vendor), ("device", &mut self.device)] {
            if *reading == Reading::Absent {
                let reason = "it is missing, and configuration space does not say it either";
                *reading = directory.invalid(name, reason);
            }
        }
        self.subsystem_vendor = settle(
            "subsystem_vendor",
            endpoint.map(|header| header.subsystem_vendor_id.get()),
        );
        self.subsystem_device = settle(
            "subsystem_device",
            endpoint.map(|header| header.subsystem_id.get()),
        );
        self.class = match (directory.hex("class", 24), header) {
            (Reading::Absent, Some(header)) => {
                let [interface, subclass, base] = header.class_code;
                Reading::Known(u32::from_be_bytes([0, base, subclass, interface]))
            }
            (class, _) => class,
        }
        .map(ClassCode);
        self.family = Family::of(Identity {
            vendor: self.vendor.copied(),
            device: self.device.copied(),
            subsystem_vendor: self.subsystem_vendor.copied(),
            base_class: self.class.copied().map(ClassCode::base),
        });
    }

    fn read_config(&mut self, directory: Directory<'_>) -> Vec<u8> {
        match directory.bytes("config", CONFIG_LEN) {
            Reading::Known(config) => config,
            Reading::Absent => Vec::new(),
            Reading::Failed(problem) => {
                self.config_problems.push(problem);
                Vec::new()
            }
        }
    }

    /// Walks the capabilities to the PCI Express one, and notes where the list is broken.
    fn walk<'a>(&mut self, directory: Directory<'_>, config: &'a [u8]) -> Option<Capability<'a>> {
        // The kernel gives an unprivileged reader the header alone; a list that starts behind
        // it is then not broken but out of sight.
        if config.len() <= size_of::<Header>() {
            return None;
        }
        let mut express = None;
        for found in capabilities(config) {
            match found {
                Ok(found) if found.id == u16::from(capability::PCI_EXPRESS) => {
                    express = Some(found);
                }
                Ok(_) => {}
                Err(error) => self.config_problems.push(Problem::invalid(
                    &directory.file("config"),
                    error.to_string(),
                )),
            }
        }
        express
    }

    /// Name of the device in the PCI ID database.
    #[must_use]
    pub fn device_name(&self) -> Option<&'static str> {
        let device = pci_ids::Device::from_vid_pid(self.vendor.copied()?, self.device.copied()?)?;
        Some(device.name())
    }

    /// Name of the vendor in the PCI ID database.
    #[must_use]
    pub fn vendor_name(&self) -> Option<&'static str> {
        vendor_name(self.vendor.copied()?)
    }

    /// Name of the subsystem's vendor in the PCI ID database: who made the card, where the vendor
    /// is who made the chip.
    #[must_use]
    pub fn subsystem_vendor_name(&self) -> Option<&'static str> {
        vendor_name(self.subsystem_vendor.copied()?)
    }

    /// Name of the class in the PCI ID database.
    #[must_use]
    pub fn class_name(&self) -> Option<&'static str> {
        let class = self.class.copied()?;
        let subclass = pci_ids::Subclass::from_cid_sid(class.base(), class.subclass())?;
        Some(subclass.name())
    }

    /// Whether too little could be read to say what it is. It may be an accelerator.
    #[must_use]
    pub fn is_unidentified(&self) -> bool {
        self.family.is_none() && (self.vendor.copied().is_none() || self.device.copied().is_none())
    }

    /// How its link runs, held against both ends of it. Of a card that does not answer any more,
    /// the port still says that the link is down.
    #[must_use]
    pub fn link_state(&self) -> Option<LinkState> {
        let port = self.upstream.as_known();
        let port_link = port.and_then(|port| port.link.copied());
        match (self.link.copied(), port_link) {
            (_, Some(Link { current: None, .. })) => Some(LinkState::Down),
            (own, port) => Some(own?.state(port.map(|port| port.maximum))),
        }
    }

    /// Everything about it that could not be read or makes no sense.
    #[must_use]
    pub fn problems(&self) -> Vec<&Problem> {
        let Self {
            bdf: _,
            presence: _,
            vendor,
            device,
            subsystem_vendor,
            subsystem_device,
            class,
            family: _,
            driver,
            iommu_group,
            numa_node,
            link,
            aer,
            upstream,
            power_state,
            virtio_features,
            config_problems,
        } = self;
        let port = upstream.as_known();
        let readings = [
            vendor.problem(),
            device.problem(),
            subsystem_vendor.problem(),
            subsystem_device.problem(),
            class.problem(),
            driver.problem(),
            iommu_group.problem(),
            numa_node.problem(),
            link.problem(),
            upstream.problem(),
            port.and_then(|port| port.link.problem()),
            power_state.problem(),
            virtio_features.problem(),
        ];
        let totals = std::iter::once(aer).chain(port.map(|port| &port.aer));
        config_problems
            .iter()
            .chain(readings.into_iter().flatten())
            .chain(
                totals
                    .flat_map(|aer| aer.by_severity().map(|(_, total)| total.problem()))
                    .flatten(),
            )
            .collect()
    }
}

impl UpstreamPort {
    /// Reads the parent of `function` in the tree of devices, if that is a PCI function itself.
    fn read(function: &Path) -> Reading<Self> {
        let parent = function.join("..");
        let resolved = match fs::canonicalize(&parent) {
            Ok(resolved) => resolved,
            Err(error) => return Reading::Failed(Problem::unreadable(&parent, &error)),
        };
        let name = resolved.file_name().and_then(|name| name.to_str());
        let Some(bdf) = name.and_then(|name| name.parse().ok()) else {
            return Reading::Absent;
        };
        let directory = Directory(&parent);
        Reading::Known(Self {
            bdf,
            link: Link::read(directory, None),
            aer: AerTotals::read(directory),
        })
    }
}

fn vendor_name(vendor: u16) -> Option<&'static str> {
    use pci_ids::FromId as _;
    Some(pci_ids::Vendor::from_id(vendor)?.name())
}

fn read_iommu_group(directory: Directory<'_>) -> Reading<IommuGroup> {
    let number = directory
        .link_name("iommu_group")
        .and_then(|name| match name.parse::<u32>() {
            Ok(number) => Reading::Known(number),
            Err(_) => directory.invalid("iommu_group", "it does not point at a numbered group"),
        });
    number.and_then(|number| {
        let group = directory.file("iommu_group");
        // Only groups that are made up, for want of an IOMMU, have this name.
        let name = Directory(&group).text("name");
        match name {
            Reading::Failed(problem) => Reading::Failed(problem),
            name => Reading::Known(IommuGroup {
                number,
                is_protected: name != Reading::Known("vfio-noiommu".to_owned()),
            }),
        }
    })
}

fn read_numa_node(directory: Directory<'_>) -> Reading<u32> {
    let node = directory.parsed("numa_node", "the number of a node", |text| match text {
        "-1" => Some(None),
        text => text.parse().ok().map(Some),
    });
    node.and_then(|node| node.map_or(Reading::Absent, Reading::Known))
}

fn read_power_state(directory: Directory<'_>) -> Reading<PowerState> {
    directory.parsed("power_state", "a power state", |text| {
        let named = PowerState::NAMES.iter().find(|(_, name)| *name == text);
        named.map(|(state, _)| *state)
    })
}

/// Reads `virtio<N>/features`, a character for each bit, bit 0 first.
fn read_virtio_features(function: &Path) -> Reading<u64> {
    let entries = fs::read_dir(function).into_iter().flatten().flatten();
    let device = entries.map(|entry| entry.path()).find(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("virtio"))
    });
    let Some(device) = device else {
        return Reading::Absent;
    };
    Directory(&device).parsed("features", "64 feature bits", |text| {
        (text.len() == 64).then_some(())?;
        text.bytes().rev().try_fold(0, |bits, bit| match bit {
            b'0' => Some(bits << 1),
            b'1' => Some(bits << 1 | 1),
            _ => None,
        })
    })
}
