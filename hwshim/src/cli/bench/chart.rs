//! Plots as inline SVG, coloured by the style sheet of the [page](super::page) they stand in.
//!
//! Every axis of values begins at zero: one that begins elsewhere makes a difference of anything.

use super::page::escaped;
use std::fmt::Write as _;

const WIDTH: f64 = 460.0;
const LEFT_MIN: f64 = 56.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 10.0;
const PLOT: f64 = 190.0;
const BOTTOM: f64 = 40.0;

/// Of a character, rather too much than too little: whose letters are read is not known here.
const CHARACTER: f64 = 8.0;

/// Values at the same places of a horizontal axis, one line for each series.
pub(super) struct Lines<'a> {
    /// What the horizontal axis is.
    pub(super) axis: &'a str,
    /// Of the values.
    pub(super) unit: &'a str,
    /// Its places, equally far apart.
    pub(super) places: Vec<String>,
    /// A series has the colour, the dashes and the number of its index.
    pub(super) series: Vec<Series<'a>>,
}

/// One line.
pub(super) struct Series<'a> {
    pub(super) name: &'a str,
    /// One for each place; what is not known is not drawn.
    pub(super) values: Vec<Option<f64>>,
}

impl Lines<'_> {
    /// Draws them; `label` is what is read out of the drawing.
    pub(super) fn svg(&self, label: &str) -> String {
        let values = self.series.iter().flat_map(|series| &series.values);
        let greatest = values.flatten().copied().fold(0.0, f64::max);
        let plot = Plot::new(Scale::up_to(greatest), self.places.len());
        let height = TOP + PLOT + BOTTOM;
        let label = escaped(label);
        let mut svg =
            format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{label}\">\n");
        plot.draw(&mut svg);
        for (index, place) in self.places.iter().enumerate() {
            let (x, y) = (plot.x(index), TOP + PLOT + 16.0);
            let place = escaped(place);
            let _ = writeln!(
                svg,
                "<text x=\"{x:.1}\" y=\"{y}\" class=\"middle\">{place}</text>"
            );
        }
        let (x, y) = (f64::midpoint(plot.left, WIDTH - RIGHT), height - 6.0);
        let axis = escaped(self.axis);
        let _ = writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{y}\" class=\"middle axis\">{axis}</text>"
        );
        for (index, series) in self.series.iter().enumerate() {
            self.line(&mut svg, &plot, index, series);
        }
        self.numbers(&mut svg, &plot);
        svg.push_str("</svg>\n");
        svg
    }

    fn line(&self, svg: &mut String, plot: &Plot, index: usize, series: &Series<'_>) {
        let points: Vec<_> = series.points(plot).collect();
        let path: Vec<_> = points
            .iter()
            .map(|(_, x, y, _)| format!("{x:.1},{y:.1}"))
            .collect();
        let colour = index % super::page::COLOURS;
        let _ = writeln!(
            svg,
            "<polyline class=\"s{colour}\" points=\"{}\"/>",
            path.join(" ")
        );
        for (place, x, y, value) in points {
            let (name, axis, unit) = (escaped(series.name), escaped(self.axis), escaped(self.unit));
            let place = self.places.get(place).map_or("", String::as_str);
            let (place, value) = (escaped(place), figure(value));
            let _ = writeln!(
                svg,
                "<circle class=\"s{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.2\"><title>\
                 {name}, {axis} {place}: {value} {unit}</title></circle>"
            );
        }
    }

    /// Writes the number of each series at the end of its line.
    fn numbers(&self, svg: &mut String, plot: &Plot) {
        let end = |(index, series): (usize, &Series<'_>)| {
            let (_, x, y, _) = series.points(plot).last()?;
            Some((index + 1, x, y))
        };
        let mut ends: Vec<_> = self.series.iter().enumerate().filter_map(end).collect();
        spread(&mut ends);
        for (number, x, y) in ends {
            let (x, y) = (x + 7.0, y + 4.0);
            let _ = writeln!(
                svg,
                "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"number\">{number}</text>"
            );
        }
    }
}

