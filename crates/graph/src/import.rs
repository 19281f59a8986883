//! Reading a model: limits, versions, functions, names, types of the public interface.

use crate::build::Builder;
use crate::control;
use crate::decode::Decoder;
use crate::error::GraphError;
use crate::external::External;
use crate::functions;
use crate::limits::Limits;
use crate::model::{Graph, ValueId};
use crate::onnx::{GraphProto, ModelProto, ValueInfoProto};
use crate::scan;
use crate::shape::{Symbols, declared};
use crate::tensor::TensorType;
use bytes::Bytes;
use prost::Message as _;
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::path::Path;

/// ONNX operator-set versions Cordon reads.
pub const OPSETS: core::ops::RangeInclusive<i64> = 7..=22;
/// ONNX file-format versions Cordon reads.
pub const IR_VERSIONS: core::ops::RangeInclusive<i64> = 3..=11;

/// How to read a model.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Extents per model input, for those with symbolic dimensions (`--shape`).
    pub shapes: BTreeMap<String, Vec<usize>>,
    /// Upper bounds.
    pub limits: Limits,
    /// External data already in memory, by location; other locations are files beside the model.
    pub data: BTreeMap<String, Bytes>,
}

/// Reads a model file. Tensor data stays in the mapped files.
pub fn import(path: &Path, options: &ImportOptions) -> Result<Graph, GraphError> {
    import_bytes(map(path)?, Some(directory(path)), options)
}

/// Maps a model file.
pub(crate) fn map(path: &Path) -> Result<Bytes, GraphError> {
    let io = |error| GraphError::Io { path: path.to_path_buf(), error };
    let file = File::open(path).map_err(io)?;
    if !file.metadata().map_err(io)?.is_file() {
        return Err(GraphError::NotAFile(path.to_owned()));
    }
    cordon_mapped::file(&file).map_err(io)
}

/// Where a model's external data lies.
pub(crate) fn directory(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

/// Reads a model from memory; external data is looked for below `base_dir`.
pub fn import_bytes(bytes: Bytes, base_dir: Option<&Path>, options: &ImportOptions) -> Result<Graph, GraphError> {
    let mut model = decode(bytes, &options.limits)?;
    if !IR_VERSIONS.contains(&model.ir_version()) {
        return Err(GraphError::unsupported(format!(
            "IR version {} (Cordon reads {} to {})",
            model.ir_version(),
            IR_VERSIONS.start(),
            IR_VERSIONS.end()
        )));
    }
    let mut opsets = opsets(&model)?;
    functions::inline(&mut model, &mut opsets, &options.limits)?;
    let proto = model.graph.take().ok_or_else(|| GraphError::malformed("the model has no graph"))?;
    if proto.node.len() > options.limits.nodes {
        return Err(GraphError::limit(format!("it has {} nodes", proto.node.len())));
    }
    let graph = Graph { ir_version: model.ir_version(), opsets, ..Graph::default() };
    let external = External::new(base_dir, &options.data);
    let mut decoder = Decoder { external, limits: &options.limits };
    let mut graph = main_graph(graph, proto, &mut decoder, options)?;
    control::inline_constant_ifs(&mut graph)?;
    graph.remove_dead_nodes();
    Ok(graph)
}

/// Decodes within limits; data fields are views of `bytes`.
pub(crate) fn decode(bytes: Bytes, limits: &Limits) -> Result<ModelProto, GraphError> {
    if bytes.is_empty() {
        return Err(GraphError::malformed("the file is empty"));
    }
    scan::model(&bytes, limits.structure_bytes)?;
    ModelProto::decode(bytes).map_err(|error| GraphError::malformed(format!("not an ONNX model: {error}")))
}

fn opsets(model: &ModelProto) -> Result<BTreeMap<String, i64>, GraphError> {
    let mut opsets = BTreeMap::new();
    for import in &model.opset_import {
        let domain = functions::domain(import.domain());
        let version = import.version();
        if opsets.insert(domain.clone(), version).is_some_and(|before| before != version) {
            return Err(GraphError::malformed(format!("two versions of operator set `{domain}` are imported")));
        }
    }
    match opsets.get("") {
        None => Err(GraphError::malformed("the model imports no version of ONNX's operator set")),
        Some(version) if !OPSETS.contains(version) => Err(GraphError::unsupported(format!(
            "opset {version} (Cordon reads {} to {})",
            OPSETS.start(),
            OPSETS.end()
        ))),
        Some(_) => Ok(opsets),
    }
}

fn main_graph(
    graph: Graph,
    proto: GraphProto,
    decoder: &mut Decoder<'_>,
    options: &ImportOptions,
) -> Result<Graph, GraphError> {
    let mut builder = Builder::resume(graph, &[]);
    if let Some(sparse) = proto.sparse_initializer.first() {
        let name = sparse.values.as_ref().map(|values| values.name()).unwrap_or_default();
        return Err(GraphError::unsupported(format!("sparse initializer `{name}`")));
    }
    for tensor in &proto.initializer {
        let constant = decoder.tensor(tensor)?;
        builder.define_constant(tensor.name(), constant)?;
    }
    let constants = builder.graph.values.len();
    let inputs = inputs(&mut builder, &proto.input, constants)?;
    let mut symbols = Symbols::default();
    let types = symbols.bind(&inputs, &options.shapes, &options.limits)?;
    for ((info, id), ty) in inputs.iter().zip(types) {
        debug_assert_eq!(info.name(), builder.graph.value(*id).name);
        builder.graph.set_type(*id, ty);
        builder.graph.inputs.push(*id);
    }
    let nodes = builder.nodes(proto.node, decoder)?;
    builder.graph.nodes = nodes;
    outputs(&mut builder, &proto.output)?;
    for info in proto.value_info.iter().chain(&proto.output) {
        if let (Some(id), Some(ty)) = (builder.by_name.get(info.name()), declared(info, &symbols, &options.limits)) {
            let value = &mut builder.graph.values[id.0 as usize];
            value.declared = value.ty.is_none().then_some(ty);
        }
    }
    Ok(builder.graph)
}

/// Defines the inputs that are not initializers: an initializer listed as an input is a constant with a default nobody
/// may override.
fn inputs<'p>(
    builder: &mut Builder,
    protos: &'p [ValueInfoProto],
    constants: usize,
) -> Result<Vec<(&'p ValueInfoProto, ValueId)>, GraphError> {
    let mut inputs = Vec::new();
    let mut seen = HashSet::new();
    for info in protos {
        if !seen.insert(info.name()) {
            return Err(GraphError::malformed(format!("input `{}` is listed twice", info.name())));
        }
        match builder.by_name.get(info.name()) {
            Some(id) if (id.0 as usize) < constants => {}
            _ => inputs.push((info, builder.define(info.name())?)),
        }
    }
    Ok(inputs)
}

