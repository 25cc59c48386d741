//! Looks at one thing, and reports what it saw.
//!
//! **Seam.** A probe never judges: it turns files and registers into typed observations. Probes
//! read through a root directory, so a test hands them a captured tree instead of `/`.
//!
//! Not seeing is an observation of its own, and there are kinds of it: see [`ProbeError`].

mod allocinfo;
mod cgroup;
mod file;
mod heartbeat;
mod host;
mod hwmon;
mod link;
mod locate;
mod nshield;
mod page;
mod periodic;
mod process;
mod qat;
mod quota;
mod reach;
mod rollup;
mod runner;
mod service;

#[cfg(test)]
mod tree;

pub use allocinfo::{Allocated, Allocations, AllocinfoProbe};
pub use cgroup::{Cgroup, CgroupEvents, CgroupMemory, CgroupProbe, KernelMemory};
pub use heartbeat::{Heartbeat, HeartbeatProbe};
pub use host::{CpuTimes, Host, HostProbe, Memory, Pressure, Shortages, Softnet};
pub use hwmon::{Chip, HwmonProbe, Sensor, Sensors, Standing as SensorStanding};
#[cfg(test)]
pub(crate) use link::tests::host as tree_of_a_downtrained_card;
pub use link::{ErrorTotals, Link, LinkProbe, Port};
pub use locate::{LocateProbe, Whereabouts};
pub use nshield::{
    Enquiry, EnquiryModule, Measured, ModuleStatistics, ParseError, ServerStatistics, Statistics,
};
pub use page::PageProbe;
pub use periodic::Periodic;
pub use process::{Owner, OwnerId, Process, ProcessProbe};
pub use qat::{EngineCounters, NotAsked, Qat, QatHeartbeat, QatProbe};
pub use quota::{CpuPeriods, QuotaProbe};
pub use reach::{
    KnownAnswer, KnownAnswerProbe, Reach, ReachProbe, Refused, ServiceAddress, ServiceAnswer,
};
pub use rollup::{MemoryRollup, RollupProbe};
pub use runner::{Blindness, Latest, Runner};
pub use service::{
    Descriptors, Holdings, Limit, Listening, Network, NetworkRejects, Service, ServiceLimits,
    ServiceMemory, ServiceProbe, Sockets, TcpState,
};
#[cfg(test)]
pub(crate) use tree::Tree;

use hwshim::clock::Instant;
use std::io;
use std::path::PathBuf;

/// Looks at one kind of thing, again and again.
///
/// One implementation per thing watched. Each keeps its descriptors and buffers between looks.
pub trait Probe {
    /// What it is pointed at anew for each look; `()` for a probe that has one subject for life.
    type Subject;
    /// What it sees.
    type Observation;

    /// Names the probe in metrics and evidence.
    fn name(&self) -> &'static str;

    /// Looks once. It is told the time so that what is dear to read can be read more rarely.
    ///
    /// # Errors
    ///
    /// What kept it from seeing.
    fn observe(
        &mut self,
        subject: &Self::Subject,
        now: Instant,
    ) -> Result<Self::Observation, ProbeError>;
}

/// Why a probe saw nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// There is no such thing. Whether that is a fault is for rules to say.
    #[error("{what} does not exist")]
    Absent {
        /// What was looked for.
        what: String,
    },
    /// It is there but could not be read.
    #[error("{} could not be read: {source}", path.display())]
    Unreadable {
        /// File concerned.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// It was read, and is not what it should be.
    #[error("{} {what}", path.display())]
    Nonsense {
        /// File concerned.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// It was being written for as long as the probe looked. Its writer may have died in the
    /// middle, or may merely have been interrupted there.
    #[error("{} is half written", path.display())]
    Torn {
        /// File concerned.
        path: PathBuf,
    },
}

/// As equal as can be: the kernel's number is kept, and of other reasons kind and text.
impl Clone for ProbeError {
    fn clone(&self) -> Self {
        match self {
            Self::Absent { what } => Self::Absent { what: what.clone() },
            Self::Unreadable { path, source } => Self::Unreadable {
                path: path.clone(),
                source: source.raw_os_error().map_or_else(
                    || io::Error::new(source.kind(), source.to_string()),
                    io::Error::from_raw_os_error,
                ),
            },
            Self::Nonsense { path, what } => Self::Nonsense {
                path: path.clone(),
                what: what.clone(),
            },
            Self::Torn { path } => Self::Torn { path: path.clone() },
        }
    }
}

impl ProbeError {
    /// The kind of error as a metric's label.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Absent { .. } => "absent",
            Self::Unreadable { .. } => "unreadable",
            Self::Nonsense { .. } => "nonsense",
            Self::Torn { .. } => "torn",
        }
    }
}
