//! Normalisations and softmax.

use super::{Operator, axis, op, op_range, same_as_input};
use crate::context::{LowerCtx, Reason, Val, contiguous, to_u32};
use crate::ops::facts::AffineIn;
use cordon_engine::program::{
    Along, BinaryOp, DType, Instruction, Layout, Lrn, Normalize, ReduceOp, Strided1, UnaryOp,
};
use cordon_graph::{NodeView, ShapeError, TensorType};

/// This family's part of the table.
pub(super) const OPERATORS: &[Operator] = &[
    op("BatchNormalization", 1, batch_shape, batch_normalization).affine(AffineIn::First).in_place(),
    op("LayerNormalization", 17, layer_shape, layer_normalization).in_place(),
    op("InstanceNormalization", 1, same_as_input, instance_normalization),
    op("GroupNormalization", 18, same_as_input, group_normalization),
    op("LRN", 1, same_as_input, lrn),
    op_range("Softmax", (1, 12), same_as_input, |ctx| flat_softmax(ctx, false)).in_place().probabilities(),
    op("Softmax", 13, same_as_input, |ctx| softmax(ctx, false)).in_place().probabilities(),
    op_range("LogSoftmax", (1, 12), same_as_input, |ctx| flat_softmax(ctx, true)).in_place(),
    op("LogSoftmax", 13, same_as_input, |ctx| softmax(ctx, true)).in_place(),
];

fn batch_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    let input = view.input(0)?;
    let statistics = view.input(1)?.clone();
    let mut types = vec![input.clone()];
    types.resize(view.outputs(), statistics);
    Ok(types)
}

fn batch_normalization(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    if ctx.view.attr_int_or("training_mode", 0)? != 0 || ctx.has_output(1) {
        return Err("training mode is not supported".into());
    }
    if ctx.view.attr_int_or("spatial", 1)? != 1 {
        return Err("spatial = 0 is not supported".into());
    }
    let epsilon = ctx.view.attr_float_or("epsilon", 1e-5)?;
    let input = ctx.input(0)?;
    let channels = *input.dims.get(1).ok_or("the input has no channel axis")?;
    for index in 1..5 {
        if ctx.input(index)?.count() != channels {
            return Err(format!("input {index} does not have {channels} elements").into());
        }
    }
    // y = x * factor + term, per channel.
    let mut per_channel = vec![1; input.dims.len() - 1];
    per_channel[0] = channels;
    let constants = [1, 2, 3, 4].map(|index| ctx.constant_f32(index));
    let (factor, term) = if let [Some(scale), Some(bias), Some(mean), Some(variance)] = constants {
        let factor: Vec<f64> =
            (0..channels).map(|c| f64::from(scale[c]) / (f64::from(variance[c]) + f64::from(epsilon)).sqrt()).collect();
        let term: Vec<f32> =
            (0..channels).map(|c| (f64::from(bias[c]) - f64::from(mean[c]) * factor[c]) as f32).collect();
        let factor: Vec<f32> = factor.into_iter().map(|value| value as f32).collect();
        (ctx.constant_val(&per_channel, &factor)?, ctx.constant_val(&per_channel, &term)?)
    } else {
        let mut read = |index: usize| -> Result<Val, Reason> {
            let val = ctx.input(index)?;
            ctx.reshape(&val, &per_channel)
        };
        let (scale, bias, mean, variance) = (read(1)?, read(2)?, read(3)?, read(4)?);
        let shifted = ctx.unary(UnaryOp::Affine { scale: 1.0, offset: epsilon }, &variance)?;
        let deviation = ctx.unary(UnaryOp::Sqrt, &shifted)?;
        let factor = ctx.binary(BinaryOp::Div, &scale, &deviation)?;
        let moved = ctx.binary(BinaryOp::Mul, &mean, &factor)?;
        let term = ctx.binary(BinaryOp::Sub, &bias, &moved)?;
        (factor, term)
    };
    let product = ctx.binary(BinaryOp::Mul, &input, &factor)?;
    let out = ctx.binary(BinaryOp::Add, &product, &term)?;
    ctx.output(0, out)
}

/// Axis and the statistics' type of a LayerNormalization.
fn layer_statistics(view: &NodeView<'_>) -> Result<(usize, TensorType), ShapeError> {
    let input = view.input(0)?;
    let first = axis(view.attr_int_or("axis", -1)?, input.dims.len())?;
    let mut dims = input.dims.clone();
    dims[first..].fill(1);
    Ok((first, TensorType { elem: input.elem, dims }))
}

fn layer_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    let mut types = vec![view.input(0)?.clone()];
    types.resize(view.outputs(), layer_statistics(view)?.1);
    Ok(types)
}

