//! Debian's newest QEMU and kernel, from the backports for the release after bookworm, and keyctl.
//!
//! They are unpacked below target/vm/backports with all they depend on, and kept; remove the
//! directory to have the latest. They come from the mirror that the machine has its own Debian from.

use super::apt::{Apt, Sources, Wanted};
use super::packages::{Kernel, LATEST_KERNEL, Packages, QEMU, version};
use super::qemu::Qemu;
use anyhow::Context;
use std::fs;
use std::path::{Path, PathBuf};

/// The first of Debian's releases that has backports with QEMU's vfio-user-pci.
const RELEASE: &str = "trixie";
const SUITE: &str = "trixie-backports";
/// The package of keyctl.
const KEYCTL: &str = "keyutils";
/// What the packages are called that a kernel is split into.
const KERNEL_PARTS: [&str; 4] = [
    "linux-image-",
    "linux-binary-",
    "linux-modules-",
    "linux-base-",
];

/// What has been unpacked.
#[derive(Clone, Debug)]
pub(super) struct Backports {
    unpacked: PathBuf,
}

impl Backports {
    /// Downloads and unpacks what is not there yet below `directory`.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::outcome::Unavailable) if it cannot be had.
    pub(super) fn get(directory: &Path, packages: &Packages) -> anyhow::Result<Self> {
        let unpacked = directory.join("unpacked");
        if !unpacked.exists() {
            println!("downloading {QEMU} and a kernel from {SUITE}");
            let sources = Sources::Suites {
                mirror: &packages.mirror()?,
                suites: [RELEASE, SUITE],
            };
            let apt = Apt::new(directory.join("apt"), sources)?;
            let mut parts = kernel_parts(&apt.dependencies(LATEST_KERNEL)?);
            for image in parts.clone() {
                parts.extend(kernel_parts(&apt.dependencies(&image)?));
            }
            parts.sort_unstable();
            parts.dedup();
            let mut wanted = [QEMU, KEYCTL].map(Wanted::WithDependencies).to_vec();
            wanted.extend(parts.iter().map(|part| Wanted::Alone(part)));
            apt.unpack(&wanted, &unpacked)?;
        }
        Ok(Self { unpacked })
    }

    /// QEMU, which can have our card.
    pub(super) fn qemu(&self) -> Qemu {
        Qemu::Unpacked(self.unpacked.clone())
    }

    /// The program that asks a kernel to use keys, and what it takes to run it.
    pub(super) fn keyctl(&self) -> Vec<PathBuf> {
        let usr = self.unpacked.join("usr");
        let libraries = ["ld-linux-x86-64.so.2", "libc.so.6", "libkeyutils.so.1"];
        let libraries = libraries.map(|name| usr.join("lib/x86_64-linux-gnu").join(name));
        [usr.join("bin/keyctl")]
            .into_iter()
            .chain(libraries)
            .collect()
    }

    /// The newest kernel.
    ///
    /// # Errors
    ///
    /// If there is none among what was unpacked.
    pub(super) fn kernel(&self) -> anyhow::Result<Kernel> {
        let mut kernels = Vec::new();
        for modules in ["usr/lib/modules", "lib/modules"] {
            let modules = self.unpacked.join(modules);
            let Ok(releases) = fs::read_dir(&modules) else {
                continue;
            };
            for release in releases {
                let release = release?.file_name().to_string_lossy().into_owned();
                kernels.push((modules.join(&release), release));
            }
        }
        let newest = kernels
            .into_iter()
            .max_by_key(|(_, release)| version(release));
        let (modules, release) =
            newest.with_context(|| format!("{} has no kernel", self.unpacked.display()))?;
        // Once the image is in /boot, once beside the modules.
        let images = [
            modules.join("vmlinuz"),
            self.unpacked.join(format!("boot/vmlinuz-{release}")),
        ];
        let image = images.into_iter().find(|image| image.exists());
        let image = image.with_context(|| format!("Linux {release} has no image"))?;
        Ok(Kernel {
            release,
            image,
            modules,
        })
    }
}

/// The parts of a kernel among what a package depends on.
fn kernel_parts(dependencies: &[String]) -> Vec<String> {
    // Those that are for any version, and lead to no files of a kernel, have no digit after it.
    let is_part = |name: &&String| {
        KERNEL_PARTS
            .iter()
            .filter_map(|part| name.strip_prefix(part))
            .any(|version| version.starts_with(|first: char| first.is_ascii_digit()))
    };
    dependencies.iter().filter(is_part).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(dependencies: &[&str]) -> Vec<String> {
        let dependencies: Vec<_> = dependencies.iter().map(ToString::to_string).collect();
        kernel_parts(&dependencies)
    }

    #[test]
    fn a_kernel_in_one_package_or_in_several_is_found() {
        let one = ["linux-image-6.12.94+deb13-amd64"];
        assert_eq!(parts(&one), one);
        let several = [
            "linux-base-7.3.4-amd64",
            "linux-binary-7.3.4-amd64",
            "linux-modules-7.3.4-amd64",
        ];
        assert_eq!(parts(&several), several);
    }

    #[test]
    fn packages_that_only_lead_to_a_kernel_are_passed_over() {
        let leading = ["linux-base-amd64", "linux-base", "kmod"];
        assert_eq!(parts(&leading), Vec::<String>::new());
    }

    #[test]
    fn of_two_kernels_the_newer_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let unpacked = directory.path().to_owned();
        for release in ["7.3.10", "7.3.9"] {
            let modules = unpacked.join("usr/lib/modules").join(release);
            fs::create_dir_all(&modules).unwrap();
            fs::write(modules.join("vmlinuz"), "").unwrap();
        }
        let kernel = Backports { unpacked }.kernel().unwrap();
        assert_eq!(kernel.release, "7.3.10");
    }

    #[test]
    fn the_image_of_a_kernel_is_beside_its_modules_or_in_boot() {
        for (modules, image) in [
            ("usr/lib/modules/7.3", "usr/lib/modules/7.3/vmlinuz"),
            ("lib/modules/7.3", "boot/vmlinuz-7.3"),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let unpacked = directory.path().to_owned();
            let backports = Backports {
                unpacked: unpacked.clone(),
            };
            backports.kernel().unwrap_err();
            fs::create_dir_all(unpacked.join(modules)).unwrap();
            backports.kernel().unwrap_err();
            fs::create_dir_all(unpacked.join("boot")).unwrap();
            fs::write(unpacked.join(image), "").unwrap();
            let kernel = backports.kernel().unwrap();
            assert_eq!(kernel.release, "7.3");
            assert_eq!(kernel.image, unpacked.join(image));
            assert_eq!(kernel.modules, unpacked.join(modules));
        }
    }
}
