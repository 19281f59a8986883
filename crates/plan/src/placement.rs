//! What the user asks for, and the ranges of nodes that follow from it.

use crate::plan::{Placement, WeightFormat};
use crate::{PlanError, Preprocessing};
use cordon_graph::{Graph, NodeId, cut_table};
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
    /// A node: `--front NODE` ends with it, `--back NODE` starts with it.
    Node(String),
}

impl Bound {
    /// A number is a cut, anything else a node.
    pub fn parse(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Node(text.to_owned()), Self::Cut)
    }
}

/// What `cordon plan` is given.
#[derive(Clone, Debug)]
pub struct Constraints {
    /// What is to be protected.
    pub protect: Protect,
    /// End of the FrontNet.
    pub front: Option<Bound>,
    /// Start of the BackNet.
    pub back: Option<Bound>,
    /// Most secure memory, in bytes.
    pub secure_memory: Option<u64>,
    /// How secure weights are stored.
    pub weights: WeightFormat,
    /// Preprocessing to carry along.
    pub preprocessing: Option<Preprocessing>,
    /// One word per class.
    pub labels: Vec<String>,
}

impl Constraints {
    /// Nothing but the goal.
    pub fn new(protect: Protect) -> Self {
        Self {
            protect,
            front: None,
            back: None,
            secure_memory: None,
            weights: WeightFormat::F32,
            preprocessing: None,
            labels: Vec::new(),
        }
    }
}

/// The decision, as positions between nodes: 0 is the start, the number of nodes the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ranges {
    /// Nodes before this are secure.
    pub(crate) front: usize,
    /// Nodes from here on are secure.
    pub(crate) back: usize,
    /// Number of nodes.
    pub(crate) nodes: usize,
    /// Whether a cut was chosen by default.
    pub(crate) default_cuts: bool,
}

impl Ranges {
    /// Segments in order, neighbours of one placement merged, empty ones dropped.
    pub(crate) fn segments(&self) -> Vec<(Placement, Range<usize>)> {
        let all = [
            (Placement::Secure, 0..self.front),
            (Placement::Normal, self.front..self.back),
            (Placement::Secure, self.back..self.nodes),
        ];
        if self.front >= self.back {
            return vec![(Placement::Secure, 0..self.nodes)];
        }
        all.into_iter().filter(|(_, range)| !range.is_empty()).collect()
    }
}

/// Decides the two cuts.
pub(crate) fn ranges(graph: &Graph, constraints: &Constraints) -> Result<Ranges, PlanError> {
    let nodes = graph.nodes.len();
    if nodes == 0 {
        return Err(PlanError::Misuse(
            "the model has no node left after constants were folded: there is nothing to place".into(),
        ));
    }
    let front = constraints.front.as_ref().map(|bound| resolve(graph, bound, Side::Front)).transpose()?;
    let back = constraints.back.as_ref().map(|bound| resolve(graph, bound, Side::Back)).transpose()?;
    let unwanted = |goal: &str| {
        PlanError::Misuse(format!(
            "--front and --back do not go with --protect {goal}, which decides by itself; drop them or choose weights, \
             inputs or both"
        ))
    };
    let default_cuts = match constraints.protect {
        Protect::Inputs => front.is_none(),
        Protect::Both => front.is_none() || back.is_none(),
        _ => false,
    };
    let (front, back) = match (constraints.protect, front, back) {
        (Protect::All, None, None) => (nodes, nodes),
        (Protect::None, None, None) => (0, nodes),
        (Protect::All, ..) => return Err(unwanted("all")),
        (Protect::None, ..) => return Err(unwanted("none")),
        (Protect::Weights, None, None) => (nodes, nodes),
        (Protect::Weights, front, Some(back)) => (front.unwrap_or(0), back),
        (Protect::Weights, Some(_), None) => {
            return Err(PlanError::Misuse(
                "--protect weights with --front alone would leave the last nodes, the most telling ones, outside; add --back"
                    .into(),
            ));
        }
        (Protect::Inputs, front, back) => {
            (front.unwrap_or_else(|| cheapest_after(graph, after_share_of_linear(graph, 1, 2))), back.unwrap_or(nodes))
        }
        (Protect::Both, front, back) => (
            front.unwrap_or_else(|| cheapest_after(graph, after_share_of_linear(graph, 1, 3))),
            back.unwrap_or_else(|| cheapest_before(graph, before_share_of_linear(graph, 1, 3))),
        ),
    };
    if front > back && constraints.front.is_some() && constraints.back.is_some() && front < nodes {
        return Err(PlanError::Misuse(format!(
            "the FrontNet would end at cut {front}, after the BackNet starts at cut {back}; give --front a smaller number \
             than --back, or use --protect all"
        )));
    }
    Ok(Ranges { front, back, nodes, default_cuts })
}

enum Side {
    Front,
    Back,
}

fn resolve(graph: &Graph, bound: &Bound, side: Side) -> Result<usize, PlanError> {
    match bound {
        Bound::Cut(index) if (1..graph.nodes.len()).contains(index) => Ok(*index),
        Bound::Cut(index) => Err(PlanError::Misuse(format!(
            "there is no cut {index}: this model's cuts are numbered 1 to {}; `cordon inspect` lists them",
            graph.nodes.len().saturating_sub(1)
        ))),
        Bound::Node(name) => {
            let position = graph.nodes.iter().position(|node| node.name == *name).ok_or_else(|| {
                PlanError::Misuse(format!("there is no node `{name}`; `cordon inspect` lists the nodes"))
            })?;
            Ok(match side {
                Side::Front => position + 1,
                Side::Back => position,
            })
        }
    }
}

/// Whether a node is a layer with weights in the literature's sense: what cuts are counted by.
pub(crate) fn is_linear_layer(graph: &Graph, id: NodeId) -> bool {
    let node = graph.node(id);
    matches!(node.op_type.as_str(), "Conv" | "ConvTranspose" | "Gemm" | "MatMul" | "QLinearConv" | "QLinearMatMul")
        && node.inputs.iter().skip(1).flatten().any(|&input| graph.value(input).constant.is_some())
}

/// The cut before the last layer with weights: the literature's "one hidden layer". `None` when nothing comes before it.
pub fn classifier_cut(graph: &Graph) -> Option<usize> {
    linear_positions(graph).last().copied().filter(|&position| position > 0)
}

fn linear_positions(graph: &Graph) -> Vec<usize> {
    graph.node_ids().filter(|&id| is_linear_layer(graph, id)).map(|id| id.0 as usize).collect()
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
