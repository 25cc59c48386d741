//! Sen's slope: the median of the slopes between all pairs of points, with its interval.
//!
//! A quarter of the points may be wrong by any amount without moving it far. All slopes are held
//! at once, half the square of the number of points.

use super::{Point, float, median, normal, nth};

/// A slope and how sure it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sen {
    /// Change of value for each unit of time.
    pub slope: f64,
    /// Value at time 0 on the line through the medians.
    pub intercept: f64,
    /// Lower end of the slope's interval.
    pub lower: f64,
    /// Upper end of the slope's interval.
    pub upper: f64,
}

/// Fits a line to points in any order. The interval holds the true slope with probability
/// `confidence`, from 0 to 1, if points are independent of each other (Sen 1968).
///
/// `None` unless two points differ in time, or if slopes are too steep for a number.
#[must_use]
pub fn sen(points: &[Point], confidence: f64) -> Option<Sen> {
    let points = in_order(points.iter().copied());
    let slopes = slopes(&points);
    fit(&points, slopes, deviation(&points), confidence)
}

/// As [`sen`], for values at equal distances, of which only those a whole number of periods apart
/// are compared. Values that are missing are not finite.
///
/// Seasons of one period are not independent, so the interval is that of seasons that move as one:
/// the widest there can be.
#[must_use]
pub fn sen_seasonal(values: &[f64], period: usize, confidence: f64) -> Option<Sen> {
    let points = values.iter().enumerate();
    let points: Vec<_> = points
        .map(|(place, value)| Point::new(float(place), *value))
        .collect();
    let seasons = (0..period.min(points.len()))
        .map(|first| in_order(points[first..].iter().step_by(period).copied()));
    let (mut all, mut spread) = (Vec::new(), 0.0);
    for season in seasons {
        all.extend(slopes(&season));
        spread += deviation(&season);
    }
    fit(&in_order(points.iter().copied()), all, spread, confidence)
}

fn in_order(points: impl Iterator<Item = Point>) -> Vec<Point> {
    let mut points: Vec<_> = points.filter(Point::is_finite).collect();
    points.sort_by(|left, right| left.at.total_cmp(&right.at));
    points
}

/// Of each pair of points that differ in time.
fn slopes(points: &[Point]) -> Vec<f64> {
    let mut slopes = Vec::with_capacity(points.len() * points.len() / 2);
    for (index, earlier) in points.iter().enumerate() {
        let later = points[index + 1..].iter();
        let later = later.filter(|later| later.at > earlier.at);
        slopes.extend(later.map(|later| (later.value - earlier.value) / (later.at - earlier.at)));
    }
    slopes
}

/// `deviation` is that of the score of Kendall's test: by so many places, times what confidence
/// asks for, the true slope lies from the middle of all slopes.
fn fit(points: &[Point], mut slopes: Vec<f64>, deviation: f64, confidence: f64) -> Option<Sen> {
    if slopes.is_empty() {
        return None;
    }
    let (count, last) = (float(slopes.len()), slopes.len() - 1);
    let spread = normal::quantile(f64::midpoint(1.0, confidence.clamp(0.0, 1.0))) * deviation;
    let lower = place(((count - spread) / 2.0).round_ties_even() - 1.0, last);
    let upper = place(((count + spread) / 2.0).round_ties_even(), last);
    let slope = median(&mut slopes);
    let sen = Sen {
        slope,
        intercept: middle(points, |point| point.value) - slope * middle(points, |point| point.at),
        lower: nth(&mut slopes, lower),
        upper: nth(&mut slopes, upper),
    };
    [slope, sen.intercept, sen.lower, sen.upper]
        .iter()
        .all(|number| number.is_finite())
        .then_some(sen)
}

/// The median of times or of values.
fn middle(points: &[Point], number: fn(&Point) -> f64) -> f64 {
    let mut numbers: Vec<_> = points.iter().map(number).collect();
    median(&mut numbers)
}

/// Standard deviation of the score of Kendall's test, with ties in time and in value.
fn deviation(points: &[Point]) -> f64 {
    let term = |count: f64| count * (count - 1.0) * (2.0 * count + 5.0);
    let ties = |number: fn(&Point) -> f64| -> f64 {
        let mut sorted: Vec<_> = points.iter().map(number).collect();
        sorted.sort_by(f64::total_cmp);
        let groups = sorted.chunk_by(|left, right| left == right);
        groups.map(|equal| term(float(equal.len()))).sum()
    };
    let variance = term(float(points.len())) - ties(|point| point.at) - ties(|point| point.value);
    (variance / 18.0).max(0.0).sqrt()
}

/// The index that a number is nearest to, from 0 to `last`. What is no number is the last.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a conversion of floats saturates, and the result is held to the range"
)]
fn place(index: f64, last: usize) -> usize {
    if index.is_nan() {
        return last;
    }
    (index as usize).min(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(values: &[f64]) -> Vec<Point> {
        let values = values.iter().zip(0..);
        values
            .map(|(value, at)| Point::new(f64::from(at), *value))
            .collect()
    }

    #[test]
    fn a_quarter_of_wrong_points_does_not_move_it() {
        let mut values: Vec<_> = (0..20).map(|at| f64::from(at) * 3.0).collect();
        for wrong in [2, 7, 11, 18] {
            values[wrong] = 1e6;
        }
        let sen = sen(&points(&values), 0.95).unwrap();
        assert!((sen.slope - 3.0).abs() < 1.0, "{sen:?}");
    }

    #[test]
    fn order_does_not_matter() {
        let mut points = points(&[1.0, 4.0, 2.0, 8.0, 5.0, 7.0, 9.0]);
        let forward = sen(&points, 0.9);
        points.reverse();
        assert_eq!(sen(&points, 0.9), forward);
    }

    #[test]
    fn a_period_is_no_slope() {
        let days: Vec<_> = (0..28).map(|at| f64::from(at % 4) * 10.0).collect();
        let sen = sen_seasonal(&days, 4, 0.99).unwrap();
        assert_eq!((sen.slope, sen.lower, sen.upper), (0.0, 0.0, 0.0));
    }

    #[test]
    fn points_at_one_time_have_no_slope() {
        assert!(sen(&[Point::new(1.0, 2.0), Point::new(1.0, 5.0)], 0.95).is_none());
        assert!(sen(&points(&[-f64::MAX, f64::MAX]), 0.95).is_none());
    }
}
