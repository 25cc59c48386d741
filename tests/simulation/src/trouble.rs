//! What can go wrong: what a card can have, an error of the bus, and what a host can have.

use fastrand::Rng;
use firmware_sim::fault::{Fault, HangEnd};
use monitor::verdict::Cause;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Something that can go wrong.
#[derive(Clone, Debug, PartialEq)]
pub enum Trouble {
    /// A fault of the card, its link or its light.
    Card(Fault),
    /// The bus reports an uncorrectable error, once.
    BusError,
    /// The host does not let its processes run; the card goes on.
    Host(HostTrouble),
    /// Something beside the card, which only a monitor notices.
    Mishap(Mishap),
}

/// What a host can have that makes a card look bad.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HostTrouble {
    /// Processes get the CPU now and then.
    CpuStarvation,
    /// Interrupt handling takes a CPU for itself for ten seconds at a time.
    SoftirqStorm,
    /// The hypervisor gives the time to others.
    Steal,
    /// Whoever wants memory waits for it.
    MemoryPressure,
    /// The monitor is stopped by a signal, and goes on later.
    MonitorStopped,
}

/// What goes wrong beside the card: with the host service, the load, the settings and the monitor.
/// Router and driver notice nothing of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mishap {
    /// The service has ended.
    ServiceCrash,
    /// It takes connections and answers nothing.
    ServiceHang,
    /// It takes no connections.
    ServiceRefuses,
    /// It hardly ever takes one.
    AcceptStall,
    /// It answers how it is, and does no work.
    WorkersExhausted,
    /// It leaks memory of its own.
    LeakHeap,
    /// It leaks memory of the kernel.
    LeakKernel,
    /// It leaks descriptors.
    LeakDescriptors,
    /// It leaks threads.
    LeakThreads,
    /// It leaks a port with each open that fails.
    LeakPortsOnFailure,
    /// Its card was taken out, and it leaks memory of the kernel since.
    LeakWhileAbsent,
    /// More ports are opened than were, and each is held for its time. Nothing is wrong.
    DelayedRecycle,
    /// Twice as much is asked of the service as it can do.
    Overload,
    /// Its control group may have half of the processor time that the service needs.
    CpuQuota,
    /// Callers use a key that does not fit.
    BadKey,
    /// The monitor may not read any more what it has to.
    PermissionLost,
    /// What the monitor writes takes seconds to be durable, and it waits for that.
    SlowFsync,
    /// The monitor can open no file any more.
    DescriptorsExhausted,
    /// The monitor gets to run late, and nobody else does.
    MonitorStarved,
}

impl Mishap {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::ServiceCrash,
        Self::ServiceHang,
        Self::ServiceRefuses,
        Self::AcceptStall,
        Self::WorkersExhausted,
        Self::LeakHeap,
        Self::LeakKernel,
        Self::LeakDescriptors,
        Self::LeakThreads,
        Self::LeakPortsOnFailure,
        Self::LeakWhileAbsent,
        Self::DelayedRecycle,
        Self::Overload,
        Self::CpuQuota,
        Self::BadKey,
        Self::PermissionLost,
        Self::SlowFsync,
        Self::DescriptorsExhausted,
        Self::MonitorStarved,
    ];

    /// The name, in the catalogue of faults if it stands there.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ServiceCrash => "crash",
            Self::ServiceHang => "hang-after-accept",
            Self::ServiceRefuses => "refuse",
            Self::AcceptStall => "accept-stall",
            Self::WorkersExhausted => "workers-exhausted",
            Self::LeakHeap => "leak-heap",
            Self::LeakKernel => "leak-kernel",
            Self::LeakDescriptors => "leak-descriptors",
            Self::LeakThreads => "leak-threads",
            Self::LeakPortsOnFailure => "leak-ports-on-failure",
            Self::LeakWhileAbsent => "leak-while-absent",
            Self::DelayedRecycle => "delayed-recycle",
            Self::Overload => "overload",
            Self::CpuQuota => "cpu-quota",
            Self::BadKey => "bad-key",
            Self::PermissionLost => "permission-lost",
            Self::SlowFsync => "slow-fsync",
            Self::DescriptorsExhausted => "descriptors-exhausted",
            Self::MonitorStarved => "monitor-starved",
        }
    }

    /// Whether it shows within hours only.
    pub(crate) const fn takes_hours(self) -> bool {
        matches!(
            self,
            Self::LeakHeap
                | Self::LeakKernel
                | Self::LeakDescriptors
                | Self::LeakThreads
                | Self::LeakPortsOnFailure
                | Self::LeakWhileAbsent
                | Self::DelayedRecycle
        )
    }

    /// Whether a service that had it is started again.
    pub(crate) const fn needs_a_restart(self) -> bool {
        matches!(
            self,
            Self::ServiceCrash
                | Self::ServiceHang
                | Self::ServiceRefuses
                | Self::AcceptStall
                | Self::WorkersExhausted
        ) || self.takes_hours()
    }

    const fn truth(self) -> Truth {
        match self {
            Self::ServiceCrash
            | Self::ServiceHang
            | Self::ServiceRefuses
            | Self::AcceptStall
            | Self::WorkersExhausted => Truth::Service,
            Self::LeakHeap
            | Self::LeakKernel
            | Self::LeakDescriptors
            | Self::LeakThreads
            | Self::LeakPortsOnFailure
            | Self::LeakWhileAbsent => Truth::Leak,
            Self::DelayedRecycle => Truth::None,
            Self::Overload | Self::CpuQuota => Truth::Overload,
            Self::BadKey | Self::PermissionLost => Truth::Configuration,
            Self::SlowFsync | Self::DescriptorsExhausted | Self::MonitorStarved => Truth::Host,
        }
    }
}

