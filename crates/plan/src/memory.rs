//! Secure memory, predicted on the owner's machine. The promise is one-sided: what `run` measures is at most this.

use crate::PlanError;
use cordon_engine::program::{Port, Via};
use cordon_engine::{CHUNK, Prepared, Residency};
use cordon_lower::Lowered;
use cordon_protocol::{Profile, SLACK, SPILL_CHUNK};

/// A leaf hash per chunk of weights stays inside.
const LEAF_BYTES: u64 = 32;

/// In how many steps the range of the fixed part is looked through: with a little more room one more tile may stay inside.
const FIXED_STEPS: u64 = 5;

/// Share of a prediction that stands for what is not counted one by one: heads of blocks, the manifest's small objects.
const MARGIN: f64 = 0.01;

/// Secure memory of one segment, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentCost {
    /// Activations.
    pub arena: u64,
    /// Largest set of activations alive at one time.
    pub arena_bound: u64,
    /// All weights, when resident.
    pub weights: u64,
    /// Weights of the most demanding instruction and the rooms pieces are opened in, when streamed.
    pub window: u64,
    /// The decoded Program, the tables that say which constant lies where, and leaf hashes.
    pub tables: u64,
    /// The encoded Program and weight table, while they are decoded, where they do not fit the frame they come in.
    pub encoded: u64,
    /// Values kept between segments.
    pub retained: u64,
}

impl SegmentCost {
    /// The cost of a lowered segment.
    pub fn of(lowered: &Lowered, profile: &Profile) -> Result<Self, PlanError> {
        let program = &lowered.program;
        let report = |residency| predict_one(lowered, residency).map(|prediction| prediction.memory);
        let (resident, streamed) = (report(Residency::All)?, report(Residency::Least)?);
        let encoded = (program.encode().len() + lowered.weights.encode().len()) as u64;
        let bytes = |port: &Port| u64::from(port.region.len) * u64::from(port.region.dtype.bytes());
        Ok(Self {
            arena: resident.arena,
            arena_bound: lowered.arena.lower_bound,
            weights: resident.weights,
            window: streamed.window,
            tables: resident.tables.max(streamed.tables) + leaves(lowered),
            encoded: if encoded > frame_content(profile) { encoded } else { 0 },
            retained: program.outputs.iter().filter(|port| port.via == Via::Retain).map(bytes).sum(),
        })
    }

    /// With all weights inside.
    pub fn resident(&self) -> u64 {
        self.arena + self.weights + self.tables + self.retained + self.encoded
    }

    /// With weights streamed through the smallest window. Where the encoded Program was, there may be room for nothing.
    pub fn streamed(&self) -> u64 {
        (self.arena + self.window + self.tables + self.retained + self.encoded).min(self.resident())
    }
}

/// Content of a section that comes in one frame, labels and names besides: all stored chunks that fit it but one.
fn frame_content(profile: &Profile) -> u64 {
    (profile.payload / SPILL_CHUNK).saturating_sub(1) as u64 * CHUNK as u64
}

/// The fixed part that predictions are made for.
fn fixed_bytes(profile: &Profile) -> u64 {
    profile.fixed_bytes(profile.threads)
}

fn leaves(lowered: &Lowered) -> u64 {
    lowered.weight_bytes().div_ceil(CHUNK as u64) * LEAF_BYTES
}

fn predict_one(lowered: &Lowered, residency: Residency) -> Result<cordon_engine::Prediction, PlanError> {
    Prepared::predict(&lowered.program, &lowered.weights, residency).map_err(engine)
}

fn engine(error: cordon_engine::EngineError) -> PlanError {
    PlanError::Lower(cordon_lower::LowerError::Engine(error))
}

/// What all segments together will take: they are loaded side by side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Predicted {
    /// Most secure memory at any time, in bytes; a run measures at most this.
    pub peak: u64,
    /// Least with which the same Programs run, in bytes.
    pub minimum: u64,
    /// Pieces of weights every request decrypts.
    pub pieces: u64,
    /// Times a request waits for some.
    pub loads: u64,
    /// Bytes by which the peak may stay below, since nobody knows which tile just fits.
    pub spread: u64,
}

