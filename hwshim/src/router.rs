//! Chooses where work goes, and decides when an answer may leave.

pub mod verify;
