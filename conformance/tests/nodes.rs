//! ONNX's official node tests on every engine, and one test of each operator in an enclave.
//!
//! They run where `cargo xtask conformance` has fetched them, which `cargo xtask check` does first.

use std::collections::BTreeMap;

use cordon_conformance::cases::{self, Case};
use cordon_conformance::expectations::Expectations;
use cordon_conformance::place::Enclave;
use cordon_conformance::suite::{Engine as _, Scope, Sweep, sweep};
use cordon_conformance::trusted::Trusted;
use cordon_conformance::{engine, node_tests};
use cordon_runtime::backend::DEFAULT;

fn material() -> Option<Vec<Case>> {
    let folder = node_tests();
    if folder.is_none() {
        println!("not run: the node tests are not cached; `cargo xtask conformance` fetches them");
    }
    folder.map(|folder| cases::all(&folder).expect("the official models decode"))
}

/// Sweeps an engine and holds it to its file.
fn held_to_its_file(name: &str) -> Option<Sweep> {
    let cases = material()?;
    let engine = match engine(name) {
        Ok(engine) => engine,
        Err(why) => {
            println!("{name} not run: {why}");
            return None;
        }
    };
    let expected = Expectations::of(name).expect("the file reads");
    let found = sweep(&*engine, &cases, &expected);
    println!("{}", found.summary(name));
    found.failed.iter().for_each(|(name, why)| println!("FAILED {name}: {why}"));
    let surprises = found.surprises(&expected);
    assert!(surprises.is_empty(), "{name}:\n{}", surprises.join("\n"));
    Some(found)
}

#[test]
fn the_trusted_engine_does_what_its_file_says_and_what_is_promised() {
    let Some(found) = held_to_its_file("trusted") else { return };
    println!("{:24} {:>6} {:>6} {:>7}", "operator", "passed", "failed", "skipped");
    for (operator, [passed, failed, skipped]) in &found.operators {
        println!("{operator:24} {passed:6} {failed:6} {skipped:7}");
    }
    for operator in &Expectations::of("trusted").expect("the file reads").promised {
        let [passed, failed, skipped] = found.operators.get(operator).copied().unwrap_or_default();
        // Equal has official tests in other element types only.
        assert!(passed > 0 || failed == 0 && skipped > 0, "no official test of {operator} passes");
    }
}

#[test]
fn the_embedded_executor_does_what_its_file_says() {
    held_to_its_file("rten");
}

#[test]
fn onnx_runtime_does_what_its_file_says() {
    held_to_its_file("onnxruntime");
}

/// The whole way of a package for one test of each operator, the first of its tests that passes in this process.
#[test]
fn every_operator_runs_sealed_in_an_enclave() {
    let Some(cases) = material() else { return };
    let expected = Expectations::of("trusted").expect("the file reads");
    let enclave =
        Trusted(Enclave::open(DEFAULT, "rten", cordon_executor::Options::default()).expect("an enclave starts"));
    let mut chosen: BTreeMap<&str, &Case> = BTreeMap::new();
    for case in cases.iter().filter(|case| !expected.failing.contains_key(&case.name)) {
        if let (Scope::Run, Some(node)) = (enclave.scope(case), case.only_node()) {
            chosen.entry(node.op_type()).or_insert(case);
        }
    }
    assert!(chosen.len() > 70, "{} operators", chosen.len());
    let wrong: Vec<String> = chosen
        .values()
        .filter_map(|case| Some(format!("{}: {}", case.name, enclave.run(case, &expected).err()?)))
        .collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), chosen.len(), wrong.join("\n"));
}
