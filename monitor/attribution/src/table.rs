//! What speaks for what, and how strongly: the one table that all attribution rests on.
//!
//! A weight is the logarithm of how much likelier something is under a hypothesis, in nats: two plus
//! signs are a factor of 20, one is a factor of 4.5. Numbers are not fitted to anything yet;
//! [`Calibration`](super::Calibration) says how good they are.

use crate::Cause;
use std::sync::LazyLock;
use std::time::Duration;

/// What may be at fault, in the order of the table's columns.
pub const HYPOTHESES: [Cause; 11] = [
    Cause::None,
    Cause::Card,
    Cause::CardAbsent,
    Cause::Link,
    Cause::ServiceGone,
    Cause::ServiceHang,
    Cause::ServiceLeak,
    Cause::HostStarvation,
    Cause::Overload,
    Cause::Configuration,
    Cause::Monitor,
];

/// A number for each of [`HYPOTHESES`].
pub(super) type Weights = [f64; HYPOTHESES.len()];

/// It is as good as certain.
const YY: f64 = 4.5;
/// `++`: it is what one would see.
const PP: f64 = 3.0;
/// `+`: it fits.
const P_: f64 = 1.5;
/// It tells nothing.
const O_: f64 = 0.0;
/// `-`: it does not fit well.
const M_: f64 = -1.5;
/// `--`: one would hardly see it.
const MM: f64 = -3.0;
/// It cannot be.
const NN: f64 = -6.0;

/// How often something is seen that tells nothing. With that, what is as one would see it is missed
/// once in ten times.
const SEEN_BY_CHANCE: f64 = 0.045;
/// Nothing is so certain that not seeing it would rule it out.
const SEEN_MAX: f64 = 0.95;

/// How often what shows in several ways shows in this one.
const ONE_OF_SEVERAL: f64 = 0.1;

/// Units of half-lives.
const SECOND: u64 = 1;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

/// A row of the table: sights of one thing.
#[derive(Debug)]
pub struct Row {
    /// What may be seen of it.
    pub kinds: &'static [Kind],
    /// Whether it is a state, over when it is not seen any more; else it is an event, which has
    /// happened whatever is seen later.
    pub is_state: bool,
    /// It tells half as much when it was seen so long ago.
    pub half_life: Duration,
    /// What never is without it. Of anything else it is one of several ways in which that shows,
    /// and not seeing it tells little.
    pub defines: Option<Cause>,
    /// What it adds to each hypothesis if seen.
    pub weights: [f64; HYPOTHESES.len()],
}

/// Chances before anything is known.
#[rustfmt::skip]
pub(super) const PRIORS: Weights =
//   none   card  absent  link   gone   hang   leak   host   load  config monitor
    [0.875, 0.015, 0.005, 0.010, 0.010, 0.010, 0.010, 0.020, 0.020, 0.015, 0.010];

