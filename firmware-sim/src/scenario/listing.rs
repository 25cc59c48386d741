//! Scenarios, printed: as a table, as a story, as JSON.

use super::{Elsewhere, Scenario};
use crate::fault::Injection;
use humantime::format_duration;
use serde_json::{Value, json as object};
use std::fmt::Write as _;
use std::time::Duration;

/// One line for each.
#[must_use]
pub fn table(scenarios: &[Scenario]) -> String {
    let name_width = scenarios.iter().map(|it| it.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Scenario {
        name,
        summary,
        duration,
        expect,
        ..
    } in scenarios
    {
        let cause = expect.cause.name();
        let duration = format_duration(*duration).to_string();
        let _ = writeln!(
            text,
            "{name:name_width$}  {duration:>7}  {cause:11}  {summary}"
        );
    }
    text
}

/// All of one, to read.
#[must_use]
pub fn story(scenario: &Scenario) -> String {
    let Scenario {
        name,
        summary,
        story,
        duration,
        seed,
        load,
        injections,
        service,
        host,
        expect,
        ..
    } = scenario;
    let mut text = format!("{name}: {summary}\n\n{}\n\n", story.trim());
    let _ = writeln!(text, "Takes {}, seed {seed}.", format_duration(*duration));
    for phase in load {
        let (name, rate) = (&phase.phase, phase.operations_per_second);
        let _ = writeln!(
            text,
            "  load {name}: {rate} operations/s for {}",
            format_duration(phase.lasting)
        );
    }
    for injection in injections {
        let _ = writeln!(text, "  {}", line(injection));
    }
    for Elsewhere { start, faults } in service.iter().chain(host) {
        for fault in faults {
            let _ = writeln!(text, "  {}{}", fault.fault, when(fault.at, fault.lasting));
        }
        let _ = writeln!(text, "  besides: {}", start.trim());
    }
    let _ = writeln!(
        text,
        "\nAt fault: {}.\nThe shim: {}",
        expect.cause.name(),
        expect.shim.trim()
    );
    if let Some(monitor) = &expect.monitor {
        let _ = writeln!(text, "The monitor: {}", monitor.trim());
    }
    text
}

fn line(Injection { fault, trigger }: &Injection) -> String {
    let mut text = format!("{fault}{}", when(trigger.at, trigger.lasting));
    if trigger.after_requests > 0 {
        let _ = write!(text, ", after {} requests", trigger.after_requests);
    }
    if trigger.probability < 1.0 {
        let _ = write!(text, ", with probability {}", trigger.probability);
    }
    if let Some(times) = trigger.times {
        let _ = write!(text, ", at most {times} times");
    }
    text
}

fn when(at: Duration, lasting: Option<Duration>) -> String {
    let lasting = lasting.map(|it| format!(" for {}", format_duration(it)));
    format!(" at {}{}", format_duration(at), lasting.unwrap_or_default())
}

/// All of all, as JSON.
#[must_use]
pub fn json(scenarios: &[Scenario]) -> String {
    let scenarios: Vec<_> = scenarios.iter().map(document).collect();
    format!("{:#}\n", Value::from(scenarios))
}

fn document(scenario: &Scenario) -> Value {
    let Scenario {
        name,
        summary,
        story,
        duration,
        seed,
        led: _,
        load,
        injections,
        service,
        host,
        expect,
    } = scenario;
    object!({
        "name": name,
        "summary": summary,
        "story": story.trim(),
        "duration_seconds": duration.as_secs_f64(),
        "seed": seed,
        "load": load.iter().map(|phase| object!({
            "phase": phase.phase,
            "lasting_seconds": phase.lasting.as_secs_f64(),
            "operations_per_second": phase.operations_per_second,
        })).collect::<Vec<_>>(),
        "inject": injections.iter().map(|Injection { fault, trigger }| object!({
            "fault": fault.to_string(),
            "at_seconds": trigger.at.as_secs_f64(),
            "lasting_seconds": trigger.lasting.map(|it| it.as_secs_f64()),
            "after_requests": trigger.after_requests,
            "times": trigger.times,
            "probability": trigger.probability,
        })).collect::<Vec<_>>(),
        "service": service.as_ref().map(elsewhere),
        "host": host.as_ref().map(elsewhere),
        "expect": {
            "cause": expect.cause.name(),
            "shim": expect.shim.trim(),
            "monitor": expect.monitor.as_deref().map(str::trim),
        },
    })
}

fn elsewhere(Elsewhere { start, faults }: &Elsewhere) -> Value {
    let faults = faults.iter().map(|it| {
        object!({
            "fault": it.fault,
            "at_seconds": it.at.as_secs_f64(),
            "lasting_seconds": it.lasting.map(|lasting| lasting.as_secs_f64()),
        })
    });
    object!({ "start": start.trim(), "inject": faults.collect::<Vec<_>>() })
}
