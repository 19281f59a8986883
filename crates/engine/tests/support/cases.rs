//! One or more small Programs per instruction, with results worked out by hand.

use cordon_engine::program::{
    Along, Axis, BinaryOp, Conv2d, DType, Dense, Instruction as I, Layout, Lrn, Normalize, Operand, Pool, PoolKind,
    ReduceOp, Strided1, Strided2, Strided3, StridedCopy, UnaryOp,
};

use super::layers::{channels_across_blocks, conv_nd, conv_transposed, conv2d, dense, depthwise, matmul, pool};
use super::quantised;
use super::{Build, Value, arena, ramp};

/// A Program, its inputs and what must come out.
pub struct Case {
    pub name: &'static str,
    pub build: Build,
    pub inputs: Vec<Value>,
    pub expected: Vec<Value>,
}

/// An axis without padding or dilation.
pub fn axis(input: u32, output: u32, kernel: u32, stride: u32) -> Axis {
    Axis { input, output, kernel, stride, dilation: 1, pad_begin: 0, pad_end: 0 }
}

/// All of them.
pub fn all() -> Vec<Case> {
    let mut cases = vec![
        conv2d(false),
        conv2d(true),
        depthwise(),
        channels_across_blocks(),
        conv_nd(),
        conv_transposed(),
        pool(),
        dense(false),
        dense(true),
        matmul(),
        select(),
        lrn(),
        reduce(),
        argmax(),
        copy_and_fill(),
        gather(),
        interpolate(),
        cast(),
        network(),
        spill(),
    ];
    for in_place in [false, true] {
        cases.extend([unary(in_place), not(in_place), softmax(in_place), normalize(in_place)]);
    }
    cases.extend(quantised::all());
    cases.extend([binary(None), binary(Some(0)), binary(Some(1)), binary_other_types()]);
    cases
}

pub(super) fn f32s(v: &[f32]) -> Value {
    Value::F32(v.to_vec())
}

pub(super) fn case(name: &'static str, build: Build, inputs: Vec<Value>, expected: Vec<Value>) -> Case {
    Case { name, build, inputs, expected }
}

/// Lane 0 of `v`, other lanes 0.
pub(super) fn lane0(v: &[f32]) -> Vec<f32> {
    v.iter().flat_map(|&v| core::iter::once(v).chain([0.0; 15])).collect()
}

fn unary(in_place: bool) -> Case {
    let mut b = Build::new();
    let input = b.input(DType::F32, &[3]);
    let out = if in_place { input } else { b.f32(3) };
    b.push(I::Unary { op: UnaryOp::LeakyRelu { alpha: 0.5 }, input: arena(input), out });
    b.output(out);
    case("unary", b, vec![f32s(&[-2.0, 0.0, 3.0])], vec![f32s(&[-1.0, 0.0, 3.0])])
}

fn not(in_place: bool) -> Case {
    let mut b = Build::new();
    let input = b.input(DType::Bool, &[3]);
    let out = if in_place { input } else { b.region(DType::Bool, 3) };
    b.push(I::Not { input: arena(input), out });
    b.output(out);
    case("not", b, vec![Value::Bool(vec![0, 1, 0])], vec![Value::Bool(vec![1, 0, 1])])
}

fn binary(in_place: Option<usize>) -> Case {
    let mut b = Build::new();
    let full = b.input(DType::F32, &[2, 3]);
    let row = b.input(DType::F32, &[3]);
    let out = if in_place.is_some() { full } else { b.f32(6) };
    let (contiguous, broadcast) = (vec![3, 1], vec![0, 1]);
    let swap = in_place == Some(1);
    let (a, b_strides) = if swap { (broadcast, contiguous) } else { (contiguous, broadcast) };
    let (left, right) = if swap { (row, full) } else { (full, row) };
    b.push(I::Binary {
        op: BinaryOp::Sub,
        shape: Strided2 { dims: vec![2, 3], a, b: b_strides },
        a: arena(left),
        b: arena(right),
        activation: Some(UnaryOp::Relu),
        out,
    });
    b.output(out);
    let inputs = vec![f32s(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), f32s(&[3.0, 3.0, 4.0])];
    let expected = if swap { [2.0, 1.0, 1.0, 0.0, 0.0, 0.0] } else { [0.0, 0.0, 0.0, 1.0, 2.0, 2.0] };
    case("binary", b, inputs, vec![f32s(&expected)])
}

