//! The last step: slots become offsets, weight sources become the weight table and its byte stream.

use crate::arena::{self, ArenaReport};
use crate::draft::{self, Draft};
use crate::error::LowerError;
use crate::weights::WeightSource;
use cordon_engine::program::{Instruction, Kind, MemoryMut, Program, Stored, WeightInfo, WeightTable};
use cordon_graph::ElemType;
use std::collections::HashMap;

/// Offsets of weight tensors in the stream are multiples of this many bytes.
const WEIGHT_ALIGNMENT: u64 = 64;

/// A lowered segment.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// What the engine runs.
    pub program: Program,
    /// Entry `i` describes the tensor that `Tile::tensor == i` names.
    pub weights: WeightTable,
    /// Arena size and how good it is.
    pub arena: ArenaReport,
    pub(crate) sources: Vec<WeightSource>,
    /// ONNX types of the outputs: a byte may be one of two.
    pub outputs: Vec<ElemType>,
}

impl Lowered {
    /// Length of the weight stream in bytes.
    pub fn weight_bytes(&self) -> u64 {
        self.weights.stream_bytes()
    }

    /// Tensors stored as f16, which were rounded.
    pub fn rounded(&self) -> usize {
        self.weights.0.iter().filter(|info| info.stored == Stored::F16).count()
    }

    /// By how much rounding may change an output, relative to its largest magnitude: 2^-11 for each rounded tensor. Rounding
    /// moves a weight by at most that share of itself, and a sum of products as much where its terms do not cancel;
    /// layers in a row add up.
    pub fn rounding_error(&self) -> f64 {
        self.rounded() as f64 / 2048.0
    }

    /// Bytes of the largest set of weights one instruction reads: what a streaming engine's window must hold.
    pub fn window_bytes(&self) -> u64 {
        self.program.instructions.iter().map(|instruction| self.instruction_weights(instruction)).max().unwrap_or(0)
    }

    /// Bytes of the weights one instruction reads.
    pub fn instruction_weights(&self, instruction: &Instruction) -> u64 {
        instruction.tiles().map(|tile| self.weights.tile_bytes(tile)).sum()
    }

    /// Gives instructions at most so many bytes of scratch memory. What they had before is an upper bound.
    pub fn limit_scratch(&mut self, bytes: u64) {
        let arena = &mut self.program.arena;
        let most = u32::try_from(bytes / 4).unwrap_or(u32::MAX).min(arena.scratch);
        arena.scratch = scratch(&self.program.instructions, most);
    }

    /// Amounts of scratch memory that are worth trying, in bytes, falling: each lets fewer instructions use it.
    pub fn scratch_choices(&self) -> Vec<u64> {
        let asked = self.program.instructions.iter().filter_map(Instruction::scratch);
        let mut choices: Vec<u64> =
            asked.flat_map(|[least, most]| [least, least.midpoint(most), most]).map(|len| u64::from(len) * 4).collect();
        choices.push(0);
        choices.sort_unstable_by_key(|&bytes| core::cmp::Reverse(bytes));
        choices.dedup();
        choices
    }

    /// Writes the weight stream in pieces, packing as it goes: no more than one block of one tensor is held besides the
    /// model itself.
    pub fn write_weights(&self, sink: &mut dyn FnMut(&[u8])) {
        let mut at = 0;
        for (info, source) in self.weights.0.iter().zip(&self.sources) {
            let padding = usize::try_from(info.offset - at).expect("less than the alignment");
            sink(&[0; WEIGHT_ALIGNMENT as usize][..padding]);
            source.write(sink);
            at = info.offset + info.bytes();
        }
    }
}

/// Plans the arena, numbers the weights in order of first use. `scratch`: the most bytes of scratch memory that
/// instructions get to be faster.
pub(crate) fn finish(draft: Draft, batch: u32, scratch: u64) -> Result<Lowered, LowerError> {
    let placement = arena::place(&draft).ok_or_else(|| LowerError::TooLarge { what: "the arena".into() })?;
    let (mut weights, mut sources) = (Vec::new(), Vec::new());
    let mut offset = 0u64;
    let mut renumbered: HashMap<u32, u32> = HashMap::new();
    let mut known: HashMap<u64, Vec<u32>> = HashMap::new();
    let Draft { slots: _, weights: all, mut instructions, mut inputs, mut outputs } = draft;
    for instruction in &mut instructions {
        instruction.memory_mut(|memory| match memory {
            MemoryMut::Region(region) => region.start = placement.offsets[region.start as usize],
            MemoryMut::Tile(tile) => {
                tile.tensor = *renumbered.entry(tile.tensor).or_insert_with(|| {
                    let source = &all[tile.tensor as usize];
                    let twins = known.entry(source.fingerprint()).or_default();
                    if let Some(&twin) = twins.iter().find(|&&twin| sources[twin as usize] == *source) {
                        return twin;
                    }
                    let number = u32::try_from(sources.len()).expect("no more than in the draft");
                    twins.push(number);
                    let info = WeightInfo { stored: source.stored(), len: source.len(), offset };
                    offset = (offset + info.bytes()).next_multiple_of(WEIGHT_ALIGNMENT);
                    weights.push(info);
                    sources.push(source.clone());
                    number
                });
            }
        });
    }
    for port in inputs.iter_mut().chain(&mut outputs) {
        port.region.start = placement.offsets[port.region.start as usize];
    }
    let mut arena = placement.size;
    arena.scratch = self::scratch(&instructions, u32::try_from(scratch / 4).unwrap_or(u32::MAX));
    let program = Program { kind: Kind::Inference, batch, arena, inputs, outputs, instructions };
    Ok(Lowered { program, weights: WeightTable(weights), arena: placement.report, sources, outputs: Vec::new() })
}

/// Elements of scratch memory, at most `most`: as many as are of use.
fn scratch(instructions: &[Instruction], most: u32) -> u32 {
    let useful = instructions.iter().filter_map(Instruction::scratch).filter(|&[least, _]| least <= most);
    useful.map(|[_, len]| len.min(most)).max().unwrap_or(0)
}

/// Drops instructions whose result nobody reads.
pub(crate) fn remove_dead(draft: &mut Draft) {
    let mut needed = vec![false; draft.slots.len()];
    draft.outputs.iter().for_each(|port| needed[draft.root(port.region.start).0 as usize] = true);
    let mut kept = Vec::with_capacity(draft.instructions.len());
    for instruction in core::mem::take(&mut draft.instructions).into_iter().rev() {
        if needed[draft.root(instruction.out().start).0 as usize] {
            draft::slots_read(&instruction).for_each(|slot| needed[draft.root(slot).0 as usize] = true);
            kept.push(instruction);
        }
    }
    kept.reverse();
    draft.instructions = kept;
}
