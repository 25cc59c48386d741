//! Which kernel driver a function has, and of what version: an upgrade of either is a change that may
//! explain what comes after it.

use card_spec::pci::Bdf;
use hwshim::clock::Instant;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Time between two looks. A driver is another only when somebody has bound the function anew, or
/// loaded its module anew, which is rare; so a change may be on record this much after what it did.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// Longest version that is shown, in bytes.
const VERSION_LEN_MAX: usize = 64;

/// The driver of a function, as last seen.
#[derive(Debug, Default)]
pub(super) struct Driver {
    seen: Option<(Bdf, Instant, Option<String>)>,
}

impl Driver {
    /// What the function has, by a look that is not older than ten seconds.
    pub(super) fn poll(&mut self, root: &Path, bdf: Bdf, now: Instant) -> Option<String> {
        let is_fresh = |of: Bdf, at: Instant| of == bdf && now.since(at) < LOOK_INTERVAL;
        if let Some((of, at, driver)) = &self.seen
            && is_fresh(*of, *at)
        {
            return driver.clone();
        }
        let driver = of(root, bdf);
        self.seen = Some((bdf, now, driver.clone()));
        driver
    }
}

/// The driver's name, with its module's version, or the sum of its source where it states none, as
/// those of the kernel do not; `None` without a driver. Nothing of that asks the device.
fn of(root: &Path, bdf: Bdf) -> Option<String> {
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

    #[test]
    fn a_driver_is_looked_for_again_after_ten_seconds_and_at_another_function_at_once() {
        let tree = tempfile::tempdir().unwrap();
        let devices = tree.path().join("sys/bus/pci/devices");
        let bind = |bdf: &str, driver: &str| {
            let link = devices.join(bdf).join("driver");
            fs::create_dir_all(devices.join(bdf)).unwrap();
            let _ = fs::remove_file(&link);
            symlink(driver, link).unwrap();
        };
        let at = |seconds| Instant::ORIGIN.plus(Duration::from_secs(seconds));
        let (one, other) = ("0000:6b:00.0", "0000:6c:00.0");
        bind(one, "4xxx");
        bind(other, "vfio-pci");
        let mut driver = Driver::default();
        let mut look = |bdf: &str, seconds| {
            let bdf = bdf.parse().unwrap();
            driver.poll(tree.path(), bdf, at(seconds)).unwrap()
        };
        assert_eq!(look(one, 0), "4xxx");
        bind(one, "vfio-pci");
        assert_eq!(look(one, 9), "4xxx");
        assert_eq!(look(one, 10), "vfio-pci");
        bind(one, "4xxx");
        assert_eq!(look(other, 11), "vfio-pci");
        assert_eq!(look(one, 12), "4xxx");
    }
}
