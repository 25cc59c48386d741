//! What of a scenario can do nothing, although each word of it is one that there is.
//!
//! A fault that begins when the story is over, or after more requests than anybody makes, never
//! acts, and whoever plays it takes the silence for a good card. So it is refused, with its line.
//! What is wrong by itself, as a duration of no time, is refused where it is read.

use super::{Phase, Scenario};
use crate::fault::Injection;
use crate::fault::script::Acts;
use humantime::format_duration;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::time::Duration;
use toml::Spanned;

/// What can do nothing, and at which byte of the text it stands.
#[derive(Debug)]
pub(super) struct WithoutEffect {
    pub(super) at: usize,
    pub(super) problem: String,
}

/// Where in a text stands what is looked at here.
#[derive(Deserialize)]
struct Places {
    load: Option<Spanned<Vec<Spanned<IgnoredAny>>>>,
    #[serde(default)]
    inject: Vec<Spanned<FaultPlaces>>,
    service: Option<PartPlaces>,
    host: Option<PartPlaces>,
}

#[derive(Deserialize)]
struct PartPlaces {
    inject: Spanned<Vec<Spanned<FaultPlaces>>>,
}

#[derive(Deserialize)]
struct FaultPlaces {
    at: Option<Spanned<IgnoredAny>>,
    after_requests: Option<Spanned<IgnoredAny>>,
}

/// Looks whether everything in `scenario`, which was read from `text`, can do something.
///
/// # Errors
///
/// The first thing that cannot.
pub(super) fn check(scenario: &Scenario, text: &str) -> Result<(), WithoutEffect> {
    // A text that has been read once is read again.
    let Ok(places) = toml::from_str::<Places>(text) else {
        return Ok(());
    };
    if let Some(load) = &places.load {
        check_load(scenario, load)?;
    }
    for (injection, place) in scenario.injections.iter().zip(&places.inject) {
        check_begins(injection.trigger.at, place, scenario.duration)?;
        check_requests(injection, place, scenario)?;
    }
    if let (Some(service), Some(part)) = (&scenario.service, &places.service) {
        for (timed, place) in service.faults.iter().zip(part.inject.as_ref()) {
            check_begins(timed.at, place, scenario.duration)?;
        }
    }
    if let (Some(host), Some(part)) = (&scenario.host, &places.host) {
        if host.faults.is_empty() {
            let problem = "a host that has nothing does nothing: say what it has, such as \
                           { fault = \"steal\" }, or leave out [host]";
            return Err(without_effect(&part.inject, problem.to_owned()));
        }
        for (timed, place) in host.faults.iter().zip(part.inject.as_ref()) {
            check_begins(timed.at, place, scenario.duration)?;
        }
    }
    Ok(())
}

fn check_load(
    scenario: &Scenario,
    places: &Spanned<Vec<Spanned<IgnoredAny>>>,
) -> Result<(), WithoutEffect> {
    if scenario
        .load
        .iter()
        .all(|it| it.operations_per_second == 0.0)
    {
        let problem = "this load asks for nothing: give a phase operations_per_second above 0, or \
                       leave out the load, and it is as it comes";
        return Err(without_effect(places, problem.to_owned()));
    }
    let mut begins = Duration::ZERO;
    for (Phase { phase, lasting, .. }, place) in scenario.load.iter().zip(places.as_ref()) {
        if begins >= scenario.duration {
            let problem = format!(
                "phase {phase} never comes: it would begin at {}, and the scenario is over at {}; \
                 shorten what is before it, or give `duration` more",
                format_duration(begins),
                format_duration(scenario.duration)
            );
            return Err(without_effect(place, problem));
        }
        begins = begins.saturating_add(*lasting);
    }
    Ok(())
}

fn check_begins(
    at: Duration,
    place: &Spanned<FaultPlaces>,
    duration: Duration,
) -> Result<(), WithoutEffect> {
    if at < duration {
        return Ok(());
    }
    let problem = format!(
        "it never begins: the scenario is over at {}; let it begin before that, or give `duration` \
         more",
        format_duration(duration)
    );
    let at = place.as_ref().at.as_ref().map(|at| at.span().start);
    Err(WithoutEffect {
        at: at.unwrap_or_else(|| place.span().start),
        problem,
    })
}

/// A load that is as it comes may be any; of one that is told, it is known how much it is. Sessions
/// and interrupts are not what it asks for, so of those nothing is known.
fn check_requests(
    Injection { fault, trigger }: &Injection,
    place: &Spanned<FaultPlaces>,
    scenario: &Scenario,
) -> Result<(), WithoutEffect> {
    let Some(after) = &place.as_ref().after_requests else {
        return Ok(());
    };
    let end = match fault.acts() {
        Acts::OnSessions | Acts::OnInterrupts => return Ok(()),
        // The duration of these begins when they do, however long they wait for that.
        Acts::While | Acts::Pulse(_) => scenario.duration,
        Acts::OnRequests | Acts::OnAnswers => trigger
            .lasting
            .map_or(scenario.duration, |lasting| {
                trigger.at.saturating_add(lasting)
            })
            .min(scenario.duration),
    };
    let asked = operations(&scenario.load, trigger.at, end);
    if scenario.load.is_empty() || as_float(trigger.after_requests) < asked {
        return Ok(());
    }
    let problem = format!(
        "it waits for {} requests, and the load asks for {asked:.0} in its time, so it may never act \
         unless others ask as well; wait for fewer, or have the load ask for more",
        trigger.after_requests
    );
    Err(without_effect(after, problem))
}

/// How many operations a load asks for between two times.
fn operations(load: &[Phase], from: Duration, to: Duration) -> f64 {
    let mut begins = Duration::ZERO;
    let mut sum = 0.0;
    for phase in load {
        let ends = begins.saturating_add(phase.lasting);
        let within = ends.min(to).saturating_sub(begins.max(from));
        sum += within.as_secs_f64() * phase.operations_per_second;
        begins = ends;
    }
    sum
}

/// More than four billion requests are as good as no end of them.
fn as_float(count: u64) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}

fn without_effect<T>(place: &Spanned<T>, problem: String) -> WithoutEffect {
    WithoutEffect {
        at: place.span().start,
        problem,
    }
}
