//! What the light of a card says, as it is shown.

use crate::diagnosis::Diagnosis;
use crate::led::Profile;
use serde::{Deserialize, Serialize};

/// A light that is read.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LightFigures {
    /// Whose lights it is read like.
    pub profile: Profile,
    /// What it says, in words.
    pub says: String,
    /// Whether that is a fault, or that it has no power.
    pub is_fault: bool,
}

impl LightFigures {
    /// What was read of late; `None` if nobody has said whose lights it shines like.
    pub(crate) fn of(diagnosis: &Diagnosis) -> Option<Self> {
        let (profile, reading) = diagnosis.light()?;
        Some(Self {
            profile,
            says: reading.to_string(),
            is_fault: reading.is_fault(),
        })
    }
}
