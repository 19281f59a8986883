//! Where constants lie inside: some resident, the others one instruction's at a time in a window ([`residency`]).
//!
//! Loading takes the whole stream once, in chunks of [`CHUNK`] plaintext bytes, and keeps what is resident. What streams comes
//! again with every request, in pieces of [`PIECE`] bytes, from wherever the caller has put it ([`streaming`]). Tensors straddle
//! the borders of both; they start on multiples of 64 bytes, as do chunks and pieces, so an element never does.
//! Constants stored as f16 are computed with as `f32`: streamed ones are widened on their way into the window; resident
//! ones stay inside as `f32` where there is room, else as they are stored, and are then widened into the window just
//! before use.
//! Which pieces are asked for, and in which order, follows from the tiles the Program names, the budget, and nothing else.

mod residency;
mod streaming;

use core::ops::Range;

use cordon_kernels::parallel::Compute;

use self::residency::Layout;
pub use self::streaming::Source;
use self::streaming::{Load, Rooms};
use crate::memory::{Buffers, Span};
use crate::prepared::{Residency, ValueRef};
use crate::program::{DType, Instruction, Program, Stored, Tile, WeightInfo, WeightTable};
use crate::{CHUNK, CHUNKS_PER_STEP, EngineError, KernelSet, PIECE, Place};

impl WeightInfo {
    /// Bytes the tensor takes in the stream.
    pub fn bytes(&self) -> u64 {
        u64::from(self.len) * u64::from(self.stored.bytes())
    }
}

impl WeightTable {
    /// Bytes of the whole stream: up to the end of the last tensor, without padding.
    pub fn stream_bytes(&self) -> u64 {
        self.0.last().map_or(0, |last| last.offset.saturating_add(last.bytes()))
    }

    /// Chunks of the whole stream.
    pub fn chunks(&self) -> u64 {
        self.stream_bytes().div_ceil(CHUNK as u64)
    }
}

/// A stretch of the stream and the place its elements go to.
struct Slot {
    tile: Tile,
    stored: Stored,
    /// Of the memory it lies in; `U8` for f16 kept as it is stored.
    held: DType,
    /// Bytes of the stream.
    bytes: Range<u64>,
    /// First element in the buffers.
    at: u64,
}

impl Slot {
    fn first_piece(&self) -> u64 {
        self.bytes.start / PIECE as u64
    }

    /// Whether it lies there as stored, and instructions cannot read it so.
    fn is_packed(&self) -> bool {
        self.held != self.stored.dtype()
    }

    fn last_piece(&self) -> u64 {
        (self.bytes.end - 1) / PIECE as u64
    }

    /// Copies what it holds of the stream from byte `start` on.
    fn take(&self, start: u64, plain: &[u8], compute: Compute, span: &mut Span<'_>) -> Result<(), EngineError> {
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
    fn element(&self, byte: u64) -> u64 {
        let size = if self.is_packed() { 1 } else { u64::from(self.stored.bytes()) };
        self.at + byte.saturating_sub(self.bytes.start) / size
    }
}

/// The one load of what is resident.
#[derive(Default)]
struct Loading {
    /// First chunk not taken yet.
    next: u64,
    /// Resident tiles that end before it.
    passed: usize,
    /// Chunks asked for and not taken yet.
    pending: u32,
}

/// The constants of one Program.
pub(crate) struct Weights {
    layout: Layout,
    kept: Buffers,
    window: Buffers,
    rooms: Rooms,
    stream_bytes: u64,
    loading: Loading,
    load: Load,
    /// Packed tiles of the instruction at hand, and where the window holds them widened.
    widened: [Option<(Tile, u64)>; MAX_TILES],
}

/// Most tiles of an instruction.
const MAX_TILES: usize = 5;

/// What the constants of a Program will take, in bytes, and the traffic of one request.
pub(crate) struct Needs {
    pub(crate) resident: u64,
    pub(crate) window: u64,
    pub(crate) tables: u64,
    /// Pieces, and instructions that ask for some.
    pub(crate) traffic: [u64; 2],
}

/// What [`Weights`] will report, without allocating it.
pub(crate) fn predict(program: &Program, table: &WeightTable, residency: Residency) -> Result<Needs, EngineError> {
    let layout = Layout::choose(program, table, residency)?;
    let (resident, window) = layout.bytes();
    Ok(Needs { resident, window, tables: layout.table_bytes(), traffic: layout.traffic() })
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
            loading: Loading::default(),
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
        self.layout.traffic()[0]
    }

    /// Before a request: wipes the window, and starts loading over if it never finished.
    pub(crate) fn restart(&mut self) {
        self.window.wipe(KernelSet::PORTABLE);
        self.rooms.wipe();
        self.load = Load::default();
        if self.chunks_left() > 0 {
            self.loading = Loading::default();
        }
    }

    /// The chunks to bring next, or `None` when all were loaded.
    pub(crate) fn wanted_chunks(&mut self) -> Option<(u32, u32)> {
        if self.loading.pending == 0 {
            // The minimum is a u32.
            self.loading.pending = self.chunks_left().min(CHUNKS_PER_STEP.into()) as u32;
        }
        let Loading { next, pending, .. } = self.loading;
        // Validation bounds the number of chunks by u32, so the conversion succeeds.
        u32::try_from(next).ok().map(|first| (first, pending)).filter(|(_, count)| *count > 0)
    }

    /// Takes one chunk of those wanted.
    pub(crate) fn accept(&mut self, index: u32, plain: &[u8], compute: Compute) -> Result<(), EngineError> {
        let Loading { next, passed, pending } = &mut self.loading;
        if *pending == 0 || u64::from(index) != *next {
            return Err(EngineError::Reply("not the chunk that comes next"));
        }
        let start = *next * CHUNK as u64;
        if plain.len() as u64 != (self.stream_bytes - start).min(CHUNK as u64) {
            return Err(EngineError::Reply("the chunk has another length than the weight stream gives it"));
        }
        let end = start + plain.len() as u64;
        let kept = &self.layout.kept;
        *passed += kept.iter().skip(*passed).take_while(|slot| slot.bytes.end <= start).count();
        for slot in kept.iter().skip(*passed).take_while(|slot| slot.bytes.start < end) {
            slot.take(start, plain, compute, &mut self.kept.span())?;
        }
        *next += 1;
        *pending -= 1;
        Ok(())
    }

    fn chunks_left(&self) -> u64 {
        self.stream_bytes.div_ceil(CHUNK as u64) - self.loading.next
    }

    /// Before an instruction: what its tiles need of the stream is now wanted.
    pub(crate) fn begin(&mut self, instruction: usize) {
        self.load = Load::of(self.layout.group(instruction));
    }

    /// The pieces to bring next, or `None` when the window is complete.
    pub(crate) fn wanted_pieces(&mut self) -> Result<Option<(u32, u32)>, EngineError> {
        self.load.wanted(&self.layout.streamed)
    }

    /// Fills the window with the pieces wanted.
    pub(crate) fn fill(&mut self, source: &dyn Source, compute: Compute) -> Result<(), EngineError> {
        let Self { layout, window, rooms, stream_bytes, load, .. } = self;
        load.fill(&layout.streamed, window, rooms, *stream_bytes, source, compute)
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