fn layer_normalization(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    let (first, statistics) = layer_statistics(&ctx.view)?;
    if ctx.view.attr_int_or("stash_type", 1)? != 1 {
        return Err("only stash_type = 1 (float32) is supported".into());
    }
    let epsilon = ctx.view.attr_float_or("epsilon", 1e-5)?;
    let input = ctx.plain_input(0)?;
    let outer: usize = input.dims[..first].iter().product();
    let len: usize = input.dims[first..].iter().product();
    let scale = ctx.input(1)?;
    let bias = ctx.optional_input(2)?;
    if scale.count() == len && bias.as_ref().is_none_or(|bias| bias.count() == len) {
        let shape = Normalize { outer: to_u32(outer), len: to_u32(len), channels: to_u32(len), inner: 1, epsilon };
        let out = normalize(ctx, shape, &input, Some(&scale), bias.as_ref())?;
        ctx.output(0, out)?;
    } else {
        let shape = Normalize { outer: to_u32(outer), len: to_u32(len), channels: 1, inner: 1, epsilon };
        let mut out = normalize(ctx, shape, &input, None, None)?;
        out = ctx.binary(BinaryOp::Mul, &out, &scale)?;
        if let Some(bias) = bias {
            out = ctx.binary(BinaryOp::Add, &out, &bias)?;
        }
        ctx.output(0, out)?;
    }
    if ctx.has_output(1) || ctx.has_output(2) {
        let mean = row_mean(ctx, &input, &statistics.dims, outer, len)?;
        if ctx.has_output(2) {
            let centred = ctx.binary(BinaryOp::Sub, &input, &mean)?;
            let squared = ctx.binary(BinaryOp::Mul, &centred, &centred)?;
            let variance = row_mean(ctx, &squared, &statistics.dims, outer, len)?;
            let shifted = ctx.unary(UnaryOp::Affine { scale: 1.0, offset: epsilon }, &variance)?;
            let deviation = ctx.unary(UnaryOp::Sqrt, &shifted)?;
            let inverse = ctx.unary(UnaryOp::Reciprocal, &deviation)?;
            ctx.output(2, inverse)?;
        }
        ctx.output(1, mean)?;
    }
    Ok(())
}

fn row_mean(
    ctx: &mut LowerCtx<'_, '_>,
    input: &Val,
    out_dims: &[usize],
    outer: usize,
    len: usize,
) -> Result<Val, Reason> {
    let out = ctx.new_val(DType::F32, out_dims, Layout::Plain)?;
    let kept = Strided1 { dims: vec![to_u32(outer)], a: vec![to_u32(len)] };
    let reduced = Strided1 { dims: vec![to_u32(len)], a: vec![1] };
    let input = ctx.operand(input);
    ctx.emit(Instruction::Reduce { op: ReduceOp::Mean, kept, reduced, input, out: out.region() });
    Ok(out)
}

fn normalize(
    ctx: &mut LowerCtx<'_, '_>,
    geometry: Normalize,
    input: &Val,
    scale: Option<&Val>,
    bias: Option<&Val>,
) -> Result<Val, Reason> {
    let out = ctx.new_val(DType::F32, &input.dims, Layout::Plain)?;
    let input = ctx.operand(input);
    let mut read = |val: Option<&Val>| -> Result<_, Reason> {
        let Some(val) = val else { return Ok(None) };
        let val = ctx.plain(val)?;
        Ok(Some(ctx.operand(&val)))
    };
    let (scale, bias) = (read(scale)?, read(bias)?);
    ctx.emit(Instruction::Normalize { geometry, input, scale, bias, out: out.region() });
    Ok(out)
}

/// Normalises each of `groups` runs of channels; scale and bias have one entry per `per_entry` elements.
fn normalize_groups(ctx: &mut LowerCtx<'_, '_>, groups: usize, entries: usize) -> Result<(), Reason> {
    let epsilon = ctx.view.attr_float_or("epsilon", 1e-5)?;
    let input = ctx.plain_input(0)?;
    let (scale, bias) = (ctx.input(1)?, ctx.input(2)?);
    if scale.count() != entries || bias.count() != entries {
        return Err(format!("scale and bias must have {entries} elements").into());
    }
    let image: usize = input.dims[1..].iter().product();
    let shape = Normalize {
        outer: to_u32(input.dims[0] * groups),
        len: to_u32(image / groups),
        channels: to_u32(entries),
        inner: to_u32(image / entries),
        epsilon,
    };
    let out = normalize(ctx, shape, &input, Some(&scale), Some(&bias))?;
    ctx.output(0, out)
}

fn instance_normalization(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    let channels = channels(ctx)?;
    normalize_groups(ctx, channels, channels)
}

