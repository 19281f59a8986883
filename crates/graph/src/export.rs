//! Writing a segment as an ordinary ONNX model with external data. Doc strings, metadata, `value_info` and unused
//! initializers are left behind.

use crate::build::reopen;
use crate::cut::Segment;
use crate::error::{GraphError, NodeSite};
use crate::model::{Attribute, Graph, Node, ValueId};
use crate::onnx::attribute_proto::AttributeType;
use crate::onnx::tensor_proto::DataLocation;
use crate::onnx::tensor_shape_proto::{Dimension, dimension};
use crate::onnx::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use crate::rename::{self, Names, Scope};
use crate::tensor::{Tensor, TensorType};
use bytes::Bytes;
use cordon_onnx_types::ElemType;
use prost::Message as _;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;

/// Alignment of each tensor in the data file: a page, so that an engine may map it.
pub const PAGE: u64 = 4096;
/// Tensors below this stay in the model file.
const EMBED_BELOW: u64 = 1024;
/// Integer tensors below this stay in the model file too: shape inference of other tools reads them.
const EMBED_INTEGERS_BELOW: u64 = 64 << 10;
/// Writers before IR version 4 had to list every initializer as an input.
const OLDEST_WRITTEN_IR: i64 = 4;

/// How the values and nodes of an exported model are called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NamePolicy {
    /// As in the graph.
    #[default]
    Original,
    /// `v0`, `n0`, … so that names tell nothing, except the values given here.
    Neutral(BTreeMap<ValueId, String>),
}

/// A tensor's place in the data file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataPiece {
    /// Which value it is.
    pub value: ValueId,
    /// First byte, a multiple of [`PAGE`].
    pub offset: u64,
    /// The data, a view of the original file where it was raw there.
    pub bytes: Bytes,
}

/// An ONNX model and the data file it refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportedModel {
    /// The encoded `ModelProto`.
    pub model: Vec<u8>,
    /// What the model calls its data file; [`ExportedModel::LOCATION`].
    pub location: String,
    /// The data file's content by ascending offset; zeros between.
    pub data: Vec<DataPiece>,
    /// Inputs in the segment's order, with their names in the model.
    pub inputs: Vec<(ValueId, String)>,
    /// Outputs in the segment's order, with their names in the model.
    pub outputs: Vec<(ValueId, String)>,
}

impl ExportedModel {
    /// Name of the data file.
    pub const LOCATION: &'static str = "model.data";

    /// Length of the data file; 0 when the model needs none.
    pub fn data_len(&self) -> u64 {
        self.data.last().map_or(0, |piece| piece.offset + piece.bytes.len() as u64)
    }

    /// Writes the data file.
    pub fn write_data(&self, to: &mut dyn io::Write) -> io::Result<()> {
        let mut at = 0;
        for piece in &self.data {
            let gap = [0u8; PAGE as usize];
            to.write_all(&gap[..(piece.offset - at) as usize])?;
            to.write_all(&piece.bytes)?;
            at = piece.offset + piece.bytes.len() as u64;
        }
        Ok(())
    }

    /// The data file in memory.
    pub fn data_bytes(&self) -> Bytes {
        let mut data = Vec::with_capacity(self.data_len() as usize);
        for piece in &self.data {
            data.resize(piece.offset as usize, 0);
            data.extend_from_slice(&piece.bytes);
        }
        Bytes::from(data)
    }
}

/// Writes a segment as a model of its own.
pub fn export(graph: &Graph, segment: &Segment, policy: &NamePolicy) -> Result<ExportedModel, GraphError> {
    let names = value_names(graph, segment, policy)?;
    let mut writer = Writer { graph, names: &names, policy, free: Names::default(), opsets: BTreeSet::new() };
    names.values().for_each(|name| writer.free.take(name));
    let mut proto = GraphProto { name: Some("segment".into()), ..Default::default() };
    let (mut constants, mut quantised) = (BTreeSet::new(), BTreeSet::new());
    for value in segment.nodes.iter().flat_map(|&id| graph.node(id).uses()) {
        match &graph.value(value).quantised {
            Some(_) => quantised.insert(value),
            None => graph.value(value).constant.is_some() && constants.insert(value),
        };
    }
    // What the model stores as integers stays so: the engine that runs the segment knows how to compute with them.
    let stored = quantised.into_iter().filter_map(|value| graph.value(value).quantised.as_ref());
    for (i, stored) in (segment.nodes.len()..).zip(stored) {
        constants.extend(stored.node.uses());
        let site = || NodeSite::new(graph, &stored.node);
        proto.node.push(writer.node(&stored.node, i).map_err(|error| error.at(site))?);
    }
    for (i, &id) in segment.nodes.iter().enumerate() {
        let node = graph.node(id);
        proto.node.push(writer.node(node, i).map_err(|error| error.at(|| NodeSite::new(graph, node)))?);
    }
    let mut data = Vec::new();
    let mut end = 0u64;
    for value in constants {
        let Some(tensor) = &graph.value(value).constant else { continue };
        let mut initializer = tensor_proto(tensor);
        if !embeds(tensor) {
            initializer.raw_data = None;
            let offset = end.next_multiple_of(PAGE);
            refer(&mut initializer, offset, tensor.data.len());
            end = offset + tensor.data.len() as u64;
            data.push(DataPiece { value, offset, bytes: tensor.data.clone() });
        }
        initializer.name = Some(names[&value].clone());
        proto.initializer.push(initializer);
    }
    for (list, values) in [(&mut proto.input, &segment.inputs), (&mut proto.output, &segment.outputs)] {
        for id in values {
            list.push(value_info(&names[id], graph.value(*id).ty.as_ref()));
        }
    }
    let named = |ids: &[ValueId]| ids.iter().map(|&id| (id, names[&id].clone())).collect();
    let opset_import = writer.opset_imports();
    let model = ModelProto {
        ir_version: Some(graph.ir_version.max(OLDEST_WRITTEN_IR)),
        producer_name: Some("cordon".into()),
        graph: Some(proto),
        opset_import,
        ..Default::default()
    };
    Ok(ExportedModel {
        model: model.encode_to_vec(),
        location: ExportedModel::LOCATION.into(),
        data,
        inputs: named(&segment.inputs),
        outputs: named(&segment.outputs),
    })
}

