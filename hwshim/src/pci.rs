//! What is on the PCI bus of this host.
