//! Our statistics against those of others, and against input that is no series at all.
//!
//! `tests/vectors/trend.json` was written by `tests/oracles/trend.py`, which says how. What is compared agrees
//! to one part in a thousand million, p-values to 10^-12: they are differences of numbers near 1.

use monitor::trend::{
    Point, floors, mann_kendall, mann_kendall_autocorrelated, mann_kendall_seasonal, ols, quantile,
    sen, sen_seasonal, shape,
};
use proptest::prelude::*;
use serde::Deserialize;

/// Relative, and absolute below 1.
const TOLERANCE: f64 = 1e-9;
const TOLERANCE_OF_P: f64 = 1e-12;

#[derive(Deserialize)]
struct Vectors {
    quantiles: Vec<(f64, f64)>,
    series: Vec<Series>,
}

#[derive(Deserialize)]
struct Series {
    name: String,
    at: Vec<f64>,
    values: Vec<f64>,
    mann_kendall: Test,
    hamed_rao: Option<Test>,
    seasonal_score: Option<f64>,
    seasonal_slope: Option<f64>,
    tau: Option<f64>,
    sen: Vec<Sen>,
    ols: Ols,
}

/// What is no number there is `None`: of constants, and of corrections that leave no variance.
#[derive(Deserialize)]
struct Test {
    score: f64,
    variance: Option<f64>,
    z: Option<f64>,
    p: Option<f64>,
}

#[derive(Deserialize)]
struct Sen {
    confidence: f64,
    slope: f64,
    intercept: f64,
    lower: Option<f64>,
    upper: Option<f64>,
}

#[derive(Deserialize)]
struct Ols {
    slope: f64,
    intercept: f64,
    slope_error: Option<f64>,
    correlation: Option<f64>,
}

impl Series {
    fn points(&self) -> Vec<Point> {
        let points = self.at.iter().zip(&self.values);
        points.map(|(at, value)| Point::new(*at, *value)).collect()
    }
}

fn vectors() -> Vectors {
    let vectors: Vectors =
        serde_json::from_str(include_str!("vectors/trend.json")).expect("the script writes JSON");
    assert!(vectors.series.len() > 100);
    vectors
}

#[track_caller]
fn equal(name: &str, ours: f64, theirs: f64) {
    let apart = (ours - theirs).abs();
    assert!(
        apart <= TOLERANCE * theirs.abs().max(1.0),
        "{name}: {ours} here, {theirs} there"
    );
}

#[test]
fn the_mann_kendall_test_agrees_with_another_that_also_counts_ties() {
    for series in vectors().series {
        let ours = mann_kendall(&series.values).unwrap();
        let theirs = &series.mann_kendall;
        equal(&series.name, ours.score, theirs.score);
        equal(&series.name, ours.variance, theirs.variance.unwrap());
        equal(&series.name, ours.z, theirs.z.unwrap());
        let apart = (ours.p - theirs.p.unwrap()).abs();
        assert!(apart <= TOLERANCE_OF_P, "{}: {ours:?}", series.name);
    }
}

#[test]
fn the_score_is_that_of_kendalls_tau() {
    for series in vectors().series {
        let Some(tau) = series.tau else {
            continue;
        };
        let ours = mann_kendall(&series.values).unwrap();
        let count = series.values.len() as f64;
        let pairs = count * (count - 1.0) / 2.0;
        let mut sorted = series.values.clone();
        sorted.sort_by(f64::total_cmp);
        let groups = sorted.chunk_by(|left, right| left == right);
        let tied: f64 = groups
            .map(|equal| equal.len() as f64)
            .map(|equal| equal * (equal - 1.0) / 2.0)
            .sum();
        let expected = ours.score / (pairs * (pairs - tied)).sqrt();
        equal(&series.name, expected, tau);
    }
}

#[test]
fn the_correction_for_autocorrelation_agrees_where_it_leaves_a_variance() {
    let (mut corrected, mut failed) = (0, 0);
    for series in vectors().series {
        let Some(theirs) = &series.hamed_rao else {
            continue;
        };
        let ours = mann_kendall_autocorrelated(&series.values).unwrap();
        equal(&series.name, ours.score, theirs.score);
        let plain = series.mann_kendall.variance.unwrap();
        if let (Some(variance), Some(z)) = (theirs.variance, theirs.z) {
            equal(&series.name, ours.variance, variance);
            equal(&series.name, ours.z, z);
            corrected += usize::from(variance != plain);
        } else {
            equal(&series.name, ours.variance, plain);
            failed += 1;
        }
    }
    assert!(corrected > 30, "only {corrected} corrections compared");
    println!("{corrected} corrections compared, {failed} that failed");
}

