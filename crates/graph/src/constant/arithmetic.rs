//! Arithmetic on small int64, int32, bool and float constants.

use super::index::{axes, broadcast, broadcast_from, strides};
use super::{SMALL, rearranged};
use crate::tensor::Tensor;
use crate::tensor::count;
use crate::view::NodeView;
use bytes::Bytes;
use cordon_onnx_types::ElemType;

/// Decoded elements; int32 and bool are widened.
enum Data {
    Int(Vec<i64>),
    Float(Vec<f32>),
}

fn read(tensor: &Tensor) -> Option<Data> {
    if tensor.elements() > SMALL {
        return None;
    }
    Some(match tensor.elem {
        ElemType::Int32 | ElemType::Int64 => Data::Int(tensor.to_i64().ok()?),
        ElemType::Bool => Data::Int(tensor.to_bool().ok()?.into_iter().map(i64::from).collect()),
        ElemType::Float => Data::Float(tensor.to_f32().ok()?),
        _ => return None,
    })
}

/// Encodes integers; `None` where one does not fit the type.
fn ints(elem: ElemType, dims: Vec<usize>, values: impl Iterator<Item = i64>) -> Option<Tensor> {
    let data: Vec<u8> = match elem {
        ElemType::Int64 => values.flat_map(i64::to_le_bytes).collect(),
        ElemType::Int32 => {
            let narrow: Vec<i32> = values.map(|value| i32::try_from(value).ok()).collect::<Option<_>>()?;
            narrow.into_iter().flat_map(i32::to_le_bytes).collect()
        }
        ElemType::Bool => values.map(|value| u8::from(value != 0)).collect(),
        _ => return None,
    };
    Tensor::new(elem, dims, Bytes::from(data)).ok()
}

fn floats(dims: Vec<usize>, values: impl Iterator<Item = f32>) -> Option<Tensor> {
    let data: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
    Tensor::new(ElemType::Float, dims, Bytes::from(data)).ok()
}

pub(super) fn cast(view: &NodeView<'_>) -> Option<Tensor> {
    let input = view.input_const(0)?;
    let to = ElemType::from_code(i32::try_from(view.attr_int("to").ok()??).ok()?)?;
    let dims = input.dims.clone();
    match (read(input)?, to) {
        (Data::Int(values), ElemType::Float) => floats(dims, values.into_iter().map(|value| value as f32)),
        (Data::Int(values), _) => ints(to, dims, values.into_iter()),
        (Data::Float(values), ElemType::Float) => floats(dims, values.into_iter()),
        (Data::Float(values), ElemType::Bool) => {
            ints(to, dims, values.into_iter().map(|value| i64::from(value != 0.0)))
        }
        (Data::Float(values), _) => {
            // What a number outside the range becomes depends on the engine.
            let in_range = |value: &f32| value.is_finite() && value.abs() < 9.0e18;
            if !values.iter().all(in_range) {
                return None;
            }
            ints(to, dims, values.into_iter().map(|value| value as i64))
        }
    }
}

pub(super) fn unary(view: &NodeView<'_>) -> Option<Tensor> {
    let input = view.input_const(0)?;
    let dims = input.dims.clone();
    match (read(input)?, view.node.op_type.as_str()) {
        (Data::Int(values), "Not") if input.elem == ElemType::Bool => {
            ints(ElemType::Bool, dims, values.into_iter().map(|value| i64::from(value == 0)))
        }
        (Data::Int(_), _) if input.elem == ElemType::Bool => None,
        (Data::Int(values), "Neg") => ints(input.elem, dims, values.into_iter().map(i64::wrapping_neg)),
        (Data::Int(values), "Abs") => ints(input.elem, dims, values.into_iter().map(i64::wrapping_abs)),
        (Data::Float(values), op) => {
            let apply: fn(f32) -> f32 = match op {
                "Neg" => |value| -value,
                "Abs" => f32::abs,
                "Floor" => f32::floor,
                "Ceil" => f32::ceil,
                "Sqrt" => f32::sqrt,
                _ => return None,
            };
            floats(dims, values.into_iter().map(apply))
        }
        _ => None,
    }
}

