//! Whether a request is worth an accelerator's while, or is done sooner and cheaper here.
//!
//! It decides from numbers and looks at nothing; [`super::core`] gathers them and acts.
//!
//! ```text
//!  is the algorithm offloaded, and is there an accelerator that takes it?  --- no --->  SOFTWARE
//!     | yes                                                       NotOffloaded, NoAccelerator
//!     v
//!  is the key only there, or is everything to be offloaded?  --- yes -------------->  ACCELERATOR
//!     | no
//!     v
//!  does handing over and verifying cost this host less than doing it?  --- no ----->  SOFTWARE
//!     | yes                                                                     CostsMoreHere
//!     v
//!  at worst, is half the time that is given enough for it?  -- no ---------------------->  SOFTWARE
//!     | yes                                                                      QueueTooLong
//!     v
//!  does it delay everybody less, this request and those that want the core?  - no ->  SOFTWARE
//!     | yes                                                                      SoonerInSoftware
//!     v
//!  ACCELERATOR
//! ```
//!
//! The last question is the one that matters. Software makes this request wait for as long as it
//! takes, and everybody who wants the same core as well; an accelerator makes it wait for as long as
//! *that* takes, and the others only for the handing over. A request alone on an idle server has no
//! others, so the sooner answer wins, which is software's unless the card is faster than a core. With
//! a few others present a card that is slower than a core pays as well. As a card's queue grows so
//! does its latency, and what it cannot take any sooner stays here.
//!
//! Those present are not all who are delayed: while a crowd waits for cores another gathers that is
//! as large, as long as requests come as they do (Little's law). So of those that want a core now,
//! and not an answer, as many as are a crowd count twice. Without that a server that is always full
//! signs in software what is cheaper elsewhere, because the queue of the present is soon over, and
//! has as long a queue of others afterwards. What accelerators have says nothing of that: cores may
//! stand idle beside a queue of a card's.

use crate::clock::nanos;
use std::time::Duration;

/// Who waits for the answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Caller {
    /// A thread that does nothing else meanwhile: handing over frees a core only for other threads.
    Thread,
    /// A task, whose thread goes on with other work.
    Task,
}

/// Where a request is better done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Choice {
    /// On an accelerator.
    Accelerator,
    /// Here.
    Software(Reason),
}

/// Why a request stays here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Reason {
    /// [`Offload`](super::core::Offload) leaves the algorithm out.
    NotOffloaded,
    /// No accelerator offers it, or none can be used now.
    NoAccelerator,
    /// To hand it over and to verify the answer takes more of this host than to do it.
    CostsMoreHere,
    /// The accelerator has so much to do that the deadline would be in danger.
    QueueTooLong,
    /// All things considered, it is done sooner here.
    SoonerInSoftware,
}

impl Choice {
    /// Whether it is an accelerator.
    #[must_use]
    pub const fn is_accelerator(self) -> bool {
        matches!(self, Self::Accelerator)
    }
}

/// What an accelerator would do to one more request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Prospect {
    /// When the answer is to be expected, from now, verified.
    pub latency: Duration,
    /// When it may come at worst, as far as that can be known.
    pub at_worst: Duration,
    /// What that takes of this host: to hand over, to take back, to verify.
    pub host: Duration,
    /// The batch it would be in, where the accelerator is this CPU: its work is this host's as well.
    pub batch: Option<Gathering>,
}

/// A batch that is filled with what comes. It takes as long however full it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Gathering {
    /// What it takes of a core.
    pub takes: Duration,
    /// Requests that it has room for.
    pub size: usize,
    /// Requests that its accelerator has already.
    pub in_flight: usize,
}

impl Prospect {
    /// What it takes of this host in all, where `announced` more are to come, that would share a
    /// batch with it.
    fn host_among(&self, announced: usize) -> Duration {
        let share = self.batch.map(|batch| {
            let company = batch.in_flight + announced + 1;
            shared(batch.takes, 1, company.min(batch.size))
        });
        self.host.saturating_add(share.unwrap_or_default())
    }
}

/// What software would do to one more request, and who else is there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Situation {
    /// Who would wait.
    pub caller: Caller,
    /// What software takes of a core.
    pub software: Duration,
    /// Requests being done in software now.
    pub running: usize,
    /// Requests that accelerators have.
    pub in_flight: usize,
    /// Requests that are known to come.
    pub announced: usize,
    /// Cores that this work can have.
    pub cores: usize,
    /// Time until the deadline.
    pub left: Duration,
}

