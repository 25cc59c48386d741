//! The light of a simulated card, read by the decoder that is to read real ones.
//!
//! The two were written from the same descriptions and share no code. Time is told to both, so that
//! hours pass in a moment.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use card_device::{Card, CardConfig};
use card_spec::health::{SUMMARY_LEN, Summary};
use firmware_sim::engine::RustCrypto;
use firmware_sim::fault::led::Profile as Lights;
use firmware_sim::fault::{Fault, Injection, Script, SharedScript, Trigger, beset};
use hwshim::clock::Instant;
use monitor::led::{Decoder, EdgeLog, Profile, Reading, Rule};
use std::sync::Arc;
use std::time::Duration;
use zerocopy::FromBytes;

const SECOND: Duration = Duration::from_secs(1);
const SEEDS: u64 = 25;

/// A card with a light, and somebody who looks at it once a second.
struct Watched {
    card: Card,
    script: SharedScript,
    log: EdgeLog,
    decoder: Decoder,
    now: Duration,
}

impl Watched {
    fn new(lights: Lights, profile: Profile, seed: u64) -> Self {
        let script = Script::new(seed).with_led_profile(lights).shared();
        let config = CardConfig::default();
        let mut card = beset(&config, Arc::new(RustCrypto), Arc::clone(&script)).unwrap();
        card.tick(Duration::ZERO);
        Self {
            card,
            script,
            log: EdgeLog::new(),
            decoder: Decoder::new(profile),
            now: Duration::ZERO,
        }
    }

    fn inject(&self, fault: &str) {
        let fault: Fault = fault.parse().unwrap();
        let trigger = Trigger::now();
        let mut script = self.script.lock().unwrap();
        script.add(Injection { fault, trigger });
    }

    /// A second passes.
    fn reads_next(&mut self) -> Reading {
        self.now += SECOND;
        self.card.tick(self.now);
        let mut page = [0; SUMMARY_LEN];
        self.card.read_bar(Card::health_bar(), 0, &mut page);
        let page = Summary::read_from_bytes(&page).unwrap();
        self.log.take(&page, &mut self.decoder);
        self.decoder.reading()
    }

    /// What is read in so many seconds, a reading for each.
    fn watch(&mut self, seconds: usize) -> Vec<Reading> {
        (0..seconds).map(|_| self.reads_next()).collect()
    }
}

fn error(code: &str) -> Reading {
    Reading::Error {
        code: Some(code.to_owned()),
    }
}

#[test]
fn what_a_simulated_light_says_is_what_is_read() {
    let nfast = (Lights::Nfast500, Profile::Nfast500);
    let nshield = (Lights::Nshield, Profile::Nshield);
    let steady = (Lights::Steady, Profile::Nshield);
    let patterns = [
        (nfast, "led-irregular", Reading::Irregular),
        (nfast, "led-stuck-on", Reading::StuckOn),
        (nfast, "led-stuck-off", Reading::Dark),
        // This generation has no signals: whatever is no blink every 3 to 4 seconds is a fault.
        (nfast, "led-sos=B1", Reading::Irregular),
        (nfast, "led-maintenance", Reading::Irregular),
        (nfast, "led-initialization", Reading::Irregular),
        (nshield, "led-irregular", Reading::Irregular),
        (nshield, "led-stuck-on", Reading::Operational),
        (nshield, "led-stuck-off", Reading::Dark),
        (nshield, "led-sos=B1", error("B1")),
        (nshield, "led-sos=E", error("E")),
        (nshield, "led-sos=T", error("T")),
        (nshield, "led-sos=HV40X9ZQ", error("HV40X9ZQ")),
        (nshield, "led-sos=00000000", error("00000000")),
        (nshield, "led-maintenance", Reading::Maintenance),
        (nshield, "led-initialization", Reading::Initialization),
        (steady, "led-maintenance", Reading::Maintenance),
        (steady, "led-stuck-off", Reading::Dark),
    ];
    for ((lights, profile), fault, expected) in patterns {
        for seed in 0..SEEDS {
            let case = format!("{lights:?} {fault}, seed {seed}");
            let mut watched = Watched::new(lights, profile, seed);
            let well = watched.watch(60);
            assert!(!well.iter().any(Reading::is_fault), "{case}: {well:?}");
            assert_eq!(well.last(), Some(&Reading::Operational), "{case}");

            watched.inject(fault);
            let ill = watched.watch(180);
            assert!(ill.contains(&expected), "{case}: {ill:?}");
            let first = ill.iter().position(|reading| *reading == expected);
            let later = &ill[first.unwrap_or_default()..];
            let agrees = |reading: &Reading| reading.is_fault() == expected.is_fault();
            let stays = later.iter().all(agrees) && ill.last() == Some(&expected);
            // A light at random may stay dark for a while.
            let is_random = fault == "led-irregular";
            assert!(
                stays || is_random && later.iter().all(Reading::is_fault),
                "{case}: {ill:?}"
            );
            let wrong = |reading: &&Reading| reading.is_fault() && !expected.is_fault();
            assert_eq!(ill.iter().find(wrong), None, "{case}");

            watched.script.lock().unwrap().clear_all();
            let well = watched.watch(90);
            assert_eq!(well.last(), Some(&Reading::Operational), "{case}: {well:?}");
        }
    }
}

