//! Samples are kept as they came, coarser as they age, and never made up.

use super::*;

/// A Sunday at noon, on an hour.
const START: i64 = 1_795_348_800_000;

fn at(seconds: i64) -> WallTime {
    WallTime::from_unix_millis(START + seconds * 1_000)
}

fn open(directory: &Path) -> OpenedSamples {
    Samples::open(&Place::new(directory), at(0)).unwrap()
}

fn points(samples: &mut Samples, tier: Tier) -> Vec<Point> {
    let mut points = Vec::new();
    let until = WallTime::from_unix_nanos(i64::MAX);
    samples
        .range("s", at(-10_000_000), until, tier, |point| {
            points.push(point);
            true
        })
        .unwrap();
    points
}

fn sample(seconds: i64, value: f64) -> Point {
    Point {
        at: at(seconds),
        value: Value::Sample(value),
    }
}

#[test]
fn every_second_comes_back_as_it_was_before_and_after_its_hour_ends() {
    let directory = tempfile::tempdir().unwrap();
    let mut samples = open(directory.path()).samples;
    let expected: Vec<_> = (0..5_000)
        .map(|i| sample(i, f64::from(u32::try_from(i).unwrap()) / 8.0))
        .collect();
    for point in &expected {
        let Value::Sample(value) = point.value else {
            unreachable!()
        };
        samples.record("s", point.at, value).unwrap();
        samples.record("other", point.at, -value).unwrap();
    }
    assert_eq!(points(&mut samples, Tier::Second), expected);
    assert_eq!(points(&mut samples, Tier::TenSeconds).len(), 500);
    let minutes = points(&mut samples, Tier::Minute);
    assert_eq!(minutes.len(), 84);
    let hours = points(&mut samples, Tier::Hour);
    let whole = Aggregate {
        min: 0.0,
        mean: 224.9375,
        max: 449.875,
        last: 449.875,
        floor: 0.125,
    };
    assert_eq!(
        hours[0],
        Point {
            at: at(0),
            value: Value::Aggregate(whole)
        }
    );
    assert_eq!(hours.len(), 2);
    samples.close().unwrap();
    let mut again = open(directory.path()).samples;
    assert_eq!(points(&mut again, Tier::Second), expected);
    assert_eq!(points(&mut again, Tier::Minute), minutes);
    SampleReader::open(directory.path())
        .unwrap()
        .check()
        .unwrap();
}

#[test]
fn what_a_kill_takes_is_ten_seconds_and_marked_as_lost() {
    let directory = tempfile::tempdir().unwrap();
    let mut samples = open(directory.path()).samples;
    for i in 0..25 {
        samples.record("s", at(i), 1.0).unwrap();
    }
    // Without close: what a killed process leaves.
    drop(samples);
    let mut samples = open(directory.path()).samples;
    samples.record("s", at(100), 2.0).unwrap();
    let points = points(&mut samples, Tier::Second);
    let kept = points
        .iter()
        .filter(|point| point.value == Value::Sample(1.0))
        .count();
    assert_eq!(kept, 20);
    let gap = Value::Gap {
        until: at(100),
        reason: GapReason::Lost,
    };
    assert_eq!(
        points[20..],
        [
            Point {
                at: at(19),
                value: gap
            },
            sample(100, 2.0)
        ]
    );
}

#[test]
fn a_stop_is_a_gap_in_which_nothing_was_lost() {
    let directory = tempfile::tempdir().unwrap();
    let mut samples = open(directory.path()).samples;
    samples.record("s", at(0), 1.0).unwrap();
    samples.close().unwrap();
    let mut samples = open(directory.path()).samples;
    samples.record("s", at(60), 2.0).unwrap();
    let gap = Value::Gap {
        until: at(60),
        reason: GapReason::Stopped,
    };
    let expected = [
        sample(0, 1.0),
        Point {
            at: at(0),
            value: gap,
        },
        sample(60, 2.0),
    ];
    assert_eq!(points(&mut samples, Tier::Second), expected);
}