/// What a budget leaves for activations, weights and tables.
pub(crate) fn room(limit: u64, profile: &Profile) -> u64 {
    ((limit as f64 / (1.0 + MARGIN)) as u64).saturating_sub(fixed_bytes(profile) + SLACK)
}

/// Predicts for a budget; without one everything is resident. The enclave shares memory out with the same function.
pub fn predict(segments: &[&Lowered], limit: Option<u64>, profile: &Profile) -> Result<Predicted, PlanError> {
    if segments.is_empty() {
        return Ok(Predicted::default());
    }
    let costs = segments.iter().map(|lowered| SegmentCost::of(lowered, profile)).collect::<Result<Vec<_>, _>>()?;
    let most = fixed_bytes(profile);
    let minimum = with_margin(most + SLACK + costs.iter().map(SegmentCost::streamed).sum::<u64>());
    let there: u64 = segments.iter().map(|lowered| lowered.program.heap_bytes() + leaves(lowered)).sum();
    let retained: u64 = costs.iter().map(|cost| cost.retained).sum();
    // Decoding comes before the arena and the weights are allocated.
    let decoding = most + there + costs.iter().map(|cost| 2 * cost.encoded + cost.tables).max().unwrap_or(0);
    let programs: Vec<_> = segments.iter().map(|lowered| (&lowered.program, &lowered.weights)).collect();
    let mut predicted = Predicted { peak: decoding, minimum, ..Predicted::default() };
    let (mut least, mut between) = (u64::MAX, 0);
    // An enclave whose fixed part is smaller than the bound keeps more weights: the larger sum counts.
    for step in 0..=FIXED_STEPS {
        let fixed = most.saturating_sub(profile.fixed_range * step / FIXED_STEPS);
        let available = limit.map_or(u64::MAX, |limit| limit.saturating_sub(fixed + SLACK + retained + there));
        let Ok(residencies) = cordon_engine::share(available, &programs) else {
            return Ok(Predicted { peak: minimum, minimum, ..Predicted::default() });
        };
        let (mut peak, mut pieces, mut loads, mut window) = (fixed + retained, 0, 0, 0);
        for (lowered, residency) in segments.iter().zip(residencies) {
            let prediction = predict_one(lowered, residency)?;
            peak += prediction.memory.total() + leaves(lowered);
            pieces += prediction.pieces;
            window += prediction.memory.window;
            loads += prediction.loads;
        }
        predicted.peak = predicted.peak.max(peak);
        least = least.min(peak.max(decoding));
        predicted.pieces = predicted.pieces.max(pieces);
        predicted.loads = predicted.loads.max(loads);
        if window == 0 {
            // All lies inside as it is read: more room changes nothing.
            break;
        }
        between = profile.fixed_range / FIXED_STEPS;
    }
    predicted.spread = predicted.peak.saturating_sub(least);
    // Room between two steps may hold what neither did.
    predicted.peak = with_margin(predicted.peak + between);
    if let Some(limit) = limit {
        predicted.peak = predicted.peak.min(limit.max(minimum));
    }
    Ok(predicted)
}

/// Predicts for a package already sealed, whose segments take `resident` bytes with all weights inside: in an enclave with so
/// many threads and so much memory.
pub fn predict_sealed(resident: u64, threads: usize, limit: u64, profile: &Profile) -> u64 {
    with_margin(profile.fixed_bytes(threads) + resident).min(limit)
}

fn with_margin(bytes: u64) -> u64 {
    bytes + (bytes as f64 * MARGIN) as u64
}

/// A rough guess where nothing was lowered.
pub(crate) fn estimate(weights: u64, activations: u64, profile: &Profile) -> u64 {
    fixed_bytes(profile) + weights + activations
}
