//! What is watched of a service for leaks: how much of it is held, and how much may be.
//!
//! Memory is what is no file (`RssAnon`): what is mapped from files comes and goes as the kernel
//! likes. What cannot be read is not in the list, so that it is never taken for zero.

use super::ServiceSettings;
use crate::leak::{Limit, Resource, Scope};
use crate::number::lossy;
use crate::probe::{
    self, Cgroup, CgroupMemory, Host, KernelMemory, Service, ServiceAnswer, Whereabouts,
};
use crate::status::{LimitFigures, Unit};
use std::borrow::Cow;
use std::time::Duration;

/// How much of the kernel's memory a service may have, in its configuration.
pub(crate) const KERNEL_MEMORY_MAX: &str = "kernel_memory_max";

/// What a control group may be charged for, where that is what limits memory.
const GROUP_LIMIT: &str = "memory.max of ";

/// Whether a limit is that of a control group.
pub(super) fn is_of_group(limit: &LimitFigures) -> bool {
    limit.source.starts_with(GROUP_LIMIT)
}

/// A resource, and what is held of it.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) name: &'static str,
    pub(super) unit: Unit,
    pub(super) scope: Scope,
    pub(super) limit: Option<Limit>,
    pub(super) recycle: Option<Duration>,
    pub(super) value: f64,
    /// How much of it the whole host holds.
    pub(super) host_total: Option<f64>,
}

impl Held {
    fn new(name: &'static str, unit: Unit, value: u64, limit: Option<Limit>) -> Self {
        Self {
            name,
            unit,
            scope: Scope::Service,
            limit,
            recycle: None,
            value: lossy(value),
            host_total: None,
        }
    }

    fn bytes(name: &'static str, value: u64, limit: Option<Limit>) -> Self {
        Self::new(name, Unit::Bytes, value, limit)
    }

    fn count(name: &'static str, value: u64, limit: Option<Limit>) -> Self {
        Self::new(name, Unit::Count, value, limit)
    }

    fn of_host(mut self, total: Option<u64>) -> Self {
        self.host_total = total.map(lossy);
        self
    }

    const fn recycles(mut self, after: Duration) -> Self {
        self.recycle = Some(after);
        self
    }

    pub(super) fn resource(&self) -> Resource {
        Resource {
            name: Cow::Borrowed(self.name),
            scope: self.scope,
            limit: self.limit.clone(),
            negligible: match self.unit {
                Unit::Bytes => Resource::BYTES,
                Unit::Count => Resource::COUNT,
            },
            recycle: self.recycle,
        }
    }
}

/// Everything that was seen of a service in one poll.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    pub(super) settings: &'a ServiceSettings,
    pub(super) service: &'a Service,
    pub(super) cgroup: Option<(&'a Cgroup, &'a CgroupMemory)>,
    /// The least that its control group or any above may be charged for, and which of them.
    pub(super) group_limit: Option<(&'a Cgroup, u64)>,
    pub(super) answer: Option<&'a ServiceAnswer>,
    pub(super) host: Option<&'a Host>,
}

/// Everything that a service is seen to hold.
pub(super) fn held(seen: &Seen<'_>) -> Vec<Held> {
    let process = seen.process();
    process
        .into_iter()
        .chain(seen.kernel())
        .chain(seen.own_account())
        .collect()
}

