//! An engine as the evaluator of constants and shapes that `graph`, which knows no engines, asks for.

use cordon_executor::{Executor, ModelSource};
use cordon_graph::{Evaluator, ExportedModel, Tensor};

/// Runs constant subgraphs, and models whose shapes no rule knows, on an engine the owner trusts.
pub struct EngineEvaluator<'a>(
    /// The engine.
    pub &'a dyn Executor,
);

impl Evaluator for EngineEvaluator<'_> {
    fn run(
        &mut self,
        model: &ExportedModel,
        inputs: &[(String, Tensor)],
        outputs: &[String],
    ) -> Result<Vec<Tensor>, String> {
        let mut session = self.0.load(&ModelSource::from(model)).map_err(|error| error.to_string())?;
        let inputs: Vec<(&str, &Tensor)> = inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
        session.run(&inputs, &outputs).map_err(|error| error.to_string())
    }
}
