//! Honest device side of virtio-crypto.
