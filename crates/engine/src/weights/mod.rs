//! Where constants lie inside: some resident, the others one instruction's at a time in a window ([`residency`]).
//!
//! The stream is cut into chunks of [`CHUNK`] plaintext bytes and tensors straddle chunk borders. Tensors start on
//! multiples of 64 bytes and a chunk is a multiple of 64, so an element never does. Tiles are read mostly in the order of
//! the stream; the last chunk of a load is kept until the next load, so that a chunk two instructions share comes once.
//! Constants stored as f16 are computed with as `f32`: streamed ones are widened on their way into the window; resident
//! ones stay inside as `f32` where there is room, else as they are stored, and are then widened into the window just
//! before use.
//! Which chunks are asked for, and in which order, follows from the tiles the Program names, the budget, and nothing else.

mod residency;

use alloc::vec::Vec;
use core::ops::Range;

use cordon_kernels::parallel::Compute;
use zeroize::Zeroize;

use self::residency::Layout;
use crate::memory::Buffers;
use crate::prepared::{Residency, ValueRef};
use crate::program::{DType, Instruction, Program, Stored, Tile, WeightInfo, WeightTable};
use crate::{CHUNK, CHUNKS_PER_STEP, EngineError, KernelSet, Place};

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
    fn first_chunk(&self) -> u64 {
        self.bytes.start / CHUNK as u64
    }

    /// Whether it lies there as stored, and instructions cannot read it so.
    fn is_packed(&self) -> bool {
        self.held != self.stored.dtype()
    }

    fn last_chunk(&self) -> u64 {
        (self.bytes.end - 1) / CHUNK as u64
    }
}

/// Where a load goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Kept,
    Window,
}

/// A load under way.
struct Load {
    target: Target,
    /// Slots of the target's list to fill, in the order of the stream.
    slots: Range<usize>,
    /// First chunk not taken yet.
    next: u64,
    /// Chunks asked for and not taken yet.
    pending: u32,
}

impl Load {
    fn of(target: Target, slots: Range<usize>) -> Self {
        Self { target, slots, next: 0, pending: 0 }
    }
}

/// The last chunk of the load before.
struct Carry {
    chunk: Option<u64>,
    /// As long as the layout says; what a shorter last chunk leaves over is never read.
    plain: Vec<u8>,
}

/// The constants of one Program.
pub(crate) struct Weights {
    layout: Layout,
    kept: Buffers,
    window: Buffers,
    carry: Carry,
    stream_bytes: u64,
    load: Load,
    /// Packed tiles of the instruction at hand, and where the window holds them widened.
    widened: [Option<(Tile, u64)>; MAX_TILES],
    /// Whether the resident tiles are there.
    resident: bool,
}

/// Most tiles of an instruction.
const MAX_TILES: usize = 5;

