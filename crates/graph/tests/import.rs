//! Reading well-formed and ill-formed models.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use bytes::Bytes;
use common::*;
use cordon_fault::{Fault, Next};
use cordon_graph::onnx::attribute_proto::AttributeType;
use cordon_graph::onnx::{SparseTensorProto, TensorProto};
use cordon_graph::{Attribute, ElemType, GraphError, ImportOptions, Limits, Tensor, TensorType};
use std::collections::BTreeMap;

fn message(result: Result<cordon_graph::Graph, GraphError>) -> String {
    result.expect_err("the model is wrong").to_string()
}

#[test]
fn reads_nodes_in_topological_order_and_keeps_file_order_where_it_can() {
    let nodes = vec![
        node("Add", &["b", "w"], &["y"]).named("last"),
        node("Relu", &["x"], &["a"]).named("first"),
        node("Sigmoid", &["a"], &["b"]),
    ];
    let graph = read(&model(nodes, vec![f32s("w", &[2, 3], &[0.5; 6])], &["y"])).unwrap();
    assert_eq!(listing(&graph), ["Relu(x) -> a", "Sigmoid(a) -> b", "Add(b, w) -> y"]);
    assert_eq!(graph.nodes[1].name, "Sigmoid_2");
    assert_eq!(graph.value(graph.inputs[0]).ty, Some(TensorType::new(ElemType::Float, [2, 3])));
    assert_eq!(graph.value(graph.nodes[2].inputs[1].unwrap()).constant, Tensor::from_f32([2, 3], &[0.5; 6]).ok());
}

#[test]
fn empty_and_duplicate_node_names_get_stable_ones() {
    let nodes = vec![
        node("Relu", &["x"], &["a"]).named("Relu_2"),
        node("Relu", &["a"], &["b"]).named("Relu_2"),
        node("Relu", &["b"], &["c"]),
        node("Relu", &["c"], &["y"]).named("Relu_1"),
    ];
    let graph = read(&model(nodes, vec![], &["y"])).unwrap();
    let names: Vec<&str> = graph.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["Relu_2", "Relu_1_", "Relu_2_", "Relu_1"]);
}

#[test]
fn versions_outside_the_range_are_named() {
    let mut old = model(vec![node("Relu", &["x"], &["y"])], vec![], &["y"]);
    for (version, fine) in [(6, false), (7, true), (22, true), (23, false)] {
        old.opset_import = vec![opset("ai.onnx", version)];
        match read(&old) {
            Ok(_) => assert!(fine),
            Err(error) => {
                assert!(!fine && matches!(error, GraphError::Unsupported(_)), "{error}");
                assert!(error.to_string().contains(&format!("opset {version}")), "{error}");
            }
        }
    }
    old.opset_import = vec![opset("", 17)];
    for (version, fine) in [(2, false), (3, true), (11, true), (12, false)] {
        old.ir_version = Some(version);
        assert_eq!(read(&old).is_ok(), fine, "IR {version}");
    }
    old.ir_version = Some(8);
    old.opset_import.clear();
    assert!(message(read(&old)).contains("operator set"));
    old.opset_import = vec![opset("", 17), opset("ai.onnx", 18)];
    assert!(message(read(&old)).contains("two versions"));
}

#[test]
fn cycles_duplicates_and_gaps_are_named() {
    let cycle = model(vec![node("Add", &["x", "b"], &["a"]), node("Relu", &["a"], &["b"]).named("r")], vec![], &["b"]);
    let error = message(read(&cycle));
    assert!(error.contains("cycle") && error.contains("Add_0") && error.contains("opset 17"), "{error}");
    let twice = model(vec![node("Relu", &["x"], &["y"]), node("Relu", &["x"], &["y"])], vec![], &["y"]);
    assert!(message(read(&twice)).contains("`y` is defined twice"));
    let shadow = model(vec![node("Relu", &["x"], &["x"])], vec![], &["x"]);
    assert!(message(read(&shadow)).contains("`x` is defined twice"));
    let gap = model(vec![node("Relu", &["nowhere"], &["y"])], vec![], &["y"]);
    assert!(message(read(&gap)).contains("`nowhere`"));
    let no_output = model(vec![node("Relu", &["x"], &["y"])], vec![], &["z"]);
    assert!(message(read(&no_output)).contains("`z`"));
    let domain = model(vec![node("Relu", &["x"], &["y"]).domain("absent")], vec![], &["y"]);
    assert!(message(read(&domain)).contains("absent"));
    assert!(message(read(&model(vec![node("", &["x"], &["y"])], vec![], &["y"]))).contains("no operator"));
}

