//! Inlining of model-local functions, on the encoded form: afterwards no node, at whatever depth, calls one.

use crate::error::{GraphError, NodeSite};
use crate::limits::Limits;
use crate::onnx::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto};
use crate::rename::{self, Names, Scope};
use core::mem;
use std::collections::{BTreeMap, HashMap};

/// Domain, name, overload.
type Key = (String, String, String);

/// Replaces every call by the function's body.
pub(crate) fn inline(
    model: &mut ModelProto,
    opsets: &mut BTreeMap<String, i64>,
    limits: &Limits,
) -> Result<(), GraphError> {
    let mut functions = HashMap::new();
    for function in mem::take(&mut model.functions) {
        let key = (domain(function.domain()), function.name().to_owned(), function.overload().to_owned());
        if functions.insert(key.clone(), function).is_some() {
            return Err(GraphError::malformed(format!("function `{}.{}` is defined twice", key.0, key.1)));
        }
    }
    let Some(graph) = model.graph.as_mut() else { return Ok(()) };
    if functions.is_empty() {
        return Ok(());
    }
    let mut names = Names::default();
    names.take_all(graph);
    let mut inliner = Inliner {
        functions: &functions,
        names,
        opsets,
        limits,
        made: 0,
        left: limits.structure_bytes,
        stack: Vec::new(),
    };
    inliner.graph(graph, 0)
}

/// ONNX's own domain has two spellings.
pub(crate) fn domain(name: &str) -> String {
    match name {
        "ai.onnx" => String::new(),
        other => other.to_owned(),
    }
}

struct Inliner<'a> {
    functions: &'a HashMap<Key, FunctionProto>,
    names: Names,
    opsets: &'a mut BTreeMap<String, i64>,
    limits: &'a Limits,
    made: usize,
    /// Memory that bodies may still take.
    left: u64,
    /// The calls around the node at hand.
    stack: Vec<&'a Key>,
}

impl<'a> Inliner<'a> {
    fn graph(&mut self, graph: &mut GraphProto, depth: usize) -> Result<(), GraphError> {
        let mut done = Vec::with_capacity(graph.node.len());
        self.nodes(mem::take(&mut graph.node), depth, &mut done)?;
        graph.node = done;
        Ok(())
    }

    fn nodes(&mut self, nodes: Vec<NodeProto>, depth: usize, done: &mut Vec<NodeProto>) -> Result<(), GraphError> {
        if depth > self.limits.graph_depth {
            return Err(GraphError::limit(format!("subgraphs are nested more than {} deep", self.limits.graph_depth)));
        }
        for mut node in nodes {
            let key = (domain(node.domain()), node.op_type().to_owned(), node.overload().to_owned());
            match self.functions.get_key_value(&key) {
                Some((key, function)) => {
                    let site = NodeSite {
                        name: node.name().to_owned(),
                        op_type: key.1.clone(),
                        domain: key.0.clone(),
                        opset: self.opsets.get(&key.0).copied().unwrap_or(1),
                    };
                    self.call(key, function, node, depth, done).map_err(|error| error.at(|| site))?;
                }
                None => {
                    self.made += 1;
                    if self.made > self.limits.nodes {
                        return Err(GraphError::limit(format!(
                            "more than {} nodes once functions are inlined",
                            self.limits.nodes
                        )));
                    }
                    for graph in rename::subgraphs_mut(&mut node) {
                        self.graph(graph, depth + 1)?;
                    }
                    done.push(node);
                }
            }
        }
        Ok(())
    }

    fn call(
        &mut self,
        key: &'a Key,
        function: &'a FunctionProto,
        call: NodeProto,
        depth: usize,
        done: &mut Vec<NodeProto>,
    ) -> Result<(), GraphError> {
        if self.stack.contains(&key) {
            return Err(GraphError::malformed("the function calls itself"));
        }
        if self.stack.len() >= self.limits.call_depth {
            return Err(GraphError::limit(format!("functions are nested more than {} deep", self.limits.call_depth)));
        }
        self.check_opsets(function)?;
        if call.input.len() > function.input.len() || call.output.len() > function.output.len() {
            return Err(GraphError::malformed("the call has more inputs or outputs than the function"));
        }
        let mut body = self.body(function, &call)?;
        let cost = body.iter().map(weight).fold(0, u64::saturating_add);
        self.left = self.left.checked_sub(cost).ok_or_else(|| {
            GraphError::limit(format!("functions take more than {} bytes once inlined", self.limits.structure_bytes))
        })?;
        self.stack.push(key);
        self.nodes(mem::take(&mut body), depth, done)?;
        self.stack.pop();
        Ok(())
    }

