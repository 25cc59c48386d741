//! Turns what was seen of one card, poll after poll, into evidence, and has it weighed.
//!
//! Rules say how a card is from one look; this remembers the looks before, which it takes to see
//! that answers have become slow, interrupts are lost, a light blinks irregularly or a host is
//! starved. It reads nothing and decides nothing: evidence goes into a dossier, and
//! [`attribution`](crate::attribution) weighs it.
//!
//! ```text
//!   look --+--> card     counter, answers, what it says of itself --+
//!          +--> link     interrupts, errors, speed and width -------+--> dossier --> assessment
//!          +--> light    edges, decoded ----------------------------+
//!          +--> host     pressure, soft interrupts, steal, lateness +
//! ```
//!
//! What was looked for and not there is evidence too, but only where it would have been seen.

mod answers;
pub(crate) mod function;
mod host;
mod light;
pub(crate) mod link;
mod refusals;
pub(crate) mod sensors;

use crate::attribution::{
    Assessment, Circumstances, Counter, Kind, Priors, Prospect, RecentChanges, Scales, Weighing,
};
use crate::led::{Agreement, Load, Profile, Reading};
use crate::local_health::LocalHealth;
use crate::probe::{Owner, OwnerId};
use crate::rules::{
    Case, breaks_a_rule, has_released, heartbeat_is_moving, is_lost_to_the_bus, is_paused,
    is_silence, may_be_out_for_a_pause, may_have_been_tested_in_a_pause,
};
use answers::Answers;
use card_spec::health::Summary;
use card_spec::telemetry::{Page, breaker_state, card_state, check_result};
use host::HostHealth;
use hwshim::clock::{Instant, nanos};
use light::Light;
use link::LinkDeltas;
use refusals::Refusals;
use std::time::Duration;

/// So long after what no host can bring about, no starved host clears a card. That is also a heartbeat
/// that stood still while the host let us look on time.
const REMEMBERED: Duration = Duration::from_secs(60);

/// That some other cards went wrong tells less than that all did.
const SOME_OF_MANY: f64 = 0.7;

/// What became of the other cards of a host when one of them went wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Others {
    /// So many went wrong at the same time.
    pub hit: usize,
    /// Of so many.
    pub of: usize,
}

/// Keeps the evidence about one card.
#[derive(Debug)]
pub struct Diagnosis {
    scales: Scales,
    host: HostHealth,
    link: LinkDeltas,
    answers: Answers,
    refusals: Refusals,
    light: Option<Light>,
    /// How often the card's health had been read when it was weighed last.
    health_reads: u64,
    /// Whose they are, and how many restarts of the firmware and lost sessions they had counted.
    lost: Option<(Option<OwnerId>, u64, u64)>,
    /// Polls in a row, on time, in which the heartbeat was found to stand still.
    frozen_polls: u32,
    /// When it last was in enough of them.
    froze_at: Option<Instant>,
}

impl Diagnosis {
    /// Knows nothing. The light is read if it is known whose it shines like.
    #[must_use]
    pub fn new(light: Option<Profile>, now: Instant) -> Self {
        Self {
            scales: Scales::new(Priors::default(), now),
            host: HostHealth::new(now),
            link: LinkDeltas::default(),
            answers: Answers::default(),
            refusals: Refusals::default(),
            light: light.map(Light::new),
            health_reads: 0,
            lost: None,
            frozen_polls: 0,
            froze_at: None,
        }
    }

    /// What each piece of evidence did to every hypothesis in the last poll.
    #[must_use]
    pub fn weighings(&self) -> Vec<Weighing> {
        self.scales.weighings()
    }

    /// What would tell more, as of the last poll, the cheapest for what it tells first; nothing
    /// where nothing is wrong.
    #[must_use]
    pub fn prospects(&self) -> &[Prospect] {
        self.scales.prospects()
    }

    /// What is believed to be at fault, as of the last poll.
    #[must_use]
    pub const fn assessment(&self) -> &Assessment {
        self.scales.assessment()
    }

