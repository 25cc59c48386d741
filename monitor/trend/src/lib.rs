//! Whether a series of numbers rises, how fast, and how sure one can be of it.
//!
//! It knows no units, no clock and nothing of leaks: the module `leak` of the monitor does. Numbers that are
//! not finite are taken for missing, never for evidence, and no input makes any of this panic.
//!
//! ```text
//!   samples --floors--> points --+--> mann_kendall*   is there a trend at all?   z, p
//!                                +--> sen, ols        how steep?                 slope, interval
//!                                +--> shape           of which shape?            largest step, ...
//! ```
//!
//! The asterisk stands for three tests that differ in what they take for independent: all values,
//! none that [autocorrelation](mann_kendall_autocorrelated) ties together, or only values a
//! [period](mann_kendall_seasonal) apart.

mod floors;
mod mann_kendall;
mod normal;
mod ols;
mod sen;
mod shape;

pub use floors::{Floors, floors};
pub use mann_kendall::{
    MannKendall, mann_kendall, mann_kendall_autocorrelated, mann_kendall_seasonal,
};
pub use normal::{quantile, tail};
pub use ols::{Line, ols};
pub use sen::{Sen, sen, sen_seasonal};
pub use shape::{Shape, shape};

/// One value and when it was so.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    /// When, on any axis.
    pub at: f64,
    /// The value then.
    pub value: f64,
}

impl Point {
    /// A value at a time.
    #[must_use]
    pub const fn new(at: f64, value: f64) -> Self {
        Self { at, value }
    }

    fn is_finite(&self) -> bool {
        self.at.is_finite() && self.value.is_finite()
    }
}

/// A count as a number. Counts here are lengths of slices, far below 2^53.
#[must_use]
pub fn float(count: usize) -> f64 {
    count as f64
}

/// The value at place `index` in order. To put all of them in order would cost several times as much.
fn nth(values: &mut [f64], index: usize) -> f64 {
    let (_, value, _) = values.select_nth_unstable_by(index, f64::total_cmp);
    *value
}

/// The middle value, or the mean of the two in the middle, of values in any order.
///
/// `values` must not be empty.
fn median(values: &mut [f64]) -> f64 {
    let is_odd = values.len() % 2 == 1;
    let middle = values.len() / 2;
    let (below, value, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    let before = below.iter().copied().max_by(f64::total_cmp);
    match before {
        Some(before) if !is_odd => f64::midpoint(before, *value),
        _ => *value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_selected_is_what_sorting_would_find() {
        for len in 1..40 {
            let values: Vec<_> = (0..len).map(|at| f64::from(at * 17 % 31)).collect();
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            for (index, value) in sorted.iter().enumerate() {
                assert_eq!(nth(&mut values.clone(), index), *value);
            }
            let (low, high) = ((sorted.len() - 1) / 2, sorted.len() / 2);
            let middle = f64::midpoint(sorted[low], sorted[high]);
            assert_eq!(median(&mut values.clone()), middle, "{values:?}");
        }
    }
}
