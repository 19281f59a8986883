//! Programs of the instructions over bytes, with results worked out by hand.

use cordon_engine::program::{
    Axis, DType, Instruction as I, Pool, PoolKind, QConv2d, QDense, QResidual, Strided3, StridedCopy, Sum, Target,
};

use super::cases::{Case, axis};
use super::{Build, Value, arena};

/// All of them.
pub fn all() -> Vec<Case> {
    let mut cases =
        vec![quantize(), conv(None), conv(Some(false)), conv(Some(true)), depthwise(), dense(), pool(), moved()];
    for in_place in [false, true] {
        cases.extend([sum(in_place), lookup(in_place)]);
    }
    cases
}

fn case(name: &'static str, build: Build, inputs: Vec<Value>, expected: Vec<Value>) -> Case {
    Case { name, build, inputs, expected }
}

fn u8s(v: &[u8]) -> Value {
    Value::U8(v.to_vec())
}

/// Ties go to the even byte, both ends saturate.
fn quantize() -> Case {
    let mut b = Build::new();
    let x = b.input(DType::F32, &[5]);
    let (bytes, back) = (b.region(DType::U8, 5), b.f32(5));
    b.push(I::Quantize { scale: 0.5, to: Target::new(3), input: arena(x), out: bytes });
    b.push(I::Dequantize { scale: 0.5, zero: 3, input: arena(bytes), out: back });
    b.output(bytes);
    b.output(back);
    let inputs = vec![Value::F32(vec![0.25, 0.75, -1.0, -100.0, 1e9])];
    case("quantize", b, inputs, vec![u8s(&[3, 5, 1, 0, 255]), Value::F32(vec![0.0, 1.0, -1.0, -1.5, 126.0])])
}

/// Three channels of two by two pixels, windows of two columns with one column of padding before; output channel 0 adds
/// channel 0 and subtracts channel 2.
fn conv(residual: Option<bool>) -> Case {
    let mut b = Build::new();
    let input = b.input(DType::U8, &[2, 2, 4]);
    let mut packed = [0u8; 2 * 64];
    for tap in packed.chunks_exact_mut(64) {
        (tap[0], tap[2]) = (1, -1i8 as u8);
    }
    let weight = b.weight(&Value::U8(packed.to_vec()));
    let bias = b.weight_i64(&[10; 16]);
    let scale = b.weight_f32(&[0.5; 16]);
    let out = b.region(DType::U8, 4 * 16);
    let lane = b.region(DType::U8, 4);
    let sum = Sum { a_scale: 1.0, a_zero: 100, b_scale: 2.0, b_zero: 1, to: Target { zero: 7, lo: 7, hi: 255 } };
    let residual = residual.map(|in_place| {
        let from = if in_place { out } else { b.region(DType::U8, 4 * 16) };
        b.push(I::Fill { value: 2, out: from });
        QResidual { from, sum }
    });
    b.push(I::QConv2d {
        geometry: QConv2d {
            n: 1,
            groups: 1,
            ic: 3,
            oc: 1,
            y: axis(2, 2, 1, 1),
            x: Axis { pad_begin: 1, ..axis(2, 2, 2, 1) },
            lanes: 4,
        },
        input: arena(input),
        pad: 9,
        weight,
        bias,
        scale,
        to: Target::new(100),
        residual,
        out,
    });
    let geometry = StridedCopy { dims: vec![4], from: 0, from_strides: vec![16], to: 0, to_strides: vec![1] };
    b.push(I::Copy { geometry, input: arena(out), out: lane });
    b.output(lane);
    // Differences of channels 0 and 2: 3, 4, -5, 200. Padding has none. The fourth lane meets weights of zero.
    let image = [5, 77, 2, 99, 6, 77, 2, 99, 2, 77, 7, 99, 200, 77, 0, 99];
    // Halves of 10 + (0 + 3), 10 + (3 + 4), 10 + (0 - 5), 10 + (-5 + 200): ties to even.
    let products = [106, 108, 102, 202];
    let expected = if residual.is_none() { products } else { products.map(|x| x - 100 + 2 + 7) };
    case("q_conv2d", b, vec![u8s(&image)], vec![u8s(&expected)])
}

