//! Folding of small constants inside this crate: the integer arithmetic that exporters leave around shapes. Anything
//! larger or rarer is folded by the owner's executor ([`crate::fold`]).

mod arithmetic;
mod index;
mod movement;

use crate::model::Node;
use crate::tensor::Tensor;
use crate::tensor::count;
use crate::view::NodeView;
use bytes::Bytes;
use cordon_onnx_types::ElemType;

/// Elements of a result; larger ones are left to the executor.
const SMALL: u64 = 1 << 16;

/// Results of a node whose inputs are constant (or, for `Shape` and `Size`, typed); `None` when this crate does not fold
/// it. A node that breaks its operator's rules is left in place too, for the shape rule or the executor to name.
pub(crate) fn evaluate(view: &NodeView<'_>) -> Option<Vec<Tensor>> {
    if !view.node.domain.is_empty() {
        return None;
    }
    if uses_shape_only(view.node) {
        return Some(vec![shape(view)?]);
    }
    if view.node.inputs.is_empty()
        || view.node.inputs.iter().flatten().any(|&id| view.graph.value(id).constant.is_none())
    {
        return None;
    }
    let results = match view.node.op_type.as_str() {
        "Identity" | "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten" => vec![movement::relabel(view)?],
        "Transpose" => vec![movement::transpose(view)?],
        "Expand" => vec![movement::expand(view)?],
        "Concat" => vec![movement::concat(view)?],
        "Gather" => vec![movement::gather(view)?],
        "Slice" => vec![movement::slice(view)?],
        "Split" => movement::split(view)?,
        "Tile" => vec![movement::tile(view)?],
        "Where" => vec![movement::select(view)?],
        "Range" => vec![arithmetic::range(view)?],
        "ConstantOfShape" => vec![arithmetic::constant_of_shape(view)?],
        "NonZero" => vec![arithmetic::non_zero(view)?],
        "Cast" => vec![arithmetic::cast(view)?],
        "Neg" | "Abs" | "Not" | "Floor" | "Ceil" | "Sqrt" => vec![arithmetic::unary(view)?],
        "ReduceProd" | "ReduceSum" | "ReduceMax" | "ReduceMin" => vec![arithmetic::reduce_all(view)?],
        "Add" | "Sub" | "Mul" | "Div" | "Mod" | "Min" | "Max" | "And" | "Or" | "Xor" | "Equal" | "Less"
        | "LessOrEqual" | "Greater" | "GreaterOrEqual" => vec![arithmetic::binary(view)?],
        _ => return None,
    };
    Some(results)
}

/// Operators that read their input's type and never its data.
pub(crate) fn uses_shape_only(node: &Node) -> bool {
    node.domain.is_empty() && matches!(node.op_type.as_str(), "Shape" | "Size")
}

/// What a folded tensor may have taken in new memory; larger ones are the file's own data under other extents.
pub(crate) fn new_bytes(tensor: &Tensor) -> u64 {
    let bytes = tensor.data.len() as u64;
    if bytes <= SMALL * 16 { bytes } else { 0 }
}

fn shape(view: &NodeView<'_>) -> Option<Tensor> {
    let dims = &view.input_type(0)?.dims;
    if view.node.op_type == "Size" {
        return Tensor::from_i64([], &[i64::try_from(count(dims)?).ok()?]).ok();
    }
    let rank = dims.len() as i64;
    let clamp = |at: i64| if at < 0 { (at + rank).max(0) } else { at.min(rank) } as usize;
    let start = clamp(view.attr_int_or("start", 0).ok()?);
    let end = clamp(view.attr_int_or("end", rank).ok()?).max(start);
    let sizes: Vec<i64> = dims[start..end].iter().map(|&dim| dim as i64).collect();
    Tensor::from_i64([sizes.len()], &sizes).ok()
}

/// Bytes of one element, for types that fill whole bytes.
fn width(elem: ElemType) -> Option<usize> {
    let bits = elem.bits()?;
    (bits % 8 == 0).then_some((bits / 8) as usize)
}

/// A tensor of `dims` whose element `i` is element `from(i)` of `source`; `None` when too large.
fn rearranged(source: &Tensor, dims: Vec<usize>, mut from: impl FnMut(usize) -> Option<usize>) -> Option<Tensor> {
    let width = width(source.elem)?;
    let elements = count(&dims).filter(|&elements| elements <= SMALL)? as usize;
    let mut data = Vec::with_capacity(elements * width);
    for i in 0..elements {
        let at = from(i)?.checked_mul(width)?;
        data.extend_from_slice(source.data.get(at..at + width)?);
    }
    Tensor::new(source.elem, dims, Bytes::from(data)).ok()
}
