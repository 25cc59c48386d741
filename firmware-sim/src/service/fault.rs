//! What can go wrong with a host service: names, parameters, and how they are written.
//!
//! A fault is a value here. What it does is done by who holds it.

use crate::fault::{Cause, Entry, Group, Observable, Parameter, Player, Truth};
use crate::nearest;
use crate::service::quantity::{Rate, Unit};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// One way in which a host service goes wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum ServiceFault {
    /// It aborts.
    Crash {
        /// When it has taken this many more commands.
        after: u64,
    },
    /// It accepts connections and answers nothing.
    HangAfterAccept,
    /// It refuses connections.
    Refuse,
    /// It accepts connections one at a time.
    AcceptStall {
        /// Time between two of them.
        every: Duration,
    },
    /// It leaks memory of its own.
    LeakHeap {
        /// Bytes.
        rate: Rate,
    },
    /// It leaks memory of the kernel that no descriptor shows.
    LeakKernel {
        /// Bytes.
        rate: Rate,
        /// Which.
        via: KernelMemory,
    },
    /// It leaks descriptors.
    LeakDescriptors {
        /// Objects.
        rate: Rate,
    },
    /// It leaks threads.
    LeakThreads {
        /// Objects.
        rate: Rate,
    },
    /// It leaks the callback ports of opens that fail, and of no others, as Windows 2000 did
    /// (Microsoft KB814622).
    LeakPortsOnFailure {
        /// Ports, per failed open.
        count: u64,
    },
    /// It leaks as long as there is no card.
    LeakWhileAbsent {
        /// Bytes or objects, as `what` is.
        rate: Rate,
        /// What it leaks.
        what: Resource,
    },
    /// All its workers are stuck.
    WorkersExhausted,
    /// What is computed through it is wrong.
    WrongAnswer,
    /// The callback ports of closed sessions are released late, in the story of KB814622 240 s.
    DelayedRecycle {
        /// How long after the close.
        after: Duration,
    },
    /// What it has leaked does not show in what it says that it holds.
    LedgerLies,
}

/// What can be leaked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Resource {
    /// Memory of the process.
    Heap,
    /// Memory of the kernel.
    Kernel(KernelMemory),
    /// Open files.
    Descriptors,
    /// Threads.
    Threads,
    /// Listening TCP ports of the loopback interface.
    Ports,
}

impl Resource {
    /// What it is counted in.
    #[must_use]
    pub fn unit(self) -> Unit {
        match self {
            Self::Heap | Self::Kernel(_) => Unit::Bytes,
            Self::Descriptors | Self::Threads | Self::Ports => Unit::Objects,
        }
    }
}

/// Where memory of the kernel is held.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KernelMemory {
    /// In pipes that nobody reads.
    Pipes,
    /// In TCP connections that nobody reads.
    Sockets,
}

const fn parameter(name: &'static str, summary: &'static str) -> Parameter {
    Parameter { name, summary }
}

const fn entry(
    name: &'static str,
    summary: &'static str,
    parameters: &'static [Parameter],
    cause: Cause,
    observable: Observable,
) -> Entry {
    Entry {
        name,
        group: Group::Service,
        summary,
        parameters,
        truth: Truth { cause, observable },
        played_by: Player::StandIn,
    }
}

const BYTE_RATE: Parameter = parameter("rate", "such as 1MiB/s or 64KiB/failed-open");
const OBJECT_RATE: Parameter = parameter("rate", "such as 20/min or 1/failed-open");
const VIA: Parameter = parameter(
    "via",
    "pipes, of which users may fill 64 MiB, or sockets [pipes]",
);

