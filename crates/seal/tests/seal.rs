//! Sealing small graphs: what is refused, what the golden check notices, what a finished file is.

use cordon_executor::Options;
use cordon_graph::{ElemType, Graph, Node, Tensor, TensorType, Value, ValueId};
use cordon_package::{OutputPolicy, OwnerKey, PackageError};
use cordon_plan::{Bound, Constraints, Model, Plan, Protect, make};
use cordon_seal::{Contents, Identity, Probe, SealError, golden, seal, seeded, write};
use std::collections::BTreeMap;
use std::path::Path;

const X: u32 = 0;
const W1: u32 = 1;
const W2: u32 = 2;
const W3: u32 = 3;

fn owner() -> OwnerKey {
    OwnerKey::generate(&mut |out: &mut [u8]| {
        out.fill(7);
        Ok::<(), PackageError>(())
    })
    .expect("bytes are there")
}

fn identity(owner: &OwnerKey, policy: OutputPolicy) -> Identity<'_> {
    Identity { owner, recipients: &[], name: "test", version: 1, not_after: None, max_requests: None, policy }
}

fn weight(name: &str, seed: f32) -> Value {
    let values: Vec<f32> = (0..16).map(|i| ((i as f32 + 1.0) * seed).sin()).collect();
    let tensor = Tensor::from_f32(&[4, 4], &values);
    Value { ty: Some(tensor.ty()), constant: Some(tensor), ..Value::new(name) }
}

/// `tanh(tanh(x · a) · b) · c`, with a weight chosen for each product.
fn chain(a: u32, b: u32, c: u32) -> Graph {
    let ty = TensorType::new(ElemType::Float, vec![1, 4]);
    let mut values = vec![Value { ty: Some(ty), ..Value::new("x") }];
    values.extend([weight("w1", 0.7), weight("w2", 1.3), weight("w3", 2.1)]);
    values.extend(["p", "q", "r", "s", "y"].map(Value::new));
    let node = |name: &str, op: &str, inputs: &[u32], output: u32| Node {
        name: name.into(),
        op_type: op.into(),
        domain: String::new(),
        inputs: inputs.iter().map(|&id| Some(ValueId(id))).collect(),
        captures: Vec::new(),
        outputs: vec![Some(ValueId(output))],
        attributes: BTreeMap::new(),
    };
    Graph {
        ir_version: 8,
        opsets: BTreeMap::from([(String::new(), 17)]),
        values,
        nodes: vec![
            node("one", "MatMul", &[X, a], 4),
            node("tanh1", "Tanh", &[4], 5),
            node("two", "MatMul", &[5, b], 6),
            node("tanh2", "Tanh", &[6], 7),
            node("three", "MatMul", &[7, c], 8),
        ],
        inputs: vec![ValueId(X)],
        outputs: vec![ValueId(8)],
    }
}

/// FrontNet: the first product; BackNet: the last.
fn planned(graph: Graph) -> (Model, Plan) {
    let model = Model::new(graph, "chain.onnx", "00").expect("typed");
    let cut = |index| Some(Bound::Cut(index));
    let constraints = Constraints { front: cut(2), back: cut(4), ..Constraints::new(Protect::Both) };
    let plan = make(&model, &constraints).expect("supported");
    (model, plan)
}

fn seal_into(dir: &Path, graph: Graph, policy: OutputPolicy) -> Result<cordon_seal::Sealed, SealError> {
    let (model, plan) = planned(graph);
    let probes = seeded(&model, 3)?;
    let owner = owner();
    seal(
        &model,
        &plan,
        &identity(&owner, policy),
        ("rten", &Options::default()),
        &probes,
        &dir.join("out.cordon"),
        &mut |_| {},
    )
}

fn left_behind(dir: &Path) -> usize {
    std::fs::read_dir(dir).expect("readable").count()
}

