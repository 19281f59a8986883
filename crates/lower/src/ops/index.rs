//! Operators that address elements by index.

use super::{Operator, axis, op};
use crate::context::{LowerCtx, Reason, to_u32};
use crate::ops::facts::AffineIn;
use cordon_engine::program::{Along, DType, Instruction, Layout};
use cordon_graph::{NodeView, ShapeError, TensorType};

/// This family's part of the table.
pub(super) const OPERATORS: &[Operator] =
    &[op("Gather", 1, gather_shape, gather).moves().affine(AffineIn::Each).weights(&[0])];

fn gather_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    let (data, indices) = (view.input(0)?, view.input(1)?);
    let axis = axis(view.attr_int_or("axis", 0)?, data.dims.len())?;
    let mut dims = data.dims.clone();
    dims.splice(axis..=axis, indices.dims.iter().copied());
    Ok(vec![TensorType { elem: data.elem, dims }])
}

/// Indices known now are checked now; the engine checks the others at run time.
fn gather(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    let (data, indices) = (ctx.plain_input(0)?, ctx.plain_input(1)?);
    if indices.dtype != DType::I64 {
        return Err("its indices are not integers".into());
    }
    let axis = axis(ctx.view.attr_int_or("axis", 0)?, data.dims.len())?;
    let len = data.dims[axis];
    if let Some(known) = ctx.constant_i64(1) {
        let extent = i64::try_from(len).map_err(|_| "the axis is too long")?;
        if let Some(bad) = known.iter().find(|&&index| index < -extent || index >= extent) {
            return Err(format!("index {bad} is outside an axis of {len}").into());
        }
    }
    let along = Along {
        outer: to_u32(data.dims[..axis].iter().product()),
        len: to_u32(len),
        inner: to_u32(data.dims[axis + 1..].iter().product()),
    };
    let out = ctx.new_val(data.dtype, ctx.output_dims(0)?, Layout::Plain)?;
    let count = to_u32(indices.count());
    let (data, indices) = (ctx.operand(&data), ctx.operand(&indices));
    ctx.emit(Instruction::Gather { along, count, data, indices, out: out.region() });
    ctx.output(0, out)
}

#[cfg(test)]
mod tests {
    use crate::testing::{OneNode, f32s, i64s};

    #[test]
    fn rows_are_picked_by_constant_and_by_computed_index() {
        let data = || f32s(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let want = vec![f32s(&[2, 2], &[5.0, 6.0, 1.0, 2.0])];
        assert_eq!(OneNode::new("Gather", 13).input(data()).constant(i64s(&[2], &[-1, 0])).run(), want);
        assert_eq!(OneNode::new("Gather", 13).constant(data()).input(i64s(&[2], &[2, -3])).run(), want);
    }

    #[test]
    fn a_constant_index_outside_is_refused_by_name() {
        let node = OneNode::new("Gather", 13).input(f32s(&[2], &[1.0, 2.0])).constant(i64s(&[1], &[2]));
        assert!(node.lower().err().is_some_and(|error| error.to_string().contains("index 2")));
    }
}
