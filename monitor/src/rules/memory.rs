//! What must be remembered between polls to judge the next: whether counters move, and whether we
//! ourselves were on time.

use crate::probe::{Heartbeat, OwnerId, ProbeError};
use crate::verdict::{Limits, Look};
use card_spec::health::EngineHeartbeat;
use card_spec::telemetry::{Page, breaker_state, card_state};
use hwshim::clock::{Instant, nanos};
use std::time::Duration;

/// A poll that comes this much of an interval after it was due is late, in percent (as corosync
/// has it for its token).
const LATE_PERCENT: u32 = 80;
/// A card may state any heartbeat period; one that says "once a year" cannot be watched, and must
/// not be able to silence the watch.
const PERIOD_MAX: Duration = Duration::from_secs(10);
/// Readings that may be missing before a counter that moved is no longer said to move.
const READINGS_MISSING_MAX: u32 = 2;
/// A request that was handed over in a pause may run out of its time so long after the pause.
const UNANSWERED_FOR: Duration = Duration::from_secs(1);
/// Publications in which an owner shows that it ran all the time.
const PUBLICATIONS_MIN: u32 = 3;
/// Of so many parts of the time one may be lost to an owner's own rounds.
const PACE_ALLOWANCE: u32 = 20;
/// Period of a card that states none.
const PERIOD_DEFAULT: Duration = Duration::from_millis(500);

/// What earlier polls left behind.
#[derive(Debug)]
pub struct Memory {
    /// When the last poll was; before the first, when we began: that one can be late as well.
    polled_at: Instant,
    /// How much later than it was due the last poll came.
    lateness: Duration,
    /// When the first of the present run of late polls began to be waited for.
    late_since: Option<Instant>,
    owner: Option<OwnerId>,
    sequence: Option<u64>,
    /// When the last page that was seen was published.
    published_at: Instant,
    owner_kept_pace: bool,
    page_moved: bool,
    page_moved_at: Instant,
    torn_polls: u32,
    /// Resets that had failed when the card was last ready.
    resets_failed_before: u64,
    /// The card got no work while its heartbeat stood still, and has got none since.
    is_out_for_a_hang: bool,
    pulse: Pulse,
    engines: Vec<Pulse>,
    pause: Option<Pause>,
}

/// A time in which a card said that it took no work and meant to.
#[derive(Clone, Copy, Debug)]
struct Pause {
    /// A beat before the reading before the first that said so, if there was one: it may have begun right
    /// after that beat.
    from: Instant,
    /// The first reading that did not say so any more, or the last that did.
    to: Instant,
    /// Whether it goes on.
    goes_on: bool,
}

