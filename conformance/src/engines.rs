//! The node tests on an executor: what a normal segment may hold.

use bytes::Bytes;
use cordon_executor::{Executor, ModelSource};
use prost::Message as _;

use crate::cases::Case;
use crate::compare::difference;

/// Runs a test on an executor, model unchanged.
pub fn run(executor: &dyn Executor, case: &Case) -> Result<(), String> {
    let source = ModelSource { onnx: Bytes::from(case.model.encode_to_vec()), data: None };
    let sets = case.data_sets()?;
    let mut session = executor.load(&source).map_err(|e| e.to_string())?;
    for set in sets {
        let inputs: Vec<_> = set.inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let wanted: Vec<&str> = set.outputs.iter().map(|(name, _)| name.as_str()).collect();
        let outputs = session.run(&inputs, &wanted).map_err(|e| e.to_string())?;
        for (got, (name, want)) in outputs.iter().zip(&set.outputs) {
            if let Some(difference) = difference(got, want) {
                return Err(format!("output `{name}`: {difference}"));
            }
        }
    }
    Ok(())
}
