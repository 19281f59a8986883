//! Operators that move elements without computing on them.

use super::index::{axes, axis, broadcast, broadcast_from, dot, strides};
use super::{SMALL, rearranged};
use crate::tensor::Tensor;
use crate::tensor::count;
use crate::view::NodeView;
use bytes::Bytes;

/// `Identity`, `Reshape`, `Squeeze`, `Unsqueeze`, `Flatten`: the same data under other extents, of any size.
pub(super) fn relabel(view: &NodeView<'_>) -> Option<Tensor> {
    let input = view.input_const(0)?;
    let dims = match view.node.op_type.as_str() {
        "Identity" => input.dims.clone(),
        "Reshape" => reshaped(view, input)?,
        "Squeeze" => squeezed(view, input)?,
        "Unsqueeze" => {
            let given = given_axes(view)??;
            let axes = axes(&given, input.dims.len().checked_add(given.len())?)?;
            let mut dims = input.dims.clone();
            axes.into_iter().for_each(|axis| dims.insert(axis, 1));
            dims
        }
        _ => {
            let rank = input.dims.len() as i64;
            let at = view.attr_int_or("axis", 1).ok()?;
            let at = usize::try_from(if at < 0 { at.checked_add(rank)? } else { at }).ok()?;
            let (outer, inner) = input.dims.split_at_checked(at)?;
            vec![count(outer)? as usize, count(inner)? as usize]
        }
    };
    (count(&dims)? == input.elements()).then(|| Tensor { elem: input.elem, dims, data: input.data.clone() })
}

fn reshaped(view: &NodeView<'_>, input: &Tensor) -> Option<Vec<usize>> {
    let wanted = view.input_const_i64(1)?;
    let keep_zero = view.attr_int_or("allowzero", 0).ok()? != 0;
    let mut dims = Vec::with_capacity(wanted.len());
    let mut open = None;
    for (i, &want) in wanted.iter().enumerate() {
        dims.push(match want {
            -1 if open.replace(i).is_none() => 1,
            0 if !keep_zero => *input.dims.get(i)?,
            _ => usize::try_from(want).ok()?,
        });
    }
    if let Some(i) = open {
        dims[i] = input.elements().checked_div(count(&dims)?)? as usize;
    }
    Some(dims)
}

fn squeezed(view: &NodeView<'_>, input: &Tensor) -> Option<Vec<usize>> {
    let axes = match given_axes(view)? {
        Some(given) => axes(&given, input.dims.len())?,
        None => (0..input.dims.len()).filter(|&i| input.dims[i] == 1).collect(),
    };
    if axes.iter().any(|&axis| input.dims[axis] != 1) {
        return None;
    }
    Some(input.dims.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, &dim)| dim).collect())
}

/// Axes from the attribute (up to opset 12) or from input 1; the outer `None` when they cannot be read.
fn given_axes(view: &NodeView<'_>) -> Option<Option<Vec<i64>>> {
    if let Some(axes) = view.attr_ints("axes").ok()? {
        return Some(Some(axes.to_vec()));
    }
    Some(match view.input_id(1) {
        Some(_) => Some(view.input_const_i64(1)?),
        None => None,
    })
}

pub(super) fn transpose(view: &NodeView<'_>) -> Option<Tensor> {
    let input = view.input_const(0)?;
    let rank = input.dims.len();
    let order: Vec<usize> = match view.attr_ints("perm").ok()? {
        Some(perm) => perm.iter().map(|&at| usize::try_from(at).ok().filter(|&at| at < rank)).collect::<Option<_>>()?,
        None => (0..rank).rev().collect(),
    };
    if order.len() != rank || (0..rank).any(|axis| !order.contains(&axis)) {
        return None;
    }
    let own = strides(&input.dims);
    let dims: Vec<usize> = order.iter().map(|&axis| input.dims[axis]).collect();
    let steps: Vec<usize> = order.iter().map(|&axis| own[axis]).collect();
    rearranged(input, dims.clone(), |i| Some(dot(i, &dims, &steps)))
}

