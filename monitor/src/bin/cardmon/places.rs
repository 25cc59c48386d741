//! Where things are unless somebody says otherwise: the history, the control socket, the dead man's
//! file.

use anyhow::Context as _;
use hwshim::telemetry::ROOTS_DIRECTORY;
use monitor::config::Config;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// The history a command is about.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct HistoryPlace {
    /// Directory of the history [default: /var/lib/cardmon for root, else cardmon in
    /// XDG_STATE_HOME].
    #[arg(long, value_name = "DIR")]
    history: Option<PathBuf>,
    /// File that is told where the history ends [default: DIR.anchors; of root's own history that of
    /// cardmon.service, /var/log/cardmon/anchors, where that was written to last].
    #[arg(long, value_name = "FILE")]
    anchors: Option<PathBuf>,
}

/// A history and its anchors.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) directory: PathBuf,
    pub(crate) anchors: PathBuf,
    /// Size from which on the file of events becomes an archive.
    pub(crate) archive_at_bytes: u64,
    /// Whether nobody named the directory, so that what it stands in may have to be made.
    pub(crate) by_default: bool,
}

impl HistoryPlace {
    pub(crate) fn find(&self, config: &Config) -> anyhow::Result<Found> {
        let named = self.history.as_ref().or(config.history.as_ref());
        let directory = named.map_or_else(state_directory, Clone::clone);
        let directory = absolute(&directory).context("--history names no directory")?;
        let anchors = self.anchors.as_ref().or(config.anchors.as_ref());
        let by_default = named.is_none();
        let of_unit = Path::new(UNIT_ANCHORS);
        let of_unit = Some(of_unit).filter(|_| by_default && rustix::process::geteuid().is_root());
        Ok(Found {
            anchors: anchors.map_or_else(|| usual_anchors(&directory, of_unit), Clone::clone),
            archive_at_bytes: config.archive_at_bytes,
            by_default,
            directory,
        })
    }
}

/// Where `cardmon.service` puts its anchors.
const UNIT_ANCHORS: &str = "/var/log/cardmon/anchors";
/// Its sign of life is beside the control socket.
const SIGN_OF_LIFE: &str = "alive.json";

/// Beside the history, unless those that `of_unit` names were written to last: the same history may have
/// been kept by hand before, or be since.
fn usual_anchors(directory: &Path, of_unit: Option<&Path>) -> PathBuf {
    let beside = PathBuf::from(format!("{}.anchors", directory.display()));
    let written_at = |path: &Path| path.metadata().and_then(|it| it.modified()).ok();
    match of_unit {
        // None is earlier than any time.
        Some(of_unit) if written_at(of_unit) > written_at(&beside) => of_unit.to_owned(),
        Some(_) | None => beside,
    }
}

/// The path from the root, without a slash at its end: names are made of it by adding to it.
pub(crate) fn absolute(path: &Path) -> io::Result<PathBuf> {
    Ok(std::path::absolute(path)?.components().collect())
}

/// A history that is read: its place may stand in a configuration file.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ReadPlace {
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

/// Where root's monitor has what is in [`runtime_directory`].
const ROOTS_RUNTIME: &str = "/run/cardmon";
/// Where root's monitor has what is in [`state_directory`].
const ROOTS_STATE: &str = "/var/lib/cardmon";
/// The control socket's name.
const CONTROL: &str = "control.sock";

/// The control socket of the monitor of this user.
pub(crate) fn control_socket() -> PathBuf {
    runtime_directory().join(CONTROL)
}

/// To be added to a message that something is not where this user has it by default: that root has such a
/// thing, if so, and with which option to name it.
pub(crate) fn roots(what: Roots) -> String {
    let (path, option) = match what {
        Roots::Control => (Path::new(ROOTS_RUNTIME).join(CONTROL), "--control"),
        Roots::SignOfLife => (Path::new(ROOTS_RUNTIME).join(SIGN_OF_LIFE), "--file"),
        Roots::History => (ROOTS_STATE.into(), "--history"),
        Roots::Telemetry => (ROOTS_DIRECTORY.into(), "--telemetry"),
    };
    let is_own = rustix::process::geteuid().is_root();
    of_root(is_own, &path, option)
}

