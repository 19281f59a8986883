//! What the user asks for, and where each node runs by it.

use crate::plan::WeightFormat;
use crate::{ImageOptions, PlanError};
use cordon_fault::Next;
use cordon_graph::{Graph, cut_table};
use cordon_lower::is_layer;
use cordon_package::{Domain, Placement};
use core::fmt;
use core::ops::Range;
use serde::{Deserialize, Serialize};

/// What a plan is to protect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protect {
    /// The network's parameters.
    Weights,
    /// What users send.
    Inputs,
    /// Both, with a normal middle.
    Both,
    /// Everything inside.
    All,
    /// Nothing: for comparison.
    None,
}

impl fmt::Display for Protect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Weights => "weights",
            Self::Inputs => "inputs",
            Self::Both => "both",
            Self::All => "all",
            Self::None => "none",
        })
    }
}

/// A position the user names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bound {
    /// A row of the cut table.
    Cut(usize),
    /// A node: secure nodes begin or end with it.
    Node(String),
}

impl Bound {
    /// A number is a cut, anything else a node.
    pub fn parse(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Node(text.to_owned()), Self::Cut)
    }
}

/// Which nodes are to be secure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cuts {
    /// A FrontNet up to one bound and a BackNet from another; what is not given follows from what is to be protected.
    Ends {
        /// End of the FrontNet.
        front: Option<Bound>,
        /// Start of the BackNet.
        back: Option<Bound>,
    },
    /// Exactly these stretches.
    Stretches(Vec<Stretch>),
}

/// Secure nodes one after the other. A bound may also be the cut 0, the start of the model, and the cut after its last node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Where it begins; a node is the first inside.
    pub from: Bound,
    /// Where it ends; a node is the last inside.
    pub to: Bound,
    /// The enclave it is in.
    pub domain: Domain,
}

impl Stretch {
    /// Reads `FROM..TO`, in domain 0.
    pub fn parse(text: &str) -> Result<Self, PlanError> {
        match text.split_once("..") {
            Some((from, to)) if !from.is_empty() && !to.is_empty() => {
                Ok(Self { from: Bound::parse(from), to: Bound::parse(to), domain: Domain(0) })
            }
            _ => {
                let what = format!("`{text}` is not FROM..TO, each a number of the cut table or a node");
                Err(bounds(what, Next::OrderStretches))
            }
        }
    }
}

/// What `cordon plan` is given.
#[derive(Clone, Debug)]
pub struct Constraints {
    /// What is to be protected.
    pub protect: Protect,
    /// Which nodes are to be secure.
    pub cuts: Cuts,
    /// Most secure memory, in bytes.
    pub secure_memory: Option<u64>,
    /// How secure weights are stored.
    pub weights: WeightFormat,
    /// How an image becomes an input, to carry along.
    pub preprocessing: Option<ImageOptions>,
    /// One word per class.
    pub labels: Vec<String>,
}

impl Constraints {
    /// Nothing but the goal.
    pub fn new(protect: Protect) -> Self {
        Self {
            protect,
            cuts: Cuts::Ends { front: None, back: None },
            secure_memory: None,
            weights: WeightFormat::F32,
            preprocessing: None,
            labels: Vec::new(),
        }
    }
}

/// Nodes of one placement, as positions between nodes: 0 is the start, the number of nodes the end.
pub(crate) type Placed = (Placement, Range<usize>);

/// The decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    /// Every node once, in order; no range is empty, and neighbours differ in placement.
    pub(crate) segments: Vec<Placed>,
    /// Whether a cut was chosen by default.
    pub(crate) default_cuts: bool,
}

/// Decides where every node runs.
pub(crate) fn decide(graph: &Graph, constraints: &Constraints) -> Result<Decision, PlanError> {
    let nodes = graph.nodes.len();
    if nodes == 0 {
        return Err(PlanError::Nothing(
            "the model has no node left after constants were folded: there is nothing to place",
        ));
    }
    let (secure, default_cuts) = match &constraints.cuts {
        Cuts::Ends { front, back } => {
            let ends = ends(graph, constraints.protect, front.as_ref(), back.as_ref())?;
            let inside = |range| (Domain(0), range);
            // Ends that meet or overlap leave nothing between them.
            (vec![inside(0..ends.front), inside(ends.back.max(ends.front)..nodes)], ends.default_cuts)
        }
        Cuts::Stretches(stretches) => (resolve_stretches(graph, constraints.protect, stretches)?, false),
    };
    Ok(Decision { segments: segments(nodes, &secure), default_cuts })
}

