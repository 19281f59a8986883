//! Reductions along axes, ArgMax and ArgMin.

use super::{Operator, axis, op, same_as_input};
use crate::context::{LowerCtx, Reason, contiguous, to_u32};
use crate::ops::facts::AffineIn;
use cordon_engine::program::{Along, DType, Instruction, Layout, ReduceOp, Strided1};
use cordon_graph::{ElemType, NodeView, ShapeError, TensorType};

/// This family's part of the table.
pub(super) const OPERATORS: &[Operator] = &[
    op("ReduceMean", 1, reduce_shape, |ctx| reduce(ctx, ReduceOp::Mean)).affine(AffineIn::All),
    op("ReduceSum", 1, reduce_shape, |ctx| reduce(ctx, ReduceOp::Sum)).affine(AffineIn::All),
    op("ReduceMax", 1, reduce_shape, |ctx| reduce(ctx, ReduceOp::Max)).chooses(),
    op("ReduceMin", 1, reduce_shape, |ctx| reduce(ctx, ReduceOp::Min)).chooses(),
    op("ArgMax", 1, arg_shape, |ctx| arg(ctx, false)),
    op("ArgMin", 1, arg_shape, |ctx| arg(ctx, true)),
];

/// Sorted reduced axes: the attribute, or in newer opsets input 1. `None`: nothing to do (`noop_with_empty_axes`).
fn reduced_axes(view: &NodeView<'_>, rank: usize) -> Result<Option<Vec<usize>>, ShapeError> {
    let given = match view.attr_ints("axes")? {
        Some(axes) => axes.to_vec(),
        None => view.const_i64(1)?.unwrap_or_default(),
    };
    if given.is_empty() {
        let noop = view.attr_int_or("noop_with_empty_axes", 0)? != 0;
        return Ok(if noop { None } else { Some((0..rank).collect()) });
    }
    let mut axes = given.iter().map(|&value| axis(value, rank)).collect::<Result<Vec<_>, _>>()?;
    axes.sort_unstable();
    axes.dedup();
    Ok(Some(axes))
}

fn without(view: &NodeView<'_>, dims: &[usize], axes: &[usize]) -> Result<Vec<usize>, String> {
    let keep = view.attr_int_or("keepdims", 1)? != 0;
    let left = dims.iter().enumerate().filter_map(|(axis, &dim)| match axes.contains(&axis) {
        true => keep.then_some(1),
        false => Some(dim),
    });
    Ok(left.collect())
}

fn reduce_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    let input = view.input(0)?;
    let Some(axes) = reduced_axes(view, input.dims.len())? else { return same_as_input(view) };
    Ok(vec![TensorType { elem: input.elem, dims: without(view, &input.dims, &axes)? }])
}

fn reduce(ctx: &mut LowerCtx<'_, '_>, op: ReduceOp) -> Result<(), Reason> {
    let input = ctx.plain_input(0)?;
    let Some(axes) = reduced_axes(&ctx.view, input.dims.len())? else { return ctx.output(0, input) };
    if input.dtype == DType::Bool || (input.dtype == DType::I64 && op == ReduceOp::Mean) {
        return Err("inputs of this type are not supported in a secure segment".into());
    }
    let strides = contiguous(&input.dims);
    let (mut kept, mut reduced) = (Strided1::default(), Strided1::default());
    for (axis, &dim) in input.dims.iter().enumerate().filter(|&(_, &dim)| dim != 1) {
        let list = if axes.contains(&axis) { &mut reduced } else { &mut kept };
        list.dims.push(to_u32(dim));
        list.a.push(to_u32(strides[axis]));
    }
    let out = ctx.new_val(input.dtype, ctx.output_dims(0)?, Layout::Plain)?;
    let operand = ctx.operand(&input);
    ctx.emit(Instruction::Reduce { op, kept, reduced, input: operand, out: out.region() });
    ctx.output(0, out)
}

fn arg_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    let dims = &view.input(0)?.dims;
    let axis = axis(view.attr_int_or("axis", 0)?, dims.len())?;
    Ok(vec![TensorType { elem: ElemType::Int64, dims: without(view, dims, &[axis])? }])
}

fn arg(ctx: &mut LowerCtx<'_, '_>, smallest: bool) -> Result<(), Reason> {
    let input = ctx.plain_input(0)?;
    if input.dtype != DType::F32 {
        return Err("only float32 is supported in a secure segment".into());
    }
    let axis = axis(ctx.view.attr_int_or("axis", 0)?, input.dims.len())?;
    let along = Along {
        outer: to_u32(input.dims[..axis].iter().product()),
        len: to_u32(input.dims[axis]),
        inner: to_u32(input.dims[axis + 1..].iter().product()),
    };
    let last = ctx.view.attr_int_or("select_last_index", 0)? != 0;
    let out = ctx.new_val(DType::I64, ctx.output_dims(0)?, Layout::Plain)?;
    let operand = ctx.operand(&input);
    ctx.emit(Instruction::ArgMax { along, smallest, last, input: operand, out: out.region() });
    ctx.output(0, out)
}

#[cfg(test)]
mod tests {
    use crate::testing::{OneNode, f32s, i64s};

    #[test]
    fn means_over_attribute_and_input_axes() {
        let data = || f32s(&[2, 2], &[1.0, 3.0, 5.0, 9.0]);
        let want = vec![f32s(&[2, 1], &[2.0, 7.0])];
        assert_eq!(OneNode::new("ReduceMean", 13).ints("axes", &[-1]).input(data()).run(), want);
        assert_eq!(OneNode::new("ReduceMean", 18).input(data()).constant(i64s(&[1], &[1])).run(), want);
        let all = OneNode::new("ReduceSum", 13).int("keepdims", 0).input(data()).run();
        assert_eq!(all, vec![f32s(&[], &[18.0])]);
    }

    #[test]
    fn ties_go_to_the_first_or_the_last() {
        let run =
            |last| OneNode::new("ArgMax", 13).int("select_last_index", last).input(f32s(&[3], &[4.0, 1.0, 4.0])).run();
        assert_eq!((run(0), run(1)), (vec![i64s(&[1], &[0])], vec![i64s(&[1], &[2])]));
    }
}
