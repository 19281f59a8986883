//! QuantizeLinear, DequantizeLinear, QLinearConv, QLinearMatMul.
//!
//! All are lowered by their definition: to `f32`, the operation, to bytes. That always runs; the fusions
//! ([`crate::fuse`]) then turn what they recognise into integer instructions, the same way for these operators and for
//! QuantizeLinear and DequantizeLinear written around ordinary ones.

use super::conv::{self, Operands};
use super::{Operator, axis, gemm, op};
use crate::context::{LowerCtx, Reason, Val};
use crate::ops::facts::{AffineIn, Bytes};
use cordon_engine::program::{BinaryOp, DType, Instruction, Target, UnaryOp};
use cordon_graph::{ElemType, NodeView, ShapeError, Tensor, TensorType};

/// This family's part of the table.
pub(super) const OPERATORS: &[Operator] = &[
    op("QuantizeLinear", 10, quantize_shape, quantize).affine(AffineIn::Each).bytes(Bytes::Quantise),
    op("DequantizeLinear", 10, dequantize_shape, dequantize).affine(AffineIn::Each).bytes(Bytes::Dequantise),
    op("QLinearConv", 10, conv_shape, conv).layer(&[3]).bytes(Bytes::Requantise),
    op("QLinearMatMul", 10, matmul_shape, matmul).layer(&[0, 3]).bytes(Bytes::Requantise),
];

fn quantize_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    let elem = match (view.input_id(2), view.attr_int_or("output_dtype", 0)?) {
        (Some(_), _) => view.input(2)?.elem,
        (None, 0) => ElemType::Uint8,
        (None, code) => {
            i32::try_from(code).ok().and_then(ElemType::from_code).ok_or("attribute `output_dtype` names no type")?
        }
    };
    Ok(vec![TensorType { elem, dims: view.input(0)?.dims.clone() }])
}

fn dequantize_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    Ok(vec![TensorType { elem: view.input(1)?.elem, dims: view.input(0)?.dims.clone() }])
}

fn conv_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    Ok(vec![TensorType { elem: view.input(7)?.elem, dims: conv::quantised_dims(view)? }])
}

fn matmul_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    let dims = gemm::product_dims(&view.input(0)?.dims, &view.input(3)?.dims)?;
    Ok(vec![TensorType { elem: view.input(7)?.elem, dims }])
}

/// Scales and zero points, as many of the one as of the other. Zero points count as ONNX does, before the 128 that int8 is
/// held with.
struct Parameters {
    scale: Vec<f32>,
    zero: Vec<f32>,
    /// Extents against which they broadcast, of the value's rank; empty for a single one.
    dims: Vec<usize>,
}

impl Parameters {
    fn single(&self) -> Option<(f32, f32)> {
        if self.dims.is_empty() { Some((self.scale[0], self.zero[0])) } else { None }
    }

    /// Index of the parameters of element `index` of a value.
    fn of(&self, index: usize, dims: &[usize]) -> usize {
        let (mut left, mut step, mut at) = (index, 1, 0);
        for (extent, own) in dims.iter().zip(&self.dims).rev() {
            if *own != 1 {
                at += left % extent * step;
            }
            step *= own;
            left /= extent;
        }
        at
    }
}

/// Parameters for a value of extents `dims` at inputs `scale` and `zero`.
fn parameters(ctx: &LowerCtx<'_, '_>, at: [usize; 2], dims: &[usize]) -> Result<Parameters, Reason> {
    let scale_val = ctx.input(at[0])?;
    let scale = ctx.constant_f32(at[0]).ok_or("its scale is not a constant of type float32")?;
    let zero = match ctx.optional_input(at[1])? {
        None => vec![0.0; scale.len()],
        Some(zero) => integers(zero.constant().ok_or("its zero point is not a constant")?)?,
    };
    if zero.len() != scale.len() {
        return Err("scale and zero point have different shapes".into());
    }
    if scale.len() == 1 {
        return Ok(Parameters { scale, zero, dims: Vec::new() });
    }
    let position = axis(ctx.view.attr_int_or("axis", 1)?, dims.len())?;
    let mut own = vec![1; dims.len()];
    let block = usize::try_from(ctx.view.attr_int_or("block_size", 0)?).map_err(|_| "`block_size` is negative")?;
    if block == 0 {
        if scale.len() != dims[position] {
            return Err(format!("{} scales for {} channels", scale.len(), dims[position]).into());
        }
        own[position] = scale.len();
        return Ok(Parameters { scale, zero, dims: own });
    }
    // One scale for every block of neighbours: repeated, so that there is one for each element.
    let blocks = dims[position].div_ceil(block);
    let mut of_scale = dims.to_vec();
    of_scale[position] = blocks;
    if scale_val.dims != of_scale {
        return Err(format!("scales of shape {:?} where {of_scale:?} belong", scale_val.dims).into());
    }
    let inner: usize = dims[position + 1..].iter().product();
    let count: usize = dims.iter().product();
    let spread = |values: &[f32]| -> Vec<f32> {
        (0..count)
            .map(|index| {
                let (outer, along, rest) =
                    (index / inner / dims[position], index / inner % dims[position], index % inner);
                values[(outer * blocks + along / block) * inner + rest]
            })
            .collect()
    };
    Ok(Parameters { scale: spread(&scale), zero: spread(&zero), dims: dims.to_vec() })
}