pub(crate) const CRASH: Entry = entry(
    "crash",
    "aborts (SIGABRT)",
    &[parameter("after", "commands that it still takes [0]")],
    Cause::Service,
    Observable::AtOnce,
);
pub(crate) const HANG_AFTER_ACCEPT: Entry = entry(
    "hang-after-accept",
    "accepts connections and answers nothing",
    &[],
    Cause::Service,
    Observable::NextRequest,
);
pub(crate) const REFUSE: Entry = entry(
    "refuse",
    "refuses connections; those there are live on",
    &[],
    Cause::Service,
    Observable::NextRequest,
);
pub(crate) const ACCEPT_STALL: Entry = entry(
    "accept-stall",
    "accepts connections one at a time, slowly",
    &[parameter("every", "time between two [5s]")],
    Cause::Service,
    Observable::NextRequest,
);
pub(crate) const LEAK_HEAP: Entry = entry(
    "leak-heap",
    "leaks memory of its own",
    &[BYTE_RATE],
    Cause::Service,
    Observable::Trend,
);
pub(crate) const LEAK_KERNEL: Entry = entry(
    "leak-kernel",
    "leaks kernel memory that none of its descriptors shows",
    &[BYTE_RATE, VIA],
    Cause::Service,
    Observable::Trend,
);
pub(crate) const LEAK_DESCRIPTORS: Entry = entry(
    "leak-descriptors",
    "leaks open files",
    &[OBJECT_RATE],
    Cause::Service,
    Observable::Trend,
);
pub(crate) const LEAK_THREADS: Entry = entry(
    "leak-threads",
    "leaks threads",
    &[OBJECT_RATE],
    Cause::Service,
    Observable::Trend,
);
pub(crate) const LEAK_PORTS_ON_FAILURE: Entry = entry(
    "leak-ports-on-failure",
    "leaks the TCP ports of opens that fail",
    &[parameter("count", "ports per failed open [1]")],
    Cause::Service,
    Observable::Trend,
);
pub(crate) const LEAK_WHILE_ABSENT: Entry = entry(
    "leak-while-absent",
    "leaks as long as there is no card",
    &[
        parameter("rate", "as the others have it"),
        parameter(
            "what",
            "heap, kernel, descriptors, threads or ports [kernel]",
        ),
        VIA,
    ],
    Cause::Service,
    Observable::Trend,
);
pub(crate) const WORKERS_EXHAUSTED: Entry = entry(
    "workers-exhausted",
    "all workers are stuck: requests wait, statistics are still answered",
    &[],
    Cause::Service,
    Observable::NextRequest,
);
pub(crate) const WRONG_ANSWER: Entry = entry(
    "wrong-answer",
    "what it has computed is wrong: known-answer tests through it fail",
    &[],
    Cause::Service,
    Observable::NextRequest,
);
/// No leak, though it looks like one until the first ports come back.
pub(crate) const DELAYED_RECYCLE: Entry = entry(
    "delayed-recycle",
    "releases the port of a closed session late",
    &[parameter("after", "time after the close [240s]")],
    Cause::None,
    Observable::Trend,
);
pub(crate) const LEDGER_LIES: Entry = entry(
    "ledger-lies",
    "what has leaked is missing in stattree",
    &[],
    Cause::Service,
    Observable::Trend,
);

/// Every fault of a service, in the order in which they are listed.
const CATALOGUE: &[Entry] = &[
    CRASH,
    HANG_AFTER_ACCEPT,
    REFUSE,
    ACCEPT_STALL,
    LEAK_HEAP,
    LEAK_KERNEL,
    LEAK_DESCRIPTORS,
    LEAK_THREADS,
    LEAK_PORTS_ON_FAILURE,
    LEAK_WHILE_ABSENT,
    WORKERS_EXHAUSTED,
    WRONG_ANSWER,
    DELAYED_RECYCLE,
    LEDGER_LIES,
];

/// The value of a parameter that is not given, if it need not be.
pub(crate) fn default_of(fault: &str, parameter: &str) -> Option<&'static str> {
    match (fault, parameter) {
        ("crash", "after") => Some("0"),
        ("accept-stall", "every") => Some("5s"),
        ("leak-kernel" | "leak-while-absent", "via") => Some("pipes"),
        ("leak-ports-on-failure", "count") => Some("1"),
        ("leak-while-absent", "what") => Some("kernel"),
        ("delayed-recycle", "after") => Some("240s"),
        _ => None,
    }
}

