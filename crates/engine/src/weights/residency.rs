//! Which constants stay inside and which stream through the window: decided once, when a Program is prepared, from the
//! Program, its weight table and the budget alone. Nothing here ever sees data.
//!
//! The unit is the *tile*, exactly as instructions name it. Those come first that save most per byte kept: tiles that many
//! instructions read, and small ones, which cost a whole chunk each time. Among about equals those of the most demanding
//! instructions come first, since without them the window may be smaller; among those, the order of the stream, since
//! neighbours share chunks. As many as fit are kept.

use alloc::vec::Vec;
use core::cmp::Reverse;
use core::ops::Range;

use super::Slot;
use crate::memory::Extent;
use crate::prepared::Residency;
use crate::program::{Program, Tile, WeightTable};
use crate::{CHUNK, EngineError, Place};

/// What lies where.
pub(crate) struct Layout {
    /// Resident tiles, in the order of the stream.
    pub(crate) kept: Vec<Slot>,
    /// Room for them.
    pub(crate) kept_extent: Extent,
    /// Tiles of the window: those of instruction `i` are `streamed[ends[i - 1]..ends[i]]`, in the order of the stream.
    pub(crate) streamed: Vec<Slot>,
    /// See `streamed`; empty when everything is resident.
    pub(crate) ends: Vec<u32>,
    /// Room for the most demanding instruction.
    pub(crate) window: Extent,
    /// Bytes of the last chunk, kept because the next instruction's tiles begin in it.
    pub(crate) carry: u64,
}

/// One instruction reads one tile.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Read {
    tensor: u32,
    start: u32,
    len: u32,
    instruction: u32,
}

/// A tile and everything that reads it.
struct Unit {
    reads: Range<u32>,
    /// Largest load, in bytes, of an instruction that reads it.
    load: u64,
    /// Bytes of chunks saved per request and byte kept, as a power of two.
    benefit: u32,
}

impl Layout {
    /// Decides for a validated Program.
    pub(crate) fn choose(program: &Program, table: &WeightTable, residency: Residency) -> Result<Self, EngineError> {
        let reads = reads(program)?;
        let units = units(program, table, &reads)?;
        let kept = Choice { program, table, reads: &reads, units: &units }.kept(residency)?;
        build(program, table, &reads, &units, &kept)
    }

    /// The same with its lists in new places. They were made while larger ones were there that only the choice needed;
    /// now they can take the place of those instead of splitting what is free.
    pub(crate) fn moved(mut self) -> Result<Self, EngineError> {
        for slots in [&mut self.kept, &mut self.streamed] {
            let mut moved = reserve(slots.len())?;
            moved.append(slots);
            *slots = moved;
        }
        let mut ends = reserve(self.ends.len())?;
        ends.append(&mut self.ends);
        Ok(Self { ends, ..self })
    }

    /// Bytes of residence and of the window.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.kept_extent.bytes(), self.window.bytes().saturating_add(self.carry))
    }

    /// Bytes of the tables themselves.
    pub(crate) fn table_bytes(&self) -> u64 {
        let slots = self.kept.capacity() + self.streamed.capacity();
        (slots * size_of::<Slot>() + self.ends.capacity() * size_of::<u32>()) as u64
    }

    /// Tiles an instruction loads into the window.
    pub(crate) fn group(&self, instruction: usize) -> Range<usize> {
        let end = |index: usize| self.ends.get(index).copied().unwrap_or(0) as usize;
        instruction.checked_sub(1).map_or(0, end)..end(instruction)
    }

    /// Chunks one request asks for.
    pub(crate) fn chunks_per_request(&self) -> u64 {
        let (mut chunks, mut carried) = (0, None);
        for instruction in 0..self.ends.len() {
            let group = self.streamed.get(self.group(instruction)).unwrap_or(&[]);
            let mut next = 0;
            for slot in group {
                let first = slot.first_chunk().max(next);
                chunks += (slot.last_chunk() + 1).saturating_sub(first);
                next = next.max(slot.last_chunk() + 1);
            }
            if let Some(first) = group.first() {
                chunks -= u64::from(carried == Some(first.first_chunk()));
                carried = Some(next - 1);
            }
        }
        chunks
    }
}

