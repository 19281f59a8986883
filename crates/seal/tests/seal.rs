//! Sealing small graphs: what is refused, what the golden check notices, what a finished file is.

use cordon_executor::Options;
use cordon_graph::{ElemType, Graph, Node, Tensor, TensorType, Value, ValueId};
use cordon_package::{OutputPolicy, OwnerKey, PackageError, SectionKind};
use cordon_plan::{Bound, Constraints, Cuts, Domain, Model, Plan, PlanError, Protect, Stretch, WeightFormat};
use cordon_runtime::{Backend, Deployment, Device, backend};
use cordon_seal::{Contents, Identity, Probe, SealError, golden, seal, seeded, write};
use std::collections::BTreeMap;
use std::path::Path;

const X: u32 = 0;
const W1: u32 = 1;
const W2: u32 = 2;
const W3: u32 = 3;

fn backend() -> std::sync::Arc<dyn Backend> {
    backend::open(backend::DEFAULT).expect("known")
}

fn make(model: &Model, constraints: &Constraints) -> Result<Plan, PlanError> {
    cordon_plan::make(model, constraints, backend().profile())
}

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
    let tensor = Tensor::from_f32([4, 4], &values).expect("fits");
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
    let cuts = Cuts::Ends { front: cut(2), back: cut(4) };
    let constraints = Constraints { cuts, ..Constraints::new(Protect::Both) };
    let plan = make(&model, &constraints).expect("supported");
    (model, plan)
}

/// Four products with tanh between them; the third's input has the first product added, the fourth's its tanh.
fn skipping() -> Graph {
    let mut graph = chain(W1, W2, W3);
    graph.values.push(weight("w4", 2.9));
    graph.values.extend(["t", "u", "v", "z"].map(Value::new));
    let (tanh, product) = (graph.nodes[1].clone(), graph.nodes[0].clone());
    let node = |like: &Node, name: &str, inputs: [u32; 2], output: u32| Node {
        name: name.into(),
        inputs: inputs.iter().take(like.inputs.len()).map(|&id| Some(ValueId(id))).collect(),
        outputs: vec![Some(ValueId(output))],
        ..like.clone()
    };
    let add = Node { op_type: "Add".into(), ..product.clone() };
    // x w1 w2 w3 p q r s y w4 t u v z: 0 to 13.
    graph.nodes.truncate(4);
    graph.nodes.extend([
        node(&add, "skip1", [7, 4], 10),
        node(&product, "three", [10, W3], 11),
        node(&tanh, "tanh3", [11, 0], 12),
        node(&add, "skip2", [12, 5], 13),
        node(&product, "four", [13, 9], 8),
    ]);
    graph
}

/// FrontNet, one product inside, BackNet: three secure stretches, of which the second is in `domain`.
fn planned_in_three(domain: u16) -> (Model, Plan) {
    let model = Model::new(skipping(), "skipping.onnx", "00").expect("typed");
    let inside = |from, to, domain| Stretch { from: Bound::Cut(from), to: Bound::Cut(to), domain: Domain(domain) };
    let cuts = Cuts::Stretches(vec![inside(0, 2, 0), inside(4, 6, domain), inside(7, 9, 0)]);
    let plan = make(&model, &Constraints { cuts, ..Constraints::new(Protect::Weights) }).expect("supported");
    (model, Plan::from_toml(&plan.to_toml().expect("writes")).expect("reads back"))
}

#[test]
fn three_secure_stretches_run_in_the_enclave_as_the_plain_model_does() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (model, plan) = planned_in_three(0);
    let roles: Vec<String> = plan.segments.iter().map(|segment| segment.role.to_string()).collect();
    assert_eq!(roles, ["FrontNet", "middle", "inner", "middle", "BackNet"]);
    assert_eq!(plan.segments[0].retained_out, ["p", "q"]);
    assert_eq!((&plan.segments[2].retained_in, &plan.segments[4].retained_in), (&vec!["p".into()], &vec!["q".into()]));
    let (owner, path) = (owner(), dir.path().join("out.cordon"));
    let (executor, probes) = (("rten", &Options::default()), seeded(&model, 3).expect("floats"));
    let identity = identity(&owner, OutputPolicy::Full);
    // Sealing compares every crossing and output of the package in an enclave with the plain model.
    let sealed = seal(&model, &plan, &backend(), &identity, executor, &probes, &path, &mut |_| {}).expect("equal");
    for value in ["q", "u", "y"] {
        assert_eq!(sealed.golden.compared.iter().filter(|compared| compared.value == value).count(), 3, "{value}");
    }
    assert!(sealed.golden.compared.iter().all(|compared| compared.value != "p"), "what is retained does not cross");
}

