//! Folding of small constants: the corners where engines and shapes go wrong.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use bytes::Bytes;
use common::*;
use cordon_graph::onnx::{NodeProto, TensorProto};
use cordon_graph::{ElemType, ShapeRule, ShapeRules, Tensor, infer};

/// What does not fold stays as it is.
struct NoRules;

impl ShapeRules for NoRules {
    fn rule(&self, _: &str, _: &str, _: i64) -> Option<ShapeRule> {
        None
    }
}

/// What `node` with output `r` folds to.
fn folded(node: NodeProto, constants: Vec<TensorProto>) -> Option<Tensor> {
    let keep = common::node("Foreign", &["x", "r"], &["y"]).domain("foreign");
    let mut graph = read(&model(vec![node, keep], constants, &["y"])).unwrap();
    infer(&mut graph, &NoRules).unwrap();
    graph.values.iter().find(|value| value.name == "r").unwrap().constant.clone()
}

fn i64s_of(tensor: Option<Tensor>) -> (Vec<usize>, Vec<i64>) {
    let tensor = tensor.unwrap();
    (tensor.dims.clone(), tensor.to_i64().unwrap())
}

fn count(n: i64) -> TensorProto {
    i64s("a", &[n], &(0..n).collect::<Vec<_>>())
}

fn one(name: &str, values: &[i64]) -> TensorProto {
    i64s(name, &[values.len() as i64], values)
}

#[test]
fn slices_with_every_kind_of_bound() {
    let slice = |start: i64, end: i64, step: i64| {
        let node = node("Slice", &["a", "s", "e", "on", "by"], &["r"]);
        let constants = vec![count(5), one("s", &[start]), one("e", &[end]), one("on", &[-1]), one("by", &[step])];
        i64s_of(folded(node, constants)).1
    };
    assert_eq!(slice(1, 4, 1), [1, 2, 3]);
    assert_eq!(slice(-3, i64::MAX, 2), [2, 4]);
    assert_eq!(slice(-1, i64::MIN, -1), [4, 3, 2, 1, 0]);
    assert_eq!(slice(i64::MAX, -4, -2), [4, 2]);
    assert_eq!(slice(4, 1, 1), [0i64; 0]);
    assert_eq!(slice(0, 5, i64::MAX), [0]);
    let zero = vec![count(5), one("s", &[0]), one("e", &[1]), one("on", &[0]), one("by", &[0])];
    assert_eq!(folded(node("Slice", &["a", "s", "e", "on", "by"], &["r"]), zero), None);
}

#[test]
fn integer_arithmetic_is_exact_and_errors_stay_in_place() {
    let binary = |op: &str, a: &[i64], b: &[i64]| folded(node(op, &["a", "b"], &["r"]), vec![one("a", a), one("b", b)]);
    let values = |tensor| i64s_of(tensor).1;
    assert_eq!(values(binary("Div", &[7, -7], &[2])), [3, -3]);
    assert_eq!(values(binary("Mod", &[7, -7, 7, -7], &[3, 3, -3, -3])), [1, 2, -2, -1]);
    assert_eq!(values(binary("Add", &[i64::MAX], &[1])), [i64::MIN]);
    assert_eq!(values(binary("Max", &[1, 9], &[5])), [5, 9]);
    assert_eq!(binary("Div", &[1], &[0]), None);
    assert_eq!(binary("Div", &[i64::MIN], &[-1]), None);
    assert_eq!(binary("Add", &[1, 2], &[1, 2, 3]), None);
    assert_eq!(binary("Trilu", &[], &[]), None, "an operator this crate does not know");
    assert_eq!(binary("LessOrEqual", &[1, 2], &[1]).unwrap().to_bool().unwrap(), [true, false]);
}

