//! The parts nobody here wrote, from the packages of the machine's own release of Debian: QEMU, if
//! none is installed, a kernel with its modules, busybox.
//!
//! They are unpacked below target/vm/packages and kept; remove the directory to have the latest.
//! Which kernel that is, and where it comes from, is learned from apt.

use super::apt::{Apt, Sources, Wanted};
use super::qemu::Qemu;
use anyhow::Context;
use std::fs;
use std::path::PathBuf;

/// The package of QEMU for this processor's kind of machine.
pub(super) const QEMU: &str = "qemu-system-x86";
/// Depends on the latest kernel, and has nothing in it.
pub(super) const LATEST_KERNEL: &str = "linux-image-amd64";
const KERNEL_PREFIX: &str = "linux-image-";

/// A kernel that guests run.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// What its modules are called after, `6.1.0-48-amd64` for instance.
    pub(crate) release: String,
    pub(crate) image: PathBuf,
    /// Directory of its modules.
    pub(crate) modules: PathBuf,
}

/// Gets packages.
#[derive(Debug)]
pub(crate) struct Packages {
    directory: PathBuf,
    apt: Apt,
}

impl Packages {
    /// Keeps what is unpacked in `directory`.
    pub(crate) fn new(directory: PathBuf) -> anyhow::Result<Self> {
        let apt = Apt::new(directory.join("apt"), Sources::Machine)?;
        Ok(Self { directory, apt })
    }

    /// QEMU: the one that is installed, or else one that is unpacked.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::outcome::Unavailable) if it cannot be had.
    pub(crate) fn qemu(&self) -> anyhow::Result<Qemu> {
        if let Some(qemu) = Qemu::installed() {
            return Ok(qemu);
        }
        Ok(Qemu::Unpacked(
            self.unpacked(QEMU, Wanted::WithDependencies(QEMU))?,
        ))
    }

    /// Debian's latest kernel, or the one that was unpacked before.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::outcome::Unavailable) if it cannot be had.
    pub(crate) fn kernel(&self) -> anyhow::Result<Kernel> {
        let package = match self.kernel_unpacked()? {
            Some(package) => package,
            None => {
                let dependencies = self.apt.dependencies(LATEST_KERNEL)?;
                let mut kernels = dependencies.iter();
                let kernel = kernels.find(|name| name.starts_with(KERNEL_PREFIX));
                let kernel = kernel.with_context(|| {
                    format!("{LATEST_KERNEL} depends on no kernel: {dependencies:?}")
                })?;
                kernel.clone()
            }
        };
        let release = package.trim_start_matches(KERNEL_PREFIX).to_owned();
        let directory = self.unpacked(&package, Wanted::Alone(&package))?;
        Ok(Kernel {
            image: directory.join(format!("boot/vmlinuz-{release}")),
            modules: directory.join(format!("lib/modules/{release}")),
            release,
        })
    }

    /// A busybox that needs no libraries.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::outcome::Unavailable) if it cannot be had.
    pub(crate) fn busybox(&self) -> anyhow::Result<PathBuf> {
        const BUSYBOX: &str = "busybox-static";
        let directory = self.unpacked(BUSYBOX, Wanted::Alone(BUSYBOX))?;
        // Debian moved all programs to /usr/bin after bookworm.
        let places = ["bin/busybox", "usr/bin/busybox"];
        let mut places = places.iter().map(|place| directory.join(place));
        places
            .find(|place| place.exists())
            .context("busybox-static has no busybox")
    }

    /// The mirror that the machine has Debian from.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::outcome::Unavailable) if there is none.
    pub(super) fn mirror(&self) -> anyhow::Result<String> {
        self.apt.mirror()
    }

    /// The package of the newest kernel that was unpacked.
    fn kernel_unpacked(&self) -> anyhow::Result<Option<String>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            found.extend(name.starts_with(KERNEL_PREFIX).then_some(name));
        }
        Ok(found
            .into_iter()
            .max_by_key(|name| version(name.trim_start_matches(KERNEL_PREFIX))))
    }

    /// The directory with a package's files.
    fn unpacked(&self, package: &str, wanted: Wanted<'_>) -> anyhow::Result<PathBuf> {
        let directory = self.directory.join(package);
        if !directory.exists() {
            println!("downloading {package}");
            self.apt.unpack(&[wanted], &directory)?;
        }
        Ok(directory)
    }
}

/// The numbers at the head of a kernel's release, in order: the newer kernel has the greater ones.
/// A word after a separator, the architecture for instance, counts as zero.
pub(super) fn version(release: &str) -> Vec<u64> {
    let words = release.split(['.', '-', '+', '~']);
    words.map(|word| word.parse().unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_several_kernels_is_taken_by_its_numbers() {
        let directory = tempfile::tempdir().unwrap();
        let packages = Packages::new(directory.path().to_owned()).unwrap();
        assert_eq!(packages.kernel_unpacked().unwrap(), None);
        for release in ["6.1.0-9-amd64", "6.1.0-48-amd64", "6.1.0-10-amd64"] {
            let package = format!("{KERNEL_PREFIX}{release}");
            fs::create_dir(directory.path().join(package)).unwrap();
        }
        assert_eq!(packages.kernel().unwrap().release, "6.1.0-48-amd64");
    }

    #[test]
    fn a_point_release_is_newer_than_none() {
        for (older, newer) in [
            ("7.3-amd64", "7.3.4-amd64"),
            ("6.12.9+deb13-amd64", "6.12.94+deb13-amd64"),
            ("6.12+deb13-amd64", "6.12.5+deb13-amd64"),
            ("6.12.94+deb13-amd64", "6.12.94+deb13+1-amd64"),
        ] {
            assert!(version(older) < version(newer), "{older} {newer}");
        }
    }
}