/// What is at fault, as the simulation knows and the monitor has to find out.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Truth {
    /// Nothing is.
    None,
    /// The card.
    Card,
    /// That there is no card.
    CardAbsent,
    /// The link.
    Link,
    /// The service does not serve.
    Service,
    /// The service leaks.
    Leak,
    /// The host, or the monitor on it.
    Host,
    /// More is asked for than can be given.
    Overload,
    /// A setting or a permission.
    Configuration,
}

impl Truth {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Card => "card",
            Self::CardAbsent => "card-absent",
            Self::Link => "link",
            Self::Service => "service",
            Self::Leak => "service-leak",
            Self::Host => "host",
            Self::Overload => "overload",
            Self::Configuration => "configuration",
        }
    }

    /// Whether `cause` is a name of it: which of several things is wrong with a service or a host
    /// is not told apart here.
    #[must_use]
    pub const fn is_named(self, cause: Cause) -> bool {
        matches!(
            (self, cause),
            (Self::Card, Cause::Card)
                | (Self::CardAbsent, Cause::CardAbsent)
                | (Self::Link, Cause::Link)
                | (Self::Service, Cause::ServiceGone | Cause::ServiceHang)
                | (Self::Leak, Cause::ServiceLeak)
                | (Self::Host, Cause::HostStarvation | Cause::Monitor)
                | (Self::Overload, Cause::Overload)
                // A monitor that may not look says of itself that it may not.
                | (Self::Configuration, Cause::Configuration | Cause::Monitor)
        )
    }
}

impl From<firmware_sim::fault::Cause> for Truth {
    fn from(cause: firmware_sim::fault::Cause) -> Self {
        use firmware_sim::fault::Cause as Of;
        match cause {
            Of::None => Self::None,
            Of::Card => Self::Card,
            Of::CardAbsent => Self::CardAbsent,
            Of::Link => Self::Link,
            Of::Service => Self::Service,
            Of::Host => Self::Host,
        }
    }
}

impl HostTrouble {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::CpuStarvation,
        Self::SoftirqStorm,
        Self::Steal,
        Self::MemoryPressure,
        Self::MonitorStopped,
    ];

    /// The name in the catalogue of faults.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CpuStarvation => "cpu-starvation",
            Self::SoftirqStorm => "softirq-storm",
            Self::Steal => "steal",
            Self::MemoryPressure => "memory-pressure",
            Self::MonitorStopped => "monitor-stopped",
        }
    }

    /// For how long nothing runs at a time, and for how long everything does in between.
    pub(crate) fn stall(self, rng: &mut Rng) -> (Duration, Duration) {
        let millis =
            |range: std::ops::Range<u64>, rng: &mut Rng| Duration::from_millis(rng.u64(range));
        match self {
            Self::CpuStarvation => (millis(200..2000, rng), millis(100..1500, rng)),
            // As long as the one that a call centre's heartbeats were lost in.
            Self::SoftirqStorm => (millis(9000..11000, rng), millis(5000..15000, rng)),
            Self::Steal => (millis(500..5000, rng), millis(1000..10_000, rng)),
            Self::MemoryPressure => (millis(50..800, rng), millis(200..1500, rng)),
            Self::MonitorStopped => (Duration::ZERO, Duration::MAX),
        }
    }
}