#[test]
fn extents_are_rearranged() {
    let reshape = |to: &[i64]| folded(node("Reshape", &["a", "t"], &["r"]), vec![count(6), one("t", to)]);
    assert_eq!(reshape(&[2, -1]).unwrap().dims, [2, 3]);
    assert_eq!(reshape(&[0, 1]).unwrap().dims, [6, 1]);
    for wrong in [&[4, -1][..], &[-1, -1], &[7], &[-2, 3], &[1, 1, 0]] {
        assert_eq!(reshape(wrong), None, "{wrong:?}");
    }
    let gather = |indices: &[i64]| folded(node("Gather", &["a", "i"], &["r"]), vec![count(3), one("i", indices)]);
    assert_eq!(i64s_of(gather(&[-1, 0])).1, [2, 0]);
    assert_eq!(gather(&[3]), None);
    let unsqueeze = folded(node("Unsqueeze", &["a", "axes"], &["r"]), vec![count(2), one("axes", &[-1, 0])]);
    assert_eq!(unsqueeze.unwrap().dims, [1, 2, 1]);
    let expand = folded(node("Expand", &["a", "t"], &["r"]), vec![count(2), one("t", &[2, 1])]);
    assert_eq!(i64s_of(expand), (vec![2, 2], vec![0, 1, 0, 1]));
    let huge = folded(node("Expand", &["a", "t"], &["r"]), vec![count(1), one("t", &[1 << 40, 1 << 40])]);
    assert_eq!(huge, None, "left to others, and nothing is allocated");
    let empty = folded(
        node("Concat", &["a", "b"], &["r"]).with(int("axis", 0)),
        vec![i64s("a", &[0, 1 << 50], &[]), i64s("b", &[0, 1 << 50], &[])],
    );
    assert_eq!(empty.unwrap().dims, [0, 1 << 50]);
}

#[test]
fn casts_refuse_what_engines_disagree_on() {
    let cast = |values: &[f32], to: i64| {
        folded(node("Cast", &["a"], &["r"]).with(int("to", to)), vec![f32s("a", &[values.len() as i64], values)])
    };
    assert_eq!(i64s_of(cast(&[1.9, -1.9], 7)).1, [1, -1]);
    assert_eq!(cast(&[f32::NAN], 7), None);
    assert_eq!(cast(&[3e9], 6), None);
    assert_eq!(cast(&[0.0, 0.5], 9).unwrap().to_bool().unwrap(), [false, true]);
    assert_eq!(cast(&[1.0], 10), None, "half precision is left to the engine");
}

#[test]
fn shapes_fill_and_choose() {
    let range = folded(
        node("Range", &["s", "l", "d"], &["r"]),
        vec![i64s("s", &[], &[5]), i64s("l", &[], &[-1]), i64s("d", &[], &[-2])],
    );
    assert_eq!(i64s_of(range), (vec![3], vec![5, 3, 1]));
    let filled = node("ConstantOfShape", &["t"], &["r"]).with(tensor("value", i64s("", &[1], &[7])));
    assert_eq!(i64s_of(folded(filled, vec![one("t", &[2, 1])])), (vec![2, 1], vec![7, 7]));
    let choice = vec![bools("c", &[1, 0]), one("a", &[1, 2]), i64s("b", &[], &[9])];
    assert_eq!(i64s_of(folded(node("Where", &["c", "a", "b"], &["r"]), choice)).1, [1, 9]);
    let product = folded(node("ReduceProd", &["a"], &["r"]).with(int("keepdims", 0)), vec![one("a", &[2, 3, 4])]);
    assert_eq!(i64s_of(product), (vec![], vec![24]));
    let shape = node("Shape", &["x"], &["r"]).with(int("start", -1));
    assert_eq!(i64s_of(folded(shape, vec![])), (vec![1], vec![3]));
    assert_eq!(i64s_of(folded(node("Size", &["x"], &["r"]), vec![])), (vec![], vec![6]));
}

#[test]
fn weights_change_extents_without_being_copied() {
    let weight = f32s("w", &[300, 1000], &vec![0.5; 300_000]);
    let large = folded(node("Reshape", &["w", "t"], &["r"]), vec![weight.clone(), one("t", &[-1])]).unwrap();
    assert_eq!((large.elem, large.dims), (ElemType::Float, vec![300_000]));
    assert_eq!(folded(node("Transpose", &["w"], &["r"]), vec![weight]), None, "left to the executor");
    let bytes = Bytes::from_static(&[1, 2, 3, 4]);
    let small = TensorProto {
        name: Some("w".into()),
        data_type: Some(2),
        dims: vec![2, 2],
        raw_data: Some(bytes),
        ..Default::default()
    };
    assert_eq!(folded(node("Transpose", &["w"], &["r"]), vec![small]).unwrap().data[..], [1, 3, 2, 4]);
}
