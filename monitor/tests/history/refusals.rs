//! Files that are not a history, and disks that take nothing: each is told with what to do.

use crate::support::{
    Ended, Layout, acknowledged, check_all, event, scratch, traced_writer, writer,
};
use monitor::history::HistoryError;
use rusqlite::Connection;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;

/// A history of twenty events, and where its file is.
fn history(root: &Path) -> (Layout, std::path::PathBuf) {
    let layout = Layout::below(root);
    drop(layout.fill(20));
    let file = layout.history.join("events.db");
    (layout, file)
}

/// Opening is refused with these words, and the file is as it was.
fn refused(layout: &Layout, words: &[&str]) {
    let file = layout.history.join("events.db");
    let before = fs::read(&file).ok();
    let error = layout.open().unwrap_err().to_string();
    for word in words.iter().chain(&["events.db"]) {
        assert!(error.contains(word), "{word}: {error}");
    }
    assert_eq!(fs::read(&file).ok(), before, "it was touched");
}

#[test]
fn what_belongs_to_something_else_is_left_as_it_is() {
    let root = scratch();
    let (layout, file) = history(root.path());
    fs::write(&file, "root:x:0:0:root:/root:/bin/sh\n").unwrap();
    refused(
        &layout,
        &[
            "is not ours",
            "does not begin as an SQLite file",
            "move it away",
        ],
    );
    fs::write(&file, "").unwrap();
    refused(&layout, &["is damaged", "it is empty"]);
    fs::remove_file(&file).unwrap();
    let other = Connection::open(&file).unwrap();
    other
        .execute_batch("CREATE TABLE bookmark (url TEXT)")
        .unwrap();
    drop(other);
    refused(&layout, &["is not ours", "application id 0x00000000"]);
    fs::remove_file(&file).unwrap();
    fs::write(layout.history.join("events.db-wal"), "left over").unwrap();
    refused(&layout, &["is damaged", "it is missing"]);
}

#[test]
fn what_a_newer_version_wrote_is_left_to_it() {
    let root = scratch();
    let (layout, file) = history(root.path());
    let newer = Connection::open(&file).unwrap();
    newer
        .execute_batch("PRAGMA journal_mode = delete; PRAGMA user_version = 7")
        .unwrap();
    drop(newer);
    refused(&layout, &["has schema 7", "run the version that wrote it"]);
}

#[test]
fn a_damaged_history_can_still_be_read_and_is_not_begun_anew() {
    let root = scratch();
    let (layout, file) = history(root.path());
    let mut bytes = fs::read(&file).unwrap();
    let end = bytes.len();
    // The last page holds the latest events.
    bytes[end - 2_000..].fill(0xa5);
    fs::write(&file, &bytes).unwrap();
    refused(&layout, &["restore a snapshot"]);
    let reader = layout.reader().unwrap();
    assert!(!reader.verify(&[]).unwrap().is_proven());
}

#[test]
fn a_second_writer_is_told_who_the_first_is() {
    let root = scratch();
    let layout = Layout::below(root.path());
    let mut first = Ended(writer(root.path(), 1_000_000).spawn().unwrap());
    let lines = BufReader::new(first.0.stdout.take().unwrap()).lines();
    let seq = lines
        .map_while(Result::ok)
        .find_map(|line| acknowledged(&line));
    assert_eq!(seq, Some(1));
    match layout.open().unwrap_err() {
        HistoryError::Locked { pid, .. } => assert_eq!(pid, Some(first.0.id())),
        error => panic!("{error}"),
    }
    // Reading takes no lock.
    assert!(layout.reader().unwrap().head().unwrap().is_some());
}

#[test]
fn who_holds_the_file_with_another_tool_is_waited_for_and_then_named() {
    let root = scratch();
    let (layout, file) = history(root.path());
    let mut events = layout.open().unwrap();
    let other = Connection::open(&file).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = events.append(&[event(21)]).unwrap_err();
    assert!(matches!(error, HistoryError::Locked { .. }), "{error}");
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(events.append(&[event(21)]).unwrap().0, 21);
    assert_eq!(check_all(&events, &[], 21), 21);
}

