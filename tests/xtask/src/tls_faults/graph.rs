//! A drawing, in a file that needs nothing else, of the handshakes of a tenth of a second each and of
//! how long the longest of them took.

use crate::tls_stage::load::Handshake;
use std::fmt::Write as _;
use std::time::Duration;

const BIN: Duration = Duration::from_millis(100);
const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 150.0;
const LEFT: f64 = 60.0;
const TOP: f64 = 50.0;
const GAP: f64 = 60.0;

/// Handshakes that ended in a tenth of a second.
#[derive(Clone, Copy, Debug, Default)]
struct Bin {
    count: u32,
    longest: Duration,
}

/// Draws them. The card was away from `killed` to `back`.
pub(super) fn svg(
    handshakes: &[Handshake],
    time: Duration,
    killed: Duration,
    back: Duration,
) -> String {
    let bins = bins(handshakes, time);
    let rates: Vec<f64> = bins
        .iter()
        .map(|bin| f64::from(bin.count) / BIN.as_secs_f64())
        .collect();
    let longest: Vec<f64> = bins
        .iter()
        .map(|bin| bin.longest.as_secs_f64() * 1e3)
        .collect();
    let right = LEFT + WIDTH;
    let bottom = TOP + 2.0 * HEIGHT + GAP;
    let title = format!(
        "{} TLS handshakes while the card is killed, {} failed",
        handshakes.len(),
        handshakes.iter().filter(|it| it.outcome.is_err()).count(),
    );
    // For whoever has it read out, or looks for it in a text.
    let description = format!(
        "There is no card from {:.1} to {:.1} of {:.1} s. At most {:.0} handshakes a second end, and the \
         longest takes {:.0} ms.",
        killed.as_secs_f64(),
        back.as_secs_f64(),
        time.as_secs_f64(),
        rates.iter().copied().fold(0.0, f64::max),
        longest.iter().copied().fold(0.0, f64::max),
    );
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" \
         font-size=\"13\" role=\"img\">\n<title>{title}</title>\n<desc>{description}</desc>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"16\">{title}</text>\n",
        right + 20.0,
        bottom + 50.0,
    );
    let (from, to) = (x(killed, time), x(back, time));
    let _ = writeln!(
        svg,
        "<rect x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"#fbe3df\"/>\n\
         <text x=\"{from:.1}\" y=\"{}\" fill=\"#a33\">SIGKILL</text>\n\
         <text x=\"{to:.1}\" y=\"{}\" fill=\"#383\">a new card is there</text>",
        to - from,
        bottom - TOP,
        TOP - 6.0,
        TOP - 6.0,
    );
    panel(&mut svg, TOP, &rates, "handshakes per second");
    let second = TOP + HEIGHT + GAP;
    panel(&mut svg, second, &longest, "longest, in ms");
    for second in 0..=time.as_secs() {
        let at = x(Duration::from_secs(second), time);
        let _ = writeln!(
            svg,
            "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{second} s</text>",
            bottom + 36.0
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn bins(handshakes: &[Handshake], time: Duration) -> Vec<Bin> {
    let count = usize::try_from(time.as_millis() / BIN.as_millis()).unwrap_or(0);
    let mut bins = vec![Bin::default(); count];
    for handshake in handshakes {
        let index = usize::try_from(handshake.ended.as_millis() / BIN.as_millis());
        // Those that were under way when the time was over are not drawn.
        if let Some(bin) = index.ok().and_then(|index| bins.get_mut(index)) {
            bin.count += 1;
            bin.longest = bin.longest.max(handshake.took);
        }
    }
    bins
}

fn x(at: Duration, time: Duration) -> f64 {
    LEFT + WIDTH * at.as_secs_f64() / time.as_secs_f64()
}

/// Bars below a title, with a line at the greatest.
fn panel(svg: &mut String, top: f64, values: &[f64], title: &str) {
    let greatest = values.iter().copied().fold(1.0, f64::max);
    let bottom = top + HEIGHT;
    let each = WIDTH / f64::from(u32::try_from(values.len()).unwrap_or(1).max(1));
    let mut left = LEFT;
    for value in values {
        let height = HEIGHT * value / greatest;
        let _ = writeln!(
            svg,
            "<rect x=\"{left:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\" fill=\"#4472a8\"/>",
            bottom - height,
            each - 1.0
        );
        left += each;
    }
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"{:.1}\">{title}</text>\n\
         <path d=\"M{LEFT} {top}V{bottom}H{}\" fill=\"none\" stroke=\"#555\"/>\n\
         <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{greatest:.0}</text>\n\
         <text x=\"{}\" y=\"{bottom:.1}\" text-anchor=\"end\">0</text>",
        top + HEIGHT + 16.0,
        LEFT + WIDTH,
        LEFT - 6.0,
        top + 10.0,
        LEFT - 6.0,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handshake(ended_ms: u64, took_ms: u64) -> Handshake {
        Handshake {
            ended: Duration::from_millis(ended_ms),
            took: Duration::from_millis(took_ms),
            outcome: Ok(()),
        }
    }

    #[test]
    fn each_handshake_is_drawn_in_its_tenth_of_a_second() {
        let all = [
            handshake(0, 1),
            handshake(99, 7),
            handshake(100, 3),
            handshake(5000, 9),
        ];
        let bins = bins(&all, Duration::from_millis(300));
        let found: Vec<_> = bins
            .iter()
            .map(|bin| (bin.count, bin.longest.as_millis()))
            .collect();
        assert_eq!(found, [(2, 7), (1, 3), (0, 0)]);
    }

    #[test]
    fn the_drawing_needs_nothing_else_and_is_well_formed_without_any() {
        let time = Duration::from_secs(8);
        for all in [&[][..], &[handshake(1000, 2)]] {
            let svg = svg(all, time, time / 4, time / 2);
            assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
            assert!(svg.contains(" role=\"img\">\n<title>"), "{svg}");
            assert!(
                svg.contains("<desc>There is no card from 2.0 to 4.0 of 8.0 s."),
                "{svg}"
            );
            assert!(!svg.contains("NaN") && !svg.contains("inf") && !svg.contains("href"));
        }
    }
}