#[test]
fn a_finished_package_was_compared_at_every_crossing() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for policy in [OutputPolicy::Full, OutputPolicy::Label] {
        let sealed = seal_into(dir.path(), chain(W1, W2, W3), policy).expect("sound");
        let names: Vec<(&str, bool)> =
            sealed.golden.compared.iter().map(|compared| (compared.value.as_str(), compared.output)).collect();
        for value in [("q", false), ("y", true)] {
            assert_eq!(names.iter().filter(|name| **name == value).count(), 3, "{value:?} under {policy}: {names:?}");
        }
        assert_eq!(sealed.golden.twin, policy == OutputPolicy::Label);
        assert!(sealed.golden.secure_memory > 0);
        assert_eq!(left_behind(dir.path()), 1);
    }
}

#[test]
fn a_weight_that_would_be_secret_and_public_is_named() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    match seal_into(dir.path(), chain(W1, W1, W3), OutputPolicy::Full) {
        Err(SealError::Exposed { initializer, secure, normal }) => {
            assert_eq!((initializer.as_str(), secure.as_str(), normal.as_str()), ("w1", "one", "two"));
        }
        other => panic!("{:?}", other.map(|sealed| sealed.bytes)),
    }
    assert_eq!(left_behind(dir.path()), 0);
    // Two secure segments may share.
    seal_into(dir.path(), chain(W1, W2, W1), OutputPolicy::Full).expect("both uses are inside");
}

#[test]
fn a_fold_of_a_secret_is_as_secret() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut graph = chain(W1, W2, W3);
    // What folding leaves when the middle used a function of w1.
    graph.values[W2 as usize].computed_from = Some(vec![ValueId(W1)]);
    match seal_into(dir.path(), graph, OutputPolicy::Full) {
        Err(SealError::Exposed { initializer, normal, .. }) => {
            assert_eq!((initializer.as_str(), normal.as_str()), ("w1", "two"));
        }
        other => panic!("{:?}", other.map(|sealed| sealed.bytes)),
    }
}

#[test]
fn the_golden_check_notices_other_weights() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (model, plan) = planned(chain(W1, W2, W3));
    let contents = Contents::new(&model, &plan).expect("sound");
    let owner = owner();
    let path = dir.path().join("out.cordon");
    let mut file = std::fs::File::create_new(&path).expect("writable");
    write(&contents, &identity(&owner, OutputPolicy::Full), &mut file).expect("writable");
    let check = |reference: &Model| {
        let probes = seeded(reference, 2).expect("floats");
        let identity = identity(&owner, OutputPolicy::Full);
        golden(reference, &plan, &contents, &identity, &path, ("rten", &Options::default()), &probes, &mut |_| {})
    };
    check(&model).expect("equal");
    // The BackNet's weight differs in one element: the crossing before it is right, the output is not.
    let mut other = model.clone();
    let mut values = other.graph.values[W3 as usize].constant.clone().expect("a weight").to_f32().expect("float");
    values[5] += 0.5;
    other.graph.values[W3 as usize].constant = Some(Tensor::from_f32(&[4, 4], &values));
    let error = check(&other).expect_err("different").to_string();
    assert!(error.contains("`y`") && error.contains("differs"), "{error}");
}

#[test]
fn a_model_that_ignores_its_input_is_not_waved_through() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut graph = chain(W1, W2, W3);
    graph.values[W3 as usize].constant = Some(Tensor::from_f32(&[4, 4], &[0.0; 16]));
    let error = seal_into(dir.path(), graph, OutputPolicy::Full).expect_err("all outputs are zero").to_string();
    assert!(error.contains("same output"), "{error}");
    assert_eq!(left_behind(dir.path()), 0);
}

#[test]
fn probes_must_be_there_and_differ() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (model, plan) = planned(chain(W1, W2, W3));
    let owner = owner();
    let attempt = |probes: &[Probe]| {
        let identity = identity(&owner, OutputPolicy::Full);
        let path = dir.path().join("out.cordon");
        seal(&model, &plan, &identity, ("rten", &Options::default()), probes, &path, &mut |_| {})
            .expect_err("refused")
            .to_string()
    };
    assert!(attempt(&[]).contains("at least one probe"));
    let one = seeded(&model, 1).expect("floats").remove(0);
    assert!(attempt(&[one.clone(), Probe { label: "again".into(), ..one }]).contains("same input"));
    assert_eq!(left_behind(dir.path()), 0);
}
