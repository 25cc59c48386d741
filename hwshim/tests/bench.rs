//! `hwshim bench`, as a program: what it measures is what was asked, and the page it leaves behind
//! needs nothing else.
//!
//! Nothing here is about speed.

#![expect(clippy::unwrap_used, reason = "a test")]

use serde_json::Value;
use std::process::{Command, Output};

fn bench(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hwshim"))
        .arg("bench")
        .args(arguments)
        .output()
        .unwrap()
}

fn report(arguments: &[&str]) -> Value {
    let output = bench(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Nothing of the page is fetched from anywhere, or run.
fn assert_self_contained(page: &str) {
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
    for foreign in [
        "<script", "src=", "url(", "@import", "<link", "http:", "https:", "NaN",
    ] {
        assert!(!page.contains(foreign), "{foreign}");
    }
}

/// Whoever has the page read out is told what a drawing shows and what a cell belongs to.
fn assert_can_be_read_out(page: &str) {
    let tags = |name: &str| {
        let tags: Vec<_> = page
            .split(&format!("<{name}"))
            .skip(1)
            .filter(|rest| rest.starts_with([' ', '>']))
            .filter_map(|rest| rest.split('>').next())
            .map(str::to_owned)
            .collect();
        assert!(!tags.is_empty(), "{name}");
        tags
    };
    for tag in tags("svg") {
        let label = tag.split_once(" aria-label=\"").map(|(_, label)| label);
        assert!(label.is_some_and(|label| !label.starts_with('"')), "{tag}");
    }
    for tag in tags("th") {
        assert!(tag.contains("scope="), "{tag}");
    }
    assert_eq!(
        tags("table").len(),
        page.matches("<table><caption>").count()
    );
}

#[cfg(feature = "tls")]
const SMALL: [&str; 7] = [
    "tls",
    "software:ring",
    "--libraries=ring",
    "--concurrency=3",
    "--windows=1",
    "--for=1ms",
    "--json",
];

#[cfg(feature = "tls")]
#[test]
fn handshakes_of_every_kind_are_those_that_were_asked_for_and_none_fails() {
    let all = [
        "--keys=rsa-2048,p256",
        "--tls=1.2,1.3",
        "--handshakes=full,resumed",
    ];
    let report = report(&[&SMALL[..], &all].concat());
    let points = report["points"].as_array().unwrap();
    assert_eq!(points.len(), 8);
    for side in points
        .iter()
        .flat_map(|point| point["sides"].as_array().unwrap())
    {
        // A client that gets another kind, or cannot verify, fails.
        assert_eq!(side["failed"], 0, "{side}");
        assert!(side["handshakes"].as_u64().unwrap() >= 3, "{side}");
        assert!(
            side["server_cpu_us"]["best"].as_f64().unwrap() > 0.0,
            "{side}"
        );
    }
}

#[cfg(feature = "tls")]
#[test]
fn who_signed_is_told_and_adds_up() {
    for always in [&["--always"][..], &[]] {
        let report = report(&[&SMALL[..], always].concat());
        let sides = report["points"][0]["sides"].as_array().unwrap();
        let [plain, offloaded] = sides.as_slice() else {
            panic!("{report}");
        };
        assert_eq!(plain["answered"]["card"], 0);
        assert_eq!(plain["answered"]["software"], plain["handshakes"]);
        // Each is counted where it is made.
        let made = |by: &str| offloaded["answered"][by].as_u64().unwrap();
        assert_eq!(made("card") + made("software"), offloaded["handshakes"]);
        if !always.is_empty() {
            assert_eq!(made("software"), 0);
        }
        assert_eq!(made("wrong_answers"), 0);
    }
}

#[cfg(feature = "tls")]
#[test]
fn handshakes_leave_a_page_that_needs_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tls.html");
    report(&[&SMALL[..], &["--html", file.to_str().unwrap()]].concat());
    let page = std::fs::read_to_string(file).unwrap();
    assert_self_contained(&page);
    assert_can_be_read_out(&page);
    for wanted in [
        "TLS 1.3, RSA-2048, full handshakes",
        "software:ring + ring",
        "Latency",
        "--html",
    ] {
        assert!(page.contains(wanted), "{wanted}");
    }
}

/// Software twice over, by itself and behind a router, for no time to speak of.
const SMALL_RAW: [&str; 5] = [
    "software:ring",
    "--ops=p256-sign,sha256-1k",
    "--depth=7,1",
    "--for=20ms",
    "--json",
];

fn count(of: &Value, name: &str) -> u64 {
    of[name].as_u64().unwrap_or_else(|| panic!("{name}: {of}"))
}

#[test]
fn every_operation_is_measured_at_every_depth_on_every_side_once() {
    let report = report(&[&SMALL_RAW[..], &["--depth=1"]].concat());
    assert_eq!(report["schema"], 2);
    let points = report["points"].as_array().unwrap();
    let cases: Vec<_> = points
        .iter()
        .map(|point| (point["operation"].as_str().unwrap(), count(point, "depth")))
        .collect();
    let of = |operation| [1, 7].map(|depth| (operation, depth));
    assert_eq!(cases, [of("p256-sign"), of("sha256-1k")].concat());
    for point in points {
        let sides = point["sides"].as_array().unwrap();
        let names: Vec<_> = sides.iter().map(|side| &side["name"]).collect();
        assert_eq!(names, ["software", "software:ring"]);
        for side in sides {
            assert_eq!(side["failed"], 0, "{side}");
            assert!(count(side, "operations") > 0, "{side}");
            assert!(side["per_second"]["best"].as_f64() > Some(0.0), "{side}");
            for ratio in ["gains", "saves"] {
                assert_eq!(side[ratio][0]["than"], "software", "{side}");
            }
        }
    }
}

#[test]
fn an_accelerator_that_is_named_twice_is_misuse_and_nothing_is_measured() {
    for of in OF {
        // Were anything measured, nobody would wait for the end of this test.
        let run = [
            "software:ring",
            "vfio-user:/nowhere/card.sock",
            "software:ring",
            "--for=1h",
        ];
        let output = bench(&[of, &run].concat());
        assert_eq!(output.status.code(), Some(2));
        assert!(output.stdout.is_empty());
        let errors = String::from_utf8_lossy(&output.stderr);
        let usage = ["Usage: hwshim bench", of.first().unwrap_or(&"")].join(" ");
        for wanted in [
            "error: software:ring is accelerator 1 and accelerator 3; name it once",
            usage.trim(),
        ] {
            assert!(errors.contains(wanted), "{wanted}: {errors}");
        }
    }
}

#[test]
fn who_answered_is_told_of_each_accelerator_and_adds_up() {
    let report = report(&SMALL_RAW);
    let accelerators = report["accelerators"].as_array().unwrap();
    assert_eq!(accelerators.len(), 1);
    let accelerator = &accelerators[0];
    assert_eq!(accelerator["address"], "software:ring");
    assert_eq!(accelerator["in_use"], true);
    let requests = &accelerator["requests"];
    assert_eq!(requests["adds_up"], true);
    let of_points = |index: usize, by: &str| -> u64 {
        let points = report["points"].as_array().unwrap().iter();
        points
            .map(|point| count(&point["sides"][index]["answered"], by))
            .sum()
    };
    // What comes first is done, and not counted among the figures.
    assert!(of_points(1, "card") < count(requests, "card"));
    assert_eq!(of_points(1, "software"), count(requests, "software"));
    assert_eq!(
        of_points(0, "card"),
        0,
        "software by itself has nobody else"
    );
}

#[test]
fn what_was_measured_is_told_to_people_too() {
    let output = bench(&SMALL_RAW[..4]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    for wanted in [
        "p256-sign, 1 in flight",
        "sha256-1k, 7 in flight",
        "BY CARD",
        "software:ring: ",
        "0 failed; 0 wrong answers stopped",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
}

#[test]
fn an_accelerator_that_cannot_be_brought_up_is_named_before_anything_is_measured() {
    // Were anything measured, nobody would wait for the end of this test.
    let run = ["software:ring", "vfio-user:/nowhere/card.sock", "--for=1h"];
    let output = bench(&run);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let errors = String::from_utf8_lossy(&output.stderr);
    let wanted = "vfio-user:/nowhere/card.sock cannot be brought up";
    assert!(errors.contains(wanted), "{errors}");
    assert!(errors.contains("hint: "), "{errors}");
}

#[test]
fn operations_leave_a_page_that_needs_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("raw.html");
    report(&[&SMALL_RAW[..], &["--html", file.to_str().unwrap()]].concat());
    let page = std::fs::read_to_string(file).unwrap();
    assert_self_contained(&page);
    assert_can_be_read_out(&page);
    for wanted in [
        "p256-sign",
        "Throughput: operations/s, higher is better",
        "software:ring, operations in flight 7: ",
        "Latency, 1 in flight",
        "Who answered, 7 in flight",
        "--html",
    ] {
        assert!(page.contains(wanted), "{wanted}");
    }
}

#[test]
fn what_cannot_be_measured_or_written_says_what_to_do() {
    for (arguments, wanted) in [
        (&[][..], "<ADDRESS>"),
        (
            &[
                "software:ring",
                "--ops=sha256-1k",
                "--for=20ms",
                "--html=/nowhere/page",
            ][..],
            "hint: ",
        ),
    ] {
        let output = bench(arguments);
        assert!(!output.status.success());
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains(wanted), "{errors}");
    }
}

#[cfg(feature = "tls")]
const OF: [&[&str]; 2] = [&["tls"], &[]];
#[cfg(not(feature = "tls"))]
const OF: [&[&str]; 1] = [&[]];

#[test]
fn a_page_that_cannot_be_written_is_told_of_before_anything_is_measured() {
    for of in OF {
        // Were it measured first, nobody would wait for the end of this test.
        let run = ["software:ring", "--for=1h", "--html=/nowhere/page"];
        let output = bench(&[of, &run].concat());
        assert!(!output.status.success() && output.stdout.is_empty());
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            errors.contains("/nowhere/page cannot be written"),
            "{errors}"
        );
    }
}
