//! Where constants lie inside: all of them resident, or one instruction's at a time in a window.
//!
//! The stream is cut into chunks of [`CHUNK`] plaintext bytes and tensors straddle chunk borders. Tensors start on
//! multiples of 64 bytes and a chunk is a multiple of 64, so an element never does. Which chunks are asked for, and in
//! which order, follows from the tiles the Program names and from nothing else.

use alloc::vec::Vec;
use core::ops::Range;

use crate::memory::{Buffers, Extent};
use crate::prepared::{Residency, ValueRef};
use crate::program::{DType, Program, Tile, WeightInfo, WeightTable};
use crate::{CHUNK, CHUNKS_PER_STEP, EngineError, Place};

impl WeightInfo {
    /// Bytes the tensor takes in the stream.
    pub fn bytes(&self) -> u64 {
        u64::from(self.len) * u64::from(self.dtype.bytes())
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
    dtype: DType,
    /// Bytes of the stream.
    bytes: Range<u64>,
    /// First element in the buffers.
    at: u64,
}

impl Slot {
    fn first_chunk(&self) -> u64 {
        self.bytes.start / CHUNK as u64
    }

    fn last_chunk(&self) -> u64 {
        (self.bytes.end - 1) / CHUNK as u64
    }
}

enum Plan {
    /// One slot per tensor an instruction uses, in the order of tensors.
    Resident,
    /// Slots of instruction `i` are `slots[ends[i - 1]..ends[i]]`.
    Window { ends: Vec<u32> },
}

/// A load under way.
struct Load {
    /// Slots to fill, in the order of the stream.
    slots: Range<usize>,
    /// First chunk not taken yet.
    next: u64,
    /// Chunks asked for and not taken yet.
    pending: u32,
}

/// The constants of one Program.
pub(crate) struct Weights {
    slots: Vec<Slot>,
    plan: Plan,
    buffers: Buffers,
    stream_bytes: u64,
    load: Load,
    resident: bool,
}

/// Bytes that [`Weights::bytes`] and [`Weights::table_bytes`] will give, without allocating the former.
pub(crate) fn predict(program: &Program, table: &WeightTable, residency: Residency) -> Result<(u64, u64), EngineError> {
    let (slots, plan, extent) = layout(program, table, residency)?;
    Ok((extent.bytes(), heap_bytes(&slots, &plan)))
}

impl Weights {
    /// Lays out residency or window for a validated Program. `available` is what the budget leaves.
    pub(crate) fn prepare(
        program: &Program,
        table: &WeightTable,
        residency: Residency,
        available: u64,
    ) -> Result<Self, EngineError> {
        let (slots, plan, extent) = layout(program, table, residency)?;
        let tables = heap_bytes(&slots, &plan);
        let needed = extent.bytes().saturating_add(tables);
        if needed > available {
            return Err(EngineError::Memory { at: Place::Program, what: "weights", needed, available });
        }
        let buffers = Buffers::allocate(extent, "weights")?;
        let mut weights = Self {
            slots,
            plan,
            buffers,
            stream_bytes: table.stream_bytes(),
            load: Load { slots: 0..0, next: 0, pending: 0 },
            resident: false,
        };
        weights.restart();
        Ok(weights)
    }

    /// Whether the buffers are a window, not a residence.
    pub(crate) fn is_window(&self) -> bool {
        matches!(self.plan, Plan::Window { .. })
    }

    /// Bytes of residence or window.
    pub(crate) fn bytes(&self) -> u64 {
        self.buffers.bytes()
    }

    /// Bytes of the tables that say what lies where.
    pub(crate) fn table_bytes(&self) -> u64 {
        heap_bytes(&self.slots, &self.plan)
    }

    /// Before a request: wipes the window, or starts the one load of resident weights over if it never finished.
    pub(crate) fn restart(&mut self) {
        match self.plan {
            Plan::Resident if self.resident => {}
            Plan::Resident => self.load = Load { slots: 0..self.slots.len(), next: 0, pending: 0 },
            Plan::Window { .. } => {
                self.buffers.wipe();
                self.load = Load { slots: 0..0, next: 0, pending: 0 };
            }
        }
    }

    /// Before an instruction: starts loading its tiles into the window.
    pub(crate) fn begin(&mut self, instruction: usize) {
        if let Plan::Window { .. } = self.plan {
            self.load = Load { slots: self.group(instruction), next: 0, pending: 0 };
        }
    }

