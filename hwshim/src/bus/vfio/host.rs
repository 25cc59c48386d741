//! Whether this host lets a function be driven through VFIO, and what to do if not.
//!
//! Reads sysfs only; opens no device. Every finding is a sentence for the operator with the
//! command that helps, because this is where a first installation gets stuck.

use crate::bus::BusError;
use crate::pci::{Reading, binding_commands};
use crate::spec::pci::{
    Bdf, REVISION_AND_CLASS_LEN as CLASS_LEN, REVISION_AND_CLASS_OFFSET as CLASS_OFFSET,
};
use rustix::io::Errno;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// The IOMMU group of a function that is bound to VFIO.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Group {
    bdf: Bdf,
    number: u32,
    devices: PathBuf,
}

/// The error for a function that the host does not let us drive.
pub(super) fn not_usable(bdf: Bdf, reason: impl Into<String>) -> BusError {
    BusError::NotUsable {
        name: format!("pci:{bdf}"),
        reason: reason.into(),
    }
}

/// Whether the function answers, as far as this host's kernel lets us see.
pub(super) fn check_present(bdf: Bdf, sysfs: &Path) -> Result<(), BusError> {
    let device = sysfs.join("bus/pci/devices").join(bdf.to_string());
    let mut header = [0; CLASS_OFFSET as usize + CLASS_LEN];
    let read = fs::File::open(device.join("config")).and_then(|mut it| it.read_exact(&mut header));
    if read.is_ok() && header[usize::from(CLASS_OFFSET)..] == [0xff; CLASS_LEN] {
        let name = format!("pci:{bdf}");
        return Err(BusError::Gone { name });
    }
    Ok(())
}

impl Group {
    /// Finds the group, if the function is there, behind an IOMMU, and bound to VFIO.
    pub(super) fn of(bdf: Bdf, sysfs: &Path) -> Result<Self, BusError> {
        let device = sysfs.join("bus/pci/devices").join(bdf.to_string());
        if !device.exists() {
            let reason =
                "there is no such function; `hwshim list` and `lspci -D` show those there are";
            return Err(not_usable(bdf, reason));
        }
        let number = group_number(bdf, &device)?;
        match driver(&device) {
            Some(driver) if is_vfio(&driver) => {}
            holder => return Err(not_usable(bdf, how_to_bind(bdf, holder))),
        }
        let devices = sysfs.join(format!("kernel/iommu_groups/{number}/devices"));
        Ok(Self {
            bdf,
            number,
            devices,
        })
    }

    /// The file that stands for the group.
    pub(super) fn node(&self, dev: &Path) -> PathBuf {
        dev.join("vfio").join(self.number.to_string())
    }

    /// Why the group's file, or the container's, could not be opened.
    pub(super) fn cannot_open(&self, node: &Path, errno: Errno) -> BusError {
        let node = node.display();
        let reason = match errno {
            Errno::NOENT => format!("{node} does not exist; load the module: `modprobe vfio-pci`"),
            Errno::ACCESS | Errno::PERM => format!(
                "this user may not open {node}; give its group access, for good with a udev rule \
                 such as SUBSYSTEM==\"vfio\", GROUP=\"vfio\", MODE=\"0660\""
            ),
            Errno::BUSY => format!(
                "{node} is open already; a function has one owner, and `fuser -v {node}` names it"
            ),
            errno => format!("{node} cannot be opened: {}", io::Error::from(errno)),
        };
        not_usable(self.bdf, reason)
    }

    /// Why the kernel does not hand out the group although the function is bound to VFIO.
    pub(super) fn not_viable(&self) -> BusError {
        let mut reason = format!(
            "the IOMMU cannot tell it from the other functions of group {}, and these are held \
             by other drivers:",
            self.number
        );
        for (other, holder) in self.others() {
            // Writing to a String does not fail.
            let _ = write!(reason, " {other} ({holder})");
        }
        reason += "; bind those to vfio-pci as well, or move the card to another slot";
        not_usable(self.bdf, reason)
    }

    /// The other functions of the group that a driver holds which is not VFIO's. Bridges may
    /// stay with theirs.
    fn others(&self) -> Vec<(String, String)> {
        let entries = fs::read_dir(&self.devices).into_iter().flatten().flatten();
        let mut others: Vec<_> = entries
            .filter_map(|entry| {
                let holder = driver(&entry.path())?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let harmless = is_vfio(&holder) || holder == "pcieport" || holder == "pci-stub";
                (!harmless).then_some((name, holder))
            })
            .collect();
        others.sort();
        others
    }
}

