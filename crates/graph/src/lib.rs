//! ONNX ↔ [`Graph`]: a model whose names are indices and whose values are typed and shaped, and back to ONNX.
//!
//! | step | function | what |
//! |---|---|---|
//! | import | [`import()`], [`import_bytes`] | reads a model within [`Limits`]: local functions and constant `If`s inlined, tensor data left in the mapped files |
//! | infer | [`infer()`] | types and shapes of values, by the [`ShapeRules`] that the caller brings |
//! | complete | [`complete_shapes`] | what no rule knows, by running the model once in an [`Evaluator`] |
//! | fold | [`fold()`] | nodes of constants become constants; weights stored as integers remember their scales |
//! | cut | [`cut_table`], [`segment`] | what crosses at each position; a set of nodes with the values that enter and leave it |
//! | export | [`export()`] | a segment as an ordinary ONNX model and its data file, page-aligned |
//!
//! A file may be hostile: every size is checked before memory is taken, external data stays below the model's folder, and
//! an error names the node or tensor to blame. Engines and operators are unknown here; [`Evaluator`] and [`ShapeRules`] are
//! where a caller brings them. [`Tensor`] is the tensor of every crate on the host.
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
