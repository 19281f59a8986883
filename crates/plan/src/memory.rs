//! Secure memory, predicted on the owner's machine. The promise is one-sided: what `run` measures is at most this.

use crate::PlanError;
use crate::fixed::FIXED_BYTES;
use cordon_engine::program::{Port, Via};
use cordon_engine::{CHUNK, Prepared, Residency};
use cordon_lower::Lowered;

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
        let resident = report(Residency::All)?.memory;
        let streamed = report(Residency::Least)?.memory;
        // The encoded Program and the decoded one, whose lists may have grown past their need, live side by side.
        let encoded = (program.encode().len() + lowered.weights.encode().len()) as u64;
        let leaves = lowered.weight_bytes().div_ceil(CHUNK as u64) * LEAF_BYTES;
        let bytes = |port: &Port| u64::from(port.region.len) * u64::from(port.region.dtype.bytes());
        let retained = program.outputs.iter().filter(|port| port.via == Via::Retain).map(bytes).sum();
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

/// Predicted peak and least need of all segments together: they are loaded side by side.
pub fn predict(costs: &[SegmentCost], limit: Option<u64>) -> (u64, u64) {
    if costs.is_empty() {
        return (0, 0);
    }
    let resident = FIXED_BYTES + costs.iter().map(SegmentCost::resident).sum::<u64>();
    let streamed = FIXED_BYTES + costs.iter().map(|cost| cost.streamed().min(cost.resident())).sum::<u64>();
    match limit {
        Some(limit) if resident > limit => {
            (streamed + room_for_residents(costs, limit).min(limit.saturating_sub(streamed)), streamed)
        }
        _ => (resident, streamed),
    }
}

/// Bytes that the enclave adds by keeping weights of some segments inside, those that cost least first. What else it needs is
/// left out of the account, so that it is never expected to keep fewer than it does.
fn room_for_residents(costs: &[SegmentCost], limit: u64) -> u64 {
    let mut left = limit.saturating_sub(costs.iter().map(|cost| cost.arena + cost.window).sum());
    let mut extra: Vec<u64> = costs.iter().map(|cost| cost.resident().saturating_sub(cost.streamed())).collect();
    extra.sort_unstable();
    let before = left;
    extra.into_iter().for_each(|extra| left = left.checked_sub(extra).unwrap_or(left));
    before - left
}

/// A rough guess where nothing was lowered.
pub(crate) fn estimate(weights: u64, activations: u64) -> u64 {
    FIXED_BYTES + weights + activations
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(weights: u64) -> SegmentCost {
        SegmentCost { arena: 1 << 20, weights, window: 1 << 18, ..SegmentCost::default() }
    }

    #[test]
    fn a_limit_decides_which_segments_keep_their_weights() {
        let costs = [cost(2 << 20), cost(64 << 20)];
        let (resident, least) = predict(&costs, None);
        assert_eq!(resident - least, (66 << 20) - (2 << 18));
        let (predicted, _) = predict(&costs, Some(16 << 20));
        assert_eq!(predicted - least, (2 << 20) - (1 << 18), "the small one stays inside, the large one streams");
        let tight = least + (1 << 20);
        assert!(predict(&costs, Some(tight)).0 <= tight, "never more than allowed");
        assert_eq!(predict(&[], Some(1)), (0, 0));
    }
}
