//! Packs a report: files, and a manifest with the SHA-256 of each, in a directory or in a tar archive.
//!
//! ```text
//!   report.html      for people
//!   report.json      for programs
//!   events.jsonl     what is on record, one event a line
//!   held.svg         what the service held
//!   MANIFEST.sha256  checked with: sha256sum -c MANIFEST.sha256
//! ```
//!
//! The archive is of the plain format that every tar reads ("ustar", POSIX.1-2017 `pax`, "ustar
//! Interchange Format"), with neither users nor names of a host in it.

use super::{Report, chart, hex, page};
use ring::digest::{SHA256, digest};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Name of the manifest.
pub const MANIFEST: &str = "MANIFEST.sha256";
/// tar counts in blocks of so many bytes.
const BLOCK: usize = 512;

/// A file of a bundle.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Packed {
    /// Its name.
    pub name: &'static str,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// A bundle could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Something is there already, and is not overwritten.
    #[error("{} is there already; name another place with --out", path.display())]
    Exists {
        /// What.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("{} could not be written", path.display())]
    Os {
        /// What.
        path: PathBuf,
        /// Its reason.
        #[source]
        source: io::Error,
    },
    /// A report that no text can be made of.
    #[error("the report could not be put into words")]
    Text(#[from] serde_json::Error),
}

/// The files of a report, the manifest last.
///
/// # Errors
///
/// [`BundleError::Text`].
pub fn files(report: &Report) -> Result<Vec<Packed>, BundleError> {
    let held = report.held.known().map_or(&[][..], Vec::as_slice);
    let drawing = chart::svg(held);
    let mut events = String::new();
    for event in report.events.known().into_iter().flatten() {
        events.push_str(&serde_json::to_string(event)?);
        events.push('\n');
    }
    let file = |name, text: String| Packed {
        name,
        bytes: text.into_bytes(),
    };
    let mut files = vec![
        file("report.html", page::html(report, &drawing)),
        file("report.json", serde_json::to_string_pretty(report)? + "\n"),
        file("events.jsonl", events),
        file("held.svg", drawing),
    ];
    let mut manifest = String::new();
    for Packed { name, bytes } in &files {
        let _ = writeln!(manifest, "{}  {name}", hex(digest(&SHA256, bytes).as_ref()));
    }
    files.push(file(MANIFEST, manifest));
    Ok(files)
}

/// Writes a bundle to `to`: an archive if that ends in `.tar`, else a directory. Neither may be there
/// yet. Only this user can read it until somebody lets others: it tells what operators do.
///
/// # Errors
///
/// See [`BundleError`].
pub fn write(files: &[Packed], to: &Path, made_unix_ms: i64) -> Result<(), BundleError> {
    let failed = |path: &Path, source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => BundleError::Exists {
            path: path.to_owned(),
        },
        _ => BundleError::Os {
            path: path.to_owned(),
            source,
        },
    };
    if to.symlink_metadata().is_ok() {
        return Err(failed(to, io::ErrorKind::AlreadyExists.into()));
    }
    // Under another name until it is whole: what is cut short by a full disk is no bundle.
    let partial = PathBuf::from(format!("{}.partial", to.display()));
    if to.extension().is_some_and(|extension| extension == "tar") {
        let bytes = archive(files, made_unix_ms);
        create(&partial, &bytes).map_err(|error| failed(&partial, error))?;
    } else {
        let made = fs::DirBuilder::new().mode(0o700).create(&partial);
        made.map_err(|error| failed(&partial, error))?;
        for Packed { name, bytes } in files {
            let path = partial.join(name);
            create(&path, bytes).map_err(|error| {
                // It was made here, and holds nothing else.
                let _ = fs::remove_dir_all(&partial);
                failed(&path, error)
            })?;
        }
    }
    fs::rename(&partial, to).map_err(|error| failed(to, error))
}

/// Makes a file, whole or not at all.
fn create(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = File::options();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if written.is_err() {
        let _ = fs::remove_file(path);
    }
    written
}

/// The archive: each file behind a header, and two empty blocks at the end.
fn archive(files: &[Packed], made_unix_ms: i64) -> Vec<u8> {
    let mut archive = Vec::new();
    for Packed { name, bytes } in files {
        archive.extend(header(name, bytes.len(), made_unix_ms / 1_000));
        archive.extend(bytes);
        archive.resize(archive.len().next_multiple_of(BLOCK), 0);
    }
    archive.resize(archive.len() + 2 * BLOCK, 0);
    archive
}

fn header(name: &str, len: usize, unix_seconds: i64) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000600\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{len:011o}\0").as_bytes());
    put(
        136,
        format!("{:011o}\0", unix_seconds.clamp(0, 0o77_777_777_777)).as_bytes(),
    );
    // The sum is taken with blanks in its own place.
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_that_could_not_be_written_whole_is_not_there_at_all() {
        let root = tempfile::tempdir().unwrap();
        let file = |name| Packed {
            name,
            bytes: b"text".to_vec(),
        };
        let files = [file("one"), file("no-such-directory/two")];
        let to = root.path().join("report");
        let error = write(&files, &to, 0).unwrap_err();
        assert!(matches!(error, BundleError::Os { .. }), "{error}");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
        for name in ["report", "report.tar"] {
            let to = root.path().join(name);
            write(&files[..1], &to, 0).unwrap();
            let again = write(&files[..1], &to, 0).unwrap_err();
            assert!(matches!(again, BundleError::Exists { .. }), "{again}");
        }
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2);
    }
}