impl Memory {
    /// Remembers nothing.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            polled_at: now,
            lateness: Duration::ZERO,
            late_since: None,
            owner: None,
            sequence: None,
            published_at: now,
            owner_kept_pace: false,
            page_moved: false,
            page_moved_at: now,
            torn_polls: 0,
            resets_failed_before: 0,
            is_out_for_a_hang: false,
            pulse: Pulse::default(),
            engines: Vec::new(),
            pause: None,
        }
    }

    /// Whether the card took no work at `then`, and had said so. What it did not answer by then it
    /// need not have.
    #[must_use]
    pub fn was_paused_at(&self, then: Instant) -> bool {
        self.pause
            .is_some_and(|pause| pause.from <= then && then <= pause.to.plus(UNANSWERED_FOR))
    }

    /// How much later than it was due this poll came.
    #[must_use]
    pub const fn lateness(&self) -> Duration {
        self.lateness
    }

    /// Whether this poll came late, and since when polls have.
    #[must_use]
    pub const fn late_since(&self) -> Option<Instant> {
        self.late_since
    }

    /// Whether the page was published anew since the poll before.
    #[must_use]
    pub const fn page_moved(&self) -> bool {
        self.page_moved
    }

    /// Whether the owner was seen to run all the time since the poll before: it has published as often
    /// as it says it does. A poll of our own that comes late then says nothing of anybody else.
    #[must_use]
    pub const fn owner_kept_pace(&self) -> bool {
        self.owner_kept_pace
    }

    /// When a poll last found the page published anew.
    #[must_use]
    pub const fn page_moved_at(&self) -> Instant {
        self.page_moved_at
    }

    /// Polls in a row that found the page half written.
    #[must_use]
    pub const fn torn_polls(&self) -> u32 {
        self.torn_polls
    }

    /// Resets that had failed when the card was last ready. Those are of another time: it came back.
    #[must_use]
    pub const fn resets_failed_before(&self) -> u64 {
        self.resets_failed_before
    }

    /// Whether the card gets no work since its heartbeat stood still: that moves again says that it may come
    /// back, and not that it had done nothing.
    #[must_use]
    pub const fn is_out_for_a_hang(&self) -> bool {
        self.is_out_for_a_hang
    }

    /// The card's heartbeat counter.
    #[must_use]
    pub const fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// Each engine's answers.
    #[must_use]
    pub fn engines(&self) -> &[Pulse] {
        &self.engines
    }

    /// Takes in a look, before the rules judge it.
    pub fn record(&mut self, look: &Look, limits: &Limits) {
        self.record_timeliness(look.at, limits.poll_interval);
        self.torn_polls = match look.page {
            Err(ProbeError::Torn { .. }) => self.torn_polls + 1,
            _ => 0,
        };
        self.page_moved = false;
        self.owner_kept_pace = false;
        if let Ok(page) = &look.page {
            self.record_page(page, look.at);
        }
        if let Some(Ok(beat)) = &look.heartbeat {
            self.record_beat(beat, limits.poll_interval);
        }
        if let Ok(page) = &look.page {
            let is_hung = self.pulse.unmoved_polls() >= limits.frozen_polls;
            let is_out = page.breaker.state.get() != breaker_state::CLOSED;
            self.is_out_for_a_hang = is_out && (self.is_out_for_a_hang || is_hung);
        }
    }

    fn record_timeliness(&mut self, now: Instant, interval: Duration) {
        let due = self.polled_at.plus(interval);
        self.lateness = now.since(due);
        let late = self.lateness > interval * LATE_PERCENT / 100;
        self.late_since = match (late, self.late_since) {
            (true, None) => Some(due),
            (true, since) => since,
            (false, _) => None,
        };
        self.polled_at = now;
    }

    fn record_page(&mut self, page: &Page, now: Instant) {
        let owner = OwnerId::of(page);
        if owner != self.owner {
            // The first thing another owner publishes is news, whatever its sequence.
            self.owner = owner;
            self.sequence = None;
            self.is_out_for_a_hang = false;
            // Of one that has been ready before we came nobody knows which of them are of now.
            self.resets_failed_before = match page.card.resets.get() {
                0 => 0,
                _ => page.card.resets_failed.get(),
            };
        }
        if page.card.state.get() == card_state::READY {
            self.resets_failed_before = page.card.resets_failed.get();
        }
        self.owner_kept_pace = self.keeps_pace(page, now);
        self.published_at = Instant::from_nanos(page.owner.published_at_ns.get());
        let sequence = Some(page.sequence.get());
        if sequence != self.sequence {
            self.sequence = sequence;
            self.page_moved = true;
            self.page_moved_at = now;
        }
    }

    fn keeps_pace(&self, page: &Page, now: Instant) -> bool {
        // Each publication adds two.
        let Some(published) = self.sequence.and_then(|sequence| {
            let added = page.sequence.get().checked_sub(sequence)?;
            u32::try_from(added / 2).ok()
        }) else {
            return false;
        };
        let interval = Duration::from_nanos(page.owner.publish_interval_ns.get());
        let elapsed = now.since(self.published_at);
        // An owner that publishes hardly more often than it is looked at may have paused in between.
        let is_frequent = interval.saturating_mul(PUBLICATIONS_MIN) <= elapsed;
        let missing = elapsed.saturating_sub(interval.saturating_mul(published));
        is_frequent && missing <= interval + elapsed / PACE_ALLOWANCE
    }

    /// Takes in whether the card says that it has paused. A pause within a moment of the one before
    /// is the same.
    fn record_pause(&mut self, beat: &Heartbeat) {
        // One that goes on at the first reading may have begun at any time.
        let before = self.pulse.read_at().unwrap_or(Instant::ORIGIN);
        let from = before.as_nanos().saturating_sub(nanos(period(beat)));
        match &mut self.pause {
            Some(pause) if pause.goes_on => {
                pause.to = beat.read_at;
                pause.goes_on = beat.status.processing_paused();
            }
            _ if !beat.status.processing_paused() => {}
            Some(pause) if before <= pause.to.plus(UNANSWERED_FOR) => {
                pause.to = beat.read_at;
                pause.goes_on = true;
            }
            _ => {
                self.pause = Some(Pause {
                    from: Instant::from_nanos(from),
                    to: beat.read_at,
                    goes_on: true,
                });
            }
        }
    }

    fn record_beat(&mut self, beat: &Heartbeat, interval: Duration) {
        self.record_pause(beat);
        let on_time = self.late_since.is_none() || self.owner_kept_pace;
        let period = period(beat);
        let look = |value, idle| Counter {
            value: (beat.boot_id, value),
            read_at: beat.read_at,
            period,
            patience: period.max(interval) * READINGS_MISSING_MAX,
            idle,
            on_time,
        };
        self.pulse.record(look(beat.count, false));
        self.engines.resize_with(beat.engines.len(), Pulse::default);
        for (pulse, engine) in self.engines.iter_mut().zip(&beat.engines) {
            let EngineHeartbeat {
                requested,
                responded,
            } = *engine;
            // An engine that owes no answer may stand still.
            pulse.record(look(responded.get().into(), requested == responded));
        }
    }
}

