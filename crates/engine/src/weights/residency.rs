//! Which constants stay inside and which stream through the window: decided once, when a Program is prepared, from the
//! Program, its weight table and the budget alone. Nothing here ever sees data.
//!
//! The unit is the *tile*, exactly as instructions name it. Those come first that save most per byte kept: tiles that many
//! instructions read, and small ones, which cost a whole piece each time. Among about equals those of the most demanding
//! instructions come first, since without them the window may be smaller; among those, the order of the stream, since
//! neighbours share pieces. As many as fit are kept; before one is given up, those stored as f16 are kept as they are stored,
//! which takes half the room and costs widening them each time.

use alloc::vec::Vec;
use core::cmp::Reverse;
use core::ops::Range;

use super::slot::Slot;
use super::streaming::ROOMS;
use crate::error::{EngineError, Place};
use crate::memory::Extent;
use crate::program::{DType, Program, Stored, Tile, WeightTable};
use crate::stream::PIECE;

/// How many constants stay inside, loaded once and kept over requests. The others stay in the normal world, encrypted;
/// each instruction's come into a window and are overwritten by the next ones. Which is which follows from the Program
/// and the budget, never from data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residency {
    /// All of them.
    All,
    /// As many as fit, those first that are read most often per request.
    Budget {
        /// Most bytes resident constants, the window and their tables may take together.
        bytes: u64,
    },
    /// None.
    Least,
}

/// What the constants of a Program take, in bytes, and the traffic of one request.
pub(crate) struct Needs {
    pub(crate) resident: u64,
    pub(crate) window: u64,
    pub(crate) tables: u64,
    /// Pieces a request asks for.
    pub(crate) pieces: u64,
    /// Instructions that ask for some.
    pub(crate) loads: u64,
}

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
    /// Whether some tile is kept as it is stored, f16, and the window holds it widened when it is read.
    pub(crate) packs: bool,
    /// Bytes of the rooms that pieces are opened in.
    pub(crate) rooms: u64,
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
    /// Largest load, in bytes of the window, of an instruction that reads it.
    load: u64,
    /// Bytes of pieces saved per request and byte kept, as a power of two.
    benefit: u32,
}

impl Layout {
    /// Decides for a validated Program.
    pub(crate) fn choose(program: &Program, table: &WeightTable, residency: Residency) -> Result<Self, EngineError> {
        let reads = reads(program)?;
        let units = units(program, table, &reads)?;
        let chosen = Choice { program, table, reads: &reads, units: &units }.choose(residency)?;
        build(program, table, &reads, &units, &chosen)
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
        (self.kept_extent.bytes(), self.window.bytes().saturating_add(self.rooms))
    }

    /// Bytes of the tables themselves.
    pub(crate) fn table_bytes(&self) -> u64 {
        let slots = self.kept.capacity() + self.streamed.capacity();
        (slots * size_of::<Slot>() + self.ends.capacity() * size_of::<u32>()) as u64
    }

    /// Where a resident tile lies.
    pub(crate) fn kept(&self, tile: Tile) -> Option<&Slot> {
        let key = |tile: &Tile| (tile.tensor, tile.start, tile.len);
        let index = self.kept.binary_search_by_key(&key(&tile), |slot| key(&slot.tile));
        index.ok().and_then(|index| self.kept.get(index))
    }

    /// Tiles an instruction loads into the window.
    pub(crate) fn group(&self, instruction: usize) -> Range<usize> {
        let end = |index: usize| self.ends.get(index).copied().unwrap_or(0) as usize;
        instruction.checked_sub(1).map_or(0, end)..end(instruction)
    }

    /// What all of it takes.
    pub(crate) fn needs(&self) -> Needs {
        let (resident, window) = self.bytes();
        let (mut pieces, mut loads) = (0, 0);
        for instruction in 0..self.ends.len() {
            let group = self.streamed.get(self.group(instruction)).unwrap_or(&[]);
            let mut next = 0;
            for slot in group {
                let Range { start, end } = slot.pieces();
                pieces += end.saturating_sub(start.max(next));
                next = next.max(end);
            }
            loads += u64::from(!group.is_empty());
        }
        Needs { resident, window, tables: self.table_bytes(), pieces, loads }
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
            *load = load.saturating_add(extent(table, read, false)?.bytes());
        }
    }
    let mut units: Vec<Unit> = reserve(reads.chunk_by(same_tile).count())?;
    let mut at = 0;
    for group in reads.chunk_by(same_tile) {
        let load = group.iter().filter_map(|read| loads.get(read.instruction as usize)).max().copied().unwrap_or(0);
        let bytes = group.first().map_or(Ok(1), |read| extent(table, read, true).map(Extent::bytes))?.max(1);
        let saved = (group.len() as u64).saturating_mul(bytes.max(PIECE as u64));
        units.push(Unit { reads: at..at + group.len() as u32, load, benefit: (saved / bytes).max(1).ilog2() });
        at += group.len() as u32;
    }
    Ok(units)
}

