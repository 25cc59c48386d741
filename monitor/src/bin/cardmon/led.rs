//! `cardmon led`: shows the status light of a card as its telemetry page has it.

use crate::ask::Service;
use crate::history::escaped;
use crate::places::{self, Roots};
use anyhow::{Context as _, bail};
use card_spec::health::Summary;
use hwshim::clock::{Clock, Instant, SystemClock};
use hwshim::stop::Stop;
use hwshim::telemetry::{self, ReadError, Reader};
use monitor::access::who_may;
use monitor::config::{self, Config};
use monitor::led::Profile;
use monitor::led::trace::{Happened, Read, Trace};
use monitor::record::said;
use monitor::status::LightFigures;
use monitor::text;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

pub(crate) const HELP: &str = "\
The card's firmware logs when its light went on and off; what is shown are those times, not
those of this program. Without --trace: what is in the log now. A gap (?) is said where edges
were overwritten before they were read. Letters after SOS are shown as they were spelled; only
B1 (battery) has a meaning that is known. A monitor that runs (--url) says what it reads, and
whether the light blinks as busy as the card is said to be.

Exit status:
  0  shown is what could be read
  1  there is nothing to read
  2  the command line was wrong";

/// Time between two looks: shorter than any log takes to be overwritten, as often as owners publish.
const LOOK: Duration = Duration::from_millis(100);
/// What a block of the drawing stands for: the shortest that any light is on or off.
const CELL: Duration = Duration::from_millis(100);
/// Blocks in a row, and rows.
const ROW: usize = 60;
const ROWS: u32 = 5;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Address of the card, e.g. pci:0000:3b:00.0.
    card: String,
    /// Print each edge as it comes, until interrupted or for as long as --for says.
    #[arg(long)]
    trace: bool,
    /// With --trace: stop after this time, e.g. 30s.
    #[arg(long = "for", value_name = "TIME", requires = "trace", value_parser = config::duration)]
    lasting: Option<Duration>,
    /// Whose light it is: nfast-500 or nshield. Unless given, what the configuration says of this
    /// card, or else of all; read as each of them if it names none.
    #[arg(long, value_parser = profile)]
    profile: Option<Profile>,
    /// Configuration file that names the profile and the directory of the telemetry pages.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of the telemetry pages [default: /run/hwshim for root, else one of the user's own].
    #[arg(long, value_name = "DIR")]
    telemetry: Option<PathBuf>,
    /// One JSON object a line: each edge and gap, and at the end what was read.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    service: Service,
}

fn profile(text: &str) -> Result<Profile, String> {
    let known = Profile::ALL.into_iter().find(|one| one.name() == text);
    known.ok_or_else(|| "there are nfast-500 and nshield".to_owned())
}

/// Shows the light.
pub(crate) fn show(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let config = match &arguments.config {
        Some(path) => Config::read(path)?,
        None => Config::default(),
    };
    let directory = arguments
        .telemetry
        .clone()
        .unwrap_or_else(|| config.telemetry());
    let path = directory.join(telemetry::file_name(&arguments.card));
    let by_default = arguments.telemetry.is_none() && config.telemetry.is_none();
    let reader = Reader::open(&path).map_err(|error| not_opened(&error, by_default))?;
    let mut trace = Trace::new(
        arguments
            .profile
            .or_else(|| config.light_of(&arguments.card)),
    );
    let stop = Stop::new().context("signals cannot be waited for")?;
    stop.on_signals().context("signals cannot be handled")?;
    let clock = SystemClock;
    let end = match (arguments.trace, arguments.lasting) {
        (false, _) => Instant::ORIGIN,
        (true, None) => Instant::NEVER,
        (true, Some(lasting)) => clock.now().plus(lasting),
    };
    let mut out = anstream::stdout().lock();
    loop {
        let page = reader.read()?;
        if page.card.health_reads.get() == 0 {
            bail!(
                "the owner of {} has read no health page yet, so there is no light to see",
                arguments.card
            );
        }
        let summary = Summary::parse(&page.health)
            .map_err(|error| anyhow::anyhow!("the health page of {} {error}", arguments.card))?;
        for happened in trace.look(&summary) {
            if !tell(&mut out, &happened, arguments.json)? {
                return Ok(ExitCode::SUCCESS);
            }
        }
        let left = end.since(clock.now());
        if left.is_zero() || stop.wait(LOOK.min(left)) {
            break;
        }
    }
    let monitors = by_the_monitor(&arguments.service, &arguments.card);
    sum_up(&mut out, &trace, monitors.as_ref(), arguments.json)?;
    Ok(ExitCode::SUCCESS)
}

