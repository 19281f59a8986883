//! Tiny models built from the ONNX types themselves.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use cordon_graph::onnx::attribute_proto::AttributeType;
use cordon_graph::onnx::tensor_shape_proto::{Dimension, dimension};
use cordon_graph::onnx::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use cordon_graph::{
    Graph, GraphError, ImportOptions, NodeView, ShapeError, ShapeRule, ShapeRules, TensorType, import_bytes,
};
use prost::Message as _;

/// One dimension of a declared shape.
pub(crate) enum Dim {
    Is(i64),
    Named(&'static str),
    Open,
}

pub(crate) fn fixed(dims: &[i64]) -> Vec<Dim> {
    dims.iter().map(|&dim| Dim::Is(dim)).collect()
}

pub(crate) fn info(name: &str, elem: i32, dims: Vec<Dim>) -> ValueInfoProto {
    let dim = |dim| Dimension {
        value: match dim {
            Dim::Is(size) => Some(dimension::Value::DimValue(size)),
            Dim::Named(name) => Some(dimension::Value::DimParam(name.into())),
            Dim::Open => None,
        },
        denotation: None,
    };
    let shape = TensorShapeProto { dim: dims.into_iter().map(dim).collect() };
    let tensor = type_proto::Tensor { elem_type: Some(elem), shape: Some(shape) };
    let ty = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), denotation: None };
    ValueInfoProto { name: Some(name.into()), r#type: Some(ty), ..Default::default() }
}

pub(crate) fn untyped(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: Some(name.into()), ..Default::default() }
}

pub(crate) fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto {
        op_type: Some(op.into()),
        input: inputs.iter().map(|&name| name.into()).collect(),
        output: outputs.iter().map(|&name| name.into()).collect(),
        ..Default::default()
    }
}

/// Adders of attributes and names.
pub(crate) trait Dress: Sized {
    fn dress(self, change: impl FnOnce(&mut NodeProto)) -> Self;

    fn named(self, name: &str) -> Self {
        self.dress(|node| node.name = Some(name.into()))
    }

    fn domain(self, domain: &str) -> Self {
        self.dress(|node| node.domain = Some(domain.into()))
    }

    fn with(self, attribute: AttributeProto) -> Self {
        self.dress(|node| node.attribute.push(attribute))
    }
}

impl Dress for NodeProto {
    fn dress(mut self, change: impl FnOnce(&mut NodeProto)) -> Self {
        change(&mut self);
        self
    }
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.into()), r#type: Some(kind.into()), ..Default::default() }
}

pub(crate) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: Some(value), ..attribute(name, AttributeType::Int) }
}

pub(crate) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { ints: values.to_vec(), ..attribute(name, AttributeType::Ints) }
}

pub(crate) fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { f: Some(value), ..attribute(name, AttributeType::Float) }
}

pub(crate) fn tensor(name: &str, value: TensorProto) -> AttributeProto {
    AttributeProto { t: Some(Box::new(value)), ..attribute(name, AttributeType::Tensor) }
}

pub(crate) fn subgraph(name: &str, value: GraphProto) -> AttributeProto {
    AttributeProto { g: Some(Box::new(value)), ..attribute(name, AttributeType::Graph) }
}

pub(crate) fn reference(name: &str, of: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { ref_attr_name: Some(of.into()), ..attribute(name, kind) }
}

pub(crate) fn f32s(name: &str, dims: &[i64], data: &[f32]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        data_type: Some(1),
        dims: dims.to_vec(),
        raw_data: Some(Bytes::from(data.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())),
        ..Default::default()
    }
}

pub(crate) fn i64s(name: &str, dims: &[i64], data: &[i64]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        data_type: Some(7),
        dims: dims.to_vec(),
        raw_data: Some(Bytes::from(data.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())),
        ..Default::default()
    }
}

pub(crate) fn bools(name: &str, data: &[u8]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        data_type: Some(9),
        dims: if data.len() == 1 { vec![] } else { vec![data.len() as i64] },
        raw_data: Some(Bytes::from(data.to_vec())),
        ..Default::default()
    }
}

pub(crate) fn opset(domain: &str, version: i64) -> OperatorSetIdProto {
    OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) }
}

/// A model with one float input `x` of extents `[2, 3]` and the given output names.
pub(crate) fn model(nodes: Vec<NodeProto>, initializers: Vec<TensorProto>, outputs: &[&str]) -> ModelProto {
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![opset("", 17), opset("local", 1), opset("foreign", 3)],
        graph: Some(GraphProto {
            node: nodes,
            initializer: initializers,
            input: vec![info("x", 1, fixed(&[2, 3]))],
            output: outputs.iter().map(|name| untyped(name)).collect(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub(crate) fn function(name: &str, inputs: &[&str], outputs: &[&str], nodes: Vec<NodeProto>) -> FunctionProto {
    FunctionProto {
        name: Some(name.into()),
        domain: Some("local".into()),
        input: inputs.iter().map(|&name| name.into()).collect(),
        output: outputs.iter().map(|&name| name.into()).collect(),
        node: nodes,
        opset_import: vec![opset("", 17), opset("local", 1)],
        ..Default::default()
    }
}

pub(crate) fn branch(nodes: Vec<NodeProto>, initializers: Vec<TensorProto>, outputs: &[&str]) -> GraphProto {
    GraphProto {
        name: Some("branch".into()),
        node: nodes,
        initializer: initializers,
        output: outputs.iter().map(|name| untyped(name)).collect(),
        ..Default::default()
    }
}

pub(crate) fn read(model: &ModelProto) -> Result<Graph, GraphError> {
    read_with(model, &ImportOptions::default())
}

pub(crate) fn read_with(model: &ModelProto, options: &ImportOptions) -> Result<Graph, GraphError> {
    import_bytes(Bytes::from(model.encode_to_vec()), None, options)
}

/// `op_type(inputs) -> outputs`, one a line.
pub(crate) fn listing(graph: &Graph) -> Vec<String> {
    let name = |id: &Option<_>| id.map_or("_".into(), |id| graph.value(id).name.clone());
    let line = |node: &cordon_graph::Node| {
        let inputs: Vec<String> = node.inputs.iter().map(name).collect();
        let outputs: Vec<String> = node.outputs.iter().map(name).collect();
        format!("{}({}) -> {}", node.op_type, inputs.join(", "), outputs.join(", "))
    };
    graph.nodes.iter().map(line).collect()
}

/// Rules for a few operators: enough to see the driver work.
pub(crate) struct Rules;

impl ShapeRules for Rules {
    fn rule(&self, domain: &str, op_type: &str, _: i64) -> Option<ShapeRule> {
        fn same(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
            Ok(vec![view.input(0)?.clone()])
        }
        fn add(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
            let (a, b) = (view.input(0)?, view.input(1)?);
            match a.dims == b.dims || a.dims.ends_with(&b.dims) || b.dims == [1] {
                true => Ok(vec![a.clone()]),
                false => Err("operands do not match".into()),
            }
        }
        fn reshape(view: &NodeView<'_>) -> Result<Vec<TensorType>, ShapeError> {
            let wanted = view.const_i64(1)?.ok_or("no shape")?;
            let dims: Vec<usize> = wanted.iter().map(|&dim| dim as usize).collect();
            Ok(vec![TensorType::new(view.input(0)?.elem, dims)])
        }
        match (domain, op_type) {
            ("", "Relu" | "Identity" | "Sigmoid") => Some(same),
            ("", "Add" | "Mul") => Some(add),
            ("", "Reshape") => Some(reshape),
            _ => None,
        }
    }
}
