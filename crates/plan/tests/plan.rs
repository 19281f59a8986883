//! Plans of the digits network and of small graphs built by hand.

use cordon_fault::{Fault, Next};
use cordon_graph::{Evaluator, ExportedModel, Graph, Node, Tensor, TensorType, Value, ValueId};
use cordon_plan::{
    Bound, Constraints, Cuts, Domain, Inspection, LoweredPlan, Model, Placement, Plan, PlanError, Profile, Protect,
    Role, Stretch, World, prepare,
};
use cordon_process_link::profile::PROFILE;
use std::collections::BTreeMap;
use std::path::Path;

/// The digits network has nothing to fold.
struct NoEngine;

impl Evaluator for NoEngine {
    fn run(&mut self, _: &ExportedModel, _: &[(String, Tensor)], _: &[String]) -> Result<Vec<Tensor>, String> {
        Err("not needed".into())
    }
}

fn digits() -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/digits/digits.onnx");
    prepare(&path, &BTreeMap::new(), &mut NoEngine).expect("the bundled model is readable")
}

fn inspect(model: &Model) -> Inspection {
    cordon_plan::inspect(model, &PROFILE)
}

fn make(model: &Model, constraints: &Constraints) -> Result<Plan, PlanError> {
    cordon_plan::make(model, constraints, &PROFILE)
}

fn lower_plan(model: &Model, plan: &Plan) -> Result<LoweredPlan, PlanError> {
    cordon_plan::lower_plan(model, plan, &PROFILE)
}

fn ends(front: Option<usize>, back: Option<usize>) -> Cuts {
    Cuts::Ends { front: front.map(Bound::Cut), back: back.map(Bound::Cut) }
}

fn ternary(front: usize, back: usize) -> Constraints {
    Constraints { cuts: ends(Some(front), Some(back)), ..Constraints::new(Protect::Both) }
}

#[test]
fn the_cut_table_counts_bytes_and_secure_memory() {
    let model = digits();
    let inspection = inspect(&model);
    assert_eq!(inspection.nodes.len(), 20);
    assert_eq!(inspection.cuts.len(), 19);
    assert_eq!(inspection.parameters, 50_074);
    // 16 channels of 32x32 floats after the first convolution.
    assert_eq!(inspection.cuts[0].bytes, Some(16 * 32 * 32 * 4));
    let before: Vec<u64> = inspection.cuts.iter().map(|cut| cut.secure_before.expect("supported")).collect();
    assert!(before.windows(2).all(|pair| pair[0] <= pair[1]));
    let after: Vec<u64> = inspection.cuts.iter().map(|cut| cut.secure_after.expect("supported")).collect();
    assert!(after.windows(2).all(|pair| pair[0] >= pair[1]));
    for cut in [4, 8, 17] {
        let row = &inspection.cuts[cut - 1];
        let before = row.least_before.expect("supported");
        assert!(row.least_after.is_some());
        let front = Constraints {
            cuts: ends(Some(cut), None),
            secure_memory: Some(before),
            ..Constraints::new(Protect::Inputs)
        };
        make(&digits(), &front).expect("the least is enough");
    }
}

#[test]
fn weights_alone_means_everything_inside() {
    let plan = make(&digits(), &Constraints::new(Protect::Weights)).expect("supported");
    assert_eq!(plan.segments.len(), 1);
    assert_eq!(plan.segments[0].placement, Placement::Secure(Domain(0)));
    assert!(plan.crossings.iter().all(|crossing| crossing.kind != "intermediate"));
    assert!(plan.words.contains("everything inside"));
    assert!(plan.warnings.is_empty());
}

#[test]
fn a_ternary_plan_lists_its_crossings_and_says_what_it_does_not_promise() {
    let plan = make(&digits(), &ternary(8, 17)).expect("supported");
    let roles: Vec<_> = plan.segments.iter().map(|segment| segment.role.to_string()).collect();
    assert_eq!(roles, ["FrontNet", "middle", "BackNet"]);
    let kinds: Vec<_> = plan.crossings.iter().map(|crossing| (crossing.kind.as_str(), crossing.to)).collect();
    let expected = [
        ("input", World::Secure),
        ("intermediate", World::Normal),
        ("intermediate", World::Secure),
        ("output", World::Normal),
    ];
    assert_eq!(kinds, expected);
    assert_eq!(plan.crossings[1].bytes, 32 * 8 * 8 * 4);
    for promise in ["not protected by `cordon run`", "Availability never", "No correct result", "development isolation"]
    {
        assert!(plan.words.contains(promise), "{promise}");
    }
    assert!(!plan.public_words.contains("block1"), "the package's words name no node");
    assert!(!plan.goal.default_cuts && plan.goal.report.is_none());
}

