//! Chooses what to find out next: the test that is expected to tell most for what it costs.

use super::table::{Kind, Weights};
use super::weighing::Prospect;
use super::{Dossier, entropy};
use hwshim::clock::Instant;
use std::time::Duration;

/// A test that tells less, in bits, is not worth naming.
const INFORMATION_MIN: f64 = 0.01;

/// A way to find something out.
#[derive(Debug, PartialEq)]
pub struct Test {
    /// Its name.
    pub name: &'static str,
    /// What to do.
    pub how: &'static str,
    /// What it shows, or shows not to be there.
    pub reveals: Kind,
    /// How long it takes, or how much patience, which is what it costs.
    pub takes: Duration,
}

/// All of them, for each row of the table the one that tells of it.
#[rustfmt::skip]
pub const TESTS: [Test; 31] = [
    test(Kind::HostPressure, 1, "explain-gap", "hold the silence against pressure, soft interrupts and steal (cardmon explain --gap)"),
    test(Kind::OwnLateness, 2, "time-polls", "look whether the monitor's own polls are on time"),
    test(Kind::CounterFrozen, 1, "confirm-counter", "read the card's heartbeat counter twice, two beats apart"),
    test(Kind::ConfigAllOnes, 1, "read-config-space", "read the card's vendor id from configuration space (hwshim list)"),
    test(Kind::NotInSlot, 2, "find-function", "look whether the kernel still lists the function (hwshim list)"),
    test(Kind::Aer, 1, "read-aer", "compare the error counters of the card with those of the port above it"),
    test(Kind::FatalError, 1, "read-ras", "read the errors that the card counts of its own units, as in qat_ras"),
    test(Kind::BusError, 2, "read-interrupts", "compare interrupts with completions, and look for errors of the bus"),
    test(Kind::RuleBroken, 2, "read-counters", "look which rule of its interface the card broke last"),
    test(Kind::CardSaysFailed, 2, "read-health", "read the card's own health page"),
    test(Kind::SilentReboot, 2, "read-boot-id", "compare the firmware's boot id with the one before"),
    test(Kind::SessionsLost, 2, "use-sessions", "use sessions that were open before"),
    test(Kind::NoAnswer, 2, "time-answer", "ask for a known answer with the whole deadline to spare (cardmon check --live)"),
    test(Kind::CheckFailed, 2, "repeat-known-answer", "ask for a known answer that the card has given before (cardmon check --live)"),
    test(Kind::AnswersSlow, 10, "time-answers", "compare how long known answers take with how long they took (cardmon status)"),
    test(Kind::OwnerGone, 1, "find-owner", "look whether the owner's process is the one that published (cardmon status)"),
    test(Kind::QueueLong, 1, "read-queues", "compare commands with replies, and latency with load"),
    test(Kind::AcceptQueue, 1, "read-backlog", "read the accept queue of the service's socket (cardmon top, ss -ltn)"),
    test(Kind::OutOfRange, 1, "read-sensors", "read temperatures and voltages"),
    test(Kind::Permission, 1, "read-permissions", "open what the service opens, as its user"),
    test(Kind::RecentChange, 1, "read-changes", "list what was changed in the last 24 hours (cardmon history --since 24h)"),
    test(Kind::OtherCardsToo, 1, "compare-cards", "look whether other cards of this host are hit (cardmon incidents)"),
    test(Kind::DeadMan, 1, "ask-dead-man", "ask from outside whether the monitor moves (cardmon dead-man)"),
    test(Kind::CounterMovesNoReply, 2, "ask-service", "ask the service for its status, within a deadline"),
    test(Kind::WrongAnswer, 2, "known-answer-test", "sign and verify a known answer through the card (cardmon check --live)"),
    test(Kind::ErrorThenOk, 10, "repeat-command", "send the command that failed again, a few times"),
    test(Kind::OnlyOneDiverges, 10, "compare-hosts", "compare with the other hosts that are alike"),
    test(Kind::LedFault, 45, "watch-led", "watch the light for 45 seconds (cardmon led --trace)"),
    test(Kind::LightAgainstLoad, 120, "load-the-light", "watch the light for a minute with load and a minute without (cardmon led)"),
    test(Kind::FailedOpens, 600, "idle-floor", "drain, wait for two recycle periods, and see what is still held (cardmon drain, cardmon leaks)"),
    test(Kind::FloorTrend, 3600, "watch-floors", "watch what the service holds for an hour of steady load (cardmon leaks --explain)"),
];

const fn test(reveals: Kind, seconds: u64, name: &'static str, how: &'static str) -> Test {
    Test {
        name,
        how,
        reveals,
        takes: Duration::from_secs(seconds),
    }
}

/// Whether whoever asks has the answer by asking: a monitor that weighs, and has not found itself late,
/// moves.
fn is_answered_by_asking(test: &Test, dossier: &Dossier, now: Instant) -> bool {
    let is_late = matches!(dossier.sight(Kind::OwnLateness, now), Some((true, _)));
    test.reveals == Kind::DeadMan && !is_late
}

/// The tests that nobody has made yet and that would tell something, the one that tells most for what
/// it costs first.
pub(super) fn open(dossier: &Dossier, posterior: &Weights, now: Instant) -> Vec<Prospect> {
    let open = TESTS
        .iter()
        .filter(|test| !dossier.is_answered(test.reveals, now))
        .filter(|test| !is_answered_by_asking(test, dossier, now));
    let lacking = entropy(posterior);
    let prospects = open.map(|test| Prospect {
        test,
        bits: lacking - lacking_after(test.reveals, posterior),
    });
    let mut prospects: Vec<_> = prospects
        .filter(|prospect| prospect.bits >= INFORMATION_MIN)
        .collect();
    let worth = |it: &Prospect| it.bits / it.test.takes.as_secs_f64();
    prospects.sort_by(|one, other| worth(other).total_cmp(&worth(one)));
    prospects
}

/// How many bits are lacking, on average, when it is known whether `kind` is there.
fn lacking_after(kind: Kind, posterior: &Weights) -> f64 {
    let chances = kind.chances();
    let there: Weights = std::array::from_fn(|it| posterior[it] * chances[it]);
    let not_there: Weights = std::array::from_fn(|it| posterior[it] - there[it]);
    let lacking = |joint: &Weights| {
        let sum: f64 = joint.iter().sum();
        // That of what is left when divided by its sum, times the sum.
        entropy(joint) - entropy(&[sum])
    };
    lacking(&there) + lacking(&not_there)
}

#[cfg(test)]
mod tests {
    use super::super::{Circumstances, Priors, assess};
    use super::*;

    #[test]
    fn a_monitor_that_is_on_time_is_not_asked_whether_it_moves() {
        let now = Instant::ORIGIN;
        let is_asked = |dossier: &Dossier| {
            let assessment = assess(dossier, &Circumstances::default(), &Priors::default(), now);
            let chances = assessment.ranked.iter();
            let posterior = super::super::HYPOTHESES.map(|cause| {
                let mut of = chances.clone().filter(|(ranked, _)| *ranked == cause);
                of.next().map_or(0.0, |(_, chance)| *chance)
            });
            let prospects = open(dossier, &posterior, now);
            prospects.iter().any(|it| it.test.reveals == Kind::DeadMan)
        };
        let mut dossier = Dossier::new();
        dossier.seen(Kind::NoAnswer, 1.0, "it is silent", now);
        assert!(!is_asked(&dossier));
        dossier.seen(Kind::OwnLateness, 1.0, "this poll came 3 s late", now);
        assert!(is_asked(&dossier));
    }
}
