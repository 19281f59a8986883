//! The arena planner: lifetimes of virtual tensors → fixed offsets.
//!
//! | step | module | what |
//! |---|---|---|
//! | lifetimes | this file | first and last use of every root slot; parts count for the slot they lie in |
//! | share | [`share`] | an output takes the place of an operand that dies where it is made |
//! | pack | [`pack`] | offsets, as close to the largest live set as a bounded search gets |

mod pack;
mod share;

use crate::draft::{self, Draft};
use cordon_engine::program::{ArenaSize, DType};

/// How well the arena was packed, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArenaReport {
    /// Bytes of the four arenas.
    pub bytes: u64,
    /// Largest set of values alive at one time: no placement can do better without recomputation.
    pub lower_bound: u64,
    /// The first instruction at which so much is alive.
    pub busiest: usize,
}

/// Where every slot lies.
pub(crate) struct Placement {
    /// Offset in elements, per slot.
    pub(crate) offsets: Vec<u32>,
    /// Arena sizes.
    pub(crate) size: ArenaSize,
    /// Quality.
    pub(crate) report: ArenaReport,
}

/// Slots that share one stretch of memory, alive from `first` to `last` inclusive. Time 0 is before the first
/// instruction, `i + 1` is instruction `i`, and one past those is after the last.
#[derive(Clone, Copy, Debug)]
struct Buffer {
    dtype: DType,
    len: u64,
    first: usize,
    last: usize,
}

/// Plans the arenas. `None` when one exceeds 2^32 elements.
pub(crate) fn place(draft: &Draft) -> Option<Placement> {
    let mut buffers = lifetimes(draft);
    let owner = share::in_place(draft, &mut buffers);
    let busiest = most_alive(draft, &buffers, &owner).1;
    let mut placement =
        Placement { offsets: vec![0; draft.slots.len()], size: ArenaSize::default(), report: ArenaReport::default() };
    for dtype in [DType::F32, DType::I64, DType::Bool, DType::U8] {
        let members: Vec<usize> =
            (0..buffers.len()).filter(|&slot| owner[slot] == slot && alive(&buffers[slot], dtype)).collect();
        let (offsets, total) = pack::best_of_orders(&buffers, &members);
        for (&slot, offset) in members.iter().zip(offsets) {
            placement.offsets[slot] = u32::try_from(offset).ok()?;
        }
        let total = u32::try_from(total).ok()?;
        let size = match dtype {
            DType::F32 => &mut placement.size.f32,
            DType::I64 => &mut placement.size.i64,
            DType::Bool => &mut placement.size.bool,
            DType::U8 => &mut placement.size.u8,
        };
        *size = total;
        placement.report.lower_bound += pack::largest_live_set(&buffers, &members) * u64::from(dtype.bytes());
    }
    let place = |slot: usize| {
        let (root, start) = draft.root(slot as u32);
        placement.offsets[owner[root as usize]] + start
    };
    placement.offsets = (0..draft.slots.len()).map(place).collect();
    placement.report.bytes = placement.size.bytes();
    placement.report.busiest = busiest;
    Some(placement)
}

/// The most bytes alive at one time, and the first instruction at which they are.
pub(crate) fn peak(draft: &Draft) -> (u64, usize) {
    let mut buffers = lifetimes(draft);
    let owner = share::in_place(draft, &mut buffers);
    most_alive(draft, &buffers, &owner)
}

fn most_alive(draft: &Draft, buffers: &[Buffer], owner: &[usize]) -> (u64, usize) {
    let mut change = vec![0i128; draft.instructions.len() + 3];
    for (slot, buffer) in
        buffers.iter().enumerate().filter(|(slot, buffer)| owner[*slot] == *slot && buffer.first <= buffer.last)
    {
        let bytes = i128::from(buffer.len) * i128::from(buffer.dtype.bytes());
        debug_assert!(draft.slots[slot].within.is_none(), "only roots are touched");
        change[buffer.first] += bytes;
        change[buffer.last + 1] -= bytes;
    }
    let (mut live, mut worst) = (0, (0, 0));
    for (time, change) in change.into_iter().enumerate() {
        live += change;
        if live > worst.0 {
            worst = (live, time);
        }
    }
    (u64::try_from(worst.0).unwrap_or(u64::MAX), worst.1.saturating_sub(1))
}

/// First and last instruction that touches each slot, parts included in their root and each for itself. `usize::MAX`: an
/// output is read after the last. Slots that nothing touches have none.
pub(crate) fn touched(draft: &Draft) -> Vec<(usize, usize)> {
    let mut touched = vec![(usize::MAX, 0); draft.slots.len()];
    let mut touch = |slot: u32, time: usize| {
        for slot in [slot, draft.root(slot).0] {
            let entry = &mut touched[slot as usize];
            *entry = (entry.0.min(time), entry.1.max(time));
        }
    };
    draft.inputs.iter().for_each(|port| touch(port.region.start, 0));
    for (index, instruction) in draft.instructions.iter().enumerate() {
        touch(instruction.out().start, index);
        draft::slots_read(instruction).for_each(|slot| touch(slot, index));
    }
    draft.outputs.iter().for_each(|port| touch(port.region.start, usize::MAX));
    touched
}

/// Slots that nothing touches any more (fusions leave them) take no memory.
fn alive(buffer: &Buffer, dtype: DType) -> bool {
    buffer.dtype == dtype && buffer.first <= buffer.last
}