#[test]
fn initializers_listed_as_inputs_are_constants() {
    let mut proto = model(vec![node("Add", &["x", "w"], &["y"])], vec![f32s("w", &[2, 3], &[1.0; 6])], &["y"]);
    proto.ir_version = Some(3);
    proto.graph.as_mut().unwrap().input.push(info("w", 1, fixed(&[2, 3])));
    let graph = read(&proto).unwrap();
    assert_eq!(graph.inputs.len(), 1);
    assert!(graph.values.iter().any(|value| value.name == "w" && value.constant.is_some()));
}

#[test]
fn constant_nodes_become_constants_of_every_kind() {
    let nodes = vec![
        node("Constant", &[], &["f"]).with(float("value_float", 2.5)),
        node("Constant", &[], &["i"]).with(ints("value_ints", &[3, -4])),
        node("Constant", &[], &["t"]).with(tensor("value", f32s("", &[1], &[7.0]))),
        node("Foreign", &["x", "f", "i", "t"], &["y"]).domain("foreign"),
    ];
    let graph = read(&model(nodes, vec![], &["y"])).unwrap();
    assert_eq!(graph.nodes.len(), 1);
    let constants: Vec<_> =
        graph.nodes[0].inputs[1..].iter().map(|id| graph.value(id.unwrap()).constant.clone().unwrap()).collect();
    assert_eq!(
        constants,
        [Tensor::from_f32([], &[2.5]), Tensor::from_i64([2], &[3, -4]), Tensor::from_f32([1], &[7.0])]
            .map(Result::unwrap)
    );
    let broken = model(vec![node("Constant", &[], &["y"])], vec![], &["y"]);
    assert!(message(read(&broken)).contains("exactly one attribute"));
}

#[test]
fn a_constant_output_is_computed_by_an_identity() {
    let graph = read(&model(vec![], vec![f32s("y", &[1], &[1.0])], &["y"])).unwrap();
    assert_eq!(listing(&graph), ["Identity(y_constant) -> y"]);
    assert_eq!(graph.value(graph.outputs[0]).name, "y");
    assert!(message(read(&model(vec![], vec![], &["x"]))).contains("is an input"));
}

#[test]
fn symbolic_dimensions_must_be_bound() {
    let mut proto = model(vec![node("Add", &["x", "z"], &["y"])], vec![], &["y"]);
    let graph = proto.graph.as_mut().unwrap();
    graph.input = vec![
        info("x", 1, vec![Dim::Named("batch"), Dim::Is(3), Dim::Open]),
        info("z", 1, vec![Dim::Named("batch"), Dim::Is(3), Dim::Is(-1)]),
    ];
    graph.value_info = vec![info("y", 1, vec![Dim::Named("batch"), Dim::Is(3)])];
    let error = read(&proto).unwrap_err();
    assert!(error.to_string().contains("`x` [batch, 3, ?]"), "{error}");
    assert_eq!(error.next(), Next::BindShape { input: Some("x") });
    let mut options = ImportOptions::default();
    options.shapes.insert("x".into(), vec![4, 3, 5]);
    let error = read_with(&proto, &options).unwrap_err().to_string();
    assert!(error.contains("`z`") && !error.contains("input `x`"), "{error}");
    options.shapes.insert("z".into(), vec![4, 3, 6]);
    let bound = read_with(&proto, &options).unwrap();
    assert_eq!(bound.value(bound.inputs[1]).ty.as_ref().unwrap().dims, [4, 3, 6]);
    assert_eq!(bound.value(bound.outputs[0]).declared.as_ref().unwrap().dims, [4, 3]);
    for (name, dims, hint) in [("z", vec![5, 3, 6], "batch"), ("z", vec![4, 9, 6], "fit"), ("q", vec![1], "`q`")] {
        let mut wrong = options.clone();
        wrong.shapes.insert(name.into(), dims);
        let error = read_with(&proto, &wrong).unwrap_err();
        assert!(matches!(&error, GraphError::Misuse(what) if what.contains(hint)), "{error}");
    }
}

