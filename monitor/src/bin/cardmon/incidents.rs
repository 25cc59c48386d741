//! `cardmon incidents`: asks the monitor that runs for its incidents; if none answers, shows those on
//! record, and says so.

use crate::ask::Service;
use crate::history::{self, now};
use crate::page;
use crate::places::ReadPlace;
use monitor::history::{Filter, Reader};
use monitor::record::casebook;
use monitor::status::IncidentFigures;
use monitor::text;
use std::process::ExitCode;

/// Events that are looked through: what is older is in `cardmon history`.
const EVENTS_MAX: u32 = 1_000;

pub(crate) const HELP: &str = "\
Exit status:
  0  shown is what the monitor knows, or what is on record, which is said then
  1  no monitor answers, and what is on record could not be read
  2  the command line was wrong";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Do not ask the monitor; show what is on record, of earlier runs too.
    #[arg(long)]
    recorded: bool,
    #[command(flatten)]
    service: Service,
    #[command(flatten)]
    place: ReadPlace,
}

pub(crate) fn incidents(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let incidents = if arguments.recorded {
        on_record(&arguments.place)?
    } else {
        match arguments.service.ask_or_know()? {
            Ok(status) => {
                let history = status.history.unwrap_or_default();
                history.elsewhere.iter().for_each(|it| not_all(it));
                status.incidents
            }
            Err(unknown) => {
                let recorded = on_record(&arguments.place);
                let recorded = recorded.map_err(|error| anyhow::anyhow!("{unknown}; {error}"))?;
                crate::complain(&format!(
                    "UNKNOWN: {unknown}; shown is what is on record, and whether it goes on is not known"
                ));
                recorded
            }
        }
    };
    if arguments.json {
        page::json(&incidents)?;
    } else {
        page::print(&text::incidents(&incidents, page::width()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn on_record(place: &ReadPlace) -> anyhow::Result<Vec<IncidentFigures>> {
    let found = place.find()?;
    let filter = Filter {
        kinds: casebook::KINDS.map(str::to_owned).into(),
        latest_first: true,
        limit: Some(EVENTS_MAX),
        ..Filter::default()
    };
    let reader = history::open(Reader::open(&found.directory))?;
    let (events, elsewhere) = history::open(reader.look_through(&filter))?;
    let directory = found.directory.to_string_lossy();
    elsewhere
        .iter()
        .for_each(|it| not_all(&it.told(&directory)));
    Ok(casebook::on_record(&events, now()))
}

/// That the past of what is shown is elsewhere, and what to do.
fn not_all(elsewhere: &str) {
    crate::complain(&format!(
        "not all incidents are shown, or not whole: {elsewhere}, and ask again"
    ));
}
