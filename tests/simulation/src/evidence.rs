//! What each trouble can make a breaker open for.
//!
//! A breaker that opens while something is wrong is not right for that alone: a card that answers
//! late has not given a wrong answer. The table says which evidence codes a trouble can cause, by
//! itself or by what a reset then finds; any other is a false alarm, whatever else is wrong.

use crate::trouble::{HostTrouble, Mishap, Trouble};
use firmware_sim::fault::Fault;
use hwshim::spec::crypto::Status;

/// Requests that are not answered, in time or at all. What opens first depends on the load: three
/// that ran out of time, or one that was kept long past its deadline.
const UNANSWERED: &[&str] = &["timed-out", "ring-stuck"];
/// From when on a card is so slow that requests can run out of their time: a signature takes 0.6 ms
/// and waits for a queue of others.
const SLOW_MIN: f64 = 50.0;

impl Trouble {
    /// Whether a breaker can open with `code` because of this.
    pub(crate) fn explains(&self, code: &str) -> bool {
        match self {
            Self::Card(fault) => of_the_card(fault).contains(&code),
            Self::BusError => code == "bus-error",
            // The card goes on, and nobody is there to take its answers.
            Self::Host(HostTrouble::MonitorStopped) => false,
            Self::Host(_) => UNANSWERED.contains(&code),
            // What is beside the card does nothing to it, unless it is gone.
            Self::Mishap(mishap) => *mishap == Mishap::LeakWhileAbsent && code == "gone",
        }
    }

    /// Whether something can happen without end at one instant: each interrupt of a storm wakes the
    /// driver, which asks for interrupts again.
    pub(crate) const fn never_rests(&self) -> bool {
        matches!(self, Self::Card(Fault::InterruptStorm { .. }))
    }
}

fn of_the_card(fault: &Fault) -> &'static [&'static str] {
    match fault {
        Fault::Hang { .. }
        | Fault::WorkStops
        | Fault::Maintenance
        | Fault::LateCompletion { .. }
        | Fault::DroppedCompletion => UNANSWERED,
        // What does not end its reset cannot be brought up.
        Fault::ResetHangs => &["not-usable", "timed-out", "ring-stuck"],
        Fault::Slow { factor } if *factor >= SLOW_MIN => UNANSWERED,
        Fault::FlippedBit | Fault::CrtFault => &["wrong-answer"],
        // Another message does not fit the tag that it came with.
        Fault::WrongMessage => &["wrong-answer", "status-badmsg"],
        Fault::RepeatedNonce | Fault::RngStuck => &["repeated-nonce"],
        Fault::ShortResult { .. } => &["wrong-length", "wrong-answer"],
        // A little too much may still fit.
        Fault::OverlongResult { .. } => &["overclaimed-length", "wrong-length", "wrong-answer"],
        Fault::DuplicateCompletion { .. } => &["completed-unknown-request", "used-index-jumped"],
        Fault::UnknownCompletion { .. } => &["completed-unknown-request"],
        Fault::DmaGarbage { .. } => GARBAGE,
        Fault::SilentReboot | Fault::ResetLoop { .. } => {
            &["silent-reboot", "timed-out", "ring-stuck"]
        }
        Fault::SessionsExhausted => &["session-refused"],
        Fault::KeysLost => &["status-invsess"],
        Fault::SelfTestFailure { .. } => &["status-err"],
        Fault::ErrorStatus { status } => of_status(*status),
        Fault::SurpriseRemoval => &["gone"],
        Fault::AllOnes => &["timed-out", "ring-stuck", "gone", "not-usable"],
        // Nothing that callers would notice.
        Fault::Slow { .. }
        | Fault::ReorderedCompletion
        | Fault::HeartbeatStops
        | Fault::OverTemperature { .. }
        | Fault::Downtrained { .. }
        | Fault::CorrectableStorm { .. }
        | Fault::LostInterrupt
        | Fault::InterruptStorm { .. }
        | Fault::LedIrregular
        | Fault::LedStuckOn
        | Fault::LedStuckOff
        | Fault::LedSos { .. }
        | Fault::LedMaintenance
        | Fault::LedInitialization => &[],
    }
}

/// Whatever can stand in memory that a card writes: rings, lengths, statuses, results.
const GARBAGE: &[&str] = &[
    "completed-unknown-request",
    "overclaimed-length",
    "ring-stuck",
    "session-refused",
    "status-badmsg",
    "status-err",
    "status-invsess",
    "status-nospc",
    "status-notsupp",
    "timed-out",
    "undefined-status",
    "used-index-jumped",
    "wrong-answer",
    "wrong-length",
];

const fn of_status(status: Status) -> &'static [&'static str] {
    match status {
        Status::BADMSG => &["status-badmsg"],
        Status::NOTSUPP => &["status-notsupp"],
        Status::INVSESS => &["status-invsess"],
        Status::NOSPC => &["status-nospc"],
        Status::ERR | Status::KEY_REJECTED => &["status-err"],
        _ => &["undefined-status"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_explains_its_own_codes_and_no_others() {
        let explains = |trouble: &str, code: &str| {
            let trouble: Trouble = trouble.parse().unwrap();
            trouble.explains(code)
        };
        assert!(explains("hang", "timed-out") && !explains("hang", "wrong-answer"));
        assert!(explains("slow=10000", "ring-stuck") && !explains("slow", "ring-stuck"));
        assert!(explains("error-status=nospc", "status-nospc"));
        assert!(!explains("error-status=nospc", "status-err"));
        assert!(explains("steal", "timed-out") && !explains("monitor-stopped", "timed-out"));
        for trouble in Trouble::all() {
            assert!(
                !trouble.explains("") && !trouble.explains("reset-not-run"),
                "{trouble}"
            );
        }
    }
}