#[test]
fn a_clock_that_is_set_back_overwrites_no_hour_and_orders_by_time() {
    let directory = tempfile::tempdir().unwrap();
    let mut samples = open(directory.path()).samples;
    for seconds in [0, 10, 3_600, 3_610, 5, 10, 3_605, 7_200] {
        let value = f64::from(i32::try_from(seconds).unwrap());
        samples.record("s", at(seconds), value).unwrap();
    }
    let times: Vec<_> = points(&mut samples, Tier::Second)
        .iter()
        .map(|point| point.at)
        .collect();
    assert_eq!(times, [0, 5, 10, 3_600, 3_605, 3_610, 7_200].map(at));
}

#[test]
fn each_tier_is_kept_for_its_time() {
    let directory = tempfile::tempdir().unwrap();
    let mut samples = open(directory.path()).samples;
    let hours = 24 * 10;
    for hour in 0..hours {
        samples.record("s", at(hour * 3_600), 1.0).unwrap();
    }
    assert!((24..=26).contains(&count(&mut samples, Tier::Second)));
    assert!((7 * 24..=8 * 24 + 1).contains(&count(&mut samples, Tier::TenSeconds)));
    assert_eq!(count(&mut samples, Tier::Minute), 240);
    assert_eq!(count(&mut samples, Tier::Hour), 240);
}

fn count(samples: &mut Samples, tier: Tier) -> usize {
    points(samples, tier).len()
}

/// The two tiers that are kept for the shortest time, of ten days of one sample an hour each.
fn ten_days(directory: &Path) -> (Samples, [usize; 2]) {
    let mut samples = open(directory).samples;
    for hour in 0..DAYS * 24 {
        samples.record("s", at(hour * 3_600), 1.0).unwrap();
    }
    let kept = [Tier::Second, Tier::TenSeconds].map(|tier| count(&mut samples, tier));
    (samples, kept)
}
const DAYS: i64 = 10;

#[test]
fn a_clock_that_is_set_ahead_and_back_makes_nothing_too_old() {
    for days_ahead in [2, 8, 100, 6 * 365] {
        let directory = tempfile::tempdir().unwrap();
        let (mut samples, kept) = ten_days(directory.path());
        // For a few polls, an hour's end between them.
        for second in [3_595, 3_605, 3_615] {
            let wrong = at((DAYS + days_ahead) * 24 * 3_600 + second);
            samples.record("s", wrong, 2.0).unwrap();
        }
        let right = at((DAYS * 24 - 1) * 3_600 + 30);
        samples.record("s", right, 1.0).unwrap();
        samples.flush().unwrap();
        for (tier, kept) in [Tier::Second, Tier::TenSeconds].into_iter().zip(kept) {
            let found = count(&mut samples, tier);
            assert_eq!(found, kept + 4, "{days_ahead} days, {tier:?}");
        }
        for tier in [Tier::Minute, Tier::Hour] {
            assert!(
                count(&mut samples, tier) >= 240,
                "{days_ahead} days, {tier:?}"
            );
        }
    }
}

#[test]
fn a_clock_that_is_wrong_for_hours_makes_the_oldest_too_old_hour_by_hour() {
    let directory = tempfile::tempdir().unwrap();
    let (mut samples, [seconds, _]) = ten_days(directory.path());
    for hour in 0..5 {
        let wrong = at((DAYS + 8) * 24 * 3_600 + hour * 3_600);
        samples.record("s", wrong, 2.0).unwrap();
    }
    samples.flush().unwrap();
    // The first two of those hours were not gone through yet.
    let forgotten = 3 * usize::from(SPANS_AT_ONCE);
    assert_eq!(count(&mut samples, Tier::Second), seconds + 5 - forgotten);
}

