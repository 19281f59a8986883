//! Runs a lowered segment on the trusted engine in this process: for tests, golden checks and benchmarks on the owner's
//! machine. Nothing is protected here.

use crate::emit::Lowered;
use crate::error::LowerError;
use cordon_graph::Tensor;

/// Feeds `inputs` in port order and returns the outputs in port order.
pub fn run_lowered(_lowered: &Lowered, _inputs: &[Tensor]) -> Result<Vec<Tensor>, LowerError> {
    Err(LowerError::Misuse("the engine is not linked yet".into()))
}
