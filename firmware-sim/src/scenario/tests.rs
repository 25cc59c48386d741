//! Scenarios: what parses, what does not, and whether the card can play them.

use super::{BUILT_IN, Scenario, json, story};
use crate::engine::RustCrypto;
use crate::fault::{self, Cause, Group};
use card_device::CardConfig;
use serde_json::Value;
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
        let service = service.iter().flat_map(|it| &it.faults).map(|it| it.at);
        let host = host.iter().flat_map(|it| &it.faults).map(|it| it.at);
        for at in service.chain(host) {
            assert!(at < duration, "{name}: {at:?}");
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
        let is_told = match expect.cause {
            Cause::None => causes.iter().all(|cause| *cause == Cause::None),
            cause => causes.contains(&cause),
        };
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
            "x.toml line 7: slow: factor cannot be \"quick\": it must be a number above 1, up to 1000000",
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
            format!("{HEAD}\n[host]\nstory = \"it\"\ninject = [{{ fault = \"stael\" }}]\n{TAIL}"),
            "x.toml line 8: there is no fault stael (did you mean steal?); `firmware-sim faults` lists them",
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
        (
            format!("{HEAD}[service]\nfailed_opens_per_second = 0.0\ninject = []\n{TAIL}"),
            "x.toml line 6: 0 is no such rate: above 0, and 1000 at most",
        ),
        (
            format!("{HEAD}[service]\ninject = [{{ fault = \"leak-hep=1/s\" }}]\n{TAIL}"),
            "x.toml line 6: there is no fault `leak-hep`; did you mean `leak-heap`?",
        ),
        (HEAD.to_owned(), "x.toml line 1: missing field `expect`"),
    ];
    refused(&table);
    let syntax = Scenario::parse("name = = 1", "x.toml")
        .unwrap_err()
        .to_string();
    assert!(syntax.starts_with("x.toml line 1: "), "{syntax}");
}

/// Each text is refused with these words.
fn refused(table: &[(String, &str)]) {
    for (text, expected) in table {
        let error = Scenario::parse(text, "x.toml").unwrap_err().to_string();
        assert_eq!(error, *expected, "in {text}");
    }
}

