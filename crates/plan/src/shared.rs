//! Constants used on both sides of a cut: an initializer of a secure segment, or anything folded from it, that a normal
//! segment uses too, and so publishes.
//!
//! Integers and masks (shapes, axes, indices of slices) and single numbers (an epsilon, a scale of one) are structure, which
//! the placement does not claim to hide; exporters share them between nodes everywhere.

use crate::LoweredPlan;
use cordon_graph::{ElemType, Graph, NodeId, Tensor, ValueId};
use std::collections::BTreeMap;

/// A constant of both worlds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shared {
    /// The initializer.
    pub initializer: ValueId,
    /// A secure node that uses it.
    pub secure: NodeId,
    /// A normal node that uses it, or a fold of it.
    pub normal: NodeId,
    /// Whether it is one number repeated, such as the scales of 1 that layers begin training with and exporters store
    /// once. It then tells no more than a single number does, and is no secret either.
    pub repeats: bool,
}

/// Every constant of both worlds, by initializer.
pub fn shared(graph: &Graph, lowered: &LoweredPlan) -> Vec<Shared> {
    let by_world = |secure| {
        let mut found: BTreeMap<ValueId, NodeId> = BTreeMap::new();
        for (initializer, node) in uses(graph, lowered, secure) {
            found.entry(initializer).or_insert(node);
        }
        found
    };
    let normal = by_world(false);
    let both = by_world(true).into_iter().filter_map(|(initializer, secure)| {
        let tensor = graph.value(initializer).constant.as_ref()?;
        normal.get(&initializer).map(|&normal| Shared { initializer, secure, normal, repeats: repeats(tensor) })
    });
    both.collect()
}

/// Initializers behind the constants of all segments of one world, with a node that uses each.
fn uses<'a>(graph: &'a Graph, lowered: &'a LoweredPlan, secure: bool) -> impl Iterator<Item = (ValueId, NodeId)> + 'a {
    let segments = lowered.segments.iter().filter(move |segment| segment.placement.is_secure() == secure);
    segments.flat_map(|segment| segment.segment.nodes.iter().copied()).flat_map(|node| {
        let constants = graph.node(node).uses().filter(|&value| is_weight(graph, value));
        let origins = constants.flat_map(|value| graph.origins(value));
        origins.filter(|&origin| is_weight(graph, origin)).map(move |origin| (origin, node)).collect::<Vec<_>>()
    })
}

fn is_weight(graph: &Graph, value: ValueId) -> bool {
    graph.value(value).constant.as_ref().is_some_and(|tensor| {
        let real = matches!(
            tensor.elem,
            ElemType::Float
                | ElemType::Double
                | ElemType::Float16
                | ElemType::Bfloat16
                | ElemType::Int8
                | ElemType::Uint8
        );
        real && tensor.elements() > 1
    })
}

/// Whether all elements have the same bits.
fn repeats(tensor: &Tensor) -> bool {
    let size = tensor.data.len() / usize::try_from(tensor.elements()).unwrap_or(usize::MAX).max(1);
    let mut elements = tensor.data.chunks(size.max(1));
    let first = elements.next();
    elements.all(|element| Some(element) == first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_number_repeated_is_told_from_several() {
        let tensor = |values: &[f32]| Tensor::from_f32([values.len()], values).expect("one dimension");
        assert!(repeats(&tensor(&[1.0; 768])) && repeats(&tensor(&[0.0; 2])) && repeats(&tensor(&[-0.3; 5])));
        assert!(!repeats(&tensor(&[1.0, 1.0, 1.0 + f32::EPSILON])));
        assert!(!repeats(&tensor(&[0.0, -0.0])), "bits decide");
        let bytes = Tensor { elem: ElemType::Int8, dims: vec![3], data: vec![7, 7, 8].into() };
        assert!(!repeats(&bytes));
    }
}
