//! Tensors and models between `graph` and `executor`, which do not know each other.

use bytes::Bytes;
use cordon_executor::{Executor, ModelSource, Options};
use cordon_graph::{ElemType, Evaluator, ExportedModel, Tensor};

/// The embedded executor as the evaluator that folds constants and completes shapes.
pub struct Rten(Box<dyn Executor>);

impl Rten {
    /// One thread: the suites run in parallel already.
    pub fn new() -> Result<Self, String> {
        let options = Options { threads: Some(1), ..Options::default() };
        cordon_executor::open("rten", &options).map(Self).map_err(|e| e.to_string())
    }
}

impl Evaluator for Rten {
    fn run(
        &mut self,
        model: &ExportedModel,
        inputs: &[(String, Tensor)],
        outputs: &[String],
    ) -> Result<Vec<Tensor>, String> {
        let mut session = self.0.load(&source(model)).map_err(|e| e.to_string())?;
        let fed =
            inputs.iter().map(|(name, t)| Ok((name.as_str(), to_executor(t)?))).collect::<Result<Vec<_>, String>>()?;
        let fed: Vec<_> = fed.iter().map(|(name, tensor)| (*name, tensor)).collect();
        let wanted: Vec<&str> = outputs.iter().map(String::as_str).collect();
        session.run(&fed, &wanted).map_err(|e| e.to_string())?.iter().map(to_graph).collect()
    }
}

/// An exported segment as an executor loads it.
pub fn source(model: &ExportedModel) -> ModelSource {
    let data = (model.data_len() > 0).then(|| (model.location.clone(), model.data_bytes()));
    ModelSource { onnx: Bytes::from(model.model.clone()), data }
}

/// A graph tensor as an executor's.
pub fn to_executor(tensor: &Tensor) -> Result<cordon_executor::Tensor, String> {
    cordon_executor::Tensor::new(tensor.elem.code(), tensor.dims.clone(), tensor.data.clone())
        .map_err(|e| e.to_string())
}

/// An executor's tensor as a graph tensor.
pub fn to_graph(tensor: &cordon_executor::Tensor) -> Result<Tensor, String> {
    let elem = ElemType::from_code(tensor.elem).ok_or_else(|| format!("element type {}", tensor.elem))?;
    Tensor::new(elem, tensor.dims.clone(), tensor.data.clone())
}
