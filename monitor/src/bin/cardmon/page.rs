//! What a terminal has room for: text for people is broken where it is too long for one, and only there.

use monitor::text::wrapped;
use serde::Serialize;
use std::io::{self, IsTerminal as _, Write as _};

/// No terminal is taken to be narrower: columns of two letters help nobody.
const WIDTH_MIN: usize = 40;
/// Of one that does not say how wide it is.
const WIDTH_DEFAULT: usize = 80;
/// Width of help where there is more room, or no terminal, as of that of options.
pub(crate) const HELP_WIDTH_MAX: usize = 100;

/// Columns of the terminal that standard output is; `None` if it goes elsewhere, where nothing is broken.
pub(crate) fn width() -> Option<usize> {
    let out = io::stdout();
    if !out.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(&out);
    match size.map_or(0, |size| usize::from(size.ws_col)) {
        0 => Some(WIDTH_DEFAULT),
        columns => Some(columns.max(WIDTH_MIN)),
    }
}

/// Prints lines for people.
pub(crate) fn print(lines: &[String]) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    let width = width();
    for line in lines.iter().flat_map(|line| line.split('\n')) {
        match width {
            None => writeln!(out, "{line}")?,
            Some(width) => {
                for line in wrapped(line, width) {
                    writeln!(out, "{line}")?;
                }
            }
        }
    }
    Ok(())
}

/// Prints a document for programs.
pub(crate) fn json(document: &impl Serialize) -> anyhow::Result<()> {
    let mut out = anstream::stdout().lock();
    serde_json::to_writer_pretty(&mut out, document)?;
    writeln!(out)?;
    Ok(())
}

/// Help as this terminal has room for it, of one whose lines were broken to be read in the source: what
/// goes on is indented further than a list's item, or follows on prose.
pub(crate) fn help(text: &str) -> String {
    laid_out(text, width().unwrap_or(HELP_WIDTH_MAX).min(HELP_WIDTH_MAX))
}

fn laid_out(text: &str, width: usize) -> String {
    let indent = |line: &str| line.len() - line.trim_start_matches(' ').len();
    let mut paragraphs: Vec<String> = Vec::new();
    let mut goes_on = false;
    for line in text.lines() {
        let before = paragraphs.last().map_or(0, |last| indent(last));
        let is_prose = !line.is_empty() && indent(line) == 0 && before == 0;
        let goes_on_here = goes_on && (is_prose || indent(line) > before && before > 0);
        match paragraphs.last_mut().filter(|_| goes_on_here) {
            Some(paragraph) => {
                paragraph.push(' ');
                paragraph.push_str(line.trim_start());
            }
            None => paragraphs.push(line.to_owned()),
        }
        goes_on = !line.is_empty();
    }
    let lines = paragraphs.iter().flat_map(|it| wrapped_in_help(it, width));
    lines.collect::<Vec<_>>().join("\n")
}

/// Prose does not hang, and items of a list do.
fn wrapped_in_help(paragraph: &str, width: usize) -> Vec<String> {
    let lines = wrapped(paragraph, width);
    match paragraph.starts_with(' ') {
        true => lines,
        false => lines.iter().map(|it| it.trim_start().to_owned()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_is_laid_out_for_the_width_there_is() {
        let text = "\
Prose that goes on over
two lines.

Exit status:
  0   all is well and nothing is
      left to do
  10  something is
Example: a b";
        let wide = "\
Prose that goes on over two lines.

Exit status:
  0   all is well and nothing is left to do
  10  something is
Example: a b";
        let narrow = "\
Prose that goes on over two
lines.

Exit status:
  0   all is well and
      nothing is left to do
  10  something is
Example: a b";
        assert_eq!(laid_out(text, 100), wide);
        assert_eq!(laid_out(text, 27), narrow);
    }
}
