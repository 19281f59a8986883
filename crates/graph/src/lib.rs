//! ONNX ↔ `Graph`: reading, shapes, folding, cutting, writing.
#![forbid(unsafe_code)]

mod build;
mod control;
mod cut;
mod decode;
mod error;
mod external;
mod functions;
mod import;
mod limits;
mod model;
#[doc(hidden)]
pub mod onnx;
mod rename;
mod scan;
mod shape;
mod tensor;
mod view;

pub use cut::{CutPoint, Segment, cut_table, segment};
pub use error::{Fault, GraphError, NodeSite};
pub use import::{IR_VERSIONS, ImportOptions, OPSETS, import, import_bytes, input_shapes};
pub use limits::Limits;
pub use model::{Attribute, ElemType, Graph, Node, NodeId, Tensor, TensorType, Value, ValueId};
pub use view::{NodeView, ShapeError, ShapeRule, ShapeRules};