/// What is seen.
#[rustfmt::skip]
pub const ROWS: [Row; 31] = [
//  seen                                                               none card abs. link gone hang leak host load conf mon.
    state(30 * SECOND, &[Kind::OwnLateness],                          [NN, M_,  M_,  M_,  M_,  M_,  O_,  P_,  P_,  M_,  PP]),
    state(30 * SECOND, &[Kind::HostPressure],                         [NN, M_,  M_,  O_,  O_,  O_,  O_,  PP,  P_,  O_,  O_]).defining(Cause::HostStarvation),
    state(30 * SECOND, &[Kind::CounterFrozen],                        [NN, PP,  PP,  P_,  MM,  MM,  MM,  MM,  MM,  MM,  M_]),
    state(30 * SECOND, &[Kind::CounterMovesNoReply],                  [NN, MM,  MM,  M_,  M_,  PP,  P_,  P_,  P_,  O_,  O_]).defining(Cause::ServiceHang),
    state(30 * SECOND, &[Kind::ConfigAllOnes],                        [NN, O_,  PP,  PP,  MM,  MM,  MM,  MM,  MM,  MM,  O_]).defining(Cause::CardAbsent),
    state(30 * SECOND, &[Kind::NotInSlot],                            [NN, MM,  YY,  MM,  MM,  MM,  MM,  MM,  MM,  MM,  O_]),
    event(10 * MINUTE, &[Kind::Aer, Kind::DegradedLink],              [NN, P_,  O_,  YY,  M_,  M_,  MM,  MM,  MM,  MM,  O_]),
    // What the link does to a card that is well.
    state(MINUTE,      &[Kind::BusError, Kind::InterruptsLost,
                         Kind::InterruptStorm],                       [NN, P_,  O_,  YY,  MM,  MM,  MM,  MM,  MM,  MM,  O_]),
    // Errors that the card's own units detect. Parity on its side of the bus is one of them.
    event(10 * MINUTE, &[Kind::FatalError, Kind::NonfatalError],      [NN, YY,  O_,  P_,  M_,  M_,  MM,  MM,  MM,  MM,  O_]),
    event(HOUR,        &[Kind::WrongAnswer],                          [NN, PP,  MM,  P_,  MM,  M_,  M_,  MM,  MM,  MM,  O_]),
    event(HOUR,        &[Kind::RuleBroken],                           [NN, YY,  MM,  P_,  MM,  M_,  M_,  MM,  MM,  MM,  O_]),
    // Of a card that its owner drives itself, so no service stands between.
    state(30 * SECOND, &[Kind::NoAnswer],                             [NN, PP,  P_,  O_,  O_,  M_,  M_,  P_,  P_,  M_,  MM]),
    // A request that is known to be good.
    state(30 * SECOND, &[Kind::CheckFailed],                          [NN, PP,  M_,  M_,  O_,  O_,  M_,  M_,  P_,  M_,  MM]),
    state(MINUTE,      &[Kind::AnswersSlow],                          [NN, PP,  O_,  O_,  O_,  P_,  M_,  P_,  P_,  MM,  MM]),
    state(MINUTE,      &[Kind::CardSaysFailed],                       [NN, YY,  MM,  O_,  MM,  MM,  MM,  MM,  MM,  M_,  O_]),
    event(2 * MINUTE,  &[Kind::SilentReboot],                         [NN, YY,  O_,  P_,  MM,  MM,  MM,  MM,  MM,  M_,  O_]),
    event(2 * MINUTE,  &[Kind::SessionsLost],                         [NN, YY,  M_,  M_,  M_,  O_,  O_,  MM,  M_,  O_,  MM]),
    event(2 * MINUTE,  &[Kind::ErrorThenOk],                          [NN, M_,  M_,  M_,  M_,  M_,  M_,  M_,  M_,  PP,  O_]),
    state(MINUTE,      &[Kind::LedFault],                             [NN, PP,  P_,  O_,  MM,  MM,  MM,  MM,  MM,  M_,  O_]),
    // The light and the figures contradict each other: the card's, as the service tells them. Whoever of
    // them is wrong, or reads either wrongly, is not said, and that anything else is wrong neither.
    state(MINUTE,      &[Kind::LightAgainstLoad],                     [M_, P_,  O_,  O_,  O_,  P_,  O_,  O_,  O_,  P_,  P_]),
    // The card's own sensor, against the card's own limit. No process, setting or monitor warms it, nor
    // does its link; a slot that supplies it badly shows in the errors of the link as well.
    state(MINUTE,      &[Kind::OutOfRange],                           [NN, PP,  M_,  O_,  MM,  MM,  MM,  M_,  P_,  MM,  MM]),
    state(HOUR,        &[Kind::FloorTrend],                           [MM, O_,  P_,  O_,  M_,  P_,  PP,  M_,  M_,  O_,  O_]).defining(Cause::ServiceLeak),
    event(HOUR,        &[Kind::FailedOpens],                          [NN, P_,  PP,  P_,  O_,  O_,  PP,  O_,  O_,  P_,  O_]),
    state(30 * SECOND, &[Kind::QueueLong],                            [MM, MM,  MM,  M_,  M_,  M_,  M_,  M_,  PP,  O_,  O_]).defining(Cause::Overload),
    state(30 * SECOND, &[Kind::AcceptQueue],                          [MM, M_,  M_,  M_,  M_,  P_,  O_,  P_,  PP,  O_,  O_]),
    event(10 * MINUTE, &[Kind::Permission],                           [NN, MM,  M_,  MM,  M_,  M_,  O_,  M_,  M_,  PP,  O_]).defining(Cause::Configuration),
    // Most changes break nothing. That there was one in the last day is over when that day is.
    state(12 * HOUR,   &[Kind::RecentChange],                         [P_, O_,  P_,  O_,  P_,  P_,  P_,  O_,  O_,  PP,  P_]),
    state(MINUTE,      &[Kind::OtherCardsToo],                        [MM, MM,  MM,  P_,  P_,  P_,  P_,  PP,  P_,  P_,  PP]),
    state(10 * MINUTE, &[Kind::OnlyOneDiverges],                      [MM, P_,  P_,  P_,  O_,  O_,  O_,  P_,  O_,  O_,  O_]),
    state(30 * SECOND, &[Kind::DeadMan],                              [NN, O_,  O_,  O_,  O_,  O_,  O_,  P_,  O_,  O_,  PP]).defining(Cause::Monitor),
    // The kernel says so. What was killed for its memory may have leaked it.
    state(MINUTE,      &[Kind::OwnerGone],                            [NN, M_,  M_,  M_,  YY,  MM,  P_,  M_,  M_,  O_,  O_]).defining(Cause::ServiceGone),
];

