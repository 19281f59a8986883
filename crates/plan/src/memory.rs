//! Secure memory, predicted on the owner's machine. The promise is one-sided: what `run` measures is at most this.

use crate::PlanError;
use cordon_engine::program::{DType, Via};
use cordon_engine::{CHUNK, Prepared, Residency};
use cordon_lower::Lowered;

/// What the process enclave needs whatever the model: stacks, ring staging, chunk buffers, keys, allocator slack.
pub const FIXED_BYTES: u64 = 4 << 20;

/// A leaf hash per chunk of weights stays inside.
const LEAF_BYTES: u64 = 32;

/// Secure memory of one segment, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentCost {
    /// Activations.
    pub arena: u64,
    /// All weights, when resident.
    pub weights: u64,
    /// Weights of the most demanding instruction, when streamed.
    pub window: u64,
    /// The Program and its tables, while they are decoded, and leaf hashes.
    pub tables: u64,
    /// Values kept between segments.
    pub retained: u64,
}

impl SegmentCost {
    /// The cost of a lowered segment.
    pub fn of(lowered: &Lowered) -> Result<Self, PlanError> {
        let program = &lowered.program;
        let report = |residency| {
            Prepared::predict(program, &lowered.weights, residency)
                .map_err(|error| PlanError::Lower(cordon_lower::LowerError::Engine(error.to_string())))
        };
        let resident = report(Residency::All)?;
        let streamed = report(Residency::Stream { window_bytes: u64::MAX })?;
        // The encoded Program and the decoded one, whose lists may have grown past their need, live side by side.
        let encoded = (program.encode().len() + lowered.weights.encode().len()) as u64;
        let leaves = lowered.weight_bytes().div_ceil(CHUNK as u64) * LEAF_BYTES;
        let retained = program
            .outputs
            .iter()
            .filter(|port| port.via == Via::Retain)
            .map(|port| u64::from(port.region.len) * width(port.region.dtype))
            .sum();
        Ok(Self {
            arena: resident.arena,
            weights: resident.weights,
            window: streamed.window,
            tables: 2 * encoded + 2 * resident.tables.max(streamed.tables) + 2 * leaves,
            retained,
        })
    }

    /// With all weights inside.
    pub fn resident(&self) -> u64 {
        self.arena + self.weights + self.tables + self.retained
    }

    /// With weights streamed through the smallest window.
    pub fn streamed(&self) -> u64 {
        self.arena + self.window + self.tables + self.retained
    }
}

/// Predicted peak and least need of all segments together: they are loaded side by side. `None` when even the least need
/// exceeds the limit.
pub fn predict(costs: &[SegmentCost], limit: Option<u64>) -> (u64, u64) {
    if costs.is_empty() {
        return (0, 0);
    }
    let resident = FIXED_BYTES + costs.iter().map(SegmentCost::resident).sum::<u64>();
    let streamed = FIXED_BYTES + costs.iter().map(|cost| cost.streamed().min(cost.resident())).sum::<u64>();
    match limit {
        Some(limit) if resident > limit => (streamed.max(limit.min(resident)), streamed),
        _ => (resident, streamed),
    }
}

fn width(dtype: DType) -> u64 {
    match dtype {
        DType::F32 => 4,
        DType::I64 => 8,
        DType::Bool => 1,
    }
}
