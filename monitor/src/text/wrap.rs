//! Breaks what is too long for a terminal: prose at blanks, tables between columns.
//!
//! Nothing is left out: what is too long by itself, as a path may be, is left as it is.

use std::ops::Range;

/// Where the second line of something begins, further to the right than the first.
const HANGING: usize = 2;
/// What stands before a text that it hangs from is no longer: `  +3.0  `, `    symptom  `.
const LEAD_MAX: usize = 14;
/// Where the second line of a table's row begins.
pub(super) const ROW_INDENT: usize = 4;
/// Blanks between columns.
pub(super) const GAP: usize = 2;

/// The lines in which `line` fits `width`. What stands between blanks at its beginning, as a number in a
/// list, stays alone on the left.
#[must_use]
pub fn wrapped(line: &str, width: usize) -> Vec<String> {
    if shown(line) <= width {
        return vec![line.to_owned()];
    }
    let indent = hanging(line).min(width / 2);
    let mut lines = Vec::new();
    // Runs of blanks come as empty words, and are kept but at an end.
    let mut words = line.split(' ');
    let mut current = words.next().unwrap_or_default().to_owned();
    let mut used = shown(&current);
    for word in words {
        let more = shown(word);
        if used + 1 + more <= width || current.trim().is_empty() {
            current.push(' ');
            current.push_str(word);
            used += 1 + more;
        } else {
            let full = std::mem::replace(&mut current, " ".repeat(indent) + word);
            lines.push(full.trim_end().to_owned());
            used = indent + more;
        }
    }
    lines.push(current);
    lines
}

/// Where text begins on the lines after the first: behind what stands between blanks at its beginning.
fn hanging(line: &str) -> usize {
    let plain = anstream::adapter::strip_str(line).to_string();
    let blanks = |text: &str| text.len() - text.trim_start_matches(' ').len();
    let indent = blanks(&plain);
    let mut text = &plain[indent..];
    let mut hanging = indent;
    while let Some((lead, _)) = text.split_once("  ")
        && lead.chars().count() <= LEAD_MAX
    {
        let behind = &text[lead.len()..];
        hanging += lead.chars().count() + blanks(behind);
        text = behind.trim_start_matches(' ');
    }
    if hanging == indent {
        hanging += HANGING;
    }
    hanging
}

/// Columns of a terminal that a text takes: escape sequences take none.
fn shown(text: &str) -> usize {
    anstream::adapter::strip_str(text)
        .to_string()
        .chars()
        .count()
}

/// The columns of a table that stand on the first, second, ... line of each row.
pub(super) fn columns(widths: &[usize], within: Option<usize>) -> Vec<Range<usize>> {
    let mut lines = Vec::new();
    let (mut start, mut used) = (0, 0);
    for (column, width) in widths.iter().enumerate() {
        let needed = used + GAP + width;
        if column == 0 {
            used = *width;
        } else if within.is_some_and(|within| needed > within) {
            lines.push(start..column);
            (start, used) = (column, ROW_INDENT + width);
        } else {
            used = needed;
        }
    }
    lines.push(start..widths.len());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_too_long_is_broken_at_blanks_and_hangs() {
        assert_eq!(wrapped("    gone: no answer", 19), ["    gone: no answer"]);
        assert_eq!(
            wrapped("    gone: no answer at all", 19),
            ["    gone: no answer", "      at all"]
        );
        let item = "  1  WARNING   a card is late, or there is no card";
        let expected = [
            "  1  WARNING   a card is late,",
            "               or there is no",
            "               card",
        ];
        assert_eq!(wrapped(item, 32), expected);
        let piece = "   -1.0  no slow: it is as fast as ever";
        let expected = [
            "   -1.0  no slow: it",
            "         is as fast as",
            "         ever",
        ];
        assert_eq!(wrapped(piece, 22), expected);
        assert_eq!(
            wrapped("/a/very/long/path is", 8),
            ["/a/very/long/path", "  is"]
        );
    }

    #[test]
    fn colours_take_no_room() {
        let red = "\x1b[31mred light\x1b[0m";
        assert_eq!(wrapped(red, 9), [red]);
        assert_eq!(wrapped(red, 8), ["\x1b[31mred", "  light\x1b[0m"]);
    }

    #[test]
    fn a_row_is_broken_between_columns() {
        let starts = |widths: &[usize], within| {
            let lines = columns(widths, within).into_iter();
            lines.map(|line| line.start).collect::<Vec<_>>()
        };
        assert_eq!(starts(&[4, 4, 4], None), [0]);
        assert_eq!(starts(&[4, 4, 4], Some(16)), [0]);
        assert_eq!(starts(&[4, 4, 4], Some(15)), [0, 2]);
        assert_eq!(starts(&[40, 4, 4], Some(15)), [0, 1]);
        assert_eq!(starts(&[4, 40, 4], Some(15)), [0, 1, 2]);
        assert_eq!(columns(&[4, 4, 4], Some(15))[1], 2..3);
    }

    proptest! {
        #[test]
        fn no_word_is_lost_and_no_line_too_long_that_has_two(line in " {0,6}[a-z ]{0,80}", width in 20_usize..60) {
            let lines = wrapped(&line, width);
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            prop_assert_eq!(words(&lines.join(" ")), words(&line));
            for line in lines {
                prop_assert!(line.chars().count() <= width || words(&line).len() < 2, "{}", line);
            }
        }
    }
}
