//! Lights that shine as they should and as they should not, and logs that nobody should write.

use super::*;
use card_spec::health::{LED_EDGES_MAX, LedEdge, Summary, led};
use zerocopy::FromZeros;

const BLINK: Duration = Duration::from_millis(150);

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A light, shining for a decoder.
struct Light {
    decoder: Decoder,
    now: Instant,
}

impl Light {
    fn new(profile: Profile) -> Self {
        Self {
            decoder: Decoder::new(profile),
            now: Instant::ORIGIN,
        }
    }

    /// On or off for so long.
    fn be(&mut self, lit: bool, len: Duration) -> &mut Self {
        self.decoder.edge(self.now, lit);
        self.now = self.now.plus(len);
        self.decoder.still(self.now, lit);
        self
    }

    /// A blink, and dark until the interval is over.
    fn blink(&mut self, interval: u64) -> &mut Self {
        self.be(true, BLINK).be(false, millis(interval) - BLINK)
    }

    /// Dots, dashes and spaces.
    fn say(&mut self, morse: &str, dot: u64) -> &mut Self {
        let mut last = None;
        for mark in morse.chars() {
            match mark {
                '.' | '-' => {
                    if let Some(space) = last.take() {
                        self.be(false, millis(space));
                    }
                    self.be(true, millis(if mark == '.' { dot } else { 3 * dot }));
                    last = Some(dot);
                }
                ' ' => last = Some(3 * dot),
                _ => last = Some(7 * dot),
            }
        }
        self.be(false, millis(last.unwrap_or(dot)))
    }

    fn reads(&self) -> Reading {
        self.decoder.reading()
    }
}

#[test]
fn one_outlier_says_nothing_and_four_of_twelve_say_irregular() {
    let mut light = Light::new(Profile::Nfast500);
    light.blink(3500).blink(3500);
    assert_eq!(light.reads(), Reading::Unknown);
    for _ in 0..3 {
        light.blink(3500).blink(3000).blink(4000).blink(1000);
        assert_eq!(light.reads(), Reading::Operational);
    }
    light.blink(2000);
    light.blink(3500);
    assert_eq!(light.reads(), Reading::Irregular);
    for _ in 0..9 {
        light.blink(3500);
        assert_eq!(light.reads(), Reading::Irregular, "not mended yet");
    }
    for _ in 0..3 {
        light.blink(3500);
    }
    assert_eq!(light.reads(), Reading::Operational);
}

#[test]
fn an_interval_that_is_not_over_and_already_too_long_counts() {
    let mut light = Light::new(Profile::Nfast500);
    light.blink(3500).blink(1000).blink(1000).blink(1000);
    light.be(true, BLINK).be(false, millis(4300));
    assert_eq!(light.reads(), Reading::Operational);
    light.decoder.still(light.now.plus(millis(100)), false);
    assert_eq!(light.reads(), Reading::Irregular);
}

#[test]
fn an_interval_in_which_several_blinks_are_missing_is_several_outliers() {
    let mut light = Light::new(Profile::Nfast500);
    light.blink(3500).blink(3500).blink(3500);
    light.blink(9000 + 100).blink(3500);
    assert_eq!(light.reads(), Reading::Operational, "two are missing");
    light.be(true, BLINK).be(false, millis(4500));
    assert_eq!(light.reads(), Reading::Operational, "and a third");
    let later = light.now.plus(millis(4500));
    light.decoder.still(later, false);
    assert_eq!(light.reads(), Reading::Irregular, "and a fourth");
    let mut late = Light::new(Profile::Nfast500);
    late.blink(3500).blink(3500).blink(3500).blink(1000);
    late.blink(9000).blink(1000).blink(3500);
    assert_eq!(late.reads(), Reading::Operational, "one alone is missing");
}

