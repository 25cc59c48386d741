//! Debian's newest QEMU and kernel, from the backports for the release after bookworm, without
//! installing anything: packages are unpacked, and QEMU is started by the loader among them, with
//! the libraries among them.
//!
//! ```text
//! target/vm/backports/apt/       apt's lists and archives, apart from the machine's own
//! target/vm/backports/unpacked/  QEMU and keyctl with all they depend on, and a kernel
//! ```
//!
//! It does not take root, and nothing runs in a chroot. Where packages come from is learned from
//! the machine's apt. What is unpacked is kept; remove the directory to have the latest.

use super::packages::{Kernel, available};
use crate::outcome::Unavailable;
use crate::process::{bound, program, run};
use anyhow::{Context, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The first of Debian's releases that has backports with QEMU's vfio-user-pci.
const RELEASE: &str = "trixie";
const SUITE: &str = "trixie-backports";
const QEMU: &str = "qemu-system-x86";
/// The package of keyctl.
const KEYCTL: &str = "keyutils";
/// Depends on the latest kernel, and has nothing in it.
const LATEST_KERNEL: &str = "linux-image-amd64";
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
    /// [`Unavailable`] if it cannot be had.
    pub(super) fn get(directory: &Path) -> anyhow::Result<Self> {
        let unpacked = directory.join("unpacked");
        if !unpacked.exists() {
            let apt = Apt::new(directory.join("apt"))?;
            println!("downloading {QEMU} and a kernel from {SUITE}");
            apt.download()?;
            unpack(&apt.archives()?, &unpacked)?;
        }
        Ok(Self { unpacked })
    }

    /// Starts QEMU, as far as it is not about the machine.
    pub(super) fn qemu(&self) -> Command {
        let usr = self.unpacked.join("usr");
        let mut command = bound(usr.join("lib64/ld-linux-x86-64.so.2"));
        command
            .arg("--library-path")
            .arg(usr.join("lib/x86_64-linux-gnu"))
            .arg(usr.join("bin/qemu-system-x86_64"));
        for firmware in ["share/qemu", "share/seabios"] {
            command.arg("-L").arg(usr.join(firmware));
        }
        command
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

    /// The kernel.
    ///
    /// # Errors
    ///
    /// If there is none among what was unpacked.
    pub(super) fn kernel(&self) -> anyhow::Result<Kernel> {
        // Once the image is in /boot, once beside the modules.
        for modules in ["usr/lib/modules", "lib/modules"] {
            let Ok(mut releases) = fs::read_dir(self.unpacked.join(modules)) else {
                continue;
            };
            let Some(release) = releases.next() else {
                continue;
            };
            let release = release?.file_name().to_string_lossy().into_owned();
            let modules = self.unpacked.join(modules).join(&release);
            let images = [
                modules.join("vmlinuz"),
                self.unpacked.join(format!("boot/vmlinuz-{release}")),
            ];
            let image = images.into_iter().find(|image| image.exists());
            let image = image.with_context(|| format!("Linux {release} has no image"))?;
            return Ok(Kernel {
                release,
                image,
                modules,
            });
        }
        bail!("{} has no kernel", self.unpacked.display())
    }
}

/// An apt with lists and archives of its own.
#[derive(Debug)]
struct Apt {
    directory: PathBuf,
    configuration: PathBuf,
}

impl Apt {
    fn new(directory: PathBuf) -> anyhow::Result<Self> {
        for name in ["lists/partial", "archives/partial"] {
            let name = directory.join(name);
            fs::create_dir_all(&name)
                .with_context(|| format!("{} could not be created", name.display()))?;
        }
        let configuration = directory.join("apt.conf");
        let sources = directory.join("sources.list");
        // With no package installed, what these depend on is downloaded to the last library.
        fs::write(directory.join("status"), "")?;
        fs::write(&sources, sources_of(&mirror()?))?;
        fs::write(&configuration, configuration_of(&directory))?;
        Ok(Self {
            directory,
            configuration,
        })
    }

    fn command(&self, name: &str) -> Command {
        let mut command = super::packages::apt(name);
        command.env("APT_CONFIG", &self.configuration);
        command
    }

    /// Downloads QEMU, what it depends on, and the parts of the latest kernel.
    fn download(&self) -> anyhow::Result<()> {
        available(self.command("apt-get").arg("update"))?;
        let mut install = self.command("apt-get");
        available(install.args(["install", "--yes", "--download-only", QEMU, KEYCTL]))?;
        let depends =
            |package: &str| available(self.command("apt-cache").args(["depends", package]));
        let mut parts = kernel_parts(&depends(LATEST_KERNEL)?);
        for image in parts.clone() {
            parts.extend(kernel_parts(&depends(&image)?));
        }
        parts.sort_unstable();
        parts.dedup();
        let mut download = self.command("apt-get");
        let archives = self.directory.join("archives");
        available(download.arg("download").args(parts).current_dir(archives))?;
        Ok(())
    }

    fn archives(&self) -> anyhow::Result<Vec<PathBuf>> {
        let mut archives = Vec::new();
        for entry in fs::read_dir(self.directory.join("archives"))? {
            let path = entry?.path();
            archives.extend(
                path.extension()
                    .is_some_and(|it| it == "deb")
                    .then_some(path),
            );
        }
        Ok(archives)
    }
}

/// Where the machine has its own packages from.
fn mirror() -> anyhow::Result<String> {
    let mut targets = super::packages::apt("apt-get");
    targets.args(["indextargets", "--format", "$(SITE)"]);
    let sites =
        available(targets.args(["Created-By: Packages", "Origin: Debian", "Label: Debian"]))?;
    let site = sites.lines().next();
    let site = site.ok_or_else(|| Unavailable("apt knows no mirror of Debian".to_owned()))?;
    Ok(site.to_owned())
}

fn sources_of(mirror: &str) -> String {
    format!("deb {mirror} {RELEASE} main\ndeb {mirror} {SUITE} main\n")
}

/// Settings that come on top of the machine's own, which may have a proxy among them.
fn configuration_of(directory: &Path) -> String {
    let directory = directory.display();
    format!(
        "Dir::State::lists \"{directory}/lists\";\n\
         Dir::State::status \"{directory}/status\";\n\
         Dir::Cache \"{directory}\";\n\
         Dir::Cache::archives \"{directory}/archives\";\n\
         Dir::Etc::sourcelist \"{directory}/sources.list\";\n\
         Dir::Etc::sourceparts \"/dev/null\";\n\
         Dir::Etc::preferences \"/dev/null\";\n\
         Dir::Etc::preferencesparts \"/dev/null\";\n\
         APT::Default-Release \"{SUITE}\";\n\
         APT::Install-Recommends \"false\";\n\
         Acquire::Languages \"none\";\n"
    )
}

/// The parts of a kernel among what a package depends on, as apt-cache lists it.
fn kernel_parts(depends: &str) -> Vec<String> {
    let names = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "));
    // Those that are for any version, and lead to no files of a kernel, have no digit after it.
    let is_part = |name: &&str| {
        KERNEL_PARTS
            .iter()
            .filter_map(|part| name.strip_prefix(part))
            .any(|version| version.starts_with(|first: char| first.is_ascii_digit()))
    };
    names.filter(is_part).map(str::to_owned).collect()
}

/// Unpacks archives over each other, as installing them would.
fn unpack(archives: &[PathBuf], to: &Path) -> anyhow::Result<()> {
    let partial = to.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    for archive in archives {
        run(program("dpkg-deb")
            .arg("--extract")
            .arg(archive)
            .arg(&partial))?;
        fs::remove_file(archive)?;
    }
    fs::rename(&partial, to)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_in_one_package_or_in_several_is_found() {
        let one = "linux-image-amd64\n  Depends: linux-image-6.12.94+deb13-amd64\n";
        assert_eq!(kernel_parts(one), ["linux-image-6.12.94+deb13-amd64"]);
        let several = "linux-image-7.3.4-amd64\n |Depends: dracut\n  Depends: linux-base-7.3.4-amd64\n  \
            Depends: linux-binary-7.3.4-amd64\n  Depends: linux-modules-7.3.4-amd64\n";
        let expected = [
            "linux-base-7.3.4-amd64",
            "linux-binary-7.3.4-amd64",
            "linux-modules-7.3.4-amd64",
        ];
        assert_eq!(kernel_parts(several), expected);
    }

    #[test]
    fn packages_that_only_lead_to_a_kernel_are_passed_over() {
        let depends = "linux-image-amd64\n  Depends: linux-base-amd64\n  Depends: linux-base\n  \
            Depends: kmod\n";
        assert_eq!(kernel_parts(depends), Vec::<String>::new());
        assert_eq!(kernel_parts(""), Vec::<String>::new());
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
