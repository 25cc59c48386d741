//! What the link does between two looks: interrupts that are lost or come for nothing, errors at
//! both of its ends, and how fast it runs.

use crate::attribution::{Dossier, Kind};
use crate::probe::{ErrorTotals, Link, ProbeError};
use crate::rules::Case;
use card_spec::telemetry::Page;
use hwshim::clock::Instant;
use hwshim::pci::{LinkState, Presence};
use std::collections::VecDeque;
use std::time::Duration;

/// Interrupts are compared with completions over so long.
const WINDOW: Duration = Duration::from_secs(20);
/// What a crowd was told by interrupts before they began to be lost hides it in the whole window. Over so long,
/// from one known-answer test to the next, it does not.
const OF_LATE: Duration = Duration::from_secs(10);
/// Fewer completions than that tell nothing.
const DUE_MIN: u64 = 5;
/// One in so many completions may be found before its interrupt, by whoever looks for another
/// reason.
const UNANNOUNCED_ONE_IN: u64 = 4;
/// A storm brings so many interrupts a second,
const STORM_PER_SECOND: u64 = 100;
/// and so many for each completion.
const STORM_FACTOR: u64 = 10;

/// Fewer correctable errors between two looks are a link's normal life: of a bit error rate of
/// 10^-12, PCI Express allows up to four replays a minute for each of its generations up to 3 x8.
const CORRECTABLE_MIN: u64 = 4;

/// What was counted at earlier looks.
#[derive(Debug, Default)]
pub(super) struct LinkDeltas {
    counts: VecDeque<Counts>,
    interrupts_are_lost: bool,
    interrupts_may_be_lost: bool,
    /// Errors that both ends of the link had counted.
    errors: Option<Errors>,
}

/// Errors counted at a link, each at the function and at the port above it, as far as they were read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Errors {
    correctable: [Option<u64>; 2],
    nonfatal: [Option<u64>; 2],
    fatal: [Option<u64>; 2],
}

#[derive(Clone, Copy, Debug)]
struct Counts {
    at: Instant,
    arrived: u64,
    due: u64,
    unannounced: u64,
}

impl LinkDeltas {
    pub(super) fn poll(&mut self, case: &Case<'_>, dossier: &mut Dossier) {
        if let Ok(page) = &case.look.page {
            self.poll_interrupts(page, case.look.at, dossier);
        }
        self.poll_function(case.look.link.as_deref(), case.look.at, dossier);
    }

    /// Of a function of which no page tells about interrupts.
    pub(super) fn poll_function(
        &mut self,
        seen: Option<&Result<Link, ProbeError>>,
        now: Instant,
        dossier: &mut Dossier,
    ) {
        match seen {
            Some(Ok(link)) => self.poll_link(link, now, dossier),
            Some(Err(ProbeError::Absent { what })) => {
                let detail = format!("{what} does not exist");
                dossier.seen(Kind::NotInSlot, 1.0, detail, now);
                // What comes next counts for itself.
                self.errors = None;
            }
            Some(Err(_)) | None => {}
        }
    }

    /// Whether completions have been found of late that no interrupt announced.
    pub(super) const fn interrupts_are_lost(&self) -> bool {
        self.interrupts_are_lost
    }

    /// Whether they may have been lost in the last seconds, though over the whole time that is not sure.
    pub(super) const fn interrupts_may_be_lost(&self) -> bool {
        self.interrupts_may_be_lost
    }

    fn poll_link(&mut self, link: &Link, now: Instant, dossier: &mut Dossier) {
        let there = "the kernel lists the function";
        dossier.not_seen(Kind::NotInSlot, there, now);
        match link.presence {
            Presence::Gone => {
                let detail = "configuration space reads as all-ones";
                dossier.seen(Kind::ConfigAllOnes, 1.0, detail, now);
            }
            Presence::Present => {
                dossier.not_seen(Kind::ConfigAllOnes, "configuration space answers", now);
            }
            Presence::Unknown => {}
        }
        match link.state {
            Some(LinkState::Downtrained | LinkState::Down) => {
                let detail = "the link is slower or narrower than both of its ends can";
                dossier.seen(Kind::DegradedLink, 1.0, detail, now);
            }
            Some(LinkState::Full | LinkState::LimitedByPort) | None => {}
        }
        self.poll_errors(link, now, dossier);
    }

    fn poll_errors(&mut self, link: &Link, now: Instant, dossier: &mut Dossier) {
        let port = link.port.as_ref().ok().map(|port| &port.errors);
        let errors = Errors::of(&link.errors, port);
        let Some(before) = self.errors.replace(errors) else {
            return;
        };
        let Some(correctable) = growth(before.correctable, errors.correctable) else {
            return;
        };
        let nonfatal = growth(before.nonfatal, errors.nonfatal).unwrap_or(0);
        let fatal = growth(before.fatal, errors.fatal).unwrap_or(0);
        let uncorrectable = nonfatal.saturating_add(fatal);
        if uncorrectable > 0 || correctable >= CORRECTABLE_MIN {
            let detail =
                format!("{correctable} correctable and {uncorrectable} other errors were counted");
            dossier.seen(Kind::Aer, 1.0, detail, now);
        } else {
            dossier.not_seen(Kind::Aer, "no errors of the link were counted", now);
        }
    }

