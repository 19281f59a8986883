//! Hostile files: external data that reaches elsewhere, and a seeded mutation of whole models.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use bytes::Bytes;
use common::*;
use cordon_graph::onnx::{ModelProto, StringStringEntryProto, TensorProto};
use cordon_graph::{
    GraphError, ImportOptions, Limits, NamePolicy, Tensor, cut_table, digest, export, import, import_bytes, infer,
    macs, parameters, segment,
};
use prost::Message as _;
use std::fs;
use std::path::Path;

fn external(pairs: &[(&str, &str)]) -> TensorProto {
    let pair =
        |(key, value): &(&str, &str)| StringStringEntryProto { key: Some((*key).into()), value: Some((*value).into()) };
    TensorProto {
        name: Some("w".into()),
        data_type: Some(1),
        dims: vec![2, 3],
        data_location: Some(1),
        external_data: pairs.iter().map(pair).collect(),
        ..Default::default()
    }
}

fn with_weight(weight: TensorProto) -> ModelProto {
    model(vec![node("Add", &["x", "w"], &["y"])], vec![weight], &["y"])
}

/// Reads a model whose weight is `pairs`, from a directory that holds `w.bin` of 40 bytes.
fn attempt(pairs: &[(&str, &str)], prepare: impl FnOnce(&Path)) -> Result<Tensor, GraphError> {
    let outer = tempfile::tempdir().unwrap();
    let directory = outer.path().join("model");
    fs::create_dir(&directory).unwrap();
    fs::write(outer.path().join("secret.bin"), [7; 40]).unwrap();
    let numbers: Vec<u8> = (0..40).collect();
    fs::write(directory.join("w.bin"), numbers).unwrap();
    prepare(&directory);
    let path = directory.join("m.onnx");
    fs::write(&path, with_weight(external(pairs)).encode_to_vec()).unwrap();
    let graph = import(&path, &ImportOptions::default())?;
    assert!(digest(&path).is_ok());
    Ok(graph.values[0].constant.clone().unwrap())
}

#[test]
fn external_data_is_read_where_it_should_be() {
    let tensor = attempt(&[("location", "w.bin"), ("offset", "8"), ("length", "24")], |_| ()).unwrap();
    assert_eq!(tensor.data[..], (8..32).collect::<Vec<u8>>());
    let tensor = attempt(&[("location", "w.bin")], |_| ()).unwrap();
    assert_eq!(tensor.data[..], (0..24).collect::<Vec<u8>>());
    let below = |directory: &Path| {
        fs::create_dir(directory.join("sub")).unwrap();
        fs::write(directory.join("sub/v.bin"), [1; 24]).unwrap();
    };
    assert!(attempt(&[("location", "sub/v.bin"), ("checksum", "ignored")], below).is_ok());
}

#[test]
fn external_data_cannot_reach_elsewhere() {
    for location in
        ["../secret.bin", "sub/../../secret.bin", "/etc/passwd", "", ".", "w.bin/../w.bin", "./w.bin", "a\0b"]
    {
        let error = attempt(&[("location", location)], |_| ()).unwrap_err();
        assert!(matches!(error, GraphError::Malformed(_)), "{location}: {error}");
    }
    let refused = |location: &str, prepare: fn(&Path), why: &str| {
        let error = attempt(&[("location", location)], prepare).unwrap_err().to_string();
        assert!(error.contains(why), "{why}: {error}");
    };
    let link = |directory: &Path| std::os::unix::fs::symlink("../secret.bin", directory.join("l.bin")).unwrap();
    refused("l.bin", link, "symbolic link");
    let inner = |directory: &Path| std::os::unix::fs::symlink("w.bin", directory.join("l.bin")).unwrap();
    refused("l.bin", inner, "symbolic link");
    let folder = |directory: &Path| std::os::unix::fs::symlink("..", directory.join("up")).unwrap();
    refused("up/secret.bin", folder, "symbolic link");
    let hard = |directory: &Path| fs::hard_link(directory.join("../secret.bin"), directory.join("h.bin")).unwrap();
    refused("h.bin", hard, "hard link");
    refused("sub", |directory| fs::create_dir(directory.join("sub")).unwrap(), "not a regular file");
    let fifo = |directory: &Path| {
        assert!(std::process::Command::new("mkfifo").arg(directory.join("f")).status().unwrap().success());
    };
    refused("f", fifo, "not a regular file");
    assert!(matches!(attempt(&[("location", "absent")], |_| ()), Err(GraphError::Io { .. })));
}

