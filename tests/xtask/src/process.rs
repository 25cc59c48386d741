//! Running other programs from the top of the repository, and how long that takes.

use anyhow::{Context, bail};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The top of the repository.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = manifest.ancestors().nth(2);
    root.expect("this package is at tests/xtask").to_owned()
}

/// A program run from the top of the repository, with nothing to read.
pub(crate) fn program(name: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(name);
    command.current_dir(root()).stdin(Stdio::null());
    command
}

/// A program that the kernel kills when this one ends, even if it is killed: nobody is left behind.
pub(crate) fn bound(name: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = program("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(name);
    command
}

/// The cargo that runs this. What that says of this package is not handed on: build scripts listen to
/// it (ring's does), and would have all compiled anew that was compiled by hand, and the reverse.
pub(crate) fn cargo<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = program(cargo);
    command.args(arguments);
    for (name, _) in std::env::vars_os() {
        let is_of_this_package = name.to_str().is_some_and(|name| {
            name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
        });
        if is_of_this_package {
            command.env_remove(name);
        }
    }
    command
}

/// A command as one would type it.
pub(crate) fn typed(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or_else(|| command.get_program());
    std::iter::once(name)
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Builds programs of ours. Returns the directory that they are in then.
pub(crate) fn built(programs: &[&str], release: bool) -> anyhow::Result<PathBuf> {
    let mut build = cargo(["build", "--quiet", "--locked"]);
    for program in programs {
        build.args(["--bin", program]);
    }
    if release {
        build.arg("--release");
    }
    run(&mut build)?;
    Ok(build_directory(release))
}

/// Where programs of ours are once they are built.
pub(crate) fn build_directory(release: bool) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR");
    let target = target.map_or_else(|| root().join("target"), PathBuf::from);
    target.join(if release { "release" } else { "debug" })
}

/// Runs a command whose output goes to the terminal.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let typed = typed(command);
    let status = command
        .status()
        .with_context(|| format!("{typed} could not be started"))?;
    if !status.success() {
        bail!("{typed} failed ({status})");
    }
    Ok(())
}

/// Runs a command and returns what it printed on standard output; its errors go where it sends them.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    let typed = typed(command);
    let output = command
        .stdout(Stdio::piped())
        .spawn()
        .and_then(Child::wait_with_output)
        .with_context(|| format!("{typed} could not be run"))?;
    if !output.status.success() {
        bail!("{typed} failed ({})", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("{typed} printed no UTF-8"))
}

/// Whether a command can be started and succeeds, without showing what it prints.
pub(crate) fn answers(mut command: Command) -> bool {
    let command = command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The system that this is built for, as the compiler calls it.
pub(crate) fn host() -> anyhow::Result<String> {
    let version = output(program("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}

/// Runs `work` and says how long it took.
#[expect(
    clippy::disallowed_methods,
    reason = "measures real work and decides nothing by it"
)]
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = std::time::Instant::now();
    let result = work();
    (result, start.elapsed())
}
