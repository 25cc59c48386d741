//! `cardmon leaks` and `cardmon top`: ask the monitor that runs about host services; and what
//! `cardmon check` makes of them.

use crate::ask::{Service, without_bars};
use crate::order::Control;
use crate::{PLUGIN_UNKNOWN, page};
use monitor::control::Order;
use monitor::leak::Level;
use monitor::status::{MemoryFigures, ServiceStatus, Status};
use monitor::text;
use monitor::verdict::Cause;
use std::process::ExitCode;

/// The code of a known-answer test that had another answer.
const WRONG_ANSWER: u8 = 16;

pub(crate) const HELP: &str = "\
Exit status:
  0  shown is what the monitor found in one of its last three polls, whatever that is
  1  no monitor answers, or it watches no service of this name
  2  the command line was wrong";

#[derive(Debug, clap::Args)]
pub(crate) struct LeaksArguments {
    /// Only this service, by its name in the configuration.
    #[arg(value_name = "SERVICE")]
    only: Option<String>,
    /// Say of each resource what was asked of its rise, and what would show that it is no leak. Of one SERVICE
    /// also have the monitor add up what it has in memory, now (smaps_rollup): once in ten seconds at most, as
    /// the service cannot map memory meanwhile.
    #[arg(long)]
    explain: bool,
    /// Print the monitor's JSON of the services instead of a table.
    #[arg(long, conflicts_with = "explain")]
    json: bool,
    #[command(flatten)]
    control: Control,
    #[command(flatten)]
    service: Service,
}

#[derive(Debug, clap::Args)]
pub(crate) struct TopArguments {
    /// What the kernel holds for each service's control group, by what it is used for.
    #[arg(long)]
    kernel: bool,
    /// Print the monitor's JSON of the services instead of a table, as `cardmon leaks` does.
    #[arg(long, conflicts_with = "kernel")]
    json: bool,
    #[command(flatten)]
    service: Service,
}

pub(crate) fn leaks(arguments: &LeaksArguments) -> anyhow::Result<ExitCode> {
    let mut status = arguments.service.ask()?;
    let only = arguments.only.as_deref();
    if let Some(only) = only {
        known(&status, only)?;
        status.services.retain(|it| it.service == only);
    }
    if arguments.json {
        page::json(&status.services)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut lines = text::leaks(&status, only, arguments.explain, page::width());
    if arguments.explain && only.is_some() {
        let services = status.services.iter();
        lines.extend(services.flat_map(|it| memory(it, &arguments.control)));
    }
    page::print(&lines)?;
    Ok(ExitCode::SUCCESS)
}

/// That there is a service of that name, or which there are.
fn known(status: &Status, name: &str) -> anyhow::Result<()> {
    let mut services = status.services.iter();
    if services.any(|service| service.service == name) {
        return Ok(());
    }
    let names: Vec<_> = status
        .services
        .iter()
        .map(|it| text::clean(&it.service))
        .collect();
    let known = match names.is_empty() {
        true => "none is".to_owned(),
        false => names.join(", "),
    };
    anyhow::bail!(
        "no service {} is watched; watched: {known}",
        text::clean(name)
    )
}

/// What the process of a service has in memory, or why that is not known.
fn memory(service: &ServiceStatus, control: &Control) -> Vec<String> {
    let added_up = || {
        let process = service.process.as_ref();
        let process = process.ok_or("it has no process")?;
        let order = Order::Memory {
            service: service.service.clone(),
        };
        let mut answer = control.send(&order).map_err(|error| error.to_string())?;
        let figures: MemoryFigures = serde_json::from_value(answer["memory"].take())
            .map_err(|_| "the monitor's answer is not understood")?;
        // It may have been started again, or the socket be another monitor's than the status.
        let is_it =
            (figures.pid, figures.start_time_ticks) == (process.pid, process.start_time_ticks);
        match is_it {
            true => Ok(figures),
            false => Err(format!(
                "the monitor that takes orders has process {} for it, and process {} was shown; ask again, or name \
                 the right one with --control",
                figures.pid, process.pid
            )),
        }
    };
    match added_up() {
        Ok(figures) => text::memory(&figures),
        Err(why) => vec![format!(
            "memory of {} was not added up: {}",
            text::clean(&service.service),
            text::clean(&why)
        )],
    }
}

pub(crate) fn top(arguments: &TopArguments) -> anyhow::Result<ExitCode> {
    let status = arguments.service.ask()?;
    if arguments.json {
        page::json(&status.services)?;
    } else {
        page::print(&text::top(&status, arguments.kernel, page::width()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The services that `check` is about: all, or those of one card; of equals the last is told of, so
/// victims come first.
pub(crate) fn of<'a>(status: &'a Status, card: Option<&str>) -> Vec<&'a ServiceStatus> {
    let wanted = |service: &&ServiceStatus| card.is_none() || service.card.as_deref() == card;
    let mut services: Vec<_> = status.services.iter().filter(wanted).collect();
    services.sort_by_key(|service| service.victim.is_none());
    services
}

/// How bad a service is, a plugin's exit status and word for that, and what to say of it.
pub(crate) fn plugin(service: &ServiceStatus) -> (u8, u8, &'static str, String) {
    let pages = service.leaks.iter().any(|leak| leak.level == Level::Page);
    let (severity, code, word) = match service.cause {
        Cause::None => return (0, 0, "OK", String::new()),
        // Whose it is is not known; that wrong answers leave it is.
        _ if service.codes.contains(&WRONG_ANSWER) => (4, 2, "CRITICAL"),
        Cause::Undetermined => (2, PLUGIN_UNKNOWN, "UNKNOWN"),
        Cause::ServiceGone => (4, 2, "CRITICAL"),
        _ if pages => (4, 2, "CRITICAL"),
        _ => (3, 1, "WARNING"),
    };
    let why = service.evidence.first().map_or("", |first| &first.detail);
    let blamed = match &service.victim {
        None => service.cause.to_string(),
        Some(victim) => match &victim.of {
            Some(culprit) => format!("victim of {}", without_bars(culprit)),
            None => format!("victim: {}", victim.harm.name()),
        },
    };
    let complaint = format!(
        "; {} {} ({blamed}): {}",
        without_bars(&service.service),
        service.standing.name(),
        without_bars(why)
    );
    (severity, code, word, complaint)
}

/// How many services are well, in words and in figures; nothing where there are none.
pub(crate) fn summary(services: &[&ServiceStatus]) -> (String, String) {
    let count = services.len();
    if count == 0 {
        return (String::new(), String::new());
    }
    let well = services
        .iter()
        .filter(|service| service.cause == Cause::None);
    let well = well.count();
    (
        format!(", {well} of {count} services well"),
        format!(" services_well={well};;;0;{count}"),
    )
}
