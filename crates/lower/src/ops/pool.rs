//! MaxPool, AveragePool and their global forms.

use super::window::{self, Rounding};
use super::{Operator, op};
use crate::context::{BLOCK, LowerCtx, Reason, Val, u};
use cordon_engine::program::{Axis, DType, Instruction, Layout, Pool, PoolKind, ReduceOp, Strided1};
use cordon_graph::{ElemType, NodeView, ShapeError, TensorType};

/// This family's part of the table.
pub(super) const OPERATORS: &[Operator] = &[
    op("MaxPool", 1, pool_shape, max_pool),
    op("AveragePool", 1, pool_shape, average_pool),
    op("GlobalAveragePool", 1, global_shape, |ctx| global(ctx, ReduceOp::Mean)),
    op("GlobalMaxPool", 1, global_shape, |ctx| global(ctx, ReduceOp::Max)),
];

fn axes(view: &NodeView<'_>) -> Result<Vec<Axis>, ShapeError> {
    let input = &view.input(0)?.dims;
    if input.len() < 3 {
        return Err(format!("input {input:?} has no spatial dimension").into());
    }
    let rounding = if view.attr_int_or("ceil_mode", 0)? != 0 { Rounding::Ceil } else { Rounding::Floor };
    window::axes(view, &input[2..], &window::kernel_shape(view, None)?, rounding)
}

fn pool_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    let input = view.input(0)?;
    let mut dims = input.dims[..2.min(input.dims.len())].to_vec();
    dims.extend(window::outputs(&axes(view)?));
    let indices = TensorType { elem: ElemType::Int64, dims: dims.clone() };
    let mut types = vec![TensorType { elem: input.elem, dims }];
    types.resize(view.outputs(), indices);
    Ok(types)
}

fn global_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    let input = view.input(0)?;
    if input.dims.len() < 3 {
        return Err(format!("input {:?} has no spatial dimension", input.dims).into());
    }
    let mut dims = vec![1; input.dims.len()];
    dims[..2].copy_from_slice(&input.dims[..2]);
    Ok(vec![TensorType { elem: input.elem, dims }])
}

fn max_pool(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    if ctx.has_output(1) {
        return Err("output `Indices` is not supported".into());
    }
    pool(ctx, PoolKind::Max)
}

fn average_pool(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    let padding_counts = ctx.view.attr_int_or("count_include_pad", 0)? != 0;
    pool(ctx, if padding_counts { PoolKind::AverageCountPad } else { PoolKind::Average })
}

/// Planes and lanes of a value in its own layout.
fn planes(val: &Val) -> (usize, usize) {
    match val.layout {
        Layout::Plain => (val.dims[0] * val.dims[1], 1),
        Layout::Blocked => (val.dims[0] * val.dims[1].div_ceil(BLOCK), BLOCK),
    }
}

fn pool(ctx: &mut LowerCtx<'_, '_>, kind: PoolKind) -> Result<(), Reason> {
    let input = ctx.input(0)?;
    if input.dtype != DType::F32 {
        return Err("only float32 is supported".into());
    }
    let axes = window::three(&axes(&ctx.view)?).ok_or("more than three spatial dimensions")?;
    let (planes, lanes) = planes(&input);
    let geometry = Pool { kind, planes: u(planes), lanes: u(lanes), axes };
    let out = ctx.new_val(DType::F32, ctx.output_dims(0)?, input.layout)?;
    let input = ctx.operand(&input);
    ctx.emit(Instruction::Pool { geometry, input, out: out.region() });
    ctx.output(0, out)
}

fn global(ctx: &mut LowerCtx<'_, '_>, op: ReduceOp) -> Result<(), Reason> {
    let input = ctx.input(0)?;
    let spatial: usize = input.dims[2..].iter().product();
    let (planes, lanes) = planes(&input);
    let kept = Strided1 { dims: vec![u(planes), u(lanes)], a: vec![u(spatial * lanes), 1] };
    let reduced = Strided1 { dims: vec![u(spatial)], a: vec![u(lanes)] };
    let out = ctx.new_val(input.dtype, ctx.output_dims(0)?, input.layout)?;
    let input = ctx.operand(&input);
    ctx.emit(Instruction::Reduce { op, kept, reduced, input, out: out.region() });
    ctx.output(0, out)
}
