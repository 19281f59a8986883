//! Where a graph can be cut, and what a set of nodes needs from outside.

use crate::model::{Graph, NodeId, ValueId};
use std::collections::{BTreeSet, HashMap};

/// A position between two nodes of the topological order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutPoint {
    /// Its number: how many nodes lie before it.
    pub index: usize,
    /// The last node before it.
    pub after: NodeId,
    /// That node's name.
    pub name: String,
    /// Values that cross: known before the cut, not constant, and needed after it or an output of the model.
    pub values: Vec<ValueId>,
    /// Their size, once every one of them is typed.
    pub bytes: Option<u64>,
}

/// A set of nodes with its interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Nodes in topological order.
    pub nodes: Vec<NodeId>,
    /// Values it needs from outside (subgraph captures included), constants apart, in order of first use.
    pub inputs: Vec<ValueId>,
    /// Values it computes that are used outside or are outputs of the model, in order of computation.
    pub outputs: Vec<ValueId>,
}

/// Every cut between two neighbouring nodes, numbered from 1 to the number of nodes less one.
pub fn cut_table(graph: &Graph) -> Vec<CutPoint> {
    let last = last_uses(graph);
    let mut live: BTreeSet<ValueId> = graph.inputs.iter().copied().filter(|id| last.contains_key(id)).collect();
    let mut table = Vec::new();
    for after in graph.node_ids() {
        let node = graph.node(after);
        live.extend(node.outputs.iter().flatten().filter(|id| last.contains_key(id)));
        live.retain(|id| last[id] > after.0);
        let index = after.0 as usize + 1;
        if index == graph.nodes.len() {
            break;
        }
        let values: Vec<ValueId> = live.iter().copied().collect();
        let bytes =
            values.iter().try_fold(0u64, |sum, &id| Some(sum.saturating_add(graph.value(id).ty.as_ref()?.bytes())));
        table.push(CutPoint { index, after, name: node.name.clone(), values, bytes });
    }
    table
}

/// The interface of a set of nodes.
pub fn segment(graph: &Graph, nodes: impl IntoIterator<Item = NodeId>) -> Segment {
    let chosen: BTreeSet<NodeId> = nodes.into_iter().collect();
    let mut made = BTreeSet::new();
    let mut inputs = Vec::new();
    let mut seen = BTreeSet::new();
    for &id in &chosen {
        let node = graph.node(id);
        for value in node.uses() {
            if graph.value(value).constant.is_none() && !made.contains(&value) && seen.insert(value) {
                inputs.push(value);
            }
        }
        made.extend(node.outputs.iter().flatten().copied());
    }
    let mut wanted: BTreeSet<ValueId> = graph.outputs.iter().copied().collect();
    for id in graph.node_ids().filter(|id| !chosen.contains(id)) {
        wanted.extend(graph.node(id).uses());
    }
    let outputs = chosen
        .iter()
        .flat_map(|&id| graph.node(id).outputs.iter().flatten().copied())
        .filter(|id| wanted.contains(id))
        .collect();
    Segment { nodes: chosen.into_iter().collect(), inputs, outputs }
}

/// Index of the last node using each non-constant value; `u32::MAX` for outputs of the model.
fn last_uses(graph: &Graph) -> HashMap<ValueId, u32> {
    let mut last = HashMap::new();
    for id in graph.node_ids() {
        for value in graph.node(id).uses().filter(|&value| graph.value(value).constant.is_none()) {
            last.insert(value, id.0);
        }
    }
    last.extend(graph.outputs.iter().map(|&id| (id, u32::MAX)));
    last
}