#[test]
fn lights_that_are_well_are_never_slandered() {
    for (lights, profile) in [
        (Lights::Nfast500, Profile::Nfast500),
        (Lights::Nshield, Profile::Nshield),
        (Lights::Steady, Profile::Nshield),
    ] {
        for seed in 0..SEEDS {
            let mut watched = Watched::new(lights, profile, seed);
            watched.watch(15);
            for _ in 0..1000 {
                assert_eq!(
                    watched.reads_next(),
                    Reading::Operational,
                    "{lights:?} {seed}"
                );
            }
        }
    }
}

/// Seconds from the onset of blinking at random until it is found out, by somebody who looks once a
/// second, sorted.
fn latencies(rule: Rule, trials: u64) -> Vec<f64> {
    let mut latencies: Vec<_> = (0..trials)
        .map(|seed| {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut decoder = Decoder::with_rule(rule);
            let mut now = Instant::ORIGIN;
            let mut blink = |decoder: &mut Decoder, interval: Duration| {
                let dark = now.plus(Duration::from_millis(150));
                decoder.edge(now, true);
                decoder.edge(dark, false);
                let next = now.plus(interval);
                let mut found = None;
                let mut look = dark;
                while look < next && found.is_none() {
                    decoder.still(look, false);
                    found = decoder.reading().is_fault().then_some(look);
                    look = look.plus(SECOND);
                }
                now = next;
                (now, found)
            };
            let mut onset = Instant::ORIGIN;
            for _ in 0..20 {
                let interval = Duration::from_millis(random.u64(3000..=4000));
                onset = blink(&mut decoder, interval).0;
            }
            loop {
                let seconds = -3.5 * (1.0 - random.f64()).ln();
                let interval = Duration::from_millis(150) + Duration::from_secs_f64(seconds);
                if let (_, Some(found)) = blink(&mut decoder, interval) {
                    return found.since(onset).as_secs_f64();
                }
            }
        })
        .collect();
    latencies.sort_by(f64::total_cmp);
    latencies
}

#[test]
fn blinking_at_random_is_found_out_within_36_seconds_in_99_of_100_cases() {
    const TRIALS: usize = 20_000;
    for (rule, name, median_max, p99_max) in [
        (Rule::FOUR_OF_TWELVE, "4 of 12", 17.0, 36.0),
        (Rule::THREE_OF_EIGHT, "3 of 8", 13.0, 29.0),
    ] {
        let latencies = latencies(rule, TRIALS as u64);
        let (median, p99) = (latencies[TRIALS / 2], latencies[TRIALS * 99 / 100]);
        println!("{name}: median {median:.1} s, p99 {p99:.1} s");
        assert!(median <= median_max, "{name}: {median}");
        assert!(p99 <= p99_max, "{name}: {p99}");
    }
}