#[test]
fn what_can_do_nothing_is_refused_with_its_line_and_what_to_do() {
    let load = "[[load]]\nphase = \"p\"\nlasting = \"4s\"\noperations_per_second = 10.0\n";
    let hang = "[[inject]]\nfault = \"hang\"\n";
    let table = [
        (
            format!("{}{TAIL}", HEAD.replace("5s", "0s")),
            "x.toml line 4: no time at all is too short for anything to happen: say how long, such as 3s",
        ),
        (
            format!("{HEAD}{hang}lasting = \"0s\"\n{TAIL}"),
            "x.toml line 7: no time at all is too short for anything to happen: say how long, such as 3s",
        ),
        (
            format!("{HEAD}{hang}times = 0\n{TAIL}"),
            "x.toml line 7: what may act 0 times never acts: say 1 or more, or leave it out for any number",
        ),
        (
            format!("{HEAD}{hang}at = \"5s\"\n{TAIL}"),
            "x.toml line 7: it never begins: the scenario is over at 5s; let it begin before that, \
             or give `duration` more",
        ),
        (
            format!("{HEAD}{load}{hang}at = \"3s\"\nafter_requests = 10\n{TAIL}"),
            "x.toml line 12: it waits for 10 requests, and the load asks for 10 in its time, so it may \
             never act unless others ask as well; wait for fewer, or have the load ask for more",
        ),
        (
            format!(
                "{HEAD}{load}{}lasting = \"1s\"\nafter_requests = 30\n{TAIL}",
                hang.replace("hang", "flipped-bit")
            ),
            "x.toml line 12: it waits for 30 requests, and the load asks for 10 in its time, so it may \
             never act unless others ask as well; wait for fewer, or have the load ask for more",
        ),
        (
            format!("{HEAD}load = []\n{TAIL}"),
            "x.toml line 5: this load asks for nothing: give a phase operations_per_second above 0, \
             or leave out the load, and it is as it comes",
        ),
        (
            format!("{HEAD}{}{TAIL}", load.replace("10.0", "0.0")),
            "x.toml line 5: this load asks for nothing: give a phase operations_per_second above 0, \
             or leave out the load, and it is as it comes",
        ),
        (
            format!("{HEAD}{}{TAIL}", load.replace("10.0", "nan")),
            "x.toml line 8: nobody can ask for NaN operations a second: from 0 to 10000000",
        ),
        (
            format!("{HEAD}{}{TAIL}", load.replace("4s", "0s")),
            "x.toml line 7: no time at all is too short for anything to happen: say how long, such as 3s",
        ),
        (
            format!("{HEAD}{load}{load}{load}{TAIL}"),
            "x.toml line 13: phase p never comes: it would begin at 8s, and the scenario is over at \
             5s; shorten what is before it, or give `duration` more",
        ),
        (
            format!("{HEAD}[service]\ninject = [{{ fault = \"refuse\", at = \"9s\" }}]\n{TAIL}"),
            "x.toml line 6: it never begins: the scenario is over at 5s; let it begin before that, \
             or give `duration` more",
        ),
        (
            format!("{HEAD}[host]\nstory = \"it\"\ninject = []\n{TAIL}"),
            "x.toml line 7: a host that has nothing does nothing: say what it has, such as \
             { fault = \"steal\" }, or leave out [host]",
        ),
    ];
    refused(&table);
    // One request less, and it acts.
    let text = format!("{HEAD}{load}{hang}at = \"3s\"\nafter_requests = 9\n{TAIL}");
    Scenario::parse(&text, "x.toml").unwrap();
    // A hang lasts from when it begins, and sessions are not of the load.
    for (fault, after) in [("hang", 30), ("reset-loop", 30), ("sessions-exhausted", 90)] {
        let inject = hang.replace("hang", fault);
        let text =
            format!("{HEAD}{load}{inject}lasting = \"1s\"\nafter_requests = {after}\n{TAIL}");
        Scenario::parse(&text, "x.toml").unwrap();
    }
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

#[test]
fn nothing_of_a_scenario_is_missing_where_it_is_printed() {
    let text = format!(
        "{HEAD}led = \"nshield\"\nseed = 9\n\
         [[inject]]\nfault = \"slow=7\"\nat = \"1s\"\nlasting = \"2s\"\nafter_requests = 3\n\
         times = 4\nprobability = 0.5\nmatching = \"opcode=sign,session=6\"\n\
         [service]\nfailed_opens_per_second = 8.0\n\
         inject = [{{ fault = \"leak-heap=9MiB/s\", at = \"3s\", lasting = \"1s\" }}]\n\
         [host]\nstory = \"storm\"\ninject = [{{ fault = \"steal\", at = \"4s\" }}]\n{TAIL}"
    );
    let scenario = Scenario::parse(&text, "x.toml").unwrap();
    let json: Value = serde_json::from_str(&json(std::slice::from_ref(&scenario))).unwrap();
    let told = &json[0];
    assert_eq!(
        (&told["led"], &told["seed"]),
        (&"nshield".into(), &9.into())
    );
    let inject = &told["inject"][0];
    assert_eq!(inject["matching"], "opcode=sign,session=6");
    assert_eq!(inject["after_requests"], 3);
    assert_eq!(told["service"]["failed_opens_per_second"], 8.0);
    assert_eq!(told["service"]["inject"][0]["fault"], "leak-heap=9MiB/s");
    assert_eq!(told["service"]["inject"][0]["lasting_seconds"], 1.0);
    assert_eq!(told["host"]["inject"][0]["at_seconds"], 4.0);
    let story = story(&scenario);
    for line in [
        "Takes 5s, seed 9, light nshield.",
        "slow=7 at 1s for 2s, after 3 requests, with probability 0.5, on opcode=sign,session=6, at \
         most 4 times",
        "service: leak-heap=9MiB/s at 3s for 1s",
        "service: asked for 8 opens/s that fail",
        "host: steal at 4s",
        "host: storm",
    ] {
        assert!(story.contains(line), "{line} is not in {story}");
    }
}
