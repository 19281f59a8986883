//! Secure segments that a linear solve would read out.
//!
//! Whoever sees the inputs and outputs of a segment can query it. Without non-linearity between weights, as many queries
//! as the input has elements, plus one, determine the function completely: for one affine layer that is its weights.

use crate::placement::is_linear_layer;
use cordon_graph::{Graph, NodeId, Segment};

/// How much of a segment a linear solve recovers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Affine {
    /// No layer with weights at all.
    NoLayer,
    /// The whole segment is one affine map.
    Whole {
        /// Layers with weights it is made of.
        layers: usize,
    },
    /// One layer with weights; the rest is fixed functions without weights.
    OneLayer,
    /// Several layers with non-linear functions between them.
    Deep,
}

/// Looks at a segment whose inputs and outputs are visible outside.
pub(crate) fn classify(graph: &Graph, segment: &Segment) -> Affine {
    let layers = segment.nodes.iter().filter(|&&id| is_linear_layer(graph, id)).count();
    if layers == 0 {
        return Affine::NoLayer;
    }
    if segment.nodes.iter().all(|&id| is_affine(graph, id)) {
        return Affine::Whole { layers };
    }
    match layers {
        1 => Affine::OneLayer,
        _ => Affine::Deep,
    }
}

/// Whether the node is an affine function of its inputs that are not constant. Unknown operators count as non-linear.
fn is_affine(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    let varying = node.inputs.iter().flatten().filter(|&&input| graph.value(input).constant.is_none()).count();
    match node.op_type.as_str() {
        "Conv" | "ConvTranspose" | "Gemm" | "MatMul" | "Mul" | "QLinearConv" | "QLinearMatMul" => varying <= 1,
        // Rounding to a byte and clamping hide little: an attacker stays inside the range.
        "QuantizeLinear" | "DequantizeLinear" => varying <= 1,
        "Div" => {
            varying <= 1 && node.inputs.first().copied().flatten().is_none_or(|a| graph.value(a).constant.is_none())
        }
        "Add" | "Sub" | "Sum" | "Mean" | "Neg" | "Identity" | "Dropout" | "BatchNormalization" | "AveragePool"
        | "GlobalAveragePool" | "ReduceMean" | "ReduceSum" | "Concat" | "Split" | "Slice" | "Transpose" | "Reshape"
        | "Flatten" | "Squeeze" | "Unsqueeze" | "Expand" | "Tile" | "Pad" | "Resize" | "DepthToSpace"
        | "SpaceToDepth" => true,
        "Gather" => varying <= 1,
        _ => false,
    }
}
