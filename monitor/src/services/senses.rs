//! What tells of a service: a seam, so that a service which only a simulation knows is watched by
//! the code that watches those of `/proc`, on a clock that the simulation holds.

use super::ServiceSettings;
use crate::probe::{
    Cgroup, CgroupMemory, CgroupProbe, CpuPeriods, KnownAnswer, KnownAnswerProbe, LocateProbe,
    OwnerId, Periodic, Probe, ProbeError, QuotaProbe, Reach, ReachProbe, Service, ServiceAddress,
    ServiceProbe, Whereabouts,
};
use hwshim::clock::Instant;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Time between two looks for the process, and between two questions how the service is. A scan of
/// `/proc` takes milliseconds on a large host, a question one of the service's threads.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// Time that a service may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// Time that whoever looks may take before it is held to be stuck.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// What a look for a process found.
pub type Located = Arc<Result<OwnerId, ProbeError>>;
/// What came of asking a service how it is.
pub type Reached = Arc<Result<Reach, ProbeError>>;
/// What came of a known-answer test through a service.
pub type Tested = Arc<Result<KnownAnswer, ProbeError>>;

/// Looks at one service.
pub trait Senses: Debug + Send {
    /// What the last look for the process found, the same [`Arc`] until there was another; `None`
    /// if none has ended.
    fn locate(&mut self, now: Instant) -> Option<Located>;

    /// The process that was found has ended: what was found before it did is no news.
    fn locate_anew(&mut self, now: Instant);

    /// What came of the last question, as [`locate`](Self::locate) has it.
    fn ask(&mut self, now: Instant) -> Option<Reached>;

    /// Has a known-answer test done when one is due, and gives what came of the last, as
    /// [`locate`](Self::locate) has it. One is under way at a time, and none begins but by this.
    fn test(&mut self, now: Instant) -> Option<Tested>;

    /// It is another process: what the one before answered, or did not, is no news.
    fn ask_anew(&mut self, now: Instant);

    /// Looks at the process.
    ///
    /// # Errors
    ///
    /// What kept it from seeing; that it is absent if it has ended.
    fn look(&mut self, id: OwnerId, now: Instant) -> Result<Service, ProbeError>;

    /// The control group that accounts for a process.
    fn cgroup(&self, id: OwnerId) -> Option<Cgroup>;

    /// Looks at a control group.
    fn look_at_cgroup(&mut self, cgroup: &Cgroup, now: Instant) -> Option<CgroupMemory>;

    /// Looks at a control group above that of the process. That is done seldom.
    fn look_above(&self, cgroup: &Cgroup) -> Option<CgroupMemory>;

    /// Looks at the quotas of processor time that hold for a process.
    fn look_at_quotas(&mut self, id: OwnerId, now: Instant) -> Option<Vec<CpuPeriods>>;

    /// Waits for all looks under way, for each no longer than `patience`; whether all have ended.
    fn settle(&self, patience: Duration) -> bool;
}

/// Reads `/proc` and the control group, and asks at the service's socket.
#[derive(Debug)]
pub(super) struct Kernel {
    root: PathBuf,
    whereabouts: Whereabouts,
    locate: Result<Periodic<LocateProbe>, ProbeError>,
    reach: Option<Result<Periodic<ReachProbe>, ProbeError>>,
    known_answer: Option<Result<Periodic<KnownAnswerProbe>, ProbeError>>,
    service: ServiceProbe,
    cgroup: CgroupProbe,
    quota: QuotaProbe,
}

impl Kernel {
    /// Looks under `root`: `/`, or a captured tree.
    pub(super) fn new(settings: &ServiceSettings, root: &Path) -> Self {
        let whereabouts = settings.process.clone();
        let place = match &whereabouts {
            Whereabouts::PidFile(path) | Whereabouts::Cgroup(path) => path.clone(),
            Whereabouts::Program(_) => root.join("proc"),
        };
        let probe = LocateProbe::new(root);
        let sought = whereabouts.clone();
        Self {
            locate: Periodic::start(probe, sought, place, LOOK_INTERVAL, LOOK_TIMEOUT),
            reach: settings
                .address
                .clone()
                .map(|address| ask_at(address, root)),
            known_answer: settings
                .address
                .clone()
                .zip(settings.known_answer_interval)
                .map(|(address, interval)| test_at(address, interval)),
            service: ServiceProbe::new(root),
            cgroup: CgroupProbe::new(root),
            quota: QuotaProbe::new(root),
            root: root.to_owned(),
            whereabouts,
        }
    }
}

