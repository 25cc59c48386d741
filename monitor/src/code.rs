//! Numbers for what a health check fails with, what each means, and what to do about it.
//!
//! Codes 0 to 6 are those that the endpoint health check of the Tivoli management framework has
//! always had, with the same meaning for a card's service as for an endpoint; those from 16 on are
//! this project's. As NVIDIA's catalogue of Xid errors does, each says what to do at once and what
//! to look into. Nothing is done here.

use crate::verdict::Cause;
use std::fmt;

/// What to do at once, the mildest first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum ImmediateAction {
    /// Nothing.
    Ignore,
    /// Restart the application or the service.
    RestartApp,
    /// Reset the card.
    Reset,
    /// Restart the host.
    RestartHost,
    /// Call whoever repairs the card.
    ContactSupport,
}

impl ImmediateAction {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ignore => "IGNORE",
            Self::RestartApp => "RESTART_APP",
            Self::Reset => "RESET",
            Self::RestartHost => "RESTART_HOST",
            Self::ContactSupport => "CONTACT_SUPPORT",
        }
    }
}

impl fmt::Display for ImmediateAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What is known of a code.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    /// The number.
    pub code: u8,
    /// What it means for a card.
    pub meaning: &'static str,
    /// What it means for an endpoint, if it is one of the old ones.
    pub endpoint: Option<&'static str>,
    /// What is at fault, as far as the code tells.
    pub cause: Cause,
    /// What to do at once.
    pub immediate: ImmediateAction,
    /// What to look into.
    pub investigate: &'static str,
}

/// All codes, in order.
pub const CODES: [Entry; 18] = [
    old(
        0,
        "cannot write state/lock/device node (permission)",
        "cannot create temp file (permission)",
        Cause::Configuration,
        ImmediateAction::Ignore,
        "owner and mode of the state directory, the lock and the device node; the service's user",
    ),
    old(
        1,
        "insufficient space in state dir",
        "insufficient temp space",
        Cause::Configuration,
        ImmediateAction::Ignore,
        "what fills the file system of the state directory; quotas",
    ),
    old(
        2,
        "cannot load/refresh firmware or key blobs",
        "cannot create/update method cache",
        Cause::Configuration,
        ImmediateAction::Ignore,
        "whether the blobs are there, readable and those of this card and firmware",
    ),
    old(
        3,
        "insufficient space in key/history store",
        "insufficient space in LCF_CACHEDIR",
        Cause::Configuration,
        ImmediateAction::Ignore,
        "what fills the store; do not delete an abnormally large one, find out why it is",
    ),
    old(
        4,
        "cannot open service session (user)",
        "cannot get tmersrvd token",
        Cause::Configuration,
        ImmediateAction::RestartApp,
        "credentials of the user; sessions in use against sessions allowed",
    ),
    old(
        5,
        "cannot open privileged session (SO/admin/module)",
        "cannot get administrator token",
        Cause::Configuration,
        ImmediateAction::Ignore,
        "credentials and quorum of the privileged role; whether it is locked out",
    ),
    old(
        6,
        "cannot spawn/thread (EAGAIN/ENOMEM/EMFILE)",
        "cannot spawn process",
        Cause::HostStarvation,
        ImmediateAction::RestartApp,
        "limits of tasks, memory and descriptors, and which process uses them up",
    ),
    new(
        16,
        "wrong answer to a known-answer test",
        Cause::Card,
        ImmediateAction::ContactSupport,
        "keep the card out; compare the same test on another card and in another slot",
    ),
    new(
        17,
        "an operation timed out",
        Cause::Undetermined,
        ImmediateAction::Reset,
        "whether the card's heartbeat moved, and whether the host was starved, at that time",
    ),
    new(
        18,
        "the card's heartbeat counter stands still",
        Cause::Card,
        ImmediateAction::Reset,
        "whether configuration space reads as all-ones; what the firmware logged last",
    ),
    new(
        19,
        "the light signals a fault",
        Cause::Card,
        ImmediateAction::ContactSupport,
        "the code it signals; whether the light agrees with the card's own status",
    ),
    new(
        20,
        "the link runs slower or narrower than both ends can",
        Cause::Link,
        ImmediateAction::Ignore,
        "seat of the card, riser and slot; errors counted at the port above",
    ),
    new(
        21,
        "a fatal error on the link (AER)",
        Cause::Link,
        ImmediateAction::Reset,
        "errors at the card and at the port above; whether the fault stays with the slot",
    ),
    new(
        22,
        "temperature or voltage out of range",
        Cause::Card,
        ImmediateAction::Reset,
        "fans, airflow and inlet temperature; whether its neighbours are hot too",
    ),
    new(
        23,
        "firmware of another version than expected",
        Cause::Configuration,
        ImmediateAction::Ignore,
        "what was changed and by whom; roll back, or expect the new version",
    ),
    new(
        24,
        "a leak is suspected",
        Cause::ServiceLeak,
        ImmediateAction::RestartApp,
        "which process grows, with what; whether it grows with failed opens or without a card",
    ),
    new(
        25,
        "the card's random numbers repeat",
        Cause::Card,
        ImmediateAction::ContactSupport,
        "keep the card out; every signature made since the last good test may give its key away",
    ),
    new(
        26,
        "the card has counted a fatal error of its own units",
        Cause::Card,
        ImmediateAction::Reset,
        "which unit, as its driver logged it; whether it comes again after the reset",
    ),
];

