//! What is at fault, by the evidence: weighed in the crate `attribution`, which knows neither calendar nor
//! record. What is on record to have been changed is made evidence here.

mod recent;

pub use ::attribution::*;
pub use recent::{CHANGES_FOR, Changed, HOST, RecentChanges};
