//! Which kernel driver a function has, and of what version: an upgrade of either is a change that may
//! explain what comes after it.

use card_spec::pci::Bdf;
use std::fs;
use std::path::Path;

/// Longest version that is shown, in bytes.
const VERSION_LEN_MAX: usize = 64;

/// The driver's name, with its module's version, or the sum of its source where it states none, as
/// those of the kernel do not; `None` without a driver. Nothing of that asks the device.
pub(super) fn of(root: &Path, bdf: Bdf) -> Option<String> {
    let driver = root.join(format!("sys/bus/pci/devices/{bdf}/driver"));
    let link = fs::read_link(&driver).ok()?;
    let name = link.file_name()?.to_string_lossy().into_owned();
    let version = ["version", "srcversion"].iter().find_map(|file| {
        let text = fs::read_to_string(driver.join("module").join(file)).ok()?;
        let version = text.trim();
        let version = &version[..version.floor_char_boundary(VERSION_LEN_MAX)];
        (!version.is_empty()).then(|| version.to_owned())
    });
    Some(match version {
        Some(version) => format!("{name} {version}"),
        None => name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_driver_is_named_with_its_version_or_the_sum_of_its_source() {
        let tree = tempfile::tempdir().unwrap();
        let sys = tree.path().join("sys");
        let (device, driver) = (
            sys.join("bus/pci/devices/0000:6b:00.0"),
            sys.join("bus/pci/drivers/4xxx"),
        );
        let module = sys.join("module/qat_4xxx");
        for directory in [&device, &driver, &module] {
            fs::create_dir_all(directory).unwrap();
        }
        let bdf = "0000:6b:00.0".parse().unwrap();
        assert_eq!(of(tree.path(), bdf), None);
        symlink(&driver, device.join("driver")).unwrap();
        symlink(&module, driver.join("module")).unwrap();
        assert_eq!(of(tree.path(), bdf).unwrap(), "4xxx");
        fs::write(module.join("srcversion"), "533BB7E5866E52F63B9ACCB\n").unwrap();
        assert_eq!(
            of(tree.path(), bdf).unwrap(),
            "4xxx 533BB7E5866E52F63B9ACCB"
        );
        fs::write(module.join("version"), "1.2.30-00090\n").unwrap();
        assert_eq!(of(tree.path(), bdf).unwrap(), "4xxx 1.2.30-00090");
    }
}
