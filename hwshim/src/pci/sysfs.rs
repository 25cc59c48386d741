//! Reads the attribute files of one directory of sysfs.
//!
//! Knows how the kernel writes numbers and links, not what any attribute means. Whatever a file
//! holds, reading it ends in a [`Reading`].

use super::reading::{Problem, Reading};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// An attribute is at most one page (Linux `Documentation/filesystems/sysfs.rst`, "Attributes").
const ATTRIBUTE_LEN_MAX: usize = 4096;

/// A directory of sysfs: one device, or one IOMMU group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Directory<'a>(pub(super) &'a Path);

impl Directory<'_> {
    pub(super) fn file(self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Reads up to `len_max` bytes and not one more: the kernel turns each byte asked for in
    /// `config` into an access to the device.
    pub(super) fn bytes(self, name: &str, len_max: usize) -> Reading<Vec<u8>> {
        let file = self.file(name);
        let read = || {
            let mut bytes = vec![0; len_max];
            let mut len = 0;
            let mut file = File::open(&file)?;
            while len < len_max {
                match file.read(&mut bytes[len..]) {
                    Ok(0) => break,
                    Ok(more) => len += more,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            bytes.truncate(len);
            Ok(bytes)
        };
        outcome(&file, read())
    }

    /// Reads text, without the newline that ends it.
    pub(super) fn text(self, name: &str) -> Reading<String> {
        self.bytes(name, ATTRIBUTE_LEN_MAX)
            .and_then(|bytes| match String::from_utf8(bytes) {
                Ok(text) => Reading::Known(text.trim_end().to_owned()),
                Err(_) => self.invalid(name, "it is not text"),
            })
    }

    /// Reads text that `parse` understands; `expected` completes the sentence "it is not ...".
    pub(super) fn parsed<T>(
        self,
        name: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Reading<T> {
        self.text(name).and_then(|text| {
            parse(&text).map_or_else(
                || self.invalid(name, format!("{} is not {expected}", quoted(&text))),
                Reading::Known,
            )
        })
    }

    /// Reads a number of at most `bits` bits, written as `0x8086`.
    pub(super) fn hex<T: TryFrom<u32>>(self, name: &str, bits: u32) -> Reading<T> {
        let expected = format!("a hexadecimal number of {bits} bits");
        self.parsed(name, &expected, |text| {
            let digits = text.strip_prefix("0x")?;
            let plain = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            let value = plain.then(|| u32::from_str_radix(digits, 16).ok())??;
            T::try_from(value).ok().filter(|_| value >> bits == 0)
        })
    }

    /// Reads the last component of what a symbolic link points at.
    pub(super) fn link_name(self, name: &str) -> Reading<String> {
        let file = self.file(name);
        outcome(&file, fs::read_link(&file)).and_then(|target| {
            target
                .file_name()
                .and_then(|last| last.to_str())
                .filter(|last| !last.chars().any(char::is_control))
                .map_or_else(
                    || self.invalid(name, "it points at a name that is not text"),
                    |last| Reading::Known(last.to_owned()),
                )
        })
    }

    pub(super) fn invalid<T>(self, name: &str, reason: impl Into<String>) -> Reading<T> {
        Reading::Failed(Problem::invalid(&self.file(name), reason))
    }
}

fn outcome<T>(file: &Path, result: io::Result<T>) -> Reading<T> {
    match result {
        Ok(value) => Reading::Known(value),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Reading::Absent,
        Err(error) => Reading::Failed(Problem::unreadable(file, &error)),
    }
}

/// Quotes what a file held, cut short and with control characters escaped: it goes to a terminal.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN_MAX: usize = 32;
    let shown: String = text.chars().take(SHOWN_MAX).collect();
    let rest = if shown.len() < text.len() { "..." } else { "" };
    format!("{shown:?}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn directory_with(name: &str, content: &[u8]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(name), content).unwrap();
        directory
    }

    fn hex_of(content: &[u8]) -> Reading<u16> {
        let directory = directory_with("vendor", content);
        Directory(directory.path()).hex("vendor", 16)
    }

    #[test]
    fn numbers_are_read_as_the_kernel_writes_them() {
        assert_eq!(hex_of(b"0x8086\n"), Reading::Known(0x8086));
        for wrong in ["", "8086", "0x", "0x+1", "0x18086", "0x80 86", "0xzz"] {
            let problem = hex_of(wrong.as_bytes());
            assert!(
                matches!(problem, Reading::Failed(Problem::Invalid { .. })),
                "{wrong}"
            );
        }
        assert!(hex_of(&[0xff, 0xfe]).problem().is_some());
    }

    #[test]
    fn absent_and_unreadable_are_different() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("vendor")).unwrap();
        let directory = Directory(directory.path());
        assert_eq!(directory.text("device"), Reading::Absent);
        let Reading::Failed(Problem::Unreadable { reason, .. }) = directory.text("vendor") else {
            panic!("a directory is not readable as a file");
        };
        assert!(reason.contains("directory"), "{reason}");
    }

    #[test]
    fn no_more_is_read_than_was_asked_for() {
        let directory = directory_with("config", &[0xab; 256]);
        let bytes = Directory(directory.path()).bytes("config", 64).known();
        assert_eq!(bytes.unwrap().len(), 64);
    }

    #[test]
    fn a_link_is_named_by_its_last_component() {
        let directory = tempfile::tempdir().unwrap();
        symlink(
            "../../bus/pci/drivers/vfio-pci",
            directory.path().join("driver"),
        )
        .unwrap();
        let directory = Directory(directory.path());
        assert_eq!(
            directory.link_name("driver"),
            Reading::Known("vfio-pci".to_owned())
        );
        assert_eq!(directory.link_name("iommu_group"), Reading::Absent);
        symlink("drivers/\x1b[31m", directory.file("rainbow")).unwrap();
        assert!(directory.link_name("rainbow").problem().is_some());
    }

    #[test]
    fn quoted_text_is_short_and_harmless_on_a_terminal() {
        assert_eq!(quoted("\x1b[31m"), "\"\\u{1b}[31m\"");
        assert_eq!(quoted(&"x".repeat(5000)).len(), 32 + 2 + 3);
    }
}
