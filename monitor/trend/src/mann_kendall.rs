//! The Mann-Kendall test for a monotone trend, with ties, and what is needed where values are not
//! independent of each other.
//!
//! It asks only which of two values is the greater, so outliers and the shape of a distribution
//! do not matter. It does not say how steep a trend is: [`sen`](super::sen) does.
//!
//! Each of the tests looks at all pairs of values, so its time grows with their square.

use super::{float, median, normal};

/// What a test found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MannKendall {
    /// How many pairs rise, less how many fall.
    pub score: f64,
    /// Variance that the score has if there is no trend.
    pub variance: f64,
    /// The score in standard deviations, corrected for being a whole number; positive if it rises.
    pub z: f64,
    /// Probability of a score that is as far from 0 if there is no trend.
    pub p: f64,
}

impl MannKendall {
    fn new(score: f64, variance: f64) -> Self {
        let z = if score == 0.0 || variance <= 0.0 {
            0.0
        } else {
            (score - score.signum()) / variance.sqrt()
        };
        Self {
            score,
            variance,
            z,
            p: (2.0 * normal::tail(z.abs())).min(1.0),
        }
    }
}

/// The test for values that are independent of each other, with the variance corrected for ties
/// (Kendall 1975). `None` for fewer than two values.
#[must_use]
pub fn mann_kendall(values: &[f64]) -> Option<MannKendall> {
    let values = finite(values);
    (values.len() >= 2).then(|| MannKendall::new(score(&values), variance(&values)))
}

/// The test for values that depend on those before them, with the variance corrected for the
/// autocorrelation of the ranks that remain when the trend is taken out (Hamed and Rao 1998).
///
/// Values must be equally far apart. Where the estimate of the correction leaves no variance, it
/// has failed, and none is made. `None` for fewer than three values.
#[must_use]
pub fn mann_kendall_autocorrelated(values: &[f64]) -> Option<MannKendall> {
    let values = finite(values);
    if values.len() < 3 {
        return None;
    }
    let variance = variance(&values);
    let corrected = variance * correction(&values);
    let usable = corrected.is_finite() && corrected > 0.0;
    Some(MannKendall::new(
        score(&values),
        if usable { corrected } else { variance },
    ))
}

/// The test for values that follow a period, as that of a day: only values a whole number of
/// periods apart are compared (Hirsch and Slack 1984).
///
/// Seasons of one period are not independent, a bad day is bad from morning to evening. So unlike
/// the textbook's, the variance is the greatest there can be, of seasons that move as one: the
/// test errs towards no trend. `None` if no season has two values or there is no period.
#[must_use]
pub fn mann_kendall_seasonal(values: &[f64], period: usize) -> Option<MannKendall> {
    let seasons: Vec<_> = (0..period.min(values.len()))
        .map(|first| {
            let season = values[first..].iter().step_by(period);
            finite(&season.copied().collect::<Vec<_>>())
        })
        .filter(|season| season.len() >= 2)
        .collect();
    if seasons.is_empty() {
        return None;
    }
    let deviation: f64 = seasons.iter().map(|season| variance(season).sqrt()).sum();
    Some(MannKendall::new(
        seasons.iter().map(|season| score(season)).sum(),
        deviation * deviation,
    ))
}

fn finite(values: &[f64]) -> Vec<f64> {
    let finite = values.iter().copied().filter(|value| value.is_finite());
    finite.collect()
}

fn score(values: &[f64]) -> f64 {
    let mut score = 0.0;
    for (index, earlier) in values.iter().enumerate() {
        for later in &values[index + 1..] {
            if later > earlier {
                score += 1.0;
            } else if later < earlier {
                score -= 1.0;
            }
        }
    }
    score
}

/// Of the score of independent values, of which some may be equal.
fn variance(values: &[f64]) -> f64 {
    let term = |count: f64| count * (count - 1.0) * (2.0 * count + 5.0);
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let ties: f64 = sorted
        .chunk_by(|left, right| left == right)
        .map(|equal| term(float(equal.len())))
        .sum();
    (term(float(values.len())) - ties) / 18.0
}

/// By how much autocorrelation multiplies the variance.
fn correction(values: &[f64]) -> f64 {
    let n = float(values.len());
    let ranks = ranks(&detrended(values));
    let mean = ranks.iter().sum::<f64>() / n;
    let deviations: Vec<_> = ranks.iter().map(|rank| rank - mean).collect();
    let covariance = |lag: usize| -> f64 {
        let pairs = deviations.iter().zip(&deviations[lag..]);
        pairs.map(|(early, late)| early * late).sum()
    };
    let whole = covariance(0);
    if whole == 0.0 {
        return 1.0;
    }
    // Correlations that chance explains at 5 % are taken for none.
    let significant = normal::quantile(0.975) / n.sqrt();
    let sum: f64 = (1..values.len())
        .map(|lag| (float(lag), covariance(lag) / whole))
        .filter(|(_, correlation)| correlation.abs() > significant)
        .map(|(lag, correlation)| (n - lag) * (n - lag - 1.0) * (n - lag - 2.0) * correlation)
        .sum();
    1.0 + 2.0 / (n * (n - 1.0) * (n - 2.0)) * sum
}

/// Values less the line of Sen's slope.
fn detrended(values: &[f64]) -> Vec<f64> {
    let mut slopes = Vec::with_capacity(values.len() * values.len() / 2);
    for (index, earlier) in values.iter().enumerate() {
        let later = values[index + 1..].iter().zip(1..);
        slopes.extend(later.map(|(later, apart)| (later - earlier) / f64::from(apart)));
    }
    let slope = median(&mut slopes);
    let places = values.iter().zip(1..);
    places
        .map(|(value, place)| value - f64::from(place) * slope)
        .collect()
}

/// The place of each value in order; equal values share the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<_> = (0..values.len()).collect();
    order.sort_by(|left, right| values[*left].total_cmp(&values[*right]));
    let mut ranks = vec![0.0; values.len()];
    let mut before = 0;
    for equal in order.chunk_by(|left, right| values[*left] == values[*right]) {
        let rank = float(before) + float(equal.len() + 1) / 2.0;
        for index in equal {
            ranks[*index] = rank;
        }
        before += equal.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seasons_are_compared_with_themselves_only() {
        // Rises within each day, never from day to day.
        let days: Vec<_> = (0..40).map(|index| f64::from(index % 4)).collect();
        let found = mann_kendall_seasonal(&days, 4).unwrap();
        assert_eq!((found.score, found.p), (0.0, 1.0));
        let rising: Vec<_> = (0..40)
            .map(|index| f64::from(index % 4 * 100 + index))
            .collect();
        assert!(mann_kendall_seasonal(&rising, 4).unwrap().z > 3.0);
    }

    #[test]
    fn what_is_missing_keeps_its_place_in_the_season() {
        let mut days: Vec<_> = (0..40).map(|index| f64::from(index % 4)).collect();
        days[7] = f64::NAN;
        assert_eq!(mann_kendall_seasonal(&days, 4).unwrap().score, 0.0);
    }

    #[test]
    fn too_little_is_no_test() {
        assert!(mann_kendall(&[1.0]).is_none());
        assert!(mann_kendall(&[1.0, f64::NAN]).is_none());
        assert!(mann_kendall_autocorrelated(&[1.0, 2.0]).is_none());
        assert!(mann_kendall_seasonal(&[1.0, 2.0, 3.0], 0).is_none());
        assert!(mann_kendall_seasonal(&[1.0, 2.0, 3.0], 3).is_none());
    }
}
