//! Bytes times constant packed weights.
#![cfg_attr(
    not(test),
    expect(clippy::indexing_slicing, reason = "within lengths that the caller has checked: see the crate's page")
)]
#![allow(
    clippy::needless_range_loop,
    reason = "accumulators stay in registers only when indexed by loops of constant length"
)]

use super::tile::{self, Cell, Finish, Panel, accumulate, each};
use super::{QDense, Residual, Target};
use crate::arch::{Dot, DotKernel};
use crate::parallel::Compute;
use crate::tile::{Tiling, with_rows};
use core::ops::Range;

/// `input` holds [`QDense::input_len`] bytes, `weight` [`QDense::weight_len`], `bias` and `scale`
/// [`QDense::channels_len`] elements, `out` [`QDense::output_len`] bytes. `bias` counts modulo 2^32.
#[allow(clippy::too_many_arguments, reason = "the instruction has that many operands")]
pub fn dense(
    compute: Compute,
    geometry: &QDense,
    input: &[u8],
    weight: &[u8],
    bias: &[i64],
    scale: &[f32],
    to: Target,
    out: &mut [u8],
) {
    let g = geometry;
    assert!(g.k > 0 && g.n > 0, "validated: extents are not zero");
    assert_eq!(Some(input.len() as u64), g.input_len(), "validated: dense's input length");
    assert_eq!(Some(weight.len() as u64), g.weight_len(), "validated: dense's weight length");
    assert_eq!(Some(bias.len() as u64), g.channels_len(), "validated: dense's bias length");
    assert_eq!(Some(scale.len() as u64), g.channels_len(), "validated: dense's scale length");
    assert_eq!(Some(out.len() as u64), g.output_len(), "validated: dense's output length");
    let finish = Finish::new(to, Residual::None);
    let cost = u64::from(g.m).saturating_mul(weight.len() as u64);
    let operands = Operands { g, input, weight, bias, scale, finish };
    let part = |rows: Range<usize>, blocks: Range<usize>, out: &mut [u8]| {
        compute.set.dispatch_integer(Dense { o: &operands, rows, blocks, out });
    };
    // One row is cut into blocks of columns, several into rows; either way ranges of the output are contiguous.
    let n = g.n as usize;
    if g.m == 1 && n.is_multiple_of(16) {
        compute.split(out, 16, cost, |blocks, out| part(0..1, blocks, out));
    } else {
        compute.split(out, n, cost, |rows, out| part(rows, 0..n.div_ceil(16), out));
    }
}

struct Operands<'a> {
    g: &'a QDense,
    input: &'a [u8],
    weight: &'a [u8],
    bias: &'a [i64],
    scale: &'a [f32],
    finish: Finish<'a>,
}

struct Dense<'a, 'b> {
    o: &'a Operands<'a>,
    rows: Range<usize>,
    blocks: Range<usize>,
    /// `(rows, columns of the blocks)`.
    out: &'b mut [u8],
}

impl DotKernel for Dense<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<D: Dot>(self, d: D) {
        let Dense { o, rows, blocks, out } = self;
        let tiling = Tiling::new(rows.len(), D::HEIGHTS);
        let columns = (blocks.end * 16).min(o.g.n as usize) - blocks.start * 16;
        let mut block = blocks.start;
        while block < blocks.end {
            let left = blocks.end - block;
            // With one row, several blocks are all that hides latency.
            let together = match rows.len() {
                1 if D::BLOCKS >= 2 && left >= 4 => 4,
                1 if left >= 2 => 2,
                _ if D::BLOCKS >= 2 && left >= 2 => 2,
                _ => 1,
            };
            for tile in 0..tiling.len() {
                let (start, end) = (tiling.start(tile), tiling.start(tile + 1));
                let first = rows.start + start;
                let (at, column) = (start * columns, (block - blocks.start) * 16);
                let out = &mut *out;
                match (together, end - start) {
                    (1, count) => {
                        with_rows!(D, count, R => d.call(Tile::<R, 1> { o, first, block, column, at, columns, out }))
                    }
                    (2, 1) => d.call(Tile::<1, 2> { o, first, block, column, at, columns, out }),
                    (2, count) if const { D::BLOCKS >= 2 } => {
                        with_rows!(D, count, R => d.call(Tile::<R, 2> { o, first, block, column, at, columns, out }))
                    }
                    _ => d.call(Tile::<1, 4> { o, first, block, column, at, columns, out }),
                }
            }
            block += together;
        }
    }
}

/// `R` rows times `B` blocks of columns.
struct Tile<'a, 'b, const R: usize, const B: usize> {
    o: &'a Operands<'a>,
    /// First row of the input.
    first: usize,
    /// First block of the weights.
    block: usize,
    /// First column of `out`.
    column: usize,
    /// Where the first row begins in `out`.
    at: usize,
    /// Columns of `out`.
    columns: usize,
    out: &'b mut [u8],
}

impl<const R: usize, const B: usize> DotKernel for Tile<'_, '_, R, B> {
    type Output = ();

