//! Ranges of nodes → segments with their interface, a value table, and Programs for the secure ones.

use crate::memory::{Predicted, SegmentCost};
use crate::plan::{Plan, SegmentPlan, WeightFormat};
use crate::{Model, PlanError, tiling};
use cordon_engine::program::Via;
use cordon_graph::{Graph, NodeId, Segment, ValueId, segment};
use cordon_lower::{LowerOptions, Lowered, Tiling, Untiled, lower_untiled};
use cordon_package::Placement;
use cordon_protocol::Profile;
use core::ops::Range;
use std::collections::HashMap;

/// Every segment of a plan, ready to be sealed.
#[derive(Clone, Debug)]
pub struct LoweredPlan {
    /// The package's value table: the graph value behind each package value id. A value that both crosses and is retained
    /// has two ids, one for each way.
    pub values: Vec<ValueId>,
    /// Package value ids of the model's inputs.
    pub inputs: Vec<u32>,
    /// Package value ids of the model's outputs.
    pub outputs: Vec<u32>,
    /// In execution order.
    pub segments: Vec<LoweredSegment>,
}

/// One segment. Value lists hold package value ids.
#[derive(Clone, Debug)]
pub struct LoweredSegment {
    /// Where it runs.
    pub placement: Placement,
    /// Its nodes and whole interface.
    pub segment: Segment,
    /// Values that cross into it (secure), or that it reads (normal).
    pub inputs: Vec<u32>,
    /// Values that cross out of it (secure), or that it writes (normal).
    pub outputs: Vec<u32>,
    /// Values kept inside by an earlier segment of its domain.
    pub retained_in: Vec<u32>,
    /// Values kept inside for a later segment of its domain.
    pub retained_out: Vec<u32>,
    /// The Program; secure segments only. Its ports are `inputs` then `retained_in`, `outputs` then `retained_out`.
    pub lowered: Option<Lowered>,
    /// How small it was cut.
    pub tiling: Tiling,
    /// What it takes in secure memory; zero for normal segments.
    pub cost: SegmentCost,
}

/// Applies a plan to the model and for the platform it was made for. Everything the plan says about the model is checked
/// against the model.
pub fn lower_plan(model: &Model, plan: &Plan, profile: &Profile) -> Result<LoweredPlan, PlanError> {
    if plan.memory.platform != profile.platform {
        return Err(PlanError::Mismatch(format!(
            "the plan was made for platform `{}`, not for `{}`",
            plan.memory.platform, profile.platform
        )));
    }
    if plan.model.sha256 != model.sha256 {
        return Err(PlanError::Mismatch(format!(
            "the plan was made for {} with SHA-256 {}, this model has {}",
            plan.model.file, plan.model.sha256, model.sha256
        )));
    }
    if plan.model.shapes != model.shapes {
        return Err(PlanError::OtherShapes);
    }
    let mut ranges = Vec::new();
    let mut at = 0;
    for (index, segment) in plan.segments.iter().enumerate() {
        let names = model.graph.nodes.get(at..).unwrap_or_default().iter().map(|node| node.name.as_str());
        if segment.nodes.is_empty() || !names.take(segment.nodes.len()).eq(segment.nodes.iter().map(String::as_str)) {
            return Err(PlanError::Mismatch(format!(
                "segment {index} of the plan does not list the model's nodes in order"
            )));
        }
        ranges.push((segment.placement, at..at + segment.nodes.len()));
        at += segment.nodes.len();
    }
    if at != model.graph.nodes.len() {
        return Err(PlanError::Mismatch(format!(
            "the plan places {at} of the model's {} nodes",
            model.graph.nodes.len()
        )));
    }
    let tilings: Vec<Tiling> =
        plan.segments.iter().filter(|segment| segment.placement.is_secure()).map(SegmentPlan::tiling).collect();
    lower_ranges(&model.graph, &ranges, plan.weights, &Cut::As(tilings), profile).map(|(lowered, _)| lowered)
}