#[test]
fn typed_data_fields_are_read_like_raw_ones() {
    let typed = |code: i32, dims: &[i64], fill: fn(&mut TensorProto)| {
        let mut tensor =
            TensorProto { name: Some("w".into()), data_type: Some(code), dims: dims.to_vec(), ..Default::default() };
        fill(&mut tensor);
        let graph = read(&model(vec![node("Foreign", &["x", "w"], &["y"]).domain("foreign")], vec![tensor], &["y"]));
        graph.map(|graph| graph.values[0].constant.clone().unwrap())
    };
    let floats = typed(1, &[2], |t| t.float_data = Some(Bytes::from_static(&[0, 0, 128, 63, 0, 0, 0, 64])));
    assert_eq!(floats.unwrap(), Tensor::from_f32([2], &[1.0, 2.0]).unwrap());
    // -1 takes ten bytes as a varint.
    let longs = typed(7, &[2], |t| {
        t.int64_data = Some(Bytes::from_static(&[255, 255, 255, 255, 255, 255, 255, 255, 255, 1, 5]));
    });
    assert_eq!(longs.unwrap(), Tensor::from_i64([2], &[-1, 5]).unwrap());
    let bytes = typed(3, &[1], |t| {
        t.int32_data = Some(Bytes::from_static(&[255, 255, 255, 255, 255, 255, 255, 255, 255, 1]));
    });
    assert_eq!(bytes.unwrap().data[..], [255]);
    assert_eq!(
        typed(9, &[2], |t| t.int32_data = Some(Bytes::from_static(&[1, 0]))).unwrap().to_bool().unwrap(),
        [true, false]
    );
    assert_eq!(typed(21, &[3], |t| t.int32_data = Some(Bytes::from_static(&[0x21, 3]))).unwrap().data[..], [0x21, 3]);
    for (why, result) in [
        ("fewer", typed(7, &[3], |t| t.int64_data = Some(Bytes::from_static(&[1, 2])))),
        ("more", typed(7, &[1], |t| t.int64_data = Some(Bytes::from_static(&[1, 2])))),
        ("does not fit", typed(2, &[1], |t| t.int32_data = Some(Bytes::from_static(&[200, 2])))),
        ("not meant for", typed(7, &[1], |t| t.float_data = Some(Bytes::from_static(&[0; 4])))),
        (
            "more than one",
            typed(1, &[1], |t| {
                t.float_data = Some(Bytes::from_static(&[0; 4]));
                t.raw_data = Some(Bytes::from_static(&[0; 4]));
            }),
        ),
        ("strings", typed(8, &[2], |t| t.string_data = vec![Bytes::from_static(b"a")])),
        ("not known", typed(99, &[1], |_| ())),
        ("not sizes", typed(1, &[-1], |_| ())),
        ("overflows", typed(1, &[1 << 40, 1 << 40], |_| ())),
        ("need more than", typed(1, &[1 << 40], |_| ())),
        ("bytes do not fill", typed(1, &[2], |t| t.raw_data = Some(Bytes::from_static(&[0; 7])))),
        ("extents", typed(1, &[1; 40], |_| ())),
    ] {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(why) && error.contains("`w`"), "{why}: {error}");
    }
}

#[test]
fn sparse_initializers_are_refused_by_name() {
    let mut proto = model(vec![node("Relu", &["x"], &["y"])], vec![], &["y"]);
    let sparse = SparseTensorProto { values: Some(f32s("rare", &[1], &[1.0])), ..Default::default() };
    proto.graph.as_mut().unwrap().sparse_initializer.push(sparse);
    assert!(message(read(&proto)).contains("`rare`"));
}

