//! Folding and shapes by running parts of the model in an engine on the owner's machine.

use crate::build::reopen;
use crate::cut::{Segment, segment};
use crate::dequantise;
use crate::error::{GraphError, NodeSite};
use crate::export::{ExportedModel, NamePolicy, export};
use crate::infer::{sources, untyped};
use crate::model::{Attribute, Graph, Node, NodeId, ValueId};
use crate::onnx::GraphProto;
use crate::rename;
use crate::tensor::{Tensor, TensorType};
use cordon_onnx_types::ElemType;
use std::collections::HashSet;

/// An engine the owner trusts, behind the interface this crate needs of it.
pub trait Evaluator {
    /// Runs a model once and returns the wanted outputs in order.
    fn run(
        &mut self,
        model: &ExportedModel,
        inputs: &[(String, Tensor)],
        outputs: &[String],
    ) -> Result<Vec<Tensor>, String>;
}

/// What [`fold`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoldReport {
    /// Nodes computed once and for all.
    pub folded: usize,
    /// Nodes that could have been, by name, with the engine's reason for failing.
    pub left: Vec<(String, String)>,
}

/// Computes every deterministic node whose inputs are constant, whatever its operator, unless one of its results is
/// larger than `cap_bytes`. Nodes that are no longer needed are removed (node indices change).
pub fn fold(graph: &mut Graph, eval: &mut dyn Evaluator, cap_bytes: u64) -> Result<FoldReport, GraphError> {
    let all = graph.nodes.len();
    dequantise::fold_weights(graph);
    let mut report = FoldReport { folded: all - graph.nodes.len(), left: Vec::new() };
    let outputs: HashSet<ValueId> = graph.outputs.iter().copied().collect();
    let chosen = foldable(graph, cap_bytes);
    if chosen.is_empty() {
        return Ok(report);
    }
    let before = graph.nodes.len();
    if evaluate(graph, eval, &chosen, &outputs, cap_bytes).is_err() {
        // One by one, so that a node the engine cannot run costs no other node its folding.
        for &id in &chosen {
            let node = graph.node(id);
            let known = node.uses().all(|value| graph.value(value).constant.is_some());
            let name = node.name.clone();
            if known && let Err(reason) = evaluate(graph, eval, &[id], &outputs, cap_bytes) {
                report.left.push((name, reason));
            }
        }
    }
    graph.remove_dead_nodes();
    report.folded += before - graph.nodes.len();
    Ok(report)
}

/// Nodes to fold, in topological order.
fn foldable(graph: &Graph, cap_bytes: u64) -> Vec<NodeId> {
    let mut known: HashSet<ValueId> = HashSet::new();
    let mut chosen = Vec::new();
    for id in graph.node_ids() {
        let node = graph.node(id);
        let constant = node.uses().all(|value| graph.value(value).constant.is_some() || known.contains(&value));
        let fits = |value: &ValueId| graph.value(*value).ty.as_ref().is_none_or(|ty| ty.bytes() <= cap_bytes);
        if constant && deterministic(node) && node.outputs.iter().flatten().all(fits) {
            known.extend(node.outputs.iter().flatten());
            chosen.push(id);
        }
    }
    chosen
}

/// Whether a node gives the same result each time. Operators of foreign domains are not known to.
fn deterministic(node: &Node) -> bool {
    let known = matches!(node.domain.as_str(), "" | "ai.onnx.ml");
    known && !random(&node.op_type) && !node.attributes.values().any(holds_random)
}

fn random(op_type: &str) -> bool {
    matches!(
        op_type,
        "RandomNormal"
            | "RandomNormalLike"
            | "RandomUniform"
            | "RandomUniformLike"
            | "Multinomial"
            | "Bernoulli"
            | "Dropout"
    )
}

fn holds_random(attribute: &Attribute) -> bool {
    let Attribute::Opaque(encoded) = attribute else { return false };
    let Ok(proto) = reopen(encoded) else { return true };
    proto.g.as_deref().into_iter().chain(&proto.graphs).any(graph_holds_random)
}

fn graph_holds_random(graph: &GraphProto) -> bool {
    graph.node.iter().any(|node| random(node.op_type()) || rename::subgraphs(node).any(graph_holds_random))
}