/// How secure segments are to be cut.
pub(crate) enum Cut {
    /// The fastest way that fits this much secure memory.
    For(Option<u64>),
    /// As a plan says, one entry per secure segment.
    As(Vec<Tiling>),
}

/// Lowers every secure range and works out what crosses and what is retained.
pub(crate) fn lower_ranges(
    graph: &Graph,
    ranges: &[(Placement, Range<usize>)],
    weights: WeightFormat,
    how: &Cut,
    profile: &Profile,
) -> Result<(LoweredPlan, Option<(Predicted, f64)>), PlanError> {
    let segments: Vec<(Placement, Segment)> =
        ranges.iter().map(|(placement, range)| (*placement, segment(graph, node_ids(range)))).collect();
    check_outputs(graph, &segments)?;
    let mut table = ValueTable::default();
    let inputs = graph.inputs.iter().map(|&id| table.id(id, Via::Cross)).collect();
    let mut flows = Vec::new();
    for index in 0..segments.len() {
        flows.push(flow(graph, &segments, index));
    }
    let (mut lowered, mut untiled) = (Vec::new(), Vec::new());
    for ((placement, segment), flow) in segments.into_iter().zip(flows) {
        let mut ids = |list: &[ValueId], via| -> Vec<u32> { list.iter().map(|&id| table.id(id, via)).collect() };
        let out = LoweredSegment {
            placement,
            inputs: ids(&flow.inputs, Via::Cross),
            outputs: ids(&flow.outputs, Via::Cross),
            retained_in: ids(&flow.retained_in, Via::Retain),
            retained_out: ids(&flow.retained_out, Via::Retain),
            segment,
            lowered: None,
            tiling: Tiling::default(),
            cost: SegmentCost::default(),
        };
        if placement.is_secure() {
            untiled.push(untiled_secure(graph, &out, &flow, weights)?);
        }
        lowered.push(out);
    }
    let (fitted, predicted) = match how {
        Cut::For(limit) => {
            let fitted = tiling::fit(&untiled, *limit, profile)?;
            let predicted = (fitted.predicted, fitted.slowdown);
            (fitted, Some(predicted))
        }
        Cut::As(tilings) => (tiling::cut(&untiled, tilings)?, None),
    };
    let secure = lowered.iter_mut().filter(|segment| segment.placement.is_secure());
    for ((out, mut program), tiling) in secure.zip(fitted.lowered).zip(fitted.tilings) {
        name_ports(&mut program, out);
        out.cost = SegmentCost::of(&program, profile)?;
        out.lowered = Some(program);
        out.tiling = tiling;
    }
    let outputs = graph.outputs.iter().map(|&id| table.id(id, Via::Cross)).collect();
    Ok((LoweredPlan { values: table.values, inputs, outputs, segments: lowered }, predicted))
}

fn node_ids(range: &Range<usize>) -> impl Iterator<Item = NodeId> {
    range.clone().map(|index| NodeId(u32::try_from(index).expect("nodes are numbered with 32 bits")))
}

/// How values travel for one segment.
struct Flow {
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
    retained_in: Vec<ValueId>,
    retained_out: Vec<ValueId>,
}

