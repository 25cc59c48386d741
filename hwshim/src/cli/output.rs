//! What subcommands print, and how they fail.
//!
//! Tables that fit the terminal, wrapped notes, JSON, and errors that say what to do next. A
//! reader that goes away (`hwshim list | head -1`) ends the program quietly.

use serde::Serialize;
use std::error::Error;
use std::fmt::{self, Write as _};
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::process::ExitCode;

/// Width of prose when there is no terminal to ask.
const WIDTH_DEFAULT: usize = 80;
/// No terminal is taken to be narrower: columns of two letters help nobody.
const WIDTH_MIN: usize = 40;

/// Standard output.
pub(crate) struct Output {
    writer: Box<dyn Write>,
    /// Columns of the terminal; `None` if it goes elsewhere, where nothing is cut short.
    terminal_width: Option<usize>,
    colour: bool,
}

impl Output {
    /// Locks standard output for the rest of the program.
    pub(crate) fn stdout() -> Self {
        let stdout = io::stdout().lock();
        let is_terminal = stdout.is_terminal();
        let terminal_width = is_terminal.then(|| {
            let size = rustix::termios::tcgetwinsize(&stdout);
            let columns = size.map_or(0, |size| usize::from(size.ws_col));
            // A terminal that does not know its size says 0.
            if columns == 0 {
                WIDTH_DEFAULT
            } else {
                columns.max(WIDTH_MIN)
            }
        });
        Self {
            writer: Box::new(BufWriter::new(stdout)),
            terminal_width,
            colour: is_terminal && colour_is_welcome(),
        }
    }

    /// A terminal of that width, or none, whose text a test can read.
    #[cfg(test)]
    pub(crate) fn to(writer: impl Write + 'static, terminal_width: Option<usize>) -> Self {
        Self {
            writer: Box::new(BufWriter::new(writer)),
            terminal_width,
            colour: false,
        }
    }

    /// Prints a line.
    pub(crate) fn line(&mut self, text: impl fmt::Display) -> Result<(), Failure> {
        Ok(writeln!(self.writer, "{text}")?)
    }

    /// Prints `text` behind `lead`, wrapped so that it stays behind it. With an empty lead this
    /// is a plain paragraph.
    pub(crate) fn note(&mut self, lead: &str, text: &str) -> Result<(), Failure> {
        let width = self.terminal_width.unwrap_or(WIDTH_DEFAULT);
        let indent = lead.chars().count();
        let mut lead = lead;
        let blank = " ".repeat(indent);
        for line in wrap(text, width.saturating_sub(indent)) {
            self.line(format_args!("{lead}{line}"))?;
            lead = &blank;
        }
        Ok(())
    }

    /// Whether nothing of `table` would be cut short or stand out on the right.
    pub(crate) fn has_room_for(&self, table: &Table) -> bool {
        self.terminal_width
            .is_none_or(|width| table.widths(None).total() <= width)
    }

    /// Leaves out columns of `table` from the right, down to `least`, until it has room, and says which.
    pub(crate) fn make_room(&self, table: &mut Table, least: usize) -> Vec<String> {
        let mut left_out = Vec::new();
        while table.header.len() > least && !self.has_room_for(table) {
            left_out.extend(table.header.pop().map(|cell| cell.text));
            table.rows.iter_mut().for_each(|row| {
                row.pop();
            });
        }
        left_out.reverse();
        left_out
    }

    /// Prints a table.
    pub(crate) fn table(&mut self, table: &Table) -> Result<(), Failure> {
        let Widths(widths) = table.widths(self.terminal_width);
        self.row(&table.header, &widths, Some(Style::Heading))?;
        for row in &table.rows {
            self.row(row, &widths, None)?;
        }
        Ok(())
    }

    fn row(
        &mut self,
        cells: &[Cell],
        widths: &[usize],
        style: Option<Style>,
    ) -> Result<(), Failure> {
        let mut line = String::new();
        let mut pending = 0;
        for (cell, width) in cells.iter().zip(widths) {
            // Padding is written only before another cell, so that no line ends in blanks.
            line.extend(std::iter::repeat_n(' ', pending));
            let text = shorten(&cell.text, *width);
            pending = width.saturating_sub(text.chars().count()) + GAP;
            line.push_str(&self.styled(&text, style.or(cell.style)));
        }
        self.line(line)
    }