#[test]
fn a_light_that_does_not_change_is_stuck() {
    for (lit, reading) in [(true, Reading::StuckOn), (false, Reading::Dark)] {
        let mut light = Light::new(Profile::Nfast500);
        light.decoder.still(light.now, lit);
        assert_eq!(light.reads(), Reading::Unknown);
        light.decoder.still(light.now.plus(millis(20_000)), lit);
        assert_eq!(light.reads(), reading);
    }
}

#[test]
fn what_was_seen_before_a_gap_does_not_go_on_after_it() {
    let mut light = Light::new(Profile::Nfast500);
    light.blink(3500).blink(1000).blink(1000).blink(1000);
    light.decoder.gap();
    assert_eq!(light.reads(), Reading::Unknown);
    light.now = light.now.plus(millis(60_000));
    for _ in 0..4 {
        light.blink(3500);
    }
    assert_eq!(light.reads(), Reading::Operational);
    // The light cannot go on when it is on: it must have gone off between.
    let mut signals = Light::new(Profile::Nshield);
    signals.be(true, millis(2000));
    assert_eq!(signals.reads(), Reading::Operational);
    signals.be(true, millis(100));
    assert_eq!(signals.reads(), Reading::Unknown);
    // Nor can time go back.
    signals.be(true, millis(2000));
    signals.now = Instant::ORIGIN;
    signals.be(false, millis(100));
    assert_eq!(signals.reads(), Reading::Unknown);
}

#[test]
fn an_nshield_that_blinks_off_is_operational_at_any_load() {
    for load in [0, 10, 100, 1000, 10_000] {
        let mut light = Light::new(Profile::Nshield);
        for round in 0..500 {
            let lit = millis((2000 + round * 7919 % 3000) / (1 + load / 10)).max(millis(1));
            light.be(true, lit).be(false, BLINK);
            let settled = round > 40;
            assert!(
                !settled || light.reads() == Reading::Operational,
                "{load} {round}"
            );
            assert!(!light.reads().is_fault());
        }
    }
}

#[test]
fn a_light_that_was_lit_for_long_is_operational_though_it_blinks_off() {
    let mut light = Light::new(Profile::Nshield);
    light.be(true, millis(100)).be(false, BLINK);
    assert_eq!(light.reads(), Reading::Unknown);
    light.be(true, millis(1600)).be(false, BLINK);
    assert_eq!(light.reads(), Reading::Operational);
}

#[test]
fn two_short_pulses_are_initialization_and_two_long_ones_maintenance() {
    for (pulse, space, pause, reading) in [
        (200, 200, 1400, Reading::Initialization),
        (800, 400, 2000, Reading::Maintenance),
    ] {
        let mut light = Light::new(Profile::Nshield);
        light.be(true, millis(5000)).be(false, millis(pause));
        for _ in 0..3 {
            light.be(true, millis(pulse)).be(false, millis(space));
            light.be(true, millis(pulse)).be(false, millis(pause));
        }
        assert_eq!(light.reads(), reading);
        light.be(true, millis(1600));
        assert_eq!(light.reads(), Reading::Operational);
    }
}

#[test]
fn a_light_that_was_read_is_irregular_only_when_nothing_can_be_for_a_minute() {
    let mut light = Light::new(Profile::Nshield);
    for _ in 0..20 {
        light.be(true, millis(800)).be(false, millis(400));
        light.be(true, millis(800)).be(false, millis(2000));
    }
    assert_eq!(light.reads(), Reading::Maintenance);
    // Well again, and so busy that it is never lit for long.
    for _ in 0..40 {
        light.be(true, millis(550)).be(false, BLINK);
        assert!(!light.reads().is_fault(), "{}", light.reads());
    }
    assert_eq!(light.reads(), Reading::Operational);
    // It says nothing that can be read.
    let is_irregular = |light: &mut Light, seconds: u64| {
        for _ in 0..seconds {
            light.be(true, millis(300)).be(false, millis(150));
            light.be(true, millis(150)).be(false, millis(400));
        }
        light.reads() == Reading::Irregular
    };
    assert!(!is_irregular(&mut light, 50));
    assert!(is_irregular(&mut light, 20));
}