fn group_normalization(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    let channels = channels(ctx)?;
    if ctx.view.attr_int_or("stash_type", 1)? != 1 {
        return Err("only stash_type = 1 (float32) is supported".into());
    }
    let groups = ctx.view.attr_int("num_groups")?.and_then(|groups| usize::try_from(groups).ok()).unwrap_or(0);
    if groups == 0 || !channels.is_multiple_of(groups) {
        return Err(format!("num_groups does not divide {channels} channels").into());
    }
    // Until opset 20 scale and bias were per group.
    let entries = if ctx.view.opset() < 21 { groups } else { channels };
    normalize_groups(ctx, groups, entries)
}

fn channels(ctx: &LowerCtx<'_, '_>) -> Result<usize, Reason> {
    Ok(*ctx.input(0)?.dims.get(1).ok_or("the input has no channel axis")?)
}

fn lrn(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    let size = ctx.view.attr_int("size")?.and_then(|size| u32::try_from(size).ok()).filter(|&size| size > 0);
    let size = size.ok_or("attribute `size` must be positive")?;
    let channels = channels(ctx)?;
    let input = ctx.plain_input(0)?;
    let geometry = Lrn {
        n: to_u32(input.dims[0]),
        c: to_u32(channels),
        inner: to_u32(input.dims[2..].iter().product()),
        size,
        alpha: ctx.view.attr_float_or("alpha", 1e-4)?,
        beta: ctx.view.attr_float_or("beta", 0.75)?,
        bias: ctx.view.attr_float_or("bias", 1.0)?,
    };
    let out = ctx.new_val(DType::F32, &input.dims, Layout::Plain)?;
    let input = ctx.operand(&input);
    ctx.emit(Instruction::Lrn { geometry, input, out: out.region() });
    ctx.output(0, out)
}

fn softmax(ctx: &mut LowerCtx<'_, '_>, log: bool) -> Result<(), Reason> {
    let input = ctx.plain_input(0)?;
    let axis = axis(ctx.view.attr_int_or("axis", -1)?, input.dims.len())?;
    let inner = contiguous(&input.dims)[axis];
    let outer: usize = input.dims[..axis].iter().product();
    emit_softmax(ctx, &input, Along { outer: to_u32(outer), len: to_u32(input.dims[axis]), inner: to_u32(inner) }, log)
}

/// Until opset 12, all axes from `axis` on count as one.
fn flat_softmax(ctx: &mut LowerCtx<'_, '_>, log: bool) -> Result<(), Reason> {
    let input = ctx.plain_input(0)?;
    let rank = input.dims.len();
    let given = ctx.view.attr_int_or("axis", 1)?;
    let axis = if given == rank as i64 { rank } else { axis(given, rank)? };
    let outer: usize = input.dims[..axis].iter().product();
    let len: usize = input.dims[axis..].iter().product();
    emit_softmax(ctx, &input, Along { outer: to_u32(outer), len: to_u32(len), inner: 1 }, log)
}

fn emit_softmax(ctx: &mut LowerCtx<'_, '_>, input: &Val, along: Along, log: bool) -> Result<(), Reason> {
    if input.dtype != DType::F32 {
        return Err("only float32 is supported".into());
    }
    let out = ctx.new_val(DType::F32, &input.dims, Layout::Plain)?;
    let input = ctx.operand(input);
    ctx.emit(Instruction::Softmax { along, log, input, out: out.region() });
    ctx.output(0, out)
}

#[cfg(test)]
mod tests {
    use crate::testing::{OneNode, assert_close, f32s, noise};
    use cordon_graph::Tensor;

    /// `(x - mean) / sqrt(variance + 1e-5)` of each row of `len` elements, in `f64`.
    fn standardise(input: &Tensor, len: usize) -> Vec<f64> {
        let data: Vec<f64> = input.to_f32().unwrap().into_iter().map(f64::from).collect();
        data.chunks(len)
            .flat_map(|row| {
                let mean = row.iter().sum::<f64>() / len as f64;
                let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / len as f64;
                row.iter().map(move |v| (v - mean) / (variance + 1e-5).sqrt()).collect::<Vec<_>>()
            })
            .collect()
    }

    /// Scales and shifts element `i` by entry `(i / inner) % count`.
    fn affine(rows: &[f64], scale: &Tensor, bias: &Tensor, inner: usize, dims: &[usize]) -> Tensor {
        let (scale, bias) = (scale.to_f32().unwrap(), bias.to_f32().unwrap());
        let entry = |i: usize| (i / inner) % scale.len();
        let data: Vec<f32> = rows
            .iter()
            .enumerate()
            .map(|(i, v)| (v * f64::from(scale[entry(i)]) + f64::from(bias[entry(i)])) as f32)
            .collect();
        f32s(dims, &data)
    }

