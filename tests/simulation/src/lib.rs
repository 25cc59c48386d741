//! Deterministic simulation: driver, policy and a card that fails, in one thread and on a clock of
//! its own.
//!
//! A [`Plan`] is drawn from a seed and says what goes wrong, when and for how long; [`run`] lives
//! through it, in less real time than the card needs for a beat, and checks at every step what
//! must be true whatever happens ([`Invariant`]). One seed is one course of events, so a failure
//! found in a million runs is found again in one.

pub mod campaign;
mod evidence;
mod incident;
mod invariant;
mod kernel;
pub mod matrix;
mod plan;
mod replay;
mod service;
mod slot;
mod trace;
mod trouble;
mod watcher;
mod witness;
mod workload;
mod world;

pub use incident::Incident;
pub use invariant::Invariant;
pub use monitor::verdict;
pub use plan::{Filter, LASTING_MIN, Phase, Plan};
pub use trouble::{HostTrouble, Mishap, Trouble, Troubles, Truth};
pub use watcher::Opinion;
pub use world::{Failure, IncidentOutcome, Outcome, run, run_traced};
