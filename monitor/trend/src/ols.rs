//! A straight line by least squares, for what must answer before order statistics can.

use super::{Point, float};

/// A line and how well it fits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// Change of value for each unit of time.
    pub slope: f64,
    /// Value at time 0.
    pub intercept: f64,
    /// Standard error of the slope; 0 if the points lie on the line, or are but two.
    pub slope_error: f64,
    /// Correlation of value and time, from -1 to 1; 0 if the values are all equal.
    pub correlation: f64,
}

impl Line {
    /// The slope in standard errors; infinite for points on a line that is not level.
    #[must_use]
    pub fn t(&self) -> f64 {
        if self.slope == 0.0 {
            return 0.0;
        }
        self.slope / self.slope_error
    }
}

/// Fits a line. `None` unless two points differ in time, or if numbers are too great to fit.
#[must_use]
pub fn ols(points: &[Point]) -> Option<Line> {
    let points: Vec<_> = points.iter().filter(|point| point.is_finite()).collect();
    let n = float(points.len());
    let mean_at = points.iter().map(|point| point.at).sum::<f64>() / n;
    let mean_value = points.iter().map(|point| point.value).sum::<f64>() / n;
    let (mut times, mut values, mut both) = (0.0, 0.0, 0.0);
    for point in &points {
        let (at, value) = (point.at - mean_at, point.value - mean_value);
        times += at * at;
        values += value * value;
        both += at * value;
    }
    if times.is_nan() || times <= 0.0 {
        return None;
    }
    let slope = both / times;
    let correlation = if values > 0.0 {
        (both / times.sqrt() / values.sqrt()).clamp(-1.0, 1.0)
    } else {
        0.0
    };
    let unexplained: f64 = points
        .iter()
        .map(|point| point.value - mean_value - slope * (point.at - mean_at))
        .map(|residual| residual * residual)
        .sum();
    let line = Line {
        slope,
        intercept: mean_value - slope * mean_at,
        slope_error: (unexplained / (n - 2.0).max(1.0) / times).sqrt(),
        correlation,
    };
    [slope, line.intercept, line.slope_error, correlation]
        .iter()
        .all(|number| number.is_finite())
        .then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_on_a_line_have_no_error() {
        let points: Vec<_> = (0..9)
            .map(|at| Point::new(f64::from(at), 2.0 * f64::from(at) + 1.0))
            .collect();
        let line = ols(&points).unwrap();
        assert_eq!((line.slope, line.intercept), (2.0, 1.0));
        assert_eq!((line.slope_error, line.t()), (0.0, f64::INFINITY));
        assert!((line.correlation - 1.0).abs() < 1e-15);
    }

    #[test]
    fn a_level_line_is_no_trend() {
        let points: Vec<_> = (0..9).map(|at| Point::new(f64::from(at), 5.0)).collect();
        let line = ols(&points).unwrap();
        assert_eq!((line.slope, line.correlation, line.t()), (0.0, 0.0, 0.0));
    }

    #[test]
    fn too_little_is_no_line() {
        assert!(ols(&[]).is_none());
        assert!(ols(&[Point::new(1.0, 1.0), Point::new(1.0, 2.0)]).is_none());
        assert!(ols(&[Point::new(1.0, f64::NAN), Point::new(2.0, 2.0)]).is_none());
    }
}
