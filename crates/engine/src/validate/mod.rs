//! Everything a Program must keep, checked once. After this no index, length or stride can be wrong, no step is endless,
//! and kernels get slices of exactly the lengths they document.
//!
//! Four layers: the Program and its tables (this file), rules common to all instructions (this file), the rules of each
//! instruction ([`instruction`]), and the ways of values that are spilled ([`spill`]).

mod instruction;
mod spill;

use cordon_kernels::geometry::MAX_DIMS;

use crate::error::{EngineError, Place};
use crate::program::{
    DType, Instruction, MAX_INSTRUCTIONS, MAX_PORTS, MAX_WEIGHTS, Operand, Port, Program, Read, Region, Tile,
    WEIGHT_ALIGNMENT, WeightTable,
};
use crate::stream::PIECE;

/// Checks `program` against itself and against the weight table it names. `max_work` bounds each instruction.
pub(crate) fn validate(program: &Program, weights: &WeightTable, max_work: u64) -> Result<(), EngineError> {
    let Program { kind: _, batch, arena: _, inputs, outputs, instructions } = program;
    let at = Place::Program;
    check(*batch > 0, at, "batch", "is zero")?;
    check(!outputs.is_empty(), at, "outputs", "there are none")?;
    check(fits(inputs.len(), MAX_PORTS), at, "inputs", "there are too many")?;
    check(fits(outputs.len(), MAX_PORTS), at, "outputs", "there are too many")?;
    check(fits(instructions.len(), MAX_INSTRUCTIONS), at, "instructions", "there are too many")?;
    check_weights(weights)?;
    for (index, port) in inputs.iter().enumerate() {
        let at = Place::Input(index as u32);
        check_port(program, port, at)?;
        let overlaps = inputs.iter().take(index).any(|other| overlap(port.region, other.region));
        check(!overlaps, at, "region", "overlaps an earlier input")?;
    }
    for (index, port) in outputs.iter().enumerate() {
        check_port(program, port, Place::Output(index as u32))?;
    }
    for (index, instruction) in instructions.iter().enumerate() {
        let at = Place::Instruction { index: index as u32, name: instruction.name() };
        Checker { program, weights, at }.check(instruction, max_work)?;
    }
    spill::check_spills(program)
}

/// Tensors are aligned, ascending, apart, and their pieces can be counted.
fn check_weights(weights: &WeightTable) -> Result<(), EngineError> {
    check(fits(weights.0.len(), MAX_WEIGHTS), Place::Program, "weight table", "is too long")?;
    let mut end = 0;
    for (index, info) in weights.0.iter().enumerate() {
        let at = Place::Weight(index as u32);
        check(info.offset.is_multiple_of(WEIGHT_ALIGNMENT), at, "offset", "is not a multiple of 64")?;
        check(info.offset >= end, at, "offset", "lies before the end of the tensor before")?;
        end = info.offset.checked_add(info.bytes()).ok_or(invalid(at, "offset", "overflows"))?;
    }
    let countable = weights.stream_bytes().div_ceil(PIECE as u64) <= u64::from(u32::MAX);
    check(countable, Place::Program, "weight table", "spans more than 2^32 pieces")
}

fn check_port(program: &Program, port: &Port, at: Place) -> Result<(), EngineError> {
    check(port.shape.len() <= MAX_DIMS, at, "shape", "has too many dimensions")?;
    let elements = port.shape.iter().try_fold(1u64, |all, &dim| all.checked_mul(dim.into()));
    check(elements == Some(port.region.len.into()), at, "shape", "does not have as many elements as the region")?;
    check_region(program, port.region, at, "region")
}

fn check_region(program: &Program, region: Region, at: Place, field: &'static str) -> Result<(), EngineError> {
    let end = u64::from(region.start) + u64::from(region.len);
    check(end <= program.arena.of(region.dtype).into(), at, field, "lies outside the arena")
}

/// The rules one instruction is checked against.
pub(crate) struct Checker<'a> {
    program: &'a Program,
    weights: &'a WeightTable,
    at: Place,
}

impl Checker<'_> {
    fn check(&self, instruction: &Instruction, max_work: u64) -> Result<(), EngineError> {
        let out = instruction.out();
        check_region(self.program, out, self.at, "out")?;
        self.rule(out.len > 0, "out", "is empty")?;
        let mut in_place = false;
        for Read { field, operand, in_place: allowed } in instruction.reads() {
            match operand {
                Operand::Weight(tile) => self.check_tile(field, tile)?,
                Operand::Arena(region) => {
                    check_region(self.program, region, self.at, field)?;
                    self.rule(region.len > 0, field, "is empty")?;
                    if overlap(region, out) {
                        self.rule(region == out && allowed, field, "overlaps the output")?;
                        self.rule(!in_place, field, "is the output's region, as another operand is")?;
                        in_place = true;
                    }
                }
            }
        }
        self.shape(instruction)?;
        let needed = instruction.work().unwrap_or(u64::MAX);
        if needed > max_work {
            return Err(EngineError::Work { at: self.at, needed, available: max_work });
        }
        Ok(())
    }

    fn check_tile(&self, field: &'static str, tile: Tile) -> Result<(), EngineError> {
        let info = self.weights.0.get(tile.tensor as usize);
        let info = info.ok_or(invalid(self.at, field, "names a tensor the weight table does not have"))?;
        let end = u64::from(tile.start) + u64::from(tile.len);
        self.rule(end <= info.len.into(), field, "lies outside its tensor")?;
        self.rule(tile.len > 0, field, "is empty")
    }

    /// Type and length of a checked operand.
    fn operand(&self, operand: Operand) -> (Option<DType>, u32) {
        match operand {
            Operand::Arena(region) => (Some(region.dtype), region.len),
            Operand::Weight(tile) => {
                (self.weights.0.get(tile.tensor as usize).map(|info| info.stored.dtype()), tile.len)
            }
        }
    }

    fn dtype(&self, operand: Operand) -> Option<DType> {
        self.operand(operand).0
    }

    fn rule(&self, holds: bool, field: &'static str, rule: &'static str) -> Result<(), EngineError> {
        check(holds, self.at, field, rule)
    }
}

fn overlap(a: Region, b: Region) -> bool {
    let end = |region: Region| u64::from(region.start) + u64::from(region.len);
    a.dtype == b.dtype && a.len > 0 && b.len > 0 && u64::from(a.start) < end(b) && u64::from(b.start) < end(a)
}

fn fits(len: usize, max: u32) -> bool {
    len as u64 <= u64::from(max)
}

fn invalid(at: Place, field: &'static str, rule: &'static str) -> EngineError {
    EngineError::Invalid { at, field, rule }
}

fn check(holds: bool, at: Place, field: &'static str, rule: &'static str) -> Result<(), EngineError> {
    if holds { Ok(()) } else { Err(invalid(at, field, rule)) }
}
