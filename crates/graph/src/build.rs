//! A `GraphProto` to a [`Graph`]: names to indices, duplicates and gaps refused, nodes in topological order.

use crate::decode::Decoder;
use crate::error::{GraphError, NodeSite};
use crate::functions::domain;
use crate::model::{Attribute, Graph, Node, NodeId, Value, ValueId};
use crate::onnx::{AttributeProto, NodeProto};
use crate::rename;
use crate::tensor::{Tensor, TensorType};
use bytes::Bytes;
use cordon_onnx_types::ElemType;
use core::cmp::Reverse;
use prost::Message as _;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};

/// A graph under construction.
pub(crate) struct Builder {
    pub(crate) graph: Graph,
    pub(crate) by_name: HashMap<String, ValueId>,
    node_names: HashSet<String>,
}

/// A node whose uses are still names.
struct Declared {
    node: Node,
    inputs: Vec<String>,
    captures: Vec<String>,
}

impl Builder {
    /// Continues an existing graph, whose nodes may have been set apart.
    pub(crate) fn resume(graph: Graph, nodes: &[Node]) -> Self {
        let by_name = (0u32..).zip(&graph.values).map(|(i, value)| (value.name.clone(), ValueId(i))).collect();
        let node_names = nodes.iter().chain(&graph.nodes).map(|node| node.name.clone()).collect();
        Self { graph, by_name, node_names }
    }

    /// Defines a value; a second definition of its name is an error.
    pub(crate) fn define(&mut self, name: &str) -> Result<ValueId, GraphError> {
        let id = ValueId(self.graph.values.len() as u32);
        if name.is_empty() {
            return Err(GraphError::malformed("a graph input or initializer has no name"));
        }
        if self.by_name.insert(name.to_owned(), id).is_some() {
            return Err(GraphError::malformed(format!("value `{name}` is defined twice")));
        }
        self.graph.values.push(Value::new(name));
        Ok(id)
    }

    pub(crate) fn define_constant(&mut self, name: &str, tensor: Tensor) -> Result<ValueId, GraphError> {
        let id = self.define(name)?;
        self.graph.set_constant(id, tensor, None);
        Ok(id)
    }

    /// Converts nodes, whose order may be any, and returns them in topological order. `Constant` nodes become constants.
    pub(crate) fn nodes(&mut self, protos: Vec<NodeProto>, decoder: &mut Decoder<'_>) -> Result<Vec<Node>, GraphError> {
        let mut seen = self.node_names.clone();
        // Generated names must not take a name that a later node has.
        self.node_names.extend(protos.iter().map(|proto| proto.name().to_owned()));
        let mut pending = Vec::with_capacity(protos.len());
        for (index, mut proto) in protos.into_iter().enumerate() {
            let name = self.node_name(&mut proto, index, &mut seen);
            let site = self.site(&name, &proto);
            let node = self.declare(name, proto, decoder).map_err(|error| error.at(|| site))?;
            pending.extend(node);
        }
        let mut nodes = Vec::with_capacity(pending.len());
        for Declared { mut node, inputs, captures } in pending {
            let site = NodeSite::new(&self.graph, &node);
            let find = |name: &String| {
                self.by_name.get(name).copied().ok_or_else(|| {
                    GraphError::malformed(format!("it uses `{name}`, which nothing defines")).at(|| site.clone())
                })
            };
            node.inputs = inputs
                .iter()
                .map(|name| match name.is_empty() {
                    true => Ok(None),
                    false => find(name).map(Some),
                })
                .collect::<Result<_, _>>()?;
            node.captures = captures.iter().map(find).collect::<Result<_, _>>()?;
            nodes.push(node);
        }
        sort(&self.graph, nodes)
    }