/// What a request costs this host to be handed over and taken back, apart from verifying: two
/// wake-ups across cores at worst.
pub const HANDLING: Duration = Duration::from_micros(35);

/// Requests for each core that may meet by chance. More are a crowd, which lasts.
const CROWD_PER_CORE: usize = 2;

/// How often an accelerator is tried that is not the choice, so that what is known of it stays true:
/// every so many requests, and as many times more rarely as it is slower. So finding out costs
/// callers a thirtieth of their time at most.
pub const TRIED_EVERY: u32 = 32;

impl Situation {
    /// Chooses between software and the best accelerator.
    #[must_use]
    pub fn choose(&self, prospect: Option<Prospect>) -> Choice {
        let Some(prospect) = prospect else {
            return Choice::Software(Reason::NoAccelerator);
        };
        let reason = if prospect.host_among(self.announced) >= self.software {
            Reason::CostsMoreHere
        } else if prospect.at_worst > self.left / 2 {
            Reason::QueueTooLong
        } else if self.delay_by(prospect) >= self.delay_by_software() {
            Reason::SoonerInSoftware
        } else {
            return Choice::Accelerator;
        };
        Choice::Software(reason)
    }

    /// The delay of all, if this request is done in software.
    #[must_use]
    pub fn delay_by_software(&self) -> Duration {
        self.software_wait() + shared(self.software, self.waiting(), self.cores)
    }

    /// The delay of all, if an accelerator has the request.
    #[must_use]
    pub fn delay_by(&self, prospect: Prospect) -> Duration {
        let host = prospect.host_among(self.announced);
        let others = shared(host, self.waiting(), self.cores);
        prospect.latency.saturating_add(others)
    }

    /// When software would be done: at once on a core that is free, else in turn.
    fn software_wait(&self) -> Duration {
        let cores = self.cores.max(1);
        shared(self.software, (self.running + 1).max(cores), cores)
    }

    /// Requests that a core is for, if this one leaves it, and those that come after a crowd.
    const fn waiting(&self) -> usize {
        match self.caller {
            Caller::Task => {
                let wanting = self.running + self.announced;
                let crowd = wanting.saturating_sub(CROWD_PER_CORE * self.cores);
                wanting + crowd + self.in_flight
            }
            // What accelerators have is waited for by threads that want no core.
            Caller::Thread => (self.running + 1).saturating_sub(self.cores),
        }
    }
}

/// After how many requests that went elsewhere an accelerator is tried that takes `latency`, where
/// the choice takes `chosen`.
#[must_use]
pub fn tried_every(latency: Duration, chosen: Duration) -> u32 {
    let times = nanos(latency) / nanos(chosen).max(1);
    let times = u32::try_from(times).unwrap_or(u32::MAX);
    TRIED_EVERY.saturating_mul(times.saturating_add(1))
}

