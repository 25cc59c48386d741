//! What is kept of what happened: events that nobody can change unnoticed, and samples of figures.
//!
//! It judges nothing and decides nothing; it is told what to keep, and with which time. There are
//! two files, because they need opposite things:
//!
//! ```text
//!   events.db    few, small, precious    every commit is on the disk before it is acknowledged;
//!                                        never recreated, never repaired, a chain of hashes
//!      |  head of the chain, every 100 events or 5 minutes
//!      |                 full, it becomes an archive beside it, from which the next goes on
//!      v
//!   anchors      another directory, the system's log: what a chain cannot show of itself
//!
//!   samples.db   many, cheap             ten seconds at most are lost, and marked as a gap;
//!                                        moved aside and begun anew if damaged
//! ```
//!
//! One process writes ([`Events`], [`Samples`]); any number may read ([`Reader`]), also while the
//! writer is there, also when the file is damaged. A program that cannot open its events goes on
//! with a [`Reader`], and says so loudly: it must not begin a second history.

mod anchor;
mod archive;
mod audit;
mod error;
mod event;
mod events;
mod place;
mod samples;
mod snapshot;
mod time;

pub use anchor::{Anchor, AnchorSink, FileAnchors, SyslogAnchors, UnreadableAnchor};
pub use archive::{Absent, ArchivedBody, Elsewhere, HISTORY_ARCHIVED};
pub use audit::{AuditReport, Finding, Tampering, Unproven};
pub use error::HistoryError;
pub use event::{Event, EventTooLong, Recorded, Seq, Severity};
pub use events::{AnchorTrouble, EVENTS_FILE, Events, Filter, Reader};
pub use place::Place;
pub use samples::{
    Aggregate, FLUSH_INTERVAL, GapReason, OpenedSamples, Point, SAMPLES_FILE, SampleReader,
    Samples, Tier, Value,
};
pub use snapshot::{Copied, Restored, Snapshot, Source, copy, restore_verify, snapshot};
pub use time::{BootId, ClockSteps, NotABootId, Stamp, WallTime};
