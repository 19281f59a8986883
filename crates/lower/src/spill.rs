//! Spilling: values that are not touched for a while leave the arena, encrypted, and come back before their next use. The
//! last resort, after tiling: each byte is encrypted, moved and decrypted, and computes nothing.
//!
//! While too much is alive at the worst moment, values that can be cut into [`pieces`] are cut, and then one value is chosen
//! that is alive then and untouched: the smallest that suffices, else the largest. What comes back is another slot, so
//! lifetimes and places follow from the draft as ever.

use crate::draft::{self, Draft, Slot};
use crate::{arena, pieces};
use cordon_engine::CHUNK;
use cordon_engine::program::{Instruction, MAX_SPILL_CHUNKS, MemoryMut, Region};
use core::cmp::Reverse;
use core::ops::Range;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Most steps, and most steps without getting better: what bounds the search.
const MOST: u32 = 4096;
const PATIENCE: u32 = 64;

/// A stay outside: the instructions between which the value is not touched.
struct Stay {
    root: u32,
    bytes: u64,
    /// First instruction without it, and the one that needs it again.
    gap: Range<usize>,
}

/// Spills until at most `bytes` are alive at one time; where that cannot be, until as few as can be.
pub(crate) fn apply(draft: &mut Draft, bytes: u64) {
    let (least, steps) = search(&mut draft.clone(), bytes, MOST);
    // Where it cannot be, too much left on the way: once more, for what can be.
    let again = (least > bytes).then(|| search(&mut draft.clone(), least, MOST));
    let (target, steps) = match again {
        Some((reached, steps)) if reached <= least => (least, steps),
        _ => (bytes, steps),
    };
    search(draft, target, steps);
    give_slots(draft);
}

/// Takes at most `most` steps, of which each moves a value out or cuts one into pieces, until at most `bytes` are alive at one
/// time or nothing more can leave. A step may make things worse: what leaves no longer shares its place with a
/// result. Returns the least that was alive, and after how many steps.
fn search(draft: &mut Draft, bytes: u64, most: u32) -> (u64, u32) {
    let (mut best, mut hopeless) = ((u64::MAX, 0), HashSet::new());
    for step in 0.. {
        let (peak, at) = arena::peak(draft);
        if peak < best.0 {
            best = (peak, step);
        }
        if peak <= bytes || at >= draft.instructions.len() || step >= most || step - best.1 > PATIENCE {
            break;
        }
        let touches = touches(draft);
        let is_in_use = |times: &Vec<usize>| times.first() <= Some(&(at + 1)) && times.last() > Some(&at);
        let in_use = touches.iter().filter(|(_, times)| is_in_use(times)).map(|(&root, _)| root);
        if pieces::cut(draft, in_use, &mut hopeless) {
            continue;
        }
        let Some(stay) = stay(draft, &touches, at, peak - bytes) else { break };
        move_out(draft, &stay, step);
    }
    best
}

/// The value to spill so that `excess` bytes less are alive at instruction `at`.
fn stay(draft: &Draft, touches: &BTreeMap<u32, Vec<usize>>, at: usize, excess: u64) -> Option<Stay> {
    let stay = |(&root, times): (&u32, &Vec<usize>)| {
        let later = times.partition_point(|&time| time <= at);
        let (before, after) = (*times.get(later.checked_sub(1)?)?, *times.get(later)?);
        let slot = draft.slots[root as usize];
        let bytes = u64::from(slot.len) * u64::from(slot.dtype.bytes());
        (after > at + 1).then_some(Stay { root, bytes, gap: before..after - 1 })
    };
    let untouched = touches.iter().filter_map(stay);
    untouched.filter(|stay| chunks(stay.bytes) <= u64::from(MAX_SPILL_CHUNKS)).min_by_key(|stay| {
        let enough = stay.bytes >= excess;
        (!enough, if enough { stay.bytes } else { u64::MAX - stay.bytes }, Reverse(stay.gap.len()), stay.root)
    })
}

