//! Inlining of `If` nodes whose condition is constant.

use crate::build::{Builder, reopen};
use crate::decode::Decoder;
use crate::error::{GraphError, NodeSite};
use crate::external::External;
use crate::limits::Limits;
use crate::model::{Attribute, Graph, Node};
use crate::onnx::GraphProto;
use crate::rename::{self, Names, Scope};
use core::mem;
use std::collections::{BTreeMap, HashMap};

/// Replaces every such `If` by the branch it takes, those the branch brings in included; returns how many.
pub(crate) fn inline_constant_ifs(graph: &mut Graph) -> Result<usize, GraphError> {
    let mut inlined = 0;
    while graph.nodes.iter().any(|node| condition(graph, node).is_some()) {
        let nodes = mem::take(&mut graph.nodes);
        let mut names = Names::default();
        for value in &graph.values {
            names.take(&value.name);
        }
        let mut builder = Builder::resume(mem::take(graph), &nodes);
        let mut done = Vec::with_capacity(nodes.len());
        for node in nodes {
            let Some(taken) = condition(&builder.graph, &node) else {
                done.push(node);
                continue;
            };
            let site = NodeSite::new(&builder.graph, &node);
            done.extend(branch(&mut builder, &mut names, &node, taken).map_err(|error| error.at(|| site))?);
            inlined += 1;
        }
        *graph = builder.graph;
        graph.nodes = done;
    }
    Ok(inlined)
}

/// The constant condition of an `If`.
fn condition(graph: &Graph, node: &Node) -> Option<bool> {
    if node.op_type != "If" || !node.domain.is_empty() {
        return None;
    }
    let condition = graph.value((*node.inputs.first()?)?).constant.as_ref()?.to_bool().ok()?;
    condition.first().copied()
}

/// The nodes of the branch taken, then one copy for each output of the `If`.
fn branch(builder: &mut Builder, names: &mut Names, node: &Node, taken: bool) -> Result<Vec<Node>, GraphError> {
    let name = if taken { "then_branch" } else { "else_branch" };
    let Some(Attribute::Opaque(encoded)) = node.attributes.get(name) else {
        return Err(GraphError::malformed(format!("it has no {name}")));
    };
    let mut graph = reopen(encoded)?.g.ok_or_else(|| GraphError::malformed(format!("its {name} is not a graph")))?;
    if !graph.input.is_empty() || graph.output.len() < node.outputs.len() || !graph.sparse_initializer.is_empty() {
        return Err(GraphError::malformed(format!("its {name} has inputs, lacks outputs or holds sparse constants")));
    }
    localise(&mut graph, names, rename::prefix(&node.name));
    // Sizes were checked, and data of other files taken in, when the attribute was read.
    let limits = Limits { tensor_bytes: u64::MAX, rank: usize::MAX, ..Limits::default() };
    let mut decoder = Decoder { external: External::new(None, &BTreeMap::new()), limits: &limits };
    for tensor in &graph.initializer {
        let constant = decoder.tensor(tensor)?;
        builder.define_constant(tensor.name(), constant)?;
    }
    let mut nodes = builder.nodes(graph.node, &mut decoder)?;
    for (info, to) in graph.output.iter().zip(&node.outputs) {
        let Some(to) = *to else { continue };
        let from = builder.by_name.get(info.name()).copied();
        let from = from.ok_or_else(|| {
            GraphError::malformed(format!("its {name} gives `{}`, which nothing defines", info.name()))
        })?;
        nodes.push(builder.identity(from, to));
    }
    Ok(nodes)
}

/// Gives what the branch defines names that are free in the main graph.
fn localise(graph: &mut GraphProto, names: &mut Names, prefix: &str) {
    let own: HashMap<String, String> = rename::defined(graph)
        .collect::<Vec<_>>()
        .into_iter()
        .map(|name| (name.to_owned(), names.fresh(&format!("{prefix}/{name}"))))
        .collect();
    rename::within(graph, &Scope::new(own), &mut |name| names.fresh(&format!("{prefix}/{name}")));
    for node in &mut graph.node {
        let inner = node.name.take().filter(|name| !name.is_empty());
        node.name = inner.map(|inner| format!("{prefix}/{inner}"));
    }
}
