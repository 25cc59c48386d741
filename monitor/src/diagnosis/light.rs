//! What the light of a card says, from one look at its health page to the next.

use crate::attribution::{Dossier, Kind};
use crate::led::{Decoder, EdgeLog, Profile, Reading};
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
}

impl Light {
    pub(super) fn new(profile: Profile) -> Self {
        Self {
            profile,
            decoder: Decoder::new(profile),
            log: EdgeLog::new(),
            at_fault: 0,
        }
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
        self.log.take(summary, &mut self.decoder);
        let reading = self.decoder.reading();
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
