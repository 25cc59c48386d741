//! Plots as inline SVG, coloured by the style sheet of the [page](super::page) they stand in.
//!
//! Every axis of values begins at zero: one that begins elsewhere makes a difference of anything.

use super::page::escaped;
use std::fmt::Write as _;

const WIDTH: f64 = 460.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 10.0;
const PLOT: f64 = 190.0;
const BOTTOM: f64 = 40.0;

/// Values at the same places of a horizontal axis, one line for each series.
pub(super) struct Lines<'a> {
    /// What the horizontal axis is.
    pub(super) axis: &'a str,
    /// Its places, equally far apart.
    pub(super) places: Vec<String>,
    /// One value for each place. A series has the colour of its index.
    pub(super) series: Vec<Vec<f64>>,
}

impl Lines<'_> {
    /// Draws them.
    pub(super) fn svg(&self) -> String {
        let values = self.series.iter().flatten().copied();
        let scale = Scale::up_to(values.fold(0.0, f64::max));
        let height = TOP + PLOT + BOTTOM;
        let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n");
        scale.draw(&mut svg);
        for (index, place) in self.places.iter().enumerate() {
            let (x, y) = (self.x(index), TOP + PLOT + 16.0);
            let place = escaped(place);
            let _ = writeln!(
                svg,
                "<text x=\"{x:.1}\" y=\"{y}\" class=\"middle\">{place}</text>"
            );
        }
        let (x, y) = (LEFT + (WIDTH - LEFT - RIGHT) / 2.0, height - 6.0);
        let axis = escaped(self.axis);
        let _ = writeln!(
            svg,
            "<text x=\"{x}\" y=\"{y}\" class=\"middle axis\">{axis}</text>"
        );
        for (index, values) in self.series.iter().enumerate() {
            self.line(&mut svg, &scale, index, values);
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn line(&self, svg: &mut String, scale: &Scale, index: usize, values: &[f64]) {
        let points: Vec<_> = values
            .iter()
            .enumerate()
            .map(|(place, value)| (self.x(place), scale.y(*value), *value))
            .collect();
        let path: Vec<_> = points
            .iter()
            .map(|(x, y, _)| format!("{x:.1},{y:.1}"))
            .collect();
        let colour = index % super::page::COLOURS;
        let _ = writeln!(
            svg,
            "<polyline class=\"s{colour}\" points=\"{}\"/>",
            path.join(" ")
        );
        for (x, y, value) in points {
            let value = figure(value);
            let _ = writeln!(
                svg,
                "<circle class=\"s{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.2\"><title>{value}</title></circle>"
            );
        }
    }

    fn x(&self, place: usize) -> f64 {
        let step = (WIDTH - LEFT - RIGHT) / count(self.places.len().max(1));
        LEFT + step * (count(place) + 0.5)
    }
}

/// A bar of parts, with what it is before it and its value behind it.
pub(super) struct Bar {
    pub(super) name: String,
    /// How long each part is, and which colour it has.
    pub(super) parts: Vec<(f64, usize)>,
    pub(super) value: String,
}

/// Draws bars below each other, on one scale.
pub(super) fn bars(bars: &[Bar]) -> String {
    const ROW: f64 = 26.0;
    /// Of a character, about.
    const CHARACTER: f64 = 7.2;
    const VALUE: f64 = 150.0;
    const WIDE: f64 = 960.0;
    let sum = |bar: &Bar| bar.parts.iter().map(|(len, _)| finite(*len)).sum::<f64>();
    let longest = bars
        .iter()
        .map(sum)
        .fold(0.0, f64::max)
        .max(f64::MIN_POSITIVE);
    let names = bars.iter().map(|bar| bar.name.chars().count());
    let name_width = CHARACTER.mul_add(count(names.max().unwrap_or(0)), 20.0);
    // An address may be a long path; what stands on the left of it is cut off then.
    let name_width = name_width.clamp(205.0, WIDE / 2.0);
    let height = ROW * count(bars.len());
    let mut svg = format!("<svg viewBox=\"0 0 {WIDE} {height}\" role=\"img\" class=\"bars\">\n");
    for (index, bar) in bars.iter().enumerate() {
        let top = ROW * count(index);
        let (name, value) = (escaped(&bar.name), escaped(&bar.value));
        let base = top + 17.0;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{base}\" class=\"end\">{name}</text>",
            name_width - 10.0
        );
        let mut x = name_width;
        for (len, colour) in &bar.parts {
            let width = finite(*len) / longest * (WIDE - name_width - VALUE);
            let colour = colour % super::page::COLOURS;
            let _ = writeln!(
                svg,
                "<rect class=\"s{colour}\" x=\"{x:.1}\" y=\"{}\" width=\"{width:.1}\" height=\"{}\"/>",
                top + 4.0,
                ROW - 8.0
            );
            x += width;
        }
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{base}\">{value}</text>",
            x + 8.0
        );
    }
    svg.push_str("</svg>\n");
    svg
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

    fn draw(&self, svg: &mut String) {
        for line in 0..=10 {
            let value = self.step * f64::from(line);
            if value > self.top * 1.001 {
                break;
            }
            let y = self.y(value);
            let _ = writeln!(
                svg,
                "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{}\"/>\n\
                 <text x=\"{}\" y=\"{:.1}\" class=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 7.0,
                y + 4.0,
                figure(value)
            );
        }
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
            places: vec!["\"&".to_owned(); 4],
            series: vec![hostile.to_vec()],
        };
        let bar = Bar {
            name: "<b>".to_owned(),
            parts: hostile.map(|len| (len, 99)).to_vec(),
            value: String::new(),
        };
        for svg in [lines.svg(), bars(&[bar]), bars(&[])] {
            assert!(
                !svg.contains("NaN") && !svg.contains("inf") && !svg.contains("<b>"),
                "{svg}"
            );
            assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        }
    }
}
