//! `bench/memory.svg`: secure memory against time, one panel for each network, with what DarkneTZ's allocator needs.

use super::networks::{self, DARKNET};
use super::results::{Entry, Results};
use super::svg::{Anchor, Mark, Scale, Svg, step};

const COLUMNS: usize = 3;
const PANEL: (f64, f64) = (250.0, 120.0);
/// From one panel's corner to the next: room for the axes' numbers and the name.
const PITCH: (f64, f64) = (310.0, 184.0);
const LEFT: f64 = 66.0;
const TOP: f64 = 96.0;
/// Ends of the axis of memory, in MiB.
const MEMORY: (f64, f64) = (4.0, 1024.0);

/// Draws it.
pub(super) fn draw(results: &Results) -> String {
    let settings = results.settings("memory");
    let entries = |network: &str| -> Vec<(usize, Entry<'_>)> {
        let all = settings.iter().enumerate();
        all.filter_map(|(index, (threads, aead))| Some((index, results.entry("memory", network, *threads, aead)?)))
            .collect()
    };
    let shown: Vec<(&str, Vec<(usize, Entry<'_>)>)> =
        networks::all().map(|network| (network, entries(network))).filter(|(_, entries)| !entries.is_empty()).collect();
    let rows = shown.len().div_ceil(COLUMNS).max(1);
    let mut svg = Svg::new(LEFT + PITCH.0 * COLUMNS as f64, TOP + PITCH.1 * rows as f64 + 12.0);
    let title = "Secure memory against time, everything inside";
    svg.text("title", Anchor::Start, (12.0, 24.0), title);
    let mut x = 12.0;
    for (index, (threads, aead)) in settings.iter().enumerate() {
        let class = format!("s{}", SERIES[index % SERIES.len()]);
        svg.path(&class, &[(x, 44.0), (x + 24.0, 44.0)]);
        svg.mark(&class, Mark::Circle, (x + 12.0, 44.0));
        let plural = if *threads == 1 { "" } else { "s" };
        let aead = if aead == "rust" { "pure Rust AEAD" } else { "fast AEAD" };
        svg.text("", Anchor::Start, (x + 30.0, 48.0), &format!("{threads} thread{plural}, {aead}"));
        x += 190.0;
    }
    svg.mark("s1", Mark::Diamond, (24.0, 64.0));
    let points = "memory DarkneTZ's allocator takes for the whole network (it publishes no times: drawn on the axis)";
    svg.text("", Anchor::Start, (42.0, 68.0), points);
    for (place, (network, entries)) in shown.iter().enumerate() {
        let corner = (LEFT + PITCH.0 * (place % COLUMNS) as f64, TOP + PITCH.1 * (place / COLUMNS) as f64);
        panel(&mut svg, corner, network, entries);
    }
    svg.finish(title)
}

/// Colour classes of the settings; 1 is DarkneTZ's.
const SERIES: [usize; 3] = [0, 2, 3];

fn panel(svg: &mut Svg, (left, top): (f64, f64), network: &str, entries: &[(usize, Entry<'_>)]) {
    let (right, bottom) = (left + PANEL.0, top + PANEL.1);
    let lines: Vec<(usize, Vec<(f64, f64)>)> = entries.iter().map(|(index, entry)| (*index, points(*entry))).collect();
    let slowest = lines.iter().flat_map(|(_, points)| points).map(|(_, time)| *time).fold(1e-3, f64::max);
    let unit = step(slowest * 1.05, 4.0);
    let time =
        Scale { values: (0.0, (slowest * 1.05 / unit).ceil() * unit), pixels: (bottom, top), logarithmic: false };
    let memory = Scale { values: MEMORY, pixels: (left, right), logarithmic: true };

    svg.text("panel", Anchor::Start, (left, top - 8.0), network);
    for tick in 0..=(time.values.1 / unit).round() as usize {
        let value = unit * tick as f64;
        svg.line("grid", (left, time.at(value)), (right, time.at(value)));
        let decimals = if unit < 1.0 { 1 } else { 0 };
        svg.text("small", Anchor::End, (left - 6.0, time.at(value) + 4.0), &format!("{value:.decimals$}"));
    }
    for value in [4, 16, 64, 256, 1024].map(f64::from) {
        svg.line("grid", (memory.at(value), top), (memory.at(value), bottom));
        svg.text("small", Anchor::Middle, (memory.at(value), bottom + 15.0), &format!("{value:.0}"));
    }
    svg.line("axis", (left, bottom), (right, bottom));
    svg.line("axis", (left, top), (left, bottom));
    svg.text("small", Anchor::Middle, (left + PANEL.0 / 2.0, bottom + 30.0), "secure memory, MiB");
    svg.upward("small", (left - 42.0, top + PANEL.1 / 2.0), "time, ms");
    for (index, points) in &lines {
        let class = format!("s{}", SERIES[index % SERIES.len()]);
        let at: Vec<(f64, f64)> = points.iter().map(|(mib, ms)| (memory.at(*mib), time.at(*ms))).collect();
        svg.path(&class, &at);
        at.iter().for_each(|&point| svg.mark(&class, Mark::Circle, point));
    }
    if let Some(mib) = DARKNET.iter().find(|it| it.name == network).and_then(|it| it.darknetz_mib) {
        svg.mark("s1", Mark::Diamond, (memory.at(mib), bottom));
    }
}

/// Measured memory in MiB and milliseconds of every budget that fits, least memory first. A budget that takes all the memory
/// the network wants is the same plan once more, and left out.
fn points(entry: Entry<'_>) -> Vec<(f64, f64)> {
    let all = entry.variant("all-secure").and_then(|all| all.number("secure_memory_measured")).unwrap_or(f64::INFINITY);
    let less = |bytes: Option<f64>| bytes.is_some_and(|bytes| bytes < 0.98 * all);
    let inside = entry.variants().filter(|variant| {
        variant.name() == "all-secure"
            || variant.name().starts_with("all-secure in") && less(variant.number("secure_memory_measured"))
    });
    let mut points: Vec<(f64, f64)> = inside
        .filter_map(|it| Some((it.number("secure_memory_measured")? / f64::from(1 << 20), it.number("median_ms")?)))
        .collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::results::example;

    #[test]
    fn budgets_that_fit_are_points_and_darknetz_is_on_the_axis() {
        let text = draw(&example());
        // Legend: one setting and DarkneTZ. Panel: everything inside (10 MiB fails, 16 MiB is no less), DarkneTZ's 64 MiB.
        assert_eq!(text.matches(" mark\"").count(), 4, "{text}");
        assert!(text.contains("time, ms") && text.contains("secure memory, MiB"));
    }
}