    /// Colours `text` if this is a terminal that likes it.
    pub(crate) fn styled(&self, text: &str, style: Option<Style>) -> String {
        match style {
            Some(style) if self.colour && !text.is_empty() => {
                format!("\x1b[{}m{text}\x1b[0m", style.code())
            }
            _ => text.to_owned(),
        }
    }

    /// Prints one JSON document.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value).map_err(io::Error::from)?;
        self.line(text)
    }

    /// Warns on standard error, after what was printed so far.
    pub(crate) fn warn(&mut self, warning: impl fmt::Display) -> Result<(), Failure> {
        self.writer.flush()?;
        complain(format_args!("warning: {warning}"));
        Ok(())
    }

    /// Shows what was printed so far, before something that takes long.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.writer.flush()?)
    }

    /// Writes out what is still buffered.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        Ok(self.writer.flush()?)
    }
}

fn colour_is_welcome() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    !set("NO_COLOR") && !dumb
}

/// How a piece of text stands out.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Style {
    /// A heading.
    Heading,
    /// As it should be.
    Good,
    /// Worth a look.
    Caution,
    /// Wrong.
    Bad,
}

impl Style {
    /// Parameters of "select graphic rendition" (ECMA-48 §8.3.117 "SGR").
    const fn code(self) -> &'static str {
        match self {
            Self::Heading => "1",
            Self::Good => "32",
            Self::Caution => "33",
            Self::Bad => "31",
        }
    }
}

/// One cell of a table.
#[derive(Debug)]
pub(crate) struct Cell {
    text: String,
    style: Option<Style>,
}

impl Cell {
    /// A cell that stands out.
    pub(crate) fn styled(text: impl Into<String>, style: Style) -> Self {
        Self {
            text: text.into(),
            style: Some(style),
        }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self {
            text: text.into(),
            style: None,
        }
    }
}

/// Blanks between two columns.
const GAP: usize = 2;

/// Rows of aligned columns. Where they do not fit the terminal, one column gives way, down to its
/// title.
#[derive(Debug)]
pub(crate) struct Table {
    header: Vec<Cell>,
    rows: Vec<Vec<Cell>>,
    /// None of a table that would rather be too wide.
    flexible: Option<usize>,
}

/// Of the columns of a table.
#[derive(Debug, PartialEq)]
struct Widths(Vec<usize>);

impl Widths {
    fn total(&self) -> usize {
        let Self(widths) = self;
        widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1)
    }
}

impl Table {
    /// Starts a table whose column `flexible` may be cut short.
    pub(crate) fn new(header: &[&str], flexible: usize) -> Self {
        Self {
            header: header.iter().map(|title| Cell::from(*title)).collect(),
            rows: Vec::new(),
            flexible: Some(flexible),
        }
    }

    /// Starts a table no column of which may be cut short.
    pub(crate) fn rigid(header: &[&str]) -> Self {
        Self {
            flexible: None,
            ..Self::new(header, 0)
        }
    }

    /// Adds a row.
    pub(crate) fn push(&mut self, row: Vec<Cell>) {
        self.rows.push(row);
    }

    fn widths(&self, terminal_width: Option<usize>) -> Widths {
        let all = || std::iter::once(&self.header).chain(&self.rows);
        let width_of = |row: &Vec<Cell>, column: usize| {
            row.get(column).map_or(0, |cell| cell.text.chars().count())
        };
        let widths = (0..self.header.len())
            .map(|column| all().map(|row| width_of(row, column)).max().unwrap_or(0))
            .collect();
        let mut widths = Widths(widths);
        let excess = terminal_width.map_or(0, |width| widths.total().saturating_sub(width));
        if let Some(flexible) = self.flexible
            && let Some(width) = widths.0.get_mut(flexible)
        {
            let least = width_of(&self.header, flexible);
            *width = width.saturating_sub(excess).max(least);
        }
        widths
    }
}

fn shorten(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept = text.chars().take(width.saturating_sub(1));
    kept.chain(['…']).collect()
}