#[test]
fn a_second_enclave_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (model, plan) = planned_in_three(1);
    assert!(plan.segments[0].retained_out == ["q"], "the second enclave does not find `p` inside");
    let (owner, path) = (owner(), dir.path().join("out.cordon"));
    let (executor, probes) = (("rten", &Options::default()), seeded(&model, 2).expect("floats"));
    let identity = identity(&owner, OutputPolicy::Full);
    let error = seal(&model, &plan, &backend(), &identity, executor, &probes, &path, &mut |_| {})
        .expect_err("one enclave runs");
    assert!(error.to_string().contains("more than one enclave is not supported"), "{error}");
    assert_eq!(left_behind(dir.path()), 0);
}

/// `tanh(quantised(x · w1) · w2) · w3`.
fn quantised() -> Graph {
    let mut graph = chain(W1, W2, W3);
    let constant =
        |name: &str, tensor: Tensor| Value { ty: Some(tensor.ty()), constant: Some(tensor), ..Value::new(name) };
    graph.values.push(constant("scale", Tensor::from_f32([], &[0.03]).expect("a scalar")));
    let zero = Tensor::new(ElemType::Uint8, [], vec![130]).expect("one byte");
    graph.values.push(constant("zero", zero));
    graph.values.push(Value::new("bytes"));
    let (scale, zero, bytes) = (ValueId(9), ValueId(10), ValueId(11));
    // The value `q` is now dequantised instead of a tanh; p → bytes → q.
    let node = |name: &str, op: &str, input: ValueId, output: ValueId| Node {
        name: name.into(),
        op_type: op.into(),
        inputs: vec![Some(input), Some(scale), Some(zero)],
        outputs: vec![Some(output)],
        ..graph.nodes[1].clone()
    };
    let pair = [
        node("quantize", "QuantizeLinear", ValueId(4), bytes),
        node("dequantize", "DequantizeLinear", bytes, ValueId(5)),
    ];
    graph.nodes.splice(1..2, pair);
    graph
}

#[test]
fn a_quantised_model_is_compared_in_steps_and_may_be_cut_at_a_byte() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let sealed = seal_into(dir.path(), quantised(), OutputPolicy::Full).expect("a byte may cross");
    let steps = |name: &str| {
        let mut of = sealed.golden.compared.iter().filter(|compared| compared.value == name);
        of.next().unwrap_or_else(|| panic!("{name} is compared")).steps
    };
    assert!(steps("bytes").is_some() && steps("y").is_some(), "{:?}", sealed.golden.compared);
    assert_eq!(sealed.golden.tolerance, cordon_seal::TOLERANCE);

    // A weight that changes results by more than steps is noticed as ever.
    let (model, plan) = planned(quantised());
    let contents = Contents::new(&model, &plan, backend().profile()).expect("sound");
    let owner = owner();
    let path = dir.path().join("other.cordon");
    let mut file = std::fs::File::create_new(&path).expect("writable");
    write(&contents, &identity(&owner, OutputPolicy::Full), &mut file).expect("writable");
    let mut other = model.clone();
    let mut values = other.graph.values[W1 as usize].constant.clone().expect("a weight").to_f32().expect("float");
    values.iter_mut().for_each(|value| *value += 0.5);
    other.graph.values[W1 as usize].constant = Tensor::from_f32([4, 4], &values).ok();
    let probes = seeded(&other, 2).expect("floats");
    let identity = identity(&owner, OutputPolicy::Full);
    let executor = ("rten", &Options::default());
    let error = golden(&other, &plan, &contents, &backend(), &identity, &path, executor, &probes, &mut |_| {});
    let error = error.expect_err("different").to_string();
    assert!(error.contains("`r`") && error.contains("and 48 steps, 2 in the mean, is allowed"), "{error}");
}