impl Trouble {
    /// Everything that can go wrong.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let more = [
            Fault::Hang {
                until: HangEnd::Reset,
            },
            Fault::Slow { factor: 100.0 },
            Fault::Slow { factor: 10_000.0 },
            // Of a length that a signature may have.
            Fault::OverlongResult { bytes: 1 },
        ];
        let faults = Fault::all().into_iter().chain(more).map(Self::Card);
        let hosts = HostTrouble::ALL.map(Self::Host);
        faults.chain([Self::BusError]).chain(hosts).collect()
    }

    /// Those that make answers wrong.
    #[must_use]
    pub fn lies() -> Vec<Self> {
        Self::all().into_iter().filter(Self::is_a_lie).collect()
    }

    /// What a monitor may be asked about: storms that last, what is beside the card too, and
    /// nothing twice.
    #[must_use]
    pub fn watchable() -> Vec<Self> {
        let calm = |trouble| match trouble {
            Self::Card(Fault::InterruptStorm { vector, .. }) => Self::Card(Fault::InterruptStorm {
                rate: 500.0,
                vector,
            }),
            other => other,
        };
        let mishaps = Mishap::ALL.map(Self::Mishap);
        Self::all().into_iter().map(calm).chain(mishaps).collect()
    }

    /// Whether anything that a driver or a monitor can read differs for it. Writes into memory that
    /// nobody uses change no answer, no counter and no page, so nobody can be asked about them.
    #[must_use]
    pub const fn leaves_a_trace(&self) -> bool {
        !matches!(self, Self::Card(Fault::DmaGarbage { .. }))
    }

    /// Whether it shows within hours only, which then are lived through minute by minute.
    #[must_use]
    pub const fn takes_hours(&self) -> bool {
        matches!(self, Self::Mishap(mishap) if mishap.takes_hours())
    }

    /// What is at fault then.
    #[must_use]
    pub fn truth(&self) -> Truth {
        match self {
            Self::Card(fault) => fault.entry().truth.cause.into(),
            Self::BusError => Truth::Link,
            Self::Host(_) => Truth::Host,
            Self::Mishap(mishap) => mishap.truth(),
        }
    }

    /// What is so besides, and may be named as well.
    #[must_use]
    pub const fn besides(&self) -> Option<Truth> {
        match self {
            Self::Mishap(Mishap::LeakWhileAbsent) => Some(Truth::CardAbsent),
            _ => None,
        }
    }

    /// Whether nothing of `other` can be seen beside it: a card that is away shows neither its own
    /// faults nor those of its link, and a monitor that sees nothing shows nothing; one that is stopped
    /// sees nothing either that takes several looks.
    #[must_use]
    pub fn hides(&self, other: &Self) -> bool {
        let hides_the_card = matches!(
            self,
            Self::Card(Fault::SurpriseRemoval | Fault::AllOnes)
                | Self::Mishap(Mishap::PermissionLost | Mishap::DescriptorsExhausted)
                | Self::Host(HostTrouble::MonitorStopped)
        );
        let takes_looks = matches!(
            other,
            Self::Mishap(
                Mishap::ServiceHang
                    | Mishap::AcceptStall
                    | Mishap::WorkersExhausted
                    | Mishap::Overload
                    | Mishap::CpuQuota
            )
        );
        let is_stopped = matches!(self, Self::Host(HostTrouble::MonitorStopped));
        hides_the_card && matches!(other, Self::Card(_) | Self::BusError)
            || is_stopped && takes_looks
    }

    /// Whether there can be only one of the two at a time: a simulated service suffers one thing, as
    /// does a host, and what came last took the place of what was.
    #[must_use]
    pub const fn displaces(&self, other: &Self) -> bool {
        matches!(
            (self, other),
            (Self::Mishap(_), Self::Mishap(_)) | (Self::Host(_), Self::Host(_))
        )
    }

    /// For how long it may be simulated: each interrupt of a storm is an event.
    #[must_use]
    pub const fn longest(&self) -> Duration {
        match self {
            Self::Card(Fault::InterruptStorm { rate, .. }) if *rate > 1000.0 => {
                Duration::from_secs(2)
            }
            _ if self.takes_hours() => Duration::from_secs(8 * 3600),
            _ => Duration::from_secs(20 * 60),
        }
    }

    /// Whether it makes answers wrong, each time it acts.
    #[must_use]
    pub const fn is_a_lie(&self) -> bool {
        matches!(
            self,
            Self::Card(
                Fault::FlippedBit
                    | Fault::CrtFault
                    | Fault::WrongMessage
                    | Fault::RepeatedNonce
                    | Fault::ShortResult { .. }
                    | Fault::RngStuck
            )
        )
    }
}