/// Every tile of every instruction, once per instruction, in the order of the stream.
fn reads(program: &Program) -> Result<Vec<Read>, EngineError> {
    let mut reads = reserve(program.instructions.iter().map(|i| i.tiles().count()).sum())?;
    for (instruction, tiles) in (0..).zip(program.instructions.iter().map(|i| i.tiles())) {
        reads.extend(tiles.map(|Tile { tensor, start, len }| Read { tensor, start, len, instruction }));
    }
    reads.sort_unstable();
    reads.dedup();
    Ok(reads)
}

fn units(program: &Program, table: &WeightTable, reads: &[Read]) -> Result<Vec<Unit>, EngineError> {
    let mut loads: Vec<u64> = reserve(program.instructions.len())?;
    loads.resize(program.instructions.len(), 0);
    for read in reads {
        if let Some(load) = loads.get_mut(read.instruction as usize) {
            *load = load.saturating_add(extent(table, read)?.bytes());
        }
    }
    let mut units: Vec<Unit> = reserve(reads.chunk_by(same_tile).count())?;
    let mut at = 0;
    for group in reads.chunk_by(same_tile) {
        let load = group.iter().filter_map(|read| loads.get(read.instruction as usize)).max().copied().unwrap_or(0);
        let bytes = group.first().map_or(Ok(1), |read| extent(table, read).map(Extent::bytes))?.max(1);
        let saved = (group.len() as u64).saturating_mul(bytes.max(CHUNK as u64));
        units.push(Unit { reads: at..at + group.len() as u32, load, benefit: (saved / bytes).max(1).ilog2() });
        at += group.len() as u32;
    }
    Ok(units)
}

fn same_tile(a: &Read, b: &Read) -> bool {
    (a.tensor, a.start, a.len) == (b.tensor, b.start, b.len)
}

struct Choice<'a> {
    program: &'a Program,
    table: &'a WeightTable,
    reads: &'a [Read],
    units: &'a [Unit],
}

impl Choice<'_> {
    /// Whether each unit is kept. Begins with all and gives up the least useful until the rest fits.
    fn kept(&self, residency: Residency) -> Result<Vec<bool>, EngineError> {
        let mut kept = reserve(self.units.len())?;
        kept.resize(self.units.len(), true);
        let budget = match residency {
            Residency::All => return Ok(kept),
            Residency::Budget { bytes } => Some(bytes),
            Residency::Least => None,
        };
        let mut order: Vec<u32> = reserve(self.units.len())?;
        order.extend(0..self.units.len() as u32);
        order.sort_unstable_by_key(|&index| {
            let unit = self.units.get(index as usize);
            unit.map(|unit| (Reverse(unit.benefit), Reverse(unit.load.checked_ilog2()), index))
        });
        let mut loads: Vec<Extent> = reserve(self.program.instructions.len())?;
        loads.resize(self.program.instructions.len(), Extent::default());
        let mut resident = Extent::default();
        for unit in self.units {
            let one = extent(self.table, self.first(unit)?)?;
            resident = resident.plus(one);
        }
        let (mut window, mut streamed, mut worst) = (Extent::default(), 0, 0);
        loop {
            let needed = self.cost(resident, window, order.len(), streamed);
            if budget.is_some_and(|budget| needed <= budget) {
                return Ok(kept);
            }
            let Some(index) = order.pop() else {
                let Some(available) = budget else { return Ok(kept) };
                let name = self.program.instructions.get(worst as usize).map_or("", |it| it.name());
                let at = Place::Instruction { index: worst, name };
                return Err(EngineError::Memory { at, what: "the weight window", needed, available });
            };
            let unit = self.units.get(index as usize).ok_or(MISSING)?;
            let one = extent(self.table, self.first(unit)?)?;
            resident = resident.minus(one);
            streamed += unit.reads.len();
            if let Some(kept) = kept.get_mut(index as usize) {
                *kept = false;
            }
            for read in self.reads.get(unit.reads.start as usize..unit.reads.end as usize).unwrap_or(&[]) {
                let load = loads.get_mut(read.instruction as usize).ok_or(MISSING)?;
                *load = load.plus(one);
                let larger = window.max(*load);
                if larger != window {
                    (window, worst) = (larger, read.instruction);
                }
            }
        }
    }

    fn first(&self, unit: &Unit) -> Result<&Read, EngineError> {
        self.reads.get(unit.reads.start as usize).ok_or(MISSING)
    }

    /// Bytes of residence, window and tables, as [`build`] will make them.
    fn cost(&self, resident: Extent, window: Extent, kept: usize, streamed: usize) -> u64 {
        let ends = if streamed > 0 { self.program.instructions.len() * size_of::<u32>() } else { 0 };
        let tables = (kept + streamed) * size_of::<Slot>() + ends;
        let carry = if streamed > 0 { carry(self.table) } else { 0 };
        resident.bytes().saturating_add(window.bytes()).saturating_add(carry).saturating_add(tables as u64)
    }
}

