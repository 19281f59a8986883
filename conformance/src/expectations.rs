//! What each engine is expected to do, as data: `engines/NAME.toml`. A backend runs the trusted engine and is held to what
//! that is held to.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The expectations of one engine.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectations {
    /// A value of a node test may differ by [`Expectations::absolute`] and this times its expected magnitude.
    pub relative: f64,
    /// See [`Expectations::relative`].
    pub absolute: f64,
    /// Share of the node tests run that must pass, in percent.
    pub required: usize,
    /// Whether a listed test that passes is an error: not where other processors may round otherwise.
    #[serde(default)]
    pub exact: bool,
    /// Operators each of which passes at least one test.
    #[serde(default)]
    pub promised: Vec<String>,
    /// How far a whole network may be from the reference.
    pub networks: Networks,
    /// Node tests that are not run, with one of the reasons of [`crate::cases::Reason`].
    #[serde(default)]
    pub skipped: BTreeMap<String, String>,
    /// Node tests that are run and do not pass, with the reason.
    pub failing: BTreeMap<String, String>,
}

/// How far a whole network may be from ONNX Runtime.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Networks {
    /// Relative to the largest magnitude of the output.
    pub difference: f64,
    /// In steps of the output, for a network quantised to 8 bits.
    #[serde(default)]
    pub steps: f64,
    /// The same with the middle on ONNX Runtime.
    #[serde(default)]
    pub steps_ternary: f64,
}

/// The engines with expectations, and the file of each.
const FILES: [(&str, &str); 3] = [
    ("trusted", include_str!("../engines/trusted.toml")),
    ("rten", include_str!("../engines/rten.toml")),
    ("onnxruntime", include_str!("../engines/onnxruntime.toml")),
];

impl Expectations {
    /// The names of all engines.
    pub fn engines() -> impl Iterator<Item = &'static str> {
        FILES.iter().map(|(name, _)| *name)
    }

    /// Of an engine.
    pub fn of(engine: &str) -> Result<Self, String> {
        let file =
            FILES.iter().find(|(name, _)| *name == engine).ok_or_else(|| format!("no file engines/{engine}.toml"))?;
        toml::from_str(file.1).map_err(|error| format!("engines/{engine}.toml: {error}"))
    }
}

/// An engine's file with other lists of tests: what stands before the lists stays.
pub fn rewritten(engine: &str, skipped: &BTreeMap<String, String>, failing: &BTreeMap<String, String>) -> String {
    let file = FILES.iter().find(|(name, _)| *name == engine).map_or("", |(_, file)| *file);
    let head = file.lines().take_while(|line| !matches!(*line, "[skipped]" | "[failing]"));
    let mut text: String = head.map(|line| format!("{line}\n")).collect();
    let mut list = |name: &str, tests: &BTreeMap<String, String>| {
        text += &format!("[{name}]\n");
        tests.iter().for_each(|(test, why)| text += &format!("{test} = {why:?}\n"));
    };
    if !skipped.is_empty() {
        list("skipped", skipped);
    }
    list("failing", failing);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_reads_and_is_rewritten_as_it_is() {
        for (engine, file) in FILES {
            let expected = Expectations::of(engine).expect("reads");
            assert_eq!(rewritten(engine, &expected.skipped, &expected.failing), file, "{engine}");
            let both = expected.skipped.keys().find(|name| expected.failing.contains_key(*name));
            assert_eq!(both, None, "{engine}: skipped and failing");
        }
    }
}