#[test]
fn default_cuts_are_marked_not_assessed() {
    for goal in [Protect::Inputs, Protect::Both] {
        let plan = make(&digits(), &Constraints::new(goal)).expect("supported");
        assert!(plan.is_protected());
        assert!(plan.warnings.iter().any(|warning| warning.contains("not assessed")), "{goal}");
    }
}

#[test]
fn a_single_visible_affine_layer_is_called_out() {
    let constraints = Constraints { cuts: ends(Some(2), None), ..Constraints::new(Protect::Inputs) };
    let plan = make(&digits(), &constraints).expect("supported");
    assert!(plan.warnings.iter().any(|warning| warning.contains("linear")), "{:?}", plan.warnings);
    // A convolution followed by Relu is still one layer.
    let constraints = Constraints { cuts: ends(Some(4), None), ..Constraints::new(Protect::Inputs) };
    let plan = make(&digits(), &constraints).expect("supported");
    assert!(plan.warnings.iter().any(|warning| warning.contains("only one layer")), "{:?}", plan.warnings);
    let plan = make(&digits(), &ternary(8, 13)).expect("supported");
    assert!(plan.warnings.is_empty(), "{:?}", plan.warnings);
}

#[test]
fn nodes_name_cuts_from_both_sides() {
    let named = Constraints {
        cuts: Cuts::Ends { front: Some(Bound::parse("block2.pool")), back: Some(Bound::parse("hidden")) },
        ..Constraints::new(Protect::Both)
    };
    assert_eq!(
        make(&digits(), &named).expect("supported").segments,
        make(&digits(), &ternary(8, 17)).expect("supported").segments
    );
}

#[test]
fn constraints_that_cannot_be_met_are_refused_with_a_next_step() {
    let model = digits();
    let refused = |constraints: Constraints, what: &str, next: Next<'_>| {
        let error = make(&model, &constraints).expect_err("refused");
        assert!(error.to_string().contains(what) && error.next() == next, "{error}: {:?}", error.next());
    };
    refused(ternary(20, 21), "1 to 19", Next::InspectModel);
    refused(ternary(12, 4), "after the BackNet starts", Next::OrderBounds);
    let front = |goal| Constraints { cuts: ends(Some(3), None), ..Constraints::new(goal) };
    refused(front(Protect::Weights), "", Next::AddBack);
    refused(front(Protect::All), "all", Next::ChooseBounds);
    let unknown = Cuts::Ends { front: Some(Bound::parse("no such")), back: None };
    refused(Constraints { cuts: unknown, ..ternary(1, 2) }, "no such", Next::InspectModel);
    refused(Constraints { labels: vec!["a".into(); 3], ..ternary(8, 17) }, "3 labels", Next::LabelPerClass);
    let small = Constraints { secure_memory: Some(1000), ..ternary(8, 17) };
    match make(&model, &small) {
        Err(PlanError::SecureMemory { needed, available: 1000, .. }) => assert!(needed > 1000),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_file_reads_back_and_fits_only_its_own_model() {
    let model = digits();
    let plan = make(&model, &ternary(8, 17)).expect("supported");
    let text = plan.to_toml().expect("representable");
    assert_eq!(Plan::from_toml(&text).expect("its own text"), plan);
    let other = |format: &str, field: &str| {
        let text = text.replace("format = 2", format).replace("default_cuts", field);
        Plan::from_toml(&text).expect_err("another version").to_string()
    };
    // Whatever its fields are called.
    for (format, named) in [("format = 1", "format 1"), ("format = 9", "format 9")] {
        assert!(other(format, "front").contains(named));
    }
    assert!(other("format = 2", "front").contains("front"));
    assert!(Plan::from_toml("not a plan").is_err());
    let lowered = lower_plan(&model, &plan).expect("its own model");
    assert_eq!(lowered.segments.len(), 3);
    let mut other = model.clone();
    other.sha256 = "00".into();
    assert!(matches!(lower_plan(&other, &plan), Err(PlanError::Mismatch(_))));
    let mut edited = plan.clone();
    edited.segments[1].nodes.swap(0, 1);
    assert!(matches!(lower_plan(&model, &edited), Err(PlanError::Mismatch(_))));
}

/// `y = relu(relu(relu(x)) + relu(x))` and an input that only the outer parts read.
fn skip_graph() -> Graph {
    let ty = TensorType::new(cordon_graph::ElemType::Float, vec![1, 4]);
    let value = |name: &str, typed: bool| Value { ty: typed.then(|| ty.clone()), ..Value::new(name) };
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
        values: vec![
            value("x", true),
            value("extra", true),
            value("front", false),
            value("middle", false),
            value("sum", false),
            value("y", false),
        ],
        nodes: vec![
            node("add0", "Add", &[0, 1], 2),
            node("relu", "Relu", &[2], 3),
            node("add1", "Add", &[3, 2], 4),
            node("add2", "Add", &[4, 1], 5),
        ],
        inputs: vec![ValueId(0), ValueId(1)],
        outputs: vec![ValueId(5)],
    }
}

