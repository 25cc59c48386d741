//! Leaks that are known are found in time, and what is no leak is left alone.
//!
//! Everything here is made up, from fixed seeds. How well leaks are found in what was recorded on
//! real machines is for `cargo xtask leaks`, which measures in the same way.

#[path = "leaks/bench.rs"]
mod bench;

use bench::{Part, Series, measure};
use hwshim::clock::Instant;
use monitor::leak::{
    LeakVerdict, Level, Limit, Resource, Sample, Scope, Speed, Watch, rising_together,
};
use proptest::prelude::*;
use std::time::Duration;

const HOURS: f64 = 3600.0;
const DAYS: f64 = 24.0 * HOURS;

fn resource(limit: f64) -> Resource {
    Resource {
        name: "descriptors".into(),
        scope: Scope::Service,
        limit: Some(Limit {
            value: limit,
            source: "RLIMIT_NOFILE".into(),
        }),
        negligible: Resource::COUNT,
        recycle: None,
    }
}

fn at(seconds: f64) -> Instant {
    Instant::from_nanos(1_000_000_000_000).plus(Duration::from_secs_f64(seconds))
}

/// Watches what `sample` says, each so many seconds, for a time. Returns the worst there was.
fn watch(watch: &mut Watch, every: f64, seconds: f64, sample: impl Fn(f64) -> Sample) -> Level {
    let mut worst = Level::Watching;
    let mut now = 0.0;
    while now <= seconds {
        watch.observe(at(now), &sample(now));
        worst = worst.max(watch.verdict().level);
        now += every;
    }
    worst
}

fn held(held: f64) -> Sample {
    Sample {
        held,
        ..Sample::default()
    }
}

/// The worst there was, and the last verdict.
fn judge(resource: Resource, seconds: f64, value: impl Fn(f64) -> f64) -> (Level, LeakVerdict) {
    let mut watched = Watch::new(resource);
    let worst = watch(&mut watched, 60.0, seconds, |now| held(value(now)));
    (worst, watched.verdict().clone())
}

/// From 0 to 1, without any order; the same each time.
fn noise(now: f64) -> f64 {
    fastrand::Rng::with_seed(now.to_bits()).f64()
}

#[test]
fn what_is_steady_is_watched_and_nothing_more() {
    let (worst, verdict) = judge(resource(1000.0), 2.0 * DAYS, |now| {
        500.0 + 20.0 * noise(now)
    });
    assert_eq!(worst, Level::Watching, "{verdict:#?}");
}

#[test]
fn a_leak_climbs_the_ladder_before_it_exhausts_its_limit() {
    // Two days until 1000.
    let leak = |now: f64| 500.0 + 500.0 * now / (2.0 * DAYS) + 10.0 * noise(now);
    assert_eq!(
        judge(resource(1000.0), 2.5 * HOURS, leak).0,
        Level::Watching
    );
    assert_eq!(
        judge(resource(1000.0), 12.0 * HOURS, leak).0,
        Level::Leaking
    );
    let (worst, verdict) = judge(resource(1000.0), 1.6 * DAYS, leak);
    assert_eq!((worst, verdict.speed), (Level::Page, Some(Speed::Medium)));
    let left = verdict.exhaustion.unwrap();
    let truly = Duration::from_secs_f64(0.4 * DAYS);
    // Noise gets there up to an hour before the leak does.
    let noise = Duration::from_secs(3600);
    assert!(
        left.earliest < truly && truly < left.latest.unwrap() + noise,
        "{left:?}"
    );
    let rate = verdict.rate_per_hour.unwrap();
    assert!(
        rate.low < 500.0 / 48.0 && 500.0 / 48.0 < rate.high,
        "{rate:?}"
    );
    assert!(verdict.p.unwrap() < 0.001 && verdict.failed_gates().next().is_none());
}