fn group_number(bdf: Bdf, device: &Path) -> Result<u32, BusError> {
    let Ok(group) = fs::read_link(device.join("iommu_group")) else {
        let reason = "it is behind no IOMMU, so nothing would keep it from writing to all memory; \
                      enable VT-d or AMD-Vi in the firmware's set-up, boot with intel_iommu=on \
                      (AMD: amd_iommu=on), and look for DMAR or AMD-Vi in `dmesg`";
        return Err(not_usable(bdf, reason));
    };
    if fs::read_to_string(device.join("iommu_group/name"))
        .is_ok_and(|name| name.trim() == "vfio-noiommu")
    {
        let reason = "VFIO runs in no-IOMMU mode, in which nothing keeps the card from writing to \
                      all memory; this is not supported, enable the IOMMU instead";
        return Err(not_usable(bdf, reason));
    }
    file_name(&group)
        .and_then(|name| name.parse().ok())
        .ok_or_else(|| {
            let group = group.display();
            not_usable(
                bdf,
                format!("its iommu_group is not a group's number: {group}"),
            )
        })
}

fn driver(device: &Path) -> Option<String> {
    file_name(&fs::read_link(device.join("driver")).ok()?)
}

fn file_name(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_str()?.to_owned())
}

/// Vendors have their own variants, e.g. `mlx5-vfio-pci`.
fn is_vfio(driver: &str) -> bool {
    driver.contains("vfio")
}