fn same_tile(a: &Read, b: &Read) -> bool {
    (a.tensor, a.start, a.len) == (b.tensor, b.start, b.len)
}

/// How a tile comes to the instructions that read it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// It lies inside as they read it.
    Wide,
    /// It lies inside as it is stored, f16, and is widened into the window.
    Packed,
    /// It is loaded into the window.
    Streamed,
}

/// What stays inside.
struct Chosen {
    /// By unit.
    ways: Vec<Way>,
    window: Extent,
}

struct Choice<'a> {
    program: &'a Program,
    table: &'a WeightTable,
    reads: &'a [Read],
    units: &'a [Unit],
}

impl Choice<'_> {
    /// Begins with everything inside, then packs what can be packed, then gives up what stays, each time the least useful
    /// first and until the rest fits; takes back what of that still fits.
    fn choose(&self, residency: Residency) -> Result<Chosen, EngineError> {
        let mut ways = reserve(self.units.len())?;
        ways.resize(self.units.len(), Way::Wide);
        let budget = match residency {
            Residency::All => return Ok(Chosen { ways, window: Extent::default() }),
            Residency::Budget { bytes } => Some(bytes),
            Residency::Least => None,
        };
        let mut order: Vec<u32> = reserve(self.units.len())?;
        order.extend(0..self.units.len() as u32);
        order.sort_unstable_by_key(|&index| {
            let unit = self.units.get(index as usize);
            unit.map(|unit| (unit.benefit, unit.load.checked_ilog2(), Reverse(index)))
        });
        let mut loads = Loads::none(self.program)?;
        let (mut kept, mut streamed, mut resident) = (self.units.len(), 0, Extent::default());
        for unit in self.units {
            resident = resident.plus(extent(self.table, self.first(unit)?, false)?);
        }
        let mut steps =
            [Way::Packed, Way::Streamed].into_iter().flat_map(|to| order.iter().map(move |&index| (index, to)));
        loop {
            let needed = self.cost(resident, loads.window, kept, streamed);
            if budget.is_some_and(|budget| needed <= budget) {
                break;
            }
            let Some((index, to)) = steps.next() else {
                let Some(available) = budget else { break };
                let name = self.program.instructions.get(loads.worst as usize).map_or("", |it| it.name());
                let at = Place::Instruction { index: loads.worst, name };
                return Err(EngineError::Memory { at, what: "the weight window", needed, available });
            };
            let unit = self.units.get(index as usize).ok_or(MISSING)?;
            let way = ways.get_mut(index as usize).ok_or(MISSING)?;
            let first = self.first(unit)?;
            if to == Way::Packed && !can_be_packed(self.table, first) {
                continue;
            }
            resident = resident.minus(extent(self.table, first, *way == Way::Packed)?);
            let reads = self.reads.get(unit.reads.start as usize..unit.reads.end as usize).unwrap_or(&[]);
            if *way == Way::Wide {
                for read in reads {
                    loads.add(read, self.table)?;
                }
            }
            if to == Way::Packed {
                resident = resident.plus(extent(self.table, first, true)?);
            } else {
                (kept, streamed) = (kept - 1, streamed + reads.len());
            }
            *way = to;
        }
        // What was given up last may be large, and leave room for what was given up before. The window stays as it is.
        for &index in order.iter().rev() {
            let (Some(budget), Some(way)) = (budget, ways.get_mut(index as usize)) else { break };
            if *way != Way::Streamed {
                continue;
            }
            let unit = self.units.get(index as usize).ok_or(MISSING)?;
            let first = self.first(unit)?;
            let back = if can_be_packed(self.table, first) { Way::Packed } else { Way::Wide };
            let more = resident.plus(extent(self.table, first, back == Way::Packed)?);
            let still = streamed.saturating_sub(unit.reads.len());
            if self.cost(more, loads.window, kept + 1, still) <= budget {
                (resident, kept, streamed) = (more, kept + 1, still);
                *way = back;
            }
        }
        Ok(Chosen { ways, window: loads.window })
    }

    fn first(&self, unit: &Unit) -> Result<&Read, EngineError> {
        self.reads.get(unit.reads.start as usize).ok_or(MISSING)
    }

    /// Bytes of residence, window and tables, as [`build`] will make them.
    fn cost(&self, resident: Extent, window: Extent, kept: usize, streamed: usize) -> u64 {
        let ends = if streamed > 0 { self.program.instructions.len() * size_of::<u32>() } else { 0 };
        let tables = (kept + streamed) * size_of::<Slot>() + ends;
        let rooms = if streamed > 0 { rooms(self.table) } else { 0 };
        resident.bytes().saturating_add(window.bytes()).saturating_add(rooms).saturating_add(tables as u64)
    }
}

