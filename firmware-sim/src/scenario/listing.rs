//! Scenarios, printed: as a table, as a story, as JSON.

use super::{HostPart, Scenario, ServicePart, TimedFault};
use crate::fault::Injection;
use humantime::format_duration;
use serde_json::{Value, json as object};
use std::fmt::{self, Write as _};
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
        led,
        load,
        injections,
        service,
        host,
        expect,
        // Where it was read does not belong to the story.
        path: _,
    } = scenario;
    let mut text = format!("{name}: {summary}\n\n{}\n\n", story.trim());
    let duration = format_duration(*duration);
    let _ = writeln!(text, "Takes {duration}, seed {seed}, light {}.", led.name());
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
    if let Some(ServicePart {
        failed_opens_per_second,
        faults,
    }) = service
    {
        let _ = write!(text, "{}", elsewhere("service", faults));
        if let Some(rate) = failed_opens_per_second {
            let _ = writeln!(text, "  service: asked for {rate} opens/s that fail");
        }
    }
    if let Some(HostPart { story, faults }) = host {
        let _ = write!(text, "{}", elsewhere("host", faults));
        let _ = writeln!(text, "  host: {}", story.trim());
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
    if let Some(matching) = trigger.matching {
        let _ = write!(text, ", on {matching}");
    }
    if let Some(times) = trigger.times {
        let _ = write!(text, ", at most {times} times");
    }
    text
}

fn elsewhere<F: fmt::Display>(place: &str, faults: &[TimedFault<F>]) -> String {
    let line = |TimedFault { fault, at, lasting }: &TimedFault<F>| {
        format!("  {place}: {fault}{}\n", when(*at, *lasting))
    };
    faults.iter().map(line).collect()
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
        led,
        load,
        injections,
        service,
        host,
        expect,
        // Where it was read does not belong to the story.
        path: _,
    } = scenario;
    object!({
        "name": name,
        "summary": summary,
        "story": story.trim(),
        "duration_seconds": duration.as_secs_f64(),
        "seed": seed,
        "led": led.name(),
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
            "matching": trigger.matching.map(|matching| matching.to_string()),
        })).collect::<Vec<_>>(),
        "service": service.as_ref().map(|part| object!({
            "failed_opens_per_second": part.failed_opens_per_second,
            "inject": timed(&part.faults),
        })),
        "host": host.as_ref().map(|part| object!({
            "story": part.story.trim(),
            "inject": timed(&part.faults),
        })),
        "expect": {
            "cause": expect.cause.name(),
            "shim": expect.shim.trim(),
            "monitor": expect.monitor.as_deref().map(str::trim),
        },
    })
}

fn timed<F: fmt::Display>(faults: &[TimedFault<F>]) -> Vec<Value> {
    let document = |TimedFault { fault, at, lasting }: &TimedFault<F>| {
        object!({
            "fault": fault.to_string(),
            "at_seconds": at.as_secs_f64(),
            "lasting_seconds": lasting.map(|lasting| lasting.as_secs_f64()),
        })
    };
    faults.iter().map(document).collect()
}
