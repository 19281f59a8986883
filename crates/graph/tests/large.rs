//! Files over 2 GiB: read without copying, within the memory bound.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::*;
use cordon_graph::onnx::{ModelProto, StringStringEntryProto, TensorProto};
use cordon_graph::{ExportedModel, ImportOptions, NamePolicy, export, import, segment};
use prost::Message as _;
use prost::encoding::encode_varint;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

const SIZE: u64 = 3 << 30;
const SMALL: u64 = 4 * 6;

/// A model file whose one weight lies inside it: the zeros at its end are a hole.
fn write_inline(path: &Path) {
    let mut tensor =
        TensorProto { name: Some("w".into()), data_type: Some(1), dims: vec![SIZE as i64 / 4], ..Default::default() }
            .encode_to_vec();
    field(&mut tensor, 9, SIZE);
    let mut base = model(vec![node("Foreign", &["x", "w"], &["y"]).domain("foreign")], vec![], &["y"]);
    let mut graph = base.graph.take().unwrap().encode_to_vec();
    field(&mut graph, 5, tensor.len() as u64 + SIZE);
    graph.extend(tensor);
    let mut bytes = base.encode_to_vec();
    field(&mut bytes, 7, graph.len() as u64 + SIZE);
    bytes.extend(graph);
    let mut file = File::create(path).unwrap();
    file.write_all(&bytes).unwrap();
    file.set_len(bytes.len() as u64 + SIZE).unwrap();
}

/// The head of a length-delimited field whose content follows.
fn field(bytes: &mut Vec<u8>, number: u64, length: u64) {
    encode_varint(number << 3 | 2, bytes);
    encode_varint(length, bytes);
}

/// A model whose second weight lies beyond 2 GiB of its data file.
fn write_external(path: &Path) {
    let at = |name: &str, dims: &[i64], offset: u64, length: u64| TensorProto {
        name: Some(name.into()),
        data_type: Some(1),
        dims: dims.to_vec(),
        data_location: Some(1),
        external_data: [
            ("location", "big.bin".to_owned()),
            ("offset", offset.to_string()),
            ("length", length.to_string()),
        ]
        .map(|(key, value)| StringStringEntryProto { key: Some(key.into()), value: Some(value) })
        .to_vec(),
        ..Default::default()
    };
    let weights = vec![at("w", &[SIZE as i64 / 4], 0, SIZE), at("tail", &[2, 3], SIZE, SMALL)];
    let proto: ModelProto =
        model(vec![node("Foreign", &["x", "w", "tail"], &["y"]).domain("foreign")], weights, &["y"]);
    std::fs::write(path, proto.encode_to_vec()).unwrap();
    let mut file = File::create(path.with_file_name("big.bin")).unwrap();
    file.set_len(SIZE).unwrap();
    std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).unwrap();
    file.write_all(&[0, 0, 128, 63].repeat(6)).unwrap();
}

/// High-water mark of resident memory, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn three_gigabytes_are_read_and_cut_without_being_copied() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.onnx");
    let before = peak();
    for write in [write_inline, write_external] {
        write(&path);
        let graph = import(&path, &ImportOptions::default()).unwrap();
        let weight = graph.values[0].constant.as_ref().unwrap();
        assert_eq!(weight.data.len() as u64, SIZE);
        assert_eq!(weight.data[weight.data.len() - 1], 0);
        if let Some(tail) = graph.values.iter().find(|value| value.name == "tail") {
            assert_eq!(tail.constant.as_ref().unwrap().to_f32().unwrap(), [1.0; 6]);
        }
        let model: ExportedModel = export(&graph, &segment(&graph, graph.node_ids()), &NamePolicy::Original).unwrap();
        assert_eq!(model.data_len(), SIZE);
        assert!(model.model.len() < 4096);
    }
    // The bound allows 1.2 times the largest tensor more, but nothing here needs to touch it.
    let grown = peak() - before;
    assert!(grown < 64 << 20, "{grown} bytes");
}