fn how_to_bind(bdf: Bdf, holder: Option<String>) -> String {
    let (state, driver) = match holder {
        Some(driver) => (format!("it is bound to {driver}"), Reading::Known(driver)),
        None => ("it is bound to no driver".to_owned(), Reading::Absent),
    };
    let commands = binding_commands(bdf, &driver).join("\n  ");
    format!("{state}, not to vfio-pci; as root:\n  {commands}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    const BDF: Bdf = Bdf {
        domain: 0,
        bus: 0x3b,
        device: 0,
        function: 0,
    };

    /// A `/sys` with the links that a kernel makes.
    struct Sysfs(TempDir);

    impl Sysfs {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        /// Adds a function, with relative links as in a real tree.
        fn function(self, bdf: &str, driver: Option<&str>, group: Option<u32>) -> Self {
            let root = self.0.path();
            let device = root.join("bus/pci/devices").join(bdf);
            fs::create_dir_all(&device).unwrap();
            if let Some(driver) = driver {
                let target = format!("../../../bus/pci/drivers/{driver}");
                symlink(target, device.join("driver")).unwrap();
            }
            if let Some(group) = group {
                let groups = root.join(format!("kernel/iommu_groups/{group}/devices"));
                fs::create_dir_all(&groups).unwrap();
                let target = format!("../../../../kernel/iommu_groups/{group}");
                symlink(target, device.join("iommu_group")).unwrap();
                symlink(&device, groups.join(bdf)).unwrap();
            }
            self
        }

        fn group(&self) -> Result<Group, BusError> {
            Group::of(BDF, self.0.path())
        }

        #[track_caller]
        fn assert_unusable(&self, parts: &[&str]) {
            assert_mentions(&self.group().unwrap_err(), parts);
        }
    }

    #[track_caller]
    fn assert_mentions(error: &BusError, parts: &[&str]) {
        assert!(matches!(error, BusError::NotUsable { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.starts_with("pci:0000:3b:00.0 cannot be driven: "),
            "{text}"
        );
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
    }

    #[test]
    fn the_group_of_a_function_bound_to_vfio_is_found() {
        for driver in ["vfio-pci", "mlx5-vfio-pci"] {
            let sysfs = Sysfs::new().function("0000:3b:00.0", Some(driver), Some(17));
            let group = sysfs.group().unwrap();
            assert_eq!(group.node(Path::new("/dev")), Path::new("/dev/vfio/17"));
        }
    }

    #[test]
    fn a_function_that_is_not_there_is_said_to_be_missing() {
        Sysfs::new()
            .function("0000:3b:00.1", Some("vfio-pci"), Some(1))
            .assert_unusable(&["no such function", "lspci -D"]);
    }

    #[test]
    fn without_an_iommu_the_operator_learns_how_to_enable_it() {
        Sysfs::new()
            .function("0000:3b:00.0", Some("vfio-pci"), None)
            .assert_unusable(&["no IOMMU", "intel_iommu=on", "amd_iommu=on"]);
    }

    #[test]
    fn no_iommu_mode_is_not_taken_for_an_iommu() {
        let sysfs = Sysfs::new().function("0000:3b:00.0", Some("vfio-pci"), Some(0));
        let name = sysfs.0.path().join("kernel/iommu_groups/0/name");
        fs::write(name, "vfio-noiommu\n").unwrap();
        sysfs.assert_unusable(&["no-IOMMU mode", "not supported"]);
    }

    #[test]
    fn a_function_bound_elsewhere_comes_with_the_commands_that_rebind_it() {
        Sysfs::new()
            .function("0000:3b:00.0", Some("virtio-pci"), Some(17))
            .assert_unusable(&[
                "bound to virtio-pci",
                "echo vfio-pci > /sys/bus/pci/devices/0000:3b:00.0/driver_override\n",
                "echo 0000:3b:00.0 > /sys/bus/pci/devices/0000:3b:00.0/driver/unbind\n",
                "echo 0000:3b:00.0 > /sys/bus/pci/drivers_probe",
            ]);
    }

    #[test]
    fn a_function_bound_to_nothing_has_nothing_to_unbind() {
        let sysfs = Sysfs::new().function("0000:3b:00.0", None, Some(17));
        sysfs.assert_unusable(&["bound to no driver", "driver_override", "drivers_probe"]);
        assert!(!sysfs.group().unwrap_err().to_string().contains("unbind"));
    }

    #[test]
    fn a_function_that_does_not_answer_is_gone_before_it_is_opened() {
        let sysfs = Sysfs::new().function("0000:3b:00.0", Some("vfio-pci"), Some(17));
        let present = |config: &[u8]| {
            let device = sysfs.0.path().join("bus/pci/devices/0000:3b:00.0");
            fs::write(device.join("config"), config).unwrap();
            check_present(BDF, sysfs.0.path())
        };
        // The rest is as QEMU leaves it, which answers for the BARs itself.
        let mut config = [&[0xff; 16][..], &[0x00, 0x80, 0xbf, 0xfe], &[0; 44]].concat();
        let error = present(&config).unwrap_err();
        assert!(matches!(error, BusError::Gone { .. }), "{error}");
        // A virtual function has IDs that are all-ones, but a class.
        config[8..12].copy_from_slice(&[0x00, 0x00, 0x80, 0x10]);
        present(&config).unwrap();
        // Who may not see as much is told by the kernel when it is opened.
        present(&[0xff; 4]).unwrap();
    }

    #[test]
    fn who_else_holds_the_group_is_named() {
        let sysfs = Sysfs::new()
            .function("0000:3b:00.0", Some("vfio-pci"), Some(17))
            .function("0000:3b:00.1", Some("ixgbe"), Some(17))
            .function("0000:3b:00.2", Some("nvme"), Some(17))
            .function("0000:3a:00.0", Some("pcieport"), Some(17))
            .function("0000:3b:00.3", None, Some(17))
            .function("0000:3c:00.0", Some("e1000e"), Some(18));
        let error = sysfs.group().unwrap().not_viable();
        assert_mentions(
            &error,
            &["group 17", ": 0000:3b:00.1 (ixgbe) 0000:3b:00.2 (nvme);"],
        );
        for harmless in ["3a:00.0", "3b:00.3", "3c:00.0"] {
            assert!(!error.to_string().contains(harmless), "{error}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_opened_comes_with_its_cure() {
        let sysfs = Sysfs::new().function("0000:3b:00.0", Some("vfio-pci"), Some(17));
        let group = sysfs.group().unwrap();
        let node = group.node(Path::new("/dev"));
        let error = |errno| group.cannot_open(&node, errno);
        assert_mentions(&error(Errno::NOENT), &["/dev/vfio/17", "modprobe vfio-pci"]);
        assert_mentions(
            &error(Errno::ACCESS),
            &["may not open", "udev rule", "MODE=\"0660\""],
        );
        assert_mentions(&error(Errno::BUSY), &["one owner", "fuser -v /dev/vfio/17"]);
        assert_mentions(&error(Errno::NODEV), &["/dev/vfio/17", "No such device"]);
    }
}
