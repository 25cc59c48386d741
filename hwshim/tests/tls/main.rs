//! Servers that use rustls, and real clients of theirs: whatever the accelerator does, a client sees
//! right signatures and no failed handshake.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

mod base;
mod bases;
mod certificates;
mod example;
mod faults;
mod handshakes;
mod hostile;
mod openssl;
mod scripted;
mod server;
mod unchanged;
#[path = "../until/mod.rs"]
mod until;
