//! In-place results. Where [`Instruction`] documents that its output may take the place of an operand, and that operand
//! dies there, both share one buffer.
//!
//! A value may be made in parts by several instructions (tiles). Then it may take the place of an operand that is read
//! in the same parts: as long as both are touched, every instruction that writes a part of the one reads exactly that
//! part of the other, and no part is written twice. So nothing is overwritten before its only reader has come.

use super::{Buffer, contiguous};
use crate::draft::{self, Draft};
use cordon_engine::program::{Instruction, Operand, Region};
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
        let candidate = replaceable(instruction).into_iter().find_map(|region| {
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
        let reads = draft::slots_read(instruction);
        let times = reads.iter().filter(|&&slot| draft.root(slot).0 as usize == operand).count();
        if to == operand {
            return false;
        }
        if to != out {
            return times == 0;
        }
        let paired =
            times == 1 && replaceable(instruction).iter().any(|region| part(region) == (operand, range.clone()));
        let fresh = written.iter().all(|other| other.end <= range.start || range.end <= other.start);
        written.push(range);
        paired && fresh
    })
}

/// Regions the output may take the place of, as `program/instruction.rs` documents per instruction.
fn replaceable(instruction: &Instruction) -> Vec<Region> {
    use Instruction as I;
    let of = |operand: &Operand| match operand {
        Operand::Arena(region) => Some(*region),
        Operand::Weight(_) => None,
    };
    match instruction {
        I::Conv2d { residual, .. } | I::Dense { residual, .. } => residual.iter().copied().collect(),
        I::Unary { input, .. }
        | I::Not { input, .. }
        | I::Softmax { input, .. }
        | I::Normalize { input, .. }
        | I::Lookup { input, .. }
        | I::QSum { a: input, .. } => of(input).into_iter().collect(),
        I::QConv2d { residual, .. } => residual.iter().map(|it| it.from).collect(),
        I::Binary { shape, a, b, .. } => {
            let contiguous = contiguous(&shape.dims);
            let a = of(a).filter(|_| shape.a == contiguous);
            let b = of(b).filter(|_| shape.b == contiguous);
            a.into_iter().chain(b).collect()
        }
        _ => Vec::new(),
    }
}
