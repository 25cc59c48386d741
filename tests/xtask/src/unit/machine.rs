//! A machine that has nothing to do but to run `cardmon.service`: a systemd of its own in namespaces of its own,
//! which the host knows as a few processes and nothing else.
//!
//! ```text
//!   xtask --stdin--> guard.sh --> unshare --> boot.sh, which becomes systemd --> journald, cardmon, ...
//!     |                                          ^
//!     +--------------- nsenter ------------------+   questions, as one would type them there
//! ```
//!
//! When xtask ends, even killed, the guard's input does, and the guard removes all there was.

use crate::outcome::Unavailable;
use crate::process::{answers, bound, build_directory, program, root};
use crate::replay::stage::wait_until;
use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Output, Stdio};
use std::time::Duration;

/// Where the two scripts are.
const SCRIPTS: &str = "tests/xtask/src/unit";
/// What has not begun by then never will. It is longer than systemd gives a unit to start.
const BEGIN: Duration = Duration::from_secs(100);
/// Of util-linux, all of them.
const NEEDED: [&str; 5] = ["unshare", "nsenter", "setpriv", "mount", "pivot_root"];

/// A machine, which is removed with the value.
#[derive(Debug)]
pub(super) struct Machine {
    guard: Child,
    /// Its process 1, as the host counts.
    init: u32,
}

/// Sees whether a machine can be had here.
///
/// # Errors
///
/// [`Unavailable`], with what is missing and what to do.
pub(super) fn possible() -> anyhow::Result<()> {
    let lacking = |what: &str| Err(Unavailable(what.to_owned()).into());
    if !Path::new("/proc/self/ns/pid").exists() {
        return lacking("it takes Linux with namespaces; run it there");
    }
    let places = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"];
    if !places.iter().any(|place| Path::new(place).exists()) {
        return lacking("there is no systemd to run the unit; install systemd (it need not run)");
    }
    for name in NEEDED {
        let mut version = program(name);
        version.arg("--version").stderr(Stdio::null());
        if !answers(version) {
            return lacking(&format!("there is no {name}; install util-linux"));
        }
    }
    let mut namespaces = program("unshare");
    namespaces.args(["--fork", "--pid", "--mount", "--uts", "--ipc", "--net"]);
    namespaces.args(["mount", "-t", "tmpfs", "tmpfs", "/tmp"]);
    if !answers(namespaces) {
        return lacking(
            "namespaces and mounts take root; as sudo env \"PATH=$PATH\" cargo xtask unit, \
             and in a container only with its CAP_SYS_ADMIN",
        );
    }
    Ok(())
}

impl Machine {
    /// Boots one with `cardmon.service` enabled, and returns when that runs or has failed.
    pub(super) fn boot(unit: &Path, mount_point: &Path) -> anyhow::Result<Self> {
        let mut guard = program("sh");
        let script = |name: &str| root().join(SCRIPTS).join(name);
        guard.args([script("guard.sh"), script("boot.sh")]);
        guard.arg(format!("hwshim-unit-{}", process::id()));
        guard.args([mount_point, &build_directory(false), unit]);
        guard.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut guard = guard.spawn().context("sh could not be started")?;
        let stdout = guard.stdout.take();
        let mut machine = Self { guard, init: 0 };
        let mut line = String::new();
        BufReader::new(stdout.context("the guard has no output")?).read_line(&mut line)?;
        let init = line.trim().parse().ok();
        machine.init = init.context("no machine could be made; why is said above")?;
        let stdin = machine
            .guard
            .stdin
            .as_mut()
            .context("the guard has no input")?;
        writeln!(stdin, "{}", machine.init).context("the guard has ended")?;
        machine.wait(BEGIN, "multi-user.target", |machine| {
            let state = machine.property("multi-user.target", "ActiveState");
            Ok(state.ok().filter(|state| state == "active"))
        })?;
        Ok(machine)
    }

    /// A command to be run in it, by its root.
    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = bound("nsenter");
        command.args(["--target", &self.init.to_string()]);
        command.args(["--mount", "--uts", "--ipc", "--net", "--pid"]);
        command.args(["env", "-i", "SYSTEMD_UNIT_PATH=/etc/systemd/system"]);
        command.arg("PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.args(words);
        command
    }

    /// How a command ends, and what it prints.
    pub(super) fn ask(&self, words: &[&str]) -> anyhow::Result<Output> {
        let output = self.command(words).output();
        output.with_context(|| format!("{} could not be run", words.join(" ")))
    }

    /// What a command prints that must succeed.
    pub(super) fn told(&self, words: &[&str]) -> anyhow::Result<String> {
        let output = self.ask(words)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            bail!("{} ({}): {said}{errors}", words.join(" "), output.status);
        }
        Ok(said)
    }

    /// The same, as JSON: one document, or one a line.
    pub(super) fn documents(&self, words: &[&str]) -> anyhow::Result<Vec<Value>> {
        let said = self.told(words)?;
        let documents = serde_json::Deserializer::from_str(&said).into_iter();
        let documents: Result<_, _> = documents.collect();
        documents.with_context(|| format!("{} printed no JSON", words.join(" ")))
    }

    /// What systemd knows of a unit.
    pub(super) fn property(&self, unit: &str, name: &str) -> anyhow::Result<String> {
        let told = self.told(&["systemctl", "show", "--property", name, "--value", unit])?;
        Ok(told.trim().to_owned())
    }

    /// The main process of a unit that runs: of one that does not, systemd says 0, which stands for quite
    /// others where processes are killed.
    pub(super) fn main_process(&self, unit: &str) -> anyhow::Result<String> {
        let pid = self.property(unit, "MainPID")?;
        ensure!(pid != "0", "{unit} does not run");
        Ok(pid)
    }

    /// Has systemd know a unit, or what is dropped in for one.
    pub(super) fn add_unit(&self, name: &str, text: &str) -> anyhow::Result<()> {
        self.write(&format!("/etc/systemd/system/{name}"), text)?;
        self.told(&["systemctl", "daemon-reload"]).map(drop)
    }

    /// Puts a file there.
    pub(super) fn write(&self, path: &str, text: &str) -> anyhow::Result<()> {
        let there = PathBuf::from(format!("/proc/{}/root", self.init));
        let path = there.join(path.trim_start_matches('/'));
        let directory = path.parent().context("a file is in a directory")?;
        fs::create_dir_all(directory)
            .and_then(|()| fs::write(&path, text))
            .with_context(|| format!("{} cannot be written", path.display()))
    }

    /// Waits until `look` finds something, no longer than `patience`.
    ///
    /// # Errors
    ///
    /// That it did not come.
    pub(super) fn wait<T>(
        &self,
        patience: Duration,
        what: &str,
        mut look: impl FnMut(&Self) -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let found = wait_until(patience, || look(self))?;
        found.with_context(|| format!("{what} did not come within {} s", patience.as_secs()))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        // It says itself what it could not remove.
        let _ = self.guard.wait();
    }
}