    /// How far our own senses can be trusted.
    #[must_use]
    pub const fn local_health(&self) -> &LocalHealth {
        self.host.local_health()
    }

    /// What the light says, and as whose it is read, if it is.
    #[must_use]
    pub fn light(&self) -> Option<(Profile, Reading)> {
        let light = self.light.as_ref()?;
        Some((light.profile(), light.reading()))
    }

    /// Whether how busy the card is said to be would tell anything.
    #[must_use]
    pub fn wants_load(&self) -> bool {
        self.light.as_ref().is_some_and(Light::wants_load)
    }

    /// Takes in what became of the host's other cards when this one went wrong.
    pub fn weigh_others(&mut self, others: Others, now: Instant) {
        let Others { hit, of } = others;
        let dossier = &mut self.scales.dossier;
        if hit == 0 {
            let detail = format!("no other of {} cards went wrong when it did", of + 1);
            dossier.not_seen(Kind::OtherCardsToo, detail, now);
        } else {
            let all_or_some = if hit == of { 1.0 } else { SOME_OF_MANY };
            let detail = format!("{hit} of {of} other cards went wrong when it did");
            dossier.seen(Kind::OtherCardsToo, all_or_some, detail, now);
        }
    }

    /// Takes in how busy the card is said to be; `None` if nobody says so.
    pub fn hear_load(&mut self, load: Option<Load>) {
        if let Some(light) = &mut self.light {
            light.hear(load);
        }
    }

    /// How busy the card is said to be, and whether its light blinks so.
    #[must_use]
    pub fn load(&self) -> Option<(Load, Agreement)> {
        self.light.as_ref()?.load()
    }

    /// What was seen of the light while it was said how busy the card is, in words, if its light
    /// contradicts that.
    #[must_use]
    pub fn contradiction(&self) -> Option<String> {
        let light = self.light.as_ref()?;
        let (_, agreement) = light.load()?;
        (agreement == Agreement::Disagrees).then(|| light.seen_under_load())?
    }

    /// Takes in what was changed in the last day of any of `subjects`.
    pub fn weigh_changes(&mut self, changes: &RecentChanges, subjects: &[&str], now: Instant) {
        changes.weigh(subjects, &mut self.scales.dossier, now);
    }

    /// Takes in what a poll saw.
    pub fn poll(&mut self, case: &Case<'_>) {
        self.host.poll(case, &mut self.scales.dossier);
        self.link.poll(case, &mut self.scales.dossier);
        if let Ok(page) = &case.look.page {
            self.weigh_card(page, case);
        }
        let sensors = case.look.sensors.as_deref();
        sensors::weigh(sensors, case.look.at, &mut self.scales.dossier);
        self.weigh_owner(case);
        let circumstances = self.circumstances(case);
        self.scales.weigh(&circumstances, case.look.at);
    }

    fn circumstances(&self, case: &Case<'_>) -> Circumstances {
        let counter = match case.memory.pulse().unmoved_polls() {
            _ if heartbeat_is_moving(case) => Counter::Moved,
            0 => Counter::Unread,
            polls => Counter::Still { polls },
        };
        let now = case.look.at;
        let remembered = Instant::from_nanos(now.as_nanos().saturating_sub(nanos(REMEMBERED)));
        let dossier = &self.scales.dossier;
        Circumstances {
            local_health: self.host.worst_of_late(now),
            counter,
            // A host that let us look on time has not stopped a card on the bus either.
            is_no_matter_of_time: dossier.shows_no_matter_of_time(remembered)
                || self.froze_lately(now),
            is_warming_up: false,
        }
    }

    fn froze_lately(&self, now: Instant) -> bool {
        self.froze_at.is_some_and(|at| now.since(at) < REMEMBERED)
    }