/// Breaks `text` at blanks into lines of at most `width` characters; a longer word keeps its own line.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is always a last line");
        let needed = line.chars().count() + 1 + word.chars().count();
        if line.is_empty() {
            line.push_str(word);
        } else if needed <= width {
            let _ = write!(line, " {word}");
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// With which clap ends a program whose command line it does not understand.
const EXIT_MISUSE: u8 = 2;

/// Why a subcommand ended without doing what it was asked to.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something failed.
    Reported {
        /// What failed, on what.
        what: String,
        /// Why.
        cause: Option<Box<dyn Error + Send + Sync>>,
        /// What to do next.
        hint: Option<String>,
    },
    /// The command line was not understood.
    Misuse(clap::Error),
    /// Standard output could not be written.
    Output(io::Error),
    /// Something failed, and whoever had it do so has said what.
    Said,
}

impl Failure {
    /// `what` failed because of `cause`.
    pub(crate) fn new(
        what: impl Into<String>,
        cause: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::Reported {
            what: what.into(),
            cause: Some(cause.into()),
            hint: None,
        }
    }

    /// Adds what to do next.
    pub(crate) fn hint(mut self, next: impl Into<String>) -> Self {
        if let Self::Reported { hint, .. } = &mut self {
            *hint = Some(next.into());
        }
        self
    }

    /// Says so on standard error, and with what code to exit.
    pub(crate) fn report(self) -> ExitCode {
        match &self {
            // Whoever read us has seen enough.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return ExitCode::SUCCESS;
            }
            Self::Misuse(error) => {
                // Where even that fails, there is nobody left to tell.
                let _ = error.print();
                return ExitCode::from(EXIT_MISUSE);
            }
            Self::Said => {}
            failure => complain(failure),
        }
        ExitCode::FAILURE
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Misuse(error) => write!(f, "{error}"),
            Self::Output(error) => write!(f, "writing to standard output failed: {error}"),
            Self::Said => f.write_str("it failed, as was said"),
            Self::Reported { what, cause, hint } => {
                f.write_str(what)?;
                if let Some(cause) = cause.as_deref() {
                    write!(f, ": {}", with_causes(cause))?;
                }
                match hint {
                    Some(hint) => write!(f, "\nhint: {hint}"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// An error with its causes, for one line.
pub(super) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    let texts: Vec<_> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

/// Writes to standard error; where even that fails, there is nobody left to tell.
pub(super) fn complain(text: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "{}", complaint(text));
}

/// A line for standard error. File names can hold anything, so what would steer a terminal is
/// replaced.
pub(super) fn complaint(text: impl fmt::Display) -> String {
    let steers = |letter: char| letter.is_control() && letter != '\n';
    let text = text.to_string().replace(steers, "\u{fffd}");
    format!("hwshim: {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["ADDRESS", "CARD", "USE"], 1);
        table.push(vec![
            "a".into(),
            "a card with a long name".into(),
            "now".into(),
        ]);
        table
    }

    #[test]
    fn only_the_flexible_column_gives_way() {
        let widths = |width| table().widths(width).0;
        assert_eq!(widths(None), [7, 23, 3]);
        assert_eq!(widths(Some(37)), [7, 23, 3]);
        assert_eq!(widths(Some(30)), [7, 16, 3]);
        assert_eq!(widths(Some(10)), [7, 4, 3]);
        assert_eq!(shorten("a card with a long name", 8), "a card …");
        assert_eq!(shorten("ünïcödé", 7), "ünïcödé");
    }

    #[test]
    fn columns_on_the_right_are_left_out_until_there_is_room() {
        for (width, kept) in [(None, 3), (Some(37), 3), (Some(36), 2), (Some(10), 1)] {
            let mut table = table();
            let left_out = Output::to(io::sink(), width).make_room(&mut table, 1);
            assert_eq!(left_out, ["ADDRESS", "CARD", "USE"][kept..], "{width:?}");
            assert_eq!((table.header.len(), table.rows[0].len()), (kept, kept));
        }
    }

    #[test]
    fn prose_is_broken_at_blanks() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("unbreakable", 4), ["unbreakable"]);
        assert_eq!(wrap("", 4), [""]);
    }

    #[test]
    fn a_failure_says_what_why_and_what_next() {
        let cause = io::Error::other("it is on fire");
        let failure = Failure::new("reading the card", cause).hint("put it out");
        assert_eq!(
            failure.to_string(),
            "reading the card: it is on fire\nhint: put it out"
        );
    }
}
