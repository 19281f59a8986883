//! One or more small Programs per instruction, with results worked out by hand.

use cordon_engine::program::{
    Along, Axis, BinaryOp, Conv2d, ConvNd, DType, Dense, Instruction as I, Layout, Lrn, MatMul, Normalize, Operand,
    Pool, PoolKind, ReduceOp, Region, Strided1, Strided2, Strided3, StridedCopy, UnaryOp,
};

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

fn f32s(v: &[f32]) -> Value {
    Value::F32(v.to_vec())
}

fn case(name: &'static str, build: Build, inputs: Vec<Value>, expected: Vec<Value>) -> Case {
    Case { name, build, inputs, expected }
}

/// Lane 0 of `v`, other lanes 0.
fn lane0(v: &[f32]) -> Vec<f32> {
    v.iter().flat_map(|&v| core::iter::once(v).chain([0.0; 15])).collect()
}

fn conv2d(residual: bool) -> Case {
    let mut b = Build::new();
    let input = b.input(DType::F32, &[1, 1, 3, 3]);
    let weight = b.weight_f32(&lane0(&[1.0; 4]));
    let bias = b.weight_f32(&lane0(&[-20.0]));
    let (out, plain) = (b.f32(4 * 16), b.f32(4));
    if residual {
        b.push(I::Fill { value: 1f32.to_bits().into(), out });
    }
    let y = axis(3, 2, 2, 1);
    b.push(I::Conv2d {
        geometry: Conv2d { n: 1, groups: 1, ic: 1, oc: 1, y, x: y, input: Layout::Plain },
        input: arena(input),
        weight,
        bias: Some(bias),
        residual: residual.then_some(out),
        activation: Some(UnaryOp::Relu),
        out,
    });
    let lane = StridedCopy { dims: vec![4], from: 0, from_strides: vec![16], to: 0, to_strides: vec![1] };
    b.push(I::Copy { geometry: lane, input: arena(out), out: plain });
    b.output(plain);
    let input = (1..=9).map(|v| v as f32).collect();
    let expected = if residual { [0.0, 0.0, 5.0, 9.0] } else { [0.0, 0.0, 4.0, 8.0] };
    case("conv2d", b, vec![Value::F32(input)], vec![f32s(&expected)])
}

/// Puts `(channels, positions)` into blocks whose unused lanes hold NaN: no result may depend on them.
fn into_blocks(b: &mut Build, input: Region, channels: u32, positions: u32) -> Region {
    let blocked = b.f32(channels.next_multiple_of(16) * positions);
    b.push(I::Fill { value: f32::NAN.to_bits().into(), out: blocked });
    for (first, count) in (0..channels).step_by(16).map(|first| (first, 16.min(channels - first))) {
        let geometry = StridedCopy {
            dims: vec![positions, count],
            from: first * positions,
            from_strides: vec![1, positions as i32],
            to: first * positions,
            to_strides: vec![16, 1],
        };
        b.push(I::Copy { geometry, input: arena(input), out: blocked });
    }
    blocked
}

/// The inverse, for at most 16 channels.
fn from_block(b: &mut Build, blocked: Region, channels: u32, positions: u32) -> Region {
    let out = b.f32(channels * positions);
    let geometry = StridedCopy {
        dims: vec![channels, positions],
        from: 0,
        from_strides: vec![1, 16],
        to: 0,
        to_strides: vec![positions, 1],
    };
    b.push(I::Copy { geometry, input: arena(blocked), out });
    out
}

/// Five channels of ones, 3 x 3 windows of the channel's number with padding: sums count the taps inside.
fn depthwise() -> Case {
    let mut b = Build::new();
    let input = b.input(DType::F32, &[1, 5, 3, 3]);
    let blocked = into_blocks(&mut b, input, 5, 9);
    let lanes: Vec<f32> = (0..16).map(|lane| if lane < 5 { lane as f32 } else { 0.0 }).collect();
    let weight = b.weight_f32(&lanes.repeat(9));
    let out = b.f32(9 * 16);
    let y = Axis { pad_begin: 1, pad_end: 1, ..axis(3, 3, 3, 1) };
    b.push(I::Conv2d {
        geometry: Conv2d { n: 1, groups: 5, ic: 5, oc: 5, y, x: y, input: Layout::Blocked },
        input: arena(blocked),
        weight,
        bias: None,
        residual: None,
        activation: None,
        out,
    });
    let out = from_block(&mut b, out, 5, 9);
    b.output(out);
    let taps = [4.0, 6.0, 4.0, 6.0, 9.0, 6.0, 4.0, 6.0, 4.0];
    let expected = (0..5).flat_map(|c| taps.map(|taps| taps * c as f32)).collect();
    case("depthwise", b, vec![f32s(&[1.0; 45])], vec![Value::F32(expected)])
}

/// A dense 1 x 1 convolution of 17 channels onto one, dilated and strided where that changes nothing; the second block
/// of the input has fifteen lanes of NaN.
fn channels_across_blocks() -> Case {
    let mut b = Build::new();
    let input = b.input(DType::F32, &[1, 17, 1, 2]);
    let blocked = into_blocks(&mut b, input, 17, 2);
    let weight = b.weight_f32(&lane0(&[1.0; 17]));
    let out = b.f32(2 * 16);
    let (y, x) = (Axis { dilation: 3, ..axis(1, 1, 1, 7) }, axis(2, 2, 1, 1));
    b.push(I::Conv2d {
        geometry: Conv2d { n: 1, groups: 1, ic: 17, oc: 1, y, x, input: Layout::Blocked },
        input: arena(blocked),
        weight,
        bias: None,
        residual: None,
        activation: Some(UnaryOp::Clip { lo: 0.0, hi: 200.0 }),
        out,
    });
    let out = from_block(&mut b, out, 1, 2);
    b.output(out);
    let image = (0..34).map(|i| (i / 2 * (1 + i % 2)) as f32).collect();
    case("channels_across_blocks", b, vec![Value::F32(image)], vec![f32s(&[136.0, 200.0])])
}

