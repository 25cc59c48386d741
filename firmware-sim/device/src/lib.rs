//! Device side of a virtio-crypto card, honest: configuration space, registers, queues, health
//! page, reachable in process or over vfio-user.
//!
//! What executes a request is the trait [`Engine`]; this crate contains no cryptography. It
//! tells no lies either: faults are layers that wrap an engine, and an [`interposer`].
//!
//! | module | what |
//! |---|---|
//! | [`card`] | the function as a plain value, without threads or I/O |
//! | [`batch`] | requests on their way through an engine |
//! | [`clock`] | the time, for loops at the edge |
//! | [`engine`] | the seam: sessions and operations |
//! | [`request`] | from bytes to operations |
//! | [`virtqueue`] | device side of the split virtqueue |
//! | [`dma`] | the memory a driver has shared |
//! | [`health`] | the health page |
//! | [`firmware`] | the card at work: engine threads and bus thread |
//! | [`server`] | vfio-user |
//! | [`interrupt`] | eventfds that stand for vectors |
//! | [`interposer`] | the seam for whoever stands between card and driver |

pub mod batch;
pub mod card;
pub mod clock;
mod config_space;
pub mod dma;
pub mod engine;
pub mod firmware;
pub mod health;
pub mod interposer;
pub mod interrupt;
mod registers;
pub mod request;
pub mod server;
mod session;
pub mod virtqueue;

pub use batch::Batch;
pub use card::{Card, CardConfig, CardConfigError};
pub use engine::Engine;
pub use health::Identity;

/// The lower and the upper half of a 64-bit register.
const fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    ]
}

/// Copies the bytes that `from`, which starts at address `from_start`, and `to`, which starts at
/// `to_start`, have in common.
fn copy_overlap(from_start: u64, from: &[u8], to_start: u64, to: &mut [u8]) {
    let start = from_start.max(to_start);
    let end = from_start
        .saturating_add(from.len() as u64)
        .min(to_start.saturating_add(to.len() as u64));
    let index = |address: u64, base: u64| usize::try_from(address - base).ok();
    if start >= end {
        return;
    }
    if let (Some(source), Some(target), Some(len)) = (
        index(start, from_start),
        index(start, to_start),
        index(end, start),
    ) {
        to[target..target + len].copy_from_slice(&from[source..source + len]);
    }
}
