//! The files under `bench/results/`: one per day and machine, what `cordon bench` printed, unabridged.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::commands::{capture, relative};

/// One file's content.
pub(super) struct Results {
    path: PathBuf,
    value: Value,
}

/// One network's measurement.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a>(&'a Value);

/// One variant of it.
#[derive(Clone, Copy)]
pub(super) struct Variant<'a>(&'a Value);

impl Results {
    /// Today's file for a machine; empty if there is none yet.
    pub(super) fn of_today(folder: &Path, machine: &Value) -> Result<Self, String> {
        std::fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", relative(folder)))?;
        let date = capture(Command::new("date").arg("+%F"))?.trim().to_owned();
        let words = [&machine["cpu"], &machine["kernels"]].map(|word| slug(word.as_str().unwrap_or_default()));
        let path = folder.join(format!("{date}-{}.json", words.join("-")));
        if path.exists() {
            return Self::read(path);
        }
        let rustc = capture(Command::new("rustc").arg("--version"))?.trim().to_owned();
        let value = json!({ "date": date, "machine": machine, "rustc": rustc, "entries": [] });
        Ok(Self { path, value })
    }

    /// The file with the latest date.
    pub(super) fn newest(folder: &Path) -> Result<(PathBuf, Self), String> {
        let files = crate::commands::files(folder, "json");
        let path = files.into_iter().max().ok_or_else(|| format!("{} holds no results", relative(folder)))?;
        Ok((path.clone(), Self::read(path)?))
    }

    fn read(path: PathBuf) -> Result<Self, String> {
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", relative(&path)))?;
        let value = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", relative(&path)))?;
        Ok(Self { path, value })
    }

    /// Adds a measurement in place of an earlier one of the same thing.
    pub(super) fn keep(&mut self, entry: Value) {
        let same = |other: &Value| ["kind", "network", "threads", "aead"].iter().all(|key| other[key] == entry[key]);
        if let Some(entries) = self.value["entries"].as_array_mut() {
            entries.retain(|other| !same(other));
            entries.push(entry);
        }
    }

    /// Writes the file.
    pub(super) fn save(&self) -> Result<(), String> {
        let text = format!("{:#}\n", self.value);
        std::fs::write(&self.path, text).map_err(|e| format!("{}: {e}", relative(&self.path)))
    }

    /// A text at the top: `date` or `rustc`.
    pub(super) fn text(&self, key: &str) -> &str {
        self.value[key].as_str().unwrap_or("unknown")
    }

    /// The measurement of one thing.
    pub(super) fn entry(&self, kind: &str, network: &str, threads: u64, aead: &str) -> Option<Entry<'_>> {
        let entries = self.value["entries"].as_array()?;
        let found = entries.iter().find(|entry| {
            entry["kind"] == kind && entry["network"] == network && entry["threads"] == threads && entry["aead"] == aead
        });
        found.map(Entry)
    }

    /// Every pair of threads and AEAD that some measurement of this kind has, fewest threads first.
    pub(super) fn settings(&self, kind: &str) -> Vec<(u64, String)> {
        let entries = self.value["entries"].as_array().into_iter().flatten().filter(|entry| entry["kind"] == kind);
        let mut found: Vec<(u64, String)> = entries
            .filter_map(|entry| Some((entry["threads"].as_u64()?, entry["aead"].as_str()?.to_owned())))
            .collect();
        found.sort_by(|a, b| (a.0, b.1.as_str()).cmp(&(b.0, a.1.as_str())));
        found.dedup();
        found
    }
}