fn build(
    program: &Program,
    table: &WeightTable,
    reads: &[Read],
    units: &[Unit],
    kept: &[bool],
) -> Result<Layout, EngineError> {
    let count = |wanted: bool| units.iter().zip(kept).filter(move |(_, kept)| **kept == wanted).map(|(unit, _)| unit);
    let streams = count(false).next().is_some();
    let mut layout = Layout {
        kept: reserve(count(true).count())?,
        kept_extent: Extent::default(),
        streamed: reserve(count(false).map(|unit| unit.reads.len()).sum())?,
        ends: reserve(if streams { program.instructions.len() } else { 0 })?,
        window: Extent::default(),
        carry: if streams { carry(table) } else { 0 },
    };
    let first = |unit: &Unit| reads.get(unit.reads.start as usize).copied().ok_or(MISSING);
    for unit in count(true) {
        let slot = slot(table, &first(unit)?, &mut layout.kept_extent)?;
        layout.kept.push(slot);
    }
    if !streams {
        return Ok(layout);
    }
    let mut wanted: Vec<Read> = reserve(layout.streamed.capacity())?;
    for unit in count(false) {
        wanted.extend_from_slice(reads.get(unit.reads.start as usize..unit.reads.end as usize).ok_or(MISSING)?);
    }
    // Within an instruction: the order of the stream.
    wanted.sort_unstable_by_key(|read| (read.instruction, *read));
    let mut wanted = wanted.iter().peekable();
    for instruction in 0..program.instructions.len() as u32 {
        let mut load = Extent::default();
        while let Some(read) = wanted.next_if(|read| read.instruction == instruction) {
            layout.streamed.push(slot(table, read, &mut load)?);
        }
        layout.window = layout.window.max(load);
        layout.ends.push(layout.streamed.len() as u32);
    }
    Ok(layout)
}

const MISSING: EngineError = EngineError::Bug("a validated tile is missing");

/// Bytes the last chunk may have.
fn carry(table: &WeightTable) -> u64 {
    table.stream_bytes().min(CHUNK as u64)
}

fn extent(table: &WeightTable, read: &Read) -> Result<Extent, EngineError> {
    let info = table.0.get(read.tensor as usize).ok_or(MISSING)?;
    let mut extent = Extent::default();
    extent.push(info.dtype, read.len);
    Ok(extent)
}

fn slot(table: &WeightTable, read: &Read, extent: &mut Extent) -> Result<Slot, EngineError> {
    let info = table.0.get(read.tensor as usize).ok_or(MISSING)?;
    let tile = Tile { tensor: read.tensor, start: read.start, len: read.len };
    let size = u64::from(info.dtype.bytes());
    let start = info.offset + u64::from(tile.start) * size;
    let bytes = start..start + u64::from(tile.len) * size;
    Ok(Slot { tile, dtype: info.dtype, bytes, at: extent.push(info.dtype, tile.len) })
}

fn reserve<T>(n: usize) -> Result<Vec<T>, EngineError> {
    let mut items = Vec::new();
    let needed = (n as u64).saturating_mul(size_of::<T>() as u64);
    items.try_reserve_exact(n).map_err(|_| EngineError::Allocation { what: "the weight tables", needed })?;
    Ok(items)
}
