//! Operators that rearrange elements by strided copies: transpose, slice, concatenation, expansion.

use super::{Operator, axis, op};
use crate::context::{BLOCK, LowerCtx, Reason, Val, contiguous, to_i32, to_u32};
use cordon_engine::program::{Layout, StridedCopy};
use cordon_graph::{NodeView, ShapeError, TensorType};

/// This family's part of the table.
pub(super) const OPERATORS: &[Operator] = &[
    op("Transpose", 1, transpose_shape, transpose).moves(),
    op("Concat", 4, concat_shape, concat).moves(),
    op("Split", 2, split_shape, split).moves(),
    op("Slice", 1, slice_shape, slice).moves(),
    op("Expand", 8, expand_shape, expand).moves(),
    op("Tile", 6, tile_shape, tile).moves(),
    op("DepthToSpace", 1, depth_to_space_shape, depth_to_space).moves(),
    op("SpaceToDepth", 1, space_to_depth_shape, space_to_depth).moves(),
];

pub(super) fn typed(view: &NodeView<'_>, dims: Vec<usize>) -> Result<Vec<TensorType>, ShapeError> {
    Ok(vec![TensorType { elem: view.input(0)?.elem, dims }])
}

pub(super) fn narrow(values: impl IntoIterator<Item = usize>) -> Vec<u32> {
    values.into_iter().map(to_u32).collect()
}

/// Copies `val` (plain) into `out` by extents and input strides; the output is written in order.
fn gather_strided(ctx: &mut LowerCtx<'_, '_>, val: &Val, out: &Val, dims: &[usize], from: usize, strides: Vec<i32>) {
    let geometry = StridedCopy {
        dims: narrow(dims.iter().copied()),
        from: to_u32(from),
        from_strides: strides,
        to: 0,
        to_strides: narrow(contiguous(dims)),
    };
    ctx.copy(geometry, val, out);
}

fn permutation(view: &NodeView<'_>, rank: usize) -> Result<Vec<usize>, String> {
    let Some(perm) = view.attr_ints("perm")? else { return Ok((0..rank).rev().collect()) };
    let perm = perm.iter().map(|&entry| axis(entry, rank)).collect::<Result<Vec<_>, _>>()?;
    let mut seen = perm.clone();
    seen.sort_unstable();
    if seen.into_iter().eq(0..rank) { Ok(perm) } else { Err("perm is not a permutation".into()) }
}

fn transpose_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    let input = view.input(0)?;
    let perm = permutation(view, input.dims.len())?;
    typed(view, perm.iter().map(|&from| input.dims[from]).collect())
}

fn transpose(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    let input = ctx.plain_input(0)?;
    let perm = permutation(&ctx.view, input.dims.len())?;
    let moved: Vec<usize> = perm.iter().copied().filter(|&from| input.dims[from] != 1).collect();
    let dims: Vec<usize> = perm.iter().map(|&from| input.dims[from]).collect();
    // Only extents of 1 change places: the elements stay where they are.
    let out = if moved.is_sorted() { ctx.reshape(&input, &dims)? } else { permute(ctx, &input, &perm)? };
    ctx.output(0, out)
}

/// The value with its axes in the order `perm`.
fn permute(ctx: &mut LowerCtx<'_, '_>, input: &Val, perm: &[usize]) -> Result<Val, Reason> {
    let dims: Vec<usize> = perm.iter().map(|&from| input.dims[from]).collect();
    let strides = contiguous(&input.dims);
    let out = ctx.new_val(input.dtype, &dims, Layout::Plain)?;
    gather_strided(ctx, input, &out, &dims, 0, perm.iter().map(|&from| to_i32(strides[from])).collect());
    Ok(out)
}

fn concat_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    let mut dims = view.input(0)?.dims.clone();
    let axis = axis(view.attr_int_or("axis", 1)?, dims.len())?;
    for index in 1..view.inputs() {
        let other = &view.input(index)?.dims;
        let agree = other.len() == dims.len() && (0..dims.len()).all(|at| at == axis || other[at] == dims[at]);
        if !agree {
            return Err(format!("input {index} of shape {other:?} does not fit {dims:?} along axis {axis}").into());
        }
        dims[axis] += other[axis];
    }
    typed(view, dims)
}