#[test]
fn functions_are_inlined_with_attributes_defaults_and_omitted_values() {
    let inner = function(
        "inner",
        &["a", "b"],
        &["c"],
        vec![
            node("LeakyRelu", &["a"], &["t"]).named("leak").with(reference("alpha", "alpha", AttributeType::Float)),
            node("Clip", &["t", "", "b"], &["c"]),
        ],
    );
    let mut outer = function(
        "outer",
        &["p"],
        &["q", "unused"],
        vec![
            node("inner", &["p"], &["t"]).domain("local").with(reference("alpha", "slope", AttributeType::Float)),
            node("inner", &["t", "p"], &["q"]).domain("local").with(float("alpha", 0.25)),
            node("Relu", &["t"], &["unused"]),
        ],
    );
    outer.attribute_proto.push(float("slope", 0.5));
    let mut inner = inner;
    inner.attribute.push("alpha".into());
    let mut proto = model(
        vec![node("outer", &["x"], &["t"]).domain("local").named("call"), node("Relu", &["t"], &["y"])],
        vec![],
        &["y"],
    );
    proto.functions = vec![inner, outer];
    let graph = read(&proto).unwrap();
    assert_eq!(
        listing(&graph),
        [
            "LeakyRelu(x) -> call/inner_0/t",
            "Clip(call/inner_0/t, _, _) -> call/t",
            "LeakyRelu(call/t) -> call/inner_1/t",
            "Clip(call/inner_1/t, _, x) -> t",
            "Relu(t) -> y",
        ]
    );
    let slopes: Vec<_> = graph.nodes.iter().filter_map(|node| node.attributes.get("alpha")).collect();
    assert_eq!(slopes, [&Attribute::Float(0.5), &Attribute::Float(0.25)]);
    assert_eq!(graph.nodes[0].name, "call/inner_0/leak");
}

#[test]
fn functions_may_pass_an_input_through_and_sit_in_subgraphs() {
    let through = function("through", &["a"], &["a", "b"], vec![node("Relu", &["a"], &["b"])]);
    let mut proto = model(
        vec![
            node("Foreign", &["x"], &["flag"]).domain("foreign"),
            node("If", &["flag"], &["y"])
                .with(subgraph(
                    "then_branch",
                    branch(vec![node("through", &["x"], &["p", "q"]).domain("local")], vec![], &["q"]),
                ))
                .with(subgraph("else_branch", branch(vec![node("Relu", &["x"], &["p"])], vec![], &["p"]))),
        ],
        vec![],
        &["y"],
    );
    proto.functions = vec![through];
    let graph = read(&proto).unwrap();
    assert_eq!(graph.nodes[1].captures, graph.inputs);
    let Attribute::Opaque(encoded) = &graph.nodes[1].attributes["then_branch"] else { panic!("a graph") };
    let text = String::from_utf8_lossy(encoded);
    assert!(text.contains("Relu") && text.contains("Identity"), "{text}");
}

#[test]
fn hostile_functions_end_in_errors() {
    let call = |name: &str| node(name, &["x"], &["y"]).domain("local");
    let mut proto = model(vec![call("f")], vec![], &["y"]);
    proto.functions = vec![function("f", &["x"], &["y"], vec![call("f")])];
    assert!(message(read(&proto)).contains("calls itself"));
    // Ten thousand functions, each calling the next.
    let chain = |i: usize| function(&format!("f{i}"), &["x"], &["y"], vec![call(&format!("f{}", i + 1))]);
    proto = model(vec![call("f0")], vec![], &["y"]);
    proto.functions = (0..10_000).map(chain).collect();
    assert!(matches!(read(&proto), Err(GraphError::Limit(_))));
    // Each calls the next twice: two to the fortieth nodes.
    let twice = |i: usize| {
        let next = format!("f{}", i + 1);
        let nodes = vec![node(&next, &["x"], &["t"]).domain("local"), node(&next, &["t"], &["y"]).domain("local")];
        function(&format!("f{i}"), &["x"], &["y"], nodes)
    };
    proto.functions = (0..40).map(twice).collect();
    proto.functions.push(function("f40", &["x"], &["y"], vec![node("Relu", &["x"], &["y"])]));
    for limits in
        [Limits { nodes: 5000, ..Limits::default() }, Limits { structure_bytes: 1 << 20, ..Limits::default() }]
    {
        let options = ImportOptions { limits, ..Default::default() };
        assert!(matches!(read_with(&proto, &options), Err(GraphError::Limit(_))));
    }
    proto.functions = vec![function("f0", &["x"], &["y"], vec![node("Relu", &["outside"], &["y"])])];
    assert!(message(read(&proto)).contains("`outside`"));
    proto.functions = vec![function("f0", &["x"], &["y"], vec![node("Relu", &["x"], &["x"])])];
    assert!(message(read(&proto)).contains("its own input"));
    let mut other = function("f0", &["x"], &["y"], vec![node("Relu", &["x"], &["y"])]);
    other.opset_import = vec![opset("", 13)];
    proto.functions = vec![other.clone()];
    let error = message(read(&proto));
    assert!(error.contains("opset 13") && error.contains("f0"), "{error}");
    proto.functions = vec![other.clone(), other];
    assert!(message(read(&proto)).contains("defined twice"));
}

