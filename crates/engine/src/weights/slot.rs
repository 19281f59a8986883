//! One tile of the weights and its place inside.

use core::ops::Range;

use cordon_kernels::parallel::Compute;

use crate::error::{EngineError, Place};
use crate::memory::Span;
use crate::program::{DType, Stored, Tile};
use crate::stream::PIECE;

/// A stretch of the stream and the place its elements go to.
pub(crate) struct Slot {
    pub(crate) tile: Tile,
    pub(crate) stored: Stored,
    /// Of the memory it lies in; `U8` for f16 kept as it is stored.
    pub(crate) held: DType,
    /// Bytes of the stream.
    pub(crate) bytes: Range<u64>,
    /// First element in the buffers.
    pub(crate) at: u64,
}

impl Slot {
    /// The pieces that hold bytes of it.
    pub(crate) fn pieces(&self) -> Range<u64> {
        self.bytes.start / PIECE as u64..self.bytes.end.div_ceil(PIECE as u64)
    }

    /// Whether it lies there as stored, and instructions cannot read it so.
    pub(crate) fn is_packed(&self) -> bool {
        self.held != self.stored.dtype()
    }

    /// Copies what it holds of the stream from byte `start` on.
    pub(crate) fn take(
        &self,
        start: u64,
        plain: &[u8],
        compute: Compute,
        span: &mut Span<'_>,
    ) -> Result<(), EngineError> {
        let end = start + plain.len() as u64;
        let (from, to) = (self.bytes.start.max(start), self.bytes.end.min(end));
        if from >= to {
            return Ok(());
        }
        let part = plain.get((from - start) as usize..(to - start) as usize);
        let part = part.ok_or(EngineError::Bug("a part of the stream lies outside it"))?;
        let at = self.element(from);
        match (self.stored, self.held) {
            (Stored::F16, DType::F32) => span.store_f16(compute, at, part),
            _ => span.store_bytes(self.held, at, part, Place::Weight(self.tile.tensor)),
        }
    }

    /// Where the element lies whose bytes of the stream begin at `byte`.
    pub(crate) fn element(&self, byte: u64) -> u64 {
        let size = if self.is_packed() { 1 } else { u64::from(self.stored.bytes()) };
        self.at + byte.saturating_sub(self.bytes.start) / size
    }
}
