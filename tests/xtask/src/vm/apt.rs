//! An apt with lists and archives of its own, that downloads packages and unpacks them: nothing on
//! the machine is changed, it does not take root, and nothing runs in a chroot.
//!
//! ```text
//! DIRECTORY/lists      what packages there are
//! DIRECTORY/archives   packages, while they are downloaded
//! DIRECTORY/unpacking  their files, until all are there
//! ```
//!
//! The machine's settings hold, which may have a proxy among them. What cannot be had is
//! [`Unavailable`]; whatever hangs is ended by `timeout` (coreutils).

use crate::outcome::Unavailable;
use crate::process::{program, run};
use anyhow::{Context, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

/// Seconds that one of apt's programs may take. The most that is asked of one is to download some
/// tens of megabytes.
const SECONDS: &str = "600";
/// With what `timeout` ends, when it had to end what it ran.
const TIMED_OUT: i32 = 124;

/// Where packages come from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sources<'a> {
    /// Where the machine has its own from.
    Machine,
    /// The main parts of two suites. Packages come from the second if it has them.
    Suites {
        mirror: &'a str,
        suites: [&'a str; 2],
    },
}

/// A package that is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wanted<'a> {
    Alone(&'a str),
    /// Together with all it depends on, to the last library.
    WithDependencies(&'a str),
}

/// An apt of its own.
#[derive(Debug)]
pub(crate) struct Apt {
    directory: PathBuf,
    /// The lists are fetched, which takes time, once at most.
    updated: Once,
}

impl Apt {
    /// Keeps what it has to in `directory`.
    pub(crate) fn new(directory: PathBuf, sources: Sources<'_>) -> anyhow::Result<Self> {
        for name in ["lists", "archives"] {
            directory_with_partial(&directory.join(name))?;
        }
        // With no package installed, what these depend on is downloaded to the last library.
        fs::write(directory.join("status"), "")?;
        if let Sources::Suites { mirror, suites } = sources {
            let lines = suites.map(|suite| format!("deb {mirror} {suite} main\n"));
            fs::write(directory.join("sources.list"), lines.concat())?;
        }
        fs::write(
            directory.join("apt.conf"),
            configuration(&directory, sources),
        )?;
        Ok(Self {
            directory,
            updated: Once::new(),
        })
    }

    /// Downloads packages and leaves their files in `to`, as installing them would.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] if they cannot be had.
    pub(crate) fn unpack(&self, wanted: &[Wanted<'_>], to: &Path) -> anyhow::Result<()> {
        self.update();
        let archives = self.directory.join("archives");
        // What a run left that was interrupted may be of other versions.
        empty(&archives)?;
        for wanted in wanted {
            match wanted {
                Wanted::Alone(package) => self.run("apt-get", &["download", package])?,
                Wanted::WithDependencies(package) => {
                    let arguments = ["install", "--yes", "--download-only", package];
                    self.run("apt-get", &arguments)?
                }
            };
        }
        let unpacking = self.directory.join("unpacking");
        remove(&unpacking)?;
        for archive in packages_in(&archives)? {
            run(program("dpkg-deb")
                .arg("--extract")
                .arg(archive)
                .arg(&unpacking))?;
        }
        fs::rename(&unpacking, to)
            .with_context(|| format!("{} has nothing to unpack", archives.display()))?;
        empty(&archives)
    }

    /// The names of the packages that `package` depends on.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] if that cannot be known.
    pub(crate) fn dependencies(&self, package: &str) -> anyhow::Result<Vec<String>> {
        self.update();
        Ok(dependencies(&self.run("apt-cache", &["depends", package])?))
    }

    /// The mirror of Debian.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] if there is none.
    pub(crate) fn mirror(&self) -> anyhow::Result<String> {
        // Who a mirror is of is known from its lists.
        self.update();
        let targets = ["Created-By: Packages", "Origin: Debian", "Label: Debian"];
        let arguments = [&["indextargets", "--format", "$(SITE)"][..], &targets].concat();
        let sites = self.run("apt-get", &arguments)?;
        let site = sites.lines().next();
        let site = site.ok_or_else(|| Unavailable("apt knows no mirror of Debian".to_owned()))?;
        Ok(site.to_owned())
    }

    /// Fetches the lists of packages. If that fails there may still be good ones.
    fn update(&self) {
        self.updated.call_once(|| {
            if let Err(error) = self.run("apt-get", &["update", "--error-on=any"]) {
                println!("{error}");
            }
        });
    }

    /// Runs one of apt's programs where packages are downloaded to, and returns what it printed.
    fn run(&self, name: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = bounded(name, SECONDS);
        command
            .args(["--quiet=2"])
            .args(arguments)
            .current_dir(self.directory.join("archives"))
            .env("APT_CONFIG", self.directory.join("apt.conf"))
            .env("DEBIAN_FRONTEND", "noninteractive")
            // Messages are in English.
            .env("LC_ALL", "C");
        available(command, &format!("{name} {}", arguments.join(" ")))
    }
}

/// A program that is ended after some seconds, and by Ctrl-C as this one is.
fn bounded(name: &str, seconds: &str) -> Command {
    let mut command = program("timeout");
    command.args(["--foreground", "--kill-after=10", seconds, name]);
    command
}

/// Runs a bounded command and returns what it printed. That it fails is no fault of ours: it is
/// another system, or there is no network.
fn available(mut command: Command, typed: &str) -> anyhow::Result<String> {
    let output = command.output().context("timeout could not be started")?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaints = String::from_utf8_lossy(&output.stderr);
    let complaint = complaints.lines().find(|line| line.starts_with("E: "));
    let why = match (output.status.code(), complaint) {
        (Some(TIMED_OUT), _) => format!("did not end in {SECONDS} s"),
        (_, Some(complaint)) => complaint.to_owned(),
        (Some(127), None) => "it is not there; packages come from Debian's apt".to_owned(),
        (_, None) => "it does not say why".to_owned(),
    };
    bail!(Unavailable(format!("{typed}: {why}")))
}

/// Settings for what differs from the machine's own.
fn configuration(directory: &Path, sources: Sources<'_>) -> String {
    let directory = directory.display();
    let mut configuration = format!(
        "Dir::State::lists \"{directory}/lists\";\n\
         Dir::State::status \"{directory}/status\";\n\
         Dir::Cache \"{directory}\";\n\
         Dir::Cache::archives \"{directory}/archives\";\n\
         APT::Install-Recommends \"false\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::Retries \"1\";\n\
         Acquire::http::Timeout \"20\";\n\
         Acquire::https::Timeout \"20\";\n"
    );
    if let Sources::Suites { suites, .. } = sources {
        let [_, first] = suites;
        configuration += &format!(
            "Dir::Etc::sourcelist \"{directory}/sources.list\";\n\
             Dir::Etc::sourceparts \"/dev/null\";\n\
             Dir::Etc::preferences \"/dev/null\";\n\
             Dir::Etc::preferencesparts \"/dev/null\";\n\
             APT::Default-Release \"{first}\";\n"
        );
    }
    configuration
}

/// The names in what apt-cache lists.
fn dependencies(depends: &str) -> Vec<String> {
    let lines = depends.lines();
    let names = lines.filter_map(|line| line.trim().strip_prefix("Depends: "));
    names.map(str::to_owned).collect()
}

fn packages_in(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut packages = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let is_package = path.extension().is_some_and(|it| it == "deb");
        packages.extend(is_package.then_some(path));
    }
    Ok(packages)
}

/// Makes a directory as apt wants it to be.
fn directory_with_partial(directory: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(directory.join("partial"))
        .with_context(|| format!("{} could not be created", directory.display()))
}

/// Leaves nothing in a directory of apt's.
fn empty(directory: &Path) -> anyhow::Result<()> {
    remove(directory)?;
    directory_with_partial(directory)
}

/// Removes a directory, if it is there.
fn remove(directory: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} could not be removed", directory.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_or_fails_or_hangs_is_unavailable() {
        let sleep = || {
            let mut sleep = bounded("sleep", "0.01");
            sleep.arg("600");
            sleep
        };
        for (command, why) in [
            (bounded("no-such-apt", SECONDS), "it is not there"),
            (bounded("false", SECONDS), "does not say why"),
            (sleep(), "did not end"),
        ] {
            let error = available(command, "it").unwrap_err();
            assert!(error.is::<Unavailable>(), "{error}");
            assert!(error.to_string().contains(why), "{error}");
        }
        assert_eq!(available(bounded("true", SECONDS), "it").unwrap(), "");
    }

    #[test]
    fn what_a_package_merely_recommends_or_could_do_with_is_no_dependency() {
        let depends = "linux-image-amd64\n  PreDepends: <something>\n |Depends: dracut\n  \
            Depends: initramfs-tools\n  Recommends: apparmor\n  Depends: linux-image-6.1.0-48-amd64\n";
        let expected = ["initramfs-tools", "linux-image-6.1.0-48-amd64"];
        assert_eq!(dependencies(depends), expected);
        assert_eq!(dependencies(""), Vec::<String>::new());
    }

    #[test]
    fn packages_that_an_interrupted_run_left_are_not_unpacked() {
        let directory = tempfile::tempdir().unwrap();
        let apt = Apt::new(directory.path().join("apt"), Sources::Machine).unwrap();
        apt.updated.call_once(|| {});
        let left = apt.directory.join("archives/linux-image-6.12.90.deb");
        fs::write(&left, "").unwrap();
        let to = directory.path().join("unpacked");
        let error = apt.unpack(&[], &to).unwrap_err().to_string();
        assert!(error.contains("nothing to unpack"), "{error}");
        assert!(!left.exists() && !to.exists());
    }
}
