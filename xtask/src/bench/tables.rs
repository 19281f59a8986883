//! The generated parts of `bench/README.md`: between `<!-- NAME -->` and `<!-- end -->`.

use std::path::Path;

use super::results::{Entry, Results};
use super::{Kind, networks};
use crate::commands::relative;

/// Rewrites the parts that are there; a part the page does not name is not wanted there.
pub(super) fn write(page: &Path, source: &Path, results: &Results) -> Result<(), String> {
    let mut text = std::fs::read_to_string(page).map_err(|e| format!("{}: {e}", relative(page)))?;
    for (name, content) in [("source", about(source, results)), ("speed", speed(results)), ("memory", memory(results))]
    {
        text = replace(&text, name, &content).ok_or_else(|| format!("{}: no part `{name}`", relative(page)))?;
    }
    std::fs::write(page, text).map_err(|e| format!("{}: {e}", relative(page)))
}

/// The page with one part exchanged.
fn replace(page: &str, name: &str, content: &str) -> Option<String> {
    let (before, rest) = page.split_once(&format!("<!-- {name} -->\n"))?;
    let (_, after) = rest.split_once("<!-- end -->")?;
    Some(format!("{before}<!-- {name} -->\n{content}<!-- end -->{after}"))
}

/// Where the figures come from.
fn about(source: &Path, results: &Results) -> String {
    let any = results.settings("speed").into_iter().find_map(|(threads, aead)| {
        networks::all().find_map(|network| results.entry("speed", network, threads, &aead))
    });
    let Some(entry) = any else { return "Nothing measured yet.\n".into() };
    let number = |path: &[&str]| entry.summary(path).unwrap_or(f64::NAN);
    format!(
        "Measured {} on {} ({:.0} cores, {} kernels, {:.0} GFLOP/s per core, {:.0} GB/s), {}, commit {}; file `{}`.\n",
        results.text("date"),
        entry.summary_text(&["machine", "cpu"]),
        number(&["machine", "cores"]),
        entry.summary_text(&["machine", "kernels"]),
        number(&["machine", "peak_gflops"]) / number(&["machine", "threads"]),
        number(&["machine", "read_gbytes_per_s"]) / number(&["machine", "threads"]),
        results.text("rustc"),
        entry.text("commit"),
        source.file_name().unwrap_or_default().to_string_lossy(),
    )
}

/// Ratios to ONNX Runtime, one table for each number of threads.
fn speed(results: &Results) -> String {
    let mut text = String::new();
    for (threads, aead) in results.settings("speed") {
        text += &format!(
            "\n### {threads} thread(s)\n\n| network | ONNX Runtime ms | all inside | CPU | one hidden layer | CPU | both ends \
             inside | CPU | GFLOP | floor ms | ONNX Runtime / floor | all inside / floor | others |\n|{}\n",
            "---|".repeat(13)
        );
        let mut all: [[Vec<f64>; 2]; 3] = Default::default();
        let mut gap = Vec::new();
        let mut commands = Vec::new();
        for network in networks::all() {
            let Some(entry) = results.entry("speed", network, threads, &aead) else { continue };
            commands.push(entry.text("command"));
            let plain = entry.variant("plain").and_then(|plain| plain.number("median_ms"));
            let inside = entry.variant("all-secure").and_then(|inside| inside.number("median_ms"));
            let floor = entry.summary(&["model", "floor_ms"]);
            let over = |time: Option<f64>| time.zip(floor).map(|(time, floor)| time / floor);
            for (list, name) in all.iter_mut().zip(["all-secure", "classifier", "ternary"]) {
                for (list, key) in list.iter_mut().zip(["ratio", "cpu_ratio"]) {
                    list.extend(entry.variant(name).and_then(|variant| variant.number(key)));
                }
            }
            gap.extend(over(inside));
            text += &format!(
                "| {network} | {} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
                number(plain, 2),
                ratio(entry, "all-secure"),
                ratio(entry, "classifier"),
                ratio(entry, "ternary"),
                number(entry.summary(&["model", "flops"]).map(|flops| flops / 1e9), 2),
                number(floor, 2),
                number(over(plain), 2),
                number(over(inside), 2),
                number(entry.summary(&["others_share"]).map(|share| share * 100.0), 0) + " %",
            );
        }
        let mean = |list: &[f64]| number(geometric_mean(list), 3);
        let means: Vec<String> = all.iter().flatten().map(|list| mean(list)).collect();
        text += &format!("| **geometric mean** | | {} | | | | {} | |\n", means.join(" | "), mean(&gap));
        commands.dedup();
        text += &format!("\n`{}`\n", commands.join("`, `"));
    }
    text
}

/// A median ratio of wall times with its quartiles, and the ratio of CPU times.
fn ratio(entry: Entry<'_>, name: &str) -> String {
    let Some(variant) = entry.variant(name) else { return "- | -".into() };
    match (variant.number("ratio"), variant.pair("ratio_quartiles")) {
        (Some(ratio), Some((low, high))) => {
            format!("{ratio:.3} ({low:.2}-{high:.2}) | {}", number(variant.number("cpu_ratio"), 3))
        }
        _ => "failed | -".into(),
    }
}

fn number(value: Option<f64>, decimals: usize) -> String {
    value.filter(|value| value.is_finite()).map_or_else(|| "-".into(), |value| format!("{value:.decimals$}"))
}

