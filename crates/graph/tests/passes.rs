//! Inference, folding, shapes by execution, cuts, costs.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use bytes::Bytes;
use common::*;
use cordon_graph::{
    ElemType, Evaluator, ExportedModel, Graph, GraphError, ImportOptions, Tensor, TensorType, ValueId, complete_shapes,
    cut_table, fold, import_bytes, infer, macs, parameters, segment,
};
use std::collections::HashMap;

/// Runs `Erf` (as a stand-in: doubling), `Add` of equal extents, and `Count`, whose result's size is data.
#[derive(Default)]
struct Engine {
    runs: usize,
    refuses: &'static str,
}

impl Evaluator for Engine {
    fn run(
        &mut self,
        model: &ExportedModel,
        inputs: &[(String, Tensor)],
        outputs: &[String],
    ) -> Result<Vec<Tensor>, String> {
        self.runs += 1;
        let data = [(model.location.clone(), model.data_bytes())].into();
        let graph = import_bytes(Bytes::from(model.model.clone()), None, &ImportOptions { data, ..Default::default() })
            .map_err(|error| error.to_string())?;
        let mut known: HashMap<String, Tensor> = inputs.iter().cloned().collect();
        for value in &graph.values {
            known.extend(value.constant.clone().map(|tensor| (value.name.clone(), tensor)));
        }
        for node in &graph.nodes {
            let name = |id: &Option<_>| graph.value(id.unwrap()).name.clone();
            let given: Vec<&Tensor> = node.inputs.iter().map(|id| &known[&name(id)]).collect();
            let floats: Vec<f32> = given[0].to_f32()?;
            let result = match node.op_type.as_str() {
                op if op == self.refuses => return Err(format!("no {op} here")),
                "Erf" => {
                    Tensor::from_f32(given[0].dims.as_slice(), &floats.iter().map(|v| v * 2.0).collect::<Vec<_>>())?
                }
                "Add" => {
                    let other = given[1].to_f32()?;
                    let sum: Vec<f32> = floats.iter().zip(&other).map(|(a, b)| a + b).collect();
                    Tensor::from_f32(given[0].dims.as_slice(), &sum)?
                }
                "Count" => {
                    let set: Vec<f32> = floats.into_iter().filter(|&v| v > 0.0).collect();
                    Tensor::from_f32([set.len()], &set)?
                }
                _ => (*given[0]).clone(),
            };
            known.insert(name(&node.outputs[0]), result);
        }
        outputs.iter().map(|name| known.get(name).cloned().ok_or(format!("no {name}"))).collect()
    }
}

fn ty(graph: &Graph, name: &str) -> Option<TensorType> {
    graph.values.iter().find(|value| value.name == name).unwrap().ty.clone()
}

fn constant(graph: &Graph, name: &str) -> Option<Tensor> {
    graph.values.iter().find(|value| value.name == name).unwrap().constant.clone()
}

fn origins<'g>(graph: &'g Graph, name: &str) -> Vec<&'g str> {
    let id = (0..).zip(&graph.values).find(|(_, value)| value.name == name).unwrap().0;
    graph.origins(ValueId(id)).into_iter().map(|id| graph.value(id).name.as_str()).collect()
}

#[test]
fn shape_arithmetic_becomes_static() {
    // What torch.flatten(x, 1) exports for a dynamic batch.
    let nodes = vec![
        node("Relu", &["x"], &["a"]),
        node("Shape", &["a"], &["s"]),
        node("Gather", &["s", "zero"], &["n"]),
        node("Unsqueeze", &["n", "axes"], &["n1"]),
        node("Concat", &["n1", "rest"], &["to"]).with(int("axis", 0)),
        node("Reshape", &["a", "to"], &["y"]),
    ];
    let weights = vec![i64s("zero", &[], &[0]), i64s("axes", &[1], &[0]), i64s("rest", &[1], &[3])];
    let mut graph = read(&model(nodes, weights, &["y"])).unwrap();
    assert_eq!(infer(&mut graph, &Rules).unwrap(), []);
    assert_eq!(listing(&graph), ["Relu(x) -> a", "Reshape(a, to) -> y"]);
    assert_eq!(constant(&graph, "to"), Tensor::from_i64([2], &[2, 3]).ok());
    assert_eq!(origins(&graph, "to"), ["zero", "axes", "rest"], "the file's constants behind it");
    assert_eq!(origins(&graph, "zero"), ["zero"]);
    assert!(origins(&graph, "s").is_empty(), "a shape is computed from no constant");
}