impl Series<'_> {
    /// Each that is known: its place, where it is drawn, and itself.
    fn points(&self, plot: &Plot) -> impl Iterator<Item = (usize, f64, f64, f64)> {
        self.values.iter().enumerate().filter_map(|(place, value)| {
            value.map(|value| (place, plot.x(place), plot.scale.y(value), value))
        })
    }
}

/// Moves what would stand on top of each other apart, as little as it takes, within the plot.
fn spread(ends: &mut [(usize, f64, f64)]) {
    const LINE: f64 = 12.0;
    ends.sort_by(|(_, _, one), (_, _, other)| one.total_cmp(other));
    let mut free = f64::NEG_INFINITY;
    for (_, _, y) in ends.iter_mut() {
        *y = y.max(free);
        free = *y + LINE;
    }
    let mut free = TOP + PLOT;
    for (_, _, y) in ends.iter_mut().rev() {
        *y = y.min(free);
        free = *y - LINE;
    }
}

/// A bar of parts, with what it is before it and its value behind it.
pub(super) struct Bar<'a> {
    pub(super) name: &'a str,
    pub(super) parts: Vec<Part>,
    pub(super) value: String,
}

/// A part of a bar.
pub(super) struct Part {
    /// How long it is.
    pub(super) len: f64,
    pub(super) colour: usize,
    /// Whether it is told from another part of the same colour by having less of it.
    pub(super) faint: bool,
    /// What it is, and how much.
    pub(super) title: String,
}

/// Draws bars below each other, on one scale; `label` is what is read out of the drawing.
pub(super) fn bars(label: &str, bars: &[Bar<'_>]) -> String {
    const ROW: f64 = 26.0;
    const WIDE: f64 = 960.0;
    /// Of the longest bar.
    const BAR_MIN: f64 = 120.0;
    const GAP: f64 = 10.0;
    let sum = |bar: &Bar<'_>| bar.parts.iter().map(|part| finite(part.len)).sum::<f64>();
    let longest = bars
        .iter()
        .map(sum)
        .fold(0.0, f64::max)
        .max(f64::MIN_POSITIVE);
    let widest = |text: fn(&Bar<'_>) -> usize| {
        CHARACTER * count(bars.iter().map(text).max().unwrap_or(0)) + GAP
    };
    let value_width = widest(|bar| bar.value.chars().count()).min(WIDE / 2.0);
    // An address may be a long path.
    let name_width = widest(|bar| bar.name.chars().count()).max(205.0);
    let name_width = name_width.min(WIDE - value_width - BAR_MIN);
    let bar_width = WIDE - name_width - value_width;
    let height = ROW * count(bars.len());
    let label = escaped(label);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDE} {height}\" role=\"img\" aria-label=\"{label}\" \
         class=\"bars\">\n"
    );
    for (index, bar) in bars.iter().enumerate() {
        let top = ROW * count(index);
        let shown = escaped(&end_of(bar.name, name_width - GAP));
        let (name, value) = (escaped(bar.name), escaped(&bar.value));
        let base = top + 17.0;
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{base}\" class=\"end\">{shown}<title>{name}</title></text>",
            name_width - GAP
        );
        let mut x = name_width;
        for part in &bar.parts {
            let width = finite(part.len) / longest * bar_width;
            let colour = part.colour % super::page::COLOURS;
            let faint = if part.faint { " faint" } else { "" };
            let title = escaped(&part.title);
            let _ = writeln!(
                svg,
                "<rect class=\"s{colour}{faint}\" x=\"{x:.1}\" y=\"{}\" width=\"{width:.1}\" \
                 height=\"{}\"><title>{name}, {title}</title></rect>",
                top + 4.0,
                ROW - 8.0
            );
            x += width;
        }
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{base}\" class=\"value\">{value}</text>",
            x + GAP
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// `text`, or of one that finds no room as much of its end as does: addresses differ there.
fn end_of(text: &str, room: f64) -> String {
    let len = text.chars().count();
    if CHARACTER * count(len) <= room {
        return text.to_owned();
    }
    let kept = (1..len)
        .rev()
        .find(|kept| CHARACTER * count(kept + 1) <= room);
    let skipped = len - kept.unwrap_or(0);
    std::iter::once('\u{2026}')
        .chain(text.chars().skip(skipped))
        .collect()
}

