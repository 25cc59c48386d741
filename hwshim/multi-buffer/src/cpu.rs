//! Which instructions of the processor crypto_mb needs and does not find.
//!
//! The library has a slower path for AVX-IFMA without AVX-512; that one is not asked for, because
//! it has not been measured against anything.

/// The instructions that are missing; none if the processor has them all and the operating system
/// saves their registers.
#[cfg(target_arch = "x86_64")]
pub(crate) fn missing_features() -> Vec<&'static str> {
    use std::arch::is_x86_feature_detected;
    let features = [
        ("AVX512F", is_x86_feature_detected!("avx512f")),
        ("AVX512DQ", is_x86_feature_detected!("avx512dq")),
        ("AVX512BW", is_x86_feature_detected!("avx512bw")),
        ("AVX512-IFMA", is_x86_feature_detected!("avx512ifma")),
        ("AVX512-VBMI2", is_x86_feature_detected!("avx512vbmi2")),
        ("BMI2", is_x86_feature_detected!("bmi2")),
    ];
    let missing = features.into_iter().filter(|(_, found)| !found);
    missing.map(|(name, _)| name).collect()
}

/// Only x86-64 has any of them.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn missing_features() -> Vec<&'static str> {
    vec!["AVX512-IFMA"]
}
