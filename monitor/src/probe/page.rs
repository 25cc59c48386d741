//! Reads one telemetry page.
//!
//! The descriptor is kept from look to look. An owner that starts anew writes into the same file,
//! but somebody may also put another file in its place; a kept descriptor would then show the old
//! one for ever, so each look compares the file with the one under the name.

use super::{Probe, ProbeError};
use card_spec::telemetry::Page;
use hwshim::clock::Instant;
use hwshim::telemetry::{ReadError, Reader};
use rustix::fs::{Stat, lstat};
use rustix::io::Errno;
use std::path::{Path, PathBuf};

/// Reads one telemetry page.
#[derive(Debug)]
pub struct PageProbe {
    path: PathBuf,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    reader: Reader,
    file: FileId,
}

/// What tells a file from another of the same name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl PageProbe {
    /// Watches the page at `path`, which need not exist yet.
    #[must_use]
    pub const fn new(path: PathBuf) -> Self {
        Self { path, open: None }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn reader(&mut self) -> Result<&Reader, ProbeError> {
        let file = file_id(&self.path)?;
        // Opened after the name was looked up: if the file is replaced in between, the ids differ
        // at the next look, and it is opened again.
        let open = match self.open.take() {
            Some(open) if open.file == file => open,
            _ => Open {
                reader: Reader::open(&self.path)?,
                file,
            },
        };
        Ok(&self.open.insert(open).reader)
    }
}

impl Probe for PageProbe {
    type Subject = ();
    type Observation = Box<Page>;

    fn name(&self) -> &'static str {
        "page"
    }

    fn observe(&mut self, (): &(), _now: Instant) -> Result<Box<Page>, ProbeError> {
        Ok(Box::new(self.reader()?.read()?))
    }
}

fn file_id(path: &Path) -> Result<FileId, ProbeError> {
    match lstat(path) {
        Ok(Stat { st_dev, st_ino, .. }) => Ok(FileId {
            device: st_dev,
            inode: st_ino,
        }),
        Err(Errno::NOENT) => Err(ProbeError::Absent {
            what: path.display().to_string(),
        }),
        Err(errno) => Err(ProbeError::Unreadable {
            path: path.to_owned(),
            source: errno.into(),
        }),
    }
}

impl From<ReadError> for ProbeError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Absent { path } => Self::Absent {
                what: path.display().to_string(),
            },
            ReadError::Unreadable { path, source } => Self::Unreadable { path, source },
            ReadError::Invalid { path, source } => Self::Nonsense {
                path,
                what: source.to_string(),
            },
            ReadError::Torn { path } => Self::Torn { path },
            // The reader may learn new ways to fail; none of them is a page.
            other => Self::Nonsense {
                path: PathBuf::new(),
                what: other.to_string(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hwshim::telemetry::Publisher;
    use std::fs;

    fn publish(publisher: &mut Publisher, submitted: u64) {
        let mut page = Page::new();
        page.requests.submitted = submitted.into();
        publisher.publish(&page).unwrap();
    }

    #[test]
    fn a_page_is_read_as_often_as_asked() {
        let directory = tempfile::tempdir().unwrap();
        let mut publisher = Publisher::create(directory.path(), "software:ring").unwrap();
        let mut probe = PageProbe::new(publisher.path().to_owned());
        for submitted in [3, 4] {
            publish(&mut publisher, submitted);
            assert_eq!(
                probe
                    .observe(&(), Instant::ORIGIN)
                    .unwrap()
                    .requests
                    .submitted
                    .get(),
                submitted
            );
        }
    }

    #[test]
    fn a_page_put_in_place_of_another_is_the_one_read() {
        let directory = tempfile::tempdir().unwrap();
        let mut first = Publisher::create(directory.path(), "software:ring").unwrap();
        let mut probe = PageProbe::new(first.path().to_owned());
        publish(&mut first, 1);
        probe.observe(&(), Instant::ORIGIN).unwrap();

        fs::remove_file(first.path()).unwrap();
        assert_eq!(
            probe.observe(&(), Instant::ORIGIN).unwrap_err().kind(),
            "absent"
        );
        let mut second = Publisher::create(directory.path(), "software:ring").unwrap();
        publish(&mut second, 2);
        assert_eq!(
            probe
                .observe(&(), Instant::ORIGIN)
                .unwrap()
                .requests
                .submitted
                .get(),
            2
        );
    }

    #[test]
    fn what_is_no_page_says_in_which_way() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("short"), b"HWT1").unwrap();
        fs::write(at("garbage"), [0x5a; 4096]).unwrap();
        fs::write(at("target"), [0; 4096]).unwrap();
        std::os::unix::fs::symlink(at("target"), at("symlink")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at("fifo"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        let kind = |name: &str| {
            let error = PageProbe::new(at(name))
                .observe(&(), Instant::ORIGIN)
                .unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
            error.kind()
        };
        assert_eq!(kind("none"), "absent");
        assert_eq!(kind("short"), "nonsense");
        assert_eq!(kind("garbage"), "nonsense");
        assert_eq!(kind("symlink"), "unreadable");
        assert_eq!(kind("fifo"), "unreadable");
    }
}