/// Blocked values whose channels fill whole blocks are joined without leaving the block layout.
fn concat(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    let dims = ctx.output_dims(0)?;
    let axis = axis(ctx.view.attr_int_or("axis", 1)?, dims.len())?;
    let mut inputs = (0..ctx.input_count()).map(|index| ctx.input(index)).collect::<Result<Vec<_>, _>>()?;
    let whole = |val: &Val| val.layout == Layout::Blocked && (axis != 1 || val.dims[1].is_multiple_of(BLOCK));
    let layout = if inputs.iter().all(whole) { Layout::Blocked } else { Layout::Plain };
    if layout == Layout::Plain {
        inputs = inputs.iter().map(|val| ctx.plain(val)).collect::<Result<_, _>>()?;
    }
    let out = ctx.new_val(inputs[0].dtype, dims, layout)?;
    let row = out.physical()[axis..].iter().product::<usize>();
    let mut to = 0;
    for val in inputs.iter().filter(|val| val.count() > 0) {
        let physical = val.physical();
        let (outer, part) = (physical[..axis].iter().product(), physical[axis..].iter().product());
        let geometry = StridedCopy {
            dims: narrow([outer, part]),
            from: 0,
            from_strides: vec![to_i32(part), 1],
            to: to_u32(to),
            to_strides: narrow([row, 1]),
        };
        ctx.copy(geometry, val, &out);
        to += part;
    }
    ctx.output(0, out)
}

/// The axis and the extent of every part.
fn split_parts(view: &NodeView<'_>) -> Result<(usize, Vec<usize>), ShapeError> {
    let dims = &view.input(0)?.dims;
    let axis = axis(view.attr_int_or("axis", 0)?, dims.len())?;
    let given = match view.attr_ints("split")? {
        Some(parts) => Some(parts.to_vec()),
        None => view.const_i64(1)?,
    };
    let parts = match given {
        Some(parts) => parts.iter().map(|&part| usize::try_from(part)).collect::<Result<Vec<_>, _>>(),
        None => {
            // Equal parts; from opset 18 the last may be smaller.
            let count = view.outputs().max(1);
            let part = dims[axis].div_ceil(count);
            Ok((0..count).map(|at| part.min(dims[axis].saturating_sub(at * part))).collect())
        }
    };
    let parts = parts.map_err(|_| "a part has a negative extent".to_owned())?;
    if parts.len() != view.outputs() || parts.iter().sum::<usize>() != dims[axis] {
        return Err(format!("parts {parts:?} do not make up an extent of {}", dims[axis]).into());
    }
    Ok((axis, parts))
}

fn split_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    let input = view.input(0)?;
    let (axis, parts) = split_parts(view)?;
    Ok(parts
        .into_iter()
        .map(|part| {
            let mut dims = input.dims.clone();
            dims[axis] = part;
            TensorType { elem: input.elem, dims }
        })
        .collect())
}

fn split(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    let input = ctx.plain_input(0)?;
    let (axis, parts) = split_parts(&ctx.view)?;
    let outer: usize = input.dims[..axis].iter().product();
    let row: usize = input.dims[axis..].iter().product();
    let inner: usize = input.dims[axis + 1..].iter().product();
    let mut from = 0;
    for (index, part) in parts.into_iter().enumerate() {
        if ctx.has_output(index) {
            let out = ctx.new_val(input.dtype, ctx.output_dims(index)?, Layout::Plain)?;
            gather_strided(ctx, &input, &out, &[outer, part * inner], from, vec![to_i32(row), 1]);
            ctx.output(index, out)?;
        }
        from += part * inner;
    }
    Ok(())
}

