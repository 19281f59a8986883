//! Values between two banded chains, kept in pieces: one for each stretch of rows that is made at one time. A piece is out of
//! use from the band that makes it to the band that reads it, so it can wait outside ([`crate::spill`]), where the
//! whole value is touched by every band.

use crate::draft::{self, Draft};
use cordon_engine::program::{Instruction, Operand, Region, StridedCopy};
use std::collections::{BTreeSet, HashSet};

/// Most pieces of a value.
const MOST: u32 = 64;
/// Smaller values are not worth the instructions.
const LEAST_BYTES: u64 = 256 << 10;

/// A value that only copies of rows touch.
struct Striped {
    root: u32,
    planes: u32,
    /// Elements of a plane.
    plane: u32,
    is_input: bool,
    /// Where pieces begin and end within a plane.
    edges: Vec<u32>,
}

/// One copy of rows of a value: what it moves, and which elements of every plane.
struct Rows<'c> {
    geometry: &'c StridedCopy,
    is_write: bool,
    planes: u32,
    plane: u32,
    start: u32,
    len: u32,
}

/// Cuts the largest of `in_use` that can be cut. Whether there was one. Those that cannot be are not looked at again.
pub(crate) fn cut(draft: &mut Draft, in_use: impl Iterator<Item = u32>, hopeless: &mut HashSet<u32>) -> bool {
    let bytes = |root: u32| {
        let slot = draft.slots[root as usize];
        u64::from(slot.len) * u64::from(slot.dtype.bytes())
    };
    let mut large: Vec<u32> = in_use.filter(|root| !hopeless.contains(root) && bytes(*root) >= LEAST_BYTES).collect();
    large.sort_by_key(|&root| core::cmp::Reverse(bytes(root)));
    for root in large {
        if let Some(value) = striped(draft, root) {
            apart(draft, &value);
            return true;
        }
        hopeless.insert(root);
    }
    false
}

/// The value, if copies of rows are all that touches it, and they leave more than one piece.
fn striped(draft: &Draft, root: u32) -> Option<Striped> {
    let is_part = |slot: &draft::Slot| slot.within.is_some_and(|(whole, _)| draft.root(whole).0 == root);
    if draft.slots.iter().any(is_part) || draft.outputs.iter().any(|port| port.region.start == root) {
        return None;
    }
    let is_input = draft.inputs.iter().any(|port| port.region.start == root);
    let (mut shape, mut made, mut read) = (None, BTreeSet::new(), BTreeSet::new());
    for instruction in &draft.instructions {
        if instruction.out().start != root && !draft::slots_read(instruction).any(|slot| slot == root) {
            continue;
        }
        let rows = rows(instruction, root, draft.slots[root as usize].len)?;
        if *shape.get_or_insert((rows.planes, rows.plane)) != (rows.planes, rows.plane) {
            return None;
        }
        if rows.is_write { &mut made } else { &mut read }.extend([rows.start, rows.start + rows.len]);
    }
    let (planes, plane) = shape?;
    let inner = |edges: BTreeSet<u32>| edges.into_iter().filter(|&edge| edge > 0 && edge < plane);
    let mut edges = vec![0];
    let candidates: Vec<u32> = if is_input { inner(read).collect() } else { inner(made).collect() };
    for edge in candidates {
        let last = edges.last().copied().unwrap_or(0);
        if edge - last >= plane.div_ceil(MOST) && plane - edge >= plane.div_ceil(MOST) {
            edges.push(edge);
        }
    }
    edges.push(plane);
    (edges.len() > 2).then_some(Striped { root, planes, plane, is_input, edges })
}

/// `instruction` as a copy of some rows of every plane of `root`, from it or to it.
fn rows(instruction: &Instruction, root: u32, len: u32) -> Option<Rows<'_>> {
    let Instruction::Copy { geometry, input: Operand::Arena(input), out } = instruction else { return None };
    let [planes, run] = geometry.dims[..] else { return None };
    let is_write = out.start == root;
    if is_write == (input.start == root) || (if is_write { out.len } else { input.len }) != len {
        return None;
    }
    let (start, plane, step) = match is_write {
        true => (geometry.to, *geometry.to_strides.first()?, *geometry.to_strides.get(1)?),
        false => {
            let stride = |axis: usize| geometry.from_strides.get(axis).and_then(|&step| u32::try_from(step).ok());
            (geometry.from, stride(0)?, stride(1)?)
        }
    };
    let whole = plane.checked_mul(planes) == Some(len) && step == 1;
    let inside = start.checked_add(run).is_some_and(|end| end <= plane);
    (whole && inside).then_some(Rows { geometry, is_write, planes, plane, start, len: run })
}

/// Gives every piece a slot and every copy its pieces.
fn apart(draft: &mut Draft, value: &Striped) {
    let dtype = draft.slots[value.root as usize].dtype;
    let pieces: Vec<(u32, u32, Region)> = value
        .edges
        .windows(2)
        .map(|edges| {
            let len = (edges[1] - edges[0]) * value.planes;
            (edges[0], edges[1], Region { dtype, start: draft.slot(dtype, len), len })
        })
        .collect();
    let whole = draft.slots[value.root as usize].len;
    let mut instructions = Vec::with_capacity(draft.instructions.len() + pieces.len());
    if value.is_input {
        // What arrives whole is taken apart first.
        let region = Region { dtype, start: value.root, len: whole };
        instructions.extend(pieces.iter().map(|&(start, end, piece)| {
            let run = end - start;
            let geometry = StridedCopy {
                dims: vec![value.planes, run],
                from: start,
                from_strides: vec![crate::context::to_i32(value.plane as usize), 1],
                to: 0,
                to_strides: vec![run, 1],
            };
            Instruction::Copy { geometry, input: Operand::Arena(region), out: piece }
        }));
    }
    for instruction in core::mem::take(&mut draft.instructions) {
        let Some(rows) = rows(&instruction, value.root, whole) else {
            instructions.push(instruction);
            continue;
        };
        let Instruction::Copy { input, out, .. } = &instruction else { unreachable!("rows are copied") };
        for &(start, end, piece) in &pieces {
            let (from, to) = (start.max(rows.start), end.min(rows.start + rows.len));
            if from >= to {
                continue;
            }
            let mut geometry = rows.geometry.clone();
            geometry.dims[1] = to - from;
            let run = end - start;
            instructions.push(if rows.is_write {
                geometry.from += from - rows.start;
                (geometry.to, geometry.to_strides) = (from - start, vec![run, 1]);
                Instruction::Copy { geometry, input: *input, out: piece }
            } else {
                geometry.to += from - rows.start;
                (geometry.from, geometry.from_strides) = (from - start, vec![crate::context::to_i32(run as usize), 1]);
                Instruction::Copy { geometry, input: Operand::Arena(piece), out: *out }
            });
        }
    }
    draft.instructions = instructions;
}
