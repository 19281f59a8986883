//! Secure segments that a linear solve would read out.
//!
//! Whoever sees the inputs and outputs of a segment can query it. Without non-linearity between weights, as many queries
//! as the input has elements, plus one, determine the function completely: for one affine layer that is its weights.

use cordon_graph::{Graph, Segment};
use cordon_lower::{is_affine, is_layer};

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
    let nodes = || segment.nodes.iter().map(|&id| graph.node(id));
    let layers = nodes().filter(|node| is_layer(graph, node)).count();
    if layers == 0 {
        return Affine::NoLayer;
    }
    if nodes().all(|node| is_affine(graph, node)) {
        return Affine::Whole { layers };
    }
    match layers {
        1 => Affine::OneLayer,
        _ => Affine::Deep,
    }
}
