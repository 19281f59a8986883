//! Weights stored as integers become the numbers they stand for, and remember their scales.
//!
//! A DequantizeLinear of constants is no computation of the model but a way to store it. As a node of its own it could
//! land on the other side of a cut than the layer it belongs to, and the weights would cross. So it is always folded, whatever
//! its size; [`crate::Value::quantised`] lets lowering find the integers again, and a normal segment is written with them.

use crate::infer::sources;
use crate::model::{Graph, Node, Quantised};
use crate::tensor::Tensor;
use crate::view::NodeView;
use cordon_onnx_types::ElemType;

/// Folds every DequantizeLinear of constants whose form is known; others stay as they are.
pub(crate) fn fold_weights(graph: &mut Graph) {
    for id in graph.node_ids() {
        let node = graph.node(id);
        if node.op_type != "DequantizeLinear" || !node.domain.is_empty() {
            continue;
        }
        let Some(&Some(out)) = node.outputs.first() else { continue };
        if graph.outputs.contains(&out) {
            continue;
        }
        if let Some((tensor, scales)) = evaluate(graph, node) {
            let (from, node) = (sources(node), node.clone());
            graph.set_constant(out, tensor, Some(from));
            graph.values[out.0 as usize].quantised = Some(Quantised { scales, node });
        }
    }
    graph.remove_dead_nodes();
}

/// `(q - zero) * scale`, in that order, as `f32`; and the scales.
fn evaluate(graph: &Graph, node: &Node) -> Option<(Tensor, Vec<f32>)> {
    let view = NodeView::new(graph, node);
    if view.attr_int_or("block_size", 0).ok()? != 0 {
        return None;
    }
    let (q, scale) = (view.input_const(0)?, view.input_const(1)?.to_f32().ok()?);
    let zero = match view.input_id(2) {
        None => vec![0; scale.len()],
        Some(_) => integers(view.input_const(2)?)?,
    };
    let (mut inner, mut count) = (1, 1);
    if scale.len() != 1 {
        let rank = i64::try_from(q.dims.len()).ok()?;
        let axis = view.attr_int_or("axis", 1).ok()?;
        let axis = usize::try_from(if axis < 0 { axis + rank } else { axis }).ok()?;
        count = *q.dims.get(axis)?;
        inner = q.dims.get(axis + 1..)?.iter().product();
    }
    if zero.len() != scale.len() || scale.len() != count || inner == 0 {
        return None;
    }
    let real = |(index, value): (usize, i32)| {
        let at = index / inner % count;
        value.wrapping_sub(zero[at]) as f32 * scale[at]
    };
    let values: Vec<f32> = integers(q)?.into_iter().enumerate().map(real).collect();
    Some((Tensor::from_f32(q.dims.as_slice(), &values).ok()?, scale))
}

fn integers(tensor: &Tensor) -> Option<Vec<i32>> {
    match tensor.elem {
        ElemType::Uint8 => Some(tensor.data.iter().map(|&v| i32::from(v)).collect()),
        ElemType::Int8 => Some(tensor.data.iter().map(|&v| i32::from(v.cast_signed())).collect()),
        ElemType::Int32 => Some(tensor.data.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b)).collect()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cut::segment;
    use crate::export::{NamePolicy, export};
    use crate::model::{Attribute, Value, ValueId};
    use crate::onnx::ModelProto;
    use prost::Message as _;
    use std::collections::BTreeMap;

    fn graph(weight: Tensor, scale: &[f32], zero: Tensor, axis: i64) -> Graph {
        let constant =
            |name: &str, tensor: Tensor| Value { ty: Some(tensor.ty()), constant: Some(tensor), ..Value::new(name) };
        let scales = Tensor::from_f32([scale.len()], scale).unwrap();
        let values =
            vec![constant("q", weight), constant("s", scales), constant("z", zero), Value::new("w"), Value::new("y")];
        let node = |op_type: &str, inputs: &[u32], out: u32, attributes| Node {
            name: op_type.into(),
            op_type: op_type.into(),
            domain: String::new(),
            inputs: inputs.iter().map(|&id| Some(ValueId(id))).collect(),
            captures: Vec::new(),
            outputs: vec![Some(ValueId(out))],
            attributes,
        };
        let attributes = BTreeMap::from([("axis".to_owned(), Attribute::Int(axis))]);
        Graph {
            ir_version: 8,
            opsets: BTreeMap::from([(String::new(), 17)]),
            nodes: vec![node("DequantizeLinear", &[0, 1, 2], 3, attributes), node("Relu", &[3], 4, BTreeMap::new())],
            values,
            inputs: Vec::new(),
            outputs: vec![ValueId(4)],
        }
    }

    /// Exported, the layer reads a DequantizeLinear of the model's own integers, under names that tell nothing.
    fn assert_written_as_integers(graph: &Graph) {
        let whole = segment(graph, graph.node_ids());
        let written = export(graph, &whole, &NamePolicy::Neutral(BTreeMap::new())).expect("exports");
        let proto = ModelProto::decode(&written.model[..]).expect("a model").graph.expect("a graph");
        let operators: Vec<&str> = proto.node.iter().map(|node| node.op_type()).collect();
        assert_eq!(operators, ["DequantizeLinear", "Relu"]);
        assert_eq!(proto.node[0].output, proto.node[1].input);
        assert_eq!(proto.node[0].attribute.len(), 1, "the axis");
        let held = |name: &String| proto.initializer.iter().find(|it| it.name() == name).map(|it| it.data_type());
        let types: Vec<_> = proto.node[0].input.iter().map(held).collect();
        assert_eq!(types, [ElemType::Int8, ElemType::Float, ElemType::Int8].map(|elem| Some(elem.code().into())));
        assert_eq!(proto.initializer.len(), 3, "and not the numbers as well");
        let mut names: Vec<&str> = proto.node.iter().map(|node| node.name()).collect();
        names.dedup();
        assert_eq!(names.len(), 2);
    }

    #[test]
    fn weights_are_constants_of_the_layer_that_uses_them() {
        let bytes =
            |elem, data: &[u8], dims: &[usize]| Tensor { elem, dims: dims.to_vec(), data: data.to_vec().into() };
        let mut folded = graph(
            bytes(ElemType::Int8, &[0x80, 2, 3, 0xff], &[2, 2]),
            &[0.5, 2.0],
            bytes(ElemType::Int8, &[0, 1], &[2]),
            0,
        );
        fold_weights(&mut folded);
        assert_eq!(folded.nodes.len(), 1, "nothing is left that a cut could part from its layer");
        let value = folded.value(ValueId(3));
        assert_eq!(value.constant, Tensor::from_f32([2, 2], &[-64.0, 1.0, 4.0, -4.0]).ok());
        assert_eq!(value.quantised.as_ref().map(|it| it.scales.clone()), Some(vec![0.5, 2.0]));
        assert!(folded.origins(ValueId(3)).contains(&ValueId(0)), "the integers stay known as the source");
        assert_written_as_integers(&folded);
        // One zero point for two scales is not what the operator allows.
        let mut left =
            graph(bytes(ElemType::Int8, &[1; 4], &[2, 2]), &[0.5, 2.0], bytes(ElemType::Int8, &[0], &[1]), 0);
        fold_weights(&mut left);
        assert_eq!(left.nodes.len(), 2);
    }
}