#[test]
fn what_a_later_secure_segment_needs_stays_inside() {
    let model = Model::new(skip_graph(), "skip.onnx", "11").expect("typed");
    let plan = make(&model, &ternary(1, 2)).expect("supported");
    assert_eq!(plan.segments[0].retained_out, ["front", "extra"]);
    assert_eq!(plan.segments[2].retained_in, ["front", "extra"]);
    // `front` crosses for the middle, but the BackNet takes the copy that stayed inside.
    assert_eq!(plan.segments[0].outputs, ["front"]);
    assert_eq!(plan.segments[2].inputs, ["middle"]);
    let lowered = lower_plan(&model, &plan).expect("its own model");
    let (front, back) = (&lowered.segments[0], &lowered.segments[2]);
    assert_ne!(front.outputs[0], front.retained_out[0], "one id for each way a value travels");
    assert_eq!(front.retained_out, back.retained_in);
    assert_eq!(front.cost.retained, 2 * 4 * 4);
}

/// A platform with little memory of its own, one thread, and frames of one stored chunk.
const SMALL: Profile = Profile {
    platform: "small",
    memory: Some(11 << 20),
    fixed: 512 << 10,
    fixed_range: 128 << 10,
    thread: 0,
    threads: 1,
    max_threads: 1,
    payload: 65_552,
    reply: 65_552,
    ..PROFILE
};

#[test]
fn predictions_are_those_of_the_platform_and_the_plan_names_it() {
    let model = digits();
    let constraints = ternary(8, 17);
    let [process, small] = [&PROFILE, &SMALL].map(|it| cordon_plan::make(&model, &constraints, it).expect("supported"));
    assert_eq!((process.memory.platform.as_str(), process.memory.limit), ("process", None));
    assert_eq!((small.memory.platform.as_str(), small.memory.limit), ("small", Some(11 << 20)));
    let fixed = [&PROFILE, &SMALL].map(|it| it.fixed_bytes(it.threads));
    assert!(fixed[1] < fixed[0]);
    // One per cent besides, and what does not fit one of its small frames: the encoded Programs.
    let differ = process.memory.predicted - small.memory.predicted;
    assert!(differ.abs_diff(fixed[0] - fixed[1]) < 64 << 10, "{differ} of {fixed:?}");
    let [process_cuts, small_cuts] = [&PROFILE, &SMALL].map(|it| cordon_plan::inspect(&model, it).cuts);
    for (process, small) in process_cuts.iter().zip(&small_cuts) {
        assert_eq!(process.secure_before.zip(small.secure_before).map(|(a, b)| a - b), Some(fixed[0] - fixed[1]));
        assert!(small.least_after < process.least_after);
    }
    // What the platform has bounds what was asked for.
    let more = Constraints { secure_memory: Some(1 << 30), ..constraints.clone() };
    assert_eq!(cordon_plan::make(&model, &more, &SMALL).expect("supported").memory.limit, Some(11 << 20));
    let tiny = Profile { memory: Some(600 << 10), ..SMALL };
    assert!(matches!(cordon_plan::make(&model, &constraints, &tiny), Err(PlanError::SecureMemory { .. })));
    assert!(matches!(cordon_plan::lower_plan(&model, &small, &PROFILE), Err(PlanError::Mismatch(_))));
    assert!(cordon_plan::lower_plan(&model, &small, &SMALL).is_ok());
}

fn stretch(from: usize, to: usize, domain: u16) -> Stretch {
    Stretch { from: Bound::Cut(from), to: Bound::Cut(to), domain: Domain(domain) }
}

fn stretches(list: &[Stretch]) -> Constraints {
    Constraints { cuts: Cuts::Stretches(list.to_vec()), ..Constraints::new(Protect::Weights) }
}