/// Fills the gaps between secure ranges, which ascend and do not overlap, with normal segments.
fn segments(nodes: usize, secure: &[(Domain, Range<usize>)]) -> Vec<Placed> {
    let mut out: Vec<Placed> = Vec::new();
    let mut add = |placement, range: Range<usize>| match out.last_mut() {
        _ if range.is_empty() => {}
        Some((last, before)) if *last == placement => before.end = range.end,
        _ => out.push((placement, range)),
    };
    let mut at = 0;
    for (domain, range) in secure {
        add(Placement::Normal, at..range.start);
        add(Placement::Secure(*domain), range.clone());
        at = range.end;
    }
    add(Placement::Normal, at..nodes);
    out
}

/// FrontNet and BackNet, as positions between nodes.
struct Ends {
    front: usize,
    back: usize,
    default_cuts: bool,
}

fn ends(
    graph: &Graph,
    protect: Protect,
    given_front: Option<&Bound>,
    given_back: Option<&Bound>,
) -> Result<Ends, PlanError> {
    let nodes = graph.nodes.len();
    let front = given_front.map(|bound| resolve(graph, bound, Side::End)).transpose()?;
    let back = given_back.map(|bound| resolve(graph, bound, Side::Start)).transpose()?;
    let unwanted = |goal: &str| {
        let what = format!("to protect {goal} decides by itself where the secure part starts and ends");
        bounds(what, Next::ChooseBounds)
    };
    let default_cuts = match protect {
        Protect::Inputs => front.is_none(),
        Protect::Both => front.is_none() || back.is_none(),
        _ => false,
    };
    let (front, back) = match (protect, front, back) {
        (Protect::All, None, None) => (nodes, nodes),
        (Protect::None, None, None) => (0, nodes),
        (Protect::All, ..) => return Err(unwanted("all")),
        (Protect::None, ..) => return Err(unwanted("none")),
        (Protect::Weights, None, None) => (nodes, nodes),
        (Protect::Weights, front, Some(back)) => (front.unwrap_or(0), back),
        (Protect::Weights, Some(_), None) => {
            let what =
                "to protect weights with a FrontNet alone would leave the last nodes, the most telling ones, outside";
            return Err(bounds(what.into(), Next::AddBack));
        }
        (Protect::Inputs, front, back) => {
            (front.unwrap_or_else(|| cheapest_after(graph, after_share_of_linear(graph, 1, 2))), back.unwrap_or(nodes))
        }
        (Protect::Both, front, back) => (
            front.unwrap_or_else(|| cheapest_after(graph, after_share_of_linear(graph, 1, 3))),
            back.unwrap_or_else(|| cheapest_before(graph, before_share_of_linear(graph, 1, 3))),
        ),
    };
    if front > back && given_front.is_some() && given_back.is_some() && front < nodes {
        let what = format!("the FrontNet would end at cut {front}, after the BackNet starts at cut {back}");
        return Err(bounds(what, Next::OrderBounds));
    }
    Ok(Ends { front, back, default_cuts })
}

