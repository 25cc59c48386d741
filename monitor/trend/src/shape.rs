//! Of which shape a rise is: what tells a leak from a step, from warming up and from noise.

use super::{Point, sen};

/// The shape of a rise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// From the first value to the last.
    pub growth: f64,
    /// Share of the growth that came in the largest single step: near 1 for a pool or a table that
    /// was made larger once.
    pub largest_step: f64,
    /// Slope of the last third of the time against that of all of it: near 0 for what has reached
    /// its size and stays there.
    pub late_slope: f64,
    /// Share of the steps that do not fall by more than the tolerance.
    pub not_falling: f64,
}

/// Measures the shape of a rise of points in the order of their time. `None` if they do not rise
/// from first to last, or are fewer than six: a third of them would be no line.
#[must_use]
pub fn shape(points: &[Point], tolerance: f64) -> Option<Shape> {
    const LEAST: usize = 6;
    let points: Vec<_> = points.iter().copied().filter(Point::is_finite).collect();
    let (first, last) = (points.first()?, points.last()?);
    let growth = last.value - first.value;
    if points.len() < LEAST || !growth.is_finite() || growth <= 0.0 {
        return None;
    }
    let steps = || {
        let pairs = points.windows(2);
        pairs.map(|pair| pair[1].value - pair[0].value)
    };
    let from = last.at - (last.at - first.at) / 3.0;
    let late = points.partition_point(|point| point.at < from);
    let all = sen(&points, 0.95)?.slope;
    let late = sen(&points[late..], 0.95).map_or(0.0, |late| late.slope);
    Some(Shape {
        growth,
        largest_step: steps().fold(0.0, f64::max) / growth,
        late_slope: match (late > 0.0, all > 0.0) {
            (_, true) => late / all,
            // For the most part level, and now it rises.
            (true, false) => f64::INFINITY,
            (false, false) => 0.0,
        },
        not_falling: super::float(steps().filter(|step| *step >= -tolerance).count())
            / super::float(points.len() - 1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: impl Fn(f64) -> f64) -> Shape {
        let at = (0..36).map(f64::from);
        let points: Vec<_> = at.map(|at| Point::new(at, value(at))).collect();
        shape(&points, 0.1).unwrap()
    }

    #[test]
    fn a_steady_rise_is_small_steps_to_the_end() {
        let shape = of(|at| 100.0 + 2.0 * at);
        assert!(shape.largest_step < 0.03 && (shape.late_slope - 1.0).abs() < 1e-9);
        assert_eq!((shape.growth, shape.not_falling), (70.0, 1.0));
    }

    #[test]
    fn a_step_is_one_step() {
        assert_eq!(
            of(|at| if at < 17.0 { 100.0 } else { 180.0 }).largest_step,
            1.0
        );
    }

    #[test]
    fn what_has_filled_rises_no_more() {
        assert!(of(|at| 200.0 - 100.0 * (-at / 5.0).exp()).late_slope < 0.1);
    }

    #[test]
    fn noise_falls_as_often_as_it_rises() {
        let shape = of(|at| 100.0 + at / 10.0 + if at % 2.0 == 0.0 { 0.0 } else { 5.0 });
        assert!(shape.not_falling < 0.6, "{shape:?}");
    }

    #[test]
    fn what_does_not_rise_has_no_shape() {
        let level: Vec<_> = (0..9).map(|at| Point::new(f64::from(at), 1.0)).collect();
        assert!(shape(&level, 0.0).is_none());
        assert!(shape(&level[..3], 0.0).is_none());
    }
}
