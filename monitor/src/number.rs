//! Counts as the floating-point numbers that gauges, samples and statistics are made of.

/// Exact up to 2^53: what is measured has no digits beyond that which would matter.
#[expect(clippy::cast_precision_loss, reason = "see above")]
pub(crate) const fn lossy(value: u64) -> f64 {
    value as f64
}
