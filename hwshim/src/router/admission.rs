//! How much may be under way at once, and what becomes of the rest.
//!
//! ```text
//!                  has room                has room
//!   a request ---------------> accelerator
//!        |  full  ("shed")
//!        +--------------------------------> software
//!                    |  full  ("overloaded")
//!                    +--------------------------------> refused, at once and in words
//! ```
//!
//! A queue without a bound turns overload into an outage: every answer comes, after its client has gone.
//! What an accelerator has is bounded by number, since each request holds memory there; what waits
//! for software is bounded by time, since that is what a client has too little of.

use super::choice::shared;
use std::time::Duration;

/// How much may be under way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Requests that one accelerator has at most. A queue of a card holds 256; a card with many queues,
    /// each with a round of requests on the way, hides its latency with a thousand.
    pub in_flight_max: usize,
    /// How long what waits for software may take at most, all cores together. A request that would
    /// come after that is refused: clients of TLS begin to give up after some seconds, and to
    /// sign for those that have keeps the others waiting.
    pub software_wait_max: Duration,
}

impl Limits {
    /// See the fields.
    pub const DEFAULT: Self = Self {
        in_flight_max: 1_024,
        software_wait_max: Duration::from_secs(1),
    };

    /// Whether an accelerator that has `in_flight` requests may have another.
    #[must_use]
    pub const fn admits_to_accelerator(&self, in_flight: usize) -> bool {
        in_flight < self.in_flight_max
    }

    /// Whether software may have another request of `cost`, while it has `waiting` for `cores`.
    #[must_use]
    pub fn admits_to_software(&self, waiting: Duration, cost: Duration, cores: usize) -> bool {
        // The first is no queue, whatever it costs.
        waiting.is_zero()
            || shared(waiting.saturating_add(cost), 1, cores) <= self.software_wait_max
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_accelerator_has_so_many_and_no_more() {
        let limits = Limits {
            in_flight_max: 2,
            ..Limits::DEFAULT
        };
        assert!(limits.admits_to_accelerator(1) && !limits.admits_to_accelerator(2));
    }

    #[test]
    fn software_has_so_much_time_and_no_more_and_more_cores_have_more() {
        let limits = Limits::DEFAULT;
        let (second, milli) = (Duration::from_secs(1), Duration::from_millis(1));
        assert!(limits.admits_to_software(second - milli, milli, 1));
        assert!(!limits.admits_to_software(second, milli, 1));
        assert!(limits.admits_to_software(second, milli, 2));
        assert!(!limits.admits_to_software(2 * second, milli, 2));
    }

    #[test]
    fn an_operation_that_is_longer_than_the_limit_is_done_if_it_is_the_only_one() {
        let limits = Limits::DEFAULT;
        assert!(limits.admits_to_software(Duration::ZERO, Duration::from_secs(9), 1));
    }
}
