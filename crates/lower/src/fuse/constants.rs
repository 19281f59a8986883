//! Rules about constant operands: `x * s + t` per channel goes into the weights and bias that precede it, and a scalar
//! operand becomes part of the instruction.

use super::{Fuser, region};
use crate::broadcast::per_channel;
use crate::context::BLOCK;
use crate::draft::Draft;
use crate::weights::{Form, WeightSource};
use cordon_engine::program::{
    Axis, BinaryOp, Conv2d, ConvNd, DType, Instruction, Layout, Operand, Region, Strided2, Tile, UnaryOp,
};

/// A product whose constants change; the new weights are made by [`Folded::build`].
pub(super) struct Folded {
    maker: Instruction,
    out: Region,
    scale: Vec<f32>,
    shift: Vec<f32>,
}

/// `scale * x + shift` per channel (one entry each means all channels).
struct Affine {
    scale: Vec<f32>,
    shift: Vec<f32>,
}

/// Batch normalisation, a bias added separately, or any constant per-channel factor after a convolution or product.
pub(super) fn fold_affine(fuser: &Fuser<'_>, instruction: &Instruction) -> Option<Folded> {
    let (maker, affine) = match instruction {
        Instruction::Unary { op: UnaryOp::Affine { scale, offset }, input, .. } => {
            let (_, maker) = fuser.sole_maker(region(input)?)?;
            (maker, Affine { scale: vec![*scale], shift: vec![*offset] })
        }
        Instruction::Binary { op, shape, a, b, activation: None, .. } => {
            let (computed, constant, swapped) = match (a, b) {
                (Operand::Arena(computed), Operand::Weight(tile)) => (computed, tile, false),
                (Operand::Weight(tile), Operand::Arena(computed)) => (computed, tile, true),
                _ => return None,
            };
            let (_, maker) = fuser.sole_maker(computed)?;
            let shape = if swapped { swap(shape) } else { shape.clone() };
            let channels = output_channels(maker)?;
            if shape != channel_shape(maker)? {
                return None;
            }
            let mut values = fuser.draft.weights[constant.tensor as usize].f32_values()?;
            values.truncate(channels);
            (maker, affine(*op, values, swapped).filter(|it| it.scale.len().max(it.shift.len()) == channels)?)
        }
        _ => return None,
    };
    let channels = output_channels(maker)?;
    let spread = |values: Vec<f32>| if values.len() == channels { values } else { vec![values[0]; channels] };
    let folded = Folded {
        maker: maker.clone(),
        out: instruction.out(),
        scale: spread(affine.scale),
        shift: spread(affine.shift),
    };
    folded.possible(fuser.draft).then_some(folded)
}

fn swap(shape: &Strided2) -> Strided2 {
    Strided2 { dims: shape.dims.clone(), a: shape.b.clone(), b: shape.a.clone() }
}

/// `op(x, c)`, or `op(c, x)` when swapped.
fn affine(op: BinaryOp, c: Vec<f32>, swapped: bool) -> Option<Affine> {
    let one = || vec![1.0];
    let zero = || vec![0.0];
    let negated = |c: Vec<f32>| c.into_iter().map(|v| -v).collect();
    Some(match (op, swapped) {
        (BinaryOp::Add, _) => Affine { scale: one(), shift: c },
        (BinaryOp::Sub, false) => Affine { scale: one(), shift: negated(c) },
        (BinaryOp::Sub, true) => Affine { scale: vec![-1.0], shift: c },
        (BinaryOp::Mul, _) => Affine { scale: c, shift: zero() },
        (BinaryOp::Div, false) => Affine { scale: c.into_iter().map(|v| 1.0 / v).collect(), shift: zero() },
        _ => return None,
    })
}

/// Output channels of an instruction with weights that nothing was fused after yet.
fn output_channels(maker: &Instruction) -> Option<usize> {
    match maker {
        Instruction::Conv2d { geometry, residual: None, activation: None, .. } => Some(geometry.oc as usize),
        Instruction::ConvNd { geometry, activation: None, .. } => Some(geometry.oc as usize),
        Instruction::Dense { geometry, residual: None, activation: None, .. } => Some(geometry.n as usize),
        _ => None,
    }
}

