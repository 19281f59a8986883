//! Secure memory, predicted on the owner's machine. The promise is one-sided: what `run` measures is at most this.

use cordon_engine::program::{DType, Instruction, Tile, WeightInfo};
use cordon_lower::Lowered;
use std::collections::BTreeSet;

/// What the process enclave needs whatever the model: stacks, ring staging, chunk buffers, keys, allocator slack.
pub const FIXED_BYTES: u64 = 4 << 20;

/// Heap per weight tile: a stretch of the stream and its place.
const TILE_BYTES: u64 = 64;

/// Secure memory of one segment, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentCost {
    /// Activations.
    pub arena: u64,
    /// All weights, when resident.
    pub weights: u64,
    /// Weights of the most demanding instruction, when streamed.
    pub window: u64,
    /// The Program and its tables, while they are decoded.
    pub tables: u64,
    /// Values kept between segments.
    pub retained: u64,
}

impl SegmentCost {
    /// The cost of a lowered segment.
    pub fn of(lowered: &Lowered) -> Self {
        let program = &lowered.program;
        let instructions = program.instructions.len() as u64;
        let mut used = BTreeSet::new();
        let mut window = 0;
        let mut tile_count = 0u64;
        for instruction in &program.instructions {
            let tiles: Vec<Tile> = instruction.tiles().collect();
            tile_count += tiles.len() as u64;
            window = window.max(tiles.iter().map(|tile| tile_bytes(tile, &lowered.weights.0)).sum());
            used.extend(tiles.iter().map(|tile| tile.tensor));
        }
        let weights = used
            .iter()
            .filter_map(|&tensor| lowered.weights.0.get(tensor as usize))
            .map(|info| u64::from(info.len) * width(info.dtype))
            .sum();
        // The encoded Program, the decoded one and the growth of its lists live side by side for a moment.
        let encoded = program.encode().len() as u64;
        let tables = 2 * encoded
            + 2 * instructions * size_of::<Instruction>() as u64
            + tile_count * TILE_BYTES
            + 4 * lowered.weights.0.len() as u64 * size_of::<WeightInfo>() as u64;
        let retained = program
            .outputs
            .iter()
            .filter(|port| port.via == cordon_engine::program::Via::Retain)
            .map(|port| u64::from(port.region.len) * width(port.region.dtype))
            .sum();
        Self { arena: program.arena.bytes(), weights, window, tables, retained }
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

fn tile_bytes(tile: &Tile, weights: &[WeightInfo]) -> u64 {
    weights.get(tile.tensor as usize).map_or(0, |info| u64::from(tile.len) * width(info.dtype))
}
