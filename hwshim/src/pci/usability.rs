//! How an accelerator can be used on this host as it stands, why, and what to do about it.
//!
//! ```text
//!  gone from the bus ------------------------------------------------> unusable
//!  another family, with a PKCS#11 library -> vendor-pkcs11, without -> monitored-only
//!  virtio-crypto
//!    no group, or one without an IOMMU behind it --------------------> monitored-only
//!    device keeps to physical addresses -----------------------------> monitored-only
//!    another driver, or the group is shared with busy functions -----> vfio-after-binding
//!    vfio-pci, and the group is free --------------------------------> vfio
//! ```
//!
//! Judges only. It opens no device, and nothing here changes a binding: the commands are for the
//! operator, who knows what else lives in a group.

use super::family::DrivenBy;
use super::{Family, PciFunction, Presence, Reading};
use card_spec::pci::Bdf;
use card_spec::virtio_pci::feature;
use serde::Serialize;

/// How an accelerator can be used.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Usability {
    /// hwshim can drive it now.
    Vfio,
    /// hwshim could drive it; the commands say what is missing.
    VfioAfterBinding,
    /// Through the vendor's PKCS#11 library, not by hwshim.
    VendorPkcs11,
    /// Not at all, but it can be watched.
    MonitoredOnly,
    /// Not at all.
    Unusable,
}

/// A usability, and why.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Advice {
    /// How it can be used.
    pub usability: Usability,
    /// Why, in one line.
    pub reason: String,
    /// Commands that bring it closer to use, to be run as root in this order.
    pub commands: Vec<String>,
}

impl Advice {
    fn new(usability: Usability, reason: impl Into<String>) -> Self {
        Self {
            usability,
            reason: reason.into(),
            commands: Vec::new(),
        }
    }
}

/// Judges `function`, of `family`, on a host with the functions `all`.
pub(super) fn judge(function: &PciFunction, family: Family, all: &[PciFunction]) -> Advice {
    if function.presence == Presence::Gone {
        return Advice::new(
            Usability::Unusable,
            "config space reads all-ones: it has left the bus; reseat it or rescan the bus",
        );
    }
    match family.driven_by() {
        DrivenBy::Hwshim => judge_virtio(function, all),
        DrivenBy::VendorPkcs11 { library } => Advice::new(
            Usability::VendorPkcs11,
            format!("{library} drives it; only its vendor's own service may open the card"),
        ),
        DrivenBy::Nothing { because } => Advice::new(Usability::MonitoredOnly, because),
    }
}

fn judge_virtio(function: &PciFunction, all: &[PciFunction]) -> Advice {
    let monitored = |reason: &str| Advice::new(Usability::MonitoredOnly, reason);
    let group = match &function.iommu_group {
        Reading::Known(group) if group.is_protected => group.number,
        Reading::Known(_) => {
            return monitored(
                "its IOMMU group is vfio-noiommu: the device could write anywhere in memory; \
                 enable the IOMMU",
            );
        }
        Reading::Absent => {
            return monitored(
                "it has no IOMMU group: the device could write anywhere in memory; enable the \
                 IOMMU in firmware and on the kernel command line",
            );
        }
        Reading::Failed(_) => return monitored("its IOMMU group cannot be read"),
    };
    if bypasses_iommu(function) {
        return monitored(
            "it does not offer VIRTIO_F_ACCESS_PLATFORM and would bypass the IOMMU; give the \
             device iommu_platform=on",
        );
    }
    let busy: Vec<String> = all
        .iter()
        .filter(|other| other.bdf != function.bdf && holds_group(other, group))
        .map(|other| format!("{} ({})", other.bdf, driver_name(other)))
        .collect();
    let bound = is_vfio(function);
    if bound && busy.is_empty() {
        return Advice::new(
            Usability::Vfio,
            format!(
                "bound to {}, and IOMMU group {group} has no other owner",
                driver_name(function)
            ),
        );
    }
    let reason = if busy.is_empty() {
        match &function.driver {
            Reading::Known(driver) => {
                format!("{driver} holds it; bind it to vfio-pci, which takes it from the kernel")
            }
            _ => "no driver holds it; bind it to vfio-pci".to_owned(),
        }
    } else {
        format!(
            "IOMMU group {group} also holds {}: unbind that first, a group has one owner",
            busy.join(", ")
        )
    };
    Advice {
        usability: Usability::VfioAfterBinding,
        reason,
        commands: if bound {
            Vec::new()
        } else {
            binding_commands(function.bdf, &function.driver)
        },
    }
}

/// Whether the device said, when the kernel drove it, that it keeps to physical addresses. Feature
/// bits are zero until a driver negotiated, and gone once vfio-pci holds the function.
fn bypasses_iommu(function: &PciFunction) -> bool {
    let offers = |features: u64, bit: u32| features >> bit & 1 == 1;
    function.virtio_features.copied().is_some_and(|features| {
        offers(features, feature::VERSION_1) && !offers(features, feature::ACCESS_PLATFORM)
    })
}

/// Whether `other` is in `group` and keeps it from having one owner. Bridges' drivers do no DMA
/// and are let be by the kernel (Linux `Documentation/driver-api/vfio.rst`, "VFIO Usage Example").
fn holds_group(other: &PciFunction, group: u32) -> bool {
    let member = matches!(&other.iommu_group, Reading::Known(its) if its.number == group);
    let harmless = match &other.driver {
        Reading::Known(driver) => matches!(driver.as_str(), "pci-stub" | "pcieport"),
        Reading::Absent => true,
        Reading::Failed(_) => false,
    };
    member && !harmless && !is_vfio(other)
}