#[test]
fn nobody_else_may_write_and_only_who_is_let_may_read() {
    let root = scratch();
    let (layout, file) = history(root.path());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let events = layout.open().unwrap();
    assert_eq!(mode(&layout.history), 0o700);
    for name in [
        "events.db",
        "events.db-wal",
        "events.db-shm",
        "events.db.lock",
    ] {
        assert_eq!(mode(&layout.history.join(name)), 0o600, "{name}");
    }
    drop(events);
    fs::set_permissions(&file, Permissions::from_mode(0o620)).unwrap();
    refused(&layout, &["may be written by others", "chmod go-w"]);
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(&layout.history, Permissions::from_mode(0o777)).unwrap();
    let error = layout.open().unwrap_err().to_string();
    assert!(
        error.contains("may be written by others (mode 777)"),
        "{error}"
    );
    fs::set_permissions(&layout.history, Permissions::from_mode(0o700)).unwrap();
    if rustix::process::getuid().is_root() {
        // Whoever owns it may let anybody in at any time.
        chown(&layout.history, Some(65_534), None).unwrap();
        let error = layout.open().unwrap_err().to_string();
        assert!(error.contains("belongs to user 65534"), "{error}");
    } else {
        eprintln!("skipped: only root can give a directory to somebody else");
    }
}

#[test]
fn a_link_in_place_of_the_file_is_not_followed() {
    let root = scratch();
    let (layout, file) = history(root.path());
    let elsewhere = root.path().join("elsewhere.db");
    fs::rename(&file, &elsewhere).unwrap();
    symlink(&elsewhere, &file).unwrap();
    layout.open().unwrap_err();
    layout.reader().unwrap_err();
}

#[test]
fn what_may_not_be_written_is_told_from_what_is_damaged() {
    let root = scratch();
    let (layout, file) = history(root.path());
    let nobody = 65_534;
    let root_runs_this = rustix::process::getuid().is_root();
    let mut child = writer(root.path(), 1);
    if root_runs_this {
        // Root may write anything, so somebody else tries.
        for path in [&layout.history, &layout.anchors, &root.path().to_owned()] {
            chown(path, Some(nobody), Some(nobody)).unwrap();
        }
        let lock = layout.history.join("events.db.lock");
        chown(lock, Some(nobody), Some(nobody)).unwrap();
        child.uid(nobody).gid(nobody);
    }
    fs::set_permissions(&file, Permissions::from_mode(0o444)).unwrap();
    let output = match child.output() {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            eprintln!("skipped: nobody may not run this test: {error}");
            return;
        }
        output => output.unwrap(),
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        said.contains("may not be written; run as its owner"),
        "{said}"
    );
}

/// Lets the `n`-th call and those after it fail, for each n, and then looks at what is there.
fn every_call_fails(call: &str, error: &str, words: &str) {
    let mut told = 0;
    for n in (1..40).chain([50, 100, 200]) {
        let root = scratch();
        let inject = format!("inject={call}:error={error}:when={n}+");
        let arguments = ["-f", "-o", "/dev/null", "-e", &inject];
        let Some(mut child) = traced_writer(&arguments, root.path(), 60) else {
            return;
        };
        let output = child.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let last = said.lines().filter_map(acknowledged).max().unwrap_or(0);
        told += u64::from(said.lines().any(|line| line.contains(words)));
        let layout = Layout::below(root.path());
        let events = layout
            .open()
            .unwrap_or_else(|error| panic!("{call} {n}: {error}\n{said}"));
        check_all(&events, &layout.anchors(), last);
    }
    assert!(told > 30, "{told}");
}

#[test]
fn a_full_disk_is_told_at_whatever_write_it_is_noticed_and_loses_nothing() {
    every_call_fails("pwrite64", "ENOSPC", "there is no space left for");
}

#[test]
fn a_disk_that_does_not_sync_acknowledges_nothing() {
    every_call_fails("fsync", "EIO", "refused ");
}