#[test]
fn an_if_on_a_shape_is_decided() {
    let nodes = vec![
        node("Shape", &["x"], &["s"]),
        node("Gather", &["s", "zero"], &["n"]),
        node("Equal", &["n", "two"], &["is"]),
        node("If", &["is"], &["y"])
            .with(subgraph("then_branch", branch(vec![node("Relu", &["x"], &["r"])], vec![], &["r"])))
            .with(subgraph(
                "else_branch",
                branch(vec![node("Foreign", &["x"], &["r"]).domain("foreign")], vec![], &["r"]),
            )),
    ];
    let mut graph = read(&model(nodes, vec![i64s("zero", &[], &[0]), i64s("two", &[], &[2])], &["y"])).unwrap();
    assert_eq!(infer(&mut graph, &Rules).unwrap(), []);
    assert_eq!(listing(&graph), ["Relu(x) -> If_3/r", "Identity(If_3/r) -> y"]);
}

#[test]
fn declared_types_help_where_no_rule_does_and_rules_win() {
    let nodes = vec![node("Foreign", &["x"], &["f"]).domain("foreign"), node("Relu", &["f"], &["y"])];
    let mut proto = model(nodes, vec![], &["y"]);
    let mut graph = read(&proto).unwrap();
    assert_eq!(infer(&mut graph, &Rules).unwrap().len(), 2);
    let lists = proto.graph.as_mut().unwrap();
    lists.value_info = vec![info("f", 1, fixed(&[5]))];
    lists.output = vec![info("y", 1, fixed(&[9]))];
    let mut graph = read(&proto).unwrap();
    assert_eq!(infer(&mut graph, &Rules).unwrap(), []);
    assert_eq!(ty(&graph, "f"), Some(TensorType::new(ElemType::Float, [5])));
    assert_eq!(ty(&graph, "y"), Some(TensorType::new(ElemType::Float, [5])));
}

#[test]
fn a_broken_node_is_named() {
    let proto = model(vec![node("Add", &["x", "w"], &["y"]).named("sum")], vec![f32s("w", &[2], &[1.0; 2])], &["y"]);
    let error = infer(&mut read(&proto).unwrap(), &Rules).unwrap_err();
    assert!(matches!(error, GraphError::Malformed(_)));
    assert_eq!(error.to_string(), "malformed model: node `sum` (Add, opset 17): operands do not match");
}

#[test]
fn constant_nodes_of_any_operator_fold_in_the_engine() {
    let nodes = vec![
        node("Erf", &["w"], &["e"]),
        node("Add", &["e", "w"], &["b"]),
        node("RandomNormalLike", &["b"], &["r"]),
        node("Foreign", &["w"], &["f"]).domain("foreign"),
        node("Add", &["x", "b"], &["s"]),
        node("Foreign", &["s", "r", "f"], &["y"]).domain("foreign"),
        node("Erf", &["w"], &["out"]),
    ];
    let weights = vec![f32s("w", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])];
    let mut graph = read(&model(nodes, weights, &["y", "out"])).unwrap();
    let mut engine = Engine::default();
    let report = fold(&mut graph, &mut engine, 1 << 20).unwrap();
    assert_eq!((report.folded, report.left.len(), engine.runs), (2, 0, 1));
    assert_eq!(constant(&graph, "b"), Tensor::from_f32([2, 3], &[3.0, 6.0, 9.0, 12.0, 15.0, 18.0]).ok());
    assert_eq!(
        listing(&graph),
        ["RandomNormalLike(b) -> r", "Foreign(w) -> f", "Add(x, b) -> s", "Foreign(s, r, f) -> y", "Erf(w) -> out"]
    );
    assert_eq!(origins(&graph, "b"), ["w"]);
}

#[test]
fn folding_stops_at_the_cap_and_survives_a_node_the_engine_lacks() {
    let nodes = vec![
        node("Erf", &["w"], &["e"]),
        node("Sin", &["w"], &["t"]),
        node("Foreign", &["x", "e", "t"], &["y"]).domain("foreign"),
    ];
    let proto = model(nodes, vec![f32s("w", &[2, 3], &[1.0; 6])], &["y"]);
    let mut graph = read(&proto).unwrap();
    let report = fold(&mut graph, &mut Engine::default(), 23).unwrap();
    assert_eq!((report.folded, graph.nodes.len()), (0, 3), "24 bytes are over the cap");
    let mut engine = Engine { refuses: "Sin", ..Engine::default() };
    let report = fold(&mut graph, &mut engine, 24).unwrap();
    assert_eq!(report.folded, 1);
    assert_eq!(report.left, [("Sin_1".to_owned(), "no Sin here".to_owned())]);
}

