//! Notices what changed without anybody's order: firmware, owners, services, the host. It remembers
//! what was seen before, and says what of a difference is to be on record.

use super::versions::{Key, Versions};
use super::{
    DETAIL_LEN_MAX, EVIDENCE_MAX, FIRMWARE, FirmwareBody, HOST_TRANSITION, HostTransitionBody,
    Installed, OOM_KILL, OWNER_CHANGED, OomKillBody, OwnerBody, SERVICE_RESTARTED,
    SERVICE_TRANSITION, SOFTWARE, ServiceRestartBody, ServiceTransitionBody, SoftwareBody, cut,
    subject,
};
use crate::checks;
use crate::history::{Event, Recorded, Severity, Stamp};
use crate::leak::Level;
use crate::services::ServiceTransition;
use crate::status::{CardStatus, HostFigures, ServiceStatus, Status};
use crate::verdict::{Cause, Evidence};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long firmware is told to be another than expected, unless somebody expects it by then.
const UNEXPECTED_FOR: Duration = Duration::from_secs(24 * 3600);
/// The code of that.
const FIRMWARE_CODE: u8 = 23;

/// What was there before.
#[derive(Debug, Default)]
pub(super) struct Changes {
    firmware: Versions,
    software: Versions,
    owners: BTreeMap<String, u32>,
    restarts: BTreeMap<String, u64>,
    host: Option<Cause>,
    oom_kills: u64,
}

impl Changes {
    /// Goes on from the events of the kinds [`FIRMWARE`] and [`SOFTWARE`] on record before this run, in
    /// order.
    pub(super) fn remember(&mut self, firmware: &[Recorded], software: &[Recorded]) {
        let firmware = versions(firmware, |card, body: FirmwareBody| {
            (of_card(card), body.to, body.expected)
        });
        self.firmware.remember(firmware);
        let software = versions(software, |of, body: SoftwareBody| {
            ((of.to_owned(), body.what), body.to, body.expected)
        });
        self.software.remember(software);
    }

    /// What a poll found to be another. Firmware that was changed while no window was open is a
    /// failed check of its card. What is `installed` does not change while this runs.
    pub(super) fn poll(
        &mut self,
        status: &mut Status,
        installed: &[Installed],
        window: bool,
        now: Stamp,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        for card in &mut status.cards {
            events.extend(self.firmware(card, window, now));
            events.extend(self.owner(card, now));
        }
        for service in &status.services {
            events.extend(self.restart(service, now));
        }
        let installed = installed.iter();
        let installed = installed.map(|it| (&*it.subject, &*it.what, Some(&it.version)));
        let drivers = status.cards.iter().map(|it| (&it.card, &it.driver));
        let drivers = drivers.chain(status.without_pages().map(|it| (&it.card, &it.driver)));
        let drivers = drivers.map(|(card, driver)| (&**card, "driver", driver.as_ref()));
        let services = status.services.iter();
        let services = services.map(|it| (&*it.service, "version", it.version.as_ref()));
        for (of, what, version) in installed.chain(drivers).chain(services) {
            let version = version.filter(|it| !it.is_empty());
            events.extend(version.and_then(|it| self.software(of, what, it, window, now)));
        }
        if let Some(host) = &status.host {
            events.extend(self.host(host, now));
        }
        events
    }

    fn firmware(&mut self, card: &mut CardStatus, window: bool, now: Stamp) -> Option<Event> {
        let seen = card.identity.as_ref().map(|it| &*it.firmware);
        let key = of_card(&card.card);
        let event = seen.filter(|it| !it.is_empty()).and_then(|seen| {
            let new = self.firmware.take(key.clone(), seen, window, now)?;
            let body = FirmwareBody {
                from: new.from,
                to: new.to,
                expected: new.expected,
            };
            let severity = match body.expected {
                true => Severity::Notice,
                false => Severity::Warning,
            };
            Some(Event::new(now, FIRMWARE, key.0.clone(), &body).with_severity(severity))
        });
        let since = self.firmware.unexpected_since(&key);
        if since.is_some_and(|since| age(since, now) < UNEXPECTED_FOR) {
            card.codes.push(FIRMWARE_CODE);
            card.codes.sort_unstable();
            card.advice = checks::advice(&card.codes);
        }
        event
    }

    fn software(
        &mut self,
        of: &str,
        what: &str,
        version: &str,
        window: bool,
        now: Stamp,
    ) -> Option<Event> {
        let name = subject(of);
        let new = self
            .software
            .take((name.clone(), what.to_owned()), version, window, now)?;
        let body = SoftwareBody {
            what: what.to_owned(),
            from: new.from,
            to: new.to,
            expected: new.expected,
        };
        Some(Event::new(now, SOFTWARE, name, &body))
    }

