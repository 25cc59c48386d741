//! The floor of each epoch: what is still held when the most has been given back.
//!
//! Collectors, pools and caches make what a process holds go up and down; a leak is what never
//! comes down again. So the least of an epoch tells of a leak, and its mean of load.

use super::Point;

/// Cuts samples, in the order of their time, into epochs of equal length and returns the floor of
/// each, at the middle of its epoch. `quantile` 0 takes the least value; 0.1 lets a tenth of the
/// values be lower, for gauges that at times read too little.
///
/// An epoch without a finite sample is missing. None at all if the epoch has no length.
#[must_use]
pub fn floors(samples: &[Point], epoch: f64, quantile: f64) -> Vec<Point> {
    let mut floors = Floors::new(epoch, quantile);
    let mut found: Vec<_> = samples.iter().filter_map(|it| floors.push(*it)).collect();
    found.extend(floors.last());
    found
}

/// Finds floors while samples come in.
///
/// Samples of one epoch are held at a time. One that is older than those is ignored.
#[derive(Clone, Debug)]
pub struct Floors {
    epoch: f64,
    quantile: f64,
    /// Which epoch the samples are of, counted from time 0.
    number: f64,
    values: Vec<f64>,
}

impl Floors {
    /// For epochs of a length; see [`floors`].
    #[must_use]
    pub const fn new(epoch: f64, quantile: f64) -> Self {
        Self {
            epoch,
            quantile,
            number: f64::NEG_INFINITY,
            values: Vec::new(),
        }
    }

    /// Takes a sample, and returns the floor of the epoch before if it begins a new one.
    pub fn push(&mut self, sample: Point) -> Option<Point> {
        let number = (sample.at / self.epoch).floor();
        if !sample.is_finite() || !number.is_finite() || number < self.number {
            return None;
        }
        let finished = (number > self.number).then(|| self.last()).flatten();
        if number > self.number {
            self.values.clear();
            self.number = number;
        }
        self.values.push(sample.value);
        finished
    }

    /// The floor of the epoch that is not over, so far.
    #[must_use]
    pub fn last(&self) -> Option<Point> {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let share = self.quantile.clamp(0.0, 1.0);
        let lower = sorted.iter().zip(1_u32..).find(|(_, place)| {
            let values = super::float(sorted.len());
            f64::from(*place) >= (values * share).ceil()
        });
        let (value, _) = lower?;
        Some(Point::new((self.number + 0.5) * self.epoch, *value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_second(values: &[f64]) -> Vec<Point> {
        let values = values.iter().zip(0..);
        values
            .map(|(value, at)| Point::new(f64::from(at), *value))
            .collect()
    }

    #[test]
    fn a_sawtooth_has_a_level_floor() {
        let sawtooth: Vec<_> = (0..40).map(|at| 5.0 + f64::from(at % 4)).collect();
        let floors = floors(&every_second(&sawtooth), 10.0, 0.0);
        assert_eq!(floors.len(), 4);
        assert!(floors.iter().all(|floor| floor.value == 5.0));
        assert_eq!(floors[1].at, 15.0);
    }

    #[test]
    fn a_low_quantile_passes_over_readings_that_are_too_low() {
        let mut values = vec![7.0; 10];
        values[3] = 0.0;
        let samples = every_second(&values);
        assert_eq!(floors(&samples, 10.0, 0.0)[0].value, 0.0);
        assert_eq!(floors(&samples, 10.0, 0.2)[0].value, 7.0);
        assert_eq!(floors(&samples, 10.0, 1.0)[0].value, 7.0);
    }

    #[test]
    fn an_epoch_without_samples_is_missing_and_never_made_up() {
        let samples = [(1.0, 4.0), (25.0, 9.0), (2.0, 1.0), (26.0, f64::NAN)];
        let samples = samples.map(|(at, value)| Point::new(at, value));
        let expected = [Point::new(5.0, 4.0), Point::new(25.0, 9.0)];
        assert_eq!(floors(&samples, 10.0, 0.0), expected);
        assert_eq!(floors(&samples, 0.0, 0.0), []);
        assert_eq!(floors(&samples, f64::NAN, 0.0), []);
    }
}
