//! What a step of a quantised value is: the unit the golden check counts in where the model itself rounds.
//!
//! A number next to the middle between two bytes becomes the one or the other by the last bit of a sum, and no reference says
//! in which order an engine adds: two correct engines differ by a whole step, and by some in the layers behind. So what
//! comes of a quantisation is compared in steps. Everything else, in such a model too, is compared as closely as ever:
//! weights that are stored quantised round nothing while the model runs.

use cordon_graph::{Graph, Node, NodeView, ValueId};
use cordon_lower::{Bytes, Elements, facts};
use std::collections::BTreeMap;

/// Steps by which a quantised value may differ from the plain model's, in one element and in the mean of all. One step becomes
/// more in the layers behind, in a few elements of many; a wrong layer shows in the mean. What networks showed is in
/// docs/decisions/0008-int8.md.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Steps {
    /// Of the element that differs most.
    pub largest: f64,
    /// Of all elements.
    pub mean: f64,
}

/// What is allowed.
pub const STEPS: Steps = Steps { largest: 48.0, mean: 2.0 };

/// The distance of neighbouring numbers of a value that comes of a quantisation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Step {
    /// The model says it: the scale the value was dequantised with or will be quantised with, or 1 of a byte.
    Known(f64),
    /// No scale belongs to the value. Then what a byte would have that reaches to the largest magnitude.
    Unknown,
}

impl Step {
    /// In a value whose largest magnitude is `largest`.
    pub(crate) fn size(self, largest: f64) -> f64 {
        match self {
            Step::Known(size) => size,
            Step::Unknown => largest / 127.0,
        }
    }
}

/// Every value that comes of a quantisation.
pub(crate) fn steps(graph: &Graph) -> BTreeMap<ValueId, Step> {
    let mut steps: BTreeMap<ValueId, Step> = BTreeMap::new();
    for node in &graph.nodes {
        let facts = facts(node);
        let from: Vec<Step> = node.uses().filter_map(|id| steps.get(&id).copied()).collect();
        let step = match (facts.bytes, &from[..]) {
            (Bytes::Quantise | Bytes::Requantise, _) => Some(Step::Known(1.0)),
            (_, []) => None,
            (Bytes::Dequantise, _) => Some(scale(graph, node).map_or(Step::Unknown, Step::Known)),
            // Values that are moved or chosen keep their distance.
            (_, [one]) if facts.elements != Elements::Computed => Some(*one),
            _ => Some(Step::Unknown),
        };
        if let Some(step) = step {
            steps.extend(node.outputs.iter().flatten().map(|&id| (id, step)));
        }
    }
    // What will be quantised is right to a step of that.
    for node in graph.nodes.iter().filter(|node| facts(node).bytes == Bytes::Quantise) {
        let from = node.inputs.first().copied().flatten().and_then(|id| steps.get_mut(&id));
        if let (Some(step @ Step::Unknown), Some(scale)) = (from, scale(graph, node)) {
            *step = Step::Known(scale);
        }
    }
    steps
}

/// The one scale of a QuantizeLinear or DequantizeLinear.
fn scale(graph: &Graph, node: &Node) -> Option<f64> {
    let scale = NodeView::new(graph, node).input_const(1)?.to_f32().ok()?;
    if let [scale] = scale[..] { Some(f64::from(scale.abs())) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cordon_graph::{Tensor, Value};

    #[test]
    fn a_value_has_the_step_of_the_scale_beside_it() {
        let constant = |name: &str, values: &[f32]| Value {
            constant: Some(Tensor::from_f32([values.len()], values).expect("one dimension")),
            ..Value::new(name)
        };
        let mut values = vec![Value::new("x"), constant("small", &[0.25]), constant("large", &[4.0])];
        values.push(constant("channels", &[0.5, 0.75]));
        let mut nodes: Vec<Node> = Vec::new();
        let mut node = |op: &str, inputs: &[u32]| {
            values.push(Value::new(format!("{op}{}", nodes.len())));
            let out = ValueId(values.len() as u32 - 1);
            nodes.push(Node {
                name: format!("n{}", nodes.len()),
                op_type: op.into(),
                domain: String::new(),
                inputs: inputs.iter().map(|&id| Some(ValueId(id))).collect(),
                captures: Vec::new(),
                outputs: vec![Some(out)],
                attributes: BTreeMap::new(),
            });
            out.0
        };
        let before = node("Conv", &[0]);
        let byte = node("QuantizeLinear", &[before, 1]);
        let real = node("DequantizeLinear", &[byte, 1]);
        let moved = node("Reshape", &[real]);
        let next = node("Conv", &[moved]);
        let second = node("QuantizeLinear", &[next, 2]);
        let channels = node("DequantizeLinear", &[second, 3]);
        let last = node("Softmax", &[channels]);
        let graph = Graph { values, nodes, ..Graph::default() };
        let steps = steps(&graph);
        let of = |id: u32| steps.get(&ValueId(id)).copied();
        assert_eq!((of(0), of(before)), (None, None), "nothing was quantised before");
        assert_eq!((of(byte), of(second)), (Some(Step::Known(1.0)), Some(Step::Known(1.0))));
        assert_eq!((of(real), of(moved)), (Some(Step::Known(0.25)), Some(Step::Known(0.25))));
        assert_eq!(of(next), Some(Step::Known(4.0)), "as it will be quantised");
        assert_eq!((of(channels), of(last)), (Some(Step::Unknown), Some(Step::Unknown)));
        assert_eq!(Step::Unknown.size(254.0), 2.0);
    }
}