impl ServiceFault {
    /// Every fault there is, by name.
    #[must_use]
    pub const fn catalogue() -> &'static [Entry] {
        CATALOGUE
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Crash { .. } => "crash",
            Self::HangAfterAccept => "hang-after-accept",
            Self::Refuse => "refuse",
            Self::AcceptStall { .. } => "accept-stall",
            Self::LeakHeap { .. } => "leak-heap",
            Self::LeakKernel { .. } => "leak-kernel",
            Self::LeakDescriptors { .. } => "leak-descriptors",
            Self::LeakThreads { .. } => "leak-threads",
            Self::LeakPortsOnFailure { .. } => "leak-ports-on-failure",
            Self::LeakWhileAbsent { .. } => "leak-while-absent",
            Self::WorkersExhausted => "workers-exhausted",
            Self::WrongAnswer => "wrong-answer",
            Self::DelayedRecycle { .. } => "delayed-recycle",
            Self::LedgerLies => "ledger-lies",
        }
    }

    /// Makes a fault of a name and of parameters as they were written.
    ///
    /// # Errors
    ///
    /// See [`FaultError`].
    pub fn parse(name: &str, parameters: &[(&str, &str)]) -> Result<Self, FaultError> {
        let entry = entry_named(name)?;
        let given = Given::check(entry, parameters)?;
        let kernel = || given.parse("via", "pipes or sockets", kernel_memory);
        Ok(match entry.name {
            "crash" => Self::Crash {
                after: given.parse("after", "a number of commands", whole_number)?,
            },
            "hang-after-accept" => Self::HangAfterAccept,
            "refuse" => Self::Refuse,
            "accept-stall" => Self::AcceptStall {
                every: given.duration("every")?,
            },
            "leak-heap" => Self::LeakHeap {
                rate: given.rate(Unit::Bytes)?,
            },
            "leak-kernel" => Self::LeakKernel {
                rate: given.rate(Unit::Bytes)?,
                via: kernel()?,
            },
            "leak-descriptors" => Self::LeakDescriptors {
                rate: given.rate(Unit::Objects)?,
            },
            "leak-threads" => Self::LeakThreads {
                rate: given.rate(Unit::Objects)?,
            },
            "leak-ports-on-failure" => Self::LeakPortsOnFailure {
                count: given.parse("count", "a number of ports from 1 on", |text| {
                    whole_number(text).filter(|&count| count > 0)
                })?,
            },
            "leak-while-absent" => {
                let via = kernel()?;
                let wanted = "heap, kernel, descriptors, threads or ports";
                let what = given.parse("what", wanted, |text| resource(text, via))?;
                let rate = given.rate(what.unit())?;
                Self::LeakWhileAbsent { rate, what }
            }
            "workers-exhausted" => Self::WorkersExhausted,
            "wrong-answer" => Self::WrongAnswer,
            "delayed-recycle" => Self::DelayedRecycle {
                after: given.duration("after")?,
            },
            "ledger-lies" => Self::LedgerLies,
            other => unreachable!("{other} is in the catalogue and not here"),
        })
    }
}

/// As on a command line: `NAME`, `NAME=VALUE`, `NAME=VALUE,PARAMETER=VALUE`.
impl FromStr for ServiceFault {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        let (name, values) = match text.split_once('=') {
            Some((name, values)) => (name, Some(values)),
            None => (text, None),
        };
        let entry = entry_named(name)?;
        let mut parameters = Vec::new();
        for (index, value) in values
            .iter()
            .flat_map(|values| values.split(','))
            .enumerate()
        {
            match (value.split_once('='), entry.parameters.first()) {
                (Some(parameter), _) => parameters.push(parameter),
                (None, Some(first)) if index == 0 => parameters.push((first.name, value)),
                (None, _) => {
                    return Err(FaultError::Unnamed {
                        fault: entry.name,
                        value: value.to_owned(),
                        takes: takes(entry),
                    });
                }
            }
        }
        Self::parse(name, &parameters)
    }
}

/// As on a command line.
impl fmt::Display for ServiceFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name();
        match self {
            Self::HangAfterAccept
            | Self::Refuse
            | Self::WorkersExhausted
            | Self::WrongAnswer
            | Self::LedgerLies => f.write_str(name),
            Self::Crash { after } => write!(f, "{name}={after}"),
            Self::AcceptStall { every: time } | Self::DelayedRecycle { after: time } => {
                write!(f, "{name}={}", humantime::format_duration(*time))
            }
            Self::LeakHeap { rate }
            | Self::LeakDescriptors { rate }
            | Self::LeakThreads { rate } => write!(f, "{name}={rate}"),
            Self::LeakKernel { rate, via } => write!(f, "{name}={rate},via={via}"),
            Self::LeakPortsOnFailure { count } => write!(f, "{name}={count}"),
            Self::LeakWhileAbsent { rate, what } => write!(f, "{name}={rate},what={what}"),
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Heap => f.write_str("heap"),
            Self::Kernel(via) => write!(f, "kernel,via={via}"),
            Self::Descriptors => f.write_str("descriptors"),
            Self::Threads => f.write_str("threads"),
            Self::Ports => f.write_str("ports"),
        }
    }
}

impl fmt::Display for KernelMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pipes => "pipes",
            Self::Sockets => "sockets",
        })
    }
}