/// Small integers as numbers, exact.
fn integers(tensor: &Tensor) -> Result<Vec<f32>, Reason> {
    match tensor.elem {
        ElemType::Uint8 => Ok(tensor.data.iter().map(|&v| f32::from(v)).collect()),
        ElemType::Int8 => Ok(tensor.data.iter().map(|&v| f32::from(v.cast_signed())).collect()),
        ElemType::Int32 => Ok(tensor.to_i64()?.into_iter().map(|v| v as f32).collect()),
        elem => Err(format!("quantised values of type {elem} are not supported in a secure segment").into()),
    }
}

/// What is added to an ONNX byte to give the engine's.
fn shift(elem: ElemType) -> Result<f32, Reason> {
    match elem {
        ElemType::Uint8 => Ok(0.0),
        ElemType::Int8 => Ok(128.0),
        elem => Err(format!("quantised values of type {elem} are not supported in a secure segment").into()),
    }
}

/// A zero point in the engine's bytes.
fn byte(zero: f32, elem: ElemType) -> Result<u8, Reason> {
    let zero = zero + shift(elem)?;
    if (0.0..=255.0).contains(&zero) { Ok(zero as u8) } else { Err("its zero point is no value of its type".into()) }
}

fn quantize(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    let input = ctx.input(0)?;
    let parameters = parameters(ctx, [1, 2], &input.dims)?;
    let elem = ctx.output_type(0)?.elem;
    let out = to_bytes(ctx, &input, &parameters, elem)?;
    ctx.output(0, out)
}

fn to_bytes(ctx: &mut LowerCtx<'_, '_>, input: &Val, parameters: &Parameters, elem: ElemType) -> Result<Val, Reason> {
    if input.dtype != DType::F32 {
        return Err("only float32 values are quantised".into());
    }
    let (input, scale, zero) = match parameters.single() {
        Some((scale, zero)) => (input.clone(), scale, byte(zero, elem)?),
        None => {
            // Divided and rounded with a scale for each channel; then the zero points, exact; then to bytes as they are.
            let scale = ctx.constant_val(&parameters.dims, &parameters.scale)?;
            let zero: Vec<f32> =
                parameters.zero.iter().map(|zero| Ok(zero + shift(elem)?)).collect::<Result<_, Reason>>()?;
            let zero = ctx.constant_val(&parameters.dims, &zero)?;
            let steps = ctx.binary(BinaryOp::Div, input, &scale)?;
            let rounded = ctx.unary(UnaryOp::Round, &steps)?;
            (ctx.binary(BinaryOp::Add, &rounded, &zero)?, 1.0, 0)
        }
    };
    let out = ctx.new_val(DType::U8, &input.dims, input.layout)?;
    let input = ctx.operand(&input);
    ctx.emit(Instruction::Quantize { scale, to: Target::new(zero), input, out: out.region() });
    Ok(out)
}

fn dequantize(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    let input = ctx.input(0)?;
    let parameters = parameters(ctx, [1, 2], &input.dims)?;
    let elem = ctx.view.input(0)?.elem;
    let out = to_f32(ctx, &input, &parameters, elem)?;
    ctx.output(0, out)
}