fn binary_other_types() -> Case {
    let mut b = Build::new();
    let i = b.input(DType::I64, &[2]);
    let x = b.input(DType::F32, &[2]);
    let two = b.weight_i64(&[2]);
    let yes = b.weight(&Value::Bool(vec![1]));
    let sum = b.region(DType::I64, 2);
    let [less, greater, both] = [(); 3].map(|()| b.region(DType::Bool, 2));
    let shape = Strided2 { dims: vec![2], a: vec![1], b: vec![0] };
    let two = Operand::Weight(two);
    let mut push = |op, a, b_operand, out| {
        b.push(I::Binary { op, shape: shape.clone(), a, b: b_operand, activation: None, out });
    };
    push(BinaryOp::Mul, arena(i), two, sum);
    push(BinaryOp::Add, arena(sum), two, sum);
    push(BinaryOp::Less, arena(i), two, less);
    push(BinaryOp::Greater, arena(x), arena(x), greater);
    push(BinaryOp::Xor, arena(less), Operand::Weight(yes), both);
    push(BinaryOp::Or, arena(both), arena(greater), both);
    [sum, less, greater, both].into_iter().for_each(|region| b.output(region));
    let inputs = vec![Value::I64(vec![1, 5]), f32s(&[1.0, 2.0])];
    let bools = [vec![1, 0], vec![0, 1], vec![0, 1]].map(Value::Bool);
    let expected = core::iter::once(Value::I64(vec![4, 12])).chain(bools).collect();
    case("binary_other_types", b, inputs, expected)
}

fn select() -> Case {
    let mut b = Build::new();
    let cond = b.input(DType::Bool, &[4]);
    let then = b.input(DType::F32, &[4]);
    let otherwise = b.weight_f32(&[-1.0]);
    let out = b.f32(4);
    b.push(I::Select {
        shape: Strided3 { dims: vec![4], a: vec![1], b: vec![1], c: vec![0] },
        cond: arena(cond),
        then: arena(then),
        otherwise: Operand::Weight(otherwise),
        out,
    });
    b.output(out);
    let inputs = vec![Value::Bool(vec![1, 0, 1, 0]), f32s(&[1.0, 2.0, 3.0, 4.0])];
    case("select", b, inputs, vec![f32s(&[1.0, -1.0, 3.0, -1.0])])
}

fn softmax(in_place: bool) -> Case {
    let mut b = Build::new();
    let input = b.input(DType::F32, &[2, 2]);
    let out = if in_place { input } else { b.f32(4) };
    b.push(I::Softmax { along: Along { outer: 2, len: 2, inner: 1 }, log: false, input: arena(input), out });
    b.output(out);
    let quarter = 1.0f32 / 4.0;
    let inputs = vec![f32s(&[7.0, 7.0, 3f32.ln(), 0.0])];
    case("softmax", b, inputs, vec![f32s(&[0.5, 0.5, 3.0 * quarter, quarter])])
}

fn normalize(in_place: bool) -> Case {
    let mut b = Build::new();
    let input = b.input(DType::F32, &[2, 2]);
    let scale = b.weight_f32(&[2.0, 2.0]);
    let bias = b.weight_f32(&[0.0, 1.0]);
    let out = if in_place { input } else { b.f32(4) };
    b.push(I::Normalize {
        geometry: Normalize { outer: 2, len: 2, channels: 2, inner: 1, epsilon: 0.0 },
        input: arena(input),
        scale: Some(Operand::Weight(scale)),
        bias: Some(Operand::Weight(bias)),
        out,
    });
    b.output(out);
    case("normalize", b, vec![f32s(&[1.0, 3.0, 8.0, 4.0])], vec![f32s(&[-2.0, 3.0, 2.0, -1.0])])
}

fn lrn() -> Case {
    let mut b = Build::new();
    let input = b.input(DType::F32, &[1, 2, 1]);
    let out = b.f32(2);
    let geometry = Lrn { n: 1, c: 2, inner: 1, size: 1, alpha: 1.0, beta: 1.0, bias: 1.0 };
    b.push(I::Lrn { geometry, input: arena(input), out });
    b.output(out);
    case("lrn", b, vec![f32s(&[1.0, 2.0])], vec![f32s(&[0.5, 0.4])])
}

