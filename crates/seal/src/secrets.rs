//! No weight is both secret and public: an initializer of a secure segment, or anything folded from it, must not be used
//! in a normal segment.
//!
//! Integers and masks (shapes, axes, indices of slices) and single numbers (an epsilon, a scale of one) are structure, which
//! the placement does not claim to hide; exporters share them between nodes everywhere.

use crate::SealError;
use cordon_graph::{ElemType, NodeId, ValueId};
use cordon_plan::{LoweredPlan, Model, Placement};
use std::collections::BTreeMap;

/// Refuses a plan that would publish a secret, naming the initializer and both nodes.
pub(crate) fn check(model: &Model, lowered: &LoweredPlan) -> Result<(), SealError> {
    let mut secret: BTreeMap<ValueId, NodeId> = BTreeMap::new();
    for (initializer, node) in uses(model, lowered, Placement::Secure) {
        secret.entry(initializer).or_insert(node);
    }
    for (initializer, normal) in uses(model, lowered, Placement::Normal) {
        if let Some(&secure) = secret.get(&initializer) {
            let name = |id| model.graph.node(id).name.clone();
            let initializer = model.graph.value(initializer).name.clone();
            return Err(SealError::Exposed { initializer, secure: name(secure), normal: name(normal) });
        }
    }
    Ok(())
}

/// Initializers behind the constants of all segments of one placement, with a node that uses each.
fn uses<'a>(
    model: &'a Model,
    lowered: &'a LoweredPlan,
    placement: Placement,
) -> impl Iterator<Item = (ValueId, NodeId)> + 'a {
    let segments = lowered.segments.iter().filter(move |segment| segment.placement == placement);
    segments.flat_map(|segment| segment.segment.nodes.iter().copied()).flat_map(|node| {
        let constants = model.graph.node(node).uses().filter(|&value| is_weight(model, value));
        let origins = constants.flat_map(|value| model.graph.origins(value));
        origins.filter(|&origin| is_weight(model, origin)).map(move |origin| (origin, node)).collect::<Vec<_>>()
    })
}

fn is_weight(model: &Model, value: ValueId) -> bool {
    model.graph.value(value).constant.as_ref().is_some_and(|tensor| {
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