/// Where values and places are drawn.
struct Plot {
    scale: Scale,
    places: usize,
    left: f64,
}

impl Plot {
    /// With room for the figures on the left.
    fn new(scale: Scale, places: usize) -> Self {
        let digits = scale.lines().map(|value| figure(value).chars().count());
        let left = CHARACTER.mul_add(count(digits.max().unwrap_or(0)), 12.0);
        Self {
            scale,
            places,
            left: left.max(LEFT_MIN),
        }
    }

    fn x(&self, place: usize) -> f64 {
        let step = (WIDTH - self.left - RIGHT) / count(self.places.max(1));
        self.left + step * (count(place) + 0.5)
    }

    fn draw(&self, svg: &mut String) {
        for value in self.scale.lines() {
            let y = self.scale.y(value);
            let _ = writeln!(
                svg,
                "<path class=\"grid\" d=\"M{:.1} {y:.1}H{}\"/>\n\
                 <text x=\"{:.1}\" y=\"{:.1}\" class=\"end\">{}</text>",
                self.left,
                WIDTH - RIGHT,
                self.left - 7.0,
                y + 4.0,
                figure(value)
            );
        }
    }
}

/// The vertical axis.
struct Scale {
    top: f64,
    step: f64,
}

impl Scale {
    /// With a step that people count in.
    fn up_to(greatest: f64) -> Self {
        let greatest = if finite(greatest) > 0.0 {
            greatest
        } else {
            1.0
        };
        let rough = greatest / 4.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0]
            .map(|times| times * power)
            .into_iter()
            .find(|step| *step >= rough)
            .unwrap_or(rough);
        Self {
            top: (greatest / step).ceil() * step,
            step,
        }
    }

    fn y(&self, value: f64) -> f64 {
        TOP + PLOT * (1.0 - finite(value) / self.top)
    }

    /// Values that have a line across.
    fn lines(&self) -> impl Iterator<Item = f64> {
        let value = |line| self.step * f64::from(line);
        (0..=10)
            .map(value)
            .take_while(|value| *value <= self.top * 1.001)
    }
}

/// A number for people: three digits are what a measurement is good for.
pub(super) fn figure(value: f64) -> String {
    let value = finite(value);
    match value {
        0.0 => "0".to_owned(),
        1000.0.. => grouped(value),
        100.0.. => format!("{value:.0}"),
        10.0.. => trimmed(format!("{value:.1}")),
        _ => trimmed(format!("{value:.2}")),
    }
}

fn trimmed(text: String) -> String {
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// With a thin space at every third digit.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{2009}');
        }
        text.push(digit);
    }
    text
}

/// What cannot be drawn is drawn as nothing.
const fn finite(value: f64) -> f64 {
    if value.is_finite() && value > 0.0 {
        value
    } else {
        0.0
    }
}