/// A value made in a domain crosses only if something outside it needs it, or it is an output; a later segment of the domain
/// finds it inside. A model input that only one domain reads crosses once, into the first segment of it that does.
fn flow(graph: &Graph, segments: &[(Placement, Segment)], index: usize) -> Flow {
    let (placement, segment) = &segments[index];
    if *placement == Placement::Normal {
        return Flow {
            inputs: segment.inputs.clone(),
            outputs: segment.outputs.clone(),
            retained_in: Vec::new(),
            retained_out: Vec::new(),
        };
    }
    let reads = |(_, segment): &(Placement, Segment), id: ValueId| segment.inputs.contains(&id);
    let here = |(other, _): &(Placement, Segment)| other == placement;
    let needed_outside =
        |id: ValueId| graph.outputs.contains(&id) || segments.iter().any(|any| !here(any) && reads(any, id));
    let needed_later = |id: ValueId| segments[index + 1..].iter().any(|later| here(later) && reads(later, id));
    // An input that others read too is in the normal world at any time: it crosses again rather than take room.
    let is_passed_on = |id: ValueId| graph.inputs.contains(&id) && !needed_outside(id);
    let found_inside = |id: ValueId| {
        let mut earlier = segments[..index].iter().filter(|earlier| here(earlier));
        earlier.any(|earlier| earlier.1.outputs.contains(&id) || (is_passed_on(id) && reads(earlier, id)))
    };
    let (retained_in, inputs): (Vec<_>, Vec<_>) = segment.inputs.iter().partition(|&&id| found_inside(id));
    let passed_on = inputs.iter().copied().filter(|&id| is_passed_on(id) && needed_later(id));
    let retained_out = segment.outputs.iter().copied().filter(|&id| needed_later(id)).chain(passed_on).collect();
    let outputs = segment.outputs.iter().copied().filter(|&id| needed_outside(id)).collect();
    Flow { inputs, outputs, retained_in, retained_out }
}

fn untiled_secure(
    graph: &Graph,
    segment: &LoweredSegment,
    flow: &Flow,
    weights: WeightFormat,
) -> Result<Untiled, PlanError> {
    let whole = Segment {
        nodes: segment.segment.nodes.clone(),
        inputs: flow.inputs.iter().chain(&flow.retained_in).copied().collect(),
        outputs: flow.outputs.iter().chain(&flow.retained_out).copied().collect(),
    };
    let retained = flow.retained_in.iter().chain(&flow.retained_out).copied().collect();
    let f16_weights = weights == WeightFormat::F16;
    let options = LowerOptions { batch: batch(graph), retained, f16_weights, ..LowerOptions::default() };
    Ok(lower_untiled(graph, &whole, &options)?)
}

/// Ports get the package's value ids; a value may both cross and be retained under different ones.
fn name_ports(lowered: &mut Lowered, segment: &LoweredSegment) {
    let program = &mut lowered.program;
    let ways = |cross: &[u32], retain: &[u32]| -> Vec<(u32, Via)> {
        let cross = cross.iter().map(|&id| (id, Via::Cross));
        cross.chain(retain.iter().map(|&id| (id, Via::Retain))).collect()
    };
    let inputs = program.inputs.iter_mut().zip(ways(&segment.inputs, &segment.retained_in));
    let outputs = program.outputs.iter_mut().zip(ways(&segment.outputs, &segment.retained_out));
    for (port, (value, via)) in inputs.chain(outputs) {
        port.value = value;
        port.via = via;
    }
}

/// The leading extent of the first input, which is what the field calls the batch.
fn batch(graph: &Graph) -> u32 {
    let ty = graph.inputs.first().and_then(|&id| graph.value(id).ty.as_ref());
    ty.and_then(|ty| ty.dims.first()).and_then(|&dim| u32::try_from(dim).ok()).unwrap_or(1)
}

/// An output that no node computes has no segment to come from.
fn check_outputs(graph: &Graph, segments: &[(Placement, Segment)]) -> Result<(), PlanError> {
    for &id in &graph.outputs {
        if !segments.iter().any(|(_, segment)| segment.outputs.contains(&id)) {
            return Err(PlanError::Output { name: graph.value(id).name.clone() });
        }
    }
    Ok(())
}

/// Package value ids in order of first use.
#[derive(Default)]
struct ValueTable {
    values: Vec<ValueId>,
    ids: HashMap<(ValueId, bool), u32>,
}

impl ValueTable {
    fn id(&mut self, value: ValueId, via: Via) -> u32 {
        let Self { values, ids } = self;
        *ids.entry((value, via == Via::Retain)).or_insert_with(|| {
            values.push(value);
            u32::try_from(values.len() - 1).expect("no more values than the graph's 32-bit indices")
        })
    }
}
