//! What can go wrong: what a card can have, an error of the bus, and what a host can have.

use fastrand::Rng;
use firmware_sim::fault::{Cause, Fault, HangEnd};
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

    /// What a monitor may be asked about: storms that last, and nothing twice.
    #[must_use]
    pub fn watchable() -> Vec<Self> {
        let calm = |trouble| match trouble {
            Self::Card(Fault::InterruptStorm { vector, .. }) => Self::Card(Fault::InterruptStorm {
                rate: 500.0,
                vector,
            }),
            other => other,
        };
        Self::all().into_iter().map(calm).collect()
    }

    /// What is at fault then.
    #[must_use]
    pub fn truth(&self) -> Cause {
        match self {
            Self::Card(fault) => fault.entry().truth.cause,
            Self::BusError => Cause::Link,
            Self::Host(_) => Cause::Host,
        }
    }

    /// For how long it may be simulated: each interrupt of a storm is an event.
    #[must_use]
    pub const fn longest(&self) -> Duration {
        match self {
            Self::Card(Fault::InterruptStorm { rate, .. }) if *rate > 1000.0 => {
                Duration::from_secs(2)
            }
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
        let all = Trouble::all();
        for (index, trouble) in all.iter().enumerate() {
            assert_eq!(trouble.to_string().parse().as_ref(), Ok(trouble));
            let same = |other: &Trouble| other.to_string() == trouble.to_string();
            assert_eq!(all.iter().position(same), Some(index), "{trouble}");
        }
    }
}
