//! A validated Program with all its memory, whose weights are still to come.

use cordon_kernels::parallel::Compute;

use crate::error::{EngineError, Place};
use crate::limits::{Limits, MemoryReport, Prediction};
use crate::memory::{Buffers, SLACK_BYTES};
use crate::prepared::Prepared;
use crate::program::{Program, WeightTable};
use crate::validate::validate;
use crate::weights::{self, Loaded, Residency, Weights};

/// A Program, validated, with all memory it will ever use. Becomes a [`Prepared`] once every chunk of its weights came.
pub struct Unloaded {
    prepared: Prepared,
    loaded: Loaded,
}

/// Bytes that do not depend on the Program: the struct, and what three [`Buffers`] take to begin with a cache line.
const FIXED: u64 = size_of::<Unloaded>() as u64 + 3 * SLACK_BYTES;

impl Unloaded {
    /// Checks everything about `program` and `weights` once and allocates all memory, including the weight window.
    /// Nothing is allocated before it is known to fit `limits`. A [`KernelSet`](cordon_kernels::KernelSet) alone computes
    /// on one thread; the number of threads never changes a bit of a result.
    pub fn new(
        program: Program,
        weights: WeightTable,
        compute: impl Into<Compute>,
        residency: Residency,
        limits: Limits,
    ) -> Result<Self, EngineError> {
        validate(&program, &weights, limits.instruction_work)?;
        let mut left = limits.secure_memory_bytes;
        take(&mut left, program.heap_bytes() + FIXED, "the program")?;
        take(&mut left, program.arena.bytes(), "the arena")?;
        let arena = Buffers::allocate(program.arena.into(), "the arena")?;
        let weights = Weights::prepare(&program, &weights, residency, left)?;
        let (resident, window) = weights.bytes();
        let memory = MemoryReport {
            arena: arena.bytes(),
            weights: resident,
            window,
            tables: program.heap_bytes() + weights.table_bytes() + FIXED,
        };
        let prepared = Prepared::new(program, compute.into(), arena, weights, memory);
        Ok(Self { prepared, loaded: Loaded::default() })
    }

    /// Takes one chunk of the weight stream, decrypted and authenticated: [`CHUNK`](crate::CHUNK) bytes, fewer only at the
    /// end of the stream. Chunks come in order, each once. A refused one is still the next.
    pub fn accept(&mut self, index: u32, plain: &[u8]) -> Result<(), EngineError> {
        self.prepared.accept(&mut self.loaded, index, plain)
    }

    /// Chunks that have not come yet.
    pub fn chunks_left(&self) -> u64 {
        self.prepared.chunks().saturating_sub(self.loaded.chunks)
    }

    /// What is ready to run; refused while chunks are missing.
    pub fn finish(self) -> Result<Prepared, EngineError> {
        match self.chunks_left() {
            0 => Ok(self.prepared),
            _ => Err(EngineError::Reply("chunks of the weights are missing")),
        }
    }

    /// What the memory is used for.
    pub fn memory(&self) -> MemoryReport {
        self.prepared.memory()
    }

    /// Pieces of weights every request will ask for; 0 where all are resident. Where it is not 0, the caller keeps the
    /// stream, encrypted.
    pub fn pieces_per_request(&self) -> u64 {
        self.prepared.pieces_per_request()
    }

    /// Chunks of the normal world's memory that spilled values lie in.
    pub fn spill_chunks(&self) -> u64 {
        self.prepared.spill_chunks()
    }
}

impl Prepared {
    /// What a decoded Program will take, without allocating it.
    pub fn predict(program: &Program, weights: &WeightTable, residency: Residency) -> Result<Prediction, EngineError> {
        validate(program, weights, u64::MAX)?;
        let needs = weights::predict(program, weights, residency)?;
        let memory = MemoryReport {
            arena: program.arena.bytes(),
            weights: needs.resident,
            window: needs.window,
            tables: needs.tables + program.heap_bytes() + FIXED,
        };
        let constants = needs.resident.saturating_add(needs.window).saturating_add(needs.tables);
        Ok(Prediction { memory, constants, pieces: needs.pieces, loads: needs.loads })
    }
}

fn take(left: &mut u64, needed: u64, what: &'static str) -> Result<(), EngineError> {
    let available = *left;
    *left = available.checked_sub(needed).ok_or(EngineError::Memory { at: Place::Program, what, needed, available })?;
    Ok(())
}