#[test]
fn a_simulated_light_that_blinks_at_random_is_found_out_as_soon() {
    const TRIALS: usize = 300;
    let trial = |seed| {
        let mut watched = Watched::new(Lights::Nfast500, Profile::Nfast500, seed);
        watched.watch(60);
        watched.inject("led-irregular");
        let readings = watched.watch(120);
        let found = readings.iter().position(Reading::is_fault);
        1 + found.expect("two minutes are enough")
    };
    let mut latencies: Vec<_> = (0..TRIALS as u64).map(trial).collect();
    latencies.sort_unstable();
    let (median, p99) = (latencies[TRIALS / 2], latencies[TRIALS * 99 / 100]);
    println!("median {median} s, p99 {p99} s");
    assert!(median <= 20 && p99 <= 45, "{median} {p99}");
}

/// How often in a year a light that is well is called irregular, if one interval in `1 / chance` is
/// misread: exactly, over everything that the intervals in a window can be.
fn slanders_per_year(rule: Rule, chance: f64) -> f64 {
    const INTERVALS_PER_YEAR: f64 = 365.25 * 86_400.0 / 3.5;
    let bits = rule.among + 1;
    let onsets = (0..1_u32 << bits)
        .filter(|outliers| rule.is_broken(*outliers) && !rule.is_broken(outliers >> 1));
    let chances = onsets.map(|outliers| {
        let ones = i32::try_from(outliers.count_ones()).unwrap();
        let zeros = i32::try_from(bits).unwrap() - ones;
        chance.powi(ones) * (1.0 - chance).powi(zeros)
    });
    chances.sum::<f64>() * INTERVALS_PER_YEAR
}

#[test]
fn a_light_that_is_well_is_slandered_once_in_centuries() {
    for (rule, name, per_mille, per_myriad) in [
        (Rule::FOUR_OF_TWELVE, "4 of 12", 1.6e-3, 1.6e-7),
        (Rule::THREE_OF_EIGHT, "3 of 8", 0.2, 2e-4),
    ] {
        let often = slanders_per_year(rule, 1e-3);
        let seldom = slanders_per_year(rule, 1e-4);
        println!("{name}: {often:.2e} a year at 1e-3, {seldom:.2e} at 1e-4");
        assert!(often <= per_mille, "{name}: {often}");
        assert!(seldom <= per_myriad, "{name}: {seldom}");
    }
}

/// The reckoning above, against a decoder, where misread intervals are frequent enough to wait for.
#[test]
fn slanders_are_as_frequent_as_reckoned() {
    const INTERVALS: u32 = 300_000;
    const CHANCE: f64 = 0.05;
    let rule = Rule::FOUR_OF_TWELVE;
    let mut random = fastrand::Rng::with_seed(1);
    let mut decoder = Decoder::with_rule(rule);
    let mut now = Instant::ORIGIN;
    let mut onsets = 0;
    let mut before = Reading::Unknown;
    for _ in 0..INTERVALS {
        decoder.edge(now, true);
        decoder.edge(now.plus(Duration::from_millis(150)), false);
        let reading = decoder.reading();
        onsets += u32::from(reading.is_fault() && !before.is_fault());
        before = reading;
        let outlier = random.f64() < CHANCE;
        now = now.plus(Duration::from_millis(if outlier { 1750 } else { 3500 }));
    }
    let share = f64::from(INTERVALS) / (365.25 * 86_400.0 / 3.5);
    let reckoned = slanders_per_year(rule, CHANCE) * share;
    println!("{onsets} found, at most {reckoned:.0} reckoned");
    // One spell of irregularity has but one onset, where the reckoning may count two.
    assert!(f64::from(onsets) <= reckoned * 1.2 && f64::from(onsets) >= reckoned * 0.5);
}