/// The name of every value a segment touches.
fn value_names(graph: &Graph, segment: &Segment, policy: &NamePolicy) -> Result<HashMap<ValueId, String>, GraphError> {
    let used = segment.nodes.iter().flat_map(|&id| {
        let node = graph.node(id);
        node.uses().chain(node.outputs.iter().flatten().copied())
    });
    let stored = |id: ValueId| graph.value(id).quantised.iter().flat_map(|it| it.node.uses());
    let used = used.flat_map(|id| core::iter::once(id).chain(stored(id)));
    let values: BTreeSet<ValueId> = used.chain(segment.inputs.iter().chain(&segment.outputs).copied()).collect();
    let NamePolicy::Neutral(kept) = policy else {
        return Ok(values.into_iter().map(|id| (id, graph.value(id).name.clone())).collect());
    };
    let mut free = Names::default();
    let mut names = HashMap::new();
    for id in values.iter().filter(|id| kept.contains_key(id)) {
        let name = &kept[id];
        if name.is_empty() || free.fresh(name) != *name {
            return Err(GraphError::Misuse(format!("two values of a segment are to be called `{name}`")));
        }
        names.insert(*id, name.clone());
    }
    for (i, id) in values.into_iter().filter(|id| !kept.contains_key(id)).enumerate() {
        names.insert(id, free.fresh(&format!("v{i}")));
    }
    Ok(names)
}

struct Writer<'a> {
    graph: &'a Graph,
    names: &'a HashMap<ValueId, String>,
    policy: &'a NamePolicy,
    /// Names that subgraphs may not take.
    free: Names,
    /// Operator sets in use.
    opsets: BTreeSet<String>,
}