    /// A node that copies `from` to `to`, for the caller to place.
    pub(crate) fn identity(&mut self, from: ValueId, to: ValueId) -> Node {
        let mut name = format!("Identity_{}", self.graph.value(to).name);
        while !self.node_names.insert(name.clone()) {
            name.push('_');
        }
        Node {
            name,
            op_type: "Identity".into(),
            domain: String::new(),
            inputs: vec![Some(from)],
            captures: Vec::new(),
            outputs: vec![Some(to)],
            attributes: BTreeMap::new(),
        }
    }

    /// Converts one node but for the values it uses, which may be defined later.
    fn declare(
        &mut self,
        name: String,
        proto: NodeProto,
        decoder: &mut Decoder<'_>,
    ) -> Result<Option<Declared>, GraphError> {
        let mut captures = Vec::new();
        for graph in rename::subgraphs(&proto) {
            let fresh = rename::captures(graph);
            captures.extend(fresh.into_iter().filter(|name| !captures.contains(name)).collect::<Vec<_>>());
        }
        let op_type = proto.op_type().to_owned();
        let domain = domain(proto.domain());
        if op_type.is_empty() {
            return Err(GraphError::malformed("it has no operator"));
        }
        if !self.graph.opsets.contains_key(&domain) {
            return Err(GraphError::malformed(format!("the model imports no operator set `{domain}`")));
        }
        let mut attributes = BTreeMap::new();
        for attribute in proto.attribute {
            let key = attribute.name().to_owned();
            if attributes.insert(key.clone(), decoder.attribute(attribute)?).is_some() {
                return Err(GraphError::malformed(format!("attribute `{key}` is given twice")));
            }
        }
        if domain.is_empty()
            && op_type == "Constant"
            && let (Some(tensor), [output]) = (constant(&attributes)?, proto.output.as_slice())
        {
            self.define_constant(output, tensor)?;
            return Ok(None);
        }
        let mut outputs = Vec::with_capacity(proto.output.len());
        for output in &proto.output {
            outputs.push(match output.is_empty() {
                true => None,
                false => Some(self.define(output)?),
            });
        }
        let node = Node { name, op_type, domain, inputs: Vec::new(), captures: Vec::new(), outputs, attributes };
        Ok(Some(Declared { node, inputs: proto.input, captures }))
    }

    /// The node's own name if it is the first with it, otherwise `op_type_index`.
    fn node_name(&mut self, proto: &mut NodeProto, index: usize, seen: &mut HashSet<String>) -> String {
        let own = proto.name.take().unwrap_or_default();
        if !own.is_empty() && seen.insert(own.clone()) {
            return own;
        }
        let mut name = format!("{}_{index}", proto.op_type());
        while !self.node_names.insert(name.clone()) {
            name.push('_');
        }
        name
    }

    fn site(&self, name: &str, proto: &NodeProto) -> NodeSite {
        let domain = domain(proto.domain());
        let opset = self.graph.opset_of(&domain);
        NodeSite { name: name.to_owned(), op_type: proto.op_type().to_owned(), domain, opset }
    }
}

impl Graph {
    /// Makes a value constant.
    pub(crate) fn set_constant(&mut self, id: ValueId, tensor: Tensor, from: Option<Vec<ValueId>>) {
        let value = &mut self.values[id.0 as usize];
        value.computed_from = from;
        value.ty = Some(tensor.ty());
        value.constant = Some(tensor);
    }

    pub(crate) fn set_type(&mut self, id: ValueId, ty: TensorType) {
        self.values[id.0 as usize].ty = Some(ty);
    }
}

