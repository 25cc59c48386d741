//! Drives a virtio-crypto device.
//!
//! ```text
//!   card        accelerator: requests, sessions, deadlines
//!    |  \
//!    |   request      operations <-> bytes on the wire
//!   queue       split virtqueue that believes nothing
//!    |
//!   transport   registers, features, reset
//!    |
//!   bus::Function
//! ```
//!
//! Everything a device says is a number until it has been checked here, and what it may do wrong
//! has a name in [`crate::accelerator::DeviceMisbehaved`].

mod card;
mod health;
mod queue;
mod request;
mod transport;

pub use card::{Card, Connect, Options};
pub use health::{HealthPort, HealthReadError};
pub use queue::{Full, Queue, QueueSpec, Used};
