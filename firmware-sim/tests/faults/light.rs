//! The light, as a reader sees it that looks once a second.

use crate::setup::{SECOND, Setup};
use card_spec::health::{LED_EDGES_MAX, led};
use firmware_sim::fault::led::Profile;
use firmware_sim::fault::{Script, Trigger};

/// An edge: when, in milliseconds, and whether the light is on since.
type Edge = (u32, bool);

fn setup(profile: Profile) -> Setup {
    Setup::following(Script::new(3).with_led_profile(profile))
}

/// Looks once a second, and puts together all edges from what is new each time.
fn watch(setup: &mut Setup, seconds: u32) -> Vec<Edge> {
    let mut count = setup.summary().led_edge_count.get();
    let mut edges = Vec::new();
    for _ in 0..seconds {
        setup.pass(SECOND);
        let summary = setup.summary();
        let new = summary.led_edge_count.get() - count;
        count += new;
        assert!(new as usize <= LED_EDGES_MAX, "{new} edges in a second");
        let last: Vec<_> = summary.led_edges().collect();
        let new = &last[last.len() - new as usize..];
        edges.extend(new.iter().map(|edge| (edge.uptime_ms(), edge.lit())));
        let lit = summary.led_status.get() & led::OK != 0;
        assert!(edges.last().is_none_or(|last| last.1 == lit));
    }
    edges
}

/// How long the light was on or off, between edges.
fn runs(edges: &[Edge]) -> Vec<(bool, u32)> {
    let pairs = edges.windows(2);
    pairs
        .map(|pair| (pair[0].1, pair[1].0 - pair[0].0))
        .collect()
}

/// Lengths of the runs in which the light was `lit`.
fn lengths(edges: &[Edge], lit: bool) -> Vec<u32> {
    let runs = runs(edges).into_iter().filter(|run| run.0 == lit);
    runs.map(|run| run.1).collect()
}

/// What dots, dashes and spaces say, with a unit of 200 ms.
fn decode(runs: &[(bool, u32)]) -> String {
    runs.iter()
        .map(|run| match run {
            (true, 200) => ".",
            (true, 600) => "-",
            (false, 200) => "",
            (false, 600) => " ",
            (false, 1400) => " / ",
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn a_light_without_profile_is_lit() {
    let mut setup = setup(Profile::Steady);
    assert_eq!(watch(&mut setup, 100), []);
    assert_ne!(setup.summary().led_status.get() & led::OK, 0);
}

#[test]
fn an_nfast_500_that_is_well_blinks_every_3_to_4_seconds() {
    let edges = watch(&mut setup(Profile::Nfast500), 200);
    let dark = lengths(&edges, false);
    assert!((49..67).contains(&dark.len()));
    for (dark, lit) in dark.into_iter().zip(lengths(&edges, true)) {
        assert!((3000..=4000).contains(&(dark + lit)), "{dark} {lit}");
        assert_eq!(lit, 150);
    }
}

#[test]
fn an_nshield_that_is_well_is_lit_and_blinks_off_more_often_under_load() {
    let mut setup = setup(Profile::Nshield);
    let idle = lengths(&watch(&mut setup, 60), false);
    assert!(idle.iter().all(|len| *len == 150));
    let session = setup.open_cipher();
    let mut busy = 0;
    for _ in 0..60 {
        for _ in 0..50 {
            assert!(setup.works(session));
        }
        busy += lengths(&watch(&mut setup, 1), false).len();
    }
    assert!(busy > 2 * idle.len(), "{busy} {}", idle.len());
}

#[test]
fn a_light_that_is_stuck_has_no_edges() {
    for (fault, lit) in [("led-stuck-on", true), ("led-stuck-off", false)] {
        let mut setup = setup(Profile::Nfast500);
        watch(&mut setup, 10);
        setup.inject(fault, Trigger::now());
        watch(&mut setup, 1);
        assert_eq!(watch(&mut setup, 100), [], "{fault}");
        assert_eq!(setup.summary().led_status.get() & led::OK != 0, lit);
        setup.clear_all();
        assert!(watch(&mut setup, 10).len() > 2);
    }
}

#[test]
fn an_irregular_light_keeps_to_no_interval() {
    let mut setup = setup(Profile::Nfast500);
    setup.inject("led-irregular", Trigger::now());
    let dark = lengths(&watch(&mut setup, 300), false);
    let outliers = dark.iter().filter(|len| !(2500..=4500).contains(*len));
    assert!(outliers.count() > dark.len() / 2);
}

#[test]
fn an_error_is_said_in_morse_code() {
    let mut setup = setup(Profile::Nshield);
    setup.inject("led-sos=b1", Trigger::at(SECOND));
    watch(&mut setup, 1);
    let edges = watch(&mut setup, 60);
    let said = decode(&runs(&edges));
    assert!(
        said.contains(" / ... --- ... / -... .---- / ... --- ... / "),
        "{said}"
    );
}

#[test]
fn maintenance_is_two_long_pulses_and_initialization_two_short_ones() {
    for (fault, len) in [("led-maintenance", 800), ("led-initialization", 200)] {
        let mut setup = setup(Profile::Nshield);
        setup.inject(fault, Trigger::now());
        watch(&mut setup, 2);
        let edges = watch(&mut setup, 20);
        assert!(
            lengths(&edges, true).iter().all(|lit| *lit == len),
            "{fault}"
        );
        let mut pauses = lengths(&edges, false);
        pauses.sort_unstable();
        pauses.dedup();
        assert_eq!(pauses.len(), 2, "{fault}: within a pair, and between two");
    }
}
