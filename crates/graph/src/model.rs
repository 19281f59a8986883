//! `Graph`: an ONNX model with every name resolved to an index and every value, once inferred, typed and shaped.

use crate::tensor::{Tensor, TensorType};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// Index of a [`Value`] in [`Graph::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(pub u32);

/// Index of a [`Node`] in [`Graph::nodes`], which is in topological order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

/// One value: a graph input, an initializer, or a node's output.
#[derive(Clone, Debug)]
pub struct Value {
    /// Unique, never empty.
    pub name: String,
    /// Known after [`crate::infer`].
    pub ty: Option<TensorType>,
    /// Present for initializers and folded nodes.
    pub constant: Option<Tensor>,
    /// What the file says about a computed value (`value_info`), used where no rule knows better.
    pub declared: Option<TensorType>,
    /// For a folded constant: the constants it was computed from, folded ones included. See [`Graph::origins`].
    pub computed_from: Option<Vec<ValueId>>,
    /// For a folded constant that the model stores as integers: how.
    pub quantised: Option<Quantised>,
}

/// A constant that is integers times scales.
#[derive(Clone, Debug)]
pub struct Quantised {
    /// One scale, or one for each channel.
    pub scales: Vec<f32>,
    /// The DequantizeLinear that made it, of constants.
    pub node: Node,
}

impl Value {
    /// A value of which only the name is known.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ty: None, constant: None, declared: None, computed_from: None, quantised: None }
    }
}

/// An attribute. Kinds the partitioner never interprets stay in ONNX's own encoding.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    /// `FLOAT`.
    Float(f32),
    /// `INT`.
    Int(i64),
    /// `STRING`, any bytes.
    String(Bytes),
    /// `TENSOR`.
    Tensor(Tensor),
    /// `FLOATS`.
    Floats(Vec<f32>),
    /// `INTS`.
    Ints(Vec<i64>),
    /// `STRINGS`.
    Strings(Vec<Bytes>),
    /// Anything else (graphs, sparse tensors, types): the encoded `AttributeProto`.
    Opaque(Bytes),
}

/// One node of the main graph.
#[derive(Clone, Debug)]
pub struct Node {
    /// Unique, never empty (generated when the file has none).
    pub name: String,
    /// Operator.
    pub op_type: String,
    /// Operator set; empty for ONNX's own.
    pub domain: String,
    /// By position; `None` for an omitted optional input.
    pub inputs: Vec<Option<ValueId>>,
    /// Values of this graph that the node's subgraphs use by name: inputs as far as cutting is concerned.
    pub captures: Vec<ValueId>,
    /// By position; `None` for an output the file leaves unnamed.
    pub outputs: Vec<Option<ValueId>>,
    /// By name.
    pub attributes: BTreeMap<String, Attribute>,
}

impl Node {
    /// Every value the node needs: inputs by position, then captures.
    pub fn uses(&self) -> impl Iterator<Item = ValueId> {
        self.inputs.iter().flatten().copied().chain(self.captures.iter().copied())
    }
}

/// A model.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// `ModelProto.ir_version`.
    pub ir_version: i64,
    /// Version per operator-set domain; ONNX's own is the empty domain.
    pub opsets: BTreeMap<String, i64>,
    /// All values.
    pub values: Vec<Value>,
    /// Topologically ordered.
    pub nodes: Vec<Node>,
    /// Inputs that are not initializers, in file order.
    pub inputs: Vec<ValueId>,
    /// Outputs, in file order.
    pub outputs: Vec<ValueId>,
}

impl Graph {
    /// The value behind an index.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }

    /// The node behind an index.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// Version of ONNX's own operator set.
    pub fn opset(&self) -> i64 {
        self.opset_of("")
    }

    /// Version of the operator set `domain`.
    pub fn opset_of(&self, domain: &str) -> i64 {
        self.opsets.get(domain).copied().unwrap_or(1)
    }

    /// The file's own constants behind a constant: itself, or all that folding computed it from. Who sees a folded
    /// constant may learn of these. A constant made from shapes alone has none.
    pub fn origins(&self, constant: ValueId) -> BTreeSet<ValueId> {
        let mut found = BTreeSet::new();
        let mut seen = BTreeSet::from([constant]);
        let mut open = vec![constant];
        while let Some(id) = open.pop() {
            let value = self.value(id);
            match &value.computed_from {
                Some(from) => open.extend(from.iter().copied().filter(|&id| seen.insert(id))),
                None if value.constant.is_some() => {
                    found.insert(id);
                }
                None => {}
            }
        }
        found
    }

    /// All node indices in topological order.
    pub fn node_ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes.len() as u32).map(NodeId)
    }
}
