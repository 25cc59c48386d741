//! Drives PCI crypto accelerator cards from user space.

pub mod bus;
pub mod clock;
pub mod pci;
pub mod telemetry;

pub use card_spec as spec;