const fn old(
    code: u8,
    meaning: &'static str,
    endpoint: &'static str,
    cause: Cause,
    immediate: ImmediateAction,
    investigate: &'static str,
) -> Entry {
    Entry {
        code,
        meaning,
        endpoint: Some(endpoint),
        cause,
        immediate,
        investigate,
    }
}

const fn new(
    code: u8,
    meaning: &'static str,
    cause: Cause,
    immediate: ImmediateAction,
    investigate: &'static str,
) -> Entry {
    Entry {
        code,
        meaning,
        endpoint: None,
        cause,
        immediate,
        investigate,
    }
}

/// What is known of `code`; `None` for a number that means nothing.
#[must_use]
pub fn lookup(code: u8) -> Option<&'static Entry> {
    CODES.iter().find(|entry| entry.code == code)
}

/// All codes for a person to read: a head, and a line for each.
#[must_use]
pub fn table() -> Vec<String> {
    let lines = CODES.iter().map(|entry| {
        format!(
            "{:>4}  {:<15}  {:<15}  {}\n{:40}{}",
            entry.code, entry.immediate, entry.cause, entry.meaning, "", entry.investigate
        )
    });
    let head = format!(
        "{:>4}  {:<15}  {:<15}  MEANING, AND WHAT TO LOOK INTO",
        "CODE", "AT ONCE", "CAUSE"
    );
    std::iter::once(head).chain(lines).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_of_endpoints_keep_their_numbers_and_meanings() {
        let endpoint = |code: u8| lookup(code).unwrap().endpoint;
        assert_eq!(endpoint(0), Some("cannot create temp file (permission)"));
        assert_eq!(endpoint(1), Some("insufficient temp space"));
        assert_eq!(endpoint(2), Some("cannot create/update method cache"));
        assert_eq!(endpoint(3), Some("insufficient space in LCF_CACHEDIR"));
        assert_eq!(endpoint(4), Some("cannot get tmersrvd token"));
        assert_eq!(endpoint(5), Some("cannot get administrator token"));
        assert_eq!(endpoint(6), Some("cannot spawn process"));
        assert!(CODES[7..].iter().all(|entry| entry.endpoint.is_none()));
    }

    #[test]
    fn codes_are_in_order_and_the_old_ones_apart_from_the_new() {
        let codes: Vec<_> = CODES.iter().map(|entry| entry.code).collect();
        let expected: Vec<_> = (0..=6).chain(16..=26).collect();
        assert_eq!(codes, expected);
        assert_eq!(lookup(7), None);
        assert_eq!(lookup(27), None);
    }

    #[test]
    fn the_table_shows_every_code_with_what_to_do() {
        let table = table();
        assert_eq!(table.len(), 1 + CODES.len());
        for (line, entry) in table[1..].iter().zip(&CODES) {
            assert!(line.trim_start().starts_with(&entry.code.to_string()));
            for part in [entry.meaning, entry.investigate, entry.immediate.name()] {
                assert!(line.contains(part), "{line}");
            }
        }
        let [first, second] = table[8].split('\n').collect::<Vec<_>>()[..] else {
            panic!("{}", table[8]);
        };
        assert_eq!(first.find("wrong answer"), Some(40));
        assert!(second[40..].starts_with("keep the card out"));
    }
}
