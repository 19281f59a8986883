//! Weights that stream: each instruction's tiles come into the window just before it runs, in pieces of [`PIECE`] bytes.
//!
//! Threads work side by side, each on pieces that follow one another and on the part of the window they fill, so none waits
//! for another. A piece is opened in a room of its thread's, small enough for that core's nearest cache, and what the tiles
//! need of it is copied to its place from there.

use alloc::vec::Vec;
use core::ops::Range;

use cordon_kernels::parallel::{Compute, Task};
use zeroize::Zeroize;

use super::slot::Slot;
use crate::error::EngineError;
use crate::memory::{Buffers, Extent, Span};
use crate::program::DType;
use crate::stream::{PIECE, PIECES_PER_STEP};

/// Where streamed weights come from.
pub trait PieceSource: Sync {
    /// Makes `into` the plaintext of piece `index`, which has that length; false unless it is authentic.
    fn open(&self, index: u32, into: &mut [u8]) -> bool;

    /// Piece `index` will be opened next: what can be fetched meanwhile may be.
    fn soon(&self, index: u32) {
        let _ = index;
    }
}

/// Most threads that open pieces: a few reach what memory gives.
pub(crate) const ROOMS: usize = 4;

/// Memory that pieces are opened in.
pub(crate) struct Rooms(Vec<u8>);

impl Rooms {
    /// `bytes`, a multiple of [`PIECE`].
    pub(crate) fn allocate(bytes: u64) -> Result<Self, EngineError> {
        let refused = EngineError::Allocation { what: "opening pieces of weights", needed: bytes };
        let (mut rooms, len) = (Vec::new(), usize::try_from(bytes).map_err(|_| refused)?);
        rooms.try_reserve_exact(len).map_err(|_| refused)?;
        rooms.resize(len, 0);
        Ok(Self(rooms))
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.capacity() as u64
    }

    pub(crate) fn wipe(&mut self) {
        self.0.fill(0);
    }

    #[cfg(test)]
    pub(crate) fn is_wiped(&self) -> bool {
        self.0.iter().all(|&byte| byte == 0)
    }
}

impl Drop for Rooms {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// What an instruction's tiles still need.
#[derive(Default)]
pub(crate) struct Load {
    /// Of the streamed tiles.
    slots: Range<usize>,
    /// First piece not brought yet.
    next: u64,
    /// Pieces asked for and not brought yet.
    pending: u32,
}

impl Load {
    pub(crate) fn of(slots: Range<usize>) -> Self {
        Self { slots, next: 0, pending: 0 }
    }

    /// The next pieces without a gap, at most [`PIECES_PER_STEP`]. What was asked for once is asked for until it has come.
    pub(crate) fn wanted(&mut self, streamed: &[Slot]) -> Result<Option<(u32, u32)>, EngineError> {
        if self.pending == 0 {
            let slots = streamed.get(self.slots.clone()).unwrap_or(&[]);
            let next = |from| next_piece(slots, from);
            let Some(first) = next(self.next) else { return Ok(None) };
            self.next = first;
            self.pending = (1..PIECES_PER_STEP)
                .find(|&count| next(first + u64::from(count)) != Some(first + u64::from(count)))
                .unwrap_or(PIECES_PER_STEP);
        }
        let first = u32::try_from(self.next).map_err(|_| EngineError::Bug("a piece that validation does not admit"))?;
        Ok(Some((first, self.pending)))
    }

