//! What the service has and does, as a value that is told the time: sessions, faults, leaks.
//!
//! It knows no connection and no thread of the service; those are the server's. A leak grows when
//! time passes or an open fails, up to a limit that holds for all of them together.

use crate::service::fault::{FaultError, Resource, ServiceFault, entry_named};
use crate::service::hoard::{Amounts, Hoard, PAGE_LEN, free_port};
use crate::service::ledger::{ClientFacts, Facts, Ledger};
use crate::service::presence::CardLink;
use crate::service::protocol::{Code, MODULE, Refusal};
use crate::service::quantity::{Accrual, Per, Rate, Unit};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::Duration;

/// A leak grows no more often than this: many small steps would only cost CPU time.
const STEP: Duration = Duration::from_millis(20);
/// How often it is looked whether a simulated card is there.
const CARD_POLL: Duration = Duration::from_millis(250);

/// What all leaks together may hold at most.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Limits {
    /// Memory of process and kernel.
    pub(super) bytes: u64,
    /// Descriptors, threads and ports.
    pub(super) objects: u64,
}

/// A fault that is on.
#[derive(Debug)]
struct Active {
    fault: ServiceFault,
    /// What becomes due with time.
    accrual: Option<Accrual>,
    /// Why the last attempt to leak more failed.
    trouble: Option<String>,
}

/// What a fault leaks.
#[derive(Clone, Copy, Debug)]
struct Leak {
    resource: Resource,
    rate: Rate,
    only_while_absent: bool,
}

#[derive(Debug)]
struct Session {
    client: u64,
    /// On which the card would call back.
    port: TcpListener,
}

/// The service.
#[derive(Debug)]
pub(super) struct State {
    serial: String,
    limits: Limits,
    started: Duration,
    card: CardLink,
    card_is_present: bool,
    sessions: BTreeMap<u64, Session>,
    session_last: u64,
    /// By name. A hoard outlives its fault unless it is freed.
    faults: BTreeMap<&'static str, Active>,
    hoards: BTreeMap<&'static str, Hoard>,
    /// Why clients are still refused after that fault has been cleared.
    refusal: Option<String>,
    leaked_and_freed: u64,
    /// Ports of closed sessions, with the time of their release.
    recycling: Vec<(Duration, TcpListener)>,
    crashes: bool,
    pub(super) ledger: Ledger,
}

impl State {
    pub(super) fn new(serial: String, card: CardLink, limits: Limits, now: Duration) -> Self {
        Self {
            serial,
            limits,
            started: now,
            card_is_present: card.is_present(),
            card,
            sessions: BTreeMap::new(),
            session_last: 0,
            faults: BTreeMap::new(),
            hoards: BTreeMap::new(),
            refusal: None,
            leaked_and_freed: 0,
            recycling: Vec::new(),
            crashes: false,
            ledger: Ledger::default(),
        }
    }

    /// Does what is due by now.
    pub(super) fn pass(&mut self, now: Duration) {
        self.look_for_card(now);
        self.recycling.retain(|(release_at, _)| *release_at > now);
        let mut due = Vec::new();
        for (name, active) in &mut self.faults {
            let Some(leak) = leak_of(&active.fault) else {
                continue;
            };
            if applies(&leak, self.card_is_present)
                && let Some(accrual) = &mut active.accrual
            {
                due.push((*name, leak.resource, accrual.take(now)));
            }
        }
        for (name, resource, amount) in due {
            self.leak(name, resource, amount);
        }
    }

    /// How long it need not be told the time, if nothing else happens.
    pub(super) fn until_next(&self, now: Duration) -> Option<Duration> {
        let leaks = self.faults.values().filter_map(|active| {
            let leak = leak_of(&active.fault)?;
            let grows = applies(&leak, self.card_is_present) && self.room(leak.resource.unit()) > 0;
            let next = active.accrual.filter(|_| grows)?.next();
            Some(next.saturating_sub(now).max(STEP))
        });
        let releases = self.recycling.iter().map(|(at, _)| at.saturating_sub(now));
        let card = matches!(self.card, CardLink::Socket(_)).then_some(CARD_POLL);
        leaks.chain(releases).chain(card).min()
    }

