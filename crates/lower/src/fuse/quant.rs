//! Bytes to `f32`, an operation, back to bytes: the integer instruction that does the same, see
//! [`cordon_kernels::quant`] for its arithmetic.
//!
//! Against the chain of `f32` instructions it replaces, a result may differ by one step where the exact value lies within a
//! few `f32` roundings of the middle between two bytes. Between kernel sets nothing differs.

use super::{Fuser, region};
use crate::context::BLOCK;
use crate::draft::Draft;
use crate::weights::{Form, WeightSource};
use cordon_engine::program::{
    BinaryOp, Conv2d, DType, Instruction, Layout, Operand, PoolKind, QConv2d, QDense, QResidual, Region, StridedCopy,
    Sum, Target, Tile, UnaryOp,
};
use cordon_kernels::{KernelSet, elementwise};

/// Most taps of one sum: 255 * 128 times this stays below 2^31.
const MAX_TAPS: usize = 65_000;

/// An integer instruction whose constants are made once it is chosen.
pub(super) struct Chosen {
    instruction: Instruction,
    /// Bytes for `weight`, `i64` for `bias` and `f32` for `scale` of a product, or the table of a lookup.
    constants: Constants,
    /// A copy of the input with channels in blocks of four, written where the `f32` instruction was.
    input: Option<(usize, Vec<StridedCopy>, Region, u32)>,
}

enum Constants {
    None,
    Product { weight: Vec<u8>, bias: Vec<i64>, scale: Vec<f32> },
    Table(Vec<u8>),
}

/// A value in bytes and what they mean.
#[derive(Clone, Copy)]
struct Bytes {
    region: Region,
    scale: f32,
    zero: u8,
}

/// What the chain ends in.
#[derive(Clone, Copy)]
struct End {
    scale: f32,
    to: Target,
    out: Region,
}

/// A rule for every instruction that may stand before a Quantize.
pub(super) fn integer(fuser: &Fuser<'_>, instruction: &Instruction) -> Option<Chosen> {
    match instruction {
        Instruction::Quantize { scale, to, input, out } => {
            let end = End { scale: *scale, to: *to, out: *out };
            let input = region(input)?;
            if let Some(bytes) = bytes_of(fuser, input) {
                return Some(requantised(bytes, end));
            }
            let (index, maker) = fuser.sole_maker(input)?;
            product(fuser, index, maker, end).or_else(|| moved(fuser, maker, end)).or_else(|| added(fuser, maker, end))
        }
        Instruction::QSum { .. } => residual(fuser, instruction).map(Chosen::plain),
        _ => None,
    }
}

impl Chosen {
    fn plain(instruction: Instruction) -> Self {
        Self { instruction, constants: Constants::None, input: None }
    }

    /// Makes the constants; `place` puts the instructions that prepare the input.
    pub(super) fn build(self, fuser: &mut Fuser<'_>) -> Instruction {
        let mut instruction = self.instruction;
        let draft: &mut Draft = fuser.draft;
        match (&mut instruction, self.constants) {
            (
                Instruction::QConv2d { weight, bias, scale, .. } | Instruction::QDense { weight, bias, scale, .. },
                Constants::Product { weight: w, bias: b, scale: s },
            ) => {
                *weight = draft.weight(WeightSource::new(Form::U8(w.into())));
                *bias = draft.weight(WeightSource::new(Form::I64(b)));
                *scale = draft.weight(WeightSource::new(Form::F32(s)));
            }
            (Instruction::Lookup { table, .. }, Constants::Table(bytes)) => {
                *table = draft.weight(WeightSource::new(Form::U8(bytes.into())));
            }
            _ => {}
        }
        if let (Instruction::QConv2d { input, .. }, Some((index, copies, from, len))) = (&mut instruction, self.input) {
            let out = Region { dtype: DType::U8, start: fuser.new_slot(DType::U8, len), len };
            fuser.uses[from.start as usize] += 1;
            *input = Operand::Arena(out);
            let copies =
                copies.into_iter().map(|geometry| Instruction::Copy { geometry, input: Operand::Arena(from), out });
            fuser.before.push((index, copies.collect()));
        }
        instruction
    }
}

/// The bytes a region was made of by a Dequantize.
fn bytes_of(fuser: &Fuser<'_>, region: &Region) -> Option<Bytes> {
    match fuser.maker(region)?.1 {
        Instruction::Dequantize { scale, zero, input: Operand::Arena(bytes), .. } if bytes.len == region.len => {
            Some(Bytes { region: *bytes, scale: *scale, zero: *zero })
        }
        _ => None,
    }
}

impl Bytes {
    fn means_the_same(&self, end: End) -> bool {
        self.scale == end.scale && end.to == Target::new(self.zero)
    }
}

