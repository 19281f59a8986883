//! Concatenation in place: producers write straight into their stretch of the joined value.
//!
//! A value that a whole, contiguous copy moves into another becomes a part of that other one, and the copy goes. Where
//! joins repeat the beginning of later ones, as in dense blocks, the later one is laid out first and the earlier become
//! stretches of it.

use crate::draft::Draft;
use cordon_engine::program::{Instruction, Operand, StridedCopy};
use std::collections::{BTreeMap, HashSet};

/// A copy of all of `from` to the elements of another slot from `to` on.
#[derive(Clone, Copy)]
struct Piece {
    instruction: usize,
    from: u32,
    to: u32,
    len: u32,
}

/// The draft with joins in place; `None` if there is nothing to join.
pub(crate) fn in_place(draft: &Draft) -> Option<Draft> {
    let mut joins = joins(draft);
    // The last join first: earlier ones may be stretches of it.
    joins.sort_by_key(|(_, pieces)| core::cmp::Reverse(pieces.iter().map(|piece| piece.instruction).max()));
    let ports: HashSet<u32> = draft.inputs.iter().chain(&draft.outputs).map(|port| port.region.start).collect();
    let (mut draft, mut gone) = (draft.clone(), HashSet::new());
    for (slot, pieces) in joins {
        if let Some(within) = stretch(&draft, slot, &pieces).filter(|_| !ports.contains(&slot)) {
            draft.slots[slot as usize].within = Some(within);
            gone.extend(pieces.iter().map(|piece| piece.instruction));
            continue;
        }
        for piece in &pieces {
            let once = pieces.iter().filter(|other| other.from == piece.from).count() == 1;
            let free = draft.slots[piece.from as usize].within.is_none() && !ports.contains(&piece.from);
            // Tiles that already lie in the value would otherwise be parts of themselves.
            if once && free && draft.root(slot).0 != piece.from {
                draft.slots[piece.from as usize].within = Some((slot, piece.to));
                gone.insert(piece.instruction);
            }
        }
    }
    let mut index = 0;
    draft.instructions.retain(|_| {
        index += 1;
        !gone.contains(&(index - 1))
    });
    (!gone.is_empty() && apart(&draft)).then_some(draft)
}

/// Slots that whole copies fill from the first element to the last, and these copies.
fn joins(draft: &Draft) -> Vec<(u32, Vec<Piece>)> {
    // `None`: something else writes the slot, too.
    let mut found: BTreeMap<u32, Option<Vec<Piece>>> = BTreeMap::new();
    for (index, instruction) in draft.instructions.iter().enumerate() {
        let out = instruction.out();
        let pieces = found.entry(out.start).or_insert_with(|| Some(Vec::new()));
        match (piece(draft, index, instruction), pieces.as_mut()) {
            (Some(piece), Some(pieces)) => pieces.push(piece),
            _ => *pieces = None,
        }
    }
    let filled = found.into_iter().filter_map(|(slot, pieces)| {
        let mut pieces = pieces?;
        pieces.sort_by_key(|piece| piece.to);
        let end = pieces.iter().try_fold(0, |at, piece| (piece.to == at).then_some(at + piece.len));
        (end == Some(draft.slots[slot as usize].len)).then_some((slot, pieces))
    });
    filled.collect()
}

fn piece(draft: &Draft, instruction: usize, it: &Instruction) -> Option<Piece> {
    let Instruction::Copy { geometry, input: Operand::Arena(from), out } = it else { return None };
    let whole = |region: &cordon_engine::program::Region| region.len == draft.slots[region.start as usize].len;
    // Values begin with a cache line, and so must parts.
    let plain = whole(from) && whole(out) && contiguous(geometry, from.len) && geometry.to.is_multiple_of(16);
    plain.then_some(Piece { instruction, from: from.start, to: geometry.to, len: from.len })
}

/// Whether the copy moves `len` neighbouring elements, the first included, to neighbouring elements.
fn contiguous(g: &StridedCopy, len: u32) -> bool {
    let mut step = 1u32;
    for axis in (0..g.dims.len()).rev().filter(|&axis| g.dims[axis] != 1) {
        if g.to_strides[axis] != step || u32::try_from(g.from_strides[axis]) != Ok(step) {
            return false;
        }
        step = step.saturating_mul(g.dims[axis]);
    }
    g.from == 0 && step == len
}

/// Where the pieces already lie side by side in one slot, in the order of the join.
fn stretch(draft: &Draft, slot: u32, pieces: &[Piece]) -> Option<(u32, u32)> {
    let (root, start) = draft.root(pieces.first()?.from);
    let together = pieces.iter().all(|piece| draft.root(piece.from) == (root, start + piece.to));
    let parts = pieces.iter().all(|piece| piece.from != root);
    let free = draft.slots[slot as usize].within.is_none() && root != slot;
    (together && parts && free).then_some((root, start))
}

/// Whether no instruction reads what it writes, apart from exactly what it writes.
fn apart(draft: &Draft) -> bool {
    let place = |region: &cordon_engine::program::Region| {
        let (root, start) = draft.root(region.start);
        (root, start, start + region.len)
    };
    draft.instructions.iter().all(|instruction| {
        let out = instruction.out();
        let (root, start, end) = place(&out);
        instruction.regions().filter(|region| *region != out).all(|region| {
            let (other, first, last) = place(&region);
            other != root || last <= start || end <= first
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{OneNode, assert_close, f32s, noise};

    fn first() -> OneNode {
        OneNode::new("Conv", 14).input(noise(&[1, 3, 5, 5], 1)).constant(noise(&[32, 3, 3, 3], 2))
    }

    fn second() -> OneNode {
        first().then("Conv").constant(noise(&[16, 32, 1, 1], 3))
    }

    fn copies(node: &OneNode) -> usize {
        let program = node.lower().expect("lowers").program;
        program.instructions.iter().filter(|it| matches!(it, Instruction::Copy { .. })).count()
    }

    #[test]
    fn producers_write_into_the_joined_value() {
        let node = second().then("Concat").with_node(0).int("axis", 1);
        // What is left hands the result out in plain layout.
        assert_eq!(copies(&node), copies(&second()));
        let [one, two] = [first(), second()].map(|node| node.run()[0].to_f32().expect("f32"));
        assert_close(&node.run()[0], &f32s(&[1, 48, 3, 3], &[two, one].concat()));
    }

    #[test]
    fn a_join_that_begins_a_later_one_is_a_part_of_it() {
        let earlier = || second().then("Concat").with_node(0).int("axis", 1);
        let later = || earlier().then("Conv").constant(noise(&[16, 48, 1, 1], 4));
        let node = || later().then("Concat").with_node(2).int("axis", 1);
        assert_eq!(copies(&node()), copies(&second()));
        let [joined, last] = [earlier(), later()].map(|node| node.run()[0].to_f32().expect("f32"));
        assert_close(&node().run()[0], &f32s(&[1, 64, 3, 3], &[last, joined].concat()));
    }

    #[test]
    fn a_value_joined_with_itself_is_copied() {
        let node = first().then("Concat").with_node(0).int("axis", 1);
        let one = first().run()[0].to_f32().expect("f32");
        assert_close(&node.run()[0], &f32s(&[1, 64, 3, 3], &[one.clone(), one].concat()));
    }
}
