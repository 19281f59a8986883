//! Chains of a few nodes, and what they become.

use super::*;
use crate::testing::{OneNode, f32s, noise};
use cordon_graph::{ElemType, Tensor};

/// One byte, signed or not.
fn zero(elem: ElemType, byte: u8) -> Tensor {
    Tensor { elem, dims: Vec::new(), data: vec![byte].into() }
}

fn quantize(node: OneNode, scale: f32, elem: ElemType, at: u8) -> OneNode {
    node.then("QuantizeLinear").constant(f32s(&[], &[scale])).constant(zero(elem, at))
}

fn dequantize(node: OneNode, scale: f32, elem: ElemType, at: u8) -> OneNode {
    node.then("DequantizeLinear").constant(f32s(&[], &[scale])).constant(zero(elem, at))
}

/// `x`, through bytes and back.
fn image(dims: &[usize], elem: ElemType) -> OneNode {
    let at = if elem == ElemType::Int8 { 0u8 } else { 128 };
    let node = quantize(OneNode::new("Identity", 17).input(noise(dims, 1)), 0.01, elem, at);
    dequantize(node, 0.01, elem, at)
}

/// A constant node's output cannot be named by [`OneNode`], so weights are given as the product they are: small integers
/// times a scale for each channel, registered by the same route as a DequantizeLinear of constants.
fn weights(dims: &[usize], seed: u32) -> (Tensor, Tensor, Tensor) {
    let values = noise(dims, seed).to_f32().expect("f32");
    let bytes: Vec<u8> = values.iter().map(|v| ((v * 127.0) as i8).cast_unsigned()).collect();
    let scale: Vec<f32> = (0..dims[0]).map(|channel| 0.004 + channel as f32 * 1e-4).collect();
    let bytes = Tensor { elem: ElemType::Int8, dims: dims.to_vec(), data: bytes.into() };
    let zeros = Tensor { elem: ElemType::Int8, dims: vec![dims[0]], data: vec![0; dims[0]].into() };
    (bytes, f32s(&[dims[0]], &scale), zeros)
}

fn names(node: &OneNode) -> Vec<&'static str> {
    node.lower().expect("lowers").program.instructions.iter().map(Instruction::name).collect()
}

/// QLinearConv over the bytes of `x`: fused, and once more computed in `f64` from the same bytes.
fn conv(dims: &[usize], weight: &[usize], groups: i64, elem: ElemType) {
    let (bytes, scale, zeros) = weights(weight, 2);
    let at = if elem == ElemType::Int8 { 3u8 } else { 131 };
    let source = quantize(OneNode::new("Identity", 17).input(noise(dims, 1)), 0.01, elem, at);
    let input = source.run().remove(0);
    let node = source.then("QLinearConv").constant(f32s(&[], &[0.01])).constant(zero(elem, at));
    let node = node.constant(bytes.clone()).constant(scale.clone()).constant(zeros);
    let node = node.constant(f32s(&[], &[0.02])).constant(zero(elem, at)).int("group", groups);
    let node = node.ints("pads", &[1, 1, 1, 1]);
    assert!(names(&node).contains(&"QConv2d"), "{:?}", names(&node));
    assert!(!names(&node).contains(&"Dequantize"), "{:?}", names(&node));
    let got = node.run().remove(0);
    assert_eq!(got.elem, elem);
    let number = |byte: u8| if elem == ElemType::Int8 { i64::from(byte.cast_signed()) } else { i64::from(byte) };
    let (icg, ocg) = (weight[1], weight[0] / groups as usize);
    let [h, w, kh, kw] = [dims[2], dims[3], weight[2], weight[3]];
    let scale = scale.to_f32().expect("f32");
    let (oh, ow) = (h + 3 - kh, w + 3 - kw);
    assert_eq!(got.dims, [1, weight[0], oh, ow]);
    for (index, &byte) in got.data.iter().enumerate() {
        let (oc, oy, ox) = (index / ow / oh, index / ow % oh, index % ow);
        let mut sum = 0;
        for tap in 0..icg * kh * kw {
            let (c, y, x) = (tap / kw / kh, oy + tap / kw % kh, ox + tap % kw);
            if y >= 1 && x >= 1 && y <= h && x <= w {
                let x = input.data[((oc / ocg * icg + c) * h + y - 1) * w + x - 1];
                sum += (number(x) - number(at)) * i64::from(bytes.data[oc * icg * kh * kw + tap].cast_signed());
            }
        }
        let multiplier = 0.01f32 * scale[oc] / 0.02;
        let expected = f64::from(sum as f32 * multiplier).round_ties_even() as i64 + number(at);
        let range = if elem == ElemType::Int8 { -128..=127 } else { 0..=255 };
        assert_eq!(number(byte), expected.clamp(*range.start(), *range.end()), "{weight:?} element {index}");
    }
}