/// Per axis: first element, step and count.
fn slice_ranges(view: &NodeView<'_>) -> Result<Vec<(usize, i64, usize)>, ShapeError> {
    let dims = &view.input(0)?.dims;
    let need = |list: Option<Vec<i64>>, name: &str| list.ok_or_else(|| format!("`{name}` is missing"));
    let (starts, ends, axes, steps) = if view.opset() < 10 {
        let list = |name| view.attr_ints(name).map(|values| values.map(<[i64]>::to_vec));
        (need(list("starts")?, "starts")?, need(list("ends")?, "ends")?, list("axes")?, None)
    } else {
        let (starts, ends) = (need(view.const_i64(1)?, "starts")?, need(view.const_i64(2)?, "ends")?);
        (starts, ends, view.const_i64(3)?, view.const_i64(4)?)
    };
    let axes = axes.unwrap_or_else(|| (0..).take(starts.len()).collect());
    let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), axes.len(), steps.len()].iter().any(|&len| len != starts.len()) {
        return Err("`starts`, `ends`, `axes` and `steps` differ in length".into());
    }
    let mut ranges: Vec<_> = dims.iter().map(|&dim| (0, 1, dim)).collect();
    for (at, &value) in axes.iter().enumerate() {
        let axis = axis(value, dims.len())?;
        let dim = i64::try_from(dims[axis]).map_err(|_| "an extent is too large".to_owned())?;
        let from_end = |value: i64| if value < 0 { value.saturating_add(dim) } else { value };
        let step = steps[at];
        let (start, count) = match step {
            0 => return Err("a step of 0".into()),
            1.. => {
                let (start, end) = (from_end(starts[at]).clamp(0, dim), from_end(ends[at]).clamp(0, dim));
                (start, if end > start { (end - start - 1) / step + 1 } else { 0 })
            }
            _ => {
                let (start, end) = (from_end(starts[at]).clamp(0, dim - 1), from_end(ends[at]).clamp(-1, dim - 1));
                (start, if start > end { (start - end - 1) / step.saturating_neg() + 1 } else { 0 })
            }
        };
        let fits = |value: i64| usize::try_from(value).map_err(|_| "a slice is outside its value".to_owned());
        ranges[axis] = (fits(start.max(0))?, step, fits(count)?);
    }
    Ok(ranges)
}

fn slice_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    let dims = slice_ranges(view)?.into_iter().map(|(_, _, count)| count).collect();
    typed(view, dims)
}

fn slice(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    let ranges = slice_ranges(&ctx.view)?;
    let mut input = ctx.input(0)?;
    let whole = |(range, dim): (&(usize, i64, usize), &usize)| range.2 == *dim && range.1 > 0;
    if ranges.iter().zip(&input.dims).all(whole) {
        let input = ctx.plain(&input)?;
        return ctx.output(0, input);
    }
    let logical: Vec<usize> = ranges.iter().map(|range| range.2).collect();
    let mut ranges = ranges;
    if input.layout == Layout::Blocked && ranges.iter().zip(&input.dims).take(2).all(whole) {
        // Only spatial axes: the blocks stay as they are.
        ranges[1].2 = input.dims[1].div_ceil(BLOCK);
        ranges.push((0, 1, BLOCK));
    } else {
        input = ctx.plain(&input)?;
    }
    let dims: Vec<usize> = ranges.iter().map(|range| range.2).collect();
    let own = contiguous(&input.physical());
    let from = ranges.iter().zip(&own).map(|(range, &stride)| range.0 * stride).sum();
    let strides = ranges.iter().zip(&own).map(|(range, &stride)| {
        // A step past the value's end is never taken: its extent is 1.
        let step = if range.2 > 1 { range.1 } else { 0 };
        i64::try_from(stride).ok().and_then(|stride| i32::try_from(step * stride).ok())
    });
    let strides = strides.collect::<Option<Vec<_>>>().ok_or("a step is too large")?;
    let out = ctx.new_val(input.dtype, &logical, input.layout)?;
    gather_strided(ctx, &input, &out, &dims, from, strides);
    ctx.output(0, out)
}

fn expand_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    let wanted = view.const_i64(1)?.ok_or("input `shape` is missing".to_owned())?;
    let wanted: Result<Vec<usize>, _> = wanted.into_iter().map(usize::try_from).collect();
    let wanted = wanted.map_err(|_| "`shape` holds a negative extent".to_owned())?;
    let dims = crate::broadcast::broadcast_dims([view.input(0)?.dims.as_slice(), &wanted]);
    typed(view, dims.map_err(|reason| ShapeError::Invalid(reason.0))?)
}

fn expand(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    let input = ctx.plain_input(0)?;
    let dims = ctx.output_dims(0)?;
    if input.dims == dims {
        return ctx.output(0, input);
    }
    let own = contiguous(&input.dims);
    let lead = dims.len() - input.dims.len();
    let strides = (0..dims.len()).map(|at| match at.checked_sub(lead) {
        Some(own_at) if input.dims[own_at] != 1 => to_i32(own[own_at]),
        _ => 0,
    });
    let strides = strides.collect();
    let out = ctx.new_val(input.dtype, dims, Layout::Plain)?;
    gather_strided(ctx, &input, &out, dims, 0, strides);
    ctx.output(0, out)
}