/// `count` times `each`, done by `cores` at once.
pub(super) fn shared(each: Duration, count: usize, cores: usize) -> Duration {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let cores = u32::try_from(cores).unwrap_or(u32::MAX).max(1);
    each.saturating_mul(count) / cores
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    /// RSA-2048 asked for by a task of a server with one core.
    const ALONE: Situation = Situation {
        caller: Caller::Task,
        software: micros(620),
        running: 0,
        in_flight: 0,
        announced: 0,
        cores: 1,
        left: micros(200_000),
    };

    const fn card(latency: u64) -> Option<Prospect> {
        Some(Prospect {
            latency: micros(latency),
            at_worst: micros(latency),
            host: micros(60),
            batch: None,
        })
    }

    const SOONER: Choice = Choice::Software(Reason::SoonerInSoftware);

    #[test]
    fn a_request_alone_goes_to_a_card_only_if_that_is_faster_than_a_core() {
        assert_eq!(ALONE.choose(card(1_000)), SOONER);
        assert_eq!(ALONE.choose(card(620)), SOONER);
        assert_eq!(ALONE.choose(card(300)), Choice::Accelerator);
    }

    #[test]
    fn the_more_want_the_core_the_slower_a_card_may_be() {
        let among = |in_flight| Situation { in_flight, ..ALONE };
        assert_eq!(among(1).choose(card(1_000)), Choice::Accelerator);
        assert_eq!(among(1).choose(card(5_000)), SOONER);
        assert_eq!(among(16).choose(card(5_000)), Choice::Accelerator);
        let more_cores = Situation {
            cores: 8,
            ..among(4)
        };
        assert_eq!(more_cores.choose(card(1_000)), SOONER);
    }

    #[test]
    fn a_crowd_that_wants_cores_counts_twice_and_one_that_a_card_has_does_not() {
        let wanting = |announced| Situation { announced, ..ALONE };
        let at_the_card = Situation {
            in_flight: 16,
            ..ALONE
        };
        // Each of those who count is saved 560 us.
        for (situation, limit) in [
            (wanting(2), 1_740),
            (wanting(16), 17_420),
            (at_the_card, 9_580),
        ] {
            let choose = |micros| situation.choose(card(micros));
            assert_eq!(choose(limit - 1), Choice::Accelerator, "{situation:?}");
            assert_eq!(choose(limit), SOONER, "{situation:?}");
        }
    }

    #[test]
    fn a_thread_that_waits_frees_a_core_only_for_threads_that_want_one() {
        let thread = |running| Situation {
            caller: Caller::Thread,
            running,
            in_flight: 16,
            cores: 4,
            ..ALONE
        };
        assert_eq!(thread(0).choose(card(1_000)), SOONER);
        assert_eq!(thread(3).choose(card(1_000)), SOONER);
        assert_eq!(thread(8).choose(card(1_000)), Choice::Accelerator);
    }

    #[test]
    fn what_costs_more_to_verify_than_to_do_is_never_handed_over() {
        let p256 = Situation {
            software: micros(22),
            in_flight: 1_000,
            ..ALONE
        };
        let instant = Prospect {
            latency: micros(1),
            at_worst: micros(1),
            host: micros(67) + HANDLING,
            batch: None,
        };
        let choice = p256.choose(Some(instant));
        assert_eq!(choice, Choice::Software(Reason::CostsMoreHere));
    }

    #[test]
    fn who_is_in_a_batch_with_others_bears_a_share_of_it() {
        let batch = |in_flight| {
            Some(Prospect {
                latency: micros(900),
                at_worst: micros(900),
                host: micros(60),
                batch: Some(Gathering {
                    takes: micros(900),
                    size: 8,
                    in_flight,
                }),
            })
        };
        let among = |announced| Situation { announced, ..ALONE };
        let dear = Choice::Software(Reason::CostsMoreHere);
        assert_eq!(among(0).choose(batch(0)), dear);
        assert_eq!(among(3).choose(batch(0)), Choice::Accelerator);
        assert_eq!(among(0).choose(batch(1)), SOONER);
        assert_eq!(
            batch(40).unwrap().host_among(40),
            micros(60) + micros(900) / 8
        );
    }

    #[test]
    fn a_deadline_is_not_put_in_danger_however_many_wait() {
        let crowd = Situation {
            in_flight: 10_000,
            ..ALONE
        };
        assert_eq!(crowd.choose(card(100_000)), Choice::Accelerator);
        let choice = crowd.choose(card(100_001));
        assert_eq!(choice, Choice::Software(Reason::QueueTooLong));
        // Nor by what has not been seen yet.
        let perhaps_late = card(1_000).map(|prospect| Prospect {
            at_worst: micros(100_001),
            ..prospect
        });
        assert_eq!(crowd.choose(perhaps_late), choice);
    }

    #[test]
    fn without_an_accelerator_there_is_no_choice() {
        assert_eq!(ALONE.choose(None), Choice::Software(Reason::NoAccelerator));
    }

    #[test]
    fn the_slower_an_accelerator_the_more_rarely_it_is_tried() {
        assert_eq!(tried_every(micros(100), micros(620)), 32);
        assert_eq!(tried_every(micros(1_000), micros(620)), 64);
        assert_eq!(tried_every(micros(62_000), micros(620)), 101 * 32);
        assert_eq!(tried_every(Duration::MAX, Duration::ZERO), u32::MAX);
    }

    #[test]
    fn no_number_is_too_large() {
        let absurd = Situation {
            software: Duration::MAX,
            running: usize::MAX / 4,
            in_flight: usize::MAX / 4,
            ..ALONE
        };
        let _ = absurd.choose(card(u64::MAX / 1_000));
    }
}