/// Resolves the outputs; one that no node computes gets an `Identity`, so that every output belongs to some segment.
fn outputs(builder: &mut Builder, protos: &[ValueInfoProto]) -> Result<(), GraphError> {
    if protos.is_empty() {
        return Err(GraphError::malformed("the model has no outputs"));
    }
    let made = builder.graph.makers();
    for info in protos {
        let name = info.name();
        let id = *builder
            .by_name
            .get(name)
            .ok_or_else(|| GraphError::malformed(format!("nothing computes the output `{name}`")))?;
        if builder.graph.outputs.contains(&id) {
            return Err(GraphError::malformed(format!("output `{name}` is listed twice")));
        }
        if builder.graph.inputs.contains(&id) {
            return Err(GraphError::unsupported(format!("output `{name}` is an input of the model")));
        }
        if !made.contains_key(&id) {
            builder.copy_to_output(id)?;
        } else {
            builder.graph.outputs.push(id);
        }
    }
    Ok(())
}

impl Builder {
    /// Moves a constant that is an output to another name and computes the output from it.
    fn copy_to_output(&mut self, constant: ValueId) -> Result<(), GraphError> {
        let name = self.graph.value(constant).name.clone();
        let mut moved = format!("{name}_constant");
        while self.by_name.contains_key(&moved) {
            moved.push('_');
        }
        self.by_name.remove(&name);
        self.by_name.insert(moved.clone(), constant);
        self.graph.values[constant.0 as usize].name = moved;
        let output = self.define(&name)?;
        if let Some(ty) = self.graph.value(constant).ty.clone() {
            self.graph.set_type(output, ty);
        }
        let copy = self.identity(constant, output);
        self.graph.nodes.push(copy);
        self.graph.outputs.push(output);
        Ok(())
    }
}

/// The public interface of a model before any dimension is bound: for messages and for asking what to bind.
pub fn input_shapes(path: &Path, limits: &Limits) -> Result<Vec<(String, String)>, GraphError> {
    let model = decode(map(path)?, limits)?;
    let graph = model.graph.unwrap_or_default();
    let constants: HashSet<&str> = graph.initializer.iter().map(|tensor| tensor.name()).collect();
    let inputs = graph.input.iter().filter(|info| !constants.contains(info.name()));
    Ok(inputs.map(|info| (info.name().to_owned(), crate::shape::describe(info))).collect())
}

/// A type whose data a [`crate::Tensor`] can hold within `limits`.
pub(crate) fn check_size(ty: &TensorType, limits: &Limits) -> Result<(), GraphError> {
    match ty.bytes() <= limits.tensor_bytes && ty.dims.len() <= limits.rank {
        true => Ok(()),
        false => Err(GraphError::limit(format!("a value of type {ty} is too large"))),
    }
}
