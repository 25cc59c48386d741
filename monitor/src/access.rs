//! Says who may use what this user may not.
//!
//! It reads whose a file is, and changes nothing.

use rustix::process::geteuid;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Whose the file at `path` is, if permission to use it was denied; of the directory above it that keeps
/// this user out, if one does.
#[must_use]
pub fn who_may(path: &Path) -> String {
    let closed = path
        .ancestors()
        .find_map(|at| Some((at, at.metadata().ok()?)));
    let Some((at, found)) = closed else {
        return "whose it is cannot be seen".to_owned();
    };
    let what = match at == path {
        true => "it".to_owned(),
        false => at.display().to_string(),
    };
    format!(
        "{what} belongs to user {} and group {}, with mode {:04o}, and this is user {}",
        name(found.uid(), "/etc/passwd"),
        name(found.gid(), "/etc/group"),
        found.mode() & 0o7777,
        name(geteuid().as_raw(), "/etc/passwd"),
    )
}

/// What a user or group is called on this host, or else its number.
fn name(id: u32, list: &str) -> String {
    let id = id.to_string();
    let list = fs::read_to_string(list).unwrap_or_default();
    // NAME:PASSWORD:ID:... (passwd(5), group(5)).
    let named = list.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (number == id).then(|| name.to_owned())
    });
    named.unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn whose_a_file_is_is_told_with_its_mode() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("control.sock");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let whose = who_may(&path);
        assert!(whose.starts_with("it belongs to user "), "{whose}");
        assert!(whose.contains("with mode 0640"), "{whose}");
        let above = who_may(&path.join("below"));
        let expected = format!("{} belongs to user ", path.display());
        assert!(above.starts_with(&expected), "{above}");
    }

    #[test]
    fn who_has_no_name_here_is_told_by_number() {
        assert_eq!(name(0, "/nonexistent"), "0");
        let root = tempfile::tempdir().unwrap();
        let list = root.path().join("passwd");
        fs::write(&list, "root:x:0:0\nbroken\nhwshim:x:998:998\n").unwrap();
        let list = list.to_str().unwrap();
        assert_eq!(name(998, list), "hwshim");
        assert_eq!(name(7, list), "7");
    }
}
