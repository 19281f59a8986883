//! The decision: model + constraints → plan.

use crate::lowered::{Cut, LoweredPlan, LoweredSegment, lower_ranges};
use crate::memory::predict;
use crate::placement::{Bound, Constraints, Cuts, Protect, decide};
use crate::plan::{
    Crossing, FORMAT, Goal, Memory, ModelIdentity, OutputInfo, Plan, Role, SegmentPlan, ValueShape, World,
};
use crate::{ImageOptions, Model, PlanError, spilling, words};
use cordon_graph::{ElemType, Graph, TensorType, ValueId};
use cordon_lower::{Lowered, facts};
use cordon_protocol::Profile;

/// Places a model for a platform.
pub fn make(model: &Model, constraints: &Constraints, profile: &Profile) -> Result<Plan, PlanError> {
    let graph = &model.graph;
    // What the platform has bounds what was asked for.
    let secure_memory = constraints.secure_memory.into_iter().chain(profile.memory).min();
    let constraints = &Constraints { secure_memory, ..constraints.clone() };
    let decision = decide(graph, constraints)?;
    check_preprocessing(graph, constraints.preprocessing.as_ref())?;
    let output = output_info(graph, &constraints.labels)?;
    let how = Cut::For(secure_memory);
    let (lowered, predicted) = lower_ranges(graph, &decision.segments, constraints.weights, &how, profile)?;
    let (predicted, slowdown) = predicted.unwrap_or_default();
    check_memory(model, &lowered, constraints, predicted.minimum, profile)?;
    let mut plan = Plan {
        format: FORMAT,
        weights: constraints.weights,
        words: String::new(),
        warnings: Vec::new(),
        public_words: String::new(),
        model: identity(model)?,
        goal: Goal { protect: constraints.protect, report: None, default_cuts: decision.default_cuts },
        memory: Memory {
            platform: profile.platform.into(),
            limit: secure_memory,
            predicted: predicted.peak,
            minimum: predicted.minimum,
            streamed: predicted.pieces * cordon_engine::PIECE as u64,
            spilled: secure(&lowered).map(|it| it.program.spilled_bytes()).sum(),
            spill_ms: (spilling::seconds(secure(&lowered), &profile.speed) * 1e4).round() / 10.0,
            slowdown: (slowdown * 100.0).round() / 100.0,
        },
        output,
        preprocessing: constraints.preprocessing.clone(),
        segments: Vec::new(),
        crossings: crossings(graph, &lowered),
    };
    let mut at = 0;
    for (index, segment) in lowered.segments.iter().enumerate() {
        let names = |ids: &[u32]| -> Vec<String> {
            ids.iter().map(|&id| graph.value(lowered.values[id as usize]).name.clone()).collect()
        };
        let to = at + segment.segment.nodes.len();
        plan.segments.push(SegmentPlan {
            role: Role::of(segment.placement, index, lowered.segments.len()),
            placement: segment.placement,
            from_cut: at,
            to_cut: to,
            secure_memory: alone(segment, secure_memory, profile)?,
            arena: segment.lowered.as_ref().map(|lowered| [lowered.arena.bytes, lowered.arena.lower_bound]),
            tile_weights: segment.tiling.weights,
            tile_arena: segment.tiling.arena,
            spill_arena: segment.tiling.spill,
            tile_scratch: segment.tiling.scratch,
            weight_bytes: weight_bytes(graph, segment.segment.nodes.iter().copied()),
            inputs: names(&segment.inputs),
            outputs: names(&segment.outputs),
            retained_in: names(&segment.retained_in),
            retained_out: names(&segment.retained_out),
            nodes: segment.segment.nodes.iter().map(|&id| graph.node(id).name.clone()).collect(),
        });
        at = to;
    }
    words::explain(&mut plan, graph, &lowered);
    Ok(plan)
}

/// The Programs of all secure segments.
fn secure(plan: &LoweredPlan) -> impl Iterator<Item = &Lowered> {
    plan.segments.iter().filter_map(|segment| segment.lowered.as_ref())
}

