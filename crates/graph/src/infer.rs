//! Types of all values: own rules first, then what the file declares. Small constants are folded on the way, since the
//! shape of a typed value is itself a constant that later shapes depend on.

use crate::constant;
use crate::control;
use crate::error::GraphError;
use crate::import::check_size;
use crate::limits::Limits;
use crate::model::{Graph, Node, ValueId};
use crate::tensor::{Tensor, TensorType};
use crate::view::{NodeView, ShapeError, ShapeRules};
use std::collections::HashSet;

/// Bound on all constants folded here together: they are new memory, unlike the file's own.
const FOLDED_BYTES: u64 = 256 << 20;

/// Types every value it can, folds small constants, inlines every `If` whose condition became constant, and removes
/// nodes no longer needed (node indices change). Returns the values whose type is still not known.
pub fn infer(graph: &mut Graph, rules: &dyn ShapeRules) -> Result<Vec<ValueId>, GraphError> {
    let outputs: HashSet<ValueId> = graph.outputs.iter().copied().collect();
    let limits = Limits::default();
    let mut budget = FOLDED_BYTES;
    loop {
        for i in 0..graph.nodes.len() {
            let node = &graph.nodes[i];
            if node.outputs.iter().flatten().all(|&id| graph.value(id).constant.is_some()) {
                continue;
            }
            let site = || NodeView::new(graph, node).site();
            let found = derive(graph, node, rules, budget).map_err(|error| error.at(site))?;
            let sizes = found.types().iter().try_for_each(|ty| check_size(ty, &limits));
            sizes.map_err(|error| error.at(site))?;
            let ids = node.outputs.clone();
            let from = sources(node);
            match found {
                Derived::Types(types) => {
                    for (id, ty) in ids.into_iter().zip(types).filter_map(|(id, ty)| Some((id?, ty))) {
                        graph.set_type(id, ty);
                    }
                }
                Derived::Constants(tensors) => {
                    for (id, tensor) in ids.into_iter().zip(tensors).filter_map(|(id, tensor)| Some((id?, tensor))) {
                        if outputs.contains(&id) {
                            graph.set_type(id, tensor.ty());
                            continue;
                        }
                        budget = budget.saturating_sub(constant::new_bytes(&tensor));
                        graph.set_constant(id, tensor, Some(from.clone()));
                    }
                }
            }
        }
        if control::inline_constant_ifs(graph)? == 0 {
            break;
        }
    }
    graph.remove_dead_nodes();
    Ok(untyped(graph))
}

/// Values computed by some node whose type is not known.
pub(crate) fn untyped(graph: &Graph) -> Vec<ValueId> {
    let made = graph.nodes.iter().flat_map(|node| node.outputs.iter().flatten().copied());
    made.filter(|&id| graph.value(id).ty.is_none()).collect()
}

/// What a node's result is computed from: all it uses, or nothing where only the shape of its input matters.
pub(crate) fn sources(node: &Node) -> Vec<ValueId> {
    match constant::uses_shape_only(node) {
        true => Vec::new(),
        false => node.uses().collect(),
    }
}

enum Derived {
    Constants(Vec<Tensor>),
    Types(Vec<TensorType>),
}

impl Derived {
    fn types(&self) -> Vec<TensorType> {
        match self {
            Self::Constants(tensors) => tensors.iter().map(Tensor::ty).collect(),
            Self::Types(types) => types.clone(),
        }
    }
}

fn derive(graph: &Graph, node: &Node, rules: &dyn ShapeRules, budget: u64) -> Result<Derived, GraphError> {
    let view = NodeView::new(graph, node);
    if budget > 0
        && let Some(tensors) = constant::evaluate(&view)
    {
        return Ok(Derived::Constants(tensors));
    }
    let typed = node.inputs.iter().flatten().all(|&id| graph.value(id).ty.is_some());
    if typed && let Some(rule) = rules.rule(&node.domain, &node.op_type, view.opset()) {
        match rule(&view) {
            Ok(types) => return Ok(Derived::Types(types)),
            Err(ShapeError::Invalid(what)) => return Err(GraphError::malformed(what)),
            Err(ShapeError::Unknown(_)) => {}
        }
    }
    // Known or declared types of outputs up to the first gap.
    let types = node.outputs.iter().map_while(|id| {
        let value = graph.value((*id)?);
        value.ty.clone().or_else(|| value.declared.clone())
    });
    Ok(Derived::Types(types.collect()))
}