/// What each instruction needs of the window.
struct Loads {
    each: Vec<Extent>,
    /// Room for any of them.
    window: Extent,
    /// The last instruction that made the window larger.
    worst: u32,
}

impl Loads {
    fn none(program: &Program) -> Result<Self, EngineError> {
        let mut each = reserve(program.instructions.len())?;
        each.resize(program.instructions.len(), Extent::default());
        Ok(Self { each, window: Extent::default(), worst: 0 })
    }

    fn add(&mut self, read: &Read, table: &WeightTable) -> Result<(), EngineError> {
        let load = self.each.get_mut(read.instruction as usize).ok_or(MISSING)?;
        *load = load.plus(extent(table, read, false)?);
        let larger = self.window.max(*load);
        if larger != self.window {
            (self.window, self.worst) = (larger, read.instruction);
        }
        Ok(())
    }
}

fn build(
    program: &Program,
    table: &WeightTable,
    reads: &[Read],
    units: &[Unit],
    chosen: &Chosen,
) -> Result<Layout, EngineError> {
    let all = || units.iter().zip(chosen.ways.iter().copied());
    let streamed = || all().filter(|(_, way)| *way == Way::Streamed).map(|(unit, _)| unit);
    let streams = streamed().next().is_some();
    let mut layout = Layout {
        kept: reserve(units.len() - streamed().count())?,
        kept_extent: Extent::default(),
        streamed: reserve(streamed().map(|unit| unit.reads.len()).sum())?,
        ends: reserve(if streams { program.instructions.len() } else { 0 })?,
        window: chosen.window,
        packs: chosen.ways.contains(&Way::Packed),
        rooms: if streams { rooms(table) } else { 0 },
    };
    let first = |unit: &Unit| reads.get(unit.reads.start as usize).copied().ok_or(MISSING);
    for (unit, way) in all().filter(|(_, way)| *way != Way::Streamed) {
        let slot = slot(table, &first(unit)?, way == Way::Packed, &mut layout.kept_extent)?;
        layout.kept.push(slot);
    }
    if !streams {
        return Ok(layout);
    }
    let mut wanted: Vec<Read> = reserve(layout.streamed.capacity())?;
    for unit in streamed() {
        wanted.extend_from_slice(reads.get(unit.reads.start as usize..unit.reads.end as usize).ok_or(MISSING)?);
    }
    // Within an instruction: the order of the stream.
    wanted.sort_unstable_by_key(|read| (read.instruction, *read));
    let mut wanted = wanted.iter().peekable();
    for instruction in 0..program.instructions.len() as u32 {
        let mut load = Extent::default();
        while let Some(read) = wanted.next_if(|read| read.instruction == instruction) {
            layout.streamed.push(slot(table, read, false, &mut load)?);
        }
        layout.ends.push(layout.streamed.len() as u32);
    }
    Ok(layout)
}

const MISSING: EngineError = EngineError::Bug("a validated tile is missing");

/// Rooms for as many pieces as can be opened side by side.
fn rooms(table: &WeightTable) -> u64 {
    table.stream_bytes().div_ceil(PIECE as u64).min(ROOMS as u64) * PIECE as u64
}

fn can_be_packed(table: &WeightTable, read: &Read) -> bool {
    table.0.get(read.tensor as usize).is_some_and(|info| info.stored == Stored::F16)
}

/// Memory a tile takes, `packed` or as instructions read it.
fn extent(table: &WeightTable, read: &Read, packed: bool) -> Result<Extent, EngineError> {
    let mut extent = Extent::default();
    slot(table, read, packed, &mut extent)?;
    Ok(extent)
}

/// Room for a tile behind `extent`. Only f16 can be packed: it is then held as the bytes of the stream.
fn slot(table: &WeightTable, read: &Read, packed: bool, extent: &mut Extent) -> Result<Slot, EngineError> {
    let info = table.0.get(read.tensor as usize).ok_or(MISSING)?;
    let tile = Tile { tensor: read.tensor, start: read.start, len: read.len };
    let (len, size) = (u64::from(tile.len), u64::from(info.stored.bytes()));
    let start = info.offset + u64::from(tile.start) * size;
    let (held, room) = match info.stored {
        Stored::F16 if packed => (DType::U8, len * size),
        stored => (stored.dtype(), len),
    };
    let bytes = start..start + len * size;
    Ok(Slot { tile, stored: info.stored, held, bytes, at: extent.push(held, room) })
}

fn reserve<T>(n: usize) -> Result<Vec<T>, EngineError> {
    let mut items = Vec::new();
    let needed = (n as u64).saturating_mul(size_of::<T>() as u64);
    items.try_reserve_exact(n).map_err(|_| EngineError::Allocation { what: "the weight tables", needed })?;
    Ok(items)
}