fn seal_into(dir: &Path, graph: Graph, policy: OutputPolicy) -> Result<cordon_seal::Sealed, SealError> {
    let (model, plan) = planned(graph);
    let probes = seeded(&model, 3)?;
    let owner = owner();
    seal(
        &model,
        &plan,
        &backend(),
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
fn one_number_repeated_may_lie_on_both_sides_and_the_plan_says_so() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut graph = chain(W1, W1, W3);
    graph.values[W1 as usize].constant = Tensor::from_f32([4, 4], &[0.25; 16]).ok();
    let (_, plan) = planned(graph.clone());
    assert!(plan.words.contains("1 constant(s) (`w1`) that are one number repeated"), "{}", plan.words);
    assert!(plan.public_words.contains("one number repeated") && !plan.public_words.contains("`w1`"));
    seal_into(dir.path(), graph, OutputPolicy::Full).expect("no secret is published");
    let (_, plan) = planned(chain(W1, W2, W3));
    assert!(!plan.words.contains("repeated"), "{}", plan.words);
}

/// A plan with everything inside and f16 weights, or the reason there is none.
fn planned_f16(graph: Graph) -> Result<(Model, Plan), PlanError> {
    let model = Model::new(graph, "chain.onnx", "00").expect("typed");
    let constraints = Constraints { weights: WeightFormat::F16, ..Constraints::new(Protect::All) };
    let plan = make(&model, &constraints)?;
    // As it is read back by `cordon seal`.
    let plan = Plan::from_toml(&plan.to_toml().expect("writes"))?;
    Ok((model, plan))
}

/// To 11 bits, ties to even: f16 for numbers of these sizes.
fn rounded(graph: &Graph) -> Graph {
    let mut graph = graph.clone();
    for value in graph.values.iter_mut() {
        let Some(tensor) = &mut value.constant else { continue };
        let values = tensor.to_f32().expect("float").into_iter().map(|value| {
            assert!(value.abs() > 2f32.powi(-14));
            let bits = value.to_bits();
            f32::from_bits((bits + 0xfff + (bits >> 13 & 1)) & !0x1fff)
        });
        *tensor = Tensor::from_f32(tensor.dims.as_slice(), &values.collect::<Vec<_>>()).expect("fits");
    }
    graph
}

#[test]
fn f16_weights_give_the_bits_of_a_model_rounded_before() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let owner = owner();
    let (_, device) = Device::init(backend(), dir.path().join("device"), &[owner.public()]).expect("a device");
    let graph = chain(W1, W2, W3);
    let answer = |name: &str, model: &Model, plan: &Plan| {
        let path = dir.path().join(name);
        let identity = Identity { recipients: core::slice::from_ref(&device), ..identity(&owner, OutputPolicy::Full) };
        let contents = Contents::new(model, plan, backend().profile()).expect("sound");
        write(&contents, &identity, &mut std::fs::File::create_new(&path).expect("writable")).expect("writable");
        let options = Deployment::options().device(dir.path().join("device"));
        let mut deployment = options.executor("rten", Options::default()).open(&path).expect("opens");
        let stated: Vec<bool> = deployment.manifest().segments.iter().map(|segment| segment.f16_weights).collect();
        let weights = contents.sections().iter().find(|it| it.kind == SectionKind::Weights).map(|it| it.plain_len);
        let probes = seeded(model, 2).expect("floats");
        let answers = probes.iter().map(|probe| {
            let inputs: Vec<_> = probe.inputs.iter().map(|(name, value)| (name.as_str(), value)).collect();
            deployment.run(&inputs).expect("runs").outputs
        });
        (answers.collect::<Vec<_>>(), stated, weights.expect("there are weights"))
    };
    let (model, plan) = planned_f16(graph.clone()).expect("in range");
    assert!(plan.words.contains("stored as f16") && plan.public_words.contains("stored as f16"));
    let half = answer("f16.cordon", &model, &plan);
    let exact = |name, graph| {
        let model = Model::new(graph, "chain.onnx", "00").expect("typed");
        answer(name, &model, &make(&model, &Constraints::new(Protect::All)).expect("supported"))
    };
    let (before, plain) = (exact("before.cordon", rounded(&graph)), exact("plain.cordon", graph));
    assert_eq!(half.0, before.0);
    assert_ne!(half.0, plain.0, "rounding must show");
    assert_eq!((half.1, plain.1), (vec![true], vec![false]), "the manifest says so");
    assert_eq!(half.2 * 2, plain.2);

    let probes = seeded(&model, 3).expect("floats");
    let identity = identity(&owner, OutputPolicy::Label);
    let (executor, out) = (("rten", &Options::default()), dir.path().join("out.cordon"));
    let golden = seal(&model, &plan, &backend(), &identity, executor, &probes, &out, &mut |_| {})
        .expect("within rounding")
        .golden;
    assert_eq!((golden.rounded, golden.same_class), (3, Some((3, 3))));
    assert!((golden.tolerance - 1e-4 - 3.0 / 2048.0).abs() < 1e-9);
    let worst = golden.compared.iter().map(|compared| compared.error).fold(0.0, f64::max);
    assert!(worst > 1e-5 && worst < 2e-3, "{worst}");
}