    fn weigh_card(&mut self, page: &Page, case: &Case<'_>) {
        let now = case.look.at;
        let frozen = case.memory.pulse().unmoved_polls();
        let was_frozen = std::mem::replace(&mut self.frozen_polls, frozen);
        let froze_lately = self.froze_lately(now);
        let dossier = &mut self.scales.dossier;
        if frozen >= case.limits.frozen_polls {
            let detail = format!("it stood still in {frozen} polls that were on time");
            dossier.seen(Kind::CounterFrozen, 1.0, detail, now);
            // What an owner that stands still itself has left on its page is no news.
            if was_frozen < frozen {
                self.froze_at = Some(now);
            }
        } else if heartbeat_is_moving(case) {
            let is_used = page.breaker.state.get() == breaker_state::CLOSED;
            // Why a card is out of use is the same as when it came to be: that it moves again is
            // no more than a beginning.
            if is_used || !froze_lately {
                dossier.counter_moved("it moves", now);
            }
        }
        let was_reached = matches!(dossier.sight(Kind::ConfigAllOnes, now), Some((false, _)));
        if page.card.state.get() == card_state::GONE && !was_reached {
            // It stays so when later attempts to reach it fail in other ways.
            let detail = "the owner found that the card is gone";
            dossier.seen(Kind::ConfigAllOnes, 1.0, detail, now);
        }
        // The owner drives the card itself: as long as it publishes, no service stands between.
        let detail = "the owner publishes, and drives the card itself";
        if case.memory.page_moved() {
            dossier.not_seen(Kind::CounterMovesNoReply, detail, now);
        }
        dossier.in_flight(page.requests.in_flight.get(), now);
        // What a card that has been told to pause does not answer, it need not.
        if !is_paused(case) {
            if !may_be_out_for_a_pause(case) {
                self.weigh_breaker(page, now);
            }
            if !may_have_been_tested_in_a_pause(case) {
                self.weigh_check(page, now);
            }
        }
        if self.link.interrupts_are_lost() {
            // Whoever waits for an interrupt that does not come waits long.
            self.answers = Answers::default();
        }
        if self.link.interrupts_may_be_lost() {
            // Nor does a test say how quick a card is that may have waited for one.
            self.answers.pass_over(page);
        } else {
            self.answers.poll(page, now, &mut self.scales.dossier);
        }
        self.refusals.poll(page, now, &mut self.scales.dossier);
        self.weigh_losses(page, now);
        // What was read before a card went away, or hangs, says nothing of how it is now.
        let reads = page.card.health_reads.get();
        let was_read = std::mem::replace(&mut self.health_reads, reads) != reads;
        if let Ok(summary) = Summary::parse(&page.health)
            && was_read
        {
            self.weigh_health(&summary, now);
        }
    }

    fn weigh_breaker(&mut self, page: &Page, now: Instant) {
        if page.breaker.state.get() == breaker_state::CLOSED {
            let detail = "the breaker is closed";
            self.scales.dossier.not_seen(Kind::BusError, detail, now);
            return;
        }
        let code = page.opened_by();
        let detail = format!("the breaker was opened by {code}");
        let kind = match code.as_str() {
            "gone" => Kind::ConfigAllOnes,
            "bus-error" => Kind::BusError,
            "wrong-answer" | "repeated-nonce" => Kind::WrongAnswer,
            "silent-reboot" => Kind::SilentReboot,
            // Whoever did not run for long finds that nothing has moved for long.
            code if is_silence(code) => Kind::NoAnswer,
            "session-refused" => Kind::CheckFailed,
            code if code.starts_with("status-") => Kind::CheckFailed,
            code if breaks_a_rule(code) => Kind::RuleBroken,
            _ => return,
        };
        self.scales.dossier.seen(kind, 1.0, detail, now);
    }

