//! One window: a contender's clients at work for a moment, and what that took.

use super::client::{Clients, Seen};
use super::contender::{Bench, Contender};
use super::{Case, cannot};
use crate::cli::bench::{process_cpu_time, thread_cpu_time};
use crate::cli::output::Failure;
use hwshim::clock::{Clock, SystemClock};
use hwshim::router::core::Requests;
use std::fs;
use std::io;
use std::time::Duration;

/// What was seen and what it took.
pub(super) struct Window {
    pub(super) seen: Seen,
    pub(super) wall: Duration,
    /// Of this process without the clients.
    pub(super) server_cpu: Duration,
    /// Of the clients.
    pub(super) client_cpu: Duration,
    /// Of the process that plays the card, if it is to be counted.
    pub(super) card_cpu: Duration,
    /// Answered by the accelerator, and verified.
    pub(super) by_card: u64,
    /// Signed by software, if that is counted.
    pub(super) by_software: Option<u64>,
    /// Wrong answers of the accelerator, stopped.
    pub(super) wrong_answers: u64,
    /// What the accelerator had been given and software answered, or nobody.
    pub(super) fallbacks: u64,
}

/// Processor time at one moment.
struct Reading {
    process: Duration,
    clients: Duration,
    card: Duration,
}

impl Window {
    /// Has `clients` do handshakes with `contender` for `length`, from this thread.
    pub(super) fn run(
        bench: &Bench,
        contender: &Contender,
        clients: &Clients,
        case: Case,
        length: Duration,
        count: Option<u32>,
    ) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .map_err(|error| cannot("clients", error))?;
        let clock = SystemClock;
        let requests = contender.requests();
        let software = contender.signed_in_software(case.key);
        let (start, before) = (clock.now(), read(count)?);
        let end = start.plus(length);
        let seen = runtime.block_on(clients.run(contender, &bench.server, case, end));
        let after = read(count)?;
        let wall = clock.now().since(start);
        let client_cpu = after.clients.saturating_sub(before.clients);
        let process = after.process.saturating_sub(before.process);
        let Requests {
            card,
            wrong_answers,
            fallbacks,
            ..
        } = contender.requests();
        Ok(Self {
            seen,
            wall,
            server_cpu: process.saturating_sub(client_cpu),
            client_cpu,
            card_cpu: after.card.saturating_sub(before.card),
            by_card: card - requests.card,
            by_software: contender
                .signed_in_software(case.key)
                .zip(software)
                .map(|(after, before)| after - before),
            wrong_answers: wrong_answers - requests.wrong_answers,
            fallbacks: fallbacks - requests.fallbacks,
        })
    }
}

fn read(count: Option<u32>) -> Result<Reading, Failure> {
    let card = count.map_or(Ok(Duration::ZERO), |process| {
        cpu_time_of(process).map_err(|error| {
            Failure::new(
                format!("the processor time of process {process} cannot be read"),
                error,
            )
            .hint("--count takes the process ID of a card simulated on this host")
        })
    })?;
    Ok(Reading {
        process: process_cpu_time(),
        clients: thread_cpu_time(),
        card,
    })
}

/// Processor time of all threads that `process` has now.
fn cpu_time_of(process: u32) -> io::Result<Duration> {
    let mut sum = Duration::ZERO;
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        // A thread may have ended meanwhile; what it took is then not seen.
        let Ok(schedstat) = fs::read_to_string(thread?.path().join("schedstat")) else {
            continue;
        };
        sum += on_cpu(&schedstat).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "schedstat does not begin with a time",
            )
        })?;
    }
    Ok(sum)
}

/// Time on a processor: the first of the three numbers of `schedstat`, in nanoseconds.
fn on_cpu(schedstat: &str) -> Option<Duration> {
    let first = schedstat.split_whitespace().next()?;
    first.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_on_a_processor_is_the_first_number() {
        assert_eq!(
            on_cpu("1230647 38672117 2\n"),
            Some(Duration::from_nanos(1_230_647))
        );
        assert_eq!(on_cpu(""), None);
        assert_eq!(on_cpu("x 1 2"), None);
    }

    #[test]
    fn this_process_has_taken_some_time_and_none_that_is_not_there() {
        assert!(cpu_time_of(std::process::id()).unwrap() > Duration::ZERO);
        cpu_time_of(u32::MAX).unwrap_err();
    }
}
