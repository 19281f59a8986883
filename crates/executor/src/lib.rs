//! Normal-world executors: one trait over existing, well-kept engines.
//!
//! A normal segment is an ordinary ONNX model plus a blob of weights; an [`Executor`] loads it, a [`Session`] runs it.
//! `rten` is compiled in and always there. `onnxruntime` is a shared library found at run time; asking for it where it
//! is absent is an error that names the places searched, never a silent fall back to another engine.
//!
//! ```
//! let executor = cordon_executor::open("rten", &cordon_executor::Options::default())?;
//! assert_eq!(executor.name(), "rten");
//! # Ok::<(), cordon_executor::ExecutorError>(())
//! ```
#![forbid(unsafe_code)]

mod embedded;
mod error;
pub mod files;
mod locate;
mod onnxruntime;

use std::path::PathBuf;

use bytes::Bytes;

use cordon_graph::ExportedModel;

pub use cordon_graph::{Declared, ElemType, Tensor, signature};
pub use error::ExecutorError;

/// How to open an executor.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Threads per session; `None` leaves the choice to the engine (about one per physical core).
    pub threads: Option<usize>,
    /// ONNX Runtime's shared library; `None` searches the environment, then installed Python packages.
    pub library: Option<PathBuf>,
}

/// A model as an executor loads it: the ONNX bytes and the file they refer to as external data, if any.
#[derive(Clone, Debug)]
pub struct ModelSource {
    /// A serialised `ModelProto`.
    pub onnx: Bytes,
    /// The `location` that initializers name, and the content of that file. rten only takes plain file names whose
    /// extension starts with `data` or `onnx_data`, as exporters write them.
    pub data: Option<(String, Bytes)>,
}

impl From<&ExportedModel> for ModelSource {
    fn from(model: &ExportedModel) -> Self {
        let data = (model.data_len() > 0).then(|| (model.location.clone(), model.data_bytes()));
        Self { onnx: model.model.clone().into(), data }
    }
}

/// An engine that can load models.
pub trait Executor: Send {
    /// The engine's name, as given to [`open`].
    fn name(&self) -> &str;

    /// Loads a model. Sessions are independent of each other.
    fn load(&self, model: &ModelSource) -> Result<Box<dyn Session>, ExecutorError>;
}

/// A loaded model.
pub trait Session: Send {
    /// Runs the model on named inputs and returns the outputs asked for, in that order.
    ///
    /// Outputs must be outputs of the model's graph; each comes back with the element type the model declares.
    fn run(&mut self, inputs: &[(&str, &Tensor)], outputs: &[&str]) -> Result<Vec<Tensor>, ExecutorError>;
}

/// Opens the executor that `spec` names: `rten`, `onnxruntime`, `onnxruntime:cpu` or `onnxruntime:cuda`.
pub fn open(spec: &str, options: &Options) -> Result<Box<dyn Executor>, ExecutorError> {
    if options.threads == Some(0) {
        return Err(ExecutorError::Misuse("0 threads cannot run anything".into()));
    }
    match spec {
        "rten" => Ok(Box::new(embedded::Rten::new(options))),
        "onnxruntime" | "onnxruntime:cpu" => Ok(Box::new(onnxruntime::OnnxRuntime::new(options, false)?)),
        "onnxruntime:cuda" => Ok(Box::new(onnxruntime::OnnxRuntime::new(options, true)?)),
        other => Err(ExecutorError::UnknownEngine(other.into())),
    }
}

/// The ONNX Runtime library that [`open`] would load, or an error naming every place searched.
pub fn find_onnxruntime(options: &Options) -> Result<PathBuf, ExecutorError> {
    locate::library(options.library.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cordon_fault::{Fault, Next};

    #[test]
    fn unknown_executors_and_zero_threads_are_refused() {
        let error = open("tensorrt", &Options::default()).err().expect("no such executor");
        assert!(matches!(&error, ExecutorError::UnknownEngine(name) if name == "tensorrt"), "{error}");
        assert_eq!(error.next(), Next::NameEngine);
        assert!(open("rten", &Options { threads: Some(0), ..Options::default() }).is_err());
    }

    #[test]
    fn an_absent_library_is_named_and_nothing_falls_back() {
        let options = Options { library: Some("absent/libonnxruntime.so".into()), ..Options::default() };
        let error = open("onnxruntime", &options).err().expect("there is no such library");
        assert!(error.to_string().contains("absent/libonnxruntime.so"), "{error}");
        assert_eq!(error.next(), Next::InstallEngine);
    }
}