impl Writer<'_> {
    fn node(&mut self, node: &Node, index: usize) -> Result<NodeProto, GraphError> {
        let name = |id: &Option<ValueId>| id.map(|id| self.names[&id].clone()).unwrap_or_default();
        let mut proto = NodeProto {
            input: node.inputs.iter().map(name).collect(),
            output: node.outputs.iter().map(name).collect(),
            name: Some(match self.policy {
                NamePolicy::Original => node.name.clone(),
                NamePolicy::Neutral(_) => format!("n{index}"),
            }),
            op_type: Some(node.op_type.clone()),
            domain: (!node.domain.is_empty()).then(|| node.domain.clone()),
            ..Default::default()
        };
        self.opsets.insert(node.domain.clone());
        for (name, attribute) in &node.attributes {
            let attribute = self.attribute(node, name, attribute)?;
            proto.attribute.push(attribute);
        }
        Ok(proto)
    }

    fn attribute(&mut self, node: &Node, name: &str, attribute: &Attribute) -> Result<AttributeProto, GraphError> {
        let mut proto = AttributeProto { name: Some(name.to_owned()), ..Default::default() };
        let kind = match attribute {
            Attribute::Float(value) => {
                proto.f = Some(*value);
                AttributeType::Float
            }
            Attribute::Int(value) => {
                proto.i = Some(*value);
                AttributeType::Int
            }
            Attribute::String(value) => {
                proto.s = Some(value.clone());
                AttributeType::String
            }
            Attribute::Tensor(tensor) => {
                proto.t = Some(Box::new(tensor_proto(tensor)));
                AttributeType::Tensor
            }
            Attribute::Floats(values) => {
                proto.floats = values.clone();
                AttributeType::Floats
            }
            Attribute::Ints(values) => {
                proto.ints = values.clone();
                AttributeType::Ints
            }
            Attribute::Strings(values) => {
                proto.strings = values.clone();
                AttributeType::Strings
            }
            Attribute::Opaque(encoded) => {
                let mut proto = reopen(encoded)?;
                self.opaque(node, &mut proto);
                return Ok(proto);
            }
        };
        proto.r#type = Some(kind.into());
        Ok(proto)
    }

    /// Renames what a subgraph captures, and drops what no engine needs.
    fn opaque(&mut self, node: &Node, proto: &mut AttributeProto) {
        let outer = node.captures.iter().map(|&id| (self.graph.value(id).name.clone(), self.names[&id].clone()));
        let scope = Scope::new(outer.collect());
        let (free, neutral) = (&mut self.free, matches!(self.policy, NamePolicy::Neutral(_)));
        let mut fresh = |name: &str| free.fresh(if neutral { "s" } else { name });
        for graph in proto.graphs.iter_mut().chain(proto.g.as_deref_mut()) {
            rename::subgraph(graph, &scope, &mut fresh);
        }
        self.scrub(proto);
    }

    fn scrub(&mut self, proto: &mut AttributeProto) {
        proto.doc_string = None;
        let sparse = proto.sparse_tensors.iter_mut().chain(proto.sparse_tensor.as_deref_mut());
        let parts = sparse.flat_map(|sparse| sparse.values.iter_mut().chain(&mut sparse.indices));
        for tensor in proto.tensors.iter_mut().chain(proto.t.as_deref_mut()).chain(parts) {
            (tensor.name, tensor.doc_string) = (None, None);
            tensor.metadata_props.clear();
        }
        for graph in proto.graphs.iter_mut().chain(proto.g.as_deref_mut()) {
            self.scrub_graph(graph);
        }
    }

    fn scrub_graph(&mut self, graph: &mut GraphProto) {
        graph.doc_string = None;
        graph.metadata_props.clear();
        graph.value_info.clear();
        let neutral = matches!(self.policy, NamePolicy::Neutral(_));
        if neutral {
            graph.name = Some("subgraph".into());
        }
        for tensor in &mut graph.initializer {
            tensor.doc_string = None;
            tensor.metadata_props.clear();
        }
        for info in graph.input.iter_mut().chain(&mut graph.output) {
            info.doc_string = None;
            info.metadata_props.clear();
        }
        for (i, node) in graph.node.iter_mut().enumerate() {
            node.doc_string = None;
            node.metadata_props.clear();
            node.device_configurations.clear();
            if neutral {
                node.name = Some(format!("n{i}"));
            }
            self.opsets.insert(crate::functions::domain(node.domain()));
            for attribute in &mut node.attribute {
                self.scrub(attribute);
            }
        }
    }

    /// ONNX's own operator set always, others where used.
    fn opset_imports(&self) -> Vec<OperatorSetIdProto> {
        let wanted = self.graph.opsets.iter().filter(|(domain, _)| domain.is_empty() || self.opsets.contains(*domain));
        wanted
            .map(|(domain, &version)| OperatorSetIdProto { domain: Some(domain.clone()), version: Some(version) })
            .collect()
    }
}

fn embeds(tensor: &Tensor) -> bool {
    let bytes = tensor.data.len() as u64;
    match tensor.elem {
        ElemType::String => true,
        ElemType::Int64 | ElemType::Int32 => bytes < EMBED_INTEGERS_BELOW,
        _ => bytes < EMBED_BELOW,
    }
}

/// A tensor with its data inside and no name.
pub(crate) fn tensor_proto(tensor: &Tensor) -> TensorProto {
    let mut proto = TensorProto {
        dims: tensor.dims.iter().map(|&dim| dim as i64).collect(),
        data_type: Some(tensor.elem.code().into()),
        ..Default::default()
    };
    match tensor.elem {
        // The records were encoded by this crate, so they decode; the default would only lose a foreign tensor's text.
        ElemType::String => {
            proto.string_data = TensorProto::decode(tensor.data.clone()).unwrap_or_default().string_data;
        }
        _ => proto.raw_data = Some(tensor.data.clone()),
    }
    proto
}

fn refer(proto: &mut TensorProto, offset: u64, length: usize) {
    let entry = |key: &str, value: String| StringStringEntryProto { key: Some(key.into()), value: Some(value) };
    proto.data_location = Some(DataLocation::External.into());
    proto.external_data = vec![
        entry("location", ExportedModel::LOCATION.into()),
        entry("offset", offset.to_string()),
        entry("length", length.to_string()),
    ];
}

fn value_info(name: &str, ty: Option<&TensorType>) -> ValueInfoProto {
    let r#type = ty.map(|ty| {
        let dim = |&dim: &usize| Dimension { value: Some(dimension::Value::DimValue(dim as i64)), denotation: None };
        let shape = TensorShapeProto { dim: ty.dims.iter().map(dim).collect() };
        let tensor = type_proto::Tensor { elem_type: Some(ty.elem.code().into()), shape: Some(shape) };
        TypeProto { value: Some(type_proto::Value::TensorType(tensor)), denotation: None }
    });
    ValueInfoProto { name: Some(name.to_owned()), r#type, ..Default::default() }
}
