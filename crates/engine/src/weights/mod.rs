//! Where constants lie inside: some resident, the others one instruction's at a time in a window ([`residency`]).
//!
//! Loading takes the whole stream once, in chunks of [`CHUNK`] plaintext bytes, and keeps what is resident. What streams comes
//! again with every request, in pieces of [`PIECE`](crate::PIECE) bytes, from wherever the caller has put it
//! ([`streaming`]). Tensors straddle the borders of both; they start on multiples of 64 bytes, as do chunks and pieces, so
//! an element never does.
//! Constants stored as f16 are computed with as `f32`: streamed ones are widened on their way into the window; resident
//! ones stay inside as `f32` where there is room, else as they are stored, and are then widened into the window just
//! before use.
//! Which pieces are asked for, and in which order, follows from the tiles the Program names, the budget, and nothing else.

mod residency;
mod slot;
mod streaming;

use core::ops::Range;

use cordon_kernels::KernelSet;
use cordon_kernels::parallel::Compute;

pub use self::residency::Residency;
use self::residency::{Layout, Needs};
pub use self::streaming::PieceSource;
use self::streaming::{Load, Rooms, widen_window};
use crate::error::{EngineError, Place};
use crate::memory::Buffers;
use crate::program::{DType, Instruction, Program, Tile, WeightTable};
use crate::stream::CHUNK;
use crate::value::ValueRef;

/// How far the one load of the stream has come.
#[derive(Clone, Copy, Default)]
pub(crate) struct Loaded {
    /// First chunk not taken yet.
    pub(crate) chunks: u64,
    /// Resident tiles that end before it.
    passed: usize,
}

/// The constants of one Program.
pub(crate) struct Weights {
    layout: Layout,
    kept: Buffers,
    window: Buffers,
    rooms: Rooms,
    stream_bytes: u64,
    load: Load,
    /// Packed tiles of the instruction at hand, and where the window holds them widened.
    widened: [Option<(Tile, u64)>; MAX_TILES],
}

/// Most tiles of an instruction.
const MAX_TILES: usize = 5;

/// What [`Weights`] will report, without allocating it.
pub(crate) fn predict(program: &Program, table: &WeightTable, residency: Residency) -> Result<Needs, EngineError> {
    Ok(Layout::choose(program, table, residency)?.needs())
}

impl Weights {
    /// Lays out residence and window for a validated Program. `available` is what the budget leaves.
    pub(crate) fn prepare(
        program: &Program,
        table: &WeightTable,
        residency: Residency,
        available: u64,
    ) -> Result<Self, EngineError> {
        let residency = match residency {
            Residency::Budget { bytes } => Residency::Budget { bytes: bytes.min(available) },
            other => other,
        };
        let layout = Layout::choose(program, table, residency)?.moved()?;
        let (kept, window) = layout.bytes();
        let needed = kept.saturating_add(window).saturating_add(layout.table_bytes());
        if needed > available {
            return Err(EngineError::Memory { at: Place::Program, what: "weights", needed, available });
        }
        Ok(Self {
            kept: Buffers::allocate(layout.kept_extent, "weights")?,
            window: Buffers::allocate(layout.window, "the weight window")?,
            rooms: Rooms::allocate(layout.rooms)?,
            layout,
            stream_bytes: table.stream_bytes(),
            load: Load::default(),
            widened: [None; MAX_TILES],
        })
    }

