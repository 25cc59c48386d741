//! Where things are unless somebody says otherwise: the history, the control socket, the dead man's
//! file.

use anyhow::Context as _;
use monitor::config::Config;
use std::path::{Path, PathBuf};

/// The history a command is about.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct HistoryPlace {
    /// Directory of the history [default: /var/lib/cardmon for root, else cardmon in
    /// XDG_STATE_HOME].
    #[arg(long, value_name = "DIR")]
    history: Option<PathBuf>,
    /// File that is told where the history ends [default: DIR.anchors].
    #[arg(long, value_name = "FILE")]
    anchors: Option<PathBuf>,
}

/// A history and its anchors.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) directory: PathBuf,
    pub(crate) anchors: PathBuf,
    /// Whether nobody named the directory, so that what it stands in may have to be made.
    pub(crate) by_default: bool,
}

impl HistoryPlace {
    pub(crate) fn find(&self, config: &Config) -> anyhow::Result<Found> {
        let named = self.history.as_ref().or(config.history.as_ref());
        let directory = named.map_or_else(state_directory, Clone::clone);
        let directory = absolute(&directory).context("--history names no directory")?;
        let anchors = self.anchors.as_ref().or(config.anchors.as_ref());
        Ok(Found {
            anchors: anchors.map_or_else(
                || PathBuf::from(format!("{}.anchors", directory.display())),
                Clone::clone,
            ),
            by_default: named.is_none(),
            directory,
        })
    }
}

/// A history that is read: its place may stand in a configuration file.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ReadPlace {
/// The path from the root, without a slash at its end: names are made of it by adding to it.
pub(crate) fn absolute(path: &Path) -> io::Result<PathBuf> {
    Ok(std::path::absolute(path)?.components().collect())
}

    #[command(flatten)]
    place: HistoryPlace,
    /// Configuration file that names them.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ReadPlace {
    pub(crate) fn find(&self) -> anyhow::Result<Found> {
        self.place.find(&self.config()?)
    }

    /// The configuration that was named, or none.
    pub(crate) fn config(&self) -> anyhow::Result<Config> {
        match &self.config {
            Some(path) => Ok(Config::read(path)?),
            None => Ok(Config::default()),
        }
    }
}

/// The control socket of the monitor of this user.
pub(crate) fn control_socket() -> PathBuf {
    runtime_directory().join("control.sock")
}

/// The dead man's file of the monitor of this user.
pub(crate) fn sign_of_life() -> PathBuf {
    runtime_directory().join("alive.json")
}

fn state_directory() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/cardmon");
    }
    if let Some(state) = absolute_variable("XDG_STATE_HOME") {
        return state.join("cardmon");
    }
    let home = absolute_variable("HOME").unwrap_or_else(std::env::temp_dir);
    home.join(".local/state/cardmon")
}

fn runtime_directory() -> PathBuf {
    let uid = rustix::process::geteuid();
    if uid.is_root() {
        return PathBuf::from("/run/cardmon");
    }
    absolute_variable("XDG_RUNTIME_DIR").map_or_else(
        || std::env::temp_dir().join(format!("cardmon-{}", uid.as_raw())),
        |runtime| runtime.join("cardmon"),
    )
}

/// A directory in the environment, if it is one: what is relative is to be ignored (XDG Base
/// Directory Specification 0.8, "Basics").
fn absolute_variable(name: &str) -> Option<PathBuf> {
    let value = PathBuf::from(std::env::var_os(name)?);
    Path::is_absolute(&value).then_some(value)
}
