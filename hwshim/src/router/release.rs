//! Turns what an accelerator produced into what the caller gets: the answer if it verifies, else
//! software's.

use super::core::{Ending, Took};
use super::verify::{self, eights::OpenedBy, eights::Share};
use crate::accelerator::class::Class;
use crate::accelerator::software::{self, OperationError};
use crate::accelerator::{DeviceError, DeviceMisbehaved, Operation, Unverified};
use crate::clock::{Clock, Instant};
use crate::spec::crypto::Status;
use std::time::Duration;

/// What the caller gets, and how that came about.
pub(super) struct Released {
    pub(super) output: Result<Vec<u8>, OperationError>,
    pub(super) ending: Ending,
    /// An answer was rejected on the way: what that took is the price of nothing.
    rejected: bool,
    /// Who has opened the answer, if it was to be opened with others.
    opened: Option<OpenedBy>,
}

impl Released {
    /// What it took to come about, if it took `elapsed`.
    pub(super) fn took(&self, elapsed: Duration) -> Option<Took> {
        match self.ending {
            Ending::Card => match self.opened {
                // Of a call that serves many, one measurement: a disturbance is not to count eight times.
                Some(OpenedBy::Caller(count)) => Some(Took::Verify(elapsed / count.get())),
                Some(OpenedBy::Companion) => None,
                Some(OpenedBy::Nobody) | None => Some(Took::Verify(elapsed)),
            },
            Ending::Software if !self.rejected => Some(Took::Software(elapsed)),
            Ending::Software | Ending::Refused | Ending::Abandoned => None,
        }
    }
}

/// The time, if it is to be measured how long it takes to end `operation`.
pub(super) fn begin(operation: &Operation, clock: &dyn Clock) -> Option<Instant> {
    let is_measured = Class::of(operation).is_measured();
    is_measured.then(|| clock.now())
}

/// Releases `answer` if it verifies, by itself or by its `share`, else does `operation` in software. A
/// lie goes to `reject`.
pub(super) fn release(
    operation: &Operation,
    answer: Result<Unverified<Vec<u8>>, DeviceError>,
    share: Option<&Share>,
    mut reject: impl FnMut(&DeviceMisbehaved),
) -> Released {
    let mut rejected = false;
    let opened = share.map(Share::open);
    let refused_tag = match answer {
        Ok(unverified) => match verify::check_shared(operation, unverified, share) {
            Ok(verified) => {
                return Released {
                    output: Ok(verified.release()),
                    ending: Ending::Card,
                    rejected,
                    opened,
                };
            }
            Err(rule) => {
                rejected = true;
                reject(&rule);
                false
            }
        },
        Err(error) => error == DeviceError::Failed(Status::BADMSG),
    };
    let released = Released {
        rejected,
        ..in_software(operation)
    };
    if refused_tag && released.output.is_ok() {
        // Software finds the tag right that the accelerator found wrong.
        reject(&DeviceMisbehaved::WrongAnswer);
    }
    released
}

/// Does `operation` in software.
pub(super) fn in_software(operation: &Operation) -> Released {
    let output = software::perform(operation);
    let ending = if output.is_ok() {
        Ending::Software
    } else {
        Ending::Refused
    };
    Released {
        output,
        ending,
        rejected: false,
        opened: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    #[test]
    fn a_call_for_many_is_measured_once() {
        let released = |opened| Released {
            output: Ok(Vec::new()),
            ending: Ending::Card,
            rejected: false,
            opened,
        };
        let took = |opened| released(opened).took(Duration::from_micros(56));
        let verify = |micros| Some(Took::Verify(Duration::from_micros(micros)));
        let eight = NonZeroU32::new(8).unwrap();
        assert_eq!(took(Some(OpenedBy::Caller(eight))), verify(7));
        assert_eq!(took(Some(OpenedBy::Companion)), None);
        assert_eq!(took(Some(OpenedBy::Nobody)), verify(56));
        assert_eq!(took(None), verify(56));
    }
}
