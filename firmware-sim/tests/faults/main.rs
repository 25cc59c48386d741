//! Every fault of a card, its link and its light, seen by a driver.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "whatever fails here fails the test, and its numbers are small"
)]

mod answers;
mod delivery;
#[path = "../../device/tests/device/driver.rs"]
#[expect(dead_code, reason = "shared with the tests of card-device")]
mod driver;
mod firmware;
mod light;
mod link;
mod setup;