#[test]
fn a_code_is_said_after_it_was_read_twice_alike() {
    for dot in [100, 200, 350] {
        let mut light = Light::new(Profile::Nshield);
        light.be(true, millis(3000)).be(false, millis(7 * dot));
        light.say("... --- .../-... .----/", dot);
        assert_eq!(light.reads(), Reading::Error { code: None }, "{dot}");
        light.say("... --- .../-... .----/", dot);
        let b1 = Reading::Error {
            code: Some("B1".to_owned()),
        };
        assert_eq!(light.reads(), b1, "{dot}");
        assert_eq!(
            light.reads().to_string(),
            "SOS-B1 (the battery is below 2.46 V)"
        );
    }
}

#[test]
fn a_code_that_was_garbled_once_is_read_again() {
    let mut light = Light::new(Profile::Nshield);
    for code in ["-... .----", "-.. .----", "-... .----", "-... .----"] {
        assert!(!matches!(light.reads(), Reading::Error { code: Some(_) }));
        light.say(&format!("... --- .../{code}/"), 200);
    }
    let code = Some("B1".to_owned());
    assert_eq!(light.reads(), Reading::Error { code });
    assert_eq!(meaning("D1"), None, "others are shown as read");
}

#[test]
fn sos_without_a_code_is_an_error_all_the_same() {
    let mut light = Light::new(Profile::Nshield);
    for _ in 0..4 {
        light.say("... --- .../", 200);
    }
    assert_eq!(light.reads(), Reading::Error { code: None });
}

#[test]
fn a_light_that_blinks_more_under_load_agrees_and_one_that_does_not_disagrees() {
    let second = Duration::from_secs(1);
    let check = |idle: u32, busy: u32| {
        let mut check = LoadCheck::new();
        for round in 0..240 {
            check.add(0.0, u32::from(round % 4 == 0) * idle, second);
            check.add(0.5, 100, second);
            check.add(1.0, u32::from(round % 4 == 0) * busy, second);
        }
        check.agreement()
    };
    assert_eq!(LoadCheck::new().agreement(), Agreement::Unknown);
    assert_eq!(check(1, 5), Agreement::Agrees);
    assert_eq!(
        check(2, 2),
        Agreement::Agrees,
        "too little was seen to tell"
    );
    assert_eq!(check(8, 8), Agreement::Disagrees);
    assert_eq!(check(5, 1), Agreement::Disagrees);
    let mut never_off = LoadCheck::new();
    for _ in 0..59 {
        never_off.add(1.0, 0, second);
    }
    assert_eq!(never_off.agreement(), Agreement::Unknown);
    never_off.add(1.0, 0, second);
    assert_eq!(never_off.agreement(), Agreement::Disagrees);
}

#[test]
fn a_light_that_agreed_once_can_come_to_disagree() {
    let minute = Duration::from_secs(60);
    let mut check = LoadCheck::new();
    for _ in 0..60 {
        check.add(0.0, 15, minute);
        check.add(1.0, 60, minute);
    }
    assert_eq!(check.agreement(), Agreement::Agrees);
    for _ in 0..60 {
        check.add(1.0, 1, minute);
    }
    assert_eq!(check.agreement(), Agreement::Disagrees);
}

/// A health page whose light has gone on and off at these times.
fn page(boot_id: u32, uptime_ms: u64, edges: &[(u32, bool)]) -> Summary {
    let mut page = Summary::new_zeroed();
    page.boot_id = boot_id.into();
    page.uptime_ms = uptime_ms.into();
    for (index, (at, lit)) in edges.iter().enumerate() {
        let edge = LedEdge::new().with_uptime_ms(*at).with_lit(*lit);
        page.led_edges[index % LED_EDGES_MAX] = edge.into_bits().into();
        page.led_status = (u32::from(*lit) * led::OK).into();
    }
    page.led_edge_count = u32::try_from(edges.len()).unwrap().into();
    page
}

