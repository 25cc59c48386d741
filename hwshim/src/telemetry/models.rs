//! Models of the sequence lock: owners and readers of one file, interleaved at every system call.
//!
//! The file is a real one. The kernel promises that bytes are read as they were written, and not
//! that a page written at once is read at once; so here each read or write of a page stops in the
//! middle of it. Eight bytes of a sequence are taken to be written at once.

use super::*;
use crate::model;
use shuttle::thread;
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tempfile::TempDir;

const ADDRESS: &str = "software:ring";

/// Where a page falls into halves: there is something of a publication in each.
const MIDDLE: u64 = 0x200;

/// A reader gives up after this many attempts, so that there is an end to what can happen.
const ATTEMPTS: usize = 2;

thread_local! {
    /// Writes until an owner dies.
    static WRITES_LEFT: Cell<u32> = const { Cell::new(u32::MAX) };
}

/// How much of `len` bytes the kernel reads at once.
pub(super) fn some_read(offset: u64, len: usize) -> usize {
    if !model::is_running() {
        return len;
    }
    model::step();
    let left = usize::try_from(MIDDLE.saturating_sub(offset)).unwrap();
    if left == 0 { len } else { len.min(left) }
}

/// How much of `len` bytes the kernel writes at once.
pub(super) fn some_written(offset: u64, len: usize) -> Result<usize, Errno> {
    let len = some_read(offset, len);
    let left = WRITES_LEFT.get();
    if model::is_running() && left != u32::MAX {
        WRITES_LEFT.set(left.checked_sub(1).ok_or(Errno::IO)?);
    }
    Ok(len)
}

/// A page that shows whether it is whole: `value` stands in both halves.
fn page(value: u8) -> Page {
    let mut page = Page::new();
    page.requests.submitted = u64::from(value).into();
    page.owner.pid = u64::from(value).into();
    page.health.fill(value);
    page
}

/// What was published as `page`, if all of it was.
fn value(page: &Page) -> u8 {
    let value = page.health[0];
    let first = (page.owner.pid.get(), page.requests.submitted.get());
    assert_eq!(first, (u64::from(value), u64::from(value)), "half a page");
    assert!(page.health.iter().all(|&byte| byte == value), "half a page");
    value
}

fn publisher(directory: &TempDir) -> Publisher {
    Publisher::create(directory.path(), ADDRESS).unwrap()
}

/// A page that says 1, written by an owner who is gone, and a reader of it.
fn left_behind() -> (Arc<TempDir>, Reader) {
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let mut publisher = publisher(&directory);
    publisher.publish(&page(1)).unwrap();
    let reader = Reader::open(publisher.path()).unwrap();
    (directory, reader)
}

#[test]
fn no_interleaving_shows_half_a_publication() {
    model::exhaust("telemetry: owner and reader", || {
        let directory = tempfile::tempdir().unwrap();
        let mut publisher = publisher(&directory);
        publisher.publish(&page(1)).unwrap();
        let reader = Reader::open(publisher.path()).unwrap();
        let owner = thread::spawn(move || publisher.publish(&page(2)).unwrap());
        if let Ok(page) = reader.read_within(ATTEMPTS) {
            assert!([1, 2].contains(&value(&page)));
        }
        owner.join().unwrap();
        assert_eq!(value(&reader.read().unwrap()), 2);
    });
}

/// The new owner begins with an empty page, and its first publication may bring the sequence to
/// where the old one left it.
#[test]
fn no_interleaving_shows_half_of_one_owner_and_half_of_the_next() {
    model::sample("telemetry: next owner and reader", 5_000, || {
        let (directory, reader) = left_behind();
        let owner = thread::spawn(move || publisher(&directory).publish(&page(2)).unwrap());
        if let Ok(page) = reader.read_within(ATTEMPTS) {
            assert!([0, 1, 2].contains(&value(&page)));
        }
        owner.join().unwrap();
        assert_eq!(value(&reader.read().unwrap()), 2);
    });
}

#[test]
fn two_owners_never_publish_at_once() {
    model::sample("telemetry: two owners and a reader", 2_000, || {
        let (directory, reader) = left_behind();
        let owners = Arc::new(AtomicU32::new(0));
        let compete = |name| {
            let (directory, owners) = (Arc::clone(&directory), Arc::clone(&owners));
            move || match Publisher::create(directory.path(), ADDRESS) {
                Err(PublishError::Owned { .. }) => {}
                Err(error) => panic!("{error}"),
                Ok(mut publisher) => {
                    assert_eq!(owners.fetch_add(1, Ordering::Relaxed), 0, "two owners");
                    publisher.publish(&page(name)).unwrap();
                    owners.fetch_sub(1, Ordering::Relaxed);
                }
            }
        };
        let owners = [thread::spawn(compete(2)), thread::spawn(compete(3))];
        let mut last = 0;
        for _ in 0..2 {
            if let Ok(page) = reader.read_within(ATTEMPTS) {
                assert!(value(&page) <= 3);
                assert!(page.sequence.get() >= last, "the sequence went back");
                last = page.sequence.get();
            }
        }
        for owner in owners {
            owner.join().unwrap();
        }
        assert!(value(&reader.read().unwrap()) >= 2);
    });
}

#[test]
fn an_owner_that_dies_at_any_write_leaves_a_page_that_is_whole_or_torn() {
    // The sequence, two halves, and the sequence again.
    for (writes, left) in [(0, Some(1)), (1, None), (2, None), (3, None), (4, Some(2))] {
        let name = format!("telemetry: an owner that dies after {writes} writes");
        model::exhaust(&name, move || {
            let directory = Arc::new(tempfile::tempdir().unwrap());
            let mut dying = publisher(&directory);
            dying.publish(&page(1)).unwrap();
            let reader = Reader::open(dying.path()).unwrap();
            let owner = thread::spawn(move || {
                WRITES_LEFT.set(writes);
                let published = dying.publish(&page(2));
                WRITES_LEFT.set(u32::MAX);
                assert_eq!(published.is_ok(), left == Some(2));
            });
            if let Ok(page) = reader.read_within(1) {
                assert!([1, 2].contains(&value(&page)));
            }
            owner.join().unwrap();
            match (reader.read_within(1), left) {
                (Ok(page), Some(left)) => assert_eq!(value(&page), left),
                (Err(ReadError::Torn { .. }), None) => {}
                (read, _) => panic!("after {writes} writes: {read:?}"),
            }
            publisher(&directory).publish(&page(3)).unwrap();
            assert_eq!(value(&reader.read().unwrap()), 3);
        });
    }
}
