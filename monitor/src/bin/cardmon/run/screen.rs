//! Shows polls as they come: JSON lines, one refreshed block on a terminal, or else one line per
//! transition.

use super::output::{Output, Put};
use monitor::services::ServiceTransition;
use monitor::status::Status;
use monitor::text;
use monitor::verdict::Transition;
use monitor::watch::Settings;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

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
    colour: bool,
    output: Output,
}

#[derive(Debug)]
enum Form {
    Json,
    Lines,
    /// How many lines the block has that stands there.
    Block {
        drawn: usize,
    },
}

impl Screen {
    /// Says what is going to be watched, unless the output is for programs.
    pub(super) fn new(json: bool, settings: &Settings) -> io::Result<Self> {
        let form = if json {
            Form::Json
        } else if io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
        {
            Form::Block { drawn: 0 }
        } else {
            Form::Lines
        };
        let choice = anstream::AutoStream::choice(&io::stdout());
        let mut screen = Self {
            form,
            colour: choice != anstream::ColorChoice::Never,
            output: Output::start()?,
        };
        if !json {
            let mut lines = vec![format!(
                "cardmon {}: watching {} every {:?}, answering at http://{}",
                env!("CARGO_PKG_VERSION"),
                text::clean(&settings.telemetry.to_string_lossy()),
                settings.limits.poll_interval,
                settings.listen
            )];
            // The block says it every time.
            if let Form::Lines = &screen.form {
                let simulation = settings.simulation.as_ref();
                lines.extend(simulation.map(|it| it.notice.to_string()));
                let drill = settings.service_time.figures();
                lines.extend(drill.map(|it| it.notice.to_string()));
            }
            screen.print(&lines);
        }
        Ok(screen)
    }

    /// Shows one poll, with what else there is to note while it lasts; whether anybody reads it.
    pub(super) fn show(
        &mut self,
        status: &Status,
        transitions: &[(String, Transition)],
        of_services: &[(String, ServiceTransition)],
        notes: &[String],
    ) -> bool {
        if let Form::Json = self.form {
            // Plain structures of strings and numbers always can be written.
            let line = serde_json::to_string(status).unwrap_or_default();
            return self.output.put(line + "\n") != Put::NobodyReads;
        }
        let mut lines: Vec<_> = transitions
            .iter()
            .map(|(card, transition)| text::transition_line(card, transition))
            .collect();
        let services = of_services.iter();
        lines.extend(services.map(|(name, it)| text::service_transition_line(name, it)));
        let Form::Block { drawn } = self.form else {
            return lines.is_empty() || self.print(&lines) != Put::NobodyReads;
        };
        let notes = notes.iter().map(|note| text::clean(note));
        let block: Vec<_> = notes.chain(text::block(status)).collect();
        let block = block.join("\n");
        let rows: Vec<_> = block.lines().take(rows()).map(str::to_owned).collect();
        let will_be_drawn = rows.len();
        lines.extend(rows);
        // Over the block that stands there, in one piece, so that nobody sees half of it.
        let screen = redraw(drawn) + &self.joined(&lines) + WRAP;
        let put = self.output.put(screen);
        if put == Put::OnItsWay {
            self.form = Form::Block {
                drawn: will_be_drawn,
            };
        }
        put != Put::NobodyReads
    }

    /// Waits until all is shown, or for so long.
    pub(super) fn end(self, patience: Duration) {
        self.output.end(patience);
    }

    fn print(&mut self, lines: &[String]) -> Put {
        let text = self.joined(lines);
        self.output.put(text)
    }

    fn joined(&self, lines: &[String]) -> String {
        let mut joined = String::new();
        for line in lines {
            if self.colour {
                joined.push_str(line);
            } else {
                // Only colour: the sequences that move the cursor are added around this.
                joined.extend(anstream::adapter::strip_str(line));
            }
            joined.push('\n');
        }
        joined
    }
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