    fn owner(&mut self, card: &CardStatus, now: Stamp) -> Option<Event> {
        let owner = card.owner.as_ref().filter(|it| it.alive == Some(true))?;
        let name = subject(&card.card);
        let from = self.owners.insert(name.clone(), owner.pid)?;
        (from != owner.pid).then(|| {
            let to = owner.pid;
            Event::new(now, OWNER_CHANGED, name, &OwnerBody { from, to })
        })
    }

    fn restart(&mut self, service: &ServiceStatus, now: Stamp) -> Option<Event> {
        let name = subject(&service.service);
        let before = self.restarts.insert(name.clone(), service.restarts);
        let restarts = service.restarts;
        (before.unwrap_or(0) < restarts).then(|| {
            let body = ServiceRestartBody {
                restarts,
                pid: service.process.as_ref().map(|it| it.pid),
            };
            Event::new(now, SERVICE_RESTARTED, name, &body)
        })
    }

    fn host(&mut self, host: &HostFigures, now: Stamp) -> Vec<Event> {
        let mut events = Vec::new();
        if host.oom_kills > self.oom_kills {
            let body = OomKillBody {
                killed: host.oom_kills - self.oom_kills,
                since_watched: host.oom_kills,
                memory_available_bytes: host.memory_available_bytes,
            };
            let event = Event::new(now, OOM_KILL, "host", &body);
            events.push(event.with_severity(Severity::Alert));
        }
        self.oom_kills = host.oom_kills;
        let from = self.host.replace(host.cause).unwrap_or(Cause::None);
        if from != host.cause {
            let body = HostTransitionBody {
                from,
                to: host.cause,
                evidence: recorded(&host.evidence),
                codes: host.codes.clone(),
            };
            let severity = match host.cause {
                Cause::None => Severity::Notice,
                _ => Severity::Warning,
            };
            let event = Event::new(now, HOST_TRANSITION, "host", &body);
            events.push(event.with_severity(severity));
        }
        events
    }
}

/// The event of a service's transition. `drained` is whether its card is to have no work.
pub(super) fn service_changed(
    name: &str,
    transition: &ServiceTransition,
    status: &Status,
    drained: bool,
    now: Stamp,
) -> Event {
    let service = status.services.iter().find(|it| it.service == name);
    let pages = service.is_some_and(|it| it.leaks.iter().any(|leak| leak.level == Level::Page));
    let severity = match transition.cause {
        Cause::None => Severity::Notice,
        _ if drained => Severity::Notice,
        Cause::ServiceGone => Severity::Alert,
        Cause::ServiceLeak if pages => Severity::Alert,
        _ => Severity::Warning,
    };
    let body = ServiceTransitionBody {
        from: transition.from,
        to: transition.to,
        cause_before: transition.cause_before,
        cause: transition.cause,
        evidence: recorded(&transition.evidence),
        codes: service.map(|it| it.codes.clone()).unwrap_or_default(),
        drained,
    };
    Event::new(now, SERVICE_TRANSITION, subject(name), &body).with_severity(severity)
}

/// As much evidence as goes into an event.
pub(super) fn recorded(evidence: &[Evidence]) -> Vec<Evidence> {
    let evidence = evidence.iter().take(EVIDENCE_MAX);
    evidence
        .map(|piece| Evidence {
            code: cut(&piece.code, DETAIL_LEN_MAX).to_owned().into(),
            detail: cut(&piece.detail, DETAIL_LEN_MAX).to_owned(),
        })
        .collect()
}

/// What events say: of what which version it is, and when it was changed unexpectedly, if it was.
/// `read` tells, of a subject and a body, the first two and whether the change was expected.
fn versions<Body: DeserializeOwned>(
    events: &[Recorded],
    read: impl Fn(&str, Body) -> (Key, String, bool),
) -> impl Iterator<Item = (Key, String, Option<Stamp>)> {
    events.iter().filter_map(move |it| {
        let body = serde_json::from_str(&it.event.body).ok()?;
        let (key, version, expected) = read(&it.event.subject, body);
        Some((key, version, (!expected).then_some(it.event.stamp)))
    })
}

/// Under what the firmware of a card is known.
fn of_card(card: &str) -> Key {
    (subject(card), FIRMWARE.to_owned())
}

/// How long ago something on record was, over a reboot by the calendar.
pub(super) fn age(since: Stamp, now: Stamp) -> Duration {
    if since.boot == now.boot {
        now.monotonic.since(since.monotonic)
    } else {
        now.wall.since(since.wall)
    }
}