    #[test]
    fn batch_statistics_may_be_constant_or_computed() {
        let input = noise(&[2, 3, 4], 1);
        let positive =
            |seed| f32s(&[3], &noise(&[3], seed).to_f32().unwrap().iter().map(|v| v + 1.5).collect::<Vec<_>>());
        let parameters = [noise(&[3], 2), noise(&[3], 3), noise(&[3], 4), positive(5)];
        let [scale, bias, mean, variance] = [0, 1, 2, 3].map(|i| parameters[i].to_f32().unwrap());
        let data = input.to_f32().unwrap();
        let want: Vec<f32> = (0..24)
            .map(|i| {
                let c = i / 4 % 3;
                (data[i] - mean[c]) / (variance[c] + 1e-5).sqrt() * scale[c] + bias[c]
            })
            .collect();
        let want = f32s(&[2, 3, 4], &want);
        let constant = parameters
            .iter()
            .cloned()
            .fold(OneNode::new("BatchNormalization", 15).input(input.clone()), OneNode::constant);
        assert_close(&constant.run()[0], &want);
        let computed = parameters.into_iter().fold(OneNode::new("BatchNormalization", 15).input(input), OneNode::input);
        assert_close(&computed.run()[0], &want);
    }

    #[test]
    fn layer_rows_are_standardised_and_statistics_given_out() {
        let (input, scale, bias) = (noise(&[2, 3, 10], 1), noise(&[10], 2), noise(&[10], 3));
        let want = affine(&standardise(&input, 10), &scale, &bias, 1, &[2, 3, 10]);
        let node = OneNode::new("LayerNormalization", 17).another_output().another_output();
        let out = node.input(input.clone()).constant(scale).constant(bias).run();
        assert_close(&out[0], &want);
        let rows = input.to_f32().unwrap();
        let means: Vec<f32> = rows.chunks(10).map(|row| row.iter().sum::<f32>() / 10.0).collect();
        assert_close(&out[1], &f32s(&[2, 3, 1], &means));
        let inverse: Vec<f32> = rows
            .chunks(10)
            .zip(&means)
            .map(|(row, mean)| 1.0 / (row.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / 10.0 + 1e-5).sqrt())
            .collect();
        assert_close(&out[2], &f32s(&[2, 3, 1], &inverse));
    }

    #[test]
    fn instance_and_group_scale_by_channel_and_old_groups_by_group() {
        let (input, dims) = (noise(&[2, 4, 3, 3], 1), [2, 4, 3, 3]);
        let (scale, bias) = (noise(&[4], 2), noise(&[4], 3));
        let want = affine(&standardise(&input, 9), &scale, &bias, 9, &dims);
        let run = |node: OneNode, scale: &Tensor, bias: &Tensor| {
            node.input(input.clone()).constant(scale.clone()).input(bias.clone()).run()
        };
        assert_close(&run(OneNode::new("InstanceNormalization", 6), &scale, &bias)[0], &want);
        let want = affine(&standardise(&input, 18), &scale, &bias, 9, &dims);
        let group = |opset| OneNode::new("GroupNormalization", opset).int("num_groups", 2);
        assert_close(&run(group(21), &scale, &bias)[0], &want);
        let (scale, bias) = (noise(&[2], 4), noise(&[2], 5));
        let want = affine(&standardise(&input, 18), &scale, &bias, 18, &dims);
        assert_close(&run(group(18), &scale, &bias)[0], &want);
    }

    #[test]
    fn old_softmax_flattens_what_the_new_one_does_not() {
        let input = || f32s(&[1, 2, 2], &[0.0, 0.0, 0.0, 0.0]);
        let run = |opset| OneNode::new("Softmax", opset).int("axis", 1).input(input()).run()[0].to_f32().unwrap();
        assert_eq!(run(11), [0.25; 4]);
        assert_eq!(run(13), [0.5; 4]);
    }

    #[test]
    fn lrn_sums_squares_over_neighbouring_channels() {
        let input = f32s(&[1, 4, 1, 1], &[1.0, 2.0, 3.0, 4.0]);
        let node = OneNode::new("LRN", 13).int("size", 3).float("alpha", 3.0).float("beta", 1.0).float("bias", 1.0);
        // alpha / size = 1: x / (1 + squares of the channel and its neighbours).
        let want = [1.0 / 6.0, 2.0 / 15.0, 3.0 / 30.0, 4.0 / 26.0];
        assert_close(&node.input(input).run()[0], &f32s(&[1, 4, 1, 1], &want));
    }
}
