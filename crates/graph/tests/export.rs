//! What is written reads back as the same graph, and carries nothing else.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use bytes::Bytes;
use common::*;
use cordon_graph::onnx::{ModelProto, StringStringEntryProto};
use cordon_graph::{
    Attribute, ExportedModel, Graph, GraphError, ImportOptions, NamePolicy, NodeId, PAGE, ValueId, export,
    import_bytes, infer, segment,
};
use prost::Message as _;
use std::collections::BTreeMap;

fn again(model: &ExportedModel) -> Graph {
    let data = BTreeMap::from([(model.location.clone(), model.data_bytes())]);
    import_bytes(Bytes::from(model.model.clone()), None, &ImportOptions { data, ..Default::default() }).unwrap()
}

/// Everything a graph says, by name.
fn content(graph: &Graph) -> Vec<String> {
    let mut lines = listing(graph);
    lines.extend(graph.nodes.iter().map(|node| format!("{} {:?}", node.name, node.attributes)));
    lines
        .extend(graph.values.iter().filter_map(|value| Some(format!("{} {:?}", value.name, value.constant.as_ref()?))));
    lines.extend(graph.inputs.iter().map(|&id| format!("{} {:?}", graph.value(id).name, graph.value(id).ty)));
    lines.sort();
    lines
}

/// Two big weights, a small one, a subgraph that captures a value and a constant, and plenty of remarks.
fn rich() -> ModelProto {
    let mut then = branch(
        vec![node("Add", &["a", "k"], &["s"]).named("inner_secret_name")],
        vec![f32s("k2", &[1], &[1.0])],
        &["s"],
    );
    then.doc_string = Some("remark".into());
    then.node[0].doc_string = Some("remark".into());
    then.value_info.push(info("s", 1, fixed(&[2, 3])));
    let nodes = vec![
        node("MatMul", &["x", "w1"], &["a"])
            .named("secret_layer")
            .dress(|node| node.doc_string = Some("remark".into())),
        node("Foreign", &["a", "w2", "small"], &["flag"])
            .domain("foreign")
            .with(ints("sizes", &[1, -2]))
            .with(float("ratio", 0.5))
            .with(tensor("table", f32s("table_name", &[2], &[3.0, 4.0]))),
        node("If", &["flag"], &["y"])
            .with(subgraph("then_branch", then))
            .with(subgraph("else_branch", branch(vec![node("Relu", &["a"], &["s"])], vec![], &["s"]))),
        node("Relu", &["y"], &["z"]),
    ];
    let weights = vec![
        f32s("w1", &[400, 3], &[0.5; 1200]),
        f32s("unused", &[2], &[9.0; 2]),
        f32s("w2", &[300], &[0.25; 300]),
        f32s("small", &[2], &[1.0, 2.0]),
        f32s("k", &[3], &[1.0, 2.0, 3.0]),
    ];
    let mut proto = model(nodes, weights, &["y", "z"]);
    proto.doc_string = Some("remark".into());
    proto.producer_name = Some("remark".into());
    proto.metadata_props = vec![StringStringEntryProto { key: Some("remark".into()), value: Some("remark".into()) }];
    proto
}

#[test]
fn a_whole_model_reads_back_equal() {
    let graph = read(&rich()).unwrap();
    let model = export(&graph, &segment(&graph, graph.node_ids()), &NamePolicy::Original).unwrap();
    let mut before = content(&graph);
    before.retain(|line| !line.starts_with("unused "));
    let copy = again(&model);
    // Subgraphs are stored encoded: scrubbing changed them on the way out, so compare once scrubbed.
    let third = again(&export(&copy, &segment(&copy, copy.node_ids()), &NamePolicy::Original).unwrap());
    assert_eq!(content(&copy), content(&third));
    let plain = |lines: Vec<String>| lines.into_iter().filter(|line| !line.contains("Opaque")).collect::<Vec<_>>();
    assert_eq!(plain(before), plain(content(&copy)));
    assert!(!model.model.windows(6).any(|window| window == b"remark"));
    assert!(!model.model.windows(6).any(|window| window == b"unused"));
}

