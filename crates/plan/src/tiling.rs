//! How small secure segments are cut for a budget: of a few ways, the fastest that fits.
//!
//! Smaller tiles leave more room for resident weights and cost time elsewhere: copies between bands, instructions, inputs
//! read again for every stretch of output channels. The prediction of time is rough, and only its order decides.

use crate::memory::{Predicted, predict};
use crate::{PlanError, spilling};
use cordon_engine::CHUNK;
use cordon_engine::program::Instruction;
use cordon_lower::{Lowered, Tiling, Untiled};

/// Products and sums per second of one thread with AVX-512, as the kernels' example measures them for convolutions.
const FLOPS: f64 = 2.0e11;
/// Bytes of weights per second that one thread takes in, decrypts in portable Rust and stores: what streaming added to
/// resnet50 in docs/decisions/0007-chunks.md.
const DECRYPTED: f64 = 2.1e9;
/// Bytes per second of a copy within the arena.
const COPIED: f64 = 8.0e9;
/// Seconds of a step besides the instruction's work.
const STEP: f64 = 1.0e-6;

/// Bytes of weights per instruction that are worth trying.
const WEIGHTS: [Option<u64>; 4] = [None, Some(1 << 20), Some(512 << 10), Some(256 << 10)];
/// Shares of the untiled activations, in percent, that are worth trying.
const ARENAS: [u64; 6] = [100, 75, 55, 40, 25, 0];

/// Segments cut for a budget, and what that takes.
pub(crate) struct Fitted {
    pub(crate) tilings: Vec<Tiling>,
    pub(crate) lowered: Vec<Lowered>,
    pub(crate) predicted: Predicted,
    /// Predicted time of a request over that with everything inside and nothing cut.
    pub(crate) slowdown: f64,
}

/// Cuts the secure segments for `limit`. If nothing fits, the way that needs least is returned: its minimum is above the
/// limit.
pub(crate) fn fit(segments: &[Untiled], limit: Option<u64>) -> Result<Fitted, PlanError> {
    let plain = cut(segments, &vec![Tiling::default(); segments.len()])?;
    let fastest = seconds(&plain.lowered, 0);
    let predicted = predict(&plain.lowered.iter().collect::<Vec<_>>(), limit)?;
    let mut best = Fitted { slowdown: slowdown(&plain.lowered, &predicted, fastest), predicted, ..plain };
    let Some(limit) = limit.filter(|&limit| best.predicted.chunks > 0 || best.predicted.minimum > limit) else {
        return Ok(best);
    };
    let whole: Vec<u64> = best.lowered.iter().map(|lowered| lowered.arena.bytes).collect();
    for weights in WEIGHTS {
        for share in ARENAS {
            let arena = |whole: &u64| (share < 100).then_some(whole * share / 100);
            let tilings: Vec<Tiling> =
                whole.iter().map(|whole| Tiling { weights, arena: arena(whole), spill: None }).collect();
            let tried = cut(segments, &tilings)?;
            let predicted = predict(&tried.lowered.iter().collect::<Vec<_>>(), Some(limit))?;
            let slowdown = slowdown(&tried.lowered, &predicted, fastest);
            let better = match (predicted.minimum <= limit, best.predicted.minimum <= limit) {
                (true, true) => slowdown < best.slowdown,
                (false, false) => predicted.minimum < best.predicted.minimum,
                (fits, _) => fits,
            };
            if better {
                best = Fitted { predicted, slowdown, ..tried };
            }
        }
    }
    if best.predicted.minimum > limit {
        return spilling::last_resort(segments, limit, best, fastest);
    }
    Ok(best)
}

/// Cuts the segments as a plan file says.
pub(crate) fn cut(segments: &[Untiled], tilings: &[Tiling]) -> Result<Fitted, PlanError> {
    let lowered = segments.iter().zip(tilings).map(|(segment, tiling)| segment.tile(tiling));
    let lowered = lowered.collect::<Result<Vec<_>, _>>()?;
    Ok(Fitted { tilings: tilings.to_vec(), lowered, predicted: Predicted::default(), slowdown: f64::INFINITY })
}

pub(crate) fn slowdown(lowered: &[Lowered], predicted: &Predicted, fastest: f64) -> f64 {
    seconds(lowered, predicted.chunks) / fastest
}

fn seconds(lowered: &[Lowered], chunks: u64) -> f64 {
    let one = |lowered: &Lowered| {
        let copied = |instruction: &Instruction| match instruction {
            Instruction::Copy { geometry, .. } => geometry.dims.iter().map(|&dim| u64::from(dim)).product::<u64>() * 8,
            _ => 0,
        };
        let copied: u64 = lowered.program.instructions.iter().map(copied).sum();
        let instructions = lowered.program.instructions.len() as f64;
        lowered.flops() as f64 / FLOPS + copied as f64 / COPIED + instructions * STEP
    };
    lowered.iter().map(one).sum::<f64>() + chunks as f64 * CHUNK as f64 / DECRYPTED + spilling::seconds(lowered)
}
