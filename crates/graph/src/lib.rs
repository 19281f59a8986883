//! ONNX ↔ `Graph`: reading, shapes, folding, cutting, writing.
#![forbid(unsafe_code)]

mod cut;
mod error;
mod model;
#[doc(hidden)]
pub mod onnx;
mod tensor;
mod view;

pub use cut::{CutPoint, Segment, cut_table, segment};
pub use error::{Fault, GraphError, NodeSite};
pub use model::{Attribute, ElemType, Graph, Node, NodeId, Tensor, TensorType, Value, ValueId};
pub use view::{NodeView, ShapeError, ShapeRule, ShapeRules};
