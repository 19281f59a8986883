//! Spilled values: each leaves once, comes back once as it left, and is not touched in between.

use alloc::vec::Vec;

use super::{check, invalid, overlap};
use crate::error::{EngineError, Place};
use crate::program::{DType, Instruction, MAX_SPILL_CHUNKS, MAX_SPILLED, Program, Region};
use crate::stream::CHUNK;

/// Most stretches of the arena whose value is elsewhere: what bounds the work of this check.
const MAX_AWAY: usize = 2 * MAX_SPILLED as usize;

/// A value in the normal world's memory.
struct Spilled {
    instruction: u32,
    slot: u32,
    chunks: u64,
    dtype: DType,
    len: u32,
}

/// Follows every spilled value of a Program whose regions were checked.
pub(super) fn check_spills(program: &Program) -> Result<(), EngineError> {
    let is_move = |it: &Instruction| matches!(it, Instruction::Spill { .. } | Instruction::Restore { .. });
    if !program.instructions.iter().any(is_move) {
        return Ok(());
    }
    let (mut spilled, mut away) = (reserve::<Spilled>(MAX_SPILLED as usize)?, reserve::<Region>(MAX_AWAY)?);
    for (index, instruction) in (0..).zip(&program.instructions) {
        let at = Place::Instruction { index, name: instruction.name() };
        for (field, region) in instruction.reads().filter_map(|read| Some((read.field, read.operand.region()?))) {
            if let Instruction::Spill { .. } = instruction {
                // A value that is not complete yet may leave with what lies where the rest will be.
                check(covered(&away, region) < u64::from(region.len), at, field, GONE)?;
            } else {
                check_here(&away, region, at, field)?;
            }
        }
        write(&mut away, instruction.out(), at)?;
        match instruction {
            Instruction::Spill { slot, value } => {
                let chunks = value.bytes().div_ceil(CHUNK as u64);
                let fits = u64::from(*slot) + chunks <= u64::from(MAX_SPILL_CHUNKS);
                check(fits, at, "slot", "lies outside the memory for spilled values")?;
                let meets = |it: &Spilled| {
                    u64::from(it.slot) < u64::from(*slot) + chunks && u64::from(*slot) < u64::from(it.slot) + it.chunks
                };
                check(!spilled.iter().any(meets), at, "slot", "holds another value")?;
                check(spilled.len() < MAX_SPILLED as usize, at, "slot", "too many values are spilled")?;
                spilled.push(Spilled { instruction: index, slot: *slot, chunks, dtype: value.dtype, len: value.len });
                add(&mut away, *value, at)?;
            }
            Instruction::Restore { slot, out } => {
                let found = spilled.iter().position(|it| it.slot == *slot);
                let found = found.ok_or(invalid(at, "slot", "holds no value"))?;
                let value = spilled.swap_remove(found);
                let same = value.dtype == out.dtype && value.len == out.len;
                check(same, at, "out", "has another type or length than the spilled value")?;
            }
            _ => {}
        }
    }
    for (index, port) in (0..).zip(&program.outputs) {
        check_here(&away, port.region, Place::Output(index), "region")?;
    }
    match spilled.first() {
        Some(Spilled { instruction, .. }) => {
            Err(invalid(Place::Instruction { index: *instruction, name: "Spill" }, "slot", "is never restored"))
        }
        None => Ok(()),
    }
}

const GONE: &str = "was spilled and is not back";

fn check_here(away: &[Region], region: Region, at: Place, field: &'static str) -> Result<(), EngineError> {
    check(!away.iter().any(|it| overlap(*it, region)), at, field, GONE)
}

/// Elements of `region` that are away; those of `away` lie apart.
fn covered(away: &[Region], region: Region) -> u64 {
    let shared = |it: &Region| {
        let end = (it.start + it.len).min(region.start + region.len);
        u64::from(end.saturating_sub(it.start.max(region.start)))
    };
    away.iter().filter(|it| it.dtype == region.dtype).map(shared).sum()
}

/// What is written is there again.
fn write(away: &mut Vec<Region>, out: Region, at: Place) -> Result<(), EngineError> {
    let mut index = 0;
    while let Some(&region) = away.get(index) {
        if !overlap(region, out) {
            index += 1;
            continue;
        }
        away.swap_remove(index);
        // No region ends beyond the arena, whose length is a u32.
        let (end, out_end) = (region.start + region.len, out.start + out.len);
        let parts = [(region.start, out.start.min(end)), (out_end.max(region.start), end)];
        for (start, end) in parts.into_iter().filter(|(start, end)| start < end) {
            add(away, Region { start, len: end - start, ..region }, at)?;
        }
    }
    Ok(())
}

fn add(away: &mut Vec<Region>, region: Region, at: Place) -> Result<(), EngineError> {
    check(away.len() < MAX_AWAY, at, "out", "leaves too many pieces of spilled values")?;
    away.push(region);
    Ok(())
}

fn reserve<T>(n: usize) -> Result<Vec<T>, EngineError> {
    let mut items = Vec::new();
    let needed = n as u64 * size_of::<T>() as u64;
    items.try_reserve_exact(n).map_err(|_| EngineError::Allocation { what: "the checks of spilled values", needed })?;
    Ok(items)
}