pub(super) fn binary(view: &NodeView<'_>) -> Option<Tensor> {
    let op = view.node.op_type.as_str();
    if view.inputs() != 2 {
        return None;
    }
    let (a, b) = (view.input_const(0)?, view.input_const(1)?);
    if a.elem != b.elem {
        return None;
    }
    let dims = broadcast(&a.dims, &b.dims)?;
    let elements = count(&dims).filter(|&elements| elements <= SMALL)? as usize;
    let (from_a, from_b) = (broadcast_from(&a.dims, &dims), broadcast_from(&b.dims, &dims));
    match (read(a)?, read(b)?) {
        (Data::Int(x), Data::Int(y)) => {
            let logical = matches!(op, "And" | "Or" | "Xor");
            if logical != (a.elem == ElemType::Bool) && op != "Equal" {
                return None;
            }
            let fmod = view.attr_int_or("fmod", 0).ok()? != 0;
            let compares = logical || is_comparison(op);
            let values: Vec<i64> =
                (0..elements).map(|i| int_op(op, x[from_a(i)], y[from_b(i)], fmod)).collect::<Option<_>>()?;
            ints(if compares { ElemType::Bool } else { a.elem }, dims, values.into_iter())
        }
        (Data::Float(x), Data::Float(y)) if is_comparison(op) => {
            let values = (0..elements).map(|i| compare(op, x[from_a(i)].partial_cmp(&y[from_b(i)])));
            ints(ElemType::Bool, dims, values.map(i64::from).collect::<Vec<_>>().into_iter())
        }
        (Data::Float(x), Data::Float(y)) => {
            let apply: fn(f32, f32) -> f32 = match op {
                "Add" => |x, y| x + y,
                "Sub" => |x, y| x - y,
                "Mul" => |x, y| x * y,
                "Div" => |x, y| x / y,
                _ => return None,
            };
            floats(dims, (0..elements).map(|i| apply(x[from_a(i)], y[from_b(i)])).collect::<Vec<_>>().into_iter())
        }
        _ => None,
    }
}

fn is_comparison(op: &str) -> bool {
    matches!(op, "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual")
}

fn compare(op: &str, order: Option<core::cmp::Ordering>) -> bool {
    order.is_some_and(|order| match op {
        "Equal" => order.is_eq(),
        "Less" => order.is_lt(),
        "LessOrEqual" => order.is_le(),
        "Greater" => order.is_gt(),
        _ => order.is_ge(),
    })
}

fn int_op(op: &str, x: i64, y: i64, fmod: bool) -> Option<i64> {
    Some(match op {
        "Add" => x.wrapping_add(y),
        "Sub" => x.wrapping_sub(y),
        "Mul" => x.wrapping_mul(y),
        "Div" => x.checked_div(y)?,
        "Mod" if fmod => x.checked_rem(y)?,
        // The result has the divisor's sign.
        "Mod" => match x.checked_rem(y)? {
            rest if rest != 0 && (rest < 0) != (y < 0) => rest + y,
            rest => rest,
        },
        "Min" => x.min(y),
        "Max" => x.max(y),
        "And" => x & y,
        "Or" => x | y,
        "Xor" => x ^ y,
        _ if is_comparison(op) => i64::from(compare(op, Some(x.cmp(&y)))),
        _ => return None,
    })
}

