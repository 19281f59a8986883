//! The arena planner: lifetimes of virtual tensors → fixed offsets.
//!
//! Greedy placement at the lowest free offset, in several orders, keeping the best. Where [`Instruction`] documents that its
//! output may take the place of an operand that dies there, both share one buffer.

use crate::draft::{self, Draft};
use cordon_engine::program::{ArenaSize, DType, Instruction, Operand, Region};

/// How well the arena was packed, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArenaReport {
    /// Bytes of the three arenas.
    pub bytes: u64,
    /// Largest set of values alive at one time: no placement can do better without recomputation.
    pub lower_bound: u64,
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
    let owner = share_in_place(draft, &mut buffers);
    let mut placement =
        Placement { offsets: vec![0; draft.slots.len()], size: ArenaSize::default(), report: ArenaReport::default() };
    for dtype in [DType::F32, DType::I64, DType::Bool] {
        let members: Vec<usize> =
            (0..buffers.len()).filter(|&slot| owner[slot] == slot && alive(&buffers[slot], dtype)).collect();
        let (offsets, total) = best_of_orders(&buffers, &members);
        for (&slot, offset) in members.iter().zip(offsets) {
            placement.offsets[slot] = u32::try_from(offset).ok()?;
        }
        let total = u32::try_from(total).ok()?;
        let bytes = match dtype {
            DType::F32 => {
                placement.size.f32 = total;
                4
            }
            DType::I64 => {
                placement.size.i64 = total;
                8
            }
            DType::Bool => {
                placement.size.bool = total;
                1
            }
        };
        placement.report.lower_bound += largest_live_set(&buffers, &members) * bytes;
    }
    placement.offsets = owner.iter().map(|&slot| placement.offsets[slot]).collect();
    placement.report.bytes = placement.size.bytes();
    Some(placement)
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
        let buffer = &mut buffers[slot as usize];
        buffer.first = buffer.first.min(time);
        buffer.last = buffer.last.max(time);
    };
    draft.inputs.iter().for_each(|port| touch(port.region.start, 0));
    for (index, instruction) in draft.instructions.iter().enumerate() {
        touch(instruction.out().start, index + 1);
        draft::slots_read(instruction).into_iter().for_each(|slot| touch(slot, index + 1));
    }
    draft.outputs.iter().for_each(|port| touch(port.region.start, end));
    buffers
}

/// Merges buffers and returns, per slot, the slot whose buffer it uses.
fn share_in_place(draft: &Draft, buffers: &mut [Buffer]) -> Vec<usize> {
    let mut owner: Vec<usize> = (0..buffers.len()).collect();
    for (index, instruction) in draft.instructions.iter().enumerate() {
        let time = index + 1;
        let out = instruction.out();
        let out_slot = out.start as usize;
        if buffers[out_slot].first != time {
            continue;
        }
        let reads = draft::slots_read(instruction);
        let candidate = replaceable(instruction).into_iter().find(|region| {
            let slot = region.start as usize;
            let buffer = buffers[owner[slot]];
            region.len == out.len
                && region.dtype == out.dtype
                && u64::from(region.len) == buffers[slot].len
                && buffers[out_slot].len == buffers[slot].len
                && buffer.last == time
                && buffers[slot].last == time
                && reads.iter().filter(|&&read| owner[read as usize] == owner[slot]).count() == 1
        });
        if let Some(region) = candidate {
            let root = owner[region.start as usize];
            owner[out_slot] = root;
            buffers[root].last = buffers[out_slot].last;
        }
    }
    owner
}

/// Regions the output may take the place of, as `program.rs` documents per instruction.
fn replaceable(instruction: &Instruction) -> Vec<Region> {
    use Instruction as I;
    let of = |operand: &Operand| match operand {
        Operand::Arena(region) => Some(*region),
        Operand::Weight(_) => None,
    };
    match instruction {
        I::Conv2d { residual, .. } | I::Dense { residual, .. } => residual.iter().copied().collect(),
        I::Unary { input, .. } | I::Not { input, .. } | I::Softmax { input, .. } | I::Normalize { input, .. } => {
            of(input).into_iter().collect()
        }
        I::Binary { shape, a, b, .. } => {
            let contiguous = contiguous(&shape.dims);
            let a = of(a).filter(|_| shape.a == contiguous);
            let b = of(b).filter(|_| shape.b == contiguous);
            a.into_iter().chain(b).collect()
        }
        _ => Vec::new(),
    }
}

/// Row-major strides.
pub(crate) fn contiguous(dims: &[u32]) -> Vec<u32> {
    let mut strides = vec![1u32; dims.len()];
    for axis in (1..dims.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(dims[axis]);
    }
    strides
}

fn best_of_orders(buffers: &[Buffer], members: &[usize]) -> (Vec<u64>, u64) {
    type Key = fn(&Buffer) -> (u64, u64);
    let orders: [Key; 3] = [
        |b| (u64::MAX - b.len, b.first as u64),
        |b| (u64::MAX - b.len.saturating_mul((b.last - b.first + 1) as u64), b.first as u64),
        |b| (b.first as u64, u64::MAX - b.len),
    ];
    let mut best: Option<(Vec<u64>, u64)> = None;
    for key in orders {
        let mut order: Vec<usize> = (0..members.len()).collect();
        order.sort_by_key(|&index| key(&buffers[members[index]]));
        let found = greedy(buffers, members, &order);
        if best.as_ref().is_none_or(|(_, total)| found.1 < *total) {
            best = Some(found);
        }
    }
    best.unwrap_or_default()
}

fn greedy(buffers: &[Buffer], members: &[usize], order: &[usize]) -> (Vec<u64>, u64) {
    let mut offsets = vec![0u64; members.len()];
    // Placed so far, sorted by offset.
    let mut placed: Vec<usize> = Vec::new();
    let mut total = 0;
    for &index in order {
        let buffer = buffers[members[index]];
        let mut offset = 0;
        for &other in &placed {
            let taken = buffers[members[other]];
            if taken.first > buffer.last || buffer.first > taken.last {
                continue;
            }
            if offset + buffer.len <= offsets[other] {
                break;
            }
            offset = offset.max(aligned(offsets[other] + taken.len));
        }
        offsets[index] = offset;
        total = total.max(offset + buffer.len);
        let position = placed.partition_point(|&other| offsets[other] <= offset);
        placed.insert(position, index);
    }
    (offsets, total)
}

/// Buffers start on a multiple of 16 elements, so blocks of channels stay in one cache line.
fn aligned(offset: u64) -> u64 {
    offset.next_multiple_of(16)
}

fn largest_live_set(buffers: &[Buffer], members: &[usize]) -> u64 {
    let mut events: Vec<(usize, i128)> = Vec::new();
    for &slot in members {
        let buffer = buffers[slot];
        events.push((buffer.first, i128::from(buffer.len)));
        events.push((buffer.last + 1, -i128::from(buffer.len)));
    }
    // At one time, ends come before starts: negative first.
    events.sort_unstable();
    let (mut live, mut most) = (0i128, 0i128);
    for (_, change) in events {
        live += change;
        most = most.max(live);
    }
    u64::try_from(most).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cordon_engine::program::{Port, UnaryOp, Via};

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
        assert_eq!(placement.report, ArenaReport { bytes: 256, lower_bound: 256 });
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
}
