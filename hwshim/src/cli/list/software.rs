//! The accelerators that every host has: its own processors.
//!
//! Says what the processor offers, and whether the library is there that one of them needs. How
//! fast that makes it, `hwshim bench` measures.

use crate::cli::crypto_mb::CryptoMb;
use crate::cli::output::with_causes;
use hwshim::accelerator::multi_buffer;
use hwshim::address::{self, Address};
use serde::{Serialize, Serializer};

/// A software accelerator of this host.
#[derive(Debug, Serialize)]
pub(super) struct Software {
    /// Accelerator address.
    #[serde(serialize_with = "as_text")]
    pub(super) address: Address,
    /// Instructions of this processor that speed up cryptography.
    pub(super) cpu_features: Vec<&'static str>,
    /// Whether it can be used.
    pub(super) usable: bool,
    /// What it needs besides this program, and where that was found; `null` if nothing.
    pub(super) library: Option<String>,
    /// Why it cannot be used, or `null`.
    pub(super) reason: Option<String>,
}

fn as_text<S: Serializer>(address: &Address, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(address)
}

/// Lists them.
pub(super) fn detect(crypto_mb: &CryptoMb) -> Vec<Software> {
    let offered = cpu_features().into_iter();
    let cpu_features: Vec<_> = offered
        .filter_map(|(name, offered)| offered.then_some(name))
        .collect();
    let library = multi_buffer::look(crypto_mb.path()).map_err(|error| with_causes(&error));
    vec![
        Software {
            address: Address::Software(address::Software::Ring),
            cpu_features: cpu_features.clone(),
            usable: true,
            library: None,
            reason: None,
        },
        Software {
            address: Address::Software(address::Software::MultiBuffer),
            cpu_features,
            usable: library.is_ok(),
            reason: library.as_ref().err().cloned(),
            library: library.ok(),
        },
    ]
}

/// AES-NI and VAES carry AES-GCM, SHA-NI hashes, ADX multiplies for RSA, AVX512-IFMA multiplies
/// eight at a time.
#[cfg(target_arch = "x86_64")]
fn cpu_features() -> [(&'static str, bool); 5] {
    use std::arch::is_x86_feature_detected;
    [
        ("AES-NI", is_x86_feature_detected!("aes")),
        ("VAES", is_x86_feature_detected!("vaes")),
        ("SHA-NI", is_x86_feature_detected!("sha")),
        ("ADX", is_x86_feature_detected!("adx")),
        ("AVX512-IFMA", is_x86_feature_detected!("avx512ifma")),
    ]
}

#[cfg(target_arch = "aarch64")]
fn cpu_features() -> [(&'static str, bool); 3] {
    use std::arch::is_aarch64_feature_detected;
    [
        ("AES", is_aarch64_feature_detected!("aes")),
        ("SHA2", is_aarch64_feature_detected!("sha2")),
        ("SHA3", is_aarch64_feature_detected!("sha3")),
    ]
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn cpu_features() -> [(&'static str, bool); 0] {
    []
}
