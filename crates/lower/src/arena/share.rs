//! In-place results. Where [`Instruction`] says that its output may take the place of an operand, and that operand
//! dies there, both share one buffer.
//!
//! A value may be made in parts by several instructions (tiles). Then it may take the place of an operand that is read
//! in the same parts: as long as both are touched, every instruction that writes a part of the one reads exactly that
//! part of the other, and no part is written twice. So nothing is overwritten before its only reader has come.

use super::Buffer;
use crate::draft::{self, Draft};
use cordon_engine::program::{Instruction, Region};
use core::ops::Range;

/// Merges buffers and returns, per root slot, the slot whose buffer it uses.
pub(super) fn in_place(draft: &Draft, buffers: &mut [Buffer]) -> Vec<usize> {
    let own = buffers.to_vec();
    let mut owner: Vec<usize> = (0..buffers.len()).collect();
    for (index, instruction) in draft.instructions.iter().enumerate() {
        let out = draft.root(instruction.out().start).0 as usize;
        if own[out].first != index + 1 || owner[out] != out {
            continue;
        }
        let candidate = replaceable(instruction).find_map(|region| {
            let operand = draft.root(region.start).0 as usize;
            let fits = operand != out && own[operand].dtype == own[out].dtype && own[operand].len == own[out].len;
            let dies = buffers[owner[operand]].last == own[operand].last;
            let span = index..own[operand].last;
            (fits && dies && span.end <= draft.instructions.len() && in_step(draft, span, operand, out))
                .then_some(operand)
        });
        if let Some(operand) = candidate {
            let root = owner[operand];
            owner[out] = root;
            buffers[root].last = own[out].last;
        }
    }
    owner
}

/// Whether every instruction of `span` that writes `out` reads the same part of `operand` in a replaceable way, nothing
/// else touches `operand`, and no part is written twice.
fn in_step(draft: &Draft, span: Range<usize>, operand: usize, out: usize) -> bool {
    let part = |region: &Region| {
        let (root, start) = draft.root(region.start);
        (root as usize, start..start + region.len)
    };
    let mut written: Vec<Range<u32>> = Vec::new();
    draft.instructions[span].iter().all(|instruction| {
        let (to, range) = part(&instruction.out());
        let times = draft::slots_read(instruction).filter(|&slot| draft.root(slot).0 as usize == operand).count();
        if to == operand {
            return false;
        }
        if to != out {
            return times == 0;
        }
        let paired = times == 1 && replaceable(instruction).any(|region| part(&region) == (operand, range.clone()));
        let fresh = written.iter().all(|other| other.end <= range.start || range.end <= other.start);
        written.push(range);
        paired && fresh
    })
}

/// Regions whose place the output may take.
fn replaceable(instruction: &Instruction) -> impl Iterator<Item = Region> + use<> {
    instruction.reads().filter(|read| read.in_place).filter_map(|read| read.operand.region())
}