    /// Opens a session, which takes a port. An open that fails gives it back.
    pub(super) fn open(&mut self, client: u64, module: u32, now: Duration) -> Result<u64, Refusal> {
        self.look_for_card(now);
        let port = free_port();
        let refusal = if module != MODULE {
            Refusal::new(
                Code::NoModule,
                format!("there is no module {module}, only {MODULE}"),
            )
        } else if !self.card_is_present {
            Refusal::new(Code::NoCard, "the card is absent")
        } else {
            match port {
                Ok(port) => {
                    self.session_last += 1;
                    self.ledger.sessions_opened += 1;
                    self.sessions
                        .insert(self.session_last, Session { client, port });
                    return Ok(self.session_last);
                }
                Err(error) => Refusal::new(Code::Resources, format!("no callback port: {error}")),
            }
        };
        self.open_failed();
        Err(refusal)
    }

    fn open_failed(&mut self) {
        self.ledger.opens_failed += 1;
        let leaks: Vec<_> = self
            .faults
            .iter()
            .filter_map(|(name, active)| Some((*name, leak_of(&active.fault)?)))
            .filter(|(_, leak)| {
                leak.rate.per == Per::FailedOpen && applies(leak, self.card_is_present)
            })
            .collect();
        for (name, leak) in leaks {
            self.leak(name, leak.resource, leak.rate.amount);
        }
    }

    /// Whether a client may use a session.
    pub(super) fn check_session(
        &mut self,
        client: u64,
        session: u64,
        now: Duration,
    ) -> Result<(), Refusal> {
        self.look_for_card(now);
        if self
            .sessions
            .get(&session)
            .is_some_and(|open| open.client == client)
        {
            return Ok(());
        }
        if self.card_is_present {
            Err(Refusal::new(
                Code::NoSession,
                format!("there is no session {session}"),
            ))
        } else {
            Err(Refusal::new(Code::NoCard, "the card is absent"))
        }
    }

    /// Closes a session. Its port is released now, or when the fault says so.
    pub(super) fn close(&mut self, session: u64, now: Duration) {
        let Some(Session { port, .. }) = self.sessions.remove(&session) else {
            return;
        };
        self.ledger.sessions_closed += 1;
        let after = self.faults.values().find_map(|active| match active.fault {
            ServiceFault::DelayedRecycle { after } => Some(after),
            _ => None,
        });
        if let Some(after) = after.filter(|_| self.room(Unit::Objects) > 0) {
            self.recycling.push((now.saturating_add(after), port));
        }
    }

    /// Closes every session of a client.
    pub(super) fn close_all_of(&mut self, client: u64, now: Duration) {
        self.close_where(|session| session.client == client, now);
    }

    fn close_where(&mut self, wanted: impl Fn(&Session) -> bool, now: Duration) {
        let closing: Vec<_> = self
            .sessions
            .iter()
            .filter(|(_, session)| wanted(session))
            .map(|(&id, _)| id)
            .collect();
        for id in closing {
            self.close(id, now);
        }
    }

    /// Counts a command of a client.
    pub(super) fn take_command(&mut self) {
        self.ledger.commands += 1;
        if let Some(Active {
            fault: ServiceFault::Crash { after },
            ..
        }) = self.faults.get_mut("crash")
        {
            *after = after.saturating_sub(1);
            self.crashes |= *after == 0;
        }
    }

    /// Whether the time has come to crash.
    pub(super) fn crashes(&self) -> bool {
        self.crashes
    }

    /// Whether some fault that is on is wanted.
    pub(super) fn has(&self, wanted: impl Fn(&ServiceFault) -> bool) -> bool {
        self.faults.values().any(|active| wanted(&active.fault))
    }

    /// Time between two connections that are accepted, if that is stalled.
    pub(super) fn accept_interval(&self) -> Option<Duration> {
        self.faults.values().find_map(|active| match active.fault {
            ServiceFault::AcceptStall { every } => Some(every),
            _ => None,
        })
    }