/// From bytes to bytes: nothing but a copy when both mean the same.
fn requantised(bytes: Bytes, end: End) -> Chosen {
    let (input, out) = (Operand::Arena(bytes.region), end.out);
    if bytes.means_the_same(end) {
        let geometry = StridedCopy { dims: vec![out.len], from: 0, from_strides: vec![1], to: 0, to_strides: vec![1] };
        return Chosen::plain(Instruction::Copy { geometry, input, out });
    }
    table(bytes, end, |values| values.to_vec())
}

/// A function of one number, as a table: computed by the instructions it replaces.
fn table(bytes: Bytes, end: End, f: impl Fn(&[f32]) -> Vec<f32>) -> Chosen {
    let all: Vec<u8> = (0..=255).collect();
    let (mut reals, mut table) = (vec![0.0; 256], vec![0; 256]);
    cordon_kernels::quant::dequantize(KernelSet::PORTABLE, bytes.scale, bytes.zero, &all, &mut reals);
    cordon_kernels::quant::quantize(KernelSet::PORTABLE, end.scale, end.to, &f(&reals), &mut table);
    let none = Tile { tensor: 0, start: 0, len: 256 };
    let instruction = Instruction::Lookup { table: none, input: Operand::Arena(bytes.region), out: end.out };
    Chosen { instruction, constants: Constants::Table(table), input: None }
}

/// Functions of one value, copies and max pooling.
fn moved(fuser: &Fuser<'_>, maker: &Instruction, end: End) -> Option<Chosen> {
    match maker {
        Instruction::Unary { op, input, .. } => {
            let bytes = bytes_of(fuser, region(input)?)?;
            Some(table(bytes, end, |values| {
                let mut out = vec![0.0; values.len()];
                elementwise::unary(KernelSet::PORTABLE.into(), *op, values, &mut out);
                out
            }))
        }
        Instruction::Copy { geometry, input, out } => {
            let bytes = bytes_of(fuser, region(input)?)?;
            // A copy that leaves gaps would leave bytes that stand for no zero.
            let covers = geometry.len() == Some(u64::from(out.len));
            let geometry = geometry.clone();
            let copy = Instruction::Copy { geometry, input: Operand::Arena(bytes.region), out: end.out };
            (covers && bytes.means_the_same(end)).then(|| Chosen::plain(copy))
        }
        Instruction::Pool { geometry, input, .. } if geometry.kind == PoolKind::Max => {
            let bytes = bytes_of(fuser, region(input)?)?;
            let (geometry, input) = (*geometry, Operand::Arena(bytes.region));
            bytes.means_the_same(end).then(|| Chosen::plain(Instruction::QPool { geometry, input, out: end.out }))
        }
        _ => None,
    }
}

/// A sum of two values of one shape.
fn added(fuser: &Fuser<'_>, maker: &Instruction, end: End) -> Option<Chosen> {
    let Instruction::Binary { op: BinaryOp::Add, shape, a, b, activation, .. } = maker else { return None };
    let flat = crate::arena::contiguous(&shape.dims);
    if shape.a != flat || shape.b != flat {
        return None;
    }
    let (a, b) = (bytes_of(fuser, region(a)?)?, bytes_of(fuser, region(b)?)?);
    let to = clamped(end, activation.as_ref())?;
    let sum = Sum { a_scale: a.scale / end.scale, a_zero: a.zero, b_scale: b.scale / end.scale, b_zero: b.zero, to };
    let [a, b] = [a, b].map(|it| Operand::Arena(it.region));
    (a != b).then(|| Chosen::plain(Instruction::QSum { sum, a, b, out: end.out }))
}

/// A sum goes into the convolution that computes one side, the later one where both do.
fn residual(fuser: &Fuser<'_>, instruction: &Instruction) -> Option<Instruction> {
    let Instruction::QSum { sum, a, b, out } = instruction else { return None };
    let (a, b) = (region(a)?, region(b)?);
    let swapped =
        Sum { a_scale: sum.b_scale, a_zero: sum.b_zero, b_scale: sum.a_scale, b_zero: sum.a_zero, to: sum.to };
    let candidate = |computed: &Region, from: Region, sum: Sum| {
        let (index, maker) = fuser.sole_maker(computed)?;
        let open = matches!(maker, Instruction::QConv2d { residual: None, .. }) && computed.len == from.len;
        open.then(|| (index, maker.clone(), QResidual { from, sum }))
    };
    let both = [candidate(a, *b, *sum), candidate(b, *a, swapped)];
    let (_, mut fused, added) = both.into_iter().flatten().max_by_key(|found| found.0)?;
    if let Instruction::QConv2d { residual, out: to, .. } = &mut fused {
        *residual = Some(added);
        *to = *out;
    }
    Some(fused)
}