/// Predicted peak of one segment by itself.
fn alone(segment: &LoweredSegment, limit: Option<u64>, profile: &Profile) -> Result<Option<u64>, PlanError> {
    segment.lowered.as_ref().map(|lowered| predict(&[lowered], limit, profile).map(|it| it.peak)).transpose()
}

fn identity(model: &Model) -> Result<ModelIdentity, PlanError> {
    let graph = &model.graph;
    let shapes = |ids: &[ValueId]| ids.iter().map(|&id| value_shape(graph, id)).collect::<Result<Vec<_>, _>>();
    Ok(ModelIdentity {
        file: model.file.clone(),
        sha256: model.sha256.clone(),
        parameters: model.parameters(),
        shapes: model.shapes.clone(),
        inputs: shapes(&graph.inputs)?,
        outputs: shapes(&graph.outputs)?,
    })
}

fn value_type(graph: &Graph, id: ValueId) -> Result<&TensorType, PlanError> {
    let value = graph.value(id);
    value.ty.as_ref().ok_or_else(|| PlanError::OpenShape { value: value.name.clone() })
}

fn value_shape(graph: &Graph, id: ValueId) -> Result<ValueShape, PlanError> {
    let ty = value_type(graph, id)?;
    Ok(ValueShape { name: graph.value(id).name.clone(), elem: ty.elem.to_string(), shape: ty.dims.clone() })
}

fn weight_bytes(graph: &Graph, nodes: impl Iterator<Item = cordon_graph::NodeId>) -> u64 {
    let used: std::collections::BTreeSet<ValueId> = nodes.flat_map(|id| graph.node(id).uses()).collect();
    let bytes = |id: ValueId| graph.value(id).constant.as_ref().map_or(0, |tensor| tensor.ty().bytes());
    let stored = |id: ValueId| match &graph.value(id).quantised {
        Some(stored) => stored.node.uses().map(bytes).sum(),
        None => bytes(id),
    };
    used.into_iter().map(stored).sum()
}

/// Every crossing, by segment, inwards first.
fn crossings(graph: &Graph, lowered: &LoweredPlan) -> Vec<Crossing> {
    let mut all = Vec::new();
    for (index, segment) in lowered.segments.iter().enumerate() {
        if !segment.placement.is_secure() {
            continue;
        }
        let directions = [(&segment.inputs, World::Secure), (&segment.outputs, World::Normal)];
        for (id, to) in directions.into_iter().flat_map(|(ids, to)| ids.iter().map(move |&id| (id, to))) {
            let value = lowered.values[id as usize];
            let Some(ty) = graph.value(value).ty.as_ref() else { continue };
            let kind = match to {
                World::Secure if graph.inputs.contains(&value) => "input",
                World::Normal if graph.outputs.contains(&value) => "output",
                _ => "intermediate",
            };
            all.push(Crossing {
                value: graph.value(value).name.clone(),
                elem: ty.elem.to_string(),
                shape: ty.dims.clone(),
                bytes: ty.bytes(),
                segment: index,
                to,
                kind: kind.into(),
            });
        }
    }
    all
}

/// The first output's class axis: where the labels fit, else the last axis of a `(batch, classes)` output.
fn output_info(graph: &Graph, labels: &[String]) -> Result<OutputInfo, PlanError> {
    let Some(&first) = graph.outputs.first() else {
        return Err(PlanError::Nothing("the model has no output"));
    };
    let ty = value_type(graph, first)?;
    let axis = if labels.is_empty() {
        (ty.elem == ElemType::Float && ty.dims.len() == 2).then_some(1)
    } else {
        let axis = ty.dims.iter().rposition(|&dim| dim == labels.len()).ok_or_else(|| {
            PlanError::Labels(format!(
                "{} labels were given, but output `{}` has shape {:?} with no axis of that length",
                labels.len(),
                graph.value(first).name,
                ty.dims
            ))
        })?;
        Some(axis)
    };
    let producer = graph.nodes.iter().find(|node| node.outputs.contains(&Some(first)));
    let probabilities = producer.is_some_and(|node| facts(node).probabilities);
    Ok(OutputInfo {
        class_axis: axis.and_then(|axis| u32::try_from(axis).ok()),
        softmax: axis.is_some() && !probabilities,
        labels: labels.to_vec(),
    })
}

