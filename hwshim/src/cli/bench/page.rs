//! A report as a page of its own: everything in one file, no script, nothing fetched from anywhere.

use super::machine::Machine;
use std::fmt::Write as _;

/// Series are told apart by so many colours.
pub(super) const COLOURS: usize = 8;

/// A page.
pub(super) struct Page {
    title: String,
    body: String,
    footer: String,
}

impl Page {
    /// An empty page; `lead` says what it is about.
    pub(super) fn new(title: &str, lead: &str, machine: &Machine) -> Self {
        let (title, lead) = (escaped(title), escaped(lead));
        let (line, command) = (escaped(&machine.line()), escaped(&machine.command));
        Self {
            body: format!("<h1>{title}</h1>\n<p class=\"lead\">{lead}</p>\n"),
            title,
            footer: format!("<footer><p>{line}</p>\n<pre>{command}</pre></footer>\n"),
        }
    }

    /// Begins a section, with what colours and numbers mean.
    pub(super) fn section(&mut self, heading: &str, names: &[&str]) {
        let _ = writeln!(self.body, "<h2>{}</h2>", escaped(heading));
        if names.is_empty() {
            return;
        }
        self.body.push_str("<p class=\"legend\">");
        for (index, name) in names.iter().enumerate() {
            let (colour, number, name) = (index % COLOURS, index + 1, escaped(name));
            let _ = write!(
                self.body,
                "<span><i class=\"s{colour}\"></i><b>{number}</b> {name}</span> "
            );
        }
        self.body.push_str("</p>\n");
    }

    /// Figures that stand beside each other where there is room.
    pub(super) fn figures(&mut self, figures: &[Figure]) {
        self.body.push_str("<div class=\"figures\">\n");
        for figure in figures {
            figure.write(&mut self.body, "");
        }
        self.body.push_str("</div>\n");
    }

    /// A figure as wide as the page.
    pub(super) fn wide(&mut self, figure: &Figure) {
        figure.write(&mut self.body, " class=\"wide\"");
    }

    /// A table; the first column is what rows are called, all others are numbers.
    pub(super) fn table(&mut self, caption: &str, header: &[&str], rows: &[Vec<String>]) {
        let caption = escaped(caption);
        // It can be moved without a mouse where it is wider than the page.
        let _ = write!(
            self.body,
            "<div class=\"scroll\" role=\"region\" aria-label=\"{caption}\" tabindex=\"0\">\
             <table><caption>{caption}</caption><thead><tr>"
        );
        for title in header {
            let _ = write!(self.body, "<th scope=\"col\">{}</th>", escaped(title));
        }
        self.body.push_str("</tr></thead><tbody>\n");
        for row in rows {
            self.body.push_str("<tr>");
            let mut cells = row.iter().map(|cell| escaped(cell));
            if let Some(name) = cells.next() {
                let _ = write!(self.body, "<th scope=\"row\">{name}</th>");
            }
            for cell in cells {
                let _ = write!(self.body, "<td>{cell}</td>");
            }
            self.body.push_str("</tr>\n");
        }
        self.body.push_str("</tbody></table></div>\n");
    }

    /// The file.
    pub(super) fn html(&self) -> String {
        let Self {
            title,
            body,
            footer,
        } = self;
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n{body}{footer}\
             </body>\n</html>\n"
        )
    }
}

/// A drawing with what it shows.
pub(super) struct Figure {
    title: String,
    /// The unit, and which way is better.
    note: String,
    svg: String,
}

impl Figure {
    /// With what `draw` draws, to which it gives what is to be read out of it.
    pub(super) fn new(
        title: impl Into<String>,
        note: impl Into<String>,
        draw: impl FnOnce(&str) -> String,
    ) -> Self {
        let (title, note) = (title.into(), note.into());
        Self {
            svg: draw(&format!("{title}: {note}")),
            title,
            note,
        }
    }

    fn write(&self, body: &mut String, class: &str) {
        let (title, note) = (escaped(&self.title), escaped(&self.note));
        let _ = writeln!(
            body,
            "<figure{class}><figcaption><b>{title}</b><span>{note}</span></figcaption>\n{}</figure>",
            self.svg
        );
    }
}

/// `text` with nothing in it that HTML would take for its own.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            _ => safe.push(letter),
        }
    }
    safe
}

