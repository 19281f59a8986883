//! The node tests on an executor, model unchanged: what a normal segment may hold.

use bytes::Bytes;
use cordon_executor::{Executor, ModelSource};
use prost::Message as _;

use crate::cases::Case;
use crate::compare::differs;
use crate::expectations::Expectations;
use crate::suite::{Bound, Engine, Failed, Scope};

/// An executor under its name in `engines/`.
pub struct OnExecutor {
    name: &'static str,
    executor: Box<dyn Executor>,
}

impl OnExecutor {
    /// `name` is the executor's, without a provider.
    pub fn open(name: &'static str) -> Result<Self, String> {
        let options = cordon_executor::Options { threads: Some(1), ..Default::default() };
        let executor = cordon_executor::open(name, &options).map_err(|e| e.to_string())?;
        Ok(Self { name, executor })
    }
}

impl Engine for OnExecutor {
    fn name(&self) -> &'static str {
        self.name
    }

    fn scope(&self, _: &Case) -> Scope {
        Scope::Run
    }

    fn run(&self, case: &Case, expected: &Expectations) -> Result<Bound, Failed> {
        let refused = |e: cordon_executor::ExecutorError| Failed::Refused(e.to_string());
        let source = ModelSource { onnx: Bytes::from(case.model.encode_to_vec()), data: None };
        let sets = case.data_sets().map_err(Failed::Refused)?;
        let mut session = self.executor.load(&source).map_err(refused)?;
        for set in sets {
            let inputs: Vec<_> = set.inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
            let wanted: Vec<&str> = set.outputs.iter().map(|(name, _)| name.as_str()).collect();
            differs(&session.run(&inputs, &wanted).map_err(refused)?, &set, expected).map_or(Ok(()), Err)?;
        }
        Ok(Bound::Nothing)
    }
}