#[test]
fn who_was_off_for_long_forgets_within_a_day_what_is_too_old() {
    let directory = tempfile::tempdir().unwrap();
    let (samples, _) = ten_days(directory.path());
    samples.close().unwrap();
    let mut samples = open(directory.path()).samples;
    for hour in 0..28 {
        let later = at((DAYS + 100) * 24 * 3_600 + hour * 3_600);
        samples.record("s", later, 1.0).unwrap();
    }
    samples.flush().unwrap();
    let samples_of = |samples: &mut Samples, tier| {
        let found = points(samples, tier).into_iter();
        found
            .filter(|point| !matches!(point.value, Value::Gap { .. }))
            .count()
    };
    assert!((24..=26).contains(&samples_of(&mut samples, Tier::Second)));
    assert_eq!(samples_of(&mut samples, Tier::TenSeconds), 28);
    assert_eq!(samples_of(&mut samples, Tier::Minute), 28);
    assert_eq!(samples_of(&mut samples, Tier::Hour), 240 + 28);
}

#[test]
fn a_damaged_file_is_moved_aside_and_another_begun() {
    for damage in [0, 100, 4_096] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(SAMPLES_FILE);
        let mut samples = open(directory.path()).samples;
        for i in 0..8_000 {
            samples.record("s", at(i), 1.5).unwrap();
        }
        drop(samples);
        let mut bytes = fs::read(&path).unwrap();
        for byte in &mut bytes[damage..damage + 60] {
            *byte = !*byte;
        }
        fs::write(&path, &bytes).unwrap();
        let opened = open(directory.path());
        let aside = opened.moved_aside.expect("it was noticed");
        assert_eq!(fs::read(&aside).unwrap(), bytes);
        assert!(opened.damage.is_some());
        let mut samples = opened.samples;
        samples.record("s", at(9_000), 1.0).unwrap();
        assert_eq!(points(&mut samples, Tier::Second), [sample(9_000, 1.0)]);
    }
}

#[test]
fn what_is_no_figure_is_no_sample() {
    let directory = tempfile::tempdir().unwrap();
    let mut samples = open(directory.path()).samples;
    for value in [f64::NAN, f64::INFINITY] {
        samples.record("s", at(0), value).unwrap_err();
    }
    samples.record(&"s".repeat(1_000), at(0), 1.0).unwrap_err();
    assert_eq!(points(&mut samples, Tier::Second), []);
}

#[test]
fn a_chunk_that_cannot_be_read_is_damage_as_well() {
    let directory = tempfile::tempdir().unwrap();
    let mut samples = open(directory.path()).samples;
    for i in [0, 3_600, 7_200] {
        samples.record("s", at(i), 1.5).unwrap();
    }
    samples.flush().unwrap();
    let spoil = "UPDATE chunk SET points = x'ff' WHERE tier = 2";
    assert_eq!(samples.connection.execute(spoil, []).unwrap(), 1);
    drop(samples);
    assert!(open(directory.path()).moved_aside.is_some());
}

#[test]
fn what_no_disk_takes_waits_and_is_a_gap_when_it_has_waited_too_long() {
    let directory = tempfile::tempdir().unwrap();
    let mut samples = open(directory.path()).samples;
    let take_nothing = |samples: &Samples, nothing: bool| {
        let connection = &samples.connection;
        connection
            .pragma_update(None, "query_only", nothing)
            .unwrap();
    };
    take_nothing(&samples, true);
    let refused = (0..100).filter(|i| samples.record("s", at(*i), 1.0).is_err());
    assert_eq!(refused.count(), 90);
    take_nothing(&samples, false);
    assert_eq!(points(&mut samples, Tier::Second).len(), 100);

    take_nothing(&samples, true);
    let too_many = i64::try_from(WAITING_MAX).unwrap() + 100;
    for i in 100..100 + too_many {
        let _ = samples.record(
            "s",
            at(100).plus(Duration::from_millis(i.unsigned_abs())),
            2.0,
        );
    }
    take_nothing(&samples, false);
    samples.record("s", at(1_000), 3.0).unwrap();
    let found = points(&mut samples, Tier::Second);
    let is_gap = |point: &&Point| {
        matches!(
            point.value,
            Value::Gap {
                reason: GapReason::Dropped,
                ..
            }
        )
    };
    assert_eq!(found.iter().filter(is_gap).count(), 1);
    assert!(found.len() > 101);
}