/// Strides that a constant of one value per output channel has against the instruction's result.
fn channel_shape(maker: &Instruction) -> Option<Strided2> {
    let extents = |list: &[u32]| list.iter().map(|&extent| extent as usize).collect::<Vec<_>>();
    match maker {
        Instruction::Conv2d { geometry: g, .. } => {
            Some(per_channel(&extents(&[g.n, g.oc, g.y.output, g.x.output]), Layout::Blocked, 1))
        }
        Instruction::ConvNd { geometry: g, .. } => {
            let [z, y, x] = g.axes.map(|axis| axis.output);
            Some(per_channel(&extents(&[g.n, g.oc, z, y, x]), Layout::Plain, 1))
        }
        Instruction::Dense { geometry: g, .. } => Some(per_channel(&extents(&[g.m, g.n]), Layout::Plain, 1)),
        _ => None,
    }
}

impl Folded {
    fn scales(&self) -> bool {
        self.scale.iter().any(|&factor| factor != 1.0)
    }

    /// Whether the weights are constant and can be scaled per output channel, and the bias can be read.
    fn possible(&self, draft: &Draft) -> bool {
        let constant_bias =
            |bias: &Option<Tile>| bias.is_none_or(|tile| draft.weights[tile.tensor as usize].f32_values().is_some());
        match &self.maker {
            Instruction::Conv2d { bias, .. } | Instruction::Dense { bias, .. } => constant_bias(bias),
            Instruction::ConvNd { geometry, weight, bias, .. } => {
                let scalable = matches!(weight, Operand::Weight(_)) && (!geometry.transposed || geometry.groups == 1);
                constant_bias(bias) && (scalable || !self.scales())
            }
            _ => false,
        }
    }

    pub(super) fn build(self, draft: &mut Draft) -> Instruction {
        let scales = self.scales();
        let Self { mut maker, out, scale, shift } = self;
        match &mut maker {
            Instruction::Conv2d { weight, bias, .. } | Instruction::Dense { weight, bias, .. } => {
                if scales {
                    *weight = scaled(draft, weight, &scale, 1);
                }
                let len = scale.len().next_multiple_of(BLOCK);
                *bias = Some(new_bias(draft, bias, &scale, shift, len));
            }
            Instruction::ConvNd { geometry, weight, bias, .. } => {
                if let (Operand::Weight(tile), true) = (&*weight, scales) {
                    let inner = elements_per_factor(geometry, tile);
                    *weight = Operand::Weight(scaled(draft, tile, &scale, inner));
                }
                *bias = Some(new_bias(draft, bias, &scale, shift, scale.len()));
            }
            // `possible` admits no other instruction.
            _ => {}
        }
        *maker.out_mut() = out;
        maker
    }
}

/// Neighbouring weights of one output channel, in ONNX's own order.
fn elements_per_factor(geometry: &ConvNd, weight: &Tile) -> usize {
    let channels = if geometry.transposed { geometry.ic as usize * geometry.oc as usize } else { geometry.oc as usize };
    weight.len as usize / channels
}

fn scaled(draft: &mut Draft, weight: &Tile, factors: &[f32], inner: usize) -> Tile {
    let old = &draft.weights[weight.tensor as usize];
    let scale = match &old.scale {
        None => factors.to_vec(),
        Some(before) => {
            factors.iter().enumerate().map(|(index, factor)| factor * before[index % before.len()]).collect()
        }
    };
    let source = WeightSource { scale: Some(scale), scale_inner: inner, ..WeightSource::new(old.form.clone()) };
    draft.weight(source)
}

fn new_bias(draft: &mut Draft, old: &Option<Tile>, scale: &[f32], shift: Vec<f32>, len: usize) -> Tile {
    let mut values = shift;
    if let Some(before) = old.and_then(|tile| draft.weights[tile.tensor as usize].f32_values()) {
        for ((value, factor), before) in values.iter_mut().zip(scale).zip(before) {
            *value += factor * before;
        }
    }
    values.resize(len, 0.0);
    draft.weight(WeightSource::new(Form::F32(values)))
}

/// `x * s + t` per channel of a blocked value, which becomes a depthwise convolution of one tap.
pub(super) struct PerChannel {
    input: Region,
    out: Region,
    geometry: Conv2d,
    scale: Vec<f32>,
    shift: Vec<f32>,
}

