//! Notices what changed without anybody's order: firmware, owners, services, the host. It remembers
//! what was seen before, and says what of a difference is to be on record.

use super::{
    BLIND_POLLS, DETAIL_LEN_MAX, EVIDENCE_MAX, FIRMWARE, FirmwareBody, HOST_TRANSITION,
    HostTransitionBody, OOM_KILL, OWNER_CHANGED, OomKillBody, OwnerBody, SERVICE_RESTARTED,
    SERVICE_TRANSITION, ServiceRestartBody, ServiceTransitionBody, cut, subject,
};
use crate::checks;
use crate::history::{Event, Recorded, Severity, Stamp};
use crate::leak::Level;
use crate::services::ServiceTransition;
use crate::status::{CardStatus, HostFigures, ServiceStatus, Status};
use crate::verdict::{Cause, Evidence};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long firmware is told to be another than expected, unless somebody expects it by then.
const UNEXPECTED_FOR: Duration = Duration::from_secs(24 * 3600);
/// The code of that.
const FIRMWARE_CODE: u8 = 23;

/// What was there before.
#[derive(Debug, Default)]
pub(super) struct Changes {
    firmware: BTreeMap<String, Firmware>,
    owners: BTreeMap<String, u32>,
    restarts: BTreeMap<String, u64>,
    host: Option<Cause>,
    oom_kills: u64,
}

/// What firmware a card has.
#[derive(Debug)]
struct Firmware {
    revision: String,
    /// When it was changed with no change window open, if it was.
    unexpected_since: Option<Stamp>,
    /// Another one that is read now, and in how many polls it was. A page that is damaged may say
    /// anything once.
    other: Option<(String, u32)>,
}

impl Changes {
    /// Goes on from the events of the kind [`FIRMWARE`] on record before this run, in order. What was
    /// taken for the first that is known of a card, for want of the record, may be another.
    pub(super) fn remember(&mut self, recorded: &[Recorded]) {
        let mut firmware = BTreeMap::new();
        for Recorded { event, .. } in recorded {
            let Ok(body) = serde_json::from_str::<FirmwareBody>(&event.body) else {
                continue;
            };
            let known = Firmware {
                revision: body.to,
                unexpected_since: (!body.expected).then_some(event.stamp),
                other: None,
            };
            firmware.insert(event.subject.clone(), known);
        }
        for (card, known) in firmware {
            let has_changed = |it: &Firmware| it.unexpected_since.is_some();
            if !self.firmware.get(&card).is_some_and(has_changed) {
                self.firmware.insert(card, known);
            }
        }
    }

    /// What a poll found to be another. Firmware that was changed while no window was open is a
    /// failed check of its card.
    pub(super) fn poll(&mut self, status: &mut Status, window: bool, now: Stamp) -> Vec<Event> {
        let mut events = Vec::new();
        for card in &mut status.cards {
            events.extend(self.firmware(card, window, now));
            events.extend(self.owner(card, now));
        }
        for service in &status.services {
            events.extend(self.restart(service, now));
        }
        if let Some(host) = &status.host {
            events.extend(self.host(host, now));
        }
        events
    }

    fn firmware(&mut self, card: &mut CardStatus, window: bool, now: Stamp) -> Option<Event> {
        let seen = card.identity.as_ref().map(|it| &*it.firmware);
        let name = subject(&card.card);
        let event = seen.filter(|it| !it.is_empty()).and_then(|seen| {
            let event = self.take_firmware(&name, seen, window, now)?;
            Some(
                Event::new(now, FIRMWARE, name.clone(), &event).with_severity(if event.expected {
                    Severity::Notice
                } else {
                    Severity::Warning
                }),
            )
        });
        let since = self.firmware.get(&name).and_then(|it| it.unexpected_since);
        if since.is_some_and(|since| age(since, now) < UNEXPECTED_FOR) {
            card.codes.push(FIRMWARE_CODE);
            card.codes.sort_unstable();
            card.advice = checks::advice(&card.codes);
        }
        event
    }

    fn take_firmware(
        &mut self,
        name: &str,
        seen: &str,
        window: bool,
        now: Stamp,
    ) -> Option<FirmwareBody> {
        let seen = cut(seen, DETAIL_LEN_MAX).to_owned();
        let Some(known) = self.firmware.get_mut(name) else {
            let known = Firmware {
                revision: seen.clone(),
                unexpected_since: None,
                other: None,
            };
            self.firmware.insert(name.to_owned(), known);
            return Some(FirmwareBody {
                from: None,
                to: seen,
                expected: true,
            });
        };
        if known.revision == seen {
            known.other = None;
            return None;
        }
        let polls = match &known.other {
            Some((other, polls)) if *other == seen => polls + 1,
            _ => 1,
        };
        if polls < BLIND_POLLS {
            known.other = Some((seen, polls));
            return None;
        }
        known.other = None;
        known.unexpected_since = (!window).then_some(now);
        let from = std::mem::replace(&mut known.revision, seen.clone());
        Some(FirmwareBody {
            from: Some(from),
            to: seen,
            expected: window,
        })
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

fn age(since: Stamp, now: Stamp) -> Duration {
    if since.boot == now.boot {
        now.monotonic.since(since.monotonic)
    } else {
        now.wall.since(since.wall)
    }
}
