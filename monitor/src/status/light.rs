//! What the light of a card says, as it is shown.

use crate::diagnosis::Diagnosis;
use crate::led::{Agreement, Profile};
use serde::{Deserialize, Serialize};

/// A light that is read.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct LightFigures {
    /// Whose lights it is read like.
    pub profile: Profile,
    /// What it says, in words.
    pub says: String,
    /// Whether that is a fault, or that it has no power.
    pub is_fault: bool,
    /// How busy the card is said to be, which is held against how often its light blinks; `null` where
    /// nobody says so, or lights of its kind tell nothing of it.
    #[serde(default)]
    pub load: Option<LoadFigures>,
}

/// How busy a card is said to be.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct LoadFigures {
    /// Of what it can do, from 0 to 1.
    pub share: f64,
    /// Whether its light blinks so: `unknown`, `agrees` or `disagrees`.
    pub light: Agreement,
}

impl LightFigures {
    /// What was read of late; `None` if nobody has said whose lights it shines like.
    pub(crate) fn of(diagnosis: &Diagnosis) -> Option<Self> {
        let (profile, reading) = diagnosis.light()?;
        Some(Self {
            profile,
            says: reading.to_string(),
            is_fault: reading.is_fault(),
            load: diagnosis.load().map(|(load, light)| LoadFigures {
                share: load.share,
                light,
            }),
        })
    }
}