impl Seen<'_> {
    fn process(&self) -> Vec<Held> {
        let service = self.service;
        let mut held = Vec::new();
        let memory = service.memory.as_ref().ok();
        if let Some(bytes) = memory.and_then(|memory| memory.rss_anon_bytes) {
            let limit = configured(self.settings.limits.memory_bytes, "memory_max");
            let total = self.memory().and_then(|memory| memory.anon_pages_bytes);
            held.push(
                Held::bytes("memory", bytes, limit.or_else(|| self.memory_limit())).of_host(total),
            );
        }
        let limits = service.holdings.limits.as_ref().ok();
        if let Ok(descriptors) = service.descriptor_count {
            let may = limits.and_then(|limits| at(limits.descriptors, "RLIMIT_NOFILE"));
            let limit = configured(self.settings.limits.descriptors, "descriptors_max");
            // A port that is held for its time holds its descriptor for as long.
            held.push(
                Held::count("descriptors", descriptors, limit.or(may))
                    .recycles(self.settings.recycle),
            );
        }
        let may = limits.and_then(|limits| at(limits.threads, "RLIMIT_NPROC"));
        let limit = configured(self.settings.limits.threads, "threads_max");
        held.push(Held::count("threads", service.threads, limit.or(may)));
        if let Ok(sockets) = &service.holdings.sockets {
            let limit = configured(self.settings.limits.ports, "ports_max");
            let ports = u64::try_from(sockets.tcp_ports.len()).unwrap_or(u64::MAX);
            held.push(
                Held::count("tcp-ports", ports, limit.or_else(|| self.port_limit()))
                    .recycles(self.settings.recycle),
            );
        }
        held
    }

    /// What the kernel holds for its control group.
    fn kernel(&self) -> Vec<Held> {
        let Some((cgroup, memory)) = self.cgroup else {
            return Vec::new();
        };
        let Ok(kernel) = &memory.kernel else {
            return Vec::new();
        };
        let scope = if self.has_its_own(cgroup) {
            Scope::Service
        } else {
            Scope::Host
        };
        let limit = configured(self.settings.limits.kernel_memory_bytes, KERNEL_MEMORY_MAX);
        let limit = limit.or_else(|| self.memory_limit());
        let total = self.memory().and_then(kernel_of_host);
        let kernel_memory = kernel_bytes(kernel)
            .map(|bytes| Held::bytes("kernel-memory", bytes, limit.clone()).of_host(total));
        let sockets = kernel
            .sockets_bytes
            .map(|bytes| Held::bytes("socket-memory", bytes, limit));
        let both = kernel_memory.into_iter().chain(sockets);
        both.map(|held| Held { scope, ..held }).collect()
    }

    /// Whether nobody else is in its control group: somebody has said so, or systemd has made it for
    /// the service. What grows in any other may be anybody's.
    fn has_its_own(&self, cgroup: &Cgroup) -> bool {
        let (Cgroup::V1(path) | Cgroup::V2(path)) = cgroup;
        let by_systemd = path.extension().is_some_and(|kind| kind == "service");
        by_systemd || matches!(self.settings.process, Whereabouts::Cgroup(_))
    }

    /// What it says that it holds.
    fn own_account(&self) -> Vec<Held> {
        let Some(answer) = self.answer else {
            return Vec::new();
        };
        let statistics = &answer.statistics;
        let limits = &self.settings.limits;
        let recycle = self.settings.recycle;
        let modules = || statistics.modules.values();
        let sessions = statistics.connections.or(statistics.server.clients);
        let sessions = sessions.map(|sessions| {
            let limit = configured(limits.sessions, "sessions_max");
            Held::count("sessions", sessions, limit).recycles(recycle)
        });
        let objects = sum(modules().map(|module| module.objects)).map(|objects| {
            let limit = configured(limits.objects, "objects_max");
            Held::count("objects", objects, limit).recycles(recycle)
        });
        let card = sum(modules().map(|module| module.memory_kernel_bytes)).map(|bytes| {
            let total = sum(modules().map(|module| module.memory_total_bytes));
            Held::bytes(
                "card-memory",
                bytes,
                configured(total, "MemTotal of the card"),
            )
        });
        sessions.into_iter().chain(objects).chain(card).collect()
    }

    fn memory(&self) -> Option<&probe::Memory> {
        self.host?.memory.as_ref().ok()
    }

    /// What its control group may have, and those above it, or else all there is.
    fn memory_limit(&self) -> Option<Limit> {
        let of_group = self.group_limit.map(|(group, bytes)| Limit {
            value: lossy(bytes),
            source: match self.cgroup {
                Some((own, _)) if own == group => {
                    Cow::Owned(format!("{GROUP_LIMIT}its control group"))
                }
                _ => Cow::Owned(format!("{GROUP_LIMIT}{group}")),
            },
        });
        of_group.or_else(|| {
            let total = self.memory()?.total_bytes;
            configured(Some(total), "MemTotal of the host")
        })
    }

    fn port_limit(&self) -> Option<Limit> {
        let range = self.host?.ephemeral_ports.as_ref().ok()?;
        let ports = u64::from(range.end().checked_sub(*range.start())?) + 1;
        configured(Some(ports), "ip_local_port_range")
    }
}