/// What is done to find out.
#[rustfmt::skip]
pub const EFFECTS: [Effects; 7] = [
//                                        none card abs. link gone hang leak host load conf mon.
    tried(Action::RestartService, "the service was restarted",
        /* cured */                      [MM, M_,  NN,  M_,  YY,  YY,  YY,  M_,  O_,  O_,  O_],
        /* unchanged */                  [NN, P_,  P_,  P_,  MM,  NN,  MM,  P_,  O_,  P_,  O_]),
    // With the card in or out: a service that leaks without a card is the service.
    tried(Action::StopService, "the service was stopped",
        /* cured */                      [MM, M_,  O_,  M_,  O_,  P_,  YY,  M_,  P_,  O_,  O_],
        /* unchanged */                  [NN, P_,  P_,  P_,  O_,  MM,  NN,  P_,  MM,  O_,  O_]),
    tried(Action::Drain, "the load was taken away",
        /* cured */                      [MM, M_,  NN,  M_,  MM,  O_,  M_,  P_,  YY,  O_,  O_],
        /* unchanged */                  [NN, P_,  P_,  P_,  P_,  P_,  P_,  O_,  NN,  P_,  O_]),
    tried(Action::ResetFunction, "the function was reset",
        /* cured */                      [MM, YY,  NN,  O_,  MM,  M_,  MM,  M_,  M_,  M_,  M_],
        /* unchanged */                  [NN, O_,  P_,  P_,  P_,  P_,  P_,  P_,  P_,  P_,  P_]),
    // The fault stays with the slot, or follows the card.
    tried(Action::MoveCard, "the card was moved to another slot",
        /* cured */                      [MM, NN,  P_,  YY,  M_,  M_,  M_,  O_,  O_,  O_,  O_],
        /* unchanged */                  [NN, YY,  M_,  NN,  O_,  O_,  O_,  O_,  O_,  O_,  O_]),
    tried(Action::SwapHost, "the card was put into another host",
        /* cured */                      [MM, NN,  M_,  P_,  P_,  P_,  P_,  PP,  P_,  PP,  P_],
        /* unchanged */                  [NN, YY,  M_,  MM,  M_,  M_,  O_,  NN,  M_,  M_,  M_]),
    tried(Action::RollBack, "the version before was put back",
        /* cured */                      [MM, M_,  MM,  MM,  P_,  P_,  P_,  M_,  M_,  YY,  O_],
        /* unchanged */                  [NN, P_,  P_,  P_,  O_,  O_,  O_,  P_,  P_,  MM,  O_]),
];

/// What it tells whether something that was done has helped.
#[derive(Debug)]
pub struct Effects {
    /// What was done.
    pub action: Action,
    /// In words.
    pub summary: &'static str,
    /// What it adds to each hypothesis if the fault was gone after.
    pub cured: [f64; HYPOTHESES.len()],
    /// What it adds if the fault was there as before.
    pub unchanged: [f64; HYPOTHESES.len()],
}

const fn state(half_life: u64, kinds: &'static [Kind], weights: Weights) -> Row {
    Row {
        kinds,
        is_state: true,
        defines: None,
        half_life: Duration::from_secs(half_life),
        weights,
    }
}

const fn event(half_life: u64, kinds: &'static [Kind], weights: Weights) -> Row {
    Row {
        kinds,
        is_state: false,
        defines: None,
        half_life: Duration::from_secs(half_life),
        weights,
    }
}

const fn tried(
    action: Action,
    summary: &'static str,
    cured: Weights,
    unchanged: Weights,
) -> Effects {
    Effects {
        action,
        summary,
        cured,
        unchanged,
    }
}

impl Row {
    const fn defining(self, cause: Cause) -> Self {
        Self {
            defines: Some(cause),
            ..self
        }
    }

    /// How likely it is seen under each hypothesis.
    pub(super) fn chances(&self) -> Weights {
        let mut chances = self.weights;
        for (chance, cause) in chances.iter_mut().zip(HYPOTHESES) {
            let share = if self.defines == Some(cause) {
                1.0
            } else {
                ONE_OF_SEVERAL
            };
            *chance = (SEEN_BY_CHANCE * chance.exp()).min(SEEN_MAX) * share;
        }
        chances
    }

