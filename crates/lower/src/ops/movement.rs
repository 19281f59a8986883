//! Operators that move elements without computing: transpose, slice, concatenation, reshapes.

use super::{Operator, axis, op};
use crate::context::{LowerCtx, Reason, contiguous, i, u};
use cordon_engine::program::{Layout, StridedCopy};
use cordon_graph::{NodeView, ShapeError, TensorType};

/// This family's part of the table.
pub(super) const OPERATORS: &[Operator] = &[op("Transpose", 1, transpose_shape, transpose)];

fn permutation(view: &NodeView<'_>, rank: usize) -> Result<Vec<usize>, String> {
    match view.attr_ints("perm")? {
        Some(perm) => {
            let perm = perm.iter().map(|&entry| axis(entry, rank)).collect::<Result<Vec<_>, _>>()?;
            let mut seen = perm.clone();
            seen.sort_unstable();
            if seen.into_iter().eq(0..rank) { Ok(perm) } else { Err("perm is not a permutation".into()) }
        }
        None => Ok((0..rank).rev().collect()),
    }
}

fn transpose_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    let input = view.input(0)?;
    let perm = permutation(view, input.dims.len())?;
    Ok(vec![TensorType { elem: input.elem, dims: perm.iter().map(|&from| input.dims[from]).collect() }])
}

fn transpose(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    let input = ctx.plain_input(0)?;
    let perm = permutation(&ctx.view, input.dims.len())?;
    let dims: Vec<usize> = perm.iter().map(|&from| input.dims[from]).collect();
    if dims.is_empty() {
        return ctx.output(0, input);
    }
    let strides = contiguous(&input.dims);
    let out = ctx.new_val(input.dtype, &dims, Layout::Plain)?;
    let geometry = StridedCopy {
        dims: dims.iter().map(|&dim| u(dim)).collect(),
        from: 0,
        from_strides: perm.iter().map(|&from| i(strides[from])).collect(),
        to: 0,
        to_strides: contiguous(&dims).into_iter().map(u).collect(),
    };
    ctx.copy(geometry, &input, &out);
    ctx.output(0, out)
}

#[cfg(test)]
mod tests {
    use crate::testing::{OneNode, f32s};

    #[test]
    fn transpose_moves_columns_to_rows() {
        let out = OneNode::new("Transpose", 13)
            .ints("perm", &[1, 0])
            .input(f32s(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))
            .run();
        assert_eq!(out, vec![f32s(&[3, 2], &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0])]);
    }
}