/// A function that only clamps becomes part of the target.
fn clamped(end: End, activation: Option<&UnaryOp>) -> Option<Target> {
    let byte = |v: f32| {
        let mut byte = [0];
        cordon_kernels::quant::quantize(KernelSet::PORTABLE, end.scale, end.to, &[v], &mut byte);
        byte[0]
    };
    let to = match activation {
        None => end.to,
        Some(UnaryOp::Relu) => Target { lo: end.to.lo.max(byte(0.0)), ..end.to },
        Some(UnaryOp::Clip { lo, hi }) if lo <= hi => Target { lo: byte(*lo), hi: byte(*hi), ..end.to },
        Some(_) => return None,
    };
    to.is_valid().then_some(to)
}

/// A convolution or a product with constant weights.
fn product(fuser: &Fuser<'_>, index: usize, maker: &Instruction, end: End) -> Option<Chosen> {
    match maker {
        Instruction::Conv2d { geometry, input, weight, bias, residual: None, activation, .. } => {
            let bytes = bytes_of(fuser, region(input)?)?;
            let (integers, reals) = weights_of(fuser.draft, weight)?;
            let to = clamped(end, activation.as_ref())?;
            let g = q_conv2d(geometry);
            let taps = (g.y.kernel * g.x.kernel) as usize;
            let channels = (g.ic / g.groups) as usize;
            let packed = pack(
                g.oc as usize,
                channels,
                taps,
                if g.is_depthwise() { 1 } else { g.lanes as usize },
                |oc, c, t| integers[(oc * channels + c) * taps + t],
            )?;
            let constants = finish(fuser.draft, packed, &reals, bytes, end, bias.as_ref())?;
            let none = Tile { tensor: 0, start: 0, len: 0 };
            let input = match geometry.input {
                Layout::Blocked => None,
                Layout::Plain => {
                    let len = u32::try_from(g.input_len()?).ok()?;
                    Some((index, into_fours(geometry), bytes.region, len))
                }
            };
            let instruction = Instruction::QConv2d {
                geometry: g,
                input: Operand::Arena(bytes.region),
                pad: bytes.zero,
                weight: none,
                bias: none,
                scale: none,
                to,
                residual: None,
                out: end.out,
            };
            Some(Chosen { instruction, constants, input })
        }
        Instruction::Dense { geometry: g, input, weight, bias, residual: None, activation, .. } => {
            let bytes = bytes_of(fuser, region(input)?)?;
            let (integers, reals) = weights_of(fuser.draft, weight)?;
            let to = clamped(end, activation.as_ref())?;
            let (k, n) = (g.k as usize, g.n as usize);
            let columns = matches!(fuser.draft.weights[weight.tensor as usize].form, Form::Columns { .. });
            let packed = pack(n, k, 1, BLOCK, |column, row, _| {
                integers[if columns { row * n + column } else { column * k + row }]
            })?;
            let constants = finish(fuser.draft, packed, &reals, bytes, end, bias.as_ref())?;
            let none = Tile { tensor: 0, start: 0, len: 0 };
            let instruction = Instruction::QDense {
                geometry: QDense { m: g.m, k: g.k, n: g.n },
                input: Operand::Arena(bytes.region),
                weight: none,
                bias: none,
                scale: none,
                to,
                out: end.out,
            };
            Some(Chosen { instruction, constants, input: None })
        }
        _ => None,
    }
}

/// The shape over bytes: an image of few channels is read in blocks of four.
fn q_conv2d(g: &Conv2d) -> QConv2d {
    let lanes = if g.input == Layout::Plain { 4 } else { BLOCK as u32 };
    QConv2d { n: g.n, groups: g.groups, ic: g.ic, oc: g.oc, y: g.y, x: g.x, lanes }
}

/// `(n, c, pixels)` to `(n, ceil(c / 4), pixels, 4)`: whole blocks, then the channels of a last partial one.
fn into_fours(g: &Conv2d) -> Vec<StridedCopy> {
    let pixels = g.y.input * g.x.input;
    let (whole, rest, blocks) = (g.ic / 4, g.ic % 4, g.ic.div_ceil(4));
    let step = |value: u32| value.cast_signed();
    let piece = |dims: Vec<u32>, first: u32, from: Vec<u32>, to: Vec<u32>| StridedCopy {
        dims,
        from: first * pixels,
        from_strides: from.into_iter().map(step).collect(),
        to: first * pixels,
        to_strides: to,
    };
    let image = (g.ic * pixels, blocks * pixels * 4);
    let mut pieces = Vec::new();
    if whole > 0 {
        let from = vec![image.0, 4 * pixels, 1, pixels];
        pieces.push(piece(vec![g.n, whole, pixels, 4], 0, from, vec![image.1, pixels * 4, 4, 1]));
    }
    if rest > 0 {
        pieces.push(piece(vec![g.n, pixels, rest], whole * 4, vec![image.0, 1, pixels], vec![image.1, 4, 1]));
    }
    pieces
}

