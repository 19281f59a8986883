//! What `cordon inspect` shows: the nodes and the numbered cut table.

use crate::Model;
use crate::least::least;
use cordon_graph::{Graph, Node, NodeId, TensorType, ValueId, cut_table, macs};
use cordon_lower::{facts, is_layer};
use cordon_protocol::Profile;
use std::collections::BTreeSet;

/// One node.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeRow {
    /// Its name.
    pub name: String,
    /// Operator, with the domain in front when it is not ONNX's own.
    pub op_type: String,
    /// Types of its outputs.
    pub outputs: Vec<TensorType>,
    /// Elements of its constants that no earlier node uses.
    pub parameters: u64,
    /// Multiply-accumulate operations.
    pub macs: u64,
    /// Why it cannot be placed in a secure segment, if so.
    pub normal_only: Option<String>,
}

/// One cut: a position between two nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutRow {
    /// Its number: how many nodes lie before it.
    pub index: usize,
    /// The node before it.
    pub after: String,
    /// Values that cross.
    pub values: Vec<String>,
    /// Their size in bytes; `None` while a shape is unknown.
    pub bytes: Option<u64>,
    /// Estimated secure memory with everything before it inside; `None` if a node there cannot be.
    pub secure_before: Option<u64>,
    /// Estimated secure memory with everything after it inside; `None` if a node there cannot be.
    pub secure_after: Option<u64>,
    /// Least secure memory with everything before it inside, cut as small as it can be: within 2 %, never too little.
    pub least_before: Option<u64>,
    /// The same with everything after it inside.
    pub least_after: Option<u64>,
}

/// A model at a glance.
#[derive(Clone, Debug, PartialEq)]
pub struct Inspection {
    /// In order of execution.
    pub nodes: Vec<NodeRow>,
    /// In order of position.
    pub cuts: Vec<CutRow>,
    /// Elements of all constants.
    pub parameters: u64,
    /// Multiply-accumulate operations of all nodes.
    pub macs: u64,
}

/// Looks at a model for a platform. With all weights inside, secure memory is estimated, not lowered: weights as packed, activations alive
/// together, plus the fixed need. `cordon plan` predicts exactly. The least is predicted for Programs.
pub fn inspect(model: &Model, profile: &Profile) -> Inspection {
    let graph = &model.graph;
    let mut counted = BTreeSet::new();
    let nodes: Vec<NodeRow> = graph.node_ids().map(|id| node_row(graph, id, &mut counted)).collect();
    let estimates = Estimates::new(graph, &nodes, profile);
    let secure: Vec<bool> = nodes.iter().map(|node| node.normal_only.is_none()).collect();
    let [before, after] = least(graph, &secure, profile);
    let cuts = cut_table(graph)
        .into_iter()
        .map(|cut| CutRow {
            index: cut.index,
            after: cut.name,
            values: cut.values.iter().map(|&id| graph.value(id).name.clone()).collect(),
            bytes: cut.bytes,
            secure_before: estimates.before[cut.index],
            secure_after: estimates.after[cut.index],
            least_before: before[cut.index],
            least_after: after[cut.index],
        })
        .collect();
    Inspection {
        parameters: nodes.iter().map(|node| node.parameters).sum(),
        macs: nodes.iter().map(|node| node.macs).sum(),
        nodes,
        cuts,
    }
}

fn node_row(graph: &Graph, id: NodeId, counted: &mut BTreeSet<ValueId>) -> NodeRow {
    let node = graph.node(id);
    let op_type = match node.domain.as_str() {
        "" => node.op_type.clone(),
        domain => format!("{domain}.{}", node.op_type),
    };
    let parameters = node
        .uses()
        .filter(|&value| counted.insert(value))
        .filter_map(|value| graph.value(value).constant.as_ref())
        .map(|tensor| tensor.elements())
        .sum();
    NodeRow {
        name: node.name.clone(),
        op_type,
        outputs: node.outputs.iter().flatten().filter_map(|&output| graph.value(output).ty.clone()).collect(),
        parameters,
        macs: macs(graph, node).unwrap_or(0),
        normal_only: cordon_lower::unsupported_reason(graph, id),
    }
}