/// Colours are Okabe and Ito's, which people who see colours otherwise tell apart as well, with more
/// light where the page is dark.
const STYLE: &str = "\
:root { --paper: #fff; --ink: #1c2127; --faint: #667079; --line: #dfe3e7; --panel: #f7f8fa;
  --s0: #5b6670; --s1: #b07d00; --s2: #0072b2; --s3: #009e73; --s4: #d55e00; --s5: #b4578f;
  --s6: #2d9fd8; --s7: #8a8300; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14181c; --ink: #e6e9ec; --faint: #98a2ab; --line: #2f363d; --panel: #1b2026;
    --s0: #a3adb6; --s1: #e9b949; --s2: #4aa8e8; --s3: #2fc79b; --s4: #ff8a4c; --s5: #e08fc0;
    --s6: #8fd3ff; --s7: #d6cf4a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.5rem 2rem; max-width: 64rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, 'DejaVu Sans', sans-serif; }
h1 { margin: 0 0 .4rem; font-size: 1.7rem; line-height: 1.2; }
h2 { margin: 2.6rem 0 .4rem; padding-top: 1rem; border-top: 1px solid var(--line);
  font-size: 1.2rem; }
.lead { margin: 0; max-width: 48rem; color: var(--faint); }
.legend { margin: .2rem 0 1rem; }
.legend span { display: inline-block; margin-right: 1.4rem; white-space: nowrap; }
.legend i { display: inline-block; width: .8rem; height: .8rem; margin-right: .45rem;
  border-radius: 2px; vertical-align: -1px; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr));
  gap: 1rem; }
figure { margin: 0; padding: .9rem 1rem .6rem; border: 1px solid var(--line); border-radius: 8px;
  background: var(--panel); }
figure.wide { margin-top: 1rem; }
figcaption { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 1rem;
  margin-bottom: .5rem; }
figcaption span { color: var(--faint); font-size: .87rem; }
svg { display: block; width: 100%; height: auto; font-size: 12px; }
svg.bars { font-size: 13px; }
text { fill: var(--ink); font-variant-numeric: tabular-nums; }
text.axis { fill: var(--faint); }
.middle { text-anchor: middle; }
.end { text-anchor: end; }
.grid { stroke: var(--line); fill: none; }
polyline { fill: none; stroke-width: 2; stroke-linejoin: round; }
.s0 { --c: var(--s0); } .s1 { --c: var(--s1); } .s2 { --c: var(--s2); } .s3 { --c: var(--s3); }
.s4 { --c: var(--s4); } .s5 { --c: var(--s5); } .s6 { --c: var(--s6); } .s7 { --c: var(--s7); }
.s1 { --d: 7 3; } .s2 { --d: 2 3; } .s3 { --d: 9 3 2 3; } .s4 { --d: 12 4; } .s5 { --d: 4 2; }
.s6 { --d: 9 3 2 3 2 3; } .s7 { --d: 1 2; }
polyline { stroke: var(--c); stroke-dasharray: var(--d, none); }
circle, rect { fill: var(--c); }
rect.faint { fill-opacity: .3; stroke: var(--c); stroke-opacity: .6; }
text.number { font-weight: 600; }
i { background: var(--c); }
.scroll { margin-top: 1rem; overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-size: .87rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
thead th { color: var(--faint); font-weight: 600; }
tbody th { font-weight: normal; }
th:first-child { padding-left: 0; text-align: left; }
caption { padding-bottom: .3rem; text-align: left; font-weight: 600; }
footer { margin-top: 2.6rem; padding-top: .8rem; border-top: 1px solid var(--line);
  color: var(--faint); font-size: .87rem; }
footer p { margin: 0; }
footer pre { margin: .4rem 0 0; white-space: pre-wrap; overflow-wrap: anywhere; }
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_needs_nothing_else_and_takes_names_for_text() {
        let mut page = Page::new("<t>", "\"lead\"", &Machine::look());
        page.section("a & b", &["<script>"]);
        page.table("<c>", &["x"], &[vec!["<r>".to_owned(), "<td>".to_owned()]]);
        let html = page.html();
        for wanted in [
            "&lt;t&gt;",
            "a &amp; b",
            "&lt;script&gt;",
            "<td>&lt;td&gt;</td>",
            "<caption>&lt;c&gt;</caption>",
            "<th scope=\"col\">x</th>",
            "<th scope=\"row\">&lt;r&gt;</th>",
        ] {
            assert!(html.contains(wanted), "{wanted}: {html}");
        }
        for foreign in ["<script", "http:", "https:", "url(", "@import", "src="] {
            assert!(!html.contains(foreign), "{foreign}");
        }
    }
}
