//! The bridge between `graph`, which may not know engines, and `executor`, which may not know graphs.

use bytes::Bytes;
use cordon_executor::{Executor, ModelSource, Tensor as Plain};
use cordon_graph::{ElemType, Evaluator, ExportedModel, Tensor};

/// Runs constant subgraphs, and models whose shapes no rule knows, on the owner's machine.
pub struct OwnerEvaluator<'a> {
    executor: &'a dyn Executor,
}

impl<'a> OwnerEvaluator<'a> {
    /// Over any executor.
    pub fn new(executor: &'a dyn Executor) -> Self {
        Self { executor }
    }
}

impl Evaluator for OwnerEvaluator<'_> {
    fn run(
        &mut self,
        model: &ExportedModel,
        inputs: &[(String, Tensor)],
        outputs: &[String],
    ) -> Result<Vec<Tensor>, String> {
        let mut session = self.executor.load(&source(model)).map_err(|error| error.to_string())?;
        let inputs: Vec<(&str, Plain)> =
            inputs.iter().map(|(name, tensor)| (name.as_str(), to_plain(tensor))).collect();
        let inputs: Vec<(&str, &Plain)> = inputs.iter().map(|(name, tensor)| (*name, tensor)).collect();
        let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
        let results = session.run(&inputs, &outputs).map_err(|error| error.to_string())?;
        results.into_iter().map(from_plain).collect()
    }
}

/// An exported model as executors load it.
pub fn source(model: &ExportedModel) -> ModelSource {
    let data = (model.data_len() > 0).then(|| (model.location.clone(), model.data_bytes()));
    ModelSource { onnx: Bytes::from(model.model.clone()), data }
}

fn to_plain(tensor: &Tensor) -> Plain {
    Plain { elem: tensor.elem.code(), dims: tensor.dims.clone(), data: tensor.data.clone() }
}

fn from_plain(tensor: Plain) -> Result<Tensor, String> {
    let elem = ElemType::from_code(tensor.elem).ok_or_else(|| format!("unknown element type {}", tensor.elem))?;
    Tensor::new(elem, tensor.dims, tensor.data)
}
