//! The digits network as file, as files, and as graph: one model, the same numbers.
#![allow(clippy::unwrap_used, reason = "tests")]

use cordon_executor::{Executor, Options, Tensor, open};
use cordon_graph::onnx::ModelProto;
use cordon_graph::{Graph, ImportOptions, NamePolicy, ValueId, export, fold, import, segment};
use cordon_plain::{EngineEvaluator, Origin, PlainModel};
use prost::Message as _;
use std::path::{Path, PathBuf};

fn digits() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/digits/digits.onnx")
}

fn engine() -> Box<dyn Executor> {
    open("rten", &Options { threads: Some(1), ..Options::default() }).unwrap()
}

fn image() -> Tensor {
    let pixels: Vec<f32> = (0..1024).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
    Tensor::from_f32(vec![1, 1, 32, 32], &pixels).unwrap()
}

fn run(mut plain: PlainModel, graph: &Graph) -> Vec<Tensor> {
    plain.run(&[(&graph.value(graph.inputs[0]).name, &image())]).unwrap()
}

fn close(got: &Tensor, want: &Tensor) -> bool {
    let (a, b) = (got.to_f64_lossy(), want.to_f64_lossy());
    let scale = b.iter().fold(0f64, |most, x| most.max(x.abs()));
    got.dims == want.dims && scale > 0.0 && a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 1e-5 * scale)
}

/// What every node but constants and the last computes, and the output.
fn every_value(graph: &Graph) -> Vec<ValueId> {
    graph.nodes.iter().flat_map(|node| node.outputs.iter().flatten().copied()).collect()
}

#[test]
fn the_file_hands_out_hidden_values_in_the_order_asked() {
    let graph = import(&digits(), &ImportOptions::default()).unwrap();
    let engine = engine();
    let mut values = every_value(&graph);
    values.reverse();
    assert!(values.len() > 5, "the network has hidden layers");
    let plain = PlainModel::open(&digits(), &graph, &values, &*engine).unwrap();
    assert_eq!(*plain.origin(), Origin::File);
    let from_file = run(plain, &graph);
    let from_graph = run(PlainModel::of_graph(&graph, &values, &*engine).unwrap(), &graph);
    assert_eq!(from_file.len(), values.len());
    for ((file, graph_), id) in from_file.iter().zip(&from_graph).zip(&values) {
        assert!(close(file, graph_), "{}", graph.value(*id).name);
    }
    let outputs = run(PlainModel::open(&digits(), &graph, &graph.outputs, &*engine).unwrap(), &graph);
    assert!(close(&from_file[0], &outputs[0]) && outputs.len() == 1);
}

#[test]
fn what_no_file_holds_comes_from_the_graph_and_says_why() {
    let mut graph = import(&digits(), &ImportOptions::default()).unwrap();
    let hidden = graph.nodes[0].outputs[0].unwrap();
    graph.values[hidden.0 as usize].name = "made_while_reading".into();
    let plain = PlainModel::open(&digits(), &graph, &[hidden], &*engine()).unwrap();
    assert!(matches!(plain.origin(), Origin::Graph(why) if why.contains("made_while_reading")), "{:?}", plain.origin());
    assert_eq!(run(plain, &graph).len(), 1);
}

/// The model with its large weights in a data file, or in two.
fn with_data_files(folder: &Path, files: usize) -> PathBuf {
    let graph = import(&digits(), &ImportOptions::default()).unwrap();
    let model = export(&graph, &segment(&graph, graph.node_ids()), &NamePolicy::Original).unwrap();
    let mut proto = ModelProto::decode(model.model.as_slice()).unwrap();
    let mut moved = 0;
    for tensor in &mut proto.graph.as_mut().unwrap().initializer {
        for entry in tensor.external_data.iter_mut().filter(|entry| entry.key() == "location") {
            entry.value = Some(format!("model{}.data", moved % files));
            moved += 1;
        }
    }
    assert!(moved > 1, "several weights lie outside");
    for file in 0..files {
        std::fs::write(folder.join(format!("model{file}.data")), model.data_bytes()).unwrap();
    }
    let path = folder.join("model.onnx");
    std::fs::write(&path, proto.encode_to_vec()).unwrap();
    path
}

#[test]
fn weights_beside_the_file_belong_to_it() {
    let graph = import(&digits(), &ImportOptions::default()).unwrap();
    let want = run(PlainModel::open(&digits(), &graph, &graph.outputs, &*engine()).unwrap(), &graph);
    for (files, as_it_is) in [(1, true), (2, false)] {
        let folder = tempfile::tempdir().unwrap();
        let path = with_data_files(folder.path(), files);
        let graph = import(&path, &ImportOptions::default()).unwrap();
        let plain = PlainModel::open(&path, &graph, &graph.outputs, &*engine()).unwrap();
        assert_eq!(*plain.origin() == Origin::File, as_it_is, "{:?}", plain.origin());
        assert!(close(&run(plain, &graph)[0], &want[0]));
    }
}

#[test]
fn a_folded_graph_computes_what_the_file_computes() {
    let mut graph = import(&digits(), &ImportOptions::default()).unwrap();
    fold(&mut graph, &mut EngineEvaluator(&*engine()), 1 << 20).unwrap();
    let file = run(PlainModel::open(&digits(), &graph, &graph.outputs, &*engine()).unwrap(), &graph);
    let read = run(PlainModel::of_graph(&graph, &graph.outputs, &*engine()).unwrap(), &graph);
    assert!(close(&read[0], &file[0]));
}

#[test]
fn an_input_that_does_not_fit_is_an_error_of_the_engine() {
    let graph = import(&digits(), &ImportOptions::default()).unwrap();
    let mut plain = PlainModel::open(&digits(), &graph, &graph.outputs, &*engine()).unwrap();
    let short = Tensor::from_f32(vec![1, 1, 2, 2], &[0.0; 4]).unwrap();
    assert!(plain.run(&[(&graph.value(graph.inputs[0]).name, &short)]).is_err());
    assert!(plain.run(&[("no such input", &image())]).is_err());
}
