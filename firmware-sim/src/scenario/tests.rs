//! Scenarios: what parses, what does not, and whether the card can play them.

use super::{BUILT_IN, Scenario};
use crate::engine::RustCrypto;
use crate::fault::{self, Cause, Group};
use card_device::CardConfig;
use std::sync::Arc;
use std::time::Duration;

const HEAD: &str = "name = \"n\"\nsummary = \"s\"\nstory = \"t\"\nduration = \"5s\"\n";
const TAIL: &str = "[expect]\ncause = \"card\"\nshim = \"x\"\n";

#[test]
fn every_built_in_scenario_parses_and_is_complete() {
    for (name, text) in BUILT_IN {
        let scenario = Scenario::parse(text, name).unwrap();
        assert_eq!(scenario.name, *name);
        let Scenario {
            summary,
            story,
            duration,
            load,
            injections,
            service,
            host,
            expect,
            ..
        } = scenario;
        assert!(
            !summary.contains('\n') && summary.len() < 100,
            "{name}: {summary}"
        );
        assert!(story.trim().len() > 100, "{name}: {story}");
        assert!(!expect.shim.is_empty(), "{name}");
        let loaded: Duration = load.iter().map(|phase| phase.lasting).sum();
        assert_eq!(loaded, duration, "{name}: load for as long as it takes");
        for injection in &injections {
            assert!(injection.trigger.at < duration, "{name}: {injection:?}");
        }
        let elsewhere = service.iter().chain(&host).flat_map(|it| &it.faults);
        for fault in elsewhere {
            assert!(fault.at < duration, "{name}: {fault:?}");
        }
    }
}

#[test]
fn what_is_at_fault_is_what_has_a_fault() {
    for scenario in Scenario::all() {
        let Scenario {
            name,
            injections,
            service,
            host,
            expect,
            ..
        } = scenario;
        let mut causes: Vec<_> = injections
            .iter()
            .map(|it| it.fault.entry().truth.cause)
            .collect();
        causes.extend(service.map(|_| Cause::Service));
        causes.extend(host.map(|_| Cause::Host));
        let is_told = causes.contains(&expect.cause) || expect.cause == Cause::None;
        assert!(is_told, "{name}: {:?} of {causes:?}", expect.cause);
    }
}

#[test]
fn every_scenario_is_played_to_its_end() {
    const STEP: Duration = Duration::from_millis(20);
    for scenario in Scenario::all() {
        let script = scenario.script(scenario.seed).shared();
        let config = CardConfig::default();
        let mut card = fault::beset(&config, Arc::new(RustCrypto), Arc::clone(&script)).unwrap();
        let origin = Duration::from_secs(1000);
        let mut time = Duration::ZERO;
        while time <= scenario.duration {
            card.tick(origin + time);
            card.process();
            time += STEP;
        }
        // What only requests set off has none here.
        let script = script.lock().unwrap();
        for (record, injection) in script.record().iter().zip(&scenario.injections) {
            let led = record.fault.entry().group == Group::Led;
            if led || record.fault.name() == "hang" || record.fault.name() == "surprise-removal" {
                let at = record.first_acted_at.unwrap();
                let late = at.saturating_sub(injection.trigger.at);
                assert!(late <= STEP, "{}: {record:?}", scenario.name);
            }
        }
    }
}

#[test]
fn errors_name_file_line_and_what_would_be_right() {
    let table = [
        (
            format!("{HEAD}\n[[inject]]\nfault = \"hagn\"\n{TAIL}"),
            "x.toml line 7: there is no fault hagn (did you mean hang?); `firmware-sim faults` lists them",
        ),
        (
            format!("{HEAD}\n[[inject]]\nfault = \"hang\"\nlastin = \"5s\"\n{TAIL}"),
            "x.toml line 8: there is no key `lastin`; did you mean `lasting`?",
        ),
        (
            format!("{HEAD}\n[[inject]]\nfault = \"slow=quick\"\n{TAIL}"),
            "x.toml line 7: slow: factor cannot be \"quick\": it must be a number from 0.001 to 1000000",
        ),
        (
            format!("{HEAD}\n[[inject]]\nfault = \"hang\"\nat = \"5\"\n{TAIL}"),
            "x.toml line 8: \"5\" is not a duration, such as 250ms, 3s or 2m",
        ),
        (
            format!("{HEAD}\n[[inject]]\nfault = \"hang\"\nprobability = 0.0\n{TAIL}"),
            "x.toml line 8: 0 is not a probability: above 0, and 1 at most",
        ),
        (
            format!("{HEAD}\n[[inject]]\nfault = \"steal\"\n{TAIL}"),
            "x.toml line 7: steal is a fault of the host, which a card cannot have",
        ),
        (
            format!("{HEAD}\n[host]\nstart = \"it\"\ninject = [{{ fault = \"stael\" }}]\n{TAIL}"),
            "x.toml line 6: there is no fault stael (did you mean steal?); `firmware-sim faults` lists them",
        ),
        (
            format!("{HEAD}led = \"red\"\n{TAIL}"),
            "x.toml line 5: no light is \"red\"; there are steady, nfast-500, nshield",
        ),
        (
            format!("{HEAD}{}", TAIL.replace("\"card\"", "\"gremlins\"")),
            "x.toml line 6: no cause is \"gremlins\"; there are none, card, card-absent, link, service, host",
        ),
        (
            format!("colour = 1\n{HEAD}{TAIL}"),
            "x.toml line 1: there is no key `colour`; there are `name`, `summary`, `story`, `duration`, \
             `seed`, `led`, `load`, `inject`, `service`, `host`, `expect`",
        ),
        (HEAD.to_owned(), "x.toml line 1: missing field `expect`"),
    ];
    for (text, expected) in table {
        let error = Scenario::parse(&text, "x.toml").unwrap_err().to_string();
        assert_eq!(error, expected, "in {text}");
    }
    let syntax = Scenario::parse("name = = 1", "x.toml")
        .unwrap_err()
        .to_string();
    assert!(syntax.starts_with("x.toml line 1: "), "{syntax}");
}

#[test]
fn a_name_that_is_none_is_answered_with_the_nearest() {
    let error = "belcore".parse::<Scenario>().unwrap_err().to_string();
    assert!(error.contains("did you mean bellcore?"), "{error}");
    let error = "./no-such.toml"
        .parse::<Scenario>()
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("./no-such.toml could not be read"),
        "{error}"
    );
}
