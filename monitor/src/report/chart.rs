//! Draws what a service held as SVG that needs nothing else: one panel for each figure, as figures of
//! different units share no axis.

use serde::Serialize;
use std::fmt::Write as _;

/// Size of a panel, and of the drawing in it.
const WIDTH: f64 = 720.0;
const PANEL: f64 = 150.0;
const LEFT: f64 = 110.0;
const TOP: f64 = 28.0;
const BOTTOM: f64 = 24.0;
const RIGHT: f64 = 12.0;

/// One figure over time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// What it is, e.g. `owner-rss-bytes`.
    pub name: String,
    /// When, in milliseconds since 1970 UTC, and how much.
    pub points: Vec<(i64, f64)>,
}

/// At most so many points: the least of each stretch, where what is never given back shows.
#[must_use]
pub fn thinned(points: Vec<(i64, f64)>, max: usize) -> Vec<(i64, f64)> {
    if points.len() <= max {
        return points;
    }
    let stretch = points.len().div_ceil(max.max(1));
    let least = |some: &[(i64, f64)]| some.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1));
    points.chunks(stretch).filter_map(least).collect()
}

/// The drawing.
#[must_use]
pub fn svg(lines: &[Line]) -> String {
    let count = u32::try_from(lines.len()).unwrap_or(0);
    let height = PANEL * f64::from(count.max(1));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    if lines.is_empty() {
        svg.push_str("<text x=\"12\" y=\"24\">no figures are on record</text>\n");
    }
    for (index, line) in (0_u32..).zip(lines) {
        panel(&mut svg, line, PANEL * f64::from(index));
    }
    svg.push_str("</svg>\n");
    svg
}

fn panel(svg: &mut String, line: &Line, top: f64) {
    let finite = line.points.iter().filter(|point| point.1.is_finite());
    let values = finite.clone().map(|point| point.1);
    let high = values.clone().fold(0.0, f64::max);
    let high = if high > 0.0 { high } else { 1.0 };
    let from = finite.clone().map(|point| point.0).min().unwrap_or(0);
    let until = finite.clone().map(|point| point.0).max().unwrap_or(0);
    let span = seconds(until - from).max(0.001);
    let (bottom, right) = (top + PANEL - BOTTOM, WIDTH - RIGHT);
    let height = PANEL - TOP - BOTTOM;
    let place = |&(at, value): &(i64, f64)| {
        let x = LEFT + seconds(at - from) / span * (right - LEFT);
        // From zero: an axis that begins at the least makes a leak of anything.
        (x, bottom - value.max(0.0) / high * height)
    };
    let mut curve = String::new();
    for point in finite {
        let (x, y) = place(point);
        let _ = write!(curve, "{x:.1},{y:.1} ");
    }
    let name = super::page::escaped(&line.name);
    let (title, zero) = (top + 18.0, bottom + 4.0);
    let _ = write!(
        svg,
        "<text x=\"{LEFT}\" y=\"{title}\" font-weight=\"bold\">{name}</text>\n\
         <path d=\"M{LEFT} {0} V{bottom} H{right}\" fill=\"none\" stroke=\"#888888\"/>\n\
         <text x=\"{1}\" y=\"{2}\" text-anchor=\"end\">{3}</text>\n\
         <text x=\"{1}\" y=\"{zero}\" text-anchor=\"end\">0</text>\n\
         <text x=\"{right}\" y=\"{4}\" text-anchor=\"end\">{5}</text>\n\
         <polyline points=\"{6}\" fill=\"none\" stroke=\"#c0392b\" stroke-width=\"1.5\"/>\n",
        top + TOP,
        LEFT - 6.0,
        top + TOP + 8.0,
        amount(high, line.name.ends_with("bytes")),
        bottom + 18.0,
        length(span),
        curve.trim_end(),
    );
}

#[expect(clippy::cast_precision_loss, reason = "places of a drawing")]
fn seconds(millis: i64) -> f64 {
    millis as f64 / 1e3
}

fn amount(value: f64, is_bytes: bool) -> String {
    match is_bytes {
        true => format!("{:.1} MiB", value / f64::from(1_u32 << 20)),
        false => format!("{value:.0}"),
    }
}

fn length(seconds: f64) -> String {
    match seconds {
        ..300.0 => format!("{seconds:.0} s"),
        ..18_000.0 => format!("{:.0} min", seconds / 60.0),
        ..432_000.0 => format!("{:.1} h", seconds / 3_600.0),
        _ => format!("{:.1} days", seconds / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_the_floors_and_the_order() {
        let points: Vec<_> = (0_u32..1_000)
            .map(|n| (i64::from(n), if n % 10 == 3 { 1.0 } else { f64::from(n) }))
            .collect();
        let thin = thinned(points.clone(), 100);
        assert_eq!(thin.len(), 100);
        assert!(thin.iter().all(|point| point.1 <= 1.0));
        assert!(thin.is_sorted_by_key(|point| point.0));
        assert_eq!(thinned(points.clone(), 1_000), points);
    }

    #[test]
    fn whatever_the_figures_are_the_drawing_stays_in_its_frame_and_is_well_formed() {
        let hostile = Line {
            name: "<script>\"&'".to_owned(),
            points: vec![
                (i64::MIN / 4, f64::NAN),
                (0, f64::INFINITY),
                (5, -3.0),
                (9, 1e300),
            ],
        };
        for lines in [vec![], vec![hostile]] {
            let svg = svg(&lines);
            assert!(
                !svg.contains("NaN") && !svg.contains("inf") && !svg.contains("<script"),
                "{svg}"
            );
            assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        }
    }

    #[test]
    fn a_rise_is_drawn_from_zero() {
        let line = Line {
            name: "owner-rss-bytes".to_owned(),
            points: vec![(0, 50.0), (1_000, 100.0)],
        };
        let svg = svg(&[line]);
        // Half way up on the left, at the top on the right.
        assert!(svg.contains("points=\"110.0,77.0 708.0,28.0\""), "{svg}");
    }
}
