//! Wire truth: layouts and constants copied out of specifications, and nothing else.
//!
//! Driver, device and monitor all build on this crate, so it imports nothing from the rest of
//! the workspace, performs no I/O, holds no policy and contains no unsafe code. Because a
//! mistake here would be shared by both sides of a wire and so cancel out, `tests/golden.rs`
//! pins every layout to bytes written out by hand from the specification.
//!
//! | module | what | source |
//! |---|---|---|
//! | [`pci`] | configuration space, capability lists | PCI Local Bus 3.0, PCI Express Base |
//! | [`virtio_pci`] | the PCI transport, "modern" only | virtio 1.3 §4.1 "Virtio Over PCI Bus" |
//! | [`virtqueue`] | the split virtqueue | virtio 1.3 §2.7 "Split Virtqueues" |
//! | [`crypto`] | the crypto device, session requests | virtio 1.3 §5.9 "Crypto Device" |
//! | [`health`] | the health page of a card | this project, after NVMe and PCIe AER |
//! | [`vfio`] | regions, interrupts and DMA maps of a device | `linux/vfio.h` |
//! | [`vfio_user`] | the same, as messages on a socket | vfio-user protocol 0.0 |
//! | [`telemetry`] | the page a card's owner publishes | this project |

pub mod crypto;
pub mod health;
pub mod pci;
pub mod telemetry;
pub mod vfio;
pub mod vfio_user;
pub mod virtio_pci;
pub mod virtqueue;

pub use zerocopy;
