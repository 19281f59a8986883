//! `bench/speed.svg`: the ratio to ONNX Runtime of every network and plan, one panel for each number of threads.

use super::networks;
use super::results::Results;
use super::svg::{Anchor, Mark, Scale, Svg, step};
use super::tables::geometric_mean;

/// Plans in the order of the legend.
const SERIES: [(&str, &str, &str, Mark); 3] = [
    ("all-secure", "everything inside", "s0", Mark::Circle),
    ("ternary", "both ends inside", "s2", Mark::Square),
    ("classifier", "classifier inside", "s1", Mark::Diamond),
];

const LABELS: f64 = 130.0;
const PANEL: f64 = 330.0;
const GAP: f64 = 28.0;
const TOP: f64 = 84.0;
const ROW: f64 = 26.0;

/// Draws it.
pub(super) fn draw(results: &Results) -> String {
    let settings = results.settings("speed");
    let panels = settings.len().max(1) as f64;
    let measured =
        |network: &&str| settings.iter().any(|(n, aead)| results.entry("speed", network, *n, aead).is_some());
    let rows: Vec<&str> = networks::all().filter(measured).collect();
    let bottom = TOP + ROW * (rows.len() + 1) as f64;
    let mut svg = Svg::new(LABELS + panels * PANEL + (panels - 1.0) * GAP + 24.0, bottom + 62.0);
    let title = "Time of one inference relative to ONNX Runtime";
    svg.text("title", Anchor::Start, (12.0, 24.0), title);
    let mut x = 12.0;
    for (_, label, class, mark) in SERIES {
        svg.mark(class, mark, (x + 6.0, 43.0));
        svg.text("", Anchor::Start, (x + 16.0, 47.0), label);
        x += 150.0;
    }
    for (index, row) in rows.iter().chain(&["geometric mean"]).enumerate() {
        let class = if index == rows.len() { "panel" } else { "" };
        svg.text(class, Anchor::End, (LABELS - 10.0, center(index) + 4.0), row);
    }
    let (low, high) = extent(results, &settings, &rows);
    for (index, (threads, aead)) in settings.iter().enumerate() {
        let left = LABELS + index as f64 * (PANEL + GAP);
        let scale = Scale { values: (low, high), pixels: (left, left + PANEL), logarithmic: false };
        axis(&mut svg, &scale, bottom);
        let threads_text = if *threads == 1 { "1 thread".into() } else { format!("{threads} threads") };
        svg.text("panel", Anchor::Middle, (left + PANEL / 2.0, TOP - 12.0), &threads_text);
        for (number, (name, _, class, mark)) in SERIES.into_iter().enumerate() {
            let shift = (number as f64 - 1.0) * 6.0;
            let mut ratios = Vec::new();
            for (row, network) in rows.iter().enumerate() {
                let variant = results.entry("speed", network, *threads, aead).and_then(|entry| entry.variant(name));
                let Some((variant, ratio)) = variant.and_then(|it| Some((it, it.number("ratio")?))) else { continue };
                ratios.push(ratio);
                let y = center(row) + shift;
                if let Some((from, to)) = variant.pair("ratio_quartiles") {
                    svg.line(&format!("{class} whisker"), (scale.at(from), y), (scale.at(to), y));
                }
                svg.mark(class, mark, (scale.at(ratio), y));
            }
            if let Some(mean) = geometric_mean(&ratios) {
                svg.mark(class, mark, (scale.at(mean), center(rows.len()) + shift));
            }
        }
    }
    let caption = "ratio of wall times: 1 = ONNX Runtime, less is faster";
    svg.text("", Anchor::Start, (LABELS, bottom + 36.0), caption);
    svg.text(
        "small",
        Anchor::Start,
        (LABELS, bottom + 52.0),
        "marks are medians, lines reach over the quartiles of all rounds",
    );
    svg.finish(title)
}

fn center(row: usize) -> f64 {
    TOP + ROW * (row as f64 + 0.5)
}

/// From a little under the least to a little over the greatest ratio, with 1 inside.
fn extent(results: &Results, settings: &[(u64, String)], rows: &[&str]) -> (f64, f64) {
    let entries =
        settings.iter().flat_map(|(n, aead)| rows.iter().filter_map(|row| results.entry("speed", row, *n, aead)));
    let ratios: Vec<f64> = entries
        .flat_map(|entry| SERIES.into_iter().filter_map(move |(name, ..)| entry.variant(name)))
        .flat_map(|variant| variant.pair("ratio_quartiles").into_iter().flat_map(|(low, high)| [low, high]))
        .collect();
    let low = ratios.iter().copied().fold(0.9, f64::min);
    let high = ratios.iter().copied().fold(1.1, f64::max);
    let unit = step(high - low, 6.0);
    ((low / unit).floor() * unit, (high / unit).ceil() * unit)
}

fn axis(svg: &mut Svg, scale: &Scale, bottom: f64) {
    let (low, high) = scale.values;
    let unit = step(high - low, 6.0);
    let ticks = ((high - low) / unit).round() as usize;
    for tick in 0..=ticks {
        let value = low + unit * tick as f64;
        let x = scale.at(value);
        svg.line("grid", (x, TOP), (x, bottom));
        svg.text("small", Anchor::Middle, (x, bottom + 16.0), &format!("{value:.1}"));
    }
    svg.line("one", (scale.at(1.0), TOP), (scale.at(1.0), bottom));
    svg.line("axis", (scale.pixels.0, bottom), (scale.pixels.1, bottom));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::results::example;

    #[test]
    fn every_plan_of_every_network_has_a_mark_and_so_have_the_means() {
        let text = draw(&example());
        let marks = text.matches(" mark\"").count();
        // Three in the legend, three for the one network, three means.
        assert_eq!(marks, 9, "{text}");
        assert!(text.contains(">resnet50<") && text.contains(">1 thread<"));
    }
}
