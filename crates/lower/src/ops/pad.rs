//! Padding: a filled value with the input copied into it, or a selection of positions along each axis.

use super::movement::{narrow, typed};
use super::{Operator, axis, op};
use crate::context::{BLOCK, LowerCtx, Reason, Val, contiguous, to_i32, to_u32};
use crate::ops::facts::AffineIn;
use cordon_engine::program::{Along, DType, Instruction, Layout, Operand, StridedCopy};
use cordon_graph::{NodeView, ShapeError, TensorType};

/// This family's part of the table.
pub(super) const OPERATORS: &[Operator] = &[op("Pad", 2, pad_shape, pad).affine(AffineIn::All)];

/// Elements before and after, per axis; negative removes.
fn pads(view: &NodeView<'_>) -> Result<Vec<(i64, i64)>, ShapeError> {
    let rank = view.input(0)?.dims.len();
    let (list, axes) = if view.opset() < 11 {
        (view.attr_ints("pads")?.map(<[i64]>::to_vec), None)
    } else {
        (view.const_i64(1)?, view.const_i64(3)?)
    };
    let list = list.ok_or("`pads` is missing".to_owned())?;
    let axes = match axes {
        Some(axes) => axes.iter().map(|&value| axis(value, rank)).collect::<Result<Vec<_>, _>>()?,
        None => (0..rank).collect(),
    };
    if list.len() != 2 * axes.len() {
        return Err("`pads` needs two entries per axis".into());
    }
    let mut out = vec![(0, 0); rank];
    for (at, &axis) in axes.iter().enumerate() {
        out[axis] = (list[at], list[at + axes.len()]);
    }
    Ok(out)
}

fn pad_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    let dims = view.input(0)?.dims.iter().zip(pads(view)?).map(|(&dim, (before, after))| {
        let padded = i64::try_from(dim).ok()?.checked_add(before)?.checked_add(after)?;
        usize::try_from(padded).ok()
    });
    let dims = dims.collect::<Option<Vec<_>>>().ok_or("`pads` removes more than there is, or adds too much")?;
    typed(view, dims)
}

fn pad(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    let pads = pads(&ctx.view)?;
    let mode = ctx.view.attr_string_or("mode", "constant")?;
    let mut input = ctx.input(0)?;
    if input.layout == Layout::Blocked && !(mode == "constant" && keeps_blocks(&input, &pads)) {
        input = ctx.plain(&input)?;
    }
    let out = match mode {
        "constant" => pad_constant(ctx, &input, &pads)?,
        "edge" | "reflect" | "wrap" => {
            let mut out = input;
            for (axis, &(before, after)) in pads.iter().enumerate() {
                if (before, after) != (0, 0) {
                    let indices = border_indices(mode, out.dims[axis], before, after)?;
                    out = take_along(ctx, &out, axis, indices)?;
                }
            }
            out
        }
        other => return Err(format!("mode \"{other}\" is not supported in a secure segment").into()),
    };
    ctx.output(0, out)
}

/// Whether every channel stays in a lane of its own number: whole blocks before, and none cut or begun after.
fn keeps_blocks(input: &Val, pads: &[(i64, i64)]) -> bool {
    let block = BLOCK as i64;
    let (before, after) = pads[1];
    before >= 0 && before % block == 0 && after >= 0 && (after == 0 || input.dims[1].is_multiple_of(BLOCK))
}

fn pad_constant(ctx: &mut LowerCtx<'_, '_>, input: &Val, pads: &[(i64, i64)]) -> Result<Val, Reason> {
    let value = if ctx.view.opset() < 11 {
        u64::from(ctx.view.attr_float_or("value", 0.0)?.to_bits())
    } else if ctx.has_input(2) {
        let val = ctx.input(2)?;
        let tensor = val.constant().ok_or("`constant_value` is computed at run time")?;
        match val.dtype {
            DType::F32 => tensor.to_f32()?.first().map(|value| u64::from(value.to_bits())),
            DType::I64 => tensor.to_i64()?.first().map(|value| value.cast_unsigned()),
            DType::Bool => tensor.to_bool()?.first().map(|&value| u64::from(value)),
            DType::U8 => return Err("bytes are not supported".into()),
        }
        .ok_or("`constant_value` is empty")?
    } else {
        0
    };
    let dims = ctx.output_dims(0)?;
    let out = ctx.new_val(input.dtype, dims, input.layout)?;
    ctx.emit(Instruction::Fill { value, out: out.region() });
    let mut pads = pads.to_vec();
    let extents = input.physical();
    if input.layout == Layout::Blocked {
        pads[1].0 /= BLOCK as i64;
        pads[1].1 = 0;
        pads.push((0, 0));
    }
    let (from_strides, to_strides) = (contiguous(&extents), contiguous(&out.physical()));
    let positive = |value: i64| usize::try_from(value).unwrap_or(0);
    let (mut kept, mut from, mut to) = (Vec::new(), 0, 0);
    for (axis, &(before, after)) in pads.iter().enumerate() {
        let removed = positive(-before) + positive(-after);
        kept.push(extents[axis].saturating_sub(removed));
        from += positive(-before) * from_strides[axis];
        to += positive(before) * to_strides[axis];
    }
    if !kept.contains(&0) {
        let geometry = StridedCopy {
            dims: narrow(kept),
            from: to_u32(from),
            from_strides: from_strides.into_iter().map(to_i32).collect(),
            to: to_u32(to),
            to_strides: narrow(to_strides),
        };
        ctx.copy(geometry, input, &out);
    }
    Ok(out)
}

