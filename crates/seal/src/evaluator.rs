//! An executor as the evaluator of constants and shapes that `graph` asks for.

use cordon_executor::{Executor, ModelSource};
use cordon_graph::{Evaluator, ExportedModel, Tensor};

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
        let mut session = self.executor.load(&ModelSource::from(model)).map_err(|error| error.to_string())?;
        let inputs: Vec<(&str, &Tensor)> = inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
        session.run(&inputs, &outputs).map_err(|error| error.to_string())
    }
}