#[test]
fn external_data_must_fit_its_file_and_its_extents() {
    for (pairs, why) in [
        (&[("location", "w.bin"), ("offset", "17")][..], "beyond the end"),
        (&[("location", "w.bin"), ("offset", "18446744073709551610")], "beyond the end"),
        (&[("location", "w.bin"), ("length", "23")], "length 23"),
        (&[("location", "w.bin"), ("length", "18446744073709551615")], "length"),
        (&[("location", "w.bin"), ("offset", "-1")], "offset `-1`"),
        (&[("location", "w.bin"), ("offset", "1e3")], "offset"),
        (&[("location", "w.bin"), ("location", "w.bin")], "twice"),
        (&[("offset", "0")], "no location"),
    ] {
        let error = attempt(pairs, |_| ()).unwrap_err();
        assert!(matches!(&error, GraphError::Malformed(_)) && error.to_string().contains(why), "{why}: {error}");
    }
    let mut both = external(&[("location", "w.bin")]);
    both.raw_data = Some(Bytes::from_static(&[0; 24]));
    let error = read(&with_weight(both)).unwrap_err().to_string();
    assert!(error.contains("both"), "{error}");
    let error = read(&with_weight(external(&[("location", "w.bin")]))).unwrap_err();
    assert!(matches!(error, GraphError::Misuse(_)), "{error}");
}

#[test]
fn external_data_of_subgraphs_is_taken_in() {
    let inner = branch(vec![node("Add", &["x", "w"], &["s"])], vec![external(&[("location", "w.bin")])], &["s"]);
    let nodes = vec![
        node("Foreign", &["x"], &["flag"]).domain("foreign"),
        node("If", &["flag"], &["y"])
            .with(subgraph("then_branch", inner.clone()))
            .with(subgraph("else_branch", branch(vec![node("Relu", &["x"], &["s"])], vec![], &["s"]))),
    ];
    let numbers: Vec<u8> = (100..140).collect();
    let options = ImportOptions { data: [("w.bin".into(), Bytes::from(numbers))].into(), ..Default::default() };
    let graph = read_with(&model(nodes, vec![], &["y"]), &options).unwrap();
    let model = export(&graph, &segment(&graph, graph.node_ids()), &NamePolicy::Original).unwrap();
    assert!(model.model.windows(24).any(|window| window.iter().copied().eq(100..124)));
    assert!(import_bytes(Bytes::from(model.model), None, &ImportOptions::default()).is_ok());
}

#[test]
fn files_that_are_no_models_are_refused() {
    for bytes in [&b""[..], b"\x89PNG\r\n\x1a\n", b"hello", &[0xff; 64]] {
        let error = import_bytes(Bytes::copy_from_slice(bytes), None, &ImportOptions::default()).unwrap_err();
        assert!(matches!(error, GraphError::Malformed(_)), "{error}");
    }
    let error = import(Path::new("/"), &ImportOptions::default()).unwrap_err();
    assert!(matches!(error, GraphError::NotAFile(_)), "{error}");
    let error = import(Path::new("/nonexistent.onnx"), &ImportOptions::default()).unwrap_err();
    assert!(matches!(error, GraphError::Io { .. }), "{error}");
}