fn tile_repeats(view: &NodeView<'_>) -> Result<Vec<usize>, ShapeError> {
    let rank = view.input(0)?.dims.len();
    let repeats = view.const_i64(1)?.ok_or("input `repeats` is missing".to_owned())?;
    let repeats: Result<Vec<usize>, _> = repeats.into_iter().map(usize::try_from).collect();
    let repeats = repeats.map_err(|_| "`repeats` holds a negative count".to_owned())?;
    if repeats.len() == rank { Ok(repeats) } else { Err("`repeats` and the input differ in rank".into()) }
}

fn tile_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    let repeats = tile_repeats(view)?;
    let dims = view.input(0)?.dims.iter().zip(&repeats).map(|(&dim, &times)| dim.checked_mul(times));
    let dims = dims.collect::<Option<Vec<_>>>().ok_or("the result is too large".to_owned())?;
    typed(view, dims)
}

/// Every axis as (repeat, extent), the repeat walked with stride 0.
fn tile(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    let input = ctx.plain_input(0)?;
    let repeats = tile_repeats(&ctx.view)?;
    let own = contiguous(&input.dims);
    let (mut dims, mut strides) = (Vec::new(), Vec::new());
    for (at, &times) in repeats.iter().enumerate() {
        for (extent, stride) in [(times, 0), (input.dims[at], to_i32(own[at]))] {
            if extent != 1 {
                dims.push(extent);
                strides.push(stride);
            }
        }
    }
    if dims.is_empty() {
        return ctx.output(0, input);
    }
    let out = ctx.new_val(input.dtype, ctx.output_dims(0)?, Layout::Plain)?;
    gather_strided(ctx, &input, &out, &dims, 0, strides);
    ctx.output(0, out)
}

/// `(n, c, h, w)` and the block size.
fn image_dims(view: &NodeView<'_>) -> Result<([usize; 4], usize), ShapeError> {
    let dims: [usize; 4] =
        view.input(0)?.dims.as_slice().try_into().map_err(|_| "the input is not (n, c, h, w)".to_owned())?;
    let size = view.attr_int("blocksize")?.ok_or("attribute `blocksize` is missing".to_owned())?;
    let size = usize::try_from(size).ok().filter(|&size| size > 0).ok_or("`blocksize` is not positive")?;
    Ok((dims, size))
}

fn depth_to_space_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    let ([n, c, h, w], size) = image_dims(view)?;
    if !c.is_multiple_of(size * size) {
        return Err(format!("{c} channels do not split into blocks of {size} x {size}").into());
    }
    typed(view, vec![n, c / (size * size), h * size, w * size])
}

fn depth_to_space(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    let ([n, c, h, w], size) = image_dims(&ctx.view)?;
    let channels = c / (size * size);
    let (dims, perm) = match ctx.view.attr_string_or("mode", "DCR")? {
        "DCR" => ([n, size, size, channels, h, w], [0, 3, 4, 1, 5, 2]),
        "CRD" => ([n, channels, size, size, h, w], [0, 1, 4, 2, 5, 3]),
        other => return Err(format!("mode \"{other}\" is not a mode of DepthToSpace").into()),
    };
    rearrange(ctx, &dims, &perm)
}

fn space_to_depth_shape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
    let ([n, c, h, w], size) = image_dims(view)?;
    if !h.is_multiple_of(size) || !w.is_multiple_of(size) {
        return Err(format!("{h} x {w} does not split into blocks of {size} x {size}").into());
    }
    typed(view, vec![n, c * size * size, h / size, w / size])
}

fn space_to_depth(ctx: &mut LowerCtx<'_, '_>) -> Result<(), Reason> {
    let ([n, c, h, w], size) = image_dims(&ctx.view)?;
    rearrange(ctx, &[n, c, h / size, size, w / size, size], &[0, 3, 5, 1, 2, 4])
}

/// Reads input 0 as `dims`, permutes, and binds the result in the inferred shape.
fn rearrange(ctx: &mut LowerCtx<'_, '_>, dims: &[usize], perm: &[usize]) -> Result<(), Reason> {
    let input = ctx.plain_input(0)?;
    let input = ctx.reshape(&input, dims)?;
    let moved = permute(ctx, &input, perm)?;
    let out = ctx.reshape(&moved, ctx.output_dims(0)?)?;
    ctx.output(0, out)
}