/// As the kernel counts what it holds for a service that leaks 128 KiB every half minute while its card
/// is away, twenty minutes of forty, and has connections that come and go besides.
#[test]
fn a_leak_in_bursts_is_found_though_little_was_held_and_it_is_counted_by_pages() {
    const KIB: f64 = 1024.0;
    let resource = || Resource {
        name: "kernel-memory".into(),
        negligible: Resource::BYTES,
        ..resource(64.0 * KIB * KIB)
    };
    let counted = |now: f64, leaks: f64| {
        // For the first hour the card is there.
        let since = (now - HOURS).max(0.0);
        let (bursts, into) = ((since / 2400.0).floor(), since % 2400.0);
        let away = 1200.0 * bursts + into.min(1200.0);
        let pages = match into {
            0.0..600.0 => 2.0,
            600.0..1800.0 => 6.0,
            _ => 4.0,
        };
        1536.0 * KIB + leaks * away / 30.0 + 4.0 * KIB * pages
    };
    let (worst, verdict) = judge(resource(), 4.5 * HOURS, |now| counted(now, 128.0 * KIB));
    assert!(worst >= Level::Suspected, "{verdict:#?}");
    let (worst, verdict) = judge(resource(), DAYS, |now| counted(now, 0.0));
    assert_eq!(worst, Level::Watching, "{verdict:#?}");
}

#[test]
fn a_leak_that_leaves_weeks_is_suspected_and_no_more() {
    let (worst, _) = judge(resource(100_000.0), DAYS, |now| 1000.0 + 20.0 * now / HOURS);
    assert_eq!(worst, Level::Suspected);
}

#[test]
fn a_runaway_pages_within_the_hour() {
    let runaway = |now: f64| 500.0 + 500.0 * (now / HOURS - 2.0).max(0.0);
    let (worst, verdict) = judge(resource(1000.0), 2.75 * HOURS, runaway);
    assert_eq!((worst, verdict.speed), (Level::Page, Some(Speed::Fast)));
}

/// What was held in each sample, five minutes apart, after two level hours.
fn every_five_minutes(resource: Resource, then: &[f64]) -> (Level, LeakVerdict) {
    let mut watched = Watch::new(resource);
    let worst = watch(&mut watched, 300.0, 2.0 * HOURS, |_| held(500.0));
    let mut worst = worst;
    for (value, number) in then.iter().zip(1..) {
        watched.observe(at(2.0 * HOURS + f64::from(number) * 300.0), &held(*value));
        worst = worst.max(watched.verdict().level);
    }
    (worst, watched.verdict().clone())
}

#[test]
fn a_runaway_that_takes_an_hour_pages_on_samples_five_minutes_apart() {
    let climb = [540.0, 620.0, 690.0, 760.0];
    let (worst, verdict) = every_five_minutes(resource(1000.0), &climb);
    assert_eq!((worst, verdict.speed), (Level::Page, Some(Speed::Steep)));
    assert!(verdict.failed_gates().next().is_none(), "{verdict:#?}");
    let left = verdict.exhaustion.unwrap();
    let [earliest, latest] = [left.earliest, left.latest.unwrap()].map(|it| it.as_secs_f64());
    // At its own pace it takes 18 minutes.
    assert!(earliest < 1110.0 && 1110.0 < latest, "{left:?}");
    // The latest sample is told of, and not the one before.
    assert_eq!(verdict.held, 760.0);
}

#[test]
fn a_climb_that_is_a_step_or_falls_back_or_is_far_from_its_limit_pages_nobody() {
    let large = |climb: &[f64]| every_five_minutes(resource(1000.0), climb).0;
    assert!(large(&[750.0, 750.0, 751.0, 752.0]) < Level::Page);
    assert!(large(&[700.0, 560.0, 740.0, 610.0, 760.0]) < Level::Page);
    let far = every_five_minutes(resource(1500.0), &[540.0, 620.0, 690.0, 760.0]).0;
    assert!(far < Level::Page);
    // As many ports as are opened in a recycle time, at a rate that rises.
    let mut watched = Watch::new(ports(1000.0));
    let rising = recycling(|now| 0.5 + (now / HOURS - 2.0).max(0.0) * 4.0, |_| 0.0);
    let worst = watch(&mut watched, 300.0, 2.75 * HOURS, rising);
    assert!(worst < Level::Page, "{:#?}", watched.verdict());
}

#[test]
fn a_fast_rise_is_called_a_leak_and_pages_nobody_before_its_limit_is_near() {
    let grows = |now: f64| 300.0 + 150.0 * now / HOURS + 5.0 * noise(now);
    let (young, verdict) = judge(resource(1000.0), 2.6 * HOURS, grows);
    assert_eq!(young, Level::Leaking, "{verdict:#?}");
    assert!(
        verdict
            .failed_gates()
            .any(|gate| gate.name.ends_with("to page")),
        "{verdict:#?}"
    );
    let (near, _) = judge(resource(1000.0), 4.4 * HOURS, grows);
    assert_eq!(near, Level::Page);
}