/// Runs constant nodes and keeps what others use of them.
fn evaluate(
    graph: &mut Graph,
    eval: &mut dyn Evaluator,
    nodes: &[NodeId],
    outputs: &HashSet<ValueId>,
    cap_bytes: u64,
) -> Result<(), String> {
    let mut part = segment(graph, nodes.iter().copied());
    // An output of the model stays with the node that computes it.
    part.outputs.retain(|id| !outputs.contains(id));
    if part.outputs.is_empty() {
        return Ok(());
    }
    let results = run_segment(graph, eval, &part, &[])?;
    for &id in nodes {
        let node = graph.node(id).clone();
        for &value in node.outputs.iter().flatten() {
            // Also for values between, which are not kept: results further on name them.
            graph.values[value.0 as usize].computed_from = Some(sources(&node));
        }
    }
    for (id, tensor) in part.outputs.into_iter().zip(results) {
        if tensor.data.len() as u64 <= cap_bytes && tensor.elem != ElemType::String {
            let from = graph.values[id.0 as usize].computed_from.take();
            graph.set_constant(id, tensor, from);
        }
    }
    Ok(())
}

/// Types every value left untyped by running the whole model twice, on zeros and on seeded noise. A value whose shape
/// differs between the two depends on data and has no static shape: an error names its node.
pub fn complete_shapes(graph: &mut Graph, eval: &mut dyn Evaluator) -> Result<(), GraphError> {
    let unknown: Vec<ValueId> = untyped(graph).into_iter().filter(|&id| !holds_sequence(graph, id)).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let mut part = segment(graph, graph.node_ids());
    part.outputs = unknown;
    let mut found: Vec<Vec<TensorType>> = Vec::new();
    for seed in [None, Some(1)] {
        let mut inputs = Vec::new();
        for &id in &part.inputs {
            let value = graph.value(id);
            let ty = value.ty.as_ref().ok_or_else(|| GraphError::Misuse(format!("`{}` has no type", value.name)))?;
            let tensor =
                sample(ty, seed).map_err(|e| GraphError::unsupported(format!("input `{}`: {e}", value.name)))?;
            inputs.push((value.name.clone(), tensor));
        }
        let results = run_segment(graph, eval, &part, &inputs).map_err(GraphError::Executor)?;
        found.push(results.iter().map(Tensor::ty).collect());
    }
    let makers = graph.makers();
    for (i, &id) in part.outputs.iter().enumerate() {
        if found[0][i] != found[1][i] {
            let what = format!("the shape of `{}` depends on the data", graph.value(id).name);
            let error = GraphError::unsupported(what);
            return Err(match makers.get(&id) {
                Some(&node) => error.at(|| NodeSite::new(graph, graph.node(node))),
                None => error,
            });
        }
    }
    for (id, ty) in part.outputs.into_iter().zip(found.swap_remove(0)) {
        graph.set_type(id, ty);
    }
    Ok(())
}

fn run_segment(
    graph: &Graph,
    eval: &mut dyn Evaluator,
    part: &Segment,
    inputs: &[(String, Tensor)],
) -> Result<Vec<Tensor>, String> {
    let model = export(graph, part, &NamePolicy::Original).map_err(|error| error.to_string())?;
    let outputs: Vec<String> = model.outputs.iter().map(|(_, name)| name.clone()).collect();
    let results = eval.run(&model, inputs, &outputs)?;
    match results.len() == outputs.len() {
        true => Ok(results),
        false => Err(format!("it returned {} values for {}", results.len(), outputs.len())),
    }
}

/// Whether a value is a sequence or an optional, which have no tensor type.
fn holds_sequence(graph: &Graph, id: ValueId) -> bool {
    graph.nodes.iter().filter(|node| node.outputs.contains(&Some(id))).any(|node| {
        matches!(
            node.op_type.as_str(),
            "SequenceConstruct"
                | "SequenceEmpty"
                | "SequenceInsert"
                | "SequenceErase"
                | "SequenceMap"
                | "SplitToSequence"
                | "Optional"
                | "ZipMap"
        )
    })
}

/// Zeros, or reproducible noise in [-1, 1) for floats; integers stay zero, since they may be indices.
fn sample(ty: &TensorType, seed: Option<u64>) -> Result<Tensor, String> {
    let mut state = seed.unwrap_or(0);
    if let (ElemType::Float, Some(_)) = (ty.elem, seed) {
        let noise: Vec<f32> = (0..ty.elements()).map(|_| noise(&mut state)).collect();
        return Ok(Tensor::from_f32(ty.dims.as_slice(), &noise)?);
    }
    if ty.elem == ElemType::String {
        return Err("no sample of string tensors can be made".into());
    }
    let bytes = if let (ElemType::Bool, Some(_)) = (ty.elem, seed) { 1u8 } else { 0 };
    Ok(Tensor::new(ty.elem, ty.dims.as_slice(), vec![bytes; ty.bytes() as usize])?)
}

/// One step of splitmix64, as a float in [-1, 1).
fn noise(state: &mut u64) -> f32 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((mixed ^ (mixed >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}
