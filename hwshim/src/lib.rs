//! Drives PCI crypto accelerator cards from user space.