fn to_f32(ctx: &mut LowerCtx<'_, '_>, input: &Val, parameters: &Parameters, elem: ElemType) -> Result<Val, Reason> {
    if let Some(tensor) = input.constant() {
        let values = integers(tensor)?;
        let real = |(index, value): (usize, &f32)| {
            let at = parameters.of(index, &input.dims);
            (value - parameters.zero[at]) * parameters.scale[at]
        };
        let values: Vec<f32> = values.iter().enumerate().map(real).collect();
        return ctx.dequantised(Tensor::from_f32(input.dims.as_slice(), &values)?, parameters.scale.clone());
    }
    let (scale, zero) = match parameters.single() {
        Some((scale, zero)) => (scale, byte(zero, elem)?),
        None => (1.0, byte(0.0, elem)?),
    };
    let out = ctx.new_val(DType::F32, &input.dims, input.layout)?;
    let operand = ctx.operand(input);
    ctx.emit(Instruction::Dequantize { scale, zero, input: operand, out: out.region() });
    if parameters.single().is_some() {
        return Ok(out);
    }
    let zero = ctx.constant_val(&parameters.dims, &parameters.zero)?;
    let scale = ctx.constant_val(&parameters.dims, &parameters.scale)?;
    let steps = ctx.binary(BinaryOp::Sub, &out, &zero)?;
    ctx.binary(BinaryOp::Mul, &steps, &scale)
}

/// One quantised operand of a QLinear operator: value, scale and zero point at three neighbouring inputs. Several scales
/// belong to the axis `channel`.
fn operand(ctx: &mut LowerCtx<'_, '_>, at: usize, channel: usize) -> Result<Val, Reason> {
    let input = ctx.input(at)?;
    let elem = ctx.view.input(at)?.elem;
    let parameters = linear(ctx, at + 1, &input.dims, channel)?;
    to_f32(ctx, &input, &parameters, elem)
}

/// Scale and zero point at two neighbouring inputs.
fn linear(ctx: &LowerCtx<'_, '_>, at: usize, dims: &[usize], channel: usize) -> Result<Parameters, Reason> {
    let scale = ctx.constant_f32(at).ok_or("a scale is not a constant of type float32")?;
    let zero = integers(ctx.input(at + 1)?.constant().ok_or("a zero point is not a constant")?)?;
    let own = match scale.len() {
        1 => Vec::new(),
        count if dims.get(channel) == Some(&count) => {
            (0..dims.len()).map(|axis| if axis == channel { count } else { 1 }).collect()
        }
        _ => return Err("scales of this shape are not supported".into()),
    };
    // One zero point for all channels is allowed beside several scales.
    let zero = if zero.len() == 1 { vec![zero[0]; scale.len()] } else { zero };
    if zero.len() != scale.len() {
        return Err("scale and zero point have different shapes".into());
    }
    Ok(Parameters { scale, zero, dims: own })
}

fn result(ctx: &mut LowerCtx<'_, '_>, real: &Val) -> Result<(), Reason> {
    let elem = ctx.output_type(0)?.elem;
    let parameters = linear(ctx, 6, &real.dims, usize::MAX)?;
    let out = to_bytes(ctx, real, &parameters, elem)?;
    ctx.output(0, out)
}

fn conv(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    let (input, weight) = (operand(ctx, 0, usize::MAX)?, operand(ctx, 3, 0)?);
    let bias = match ctx.optional_input(8)? {
        None => None,
        Some(bias) => {
            let sums = bias.constant().ok_or("its bias is not a constant")?.to_i64()?;
            let x = ctx.constant_f32(1).ok_or("a scale is not a constant of type float32")?;
            let w = ctx.constant_f32(4).ok_or("a scale is not a constant of type float32")?;
            let real = |(channel, &sum): (usize, &i64)| sum as f32 * (x[0] * w[channel % w.len()]);
            Some(ctx.constant_val(&bias.dims, &sums.iter().enumerate().map(real).collect::<Vec<_>>())?)
        }
    };
    let real = conv::quantised(ctx, Operands { input, weight, bias })?;
    result(ctx, &real)
}

fn matmul(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    let columns = ctx.input(3)?.dims.len().saturating_sub(1);
    let (a, b) = (operand(ctx, 0, usize::MAX)?, operand(ctx, 3, columns)?);
    let (a, b) = (ctx.plain(&a)?, ctx.plain(&b)?);
    let real = gemm::multiply(ctx, a, b)?;
    result(ctx, &real)
}
