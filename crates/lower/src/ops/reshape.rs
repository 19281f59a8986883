//! Operators that change extents and leave the elements in order. A reshape of a plain value is no instruction at all.

use super::movement::typed;
use super::{Operator, axis, op};
use crate::context::{LowerCtx, Reason};
use cordon_graph::{NodeView, ShapeError, TensorType};

/// This family's part of the table.
pub(super) const OPERATORS: &[Operator] = &[
    op("Reshape", 5, reshape_shape, reshape).relabels(),
    op("Flatten", 1, flatten_shape, reshape).relabels(),
    op("Squeeze", 1, squeeze_shape, reshape).relabels(),
    op("Unsqueeze", 1, unsqueeze_shape, reshape).relabels(),
];

fn reshape_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    let input = view.input(0)?;
    let wanted = view.const_i64(1)?.ok_or("input `shape` is missing".to_owned())?;
    let keep_zero = view.attr_int_or("allowzero", 0)? != 0;
    let count: usize = input.dims.iter().product();
    let mut dims = Vec::with_capacity(wanted.len());
    let mut inferred = None;
    for (at, &value) in wanted.iter().enumerate() {
        dims.push(match value {
            -1 if inferred.is_none() => {
                inferred = Some(at);
                1
            }
            0 if !keep_zero => *input.dims.get(at).ok_or("a 0 in `shape` copies an extent that is not there")?,
            _ => usize::try_from(value).map_err(|_| format!("`shape` holds {value}"))?,
        });
    }
    let known = dims.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim));
    let known = known.ok_or("`shape` is too large")?;
    if let Some(at) = inferred {
        if known == 0 || !count.is_multiple_of(known) {
            return Err(format!("{:?} cannot be reshaped to {wanted:?}", input.dims).into());
        }
        dims[at] = count / known;
    } else if known != count {
        return Err(format!("{:?} cannot be reshaped to {wanted:?}", input.dims).into());
    }
    typed(view, dims)
}

fn flatten_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    let dims = &view.input(0)?.dims;
    let rank = dims.len();
    let at = view.attr_int_or("axis", 1)?;
    let at = if at == i64::try_from(rank).unwrap_or(i64::MAX) { rank } else { axis(at, rank)? };
    typed(view, vec![dims[..at].iter().product(), dims[at..].iter().product()])
}

fn axes_argument(view: &NodeView<'_>) -> Result<Option<Vec<i64>>, ShapeError> {
    match view.attr_ints("axes")? {
        Some(axes) => Ok(Some(axes.to_vec())),
        None => view.const_i64(1),
    }
}

fn squeeze_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    let dims = &view.input(0)?.dims;
    let gone = match axes_argument(view)? {
        Some(axes) => axes.iter().map(|&value| axis(value, dims.len())).collect::<Result<Vec<_>, _>>()?,
        None => (0..dims.len()).filter(|&at| dims[at] == 1).collect(),
    };
    if let Some(&at) = gone.iter().find(|&&at| dims[at] != 1) {
        return Err(format!("axis {at} has extent {}, not 1", dims[at]).into());
    }
    typed(view, (0..dims.len()).filter(|at| !gone.contains(at)).map(|at| dims[at]).collect())
}

fn unsqueeze_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    let dims = &view.input(0)?.dims;
    let axes = axes_argument(view)?.ok_or("`axes` is missing".to_owned())?;
    let rank = dims.len() + axes.len();
    let mut added = axes.iter().map(|&value| axis(value, rank)).collect::<Result<Vec<_>, _>>()?;
    added.sort_unstable();
    if added.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err("`axes` names an axis twice".into());
    }
    let mut out = dims.clone();
    added.into_iter().for_each(|at| out.insert(at, 1));
    typed(view, out)
}

/// Reshape, Flatten, Squeeze, Unsqueeze: the elements in the same order.
fn reshape(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    let input = ctx.input(0)?;
    let out = ctx.reshape(&input, ctx.output_dims(0)?)?;
    ctx.output(0, out)
}

#[cfg(test)]
mod tests {
    use crate::testing::{OneNode, f32s, i64s};

    fn dims(node: OneNode) -> Vec<usize> {
        node.run()[0].dims.clone()
    }

    #[test]
    fn wildcards_zeros_and_axes() {
        let data = || f32s(&[2, 1, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let shape = |values: &[i64]| i64s(&[values.len()], values);
        let reshape = |values: &[i64]| OneNode::new("Reshape", 14).input(data()).constant(shape(values));
        assert_eq!(dims(reshape(&[0, -1])), [2, 3]);
        assert_eq!(dims(reshape(&[3, 2])), [3, 2]);
        assert_eq!(dims(OneNode::new("Flatten", 13).int("axis", -1).input(data())), [2, 3]);
        assert_eq!(dims(OneNode::new("Squeeze", 13).input(data()).constant(shape(&[1]))), [2, 3]);
        assert_eq!(dims(OneNode::new("Squeeze", 11).input(data())), [2, 3]);
        assert_eq!(dims(OneNode::new("Unsqueeze", 13).input(data()).constant(shape(&[0, -1]))), [1, 2, 1, 3, 1]);
    }
}