    #[inline(always)]
    fn run<D: Dot>(self, d: D) {
        let Tile { o, first, block, column, at, columns, out } = self;
        let k = o.g.k as usize;
        let all: &[Panel<4>] = o.weight.as_chunks::<64>().0.as_chunks::<4>().0;
        let inner = k.div_ceil(16);
        let mut rows: [&[Cell<4>]; R] = [&[]; R];
        // The last cell may lack channels; they meet weights of zero. It is copied before there are sums, which a call would
        // send through memory.
        let mut last = [[[0; 4]; 4]; R];
        for r in 0..R {
            let row = &o.input[(first + r) * k..(first + r + 1) * k];
            rows[r] = &row.as_chunks::<4>().0.as_chunks::<4>().0[..k / 16];
            last[r].as_flattened_mut()[..k % 16].copy_from_slice(&row[k / 16 * 16..]);
        }
        let mut sums = [[d.start(&[0; 16]); R]; B];
        let mut weights = [all; B];
        for b in 0..B {
            sums[b] = [d.start(&tile::bias(o.bias, block + b)); R];
            weights[b] = &all[(block + b) * inner..(block + b + 1) * inner];
        }
        for at in 0..k / 16 {
            let mut cells = [&rows[0][at]; R];
            for r in 1..R {
                cells[r] = &rows[r][at];
            }
            accumulate(d, &mut sums, cells, panels(&weights, at));
        }
        if !k.is_multiple_of(16) {
            let mut cells = [&last[0]; R];
            for r in 1..R {
                cells[r] = &last[r];
            }
            accumulate(d, &mut sums, cells, panels(&weights, inner - 1));
        }
        let mut bytes = [[[0; 16]; R]; B];
        each!(b < B => {
            let scale = tile::scale(o.scale, block + b);
            o.finish.store(d, &sums[b], scale, 0, bytes[b].as_flattened_mut());
        });
        for b in 0..B {
            let width = (columns - column - b * 16).min(16);
            for r in 0..R {
                let to = &mut out[at + r * columns + column + b * 16..][..width];
                match to.first_chunk_mut() {
                    Some(to) => *to = bytes[b][r],
                    None => to.copy_from_slice(&bytes[b][r][..width]),
                }
            }
        }
    }
}

/// The weights of each block at one place.
#[inline(always)]
fn panels<'a, const B: usize>(weights: &[&'a [Panel<4>]; B], at: usize) -> [&'a Panel<4>; B] {
    let mut panels = [&weights[0][at]; B];
    for b in 1..B {
        panels[b] = &weights[b][at];
    }
    panels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KernelSet;
    use crate::quant::reference::{Rounding, target};
    use crate::test_support::{Rng, len};
    use alloc::vec;
    use alloc::vec::Vec;

    #[test]
    fn every_shape_is_exact_on_every_set() {
        let mut rng = Rng(76);
        for round in 0..60 {
            let m = if round % 2 == 0 { 1 } else { 1 + rng.below(19) as u32 };
            let g = QDense { m, k: 1 + rng.below(90) as u32, n: 1 + rng.below(150) as u32 };
            let input: Vec<u8> = (0..len(g.input_len())).map(|_| rng.next() as u8).collect();
            let (k, n) = (g.k as usize, g.n as usize);
            let plain: Vec<i8> = (0..k * n).map(|_| rng.next() as i8).collect();
            let mut weight = vec![0; len(g.weight_len())];
            for (at, &w) in plain.iter().enumerate() {
                let (i, j) = (at / n, at % n);
                weight[((j / 16 * k.div_ceil(16) + i / 16) * 4 + i % 16 / 4) * 64 + j % 16 * 4 + i % 4] = w as u8;
            }
            let bias: Vec<i64> = (0..len(g.channels_len())).map(|_| rng.below(2000) as i64 - 1000).collect();
            let scale: Vec<f32> = bias.iter().map(|_| rng.range(0.000_5, 0.01)).collect();
            let to = target(&mut rng);
            let mut expected = Vec::new();
            for (i, j) in (0..m as usize).flat_map(|i| (0..n).map(move |j| (i, j))) {
                let products = (0..k).map(|l| i64::from(input[i * k + l]) * i64::from(plain[l * n + j]));
                expected.push(to.round((bias[j] + products.sum::<i64>()) as f32 * scale[j]));
            }
            for set in KernelSet::all_with_integers() {
                let mut out = vec![7; expected.len()];
                dense(set.into(), &g, &input, &weight, &bias, &scale, to, &mut out);
                assert_eq!(out, expected, "{} {g:?}", set.integer_name());
            }
        }
    }

    #[test]
    fn bias_counts_modulo_two_to_the_32() {
        let g = QDense { m: 1, k: 1, n: 1 };
        let mut weight = vec![0; 256];
        weight[0] = 1;
        let mut bias = vec![0; 16];
        bias[0] = (1 << 32) - 2;
        let mut out = [0];
        dense(KernelSet::PORTABLE.into(), &g, &[5], &weight, &bias, &[1.0; 16], Target::new(0), &mut out);
        assert_eq!(out, [3]);
    }
}
