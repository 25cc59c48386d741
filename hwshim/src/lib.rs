//! Drives PCI crypto accelerator cards from user space, verifies what they return, and finishes in
//! software what they do not answer well.
//!
//! ```text
//!   terminator           a whole TLS server, before one that speaks TCP
//!     |
//!   provider, acceptor   RSA signatures of a TLS server (rustls, tokio)
//!     |
//!   router        which accelerator, by when, and whether its answer may leave
//!     |   \
//!     |    accelerator::software (ring)
//!   virtio        a virtio-crypto card as an accelerator                 SEAM accelerator
//!     |
//!   bus           a PCI function: VFIO, vfio-user, in process            SEAM bus::Function
//!     |
//!   card, or firmware-sim
//! ```
//!
//! Start with [`router::Router`]; [`address::Address`] opens what it routes to. [`owner`] watches a
//! card and publishes its [`telemetry`]; [`pci`] finds cards and drives none.
//!
//! This library does not judge whether a card is healthy. It protects callers, within
//! milliseconds and from its own deadlines alone; the verdict is the monitor's.

pub mod accelerator;
#[cfg(feature = "tls")]
pub mod acceptor;
pub mod address;
pub mod bus;
pub mod clock;
pub mod kat;
pub mod key;
#[cfg(test)]
mod model;
pub mod owner;
pub mod pci;
#[cfg(feature = "tls")]
pub mod provider;
pub mod router;
pub mod stop;
pub mod telemetry;
#[cfg(feature = "tls")]
pub mod terminator;
pub mod virtio;

pub use card_spec as spec;

/// The examples of the README compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