/// `None` without values.
pub(super) fn geometric_mean(values: &[f64]) -> Option<f64> {
    let logs: f64 = values.iter().map(|value| value.ln()).sum();
    (!values.is_empty()).then(|| (logs / values.len() as f64).exp())
}

/// Slowdown in each budget, one table for each form of weights, number of threads and AEAD.
fn memory(results: &Results) -> String {
    let mut text = String::new();
    let kinds = [(Kind::Memory, ""), (Kind::HalfMemory, ", weights as f16")].map(|(kind, words)| (kind.name(), words));
    let settings =
        kinds.iter().flat_map(|kind| results.settings(kind.0).into_iter().map(move |setting| (kind, setting)));
    for ((kind, form), (threads, aead)) in settings {
        let entries: Vec<_> = networks::all()
            .filter_map(|network| Some((network, results.entry(kind, network, threads, &aead)?)))
            .collect();
        let mut budgets: Vec<&str> = Vec::new();
        for (_, entry) in &entries {
            let names = entry.variants().filter_map(|variant| variant.name().strip_prefix("all-secure in "));
            budgets.extend(names.filter(|name| !budgets.contains(name)).collect::<Vec<_>>());
        }
        let which = if aead == "rust" { "pure Rust AEAD" } else { "fast AEAD" };
        text += &format!("\n### {threads} thread(s), {which}{form}\n\n| network | weights MiB | unlimited ms | MiB |");
        budgets.iter().for_each(|budget| text += &format!(" {} |", budget.replace(".0 ", " ")));
        text += &format!(" others |\n|{}\n", "---|".repeat(5 + budgets.len()));
        for (network, entry) in &entries {
            let all = entry.variant("all-secure");
            let mib = |bytes: Option<f64>| number(bytes.map(|bytes| bytes / f64::from(1 << 20)), 1);
            text += &format!(
                "| {network} | {} | {} | {} |",
                mib(entry.summary(&["model", "weight_bytes"])),
                number(all.and_then(|all| all.number("median_ms")), 2),
                mib(all.and_then(|all| all.number("secure_memory_measured"))),
            );
            for budget in &budgets {
                let cell = entry.variant(&format!("all-secure in {budget}")).map_or("-".into(), |variant| {
                    match (variant.number("slowdown"), variant.pair("slowdown_quartiles"), variant.error()) {
                        (Some(slowdown), Some((low, high)), _) => {
                            let bound = variant.number("slowdown_bound").map(|bound| format!(" / {bound:.2}"));
                            format!("{slowdown:.2} ({low:.2}-{high:.2}){}", bound.unwrap_or_default())
                        }
                        (_, _, Some(error)) => {
                            needs(error).map_or("failed".into(), |mib| format!("needs {mib:.1} MiB"))
                        }
                        _ => "failed".into(),
                    }
                });
                text += &format!(" {cell} |");
            }
            let others = entry.summary(&["others_share"]).map(|share| share * 100.0);
            text += &format!(" {} % |\n", number(others, 0));
        }
        let rates = entries.iter().filter_map(|(_, entry)| entry.summary(&["opening", "gbytes_per_s"]));
        let (low, high) = rates.fold((f64::MAX, 0f64), |(low, high), rate| (low.min(rate), high.max(rate)));
        if high > 0.0 {
            text += &format!(
                "\nStreamed weights are opened at {low:.1} to {high:.1} GB/s, slower where no cache holds them.\n"
            );
        }
        if let Some((_, entry)) = entries.first() {
            text += &format!("\n`{}`\n", entry.text("command"));
        }
    }
    text
}

/// MiB that an error says a plan needs.
fn needs(error: &str) -> Option<f64> {
    let (_, rest) = error.split_once("needs ")?;
    Some(rest.split(' ').next()?.parse::<f64>().ok()? / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::results::example;

    #[test]
    fn parts_are_exchanged_and_nothing_else() {
        let page = "a\n<!-- speed -->\nold\n<!-- end -->\nb\n<!-- memory -->\n<!-- end -->\n";
        let new = replace(page, "speed", "new\n").expect("there");
        assert_eq!(new, "a\n<!-- speed -->\nnew\n<!-- end -->\nb\n<!-- memory -->\n<!-- end -->\n");
        assert_eq!(replace(page, "energy", ""), None);
    }

    #[test]
    fn tables_show_ratios_with_spread_gaps_and_what_does_not_fit() {
        let results = example();
        let speed = speed(&results);
        assert!(speed.contains("| resnet50 | 10.00 | 1.200 (1.10-1.30) | 1.200 | 1.010 (0.91-1.11) |"), "{speed}");
        assert!(speed.contains("| 1.00 | 10.00 | 1.00 | 1.20 | 1 % |"), "{speed}");
        assert!(speed.contains("| **geometric mean** | | 1.200 | 1.200 | 1.010 |"), "{speed}");
        let memory = memory(&results);
        assert!(memory.contains("| 1.50 (1.50-1.50) / 1.75 |"), "{memory}");
        assert!(memory.contains("| 10 MiB | 16 MiB |"), "{memory}");
        assert!(memory.contains("| needs 12.0 MiB | 1.50"), "{memory}");
    }

    #[test]
    fn a_geometric_mean_of_two_and_eight_is_four() {
        assert!((geometric_mean(&[2.0, 8.0]).expect("values") - 4.0).abs() < 1e-12);
        assert_eq!(geometric_mean(&[]), None);
    }
}