fn lifetimes(draft: &Draft) -> Vec<Buffer> {
    let end = draft.instructions.len() + 1;
    let mut buffers: Vec<Buffer> = draft
        .slots
        .iter()
        .map(|slot| Buffer { dtype: slot.dtype, len: u64::from(slot.len), first: usize::MAX, last: 0 })
        .collect();
    let mut touch = |slot: u32, time: usize| {
        let buffer = &mut buffers[draft.root(slot).0 as usize];
        buffer.first = buffer.first.min(time);
        buffer.last = buffer.last.max(time);
    };
    draft.inputs.iter().for_each(|port| touch(port.region.start, 0));
    for (index, instruction) in draft.instructions.iter().enumerate() {
        touch(instruction.out().start, index + 1);
        draft::slots_read(instruction).for_each(|slot| touch(slot, index + 1));
    }
    draft.outputs.iter().for_each(|port| touch(port.region.start, end));
    buffers
}

/// Row-major strides.
pub(crate) fn contiguous(dims: &[u32]) -> Vec<u32> {
    let mut strides = vec![1u32; dims.len()];
    for axis in (1..dims.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(dims[axis]);
    }
    strides
}

#[cfg(test)]
mod tests {
    use super::*;
    use cordon_engine::program::{Instruction, Operand, Port, Region, UnaryOp, Via};

    fn region(slot: u32, len: u32) -> Region {
        Region { dtype: DType::F32, start: slot, len }
    }

    fn port(slot: u32, len: u32) -> Port {
        Port { value: slot, shape: vec![len], region: region(slot, len), via: Via::Cross }
    }

    fn chain(lens: &[u32], op: impl Fn(Region, Region) -> Instruction) -> Draft {
        let mut draft = Draft::default();
        let slots: Vec<_> = lens.iter().map(|&len| region(draft.slot(DType::F32, len), len)).collect();
        draft.instructions = slots.windows(2).map(|pair| op(pair[0], pair[1])).collect();
        draft.inputs = vec![port(0, lens[0])];
        draft.outputs = vec![port(slots.len() as u32 - 1, lens[lens.len() - 1])];
        draft
    }

    #[test]
    fn a_chain_of_unaries_runs_in_one_buffer() {
        let draft =
            chain(&[64; 5], |from, to| Instruction::Unary { op: UnaryOp::Relu, input: Operand::Arena(from), out: to });
        let placement = place(&draft).expect("small");
        assert_eq!(placement.offsets, vec![0; 5]);
        assert_eq!(placement.report, ArenaReport { bytes: 256, lower_bound: 256, busiest: 0 });
    }

    #[test]
    fn neighbours_that_are_alive_together_never_overlap() {
        let lens = [32, 64, 16, 128, 48];
        let draft = chain(&lens, |from, to| Instruction::Cast { input: Operand::Arena(from), out: to });
        let placement = place(&draft).expect("small");
        for pair in 0..lens.len() - 1 {
            let (a, b) = (placement.offsets[pair], placement.offsets[pair + 1]);
            assert!(a + lens[pair] <= b || b + lens[pair + 1] <= a, "slots {pair} and {}", pair + 1);
        }
        assert_eq!(placement.report.lower_bound, (128 + 48) * 4);
        assert_eq!(placement.report.bytes, placement.report.lower_bound);
    }

    #[test]
    fn an_operand_still_needed_is_not_overwritten() {
        let mut draft =
            chain(&[64; 2], |from, to| Instruction::Unary { op: UnaryOp::Relu, input: Operand::Arena(from), out: to });
        draft.outputs.push(port(0, 64));
        let placement = place(&draft).expect("small");
        assert_ne!(placement.offsets[0], placement.offsets[1]);
    }

    fn unary(from: Region, to: Region) -> Instruction {
        Instruction::Unary { op: UnaryOp::Relu, input: Operand::Arena(from), out: to }
    }

    #[test]
    fn a_part_lies_in_its_slot_and_keeps_it_alive() {
        // 0 -> 1, written as two parts; 2 is alive at the same time as 1 and reads nothing of it.
        let mut draft = chain(&[64, 64, 32], unary);
        draft.instructions.clear();
        let parts: Vec<u32> = [0, 16].map(|start| draft.part(1, start * 2, 32)).to_vec();
        let inner = draft.part(parts[1], 16, 16);
        for &part in &parts {
            let half = draft.part(0, draft.slots[part as usize].within.map_or(0, |it| it.1), 32);
            draft
                .instructions
                .push(Instruction::Cast { input: Operand::Arena(region(half, 32)), out: region(part, 32) });
        }
        draft.instructions.push(Instruction::Cast { input: Operand::Arena(region(inner, 16)), out: region(2, 32) });
        draft.outputs = vec![port(2, 32), port(1, 64)];
        let placement = place(&draft).expect("small");
        let whole = placement.offsets[1];
        assert_eq!([parts[0], parts[1], inner].map(|part| placement.offsets[part as usize] - whole), [0, 32, 48]);
        assert_eq!(placement.report.lower_bound, (64 + 64) * 4, "parts take no memory of their own");
    }

    #[test]
    fn an_output_made_in_parts_takes_the_place_of_an_operand_read_in_the_same_parts() {
        let in_parts = |starts: [u32; 2]| {
            let mut draft = chain(&[64, 64], unary);
            draft.instructions.clear();
            for (from, to) in [(starts[0], 0), (starts[1], 32)] {
                let (from, to) = (draft.part(0, from, 32), draft.part(1, to, 32));
                draft.instructions.push(unary(region(from, 32), region(to, 32)));
            }
            place(&draft).expect("small")
        };
        let same = in_parts([0, 32]);
        assert_eq!((same.offsets[0], same.report.bytes), (same.offsets[1], 256));
        // The second part reads what the first would have overwritten.
        let crossed = in_parts([32, 0]);
        assert_eq!(crossed.report.bytes, 512);
    }
}
