//! `skips.txt`: every node test the trusted engine does not run; `failures.txt`: those it runs and fails. By name, with
//! the reason.

use std::collections::BTreeMap;

use crate::cases::Case;

const SKIPS: &str = include_str!("../skips.txt");
const FAILURES: &str = include_str!("../failures.txt");

const HEADING: &str = "\
# Official ONNX node tests of operators in the table that the trusted engine does not run: NAME REASON.
# dtype: a tensor that is neither float, int64 nor bool, nor 8-bit at an operator that quantises. training: training behaviour.
# sequence: a sequence or optional.
# cubic-antialias: Resize by cubic interpolation or with antialiasing. Written by `cargo run -p cordon-conformance --bin skips`.
";

/// The skipped tests as checked in.
pub fn listed() -> BTreeMap<&'static str, &'static str> {
    entries(SKIPS)
}

/// The failing tests as checked in.
pub fn known_failures() -> BTreeMap<&'static str, &'static str> {
    entries(FAILURES)
}

fn entries(list: &'static str) -> BTreeMap<&'static str, &'static str> {
    list.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(' ')).collect()
}

/// The list as the models call for it: the file's content.
pub fn derived(cases: &[Case]) -> String {
    let lines = cases
        .iter()
        .filter(|case| crate::nodes::in_table(case))
        .filter_map(|case| Some(format!("{} {}\n", case.name, case.out_of_scope()?.word())));
    HEADING.to_owned() + &lines.collect::<String>()
}
