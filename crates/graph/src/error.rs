//! Why a model could not be read, typed, folded, cut or written.

use crate::model::{Graph, Node};
use crate::tensor::TensorError;
use cordon_fault::{Next, Place};
use core::fmt;
use std::io;
use std::path::PathBuf;

/// The node an error is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSite {
    /// Its name in the graph (generated when the file has none).
    pub name: String,
    /// Operator.
    pub op_type: String,
    /// Operator set; empty for ONNX's own.
    pub domain: String,
    /// Version of that operator set the model imports.
    pub opset: i64,
}

impl NodeSite {
    /// The site of `node`.
    pub fn new(graph: &Graph, node: &Node) -> Self {
        Self {
            name: node.name.clone(),
            op_type: node.op_type.clone(),
            domain: node.domain.clone(),
            opset: graph.opset_of(&node.domain),
        }
    }
}

impl fmt::Display for NodeSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node `{}` (", self.name)?;
        if !self.domain.is_empty() {
            write!(f, "{}.", self.domain)?;
        }
        write!(f, "{}, opset {})", self.op_type, self.opset)
    }
}

/// What is wrong, and at which node where one is to blame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong.
    pub what: String,
    /// The node to blame.
    pub node: Option<NodeSite>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.node {
            Some(node) => write!(f, "{node}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

/// Error of this crate.
#[derive(Debug)]
#[non_exhaustive]
pub enum GraphError {
    /// The model breaks ONNX's rules; it may be hostile.
    Malformed(Fault),
    /// Valid ONNX that Cordon does not handle.
    Unsupported(Fault),
    /// Larger than [`crate::Limits`] allow.
    Limit(Fault),
    /// A file could not be read.
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A folder or device where a model file belongs.
    NotAFile(PathBuf),
    /// Dimensions of inputs have no size, and none was given.
    OpenShape {
        /// The first such input.
        input: String,
        /// All of them, with their dimensions.
        inputs: String,
    },
    /// The caller asked for something that does not fit this model.
    Misuse(String),
    /// The owner's executor failed on a constant or shape computation.
    Executor(String),
}

impl GraphError {
    pub(crate) fn malformed(what: impl Into<String>) -> Self {
        Self::Malformed(Fault { what: what.into(), node: None })
    }

    pub(crate) fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported(Fault { what: what.into(), node: None })
    }

    pub(crate) fn limit(what: impl Into<String>) -> Self {
        Self::Limit(Fault { what: what.into(), node: None })
    }

    /// The same error, blamed on `node` unless one is named already.
    pub(crate) fn at(mut self, site: impl FnOnce() -> NodeSite) -> Self {
        if let Self::Malformed(fault) | Self::Unsupported(fault) | Self::Limit(fault) = &mut self
            && fault.node.is_none()
        {
            fault.node = Some(site());
        }
        self
    }
}

cordon_fault::faults! {
    GraphError;
    wraps {}
    entries {
        Self::Malformed(_) => "model-malformed", Hostile, Next::ExportAgain, "The model breaks ONNX's rules.";
        Self::Unsupported(_) => "model-unsupported", Unsupported, Next::ExportStandard,
            "Valid ONNX that this version does not handle.";
        Self::Limit(_) => "model-limit", Hostile, Next::ExportSmaller, "The model is larger than what is read.";
        Self::Io { .. } => "model-file", Resource, Next::CheckPath, "A file of the model could not be read.";
        Self::NotAFile(_) => "model-not-a-file", Misuse, Next::NameFile, "A folder or device where a model file belongs.";
        Self::OpenShape { .. } => "model-open-shape", Misuse, Next::BindShape { input: None },
            "Dimensions of inputs have no size, and none was given.";
        Self::Misuse(_) => "model-misuse", Misuse, Next::InspectModel, "What was asked for does not fit this model.";
        Self::Executor(_) => "model-folding", Resource, Next::OtherEngine,
            "The engine failed on a constant or on a computation of shapes.";
    }
    next { Self::OpenShape { input, .. } => Next::BindShape { input: Some(input) }; }
    place {
        Self::Malformed(fault) | Self::Unsupported(fault) | Self::Limit(fault) =>
            Place { node: fault.node.as_ref().map(|node| node.name.as_str()), ..Place::default() };
    }
}

impl From<TensorError> for GraphError {
    fn from(error: TensorError) -> Self {
        Self::malformed(error.to_string())
    }
}

impl fmt::Display for GraphError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(fault) => write!(f, "malformed model: {fault}"),
            Self::Unsupported(fault) => write!(f, "unsupported model: {fault}"),
            Self::Limit(fault) => write!(f, "model over a limit: {fault}"),
            Self::Io { path, error } => write!(f, "{}: {error}", path.display()),
            Self::NotAFile(path) => write!(f, "{} is not a file", path.display()),
            Self::OpenShape { inputs, .. } => write!(f, "dimensions without a size: {inputs}"),
            Self::Misuse(what) => f.write_str(what),
            Self::Executor(what) => write!(f, "the executor failed: {what}"),
        }
    }
}

impl core::error::Error for GraphError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Io { error, .. } => Some(error),
            _ => None,
        }
    }
}