/// Time in which the card's heartbeat must move, and it says how it is.
pub(super) fn period(beat: &Heartbeat) -> Duration {
    match beat.period {
        Duration::ZERO => PERIOD_DEFAULT,
        stated => stated.min(PERIOD_MAX),
    }
}

/// One reading of a counter that the card owns.
#[derive(Clone, Copy, Debug)]
struct Counter {
    /// Under which boot, and how far.
    value: (u32, u32),
    /// When it was read from the card.
    read_at: Instant,
    /// Time in which it must move.
    period: Duration,
    /// Age at which the reading no longer tells.
    patience: Duration,
    /// Whether it has no reason to move.
    idle: bool,
    /// Whether our own poll was on time, or the owner's readings were.
    on_time: bool,
}

/// Whether a counter that the card owns moves.
///
/// A poll counts against the card only if it was on time itself, or the owner was seen to be all the
/// time since, and if the owner has read the card again in the meantime, at least one period later:
/// otherwise it would blame the card for a host or an owner that stood still. Three such polls *in a
/// row* are needed, so one that is late with everybody else starts the count over.
#[derive(Clone, Debug, Default)]
pub struct Pulse {
    last: Option<((u32, u32), Instant)>,
    moved: bool,
    unmoved_polls: u32,
    /// Age at which a reading no longer tells.
    patience: Duration,
}

impl Pulse {
    /// Polls in a row that count against the card.
    #[must_use]
    pub const fn unmoved_polls(&self) -> u32 {
        self.unmoved_polls
    }

    /// Whether it has been seen to move, not to stand still since, and is still being read.
    #[must_use]
    pub fn is_moving(&self, now: Instant) -> bool {
        let being_read = self
            .last
            .is_some_and(|(_, read_at)| now.since(read_at) <= self.patience);
        self.moved && self.unmoved_polls == 0 && being_read
    }

    /// When it was read last, as far as that reading told anything.
    fn read_at(&self) -> Option<Instant> {
        self.last.map(|(_, read_at)| read_at)
    }

    /// Whether it has ever been seen to move.
    #[must_use]
    pub const fn has_moved(&self) -> bool {
        self.moved
    }

    fn record(&mut self, counter: Counter) {
        self.patience = counter.patience;
        let Some((value, read_at)) = self.last else {
            self.last = Some((counter.value, counter.read_at));
            return;
        };
        if value != counter.value || counter.idle {
            self.moved |= value != counter.value;
            self.unmoved_polls = 0;
        } else if !counter.on_time {
            self.unmoved_polls = 0;
        } else if counter.read_at.since(read_at) < counter.period {
            // Too soon to tell; the next reading is compared with the same one.
            return;
        } else {
            self.unmoved_polls = self.unmoved_polls.saturating_add(1);
        }
        self.last = Some((counter.value, counter.read_at));
    }
}