#[test]
fn a_weight_that_f16_cannot_hold_is_refused_by_name() {
    let mut graph = chain(W1, W2, W3);
    let mut values = graph.values[W2 as usize].constant.as_ref().expect("a weight").to_f32().expect("float");
    values[3] = 1e5;
    graph.values[W2 as usize].constant = Tensor::from_f32([4, 4], &values).ok();
    let error = planned_f16(graph).expect_err("out of range").to_string();
    assert!(error.contains("w2") && error.contains("100000"), "{error}");
}

#[test]
fn the_golden_check_notices_other_weights() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (model, plan) = planned(chain(W1, W2, W3));
    let contents = Contents::new(&model, &plan, backend().profile()).expect("sound");
    let owner = owner();
    let path = dir.path().join("out.cordon");
    let mut file = std::fs::File::create_new(&path).expect("writable");
    write(&contents, &identity(&owner, OutputPolicy::Full), &mut file).expect("writable");
    let check = |reference: &Model| {
        let probes = seeded(reference, 2).expect("floats");
        let identity = identity(&owner, OutputPolicy::Full);
        golden(
            reference,
            &plan,
            &contents,
            &backend(),
            &identity,
            &path,
            ("rten", &Options::default()),
            &probes,
            &mut |_| {},
        )
    };
    check(&model).expect("equal");
    // The BackNet's weight differs in one element: the crossing before it is right, the output is not.
    let mut other = model.clone();
    let mut values = other.graph.values[W3 as usize].constant.clone().expect("a weight").to_f32().expect("float");
    values[5] += 0.5;
    other.graph.values[W3 as usize].constant = Tensor::from_f32([4, 4], &values).ok();
    let error = check(&other).expect_err("different").to_string();
    assert!(error.contains("`y`") && error.contains("differs"), "{error}");
}

#[test]
fn a_model_that_ignores_its_input_is_not_waved_through() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut graph = chain(W1, W2, W3);
    graph.values[W3 as usize].constant = Tensor::from_f32([4, 4], &[0.0; 16]).ok();
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
        seal(&model, &plan, &backend(), &identity, ("rten", &Options::default()), probes, &path, &mut |_| {})
            .expect_err("refused")
            .to_string()
    };
    assert!(attempt(&[]).contains("at least one probe"));
    let one = seeded(&model, 1).expect("floats").remove(0);
    assert!(attempt(&[one.clone(), Probe { label: "again".into(), ..one }]).contains("same input"));
    assert_eq!(left_behind(dir.path()), 0);
}