#[test]
fn seasonal_tests_agree_on_score_and_slope() {
    let mut compared = 0;
    for series in vectors().series {
        let Some(score) = series.seasonal_score else {
            continue;
        };
        let ours = mann_kendall_seasonal(&series.values, 4).unwrap();
        equal(&series.name, ours.score, score);
        let slope = sen_seasonal(&series.values, 4, 0.95).unwrap();
        // Theirs is for each period.
        equal(
            &series.name,
            slope.slope * 4.0,
            series.seasonal_slope.unwrap(),
        );
        compared += 1;
    }
    assert!(compared > 50);
}

#[test]
fn sens_slope_and_its_interval_agree_with_anothers() {
    for series in vectors().series {
        for theirs in &series.sen {
            let ours = sen(&series.points(), theirs.confidence).unwrap();
            equal(&series.name, ours.slope, theirs.slope);
            equal(&series.name, ours.intercept, theirs.intercept);
            equal(&series.name, ours.lower, theirs.lower.unwrap_or(ours.slope));
            equal(&series.name, ours.upper, theirs.upper.unwrap_or(ours.slope));
        }
    }
}

#[test]
fn least_squares_agree_with_anothers() {
    for series in vectors().series {
        let ours = ols(&series.points()).unwrap();
        equal(&series.name, ours.slope, series.ols.slope);
        equal(&series.name, ours.intercept, series.ols.intercept);
        equal(
            &series.name,
            ours.correlation,
            series.ols.correlation.unwrap_or(0.0),
        );
        equal(
            &series.name,
            ours.slope_error,
            series.ols.slope_error.unwrap_or(0.0),
        );
    }
}

#[test]
fn quantiles_agree_with_anothers() {
    for (probability, z) in vectors().quantiles {
        equal("quantile", quantile(probability), z);
    }
}

/// Anything that a float can be, often what is no number, is huge or repeats.
fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => any::<f64>(),
        4 => -10.0..10.0,
        2 => (0_i32..3).prop_map(f64::from),
        1 => Just(f64::NAN),
        1 => Just(f64::INFINITY),
        1 => Just(f64::MAX),
        1 => Just(-f64::MAX),
        1 => Just(-0.0),
    ]
}

proptest! {
    #[test]
    fn nothing_that_is_no_series_makes_anything_panic(
        pairs in prop::collection::vec((number(), number()), 0..60),
        length in number(),
        share in number(),
        period in 0_usize..70,
    ) {
        let points: Vec<_> = pairs.iter().map(|(at, value)| Point::new(*at, *value)).collect();
        let values: Vec<_> = pairs.iter().map(|(_, value)| *value).collect();
        for test in [
            mann_kendall(&values),
            mann_kendall_autocorrelated(&values),
            mann_kendall_seasonal(&values, period),
        ].into_iter().flatten() {
            prop_assert!(test.z.is_finite() && (0.0..=1.0).contains(&test.p), "{test:?}");
        }
        for sen in [
            sen(&points, share),
            sen_seasonal(&values, period, share),
        ].into_iter().flatten() {
            prop_assert!(sen.slope.is_finite() && sen.lower <= sen.upper, "{sen:?}");
        }
        if let Some(line) = ols(&points) {
            prop_assert!(line.slope.is_finite() && line.slope_error >= 0.0, "{line:?}");
        }
        if let Some(shape) = shape(&points, length) {
            prop_assert!(shape.growth > 0.0, "{shape:?}");
        }
        for floor in floors(&points, length, share) {
            prop_assert!(values.contains(&floor.value));
        }
        let _ = (quantile(share), quantile(length));
    }

    #[test]
    fn what_falls_is_what_rises_upside_down(values in prop::collection::vec(-1e6..1e6, 3..40)) {
        let falling: Vec<f64> = values.iter().map(|value: &f64| -value).collect();
        let (up, down) = (mann_kendall(&values).unwrap(), mann_kendall(&falling).unwrap());
        prop_assert_eq!((up.score, up.p), (-down.score, down.p));
    }

    #[test]
    fn sens_slope_lies_in_its_interval_which_grows_with_confidence(
        values in prop::collection::vec(-1e6..1e6, 4..40)
    ) {
        let points: Vec<_> =
            values.iter().zip(0..).map(|(value, at)| Point::new(f64::from(at), *value)).collect();
        let (narrow, wide) = (sen(&points, 0.8).unwrap(), sen(&points, 0.99).unwrap());
        prop_assert!(wide.lower <= narrow.lower && narrow.upper <= wide.upper);
        prop_assert!(wide.lower <= wide.slope && wide.slope <= wide.upper);
    }
}