#[test]
fn a_constant_if_is_replaced_by_its_branch() {
    let nested = branch(
        vec![
            node("If", &["no"], &["r"])
                .with(subgraph("then_branch", branch(vec![node("Relu", &["x"], &["x2"])], vec![], &["x2"])))
                .with(subgraph("else_branch", branch(vec![node("Add", &["t", "k"], &["s"])], vec![], &["s"]))),
        ],
        vec![f32s("k", &[1], &[1.0])],
        &["r"],
    );
    let nodes = vec![
        node("Relu", &["x"], &["t"]),
        node("If", &["yes"], &["y"])
            .named("if")
            .with(subgraph("then_branch", nested))
            .with(subgraph("else_branch", branch(vec![], vec![], &["t"]))),
    ];
    let graph = read(&model(nodes, vec![bools("yes", &[1]), bools("no", &[0])], &["y"])).unwrap();
    assert_eq!(
        listing(&graph),
        ["Relu(x) -> t", "Add(t, if/k) -> If_0/if/s", "Identity(If_0/if/s) -> if/r", "Identity(if/r) -> y"]
    );
}

#[test]
fn captures_count_as_uses_and_must_exist() {
    let body = |outer: &str| branch(vec![node("Add", &[outer, "k"], &["s"])], vec![], &["s"]);
    let nodes = |outer: &str| {
        vec![
            node("Foreign", &["x"], &["flag"]).domain("foreign"),
            node("If", &["flag"], &["y"])
                .with(subgraph("then_branch", body(outer)))
                .with(subgraph("else_branch", body("x"))),
            node("Relu", &["x"], &["late"]),
        ]
    };
    let graph = read(&model(nodes("late"), vec![f32s("k", &[1], &[1.0])], &["y"])).unwrap();
    assert_eq!(listing(&graph), ["Foreign(x) -> flag", "Relu(x) -> late", "If(flag) -> y"]);
    let mut captured: Vec<&str> = graph.nodes[2].captures.iter().map(|&id| graph.value(id).name.as_str()).collect();
    captured.sort_unstable();
    assert_eq!(captured, ["k", "late", "x"]);
    let error = message(read(&model(nodes("absent"), vec![f32s("k", &[1], &[1.0])], &["y"])));
    assert!(error.contains("`absent`") && error.contains("If_1"), "{error}");
    let error = message(read(&model(nodes("y"), vec![f32s("k", &[1], &[1.0])], &["y"])));
    assert!(error.contains("cycle"), "{error}");
}

#[test]
fn limits_hold() {
    let nodes: Vec<_> = (0..50).map(|i| node("Relu", &["x"], &[&format!("v{i}")])).collect();
    let proto = model(nodes, vec![], &["v0"]);
    let limits = Limits { nodes: 49, ..Limits::default() };
    assert!(matches!(read_with(&proto, &ImportOptions { limits, ..Default::default() }), Err(GraphError::Limit(_))));
    let limits = Limits { structure_bytes: 1000, ..Limits::default() };
    assert!(matches!(read_with(&proto, &ImportOptions { limits, ..Default::default() }), Err(GraphError::Limit(_))));
    let graph = read(&proto).unwrap();
    assert_eq!(graph.nodes.len(), 1, "nodes nobody needs are dropped");
    let mut shapes = BTreeMap::new();
    shapes.insert("x".to_owned(), vec![usize::MAX, 2]);
    let mut open = model(vec![node("Relu", &["x"], &["y"])], vec![], &["y"]);
    open.graph.as_mut().unwrap().input = vec![info("x", 1, vec![Dim::Open, Dim::Open])];
    assert!(matches!(read_with(&open, &ImportOptions { shapes, ..Default::default() }), Err(GraphError::Limit(_))));
}