/// Stretches as ascending ranges that do not overlap.
fn resolve_stretches(
    graph: &Graph,
    protect: Protect,
    stretches: &[Stretch],
) -> Result<Vec<(Domain, Range<usize>)>, PlanError> {
    if let Protect::All | Protect::None = protect {
        let what = format!("stretches of secure nodes do not go with the goal {protect}, which decides by itself");
        return Err(bounds(what, Next::ChooseBounds));
    }
    let outer = |bound: &Bound, side| match bound {
        Bound::Cut(0) => Ok(0),
        Bound::Cut(cut) if *cut == graph.nodes.len() => Ok(*cut),
        _ => resolve(graph, bound, side),
    };
    let mut ranges = Vec::with_capacity(stretches.len());
    for Stretch { from, to, domain } in stretches {
        let range = outer(from, Side::Start)?..outer(to, Side::End)?;
        if range.is_empty() {
            let what = format!("the secure nodes from cut {} to cut {} are none", range.start, range.end);
            return Err(bounds(what, Next::OrderStretches));
        }
        ranges.push((*domain, range));
    }
    ranges.sort_unstable_by_key(|(_, range)| range.start);
    if let Some([(_, a), (_, b)]) = ranges.array_windows().find(|[(_, a), (_, b)]| a.end > b.start) {
        let what =
            format!("the secure nodes of cuts {} to {} and of cuts {} to {} overlap", a.start, a.end, b.start, b.end);
        return Err(bounds(what, Next::OrderStretches));
    }
    Ok(ranges)
}

fn bounds(what: String, next: Next<'static>) -> PlanError {
    PlanError::Bounds { what, next }
}

/// Which end of secure nodes a bound is.
#[derive(Clone, Copy)]
enum Side {
    Start,
    End,
}

fn resolve(graph: &Graph, bound: &Bound, side: Side) -> Result<usize, PlanError> {
    match bound {
        Bound::Cut(index) if (1..graph.nodes.len()).contains(index) => Ok(*index),
        Bound::Cut(index) => Err(PlanError::UnknownCut(format!(
            "there is no cut {index}: this model's cuts are numbered 1 to {}",
            graph.nodes.len().saturating_sub(1)
        ))),
        Bound::Node(name) => {
            let position = graph
                .nodes
                .iter()
                .position(|node| node.name == *name)
                .ok_or_else(|| PlanError::UnknownCut(format!("there is no node `{name}`")))?;
            Ok(match side {
                Side::Start => position,
                Side::End => position + 1,
            })
        }
    }
}

/// The cut before the last layer with weights: the literature's "one hidden layer". `None` when nothing comes before it.
pub fn classifier_cut(graph: &Graph) -> Option<usize> {
    linear_positions(graph).last().copied().filter(|&position| position > 0)
}

fn linear_positions(graph: &Graph) -> Vec<usize> {
    graph.node_ids().filter(|&id| is_layer(graph, graph.node(id))).map(|id| id.0 as usize).collect()
}

/// The position just before the layer that follows the first `numerator / denominator` of all layers.
fn after_share_of_linear(graph: &Graph, numerator: usize, denominator: usize) -> usize {
    let linear = linear_positions(graph);
    let count = (linear.len() * numerator).div_ceil(denominator).max(1);
    linear.get(count).copied().unwrap_or(graph.nodes.len())
}

/// The position just before the last `numerator / denominator` of all layers.
fn before_share_of_linear(graph: &Graph, numerator: usize, denominator: usize) -> usize {
    let linear = linear_positions(graph);
    let count = (linear.len() * numerator).div_ceil(denominator).max(1);
    linear.len().checked_sub(count).map_or(0, |index| linear[index])
}

/// How far a default cut may move to where less crosses: a tenth of the nodes, and only so that more lies inside.
fn reach(graph: &Graph) -> usize {
    (graph.nodes.len() / 10).max(2)
}

/// The cut at `position` or a little later where the fewest bytes cross.
fn cheapest_after(graph: &Graph, position: usize) -> usize {
    cheapest(graph, position..=position + reach(graph)).unwrap_or(position)
}

/// The cut at `position` or a little earlier where the fewest bytes cross.
fn cheapest_before(graph: &Graph, position: usize) -> usize {
    cheapest(graph, position.saturating_sub(reach(graph))..=position).unwrap_or(position)
}

fn cheapest(graph: &Graph, positions: core::ops::RangeInclusive<usize>) -> Option<usize> {
    let table = cut_table(graph);
    let cuts = table.iter().filter(|cut| positions.contains(&cut.index));
    cuts.min_by_key(|cut| cut.bytes.unwrap_or(u64::MAX)).map(|cut| cut.index)
}
