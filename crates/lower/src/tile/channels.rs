//! Output channels in tiles: a convolution or product whose weights are large becomes several, each over a stretch of
//! the output channels, so that the window that weights stream through need hold only one stretch.
//!
//! A block of 16 output channels is contiguous in the weights, in the bias and, for one image, in the output. Every
//! output element is computed by the same sums in the same order as before, so no bit changes.

use crate::context::BLOCK;
use crate::draft::Draft;
use cordon_engine::program::{
    Conv2d, DType, Dense, Instruction, Layout, Operand, QConv2d, QDense, QResidual, Region, StridedCopy, Tile, UnaryOp,
};
use core::ops::Range;

/// Cuts every instruction whose weights take more than `bytes`, as far as it can be cut.
pub(super) fn split(draft: &mut Draft, bytes: u64) {
    let instructions = core::mem::take(&mut draft.instructions);
    for instruction in instructions {
        if cut(draft, &instruction, bytes).is_none() {
            draft.instructions.push(instruction);
        }
    }
}

/// Appends the tiles of an instruction; `None` when it stays whole.
fn cut(draft: &mut Draft, instruction: &Instruction, bytes: u64) -> Option<()> {
    match instruction {
        Instruction::Conv2d { geometry, input, weight, bias, residual, activation, out } if geometry.n == 1 => {
            let conv = Conv { geometry, input, out: *out, unit: Unit::of(geometry)? };
            for channels in stretches(conv.unit.count, weight.len / conv.unit.count, bytes)? {
                let geometry = conv.geometry(&channels);
                let tile = |tile: &Tile| part_of_tile(tile, conv.unit.count, &channels);
                let instruction = Instruction::Conv2d {
                    geometry,
                    input: conv.input(draft, &channels),
                    weight: tile(weight),
                    bias: bias.as_ref().map(tile),
                    residual: residual.map(|region| conv.output(draft, region, &channels)),
                    activation: *activation,
                    out: conv.output(draft, *out, &channels),
                };
                draft.instructions.push(instruction);
            }
            Some(())
        }
        Instruction::QConv2d { geometry: g, input, pad, weight, bias, scale, to, residual, out } if g.n == 1 => {
            let plain = Conv2d { n: 1, groups: g.groups, ic: g.ic, oc: g.oc, y: g.y, x: g.x, input: Layout::Blocked };
            let conv = Conv { geometry: &plain, input, out: *out, unit: Unit::of(&plain)? };
            // A weight is one byte.
            for channels in stretches(conv.unit.count, weight.len / conv.unit.count, bytes.saturating_mul(4))? {
                let Conv2d { groups, ic, oc, .. } = conv.geometry(&channels);
                let tile = |tile: &Tile| part_of_tile(tile, conv.unit.count, &channels);
                let instruction = Instruction::QConv2d {
                    geometry: QConv2d { groups, ic, oc, ..*g },
                    input: conv.input(draft, &channels),
                    pad: *pad,
                    weight: tile(weight),
                    bias: tile(bias),
                    scale: tile(scale),
                    to: *to,
                    residual: residual.map(|it| QResidual { from: conv.output(draft, it.from, &channels), ..it }),
                    out: conv.output(draft, *out, &channels),
                };
                draft.instructions.push(instruction);
            }
            Some(())
        }
        Instruction::QDense { geometry: g, input, weight, bias, scale, to, out } if g.m == 1 => {
            let blocks = g.n.div_ceil(BLOCK as u32);
            for stretch in stretches(blocks, weight.len / blocks, bytes.saturating_mul(4))? {
                let (start, end) = (stretch.start * BLOCK as u32, (stretch.end * BLOCK as u32).min(g.n));
                let tile = |tile: &Tile| part_of_tile(tile, blocks, &stretch);
                let instruction = Instruction::QDense {
                    geometry: QDense { n: end - start, ..*g },
                    input: *input,
                    weight: tile(weight),
                    bias: tile(bias),
                    scale: tile(scale),
                    to: *to,
                    out: Region { start: draft.part(out.start, start, end - start), len: end - start, ..*out },
                };
                draft.instructions.push(instruction);
            }
            Some(())
        }
        Instruction::Dense { geometry, input, weight, bias, residual, activation, out } => {
            let blocks = geometry.n.div_ceil(BLOCK as u32);
            for stretch in stretches(blocks, weight.len / blocks, bytes)? {
                let columns = stretch.start * BLOCK as u32..(stretch.end * BLOCK as u32).min(geometry.n);
                let tile = |tile: &Tile| part_of_tile(tile, blocks, &stretch);
                let dense = Columns { whole: geometry, columns, input: *input, activation: *activation };
                dense.emit(draft, tile(weight), bias.as_ref().map(tile), *residual, *out);
            }
            Some(())
        }
        _ => None,
    }
}

/// Equal stretches of `units`, each of `len` weights, that take at most `bytes`; `None` when one stretch holds all.
fn stretches(units: u32, len: u32, bytes: u64) -> Option<impl Iterator<Item = Range<u32>>> {
    let most = u32::try_from(bytes / (u64::from(len) * 4)).unwrap_or(u32::MAX).clamp(1, units);
    if most == units {
        return None;
    }
    let mut size = units.div_ceil(units.div_ceil(most));
    // Kernels take blocks two at a time.
    if size > 1 && size < most {
        size = size.next_multiple_of(2);
    } else if size > 1 {
        size -= size % 2;
    }
    Some((0..units).step_by(size as usize).map(move |start| start..(start + size).min(units)))
}