/// Which input position each output position of an axis shows.
fn border_indices(mode: &str, extent: usize, before: i64, after: i64) -> Result<Vec<i64>, Reason> {
    let extent = i64::try_from(extent).map_err(|_| "an extent is too large")?;
    let position = |at: i64| match mode {
        "edge" => at.clamp(0, extent - 1),
        "wrap" => at.rem_euclid(extent),
        _ => {
            // Reflection without repeating the border has this period.
            let period = (2 * (extent - 1)).max(1);
            let at = at.rem_euclid(period);
            if at < extent { at } else { period - at }
        }
    };
    Ok((-before..extent + after).map(position).collect())
}

/// The value with the given positions of one axis, in order; `val` may be blocked if `axis` is spatial.
pub(super) fn take_along(ctx: &mut LowerCtx<'_, '_>, val: &Val, axis: usize, indices: Vec<i64>) -> Result<Val, Reason> {
    let physical = val.physical();
    let mut dims = val.dims.clone();
    dims[axis] = indices.len();
    let out = ctx.new_val(val.dtype, &dims, val.layout)?;
    let along = Along {
        outer: to_u32(physical[..axis].iter().product()),
        len: to_u32(physical[axis]),
        inner: to_u32(physical[axis + 1..].iter().product()),
    };
    let (count, data) = (to_u32(indices.len()), ctx.operand(val));
    let indices = Operand::Weight(ctx.weight_i64(indices));
    ctx.emit(Instruction::Gather { along, count, data, indices, out: out.region() });
    Ok(out)
}

#[cfg(test)]
mod tests {
    use crate::testing::{OneNode, f32s, i64s, noise};

    #[test]
    fn blocks_are_padded_as_plain_values_are() {
        let conv = || OneNode::new("Conv", 13).input(noise(&[1, 3, 4, 3], 1)).constant(noise(&[32, 3, 1, 1], 2));
        let whole = conv().run()[0].to_f32().unwrap();
        for pads in [[0, 16, 1, 0, 0, 20, 0, 2], [0, 16, 0, -1, 0, 0, 1, 0], [0, 3, 0, 0, 0, 5, 0, 0]] {
            let got = conv().then("Pad").constant(i64s(&[8], &pads)).run().remove(0);
            let plain = OneNode::new("Pad", 13).input(conv().run().remove(0)).constant(i64s(&[8], &pads)).run();
            assert_eq!(got, plain[0]);
            assert!(got.to_f32().unwrap().contains(&whole[5]), "the values are there");
        }
    }

    #[test]
    fn padding_by_constant_reflection_and_edge() {
        let row = || f32s(&[1, 3], &[1.0, 2.0, 3.0]);
        let run = |mode: &str, pads: &[i64]| {
            OneNode::new("Pad", 13).string("mode", mode).input(row()).constant(i64s(&[4], pads)).run()
        };
        assert_eq!(run("constant", &[0, 1, 0, -1]), vec![f32s(&[1, 3], &[0.0, 1.0, 2.0])]);
        assert_eq!(run("reflect", &[0, 2, 0, 1]), vec![f32s(&[1, 6], &[3.0, 2.0, 1.0, 2.0, 3.0, 2.0])]);
        assert_eq!(run("edge", &[0, 1, 0, 2]), vec![f32s(&[1, 6], &[1.0, 1.0, 2.0, 3.0, 3.0, 3.0])]);
    }
}