    /// Turns a fault on. One of the same name is replaced; what it has leaked stays.
    pub(super) fn inject(&mut self, fault: ServiceFault, now: Duration) {
        self.crashes |= fault == ServiceFault::Crash { after: 0 };
        let active = Active {
            fault,
            accrual: accrual_of(&fault, now),
            trouble: None,
        };
        self.faults.insert(fault.name(), active);
    }

    /// Turns a fault off, and on demand gives back what it has leaked.
    ///
    /// # Errors
    ///
    /// If there is no such fault, or it is off and has left nothing.
    pub(super) fn clear(&mut self, name: &str, free: bool) -> Result<(), ClearError> {
        let name = entry_named(name)?.name;
        let was_on = self.faults.remove(name).is_some();
        let frees = free && self.has_left(name);
        if !was_on && !frees {
            return Err(ClearError::Off { name });
        }
        if free {
            self.free(name);
        }
        Ok(())
    }

    /// Turns every fault off.
    pub(super) fn clear_all(&mut self, free: bool) {
        self.faults.clear();
        if free {
            for entry in ServiceFault::catalogue() {
                self.free(entry.name);
            }
        }
    }

    /// Takes note of why clients cannot be refused as they should, or not be let in again.
    pub(super) fn note_refusal(&mut self, trouble: Option<String>) {
        match self.faults.get_mut("refuse") {
            Some(active) => {
                active.trouble = trouble;
                self.refusal = None;
            }
            None => self.refusal = trouble,
        }
    }

    /// Whether a fault, on or not, holds something that could be freed.
    fn has_left(&self, name: &str) -> bool {
        self.hoards.contains_key(name) || name == "delayed-recycle" && !self.recycling.is_empty()
    }

    fn free(&mut self, name: &'static str) {
        if let Some(hoard) = self.hoards.remove(name) {
            self.leaked_and_freed += hoard.amounts().objects();
        }
        if name == "delayed-recycle" {
            self.recycling.clear();
        }
    }

    /// Gives it another card, or none.
    pub(super) fn set_card(&mut self, card: CardLink, now: Duration) {
        self.card = card;
        self.look_for_card(now);
    }

    fn look_for_card(&mut self, now: Duration) {
        let is_present = self.card.is_present();
        if is_present == self.card_is_present {
            return;
        }
        self.card_is_present = is_present;
        if is_present {
            self.ledger.card_returned += 1;
            return;
        }
        self.ledger.card_lost += 1;
        self.close_where(|_| true, now);
        // What leaks only now begins to.
        for active in self.faults.values_mut() {
            if leak_of(&active.fault).is_some_and(|leak| leak.only_while_absent) {
                active.accrual = accrual_of(&active.fault, now);
            }
        }
    }

    fn leak(&mut self, name: &'static str, resource: Resource, amount: u64) {
        let amount = amount.min(self.room(resource.unit()));
        if amount == 0 {
            return;
        }
        let outcome = self.hoards.entry(name).or_default().grow(resource, amount);
        if let Some(active) = self.faults.get_mut(name) {
            active.trouble = outcome.err().map(|error| error.to_string());
        }
    }

    /// How much more may leak.
    fn room(&self, unit: Unit) -> u64 {
        let leaked = self.leaked();
        match unit {
            Unit::Bytes => self.limits.bytes.saturating_sub(leaked.bytes()),
            Unit::Objects => {
                let held = leaked.objects() + self.recycling_count();
                self.limits.objects.saturating_sub(held)
            }
        }
    }

    fn leaked(&self) -> Amounts {
        let mut sum = Amounts::default();
        for hoard in self.hoards.values() {
            sum.add(&hoard.amounts());
        }
        sum
    }

    fn recycling_count(&self) -> u64 {
        u64::try_from(self.recycling.len()).unwrap_or(u64::MAX)
    }