fn reduce() -> Case {
    let mut b = Build::new();
    let input = b.input(DType::F32, &[2, 3]);
    let whole = b.input(DType::I64, &[4]);
    let (sum, largest) = (b.f32(2), b.region(DType::I64, 1));
    let strided = |dims: &[u32], a: &[u32]| Strided1 { dims: dims.to_vec(), a: a.to_vec() };
    b.push(I::Reduce {
        op: ReduceOp::Sum,
        kept: strided(&[2], &[3]),
        reduced: strided(&[3], &[1]),
        input: arena(input),
        out: sum,
    });
    b.push(I::Reduce {
        op: ReduceOp::Max,
        kept: strided(&[], &[]),
        reduced: strided(&[2, 2], &[2, 1]),
        input: arena(whole),
        out: largest,
    });
    b.output(sum);
    b.output(largest);
    let inputs = vec![f32s(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), Value::I64(vec![-5, 9, 3, 9])];
    case("reduce", b, inputs, vec![f32s(&[6.0, 15.0]), Value::I64(vec![9])])
}

fn argmax() -> Case {
    let mut b = Build::new();
    let input = b.input(DType::F32, &[2, 3]);
    let (first, last) = (b.region(DType::I64, 2), b.region(DType::I64, 2));
    let along = Along { outer: 2, len: 3, inner: 1 };
    b.push(I::ArgMax { along, smallest: false, last: false, input: arena(input), out: first });
    b.push(I::ArgMax { along, smallest: true, last: true, input: arena(input), out: last });
    b.output(first);
    b.output(last);
    let inputs = vec![f32s(&[1.0, 5.0, 5.0, 0.0, 0.0, 3.0])];
    case("argmax", b, inputs, vec![Value::I64(vec![1, 2]), Value::I64(vec![0, 1])])
}

fn copy_and_fill() -> Case {
    let mut b = Build::new();
    let input = b.input(DType::F32, &[2, 3]);
    let out = b.f32(8);
    b.push(I::Fill { value: 9f32.to_bits().into(), out });
    let transpose = StridedCopy { dims: vec![3, 2], from: 0, from_strides: vec![1, 3], to: 1, to_strides: vec![2, 1] };
    b.push(I::Copy { geometry: transpose, input: arena(input), out });
    let reversed = b.f32(3);
    let reverse = StridedCopy { dims: vec![3], from: 2, from_strides: vec![-1], to: 0, to_strides: vec![1] };
    b.push(I::Copy { geometry: reverse, input: arena(input), out: reversed });
    b.output(out);
    b.output(reversed);
    let inputs = vec![f32s(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])];
    let expected = vec![f32s(&[9.0, 1.0, 4.0, 2.0, 5.0, 3.0, 6.0, 9.0]), f32s(&[3.0, 2.0, 1.0])];
    case("copy_and_fill", b, inputs, expected)
}

/// A value leaves, its place is taken by another, and it comes back elsewhere.
fn spill() -> Case {
    let mut b = Build::new();
    let x = b.input(DType::F32, &[4]);
    let elsewhere = b.f32(4);
    b.push(I::Spill { slot: 3, value: x });
    b.push(I::Fill { value: 2f32.to_bits().into(), out: x });
    b.push(I::Restore { slot: 3, out: elsewhere });
    let shape = Strided2 { dims: vec![4], a: vec![1], b: vec![1] };
    b.push(I::Binary { op: BinaryOp::Mul, shape, a: arena(elsewhere), b: arena(x), activation: None, out: x });
    b.output(x);
    case("spill", b, vec![f32s(&[1.0, -2.0, 3.5, 0.25])], vec![f32s(&[2.0, -4.0, 7.0, 0.5])])
}

fn gather() -> Case {
    let mut b = Build::new();
    let indices = b.input(DType::I64, &[3]);
    let data = b.weight_f32(&[1.0, 2.0, 3.0, 4.0]);
    let out = b.f32(6);
    b.push(I::Gather {
        along: Along { outer: 1, len: 2, inner: 2 },
        count: 3,
        data: Operand::Weight(data),
        indices: arena(indices),
        out,
    });
    b.output(out);
    case("gather", b, vec![Value::I64(vec![1, 0, -1])], vec![f32s(&[3.0, 4.0, 1.0, 2.0, 3.0, 4.0])])
}

fn interpolate() -> Case {
    let mut b = Build::new();
    let input = b.input(DType::F32, &[2]);
    let (lo, hi) = (b.weight_i64(&[0, 0, 1]), b.weight_i64(&[0, 1, 1]));
    let frac = b.weight_f32(&[0.0, 0.25, 0.0]);
    let out = b.f32(3);
    let along = Along { outer: 1, len: 2, inner: 1 };
    b.push(I::Interpolate { along, count: 3, input: arena(input), lo, hi, frac, out });
    b.output(out);
    case("interpolate", b, vec![f32s(&[10.0, 20.0])], vec![f32s(&[10.0, 12.5, 20.0])])
}