/// All that the kernel holds for a control group, but for the buffers of sockets.
pub(super) fn kernel_bytes(kernel: &KernelMemory) -> Option<u64> {
    kernel.total_bytes.or_else(|| {
        sum([
            kernel.stack_bytes,
            kernel.page_tables_bytes,
            kernel.slab_unreclaimable_bytes,
            // Not counted by every kernel, and not needed for a sum that means something.
            Some(kernel.secondary_page_tables_bytes.unwrap_or(0)),
            Some(kernel.percpu_bytes.unwrap_or(0)),
            Some(kernel.vmalloc_bytes.unwrap_or(0)),
        ])
    })
}

/// All that the kernel holds on a host and cannot give back.
fn kernel_of_host(memory: &probe::Memory) -> Option<u64> {
    let accounted = sum([
        memory.slab_unreclaimable_bytes,
        memory.kernel_stack_bytes,
        memory.page_tables_bytes,
        memory.vmalloc_bytes,
        Some(memory.percpu_bytes.unwrap_or(0)),
    ])?;
    let unaccounted = u64::try_from(memory.unaccounted_bytes()?).unwrap_or(0);
    accounted.checked_add(unaccounted)
}

/// Of everything; `None` if there is nothing, or one is not known.
pub(super) fn sum(values: impl IntoIterator<Item = Option<u64>>) -> Option<u64> {
    values
        .into_iter()
        .reduce(|sum, value| sum?.checked_add(value?))?
}

fn at(limit: probe::Limit, source: &'static str) -> Option<Limit> {
    match limit {
        probe::Limit::At(value) => configured(Some(value), source),
        probe::Limit::Unlimited => None,
    }
}

fn configured(value: Option<u64>, source: &'static str) -> Option<Limit> {
    value.map(|value| Limit {
        value: lossy(value),
        source: Cow::Borrowed(source),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::{OwnerId, Probe, ServiceProbe};
    use std::path::{Path, PathBuf};

    #[test]
    fn memory_is_limited_by_the_group_that_may_have_least_and_it_is_named() {
        let process = Whereabouts::PidFile(PathBuf::from("/nonexistent"));
        let settings = ServiceSettings::new("web", process);
        let id = OwnerId::of_this_process().unwrap();
        let now = hwshim::clock::Instant::ORIGIN;
        let service = ServiceProbe::new(Path::new("/")).observe(&id, now).unwrap();
        let nothing_read = crate::services::groups::tests::unread();
        let [own, above] = ["shop/web", "shop"].map(|path| Cgroup::V2(path.into()));
        let limit = |group_limit| {
            let seen = Seen {
                settings: &settings,
                service: &service,
                cgroup: Some((&own, &nothing_read)),
                group_limit,
                answer: None,
                host: None,
            };
            let limit = seen.memory_limit()?;
            let source = limit.source.into_owned();
            let figures = LimitFigures {
                value: limit.value,
                source: source.clone(),
            };
            assert!(is_of_group(&figures));
            Some((limit.value, source))
        };
        let of = |value, source: &str| Some((value, source.to_owned()));
        let own_limit = limit(Some((&own, 7)));
        assert_eq!(own_limit, of(7.0, "memory.max of its control group"));
        assert_eq!(limit(Some((&above, 5))), of(5.0, "memory.max of /shop"));
        assert_eq!(limit(None), None);
    }
}