/// The tensor of a `Constant` node; `None` for a sparse one, which stays a node.
fn constant(attributes: &BTreeMap<String, Attribute>) -> Result<Option<Tensor>, GraphError> {
    let mut given = attributes.iter();
    let (Some((name, attribute)), None) = (given.next(), given.next()) else {
        return Err(GraphError::malformed("a Constant has exactly one attribute"));
    };
    Ok(Some(match (name.as_str(), attribute) {
        ("value", Attribute::Tensor(tensor)) => tensor.clone(),
        ("value_float", Attribute::Float(value)) => Tensor::from_f32([], &[*value])?,
        ("value_floats", Attribute::Floats(values)) => Tensor::from_f32([values.len()], values)?,
        ("value_int", Attribute::Int(value)) => Tensor::from_i64([], &[*value])?,
        ("value_ints", Attribute::Ints(values)) => Tensor::from_i64([values.len()], values)?,
        ("value_string", Attribute::String(value)) => string_tensor(vec![], vec![value.clone()]),
        ("value_strings", Attribute::Strings(values)) => string_tensor(vec![values.len()], values.clone()),
        ("sparse_value", Attribute::Opaque(_)) => return Ok(None),
        _ => return Err(GraphError::malformed(format!("a Constant has no attribute `{name}` of this type"))),
    }))
}

fn string_tensor(dims: Vec<usize>, strings: Vec<Bytes>) -> Tensor {
    let records = crate::onnx::TensorProto { string_data: strings, ..Default::default() };
    Tensor { elem: ElemType::String, dims, data: Bytes::from(records.encode_to_vec()) }
}

/// Topological order that keeps the given order where it can.
fn sort(graph: &Graph, nodes: Vec<Node>) -> Result<Vec<Node>, GraphError> {
    let mut maker = HashMap::new();
    for (i, node) in nodes.iter().enumerate() {
        maker.extend(node.outputs.iter().flatten().map(|&value| (value, i)));
    }
    let mut waits = vec![0usize; nodes.len()];
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    for (i, node) in nodes.iter().enumerate() {
        for &from in node.uses().collect::<HashSet<_>>().iter().filter_map(|value| maker.get(value)) {
            waits[i] += 1;
            users[from].push(i);
        }
    }
    let mut ready: BinaryHeap<Reverse<usize>> = (0..nodes.len()).filter(|&i| waits[i] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(Reverse(i)) = ready.pop() {
        order.push(i);
        for &user in &users[i] {
            waits[user] -= 1;
            if waits[user] == 0 {
                ready.push(Reverse(user));
            }
        }
    }
    if order.len() < nodes.len() {
        let stuck = (0..nodes.len()).find(|&i| waits[i] > 0).map(|i| NodeSite::new(graph, &nodes[i]));
        let error = GraphError::malformed("it depends on its own output: the graph has a cycle");
        return Err(match stuck {
            Some(site) => error.at(|| site),
            None => error,
        });
    }
    let mut slots: Vec<Option<Node>> = nodes.into_iter().map(Some).collect();
    Ok(order.into_iter().filter_map(|i| slots[i].take()).collect())
}

/// Decodes an attribute that was kept encoded.
pub(crate) fn reopen(attribute: &Bytes) -> Result<AttributeProto, GraphError> {
    AttributeProto::decode(attribute.clone())
        .map_err(|error| GraphError::malformed(format!("an attribute cannot be decoded: {error}")))
}

impl Graph {
    /// Removes nodes none of whose outputs is needed, and returns how many. Node indices change, value indices do not.
    pub fn remove_dead_nodes(&mut self) -> usize {
        let mut needed = vec![false; self.values.len()];
        for id in &self.outputs {
            needed[id.0 as usize] = true;
        }
        let mut keep = vec![false; self.nodes.len()];
        for (i, node) in self.nodes.iter().enumerate().rev() {
            let live = |id: &ValueId| needed[id.0 as usize] && self.values[id.0 as usize].constant.is_none();
            keep[i] = node.outputs.iter().flatten().any(live);
            if keep[i] {
                for id in node.uses() {
                    needed[id.0 as usize] = true;
                }
            }
        }
        let before = self.nodes.len();
        let mut kept = keep.into_iter();
        self.nodes.retain(|_| kept.next().unwrap_or(true));
        before - self.nodes.len()
    }

    /// The node that computes each value.
    pub fn makers(&self) -> HashMap<ValueId, NodeId> {
        let outputs = |id: NodeId| self.node(id).outputs.iter().flatten().map(move |&value| (value, id));
        self.node_ids().flat_map(outputs).collect()
    }
}