#[test]
fn a_step_is_no_leak() {
    for grown in [560.0, 700.0, 900.0] {
        let step = |now: f64| if now < 8.0 * HOURS { 500.0 } else { grown } + 10.0 * noise(now);
        let (worst, verdict) = judge(resource(1000.0), DAYS, step);
        assert_eq!(worst, Level::Watching, "{grown}: {verdict:#?}");
    }
}

#[test]
fn what_fills_and_stays_full_is_no_leak() {
    let fills = |now: f64| 300.0 + 500.0 * (1.0 - (-now / (0.4 * HOURS)).exp()) + 5.0 * noise(now);
    let (worst, verdict) = judge(resource(1000.0), DAYS, fills);
    assert_eq!(worst, Level::Watching, "{verdict:#?}");
}

#[test]
fn a_sawtooth_over_a_level_floor_is_no_leak() {
    let sawtooth = |now: f64| 300.0 + 400.0 * (now / (8.0 * 60.0)).fract();
    let (worst, verdict) = judge(resource(1000.0), DAYS, sawtooth);
    assert_eq!(worst, Level::Watching, "{verdict:#?}");
}

#[test]
fn what_load_explains_is_no_leak() {
    let mut watched = Watch::new(resource(1000.0));
    let load = |now: f64| 100.0 * (now / (12.0 * HOURS)).min(1.0) + 3.0 * noise(now);
    let worst = watch(&mut watched, 60.0, DAYS, |now| Sample {
        load: Some(load(now)),
        ..held(300.0 + 3.0 * load(now))
    });
    assert_eq!(worst, Level::Watching, "{:#?}", watched.verdict());
    // The same growth, with load that does not explain it.
    let mut watched = Watch::new(resource(1000.0));
    let worst = watch(&mut watched, 60.0, DAYS, |now| Sample {
        load: Some(50.0 + 3.0 * noise(now)),
        ..held(300.0 + 3.0 * load(now))
    });
    assert!(worst > Level::Watching);
}

#[test]
fn a_leak_of_weeks_is_seen_under_the_swing_of_the_day() {
    let day = |now: f64| 10.0 * (now / DAYS * std::f64::consts::TAU).sin();
    let level = |now: f64| 500.0 + day(now) + 5.0 * noise(now);
    let mut watched = Watch::new(resource(1000.0));
    assert_eq!(
        watch(&mut watched, 300.0, 14.0 * DAYS, |now| held(level(now))),
        Level::Watching
    );
    // Seven a day: 50 days to the limit.
    let leak = |now: f64| level(now) + 7.0 * now / DAYS;
    let mut watched = Watch::new(resource(1000.0));
    let worst = watch(&mut watched, 300.0, 14.0 * DAYS, |now| held(leak(now)));
    let verdict = watched.verdict();
    assert_eq!(
        (worst, verdict.speed),
        (Level::Suspected, Some(Speed::Slow)),
        "{verdict:#?}"
    );
}

/// A number as a counter has it.
fn whole(number: f64) -> u64 {
    let text = format!("{number:.0}");
    text.parse().expect("it is not negative")
}

/// Ports that are given back 240 s after they were opened, at so many opens a second.
fn recycling(rate: impl Fn(f64) -> f64, leaked: impl Fn(f64) -> f64) -> impl Fn(f64) -> Sample {
    const RECYCLE: f64 = 240.0;
    move |now| {
        let opened = |until: f64| {
            let steps = (0..).map(|step| f64::from(step) * 60.0);
            let rates = steps.take_while(|start| *start < until);
            rates
                .map(|start| rate(start) * 60.0)
                .fold(0.0, |sum, each| sum + each)
        };
        let opens = opened(now);
        Sample {
            opens: Some(whole(opens)),
            ..held((opens - opened(now - RECYCLE) + leaked(now)).floor())
        }
    }
}

fn ports(limit: f64) -> Resource {
    Resource {
        name: "ports".into(),
        recycle: Some(Duration::from_secs(240)),
        ..resource(limit)
    }
}