/// Units `range` of a tile that holds `count` of them.
fn part_of_tile(tile: &Tile, count: u32, range: &Range<u32>) -> Tile {
    let len = tile.len / count;
    Tile { start: tile.start + range.start * len, len: (range.end - range.start) * len, ..*tile }
}

/// What a convolution can be cut into.
struct Unit {
    count: u32,
    /// Output channels of one, but for the last.
    channels: u32,
    /// Groups of one; 0: all share the one group.
    groups: u32,
}

impl Unit {
    fn of(geometry: &Conv2d) -> Option<Self> {
        let Conv2d { groups, ic, oc, .. } = *geometry;
        let block = BLOCK as u32;
        match groups {
            1 => Some(Self { count: oc.div_ceil(block), channels: block, groups: 0 }),
            _ if groups == ic && groups == oc => {
                Some(Self { count: oc.div_ceil(block), channels: block, groups: block })
            }
            _ if (oc / groups).is_multiple_of(block) && (ic / groups).is_multiple_of(block) => {
                Some(Self { count: groups, channels: oc / groups, groups: 1 })
            }
            _ => None,
        }
    }
}

struct Conv<'a> {
    geometry: &'a Conv2d,
    input: &'a Operand,
    out: Region,
    unit: Unit,
}

impl Conv<'_> {
    fn channels(&self, units: &Range<u32>) -> u32 {
        (units.end * self.unit.channels).min(self.geometry.oc) - units.start * self.unit.channels
    }

    fn geometry(&self, units: &Range<u32>) -> Conv2d {
        let Conv2d { groups, ic, oc, .. } = *self.geometry;
        let channels = self.channels(units);
        if self.unit.groups == 0 {
            return Conv2d { oc: channels, ..*self.geometry };
        }
        let (per_output, per_input) = (oc / groups, ic / groups);
        let groups = channels / per_output;
        Conv2d { groups, ic: groups * per_input, oc: channels, ..*self.geometry }
    }

    fn output(&self, draft: &mut Draft, region: Region, units: &Range<u32>) -> Region {
        part(draft, region, self.unit.count, self.out.len / self.unit.count, units)
    }

    fn input(&self, draft: &mut Draft, units: &Range<u32>) -> Operand {
        match self.input {
            Operand::Arena(region) if self.unit.groups > 0 => {
                Operand::Arena(part(draft, *region, self.unit.count, region.len / self.unit.count, units))
            }
            other => *other,
        }
    }
}

/// Units `range` of a region that holds `count` of `len` elements each.
fn part(draft: &mut Draft, region: Region, count: u32, len: u32, range: &Range<u32>) -> Region {
    debug_assert_eq!(count * len, region.len);
    let len = |units: u32| units * len;
    let size = len(range.end - range.start);
    Region { start: draft.part(region.start, len(range.start), size), len: size, ..region }
}

/// A stretch of the columns of a product.
struct Columns<'a> {
    whole: &'a Dense,
    columns: Range<u32>,
    input: Operand,
    activation: Option<UnaryOp>,
}

impl Columns<'_> {
    /// One row's columns are contiguous. Of several rows, the stretch is computed in memory of its own and copied.
    fn emit(&self, draft: &mut Draft, weight: Tile, bias: Option<Tile>, residual: Option<Region>, out: Region) {
        let Dense { m, n, .. } = *self.whole;
        let (start, width) = (self.columns.start, self.columns.end - self.columns.start);
        let geometry = Dense { n: width, ..*self.whole };
        let dense = |residual, out| Instruction::Dense {
            geometry,
            input: self.input,
            weight,
            bias,
            residual,
            activation: self.activation,
            out,
        };
        if m == 1 {
            let residual = residual.map(|it| Region { start: draft.part(it.start, start, width), len: width, ..it });
            let out = Region { start: draft.part(out.start, start, width), len: width, ..out };
            draft.instructions.push(dense(residual, out));
            return;
        }
        let region = |slot| Region { dtype: DType::F32, start: slot, len: m * width };
        let narrow = region(draft.slot(DType::F32, m * width));
        let signed = |value: u32| u32_to_i32(value);
        let rows = |from, from_row: u32, to, to_row: u32| StridedCopy {
            dims: vec![m, width],
            from,
            from_strides: vec![signed(from_row), 1],
            to,
            to_strides: vec![to_row, 1],
        };
        let taken = residual.map(|residual| {
            let taken = region(draft.slot(DType::F32, m * width));
            let geometry = rows(start, n, 0, width);
            draft.instructions.push(Instruction::Copy { geometry, input: Operand::Arena(residual), out: taken });
            taken
        });
        draft.instructions.push(dense(taken, narrow));
        let geometry = rows(0, width, start, n);
        draft.instructions.push(Instruction::Copy { geometry, input: Operand::Arena(narrow), out });
    }
}

fn u32_to_i32(value: u32) -> i32 {
    crate::context::to_i32(value as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_are_even_and_cover_everything_once() {
        for units in 1..40 {
            for most in 1..44 {
                let Some(found) = stretches(units, 16, u64::from(most) * 64) else {
                    assert!(most >= units);
                    continue;
                };
                let found: Vec<_> = found.collect();
                assert!(found.len() > 1 && found[0].start == 0 && found[found.len() - 1].end == units);
                assert!(found.windows(2).all(|pair| pair[0].end == pair[1].start));
                assert!(found.iter().all(|it| it.len() <= most as usize), "{units} by {most}: {found:?}");
                assert!(found[0].len() == 1 || found[0].len() % 2 == 0);
            }
        }
    }
}