/// Edges of `count` blinks.
fn blinks(count: u32, interval: u32) -> Vec<(u32, bool)> {
    let edges = (0..count).flat_map(|blink| {
        let at = blink * interval + 1;
        [(at, true), (at + 150, false)]
    });
    edges.collect()
}

/// A single outlier is a fault: what would go unnoticed otherwise shows.
const STRICT: Rule = Rule {
    outliers: 1,
    among: 32,
};

#[test]
fn a_log_is_read_once_and_what_it_has_lost_is_a_gap() {
    let edges = blinks(40, 3500);
    let mut decoder = Decoder::with_rule(STRICT);
    let mut log = EdgeLog::new();
    let mut take = |len: usize| {
        let uptime = u64::from(edges[len - 1].0) + 1;
        log.take(&page(1, uptime, &edges[..len]), &mut decoder);
        decoder.reading()
    };
    for len in (8..20).step_by(2) {
        assert_eq!(take(len), Reading::Operational);
        // Nothing new.
        assert_eq!(take(len), Reading::Operational);
    }
    // A blink was overwritten that nobody has read. Without it there would be an interval too long.
    assert_eq!(take(20 + LED_EDGES_MAX), Reading::Operational);
}

#[test]
fn edges_of_a_firmware_that_has_restarted_follow_none_of_those_before() {
    let before = blinks(4, 3500);
    let after: Vec<_> = blinks(12, 3500)
        .into_iter()
        .map(|(at, lit)| (at + 2000, lit))
        .collect();
    let mut decoder = Decoder::with_rule(STRICT);
    let mut log = EdgeLog::new();
    log.take(&page(1, 11_000, &before), &mut decoder);
    assert_eq!(decoder.reading(), Reading::Operational);
    log.take(&page(2, 41_000, &after), &mut decoder);
    assert_eq!(decoder.reading(), Reading::Operational);
    log.take(&page(3, 10, &[]), &mut decoder);
    assert_eq!(decoder.reading(), Reading::Unknown);
}

#[test]
fn a_light_is_read_though_the_firmware_counts_its_uptime_no_more() {
    let edges = blinks(12, 3500);
    let mut decoder = Decoder::with_rule(STRICT);
    let mut log = EdgeLog::new();
    for len in [8, 16, 24] {
        log.take(&page(1, 5000, &edges[..len]), &mut decoder);
    }
    assert_eq!(decoder.reading(), Reading::Operational);
    log.take(&page(1, 80_000, &edges), &mut decoder);
    assert_eq!(decoder.reading(), Reading::Dark);
}

#[test]
fn times_of_a_log_go_on_where_they_wrap() {
    const WRAP: u64 = 1 << 31;
    let mut decoder = Decoder::new(Profile::Nfast500);
    let mut log = EdgeLog::new();
    let edges: Vec<_> = (0..8)
        .map(|edge: u32| {
            let at = WRAP - 10_000 + u64::from(edge / 2) * 3500 + u64::from(edge % 2) * 150;
            (u32::try_from(at % WRAP).unwrap(), edge.is_multiple_of(2))
        })
        .collect();
    log.take(&page(1, WRAP + 1000, &edges), &mut decoder);
    assert_eq!(decoder.reading(), Reading::Operational);
}

proptest::proptest! {
    #[test]
    fn any_log_can_be_read(
        pages in proptest::collection::vec(
            (0..3_u32, 0..u64::MAX, proptest::collection::vec(0..u32::MAX, 0..40), 0..u32::MAX),
            1..8,
        ),
    ) {
        for profile in Profile::ALL {
            let mut decoder = Decoder::new(profile);
            let mut log = EdgeLog::new();
            for (boot_id, uptime, entries, count) in &pages {
                let mut page = page(*boot_id, *uptime, &[]);
                for (index, entry) in entries.iter().enumerate() {
                    page.led_edges[index % LED_EDGES_MAX] = (*entry).into();
                }
                page.led_edge_count = (*count).into();
                log.take(&page, &mut decoder);
                let _ = decoder.reading();
            }
        }
    }
}
