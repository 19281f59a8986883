//! What a shape rule or a lowering sees of a node: its typed inputs, constants and attributes.

use crate::error::NodeSite;
use crate::model::{Attribute, Graph, Node, ValueId};
use crate::tensor::{Tensor, TensorError, TensorType};

/// A node within its graph.
#[derive(Clone, Copy)]
pub struct NodeView<'a> {
    /// The graph.
    pub graph: &'a Graph,
    /// The node.
    pub node: &'a Node,
}

/// Why a shape rule has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShapeError {
    /// The node breaks its operator's rules.
    Invalid(String),
    /// The shape depends on data or on something this rule does not know; an executor may still tell.
    Unknown(String),
}

impl From<String> for ShapeError {
    fn from(what: String) -> Self {
        Self::Invalid(what)
    }
}

impl From<TensorError> for ShapeError {
    fn from(error: TensorError) -> Self {
        String::from(error).into()
    }
}

impl From<&str> for ShapeError {
    fn from(what: &str) -> Self {
        Self::Invalid(what.into())
    }
}

impl core::fmt::Display for ShapeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Invalid(what) | Self::Unknown(what) => f.write_str(what),
        }
    }
}

/// Types of a node's outputs by position, one for each output the node has. It is called only when every present input
/// is typed.
pub type ShapeRule = fn(&NodeView<'_>) -> Result<Vec<TensorType>, ShapeError>;

/// The operators whose shapes are known without running them.
pub trait ShapeRules {
    /// The rule of an operator, where there is one.
    fn rule(&self, domain: &str, op_type: &str, opset: i64) -> Option<ShapeRule>;
}

impl<'a> NodeView<'a> {
    /// A view of `node`.
    pub fn new(graph: &'a Graph, node: &'a Node) -> Self {
        Self { graph, node }
    }

    /// Version of the operator set the node belongs to.
    pub fn opset(&self) -> i64 {
        self.graph.opset_of(&self.node.domain)
    }

    /// Name, operator and opset for an error.
    pub fn site(&self) -> NodeSite {
        NodeSite::new(self.graph, self.node)
    }

    /// Number of outputs, named or not.
    pub fn outputs(&self) -> usize {
        self.node.outputs.len()
    }

    /// Number of input positions, given or omitted.
    pub fn inputs(&self) -> usize {
        self.node.inputs.len()
    }

    /// The value at input `i`, unless omitted.
    pub fn input_id(&self, i: usize) -> Option<ValueId> {
        self.node.inputs.get(i).copied().flatten()
    }

    /// Type of input `i`, unless omitted or not known.
    pub fn input_type(&self, i: usize) -> Option<&'a TensorType> {
        self.graph.value(self.input_id(i)?).ty.as_ref()
    }

    /// Type of input `i`, which the operator demands.
    pub fn input(&self, i: usize) -> Result<&'a TensorType, String> {
        self.input_type(i).ok_or_else(|| match self.input_id(i) {
            None => format!("input {i} is missing"),
            Some(id) => format!("the shape of input {i} (`{}`) is not known", self.graph.value(id).name),
        })
    }

    /// Constant data of input `i`, if it has any.
    pub fn input_const(&self, i: usize) -> Option<&'a Tensor> {
        self.graph.value(self.input_id(i)?).constant.as_ref()
    }

    /// Constant integers (int64 or int32) of input `i`; `None` when omitted, not constant or of another type.
    pub fn input_const_i64(&self, i: usize) -> Option<Vec<i64>> {
        self.input_const(i)?.to_i64().ok()
    }

    /// Constant integers of input `i`: `Ok(None)` when omitted, [`ShapeError::Unknown`] when computed at run time.
    pub fn const_i64(&self, i: usize) -> Result<Option<Vec<i64>>, ShapeError> {
        let Some(id) = self.input_id(i) else { return Ok(None) };
        let value = self.graph.value(id);
        match &value.constant {
            Some(tensor) => Ok(Some(tensor.to_i64().map_err(|e| format!("input {i} (`{}`): {e}", value.name))?)),
            None => Err(ShapeError::Unknown(format!("input {i} (`{}`) is computed at run time", value.name))),
        }
    }

    /// An attribute, if present.
    pub fn attribute(&self, name: &str) -> Option<&'a Attribute> {
        self.node.attributes.get(name)
    }

    /// An `INT` attribute.
    pub fn attr_int(&self, name: &str) -> Result<Option<i64>, String> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Int(value)) => Ok(Some(*value)),
            Some(_) => Err(wrong_kind(name, "INT")),
        }
    }

    /// An `INT` attribute with its default.
    pub fn attr_int_or(&self, name: &str, default: i64) -> Result<i64, String> {
        Ok(self.attr_int(name)?.unwrap_or(default))
    }

    /// An `INTS` attribute.
    pub fn attr_ints(&self, name: &str) -> Result<Option<&'a [i64]>, String> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Ints(values)) => Ok(Some(values)),
            Some(_) => Err(wrong_kind(name, "INTS")),
        }
    }

    /// A `FLOAT` attribute.
    pub fn attr_float(&self, name: &str) -> Result<Option<f32>, String> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Float(value)) => Ok(Some(*value)),
            Some(_) => Err(wrong_kind(name, "FLOAT")),
        }
    }

    /// A `FLOAT` attribute with its default.
    pub fn attr_float_or(&self, name: &str, default: f32) -> Result<f32, String> {
        Ok(self.attr_float(name)?.unwrap_or(default))
    }

    /// A `FLOATS` attribute.
    pub fn attr_floats(&self, name: &str) -> Result<Option<&'a [f32]>, String> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Floats(values)) => Ok(Some(values)),
            Some(_) => Err(wrong_kind(name, "FLOATS")),
        }
    }

    /// A `STRING` attribute with its default.
    pub fn attr_string_or<'s>(&self, name: &str, default: &'s str) -> Result<&'s str, String>
    where
        'a: 's,
    {
        match self.attribute(name) {
            None => Ok(default),
            Some(Attribute::String(bytes)) => {
                core::str::from_utf8(bytes).map_err(|_| format!("attribute `{name}` is not UTF-8"))
            }
            Some(_) => Err(wrong_kind(name, "STRING")),
        }
    }

    /// A `TENSOR` attribute.
    pub fn attr_tensor(&self, name: &str) -> Result<Option<&'a Tensor>, String> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Tensor(tensor)) => Ok(Some(tensor)),
            Some(_) => Err(wrong_kind(name, "TENSOR")),
        }
    }
}

fn wrong_kind(name: &str, want: &str) -> String {
    format!("attribute `{name}` is not of type {want}")
}
