//! The model as its owner has it, unprotected, on a named engine: what everything sealed is compared with.
//!
//! | use | type | what |
//! |---|---|---|
//! | run | [`PlainModel`] | runs the original file and hands out any of its values, hidden ones too |
//! | fold | [`EngineEvaluator`] | lets `graph` fold constants and complete shapes on an engine |
//!
//! ```no_run
//! use cordon_executor::{Options, Tensor, open};
//! use cordon_graph::{ImportOptions, import};
//! use cordon_plain::PlainModel;
//!
//! let file = std::path::Path::new("digits.onnx");
//! let graph = import(file, &ImportOptions::default())?;
//! let engine = open("onnxruntime:cpu", &Options::default())?;
//! let mut plain = PlainModel::open(file, &graph, &graph.outputs, &*engine)?;
//! let image = Tensor::from_f32(vec![1, 1, 32, 32], &[0.0; 1024])?;
//! println!("{:?}", plain.run(&[("image", &image)])?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod evaluator;
mod model;

pub use evaluator::EngineEvaluator;
pub use model::{Origin, PlainModel};