fn conv_nd() -> Case {
    let mut b = Build::new();
    let input = b.input(DType::F32, &[1, 1, 3, 3]);
    let weight = b.weight_f32(&[1.0, 0.0, 0.0, -1.0]);
    let out = b.f32(4);
    let y = axis(3, 2, 2, 1);
    b.push(I::ConvNd {
        geometry: ConvNd { n: 1, groups: 1, ic: 1, oc: 1, axes: [Axis::UNIT, y, y], transposed: false },
        input: arena(input),
        weight: Operand::Weight(weight),
        bias: None,
        activation: None,
        out,
    });
    b.output(out);
    let input = (1..=9).map(|v| v as f32).collect();
    case("conv_nd", b, vec![Value::F32(input)], vec![f32s(&[-4.0; 4])])
}

fn conv_transposed() -> Case {
    let mut b = Build::new();
    let input = b.input(DType::F32, &[1, 1, 2, 2]);
    let weight = b.weight_f32(&[1.0; 4]);
    let bias = b.weight_f32(&[0.5]);
    let out = b.f32(16);
    let y = axis(2, 4, 2, 2);
    b.push(I::ConvNd {
        geometry: ConvNd { n: 1, groups: 1, ic: 1, oc: 1, axes: [Axis::UNIT, y, y], transposed: true },
        input: arena(input),
        weight: Operand::Weight(weight),
        bias: Some(bias),
        activation: None,
        out,
    });
    b.output(out);
    let expected = [1.5, 1.5, 2.5, 2.5, 1.5, 1.5, 2.5, 2.5, 3.5, 3.5, 4.5, 4.5, 3.5, 3.5, 4.5, 4.5];
    case("conv_transposed", b, vec![f32s(&[1.0, 2.0, 3.0, 4.0])], vec![f32s(&expected)])
}

fn pool() -> Case {
    let mut b = Build::new();
    let input = b.input(DType::F32, &[1, 1, 4, 4]);
    let (max, mean) = (b.f32(4), b.f32(1));
    let axes = [Axis::UNIT, axis(4, 2, 2, 2), axis(4, 2, 2, 2)];
    b.push(I::Pool {
        geometry: Pool { kind: PoolKind::Max, planes: 1, lanes: 1, axes },
        input: arena(input),
        out: max,
    });
    let axes = [Axis::UNIT, axis(4, 1, 4, 1), axis(4, 1, 4, 1)];
    b.push(I::Pool {
        geometry: Pool { kind: PoolKind::Average, planes: 1, lanes: 1, axes },
        input: arena(input),
        out: mean,
    });
    b.output(max);
    b.output(mean);
    let input = (0..16).map(|v| v as f32).collect();
    case("pool", b, vec![Value::F32(input)], vec![f32s(&[5.0, 7.0, 13.0, 15.0]), f32s(&[7.5])])
}

fn dense(in_place_residual: bool) -> Case {
    let mut b = Build::new();
    let input = b.input(DType::F32, &[2, 3]);
    let other = b.input(DType::F32, &[2, 2]);
    let mut packed = vec![0.0; 3 * 16];
    for (k, row) in [[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]].iter().enumerate() {
        packed[k * 16..k * 16 + 2].copy_from_slice(row);
    }
    let weight = b.weight_f32(&packed);
    let mut bias = vec![0.0; 16];
    bias[1] = 100.0;
    let bias = b.weight_f32(&bias);
    let out = if in_place_residual { other } else { b.f32(4) };
    b.push(I::Dense {
        geometry: Dense { m: 2, k: 3, n: 2 },
        input: arena(input),
        weight,
        bias: Some(bias),
        residual: Some(other),
        activation: None,
        out,
    });
    b.output(out);
    let inputs = vec![f32s(&[1.0, 0.0, 0.0, 1.0, 1.0, 1.0]), f32s(&[0.5, 0.25, 0.0, -1.0])];
    case("dense", b, inputs, vec![f32s(&[1.5, 104.25, 6.0, 114.0])])
}

fn matmul() -> Case {
    let mut b = Build::new();
    let left = b.input(DType::F32, &[2, 1, 2]);
    let right = b.input(DType::F32, &[2, 2]);
    let out = b.f32(4);
    b.push(I::MatMul {
        geometry: MatMul {
            m: 1,
            k: 2,
            n: 2,
            batch: Strided2 { dims: vec![2], a: vec![2], b: vec![0] },
            a: [2, 1],
            b: [2, 1],
        },
        a: arena(left),
        b: arena(right),
        out,
    });
    b.output(out);
    let inputs = vec![f32s(&[1.0, 2.0, 3.0, 4.0]), f32s(&[1.0, 10.0, 100.0, 1000.0])];
    case("matmul", b, inputs, vec![f32s(&[201.0, 2010.0, 403.0, 4030.0])])
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
