//! The card as a driver sees it: in process, and over vfio-user.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "whatever fails here fails the test, and its numbers are small"
)]

mod card;
mod driver;
mod interposer;
mod server;