#[test]
fn weights_lie_page_aligned_in_one_file() {
    let graph = read(&rich()).unwrap();
    let model = export(&graph, &segment(&graph, graph.node_ids()), &NamePolicy::Original).unwrap();
    let names: Vec<&str> = model.data.iter().map(|piece| graph.value(piece.value).name.as_str()).collect();
    assert_eq!(names, ["w1", "w2"], "small tensors stay in the model");
    assert!(model.data.iter().all(|piece| piece.offset % PAGE == 0));
    assert_eq!(model.data[1].offset, 2 * PAGE, "4800 bytes take two pages");
    let mut written = Vec::new();
    model.write_data(&mut written).unwrap();
    assert_eq!(written, model.data_bytes());
    assert_eq!(written.len() as u64, model.data_len());
    assert_eq!(written[2 * PAGE as usize..][..4], 0.25f32.to_le_bytes());
}

#[test]
fn neutral_names_tell_nothing_but_the_interface() {
    let mut graph = read(&rich()).unwrap();
    infer(&mut graph, &Rules).unwrap();
    let (x, y) = (graph.inputs[0], graph.outputs[0]);
    let keep = BTreeMap::from([(x, "image".to_owned()), (y, "v1".to_owned())]);
    let policy = NamePolicy::Neutral(keep);
    let model = export(&graph, &segment(&graph, graph.node_ids()), &policy).unwrap();
    for word in ["secret", "w1", "small", "flag", "k2", "table_name", "remark", "branch\0"] {
        assert!(!model.model.windows(word.len()).any(|window| window == word.as_bytes()), "{word}");
    }
    assert_eq!(model.inputs, [(x, "image".to_owned())]);
    assert_eq!(model.outputs[0], (y, "v1".to_owned()));
    let copy = again(&model);
    assert_eq!(copy.nodes.len(), graph.nodes.len());
    // The subgraph still captures the same values: the product and the constant.
    let captured = &copy.nodes[2].captures;
    assert!(captured.contains(&copy.nodes[0].outputs[0].unwrap()));
    assert!(captured.iter().any(|&id| copy.value(id).constant.as_ref().is_some_and(|k| k.dims == [3])));
    assert!(matches!(copy.nodes[2].attributes["then_branch"], Attribute::Opaque(_)));
    let clash = NamePolicy::Neutral(BTreeMap::from([(x, "same".to_owned()), (y, "same".to_owned())]));
    let error = export(&graph, &segment(&graph, graph.node_ids()), &clash).unwrap_err();
    assert!(matches!(error, GraphError::Misuse(_)), "{error}");
}

#[test]
fn a_middle_segment_is_a_model_of_its_own() {
    let mut graph = read(&rich()).unwrap();
    infer(&mut graph, &Rules).unwrap();
    let middle = segment(&graph, [NodeId(1), NodeId(2)]);
    let names = |ids: &[ValueId]| ids.iter().map(|&id| graph.value(id).name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&middle.inputs), ["a"]);
    assert_eq!(names(&middle.outputs), ["y"], "y is an output of the model and used later");
    let mut typed = graph.clone();
    for &id in &middle.inputs {
        typed.values[id.0 as usize].ty = Some(cordon_graph::TensorType::new(cordon_graph::ElemType::Float, [2, 3]));
    }
    let model = export(&typed, &middle, &NamePolicy::Original).unwrap();
    assert!(!model.model.windows(2).any(|window| window == b"w1"));
    let copy = again(&model);
    assert_eq!(listing(&copy), ["Foreign(a, w2, small) -> flag", "If(flag) -> y"]);
    let proto = ModelProto::decode(&model.model[..]).unwrap();
    let domains: Vec<_> = proto.opset_import.iter().map(|import| import.domain().to_owned()).collect();
    assert_eq!(domains, ["", "foreign"], "only what the segment uses");
}

#[test]
fn string_constants_pass_verbatim() {
    let words = cordon_graph::onnx::TensorProto {
        name: Some("words".into()),
        data_type: Some(8),
        dims: vec![2],
        string_data: vec![Bytes::from_static(b"cat"), Bytes::from_static(b"dog")],
        ..Default::default()
    };
    let graph =
        read(&model(vec![node("Foreign", &["x", "words"], &["y"]).domain("foreign")], vec![words], &["y"])).unwrap();
    let model = export(&graph, &segment(&graph, graph.node_ids()), &NamePolicy::Original).unwrap();
    assert_eq!(content(&again(&model)), content(&graph));
    let words = graph.values[0].constant.as_ref().unwrap();
    assert!(words.to_f32().is_err() && words.to_i64().is_err());
}