/// Secure memory per cut position, 0 to the number of nodes.
struct Estimates {
    before: Vec<Option<u64>>,
    after: Vec<Option<u64>>,
}

impl Estimates {
    fn new(graph: &Graph, nodes: &[NodeRow], profile: &Profile) -> Self {
        let alive = alive_at_nodes(graph);
        let weights: Vec<u64> = graph.node_ids().map(|id| packed_weights(graph, id)).collect();
        let step = |state: Option<(u64, u64)>, index: usize| {
            let (sum, peak) = state?;
            nodes[index].normal_only.is_none().then(|| (sum + weights[index], peak.max(alive[index])))
        };
        let total = |state: Option<(u64, u64)>| state.map(|(sum, peak)| crate::memory::estimate(sum, peak, profile));
        let count = nodes.len();
        let (mut before, mut after) = (vec![None; count + 1], vec![None; count + 1]);
        let mut state = Some((0, 0));
        for index in 0..count {
            state = step(state, index);
            before[index + 1] = total(state);
        }
        state = Some((0, 0));
        for index in (0..count).rev() {
            state = step(state, index);
            after[index] = total(state);
        }
        Self { before, after }
    }
}

/// Bytes of values alive while each node runs.
fn alive_at_nodes(graph: &Graph) -> Vec<u64> {
    let size = |id: ValueId| graph.value(id).ty.as_ref().map_or(0, TensorType::bytes);
    let mut last = vec![0usize; graph.values.len()];
    for id in graph.node_ids() {
        graph.node(id).uses().for_each(|value| last[value.0 as usize] = id.0 as usize);
    }
    graph.outputs.iter().for_each(|output| last[output.0 as usize] = usize::MAX);
    let mut alive: u64 = graph.inputs.iter().map(|&id| size(id)).sum();
    let mut out = Vec::with_capacity(graph.nodes.len());
    for id in graph.node_ids() {
        let node = graph.node(id);
        let outputs: u64 = node.outputs.iter().flatten().map(|&output| size(output)).sum();
        let dying: BTreeSet<ValueId> = node
            .uses()
            .filter(|&value| last[value.0 as usize] == id.0 as usize && graph.value(value).constant.is_none())
            .collect();
        let freed: u64 = dying.iter().map(|&value| size(value)).sum();
        let shared = if works_in_place(graph, node) { freed.min(outputs) } else { 0 };
        out.push(alive + outputs - shared);
        alive = (alive + outputs).saturating_sub(freed);
    }
    out
}

/// Whether input and output share their memory.
fn works_in_place(graph: &Graph, node: &Node) -> bool {
    let elem = |id: Option<&Option<ValueId>>| Some(graph.value((*id?)?).ty.as_ref()?.elem);
    facts(node).in_place && elem(node.inputs.first()) == elem(node.outputs.first())
}

/// Bytes of a node's constants in the canonical block: output channels are padded to a multiple of 16.
fn packed_weights(graph: &Graph, id: NodeId) -> u64 {
    let node = graph.node(id);
    let bytes = |value: ValueId| graph.value(value).constant.as_ref().map_or(0, |tensor| tensor.ty().bytes());
    let all: u64 = node.uses().map(bytes).sum();
    if !is_layer(graph, node) {
        return if node.op_type == "BatchNormalization" { 0 } else { all };
    }
    let weight = node.inputs.get(1).copied().flatten().and_then(|value| graph.value(value).constant.as_ref());
    let channels = match (weight, node.op_type.as_str()) {
        (Some(tensor), "Conv") => tensor.dims.first().copied(),
        _ => None,
    };
    match channels {
        Some(channels) if channels > 0 => all * channels.next_multiple_of(16) as u64 / channels as u64,
        _ => all,
    }
}