#[test]
fn what_recycles_comes_to_rest_at_rate_times_recycle_time_and_is_no_leak() {
    let mut watched = Watch::new(ports(600.0));
    let steady = recycling(|_| 2.0, |_| 0.0);
    let worst = watch(&mut watched, 60.0, 8.0 * HOURS, steady);
    assert_eq!((worst, watched.verdict().held), (Level::Watching, 480.0));
    // As the rate rises, so does what is held, up to the limit's own length.
    let mut watched = Watch::new(ports(600.0));
    let rising = recycling(|now| 0.5 + now / (4.0 * HOURS), |_| 0.0);
    let worst = watch(&mut watched, 60.0, 6.0 * HOURS, rising);
    assert_eq!(worst, Level::Watching, "{:#?}", watched.verdict());
}

#[test]
fn a_rise_that_ends_when_the_recycle_time_is_over_is_no_leak_though_nobody_counts_the_opens() {
    let ports_held = |now: f64| {
        let rising_for = (now - 3.0 * HOURS).clamp(0.0, 240.0);
        30.0 + 0.8 * rising_for + 4.0 * noise(now)
    };
    let mut watched = Watch::new(ports(1000.0));
    // By the card's count, half an hour of rest after each request.
    let worst = watch(&mut watched, 60.0, 12.0 * HOURS, |now| Sample {
        opens: Some(whole(now / 1800.0)),
        load: Some(0.0),
        ..held(ports_held(now))
    });
    assert_eq!(worst, Level::Watching, "{:#?}", watched.verdict());
}

#[test]
fn few_opens_however_unsteady_explain_no_growth_beyond_their_number() {
    let mut watched = Watch::new(ports(1000.0));
    let leaked = |now: f64| 30.0 + 60.0 * now / HOURS + 4.0 * noise(now);
    let worst = watch(&mut watched, 60.0, 8.0 * HOURS, |now| Sample {
        // One in some stretches of ten minutes, and none in others.
        opens: Some(whole(now / 900.0)),
        commands: Some(whole(40.0 * now)),
        ..held(leaked(now))
    });
    let verdict = watched.verdict();
    assert!(worst >= Level::Leaking, "{verdict:#?}");
    assert_eq!(verdict.speed, Some(Speed::Medium));
}

#[test]
fn a_service_that_works_for_others_than_the_card_is_not_idle() {
    let rests = |now: f64, commands: f64| Sample {
        opens: Some(whole(now / 1800.0)),
        commands: Some(whole(commands)),
        ..held(200.0 + 100.0 * (now / 1800.0).floor())
    };
    let judged = |per_second: f64| {
        let mut watched = Watch::new(resource(10_000.0));
        watch(&mut watched, 60.0, 2.5 * HOURS, |now| {
            rests(now, per_second * now)
        })
    };
    assert_eq!(judged(40.0), Level::Watching);
    assert_eq!(judged(0.0), Level::Leaking);
}

#[test]
fn what_grows_beyond_what_recycles_is_a_leak() {
    let mut watched = Watch::new(ports(600.0));
    let leak = recycling(|_| 0.5, |now| 40.0 * now / HOURS);
    let worst = watch(&mut watched, 60.0, 8.0 * HOURS, leak);
    assert_eq!(worst, Level::Page, "{:#?}", watched.verdict());
}

#[test]
fn what_is_held_when_idle_and_grows_is_proof() {
    // Ten minutes of work, twenty of rest; each time a hundred are left over.
    let cycle = 0.5 * HOURS;
    let work = |left: f64| {
        move |now: f64| {
            let (cycles, within) = ((now / cycle).floor(), now % cycle);
            let busy = within < 600.0;
            Sample {
                load: Some(f64::from(u8::from(busy))),
                ..held(200.0 + left * cycles + if busy { 300.0 } else { 0.0 })
            }
        }
    };
    let mut watched = Watch::new(resource(100_000.0));
    assert_eq!(
        watch(&mut watched, 60.0, 6.0 * HOURS, work(0.0)),
        Level::Watching
    );
    let mut watched = Watch::new(resource(100_000.0));
    let worst = watch(&mut watched, 60.0, 2.0 * HOURS, work(100.0));
    assert_eq!(
        (worst, watched.verdict().speed),
        (Level::Leaking, Some(Speed::Idle))
    );
}