#[test]
fn shapes_left_open_come_from_running_the_model() {
    let nodes = vec![node("Foreign", &["x"], &["f"]).domain("foreign"), node("Relu", &["f"], &["y"])];
    let mut graph = read(&model(nodes, vec![], &["y"])).unwrap();
    infer(&mut graph, &Rules).unwrap();
    complete_shapes(&mut graph, &mut Engine::default()).unwrap();
    assert_eq!(ty(&graph, "y"), Some(TensorType::new(ElemType::Float, [2, 3])));
    let nodes = vec![node("Count", &["x"], &["y"]).domain("foreign").named("count")];
    let mut graph = read(&model(nodes, vec![], &["y"])).unwrap();
    let error = complete_shapes(&mut graph, &mut Engine::default()).unwrap_err().to_string();
    assert!(error.contains("depends on the data") && error.contains("`count`"), "{error}");
}

#[test]
fn cuts_list_what_is_live() {
    // A residual block: x → a → b, then a + b, with a second output taken early.
    let nodes = vec![
        node("Relu", &["x"], &["a"]),
        node("Sigmoid", &["a"], &["b"]),
        node("Add", &["a", "b"], &["c"]),
        node("Relu", &["c"], &["y"]),
    ];
    let mut graph = read(&model(nodes, vec![], &["b", "y"])).unwrap();
    infer(&mut graph, &Rules).unwrap();
    let table: Vec<(usize, Vec<&str>, Option<u64>)> = cut_table(&graph)
        .into_iter()
        .map(|cut| {
            let names = cut.values.iter().map(|&id| graph.value(id).name.as_str()).collect();
            (cut.index, names, cut.bytes)
        })
        .collect();
    assert_eq!(table, [(1, vec!["a"], Some(24)), (2, vec!["a", "b"], Some(48)), (3, vec!["b", "c"], Some(48))]);
    let back = segment(&graph, graph.node_ids().skip(2));
    let names = |ids: &[ValueId]| ids.iter().map(|&id| graph.value(id).name.as_str()).collect::<Vec<_>>();
    assert_eq!((names(&back.inputs), names(&back.outputs)), (vec!["a", "b"], vec!["y"]));
    let outer = segment(&graph, [cordon_graph::NodeId(0), cordon_graph::NodeId(3)]);
    assert_eq!((names(&outer.inputs), names(&outer.outputs)), (vec!["x", "c"], vec!["a", "y"]));
}

#[test]
fn costs_of_the_counted_operators() {
    let mut proto = model(
        vec![
            node("Conv", &["img", "k"], &["c"]),
            node("MatMul", &["x", "m"], &["p"]),
            node("Gemm", &["x", "m", "bias"], &["g"]),
            node("Relu", &["x"], &["r"]),
            node("Foreign", &["c", "p", "g", "r"], &["y"]).domain("foreign"),
        ],
        vec![f32s("k", &[4, 3, 3, 3], &[0.0; 108]), f32s("m", &[3, 5], &[0.0; 15]), f32s("bias", &[5], &[0.0; 5])],
        &["y"],
    );
    let lists = proto.graph.as_mut().unwrap();
    lists.input.push(info("img", 1, fixed(&[1, 3, 8, 8])));
    lists.value_info =
        vec![info("c", 1, fixed(&[1, 4, 6, 6])), info("p", 1, fixed(&[2, 5])), info("g", 1, fixed(&[2, 5]))];
    let mut graph = read(&proto).unwrap();
    infer(&mut graph, &Rules).unwrap();
    let costs: Vec<_> = graph.nodes.iter().map(|node| macs(&graph, node)).collect();
    assert_eq!(costs, [Some(144 * 27), Some(30), Some(30), Some(0), Some(0)]);
    assert_eq!(parameters(&graph, &graph.nodes), 108 + 15 + 5);
    assert_eq!(parameters(&graph, &graph.nodes[1..3]), 15 + 5, "a shared weight counts once");
}