fn check_preprocessing(graph: &Graph, preprocessing: Option<&ImageOptions>) -> Result<(), PlanError> {
    let Some(image) = preprocessing else { return Ok(()) };
    let Some(&id) = graph.inputs.iter().find(|&&id| graph.value(id).name == image.input) else {
        let names: Vec<&str> = graph.inputs.iter().map(|&id| graph.value(id).name.as_str()).collect();
        return Err(PlanError::Image(format!(
            "preprocessing names input `{}`, but the model's inputs are {}",
            image.input,
            names.join(", ")
        )));
    };
    let ty = value_type(graph, id)?;
    if ty.elem != ElemType::Float || ty.dims.get(1..) != Some(&image.shape()[1..]) {
        return Err(PlanError::Image(format!(
            "preprocessing yields a float value of shape {:?}, but input `{}` is {} {:?}",
            image.shape(),
            image.input,
            ty.elem,
            ty.dims
        )));
    }
    Ok(())
}

/// Refuses a plan that cannot fit, naming the most demanding segment, its most demanding instructions, and what would fit.
fn check_memory(
    model: &Model,
    lowered: &LoweredPlan,
    constraints: &Constraints,
    minimum: u64,
    profile: &Profile,
) -> Result<(), PlanError> {
    let Some(limit) = constraints.secure_memory.filter(|&limit| limit < minimum) else { return Ok(()) };
    let (index, largest) = lowered
        .segments
        .iter()
        .enumerate()
        .max_by_key(|(_, segment)| segment.cost.streamed())
        .expect("a plan has at least one segment");
    let cut = match constraints.protect {
        Protect::Weights | Protect::All if lowered.segments.len() == 1 => smaller(model, constraints, profile),
        _ => None,
    };
    Err(PlanError::SecureMemory { needed: minimum, available: limit, segment: demand(index, largest), cut })
}

/// A segment, and which of its instructions ask for most.
fn demand(index: usize, segment: &LoweredSegment) -> String {
    let Some(lowered) = &segment.lowered else { return index.to_string() };
    let program = &lowered.program;
    let name = |at: usize| program.instructions.get(at).map_or_else(String::new, cordon_lower::describe);
    let weights = |at: &usize| program.instructions.get(*at).map_or(0, |it| lowered.instruction_weights(it));
    let widest = (0..program.instructions.len()).rev().max_by_key(weights).unwrap_or(0);
    format!(
        "{index} (activations {} bytes, most at instruction {}, {}; weights of one instruction {} bytes, at {widest}, {})",
        segment.cost.arena,
        lowered.arena.busiest,
        name(lowered.arena.busiest),
        weights(&widest),
        name(widest)
    )
}

/// The earliest of some cuts after which everything inside fits the limit.
fn smaller(model: &Model, constraints: &Constraints, profile: &Profile) -> Option<usize> {
    let limit = constraints.secure_memory?;
    let fits = |cut: usize| {
        let cuts = Cuts::Ends { front: None, back: Some(Bound::Cut(cut)) };
        let constraints = Constraints { protect: Protect::Weights, cuts, ..constraints.clone() };
        let segments = decide(&model.graph, &constraints).ok()?.segments;
        let how = Cut::For(Some(limit));
        let (_, predicted) = lower_ranges(&model.graph, &segments, constraints.weights, &how, profile).ok()?;
        (predicted?.0.minimum <= limit).then_some(cut)
    };
    let nodes = model.graph.nodes.len();
    let (mut too_early, mut found) = (0usize, fits(nodes.checked_sub(1)?)?);
    for _ in 0..SMALLER_CUTS {
        let middle = too_early.midpoint(found);
        if middle == too_early {
            break;
        }
        match fits(middle) {
            Some(cut) => found = cut,
            None => too_early = middle,
        }
    }
    Some(found)
}

/// Cuts tried, by halves, to name one that fits.
const SMALLER_CUTS: usize = 5;