#[test]
fn growth_with_failed_opens_is_told_from_growth_with_load() {
    // Work all the time; in every third half hour opens fail, and each of those leaks.
    let failed = |now: f64| {
        let (cycles, within) = ((now / (1.5 * HOURS)).floor(), now % (1.5 * HOURS));
        cycles * 30.0 + (within / 60.0).min(30.0).floor()
    };
    let sample = |each: f64| {
        move |now: f64| Sample {
            opens: Some(
                format!("{:.0}", (now * 5.0).floor() + failed(now))
                    .parse()
                    .unwrap(),
            ),
            failed_opens: Some(format!("{:.0}", failed(now)).parse().unwrap()),
            ..held(1000.0 + each * failed(now) + 10.0 * noise(now))
        }
    };
    let mut watched = Watch::new(resource(100_000.0));
    watch(&mut watched, 60.0, 8.0 * HOURS, sample(0.0));
    assert_eq!(watched.verdict().grows_with_failed_opens, None);
    let mut watched = Watch::new(resource(100_000.0));
    let worst = watch(&mut watched, 60.0, 8.0 * HOURS, sample(10.0));
    let found = watched.verdict().grows_with_failed_opens.unwrap();
    assert!((8.0..12.0).contains(&found.each), "{found:?}");
    assert!(worst >= Level::Leaking, "{:#?}", watched.verdict());
    let says = watched.verdict().falsified_by();
    assert!(
        says.iter().any(|test| test.contains("opens go on failing")),
        "{says:?}"
    );
}

#[test]
fn growth_while_the_card_is_away_is_told() {
    let away = |now: f64| now > 5.0 * HOURS;
    let mut watched = Watch::new(resource(100_000.0));
    watch(&mut watched, 60.0, 10.0 * HOURS, |now| Sample {
        card_absent: away(now),
        ..held(1000.0 + 300.0 * (now / HOURS - 5.0).max(0.0) + 10.0 * noise(now))
    });
    let found = watched.verdict().grows_while_absent.unwrap();
    assert!((250.0..350.0).contains(&found.each), "{found:?}");
    let began = watched.verdict().began.unwrap();
    let hours = began.ago.as_secs_f64() / HOURS;
    assert!(
        (4.7..5.4).contains(&hours) && began.as_card_went,
        "{began:?}"
    );
}

#[test]
fn growth_of_the_host_is_attributed_to_who_grows() {
    let grown = |now: f64| 100.0 * now / HOURS;
    let share = |ours: f64| {
        let mut watched = Watch::new(resource(100_000.0));
        watch(&mut watched, 60.0, 8.0 * HOURS, |now| Sample {
            host_total: Some(5000.0 + grown(now)),
            ..held(1000.0 + ours * grown(now) + noise(now))
        });
        watched.verdict().share_of_growth.unwrap()
    };
    assert!(share(0.9).is_attributed());
    assert!(!share(0.2).is_attributed());
}

#[test]
fn what_is_of_the_whole_host_never_pages() {
    let host = Resource {
        scope: Scope::Host,
        ..resource(1000.0)
    };
    let runaway = |now: f64| 500.0 + 500.0 * (now / HOURS - 2.0).max(0.0);
    let (worst, verdict) = judge(host, 2.9 * HOURS, runaway);
    assert_eq!(worst, Level::Leaking);
    assert!(
        verdict
            .falsified_by()
            .iter()
            .any(|test| test.contains("no service's own share"))
    );
}

#[test]
fn resources_of_a_service_that_rise_together_are_one_incident() {
    let leak = |now: f64| 500.0 + 20.0 * now / HOURS;
    let rising = judge(resource(1000.0), 10.0 * HOURS, leak).1;
    let steady = judge(resource(1000.0), 10.0 * HOURS, |_| 500.0).1;
    assert_eq!(rising_together(&[&rising, &steady]).len(), 0);
    assert_eq!(rising_together(&[&rising, &steady, &rising]).len(), 2);
}

#[test]
fn a_gap_is_no_evidence_and_a_leak_is_found_across_it() {
    let mut watched = Watch::new(resource(1000.0));
    let leak = |now: f64| held(500.0 + 20.0 * now / HOURS);
    let mut now = 0.0;
    while now < 10.0 * HOURS {
        // Blind for two hours; then the clock is asked out of order.
        if !(4.0 * HOURS..6.0 * HOURS).contains(&now) {
            watched.observe(at(now), &leak(now));
            watched.observe(at(now / 2.0), &held(0.0));
            watched.observe(at(now), &held(f64::NAN));
        }
        now += 60.0;
    }
    assert!(
        watched.verdict().level >= Level::Leaking,
        "{:#?}",
        watched.verdict()
    );
}

