//! What the link does between two looks: interrupts that are lost or come for nothing, errors at
//! both of its ends, and how fast it runs.

use crate::attribution::{Dossier, Kind};
use crate::rules::Case;
use card_spec::telemetry::Page;
use hwshim::clock::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// Interrupts are compared with completions over so long.
const WINDOW: Duration = Duration::from_secs(60);
/// Fewer completions than that tell nothing.
const DUE_MIN: u64 = 6;
/// One in so many completions may be found before its interrupt, by whoever looks for another
/// reason.
const UNANNOUNCED_ONE_IN: u64 = 4;
/// A storm brings so many interrupts a second,
const STORM_PER_SECOND: u64 = 100;
/// and so many for each completion.
const STORM_FACTOR: u64 = 10;

/// What was counted at earlier looks.
#[derive(Debug, Default)]
pub(super) struct LinkDeltas {
    counts: VecDeque<Counts>,
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

    fn weigh_losses(&self, counts: &Counts, dossier: &mut Dossier) {
        let Some(first) = self.counts.front() else {
            return;
        };
        let due = counts.due.saturating_sub(first.due);
        let unannounced = counts.unannounced.saturating_sub(first.unannounced);
        if due < DUE_MIN {
            return;
        }
        let detail = format!("{unannounced} of {due} completions came without their interrupt");
        if unannounced > due / UNANNOUNCED_ONE_IN {
            dossier.seen(Kind::InterruptsLost, 1.0, detail, counts.at);
        } else {
            dossier.not_seen(Kind::InterruptsLost, detail, counts.at);
        }
    }
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
