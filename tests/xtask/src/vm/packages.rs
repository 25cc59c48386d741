//! The parts nobody here wrote, from Debian's packages.
//!
//! ```text
//! installed                          QEMU, with what it depends on
//! unpacked below target/vm/packages  a kernel with its modules, busybox
//! ```
//!
//! What is only unpacked leaves the machine's own kernel and tools alone. It is kept; remove the
//! directory to have the latest. Which kernel that is, and where it comes from, is learned from
//! apt.

use crate::outcome::Unavailable;
use crate::process::{output, program, run};
use anyhow::{Context, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The package of QEMU for this processor's kind of machine.
const QEMU: &str = "qemu-system-x86";
/// Depends on the latest kernel, and has nothing in it.
const LATEST_KERNEL: &str = "linux-image-amd64";
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
    /// Whether the lists have been fetched, which takes time and is done once at most.
    updated: bool,
}

impl Packages {
    /// Keeps what is unpacked in `directory`.
    pub(crate) fn new(directory: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir_all(&directory)
            .with_context(|| format!("{} could not be created", directory.display()))?;
        Ok(Self {
            directory,
            updated: false,
        })
    }

    /// QEMU, which is installed if it is not there.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] if it cannot be installed.
    pub(crate) fn qemu(&mut self) -> anyhow::Result<PathBuf> {
        let qemu = PathBuf::from("qemu-system-x86_64");
        if output(program(&qemu).arg("--version")).is_err() {
            println!("installing {QEMU}");
            self.update();
            let mut install = apt("apt-get");
            install.args(["install", "--yes", "--no-install-recommends", QEMU]);
            // Other installations on this machine end sooner or later.
            install.args(["-o", "DPkg::Lock::Timeout=60"]);
            available(&mut install)?;
        }
        Ok(qemu)
    }

    /// Debian's latest kernel, or the one that was unpacked before.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] if it cannot be had.
    pub(crate) fn kernel(&mut self) -> anyhow::Result<Kernel> {
        let package = match self.kernel_unpacked()? {
            Some(package) => package,
            None => {
                self.update();
                let depends = available(apt("apt-cache").args(["depends", LATEST_KERNEL]))?;
                kernel_of(&depends)
                    .with_context(|| format!("{LATEST_KERNEL} depends on no kernel: {depends}"))?
            }
        };
        let release = package.trim_start_matches(KERNEL_PREFIX).to_owned();
        let directory = self.unpacked(&package)?;
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
    /// [`Unavailable`] if it cannot be had.
    pub(crate) fn busybox(&mut self) -> anyhow::Result<PathBuf> {
        let directory = self.unpacked("busybox-static")?;
        // Debian moved all programs to /usr/bin after bookworm.
        let places = ["bin/busybox", "usr/bin/busybox"];
        let mut places = places.iter().map(|place| directory.join(place));
        places
            .find(|place| place.exists())
            .context("busybox-static has no busybox")
    }

    fn kernel_unpacked(&self) -> anyhow::Result<Option<String>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            // Such as are left by an interrupted unpacking have a dot in front.
            found.extend(name.starts_with(KERNEL_PREFIX).then_some(name));
        }
        Ok(found.into_iter().max())
    }

    /// The directory with a package's files.
    fn unpacked(&mut self, package: &str) -> anyhow::Result<PathBuf> {
        let directory = self.directory.join(package);
        if directory.exists() {
            return Ok(directory);
        }
        println!("downloading {package}");
        self.update();
        let partial = self.directory.join(format!(".{package}"));
        if partial.exists() {
            fs::remove_dir_all(&partial)?;
        }
        fs::create_dir_all(&partial)?;
        let mut download = apt("apt-get");
        available(download.args(["download", package]).current_dir(&partial))?;
        let archive = archive_in(&partial)?;
        let mut unpack = program("dpkg-deb");
        run(unpack.arg("--extract").arg(&archive).arg(&partial))?;
        fs::remove_file(&archive)?;
        fs::rename(&partial, &directory)?;
        Ok(directory)
    }

    /// Fetches the lists of packages. If that fails there may still be good ones.
    fn update(&mut self) {
        if !std::mem::replace(&mut self.updated, true)
            && let Err(error) = available(apt("apt-get").arg("update"))
        {
            println!("{error}");
        }
    }
}

/// A program of apt's that asks nothing and answers in English.
pub(super) fn apt(name: &str) -> Command {
    let mut command = program(name);
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C")
        .arg("--quiet=2");
    command
}

/// Runs one of apt's programs and returns what it printed. That it fails is no fault of ours: it
/// is another system, there is no network, or the user is not root.
pub(super) fn available(command: &mut Command) -> anyhow::Result<String> {
    let typed = crate::process::typed(command);
    let Ok(output) = command.output() else {
        bail!(Unavailable(format!(
            "{typed} could not be started; packages come from Debian's apt"
        )));
    };
    if !output.status.success() {
        let complaints = String::from_utf8_lossy(&output.stderr);
        let complaint = complaints.lines().find(|line| line.starts_with("E: "));
        let complaint = complaint.unwrap_or("it does not say why");
        bail!(Unavailable(format!("{typed}: {complaint}")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The kernel among what a package depends on, as apt-cache lists it.
fn kernel_of(depends: &str) -> Option<String> {
    let mut names = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "));
    names
        .find(|name| name.starts_with(KERNEL_PREFIX))
        .map(str::to_owned)
}

fn archive_in(directory: &Path) -> anyhow::Result<PathBuf> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            return Ok(path);
        }
    }
    bail!("apt-get downloaded nothing to {}", directory.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_found_among_dependencies() {
        let depends = "linux-image-amd64\n  PreDepends: <something>\n  Depends: initramfs-tools\n  \
            Depends: linux-image-6.1.0-48-amd64\n";
        let kernel = kernel_of(depends);
        assert_eq!(kernel.as_deref(), Some("linux-image-6.1.0-48-amd64"));
        assert_eq!(
            kernel_of("linux-image-amd64\n  Depends: base-files\n"),
            None
        );
        assert_eq!(kernel_of(""), None);
    }

    #[test]
    fn a_program_that_is_not_there_or_fails_is_unavailable() {
        for mut command in [program("no-such-apt"), program("false")] {
            let error = available(&mut command).unwrap_err();
            assert!(error.is::<Unavailable>(), "{error}");
        }
    }
}