/// Integer reductions, over the last axes or all of them.
pub(super) fn reduce_all(view: &NodeView<'_>) -> Option<Tensor> {
    let input = view.input_const(0)?;
    let Data::Int(values) = read(input)? else { return None };
    let rank = input.dims.len();
    if input.elem == ElemType::Bool {
        return None;
    }
    let given = match (view.attr_ints("axes").ok()?, view.input_id(1)) {
        (Some(axes), _) => Some(axes.to_vec()),
        (None, Some(_)) => Some(view.input_const_i64(1)?),
        (None, None) => None,
    };
    let axes = match given.filter(|given| !given.is_empty()) {
        Some(given) => axes(&given, rank)?,
        None if view.attr_int_or("noop_with_empty_axes", 0).ok()? != 0 => return Some(input.clone()),
        None => (0..rank).collect(),
    };
    // Only trailing axes: then each result is one contiguous run.
    if axes.iter().rev().zip((0..rank).rev()).any(|(&axis, last)| axis != last) {
        return None;
    }
    let run = count(&input.dims[rank - axes.len()..])? as usize;
    let apply: fn(&[i64]) -> Option<i64> = match view.node.op_type.as_str() {
        "ReduceProd" => |run| Some(run.iter().fold(1i64, |product, &value| product.wrapping_mul(value))),
        "ReduceSum" => |run| Some(run.iter().fold(0i64, |sum, &value| sum.wrapping_add(value))),
        "ReduceMax" => |run| run.iter().copied().max(),
        _ => |run| run.iter().copied().min(),
    };
    if run == 0 {
        return None;
    }
    let results: Vec<i64> = values.chunks_exact(run).map(apply).collect::<Option<_>>()?;
    let mut dims = input.dims[..rank - axes.len()].to_vec();
    if view.attr_int_or("keepdims", 1).ok()? != 0 {
        dims.resize(rank, 1);
    }
    ints(input.elem, dims, results.into_iter())
}

pub(super) fn range(view: &NodeView<'_>) -> Option<Tensor> {
    let scalar = |i| {
        let tensor = view.input_const(i)?;
        (tensor.elements() == 1).then(|| read(tensor)).flatten()
    };
    let elem = view.input_const(0)?.elem;
    match (scalar(0)?, scalar(1)?, scalar(2)?) {
        (Data::Int(start), Data::Int(limit), Data::Int(delta)) => {
            let (start, limit, delta) = (start[0], limit[0], delta[0]);
            let span = if delta > 0 { limit.checked_sub(start)? } else { start.checked_sub(limit)? };
            let steps = match delta {
                0 => return None,
                _ => span.max(0).unsigned_abs().div_ceil(delta.unsigned_abs()),
            };
            let steps = Some(steps).filter(|&steps| steps <= SMALL)? as usize;
            ints(elem, vec![steps], (0..steps as i64).map(|i| start.wrapping_add(i.wrapping_mul(delta))))
        }
        (Data::Float(start), Data::Float(limit), Data::Float(delta)) => {
            let (start, limit, delta) = (start[0], limit[0], delta[0]);
            let steps = ((limit - start) / delta).ceil().max(0.0);
            let steps = Some(steps).filter(|&steps| steps <= SMALL as f32)? as usize;
            floats(vec![steps], (0..steps).map(|i| start + i as f32 * delta))
        }
        _ => None,
    }
}

pub(super) fn constant_of_shape(view: &NodeView<'_>) -> Option<Tensor> {
    let dims: Vec<usize> =
        view.input_const_i64(0)?.iter().map(|&dim| usize::try_from(dim).ok()).collect::<Option<_>>()?;
    let zero = Tensor::from_f32([1], &[0.0]).expect("fits");
    let value = view.attr_tensor("value").ok()?.unwrap_or(&zero);
    rearranged(value, dims, |_| Some(0))
}

pub(super) fn non_zero(view: &NodeView<'_>) -> Option<Tensor> {
    let input = view.input_const(0)?;
    let set: Vec<usize> = match read(input)? {
        Data::Int(values) => values.iter().enumerate().filter(|(_, value)| **value != 0).map(|(i, _)| i).collect(),
        Data::Float(values) => values.iter().enumerate().filter(|(_, value)| **value != 0.0).map(|(i, _)| i).collect(),
    };
    let own = strides(&input.dims);
    let rank = input.dims.len();
    if rank == 0 || count(&[rank, set.len()])? > SMALL {
        return None;
    }
    let coordinates = (0..rank).flat_map(|axis| set.iter().map(move |&i| (axis, i)));
    let values: Vec<i64> = coordinates.map(|(axis, i)| (i / own[axis] % input.dims[axis]) as i64).collect();
    Tensor::from_i64([rank, set.len()], &values).ok()
}