/// Services as they are: a level, noise, the swing of a day, a sawtooth.
fn services() -> Vec<Series> {
    let mut random = fastrand::Rng::with_seed(1044);
    (0..4)
        .map(|number| {
            let level = 50e6 * f64::from(number + 1);
            let [noise, swing, tooth] = [0.01, 0.03, 0.05].map(|most| level * most * random.f64());
            let at: Vec<_> = (0..24 * 60)
                .map(|minute| f64::from(minute) * 60.0)
                .collect();
            let value = |at: &f64| {
                level
                    + noise * random.f64()
                    + swing * (at / DAYS * std::f64::consts::TAU).sin()
                    + tooth * (at / (7.0 * 60.0)).fract()
            };
            Series {
                archive: "made up".to_owned(),
                gauge: "resident".to_owned(),
                instance: number.to_string(),
                bytes: true,
                host: false,
                values: at.iter().map(value).collect(),
                at,
            }
        })
        .collect()
}

#[test]
fn leaks_of_made_up_services_are_found_and_paged_before_they_exhaust() {
    let services = services();
    assert!(services.iter().all(Series::is_usable));
    let report = measure(services.iter());
    assert_eq!(
        (report.quiet.suspected, report.quiet.pages),
        (0, 0),
        "{:?}",
        report.quiet
    );
    for leaks in report.leaks {
        assert_eq!(leaks.leaks, 8, "{leaks:?}");
        assert!(leaks.suspected >= 7, "{leaks:?}");
        assert!(
            leaks.percent_per_hour < 10.0 || leaks.exhausted == 8,
            "{leaks:?}"
        );
        assert!(
            leaks.paged_before * 100 >= leaks.exhausted * 95,
            "{leaks:?}"
        );
    }
}

#[test]
fn what_judges_the_rules_is_decided_by_names_and_keeps_a_process_whole() {
    let series = |archive: &str, gauge: &str, instance: &str, host: bool| Series {
        archive: archive.to_owned(),
        gauge: gauge.to_owned(),
        instance: instance.to_owned(),
        bytes: true,
        host,
        at: Vec::new(),
        values: Vec::new(),
    };
    let of = |number: u32, gauge| series("20180606", gauge, &format!("{number} sshd"), false);
    let parts: Vec<_> = (0..1000).map(|pid| of(pid, "rss").part()).collect();
    let held_back = parts.iter().filter(|part| **part == Part::Final).count();
    assert!((450..550).contains(&held_back), "{held_back} of 1000");
    assert!(!parts.contains(&Part::Tuning));
    for (pid, part) in (0..).zip(parts) {
        assert_eq!(of(pid, "fd").part(), part);
    }
    let host = |gauge, instance| series("20130706", gauge, instance, true).part();
    assert_eq!(host("swap", ""), host("slab", "node0"));
    assert_eq!(series("bug-1044", "rss", "1", false).part(), Part::Tuning);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nothing_that_is_told_makes_a_watch_panic(
        limit in prop_oneof![any::<f64>(), 0.0..100.0],
        negligible in any::<f64>(),
        recycle in proptest::option::of(any::<u16>()),
        samples in prop::collection::vec(
            (0_u64..20_000_000_000_000, prop_oneof![any::<f64>(), 0.0..100.0], any::<Option<u64>>(),
             any::<Option<u64>>(), any::<Option<f64>>(), any::<bool>()),
            0..200,
        ),
    ) {
        let mut watched = Watch::new(Resource {
            negligible,
            recycle: recycle.map(|seconds| Duration::from_secs(seconds.into())),
            ..resource(limit)
        });
        let mut now = 0;
        for (step, value, opens, failed_opens, load, card_absent) in samples {
            now += step / 20;
            watched.observe(Instant::from_nanos(now), &Sample {
                held: value,
                opens,
                commands: opens,
                failed_opens,
                load,
                card_absent,
                host_total: load,
            });
            let verdict = watched.verdict();
            prop_assert!(verdict.gates.iter().all(|gate| !gate.to_string().is_empty()));
        }
    }
}
