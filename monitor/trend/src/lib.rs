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

/// The middle value, or the mean of the two in the middle.
///
/// `sorted` must not be empty.
fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    }
}
