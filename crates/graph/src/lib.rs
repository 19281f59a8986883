//! ONNX ↔ `Graph`: reading, shapes, folding, cutting, writing.
#![forbid(unsafe_code)]

mod model;

pub use model::{Attribute, ElemType, Graph, Node, NodeId, Tensor, TensorType, Value, ValueId};
