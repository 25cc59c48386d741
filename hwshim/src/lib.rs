//! Drives PCI crypto accelerator cards from user space.

pub mod accelerator;
pub mod address;
pub mod bus;
pub mod clock;
pub mod kat;
pub mod key;
pub mod owner;
pub mod pci;
pub mod router;
pub mod stop;
pub mod telemetry;
pub mod virtio;

pub use card_spec as spec;