/// A fault was described wrongly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FaultError {
    /// There is none of that name.
    #[error("there is no fault `{found}`; {hint}")]
    Unknown {
        /// The name.
        found: String,
        /// Which name was meant, or all.
        hint: String,
    },
    /// It has no such parameter.
    #[error("{fault} has no parameter `{found}`; {hint}")]
    UnknownParameter {
        /// The fault.
        fault: &'static str,
        /// The parameter.
        found: String,
        /// Which one was meant, or all.
        hint: String,
    },
    /// A value stands alone where only named ones can.
    #[error("{fault}: `{value}` says no parameter; {takes}")]
    Unnamed {
        /// The fault.
        fault: &'static str,
        /// The value.
        value: String,
        /// What can be given.
        takes: String,
    },
    /// A parameter is given twice.
    #[error("{fault}: `{parameter}` is given twice")]
    Twice {
        /// The fault.
        fault: &'static str,
        /// The parameter.
        parameter: &'static str,
    },
    /// A parameter that has no default is not given.
    #[error("{fault} needs `{parameter}`, {summary}")]
    Missing {
        /// The fault.
        fault: &'static str,
        /// The parameter.
        parameter: &'static str,
        /// What it is.
        summary: &'static str,
    },
    /// A value cannot be.
    #[error("{fault}: `{parameter}` {wanted}, not `{value}`")]
    Value {
        /// The fault.
        fault: &'static str,
        /// The parameter.
        parameter: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        wanted: String,
    },
}

/// The catalogue as text for a terminal. In brackets, what is taken if nothing is given.
#[must_use]
pub fn help() -> String {
    let mut text = String::from("Faults, and what they take:\n");
    for entry in CATALOGUE {
        text += &format!("  {:<22} {}\n", entry.name, entry.summary);
        for Parameter { name, summary } in entry.parameters {
            text += &format!("      {name:<18} {summary}\n");
        }
    }
    text
}

/// The entry of a fault.
pub(super) fn entry_named(name: &str) -> Result<&'static Entry, FaultError> {
    CATALOGUE
        .iter()
        .find(|entry| entry.name == name)
        .ok_or_else(|| FaultError::Unknown {
            found: name.to_owned(),
            hint: nearest::hint(name, CATALOGUE.iter().map(|entry| entry.name)),
        })
}

fn takes(entry: &Entry) -> String {
    let names: Vec<_> = entry
        .parameters
        .iter()
        .map(|parameter| format!("{}=...", parameter.name))
        .collect();
    if names.is_empty() {
        "it takes none".to_owned()
    } else {
        format!("it takes {}", names.join(", "))
    }
}

/// The parameters of one fault, as they were written or as they are by default.
struct Given<'a> {
    fault: &'static str,
    values: Vec<(&'static str, &'a str)>,
}

