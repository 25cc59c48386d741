//! The standard normal distribution.

use std::f64::consts::SQRT_2;

/// The probability of a value greater than `z`. Not a number if `z` is none.
#[must_use]
pub fn tail(z: f64) -> f64 {
    libm::erfc(z / SQRT_2) / 2.0
}

/// The value that is exceeded with probability `1 - probability`: 1.96 for 0.975.
///
/// Infinite at 0 and 1, and not a number outside of them.
#[must_use]
pub fn quantile(probability: f64) -> f64 {
    if !(0.0..=1.0).contains(&probability) {
        return f64::NAN;
    }
    if probability > 0.5 {
        return -quantile(1.0 - probability);
    }
    if probability == 0.0 {
        return f64::NEG_INFINITY;
    }
    // The tail is monotone, so halving finds it; below -38.6 it is less than any number there is.
    let (mut low, mut high) = (-39.0, 0.0);
    while f64::midpoint(low, high) > low && f64::midpoint(low, high) < high {
        let middle = f64::midpoint(low, high);
        if tail(-middle) < probability {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_the_tables() {
        for (probability, z) in [
            (0.5, 0.0),
            (0.841_344_746_068_543, 1.0),
            (0.975, 1.959_963_984_540_054),
            (0.995, 2.575_829_303_548_901),
            (0.000_1, -3.719_016_485_455_709),
        ] {
            assert!((quantile(probability) - z).abs() < 1e-12, "{probability}");
            assert!((tail(z) - (1.0 - probability)).abs() < 1e-14, "{z}");
        }
    }

    #[test]
    fn outside_of_what_is_probable_there_is_no_number() {
        assert_eq!(quantile(1.0), f64::INFINITY);
        assert_eq!(quantile(0.0), f64::NEG_INFINITY);
        assert!(quantile(1.5).is_nan() && quantile(f64::NAN).is_nan() && tail(f64::NAN).is_nan());
    }
}