/// When each root is touched, in order: 0 before the first instruction, `i + 1` by instruction `i`, and after the last.
fn touches(draft: &Draft) -> BTreeMap<u32, Vec<usize>> {
    let mut touches: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    let mut touch = |slot: u32, time: usize| {
        let times = touches.entry(draft.root(slot).0).or_default();
        if times.last() != Some(&time) {
            times.push(time);
        }
    };
    draft.inputs.iter().for_each(|port| touch(port.region.start, 0));
    for (index, instruction) in draft.instructions.iter().enumerate() {
        draft::slots_read(instruction).for_each(|slot| touch(slot, index + 1));
        touch(instruction.out().start, index + 1);
    }
    draft.outputs.iter().for_each(|port| touch(port.region.start, draft.instructions.len() + 1));
    touches
}

/// Puts the two instructions in. What comes back is a new slot, with the parts that later instructions name.
fn move_out(draft: &mut Draft, stay: &Stay, number: u32) {
    let Slot { dtype, len, .. } = draft.slots[stay.root as usize];
    let back = draft.slot(dtype, len);
    let mut later = draft.instructions.split_off(stay.gap.end);
    let mut renamed = HashMap::from([(stay.root, back)]);
    let mut rename = |draft: &mut Draft, slot: &mut u32, len: u32| {
        let (root, start) = draft.root(*slot);
        if root == stay.root {
            *slot = *renamed.entry(*slot).or_insert_with(|| draft.part(back, start, len));
        }
    };
    for instruction in &mut later {
        instruction.memory_mut(|memory| {
            if let MemoryMut::Region(region) = memory {
                rename(draft, &mut region.start, region.len);
            }
        });
    }
    let mut outputs = core::mem::take(&mut draft.outputs);
    outputs.iter_mut().for_each(|port| rename(draft, &mut port.region.start, port.region.len));
    draft.outputs = outputs;
    let region = |start| Region { dtype, start, len };
    draft.instructions.push(Instruction::Restore { slot: number, out: region(back) });
    draft.instructions.append(&mut later);
    draft.instructions.insert(stay.gap.start, Instruction::Spill { slot: number, value: region(stay.root) });
}

/// Numbers of stays become places in the normal world's memory: the lowest that are free all the while.
fn give_slots(draft: &mut Draft) {
    let mut outside: Vec<(u32, Range<u64>)> = Vec::new();
    for instruction in &mut draft.instructions {
        match instruction {
            Instruction::Spill { slot, value } => {
                let chunks = chunks(value.bytes());
                let mut first = 0;
                for (_, taken) in &outside {
                    if first + chunks <= taken.start {
                        break;
                    }
                    first = taken.end;
                }
                let place = outside.partition_point(|(_, taken)| taken.start < first);
                outside.insert(place, (*slot, first..first + chunks));
                *slot = u32::try_from(first).unwrap_or(u32::MAX);
            }
            Instruction::Restore { slot, .. } => {
                let place = outside.iter().position(|(number, _)| number == slot).expect("spilled before");
                *slot = u32::try_from(outside.remove(place).1.start).unwrap_or(u32::MAX);
            }
            _ => {}
        }
    }
}