    /// Bytes of residence, and of the window with the rooms that pieces are opened in.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.kept.bytes(), self.window.bytes() + self.rooms.bytes())
    }

    /// Bytes of the tables that say what lies where.
    pub(crate) fn table_bytes(&self) -> u64 {
        self.layout.table_bytes()
    }

    /// Pieces every request asks for.
    pub(crate) fn pieces_per_request(&self) -> u64 {
        self.layout.needs().pieces
    }

    /// Before a request: wipes the window.
    pub(crate) fn restart(&mut self) {
        self.window.wipe(KernelSet::PORTABLE);
        self.rooms.wipe();
        self.load = Load::default();
    }

    /// Keeps what is resident of the chunk that comes next.
    pub(crate) fn accept(
        &mut self,
        loaded: &mut Loaded,
        index: u32,
        plain: &[u8],
        compute: Compute,
    ) -> Result<(), EngineError> {
        let Loaded { chunks, mut passed } = *loaded;
        let start = chunks.saturating_mul(CHUNK as u64);
        if u64::from(index) != chunks || start >= self.stream_bytes {
            return Err(EngineError::Reply("not the chunk that comes next"));
        }
        if plain.len() as u64 != (self.stream_bytes - start).min(CHUNK as u64) {
            return Err(EngineError::Reply("the chunk has another length than the weight stream gives it"));
        }
        let end = start + plain.len() as u64;
        let kept = &self.layout.kept;
        passed += kept.iter().skip(passed).take_while(|slot| slot.bytes.end <= start).count();
        for slot in kept.iter().skip(passed).take_while(|slot| slot.bytes.start < end) {
            slot.take(start, plain, compute, &mut self.kept.span())?;
        }
        *loaded = Loaded { chunks: chunks + 1, passed };
        Ok(())
    }

    /// Chunks of the whole stream.
    pub(crate) fn chunks(&self) -> u64 {
        self.stream_bytes.div_ceil(CHUNK as u64)
    }

    /// Before an instruction: what its tiles need of the stream is now wanted.
    pub(crate) fn begin(&mut self, instruction: usize) {
        self.load = Load::of(self.layout.group(instruction));
    }

    /// The pieces to bring next, or `None` when the window is complete.
    pub(crate) fn wanted_pieces(&mut self) -> Result<Option<(u32, u32)>, EngineError> {
        self.load.wanted(&self.layout.streamed)
    }

    /// The pieces that `instructions` load, as far as they lie within [`PIECES_PER_STEP`](crate::PIECES_PER_STEP). Of the
    /// first instruction those that are missing, if its load has begun.
    pub(crate) fn ahead(&self, instructions: Range<usize>, begun: bool) -> Range<u32> {
        let mut window = 0..0;
        let mut from = if begun { self.load.next() } else { 0 };
        for instruction in instructions {
            let slots = self.layout.streamed.get(self.layout.group(instruction)).unwrap_or(&[]);
            if !widen_window(&mut window, slots, core::mem::take(&mut from)) {
                break;
            }
        }
        // Validation bounds the number of pieces by u32.
        let narrow = |piece| u32::try_from(piece).unwrap_or(u32::MAX);
        narrow(window.start)..narrow(window.end)
    }

    /// Fills the window with the first `count` of the pieces wanted.
    pub(crate) fn fill(&mut self, source: &dyn PieceSource, count: u32, compute: Compute) -> Result<(), EngineError> {
        let Self { layout, window, rooms, stream_bytes, load, .. } = self;
        load.fill(&layout.streamed, window, rooms, *stream_bytes, (source, count), compute)
    }

    /// Just before an instruction runs: widens the packed tiles it reads, behind what was loaded into the window.
    pub(crate) fn widen(
        &mut self,
        index: usize,
        instruction: &Instruction,
        compute: Compute,
    ) -> Result<(), EngineError> {
        self.widened = [None; MAX_TILES];
        if !self.layout.packs {
            return Ok(());
        }
        let group = self.layout.streamed.get(self.layout.group(index)).unwrap_or(&[]);
        let loaded = group.iter().filter(|slot| slot.held == DType::F32).map(|slot| slot.at + u64::from(slot.tile.len));
        let mut at = loaded.max().unwrap_or(0);
        for tile in instruction.tiles() {
            let Some(slot) = self.layout.kept(tile).filter(|slot| slot.is_packed()) else { continue };
            if self.widened.iter().flatten().any(|(widened, _)| *widened == tile) {
                continue;
            }
            let free = self.widened.iter_mut().find(|it| it.is_none());
            *free.ok_or(EngineError::Bug("an instruction with too many tiles"))? = Some((tile, at));
            let halves = self.kept.bytes_at(slot.at..slot.at + 2 * u64::from(tile.len))?;
            self.window.span().store_f16(compute, at, halves)?;
            at += u64::from(tile.len);
        }
        Ok(())
    }

    /// The elements of a tile `instruction` names.
    pub(crate) fn get(&self, instruction: usize, tile: Tile) -> Result<ValueRef<'_>, EngineError> {
        if let Some((_, at)) = self.widened.iter().flatten().find(|(widened, _)| *widened == tile) {
            return self.window.view(DType::F32, *at, tile.len);
        }
        let group = self.layout.streamed.get(self.layout.group(instruction)).unwrap_or(&[]);
        let (slot, buffers) = match group.iter().find(|slot| slot.tile == tile) {
            Some(slot) => (slot, &self.window),
            None => (self.layout.kept(tile).ok_or(EngineError::Bug("a validated tile is not loaded"))?, &self.kept),
        };
        buffers.view(slot.held, slot.at, tile.len)
    }

    #[cfg(test)]
    pub(crate) fn is_wiped(&self) -> [bool; 2] {
        [self.kept.is_wiped(), self.window.is_wiped() && self.rooms.is_wiped()]
    }
}