pub(super) fn expand(view: &NodeView<'_>) -> Option<Tensor> {
    let input = view.input_const(0)?;
    let wanted: Vec<usize> =
        view.input_const_i64(1)?.iter().map(|&dim| usize::try_from(dim).ok()).collect::<Option<_>>()?;
    let dims = broadcast(&input.dims, &wanted)?;
    let from = broadcast_from(&input.dims, &dims);
    rearranged(input, dims, |i| Some(from(i)))
}

pub(super) fn tile(view: &NodeView<'_>) -> Option<Tensor> {
    let input = view.input_const(0)?;
    let repeats = view.input_const_i64(1)?;
    if repeats.len() != input.dims.len() {
        return None;
    }
    let times = |(&dim, &times): (&usize, &i64)| dim.checked_mul(usize::try_from(times).ok()?);
    let dims: Vec<usize> = input.dims.iter().zip(&repeats).map(times).collect::<Option<_>>()?;
    let own = strides(&input.dims);
    rearranged(input, dims.clone(), |mut i| {
        let mut at = 0;
        for axis in (0..dims.len()).rev() {
            at += i % dims[axis] % input.dims[axis] * own[axis];
            i /= dims[axis];
        }
        Some(at)
    })
}

pub(super) fn concat(view: &NodeView<'_>) -> Option<Tensor> {
    let parts: Vec<&Tensor> = (0..view.inputs()).map(|i| view.input_const(i)).collect::<Option<_>>()?;
    let first = *parts.first()?;
    let axis = axis(view.attr_int("axis").ok()??, first.dims.len())?;
    let (outer, inner) = (&first.dims[..axis], &first.dims[axis + 1..]);
    let fits = |part: &&Tensor| {
        part.elem == first.elem
            && part.dims.len() == first.dims.len()
            && part.dims[..axis] == *outer
            && part.dims[axis + 1..] == *inner
    };
    if !parts.iter().all(fits) {
        return None;
    }
    let mut dims = first.dims.clone();
    dims[axis] = parts.iter().try_fold(0usize, |sum, part| sum.checked_add(part.dims[axis]))?;
    count(&dims).filter(|&elements| elements <= SMALL)?;
    let row = super::width(first.elem)?.checked_mul(count(inner)? as usize)?;
    let mut data = Vec::new();
    let rows = if count(&dims)? == 0 { 0 } else { count(outer)? as usize };
    for i in 0..rows {
        for part in &parts {
            let run = part.dims[axis] * row;
            data.extend_from_slice(part.data.get(i * run..(i + 1) * run)?);
        }
    }
    Tensor::new(first.elem, dims, Bytes::from(data)).ok()
}

pub(super) fn gather(view: &NodeView<'_>) -> Option<Tensor> {
    let (input, chosen) = (view.input_const(0)?, view.input_const(1)?);
    let axis = axis(view.attr_int_or("axis", 0).ok()?, input.dims.len())?;
    let size = input.dims[axis];
    if chosen.elements() > SMALL {
        return None;
    }
    let picks: Vec<usize> =
        chosen.to_i64().ok()?.iter().map(|&at| super::index::axis(at, size)).collect::<Option<_>>()?;
    let mut dims = input.dims[..axis].to_vec();
    dims.extend_from_slice(&chosen.dims);
    dims.extend_from_slice(&input.dims[axis + 1..]);
    let inner = count(&input.dims[axis + 1..])? as usize;
    rearranged(input, dims, |i| {
        let (outer, pick) = (i / inner / picks.len(), i / inner % picks.len());
        Some((outer * size + picks[pick]) * inner + i % inner)
    })
}