/// What the constants of a Program will take, in bytes, and the traffic of one request.
pub(crate) struct Needs {
    pub(crate) resident: u64,
    pub(crate) window: u64,
    pub(crate) tables: u64,
    /// Chunks, and instructions that ask for some.
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
        let refused = EngineError::Allocation { what: "weights", needed: layout.carry };
        let mut plain: Vec<u8> = Vec::new();
        plain.try_reserve_exact(layout.carry as usize).map_err(|_| refused)?;
        plain.resize(layout.carry as usize, 0);
        let mut weights = Self {
            kept: Buffers::allocate(layout.kept_extent, "weights")?,
            window: Buffers::allocate(layout.window, "the weight window")?,
            carry: Carry { chunk: None, plain },
            layout,
            stream_bytes: table.stream_bytes(),
            load: Load::of(Target::Kept, 0..0),
            widened: [None; MAX_TILES],
            resident: false,
        };
        weights.restart();
        Ok(weights)
    }

    /// Bytes of residence, and of the window with the chunk carried over.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.kept.bytes(), self.window.bytes() + self.carry.plain.capacity() as u64)
    }

    /// Bytes of the tables that say what lies where.
    pub(crate) fn table_bytes(&self) -> u64 {
        self.layout.table_bytes()
    }

    /// Chunks every request asks for.
    pub(crate) fn chunks_per_request(&self) -> u64 {
        self.layout.traffic()[0]
    }

    /// Before a request: wipes the window, and starts the one load of resident weights over if it never finished.
    pub(crate) fn restart(&mut self) {
        self.window.wipe(KernelSet::PORTABLE);
        self.carry.plain.fill(0);
        self.carry.chunk = None;
        let missing = if self.resident { 0..0 } else { 0..self.layout.kept.len() };
        self.load = Load::of(Target::Kept, missing);
    }

    /// Before an instruction: starts loading its tiles into the window, with what the chunk carried over holds of them.
    pub(crate) fn begin(&mut self, instruction: usize, compute: Compute) -> Result<(), EngineError> {
        self.load = Load::of(Target::Window, self.layout.group(instruction));
        let first = self.next_chunk(0);
        if let Some(chunk) = first.filter(|_| first == self.carry.chunk) {
            let plain = core::mem::take(&mut self.carry.plain);
            let stored = self.store(chunk, plain.get(..self.chunk_len(chunk)).unwrap_or(&plain), compute);
            self.carry.plain = plain;
            stored?;
            self.load.next = chunk + 1;
        }
        Ok(())
    }

    /// The chunks to send next, or `None` when the load under way is complete. What was asked for once is asked for
    /// until it has come.
    pub(crate) fn wanted(&mut self) -> Option<(u32, u32)> {
        if self.load.pending == 0 {
            let next = self.load.next;
            let passed = self.loading().iter().take_while(|slot| slot.last_chunk() < next).count();
            self.load.slots.start += passed;
            let Some(first) = self.next_chunk(next) else {
                self.resident |= self.load.target == Target::Kept;
                return None;
            };
            self.load.next = first;
            self.load.pending = (1..CHUNKS_PER_STEP)
                .find(|&count| self.next_chunk(first + u64::from(count)) != Some(first + u64::from(count)))
                .unwrap_or(CHUNKS_PER_STEP);
        }
        // Validation bounds the number of chunks by u32, so the conversion succeeds.
        u32::try_from(self.load.next).ok().map(|first| (first, self.load.pending))
    }

    /// Takes one chunk of those wanted.
    pub(crate) fn accept(&mut self, index: u32, plain: &[u8], compute: Compute) -> Result<(), EngineError> {
        let chunk = u64::from(index);
        if self.load.pending == 0 || chunk != self.load.next {
            return Err(EngineError::Reply("not the chunk that comes next"));
        }
        if plain.len() != self.chunk_len(chunk) {
            return Err(EngineError::Reply("the chunk has another length than the weight stream gives it"));
        }
        self.store(chunk, plain, compute)?;
        self.load.next += 1;
        self.load.pending -= 1;
        if self.load.target == Target::Window && self.next_chunk(self.load.next).is_none() {
            let carry = self.carry.plain.get_mut(..plain.len());
            carry.ok_or(EngineError::Bug("a chunk is longer than the room for it"))?.copy_from_slice(plain);
            self.carry.chunk = Some(chunk);
        }
        Ok(())
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
            self.window.store_f16(compute, at, halves)?;
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
        [self.kept.is_wiped(), self.window.is_wiped() && self.carry.plain.iter().all(|&byte| byte == 0)]
    }

    /// Copies what the load under way wants of a chunk.
    fn store(&mut self, chunk: u64, plain: &[u8], compute: Compute) -> Result<(), EngineError> {
        let start = chunk * CHUNK as u64;
        let end = start + plain.len() as u64;
        let (slots, buffers) = match self.load.target {
            Target::Kept => (&self.layout.kept, &mut self.kept),
            Target::Window => (&self.layout.streamed, &mut self.window),
        };
        for slot in slots.get(self.load.slots.clone()).unwrap_or(&[]) {
            if slot.bytes.start >= end {
                break;
            }
            let (from, to) = (slot.bytes.start.max(start), slot.bytes.end.min(end));
            if from >= to {
                continue;
            }
            let piece = plain.get((from - start) as usize..(to - start) as usize);
            let piece = piece.ok_or(EngineError::Bug("a piece of a chunk lies outside it"))?;
            let skipped = from - slot.bytes.start;
            let size = if slot.is_packed() { 1 } else { slot.stored.bytes() };
            let at = slot.at + skipped / u64::from(size);
            match (slot.stored, slot.held) {
                (Stored::F16, DType::F32) => buffers.store_f16(compute, at, piece)?,
                _ => buffers.store_bytes(slot.held, at, piece, Place::Weight(slot.tile.tensor))?,
            }
        }
        Ok(())
    }

    fn chunk_len(&self, chunk: u64) -> usize {
        self.stream_bytes.saturating_sub(chunk * CHUNK as u64).min(CHUNK as u64) as usize
    }

    /// The slots of the load under way that are not complete.
    fn loading(&self) -> &[Slot] {
        let slots = match self.load.target {
            Target::Kept => &self.layout.kept,
            Target::Window => &self.layout.streamed,
        };
        slots.get(self.load.slots.clone()).unwrap_or(&[])
    }

    /// The first chunk at or after `from` that holds bytes of a slot. Slots are in the order of their first byte, so the
    /// first one that does not end before `from` decides.
    fn next_chunk(&self, from: u64) -> Option<u64> {
        self.loading().iter().find(|slot| slot.last_chunk() >= from).map(|slot| slot.first_chunk().max(from))
    }
}

impl Drop for Weights {
    fn drop(&mut self) {
        self.carry.plain.zeroize();
    }
}
