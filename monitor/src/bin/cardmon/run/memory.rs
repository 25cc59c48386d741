//! Adds up what a service has in memory for who asks at the control socket, beside the polls: the kernel
//! may take long over it, and as long as the service maps memory it does not begin.

use hwshim::clock::{Clock as _, SystemClock};
use monitor::api::Published;
use monitor::probe::{MemoryRollup, OwnerId, ProbeError, RollupProbe};
use monitor::status::MemoryFigures;
use monitor::text::clean;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tokio::sync::{Mutex, oneshot, watch};
use tokio::time;

/// How long who asks waits: a process with a terabyte in small pages takes several seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Adds up what services have in memory, one at a time.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    probe: Arc<Mutex<RollupProbe>>,
    latest: watch::Receiver<Option<Published>>,
}

impl Memory {
    /// Of the processes that services had in the latest poll.
    pub(super) fn new(latest: watch::Receiver<Option<Published>>) -> Self {
        Self {
            probe: Arc::new(Mutex::new(RollupProbe::new(super::root()))),
            latest,
        }
    }

    /// What a service has; or why that is not known.
    pub(super) async fn of(&self, service: String) -> Result<MemoryFigures, String> {
        let id = self.process_of(&service)?;
        let seen = self.read(id, PATIENCE).await?;
        Ok(MemoryFigures::new(service, id, &seen, SystemClock.now()))
    }

    fn process_of(&self, name: &str) -> Result<OwnerId, String> {
        let latest = self.latest.borrow();
        let published = latest.as_ref().ok_or("the monitor has not polled yet")?;
        let mut services = published.status.services.iter();
        let service = services
            .find(|service| service.service == name)
            .ok_or_else(|| format!("no service {} is watched", clean(name)))?;
        let process = service.process.as_ref();
        let process = process.ok_or_else(|| format!("{} has no process", clean(name)))?;
        Ok(OwnerId {
            pid: process.pid,
            start_time_ticks: process.start_time_ticks,
        })
    }

    /// In a thread that nobody waits for at the end of a run; as long as that one is not back, there is no
    /// other.
    async fn read(&self, id: OwnerId, patience: Duration) -> Result<Arc<MemoryRollup>, String> {
        let deadline = time::Instant::now() + patience;
        let free = time::timeout_at(deadline, Arc::clone(&self.probe).lock_owned());
        let mut probe = free.await.map_err(|_| {
            "what was asked for before, of this service or another, is still being added up: ask again later"
        })?;
        let (tell, told) = oneshot::channel();
        let look = move || {
            // Whoever asked may have gone.
            let _ = tell.send(probe.observe(id, &SystemClock));
        };
        let no_thread = "the monitor has no thread to read it in";
        thread::Builder::new().spawn(look).map_err(|_| no_thread)?;
        let read = time::timeout_at(deadline, told).await.map_err(|_| {
            format!(
                "the kernel has not added it up in {} s: it is large, or does not let go of its mappings; \
                 ask again later",
                patience.as_secs()
            )
        })?;
        let read = read.map_err(|_| no_thread)?;
        read.map_err(|error| clean(&said(&error)))
    }
}

/// Why not, and what to do where something can be done.
fn said(error: &ProbeError) -> String {
    match error {
        ProbeError::Unreadable { source, .. }
            if source.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            format!(
                "{error}: of another user's process that is for root, or for who has CAP_SYS_PTRACE, which \
                 the monitor's unit gives it"
            )
        }
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn who_may_not_look_is_told_what_it_takes() {
        let path = std::path::PathBuf::from("/proc/7/smaps_rollup");
        let unreadable = |kind: io::ErrorKind| ProbeError::Unreadable {
            path: path.clone(),
            source: kind.into(),
        };
        let denied = said(&unreadable(io::ErrorKind::PermissionDenied));
        assert!(
            denied.starts_with("/proc/7/smaps_rollup could not be read: permission denied")
                && denied.contains("CAP_SYS_PTRACE"),
            "{denied}"
        );
        let other = said(&unreadable(io::ErrorKind::OutOfMemory));
        assert!(!other.contains("CAP_SYS_PTRACE"), "{other}");
    }

    #[tokio::test]
    async fn one_that_is_still_being_added_up_keeps_others_waiting_and_takes_no_other_thread() {
        let (_publish, latest) = watch::channel(None);
        let memory = Memory::new(latest);
        let id = OwnerId::of_this_process().unwrap();
        let stuck = Arc::clone(&memory.probe).lock_owned().await;
        let waited = memory.read(id, Duration::ZERO).await.unwrap_err();
        assert!(waited.contains("of this service or another"), "{waited}");
        drop(stuck);
        let seen = memory.read(id, PATIENCE).await.unwrap();
        assert!(seen.pss_bytes.is_some());
        let unpolled = memory.of("web".to_owned()).await.unwrap_err();
        assert_eq!(unpolled, "the monitor has not polled yet");
    }
}
