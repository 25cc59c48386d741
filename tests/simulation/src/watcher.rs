//! The monitor of a run: looks at what the card's owner publishes and judges, once a second.
//!
//! It is the code that `cardmon` runs; what a kernel would tell it, the world tells it.

use crate::kernel::Kernel;
use crate::slot::Slot;
use crate::trouble::HostTrouble;
use hwshim::clock::Instant;
use hwshim::spec::telemetry::Page;
use monitor::led::Profile;
use monitor::local_health::HostChanges;
use monitor::probe::{HeartbeatProbe, Owner, OwnerId, Probe, Process};
use monitor::verdict::{Cause, Judge, Limits, Look, State};
use std::sync::Arc;
use std::time::Duration;

/// Watches one card.
#[derive(Debug)]
pub(crate) struct Watcher {
    judge: Judge,
    kernel: Kernel,
    host: HostChanges,
    next_poll: Instant,
    opinions: Vec<Opinion>,
}

/// What was believed from then on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Opinion {
    /// From when on.
    pub at: Instant,
    /// How the card is.
    pub state: State,
    /// What is at fault.
    pub cause: Cause,
}

impl Watcher {
    pub(crate) fn new(light: Profile, now: Instant) -> Self {
        let limits = Limits {
            light: Some(light),
            ..Limits::default()
        };
        Self {
            judge: Judge::new(limits, now),
            kernel: Kernel::default(),
            host: HostChanges::default(),
            next_poll: now.plus(INTERVAL),
            opinions: Vec::new(),
        }
    }

    pub(crate) const fn next_poll(&self) -> Instant {
        self.next_poll
    }

    /// Has the kernel take note of errors that the card has reported.
    pub(crate) fn handle_errors(&mut self, slot: &Slot) {
        self.kernel.handle_errors(slot);
    }

    /// Has the kernel show what the host has, from now on.
    pub(crate) fn strain(&mut self, trouble: Option<HostTrouble>) {
        self.kernel.strain(trouble);
    }

    /// Does not poll before then.
    pub(crate) fn stop_until(&mut self, then: Instant) {
        self.next_poll = self.next_poll.max(then);
    }

    /// Looks, if it is time to. Returns what is believed, if that is news.
    pub(crate) fn poll(&mut self, page: &Page, slot: &Slot, now: Instant) -> Option<Opinion> {
        if now < self.next_poll {
            return None;
        }
        let elapsed = INTERVAL + now.since(self.next_poll);
        self.next_poll = now.plus(INTERVAL);
        let host = self.host.look(Some(self.kernel.host(elapsed)), now);
        let heartbeat = HeartbeatProbe.observe(page, now);
        self.judge.poll(&Look {
            at: now,
            page: Ok(Box::new(*page)),
            heartbeat: Some(heartbeat),
            owner: Some(Ok(Owner::Alive(owner(page)?))),
            host,
            link: Some(Arc::new(self.kernel.link(slot))),
        })?;
        let verdict = self.judge.verdict();
        let opinion = Opinion {
            at: now,
            state: verdict.state,
            cause: verdict.cause,
        };
        self.opinions.push(opinion);
        Some(opinion)
    }

    /// Everything that was believed, in order.
    pub(crate) fn into_opinions(self) -> Vec<Opinion> {
        self.opinions
    }
}

const INTERVAL: Duration = Duration::from_secs(1);

/// The owner's process, which is well.
fn owner(page: &Page) -> Option<Process> {
    Some(Process {
        id: OwnerId::of(page)?,
        state: 'S',
        threads: 4,
        fds: Some(32),
        usage: None,
    })
}