impl<'a> Given<'a> {
    fn check(entry: &'static Entry, parameters: &[(&str, &'a str)]) -> Result<Self, FaultError> {
        let fault = entry.name;
        let names = entry.parameters.iter().map(|parameter| parameter.name);
        if let Some((found, _)) = parameters
            .iter()
            .find(|(found, _)| !names.clone().any(|name| name == *found))
        {
            return Err(FaultError::UnknownParameter {
                fault,
                found: (*found).to_owned(),
                hint: if entry.parameters.is_empty() {
                    takes(entry)
                } else {
                    nearest::hint(found, names)
                },
            });
        }
        let mut values = Vec::new();
        for &Parameter {
            name: parameter,
            summary,
        } in entry.parameters
        {
            let mut given = parameters.iter().filter(|(name, _)| *name == parameter);
            let first = given.next().map(|(_, value)| *value);
            if given.next().is_some() {
                return Err(FaultError::Twice { fault, parameter });
            }
            let value = first.or_else(|| default_of(fault, parameter));
            let value = value.ok_or(FaultError::Missing {
                fault,
                parameter,
                summary,
            })?;
            values.push((parameter, value));
        }
        Ok(Self { fault, values })
    }

    fn parse<T>(
        &self,
        parameter: &'static str,
        wanted: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, FaultError> {
        let wanted = || format!("must be {wanted}");
        self.parse_or(parameter, |text| parse(text).ok_or_else(wanted))
    }

    fn parse_or<T>(
        &self,
        parameter: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, FaultError> {
        let value = self
            .values
            .iter()
            .find(|(name, _)| *name == parameter)
            .map(|(_, value)| *value)
            .expect("`check` has put every parameter of the catalogue there");
        parse(value).map_err(|wanted| FaultError::Value {
            fault: self.fault,
            parameter,
            value: value.to_owned(),
            wanted,
        })
    }

    fn rate(&self, unit: Unit) -> Result<Rate, FaultError> {
        self.parse_or("rate", |text| Rate::parse(text, unit))
    }

    fn duration(&self, parameter: &'static str) -> Result<Duration, FaultError> {
        self.parse(parameter, "a time such as 500ms or 240s", |text| {
            humantime::parse_duration(text).ok()
        })
    }
}

fn whole_number(text: &str) -> Option<u64> {
    text.parse().ok()
}

fn kernel_memory(text: &str) -> Option<KernelMemory> {
    match text {
        "pipes" => Some(KernelMemory::Pipes),
        "sockets" => Some(KernelMemory::Sockets),
        _ => None,
    }
}

fn resource(text: &str, via: KernelMemory) -> Option<Resource> {
    match text {
        "heap" => Some(Resource::Heap),
        "kernel" => Some(Resource::Kernel(via)),
        "descriptors" => Some(Resource::Descriptors),
        "threads" => Some(Resource::Threads),
        "ports" => Some(Resource::Ports),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::quantity::Per;

    fn error(text: &str) -> String {
        text.parse::<ServiceFault>().unwrap_err().to_string()
    }

    /// The shortest way to write each fault.
    fn shortest(entry: &Entry) -> String {
        let needs_rate = entry
            .parameters
            .iter()
            .any(|parameter| parameter.name == "rate");
        let rate = if needs_rate { "=7/h" } else { "" };
        format!("{}{rate}", entry.name)
    }

    #[test]
    fn every_fault_of_the_catalogue_can_be_made_and_is_written_as_it_is_read() {
        for entry in ServiceFault::catalogue() {
            let fault: ServiceFault = shortest(entry).parse().unwrap();
            assert_eq!(fault.name(), entry.name);
            assert_eq!(fault.to_string().parse::<ServiceFault>().unwrap(), fault);
            assert!(!entry.summary.is_empty() && !entry.summary.contains('\n'));
        }
    }

    #[test]
    fn what_a_summary_says_in_brackets_is_what_is_taken_if_nothing_is_given() {
        for entry in ServiceFault::catalogue() {
            for Parameter { name, summary } in entry.parameters {
                let bracketed = summary
                    .split_once('[')
                    .and_then(|(_, rest)| rest.strip_suffix(']'));
                assert_eq!(
                    bracketed,
                    default_of(entry.name, name),
                    "{} {name}",
                    entry.name
                );
            }
        }
    }

    #[test]
    fn a_bare_value_is_that_of_the_first_parameter() {
        let rate = Rate {
            amount: 64 << 10,
            unit: Unit::Bytes,
            per: Per::FailedOpen,
        };
        assert_eq!(
            "leak-kernel=64KiB/failed-open,via=sockets"
                .parse::<ServiceFault>()
                .unwrap(),
            ServiceFault::LeakKernel {
                rate,
                via: KernelMemory::Sockets
            }
        );
        assert_eq!(
            "leak-while-absent=rate=64KiB/failed-open,what=heap"
                .parse::<ServiceFault>()
                .unwrap(),
            ServiceFault::LeakWhileAbsent {
                rate,
                what: Resource::Heap
            }
        );
        assert_eq!(
            "delayed-recycle".parse::<ServiceFault>().unwrap(),
            ServiceFault::DelayedRecycle {
                after: Duration::from_secs(240)
            }
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_what_would_be_right() {
        let expected = [
            (
                "leak-hep=1/s",
                "there is no fault `leak-hep`; did you mean `leak-heap`?",
            ),
            (
                "leak-heap",
                "leak-heap needs `rate`, such as 1MiB/s or 64KiB/failed-open",
            ),
            (
                "leak-heap=fast",
                "leak-heap: `rate` must be a rate such as 64KiB/s, 64KiB/min, 64KiB/h or \
                 64KiB/failed-open, not `fast`",
            ),
            (
                "leak-heap=1/s,rat=2/s",
                "leak-heap has no parameter `rat`; did you mean `rate`?",
            ),
            ("leak-heap=1/s,rate=2/s", "leak-heap: `rate` is given twice"),
            (
                "leak-heap=1/s,2/s",
                "leak-heap: `2/s` says no parameter; it takes rate=...",
            ),
            (
                "refuse=politely",
                "refuse: `politely` says no parameter; it takes none",
            ),
            (
                "refuse=how=politely",
                "refuse has no parameter `how`; it takes none",
            ),
            (
                "crash=-1",
                "crash: `after` must be a number of commands, not `-1`",
            ),
            (
                "leak-while-absent=1/s,what=hope",
                "leak-while-absent: `what` must be heap, kernel, descriptors, threads or ports, \
                 not `hope`",
            ),
            (
                "accept-stall=soon",
                "accept-stall: `every` must be a time such as 500ms or 240s, not `soon`",
            ),
        ];
        for (text, message) in expected {
            assert_eq!(error(text), message);
        }
        assert!(error("chaos").ends_with("`delayed-recycle`, `ledger-lies`"));
    }
}