    /// First piece not brought yet.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Brings the first `count` of what is wanted.
    pub(crate) fn fill(
        &mut self,
        streamed: &[Slot],
        window: &mut Buffers,
        rooms: &mut Rooms,
        stream_bytes: u64,
        (source, count): (&dyn PieceSource, u32),
        compute: Compute,
    ) -> Result<(), EngineError> {
        if count == 0 || count > self.pending {
            return Err(EngineError::Reply("other pieces were asked for"));
        }
        let slots = streamed.get(self.slots.clone()).unwrap_or(&[]);
        let count = u64::from(count);
        let threads = if overlap(slots) { 1 } else { compute.workers.threads().min(ROOMS) as u64 };
        let threads = threads.min(count);
        let mut parts: [Option<Part<'_>>; ROOMS] = [const { None }; ROOMS];
        let mut rest = window.span();
        for (index, (part, room)) in (0..threads).zip(parts.iter_mut().zip(rooms.0.chunks_exact_mut(PIECE))) {
            let pieces = self.next + count * index / threads..self.next + count * (index + 1) / threads;
            let end =
                if index + 1 < threads { reached(slots, pieces.end * PIECE as u64) } else { reached(slots, u64::MAX) };
            let (span, later) = rest.split(end)?;
            rest = later;
            *part = Some(Part {
                pieces,
                slots,
                span,
                room,
                stream_bytes,
                filled: Err(EngineError::Bug("a part of a load that no thread took")),
            });
        }
        let one = Compute::from(compute.set);
        let mut work = parts.each_mut().map(|part| move || part.iter_mut().for_each(|part| part.fill(source, one)));
        let mut tasks = work.each_mut().map(|work| work as Task<'_>);
        compute.workers.run(tasks.get_mut(..threads as usize).unwrap_or_default());
        for part in parts.into_iter().flatten() {
            part.filled?;
        }
        self.next += count;
        self.pending -= count as u32;
        Ok(())
    }
}

/// Widens `window` to the pieces that `slots` need from piece `from` on. False once they do not all lie within
/// [`PIECES_PER_STEP`]; then it ends where that many do.
pub(crate) fn widen_window(window: &mut Range<u64>, slots: &[Slot], from: u64) -> bool {
    const MOST: u64 = PIECES_PER_STEP as u64;
    slots.iter().map(Slot::pieces).filter(|pieces| pieces.end > from).all(|pieces| {
        let start = pieces.start.max(from);
        if window.is_empty() {
            *window = start..start;
        }
        let both = window.start.min(start)..window.end.max(pieces.end);
        if both.end - both.start <= MOST {
            *window = both;
            return true;
        }
        let full = window.start + MOST;
        if (window.start..full).contains(&start) {
            window.end = full;
        }
        false
    })
}

/// One thread's share of a load.
struct Part<'a> {
    pieces: Range<u64>,
    slots: &'a [Slot],
    /// What these pieces fill of the window.
    span: Span<'a>,
    room: &'a mut [u8],
    stream_bytes: u64,
    filled: Result<(), EngineError>,
}

impl Part<'_> {
    fn fill(&mut self, source: &dyn PieceSource, compute: Compute) {
        self.filled = self.pieces.clone().try_for_each(|piece| {
            let start = piece * PIECE as u64;
            let len = self.stream_bytes.saturating_sub(start).min(PIECE as u64) as usize;
            let plain = self.room.get_mut(..len).ok_or(EngineError::Bug("a piece is longer than its room"))?;
            // Validation bounds it.
            let index = piece as u32;
            if piece + 1 < self.pieces.end {
                source.soon(index + 1);
            }
            if !source.open(index, plain) {
                plain.zeroize();
                return Err(EngineError::Piece { index });
            }
            self.slots.iter().try_for_each(|slot| slot.take(start, plain, compute, &mut self.span))
        });
    }
}

/// The first piece at or after `from` that holds bytes of a slot. Slots are in the order of their first byte, so the first
/// one that does not end before `from` decides.
fn next_piece(slots: &[Slot], from: u64) -> Option<u64> {
    slots.iter().map(Slot::pieces).find(|pieces| pieces.end > from).map(|pieces| pieces.start.max(from))
}

/// Whether tiles share bytes of the stream: what a stretch of it fills is then no stretch of the window.
fn overlap(slots: &[Slot]) -> bool {
    slots.windows(2).any(|pair| matches!(pair, [a, b] if a.bytes.end > b.bytes.start))
}

/// What tiles that do not overlap fill of the window with all bytes of the stream before `byte`.
fn reached(slots: &[Slot], byte: u64) -> Extent {
    let mut reached = Extent::default();
    for slot in slots.iter().filter(|slot| slot.bytes.start < byte) {
        let end = slot.element(byte.min(slot.bytes.end));
        match slot.held {
            DType::F32 => reached.f32 = end,
            DType::I64 => reached.i64 = end,
            DType::Bool => reached.bool = end,
            DType::U8 => reached.u8 = end,
        }
    }
    reached
}