    /// What it says of itself, which may be a lie.
    pub(super) fn facts<'a>(&'a self, clients: &'a [ClientFacts], now: Duration) -> Facts<'a> {
        let lies = self.has(|fault| *fault == ServiceFault::LedgerLies);
        let honest = |number| if lies { 0 } else { number };
        Facts {
            ledger: &self.ledger,
            serial: &self.serial,
            card_is_present: self.card_is_present,
            uptime_seconds: now.saturating_sub(self.started).as_secs(),
            clients,
            leaked: if lies {
                Amounts::default()
            } else {
                self.leaked()
            },
            leaked_and_freed: honest(self.leaked_and_freed),
            recycling: honest(self.recycling_count()),
        }
    }

    /// The truth, for whoever controls it.
    pub(super) fn status(&self, client_count: usize) -> Value {
        let Amounts {
            heap_bytes,
            kernel_bytes,
            descriptors,
            threads,
            ports,
        } = self.leaked();
        let on = self.faults.values();
        let on =
            on.map(|active| json!({"fault": active.fault.to_string(), "trouble": active.trouble}));
        let refusal = self.refusal.iter();
        let refusal = refusal.map(|trouble| json!({"fault": "refuse", "trouble": trouble}));
        let faults: Vec<_> = on.chain(refusal).collect();
        json!({
            "pid": std::process::id(),
            "card": self.card.to_string(),
            "card_is_present": self.card_is_present,
            "clients": client_count,
            "sessions": self.sessions.len(),
            "opens": self.ledger.sessions_opened,
            "opens_failed": self.ledger.opens_failed,
            "recycling_ports": self.recycling.len(),
            "faults": faults,
            "leaked": {
                "heap_bytes": heap_bytes,
                "kernel_bytes": kernel_bytes,
                "descriptors": descriptors,
                "threads": threads,
                "ports": ports,
            },
            "limits": {"bytes": self.limits.bytes, "objects": self.limits.objects},
        })
    }
}

/// A fault cannot be cleared.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClearError {
    /// There is none of that name.
    #[error(transparent)]
    Unknown(#[from] FaultError),
    /// It is not on.
    #[error("{name} is not on")]
    Off { name: &'static str },
}

fn leak_of(fault: &ServiceFault) -> Option<Leak> {
    let (resource, rate, only_while_absent) = match *fault {
        ServiceFault::LeakHeap { rate } => (Resource::Heap, rate, false),
        ServiceFault::LeakKernel { rate, via } => (Resource::Kernel(via), rate, false),
        ServiceFault::LeakDescriptors { rate } => (Resource::Descriptors, rate, false),
        ServiceFault::LeakThreads { rate } => (Resource::Threads, rate, false),
        ServiceFault::LeakPortsOnFailure { count } => {
            let rate = Rate {
                amount: count,
                unit: Unit::Objects,
                per: Per::FailedOpen,
            };
            (Resource::Ports, rate, false)
        }
        ServiceFault::LeakWhileAbsent { rate, what } => (what, rate, true),
        ServiceFault::Crash { .. }
        | ServiceFault::HangAfterAccept
        | ServiceFault::Refuse
        | ServiceFault::AcceptStall { .. }
        | ServiceFault::WorkersExhausted
        | ServiceFault::WrongAnswer
        | ServiceFault::DelayedRecycle { .. }
        | ServiceFault::LedgerLies => return None,
    };
    Some(Leak {
        resource,
        rate,
        only_while_absent,
    })
}

fn applies(leak: &Leak, card_is_present: bool) -> bool {
    !(leak.only_while_absent && card_is_present)
}

fn accrual_of(fault: &ServiceFault, now: Duration) -> Option<Accrual> {
    let Rate { amount, unit, per } = leak_of(fault)?.rate;
    let grain = match unit {
        Unit::Bytes => PAGE_LEN,
        Unit::Objects => 1,
    };
    match per {
        Per::Period(period) => Some(Accrual::new(amount, period, grain, now)),
        Per::FailedOpen => None,
    }
}

#[cfg(test)]
mod tests;