impl<'a> Entry<'a> {
    /// The variant of a name.
    pub(super) fn variant(self, name: &str) -> Option<Variant<'a>> {
        self.variants().find(|variant| variant.name() == name)
    }

    /// All variants, in the order they took turns.
    pub(super) fn variants(self) -> impl Iterator<Item = Variant<'a>> {
        self.0["variants"].as_array().into_iter().flatten().map(Variant)
    }

    /// A number of the summary, for example `["machine", "peak_gflops"]`.
    pub(super) fn summary(self, path: &[&str]) -> Option<f64> {
        path.iter().fold(&self.0["summary"], |value, key| &value[key]).as_f64()
    }

    /// A text of the summary.
    pub(super) fn summary_text(self, path: &[&str]) -> &'a str {
        path.iter().fold(&self.0["summary"], |value, key| &value[key]).as_str().unwrap_or("unknown")
    }

    /// A text of the entry: `command` or `commit`.
    pub(super) fn text(self, key: &str) -> &'a str {
        self.0[key].as_str().unwrap_or("unknown")
    }
}

impl<'a> Variant<'a> {
    /// Its name.
    pub(super) fn name(self) -> &'a str {
        self.0["variant"].as_str().unwrap_or_default()
    }

    /// A number of it; `None` where it failed.
    pub(super) fn number(self, key: &str) -> Option<f64> {
        self.0[key].as_f64()
    }

    /// Two numbers of it.
    pub(super) fn pair(self, key: &str) -> Option<(f64, f64)> {
        Some((self.0[key][0].as_f64()?, self.0[key][1].as_f64()?))
    }

    /// Why it failed.
    pub(super) fn error(self) -> Option<&'a str> {
        self.0["error"].as_str()
    }
}

/// Lower-case letters and digits, joined by hyphens.
fn slug(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let words = lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-")
}

/// Results made up for tests of tables and plots.
#[cfg(test)]
pub(super) fn example() -> Results {
    let variant = |name: &str, ratio: f64| {
        json!({
            "variant": name, "ratio": ratio, "ratio_quartiles": [ratio - 0.1, ratio + 0.1], "median_ms": 10.0 * ratio,
            "cpu_ratio": ratio, "repeat": 9, "secure_memory_measured": 8 << 20, "slowdown": ratio,
            "slowdown_quartiles": [ratio, ratio], "slowdown_bound": ratio + 0.25,
        })
    };
    let entry = |kind: &str, network: &str, variants: Vec<Value>| {
        json!({
            "kind": kind, "network": network, "threads": 1, "aead": "rust", "command": "cargo xtask bench",
            "commit": "abc", "variants": variants,
            "summary": {
                "machine": { "cpu": "A <CPU>", "kernels": "avx2", "peak_gflops": 100.0, "read_gbytes_per_s": 10.0 },
                "model": { "flops": 1_000_000_000u64, "weight_bytes": 1000, "floor_ms": 10.0 },
                "crossing_us": 9.0, "crossing_us_per_mib": 100.0, "others_share": 0.01,
            },
        })
    };
    let speed =
        vec![variant("plain", 1.0), variant("all-secure", 1.2), variant("classifier", 1.01), variant("ternary", 1.1)];
    let mut failed = json!({ "variant": "all-secure in 10.0 MiB" });
    failed["error"] = "error: it needs 12582912 bytes of secure memory, 10485760 are allowed".into();
    let memory =
        vec![variant("plain", 1.0), variant("all-secure", 1.0), failed, variant("all-secure in 16.0 MiB", 1.5)];
    let entries = [entry("speed", "resnet50", speed), entry("memory", "tiny_darknet", memory)];
    Results { path: PathBuf::new(), value: json!({ "date": "2026-11-21", "rustc": "rustc 1", "entries": entries }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_thing_measured_again_replaces_the_old_figures() {
        let mut results = example();
        let mut again = results.value["entries"][0].clone();
        again["variants"] = json!([]);
        results.keep(again);
        assert_eq!(results.value["entries"].as_array().map(Vec::len), Some(2));
        assert_eq!(results.entry("speed", "resnet50", 1, "rust").map(|entry| entry.variants().count()), Some(0));
        assert_eq!(results.settings("speed"), [(1, "rust".to_owned())]);
    }

    #[test]
    fn machines_become_file_names() {
        assert_eq!(slug("Intel(R) Xeon(R) @ 2.10GHz"), "intel-r-xeon-r-2-10ghz");
    }
}