fn cast() -> Case {
    let mut b = Build::new();
    let x = b.input(DType::F32, &[3]);
    let i = b.region(DType::I64, 3);
    let from_f32 = b.region(DType::Bool, 3);
    let from_i64 = b.region(DType::Bool, 3);
    let (back, flags, numbers) = (b.f32(3), b.f32(3), b.region(DType::I64, 3));
    for (input, out) in [(x, i), (x, from_f32), (i, from_i64), (i, back), (from_f32, flags), (from_f32, numbers)] {
        b.push(I::Cast { input: arena(input), out });
        b.output(out);
    }
    let expected = vec![
        Value::I64(vec![-1, 0, i64::MAX]),
        Value::Bool(vec![1, 1, 1]),
        Value::Bool(vec![1, 0, 1]),
        f32s(&[-1.0, 0.0, i64::MAX as f32]),
        f32s(&[1.0, 1.0, 1.0]),
        Value::I64(vec![1, 1, 1]),
    ];
    case("cast", b, vec![f32s(&[-1.75, 0.5, 1e30])], expected)
}

/// Convolution, pooling, dense, softmax, with weights over several chunks. The expected output is the plain arithmetic
/// of those four, in `f64`.
fn network() -> Case {
    const C: usize = 16;
    const K: usize = C * 4;
    const N: usize = 600;
    let image = ramp(36, 1);
    let kernel = ramp(C * 9, 2);
    let matrix = ramp(K * N, 3);
    let mut b = Build::new();
    let input = b.input(DType::F32, &[1, 1, 6, 6]);
    let conv = b.f32(16 * C as u32);
    let pooled = b.f32(4 * C as u32);
    let logits = b.f32(N as u32);
    let scores = b.f32(N as u32);
    // One input channel: (1, 1, 3, 3, 16) from (16, 3, 3).
    let packed: Vec<f32> = (0..9 * C).map(|i| kernel[(i % C) * 9 + i / C]).collect();
    let weight = b.weight_f32(&packed);
    let y = axis(6, 4, 3, 1);
    b.push(I::Conv2d {
        geometry: Conv2d { n: 1, groups: 1, ic: 1, oc: C as u32, y, x: y, input: Layout::Plain },
        input: arena(input),
        weight,
        bias: None,
        residual: None,
        activation: Some(UnaryOp::Relu),
        out: conv,
    });
    let axes = [Axis::UNIT, axis(4, 2, 2, 2), axis(4, 2, 2, 2)];
    b.push(I::Pool {
        geometry: Pool { kind: PoolKind::Max, planes: 1, lanes: 16, axes },
        input: arena(conv),
        out: pooled,
    });
    // Rows of the matrix in blocked order: k = position * 16 + channel. Packed as (ceil(N / 16), K, 16).
    let blocks = N.div_ceil(16);
    let column = |i: usize| i / (K * 16) * 16 + i % 16;
    let packed: Vec<f32> =
        (0..blocks * K * 16).map(|i| if column(i) < N { matrix[(i / 16 % K) * N + column(i)] } else { 0.0 }).collect();
    let weight = b.weight_f32(&packed);
    b.push(I::Dense {
        geometry: Dense { m: 1, k: K as u32, n: N as u32 },
        input: arena(pooled),
        weight,
        bias: None,
        residual: None,
        activation: None,
        out: logits,
    });
    let along = Along { outer: 1, len: N as u32, inner: 1 };
    b.push(I::Softmax { along, log: false, input: arena(logits), out: scores });
    b.output(scores);

    let mut features = vec![0f64; K];
    for c in 0..C {
        for (y, x) in (0..4).flat_map(|y| (0..4).map(move |x| (y, x))) {
            let taps = (0..9).map(|t| f64::from(image[(y + t / 3) * 6 + x + t % 3]) * f64::from(kernel[c * 9 + t]));
            let feature = &mut features[(y / 2 * 2 + x / 2) * C + c];
            *feature = feature.max(taps.sum());
        }
    }
    let logits: Vec<f64> = (0..N).map(|n| (0..K).map(|k| features[k] * f64::from(matrix[k * N + n])).sum()).collect();
    let largest = logits.iter().copied().fold(f64::MIN, f64::max);
    let total: f64 = logits.iter().map(|v| (v - largest).exp()).sum();
    let expected = logits.iter().map(|v| ((v - largest).exp() / total) as f32).collect();
    case("network", b, vec![Value::F32(image)], vec![Value::F32(expected)])
}