pub(super) fn slice(view: &NodeView<'_>) -> Option<Tensor> {
    let input = view.input_const(0)?;
    let rank = input.dims.len();
    let (starts, ends, on, by) = if view.opset() < 10 {
        let starts = view.attr_ints("starts").ok()??.to_vec();
        (starts, view.attr_ints("ends").ok()??.to_vec(), view.attr_ints("axes").ok()?.map(<[i64]>::to_vec), None)
    } else {
        let optional = |i| match view.input_id(i) {
            Some(_) => view.input_const_i64(i).map(Some),
            None => Some(None),
        };
        (view.input_const_i64(1)?, view.input_const_i64(2)?, optional(3)?, optional(4)?)
    };
    let on = on.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let by = by.unwrap_or_else(|| vec![1; starts.len()]);
    if ends.len() != starts.len() || on.len() != starts.len() || by.len() != starts.len() {
        return None;
    }
    let mut dims = input.dims.clone();
    let (mut first, mut step) = (vec![0i64; rank], vec![1i64; rank]);
    for (((&start, &end), &at), &by) in starts.iter().zip(&ends).zip(&on).zip(&by) {
        let axis = axis(at, rank)?;
        let size = input.dims[axis] as i64;
        let from_front = |at: i64| if at < 0 { at.saturating_add(size) } else { at };
        let (low, high) = if by > 0 { (0, size) } else { (-1, size - 1) };
        let start = from_front(start).clamp(low.max(0), high.max(0));
        let end = from_front(end).clamp(low, high);
        let length = match by {
            0 => return None,
            by if by > 0 => (end - start).max(0).unsigned_abs().div_ceil(by.unsigned_abs()),
            by => (start - end).max(0).unsigned_abs().div_ceil(by.unsigned_abs()),
        };
        dims[axis] = length as usize;
        first[axis] = start;
        step[axis] = by;
    }
    let own = strides(&input.dims);
    rearranged(input, dims.clone(), |mut i| {
        let mut at = 0;
        for axis in (0..rank).rev() {
            let here = first[axis] + (i % dims[axis]) as i64 * step[axis];
            at += usize::try_from(here).ok()? * own[axis];
            i /= dims[axis];
        }
        Some(at)
    })
}

pub(super) fn split(view: &NodeView<'_>) -> Option<Vec<Tensor>> {
    let input = view.input_const(0)?;
    let axis = axis(view.attr_int_or("axis", 0).ok()?, input.dims.len())?;
    let size = input.dims[axis];
    let sizes: Vec<usize> = match (view.attr_ints("split").ok()?, view.input_id(1)) {
        (Some(sizes), _) => sizes.iter().map(|&size| usize::try_from(size).ok()).collect::<Option<_>>()?,
        (None, Some(_)) => {
            view.input_const_i64(1)?.iter().map(|&size| usize::try_from(size).ok()).collect::<Option<_>>()?
        }
        (None, None) => {
            let each = size.div_ceil(view.outputs().max(1));
            (0..view.outputs()).map(|i| each.min(size.saturating_sub(i * each))).collect()
        }
    };
    if sizes.len() != view.outputs() || sizes.iter().try_fold(0usize, |sum, &part| sum.checked_add(part)) != Some(size)
    {
        return None;
    }
    let inner = count(&input.dims[axis + 1..])? as usize;
    let mut start = 0;
    let mut parts = Vec::with_capacity(sizes.len());
    for part in sizes {
        let mut dims = input.dims.clone();
        dims[axis] = part;
        let run = part * inner;
        parts.push(rearranged(input, dims, |i| Some((i / run * size + start) * inner + i % run))?);
        start += part;
    }
    Some(parts)
}

/// `Where`.
pub(super) fn select(view: &NodeView<'_>) -> Option<Tensor> {
    let (condition, then, otherwise) = (view.input_const(0)?, view.input_const(1)?, view.input_const(2)?);
    let small = [condition, then, otherwise].iter().all(|part| part.elements() <= SMALL);
    if then.elem != otherwise.elem || !small {
        return None;
    }
    let mask = condition.to_bool().ok()?;
    let dims = broadcast(&broadcast(&condition.dims, &then.dims)?, &otherwise.dims)?;
    let (from_mask, from_then, from_else) = (
        broadcast_from(&condition.dims, &dims),
        broadcast_from(&then.dims, &dims),
        broadcast_from(&otherwise.dims, &dims),
    );
    // One source: the elements of `then` followed by those of `otherwise`.
    let split = then.elements() as usize;
    let both = [&then.data[..], &otherwise.data[..]].concat();
    let source = Tensor { elem: then.elem, dims: vec![split + otherwise.elements() as usize], data: Bytes::from(both) };
    rearranged(&source, dims, |i| Some(if mask[from_mask(i)] { from_then(i) } else { split + from_else(i) }))
}
