//! `cardmon leaks` and `cardmon top`: ask the monitor that runs about host services.

use crate::ask::Service;
use monitor::text;
use std::io::Write as _;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub(crate) struct LeaksArguments {
    /// Say of each resource what was asked of its rise, and what would show that it is no leak.
    #[arg(long)]
    explain: bool,
    /// Print the monitor's JSON of the services instead of a table.
    #[arg(long, conflicts_with = "explain")]
    json: bool,
    #[command(flatten)]
    service: Service,
}

#[derive(Debug, clap::Args)]
pub(crate) struct TopArguments {
    /// What the kernel holds for each service's control group, by what it is used for.
    #[arg(long)]
    kernel: bool,
    #[command(flatten)]
    service: Service,
}

pub(crate) fn leaks(arguments: &LeaksArguments) -> anyhow::Result<ExitCode> {
    let status = arguments.service.ask()?;
    if arguments.json {
        let mut out = anstream::stdout();
        serde_json::to_writer_pretty(&mut out, &status.services)?;
        writeln!(out)?;
        return Ok(ExitCode::SUCCESS);
    }
    print(&text::leaks(&status, arguments.explain))
}

pub(crate) fn top(arguments: &TopArguments) -> anyhow::Result<ExitCode> {
    let status = arguments.service.ask()?;
    print(&text::top(&status, arguments.kernel))
}

fn print(lines: &[String]) -> anyhow::Result<ExitCode> {
    let mut out = anstream::stdout();
    for line in lines {
        writeln!(out, "{line}")?;
    }
    Ok(ExitCode::SUCCESS)
}
