//! Reductions along axes, ArgMax, and the global pools.

use super::{Operator, axis, op};
use crate::context::{LowerCtx, Reason, contiguous, u};
use cordon_engine::program::{Instruction, Layout, ReduceOp, Strided1};
use cordon_graph::{NodeView, ShapeError, TensorType};

/// This family's part of the table.
pub(super) const OPERATORS: &[Operator] = &[op("ReduceMean", 1, reduce_shape, |ctx| reduce(ctx, ReduceOp::Mean))];

/// Sorted reduced axes: the attribute, or from opset 18 on input 1. `None`: nothing to do (`noop_with_empty_axes`).
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

fn reduce_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    let input = view.input(0)?;
    let Some(axes) = reduced_axes(view, input.dims.len())? else { return Ok(vec![input.clone()]) };
    let keep = view.attr_int_or("keepdims", 1)? != 0;
    let dims = input
        .dims
        .iter()
        .enumerate()
        .filter_map(|(axis, &dim)| if axes.contains(&axis) { keep.then_some(1) } else { Some(dim) });
    Ok(vec![TensorType { elem: input.elem, dims: dims.collect() }])
}

fn reduce(ctx: &mut LowerCtx<'_, '_>, op: ReduceOp) -> Result<(), Reason> {
    let input = ctx.plain_input(0)?;
    let Some(axes) = reduced_axes(&ctx.view, input.dims.len())? else { return ctx.output(0, input) };
    let strides = contiguous(&input.dims);
    let (mut kept, mut reduced) = (Strided1::default(), Strided1::default());
    for (axis, &dim) in input.dims.iter().enumerate() {
        let list = if axes.contains(&axis) { &mut reduced } else { &mut kept };
        list.dims.push(u(dim));
        list.a.push(u(strides[axis]));
    }
    let out = ctx.new_val(input.dtype, ctx.output_dims(0)?, Layout::Plain)?;
    let operand = ctx.operand(&input);
    ctx.emit(Instruction::Reduce { op, kept, reduced, input: operand, out: out.region() });
    ctx.output(0, out)
}

#[cfg(test)]
mod tests {
    use crate::testing::{OneNode, f32s};

    #[test]
    fn mean_over_the_last_axis_keeps_it() {
        let out = OneNode::new("ReduceMean", 13).ints("axes", &[-1]).input(f32s(&[2, 2], &[1.0, 3.0, 5.0, 9.0])).run();
        assert_eq!(out, vec![f32s(&[2, 1], &[2.0, 7.0])]);
    }
}
