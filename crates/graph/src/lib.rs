//! ONNX ↔ `Graph`: reading, shapes, folding, cutting, writing.
#![forbid(unsafe_code)]

mod build;
mod constant;
mod control;
mod cost;
mod cut;
mod decode;
mod dequantise;
mod digest;
mod error;
mod export;
mod external;
mod fold;
mod functions;
mod import;
mod infer;
mod limits;
mod message;
mod model;
mod model_file;
#[doc(hidden)]
pub mod onnx;
mod rename;
mod scan;
mod shape;
mod tensor;
mod view;

pub use cordon_onnx_types::ElemType;
pub use cost::{macs, parameters};
pub use cut::{CutPoint, Segment, cut_table, segment};
pub use digest::digest;
pub use error::{Fault, GraphError, NodeSite};
pub use export::{DataPiece, ExportedModel, NamePolicy, PAGE, export};
pub use fold::{Evaluator, FoldReport, complete_shapes, fold};
pub use import::{IR_VERSIONS, ImportOptions, OPSETS, import, import_bytes, input_shapes};
pub use infer::infer;
pub use limits::Limits;
pub use message::{Declared, read_tensor, signature, write_tensor};
pub use model::{Attribute, Graph, Node, NodeId, Quantised, Value, ValueId};
pub use model_file::ModelFile;
pub use tensor::{Tensor, TensorError, TensorType};
pub use view::{NodeView, ShapeError, ShapeRule, ShapeRules};