#[test]
fn convolutions_of_bytes_are_exact() {
    for elem in [ElemType::Uint8, ElemType::Int8] {
        conv(&[1, 3, 7, 6], &[20, 3, 3, 3], 1, elem);
        conv(&[1, 7, 5, 6], &[16, 7, 2, 3], 1, elem);
        conv(&[1, 20, 6, 5], &[33, 20, 3, 3], 1, elem);
        conv(&[1, 24, 6, 5], &[24, 1, 3, 3], 24, elem);
        conv(&[1, 32, 4, 5], &[32, 16, 1, 1], 2, elem);
    }
}

#[test]
fn a_function_of_one_value_becomes_a_table() {
    for elem in [ElemType::Uint8, ElemType::Int8] {
        let node = quantize(image(&[2, 9], elem).then("Sigmoid"), 1.0 / 256.0, elem, 0);
        assert!(names(&node).contains(&"Lookup") && !names(&node).contains(&"Unary"), "{:?}", names(&node));
        let plain = image(&[2, 9], elem).then("Sigmoid").run().remove(0).to_f32().expect("f32");
        let got = node.run().remove(0);
        for (byte, real) in got.data.iter().zip(plain) {
            let steps = (real * 256.0).round_ties_even();
            let (number, most) = match elem {
                ElemType::Int8 => (f32::from(byte.cast_signed()), 127.0),
                _ => (f32::from(*byte), 255.0),
            };
            assert_eq!(number, steps.min(most));
        }
    }
}

#[test]
fn moving_and_pooling_stay_in_bytes() {
    let node = image(&[1, 16, 4, 4], ElemType::Uint8).then("MaxPool").ints("kernel_shape", &[2, 2]);
    let node = quantize(node.ints("strides", &[2, 2]), 0.01, ElemType::Uint8, 128);
    assert!(names(&node).contains(&"QPool") && !names(&node).contains(&"Pool"), "{:?}", names(&node));
    let node = image(&[4, 6], ElemType::Uint8).then("Transpose");
    let node = quantize(node, 0.01, ElemType::Uint8, 128);
    assert!(!names(&node).contains(&"Dequantize"), "{:?}", names(&node));
    let before = quantize(image(&[4, 6], ElemType::Uint8), 0.01, ElemType::Uint8, 128).run().remove(0);
    let after = node.run().remove(0);
    assert!((0..24).all(|at| after.data[at] == before.data[at % 4 * 6 + at / 4]));
}

#[test]
fn what_is_not_recognised_still_runs() {
    let node = quantize(image(&[2, 8], ElemType::Int8).then("Softmax"), 1.0 / 256.0, ElemType::Uint8, 0);
    assert!(names(&node).contains(&"Dequantize"));
    let real = image(&[2, 8], ElemType::Int8).then("Softmax").run().remove(0).to_f32().expect("f32");
    let got = node.run().remove(0);
    assert!(got.data.iter().zip(real).all(|(&byte, real)| f32::from(byte) == (real * 256.0).round_ties_even()));
}