fn chunks(bytes: u64) -> u64 {
    bytes.div_ceil(CHUNK as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cordon_engine::program::{BinaryOp, DType, Operand, Port, Strided2, UnaryOp, Via};

    fn region(slot: u32, len: u32) -> Region {
        Region { dtype: DType::F32, start: slot, len }
    }

    fn port(slot: u32, len: u32) -> Port {
        Port { value: slot, shape: vec![len], region: region(slot, len), via: Via::Cross }
    }

    fn cast(from: Region, to: Region) -> Instruction {
        let geometry = cordon_engine::program::StridedCopy {
            dims: vec![from.len.min(to.len)],
            from: 0,
            from_strides: vec![1],
            to: 0,
            to_strides: vec![1],
        };
        Instruction::Copy { geometry, input: Operand::Arena(from), out: to }
    }

    /// A U: values get smaller, then each meets the one of its size again. 0 → 1 → 2 → 3, 3 → 4 + 2 → 5 + 1.
    fn skips() -> Draft {
        let mut draft = Draft::default();
        let slots: Vec<Region> =
            [1024, 1024, 512, 256, 512, 1024, 1024].map(|len| region(draft.slot(DType::F32, len), len)).to_vec();
        let [a, b, c, d, e, f, g] = slots[..] else { unreachable!("seven") };
        let add = |x: Region, y: Region, out: Region| Instruction::Binary {
            op: BinaryOp::Add,
            shape: Strided2 { dims: vec![out.len], a: vec![1], b: vec![1] },
            a: Operand::Arena(x),
            b: Operand::Arena(y),
            activation: None,
            out,
        };
        draft.instructions =
            vec![cast(a, b), cast(b, c), cast(c, d), cast(d, e), add(e, c, e), cast(e, f), add(f, b, g)];
        draft.inputs = vec![port(0, 1024)];
        draft.outputs = vec![port(6, 1024)];
        draft
    }

    fn moves(draft: &Draft) -> Vec<(&'static str, u32, u32)> {
        let one = |it: &Instruction| match it {
            Instruction::Spill { slot, value: moved } | Instruction::Restore { slot, out: moved } => {
                Some((it.name(), *slot, moved.len))
            }
            _ => None,
        };
        draft.instructions.iter().filter_map(one).collect()
    }

    #[test]
    fn nothing_leaves_where_there_is_room() {
        let mut draft = skips();
        let before = (arena::peak(&draft).0, draft.instructions.clone());
        apply(&mut draft, before.0);
        assert_eq!(draft.instructions, before.1);
    }

    #[test]
    fn what_leaves_is_untouched_until_it_is_back_and_the_peak_is_that_of_one_instruction() {
        let mut draft = skips();
        apply(&mut draft, 0);
        // No instruction touches more than its operands and its result.
        let most = |it: &Instruction| it.reads().count() as u64 * 4096 + 4096;
        assert!(arena::peak(&draft).0 <= draft.instructions.iter().map(most).max().expect("some"));
        let moves = moves(&draft);
        assert!(!moves.is_empty());
        for (index, instruction) in draft.instructions.iter().enumerate() {
            if let Instruction::Spill { value, .. } = instruction {
                let later = &draft.instructions[index + 1..];
                let reads = |it: &Instruction| {
                    draft::slots_read(it).any(|slot| slot == value.start) || it.out().start == value.start
                };
                assert!(!later.iter().any(reads), "what comes back is another slot");
            }
        }
    }

    #[test]
    fn slots_are_free_again_once_their_value_is_back() {
        let mut draft = Draft::default();
        let big = CHUNK as u32 / 2;
        let values: Vec<Region> = (0..3).map(|_| region(draft.slot(DType::F32, big), big)).collect();
        let stay = |number, value: Region| {
            [Instruction::Spill { slot: number, value }, Instruction::Restore { slot: number, out: value }]
        };
        let ([a, a_back], [b, b_back], [c, c_back]) = (stay(0, values[0]), stay(1, values[1]), stay(2, values[2]));
        draft.instructions = vec![a, b, a_back, c, c_back, b_back];
        give_slots(&mut draft);
        // Two chunks each: the third lies where the first lay.
        let places: Vec<u32> = moves(&draft).iter().map(|(_, slot, _)| *slot).collect();
        assert_eq!(places, [0, 2, 0, 0, 0, 2]);
    }

    #[test]
    fn a_part_that_is_used_later_is_a_part_of_what_comes_back() {
        let mut draft = Draft::default();
        let whole = region(draft.slot(DType::F32, 64), 64);
        let others: Vec<Region> = (0..3).map(|_| region(draft.slot(DType::F32, 64), 64)).collect();
        let half = region(draft.part(0, 32, 32), 32);
        let inner = region(draft.part(half.start, 8, 16), 16);
        let neg = |from: Region, to| Instruction::Unary { op: UnaryOp::Neg, input: Operand::Arena(from), out: to };
        draft.instructions =
            vec![cast(whole, others[0]), cast(others[0], others[1]), cast(inner, others[2]), neg(others[2], others[2])];
        draft.inputs = vec![port(0, 64)];
        draft.outputs = vec![port(others[2].start, 64), port(half.start, 32)];
        apply(&mut draft, 0);
        assert_eq!(moves(&draft).len(), 2);
        let back = draft.instructions.iter().find_map(|it| match it {
            Instruction::Restore { out, .. } => Some(out.start),
            _ => None,
        });
        let read = draft::slots_read(&draft.instructions[4]).next();
        assert_eq!(read.map(|read| draft.root(read)), back.map(|back| (back, 40)));
        assert_eq!(Some(draft.root(draft.outputs[1].region.start)), back.map(|back| (back, 32)));
    }
}