    fn poll_interrupts(&mut self, page: &Page, now: Instant, dossier: &mut Dossier) {
        let counts = Counts {
            at: now,
            arrived: page.interrupts.arrived.get(),
            due: page.interrupts.completions_due.get(),
            unannounced: page.interrupts.completions_unannounced.get(),
        };
        let began_anew = self
            .counts
            .back()
            .is_some_and(|last| last.arrived > counts.arrived || last.due > counts.due);
        if began_anew {
            self.counts.clear();
        }
        if let Some(last) = self.counts.back() {
            weigh_storm(last, &counts, dossier);
        }
        self.counts.push_back(counts);
        while self.counts.len() > 2 && now.since(self.counts[1].at) >= WINDOW {
            self.counts.pop_front();
        }
        self.weigh_losses(&counts, dossier);
    }

    fn weigh_losses(&mut self, counts: &Counts, dossier: &mut Dossier) {
        let is_of_late = |it: &&Counts| counts.at.since(it.at) <= OF_LATE;
        let of_late = self.counts.iter().find(is_of_late);
        let losses = of_late.and_then(|since| counts.losses_since(since));
        self.interrupts_may_be_lost = losses.is_some_and(Losses::are_many);
        let losses = self.counts.front().and_then(|it| counts.losses_since(it));
        let Some(losses @ Losses { unannounced, due }) = losses else {
            return;
        };
        let detail = format!("{unannounced} of {due} completions came without their interrupt");
        self.interrupts_are_lost = losses.are_many();
        if self.interrupts_are_lost {
            dossier.seen(Kind::InterruptsLost, 1.0, detail, counts.at);
        } else {
            dossier.not_seen(Kind::InterruptsLost, detail, counts.at);
        }
    }
}

/// Completions that an interrupt was to announce, and those of them that none did.
#[derive(Clone, Copy, Debug)]
struct Losses {
    unannounced: u64,
    due: u64,
}

impl Losses {
    const fn are_many(self) -> bool {
        self.unannounced > self.due / UNANNOUNCED_ONE_IN
    }
}

impl Counts {
    /// What was lost since an earlier look, if enough was due to tell.
    fn losses_since(&self, earlier: &Self) -> Option<Losses> {
        let losses = Losses {
            unannounced: self.unannounced.saturating_sub(earlier.unannounced),
            due: self.due.saturating_sub(earlier.due),
        };
        (losses.due >= DUE_MIN).then_some(losses)
    }
}

impl Errors {
    fn of(function: &ErrorTotals, port: Option<&ErrorTotals>) -> Self {
        let ends = |of: fn(&ErrorTotals) -> &Result<u64, ProbeError>| {
            [Some(function), port].map(|end| of(end?).as_ref().ok().copied())
        };
        Self {
            correctable: ends(|end| &end.correctable),
            nonfatal: ends(|end| &end.nonfatal),
            fatal: ends(|end| &end.fatal),
        }
    }
}

/// How much more the ends of a link have counted, of those that were read both before and now: what one
/// had counted before it could be read is no news. `None` if neither was read twice.
pub(crate) fn growth(before: [Option<u64>; 2], now: [Option<u64>; 2]) -> Option<u64> {
    let ends = before.into_iter().zip(now);
    let grown = ends.filter_map(|(before, now)| Some(now?.saturating_sub(before?)));
    grown.reduce(u64::saturating_add)
}

fn weigh_storm(last: &Counts, counts: &Counts, dossier: &mut Dossier) {
    let arrived = counts.arrived.saturating_sub(last.arrived);
    let due = counts.due.saturating_sub(last.due);
    let seconds = counts.at.since(last.at).as_secs().max(1);
    if arrived / seconds > STORM_PER_SECOND && arrived / STORM_FACTOR > due {
        let detail = format!("{arrived} interrupts for {due} completions in {seconds} s");
        dossier.seen(Kind::InterruptStorm, 1.0, detail, counts.at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_an_end_that_was_not_read_before_are_no_growth() {
        assert_eq!(growth([Some(1), None], [Some(1), Some(70)]), Some(0));
        assert_eq!(growth([Some(1), Some(70)], [Some(3), None]), Some(2));
        assert_eq!(growth([Some(1), Some(7)], [Some(2), Some(9)]), Some(3));
        assert_eq!(growth([Some(9), None], [Some(0), None]), Some(0), "anew");
        assert_eq!(growth([None, Some(7)], [Some(2), None]), None);
    }
}
