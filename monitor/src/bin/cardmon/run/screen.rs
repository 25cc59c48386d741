//! Shows polls as they come: JSON lines, one refreshed block on a terminal, or else one line per
//! transition.

use monitor::services::ServiceTransition;
use monitor::status::Status;
use monitor::text;
use monitor::verdict::Transition;
use monitor::watch::Settings;
use std::io::{self, IsTerminal as _, Write};

/// Auto-wrap off and on again (DECAWM): a line that is too long is cut by the terminal, so that
/// it stays one line when the block is drawn over.
const NO_WRAP: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";
/// Erases from the cursor to the end of the screen (ED).
const ERASE_BELOW: &str = "\x1b[J";

/// Shows polls as they come.
#[derive(Debug)]
pub(super) struct Screen {
    form: Form,
}

#[derive(Debug)]
enum Form {
    Json,
    Lines,
    /// How many lines the block has that stands there, and whether it may have colour.
    Block {
        drawn: usize,
        colour: bool,
    },
}

impl Screen {
    /// Says what is going to be watched, unless the output is for programs.
    pub(super) fn new(json: bool, settings: &Settings) -> io::Result<Self> {
        let form = if json {
            Form::Json
        } else if io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
        {
            let choice = anstream::AutoStream::choice(&io::stdout());
            Form::Block {
                drawn: 0,
                colour: choice != anstream::ColorChoice::Never,
            }
        } else {
            Form::Lines
        };
        if !json {
            let mut out = anstream::stdout();
            writeln!(
                out,
                "cardmon {}: watching {} every {:?}, answering at http://{}",
                env!("CARGO_PKG_VERSION"),
                text::clean(&settings.telemetry.to_string_lossy()),
                settings.limits.poll_interval,
                settings.listen
            )?;
            // The block says it every time.
            if let (Form::Lines, Some(simulation)) = (&form, &settings.simulation) {
                writeln!(out, "{}", simulation.notice)?;
            }
            if let (Form::Lines, Some(drill)) = (&form, settings.service_time.figures()) {
                writeln!(out, "{}", drill.notice)?;
            }
        }
        Ok(Self { form })
    }

    /// Shows one poll, with what else there is to note while it lasts.
    pub(super) fn show(
        &mut self,
        status: &Status,
        transitions: &[(String, Transition)],
        of_services: &[(String, ServiceTransition)],
        notes: &[String],
    ) -> io::Result<()> {
        match &mut self.form {
            Form::Json => {
                let mut out = io::stdout().lock();
                serde_json::to_writer(&mut out, status)?;
                writeln!(out)?;
                out.flush()
            }
            Form::Lines => {
                let mut out = anstream::stdout().lock();
                for (card, transition) in transitions {
                    writeln!(out, "{}", text::transition_line(card, transition))?;
                }
                for (service, transition) in of_services {
                    writeln!(
                        out,
                        "{}",
                        text::service_transition_line(service, transition)
                    )?;
                }
                out.flush()
            }
            Form::Block { drawn, colour } => {
                let mut lines: Vec<_> = transitions
                    .iter()
                    .map(|(card, transition)| text::transition_line(card, transition))
                    .collect();
                let services = of_services.iter();
                lines.extend(services.map(|(name, it)| text::service_transition_line(name, it)));
                let notes = notes.iter().map(|note| text::clean(note));
                let block: Vec<_> = notes.chain(text::block(status)).collect();
                let block = block.join("\n");
                let rows = block.lines().take(rows()).map(str::to_owned);
                let before = std::mem::replace(drawn, rows.clone().count());
                lines.extend(rows);
                draw(&lines, before, *colour)
            }
        }
    }
}

/// Draws over the block of `before` lines, in one write, so that nobody sees half of it.
fn draw(lines: &[String], before: usize, colour: bool) -> io::Result<()> {
    let mut screen = redraw(before);
    for line in lines {
        if colour {
            screen.push_str(line);
        } else {
            // Only colour: the sequences that move the cursor are added around this.
            screen.extend(anstream::adapter::strip_str(line));
        }
        screen.push('\n');
    }
    screen.push_str(WRAP);
    let mut out = io::stdout().lock();
    out.write_all(screen.as_bytes())?;
    out.flush()
}

/// Goes back to the first line of the block, and erases it.
fn redraw(drawn: usize) -> String {
    match drawn {
        0 => NO_WRAP.to_owned(),
        // CPL: cursor to the start of the line so many up.
        drawn => format!("{NO_WRAP}\x1b[{drawn}F{ERASE_BELOW}"),
    }
}

/// Lines that a block may have: those that are scrolled away cannot be drawn over.
fn rows() -> usize {
    let window = rustix::termios::tcgetwinsize(io::stdout());
    let rows = window.map_or(0, |window| usize::from(window.ws_row));
    // Some terminals say that they have none.
    if rows < 2 { 24 } else { rows - 1 }
}