/// Why there is no page to read, and who may read it, or where else one may be.
fn not_opened(error: &ReadError, by_default: bool) -> anyhow::Error {
    let hint = match error {
        ReadError::Absent { .. } if by_default => places::roots(Roots::Telemetry),
        ReadError::Unreadable { path, source }
            if source.kind() == io::ErrorKind::PermissionDenied =>
        {
            format!(": {}", who_may(path))
        }
        _ => String::new(),
    };
    anyhow::anyhow!("{}{hint}", said(error))
}

/// What a monitor that runs makes of the light. Without one, nothing is missing here.
fn by_the_monitor(service: &Service, card: &str) -> Option<LightFigures> {
    let status = service.ask().ok()?;
    let mut cards = status.cards.into_iter();
    cards.find(|it| it.card == card)?.light
}

/// One line of what has happened; false if nobody reads any more.
fn tell(out: &mut impl Write, happened: &Happened, json: bool) -> io::Result<bool> {
    let seconds = |at: Instant| at.since(Instant::ORIGIN).as_secs_f64();
    let line = match (happened, json) {
        (Happened::Gap, true) => json!({ "event": "gap" }).to_string(),
        (Happened::Gap, false) => "         ?     gap   edges may have been missed".to_owned(),
        (Happened::Edge { at, lit, after }, true) => json!({
            "event": "edge",
            "uptime_seconds": seconds(*at),
            "lit": lit,
            "after_seconds": after.map(|after| after.as_secs_f64()),
        })
        .to_string(),
        (Happened::Edge { at, lit, after }, false) => {
            let (now, before, block) = if *lit {
                ("on ", "dark", "▂")
            } else {
                ("off", "lit ", "█")
            };
            let ran = after.map_or_else(String::new, |after| {
                let cells = usize::try_from(after.as_millis().div_ceil(CELL.as_millis()));
                let blocks = block.repeat(cells.unwrap_or(ROW).min(ROW));
                format!("  after {:7.3} s {before}  {blocks}", after.as_secs_f64())
            });
            format!("{:10.3} s  {now}{ran}", seconds(*at))
        }
    };
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true),
    }
}

/// The drawing, and what was read.
fn sum_up(
    out: &mut impl Write,
    trace: &Trace,
    monitors: Option<&LightFigures>,
    json: bool,
) -> io::Result<()> {
    let cells = u32::try_from(ROW).unwrap_or(u32::MAX) * ROWS;
    let blocks = trace.blocks(cells, CELL);
    if json {
        return writeln!(out, "{}", summary(trace, monitors, &blocks));
    }
    writeln!(
        out,
        "light, {} ms a block, the last at the end:",
        CELL.as_millis()
    )?;
    let blocks: Vec<_> = blocks.chars().collect();
    for row in blocks.chunks(ROW) {
        writeln!(out, "  {}", row.iter().collect::<String>())?;
    }
    writeln!(out, "{} edges, {} gaps", trace.edges(), trace.gaps())?;
    let reads = trace.read();
    if reads.len() > 1 {
        let unsaid = match monitors {
            None => "whose light this is nobody said (--profile); read as each:".to_owned(),
            Some(light) => format!(
                "whose light this is was not said here (--config, --profile), and the monitor takes it for {}; read as each:",
                light.profile.name()
            ),
        };
        writeln!(out, "{unsaid}")?;
    }
    for read in &reads {
        writeln!(out, "{}", escaped(&in_words(read)))?;
    }
    if let Some(light) = monitors {
        writeln!(out, "the monitor: {}", text::light(light))?;
    }
    Ok(())
}

fn summary(trace: &Trace, monitors: Option<&LightFigures>, blocks: &str) -> Value {
    json!({
        "event": "summary",
        "block_seconds": CELL.as_secs_f64(),
        "blocks": blocks,
        "edges": trace.edges(),
        "gaps": trace.gaps(),
        "read": trace.read(),
        "monitor": monitors,
    })
}

pub(crate) fn in_words(read: &Read) -> String {
    let outliers = read.outliers.map_or_else(String::new, |of| {
        format!(
            "; {} of the last {} intervals are outliers, {} are too many",
            of.outliers, of.among, of.too_many
        )
    });
    let letters = match &read.letters[..] {
        [] => String::new(),
        letters => format!("; spelled after SOS: {}", letters.join(", ")),
    };
    format!("{}: {}{outliers}{letters}", read.profile.name(), read.words)
}