impl Senses for Kernel {
    fn locate(&mut self, now: Instant) -> Option<Located> {
        match &mut self.locate {
            Ok(locate) => locate.poll(now),
            Err(error) => Some(Arc::new(Err(error.clone()))),
        }
    }

    fn locate_anew(&mut self, now: Instant) {
        if let Ok(locate) = &mut self.locate {
            locate.begin_anew(now);
        }
    }

    fn ask(&mut self, now: Instant) -> Option<Reached> {
        match &mut self.reach {
            Some(Ok(reach)) => reach.poll(now),
            Some(Err(_)) | None => None,
        }
    }

    fn test(&mut self, now: Instant) -> Option<Tested> {
        match &mut self.known_answer {
            Some(Ok(known_answer)) => known_answer.poll(now),
            Some(Err(_)) | None => None,
        }
    }

    fn ask_anew(&mut self, now: Instant) {
        if let Some(Ok(reach)) = &mut self.reach {
            reach.begin_anew(now);
        }
        if let Some(Ok(known_answer)) = &mut self.known_answer {
            known_answer.begin_anew(now);
        }
    }

    fn look(&mut self, id: OwnerId, now: Instant) -> Result<Service, ProbeError> {
        self.service.observe(&id, now)
    }

    fn cgroup(&self, id: OwnerId) -> Option<Cgroup> {
        match &self.whereabouts {
            Whereabouts::Cgroup(path) => Cgroup::at(&self.root, path).ok(),
            Whereabouts::PidFile(_) | Whereabouts::Program(_) => Cgroup::of(&self.root, id).ok(),
        }
    }

    fn look_at_cgroup(&mut self, cgroup: &Cgroup, now: Instant) -> Option<CgroupMemory> {
        self.cgroup.observe(cgroup, now).ok()
    }

    fn look_above(&self, cgroup: &Cgroup) -> Option<CgroupMemory> {
        // So seldom that its files need not be kept open.
        let mut probe = CgroupProbe::new(&self.root);
        probe.observe(cgroup, Instant::ORIGIN).ok()
    }

    fn look_at_quotas(&mut self, id: OwnerId, now: Instant) -> Option<Vec<CpuPeriods>> {
        self.quota.observe(&id, now).ok()
    }

    fn settle(&self, patience: Duration) -> bool {
        let located = self.locate.as_ref().is_ok_and(|it| it.wait(patience));
        let asked = match &self.reach {
            Some(Ok(reach)) => reach.wait(patience),
            _ => true,
        };
        let tested = match &self.known_answer {
            Some(Ok(known_answer)) => known_answer.wait(patience),
            _ => true,
        };
        located && asked && tested
    }
}

fn ask_at(address: ServiceAddress, root: &Path) -> Result<Periodic<ReachProbe>, ProbeError> {
    let probe = ReachProbe::new(ANSWER_TIMEOUT, root);
    let place = PathBuf::from(address.to_string());
    Periodic::start(probe, address, place, LOOK_INTERVAL, LOOK_TIMEOUT)
}

/// Monitors of many hosts that were started together would otherwise all ask a shared card at once.
fn test_at(
    address: ServiceAddress,
    interval: Duration,
) -> Result<Periodic<KnownAnswerProbe>, ProbeError> {
    let probe = KnownAnswerProbe::new(ANSWER_TIMEOUT);
    let place = PathBuf::from(address.to_string());
    Periodic::start(probe, address, place, interval, LOOK_TIMEOUT).map(Periodic::jittered)
}