#[test]
fn any_number_of_stretches_is_placed() {
    // The order in which they are given does not matter, and neighbours are one segment.
    let plan =
        make(&digits(), &stretches(&[stretch(17, 20, 0), stretch(0, 4, 0), stretch(8, 10, 0), stretch(10, 12, 0)]));
    let plan = plan.expect("supported");
    let segments: Vec<_> =
        plan.segments.iter().map(|it| (it.role, it.placement.is_secure(), it.from_cut, it.to_cut)).collect();
    let expected = [
        (Role::FrontNet, true, 0, 4),
        (Role::Middle, false, 4, 8),
        (Role::Inner, true, 8, 12),
        (Role::Middle, false, 12, 17),
        (Role::BackNet, true, 17, 20),
    ];
    assert_eq!(segments, expected);
    assert!(plan.words.contains("inner (4 of 20 nodes") && plan.words.contains("leave the secure segments"));
    assert!(!plan.words.contains("Enclaves:"), "there is one");
    assert!(!plan.goal.default_cuts);
    assert_eq!(Plan::from_toml(&plan.to_toml().expect("representable")).expect("its own text"), plan);
    // A stretch of two ends that are named is the FrontNet and BackNet of the same.
    let ends = make(&digits(), &ternary(8, 17)).expect("supported");
    let both = stretches(&[stretch(0, 8, 0), stretch(17, 20, 0)]);
    assert_eq!(make(&digits(), &both).expect("supported").segments, ends.segments);
    let named = Stretch::parse("hidden..logits").expect("two nodes");
    let plan = make(&digits(), &stretches(&[named])).expect("supported");
    assert_eq!((plan.segments[1].from_cut, plan.segments[1].nodes.first().map(String::as_str)), (17, Some("hidden")));
}

#[test]
fn stretches_that_cannot_be_are_refused() {
    let refused = |list: &[Stretch]| make(&digits(), &stretches(list)).expect_err("refused").to_string();
    assert!(refused(&[stretch(4, 8, 0), stretch(7, 9, 0)]).contains("overlap"));
    assert!(refused(&[stretch(8, 8, 0)]).contains("none"));
    assert!(refused(&[stretch(8, 4, 0)]).contains("none"));
    assert!(refused(&[stretch(8, 21, 0)]).contains("no cut 21"));
    for goal in [Protect::All, Protect::None] {
        let constraints = Constraints { protect: goal, ..stretches(&[stretch(0, 4, 0)]) };
        let error = make(&digits(), &constraints).expect_err("refused").to_string();
        assert!(error.contains(&goal.to_string()) && error.contains("do not go with"), "{error}");
    }
    for text in ["", "4", "4..", "..4", ".."] {
        assert!(Stretch::parse(text).is_err(), "{text}");
    }
}

#[test]
fn a_value_stays_inside_one_enclave_only() {
    let model = Model::new(skip_graph(), "skip.onnx", "11").expect("typed");
    // add0 in one enclave, relu outside, add1 in another, add2 in the first again.
    let plan = make(&model, &stretches(&[stretch(0, 1, 0), stretch(2, 3, 1), stretch(3, 4, 0)])).expect("supported");
    let [front, _, other, back] = &plan.segments[..] else { panic!("four segments") };
    assert_eq!(other.placement, Placement::Secure(Domain(1)));
    assert_eq!((other.role, back.role), (Role::Inner, Role::BackNet));
    // `front` goes to the other enclave, so it crosses; `extra` is read in the first only, and stays.
    assert_eq!(
        (front.outputs.as_slice(), front.retained_out.as_slice()),
        (&["front".into()][..], &["extra".into()][..])
    );
    assert_eq!(
        (other.inputs.as_slice(), other.outputs.as_slice()),
        (&["middle".into(), "front".into()][..], &["sum".into()][..])
    );
    assert!(other.retained_in.is_empty() && other.retained_out.is_empty());
    assert_eq!((back.inputs.as_slice(), back.retained_in.as_slice()), (&["sum".into()][..], &["extra".into()][..]));
    let said = "run in 2 enclaves, which share nothing. 2 value(s) (`front`, `sum`), 32 B per request";
    assert!(plan.words.contains(said), "{}", plan.words);
    assert!(plan.words.contains("in the secure world, domain 1"));
    assert!(plan.public_words.contains("2 value(s), 32 B per request") && !plan.public_words.contains("`front`"));
    assert_eq!(Plan::from_toml(&plan.to_toml().expect("representable")).expect("its own text"), plan);
    assert_eq!(lower_plan(&model, &plan).expect("its own model").segments.len(), 4);
}
