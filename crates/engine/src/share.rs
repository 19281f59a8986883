//! How several Programs share one budget of secure memory. The enclave decides with this function, and `plan` predicts
//! with the same one.

use alloc::vec::Vec;

use crate::error::{EngineError, Place};
use crate::limits::MemoryReport;
use crate::prepared::Prepared;
use crate::program::{Instruction, Program, WeightTable};
use crate::weights::Residency;

/// The residency of each Program such that all fit `available` bytes, their decoded form, which is there already, not
/// counted. Every Program gets its least; what is left over goes to one after the other, those first that need least
/// to hold all their constants. On failure: the index of the Program that does not fit, and why.
pub fn share(available: u64, programs: &[(&Program, &WeightTable)]) -> Result<Vec<Residency>, (usize, EngineError)> {
    let mut needs: Vec<Need> = Vec::new();
    let refused = EngineError::Allocation { what: "the weight tables", needed: programs.len() as u64 };
    let mut residencies = Vec::new();
    let mut order: Vec<usize> = Vec::new();
    needs.try_reserve_exact(programs.len()).map_err(|_| (0, refused))?;
    residencies.try_reserve_exact(programs.len()).map_err(|_| (0, refused))?;
    order.try_reserve_exact(programs.len()).map_err(|_| (0, refused))?;
    let mut left = available;
    for (index, &(program, table)) in programs.iter().enumerate() {
        let need = Need::of(program, table).map_err(|error| (index, error))?;
        left = left.checked_sub(need.least).ok_or_else(|| {
            let (at, name) = most_demanding(program, table);
            let at = Place::Instruction { index: at, name };
            (index, EngineError::Memory { at, what: "the segment", needed: need.least, available: left })
        })?;
        needs.push(need);
        residencies.push(Residency::All);
        order.push(index);
    }
    order.sort_by_key(|&index| needs.get(index).map_or(u64::MAX, Need::more));
    for index in order {
        if let (Some(need), Some(residency)) = (needs.get(index), residencies.get_mut(index)) {
            let given = left.min(need.more());
            left -= given;
            if given < need.more() {
                *residency = Residency::Budget { bytes: (need.least + given).saturating_sub(need.others) };
            }
        }
    }
    Ok(residencies)
}

/// What a Program takes at most, at least, and besides its constants.
struct Need {
    most: u64,
    least: u64,
    others: u64,
}

impl Need {
    fn of(program: &Program, table: &WeightTable) -> Result<Self, EngineError> {
        let all = Prepared::predict(program, table, Residency::All)?;
        let least = Prepared::predict(program, table, Residency::Least)?;
        let total = |memory: MemoryReport| memory.total().saturating_sub(program.heap_bytes());
        let most = total(all.memory);
        Ok(Self { most, least: total(least.memory).min(most), others: most.saturating_sub(all.constants) })
    }

    fn more(&self) -> u64 {
        self.most - self.least
    }
}

/// The instruction whose weights need the largest window.
fn most_demanding(program: &Program, table: &WeightTable) -> (u32, &'static str) {
    let window =
        |(_, instruction): &(u32, &Instruction)| instruction.tiles().map(|tile| table.tile_bytes(tile)).sum::<u64>();
    let most = (0..).zip(&program.instructions).max_by_key(window);
    most.map_or((0, ""), |(index, instruction)| (index, instruction.name()))
}