    fn weigh_check(&mut self, page: &Page, now: Instant) {
        let seen = match page.checks.last_result.get() {
            check_result::PASSED => {
                for kind in [Kind::NoAnswer, Kind::CheckFailed] {
                    let detail = "the last known-answer test passed";
                    // A breaker that is open says otherwise, and more of late.
                    if page.breaker.state.get() == breaker_state::CLOSED {
                        self.scales.dossier.not_seen(kind, detail, now);
                    }
                }
                return;
            }
            check_result::WRONG_ANSWER => (Kind::WrongAnswer, "a wrong answer"),
            check_result::FAILED => (Kind::CheckFailed, "an error status"),
            check_result::TIMED_OUT => (Kind::NoAnswer, "no answer in time"),
            check_result::MISBEHAVED if is_lost_to_the_bus(&page.opened_by()) => return,
            check_result::MISBEHAVED => (Kind::RuleBroken, "a breach of the interface"),
            _ => return,
        };
        let (kind, what) = seen;
        let detail = format!("the last known-answer test got {what}");
        self.scales.dossier.seen(kind, 1.0, detail, now);
    }

    fn weigh_losses(&mut self, page: &Page, now: Instant) {
        let owner = OwnerId::of(page);
        let (reboots, sessions) = (page.card.silent_reboots.get(), page.sessions_lost.get());
        let (before, at) = match self.lost.replace((owner, reboots, sessions)) {
            Some((same, reboots, sessions)) if same == owner => ((reboots, sessions), now),
            _ => match brought_up_at(page) {
                Some(at) if at <= now => ((0, 0), at),
                _ => return,
            },
        };
        let dossier = &mut self.scales.dossier;
        if before.0 < reboots {
            let detail = format!("the firmware has restarted unasked {reboots} times");
            dossier.seen(Kind::SilentReboot, 1.0, detail, at);
        }
        if before.1 < sessions {
            let detail = format!("the card has forgotten {sessions} sessions");
            dossier.seen(Kind::SessionsLost, 1.0, detail, at);
        }
    }

    fn weigh_health(&mut self, summary: &Summary, now: Instant) {
        use card_spec::health::{ControllerStatus, CriticalWarning};
        let status = ControllerStatus::from_bits(summary.controller_status.get());
        let warning = CriticalWarning::from_bits(summary.critical_warning);
        let dossier = &mut self.scales.dossier;
        if status.fatal() || warning.fail_closed() || warning.reliability_degraded() {
            let detail = "the firmware reports that the card has failed";
            dossier.seen(Kind::CardSaysFailed, 1.0, detail, now);
        } else {
            let detail = "the firmware reports nothing";
            dossier.not_seen(Kind::CardSaysFailed, detail, now);
        }
        if let Some(detail) = crate::live::too_hot(summary) {
            dossier.seen(Kind::OutOfRange, 1.0, detail, now);
        } else {
            dossier.not_seen(Kind::OutOfRange, "its temperature is in range", now);
        }
        if let Some(light) = &mut self.light {
            light.poll(summary, now, dossier);
        }
    }

    fn weigh_owner(&mut self, case: &Case<'_>) {
        let now = case.look.at;
        match &case.look.owner {
            _ if has_released(case) => {
                let detail = "the owner let go of the card in an orderly way";
                self.scales.dossier.not_seen(Kind::OwnerGone, detail, now);
            }
            Some(Ok(Owner::Ended)) => {
                let detail = "the owner's process has ended";
                self.scales.dossier.seen(Kind::OwnerGone, 1.0, detail, now);
            }
            Some(Ok(Owner::Alive(process))) => {
                let detail = format!("the owner's process {} is there", process.id.pid);
                self.scales.dossier.not_seen(Kind::OwnerGone, detail, now);
            }
            _ => {}
        }
    }
}

/// When the owner brought the card up, if it did once: all that it has counted came after that. What an
/// owner has counted who had to do it again may be long ago.
fn brought_up_at(page: &Page) -> Option<Instant> {
    let card = &page.card;
    let once = card.state.get() == card_state::READY && card.resets.get() == 1;
    once.then(|| Instant::from_nanos(card.state_since_ns.get()))
}
