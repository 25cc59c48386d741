//! What the light of a card says, from one look at its health page to the next, and whether it blinks
//! as busy as the card is said to be.
//!
//! How busy that is, is said every ten seconds, by whoever serves the card. Blinks are counted from one
//! such word to the next, in the time of the firmware, and count if both say the same.

use crate::attribution::{Dossier, Kind};
use crate::led::{Agreement, Decoder, EdgeLog, Load, LoadCheck, NewEdges, Profile, Reading};
use card_spec::health::Summary;
use hwshim::clock::Instant;

/// Polls in a row that must read a fault from the light: between one signal and the next, anything
/// may be read.
const AT_FAULT: u32 = 3;

/// A light that is read.
#[derive(Debug)]
pub(super) struct Light {
    profile: Profile,
    decoder: Decoder,
    log: EdgeLog,
    /// Polls in a row that read a fault from it.
    at_fault: u32,
    /// Only of an nShield is known how it blinks under load.
    against_load: Option<AgainstLoad>,
}

/// How often it blinks, as busy as the card is said to be.
#[derive(Debug, Default)]
struct AgainstLoad {
    check: LoadCheck,
    load: Option<Load>,
    span: Option<Span>,
    /// The uptime of the firmware, as it said last.
    uptime: Instant,
}

/// The time since it was last said how busy the card is.
#[derive(Debug)]
struct Span {
    load: Load,
    /// By the uptime of the firmware.
    from: Instant,
    blinks: u32,
}

impl Light {
    pub(super) fn new(profile: Profile) -> Self {
        Self {
            profile,
            decoder: Decoder::new(profile),
            log: EdgeLog::new(),
            at_fault: 0,
            against_load: (profile == Profile::Nshield).then(AgainstLoad::default),
        }
    }

    /// Whether it matters how busy the card is.
    pub(super) const fn wants_load(&self) -> bool {
        self.against_load.is_some()
    }

    /// It is said to be so busy; `None` if nobody says so.
    pub(super) fn hear(&mut self, load: Option<Load>) {
        if let Some(against_load) = &mut self.against_load {
            against_load.load = load;
        }
    }

    /// How busy the card is said to be now, and whether it blinks so; `None` if nobody says so.
    pub(super) fn load(&self) -> Option<(Load, Agreement)> {
        let AgainstLoad { check, load, .. } = self.against_load.as_ref()?;
        Some(((*load)?, check.agreement()))
    }

    /// What was seen of that, in words.
    pub(super) fn seen_under_load(&self) -> Option<String> {
        Some(self.against_load.as_ref()?.check.in_words())
    }

    /// Whose lights it shines like.
    pub(super) const fn profile(&self) -> Profile {
        self.profile
    }

    pub(super) fn reading(&self) -> Reading {
        self.decoder.reading()
    }

    /// Takes in a health page that was read anew.
    pub(super) fn poll(&mut self, summary: &Summary, now: Instant, dossier: &mut Dossier) {
        let edges = self.log.read(summary);
        edges.tell(&mut self.decoder);
        let reading = self.decoder.reading();
        if let Some(against_load) = &mut self.against_load {
            // What it signals is no matter of load.
            if against_load.count(&edges, reading == Reading::Operational) {
                against_load.weigh(now, dossier);
            }
        }
        self.at_fault = match reading.is_fault() {
            true => self.at_fault.saturating_add(1),
            false => 0,
        };
        if self.at_fault >= AT_FAULT {
            dossier.seen(Kind::LedFault, 1.0, format!("the light: {reading}"), now);
        } else if !reading.is_fault() && reading != Reading::Unknown {
            dossier.not_seen(Kind::LedFault, format!("the light: {reading}"), now);
        }
    }
}

impl AgainstLoad {
    /// Whether something was counted that had not been: what was counted before is no news of now, the
    /// less so where nobody says any more how busy the card is.
    fn count(&mut self, edges: &NewEdges, is_operational: bool) -> bool {
        let (now, _) = edges.now;
        if now < std::mem::replace(&mut self.uptime, now) {
            // Firmware that has restarted may be another, and blink otherwise.
            (self.check, self.span) = (LoadCheck::new(), None);
        }
        let Some(load) = self.load.filter(|_| is_operational && !edges.gap) else {
            self.span = None;
            return false;
        };
        let new = Span {
            load,
            from: now,
            blinks: 0,
        };
        let Some(span) = &mut self.span else {
            self.span = Some(new);
            return false;
        };
        let went_off = edges.edges.iter().filter(|(_, lit)| !lit).count();
        let went_off = u32::try_from(went_off).unwrap_or(u32::MAX);
        span.blinks = span.blinks.saturating_add(went_off);
        if load.said_at == span.load.said_at {
            return false;
        }
        let loads = [span.load.share, load.share];
        let (blinks, elapsed) = (span.blinks, now.since(span.from));
        *span = new;
        self.check.add_between(loads, blinks, elapsed)
    }

    /// A light and figures that contradict each other cast doubt on both.
    fn weigh(&self, now: Instant, dossier: &mut Dossier) {
        match self.check.agreement() {
            Agreement::Unknown => {}
            Agreement::Agrees => {
                let detail = "the light blinks as busy as the card is said to be";
                dossier.not_seen(Kind::LightAgainstLoad, detail, now);
            }
            Agreement::Disagrees => {
                let detail = self.check.in_words();
                dossier.seen(Kind::LightAgainstLoad, 1.0, detail, now);
            }
        }
    }
}