fn depthwise() -> Case {
    let mut b = Build::new();
    let input = b.input(DType::U8, &[1, 1, 2, 16]);
    let channels: Vec<u8> = (0..16).map(|channel| channel as u8).collect();
    let negative: Vec<u8> = channels.iter().map(|channel| channel.wrapping_neg()).collect();
    let weight = b.weight(&Value::U8([channels, negative].concat()));
    let bias = b.weight_i64(&[0; 16]);
    let scale = b.weight_f32(&[1.0; 16]);
    let out = b.region(DType::U8, 16);
    b.push(I::QConv2d {
        geometry: QConv2d { n: 1, groups: 16, ic: 16, oc: 16, y: axis(1, 1, 1, 1), x: axis(2, 1, 2, 1), lanes: 16 },
        input: arena(input),
        pad: 0,
        weight,
        bias,
        scale,
        to: Target { zero: 0, lo: 0, hi: 100 },
        residual: None,
        out,
    });
    b.output(out);
    // Channel c: 12 c - 5 c.
    let expected = (0..16).map(|channel| (7 * channel).min(100)).collect();
    case("q_depthwise", b, vec![u8s(&[[12; 16], [5; 16]].concat())], vec![Value::U8(expected)])
}

fn dense() -> Case {
    let mut b = Build::new();
    let input = b.input(DType::U8, &[2, 3]);
    let mut packed = [0u8; 256];
    for (column, weights) in [[1i8, 2, 3], [-1, 0, 1]].iter().enumerate() {
        for (k, &w) in weights.iter().enumerate() {
            packed[column * 4 + k] = w as u8;
        }
    }
    let weight = b.weight(&Value::U8(packed.to_vec()));
    let bias = b.weight_i64(&core::array::from_fn::<i64, 16, _>(|column| 100 * column as i64));
    let scale = b.weight_f32(&[1.0; 16]);
    let out = b.region(DType::U8, 4);
    let geometry = QDense { m: 2, k: 3, n: 2 };
    b.push(I::QDense { geometry, input: arena(input), weight, bias, scale, to: Target::new(0), out });
    b.output(out);
    case("q_dense", b, vec![u8s(&[1, 2, 3, 200, 0, 50])], vec![u8s(&[14, 102, 255, 0])])
}

fn sum(in_place: bool) -> Case {
    let mut b = Build::new();
    let left = b.input(DType::U8, &[3]);
    let right = b.input(DType::U8, &[3]);
    let out = if in_place { left } else { b.region(DType::U8, 3) };
    let sum = Sum { a_scale: 0.5, a_zero: 10, b_scale: 1.0, b_zero: 0, to: Target::new(5) };
    b.push(I::QSum { sum, a: arena(left), b: arena(right), out });
    b.output(out);
    case("q_sum", b, vec![u8s(&[10, 11, 0]), u8s(&[1, 1, 0])], vec![u8s(&[6, 7, 0])])
}

fn pool() -> Case {
    let mut b = Build::new();
    let input = b.input(DType::U8, &[1, 4]);
    let out = b.region(DType::U8, 2);
    let axes = [Axis::UNIT, Axis::UNIT, axis(4, 2, 2, 2)];
    let geometry = Pool { kind: PoolKind::Max, planes: 1, lanes: 1, axes };
    b.push(I::QPool { geometry, input: arena(input), out });
    b.output(out);
    case("q_pool", b, vec![u8s(&[3, 200, 9, 8])], vec![u8s(&[200, 9])])
}

fn lookup(in_place: bool) -> Case {
    let mut b = Build::new();
    let input = b.input(DType::U8, &[3]);
    let table = b.weight(&Value::U8((0..=255).rev().collect()));
    let out = if in_place { input } else { b.region(DType::U8, 3) };
    b.push(I::Lookup { table, input: arena(input), out });
    b.output(out);
    case("lookup", b, vec![u8s(&[0, 1, 255])], vec![u8s(&[255, 254, 0])])
}

/// Instructions that move any type.
fn moved() -> Case {
    let mut b = Build::new();
    let cond = b.input(DType::Bool, &[2]);
    let x = b.input(DType::U8, &[2]);
    let y = b.weight(&u8s(&[250]));
    let out = b.region(DType::U8, 2);
    b.push(I::Select {
        shape: Strided3 { dims: vec![2], a: vec![1], b: vec![1], c: vec![0] },
        cond: arena(cond),
        then: arena(x),
        otherwise: cordon_engine::program::Operand::Weight(y),
        out,
    });
    b.output(out);
    case("bytes moved", b, vec![Value::Bool(vec![1, 0]), u8s(&[3, 4])], vec![u8s(&[3, 250])])
}
