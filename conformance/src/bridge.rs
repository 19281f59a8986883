//! An executor as the evaluator of constants and shapes that `graph` asks for.

use cordon_executor::{Executor, ModelSource, Options};
use cordon_graph::{Evaluator, ExportedModel, Tensor};

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
        let mut session = self.0.load(&ModelSource::from(model)).map_err(|e| e.to_string())?;
        let fed: Vec<_> = inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let wanted: Vec<&str> = outputs.iter().map(String::as_str).collect();
        session.run(&fed, &wanted).map_err(|e| e.to_string())
    }
}
