//! ONNX's official node tests on the trusted engine and, for information, on the executors.
//!
//! They run where `cargo xtask conformance` has fetched them, which `cargo xtask check` does first.

use std::collections::BTreeMap;

use cordon_conformance::cases::{self, Case};
use cordon_conformance::nodes::{self, Bound};
use cordon_conformance::{engines, node_tests, skips};

/// Operators that the trusted engine promises, each with at least one official test passed.
const PROMISED: [&str; 78] = [
    "Abs",
    "Add",
    "And",
    "ArgMax",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "Clip",
    "Concat",
    "Conv",
    "ConvTranspose",
    "DepthToSpace",
    "DequantizeLinear",
    "Div",
    "Dropout",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "Expand",
    "Flatten",
    "Floor",
    "Gather",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Greater",
    "GroupNormalization",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "InstanceNormalization",
    "LRN",
    "LayerNormalization",
    "LeakyRelu",
    "Less",
    "Log",
    "LogSoftmax",
    "MatMul",
    "Max",
    "MaxPool",
    "Mean",
    "Min",
    "Mish",
    "Mod",
    "Mul",
    "Neg",
    "Not",
    "Or",
    "PRelu",
    "Pad",
    "Pow",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
    "Reciprocal",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceSum",
    "Relu",
    "Reshape",
    "Resize",
    "Sigmoid",
    "Slice",
    "Softmax",
    "Softplus",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Sum",
    "Tanh",
    "Tile",
    "Transpose",
    "Unsqueeze",
    "Where",
];

/// The share of tests that must pass, in percent.
const REQUIRED: usize = 95;

fn material() -> Option<Vec<Case>> {
    let folder = node_tests();
    if folder.is_none() {
        println!("not run: the node tests are not cached; `cargo xtask conformance` fetches them");
    }
    folder.map(|folder| cases::all(&folder).expect("the official models decode"))
}

#[test]
fn the_trusted_engine_passes_the_official_node_tests() {
    let Some(cases) = material() else { return };
    let skipped = skips::listed();
    let mut by_operator: BTreeMap<String, (usize, usize, usize)> = BTreeMap::new();
    let mut bound: BTreeMap<Bound, usize> = BTreeMap::new();
    let mut failures = Vec::new();
    for case in cases.iter().filter(|case| nodes::in_table(case)) {
        let operator = case.only_node().map_or("(several)", |node| node.op_type()).to_owned();
        let (passed, failed, left) = by_operator.entry(operator).or_default();
        if skipped.contains_key(case.name.as_str()) {
            *left += 1;
            continue;
        }
        match nodes::run(case) {
            Ok(how) => {
                *passed += 1;
                *bound.entry(how).or_default() += 1;
            }
            Err(why) => {
                *failed += 1;
                failures.push((case.name.as_str(), why));
            }
        }
    }

    println!("{:24} {:>6} {:>6} {:>7}", "operator", "passed", "failed", "skipped");
    for (operator, (passed, failed, left)) in &by_operator {
        println!("{operator:24} {passed:6} {failed:6} {left:7}");
    }
    let passed: usize = by_operator.values().map(|(passed, _, _)| passed).sum();
    let run = passed + failures.len();
    let operators = by_operator.values().filter(|(passed, _, _)| *passed > 0).count();
    println!(
        "node tests: {passed} of {run} passed, {operators} operators, {} skipped; inputs made constant: {bound:?}",
        skipped.len()
    );
    failures.iter().for_each(|(name, why)| println!("FAILED {name}: {why}"));

    assert!(passed * 100 >= run * REQUIRED, "{passed} of {run} node tests pass; {REQUIRED} % are required");
    for operator in PROMISED {
        let (passed, failed, left) = by_operator.get(operator).copied().unwrap_or_default();
        // Equal has official tests in other element types only.
        assert!(passed > 0 || failed == 0 && left > 0, "no official test of {operator} passes");
    }
    let known = skips::known_failures();
    for (name, why) in &failures {
        assert!(known.contains_key(name), "{name} fails and is not in failures.txt: {why}");
    }
    for name in known.keys() {
        assert!(failures.iter().any(|(failed, _)| failed == name), "{name} does not fail: take it off failures.txt");
    }
}

#[test]
fn every_skip_is_named_and_has_one_of_the_four_reasons() {
    let Some(cases) = material() else { return };
    let derived = skips::derived(&cases);
    let derived: BTreeMap<_, _> = derived.lines().filter_map(|line| line.split_once(' ')).collect();
    let listed = skips::listed();
    for (name, reason) in &listed {
        assert_eq!(derived.get(name), Some(reason), "{name} is listed as {reason}");
    }
    for name in derived.keys().filter(|name| name.starts_with("test_")) {
        assert!(listed.contains_key(name), "{name} is not in skips.txt");
    }
}

#[test]
fn executors_are_measured_on_the_same_tests() {
    let Some(cases) = material() else { return };
    for name in ["rten", "onnxruntime:cpu"] {
        let options = cordon_executor::Options { threads: Some(1), ..Default::default() };
        let executor = match cordon_executor::open(name, &options) {
            Ok(executor) => executor,
            Err(why) => {
                println!("{name} not run: {why}");
                continue;
            }
        };
        let (mut all, mut table, mut table_run) = (0, 0, 0);
        for case in &cases {
            let passed = engines::run(&*executor, case).is_ok();
            all += usize::from(passed);
            if nodes::in_table(case) && case.out_of_scope().is_none() {
                table_run += 1;
                table += usize::from(passed);
            }
        }
        println!(
            "{name}: {all} of {} node tests pass; {table} of {table_run} that the trusted engine runs",
            cases.len()
        );
        assert!(table * 100 >= table_run * 80, "{name} fails on {} of {table_run}", table_run - table);
    }
}
