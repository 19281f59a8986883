//! What a node costs: multiplications and parameters, for `inspect` and the planner.

use crate::model::{Graph, Node, ValueId};
use crate::tensor::count;
use crate::view::NodeView;
use cordon_onnx_types::ElemType;
use std::collections::BTreeSet;

/// Multiply-accumulate operations of a node; 0 for operators that are not made of them, `None` while a shape they depend
/// on is unknown.
pub fn macs(graph: &Graph, node: &Node) -> Option<u64> {
    let view = NodeView::new(graph, node);
    let output = || {
        let id = node.outputs.first().copied().flatten()?;
        count(&graph.value(id).ty.as_ref()?.dims)
    };
    if !node.domain.is_empty() {
        return Some(0);
    }
    match node.op_type.as_str() {
        // The weight is [out, in / groups, kernel…]: each output element takes one product per remaining weight.
        "Conv" => output()?.checked_mul(count(view.input_type(1)?.dims.get(1..)?)?),
        // The weight is [in, out / groups, kernel…]: each input element meets all of its channel's weights.
        "ConvTranspose" => count(&view.input_type(0)?.dims)?.checked_mul(count(view.input_type(1)?.dims.get(1..)?)?),
        "Gemm" => {
            let a = view.input_type(0)?;
            let inner = if view.attr_int_or("transA", 0).ok()? == 0 { a.dims.get(1)? } else { a.dims.first()? };
            output()?.checked_mul(*inner as u64)
        }
        "MatMul" => output()?.checked_mul(*view.input_type(0)?.dims.last()? as u64),
        _ => Some(0),
    }
}

/// Constant elements a set of nodes uses, each constant counted once. Integer constants are indices and shapes, not
/// parameters.
pub fn parameters<'a>(graph: &Graph, nodes: impl IntoIterator<Item = &'a Node>) -> u64 {
    let used: BTreeSet<ValueId> = nodes.into_iter().flat_map(Node::uses).collect();
    let sizes = used.into_iter().filter_map(|id| graph.value(id).constant.as_ref());
    let weights = sizes.filter(|tensor| !matches!(tensor.elem, ElemType::Int64 | ElemType::Bool | ElemType::String));
    weights.map(|tensor| tensor.elements()).fold(0, u64::saturating_add)
}