    /// What it adds to each hypothesis if it was looked for and not seen.
    fn absent(&self) -> Weights {
        self.chances().map(|chance| (1.0 - chance).ln())
    }
}

/// In which of [`ROWS`] each kind is, in their order.
static ROW_OF: LazyLock<[usize; Kind::ALL.len()]> = LazyLock::new(|| {
    Kind::ALL.map(|kind| {
        let row = ROWS.iter().position(|row| row.kinds.contains(&kind));
        row.expect("every kind is in the table, which a test holds")
    })
});

/// How likely each of [`ROWS`] is seen under each hypothesis.
static CHANCES: LazyLock<[Weights; ROWS.len()]> =
    LazyLock::new(|| ROWS.each_ref().map(Row::chances));

/// What each of [`ROWS`] adds to each hypothesis if it was looked for and not seen. Monitors weigh
/// every second, and logarithms are most of the work.
pub(super) static ABSENT: LazyLock<[Weights; ROWS.len()]> =
    LazyLock::new(|| ROWS.each_ref().map(Row::absent));

/// What can be seen.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// Our own polls came late.
    OwnLateness,
    /// Pressure, soft interrupts or steal, at the time of what is to be explained.
    HostPressure,
    /// The card's counter stood still in three polls on time.
    CounterFrozen,
    /// The card's counter moves, and the service gives no reply.
    CounterMovesNoReply,
    /// The card's configuration space reads as all-ones.
    ConfigAllOnes,
    /// The kernel has taken the function away.
    NotInSlot,
    /// The link reported errors, at the card or at the port above it.
    Aer,
    /// The link is slower or narrower than both ends can, or repeats more than it should.
    DegradedLink,
    /// The card has counted an error of its own after which it cannot go on.
    FatalError,
    /// The card has counted an error of its own that it could not correct, and went on.
    NonfatalError,
    /// A known-answer test had another answer.
    WrongAnswer,
    /// The bus reported an uncorrectable error of the function.
    BusError,
    /// Completions are found that no interrupt announced, though one was asked for.
    InterruptsLost,
    /// Far more interrupts arrive than there are completions.
    InterruptStorm,
    /// The card broke a rule of its interface.
    RuleBroken,
    /// Requests are not answered in time, though their owner runs.
    NoAnswer,
    /// A known-answer test was answered with an error.
    CheckFailed,
    /// Known-answer tests take several times as long as they did.
    AnswersSlow,
    /// The card says of itself that it has failed.
    CardSaysFailed,
    /// The firmware has started anew without being asked.
    SilentReboot,
    /// The card forgot sessions, and the keys in them, without a reset.
    SessionsLost,
    /// Some commands fail, and the next one succeeds.
    ErrorThenOk,
    /// The light signals a fault.
    LedFault,
    /// The light blinks otherwise than the card is said to be busy.
    LightAgainstLoad,
    /// A temperature or a voltage is where it must not be.
    OutOfRange,
    /// What the service holds at its quietest grows.
    FloorTrend,
    /// What it holds grows with failed opens.
    FailedOpens,
    /// The queue is long, the card busy, and latency goes with load.
    QueueLong,
    /// Clients wait to be accepted while the queues are empty.
    AcceptQueue,
    /// Something may not be opened, is not there, or there is no room for it.
    Permission,
    /// Something was changed in the last 24 hours.
    RecentChange,
    /// Other cards of this host are hit too.
    OtherCardsToo,
    /// Of several hosts alike, only this one diverges.
    OnlyOneDiverges,
    /// Whoever watches the monitor says that it does not move.
    DeadMan,
    /// The process that owned the card has ended.
    OwnerGone,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 35] = [
        Self::OwnLateness,
        Self::HostPressure,
        Self::CounterFrozen,
        Self::CounterMovesNoReply,
        Self::ConfigAllOnes,
        Self::NotInSlot,
        Self::Aer,
        Self::DegradedLink,
        Self::FatalError,
        Self::NonfatalError,
        Self::WrongAnswer,
        Self::BusError,
        Self::InterruptsLost,
        Self::InterruptStorm,
        Self::RuleBroken,
        Self::NoAnswer,
        Self::CheckFailed,
        Self::AnswersSlow,
        Self::CardSaysFailed,
        Self::SilentReboot,
        Self::SessionsLost,
        Self::ErrorThenOk,
        Self::LedFault,
        Self::LightAgainstLoad,
        Self::OutOfRange,
        Self::FloorTrend,
        Self::FailedOpens,
        Self::QueueLong,
        Self::AcceptQueue,
        Self::Permission,
        Self::RecentChange,
        Self::OtherCardsToo,
        Self::OnlyOneDiverges,
        Self::DeadMan,
        Self::OwnerGone,
    ];

    /// What is seen of the host, and of this program on it, and of nothing else.
    pub(super) const OF_THE_HOST: [Self; 3] =
        [Self::OwnLateness, Self::HostPressure, Self::DeadMan];

    /// What is seen of the callers, and of nothing else: what they ask for cannot be done by software
    /// either.
    pub(super) const OF_THE_CALLERS: [Self; 1] = [Self::ErrorThenOk];

    /// Its name, which is the code of the evidence.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OwnLateness => "own-lateness",
            Self::HostPressure => "host-pressure",
            Self::CounterFrozen => "counter-frozen",
            Self::CounterMovesNoReply => "counter-moves-no-reply",
            Self::ConfigAllOnes => "config-all-ones",
            Self::NotInSlot => "not-in-slot",
            Self::Aer => "aer",
            Self::DegradedLink => "degraded-link",
            Self::FatalError => "fatal-error",
            Self::NonfatalError => "nonfatal-error",
            Self::WrongAnswer => "wrong-answer",
            Self::BusError => "bus-error",
            Self::InterruptsLost => "interrupts-lost",
            Self::InterruptStorm => "interrupt-storm",
            Self::RuleBroken => "rule-broken",
            Self::NoAnswer => "no-answer",
            Self::CheckFailed => "check-failed",
            Self::AnswersSlow => "answers-slow",
            Self::CardSaysFailed => "card-says-failed",
            Self::SilentReboot => "silent-reboot",
            Self::SessionsLost => "sessions-lost",
            Self::ErrorThenOk => "error-then-ok",
            Self::LedFault => "led-fault",
            Self::LightAgainstLoad => "light-against-load",
            Self::OutOfRange => "out-of-range",
            Self::FloorTrend => "floor-trend",
            Self::FailedOpens => "failed-opens",
            Self::QueueLong => "queue-long",
            Self::AcceptQueue => "accept-queue",
            Self::Permission => "permission",
            Self::RecentChange => "recent-change",
            Self::OtherCardsToo => "other-cards-too",
            Self::OnlyOneDiverges => "only-one-diverges",
            Self::DeadMan => "dead-man",
            Self::OwnerGone => "owner-gone",
        }
    }

    /// Its row.
    #[must_use]
    pub fn row(self) -> &'static Row {
        &ROWS[ROW_OF[self as usize]]
    }

    /// How likely any of its row is seen under each hypothesis.
    pub(super) fn chances(self) -> &'static Weights {
        &CHANCES[ROW_OF[self as usize]]
    }

    /// It tells half as much when it was seen so long ago.
    #[must_use]
    pub fn half_life(self) -> Duration {
        self.row().half_life
    }

    /// Whether it is no matter of time: who does not get to run in time, or waits for who does not,
    /// cannot bring it about.
    #[must_use]
    pub const fn is_no_matter_of_time(self) -> bool {
        matches!(
            self,
            Self::FatalError
                | Self::NonfatalError
                | Self::WrongAnswer
                | Self::RuleBroken
                | Self::CheckFailed
                | Self::CardSaysFailed
                | Self::SilentReboot
                | Self::SessionsLost
                | Self::LedFault
                | Self::OutOfRange
        )
    }

    /// Whether it is over when it is not seen any more.
    #[must_use]
    pub fn is_state(self) -> bool {
        self.row().is_state
    }
}

/// What can be done to find out.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Action {
    /// Restart the service.
    RestartService,
    /// Stop the service, with the card in or out.
    StopService,
    /// Take the load away.
    Drain,
    /// Reset the function.
    ResetFunction,
    /// Move the card to another slot.
    MoveCard,
    /// Put the card into another host.
    SwapHost,
    /// Put the version before back.
    RollBack,
}

impl Action {
    /// Its name, which is the code of the evidence.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RestartService => "service-restarted",
            Self::StopService => "service-stopped",
            Self::Drain => "drained",
            Self::ResetFunction => "function-reset",
            Self::MoveCard => "card-moved",
            Self::SwapHost => "host-swapped",
            Self::RollBack => "rolled-back",
        }
    }

    /// What it tells.
    #[must_use]
    pub fn effects(self) -> &'static Effects {
        let effects = EFFECTS.iter().find(|effects| effects.action == self);
        effects.expect("every action is in the table, which a test holds")
    }
}