fn of_root(is_own: bool, path: &Path, option: &str) -> String {
    match !is_own && path.exists() {
        true => format!("; root's is {path}: {option} {path}", path = path.display()),
        false => String::new(),
    }
}

/// What root may have of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Roots {
    Control,
    SignOfLife,
    History,
    Telemetry,
}

/// The dead man's file of the monitor of this user.
pub(crate) fn sign_of_life() -> PathBuf {
    runtime_directory().join(SIGN_OF_LIFE)
}

/// The sign of life of a monitor with that control socket.
pub(crate) fn sign_of_life_beside(control: &Path) -> PathBuf {
    control.with_file_name(SIGN_OF_LIFE)
}

/// Makes the directory of both, for whoever is going to write there.
///
/// Its name may be one that anybody can take in a directory for all, and whoever has it decides what
/// is read, ordered and written through it.
pub(crate) fn make_runtime_directory() -> anyhow::Result<()> {
    make_own(&runtime_directory())
}

fn make_own(directory: &Path) -> anyhow::Result<()> {
    let uid = rustix::process::geteuid();
    // Root's is for others to look into.
    let mode = if uid.is_root() { 0o755 } else { 0o700 };
    let made = DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(directory);
    made.with_context(|| format!("{} could not be made", directory.display()))?;
    let found = directory.symlink_metadata();
    let found = found.with_context(|| format!("{} could not be read", directory.display()))?;
    anyhow::ensure!(
        found.is_dir() && found.uid() == uid.as_raw() && found.mode() & 0o022 == 0,
        "{} is no directory of user {} that nobody else may write to; remove it, or name other places",
        directory.display(),
        uid.as_raw()
    );
    Ok(())
}

fn state_directory() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from(ROOTS_STATE);
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
        return PathBuf::from(ROOTS_RUNTIME);
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn a_slash_at_the_end_of_a_history_puts_nothing_of_it_elsewhere() {
        let config = Config::default();
        let places = ["/data/h", "/data/h/", "/data//h/./"].map(|directory| {
            let place = HistoryPlace {
                history: Some(directory.into()),
                anchors: None,
            };
            let found = place.find(&config).unwrap();
            (found.directory.into_os_string(), found.anchors)
        });
        for (directory, anchors) in places {
            assert_eq!(directory, "/data/h");
            assert_eq!(anchors, Path::new("/data/h.anchors"));
        }
    }

    #[test]
    fn the_units_anchors_are_found_where_they_were_written_to_last() {
        let root = tempfile::tempdir().unwrap();
        let (history, of_unit) = (root.path().join("h"), root.path().join("anchors"));
        let beside = root.path().join("h.anchors");
        let found = || usual_anchors(&history, Some(&of_unit));
        assert_eq!(found(), beside);
        fs::write(&of_unit, "").unwrap();
        assert_eq!(found(), of_unit);
        assert_eq!(usual_anchors(&history, None), beside);
        let (earlier, later) = (UNIX_EPOCH, UNIX_EPOCH + Duration::from_secs(1));
        let written_at = |path: &Path, time| {
            let file = fs::File::create(path).unwrap();
            file.set_modified(time).unwrap();
        };
        written_at(&beside, later);
        written_at(&of_unit, earlier);
        assert_eq!(found(), beside);
        written_at(&beside, earlier);
        written_at(&of_unit, later);
        assert_eq!(found(), of_unit, "one that was kept by hand before");
    }

    #[test]
    fn what_only_root_has_is_named_to_others() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("control.sock");
        assert_eq!(of_root(false, &path, "--control"), "");
        fs::write(&path, "").unwrap();
        assert_eq!(of_root(true, &path, "--control"), "");
        let path_shown = path.display();
        assert_eq!(
            of_root(false, &path, "--control"),
            format!("; root's is {path_shown}: --control {path_shown}")
        );
    }

    #[test]
    fn a_directory_that_somebody_else_may_write_to_is_not_used_for_files_of_this_run() {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("own");
        make_own(&own).unwrap();
        make_own(&own).unwrap();
        symlink(&own, root.path().join("link")).unwrap();
        let open = root.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
        for name in ["link", "open"] {
            let error = make_own(&root.path().join(name)).unwrap_err();
            assert!(error.to_string().contains("nobody else"), "{name}: {error}");
        }
    }
}