#[expect(clippy::cast_precision_loss, reason = "places of a drawing")]
const fn count(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_begin_at_zero_and_have_steps_that_people_count_in() {
        for (greatest, top, step) in [
            (1_320.0, 1_500.0, 500.0),
            (0.73, 0.8, 0.2),
            (98.0, 100.0, 25.0),
        ] {
            let scale = Scale::up_to(greatest);
            assert!(
                (scale.top - top).abs() < 1e-9 && (scale.step - step).abs() < 1e-9,
                "{greatest}"
            );
            assert!((scale.y(0.0) - (TOP + PLOT)).abs() < 1e-9);
        }
    }

    #[test]
    fn figures_have_as_many_digits_as_they_are_good_for() {
        let figures = [0.0, 0.456, 12.34, 123.4, 6_012.3, 1_234_567.0].map(figure);
        assert_eq!(
            figures,
            [
                "0",
                "0.46",
                "12.3",
                "123",
                "6\u{2009}012",
                "1\u{2009}234\u{2009}567"
            ]
        );
    }

    #[test]
    fn whatever_the_figures_are_the_drawing_is_well_formed() {
        let hostile = [f64::NAN, f64::INFINITY, -1.0, 0.0];
        let lines = Lines {
            axis: "<axis>",
            unit: "<unit>",
            places: vec!["\"&".to_owned(); 4],
            series: vec![Series {
                name: "<b>",
                values: hostile.map(Some).to_vec(),
            }],
        };
        let part = |len| Part {
            len,
            colour: 99,
            faint: false,
            title: "<b>".to_owned(),
        };
        let bar = Bar {
            name: "<b>",
            parts: hostile.map(part).into(),
            value: String::new(),
        };
        for svg in [lines.svg("<b>"), bars("<b>", &[bar]), bars("<b>", &[])] {
            assert!(
                !svg.contains("NaN") && !svg.contains("inf") && !svg.contains("<b>"),
                "{svg}"
            );
            assert!(
                svg.contains("role=\"img\" aria-label=\"&lt;b&gt;\""),
                "{svg}"
            );
            assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        }
    }

    /// Where texts of `class` begin, and what they are.
    fn texts<'a>(svg: &'a str, class: &'a str) -> impl Iterator<Item = (f64, &'a str)> {
        svg.lines().filter_map(move |line| {
            let (before, text) = line.split_once(&format!("class=\"{class}\">"))?;
            let x = before.split('"').nth(1)?.parse().ok()?;
            Some((x, text.split('<').next()?))
        })
    }

    #[test]
    fn bars_leave_room_for_what_stands_before_and_behind_them() {
        let value = "849 (1.25 x rustls+ring, 1.31 x rustls+aws-lc-rs)";
        let name = format!("vfio-user:/{}/card-1.sock + ring", "long/".repeat(40));
        let bar = |len, colour| Bar {
            name: &name,
            parts: vec![Part {
                len,
                colour,
                faint: false,
                title: String::new(),
            }],
            value: value.to_owned(),
        };
        let svg = bars("bars", &[bar(1.0, 0), bar(1000.0, 1)]);
        assert_eq!(texts(&svg, "value").count(), 2);
        for (x, text) in texts(&svg, "value") {
            let text = CHARACTER * count(text.chars().count());
            assert!(x + text <= 960.0, "{svg}");
        }
        for (x, text) in texts(&svg, "end") {
            assert!(CHARACTER * count(text.chars().count()) <= x, "{svg}");
            assert!(text.starts_with('\u{2026}') && text.ends_with("/card-1.sock + ring"));
        }
    }

    #[test]
    fn an_axis_leaves_room_for_its_figures() {
        let lines = Lines {
            axis: "axis",
            unit: "unit",
            places: vec!["1".to_owned()],
            series: vec![Series {
                name: "series",
                values: vec![Some(1e9)],
            }],
        };
        let svg = lines.svg("lines");
        for (x, text) in texts(&svg, "end") {
            assert!(CHARACTER * count(text.chars().count()) <= x, "{svg}");
        }
    }

    #[test]
    fn a_line_is_told_from_the_others_without_its_colour_and_a_point_by_its_title() {
        let lines = Lines {
            axis: "at once",
            unit: "us",
            places: ["1", "64"].map(str::to_owned).to_vec(),
            series: ["rustls+ring", "card"]
                .map(|name| Series {
                    name,
                    values: vec![Some(3.0), None],
                })
                .into(),
        };
        let svg = lines.svg("lines");
        let numbers: Vec<_> = texts(&svg, "number").map(|(_, text)| text).collect();
        assert_eq!(numbers, ["1", "2"]);
        assert!(
            svg.contains("<title>card, at once 1: 3 us</title>"),
            "{svg}"
        );
        assert_eq!(
            svg.matches("<circle").count(),
            2,
            "what is not known is not drawn"
        );
    }

    #[test]
    fn numbers_at_the_same_height_are_moved_apart_within_the_plot() {
        let bottom = TOP + PLOT;
        let mut ends = [(1, 0.0, bottom), (2, 0.0, bottom - 1.0), (3, 0.0, TOP)];
        spread(&mut ends);
        assert_eq!(ends.map(|(number, ..)| number), [3, 2, 1]);
        assert_eq!(ends.map(|(_, _, y)| y), [TOP, bottom - 12.0, bottom]);
    }
}
