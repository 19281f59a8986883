//! Renaming values in encoded nodes, subgraphs included, and finding the names a subgraph takes from outside.

use crate::onnx::{GraphProto, NodeProto};
use std::collections::{HashMap, HashSet};

/// Old to new names, innermost graph first.
pub(crate) struct Scope<'a> {
    parent: Option<&'a Scope<'a>>,
    names: HashMap<String, String>,
}

impl<'a> Scope<'a> {
    pub(crate) fn new(names: HashMap<String, String>) -> Self {
        Self { parent: None, names }
    }

    /// The new name of `old`; names of no scope stay as they are, and so does the empty name of an omitted value.
    fn get<'s>(&'s self, old: &'s str) -> &'s str {
        match (self.names.get(old), self.parent) {
            _ if old.is_empty() => old,
            (Some(new), _) => new,
            (None, Some(parent)) => parent.get(old),
            (None, None) => old,
        }
    }

    fn apply(&self, name: &mut String) {
        let new = self.get(name);
        if new != name {
            *name = new.to_owned();
        }
    }
}

/// Renames the values of `nodes` as `scope` says; values that subgraphs define get names from `fresh`.
pub(crate) fn nodes(nodes: &mut [NodeProto], scope: &Scope<'_>, fresh: &mut dyn FnMut(&str) -> String) {
    for node in nodes {
        for name in node.input.iter_mut().chain(&mut node.output) {
            scope.apply(name);
        }
        for graph in subgraphs_mut(node) {
            subgraph(graph, scope, fresh);
        }
    }
}

/// Renames a subgraph's captures as `scope` says and its own values by `fresh`.
pub(crate) fn subgraph(graph: &mut GraphProto, scope: &Scope<'_>, fresh: &mut dyn FnMut(&str) -> String) {
    let names = defined(graph).map(|name| (name.to_owned(), fresh(name))).collect();
    within(graph, &Scope { parent: Some(scope), names }, fresh);
}

/// Renames everything in a subgraph whose own values `scope` already covers.
pub(crate) fn within(graph: &mut GraphProto, scope: &Scope<'_>, fresh: &mut dyn FnMut(&str) -> String) {
    for value in graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info) {
        scope.apply(value.name.get_or_insert_default());
    }
    let sparse = graph.sparse_initializer.iter_mut().flat_map(|sparse| &mut sparse.values);
    for tensor in graph.initializer.iter_mut().chain(sparse) {
        scope.apply(tensor.name.get_or_insert_default());
    }
    for annotation in &mut graph.quantization_annotation {
        scope.apply(annotation.tensor_name.get_or_insert_default());
    }
    nodes(&mut graph.node, scope, fresh);
}

/// Every value a graph defines itself: inputs, initializers, outputs of its nodes.
pub(crate) fn defined(graph: &GraphProto) -> impl Iterator<Item = &str> {
    let sparse = graph.sparse_initializer.iter().flat_map(|sparse| &sparse.values);
    let names = graph.input.iter().map(|value| value.name());
    let names = names.chain(graph.initializer.iter().chain(sparse).map(|tensor| tensor.name()));
    let names = names.chain(graph.node.iter().flat_map(|node| node.output.iter().map(String::as_str)));
    names.filter(|name| !name.is_empty())
}

/// Names a subgraph uses and does not define, in order of first use.
pub(crate) fn captures(graph: &GraphProto) -> Vec<String> {
    let mut found = Vec::new();
    collect(graph, &mut HashMap::new(), &mut HashSet::new(), &mut found);
    found
}

fn collect<'a>(
    graph: &'a GraphProto,
    inside: &mut HashMap<&'a str, usize>,
    seen: &mut HashSet<&'a str>,
    found: &mut Vec<String>,
) {
    for name in defined(graph) {
        *inside.entry(name).or_default() += 1;
    }
    let used = graph.node.iter().flat_map(|node| node.input.iter().map(String::as_str));
    let used = used.chain(graph.output.iter().map(|value| value.name()));
    for name in used.filter(|name| !name.is_empty()) {
        if inside.get(name).is_none_or(|&times| times == 0) && seen.insert(name) {
            found.push(name.to_owned());
        }
    }
    for nested in graph.node.iter().flat_map(subgraphs) {
        collect(nested, inside, seen, found);
    }
    for name in defined(graph) {
        if let Some(times) = inside.get_mut(name) {
            *times -= 1;
        }
    }
}

/// The graphs among a node's attributes.
pub(crate) fn subgraphs(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    node.attribute.iter().flat_map(|attribute| attribute.g.as_deref().into_iter().chain(&attribute.graphs))
}

/// The graphs among a node's attributes.
pub(crate) fn subgraphs_mut(node: &mut NodeProto) -> impl Iterator<Item = &mut GraphProto> {
    node.attribute.iter_mut().flat_map(|attribute| attribute.g.as_deref_mut().into_iter().chain(&mut attribute.graphs))
}

/// The part of a node's name that goes in front of the names it brings in: short, since it is copied many times.
pub(crate) fn prefix(name: &str) -> &str {
    &name[..name.floor_char_boundary(200)]
}

/// Hands out names no value has yet.
#[derive(Default)]
pub(crate) struct Names {
    taken: HashSet<String>,
    /// The number to try next after a wish that was taken.
    next: HashMap<String, u64>,
}

impl Names {
    pub(crate) fn take(&mut self, name: &str) {
        self.taken.insert(name.to_owned());
    }

    /// `wish`, or `wish_2`, `wish_3`…
    pub(crate) fn fresh(&mut self, wish: &str) -> String {
        if self.taken.insert(wish.to_owned()) {
            return wish.to_owned();
        }
        let number = self.next.entry(wish.to_owned()).or_insert(2);
        loop {
            let name = format!("{wish}_{number}");
            *number += 1;
            if self.taken.insert(name.clone()) {
                return name;
            }
        }
    }

    /// Takes every value name of a graph and its subgraphs.
    pub(crate) fn take_all(&mut self, graph: &GraphProto) {
        for name in defined(graph) {
            self.take(name);
        }
        for nested in graph.node.iter().flat_map(subgraphs) {
            self.take_all(nested);
        }
    }
}