/// vfio-pci and its variants, `qat_vfio_pci` for instance.
fn is_vfio(function: &PciFunction) -> bool {
    matches!(&function.driver, Reading::Known(driver) if driver.contains("vfio"))
}

fn driver_name(function: &PciFunction) -> &str {
    match &function.driver {
        Reading::Known(driver) => driver,
        Reading::Absent => "no driver",
        Reading::Failed(_) => "driver unknown",
    }
}

/// Binds one function and no other of its kind (Linux `Documentation/ABI/testing/sysfs-bus-pci`,
/// "driver_override").
pub(crate) fn binding_commands(bdf: Bdf, driver: &Reading<String>) -> Vec<String> {
    let device = format!("/sys/bus/pci/devices/{bdf}");
    let unbind = format!("echo {bdf} > {device}/driver/unbind");
    let mut commands = vec![
        "modprobe vfio-pci".to_owned(),
        format!("echo vfio-pci > {device}/driver_override"),
    ];
    commands.extend((*driver != Reading::Absent).then_some(unbind));
    commands.push(format!("echo {bdf} > /sys/bus/pci/drivers_probe"));
    commands
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::IommuGroup;

    /// A virtio-crypto function that can be used as it stands.
    fn card() -> PciFunction {
        PciFunction {
            driver: Reading::Known("vfio-pci".to_owned()),
            iommu_group: Reading::Known(IommuGroup {
                number: 7,
                is_protected: true,
            }),
            ..PciFunction::unseen("0000:00:04.0".parse().unwrap())
        }
    }

    fn neighbour(driver: &str) -> PciFunction {
        PciFunction {
            bdf: "0000:00:05.0".parse().unwrap(),
            driver: Reading::Known(driver.to_owned()),
            ..card()
        }
    }

    fn judged(card: &PciFunction, neighbours: &[PciFunction]) -> Advice {
        let mut all = neighbours.to_vec();
        all.push(card.clone());
        judge(card, Family::VirtioCrypto, &all)
    }

    #[test]
    fn a_bound_card_in_a_free_group_is_usable_now() {
        assert_eq!(judged(&card(), &[]).usability, Usability::Vfio);
        for driver in ["pcieport", "vfio-pci", "qat_vfio_pci", "pci-stub"] {
            let advice = judged(&card(), &[neighbour(driver)]);
            assert_eq!(advice.usability, Usability::Vfio, "{driver}");
        }
    }

    #[test]
    fn a_group_shared_with_a_busy_function_is_not_viable() {
        let advice = judged(&card(), &[neighbour("e1000e")]);
        assert_eq!(advice.usability, Usability::VfioAfterBinding);
        assert!(
            advice.reason.contains("0000:00:05.0 (e1000e)"),
            "{}",
            advice.reason
        );
        assert_eq!(advice.commands, Vec::<String>::new());
        let mut elsewhere = neighbour("e1000e");
        elsewhere.iommu_group = Reading::Known(IommuGroup {
            number: 8,
            is_protected: true,
        });
        assert_eq!(judged(&card(), &[elsewhere]).usability, Usability::Vfio);
    }

    #[test]
    fn without_an_iommu_a_card_is_never_driven() {
        let mut bare = card();
        bare.iommu_group = Reading::Absent;
        assert_eq!(judged(&bare, &[]).usability, Usability::MonitoredOnly);
        bare.iommu_group = Reading::Known(IommuGroup {
            number: 0,
            is_protected: false,
        });
        assert_eq!(judged(&bare, &[]).usability, Usability::MonitoredOnly);
    }

    #[test]
    fn a_device_that_bypasses_the_iommu_is_never_driven() {
        let mut card = card();
        for (features, usability) in [
            (0, Usability::Vfio),
            (1 << 32, Usability::MonitoredOnly),
            (1 << 32 | 1 << 33, Usability::Vfio),
        ] {
            card.virtio_features = Reading::Known(features);
            assert_eq!(judged(&card, &[]).usability, usability, "{features:#x}");
        }
    }

    #[test]
    fn binding_commands_unbind_only_what_is_bound() {
        let mut card = card();
        card.driver = Reading::Absent;
        assert_eq!(
            judged(&card, &[]).commands,
            [
                "modprobe vfio-pci",
                "echo vfio-pci > /sys/bus/pci/devices/0000:00:04.0/driver_override",
                "echo 0000:00:04.0 > /sys/bus/pci/drivers_probe",
            ]
        );
        card.driver = Reading::Known("virtio-pci".to_owned());
        assert_eq!(
            judged(&card, &[]).commands[2],
            "echo 0000:00:04.0 > /sys/bus/pci/devices/0000:00:04.0/driver/unbind"
        );
    }

    #[test]
    fn a_card_that_left_the_bus_is_unusable_whoever_made_it() {
        let mut card = card();
        card.presence = Presence::Gone;
        for family in [Family::VirtioCrypto, Family::Nshield, Family::Qat] {
            let advice = judge(&card, family, &[]);
            assert_eq!(advice.usability, Usability::Unusable);
        }
    }
}