/// A constant factor and a constant term per channel that nothing before them can take in: batch normalisation after a
/// concatenation. One pass, into which an activation goes as well.
pub(super) fn factor_and_term(fuser: &Fuser<'_>, instruction: &Instruction) -> Option<PerChannel> {
    let (product, scaled, shift) = channel_constant(fuser, instruction, BinaryOp::Add)?;
    let (_, maker) = fuser.sole_maker(&product)?;
    let (input, same, scale) = channel_constant(fuser, maker, BinaryOp::Mul)?;
    let extent = |extent: u32| Axis {
        input: extent,
        output: extent,
        kernel: 1,
        stride: 1,
        dilation: 1,
        pad_begin: 0,
        pad_end: 0,
    };
    let [n, blocks, cells, _] = scaled;
    let channels = blocks * BLOCK as u32;
    let geometry = Conv2d {
        n,
        groups: channels,
        ic: channels,
        oc: channels,
        y: extent(1),
        x: extent(cells),
        input: Layout::Blocked,
    };
    (scaled == same).then_some(PerChannel { input, out: instruction.out(), geometry, scale, shift })
}

/// The value, its extents as `(n, blocks, cells, 16)`, and the constants of `op` with one of them per channel.
fn channel_constant(
    fuser: &Fuser<'_>,
    instruction: &Instruction,
    wanted: BinaryOp,
) -> Option<(Region, [u32; 4], Vec<f32>)> {
    let Instruction::Binary { op, shape, a, b, activation: None, .. } = instruction else { return None };
    let (value, constant, shape) = match (a, b) {
        (Operand::Arena(value), Operand::Weight(tile)) => (value, tile, shape.clone()),
        (Operand::Weight(tile), Operand::Arena(value)) => (value, tile, swap(shape)),
        _ => return None,
    };
    let lanes = BLOCK as u32;
    let (extents, steps) = match (&shape.dims[..], &shape.b[..]) {
        (&[blocks, cells, last], steps) => ([1, blocks, cells, last], [0, steps[0], steps[1], steps[2]]),
        (&[n, blocks, cells, last], steps) => ([n, blocks, cells, last], [steps[0], steps[1], steps[2], steps[3]]),
        _ => return None,
    };
    let fits = *op == wanted
        && value.dtype == DType::F32
        && shape.a == crate::arena::contiguous(&shape.dims)
        && extents[3] == lanes
        && steps == [0, lanes, 0, 1]
        && constant.len == extents[1] * lanes;
    let values = if fits { fuser.draft.weights[constant.tensor as usize].f32_values()? } else { return None };
    Some((*value, extents, values))
}

impl PerChannel {
    pub(super) fn build(self, draft: &mut Draft) -> Instruction {
        let [weight, bias] = [self.scale, self.shift].map(|values| draft.weight(WeightSource::new(Form::F32(values))));
        Instruction::Conv2d {
            geometry: self.geometry,
            input: Operand::Arena(self.input),
            weight,
            bias: Some(bias),
            residual: None,
            activation: None,
            out: self.out,
        }
    }
}

/// `x + c`, `x * c`, `c - x`, `x / c`, `x^2`, `x^0.5` with one constant `c` for all elements.
pub(super) fn scalar_operand(fuser: &Fuser<'_>, instruction: &Instruction) -> Option<Instruction> {
    let Instruction::Binary { op, shape, a, b, activation: None, out } = instruction else { return None };
    let (input, tile, strides, swapped) = match (a, b) {
        (Operand::Arena(region), Operand::Weight(tile)) => (region, tile, &shape.a, false),
        (Operand::Weight(tile), Operand::Arena(region)) => (region, tile, &shape.b, true),
        _ => return None,
    };
    if tile.len != 1 || input.dtype != DType::F32 || out.dtype != DType::F32 || input.len != out.len {
        return None;
    }
    if *strides != crate::arena::contiguous(&shape.dims) {
        return None;
    }
    let values = fuser.draft.weights[tile.tensor as usize].f32_values()?;
    let c = *values.first()?;
    let input = Operand::Arena(*input);
    match (op, swapped) {
        (BinaryOp::Pow, false) if c == 2.0 => {
            let shape = Strided2 { dims: shape.dims.clone(), a: strides.clone(), b: strides.clone() };
            Some(Instruction::Binary { op: BinaryOp::Mul, shape, a: input, b: input, activation: None, out: *out })
        }
        (BinaryOp::Pow, false) if c == 0.5 => Some(Instruction::Unary { op: UnaryOp::Sqrt, input, out: *out }),
        _ => {
            let Affine { scale, shift } = affine(*op, values, swapped)?;
            let op = UnaryOp::Affine { scale: scale[0], offset: shift[0] };
            Some(Instruction::Unary { op, input, out: *out })
        }
    }
}