    /// The chunks to send next, or `None` when the load under way is complete. What was asked for once is asked for
    /// until it has come.
    pub(crate) fn wanted(&mut self) -> Option<(u32, u32)> {
        if self.load.pending == 0 {
            let next = self.load.next;
            let passed = self.loading().iter().take_while(|slot| slot.last_chunk() < next).count();
            self.load.slots.start += passed;
            let Some(first) = self.next_chunk(next) else {
                self.resident |= matches!(self.plan, Plan::Resident);
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
    pub(crate) fn accept(&mut self, index: u32, plain: &[u8]) -> Result<(), EngineError> {
        if self.load.pending == 0 || u64::from(index) != self.load.next {
            return Err(EngineError::Reply("not the chunk that comes next"));
        }
        let start = u64::from(index) * CHUNK as u64;
        let expected = self.stream_bytes.saturating_sub(start).min(CHUNK as u64);
        if plain.len() as u64 != expected {
            return Err(EngineError::Reply("the chunk has another length than the weight stream gives it"));
        }
        let end = start + expected;
        for slot in self.slots.get(self.load.slots.clone()).unwrap_or(&[]) {
            if slot.bytes.start >= end {
                break;
            }
            let (from, to) = (slot.bytes.start.max(start), slot.bytes.end.min(end));
            if from >= to {
                continue;
            }
            let piece = plain.get((from - start) as usize..(to - start) as usize);
            let piece = piece.ok_or(EngineError::Bug("a piece of a chunk lies outside it"))?;
            let at = slot.at + (from - slot.bytes.start) / u64::from(slot.dtype.bytes());
            self.buffers.store_bytes(slot.dtype, at, piece, Place::Weight(slot.tile.tensor))?;
        }
        self.load.next += 1;
        self.load.pending -= 1;
        Ok(())
    }

    /// The elements of a tile `instruction` names.
    pub(crate) fn get(&self, instruction: usize, tile: Tile) -> Result<ValueRef<'_>, EngineError> {
        let missing = EngineError::Bug("a validated tile is not loaded");
        let slot = match self.plan {
            Plan::Resident => {
                let index = self.slots.binary_search_by_key(&tile.tensor, |slot| slot.tile.tensor);
                index.ok().and_then(|index| self.slots.get(index))
            }
            Plan::Window { .. } => {
                let group = self.slots.get(self.group(instruction)).unwrap_or(&[]);
                group.iter().find(|slot| slot.tile == tile)
            }
        };
        let slot = slot.ok_or(missing)?;
        let skip = tile.start.checked_sub(slot.tile.start).ok_or(missing)?;
        self.buffers.view(slot.dtype, slot.at + u64::from(skip), tile.len)
    }

    #[cfg(test)]
    pub(crate) fn is_wiped(&self) -> bool {
        self.buffers.is_wiped()
    }

    fn group(&self, instruction: usize) -> Range<usize> {
        let Plan::Window { ends } = &self.plan else { return 0..0 };
        let start = instruction.checked_sub(1).and_then(|before| ends.get(before)).copied().unwrap_or(0);
        let end = ends.get(instruction).copied().unwrap_or(start);
        start as usize..end as usize
    }

    /// The slots of the load under way that are not complete.
    fn loading(&self) -> &[Slot] {
        self.slots.get(self.load.slots.clone()).unwrap_or(&[])
    }

    /// The first chunk at or after `from` that holds bytes of a slot. Slots are in the order of their first byte, so the
    /// first one that does not end before `from` decides.
    fn next_chunk(&self, from: u64) -> Option<u64> {
        self.loading().iter().find(|slot| slot.last_chunk() >= from).map(|slot| slot.first_chunk().max(from))
    }
}

type Layout = (Vec<Slot>, Plan, Extent);

fn layout(program: &Program, table: &WeightTable, residency: Residency) -> Result<Layout, EngineError> {
    match residency {
        Residency::All => resident(program, table),
        Residency::Stream { window_bytes } => window(program, table, window_bytes),
    }
}

fn resident(program: &Program, table: &WeightTable) -> Result<Layout, EngineError> {
    let mut used = reserve(table.0.len())?;
    used.resize(table.0.len(), false);
    for instruction in &program.instructions {
        for tile in instruction.tiles() {
            if let Some(used) = used.get_mut(tile.tensor as usize) {
                *used = true;
            }
        }
    }
    let mut slots = reserve(used.iter().filter(|&&used| used).count())?;
    let mut extent = Extent::default();
    for (index, info) in table.0.iter().enumerate().filter(|(index, _)| used.get(*index) == Some(&true)) {
        let tile = Tile { tensor: index as u32, start: 0, len: info.len };
        slots.push(slot(tile, info, &mut extent));
    }
    Ok((slots, Plan::Resident, extent))
}

fn window(program: &Program, table: &WeightTable, window_bytes: u64) -> Result<Layout, EngineError> {
    let mut slots: Vec<Slot> = reserve(program.instructions.iter().map(|i| i.tiles().count()).sum())?;
    let mut ends: Vec<u32> = reserve(program.instructions.len())?;
    let mut largest = Extent::default();
    for (index, instruction) in program.instructions.iter().enumerate() {
        let first = slots.len();
        let mut extent = Extent::default();
        for tile in instruction.tiles() {
            let info = table.0.get(tile.tensor as usize).ok_or(EngineError::Bug("a validated tensor is missing"))?;
            slots.push(slot(tile, info, &mut extent));
        }
        if let Some(group) = slots.get_mut(first..) {
            group.sort_unstable_by_key(|slot| slot.bytes.start);
        }
        ends.push(slots.len() as u32);
        largest = largest.max(extent);
        if largest.bytes() > window_bytes {
            let at = Place::Instruction { index: index as u32, name: instruction.name() };
            let needed = largest.bytes();
            return Err(EngineError::Memory { at, what: "the weight window", needed, available: window_bytes });
        }
    }
    Ok((slots, Plan::Window { ends }, largest))
}

fn slot(tile: Tile, info: &WeightInfo, extent: &mut Extent) -> Slot {
    let size = u64::from(info.dtype.bytes());
    let start = info.offset + u64::from(tile.start) * size;
    let bytes = start..start + u64::from(tile.len) * size;
    Slot { tile, dtype: info.dtype, bytes, at: extent.push(info.dtype, tile.len) }
}

fn reserve<T>(n: usize) -> Result<Vec<T>, EngineError> {
    let mut items = Vec::new();
    let needed = (n as u64).saturating_mul(size_of::<T>() as u64);
    items.try_reserve_exact(n).map_err(|_| EngineError::Allocation { what: "the weight tables", needed })?;
    Ok(items)
}

fn heap_bytes(slots: &Vec<Slot>, plan: &Plan) -> u64 {
    let ends = match plan {
        Plan::Resident => 0,
        Plan::Window { ends } => ends.capacity() * size_of::<u32>(),
    };
    (slots.capacity() * size_of::<Slot>() + ends) as u64
}