/// By its name, and parameters that are not the usual ones.
impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Card(fault) if Fault::named(fault.name()).as_ref() == Ok(fault) => {
                f.pad(fault.name())
            }
            Self::Card(fault) => f.pad(&fault.to_string()),
            Self::BusError => f.pad("bus-error"),
            Self::Host(trouble) => f.pad(trouble.name()),
            Self::Mishap(mishap) => f.pad(mishap.name()),
        }
    }
}

impl FromStr for Trouble {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "bus-error" {
            return Ok(Self::BusError);
        }
        let host = HostTrouble::ALL.into_iter().find(|it| it.name() == text);
        if let Some(host) = host {
            return Ok(Self::Host(host));
        }
        let mishap = Mishap::ALL.into_iter().find(|it| it.name() == text);
        if let Some(mishap) = mishap {
            return Ok(Self::Mishap(mishap));
        }
        let fault = text.parse::<Fault>().map_err(|error| error.to_string())?;
        Ok(Self::Card(fault))
    }
}

/// Several, by name and separated by commas; the parameters of each, which commas separate too, stay
/// with it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Troubles(pub Vec<Trouble>);

impl FromStr for Troubles {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut texts: Vec<String> = Vec::new();
        for part in text.split(',') {
            // No parameter is called as a fault is, which a test holds.
            let is_parameter = part
                .split_once('=')
                .is_some_and(|(name, _)| name.parse::<Trouble>().is_err());
            match texts.last_mut().filter(|_| is_parameter) {
                Some(last) => {
                    last.push(',');
                    last.push_str(part);
                }
                None => texts.push(part.to_owned()),
            }
        }
        let troubles = texts.iter().map(|text| text.parse());
        troubles.collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_leaves_each_fault_its_parameters() {
        let all = Trouble::all();
        let text: Vec<_> = all.iter().map(Trouble::to_string).collect();
        assert_eq!(text.join(",").parse(), Ok(Troubles(all)));
        let few: Troubles = "downtrained=2,speed=3,hang=reset,slow=3".parse().unwrap();
        let few: Vec<_> = few.0.iter().map(Trouble::to_string).collect();
        assert_eq!(few, ["downtrained=2,speed=3", "hang=reset", "slow=3"]);
        for wrong in ["hagn=3", "speed=3", "hang,sped=3"] {
            wrong.parse::<Troubles>().unwrap_err();
        }
        for fault in Fault::all() {
            for (parameter, _) in fault.values() {
                parameter.parse::<Trouble>().unwrap_err();
            }
        }
    }

    #[test]
    fn each_is_read_as_it_is_written_and_none_stands_there_twice() {
        let mut all = Trouble::all();
        all.extend(Mishap::ALL.map(Trouble::Mishap));
        for (index, trouble) in all.iter().enumerate() {
            assert_eq!(trouble.to_string().parse().as_ref(), Ok(trouble));
            let same = |other: &Trouble| other.to_string() == trouble.to_string();
            assert_eq!(all.iter().position(same), Some(index), "{trouble}");
        }
    }
}