#[cfg(test)]
mod tests {
    use crate::testing::{OneNode, f32s, i64s, noise};

    fn six() -> cordon_graph::Tensor {
        f32s(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    }

    #[test]
    fn transpose_moves_columns_to_rows() {
        let out = OneNode::new("Transpose", 13).ints("perm", &[1, 0]).input(six()).run();
        assert_eq!(out, vec![f32s(&[3, 2], &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0])]);
    }

    #[test]
    fn slices_walk_backwards_and_skip() {
        let run = |starts: &[i64], ends: &[i64], axes: &[i64], steps: &[i64]| {
            let list = |values: &[i64]| i64s(&[values.len()], values);
            let node = OneNode::new("Slice", 13).input(six()).constant(list(starts)).constant(list(ends));
            node.constant(list(axes)).constant(list(steps)).run()
        };
        assert_eq!(run(&[-1], &[i64::MIN], &[1], &[-2]), vec![f32s(&[2, 2], &[3.0, 1.0, 6.0, 4.0])]);
        assert_eq!(run(&[1, 0], &[i64::MAX, 2], &[0, 1], &[1, 1]), vec![f32s(&[1, 2], &[4.0, 5.0])]);
        assert_eq!(run(&[0], &[3], &[1], &[i64::MAX]), vec![f32s(&[2, 1], &[1.0, 4.0])]);
    }

    #[test]
    fn rows_and_columns_of_blocks_are_sliced_as_those_of_a_plain_value() {
        let conv = || OneNode::new("Conv", 13).input(noise(&[1, 3, 6, 5], 1)).constant(noise(&[20, 3, 1, 1], 2));
        let lists = [&[1, 1], &[6, 5], &[2, 3], &[2, 3]].map(|list: &[i64; 2]| i64s(&[2], list));
        let sliced = lists.into_iter().fold(conv().then("Slice"), OneNode::constant);
        let whole = conv().run()[0].to_f32().unwrap();
        let want: Vec<f32> = (0..20)
            .flat_map(|c| [1, 3, 5].into_iter().flat_map(move |y| [1, 4].map(|x| (c * 6 + y) * 5 + x)))
            .map(|at| whole[at])
            .collect();
        assert_eq!(sliced.run(), vec![f32s(&[1, 20, 3, 2], &want)]);
    }

    #[test]
    fn uneven_splits_name_their_parts() {
        let parts = i64s(&[2], &[1, 2]);
        let out = OneNode::new("Split", 13).int("axis", 1).input(six()).constant(parts).another_output().run();
        assert_eq!(out, vec![f32s(&[2, 1], &[1.0, 4.0]), f32s(&[2, 2], &[2.0, 3.0, 5.0, 6.0])]);
    }

    #[test]
    fn concatenation_along_an_inner_axis() {
        let out = OneNode::new("Concat", 13).int("axis", -1).input(six()).constant(f32s(&[2, 1], &[8.0, 9.0])).run();
        assert_eq!(out, vec![f32s(&[2, 4], &[1.0, 2.0, 3.0, 8.0, 4.0, 5.0, 6.0, 9.0])]);
    }

    #[test]
    fn repeats_and_expansions() {
        let tiled = OneNode::new("Tile", 13).input(f32s(&[1, 2], &[1.0, 2.0])).constant(i64s(&[2], &[2, 2])).run();
        assert_eq!(tiled, vec![f32s(&[2, 4], &[1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0])]);
        let shape = i64s(&[3], &[2, 1, 2]);
        let expanded = OneNode::new("Expand", 13).input(f32s(&[2, 1], &[1.0, 2.0])).constant(shape).run();
        assert_eq!(expanded, vec![f32s(&[2, 2, 2], &[1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 2.0, 2.0])]);
    }

    #[test]
    fn depth_becomes_space_in_both_orders() {
        let data = || f32s(&[1, 4, 1, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        let out = OneNode::new("DepthToSpace", 13).int("blocksize", 2).input(data()).run();
        assert_eq!(out, vec![f32s(&[1, 1, 2, 4], &[1.0, 3.0, 2.0, 4.0, 5.0, 7.0, 6.0, 8.0])]);
    }
}