    /// The function's nodes with this call's values, attributes and names in place of the formal ones.
    fn body(&mut self, function: &FunctionProto, call: &NodeProto) -> Result<Vec<NodeProto>, GraphError> {
        let prefix = rename::prefix(match call.name() {
            "" => call.op_type(),
            name => name,
        });
        let mut values = HashMap::new();
        for (i, formal) in function.input.iter().enumerate() {
            let actual = call.input.get(i).cloned().unwrap_or_default();
            if values.insert(formal.clone(), actual).is_some() {
                return Err(GraphError::malformed(format!("function input `{formal}` is declared twice")));
            }
        }
        let mut passed = Vec::new();
        for (i, formal) in function.output.iter().enumerate() {
            let actual = match call.output.get(i).filter(|name| !name.is_empty()) {
                Some(name) => name.clone(),
                None => self.names.fresh(&format!("{prefix}/{formal}")),
            };
            match values.get(formal) {
                Some(input) => passed.push((input.clone(), actual)),
                None => {
                    values.insert(formal.clone(), actual);
                }
            }
        }
        let mut nodes = function.node.clone();
        for name in nodes.iter().flat_map(|node| &node.output).filter(|name| !name.is_empty()) {
            if function.input.contains(name) {
                return Err(GraphError::malformed(format!("the function computes its own input `{name}`")));
            }
            if !values.contains_key(name) {
                values.insert(name.clone(), self.names.fresh(&format!("{prefix}/{name}")));
            }
        }
        for (i, node) in nodes.iter_mut().enumerate() {
            bind_attributes(node, function, call)?;
            let inner = match node.name() {
                "" => format!("{}_{i}", node.op_type()),
                name => name.to_owned(),
            };
            node.name = Some(format!("{prefix}/{inner}"));
        }
        if let Some(name) = undefined(&nodes, &values) {
            return Err(GraphError::malformed(format!("the function uses `{name}`, which nothing defines")));
        }
        let scope = Scope::new(values);
        let names = &mut self.names;
        rename::nodes(&mut nodes, &scope, &mut |name| names.fresh(&format!("{prefix}/{name}")));
        nodes.extend(passed.into_iter().map(|(input, output)| NodeProto {
            name: Some(format!("{prefix}/Identity")),
            op_type: Some("Identity".into()),
            input: vec![input],
            output: vec![output],
            ..Default::default()
        }));
        Ok(nodes)
    }

    /// A body means its nodes in its own operator sets; inlining is right only where they are the model's.
    fn check_opsets(&mut self, function: &FunctionProto) -> Result<(), GraphError> {
        for import in &function.opset_import {
            let name = domain(import.domain());
            let version = import.version();
            match self.opsets.get(&name) {
                None => {
                    self.opsets.insert(name, version);
                }
                Some(&model) if model != version => {
                    return Err(GraphError::unsupported(format!(
                        "the function is written for opset {version} of `{name}`, the model for {model}"
                    )));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

/// Memory of a node apart from tensor data, which copies share.
fn weight(node: &NodeProto) -> u64 {
    let names = node.input.iter().chain(&node.output).chain(&node.name);
    let own = size_of::<NodeProto>() + names.map(|name| name.len() + size_of::<String>()).sum::<usize>();
    let attributes = node.attribute.iter().map(|attribute| {
        let lists = attribute.ints.len() * 8 + attribute.floats.len() * 4 + attribute.strings.len() * 32;
        (size_of::<AttributeProto>() + size_of::<TensorProto>() + lists) as u64
    });
    let graphs = rename::subgraphs(node).flat_map(|graph| &graph.node).map(weight);
    attributes.chain(graphs).fold(own as u64, u64::saturating_add)
}

/// A name the body takes from nowhere: a function sees nothing of the graph around its call.
fn undefined<'n>(nodes: &'n [NodeProto], values: &HashMap<String, String>) -> Option<&'n str> {
    let used = nodes.iter().flat_map(|node| &node.input).map(String::as_str);
    used.filter(|name| !name.is_empty()).find(|&name| !values.contains_key(name))
}

/// Replaces attribute references by the call's attributes or the function's defaults, in subgraphs too.
fn bind_attributes(node: &mut NodeProto, function: &FunctionProto, call: &NodeProto) -> Result<(), GraphError> {
    let mut bound: Vec<AttributeProto> = Vec::with_capacity(node.attribute.len());
    for attribute in mem::take(&mut node.attribute) {
        if attribute.ref_attr_name().is_empty() {
            bound.push(attribute);
            continue;
        }
        let wanted = attribute.ref_attr_name();
        let given = call.attribute.iter().chain(&function.attribute_proto).find(|given| given.name() == wanted);
        if let Some(given) = given {
            bound.push(AttributeProto { name: attribute.name.clone(), ..given.clone() });
        } else if !function.attribute.iter().any(|name| name == wanted) {
            return Err(GraphError::malformed(format!("the function has no attribute `{wanted}`")));
        }
    }
    node.attribute = bound;
    for graph in rename::subgraphs_mut(node) {
        for inner in &mut graph.node {
            bind_attributes(inner, function, call)?;
        }
    }
    Ok(())
}