/// Weights that are small integers times scales: the integers in source order, and the scales.
fn weights_of(draft: &Draft, tile: &Tile) -> Option<(Vec<i8>, Vec<f32>)> {
    let source = &draft.weights[tile.tensor as usize];
    let (constant, outer, columns) = match &source.form {
        _ if source.scale.is_some() => return None,
        Form::Rows { constant, outer, .. } | Form::Blocks { constant, outer, .. } => (constant, *outer, false),
        Form::Columns { constant, outer, .. } => (constant, *outer, true),
        _ => return None,
    };
    let scale = constant.scales.as_deref()?;
    let per_channel = scale.len() == outer;
    if !(per_channel || scale.len() == 1) || !scale.iter().all(|scale| scale.is_normal() && *scale > 0.0) {
        return None;
    }
    let values = constant.tensor.to_f32().ok()?;
    let inner = values.len() / outer;
    let channel = |index: usize| match (per_channel, columns) {
        (false, _) => 0,
        (true, false) => index / inner,
        (true, true) => index % outer,
    };
    // Every value is an integer times its scale, rounded once: dividing gives the integer back. Scales of another axis
    // would not.
    let integer = |(index, value): (usize, &f32)| {
        let integer = (value / scale[channel(index)]).round();
        let exact = integer * scale[channel(index)] == *value;
        (exact && (-128.0..=127.0).contains(&integer)).then_some(integer as i8)
    };
    let integers = values.iter().enumerate().map(integer).collect::<Option<Vec<_>>>()?;
    Some((integers, (0..outer).map(|oc| scale[if per_channel { oc } else { 0 }]).collect()))
}

/// Bytes of packed weights and the sum of each output channel's.
struct Packed {
    bytes: Vec<u8>,
    sums: Vec<i64>,
}

/// `(ceil(outer / 16), ceil(channels / lanes), taps, lanes / 4, 16, 4)`; with one lane `(ceil(outer / 16), taps, 16)`.
fn pack(
    outer: usize,
    channels: usize,
    taps: usize,
    lanes: usize,
    weight: impl Fn(usize, usize, usize) -> i8,
) -> Option<Packed> {
    if channels.checked_mul(taps)? > MAX_TAPS {
        return None;
    }
    let blocks = channels.div_ceil(lanes);
    let mut bytes = vec![0; outer.next_multiple_of(BLOCK) * blocks * taps * lanes];
    let mut sums = vec![0; outer];
    for (oc, sum) in sums.iter_mut().enumerate() {
        for (c, t) in (0..channels).flat_map(|c| (0..taps).map(move |t| (c, t))) {
            let value = weight(oc, c, t);
            *sum += i64::from(value);
            let at = match lanes {
                1 => (oc / 16 * taps + t) * 16 + oc % 16,
                _ => {
                    let tap = (oc / 16 * blocks + c / lanes) * taps + t;
                    (tap * (lanes / 4) + c % lanes / 4) * 64 + oc % 16 * 4 + c % 4
                }
            };
            bytes[at] = value.cast_unsigned();
        }
    }
    Some(Packed { bytes, sums })
}

/// Bias and scale of every output channel.
fn finish(
    draft: &Draft,
    packed: Packed,
    weight_scale: &[f32],
    input: Bytes,
    end: End,
    bias: Option<&Tile>,
) -> Option<Constants> {
    let reals = match bias {
        Some(tile) => draft.weights[tile.tensor as usize].f32_values()?,
        None => vec![0.0; weight_scale.len()],
    };
    let (mut bias, mut scale) = (Vec::new(), Vec::new());
    for ((&w, &sum), &real) in weight_scale.iter().zip(&packed.sums).zip(&reals) {
        let step = input.scale * w;
        let integer = (f64::from(real) / f64::from(step)).round_ties_even();
        if !step.is_normal() || integer.abs() > f64::from(1 << 30) {
            return None;
        }
        bias.push(integer as i64 - i64::from(input.zero) * sum);
        scale.push(step / end.scale);
    }
    let len = scale.len().next_multiple_of(BLOCK);
    bias.resize(len, 0);
    scale.resize(len, 0.0);
    Some(Constants::Product { weight: packed.bytes, bias, scale })
}

#[cfg(test)]
mod tests;
