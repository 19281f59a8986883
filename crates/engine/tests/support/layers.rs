//! Cases of convolutions, pools and products.

use cordon_engine::program::{
    Axis, Conv2d, ConvNd, DType, Dense, Instruction as I, Layout, MatMul, Operand, Pool, PoolKind, Region, Strided2,
    StridedCopy, UnaryOp,
};

use super::cases::{Case, axis, case, f32s, lane0};
use super::{Build, Value, arena};

pub(super) fn conv2d(residual: bool) -> Case {
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
pub(super) fn into_blocks(b: &mut Build, input: Region, channels: u32, positions: u32) -> Region {
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
pub(super) fn from_block(b: &mut Build, blocked: Region, channels: u32, positions: u32) -> Region {
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
pub(super) fn depthwise() -> Case {
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
pub(super) fn channels_across_blocks() -> Case {
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

pub(super) fn conv_nd() -> Case {
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

pub(super) fn conv_transposed() -> Case {
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

pub(super) fn pool() -> Case {
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

pub(super) fn dense(in_place_residual: bool) -> Case {
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

pub(super) fn matmul() -> Case {
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