/// The oracle, also for fuzzing: whatever the bytes, reading ends in a graph or a named error; a graph survives every
/// pass, and what is exported of it reads back as the same graph.
pub(crate) fn check(bytes: &[u8]) -> Result<(), GraphError> {
    let limits = Limits { nodes: 2000, structure_bytes: 64 << 20, tensor_bytes: 1 << 24, ..Limits::default() };
    let options = ImportOptions { limits, ..Default::default() };
    let mut graph = import_bytes(Bytes::copy_from_slice(bytes), None, &options)?;
    infer(&mut graph, &Rules)?;
    for node in &graph.nodes {
        let _ = macs(&graph, node);
    }
    let _ = parameters(&graph, &graph.nodes);
    for cut in cut_table(&graph) {
        let (front, back) = graph.node_ids().partition::<Vec<_>, _>(|id| (id.0 as usize) < cut.index);
        assert!(segment(&graph, front).outputs.iter().all(|id| cut.values.contains(id)));
        assert!(segment(&graph, back).inputs.iter().all(|id| cut.values.contains(id)));
    }
    let whole = segment(&graph, graph.node_ids());
    for policy in [NamePolicy::Original, NamePolicy::Neutral(Default::default())] {
        let model = export(&graph, &whole, &policy).unwrap();
        let data = [(model.location.clone(), model.data_bytes())].into();
        let options = ImportOptions { data, ..Default::default() };
        let again = import_bytes(Bytes::from(model.model), None, &options).unwrap();
        assert_eq!(again.nodes.len(), graph.nodes.len());
    }
    Ok(())
}

/// Models that reach most of the reader.
fn seeds() -> Vec<Vec<u8>> {
    let leak = function("leak", &["a"], &["b"], vec![node("LeakyRelu", &["a"], &["b"]).with(float("alpha", 0.1))]);
    let mut functions = model(vec![node("leak", &["x"], &["y"]).domain("local")], vec![], &["y"]);
    functions.functions = vec![leak];
    let then = branch(vec![node("Add", &["x", "k"], &["s"])], vec![f32s("k", &[1], &[1.0])], &["s"]);
    let otherwise = branch(vec![node("Mul", &["x", "g"], &["s"])], vec![], &["s"]);
    let control = |flag: Vec<_>, nodes: Vec<_>| {
        let choice = node("If", &["flag"], &["y"])
            .with(subgraph("then_branch", then.clone()))
            .with(subgraph("else_branch", otherwise.clone()));
        let initializers = [flag, vec![f32s("g", &[3], &[1.0, 2.0, 3.0])]].concat();
        model([nodes, vec![choice]].concat(), initializers, &["y"])
    };
    let shapes = model(
        vec![
            node("Shape", &["x"], &["s"]),
            node("Gather", &["s", "zero"], &["n"]),
            node("Concat", &["n", "rest"], &["to"]).with(int("axis", 0)),
            node("Slice", &["to", "zero", "two"], &["cut"]),
            node("Reshape", &["x", "cut"], &["r"]),
            node("Expand", &["w", "two"], &["e"]),
            node("Relu", &["r"], &["y"]),
            node("Foreign", &["r", "e"], &["z"]).domain("foreign"),
        ],
        vec![
            i64s("zero", &[1], &[0]),
            i64s("two", &[1], &[2]),
            i64s("rest", &[1], &[3]),
            f32s("w", &[300], &[0.25; 300]),
        ],
        &["y", "z"],
    );
    let models = [
        functions,
        control(vec![bools("flag", &[1])], vec![]),
        control(vec![], vec![node("Foreign", &["x"], &["flag"]).domain("foreign")]),
        shapes,
    ];
    models.iter().map(|model| model.encode_to_vec()).collect()
}

#[test]
fn mutated_models_end_in_a_graph_or_an_error() {
    let mut state = 0x0dd5_eed5_u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    let (mut read, mut total) = (0, 0);
    let seeds = seeds();
    for seed in &seeds {
        check(seed).unwrap();
        for _ in 0..4000 {
            let mut bytes = seed.clone();
            for _ in 0..1 + next() % 4 {
                let at = next() % bytes.len();
                match next() % 5 {
                    0 => bytes[at] = next() as u8,
                    1 => bytes[at] ^= 1 << (next() % 8),
                    2 => bytes.truncate(at.max(1)),
                    3 => bytes.insert(at, next() as u8),
                    _ => {
                        let from = next() % bytes.len();
                        let piece = bytes[from..(from + 1 + next() % 32).min(bytes.len())].to_vec();
                        bytes.splice(at..at, piece);
                    }
                }
            }
            read += usize::from(check(&bytes).is_ok());
            total += 1;
        }
    }
    // Neither may be rare, or the test would prove nothing.
    assert!(read > total / 20 && read < total * 19 / 20, "{read} of {total} were read");
}
