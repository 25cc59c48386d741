//! Captured trees for tests: `/proc` and `/sys` of a host, in one text file each below
//! `fixtures/trees`.
//!
//! ```text
//! == proc/pressure/cpu
//! some avg10=0.71 avg60=0.64 avg300=2.58 total=12165249710
//! == proc/4321/fd/3 -> socket:[50001]
//! ```
//!
//! A line `== PATH` opens a file, which takes all lines up to the next; `== PATH -> TARGET` is a
//! symbolic link. As text, because version control keeps neither a link to nowhere nor a `/proc`
//! that anybody could review.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A file with a number in it that goes the way files of a device go which is pulled out: who has
/// it open gets an error from then on. It is a file of a process.
pub(super) struct Mortal(Child);

impl Mortal {
    pub(super) fn new() -> Self {
        Self(Command::new("cat").stdin(Stdio::piped()).spawn().unwrap())
    }

    pub(super) fn path(&self) -> String {
        format!("/proc/{}/oom_score_adj", self.0.id())
    }

    pub(super) fn end(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A tree, removed with the value.
pub(crate) struct Tree(TempDir);

impl Tree {
    pub(super) fn empty() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn captured(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fixtures/trees")
            .join(name);
        let text = fs::read_to_string(path).unwrap();
        let tree = Self::empty();
        for part in text.split("== ").skip(1) {
            let (head, content) = part.split_once('\n').unwrap();
            match head.split_once(" -> ") {
                None => tree.write(head, content),
                Some((path, target)) => tree.link(path, target),
            }
        }
        tree
    }

    pub(crate) fn root(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(super) fn link(&self, path: &str, target: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, path).unwrap();
    }

    pub(super) fn remove(&self, path: &str) {
        let path = self.root().join(path);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    }
}
